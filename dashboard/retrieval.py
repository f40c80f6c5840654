"""Retrieval: every query before and after training; one opened shows its two rankings side by side."""

from typing import TYPE_CHECKING

import cached
import pandas as pd
import parts
import streamlit as st

from workbench import browse
from workbench.figures import metric_name, per_query_difference, rank_changes
from workbench.run import Run

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

FILTER_HELP = (
    "lost from top 10: an answer among the ten best before, none after. never found: no answer in either ranking, as "
    "deep as it was kept."
)


def query_columns(metric: str) -> "dict[str, ColumnConfig]":
    name = metric_name(metric)
    rank = "Rank of the first relevant document, 1 is best; – is beyond the depth kept"
    number = st.column_config.NumberColumn
    return {
        "query": st.column_config.TextColumn("Query", width=430),
        "difference": number("Difference", format="%+.3f", help=f"{name} after minus before", width=92),
        "before": number(f"{name} before", format="%.3f", width=118),
        "after": number(f"{name} after", format="%.3f", width=112),
        "rank_before": number("Rank before", help=rank, width=96),
        "rank_after": number("Rank after", help=rank, width=90),
    }


def ranking(title: str, hits: pd.DataFrame) -> None:
    st.markdown(f"**{title}**")
    if hits.empty:
        st.text("No ranking was kept for this query.")
    for position, relevant, score, _, document in hits.itertuples(index=False):
        with st.container(border=True, gap="xxsmall"):
            mark = " :green-badge[:material/target: gold]" if relevant else ""
            st.markdown(f"**{int(position)}** &ensp;:gray[score {float(score):.4f}]{mark}")
            st.text(document)


def open_query(run: Run, evaluation: str, row: pd.Series) -> None:
    """The query, its gold documents, and the ten best before and after side by side."""
    before, after, gold = cached.opened(run, evaluation, str(row["query_id"]))
    st.subheader("The query")
    with st.container(border=True, gap="xsmall"):
        st.text(row["query"])
        st.caption("Gold: the documents that answer it")
        for document, text in gold:
            st.text(f"{document}: {text}")
    left, right = st.columns(2)
    with left:
        ranking("Before: the base model", before)
    with right:
        ranking("After: the trained model", after)


def counts(table: pd.DataFrame) -> None:
    with st.container(horizontal=True):
        for name in browse.FILTERS:
            label = "queries" if name == "all" else name
            st.metric(label, f"{len(browse.chosen(table, name)):,}", width=128)


def show(run: Run) -> None:
    evaluations = browse.whole_evaluations(run)
    if not evaluations:
        parts.empty("Nothing to compare yet", "This run has no evaluation both before and after training.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        evaluation = st.selectbox("Evaluation", evaluations, key="on", bind="query-params", width=200)
        metrics = cached.query_metrics(run, evaluation)
        metric = st.selectbox("Metric", metrics, key="metric", bind="query-params", format_func=metric_name, width=150)
        only = st.selectbox("Show", browse.FILTERS, key="only", bind="query-params", help=FILTER_HELP, width=180)
        words = st.text_input("Find in queries", key="words", bind="query-params", width=260)
    table = cached.queries(run, evaluation, metric)
    counts(table)
    kept = browse.chosen(table, only, words)
    if kept.empty:
        parts.empty("No query passes", "No query of this run passes the filter and the words above.")
    else:
        at_a_glance(kept, metric)
        pick(kept, metric, place=f"{run.name} {evaluation} {metric} {only} {words}")
    asked = table[table["query_id"] == st.query_params.get("query")]
    if len(asked):
        open_query(run, evaluation, asked.iloc[0])


def at_a_glance(kept: pd.DataFrame, metric: str) -> None:
    """Two figures of the queries in the table, drawn only where somebody asks for them."""
    if st.toggle("Draw these queries", key="glance", bind="query-params"):
        left, right = st.columns(2)
        with left:
            parts.chart(rank_changes, browse.changes_of(kept), key="ranks")
        with right:
            parts.chart(per_query_difference, browse.changes_of(kept), key="changes", metric=metric_name(metric))


def pick(kept: pd.DataFrame, metric: str, *, place: str) -> None:
    """The table; the query selected in it goes into the address, one that is deselected leaves it."""
    ids = list(kept["query_id"])
    asked = st.query_params.get("query")
    columns = query_columns(metric)
    state = st.dataframe(
        kept[list(columns)],
        column_config=columns,
        hide_index=True,
        height=320,
        placeholder="–",
        on_select="rerun",
        selection_mode="single-row",
        selection_default={"selection": {"rows": [ids.index(asked)] if asked in ids else []}},
        key=f"queries {place}",
    )
    st.caption(f"{len(kept):,} queries, the greatest loss first. Select a row to open the query.")
    rows = [row for row in state["selection"]["rows"] if row < len(ids)]
    if rows:
        st.query_params["query"] = ids[rows[0]]
    elif asked in ids:
        del st.query_params["query"]


st.title("Retrieval")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    run = parts.choose_run(runs)
    if run is not None:
        parts.stand_ins(cached.row(run).stand_ins)
        show(run)
