"""What is measured before, during and after training: the tasks that a recipe and its rows allow.

A task is a search (questions against a corpus), or an evaluation item by item: pairs with a score, pairs with a label,
triplets, short lists. The recipe's evaluator decides; where it does not fit the columns, what fits them does, and a
note says so. The held-out parts are "validation" and "test"; NanoBEIR's collections keep the library's names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

from workbench.data.collection import Collection, from_pairs, load_collection
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.readers import sample_distractors
from workbench.data.training_rows import Pairs, Splits, has_rows
from workbench.errors import DataError
from workbench.evaluation import evaluators
from workbench.evaluation.evaluators import SIMILARITIES
from workbench.evaluation.examples import (
    ExampleEvaluation,
    evaluation_from_table,
    has_examples,
    input_columns,
    read_examples,
    save_examples,
)
from workbench.evaluation.retrieval import Encode, Evaluation, evaluate, save_evaluation
from workbench.recipe.schema import LossSpec, Recipe
from workbench.run import Progress, Run

if TYPE_CHECKING:
    import pandas as pd

NANO = (
    "ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO", "NFCorpus", "NQ", "QuoraRetrieval",
    "SCIDOCS", "ArguAna", "SciFact", "Touche2020",
)  # fmt: skip
"""The collections of NanoBEIREvaluator, as it names them."""

NANO_MEAN = "NanoBEIR_mean"
NANO_SOURCE = "sentence-transformers/NanoBEIR-en"

LABELLED = ("ContrastiveLoss", "OnlineContrastiveLoss", "ContrastiveTensionLoss")
"""Losses whose labels are 0 and 1, belonging together or not."""

CLASSES = ("SoftmaxLoss",)
"""Losses whose labels are classes, which no similarity orders."""

HOLD_OUT = "--set data.split.test=0.1"


class How(TypedDict, total=False):
    """How a task is measured."""

    similarity: str  # "cosine" without it
    truncate_dim: int | None  # None: as many dimensions as the model gives
    on_progress: Progress | None


class Task(Protocol):
    """One thing that is measured."""

    @property
    def name(self) -> str:
        """ "validation", "test", "NanoMSMARCO", ...: also the folder in a run."""

    @property
    def kind(self) -> str:
        """The library's evaluator: "InformationRetrievalEvaluator"."""

    def measure(self, encode: Encode, **how: Unpack[How]) -> Evaluation | ExampleEvaluation:
        """Measure the model behind `encode`. A task made for fewer dimensions keeps to them."""


@dataclass(frozen=True)
class Search:
    """Questions against a corpus."""

    name: str
    collection: Collection
    dimensions: int | None = None  # None: as many as `measure` is asked for
    own_documents: bool = True  # whether a document with the query's id is ranked

    kind = "InformationRetrievalEvaluator"

    def measure(self, encode: Encode, **how: Unpack[How]) -> Evaluation:
        distance = getattr(encode, "distance", "manhattan")
        how["truncate_dim"] = self.dimensions or how.get("truncate_dim")
        return evaluate(self.collection, encode, distance=distance, own_documents=self.own_documents, **how)


@dataclass(frozen=True)
class Mean:
    """The mean over several searches: every query's values are kept, and the number is the mean of their means."""

    name: str
    members: tuple[Search, ...]
    dimensions: int | None = None

    kind = "NanoBEIREvaluator"

    def measure(self, encode: Encode, **how: Unpack[How]) -> ExampleEvaluation:
        import pandas as pd

        how["truncate_dim"] = self.dimensions or how.get("truncate_dim")
        similarity = how.get("similarity", "cosine")
        tables = []
        for number, member in enumerate(self.members):
            tables.append(_queries(member.measure(encode, **how), member.name, number))
        table = pd.concat(tables, ignore_index=True)
        values = [str(name) for name in table.columns[4:]]
        return evaluation_from_table(
            self.name,
            self.kind,
            table,
            {f"{similarity}_{name}": ["mean_of_groups", name] for name in values},
            unit="queries",
            main=f"{similarity}_ndcg@10",
            similarity=similarity,
            truncate_dim=how["truncate_dim"],
            collections=len(self.members),
        )


def _queries(found: Evaluation, name: str, number: int) -> pd.DataFrame:
    """item_id, query, collection, gold (the number of the collection), and a column for each metric."""
    table = found.per_query
    asked = [found.collection.queries[query] for query in table["query_id"]]
    ids = [f"{name}/{query}" for query in table["query_id"]]
    values = table.drop(columns=["query_id", "rank", "ranks"])
    values.insert(0, "gold", float(number))
    values.insert(0, "collection", name)
    values.insert(0, "query", asked)
    values.insert(0, "item_id", ids)
    return values


