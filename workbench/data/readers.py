"""Rows of a file, a folder, a shipped sample or a Hub dataset, as they are, one after the other.

Files are read here, row by row, and not by `datasets`, because its errors name neither the row nor the column, and a
person who has to mend a file needs both. Rows are numbered from 1; a header is not a row. Only JSON is read whole,
because its rows end nowhere else; everything else is read as it is asked for, so that millions of rows fit.
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
from typing import TYPE_CHECKING, Any, Literal

from workbench.data.columns import is_number
from workbench.errors import DataError, WorkbenchError
from workbench.recipe.schema import Source
from workbench.resources import shipped

if TYPE_CHECKING:
    from datasets import Dataset

Row = Mapping[str, Any]

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
"""What can name a dataset on the Hub."""

FIRST_ROWS = re.compile(r"(\w+)\[:(\d+)\]")
"""A split of which only the first rows are wanted: `train[:20000]`. They are streamed where that saves a download."""

PARQUET_ROWS = 10_000  # read at once
LOOKED_AT = 10_000  # lines that say whether quotation marks are text


@dataclass(frozen=True)
class Rows:
    """What a place holds. Iterating again reads again."""

    each: Callable[[], Iterator[Row]]
    sha256: str  # of the file's bytes; of the rows where there is no single file
    documents: Callable[[], Mapping[str, str]] | None = None  # id -> text, where rows name documents by id
    sample: bool = False  # columns go by their place, because a sample stands in for rows of many names

    def __iter__(self) -> Iterator[Row]:
        return self.each()


def open_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """The rows at `source.location`; nothing of a large file is read yet, beyond its hash.

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
        beside = path.with_name("corpus.jsonl")
        documents = (lambda: _documents(beside)) if beside.is_file() and beside != path else None
        _reader(path)
        return Rows(lambda: file_rows(path), file_sha256(path), documents)
    if os.path.isdir(path):
        return _folder_rows(path, source)
    local = ending(path) in READERS or path.is_absolute() or location.startswith((".", "~"))
    if local or not HUB_ID.fullmatch(location):
        raise DataError(f"expected a file of rows at {location!r}, found none; check the path.")
    return _hub_rows(source, online)


# --- shipped samples -----------------------------------------------------------------------------------------------


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


def sample_distractors(name: str) -> list[str]:
    """Documents of a sample that answer none of its questions; most samples have none."""
    try:
        path = shipped(f"data/samples/{name}/corpus.parquet")
    except WorkbenchError:
        return []
    return [str(row["positive"]) for row in file_rows(path)]


# --- files ---------------------------------------------------------------------------------------------------------


def file_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, read as its ending says."""
    try:
        yield from _reader(path)(path)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a packed file that is damaged
        raise DataError(
            f"expected to read {str(path)!r}, found {getattr(error, 'strerror', None) or error}."
        ) from error


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    reader = READERS.get(ending(path))
    if reader is None or (ending(path) == ".parquet" and path.suffix.lower() == ".gz"):
        raise DataError(
            f"expected a file ending in {', '.join(READERS)}, found {path.name!r}; convert it to one of these."
        )
    return reader


def ending(path: Path) -> str:
    """What a file is, by its name; packed by gzip it is what it was.

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
        raise DataError(f"expected to read {str(path)!r}, found {error.strerror or error}.") from error


def text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends, unpacked: UTF-8, or UTF-16 that begins with its mark; no mark is part of the first."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            yield from _utf16_lines(file, path.name)
            return
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"expected UTF-8 text in {path.name!r}, found byte {line[error.start]:#04x} in line {number}; "
                    "save it as UTF-8."
                ) from error


