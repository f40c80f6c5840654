"""Statistics against scipy and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from workbench import intervals


@pytest.mark.parametrize("queries", [12, 60, 300])
def test_the_interval_is_scipy_s_within_what_resampling_allows(queries: int) -> None:
    values = np.random.default_rng(1).random((queries, 3)) ** 2
    low, high = intervals.bootstrap_interval(values)
    for column in range(3):
        theirs = stats.bootstrap((values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=2)
        noise = 0.04 * (high[column] - low[column])
        assert low[column] == pytest.approx(theirs.confidence_interval.low, abs=noise)
        assert high[column] == pytest.approx(theirs.confidence_interval.high, abs=noise)


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    """Drawing 0s and 1s again is drawing from a binomial distribution: 20 of 100."""
    low, high = intervals.bootstrap_interval(np.repeat([1.0, 0.0], [20, 80])[:, None])
    assert low[0] == pytest.approx(stats.binom.ppf(0.025, 100, 0.2) / 100, abs=0.0101)
    assert high[0] == pytest.approx(stats.binom.ppf(0.975, 100, 0.2) / 100, abs=0.0101)


def test_all_values_equal_give_no_width() -> None:
    low, high = intervals.bootstrap_interval(np.full((50, 1), 0.25))
    assert (low[0], high[0]) == pytest.approx((0.25, 0.25))


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws are another order of the same generator, so the ends agree within noise."""
    values = np.random.default_rng(3).random((40, 1))
    whole = intervals.bootstrap_interval(values)
    monkeypatch.setattr(intervals, "AT_ONCE", 400)
    parts = intervals.bootstrap_interval(values)
    assert parts[0] == pytest.approx(whole[0], abs=0.01)
    assert parts[1] == pytest.approx(whole[1], abs=0.01)


def test_the_same_values_give_the_same_answer() -> None:
    values = np.random.default_rng(4).random((30, 2))
    assert [each.tolist() for each in intervals.bootstrap_interval(values)] == [
        each.tolist() for each in intervals.bootstrap_interval(values)
    ]
    assert intervals.randomisation_p(values - 0.5).tolist() == intervals.randomisation_p(values - 0.5).tolist()


@pytest.mark.parametrize("queries", [3, 8, 13])
def test_p_of_few_queries_is_exact(queries: int) -> None:
    differences = np.random.default_rng(queries).normal(0.4, 1, size=(queries, 2))
    ours = intervals.randomisation_p(differences)
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
    assert intervals.randomisation_p(differences)[0] == pytest.approx(theirs.pvalue, abs=0.015)


def test_p_counts_ties_whatever_is_rounded() -> None:
    """Ten times 0.1 up and once 1.0 down: the sum is 0 by hand, and every exchange is at least as far."""
    assert intervals.randomisation_p([*[[0.1]] * 10, [-1.0]]).tolist() == [1.0]


def test_p_of_nothing_moved_is_one_and_is_never_zero() -> None:
    assert intervals.randomisation_p(np.zeros((50, 1))).tolist() == [1.0]
    assert intervals.randomisation_p(np.ones((500, 1)))[0] == pytest.approx(1 / 10_001)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2 and 0.04 x 1, each at least as large as the one before, at most 1."""
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.9, 0.8]) == [1.0, 1.0]
    assert intervals.holm([]) == []


def test_queries_needed_reach_the_power_that_they_promise() -> None:
    """A z test with that many queries finds 0.01 in 80 % of cases."""
    differences = np.random.default_rng(7).normal(0, 0.2, size=(5000, 1))
    (needed,) = intervals.queries_needed(differences)
    assert needed is not None
    spread = differences.std(ddof=1) / math.sqrt(needed)
    power = stats.norm.sf(stats.norm.ppf(0.975) - 0.01 / spread) + stats.norm.cdf(
        -stats.norm.ppf(0.975) - 0.01 / spread
    )
    assert power == pytest.approx(0.8, abs=0.001)
    assert intervals.queries_needed([[0.0], [0.0]]) == [None]
    assert intervals.queries_needed([[0.5]]) == [None]
