"""Long series for drawing: smoothed, thinned, and their spikes found. A spike of one point among 100,000 stays."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = 2000  # points of one line after thinning


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average, forwards and backwards and then averaged, so that it does not lag.

    `weight` is that of the past, 0 to below 1. NaN and infinite values are skipped.

    >>> smooth([4.0, 1.0], weight=0.5)  # forwards 4, (0.5 * 4 + 1) / 1.5 = 2; backwards (0.5 * 1 + 4) / 1.5 = 3, 1
    [3.5, 1.5]
    """
    import numpy as np
    import pandas as pd

    series = pd.Series(values, dtype=float).replace([np.inf, -np.inf], np.nan)
    forwards, backwards = (each.ewm(alpha=1 - weight, ignore_na=True).mean() for each in (series, series[::-1]))
    return list(map(float, (forwards + backwards[::-1]) / 2))


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` of the finite points, in order: first, last, and the lowest and highest of each stretch.

    Every n-th point would lose single spikes.

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


def spikes(values: Sequence[float]) -> list[int]:
    """Places of single values far above the values around them, at most the 30 highest, in order.

    Far: above the median of the 51 values around by more than 8 times the typical distance (the median of absolute
    distances, scaled to a standard deviation, and at least 2% of the values). Fewer than 20 values have no spikes.

    >>> spikes([1.0, 1.1] * 15 + [9.0] + [1.0, 1.1] * 15)
    [30]
    """
    import numpy as np

    array = np.asarray(values, dtype=float)
    array[~np.isfinite(array)] = np.nanmedian(array) if np.isfinite(array).any() else 0.0
    if len(array) < 20:
        return []
    half = min(25, (len(array) - 1) // 2)
    padded = np.pad(array, half, mode="reflect", reflect_type="odd")  # continues the trend at both ends
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    far = array - around
    typical = max(1.4826 * float(np.median(np.abs(far))), 0.02 * float(np.median(np.abs(around))), 1e-9)
    found = np.flatnonzero(far > 8 * typical)
    return sorted(found[np.argsort(-far[found], kind="stable")[:30]].tolist())
