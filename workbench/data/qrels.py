"""Judgements: which document answers which query, and how well, however they are written.

Lines of fields apart by tabs or blanks (BEIR's three, TREC's four, two without a gain), rows with names, or an object
of objects. A gain above 0 is relevant; 0 and below is judged and not relevant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.data.checks import Check
from workbench.data.readers import ending, file_rows, read_json, text_lines
from workbench.errors import DataError

QRELS = (".tsv", ".txt", ".trec", ".qrels", ".csv")
"""Endings of judgements that are lines of fields; others are read as rows are."""

Judgement = tuple[str, str, float]
"""Query id, document id, gain."""

QUERY_NAMES = ("query_id", "qid", "query")
DOCUMENT_NAMES = ("corpus_id", "doc_id", "docid", "document_id", "did", "pid", "passage_id", "docno", "document")
GAIN_NAMES = ("score", "relevance", "rel", "label", "gain")


def gains_of(judgements: Sequence[Judgement], notes: list[Check]) -> dict[str, dict[str, float]]:
    """Query id -> {document id: gain} for gains above 0; queries without any stay, empty."""
    relevant: dict[str, dict[str, float]] = {}
    for query, document, gain in judgements:
        gains = relevant.setdefault(query, {})
        if gain > 0:
            gains[document] = gain
    below = sum(gain <= 0 for _, _, gain in judgements)
    if below:
        notes.append(Check("note", f"{below:,} of {len(judgements):,} judgements say not relevant: taken as such."))
    return relevant


def read_qrels(path: Path) -> Iterator[Judgement]:
    """The judgements of a file, however it is laid out."""
    if ending(path) in QRELS:
        yield from _lines_of_qrels(path)
        return
    if ending(path) == ".json" and isinstance(said := read_json(path), dict):
        yield from judgements_of(said, str(path))
        return
    for number, row in enumerate(file_rows(path), 1):
        yield judgement(row, f"{str(path)!r}, row {number}")


def judgements_of(relevant: Mapping[str, Any], where: str) -> Iterator[Judgement]:
    """Judgements of an object: query id -> {document id: gain}, or the ids of the relevant documents.

    >>> list(judgements_of({"q": {"d": 2}, "p": ["e"]}, "the set"))
    [('q', 'd', 2.0), ('p', 'e', 1.0)]
    """
    for query, documents in relevant.items():
        if not isinstance(documents, dict | list):
            raise DataError(f"expected documents of query {query!r} in {where!r}, found {documents!r}; mend it.")
        gains = documents if isinstance(documents, dict) else dict.fromkeys(map(str, documents), 1)
        for document, gain in gains.items():
            yield judgement({"query": query, "document": document, "score": gain}, f"{where!r}, query {query!r}")


def judgement(row: Mapping[str, Any], where: str) -> Judgement:
    """One row of judgements; a document without a score is relevant.

    >>> judgement({"query-id": 7, "corpus-id": "d", "score": 2}, "the set")
    ('7', 'd', 2.0)
    """
    plain = {str(name).lower().replace("-", "_"): value for name, value in row.items()}
    query, document, gain = (
        next((plain[name] for name in names if plain.get(name) is not None), None)
        for names in (QUERY_NAMES, DOCUMENT_NAMES, GAIN_NAMES)
    )
    try:
        said = 1.0 if gain is None else float(gain)
    except (TypeError, ValueError):
        said = math.nan
    if query is None or document is None or not math.isfinite(said):
        raise DataError(
            f"expected query-id, corpus-id and a number called score in {where}, found "
            f"{', '.join(f'{name} {value!r}' for name, value in row.items())[:100]}; mend or remove that row."
        )
    return str(query), str(document), said


def _lines_of_qrels(path: Path) -> Iterator[Judgement]:
    """Lines of three fields (or TREC's four), apart by tabs or blanks; in a .csv by commas. Under a heading of two,
    every document that is named is relevant."""
    try:
        lines = [line.strip() for line in text_lines(path)]
    except OSError as error:
        raise DataError(f"expected to read {str(path)!r}, found {error.strerror or error}.") from error
    first, two = True, False
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == 1:
            fields = line.split("," if ending(path) == ".csv" else None)
        names = [field.lower().replace("-", "_") for field in fields]
        two = two or (first and len(names) == 2 and names[0] in QUERY_NAMES and names[1] in DOCUMENT_NAMES)
        heading, first = first and (two or len(fields) in (3, 4)), False
        if two and len(fields) == 2:
            if not heading:
                yield fields[0], fields[1], 1.0
            continue
        try:
            query, document, gain = fields[0], fields[-2], float(fields[-1])
        except (ValueError, IndexError):
            if heading:
                continue
            gain = math.nan
        if not math.isfinite(gain):
            raise DataError(
                f"expected query id, document id and a number apart by tabs in {str(path)!r}, found {line[:60]!r} in "
                f"line {number}; mend or remove that line."
            )
        if len(fields) not in (3, 4):
            raise DataError(
                f"expected three fields (or TREC's four) in {str(path)!r}, line {number}, found {len(fields)}; "
                "mend or remove that line."
            )
        yield query, document, gain
