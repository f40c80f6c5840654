"""The rows at a place: a file, a folder, a shipped sample or a Hub dataset."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from workbench.data.qrels import Judgment, judgment, read_qrels
from workbench.data.readers import (
    READERS,
    ROWS_AT_ONCE,
    Row,
    ending,
    file_rows,
    file_sha256,
    read_table,
    reader_of,
    require_file,
    text_row,
)
from workbench.errors import DataError, WorkbenchError, first_line, listed, short
from workbench.recipe.schema import Source
from workbench.resources import shipped_path

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
FIRST_ROWS = re.compile(r"(\w+)\[:(\d+)\]")
"""The first rows of a split, `train[:20000]`: streamed where that saves a download."""

MOST_FILES = 2000  # of a folder, read as one set of rows
NOT_CACHED = "the Hub cannot be reached and the local cache does not have it"


@dataclass(frozen=True)
class Rows:
    """The rows of a place. Iterating again reads again."""

    each: Callable[[], Iterator[Row]]
    sha256: str  # of the file's bytes; of the rows where there is no single file
    documents: Callable[[], Mapping[str, str]] | None = None  # id -> text, where rows name documents by id
    sample: bool = False  # columns are matched by position: a sample stands in for rows with other names

    def __iter__(self) -> Iterator[Row]:
        return self.each()


def open_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """The rows at `source.location`; of a large file only the hash is read yet.

    Raises DataError where there is nothing, now or while the rows are read.
    """
    location = source.location
    if location == "unknown" or not location.strip():
        raise DataError(f"expected a place to take training rows from, found {location!r}; name one with --data.")
    if location.startswith("sample:"):
        path = sample_file(location.removeprefix("sample:"), source.split or "train")
        return Rows(lambda: file_rows(path), file_sha256(path), sample=True)
    path = Path(os.path.expanduser(location))
    if os.path.isfile(path):
        if reader_of(path) is read_table or ending(path) in (".jsonl", ".ndjson"):
            next(file_rows(path, source.columns), None)  # a line without an end is refused before gigabytes are hashed
        corpus = path.with_name("corpus.jsonl")
        documents = (lambda: _documents(corpus)) if corpus.is_file() and corpus != path else None
        return Rows(lambda: file_rows(path, source.columns), file_sha256(path), documents)
    if os.path.isdir(path):
        return _folder_rows(path, source)
    if os.path.exists(path):
        require_file(path)
    local = ending(path) in READERS or path.is_absolute() or location.startswith((".", "~"))
    if local or not HUB_ID.fullmatch(location):
        raise DataError(f"expected a file of rows at {location!r}, found none; check the path.")
    return _hub_rows(source, online)


def sample_file(name: str, part: str) -> Path:
    """The Parquet file of one part of a shipped sample. Raises DataError where there is none."""
    try:
        return shipped_path(f"data/samples/{name}/{part}.parquet")
    except WorkbenchError:
        known = ", ".join(f"sample:{sample}" for sample in shipped_samples()) or "none"
        raise DataError(
            f"expected a shipped sample with rows for {part!r}, found 'sample:{name}'; there are: {known}."
        ) from None


def shipped_samples() -> tuple[str, ...]:
    """Names of the samples that came with the workbench."""
    try:
        folder = shipped_path("data/samples")
    except WorkbenchError:
        return ()
    return tuple(sorted(path.parent.name for path in folder.glob("*/train.parquet")))


def sample_distractors(name: str) -> list[str]:
    """Documents of a sample that answer none of its questions; most samples have none."""
    try:
        path = shipped_path(f"data/samples/{name}/corpus.parquet")
    except WorkbenchError:
        return []
    return [str(row["positive"]) for row in file_rows(path)]


def is_beir(folder: Path) -> bool:
    """Whether a folder has BEIR's layout: documents, queries and qrels."""
    return all((folder / name).is_file() for name in ("corpus.jsonl", "queries.jsonl")) and (folder / "qrels").is_dir()


def _folder_rows(folder: Path, source: Source) -> Rows:
    """BEIR's files joined, pairs that name documents of a corpus, or a clone of a Hub dataset."""
    if is_beir(folder):
        return _beir_rows(folder, source.split or "train")
    corpus = folder / "corpus.jsonl"
    if (folder / "qrels").is_dir():
        there = [path.name for path in folder_files(folder)]
        raise DataError(
            f"expected corpus.jsonl, queries.jsonl and qrels in {str(folder)!r}, found {listed(sorted(there))}; add "
            "what is missing."
        )
    parts = [path for path in folder.glob("*.jsonl") if path != corpus and path.stem.endswith(source.split or "")]
    parts = [path for path in parts if path.is_file()]
    if corpus.is_file() and len(parts) == 1:
        return Rows(lambda: file_rows(parts[0]), file_sha256(parts[0]), lambda: _documents(corpus))
    tables = [each for each in READERS if each != ".txt"]  # text files of a folder are rarely tables
    named = bool(folder.resolve().name)  # `datasets` cannot load the root folder
    if not named or not any(path.suffix in tables for path in folder_files(folder, "data/*")):
        raise DataError(
            f"expected rows in the folder {str(folder)!r} (BEIR's files, or some ending in {', '.join(tables)}), found "
            "none; check the path."
        )
    return _dataset_rows(source.model_copy(update={"location": str(folder)}), lambda: True)


