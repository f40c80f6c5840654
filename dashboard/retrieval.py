"""Retrieval: per-query rank changes, the two rankings of a query, groups of queries, a playground."""

from functools import partial
from typing import TYPE_CHECKING, Any

import address
import cached
import pandas as pd
import parts
import playground
import streamlit as st

from workbench.cards.metric_names import metric_name
from workbench.errors import RunError
from workbench.evaluation.examples import unit
from workbench.run import Run
from workbench.run_notes import read_query_notes, write_query_notes
from workbench.views.failures import CAUSES
from workbench.views.figures import per_query_difference, rank_changes
from workbench.views.figures_slices import slice_figure
from workbench.views.map_view import has_vectors
from workbench.views.queries import (
    TEXT_LIMIT,
    annotate,
    compared_evaluations,
    filter_queries,
    filters,
    group_names,
    queries_csv,
    query_outcomes,
)
from workbench.views.records import OUTCOMES

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

GLANCE = 300  # px, the figures of the queries in the table
VIEWS = ["queries", "groups", "playground"]
VECTORS = tuple(cached.VECTORS)
FORMER_FILTERS = {"got worse": "worse", "got better": "better", "lost from top 10": "lost", "never found": "all"}
"""Filters in the addresses of older versions."""
FILTER_HELP = " · ".join(f"{name}: {meaning}" for name, meaning in OUTCOMES.items())
CAUSE_HELP = "Why the first relevant document is not at rank 1. " + " · ".join(
    f"{name}: {meaning}" for name, meaning in CAUSES.items()
)
NOTES = ("causes", "tags", "note")  # columns that are shown if any row has one
GROUPS_HELP = (
    "fewer dimensions and quantized embeddings: the queries are ranked again by the stored vectors, truncated or "
    "quantized; nothing is encoded"
)


def number(name: str, **settings: Any) -> "ColumnConfig":
    return st.column_config.NumberColumn(name, **settings)


GROUP_COLUMNS: "dict[str, ColumnConfig]" = {
    "group": st.column_config.TextColumn("Group"),
    "moment": st.column_config.TextColumn("Stage"),
    "dimensions": number("Dimensions"),
    "precision": st.column_config.TextColumn("Precision", help="float32, int8, or binary"),
    "bytes": number("Bytes", format="localized", help="Of one vector"),
    "queries": number("Queries", format="localized"),
    "before": number("Before", format="%.4f"),
    "after": number("After", format="%.4f"),
    "difference": number("Difference", format="%+.4f", help="Mean of after − before"),
    "low": number("Low", format="%+.4f", help="Lower end of the 95% CI of the difference, over queries"),
    "high": number("High", format="%+.4f", help="Upper end of the 95% CI of the difference, over queries"),
}


def query_columns(metric: str, pairs: bool) -> "dict[str, ColumnConfig]":
    """Columns of the table of queries, or of pairs, which have scores instead of ranks."""
    name = metric_name(metric)
    notes: dict[str, ColumnConfig] = {
        "tags": st.column_config.ListColumn("Tags", width=120),
        "note": st.column_config.TextColumn("Note", width=160),
    }
    if pairs:
        right = "Agreement of the score with the gold label, 0 to 1"
        return {
            "query": st.column_config.TextColumn("Pair", width=420),
            "difference": number("Difference", format="%+.3f", help="Agreement after minus before", width=92),
            "before": number("Agreement before", format="%.3f", help=right, width=130),
            "after": number("Agreement after", format="%.3f", help=right, width=120),
            "gold": number("Gold", format="%.3f", help="The score in the data", width=70),
            "score_before": number("Score before", format="%.3f", help="By the base model", width=100),
            "score_after": number("Score after", format="%.3f", help="By the trained model", width=95),
            **notes,
        }
    rank = "Rank of the first relevant document, 1 is best; –: below the depth kept"
    return {
        "query": st.column_config.TextColumn("Query", width=380),
        "difference": number("Difference", format="%+.3f", help=f"{name} after minus before", width=92),
        "before": number(f"{name} before", format="%.3f", width=118, help=parts.ABBREVIATIONS),
        "after": number(f"{name} after", format="%.3f", width=112, help=parts.ABBREVIATIONS),
        "rank_before": number("Rank before", help=rank, width=96),
        "rank_after": number("Rank after", help=rank, width=90),
        "causes": st.column_config.MultiselectColumn(
            "Possible causes", options=list(CAUSES), width=200, help=CAUSE_HELP
        ),
        **notes,
        "words": number("Words", help="Length of the query in words", width=70),
        "answers": number("Relevant", help="Number of relevant documents", width=78),
    }


