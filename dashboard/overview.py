"""Overview: every run with its status, its main metric before and after, and the verdict."""

from collections.abc import Sequence

import cached
import pandas as pd
import parts
import streamlit as st

from workbench.browse import RunRow, find_run, status_reason
from workbench.figures import metric_name
from workbench.run import STATUSES, Run

SORTS = ["newest", "greatest gain", "card"]
COLUMNS = {
    "card": st.column_config.TextColumn("Card", help="The model card that the recipe was read from"),
    "variant": st.column_config.TextColumn("Variant", help="As written, or with the audit's corrections"),
    "status": st.column_config.TextColumn("Status"),
    "verdict": st.column_config.TextColumn("Verdict", help="reproduced, differs, or not comparable", width=115),
    "metric": st.column_config.TextColumn("Metric", help="The recipe's main metric, a mean over queries"),
    "before": st.column_config.NumberColumn("Before", format="%.4f", help="The base model, before training"),
    "after": st.column_config.NumberColumn("After", format="%.4f", help="The trained model"),
    "interval": st.column_config.TextColumn("95 % interval", help="Bootstrap interval of After, over queries"),
    "printed": st.column_config.NumberColumn("Card's", format="%.4f", help="The number that the card prints"),
    "losses": st.column_config.LineChartColumn("Loss", help="Training loss over steps", width="small"),
    "created": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm"),
    "name": st.column_config.TextColumn("Run", help="Name of the run's folder"),
}


def as_record(row: RunRow, status: str) -> dict[str, object]:
    return {
        "card": row.card or "unknown",
        "variant": row.variant or "unknown",
        "status": status,
        "verdict": row.verdict or "",
        "metric": metric_name(row.metric) if row.metric else "",
        "before": row.before,
        "after": row.after,
        "interval": "" if row.low is None or row.high is None else f"{row.low:.4f} – {row.high:.4f}",
        "printed": row.printed,
        "losses": list(row.losses),
        "created": pd.to_datetime(row.created or "", errors="coerce", utc=True),
        "name": row.name,
    }


def running(rows: Sequence[tuple[RunRow, str]]) -> None:
    """A progress bar for every run that trains at this moment."""
    for row, status in rows:
        if status == "running":
            parts.progress(row)


def attention(rows: Sequence[tuple[RunRow, str]]) -> None:
    """What went wrong, one sentence a run."""
    wrong = [(row, status) for row, status in rows if status_reason(status, row)]
    if wrong:
        st.subheader("Runs that need a look")
        for row, status in wrong:
            with st.container(border=True, gap="xxsmall"):
                st.markdown(f"**{status}**")
                st.text(row.name)
                st.text(status_reason(status, row))


def open_links(run: Run, row: RunRow) -> None:
    """Where the selected run can be looked at."""
    with st.container(border=True):
        st.text(run.name)
        with st.container(horizontal=True):
            for page, label, key, value in (
                ("loss.py", "Loss curves", "runs", run.name),
                ("retrieval.py", "Retrieval", "run", run.name),
                ("compare.py", "Compare with its card", "run", run.name),
                ("card.py", "Its card", "card", f"run {run.name}"),
            ):
                st.page_link(page, label=label, query_params={key: value})
        parts.stand_ins(row.stand_ins)


def show() -> None:
    """The table and what is under it, drawn again on its own while a run is running."""
    runs = cached.runs()
    found = [(cached.row(run), run.status) for run in runs]
    running(found)
    words = st.session_state.get("find", "").lower().split()
    kept = [
        (row, status)
        for row, status in found
        if (not st.session_state["status"] or status in st.session_state["status"])
        and all(word in f"{row.card} {row.variant} {row.name} {row.verdict}".lower() for word in words)
    ]
    if st.session_state["sort"] == "greatest gain":
        kept.sort(key=lambda pair: -((pair[0].after or 0) - (pair[0].before or 0)))
    elif st.session_state["sort"] == "card":
        kept.sort(key=lambda pair: (pair[0].card or "", pair[0].name))
    table = pd.DataFrame([as_record(row, status) for row, status in kept], columns=list(COLUMNS))
    names = [row.name for row, _ in kept]
    asked = st.query_params.get("run")
    state = st.dataframe(
        table,
        column_config=COLUMNS,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        selection_default={"selection": {"rows": [names.index(asked)] if asked in names else []}},
        placeholder="–",
        key=f"table {names}",
    )
    total = "1 run" if len(found) == 1 else f"{len(found):,} runs"
    st.caption(f"{len(kept):,} of {total}. Select a row to open the run; click a heading to sort.")
    picked = [names[place] for place in state["selection"]["rows"] if place < len(names)]
    if picked:
        st.query_params["run"] = picked[0]
        run = find_run(runs, picked[0])
        if run is not None:
            open_links(run, cached.row(run))
    elif asked is not None:
        del st.query_params["run"]
    attention(kept)


st.title("Overview")
if not cached.runs():
    parts.no_runs(str(cached.runs_folder()))
else:
    search, status, sort = st.columns([3, 3, 2])
    search.text_input("Find", key="find", bind="query-params", placeholder="card, variant, verdict or run")
    status.multiselect("Status", STATUSES, key="status", bind="query-params", placeholder="any")
    sort.selectbox("Sort by", SORTS, key="sort", bind="query-params")
    live = any(run.status == "running" for run in cached.runs())
    st.fragment(show, run_every=3 if live else None)()
