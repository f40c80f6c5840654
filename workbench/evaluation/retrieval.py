"""Retrieval evaluation: one score per query and metric, on a collection, with any `encode` function.

Metrics are named and defined as in InformationRetrievalEvaluator of sentence-transformers 6, and equal to its numbers;
unlike there, the result of every query is kept. The model is an argument: `encode(texts, kind)` returns one vector per
text, and adds the prompt for "query" or "document".
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from workbench.data.collection import Collection
from workbench.errors import DataError
from workbench.evaluation.metrics import CUTS, every_metric, graded_ndcg
from workbench.run import Progress, Run, write_json, write_parquet

if TYPE_CHECKING:
    import numpy.typing as npt

    from workbench.evaluation.topk import Search, TopK

    Floats = npt.NDArray[np.float32]
    Integers = npt.NDArray[np.int64]

Encode = Callable[[list[str], Literal["query", "document"]], Any]
"""`encode(texts, kind)` -> (len(texts), dim) array of floats; under "energy", a list of (tokens, dim) for queries."""

DEEPEST_CUT = 100  # of the metrics: map@100
TEXTS_AT_ONCE = 1024  # texts passed to one call of `encode`
PLURALS = {"query": "queries", "document": "documents", "text": "texts"}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of one model on one collection."""

    collection: Collection
    metrics: Mapping[str, float]  # means over queries: "cosine_ndcg@10" -> 0.7357
    per_query: pd.DataFrame  # query_id, rank (Int64, null below the search), ranks, and a column per metric ("ndcg@10")
    hits: pd.DataFrame  # query_id, position (1-based), document_id, score, relevant; best first
    settings: Mapping[str, Any]  # how it was measured: similarity, depth, dimensions, counts, seconds, ...
    query_vectors: Floats = field(compare=False)  # (queries, dimensions) as in `per_query`; under "energy" token means
    document_vectors: Floats = field(compare=False)  # (documents, dimensions) as in the corpus

    def __repr__(self) -> str:
        main = f"{self.settings['similarity']}_ndcg@10"
        return (
            f"<Evaluation of {self.collection.name!r}: {main} {self.metrics[main]:.4f}, "
            f"{self.settings['queries']:,} queries, {self.settings['documents']:,} documents>"
        )

    def _repr_html_(self) -> str:
        table = pd.DataFrame({"metric": self.metrics.keys(), "mean": [f"{each:.4f}" for each in self.metrics.values()]})
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{table.to_html(index=False, border=0)}"


