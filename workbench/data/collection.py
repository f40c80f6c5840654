"""Queries, corpus and relevant documents: what rankings are measured on.

A Collection comes from a folder in BEIR's layout, from rows of questions and answers, from a shipped sample or from
the Hub. A defect that still allows measuring is reported by `check`; any other is an error. Relevance is a gain: above
0 is relevant, 0 and below is judged and not relevant.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from workbench.data.pairs import Check
from workbench.data.qrels import QRELS, gains_of, judgment, read_qrels
from workbench.data.readers import (
    READERS,
    ending,
    file_rows,
    read_json,
    read_table,
    text_columns,
    text_row,
)
from workbench.data.sources import NOT_CACHED, datasets_online, sample_distractors
from workbench.data.training_rows import SAMPLE_PARTS, load_pairs, unread_columns
from workbench.errors import DataError, first_line, listed, short
from workbench.recipe.schema import Source

Duplicates = Literal["separate", "merge"]

SPLITS = ("test", "dev", "validation")
"""The first of these that is there is measured where no split is named."""

QRELS_FOLDERS = ("qrels", "default", "data")  # BEIR's, or those of a clone from the Hub
QRELS_FILES = ("qrels", "relevant_docs")  # names of a file of judgments beside the texts
TEXT_FILES = {
    "corpus": ("corpus", "collection", "documents", "docs", "passages"),
    "queries": ("queries", "questions", "topics", "query"),
}
"""Names of the files, or folders of files, of documents and queries."""
TEXT_FILE_NAMES = (*TEXT_FILES["corpus"], *TEXT_FILES["queries"])


@dataclass(frozen=True, repr=False)
class Collection:
    """One evaluation set. Documents with equal scores are ranked by their ids."""

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
        """Hash of all ids, texts and gains in any order; equal hashes mean equal collections."""
        digest = hashlib.sha256()
        for part in (self.queries, self.corpus):
            for key in sorted(part):
                digest.update(f"{json.dumps([key, part[key]], ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
        for query in sorted(self.relevant):
            gains = {document: float(gain) for document, gain in self.relevant[query].items()}
            digest.update(f"{json.dumps([query, gains], sort_keys=True)}\n".encode())
        return digest.hexdigest()

    def check(self) -> tuple[Check, ...]:
        """Defects of the collection; an error means that nothing can be measured."""
        error = self._error()
        return (*self.notes, *([Check("error", error)] if error else []), *self._warnings())

    def usable(self) -> Collection:
        """This collection, or DataError where nothing can be measured."""
        if error := self._error():
            raise DataError(error)
        return self

    def with_documents(self, texts: Sequence[str]) -> Collection:
        """This collection with further documents, relevant to no query; a text that it already has is left out."""
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

    def _error(self) -> str | None:
        name, queries = self.name, self.evaluated
        if not self.corpus:
            return f"expected documents in the corpus of {name!r}, found none; give a corpus."
        if not self.queries:
            return f"expected queries in {name!r}, found none; give some."
        if not queries:
            return (
                f"expected relevant documents for the queries of {name!r}, found none for any of the "
                f"{len(self.queries):,}; do the ids of queries and judgments agree?"
            )
        if not any(document in self.corpus for query in queries for document in self.relevant[query]):
            return (
                f"expected relevant documents of {name!r} in its corpus, found none of them there: the first is "
                f"{short(next(iter(self.relevant[queries[0]])))}, and the corpus has {listed(self.corpus, 3)}; write "
                "the ids alike."
            )
        return None

    def _warnings(self) -> list[Check]:
        queries, documents = self.evaluated, len(self.corpus)
        relevant = [document for query in queries for document in self.relevant[query]]
        unjudged, judged = len(self.queries) - len(queries), len(relevant)
        unknown = sum(query not in self.queries for query in self.relevant)
        lost = sum(document not in self.corpus for document in relevant)
        blank = sum(not self.queries[query].strip() for query in queries)
        empty = sum(not text.strip() for text in self.corpus.values())
        again = documents - len(set(self.corpus.values()))
        found: tuple[tuple[int, Literal["note", "warning"], str], ...] = (
            (unjudged, "note", f"of {len(self.queries):,} queries have no relevant document: left out."),
            (unknown, "warning", "judged queries are not among the queries: left out."),
            (lost, "warning", f"of {judged:,} relevant documents are not in the corpus: counted as never found."),
            (blank, "warning", f"of {len(queries):,} queries have an empty text: measured as they are."),
            (empty, "warning", f"of {documents:,} documents have an empty text: kept."),
            (
                again if again > max(empty - 1, 0) else 0,
                "note",
                f"of {documents:,} documents repeat the text of another; each is a document of its own, so finding the "
                "other one counts as a miss.",
            ),
        )
        return [Check(severity, f"{count:,} {message}") for count, severity, message in found if count]


def from_pairs(
    rows: Iterable[Mapping[str, Any]],
    answers: Iterable[Mapping[str, Any]] = (),
    *,
    name: str = "pairs",
    duplicates: Duplicates = "separate",
) -> Collection:
    """A collection whose queries are the anchors of `rows`, whose corpus is every positive of `rows` and `answers`.

    `answers` usually holds all rows, those of `rows` included: a row that is in both gives one document. With
    "separate", as most cards do it, every row is a query and a document of its own, also where a text repeats; then
    the copy of the right answer counts as a miss. With "merge" equal texts are one, and a question is answered by
    every positive that any row gives it.

    >>> rows = [{"anchor": "how fast?", "positive": "very"}, {"anchor": "how big?", "positive": "very"}]
    >>> from_pairs(rows), from_pairs(rows, duplicates="merge")
    (<Collection 'pairs': 2 queries, 2 documents, 2 relevant>, <Collection 'pairs': 2 queries, 1 documents, 2 relevant>)
    """
    asked = [(str(row["anchor"]), str(row["positive"])) for row in rows]
    known = [(str(row["anchor"]), str(row["positive"])) for row in answers]
    if duplicates == "merge":
        return _merge(asked, known, name)
    places: dict[tuple[str, str], deque[int]] = defaultdict(deque)
    for place, pair in enumerate(known):
        places[pair].append(place)
    taken = []
    for pair in asked:
        if not places[pair]:
            places[pair].append(len(known))
            known.append(pair)
        taken.append(places[pair].popleft())
    width = len(str(len(known)))
    return Collection(
        name=name,
        queries={f"q{place:0{width}}": anchor for place, (anchor, _) in zip(taken, asked, strict=True)},
        corpus={f"d{place:0{width}}": positive for place, (_, positive) in enumerate(known)},
        relevant={f"q{place:0{width}}": {f"d{place:0{width}}": 1.0} for place in taken},
    )


def _merge(asked: Sequence[tuple[str, str]], known: Sequence[tuple[str, str]], name: str) -> Collection:
    """Equal texts as one; ids are numbers of first appearance, those of `known` first."""
    pairs = [*known, *asked]
    width = len(str(len(pairs)))
    anchors, texts = (
        {text: f"{kind}{place:0{width}}" for place, text in enumerate(dict.fromkeys(pair[side] for pair in pairs))}
        for side, kind in enumerate("qd")
    )
    queries = {anchors[anchor]: anchor for anchor, _ in asked}
    relevant: dict[str, dict[str, float]] = {query: {} for query in queries}
    for anchor, answer in pairs:
        if anchors[anchor] in relevant:
            relevant[anchors[anchor]][texts[answer]] = 1.0
    return Collection(name, queries, {place: text for text, place in texts.items()}, relevant)


def from_folder(folder: str | Path, split: str | None = None) -> Collection:
    """Read a folder in BEIR's layout: corpus (_id, title, text), queries (_id, text), and judgments in qrels/.

    Each is a file (.jsonl, .json, .csv, .tsv, .parquet, gzipped or not) or a folder of such files; MS MARCO's names
    (collection.tsv, queries.dev.tsv, qrels.dev.tsv, no headings) and JSON objects of ids and texts work too. A document
    is its title, a blank and its text, as in BEIR and MTEB. Judgments have the columns query-id, corpus-id, score, or
    TREC's four. Without `split` they are those of "test", else of "dev" or "validation", else the only ones there are.
    A repeated id is kept once where the text is the same.

    Raises DataError where a file is missing or cannot be read, and names the row that is broken.
    """
    root = _innermost(Path(folder).expanduser())
    chosen, judged = _judgments(root, split)
    notes: list[Check] = []
    if split is None and chosen not in (SPLITS[0], "qrels"):
        notes.append(Check("note", f"Measured on the judgments of {chosen!r}: there are none of {SPLITS[0]!r}."))
    corpus, queries = (
        _read_texts(_text_files(root, part, chosen) or [root / f"{part}.jsonl"], notes) for part in TEXT_FILES
    )
    relevant = gains_of([each for path in judged for each in read_qrels(path)], notes)
    asked = {query: text for query, text in queries.items() if query in relevant}
    if relevant and queries and not asked:
        raise DataError(
            f"expected the ids of {root.resolve().name!r} in its judgments, found {listed(relevant, 3)} there and "
            f"{listed(queries, 3)} in the queries; write them alike."
        )
    if len(asked) < len(queries):
        left_out = len(queries) - len(asked)
        notes.append(Check("note", f"{left_out:,} of {len(queries):,} queries have no judgment: left out."))
    return Collection(root.resolve().name, asked, corpus, relevant, tuple(notes)).usable()


def is_collection(folder: Path) -> bool:
    """Whether a folder holds a collection, by the names of its files."""
    root = _innermost(folder)
    return any(next(root.glob(f"{name}*"), None) for name in QRELS_FILES) or bool(_text_files(root, "corpus", "test"))


def _innermost(folder: Path) -> Path:
    """The only folder inside, as unpacking an archive makes it, where there is nothing else."""
    inside = [path for path in folder.glob("*") if not path.name.startswith(".")] if folder.is_dir() else []
    only = len(inside) == 1 and inside[0].is_dir() and inside[0].name not in (*QRELS_FOLDERS, *TEXT_FILE_NAMES)
    return _innermost(inside[0]) if only else folder


def _judgments(root: Path, split: str | None) -> tuple[str, list[Path]]:
    """The split whose judgments are taken, and the files that hold them."""
    if not root.is_dir():
        raise DataError(f"expected a folder with corpus.jsonl, queries.jsonl and qrels, found none at {str(root)!r}.")
    splits = _qrels_files(root)
    usual = [name for name in (*SPLITS, *(splits if len(splits) == 1 else ())) if name in splits]
    chosen = split or next(iter(usual), SPLITS[0])
    if chosen not in splits:
        found = listed([path.name for files in splits.values() for path in files]) or "none"
        raise DataError(
            f"expected judgments in {str(root / 'qrels' / f'{chosen}.tsv')!r}, found {found}; choose a split that is "
            "there."
        )
    return chosen, splits[chosen]


def _qrels_files(root: Path) -> dict[str, list[Path]]:
    """Split -> the files of its judgments: beside the texts, or in the first folder of `QRELS_FOLDERS` that has some.

    Where a file is named exactly as its split (test.tsv), others that only start so (test_large.tsv) are their own.
    """
    texts = any(_files_named(root, name) for name in TEXT_FILE_NAMES)
    for place in (root, *(root / name for name in QRELS_FOLDERS)):
        files = [path for path in sorted(place.glob("*")) if path.is_file() and ending(path) in (*READERS, *QRELS)]
        if place == root:
            files = [path for path in files if path.name.startswith(QRELS_FILES) or (texts and _stem(path) in SPLITS)]
        splits: dict[str, list[Path]] = {}
        stems = {_stem(path) for path in files}
        for path in files:
            splits.setdefault(_stem(path) if _split(path) in stems else _split(path), []).append(path)
        if splits:
            return splits
    return {}


def _split(path: Path) -> str:
    """The split of a file, by a word in its name, else its whole name.

    >>> [_split(Path(name)) for name in ("test.tsv.gz", "test-00000-of-00002.parquet", "qrels.dev.small.tsv")]
    ['test', 'test', 'dev']
    """
    words = re.split(r"[._-]", path.name)
    return next((word for word in words if word in (*SPLITS, "train")), _stem(path))


def _stem(path: Path) -> str:
    return re.sub(r"-\d+-of-\d+$", "", path.name.partition(".")[0])


def _files_named(folder: Path, name: str) -> list[Path]:
    return [path for path in sorted(folder.glob(name + ".*")) if path.is_file() and ending(path) in READERS]


def _text_files(root: Path, part: str, split: str) -> list[Path]:
    """The files of the corpus or the queries; those of `split` where each split has its own."""
    for name in TEXT_FILES[part]:
        files, inside = _files_named(root, name), _files_named(root / name, "*")
        own, own_inside = ([path for path in each if _split(path) == split] for each in (files, inside))
        if files or inside:
            return own[:1] or files[:1] or own_inside or inside
    return []


def _read_texts(paths: Sequence[Path], notes: list[Check]) -> dict[str, str]:
    """Id -> text of the rows of files."""
    found: dict[str, str] = {}
    rows = 0
    for path in paths:
        first = list(islice(_text_rows(path), 1))
        notes += unread_columns(path.name, first, text_columns(tuple(first[0])) if first else ())
        for number, row in enumerate(_text_rows(path), 1):
            key, text = _document(row, path, number)
            if found.setdefault(key, text) != text:
                raise DataError(
                    f"expected every id once in {str(path)!r}, found {short(key)} again in row {number} with another "
                    "text; give one of them another id."
                )
            rows += 1
    if rows > len(found):
        notes.append(Check("note", f"{rows - len(found):,} rows of {paths[0].name} repeat another row: kept once."))
    return found


def _text_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of texts with ids: as they are, of a JSON object of ids, or of a table without a heading (id, text)."""
    if ending(path) == ".json" and isinstance(whole := read_json(path), dict):
        if all(isinstance(each, str | dict) for each in whole.values()):
            for key, each in whole.items():
                yield {"_id": key, **(each if isinstance(each, dict) else {"text": each})}
            return
    elif ending(path) in (".tsv", ".csv", ".txt"):
        first = next(iter(file_rows(path)), {})
        if not any(text_columns(tuple(first))[:2]):
            for row in read_table(path, headed=False):
                cells = list(row.values())
                names = ("_id", "text")[: len(cells)] if len(cells) < 3 else ("_id", "title", "text")
                yield dict(zip(names, (cells[0], *cells[1:][-2:]), strict=True))
            return
    yield from file_rows(path)


