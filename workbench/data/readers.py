"""Rows of a file, one at a time, by the file's ending.

Files are read here and not by `datasets`, whose errors name neither row nor column. Rows count from 1; a heading is not
a row. JSON is read whole, everything else lazily, so millions of rows fit; lines and JSON files are bounded.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, AnyStr, Literal, cast

from workbench.data.columns import ID_NAMES, STS_BENCHMARK, TEXT_NAMES, has_usual_names, is_heading, is_number, plain
from workbench.errors import DataError, first_line, listed, short

Row = Mapping[str, Any]

ROWS_AT_ONCE = 10_000
HEADING_ROWS = 20  # rows that decide whether the one before them is a heading
QUOTED_LINES = 10_000  # lines that decide whether quotation marks are text
LONGEST_LINE = 2**26  # bytes; a line of gigabytes is no row
LARGEST_JSON = 2**30  # bytes, unzipped


def file_rows(path: Path, named: Iterable[str] = ()) -> Iterator[Row]:
    """Rows of a file, read as its ending says. Raises DataError where it cannot be read.

    `named` are columns that the user names: a first row of a table that has them is its heading.
    """
    reader = reader_of(path)
    try:
        yield from read_table(path, named) if reader is read_table else reader(path)
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged gzip file
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"expected to read {str(path)!r}, found {getattr(error, 'strerror', None) or first_line(error)}.")


def reader_of(path: Path) -> Callable[[Path], Iterator[Row]]:
    """The function that reads a file. Raises DataError where its ending has none."""
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


def require_file(path: Path) -> None:
    """DataError for a pipe or a device, which may have no end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"expected a file at {str(path)!r}, found a pipe or a device; save its content to a file.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def text_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[str]:
    """Lines with their ends, unzipped: UTF-8, or UTF-16 with a byte order mark, which is never part of the text.

    Raises DataError at a line of more than `longest` bytes.
    """
    require_file(path)
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            try:
                with io.TextIOWrapper(file, encoding="utf-16", newline="") as text:
                    yield from _bounded(text, path, longest)
            except UnicodeDecodeError as error:
                found = f"expected UTF-16 text in {path.name!r}, found a broken end"
                raise DataError(f"{found}; save it as UTF-8.") from error
            return
        for number, line in enumerate(_bounded(cast("IO[bytes]", file), path, longest), 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"expected UTF-8 text in {path.name!r}, found byte {line[error.start]:#04x} in line {number}; "
                    "save it as UTF-8."
                ) from error


def _bounded(file: IO[AnyStr], path: Path, longest: int) -> Iterator[AnyStr]:
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise DataError(
                f"expected lines of at most {longest:,} bytes in {path.name!r}, found a longer one in line {number}; "
                "write one row a line."
            )
        yield line


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a name that it has twice, Python would keep the last value without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{short(next(name for name in names if names.count(name) > 1))} twice in one object")
    return found


_parse_json = json.JSONDecoder(object_pairs_hook=_no_repeats).decode


def read_json(path: Path) -> Any:
    """The value in a JSON file; a list of its objects where it has one a line, whatever its name says.

    Raises DataError naming the line that is not JSON.
    """
    name = path.name
    text = "".join(text_lines(path, LARGEST_JSON)) if path.stat().st_size <= LARGEST_JSON else None
    if text is None or len(text) > LARGEST_JSON:
        raise DataError(
            f"expected at most {LARGEST_JSON:,} bytes of JSON in {name!r}, found more; write one object a line into a "
            "file ending in .jsonl."
        )
    try:
        return _parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.colno == 1:
            return list(_read_jsonl(path))
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found a break in line {error.lineno}, column "
            f"{error.colno} ({error.msg}); fix that line, or use the ending .jsonl for one object a line."
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"expected a JSON list of objects in {name!r}, found {_unread(error)}; fix the file."
        ) from error


