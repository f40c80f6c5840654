"""Judgments: which document answers which query, and how well.

Lines of fields separated by tabs or blanks (BEIR's three, TREC's four, two without a gain), rows with names, or an
object of objects. A gain above 0 is relevant; 0 and below is judged and not relevant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.data.columns import QRELS_NAMES, is_number
from workbench.data.pairs import Check
from workbench.data.readers import ending, file_rows, read_json, text_lines, unreadable
from workbench.errors import DataError

QRELS = (".tsv", ".txt", ".trec", ".qrels", ".csv")
"""Endings of judgments that are lines of fields; others are read as rows."""

Judgment = tuple[str, str, float]
"""Query id, document id, gain."""


def gains_of(judgments: Sequence[Judgment], notes: list[Check]) -> dict[str, dict[str, float]]:
    """Query id -> {document id: gain} for gains above 0; queries without any stay, empty."""
    relevant: dict[str, dict[str, float]] = {}
    for query, document, gain in judgments:
        gains = relevant.setdefault(query, {})
        if gain > 0:
            gains[document] = gain
    below = sum(gain <= 0 for _, _, gain in judgments)
    if below:
        notes.append(Check("note", f"{below:,} of {len(judgments):,} judgments say not relevant."))
    return relevant


def read_qrels(path: Path) -> Iterator[Judgment]:
    """The judgments of a file, in any of its layouts. Raises DataError naming the line or row that is broken."""
    if ending(path) in QRELS:
        yield from _read_lines(path)
    elif ending(path) == ".json" and isinstance(whole := read_json(path), dict):
        yield from judgments_of(whole, str(path))
    else:
        for number, row in enumerate(file_rows(path), 1):
            yield judgment(row, f"{str(path)!r}, row {number}")


def judgments_of(relevant: Mapping[str, Any], where: str) -> Iterator[Judgment]:
    """Judgments of an object: query id -> {document id: gain}, or the ids of the relevant documents.

    >>> list(judgments_of({"q": {"d": 2}, "p": ["e"]}, "the set"))
    [('q', 'd', 2.0), ('p', 'e', 1.0)]
    """
    for query, documents in relevant.items():
        if not isinstance(documents, dict | list):
            raise DataError(f"expected documents of query {query!r} in {where!r}, found {documents!r}; fix it.")
        gains = documents if isinstance(documents, dict) else dict.fromkeys(map(str, documents), 1)
        for document, gain in gains.items():
            yield judgment({"query": query, "document": document, "score": gain}, f"{where!r}, query {query!r}")


def judgment(row: Mapping[str, Any], where: str) -> Judgment:
    """One row of judgments; a document without a score is relevant.

    >>> judgment({"query-id": 7, "corpus-id": "d", "score": 2}, "the set")
    ('7', 'd', 2.0)
    """
    plain = {_plain(str(name)): value for name, value in row.items()}
    query, document, gain = (
        next((plain[name] for name in names if plain.get(name) is not None), None) for names in QRELS_NAMES
    )
    try:
        number = 1.0 if gain is None else float(gain)
    except (TypeError, ValueError):
        number = math.nan
    if query is None or document is None or not math.isfinite(number):
        raise DataError(
            f"expected query-id, corpus-id and a number called score in {where}, found "
            f"{', '.join(f'{name} {value!r}' for name, value in row.items())[:100]}; fix or remove that row."
        )
    return str(query), str(document), number


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _read_lines(path: Path) -> Iterator[Judgment]:
    """Three fields (or TREC's four) a line; under a heading of two, every document that is named is relevant."""
    try:
        lines = [(number, line.strip()) for number, line in enumerate(text_lines(path), 1) if line.strip()]
    except OSError as error:
        raise unreadable(path, error) from error
    two = False
    for place, (number, line) in enumerate(lines):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == 1:
            fields = line.split("," if ending(path) == ".csv" else None)
        if place == 0:
            two = len(fields) == 2 and all(
                _plain(field) in names for field, names in zip(fields, QRELS_NAMES, strict=False)
            )
            if two or (len(fields) in (3, 4) and not is_number(fields[-1])):
                continue  # a heading
        if two and len(fields) == 2:
            yield fields[0], fields[1], 1.0
            continue
        gain = float(fields[-1]) if len(fields) > 1 and is_number(fields[-1]) else math.nan
        if not math.isfinite(gain):
            raise DataError(
                f"expected query id, document id and a number separated by tabs in {str(path)!r}, found {line[:60]!r} "
                f"in line {number}; fix or remove that line."
            )
        if len(fields) not in (3, 4):
            raise DataError(
                f"expected three fields (or TREC's four) in {str(path)!r}, line {number}, found {len(fields)}; "
                "fix or remove that line."
            )
        yield fields[0], fields[-2], gain
