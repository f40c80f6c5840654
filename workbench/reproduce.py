"""The main job in one call: from a card to a verdict; and the evaluation of anything that can be called a model.

Everything here is a few lines of other modules put in order; it exists so that the command line, a notebook and a
script do the same things in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.card import Card
from workbench.compare import Comparison, compare, save_comparison
from workbench.errors import DataError, RunError
from workbench.reading import read_card
from workbench.recipe import recipe
from workbench.report import report
from workbench.run import Run, open_run
from workbench.train import train

if TYPE_CHECKING:
    from workbench.collection import Collection
    from workbench.evaluate import Evaluation

Progress = Callable[[str, int, int], None]


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
    """Compare a run with its card, keep the comparison in the run folder, write the report; returns both."""
    comparison = compare(run)
    save_comparison(run, comparison)
    return comparison, report(run, out)


def evaluate(
    model: Run | str | os.PathLike[str],
    on: Collection | str | os.PathLike[str] | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    truncate_dim: int | None = None,
    runs: str | os.PathLike[str] = "runs",
    on_progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run's model, or any base, on a collection.

    `model` is a Run, its folder or name, or what `--base` takes: `bundled:minilm`, a folder, a Hub id. `on` is a
    Collection or what `load_collection` takes; without it, a run is measured on its own held-out queries.

    Raises DataError where a model that is no run comes without a collection.
    """
    from workbench.collection import Collection, load_collection
    from workbench.encoder import encoder, hub_reachable, load_base
    from workbench.evaluate import evaluate as measure
    from workbench.train import held_out

    run = model if isinstance(model, Run) else _run_or_none(model, runs)
    recipe_of_run = run.recipe() if run else None
    if isinstance(on, Collection):
        collection = on
    elif on is not None:
        collection = load_collection(
            Path(on) if isinstance(on, os.PathLike) else on, columns=columns, online=hub_reachable
        )
    elif recipe_of_run is not None:
        found = held_out(recipe_of_run)
        if not found:
            raise DataError(f"run {run.name!r} held no queries out; name a collection with --on.")  # type: ignore[union-attr]
        collection = found.get("test") or next(iter(found.values()))
    else:
        raise DataError(f"expected a collection to evaluate {str(model)!r} on, found none; name one with --on.")
    loaded = load_base(str(run.path / "model") if run else str(model))
    if truncate_dim is None and recipe_of_run is not None:
        truncate_dim = recipe_of_run.evaluation.truncate_dim
    encode = encoder(loaded.model)
    similarity = recipe_of_run.base.similarity if recipe_of_run else str(loaded.model.similarity_fn_name)
    return measure(collection, encode, similarity=similarity, truncate_dim=truncate_dim, on_progress=on_progress)


def _run_or_none(model: str | os.PathLike[str], runs: str | os.PathLike[str]) -> Run | None:
    try:
        return open_run(model, runs)
    except RunError:
        return None
