"""The main job in one call, from a card to a verdict; and the evaluation of a run's model or any other.

The command line, notebooks and scripts all call these, so that they do the same things in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.card import Card
from workbench.cards.read import read_card
from workbench.errors import DataError, RunError
from workbench.evaluation.compare import Comparison, compare, save_comparison
from workbench.evaluation.examples import ExampleEvaluation, with_collection_metrics, with_correlations
from workbench.evaluation.retrieval import Evaluation
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.report.export import report
from workbench.run import Progress, Run, open_run
from workbench.training.train import train

if TYPE_CHECKING:
    from workbench.data.collection import Collection
    from workbench.data.pairs import Check


def reproduce(
    card: Card | str | os.PathLike[str],
    *,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Run:
    """Read, train, evaluate, compare, report; returns the finished run.

    `options` are those of `train`: runs, base, data, columns, max_steps, on_progress. The comparison is in
    `run.comparison()`; the report is written to `out`, or to report.html in the run folder.
    """
    found = card if isinstance(card, Card) else read_card(card)
    run = train(recipe(found, corrected=corrected, overrides=overrides), card=found, **options)
    finish(run, None if out is None else Path(out))
    return run


def finish(run: Run, out: Path | None = None) -> tuple[Comparison, Path]:
    """Compare a run with its card, store the comparison in the run folder, and write the report; returns both."""
    comparison = compare(run)
    save_comparison(run, comparison)
    return comparison, report(run, out)


def evaluate(
    model: Run | str | os.PathLike[str],
    on: Collection | str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    split: str | None = None,
    own_documents: bool = True,
    truncate_dim: int | None = None,
    runs: str | os.PathLike[str] = "runs",
    on_progress: Progress | None = None,
) -> Evaluation | ExampleEvaluation:
    """Evaluate a run's model, or any base, on a collection or on scored pairs.

    `model` is a Run, its folder or name, or what `--base` takes: `bundled:minilm`, a folder, a Hub id. `on` is a
    Collection or what `open_task` takes; `columns` (theirs -> ours) names columns, `split` the part where there are
    several; for `own_documents` see `retrieval.evaluate`. Without it, a run is evaluated on its own held-out rows.

    Raises DataError where there is nothing to evaluate on.
    """
    from workbench.evaluation.task_files import open_task
    from workbench.models.base import hub_reachable, load_base
    from workbench.training.prepare import encode_with, evaluation_tasks

    run = model if isinstance(model, Run) else _run_or_none(model, runs)
    of_run = run.recipe() if run else None
    notes: tuple[Check, ...] = ()
    if on is not None:
        task, notes = open_task(on, columns, split, own_documents=own_documents, online=hub_reachable)
    elif run is not None and of_run is not None:
        tasks = evaluation_tasks(of_run)
        if not tasks:
            raise DataError(f"run {run.name!r} has no held-out rows; name a collection with --on.")
        task = tasks.get("test") or next(iter(tasks.values()))
    else:
        raise DataError(f"expected a collection to evaluate {str(model)!r} on, found none; name one with --on.")
    loaded = load_base(str(run.file("model")) if run else str(model))
    if truncate_dim is None and of_run is not None:
        truncate_dim = of_run.evaluation.truncate_dim
    plan = of_run or _minimal_recipe(str(model), str(loaded.model.similarity_fn_name))
    done = task.measure(
        encode_with(loaded.model, plan),
        similarity=plan.base.similarity,
        truncate_dim=truncate_dim,
        on_progress=on_progress,
    )
    if isinstance(done, Evaluation):
        return done
    if done.kind == "BinaryClassificationEvaluator" and on is not None:
        done = with_correlations(done)
    if done.kind == "NanoBEIREvaluator" and on is not None:
        done = with_collection_metrics(done)
    return replace(done, settings={**done.settings, "checks": [asdict(note) for note in notes]})


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
