"""Compare: a run with its card or other runs: numbers, intervals, verdict, and reasons; downloads."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import actions
import address
import cached
import pandas as pd
import parts
import streamlit as st

from workbench.cards.metric_names import metric_name, metric_names, name_metrics
from workbench.errors import DataError, WorkbenchError
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.rankings import agreement_scope, agreement_table
from workbench.report.archive import run_archive, site_archive
from workbench.report.export import report_page
from workbench.run import Run
from workbench.views.answers import better_than_the_base, repeated_metrics
from workbench.views.figures import after_value, metric_bars
from workbench.views.figures_map import query_scatter
from workbench.views.overview import short_names
from workbench.views.queries import DOWNLOADS, download, group_names
from workbench.views.records import format_p_value
from workbench.views.summary import card_verdict, runs_verdict

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

ARCHIVE_HELP = "Report (HTML, Markdown, PDF), model card, findings, rankings, queries, recipe, log, comparison"
FORMS = {
    "csv": (
        "Queries (CSV)",
        "csv",
        "One row per query: text, relevant documents, ranks, metrics before and after, change",
    ),
    "parquet": ("Queries (Parquet)", "parquet", "The same, with types"),
    "trec": ("Ranking (TREC run)", "run", "What trec_eval, ir-measures and ranx read"),
    "qrels": ("Judgments (TREC qrels)", "qrels", "Relevance judgments for the ranking"),
}


def number_columns(names: Iterable[str], help: str = "") -> "dict[str, ColumnConfig]":
    """Headings of columns of numbers that have no other settings."""
    return {name: st.column_config.NumberColumn(name, format="%.4f", width=80, help=help) for name in names}


def metric_column(measured: str) -> "ColumnConfig":
    help = f"Over {measured}; * marks the main one. {parts.ABBREVIATIONS}"
    return st.column_config.TextColumn("Metric", help=help, pinned=True)


def card_columns(found: Comparison) -> "dict[str, ColumnConfig]":
    """Headings of the table of a card's numbers and the run's."""
    number = partial(st.column_config.NumberColumn, format="%.4f", width=80)
    several = len(found.seeds) > 1
    after = number("After", help="The trained model")
    if several:
        after = number(f"Mean of {len(found.seeds)}", width=90, help="Mean of the trainings, each with another seed")
    return {
        "metric": metric_column(found.unit),
        "card": number("Card", help="The number on the card"),
        "before": number("Before", help="The base model, before training"),
        "after": after,
        **({"deviation": number("SD", help="Standard deviation between the trainings")} if several else {}),
        "card_difference": number("Card − ours", format="%+.4f", width=95),
        "card_low": number("Low", format="%+.4f", help="Lower end of the 95% CI of card − ours"),
        "card_high": number("High", format="%+.4f", help="Upper end of the 95% CI of card − ours"),
        "detectable": number("Not excluded", width=105, help="The largest error of the card that these runs allow"),
        "margin": number("Margin", format="±%g", help="Within it the card's number counts as reproduced"),
        "verdict": st.column_config.TextColumn("Verdict", width=155),
        "reason": st.column_config.TextColumn("Reason", width="large"),
    }


def change_columns(first: str, last: str, measured: str) -> "dict[str, ColumnConfig]":
    """Headings of the table of changes: by training, or from the first run to another."""
    number = partial(st.column_config.NumberColumn, format="%.4f", width=80)
    return {
        "run": st.column_config.TextColumn("With", help="The run that is compared with the first", width=310),
        "metric": metric_column(measured),
        "before": number(first),
        "after": number(last),
        "difference": number(f"{last} − {first.lower()}", format="%+.4f", width=110),
        "difference_low": number("Low", format="%+.4f", help="Lower end of the 95% CI of the difference"),
        "difference_high": number("High", format="%+.4f", help="Upper end of the 95% CI of the difference"),
        "p_adjusted": st.column_config.TextColumn(
            "p", width=70, help="Paired randomization test, adjusted for all metrics (max-T)"
        ),
        "wins": st.column_config.NumberColumn("Better", help=f"{measured} for which {last} is better", width=70),
        "ties": st.column_config.NumberColumn("Equal", width=70),
        "losses": st.column_config.NumberColumn("Worse", help=f"{measured} for which {last} is worse", width=70),
        "verdict": st.column_config.TextColumn("Verdict", width=180),
        "reason": st.column_config.TextColumn("Reason", width="large"),
    }


def verdict(found: Comparison) -> None:
    """The two answers on a run, or the verdict on several."""
    if found.kind == "card":
        left, right = st.columns([2, 3])
        with left:
            parts.answer(better_than_the_base(found))
        with right:
            parts.verdict(card_verdict(found), "Reproduces the card?")
        return
    reasons = [name_metrics(each, metrics_of(found)) for each in found.reasons]
    shown = runs_verdict(found.verdict, found.main_metric, "the first", len(found.names) - 1, reasons)
    parts.verdict(replace(shown, sentence=found.sentence, facts=tuple(found.facts("−").items())))


def names_of(run: Run, others: Sequence[Run]) -> tuple[str, str]:
    """Names of the two sides: stages, the variants of one recipe, or first and other."""
    if not others:
        return "Before", "After"
    rows = [cached.row(each) for each in (run, *others)]
    words = [str(row.variant or "").capitalize() for row in rows]
    if len(rows) == 2 and rows[0].card == rows[1].card and all(words) and words[0] != words[1]:
        return words[0], words[1]
    return "First", "Other"


def numbers(found: Comparison, run: Run, others: Sequence[Run]) -> None:
    """The metrics as figure and tables, the main one marked."""
    rows = sorted(found.rows, key=lambda row: row.metric != found.main_metric)  # the main one first
    if not rows:
        parts.empty("Nothing measured", "This comparison holds no metric.")
        return
    first, last = names_of(run, others)
    names = metric_names(metrics_of(found))
    repeated = repeated_metrics(rows, found.main_metric)
    told = [row for row in rows if row.metric not in repeated]
    if len(others) < 2:
        marks = [replace(row, metric=names[row.metric]) for row in told]
        title = axis([row.metric for row in rows], found.unit)
        parts.chart(metric_bars, marks, key="bars", names=(first, last), title=title)
    changes, several = change_columns(first, last, found.unit), len(others) > 1
    columns = changes if several else without(changes, "run") if others else card_columns(found)
    if several:
        by_baseline(told, names)
    else:
        show_table(table_of(told, found, names), columns, found)
    if not others:
        of_run = table_of(told, found, names, means=False)
        judged = any(row.card_difference is not None for row in rows)
        with st.expander("Change by training" + ", of this run" * (len(found.seeds) > 1), expanded=not judged):
            show_table(of_run, without(changes, "run", "verdict", "reason"), found)
    if several or repeated:
        hidden = [row for row in rows if several or row.metric in repeated]
        label = "Every metric of every run" if several else f"{len(hidden)} metrics that repeat these"
        with st.expander(label):
            show_table(table_of(hidden, found, names), columns, found)
    if len(found.seeds) > 1:
        with st.expander("Every seed"):
            each_seed(found, rows, names)
    for note in found.notes:
        st.text(name_metrics(note, names))


def without(columns: "dict[str, ColumnConfig]", *names: str) -> "dict[str, ColumnConfig]":
    return {name: column for name, column in columns.items() if name not in names}


def table_of(
    rows: Sequence[MetricRow], found: Comparison, names: dict[str, str], *, means: bool = True
) -> pd.DataFrame:
    """Rows as a table, the main metric marked; of several seeds their mean stands for after."""
    shown = [replace(row, after=after_value(row)) if means else row for row in rows]
    table = pd.DataFrame([asdict(row) for row in shown])
    table["metric"] = [names[name] + (" *" if name == found.main_metric else "") for name in table["metric"]]
    return table.drop(columns="deviation") if means and len(found.seeds) == 1 else table  # assumed


def by_baseline(rows: Sequence[MetricRow], names: dict[str, str]) -> None:
    """How far each run is from the first, by metric."""
    table = pd.DataFrame([{"Run": row.run, "metric": names[row.metric], "change": row.difference} for row in rows])
    wide = table.pivot(index="Run", columns="metric", values="change")
    wide = wide.reindex(index=table["Run"].drop_duplicates(), columns=table["metric"].drop_duplicates()).round(4)
    number = partial(st.column_config.NumberColumn, format="%+.4f", width=95)
    config: dict[Any, ColumnConfig] = {"Run": st.column_config.TextColumn(width=310, pinned=True)}
    config |= {name: number(str(name)) for name in wide}
    st.dataframe(wide + 0.0, column_config=config, placeholder="–", height="content")
    st.caption("Each run minus the baseline, the first run; the main metric comes first.")


def show_table(table: pd.DataFrame, config: "dict[str, ColumnConfig]", found: Comparison) -> None:
    """The columns of `config` that have a value; reasons only where they are not above already."""
    said = set(found.reasons) | {""}
    table = parts.unsigned_zeros(table, config)
    if "p_adjusted" in table:
        table["p_adjusted"] = [None if pd.isna(p) else format_p_value(p) for p in table["p_adjusted"]]
    shown = [name for name in config if name in table and table[name].notna().any()]
    if "reason" in shown and set(table["reason"].fillna("")) <= said:
        shown.remove("reason")
    if "margin" in shown and "detectable" in config and "detectable" not in shown:
        shown.remove("margin")  # the replay decides
    height: Any = "content" if len(table) < 20 else 560
    st.dataframe(table[shown], column_config=config, hide_index=True, placeholder="–", height=height)


def each_seed(found: Comparison, rows: Sequence[MetricRow], names: dict[str, str]) -> None:
    """Every training's number, a column for each seed."""
    seeds = [str(seed) for seed in found.seeds]
    table = pd.DataFrame(
        [{"metric": names[row.metric], **dict(zip(seeds, row.values, strict=False))} for row in rows if row.values]
    )
    config = {"metric": metric_column(found.unit), **number_columns(seeds, "After training with this seed")}
    st.dataframe(table, column_config=config, hide_index=True, placeholder="–", height="content")


