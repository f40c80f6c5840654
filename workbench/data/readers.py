"""Rows of a file, a folder, a shipped sample or a Hub dataset, one at a time.

Files are read here and not by `datasets`, whose errors name neither row nor column. Rows count from 1; a header is not
a row. JSON is read whole, everything else lazily, so millions of rows fit.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from workbench.data.columns import is_number
from workbench.errors import DataError, WorkbenchError
from workbench.recipe.schema import Source
from workbench.resources import shipped_path

Row = Mapping[str, Any]

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
FIRST_ROWS = re.compile(r"(\w+)\[:(\d+)\]")
"""The first rows of a split, `train[:20000]`: streamed where that saves a download."""

ROWS_AT_ONCE = 10_000
QUOTED_LINES = 10_000  # lines that decide whether quotation marks are text
NOT_CACHED = "the Hub cannot be reached and the local cache does not have it"

STS_BENCHMARK = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")
"""Columns of the STS benchmark's files, which have no heading; further fields are the source."""


@dataclass(frozen=True)
class Rows:
    """The rows of a place. Iterating again reads again."""

    each: Callable[[], Iterator[Row]]
    sha256: str  # of the file's bytes; of the rows where there is no single file
    documents: Callable[[], Mapping[str, str]] | None = None  # id -> text, where rows name documents by id
    sample: bool = False  # columns are matched by position: a sample stands in for rows with other names

    def __iter__(self) -> Iterator[Row]:
        return self.each()


def open_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """The rows at `source.location`; of a large file only the hash is read yet.

    Raises DataError where there is nothing, now or while the rows are read.
    """
    location = source.location
    if location == "unknown" or not location.strip():
        raise DataError(f"expected a place to take training rows from, found {location!r}; name one with --data.")
    if location.startswith("sample:"):
        path = sample_file(location.removeprefix("sample:"), source.split or "train")
        return Rows(lambda: file_rows(path), file_sha256(path), sample=True)
    path = Path(os.path.expanduser(location))
    if os.path.isfile(path):
        _reader(path)
        corpus = path.with_name("corpus.jsonl")
        documents = (lambda: _documents(corpus)) if corpus.is_file() and corpus != path else None
        return Rows(lambda: file_rows(path), file_sha256(path), documents)
    if os.path.isdir(path):
        return _folder_rows(path, source)
    local = ending(path) in READERS or path.is_absolute() or location.startswith((".", "~"))
    if local or not HUB_ID.fullmatch(location):
        raise DataError(f"expected a file of rows at {location!r}, found none; check the path.")
    return _hub_rows(source, online)


def sample_file(name: str, part: str) -> Path:
    """The Parquet file of one part of a shipped sample. Raises DataError where there is none."""
    try:
        return shipped_path(f"data/samples/{name}/{part}.parquet")
    except WorkbenchError:
        known = ", ".join(f"sample:{sample}" for sample in shipped_samples()) or "none"
        raise DataError(
            f"expected a shipped sample with rows for {part!r}, found 'sample:{name}'; there are: {known}."
        ) from None


def shipped_samples() -> tuple[str, ...]:
    """Names of the samples that came with the workbench."""
    try:
        folder = shipped_path("data/samples")
    except WorkbenchError:
        return ()
    return tuple(sorted(path.parent.name for path in folder.glob("*/train.parquet")))