def _unread(error: Exception) -> str:
    """What JSON holds that cannot be read, for a message: a name twice, a number of thousands of digits."""
    return "values nested too deep" if isinstance(error, RecursionError) else first_line(error)


def _read_json(path: Path) -> Iterator[Row]:
    rows = iter(_json_rows(read_json(path), path.name))
    first = next(rows, None)
    if isinstance(first, list) and has_usual_names(first):  # a heading, where rows are lists
        _require_unique(names := list(map(str, first)), path.name)
        rows = (dict(zip(names, row, strict=True)) if _fits(row, names) else row for row in rows)
    elif first is not None:
        rows = chain([first], rows)
    return (_as_row(row, number, path.name) for number, row in enumerate(rows, 1))


def _fits(row: Any, names: Sequence[str]) -> bool:
    return isinstance(row, list) and len(row) == len(names)


def _json_rows(value: Any, name: str) -> Iterable[Any]:
    """A list; the only list of objects in an object; or a table as pandas writes them: lists or objects of columns, or
    objects of rows."""
    found = type(value).__name__
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        columns = list(value.values())
        tables = [each for each in columns if isinstance(each, list) and each and isinstance(each[0], dict)]
        if len(tables) == 1:
            return iter(tables[0])
        lists, objects = (all(isinstance(each, kind) for each in columns) for kind in (list, dict))
        if lists and value.keys() == {"columns", "index", "data"}:
            names, cells = list(map(str, value["columns"])), value["data"]
            _require_unique(names, name)
            if all(_fits(row, names) for row in cells):
                return [dict(zip(names, row, strict=True)) for row in cells]
        if columns and lists and not tables and len({len(each) for each in columns}) == 1:
            return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if columns and objects and all(map(str.isdigit, value)) and not all(map(str.isdigit, columns[0])):
            return columns
        if columns and objects and all(each.keys() == columns[0].keys() for each in columns):
            return [{column: cells[row] for column, cells in value.items()} for row in columns[0]]
        found = f"an object with {listed(value) or 'nothing in it'}"
    raise DataError(f"expected a JSON list of objects in {name!r}, found {found}; put the rows into one list.")


