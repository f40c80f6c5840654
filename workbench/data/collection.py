"""Queries, corpus and relevant documents: what rankings are measured on.

A Collection comes from a folder in BEIR's layout, from rows of questions and answers, from a shipped sample or from
the Hub. What can be measured in spite of a defect is kept and said by `check`; what cannot is an error. Relevance is
a gain: above 0 is relevant, 0 and below is judged and not relevant.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from workbench.data.checks import Check
from workbench.data.qrels import QRELS, gains_of, judgement, read_qrels
from workbench.data.readers import (
    READERS,
    datasets_online,
    ending,
    file_rows,
    read_json,
    sample_distractors,
    unheaded_rows,
)
from workbench.data.training_rows import SAMPLE_PARTS, load_pairs
from workbench.errors import DataError
from workbench.recipe.schema import Source

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
    """Read a folder in BEIR's layout: corpus (_id, title, text), queries (_id, text), and judgements in qrels/.

    Each is a file (corpus.jsonl; or .json, .csv, .tsv, .parquet, packed by gzip or not) or a folder of such files, as
    a clone of a Hub dataset has them; MS MARCO's names (collection.tsv, queries.dev.tsv, qrels.dev.tsv, no headings)
    do too, and JSON objects of ids and texts. A document is its title, a blank and its text, as BEIR and MTEB give it
    to a model. Judgements have the columns query-id, corpus-id, score, or TREC's four; a heading is known by its last
    field, which is no number. Without `split` the judgements are those of "test", else of "dev" or "validation", else
    the only ones there are. An id that comes twice is kept once where the text is the same and is an error where it
    is not.

    Raises DataError where a file is missing, cannot be read, or names the row that is broken.
    """
    root = _innermost(Path(folder).expanduser())
    chosen, judged = _judgements(root, split)
    notes: list[Check] = []
    if split is None and chosen not in (SPLITS[0], "qrels"):
        notes.append(Check("note", f"Measured on the judgements of {chosen!r}: there are none of {SPLITS[0]!r}."))
    corpus = _texts(_files(root, "corpus", chosen) or [root / "corpus.jsonl"], notes)
    queries = _texts(_files(root, "queries", chosen) or [root / "queries.jsonl"], notes)
    relevant = gains_of([each for path in judged for each in read_qrels(path)], notes)
    asked = {query: text for query, text in queries.items() if query in relevant}
    return Collection(name or root.resolve().name, asked, corpus, relevant, tuple(notes)).usable()


JUDGED = ("qrels", "default", "data")
"""Where judgements lie: BEIR's folder, or those of a clone from the Hub."""

SPLITS = ("test", "dev", "validation")
"""What is measured on where no split is named, the first that is there."""

PARTS = {
    "corpus": ("corpus", "collection", "documents", "docs", "passages"),
    "queries": ("queries", "questions", "topics", "query"),
}
"""How the files, or folders of files, are called that hold documents and queries."""

JUDGEMENTS = ("qrels", "relevant_docs")
"""How the file of judgements is called that lies beside them."""


def is_collection(folder: Path) -> bool:
    """Whether a folder holds documents, or is to: by the names of what lies in it."""
    root = _innermost(folder)
    judged = [path for name in JUDGEMENTS for path in root.glob(f"{name}*")]
    return bool(judged or _files(root, "corpus", "test"))


def _innermost(folder: Path) -> Path:
    """The folder that an archive made inside the one it was unpacked to, where there is nothing else."""
    inside = [path for path in folder.glob("*") if not path.name.startswith(".")] if folder.is_dir() else []
    known = {*JUDGED, *(name for names in PARTS.values() for name in names)}
    return _innermost(inside[0]) if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in known else folder


def _judgements(root: Path, split: str | None) -> tuple[str, list[Path]]:
    """The split whose judgements are taken, and the files that hold them."""
    if not root.is_dir():
        raise DataError(f"expected a folder with corpus.jsonl, queries.jsonl and qrels, found none at {str(root)!r}.")
    splits = _qrels_files(root)
    there = "test" if not splits else next((name for name in SPLITS if name in splits), None)
    chosen = split or there or (next(iter(splits)) if len(splits) == 1 else "test")
    if chosen not in splits:
        found = ", ".join(path.name for files in splits.values() for path in files) or "none"
        raise DataError(
            f"expected judgements in {str(root / 'qrels' / f'{chosen}.tsv')!r}, found {found}; choose a split that is "
            "there."
        )
    return chosen, splits[chosen]


def _qrels_files(root: Path) -> dict[str, list[Path]]:
    """Split -> the files of its judgements: beside the texts, or in the first folder of `JUDGED` that has some.

    A file that is called as its split is (test.tsv) stands for it alone, whatever others are called after it.
    """
    texts = any(_named(root, name) for names in PARTS.values() for name in names)
    for place in (root, *(root / name for name in JUDGED)):
        splits: dict[str, list[Path]] = {}
        for path in sorted(place.glob("*")):
            plain = _stem(path) == _split(path)
            judged = place != root or path.name.startswith(JUDGEMENTS) or (texts and plain and _split(path) in SPLITS)
            if judged and path.is_file() and ending(path) in (*READERS, *QRELS):
                splits.setdefault(_split(path), []).append(path)
        for split, files in list(splits.items()):
            own = [path for path in files if _stem(path) == split]
            for path in [path for path in files if own and path not in own]:
                splits[split].remove(path)
                splits.setdefault(_stem(path), []).append(path)
        if splits:
            return splits
    return {}


