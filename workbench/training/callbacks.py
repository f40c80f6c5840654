"""What is written down while the trainer trains: every step, what was evaluated, how fast, how long still.

Nothing of the computation is changed, so losses equal those of a plain script with the same arguments (a test holds
this). `Watched` is the library's trainer; it hands its loss and gradient norm of each step to the journal as they are,
tensors on the device. The journal fetches them together, once a second and before anything is saved or evaluated, so
that a GPU never waits for the log. Where several processes train, they decide together when that happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from transformers.trainer_callback import TrainerCallback

from workbench.errors import TrainingError
from workbench.models.base import load_weights
from workbench.training.processes import any_of, is_first, mean_of

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

FLUSH_SECONDS = 1.0
"""How long the rows of the log are gathered before they are written."""

LOOK_SECONDS = 0.5
"""How often a request to stop is looked for."""

SAVING_SHARE = 0.02
"""Of the time, that may go into checkpoints which nobody asked for; a large or fast model is saved less often."""


@dataclass(frozen=True)
class Where:
    """How far training is."""

    step: int
    steps: int
    epoch: float
    rows_per_second: float | None = None  # of the last second of training; None before the first
    seconds_left: float | None = None  # at the pace so far, with its evaluations and checkpoints


@dataclass
class Step:
    """What one optimizer step gave; tensors lie where they were computed."""

    number: int
    epoch: float
    time: float  # seconds since training began, those before a resume included
    loss: torch.Tensor  # sum of its micro-batches, each divided by their number
    learning_rate: float | None
    grad_norm: torch.Tensor | float | None = None
    components: Mapping[str, torch.Tensor] = field(default_factory=dict)  # means over micro-batches


class Watched(SentenceTransformerTrainer):
    """The library's trainer, looked at while it computes."""

    def __init__(self, *, journal: Journal, **arguments: Any) -> None:
        super().__init__(callbacks=[journal], **arguments)
        self.journal = journal
        clip = self.accelerator.clip_grad_norm_

        def clipped(*args: Any, **kwargs: Any) -> Any:
            journal.grad_norm = clip(*args, **kwargs)
            return journal.grad_norm

        self.accelerator.clip_grad_norm_ = clipped

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.journal.micro_batch(loss)
        return loss

    def track_loss_components(self, loss: dict[str, torch.Tensor]) -> None:
        super().track_loss_components(loss)
        if self.model.training:
            self.journal.parts(loss)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """By our own loader, see `load_weights`; the library's leaves DoRA's magnitudes as they were at the start."""
        load_weights(self.model, Path(resume_from_checkpoint))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        began = time.monotonic()
        super()._save_checkpoint(*args, **kwargs)
        self.journal.saved(began)


