"""Which column of a table is what: by the names that public sets use or, without a heading, by the content."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, pairwise

LABEL_COLUMNS = ("score", "scores", "label", "labels")
"""Columns of numbers; Sentence Transformers passes them to the loss as labels. All others hold text."""

SCORED_PAIR = ("sentence1", "sentence2", "score")
TRIPLET = ("anchor", "positive", "negative")

PAIR_NAMES = (
    *(
        (f"{name}{one}", f"{name}{two}")
        for name in ("sentence", "sent", "text", "s", "question")
        for one, two in (("1", "2"), ("0", "1"), ("a", "b"))
    ),
    ("anchor", "positive"),
    ("premise", "hypothesis"),
    ("1string", "2string"),
)
"""Names of the two texts of a scored pair, as `plain` writes them."""

SCORE_NAMES = (
    *LABEL_COLUMNS, "similarity", "similarityscore", "relatednessscore", "relatedness", "goldscore", "gold", "rating",
    "meanscore", "averagescore", "humanscore", "isduplicate", "duplicate", "quality", "isparaphrase", "paraphrase",
    "target",
)  # fmt: skip
"""Names of their score, most likely first."""

TRIPLET_NAMES = {
    "anchor": ("anchor", "query", "question", "userquery", "sent0"),
    "positive": (
        "positive", "pos", "answer", "positiveanswer", "document", "passage", "context", "positivepassages", "doc",
        "sent1",
    ),
    "negative": ("negative", "neg", "negatives", "negativeanswer", "hardneg", "hardnegative", "negativepassages"),
}  # fmt: skip


ID_NAMES = ("_id", "id", "docid", "queryid", "qid", "pid", "docno", "corpusid")
TEXT_NAMES = ("text", "contents", "content", "passage", "body", "document", "query", "question")
"""Columns of a corpus or of queries, as `plain` writes them; where there are `_id` and `id`, `_id` is meant."""

QRELS_NAMES = (
    ("queryid", "qid", "query", "topic", "topicid"),
    ("corpusid", "docid", "documentid", "did", "pid", "passageid", "docno", "document", "doc", "passage"),
    ("score", "relevance", "rel", "label", "gain", "grade", "judgment", "judgement", "relevancy"),
)
"""Columns of judgments, as `plain` writes them: query, document and gain."""

STS_BENCHMARK = ("genre", "file", "year", "id", "score", "sentence1", "sentence2")
"""Columns of the STS benchmark's files, which have no heading; further fields are the source."""

TRUTH = {"true": 1, "false": 0}


def plain(name: str) -> str:
    """
    >>> plain("Sentence_A"), plain("relatedness score")
    ('sentencea', 'relatednessscore')
    """
    return "".join(character for character in name.lower() if character.isalnum())


KNOWN_NAMES = {
    *chain.from_iterable(PAIR_NAMES), *SCORE_NAMES, *chain.from_iterable(TRIPLET_NAMES.values()), *ID_NAMES,
    *TEXT_NAMES, *chain.from_iterable(QRELS_NAMES), *STS_BENCHMARK, "title", "iteration", "iter",
}  # fmt: skip


def is_heading(first: Sequence[str], following: Sequence[Sequence[str]], named: Iterable[str] = ()) -> bool:
    """Whether the first row of a table names its columns; a number in it (2024, pandas' 0, 1, 2) does not rule it out.

    It does if it has the columns that the user `named` or mostly usual names, if it counts 0, 1, 2, ... above texts or
    has a word above numbers, or if there is no number in it, unless the user names columns by place (1, 2, 3, ...).

    >>> is_heading(["sentence1", "sentence2", "2024"], []), is_heading(["A man.", "A dog.", "3.5"], [])
    (True, False)
    """
    cells, theirs = {cell.strip() for cell in first}, set(named)
    words = [cell for cell in first if cell.strip() and not is_number(cell)]
    if theirs and (theirs <= cells or any(name in cells and not is_number(name) for name in theirs)):
        return True
    if has_usual_names(words):
        return True
    counted = [cell.strip() for cell in first if cell.strip()]
    counts = len(counted) >= len(first) - 1 and counted == list(map(str, range(len(counted))))
    numbers = [all(map(is_number, column)) for column in zip(*following, strict=False)]
    if counts and not all(numbers):
        return True
    if len(following) > 1 and any(below and cell in words for cell, below in zip(first, numbers, strict=False)):
        return True
    return not any(map(is_number, first)) and not (theirs and all(map(is_number, theirs)))


