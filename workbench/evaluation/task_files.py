"""What is measured on a place that a person names: a search, scored or labelled pairs, triplets, short lists.

A folder with a corpus is searched. Anything else is a table, told by the names of its columns: two texts and a score
are correlated, with labels of 0 and 1 told apart; an anchor, a positive and a negative are a triplet, with lists of
them a short list to rank; an anchor and a positive alone are searched among all positives. `columns` names what goes
by another name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from workbench.data.checks import Check
from workbench.data.collection import (
    SPLITS,
    Collection,
    from_folder,
    from_pairs,
    is_collection,
    is_hub_id,
    load_collection,
)
from workbench.data.columns import SCORED_PAIR, TRIPLET, is_number, plain, scored_columns, triplet_columns
from workbench.data.qrels import judgments_of
from workbench.data.readers import READERS, Row, Rows, ending, file_rows, file_sha256, open_rows, read_json, sample_file
from workbench.data.scored_pairs import is_data, read_line_pairs
from workbench.data.training_rows import load_pairs
from workbench.errors import DataError
from workbench.evaluation.tasks import NANO, NANO_MEAN, Examples, Mean, Search, Task
from workbench.recipe.schema import Source

Columns = Mapping[str, str] | Sequence[str]
"""Names of columns, theirs -> ours; or theirs alone, in the order of texts and then the score."""


@dataclass(frozen=True)
class Measured:
    """A task and what is to be known of it."""

    task: Task
    notes: tuple[Check, ...] = ()


def open_task(
    on: Collection | str | os.PathLike[str],
    columns: Columns | None = None,
    split: str | None = None,
    *,
    own_documents: bool = True,
    online: Callable[[], bool] = lambda: False,
) -> Measured:
    """The task that `on` asks for; `split` names the part where there are several, "test" without it.

    Raises DataError where nothing can be measured there, and where it is not clear what.
    """

    def search(collection: Collection) -> Measured:
        return Measured(Search("search", collection, own_documents=own_documents))

    if isinstance(on, Collection):
        return Measured(Search(on.name, on, own_documents=own_documents))
    place = os.fspath(on)
    path = Path(place).expanduser()
    nano = "nanobeir" in place.lower() and not path.is_file()
    if nano and split is None:
        return Measured(_nano(place, online))
    if path.is_dir() and is_collection(path):
        return search(from_folder(path, split))
    if path.is_file() and ending(path) == ".json" and (whole := _whole_collection(path)) is not None:
        return search(whole)
    beside = read_line_pairs(path) if path.is_dir() or path.suffix == ".txt" else None
    if beside is not None:
        return _pairs_task(beside.name, beside.pairs, beside.gold)
    table = _table(place, path, split)
    if table is None:
        try:
            found = load_collection(place, split=split, online=online)
            return search(replace(found, name=split) if nano and split else found)
        except DataError:
            table = _hub_table(place, split, online) if is_hub_id(place) else None
            if table is None:
                raise
    name, rows = table
    return _of_table(name, place, rows, columns, search)


def _nano(place: str, online: Callable[[], bool]) -> Mean:
    """The collections of NanoBEIR, from any dataset of its layout, and their mean."""
    names = [f"Nano{short}" for short in NANO]
    found = [replace(load_collection(place, split=name, online=online), name=name) for name in names]
    return Mean(NANO_MEAN, tuple(Search(each.name, each) for each in found))


def _hub_table(place: str, split: str | None, online: Callable[[], bool]) -> tuple[str, Rows] | None:
    """The rows of a Hub dataset that is no collection; None where it cannot be had."""
    for part in [split] if split is not None else SPLITS:
        try:
            return place.rpartition("/")[2], open_rows(Source(location=place, split=part), online)
        except DataError:
            continue
    return None


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(place: str, path: Path, split: str | None) -> tuple[str, Rows] | None:
    """Name and rows of a file, a pattern of files, a folder of files or a saved dataset; None where it is none."""
    if place.startswith("sample:"):
        name = place.removeprefix("sample:")
        sample = sample_file(name, split or "test")
        return (name, _rows_of([sample])) if "score" in next(file_rows(sample), {}) else None
    if path.is_dir():
        return path.resolve().name, _folder_rows(path, split)
    if path.is_file():
        return path.name.partition(".")[0], _rows_of([path])
    if any(sign in place for sign in "*?["):
        files = sorted(file for file in path.parent.glob(path.name) if file.is_file())
        if not files:
            raise DataError(f"expected files like {place!r}, found none; check the place given with --on.")
        return (files[0].name.partition(".")[0] if len(files) == 1 else path.parent.resolve().name), _rows_of(files)
    return None


def _rows_of(files: Sequence[Path]) -> Rows:
    if len(files) == 1:
        return open_rows(Source(location=str(files[0])), lambda: False)
    digest = hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()
    return Rows(lambda: chain.from_iterable(map(file_rows, files)), digest)


def _folder_rows(folder: Path, split: str | None) -> Rows:
    """The rows of one split: files in the folder or in data/, or a dataset that `datasets` saved."""
    if (folder / "dataset_dict.json").is_file():
        return _saved_rows(_of_split(folder, {path.name: [path] for path in sorted(folder.iterdir())}, split)[0])
    if (folder / "state.json").is_file():
        return _saved_rows(folder)
    files = sorted(path for place in (folder, folder / "data") for path in place.glob("*") if is_data(path))
    files = [path for path in files if ending(path) in READERS]
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(path.name.partition(".")[0].partition("-00")[0], []).append(path)
    if not splits:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"expected a collection (corpus.jsonl, queries.jsonl and qrels/test.tsv) or a file of pairs in "
            f"{str(folder)!r}, found {inside}; name the file, or the folder that holds them."
        )
    return _rows_of(_of_split(folder, splits, split))


def _of_split(folder: Path, splits: Mapping[str, list[Path]], split: str | None) -> list[Path]:
    """The files of `split`, else of test, dev or validation, else the only ones there are."""
    for each in [split] if split is not None else SPLITS:
        named = [name for name in splits if each in name.lower()]
        if len(named) == 1 or each in named:
            return splits[each if each in named else named[0]]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"expected one file of the split {split or 'test'!r} in {str(folder)!r}, found {', '.join(splits)}; name the "
        "file, or choose a split with --split."
    )


def _saved_rows(folder: Path) -> Rows:
    """Rows that `Dataset.save_to_disk` wrote."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected a dataset that was saved to disk in {str(folder)!r}, found none that can be read ({error})."
        ) from error
    return Rows(lambda: iter(saved), str(saved._fingerprint))


