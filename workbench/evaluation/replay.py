"""Replay: every number that a card logs and prints, beside ours at the same step of a training with the card's seed.

The plain trainer is deterministic on one machine, so an honest card whose base, rows and settings are known comes out
to the printed digit. That is the strongest evidence there is, and one training is enough for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from workbench.cards.card import Card, LogRow
from workbench.cards.inference import infer
from workbench.cards.lookup import accumulation, is_loss, last_run
from workbench.cards.schedule import argument_of
from workbench.evaluation.verdict import HALF_DIGIT, Verdict

UNROUNDED = 1e-6  # numbers of model-index and trainer_state.json
RELATIVE = 2e-5  # rounding of another processor or number of threads
MOST_SHOWN = 500  # numbers of one table
LEAST = 3  # different numbers that must agree before the others are called edited

Stage = Literal["before", "training", "after"]


@dataclass(frozen=True)
class Number:
    """One number of the card beside ours."""

    name: str  # "Training Loss", "Validation Loss", "sts-dev_spearman_cosine"
    kind: Literal["loss", "metric"]
    stage: Stage  # "before": of the base; "after": the table of metrics, and evaluations after training
    step: int  # of the training; 0 before, the last one after
    card: float
    ours: Annotated[float, BeforeValidator(lambda stored: math.nan if stored is None else stored)]  # JSON has no NaN
    line: int | None = None  # of the card
    exact: bool = False  # the card's number is not rounded
    examples: int = 0  # of a metric: how many it was measured on; 0: unknown
    low: float | None = None  # ours with documents of nearly one score exchanged; None: not looked for
    high: float | None = None
    noise: float = 0.0  # of published weights, measured on another machine, or in half precision

    @property
    def tolerance(self) -> float:
        return max((UNROUNDED if self.exact else HALF_DIGIT) + RELATIVE * abs(self.card), self.noise)

    @property
    def equal(self) -> bool:
        low, high = (self.ours if each is None else each for each in (self.low, self.high))
        return low - self.tolerance <= self.card <= high + self.tolerance

    @property
    def near_tie(self) -> bool:
        """Whether it differs by one example at most: rounding can exchange two documents of nearly one score."""
        return self.kind == "metric" and self.examples > 0 and abs(self.ours - self.card) <= 1 / self.examples

    @property
    def telling(self) -> bool:
        """Whether equality can hardly be chance: at least two digits that count, and not a whole number."""
        return abs(self.card) >= 100 * (UNROUNDED if self.exact else HALF_DIGIT) and not float(self.card).is_integer()

    @property
    def places(self) -> int:
        """Decimal places to show it with."""
        return 6 if self.exact else 4

    @property
    def difference(self) -> float:
        """card - ours"""
        return self.card - self.ours

    @property
    def when(self) -> str:
        return f"at step {self.step:,}" if self.stage == "training" else f"{self.stage} training"

    def __str__(self) -> str:
        values = (f"{value:.{self.places}f}" for value in (self.card, self.ours))
        return "{} {}: {} on the card, {} here".format(self.name, self.when, *values)


@dataclass(frozen=True)
class Replay:
    """How far a training gave the card's own numbers."""

    word: str  # "replayed exactly", "replayed for 20 steps", "not replayed", "nothing to replay"
    verdict: Verdict | None  # where the replay decides; None: the seeds do
    sentence: str
    numbers: tuple[Number, ...] = ()
    steps: int = 0  # up to which every number agrees
    of: Literal["training", "weights"] = "training"  # whose numbers are beside the card's

    @property
    def heading(self) -> str:
        return "Replay" if self.of == "training" else "Published weights"

    @property
    def first(self) -> Number | None:
        """The first number that differs."""
        return next((each for each in self.numbers if not each.equal), None)

    @property
    def agreeing(self) -> str:
        """How many numbers agree, and the first that does not."""
        count = sum(each.equal for each in self.numbers)
        said = f"{count:,} of {len(self.numbers):,} numbers are equal"
        return said if self.first is None else f"{said}; the first that differs: {self.first}"

    def shown(self, most: int = MOST_SHOWN) -> tuple[Number, ...]:
        """The numbers for a table, at most so many: those that differ before those that agree."""
        if len(self.numbers) <= most:
            return self.numbers
        return tuple(sorted(self.numbers, key=lambda each: each.equal)[:most])

    def to_dict(self) -> dict[str, Any]:
        numbers = [{**asdict(each), "equal": each.equal} for each in self.numbers]
        return {**vars(self), "numbers": numbers}