def has_usual_names(words: Sequence[object]) -> bool:
    """Whether most of some words are names of columns that public sets use."""
    return sum(plain(str(word)) in KNOWN_NAMES for word in words) * 2 > len(words)


def is_text_row(names: Sequence[object]) -> bool:
    """Whether what was taken as a heading reads like a row of texts.

    >>> is_text_row(["query", "positive answer"]), is_text_row(["What do we know about it?", "Not much."])
    (False, True)
    """
    return any(len(str(name).split()) > 3 or len(str(name)) > 40 for name in names)


def is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return isinstance(value, bool)
    return True


def as_number(value: object) -> int | float | None:
    """The finite number in a cell, an integer where it is one; 1 and 0 for True and False; None for anything else.

    >>> [as_number(value) for value in ("7", "7.0", " True ", "1_0", "nan", 10**400)]
    [7, 7.0, 1, None, None, None]
    """
    found: object = value
    if isinstance(value, str):
        found = TRUTH.get(value.strip().lower())
        for kind in (int, float) if found is None and "_" not in value else ():
            with suppress(ValueError):
                found = kind(value)
                break
    if not isinstance(found, int | float):
        return None
    if isinstance(found, int) and abs(found) < 2**53:  # a float holds it, too
        return int(found)
    try:
        as_float = float(found)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def triplet_columns(row: Mapping[str, object], renames: Mapping[str, str]) -> dict[str, str]:
    """Anchor, positive and negative -> their column, those that there are; `renames` is theirs -> ours.

    >>> triplet_columns({"Query": "x", "pos": "y", "id": 3}, {})
    {'anchor': 'Query', 'positive': 'pos'}
    """
    theirs = {plain(renames.get(str(name), str(name))): str(name) for name in reversed(list(row))}
    found = {
        ours: next((theirs[name] for name in names if name in theirs), None) for ours, names in TRIPLET_NAMES.items()
    }
    return {ours: name for ours, name in found.items() if name is not None}


def negative_columns(row: Mapping[str, object], renames: Mapping[str, str]) -> list[str]:
    """The columns of negatives: one, or the library's negative_1, negative_2, ...

    >>> negative_columns({"anchor": "x", "negative_1": "y", "negative_2": "z"}, {})
    ['negative_1', 'negative_2']
    """
    named = {str(name): plain(renames.get(str(name), str(name))) for name in row}
    return [name for name, ours in named.items() if ours.rstrip("0123456789") in TRIPLET_NAMES["negative"]]


def scored_columns(rows: Sequence[Mapping[str, object]], renames: Mapping[str, str]) -> dict[str, str] | None:
    """Column -> sentence1, sentence2 and score, from the first `rows` of a table; None where it has no score.

    Without a heading (columns 1, 2, ..., or 0, 1, ... of pandas): two columns of text and one of numbers, beside at
    most one row number.

    >>> scored_columns([{"Sentence A": "x", "Sentence B": "y", "Relatedness": 3}], {})
    {'Sentence A': 'sentence1', 'Sentence B': 'sentence2', 'Relatedness': 'score'}
    """
    names = [str(name) for name in (rows[0] if rows else ())]
    theirs = {plain(renames.get(name, name)): name for name in reversed(names)}  # of two alike, the first
    theirs |= {plain(ours): name for name, ours in renames.items() if name in names}
    score = next((theirs[name] for name in SCORE_NAMES if name in theirs), None)
    texts = next(([theirs[one], theirs[two]] for one, two in PAIR_NAMES if one in theirs and two in theirs), None)
    names = [name for name in names if name]  # pandas' index has none
    places = [[str(place + first) for place in range(len(names))] for first in (0, 1)]
    if (score is None or texts is None) and names in places:
        numbers = [name for name in names if all(is_number(row.get(name)) for row in rows)]
        texts = [name for name in names if name not in numbers]
        if len(numbers) == 2:
            numbers = [name for name in numbers if not _is_row_number([float(str(row[name])) for row in rows])]
        if (len(texts), len(numbers)) != (2, 1):
            return None
        score = numbers[0]
    return None if score is None or texts is None else dict(zip((*texts, score), SCORED_PAIR, strict=True))


def _is_row_number(numbers: Sequence[float]) -> bool:
    return all(following == number + 1 for number, following in pairwise(numbers))
