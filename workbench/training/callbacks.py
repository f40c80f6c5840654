"""What is recorded during training: every step's loss and rate, evaluations, speed, time left; when to save and stop.

Nothing of the computation changes, so losses equal those of a plain script with the same arguments (a test holds
this). `InstrumentedTrainer` is the library's trainer; it hands the loss and gradient norm of each step to the journal
as tensors on the device. The journal fetches them together, once a second and before anything is saved or evaluated,
so that a GPU never waits for the log. Where several processes train, they decide together when that happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers.trainer_callback import TrainerCallback

from workbench.errors import TrainingError
from workbench.models.base import load_weights
from workbench.training.job import Job, StepProgress
from workbench.training.processes import any_of, is_first, mean_of

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from workbench.training.energy_use import Energy


@dataclass
class Step:
    """What one optimizer step gave; tensors stay where they were computed."""

    number: int
    epoch: float
    time: float  # seconds since training began, those before a resume included
    loss: torch.Tensor  # sum of its micro-batches, each divided by their number
    learning_rate: float | None
    grad_norm: torch.Tensor | float | None = None
    components: Mapping[str, torch.Tensor] = field(default_factory=dict)  # means over micro-batches


class InstrumentedTrainer(SentenceTransformerTrainer):
    """The library's trainer, which tells the journal what it computes."""

    def __init__(self, *, journal: Journal, **arguments: Any) -> None:
        super().__init__(callbacks=[journal], **arguments)
        self.journal = journal
        clip = self.accelerator.clip_grad_norm_

        def clip_and_record(*args: Any, **kwargs: Any) -> Any:
            journal.grad_norm = clip(*args, **kwargs)
            return journal.grad_norm

        self.accelerator.clip_grad_norm_ = clip_and_record

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.journal.add_loss(loss)
        return loss

    def track_loss_components(self, loss: dict[str, torch.Tensor]) -> None:
        super().track_loss_components(loss)
        if self.model.training:
            self.journal.add_components(loss)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """By our own loader, see `load_weights`; the library's does not load DoRA's magnitudes."""
        load_weights(self.model, Path(resume_from_checkpoint))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        began = time.monotonic()
        super()._save_checkpoint(*args, **kwargs)
        self.journal.note_checkpoint(began)


