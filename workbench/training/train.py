"""Train a recipe into a run folder, by the library's own trainer, so that every number can be had by hand too.

`train` prepares (rows, base, loss: an error there leaves no run folder), then does what the folder does not hold yet:
evaluate before, fit, keep the model, evaluate after. A killed run is resumed the same way. Where several processes
train, only the first one writes and evaluates.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from workbench.cards.card import Card
from workbench.data.training_rows import count_printed_rows
from workbench.errors import (
    BaseError,
    DataError,
    RecipeError,
    RunError,
    TrainingError,
    WorkbenchError,
    enough_memory,
    first_line,
)
from workbench.evaluation.retrieval import folder_name
from workbench.models.base import describe_device, load_folder
from workbench.recipe.overrides import with_changes
from workbench.recipe.schema import Origin, Recipe, recipe_sha256
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Progress, Run, RunWriter, create, is_alive, open_run, rate_text, this_process, write_json
from workbench.training.evaluations import evaluate_all
from workbench.training.given import Given, Statements
from workbench.training.identity import identity, known_examples
from workbench.training.prepare import Prepared, energy_settings, prepare, tasks_while_training
from workbench.training.processes import from_first, is_first, joined_processes, wait
from workbench.training.progress import shown_progress
from workbench.training.source import Source, base_name, command_of, open_recipe, rows_places

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.training.job import Job, StepProgress, Timing
    from workbench.training.source import BaseModel, Data
    from workbench.training.trainer import Outcome

PACKAGES = ("torch", "sentence-transformers", "transformers", "card-workbench")

ONLY_FOR_RESUMING = ("*.pt", "*.pth", "*.bin", "trainer_state.json")
"""Files of a checkpoint that a model does not need."""


@enough_memory("the training")
def train(
    source: Source | None,
    *,
    card: Card | None = None,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    runs: str | os.PathLike[str] = "runs",
    base: BaseModel | None = None,
    data: Data | None = None,
    columns: Mapping[str, str] | None = None,
    max_steps: int | None = None,
    stand_ins: bool = True,
    resume: str | os.PathLike[str] | None = None,
    keep_checkpoints: bool = False,
    command: Sequence[str] | None = None,
    progress: bool = True,
    on_progress: Progress | None = None,
    on_run: Callable[[Run], None] | None = None,
    timing: Timing | None = None,
    **stated: Unpack[Statements],
) -> Run:
    """Train a recipe into a new folder under `runs`, or resume the run `resume`.

    `source` is a card, or what `read_card` takes, with `corrected` and `overrides` as for `recipe`; a Recipe or its
    file, with its `card` if any; or a Run. `base`: None or "auto", a Hub id, a folder, a stand-in (see `load_base`), a
    Run, or a SentenceTransformer. `data`: a file, a Hub id or "sample:NAME", "NAME=PATH" for each dataset of several,
    or rows: dicts, a DataFrame or a `datasets.Dataset`; `columns` renames their columns (theirs -> ours). `max_steps`
    ends earlier. Without `stand_ins`, base or rows in place of the card's are refused. `stated` is what the user states
    about the card. `resume` goes on with a run, without the other arguments. Checkpoints are removed at the end, unless
    `keep_checkpoints`. `on_run` is called with the new run before it is trained. Ctrl-C, SIGTERM and `Run.stop` stop at
    the next step with a checkpoint, to be resumed. Under torchrun every process calls this with the same arguments.
    Raises DataError, BaseError or RecipeError before there is a run, then TrainingError or RunError.
    """
    from workbench.training.trainer import denormals_as_zero

    with joined_processes(), denormals_as_zero(), shown_progress(on_progress, shown=progress) as on_progress:
        if resume is not None:
            run = open_run(resume, runs)
            if run.status == "finished":
                return run
            writer = _reopen(run)
        elif source is None:
            raise RecipeError("expected a card, a recipe or a run to resume, found none.")
        else:
            recipe, card = open_recipe(source, card=card, corrected=corrected, overrides=overrides)
            asked, places = base_name(base, runs), rows_places(data, runs)
            options = {"base": asked, "data": places, "columns": columns, "max_steps": max_steps, **stated}
            command = command or command_of(source, options, corrected, overrides or {}, runs, stand_ins)
            recipe = _with_arguments(recipe, places, columns, max_steps)
            prepared = prepare(recipe, asked, card=card, given=Given.of(stated, asked))
            writer = _create(Path(runs), prepared, card, command, stand_ins, on_run)
        with recorded_ending(writer), enough_memory("the training"):
            if resume is not None:
                record, given = writer.run.record, Given.of_record(writer.run.record)
                prepared = prepare(writer.run.recipe(), record["base"]["asked"], card=writer.run.card(), given=given)
                _require_same_start(writer.run, prepared)
            _Training(writer, prepared, on_progress, timing).run()
            if is_first() and not keep_checkpoints and writer.run.record["status"] != "stopped":
                shutil.rmtree(writer.run.file("checkpoints"), ignore_errors=True)
        return writer.run


def _refuse_stand_ins(prepared: Prepared) -> None:
    if prepared.base.stand_in:
        raise BaseError(f"expected the card's own base, found a stand-in: {prepared.base.note}")
    if prepared.data_note:
        raise DataError(f"expected the card's own rows, found a stand-in: {prepared.data_note}")


def _with_arguments(
    recipe: Recipe, data: str | Sequence[str] | None, columns: Mapping[str, str] | None, max_steps: int | None
) -> Recipe:
    """The recipe with the user's data, columns and max_steps, each with its provenance."""
    if max_steps is not None and max_steps < 1:
        raise RecipeError(f"expected max_steps of at least 1, found {max_steps!r}.")
    changes: dict[str, tuple[Any, Origin]] = {}
    sources = {recipe.data.name: "data.train"}
    sources |= {each.name: f"data.more.{number}.source" for number, each in enumerate(recipe.data.more)}
    for value in [data] if isinstance(data, str) else data or ():
        name, _, place = value.partition("=")
        path, place = (sources[name], place) if name in sources and place else (sources[recipe.data.name], value)
        if f"{path}.location" in changes:
            known = ", ".join(f"{each}=PATH" for each in sources)
            raise RecipeError(f"expected --data once for each dataset of the card ({known}), found {value!r}, too.")
        fields: dict[str, Any] = {"location": place, "config": None, "split": None, "revision": None, "columns": {}}
        changes |= {f"{path}.{field}": (each, Origin(source="user", note="data")) for field, each in fields.items()}
    if columns is not None:
        given = [path.rpartition(".")[0] for path in changes if path.endswith(".location")]
        for path in given or ["data.train"]:
            changes[f"{path}.columns"] = dict(columns), Origin(source="user", note="columns")
    if max_steps is not None:
        changes["training.max_steps"] = max_steps, Origin(source="user", note="max_steps")
    return with_changes(recipe, changes) if changes else recipe


