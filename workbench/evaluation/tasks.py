"""The evaluation tasks that a recipe and its rows allow: what is measured before, during and after training.

A task is a search (queries against a corpus) or an evaluation of examples: scored pairs, labeled pairs, triplets,
reranking candidates. The recipe's evaluator decides; where it does not fit the columns, one that fits is used, and a
note says so. The held-out parts are "validation" and "test"; NanoBEIR's collections keep the library's names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd

from workbench.cards.metric_names import LIBRARY_SIMILARITIES
from workbench.data.collection import Collection, from_pairs, load_collection
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.pairs import Pairs, Splits
from workbench.data.sources import sample_distractors
from workbench.data.training_rows import has_rows
from workbench.errors import DataError
from workbench.evaluation import evaluators
from workbench.evaluation.evaluators import Sample
from workbench.evaluation.examples import ExampleEvaluation, evaluation_from_table, save_examples
from workbench.evaluation.retrieval import Encode, Evaluation, evaluate, save_evaluation
from workbench.recipe.schema import LossSpec, Recipe
from workbench.run import Progress

NANO = (
    "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO", "NFCorpus", "NQ", "QuoraRetrieval",
    "SCIDOCS", "ArguAna", "SciFact", "Touche2020",
)  # fmt: skip
"""The collections of NanoBEIREvaluator, as it names them."""

NANO_MEAN = "NanoBEIR_mean"
NANO_SOURCE = "sentence-transformers/NanoBEIR-en"

NOTHING_HELD_OUT = "The recipe holds no rows out"

BINARY_LABEL_LOSSES = {"ContrastiveLoss", "OnlineContrastiveLoss", "ContrastiveTensionLoss"}


class MeasureOptions(TypedDict, total=False):
    """How a task is measured."""

    similarity: str  # "cosine" by default
    truncate_dim: int | None  # None: all dimensions of the model
    on_progress: Progress | None


@dataclass(frozen=True)
class Search:
    """Queries against a corpus."""

    name: str  # "validation", "test", "NanoMSMARCO", ...: also the folder in a run
    collection: Collection
    dimensions: int | None = None  # None: `truncate_dim` of `measure`
    own_documents: bool = True  # whether a document with the query's id is ranked

    kind = "InformationRetrievalEvaluator"  # the library's evaluator

    def measure(self, encode: Encode, **options: Unpack[MeasureOptions]) -> Evaluation:
        distance = getattr(encode, "distance", "manhattan")
        options["truncate_dim"] = self.dimensions or options.get("truncate_dim")
        return evaluate(self.collection, encode, distance=distance, own_documents=self.own_documents, **options)


@dataclass(frozen=True)
class Mean:
    """The mean over several searches: every query's values are kept, and the metric is the mean of their means."""

    name: str
    members: tuple[Search, ...]
    dimensions: int | None = None

    kind = "NanoBEIREvaluator"

    def measure(self, encode: Encode, **options: Unpack[MeasureOptions]) -> ExampleEvaluation:
        options["truncate_dim"] = self.dimensions or options.get("truncate_dim")
        similarity = options.get("similarity", "cosine")
        tables = []
        for number, member in enumerate(self.members):
            found = member.measure(encode, **options)
            queries = found.per_query["query_id"]
            columns = {
                "item_id": [f"{member.name}/{query}" for query in queries],
                "query": [found.collection.queries[query] for query in queries],
                "collection": member.name,
                "gold": float(number),
            }
            values = found.per_query.drop(columns=["query_id", "rank", "ranks"])
            tables.append(pd.concat([pd.DataFrame(columns), values], axis=1))
        table = pd.concat(tables, ignore_index=True)
        return evaluation_from_table(
            self.name,
            self.kind,
            table,
            {f"{similarity}_{name}": ["mean_of_groups", str(name)] for name in table.columns[4:]},
            unit="queries",
            main=f"{similarity}_ndcg@10",
            similarity=similarity,
            truncate_dim=options["truncate_dim"],
            collections=len(self.members),
        )


