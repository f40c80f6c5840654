"""Compare: a run with its card or other runs: numbers, intervals, verdict, and reasons; downloads."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cached
import pandas as pd
import parts
import streamlit as st

from workbench.errors import DataError, WorkbenchError
from workbench.evaluation.examples import unit
from workbench.report.export import report_page
from workbench.run import Run
from workbench.views.figures import metric_bars, metric_name, metric_names, name_metrics
from workbench.views.figures_map import query_scatter
from workbench.views.overview import short_names
from workbench.views.queries import DOWNLOADS, download, group_names
from workbench.views.summary import MEANINGS, metric_row

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

RUNS_MEANINGS = {
    "differs": "The other run's main metric differs significantly from the first one's.",
    "no significant difference": "On these queries, the two runs do not differ significantly.",
    "not comparable": "The two runs were not measured on the same thing.",
}
FORMS = {
    "csv": ("Queries (CSV)", "csv", "One row per query: text, relevant documents, ranks, metrics"),
    "parquet": ("Queries (Parquet)", "parquet", "The same, with types"),
    "trec": ("Ranking (TREC run)", "run", "What trec_eval, ir-measures and ranx read"),
    "qrels": ("Judgments (TREC qrels)", "qrels", "Relevance judgments for the ranking"),
}


def columns(first: str, last: str, with_card: bool) -> "dict[str, ColumnConfig]":
    """Headings of the metrics table; `before` and `after` are the two runs where runs are compared."""
    number = partial(st.column_config.NumberColumn, format="%.4f", width=80)
    found: dict[str, ColumnConfig] = {
        "run": st.column_config.TextColumn("With", help="The run that is compared with the first", width=310),
        "metric": st.column_config.TextColumn(
            "Metric", help="A mean over queries; * marks the main one. " + parts.ABBREVIATIONS, pinned=True
        ),
    }
    if with_card:
        found["card"] = number("Card", help="The number on the card")
    return {
        **found,
        "before": number(first, help="The base model, before training" if with_card else "The run chosen first"),
        "after": number(last, help="The trained model" if with_card else "The run it is compared with"),
        "low": number("Low", help=f"Lower end of the 95% CI of {last}, over queries"),
        "high": number("High", help=f"Upper end of the 95% CI of {last}, over queries"),
        "difference": number("Difference", format="%+.4f", width=95, help=f"{last} minus {first}"),
        "p_holm": number("p", help="p value of the paired randomization test, Holm-corrected for all metrics"),
        "wins": st.column_config.NumberColumn("Wins", help=f"Queries for which {last} is better"),
        "losses": st.column_config.NumberColumn("Losses", help=f"Queries for which {last} is worse"),
        "verdict": st.column_config.TextColumn("Verdict"),
        "reason": st.column_config.TextColumn("Reason", width="large"),
    }


def verdict(found: dict[str, Any], others: int) -> None:
    word = str(found.get("verdict") or "")
    meaning = RUNS_MEANINGS.get(word, "") if others else MEANINGS.get(word, ("", ""))[1]
    if others > 1 and word == "differs":
        meaning = "The main metric of at least one other run differs significantly from the first one's."
    with st.container(border=True, gap="xsmall"):
        parts.verdict(word)
        if meaning:
            st.text(meaning)
        for reason in found.get("reasons") or []:
            st.text(f"· {name_metrics(reason, metrics_of(found))}")


def names_of(run: Run, others: Sequence[Run]) -> tuple[str, str]:
    """Names of the two sides: stages, the variants of one recipe, or first and other."""
    if not others:
        return "Before", "After"
    rows = [cached.row(each) for each in (run, *others)]
    words = [str(row.variant or "").capitalize() for row in rows]
    if len(rows) == 2 and rows[0].card == rows[1].card and all(words) and words[0] != words[1]:
        return words[0], words[1]
    return "First", "Other"


def numbers(found: dict[str, Any], run: Run, others: Sequence[Run]) -> None:
    """The metrics as figure and table, the main one marked."""
    main = found.get("main_metric")
    rows = sorted(found.get("rows") or [], key=lambda row: row["metric"] != main)  # the main one first
    if not rows:
        parts.empty("Nothing measured", "This comparison holds no metric.")
        return
    first, last = names_of(run, others)
    names = metric_names(metrics_of(found))
    if len(others) < 2:
        marks = [replace(metric_row(row), metric=names[row["metric"]]) for row in rows]
        title = axis([row["metric"] for row in rows], unit(run, str(found.get("evaluation"))))
        parts.chart(metric_bars, marks, key="bars", names=(first, last), title=title)
    table = pd.DataFrame(rows)
    table["metric"] = [names[str(name)] + (" *" if name == main else "") for name in table["metric"]]
    config = columns(first, last, with_card=not others)
    shown = [name for name in config if name in table and (name != "run" or len(others) > 1)]
    said = [str(reason or "") for reason in table.get("reason", ())]
    if not any(said) or all(reason in (found.get("reasons") or []) for reason in said):
        shown = [name for name in shown if name != "reason"]  # already shown above, for all of them
    height: Any = "content" if len(table) < 20 else 560
    st.dataframe(table[shown], column_config=config, hide_index=True, placeholder="–", height=height)
    for note in found.get("notes") or []:
        st.text(name_metrics(note, names))


def metrics_of(found: dict[str, Any]) -> list[str]:
    return [str(row["metric"]) for row in found.get("rows") or []]


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
            name = st.selectbox("Against", list(names), key="against", bind="query-params", width=420)
        else:
            name = others[0].name
        if evaluation is None or not group_names(run, evaluation):
            st.text("These runs were not measured query by query.")
            return
        metrics = cached.query_metrics(run, evaluation)
        metric = st.selectbox(
            "Metric of each query", metrics, key="metric", bind="query-params", format_func=metric_name, width=220
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
        st.dataframe(table[list(config)].head(200), column_config=config, hide_index=True, height=430)
        shown = "The 200 largest differences." if len(table) > 200 else "Largest difference first."
        st.caption(f"{shown} Above the diagonal: {sides[1].lower()} is better.")


def downloads(run: Run, evaluation: str | None) -> None:
    """Each file is made when its button is pressed."""
    st.subheader("Downloads", anchor=False)
    report: Callable[[], bytes] = partial(report_page, run)
    with st.container(horizontal=True):
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
        each_run([run, *others], unit(run, str(found.get("evaluation"))))
    verdict(found, len(others))
    numbers(found, run, others)
    if others:
        parts.fragment(query_by_query, run, others, found.get("evaluation"))
        differences(run, others)
    downloads(run, found.get("evaluation"))


parts.title("Compare", "A run against the numbers on its card, or against other runs on the same queries.")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    left, right = st.columns([2, 3])
    with left:
        run = parts.choose_run(runs)
    names = [other.name for other in runs if run is None or other.name != run.name]
    if "with" in st.session_state:
        st.session_state["with"] = [name for name in st.session_state["with"] if name in names]
    with right:
        against = st.multiselect("With", names, key="with", bind="query-params", placeholder="its card")
    if run is not None:
        try:
            by_name = {other.name: other for other in runs}
            show(run, [by_name[name] for name in against])
        except WorkbenchError as error:
            parts.problem("These cannot be compared.", str(error))
