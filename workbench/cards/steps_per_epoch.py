"""Steps per epoch: what the log's epoch column implies about batches, processes and rows. Pure arithmetic.

The trainer logs epoch = whole epochs + batches done / batches in the epoch, rounded to four places, where a batch is
one forward pass of one process (`gradient_accumulation_steps` of them make a step). So every log row bounds the number
of batches per epoch, and all rows together usually leave one integer. Comparing it with size / batch size shows how
many processes shared the rows, or that fewer rows were there than the card says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HALF = 0.5e-4 + 1e-9
"""Half of the last printed place of the epoch column."""

SPLITS = (0.5, 0.6, 2 / 3, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Shares that people split off for training."""

MOST_PROCESSES = 64


@dataclass(frozen=True)
class Epoch:
    """One epoch as the log shows it."""

    batches: tuple[int, ...]  # forward passes per process and epoch: every integer that fits all rows, ascending
    accumulation: int

    @property
    def exact(self) -> int | None:
        """The one number that fits, or None."""
        return self.batches[0] if len(self.batches) == 1 else None

    def steps(self, batches: int) -> tuple[int, ...]:
        """Optimizer steps in an epoch of `batches`: rounded down (older trainers) and up (newer)."""
        return tuple(sorted({max(batches // self.accumulation, 1), math.ceil(batches / self.accumulation)}))


def epoch_of(rows: Sequence[tuple[float, int]], accumulation: int = 1, most: int = 5) -> Epoch | None:
    """The epoch length that fits all `rows` of (epoch, step), or None when none or more than `most` do.

    >>> epoch_of(((0.5556, 100), (1.1111, 200), (2.7778, 500))).batches
    (180,)
    >>> epoch_of(((0.0209, 25), (0.9831, 1175), (1.0033, 1200), (9.9923, 11950)), accumulation=4).batches
    (4781,)
    >>> epoch_of(((0.8122, 10), (0.9746, 12), (1.6244, 20), (3.8985, 48)), accumulation=16).batches
    (197,)
    >>> epoch_of(((0.5, 10), (0.5, 20))) is None  # two runs in one log
    True
    """
    points = [(epoch, step) for epoch, step in rows if epoch > 0 and step > 0]
    if not points:
        return None
    if accumulation == 1:
        low = max(step / (epoch + HALF) for epoch, step in points)
        high = min(step / max(epoch - HALF, 1e-12) for epoch, step in points)
        fits = tuple(range(max(math.ceil(low - 1e-9), 1), math.floor(high + 1e-9) + 1)) if high - low < most + 1 else ()
    else:
        fits = tuple(batches for batches in _rough(points, accumulation) if _fits(points, batches, accumulation))
    return Epoch(fits, accumulation) if 0 < len(fits) <= most else None


def _rough(points: Sequence[tuple[float, int]], accumulation: int) -> range:
    """Batches per epoch that the row with the finest bound allows, up to one partly filled step per epoch."""
    bounds = (
        ((step - math.ceil(epoch)) * accumulation / (epoch + HALF), step * accumulation / max(epoch - HALF, 1e-12))
        for epoch, step in points
    )
    low, high = min(bounds, key=lambda bound: (bound[1] - bound[0], bound))
    return range(max(1, math.floor(low)), min(math.ceil(high), math.floor(low) + 5000) + 1)


def _fits(points: Sequence[tuple[float, int]], batches: int, accumulation: int) -> bool:
    """Whether `batches` per epoch explain every row, by one of the trainer's three ways of counting.

    Before transformers 4.46 the batches left over at the end of an epoch are carried into the next (0 steps stands for
    that); later each epoch begins anew, and its last step takes what is left or is left out.
    """
    return any(
        all(abs(_epoch_at(step, batches, steps, accumulation) - epoch) <= HALF for epoch, step in points)
        for steps in {0, max(batches // accumulation, 1), math.ceil(batches / accumulation)}
    )


def _epoch_at(step: int, batches: int, steps: int, accumulation: int) -> float:
    if not steps:
        return step * accumulation / batches
    whole = (step - 1) // steps
    return whole + min((step - whole * steps) * accumulation / batches, 1.0)


def expected_batches(
    sizes: Sequence[int], batch: int, processes: int, *, drop_last: bool, round_robin: bool
) -> set[int]:
    """Batches per process and epoch, by every way in which the libraries divide rows.

    One dataset or several (`round_robin` takes as many batches of each as the smallest has); several processes share
    the batches, or one process feeds several devices with a larger batch.

    >>> expected_batches([153000], 16, 2, drop_last=True, round_robin=False)
    {4781}
    >>> expected_batches([1797], 8, 1, drop_last=False, round_robin=False)
    {225}
    >>> sorted(expected_batches([15612, 5000], 12, 2, drop_last=False, round_robin=False))
    [859, 860]
    >>> expected_batches([15612, 5000], 12, 1, drop_last=False, round_robin=True)
    {834}
    """
    shared = _total(sizes, batch, drop_last=drop_last, round_robin=round_robin)
    wide = _total(sizes, batch * processes, drop_last=drop_last, round_robin=round_robin)
    return {shared // processes if drop_last else math.ceil(shared / processes), wide}


def _total(sizes: Sequence[int], batch: int, *, drop_last: bool, round_robin: bool) -> int:
    counts = [size // batch if drop_last else math.ceil(size / batch) for size in sizes]
    return min(counts) * len(counts) if round_robin and len(counts) > 1 else sum(counts)


@dataclass(frozen=True)
class Reading:
    """One explanation of a number of batches: so many processes, or this share of the rows."""

    processes: int
    share: float  # 1 is all rows
    batches: int


def readings(
    epoch: Epoch, sizes: Sequence[int], batch: int, *, drop_last: bool, round_robin: bool
) -> tuple[Reading, ...]:
    """Every simple explanation of the log's batches per epoch; empty when none fits.

    The plain one (one process, all rows) excludes all others when it fits.

    >>> from pprint import pprint
    >>> pprint(readings(Epoch((180,), 1), [1797], 8, drop_last=False, round_robin=False))
    (Reading(processes=1, share=0.8, batches=180),)
    >>> readings(Epoch((4781,), 4), [153000], 16, drop_last=True, round_robin=False)
    (Reading(processes=2, share=1.0, batches=4781), Reading(processes=1, share=0.5, batches=4781))
    """
    fits = set(epoch.batches)
    plain = expected_batches(sizes, batch, 1, drop_last=drop_last, round_robin=round_robin) & fits
    if plain:
        return (Reading(1, 1.0, min(plain)),)
    found = []
    ratio = _total(sizes, batch, drop_last=drop_last, round_robin=round_robin) / max(fits)
    for processes in range(max(2, math.floor(0.9 * ratio)), min(math.ceil(1.1 * ratio), MOST_PROCESSES) + 1):
        both = fits & expected_batches(sizes, batch, processes, drop_last=drop_last, round_robin=round_robin)
        found += [Reading(processes, 1.0, batches) for batches in sorted(both)]
    for share in SPLITS:
        for rounded in (math.floor, math.ceil):
            part = [rounded(round(size * share, 6)) for size in sizes]
            both = fits & expected_batches(part, batch, 1, drop_last=drop_last, round_robin=round_robin)
            if both:
                found.append(Reading(1, round(share, 4), min(both)))
                break
    return tuple(found)