def _utf16_lines(file: gzip.GzipFile | io.BufferedReader, name: str) -> Iterator[str]:
    try:
        with io.TextIOWrapper(file, encoding="utf-16", newline="") as text:
            yield from text
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-16 text in {name!r}, found a broken end; save it as UTF-8.") from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds; a list of its objects where it holds one a line, whatever its name says.

    Raises DataError naming the line that is no JSON.
    """
    name, text = path.name, "".join(text_lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.colno == 1:
            return list(_read_jsonl(path))
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found a break in line {error.lineno}, column "
            f"{error.colno} ({error.msg}); mend that line, or use the ending .jsonl for one object a line."
        ) from error
    except RecursionError as error:
        raise DataError(f"expected a JSON list of objects in {name!r}, found values nested too deep.") from error


def _read_json(path: Path) -> Iterator[Row]:
    for number, row in enumerate(_json_rows(read_json(path), path.name), 1):
        yield _object(row, number, path.name)


def _json_rows(value: Any, name: str) -> Iterable[Any]:
    """The rows of a JSON value: a list, the one list that an object holds beside other things, or lists of columns.

    Rows that are lists themselves have their columns called 1, 2, 3, ..., as those of a table without a heading.
    """
    if isinstance(value, dict):
        lists = {key: each for key, each in value.items() if isinstance(each, list)}
        tables = {key: each for key, each in lists.items() if each and isinstance(each[0], dict)}
        if len(tables) == 1:
            return next(iter(tables.values()))
        if lists and len(lists) == len(value) and not tables and len({len(each) for each in lists.values()}) == 1:
            return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
        columns = [each for each in value.values() if isinstance(each, dict)]
        if columns and len(columns) == len(value) and all(each.keys() == columns[0].keys() for each in columns):
            return [{name: each[place] for name, each in value.items()} for place in columns[0]]  # as pandas writes it
        found = f"an object with {', '.join(map(repr, list(value)[:8])) or 'nothing in it'}"
        raise DataError(f"expected a JSON list of objects in {name!r}, found {found}; put the rows into one list.")
    if not isinstance(value, list):
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found {type(value).__name__}; put the rows into one list."
        )
    return [_numbered(row) if isinstance(row, list) else row for row in value]


def _numbered(cells: Sequence[Any]) -> Row:
    return {str(place): value for place, value in enumerate(cells, 1)}


def _read_jsonl(path: Path) -> Iterator[Row]:
    rows = 0
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "values nested too deep"
            shown = line.rstrip("\r\n")[:40]
            raise DataError(
                f"expected one JSON object a line in {path.name!r}, found {shown!r} in line {number} ({why}); mend or "
                "remove that line."
            ) from error
        rows += 1
        yield _object(_numbered(value) if isinstance(value, list) else value, rows, path.name)


def _object(value: Any, number: int, name: str) -> Row:
    if isinstance(value, dict):
        return value
    raise DataError(
        f"expected an object with one key a column in {name!r}, row {number}, found {short(value)}; mend that row."
    )


def short(value: Any) -> str:
    """A value for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _read_csv(path: Path, headed: bool | None = None) -> Iterator[Row]:
    """Commas; or what the first line has more of, tabs, semicolons, bars: some sets are called .csv and are not."""
    first = next(text_lines(path), "")
    delimiter = max(",\t;|", key=first.count)
    if delimiter == "\t":
        return _read_tsv(path, headed)
    return _read_table(path, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, headed=headed)


def _read_tsv(path: Path, headed: bool | None = None) -> Iterator[Row]:
    """Tabs, and quotation marks are text: so are STS benchmark and its relatives written; see `_quoted`."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if _quoted(path) else csv.QUOTE_NONE
    return _read_table(path, delimiter="\t", quoting=quoting, headed=headed)


def _quoted(path: Path) -> bool:
    """Whether quotation marks around a field are no text: they stand around every field of the first line, or every
    mark in the file either stands around a field or is doubled inside one, and some are doubled."""
    lines = (line.rstrip("\r\n").split("\t") for line in islice(text_lines(path), LOOKED_AT))
    first = next(lines, [])
    if all(len(field) > 1 and field[0] == field[-1] == '"' for field in first):
        return True
    marked = [field for line in chain([first], lines) for field in line if '"' in field]
    around = all(len(field) > 1 and field[0] == field[-1] == '"' for field in marked)
    inside = [field[1:-1] for field in marked]
    return around and any('""' in field for field in inside) and not any('"' in f.replace('""', "") for f in inside)


def unheaded_rows(path: Path) -> Iterator[Row]:
    """Rows of a table (.csv, .tsv, .txt) that is known to have no heading; its columns are called 1, 2, 3, ..."""
    return (_read_csv if ending(path) == ".csv" else _read_tsv)(path, False)


STS_BENCHMARK = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")
"""Columns of the STS benchmark's files, which have no heading; what follows them in a row is its source."""


