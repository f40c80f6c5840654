"""Arithmetic of ranking metrics: identities that values measured together obey, and the number of queries behind them.

Values are as cards print them, rounded to four places, unless `exact` says otherwise.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from workbench.cards.metric_names import metric_name

PLACES = 1.01e-4
"""Two values printed with four places that differ by no more than this may be the same number."""

_AT = re.compile(r"^(?:(?P<similarity>\w+?)_)?(?P<kind>accuracy|precision|recall|ndcg|mrr|map)@(?P<k>[1-9]\d{0,8})$")
_MOST_QUERIES = 20_000
CHANGED = 6  # queries that must change in one direction for a sign test at 5%: 2 * 0.5 ** 6 < 0.05 < 2 * 0.5 ** 5


def close(one: float, two: float) -> bool:
    """Whether two values printed with four places may be the same number."""
    return abs(one - two) <= PLACES


def same_rounded(exact: float, printed: float) -> bool:
    """Whether an unrounded value is printed as `printed`, as a share or in percent.

    >>> same_rounded(0.7357333418989647, 0.7357), same_rounded(0.73573334, 73.57), same_rounded(0.7357, 0.7172)
    (True, True, False)
    """
    return math.isnan(printed) or abs(exact - printed) <= 0.5001e-4 or abs(exact * 100 - printed) <= 0.5001e-2


def broken_identities(values: Mapping[str, float]) -> list[str]:
    """Identities of ranking metrics that `values` (of one evaluation) break, as sentences.

    >>> broken_identities({"cosine_accuracy@1": 0.5, "cosine_accuracy@3": 0.4})
    ['cosine accuracy@3 0.4 is below accuracy@1 0.5']
    >>> broken_identities({"cosine_accuracy@1": 0.3, "cosine_precision@1": 0.3, "cosine_recall@1": 0.1})
    []
    >>> one = {"accuracy@5": 0.75, "precision@5": 0.15, "recall@5": 0.75}
    >>> broken_identities({**one, "ndcg@5": 0.5971, "mrr@5": 0.6381})
    ['ndcg@5 0.5971 is below mrr@5 0.6381, although each query has one answer']
    """
    kinds: defaultdict[str, defaultdict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    broken = []
    for name, value in values.items():
        match = _AT.match(name)
        if match and math.isfinite(value):
            kinds[match["similarity"] or ""][match["kind"]][int(match["k"])] = value
            if not -PLACES <= value <= 1 + PLACES:
                broken.append(f"{name} is {value:g}, outside 0 to 1")
    for similarity, found in sorted(kinds.items()):
        broken += [f"{similarity} {sentence}".lstrip() for sentence in (*_growth(found), *_order(found))]
    return broken


def _growth(at: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """accuracy, recall and the documents found (precision times k) grow with k."""
    for kind in ("accuracy", "recall"):
        for (k, low), (more, high) in itertools.pairwise(sorted(at[kind].items())):
            if high < low - PLACES:
                yield f"{kind}@{more} {high:g} is below {kind}@{k} {low:g}"
    for (k, low), (more, high) in itertools.pairwise(sorted(at["precision"].items())):
        if high * more < low * k - PLACES * more:
            yield f"precision@{more} {high:g} finds fewer documents than precision@{k} {low:g}"


def _order(at: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """recall, mrr and ndcg never exceed accuracy; precision is between accuracy / k and accuracy.

    Where every query that has a hit has one, and no other answer, its ndcg is 1 / log2(1 + rank), and its mrr 1 / rank.
    """
    for k, accuracy in sorted(at["accuracy"].items()):
        for kind in ("recall", "mrr", "ndcg"):
            other = at[kind].get(k)
            if other is not None and other > accuracy + PLACES:
                yield f"{kind}@{k} {other:g} is above accuracy@{k} {accuracy:g}"
        precision = at["precision"].get(k)
        if precision is not None and not accuracy - PLACES * k <= precision * k <= accuracy * k + PLACES * k:
            yield f"precision@{k} {precision:g} cannot go with accuracy@{k} {accuracy:g}"
        rounding = PLACES * max(k / 2, 1)  # of precision times k
        single = precision is not None and abs(precision * k - accuracy) <= rounding
        mrr, ndcg = at["mrr"].get(k, 0.0), at["ndcg"].get(k, 1.0)
        if single and close(at["recall"].get(k, 2), accuracy) and ndcg < mrr - rounding:
            yield f"ndcg@{k} {ndcg:g} is below mrr@{k} {mrr:g}, although each query has one answer"


def are_shares(values: Iterable[float], queries: int) -> bool:
    """Whether values printed with four places can all be shares of `queries`.

    >>> are_shares([0.8944], 180), are_shares([0.8944], 179)
    (True, False)
    """
    return all(abs(value * queries - round(value * queries)) <= queries * 0.5e-4 + 1e-9 for value in values)


def queries_of(values: Mapping[str, float], *, exact: bool) -> int | None:
    """The smallest number of queries of which every accuracy@k is a share; None where the values do not tell.

    `exact`: unrounded values, as in model-index. Of rounded values three different ones are needed, and only numbers
    below 100 are tried, because four places fit any larger one.

    >>> queries_of({"cosine_accuracy@1": 0.5944444444444444, "cosine_accuracy@10": 0.8944444444444445}, exact=True)
    180
    >>> rounded = {"accuracy@1": 0.5417, "accuracy@3": 0.625, "accuracy@5": 0.7083, "accuracy@10": 0.9167}
    >>> queries_of(rounded, exact=False)
    24
    """
    shares = [value for name, value in values.items() if "accuracy@" in name and 0 < value < 1]
    if len(set(shares)) < (2 if exact else 3):
        return None
    if not exact:
        return next((queries for queries in range(2, 100) if are_shares(shares, queries)), None)
    fractions = [Fraction(share).limit_denominator(_MOST_QUERIES) for share in shares]
    if any(abs(float(near) - share) > 1e-12 for near, share in zip(fractions, shares, strict=True)):
        return None
    queries = math.lcm(*(near.denominator for near in fractions))
    return queries if queries <= _MOST_QUERIES else None


@dataclass(frozen=True)
class Resolution:
    """What a table row can resolve: how far chance alone moves a metric measured on so many queries."""

    metric: str
    value: float
    queries: int  # or a divisor of their number, which would make the row finer
    low: float  # 95% confidence interval: exact for a share, else the widest that a metric from 0 to 1 can have
    high: float
    smallest: float | None  # difference that two rows on the same queries need to show anything; None: not a share

    @property
    def sentence(self) -> str:
        need = f"; two rows must differ by {self.smallest:.4f} to show anything" if self.smallest else ""
        most = "" if self.smallest else "at most "
        measured = f"{metric_name(self.metric)} {self.value:.4f} on {self.queries:,} queries (or a multiple)"
        return f"{measured}: {most}±{self.half_width:.4f} (95% CI){need}"

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def resolution(metric: str, value: float, queries: int) -> Resolution | None:
    """What a metric from 0 to 1 on so many queries can resolve; None for other values.

    An accuracy is a share, with the exact interval of Clopper and Pearson (1934). Any other has at most the standard
    deviation of a share of that value. Two rows on the same queries differ at 5% (sign test) once six queries change.

    >>> found = resolution("cosine_accuracy@10", 161 / 180, 180)
    >>> round(found.low, 4), round(found.high, 4), round(found.smallest, 4)
    (0.8401, 0.9352, 0.0333)
    """
    if not 0 <= value <= 1 or queries < 2:
        return None
    if "accuracy@" not in metric:
        half = 1.96 * math.sqrt(value * (1 - value) / queries)
        return Resolution(metric, value, queries, max(value - half, 0.0), min(value + half, 1.0), None)
    hits = round(value * queries)
    low = 0.0 if hits == 0 else 1 - _upper_end(queries - hits, queries)
    high = 1.0 if hits == queries else _upper_end(hits, queries)
    return Resolution(metric, value, queries, low, high, CHANGED / queries)


def _upper_end(hits: int, queries: int) -> float:
    """The share of which `hits` or fewer of `queries` have a probability of 2.5%, by bisection."""
    logs = [math.lgamma(queries + 1) - math.lgamma(k + 1) - math.lgamma(queries - k + 1) for k in range(hits + 1)]
    low, high = hits / queries, 1.0
    for _ in range(30):
        share = (low + high) / 2
        one, other = math.log(share), math.log1p(-share)
        at_most = math.fsum(math.exp(log + k * one + (queries - k) * other) for k, log in enumerate(logs))
        low, high = (share, high) if at_most > 0.025 else (low, share)
    return low
