"""What somebody who is not looking should hear of a training: no number, no progress, worse than the start, ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from workbench.cards.metric_names import metric_name
from workbench.errors import RunError
from workbench.run import Run
from workbench.views.records import number

Kind = Literal["nan", "plateau", "worse", "finished", "failed", "stopped", "interrupted"]
LEAST_STEPS = 100  # of a plateau
FLAT = 0.01  # relative change of the loss that is none
ENDED = ("finished", "failed", "stopped", "interrupted")


@dataclass(frozen=True)
class Alert:
    """One alert on a run."""

    kind: Kind
    sentence: str


def alerts(run: Run) -> list[Alert]:
    """The alerts on a run as it is now, how it ended last; none for a run that cannot be read."""
    with suppress(RunError):
        log, status, record = run.log(), run.status, run.record
        found = [*_not_a_number(log), *_plateau(log), *_worse(run, log)]
        if status in ENDED:
            error = str(record.get("error") or "")
            found.append(Alert(status, f"{status.capitalize()}. {error}".strip()))  # type: ignore[arg-type]
        return found
    return []


def _not_a_number(log: Sequence[Mapping[str, Any]]) -> list[Alert]:
    steps = [row["step"] for row in log if not math.isfinite(row.get("loss", 0.0))]
    return [Alert("nan", f"The loss is not a number since step {steps[0]:,}.")] if steps else []


def _plateau(log: Sequence[Mapping[str, Any]]) -> list[Alert]:
    """No plateau where the two halves of the last steps differ by more than two standard errors."""
    losses = [row["loss"] for row in log if math.isfinite(row.get("loss", math.nan))]
    last = losses[-max(LEAST_STEPS, len(losses) // 5) :]
    if len(last) < LEAST_STEPS or len(losses) < 2 * LEAST_STEPS:
        return []
    first, second = last[: len(last) // 2], last[len(last) // 2 :]
    change, noise = abs(fmean(second) - fmean(first)), math.hypot(stdev(first), stdev(second)) / math.sqrt(len(first))
    if change > max(2 * noise, FLAT * abs(fmean(first))):
        return []
    return [Alert("plateau", f"The loss has been about {fmean(last):.4g} for {len(last):,} steps.")]


def _worse(run: Run, log: Sequence[Mapping[str, Any]]) -> list[Alert]:
    """The last validation against that before training; of a loss, against the first one."""
    for name, stages in run.evaluations().items():
        if "before" in stages:
            metric = run.main_metric(name, "before")
            before = run.metrics(name, "before").get(metric)
            measured = [(row["step"], row[f"{name}_{metric}"]) for row in log if f"{name}_{metric}" in row]
            if before is not None and measured and measured[-1][1] < before:
                step, value = measured[-1]
                text = f"{metric_name(metric)} of {name} is {number(value)} at step {step:,}, {number(before)} before."
                return [Alert("worse", text)]
    losses = [(row["step"], row["eval_loss"]) for row in log if "eval_loss" in row]
    if len(losses) > 1 and losses[-1][1] > losses[0][1]:
        (first, before), (step, value) = losses[0], losses[-1]
        text = f"The validation loss is {value:.4g} at step {step:,}, {before:.4g} at step {first:,}."
        return [Alert("worse", text)]
    return []
