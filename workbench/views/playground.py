"""A query of the user's, answered by the models of a run before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.views.queries import document_texts
from workbench.views.records import TOP, Hit

if TYPE_CHECKING:
    from workbench.evaluation.projection import Stage, Vectors
    from workbench.run import Run


def model_files(run: Run) -> tuple[Path, ...]:
    """The files that change when the run's model does."""
    return (*sorted(run.model_folder().glob("*.json")), run.file("recipe"))


def load_encoder(run: Run, stage: Stage) -> Any:
    """The function that encodes as the run's model did at `stage`: `encode(texts, kind)`, see `prepare.encode_with`.

    Raises BaseError or RunError if there is no such model: a base made from the training rows is not kept, and one
    with other weights than the run's must not answer in its place.
    """
    from workbench.models.base import load_base
    from workbench.training.prepare import encode_with

    recipe = run.recipe()
    if stage == "after":
        return encode_with(load_base(str(run.model_folder())).model, recipe)
    recorded = run.record.get("base") or {}
    name = str(recorded.get("model") or recipe.base.model)
    if name.startswith("scratch:"):
        raise RunError(f"the base {name!r} of run {run.name!r} was made from its training rows and is not kept.")
    loaded = load_base(recipe.base, name, seed=recipe.training.seed)
    if recorded.get("sha256") and loaded.sha256 != recorded["sha256"]:
        raise RunError(
            f"expected for run {run.name!r} the base that it started from, found other weights under the name "
            f"{name!r}; the model before training cannot answer."
        )
    return encode_with(loaded.model, recipe)


def answer(run: Run, evaluation: str, stage: Stage, encode: Any, vectors: Vectors, query: str) -> tuple[Hit, ...]:
    """The top 10 for a new query, from the documents with stored `vectors`; `encode` is that of `load_encoder`."""
    from workbench.evaluation.topk import top_k

    settings = run.settings(evaluation, stage)
    dimensions = vectors.documents.shape[1]
    asked = [part[..., :dimensions] for part in encode([query], "query")]  # [(dim,)], or [(tokens, dim)] under energy
    found = top_k(
        asked,
        vectors.documents,
        TOP,
        similarity=str(settings.get("similarity", "cosine")),
        distance=str(settings.get("energy_distance", "manhattan")),
        ids=vectors.document_ids,
    )
    ids = [vectors.document_ids[place] for place in found.positions[0]]
    texts = document_texts(run, evaluation, ids)
    pairs = zip(ids, found.scores[0].tolist(), strict=True)
    return tuple(Hit(at, False, score, key, texts.get(key, "")) for at, (key, score) in enumerate(pairs, start=1))
