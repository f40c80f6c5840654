"""The rule by which a card's numbers are judged: a pure function over plain numbers, used everywhere.

A card's number comes from one training. K trainings of its recipe, on the card's own n examples, measure what one
training gives: their mean m and variance s². Few seeds make s² uncertain, so it is joined with what the same runs say
example by example: v² = mean over examples of the variance between trainings, divided by n, is the variance of the
metric if examples vary independently between trainings. It counts as 4 more seeds (`PRIOR`):

    s̃² = ((K - 1) s² + 4 v²) / (K + 3),  ν = K + 3 degrees of freedom
    d = |card - m|,  h(γ) = t(ν, γ) √(s̃² (1 + 1/K) + sampling)

`sampling` is 0 on the card's own examples, and 2 SD²/n on others: both sides then drew their own. Within the margin Δ,

    reproduced    d + h(0.95) ≤ Δ for every metric: two one-sided tests at 5% (Schuirmann 1987), intersection-union
    differs       else, d > h(0.975) + half a printed digit for some metric; with several metrics the factor t(ν, 0.975)
                  is that of their maximum (max-T), because they are one family
    cannot tell   else; an inflation up to d + h(0.95) is not excluded

One training (K = 1) has no spread, and trainings that are equal on every example show none: v is then assumed
(`assumed_deviation`). On one training the verdict is never `reproduced`.

Sources: Schuirmann, D. J. (1987), J. Pharmacokinet. Biopharm. 15, 657-680 (equivalence); Bouthillier et al. (2021),
MLSys (variance between seeds); Breuer et al. (2020), SIGIR (effect ratio); ACM Artifact Review and Badging 1.1
("reproduced").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Verdict = Literal[
    "reproduced exactly", "reproduced", "differs", "cannot tell", "not comparable",
    "better", "worse", "equivalent", "no significant difference",
]  # fmt: skip
"""The first five are of a card, the last five of two runs."""

RULE = 3
"""Version of the rule and of what is counted beside it; a stored comparison of another version is computed anew."""

PRIOR = 4  # seeds as which v² counts
HALF_DIGIT = 0.5e-4  # cards print four places
MOST_SEEDS = 30  # that are proposed
_CORRELATION, _SHARE = ("spearman", "pearson"), ("ndcg", "mrr", "map", "accuracy", "precision", "recall", "f1", "ap")


def default_margin(metric: str) -> float | None:
    """Δ: 0.01 for a correlation, 0.02 for a search metric or an accuracy; None for a metric of another scale.

    >>> default_margin("spearman_cosine"), default_margin("dot_accuracy@1"), default_margin("negative_mse")
    (0.01, 0.02, None)
    """
    if any(word in metric for word in _CORRELATION):
        return 0.01
    words = metric.lower().replace("@", "_").replace("-", "_").split("_")
    return 0.02 if any(word in words for word in (*_SHARE, "mcc")) else None


def assumed_deviation(metric: str, examples: int) -> float:
    """Standard deviation between seeds that is assumed where one training alone was run.

    Measured between seeds: nDCG@10 0.0076 and, of a static model, 0.0126 at 120 queries, 0.0097 at 149, 0.0021 at 839;
    Spearman 0.0022 at 300 pairs. √(0.02 / n), √(0.005 / n) for correlations, and 0.003 at least are at or above all
    of them.

    >>> round(assumed_deviation("cosine_ndcg@10", 120), 4), round(assumed_deviation("spearman_cosine", 300), 4)
    (0.0129, 0.0041)
    """
    variance = 0.005 if any(word in metric for word in _CORRELATION) else 0.02
    return max(math.sqrt(variance / max(examples, 1)), 0.003)


@dataclass(frozen=True)
class Measured:
    """One metric: the card's number, and ours from K trainings."""

    card: float
    values: tuple[float, ...]  # (K,) ours, by seed
    examples: int  # n: queries, pairs, ...
    spread: float | None  # v: see the module; None or 0: assumed
    sampling: float = 0.0  # 2 SD²/n where the examples are not known to be the card's own
    margin: float | None = None  # Δ; None: there is none for this metric


@dataclass(frozen=True)
class Judgment:
    """What the rule says of one metric."""

    verdict: Verdict
    mean: float  # of ours
    deviation: float  # s̃: of one training from the mean of all; assumed with one training
    difference: float  # card - mean
    low: float  # 95% interval of the difference
    high: float
    detectable: float  # the largest inflation (or deflation) of the card that is not excluded
    margin: float | None
    reason: str = ""  # why not `reproduced`


def judge(
    numbers: Mapping[str, Measured], factor: Callable[[float], float] | None = None
) -> tuple[Verdict, dict[str, Judgment]]:
    """The verdict on a card from its metrics, and that on each of them.

    `factor` gives the critical value of the maximum over the metrics, from the degrees of freedom (see
    `statistics.max_t_factor`); without it each metric is tested alone.

    >>> five = (0.680, 0.676, 0.684, 0.678, 0.682)
    >>> [judge({"cosine_ndcg@10": Measured(card, five, 839, 0.002, margin=0.02)})[0] for card in (0.681, 0.70, 0.72)]
    ['reproduced', 'differs', 'differs']
    >>> judge({"cosine_ndcg@10": Measured(0.681, five[:1], 839, None, margin=0.02)})[0]  # one training
    'cannot tell'
    """
    family = None if factor is None else cache(factor)
    found = {metric: _judge_one(metric, each, family) for metric, each in numbers.items()}
    verdicts = {each.verdict for each in found.values()}
    order: tuple[Verdict, ...] = ("differs", "cannot tell", "reproduced")
    return next((verdict for verdict in order if verdict in verdicts), "not comparable"), found


