"""Training rows: pairs, triplets and scored pairs with the columns that a loss reads, checked and split.

Few rows are kept in memory, more than `ROWS_IN_MEMORY` in a memory-mapped Arrow file in the cache of `datasets`.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.columns import LABEL_COLUMNS
from workbench.data.pairs import Check, Pairs, Splits
from workbench.data.readers import ROWS_AT_ONCE, Row, Rows, is_beir, open_rows, short
from workbench.errors import DataError
from workbench.recipe.schema import Data, Source, Split

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE_PARTS = ("train", "validation", "test")
ROWS_IN_MEMORY = 200_000


def count_printed_rows(parts: Sequence[Pairs], printed: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """How many of the rows that a card prints are among `parts`, and how many it prints: the proof of its own rows.

    White space is ignored; a long text that a card cuts ends with three dots. Rows that hold anything but texts are
    left out, because cards round numbers.
    """

    def matches(ours: Sequence[str], theirs: Sequence[str]) -> bool:
        return len(ours) == len(theirs) and all(
            mine.startswith(text[:-3]) if text.endswith("...") else mine == text
            for mine, text in zip(ours, theirs, strict=True)
        )

    wanted = [row for row in ([_squeeze(value) for value in row.values()] for row in printed) if row and all(row)]
    missing = list(wanted)
    for pairs in parts:
        for start in range(0, len(pairs), ROWS_AT_ONCE):
            batch = pairs.rows[start : start + ROWS_AT_ONCE]
            for values in zip(*(batch[column] for column in pairs.columns), strict=True):
                ours = [_squeeze(value) for value in values]
                missing = [row for row in missing if not matches(ours, row)]
    return len(wanted) - len(missing), len(wanted)


def _squeeze(value: object) -> str:
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
    it has. A sample's columns are matched by position. Where a text column holds ids of a corpus beside the file
    (corpus.jsonl), each id gives a row with that document's text. `online` is asked once, and only where rows must
    come from the Hub. Rows beyond `in_memory` go to disk. `rows` are those of the source where already opened.

    Raises DataError, naming row and column, where rows are missing, damaged, empty or of the wrong type.
    """
    found = open_rows(source, online) if rows is None else rows
    first = next(iter(found), None)
    if first is None:
        raise DataError(f"expected rows in {source.location!r}, found none; give a file that has some with --data.")
    names = map(str, first)
    wanted = tuple(columns) or tuple(dict.fromkeys(source.columns.get(name, name) for name in names))
    if found.sample:
        source = source.model_copy(update={"columns": {**_by_position(tuple(first), wanted), **source.columns}})
    key = hashlib.sha256("\0".join((found.sha256, *wanted, *chain(*source.columns.items()))).encode()).hexdigest()
    return Pairs(_dataset(_checked_rows(found, wanted, source), in_memory, key), wanted, found.sha256, source.location)


def load_splits(
    data: Data, *, prompts: Mapping[str, str] | None = None, online: Callable[[], bool] = lambda: False
) -> Splits:
    """All rows of a recipe: a sample's own three parts, or the rows divided as `data.split` says.

    `prompts` (column -> prompt) are what training puts before the texts of a column: texts that already carry theirs
    lose it, so that it does not come twice. Further datasets only train.
    """
    parts: Sequence[Pairs | None]
    if data.train.location.startswith("sample:"):
        sources = (data.train.model_copy(update={"split": part}) for part in SAMPLE_PARTS)
        parts = [load_pairs(source, data.columns) for source in sources]
    else:
        pairs = load_pairs(data.train, data.columns, online=online)
        if data.evaluation is not None and has_rows(data.evaluation):
            parts = [pairs, load_pairs(data.evaluation, data.columns, online=online)]
        else:
            parts = [pairs] if data.split is None else split_pairs(pairs, data.split)
    more = {each.name: load_pairs(each.source, each.columns, online=online) for each in data.more}
    stripped = [None if part is None else _strip_prompts(part, prompts or {}) for part in parts]
    train, validation, test = (*stripped, None, None)[:3]
    assert train is not None
    return Splits(train, validation, test, {name: _strip_prompts(each, prompts or {}) for name, each in more.items()})


def has_rows(source: Source) -> bool:
    """Whether evaluation data are rows like the training's, and not a collection."""
    if source.location == "unknown" or "nanobeir" in source.location.lower():
        return False
    return not is_beir(Path(os.path.expanduser(source.location)))


def _strip_prompts(pairs: Pairs, prompts: Mapping[str, str]) -> Pairs:
    """`pairs` without the prompts that texts of a column start with; a note says how many did."""
    notes = []
    rows = pairs.rows
    for column, prompt in prompts.items():
        texts = list(rows[column]) if prompt and column in pairs.columns else []
        carried = sum(text.startswith(prompt) for text in texts)
        if not carried:
            continue
        stripped = [text.removeprefix(prompt) for text in texts]
        empty = next((number for number, text in enumerate(stripped, 1) if not text.strip()), None)
        if empty is not None:
            raise DataError(
                f"expected a text after the prompt {prompt!r} in {pairs.origin!r}, row {empty}, column {column!r}, "
                "found none; fix or remove that row."
            )
        rows = rows.remove_columns(column).add_column(column, stripped).select_columns(rows.column_names)
        said = (
            f"{carried:,} of {len(rows):,} texts of column {column!r} carried the prompt {prompt!r}; it was removed, "
        )
        notes.append(Check("note", f"{said}because training adds it."))
    return replace(pairs, rows=rows, checks=(*pairs.checks, *notes))