def folder_files(folder: Path, *more: str) -> list[Path]:
    """What is in a folder and, by patterns, below it. Raises DataError where that is too much for one set of rows."""
    found = list(islice(chain.from_iterable(map(folder.glob, ("*", *more))), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise DataError(
            f"expected at most {MOST_FILES:,} files in {str(folder)!r}, found more; join them, or name the one that is "
            "meant."
        )
    return found


def _documents(path: Path) -> dict[str, str]:
    """Id -> text of a corpus, without the title, as the cards that train so have it."""
    return {key: text for key, _, text in _text_rows(path)}


def _text_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    return (text_row(row, path, number) for number, row in enumerate(file_rows(path), 1))


def _beir_rows(folder: Path, split: str) -> Rows:
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        there = listed(sorted(path.stem for path in qrels.parent.glob("*.tsv"))) or "none"
        raise DataError(f"expected judgments in {str(qrels)!r}, found {there}; name a split that is there.")
    queries, corpus = folder / "queries.jsonl", folder / "corpus.jsonl"
    digest = hashlib.sha256("".join(map(file_sha256, (qrels, queries))).encode())
    return Rows(lambda: _join(read_qrels(qrels), _text_rows(queries), _text_rows(corpus)), digest.hexdigest())


def _join(
    judgments: Iterable[Judgment], queries: Iterable[tuple[str, str, str]], corpus: Iterable[tuple[str, str, str]]
) -> Iterator[Row]:
    """One row for each relevant document of each query: query, text, title. Only judged texts are kept in memory."""
    relevant = [(query, document) for query, document, gain in judgments if gain > 0]
    asked, found = (
        {key: texts for key, *texts in rows if key in ids}
        for rows, ids in ((queries, {query for query, _ in relevant}), (corpus, {each for _, each in relevant}))
    )
    for number, (query, document) in enumerate(relevant, 1):
        if query not in asked or document not in found:
            what, missing = ("query", query) if query not in asked else ("document", document)
            raise DataError(
                f"expected the {what} {short(missing)} of judgment {number}, found none of that id; fix the dataset."
            )
        title, text = found[document]
        yield {"query": asked[query][1], "text": text, "title": title}


def _hub_rows(source: Source, online: Callable[[], bool]) -> Rows:
    """Rows of a Hub dataset; one in BEIR's layout is joined with its judgments, `NAME-qrels`."""
    if source.config is not None or not source.location.lower().startswith("beir/"):
        return _dataset_rows(source, online)
    qrels, queries, corpus = (
        load_dataset(source.model_copy(update={"location": location, "config": config, "split": split}), online)
        for location, config, split in (
            (f"{source.location}-qrels", None, source.split or "train"),
            (source.location, "queries", "queries"),
            (source.location, "corpus", "corpus"),
        )
    )
    place = Path(source.location)

    def texts(rows: Iterable[Row]) -> Iterator[tuple[str, str, str]]:
        return (text_row(row, place, number) for number, row in enumerate(rows, 1))

    where = f"the judgments of {source.location!r}"
    return _with_hash(lambda: _join((judgment(row, where) for row in qrels), texts(queries), texts(corpus)))


def _dataset_rows(source: Source, online: Callable[[], bool]) -> Rows:
    loaded = load_dataset(source, online)

    def each() -> Iterator[Row]:  # {column: values} of many rows, far faster than row by row
        for batch in loaded.iter(ROWS_AT_ONCE):
            yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    return _with_hash((lambda: iter(loaded)) if isinstance(loaded, list) else each)


def _with_hash(each: Callable[[], Iterator[Row]]) -> Rows:
    digest = hashlib.sha256()
    for row in each():
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return Rows(each, digest.hexdigest())


def load_dataset(source: Source, online: Callable[[], bool]) -> Any:
    """A dataset by `datasets`, memory-mapped; from the local cache where the Hub cannot be reached.

    A split such as `train[:20000]` of a reachable dataset is streamed: a list of rows. Raises DataError where there
    is none.
    """
    place = {"path": source.location, "name": source.config, "revision": source.revision}
    first = FIRST_ROWS.fullmatch(source.split or "")
    with datasets_online(online) as (datasets, reached):
        try:
            if first is not None and reached:
                streamed = datasets.load_dataset(**place, split=first[1], streaming=True)
                with closing(iter(streamed)) as rows:
                    return list(islice(rows, int(first[2])))
            return datasets.load_dataset(**place, split=source.split or "train")
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # missing, gated or malformed
            raise DataError(
                f"expected a file, sample:NAME or Hub dataset, found {source.location!r}, which cannot be loaded "
                f"({first_line(error) if reached else NOT_CACHED}); give a local file."
            ) from error


@contextmanager
def datasets_online(online: Callable[[], bool]) -> Iterator[tuple[Any, bool]]:
    """The library `datasets` and whether it may ask the Hub; inside the block it does only then, and offline it does
    not announce every part that it takes from the cache."""
    reached = online()

    import datasets

    was, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = was or not reached
    if not reached:
        datasets.logging.set_verbosity_error()
    try:
        yield datasets, reached
    finally:
        datasets.config.HF_HUB_OFFLINE = was
        datasets.logging.set_verbosity(verbosity)
