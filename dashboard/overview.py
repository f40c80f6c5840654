"""Overview: every run with its verdict, its main metric before and after, and the change."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import address
import cached
import parts
import streamlit as st

from workbench.cards.read import shipped_cards
from workbench.errors import WorkbenchError
from workbench.run import STATUSES
from workbench.run_notes import delete, write_notes
from workbench.views.overview import COLUMNS, RunRow, attention, find_run, table_row, tally
from workbench.views.theme import escape, palette

STATES = {"interrupted": "yellow", "failed": "orange", "broken": "red"}
PARAMETERS = {"compare": "run", "loss": "runs", "retrieval": "run", "embeddings": "run", "card": "card"}
"""Page -> how its address names a run."""
TILES = 64  # px, height of the tiles
HEIGHT = "max(19rem, calc(100vh - 24rem))"  # of the table; the page does not scroll for it at 1280 x 800

table = st.components.v2.component("runs", js=Path(__file__).with_name("runs.js").read_text(encoding="utf-8"))
"""The table of runs, drawn in the browser; what is chosen there comes back as `did`."""


def act() -> None:
    """Write what was asked for in the table; what cannot be written is said on the page."""
    did: Any = st.session_state["table"]["did"]
    runs = cached.runs()
    named = [run for name in did.get("runs") or [did.get("run")] if (run := find_run(runs, name)) is not None]
    if did["what"] == "open":
        address.write(run=named[0].name if named else None)
    if did["what"] not in ("save", "archive", "delete") or not cached.can_write():
        return
    try:
        for run in named:
            if did["what"] == "delete":
                st.toast(f"Moved to {escape(delete(run))}")
                address.write(run=None)
            elif did["what"] == "archive":
                write_notes(run, archived=did["archived"])
            else:
                tags = [tag.strip() for tag in did["tags"].split(",") if tag.strip()]
                write_notes(run, alias=did["alias"].strip(), tags=tags, note=did["note"].strip())
    except WorkbenchError as error:
        st.session_state["not done"] = str(error)


def go(did: dict[str, Any]) -> None:
    """Open the page that a link of the table names."""
    names = [name for name in did["runs"] if find_run(cached.runs(), name) is not None]
    page = did["page"]
    if not names or page not in PARAMETERS:
        return
    st.session_state["last_run"] = names[0]
    words: dict[str, Any] = {PARAMETERS[page]: names if page == "loss" else names[0]}
    if page == "card":
        words = {"card": f"run {names[0]}"}
    elif page == "compare" and len(names) > 1:
        words["with"] = names[1:]
    st.switch_page(f"{page}.py", query_params=words)


def tiles(rows: Sequence[RunRow]) -> None:
    """How many runs there are of each kind; kinds without one are left out."""
    with st.container(horizontal=True, gap="medium"):
        for what, count in tally(rows).items():
            if count or what == "runs":
                st.metric(what.capitalize(), f"{count:,}", width="content")


def troubles(rows: Sequence[RunRow]) -> None:
    """What went wrong in one line; opened, a sentence for each run and the command to resume it."""
    wrong = attention(rows)
    if not wrong:
        return
    kinds = Counter(row.status if row.status in STATES else "damaged" for row, _ in wrong)
    words = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    with st.expander(f"{len(wrong):,} {'run needs' if len(wrong) == 1 else 'runs need'} attention: {words}"):
        for row, why in wrong:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(row.status, color=STATES.get(row.status, "gray"))  # type: ignore[arg-type]
                st.text(f"{row.name}: {why}")
            if row.status == "interrupted":
                command = ["workbench", "train", "--resume", row.name, "--runs", str(cached.runs_folder())]
                parts.shell(command)


def untried(rows: Sequence[RunRow]) -> None:
    """Shipped cards without a run in this folder, with the command that makes one."""
    tried = {row.card for row in rows}
    left = [card for card in shipped_cards() if card not in tried]
    if left:
        with st.expander(f"Cards without a run here ({len(left)})"):
            for card in left:
                parts.shell(["workbench", "reproduce", card, "--runs", str(cached.runs_folder())])


def filtered(rows: Sequence[RunRow]) -> list[RunRow]:
    """The rows that the widgets above the table leave; archived runs only where they are asked for."""
    archived = sum(row.notes.archived for row in rows)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        find = address.choice(st.text_input, "Find", key="find", placeholder="card, verdict, alias, tag", width=260)
        among = address.choice(
            st.multiselect, "Status", STATUSES, key="status", default=[], placeholder="any", width=260
        )
        too = archived and address.choice(st.toggle, f"Archived ({archived:,})", key="archived", default=False)
    words = find.lower().split()
    return [
        row
        for row in rows
        if (not among or row.status in among)
        and (too or not row.notes.archived)
        and all(word in row.searched for word in words)
    ]


def show() -> None:
    """Tiles, table, and what is below it, updated while a run is running."""
    runs = cached.runs()
    if not runs:
        parts.no_runs(str(cached.runs_folder()))
        return
    parts.gone("run", [run.name for run in runs])
    every = [cached.row(run) for run in runs]
    if any(row.status == "running" for row in every) != st.session_state["live runs"]:
        st.rerun()  # looks more often while a run is running
    above = st.container()
    rows = filtered(every)
    with above:
        left, right = st.columns([5, 3])  # always: the table stays where it is when a run starts
    with left:
        tiles(rows)
    with right, st.container(height=TILES, border=False, gap="xxsmall"):
        for row in rows:
            if row.status == "running" and (run := find_run(runs, row.name)) is not None:
                parts.progress(row, run.record.get("progress") or {})
    troubles(rows)
    if said := st.session_state.pop("not done", ""):
        parts.problem("This was not done.", said)
    colors = palette(dark=parts.dark())
    told = {
        "rows": [table_row(row) for row in rows],
        "columns": COLUMNS,
        "count": f"{len(rows):,} of {len(every):,} {'run' if len(every) == 1 else 'runs'}",
        "open": st.query_params.get("run"),
        "writes": cached.can_write(),
        "most": HEIGHT,
        "colors": {"ink": colors.ink, "muted": colors.muted, "line": colors.grid, "ground": colors.surface}
        | {"accent": colors.after, "better": colors.better, "worse": colors.worse},
    }
    data = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    did = table(key="table", data=data, on_did_change=act).did
    if did and did["what"] == "go":
        go(did)
    untried(every)


folder = cached.runs_folder().resolve()
parts.title(f"Card Workbench · {escape(folder.name)}", f"The runs in {escape(folder)}. Open a row for more.")
live = st.session_state["live runs"] = any(run.status == "running" for run in cached.runs())
parts.fragment(show, run_every=3 if live else 20)
