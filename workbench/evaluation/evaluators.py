"""Evaluations that are no search: a number for each pair, triplet or short list, and what is computed from them.

Metrics are named and defined as the evaluators of sentence-transformers 6 do; unlike there, what happened to every
item is kept, so that two models can be compared item by item. Scores are computed in float64 and kept in float32, so
pairs of equal texts tie exactly. The library computes in float32: its linear correlations are less than 1e-6 away, its
ranks the same, but for pairs of equal texts, which rounding puts in some order there.

The model is a function: `encode(texts, kind)` for embeddings, `score(pairs)` for a cross-encoder. `kind` says which
prompt a text takes: "query" and "document" where the library calls encode_query and encode_document (triplets,
reranking), and "text", no prompt, where it calls plain encode (similarity, classification, mean squared error). A
model's `default_prompt_name`, which plain encode would add, is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.evaluation.examples import ExampleEvaluation, compute_metrics, evaluation_from_table, example_table
from workbench.evaluation.retrieval import TEXTS_AT_ONCE, numbers
from workbench.run import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

Encode = Callable[[list[str], Any], Any]
"""`encode(texts, kind)` -> (len(texts), dim); `kind` is "query", "document" or "text"."""

Score = Callable[[list[tuple[str, str]]], Any]
"""`score(pairs)` -> (len(pairs),), or (len(pairs), classes) of a model that tells classes apart."""

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
SHORTEST = 1e-12  # length that a vector is divided by at least, as the library does
ROWS_AT_ONCE = 8192  # pairs whose scores are computed at once


# --- pairs with a score or a label ----------------------------------------------------------------------------------


def embedding_similarity(
    name: str,
    pairs: Sequence[tuple[str, str]],
    gold: Sequence[float],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """How well the similarity of two texts follows the score that people gave: EmbeddingSimilarityEvaluator.

    Metrics `spearman_cosine`, `pearson_cosine`, ... for each similarity, and `spearman_max`, `pearson_max` of several.
    A correlation is NaN where gold scores or similarities are all equal.

    Raises DataError where there are no pairs, or `encode` gives something else than one finite vector per text.
    """
    values, dimensions = _pair_scores(pairs, encode, similarities, truncate_dim, on_progress)
    table = example_table(_columns(SENTENCES, pairs), gold, values)
    statistics = {f"{each}_{one}": [each, one] for one in similarities for each in ("spearman", "pearson")}
    found, several = compute_metrics(table, statistics), len(similarities) > 1
    most = {f"{each}_max": max(found[f"{each}_{one}"] for one in similarities) for each in ("spearman", "pearson")}
    return evaluation_from_table(
        name,
        "EmbeddingSimilarityEvaluator",
        table,
        statistics,
        unit="pairs",
        main="spearman_max" if several else f"spearman_{similarities[0]}",
        more=most if several else None,
        truncate_dim=truncate_dim,
        dimensions=dimensions,
    )


def binary_classification(
    name: str,
    pairs: Sequence[tuple[str, str]],
    labels: Sequence[float],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """How well the similarity of two texts tells pairs that belong together (1) from others (0).

    BinaryClassificationEvaluator: `cosine_ap`, `cosine_f1`, `cosine_accuracy`, `cosine_mcc`, ... for each similarity.
    F1 and accuracy are those at the best threshold, which is looked for on the same pairs, as the library does since
    6.2: before, a threshold could part equal scores, and calling every pair different was not tried.

    Raises DataError where a label is neither 0 nor 1, and where `embedding_similarity` does.
    """
    from workbench.evaluation.statistics import best_thresholds

    _only_binary(labels, name)
    values, dimensions = _pair_scores(pairs, encode, similarities, truncate_dim, on_progress)
    table = example_table(_columns(SENTENCES, pairs), labels, values)
    statistics: dict[str, list[str]] = {}
    at: dict[str, float] = {}
    for one in similarities:
        parts = {"ap": "average_precision", "accuracy": "best_accuracy", **BEST_F1, "mcc": "best_mcc"}
        statistics |= {f"{one}_{short}": [long, one] for short, long in parts.items()}
        sign = -1.0 if one in ("euclidean", "manhattan") else 1.0  # the library's thresholds are distances
        accuracy, f1 = best_thresholds(labels, values[one])
        at |= {f"{one}_accuracy_threshold": sign * accuracy, f"{one}_f1_threshold": sign * f1}
    several = len(similarities) > 1
    if several:
        found = {**compute_metrics(table, statistics), **at}
        shorts = [metric.partition("_")[2] for metric in found if metric.startswith(f"{similarities[0]}_")]
        at |= {f"max_{short}": max(found[f"{one}_{short}"] for one in similarities) for short in shorts}
    return evaluation_from_table(
        name,
        "BinaryClassificationEvaluator",
        table,
        statistics,
        unit="pairs",
        main="max_ap" if several else f"{similarities[0]}_ap",
        more=at,
        truncate_dim=truncate_dim,
        dimensions=dimensions,
    )


SENTENCES = ("sentence1", "sentence2")
BEST_F1 = {"f1": "best_f1", "precision": "best_precision", "recall": "best_recall"}


def mean_squared_error(
    name: str,
    texts: Sequence[str],
    wanted: Any,
    encode: Encode,
    *,
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """How near the vectors of `texts` come to those `wanted` (texts, dim), a teacher's: MSEEvaluator.

    The metric `negative_mse` is minus 100 times the mean squared difference; nearer to 0 is better.
    """
    import numpy as np

    target = np.asarray(wanted, dtype=np.float32)[:, :truncate_dim]
    vectors = vectors_of(texts, "text", encode, truncate_dim, on_progress)
    if vectors.shape != target.shape:
        raise DataError(
            f"expected vectors of shape {target.shape} like the teacher's, found {vectors.shape}; give as many texts "
            "as vectors, and a student of as many dimensions."
        )
    differences = (target - vectors).astype(float)
    table = example_table({"text": list(texts)}, None, {"negative_mse": -100.0 * (differences**2).mean(axis=1)})
    statistics = {"negative_mse": ["mean", "negative_mse"]}
    settings = {"truncate_dim": truncate_dim, "dimensions": vectors.shape[1]}
    return evaluation_from_table(name, "MSEEvaluator", table, statistics, unit="texts", main="negative_mse", **settings)


# --- triplets and short lists ---------------------------------------------------------------------------------------


def triplet_accuracy(
    name: str,
    triplets: Sequence[tuple[str, str, str]],
    encode: Encode,
    *,
    similarities: Sequence[str] = ("cosine",),
    truncate_dim: int | None = None,
    margin: float = 0.0,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """Share of (anchor, positive, negative) whose positive is nearer to the anchor by more than `margin`.

    TripletEvaluator: `cosine_accuracy`, ... for each similarity, and `max_accuracy` of several. A tie is not nearer.
    """
    kinds = ("query", "document", "document")
    columns = [[row[place] for row in triplets] for place in range(3)]
    anchor, positive, negative = (
        vectors_of(texts, kind, encode, truncate_dim, on_progress) for texts, kind in zip(columns, kinds, strict=True)
    )
    values: dict[str, Any] = {}
    for one in similarities:
        near, far = similarity_of(one, anchor, positive), similarity_of(one, anchor, negative)
        values |= {f"{one}_accuracy": (near > far + margin).astype(float), f"{one}_margin": near - far}
    statistics = {f"{one}_accuracy": ["mean", f"{one}_accuracy"] for one in similarities}
    table = example_table(_columns(("anchor", "positive", "negative"), triplets), None, values)
    several = len(similarities) > 1
    return evaluation_from_table(
        name,
        "TripletEvaluator",
        table,
        statistics,
        unit="triplets",
        main="max_accuracy" if several else f"{similarities[0]}_accuracy",
        more={"max_accuracy": max(compute_metrics(table, statistics).values())} if several else None,
        truncate_dim=truncate_dim,
        dimensions=anchor.shape[1],
        margin=margin,
    )


Sample = Mapping[str, Any]
"""{"query": text, "positive": [texts], "negative": [texts]}, as the library's reranking evaluators take it."""


