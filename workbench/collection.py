"""Queries, corpus and relevant documents: what rankings are measured on.

A Collection comes from a folder in BEIR's layout, from rows of questions and answers, from a shipped sample or from
the Hub. What can be measured in spite of a defect is kept and said by `check`; what cannot is an error. Relevance is
a gain: above 0 is relevant, 0 and below is judged and not relevant.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from workbench.checks import Check
from workbench.errors import DataError
from workbench.pairs import SAMPLE_PARTS, load_pairs
from workbench.recipe import Source
from workbench.rows import datasets_online, sample_distractors

Duplicates = Literal["separate", "merge"]


@dataclass(frozen=True, repr=False)
class Collection:
    """One evaluation set. Ids are text, and documents with equal scores are ranked by them."""

    name: str
    queries: Mapping[str, str]  # query id -> text
    corpus: Mapping[str, str]  # document id -> text
    relevant: Mapping[str, Mapping[str, float]]  # query id -> {document id: gain}, gains above 0
    notes: tuple[Check, ...] = ()  # what was found while it was read

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Ids of the queries that have a relevant document, in order; the others cannot be measured."""
        return tuple(query for query in self.queries if self.relevant.get(query))

    @property
    def sha256(self) -> str:
        """Hash of all ids, texts and gains, whatever their order; equal hashes mean equal collections."""
        digest = hashlib.sha256()
        for part in (self.queries, self.corpus):
            for key in sorted(part):
                digest.update(f"{json.dumps([key, part[key]], ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
        for query in sorted(self.relevant):
            gains = {document: float(gain) for document, gain in self.relevant[query].items()}
            digest.update(f"{json.dumps([query, gains], sort_keys=True)}\n".encode())
        return digest.hexdigest()

    def check(self) -> tuple[Check, ...]:
        """What a careful person would want to know before measuring; an error means that nothing can be measured."""
        return (*self.notes, *_errors(self), *_warnings(self))

    def usable(self) -> Collection:
        """This collection, or DataError with the first error of `check`."""
        error = next((check for check in self.check() if check.severity == "error"), None)
        if error is not None:
            raise DataError(error.message)
        return self

    def with_documents(self, texts: Sequence[str]) -> Collection:
        """This collection with further documents, relevant to no query; a text that it has already is left out."""
        known = set(self.corpus.values())
        new = [text for text in dict.fromkeys(texts) if text not in known]
        width = len(str(len(new)))
        return replace(self, corpus={**self.corpus, **{f"x{place:0{width}}": text for place, text in enumerate(new)}})

    def __repr__(self) -> str:
        judged = sum(len(self.relevant[query]) for query in self.evaluated)
        return (
            f"<Collection {self.name!r}: {len(self.evaluated):,} queries, {len(self.corpus):,} documents, "
            f"{judged:,} relevant>"
        )

    def _repr_html_(self) -> str:
        checks = "".join(f"<li>{check.severity}: {html.escape(check.message)}</li>" for check in self.check())
        return f"<p>{html.escape(repr(self))}</p>" + (f"<ul>{checks}</ul>" if checks else "")


def _errors(collection: Collection) -> Iterator[Check]:
    name = collection.name
    if not collection.corpus:
        yield Check("error", f"expected documents in the corpus of {name!r}, found none; give a corpus.")
    elif not collection.queries:
        yield Check("error", f"expected queries in {name!r}, found none; give some.")
    elif not collection.evaluated:
        yield Check(
            "error",
            f"expected relevant documents for the queries of {name!r}, found none for any of the "
            f"{len(collection.queries):,}; do the ids of queries and judgements agree?",
        )
    elif not any(
        document in collection.corpus for query in collection.evaluated for document in collection.relevant[query]
    ):
        missing = next(iter(collection.relevant[collection.evaluated[0]]))
        yield Check(
            "error",
            f"expected relevant documents of {name!r} in its corpus, found none of them there (the first is "
            f"{missing!r}); do the ids of corpus and judgements agree?",
        )  # fmt: skip


def _warnings(collection: Collection) -> Iterator[Check]:
    queries = collection.evaluated
    left_out = len(collection.queries) - len(queries)
    if left_out:
        yield Check("note", f"{left_out:,} of {len(collection.queries):,} queries have no relevant document: left out.")
    unknown = sum(query not in collection.queries for query in collection.relevant)
    if unknown:
        yield Check("warning", f"{unknown:,} judged queries are not among the queries: left out.")
    lost = sum(document not in collection.corpus for query in queries for document in collection.relevant[query])
    if lost:
        total = sum(len(collection.relevant[query]) for query in queries)
        yield Check(
            "warning", f"{lost:,} of {total:,} relevant documents are not in the corpus: they count as never found."
        )
    empty = sum(not collection.queries[query].strip() for query in queries)
    if empty:
        yield Check("warning", f"{empty:,} of {len(queries):,} queries have an empty text: measured as they are.")
    empty = sum(not text.strip() for text in collection.corpus.values())
    if empty:
        yield Check("warning", f"{empty:,} of {len(collection.corpus):,} documents have an empty text: kept.")
    again = len(collection.corpus) - len(set(collection.corpus.values()))
    if again - max(empty - 1, 0) > 0:
        yield Check(
            "note",
            f"{again:,} of {len(collection.corpus):,} documents repeat the text of another; each is a document of its "
            "own, so finding the other one counts as a miss.",
        )


# --- from rows ------------------------------------------------------------------------------------------------------


def from_pairs(
    rows: Iterable[Mapping[str, Any]],
    answers: Iterable[Mapping[str, Any]] = (),
    *,
    name: str = "pairs",
    duplicates: Duplicates = "separate",
) -> Collection:
    """A collection whose queries are the anchors of `rows`, whose corpus is every positive of `rows` and `answers`.

    `answers` usually holds all rows, those of `rows` included: a row that is in both gives one document. With
    "separate" every row is a query and a document of its own, also where a text comes again; then the twin of the
    right answer counts as a miss. That is how people usually build it, and what their cards report. With "merge"
    equal texts are one, and a question is answered by every positive that any row gives it.

    >>> rows = [{"anchor": "how fast?", "positive": "very"}, {"anchor": "how big?", "positive": "very"}]
    >>> from_pairs(rows), from_pairs(rows, duplicates="merge")
    (<Collection 'pairs': 2 queries, 2 documents, 2 relevant>, <Collection 'pairs': 2 queries, 1 documents, 2 relevant>)
    """
    asked = [(str(row["anchor"]), str(row["positive"])) for row in rows]
    known = [(str(row["anchor"]), str(row["positive"])) for row in answers]
    if duplicates == "merge":
        return _merged(asked, known, name)
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, pair in reversed(list(enumerate(known))):
        places[pair].append(place)  # the last of the list is the first of the rows
    taken = []
    for pair in asked:
        if not places[pair]:
            known.append(pair)
            places[pair].append(len(known) - 1)
        taken.append(places[pair].pop())
    width = len(str(len(known)))
    return Collection(
        name=name,
        queries={f"q{place:0{width}}": anchor for place, (anchor, _) in zip(taken, asked, strict=True)},
        corpus={f"d{place:0{width}}": positive for place, (_, positive) in enumerate(known)},
        relevant={f"q{place:0{width}}": {f"d{place:0{width}}": 1.0} for place in taken},
    )


def _merged(asked: Sequence[tuple[str, str]], known: Sequence[tuple[str, str]], name: str) -> Collection:
    """Equal texts as one; ids are numbers of first appearance, those of `known` first."""
    pairs = [*known, *asked]
    width = len(str(len(pairs)))
    anchors = {text: f"q{place:0{width}}" for place, text in enumerate(dict.fromkeys(anchor for anchor, _ in pairs))}
    texts = {text: f"d{place:0{width}}" for place, text in enumerate(dict.fromkeys(answer for _, answer in pairs))}
    queries = {anchors[anchor]: anchor for anchor, _ in asked}
    relevant: dict[str, dict[str, float]] = {query: {} for query in queries}
    for anchor, answer in pairs:
        if anchors[anchor] in relevant:
            relevant[anchors[anchor]][texts[answer]] = 1.0
    corpus = {place: text for text, place in texts.items()}
    return Collection(name=name, queries=queries, corpus=corpus, relevant=relevant)


# --- from a folder in BEIR's layout ---------------------------------------------------------------------------------


def from_folder(folder: str | Path, split: str | None = None, *, name: str | None = None) -> Collection:
    """Read corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/<split>.tsv.

    A document is its title, a blank and its text, as BEIR and MTEB give it to a model. Without `split` it is "test",
    or the only one there is. Judgements have the columns query-id, corpus-id, score, or TREC's four; a heading is
    known by its last field, which is no number. An id that comes twice is kept once where the text is the same and is
    an error where it is not.

    Raises DataError where a file is missing, cannot be read, or names the line that is broken.
    """
    root = Path(folder).expanduser()
    qrels = _qrels_file(root, split)
    notes: list[Check] = []
    corpus = _texts(root / "corpus.jsonl", notes)
    queries = _texts(root / "queries.jsonl", notes)
    relevant = _read_qrels(qrels, notes)
    judged = {query: text for query, text in queries.items() if query in relevant}
    return Collection(name or root.resolve().name, judged, corpus, relevant, tuple(notes)).usable()


def _qrels_file(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        raise DataError(f"expected a folder with corpus.jsonl, queries.jsonl and qrels, found none at {str(root)!r}.")
    splits = {path.stem: path for path in sorted((root / "qrels").glob("*.tsv"))}
    chosen = split or ("test" if "test" in splits or len(splits) != 1 else next(iter(splits)))
    if chosen not in splits:
        raise DataError(
            f"expected judgements in {str(root / 'qrels' / f'{chosen}.tsv')!r}, found "
            f"{', '.join(f'{name}.tsv' for name in splits) or 'none'}; choose a split that is there."
        )
    return splits[chosen]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8 text in {str(path)!r}, found something else ({error.reason}).") from error
    except OSError as error:
        raise DataError(f"expected to read {str(path)!r}, found {error.strerror or error}.") from error


def _texts(path: Path, notes: list[Check]) -> dict[str, str]:
    """Id -> text of one JSON Lines file."""
    found: dict[str, str] = {}
    rows = 0
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"expected one JSON object a line in {str(path)!r}, found {line[:40]!r} in line {number}; mend or "
                "remove that line."
            ) from error
        key, text = _document(row, path, number)
        if found.setdefault(key, text) != text:
            raise DataError(
                f"expected every id once in {str(path)!r}, found {key!r} again in line {number} with another text; "
                "give one of them an id of its own."
            )
        rows += 1
    if rows > len(found):
        notes.append(Check("note", f"{rows - len(found):,} lines of {path.name} repeat another line: kept once."))
    return found


def _document(row: Any, path: Path, number: int) -> tuple[str, str]:
    """Id and text of one line; a title that is there comes before the text."""
    key = row.get("_id", row.get("id")) if isinstance(row, dict) else None
    if isinstance(key, bool) or not isinstance(key, str | int) or not isinstance(row.get("text"), str):
        shown = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"expected an object with an '_id' and a 'text' in {str(path)!r}, line {number}, found "
            f"{shown or 'nothing'}; mend that line."
        )
    title = row.get("title")
    return str(key), whole(f"{title} {row['text']}".strip() if isinstance(title, str) else row["text"])


