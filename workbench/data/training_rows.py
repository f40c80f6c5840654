"""Training rows: pairs, triplets and scored pairs with the columns that a loss reads, checked and split.

Few rows are kept in memory, more than `ROWS_IN_MEMORY` in a memory-mapped Arrow file in the cache of `datasets`.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from workbench.data.columns import ID_NAMES, LABEL_COLUMNS, as_number, is_number, is_text_row, plain
from workbench.data.pairs import Check, Pairs, Splits
from workbench.data.readers import ROWS_AT_ONCE, Row, require_file, whole_text
from workbench.data.sources import Rows, is_beir, open_rows
from workbench.errors import DataError, listed, short
from workbench.recipe.schema import Data, Source, Split

if TYPE_CHECKING:
    from datasets import Dataset

FIRST_ROWS = 100
"""Rows that show what the columns of a table are."""
MOST_COLUMNS, LONGEST_NAME = 500, 200
SAMPLE_PARTS = ("train", "validation", "test")
ROWS_IN_MEMORY = 200_000


def count_printed_rows(
    parts: Sequence[Pairs], printed: Sequence[Mapping[str, object]], prompts: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """How many of the rows that a card prints are among `parts`, and how many it prints: the proof of its own rows."""
    places = [printed_places(part, printed, prompts) for part in parts]
    return sum(map(any, zip(*places, strict=True))), len(places[0]) if places else len(printed)


def printed_places(
    pairs: Pairs, printed: Sequence[Mapping[str, object]], prompts: Mapping[str, str] | None = None
) -> list[list[int]]:
    """Where each row that a card prints is among `pairs`: the numbers of the rows that match, from 0.

    White space is ignored; a long text that a card cuts ends with three dots; a number matches to the places that are
    printed; `prompts` (column -> prompt) may be before a text or not. Rows that hold anything but texts and numbers are
    left out.
    """
    given = prompts or {}
    rows = [
        row
        for row in printed
        if row and all(isinstance(value, str | int | float) and value != "" for value in row.values())
    ]
    by_name = all(set(row) == set(pairs.columns) for row in rows)
    wanted = [[_as_printed(row[name], given.get(name)) for name in (pairs.columns if by_name else row)] for row in rows]
    places: list[list[int]] = [[] for _ in wanted]
    for start in range(0, len(pairs) if wanted else 0, ROWS_AT_ONCE):
        batch = pairs.rows[start : start + ROWS_AT_ONCE]
        columns = [[_as_printed(value, given.get(column)) for value in batch[column]] for column in pairs.columns]
        for number, ours in enumerate(zip(*columns, strict=True), start):
            for place, theirs in zip(places, wanted, strict=True):
                if len(ours) == len(theirs) and all(map(_same_cell, ours, theirs)):
                    place.append(number)
    return places


def _as_printed(value: Any, prompt: str | None) -> Any:
    """A text with single spaces and without its prompt; any other value as it is."""
    return " ".join(value.removeprefix(prompt or "").split()) if isinstance(value, str) else value


def _same_cell(ours: Any, theirs: Any) -> bool:
    """Whether a card prints `ours` as `theirs`.

    >>> _same_cell("a long text", "a long..."), _same_cell(0.123456, 0.1235), _same_cell(0.1, 0), _same_cell(1.0, 1)
    (True, True, False, True)
    """
    if isinstance(ours, str) or isinstance(theirs, str):
        cut = isinstance(theirs, str) and theirs.endswith("...")
        return ours == theirs or (cut and isinstance(ours, str) and ours.startswith(theirs[:-3]))
    if isinstance(theirs, int):
        return bool(ours == theirs)
    exponent = Decimal(repr(theirs)).as_tuple().exponent
    return isinstance(exponent, int) and abs(ours - theirs) <= 0.5001 * 10.0**exponent


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
    wanted = tuple(columns) or tuple(dict.fromkeys(source.columns.get(str(name), str(name)) for name in first))
    broken = [name for name in wanted if whole_text(name) != name or "\0" in name or len(name) > LONGEST_NAME]
    if broken or len(wanted) > MOST_COLUMNS:
        raise DataError(
            f"expected at most {MOST_COLUMNS} columns with names of letters in {source.location!r}, found "
            f"{listed(broken or wanted)}; is each row on a line of its own, and the first a heading?"
        )
    if found.sample:
        source = source.model_copy(update={"columns": {**_by_position(tuple(first), wanted), **source.columns}})
    key = hashlib.sha256("\0".join((found.sha256, *wanted, *chain(*source.columns.items()))).encode()).hexdigest()
    made = _dataset(lambda: _checked_rows(found, wanted, source), in_memory, key)
    used = {*wanted, *(theirs for theirs, ours in source.columns.items() if ours in wanted)}
    heads = list(islice(found, FIRST_ROWS))
    checks = [] if found.sample else unread_columns(source.location, heads, used)
    absent = [theirs for theirs in source.columns if not any(theirs in row for row in heads)]
    if absent:
        checks.append(Check("warning", f"No column {listed(absent)} in {source.location!r}: not renamed."))
    return Pairs(made, wanted, found.sha256, source.location, tuple(checks))


def unread_columns(place: str, rows: Sequence[Row], used: Collection[str]) -> list[Check]:
    """A note on the columns of texts, or of scores, that nothing reads, by the first `rows`."""
    names = dict.fromkeys(name for row in rows for name in row if name not in used)
    if not all(str(name).isdigit() for name in names):  # the STS benchmark's rows have names and places
        names = {name: None for name in names if not str(name).isdigit()}
    left = [
        name
        for name in names
        if plain(str(name)) in LABEL_COLUMNS
        or (plain(str(name)) not in ID_NAMES and any(_is_text(row.get(name)) for row in rows))
    ]
    what = "Column" if len(left) == 1 else "Columns"
    return [Check("note", f"{what} of {place!r} not read: {listed(left)}.")] if left else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not is_number(value)


def load_splits(
    data: Data,
    *,
    prompts: Mapping[str, str] | None = None,
    online: Callable[[], bool] = lambda: False,
    pairs: Pairs | None = None,
) -> Splits:
    """All rows of a recipe: a sample's own three parts, or the rows (`pairs` where read already) divided as
    `data.split` says.

    `prompts` (column -> prompt) are what training puts before the texts of a column: texts that already carry theirs
    lose it, so that it does not come twice.
    """
    places = {data.name: data.train, **{each.name: each.source for each in data.more}}
    unknown = [name for name, source in places.items() if source.location == "unknown"]
    if unknown and data.more:
        raise DataError(
            f"expected rows for each of the {len(places)} datasets of the card, found none for {listed(unknown)}; name "
            f"them with --data {unknown[0]}=PATH."
        )
    parts: Sequence[Pairs | None]
    if data.train.location.startswith("sample:"):
        sources = (data.train.model_copy(update={"split": part}) for part in SAMPLE_PARTS)
        parts = [load_pairs(source, data.columns) for source in sources]
    else:
        pairs = pairs or load_pairs(data.train, data.columns, online=online)
        if is_split(pairs, data):
            text = f"the {len(pairs):,} rows are as many as the card's training part, so they are not divided again."
            parts = [replace(pairs, checks=(*pairs.checks, Check("note", text)))]
        elif data.evaluation is not None and has_rows(data.evaluation):
            parts = [pairs, load_pairs(data.evaluation, data.columns, online=online)]
        else:
            parts = [pairs] if data.split is None else split_pairs(pairs, data.split)
    more = {each.name: load_pairs(each.source, each.columns, online=online) for each in data.more}
    held_out = {
        each.name: load_pairs(each.evaluation, each.columns, online=online)
        for each in data.more
        if each.evaluation is not None and has_rows(each.evaluation)
    }
    stripped = [None if part is None else _strip_prompts(part, prompts or {}) for part in parts]
    train, validation, test = (*stripped, None, None)[:3]
    assert train is not None
    further = ({name: _strip_prompts(each, prompts or {}) for name, each in some.items()} for some in (more, held_out))
    return Splits(train, validation, test, *further)


def is_split(pairs: Pairs, data: Data) -> bool:
    """Whether rows are the training part of a split already: as many as the split of the card's rows would give."""
    rows = data.train.rows
    held_out = data.evaluation is not None and has_rows(data.evaluation)
    return (
        not held_out
        and data.split is not None
        and data.split.file is None
        and rows is not None
        and len(pairs) == split_sizes(rows, data.split)[0] < rows
    )


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
    """Split rows as calls of `datasets.Dataset.train_test_split` with `split.seed` do: first what is held out, then,
    where that gives both, the test from the validation. So a script that splits the usual way has the same rows, in the
    same order.

    `split.file` is JSON in place of that: the numbers of the rows of each part, from 0, in their order:
    {"train": [3, 0, ...], "validation": [...], "test": [...]}.

    A part of size 0 is None. Raises DataError where nothing is left to train on, or the file is no such JSON.
    """
    import numpy as np

    def part(indices: Any) -> Pairs | None:
        return replace(pairs, rows=pairs.rows.select(list(map(int, indices)))) if len(indices) else None

    if split.file is not None:
        parts = _read_split(split.file, len(pairs))
        kept = part(parts["train"])
        assert kept is not None
        return kept, part(parts.get("validation", [])), part(parts.get("test", []))
    train, validation, test = split_sizes(len(pairs), split)
    if train == 0:
        raise DataError(
            f"expected rows to train on after the split, found {len(pairs)} rows in all from {pairs.origin!r}; "
            "give more rows or a larger data.split.train."
        )
    count = validation + test
    order = np.random.default_rng(split.seed).permutation(len(pairs)) if split.shuffle else np.arange(len(pairs))
    held, trained = (order[:count], order[count:]) if split.shuffle else (order[train:][:count], order)
    if validation and test and split.shuffle:
        held = held[np.random.default_rng(split.seed).permutation(len(held))]
    kept = replace(pairs, rows=pairs.rows.select(trained[:train].tolist()))
    return kept, part(held[test:]), part(held[:test])


