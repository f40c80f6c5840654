"""How a training was evaluated, as its log shows: when, by what, and by which column a model was kept.

Cards of sentence-transformers 5.4 and later print none of the arguments that say so (eval_strategy, eval_steps,
logging_steps, metric_for_best_model). An evaluation draws a random number, so a training that skips one goes on
otherwise. Source: DefaultFlowCallback in transformers/trainer_callback.py, and BaseModelCardCallback in
sentence_transformers/base/model_card.py, which writes the log of a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.cards.card import Card, LogRow
from workbench.cards.lookup import Series, is_unshown, last_run, metrics, runs, training_losses, validation_losses
from workbench.cards.steps_per_epoch import Epoch

WHOLE = 5e-4
"""How far the epoch of a row may be from a whole number, because older trainers leave out the last batches."""


@dataclass(frozen=True)
class Best:
    """A column of the log by which the model that was kept is the best."""

    argument: str  # for `metric_for_best_model`: eval_loss, eval_sts-dev_spearman_cosine
    higher: bool  # whether a higher value is better

    @property
    def usual(self) -> bool:
        """Whether the direction is the trainer's own: a loss is better when lower, anything else when higher."""
        return self.higher != self.argument.endswith("loss")


@dataclass(frozen=True)
class Schedule:
    """The evaluations of the log's last run. None or empty: the log shows nothing of the kind."""

    strategy: Literal["no", "steps", "epoch"]  # of evaluations during training
    every: int | None  # optimizer steps between two of them, where they go by steps
    at_end: bool  # one more at the last step, which is no multiple of `every`
    regular: bool  # whether strategy and `every` explain all of them
    at: tuple[LogRow, ...]  # their rows, in order
    losses: tuple[str, ...]  # columns of validation losses: the trainer had evaluation rows
    metrics: tuple[str, ...]  # columns of evaluators
    unshown: tuple[LogRow, ...]  # evaluations whose numbers are not in the log
    on_start: bool  # a row at step 0: `eval_on_start`, or an evaluator called by hand
    before: bool  # a row at step -1 before training: an evaluator called by hand
    after: bool  # a row at step -1 after training
    kept: LogRow | None  # the bold row: the checkpoint that was loaded at the end
    best_by: tuple[Best, ...]  # columns that make `kept` the best of `at`, the usual directions first
    stopped: int | None  # the step after which the training ended early, at an evaluation
    first_logged: bool  # a training loss at step 1 although the interval is longer

    @property
    def lines(self) -> tuple[int | None, int | None]:
        """The lines of the first and the last evaluation during training."""
        return (self.at[0].line, self.at[-1].line) if self.at else (None, None)


def schedule_of(card: Card, epoch: Epoch | None, planned_steps: int | None) -> Schedule | None:
    """How the last run of `card`'s log was evaluated; None without a log."""
    log = card.training_log
    run = last_run(card)
    if not log:
        return None
    losses, measured = validation_losses(run), metrics(run)
    columns = {**losses, **measured}
    unshown = tuple(row for row in run if is_unshown(row))
    evaluated = {row.step or 0: row for row in unshown}
    evaluated |= {row.step or 0: row for series in columns.values() for row, _ in series}
    steps = sorted(step for step in evaluated if step > 0)
    at = tuple(evaluated[step] for step in steps)
    last = max([planned_steps or 0, *(row.step or 0 for row in run)])
    epochs = each_epoch(at, epoch, last)
    every = None if epochs else interval(steps, last)
    at_end = every is not None and len(steps) > 1 and steps[-1] == last and last % every > 0
    inner = steps[:-1] if at_end else steps
    kept = next((row for row in reversed(run) if row.saved), None)
    best = () if kept is None else best_by(kept, columns)
    if len(runs(card)) > 1:  # a row of another run may have been kept
        best = tuple(each for each in best if each.usual)
    logged = [row.step or 0 for row, _ in training_losses(run)]
    outside = [number for number, row in enumerate(log) if row.step == -1]
    inside = [number for number, row in enumerate(log) if (row.step or 0) > 0]
    return Schedule(
        strategy="epoch" if epochs else "steps" if steps else "no",
        every=every,
        at_end=at_end,
        regular=every is None or inner == [*range(every, every * len(inner) + 1, every)],
        at=at,
        losses=tuple(losses),
        metrics=tuple(measured),
        unshown=unshown,
        on_start=0 in evaluated,
        before=bool(outside) and bool(inside) and outside[0] < inside[0],
        after=bool(outside) and bool(inside) and outside[-1] > inside[-1],
        kept=kept,
        best_by=best,
        stopped=_stopped(run, steps, every, planned_steps) if epoch is not None else None,
        first_logged=logged[:1] == [1] and (interval(logged) or 1) > 1,
    )