def _document(row: Mapping[str, Any], place: Path, number: int) -> tuple[str, str]:
    """Id and text of one row, with the title before the text."""
    key, title, text = text_row(row, place, number)
    return key, f"{title} {text}".strip() if title else text


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
    read in the layouts of BEIR and MTEB, from the local cache where `online` says no; it is asked only then.

    Raises DataError where there is none.
    """
    place, pair = str(location), ("anchor", "positive")
    path = Path(place).expanduser()
    if place.startswith("sample:"):
        part = split or "test"
        if part not in SAMPLE_PARTS:
            raise DataError(f"expected a split of {', '.join(SAMPLE_PARTS)} for {place!r}, found {part!r}; choose one.")
        parts = {name: list(load_pairs(Source(location=place, split=name), pair).rows) for name in SAMPLE_PARTS}
        name = place.removeprefix("sample:")
        found = from_pairs(parts[part], chain.from_iterable(parts.values()), name=name, duplicates=duplicates)
        return found.with_documents(sample_distractors(name)).usable()
    if path.is_dir():
        return from_folder(path, split)
    if path.is_file() or not is_hub_id(place):
        pairs = load_pairs(Source(location=place, columns=dict(columns or {})), pair)
        return replace(from_pairs(pairs.rows, name=path.stem, duplicates=duplicates), notes=pairs.checks).usable()
    return _from_hub(place, split, online)


def is_hub_id(place: str) -> bool:
    """Whether `place` is no file but a dataset on the Hub.

    >>> is_hub_id("mteb/scifact"), is_hub_id("data/pairs.csv"), is_hub_id("./data")
    (True, False, False)
    """
    path = Path(place).expanduser()
    return place.count("/") == 1 and not (path.is_absolute() or place.startswith(".") or ending(path) in READERS)


def _from_hub(identity: str, split: str | None, online: Callable[[], bool]) -> Collection:
    """A set with the configurations corpus, queries and qrels (NanoBEIR, BEIR) or default (MTEB)."""
    corpus, queries = (
        dict(_document(row, Path(identity), number) for number, row in enumerate(rows, 1))
        for rows in (_hub_rows(identity, (config,), split, online, judged=False) for config in TEXT_FILES)
    )
    judgments = _hub_rows(identity, ("qrels", "default"), split, online)
    notes: list[Check] = []
    relevant = gains_of([judgment(row, f"the judgments of {identity!r}") for row in judgments], notes)
    return Collection(Path(identity).name, queries, corpus, relevant, tuple(notes)).usable()


def _hub_rows(
    identity: str, configs: Sequence[str], split: str | None, online: Callable[[], bool], *, judged: bool = True
) -> list[dict[str, Any]]:
    """Rows of the first configuration there is; `split`, else test, else the only one.

    Texts (not `judged`) of BEIR and MTEB have one split whatever the judgments' are called; NanoBEIR's have the same.
    """
    why = NOT_CACHED
    with datasets_online(online) as (datasets, reached):
        for config in configs:
            try:
                parts = datasets.load_dataset(identity, config)
            except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # missing or malformed
                why = first_line(error) if reached else why
                continue
            wanted = split if judged or split in parts else None
            chosen = wanted or ("test" if "test" in parts else next(iter(parts)))
            if chosen in parts:
                return [dict(row) for row in parts[chosen]]
            why = f"it has no split {chosen!r}, but {listed(parts)}"
    raise DataError(
        f"expected a folder, a file, sample:NAME or a Hub collection, found {identity!r}, whose {configs[0]} cannot be "
        f"loaded ({why}); give a local folder."
    )
