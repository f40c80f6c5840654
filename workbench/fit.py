"""The engine: SentenceTransformerTrainer behind one function, with a journal, exact resuming and a clean stop.

Why a callback and not a trainer of our own: nothing of the computation is changed, so losses equal those of a plain
script with the same arguments (a test holds this). What the trainer lacks for resuming exactly is the sum of losses
since the last log row; the journal puts it into the checkpoint's trainer_state.json and takes it back.
"""

from __future__ import annotations

import io
import json
import math
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers.trainer_callback import ExportableState, PrinterCallback, TrainerCallback

from workbench.errors import RecipeError, TrainingError
from workbench.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import TrainerControl, TrainerState

ROWS_IN_LOG = 20
"""A loss curve of fewer points than this says little; the log is then written more often than the recipe says."""

CHECKPOINT_STEPS = 50
LARGE_CHECKPOINT_STEPS = 250
LARGE_MODEL_BYTES = 1 << 30
"""A larger model is saved less often: its checkpoint takes three times its size, and seconds."""

CHECKPOINTS_KEPT = 3  # the last two and the best
COMPLETE = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What a checkpoint holds when it was written to its end; trainer_state.json comes last."""


# --- the plan ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """When things happen, in optimizer steps."""

    steps: int  # in all
    logging_steps: int
    save_steps: int
    eval_strategy: str  # no, steps, epoch
    precision: str  # fp32, fp16, bf16; of the computation, the weights are float32
    notes: tuple[str, ...] = ()  # where this departs from the recipe, a sentence each


def plan(recipe: Recipe, rows: int, model: SentenceTransformer, *, measured: bool) -> Plan:
    """What the recipe's numbers come to on `rows` rows and this device."""
    training = recipe.training
    batches = rows / training.per_device_train_batch_size
    whole = math.floor(batches) if training.dataloader_drop_last else math.ceil(batches)
    if whole < 1:
        raise RecipeError(
            f"expected at least one batch of {training.per_device_train_batch_size} rows, found {rows} rows; "
            "use a smaller per_device_train_batch_size or dataloader_drop_last=false."
        )
    per_epoch = max(math.ceil(whole / training.gradient_accumulation_steps), 1)
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * per_epoch)
    precision, precision_note = _precision(recipe)
    notes = [precision_note] if precision_note else []
    logging_steps = max(training.logging_steps, 1)
    if steps // logging_steps < ROWS_IN_LOG and logging_steps > 1:
        logging_steps = log_every(steps)
        notes.append(
            f"The loss is logged every {logging_steps} steps and not every {training.logging_steps}, which would give "
            f"fewer than {ROWS_IN_LOG} points in {steps:,} steps."
        )
    if training.processes > 1:
        notes.append(f"The card's numbers imply {training.processes} processes; here one process trains.")
    evaluated = training.eval_strategy if measured else "no"
    if evaluated != training.eval_strategy:
        notes.append("There is nothing to evaluate on, so nothing is evaluated while training.")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return Plan(
        steps=steps,
        logging_steps=logging_steps,
        save_steps=CHECKPOINT_STEPS if size < LARGE_MODEL_BYTES else LARGE_CHECKPOINT_STEPS,
        eval_strategy=evaluated,
        precision=precision,
        notes=tuple(notes),
    )


