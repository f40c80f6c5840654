"""Training logs of runs and cards -> Plotly figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal

from workbench.views.figures import Trace, figure_of, marker_of
from workbench.views.loss_curves import LogColumns
from workbench.views.smoothing import POINTS, smooth, spikes, thin
from workbench.views.theme import DIFFERENCE_HEIGHT, HEIGHT, TICK_SIZE, Palette, Role, palette, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from workbench.cards.card import Card
    from workbench.evaluation.replay import Number
    from workbench.views.loss_curves import Curves

Along = Literal["step", "epoch", "rows", "time"]
PANEL_HEIGHT = 210  # pixels
PANEL_GAP = 0.05  # between two panels, of the height of all


@dataclass(frozen=True)
class Curve:
    """One training log for drawing. Sequences are parallel; None where nothing was logged at that step."""

    name: str
    steps: Sequence[float]  # optimizer steps
    values: Sequence[float | None]  # training loss, or another logged quantity
    evaluated: Sequence[float | None] = ()  # validation loss; empty for none at all
    epochs: Sequence[float | None] = ()
    role: Role = "after"
    kept: float | None = None  # step of the checkpoint that was kept
    times: Sequence[float | None] = ()  # minutes since the start
    rows: int | None = None  # training rows of one epoch
    saved: Sequence[int] = ()  # steps of the checkpoints that are still there
    noisy: bool = True  # False: each value is as it is meant, such as a learning rate, and is never smoothed
    means: Sequence[tuple[float, float]] = ()  # (x, mean of the steps that a row of the card's log covers)

    @classmethod
    def of_log(
        cls,
        name: str,
        rows: LogColumns | Iterable[Mapping[str, Any]],
        *,
        role: Role = "after",
        key: str = "loss",
        kept: float | None = None,
        train_rows: int | None = None,
        saved: Sequence[int] = (),
    ) -> Curve:
        """From the rows of `Run.log()`, or the same by columns.

        `key` is the quantity: loss, learning_rate, grad_norm, rows_per_second, a metric, or a part of the loss,
        "components/NAME". `train_rows` are those of one epoch.
        """
        log = rows if isinstance(rows, LogColumns) else LogColumns.of(rows)
        return cls(
            name=name,
            steps=log.steps,
            values=log.column(key),
            evaluated=log.column("eval_loss") if key == "loss" else (),
            epochs=log.column("epoch"),
            role=role,
            kept=kept,
            times=[None if time is None else time / 60 for time in log.column("time")],
            rows=train_rows,
            saved=tuple(saved),
            noisy=is_noisy(key),
        )

    @classmethod
    def of_card(cls, card: Card) -> Curve:
        """The log that the card prints, without rows that have no step or a negative one."""
        sizes = [dataset.size for dataset in card.datasets if dataset.role == "train"]
        rows = [row for row in card.training_log if row.step is not None and row.step >= 0]
        return cls(
            name=f"Card: {card.name}",
            steps=[row.step or 0 for row in rows],
            values=[row.training_loss for row in rows],
            evaluated=[row.validation_loss for row in rows],
            epochs=[row.epoch for row in rows],
            role="card",
            kept=next((row.step for row in rows if row.saved), None),
            rows=sum(size or 0 for size in sizes) or None if None not in sizes else None,
        )

    @classmethod
    def of_curves(cls, found: Curves, card: Card) -> Curve:
        """The card's log along the axis of `found`, with its corrections; the name says how losses were divided."""
        train = dict(zip(found.card.steps, found.card.values, strict=True))
        held = dict(zip(found.card_validation.steps, found.card_validation.values, strict=True))
        parts = (found.card, found.card_validation)
        x = {step: at for part in parts for step, at in zip(part.steps, part.x, strict=True)}
        steps = sorted(x)
        return cls(
            name=f"Card: {card.name}" + (f", loss divided by {found.divided}" if found.divided > 1 else ""),
            steps=steps,
            values=[train.get(step) for step in steps],
            evaluated=[held.get(step) for step in steps],
            epochs=[x[step] for step in steps],  # the axis is epochs, or it is rows and one "epoch" is one row
            role="card",
            kept=next((row.step for row in card.training_log if row.saved and row.step), None),
            times=[x[step] / 60 for step in steps],
            rows=1,
        )

    def along(self, x: Along) -> Sequence[float | None]:
        """The place of each logged row on the axis `x`; empty or None where unknown."""
        if x == "rows":
            return [None if epoch is None or self.rows is None else epoch * self.rows for epoch in self.epochs]
        return {"step": self.steps, "epoch": self.epochs, "time": self.times}[x]

    def points(self, values: Sequence[float | None], x: Along) -> tuple[list[float], list[float]]:
        """The logged points of `values` over `x`; NaN and infinite values stay in."""
        along = self.along(x)
        there = [a is not None and b is not None for a, b in zip(along, values, strict=False)]
        return list(map(float, compress(along, there))), list(map(float, compress(values, there)))  # type: ignore[arg-type]


