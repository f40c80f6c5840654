"""SentenceTransformerTrainer behind one function, `fit`, resumed exactly and stopped cleanly.

Why the library's trainer and not our own loop: nothing of the computation changes, so losses equal those of a plain
script with the same arguments (a test holds this).
"""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.util import distributed
from transformers.trainer_callback import PrinterCallback

from workbench.errors import RecipeError, first_line
from workbench.recipe.schema import Training
from workbench.run import Run
from workbench.training.callbacks import InstrumentedTrainer, Journal
from workbench.training.energy_use import Energy, energy_counters
from workbench.training.job import Job, on_cpu
from workbench.training.processes import from_first, is_first, world_size

if TYPE_CHECKING:
    from transformers import TrainerState

CHECKPOINTS_KEPT = 3  # the last two and the best
COMPLETE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
"""Files of a whole checkpoint, beside the random state of each process."""


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """On the CPU, floats below 1.2e-38 count as zero inside the block.

    Processors compute with them up to thirty times slower, and a loss whose softmax is certain, such as that of energy
    distance, fills whole gradients with them; a sum with any ordinary number is the same without them.
    """
    before = float(torch.tensor(1e-40) * 0.5) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@dataclass(frozen=True)
class Outcome:
    """What training came to."""

    step: int
    steps: int  # planned
    epoch: float
    stopped: bool  # by the user, before the last step
    checkpoint: Path  # to keep: the best where the recipe loads it at the end, else the last
    best: Mapping[str, Any] | None  # {"step", "metric", "value"}; None where nothing was evaluated
    peak_memory: int = 0  # bytes; on CUDA of the device, else of the process
    rows_per_second: float | None = None  # of training alone; None where nothing was left to train
    joules: float | None = None  # that the devices used; None where none counts them
    counted: str = ""  # which devices count


def fit(job: Job) -> Outcome:
    """Train, from the last whole checkpoint where there is one.

    Raises TrainingError where the loss is not finite, RecipeError where the trainer refuses an argument.
    """
    checkpoint = from_first(last_checkpoint(job.folder, job.plan.processes) if is_first() else None)
    if checkpoint is not None:
        state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= job.last_step(state.max_steps):
            return _outcome(job, state)
    with quiet(), _trackers_in(Run(job.folder.parent).file("trackers")):
        energy = Energy(energy_counters(_gpus()) if is_first() else {})
        journal = Journal(job, energy)
        trainer = _trainer(job, journal)
        trainer.args.eval_on_start = trainer.args.eval_on_start and checkpoint is None
        with _stop_on_signals(journal):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if is_first():
        with suppress(OSError):
            (job.folder / "eval").rmdir()  # the trainer makes it for evaluators that write files; ours does not
    if not (job.folder / f"checkpoint-{trainer.state.global_step}").is_dir():  # fewer batches than planned
        trainer._save_checkpoint(trainer.model, None)
    return _outcome(job, trainer.state, journal, energy)


