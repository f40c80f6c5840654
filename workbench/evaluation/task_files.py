"""The evaluation task in a file, folder or Hub dataset: a search, pairs, triplets or reranking candidates.

A folder with a corpus is searched. Anything else is a table, recognized by its column names: two texts and a score are
correlated, or classified where the scores are labels of 0 and 1; an anchor, a positive and a negative are a triplet, or
reranking candidates where they are lists; an anchor and a positive alone are searched among all positives.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from workbench.data.collection import (
    SPLITS,
    Collection,
    from_folder,
    from_pairs,
    is_collection,
    is_hub_id,
    load_collection,
)
from workbench.data.columns import (
    LABEL_COLUMNS,
    SCORED_PAIR,
    TRIPLET,
    is_number,
    is_text_row,
    negative_columns,
    plain,
    scored_columns,
    triplet_columns,
)
from workbench.data.pairs import Check
from workbench.data.qrels import gains_of, judgments_of
from workbench.data.readers import READERS, Row, ending, file_rows, file_sha256, read_json, whole_text
from workbench.data.scored_pairs import is_data, read_line_pairs
from workbench.data.sources import Rows, folder_files, open_rows, sample_file
from workbench.data.training_rows import FIRST_ROWS, load_pairs, unread_columns
from workbench.errors import DataError, first_line, listed
from workbench.evaluation.tasks import NANO, NANO_MEAN, Examples, Mean, Search, Task
from workbench.recipe.schema import Source

Columns = Mapping[str, str] | Sequence[str]
"""Names of columns, theirs -> ours; or theirs alone, in the order of texts and then the score."""

Found = tuple[Task, tuple[Check, ...]]
"""A task and notes about it."""


def open_task(
    on: Collection | str | os.PathLike[str],
    columns: Columns | None = None,
    split: str | None = None,
    *,
    own_documents: bool = True,
    kinds: Sequence[str] = (),
    online: Callable[[], bool] = lambda: False,
) -> Found:
    """The task in `on`, and notes about it; `split` names the part where there are several, by default "test".

    Of the evaluators that fit the rows, one of `kinds` is taken before the usual one.

    Raises DataError where nothing there can be measured, or it is ambiguous what.
    """

    def search(collection: Collection, name: str = "search") -> Found:
        return Search(name, collection, own_documents=own_documents), ()

    if isinstance(on, Collection):
        return search(on, on.name)
    place = os.fspath(on)
    path = Path(place).expanduser()
    nano = "nanobeir" in place.lower() and not path.is_file()
    if nano and split is None:
        return _nano(place, online), ()
    if path.is_dir() and is_collection(path):
        return search(from_folder(path, split))
    if path.is_file() and ending(path) == ".json" and (whole := _whole_collection(path)) is not None:
        return search(whole)
    lines = read_line_pairs(path) if path.is_dir() or path.suffix == ".txt" else None
    if lines is not None:
        task, notes = _pairs_task(lines.name, lines.pairs, lines.gold, kinds)
        left_out = Check(
            "note", f"{lines.left_out:,} of {lines.left_out + len(lines.gold):,} pairs have no score: left out."
        )
        return task, (*notes, *([left_out] if lines.left_out else []))
    named = tuple(columns or ())
    if isinstance(columns, Mapping) and set(columns) <= {*SCORED_PAIR, *TRIPLET, "label"}:
        named = tuple(columns.values())  # given the other way round
    table = _table(place, path, split, named)
    if table is None:
        try:
            found = load_collection(place, split=split, online=online)
            return search(replace(found, name=split) if nano and split else found)
        except DataError:
            table = _hub_table(place, split, online) if is_hub_id(place) else None
            if table is None:
                raise
    return _table_task(*table, place, columns, kinds, search)


def _nano(place: str, online: Callable[[], bool]) -> Mean:
    """The collections of NanoBEIR, from any dataset of its layout, and their mean."""
    names = [f"Nano{short}" for short in NANO]
    found = [replace(load_collection(place, split=name, online=online), name=name) for name in names]
    return Mean(NANO_MEAN, tuple(map(Search, names, found)))


def _hub_table(place: str, split: str | None, online: Callable[[], bool]) -> tuple[str, Rows] | None:
    """The rows of a Hub dataset that is no collection; None where it cannot be loaded."""
    for part in [split] if split is not None else SPLITS:
        try:
            return place.rpartition("/")[2], open_rows(Source(location=place, split=part), online)
        except DataError:
            continue
    return None


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(place: str, path: Path, split: str | None, named: Sequence[str]) -> tuple[str, Rows] | None:
    """Name and rows of a sample, a file, a pattern of files, a folder of files or a saved dataset; None for others."""
    if place.startswith("sample:"):
        name = place.removeprefix("sample:")
        sample = sample_file(name, split or "test")
        return (name, _rows_of([sample], ())) if "score" in next(file_rows(sample), {}) else None
    if path.is_dir():
        return path.resolve().name, _folder_rows(path, split, named)
    if path.exists():
        if split is not None:
            raise DataError(f"expected a folder or dataset of several parts with --split, found the file {place!r}.")
        return path.name.partition(".")[0], _rows_of([path], named)
    if not any(sign in place for sign in "*?["):
        return None
    files = sorted(file for file in path.parent.glob(path.name) if file.is_file())
    if not files:
        raise DataError(f"expected files like {place!r}, found none; check the place given with --on.")
    return (files[0].name.partition(".")[0] if len(files) == 1 else path.parent.resolve().name), _rows_of(files, named)


def _rows_of(files: Sequence[Path], named: Sequence[str]) -> Rows:
    if len(files) == 1:
        return open_rows(Source(location=str(files[0]), columns=dict.fromkeys(named, "")), lambda: False)
    digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
    return Rows(lambda: chain.from_iterable(file_rows(file, named) for file in files), digest)


def _folder_rows(folder: Path, split: str | None, named: Sequence[str]) -> Rows:
    """The rows of one split: files in the folder or in data/, or a dataset that `datasets` saved."""
    if (folder / "dataset_dict.json").is_file():
        return _saved_rows(_of_split(folder, {path.name: [path] for path in sorted(folder.iterdir())}, split)[0])
    if (folder / "state.json").is_file():
        return _saved_rows(folder)
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder_files(folder, "data/*")):
        if is_data(path) and ending(path) in READERS:
            splits.setdefault(path.name.partition(".")[0].partition("-00")[0], []).append(path)
    if not splits:
        inside = listed(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise DataError(
            f"expected a collection (corpus.jsonl, queries.jsonl and qrels/test.tsv) or a file of pairs in "
            f"{str(folder)!r}, found {inside}; name the file, or the folder that holds them."
        )
    return _rows_of(_of_split(folder, splits, split), named)


def _of_split(folder: Path, splits: Mapping[str, list[Path]], split: str | None) -> list[Path]:
    """The files of `split`, else of test, dev or validation, else the only ones there are."""
    for each in [split] if split is not None else SPLITS:
        named = [name for name in splits if each in name.lower()]
        if len(named) == 1 or each in named:
            return splits[each if each in named else named[0]]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"expected one file of the split {split or 'test'!r} in {str(folder)!r}, found {listed(splits)}; name the "
        "file, or choose a split with --split."
    )


def _saved_rows(folder: Path) -> Rows:
    """Rows that `Dataset.save_to_disk` wrote."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected a dataset that was saved to disk in {str(folder)!r}, found none that can be read "
            f"({first_line(error)})."
        ) from error
    return Rows(lambda: iter(saved), str(saved._fingerprint))


