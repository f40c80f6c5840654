"""A training that one can watch in a notebook while other cells are used, with buttons to stop it and to go on.

The training runs in another process (see `background`); a thread of the kernel reads its run folder and updates what is
shown in place. Nothing is kept here: the same call on the same run, in this kernel or in another one, shows the run as
it stands.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError, WorkbenchError
from workbench.notebook.html import STYLE, Still, code, rows, text, word
from workbench.recipe.schema import own_values
from workbench.training.background import resume
from workbench.views.card_facts import field_text
from workbench.views.figures import figure_of
from workbench.views.figures_loss import Curve, smoothing_weight
from workbench.views.log_tail import LogTail
from workbench.views.loss_curves import curves
from workbench.views.overview import run_row, status_reason
from workbench.views.records import duration
from workbench.views.smoothing import smooth, thin
from workbench.views.theme import CONFIG, Role, palette, plain

if TYPE_CHECKING:
    from workbench.run import Run

EVERY = 0.6  # seconds between two looks at the run folder
STILL_EVERY = 20  # looks between two tables for the saved notebook, while the training goes on
STILL_ROWS = 8  # of such a table
HEIGHT = 320  # px
POINTS = 1000  # of one line; a browser redraws them twice a second
PHASES = {"train": "training", "trained": "trained", "stopped": "starting again"}
ENDING = "It ends at the next step, with a checkpoint."


def live(run: Run) -> Live:
    """Loss, progress, rate, time left, memory and buttons of a run; follows it until it ends, by itself."""
    return Live(run)


def following(run: Run) -> str:
    """The name of the threads that follow a run; they end when it has ended and its view has said so."""
    return f"live {run.path}"


class Live:
    """What `live` shows; a cell shows it where it is the last line."""

    def __init__(self, run: Run) -> None:
        import ipywidgets

        from workbench.notebook.fit import Fit

        self.run = run
        self._tail = LogTail(run.file("log"))
        self._rows = -1
        self._looks = 0
        self._note = ""
        self._lock = threading.Lock()
        self._still = Still()
        self._card = _card_curve(run)
        self._own = _own(run)
        self.figure = _figure(self._card, _role(run))
        self.head = ipywidgets.HTML()
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End at the next step, with a checkpoint"
        )
        self.resume = ipywidgets.Button(description="Resume", icon="play", tooltip="Go on from the last checkpoint")
        self.stop.on_click(lambda _: self._asked(self._stop))
        self.resume.on_click(lambda _: self._asked(self._resume))
        buttons = ipywidgets.HBox([self.stop, self.resume])
        buttons.add_class("wb-buttons")
        hiding = ipywidgets.HTML(self._still.hiding)
        self.box = ipywidgets.VBox([self.head, buttons, self.figure, Fit(), hiding])
        self.box.add_class("wb-figures")

    def __repr__(self) -> str:
        return f"<Live view of {self.run!r}>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        self.update()
        display(self.box)  # type: ignore[no-untyped-call]
        self._show_still()
        if self.run.status == "running":
            self._follow()

    # --- what is shown ---

    def update(self) -> bool:
        """Show the run as it stands; whether it still goes on."""
        with self._lock:
            status = self.run.status
            if self._note == ENDING and status != "running":
                self._note = ""
            self.head.value = STYLE + f'<div class="wb">{_head(self.run, status, self._own)}{self._noted()}</div>'
            self.stop.disabled = status != "running" or self.run.has_stop_request()
            self.resume.disabled = status not in ("stopped", "failed", "interrupted")
            self._draw()
        return status == "running"

    def _noted(self) -> str:
        return f'<p class="muted">{text(self._note)}</p>' if self._note else ""

    def _draw(self) -> None:
        rows = self._tail.rows()
        if len(rows) == self._rows:
            return
        self._rows = len(rows)
        with self.figure.batch_update():
            for trace, (x, y) in zip(self.figure.data, _lines(Curve.of_log("run", rows)), strict=False):
                trace.x, trace.y = x, y
            steps = (self.run.record.get("progress") or {}).get("steps")
            if steps:
                self.figure.layout.xaxis.range = [0, max(steps, 2)]

    def _show_still(self) -> None:
        head = _head(self.run, self.run.status, self._own)
        columns = ["step", "loss", "validation loss"]
        table = rows(columns, _losses(Curve.of_log("run", self._tail.columns())), columns)
        with suppress(AttributeError):  # outside a notebook there is nowhere to show it
            self._still.show(head + table, repr(self.run))

    # --- while it goes on ---

    def _follow(self) -> None:
        threading.Thread(target=self._watch, name=following(self.run), daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        going = True
        while going:
            pause.wait(EVERY)
            self._looks += 1
            try:
                going = self.update()
            except RunError as error:  # the folder was taken away
                self.head.value = STYLE + f'<div class="wb"><p class="failed">{text(error)}</p></div>'
                return
            if not going or self._looks % STILL_EVERY == 0:
                self._show_still()

    def _asked(self, what: Any) -> None:
        """Do what a button asks, in a thread of its own, and say what went wrong."""

        def do() -> None:
            try:
                what()
            except WorkbenchError as error:
                self._note = str(error)
            self.update()

        threading.Thread(target=do, daemon=True).start()

    def _stop(self) -> None:
        self.stop.disabled = True
        self.run.stop()
        self._note = ENDING

    def _resume(self) -> None:
        self.resume.disabled = True
        self._note = "It starts again: rows and base are read …"
        self.update()
        self.resume.disabled = True
        resume(self.run)
        self._note = ""
        self._follow()


# --- figure --------------------------------------------------------------------------------------------------------


def _role(run: Run) -> Role:
    return "corrected" if run.record.get("variant") == "corrected" else "after"


def _card_curve(run: Run) -> Curve | None:
    """The card's losses over its steps, corrected for what the audit knows; None where it prints none."""
    card = run.card()
    if card is None or not any(row.step for row in card.training_log):
        return None
    curve = Curve.of_curves(curves(run, card, log=()), card)
    return curve if curve.points(curve.values, "step")[0] else None