def _read_jsonl(path: Path) -> Iterator[Row]:
    lines = ((number, line) for number, line in enumerate(text_lines(path), 1) if line.strip())
    for row, (number, line) in enumerate(lines, 1):
        try:
            value = _parse_json(line)
        except (RecursionError, ValueError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else _unread(error)
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
        return number_columns(value)
    raise DataError(
        f"expected an object with one key a column in {name!r}, row {number}, found {short(value)}; fix that row."
    )


def number_columns(cells: Sequence[Any]) -> Row:
    """A row of a table without a heading: its columns are 1, 2, 3, ..."""
    return {str(place): value for place, value in enumerate(cells, 1)}


def read_table(
    path: Path,
    named: Iterable[str] = (),
    headed: bool | None = None,
    delimiter: str | None = None,
    quoted: bool = False,
) -> Iterator[Row]:
    """Rows under a heading (see `is_heading`); without one the columns are 1, 2, 3, ... and, where it is one of the STS
    benchmark's tables, also have its names. `headed` says whether there is a heading where that is known.

    Tabs separate fields; in a .csv whatever the first line has most of, because some are not comma-separated. Between
    tabs quotation marks are text, unless they are `quoted` or the file shows that they are.
    """
    name = path.name
    if delimiter is None:
        delimiter = max(",\t;|", key=next(text_lines(path), "").count) if ending(path) == ".csv" else "\t"
    quoted = quoted or delimiter not in "\t " or _is_quoted(path, delimiter)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    csv.field_size_limit(LONGEST_LINE)
    options = {"delimiter": delimiter, "quoting": quoting, "strict": True, "skipinitialspace": delimiter == " "}
    reader = csv.reader(_without_ends(text_lines(path), delimiter), **options)  # type: ignore[arg-type]
    try:
        lines = ((reader.line_num, fields) for fields in reader if len(fields) > 1 or any(map(str.strip, fields)))
        sample = list(islice(lines, HEADING_ROWS + 1))
        first = [cell.strip() for cell in sample[0][1]] if sample else []
        if headed is None:
            headed = bool(sample) and is_heading(sample[0][1], [fields for _, fields in sample[1:]], named)
        if headed:
            _require_unique(first, name)
        sts = not headed and len(first) >= len(STS_BENCHMARK) and is_number(first[4])
        for number, (line, fields) in enumerate(chain(sample[headed:], lines), 1):
            if len(fields) != len(first) and not (sts and len(fields) >= len(STS_BENCHMARK)):
                raise DataError(
                    f"expected {len(first)} fields a row in {name!r}, found {len(fields)} in row {number} "
                    f"(line {line}); fix that row."
                )
            if headed:
                yield dict(zip(first, fields, strict=True))
            else:
                yield {**(dict(zip(STS_BENCHMARK, fields, strict=False)) if sts else {}), **number_columns(fields)}
    except csv.Error as error:
        raise DataError(
            f"expected fields separated by {delimiter!r} in {name!r}, found {error} at line {reader.line_num}; "
            "fix that line."
        ) from error


def _require_unique(names: Sequence[str], place: str) -> None:
    """DataError where columns have the same name: the last one would count, without a word."""
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if twice:
        raise DataError(
            f"expected every column of {place!r} once, found {listed(twice)} again; rename or remove one of them."
        )


def _without_ends(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    """The lines; where blanks separate, without those at their ends."""
    return (f"{line.strip()}\n" for line in lines) if delimiter == " " else lines


def _is_quoted(path: Path, delimiter: str) -> bool:
    """Whether quotation marks around the fields of a tab-separated table are not text, as they are in the STS
    benchmark: every field of the first line has them, or marks only enclose fields or are doubled, and some are."""
    lines = (line.rstrip("\r\n").split(delimiter) for line in islice(text_lines(path), QUOTED_LINES))
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

    require_file(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_unique(file.schema_arrow.names, path.name)
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a Parquet table in {path.name!r}, found something else ({first_line(error)})."
        ) from error


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": read_table,
    ".tsv": read_table,
    ".txt": read_table,
    ".parquet": _read_parquet,
}


# --- rows of texts with ids ----------------------------------------------------------------------------------------


def whole_text(text: str) -> str:
    """The text; halves of surrogate pairs, which JSON can hold and no file or tokenizer can, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def as_id(value: object) -> str | None:
    """An id as text; a whole number that pandas keeps as a float (7.0) is that number. None for anything else.

    >>> as_id("a"), as_id(7), as_id(7.0), as_id(True)
    ('a', '7', '7', None)
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return whole_text(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None


def text_row(row: Row, place: Path, number: int) -> tuple[str, str, str]:
    """Id, title ("" without one) and text of a row of a corpus or of queries."""
    identity, text, title = text_columns(tuple(row))
    key, found = as_id(row.get(identity)), row.get(text)
    if key is None or not isinstance(found, str):
        advice = "fix that row" if identity and text else "rename its columns"
        raise DataError(
            f"expected an object with an '_id' and a 'text' in {str(place)!r}, row {number}, found "
            f"{listed(row) or 'nothing'}; {advice}."
        )
    above = row.get(title)
    return key, whole_text(above) if isinstance(above, str) else "", whole_text(found)


@lru_cache(maxsize=64)
def text_columns(names: tuple[Any, ...]) -> tuple[str, str, str]:
    """The columns of id, text and title among `names`, "" for those that are not there."""
    theirs = {("_id" if name == "_id" else plain(str(name))): str(name) for name in reversed(names)}
    return tuple(  # type: ignore[return-value]
        next((theirs[name] for name in known if name in theirs), "") for known in (ID_NAMES, TEXT_NAMES, ("title",))
    )
