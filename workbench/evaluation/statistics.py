"""Intervals, paired randomization tests and their correction for several metrics, over queries or examples.

Functions for means take one value per query and metric, `(queries, metrics)`, and return one result per metric. The
same resamples and the same sign flips serve all metrics. Everything is drawn with a fixed seed: equal values give equal
results.

A rank correlation, an average precision or an F1 is not a mean over examples. Such a number is one of `STATISTICS`, a
function of gold labels and model scores, and is recomputed on every resample.

Sources: Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (14.3 BCa, 11 jackknife); Hanley & Lippman-Hand, If
Nothing Goes Wrong, Is Everything All Right?, JAMA 249, 1983; Westfall & Young, Resampling-Based Multiple Testing, 1993
(single-step max-T); Genz & Bretz, Computation of Multivariate Normal and t Probabilities, 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
EFFECT = 0.01  # the difference that `queries_needed` is about
EXACT = 13  # at most so many queries with a difference: all 2^n sign flips are tried
DRAWS = 2**14  # of the multivariate t distribution
AT_ONCE = 4_000_000  # numbers drawn at once for means, which bounds memory
CELLS = 500_000  # ... and for other statistics, which fits the processor's cache


def mean_intervals(values: Any, *, signed: bool = False) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95% interval of each column's mean; never of zero width.

    Values of 0 and 1 are a share: Wilson's interval. Where all values are equal, see `_unseen`. Everything else:
    bias-corrected and accelerated bootstrap, see `_bca`. `signed`: values are differences, which may be below 0.

    >>> low, high = mean_intervals([[1.0, 0.25]] * 50)
    >>> low.round(3).tolist(), high.round(3).tolist()  # 0.025^(1/50) = 0.929; other values: up to 7.1% of queries
    ([0.929, 0.232], [1.0, 0.303])
    """
    from scipy.stats import binomtest

    table = np.asarray(values, dtype=float)  # (queries, metrics)
    queries, means = len(table), table.mean(axis=0)
    equal = np.ptp(table, axis=0) <= 1e-12 * np.abs(means)
    share = ((table == 0) | (table == 1)).all(axis=0) & ~equal & (not signed)
    ends = np.array([_unseen(mean, queries, -1.0 if signed else 0.0) for mean in means.tolist()])  # (metrics, 2)
    for at in np.flatnonzero(share):
        ends[at] = binomtest(int(table[:, at].sum()), queries).proportion_ci(CONFIDENCE, "wilson")
    others = ~(equal | share)
    if others.any():
        part = np.ascontiguousarray(table[:, others])
        drawn = [_counts(rows) @ part / queries for rows in _resamples(queries, RESAMPLES, AT_ONCE)]
        ends[others] = _bca(means[others], np.concatenate(drawn), part)
    return ends[:, 0], ends[:, 1]


def _bca(observed: Floats, drawn: Floats, influence: Floats) -> Floats:
    """(metrics, 2) ends of the 95% BCa bootstrap interval.

    `drawn` are the resampled numbers, (resamples, metrics); `influence` has for each example a number linear in its
    influence, (examples, metrics): its value if the number is a mean, else its pseudo-value. scipy.stats.bootstrap
    gives the same, but computes n^2 * metrics numbers for the acceleration: minutes for 20,000 queries.
    """
    from scipy.stats import norm

    tie = np.abs(drawn - observed) <= 1e-12 * np.maximum(1.0, np.abs(observed))
    below = ((drawn < observed) & ~tie).mean(axis=0) + tie.mean(axis=0) / 2
    bias = norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    centered = influence - influence.mean(axis=0)
    squares = (centered**2).sum(axis=0)
    acceleration = np.nan_to_num(_ratio((centered**3).sum(axis=0), 6 * squares**1.5, 0.0))
    shifts = [bias + norm.ppf(tail) for tail in _TAILS]
    levels = [norm.cdf(bias + shift / np.maximum(1 - acceleration * shift, 1e-9)) for shift in shifts]
    return np.array([np.quantile(column, [low, high]) for column, low, high in zip(drawn.T, *levels, strict=True)])