def log_every(steps: int) -> int:
    """Steps between two log rows: at least `ROWS_IN_LOG` rows, and a last row that is a mean over as many steps.

    A last row over one step, whose batch may be a short one, would look like a fall of the loss.

    >>> log_every(261), log_every(540), log_every(3)
    (9, 27, 1)
    """
    most = max(steps // ROWS_IN_LOG, 1)
    even = [every for every in range(most, most // 2, -1) if steps % every == 0]
    return even[0] if even else max(range(most, most // 2, -1), key=lambda every: steps % every / every)


def _precision(recipe: Recipe) -> tuple[str, str]:
    """Precision on this device, and a sentence where it is not the recipe's."""
    asked = "fp16" if recipe.training.fp16 else "bf16" if recipe.training.bf16 else "fp32"
    if asked == "fp32":
        return asked, ""
    if torch.cuda.is_available() and (asked == "fp16" or torch.cuda.is_bf16_supported()):
        return asked, ""
    return "fp32", f"The recipe trains in {asked}, for which this needs a CUDA GPU; here it is fp32."


# --- job and result ------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """All that an engine needs."""

    model: SentenceTransformer
    loss: nn.Module
    rows: Dataset
    held_out: Dataset | None  # rows for the loss on unseen data, at each evaluation
    recipe: Recipe
    plan: Plan
    folder: Path  # of checkpoints
    evaluate: Callable[[int], Mapping[str, float]]  # step -> metrics by name; stores the rankings
    main_metric: str  # by which the best checkpoint is chosen, one of the names that `evaluate` gives
    log: Callable[[Mapping[str, Any]], None]  # takes one row for the reader of the run
    told: Callable[[int, float], None]  # takes step and epoch, often
    earlier: float = 0.0  # seconds that were trained before a resume


@dataclass(frozen=True)
class Fitted:
    """What training came to."""

    step: int
    epoch: float
    stopped: bool  # by a person, before its end
    last: Path  # checkpoint of the last step
    best: Mapping[str, Any] | None  # {"step", "metric", "value"}; None where nothing was evaluated
    best_checkpoint: Path | None
    peak_memory: int = 0  # bytes; on CUDA of the device, else of the process
    rows_per_second: float | None = None  # of training alone; None where nothing was left to train


def fit(job: Job) -> Fitted:
    """Train, from the last whole checkpoint where there is one.

    Raises TrainingError where the loss is no longer a number, RecipeError where the trainer refuses an argument.
    """
    checkpoint = last_checkpoint(job.folder)
    if checkpoint is not None and _step(checkpoint) >= job.plan.steps:
        return _fitted(job, transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json")))
    with _quiet():
        journal = Journal(job)
        arguments = _arguments(job)
        with redirect_stderr(io.StringIO()):  # a bar for the model card that no argument turns off
            trainer = SentenceTransformerTrainer(
                model=job.model,
                args=arguments,
                train_dataset=job.rows,
                eval_dataset=job.held_out if job.plan.eval_strategy != "no" else None,
                loss=job.loss,
                evaluator=_Measured(job) if job.plan.eval_strategy != "no" else None,
                callbacks=[journal],
            )
        trainer.remove_callback(PrinterCallback)
        journal.trainer = trainer
        with _stoppable(journal):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        with suppress(OSError):
            (job.folder / "eval").rmdir()  # the trainer makes it for evaluators that write files; ours does not
    return _fitted(job, trainer.state, journal)


def _fitted(job: Job, state: TrainerState, journal: Journal | None = None) -> Fitted:
    best_step = state.best_global_step
    best = None
    if best_step:
        best = {"step": int(best_step), "metric": job.main_metric, "value": float(state.best_metric or 0.0)}
    best_folder = job.folder / f"checkpoint-{best_step}"
    return Fitted(
        step=int(state.global_step),
        epoch=float(state.epoch or 0.0),
        stopped=state.global_step < job.plan.steps,
        last=job.folder / f"checkpoint-{state.global_step}",
        best=best,
        best_checkpoint=best_folder if best is not None and best_folder.is_dir() else None,
        peak_memory=_peak_memory(),
        rows_per_second=journal.rate() if journal is not None else None,
    )


def _arguments(job: Job) -> SentenceTransformerTrainingArguments:
    """The recipe's arguments; what is about looking on, saving and reporting is ours."""
    training = job.recipe.training
    taken = (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
        "max_grad_norm", "optim", "lr_scheduler_type", "seed", "data_seed", "dataloader_drop_last",
        "batch_sampler", "multi_dataset_batch_sampler", "eval_steps",
    )  # fmt: skip
    fields = SentenceTransformerTrainingArguments.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    given: dict[str, Any] = {name: getattr(training, name) for name in taken}
    given[checkpointing] = training.gradient_checkpointing
    try:
        return SentenceTransformerTrainingArguments(
            output_dir=str(job.folder),
            **given,
            warmup_steps=training.warmup_steps or training.warmup_ratio,  # below 1 it is a share of all steps
            fp16=job.plan.precision == "fp16",
            bf16=job.plan.precision == "bf16",
            eval_strategy=job.plan.eval_strategy,
            logging_strategy="steps",
            logging_steps=job.plan.logging_steps,
            logging_nan_inf_filter=False,  # a loss that is not a number is to be seen
            save_strategy="steps",
            save_steps=job.plan.save_steps,
            save_total_limit=CHECKPOINTS_KEPT,
            metric_for_best_model=f"eval_{job.main_metric}" if job.plan.eval_strategy != "no" else None,
            greater_is_better=job.recipe.evaluation.higher_is_better,
            disable_tqdm=True,
            report_to="none",
            push_to_hub=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(
            f"expected arguments that the trainer can take, found some that it refuses ({_first_line(error)}); "
            "change them with --set."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


class _Measured(BaseEvaluator):
    """Our own evaluation where the trainer wants one of its evaluators."""

    def __init__(self, job: Job) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job = job
        self.primary_metric = job.main_metric

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        return dict(self.job.evaluate(steps))


# --- the journal ---------------------------------------------------------------------------------------------------


class Journal(TrainerCallback, ExportableState):
    """Writes the log, decides when to save, stops at a step boundary, and keeps the loss across a resume."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.trainer: SentenceTransformerTrainer | None = None
        self.stop = False
        self.deferred = False  # a save of an epoch's last step waits for its evaluation
        self.started = self.mark = time.monotonic()
        self.spent = self.spent_before = 0.0  # seconds of training alone: since the last row, and before it
        self.steps = self.steps_before = 0

    def state(self) -> dict[str, Any]:
        """What the checkpoint keeps: the sum of losses since the last row, and that row's step."""
        return {
            "args": {},
            "attributes": {
                "loss_sum": float(getattr(self.trainer, "_tr_loss", 0.0)),
                "logged_step": int(getattr(self.trainer, "_globalstep_last_logged", 0)),
            },
        }

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        kept: Any = state.stateful_callbacks  # {"Journal": what `state` gave} once it was read from a checkpoint
        attributes = kept.get("Journal", {}).get("attributes", {}) if isinstance(kept, dict) else {}
        if state.global_step and "loss_sum" in attributes and hasattr(self.trainer, "_tr_loss"):
            self.trainer._tr_loss += attributes["loss_sum"]  # type: ignore[union-attr]
            self.trainer._globalstep_last_logged = attributes["logged_step"]  # type: ignore[union-attr]
        self.mark = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        self.spent, self.mark, self.steps = self.spent + now - self.mark, now, self.steps + 1
        self.job.told(state.global_step, float(state.epoch or 0.0))
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps too, though they are fewer than logging_steps
        if self.stop:
            control.should_training_stop = True
        if control.should_evaluate:
            control.should_save = True
        if control.should_training_stop or float(state.epoch or 0.0).is_integer():
            self.deferred, control.should_save = control.should_save or control.should_training_stop, False

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stop and not float(state.epoch or 0.0).is_integer():
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
        row: dict[str, Any] = {}
        for key, value in (logs or {}).items():
            if key in ("loss", "learning_rate", "grad_norm", "eval_loss"):
                row[key] = float(value)
            elif key.startswith("eval_validation_"):
                row[key.removeprefix("eval_")] = float(value)
        if "loss" in row and self.spent:
            row["rows_per_second"] = round(self.steps * self._rows_per_step() / self.spent, 2)
            self.spent_before, self.steps_before = self.spent_before + self.spent, self.steps_before + self.steps
            self.spent, self.steps = 0.0, 0
        if not row:
            return
        elapsed = self.job.earlier + time.monotonic() - self.started
        self.job.log({"step": state.global_step, "epoch": state.epoch, "time": round(elapsed, 3), **row})
        if not math.isfinite(row.get("loss", 0.0)):
            raise TrainingError(
                f"expected a finite loss, found {row['loss']!r} at step {state.global_step}; "
                "use a lower learning_rate, more warmup, or fp32."
            )

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mark = time.monotonic()

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mark = time.monotonic()

    def rate(self) -> float | None:
        """Rows per second of training alone, without evaluating and saving."""
        spent, steps = self.spent_before + self.spent, self.steps_before + self.steps
        return round(steps * self._rows_per_step() / spent, 2) if spent else None

    def _rows_per_step(self) -> int:
        training = self.job.recipe.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps


@contextmanager
def _stoppable(journal: Journal) -> Iterator[None]:
    """Ctrl-C ends at the next step, with a checkpoint; a second one ends at once. Elsewhere than in the main thread
    signals cannot be caught, and setting `journal.stop` does the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if journal.stop:
            raise KeyboardInterrupt
        journal.stop = True

    was = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, was)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice of the libraries on the terminal; what matters is in the run."""
    verbosity = transformers.logging.get_verbosity()
    bars = datasets.utils.logging.is_progress_bar_enabled(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# --- checkpoints ---------------------------------------------------------------------------------------------------


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end; those that were not are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_whole(path):
            return path
        shutil.rmtree(path)
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    if not all((checkpoint / name).is_file() for name in COMPLETE) or not any(checkpoint.glob("**/*.safetensors")):
        return False
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == _step(checkpoint)


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return int(most if sys.platform == "darwin" else most * 1024)
