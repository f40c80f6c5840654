"""Loss curves of any number of runs and their cards, live while a run is running."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import actions
import address
import cached
import parts
import streamlit as st

from workbench.cards.metric_names import metric_name
from workbench.errors import WorkbenchError
from workbench.run import Run
from workbench.views import overview
from workbench.views.alerts import ENDED, Alert, alerts
from workbench.views.figures_loss import Along, Curve, axis_of, is_noisy, loss_curves, loss_differences, stacked
from workbench.views.log_tail import checkpoint_steps, logged_names, training_row_count
from workbench.views.loss_curves import Axis, best_kept, from_start
from workbench.views.theme import CONFIG, Role

QUANTITIES = {
    "loss": "Loss (as the trainer logs it)",
    "learning_rate": "Learning rate (no unit)",
    "grad_norm": "Gradient norm (no unit)",
    "rows_per_second": "Speed (training rows per second)",
    "components": "Parts of the loss (as the trainer logs them)",
}
SMOOTHING = {"auto": None, "off": 0.0, "0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "0.95": 0.95, "0.99": 0.99}
SMOOTHING_HELP = (
    "Weight of the past in a moving average; the raw line stays visible. auto: over a twentieth of a long log, at most "
    "50 points."
)
MARKS = {
    ", every logged point": "faint: every logged step",
    ", validation": "squares: validation loss",
    ", spike": "triangles: spikes",
    ", saved checkpoint": "rings: stored checkpoints",
    ", mean over the card's stretch": "large dots: mean over the steps of a point of the card",
    ", not a finite number": "crosses: not a finite number",
}
"""How the name of a trace ends -> what its marks mean."""
Auto = Literal["auto"]
MOST_NAMED = 5  # runs with a color and a line of the legend each; more have those of their card and variant
PANELS_HELP = "Learning rate, gradient norm, and validation below; all zoom together"
X: tuple[Along | Auto, ...] = ("auto", "step", "epoch", "rows", "time")
AXES: dict[Along, Axis] = {"step": "steps", "epoch": "epochs", "rows": "rows", "time": "seconds"}
X_HELP = (
    "auto: epochs if the logs differ in length, otherwise steps · rows: training rows seen · time: minutes since "
    "the start; a card's points are spread evenly over its time"
)


def quantity(key: str) -> str:
    """The name of a quantity, with its unit."""
    if key.startswith("components/"):
        return f"Part of the loss: {key.removeprefix('components/')}"
    if key in QUANTITIES:
        return QUANTITIES[key]
    evaluation, _, metric = key.partition("_")
    return f"{metric_name(metric)} on {evaluation} (0 to 1)" if "@" in metric else f"{key} (as logged)"


def quantities(runs: Sequence[Run]) -> list[str]:
    """The usual quantities, then what else these runs have logged."""
    usual = [name for name in QUANTITIES if name != "components"]
    there = dict.fromkeys(name for run in runs for name in names_logged(run))
    pieces = [name for name in there if name.startswith("components/")]
    others = [name for name in there if name not in usual and name not in pieces]
    return [*usual, *(["components"] if pieces else []), *pieces, *others]


@cached.kept(lambda run: [run.file("log")], 50)
def names_logged(run: Run) -> tuple[str, ...]:
    return logged_names(cached.log(run))


def files_of(run: Run, *_: object) -> list[Path]:
    """The files that a figure of the run is made from."""
    return [*overview.overview_files(run), run.file("card"), run.file("checkpoints")]


@cached.kept(files_of, 8, shared=True)  # 100,000 rows are some 10 MB
def curve(run: Run, key: str) -> Curve:
    """The run's log of one quantity, without a name."""
    saved = checkpoint_steps(run) if key == "loss" else ()
    return Curve.of_log(
        "",
        from_start(run, cached.log(run), key),
        key=key,
        kept=best_kept(run),
        train_rows=training_row_count(run),
        saved=saved,
    )