def evaluate(
    collection: Collection,
    encode: Encode,
    *,
    depth: int = DEEPEST_CUT,
    similarity: str = "cosine",
    distance: str = "manhattan",
    truncate_dim: int | None = None,
    own_documents: bool = True,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Rank the whole corpus for every query that has a relevant document, and measure each ranking.

    `depth` hits are kept per query; ranks are known to `depth` or 100, whichever is more. Vectors are truncated before
    normalization, as in the library. Equal texts are encoded once, so they tie exactly and are ranked by document id.
    Under `similarity` "energy", `encode` returns a list of token embeddings for queries and `distance` is "manhattan"
    (L1) or "euclidean" (L2). Graded judgments add `graded_ndcg@10`, that of trec_eval, BEIR and MTEB.
    `own_documents=False` leaves a document with the query's id out of its ranking, as BEIR and MTEB do; the library
    keeps it.

    Raises DataError where the collection cannot be measured, or `encode` returns something other than one finite vector
    per text (one array of finite token embeddings per query).
    """
    from workbench.evaluation.topk import Search

    collection.usable()
    if depth < 1 or (truncate_dim is not None and truncate_dim < 1):
        raise DataError(f"expected depth and truncate_dim of at least 1, found {depth} and {truncate_dim}.")
    started = time.monotonic()
    asked = [collection.queries[query] for query in collection.evaluated]
    if similarity == "energy":
        queries: Any = _encode_tokens(asked, encode, truncate_dim, on_progress)
        query_vectors = np.stack([tokens.mean(axis=0) for tokens in queries])  # (queries, dim)
    else:
        queries = query_vectors = encode_texts(asked, "query", encode, truncate_dim, on_progress)
    reach = max(depth, DEEPEST_CUT)
    search = Search(queries, reach if own_documents else reach + 1, similarity=similarity, distance=distance)
    found, documents = _search(search, collection.corpus, encode, truncate_dim, on_progress)
    if not own_documents:
        found = _without_own_documents(collection, found, reach)
    per_query, values, relevant = ranking_table(collection, list(collection.corpus), found)
    settings = {
        "similarity": similarity,
        "depth": depth,
        "truncate_dim": truncate_dim,
        "dimensions": int(documents.shape[1]),
        "own_documents": own_documents,
        **_collection_settings(collection),
        "seconds": round(time.monotonic() - started, 3),
    }
    if similarity == "energy":
        settings |= {"energy_distance": distance, "energy_special_tokens": getattr(encode, "special_tokens", None)}
    metrics = {f"{similarity}_{name}": float(each.mean()) for name, each in values.items()}
    hits = _hits(collection, found, relevant, depth)
    return Evaluation(collection, metrics, per_query, hits, settings, query_vectors, documents)


def _collection_settings(collection: Collection) -> dict[str, Any]:
    return {
        "queries": len(collection.evaluated),
        "documents": len(collection.corpus),
        "collection": collection.name,
        "collection_sha256": collection.sha256,
        "checks": [{"severity": check.severity, "message": check.message} for check in collection.check()],
    }


# --- encoding ------------------------------------------------------------------------------------------------------


def encode_texts(
    texts: Sequence[str],
    kind: str,
    encode: Any,
    truncate_dim: int | None,
    on_progress: Progress | None = None,
    on_part: Callable[[Integers, Floats], None] | None = None,
) -> Floats:
    """(len(texts), dim) vectors, each distinct text encoded once; cut to `truncate_dim` numbers.

    `on_part` is called with the row numbers and the vectors of each part as soon as it is encoded.

    Raises DataError where there are no texts, or `encode` returns something other than one finite vector per text.
    """
    if not texts:
        raise DataError("expected texts to measure, found none; give some rows.")
    dimensions = None
    vectors: Floats = np.empty((0, 0), dtype=np.float32)
    for rows, part, places in _parts(texts, kind, on_progress):
        array = _to_float32(encode(part, kind))
        if array.ndim != 2 or len(array) != len(part) or dimensions not in (None, array.shape[1]):
            raise DataError(
                f"expected one vector for each of {len(part)} texts from the encode function, found an array of "
                f"shape {array.shape}."
            )
        _check_finite(array, kind, part)
        given = array[places, :truncate_dim]
        if dimensions is None:
            dimensions, vectors = array.shape[1], np.empty((len(texts), given.shape[1]), dtype=np.float32)
        vectors[rows] = given
        if on_part is not None:
            on_part(rows, given)
    return vectors


def _encode_tokens(
    texts: Sequence[str], encode: Encode, truncate_dim: int | None, on_progress: Progress | None
) -> list[Floats]:
    """A (tokens, dim) array for each query."""
    found: list[Floats] = [np.empty((0, 0), dtype=np.float32)] * len(texts)
    for rows, part, places in _parts(texts, "query", on_progress):
        given = encode(part, "query")
        if len(given) != len(part):
            raise DataError(
                f"expected the token embeddings of each of {len(part)} texts from the encode function, found "
                f"{len(given)}."
            )
        arrays = [_to_float32(each) for each in given]
        for text, array in zip(part, arrays, strict=True):
            if array.ndim != 2 or not len(array):
                raise DataError(
                    "expected token embeddings of shape (tokens, dim) for every query from the encode function, found "
                    f"{array.shape} for {text[:60]!r}; use energy_distance.energy_encoder."
                )
            _check_finite(array, "query", [text] * len(array))
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            found[row] = arrays[place][:, :truncate_dim]
    return found


def _search(
    search: Search,
    corpus: Mapping[str, str],
    encode: Encode,
    truncate_dim: int | None,
    on_progress: Progress | None,
) -> tuple[TopK, Floats]:
    """The hits of `search` among the documents, encoded part by part, and their vectors, (documents, dim)."""
    from workbench.evaluation.topk import id_ranks

    ranks = id_ranks(list(corpus))
    order: list[Integers] = []  # the documents of each part: the search counts them in order of arrival

    def add(rows: Integers, vectors: Floats) -> None:
        search.add(vectors, ranks[rows])
        order.append(rows)

    vectors = encode_texts(list(corpus.values()), "document", encode, truncate_dim, on_progress, add)
    found = search.result()
    if on_progress is not None:
        on_progress("search", len(corpus), len(corpus))
    return found._replace(positions=np.concatenate(order)[found.positions]), vectors


def _parts(
    texts: Sequence[str], kind: str, on_progress: Progress | None
) -> Iterator[tuple[Integers, list[str], Integers]]:
    """Parts to encode: rows of `texts`, their distinct texts, and which of those each row has.

    Longest first, so that a batch holds texts of similar length.
    """
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    places = np.array([place[text] for text in texts], dtype=np.int64)  # (texts,) index into `distinct`
    order = places.argsort(kind="stable")
    ends = np.searchsorted(places[order], np.arange(len(distinct) + 1))  # text i is in order[ends[i] : ends[i + 1]]
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        rows = order[ends[start] : ends[start + len(part)]]
        yield rows, part, places[rows] - start
        if on_progress is not None:
            on_progress(f"encode {PLURALS[kind]}", start + len(part), len(distinct))


def _to_float32(given: Any) -> Floats:
    """`given`, perhaps a tensor on any device, as an array."""
    if hasattr(given, "detach"):
        given = given.detach().float().cpu().numpy()
    try:
        return np.asarray(given, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"expected an array of numbers from the encode function, found a {type(given).__name__} that is none "
            f"({error}); token embeddings are for the similarity energy."
        ) from error


def _check_finite(array: Floats, kind: str, texts: Sequence[str]) -> None:
    """DataError naming the first of `texts`, one a row, whose numbers are not finite."""
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise DataError(
            f"expected finite numbers in the vectors of the model, found NaN or infinity for the {kind} "
            f"{texts[int(finite.argmin())][:60]!r}; the model is broken, or its precision too low."
        )


# --- measuring -----------------------------------------------------------------------------------------------------


def _without_own_documents(collection: Collection, found: TopK, reach: int) -> TopK:
    """The `reach` best of each query, the document that has the query's id after all others."""
    place = {document: at for at, document in enumerate(collection.corpus)}
    own = np.array([place.get(query, -1) for query in collection.evaluated], dtype=np.int64)
    order = np.argsort(found.positions == own[:, None], axis=1, kind="stable")[:, :reach]
    return found._replace(
        positions=np.take_along_axis(found.positions, order, axis=1),
        scores=np.take_along_axis(found.scores, order, axis=1),
    )


def ranking_table(
    collection: Collection, ids: Sequence[str], found: TopK
) -> tuple[pd.DataFrame, dict[str, Any], npt.NDArray[np.bool_]]:
    """The table of queries, the values of each metric, and (queries, depth) which hits are relevant."""
    queries, depth = found.positions.shape
    place = {document: at for at, document in enumerate(ids)}
    judged = [collection.relevant[query] for query in collection.evaluated]
    counts = np.array([len(each) for each in judged], dtype=np.int64)
    gains, relevant = np.zeros((queries, depth)), np.zeros((queries, depth), dtype=bool)
    ranks = []
    for row, documents in enumerate(judged):
        columns = {position: column for column, position in enumerate(found.positions[row].tolist())}
        hits = [columns.get(place.get(document, -1), -1) for document in documents]  # -1: not found
        ranks.append(np.array([np.nan if hit < 0 else hit + 1.0 for hit in hits]))
        for hit, gain in zip(hits, documents.values(), strict=True):
            if hit >= 0:
                gains[row, hit], relevant[row, hit] = gain, True
    values = every_metric(gains, counts)
    if any(gain != 1 for each in judged for gain in each.values()):
        ideal = np.zeros((queries, int(counts.max(initial=0))))
        ideal[np.arange(ideal.shape[1]) < counts[:, None]] = [gain for each in judged for gain in each.values()]
        values |= {f"graded_ndcg@{k}": graded_ndcg(gains, ideal, k) for k in CUTS["ndcg"]}
    first = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, 0)  # 0: below the search
    rank = pd.arrays.IntegerArray(first.astype(np.int64), first == 0)
    table = pd.DataFrame({"query_id": list(collection.evaluated), "rank": rank, "ranks": ranks, **values})
    return table, values, relevant


