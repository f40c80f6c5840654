"""Train a recipe into a run folder, by the library's own trainer, so that every number can be had by hand too.

`train` prepares (rows, base, loss: what is wrong there stops it before a run folder exists), then does what the folder
does not hold yet: measure before, fit, keep the model, measure after. A killed run is resumed the same way. Several
processes do all of it together, but the first alone writes and measures.

`fit.py` is the one place that knows the trainer; a second engine would take a `Job` and give a `Fitted`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.card import Card
from workbench.data.training_rows import Splits, count_printed_rows
from workbench.errors import RecipeError, RunError, TrainingError, WorkbenchError
from workbench.evaluation.projection import STAGES, save_vectors
from workbench.evaluation.retrieval import Encode, Evaluation
from workbench.evaluation.tasks import Task, save
from workbench.models.base import describe_device, load_folder
from workbench.recipe.schema import Origin, Recipe, recipe_sha256
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Progress, Run, RunWriter, alive, create, open_run, this_process, write_json
from workbench.training.prepare import Prepared, encode_with, energy_settings, prepare, while_training
from workbench.training.processes import from_first, is_first, together, wait

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.training.callbacks import Where
    from workbench.training.trainer import Fitted, Job

PACKAGES = ("torch", "sentence-transformers", "transformers", "card-workbench")

PROGRESS_SECONDS = 1.0
"""How often run.json says how far training is."""

ENGINE_ERRORS = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, ImportError
)  # fmt: skip
"""What the trainer and the libraries under it raise for a disk, an argument, a row or a package that will not do."""

NOT_KEPT = ("*.pt", "*.pth", "*.bin", "trainer_state.json")
"""What a checkpoint holds for going on and a model does not need."""


# --- train ---------------------------------------------------------------------------------------------------------


def train(
    recipe: Recipe | None,
    *,
    card: Card | None = None,
    runs: str | os.PathLike[str] = "runs",
    base: str | None = None,
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_steps: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    keep_checkpoints: bool = False,
    command: Sequence[str] | None = None,
    on_progress: Progress | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> Run:
    """Train `recipe` into a new folder under `runs`, or go on with the run `resume`.

    `base`: None or "auto", a Hub id, a folder, or a stand-in (see `load_base`). `data`: a file, a Hub id or
    "sample:NAME" in place of the recipe's rows; `columns` renames its columns (theirs -> ours). `max_steps` ends
    earlier. With `resume`, the run's own recipe, base and data are taken and the other arguments are not read.
    Checkpoints are there for going on; once the run has finished they go, unless `keep_checkpoints`, and the model
    that was kept stays. `on_run` is given the new run before anything is measured or trained: what was found out about
    the rows is in its record by then.

    Ctrl-C, SIGTERM and `Run.stop` end at the next step with a checkpoint; the run is then "stopped" and can be resumed.

    Under torchrun every process calls this with the same arguments; see `processes.launch`.

    Raises DataError, BaseError or RecipeError before a run folder exists; TrainingError or RunError after that, and
    the run then says why in `record["error"]`.
    """
    from workbench.training.trainer import tiny_as_zero

    with together(), tiny_as_zero():
        if resume is not None:
            run = open_run(resume, runs)
            if run.status == "finished":
                return run
            writer = _reopen(run)
            with _ending(writer):
                prepared = prepare(run.recipe(), run.record["base"]["asked"])
                _same_start(run, prepared)
                _run(writer, prepared, on_progress)
        elif recipe is None:
            raise RecipeError("expected a recipe or a run to resume, found neither.")
        else:
            prepared = prepare(_with_arguments(recipe, data, columns, max_steps), base)
            writer = _create(Path(runs), prepared, card, command)
            if on_run is not None and is_first():
                on_run(writer.run)
            with _ending(writer):
                _run(writer, prepared, on_progress)
        if is_first() and not keep_checkpoints and writer.run.status == "finished":
            shutil.rmtree(writer.path / "checkpoints", ignore_errors=True)
        return writer.run


def _with_arguments(
    recipe: Recipe, data: str | None, columns: Mapping[str, str] | None, max_steps: int | None
) -> Recipe:
    """The recipe with the user's data, columns and max_steps in it, each with its provenance."""
    train_source, training, origins = recipe.data.train, recipe.training, dict(recipe.provenance)
    if data is not None:
        train_source = train_source.model_copy(
            update={"location": data, "config": None, "split": None, "revision": None, "columns": {}}
        )
        origins["data.train.location"] = Origin(source="user", note="data")
    if columns is not None:
        train_source = train_source.model_copy(update={"columns": dict(columns)})
        origins["data.train.columns"] = Origin(source="user", note="columns")
    if max_steps is not None:
        if max_steps < 1:
            raise RecipeError(f"expected max_steps of at least 1, found {max_steps!r}.")
        training = training.model_copy(update={"max_steps": max_steps})
        origins["training.max_steps"] = Origin(source="user", note="max_steps")
    changed = {"data": recipe.data.model_copy(update={"train": train_source}), "training": training}
    return recipe.model_copy(update={**changed, "provenance": origins})