@dataclass(frozen=True)
class Examples:
    """Rows that are measured one by one."""

    name: str
    kind: str  # EmbeddingSimilarityEvaluator, BinaryClassificationEvaluator, TripletEvaluator or RerankingEvaluator
    texts: tuple[tuple[str, ...], ...]  # rows: (first, second) or (anchor, positive, negative)
    gold: tuple[float, ...] = ()  # of pairs
    every_similarity: bool = False  # all that the library knows, and their maximum, as some cards print it
    dimensions: int | None = None
    samples: tuple[evaluators.Sample, ...] = ()  # short lists as they are, in place of rows

    def measure(self, encode: Encode, **how: Unpack[How]) -> ExampleEvaluation:
        similarity, on_progress = how.get("similarity", "cosine"), how.get("on_progress")
        chosen = similarity if similarity in SIMILARITIES else "cosine"  # the energy distance is for searches
        names = tuple(dict.fromkeys([chosen, *SIMILARITIES])) if self.every_similarity else (chosen,)
        dimensions = self.dimensions or how.get("truncate_dim")
        rows: Any = self.texts
        if self.kind == "RerankingEvaluator":
            samples = self.samples or _samples(rows)
            return evaluators.reranking(
                self.name, samples, encode, similarity=chosen, truncate_dim=dimensions, on_progress=on_progress
            )
        told: dict[str, Any] = {"similarities": names, "truncate_dim": dimensions, "on_progress": on_progress}
        if self.kind == "TripletEvaluator":
            return evaluators.triplet_accuracy(self.name, rows, encode, **told)
        if self.kind == "BinaryClassificationEvaluator":
            return evaluators.binary_classification(self.name, rows, self.gold, encode, **told)
        return evaluators.embedding_similarity(self.name, rows, self.gold, encode, **told)


