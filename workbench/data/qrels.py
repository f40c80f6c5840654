"""Judgments: which document answers which query, and how well.

Rows with names (BEIR's, ir_datasets', any order), lines of fields without a heading (BEIR's three, TREC's four), or an
object of objects. A gain above 0 is relevant; 0 and below is judged and not relevant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.data.columns import QRELS_NAMES, as_number, plain
from workbench.data.pairs import Check
from workbench.data.readers import as_id, ending, file_rows, read_json, read_table, text_lines, unreadable
from workbench.errors import DataError, listed, short

QRELS = (".tsv", ".txt", ".trec", ".qrels", ".csv")
"""Endings of judgments that are lines of fields; others are read as rows."""

Judgment = tuple[str, str, float]
"""Query id, document id, gain."""


def gains_of(judgments: Sequence[Judgment], notes: list[Check]) -> dict[str, dict[str, float]]:
    """Query id -> {document id: gain} for gains above 0; queries without any stay, empty. Of several gains of one
    document the highest counts."""
    relevant: dict[str, dict[str, float]] = {}
    for query, document, gain in judgments:
        gains = relevant.setdefault(query, {})
        if gain > gains.get(document, 0):
            gains[document] = gain
    given = Counter((query, document) for query, document, _ in set(judgments))
    contrary = sum(count > 1 for count in given.values())
    if contrary:
        text = (
            f"{contrary:,} of {len(given):,} documents are judged several times for a query: the highest gain counts."
        )
        notes.append(Check("warning", text))
    below = len(given) - sum(map(len, relevant.values()))
    if below:
        notes.append(Check("note", f"{below:,} of {len(given):,} judgments say not relevant."))
    return relevant


def read_qrels(path: Path) -> Iterator[Judgment]:
    """The judgments of a file, in any of its layouts. Raises DataError naming the row that is broken."""
    if ending(path) == ".json" and isinstance(whole := read_json(path), dict):
        yield from judgments_of(whole, str(path))
        return
    try:
        rows = file_rows(path)
        if ending(path) in QRELS:
            first = next(text_lines(path), "")
            apart = None if ending(path) == ".csv" else next((each for each in "\t," if each in first), " ")
            rows = read_table(path, delimiter=apart, quoted=True)
        for place, row in enumerate(rows, 1):
            yield judgment(row, f"{str(path)!r}, row {place}")
    except OSError as error:
        raise unreadable(path, error) from error


def judgments_of(relevant: Mapping[str, Any], where: str) -> Iterator[Judgment]:
    """Judgments of an object: query id -> {document id: gain}, or the ids of the relevant documents.

    >>> list(judgments_of({"q": {"d": 2}, "p": ["e"]}, "the set"))
    [('q', 'd', 2.0), ('p', 'e', 1.0)]
    """
    for query, documents in relevant.items():
        if not isinstance(documents, dict | list):
            found = f"{short(documents)} for query {short(query)}"
            raise DataError(f"expected documents of every query in {where!r}, found {found}; fix it.")
        gains = documents if isinstance(documents, dict) else dict.fromkeys(map(str, documents), 1)
        for document, gain in gains.items():
            row = {"query": query, "document": document, "score": gain}
            yield judgment(row, f"{where!r}, query {short(query)}")


def judgment(row: Mapping[str, Any], where: str) -> Judgment:
    """One row of judgments; a document without a score is relevant.

    >>> judgment({"query-id": 7, "corpus-id": "d", "score": 2}, "the set")
    ('7', 'd', 2.0)
    """
    query_column, document_column, gain_column = _columns(tuple(row))
    query, document = as_id(row.get(query_column)), as_id(row.get(document_column))
    if not query_column:
        raise DataError(
            f"expected the columns query-id, corpus-id and score (or no heading, and three fields or TREC's four) in "
            f"{where}, found {listed(row) or 'nothing'}; rename them."
        )
    value = row.get(gain_column)
    gain = 1 if value is None else as_number(value)
    if query is None or document is None or gain is None:
        found = ", ".join(f"{str(name)[:40]} {short(value)}" for name, value in list(row.items())[:5])
        raise DataError(
            f"expected query-id, corpus-id and a number called score in {where}, found {found}; fix or remove that row."
        )
    return query, document, float(gain)


@lru_cache(maxsize=64)
def _columns(names: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of query, document and gain: by their names, and by their place where there is no heading; three
    times "" where names say too little."""
    if names in (("1", "2", "3"), ("0", "1", "2"), ("1", "2", "3", "4")):  # the last is TREC's
        return (names[0], names[-2], names[-1])
    theirs = {plain(str(name)): name for name in reversed(names)}
    query, document, gain = (next((theirs[name] for name in known if name in theirs), "") for known in QRELS_NAMES)
    others = [name for name in names if name not in (query, document) and plain(str(name))]
    return (query, document, gain) if query and document and (gain or not others) else ("", "", "")