def open_query(run: Run, evaluation: str, row: pd.Series, tags: list[str]) -> None:
    """The query, its relevant documents, the reader's notes, and both rankings side by side."""
    found = cached.opened(run, evaluation, str(row["query_id"]))
    st.subheader("The pair" if "gold" in row else "The query", anchor=False)
    with st.container(border=True, gap="xsmall"):
        st.text(row["query"])
        st.caption("Relevant documents" if "gold" not in row else "Texts and gold score")
        for name, text in found.texts:
            st.text(f"{name}: {text}")
        if row.get("gold") == row.get("gold") is not None:
            st.text(f"gold: {row['gold']:g}")
        if has_vectors(run, evaluation):
            place = {"run": run.name, "on": evaluation, "pick": f"query:{row['query_id']}"}
            st.page_link("embeddings.py", label="Show on the map", icon=":material/bubble_chart:", query_params=place)
    take_notes(run, evaluation, row, tags)
    if not found.before and not found.after:
        return
    st.caption("Words of the query are underlined, except short ones.")
    parts.rankings(list(zip(parts.TITLES.values(), (found.before, found.after), strict=True)), row["query"])


def counts(table: pd.DataFrame, measured: str) -> None:
    """How many queries have each outcome."""
    meanings = {} if "gold" in table else OUTCOMES
    with st.container(horizontal=True, gap="large"):
        for each in filters(table):
            label = measured if each == "all" else each
            count = f"{len(filter_queries(table, each)):,}"
            st.metric(label.capitalize(), count, width="content", help=meanings.get(each, "").capitalize() or None)


