"""How far a mean over queries can be trusted: bootstrap intervals, a paired randomisation test, Holm's correction.

All functions take one value per query and metric, `(queries, metrics)`, and answer per metric. Queries are what is
drawn again: the same draw serves all metrics, so differences between metrics stay paired. Everything is drawn with a
fixed seed, so the same values give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
EXACT = 13  # up to so many differences that are not 0, all 2^n sign changes are tried
AT_ONCE = 4_000_000  # numbers drawn at once: what bounds memory


def bootstrap_interval(values: Any, *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95 % percentile bootstrap interval of each column's mean.

    With few queries it is somewhat too narrow, and it has no width where all values are equal.

    >>> low, high = bootstrap_interval([[0.0], [1.0]])
    >>> low.tolist(), high.tolist()
    ([0.0], [1.0])
    """
    table = np.asarray(values, dtype=float)  # (queries, metrics)
    queries = len(table)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, table.shape[1]))
    for start, stop in _steps(resamples, queries):
        rows = stop - start
        drawn = rng.integers(0, queries, size=(rows, queries)) + np.arange(rows)[:, None] * queries
        counts = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        means[start:stop] = counts @ table / queries
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def randomisation_p(differences: Any, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Two-sided p of each column's mean difference under random exchange of the two sides, query by query.

    All exchanges are tried where there are at most 2^13, otherwise `resamples` random ones and the one that was seen.

    >>> randomisation_p([[1.0], [2.0], [3.0]]).tolist()  # 2 of 8 exchanges are as far from 0
    [0.25]
    """
    table = np.asarray(differences, dtype=float)  # (queries, metrics)
    queries, metrics = table.shape
    seen = np.abs(table.sum(axis=0)) - 1e-12 * np.abs(table).sum(axis=0)  # equal sums count, whatever was rounded
    rng = np.random.default_rng(seed)
    as_far = np.ones(metrics)
    for start, stop in _steps(resamples, queries):
        signs = rng.integers(0, 2, size=(stop - start, queries)) * 2.0 - 1.0
        as_far += (np.abs(signs @ table) >= seen).sum(axis=0)
    p = as_far / (resamples + 1)
    for metric in range(metrics):
        moved = table[table[:, metric] != 0, metric]
        if len(moved) <= EXACT:
            signs = 1.0 - 2.0 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
            p[metric] = (np.abs(signs @ moved) >= seen[metric]).mean()
    return p


def holm(p: Sequence[float]) -> list[float]:
    """p of several tests, corrected by Holm's step-down method: below 0.05, the family's error stays below 0.05.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p)
    highest = 0.0
    for place, test in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, p[test] * (len(p) - place)))
        corrected[test] = highest
    return corrected


def queries_needed(differences: Any, effect: float = 0.01, power: float = 0.8) -> list[int | None]:
    """Queries with which a mean difference of `effect` would be told from 0, at 5 %, with probability `power`.

    By the normal approximation ((1.96 + 0.84) x standard deviation of the paired differences / effect)^2; None where
    the differences do not vary or there is only one.

    >>> queries_needed([[0.1], [-0.1], [0.1], [-0.1]])  # standard deviation 0.1155: (2.8016 * 11.55)^2
    [1047]
    """
    table = np.asarray(differences, dtype=float)
    if len(table) < 2:
        return [None] * table.shape[1]
    normal = NormalDist()
    reach = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(power)
    spread = table.std(axis=0, ddof=1)
    return [math.ceil((reach * each / effect) ** 2) if each > 0 else None for each in spread.tolist()]


def _steps(resamples: int, queries: int) -> Iterator[tuple[int, int]]:
    step = max(1, AT_ONCE // max(queries, 1))
    yield from ((start, min(start + step, resamples)) for start in range(0, resamples, step))
