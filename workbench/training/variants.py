"""Why published weights may not give their card's numbers: ways to measure by which they do.

Similarity, dimensions, prompts, normalization and split are varied, up to two at once, on the smallest evaluation that
differs. Only other prompts and another normalization need its texts encoded again. The simplest way that gives the
card's numbers is then tried on the other evaluations that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain, product
from typing import TYPE_CHECKING

from workbench.cards.metric_names import LIBRARY_SIMILARITIES
from workbench.errors import DataError
from workbench.evaluation.card_evaluation import card_evaluation
from workbench.evaluation.card_replay import NOISE, same_examples
from workbench.evaluation.given_sets import PARTS
from workbench.evaluation.retrieval import folder_name
from workbench.evaluation.task_files import open_task
from workbench.evaluation.tasks import Examples, Mean, Search, Task, matryoshka
from workbench.models.base import hub_reachable
from workbench.run import Run
from workbench.training.prepare import CardTasks, encode_with

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

    from workbench.cards.card import Card, Evaluation
    from workbench.evaluation.retrieval import Encode
    from workbench.recipe.schema import Recipe

    Measure = Callable[[Task], Mapping[str, float]]

SPLITS = tuple(dict.fromkeys((*PARTS.values(), "dev", "train")))
MOST_CHANGES = 2
LEAST = 0.005  # of a number that says anything, as `replay.Number.telling`
SIMILARITY_WORDS = {
    "cosine": "cosine similarity", "dot": "dot product", "euclidean": "Euclidean distance",
    "manhattan": "Manhattan distance",
}  # fmt: skip


def likely_causes(
    run: Run, card: Card, recipe: Recipe, measured: CardTasks, model: SentenceTransformer, *, half: bool
) -> list[dict[str, str]]:
    """The simplest way to measure that gives the card's numbers where the run's differ: {evaluation, sentence}, or
    nothing."""
    noise = NOISE["half" if half else "float32"]
    differ: dict[str, tuple[Task, Evaluation]] = {}
    for name, task in measured.tasks.items():
        folder = folder_name(name)
        theirs = card_evaluation(card, recipe, run, folder)[0]
        if theirs is not None and same_examples(run, folder) and not _fits(run.metrics(folder, "after"), theirs, noise):
            differ[name] = task, theirs
    if not differ:
        return []
    first = min(differ, key=lambda name: _size(differ[name][0]))
    task, theirs = differ[first]
    for words, measure in chain(_ways(task, recipe, model), _other_parts(first, task, run, recipe, measured, model)):
        if not _fits(measure(task), theirs, noise):
            continue
        rest = [each for name, each in differ.items() if name != first]
        fitting = sum(_fits(measure(each), other, noise) for each, other in rest)
        also = f", and those of {fitting} of {len(rest)} other evaluations" if rest else ""
        return [{"evaluation": first, "sentence": f"Measured {words}, the numbers of {first} are the card's{also}."}]
    return []


def _fits(ours: Mapping[str, float], theirs: Evaluation, noise: float) -> bool:
    """Whether the numbers that both have are equal, and one of them says anything."""
    pairs = [(ours[name], value) for name, value in theirs.metrics.items() if name in ours and math.isfinite(value)]
    telling = any(abs(value) >= LEAST and not value.is_integer() for _, value in pairs)
    return telling and all(abs(own - value) <= noise for own, value in pairs)


def _size(task: Task) -> int:
    """How many texts are encoded, about."""
    if isinstance(task, Mean):
        return sum(map(_size, task.members))
    return len(task.collection.corpus) if isinstance(task, Search) else len(task.texts) + len(task.samples)


def _ways(task: Task, recipe: Recipe, model: SentenceTransformer) -> list[tuple[str, Measure]]:
    """Ways to measure that change one or two things, the simplest first, encoding last."""
    own = recipe.base.similarity
    cut = task.dimensions or recipe.evaluation.truncate_dim
    most = model.get_embedding_dimension() or 0
    sizes = {*matryoshka(recipe.loss), most, recipe.evaluation.truncate_dim or most} - {cut or most}
    dimensions = [None, *sorted((size for size in sizes if 0 < size <= most), reverse=True)]
    fixed = own not in LIBRARY_SIMILARITIES or (isinstance(task, Examples) and task.every_similarity)
    similarities = [own, *(each for each in LIBRARY_SIMILARITIES if not fixed and each != own)]
    encoders: list[tuple[str, Callable[[], Encode]]] = [("", cache(partial(encode_with, model, recipe, remember=True)))]
    encoders += [(words, cache(partial(_encoder, make, recipe))) for words, make in _other_models(model, recipe)]
    found: list[tuple[int, str, Measure]] = []
    for place, ((words, encoder), size, similarity) in enumerate(product(encoders, dimensions, similarities)):
        changes = [words] if words else []
        changes += [] if size is None else [f"at {size} dimensions"]
        changes += [] if similarity == own else [f"by {SIMILARITY_WORDS[similarity]}"]
        if 0 < len(changes) <= MOST_CHANGES:
            measure = partial(_measure, encoder, similarity, size, recipe)
            found.append((len(changes) * 1000 + place, " and ".join(changes), measure))
    return [(words, measure) for _, words, measure in sorted(found, key=lambda each: each[0])]


def _measure(
    encoder: Callable[[], Encode], similarity: str, size: int | None, recipe: Recipe, task: Task
) -> Mapping[str, float]:
    """Means, under the card's names of the metrics."""
    task = task if size is None else replace(task, dimensions=size)
    found = task.measure(encoder(), similarity=similarity, truncate_dim=recipe.evaluation.truncate_dim)
    return {name.replace(similarity, recipe.base.similarity): value for name, value in found.metrics.items()}