def rankings(found: Comparison) -> None:
    """How far the rankings agree, a row for each measure."""
    if not found.rankings:
        return
    st.subheader("Rank agreement", anchor=False)
    columns = [each.other for each in found.rankings] if len(found.rankings) > 1 else ["Value"]
    table = pd.DataFrame(
        [
            {"Measure": measure, **dict(zip(columns, values, strict=True)), "How to read it": meaning}
            for measure, values, meaning in agreement_table(found.rankings)
        ]
    )
    width = 80 if len(columns) == 1 else 310  # names of runs
    config = {name: st.column_config.NumberColumn(format="%.4f", width=width) for name in columns}
    config["How to read it"] = st.column_config.TextColumn(width="large")
    st.dataframe(table, column_config=config, hide_index=True, placeholder="–", height="content")
    st.caption(f"The {agreement_scope(found.rankings)}.")


def replay(found: Comparison) -> None:
    """The card's logged and printed numbers beside the run's."""
    if found.replay is None:
        return
    one = found.replay
    st.subheader(one.heading, anchor=False)
    st.markdown(f"**:{'green' if one.verdict == 'reproduced exactly' else 'gray'}[{one.word}]**")
    st.text(" ".join([one.sentence, *([f"{one.agreeing}."] if one.numbers else [])]))
    if not one.numbers:
        return
    rows = one.shown()
    with st.expander(f"{len(rows):,} numbers", expanded=one.first is not None):
        table = pd.DataFrame(
            {
                "Number": [each.name for each in rows],
                "When": [each.when for each in rows],
                "Line": [each.line for each in rows],
                "Card": [each.card for each in rows],
                "Ours": [each.ours for each in rows],
                "Card − ours": [round(each.difference, 6) + 0.0 for each in rows],
                "Equal": [each.equal for each in rows],
            }
        )
        number = st.column_config.NumberColumn
        config = {
            "Line": number(help="Line of the card", width=60),
            "Card": number(format="%.6f", help="Most cards print four places"),
            "Ours": number(format="%.6f"),
            "Card − ours": number(format="%+.6f"),
            "Equal": st.column_config.CheckboxColumn(help="Equal as printed: within half of the last digit"),
        }
        height: Any = "content" if len(rows) < 20 else 560
        st.dataframe(table, column_config=config, hide_index=True, placeholder="–", height=height)


