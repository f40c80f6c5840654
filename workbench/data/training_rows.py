"""Training rows: pairs, triplets and scored pairs, with the columns that a loss reads, checked and divided.

What a place holds is read by `rows`; here it gets the recipe's columns. A few rows are kept in memory, many (more than
`ROWS_IN_MEMORY`) in an Arrow file in the cache of `datasets`, from which they are memory-mapped.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.checks import ROWS_AT_ONCE, Check
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.readers import Row, Rows, is_beir, open_rows, short
from workbench.errors import DataError
from workbench.recipe.schema import Data, Source, Split

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_PARTS = ("train", "validation", "test")
ROWS_IN_MEMORY = 200_000


@dataclass(frozen=True)
class Pairs:
    """Rows that a loss can read."""

    rows: Dataset  # columns in the order of the loss
    columns: tuple[str, ...]  # ("anchor", "positive")
    sha256: str  # of the file's bytes; of the rows where there is no single file
    origin: str  # where they came from, for people: a path, "sample:porsche", a Hub id
    checks: tuple[Check, ...] = ()  # what was found while they were read

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
    more: Mapping[str, Pairs] = field(default_factory=dict)  # name -> rows of the recipe's further datasets

    def parts(self) -> dict[str, Pairs]:
        """train, validation and test, those that there are."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


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
        for ours in _each(part):
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


def _each(pairs: Pairs) -> Iterator[tuple[object, ...]]:
    """Rows as tuples, some thousands in memory at a time."""
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        batch = pairs.rows[start : start + ROWS_AT_ONCE]
        yield from zip(*(batch[column] for column in pairs.columns), strict=True)


def _squeezed(value: object) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def load_pairs(
    source: Source,
    columns: Sequence[str] = (),
    *,
    online: Callable[[], bool] = lambda: False,
    in_memory: int = ROWS_IN_MEMORY,
    rows: Rows | None = None,
) -> Pairs:
    """Rows of `source` with the columns `columns`, in that order; all columns where none are named.

    `source.columns` renames (theirs -> ours); several of theirs may name one of ours, then each row gives the one that
    it has. A sample's columns are taken by their place. Where a text column holds ids of a corpus that lies beside the
    file (corpus.jsonl), each id gives a row with that document's text. `online` is asked, once, only where rows must
    come from the Hub; it says whether the Hub can be reached. Rows beyond `in_memory` go to disk.
    `rows` are those of the source where they have been opened already.

    Raises DataError, naming row and column, where rows are missing, damaged, empty or of the wrong type.
    """
    found = open_rows(source, online) if rows is None else rows
    first = next(iter(found), None)
    if first is None:
        raise DataError(f"expected rows in {source.location!r}, found none; give a file that has some with --data.")
    wanted = tuple(columns) or _all_columns(first, source.columns)
    if found.sample:
        source = source.model_copy(update={"columns": {**_by_place(tuple(first), wanted), **source.columns}})
    checked = _checked(found, wanted, source)
    key = hashlib.sha256("\0".join((found.sha256, *wanted, *chain(*source.columns.items()))).encode()).hexdigest()
    return Pairs(_dataset(checked, wanted, in_memory, key), wanted, found.sha256, source.location)


def load_splits(
    data: Data, *, prompts: Mapping[str, str] | None = None, online: Callable[[], bool] = lambda: False
) -> Splits:
    """All rows of a recipe: a sample's own three parts, or the rows divided as `data.split` says.

    `prompts` (column -> prompt) are what training puts before the texts of a column: texts that carry theirs already
    lose it, so that it does not come twice. Further datasets only train.
    """
    if data.train.location.startswith("sample:"):
        train, validation, test = (_part(data, part) for part in SAMPLE_PARTS)
        whole = Splits(train, validation, test)
    else:
        pairs = load_pairs(data.train, data.columns, online=online)
        if data.evaluation is not None and has_rows(data.evaluation):
            whole = Splits(pairs, load_pairs(data.evaluation, data.columns, online=online))
        else:
            whole = Splits(*split_pairs(pairs, data.split)) if data.split is not None else Splits(pairs)
    more = {each.name: load_pairs(each.source, each.columns, online=online) for each in data.more}
    whole = replace(whole, more=more)
    return _without_prompts(whole, prompts) if prompts else whole