def _judge_one(metric: str, measured: Measured, factor: Callable[[float], float] | None) -> Judgment:
    from scipy.stats import t

    seeds, margin = len(measured.values), measured.margin
    mean = sum(measured.values) / seeds
    freedom = float(seeds - 1 + PRIOR)
    deviation = _deviation(metric, measured, mean)
    error = math.sqrt(deviation**2 * (1 + 1 / seeds) + measured.sampling)
    difference = measured.card - mean
    one_sided, two_sided = (float(t.ppf(level, freedom)) for level in (0.95, 0.975))
    detectable = abs(difference) + one_sided * error
    critical = two_sided if factor is None else max(factor(freedom), two_sided)
    verdict: Verdict = "cannot tell"
    if margin is not None and detectable <= margin and seeds > 1:
        verdict = "reproduced"
    elif abs(difference) > critical * error + HALF_DIGIT:
        verdict = "differs"
    return Judgment(
        verdict=verdict,
        mean=mean,
        deviation=deviation,
        difference=difference,
        low=difference - two_sided * error,
        high=difference + two_sided * error,
        detectable=detectable,
        margin=margin,
        reason=_reason(verdict, measured, deviation, difference, detectable),
    )


def _deviation(metric: str, measured: Measured, mean: float) -> float:
    """s̃ of the module's text; where v is unknown or 0, the assumed one takes its place."""
    seeds = len(measured.values)
    squares = sum((value - mean) ** 2 for value in measured.values)  # (K - 1) s²
    spread = measured.spread or assumed_deviation(metric, measured.examples)
    return math.sqrt((squares + PRIOR * spread**2) / (seeds - 1 + PRIOR))


def _reason(verdict: Verdict, measured: Measured, deviation: float, difference: float, detectable: float) -> str:
    """Why the verdict is not `reproduced`, a sentence with what would decide it."""
    if verdict == "reproduced":
        return ""
    side = "higher" if difference > 0 else "lower"
    if verdict == "differs":
        return f"The card's number is {abs(difference):.4f} {side} than {_ours(len(measured.values))}."
    if measured.margin is None:
        return "There is no usual margin for this metric; give one with --margin."
    open_to = f"A card that is up to {detectable:.4f} off cannot be excluded (margin {measured.margin:g})"
    if len(measured.values) == 1:
        return f"One training is consistent with the card, but shows no spread. {open_to}; train with --seeds 5."
    return f"{open_to}; {what_decides(measured, deviation, abs(difference))}."


def _ours(seeds: int) -> str:
    return "ours" if seeds == 1 else f"the mean of our {seeds} trainings"


def what_decides(measured: Measured, deviation: float, distance: float) -> str:
    """The number of seeds, or of examples, with which the same numbers would be `reproduced` or `differs`.

    >>> close = Measured(0.68, (0.67, 0.68), 120, 0.0076, margin=0.02)
    >>> what_decides(close, 0.0076, 0.002), what_decides(close, 0.02, 0.002)
    ('3 seeds would decide', 'about 640 examples would decide')
    """
    from scipy.stats import t

    margin = measured.margin or 0.0
    for seeds in range(len(measured.values) + 1, MOST_SEEDS + 1):
        error = math.sqrt(deviation**2 * (1 + 1 / seeds) + measured.sampling)
        inside = distance + t.ppf(0.95, seeds - 1 + PRIOR) * error <= margin
        if inside or distance > t.ppf(0.975, seeds - 1 + PRIOR) * error + HALF_DIGIT:
            return f"{seeds} seeds would decide"
    error = math.sqrt(deviation**2 * (1 + 1 / MOST_SEEDS) + measured.sampling)
    room = max(margin - distance, distance - HALF_DIGIT)
    times = (float(t.ppf(0.975, MOST_SEEDS - 1 + PRIOR)) * error / room) ** 2
    count = math.ceil(measured.examples * times / 10) * 10
    return f"about {count:,} examples would decide"


def judge_change(difference: float, low: float, high: float, p: float, margin: float | None) -> Verdict:
    """Two runs on the same examples: the verdict on other - first, from its 95% interval and adjusted p-value.

    `equivalent` needs the whole interval inside the margin, which is stricter than two one-sided tests at 5%. It comes
    first, as `reproduced` does: a change that is significant, but certainly smaller than the margin, is no difference.

    >>> [judge_change(0.03, 0.01, 0.05, 0.01, 0.02), judge_change(0.0002, 0.0001, 0.0003, 0.01, 0.02)]
    ['better', 'equivalent']
    """
    if margin is not None and -margin <= low and high <= margin:
        return "equivalent"
    if p < 0.05:
        return "better" if difference > 0 else "worse"
    return "no significant difference"


def effect_ratio(ours: Sequence[float], card: Sequence[float]) -> float | None:
    """Our change by training over the card's, each (before, after): 1 is the card's effect (Breuer et al. 2020). None
    where the card shows none.

    >>> effect_ratio((0.5, 0.625), (0.5, 0.75)), effect_ratio((0.5, 0.6), (0.5, 0.5))
    (0.5, None)
    """
    theirs = card[1] - card[0]
    return (ours[1] - ours[0]) / theirs if abs(theirs) > HALF_DIGIT else None