def curves(runs: Sequence[Run], key: str, along: Along, with_card: bool) -> tuple[list[Curve], list[str]]:
    """A curve per run or part of its loss, and one per card; and sentences on the cards' curves."""
    names = overview.short_names([cached.row(run) for run in runs])
    found: list[Curve] = []
    cards: dict[str, Curve] = {}
    said: dict[str, tuple[str, ...]] = {}
    for run in runs:
        row = cached.row(run)
        keys = [name for name in names_logged(run) if name.startswith("components/")] if key == "components" else [key]
        role: Role = "other" if len(runs) > 2 else "corrected" if row.variant == "corrected" else "after"
        card = cached.card_of(run) if with_card and key == "loss" else None
        means: tuple[tuple[float, float], ...] = ()
        if card is not None and card.training_log:
            both = cached.beside_card(run, AXES[along])
            cards[card.sha256] = Curve.of_curves(both, card)
            said[names[run.name]] = both.sentences
            scale = 60 if along == "time" else 1
            means = tuple(zip((x / scale for x in both.run.x), both.run.values, strict=True))
        for one in keys:
            if role in [curve.role for curve in found]:
                role = "other"
            name = names[run.name] if len(keys) == 1 else f"{names[run.name]}, {one.removeprefix('components/')}"
            found.append(replace(curve(run, one), name=name, role=role, means=means))
    return [*cards.values(), *found], sentences(said)


def on_axis(
    runs: Sequence[Run], key: str, asked: Along | Auto, with_card: bool
) -> tuple[Along, list[Curve], list[str]]:
    """The axis that was asked for and the `curves` along it; "auto" is epochs where one log is longer than another and
    each knows its epochs, else steps."""
    if asked != "auto":
        return asked, *curves(runs, key, asked, with_card)
    by_step = curves(runs, key, "step", with_card)
    if axis_of(by_step[0]) == "epoch":
        by_epoch = curves(runs, key, "epoch", with_card)
        if all(each.points(each.values, "epoch")[0] for each in by_epoch[0]):
            return "epoch", *by_epoch
    return "step", *by_step


def sentences(said: dict[str, tuple[str, ...]]) -> list[str]:
    """Sentences on every run once, the others with the run's name in front."""
    shared = [each for each in next(iter(said.values()), ()) if all(each in theirs for theirs in said.values())]
    return shared + [f"{name}: {each}" for name, theirs in said.items() for each in theirs if each not in shared]


def groups_of(runs: Sequence[Run]) -> dict[str, str]:
    """Name of a run in the legend -> its card and variant."""
    rows = [cached.row(run) for run in runs]
    names = overview.short_names(rows)
    return {names[row.name]: f"{row.card or row.name}, {row.variant or 'unknown'}" for row in rows}


def panel_names(runs: Sequence[Run], key: str) -> list[str]:
    """The quantities below that of the figure: rate, gradient norm, and the main metric of a validation."""
    there = {name for run in runs for name in names_logged(run)}
    main = next((name for name in sorted(there) if name.endswith("ndcg@10") or "spearman" in name), None)
    return [name for name in ("loss", "learning_rate", "grad_norm", main) if name in there | {"loss"} and name != key]


Drawn = tuple[Any, tuple[str, ...], list[str]]


@st.cache_data(max_entries=40, show_spinner=False)
def drawn(
    paths: Sequence[str],
    key: str,
    asked: Along | Auto,
    with_card: bool,
    panels: bool,
    look: dict[str, Any],
    files: cached.Identity,
) -> Drawn:
    """The figure (None if nothing is logged), what its marks mean, and sentences on the cards' curves.

    `look` are arguments of `loss_curves`.
    """
    runs = [Run(Path(path)) for path in paths]
    along, found, said = on_axis(runs, key, asked, with_card)
    if not any(each.points(each.values, along)[0] for each in found):
        return None, (), said
    look |= {"groups": groups_of(runs) if len(runs) > MOST_NAMED else None}
    figure = loss_curves(found, x=along, quantity=quantity(key), height=520, **look)
    if panels:
        shown = [figure]
        for other in panel_names(runs, key):
            each = curves(runs, other, along, with_card=False)[0]
            if any(one.points(one.values, along)[0] for one in each):
                shown.append(loss_curves(each, x=along, quantity=quantity(other), **{**look, "mark_spikes": False}))
        figure = stacked(shown, dark=look["dark"])
    marks = [word for end, word in MARKS.items() if any(str(trace.name).endswith(end) for trace in figure.data)]
    kept = ["dotted line: the checkpoint kept"] if any(each.kept is not None for each in found) else []
    return figure, (*marks, *kept), said


@cached.kept(lambda run: [run.file(name) for name in ("log", "record")], 50)
def alerts_of(run: Run) -> list[Alert]:
    return [each for each in alerts(run) if each.kind not in ENDED]