def whole(text: str) -> str:
    """`text` with halves of surrogate pairs, which JSON can hold and no file or tokenizer can, replaced.

    >>> whole(chr(0xD83D) + "?")
    '\ufffd?'
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _read_qrels(path: Path, notes: list[Check]) -> dict[str, dict[str, float]]:
    """Query id -> {document id: gain} for gains above 0; queries without any stay, empty."""
    relevant: dict[str, dict[str, float]] = {}
    judged = below = 0
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) == 1:
            fields = line.split()
        try:
            query, document, gain = fields[0], fields[-2], float(fields[-1])
        except (ValueError, IndexError):
            if judged == 0 and number == 1 and len(fields) in (3, 4):
                continue  # the heading
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
        judged += 1
        below += gain <= 0
        gains = relevant.setdefault(query, {})
        if gain > 0:
            gains[document] = gain
    if below:
        notes.append(Check("note", f"{below:,} of {judged:,} judgements say not relevant: taken as such."))
    return relevant


# --- from anywhere --------------------------------------------------------------------------------------------------


def load_collection(
    location: str | Path,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    duplicates: Duplicates = "separate",
    online: Callable[[], bool] = lambda: False,
) -> Collection:
    """The collection at `location`: a BEIR folder, `sample:NAME`, a file of pairs, or a Hub id.

    A sample's queries are the anchors of `split` ("test" without one) and its corpus the answers of all its parts. A
    file of pairs gives a query for every row; `columns` renames (theirs -> ours) to anchor and positive. A Hub id is
    read as BEIR and MTEB lay sets out, from the local cache where `online` says no; it is asked only then.

    Raises DataError where nothing can be had there.
    """
    place = str(location)
    if place.startswith("sample:"):
        part = split or "test"
        if part not in SAMPLE_PARTS:
            raise DataError(f"expected a split of {', '.join(SAMPLE_PARTS)} for {place!r}, found {part!r}; choose one.")
        parts = {name: list(load_pairs(Source(location=place, split=name), PAIR).rows) for name in SAMPLE_PARTS}
        every = [row for name in SAMPLE_PARTS for row in parts[name]]
        name = place.removeprefix("sample:")
        found = from_pairs(parts[part], every, name=name, duplicates=duplicates)
        return found.with_documents(sample_distractors(name)).usable()
    path = Path(place).expanduser()
    if path.is_dir():
        return from_folder(path, split)
    if path.is_file() or path.suffix or path.is_absolute() or place.startswith(".") or place.count("/") != 1:
        pairs = load_pairs(Source(location=place, columns=dict(columns or {})), PAIR)
        return from_pairs(pairs.rows, name=path.stem, duplicates=duplicates).usable()
    return _from_hub(place, split, online)


PAIR = ("anchor", "positive")


def _from_hub(identity: str, split: str | None, online: Callable[[], bool]) -> Collection:
    """A set with the configurations corpus, queries and qrels (NanoBEIR, BEIR) or default (MTEB)."""
    corpus = _hub_rows(identity, ("corpus",), split, online, judged=False)
    queries = _hub_rows(identity, ("queries",), split, online, judged=False)
    judgements = _hub_rows(identity, ("qrels", "default"), split, online)
    relevant: dict[str, dict[str, float]] = defaultdict(dict)
    for row in judgements:
        gain = float(row.get("score", 1))
        if gain > 0:
            relevant[str(row["query-id"])][str(row["corpus-id"])] = gain
    place = Path(identity)
    return Collection(
        name=place.name,
        queries=dict(_document(row, place, number) for number, row in enumerate(queries, 1)),
        corpus=dict(_document(row, place, number) for number, row in enumerate(corpus, 1)),
        relevant=dict(relevant),
    ).usable()


def _hub_rows(
    identity: str, configs: Sequence[str], split: str | None, online: Callable[[], bool], *, judged: bool = True
) -> list[dict[str, Any]]:
    """Rows of the first configuration there is; `split`, else test, else the only one.

    Texts (not `judged`) of BEIR and MTEB have one split whatever the judgements' are called; NanoBEIR's have the same.
    """
    why = "the Hub cannot be reached and the local cache does not have it"
    with datasets_online(online) as (datasets, reached):
        for config in configs:
            try:
                parts = datasets.load_dataset(identity, config)
            except (OSError, ValueError) as error:  # what `datasets` raises for all that is missing or malformed
                why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200] if reached else why
                continue
            wanted = split if judged or split in parts else None
            chosen = wanted or ("test" if "test" in parts else next(iter(parts)))
            if chosen in parts:
                return [dict(row) for row in parts[chosen]]
            why = f"it has no split {chosen!r}, but {', '.join(parts)}"
    raise DataError(
        f"expected a folder, a file, sample:NAME or a Hub collection, found {identity!r}, whose {configs[0]} cannot be "
        f"loaded ({why}); give a local folder."
    )