def reranking(
    name: str,
    samples: Sequence[Sample],
    encode: Encode,
    *,
    similarity: str = "cosine",
    at_k: int = 10,
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> ExampleEvaluation:
    """How far up the positive documents of each query stand among its own few: RerankingEvaluator.

    Metrics `map`, `mrr@10`, `ndcg@10`, means over queries. Queries without a positive or without a negative document
    are left out, and settings["left_out"] counts them.
    """
    import numpy as np

    kept = [sample for sample in samples if sample["positive"] and sample["negative"]]
    lists = [[*sample["positive"], *sample["negative"]] for sample in kept]
    asked = vectors_of([sample["query"] for sample in kept], "query", encode, truncate_dim, on_progress)
    every = vectors_of([text for texts in lists for text in texts], "document", encode, truncate_dim, on_progress)
    repeated = np.repeat(np.arange(len(kept)), [len(texts) for texts in lists])
    scores = similarity_of(similarity, asked[repeated], every)
    gains = [[1] * len(sample["positive"]) + [0] * len(sample["negative"]) for sample in kept]
    values = _of_lists(gains, scores, at_k)
    statistics = {metric: ["mean", metric] for metric in values}
    return evaluation_from_table(
        name,
        "RerankingEvaluator",
        example_table(_sample_columns(kept, "negative"), None, values),
        statistics,
        unit="queries",
        main=f"ndcg@{at_k}",
        truncate_dim=truncate_dim,
        dimensions=asked.shape[1],
        similarity=similarity,
        left_out=len(samples) - len(kept),
    )


# --- cross-encoders -------------------------------------------------------------------------------------------------


def cross_correlation(
    name: str, pairs: Sequence[tuple[str, str]], gold: Sequence[float], score: Score
) -> ExampleEvaluation:
    """How well a cross-encoder's score follows that of people: CrossEncoderCorrelationEvaluator."""
    table = example_table(_columns(SENTENCES, pairs), gold, {"score": _cross_scores(pairs, score)})
    statistics = {each: [each, "score"] for each in ("spearman", "pearson")}
    return evaluation_from_table(
        name, "CrossEncoderCorrelationEvaluator", table, statistics, unit="pairs", main="spearman"
    )


def cross_classification(
    name: str, pairs: Sequence[tuple[str, str]], labels: Sequence[float], score: Score
) -> ExampleEvaluation:
    """How well a cross-encoder finds the label of a pair: CrossEncoderClassificationEvaluator.

    A model with one output is measured by `average_precision`, `f1`, `accuracy`, ... over labels of 0 and 1; one with
    several by `f1_macro`, `f1_micro` and `f1_weighted` of the class with the highest output.
    """
    import numpy as np

    from workbench.evaluation.statistics import best_thresholds

    given = _cross_scores(pairs, score)
    inputs, kind = _columns(SENTENCES, pairs), "CrossEncoderClassificationEvaluator"
    if given.ndim == 2:
        said = given.argmax(axis=1).astype(float)
        table = example_table(
            inputs, labels, {"predicted": said, "correct": (said == np.asarray(labels)).astype(float)}
        )
        statistics = {each: [each, "predicted"] for each in ("f1_macro", "f1_micro", "f1_weighted")}
        return evaluation_from_table(
            name, kind, table, statistics, unit="pairs", main="f1_macro", classes=given.shape[1]
        )
    _only_binary(labels, name)
    parts = {"average_precision": "average_precision", "accuracy": "best_accuracy", **BEST_F1}
    statistics = {metric: [statistic, "score"] for metric, statistic in parts.items()}
    at = dict(zip(("accuracy_threshold", "f1_threshold"), best_thresholds(labels, given), strict=True))
    table = example_table(inputs, labels, {"score": given})
    return evaluation_from_table(name, kind, table, statistics, unit="pairs", main="average_precision", more=at)


def cross_reranking(
    name: str, samples: Sequence[Sample], score: Score, *, at_k: int = 10, always_rerank_positives: bool = True
) -> ExampleEvaluation:
    """How far up a cross-encoder puts the positive documents of each query: CrossEncoderRerankingEvaluator.

    A sample has "negative" texts, or "documents" in the order in which a first search found them; then the metrics
    `base_map`, ... say how good that order was. With `always_rerank_positives` the positives that the first search
    missed are given to the cross-encoder all the same. A query whose list holds no positive counts as 0.
    """
    lists, gains, first = [], [], []
    for sample in samples:
        positive, documents = list(sample["positive"]), list(sample.get("documents") or ())
        if documents:
            there = [int(text in positive) for text in documents]  # those that it missed come last
            first.append(there + [1] * (len(positive) - sum(there)) if any(there) else there)
        if documents and not always_rerank_positives:
            lists.append(documents)
            gains.append([int(text in positive) for text in documents])
            continue
        others = [text for text in documents if text not in positive] if documents else list(sample["negative"])
        lists.append(positive + others)
        gains.append([1] * len(positive) + [0] * len(others))
    scores = _cross_scores(
        [(sample["query"], text) for sample, texts in zip(samples, lists, strict=True) for text in texts], score
    )
    values = _of_lists(gains, scores, at_k)
    if len(first) == len(samples):
        falling = [-float(place) for each in first for place in range(len(each))]
        values |= {f"base_{metric}": each for metric, each in _of_lists(first, falling, at_k).items()}
    statistics = {metric: ["mean", metric] for metric in values}
    table = example_table(_sample_columns(samples, "documents" if first else "negative"), None, values)
    kind = "CrossEncoderRerankingEvaluator"
    return evaluation_from_table(name, kind, table, statistics, unit="queries", main=f"ndcg@{at_k}")


def _cross_scores(pairs: Sequence[tuple[str, str]], score: Score) -> Any:
    import numpy as np

    given = numbers(score([(first, second) for first, second in pairs]))
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if len(given) != len(pairs) or given.ndim not in (1, 2) or not len(given) or not np.isfinite(given).all():
        raise DataError(
            f"expected a finite score for each of {len(pairs)} pairs, found an array of shape {given.shape}; give "
            "pairs, and a function that scores each."
        )
    return given


# --- shared by all --------------------------------------------------------------------------------------------------


def vectors_of(
    texts: Sequence[str], kind: str, encode: Encode, truncate_dim: int | None, on_progress: Progress | None = None
) -> Floats:
    """(len(texts), dim) vectors, each distinct text encoded once, longest first; cut to `truncate_dim` numbers.

    Raises DataError where there are no texts, or `encode` gives something else than one finite vector per text.
    """
    import numpy as np

    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    if not distinct:
        raise DataError("expected texts to measure, found none; give some rows.")
    parts = []
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        found = numbers(encode(part, kind))
        if found.ndim != 2 or len(found) != len(part) or not np.isfinite(found).all():
            raise DataError(
                f"expected a finite vector for each of {len(part)} texts from the encode function, found an array of "
                f"shape {found.shape}; the model is broken, or its precision too low."
            )
        parts.append(found[:, :truncate_dim])
        if on_progress is not None:
            on_progress("encode texts", start + len(part), len(distinct))
    place = {text: number for number, text in enumerate(distinct)}
    vectors: Floats = np.concatenate(parts)[[place[text] for text in texts]]
    return vectors


def similarity_of(name: str, first: Floats, second: Floats) -> Floats:
    """(rows,) similarity of each row of `first` to that row of `second`; distances negated, so higher is nearer.

    >>> import numpy as np
    >>> similarity_of("manhattan", np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])).tolist()
    [-3.0]
    """
    import numpy as np

    if name not in SIMILARITIES:
        raise DataError(f"expected a similarity of {', '.join(SIMILARITIES)}, found {name!r}; choose one.")
    found = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), ROWS_AT_ONCE):
        a = first[start : start + ROWS_AT_ONCE].astype(float)
        b = second[start : start + ROWS_AT_ONCE].astype(float)
        if name == "cosine":
            lengths = [np.maximum(np.sqrt((side * side).sum(axis=1)), SHORTEST) for side in (a, b)]
            part = (a * b).sum(axis=1) / (lengths[0] * lengths[1])
        elif name == "dot":
            part = (a * b).sum(axis=1)
        else:
            part = -np.sqrt(((a - b) ** 2).sum(axis=1)) if name == "euclidean" else -np.abs(a - b).sum(axis=1)
        found[start : start + ROWS_AT_ONCE] = part
    return found