def _part(data: Data, part: str) -> Pairs:
    return load_pairs(data.train.model_copy(update={"split": part}), data.columns)


def has_rows(source: Source) -> bool:
    """Whether evaluation data are rows as the training's, and not a collection: queries, corpus and judgements."""
    if source.location == "unknown" or "nanobeir" in source.location.lower():
        return False
    return not is_beir(Path(os.path.expanduser(source.location)))


def _without_prompts(splits: Splits, prompts: Mapping[str, str]) -> Splits:
    def bare(pairs: Pairs | None) -> Any:
        return None if pairs is None else without_prompts(pairs, prompts)

    more = {name: bare(pairs) for name, pairs in splits.more.items()}
    return Splits(bare(splits.train), bare(splits.validation), bare(splits.test), more)


def without_prompts(pairs: Pairs, prompts: Mapping[str, str]) -> Pairs:
    """`pairs` without the prompts that texts of a column begin with; a note says how many did."""
    carried = {column: prompt for column, prompt in prompts.items() if prompt and column in pairs.columns}
    notes = []
    rows = pairs.rows
    for column, prompt in carried.items():
        texts = list(rows[column])
        begun = sum(text.startswith(prompt) for text in texts)
        if not begun:
            continue
        bare = [text.removeprefix(prompt) for text in texts]
        empty = next((number for number, text in enumerate(bare, 1) if not text.strip()), None)
        if empty is not None:
            raise DataError(
                f"expected a text after the prompt {prompt!r} in {pairs.origin!r}, row {empty}, column {column!r}, "
                "found none; mend or remove that row."
            )
        order = rows.column_names
        rows = rows.remove_columns(column).add_column(column, bare).select_columns(order)
        notes.append(
            Check(
                "note",
                f"{begun:,} of {len(rows):,} texts of column {column!r} carried the prompt {prompt!r}; it was taken "
                "off, because training puts it there.",
            )
        )
    return replace(pairs, rows=rows, checks=(*pairs.checks, *notes))


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


# --- columns -------------------------------------------------------------------------------------------------------


def _all_columns(first: Row, renames: Mapping[str, str]) -> tuple[str, ...]:
    """Every column in its order, under our names."""
    return tuple(dict.fromkeys(renames.get(str(name), str(name)) for name in first))


