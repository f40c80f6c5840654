"""The forms of a run's files. A run folder is foreign input: `run` checks by these forms all that it reads, so that
everything else gets records, or a RunError that says what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = frozenset({int, float})  # not bool

FORMS: dict[str, Any] = {
    "record": {
        "status card variant recipe_sha256 created finished device precision error": str,
        "schema_version peak_memory processes": int,
        "seconds rows_per_second margin": float,
        "process": {"pid started": int, "host": str},
        "base": {"asked model sha256 note": str, "unknown_share": float},
        "data": {
            "source sha256 note": str,
            "rows printed": {"*": int},
            "more": {"*": {"source sha256": str}},  # rows: a number, or one for each part
        },
        "checks": [{"severity message!": str}],
        "statements": [{"option sentence!": str, "value!": object}],
        "identity": [{"sentence!": str}],
        "examples": {"*": {}},
        "trained": {},
        "notes command": [str],
        "progress": {"step steps": int, "epoch rows_per_second seconds_left": float, "phase": str},
        "best": {"step": int, "metric": str, "value": Real},
        "cost": {"peak_memory processes": int, "rows_per_second joules": float, "device precision counted": str},
        "versions": {"*": str},
        "repeat": {"number of seed!": int, "first!": str},
        "verification": {
            "model! path! sha256 precision! metric": str,
            "problems": [str],
            "causes": [{"sentence!": str}],
        },
    },
    "metrics": {
        "metrics!": {"*!": Real},
        "settings": {
            "kind unit main_metric similarity energy_distance collection collection_sha256 items_sha256": str,
            "depth truncate_dim dimensions queries documents items": int,
            "statistics": {"*!": [str]},
        },
    },
    "comparison": {"verdict": str, "rows": [{}]},
    "map_settings": {"parameters!": {"method": str}, "kept!": {"*!": Real}},
    "card": {},
}
"""JSON file -> the form of its values: names -> an object's values ("*": all of them; with "!" they must be there), a
list of one form, or a type: `float` is finite, `Real` any number, `object` anything. What is null or not named here is
anything, too."""

COLUMNS: dict[str, dict[str, Any]] = {
    "queries": {"query_id": str, "query": str, "relevant": list},
    "documents": {"document_id": str, "document": str},
    "items": {"item_id": str, "gold": Real},
    "values": {},  # item_id and numbers; or query_id, rank, ranks (a tuple of numbers), and metrics ("ndcg@10")
    "hits": {"query_id": str, "position": int, "document_id": str, "score": float, "relevant": bool},
    "map": {"moment": str, "kind": str, "id": str, "x": float, "y": float},
}
"""Parquet file -> the columns that it has at least. The first is unique, but of hits and maps."""


def _whole_number(text: str) -> float:
    """A JSON integer; as a float beyond 18 digits, which no count or identifier of a run has."""
    return int(text) if len(text) < 19 else float(text)


def read_json(path: Path) -> Any:
    """A JSON file, without surrogates in its texts, which could not be written again."""
    text = path.read_text(encoding="utf-8")
    value = json.loads(text, parse_int=_whole_number)
    if "\\ud" in text.lower():
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def parse_log(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The rows of these lines of a log: step and numbers by name. What is neither, as a line cut by a kill, is left
    out."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]", parse_int=_whole_number)
    except (ValueError, RecursionError):
        return [row for line in lines for row in parse_log([line])] if len(lines) > 1 else []
    rows = []
    for row in found:
        if isinstance(row, dict) and type(row.get("step")) is int and row["step"] >= 0:
            parts = row.get("components")
            rows.append(_numbers(row) | ({"components": _numbers(parts)} if isinstance(parts, dict) else {}))
    return rows


def unreadable_lines(log: Path) -> int:
    """How many whole lines of a log are not JSON objects by their ends; 0 without a log."""
    try:
        lines = log.read_bytes().split(b"\n")[:-1]
    except OSError:
        return 0
    return sum(not (line.startswith(b"{") and line.endswith(b"}")) for line in map(bytes.strip, lines) if line)


def ends_as_parquet(path: Path) -> bool:
    """Whether a file ends with the mark of a Parquet file, which one that was cut off does not."""
    try:
        with path.open("rb") as file:
            file.seek(-4, 2)
            return file.read() == b"PAR1"
    except OSError:
        return False


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if type(value) in NUMBERS}


def mismatch(value: Any, name: str) -> tuple[str, str] | None:
    """The first part of the JSON file `name` that does not have its form, and what it is; None without one."""
    return _mismatch(value, FORMS[name], "")


def _mismatch(value: Any, form: Any, place: str) -> tuple[str, str] | None:
    if isinstance(form, dict) and isinstance(value, dict):
        for names, kind in form.items():
            every = names.startswith("*")
            for name in value if every else names.rstrip("!").split():
                if value.get(name) is not None or names.endswith("!"):
                    wrong = _mismatch(value.get(name), kind, f"{place}.{name}" if place else name)
                    if wrong is not None:
                        return wrong
        return None
    if isinstance(form, list) and isinstance(value, list):
        parts = (_mismatch(each, form[0], f"{place}.{number}") for number, each in enumerate(value))
        return next((wrong for wrong in parts if wrong is not None), None)
    number = type(value) in NUMBERS
    fits = (
        {
            object: True,
            str: isinstance(value, str),
            int: type(value) is int and value >= 0,
            float: number and math.isfinite(value),
            Real: number,
        }.get(form, False)
        if isinstance(form, type)
        else False
    )
    return None if fits else (place, f"{value!r:.60}")


def wrong_column(table: pd.DataFrame, name: str) -> str:
    """The first column that a Parquet file of the run lacks or that has another type, see `COLUMNS`; "" without one."""
    columns = dict(COLUMNS[name])
    if name == "values":
        columns = {"item_id": str} if "item_id" in table else {"query_id": str, "rank": Real}
        columns |= {"ranks": tuple} if "ranks" in table else {}
        measured = (each for each in map(str, table) if each not in columns)
        columns |= {each: Real for each in measured if "item_id" in columns or "@" in each}
    first = next(iter(columns))
    if first in table and name not in ("hits", "map") and table[first].duplicated().any():
        return f"each {first!r} once"
    wrong = next((each for each, kind in columns.items() if each not in table or not _fits(table[each], kind)), None)
    return "" if wrong is None else f"a column {wrong!r}"


def _fits(column: pd.Series, kind: Any) -> bool:
    """Whether all values of a column are of a type: see `FORMS`, and `list` of texts."""
    import numpy as np
    from pandas.api import types

    if kind is Real:
        return (
            bool(types.is_numeric_dtype(column)) and not np.isinf(column.to_numpy(dtype=float, na_value=np.nan)).any()
        )
    if column.isna().any():
        return False
    if kind is tuple:
        return all(isinstance(each, np.ndarray) for each in column)
    if kind is list:
        return all(isinstance(each, np.ndarray) and types.infer_dtype(each) in ("string", "empty") for each in column)
    checks = {str: types.is_string_dtype, bool: types.is_bool_dtype, int: types.is_integer_dtype}
    return bool(checks.get(kind, types.is_float_dtype)(column)) and (
        kind is not float or bool(np.isfinite(column).all())
    )
