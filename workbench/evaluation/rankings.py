"""How far two rankings of the same queries agree: in their documents, in each query's score, and in the effect.

The measures of Breuer et al. (2020), from strict to loose, each with the value that repro_eval 0.5 gives. A ranking is
a sequence of document ids, best first.

- Kendall's tau union (KTU), -1 to 1: the same documents in the same order;
- rank-biased overlap (RBO), 0 to 1: the same documents near the top, in whatever order further down;
- RMSE of the scores of each query, from 0: equally good for each query, by whatever documents;
- effect ratio (ER) and delta relative improvement (DRI): the same gain over a baseline, absolute and relative.

Sources: Breuer et al. (2020), SIGIR, https://doi.org/10.1145/3397271.3401036; Webber, Moffat and Zobel (2010), ACM
TOIS 28(4) (RBO), in the truncated form of Clarke et al. (2021), https://doi.org/10.1145/3451161.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.cards.metric_names import metric_name
from workbench.evaluation.verdict import effect_ratio

RBO_P = 0.95  # repro_eval's: the first 20 documents have about 75% of the weight


@dataclass(frozen=True)
class RankAgreement:
    """Two rankings of the same queries; None where a measure is not defined."""

    other: str  # what was compared with the first
    metric: str  # that the last three are of: "cosine_ndcg@10"
    queries: int
    depth: int  # documents of each ranking that were compared
    tau_union: float | None  # mean over queries
    rbo: float | None  # mean over queries
    rmse: float | None = None  # over queries
    effect_ratio: float | None = None  # of the other's gain by training to the first's
    dri: float | None = None  # relative gain of the first - that of the other


def tau_union(first: Sequence[str], other: Sequence[str]) -> float:
    """Kendall's tau union of two rankings, by which each document is its place among all ids of both, sorted.

    1 for equal rankings; for others it depends on how ids sort, because a document is compared with the one at the
    same position. The longer ranking is cut (repro_eval refuses unequal lengths); NaN for fewer than two documents.

    >>> round(tau_union(["d1", "d2", "d3"], ["d2", "d1", "d4"]), 4)  # of 0 1 2 and 1 0 3
    0.3333
    """
    from scipy.stats import kendalltau

    length = min(len(first), len(other))
    if length < 2:
        return math.nan
    place = {document: at for at, document in enumerate(sorted({*first[:length], *other[:length]}))}
    return float(kendalltau(*([place[document] for document in each[:length]] for each in (first, other))).statistic)


def rank_biased_overlap(first: Sequence[str], other: Sequence[str], depth: int, p: float = RBO_P) -> float:
    """RBO to `depth`: the mean share of common documents among the first 1, 2, ... `depth`, weighted by 1, p, p², ...

    A ranking that ends above `depth` has nothing more in common.

    >>> round(rank_biased_overlap(["a", "b"], ["b", "a"], depth=2), 4)  # 0.95 / 1.95
    0.4872
    """
    place = {document: at for at, document in enumerate(first[:depth])}
    seen = [max(at, place[document]) for at, document in enumerate(other[:depth]) if document in place]
    common = np.bincount(np.array(seen, dtype=np.int64), minlength=depth).cumsum()  # (depth,) so far
    weights = p ** np.arange(depth)
    return float(weights @ (common / np.arange(1, depth + 1)) / weights.sum())


def rmse(first: Any, other: Any) -> float:
    """Root mean square of the differences of two (queries,) scores.

    >>> rmse([1.0, 0.5], [0.5, 1.0])
    0.5
    """
    return float(np.sqrt(np.mean(np.subtract(first, other) ** 2)))


def delta_relative_improvement(first: Sequence[float], other: Sequence[float]) -> float | None:
    """Relative gain of the first - that of the other, each (before, after); None where one begins at 0.

    >>> delta_relative_improvement((0.5, 0.75), (0.5, 0.625)), delta_relative_improvement((0.0, 0.75), (0.5, 0.625))
    (0.25, None)
    """
    if not first[0] or not other[0]:
        return None
    return (first[1] - first[0]) / first[0] - (other[1] - other[0]) / other[0]


def rank_agreement(
    first: Mapping[str, Sequence[str]],
    other: Mapping[str, Sequence[str]],
    *,
    name: str,
    metric: str,
    scores: tuple[Any, Any] | None = None,
    gains: tuple[Sequence[float], Sequence[float]] | None = None,
) -> RankAgreement:
    """Compare two rankings, query -> documents, on the queries of both, to the depth that both have for some query.

    `scores` are the (queries,) values of `metric` on both sides, `gains` its (before, after) on both sides.
    """
    queries = [query for query in first if query in other]
    depth = min(max((len(each[query]) for query in queries), default=0) for each in (first, other))
    pairs = [(first[query][:depth], other[query][:depth]) for query in queries]
    taus = [tau for pair in pairs if not math.isnan(tau := tau_union(*pair))]
    return RankAgreement(
        other=name,
        metric=metric,
        queries=len(queries),
        depth=depth,
        tau_union=float(np.mean(taus)) if taus else None,
        rbo=float(np.mean([rank_biased_overlap(*pair, depth) for pair in pairs])) if depth else None,
        rmse=None if scores is None else rmse(*scores),
        effect_ratio=None if gains is None else effect_ratio(ours=gains[1], card=gains[0]),
        dri=None if gains is None else delta_relative_improvement(*gains),
    )


def agreement_table(found: Sequence[RankAgreement]) -> list[tuple[str, list[float | None], str]]:
    """Measure, its value for each of `found`, and how to read it; without measures that none of them has."""
    name = metric_name(found[0].metric) if found else ""
    rows = [
        ("Kendall's tau union", [each.tau_union for each in found], "1: same order; depends on how document ids sort"),
        ("RBO", [each.rbo for each in found], f"1: same documents from the top down (p = {RBO_P})"),
        (f"RMSE of {name}", [each.rmse for each in found], "0: every query has the same value"),
        ("Effect ratio", [each.effect_ratio for each in found], f"1: same gain of {name} by training; 0: none"),
        ("DRI", [each.dri for each in found], "0: same relative gain by training; below 0: larger than the first's"),
    ]
    return [row for row in rows if any(value is not None for value in row[1])]


def agreement_scope(found: Sequence[RankAgreement]) -> str:
    """What the table is of.

    >>> agreement_scope([RankAgreement("run", "cosine_ndcg@10", 1200, 100, 1.0, 1.0)])
    'first 100 documents of 1,200 queries'
    """
    depths = "/".join(f"{depth:,}" for depth in sorted({each.depth for each in found}))
    return f"first {depths} documents of {found[0].queries:,} queries"
