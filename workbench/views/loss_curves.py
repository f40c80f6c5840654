"""The card's training log and a run's on one axis, with what has to be corrected before they can be compared.

A trainer logs the mean loss of the steps since its last row; a run keeps every step. So a run's losses are averaged
over the stretches that the card's rows stand for. What the audit knows of the card's log is corrected, and every
correction is a sentence that belongs on the plot: losses summed over the accumulation steps are divided, the rows of
several processes are counted. The mean over processes, which the trainer logs, is comparable as it is.

Plain values; `figures` draws them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import RunError
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card

Axis = Literal["steps", "epochs", "rows", "seconds"]
AXES: dict[Axis, str] = {
    "steps": "Optimizer steps",
    "epochs": "Epochs (passes over the training rows)",
    "rows": "Training rows seen",
    "seconds": "Seconds since the start",
}
"""Axis -> its title."""

EPOCH_PLACES = 0.5e-4 + 1e-9  # half of the last printed place of the card's epochs


NUMBERS = frozenset({int, float})  # not bool
PART = "components/"  # before the name of a part of a loss


@dataclass(frozen=True)
class LogColumns:
    """A training log by columns, in order of step: a tenth of the memory and time of its rows, of which there are many.

    A part of a loss is the column `PART` + its name.

    >>> log = LogColumns.of([{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.4, "components": {"a": 0.1}}])
    >>> log.steps, log.column("loss"), log.column("components/a")
    ([2, 4], [0.5, 0.4], [None, 0.1])
    """

    steps: list[int] = field(default_factory=list)
    columns: dict[str, list[float | None]] = field(default_factory=dict)  # each as long as `steps`; None: no number

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> LogColumns:
        """From the rows of `Run.log()`; those without a step are left out."""
        made = cls()
        made.extend(rows)
        return made

    def column(self, name: str) -> list[float | None]:
        """What was logged under a name, None for every step where nothing was."""
        return self.columns.get(name) or [None] * len(self.steps)

    def names(self) -> tuple[str, ...]:
        """Columns that hold a number, in the order in which they came."""
        return tuple(name for name, column in self.columns.items() if any(value is not None for value in column))

    def copy(self) -> LogColumns:
        """The log as it is now, for a reader that keeps it while this one grows."""
        return LogColumns(list(self.steps), {name: list(column) for name, column in self.columns.items()})

    def rows(self) -> list[dict[str, Any]]:
        """The rows that have these columns, as `Run.log()` gives them."""
        found: list[dict[str, Any]] = [{"step": step} for step in self.steps]
        for name, column in self.columns.items():
            part = name.removeprefix(PART)
            for row, value in zip(found, column, strict=True):
                if value is not None:
                    (row if part == name else row.setdefault("components", {}))[part] = value
        return found

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take more rows. One of a step that is there already adds to it, its values winning."""
        new = [row for row in rows if isinstance(row.get("step"), int)]
        parts = [found if isinstance(found := row.get("components"), dict) else {} for row in new]
        for head, values in (("", new), (PART, parts)):
            known = {name.removeprefix(head) for name in self.columns if name.startswith(head)}
            known |= set() if head else {"step", "components"}
            for row in values:
                if not row.keys() <= known:
                    self.columns.update({head + name: [None] * len(self.steps) for name in row if name not in known})
                    known.update(row)
        steps = [row["step"] for row in new]
        if any(one >= next for one, next in pairwise([*self.steps[-1:], *steps])):
            for row, part in zip(new, parts, strict=True):
                self._take(row, part)
            return
        self.steps.extend(steps)
        for name, column in self.columns.items():
            values, key = parts if name.startswith(PART) else new, name.removeprefix(PART)
            column.extend([value if type(value := row.get(key)) in NUMBERS else None for row in values])

    def _take(self, row: Mapping[str, Any], part: Mapping[str, Any]) -> None:
        """A row whose step may lie anywhere, as after a training that was resumed."""
        place = bisect_left(self.steps, row["step"])
        if place == len(self.steps) or self.steps[place] != row["step"]:
            self.steps.insert(place, row["step"])
            for column in self.columns.values():
                column.insert(place, None)
        for name, column in self.columns.items():
            values = part if name.startswith(PART) else row
            if type(value := values.get(name.removeprefix(PART))) in NUMBERS:
                column[place] = value


@dataclass(frozen=True)
class Line:
    """One curve. Sequences are parallel."""

    name: str
    role: Literal["card", "after"]
    x: tuple[float, ...] = ()  # in units of the axis
    values: tuple[float, ...] = ()  # loss, corrected where a sentence says so
    steps: tuple[int, ...] = ()  # optimizer steps, whatever the axis
    lines: tuple[int | None, ...] = ()  # of the card; empty for a run


@dataclass(frozen=True)
class Distance:
    """How far a run's curve is from the card's where both have a point."""

    points: int
    mean: float  # run - card
    absolute: float  # mean of |run - card|
    largest: float  # the run - card that is farthest from 0
    at: float  # where that is, on the axis
    ratio: float | None  # median of run / card; None where the card has a loss of 0


