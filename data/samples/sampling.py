"""What the samples' make.py share: an order without meaning, how rows are shared out, how tables are written."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "validation", "test")

Member = TypeVar("Member")


def sentence(text: str) -> str:
    """The text with a capital first letter.

    >>> sentence("the Tillo is small.")
    'The Tillo is small.'
    """
    return text[0].upper() + text[1:]


def digest(text: str) -> bytes:
    """SHA-256 of the text: an order without meaning, the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def share_out(groups: Iterable[Sequence[Member]], *, test: float, validation: float) -> dict[str, list[Member]]:
    """Share out each group's members, so that each split holds most groups; the first of a group go to the test.

    >>> share_out([["a", "b", "c", "d"], ["e", "f", "g", "h"]], test=0.25, validation=0.25)
    {'train': ['c', 'd', 'g', 'h'], 'validation': ['b', 'f'], 'test': ['a', 'e']}
    """
    parts: dict[str, list[Member]] = {name: [] for name in SPLITS}
    owed = {"test": 0.0, "validation": 0.0}  # members owed to each split, carried from group to group
    for members in groups:
        owed["test"] += len(members) * test
        owed["validation"] += len(members) * validation
        for member in members:
            name = next((name for name, count in owed.items() if count >= 1), "train")
            parts[name].append(member)
            if name in owed:
                owed[name] -= 1
    return parts


def refuse_repeats(texts: Iterable[str], what: str = "texts") -> None:
    """SystemExit naming the texts that come more than once."""
    repeated = [text for text, count in Counter(texts).items() if count > 1]
    if repeated:
        raise SystemExit(f"{what} must be unique; found more than once: {repeated}. Reword them.")


def table_of(rows: Sequence[NamedTuple], kind: type[NamedTuple]) -> pa.Table:
    """Rows as a table with a column for each field of `kind`."""
    return pa.table({name: [getattr(row, name) for row in rows] for name in kind._fields})


def main(description: str, here: Path, build: Callable[[], Mapping[str, pa.Table]], unit: str = "pairs") -> None:
    """Write one Parquet file for each table of `build`, beside the script or where --out says."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, default=here, help="folder for the files (default: beside this script)")
    folder = parser.parse_args().out
    for name, table in build().items():
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        print(f"{name}: {table.num_rows} {unit}")
