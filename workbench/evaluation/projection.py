"""Queries and documents as points in the plane: maps, for visual inspection only.

`save_vectors` keeps the vectors of an evaluation in the run folder; `project` maps them by PCA or UMAP, before and
after training either together (one map on which both positions of a point can be compared) or apart. A map is stored
with its parameters and its neighborhood preservation: the share of each point's nearest neighbors, by the full vectors,
that are among its nearest on the map.

Neighbors and ranks are always computed from the full vectors. UMAP: McInnes, Healy and Melville, arXiv 1802.03426.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from workbench.errors import DataError, RunError
from workbench.evaluation.evaluators import similarity_of
from workbench.run import Progress, Run, atomic_write, write_json, write_parquet

if TYPE_CHECKING:
    import numpy.typing as npt
    from scipy import sparse

    from workbench.evaluation.retrieval import Evaluation

    Floats = npt.NDArray[np.float32]

Method = Literal["umap", "pca"]
Stage = Literal["before", "after"]

METHODS: tuple[Method, ...] = ("umap", "pca")
STAGES: tuple[Stage, ...] = ("before", "after")
MOST_VECTORS = 50_000  # documents whose vectors are kept; above, those retrieved or relevant and a sample
MOST_POINTS = 10_000  # per stage on a map
NEIGHBORS = 15  # of UMAP's graph, and of neighborhood preservation
MIN_DIST = 0.1  # of UMAP
EPOCHS = {4_000: 500, 10**9: 200}  # points up to which UMAP has so many; its own limit of 10,000 takes twice the time
SAMPLE = 1000  # points on which neighborhood preservation is measured
PROBED = 20  # queries whose stored scores are compared with the vectors


@dataclass(frozen=True)
class Vectors:
    """The embeddings of an evaluation's texts."""

    query_ids: tuple[str, ...]
    document_ids: tuple[str, ...]
    queries: Floats  # (queries, dim), as returned by the model
    documents: Floats  # (documents, dim)


@dataclass(frozen=True)
class Map:
    """Points of the plane, and how they were computed."""

    points: pd.DataFrame  # moment (the stage), kind ("query" or "document"), id, x, y
    parameters: dict[str, Any]  # method, together, n_neighbors, min_dist, seed, versions, counts, seconds
    preservation: dict[str, float] = field(default_factory=dict)  # stage -> neighborhood preservation, 0 to 1

    def __repr__(self) -> str:
        shares = preservation_text(self.preservation)
        return f"<Map by {self.parameters['method']}: {len(self.points):,} points, neighborhood preservation {shares}>"


def preservation_text(preservation: Mapping[str, float]) -> str:
    """
    >>> preservation_text({"before": 0.081, "after": 0.5})
    '8% before, 50% after'
    """
    return ", ".join(f"{100 * share:.0f}% {stage}" for stage, share in preservation.items())


# --- vectors -------------------------------------------------------------------------------------------------------


def save_vectors(
    run_path: str | Path, name: str, stage: str, evaluation: Evaluation, *, most: int = MOST_VECTORS
) -> Path:
    """Store the vectors of an evaluation: every query, and up to `most` documents, see `choose_documents`."""
    from safetensors.numpy import save_file

    ids = list(evaluation.collection.corpus)
    needed = set(evaluation.hits["document_id"]).union(*evaluation.collection.relevant.values())
    places = choose_documents(ids, needed, most)
    tensors = {
        "queries": np.ascontiguousarray(evaluation.query_vectors, dtype=np.float32),
        "documents": np.ascontiguousarray(evaluation.document_vectors[places], dtype=np.float32),
    }
    metadata = {
        "query_ids": json.dumps(list(evaluation.collection.evaluated)),
        "document_ids": json.dumps([ids[place] for place in places]),
        "collection_sha256": evaluation.collection.sha256,
        "documents": str(len(ids)),
    }
    path = Run(Path(run_path)).file("vectors", name, stage)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return path