def sample_distractors(name: str) -> list[str]:
    """Documents of a sample that answer none of its questions; most samples have none."""
    try:
        path = shipped_path(f"data/samples/{name}/corpus.parquet")
    except WorkbenchError:
        return []
    return [str(row["positive"]) for row in file_rows(path)]


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, read as its ending says. Raises DataError where it cannot be read."""
    try:
        yield from _reader(path)(path)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged gzip file
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"expected to read {str(path)!r}, found {getattr(error, 'strerror', None) or error}.")


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    reader = READERS.get(ending(path))
    if reader is None or (ending(path) == ".parquet" and path.suffix.lower() == ".gz"):
        raise DataError(
            f"expected a file ending in {', '.join(READERS)}, found {path.name!r}; convert it to one of these."
        )
    return reader


def ending(path: Path) -> str:
    """The file type by its name, without .gz.

    >>> ending(Path("corpus.JSONL")), ending(Path("corpus.jsonl.gz"))
    ('.jsonl', '.jsonl')
    """
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, unzipped: UTF-8, or UTF-16 with a byte order mark, which is never part of the text."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            try:
                with io.TextIOWrapper(file, encoding="utf-16", newline="") as text:
                    yield from text
            except UnicodeDecodeError as error:
                found = f"expected UTF-16 text in {path.name!r}, found a broken end"
                raise DataError(f"{found}; save it as UTF-8.") from error
            return
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"expected UTF-8 text in {path.name!r}, found byte {line[error.start]:#04x} in line {number}; "
                    "save it as UTF-8."
                ) from error


def short(value: Any) -> str:
    """A value for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def read_json(path: Path) -> Any:
    """The value in a JSON file; a list of its objects where it has one a line, whatever its name says.

    Raises DataError naming the line that is not JSON.
    """
    name = path.name
    try:
        return json.loads("".join(text_lines(path)))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.colno == 1:
            return list(_read_jsonl(path))
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found a break in line {error.lineno}, column "
            f"{error.colno} ({error.msg}); fix that line, or use the ending .jsonl for one object a line."
        ) from error
    except RecursionError as error:
        raise DataError(f"expected a JSON list of objects in {name!r}, found values nested too deep.") from error


def _read_json(path: Path) -> Iterator[Row]:
    rows = enumerate(_json_rows(read_json(path), path.name), 1)
    return (_as_row(row, number, path.name) for number, row in rows)


def _json_rows(value: Any, name: str) -> Iterable[Any]:
    """A list; the only list of objects in an object; or an object of columns, as lists or as pandas writes them."""
    found = type(value).__name__
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        columns = list(value.values())
        tables = [each for each in columns if isinstance(each, list) and each and isinstance(each[0], dict)]
        if len(tables) == 1:
            return iter(tables[0])
        lists, objects = (all(isinstance(each, kind) for each in columns) for kind in (list, dict))
        if columns and lists and not tables and len({len(each) for each in columns}) == 1:
            return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if columns and objects and all(each.keys() == columns[0].keys() for each in columns):
            return [{column: cells[row] for column, cells in value.items()} for row in columns[0]]
        found = f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing in it'}"
    raise DataError(f"expected a JSON list of objects in {name!r}, found {found}; put the rows into one list.")


def _read_jsonl(path: Path) -> Iterator[Row]:
    lines = ((number, line) for number, line in enumerate(text_lines(path), 1) if line.strip())
    for row, (number, line) in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "values nested too deep"
            shown = line.rstrip("\r\n")[:40]
            raise DataError(
                f"expected one JSON object a line in {path.name!r}, found {shown!r} in line {number} ({why}); fix or "
                "remove that line."
            ) from error
        yield _as_row(value, row, path.name)


def _as_row(value: Any, number: int, name: str) -> Row:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return _number_columns(value)
    raise DataError(
        f"expected an object with one key a column in {name!r}, row {number}, found {short(value)}; fix that row."
    )


def _number_columns(cells: Sequence[Any]) -> Row:
    """A row of a table without a heading: its columns are 1, 2, 3, ..."""
    return {str(place): value for place, value in enumerate(cells, 1)}