# --- the run folder ------------------------------------------------------------------------------------------------


def _create(runs: Path, prepared: Prepared, card: Card | None, command: Sequence[str] | None) -> RunWriter:
    """A new run folder, made by the first process."""
    made = from_first(_created(runs, prepared, card, command) if is_first() else None)
    return RunWriter(Path(str(made)), writes=is_first())


def _created(runs: Path, prepared: Prepared, card: Card | None, command: Sequence[str] | None) -> Path:
    recipe = prepared.recipe

    def write(folder: Path) -> None:
        save_recipe(recipe, folder / "recipe.yaml")
        if card is not None:
            from workbench.cards.read import card_to_dict

            write_json(folder / "card.json", card_to_dict(card))

    record = {
        "card": recipe.name,
        "variant": recipe.variant,
        "recipe_sha256": recipe_sha256(recipe),
        "base": _base_record(prepared),
        "data": _data_record(prepared, card),
        "checks": [{"severity": check.severity, "message": check.message} for check in prepared.checks],
        "notes": list(prepared.notes),
        "device": describe_device()[0],
        "precision": prepared.plan.precision,
        "processes": prepared.plan.processes,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "command": list(command or ()),
    }
    sha256 = recipe_sha256(recipe)
    return create(runs, card_name=recipe.name, recipe_sha256=sha256, record=record, write=write).path


def _base_record(prepared: Prepared) -> dict[str, Any]:
    base = prepared.base
    return {
        "asked": base.asked,
        "model": base.name,
        "sha256": base.sha256,
        "stand_in": base.stand_in,
        "note": base.note,
        "unknown_share": base.unknown_share,
    }


def _data_record(prepared: Prepared, card: Card | None) -> dict[str, Any]:
    splits = prepared.splits
    return {
        "source": splits.train.origin,
        "sha256": splits.train.sha256,
        "stand_in": bool(prepared.data_note),
        "note": prepared.data_note,
        "rows": {name: len(part) for name, part in splits.parts().items()},
        "more": {
            name: {"source": part.origin, "sha256": part.sha256, "rows": len(part)}
            for name, part in splits.more.items()
        },
        "printed": _printed(card, splits),
    }


def _printed(card: Card | None, splits: Splits) -> dict[str, int]:
    """How many rows the card prints, and how many of them are among ours; nothing where its text is damaged."""
    if card is None or card.text.lost:
        return {}
    samples = [sample for dataset in card.training_datasets() for sample in dataset.samples]
    found, printed = count_printed_rows([*splits.parts().values(), *splits.more.values()], samples)
    return {"rows": printed, "found": found}


def _reopen(run: Run) -> RunWriter:
    """The writer of a run that is to go on; it belongs to this process from here on."""
    if is_first():
        record = run.record
        process = record.get("process") or {}
        if record.get("status") == "running" and process.get("pid") != os.getpid() and alive(process):
            raise RunError(
                f"expected a run that has ended or was interrupted, found {run.name!r} being trained by process "
                f"{process.get('pid')} on {process.get('host')!r}; stop that one first."
            )
        run.forget_stop()
        RunWriter(run.path).update(status="running", process=this_process(), error=None)
    wait()
    return RunWriter(run.path, writes=is_first())


def _same_start(run: Run, prepared: Prepared) -> None:
    """RunError where the rows, the base or the number of processes are not those that the run began with."""
    record = run.record
    pairs = [
        ("rows", record["data"]["sha256"], prepared.splits.train.sha256),
        ("base", record["base"]["sha256"], prepared.base.sha256),
    ]
    for name, part in prepared.splits.more.items():
        was = (record["data"].get("more") or {}).get(name) or {}
        pairs.append((f"rows of {name!r}", str(was.get("sha256", "")), part.sha256))
    for what, before, now in pairs:
        if before != now:
            raise RunError(
                f"expected the {what} that run {run.name!r} began with (SHA-256 {before[:12]}), found others "
                f"({now[:12]}); put them back or start a new run."
            )
    began = record.get("processes", 1)
    if began != prepared.plan.processes:
        raise RunError(
            f"expected the {began} process{'es' * (began > 1)} that run {run.name!r} began with, found "
            f"{prepared.plan.processes}; resume with --processes {began}."
        )


