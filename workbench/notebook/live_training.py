"""A training to watch in a notebook while other cells are used, with buttons to stop and resume it.

The training is another process (see `background`); a thread of the kernel reads its run folder and updates the view in
place. No state is kept here: the same call on the same run, in this kernel or another, shows the same.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ipywidgets
import psutil
from IPython.display import display

from workbench.errors import RunError, WorkbenchError
from workbench.notebook.figure import Figure
from workbench.notebook.html import Fallback, block, code, muted_text, rows, text, word
from workbench.recipe.schema import own_values
from workbench.run import rate_text
from workbench.training.background import resume
from workbench.views.card_facts import field_text
from workbench.views.figures import figure_of
from workbench.views.figures_loss import X_TITLES, Along, Curve, axis_of, smoothing_weight
from workbench.views.log_tail import LogTail
from workbench.views.loss_curves import LogColumns, curves, loss_numbers
from workbench.views.overview import run_row, status_reason
from workbench.views.records import duration
from workbench.views.smoothing import smooth, thin
from workbench.views.theme import LIVE_HEIGHT, palette, plain

if TYPE_CHECKING:
    from workbench.run import Run

EVERY = 0.6  # seconds between two updates
FALLBACK_EVERY = 20  # updates between two tables for the saved notebook
FALLBACK_ROWS = 8
POINTS = 1000  # of one line; a browser redraws them twice a second
PHASES = {"train": "training", "trained": "trained", "stopped": "starting again"}
STOPPING = "It stops at the next step, with a checkpoint."
HOVER = "%{x:.4~g}: %{y:.4~g}<extra></extra>"


def live(run: Run) -> Live:
    """Loss, progress, speed, time left, memory, and buttons of a run; follows it by itself until it ends."""
    return Live(run)


def following(run: Run) -> str:
    """The name of the threads that follow a run; they end once their view shows that the run has ended."""
    return f"live {run.path}"


class Live:
    """The view of `live`; the last line of a cell shows it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._tail = LogTail(run.file("log"))
        self._drawn = -1  # log rows
        self._note = ""
        self._lock = threading.Lock()
        self._fallback = Fallback()
        self._set_by_user = _set_by_user(run)
        self._card = None if run.stand_ins else run.card()
        self._replayed = ""
        self._curve = _card_curve(run)
        self.figure = _figure(run, self._curve)
        self.plot = Figure(fallback=self._fallback.name)
        self.head = ipywidgets.HTML()
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="Stop at the next step, with a checkpoint"
        )
        self.resume = ipywidgets.Button(description="Resume", icon="play", tooltip="Resume from the last checkpoint")
        self.stop.on_click(lambda _: self._run_in_thread(self._stop))
        self.resume.on_click(lambda _: self._run_in_thread(self._resume))
        buttons = ipywidgets.HBox([self.stop, self.resume])
        buttons.add_class("wb-buttons")
        self.box = ipywidgets.VBox([self.head, buttons, self.plot])
        self.box.add_class("wb-figures")

    def __repr__(self) -> str:
        return f"<Live view of {self.run!r}>"

    def _ipython_display_(self) -> None:
        self.update()
        display(self.box)  # type: ignore[no-untyped-call]
        self._show_fallback()
        if self.run.status == "running":
            self._follow()

    def update(self) -> bool:
        """Show the present state of the run; return whether it is running."""
        with self._lock:
            status = self.run.status
            if self._note == STOPPING and status != "running":
                self._note = ""
            note = muted_text(text(self._note)) if self._note else ""
            log = self._tail.columns()
            if len(log.steps) != self._drawn:
                self._draw(log)
            self.head.value = block(_head(self.run, status, self._set_by_user, self._replayed) + note)
            self.stop.disabled = status != "running" or self.run.has_stop_request()
            self.resume.disabled = status not in ("stopped", "failed", "interrupted")
        return status == "running"

    def _draw(self, log: LogColumns) -> None:
        self._drawn = len(log.steps)
        numbers = () if self._card is None else loss_numbers(self._card, log)
        self._replayed = f"{sum(each.equal for each in numbers):,} of {len(numbers):,}" if numbers else ""
        progress = self.run.record.get("progress") or {}
        step, steps, epoch = (progress.get(name) or 0 for name in ("step", "steps", "epoch"))
        planned = Curve("planned", [steps or 1], [None], epochs=[epoch])
        along = axis_of([planned, self._curve]) if self._curve else "step"
        lines = _lines(Curve.of_log("run", log), along)
        if self._curve:
            lines.append(thin(*self._curve.points(self._curve.values, along), POINTS))
        for trace, (x, y) in zip(self.figure.data, lines, strict=True):
            trace.x, trace.y = x, y
        end = steps if along == "step" else epoch * steps / max(step, 1)
        self.figure.update_xaxes(title_text=X_TITLES[along], range=[0, max(end, 2 if along == "step" else 0.01)])
        self.plot.put(self.figure)

    def _show_fallback(self) -> None:
        columns = ["step", "loss", "validation loss"]
        table = rows(columns, _losses(self._tail.columns()), columns)
        head = _head(self.run, self.run.status, self._set_by_user, self._replayed)
        with suppress(AttributeError):  # outside a notebook there is no display
            self._fallback.show(head + table, repr(self.run))

    def _follow(self) -> None:
        threading.Thread(target=self._watch, name=following(self.run), daemon=True).start()

    def _watch(self) -> None:
        pause, running, updates = threading.Event(), True, 0
        while running:
            pause.wait(EVERY)
            updates += 1
            try:
                running = self.update()
            except RunError as error:  # the folder was deleted
                self.head.value = block(f'<p class="failed">{text(error)}</p>')
                return
            if not running or updates % FALLBACK_EVERY == 0:
                self._show_fallback()

    def _run_in_thread(self, action: Callable[[], None]) -> None:
        """Do what a button asks, and show what went wrong."""

        def do() -> None:
            try:
                action()
            except WorkbenchError as error:
                self._note = str(error)
            self.update()

        threading.Thread(target=do, daemon=True).start()

    def _stop(self) -> None:
        self.stop.disabled = True
        self.run.stop()
        self._note = STOPPING

    def _resume(self) -> None:
        self._note = "It starts again: rows and base are read …"
        self.update()
        self.resume.disabled = True
        resume(self.run)
        self._note = ""
        self._follow()