def metrics_of(found: Comparison) -> list[str]:
    return [row.metric for row in found.rows]


def axis(metrics: Iterable[str], measured: str) -> str:
    """What the axis of metrics shows, with its range."""
    if all("spearman" in metric or "pearson" in metric for metric in metrics):
        return f"Correlation over {measured} (−1 to 1)"
    return f"Mean over {measured} (0 to 1)"


def each_run(runs: Sequence[Run], measured: str) -> None:
    """The main metric of every selected run with its card's number."""
    rows = [cached.row(run) for run in runs]
    names = short_names(rows)
    marks = [replace(row.main, metric=names[row.name]) for row in rows]
    metrics = {row.main.metric for row in rows if row.main.metric}
    named = metric_name(next(iter(metrics))) if len(metrics) == 1 else "Main metric of each run"
    parts.chart(metric_bars, marks, key="runs bars", title=f"{named}: {axis(metrics, measured).lower()}")


def worded(value: object) -> str:
    """A field of a recipe as text."""
    return "not set" if value is None else str(value)


def differences(run: Run, others: Sequence[Run]) -> None:
    """Recipe fields that differ from the first run's."""
    from workbench.recipe.schema import difference

    mine = run.recipe()
    found: dict[str, dict[str, str]] = {}
    for other in others:
        for path, first, theirs in difference(mine, other.recipe()):
            found.setdefault(path, {run.name: worded(first)})[other.name] = worded(theirs)
    st.subheader("Recipe differences", anchor=False)
    if found:
        table = pd.DataFrame([{"Field": path, **values} for path, values in found.items()])
        config = {"Field": st.column_config.TextColumn(width=260, pinned=True)}
        st.dataframe(table, hide_index=True, column_config=config, placeholder="as the first", height="content")
    else:
        st.text(f"None: {'both' if len(others) == 1 else 'all'} runs trained the same recipe.")


