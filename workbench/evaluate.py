"""Evaluation: one score per query and metric, on a collection, by any `encode` function.

Metrics are named and defined as InformationRetrievalEvaluator of sentence-transformers 6 does, and equal to its
numbers; unlike there, what happened to every query is kept. The model is an argument: `encode(texts, kind)` gives one
vector per text, and adds the prompt that belongs to "query" or "document".
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.collection import Collection
from workbench.errors import DataError
from workbench.run import write_json, write_parquet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from workbench.search import TopK

    Floats = npt.NDArray[np.float32]

Encode = Callable[[list[str], Literal["query", "document"]], Any]
"""`encode(texts, kind)` -> (len(texts), dim) array of floats."""

Progress = Callable[[str, int, int], None]

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
    query_vectors: Floats = field(compare=False)  # (queries, dimensions), in the order of `per_query`
    document_vectors: Floats = field(compare=False)  # (documents, dimensions), in the order of the corpus

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
    truncate_dim: int | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Rank the whole corpus for every query that has a relevant document, and measure each ranking.

    `depth` hits are kept per query; ranks are known to `depth` or 100, whichever is more. Vectors are cut to their
    first `truncate_dim` numbers after encoding and before anything is normalised, as the library does; a model with
    fewer keeps what it has, and `settings["dimensions"]` says how many were used. Every distinct text is encoded
    once, so equal texts tie exactly and are ranked by document id.

    Raises DataError where the collection cannot be measured, or `encode` gives something else than one finite vector
    per text.
    """
    from workbench.search import top_k

    collection.usable()
    if depth < 1 or (truncate_dim is not None and truncate_dim < 1):
        raise DataError(f"expected depth and truncate_dim of at least 1, found {depth} and {truncate_dim}.")
    started = time.monotonic()
    ids = list(collection.corpus)
    queries = _encoded([collection.queries[query] for query in collection.evaluated], "query", encode, on_progress)
    documents = _encoded([collection.corpus[document] for document in ids], "document", encode, on_progress)
    queries, documents = queries[:, :truncate_dim], documents[:, :truncate_dim]
    found = top_k(queries, documents, max(depth, DEEPEST_CUT), similarity=similarity, ids=ids, on_progress=on_progress)
    per_query, values = _per_query(collection, ids, found)
    settings = {
        "similarity": similarity,
        "depth": depth,
        "truncate_dim": truncate_dim,
        "dimensions": int(documents.shape[1]),
        "queries": len(collection.evaluated),
        "documents": len(ids),
        "collection": collection.name,
        "collection_sha256": collection.sha256,
        "checks": [{"severity": check.severity, "message": check.message} for check in collection.check()],
        "seconds": round(time.monotonic() - started, 3),
    }
    return Evaluation(
        collection=collection,
        metrics={f"{similarity}_{name}": float(each.mean()) for name, each in values.items()},
        per_query=per_query,
        hits=_hits(collection, ids, found, depth),
        settings=settings,
        query_vectors=queries,
        document_vectors=documents,
    )


def _encoded(
    texts: Sequence[str], kind: Literal["query", "document"], encode: Encode, on_progress: Progress | None
) -> Floats:
    """(len(texts), dim) vectors; every distinct text once, longest first so that a batch holds texts of one length."""
    import numpy as np

    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    places = np.array([place[text] for text in texts], dtype=np.int64)  # (texts,) which of the distinct ones
    order = places.argsort(kind="stable")
    ends = np.searchsorted(places[order], np.arange(len(distinct) + 1))  # text i is in order[ends[i] : ends[i + 1]]
    vectors: Floats | None = None
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        array = np.asarray(encode(part, kind), dtype=np.float32)
        if array.ndim != 2 or len(array) != len(part) or (vectors is not None and array.shape[1] != vectors.shape[1]):
            raise DataError(
                f"expected one vector for each of {len(part)} texts from the encode function, found an array of "
                f"shape {array.shape}."
            )
        if not np.isfinite(array).all():
            text = part[int(np.nonzero(~np.isfinite(array).all(axis=1))[0][0])]
            raise DataError(
                f"expected finite numbers in the vectors of the model, found NaN or infinity for the {kind} "
                f"{text[:60]!r}; the model is broken, or its precision too low."
            )
        if vectors is None:
            vectors = np.empty((len(texts), array.shape[1]), dtype=np.float32)
        rows = order[ends[start] : ends[start + len(part)]]
        vectors[rows] = array[places[rows] - start]
        if on_progress is not None:
            on_progress(f"encode {'queries' if kind == 'query' else 'documents'}", start + len(part), len(distinct))
    if vectors is None:
        raise DataError(f"expected texts to encode as {kind}, found none.")
    return vectors


def _per_query(collection: Collection, ids: Sequence[str], found: TopK) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of queries, and the values of each metric."""
    import numpy as np
    import pandas as pd

    from workbench.metrics import every_metric

    gains = np.zeros(found.positions.shape)  # (queries, depth)
    firsts: list[int | None] = []
    ranks = []
    for row, query in enumerate(collection.evaluated):
        relevant = collection.relevant[query]
        place = {ids[document]: at for at, document in enumerate(found.positions[row].tolist(), 1)}
        at = [place.get(document) for document in relevant]
        for document, rank in zip(relevant, at, strict=True):
            if rank is not None:
                gains[row, rank - 1] = relevant[document]
        firsts.append(min((rank for rank in at if rank is not None), default=None))
        ranks.append(np.array([np.nan if rank is None else rank for rank in at], dtype=float))
    counts = [len(collection.relevant[query]) for query in collection.evaluated]
    values = every_metric(gains, counts)
    columns = {"query_id": list(collection.evaluated), "rank": pd.array(firsts, dtype="Int64"), "ranks": ranks}
    return pd.DataFrame({**columns, **values}), values


def _hits(collection: Collection, ids: Sequence[str], found: TopK, depth: int) -> pd.DataFrame:
    """The rankings as one long table."""
    import numpy as np
    import pandas as pd

    positions, scores = found.positions[:, :depth], found.scores[:, :depth]
    queries, kept = positions.shape
    documents = [ids[document] for document in positions.ravel().tolist()]
    asked = [query for query in collection.evaluated for _ in range(kept)]
    relevant = [document in collection.relevant[query] for query, document in zip(asked, documents, strict=True)]
    return pd.DataFrame(
        {
            "query_id": asked,
            "position": np.tile(np.arange(1, kept + 1), queries),
            "document_id": documents,
            "score": scores.ravel(),
            "relevant": relevant,
        }
    )


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
    safe = folder_name(name)
    folder = Path(run_path) / "evaluations" / safe
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
    if (folder / "queries.parquet").exists():
        before = pd.read_parquet(folder / "queries.parquet")
        if before["query_id"].tolist() != asked or before["query"].tolist() != queries["query"].tolist():
            raise DataError(
                f"expected the queries of {collection.name!r} in {str(folder)!r}, found those of another collection; "
                "store this evaluation under another name."
            )
        kept = pd.read_parquet(folder / "documents.parquet")
        documents = {**dict(zip(kept["document_id"], kept["document"], strict=True)), **documents}
    table = pd.DataFrame({"document_id": list(documents), "document": list(documents.values())})
    write_parquet(folder / "documents.parquet", table)
    write_parquet(folder / "queries.parquet", queries)
    write_parquet(folder / f"{moment}.parquet", evaluation.per_query)
    write_parquet(folder / f"{moment}-hits.parquet", evaluation.hits)
    write_json(folder / f"{moment}.json", {"metrics": dict(evaluation.metrics), "settings": dict(evaluation.settings)})
    return safe
