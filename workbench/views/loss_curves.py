"""The card's training log and a run's on one axis, with the corrections that make them comparable.

A trainer logs the mean loss of the steps since its last row; a run keeps every step. So a run's losses are averaged
over the steps that each of the card's rows covers. What the card's numbers imply is corrected, and each correction is
a sentence for the plot: losses summed over accumulation steps are divided, the rows of several processes are counted.
The trainer logs the mean over processes, which is comparable as it is.

Plain values; `figures_loss` draws them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal, get_args

from workbench.errors import RunError, WorkbenchError
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card, LogRow
    from workbench.cards.inference import Inferred
    from workbench.evaluation.replay import Number

Axis = Literal["steps", "epochs", "rows", "seconds"]

EPOCH_ROUNDING = 0.5e-4 + 1e-9  # half of the last printed place of the card's epochs
NUMBERS = frozenset({int, float})  # not bool
PART = "components/"  # before the name of a part of a loss


def best_kept(run: Run) -> int | None:
    """The step of the best checkpoint where the run kept that one; None where it kept the last, or is no whole run."""
    try:
        best, training = run.record.get("best") or {}, run.recipe().training
    except WorkbenchError:
        return None
    step: int | None = best.get("step") if training.load_best_model_at_end else None
    return step


@dataclass(frozen=True)
class LogColumns:
    """A training log by columns, in order of step: a tenth of the memory and time of its rows, of which there are many.

    A part of a loss is the column `PART` + its name.

    >>> log = LogColumns.of([{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.4, "components": {"a": 0.1}}])
    >>> log.steps, log.column("loss"), log.column("components/a")
    ([2, 4], [0.5, 0.4], [None, 0.1])
    """

    steps: list[int] = field(default_factory=list)
    columns: dict[str, list[float | None]] = field(
        default_factory=dict
    )  # as long as `steps`, None: no number; in order of arrival

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> LogColumns:
        """From the rows of `Run.log()`; those without a step are left out."""
        made = cls()
        made.extend(rows)
        return made

    def column(self, name: str) -> list[float | None]:
        """What was logged under a name, None for every step where nothing was."""
        return self.columns.get(name) or [None] * len(self.steps)

    def copy(self) -> LogColumns:
        """The log as it is now, for a reader that keeps it while this one grows."""
        return LogColumns(list(self.steps), {name: list(column) for name, column in self.columns.items()})

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take more rows. One of a known step, as after a resume, adds to it, its values winning."""
        for row in rows:
            step, parts = row.get("step"), row.get("components")
            if not isinstance(step, int):
                continue
            place = len(self.steps) if not self.steps or step > self.steps[-1] else bisect_left(self.steps, step)
            if place == len(self.steps) or self.steps[place] != step:
                self.steps.insert(place, step)
                for column in self.columns.values():
                    column.insert(place, None)
            named = [(PART + name, value) for name, value in parts.items()] if isinstance(parts, dict) else ()
            for name, value in (*row.items(), *named):
                if type(value) in NUMBERS and name != "step":
                    if name not in self.columns:
                        self.columns[name] = [None] * len(self.steps)
                    self.columns[name][place] = value


@dataclass(frozen=True)
class Line:
    """One curve. Sequences are parallel."""

    x: tuple[float, ...] = ()  # in units of the axis
    values: tuple[float, ...] = ()  # loss, corrected where a sentence says so
    steps: tuple[int, ...] = ()  # optimizer steps, whatever the axis

    @classmethod
    def of(cls, points: Iterable[tuple[float, float, int]]) -> Line:
        return cls(*zip(*points, strict=True))


@dataclass(frozen=True)
class Curves:
    """A card's log and a run's, ready to be drawn one over the other."""

    card: Line  # training loss, a point for each row of the card's log
    card_validation: Line
    run: Line  # the run's, averaged over the same steps, at the card's x; only as far as the run has got
    divided: int  # what the card's losses are divided by; 1: they are as printed
    sentences: tuple[str, ...]  # corrections and what the points are, for the plot