def queries(run: Run, evaluation: str, metric: str) -> None:
    """The table of queries, filtered, and the selected query."""
    plain = cached.queries(run, evaluation, metric)
    pairs = "gold" in plain
    notes: dict[str, Any] = {}
    try:
        notes |= read_query_notes(run, evaluation)
    except RunError as error:
        parts.problem("The notes of this run cannot be read.", str(error))
    table = annotate(plain, {} if pairs else cached.causes(run, evaluation), notes)
    measured = unit(run, evaluation)
    counts(table, measured)
    tags = sorted({tag for found in table["tags"] for tag in found})
    causes = [cause for cause in CAUSES if any(cause in found for found in table["causes"])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        help = None if pairs else FILTER_HELP
        only = address.choice(
            st.selectbox, "Outcome", filters(table), key="only", former=FORMER_FILTERS, help=help, width=150
        )
        cause = choose("Possible cause", causes, "why", CAUSE_HELP)
        tag = choose("Tag", tags, "tag", "Tags that you gave to queries")
        words = address.choice(st.text_input, f"Find in {measured}", key="words", width=280)
    kept = filter_queries(table, only, words, cause=cause, tag=tag)
    if kept.empty:
        parts.empty("Nothing passes", f"None of the {len(table):,} {measured} passes the filter and the search above.")
    else:
        figures(kept, metric)
        pick(kept, metric, f"{run.name} {evaluation} queries.csv")
    asked = table[table["query_id"] == st.query_params.get("query")]
    if len(asked):
        with parts.opened():
            open_query(run, evaluation, asked.iloc[0], tags)


def choose(label: str, names: list[str], key: str, help: str) -> str:
    """A filter by one of these names, if there are any."""
    if not names:
        return "any"
    return str(address.choice(st.selectbox, label, ["any", *names], key=key, help=help, width=200))


def figures(kept: pd.DataFrame, metric: str) -> None:
    """Two figures of the queries in the table; a click on a point opens its query."""
    outcomes = query_outcomes(kept)
    if "gold" in kept:
        parts.chart(per_query_difference, outcomes, key="changes", opens="query", height=GLANCE)
        return
    left, right = st.columns([2, 3])
    with left:
        parts.chart(rank_changes, outcomes, key="ranks", opens="query", height=GLANCE)
    with right:
        name = metric_name(metric)
        parts.chart(per_query_difference, outcomes, key="changes", opens="query", metric=name, height=GLANCE)


def pick(kept: pd.DataFrame, metric: str, file: str) -> None:
    """The table of queries, one of which can be selected."""
    config = query_columns(metric, pairs="gold" in kept)
    columns = [name for name in config if name in kept and (name not in NOTES or kept[name].map(len).any())]
    parts.pick_row(kept[columns], list(kept["query_id"]), "query", columns=config, most=9.5, key="queries")
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        rows = f"{len(kept):,} {'row' if len(kept) == 1 else 'rows'}"
        st.caption(
            f"{rows}, largest loss first. Click one, or a point above, to open it; J and K: the next and the previous.",
            width="content",
        )
        csv = partial(queries_csv, kept)
        st.download_button(
            "These rows (CSV)", csv, file.replace(" ", "-"), "text/csv", on_click="ignore", icon=":material/download:"
        )


def take_notes(run: Run, evaluation: str, row: pd.Series, tags: list[str]) -> None:
    """Tags and a note of the reader's; they are beside the run, never in it. `tags` are those of all queries."""
    if not cached.can_write():
        if row["tags"] or row["note"]:
            st.text(" · ".join([*row["tags"], row["note"]]))
        return
    place = f"{run.name} {evaluation} {row['query_id']}"
    with st.form(f"notes {place}", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.multiselect(
            "Your tags", tags, row["tags"], accept_new_options=True, max_selections=20, key=f"tags {place}", width=320
        )
        note = st.text_input("Your note", row["note"], max_chars=TEXT_LIMIT, key=f"note {place}")
        if st.form_submit_button("Save"):
            write_query_notes(run, evaluation, str(row["query_id"]), tags=chosen, note=note.strip())
            st.rerun(scope="fragment")


def groups(run: Run, evaluation: str, metric: str) -> None:
    """The metric by groups of queries, at fewer dimensions, and with quantized embeddings."""
    options = group_names(run, evaluation)
    more = (*VECTORS,) if has_vectors(run, evaluation) else ()
    by = address.choice(st.selectbox, "Group by", [*options, *more], key="by", width=320, help=GROUPS_HELP)
    table = cached.grouped(run, evaluation, by, metric)
    left, right = st.columns(2)
    with left:
        parts.chart(slice_figure, table.to_dict("records"), key=f"slices {by}", metric=metric)
    with right:
        whole = [*GROUP_COLUMNS, metric] if by in VECTORS else list(GROUP_COLUMNS)
        config = {**GROUP_COLUMNS, metric: st.column_config.NumberColumn(metric_name(metric), format="%.4f")}
        shown = [name for name in whole if name in table]
        st.dataframe(
            parts.unsigned_zeros(table[shown], config),
            column_config=config,
            hide_index=True,
            height="content",
            placeholder="–",
        )
        st.caption(f"{metric_name(metric)}, a mean over queries.", help=parts.ABBREVIATIONS)


def offered(run: Run, evaluation: str) -> tuple[list[str], dict[str, str]]:
    """The views of the page that this evaluation has, and why it lacks the others."""
    why = {}
    if unit(run, evaluation) != "queries":
        why["groups"] = "This evaluation has pairs, not queries to group."
    if not has_vectors(run, evaluation):
        kept = "The playground searches document vectors, and this run keeps none of this evaluation."
        why["playground"] = kept if "groups" not in why else "This evaluation has pairs, not documents to search."
    return [name for name in VIEWS if name not in why], why


def show(run: Run, row: Any) -> None:
    """The choice of an evaluation and a metric beside that of the run, and the view."""
    evaluations = compared_evaluations(run)
    if not evaluations:
        running = run.status == "running"
        sentence = (
            "This run is still training; its queries are measured again at the end."
            if running
            else "This run has no evaluation both before and after training."
        )
        parts.empty("Nothing to compare yet", sentence)
        if running:
            parts.progress(cached.row(run), run.record.get("progress") or {})
        return
    with row:
        evaluation = address.choice(st.selectbox, "Evaluation", evaluations, key="on", width=220)
        metrics = cached.query_metrics(run, evaluation)
        metric = address.choice(
            st.selectbox,
            "Metric",
            metrics,
            key="metric",
            format_func=metric_name,
            width=190,
            help=parts.ABBREVIATIONS,
        )
    view = parts.views(*offered(run, evaluation))
    if view == "playground":
        playground.show(run, evaluation)
    elif view == "groups":
        groups(run, evaluation, metric)
    else:
        parts.fragment(queries, run, evaluation, metric)


parts.page_of_a_run(
    "Per-query rank changes: every query with its rankings before and after training.", "Retrieval", show
)
