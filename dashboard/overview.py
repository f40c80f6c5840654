"""Overview: every run with its status, its main metric before and after, and the verdict."""

import shlex
from collections import Counter
from collections.abc import Sequence

import cached
import pandas as pd
import parts
import streamlit as st

from workbench.cards.metric_names import metric_name
from workbench.cards.read import shipped_cards
from workbench.run import STATUSES, Run
from workbench.views.figures import after_value
from workbench.views.overview import RunRow, find_run, status_reason
from workbench.views.summary import MEANINGS

SORTS = ["newest", "largest gain", "card"]
NOT_YET = "not compared yet"
VERDICTS = {**{word: parts.COLORS[tone] for word, (tone, _) in MEANINGS.items()}, NOT_YET: "gray"}
STATES = {"running": "blue", "finished": "gray", "stopped": "yellow", "interrupted": "yellow", "failed": "orange"}
COLORS = {**STATES, "broken": "red"}
COLUMNS = {
    "card": st.column_config.TextColumn("Card", help="The model card that the recipe was read from"),
    "variant": st.column_config.TextColumn(
        "Variant", help="As written, with the audit's corrections, or published weights without training"
    ),
    "status": st.column_config.MultiselectColumn(
        "Status", options=list(COLORS), color=list(COLORS.values()), width=100
    ),
    "verdict": st.column_config.MultiselectColumn(
        "Verdict",
        help="On the card: " + ", ".join(MEANINGS) + "; the Compare page says why",
        options=list(VERDICTS),
        color=list(VERDICTS.values()),
        width=155,
    ),
    "metric": st.column_config.TextColumn(
        "Metric", help="The recipe's main metric, a mean over queries. " + parts.ABBREVIATIONS
    ),
    "before": st.column_config.NumberColumn("Before", format="%.4f", help="The base model, before training"),
    "after": st.column_config.NumberColumn("After", format="%.4f", help="The trained model; of several seeds the mean"),
    "seeds": st.column_config.NumberColumn("Seeds", help="Trainings that the verdict rests on", width=60),
    "gain": st.column_config.NumberColumn("Change", format="%+.4f", help="After minus before"),
    "printed": st.column_config.NumberColumn("Card", format="%.4f", help="The number on the card"),
    "off": st.column_config.NumberColumn("Card − ours", format="%+.4f", help="Where they were compared", width=95),
    "losses": st.column_config.LineChartColumn("Loss", help="Training loss over steps", width=90),
    "created": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", width=120),
    "name": st.column_config.TextColumn("Run", help="Name of the run's folder", width=320),
}


def as_record(row: RunRow, status: str) -> dict[str, object]:
    main = row.main
    return {
        "card": row.card or "unknown",
        "variant": row.variant or "unknown",
        "status": [status],
        "verdict": [row.verdict or NOT_YET] if main.after is not None or row.verdict else None,
        "metric": metric_name(main.metric) or None,
        "before": main.before,
        "after": after_value(main),
        "seeds": len(main.values) or None,
        "gain": main.difference,
        "printed": main.card,
        "off": None if main.card_difference is None else round(main.card_difference, 4) + 0.0,
        "losses": list(row.losses),
        "created": pd.to_datetime(row.created or "", errors="coerce", utc=True),
        "name": row.name,
    }


def tally(rows: Sequence[tuple[RunRow, str]]) -> None:
    """Numbers of runs, verdicts, and states."""
    verdicts = Counter(row.verdict or NOT_YET for row, status in rows if status != "broken")
    states = Counter(status for _, status in rows)
    wrong = sum(states[status] for status in ("failed", "interrupted", "broken"))
    with st.container(horizontal=True, gap="medium"):
        st.metric("Runs", f"{len(rows):,}", width="content")
        for word in VERDICTS:
            st.metric(word.capitalize(), f"{verdicts[word]:,}", width="content")
        st.metric("Running", f"{states['running']:,}", width="content")
        st.metric("Need attention", f"{wrong:,}", width="content", help="Failed, interrupted or broken")


def running(rows: Sequence[tuple[RunRow, str]], runs: Sequence[Run]) -> None:
    """A progress bar for every run that is training."""
    for row, status in rows:
        if status == "running":
            run = find_run(runs, row.name)
            parts.progress(row, (run.record.get("progress") or {}) if run is not None else None)