def _card_curve(run: Run) -> Curve | None:
    """The losses that the card prints; None if it prints none with a step."""
    card = run.card()
    if card is None or not any(row.step for row in card.training_log):
        return None
    curve = Curve.of_curves(curves(run, card, log=()), card)
    return curve if curve.points(curve.values, "step")[0] else None


def _figure(run: Run, card: Curve | None) -> Any:
    """Three lines that are filled in place, and the card's, which a click on its name shows."""
    colors = palette()
    corrected = run.record.get("variant") == "corrected"
    color = colors.role("corrected" if corrected else "after")
    line = {"color": color, "dash": "dashdot" if corrected else "solid"}
    traces: list[dict[str, Any]] = [
        {"name": "Every step", "mode": "lines", "opacity": 0.4, "line": {**line, "width": 1}, "hoverinfo": "skip"},
        {"name": "Training loss", "mode": "lines", "line": {**line, "width": 2.25}, "hovertemplate": HOVER},
        {
            "name": "Validation loss",
            "mode": "markers",
            "hovertemplate": HOVER,
            "cliponaxis": False,
            "marker": {"symbol": "square", "size": 9, "color": color},
        },
    ]
    if card:
        dashed = {"color": colors.ink, "dash": "dash", "width": 2}
        shown = {"name": f"{plain(card.name, 60)} (click to show)", "visible": "legendonly", "hovertemplate": HOVER}
        traces.append({"mode": "lines", "line": dashed, **shown})
    layout = {"yaxis": {"rangemode": "tozero"}, "uirevision": "live", "height": LIVE_HEIGHT}
    titles = {"x": X_TITLES["step"], "y": "Loss (as the trainer logs it)"}
    figure = figure_of(traces, **titles, dark=False, **layout)  # type: ignore[arg-type]
    figure.layout.margin.r = 44  # room for Plotly's buttons over the figure
    return figure


