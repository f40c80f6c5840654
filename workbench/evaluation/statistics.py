"""Bootstrap confidence intervals, paired randomization tests and Holm's correction, over queries or examples.

Functions for means take one value per query and metric, `(queries, metrics)`, and return one result per metric. The
same resamples serve all metrics. Everything is drawn with a fixed seed: equal values give equal results.

A rank correlation, an average precision or an F1 is not a mean over examples. Such a number is one of `STATISTICS`, a
function of gold labels and model scores, and is recomputed on every resample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
EXACT = 13  # at most so many nonzero differences: all 2^n sign changes are tried
AT_ONCE = 4_000_000  # numbers drawn at once for means, which bounds memory
CELLS = 500_000  # ... and for other statistics, which fits the processor's cache


def bootstrap_interval(values: Any, *, at_once: int = AT_ONCE) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95% percentile bootstrap interval of each column's mean.

    With few queries it is somewhat too narrow, and it has no width where all values are equal.

    >>> low, high = bootstrap_interval([[0.0], [1.0]])
    >>> low.tolist(), high.tolist()
    ([0.0], [1.0])
    """
    table = np.asarray(values, dtype=float)  # (queries, metrics)
    means = [_counts(drawn) @ table / len(table) for drawn in _resamples(len(table), RESAMPLES, at_once)]
    low, high = np.quantile(np.concatenate(means), _TAILS, axis=0)
    return low, high


def randomization_test(differences: Any) -> Floats:
    """Two-sided p-value of each column's mean difference when the two sides are exchanged at random, query by query.

    All exchanges are tried where there are at most 2^13, otherwise `RESAMPLES` random ones and the observed one.

    >>> randomization_test([[1.0], [2.0], [3.0]]).tolist()  # 2 of 8 exchanges are as far from 0
    [0.25]
    """
    table = np.asarray(differences, dtype=float)  # (queries, metrics)
    observed = np.abs(table.sum(axis=0)) - 1e-12 * np.abs(table).sum(axis=0)  # equal sums count despite rounding
    rng = np.random.default_rng(SEED)
    extreme = np.ones(table.shape[1])
    for rows in _blocks(len(table), RESAMPLES, AT_ONCE):
        signs = rng.integers(0, 2, size=(rows, len(table))) * 2.0 - 1.0
        extreme += (np.abs(signs @ table) >= observed).sum(axis=0)
    p = extreme / (RESAMPLES + 1)
    for metric, column in enumerate(table.T):
        nonzero = column[column != 0]
        if len(nonzero) <= EXACT:
            signs = 1.0 - 2.0 * ((np.arange(2 ** len(nonzero))[:, None] >> np.arange(len(nonzero))) & 1)
            p[metric] = (np.abs(signs @ nonzero) >= observed[metric]).mean()
    return p


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected by Holm's step-down method, which controls the family-wise error rate.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.asarray(p)[order] * np.arange(len(p), 0, -1), 1.0)
    corrected: list[float] = np.maximum.accumulate(steps)[order.argsort()].tolist()
    return corrected


def first_proportional(differences: Any) -> list[int]:
    """For each column the first column that equals it up to a positive factor; itself where none comes before it.

    Accuracy, precision and recall at 1 are one number, and at any k where every query has one answer they differ by a
    constant factor: a test of one is a test of all.

    >>> first_proportional([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0], [-1.0, -0.5, 0.0]])
    [0, 0, 2]
    """
    table = np.asarray(differences, dtype=float)
    table = table / np.maximum(np.abs(table).max(axis=0, initial=0.0), np.finfo(float).tiny)
    equal = [np.isclose(table[:, : at + 1], table[:, [at]], rtol=0, atol=1e-9) for at in range(table.shape[1])]
    return [int(each.all(axis=0).argmax()) for each in equal]


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


def statistic_interval(name: str, gold: Any, values: Any) -> tuple[float, float]:
    """95% percentile bootstrap interval over examples, without the resamples on which the statistic is undefined."""
    (right,), (given,) = _rows(gold, values)
    resamples = _resamples(len(right), resample_count(len(right)), CELLS)
    return _ends([STATISTICS[name](right[drawn], given[drawn]) for drawn in resamples])


