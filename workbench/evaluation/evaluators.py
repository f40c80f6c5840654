"""Evaluators of pairs, triplets and reranking candidates: a number for each example, and metrics computed from them.

Metrics are named and defined as in the evaluators of sentence-transformers 6; unlike there, the result of every example
is kept, so that two models can be compared example by example. Scores are computed in float64 and stored in float32, so
pairs of equal texts tie exactly. The library computes in float32: its linear correlations differ by less than 1e-6, its
ranks only for pairs of equal texts, which rounding orders.

The model is a function `encode(texts, kind)` -> (len(texts), dim). `kind` selects the prompt: "query" and "document"
where the library calls encode_query and encode_document (triplets, reranking), and "text" where it calls plain encode
(similarity, classification): no prompt but one that the user gives. A model's `default_prompt_name` is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cards.metric_names import LIBRARY_SIMILARITIES
from workbench.errors import DataError
from workbench.evaluation.examples import ExampleEvaluation, compute_metrics, evaluation_from_table, example_table
from workbench.evaluation.retrieval import encode_texts
from workbench.run import Progress

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float32]

Encode = Callable[[list[str], Any], Any]
Pairs = Sequence[tuple[str, str]]

Sample = Mapping[str, Any]
"""{"query": text, "positive": [texts], "negative": [texts]}, as in the library's reranking evaluators."""

ROWS_AT_ONCE = 8192  # pairs whose scores are computed at once


