"""What a careful person would want to know before training: repeats, leaks, cut texts, unknown tokens.

Texts are compared by 64-bit hashes, eight bytes a text, so that millions of rows can be looked at; two different texts
of three million get the same hash once in four million times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from workbench.data.columns import LABEL_COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

ROWS_AT_ONCE = 10_000
UNKNOWN = 0.01  # share of unknown tokens that is worth a warning


@dataclass(frozen=True)
class Check:
    """One thing that was found out about rows or a collection before they were used."""

    severity: Literal["error", "warning", "note"]  # an error stops the training
    message: str  # one sentence


@dataclass(frozen=True)
class Tokens:
    """How a base sees texts: what the checks need of its tokenizer."""

    count: Callable[[Sequence[str]], tuple[list[int], list[int]]]  # texts -> tokens of each, unknown tokens of each
    limit: int | None  # max_seq_length, in tokens; None where there is none
    most: int = 2000  # texts of a column that are looked at, spread evenly


class Columns(Protocol):
    """Rows in columns, as `Pairs` has them."""

    @property
    def rows(self) -> Any: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...


def check_pairs(
    train: Columns, evaluations: Mapping[str, Columns] | None = None, *, tokens: Tokens | None = None
) -> tuple[Check, ...]:
    """What was found out. An error means that a number measured afterwards would be worth nothing; a warning is kept
    in the run."""
    trained = _hashes(train)
    checks = list(_repeats(train, trained))
    for name, part in (evaluations or {}).items():
        checks += _overlap(trained, name, _hashes(part))
    checks += _token_checks(train, tokens) if tokens is not None else []
    return tuple(checks)


def _hashes(pairs: Columns) -> Hashes:
    """(rows, text columns) hash of every text."""
    import numpy as np

    columns = [column for column in pairs.columns if column not in LABEL_COLUMNS]
    found = np.empty((len(pairs), len(columns)), dtype=np.int64)
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        batch = pairs.rows[start : start + ROWS_AT_ONCE]
        for place, column in enumerate(columns):
            found[start : start + len(batch[column]), place] = [hash(text) for text in batch[column]]
    return found.view(np.uint64)


def _whole(hashes: Hashes) -> Hashes:
    """(rows,) one hash for all texts of a row."""
    import numpy as np

    mixed = np.zeros(len(hashes), dtype=np.uint64)
    for column in hashes.T:
        mixed = (mixed * np.uint64(0x9E3779B97F4A7C15)) ^ (column + (mixed >> np.uint64(31)))
    return mixed


def _repeats(pairs: Columns, hashes: Hashes) -> Iterator[Check]:
    import numpy as np

    again = len(hashes) - len(np.unique(_whole(hashes)))
    if again:
        yield Check("warning", f"{again:,} of {len(hashes):,} training rows repeat another row.")
    if any(column in LABEL_COLUMNS for column in pairs.columns):
        return  # a text may have a score with each of many others
    for place, column in enumerate(pairs.columns[:2]):
        repeated = len(hashes) - len(np.unique(hashes[:, place]))
        if repeated > again:
            yield Check(
                "warning",
                f"{repeated:,} of {len(hashes):,} training rows repeat a text of column {column!r}; in one batch they "
                "would be each other's false negatives (the no_duplicates sampler keeps them apart).",
            )


def _overlap(trained: Hashes, name: str, part: Hashes) -> Iterator[Check]:
    import numpy as np

    if trained.shape[1] != part.shape[1]:
        return
    rows = len(part)
    shared = int(np.isin(_whole(part), _whole(trained)).sum())
    if rows and shared == rows:
        yield Check("error", f"all {rows:,} rows of {name} are training rows; give {name} rows of its own.")
        return
    if shared:
        yield Check("warning", f"{shared:,} of {rows:,} rows of {name} are also training rows.")
    repeated = int(np.isin(part[:, 0], trained[:, 0]).sum()) - shared
    if repeated > 0:
        yield Check(
            "warning", f"{repeated:,} of {rows:,} queries of {name} are also asked in training, answered otherwise."
        )


def _token_checks(pairs: Columns, tokens: Tokens) -> Iterator[Check]:
    for column in (column for column in pairs.columns if column not in LABEL_COLUMNS):
        texts = evenly(pairs, column, tokens.most)
        lengths, unknown = tokens.count(texts)
        cut = sum(length > tokens.limit for length in lengths) if tokens.limit is not None else 0
        if cut:
            yield Check(
                "warning",
                f"{100 * cut / len(texts):.1f} % of the texts of column {column!r} are longer than {tokens.limit} "
                f"tokens and are cut (the longest has {max(lengths):,}).",
            )
        share = sum(unknown) / max(sum(lengths), 1)
        if share > UNKNOWN:
            yield Check(
                "warning",
                f"{100 * share:.1f} % of the tokens of column {column!r} are unknown to the base's tokenizer; it "
                "cannot read this language or script well.",
            )


def evenly(pairs: Columns, column: str, most: int) -> list[str]:
    """At most `most` texts of a column, spread evenly over the rows."""
    rows = len(pairs)
    if rows <= most:
        return list(pairs.rows[column])
    return list(pairs.rows.select([place * rows // most for place in range(most)])[column])