def read_table(path: Path, headed: bool | None = None) -> Iterator[Row]:
    """Rows under a heading; a first row with a number in it is data, with the columns 1, 2, 3, ... (and, where it is
    one of the STS benchmark's, also under its names). `headed` says so where it is known.

    Tabs separate fields; in a .csv whatever the first line has most of, because some are not comma-separated.
    """
    name = path.name
    delimiter = max(",\t;|", key=next(text_lines(path), "").count) if ending(path) == ".csv" else "\t"
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" and not _is_quoted(path) else csv.QUOTE_MINIMAL
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(text_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        first = next(reader, [])
        headed = not any(map(is_number, first)) if headed is None else headed
        sts = not headed and len(first) >= len(STS_BENCHMARK) and is_number(first[4])
        lines = (fields for fields in (reader if headed else chain([first], reader)) if fields)
        for number, fields in enumerate(lines, 1):
            if len(fields) != len(first) and not (sts and len(fields) >= len(STS_BENCHMARK)):
                raise DataError(
                    f"expected {len(first)} fields a row in {name!r}, found {len(fields)} in row {number} "
                    f"(line {reader.line_num}); fix that row."
                )
            if headed:
                yield dict(zip(first, fields, strict=True))
            else:
                yield {**(dict(zip(STS_BENCHMARK, fields, strict=False)) if sts else {}), **_number_columns(fields)}
    except csv.Error as error:
        raise DataError(
            f"expected fields separated by {delimiter!r} in {name!r}, found {error} at line {reader.line_num}; "
            "fix that line."
        ) from error


def _is_quoted(path: Path) -> bool:
    """Whether quotation marks around the fields of a tab-separated table are not text, as they are in the STS
    benchmark: every field of the first line has them, or marks only enclose fields or are doubled, and some are."""
    lines = (line.rstrip("\r\n").split("\t") for line in islice(text_lines(path), QUOTED_LINES))
    first = next(lines, [])
    if all(map(_is_enclosed, first)):
        return True
    marked = [field for line in chain([first], lines) for field in line if '"' in field]
    inside = [field[1:-1] for field in marked]
    doubled = any('""' in field for field in inside) and not any('"' in field.replace('""', "") for field in inside)
    return doubled and all(map(_is_enclosed, marked))


def _is_enclosed(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"'


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"expected a Parquet table in {path.name!r}, found something else ({error}).") from error


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_table,
    ".parquet": _read_parquet,
}


def is_beir(folder: Path) -> bool:
    """Whether a folder has BEIR's layout: documents, queries and qrels."""
    return all((folder / name).is_file() for name in ("corpus.jsonl", "queries.jsonl")) and (folder / "qrels").is_dir()


def _folder_rows(folder: Path, source: Source) -> Rows:
    """BEIR's files joined, pairs that name documents of a corpus, or a clone of a Hub dataset."""
    if is_beir(folder):
        return _beir_rows(folder, source.split or "train")
    corpus = folder / "corpus.jsonl"
    parts = [path for path in folder.glob("*.jsonl") if path != corpus and path.stem.endswith(source.split or "")]
    if corpus.is_file() and len(parts) == 1:
        return Rows(lambda: file_rows(parts[0]), file_sha256(parts[0]), lambda: _documents(corpus))
    tables = [each for each in READERS if each != ".txt"]  # text files of a folder are rarely tables
    named = bool(folder.resolve().name)  # `datasets` cannot load the root folder
    if not named or not any(next(folder.glob(f"{inside}*{each}"), None) for inside in ("", "data/") for each in tables):
        raise DataError(
            f"expected rows in the folder {str(folder)!r} (BEIR's files, or some ending in {', '.join(tables)}), found "
            "none; check the path."
        )
    return _dataset_rows(source.model_copy(update={"location": str(folder)}), lambda: True)


def _documents(path: Path) -> dict[str, str]:
    """Id -> text of a corpus, without the title, as the cards that train so have it."""
    return {str(row.get("_id", row.get("id"))): str(row.get("text", "")) for row in file_rows(path)}


def _beir_rows(folder: Path, split: str) -> Rows:
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        there = ", ".join(sorted(path.stem for path in qrels.parent.glob("*.tsv"))) or "none"
        raise DataError(f"expected judgments in {str(qrels)!r}, found {there}; name a split that is there.")
    queries, corpus = folder / "queries.jsonl", folder / "corpus.jsonl"
    digest = hashlib.sha256("".join(map(file_sha256, (qrels, queries))).encode())
    return Rows(lambda: _join(file_rows(qrels), file_rows(queries), file_rows(corpus)), digest.hexdigest())