def _unseen(value: float, examples: int, lowest: float) -> tuple[float, float]:
    """Interval of a mean whose values were all equal, or of another number that no resample changed.

    With 97.5% confidence at most a share of 1 - 0.025^(1/n) of all examples is different (Clopper and Pearson's bound
    for 0 of n; Hanley & Lippman-Hand's "rule of three" at 95%); these have the lowest or the highest possible value.
    For 0s or 1s this is the exact binomial interval, for other values in [lowest, 1] it is conservative, for a
    statistic that is no mean it is an approximation.
    """
    share = 1 - _TAILS[0] ** (1 / examples)
    reach = max(1.0, abs(value))  # of values that are not shares, like a mean squared error
    return value - share * (value - lowest * reach), value + share * (reach - value)


def randomization_test(differences: Any) -> Floats:
    """Two-sided p-value of each column's mean difference when the two sides are exchanged at random, query by query.

    All exchanges are tried where at most 13 queries have a difference, else `RESAMPLES` random ones and the observed
    one.

    >>> randomization_test([[1.0], [2.0], [3.0]]).tolist()  # 2 of 8 exchanges are as far from 0
    [0.25]
    """
    return _randomize(differences, lambda sums: sums)


def max_t(differences: Any) -> Floats:
    """p-values of `randomization_test` adjusted for all columns together: single-step max-T of Westfall & Young.

    The probability that the most extreme column, each in its own standard errors, is as extreme under the same
    exchanges. This controls the family-wise error rate. Columns that differ by a factor count once, and correlated ones
    cost less than with Bonferroni's or Holm's correction.

    >>> max_t([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]).tolist()
    [0.25, 0.25]
    """
    return _randomize(differences, lambda sums: sums.max(axis=1, keepdims=True, initial=0.0))


def _randomize(differences: Any, combine: Callable[[Floats], Any]) -> Floats:
    """Share of sign flips whose standardized sums, combined, are at least the observed sum of each column."""
    table = np.asarray(differences, dtype=float)  # (queries, metrics)
    table = table[(table != 0).any(axis=1)] / _norms(table)
    observed = np.abs(table.sum(axis=0)) - 1e-12 * np.abs(table).sum(axis=0)  # equal sums count despite rounding
    extreme, tried = np.zeros(table.shape[1]), 0
    for signs in _sign_flips(len(table)):
        extreme += (combine(np.abs(signs @ table)) >= observed).sum(axis=0)
        tried += len(signs)
    return extreme / tried


def _sign_flips(queries: int) -> Iterator[Any]:
    """Blocks of (rows, queries) of 1 and -1: all there are, or the observed one and `RESAMPLES` random ones."""
    if queries <= EXACT:
        yield 1.0 - 2.0 * ((np.arange(2**queries)[:, None] >> np.arange(queries)) & 1)
        return
    yield np.ones((1, queries))
    rng = np.random.default_rng(SEED)
    for rows in _blocks(queries, RESAMPLES, AT_ONCE):
        yield rng.integers(0, 2, size=(rows, queries)) * 2.0 - 1.0


def _norms(table: Floats) -> Floats:
    """Root of the sum of squares of each column, which is the standard error of its sum under sign flips; 1 for 0."""
    norms: Floats = np.sqrt((table**2).sum(axis=0))
    return np.where(norms > 0, norms, 1.0)