# --- what the columns say --------------------------------------------------------------------------------------------


def _table_task(
    name: str,
    rows: Rows,
    place: str,
    columns: Columns | None,
    kinds: Sequence[str],
    search: Callable[[Collection], Found],
) -> Found:
    rows = _unfold(rows, place)
    first = [dict(row) for row in islice(rows, FIRST_ROWS)]
    if not first:
        raise DataError(f"expected rows in {place!r}, found none; give a file that has some.")
    whole = _all_columns(first)
    named = _mapping(columns, whole, first)

    def unread(used: Iterable[str]) -> list[Check]:
        return unread_columns(place, first, {*used, *named})

    scored = scored_columns([whole, *first[1:]], named)
    if scored is not None:
        numbered = Rows(lambda: (_with_number(row, scored) for row in rows), rows.sha256)
        one, two, scores = _read_columns(place, numbered, scored, SCORED_PAIR)
        task, notes = _pairs_task(name, tuple(zip(one, two, strict=True)), tuple(map(float, scores)), kinds)
        return task, (*notes, *unread(scored))
    roles, negatives = triplet_columns(whole, named), negative_columns(whole, named)
    if "positive" not in roles or "anchor" not in roles:
        raise _unknown_columns(place, first)
    if named and not any(ours.startswith("negative") for ours in named.values()):
        negatives = []

    def read(wanted: Sequence[str]) -> list[list[Any]]:
        theirs = {name: ours for name, ours in named.items() if ours in wanted}  # a row may have one or another
        return _read_columns(place, rows, {**theirs, **{roles[ours]: ours for ours in wanted}}, wanted)

    usual = ("TripletEvaluator", "RerankingEvaluator", "InformationRetrievalEvaluator")
    kind = next((kind for kind in usual if kind in kinds), usual[len(negatives) > 1])
    if any(isinstance(whole[column], list) for column in (roles["positive"], *negatives)):
        samples = list(_samples(place, rows, roles, negatives))
        notes = (*_left_out(samples), *unread([*roles.values(), *negatives]))
        if any(sample["positive"] and sample["negative"] for sample in samples):
            return Examples(name, usual[1], (), samples=tuple(samples)), notes
        pairs = [{"anchor": each["query"], "positive": text} for each in samples for text in each["positive"]]
        found = from_pairs(pairs, name=name, duplicates="merge")
        return search(replace(found, notes=tuple(unread([*roles.values(), *negatives]))).usable())
    if negatives and kind != usual[2]:
        roles["negative"] = negatives[0]
        if kind == usual[0] or len(negatives) == 1:
            return Examples(name, kind, tuple(zip(*read(TRIPLET), strict=True))), tuple(unread(roles.values()))
        samples = list(_samples(place, rows, roles, negatives))
        texts = tuple((each["query"], *each["positive"], *each["negative"]) for each in samples)
        return Examples(name, kind, texts), (*_left_out(samples), *unread([*roles.values(), *negatives]))
    anchors, positives = read(TRIPLET[:2])
    pairs = [{"anchor": anchor, "positive": positive} for anchor, positive in zip(anchors, positives, strict=True)]
    repeated = plain(roles["positive"]) == "context" and len(set(positives)) < len(positives)  # questions on one text
    found = from_pairs(pairs, name=name, duplicates="merge" if repeated else "separate")
    return search(replace(found, notes=tuple(unread([roles["anchor"], roles["positive"]]))).usable())