@contextmanager
def _ending(writer: RunWriter) -> Iterator[None]:
    """Write how the run ended, whatever ended it."""
    import torch
    from safetensors import SafetensorError

    ending: dict[str, Any] = {"status": "failed", "error": "The training ended by an error that was not expected."}
    try:
        yield
        ending = {} if writer.run.record["status"] == "stopped" else {"status": "finished"}
    except KeyboardInterrupt:
        ending = {"status": "stopped"}
    except WorkbenchError as error:
        ending = {"status": "failed", "error": str(error)}
        raise
    except torch.OutOfMemoryError as error:
        message = (
            "expected the batch to fit into the device's memory, found too little of it; "
            "use a smaller per_device_train_batch_size with more gradient_accumulation_steps."
        )
        ending = {"status": "failed", "error": message}
        raise TrainingError(message) from error
    except (*ENGINE_ERRORS, SafetensorError) as error:
        message = (
            f"expected the training to go on, found {type(error).__name__}: {_first_line(error)}; "
            f"once that is mended, resume with --resume {writer.path.name}."
        )
        ending = {"status": "failed", "error": message}
        raise TrainingError(message) from error
    finally:
        ending["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        writer.update(**ending)
        if is_first():
            writer.run.forget_stop()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


# --- the parts of a run --------------------------------------------------------------------------------------------


def _run(writer: RunWriter, prepared: Prepared, on_progress: Progress | None) -> None:
    """Do what the folder does not hold yet. `seconds` in run.json is what this took, resumed parts added."""
    from workbench.training.trainer import fit

    started, earlier = time.monotonic(), float(writer.run.record.get("seconds") or 0)
    kept = writer.path / "model"
    _measure_all(writer, prepared, prepared.base.model, "before", on_progress)
    wait()
    if not kept.is_dir():
        fitted = fit(_job(writer, prepared, on_progress))
        writer.update(
            seconds=round(earlier + time.monotonic() - started, 1), **_outcome(writer.run.record, prepared, fitted)
        )
        if fitted.stopped:
            writer.update(status="stopped")
            wait()
            return
        if is_first():
            _keep_model(_chosen(fitted, prepared.recipe), kept, prepared.recipe)
    if is_first():
        _measure_all(writer, prepared, load_folder(kept, str(kept)), "after", on_progress)
    writer.update(seconds=round(earlier + time.monotonic() - started, 1))


def _outcome(record: Mapping[str, Any], prepared: Prepared, fitted: Fitted) -> dict[str, Any]:
    """What run.json says of the training; what it cost is added to that before a resume."""
    before = record.get("cost") or {}
    joules = [used for used in (before.get("joules"), fitted.joules) if used is not None]
    rate = fitted.rows_per_second if fitted.rows_per_second is not None else before.get("rows_per_second")
    memory = max(fitted.peak_memory, int(before.get("peak_memory") or 0))
    outcome: dict[str, Any] = {
        "progress": {
            "step": fitted.step,
            "steps": fitted.steps,
            "epoch": fitted.epoch,
            "rows_per_second": rate,
            "seconds_left": None,
            "phase": "stopped" if fitted.stopped else "trained",
        },
        "best": fitted.best,
        "peak_memory": memory,
        "rows_per_second": rate,
        "cost": {
            "peak_memory": memory,
            "rows_per_second": rate,
            "device": describe_device()[0],
            "processes": prepared.plan.processes,
            "precision": prepared.plan.precision,
            "joules": round(sum(joules), 1) if joules else None,
            "counted": fitted.counted or before.get("counted", ""),
        },
    }
    if not fitted.stopped and fitted.step < fitted.steps:
        note = f"The rows gave batches for {fitted.step:,} of {fitted.steps:,} steps; too few of them differ."
        outcome["notes"] = list(dict.fromkeys([*record.get("notes", ()), note]))
    return outcome


def _chosen(fitted: Fitted, recipe: Recipe) -> Path:
    """The checkpoint that is kept: the best where the recipe loads it at the end, else the last."""
    wanted = fitted.best_checkpoint if recipe.training.load_best_model_at_end else None
    return wanted or fitted.last


def _keep_model(checkpoint: Path, kept: Path, recipe: Recipe) -> None:
    """Copy a checkpoint's model to `kept`, whole or not at all, without what is only for going on."""
    temporary = kept.with_name(f".{kept.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(*NOT_KEPT))
    if recipe.base.similarity == "energy":
        from workbench.models.energy_distance import save_similarity

        save_similarity(temporary, **energy_settings(recipe))
    temporary.replace(kept)


def _measure_all(
    writer: RunWriter, prepared: Prepared, model: SentenceTransformer, moment: str, on_progress: Progress | None
) -> None:
    """Every task that the run does not hold at `moment`; by the first process alone."""
    if not is_first():
        return
    _phase(writer, f"measure {moment}")
    encode = encode_with(model, prepared.recipe, remember=True)
    for name, task in prepared.tasks.items():
        if moment not in writer.run.evaluations().get(name, ()):
            measure(writer.path, prepared.recipe, task, encode, name, moment, on_progress)


def measure(
    path: Path,
    recipe: Recipe,
    task: Task,
    encode: Encode,
    name: str,
    moment: str,
    on_progress: Progress | None = None,
) -> Mapping[str, float]:
    """Evaluate a model as the recipe says, store it in the run folder under `moment`, and give the means."""

    def told(phase: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{name}, {moment}: {phase}", done, total)

    found = task.measure(
        encode,
        similarity=recipe.base.similarity,
        truncate_dim=recipe.evaluation.truncate_dim,
        on_progress=told,
    )
    folder = save(path, name, moment, found)
    if moment in STAGES and isinstance(found, Evaluation) and getattr(task, "dimensions", None) is None:
        save_vectors(path, folder, moment, found)
    return found.metrics


def _phase(writer: RunWriter, phase: str) -> None:
    writer.update(progress={**(writer.run.record.get("progress") or {}), "phase": phase, "seconds_left": None})


# --- fit -----------------------------------------------------------------------------------------------------------


def _job(writer: RunWriter, prepared: Prepared, on_progress: Progress | None) -> Job:
    """What the engine is given: rows, loss and plan, and where its rows of log, progress and rankings go."""
    from workbench.training.trainer import Job

    looked_at = while_training(prepared.tasks)

    def evaluated(step: int) -> Mapping[str, float]:
        _phase(writer, f"measure step-{step}")
        encode = encode_with(prepared.base.model, prepared.recipe, remember=True)
        found: dict[str, float] = {}
        for name, task in looked_at.items():
            means = measure(writer.path, prepared.recipe, task, encode, name, f"step-{step}", on_progress)
            found |= {f"{name}_{metric}": value for metric, value in means.items()}
        return found

    return Job(
        model=prepared.base.model,
        loss=prepared.loss,
        rows=prepared.rows,
        held_out=prepared.held_out,
        recipe=prepared.recipe,
        plan=prepared.plan,
        folder=writer.path / "checkpoints",
        evaluate=evaluated,
        main_metric=_main_metric(writer.run, prepared.recipe, list(looked_at)),
        log=writer.log,
        told=_telling(writer, on_progress),
        stop_asked=writer.run.stop_asked,
        earlier=max((float(row.get("time") or 0) for row in writer.run.log()), default=0.0),
    )


def _telling(writer: RunWriter, on_progress: Progress | None) -> Callable[[Where], None]:
    """The function that takes every step, and tells a person at once and run.json once a second."""
    written = 0.0

    def told(where: Where) -> None:
        nonlocal written
        if on_progress is not None:
            rate = "" if where.rows_per_second is None else f": {where.rows_per_second:,.0f} rows/s"
            on_progress(f"train{rate}", where.step, where.steps)
        if time.monotonic() - written > PROGRESS_SECONDS:
            left = None if where.seconds_left is None else round(where.seconds_left, 1)
            writer.update(
                progress={
                    "step": where.step,
                    "steps": where.steps,
                    "epoch": where.epoch,
                    "rows_per_second": where.rows_per_second,
                    "seconds_left": left,
                    "phase": "train",
                }
            )
            written = time.monotonic()

    return told


def _main_metric(run: Run, recipe: Recipe, names: Sequence[str]) -> str:
    """By which the best checkpoint is chosen: the recipe's metric of the first task that has it, else that task's own.

    The mean over NanoBEIR comes before its parts.
    """
    ordered = sorted(names, key=lambda name: (name != "validation", "_mean" not in name, names.index(name)))
    wanted = recipe.evaluation.main_metric
    for name in ordered:
        if wanted in run.metrics(name, "before"):
            return f"{name}_{wanted}"
    if not ordered:
        return f"validation_{wanted}"
    metrics = run.metrics(ordered[0], "before")
    own = run.settings(ordered[0], "before").get("main_metric")
    return f"{ordered[0]}_{own or next((name for name in metrics if name.endswith('ndcg@10')), next(iter(metrics)))}"