def curves(
    run: Run,
    card: Card | None = None,
    *,
    axis: Axis = "steps",
    log: LogColumns | Sequence[dict[str, Any]] | None = None,
) -> Curves:
    """The log of `card` (without one, the run's own) and that of `run`, both along `axis`.

    `log` is the run's, if it is read already. Steps and epochs are as logged. Rows are steps times rows per step; a
    short last batch counts as a full one. A card prints at most how long training took, so its seconds are spread
    evenly.

    Raises RunError for an unknown axis, a run without a card, and a card without a training log.
    """
    from workbench.cards import lookup
    from workbench.cards.inference import infer

    if axis not in get_args(Axis):
        raise RunError(f"expected an axis of {', '.join(get_args(Axis))}, found {axis!r}; choose one.")
    card = card or run.card()
    if card is None:
        raise RunError(f"expected a card to compare run {run.name!r} with, found none; name one.")
    rows = tuple(row for row in lookup.last_run(card) if row.step)
    if not rows:
        raise RunError(f"expected a training log on the card {card.name!r}, found none; there is nothing to draw.")
    implied = infer(card)
    x = _card_x(rows, implied, axis)
    theirs = _card_line([(x[place], row.step, row.training_loss) for place, row in enumerate(rows)], implied.summed)
    if not isinstance(log, LogColumns):
        log = LogColumns.of(run.log() if log is None else log)
    training = run.recipe().training
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    per_step *= int(run.record.get("processes") or 1)
    averaged = _average(_run_line(log, axis, per_step), theirs, implied.logging_steps, axis)
    sentences = [
        *_corrections(card, implied, axis, per_step),
        *_placement(card, implied, axis, bool(theirs.x)),
        *(f"The curves need not agree: {note}" for note in run.stand_ins),
        *([] if axis == "seconds" else _distance(theirs, averaged, axis)),
    ]
    return Curves(
        card=theirs,
        card_validation=_card_line([(x[place], row.step, row.validation_loss) for place, row in enumerate(rows)], 1),
        run=averaged,
        divided=implied.summed,
        sentences=tuple(sentences),
    )


def from_start(run: Run, log: LogColumns, key: str) -> LogColumns:
    """The log with what the base measured before training as step 0, where `key` is a metric of an evaluation."""
    names = [name for name, stages in run.evaluations().items() if "before" in stages and key.startswith(f"{name}_")]
    value = run.metrics(max(names, key=len), "before").get(key[len(max(names, key=len)) + 1 :]) if names else None
    if value is None or key not in log.columns:
        return log
    whole = log.copy()
    whole.extend([{"step": 0, "epoch": 0.0, "time": 0.0, key: value}])
    return whole


def loss_numbers(card: Card, log: LogColumns | Iterable[Mapping[str, Any]]) -> tuple[Number, ...]:
    """The losses of the card's log that a run's log has at the same steps, too, and whether they are equal."""
    from workbench.evaluation.replay import logged_numbers

    columns = log if isinstance(log, LogColumns) else LogColumns.of(log)
    logged = zip(columns.steps, columns.column("loss"), columns.column("eval_loss"), strict=True)
    rows = [
        {"step": step} | {name: value for name, value in (("loss", loss), ("eval_loss", held)) if value is not None}
        for step, loss, held in logged
    ]
    return tuple(each for each in logged_numbers(card, rows, {}, {}) if math.isfinite(each.ours))


def _card_x(rows: Sequence[LogRow], implied: Inferred, axis: Axis) -> list[float | None]:
    """The place of each row of the card on the axis; None where the card does not say."""
    if axis == "epochs":
        return [row.epoch for row in rows]
    steps = [row.step or 0 for row in rows]
    if axis == "steps":
        return [float(step) for step in steps]
    if axis == "rows":
        return [None if implied.rows_per_step is None else float(step * implied.rows_per_step) for step in steps]
    last = max(*steps, implied.planned_steps or 0)
    return [None if implied.seconds is None else step / last * implied.seconds for step in steps]


def _card_line(points: Iterable[tuple[float | None, int | None, float | None]], divided: int) -> Line:
    """The points that have a place on the axis and a finite value."""
    return Line.of(
        (x, value / divided, step)
        for x, step, value in points
        if x is not None and step is not None and value is not None and math.isfinite(value)
    )