def _figure(card: Curve | None, role: Role) -> Any:
    """Three lines that are filled in place, and the card's, which a click on its name shows."""
    from plotly import graph_objects as go

    colours = palette()
    colour = colours.role(role)
    line = {"color": colour, "dash": "dashdot" if role == "corrected" else "solid"}
    traces = [
        go.Scatter(name="Every step", mode="lines", opacity=0.4, line={**line, "width": 1}, hoverinfo="skip"),
        go.Scatter(name="Training loss", mode="lines", line={**line, "width": 2.25}, hovertemplate=HOVER),
        go.Scatter(
            name="Validation loss", mode="markers", hovertemplate=HOVER, visible=True, cliponaxis=False,
            marker={"symbol": "square", "size": 9, "color": colour},
        ),
    ]  # fmt: skip
    if card is not None:
        x, y = thin(*card.points(card.values, "step"), POINTS)
        dashed = {"color": colours.ink, "dash": "dash", "width": 2}
        name = f"{plain(card.name, 60)} (click to show)"
        traces.append(
            go.Scatter(x=x, y=y, name=name, mode="lines", line=dashed, visible="legendonly", hovertemplate=HOVER)
        )
    figure = figure_of(
        traces, x="Step (optimizer updates)", y="Loss (as the trainer logs it)", dark=False, height=HEIGHT,
        yaxis={"rangemode": "tozero"}, uirevision="live",
    )  # fmt: skip
    widget = go.FigureWidget(figure)
    widget._config = {**widget._config, **CONFIG}
    widget.layout.autosize = True
    widget.layout.margin.r = 44  # room for the buttons that Plotly lays over a figure
    return widget


HOVER = "step %{x:,}<br>%{y:.4~g}<extra></extra>"


def _lines(curve: Curve) -> list[tuple[list[float], list[float]]]:
    """Points of the thin line (none where the log is short), of the smoothed line, and of the validation loss."""
    x, y = curve.points(curve.values, "step")
    weight = smoothing_weight(len(y))
    raw = thin(x, y, POINTS) if weight else ([], [])
    return [raw, thin(x, smooth(y, weight), POINTS), thin(*curve.points(curve.evaluated, "step"), POINTS)]


