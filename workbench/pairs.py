"""Training rows: pairs, triplets and scored pairs from files, the Hub and the shipped samples, with checks.

Files are read here, row by row, and not by `datasets`, because its errors name neither the row nor the column, and a
person who has to mend a file needs both. Rows are numbered from 1; a header is not a row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import DataError, WorkbenchError
from workbench.recipe import Data, Source, Split
from workbench.shipped import shipped

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]

SCORES = ("score", "scores", "label", "labels")
"""Columns that hold numbers; sentence-transformers gives them to the loss as labels. All others hold text."""

SAMPLES: Mapping[str, str] = {"porsche-mxbai": "porsche"}
"""Card name -> the shipped sample that stands in for its rows."""

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
"""What can name a dataset on the Hub."""

SAMPLE_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Check:
    """One thing that was found out about rows or a collection before they were used."""

    severity: Literal["error", "warning", "note"]  # an error stops the training
    message: str  # one sentence


@dataclass(frozen=True)
class Pairs:
    """Rows that a loss can read."""

    rows: Dataset  # columns in the order of the loss
    columns: tuple[str, ...]  # ("anchor", "positive")
    sha256: str  # of the file's bytes; of the rows where there is no single file
    origin: str  # where they came from, for people: a path, "sample:porsche", a Hub id
    checks: tuple[Check, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, column: str) -> list[str]:
        return list(self.rows[column])


@dataclass(frozen=True)
class Splits:
    """Rows for training and for the two evaluations; a part that the data do not have is None."""

    train: Pairs
    validation: Pairs | None = None
    test: Pairs | None = None


def printed_rows(parts: Sequence[Pairs], printed: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """How many of the rows that a card prints are among these, and how many it prints: the proof that rows are its own.

    Texts are compared without regard to white space; a card cuts long ones and ends them with three dots. Rows that
    hold anything but texts are left out, because cards round numbers.
    """
    texts = [[_squeezed(value) for value in row.values()] for row in printed]
    texts = [row for row in texts if row and all(row)]
    wanted = {place: [text.removesuffix("...") for text in row] for place, row in enumerate(texts)}
    found: set[int] = set()
    for part in parts:
        for ours in zip(*(part.texts(column) for column in part.columns), strict=True):
            squeezed = [_squeezed(value) for value in ours]
            found |= {
                place
                for place, row in wanted.items()
                if place not in found
                and len(row) == len(squeezed)
                and all(
                    mine.startswith(theirs) if whole.endswith("...") else mine == theirs
                    for mine, theirs, whole in zip(squeezed, row, texts[place], strict=True)
                )
            }
    return len(found), len(wanted)


def _squeezed(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def load_pairs(source: Source, columns: Sequence[str] = (), *, online: Callable[[], bool] = lambda: False) -> Pairs:
    """Rows of `source` with the columns `columns`, in that order; all columns where none are named.

    `source.columns` renames (theirs -> ours); several of theirs may name one of ours, then each row gives the one that
    it has. `online` is asked, once, only where rows must come from the Hub; it says whether the Hub can be reached.

    Raises DataError, naming row and column, where rows are missing, damaged, empty or of the wrong type.
    """
    found, digest = _read(source, online)
    wanted = tuple(columns) or _all_columns(found, source.columns)
    if not found:
        raise DataError(f"expected rows in {source.location!r}, found none; give a file that has some with --data.")
    table = {ours: _column(found, ours, source) for ours in wanted}

    from datasets import Dataset

    return Pairs(rows=Dataset.from_dict(table), columns=wanted, sha256=digest, origin=source.location)


def load_splits(data: Data, *, online: Callable[[], bool] = lambda: False) -> Splits:
    """All rows of a recipe: a sample's own three parts, or the rows divided as `data.split` says."""
    if data.train.location.startswith("sample:"):
        parts = [_part(data, part) for part in SAMPLE_PARTS]
        return Splits(*parts)
    pairs = load_pairs(data.train, data.columns, online=online)
    if data.evaluation is not None and data.evaluation.location != "unknown":
        return Splits(pairs, load_pairs(data.evaluation, data.columns, online=online))
    return Splits(*split_pairs(pairs, data.split)) if data.split is not None else Splits(pairs)


def _part(data: Data, part: str) -> Pairs:
    return load_pairs(data.train.model_copy(update={"split": part}), data.columns)


