"""Train a recipe into a run folder, by the library's own trainer, so that every number can be had by hand too.

`train` prepares (rows, base, loss: what is wrong there stops it before a run folder exists), then does what the folder
does not hold yet: measure before, fit, keep the model, measure after. A killed run is resumed the same way.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.card import Card
from workbench.collection import Collection, from_pairs, load_collection
from workbench.encoder import (
    LoadedBase,
    describe_device,
    encoder,
    hub_reachable,
    load_base,
    load_folder,
    remembering,
    token_counts,
)
from workbench.errors import DataError, RecipeError, RunError, TrainingError, WorkbenchError
from workbench.evaluate import Encode, evaluate, save_evaluation
from workbench.losses import build_loss
from workbench.pairs import SAMPLES, SCORES, Check, Pairs, Splits, Tokens, check_pairs, load_splits, printed_rows
from workbench.recipe import Data, Origin, Recipe, recipe_sha256, save_recipe
from workbench.run import Run, RunWriter, alive, create, open_run, this_process, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from workbench.fit import Fitted, Job, Plan

Progress = Callable[[str, int, int], None]

PACKAGES = ("torch", "sentence-transformers", "transformers", "card-workbench")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

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
) -> Run:
    """Train `recipe` into a new folder under `runs`, or go on with the run `resume`.

    `base`: None or "auto", a Hub id, a folder, or "bundled:minilm". `data`: a file, a Hub id or "sample:NAME" in place
    of the recipe's rows; `columns` renames its columns (theirs -> ours). `max_steps` ends earlier. With `resume`, the
    run's own recipe, base and data are taken and the other arguments are not read. Checkpoints are there for going
    on; once the run has finished they go, unless `keep_checkpoints`, and the model that was kept stays.

    Ctrl-C ends at the next step with a checkpoint; the run is then "stopped" and can be resumed.

    Raises DataError, BaseError or RecipeError before a run folder exists; TrainingError or RunError after that, and
    the run then says why in `record["error"]`.
    """
    if resume is not None:
        writer, recipe = _reopen(open_run(resume, runs))
        if writer.run.status == "finished":
            return writer.run
        prepared = _prepare(recipe, writer.run.record["base"]["asked"])
        _same_data(writer.run, prepared)
    elif recipe is None:
        raise RecipeError("expected a recipe or a run to resume, found neither.")
    else:
        recipe = _with_arguments(recipe, data, columns, max_steps)
        prepared = _prepare(recipe, base)
        writer = _create(Path(runs), prepared, card, command)
    with _ending(writer):
        _run(writer, prepared, on_progress)
        if writer.run.record["status"] != "stopped" and not keep_checkpoints:
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


# --- prepare -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, in memory and checked."""

    recipe: Recipe
    base: LoadedBase
    splits: Splits
    loss: nn.Module
    collections: Mapping[str, Collection]  # "validation", "test"; those that the data allow
    checks: tuple[Check, ...]
    plan: Plan
    data_note: str  # the sentence about stand-in rows; empty for the card's or the user's own
    notes: tuple[str, ...]  # what was done otherwise than the recipe says, a sentence each


