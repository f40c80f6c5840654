"""Evaluation: one score per query and metric, on a collection, by any `encode` function.

Metrics are named and defined as InformationRetrievalEvaluator of sentence-transformers 6 does, and equal to its
numbers; unlike there, what happened to every query is kept. The model is an argument: `encode(texts, kind)` gives one
vector per text, and adds the prompt that belongs to "query" or "document".
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.data.collection import Collection
from workbench.errors import DataError
from workbench.run import Progress, Run, write_json, write_parquet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from workbench.evaluation.topk import Search, TopK

    Floats = npt.NDArray[np.float32]

Encode = Callable[[list[str], Literal["query", "document"]], Any]
"""`encode(texts, kind)` -> (len(texts), dim) array of floats; under "energy", a list of (tokens, dim) for queries."""


DEEPEST_CUT = 100  # of the metrics: map@100
TEXTS_AT_ONCE = 1024  # texts given to one call of `encode`
MOMENT = re.compile(r"before|after|step-\d+")


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What one model did on one collection."""

    collection: Collection
    metrics: Mapping[str, float]  # means over queries: "cosine_ndcg@10" -> 0.7357
    per_query: pd.DataFrame  # query_id, rank (Int64, null below the search), ranks, and a column per metric ("ndcg@10")
    hits: pd.DataFrame  # query_id, position (1-based), document_id, score, relevant; best first
    settings: Mapping[str, Any]  # how it was measured: similarity, depth, dimensions, counts, seconds, ...
    query_vectors: Floats = field(compare=False)  # (queries, dimensions) as in `per_query`; under "energy" token means
    document_vectors: Floats = field(compare=False)  # (documents, dimensions) as in the corpus; no rows if not kept

    def __repr__(self) -> str:
        main = f"{self.settings['similarity']}_ndcg@10"
        return (
            f"<Evaluation of {self.collection.name!r}: {main} {self.metrics[main]:.4f}, "
            f"{self.settings['queries']:,} queries, {self.settings['documents']:,} documents>"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4f}</td></tr>" for name, value in self.metrics.items()
        )
        said = html.escape(repr(self)[1:-1])
        return f"<p>{said}</p><table><tr><th>metric</th><th>mean</th></tr>{rows}</table>"


