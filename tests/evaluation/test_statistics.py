"""Statistics against scipy and hand calculation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from workbench.evaluation import statistics


@pytest.mark.parametrize("queries", [12, 60, 300])
def test_the_interval_is_scipy_s_within_what_resampling_allows(queries: int) -> None:
    values = np.random.default_rng(1).random((queries, 3)) ** 4  # skewed: the plain percentiles are elsewhere
    low, high = statistics.mean_intervals(values)
    theirs = stats.bootstrap((values.T,), np.mean, axis=1, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    for column in range(3):
        noise = 0.04 * (high[column] - low[column])
        assert low[column] == pytest.approx(theirs.low[column], abs=noise)
        assert high[column] == pytest.approx(theirs.high[column], abs=noise)


def test_the_interval_of_a_share_is_wilson_s() -> None:
    """20 of 100, by hand: (p + z^2/2n -+ z sqrt(pq/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96."""
    low, high = statistics.mean_intervals(np.repeat([1.0, 0.0], [20, 80])[:, None])
    assert (low[0], high[0]) == pytest.approx((0.13337, 0.28883), abs=2e-5)
    signed, _ = statistics.mean_intervals(np.repeat([1.0, 0.0], [20, 80])[:, None], signed=True)
    assert signed[0] != pytest.approx(low[0], abs=1e-4)  # differences of 0 and 1 are no share


@pytest.mark.parametrize("queries", [1, 20, 400])
def test_equal_values_have_the_exact_binomial_interval(queries: int) -> None:
    ends = np.array(statistics.mean_intervals(np.tile([0.0, 1.0], (queries, 1))))  # (ends, metrics)
    for column, count in enumerate((0, queries)):
        exact = stats.binomtest(count, queries).proportion_ci(0.95, "exact")
        assert ends[:, column] == pytest.approx([exact.low, exact.high], abs=1e-12)


def test_other_equal_values_allow_for_the_rarest_other_values() -> None:
    """Of 50 queries none was another in 97.5% of samples if less than this share is: 0 or 1 (-1 for differences)."""
    share = 1 - 0.025 ** (1 / 50)
    low, high = statistics.mean_intervals(np.full((50, 1), 0.25))
    assert (low[0], high[0]) == pytest.approx((0.25 * (1 - share), 0.25 * (1 - share) + share), abs=1e-12)
    low, high = statistics.mean_intervals(np.zeros((50, 1)), signed=True)
    assert (low[0], high[0]) == pytest.approx((-share, share), abs=1e-12)
    low, high = statistics.mean_intervals(np.full((50, 1), 3.0))  # no share: a squared error
    assert low[0] < 3.0 <= high[0]


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((40, 2))
    whole = statistics.mean_intervals(values)
    monkeypatch.setattr(statistics, "AT_ONCE", 4_000)
    assert np.array(statistics.mean_intervals(values)) == pytest.approx(np.array(whole), abs=1e-12)


def test_the_same_values_give_the_same_answer() -> None:
    values = np.random.default_rng(4).random((30, 2))
    assert np.array_equal(statistics.mean_intervals(values), statistics.mean_intervals(values))
    assert statistics.randomization_test(values - 0.5).tolist() == statistics.randomization_test(values - 0.5).tolist()
    assert statistics.max_t_factor(values, 5) == statistics.max_t_factor(values, 5)


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


def test_max_t_by_trying_all_exchanges() -> None:
    """Seven queries, of which two have no difference at all, and three metrics: 2^7 exchanges in plain Python."""
    table = np.random.default_rng(8).normal(0.5, 1, size=(7, 3)) * [1.0, 10.0, 0.1]
    table[:2] = 0
    errors = np.sqrt((table**2).sum(axis=0))
    largest = [max(abs(np.array(signs) @ table) / errors) for signs in itertools.product((1, -1), repeat=7)]
    expected = [np.mean([each >= own - 1e-9 for each in largest]) for own in abs(table.sum(axis=0)) / errors]
    assert statistics.max_t(table) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("queries", [9, 200])
def test_max_t_counts_proportional_metrics_once(queries: int) -> None:
    differences = np.random.default_rng(9).normal(0.2, 1, size=(queries, 1)) * [1.0, 0.25, 5.0]
    alone = statistics.randomization_test(differences[:, :1])[0]
    assert statistics.max_t(differences) == pytest.approx([alone] * 3, abs=1e-12)
    assert statistics.max_t(np.hstack([differences, np.zeros((queries, 1))])) == pytest.approx([alone] * 3 + [1.0])


def test_max_t_of_independent_metrics_is_nearly_sidak_s() -> None:
    """The probability that the smallest of 5 independent p-values is p: 1 - (1 - p)^5."""
    differences = np.random.default_rng(10).normal(0.15, 1, size=(300, 5))
    alone, together = statistics.randomization_test(differences), statistics.max_t(differences)
    assert alone.min() < 0.05
    assert together == pytest.approx(1 - (1 - alone) ** 5, abs=0.02)


def test_max_t_keeps_the_family_wise_error_rate() -> None:
    """No metric has a change: some p is below 0.05 in 5% of comparisons (400 of them, 3 standard errors: 3.3%)."""
    rng = np.random.default_rng(11)
    mixed = np.eye(6) + 0.7  # correlated metrics
    below = sum(statistics.max_t(rng.normal(size=(10, 6)) @ mixed).min() < 0.05 for _ in range(400))
    assert 0.017 < below / 400 < 0.083


@pytest.mark.parametrize("freedom", [2, 4, 7, 30.5, 1_000])
def test_the_factor_of_one_metric_is_student_s(freedom: float) -> None:
    noise = np.random.default_rng(12).normal(size=(50, 1))
    expected = pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)
    assert statistics.max_t_factor(noise, freedom) == expected
    assert statistics.max_t_factor(noise * [1.0, 2.0, -0.1, 0.0], freedom) == expected
    assert statistics.max_t_factor(np.zeros((50, 3)), freedom) == expected
    assert statistics.max_t_factor(noise, freedom, 0.9) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-3)


def test_the_factor_of_independent_metrics_is_sidak_s() -> None:
    """Many degrees of freedom: the normal value at (1 + 0.95^(1/15)) / 2."""
    assert statistics.max_t_factor(np.eye(15), 1e6) == pytest.approx(
        stats.norm.ppf((1 + 0.95 ** (1 / 15)) / 2), rel=0.01
    )


def test_the_factor_is_that_of_the_multivariate_t() -> None:
    """Of columns with correlations (of their products) 0.9 and 0.3, by scipy's distribution function."""
    noise = np.random.default_rng(13).normal(size=(500, 3)) @ [[1.0, 0.9, 0.3], [0.0, 0.4, 0.0], [0.0, 0.0, 1.0]]
    product = noise.T @ noise
    shape = product / np.sqrt(np.outer(product.diagonal(), product.diagonal()))
    factor = statistics.max_t_factor(noise, 5)
    inside = stats.multivariate_t(shape=shape, df=5, seed=1).cdf([factor] * 3, lower_limit=[-factor] * 3)
    assert inside == pytest.approx(0.95, abs=0.002)


def test_the_factor_holds_for_signs_drawn_at_random() -> None:
    rng = np.random.default_rng(14)
    noise = rng.exponential(size=(300, 4)) - 1
    noise[:, 1] += noise[:, 0]
    signs = rng.integers(0, 2, size=(20_000, 300)) * 2.0 - 1
    sums = np.abs(signs @ noise) / np.sqrt((noise**2).sum(axis=0)) / np.sqrt(rng.chisquare(6, 20_000) / 6)[:, None]
    assert (sums.max(axis=1) <= statistics.max_t_factor(noise, 6)).mean() == pytest.approx(0.95, abs=0.006)


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
    gold, after = gold[:40], after[:40]  # so few that the plain percentiles are elsewhere
    low, high = statistics.statistic_interval("spearman", gold, after)
    theirs = stats.bootstrap(
        (gold, after),
        lambda a, b: stats.spearmanr(a, b)[0],
        paired=True, vectorized=False, n_resamples=2_000, method="BCa", rng=2,
    ).confidence_interval  # fmt: skip
    assert low == pytest.approx(theirs.low, abs=0.1 * (high - low))
    assert high == pytest.approx(theirs.high, abs=0.1 * (high - low))


def test_a_statistic_that_no_resample_changes_has_an_interval() -> None:
    """60 scores in perfect order: a share of 1 - 0.025^(1/60) of other pairs may be unlike them."""
    gold, share = np.arange(60.0), 1 - 0.025 ** (1 / 60)
    right = (gold >= 30).astype(float)
    for name, side, low in (("spearman", gold, 1 - 2 * share), ("average_precision", right, 1 - share)):
        assert statistics.statistic_interval(name, side, gold) == pytest.approx((low, 1.0), abs=1e-9), name


def test_pseudo_values_are_those_of_leaving_one_out() -> None:
    gold, _, after = scored(50)
    whole = stats.spearmanr(gold, after)[0]
    left = [stats.spearmanr(np.delete(gold, at), np.delete(after, at))[0] for at in range(50)]
    found = statistics.pseudo_values("spearman", gold, after)
    assert found == pytest.approx(50 * whole - 49 * np.array(left), abs=1e-9)
    assert statistics.pseudo_values("mean", gold, after).tolist() == after.tolist()
    assert np.isnan(statistics.pseudo_values("spearman", [1.0], [2.0])).all()


@pytest.mark.parametrize(("items", "groups"), [(1_000, 1_000), (1_501, 751), (2_000, 1_000), (30_000, 200)])
def test_many_examples_are_left_out_in_groups(items: int, groups: int) -> None:
    """A mean, taken as one group of `mean_of_groups`: its pseudo-values are the means of the groups left out."""
    values = np.random.default_rng(15).random(items)
    found = statistics.pseudo_values("mean_of_groups", np.zeros(items), values)
    assert len(found) == groups
    assert found.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert found.std(ddof=1) / groups**0.5 == pytest.approx(values.std() / items**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("spearman", 0.7, 1.3),
        ("pearson", 0.7, 1.3),
        ("average_precision", 0.7, 1.3),
        ("best_f1", 0.8, 3.0),
        ("best_accuracy", 0.8, 3.0),
        ("best_precision", 0.8, 3.5),
        ("best_recall", 0.8, 3.5),
    ],
)
def test_pseudo_values_predict_the_variance_between_seeds(name: str, least: float, most: float) -> None:
    """Seeds differ by noise in each score: mean_q Var_k(pseudo_kq) / n is the variance of the statistic over seeds.

    The standard deviation of 400 seeds is known to about 4%. At a chosen threshold the noise comes out too large, which
    makes no honest card differ.
    """
    rng = np.random.default_rng(16)
    gold = rng.integers(0, 6, 300) / 5
    right, common = gold_for(name, gold), gold + 0.6 * rng.normal(size=300)
    seeds = common + 0.1 * rng.normal(size=(400, 300))
    true = np.var([statistics.statistic(name, right, each) for each in seeds], ddof=1)
    points = np.array([statistics.pseudo_values(name, right, each) for each in seeds[:20]])
    found = points.reshape(4, 5, -1).var(axis=1, ddof=1).mean() / points.shape[1]  # of five seeds, four times
    assert least < math.sqrt(found / true) < most


def test_a_mean_as_a_statistic_has_the_interval_and_p_of_a_mean() -> None:
    _, before, after = scored(60)
    after = before + (after - before) / 10
    found = statistics.paired_statistic("mean", np.zeros(60), before, after)
    (low,), (high,) = statistics.mean_intervals((after - before)[:, None], signed=True)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert found.p == pytest.approx(statistics.randomization_test((after - before)[:, None])[0], abs=0.03)
    needed = statistics.queries_needed((after - before)[:, None])[0]
    assert needed is not None
    assert found.needed == pytest.approx(needed, rel=0.1)


@pytest.mark.parametrize("name", RESAMPLED)
def test_a_model_compared_with_itself_shows_nothing(name: str) -> None:
    gold, before, _ = scored()
    found = statistics.paired_statistic(name, gold_for(name, gold), before, before)
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / 300) - 1, 1 - 0.025 ** (1 / 300)))
    assert (found.p, found.needed) == (1.0, None)