def embedding_similarity(
    name: str,
    pairs: Pairs,
    gold: Sequence[float],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """Correlation of the similarity of two texts with human scores: EmbeddingSimilarityEvaluator.

    Metrics `spearman_cosine`, `pearson_cosine`, ... for each similarity, and `spearman_max`, `pearson_max` of several.
    A correlation is NaN where gold scores or similarities are all equal.

    Raises DataError where there are no pairs, or `encode` returns something other than one finite vector per text.
    """
    table, settings = _pair_table(pairs, gold, encode, similarities, truncate_dim, on_progress)
    statistics = {f"{each}_{one}": [each, one] for one in similarities for each in ("spearman", "pearson")}
    main, most = f"spearman_{similarities[0]}", {}
    if len(similarities) > 1:
        main, found = "spearman_max", compute_metrics(table, statistics)
        most = {f"{each}_max": max(found[f"{each}_{one}"] for one in similarities) for each in ("spearman", "pearson")}
    kind = "EmbeddingSimilarityEvaluator"
    return evaluation_from_table(name, kind, table, statistics, unit="pairs", main=main, more=most, **settings)


def binary_classification(
    name: str,
    pairs: Pairs,
    labels: Sequence[float],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """Classification of pairs as matching (1) or not (0) by the similarity of their texts.

    BinaryClassificationEvaluator: `cosine_ap`, `cosine_f1`, `cosine_accuracy`, `cosine_mcc`, ... for each similarity.
    F1 and accuracy are those at the best threshold, chosen on the same pairs, as in the library since 6.2: before, a
    threshold could split equal scores, and calling every pair different was not tried.

    Raises DataError where a label is neither 0 nor 1, and where `embedding_similarity` does.
    """
    from workbench.evaluation.statistics import best_thresholds

    wrong = next((label for label in labels if label not in (0, 1)), None)
    if wrong is not None:
        raise DataError(f"expected labels of 0 and 1 in {name!r}, found {wrong!r}; measure scores by correlation.")
    table, settings = _pair_table(pairs, labels, encode, similarities, truncate_dim, on_progress)
    best = {short: f"best_{short}" for short in ("accuracy", "f1", "precision", "recall", "mcc")}
    parts = {"ap": "average_precision", **best}
    statistics = {f"{one}_{short}": [long, one] for one in similarities for short, long in parts.items()}
    more: dict[str, float] = {}
    for one in similarities:
        sign = -1.0 if one in ("euclidean", "manhattan") else 1.0  # the library's thresholds are distances
        accuracy, f1 = best_thresholds(labels, table[one].to_numpy())
        more |= {f"{one}_accuracy_threshold": sign * accuracy, f"{one}_f1_threshold": sign * f1}
    if len(similarities) > 1:
        more |= _maxima({**compute_metrics(table, statistics), **more}, similarities)
    kind, main = "BinaryClassificationEvaluator", "max_ap" if len(similarities) > 1 else f"{similarities[0]}_ap"
    return evaluation_from_table(name, kind, table, statistics, unit="pairs", main=main, more=more, **settings)


def triplet_accuracy(
    name: str,
    triplets: Sequence[tuple[str, str, str]],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """Share of (anchor, positive, negative) whose positive is nearer to the anchor.

    TripletEvaluator: `cosine_accuracy`, ... for each similarity, and `max_accuracy` of several. A tie is not nearer.
    """
    columns = _columns(("anchor", "positive", "negative"), triplets)
    anchor, positive, negative = (
        encode_texts(texts, "query" if column == "anchor" else "document", encode, truncate_dim, on_progress)
        for column, texts in columns.items()
    )
    values: dict[str, Any] = {}
    for one in similarities:
        near, far = similarity_of(one, anchor, positive), similarity_of(one, anchor, negative)
        values |= {f"{one}_accuracy": (near > far).astype(float), f"{one}_margin": near - far}
    statistics = {f"{one}_accuracy": ["mean", f"{one}_accuracy"] for one in similarities}
    table = example_table(columns, None, values)
    more, main = {}, f"{similarities[0]}_accuracy"
    if len(similarities) > 1:
        more, main = _maxima(compute_metrics(table, statistics), similarities), "max_accuracy"
    settings = {"truncate_dim": truncate_dim, "dimensions": anchor.shape[1]}
    kind = "TripletEvaluator"
    return evaluation_from_table(name, kind, table, statistics, unit="triplets", main=main, more=more, **settings)


def reranking(
    name: str,
    samples: Sequence[Sample],
    encode: Encode,
    *,
    similarity: str = "cosine",
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """Ranking of each query's positive documents among its own candidates: RerankingEvaluator.

    Metrics `map`, `mrr@10`, `ndcg@10`, means over queries. Equal scores share their gain in nDCG, share a threshold in
    MAP, and keep their order in MRR, as in the library. Queries without a positive or without a negative document are
    skipped; settings["left_out"] counts them.
    """
    from sklearn.metrics import average_precision_score, ndcg_score

    used = [sample for sample in samples if sample["positive"] and sample["negative"]]
    candidates = [[*sample["positive"], *sample["negative"]] for sample in used]
    asked = encode_texts([sample["query"] for sample in used], "query", encode, truncate_dim, on_progress)
    texts = [text for each in candidates for text in each]
    documents = encode_texts(texts, "document", encode, truncate_dim, on_progress)
    lengths = [len(each) for each in candidates]
    scores = similarity_of(similarity, np.repeat(asked, lengths, axis=0), documents)
    values: dict[str, list[float]] = {"ndcg@10": [], "mrr@10": [], "map": []}
    for sample, given in zip(used, np.split(scores, np.cumsum(lengths)[:-1]), strict=True):
        gains = np.repeat([1, 0], [len(sample["positive"]), len(sample["negative"])])
        first = np.flatnonzero(gains[np.argsort(-given, kind="stable")][:10])
        values["ndcg@10"].append(float(ndcg_score([gains], [given], k=10)))
        values["mrr@10"].append(1.0 / (first[0] + 1) if len(first) else 0.0)
        values["map"].append(float(average_precision_score(gains, given)))
    sides = {side: ["\n".join(sample[side]) for sample in used] for side in ("positive", "negative")}
    inputs = {"query": [sample["query"] for sample in used], **sides}
    return evaluation_from_table(
        name,
        "RerankingEvaluator",
        example_table(inputs, None, values),
        {metric: ["mean", metric] for metric in values},
        unit="queries",
        main="ndcg@10",
        truncate_dim=truncate_dim,
        dimensions=asked.shape[1],
        similarity=similarity,
        left_out=len(samples) - len(used),
    )


# --- shared ----------------------------------------------------------------------------------------------------------


def similarity_of(name: str, first: Floats, second: Floats) -> Floats:
    """(rows,) similarity of each row of `first` to that row of `second`; distances negated, so higher is nearer.

    >>> similarity_of("manhattan", np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])).tolist()
    [-3.0]
    """
    if name not in LIBRARY_SIMILARITIES:
        raise DataError(f"expected a similarity of {', '.join(LIBRARY_SIMILARITIES)}, found {name!r}; choose one.")
    found = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        a, b = first[rows].astype(float), second[rows].astype(float)
        if name == "cosine":
            lengths = [np.maximum(np.sqrt((side * side).sum(axis=1)), 1e-12) for side in (a, b)]  # as the library
            found[rows] = (a * b).sum(axis=1) / (lengths[0] * lengths[1])
        elif name == "dot":
            found[rows] = (a * b).sum(axis=1)
        else:
            found[rows] = -np.linalg.norm(a - b, ord=2 if name == "euclidean" else 1, axis=1)
    return found


def _pair_table(
    pairs: Pairs,
    gold: Sequence[float],
    encode: Encode,
    similarities: Sequence[str],
    truncate_dim: int | None,
    on_progress: Progress | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of pairs with a column for each similarity, and the settings."""
    columns = _columns(("sentence1", "sentence2"), pairs)
    vectors = encode_texts([*columns["sentence1"], *columns["sentence2"]], "text", encode, truncate_dim, on_progress)
    first, second = vectors[: len(pairs)], vectors[len(pairs) :]
    table = example_table(columns, gold, {one: similarity_of(one, first, second) for one in similarities})
    return table, {"truncate_dim": truncate_dim, "dimensions": int(vectors.shape[1])}


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _maxima(metrics: Mapping[str, float], similarities: Sequence[str]) -> dict[str, float]:
    """The highest value of each metric over the similarities: "max_ap", ..."""
    shorts = [metric.partition("_")[2] for metric in metrics if metric.startswith(f"{similarities[0]}_")]
    return {f"max_{short}": max(metrics[f"{one}_{short}"] for one in similarities) for short in shorts}