def evaluate(
    collection: Collection,
    encode: Encode,
    *,
    depth: int = DEEPEST_CUT,
    similarity: str = "cosine",
    distance: str = "manhattan",
    truncate_dim: int | None = None,
    keep_vectors: bool = True,
    own_documents: bool = True,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Rank the whole corpus for every query that has a relevant document, and measure each ranking.

    `depth` hits are kept per query; ranks are known to `depth` or 100, whichever is more. Vectors are cut to their
    first `truncate_dim` numbers after encoding and before anything is normalised, as the library does; a model with
    fewer keeps what it has, and `settings["dimensions"]` says how many were used. Every distinct text is encoded
    once, so equal texts tie exactly and are ranked by document id.

    Under `similarity` "energy", `encode` gives a list of token embeddings for queries, as `energy.energy_encoder`
    does, and `distance` is "manhattan" (L1) or "euclidean" (L2).

    The metrics are the library's. Where judgements are graded, nDCG with the gains as they are, that of trec_eval,
    BEIR and MTEB, is given beside them as `graded_ndcg@10`. `own_documents=False` leaves a document whose id is the
    query's out of its ranking, as BEIR and MTEB do for sets whose queries are documents; the library keeps it.

    Documents are searched as they are encoded. `keep_vectors=False` lets them go then: memory holds the texts and
    `TEXTS_AT_ONCE` vectors, and `document_vectors` has no rows.

    Raises DataError where the collection cannot be measured, or `encode` gives something else than one finite vector
    per text (one array of finite token embeddings per query).
    """
    from workbench.evaluation.topk import Search, id_ranks

    collection.usable()
    if depth < 1 or (truncate_dim is not None and truncate_dim < 1):
        raise DataError(f"expected depth and truncate_dim of at least 1, found {depth} and {truncate_dim}.")
    started = time.monotonic()
    ids = list(collection.corpus)
    asked = [collection.queries[query] for query in collection.evaluated]
    if similarity == "energy":
        queries: Any = _clouds(asked, encode, truncate_dim, on_progress)
        query_vectors = _means(queries)
    else:
        queries = query_vectors = _vectors(asked, encode, truncate_dim, on_progress)
    reach = max(depth, DEEPEST_CUT)
    search = Search(queries, reach if own_documents else reach + 1, similarity=similarity, distance=distance)
    found, documents = _searched(
        search, list(collection.corpus.values()), id_ranks(ids), encode, truncate_dim, keep_vectors, on_progress
    )
    if not own_documents:
        found = _without_own(collection, ids, found, reach)
    per_query, values, relevant = ranking_table(collection, ids, found)
    settings = {
        "similarity": similarity,
        "depth": depth,
        "truncate_dim": truncate_dim,
        "dimensions": int(documents.shape[1]),
        "own_documents": own_documents,
        "queries": len(collection.evaluated),
        "documents": len(ids),
        "collection": collection.name,
        "collection_sha256": collection.sha256,
        "checks": [{"severity": check.severity, "message": check.message} for check in collection.check()],
        "seconds": round(time.monotonic() - started, 3),
    }
    if similarity == "energy":
        settings["energy_distance"] = distance
        settings["energy_special_tokens"] = getattr(encode, "special_tokens", None)
    return Evaluation(
        collection=collection,
        metrics={f"{similarity}_{name}": float(each.mean()) for name, each in values.items()},
        per_query=per_query,
        hits=_hits(collection, ids, found, relevant, depth),
        settings=settings,
        query_vectors=query_vectors,
        document_vectors=documents,
    )


# --- encoding ------------------------------------------------------------------------------------------------------


def _vectors(texts: Sequence[str], encode: Encode, truncate_dim: int | None, on_progress: Progress | None) -> Floats:
    """(len(texts), dim) vectors of queries."""
    import numpy as np

    vectors: Floats = np.empty((0, 0), dtype=np.float32)
    for rows, array, places in _arrays(texts, "query", encode, truncate_dim, on_progress):
        if not len(vectors):
            vectors = np.empty((len(texts), array.shape[1]), dtype=np.float32)
        vectors[rows] = array[places]
    return vectors


def _clouds(
    texts: Sequence[str], encode: Encode, truncate_dim: int | None, on_progress: Progress | None
) -> list[Floats]:
    """A (tokens, dim) array for each query."""
    import numpy as np

    clouds: list[Floats] = [np.empty((0, 0), dtype=np.float32)] * len(texts)
    for rows, part, places in _parts(texts, "query", on_progress):
        given = encode(part, "query")
        if len(given) != len(part):
            raise DataError(
                f"expected the token embeddings of each of {len(part)} texts from the encode function, found "
                f"{len(given)}."
            )
        arrays = [numbers(each) for each in given]
        for text, array in zip(part, arrays, strict=True):
            if array.ndim != 2 or not len(array):
                raise DataError(
                    "expected token embeddings of shape (tokens, dim) for every query from the encode function, found "
                    f"{array.shape} for {text[:60]!r}; is it that of energy.energy_encoder?"
                )
            _finite(array, "query", [text] * len(array))
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            clouds[row] = arrays[place][:, :truncate_dim]
    return clouds


def _means(clouds: Sequence[Floats]) -> Floats:
    """(queries, dim) the mean of each query's tokens."""
    import numpy as np

    return np.stack([cloud.mean(axis=0) for cloud in clouds])


def _searched(
    search: Search,
    texts: Sequence[str],
    ranks: npt.NDArray[np.int64],
    encode: Encode,
    truncate_dim: int | None,
    keep: bool,
    on_progress: Progress | None,
) -> tuple[TopK, Floats]:
    """What `search` finds among the documents, encoded one part after the other, and their vectors where kept."""
    import numpy as np

    vectors: Floats = np.empty((0, 0), dtype=np.float32)
    order: list[
        npt.NDArray[np.int64]
    ] = []  # of each part, which documents they are: the search counts them as they arrive
    for rows, array, places in _arrays(texts, "document", encode, truncate_dim, on_progress):
        if not order:
            vectors = np.empty((len(texts) if keep else 0, array.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            some = slice(start, start + TEXTS_AT_ONCE)
            search.add(array[places[some]], ranks[rows[some]])
        order.append(rows)
        if keep:
            vectors[rows] = array[places]
    found = search.result()
    if on_progress is not None:
        on_progress("search", len(texts), len(texts))
    return found._replace(positions=np.concatenate(order)[found.positions]), vectors


def _parts(
    texts: Sequence[str], kind: Literal["query", "document"], on_progress: Progress | None
) -> Iterator[tuple[npt.NDArray[np.int64], list[str], npt.NDArray[np.int64]]]:
    """Parts to encode: rows of `texts`, the distinct texts of these rows, and which of them each row is.

    Every distinct text comes once, longest first so that a batch holds texts of one length.
    """
    import numpy as np

    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    places = np.array([place[text] for text in texts], dtype=np.int64)  # (texts,) which of the distinct ones
    order = places.argsort(kind="stable")
    ends = np.searchsorted(places[order], np.arange(len(distinct) + 1))  # text i is in order[ends[i] : ends[i + 1]]
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        rows = order[ends[start] : ends[start + len(part)]]
        yield rows, part, places[rows] - start
        if on_progress is not None:
            on_progress(f"encode {'queries' if kind == 'query' else 'documents'}", start + len(part), len(distinct))


def _arrays(
    texts: Sequence[str],
    kind: Literal["query", "document"],
    encode: Encode,
    truncate_dim: int | None,
    on_progress: Progress | None,
) -> Iterator[tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int64]]]:
    """As `_parts`, with the vectors of the distinct texts, checked and cut, in their place."""

    dimensions = None
    for rows, part, places in _parts(texts, kind, on_progress):
        array = numbers(encode(part, kind))
        if array.ndim != 2 or len(array) != len(part) or dimensions not in (None, array.shape[1]):
            raise DataError(
                f"expected one vector for each of {len(part)} texts from the encode function, found an array of "
                f"shape {array.shape}."
            )
        _finite(array, kind, part)
        dimensions = array.shape[1]
        yield rows, array[:, :truncate_dim], places


def numbers(given: Any) -> Floats:
    """`given` as an array of float32, also a tensor on any device; DataError where it is none."""
    import numpy as np

    if hasattr(given, "detach"):
        given = given.detach().float().cpu().numpy()
    try:
        return np.asarray(given, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"expected an array of numbers from the encode function, found a {type(given).__name__} that is none "
            f"({error}); token embeddings are for the similarity energy."
        ) from error


def _finite(array: Floats, kind: str, texts: Sequence[str]) -> None:
    """DataError naming the first of `texts`, one a row, whose numbers are not finite."""
    import numpy as np

    if not np.isfinite(array).all():
        text = texts[int(np.nonzero(~np.isfinite(array).all(axis=1))[0][0])]
        raise DataError(
            f"expected finite numbers in the vectors of the model, found NaN or infinity for the {kind} "
            f"{text[:60]!r}; the model is broken, or its precision too low."
        )


# --- measuring -----------------------------------------------------------------------------------------------------


def _without_own(collection: Collection, ids: Sequence[str], found: TopK, reach: int) -> TopK:
    """The `reach` best of each query, the document that has the query's id after all others."""
    import numpy as np

    place = {document: at for at, document in enumerate(ids)}
    own = np.array([place.get(query, -1) for query in collection.evaluated], dtype=np.int64)
    kept = np.argsort(found.positions == own[:, None], axis=1, kind="stable")[:, :reach]  # own ones last
    return found._replace(
        positions=np.take_along_axis(found.positions, kept, axis=1),
        scores=np.take_along_axis(found.scores, kept, axis=1),
    )


def ranking_table(
    collection: Collection, ids: Sequence[str], found: TopK
) -> tuple[pd.DataFrame, dict[str, Any], npt.NDArray[np.bool_]]:
    """The table of queries, the values of each metric, and (queries, depth) which hits are relevant."""
    import numpy as np
    import pandas as pd

    from workbench.evaluation.metrics import CUTS, every_metric, graded_ndcg

    queries, depth = found.positions.shape
    place = {document: at for at, document in enumerate(ids)}
    judged = [collection.relevant[query] for query in collection.evaluated]
    counts = np.array([len(each) for each in judged], dtype=np.int64)
    rows = np.repeat(np.arange(queries), counts)  # (judged,) whose each relevant document is
    places = np.array([place.get(document, len(ids)) for each in judged for document in each], dtype=np.int64)
    keys = (np.arange(queries)[:, None] * (len(ids) + 1) + found.positions).ravel()  # a number for each hit
    order = keys.argsort()
    asked = rows * (len(ids) + 1) + places  # no hit is at len(ids): such a document is not in the corpus
    at = order[np.searchsorted(keys, asked, sorter=order).clip(max=max(len(keys) - 1, 0))]
    hit = keys[at] == asked  # (judged,) whether it was found
    gains, relevant = np.zeros((queries, depth)), np.zeros((queries, depth), dtype=bool)
    gains.ravel()[at[hit]] = np.array([gain for each in judged for gain in each.values()], dtype=float)[hit]
    relevant.ravel()[at[hit]] = True
    ranks = np.split(np.where(hit, at % max(depth, 1) + 1.0, np.nan), counts.cumsum()[:-1])
    values = every_metric(gains, counts)
    if any(gain != 1 for each in judged for gain in each.values()):
        ideal = np.zeros((queries, int(counts.max(initial=0))))
        ideal[np.arange(ideal.shape[1]) < counts[:, None]] = [gain for each in judged for gain in each.values()]
        values |= {f"graded_ndcg@{k}": graded_ndcg(gains, ideal, k) for k in CUTS["ndcg"]}
    first = np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, 0)  # 0: below the search
    columns = {
        "query_id": list(collection.evaluated),
        "rank": pd.arrays.IntegerArray(first.astype(np.int64), first == 0),
        "ranks": ranks,
    }
    return pd.DataFrame({**columns, **values}), values, relevant


