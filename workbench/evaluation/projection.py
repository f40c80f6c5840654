"""Queries and documents as points of a plane: a map to look at, never to measure on.

`save_vectors` keeps the vectors of an evaluation in the run folder; `project` makes a map of them, by PCA at once or by
UMAP, before and after training either together (one map in which a point's two places can be compared) or each alone.
The map is stored with its parameters, seed and library, and with a measure of how far it can be trusted: the share of
each point's true nearest neighbours, those of the full vectors, that are among its nearest on the map.

Neighbours and ranks always come from the full vectors. UMAP: McInnes, Healy and Melville, arXiv 1802.03426.
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

from workbench.errors import DataError, RunError
from workbench.run import Progress, Run, atomic_write, write_json, write_parquet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from workbench.evaluation.retrieval import Evaluation

    Floats = npt.NDArray[np.float32]

Method = Literal["umap", "pca"]
Stage = Literal["before", "after"]

METHODS: tuple[Method, ...] = ("umap", "pca")
STAGES: tuple[Stage, ...] = ("before", "after")
MOST_VECTORS = 50_000  # documents whose vectors are kept; above, those retrieved or relevant and a sample
MOST_POINTS = 10_000  # of each moment on a map
NEIGHBOURS = 15  # of UMAP's graph, and of the measure of the map
MIN_DIST = 0.1
JUDGED = 1000  # points on which a map is measured
PROBED = 20  # queries whose scores prove that vectors belong to a run


@dataclass(frozen=True)
class Vectors:
    """What a model made of an evaluation's texts."""

    query_ids: tuple[str, ...]
    document_ids: tuple[str, ...]
    queries: Floats  # (queries, dim), as the model gives them
    documents: Floats  # (documents, dim)


@dataclass(frozen=True)
class Map:
    """Points of a plane, and how they came about."""

    points: pd.DataFrame  # moment, kind ("query" or "document"), id, x, y
    parameters: dict[str, Any]  # method, together, n_neighbors, min_dist, seed, versions, counts, seconds
    preservation: dict[str, float] = field(default_factory=dict)  # stage -> neighborhood preservation, 0 to 1

    def __repr__(self) -> str:
        shares = preservation_text(self.preservation)
        return f"<Map by {self.parameters['method']}: {len(self.points):,} points, neighborhood preservation {shares}>"


def preservation_text(kept: Mapping[str, float]) -> str:
    """Neighborhood preservation as text.

    >>> preservation_text({"before": 0.081, "after": 0.5})
    '8 % before, 50 % after'
    """
    return ", ".join(f"{100 * share:.0f} % {moment}" for moment, share in kept.items())


# --- vectors -------------------------------------------------------------------------------------------------------


def save_vectors(
    run_path: str | Path, name: str, moment: str, evaluation: Evaluation, *, most: int = MOST_VECTORS
) -> Path:
    """Keep the vectors of an evaluation: every query, and the documents up to `most`.

    Of a larger corpus those are kept that are relevant or retrieved at this moment, and of the others the same ones
    each time, chosen by the checksum of their ids. Gives the file, which is written whole or not at all.
    """
    import numpy as np
    from safetensors.numpy import save_file

    ids = list(evaluation.collection.corpus)
    needed = set(evaluation.hits["document_id"])
    needed.update(document for gains in evaluation.collection.relevant.values() for document in gains)
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
    path = Run(Path(run_path)).file("vectors", name, moment)
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return path


def choose_documents(ids: Sequence[str], needed: Iterable[str], most: int) -> list[int]:
    """Places of the documents to keep: all of them, or those needed and of the others a sample that is always the
    same, `most` in all (more where more are needed), in their order.

    >>> choose_documents(["a", "b", "c"], ["b"], 3), len(choose_documents([str(n) for n in range(100)], ["7"], 10))
    ([0, 1, 2], 10)
    """
    if len(ids) <= most:
        return list(range(len(ids)))
    wanted = set(needed)
    kept = [place for place, key in enumerate(ids) if key in wanted]
    others = [place for place, key in enumerate(ids) if key not in wanted]
    others.sort(key=lambda place: zlib.crc32(ids[place].encode("utf-8", "surrogatepass")))
    return sorted(kept + others[: max(most - len(kept), 0)])


