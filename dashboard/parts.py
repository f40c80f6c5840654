"""Layout that several pages share: figures, notices, the choice of a run, and what stays chosen between pages.

Text from cards and data goes through `st.text`, `st.code` and tables, which obey no markup; Markdown gets only words of
the workbench itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from workbench import browse
from workbench.browse import RunRow
from workbench.run import Run

PLOT = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendDataToCloud", "select2d", "lasso2d", "autoScale2d"],
    "responsive": True,
}
SHARED = ("run", "runs", "card")  # parameters that several pages have in their address
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 4.5rem 2rem 3rem; max-width: 1720px; }
</style>"""
VERDICTS = {
    "reproduced": ("green", ":material/check:"),
    "differs": ("orange", ":material/close:"),
    "not comparable": ("gray", ":material/help:"),
    "not told apart": ("gray", ":material/drag_handle:"),
}


def dark() -> bool:
    """Whether the reader sees the dark theme."""
    return st.context.theme.type == "dark"


def chart(draw: Callable[..., Any], *values: Any, key: str, **settings: Any) -> None:
    """Show what a function of `workbench.figures` draws, in the reader's theme."""
    st.plotly_chart(draw(*values, dark=dark(), **settings), theme=None, config=PLOT, key=key)


def problem(title: str, detail: str) -> None:
    """Something that cannot be shown: our words as a title, the reason as plain text."""
    with st.container(border=True, gap="xsmall"):
        st.markdown(f":material/error: **{title}**")
        st.text(detail)


def empty(title: str, sentence: str, command: Sequence[str] = ()) -> None:
    """An empty state: what would be here, and the command that brings it, to copy."""
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**{title}**")
        st.text(sentence)
        if command:
            st.code(shlex.join(command), language="bash")


def no_runs(folder: str) -> None:
    """The empty state of a folder without runs."""
    empty(
        "No runs here yet",
        f"This page shows the runs in the folder {folder!r}, and there are none. The first one takes a few minutes, "
        "offline and without a GPU, on stand-ins for the base model and the rows that it names as such:",
        [
            "workbench",
            "reproduce",
            "porsche-mxbai",
            "--base",
            "bundled:minilm",
            "--data",
            "sample:porsche",
            "--runs",
            folder,
        ],
    )


def verdict(word: str | None) -> None:
    """The verdict as a word, a sign and a colour; a word that is not ours as plain text."""
    if word in VERDICTS:
        colour, icon = VERDICTS[word]
        st.markdown(f"### :{colour}[{icon} {word}]")
    else:
        st.text(word or "no verdict yet")


def turn_to(page: str) -> None:
    """Forget what the widgets of another page held, so that a page starts from its address."""
    if st.session_state.get("page") != page:
        for key in SHARED:
            st.session_state.pop(key, None)
        st.session_state["page"] = page


def keep(key: str, default: Any, options: Sequence[Any]) -> None:
    """Start the widget `key` with the address, else with what was chosen on another page, else with `default`.

    A name in the address that is not among the options, a path for one, is said and left aside.
    """
    asked = st.query_params.get_all(key)
    strange = [name for name in asked if name not in options]
    if strange and key not in st.session_state:
        problem("The address names something that is not here.", ", ".join(name[:200] for name in strange))
    if key not in st.session_state and not set(asked) & set(options):
        st.session_state[key] = default
        st.query_params[key] = default  # so that the address says it from the start, not from the first change


def choose_run(runs: Sequence[Run], *, key: str = "run", label: str = "Run") -> Run | None:
    """A select box of runs whose choice is in the address and follows the reader from page to page.

    The first choice is the newest run that was measured before and after.
    """
    names = [run.name for run in runs]
    last = st.session_state.get("last_run")
    whole = (run.name for run in runs if browse.whole_evaluations(run))
    keep(key, last if last in names else next(whole, names[0]), names)
    name = st.selectbox(label, names, index=None, key=key, bind="query-params", placeholder="Choose a run")
    if name is not None:
        st.session_state["last_run"] = name
    return browse.find_run(runs, name)


def progress(row: RunRow) -> None:
    """How far a run is that trains at this moment."""
    left, right = st.columns([2, 3], vertical_alignment="center")
    left.text(f"{row.name} is running")
    if row.steps:
        right.progress(min((row.step or 0) / row.steps, 1.0), text=f"step {row.step or 0:,} of {row.steps:,}")
    else:
        right.progress(0.0, text="getting ready, no step yet")


def stand_ins(notes: Sequence[str]) -> None:
    """Say which stand-ins a run used; nothing for a run on the card's own base and data."""
    for note in notes:
        st.text(f"Stand-in: {note}")
