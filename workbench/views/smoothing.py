"""Long series made ready to be drawn: smoothed, thinned, averaged over stretches, their spikes found.

What is drawn must not lose what a curve is looked at for: a spike of one point among 100,000 stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

POINTS = 2000  # points of one line after thinning


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average, taken forwards and backwards and averaged, so that it does not lag behind the line.

    `weight` is that of the past, 0 to below 1. Both passes start without the pull towards zero; NaN and infinite
    values are passed over.

    >>> smooth([4.0, 1.0], weight=0.5)  # forwards 4, (0.5 * 4 + 1) / 1.5 = 2; backwards (0.5 * 1 + 4) / 1.5 = 3, 1
    [3.5, 1.5]
    """
    forwards, backwards = _average(values, weight), _average(values[::-1], weight)[::-1]
    return [(a + b) / 2 for a, b in zip(forwards, backwards, strict=True)]


def _average(values: Sequence[float], weight: float) -> list[float]:
    result: list[float] = []
    total = mass = 0.0
    for value in values:
        if math.isfinite(value):
            total, mass = weight * total + value, weight * mass + 1.0
        result.append(total / mass if mass else math.nan)
    return result


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` of the finite points, in order: first, last, and each stretch's lowest and highest.

    Taking every n-th point would lose single spikes, which are what a loss curve is looked at for.

    >>> thin([0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 9, 1, 1, 1, 1], points=6)
    ([0.0, 1.0, 3.0, 4.0, 7.0], [1.0, 1.0, 9.0, 1.0, 1.0])
    """
    import numpy as np

    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    finite = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[finite], ys[finite]
    if len(xs) > max(points, 4):
        buckets = np.array_split(np.arange(1, len(xs) - 1), max((points - 2) // 2, 1))
        extremes = [part[i] for part in buckets if len(part) for i in (ys[part].argmin(), ys[part].argmax())]
        index = np.unique(np.array([0, *extremes, len(xs) - 1]))
        xs, ys = xs[index], ys[index]
    return xs.tolist(), ys.tolist()


def spikes(values: Sequence[float], *, times: float = 8.0, most: int = 30) -> list[int]:
    """Places of single values far above the values around them, the highest `most` of them, in order.

    Far: more than `times` the typical distance (the median of absolute distances, scaled to a standard deviation,
    or 2 % of the values where they hardly move) above the median of the 51 values around. Fewer than 20 values have
    no spikes.

    >>> spikes([1.0, 1.1] * 15 + [9.0] + [1.0, 1.1] * 15)
    [30]
    """
    import numpy as np

    array = np.asarray(values, dtype=float)
    array[~np.isfinite(array)] = np.nanmedian(array) if np.isfinite(array).any() else 0.0
    if len(array) < 20:
        return []
    half = min(25, (len(array) - 1) // 2)
    padded = np.pad(array, half, mode="reflect", reflect_type="odd")  # goes on as the ends do
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    around = np.partition(windows, half, axis=1)[:, half]  # the median, for their length is odd
    far = array - around
    typical = max(1.4826 * float(np.median(np.abs(far))), 0.02 * float(np.median(np.abs(around))), 1e-9)
    found = np.flatnonzero(far > times * typical)
    highest = found[np.argsort(-far[found], kind="stable")[:most]]
    return sorted(int(place) for place in highest)