@dataclass(frozen=True)
class Curves:
    """A card's log and a run's, ready to be drawn one over the other."""

    axis: Axis
    title: str  # of the axis
    card: Line  # training loss, a point for each row of the card's log
    run: Line  # ours, averaged over the same stretches, at the card's x; only where the run has got so far
    every_step: Line  # ours, as logged
    card_validation: Line
    run_validation: Line
    distance: Distance | None  # None without common points, and on the axis of seconds
    divided: int  # by how much the card's losses are; 1: they are as it prints them
    sentences: tuple[str, ...]  # corrections and what the points are, to be shown on the plot


def curves(
    run: Run,
    card: Card | None = None,
    *,
    axis: Axis = "steps",
    corrected: bool = True,
    log: LogColumns | Sequence[dict[str, Any]] | None = None,
) -> Curves:
    """The log of `card` (without one, the run's own) and that of `run`, both along `axis`.

    `log` is the run's, where it is read already.
    Steps and epochs are as logged. Rows are steps times rows per step; a short last batch counts as a full one. A card
    prints at most how long training took, so its seconds are spread evenly. `corrected=False` leaves the card's values
    as it prints them.

    Raises RunError for an unknown axis, a run without a card, and a card without a training log.
    """
    if axis not in AXES:
        raise RunError(f"expected an axis of {', '.join(AXES)}, found {axis!r}; choose one.")
    card = card or run.card()
    if card is None:
        raise RunError(f"expected a card to draw beside run {run.name!r}, found none; name one.")
    facts = _facts(card, corrected)
    if not facts.rows:
        raise RunError(
            f"expected a training log on the card {card.name!r}, found none; nothing can be drawn beside it."
        )
    theirs = _card_line(card, facts, axis, "training_loss")
    per_step = _rows_per_step(run)
    if not isinstance(log, LogColumns):
        log = LogColumns.of(run.log() if log is None else log)
    ours, validation = (_run_line(run, log, axis, per_step, key) for key in ("loss", "eval_loss"))
    averaged = _averaged(ours, theirs, _widths(card, theirs), EPOCH_PLACES if axis == "epochs" else 0.0)
    distance = _distance(theirs, averaged) if axis != "seconds" else None
    return Curves(
        axis=axis,
        title=AXES[axis],
        card=theirs,
        run=averaged,
        every_step=ours,
        card_validation=_card_line(card, facts, axis, "validation_loss"),
        run_validation=validation,
        distance=distance,
        divided=facts.summed,
        sentences=tuple(_sentences(run, card, facts, axis, per_step, theirs, distance)),
    )


# --- the card --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What the audit knows of a card's log."""

    rows: tuple[Any, ...]  # LogRow of the last run
    joined: int  # runs in the log
    summed: int  # by how much logged losses are too large; 1: they are means
    transformers: str  # version that sums
    processes: int
    per_step: int | None  # rows that a step saw; None where the card does not say
    seconds: float | None  # of the whole training
    steps: int  # of the whole training, as far as is known


def _facts(card: Card, corrected: bool) -> _Facts:
    from workbench.cards import lookup
    from workbench.cards.inference import infer

    implied = infer(card)
    rows = tuple(row for row in lookup.last_run(card) if row.step)
    shared = implied.division.shared if implied.division is not None else None
    return _Facts(
        rows=rows,
        joined=len(lookup.runs(card)),
        summed=implied.summed if corrected else 1,
        transformers=str(lookup.version(card, "Transformers")),
        processes=shared.processes if shared is not None else 1,
        per_step=implied.rows_per_step,
        seconds=implied.seconds,
        steps=max(max((row.step or 0 for row in rows), default=0), implied.planned_steps or 0),
    )


def _card_line(card: Card, facts: _Facts, axis: Axis, key: str) -> Line:
    """Rows with a finite `key`; without any point where the card does not say how far along the axis they are."""
    points = []
    for row in facts.rows:
        value = getattr(row, key)
        x = _card_x(row, facts, axis)
        if value is not None and math.isfinite(value) and x is not None:
            points.append((x, value / (facts.summed if key == "training_loss" else 1), row.step, row.line))
    return Line(f"card {card.name}", "card", *_columns(points))


def _columns(points: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*points, strict=True)) if points else ()


def _card_x(row: Any, facts: _Facts, axis: Axis) -> float | None:
    if axis == "epochs":
        return None if row.epoch is None else float(row.epoch)
    if axis == "rows":
        return None if facts.per_step is None else float(row.step * facts.per_step)
    if axis == "seconds":
        return None if facts.seconds is None else row.step / facts.steps * facts.seconds
    return float(row.step)


def _widths(card: Card, line: Line) -> list[float]:
    """Share of its way from 0 that each point of a card stands for: the steps since the row before it, over its step.

    A gap that is wider than the interval of logging has rows missing, and the point stands for the interval alone.
    """
    from workbench.cards.inference import infer

    every = infer(card).logging_steps
    before = (0, *line.steps)
    return [min(step - last, every) / step for last, step in zip(before, line.steps, strict=False)]


