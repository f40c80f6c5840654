"""Checks of training rows: repeats, leaks, cut texts, unknown tokens.

Texts are compared by 64-bit hashes, eight bytes a text, so that millions of rows can be checked; two different texts
of three million get the same hash once in four million times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.data.columns import LABEL_COLUMNS
from workbench.data.pairs import Check, Pairs
from workbench.data.readers import ROWS_AT_ONCE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

TEXTS_CHECKED = 2000  # of each column, evenly spaced, by the tokenizer
UNKNOWN = 0.01  # share of unknown tokens that is worth a warning


@dataclass(frozen=True)
class Tokens:
    """What the checks need of a base's tokenizer."""

    count: Callable[[Sequence[str]], tuple[list[int], list[int]]]  # texts -> tokens of each, unknown tokens of each
    limit: int | None  # max_seq_length, in tokens; None where there is none


def check_pairs(
    train: Pairs, evaluations: Mapping[str, Pairs] | None = None, *, tokens: Tokens | None = None
) -> tuple[Check, ...]:
    """All checks. An error means that a number measured afterwards would be worthless; warnings are kept in the run."""
    trained = _hashes(train)
    checks = list(_repeats(train, trained))
    for name, part in (evaluations or {}).items():
        checks += _overlap(trained, name, _hashes(part))
    return (*checks, *(_token_checks(train, tokens) if tokens is not None else ()))


def _hashes(pairs: Pairs) -> Hashes:
    """(rows, text columns) hash of every text."""
    import numpy as np

    columns = _text_columns(pairs)
    found = np.empty((len(pairs), len(columns)), dtype=np.int64)
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        batch = pairs.rows[start : start + ROWS_AT_ONCE]
        for place, column in enumerate(columns):
            found[start : start + len(batch[column]), place] = [hash(text) for text in batch[column]]
    return found.view(np.uint64)


def _text_columns(pairs: Pairs) -> list[str]:
    return [column for column in pairs.columns if column not in LABEL_COLUMNS]


def _row_hashes(hashes: Hashes) -> Hashes:
    """(rows,) one hash for all texts of a row."""
    import numpy as np

    mixed = np.zeros(len(hashes), dtype=np.uint64)
    for column in hashes.T:
        mixed = (mixed * np.uint64(0x9E3779B97F4A7C15)) ^ (column + (mixed >> np.uint64(31)))
    return mixed


def _repeats(pairs: Pairs, hashes: Hashes) -> Iterator[Check]:
    import numpy as np

    rows = len(hashes)
    again = rows - len(np.unique(_row_hashes(hashes)))
    if again:
        yield Check("warning", f"{again:,} of {rows:,} training rows repeat another row.")
    if any(column in LABEL_COLUMNS for column in pairs.columns):
        return  # a text may have a score with each of many others
    if rows and hashes.shape[1] > 1 and (hashes[:, 0] == hashes[:, 1]).all():
        one, two = _text_columns(pairs)[:2]
        yield Check("warning", f"{one!r} and {two!r} hold the same text in all {rows:,} training rows.")
    for place, column in enumerate(pairs.columns[:2]):
        repeated = rows - len(np.unique(hashes[:, place]))
        if repeated > again:
            yield Check(
                "warning",
                f"{repeated:,} of {rows:,} training rows repeat a text of column {column!r}; in one batch they would "
                "be each other's false negatives (the no_duplicates sampler keeps them apart).",
            )


def _overlap(trained: Hashes, name: str, part: Hashes) -> Iterator[Check]:
    import numpy as np

    if trained.shape[1] != part.shape[1]:
        return
    rows = len(part)
    shared = int(np.isin(_row_hashes(part), _row_hashes(trained)).sum())
    if rows and shared == rows:
        yield Check("error", f"all {rows:,} rows of {name} are training rows; give {name} rows of its own.")
        return
    if shared:
        yield Check("warning", f"{shared:,} of {rows:,} rows of {name} are also training rows.")
    repeated = int(np.isin(part[:, 0], trained[:, 0]).sum()) - shared
    if repeated > 0:
        yield Check("warning", f"{repeated:,} of {rows:,} queries of {name} are also in training, with another answer.")


def _token_checks(pairs: Pairs, tokens: Tokens) -> Iterator[Check]:
    for column in _text_columns(pairs):
        texts = evenly_spaced(pairs, column, TEXTS_CHECKED)
        lengths, unknown = tokens.count(texts)
        cut = sum(length > tokens.limit for length in lengths) if tokens.limit is not None else 0
        if cut:
            yield Check(
                "warning",
                f"{100 * cut / len(texts):.1f}% of the texts of column {column!r} are longer than {tokens.limit} "
                f"tokens and are cut (the longest has {max(lengths):,}).",
            )
        share = sum(unknown) / max(sum(lengths), 1)
        if share > UNKNOWN:
            yield Check(
                "warning",
                f"{100 * share:.1f}% of the tokens of column {column!r} are unknown to the base's tokenizer; it "
                "cannot read this language or script well.",
            )


def evenly_spaced(pairs: Pairs, column: str, most: int) -> list[str]:
    """At most `most` texts of a column, evenly spaced over the rows."""
    rows = len(pairs)
    return list(
        pairs.rows.select([place * rows // most for place in range(most)] if rows > most else range(rows))[column]
    )