def _prepare(recipe: Recipe, base: str | None) -> Prepared:
    """Rows, base, loss, collections and plan; everything that can be wrong before a run folder is made."""
    from workbench.fit import plan

    _can_be_trained(recipe)
    splits, data_note = _rows(recipe)
    loaded = load_base(recipe.base, base, seed=recipe.training.seed)
    evaluations = {name: part for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    tokens = Tokens(token_counts(loaded.model), loaded.model.max_seq_length)
    checks = check_pairs(splits.train, evaluations, tokens=tokens) + _expected_rows(recipe.data, splits)
    error = next((check for check in checks if check.severity == "error"), None)
    if error is not None:
        raise DataError(error.message)
    collections, notes = _collections(recipe, splits)
    planned = plan(recipe, len(splits.train), loaded.model, measured="validation" in collections)
    return Prepared(
        recipe=recipe,
        base=loaded,
        splits=splits,
        loss=build_loss(recipe.loss, loaded.model),
        collections=collections,
        checks=checks,
        data_note=data_note,
        plan=planned,
        notes=(*notes, *planned.notes),
    )


def _can_be_trained(recipe: Recipe) -> None:
    """RecipeError for what there is no engine for."""
    if recipe.kind != "sentence-transformer":
        raise RecipeError(
            f"expected the recipe of a sentence-transformer, found a {recipe.kind}; such cards can be read and "
            "audited, and not trained yet."
        )
    if recipe.base.similarity not in SIMILARITIES:
        raise RecipeError(
            f"expected a similarity of {', '.join(SIMILARITIES)}, found {recipe.base.similarity!r}, which cannot be "
            "trained yet; set base.similarity and loss.parameters.similarity_fct to one of them."
        )


def held_out(recipe: Recipe) -> dict[str, Collection]:
    """What a run of `recipe` measures before and after: "validation" and "test", those that its rows allow.

    Raises DataError where the rows cannot be had.
    """
    return _collections(recipe, _rows(recipe)[0])[0]


def _rows(recipe: Recipe) -> tuple[Splits, str]:
    """The recipe's rows, or the shipped sample that stands in for them, and the sentence that says so."""
    location = recipe.data.train.location
    sample = SAMPLES.get(recipe.name)
    if location.startswith("sample:"):
        note = f"The shipped sample {location.removeprefix('sample:')!r} stands in for the card's rows."
        return load_splits(recipe.data), note
    try:
        return load_splits(recipe.data, online=hub_reachable), ""
    except DataError:
        given = recipe.provenance.get("data.train.location", Origin(source="default")).source == "user"
        if sample is None or given:
            raise
    data = recipe.data.model_copy(
        update={"train": recipe.data.train.model_copy(update={"location": f"sample:{sample}", "columns": {}})}
    )
    why = "the card does not say where they are" if location == "unknown" else f"{location} cannot be had here"
    return load_splits(data), f"The shipped sample {sample!r} stands in for the card's rows ({why})."


def _expected_rows(data: Data, splits: Splits) -> tuple[Check, ...]:
    """A warning where the card names another number of rows than were found."""
    parts = [len(part) for part in (splits.train, splits.validation, splits.test) if part is not None]
    if data.train.rows is None or data.train.rows in (sum(parts), parts[0]):
        return ()
    return (Check("warning", f"the card says {data.train.rows:,} rows, found {sum(parts):,} ({parts[0]:,} to train)."),)


def _collections(recipe: Recipe, splits: Splits) -> tuple[dict[str, Collection], list[str]]:
    """What is measured before and after: the questions of each held-out part, against the answers of all rows.

    The corpus holds the training answers too, as the card's own evaluation did; a corpus of the part alone would make
    the task easier.
    """
    source = recipe.data.evaluation
    if source is not None and os.path.isdir(source.location):
        return {"validation": load_collection(source.location, split=source.split)}, []
    parts = {name: part for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    texts = [column for column in splits.train.columns if column not in SCORES]
    if not parts:
        return {}, ["No rows were held out and no evaluation data are known, so nothing is measured."]
    if len(texts) < 2 or len(texts) < len(splits.train.columns):
        return {}, ["Rows with scores or labels are not measured as a search; nothing is measured yet."]
    answers = [row for part in (splits.train, *parts.values()) for row in _as_pairs(part, texts)]
    return {name: from_pairs(_as_pairs(part, texts), answers, name=name) for name, part in parts.items()}, []


def _as_pairs(part: Pairs, texts: Sequence[str]) -> list[dict[str, str]]:
    columns = (part.texts(texts[0]), part.texts(texts[1]))
    return [{"anchor": anchor, "positive": positive} for anchor, positive in zip(*columns, strict=True)]


def _same_data(run: Run, prepared: Prepared) -> None:
    """RunError where the rows or the base are not those that the run began with."""
    record = run.record
    for what, was, now in (
        ("rows", record["data"]["sha256"], prepared.splits.train.sha256),
        ("base", record["base"]["sha256"], prepared.base.sha256),
    ):
        if was != now:
            raise RunError(
                f"expected the {what} that run {run.name!r} began with (SHA-256 {was[:12]}), found others "
                f"({now[:12]}); put them back or start a new run."
            )


# --- the run folder ------------------------------------------------------------------------------------------------


def _create(runs: Path, prepared: Prepared, card: Card | None, command: Sequence[str] | None) -> RunWriter:
    recipe, base, splits = prepared.recipe, prepared.base, prepared.splits

    def write(folder: Path) -> None:
        save_recipe(recipe, folder / "recipe.yaml")
        if card is not None:
            from workbench.reading import card_to_dict

            write_json(folder / "card.json", card_to_dict(card))

    record = {
        "card": recipe.name,
        "variant": recipe.variant,
        "recipe_sha256": recipe_sha256(recipe),
        "base": {
            "asked": base.asked,
            "model": base.name,
            "sha256": base.sha256,
            "stand_in": base.stand_in,
            "note": base.note,
        },
        "data": {
            "source": splits.train.origin,
            "sha256": splits.train.sha256,
            "stand_in": bool(prepared.data_note),
            "note": prepared.data_note,
            "rows": {name: len(part) for name, part in vars(splits).items() if part is not None},
            "printed": _printed(card, splits),
        },
        "checks": [{"severity": check.severity, "message": check.message} for check in prepared.checks],
        "notes": list(prepared.notes),
        "device": describe_device()[0],
        "precision": prepared.plan.precision,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
        "command": list(command or ()),
    }
    return create(runs, card_name=recipe.name, recipe_sha256=recipe_sha256(recipe), record=record, write=write)


def _printed(card: Card | None, splits: Splits) -> dict[str, int]:
    """How many rows the card prints, and how many of them are among ours; nothing where its text is damaged."""
    if card is None or card.text.lost:
        return {}
    samples = [sample for dataset in card.training_datasets() for sample in dataset.samples]
    found, printed = printed_rows([part for part in vars(splits).values() if part is not None], samples)
    return {"rows": printed, "found": found}


def _reopen(run: Run) -> tuple[RunWriter, Recipe]:
    """The writer and recipe of a run that is to go on; it belongs to this process from here on."""
    record = run.record
    process = record.get("process") or {}
    if record.get("status") == "running" and process.get("pid") != os.getpid() and alive(process):
        raise RunError(
            f"expected a run that has ended or was interrupted, found {run.name!r} being trained by process "
            f"{process.get('pid')} on {process.get('host')!r}; stop that one first."
        )
    writer = RunWriter(run.path)
    if record.get("status") != "finished":
        writer.update(status="running", process=this_process(), error=None)
    return writer, run.recipe()


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def _run(writer: RunWriter, prepared: Prepared, on_progress: Progress | None) -> None:
    """Do what the folder does not hold yet. `seconds` in run.json is what this took, resumed parts added."""
    from workbench.fit import fit

    started, earlier = time.monotonic(), float(writer.run.record.get("seconds") or 0)
    kept = writer.path / "model"
    _measure_all(writer, prepared, prepared.base.model, "before", on_progress)
    if not kept.is_dir():
        fitted = fit(_job(writer, prepared, on_progress))
        writer.update(
            seconds=round(earlier + time.monotonic() - started, 1),
            progress={"step": fitted.step, "steps": prepared.plan.steps, "epoch": fitted.epoch},
            best=fitted.best,
            peak_memory=fitted.peak_memory,
            rows_per_second=fitted.rows_per_second,
        )
        if fitted.stopped:
            writer.update(status="stopped")
            return
        _keep_model(_chosen(fitted, prepared.recipe), kept)
    model = load_folder(kept, str(kept))
    _measure_all(writer, prepared, model, "after", on_progress)
    writer.update(seconds=round(earlier + time.monotonic() - started, 1))


def _chosen(fitted: Fitted, recipe: Recipe) -> Path:
    """The checkpoint that is kept: the best where the recipe loads it at the end, else the last."""
    wanted = fitted.best_checkpoint if recipe.training.load_best_model_at_end else None
    return wanted or fitted.last


def _keep_model(checkpoint: Path, kept: Path) -> None:
    """Copy a checkpoint's model to `kept`, whole or not at all, without what is only for going on."""
    temporary = kept.with_name(f".{kept.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(*NOT_KEPT))
    temporary.replace(kept)


def _measure_all(
    writer: RunWriter, prepared: Prepared, model: SentenceTransformer, moment: str, on_progress: Progress | None
) -> None:
    encode = remembering(encoder(model))
    for name, collection in prepared.collections.items():
        if moment not in writer.run.evaluations().get(name, ()):
            measure(writer.path, prepared.recipe, collection, encode, name, moment, on_progress)


def measure(
    path: Path,
    recipe: Recipe,
    collection: Collection,
    encode: Encode,
    name: str,
    moment: str,
    on_progress: Progress | None = None,
) -> Mapping[str, float]:
    """Evaluate a model as the recipe says, store it in the run folder under `moment`, and give the means."""

    def told(phase: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{name}, {moment}: {phase}", done, total)

    found = evaluate(
        collection,
        encode,
        similarity=recipe.base.similarity,
        truncate_dim=recipe.evaluation.truncate_dim,
        on_progress=told,
    )
    save_evaluation(path, name, moment, found)
    return found.metrics


# --- fit -----------------------------------------------------------------------------------------------------------


def _job(writer: RunWriter, prepared: Prepared, on_progress: Progress | None) -> Job:
    """What the engine is given: rows, loss and plan, and where its rows of log, progress and rankings go."""
    from workbench.fit import Job

    recipe, splits = prepared.recipe, prepared.splits
    plan = prepared.plan
    written = 0.0

    def told(step: int, epoch: float) -> None:
        nonlocal written
        if on_progress is not None:
            on_progress("train", step, plan.steps)
        if time.monotonic() - written > 1:
            writer.update(progress={"step": step, "steps": plan.steps, "epoch": epoch})
            written = time.monotonic()

    def evaluated(step: int) -> Mapping[str, float]:
        found = measure(
            writer.path,
            recipe,
            prepared.collections["validation"],
            encoder(prepared.base.model),
            "validation",
            f"step-{step}",
            on_progress,
        )
        return {f"validation_{name}": value for name, value in found.items()}

    return Job(
        model=prepared.base.model,
        loss=prepared.loss,
        rows=splits.train.rows,
        held_out=splits.validation.rows if splits.validation is not None else None,
        recipe=recipe,
        plan=plan,
        folder=writer.path / "checkpoints",
        evaluate=evaluated,
        main_metric=f"validation_{recipe.evaluation.main_metric}",
        log=writer.log,
        told=told,
        earlier=max((float(row.get("time") or 0) for row in writer.run.log()), default=0.0),
    )
