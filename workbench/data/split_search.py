"""How a card's rows were divided, found from the rows that it prints: cards print the first three of each part.

`datasets.Dataset.train_test_split` permutes the rows with `numpy.random.default_rng(seed)`, gives the first ones to the
test part and the rest to training. So a seed can be tried without moving a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.data.pairs import Pairs
from workbench.data.training_rows import printed_places, split_sizes
from workbench.recipe.schema import Split

SEEDS = 10_000
MOST_MOVES = 300_000_000
"""Rows times seeds that are tried, at most: a few seconds."""
TEST_SHARES = (0.05, 0.1, 0.15, 0.2, 0.25)

Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Divided:
    """What a card shows of the division of its rows."""

    size: int  # training rows
    first: Rows  # the first training rows, as printed
    held_out: int | None = None  # evaluation rows, where the card has any
    held_first: Rows = ()  # the first of them
    prompts: Mapping[str, str] | None = None  # see `printed_places`


def find_split(pairs: Pairs, card: Divided, now: Split | None, seed: int | None = None) -> tuple[Split, str] | None:
    """The split of `pairs` that gives the rows that the card prints, and how it was found; None where `now` does, or
    where no single split does.

    Tried: the rows in their order, then `seed` or else 10,000 seeds, with the card's sizes and then the usual shares.
    """
    rows, places = len(pairs), printed_places(pairs, card.first, card.prompts)
    train = split_sizes(rows, now)[0] if now is not None and rows <= card.size else card.size
    if (now is None and rows <= card.size) or not all(places):
        return None
    if not places:
        known = seed is not None and now is None
        return (_split(rows, train, rows - train, seed=seed or 0), "the seed is the user's") if known else None
    held = sum(split_sizes(rows, now)[1:]) if now is not None else rows - train
    if now is not None and _fits(_order(rows, now.seed), held, places):
        return None
    if _fits(range(rows), 0, places) and seed is None:
        found = _split(rows, train, rows - train, shuffle=False)
        return found, "the rows that the card prints are the first ones: nothing was shuffled"
    shares = [math.ceil(round(share * rows, 9)) for share in TEST_SHARES]
    others = [size for size in dict.fromkeys([rows - train, *shares, 0]) if size != held]
    tried = [seed] if seed is not None else range(min(SEEDS, max(1, MOST_MOVES // rows)))
    for sizes in ([held], others):
        hits = list(_hits(rows, tried, [size for size in sizes if size + train <= rows], places))
        if len(hits) > 1:
            return None
        for found_seed, size in hits:
            note = (
                f"of {len(tried):,} seeds only {found_seed}, with {size:,} rows held out, gives the card's first rows"
            )
            if now is not None and size == held:
                return now.model_copy(update={"seed": found_seed}), note
            return _with_validation(pairs, card, _split(rows, train, size, seed=found_seed)), note
    return None


def _order(rows: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).permutation(rows)


def _fits(order: Sequence[int], start: int, places: Sequence[Sequence[int]]) -> bool:
    """Whether the printed rows are the first ones after `start`."""
    return len(order) >= start + len(places) and all(
        order[start + number] in place for number, place in enumerate(places)
    )


def _hits(
    rows: int, seeds: Sequence[int], sizes: Sequence[int], places: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int]]:
    """Seeds and sizes of the held-out part that give the printed rows; `seeds` is a range or one seed."""
    for seed in seeds:
        order = _order(rows, seed)
        yield from ((seed, size) for size in sizes if _fits(order, size, places))


def _split(rows: int, train: int, held_out: int, *, seed: int = 42, shuffle: bool = True) -> Split:
    """Shares that give exactly so many rows."""
    return Split(train=train / rows, validation=held_out / rows, test=0.0, seed=seed, shuffle=shuffle)


def _with_validation(pairs: Pairs, card: Divided, split: Split) -> Split:
    """The split with its held-out part divided once more, where the card's evaluation rows come from such a call."""
    rows = len(pairs)
    _, held_out, _ = split_sizes(rows, split)
    size = card.held_out
    if size is None or not 0 < size < held_out or not card.held_first:
        return split
    held = _order(rows, split.seed)[:held_out]
    order = held[_order(held_out, split.seed)]
    if not _fits(order, held_out - size, printed_places(pairs, card.held_first, card.prompts)):
        return split
    return split.model_copy(update={"validation": size / rows, "test": (held_out - size) / rows})