def _run_line(log: LogColumns, axis: Axis, per_step: int) -> Line:
    """The logged losses where they and their place on the axis are finite numbers."""
    x = {"epochs": log.column("epoch"), "seconds": log.column("time")}.get(axis, log.steps)
    scale = per_step if axis == "rows" else 1
    return Line.of(
        (at * scale, value, step)
        for at, value, step in zip(x, log.column("loss"), log.steps, strict=True)
        if at is not None and value is not None and math.isfinite(at) and math.isfinite(value)
    )


def _average(ours: Line, theirs: Line, every: int, axis: Axis) -> Line:
    """Means of `ours` over the steps that each point of `theirs` covers, as far as ours has got.

    A point covers the steps since the one before it. A gap wider than the logging interval `every` has rows missing,
    and the point covers only the interval.
    """
    slack = EPOCH_ROUNDING if axis == "epochs" else 0.0
    end = ours.x[-1] if ours.x else -math.inf
    points = []
    for x, step, last in zip(theirs.x, theirs.steps, (0, *theirs.steps), strict=False):
        start = x * (1 - min(step - last, every) / step)
        covered = ours.values[bisect_right(ours.x, start + slack) : bisect_right(ours.x, x + slack)]
        if end + slack >= x and covered:
            points.append((x, fmean(covered), step))
    return Line.of(points)


def _corrections(card: Card, implied: Inferred, axis: Axis, per_step: int) -> Iterator[str]:
    from workbench.cards import lookup

    if implied.summed > 1:
        version = lookup.version(card, "Transformers")
        yield (
            f"The card's losses are divided by {implied.summed}: transformers {version} logged their sum over the "
            "accumulation steps."
        )
    shared = implied.division.shared if implied.division is not None else None
    if shared is not None and shared.processes > 1:
        yield (
            f"{shared.processes} processes trained the card's model, as its epochs show: a step saw "
            f"{implied.rows_per_step:,} rows. Its logged loss is the mean over the processes."
        )
    if axis == "steps" and implied.rows_per_step not in (None, per_step):
        yield (
            f"A step of the card saw {implied.rows_per_step:,} rows, one of this run {per_step:,}: at equal steps they "
            "have seen different numbers of rows."
        )
    if (joined := len(lookup.runs(card))) > 1:
        yield f"The card's log holds {joined} runs; the last one is drawn."


def _placement(card: Card, implied: Inferred, axis: Axis, drawn: bool) -> Iterator[str]:
    """Why the card is not on this axis, or how its points got there."""
    if axis == "seconds" and implied.seconds is None:
        yield "The card does not say how long it trained, so it has no curve over time."
    elif axis == "rows" and implied.rows_per_step is None:
        yield "The card does not say its batch size, so it has no curve over rows."
    elif not drawn:
        yield f"The card {card.name!r} prints no training loss."
    elif axis == "seconds":
        yield f"The card trained for {implied.seconds:,.0f} seconds; its points are spread over them evenly."
    if drawn:
        yield (
            f"A point of the card is the mean of {implied.logging_steps:,} steps; this run's are averaged over the "
            "same steps."
        )


def _distance(theirs: Line, ours: Line, axis: Axis) -> list[str]:
    """How far the run is from the card at the points that both have."""
    card = dict(zip(theirs.x, theirs.values, strict=True))
    pairs = [(value, card[x], x) for x, value in zip(ours.x, ours.values, strict=True)]
    if not pairs:
        return []
    gaps = [(abs(value - other), x) for value, other, x in pairs]
    largest, at = max(gaps, key=lambda gap: gap[0])
    where = f"{at:.2f}" if axis == "epochs" else f"{at:,.0f}"
    ratios = [value / other for value, other, _ in pairs if other]
    known = len(ratios) == len(pairs)
    ratio = f"; the median ratio of this run to the card is {median(ratios):.2f}" if known else ""
    return [
        f"At {len(pairs):,} common point{'s' * (len(pairs) > 1)} the losses differ by "
        f"{fmean(gap for gap, _ in gaps):.4f} on average, at most by {largest:.4f} (at {where} {axis}){ratio}."
    ]
