"""What a reader keeps about runs and their queries: alias, tags, note, archive; and the trash. Run folders stay as they
are.

`RUNS/.workbench/NAME.json` has the notes of run NAME; a run in `RUNS/.workbench/trash/` can be moved back by hand.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from workbench.errors import RunError
from workbench.run import Run, write_json
from workbench.run_forms import read_json

FOLDER = ".workbench"


@dataclass(frozen=True)
class Notes:
    alias: str = ""  # a short name, shown in place of the card's
    tags: tuple[str, ...] = ()
    note: str = ""
    archived: bool = False  # not listed unless asked for


class QueryForm(TypedDict, total=False):
    """The notes of a query."""

    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=40)]], Field(max_length=20)]
    note: Annotated[str, Field(max_length=4000)]


class Form(QueryForm, total=False):
    """The file's form."""

    alias: Annotated[str, Field(max_length=80)]
    archived: bool
    queries: dict[str, dict[str, QueryForm]]  # evaluation -> id of a query -> its notes


FORM = TypeAdapter(Form)


def notes_path(run: Run) -> Path:
    """The file of a run's notes, whether or not it exists."""
    return run.path.parent / FOLDER / f"{run.name}.json"


def read_notes(run: Run) -> Notes:
    """The notes of a run, empty where none were written. Raises RunError where the file is damaged."""
    stored = _read(notes_path(run))
    known = {name: stored[name] for name in Notes.__dataclass_fields__ if name in stored}
    return Notes(**(known | {"tags": tuple(known.get("tags", ()))}))


def write_notes(run: Run, **changes: Any) -> Notes:
    """Change fields of `Notes` of a run; what others wrote meanwhile stays.

    Raises RunError where a value does not fit, the file is damaged (it is left as it is) or cannot be written.

    >>> write_notes(run, alias="first try", tags=["demo"])  # doctest: +SKIP
    Notes(alias='first try', tags=('demo',), note='', archived=False)
    """
    path = notes_path(run)
    if unknown := changes.keys() - Notes.__dataclass_fields__.keys():
        raise RunError(f"expected {', '.join(Notes.__dataclass_fields__)}, found {min(unknown)!r}; choose one of them.")
    changes |= {"tags": list(dict.fromkeys(changes["tags"]))} if "tags" in changes else {}
    _check(changes, path)
    with _locked(path.parent):
        write_json(path, {**_read(path), **changes})
    return read_notes(run)


def read_query_notes(run: Run, evaluation: str) -> dict[str, QueryForm]:
    """Query id -> tags and note, of the queries that have any. Raises RunError where the file is damaged."""
    found: dict[str, QueryForm] = _read(notes_path(run)).get("queries", {}).get(evaluation, {})
    return found


def write_query_notes(run: Run, evaluation: str, query_id: str, *, tags: Sequence[str], note: str) -> None:
    """Set tags and note of a query; without either its notes are removed. Raises RunError as `write_notes` does."""
    path = notes_path(run)
    with _locked(path.parent):
        stored = _read(path)
        queries = stored.setdefault("queries", {}).setdefault(evaluation, {})
        queries.pop(query_id, None)
        if tags or note:
            queries[query_id] = {"tags": list(dict.fromkeys(tags)), "note": note}
        _check(stored, path)
        write_json(path, stored)


def delete(run: Run) -> Path:
    """Move a run into the trash folder beside it; returns where it is now. Raises RunError for one that is running."""
    if run.status == "running":
        raise RunError(f"expected a run that has ended, found {run.name!r}, which is running; stop it first.")
    trash = run.path.parent / FOLDER / "trash"
    with _locked(trash):
        names = (f"{run.name}-{number}" if number else run.name for number in count())
        place = next(trash / name for name in names if not (trash / name).exists())
        try:
            return run.path.rename(place)
        except OSError as error:
            raise RunError(f"cannot move {str(run.path)!r} to {str(place)!r}: {error.strerror or error}.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, of all processes and threads."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write in {str(folder)!r}: {error.strerror or error}; is it read-only?") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"expected notes in {str(path)!r}, found something else ({error}); delete that file.") from error
    _check(stored, path)
    return dict(stored)


def _check(values: Any, path: Path) -> None:
    try:
        FORM.validate_python(values, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "notes"
        raise RunError(
            f"expected another value of {place!r} for {str(path)!r}, found {first['input']!r:.60} ({first['msg']}); "
            "change it."
        ) from error