def _read_table(path: Path, *, delimiter: str, quoting: Literal[0, 3], headed: bool | None = None) -> Iterator[Row]:
    """Rows under a heading. A first row with a number in it is no heading: its columns are called 1, 2, 3, ..., and
    also as those of the STS benchmark where they are its."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(text_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
    name = path.name
    try:
        header = next(reader, [])
        headed = not any(map(is_number, header)) if headed is None else headed
        sts = not headed and len(header) >= len(STS_BENCHMARK) and is_number(header[4])
        rows = 0
        for fields in reader if headed else chain([header], reader):
            if not fields:
                continue
            rows += 1
            if len(fields) != len(header) and not (sts and len(fields) >= len(STS_BENCHMARK)):
                raise DataError(
                    f"expected {len(header)} fields a row in {name!r}, found {len(fields)} in row {rows} "
                    f"(line {reader.line_num}); mend that row."
                )
            known = dict(zip(STS_BENCHMARK, fields, strict=False)) if sts else {}
            yield dict(zip(header, fields, strict=True)) if headed else {**known, **_numbered(fields)}
    except csv.Error as error:
        raise DataError(
            f"expected fields apart by {delimiter!r} in {name!r}, found {error} at line {reader.line_num}; "
            "mend that line."
        ) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"expected a Parquet table in {path.name!r}, found something else ({error}).") from error


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_tsv,
    ".parquet": _read_parquet,
}
"""File ending -> what reads it."""


# --- folders -------------------------------------------------------------------------------------------------------


def is_beir(folder: Path) -> bool:
    """Whether a folder has BEIR's layout: documents, queries, and which belong together."""
    return all((folder / name).is_file() for name in ("corpus.jsonl", "queries.jsonl")) and (folder / "qrels").is_dir()


def _folder_rows(folder: Path, source: Source) -> Rows:
    """Rows of a folder: BEIR's layout joined, pairs that name passages of a corpus, or a clone of a Hub dataset."""
    if is_beir(folder):
        return _beir_rows(folder, source.split or "train")
    parts = sorted(path for path in folder.glob("*.jsonl") if path.name != "corpus.jsonl")
    wanted = [path for path in parts if source.split is None or path.stem.endswith(source.split)]
    if (folder / "corpus.jsonl").is_file() and len(wanted) == 1:
        return Rows(lambda: file_rows(wanted[0]), file_sha256(wanted[0]), lambda: _documents(folder / "corpus.jsonl"))
    tables = [ending for ending in READERS if ending != ".txt"]  # a folder's text files are seldom tables
    files = (next(folder.glob(f"{deep}*{ending}"), None) for deep in ("", "data/") for ending in tables)
    if not folder.resolve().name or not any(files):
        endings = ", ".join(tables)
        raise DataError(
            f"expected rows in the folder {str(folder)!r} (BEIR's files, or some ending in {endings}), found none; "
            "check the path."
        )
    return _dataset_rows(source, lambda: True, str(folder))


def _documents(path: Path) -> dict[str, str]:
    """Id -> text of a corpus; the title is no part of it, because the cards that train so leave it out."""
    return {str(row.get("_id", row.get("id"))): str(row.get("text", "")) for row in file_rows(path)}


def _beir_rows(folder: Path, split: str) -> Rows:
    """Queries with the text of each relevant document, from BEIR's three files."""
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        there = ", ".join(sorted(path.stem for path in qrels.parent.glob("*.tsv"))) or "none"
        raise DataError(f"expected judgements in {str(qrels)!r}, found {there}; name a split that is there.")

    def judged() -> Iterator[tuple[str, str, float]]:
        for row in file_rows(qrels):
            yield str(row.get("query-id")), str(row.get("corpus-id")), float(row.get("score") or 0)

    digest = hashlib.sha256("".join(map(file_sha256, (qrels, folder / "queries.jsonl"))).encode())
    return Rows(
        lambda: joined(
            judged(), lambda: file_rows(folder / "queries.jsonl"), lambda: file_rows(folder / "corpus.jsonl")
        ),
        digest.hexdigest(),
    )