def _read_split(place: str, rows: int) -> dict[str, list[int]]:
    """The numbers of the rows of each part, every row in one part at most."""
    path = Path(place).expanduser()
    form = TypeAdapter(dict[Literal["train", "validation", "test"], list[Annotated[int, Field(ge=0, lt=rows)]]])
    try:
        require_file(path)
        found, wrong = form.validate_json(path.read_bytes(), strict=True), ""
    except OSError as error:
        raise DataError(f"cannot read the split {place!r}: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        found, wrong = {}, f"{first['msg']} ({'.'.join(map(str, first['loc'])) or 'the file'})"
    counts = Counter(chain.from_iterable(found.values()))
    twice = next((number for number, count in counts.items() if count > 1), None)
    wrong = wrong or ("" if twice is None else f"row {twice} twice") or ("" if found.get("train") else "none to train")
    if wrong:
        raise DataError(
            f"expected the numbers of rows (0 to {rows - 1}) for train, validation and test in the split {place!r}, "
            f"found {wrong}; fix the file."
        )
    return {str(name): part for name, part in found.items()}


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
                raise _missing_column(found, row, number, ours, names, source)
            value, place = row[name], f"in {source.location!r}, row {number}, column {short(name)}"
            label, made[ours] = ours in LABEL_COLUMNS, None
            if isinstance(value, list) and value and found.documents is not None and not label:
                documents = found.documents() if documents is None else documents
                several = ours, [_document(documents, each, place) for each in value]
            elif (cell := _cell(value, label=label)) is not None:
                made[ours] = cell
            else:
                raise _wrong_cell(found, name, value, place, label=label)
        if several is None:
            yield made
        else:
            yield from ({**made, several[0]: text} for text in several[1])


def _document(documents: Mapping[str, str], key: Any, place: str) -> str:
    text = documents.get(str(key), "")
    if text.strip():
        return text
    raise DataError(f"expected the id of a document in corpus.jsonl {place}, found {short(key)}; fix that row.")


def _missing_column(
    rows: Rows, row: Row, number: int, ours: str, wanted: Mapping[str, list[str]], source: Source
) -> DataError:
    """The first row without the column, how many such rows there are, and the nearest names."""
    names = wanted[ours]
    lacking = [not any(name in other for name in names) for other in rows]
    there = {name for other in rows for name in other}
    found = [str(name) for name in row]
    given = {theirs: name for theirs, name in source.columns.items() if theirs in there and name in wanted}
    free = [name for name in found if name not in given][:MOST_COLUMNS]
    near = get_close_matches(names[0], free, n=1, cutoff=0.3) or get_close_matches(ours, free, n=1, cutoff=0.3)
    counted = "all" if all(lacking) else f"{sum(lacking):,} of {len(lacking):,}"
    reversed_names = {name: theirs for theirs, name in source.columns.items() if name in row and theirs not in there}
    given = reversed_names or {**given, (near or free or found or ["THEIRS"])[0]: ours}
    option = f"--columns {','.join(f'{theirs}={name}' for theirs, name in given.items())}"
    advice = f"say which column it is with {option}"
    if reversed_names:
        advice = f"the names are the wrong way round, write FILE_COLUMN={next(iter(given.values()))}: {option}"
    if is_text_row(found):
        advice = f"if the first row is no heading, name columns by place: --columns 1={ours}"
    return DataError(
        f"expected a column {' or '.join(map(short, names))} in {source.location!r}, found "
        f"{listed(found) or 'no columns'} in row {number} ({counted} rows lack it); {advice}"
        + ("." if all(lacking) else ", or fix these rows.")
    )


def _cell(value: Any, *, label: bool) -> str | int | float | None:
    """A finite number for a label, a text that is not empty for all others; None where it is none."""
    if label:
        return as_number(value)
    return whole_text(value) if isinstance(value, str) and value.strip() else None


def _wrong_cell(rows: Rows, name: str, value: Any, place: str, *, label: bool) -> DataError:
    """The first cell that is wrong, and whether all of them are."""
    what = "a number" if label else "a text that is not empty" if isinstance(value, str) else "a text"
    alike = all(_cell(row.get(name), label=label) is None for row in rows)
    advice = "all rows are so, choose another column with --columns" if alike else "fix or remove that row"
    return DataError(f"expected {what} {place}, found {short(value)}; {advice}.")


def _dataset(rows: Callable[[], Iterator[dict[str, Any]]], in_memory: int, key: str) -> Dataset:
    """The rows in memory or, where they are more than `in_memory`, in an Arrow file named `key`, whole or not at all.

    Raises DataError where the disk does not take it.
    """
    import datasets
    import pyarrow
    from datasets.arrow_writer import ArrowWriter

    each = rows()
    first = list(islice(each, in_memory + 1))
    if len(first) <= in_memory:
        return datasets.Dataset.from_list(first)
    features = datasets.Dataset.from_list(first).features
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "card-workbench"

    def write(each: Iterator[dict[str, Any]], path: Path) -> None:
        with ArrowWriter(path=str(path), features=features) as writer:
            while batch := list(islice(each, ROWS_AT_ONCE)):
                writer.write_batch({column: [row[column] for row in batch] for column in features})
            writer.finalize()

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            written = Path(temporary) / "rows.arrow"
            try:
                write(chain(first, each), written)
            except pyarrow.ArrowInvalid:  # integers first, and later others
                features = datasets.Features(
                    {
                        name: datasets.Value("float64") if name in LABEL_COLUMNS else each
                        for name, each in features.items()
                    }
                )
                write(rows(), written)
            stored = written.replace(folder / f"{key}.arrow")
    except OSError as error:
        raise DataError(
            f"expected room for the rows in {str(folder)!r}, found {error.strerror or error}; make room, or set "
            "HF_DATASETS_CACHE to another disk."
        ) from error
    return datasets.Dataset.from_file(str(stored))