@dataclass(frozen=True)
class Examples:
    """Rows that are measured one by one."""

    name: str
    kind: str  # EmbeddingSimilarityEvaluator, BinaryClassificationEvaluator, TripletEvaluator or RerankingEvaluator
    texts: tuple[tuple[str, ...], ...]  # rows: (first, second) or (anchor, positive, negative)
    gold: tuple[float, ...] = ()  # of pairs
    every_similarity: bool = False  # all of the library's similarities and their maximum, as some cards print them
    dimensions: int | None = None
    samples: tuple[Sample, ...] = ()  # reranking candidates, in place of rows

    def measure(self, encode: Encode, **options: Unpack[MeasureOptions]) -> ExampleEvaluation:
        asked = options.get("similarity", "cosine")
        similarity = asked if asked in LIBRARY_SIMILARITIES else "cosine"  # the energy distance is for searches
        rows: Any = self.texts
        settings: dict[str, Any] = {
            "truncate_dim": self.dimensions or options.get("truncate_dim"),
            "on_progress": options.get("on_progress"),
        }
        if self.kind == "RerankingEvaluator":
            samples = self.samples or _samples(rows)
            return evaluators.reranking(self.name, samples, encode, similarity=similarity, **settings)
        others = LIBRARY_SIMILARITIES if self.every_similarity else ()
        settings["similarities"] = tuple(dict.fromkeys([similarity, *others]))
        if self.kind == "TripletEvaluator":
            return evaluators.triplet_accuracy(self.name, rows, encode, **settings)
        if self.kind == "BinaryClassificationEvaluator":
            return evaluators.binary_classification(self.name, rows, self.gold, encode, **settings)
        return evaluators.embedding_similarity(self.name, rows, self.gold, encode, **settings)


Task = Search | Mean | Examples
"""One thing to measure: `measure` applies a model's `encode`, at the task's own number of dimensions if it has one."""


def _samples(rows: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of query, positive and negatives, those of one query together."""
    found: dict[str, dict[str, Any]] = {}
    for query, positive, *negatives in rows:
        sample = found.setdefault(query, {"query": query, "positive": [], "negative": []})
        sample["positive"] += [positive] if positive not in sample["positive"] else []
        sample["negative"] += [text for text in dict.fromkeys(negatives) if text not in sample["negative"]]
    return list(found.values())


def save(run_path: str | Path, name: str, stage: str, found: Evaluation | ExampleEvaluation) -> str:
    """Store the result of a task in a run folder; returns the folder's name below evaluations/."""
    if isinstance(found, ExampleEvaluation):
        return save_examples(run_path, name, stage, found)
    return save_evaluation(run_path, name, stage, found)


# --- which tasks ----------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    tasks: dict[str, Task] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recipe_tasks(
    recipe: Recipe,
    splits: Splits,
    *,
    online: Callable[[], bool] = lambda: False,
    load: Callable[..., Collection] = load_collection,
) -> tuple[dict[str, Task], list[str]]:
    """The tasks of a run of `recipe` by name, and a sentence for everything that is not measured as the recipe says.

    "validation" and "test" are the held-out parts of the rows, where there are any. A search has the queries of the
    part and the answers of all rows, training rows included, as the cards' own evaluations have; a corpus of the part
    alone would be easier. NanoBEIREvaluator adds its collections, each a task, and their mean. A Matryoshka loss adds
    the last of these tasks at each of its dimensions ("test_256").

    `load` loads a collection of NanoBEIR, as `load_collection` does; only there is `online` called.

    Raises DataError where a folder that the recipe names as its collection cannot be measured.
    """
    found = _Found()
    source = recipe.data.evaluation
    if source is not None and os.path.isdir(source.location) and not has_rows(source):
        found.tasks["validation"] = Search("validation", load(source.location, split=source.split))
    else:
        if _evaluator(recipe) == "NanoBEIREvaluator":
            _add_nano(found, recipe, online, load)
        _add_parts(found, recipe, splits)
    _add_dimensions(found, recipe)
    return found.tasks, found.notes


def _evaluator(recipe: Recipe) -> str:
    return recipe.evaluation.evaluator.rpartition(".")[2]


def _add_nano(found: _Found, recipe: Recipe, online: Callable[[], bool], load: Callable[..., Collection]) -> None:
    """The collections up to the first that cannot be loaded, and the mean of all."""
    source = recipe.data.evaluation
    location = source.location if source is not None and "Nano" in source.location else NANO_SOURCE
    cut = recipe.evaluation.truncate_dim
    end = f"_{cut}" if cut else ""
    members: list[Search] = []
    for name in (f"Nano{short}" for short in NANO):
        try:
            members.append(Search(f"{name}{end}", replace(load(location, split=name, online=online), name=name)))
        except DataError as error:
            what = f"{name} cannot be loaded, so the mean of NanoBEIR" if members else "NanoBEIR"
            found.notes.append(f"{what} is not measured ({str(error).rstrip('.')}).")
            break
    found.tasks |= {member.name: member for member in members}
    if len(members) == len(NANO):
        found.tasks[f"{NANO_MEAN}{end}"] = Mean(f"{NANO_MEAN}{end}", tuple(members))