def _join(judgments: Iterable[Row], queries: Iterable[Row], corpus: Iterable[Row]) -> Iterator[Row]:
    """One row for each relevant document of each query: query, text, title. Only judged texts are kept in memory."""
    judged = (row for row in judgments if float(row.get("score") or 0) > 0)
    relevant = [(str(row.get("query-id")), str(row.get("corpus-id"))) for row in judged]
    asked, found = (
        {str(row["_id"]): row for row in rows if str(row["_id"]) in ids}
        for rows, ids in ((queries, {query for query, _ in relevant}), (corpus, {each for _, each in relevant}))
    )
    for number, (query, document) in enumerate(relevant, 1):
        if query not in asked or document not in found:
            what, missing = ("query", query) if query not in asked else ("document", document)
            raise DataError(
                f"expected the {what} {missing!r} of judgment {number}, found none of that id; fix the dataset."
            )
        text = found[document]
        yield {"query": str(asked[query]["text"]), "text": str(text["text"]), "title": str(text.get("title") or "")}


def _hub_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """Rows of a Hub dataset; one in BEIR's layout is joined with its judgments, `NAME-qrels`."""
    if source.config is not None or not source.location.lower().startswith("beir/"):
        return _dataset_rows(source, online)
    qrels, queries, corpus = (
        load_dataset(source.model_copy(update={"location": location, "config": config, "split": split}), online)
        for location, config, split in (
            (f"{source.location}-qrels", None, source.split or "train"),
            (source.location, "queries", "queries"),
            (source.location, "corpus", "corpus"),
        )
    )
    return _with_hash(lambda: _join(qrels, queries, corpus))


def _dataset_rows(source: Source, online: Callable[[], bool]) -> Rows:
    loaded = load_dataset(source, online)

    def each() -> Iterator[Row]:  # {column: values} of many rows, far faster than row by row
        for batch in loaded.iter(ROWS_AT_ONCE):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    return _with_hash((lambda: iter(loaded)) if isinstance(loaded, list) else each)


def _with_hash(each: Callable[[], Iterator[Row]]) -> Rows:
    digest = hashlib.sha256()
    for row in each():
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return Rows(each, digest.hexdigest())


def load_dataset(source: Source, online: Callable[[], bool]) -> Any:
    """A dataset by `datasets`, memory-mapped; from the local cache where the Hub cannot be reached.

    A split such as `train[:20000]` of a reachable dataset is streamed: a list of rows. Raises DataError where there
    is none.
    """
    place = {"path": source.location, "name": source.config, "revision": source.revision}
    first = FIRST_ROWS.fullmatch(source.split or "")
    with datasets_online(online) as (datasets, reached):
        try:
            if first is not None and reached:
                streamed = datasets.load_dataset(**place, split=first[1], streaming=True)
                with closing(iter(streamed)) as rows:
                    return list(islice(rows, int(first[2])))
            return datasets.load_dataset(**place, split=source.split or "train")
        except (OSError, ValueError) as error:  # what `datasets` raises for all that is missing, gated or malformed
            raise DataError(
                f"expected a file, sample:NAME or Hub dataset, found {source.location!r}, which cannot be loaded "
                f"({first_line(error) if reached else NOT_CACHED}); give a local file with --data."
            ) from error


@contextmanager
def datasets_online(online: Callable[[], bool]) -> Iterator[tuple[Any, bool]]:
    """The library `datasets` and whether it may ask the Hub; inside the block it does only then, and offline it does
    not announce every part that it takes from the cache."""
    reached = online()

    import datasets

    was, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = was or not reached
    if not reached:
        datasets.logging.set_verbosity_error()
    try:
        yield datasets, reached
    finally:
        datasets.config.HF_HUB_OFFLINE = was
        datasets.logging.set_verbosity(verbosity)


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