def _create(
    runs: Path,
    prepared: Prepared,
    card: Card | None,
    command: Sequence[str] | None,
    stand_ins: bool,
    on_run: Callable[[Run], None] | None,
) -> RunWriter:
    """A new run folder, made by the first process, once all have checked what is known about base and rows."""
    if not stand_ins:
        _refuse_stand_ins(prepared)
    path, found = None, identity(prepared, card)
    if is_first():
        recipe, sha256 = prepared.recipe, recipe_sha256(prepared.recipe)

        def write(run: Run) -> None:
            save_recipe(recipe, run.file("recipe"))
            if card is not None:
                from workbench.cards.read import card_to_dict

                write_json(run.file("card"), card_to_dict(card))

        record = {**_record(prepared, card, found), "recipe_sha256": sha256, "command": list(command or ())}
        path = create(runs, card_name=recipe.name, recipe_sha256=sha256, record=record, write=write).path
    writer = RunWriter(Path(str(from_first(path))), writes=is_first())
    if on_run is not None and is_first():
        on_run(writer.run)
    return writer


def _record(prepared: Prepared, card: Card | None, found: list[dict[str, Any]]) -> dict[str, Any]:
    """What run.json says from the start; see `Run.record`."""
    base, splits, recipe = prepared.base, prepared.splits, prepared.recipe
    return {
        "card": recipe.name,
        "variant": recipe.variant,
        "base": {
            "asked": base.asked,
            "model": base.name,
            "sha256": base.sha256,
            "stand_in": base.stand_in,
            "note": base.note,
            "unknown_share": base.unknown_share,
        },
        "data": {
            "source": splits.train.origin,
            "sha256": splits.train.sha256,
            "stand_in": bool(prepared.data_note),
            "note": prepared.data_note,
            "rows": {name: len(part) for name, part in splits.parts().items()},
            "more": {
                name: {"source": part.origin, "sha256": part.sha256, "rows": len(part)}
                for name, part in splits.more.items()
            },
            "printed": _printed_rows(card, prepared),
        },
        "trained": prepared.departures(),
        "statements": prepared.given.sentences(recipe, base.name, prepared.sets),
        "examples": known_examples(prepared, card),
        "identity": found,
        "margin": prepared.given.margin,
        "checks": [{"severity": check.severity, "message": check.message} for check in prepared.checks],
        "notes": list(prepared.notes),
        "device": describe_device()[0],
        "precision": prepared.plan.precision,
        "processes": prepared.plan.processes,
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Python and the packages whose versions can change a number."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def _printed_rows(card: Card | None, prepared: Prepared) -> dict[str, int]:
    """How many rows the card prints, and how many of them are among ours, each counted in its own dataset; nothing
    where the card's text is damaged."""
    if card is None or card.text.lost:
        return {}
    splits, prompts = prepared.splits, prepared.recipe.training.prompts
    first, *others = card.training_datasets() or (None,)
    counts = [count_printed_rows([*splits.parts().values()], first.samples, prompts)] if first else []
    counts += [
        count_printed_rows([part], dataset.samples, prompts)
        for dataset, part in zip(others, splits.more.values(), strict=False)
        if dataset is not None
    ]
    return {"rows": sum(rows for _, rows in counts), "found": sum(found for found, _ in counts)}


def _reopen(run: Run) -> RunWriter:
    """The writer of a run to resume, which belongs to this process from now on."""
    if is_first():
        record = run.record
        if record.get("verification") is not None:
            raise RunError(f"expected a training to resume, found {run.name!r}, a verification; verify again.")
        process = record.get("process") or {}
        if record.get("status") == "running" and process.get("pid") != os.getpid() and is_alive(process):
            raise RunError(
                f"expected a run that has ended or was interrupted, found {run.name!r} being trained by process "
                f"{process.get('pid')} on {process.get('host')!r}; stop that one first."
            )
        run.clear_stop_request()
        writer = RunWriter(run.path)
        writer.update(status="running", process=this_process(), error=None)
        writer.remove_half_written()
    wait()
    return RunWriter(run.path, writes=is_first())


def _require_same_start(run: Run, prepared: Prepared) -> None:
    """RunError where the rows, the base or the number of processes are not those that the run began with."""
    record = run.record
    pairs = [
        ("rows", record["data"]["sha256"], prepared.splits.train.sha256),
        ("base", record["base"]["sha256"], prepared.base.sha256),
    ]
    for name, part in prepared.splits.more.items():
        first = (record["data"].get("more") or {}).get(name) or {}
        pairs.append((f"rows of {name!r}", str(first.get("sha256", "")), part.sha256))
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
def recorded_ending(writer: RunWriter, what: str = "training", advice: str = "") -> Iterator[None]:
    """Write how the run ended, however it ended; `advice` follows an error of a library, by default to resume."""
    from safetensors import SafetensorError

    ending: dict[str, Any] = {"status": "failed"}
    try:
        yield
        ending = {} if writer.run.record["status"] == "stopped" else {"status": "finished"}
    except KeyboardInterrupt:
        ending = {"status": "stopped"}
    except WorkbenchError as error:
        ending["error"] = str(error)
        raise
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:  # of the libraries: disk, device, argument
        ending["error"] = (
            f"expected the {what} to go on, found {type(error).__name__}: {first_line(error)}; once that is fixed, "
            f"{advice or f'resume with --resume {writer.path.name}'}."
        )
        raise TrainingError(ending["error"]) from error
    finally:
        unexpected = sys.exc_info()[1]
        if unexpected is not None and "error" not in ending:
            ending["error"] = f"The {what} ended with {type(unexpected).__name__}: {first_line(unexpected)}."
        writer.update(**ending, finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        if is_first():
            writer.run.clear_stop_request()


@dataclass
class _Training:
    """One training of a run: does what the folder does not hold yet."""

    writer: RunWriter
    prepared: Prepared
    on_progress: Progress | None
    timing: Timing | None

    def run(self) -> None:
        """`seconds` in run.json is what this took, in total over all resumes."""
        from workbench.training.trainer import fit

        writer, run = self.writer, self.writer.run
        started, earlier = time.monotonic(), float(run.record.get("seconds") or 0)
        kept = run.file("model")
        self.evaluate_all(self.prepared.base.model, "before")
        wait()
        if not kept.is_dir():
            outcome = fit(self.job())
            seconds = round(earlier + time.monotonic() - started, 1)
            writer.update(seconds=seconds, **_outcome_record(run.record, self.prepared, outcome))
            if outcome.stopped:
                writer.update(status="stopped")
                wait()
                return
            if is_first():
                _keep_model(outcome.checkpoint, kept, self.prepared.recipe)
        if is_first():
            self.evaluate_all(load_folder(kept, str(kept)), "after")
        writer.update(seconds=round(earlier + time.monotonic() - started, 1))

    def evaluate_all(self, model: SentenceTransformer, stage: str) -> None:
        """Every task that the run does not hold at `stage`, in the first process."""
        if is_first():
            self.set_phase(f"measure {stage}")
            evaluate_all(self.writer.run, self.prepared.tasks, model, stage, self.prepared.recipe, self.on_progress)

    def set_phase(self, phase: str) -> None:
        progress = self.writer.run.record.get("progress") or {}
        self.writer.update(progress={**progress, "phase": phase, "seconds_left": None})

    def job(self) -> Job:
        """What the engine needs: rows, loss and plan, and where its log, progress and evaluations go."""
        from workbench.training.job import Job, Timing

        prepared, writer = self.prepared, self.writer
        tasks = tasks_while_training(prepared.tasks, prepared.sets)
        timing, written = self.timing or Timing(), 0.0
        best_metric, higher = _best_by(writer.run, prepared, list(tasks))

        def evaluate(step: int) -> Mapping[str, float]:
            self.set_phase(f"measure step-{step}")
            means = evaluate_all(
                writer.run, tasks, prepared.base.model, f"step-{step}", prepared.recipe, self.on_progress, again=True
            )
            return {f"{name}_{metric}": value for name, found in means.items() for metric, value in found.items()}

        def on_step(progress: StepProgress) -> None:
            nonlocal written
            if self.on_progress is not None:
                rate = "" if progress.rows_per_second is None else f": {rate_text(progress.rows_per_second)}"
                self.on_progress(f"train{rate}", progress.step, progress.steps)
            if time.monotonic() - written > timing.progress_seconds:
                left = None if progress.seconds_left is None else round(progress.seconds_left, 1)
                writer.update(progress={**asdict(replace(progress, seconds_left=left)), "phase": "train"})
                written = time.monotonic()

        return Job(
            model=prepared.base.model,
            loss=prepared.loss,
            rows=prepared.rows,
            held_out=prepared.held_out,
            not_held_out=prepared.not_held_out,
            recipe=prepared.recipe,
            plan=prepared.plan,
            folder=writer.run.file("checkpoints"),
            evaluate=evaluate,
            best_metric=best_metric,
            higher_is_better=higher,
            log=writer.log,
            on_step=on_step,
            stop_requested=writer.run.has_stop_request,
            earlier=max((float(row.get("time") or 0) for row in writer.run.log()), default=0.0),
            timing=timing,
        )


def _outcome_record(record: Mapping[str, Any], prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    """What run.json says after training; its cost is added to that before a resume."""
    before, plan = record.get("cost") or {}, prepared.plan
    joules = [used for used in (before.get("joules"), outcome.joules) if used is not None]
    rate = before.get("rows_per_second") if outcome.rows_per_second is None else outcome.rows_per_second
    memory = max(outcome.peak_memory, int(before.get("peak_memory") or 0))
    cost = {"peak_memory": memory, "rows_per_second": rate}
    updates: dict[str, Any] = {
        "progress": {
            "step": outcome.step,
            "steps": outcome.steps,
            "epoch": outcome.epoch,
            "rows_per_second": rate,
            "seconds_left": None,
            "phase": "stopped" if outcome.stopped else "trained",
        },
        "best": outcome.best,
        **cost,
        "cost": {
            **cost,
            "device": describe_device()[0],
            "processes": plan.processes,
            "precision": plan.precision,
            "joules": round(sum(joules), 1) if joules else None,
            "counted": outcome.counted or before.get("counted", ""),
        },
    }
    if not outcome.stopped and outcome.step < outcome.steps:
        note = f"The rows gave batches for {outcome.step:,} of {outcome.steps:,} steps; too few of them differ."
        updates["notes"] = list(dict.fromkeys([*record.get("notes", ()), note]))
    return updates


def _keep_model(checkpoint: Path, kept: Path, recipe: Recipe) -> None:
    """Copy a checkpoint's model to `kept`, whole or not at all."""
    temporary = kept.with_name(f".{kept.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(*ONLY_FOR_RESUMING))
    if recipe.base.similarity == "energy":
        from workbench.models.energy_distance import save_similarity

        save_similarity(temporary, **energy_settings(recipe))
    temporary.replace(kept)


def _best_by(run: Run, prepared: Prepared, names: Sequence[str]) -> tuple[str | None, bool]:
    """By which value of an evaluation the best checkpoint is chosen, as the trainer names it, and whether higher is
    better: the recipe's `metric_for_best_model`, else its main metric. None where nothing is measured. Schedulers that
    wait for a plateau look at the same value, by default at the loss.

    A metric is that of the task that bears the evaluation's name, else of the first that has such a metric.
    """
    recipe, training = prepared.recipe, prepared.recipe.training
    held_out = prepared.held_out
    losses = [f"{name}_loss" for name in held_out] if isinstance(held_out, dict) else ["loss"] * (held_out is not None)
    plateau = training.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    wanted = training.metric_for_best_model or "loss" * plateau
    wanted = wanted.removeprefix("eval_") if training.load_best_model_at_end or plateau else ""
    found = [
        (len(metric), name == folder_name(wanted.removesuffix(metric).rstrip("_")), -number, f"{name}_{metric}")
        for number, name in enumerate(names)
        for metric in run.metrics(name, "before")
        if f"_{wanted}".endswith(f"_{metric}")
    ]
    if wanted.endswith("loss") and losses:
        found = [(0, True, 0, wanted if wanted in losses else losses[0])]
    usual = not wanted.endswith("loss")
    if found:
        return max(found)[-1], usual if training.greater_is_better is None else training.greater_is_better
    if names:
        return _main_metric(run, recipe, names), recipe.evaluation.higher_is_better
    return (losses[0], False) if losses else (None, True)


def _main_metric(run: Run, recipe: Recipe, names: Sequence[str]) -> str:
    """The recipe's metric of the first task that has it, else that task's own. The mean over NanoBEIR comes before its
    parts."""
    ordered = sorted(names, key=lambda name: (name != "validation", "_mean" not in name, names.index(name)))
    wanted = recipe.evaluation.main_metric
    name = next((name for name in ordered if wanted in run.metrics(name, "before")), None)
    return f"{name}_{wanted}" if name else f"{ordered[0]}_{run.main_metric(ordered[0], 'before')}"
