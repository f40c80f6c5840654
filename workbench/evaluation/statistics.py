"""How far a number over queries can be trusted: bootstrap intervals, a paired randomisation test, Holm's correction.

For means, functions take one value per query and metric, `(queries, metrics)`, and answer per metric. Queries are what
is drawn again: the same draw serves all metrics, so differences between metrics stay paired. Everything is drawn with
a fixed seed, so the same values give the same answer.

A rank correlation, an average precision or an F1 is no mean over its items. Such a number is one of `STATISTICS`:
a function of what is right and what the model gave, for many resamples at once, and is computed anew for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    means = np.empty((resamples, table.shape[1]))
    for start, counts in _draws(queries, resamples, seed, AT_ONCE):
        means[start : start + len(counts)] = counts @ table / queries
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def randomization_test(differences: Any, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Two-sided p of each column's mean difference under random exchange of the two sides, query by query.

    All exchanges are tried where there are at most 2^13, otherwise `resamples` random ones and the one that was seen.

    >>> randomization_test([[1.0], [2.0], [3.0]]).tolist()  # 2 of 8 exchanges are as far from 0
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


def first_proportional(differences: Any) -> list[int]:
    """For each column the first one that it is but for a positive factor, itself where there is none before it.

    Accuracy, precision and recall at 1 are one number, and at any k where a query has one answer they are one but for a
    factor: a test of each is the same test.

    >>> first_proportional([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0], [-1.0, -0.5, 0.0]])
    [0, 0, 2]
    """
    table = np.asarray(differences, dtype=float)
    table = table / np.maximum(np.abs(table).max(axis=0, initial=0.0), np.finfo(float).tiny)
    alike = [np.isclose(table[:, :at], table[:, [at]], rtol=0, atol=1e-9).all(axis=0) for at in range(table.shape[1])]
    return [int(each.argmax()) if each.any() else at for at, each in enumerate(alike)]


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
    spread = table.std(axis=0, ddof=1)
    return [math.ceil((_reach(power) * each / effect) ** 2) if each > 0 else None for each in spread.tolist()]


def _reach(power: float) -> float:
    """Standard errors that an effect must be away from 0 to be found with this probability."""
    normal = NormalDist()
    return normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(power)


def _steps(resamples: int, queries: int, at_once: int = AT_ONCE) -> Iterator[tuple[int, int]]:
    step = max(1, at_once // max(queries, 1))
    yield from ((start, min(start + step, resamples)) for start in range(0, resamples, step))


def _draws(queries: int, resamples: int, seed: int, at_once: int) -> Iterator[tuple[int, Floats]]:
    """Blocks of resamples with the number of the first: (rows, queries) how often each query was drawn."""
    rng = np.random.default_rng(seed)
    for start, stop in _steps(resamples, queries, at_once):
        rows = stop - start
        drawn = rng.integers(0, queries, size=(rows, queries)) + np.arange(rows)[:, None] * queries
        counts = np.bincount(drawn.ravel(), minlength=rows * queries).reshape(rows, queries)
        yield start, counts.astype(float)


# --- statistics that are not means ----------------------------------------------------------------------------------
#
# gold (items,), values (1 or rows, items), counts (1 or rows, items) -> (rows,): a row is one resample, in which item i
# is there counts[row, i] times. A drawn item needs no sorting of its own: the order of the values stays, and ranks and
# thresholds follow from sums of counts along it.


def spearman(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Rank correlation, equal values sharing their mean rank; NaN where one side does not vary.

    >>> one = np.ones((1, 4))
    >>> spearman(np.array([1.0, 2, 3, 4]), np.array([[1.0, 3, 2, 4]]), one).round(6).tolist()
    [0.8]
    """
    return pearson(_ranks(gold[None, :], counts), _ranks(values, counts), counts)