def _split(path: Path) -> str:
    """The split that a file is of, by a word in its name, else all of its name.

    >>> [_split(Path(name)) for name in ("test.tsv.gz", "test-00000-of-00002.parquet", "qrels.dev.small.tsv")]
    ['test', 'test', 'dev']
    """
    words = re.split(r"[._-]", path.name)
    return next((word for word in words if word in (*SPLITS, "train")), _stem(path))


def _stem(path: Path) -> str:
    return re.sub(r"-\d+-of-\d+$", "", path.name.partition(".")[0])


def _named(root: Path, name: str) -> list[Path]:
    return [path for path in sorted(root.glob(f"{name}.*")) if path.is_file() and ending(path) in READERS]


def _files(root: Path, part: str, split: str) -> list[Path]:
    """The files that hold the corpus or the queries; those of `split` where each split has its own."""
    for name in PARTS[part]:
        files = _named(root, name)
        inside = [path for path in sorted((root / name).glob("*")) if path.is_file() and ending(path) in READERS]
        of_split = [[path for path in each if _split(path) == split] for each in (files, inside)]
        if files or inside:
            return of_split[0][:1] or files[:1] or of_split[1] or inside
    return []


def _texts(paths: Sequence[Path], notes: list[Check]) -> dict[str, str]:
    """Id -> text of the rows of files."""
    found: dict[str, str] = {}
    rows = 0
    for path in paths:
        for number, row in enumerate(_text_rows(path), 1):
            key, text = _document(row, path, number)
            if found.setdefault(key, text) != text:
                raise DataError(
                    f"expected every id once in {str(path)!r}, found {key!r} again in row {number} with another text; "
                    "give one of them an id of its own."
                )
            rows += 1
    if rows > len(found):
        again = f"{rows - len(found):,} rows of {paths[0].name} repeat another row: kept once."
        notes.append(Check("note", again))
    return found


def _text_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of texts with ids: as they are, of a JSON object of ids, or of a table without a heading (id, text)."""
    if ending(path) == ".json" and isinstance(whole_object := read_json(path), dict):
        if all(isinstance(each, str | dict) for each in whole_object.values()):
            for key, each in whole_object.items():
                yield {"_id": key, **(each if isinstance(each, dict) else {"text": each})}
            return
    elif ending(path) in (".tsv", ".csv", ".txt"):
        first = next(iter(file_rows(path)), {})
        if not {str(name).lower() for name in first} & {*IDS, *TEXTS}:
            for row in unheaded_rows(path):
                cells = list(row.values())
                title = {"title": cells[-2]} if len(cells) > 2 else {}
                yield {"_id": cells[0], **title, **({"text": cells[-1]} if len(cells) > 1 else {})}
            return
    yield from file_rows(path)


IDS = ("_id", "id", "doc_id", "query_id", "docid", "qid", "pid", "docno", "corpus_id", "corpus-id", "query-id")
TEXTS = ("text", "contents", "content", "passage", "body", "document", "query", "question")


def _document(row: Mapping[str, Any], path: Path, number: int) -> tuple[str, str]:
    """Id and text of one row; a title that is there comes before the text."""
    key = next((row[name] for name in IDS if name in row), None)
    text = next((row[name] for name in TEXTS if name in row), None)
    if isinstance(key, bool) or not isinstance(key, str | int) or not isinstance(text, str):
        raise DataError(
            f"expected an object with an '_id' and a 'text' in {str(path)!r}, row {number}, found "
            f"{', '.join(map(repr, row)) or 'nothing'}; mend that row."
        )
    title = row.get("title")
    return str(key), whole(f"{title} {text}".strip() if isinstance(title, str) else text)


def whole(text: str) -> str:
    """`text` with halves of surrogate pairs, which JSON can hold and no file or tokenizer can, replaced.

    >>> whole(chr(0xD83D) + "?")
    '\ufffd?'
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


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
    if path.is_file() or not is_hub_id(place):
        pairs = load_pairs(Source(location=place, columns=dict(columns or {})), PAIR)
        return from_pairs(pairs.rows, name=path.stem, duplicates=duplicates).usable()
    return _from_hub(place, split, online)


PAIR = ("anchor", "positive")


def is_hub_id(place: str) -> bool:
    """Whether `place` can be no file but a dataset on the Hub.

    >>> is_hub_id("mteb/scifact"), is_hub_id("data/pairs.csv"), is_hub_id("./data")
    (True, False, False)
    """
    path = Path(place).expanduser()
    return place.count("/") == 1 and not (path.is_absolute() or place.startswith(".") or ending(path) in READERS)


def _from_hub(identity: str, split: str | None, online: Callable[[], bool]) -> Collection:
    """A set with the configurations corpus, queries and qrels (NanoBEIR, BEIR) or default (MTEB)."""
    corpus = _hub_rows(identity, ("corpus",), split, online, judged=False)
    queries = _hub_rows(identity, ("queries",), split, online, judged=False)
    judgements = _hub_rows(identity, ("qrels", "default"), split, online)
    place = Path(identity)
    where = f"the judgements of {identity!r}"
    notes: list[Check] = []
    relevant = gains_of([judgement(row, where) for row in judgements], notes)
    return Collection(
        name=place.name,
        queries=dict(_document(row, place, number) for number, row in enumerate(queries, 1)),
        corpus=dict(_document(row, place, number) for number, row in enumerate(corpus, 1)),
        relevant=relevant,
        notes=tuple(notes),
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
