"""Arithmetic of ranking metrics: identities that values measured together obey, and the number of queries behind them.

Values are as cards print them, rounded to four places, unless `exact` says otherwise.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

PLACES = 1.01e-4
"""Two values printed with four places that differ by no more than this may be the same number."""

_AT = re.compile(r"^(?:(?P<similarity>\w+?)_)?(?P<kind>accuracy|precision|recall|ndcg|mrr|map)@(?P<k>\d+)$")
_MOST_QUERIES = 20_000


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
    """recall and mrr never exceed accuracy; precision is between accuracy / k and accuracy."""
    for k, accuracy in sorted(at["accuracy"].items()):
        for kind in ("recall", "mrr"):
            other = at[kind].get(k)
            if other is not None and other > accuracy + PLACES:
                yield f"{kind}@{k} {other:g} is above accuracy@{k} {accuracy:g}"
        precision = at["precision"].get(k)
        if precision is not None and not accuracy - PLACES * k <= precision * k <= accuracy * k + PLACES * k:
            yield f"precision@{k} {precision:g} cannot go with accuracy@{k} {accuracy:g}"


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
