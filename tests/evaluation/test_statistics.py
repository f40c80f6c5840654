"""Statistics against scipy and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from workbench.evaluation import statistics


@pytest.mark.parametrize("queries", [12, 60, 300])
def test_the_interval_is_scipy_s_within_what_resampling_allows(queries: int) -> None:
    values = np.random.default_rng(1).random((queries, 3)) ** 2
    low, high = statistics.bootstrap_interval(values)
    for column in range(3):
        theirs = stats.bootstrap((values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=2)
        noise = 0.04 * (high[column] - low[column])
        assert low[column] == pytest.approx(theirs.confidence_interval.low, abs=noise)
        assert high[column] == pytest.approx(theirs.confidence_interval.high, abs=noise)


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    """Drawing 0s and 1s again is drawing from a binomial distribution: 20 of 100."""
    low, high = statistics.bootstrap_interval(np.repeat([1.0, 0.0], [20, 80])[:, None])
    assert low[0] == pytest.approx(stats.binom.ppf(0.025, 100, 0.2) / 100, abs=0.0101)
    assert high[0] == pytest.approx(stats.binom.ppf(0.975, 100, 0.2) / 100, abs=0.0101)


def test_all_values_equal_give_no_width() -> None:
    low, high = statistics.bootstrap_interval(np.full((50, 1), 0.25))
    assert (low[0], high[0]) == pytest.approx((0.25, 0.25))


def test_blocks_change_nothing_but_memory() -> None:
    values = np.random.default_rng(3).random((40, 1))
    whole, parts = (statistics.bootstrap_interval(values, at_once=size) for size in (4_000_000, 4_000))
    assert np.array(parts) == pytest.approx(np.array(whole), abs=1e-12)


def test_the_same_values_give_the_same_answer() -> None:
    values = np.random.default_rng(4).random((30, 2))
    assert [each.tolist() for each in statistics.bootstrap_interval(values)] == [
        each.tolist() for each in statistics.bootstrap_interval(values)
    ]
    assert statistics.randomization_test(values - 0.5).tolist() == statistics.randomization_test(values - 0.5).tolist()


@pytest.mark.parametrize("queries", [3, 8, 13])
def test_p_of_few_queries_is_exact(queries: int) -> None:
    differences = np.random.default_rng(queries).normal(0.4, 1, size=(queries, 2))
    ours = statistics.randomization_test(differences)
    for column in range(2):
        theirs = stats.permutation_test(
            (differences[:, column],), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        assert ours[column] == pytest.approx(theirs.pvalue, abs=1e-12)


def test_p_of_many_queries_is_scipy_s_within_what_resampling_allows() -> None:
    differences = np.random.default_rng(5).normal(0.12, 1, size=(200, 1))
    theirs = stats.permutation_test(
        (differences[:, 0],), np.mean, permutation_type="samples", n_resamples=20_000, rng=6
    )
    assert 0.005 < theirs.pvalue < 0.5
    assert statistics.randomization_test(differences)[0] == pytest.approx(theirs.pvalue, abs=0.015)


def test_p_counts_ties_whatever_is_rounded() -> None:
    """Ten times 0.1 up and once 1.0 down: the sum is 0 by hand, and every exchange is at least as far."""
    assert statistics.randomization_test([*[[0.1]] * 10, [-1.0]]).tolist() == [1.0]


def test_p_without_changes_is_one_and_never_zero() -> None:
    assert statistics.randomization_test(np.zeros((50, 1))).tolist() == [1.0]
    assert statistics.randomization_test(np.ones((500, 1)))[0] == pytest.approx(1 / 10_001)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2 and 0.04 x 1, each at least as large as the one before, at most 1."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_queries_needed_reach_the_power_that_they_promise() -> None:
    """A z test with that many queries finds 0.01 in 80% of cases."""
    differences = np.random.default_rng(7).normal(0, 0.2, size=(5000, 1))
    (needed,) = statistics.queries_needed(differences)
    assert needed is not None
    spread = differences.std(ddof=1) / math.sqrt(needed)
    power = stats.norm.sf(stats.norm.ppf(0.975) - 0.01 / spread) + stats.norm.cdf(
        -stats.norm.ppf(0.975) - 0.01 / spread
    )
    assert power == pytest.approx(0.8, abs=0.001)
    assert statistics.queries_needed([[0.0], [0.0]]) == [None]
    assert statistics.queries_needed([[0.5]]) == [None]


# --- statistics that are not means ------------------------------------------------------------------------------------


def scored(items: int = 300, seed: int = 11) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gold in six steps, and the scores of two models, the second nearer to it; some scores are equal."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 6, items) / 5
    before, after = gold + rng.normal(size=items), gold + 0.4 * rng.normal(size=items)
    after[5:15] = after[4]
    return gold, before, after


RESAMPLED = ("spearman", "pearson", "average_precision", "best_f1", "best_accuracy", "best_mcc", "mean")


def gold_for(name: str, gold: np.ndarray) -> np.ndarray:
    return gold if name in ("spearman", "pearson") else (gold > 0.5).astype(float)


def test_statistics_are_those_of_scipy_and_scikit_learn() -> None:
    gold, _, after = scored()
    right = (gold > 0.5).astype(int)
    assert statistics.statistic("spearman", gold, after) == pytest.approx(stats.spearmanr(gold, after)[0], abs=1e-12)
    assert statistics.statistic("pearson", gold, after) == pytest.approx(stats.pearsonr(gold, after)[0], abs=1e-12)
    expected = metrics.average_precision_score(right, after)
    assert statistics.statistic("average_precision", right, after) == pytest.approx(expected, abs=1e-12)
    cuts = [(right, after >= score) for score in after]
    best = max(cuts, key=lambda cut: metrics.f1_score(*cut))
    assert statistics.statistic("best_f1", right, after) == pytest.approx(metrics.f1_score(*best), abs=1e-12)
    assert statistics.statistic("best_mcc", right, after) == pytest.approx(metrics.matthews_corrcoef(*best), abs=1e-12)
    accuracy = max(metrics.accuracy_score(*cut) for cut in cuts)
    assert statistics.statistic("best_accuracy", right, after) == pytest.approx(accuracy, abs=1e-12)


@pytest.mark.parametrize("name", RESAMPLED)
def test_rows_are_resamples(name: str) -> None:
    gold, _, after = scored()
    right = gold_for(name, gold)
    drawn = np.random.default_rng(0).integers(0, len(gold), (3, len(gold)))
    expected = [statistics.statistic(name, right[row], after[row]) for row in drawn]
    assert statistics.STATISTICS[name](right[drawn], after[drawn]) == pytest.approx(expected, abs=1e-12)


def test_the_mean_of_groups_weighs_groups_equally() -> None:
    """Group 0: 1, 0, 0; group 1: 1. The mean of 1/3 and 1, not 2/4."""
    assert statistics.statistic("mean_of_groups", [0, 0, 0, 1], [1, 0, 0, 1]) == pytest.approx(2 / 3, abs=1e-12)


def test_the_interval_of_a_correlation_is_scipy_s_within_what_resampling_allows() -> None:
    gold, _, after = scored()
    low, high = statistics.statistic_interval("spearman", gold, after)
    theirs = stats.bootstrap(
        (gold, after),
        lambda a, b: stats.spearmanr(a, b)[0],
        paired=True, vectorized=False, n_resamples=2_000, method="percentile", rng=2,
    ).confidence_interval  # fmt: skip
    assert low == pytest.approx(theirs.low, abs=0.1 * (high - low))
    assert high == pytest.approx(theirs.high, abs=0.1 * (high - low))


def test_a_mean_as_a_statistic_has_the_interval_and_p_of_a_mean() -> None:
    _, before, after = scored(60)
    after = before + (after - before) / 10
    found = statistics.paired_statistic("mean", np.zeros(60), before, after)
    (low,), (high,) = statistics.bootstrap_interval((after - before)[:, None])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert found.p == pytest.approx(statistics.randomization_test((after - before)[:, None])[0], abs=0.03)
    needed = statistics.queries_needed((after - before)[:, None])[0]
    assert needed is not None
    assert found.needed == pytest.approx(needed, rel=0.1)


@pytest.mark.parametrize("name", RESAMPLED)
def test_a_model_compared_with_itself_shows_nothing(name: str) -> None:
    gold, before, _ = scored()
    found = statistics.paired_statistic(name, gold_for(name, gold), before, before)
    assert (found.low, found.high, found.p, found.needed) == (0.0, 0.0, 1.0, None)


def test_a_gain_is_significant_and_a_change_of_scale_is_not() -> None:
    gold, before, after = scored()
    found = statistics.paired_statistic("spearman", gold, before, after)
    assert found.p < 0.01
    assert 0 < found.low < found.high
    for name in ("spearman", "pearson"):
        scaled = statistics.paired_statistic(name, gold, before, 100 * before + 3)
        assert scaled.p == 1.0, name
        assert (scaled.low, scaled.high) == pytest.approx((0.0, 0.0), abs=1e-9)


@pytest.mark.parametrize("name", ["spearman", "pearson", "average_precision"])
def test_p_is_uniform_under_the_null(name: str) -> None:
    """Two models of the same quality: p below 0.1 in about one of ten comparisons (binomial, 3 standard errors)."""
    below = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        gold = rng.integers(0, 6, 50) / 5
        sides = [gold + rng.normal(size=50) for _ in range(2)]
        right = gold_for(name, gold)
        below += statistics.paired_statistic(name, right, sides[0], 9 * sides[1], resamples=200).p < 0.1
    assert 1 <= below <= 19


def test_constant_values_have_no_statistic() -> None:
    assert math.isnan(statistics.statistic("spearman", [1, 1, 1], [1, 2, 3]))
    assert all(math.isnan(end) for end in statistics.statistic_interval("pearson", [1, 2, 3], [0.3, 0.3, 0.3]))
    assert math.isnan(statistics.statistic("average_precision", [0, 0], [1, 2]))


def test_agreement_by_hand() -> None:
    assert statistics.agreement("pearson", [1, 2, 3], [0.3, 0.2, 0.1]).tolist() == [0.0, 1.0, 0.0]
    assert statistics.agreement("average_precision", [1, 0, 1], [0.9, 0.5, 0.1]).tolist() == [1.0, 0.5, 0.0]
    assert statistics.agreement("mean", [0, 0], [0.4, 0.2]).tolist() == [0.4, 0.2]


def test_two_thousand_resamples_of_two_thousand_items_take_seconds() -> None:
    """Under two seconds on the machine that it was written on; ten are given here to slower ones."""
    import time

    gold, before, after = scored(2_000)
    started = time.monotonic()
    statistics.paired_statistic("spearman", gold, before, after)
    assert time.monotonic() - started < 10