def _add_parts(found: _Found, recipe: Recipe, splits: Splits) -> None:
    """The held-out rows, measured by the recipe's evaluator where they have its columns."""
    parts = {name: part for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    if not parts:
        if not found.tasks:
            advice = "--evaluation-set names the card's examples, --set data.split.test=0.1 divides the rows"
            found.notes.append(f"{NOTHING_HELD_OUT}, so nothing is measured; {advice}.")
        return
    if found.notes and _evaluator(recipe) == "NanoBEIREvaluator":
        found.notes.append(f"Measured instead: the rows held out ({' and '.join(parts)}).")
    train, main = splits.train, recipe.evaluation.main_metric
    texts = [column for column in train.columns if column not in LABEL_COLUMNS]
    gold = next((column for column in train.columns if column in LABEL_COLUMNS), None)
    kind = _kind(recipe, train, texts, gold, found.notes)
    used = texts if kind == "RerankingEvaluator" else texts[: 3 if kind == "TripletEvaluator" else 2]
    if kind not in (None, "InformationRetrievalEvaluator") and len(used) < len(texts):
        unread = ", ".join(texts[len(used) :])
        found.notes.append(f"{kind} reads {', '.join(used)} of the held-out rows, not {unread}.")
    if kind == "InformationRetrievalEvaluator":
        merge = recipe.evaluation.repeated_queries == "merged"
        answers = [row for part in (train, *parts.values()) for row in _as_pairs(part, texts)]
        sample = train.origin.removeprefix("sample:")
        distractors = sample_distractors(sample) if sample != train.origin else []
        for name, part in parts.items():
            asked = _as_pairs(part, texts)
            collection = from_pairs(asked, answers, name=name, duplicates="merge" if merge else "separate")
            found.tasks[name] = Search(name, collection.with_documents(distractors))
    elif kind is not None:
        every = main.startswith("max_") or main.endswith("_max")
        every |= any(other in main for other in LIBRARY_SIMILARITIES if other != recipe.base.similarity)
        for name, part in parts.items():
            rows = tuple(zip(*(part.texts(column) for column in used), strict=True))
            values = tuple(map(float, part.rows[gold])) if gold is not None else ()
            found.tasks[name] = Examples(name, kind, rows, values, every_similarity=every)


def _as_pairs(part: Pairs, texts: Sequence[str]) -> list[Mapping[str, str]]:
    columns = (part.texts(texts[0]), part.texts(texts[1]))
    return [{"anchor": anchor, "positive": positive} for anchor, positive in zip(*columns, strict=True)]


def _kind(recipe: Recipe, train: Pairs, texts: Sequence[str], gold: str | None, notes: list[str]) -> str | None:
    """The recipe's evaluator if the columns have what it needs, else one that fits them."""
    asked = _evaluator(recipe)
    fitting = _fitting(recipe, train, texts, gold)
    if not fitting:
        columns = ", ".join(train.columns)
        notes.append(f"The held-out rows ({columns}) are not measured: no evaluator fits these columns.")
        return None
    if asked in fitting:
        return asked
    origin = recipe.provenance.get("evaluation.evaluator")
    if origin is not None and origin.source not in ("default", "library") and asked != "NanoBEIREvaluator":
        notes.append(f"{asked} cannot measure rows with {', '.join(train.columns)}; {fitting[0]} is used.")
    return fitting[0]


def _fitting(recipe: Recipe, train: Pairs, texts: Sequence[str], gold: str | None) -> list[str]:
    """The evaluators for rows of these columns, best first."""
    if len(texts) < 2:
        return []
    if gold is not None:
        losses = {each.name for each in recipe.loss.chain()}
        if "SoftmaxLoss" in losses:  # its labels are classes, which no similarity orders
            return []
        fitting = ["EmbeddingSimilarityEvaluator"]
        if set(train.rows[gold]) <= {0, 1}:
            fitting.insert(0 if losses & BINARY_LABEL_LOSSES else 1, "BinaryClassificationEvaluator")
        return fitting
    triplets = len(texts) > 2 and recipe.base.similarity in LIBRARY_SIMILARITIES
    return ["InformationRetrievalEvaluator", *(("TripletEvaluator", "RerankingEvaluator") if triplets else ())]


def _add_dimensions(found: _Found, recipe: Recipe) -> None:
    """The last task again at each dimension that a Matryoshka loss trains, except the one that is measured anyway.

    Without a `truncate_dim` that is the largest, usually the model's own; a static base states how many it has.
    """
    dimensions = set(matryoshka(recipe.loss))
    whole = recipe.evaluation.truncate_dim or recipe.base.static_dimensions or max(dimensions, default=0)
    last = next((found.tasks[name] for name in found.tasks if name.startswith(NANO_MEAN)), None)
    last = last or found.tasks.get("test") or found.tasks.get("validation")
    if last is not None:
        for size in sorted(dimensions - {whole}, reverse=True):
            found.tasks[f"{last.name}_{size}"] = replace(last, name=f"{last.name}_{size}", dimensions=size)


def matryoshka(loss: LossSpec) -> list[int]:
    """The dimensions that a loss, or one inside it, trains."""
    dimensions = [each.parameters.get("matryoshka_dims") for each in loss.chain()]
    return [size for each in dimensions if isinstance(each, list | tuple) for size in each if isinstance(size, int)]