def _pair_scores(
    pairs: Sequence[tuple[str, str]],
    encode: Encode,
    similarities: Sequence[str],
    truncate_dim: int | None,
    on_progress: Progress | None,
) -> tuple[dict[str, Floats], int]:
    """Similarity -> (pairs,) scores; and how many dimensions they were computed from."""
    texts = [row[place] for place in range(2) for row in pairs]
    vectors = vectors_of(texts, "text", encode, truncate_dim, on_progress)
    first, second = vectors[: len(pairs)], vectors[len(pairs) :]
    return {one: similarity_of(one, first, second) for one in similarities}, int(vectors.shape[1])


def _only_binary(labels: Sequence[float], name: str) -> None:
    wrong = next((label for label in labels if label not in (0, 1)), None)
    if wrong is not None:
        raise DataError(f"expected labels of 0 and 1 in {name!r}, found {wrong!r}; measure scores by correlation.")


def _of_lists(gains: Sequence[Sequence[int]], scores: Any, at_k: int) -> dict[str, Any]:
    """`ndcg@k`, `mrr@k` and `map` of each list; `scores` are those of all lists, one after the other."""
    import numpy as np

    from workbench.evaluation.statistics import statistic

    given = np.asarray(scores, dtype=float)
    found: dict[str, list[float]] = {f"ndcg@{at_k}": [], f"mrr@{at_k}": [], "map": []}
    start = 0
    for each in gains:
        gain, mine = np.asarray(each, dtype=float), given[start : start + len(each)]
        start += len(each)
        first = np.flatnonzero(gain[np.argsort(-mine, kind="stable")][:at_k])
        values = (
            _ndcg_with_ties(gain, mine, at_k) if gain.any() else 0.0,
            1.0 / (first[0] + 1) if len(first) else 0.0,
            statistic("average_precision", gain, mine) if gain.any() else 0.0,
        )
        for column, value in zip(found.values(), values, strict=True):
            column.append(float(value))
    return {metric: np.asarray(column) for metric, column in found.items()}


def _ndcg_with_ties(gain: Any, scores: Any, at_k: int) -> float:
    """nDCG whose documents of equal score each get the mean gain of them all."""
    import numpy as np

    _, group = np.unique(-scores, return_inverse=True)  # (documents,) 0 is the best score
    shared = np.bincount(group, weights=gain) / np.bincount(group)
    places = 1.0 / np.log2(np.arange(2, len(gain) + 2))
    places[at_k:] = 0.0
    reached = float((shared[np.sort(group)] * places).sum())
    return reached / float((-np.sort(-gain) * places).sum())


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _sample_columns(samples: Sequence[Sample], others: str) -> dict[str, list[str]]:
    """Query, positive and other texts of each sample; several texts one a line."""
    return {
        "query": [sample["query"] for sample in samples],
        "positive": ["\n".join(sample["positive"]) for sample in samples],
        others: ["\n".join(sample[others]) for sample in samples],
    }