# --- the run ---------------------------------------------------------------------------------------------------------


def _rows_per_step(run: Run) -> int:
    training = run.recipe().training
    processes = int(run.record.get("processes") or 1)
    return int(training.per_device_train_batch_size * training.gradient_accumulation_steps * processes)


def _run_line(run: Run, log: LogColumns, axis: Axis, per_step: int, key: str) -> Line:
    """What was logged under a key, where it and its place on the axis are finite numbers."""
    values = log.column(key)
    x = {"epochs": log.column("epoch"), "seconds": log.column("time")}.get(axis, log.steps)
    kept = [_finite(value) and _finite(at) for value, at in zip(values, x, strict=True)]
    scale = per_step if axis == "rows" else 1
    along = tuple(float(at) * scale for at in compress(x, kept))  # type: ignore[arg-type]
    return Line(run.name, "after", along, tuple(compress(values, kept)), tuple(compress(log.steps, kept)))  # type: ignore[arg-type]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _averaged(ours: Line, theirs: Line, widths: Sequence[float], slack: float) -> Line:
    """Means of `ours` over the stretch before each point of `theirs`, where ours has got to its end."""
    points = []
    end = ours.x[-1] if ours.x else -math.inf
    for x, step, width in zip(theirs.x, theirs.steps, widths, strict=True):
        first = bisect_right(ours.x, x * (1 - width) + slack)
        last = bisect_right(ours.x, x + slack)
        if end + slack >= x and last > first:
            points.append((x, fmean(ours.values[first:last]), step))
    return Line(ours.name, ours.role, *_columns(points))


def _distance(theirs: Line, ours: Line) -> Distance | None:
    """At the points that both have; `ours` has those of `theirs` that it got to."""
    card = dict(zip(theirs.x, theirs.values, strict=True))
    pairs = [(x, value, card[x]) for x, value in zip(ours.x, ours.values, strict=True)]
    if not pairs:
        return None
    gaps = [value - other for _, value, other in pairs]
    largest = max(range(len(gaps)), key=lambda place: abs(gaps[place]))
    ratios = [value / other for _, value, other in pairs if other]
    return Distance(
        points=len(pairs),
        mean=fmean(gaps),
        absolute=fmean(map(abs, gaps)),
        largest=gaps[largest],
        at=pairs[largest][0],
        ratio=median(ratios) if len(ratios) == len(pairs) else None,
    )


# --- what is said on the plot ----------------------------------------------------------------------------------------


def _sentences(
    run: Run, card: Card, facts: _Facts, axis: Axis, per_step: int, theirs: Line, distance: Distance | None
) -> list[str]:
    from workbench.cards.inference import infer

    said = []
    if facts.summed > 1:
        said.append(
            f"The card's losses are divided by {facts.summed}: transformers {facts.transformers} logged their sum over "
            "the accumulation steps."
        )
    if facts.processes > 1:
        said.append(
            f"{facts.processes} processes trained the card's model, as its epochs show: a step saw {facts.per_step:,} "
            "rows. Its logged loss is the mean over the processes."
        )
    if axis == "steps" and facts.per_step is not None and facts.per_step != per_step:
        said.append(
            f"A step of the card saw {facts.per_step:,} rows, one of this run {per_step:,}: at equal steps they have "
            "not trained equally far."
        )
    if facts.joined > 1:
        said.append(f"The card's log holds {facts.joined} runs; the last one is drawn.")
    said += _without_points(card, facts, axis, theirs)
    if theirs.x:
        said.append(
            f"A point of the card is the mean of {infer(card).logging_steps:,} steps; this run's are averaged over "
            "the same stretches."
        )
    said += [f"The curves need not agree: {note}" for note in run.stand_ins]
    if distance is not None:
        said.append(_far(distance, axis))
    return said


def _without_points(card: Card, facts: _Facts, axis: Axis, theirs: Line) -> list[str]:
    """Why the card is not on this axis, or how it got there."""
    if axis == "seconds" and facts.seconds is None:
        return ["The card does not say how long it trained, so it has no curve over time."]
    if axis == "seconds" and theirs.x:
        return [f"The card trained for {facts.seconds:,.0f} seconds; its points are spread over them evenly."]
    if axis == "rows" and facts.per_step is None:
        return ["The card does not say its batch size, so it has no curve over rows."]
    if not theirs.x:
        return [f"The card {card.name!r} prints no training loss."]
    return []


def _far(distance: Distance, axis: Axis) -> str:
    where = f"{distance.at:.2f}" if axis == "epochs" else f"{distance.at:,.0f}"
    ratio = "" if distance.ratio is None else f"; the median ratio of this run to the card is {distance.ratio:.2f}"
    return (
        f"At {distance.points:,} common point{'s' * (distance.points > 1)} the losses are {distance.absolute:.4f} "
        f"apart on average, at most {abs(distance.largest):.4f} (at {where} {axis}){ratio}."
    )