X_TITLES: dict[Along, str] = {
    "step": "Step (optimizer updates)",
    "epoch": "Epoch (passes over the training rows)",
    "rows": "Training rows seen (count)",
    "time": "Time since the start (minutes)",
}
SMOOTH_FROM = 40  # points; a shorter log is drawn as it is


def is_noisy(key: str) -> bool:
    """Whether a logged quantity is noise around a trend, which smoothing shows.

    >>> is_noisy("loss"), is_noisy("learning_rate"), is_noisy("test_cosine_ndcg@10")
    (True, False, False)
    """
    return key.partition("/")[0] in ("loss", "grad_norm", "rows_per_second", "components")


def smoothing_weight(points: int) -> float:
    """The weight of `smooth` for a log of so many points: an average over a twentieth of it, at most 50 points."""
    return 0.0 if points < SMOOTH_FROM else 1 - 1 / min(max(points / 20, 1.0), 50.0)


def axis_of(curves: Sequence[Curve]) -> Literal["step", "epoch"]:
    """Epochs if the longest log has over 1.1 times the steps of the shortest and all have epochs, else steps."""
    lengths = [max(curve.steps) for curve in curves if curve.steps]
    by_epoch = all(any(epoch is not None for epoch in curve.epochs) for curve in curves if curve.steps)
    return "epoch" if by_epoch and len(lengths) > 1 and max(lengths) > 1.1 * min(lengths) else "step"


def loss_curves(
    runs: Sequence[Curve],
    *,
    x: Along = "step",
    log: bool = False,
    smoothing: float | None = None,
    mark_spikes: bool = False,
    points: int = POINTS,
    quantity: str = "Loss (as the trainer logs it)",
    dark: bool = False,
    height: int = HEIGHT,
    groups: Mapping[str, str] | None = None,
) -> Figure:
    """Training and validation loss of runs and of their card over steps, epochs, rows, or minutes.

    The raw line stays visible under the smoothed one. `smoothing` is the weight of `smooth`, None for
    `smoothing_weight`. A cross marks a value that is not finite; `mark_spikes` marks what `spikes` finds. `groups`
    (name of a run -> its group) give many runs a color and a legend entry for each group; the hover names the run.
    """
    colors = palette(dark=dark)
    traces: list[Trace] = []
    others = 0
    named = list(dict.fromkeys((groups or {}).values()))
    for run in runs:
        group = (groups or {}).get(run.name)
        color = colors.role(run.role, others) if group is None else colors.role("other", named.index(group))
        others += run.role == "other"
        drawn = _training(run, x, color, smoothing, points, log)
        drawn += _validation(run, x, color, points, log)
        drawn += _marks(run, x, colors, color, log, mark_spikes)
        drawn += _not_finite(run, x, colors.worse, log)
        traces += [each if group is None else {**each, "legendgroup": group, "showlegend": False} for each in drawn]
    for place, group in enumerate(named):
        marker = {"color": colors.role("other", place), "size": 9}
        line = {"x": [None], "y": [None], "mode": "lines+markers", "marker": marker}
        traces.append({**line, "name": plain(group, 60), "legendgroup": group})
    y_axis = {"type": "log"} if log else {"rangemode": "tozero"}
    title = quantity + (", log scale" if log else "")
    figure = figure_of(traces, x=X_TITLES[x], y=title, dark=dark, height=height, yaxis=y_axis)
    end = max((at for run in runs for at in run.along(x) if at is not None), default=0.0)
    for run in runs:
        _mark_kept(figure, run, x, end, colors)
    return figure