def choose_documents(ids: Sequence[str], needed: Iterable[str], most: int) -> list[int]:
    """Positions of up to `most` documents: all that are needed (more than `most` if must be), and a fixed sample of
    the others, by the checksum of their ids.

    >>> choose_documents(["a", "b", "c"], ["b"], 3), len(choose_documents([str(n) for n in range(100)], ["7"], 10))
    ([0, 1, 2], 10)
    """
    if len(ids) <= most:
        return list(range(len(ids)))
    wanted = set(needed) & set(ids)
    order = [(key not in wanted, zlib.crc32(key.encode("utf-8", "surrogatepass")), row) for row, key in enumerate(ids)]
    return sorted(row for _, _, row in sorted(order)[: max(most, len(wanted))])


def load_vectors(run: Run, name: str, stage: Stage) -> Vectors:
    """The vectors of an evaluation.

    Raises RunError where there are none, or where they belong to an evaluation other than the run's.
    """
    from safetensors import SafetensorError, safe_open

    path = run.file("vectors", name, stage)
    if not path.is_file():
        raise RunError(
            f"expected vectors of {name!r}, {stage}, in run {run.name!r}, found none; runs trained with this version "
            "keep them, so train again or choose another evaluation."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            queries, documents = (
                tuple(map(str, json.loads(metadata[f"{kind}_ids"]))) for kind in ("query", "document")
            )
            found = Vectors(queries, documents, file.get_tensor("queries"), file.get_tensor("documents"))
    except (SafetensorError, OSError, LookupError, ValueError) as error:
        raise RunError(f"expected vectors in {str(path)!r}, found something else ({error}); train again.") from error
    settings = run.settings(name, stage)
    same = metadata.get("collection_sha256") == settings.get("collection_sha256")
    same &= set(found.query_ids) == set(run.table("queries", name)["query_id"]) and _is_whole(found)
    if not same or not _match_scores(run, name, stage, found, settings):
        raise RunError(
            f"expected in {str(path)!r} the vectors of the collection that run {run.name!r} measured, found those of "
            "another; they were made for another model or other texts, so train again."
        )
    return found


def _ids(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(f"expected a list of ids, found {found!r:.60}")
    return tuple(map(str, found))


def _is_whole(vectors: Vectors) -> bool:
    """Whether there is a finite vector of one length for each id."""
    shapes = [array.shape for array in (vectors.queries, vectors.documents)]
    counts = [len(set(ids)) for ids in (vectors.query_ids, vectors.document_ids)]
    return (
        all(len(shape) == 2 and shape[1] > 0 for shape in shapes)
        and shapes[0][1] == shapes[1][1]
        and [shape[0] for shape in shapes] == counts == [len(vectors.query_ids), len(vectors.document_ids)]
        and all(bool(np.isfinite(array).all()) for array in (vectors.queries, vectors.documents))
    )


def _match_scores(run: Run, name: str, stage: Stage, vectors: Vectors, settings: Mapping[str, Any]) -> bool:
    """Whether the vectors give the stored scores of the first queries; energy distances need more than the vectors."""
    similarity = settings.get("similarity", "cosine")
    if similarity == "energy":
        return True
    hits = run.hits(name, stage)
    rows = pd.Index(vectors.query_ids[:PROBED]).get_indexer(pd.Index(hits["query_id"]))  # -1: not there
    columns = pd.Index(vectors.document_ids).get_indexer(pd.Index(hits["document_id"]))
    known = (rows >= 0) & (columns >= 0)
    scores = similarity_of(similarity, vectors.queries[rows[known]], vectors.documents[columns[known]])
    return bool(np.allclose(scores, hits["score"].to_numpy(dtype=float)[known], rtol=1e-2, atol=1e-2))


# --- maps ----------------------------------------------------------------------------------------------------------


def load_map(run: Run, name: str, method: Method = "umap", *, together: bool = True) -> Map | None:
    """The stored map; None where there is none, or its vectors have changed since."""
    path = run.file("map", name, method, "together" if together else "apart")
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    vectors = [run.file("vectors", name, stage) for stage in STAGES]
    if any(file.is_file() and file.stat().st_mtime_ns > path.stat().st_mtime_ns for file in vectors):
        return None
    parts = name, method, "together" if together else "apart"
    stored = run.map_settings(*parts)
    return Map(run.table("map", *parts), stored["parameters"], stored["kept"])


def project(
    run: Run,
    name: str,
    method: Method = "umap",
    *,
    together: bool = True,
    most: int = MOST_POINTS,
    seed: int = 42,
    on_progress: Progress | None = None,
) -> Map:
    """A map of an evaluation's queries and documents before and after training, computed once and stored in the run.

    `together` fits one map on the vectors of both stages, so that positions can be compared; otherwise each stage has
    its own. At most `most` points per stage: every query, every relevant or retrieved document with a vector, and a
    sample of the others. The same seed gives the same map on the same machine.

    Raises RunError where the run has no vectors, DataError where there are too few points.
    """
    if (found := load_map(run, name, method, together=together)) is not None:
        return found
    stages = [stage for stage in STAGES if run.file("vectors", name, stage).is_file()]
    vectors = {stage: load_vectors(run, name, stage) for stage in stages or STAGES}
    documents = _shared_documents(run, name, list(vectors.values()), most)
    frames, arrays = zip(*(_points(vectors[stage], stage, documents) for stage in stages), strict=True)
    if len(arrays[0]) < 5:
        raise DataError(f"expected at least 5 texts for a map of {name!r}, found {len(arrays[0])}.")
    started = time.monotonic()
    if on_progress is not None:
        on_progress(f"map by {method}", 0, 1)
    if together and len({array.shape[1] for array in arrays}) > 1:
        raise RunError(f"expected vectors of {name!r} of one length before and after, found others; train again.")
    parts = [np.concatenate(arrays)] if together else arrays
    fitted = [_pca(part) if method == "pca" else _umap(part, seed) for part in parts]
    places = np.split(np.concatenate(fitted), np.cumsum([len(array) for array in arrays])[:-1])
    points = [frame.assign(x=xy[:, 0], y=xy[:, 1]) for frame, xy in zip(frames, places, strict=True)]
    preservation = dict(zip(map(str, stages), map(neighborhood_preservation, arrays, places), strict=True))
    parameters = {
        "method": method,
        "together": together and len(stages) > 1,
        "n_neighbors": NEIGHBORS,
        "min_dist": MIN_DIST,
        "metric": "cosine",
        "seed": seed,
        "versions": {package: importlib.metadata.version(package) for package in ("umap-learn", "numpy")},
        "queries": len(vectors[stages[0]].query_ids),
        "documents": len(documents),
        "seconds": round(time.monotonic() - started, 3),
    }
    made = Map(pd.concat(points, ignore_index=True), parameters, preservation)
    path = run.file("map", name, method, "together" if together else "apart")
    write_json(path.with_suffix(".json"), {"parameters": parameters, "kept": preservation})
    write_parquet(path, made.points)
    if on_progress is not None:
        on_progress(f"map by {method}", 1, 1)
    return made


def _shared_documents(run: Run, name: str, vectors: Sequence[Vectors], most: int) -> set[str]:
    """Ids of the documents on the map: those with a vector at every stage, `most` points at most."""
    common = set.intersection(*(set(each.document_ids) for each in vectors))
    ids = [key for key in vectors[0].document_ids if key in common]
    needed = set(run.documents(name)["document_id"])
    return {ids[place] for place in choose_documents(ids, needed, max(most - len(vectors[0].query_ids), 0))}


def _points(vectors: Vectors, stage: Stage, documents: set[str]) -> tuple[pd.DataFrame, Floats]:
    """The points of one stage without their positions, and their vectors, (points, dim) of unit length."""
    rows = [place for place, key in enumerate(vectors.document_ids) if key in documents]
    array = np.concatenate([vectors.queries, vectors.documents[rows]])
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    ids = [*vectors.query_ids, *(vectors.document_ids[row] for row in rows)]
    kinds = ["query"] * len(vectors.query_ids) + ["document"] * len(rows)
    return pd.DataFrame({"moment": stage, "kind": kinds, "id": ids}), array / np.maximum(lengths, 1e-12)


def _pca(array: Floats) -> Floats:
    """The two directions of largest variance; the sign of each makes its largest coordinate positive."""
    centered = array - array.mean(axis=0)
    _, vectors = np.linalg.eigh(centered.T @ centered)  # ascending; (dim, dim) is small, the points may be many
    axes = vectors[:, :-3:-1]  # (dim, 2)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    places: Floats = (centered @ axes).astype(np.float32)
    return places


def _umap(array: Floats, seed: int) -> Floats:
    """UMAP's layout of its graph over exact neighbors, from PCA's places.

    Only the layout is umap-learn's: its approximate search and its graph are compiled anew in every process, which
    takes longer than all the rest.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    epochs = next(epochs for most, epochs in EPOCHS.items() if len(array) <= most)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensorflow is missing
        from umap.umap_ import find_ab_params, simplicial_set_embedding

        places, _ = simplicial_set_embedding(
            array, umap_graph(array), n_components=2, initial_alpha=1.0, gamma=1.0, negative_sample_rate=5,
            **dict(zip("ab", find_ab_params(spread=1.0, min_dist=MIN_DIST), strict=True)), n_epochs=epochs,
            init=_pca(array), random_state=np.random.RandomState(seed), metric="cosine", metric_kwds={},
            densmap=False, densmap_kwds={}, output_dens=False,
        )  # fmt: skip
    found: Floats = places
    return found


def umap_graph(array: Floats) -> sparse.coo_matrix:
    """UMAP's fuzzy graph, (points, points): the probability that two points are neighbors, by cosine.

    A point's weights fall exponentially from its nearest neighbor on, at the rate at which they sum to log2 of the
    number of neighbors; two directions are joined by a + b − ab.
    """
    from scipy import sparse

    from workbench.evaluation.topk import top_k

    k = min(NEIGHBORS, len(array) - 1)
    found = top_k(array, array, k)  # a point is its own neighbor, as in umap-learn
    own = found.positions == np.arange(len(array))[:, None]
    distances = 1 - found.scores  # (points, k)
    distances[own | (distances < 1e-6)] = 0  # float32 gives equal texts a distance
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1, keepdims=True)
    nearest[~np.isfinite(nearest)] = 0
    beyond = np.maximum(distances - nearest, 0)
    low, high, rate = np.zeros((len(array), 1)), np.full((len(array), 1), np.inf), np.ones((len(array), 1))
    for _ in range(64):
        over = np.exp(-beyond[:, 1:] / rate).sum(axis=1, keepdims=True) > np.log2(k)
        low, high = np.where(over, low, rate), np.where(over, rate, high)
        rate = np.where(np.isinf(high), 2 * rate, (low + high) / 2)
    means = np.where(nearest > 0, distances.mean(axis=1, keepdims=True), distances.mean())
    weights = np.exp(-beyond / np.maximum(rate, np.maximum(1e-3 * means, 1e-12)))
    rows = np.repeat(np.arange(len(array)), k)
    one_way = sparse.csr_matrix((np.where(own, 0, weights).ravel(), (rows, found.positions.ravel())))
    one_way.resize(len(array), len(array))
    other = one_way.T.tocsr()
    return (one_way + other - one_way.multiply(other)).tocoo()


def neighborhood_preservation(vectors: Floats, places: Floats, *, k: int = NEIGHBORS) -> float:
    """Mean share of a point's k nearest by cosine that are among its k nearest on the map.

    vectors (points, dim) of unit length, places (points, 2). Exact, on `SAMPLE` points spread evenly. 1 preserves all
    neighborhoods; a random map has k / points.

    >>> angles = np.linspace(0, 1, 50)
    >>> circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> neighborhood_preservation(circle, circle, k=2)
    1.0
    """
    last = len(vectors) - 1
    k = min(k, last)
    rows = np.unique(np.linspace(0, last, min(SAMPLE, last + 1)).astype(int))
    common = 0
    for row in rows:
        near = vectors @ vectors[row]
        far = ((places - places[row]) ** 2).sum(axis=1)
        near[row], far[row] = -np.inf, np.inf
        nearest = np.argpartition(-near, k - 1)[:k]
        common += len(np.intersect1d(nearest, np.argpartition(far, k - 1)[:k]))
    return common / (len(rows) * k)