def logged_numbers(
    card: Card, log: Sequence[Mapping[str, Any]], names: Mapping[str, str], sizes: Mapping[str, int]
) -> list[Number]:
    """The numbers of the card's last logged run that our log has too, in the card's order.

    `log` has a row per step (see `Run.log`). For each metric column of the card's log, `names` is the key of ours and
    `sizes` the number of examples. A logged training loss is the mean since the logged one before.
    """
    ours_at = {int(row["step"]): row for row in log}
    losses = {step: float(row["loss"]) for step, row in ours_at.items() if "loss" in row}
    summed, found, since = infer(card).summed, [], 0
    for row in last_run(card):
        step, exact = row.step or 0, row.source != "README.md"
        stage: Stage = "training" if step else "before"
        if row.training_loss is not None and step:
            steps = range(since + 1, step + 1)
            if all(each in losses for each in steps) and steps:
                mean = sum(losses[each] for each in steps) / len(steps) * summed
                found.append(Number("Training Loss", "loss", stage, step, row.training_loss, mean, row.line, exact))
            since = step
        ours = ours_at.get(step, {})
        if row.validation_loss is not None and "eval_loss" in ours:
            loss = float(ours["eval_loss"])
            found.append(Number("Validation Loss", "loss", stage, step, row.validation_loss, loss, row.line, exact))
        for column, value in row.metrics.items():  # "nli loss": of one of several evaluation datasets
            if is_loss(column) and value is not None and (key := argument_of(column)) in ours:
                found.append(Number(column, "loss", stage, step, value, float(ours[key]), row.line, exact))
        found += _metrics(row, stage, step, {column: ours.get(key) for column, key in names.items()}, sizes)
    return [each for each in found if math.isfinite(each.card)]


def numbers_outside(
    card: Card, before: Mapping[str, Any], after: Mapping[str, Any], sizes: Mapping[str, int]
) -> list[Number]:
    """Rows of the log at step -1 are evaluations by hand, before and after training: `before` and `after` are ours, by
    the card's columns."""
    found: list[Number] = []
    trained = 0
    for row in card.training_log:
        if row.step is not None and row.step < 0:
            stage: Stage = "after" if trained else "before"
            found += _metrics(row, stage, trained, after if trained else before, sizes)
        trained = max(trained, row.step or 0)
    return found


def _metrics(row: LogRow, stage: Stage, step: int, ours: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Number]:
    exact = row.source != "README.md"
    return [
        Number(column, "metric", stage, step, value, float(ours[column]), row.line, exact, sizes.get(column, 0))
        for column, value in row.metrics.items()
        if value is not None and ours.get(column) is not None
    ]


def judge_replay(card: Card, numbers: Iterable[Number], causes: Sequence[str] = ()) -> Replay:
    """What the numbers of a training with the card's seed say.

    `causes` are known departures (versions, precision, row order), named where nothing agrees.
    """
    found = tuple(sorted(numbers, key=lambda each: (each.step, each.stage == "after")))
    trained = [each for each in found if each.stage != "before"]
    if not trained:
        return Replay("nothing to replay", None, "The card logs no number that this run has, too.", found)
    steps = _steps(trained)
    losses = [each for each in trained if each.kind == "loss"]
    metrics = [each for each in trained if each.kind == "metric"]
    wrong = [each for each in trained if not each.equal]
    if not wrong:
        if not _enough(trained):
            return Replay("too little to replay", None, "Too few numbers of the card say anything.", found, steps)
        baseline = next((each for each in found if not each.equal), None)
        if baseline is not None:
            sentence = f"Every number of the training is the card's, but not that of the base: {baseline}."
            return Replay("replayed exactly", "differs", sentence, found, steps)
        if elsewhere := saved_elsewhere(card):
            return Replay("replayed exactly", "differs", elsewhere, found, steps)
        counts = ", ".join(_count(side) for side in (losses, metrics) if side)
        text = f"Every number that the card logs and prints is ours to the printed digit: {counts}."
        exchanged = sum(abs(each.difference) > each.tolerance for each in trained)
        if exchanged:
            text += f" In {exchanged:,} of them, documents whose scores differ by rounding alone change places."
        return Replay("replayed exactly", "reproduced exactly", text, found, steps)
    edited = _edited(losses, metrics)
    if edited:
        return Replay(_word(steps), "differs", f"{edited} First: {wrong[0]}.", found, steps)
    return Replay(_word(steps), None, _why(card, trained, steps, causes), found, steps)


def judge_weights(numbers: Sequence[Number], row: LogRow | None, causes: Sequence[str] = ()) -> Replay:
    """What the numbers of published weights say: those of fixed weights are equal, or not.

    `row` is a row of the card's log whose numbers ours are; `causes` are settings with which the card's would be.
    """
    after = [each for each in numbers if each.stage != "before"]
    wrong = [each for each in after if not each.equal]
    done = tuple(numbers)
    if not after:
        return Replay("nothing to compare", None, "None of the card's numbers was measured.", done, of="weights")
    if wrong:
        word = f"{len(after) - len(wrong):,} of {_count(after)} equal"
        said = [f"{len(wrong):,} of {_count(after)} of the card are not those of these weights; first: {wrong[0]}."]
        if row is not None:
            saved = ", in bold: the checkpoint that was saved" if row.saved else ""
            said.append(f"Ours equal the row of step {row.step:,} of the log{saved}; the card's table is of another.")
        return Replay(word, "differs", " ".join([*said, *causes]), done, of="weights")
    if not any(each.telling for each in after):
        text = "All are equal, but none says anything: each is a whole number or nearly 0."
        return Replay("too little to compare", "cannot tell", text, done, of="weights")
    return Replay("equal", "reproduced exactly", f"All {_count(after)} of the card are equal.", done, of="weights")