def load_vectors(run: Run, name: str, moment: Stage) -> Vectors:
    """The vectors of an evaluation.

    Raises RunError where there are none, or where they belong to another evaluation than the run's.
    """
    from safetensors import SafetensorError, safe_open

    path = run.file("vectors", name, moment)
    if not path.is_file():
        raise RunError(
            f"expected vectors of {name!r}, {moment}, in run {run.name!r}, found none; runs trained with this version "
            "keep them, so train again or choose another evaluation."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            said = file.metadata() or {}
            found = Vectors(
                tuple(json.loads(said["query_ids"])),
                tuple(json.loads(said["document_ids"])),
                file.get_tensor("queries"),
                file.get_tensor("documents"),
            )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"expected vectors in {str(path)!r}, found something else ({error}); train again.") from error
    settings = run.settings(name, moment)
    others = said.get("collection_sha256") != settings.get("collection_sha256")
    if others or len(found.queries) != len(found.query_ids) or not _scored_so(run, name, moment, found, settings):
        raise RunError(
            f"expected in {str(path)!r} the vectors of the collection that run {run.name!r} measured, found those of "
            "another; they were made for another model or other texts, so train again."
        )
    return found


def _scored_so(run: Run, name: str, moment: Stage, vectors: Vectors, settings: Mapping[str, Any]) -> bool:
    """Whether the vectors give the scores that the run stored, on the hits of `PROBED` queries.

    The energy distance needs more than the vectors, so it is not held against them.
    """
    import numpy as np

    similarity = settings.get("similarity", "cosine")
    if similarity == "energy":
        return True
    hits = run.hits(name, moment)
    first = hits[hits["query_id"].isin(vectors.query_ids[:PROBED])]
    queries = {key: place for place, key in enumerate(vectors.query_ids)}
    documents = {key: place for place, key in enumerate(vectors.document_ids)}
    known = first[first["query_id"].isin(queries) & first["document_id"].isin(documents)]
    one = vectors.queries[[queries[key] for key in known["query_id"]]]
    other = vectors.documents[[documents[key] for key in known["document_id"]]]
    if similarity == "euclidean":
        scores = -np.linalg.norm(one - other, axis=1)
    elif similarity == "manhattan":
        scores = -np.abs(one - other).sum(axis=1)
    else:
        scores = (one * other).sum(axis=1)
        if similarity == "cosine":
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            scores = scores / np.maximum(lengths, 1e-24)
    stored = known["score"].to_numpy(dtype=float)
    return bool(np.all(np.abs(scores - stored) <= 1e-2 * (1 + np.abs(stored))))


# --- maps ----------------------------------------------------------------------------------------------------------