def _losses(curve: Curve) -> list[list[str]]:
    """A few rows of the log, evenly spread, the last one included: step, loss, validation loss."""
    evaluated = curve.evaluated or [None] * len(curve.steps)
    there = [row for row in zip(curve.steps, curve.values, evaluated, strict=True) if row[1] is not None]
    picked = {round(place * (len(there) - 1) / (STILL_ROWS - 1)) for place in range(STILL_ROWS)} if there else ()
    return [
        [f"{step:,}", *("–" if value is None else f"{value:.4g}" for value in losses)]
        for step, *losses in (there[place] for place in sorted(picked))
    ]


# --- words ---------------------------------------------------------------------------------------------------------


def _own(run: Run) -> str:
    """What the user has set, which tells two runs of one card apart: ", learning_rate 2e-06"."""
    try:
        values = own_values(run.recipe())
    except WorkbenchError:  # the run's status says what is wrong with it
        return ""
    return "".join(f", {path.partition('.')[2]} {field_text(value)}" for path, value in values.items())


def _head(run: Run, status: str, own: str) -> str:
    """Status, how far it is, and what it takes. `own`: what the user has set."""
    if status == "broken":
        return f"<p>{word(status)} {text(status_reason(status, run_row(run)))}</p>"
    record = run.record
    progress = record.get("progress") or {}
    step, steps = int(progress.get("step") or 0), int(progress.get("steps") or 0)
    share = 100 * step / steps if steps else 0
    base = (record.get("base") or {}).get("model")
    name = f"<b>{text(record.get('card') or run.name)}</b>, {text(record.get('variant') or 'as written')}{text(own)}"
    where = f'<span class="muted">from {text(base)}, {text(record.get("device") or "unknown device")}</span>'
    why = status_reason(status, run_row(run)) if status != "running" else ""
    facts = "".join(f"<span>{name} <b>{text(value)}</b></span>" for name, value in _facts(run, record, status))
    return (
        f"<p>{word(status)} {name} {where}</p>"
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{steps}" aria-valuenow="{step}">'
        f'<i style="width: {share:.1f}%"></i></div><div class="facts">{facts}</div>'
        + (f'<p class="muted">{code(why)}</p>' if why else "")
    )


def _facts(run: Run, record: Mapping[str, Any], status: str) -> list[tuple[str, str]]:
    progress = record.get("progress") or {}
    phase = str(progress.get("phase") or "preparing")
    facts = [("", _doing(phase))] if status == "running" else []
    if progress.get("steps"):
        facts.append(("step", f"{progress.get('step') or 0:,} of {progress['steps']:,}"))
    if progress.get("epoch") is not None:
        facts.append(("epoch", f"{progress['epoch']:.2f}"))
    if progress.get("rows_per_second"):
        facts.append(("rows a second", f"{progress['rows_per_second']:,.0f}"))
    if status == "running":
        if progress.get("seconds_left") is not None:
            facts.append(("left", duration(progress["seconds_left"])))
        if (memory := _memory(record.get("process") or {})) is not None:
            facts.append(("memory", f"{memory / 2**30:.2f} GiB"))
    else:
        if record.get("seconds"):
            facts.append(("took", duration(record["seconds"])))
        if record.get("peak_memory"):
            facts.append(("most memory", f"{record['peak_memory'] / 2**30:.2f} GiB"))
    return facts


def _doing(phase: str) -> str:
    """A phase of `run.json` in words: "measure step-40" is "measuring at step 40"."""
    what, _, moment = phase.partition(" ")
    if what == "measure":
        return f"measuring {moment.replace('step-', 'at step ')}"
    return PHASES.get(phase, phase)


def _memory(process: Mapping[str, Any]) -> int | None:
    """Bytes of main memory that the training's process holds; None where they cannot be known."""
    import socket

    if process.get("host") != socket.gethostname():
        return None
    try:
        lines = Path(f"/proc/{int(process['pid'])}/status").read_text(encoding="ascii", errors="replace").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    except (OSError, KeyError, StopIteration):
        return None
    return int(kilobytes) * 1024