def _lines(curve: Curve, along: Along) -> list[tuple[list[float], list[float]]]:
    """Points of the thin line (none if the log is short), of the smoothed line, and of the validation loss."""
    x, y = curve.points(curve.values, along)
    weight = smoothing_weight(len(y))
    raw = thin(x, y, POINTS) if weight else ([], [])
    return [raw, thin(x, smooth(y, weight), POINTS), thin(*curve.points(curve.evaluated, along), POINTS)]


def _losses(log: LogColumns) -> list[list[str]]:
    """A few rows of the log, evenly spread, with the last one: step, loss, validation loss."""
    logged = zip(log.steps, log.column("loss"), log.column("eval_loss"), strict=True)
    there = [row for row in logged if row[1] is not None]
    picked = {round(place * (len(there) - 1) / (FALLBACK_ROWS - 1)) for place in range(FALLBACK_ROWS)} if there else ()
    return [
        [f"{step:,}", *("–" if value is None else f"{value:.4g}" for value in losses)]
        for step, *losses in (there[place] for place in sorted(picked))
    ]


def _set_by_user(run: Run) -> str:
    """What the user has set, which distinguishes two runs of one card: ", learning_rate 2e-06"."""
    try:
        values = own_values(run.recipe())
    except WorkbenchError:  # the status of the run says what is wrong
        return ""
    return "".join(f", {path.partition('.')[2]} {field_text(value)}" for path, value in values.items())


def _head(run: Run, status: str, set_by_user: str, replayed: str) -> str:
    """Status, progress, cost, and how many of the card's losses ours equal."""
    if status == "broken":
        return f"<p>{word(status)} {text(status_reason(status, run_row(run)))}</p>"
    record = run.record
    progress = record.get("progress") or {}
    step, steps = int(progress.get("step") or 0), int(progress.get("steps") or 0)
    base, device = (record.get("base") or {}).get("model"), record.get("device") or "unknown device"
    name = f"<b>{text(record.get('card') or run.name)}</b>, {text(record.get('variant') or 'as written')}"
    facts = "".join(f"<span>{name} <b>{text(value)}</b></span>" for name, value in _facts(record, status, replayed))
    why = status_reason(status, run_row(run)) if status != "running" else ""
    return (
        f'<p>{word(status)} {name}{text(set_by_user)} <span class="muted">from {text(base)}, {text(device)}</span></p>'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="{steps}" aria-valuenow="{step}">'
        f'<i style="width: {100 * step / max(steps, 1):.1f}%"></i></div><div class="facts">{facts}</div>'
        + (muted_text(code(why)) if why else "")
    )


def _facts(record: Mapping[str, Any], status: str, replayed: str) -> list[tuple[str, str]]:
    progress = record.get("progress") or {}
    running = status == "running"
    memory = _memory(record.get("process") or {}) if running else record.get("peak_memory")
    what, _, stage = str(progress.get("phase") or "preparing").partition(" ")  # "measure step-40"
    doing = f"measuring {stage.replace('step-', 'at step ')}" if what == "measure" else PHASES.get(what, what)
    seconds = progress.get("seconds_left") if running else record.get("seconds")
    found = [
        ("", doing if running else None),
        ("step", f"{progress.get('step') or 0:,} of {progress['steps']:,}" if progress.get("steps") else None),
        ("epoch", None if progress.get("epoch") is None else f"{progress['epoch']:.2f}"),
        (
            "rows/s",
            rate_text(progress["rows_per_second"]).removesuffix(" rows/s") if progress.get("rows_per_second") else None,
        ),
        ("left" if running else "took", None if seconds is None else duration(seconds)),
        ("card's losses replayed", replayed or None),
        ("memory" if running else "peak memory", f"{memory / 2**30:.2f} GiB" if memory else None),
    ]
    return [(name, value) for name, value in found if value is not None]


def _memory(process: Mapping[str, Any]) -> int | None:
    """Bytes of main memory of the training's process; None if it is on another machine or gone."""
    if process.get("host") != socket.gethostname() or "pid" not in process:
        return None
    try:
        resident: int = psutil.Process(int(process["pid"])).memory_info().rss
    except psutil.Error:
        return None
    return resident
