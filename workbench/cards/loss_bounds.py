"""Which values a loss can take: bands, chance, and what a value implies about similarities. Pure arithmetic.

The softmax losses with in-batch negatives (MultipleNegativesRankingLoss and similar) score one positive against n
candidates: loss = -ln softmax(scale * similarity)[positive]. With a similarity in [-1, 1] every score is in
[-scale, scale], so that (s = scale)

    ln(1 + (n - 1) e^(-2s))  <=  loss  <=  ln(1 + (n - 1) e^(2s)),      and ln n where all candidates score alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """Lowest and highest value that a loss can take, and its value when every candidate scores alike."""

    low: float
    chance: float
    high: float

    def times(self, factor: float) -> Band:
        """The band of the loss added up `factor` times (Matryoshka dimensions, accumulation steps)."""
        return Band(self.low * factor, self.chance * factor, self.high * factor)

    def union(self, other: Band) -> Band:
        """The smallest band that holds both; chance is this band's."""
        return Band(min(self.low, other.low), self.chance, max(self.high, other.high))

    def holds(self, value: float, *, relative: float = 2e-3, absolute: float = 6e-5) -> bool:
        """Whether `value` can be in the band, with allowance for rounding (4 decimals) and half precision."""
        return self.low * (1 - relative) - absolute <= value <= self.high * (1 + relative) + absolute


def softmax_band(candidates: int, scale: float) -> Band:
    """Band of a softmax loss over `candidates` with a similarity in [-1, 1] times `scale`.

    >>> band = softmax_band(4, 0.05)
    >>> [round(value, 4) for value in (band.low, band.chance, band.high)]
    [1.3122, 1.3863, 1.4622]
    """
    others = candidates - 1
    if others <= 0:
        return Band(0.0, 0.0, 0.0)
    reach = 2 * abs(scale)
    high = math.log1p(others * math.exp(reach)) if reach < 700 else reach + math.log(others)
    return Band(math.log1p(others * math.exp(-reach)), math.log(candidates), high)


def mixed_band(candidates: int, short: int, share: float, scale: float) -> Band:
    """Band of a mean over batches of which a `share` (0 to 1) are short last ones with `short` candidates.

    A short batch has fewer negatives, so only the lower end moves (and chance, which is taken for full batches).

    >>> mixed_band(16, 1, 0.5, 20).low < softmax_band(16, 20).low
    True
    """
    full = softmax_band(candidates, scale)
    last = softmax_band(max(short, 1), scale)
    return Band(full.low + share * (min(last.low, full.low) - full.low), full.chance, full.high)


def mean_of_batches(rows: int, batch: int, negatives: int = 1) -> float:
    """Mean of ln n over one pass of `rows` in batches of `batch`, each batch weighted by its rows.

    What an evaluation reports when every candidate scores alike; `negatives` is the number of candidates per row.

    >>> round(mean_of_batches(1641, 32), 4)  # 51 batches of 32 and one of 9
    3.4588
    """
    full, rest = divmod(rows, batch)
    total = full * batch * math.log(batch * negatives) + (rest * math.log(rest * negatives) if rest else 0.0)
    return total / rows


def implied_gap(loss: float, candidates: int, scale: float) -> float | None:
    """Gap between the positive's similarity and the negatives', if all negatives were alike, that gives `loss`.

    The inverse of ln(1 + (n - 1) e^(-scale * gap)). None where no gap gives that loss (zero, one candidate).

    >>> round(implied_gap(1.3812, 4, 0.05), 2), round(implied_gap(1.3681, 4, 0.05), 2)
    (0.14, 0.49)
    """
    if candidates < 2 or scale == 0 or not 0 < loss < 700:
        return None
    return -math.log(math.expm1(loss) / (candidates - 1)) / scale


def nearest_chance(loss: float, chance: float) -> float:
    """How far `loss` is from `chance`, as a share of chance: 0 is exactly chance.

    >>> nearest_chance(3.4661, math.log(32)) < 0.001
    True
    """
    return abs(loss - chance) / chance if chance else math.inf


def entropy(shares: Sequence[float]) -> float:
    """Loss of always answering the labels' shares: -sum p ln p, the least a model can have that sees no texts.

    >>> round(entropy([0.5, 0.5]), 4), round(entropy([1 / 3] * 3), 4), entropy([])
    (0.6931, 1.0986, 0.0)
    """
    total = sum(shares)
    return -sum(share / total * math.log(share / total) for share in shares if share > 0) if total else 0.0


def hinge_floor(margin: float, farthest: float = 2.0) -> float:
    """Lowest value of max(0, d(a, p) - d(a, n) + margin) when no distance can exceed `farthest`.

    Embeddings of length one are at most 2 apart, so a margin above 2 can never be met.

    >>> hinge_floor(5)
    3.0
    """
    return max(0.0, margin - farthest)
