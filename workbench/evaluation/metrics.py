"""Metrics of one ranking, or of many at once; pure.

A ranking is given as *gains*: the last axis runs over positions, best first, and holds the relevance of the document at
that position, 0 where it is not relevant. Any axes before it are rankings: `(depth,)` gives one number and
`(queries, depth)` one per query. Means over queries are computed elsewhere.

Every metric is binary (any gain above 0 counts as 1) except `graded_ndcg`. The definitions are those of
InformationRetrievalEvaluator in sentence-transformers 6:

- a ranking shorter than k has nothing more to come: precision still divides by k;
- recall and the ideal of nDCG count every relevant document, retrieved or not;
- average precision at k divides by min(k, relevant documents), so that 1 can be reached.

`relevant` is the number of relevant documents of each ranking, at least 1: a query without any has no recall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

CUTS: dict[str, tuple[int, ...]] = {
    "accuracy": (1, 3, 5, 10),
    "precision": (1, 3, 5, 10),
    "recall": (1, 3, 5, 10),
    "ndcg": (10,),
    "mrr": (10,),
    "map": (100,),
}
"""Metric -> its k, as InformationRetrievalEvaluator takes them, in its order."""


def accuracy(gains: Any, k: int) -> Floats:
    """1 where at least one relevant document is among the first k, else 0.

    >>> float(accuracy([0, 0, 1], k=3)), float(accuracy([0, 0, 1], k=2))
    (1.0, 0.0)
    """
    return _hits(gains, k).any(axis=-1).astype(float)


def precision(gains: Any, k: int) -> Floats:
    """Share of the first k that is relevant.

    >>> float(precision([1, 0, 1], k=4))
    0.5
    """
    return np.asarray(_hits(gains, k).sum(axis=-1) / k, dtype=float)


def recall(gains: Any, relevant: Any, k: int) -> Floats:
    """Share of the relevant documents that is among the first k.

    >>> float(recall([1, 0, 1], relevant=4, k=3))
    0.5
    """
    return np.asarray(_hits(gains, k).sum(axis=-1) / _counts(relevant), dtype=float)


def mrr(gains: Any, k: int) -> Floats:
    """1 / position of the first relevant document, 0 where none is among the first k.

    >>> float(mrr([0, 1, 1], k=10))
    0.5
    """
    hits = _hits(gains, k)
    if hits.shape[-1] == 0:
        return np.zeros(hits.shape[:-1])
    return np.asarray(np.where(hits.any(axis=-1), 1.0 / (hits.argmax(axis=-1) + 1), 0.0), dtype=float)


def average_precision(gains: Any, relevant: Any, k: int) -> Floats:
    """Mean precision at the positions of relevant documents among the first k, over min(k, relevant); MAP's summand.

    >>> round(float(average_precision([1, 0, 1], relevant=2, k=100)), 4)  # (1/1 + 2/3) / 2
    0.8333
    """
    hits = _hits(gains, k)
    precisions = hits.cumsum(axis=-1) / np.arange(1, hits.shape[-1] + 1)  # (..., k) precision at every position
    return np.asarray((precisions * hits).sum(axis=-1) / np.minimum(k, _counts(relevant)), dtype=float)


def ndcg(gains: Any, relevant: Any, k: int) -> Floats:
    """Binary nDCG: sum of 1 / log2(position + 1) over relevant positions, over the best sum that was possible.

    >>> round(float(ndcg([0, 1], relevant=1, k=10)), 4)  # 1 / log2(3)
    0.6309
    """
    hits = _hits(gains, k)
    ideal = np.concatenate([[0.0], np.cumsum(_discounts(k))])  # ideal[m]: m relevant documents on top
    return np.asarray(hits @ _discounts(hits.shape[-1]) / ideal[np.minimum(k, _counts(relevant))], dtype=float)


def graded_ndcg(gains: Any, ideal: Any, k: int) -> Floats:
    """nDCG with linear gains, as in trec_eval and BEIR.

    `ideal` holds the gains of all relevant documents of each ranking, in any order, padded with 0. Negative
    gains count as 0. With gains of 0 and 1 it equals `ndcg`.

    >>> round(float(graded_ndcg([1, 2], ideal=[2, 1], k=10)), 4)  # (1 + 2/1.585) / (2 + 1/1.585)
    0.8597
    """
    found = np.maximum(np.asarray(gains, dtype=float), 0.0)[..., :k]
    best = -np.sort(-np.maximum(np.asarray(ideal, dtype=float), 0.0), axis=-1)[..., :k]
    highest = best @ _discounts(best.shape[-1])
    if np.any(highest <= 0):
        raise DataError("expected a relevant document for every ranking, found one without; leave such queries out.")
    return np.asarray(found @ _discounts(found.shape[-1]) / highest, dtype=float)


def every_metric(gains: Any, relevant: Any) -> dict[str, Floats]:
    """All metrics of `CUTS` in its order, named "accuracy@1" ... "map@100", each of the shape of `relevant`.

    >>> list(every_metric([0, 1], relevant=1))[3:6]
    ['accuracy@10', 'precision@1', 'precision@3']
    """
    compute: dict[str, Callable[[int], Floats]] = {
        "accuracy": lambda k: accuracy(gains, k),
        "precision": lambda k: precision(gains, k),
        "recall": lambda k: recall(gains, relevant, k),
        "ndcg": lambda k: ndcg(gains, relevant, k),
        "mrr": lambda k: mrr(gains, k),
        "map": lambda k: average_precision(gains, relevant, k),
    }
    return {f"{name}@{k}": compute[name](k) for name, cuts in CUTS.items() for k in cuts}


def _hits(gains: Any, k: int) -> npt.NDArray[np.bool_]:
    """(..., min(k, depth)) whether the document at each position is relevant."""
    if k < 1:
        raise DataError(f"expected k of at least 1, found {k}; metrics look at the first k documents.")
    return np.asarray(gains)[..., :k] > 0


def _counts(relevant: Any) -> npt.NDArray[np.int64]:
    counts = np.asarray(relevant, dtype=np.int64)
    if np.any(counts < 1):
        raise DataError("expected a relevant document for every ranking, found one without; leave such queries out.")
    return counts


def _discounts(k: int) -> Floats:
    return np.asarray(1.0 / np.log2(np.arange(2, k + 2)), dtype=float)