def max_t_factor(noise: Any, freedom: float, level: float = CONFIDENCE) -> float:
    """Critical value of the largest of several |t|: how many standard errors hold for all metrics at once.

    `noise` is (queries, metrics): what varies. Its columns' sums under random signs have the correlation of the
    columns' products, and each is nearly normal; divided by one estimated standard error of `freedom` degrees, the
    metrics are a multivariate t (Genz & Bretz). One metric, or proportional ones, have the critical value of Student's
    t, independent ones nearly Sidak's. Columns of zeros are ignored; without any other the result is that of one.

    >>> from scipy.stats import t
    >>> round(max_t_factor([[1.0], [-2.0]], 4), 2), round(float(t.ppf(0.975, 4)), 2)
    (2.78, 2.78)
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, qmc, t

    table = np.asarray(noise, dtype=float)
    table = table[:, (table != 0).any(axis=0)]
    least = float(t.ppf((1 + level) / 2, freedom))
    if table.shape[1] < 2:
        return least
    # root.T @ root is the correlation; proportional metrics make no axes of their own
    _, sizes, axes = np.linalg.svd(np.linalg.qr(table / _norms(table), mode="r"))
    root = (sizes[:, None] * axes[: len(sizes)])[sizes > 1e-9 * sizes[0]]  # (rank, metrics)
    normal = qmc.MultivariateNormalQMC(np.zeros(len(root)), rng=SEED).random(DRAWS) @ root
    largest = freedom * (normal**2).max(axis=1)  # (draws,)

    def excess(factor: float) -> float:
        return float(chi2.sf(largest / factor**2, freedom).mean()) - level

    most = float(t.ppf(1 - (1 - level) / 2 / table.shape[1], freedom))  # Bonferroni's
    return float(brentq(excess, 0.9 * least, 1.1 * most, xtol=1e-4))


def queries_needed(differences: Any) -> list[int | None]:
    """Queries with which a mean difference of `EFFECT` is found significant at 5% with 80% power.

    By the normal approximation ((1.96 + 0.84) x standard deviation of the paired differences / EFFECT)^2; None where
    the differences do not vary or there is only one.

    >>> queries_needed([[0.1], [-0.1], [0.1], [-0.1]])  # standard deviation 0.1155: (2.8016 * 11.55)^2
    [1047]
    """
    table = np.asarray(differences, dtype=float)
    deviations = table.std(axis=0, ddof=1) if len(table) > 1 else np.zeros(table.shape[1])
    return [_sample_size(each) for each in deviations.tolist()]


def _sample_size(deviation: float) -> int | None:
    from scipy.stats import norm

    if deviation <= 0:
        return None
    reach = float(norm.ppf((1 + CONFIDENCE) / 2) + norm.ppf(0.8))  # in standard errors
    return math.ceil((reach * deviation / EFFECT) ** 2)


# --- statistics that are not means -----------------------------------------------------------------------------------
#
# gold (1 or rows, examples), values (1 or rows, examples) -> (rows,): a row is one resample.


def spearman(gold: Floats, values: Floats) -> Floats:
    """Rank correlation, equal values sharing their mean rank; NaN where one side does not vary.

    >>> spearman(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 3, 2, 4]])).round(6).tolist()
    [0.8]
    """
    return pearson(_ranks(gold), _ranks(values))


def pearson(gold: Floats, values: Floats) -> Floats:
    """Linear correlation; NaN where one side does not vary, up to rounding."""
    sides = gold, values
    x, y = (side - side.mean(axis=1, keepdims=True) for side in sides)
    squares = [(each * each).sum(axis=1) for each in (x, y)]
    varies = [square > 1e-24 * (side * side).sum(axis=1) for square, side in zip(squares, sides, strict=True)]
    return _ratio((x * y).sum(axis=1), np.where(varies[0] & varies[1], np.sqrt(squares[0] * squares[1]), 0.0), np.nan)


def average_precision(gold: Floats, values: Floats) -> Floats:
    """Mean precision at the ranks of the examples with gold 1, equal values together; NaN where there are none."""
    found, seen, positives = _thresholds(gold, values)
    gained = np.diff(found, axis=1, prepend=0.0)  # examples with gold 1 that each threshold adds
    return _ratio((gained * found / seen).sum(axis=1), positives, np.nan)


def best_accuracy(gold: Floats, values: Floats) -> Floats:
    """Share of examples on the right side of the best threshold, which is chosen on each resample."""
    found, seen, positives = _thresholds(gold, values)
    examples = found.shape[1]
    return np.asarray((np.maximum((2 * found - seen).max(axis=1), 0.0) + examples - positives) / examples)


def _at_best_f1(measure: Callable[[Any, Any, Any, int], Floats]) -> Callable[[Floats, Floats], Floats]:
    """A statistic at the threshold of the best F1, which is chosen on each resample: the highest of equal ones.

    `measure` takes examples with gold 1 above the threshold, all above it, all with gold 1, and all.
    """

    def compute(gold: Floats, values: Floats) -> Floats:
        found, seen, positives = _thresholds(gold, values)
        place = _f1(found, seen, positives[:, None]).argmax(axis=1)[:, None]
        hits, above = (np.take_along_axis(each, place, axis=1)[:, 0] for each in (found, seen))
        return np.asarray(measure(hits, above, positives, found.shape[1]))

    return compute


def _mcc(hits: Floats, above: Floats, positives: Floats, examples: int) -> Floats:
    """Matthews correlation; 0 where a side of it is empty."""
    negatives = examples - positives
    numerator = hits * (negatives - above + hits) - (above - hits) * (positives - hits)
    return _ratio(numerator, np.sqrt(above * (examples - above) * positives * negatives), 0.0)


def mean(gold: Floats, values: Floats) -> Floats:
    """Mean of the values; `gold` is ignored."""
    return np.asarray(values.mean(axis=1))


def mean_of_groups(gold: Floats, values: Floats) -> Floats:
    """Mean over groups of the mean in each; `gold` is the group number of an example."""
    sums, groups = np.zeros(len(values)), np.zeros(len(values))
    for group in np.unique(gold):
        inside = gold == group
        size = inside.sum(axis=1)
        sums += (inside * values).sum(axis=1) / np.maximum(size, 1)
        groups += size > 0
    return np.asarray(sums / groups)


STATISTICS: Mapping[str, Callable[[Any, Any], Any]] = {
    "spearman": spearman,
    "pearson": pearson,
    "average_precision": average_precision,
    "best_accuracy": best_accuracy,
    "best_f1": _at_best_f1(lambda hits, above, positives, examples: _f1(hits, above, positives)),
    "best_precision": _at_best_f1(lambda hits, above, positives, examples: hits / above),
    "best_recall": _at_best_f1(lambda hits, above, positives, examples: _ratio(hits, positives, 0.0)),
    "best_mcc": _at_best_f1(_mcc),
    "mean": mean,
    "mean_of_groups": mean_of_groups,
}
"""Name, as a run stores it, -> function."""

MEANS = ("mean", "mean_of_groups")
CORRELATIONS = ("spearman", "pearson")


class PairedTest(NamedTuple):
    """The change of a statistic on the same examples, before and after."""

    low: float  # 95% interval of after - before
    high: float
    p: float  # two-sided
    needed: int | None  # examples needed to find a change of 0.01; see `queries_needed`
    exchanged: Floats  # (1 + resamples,) the change, and what it is when values are exchanged at random


def statistic(name: str, gold: Any, values: Any) -> float:
    """One of `STATISTICS` on all examples.

    >>> round(statistic("average_precision", [1, 0, 1], [0.9, 0.8, 0.7]), 4)  # (1 + 2/3) / 2
    0.8333
    """
    return float(STATISTICS[name](*_rows(gold, values))[0])


def resample_count(examples: int) -> int:
    """How many resamples of so many examples are computed: bounds the time to about a minute.

    >>> resample_count(150), resample_count(20_000), resample_count(100_000), resample_count(1_000_000)
    (2000, 2000, 400, 200)
    """
    return min(2_000, max(200, 40_000_000 // max(examples, 1)))


def pseudo_values(name: str, gold: Any, values: Any) -> Floats:
    """The jackknife's pseudo-values of a statistic, n * all - (n - 1) * all without one example; (examples,).

    A statistic is nearly their mean, so they stand for the values of a mean: their standard deviation / sqrt(n) is the
    standard error of the statistic, and over trainings their variance at each example is the noise of training. Of a
    mean they are its values. More than 1,000 examples are left out in groups of equal size, the same ones for all
    values of one length: 1,000 groups, and 200 from 20,000 examples on, which bounds the time. n is their number, then,
    and the result is (groups,). So are examples at a threshold that was chosen, 2 sqrt(n) in a group: such a statistic
    jumps where one example is missing. Measured (RESULTS.md), the standard deviation between seeds comes out 0.9 to 1.4
    times the true one for correlations and average precision, 0.8 to 2.3 times for accuracy and F1, 0.6 to 5 times for
    their precision and recall. NaN where the statistic is undefined without the example, or there is only one.

    >>> pseudo_values("spearman", [1, 2, 3, 4], [1, 3, 2, 4]).round(4).tolist()  # 4 * 0.8 - 3 * (0.5, 1, 1, 0.5)
    [1.7, 0.2, 0.2, 1.7]
    """
    (right,), (given,) = _rows(gold, values)
    examples = len(right)
    if name == "mean":
        return np.asarray(given)
    size = math.ceil(examples / max(200, min(1_000, 4_000_000 // examples)))
    if name.startswith("best_"):
        size = max(size, min(2 * math.isqrt(examples), examples // 2))
    if size > 1:
        order = np.random.default_rng(SEED).permutation(examples)
        right, given = right[order], given[order]
    starts = np.minimum(np.arange(0, examples, size), examples - size)  # the last group may overlap the one before
    without, start = [], 0
    for rows in _blocks(examples, len(starts), CELLS) if examples > 1 else ():
        kept = np.arange(examples - size)
        kept = kept + size * (kept >= starts[start : start + rows, None])
        without.append(STATISTICS[name](right[kept], given[kept]))
        start += rows
    left_out = np.concatenate(without) if without else np.full(examples, np.nan)
    share = examples / size
    return np.asarray(share * statistic(name, right, given) - (share - 1) * left_out)


def statistic_interval(name: str, gold: Any, values: Any) -> tuple[float, float]:
    """95% interval over examples: BCa bootstrap without the resamples on which the statistic is undefined.

    Never of zero width: where no resample changes it, see `_unseen`. NaN where it is undefined.
    """
    (right,), (given,) = _rows(gold, values)
    resamples = _resamples(len(right), resample_count(len(right)), CELLS)
    drawn = np.concatenate([STATISTICS[name](right[rows], given[rows]) for rows in resamples])
    lowest = -1.0 if name in (*CORRELATIONS, "best_mcc") else 0.0
    return _statistic_ends(
        statistic(name, gold, values), drawn, lambda: pseudo_values(name, gold, values), len(right), lowest
    )


def _statistic_ends(
    observed: float, drawn: Floats, influence: Callable[[], Floats], examples: int, lowest: float
) -> tuple[float, float]:
    """Ends for one statistic; `drawn` (resamples,)."""
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(observed) or not len(drawn):
        return math.nan, math.nan
    low, high = observed, observed
    if np.ptp(drawn) > 1e-12:
        ((low, high),) = _bca(np.array([observed]), drawn[:, None], influence()[:, None]).tolist()
    return (low, high) if high - low > 1e-12 else _unseen(observed, examples, lowest)


def paired_statistic(name: str, gold: Any, before: Any, after: Any, *, resamples: int | None = None) -> PairedTest:
    """Interval and test of after - before.

    The interval resamples examples, each with both its values (see `statistic_interval`). The test exchanges the two
    values of examples at random. Two models' scores need not share a scale, so ranks within each model are exchanged
    (for Pearson: standardized scores); means are exchanged as they are.
    """
    right, *sides = _rows(gold, before, after)
    examples, compute = right.shape[1], STATISTICS[name]
    resamples = resamples or resample_count(examples)
    changes = []
    for drawn in _resamples(examples, resamples, CELLS):
        earlier, later = (compute(right[0, drawn], side[0, drawn]) for side in sides)
        changes.append(later - earlier)
    finite = np.concatenate(changes)[np.isfinite(np.concatenate(changes))]
    deviation = float(finite.std(ddof=1)) * math.sqrt(examples) if len(finite) > 1 else 0.0
    ends = _statistic_ends(
        statistic(name, gold, after) - statistic(name, gold, before),
        finite,
        lambda: pseudo_values(name, gold, after) - pseudo_values(name, gold, before),
        examples,
        lowest=-1.0,
    )
    first, last = (_on_common_scale(name, side) for side in sides)
    exchanged = [compute(right, last) - compute(right, first)]
    rng = np.random.default_rng(SEED)
    for rows in _blocks(examples, resamples, CELLS):
        swap = rng.integers(0, 2, size=(rows, examples)).astype(bool)
        exchanged.append(compute(right, np.where(swap, first, last)) - compute(right, np.where(swap, last, first)))
    together = np.concatenate(exchanged)
    extreme = np.abs(together) >= np.abs(together[0]) - 1e-12
    return PairedTest(*ends, float(extreme.mean()), _sample_size(deviation), together)


def adjusted_p(tests: Sequence[PairedTest]) -> list[float]:
    """The p-values of several statistics of the same examples adjusted for all of them, as by `max_t`.

    The tests drew the same exchanges. Each statistic counts in units of its root mean square under them.
    """
    if not tests:
        return []
    table = np.nan_to_num(np.stack([test.exchanged for test in tests], axis=1))  # (1 + resamples, tests)
    units = np.abs(table) / _norms(table)
    found: list[float] = (units.max(axis=1, keepdims=True) >= units[0] - 1e-12).mean(axis=0).tolist()
    return found


def agreement(name: str, gold: Any, values: Any) -> Floats:
    """How right each example is, 0 to 1, to show which ones changed; means give the values themselves.

    A score: 1 minus the distance of its rank to that of its gold score, over the greatest possible distance. A label:
    the share of ranks below it where it is 1, above it where it is 0.

    >>> agreement("spearman", [1, 2, 3], [0.1, 0.9, 0.5]).tolist()
    [1.0, 0.5, 0.5]
    """
    right, given = np.asarray(gold, dtype=float), np.asarray(values, dtype=float)
    if name in MEANS:
        return np.asarray(given)
    ranks, last = _ranks(given), max(len(given) - 1, 1)  # (examples,) 1 is lowest
    if name in CORRELATIONS:
        return np.asarray(1 - np.abs(ranks - _ranks(right)) / last)
    return np.asarray(np.where(right == 1, (ranks - 1) / last, 1 - (ranks - 1) / last))


def best_thresholds(labels: Sequence[float], scores: Any) -> tuple[float, float]:
    """The lowest score that counts as 1, for the best accuracy and for the best F1: halfway to the next lower score."""
    ordered = np.sort(scores)[::-1]
    (found,), (seen,), (positives,) = _thresholds(*_rows(labels, scores))
    correct = 2 * found - seen  # more than the examples below the lowest threshold
    above = float(np.nextafter(ordered[0], np.float32(np.inf), dtype=np.float32))
    accuracy = _middle(ordered, int(seen[correct.argmax()])) if correct.max() > 0 else above
    if not positives:
        return accuracy, 0.0
    return accuracy, _middle(ordered, int(seen[_f1(found, seen, positives).argmax()]))


def _middle(ordered: Any, seen: int) -> float:
    """Halfway between the `seen`-th highest score and the next lower one, in the scores' own precision."""
    lowest = ordered[seen - 1]
    if seen == len(ordered):
        return float(lowest)
    middle = (lowest + ordered[seen]) / 2
    return float(lowest if middle == ordered[seen] else middle)


