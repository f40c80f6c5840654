"""The engine: SentenceTransformerTrainer behind one function, resumed exactly and stopped cleanly.

Why the library's trainer and not one of our own: nothing of the computation is changed, so losses equal those of a
plain script with the same arguments (a test holds this). `journal.py` looks on and writes down.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import math
import os
import resource
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import transformers
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.util import distributed
from transformers.trainer_callback import PrinterCallback

from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, Training
from workbench.training.callbacks import Journal, Watched, Where
from workbench.training.energy_use import Energy, energy_counters
from workbench.training.processes import from_first, is_first, world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import TrainerState

CHECKPOINT_STEPS = 50
"""Steps between two checkpoints, where saving takes a small share of the time; see `journal.SAVING_SHARE`."""

CHECKPOINTS_KEPT = 3  # the last two and the best
COMPLETE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
"""What a checkpoint holds when it was written to its end, beside the state of each process's random numbers."""

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
"""What `report_to` may name -> the packages of which it needs one."""


@contextmanager
def tiny_as_zero() -> Iterator[None]:
    """Numbers below 1.2e-38, which float32 keeps with fewer digits, count as zero meanwhile, on the CPU.

    Processors compute with such numbers up to thirty times slower, and a loss whose softmax is certain, as that of
    energy distance, fills whole gradients with them; a sum with any ordinary number is the same without them. Threads
    that torch starts later do likewise; those that it has already keep them.
    """
    before = float(torch.tensor(1e-40) * 0.5) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


# --- the plan ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """When things happen, in optimizer steps."""

    steps: int  # in all
    steps_per_epoch: int
    logging_steps: int  # of the trainer and its trackers; the run's log has a row for every step
    eval_strategy: str  # no, steps, epoch
    precision: str  # fp32, fp16, bf16; of the computation, the weights are float32
    processes: int = 1
    notes: tuple[str, ...] = ()  # where this departs from the recipe, a sentence each


def plan(recipe: Recipe, rows: Sequence[int], *, measured: bool, processes: int = 1) -> Plan:
    """What the recipe's numbers come to on this device, with datasets of `rows` rows.

    Raises RecipeError where not one batch can be made, or a tracker is not there.
    """
    training = recipe.training
    _can_track(training)
    per_epoch = steps_per_epoch(training, rows, processes)
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * per_epoch)
    precision, precision_note = _precision(recipe)
    notes = [precision_note] if precision_note else []
    if training.processes != processes:
        notes.append(_other_processes(training, processes))
    if processes > 1 and not training.dataloader_drop_last:
        notes.append(
            "Several processes train on full batches alone; rows that fill none at the end of an epoch are left out."
        )
    evaluated = training.eval_strategy if measured else "no"
    if evaluated != training.eval_strategy:
        notes.append("There is nothing to evaluate on, so nothing is evaluated while training.")
    return Plan(
        steps=steps,
        steps_per_epoch=per_epoch,
        logging_steps=max(training.logging_steps, 1),
        eval_strategy=evaluated,
        precision=precision,
        processes=processes,
        notes=tuple(notes),
    )