def paired_statistic(name: str, gold: Any, before: Any, after: Any, *, resamples: int | None = None) -> PairedTest:
    """Interval and test of after - before.

    The interval resamples examples, each with both its values. The test exchanges the two values of examples at random.
    Two models' scores need not share a scale, so ranks within each model are exchanged (for Pearson: standardized
    scores); means are exchanged as they are.
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
    first, last = (_on_common_scale(name, side) for side in sides)
    observed = abs(float((compute(right, last) - compute(right, first))[0])) - 1e-12
    rng = np.random.default_rng(SEED)
    extreme = 1
    for rows in _blocks(examples, resamples, CELLS):
        swap = rng.integers(0, 2, size=(rows, examples)).astype(bool)
        change = compute(right, np.where(swap, first, last)) - compute(right, np.where(swap, last, first))
        extreme += int((np.abs(change) >= observed).sum())
    return PairedTest(*_ends(changes), extreme / (resamples + 1), _sample_size(deviation))


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


@dataclass(frozen=True)
class Spread:
    """One number over several trainings that differ only in their seed, all measured on the same examples."""

    mean: float  # over seeds
    deviation: float  # standard deviation between seeds, n - 1
    lowest: float
    highest: float
    low: float  # 95% interval of the mean, over examples and seeds
    high: float
    one_low: float  # 95% interval of a single training, which is what a card's number comes from
    one_high: float


def spread_over_seeds(name: str, gold: Any, values: Any, earlier: Any = None) -> Spread:
    """The uncertainty from seeds and examples together, by a two-level bootstrap.

    `values` are (seeds, examples), at least 2 seeds; with `earlier`, of the same shape, the number is the change from
    it. Each resample draws examples, the same ones for every seed, computes the number for each seed, and then draws
    seeds. Deviations between seeds are widened by sqrt(n / (n - 1)), because n drawn of n vary too little. With fewer
    than about ten seeds the tails stay too light: five seeds cannot show a rare one.

    >>> found = spread_over_seeds("mean", [0, 0], [[1.0, 1.0], [3.0, 3.0]])  # equal examples, seeds 1 and 3
    >>> found.mean, round(found.deviation, 4), round(found.one_low, 4), round(found.one_high, 4)
    (2.0, 1.4142, 0.5858, 3.4142)
    """
    right, sides = np.asarray(gold, dtype=float), [np.asarray(values, dtype=float)]
    sides += [] if earlier is None else [np.asarray(earlier, dtype=float)]
    seeds, examples = sides[0].shape

    def by_seed(drawn: Integers) -> Floats:  # (rows, examples) -> (rows, seeds)
        if name == "mean":
            computed = [_counts(drawn) @ side.T / examples for side in sides]
        else:
            computed = [
                np.stack([STATISTICS[name](right[drawn], each[drawn]) for each in side], axis=1) for side in sides
            ]
        return np.asarray(computed[0] - computed[1] if len(computed) > 1 else computed[0])

    own = by_seed(np.arange(examples)[None, :])[0]  # (seeds,)
    resamples, at_once = (RESAMPLES, AT_ONCE) if name == "mean" else (resample_count(examples), CELLS)
    rng = np.random.default_rng([SEED, 1])
    means, ones = [], []
    for drawn in _resamples(examples, resamples, at_once):
        found = by_seed(drawn)
        center = found.mean(axis=1, keepdims=True)
        picked = rng.integers(0, seeds, size=found.shape)
        deviations = np.take_along_axis(math.sqrt(seeds / (seeds - 1)) * (found - center), picked, axis=1)
        means.append(center[:, 0] + deviations.mean(axis=1))
        ones.append(center[:, 0] + deviations[:, 0])
    deviation = float(own.std(ddof=1))
    return Spread(float(own.mean()), deviation, float(own.min()), float(own.max()), *_ends(means), *_ends(ones))


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


def _ends(found: Sequence[Floats]) -> tuple[float, float]:
    """95% percentile interval of the finite numbers; NaN where there are none."""
    numbers = np.concatenate(found)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return math.nan, math.nan
    low, high = np.quantile(numbers, _TAILS)
    return float(low), float(high)


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