def _all_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Every column of some rows, with the first value that is not empty."""
    found: dict[str, Any] = {}
    for row in rows:
        found |= {name: value for name, value in row.items() if found.get(name) in (None, "", [])}
    return found


def _left_out(samples: Sequence[Mapping[str, Any]]) -> list[Check]:
    lacking = sum(not (sample["positive"] and sample["negative"]) for sample in samples)
    text = f"{lacking:,} of {len(samples):,} queries have no positive or no negative text: left out."
    return [Check("warning", text)] if lacking else []


def _pairs_task(name: str, pairs: tuple[tuple[str, str], ...], gold: tuple[float, ...], kinds: Sequence[str]) -> Found:
    """Correlation with scores; classification by labels of 0 and 1."""
    kind, notes = "EmbeddingSimilarityEvaluator", []
    if set(gold) == {0.0, 1.0} and kind in kinds and "BinaryClassificationEvaluator" not in kinds:
        return Examples(name, kind, pairs, gold), ()
    if len(set(gold)) == 1:
        constant = f"All {len(gold):,} pairs have the score {gold[0]:g}: no correlation with it can be computed."
        notes.append(Check("warning", constant))
    elif set(gold) <= {0.0, 1.0}:
        kind = "BinaryClassificationEvaluator"
        notes.append(Check("note", f"The scores are labels of 0 and 1: measured as by {kind}, and correlated."))
    return Examples(name, kind, pairs, gold), tuple(notes)


def _read_columns(place: str, rows: Rows, theirs: Mapping[str, str], ours: Sequence[str]) -> list[list[Any]]:
    """The columns, checked value by value."""
    found = load_pairs(Source(location=place, columns=dict(theirs)), ours, rows=rows).rows
    return [list(found[column]) for column in ours]


def _mapping(columns: Columns | None, row: Row, first: Sequence[Row]) -> dict[str, str]:
    """`columns` as theirs -> ours, also where given the other way round, or as names alone."""
    if columns is None:
        return {}
    there = set(map(str, row))
    if isinstance(columns, Mapping):
        if not there & set(columns) and set(columns.values()) <= there:
            return {ours: theirs for theirs, ours in columns.items()}
        if absent := [name for name in columns if name not in there]:
            raise DataError(
                f"expected columns of the file with --columns ({listed(sorted(there))}), found {listed(absent)}."
            )
        return dict(columns)
    missing = [name for name in columns if name not in there]
    if missing or len(columns) not in (2, 3):
        raise DataError(
            f"expected two or three of the columns {listed(sorted(there))} with --columns, found "
            f"{', '.join(columns)!r}."
        )
    numbers = len(columns) == 3 and all(is_number(row.get(columns[2])) for row in first)
    return dict(zip(columns, SCORED_PAIR if numbers else TRIPLET, strict=False))


def _unknown_columns(place: str, rows: Sequence[Row]) -> DataError:
    """The error that names the columns and suggests a mapping: the two with the longest texts, and one of numbers."""
    names = [str(name) for name in rows[0]]
    if names == [str(number) for number in range(1, len(names) + 1)]:
        shown = f"no heading but {len(names)} columns, called {', '.join(names[:8])}"
    else:
        shown = listed(names)
    if is_text_row(names):
        return DataError(
            f"expected columns of two texts and a score (or of an anchor and a positive) in {place!r}, found {shown}; "
            "if that is no heading, name columns by place: --columns 1=sentence1,2=sentence2,3=score or "
            "1=anchor,2=positive,3=negative."
        )
    numbers = [name for name in names if all(is_number(row.get(name)) for row in rows)]
    lengths = {name: sum(len(str(row.get(name))) for row in rows) for name in names if name not in numbers}
    longest = sorted(lengths, key=lambda name: -lengths[name])[:2]
    one, two = [name for name in names if name in longest] if len(longest) == 2 else ("THIS", "THAT")
    number = numbers[-1] if numbers else "NUMBER"
    return DataError(
        f"expected columns of two texts and a score (or of an anchor and a positive) in {place!r}, found {shown}; name "
        f"them with --columns {one}=sentence1,{two}=sentence2,{number}=score or {one}=anchor,{two}=positive."
    )


# --- rows of other shapes --------------------------------------------------------------------------------------------


def _unfold(rows: Rows, place: str) -> Rows:
    """Rows of a table that holds many in each: all pairs of a set as lists, or paragraphs and their questions."""
    row = next(iter(rows), {})
    if isinstance(row.get("paragraphs"), list):
        inner = _questions
    elif len(lists := _lists(row)) > 2 and any(name in LABEL_COLUMNS for name in lists):
        inner = _pairs
    else:
        return rows

    def each() -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            found = inner(row)
            if found is None:
                raise DataError(
                    f"expected rows of one shape in {place!r}, found another in row {number} (lists of different "
                    "lengths, or paragraphs without questions); fix or remove that row."
                )
            yield from found

    return Rows(each, f"{rows.sha256} unfolded")


def _lists(row: Row) -> dict[str, list[Any]]:
    """The columns that are lists, if all of them have the same length."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    return lists if len({len(value) for value in lists.values()}) == 1 else {}