class Journal(TrainerCallback):
    """Writes the log, decides when to save, and stops training at the end of a step."""

    def __init__(self, job: Job, energy: Energy) -> None:
        self.job, self.energy, self.timing = job, energy, job.timing
        self.stop = False  # requested in this process
        self.stopping = False  # agreed by all processes
        self.save_at_epoch_end = False  # a checkpoint of an epoch's last step waits for its evaluation
        self.steps: list[Step] = []  # not written yet
        self.loss: torch.Tensor | None = None  # of the current step
        self.grad_norm: torch.Tensor | float | None = None
        self.components: dict[str, list[torch.Tensor]] = {}
        self.learning_rate: float | None = None
        self.evaluated: Mapping[str, float] | None = None  # metrics, until they are written
        self.rate: float | None = None
        self.trained = self.spent = 0.0  # steps, and seconds of training alone
        self.saving = 0.0  # seconds that the last checkpoint took
        self.on_train_begin(None, None, None)

    # what the trainer hands over

    def add_loss(self, loss: torch.Tensor) -> None:
        """Of one micro-batch."""
        self.loss = loss.detach().float() if self.loss is None else self.loss + loss.detach()

    def add_components(self, loss: Mapping[str, torch.Tensor]) -> None:
        for name, value in loss.items():
            self.components.setdefault(name, []).append(value.detach().float())

    def note_checkpoint(self, began: float) -> None:
        self.saved_at = self.mark = time.monotonic()
        self.saving = self.saved_at - began

    # what the trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = state.global_step if state is not None else 0
        self.began = self.mark = self.looked = self.saved_at = time.monotonic()

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        optimizer = kwargs.get("optimizer")  # the schedule moves on before the step ends
        self.learning_rate = float(optimizer.param_groups[0]["lr"]) if optimizer is not None else None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        epoch, now = float(state.epoch or 0.0), time.monotonic()
        self._record(state, epoch, now)
        done, end = state.global_step - self.first, self.job.last_step(state.max_steps)
        left = (now - self.began) / done * (end - state.global_step) if done > 0 else None
        self.energy.sample()
        self.job.on_step(StepProgress(state.global_step, end, epoch, self.rate, left))
        last = state.global_step >= end
        if last and not self.job.recipe.training.eval_on_end and state.global_step % max(state.eval_steps, 1):
            control.should_evaluate = False  # newer trainers evaluate there, and that of the card did not
        save, write = self._agree(now, control.should_save and not last)
        control.should_save = control.should_evaluate or last or save
        control.should_training_stop = control.should_training_stop or self.stopping or last
        ends = control.should_training_stop or epoch.is_integer()
        if write or ends or control.should_save or done == 1:
            self.flush()
        if ends:
            self.save_at_epoch_end = control.should_save or control.should_training_stop
            control.should_save = False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.flush()  # an epoch may have fewer batches than expected
        if self.stopping and not float(state.epoch or 0.0).is_integer():
            control.should_evaluate = False  # the trainer ends an epoch early as it ends a whole one
        control.should_save = self.save_at_epoch_end or control.should_evaluate
        self.save_at_epoch_end = False

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        logged, held_out = logs or {}, self.job.held_out
        named = [f"eval_{name}_loss" for name in held_out] if isinstance(held_out, dict) else []
        row = {key: float(logged[key]) for key in named if key in logged}  # of one of several datasets
        if self.evaluated is not None:
            losses = [float(value) for key, value in logged.items() if key.endswith("loss")]
            row |= {"eval_loss": losses[0], **self.evaluated} if losses else self.evaluated
        self.evaluated = None
        if not row:
            return
        elapsed = self.job.earlier + time.monotonic() - self.began
        self.job.log({"step": state.global_step, "epoch": state.epoch, "time": round(elapsed, 3), **row})

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mark = time.monotonic()

    # the log

    def _record(self, state: TrainerState, epoch: float, now: float) -> None:
        if self.loss is None:
            return
        components = {name: torch.stack(values).mean() for name, values in self.components.items()}
        at = self.job.earlier + now - self.began
        step = Step(state.global_step, epoch, at, self.loss, self.learning_rate, self.grad_norm, components)
        self.steps.append(step)
        self.loss, self.grad_norm, self.components = None, None, {}

    def flush(self) -> None:
        """Write the recorded steps, one row each. Raises TrainingError where a loss is not finite.

        Fetching waits for the device, so that the time that has passed by then is that of these steps.
        """
        steps, self.steps = self.steps, []
        if not steps:
            return
        numbers = _fetch(steps)
        now = time.monotonic()
        spent, self.mark = now - self.mark, now
        self.trained, self.spent = self.trained + len(steps), self.spent + spent
        self.rate = round(len(steps) * self.job.rows_per_step / spent, 2) if spent else None
        rows: list[dict[str, Any]] = [
            {"step": step.number, "epoch": step.epoch, "time": round(step.time, 3), **values}
            for step, values in zip(steps, numbers, strict=True)
        ]
        self.job.log(*({**row, "rows_per_second": self.rate} for row in rows))
        broken = next((row for row in rows if not math.isfinite(row["loss"])), None)
        if broken is not None:
            raise TrainingError(
                f"expected a finite loss, found {broken['loss']!r} at step {broken['step']}; "
                "use a lower learning_rate, more warmup, or fp32."
            )

    def rows_per_second(self) -> float | None:
        """Of training alone, without evaluations and checkpoints."""
        return round(self.trained * self.job.rows_per_step / self.spent, 2) if self.spent else None

    def _agree(self, now: float, wanted: bool) -> tuple[bool, bool]:
        """Whether to save at this step, where that is `wanted`, and whether to write the log; `stopping` too."""
        if now - self.looked >= self.timing.stop_seconds:
            self.looked = now
            self.stop = self.stop or (is_first() and self.job.stop_requested())
        due = wanted and (now - self.saved_at) * self.timing.saving_share >= self.saving
        late = bool(self.steps) and now - self.mark >= self.timing.log_seconds
        stopping, save, write = any_of([self.stop, is_first() and due, is_first() and late])
        self.stopping = self.stopping or stopping
        return save, write


def _fetch(steps: list[Step]) -> list[dict[str, Any]]:
    """The numbers of each step, fetched from the device at once and averaged over the processes."""
    names = sorted({name for step in steps for name in step.components})
    nothing = torch.full((), math.nan)
    columns = [torch.stack([step.loss for step in steps])]  # each (steps,)
    columns += [torch.stack([step.components.get(name, nothing.to(step.loss)) for step in steps]) for name in names]
    norms = [torch.as_tensor(math.nan if step.grad_norm is None else step.grad_norm) for step in steps]
    columns.append(torch.stack([norm.to(step.loss) for norm, step in zip(norms, steps, strict=True)]))
    values = mean_of(torch.stack(columns).cpu()).T.tolist()  # (steps, columns)
    rows: list[dict[str, Any]] = []
    for step, (loss, *components, norm) in zip(steps, values, strict=True):
        row: dict[str, Any] = {"loss": loss}
        if step.learning_rate is not None:
            row["learning_rate"] = step.learning_rate
        if step.grad_norm is not None:
            row["grad_norm"] = norm
        if step.components:
            row["components"] = dict(zip(names, components, strict=True))
        rows.append(row)
    return rows