def split_sizes(rows: int, split: Split) -> tuple[int, int, int]:
    """Rows for training, validation and test.

    Training takes the whole part of its share; the test takes its share of the rest, rounded up. These are the sizes
    that two calls of `train_test_split` give, the usual way of the cards. Shares that add up to less than 1 leave rows
    out.

    >>> split_sizes(1797, Split(train=0.8, validation=0.1, test=0.1))
    (1437, 180, 180)
    """
    held = split.validation + split.test
    if split.train + held > 1 + 1e-6:
        raise DataError(
            f"expected shares for train, validation and test that add up to 1 at most, found {split.train!r}, "
            f"{split.validation!r}, {split.test!r}; change data.split."
        )
    train = math.floor(round(rows * split.train, 9))
    everything = split.train + held > 1 - 1e-6
    rest = rows - train if everything else math.floor(round(rows * held, 9))
    if not held:
        return rows if everything else train, 0, 0
    test = math.ceil(round(rest * split.test / held, 9))
    return train, rest - test, test


def split_pairs(pairs: Pairs, split: Split) -> tuple[Pairs, Pairs | None, Pairs | None]:
    """Divide rows as two calls of `datasets.Dataset.train_test_split` with `split.seed` do: first what is held out,
    then the test from that. So a script that splits the usual way trains on the same rows.

    A part of size 0 is None. Raises DataError where nothing is left to train on.
    """
    import numpy as np

    train, validation, test = split_sizes(len(pairs), split)
    if train == 0:
        raise DataError(
            f"expected rows to train on after the split, found {len(pairs)} rows in all from {pairs.origin!r}; "
            "give more rows or a larger data.split.train."
        )
    order = np.random.default_rng(split.seed).permutation(len(pairs))
    held = order[: validation + test]
    again = np.random.default_rng(split.seed).permutation(len(held))
    held_out = [held[again[test:]].tolist(), held[again[:test]].tolist()]
    parts = [_selected(pairs, indices) if indices else None for indices in held_out]
    return _selected(pairs, order[len(held) : len(held) + train].tolist()), parts[0], parts[1]


def _selected(pairs: Pairs, indices: list[int]) -> Pairs:
    return replace(pairs, rows=pairs.rows.select(indices))


# --- reading -------------------------------------------------------------------------------------------------------


def _read(source: Source, online: Callable[[], bool]) -> tuple[list[Row], str]:
    """Rows as they are, and the SHA-256 of what they were read from."""
    location = source.location
    if location == "unknown":
        raise DataError("expected a place to take training rows from, found 'unknown'; name one with --data.")
    if location.startswith("sample:"):
        return _read_file(sample_file(location.removeprefix("sample:"), source.split or "train"))
    path = Path(os.path.expanduser(location))
    if os.path.isfile(path):
        return _read_file(path)
    local = path.suffix.lower() in READERS or path.is_absolute() or location.startswith((".", "~"))
    if local or not HUB_ID.fullmatch(location):
        raise DataError(f"expected a file of rows at {location!r}, found none; check the path given with --data.")
    return _read_hub(source, online)


def sample_file(name: str, part: str) -> Path:
    """The Parquet file of a shipped sample's part; DataError naming the samples there are, where it is none."""
    try:
        path = shipped(f"data/samples/{name}/{part}.parquet")
    except WorkbenchError:
        known = ", ".join(f"sample:{sample}" for sample in shipped_samples()) or "none"
        raise DataError(
            f"expected a shipped sample with rows for {part!r}, found 'sample:{name}'; there are: {known}."
        ) from None
    return path


def shipped_samples() -> tuple[str, ...]:
    """Names of the samples that came with the workbench."""
    try:
        folder = shipped("data/samples")
    except WorkbenchError:
        return ()
    return tuple(sorted(path.parent.name for path in folder.glob("*/train.parquet")))


def _read_file(path: Path) -> tuple[list[Row], str]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"expected a file ending in {', '.join(READERS)}, found {path.name!r}; convert it to one of these."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected to read {str(path)!r}, found {error.strerror or error}.") from error
    return reader(data, path.name), hashlib.sha256(data).hexdigest()


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"expected UTF-8 text in {name!r}, found byte {data[error.start]:#04x} in line {line}; save it as UTF-8."
        ) from error