def test_statistics_that_say_the_same_are_one_test() -> None:
    """Spearman of scores and of any increasing function of them; an unlike statistic beside them costs something."""
    gold, before, after = scored(60)
    after = before + (after - before) / 8
    same = [statistics.paired_statistic("spearman", gold, before, side) for side in (after, np.exp(after))]
    assert 0.005 < same[0].p < 0.5
    assert statistics.adjusted_p(same) == pytest.approx([same[0].p] * 2)
    other = statistics.paired_statistic("mean", gold, before, before + np.random.default_rng(1).normal(size=60))
    first, _, last = statistics.adjusted_p([*same, other])
    sidak = [1 - (1 - each.p) ** 2 for each in (same[0], other)]
    assert [first, last] == pytest.approx(sidak, abs=0.04)
    assert statistics.adjusted_p([]) == []


def test_a_gain_is_significant_and_a_change_of_scale_is_not() -> None:
    gold, before, after = scored()
    found = statistics.paired_statistic("spearman", gold, before, after)
    assert found.p < 0.01
    assert 0 < found.low < found.high
    for name in ("spearman", "pearson"):
        scaled = statistics.paired_statistic(name, gold, before, 100 * before + 3)
        assert scaled.p == 1.0, name
        assert (scaled.low, scaled.high) == pytest.approx((-0.0122, 0.0122), abs=1e-4)  # as if nothing had changed


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
    started = time.process_time()
    statistics.paired_statistic("spearman", gold, before, after)
    assert time.process_time() - started < 10