def stacked(figures: Sequence[Figure], *, dark: bool = False, height: int = PANEL_HEIGHT) -> Figure:
    """Figures over the same quantity, one below the other: they zoom and hover together, with one legend.

    `height` is that of one panel, in pixels.
    """
    count, gap = len(figures), PANEL_GAP
    share = (1 - gap * (count - 1)) / count
    traces, axes, seen = [], dict[str, Any](), set[str]()
    for place, figure in enumerate(figures, 1):
        end = "" if place == 1 else str(place)
        top = 1 - (place - 1) * (share + gap)
        axes[f"yaxis{end}"] = figure.layout.yaxis.to_plotly_json() | {"domain": [max(top - share, 0), top]}
        for trace in figure.data:
            shown = trace.showlegend is not False and trace.name not in seen
            seen |= {str(trace.name)} if shown else set()
            trace.update(xaxis="x", yaxis=f"y{end}", showlegend=shown, legendgroup=trace.legendgroup or trace.name)
            traces.append(trace)
    title = figures[0].layout.xaxis.title.text
    made = figure_of(traces, x=title, y="", dark=dark, height=height * count + 90, **axes)
    made.update_layout(hovermode="x", hoversubplots="axis")
    made.update_xaxes(anchor=f"y{count if count > 1 else ''}")
    return made


def loss_differences(
    runs: Mapping[str, Sequence[Number]], *, dark: bool = False, height: int = DIFFERENCE_HEIGHT
) -> Figure:
    """card - ours of every loss that the card logs, over steps; name of a run -> its numbers of the replay.

    Within the band two numbers are equal: half of the last printed digit. What is outside is a cross.
    """
    colors = palette(dark=dark)
    traces: list[Trace] = []
    band = sorted({(each.step, each.tolerance) for numbers in runs.values() for each in numbers})
    if band:
        ends = [*((step, size) for step, size in band), *((step, -size) for step, size in reversed(band))]
        traces.append(
            {
                "x": [step for step, _ in ends],
                "y": [size for _, size in ends],
                "mode": "lines",
                "fill": "toself",
                "fillcolor": f"{colors.better}40",
                "line": {"color": colors.better, "width": 1},
                "hoverinfo": "skip",
                "name": "Equal: half a printed digit",
            }
        )
    for place, (name, numbers) in enumerate(runs.items()):
        color = colors.role("other", place - 1) if place else colors.after
        outside = color if len(runs) > 1 else colors.worse
        for loss, symbol in (("Training Loss", "circle"), ("Validation Loss", "square")):
            label = f"{plain(name, 60)}, {loss.lower()}" if name else loss.capitalize()
            for word, marker in (
                ("equal", marker_of(color, symbol, 8)),
                ("different", marker_of(outside, f"{symbol}-x-open", 9)),
            ):
                points = [each for each in numbers if each.name == loss and each.equal == (word == "equal")]
                traces += _difference_marks(f"{label}, {word} ({len(points):,})", points, marker)
    sizes = [abs(each.difference) for numbers in runs.values() for each in numbers]
    reach = 1.15 * max([*sizes, *(2 * size for _, size in band)], default=1.0)
    axis = {"range": [-reach, reach], "exponentformat": "none", "zeroline": True, "zerolinecolor": colors.grid}
    along = {"rangemode": "tozero"}
    return figure_of(
        traces, x=X_TITLES["step"], y="Card − ours (loss)", dark=dark, height=height, xaxis=along, yaxis=axis
    )


def _difference_marks(label: str, points: Sequence[Number], marker: dict[str, Any]) -> list[Trace]:
    trace = {
        "x": [each.step for each in points],
        "y": [each.difference for each in points],
        "mode": "markers",
        "name": label,
        "marker": marker,
        "cliponaxis": False,
        "text": [plain(str(each)) for each in points],
        "hovertemplate": "%{text}<br>card − ours %{y:+.6f}<extra></extra>",
    }
    return [trace] if points else []


def _over(run: Curve, x: Along, points: tuple[Sequence[float], Sequence[float]], what: str = "", **more: Any) -> Trace:
    """A trace of `run` over `x`; `what` follows its name in legend and hover label."""
    name = plain(run.name, 60)
    label = f"{name}, {what}" if what else name
    return {
        "x": points[0],
        "y": points[1],
        "mode": "markers",
        "name": label,
        "legendgroup": name,
        "cliponaxis": False,
        "hovertemplate": f"{label}<br>{x} %{{x:,.4~f}}<br>%{{y:.4~g}}<extra></extra>",
        **more,
    }