def _read_json(data: bytes, name: str) -> list[Row]:
    try:
        rows = json.loads(_text(data, name))
    except json.JSONDecodeError as error:
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found a break in line {error.lineno}, column "
            f"{error.colno} ({error.msg}); mend that line, or use the ending .jsonl for one object a line."
        ) from error
    except RecursionError as error:
        raise DataError(f"expected a JSON list of objects in {name!r}, found values nested too deep.") from error
    if not isinstance(rows, list):
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found {type(rows).__name__}; put the rows into one list."
        )
    return [_object(row, number, name) for number, row in enumerate(rows, 1)]


def _read_jsonl(data: bytes, name: str) -> list[Row]:
    rows = []
    for number, line in enumerate(_text(data, name).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"expected one JSON object a line in {name!r}, found {line[:40]!r} in line {number} ({error.msg}); "
                "mend or remove that line."
            ) from error
        rows.append(_object(value, number, name))
    return rows


def _object(value: Any, number: int, name: str) -> Row:
    if isinstance(value, dict):
        return value
    raise DataError(
        f"expected an object with one key a column in {name!r}, row {number}, found {_short(value)}; mend that row."
    )


def _read_csv(data: bytes, name: str) -> list[Row]:
    return _read_table(data, name, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(data: bytes, name: str) -> list[Row]:
    """Tabs, and quotation marks are text: so are STS benchmark and its relatives written."""
    return _read_table(data, name, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_table(data: bytes, name: str, *, delimiter: str, quoting: Literal[0, 3]) -> list[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(_text(data, name), newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[Row] = []
    try:
        header = next(reader, [])
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"expected {len(header)} fields a row in {name!r}, found {len(fields)} in row {len(rows) + 1} "
                    f"(line {reader.line_num}); mend that row."
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"expected fields apart by {delimiter!r} in {name!r}, found {error} at line {reader.line_num}; "
            "mend that line."
        ) from error
    return rows


def _read_parquet(data: bytes, name: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"expected a Parquet table in {name!r}, found something else ({error}).") from error
    return rows


READERS: Mapping[str, Callable[[bytes, str], list[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
"""File ending -> what reads it."""


def _read_hub(source: Source, online: Callable[[], bool]) -> tuple[list[Row], str]:
    """Rows of a Hub dataset, from the local cache where the Hub cannot be reached."""
    reached = online()

    import datasets

    was = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was or not reached
    try:
        loaded = datasets.load_dataset(
            source.location, source.config, split=source.split or "train", revision=source.revision
        )
    except (OSError, ValueError) as error:  # what `datasets` raises for all that is missing, gated or malformed
        why = "the Hub cannot be reached and the local cache does not have it" if not reached else _first_line(error)
        raise DataError(
            f"expected a file, sample:NAME or Hub dataset, found {source.location!r}, which cannot be loaded ({why}); "
            "give a local file with --data."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was
    rows: list[Row] = [dict(row) for row in loaded]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return rows, digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- columns -------------------------------------------------------------------------------------------------------


def _all_columns(rows: Sequence[Row], renames: Mapping[str, str]) -> tuple[str, ...]:
    """Every column in its order, under our names."""
    return tuple(dict.fromkeys(renames.get(str(name), str(name)) for row in rows[:1] for name in row))


def _column(rows: Sequence[Row], ours: str, source: Source) -> list[Any]:
    """The values of one column, checked."""
    names = [theirs for theirs, renamed in source.columns.items() if renamed == ours]
    names += [ours] if ours not in names else []
    values = []
    for number, row in enumerate(rows, 1):
        name = next((name for name in names if name in row), None)
        if name is None:
            raise _missing_column(rows, number, names, ours, source)
        values.append(_value(row[name], number, name, ours, source))
    return values


def _missing_column(rows: Sequence[Row], number: int, names: list[str], ours: str, source: Source) -> DataError:
    """The first row without the column, how many such rows there are, and the names that come nearest."""
    found = [str(name) for name in rows[number - 1]]
    without = sum(not any(name in row for name in names) for row in rows)
    free = [name for name in found if name not in source.columns]
    near = get_close_matches(names[0], free, n=3, cutoff=0.3) or get_close_matches(ours, free, n=3, cutoff=0.3)
    wanted = " or ".join(repr(name) for name in names)
    suggestion = (near or free or found or ["THEIRS"])[0]
    every = "all" if without == len(rows) else f"{without:,} of {len(rows):,}"
    given = "".join(f"{theirs}={renamed}," for theirs, renamed in source.columns.items())
    return DataError(
        f"expected a column {wanted} in {source.location!r}, found {', '.join(map(repr, found)) or 'no columns'} in "
        f"row {number} ({every} rows lack it); say which column it is with --columns {given}{suggestion}={ours}"
        + ("." if without == len(rows) else ", or mend these rows.")
    )


def _value(value: Any, number: int, name: str, ours: str, source: Source) -> str | int | float:
    """One cell, checked: a number for a score or label, a text that is not empty for all others."""
    if ours in SCORES:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = f"{value}"
        if isinstance(value, (int, float)) and math.isfinite(value):
            return value
        what = "a number"
    else:
        if isinstance(value, str) and value.strip():
            return value
        what = "a text" if not isinstance(value, str) else "a text that is not empty"
    raise DataError(
        f"expected {what} in {source.location!r}, row {number}, column {name!r}, found {_short(value)}; "
        "mend or remove that row."
    )


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


# --- checks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """How a base sees texts: what the checks need of its tokenizer."""

    count: Callable[[Sequence[str]], tuple[list[int], list[int]]]  # texts -> tokens of each, unknown tokens of each
    limit: int | None  # max_seq_length, in tokens; None where there is none
    most: int = 2000  # texts of a column that are looked at, from its start


def check_pairs(
    train: Pairs, evaluations: Mapping[str, Pairs] | None = None, *, tokens: Tokens | None = None
) -> tuple[Check, ...]:
    """What a careful person would want to know before training: repeats, leaks, cut texts, unknown tokens.

    An error means that a number measured afterwards would be worth nothing; a warning is kept in the run.
    """
    checks = list(_repeats(train))
    for name, part in (evaluations or {}).items():
        checks += _overlap(train, name, part)
    checks += _token_checks(train, tokens) if tokens is not None else []
    return tuple(checks)


def _texts(pairs: Pairs) -> list[tuple[str, ...]]:
    """Each row's texts, without scores."""
    columns = [pairs.texts(column) for column in pairs.columns if column not in SCORES]
    return list(zip(*columns, strict=True))


def _repeats(pairs: Pairs) -> Iterator[Check]:
    rows = _texts(pairs)
    again = len(rows) - len(set(rows))
    if again:
        yield Check("warning", f"{again:,} of {len(rows):,} training rows repeat another row.")
    for column in [column for column in pairs.columns if column not in SCORES][:2]:
        counts = Counter(pairs.texts(column))
        repeated = sum(count - 1 for count in counts.values())
        if repeated > again:
            yield Check(
                "warning",
                f"{repeated:,} of {len(rows):,} training rows repeat a text of column {column!r}; in one batch they "
                "would be each other's false negatives (the no_duplicates sampler keeps them apart).",
            )


def _overlap(train: Pairs, name: str, part: Pairs) -> Iterator[Check]:
    trained = set(_texts(train))
    rows = _texts(part)
    shared = sum(row in trained for row in rows)
    if rows and shared == len(rows):
        yield Check("error", f"all {len(rows):,} rows of {name} are training rows; give {name} rows of its own.")
        return
    if shared:
        yield Check("warning", f"{shared:,} of {len(rows):,} rows of {name} are also training rows.")
    anchors = set(train.texts(train.columns[0]))
    repeated = sum(text in anchors for text in part.texts(part.columns[0])) - shared
    if repeated > 0:
        yield Check(
            "warning",
            f"{repeated:,} of {len(rows):,} queries of {name} are also asked in training, answered otherwise.",
        )


def _token_checks(pairs: Pairs, tokens: Tokens) -> Iterator[Check]:
    for column in (column for column in pairs.columns if column not in SCORES):
        texts = pairs.texts(column)[: tokens.most]
        lengths, unknown = tokens.count(texts)
        cut = sum(length > tokens.limit for length in lengths) if tokens.limit is not None else 0
        if cut:
            yield Check(
                "warning",
                f"{cut / len(texts):.1%} of the texts of column {column!r} are longer than {tokens.limit} tokens and "
                f"are cut (the longest has {max(lengths):,}).",
            )
        share = sum(unknown) / max(sum(lengths), 1)
        if share > 0.01:
            yield Check(
                "warning",
                f"{share:.1%} of the tokens of column {column!r} are unknown to the base's tokenizer; it cannot read "
                "this language or script well.",
            )