def split_sizes(rows: int, split: Split) -> tuple[int, int, int]:
    """Rows for training, validation and test.

    Training takes the whole part of its share; the test takes its share of the rest, rounded up: the sizes that two
    calls of `train_test_split` give, as most cards split. Shares that add up to less than 1 leave rows out.

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
    """Split rows as two calls of `datasets.Dataset.train_test_split` with `split.seed` do: first what is held out, then
    the test from that. So a script that splits the usual way trains on the same rows.

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

    def part(indices: Any) -> Pairs | None:
        return replace(pairs, rows=pairs.rows.select(indices.tolist())) if len(indices) else None

    trained = replace(pairs, rows=pairs.rows.select(order[len(held) : len(held) + train].tolist()))
    return trained, part(held[again[test:]]), part(held[again[:test]])


def _by_position(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Names of a sample's columns (theirs -> ours): texts in their order, the number to the number.

    >>> _by_position(("sentence1", "sentence2", "score", "kind"), ("sentence_0", "sentence_1", "label"))
    {'sentence1': 'sentence_0', 'sentence2': 'sentence_1', 'score': 'label'}
    """
    named: dict[str, str] = {}
    for labels in (False, True):
        sides = ([name for name in names if (name in LABEL_COLUMNS) == labels] for names in (theirs, ours))
        named |= dict(zip(*sides, strict=False))
    return {name: our for name, our in named.items() if our not in theirs}


def _checked_rows(found: Rows, wanted: Sequence[str], source: Source) -> Iterator[dict[str, Any]]:
    """Rows with our columns alone, every value checked; a row that names several documents gives one for each."""
    names = {
        ours: list(dict.fromkeys([*(theirs for theirs, name in source.columns.items() if name == ours), ours]))
        for ours in wanted
    }
    documents: Mapping[str, str] | None = None
    for number, row in enumerate(found, 1):
        made: dict[str, Any] = {}
        several: tuple[str, list[str]] | None = None
        for ours, theirs in names.items():
            name = next((name for name in theirs if name in row), None)
            if name is None:
                raise _missing_column(found, row, number, theirs, ours, source)
            value, place = row[name], f"in {source.location!r}, row {number}, column {name!r}"
            made[ours] = None
            if isinstance(value, list) and value and found.documents is not None and ours not in LABEL_COLUMNS:
                documents = found.documents() if documents is None else documents
                several = ours, [_document(documents, each, place) for each in value]
            else:
                made[ours] = _checked_value(value, place, label=ours in LABEL_COLUMNS)
        if several is None:
            yield made
        else:
            yield from ({**made, several[0]: text} for text in several[1])


def _document(documents: Mapping[str, str], key: Any, place: str) -> str:
    text = documents.get(str(key), "")
    if text.strip():
        return text
    raise DataError(f"expected the id of a document in corpus.jsonl {place}, found {short(key)}; fix that row.")


def _missing_column(rows: Rows, row: Row, number: int, names: list[str], ours: str, source: Source) -> DataError:
    """The first row without the column, how many such rows there are, and the nearest names."""
    lacking = [not any(name in other for name in names) for other in rows]
    found = [str(name) for name in row]
    free = [name for name in found if name not in source.columns]
    near = get_close_matches(names[0], free, n=1, cutoff=0.3) or get_close_matches(ours, free, n=1, cutoff=0.3)
    counted = "all" if all(lacking) else f"{sum(lacking):,} of {len(lacking):,}"
    given = "".join(f"{theirs}={renamed}," for theirs, renamed in source.columns.items())
    return DataError(
        f"expected a column {' or '.join(map(repr, names))} in {source.location!r}, found "
        f"{', '.join(map(repr, found)) or 'no columns'} in row {number} ({counted} rows lack it); say which column it "
        f"is with --columns {given}{(near or free or found or ['THEIRS'])[0]}={ours}"
        + ("." if all(lacking) else ", or fix these rows.")
    )


def _checked_value(value: Any, place: str, *, label: bool) -> str | int | float:
    """One cell: a finite number for a label, a text that is not empty for all others."""
    if label:
        try:
            number = float(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, (int, float)) and math.isfinite(number):
            return number
    elif isinstance(value, str) and value.strip():
        return value
    what = "a number" if label else "a text that is not empty" if isinstance(value, str) else "a text"
    raise DataError(f"expected {what} {place}, found {short(value)}; fix or remove that row.")


def _dataset(rows: Iterator[dict[str, Any]], in_memory: int, key: str) -> Dataset:
    """The rows in memory or, where they are more than `in_memory`, in an Arrow file named `key`, whole or not at all.

    Raises DataError where the disk does not take it.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    first = list(islice(rows, in_memory + 1))
    if len(first) <= in_memory:
        return datasets.Dataset.from_list(first)
    features = datasets.Dataset.from_list(first[:1000]).features
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "card-workbench"
    rows = chain(first, rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            written = Path(temporary) / "rows.arrow"
            with ArrowWriter(path=str(written), features=features) as writer:
                while batch := list(islice(rows, ROWS_AT_ONCE)):
                    writer.write_batch({column: [row[column] for row in batch] for column in features})
                writer.finalize()
            stored = written.replace(folder / f"{key}.arrow")
    except OSError as error:
        raise DataError(
            f"expected room for the rows in {str(folder)!r}, found {error.strerror or error}; make room, or set "
            "HF_DATASETS_CACHE to another disk."
        ) from error
    return datasets.Dataset.from_file(str(stored))