def _encoder(make: Callable[[], SentenceTransformer], recipe: Recipe) -> Encode:
    return encode_with(make(), recipe, remember=True)


def _other_models(
    model: SentenceTransformer, recipe: Recipe
) -> Iterator[tuple[str, Callable[[], SentenceTransformer]]]:
    """The same weights with other prompts, and with or without normalization."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    def made(modules: Sequence[Module], prompts: Mapping[str, str]) -> SentenceTransformer:
        other = SentenceTransformer(modules=list(modules), prompts=dict(prompts), device=str(model.device))
        other.truncate_dim = model.truncate_dim
        return other

    parts = list(model)
    own = {name: text for name, text in model.prompts.items() if text}
    theirs = {name: text for name, text in {**recipe.training.prompts, **recipe.base.prompts}.items() if text}
    if own:
        yield "without prompts", partial(made, parts, {})
    if theirs and theirs != own:
        yield "with the card's prompts", partial(made, parts, theirs)
    without = [part for part in parts if not isinstance(part, Normalize)]
    if len(without) < len(parts):
        yield "without normalization", partial(made, without, own)
    else:
        yield "with normalization", partial(made, [*parts, Normalize()], own)


def _other_parts(
    name: str, task: Task, run: Run, recipe: Recipe, measured: CardTasks, model: SentenceTransformer
) -> Iterator[tuple[str, Measure]]:
    """The other evaluations of the same kind, and the other splits of the same set."""
    for other, each in measured.tasks.items():
        if other != name and each.kind == task.kind and each.dimensions == task.dimensions:
            values: Mapping[str, float] = run.metrics(folder_name(other), "after")
            yield f"on {other}", lambda _, values=values: values  # type: ignore[misc]
    encode = cache(partial(encode_with, model, recipe, remember=True))
    place = next((each.place for each in measured.sets if name in each.tasks), None)
    for split in SPLITS if place is not None and not isinstance(task, Mean) else ():
        try:
            found, _ = open_task(str(place), None, split, kinds=[task.kind], online=hub_reachable)
        except DataError:
            continue
        if found.kind == task.kind:
            found = replace(found, dimensions=task.dimensions)
            values = _measure(encode, recipe.base.similarity, None, recipe, found)
            yield f"on the {split} split of {place}", lambda _, values=values: values  # type: ignore[misc]