def query_by_query(run: Run, others: Sequence[Run], evaluation: str | None) -> None:
    """A metric of every query in two runs: a figure, and the largest differences as a table."""
    st.subheader("Per-query comparison", anchor=False)
    names = {other.name: other for other in others}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if len(others) > 1:
            name = address.choice(st.selectbox, "Against", list(names), key="against", width=420)
        else:
            name = others[0].name
        if evaluation is None or not all(group_names(each, evaluation) for each in (run, names[name])):
            st.text("These runs were not measured query by query.")
            return
        metrics = cached.query_metrics(run, evaluation)
        metric = address.choice(
            st.selectbox, "Metric of each query", metrics, key="metric", format_func=metric_name, width=220
        )
    table = cached.paired(run, evaluation, metric, str(names[name].path))
    if table.empty:
        parts.empty("No query in common", "The two runs have different queries, so none can be paired.")
        return
    short = short_names([cached.row(run), cached.row(names[name])])
    labels = (short[run.name], short[name])
    sides = names_of(run, [names[name]])
    left, right = st.columns([1, 1])
    with left:
        values = (table["first"].tolist(), table["second"].tolist(), table["query"].tolist())
        parts.chart(query_scatter, *values, key="scatter", names=labels, metric=metric_name(metric))
    number = partial(st.column_config.NumberColumn, format="%.3f", width=80)
    config = {
        "query": st.column_config.TextColumn("Query", width=300),
        "first": number(sides[0], help=labels[0][:80], width=98),
        "second": number(sides[1], help=labels[1][:80], width=98),
        "difference": number("Difference", format="%+.3f", help=f"{sides[1]} minus {sides[0]}", width=92),
    }
    with right:
        st.dataframe(
            parts.unsigned_zeros(table[list(config)].head(200), config),
            column_config=config,
            hide_index=True,
            height=430,
        )
        shown = "The 200 largest differences." if len(table) > 200 else "Largest difference first."
        st.caption(f"{shown} Above the diagonal: {sides[1].lower()} is better.")


def downloads(run: Run, others: Sequence[Run], evaluation: str | None) -> None:
    """Each file is made when its button is pressed."""
    st.subheader("Downloads", anchor=False)
    report: Callable[[], bytes] = partial(report_page, run)
    whole: Callable[[], bytes] = partial(run_archive, run)
    with st.container(horizontal=True):
        if others:
            site: Callable[[], bytes] = partial(site_archive, [run, *others])
            save("These runs as a site (zip)", site, f"{run.name}-site.zip", "application/zip", "A page for each run")
        save("All (zip)", whole, f"{run.name}.zip", "application/zip", ARCHIVE_HELP)
        save("Report (HTML)", report, f"{run.name}.html", "text/html", "The whole run on one page that works offline")
        if evaluation is not None and group_names(run, evaluation):
            for form, (label, ending, help) in FORMS.items():
                made: Callable[[], bytes] = partial(download, run, evaluation, "after", form)
                save(label, made, f"{run.name}-{evaluation}.{ending}", DOWNLOADS[form], help)


def save(label: str, made: Callable[[], bytes], name: str, kind: str, help: str) -> None:
    def whole() -> bytes:
        try:
            return made()
        except (DataError, WorkbenchError) as error:
            return f"This file cannot be made: {error}\n".encode()

    st.download_button(label, whole, name, kind, on_click="ignore", icon=":material/download:", help=help)


def show(run: Run, others: Sequence[Run]) -> None:
    found = cached.comparison(run, others)
    if others:
        each_run([run, *others], found.unit)
    verdict(found)
    if not others:
        actions.keep_comparison(run)
    numbers(found, run, others)
    if others:
        rankings(found)
        parts.fragment(query_by_query, run, others, found.evaluation)
        differences(run, others)
    else:
        replay(found)
    downloads(run, others, found.evaluation)


parts.title("Compare", "A run against the numbers on its card, or against other runs on the same queries.")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    left, right = st.columns([2, 3])
    with left:
        run = parts.choose_run(runs, label="Baseline" if st.query_params.get_all("with") else "Run")
    names = [other.name for other in runs if run is None or other.name != run.name]
    with right:
        against = address.choice(st.multiselect, "With", names, key="with", default=[], placeholder="its card")
    lost = parts.gone("run", [each.name for each in runs]) or parts.gone("with", names)
    if run is not None and not lost:
        for each in (run, *(other for other in runs if other.name in against)):
            parts.flag(cached.row(each))
        try:
            by_name = {other.name: other for other in runs}
            show(run, [by_name[name] for name in against])
        except WorkbenchError as error:
            parts.problem("These cannot be compared.", str(error))