def pearson(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Linear correlation; NaN where one side does not vary."""
    total = counts.sum(axis=1, keepdims=True)
    x = gold - (counts * gold).sum(axis=1, keepdims=True) / total  # (rows, items)
    y = values - (counts * values).sum(axis=1, keepdims=True) / total
    product, left, right = ((counts * each).sum(axis=1) for each in (x * y, x * x, y * y))
    sizes = [(counts * each * each).sum(axis=1) for each in (gold, values)]
    none = (left <= NOTHING * sizes[0]) | (right <= NOTHING * sizes[1])  # one side does not vary, but for rounding
    spread = np.sqrt(left * right)
    return np.where(none, np.nan, product / np.where(none, 1.0, spread))


def average_precision(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Mean precision at the places of the items with gold 1, best value first; NaN where there are none."""
    found, seen, positives, _ = _thresholds(gold, values, counts)
    steps = np.diff(found, axis=1, prepend=0.0)  # (rows, items) items with gold 1 that a threshold lets in
    precision = found / np.where(seen > 0, seen, 1.0)
    return np.where(positives > 0, (steps * precision).sum(axis=1) / np.where(positives > 0, positives, 1.0), np.nan)


def best_accuracy(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Share of items on the right side of the best threshold, chosen anew for each resample."""
    found, seen, _, negatives = _thresholds(gold, values, counts)
    right = np.maximum((2 * found - seen).max(axis=1), 0.0) + negatives  # no item above the threshold: 0
    return np.asarray(right / _sizes(values, counts))


def best_f1(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """F1 at the best threshold, chosen anew for each resample."""
    return _at_best_f1(gold, values, counts)[0]


def best_precision(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Precision at the threshold of the best F1."""
    return _at_best_f1(gold, values, counts)[1]


def best_recall(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Recall at the threshold of the best F1."""
    return _at_best_f1(gold, values, counts)[2]


def best_mcc(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Matthews correlation at the threshold of the best F1; 0 where a side of it is empty."""
    found, seen, positives, negatives = _thresholds(gold, values, counts)
    _, _, _, place = _at_best_f1(gold, values, counts)
    rows = np.arange(len(found))
    hit, said = found[rows, place], seen[rows, place]  # true positives, items above the threshold
    wrong, missed = said - hit, positives - hit
    kept = negatives - wrong  # true negatives
    sides = said * positives * negatives * (kept + missed)
    return np.where(sides > 0, (hit * kept - wrong * missed) / np.sqrt(np.where(sides > 0, sides, 1.0)), 0.0)


def f1_macro(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Mean over classes of F1; `values` are the classes that were predicted."""
    scores, there, _ = _f1_of_classes(gold, values, counts)
    return np.asarray((scores * there).sum(axis=0) / there.sum(axis=0))


def f1_micro(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """F1 over all decisions, which is the share of right ones."""
    right = (values == gold) * counts
    return np.asarray(right.sum(axis=1) / _sizes(values, counts))


def f1_weighted(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Mean over classes of F1, each weighing as many items as it has."""
    scores, _, sizes = _f1_of_classes(gold, values, counts)
    return np.asarray((scores * sizes).sum(axis=0) / sizes.sum(axis=0))


def mean(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Mean of the values; `gold` is not looked at."""
    return np.asarray((counts * values).sum(axis=1) / _sizes(values, counts))


def mean_of_groups(gold: Floats, values: Floats, counts: Floats) -> Floats:
    """Mean over groups of the mean in each; `gold` is the number of an item's group."""
    means = []
    for group in np.unique(gold):
        inside = counts[:, gold == group] + 0 * values[:, gold == group]
        size = inside.sum(axis=1)
        means.append(np.where(size > 0, (inside * values[:, gold == group]).sum(axis=1) / np.maximum(size, 1), np.nan))
    return np.asarray(np.nanmean(np.stack(means), axis=0), dtype=float)


Statistic = Callable[[Any, Any, Any], Any]

STATISTICS: Mapping[str, Statistic] = {
    each.__name__: each
    for each in (
        spearman, pearson, average_precision, best_accuracy, best_f1, best_precision, best_recall, best_mcc,
        f1_macro, f1_micro, f1_weighted, mean, mean_of_groups,
    )
}  # fmt: skip
"""Name, as a run keeps it, -> function."""

OF_THRESHOLDS = ("average_precision", "best_accuracy", "best_f1", "best_precision", "best_recall", "best_mcc")
OF_CLASSES = ("f1_macro", "f1_micro", "f1_weighted")
MEANS = ("mean", "mean_of_groups")

DRAWS = 2_000  # resamples of a statistic that is computed anew for each, of up to MOST / DRAWS items
FEWEST = 200  # ... and of any number of items: many items leave little to chance
MOST = 40_000_000  # items in all resamples together: about half a minute
NOTHING = 1e-24  # share of a sum of squares that is rounding
CELLS = 500_000  # numbers of one array at once: small enough for the processor's cache


@dataclass(frozen=True)
class Paired:
    """What can be said about the change of a statistic, the same items before and after."""

    low: float  # 95 % interval of after - before
    high: float
    p: float  # two-sided
    needed: int | None  # items with which a change of 0.01 would be told from 0; see `queries_needed`


def statistic(name: str, gold: Any, values: Any) -> float:
    """One of `STATISTICS` for items as they are.

    >>> round(statistic("average_precision", [1, 0, 1], [0.9, 0.8, 0.7]), 4)  # (1 + 2/3) / 2
    0.8333
    """
    right, given = np.asarray(gold, dtype=float), np.asarray(values, dtype=float)[None, :]
    return float(STATISTICS[name](right, given, np.ones(given.shape))[0])


def draws(items: int) -> int:
    """How many resamples of so many items are computed.

    >>> draws(150), draws(20_000), draws(100_000), draws(1_000_000)
    (2000, 2000, 400, 200)
    """
    return min(DRAWS, max(FEWEST, MOST // max(items, 1)))


def statistic_interval(
    name: str, gold: Any, values: Any, *, resamples: int | None = None, seed: int = SEED
) -> tuple[float, float]:
    """95 % percentile bootstrap interval over items; resamples in which the statistic is not defined are left out."""
    right, given = np.asarray(gold, dtype=float), np.asarray(values, dtype=float)[None, :]
    resamples = resamples or draws(len(right))
    found = np.empty(resamples)
    for start, counts in _draws(len(right), resamples, seed, CELLS):
        found[start : start + len(counts)] = STATISTICS[name](right, given, counts)
    return _ends(found)


def paired_statistic(
    name: str,
    gold: Any,
    before: Any,
    after: Any,
    *,
    resamples: int | None = None,
    seed: int = SEED,
    effect: float = 0.01,
) -> Paired:
    """Interval and test of after - before.

    The interval draws items, each with both its values. The test exchanges the two values of items at random. Two
    models' scores need not share a scale, so what is exchanged are ranks (for Pearson: scores brought to mean 0 and
    deviation 1), each among its own model's; means and classes are exchanged as they are.
    """
    right = np.asarray(gold, dtype=float)
    resamples = resamples or draws(len(right))
    sides = [np.asarray(side, dtype=float)[None, :] for side in (before, after)]
    compute = STATISTICS[name]
    moved = np.empty(resamples)
    for start, counts in _draws(len(right), resamples, seed, CELLS):
        moved[start : start + len(counts)] = compute(right, sides[1], counts) - compute(right, sides[0], counts)
    low, high = _ends(moved)
    spread = float(np.nanstd(moved, ddof=1)) * math.sqrt(len(right)) if np.isfinite(moved).sum() > 1 else 0.0
    needed = math.ceil((_reach(0.8) * spread / effect) ** 2) if spread > 0 else None
    first, last = (_one_scale(name, side) for side in sides)
    one = np.ones(first.shape)
    seen = abs(float(compute(right, last, one)[0] - compute(right, first, one)[0]))
    rng = np.random.default_rng(seed)
    as_far = 1
    for start, stop in _steps(resamples, len(right), CELLS):
        swap = rng.integers(0, 2, size=(stop - start, len(right))).astype(bool)
        change = compute(right, np.where(swap, first, last), one) - compute(right, np.where(swap, last, first), one)
        as_far += int((np.abs(change) >= seen - 1e-12).sum())
    return Paired(low, high, as_far / (resamples + 1), needed)


def agreement(name: str, gold: Any, values: Any) -> Floats:
    """How right each item is, 0 to 1, for showing which ones moved; means give the values themselves.

    A score: 1 minus the distance of its rank to that of its gold score, over the greatest distance there can be. A
    label: the share of ranks below it where it is 1, above it where it is 0. A class: whether it is the right one.

    >>> agreement("spearman", [1, 2, 3], [0.1, 0.9, 0.5]).tolist()
    [1.0, 0.5, 0.5]
    """
    right, given = np.asarray(gold, dtype=float), np.asarray(values, dtype=float)
    if name in MEANS:
        return np.asarray(given)
    if name in OF_CLASSES:
        return np.asarray(given == right, dtype=float)
    one, last = np.ones((1, len(given))), max(len(given) - 1, 1)
    ranks = _ranks(given[None, :], one)[0]  # (items,) 1 is lowest
    if name in OF_THRESHOLDS:
        share = (ranks - 1) / last
        return np.asarray(np.where(right == 1, share, 1 - share))
    return np.asarray(1 - np.abs(ranks - _ranks(right[None, :], one)[0]) / last, dtype=float)


@dataclass(frozen=True)
class Spread:
    """One number over several trainings that differ by their seed alone, all measured on the same items."""

    mean: float  # over seeds
    deviation: float  # standard deviation between seeds, n - 1
    lowest: float
    highest: float
    low: float  # 95 % interval of the mean, items and seeds drawn again
    high: float
    one_low: float  # 95 % interval of a single training, which is what a card's number comes from
    one_high: float


def spread_over_seeds(
    name: str, gold: Any, values: Any, earlier: Any = None, *, resamples: int | None = None, seed: int = SEED
) -> Spread:
    """What seeds and items together leave uncertain, by a bootstrap on two levels.

    `values` are (seeds, items), 2 seeds at least; with `earlier`, of the same shape, the number is the change from it.
    Each resample draws items, the same ones for every seed, computes the number for each seed on them, and then draws
    seeds. Deviations between seeds are widened by sqrt(n / (n - 1)), because n drawn of n vary too little. With fewer
    than about ten seeds the tails stay too light: five seeds cannot show a rare one.

    >>> found = spread_over_seeds("mean", [0, 0], [[1.0, 1.0], [3.0, 3.0]])  # items all alike, seeds 1 and 3
    >>> found.mean, round(found.deviation, 4), round(found.one_low, 4), round(found.one_high, 4)
    (2.0, 1.4142, 0.5858, 3.4142)
    """
    right, after = np.asarray(gold, dtype=float), np.asarray(values, dtype=float)
    before = None if earlier is None else np.asarray(earlier, dtype=float)
    seeds, items = after.shape
    one = np.ones((1, items))
    found = np.array([_of_seeds(name, right, each, one)[0] for each in _sides(after, before)])
    own = found[0] - (found[1] if before is not None else 0.0)  # (seeds,)
    resamples = resamples or (RESAMPLES if name == "mean" else draws(items))
    rng = np.random.default_rng([seed, 1])
    means, ones = np.empty(resamples), np.empty(resamples)
    widened = math.sqrt(seeds / (seeds - 1))
    for start, counts in _draws(items, resamples, seed, AT_ONCE if name == "mean" else CELLS):
        parts = [_of_seeds(name, right, each, counts) for each in _sides(after, before)]
        drawn = parts[0] - (parts[1] if before is not None else 0.0)  # (rows, seeds)
        centre = drawn.mean(axis=1)
        away = widened * (drawn - centre[:, None])
        rows = np.arange(len(drawn))[:, None]
        picked = rng.integers(0, seeds, size=drawn.shape)
        means[start : start + len(drawn)] = centre + away[rows, picked].mean(axis=1)
        ones[start : start + len(drawn)] = centre + away[rows[:, 0], picked[:, 0]]
    deviation = float(own.std(ddof=1))
    return Spread(float(own.mean()), deviation, float(own.min()), float(own.max()), *_ends(means), *_ends(ones))


def _sides(after: Floats, before: Floats | None) -> tuple[Floats, ...]:
    return (after,) if before is None else (after, before)


def _of_seeds(name: str, gold: Floats, values: Floats, counts: Floats) -> Floats:
    """(rows, seeds) a statistic of each seed's values, the items drawn `counts` times."""
    if name == "mean":
        return np.asarray(counts @ values.T / counts.sum(axis=1, keepdims=True))
    return np.stack([STATISTICS[name](gold, each[None, :], counts) for each in values], axis=1)


def best_thresholds(labels: Sequence[float], scores: Any) -> tuple[float, float]:
    """The lowest score that counts as 1, for the best accuracy and for the best F1: half-way to the next lower one."""
    order = np.argsort(-scores, kind="stable")
    ordered, gold = scores[order], np.asarray(labels, dtype=float)[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last place of each score
    found, seen = gold.cumsum()[ends], ends + 1.0
    middles = [_middle(ordered, int(end)) for end in ends]
    right = (found + (len(gold) - gold.sum()) - (seen - found)) / len(gold)
    none = (len(gold) - gold.sum()) / len(gold)  # all below the threshold
    above = float(np.nextafter(ordered[0], np.float32(np.inf), dtype=np.float32))
    accuracy = middles[int(right.argmax())] if right.max() > none else above
    if not gold.sum():
        return accuracy, 0.0
    precision, recall = found / seen, found / gold.sum()
    f1 = 2 * precision * recall / np.where(found > 0, precision + recall, 1.0)
    return accuracy, middles[int(f1.argmax())]


def _middle(ordered: Any, end: int) -> float:
    """Half-way between a score and the next lower one, in the scores' own precision."""
    if end == len(ordered) - 1:
        return float(ordered[end])
    middle = (ordered[end] + ordered[end + 1]) / 2
    return float(ordered[end] if middle == ordered[end + 1] else middle)


def _sizes(values: Floats, counts: Floats) -> Floats:
    """(rows,) number of items drawn."""
    return np.asarray(np.broadcast_to(counts, np.broadcast_shapes(counts.shape, values.shape)).sum(axis=1))


def _ends(found: Floats) -> tuple[float, float]:
    kept = found[np.isfinite(found)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _one_scale(name: str, values: Floats) -> Floats:
    """(1, items) values that two models can exchange; see `paired_statistic`."""
    if name in MEANS or name in OF_CLASSES:
        return values
    if name == "pearson":
        spread = float(values.std())
        return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))
    return _ranks(values, np.ones(values.shape))


def _along(values: Floats) -> tuple[Any, Any, Any]:
    """Order of the values, lowest first, and for each place in it the first and last place with an equal value."""
    order = np.argsort(values, axis=1, kind="stable")  # (1 or rows, items)
    ordered = np.take_along_axis(values, order, axis=1)
    items = ordered.shape[1]
    new = np.ones(ordered.shape, dtype=bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    places = np.broadcast_to(np.arange(items), ordered.shape)
    first = np.maximum.accumulate(np.where(new, places, 0), axis=1)
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, places, items)[:, ::-1], axis=1)[:, ::-1]
    return order, first, last


def _take(table: Floats, places: Any) -> Floats:
    """`table` (1 or rows, items) at `places` (1 or rows, items)."""
    return np.asarray(table[:, places[0]] if len(places) == 1 else np.take_along_axis(table, places, axis=1))


def _ranks(values: Floats, counts: Floats) -> Floats:
    """(rows, items) rank of each item among those that were drawn, 1 is lowest; equal values share their mean rank."""
    order, first, last = _along(values)
    if len(counts) < len(order):
        counts = np.broadcast_to(counts, values.shape)
    drawn = _take(counts, order)
    up_to = drawn.cumsum(axis=1)
    middle = (_take(up_to, first) - _take(drawn, first) + _take(up_to, last) + 1) / 2
    ranks = np.empty(middle.shape)
    np.put_along_axis(ranks, np.broadcast_to(order, middle.shape), middle, axis=1)
    return ranks


def _thresholds(gold: Floats, values: Floats, counts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """For a threshold below each item, best value first: items with gold 1 above it, and all above it, both
    (rows, items), where equal values are let in together; then all items with gold 1 and with gold 0, both (rows,).
    """
    order, _, last = _along(-values)
    if len(counts) < len(order):
        counts = np.broadcast_to(counts, values.shape)
    drawn = _take(counts, order)
    found = _take((drawn * gold[order]).cumsum(axis=1), last)
    seen = _take(drawn.cumsum(axis=1), last)
    return found, seen, found[:, -1], seen[:, -1] - found[:, -1]


def _at_best_f1(gold: Floats, values: Floats, counts: Floats) -> tuple[Floats, Floats, Floats, Any]:
    """Best F1, its precision and recall, and the place of its threshold; the first of several equal ones."""
    found, seen, positives, _ = _thresholds(gold, values, counts)
    precision = found / np.where(seen > 0, seen, 1.0)
    recall = found / np.where(positives > 0, positives, 1.0)[:, None]
    both = precision + recall
    f1 = 2 * precision * recall / np.where(both > 0, both, 1.0)
    place = f1.argmax(axis=1)
    rows = np.arange(len(f1))
    return f1[rows, place], precision[rows, place], recall[rows, place], place


def _f1_of_classes(gold: Floats, values: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """F1 of each class, whether it occurs at all, and its size; all (classes, rows)."""
    scores, there, sizes = [], [], []
    for label in np.union1d(gold, values):
        is_gold, is_said = gold == label, values == label
        hit, size, said = (_sizes(values, counts * each) for each in (is_gold & is_said, is_gold[None, :], is_said))
        both = size + said
        scores.append(np.where(both > 0, 2 * hit / np.where(both > 0, both, 1.0), 0.0))
        there.append((both > 0).astype(float))
        sizes.append(size)
    return np.stack(scores), np.stack(there), np.stack(sizes)
