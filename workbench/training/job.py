"""What one training is asked to do: its model, loss, rows and settings (`Job`), and when things happen (`Plan`)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, Training

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from torch import nn

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""What `report_to` may name -> the packages of which it needs one."""


@dataclass(frozen=True)
class Timing:
    """How often things happen during training."""

    checkpoint_steps: int = 50  # between two checkpoints
    saving_share: float = 0.02  # of the time, for checkpoints; a large or fast model is saved less often
    log_seconds: float = 1.0  # between two writes of the log
    stop_seconds: float = 0.5  # between two looks for a stop request
    progress_seconds: float = 1.0  # between two updates of run.json


@dataclass(frozen=True)
class StepProgress:
    """How far training is; the keys of `progress` in run.json."""

    step: int
    steps: int
    epoch: float
    rows_per_second: float | None = None  # since the last write of the log; None before the first
    seconds_left: float | None = None  # at the pace so far, evaluations and checkpoints included


@dataclass(frozen=True)
class Plan:
    """When things happen, in optimizer steps."""

    steps: int  # in all
    logging_steps: int  # of the trainer and its trackers; the run's log has a row for every step
    eval_strategy: str  # no, steps, epoch
    precision: str  # fp32, fp16, bf16; of the computation, the weights are float32
    processes: int = 1
    notes: tuple[str, ...] = ()  # where this departs from the recipe, a sentence each


def plan(recipe: Recipe, rows: Sequence[int], *, measured: bool, processes: int = 1) -> Plan:
    """What the recipe's numbers come to on this device, with datasets of `rows` rows; `measured`: an evaluation has
    something to measure. It takes place in any case, because it draws a random number.

    Raises RecipeError where there are too few rows for a batch, or a tracker is not installed.
    """
    training, notes = recipe.training, []
    _require_trackers(training)
    per_epoch = steps_per_epoch(training, rows, processes)
    precision = asked = training.precision
    if not can_compute(asked):
        precision = "fp32"
        notes.append(f"The recipe trains in {asked}, for which this needs a CUDA GPU; here it is fp32.")
    if training.processes != processes:
        notes.append(_other_processes(training, processes))
    if processes > 1 and not training.dataloader_drop_last:
        notes.append("Several processes train on full batches only; the last rows of an epoch may be left out.")
    if not measured and training.eval_strategy != "no":
        notes.append("There is nothing to evaluate on while training: an evaluation only draws its random number.")
    return Plan(
        steps=training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * per_epoch),
        logging_steps=max(training.logging_steps, 1),
        eval_strategy=training.eval_strategy,
        precision=precision,
        processes=processes,
        notes=tuple(notes),
    )


def steps_per_epoch(training: Training, rows: Sequence[int], processes: int = 1) -> int:
    """Optimizer steps in one pass over datasets of `rows` rows, as the installed trainer counts them.

    Several processes share the full batches, each taking as many; the library drops the rest. The last step of an epoch
    takes the batches that are left; older trainers made no such step. Raises RecipeError where there is no batch.

    >>> steps_per_epoch(Training(per_device_train_batch_size=8), [1440])
    180
    """
    size = training.per_device_train_batch_size
    drop_last = training.dataloader_drop_last or processes > 1
    whole = [number // size if drop_last else math.ceil(number / size) for number in rows]
    batches = min(whole) * len(whole) if training.multi_dataset_batch_sampler == "round_robin" else sum(whole)
    if batches < processes:
        needed = "one batch" if processes == 1 else f"one batch for each of {processes} processes,"
        raise RecipeError(
            f"expected at least {needed} of {size} rows, found {sum(rows)} rows; "
            "use a smaller per_device_train_batch_size or dataloader_drop_last=false."
        )
    return math.ceil(batches // processes / training.gradient_accumulation_steps)


def _other_processes(training: Training, processes: int) -> str:
    step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    here = "one process trains" if processes == 1 else f"{processes} processes train"
    advice = f"; --processes {training.processes} trains as many" if processes == 1 else ""
    return (
        f"The card's numbers imply {training.processes} process{'es' * (training.processes > 1)}; here {here}, so a "
        f"step sees {step * processes:,} rows and not {step * training.processes:,}{advice}."
    )


def _require_trackers(training: Training) -> None:
    for name in training.report_to:
        packages = TRACKERS.get(name)
        if packages is None:
            raise RecipeError(
                f"expected trackers among {', '.join(TRACKERS)} in training.report_to, found {name!r}; remove it."
            )
        if not any(importlib.util.find_spec(package) for package in packages):
            raise RecipeError(
                f"expected the package {packages[0]!r} for training.report_to, found none; "
                f"`pip install {packages[0]}`, or leave report_to empty."
            )


def can_compute(precision: str) -> bool:
    """Whether the trainer takes this precision here: on a CPU bf16 too, but no fp16."""
    if precision == "fp32":
        return True
    if precision == "bf16" and on_cpu():
        return True
    return torch.cuda.is_available() and (precision == "fp16" or torch.cuda.is_bf16_supported())


def on_cpu() -> bool:
    return not torch.cuda.is_available() and not torch.backends.mps.is_available()


@dataclass
class Job:
    """Everything that `fit` needs."""

    model: SentenceTransformer
    loss: nn.Module | dict[str, nn.Module]  # one for each dataset, where there are several
    rows: Dataset | dict[str, Dataset]
    held_out: Dataset | dict[str, Dataset] | None  # rows for the loss on unseen data, at each evaluation
    recipe: Recipe
    plan: Plan
    folder: Path  # of checkpoints
    not_held_out: int  # further evaluation datasets whose rows are not known
    evaluate: Callable[[int], Mapping[str, float]]  # step -> metrics by name; stores the rankings
    best_metric: str | None  # by which the best checkpoint is chosen: a loss, or a name that `evaluate` gives
    higher_is_better: bool
    log: Callable[..., None]  # takes rows of the run's log
    on_step: Callable[[StepProgress], None]
    stop_requested: Callable[[], bool] = lambda: False
    earlier: float = 0.0  # seconds of training before a resume
    timing: Timing = field(default_factory=Timing)

    def last_step(self, planned: int) -> int:
        """The step that ends the training, of those that the schedule of the learning rate is `planned` for."""
        return min(planned, self.recipe.training.stop_step or planned)

    @property
    def rows_per_step(self) -> int:
        """Of all processes together."""
        training = self.recipe.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * self.plan.processes