def _hits(
    collection: Collection, ids: Sequence[str], found: TopK, relevant: npt.NDArray[np.bool_], depth: int
) -> pd.DataFrame:
    """The rankings as one long table."""
    import numpy as np
    import pandas as pd

    positions, scores = found.positions[:, :depth], found.scores[:, :depth]
    queries, kept = positions.shape
    return pd.DataFrame(
        {
            "query_id": np.repeat(np.array(collection.evaluated, dtype=object), kept),
            "position": np.tile(np.arange(1, kept + 1), queries),
            "document_id": np.array(ids, dtype=object)[positions.ravel()],
            "score": scores.ravel(),
            "relevant": relevant[:, :depth].ravel(),
        }
    )


# --- the run folder ------------------------------------------------------------------------------------------------


def folder_name(name: str) -> str:
    """`name` as the name of a folder: names come from cards, and a card may not choose where files go.

    >>> folder_name("eval/../finetune embed"), folder_name("..")
    ('eval-..-finetune-embed', 'evaluation')
    """
    safe = re.sub(r"[^\w.@+-]+", "-", name).strip(".-")[:100]
    return safe or "evaluation"


def save_evaluation(run_path: str | Path, name: str, moment: str, evaluation: Evaluation) -> str:
    """Store an evaluation in a run folder, as `workbench.run` lists its files; gives the folder's name.

    The means are written last, so that an evaluation which can be listed can be read.

    Raises DataError where the moment is none, or where `name` holds another collection's evaluations.
    """
    import pandas as pd

    if not MOMENT.fullmatch(moment):
        raise DataError(f"expected a moment of before, after or step-N, found {moment!r}.")
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
    if run.file("queries", safe).exists():
        before = run.table("queries", safe)
        if before["query_id"].tolist() != asked or before["query"].tolist() != queries["query"].tolist():
            raise DataError(
                f"expected the queries of {collection.name!r} in {safe!r}, found those of another collection; "
                "store this evaluation under another name."
            )
        kept = run.documents(safe)
        documents = {**dict(zip(kept["document_id"], kept["document"], strict=True)), **documents}
    table = pd.DataFrame({"document_id": list(documents), "document": list(documents.values())})
    write_parquet(run.file("documents", safe), table)
    write_parquet(run.file("queries", safe), queries)
    write_parquet(run.file("values", safe, moment), evaluation.per_query)
    write_parquet(run.file("hits", safe, moment), evaluation.hits)
    measured = {"metrics": dict(evaluation.metrics), "settings": dict(evaluation.settings)}
    write_json(run.file("metrics", safe, moment), measured)
    return safe