# --- what the columns say --------------------------------------------------------------------------------------------


def _of_table(
    name: str, place: str, rows: Rows, columns: Columns | None, search: Callable[[Collection], Measured]
) -> Measured:
    if _folded(next(iter(rows), {})):
        folded, rows = rows, Rows(lambda: _unfolded(folded), f"{rows.sha256} unfolded")
    first = [dict(row) for row in islice(rows, 100)]
    if not first:
        raise DataError(f"expected rows in {place!r}, found none; give a file that has some.")
    named = _mapping(columns, first)
    scored = scored_columns(first, named)
    if scored is not None:
        texts = _columns_of(place, Rows(lambda: map(_with_number(scored), rows), rows.sha256), scored, SCORED_PAIR)
        pairs = tuple(zip(texts[0], texts[1], strict=True))
        return _pairs_task(name, pairs, tuple(map(float, texts[2])))
    roles = triplet_columns(first[0], named)
    if "positive" not in roles or "anchor" not in roles:
        raise _unknown_columns(place, first)
    if "negative" in roles and (not named or "negative" in named.values()):
        if isinstance(first[0][roles["negative"]], list):
            return Measured(Examples(name, "RerankingEvaluator", (), samples=tuple(_lists(place, rows, roles))))
        theirs = _theirs(roles, named, TRIPLET)
        triplets = tuple(zip(*_columns_of(place, rows, theirs, TRIPLET), strict=True))
        return Measured(Examples(name, "TripletEvaluator", triplets))
    theirs = _theirs(roles, named, TRIPLET[:2])
    anchors, positives = _columns_of(place, rows, theirs, TRIPLET[:2])
    made = [{"anchor": anchor, "positive": positive} for anchor, positive in zip(anchors, positives, strict=True)]
    again = plain(roles["positive"]) == "context" and len(set(positives)) < len(positives)  # questions on one text
    return search(from_pairs(made, name=name, duplicates="merge" if again else "separate").usable())


def _pairs_task(name: str, pairs: Sequence[tuple[str, str]], gold: Sequence[float]) -> Measured:
    """Correlated with scores; labels of 0 and 1 are told apart."""
    if len(set(gold)) == 1:
        said = f"All {len(gold):,} pairs have the score {gold[0]:g}: no correlation with it can be computed."
        return Measured(
            Examples(name, "EmbeddingSimilarityEvaluator", tuple(pairs), tuple(gold)), (Check("warning", said),)
        )
    if set(gold) <= {0.0, 1.0}:
        said = "The scores are labels of 0 and 1: measured as by BinaryClassificationEvaluator, and correlated."
        return Measured(
            Examples(name, "BinaryClassificationEvaluator", tuple(pairs), tuple(gold)), (Check("note", said),)
        )
    return Measured(Examples(name, "EmbeddingSimilarityEvaluator", tuple(pairs), tuple(gold)))


def _columns_of(place: str, rows: Rows, theirs: Mapping[str, str], ours: Sequence[str]) -> list[list[Any]]:
    """The columns, checked value by value."""
    found = load_pairs(Source(location=place, columns=dict(theirs)), ours, rows=rows).rows
    return [list(found[column]) for column in ours]