class Journal(TrainerCallback):
    """Writes the log, decides when to save, and stops at a step boundary."""

    def __init__(
        self,
        *,
        log: Callable[..., None],
        told: Callable[[Where], None],
        stop_asked: Callable[[], bool],
        rows_per_step: int,
        earlier: float = 0.0,
    ) -> None:
        """`log` takes rows, `told` every step; `rows_per_step` of all processes together; `earlier`: seconds that
        were trained before a resume."""
        self.log, self.told, self.stop_asked = log, told, stop_asked
        self.rows_per_step, self.earlier = rows_per_step, earlier
        self.stop = False  # asked for in this process
        self.stopping = False  # agreed by all of them
        self.deferred = False  # a save of an epoch's last step waits for its evaluation
        self.steps: list[Step] = []  # not written yet
        self.loss: torch.Tensor | None = None  # of the step under way
        self.grad_norm: torch.Tensor | float | None = None
        self.components: dict[str, list[torch.Tensor]] = {}
        self.learning_rate: float | None = None
        self.evaluated: Mapping[str, float] | None = None  # what was measured, until it is written
        self.rate: float | None = None
        self.trained = self.spent = 0.0  # steps, and seconds of training alone
        self.began = self.mark = self.looked = self.saved_at = time.monotonic()
        self.saving = 0.0  # seconds that the last checkpoint took
        self.first = 0  # the step that training began from

    # what the trainer hands over

    def micro_batch(self, loss: torch.Tensor) -> None:
        self.loss = loss.detach().float() if self.loss is None else self.loss + loss.detach()

    def parts(self, loss: Mapping[str, torch.Tensor]) -> None:
        for name, value in loss.items():
            self.components.setdefault(name, []).append(value.detach().float())

    def saved(self, began: float) -> None:
        self.saved_at = self.mark = time.monotonic()
        self.saving = self.saved_at - began

    # what the trainer calls

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.first = state.global_step
        self.began = self.mark = self.looked = self.saved_at = time.monotonic()

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        optimizer = kwargs.get("optimizer")  # its schedule goes on before the step ends
        self.learning_rate = float(optimizer.param_groups[0]["lr"]) if optimizer is not None else None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        epoch, now = float(state.epoch or 0.0), time.monotonic()
        self._keep(state, epoch, now)
        self.told(Where(state.global_step, state.max_steps, epoch, self.rate, self._left(state, now)))
        last = state.global_step >= state.max_steps
        save, write = self._agree(now, control.should_save and not last)
        control.should_save = control.should_evaluate or last or save
        control.should_training_stop = control.should_training_stop or self.stopping
        ends = control.should_training_stop or epoch.is_integer()
        if write or ends or control.should_save or state.global_step == self.first + 1:
            self.flush()
        if ends:
            self.deferred, control.should_save = control.should_save or control.should_training_stop, False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.flush()  # an epoch may have fewer batches than were promised
        if self.stopping and not float(state.epoch or 0.0).is_integer():
            control.should_evaluate = False  # the trainer ends an epoch early as it ends a whole one
        control.should_save = self.deferred or control.should_evaluate
        self.deferred = False

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.evaluated is None:
            return  # the trainer's own row of means, or the loss of a further dataset
        losses = [float(value) for key, value in (logs or {}).items() if key.endswith("loss")]
        row = {"eval_loss": losses[0], **self.evaluated} if losses else self.evaluated
        elapsed = self.earlier + time.monotonic() - self.began
        self.log({"step": state.global_step, "epoch": state.epoch, "time": round(elapsed, 3), **row})
        self.evaluated = None

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mark = time.monotonic()

    # the log

    def _keep(self, state: TrainerState, epoch: float, now: float) -> None:
        if self.loss is None:
            return
        components = {name: torch.stack(values).mean() for name, values in self.components.items()}
        at = self.earlier + now - self.began
        step = Step(state.global_step, epoch, at, self.loss, self.learning_rate, self.grad_norm, components)
        self.steps.append(step)
        self.loss, self.grad_norm, self.components = None, None, {}

    def flush(self) -> None:
        """Write what has gathered, one row a step. Raises TrainingError where a loss is not a number.

        Fetching waits for the device, so that the time which has passed then is that of these steps.
        """
        steps, self.steps = self.steps, []
        if not steps:
            return
        numbers = _fetched(steps)
        now = time.monotonic()
        spent, self.mark = now - self.mark, now
        self.trained, self.spent = self.trained + len(steps), self.spent + spent
        self.rate = round(len(steps) * self.rows_per_step / spent, 2) if spent else None
        rows = [
            {"step": step.number, "epoch": step.epoch, "time": round(step.time, 3), **values}
            for step, values in zip(steps, numbers, strict=True)
        ]
        self.log(*({**row, "rows_per_second": self.rate} for row in rows))
        broken = next((row for row in rows if not math.isfinite(row["loss"])), None)
        if broken is not None:
            raise TrainingError(
                f"expected a finite loss, found {broken['loss']!r} at step {broken['step']}; "
                "use a lower learning_rate, more warmup, or fp32."
            )

    def rows_per_second(self) -> float | None:
        """Of training alone, without evaluating and saving."""
        return round(self.trained * self.rows_per_step / self.spent, 2) if self.spent else None

    # deciding

    def _agree(self, now: float, wanted: bool) -> tuple[bool, bool]:
        """Whether to save at this step, where that is `wanted`, and whether to write the log; asks for stopping too."""
        if now - self.looked >= LOOK_SECONDS:
            self.looked = now
            self.stop = self.stop or (is_first() and self.stop_asked())
        due = wanted and (now - self.saved_at) * SAVING_SHARE >= self.saving
        late = bool(self.steps) and now - self.mark >= FLUSH_SECONDS
        stopping, save, write = any_of([self.stop, is_first() and due, is_first() and late])
        self.stopping = self.stopping or stopping
        return save, write

    def _left(self, state: TrainerState, now: float) -> float | None:
        done = state.global_step - self.first
        return (now - self.began) / done * (state.max_steps - state.global_step) if done > 0 else None


def _fetched(steps: list[Step]) -> list[dict[str, Any]]:
    """Numbers of each step, fetched from the device at once and averaged over the processes."""
    names = sorted({name for step in steps for name in step.components})
    nothing = torch.full((), math.nan)
    columns = [torch.stack([step.loss for step in steps])]  # each (steps,)
    columns += [torch.stack([step.components.get(name, nothing.to(step.loss)) for step in steps]) for name in names]
    norms = [torch.as_tensor(math.nan if step.grad_norm is None else step.grad_norm) for step in steps]
    columns.append(torch.stack([norm.to(step.loss) for norm, step in zip(norms, steps, strict=True)]))
    values = mean_of(torch.stack(columns).cpu()).tolist()  # (columns, steps)
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        row: dict[str, Any] = {"loss": values[0][number]}
        if step.learning_rate is not None:
            row["learning_rate"] = step.learning_rate
        if step.grad_norm is not None:
            row["grad_norm"] = values[-1][number]
        if step.components:
            row["components"] = {name: values[1 + at][number] for at, name in enumerate(names)}
        rows.append(row)
    return rows
