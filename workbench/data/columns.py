"""Which column of a table is what: by the names that public sets use or, without a heading, by the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

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


ID_NAMES = (
    "_id", "id", "doc_id", "query_id", "docid", "qid", "pid", "docno", "corpus_id", "corpus-id", "query-id",
)  # fmt: skip
TEXT_NAMES = ("text", "contents", "content", "passage", "body", "document", "query", "question")
"""Columns of a corpus or of queries."""

QRELS_NAMES = (
    ("query_id", "qid", "query"),
    ("corpus_id", "doc_id", "docid", "document_id", "did", "pid", "passage_id", "docno", "document"),
    ("score", "relevance", "rel", "label", "gain"),
)
"""Columns of judgments: query, document and gain; in lower case, with _ for -."""


def plain(name: str) -> str:
    """
    >>> plain("Sentence_A"), plain("relatedness score")
    ('sentencea', 'relatednessscore')
    """
    return "".join(character for character in name.lower() if character.isalnum())


def is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return isinstance(value, bool)
    return True


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


def scored_columns(rows: Sequence[Mapping[str, object]], renames: Mapping[str, str]) -> dict[str, str] | None:
    """Column -> sentence1, sentence2 and score, from the first `rows` of a table; None where it has no score.

    Without a heading (columns 1, 2, ...): two columns of text and one of numbers, beside at most one row number.

    >>> scored_columns([{"Sentence A": "x", "Sentence B": "y", "Relatedness": 3}], {})
    {'Sentence A': 'sentence1', 'Sentence B': 'sentence2', 'Relatedness': 'score'}
    """
    names = [str(name) for name in (rows[0] if rows else ())]
    theirs = {plain(renames.get(name, name)): name for name in reversed(names)}  # of two alike, the first
    theirs |= {plain(ours): name for name, ours in renames.items() if name in names}
    score = next((theirs[name] for name in SCORE_NAMES if name in theirs), None)
    texts = next(([theirs[one], theirs[two]] for one, two in PAIR_NAMES if one in theirs and two in theirs), None)
    if (score is None or texts is None) and rows and names == [str(place) for place in range(1, len(names) + 1)]:
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