def _hits(collection: Collection, found: TopK, relevant: npt.NDArray[np.bool_], depth: int) -> pd.DataFrame:
    """The rankings as one long table."""
    positions = found.positions[:, :depth]
    queries, columns = positions.shape
    return pd.DataFrame(
        {
            "query_id": np.repeat(np.array(collection.evaluated, dtype=object), columns),
            "position": np.tile(np.arange(1, columns + 1), queries),
            "document_id": np.array(list(collection.corpus), dtype=object)[positions.ravel()],
            "score": found.scores[:, :depth].ravel(),
            "relevant": relevant[:, :depth].ravel(),
        }
    )


# --- the run folder ------------------------------------------------------------------------------------------------


def folder_name(name: str) -> str:
    """`name` as the name of a folder: names come from cards, and a card may not choose where files go.

    >>> folder_name("eval/../finetune embed"), folder_name("..")
    ('eval-..-finetune-embed', 'evaluation')
    """
    return re.sub(r"[^\w.@+-]+", "-", name).strip(".-")[:100] or "evaluation"


def save_evaluation(run_path: str | Path, name: str, stage: str, evaluation: Evaluation) -> str:
    """Store an evaluation in a run folder; returns the folder's name.

    Raises DataError where `stage` is invalid, or where `name` holds another collection's evaluations.
    """
    safe, run = folder_name(name), Run(Path(run_path))
    collection = evaluation.collection
    asked = list(collection.evaluated)
    queries = pd.DataFrame(
        {
            "query_id": asked,
            "query": [collection.queries[query] for query in asked],
            "relevant": [list(collection.relevant[query]) for query in asked],
        }
    )
    needed = dict.fromkeys(evaluation.hits["document_id"])
    needed.update(dict.fromkeys(document for query in asked for document in collection.relevant[query]))
    documents = {document: collection.corpus[document] for document in needed if document in collection.corpus}
    check_stage(stage)
    if run.file("queries", safe).exists():
        before = run.table("queries", safe)
        if before["query_id"].tolist() != asked or before["query"].tolist() != queries["query"].tolist():
            raise DataError(
                f"expected the queries of {collection.name!r} in {safe!r}, found those of another collection; "
                "store this evaluation under another name."
            )
        stored = run.documents(safe)
        documents = {**dict(zip(stored["document_id"], stored["document"], strict=True)), **documents}
    table = pd.DataFrame({"document_id": list(documents), "document": list(documents.values())})
    write_parquet(run.file("documents", safe), table)
    write_parquet(run.file("queries", safe), queries)
    write_parquet(run.file("hits", safe, stage), evaluation.hits)
    save_stage(run, safe, stage, evaluation.per_query, evaluation.metrics, evaluation.settings)
    return safe


def check_stage(stage: str) -> None:
    """DataError where `stage` is none."""
    if not re.fullmatch(r"before|after|step-\d+", stage):
        raise DataError(f"expected a stage of before, after or step-N, found {stage!r}.")


def save_stage(
    run: Run, name: str, stage: str, values: pd.DataFrame, metrics: Mapping[str, float], settings: Mapping[str, Any]
) -> None:
    """Store the values of one stage, and last its means: an evaluation that is listed can be read."""
    write_parquet(run.file("values", name, stage), values)
    write_json(run.file("metrics", name, stage), {"metrics": dict(metrics), "settings": dict(settings)})