def load_map(run: Run, name: str, method: Method = "umap", *, together: bool = True) -> Map | None:
    """The map that `project` stored; None where it has not been made, or its vectors have changed since."""
    path = run.file("map", name, method, "together" if together else "apart")
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    vectors = [run.file("vectors", name, moment) for moment in STAGES]
    if any(file.is_file() and file.stat().st_mtime_ns > path.stat().st_mtime_ns for file in vectors):
        return None
    import pandas as pd

    try:
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Map(pd.read_parquet(path), said["parameters"], said["kept"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            f"expected a map in {str(path)!r}, found something else ({error}); remove the file, and it is made again."
        ) from error


def project(
    run: Run,
    name: str,
    method: Method = "umap",
    *,
    together: bool = True,
    most: int = MOST_POINTS,
    n_neighbors: int = NEIGHBOURS,
    min_dist: float = MIN_DIST,
    seed: int = 42,
    again: bool = False,
    on_progress: Progress | None = None,
) -> Map:
    """A map of an evaluation's queries and documents before and after training, made once and stored in the run.

    `together` fits one map on the vectors of both moments, so that places can be compared; otherwise each moment gets
    a map of its own. At most `most` points of each moment: every query, every relevant or retrieved document that has
    a vector, and a sample of the others. The same seed gives the same map on the same machine. A run that has only
    one of the two moments gets a map of that one. `again` makes a stored map anew.

    Raises RunError where the run has no vectors, DataError where there are too few points for a map.
    """
    if not again and (found := load_map(run, name, method, together=together)) is not None:
        return found
    moments = [moment for moment in STAGES if run.file("vectors", name, moment).is_file()]
    vectors = {moment: load_vectors(run, name, moment) for moment in moments or STAGES}
    documents = _documents_of_all(run, name, vectors, most)
    frames, arrays = zip(*(_points(vectors[moment], moment, documents) for moment in moments), strict=True)
    if len(arrays[0]) < 5:
        raise DataError(f"expected at least 5 texts for a map of {name!r}, found {len(arrays[0])}.")
    started = time.monotonic()
    if on_progress is not None:
        on_progress(f"map by {method}", 0, 1)
    places = _places(list(arrays), method, together=together, n_neighbors=n_neighbors, min_dist=min_dist, seed=seed)
    kept = {
        str(moment): neighborhood_preservation(array, xy)
        for moment, array, xy in zip(moments, arrays, places, strict=True)
    }
    made = Map(_table(list(frames), places), {
        "method": method,
        "together": together and len(moments) > 1,
        "n_neighbors": n_neighbors,
        "min_dist": min_dist,
        "metric": "cosine",
        "seed": seed,
        "versions": {package: importlib.metadata.version(package) for package in ("umap-learn", "numpy")},
        "queries": len(vectors[moments[0]].query_ids),
        "documents": len(documents),
        "seconds": round(time.monotonic() - started, 3),
    }, kept)  # fmt: skip
    path = run.file("map", name, method, "together" if together else "apart")
    write_json(path.with_suffix(".json"), {"parameters": made.parameters, "kept": made.preservation})
    write_parquet(path, made.points)
    if on_progress is not None:
        on_progress(f"map by {method}", 1, 1)
    return made


def _documents_of_all(run: Run, name: str, vectors: dict[Stage, Vectors], most: int) -> set[str]:
    """Ids of the documents that are drawn: those that have a vector at every moment, `most` points at most."""
    first, *others = vectors.values()
    common = set(first.document_ids).intersection(*(other.document_ids for other in others))
    ids = [key for key in first.document_ids if key in common]
    needed = set(run.documents(name)["document_id"])
    return {ids[place] for place in choose_documents(ids, needed, max(most - len(first.query_ids), 0))}


def _points(vectors: Vectors, moment: Stage, documents: set[str]) -> tuple[pd.DataFrame, Floats]:
    """The points of one moment without their places, and their vectors, (points, dim) of unit length."""
    import numpy as np
    import pandas as pd

    rows = [place for place, key in enumerate(vectors.document_ids) if key in documents]
    array = np.concatenate([vectors.queries, vectors.documents[rows]])
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    ids = [*vectors.query_ids, *(vectors.document_ids[row] for row in rows)]
    kinds = ["query"] * len(vectors.query_ids) + ["document"] * len(rows)
    return pd.DataFrame({"moment": moment, "kind": kinds, "id": ids}), array / np.maximum(lengths, 1e-12)


def _table(frames: list[pd.DataFrame], places: list[Floats]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(
        [frame.assign(x=xy[:, 0], y=xy[:, 1]) for frame, xy in zip(frames, places, strict=True)], ignore_index=True
    )


def _places(
    arrays: list[Floats], method: Method, *, together: bool, n_neighbors: int, min_dist: float, seed: int
) -> list[Floats]:
    """(points, 2) for each array of vectors (points, dim)."""
    import numpy as np

    def of(array: Floats) -> Floats:
        return _pca(array) if method == "pca" else _umap(array, n_neighbors, min_dist, seed)

    if not together:
        return [of(array) for array in arrays]
    ends = np.cumsum([len(array) for array in arrays])[:-1]
    return list(np.split(of(np.concatenate(arrays)), ends))


def _pca(array: Floats) -> Floats:
    """The two directions of largest variance; the sign of each makes its largest coordinate positive."""
    import numpy as np

    centred = array - array.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending; (dim, dim) is small, the points may be many
    axes = vectors[:, :-3:-1]  # (dim, 2)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    places: Floats = (centred @ axes).astype(np.float32)
    return places


def _umap(array: Floats, n_neighbors: int, min_dist: float, seed: int) -> Floats:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tensorflow is missing, and that a seed means one thread
        import umap

        model = umap.UMAP(
            n_neighbors=min(n_neighbors, len(array) - 1),
            min_dist=min_dist,
            metric="cosine",
            init="pca",
            random_state=seed,
            n_jobs=1,
        )
        places: Floats = model.fit_transform(array)
    return places


def neighborhood_preservation(vectors: Floats, places: Floats, *, k: int = NEIGHBOURS, judged: int = JUDGED) -> float:
    """Mean share of a point's k nearest by cosine that are among its k nearest on the map.

    vectors (points, dim) of unit length, places (points, 2). Exact, on `judged` points spread evenly. 1 is a map that
    can be trusted as the vectors can; a random map has k / points.

    >>> import numpy as np
    >>> angles = np.linspace(0, 1, 50)
    >>> circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> neighborhood_preservation(circle, circle, k=2)
    1.0
    """
    import numpy as np

    points = len(vectors)
    k = min(k, points - 1)
    rows = np.unique(np.linspace(0, points - 1, min(judged, points)).astype(int))
    kept = 0
    for row in rows:
        near = vectors @ vectors[row]
        far = ((places - places[row]) ** 2).sum(axis=1)
        near[row], far[row] = -np.inf, np.inf
        truly = np.argpartition(-near, k - 1)[:k]
        kept += len(np.intersect1d(truly, np.argpartition(far, k - 1)[:k]))
    return kept / (len(rows) * k)