def _stopped(run: Sequence[LogRow], steps: Sequence[int], every: int | None, planned: int | None) -> int | None:
    """The last step of a log that ends at an evaluation although another was due: early stopping ends so."""
    if not steps or planned is None or steps[-1] != max(row.step or 0 for row in run):
        return None
    return steps[-1] if steps[-1] + (every or steps[0]) <= planned else None


def interval(steps: Sequence[int], last: int | None = None) -> int | None:
    """The distance between ascending steps that explains most of them, counted from 0; None for no steps.

    A step 1 where a longer distance explains the others is `logging_first_step`, and the step `last` may stand out.

    >>> interval([25, 50, 75, 90]), interval([10, 13], last=13), interval([1, 10, 20]), interval([])
    (25, 10, 10, None)
    """
    usual = [step for step in steps if step != last or len(steps) == 1] or list(steps)
    usual = usual[1:] if usual[0:1] == [1] and len(usual) > 1 and usual[1] > 2 else usual
    gaps = Counter(after - before for before, after in zip([0, *usual], usual, strict=False) if after > before)
    return gaps.most_common(1)[0][0] if gaps else None


def each_epoch(at: Sequence[LogRow], epoch: Epoch | None, last: int) -> bool:
    """Whether there is an evaluation at the end of every epoch and nowhere else; the last epoch may be cut short."""
    if not at:
        return False
    whole = at[:-1] if len(at) > 1 and at[-1].step == last else at
    by_epoch = all(row.epoch is not None and abs(row.epoch - number) < WHOLE for number, row in enumerate(whole, 1))
    sizes = epoch.steps(epoch.exact) if epoch is not None and epoch.exact is not None else ()
    by_steps = any(
        [row.step for row in whole] == [size * number for number in range(1, len(whole) + 1)] for size in sizes
    )
    final = at[-1].epoch
    short = len(whole) == len(at) or final is None or final <= len(at) + WHOLE
    return short and (by_epoch or by_steps)


def best_by(kept: LogRow, columns: Mapping[str, Series]) -> tuple[Best, ...]:
    """The columns by which `kept` is the best row, as printed; those in the usual direction first."""
    found: list[Best] = []
    for name, series in columns.items():
        values = {row.step: value for row, value in series if row.step}  # no model is kept before the first step
        if kept.step in values:
            own, all_values = values[kept.step], values.values()
            best = {True: max(all_values), False: min(all_values)}
            found += (Best(argument_of(name), higher) for higher in (True, False) if own == best[higher])
    return tuple(sorted(found, key=lambda best: not best.usual))


def argument_of(column: str) -> str:
    """A heading of the log as the trainer names its value.

    >>> argument_of("Validation Loss"), argument_of("all-nli loss"), argument_of("sts-dev_spearman_cosine")
    ('eval_loss', 'eval_all-nli_loss', 'eval_sts-dev_spearman_cosine')
    """
    return "eval_loss" if column == "Validation Loss" else f"eval_{column.replace(' ', '_')}"