def _by_place(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Names of a sample's columns (theirs -> ours): texts in their order, the number to the number.

    >>> _by_place(("sentence1", "sentence2", "score", "kind"), ("sentence_0", "sentence_1", "label"))
    {'sentence1': 'sentence_0', 'sentence2': 'sentence_1', 'score': 'label'}
    """
    texts = [name for name in ours if name not in LABEL_COLUMNS]
    scores = [name for name in ours if name in LABEL_COLUMNS]
    named = dict(zip([name for name in theirs if name not in LABEL_COLUMNS], texts, strict=False))
    named |= dict(zip([name for name in theirs if name in LABEL_COLUMNS], scores, strict=False))
    return {name: our for name, our in named.items() if our not in theirs}


def _checked(found: Rows, wanted: Sequence[str], source: Source) -> Iterator[dict[str, Any]]:
    """Rows with our columns alone, every value checked; a row that names several documents gives one for each."""
    names = {ours: [theirs for theirs, renamed in source.columns.items() if renamed == ours] for ours in wanted}
    names = {ours: [*theirs, *([ours] if ours not in theirs else [])] for ours, theirs in names.items()}
    documents: Mapping[str, str] | None = None
    for number, row in enumerate(found, 1):
        made: dict[str, Any] = {}
        several: tuple[str, list[str]] | None = None
        for ours, theirs in names.items():
            name = next((name for name in theirs if name in row), None)
            if name is None:
                raise _missing_column(found, row, number, theirs, ours, source)
            value = row[name]
            if isinstance(value, list) and value and found.documents is not None and ours not in LABEL_COLUMNS:
                documents = found.documents() if documents is None else documents
                several = ours, [_document(documents, each, number, name, source) for each in value]
            else:
                made[ours] = _value(value, number, name, ours, source)
        if several is None:
            yield made
        else:
            for text in several[1]:
                full = {**made, several[0]: text}
                yield {ours: full[ours] for ours in wanted}


def _document(documents: Mapping[str, str], key: Any, number: int, name: str, source: Source) -> str:
    text = documents.get(str(key), "")
    if text.strip():
        return text
    raise DataError(
        f"expected the id of a document in corpus.jsonl in {source.location!r}, row {number}, column {name!r}, found "
        f"{short(key)}; mend that row."
    )


def _missing_column(rows: Rows, row: Row, number: int, names: list[str], ours: str, source: Source) -> DataError:
    """The first row without the column, how many such rows there are, and the names that come nearest."""
    found = [str(name) for name in row]
    every, without = 0, 0
    for other in rows:
        every, without = every + 1, without + (not any(name in other for name in names))
    free = [name for name in found if name not in source.columns]
    near = get_close_matches(names[0], free, n=3, cutoff=0.3) or get_close_matches(ours, free, n=3, cutoff=0.3)
    wanted = " or ".join(repr(name) for name in names)
    suggestion = (near or free or found or ["THEIRS"])[0]
    counted = "all" if without == every else f"{without:,} of {every:,}"
    given = "".join(f"{theirs}={renamed}," for theirs, renamed in source.columns.items())
    return DataError(
        f"expected a column {wanted} in {source.location!r}, found {', '.join(map(repr, found)) or 'no columns'} in "
        f"row {number} ({counted} rows lack it); say which column it is with --columns {given}{suggestion}={ours}"
        + ("." if without == every else ", or mend these rows.")
    )


def _value(value: Any, number: int, name: str, ours: str, source: Source) -> str | int | float:
    """One cell, checked: a number for a score or label, a text that is not empty for all others."""
    if ours in LABEL_COLUMNS:
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
        f"expected {what} in {source.location!r}, row {number}, column {name!r}, found {short(value)}; "
        "mend or remove that row."
    )


# --- rows in memory or on disk -------------------------------------------------------------------------------------


def _dataset(rows: Iterator[dict[str, Any]], columns: Sequence[str], in_memory: int, key: str) -> Dataset:
    """The rows as a Dataset: in memory, or where they are more than `in_memory` in an Arrow file named for `key`."""
    from datasets import Dataset

    table: dict[str, list[Any]] = {column: [] for column in columns}
    for number, row in enumerate(rows, 1):
        for column in columns:
            table[column].append(row[column])
        if number == in_memory:
            break
    following = next(rows, None)
    if following is None:
        return Dataset.from_dict(table)
    return _on_disk(table, chain([following], rows), key)


def _on_disk(table: Mapping[str, list[Any]], rows: Iterator[dict[str, Any]], key: str) -> Dataset:
    """Write the first rows and the others to a file, whole or not at all, and map it.

    Raises DataError where the disk does not take it.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    features = datasets.Dataset.from_dict({column: values[:1000] for column, values in table.items()}).features
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "card-workbench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            written = Path(temporary) / "rows.arrow"
            with ArrowWriter(path=str(written), features=features) as writer:
                writer.write_batch(dict(table))
                while batch := list(islice(rows, ROWS_AT_ONCE)):
                    writer.write_batch({column: [row[column] for row in batch] for column in table})
                writer.finalize()
            kept = folder / f"{key}.arrow"
            written.replace(kept)
    except OSError as error:
        raise DataError(
            f"expected room for the rows in {str(folder)!r}, found {error.strerror or error}; make room, or set "
            "HF_DATASETS_CACHE to another disk."
        ) from error
    return datasets.Dataset.from_file(str(kept))
