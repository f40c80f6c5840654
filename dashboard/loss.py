"""Loss curves: training and validation loss of any number of runs and of the card, live while a run is running."""

from collections.abc import Sequence
from typing import Literal

import cached
import parts
import streamlit as st

from workbench import browse
from workbench.errors import WorkbenchError
from workbench.figures import Curve, loss_curves
from workbench.look import Role
from workbench.run import Run

QUANTITIES = {
    "loss": "Loss (as the trainer logs it)",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "rows_per_second": "Training rows per second",
}
SMOOTHING = {"auto": None, "off": 0.0, "0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "0.95": 0.95, "0.99": 0.99}
X: dict[str, Literal["step", "epoch"]] = {"step": "step", "epoch": "epoch"}


def curves(runs: Sequence[Run], key: str, with_card: bool) -> list[Curve]:
    """A curve for each run, and one for each card that they came from."""
    names = browse.short_names([cached.row(run) for run in runs])
    found: list[Curve] = []
    cards: dict[str, Curve] = {}
    for run in runs:
        row = cached.row(run)
        role: Role = "other" if len(runs) > 2 else "corrected" if row.variant == "corrected" else "after"
        if role in [curve.role for curve in found]:
            role = "other"
        best = (run.record.get("best") or {}).get("step")
        found.append(Curve.of_log(names[run.name], cached.log(run), role=role, key=key, kept=best))
        card = cached.card_of(run) if with_card and key == "loss" else None
        if card is not None and card.training_log:
            cards[card.sha256] = Curve.of_card(card)
    return [*cards.values(), *found]


def show(runs: Sequence[Run]) -> None:
    """Progress and figure; drawn again on its own while a run is running."""
    live = [run for run in runs if run.status == "running"]
    for run in live:
        parts.progress(cached.row(run))
    key = st.session_state["y"]
    try:
        drawn = curves(runs, key, st.session_state["with_card"])
    except WorkbenchError as error:
        parts.problem("A run cannot be read.", str(error))
        return
    if not any(curve.points(curve.values, "step")[0] for curve in drawn):
        parts.empty("Nothing logged yet", f"None of these runs has logged {QUANTITIES[key].lower()}.")
        return
    parts.chart(
        loss_curves,
        drawn,
        key="curves",
        x=X[st.session_state["x"]],
        log=st.session_state["log"],
        smoothing=SMOOTHING[st.session_state["smooth"]],
        quantity=QUANTITIES[key],
        height=480,
    )
    if st.session_state.get("live") and not live:
        st.session_state["live"] = False
        st.rerun()
    st.session_state["live"] = bool(live)


st.title("Loss curves")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    names = [run.name for run in runs]
    last = st.session_state.get("last_run")
    parts.keep("runs", [last if last in names else names[0]], names)
    picked = st.multiselect("Runs", names, key="runs", bind="query-params", placeholder="Choose one or more runs")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Quantity",
            list(QUANTITIES),
            format_func=lambda key: QUANTITIES[key],
            key="y",
            bind="query-params",
            width=280,
        )
        st.selectbox("Along", list(X), key="x", bind="query-params", width=120)
        st.selectbox(
            "Smoothing",
            list(SMOOTHING),
            key="smooth",
            bind="query-params",
            width=140,
            help="Weight of the past in a moving average. The raw line stays visible. auto: 0.9 for long logs.",
        )
        st.toggle("Log scale", key="log", bind="query-params")
        st.toggle("The card's curve", value=True, key="with_card", bind="query-params")
    if not picked:
        parts.empty("No run chosen", "Choose one or more runs above.")
    else:
        st.session_state["last_run"] = picked[0]
        chosen = [run for run in runs if run.name in picked]
        live = any(run.status == "running" for run in chosen)
        st.fragment(show, run_every=2 if live else None)(chosen)