def notices(runs: Sequence[Run]) -> None:
    """What is wrong with these trainings, and how one that did not end can be resumed."""
    names = overview.short_names([cached.row(run) for run in runs])
    for run in runs:
        said = [each.sentence for each in alerts_of(run)]
        said += [] if run.status in ("running", "finished") else [overview.status_reason(run.status, cached.row(run))]
        for sentence in filter(None, said):
            with st.container(horizontal=True, gap="small"):
                st.markdown(":orange[:material/warning:]", width="content")
                st.text(f"{names[run.name]}: {sentence}" if len(runs) > 1 else sentence)
        actions.of_a_run(run)


def show(runs: Sequence[Run]) -> None:
    """Progress and figure, updated while a run is running."""
    live = [run for run in runs if run.status == "running"]
    for run in live:
        parts.progress(cached.row(run), run.record.get("progress") or {})
    notices(runs)
    key, along, smoothing = st.session_state["y"], st.session_state["x"], st.session_state["smooth"]
    look = {"log": st.session_state["log"], "smoothing": SMOOTHING.get(smoothing), "dark": parts.dark()}
    look["mark_spikes"] = st.session_state["spikes"] and key == "loss"
    files = cached.identity(*(file for run in runs for file in files_of(run)))
    paths = [str(run.path) for run in runs]
    try:
        figure, marks, said = drawn(
            paths, key, along, st.session_state["with_card"], st.session_state["panels"], look, files
        )
    except WorkbenchError as error:
        parts.problem("A run cannot be read.", str(error))
        return
    for run in runs:
        if run.record.get("verification"):
            st.text(f"{run.name} has no log: published weights were verified, without training.")
    if figure is None:
        by = "" if along == "auto" else f" by {along}"
        waiting = "It appears with the first step." if live else "Choose another quantity or another axis."
        parts.empty("Nothing logged yet", f"None of these runs has logged {quantity(key)}{by}. {waiting}")
    else:
        st.plotly_chart(figure, theme=None, config=CONFIG, key="curves")
        if marks:
            st.caption(" · ".join(marks))
        if key == "loss" and st.session_state["with_card"]:
            differences(runs)
        corrections(said)
    if st.session_state.get("live") and not live:
        st.session_state["live"] = False
        st.rerun()
    st.session_state["live"] = bool(live)


def differences(runs: Sequence[Run]) -> None:
    """The card's logged losses minus those of each run."""
    names = overview.short_names([cached.row(run) for run in runs])
    found = {names[run.name]: numbers for run in runs if (numbers := cached.loss_numbers(run))}
    if found:
        st.markdown("**The card's logged losses minus ours**")
        parts.chart(loss_differences, found if len(found) > 1 else {"": next(iter(found.values()))}, key="differences")
        st.caption("Inside the band they are equal as printed (half of the last digit) · crosses: they differ")


def corrections(said: Sequence[str]) -> None:
    """How the card's curve was corrected, and how far ours is from it."""
    if said:
        with st.container(border=True, gap="xxsmall"):
            st.markdown("**Compared with the card**")
            for sentence in said:
                st.text(sentence)


def controls(runs: Sequence[Run]) -> None:
    names = quantities(runs)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        address.choice(st.selectbox, "Quantity", names, format_func=quantity, key="y", width=330)
        address.choice(st.selectbox, "Along", X, key="x", width=110, help=X_HELP)
        noisy = is_noisy(st.session_state["y"])
        help = SMOOTHING_HELP if noisy else "This quantity is drawn as it was logged."
        address.choice(
            st.selectbox, "Smoothing", list(SMOOTHING), key="smooth", width=180, help=help, disabled=not noisy
        )
        address.choice(st.toggle, "Panels", key="panels", default=False, help=PANELS_HELP)
        address.choice(st.toggle, "Log scale", key="log", default=False)
        address.choice(st.toggle, "The card's curve", key="with_card", default=True)
        address.choice(
            st.toggle,
            "Mark spikes",
            key="spikes",
            default=True,
            help="Single values more than eight times the usual distance above the 51 values around them",
        )


parts.title("Loss curves", "What the trainer logged, with the log on the card.")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    names = [run.name for run in runs]
    default = [parts.default_run(runs).name]
    asking = "Choose one or more runs"
    picked = address.choice(st.multiselect, "Runs", names, key="runs", default=default, pinned=True, placeholder=asking)
    chosen = [run for run in runs if run.name in picked]
    controls(chosen)
    if parts.gone("runs", names):
        pass
    elif not picked:
        parts.empty("No run chosen", "Choose one or more runs above.")
    else:
        st.session_state["last_run"] = picked[0]
        live = any(run.status == "running" for run in chosen)
        parts.fragment(show, chosen, run_every=2 if live else None)
