"""Evaluations of a model, as a recipe says, stored in a run folder: of one that is trained, or of published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workbench.evaluation.projection import STAGES, save_vectors
from workbench.evaluation.retrieval import Encode, Evaluation, folder_name
from workbench.evaluation.tasks import Search, Task, save
from workbench.recipe.schema import Recipe
from workbench.run import Progress, Run
from workbench.training.prepare import encode_with

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def evaluate_all(
    run: Run,
    tasks: Mapping[str, Task],
    model: SentenceTransformer,
    stage: str,
    recipe: Recipe,
    on_progress: Progress | None = None,
    *,
    again: bool = False,
) -> dict[str, Mapping[str, float]]:
    """Evaluate every task that the run does not hold at `stage`, or all of them `again`; returns their means."""
    encode, found = encode_with(model, recipe, remember=True), {}
    for name, task in tasks.items():
        folder = folder_name(name)
        whole = not _keeps_vectors(task, stage) or run.file("vectors", folder, stage).is_file()
        if again or stage not in run.evaluations().get(folder, ()) or not whole:  # older versions wrote vectors last
            found[name] = _evaluate(run, task, encode, name, stage, recipe, on_progress)
    return found


def _evaluate(
    run: Run, task: Task, encode: Encode, name: str, stage: str, recipe: Recipe, on_progress: Progress | None
) -> Mapping[str, float]:
    def progress(phase: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(f"{name}, {stage}: {phase}", done, total)

    found = task.measure(
        encode,
        similarity=recipe.base.similarity,
        truncate_dim=recipe.evaluation.truncate_dim,
        on_progress=progress,
    )
    if isinstance(found, Evaluation) and _keeps_vectors(task, stage):
        save_vectors(run.path, folder_name(name), stage, found)
    save(run.path, name, stage, found)  # its means come last: an evaluation that is listed is whole
    return found.metrics


def _keeps_vectors(task: Task, stage: str) -> bool:
    return stage in STAGES and isinstance(task, Search) and task.dimensions is None