def _mapping(columns: Columns | None, first: Sequence[Row] = ()) -> dict[str, str]:
    """`columns` as theirs -> ours, also where it was given the other way round, or as names alone."""
    if columns is None or not first:
        return dict(columns) if isinstance(columns, Mapping) else {}
    there = set(map(str, first[0]))
    if isinstance(columns, Mapping):
        turned = not there & set(columns) and set(columns.values()) <= there
        return {ours: theirs for theirs, ours in columns.items()} if turned else dict(columns)
    missing = [name for name in columns if name not in there]
    if missing or len(columns) not in (2, 3):
        raise DataError(
            f"expected two or three of the columns {', '.join(map(repr, sorted(there)))} with --columns, found "
            f"{', '.join(columns)!r}."
        )
    numbers = len(columns) == 3 and all(is_number(row.get(columns[2])) for row in first)
    return dict(zip(columns, SCORED_PAIR if numbers else TRIPLET, strict=False))


def _theirs(roles: Mapping[str, str], named: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Names of columns -> ours, with all that were named for one of ours: rows may have one or another."""
    said = {theirs: ours for theirs, ours in named.items() if ours in wanted}
    return {**said, **{roles[ours]: ours for ours in wanted}}


def _unknown_columns(place: str, rows: Sequence[Row]) -> DataError:
    """What was found, and a guess at what it may be: the two columns of the longest texts, and one of numbers."""
    names = [str(name) for name in rows[0]]
    if names == [str(number) for number in range(1, len(names) + 1)]:
        shown = f"no heading but {len(names)} columns, called {', '.join(names)}"
    else:
        shown = ", ".join(map(repr, names))
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


def _folded(row: Row) -> bool:
    """Whether a row holds many: all pairs of a set as lists, or the paragraphs of an article and their questions."""
    paragraphs = row.get("paragraphs")
    lists = [value for value in row.values() if isinstance(value, list)]
    same = len(lists) > 2 and len({len(value) for value in lists}) == 1
    labels = any(isinstance(row.get(name), list) for name in ("labels", "label", "score", "scores"))
    return isinstance(paragraphs, list) or (same and labels)


def _unfolded(rows: Rows) -> Iterator[Row]:
    for row in rows:
        if not isinstance(row.get("paragraphs"), list):
            lists = {name: value for name, value in row.items() if isinstance(value, list)}
            yield from (dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True))
            continue
        for paragraph in row["paragraphs"]:
            for asked in paragraph.get("qas", ()):
                yield {"question": asked.get("question"), "context": paragraph.get("context")}


def _with_number(names: Mapping[str, str]) -> Callable[[Row], Row]:
    """A row whose score is a number, also where it is said in words or lies among others."""
    theirs = next(name for name, ours in names.items() if ours == "score")

    def numbered(row: Row) -> Row:
        value = row.get(theirs)
        if isinstance(value, Mapping):
            value = value.get("real-label", value.get("label"))
        if isinstance(value, str):
            value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
        return {**row, theirs: value}

    return numbered


def _lists(place: str, rows: Rows, roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Query, positive and negative documents of each row."""
    for number, row in enumerate(rows, 1):
        query = row.get(roles["anchor"])
        sides = [row.get(roles[ours]) for ours in TRIPLET[1:]]
        sides = [[side] if isinstance(side, str) else side for side in sides]
        if not isinstance(query, str) or not all(isinstance(side, list) for side in sides):
            raise DataError(
                f"expected a query and lists of positive and negative texts in {place!r}, row {number}, found "
                f"{', '.join(map(repr, row))}; fix or remove that row."
            )
        if not all(isinstance(text, str) for side in sides for text in side or ()):
            raise DataError(f"expected only texts in the lists of {place!r}, row {number}; fix or remove that row.")
        yield {"query": query, "positive": list(sides[0] or ()), "negative": list(sides[1] or ())}


def _whole_collection(path: Path) -> Collection | None:
    """The collection of one JSON object {queries, corpus, relevant_docs}; None where the file is none."""
    value = read_json(path)
    parts = [value.get(name) if isinstance(value, dict) else None for name in ("queries", "corpus", "relevant_docs")]
    if not all(isinstance(part, dict) for part in parts):
        return None
    queries, corpus, judged = ({str(key): each for key, each in part.items()} for part in parts if part is not None)
    if not all(isinstance(text, str) for text in chain(queries.values(), corpus.values())):
        raise DataError(f"expected ids and texts in the queries and the corpus of {str(path)!r}, found something else.")
    relevant: dict[str, dict[str, float]] = {}
    for query, document, gain in judgments_of(judged, str(path)):
        relevant.setdefault(query, {}).update({document: gain} if gain > 0 else {})
    return Collection(path.name.partition(".")[0], queries, corpus, relevant).usable()