def _samples(rows: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of query, positive and negatives, those of one query together."""
    found: dict[str, dict[str, Any]] = {}
    for query, positive, *negatives in rows:
        sample = found.setdefault(query, {"query": query, "positive": [], "negative": []})
        sample["positive"] += [positive] if positive not in sample["positive"] else []
        sample["negative"] += [text for text in dict.fromkeys(negatives) if text not in sample["negative"]]
    return list(found.values())


def save(run_path: str | Path, name: str, moment: str, found: Evaluation | ExampleEvaluation) -> str:
    """Store what a task measured in a run folder; gives the folder's name below evaluations/."""
    if isinstance(found, ExampleEvaluation):
        return save_examples(run_path, name, moment, found)
    return save_evaluation(run_path, name, moment, found)


@dataclass(frozen=True)
class MetricValues:
    """One metric of an evaluation as a run keeps it, with what was measured for each query or item."""

    after: float
    before: float | None = None
    values: Any = None  # (items,) after training; None where nothing was kept item by item
    earlier: Any = None  # (items,) before training, in the same order
    statistic: str = "mean"  # one of intervals.STATISTICS, which gives the metric from gold and values
    gold: Any = None  # (items,)


def metric_values(run: Run, name: str) -> dict[str, MetricValues]:
    """Metric -> what the run `run` kept of it. Raises RunError where the evaluation `name` cannot be read."""
    moments = run.evaluations()[name]
    after = run.metrics(name, "after")
    before = run.metrics(name, "before") if "before" in moments else {}
    if has_examples(run, name):
        identity, statistics = "item_id", run.settings(name, "after").get("statistics") or {}
        tables = [read_examples(run, name, moment) for moment in ("after", *(["before"] if before else []))]
    else:
        identity, statistics = "query_id", {metric: ["mean", metric.partition("_")[2]] for metric in after}
        tables = [run.per_query(name, moment) for moment in ("after", *(["before"] if before else []))]
    table = tables[0]
    first = tables[1].set_index(identity).reindex(table[identity]) if before else None
    found = {}
    for metric, value in after.items():
        statistic, column = statistics.get(metric, ("mean", ""))
        there = column in table
        found[metric] = MetricValues(
            after=value,
            before=before.get(metric),
            values=table[column].to_numpy(dtype=float) if there else None,
            earlier=first[column].to_numpy(dtype=float) if there and first is not None and column in first else None,
            statistic=statistic,
            gold=table["gold"].to_numpy(dtype=float) if "gold" in table else None,
        )
    return found


def unit(run: Run, name: str) -> str:
    """What was measured one by one, in the plural: "queries", "pairs", "triplets"."""
    return str(run.settings(name, "after").get("unit") or "queries")


def example_changes(run: Run, name: str, metric: str | None = None) -> tuple[str, pd.DataFrame]:
    """How each item of an evaluation of items changed; the metric, which is the main one where `metric` is none of it.

    Columns: item_id, the texts, gold (NaN where items have none), score_before and score_after (what the metric is
    computed from), before and after (how right that is, 0 to 1, see `intervals.agreement`), difference.
    """
    import numpy as np

    from workbench.evaluation.statistics import MEANS, agreement

    settings = run.settings(name, "after")
    statistics = settings["statistics"]
    chosen = next(each for each in (metric, settings.get("main_metric"), *statistics) if each in statistics)
    statistic, column = statistics[chosen]
    first, last = read_examples(run, name, "before").set_index("item_id"), read_examples(run, name, "after")
    table = last[["item_id", *input_columns(last), "gold"]].copy()
    scores = {
        "before": first[column].reindex(last["item_id"]).to_numpy(dtype=float),
        "after": last[column].to_numpy(dtype=float),
    }
    for moment, score in scores.items():
        table[f"score_{moment}"] = score
    for moment, score in scores.items():
        table[moment] = agreement(statistic, last["gold"], score)
    table["difference"] = table["after"] - table["before"]
    if statistic in MEANS:
        table["gold"] = np.nan
    return chosen, table


# --- which ----------------------------------------------------------------------------------------------------------


Load = Callable[..., Collection]


@dataclass
class _Found:
    tasks: dict[str, Task] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recipe_tasks(
    recipe: Recipe, splits: Splits, *, online: Callable[[], bool] = lambda: False, load: Load = load_collection
) -> tuple[dict[str, Task], list[str]]:
    """What a run of `recipe` measures, by name, and a sentence for whatever is not measured as the recipe says.

    "validation" and "test" are the held-out parts of the rows, in this order and as far as they are there. A search
    has the questions of the part and the answers of all rows, training rows included, as the cards' own evaluations
    have; a corpus of the part alone would be easier. NanoBEIREvaluator adds its collections, each a task of its own,
    and their mean. A Matryoshka loss adds the last of these tasks at each of its dimensions ("test_256").

    `load` gives a collection of NanoBEIR; see `collection.load_collection`. `online` is asked only there.

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


def _add_nano(found: _Found, recipe: Recipe, online: Callable[[], bool], load: Load) -> None:
    """The collections that can be had; without the first, the others of the same place are not tried."""
    source = recipe.data.evaluation
    location = source.location if source is not None and "Nano" in source.location else NANO_SOURCE
    cut = recipe.evaluation.truncate_dim
    end = f"_{cut}" if cut else ""
    members: list[Search] = []
    for short in NANO:
        name = f"Nano{short}"
        try:
            collection = load(location, split=name, online=online)
        except DataError as error:
            why = str(error).rstrip(".")
            found.notes.append(
                f"NanoBEIR is not measured ({why})."
                if not members
                else f"{name} cannot be had, so the mean of NanoBEIR is not measured ({why})."
            )
            break
        members.append(Search(f"{name}{end}", replace(collection, name=name)))
    found.tasks |= {member.name: member for member in members}
    if len(members) == len(NANO):
        found.tasks[f"{NANO_MEAN}{end}"] = Mean(f"{NANO_MEAN}{end}", tuple(members))


def _add_parts(found: _Found, recipe: Recipe, splits: Splits) -> None:
    """The held-out rows, measured as the recipe's evaluator does where they have its columns."""
    parts = {name: part for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    if not parts:
        if not found.tasks:
            found.notes.append(f"The recipe holds no rows out, so nothing is measured; {HOLD_OUT} divides them.")
        return
    if found.notes and _evaluator(recipe) == "NanoBEIREvaluator":
        found.notes.append(f"Measured instead: the rows held out ({' and '.join(parts)}).")
    texts = [column for column in splits.train.columns if column not in LABEL_COLUMNS]
    gold = next((column for column in splits.train.columns if column in LABEL_COLUMNS), None)
    kind = _kind(recipe, splits.train, texts, gold, found.notes)
    if kind is None:
        return
    if kind == "InformationRetrievalEvaluator":
        merge = recipe.evaluation.repeated_queries == "merged"
        answers = [row for part in (splits.train, *parts.values()) for row in _as_pairs(part, texts)]
        for name, part in parts.items():
            collection = from_pairs(
                _as_pairs(part, texts), answers, name=name, duplicates="merge" if merge else "separate"
            )
            found.tasks[name] = Search(name, collection.with_documents(_distractors(splits.train)))
        return
    every = recipe.evaluation.main_metric.startswith("max_") or recipe.evaluation.main_metric.endswith("_max")
    every |= any(other in recipe.evaluation.main_metric for other in SIMILARITIES if other != recipe.base.similarity)
    used = texts if kind == "RerankingEvaluator" else texts[: 3 if kind == "TripletEvaluator" else 2]
    for name, part in parts.items():
        rows = tuple(zip(*(part.texts(column) for column in used), strict=True))
        values = tuple(map(float, part.rows[gold])) if gold is not None else ()
        found.tasks[name] = Examples(name, kind, rows, values, every_similarity=every)


def _distractors(train: Pairs) -> list[str]:
    """Documents of a shipped sample that answer none of its questions."""
    return sample_distractors(train.origin.removeprefix("sample:")) if train.origin.startswith("sample:") else []


def _kind(recipe: Recipe, train: Pairs, texts: Sequence[str], gold: str | None, notes: list[str]) -> str | None:
    """The recipe's evaluator where the columns have what it needs, else the one that fits them."""
    asked = _evaluator(recipe)
    fitting = list(_fitting(recipe, train, texts, gold))
    if not fitting:
        columns = ", ".join(train.columns)
        notes.append(f"The held-out rows ({columns}) are not measured: nothing here measures such columns.")
        return None
    if asked in fitting:
        return asked
    origin = recipe.provenance.get("evaluation.evaluator")
    if origin is not None and origin.source not in ("default", "library") and asked != "NanoBEIREvaluator":
        notes.append(f"{asked} cannot measure rows with {', '.join(train.columns)}; {fitting[0]} is used.")
    return fitting[0]


def _fitting(recipe: Recipe, train: Pairs, texts: Sequence[str], gold: str | None) -> Iterator[str]:
    """Evaluators that rows of these columns can be measured by, the most fitting first."""
    losses = set(_losses(recipe.loss))
    if gold is not None:
        if len(texts) < 2 or losses & set(CLASSES):
            return
        if set(train.rows[gold]) <= {0, 1} and losses & set(LABELLED):
            yield "BinaryClassificationEvaluator"
            yield "EmbeddingSimilarityEvaluator"
        else:
            yield "EmbeddingSimilarityEvaluator"
            if set(train.rows[gold]) <= {0, 1}:
                yield "BinaryClassificationEvaluator"
    elif len(texts) > 1:
        yield "InformationRetrievalEvaluator"
        if len(texts) > 2 and recipe.base.similarity in SIMILARITIES:
            yield "TripletEvaluator"
            yield "RerankingEvaluator"


def _losses(loss: LossSpec) -> Iterator[str]:
    yield loss.name
    if loss.inner is not None:
        yield from _losses(loss.inner)


def _add_dimensions(found: _Found, recipe: Recipe) -> None:
    """The last task again at each dimension that a Matryoshka loss trains, but for the one that is measured anyway.

    Without a `truncate_dim` that is the largest, as a rule the model's own; a static base says how many it has.
    """
    dimensions = set(matryoshka(recipe.loss))
    whole = recipe.evaluation.truncate_dim or recipe.base.static_dimensions or max(dimensions, default=0)
    last = next((found.tasks[name] for name in found.tasks if name.startswith(NANO_MEAN)), None)
    last = last or found.tasks.get("test") or found.tasks.get("validation")
    if isinstance(last, Search | Mean | Examples):
        for size in sorted(dimensions - {whole}, reverse=True):
            found.tasks[f"{last.name}_{size}"] = replace(last, name=f"{last.name}_{size}", dimensions=size)


def matryoshka(loss: LossSpec) -> Iterator[int]:
    """The dimensions that a loss, or one inside it, trains."""
    dimensions = loss.parameters.get("matryoshka_dims")
    yield from (size for size in (dimensions if isinstance(dimensions, list | tuple) else ()) if isinstance(size, int))
    if loss.inner is not None:
        yield from matryoshka(loss.inner)


def _as_pairs(part: Pairs, texts: Sequence[str]) -> list[Mapping[str, str]]:
    columns = (part.texts(texts[0]), part.texts(texts[1]))
    return [{"anchor": anchor, "positive": positive} for anchor, positive in zip(*columns, strict=True)]