def saved_elsewhere(card: Card) -> str:
    """That the evaluation after training is not that of the bold row, which says what was saved; else empty."""
    rows = last_run(card)
    saved = next((row for row in reversed(rows) if row.saved), None)
    last = max((row.step or 0 for row in rows), default=0)
    trained = [place for place, row in enumerate(card.training_log) if row.step == last]
    after = [row for row in card.training_log[max(trained, default=0) :] if (row.step or 0) < 0]
    for row in after if saved is not None else ():
        for column, value in row.metrics.items():
            theirs = saved.metrics.get(column) if saved is not None else None
            if value is not None and theirs is not None and abs(value - theirs) > 2 * HALF_DIGIT:
                return (
                    f"Every number is ours, but the bold row says that step {saved.step if saved else 0:,} was saved, "
                    f"whose {column} is {theirs:.4f}; after training it is {value:.4f}."
                )
    return ""


def _word(steps: int) -> str:
    return f"replayed for {steps:,} steps" if steps else "not replayed"


def _steps(numbers: Sequence[Number]) -> int:
    """The last step up to which every number agrees."""
    equal = itertools.takewhile(lambda each: each.equal, numbers)
    last = max((each.step for each in equal), default=0)
    return last if all(each.equal for each in numbers if each.step <= last) else 0


def _count(numbers: Sequence[Number]) -> str:
    """How many, in words."""
    one, many = {"loss": ("loss", "losses"), "metric": ("metric", "metrics")}[numbers[0].kind]
    return f"{len(numbers):,} {one if len(numbers) == 1 else many}"


def _enough(numbers: Sequence[Number]) -> bool:
    """Whether so many different numbers agree that it is no chance; two are enough where they are not rounded."""
    telling = {(each.card, each.exact) for each in numbers if each.equal and each.telling}
    return len(telling) >= LEAST or sum(exact for _, exact in telling) >= LEAST - 1


def _edited(losses: Sequence[Number], metrics: Sequence[Number]) -> str:
    """What must have been edited, or measured on something else: a training that departs does not come back."""
    wrong_losses, wrong_metrics = ([each for each in side if not each.equal] for side in (losses, metrics))
    if len(wrong_metrics) * 2 <= len(metrics) and all(each.near_tie for each in wrong_metrics):
        wrong_metrics = []
    if not wrong_losses and wrong_metrics and _enough(losses):
        return (
            f"All {len(losses):,} losses are the card's to the printed digit, but {len(wrong_metrics):,} of "
            f"{len(metrics):,} metrics are not: the metrics were edited, or measured on other examples."
        )
    if not wrong_losses:
        return ""
    first = wrong_losses[0]
    later = [each for each in losses if each.step > first.step and each.equal and each.telling]
    if not wrong_metrics and _enough([each for each in metrics if each.step >= first.step]):
        return (
            f"All {len(metrics):,} metrics are the card's, but {len(wrong_losses):,} of {len(losses):,} losses are "
            "not: the log was edited."
        )
    if len(later) >= LEAST:
        return f"{len(wrong_losses):,} of {len(losses):,} losses are not the card's, and later ones are again: edited."
    known = [each for each in wrong_metrics if each.step < first.step]
    if known and _enough([each for each in losses if each.step < first.step]):
        return "Metrics differ where the losses before and after are the card's: edited, or other examples."
    return ""


def _why(card: Card, numbers: Sequence[Number], steps: int, causes: Sequence[str]) -> str:
    """Where and, as far as it can be told, why a training departs from the card's."""
    first = next(each for each in numbers if not each.equal)
    losses = [each for each in numbers if each.kind == "loss"]
    if losses and all(each.equal for each in losses):
        return f"Every loss agrees, but a metric does not, by one example at most, which rounding can do: {first}."
    if steps:
        reason = "; ".join(causes) or "other hardware or versions, or an evaluation that the log does not show"
        return f"Every number agrees up to step {steps:,}, the first that differs is {first}. Likely: {reason}."
    ratios = [each.card / each.ours for each in losses if each.name == "Training Loss" and each.ours]
    times = accumulation(card)
    if times > 1 and ratios and all(abs(ratio - times) < 0.02 * times for ratio in ratios):
        return f"The card's losses are {times} times ours: its trainer added up the losses of the micro-batches."
    reason = "; ".join(causes) or "other rows, base, settings, seed, versions or hardware"
    return f"The first number differs already: {first}. Likely: {reason}."