def _pairs(row: Row) -> list[Row] | None:
    lists = _lists(row)
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)] if lists else None


def _questions(row: Row) -> list[Row] | None:
    """Question and context of each question on a paragraph, as SQuAD has them."""
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(isinstance(each, dict) for each in paragraphs):
        return None
    asked = [(each, paragraph) for paragraph in paragraphs for each in paragraph.get("qas") or ()]
    if not all(isinstance(each, dict) for each, _ in asked):
        return None
    return [{"question": each.get("question"), "context": paragraph.get("context")} for each, paragraph in asked]


def _with_number(row: Row, names: Mapping[str, str]) -> Row:
    """The row with its score, also where that is one of several."""
    theirs = next(name for name, ours in names.items() if ours == "score")
    value = row.get(theirs)
    if isinstance(value, Mapping):
        value = value.get("real-label", value.get("label"))
    return {**row, theirs: value}


def _samples(place: str, rows: Rows, roles: Mapping[str, str], negatives: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Query, positive and negative documents of each row; it may have fewer negatives than others, or none."""
    for number, row in enumerate(rows, 1):
        query, positive = row.get(roles["anchor"]), _texts(row.get(roles["positive"]))
        cells = [row.get(column) for column in negatives]
        negative = [_texts(cell) for cell in cells if cell is not None and cell == cell and cell != ""]  # NaN: pandas
        if not isinstance(query, str) or positive is None or None in negative:
            raise DataError(
                f"expected a query and lists of positive and negative texts in {place!r}, row {number}, found "
                f"{listed(row)}; fix or remove that row."
            )
        yield {
            "query": whole_text(query),
            "positive": positive,
            "negative": [text for texts in negative if texts is not None for text in texts],
        }


def _texts(value: Any) -> list[str] | None:
    """A list of texts, also of one; None for anything else."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return list(map(whole_text, texts))


def _whole_collection(path: Path) -> Collection | None:
    """The collection of one JSON object {queries, corpus, relevant_docs}; None for other files."""
    value = read_json(path)
    parts = [value.get(name) if isinstance(value, dict) else None for name in ("queries", "corpus", "relevant_docs")]
    if not all(isinstance(part, dict) for part in parts):
        return None
    queries, corpus, judged = ({str(key): each for key, each in part.items()} for part in parts if part is not None)
    if not all(isinstance(text, str) for text in chain(queries.values(), corpus.values())):
        raise DataError(f"expected ids and texts in the queries and the corpus of {str(path)!r}, found something else.")
    notes: list[Check] = []
    relevant = gains_of(list(judgments_of(judged, str(path))), notes)
    queries, corpus = ({whole_text(key): whole_text(each[key]) for key in each} for each in (queries, corpus))
    return Collection(path.name.partition(".")[0], queries, corpus, relevant, tuple(notes)).usable()