def _training(run: Curve, x: Along, color: str, smoothing: float | None, points: int, log: bool) -> list[Trace]:
    """The line as logged, and a smoothed one over it if it is long."""
    along, values = run.points(run.values, x)
    weight = 0.0 if not run.noisy else smoothing_weight(len(values)) if smoothing is None else smoothing
    raw = thin(along, _drawable(values, log), points)
    if not raw[0]:
        return []
    dash = {"card": "dash", "corrected": "dashdot"}.get(run.role, "solid")
    line = _over(run, x, raw, line={"color": color, "width": 2.25, "dash": dash}, marker={"color": color, "size": 5})
    line["mode"] = "lines+markers" if len(values) < SMOOTH_FROM else "lines"
    if not weight:
        return [line]
    thinned = thin(along, _drawable(smooth(values, weight), log), points)
    smoothed = dict(zip(("x", "y"), thinned, strict=True))
    hover = line["hovertemplate"].replace("<extra>", f", smoothed with weight {weight:.2f}<extra>")
    faint = {"mode": "lines", "line": {"color": color, "width": 1}, "opacity": 0.4, "showlegend": False}
    return [_over(run, x, raw, "every logged point", **faint), {**line, **smoothed, "hovertemplate": hover}]


def _validation(run: Curve, x: Along, color: str, points: int, log: bool) -> list[Trace]:
    along, values = run.points(run.evaluated, x)
    places = thin(along, _drawable(values, log), points)
    symbol = "square-open" if run.role in ("card", "before") else "square"
    return [_over(run, x, places, "validation", marker=marker_of(color, symbol, 9))] if places[0] else []


def _marks(run: Curve, x: Along, colors: Palette, color: str, log: bool, mark_spikes: bool) -> list[Trace]:
    """Marks on a logged line: spikes, checkpoints on the disk, means over the steps that the card's rows cover."""
    along, values = run.points(run.values, x)
    values = _drawable(values, log)
    steep = spikes(values) if mark_spikes and run.role != "card" else ()
    steps = set(run.saved)
    saved = {at for step, at in zip(run.steps, run.along(x), strict=False) if step in steps}
    marks = (
        ("spike", [(along[place], values[place]) for place in steep], colors.worse, "triangle-up-open", 9),
        ("saved checkpoint", [each for each in zip(along, values, strict=True) if each[0] in saved], colors.ink,
         "circle-open", 9),
        ("mean over the card's stretch", list(run.means), color, "circle", 10),
    )  # fmt: skip
    return [
        _over(run, x, tuple(zip(*places, strict=True)), what, showlegend=False, marker=marker_of(shade, symbol, size))  # type: ignore[arg-type]
        for what, places, shade, symbol, size in marks
        if places
    ]


def _not_finite(run: Curve, x: Along, color: str, log: bool) -> list[Trace]:
    """Crosses at the height of the lowest drawn value."""
    along, values = run.points(run.values, x)
    places = [at for at, value in zip(along, values, strict=True) if not math.isfinite(value)][:POINTS]
    floor = min((value for value in _drawable(values, log) if math.isfinite(value)), default=1.0)
    cross = _over(run, x, (places, [floor] * len(places)), "not a finite number", marker=marker_of(color, "x", 9))
    cross["hovertemplate"] = cross["hovertemplate"].replace("<br>%{y:.4~g}", "")
    return [cross] if places else []


def _drawable(values: list[float], log: bool) -> list[float]:
    """Values that a log axis cannot show become NaN there, which `thin` leaves out."""
    return [math.nan if value <= 0 else value for value in values] if log else values


def _mark_kept(figure: Figure, run: Curve, x: Along, end: float, colors: Palette) -> None:
    """A dotted line at the checkpoint that was kept, labeled on the side that has room."""
    place = run.kept
    if x != "step" and place is not None:
        place = {step: at for step, at in zip(run.steps, run.along(x), strict=False) if at is not None}.get(place)
    if place is None:
        return
    figure.add_vline(x=place, line={"color": colors.muted, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=place,
        y=1,
        yref="paper",
        yanchor="top",
        xanchor="left" if place < end / 3 else "right",
        text=" card's checkpoint " if run.role == "card" else " best, kept ",
        showarrow=False,
        font={"size": TICK_SIZE, "color": colors.muted},
    )