def steps_per_epoch(training: Training, rows: Sequence[int], processes: int = 1) -> int:
    """Optimizer steps in one pass over datasets of `rows` rows, as the installed trainer counts them.

    Several processes share the full batches, each taking as many; the library drops what is left. The last step of an
    epoch takes the batches that do not fill one, of which older trainers made none. Raises RecipeError where there is
    not one batch.

    >>> steps_per_epoch(Training(per_device_train_batch_size=8), [1440])
    180
    """
    size = training.per_device_train_batch_size
    dropped = training.dataloader_drop_last or processes > 1
    whole = [number // size if dropped else math.ceil(number / size) for number in rows]
    batches = min(whole) * len(whole) if training.multi_dataset_batch_sampler == "round_robin" else sum(whole)
    if batches < processes:
        needed = "one batch" if processes == 1 else f"one batch for each of {processes} processes,"
        raise RecipeError(
            f"expected at least {needed} of {size} rows, found {sum(rows)} rows; "
            "use a smaller per_device_train_batch_size or dataloader_drop_last=false."
        )
    return math.ceil(batches // processes / training.gradient_accumulation_steps)


def _other_processes(training: Training, processes: int) -> str:
    """The sentence for another number of processes than the card's."""
    step = training.per_device_train_batch_size * training.gradient_accumulation_steps
    here = "one process trains" if processes == 1 else f"{processes} processes train"
    advice = f"; --processes {training.processes} trains as many" if processes == 1 else ""
    return (
        f"The card's numbers imply {training.processes} process{'es' * (training.processes > 1)}; here {here}, so a "
        f"step sees {step * processes:,} rows and not {step * training.processes:,}{advice}."
    )


def _can_track(training: Training) -> None:
    """RecipeError for a tracker that is not known or not installed."""
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
    loss: nn.Module | dict[str, nn.Module]  # one for each dataset, where there are several
    rows: Dataset | dict[str, Dataset]
    held_out: Dataset | dict[str, Dataset] | None  # rows for the loss on unseen data, at each evaluation
    recipe: Recipe
    plan: Plan
    folder: Path  # of checkpoints
    evaluate: Callable[[int], Mapping[str, float]]  # step -> metrics by name; stores the rankings
    main_metric: str  # by which the best checkpoint is chosen, one of the names that `evaluate` gives
    log: Callable[..., None]  # takes rows for the reader of the run
    told: Callable[[Where], None]  # takes how far it is, at every step
    stop_asked: Callable[[], bool] = lambda: False  # whether somebody wants it to end
    earlier: float = 0.0  # seconds that were trained before a resume


@dataclass(frozen=True)
class Fitted:
    """What training came to."""

    step: int
    steps: int  # that it should come to
    epoch: float
    stopped: bool  # by a person, before its end
    last: Path  # checkpoint of the last step
    best: Mapping[str, Any] | None  # {"step", "metric", "value"}; None where nothing was evaluated
    best_checkpoint: Path | None
    peak_memory: int = 0  # bytes; on CUDA of the device, else of the process
    rows_per_second: float | None = None  # of training alone; None where nothing was left to train
    joules: float | None = None  # what the devices used meanwhile; None where none counts it
    counted: str = ""  # which devices count


def fit(job: Job) -> Fitted:
    """Train, from the last whole checkpoint where there is one.

    Raises TrainingError where the loss is no longer a number, RecipeError where the trainer refuses an argument.
    """
    checkpoint = from_first(last_checkpoint(job.folder, job.plan.processes) if is_first() else None)
    if checkpoint is not None:
        state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            return _fitted(job, state)
    with quiet(), _trackers_in(job.folder.parent / "trackers"):
        energy = Energy(energy_counters(_gpus()) if is_first() else {})
        journal = _journal(job, energy)
        trainer = _trainer(job, journal)
        with _stoppable(journal):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if is_first():
        with suppress(OSError):
            (job.folder / "eval").rmdir()  # the trainer makes it for evaluators that write files; ours does not
    if not (job.folder / f"checkpoint-{trainer.state.global_step}").is_dir():  # fewer batches than were promised
        trainer._save_checkpoint(trainer.model, None)
    return _fitted(job, trainer.state, journal, energy)


def _journal(job: Job, energy: Energy) -> Journal:
    training = job.recipe.training

    def told(where: Where) -> None:
        energy.sample()
        job.told(where)

    return Journal(
        log=job.log,
        told=told,
        stop_asked=job.stop_asked,
        rows_per_step=training.per_device_train_batch_size * training.gradient_accumulation_steps * job.plan.processes,
        earlier=job.earlier,
    )


def _trainer(job: Job, journal: Journal) -> Watched:
    arguments = _arguments(job)
    evaluated = job.plan.eval_strategy != "no"
    with redirect_stderr(io.StringIO()):  # a bar for the model card that no argument turns off
        trainer = _engine(job)(
            journal=journal,
            model=job.model,
            args=arguments,
            train_dataset=job.rows,
            eval_dataset=job.held_out if evaluated else None,
            loss=job.loss,
            evaluator=_Measured(job, journal) if evaluated else None,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _engine(job: Job) -> type[Watched]:
    """The trainer that the recipe asks for; one that does not take the recipe gives way to the library's."""
    if job.recipe.training.engine == "fast":
        from workbench.training.fast.engine import Fast, accepts

        if accepts(job.recipe, job.model) is None:
            return Fast
    return Watched


def _fitted(job: Job, state: TrainerState, journal: Journal | None = None, energy: Energy | None = None) -> Fitted:
    best_step = state.best_global_step
    best = None
    if best_step:
        best = {"step": int(best_step), "metric": job.main_metric, "value": float(state.best_metric or 0.0)}
    best_folder = job.folder / f"checkpoint-{best_step}"
    return Fitted(
        step=int(state.global_step),
        steps=int(state.max_steps),
        epoch=float(state.epoch or 0.0),
        stopped=journal is not None and journal.stopping and state.global_step < state.max_steps,
        last=job.folder / f"checkpoint-{state.global_step}",
        best=best,
        best_checkpoint=best_folder if best is not None and best_folder.is_dir() else None,
        peak_memory=_peak_memory(),
        rows_per_second=journal.rows_per_second() if journal is not None else None,
        joules=energy.joules() if energy is not None else None,
        counted=energy.sources() if energy is not None else "",
    )


def _arguments(job: Job) -> SentenceTransformerTrainingArguments:
    """The recipe's arguments; what is about looking on, saving and reporting is ours."""
    training = job.recipe.training
    taken = (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
        "max_grad_norm", "optim", "lr_scheduler_type", "seed", "data_seed", "batch_sampler",
        "multi_dataset_batch_sampler", "eval_steps",
    )  # fmt: skip
    fields = SentenceTransformerTrainingArguments.__dataclass_fields__
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    given: dict[str, Any] = {name: getattr(training, name) for name in taken}
    given[checkpointing] = training.gradient_checkpointing
    try:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(job.folder),
            **given,
            lr_scheduler_kwargs=dict(training.lr_scheduler_kwargs),
            warmup_steps=training.warmup_steps or training.warmup_ratio,  # below 1 it is a share of all steps
            prompts=_prompts(job) or None,
            dataloader_drop_last=training.dataloader_drop_last or job.plan.processes > 1,  # as the library would
            fp16=job.plan.precision == "fp16",
            bf16=job.plan.precision == "bf16",
            use_cpu=job.plan.processes > 1 and not torch.cuda.is_available(),  # else it sees no other process
            eval_strategy=job.plan.eval_strategy,
            logging_strategy="steps",
            logging_steps=job.plan.logging_steps,
            logging_nan_inf_filter=False,  # a loss that is not a number is to be seen
            save_strategy="steps",
            save_steps=CHECKPOINT_STEPS,
            save_total_limit=CHECKPOINTS_KEPT,
            metric_for_best_model=f"eval_{job.main_metric}" if job.plan.eval_strategy != "no" else None,
            greater_is_better=job.recipe.evaluation.higher_is_better,
            disable_tqdm=True,
            report_to=list(training.report_to) or "none",
            push_to_hub=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(
            f"expected arguments that the trainer can take, found some that it refuses ({_first_line(error)}); "
            "change them with --set."
        ) from error
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process feeding several GPUs would multiply the batch
    return arguments


def _prompts(job: Job) -> dict[str, Any]:
    """Column -> prompt, as the trainer takes it: for several datasets, under the name of each.

    Raises RecipeError for a column that no dataset has.
    """
    prompts = job.recipe.training.prompts
    parts = job.rows if isinstance(job.rows, dict) else {"": job.rows}
    columns = {name: list(part.column_names) for name, part in parts.items()}
    unknown = [column for column in prompts if not any(column in names for names in columns.values())]
    if unknown:
        known = ", ".join(dict.fromkeys(name for names in columns.values() for name in names))
        raise RecipeError(
            f"expected columns of the rows ({known}) in training.prompts, found {unknown[0]!r}; rename it there."
        )
    nested = {name: {key: prompts[key] for key in names if key in prompts} for name, names in columns.items()}
    return {name: own for name, own in nested.items() if own} if isinstance(job.rows, dict) else dict(prompts)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


class _Measured(BaseEvaluator):
    """Our own evaluation where the trainer wants one of its evaluators."""

    def __init__(self, job: Job, journal: Journal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job, self.journal = job, journal
        self.primary_metric = job.main_metric

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Newer libraries call this in the first process and pass on what it gives; older ones in all of them."""
        found = dict(self.job.evaluate(steps)) if is_first() else {}
        if not hasattr(distributed, "distributed_evaluation"):
            found = from_first(found)
        self.journal.evaluated = dict(found)
        return found


@contextmanager
def _stoppable(journal: Journal) -> Iterator[None]:
    """Ctrl-C and SIGTERM end at the next step, with a checkpoint; a second one ends at once. Elsewhere than in the main
    thread signals cannot be caught; a request to stop in the run folder does the same."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if journal.stop:
            raise KeyboardInterrupt
        journal.stop = True

    was = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in was.items():
            signal.signal(number, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no advice of the libraries on the terminal; what matters is in the run."""
    advice = logging.getLogger("sentence_transformers")
    level, verbosity = advice.level, transformers.logging.get_verbosity()
    advice.setLevel(logging.ERROR)
    bars = datasets.utils.logging.is_progress_bar_enabled(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`broadcast_buffers` is deprecated", category=FutureWarning)
            yield
    finally:
        advice.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _trackers_in(folder: Path) -> Iterator[None]:
    """Trackers write into the run, not into the folder of checkpoints, which goes, or where the user stands."""
    places = {"TENSORBOARD_LOGGING_DIR": folder, "WANDB_DIR": folder, "TRACKIO_DIR": folder}
    ours = {name: str(place) for name, place in places.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


# --- checkpoints ---------------------------------------------------------------------------------------------------


def last_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """The last checkpoint that was written to its end; those that were not are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_whole(path, processes):
            return path
        shutil.rmtree(path)
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path, processes: int) -> bool:
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


# --- the device ----------------------------------------------------------------------------------------------------


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return int(most if sys.platform == "darwin" else most * 1024)


def _gpus() -> list[str]:
    """UUIDs of the GPUs that train, as the driver names them: CUDA_VISIBLE_DEVICES changes the numbers, not these."""
    if not torch.cuda.is_available():
        return []
    used = range(min(world_size(), torch.cuda.device_count()))
    named = [str(getattr(torch.cuda.get_device_properties(number), "uuid", "")) for number in used]
    return [uuid if uuid.startswith("GPU-") else f"GPU-{uuid}" for uuid in named if uuid]