def _trainer(job: Job, journal: Journal) -> InstrumentedTrainer:
    kind = InstrumentedTrainer
    if job.recipe.training.engine == "fast":
        from workbench.training.fast.engine import Fast, refusal

        kind = Fast if refusal(job.recipe, job.model) is None else kind
    evaluated = job.plan.eval_strategy != "no"
    arguments = training_arguments(job)
    with redirect_stderr(io.StringIO()):  # a bar for the model card that no argument turns off
        trainer = kind(
            journal=journal,
            model=job.model,
            args=arguments,
            train_dataset=job.rows,
            eval_dataset=job.held_out if evaluated else None,
            loss=job.loss,
            evaluator=_RunEvaluator(job, journal) if evaluated else None,  # with nothing to evaluate, it gives nothing
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _outcome(job: Job, state: TrainerState, journal: Journal | None = None, energy: Energy | None = None) -> Outcome:
    best, checkpoint = None, job.folder / f"checkpoint-{state.global_step}"
    steps = job.last_step(int(state.max_steps))
    if state.best_global_step:
        value = float(state.best_metric or 0.0)
        named = "eval_loss" if str(job.best_metric).endswith("loss") else job.best_metric
        best = {"step": int(state.best_global_step), "metric": named, "value": value}
        best_checkpoint = job.folder / f"checkpoint-{state.best_global_step}"
        if job.recipe.training.load_best_model_at_end and best_checkpoint.is_dir():
            checkpoint = best_checkpoint
    return Outcome(
        step=int(state.global_step),
        steps=steps,
        epoch=float(state.epoch or 0.0),
        stopped=journal is not None and journal.stopping and state.global_step < steps,
        checkpoint=checkpoint,
        best=best,
        peak_memory=_peak_memory(),
        rows_per_second=journal.rows_per_second() if journal is not None else None,
        joules=energy.joules() if energy is not None else None,
        counted=energy.sources() if energy is not None else "",
    )


def training_arguments(job: Job) -> SentenceTransformerTrainingArguments:
    """The recipe's arguments; evaluating, saving and reporting are arranged by us.

    Raises RecipeError where the trainer refuses one.
    """
    training, plan = job.recipe.training, job.plan
    given = own_arguments(training) | {"prompts": _prompts(job) or None}
    given["dataloader_drop_last"] |= plan.processes > 1  # as the library does
    with _refusals():
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(job.folder),
            **given,
            fp16=plan.precision == "fp16",
            bf16=plan.precision == "bf16",
            # without it, a CPU sees no other process and takes no bf16
            use_cpu=(plan.processes > 1 and not torch.cuda.is_available()) or (on_cpu() and plan.precision != "fp32"),
            eval_strategy=plan.eval_strategy,
            eval_on_start=training.eval_on_start and plan.eval_strategy != "no",
            logging_strategy="steps",
            logging_steps=plan.logging_steps,
            logging_nan_inf_filter=False,  # a loss that is not a number must be seen
            save_strategy="steps",
            save_steps=job.timing.checkpoint_steps,
            save_total_limit=CHECKPOINTS_KEPT,
            metric_for_best_model=f"eval_{job.best_metric}" if job.best_metric and plan.eval_strategy != "no" else None,
            greater_is_better=job.higher_is_better,
            disable_tqdm=True,
            report_to=list(training.report_to) or "none",
            push_to_hub=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process feeding several GPUs would multiply the batch
    return arguments


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RecipeError(
            f"expected arguments that the trainer can take, found some that it refuses ({first_line(error)}); "
            "change them with --set."
        ) from error


def check_arguments(training: Training) -> None:
    """Raises RecipeError where the trainer refuses an argument, such as an unknown optimizer or scheduler, or would
    train for no step."""
    if training.num_train_epochs < 0 or (training.num_train_epochs == 0 and training.max_steps < 1):
        raise RecipeError(
            f"expected epochs or steps to train for, found num_train_epochs {training.num_train_epochs:g} and "
            f"max_steps {training.max_steps}; set one of them."
        )
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if (size := getattr(training, name)) < 1:
            raise RecipeError(f"expected {name} of at least 1, found {size}; change it with --set.")
    with _refusals():
        given = own_arguments(training) | {"eval_strategy": training.eval_strategy}
        SentenceTransformerTrainingArguments(output_dir="unused", **given)


def own_arguments(training: Training) -> dict[str, Any]:
    """The trainer's arguments that do not depend on the machine."""
    taken = (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
        "max_grad_norm", "optim", "lr_scheduler_type", "seed", "data_seed", "batch_sampler",
        "multi_dataset_batch_sampler", "eval_steps", "dataloader_drop_last",
    )  # fmt: skip
    fields = SentenceTransformerTrainingArguments.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return {
        **training.model_dump(include=set(taken)),
        "lr_scheduler_kwargs": training.lr_scheduler_kwargs or None,
        checkpointing: training.gradient_checkpointing,
        "warmup_steps": training.warmup_steps or training.warmup_ratio,  # below 1 it is a share of all steps
        "prompts": dict(training.prompts) or None,
    }


def _prompts(job: Job) -> dict[str, Any]:
    """Column -> prompt; for several datasets, under the name of each.

    Raises RecipeError for a column that no dataset has.
    """
    prompts = job.recipe.training.prompts
    parts = job.rows if isinstance(job.rows, dict) else {"": job.rows}
    known = list(dict.fromkeys(name for part in parts.values() for name in part.column_names))
    unknown = next((column for column in prompts if column not in known), None)
    if unknown is not None:
        raise RecipeError(
            f"expected columns of the rows ({', '.join(known)}) in training.prompts, found {unknown!r}; rename it "
            "there."
        )
    if not isinstance(job.rows, dict):
        return dict(prompts)
    nested = {name: {key: prompts[key] for key in part.column_names if key in prompts} for name, part in parts.items()}
    return {name: own for name, own in nested.items() if own}


class _RunEvaluator(BaseEvaluator):
    """The run's own evaluation as an evaluator of the library."""

    def __init__(self, job: Job, journal: Journal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job, self.journal = job, journal
        self.primary_metric = job.best_metric

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Newer libraries call this in the first process and share the result; older ones call it in all of them."""
        found = dict(self.job.evaluate(steps)) if is_first() else {}
        if not hasattr(distributed, "distributed_evaluation"):
            found = from_first(found)
        for _ in range(self.job.not_held_out):  # as the loader of each of these datasets does
            torch.empty((), dtype=torch.int64).random_()
        self.journal.evaluated = dict(found)
        return found


@contextmanager
def _stop_on_signals(journal: Journal) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop at the next step, with a checkpoint; a second one ends at once. Only the main thread can
    catch signals; a stop request in the run folder works everywhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if journal.stop:
            raise KeyboardInterrupt
        journal.stop = True

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and advice of the libraries on the terminal."""
    advice, logs = logging.getLogger("sentence_transformers"), transformers.logging
    level, verbosity = advice.level, logs.get_verbosity()
    bars = datasets.utils.logging.is_progress_bar_enabled(), logs.is_progress_bar_enabled()
    advice.setLevel(logging.ERROR)
    logs.set_verbosity_error()  # type: ignore[no-untyped-call]
    logs.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`broadcast_buffers` is deprecated", category=FutureWarning)
            yield
    finally:
        advice.setLevel(level)
        logs.set_verbosity(verbosity)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            logs.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _trackers_in(folder: Path) -> Iterator[None]:
    """Trackers write into `folder`, unless the user's environment says otherwise."""
    names = ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "TRACKIO_DIR")
    ours = {name: str(folder) for name in names if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def last_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """The last checkpoint that was written completely; incomplete ones after it are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_complete(path, processes):
            return path
        shutil.rmtree(path)
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _is_complete(checkpoint: Path, processes: int) -> bool:
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    if not all((checkpoint / name).is_file() for name in (*COMPLETE, *states)):
        return False
    if not any(checkpoint.glob("**/*.safetensors")):
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


def _gpus() -> list[str]:
    """UUIDs of the GPUs that train, as the driver names them; CUDA_VISIBLE_DEVICES does not change these."""
    if not torch.cuda.is_available():
        return []
    used = range(min(world_size(), torch.cuda.device_count()))
    uuids = [str(getattr(torch.cuda.get_device_properties(number), "uuid", "")) for number in used]
    return [uuid if uuid.startswith("GPU-") else f"GPU-{uuid}" for uuid in uuids if uuid]