def attention(rows: Sequence[tuple[RunRow, str]]) -> None:
    """What went wrong, one sentence per run, and the command to resume it."""
    wrong = [(row, status) for row, status in rows if status_reason(status, row)]
    if not wrong:
        return
    st.subheader("Runs that need attention", anchor=False)
    for row, status in wrong:
        with st.container(border=True, gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(status, color=COLORS.get(status, "gray"))  # type: ignore[arg-type]
                st.text(row.name)
            st.text(status_reason(status, row, command=False))
            if status in ("interrupted", "stopped"):
                command = ["workbench", "train", "--resume", row.name, "--runs", str(cached.runs_folder())]
                st.code(shlex.join(command), language="bash")


def open_links(run: Run, row: RunRow) -> None:
    """Links to the pages of the selected run."""
    with st.container(border=True):
        st.text(run.name)
        with st.container(horizontal=True):
            for page, label, icon, key, value in (
                ("loss.py", "Loss curves", "show_chart", "runs", run.name),
                ("retrieval.py", "Retrieval", "search", "run", run.name),
                ("embeddings.py", "Embeddings", "bubble_chart", "run", run.name),
                ("compare.py", "Compare with its card", "balance", "run", run.name),
                ("card.py", "Its card", "description", "card", f"run {run.name}"),
            ):
                st.page_link(page, label=label, icon=f":material/{icon}:", query_params={key: value})
        parts.stand_ins(row.stand_ins)
        if row.verdict is None and row.main.after is not None:
            st.caption(
                "Not compared with its card yet. The Compare page compares it now; this command stores the comparison:"
            )
            st.code(shlex.join(["workbench", "compare", str(run.path)]), language="bash")


def untried(rows: Sequence[tuple[RunRow, str]]) -> None:
    """Shipped cards without a run in this folder, with the command that makes one."""
    tried = {row.card for row, _ in rows}
    left = [card for card in shipped_cards() if card not in tried]
    if left:
        with st.expander(f"Cards without a run here ({len(left)})"):
            for card in left:
                st.code(shlex.join(["workbench", "reproduce", card, "--runs", str(cached.runs_folder())]), "bash")


def show() -> None:
    """The table and what is below it, updated while a run is running."""
    runs = cached.runs()
    found = [(cached.row(run), run.status) for run in runs]
    tally(found)
    running(found, runs)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input("Find", key="find", bind="query-params", placeholder="card, variant, verdict or run", width=280)
        st.multiselect("Status", STATUSES, key="status", bind="query-params", placeholder="any", width=260)
        st.selectbox("Sort by", SORTS, key="sort", bind="query-params", width=180)
    words = st.session_state.get("find", "").lower().split()
    kept = [
        (row, status)
        for row, status in found
        if (not st.session_state["status"] or status in st.session_state["status"])
        and all(word in f"{row.card} {row.variant} {row.name} {row.verdict or NOT_YET}".lower() for word in words)
    ]
    if st.session_state["sort"] == "largest gain":
        kept.sort(key=lambda pair: -(pair[0].main.difference or 0))
    elif st.session_state["sort"] == "card":
        kept.sort(key=lambda pair: (pair[0].card or "", pair[0].name))
    table = pd.DataFrame([as_record(row, status) for row, status in kept], columns=list(COLUMNS))
    names = [row.name for row, _ in kept]
    picked = parts.pick_row(table, names, "run", columns=COLUMNS, key=f"table {names}", most=15.5)
    total = "1 run" if len(found) == 1 else f"{len(found):,} runs"
    st.caption(f"{len(kept):,} of {total}. Select a row for links; click a heading to sort.")
    run = find_run(runs, picked)
    if run is not None:
        open_links(run, cached.row(run))
    attention(kept)
    untried(found)


parts.title(
    "Overview", "All runs of this folder: what was trained, what training changed, and the verdict on the card."
)
if not cached.runs():
    parts.no_runs(str(cached.runs_folder()))
else:
    live = any(run.status == "running" for run in cached.runs())
    parts.fragment(show, run_every=3 if live else 20)