def joined(
    judgements: Iterable[tuple[str, str, float]],
    queries: Callable[[], Iterable[Row]],
    corpus: Callable[[], Iterable[Row]],
) -> Iterator[Row]:
    """One row for each relevant document of each query: query, text, title. Only what is judged is kept in memory."""
    relevant = [(query, document) for query, document, gain in judgements if gain > 0]
    wanted = {query for query, _ in relevant}, {document for _, document in relevant}
    asked = {str(row["_id"]): str(row["text"]) for row in queries() if str(row["_id"]) in wanted[0]}
    found = {
        str(row["_id"]): (str(row["text"]), str(row.get("title") or ""))
        for row in corpus()
        if str(row["_id"]) in wanted[1]
    }
    for number, (query, document) in enumerate(relevant, 1):
        if query not in asked or document not in found:
            what, missing = ("query", query) if query not in asked else ("document", document)
            raise DataError(
                f"expected the {what} {missing!r} of judgement {number}, found none of that id; mend the set."
            )
        text, title = found[document]
        yield {"query": asked[query], "text": text, "title": title}


# --- the Hub -------------------------------------------------------------------------------------------------------


def _hub_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """Rows of a Hub dataset; one in BEIR's layout is joined with its judgements, `NAME-qrels`."""
    if source.config is None and source.location.lower().startswith("beir/"):

        def part(location: str, config: str | None, split: str) -> Dataset:
            wanted = source.model_copy(update={"location": location, "config": config, "split": split})
            return load_dataset(wanted, online)

        qrels = part(f"{source.location}-qrels", None, source.split or "train")
        queries, corpus = (part(source.location, name, name) for name in ("queries", "corpus"))

        def each() -> Iterator[Row]:
            judgements = ((str(row["query-id"]), str(row["corpus-id"]), float(row["score"])) for row in qrels)
            return joined(judgements, lambda: queries, lambda: corpus)

        return Rows(each, _rows_sha256(each()))
    return _dataset_rows(source, online, source.location)


def _dataset_rows(source: Source, online: Callable[[], bool], location: str) -> Rows:
    loaded = load_dataset(source.model_copy(update={"location": location}), online)

    def each() -> Iterator[Row]:
        if isinstance(loaded, list):
            return iter(loaded)
        batches = loaded.iter(PARQUET_ROWS)  # {column: values}, far faster than row by row
        return (
            dict(zip(batch, values, strict=True)) for batch in batches for values in zip(*batch.values(), strict=True)
        )

    return Rows(each, _rows_sha256(each()))


def _rows_sha256(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def load_dataset(source: Source, online: Callable[[], bool]) -> Any:
    """A dataset by `datasets`, memory-mapped; from the local cache where the Hub cannot be reached.

    A split such as `train[:20000]` of a dataset that can be reached is streamed, so that its other rows are not
    fetched. Raises DataError where there is none.
    """
    first = FIRST_ROWS.fullmatch(source.split or "")
    with datasets_online(online) as (datasets, reached):
        try:
            if first is not None and reached:
                streamed = datasets.load_dataset(
                    source.location, source.config, split=first[1], revision=source.revision, streaming=True
                )
                with closing(iter(streamed)) as rows:
                    return list(islice(rows, int(first[2])))
            return datasets.load_dataset(
                source.location, source.config, split=source.split or "train", revision=source.revision
            )
        except (OSError, ValueError) as error:  # what `datasets` raises for all that is missing, gated or malformed
            missing = "the Hub cannot be reached and the local cache does not have it"
            raise DataError(
                f"expected a file, sample:NAME or Hub dataset, found {source.location!r}, which cannot be loaded "
                f"({_first_line(error) if reached else missing}); give a local file with --data."
            ) from error


@contextmanager
def datasets_online(online: Callable[[], bool]) -> Iterator[tuple[Any, bool]]:
    """The library `datasets` and whether it may ask the Hub; while this lasts it does not where it may not, nor does it
    say of each part that it comes from the cache."""
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