# --- shared ----------------------------------------------------------------------------------------------------------

_TAILS = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]


def _blocks(examples: int, resamples: int, at_once: int) -> Iterator[int]:
    """Numbers of rows that together are `resamples`, at most `at_once` numbers in each."""
    step = max(1, at_once // max(examples, 1))
    yield from (min(step, resamples - start) for start in range(0, resamples, step))


def _resamples(examples: int, resamples: int, at_once: int) -> Iterator[Integers]:
    """Blocks of (rows, examples): the examples drawn for each resample, with replacement."""
    rng = np.random.default_rng(SEED)
    yield from (rng.integers(0, examples, size=(rows, examples)) for rows in _blocks(examples, resamples, at_once))


def _counts(drawn: Integers) -> Floats:
    """(rows, examples) how often each example was drawn."""
    rows, examples = drawn.shape
    keys = drawn + np.arange(rows)[:, None] * examples
    return np.bincount(keys.ravel(), minlength=rows * examples).reshape(rows, examples).astype(float)


def _rows(*columns: Any) -> list[Floats]:
    """Each column as one row, (1, examples)."""
    return [np.asarray(column, dtype=float)[None, :] for column in columns]


def _on_common_scale(name: str, values: Floats) -> Floats:
    """(1, examples) values that two models can exchange; see `paired_statistic`."""
    if name in MEANS:
        return values
    if name == "pearson":
        return np.asarray((values - values.mean()) / (values.std() or 1.0))
    return _ranks(values)


def _ranks(values: Floats, method: str = "average") -> Floats:
    """Ranks along the last axis, 1 is lowest; equal values share their mean (or "max") rank."""
    from scipy.stats import rankdata  # takes half a second to import

    return np.asarray(rankdata(values, method=method, axis=-1), dtype=float)


def _ratio(numerator: Floats, denominator: Floats, otherwise: float) -> Floats:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), otherwise)


def _thresholds(gold: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Examples with gold 1 and all examples at or above each value, best first, (rows, examples) both; all with gold
    1, (rows,)."""
    order = np.argsort(-values, axis=1, kind="stable")
    seen = np.sort(_ranks(-values, "max"), axis=1)  # equal values pass a threshold together
    above = np.take_along_axis(gold, order, axis=1).cumsum(axis=1)
    found = np.take_along_axis(above, seen.astype(np.int64) - 1, axis=1)
    return found, seen, found[:, -1]


def _f1(found: Any, seen: Any, positives: Any) -> Any:
    """F1 of `found` examples with gold 1 among `seen`, of `positives`; 0 where nothing is found."""
    precision, recall = found / seen, found / np.maximum(positives, 1.0)
    return 2 * precision * recall / np.where(found > 0, precision + recall, 1.0)
