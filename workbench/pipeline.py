"""The main job in one call, from a card to a verdict; and the evaluation of a run's model or any other.

The command line, notebooks and scripts all call these, so that they do the same things in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError, RunError, enough_memory
from workbench.evaluation.compare import compare, save_comparison
from workbench.evaluation.comparison import Comparison
from workbench.evaluation.examples import ExampleEvaluation, with_collection_metrics, with_correlations
from workbench.evaluation.retrieval import Evaluation
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.report.export import report
from workbench.run import Progress, Run, open_run
from workbench.training.progress import shown_progress
from workbench.training.source import Source
from workbench.training.train import train

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.data.collection import Collection
    from workbench.data.pairs import Check
    from workbench.evaluation.tasks import Task


def reproduce(
    card: Source,
    *,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Run:
    """Read, train, evaluate, compare, report; returns the finished run.

    `options` are those of `train`: runs, base, data, columns, max_steps, statements, progress. The comparison is in
    `run.comparison()`; the report is written to `out`, or to report.html in the run folder.
    """
    run = train(card, corrected=corrected, overrides=overrides, **options)
    finish(run, None if out is None else Path(out))
    return run


def verify(
    model: Run | str | os.PathLike[str],
    card: Card | str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Run:
    """Measure the published weights of `model` as its card says, without training; returns the run that keeps it.

    `card` is by default the one beside the weights. `options` are those of `training.verify.verify`: on, columns,
    metric, base, with_base, revision, runs, progress. The verdict is in `run.comparison()`; the report is written to
    `out`, or to report.html in the run folder. The queries can be browsed as those of a training: "after" is the
    published model, "before" the card's base, where that can be had.
    """
    from workbench.training.verify import verify as measure

    run = measure(model, card, **options)
    finish(run, None if out is None else Path(out))
    return run


def finish(run: Run, out: Path | None = None) -> tuple[Comparison, Path]:
    """Compare a run with its card, store the comparison in the run folder, and write the report; returns both."""
    comparison = compare(run)
    save_comparison(run, comparison)
    return comparison, report(run, out)


def load_model(run: Run | str | os.PathLike[str], runs: str | os.PathLike[str] = "runs") -> Any:
    """The SentenceTransformer that a run kept, in float32; `run` may be what `open_run` takes.

    Raises RunError where there is no such run, or it has no model (yet).
    """
    from workbench.models.base import load_folder

    opened = open_run(run, runs)
    folder = opened.model_folder()
    if not folder.is_dir():
        raise RunError(f"expected a trained model in run {opened.name!r}, found none; its status is {opened.status!r}.")
    return load_folder(folder, opened.name)


@enough_memory("the evaluation")
def evaluate(
    model: Run | str | os.PathLike[str],
    on: Collection | str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    split: str | None = None,
    own_documents: bool = True,
    truncate_dim: int | None = None,
    prompts: Mapping[str, str] | None = None,
    runs: str | os.PathLike[str] = "runs",
    progress: bool = True,
    on_progress: Progress | None = None,
) -> Evaluation | ExampleEvaluation:
    """Evaluate a run's model, or any base, on a collection or on scored pairs.

    `model` is a Run, its folder or name, or what `--base` takes: `bundled:minilm`, a folder, a Hub id. `on` is a
    Collection or what `open_task` takes; `columns` (theirs -> ours) names columns, `split` the part where there are
    several; for `own_documents` see `retrieval.evaluate`. Without it, a run is evaluated on its own held-out rows.

    `prompts` are put before the texts in place of the model's own: "query", "document", and "text" for both texts of
    a scored or labeled pair, which get none of the model's own.

    Raises DataError where there is nothing to evaluate on, for more dimensions than the model has, and
    for a prompt of another kind.
    """
    from workbench.evaluation.task_files import open_task
    from workbench.models.base import hub_reachable, load_base
    from workbench.training.prepare import encode_with

    other = next(iter({*(prompts or ())} - {"query", "document", "text"}), None)
    if other is not None:
        raise DataError(f"expected a prompt for query, document or text, found one for {other!r}; name one of these.")
    run = _run_or_none(model, runs)
    of_run = run.recipe() if run else None
    notes: tuple[Check, ...] = ()
    if on is not None:
        task, notes = open_task(on, columns, split, own_documents=own_documents, online=hub_reachable)
    elif run is not None:
        task = _own_task(run)
    else:
        raise DataError(f"expected a collection to evaluate {str(model)!r} on, found none; name one with --on.")
    loaded = load_base(str(run.model_folder()) if run else str(model))
    loaded.model.prompts = {**loaded.model.prompts, **(prompts or {})}
    most = loaded.model.get_embedding_dimension()
    if truncate_dim is not None and most is not None and truncate_dim > most:
        raise DataError(f"expected at most the {most} dimensions of {str(model)!r}, found truncate_dim {truncate_dim}.")
    if truncate_dim is None and of_run is not None:
        truncate_dim = of_run.evaluation.truncate_dim
    plan = of_run or _minimal_recipe(str(model), str(loaded.model.similarity_fn_name))
    encode, similarity = encode_with(loaded.model, plan), plan.base.similarity
    with shown_progress(on_progress, shown=progress) as drawn:
        done = task.measure(encode, similarity=similarity, truncate_dim=truncate_dim, on_progress=drawn)
    if isinstance(done, Evaluation):
        return done
    if done.kind == "BinaryClassificationEvaluator" and on is not None:
        done = with_correlations(done)
    if done.kind == "NanoBEIREvaluator" and on is not None:
        done = with_collection_metrics(done)
    return replace(done, settings={**done.settings, "checks": [asdict(note) for note in notes]})


def _own_task(run: Run) -> Task:
    """What a run measures on its own held-out rows."""
    from workbench.training.prepare import run_tasks

    tasks = run_tasks(run)
    if not tasks:
        raise DataError(f"run {run.name!r} has no held-out rows; name a collection with --on.")
    return tasks.get(run.recipe().evaluation.name) or tasks.get("test") or next(iter(tasks.values()))


def _minimal_recipe(model: str, similarity: str) -> Recipe:
    """A recipe that states only the similarity: that of the file in the model's folder, else the model's own."""
    from workbench.models.energy_distance import read_similarity

    stored = read_similarity(model) if os.path.isdir(model) else None
    energy = {} if stored is None else {"similarity_fct": "energy", **stored}
    energy.pop("similarity", None)
    base = Base(model=model, similarity=similarity if stored is None else "energy")
    return Recipe(name="evaluate", base=base, loss=LossSpec(name="none", parameters=energy))


def _run_or_none(model: str | os.PathLike[str], runs: str | os.PathLike[str]) -> Run | None:
    try:
        return open_run(model, runs)
    except RunError:
        return None
