"""Parts of an evaluation: by kind of query, at fewer dimensions, and with quantized embeddings.

`slice_queries` groups the queries of a stored evaluation. `at_dimensions` and `at_precisions` rank again from the
vectors that the run keeps, so that the cost of truncation and quantization is measured, not estimated. Quantization is
the library's (`sentence_transformers.util.quantize_embeddings`): int8 with the range of each dimension over the
documents, compared by dot product; binary by the sign of each dimension, compared by the number of equal signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.cards.metric_names import metric_name
from workbench.errors import DataError
from workbench.evaluation.metrics import every_metric
from workbench.evaluation.projection import STAGES, Vectors, load_vectors
from workbench.evaluation.tasks import matryoshka
from workbench.run import Run

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

BITS: dict[str, int] = {"float32": 32, "int8": 8, "binary": 1}
BY: tuple[str, ...] = ("query length", "relevant documents")
GROUPS = 4  # of queries by numbers


def slice_queries(run: Run, name: str, by: str, *, metric: str = "ndcg@10") -> pd.DataFrame:
    """A metric for each group of queries: group, queries, before, after, difference, low, high.

    `by` is "query length" (in words, four groups of about equal size), "relevant documents" (1, 2, 3, 4 or more) or a
    column of `run.per_query`; numbers of many values are cut into four groups. low and high are the 95% bootstrap
    interval of the difference. Queries without a value are in the group "unknown".

    Raises DataError for an unknown column or metric.
    """
    from workbench.evaluation.statistics import mean_intervals

    after = run.per_query(name, "after")
    metric = query_metric(after, name, metric)
    values = pd.DataFrame({"group": _labels(after, by), "after": after[metric].to_numpy(dtype=float)})
    if "before" in run.evaluations()[name]:
        before = run.per_query(name, "before").set_index("query_id")[metric]
        values["before"] = before.reindex(after["query_id"]).to_numpy(dtype=float)
    rows = []
    for group, part in values.groupby("group"):
        row: dict[str, Any] = {"group": str(group), "queries": len(part), "after": part["after"].mean()}
        if "before" in part:
            changes = (part["after"] - part["before"]).to_numpy()
            (low,), (high,) = mean_intervals(changes[:, None], signed=True)
            row |= {"before": part["before"].mean(), "difference": changes.mean(), "low": low, "high": high}
        rows.append(row)
    rows.sort(key=lambda row: _order(row["group"]))
    columns = ["group", "queries", "before", "after", "difference", "low", "high"]
    return pd.DataFrame(rows).reindex(columns=columns)


def query_metric(table: pd.DataFrame, name: str, metric: str) -> str:
    """The column of `run.per_query` of the evaluation `name` with a metric: "ndcg@10", "nDCG@10" or "cosine_ndcg@10".

    Raises DataError where there is none.
    """
    known = {metric_name(str(column)).lower(): str(column) for column in table.columns if "@" in str(column)}
    found = known.get(metric_name(metric).lower())
    if found is None:
        shown = ", ".join(map(metric_name, known.values()))
        raise DataError(f"expected a metric of {name!r}, found {metric!r}; there are {shown}.")
    return found


def _labels(table: pd.DataFrame, by: str) -> list[str]:
    """The group of each query."""
    if by == "query length":
        return _group([len(str(query).split()) for query in table["query"]], unit=" words")
    if by == "relevant documents":
        counts = [len(relevant) for relevant in table["relevant"]]
        return ["4 or more" if count > 3 else str(count) for count in counts]
    if by in table:
        return _group(table[by].tolist())
    raise DataError(f"expected {', '.join(BY)} or a column to slice by, found {by!r}; choose one.")


def _group(values: Sequence[Any], unit: str = "") -> list[str]:
    """Labels of values: the values themselves where there are few, else ranges that hold about as many each.

    >>> _group([1, 2, 3, 4, 5, 6, 7, 8], " words")[::3]
    ['1 to 2 words', '3 to 4 words', '7 to 8 words']
    """
    known = [value for value in values if not pd.isna(value)]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if not numbers or len(set(known)) <= GROUPS:
        return ["unknown" if pd.isna(value) else f"{value}{unit}" for value in values]
    known.sort()
    cuts = sorted({known[len(known) * part // GROUPS] for part in range(1, GROUPS)})
    spans: dict[int, list[Any]] = {}
    for value in known:
        spans.setdefault(int(np.searchsorted(cuts, value, side="right")), []).append(value)
    names = {
        place: f"{span[0]:g}{unit}" if span[0] == span[-1] else f"{span[0]:g} to {span[-1]:g}{unit}"
        for place, span in spans.items()
    }
    return ["unknown" if pd.isna(each) else names[int(np.searchsorted(cuts, each, side="right"))] for each in values]


def _order(label: str) -> tuple[bool, bool, float, str]:
    """Numbers by size, then words alphabetically, "unknown" last."""
    first = label.split()[0] if label.split() else ""
    number = first.replace(".", "", 1).lstrip("-").isdigit()
    return label == "unknown", not number, float(first) if number else 0.0, label


# --- from the vectors ------------------------------------------------------------------------------------------------


def at_dimensions(run: Run, name: str) -> pd.DataFrame:
    """Every metric at each number of dimensions: moment (the stage), dimensions, bytes (per vector), and the metrics.

    Those that the recipe's Matryoshka loss trains, else the model's own, halved down to 32. Vectors are truncated
    before normalization. Raises RunError where the run has no vectors, DataError where not those of all documents.
    """
    similarity = str(run.settings(name, "after").get("similarity", "cosine"))
    if similarity == "energy":
        raise DataError(
            f"expected one vector per query in {name!r}, found the energy distance, which compares every token of a "
            "query; its runs keep only the mean."
        )

    def truncate(vectors: Vectors, size: int) -> tuple[Array, Array, str]:
        return vectors.queries[:, :size], vectors.documents[:, :size], similarity

    return _measure(run, name, "dimensions", lambda vectors: _sizes(run, vectors), truncate)


def at_precisions(run: Run, name: str) -> pd.DataFrame:
    """Every metric with quantized embeddings: moment (the stage), precision, bytes (per vector), and the metrics.

    Vectors are normalized first, as for cosine. Raises as `at_dimensions` does.
    """
    return _measure(run, name, "precision", lambda vectors: tuple(BITS), _quantize)


def _sizes(run: Run, vectors: Vectors) -> list[int]:
    """All dimensions and those that a Matryoshka loss trains; without one, all of them halved down to 32."""
    sizes = [int(vectors.queries.shape[1])]
    recipe = run.recipe() if run.file("recipe").is_file() else None
    trained = {size for size in matryoshka(recipe.loss) if 0 < size < sizes[0]} if recipe else set()
    while not trained and sizes[-1] // 2 >= 32:
        sizes.append(sizes[-1] // 2)
    return [*sizes, *sorted(trained, reverse=True)]


def _quantize(vectors: Vectors, precision: str) -> tuple[Array, Array, str]:
    """Queries and documents at a precision, and the similarity that compares them."""
    queries, documents = (
        array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        for array in (vectors.queries, vectors.documents)
    )
    if precision == "binary":
        queries, documents = (np.where(array > 0, 1.0, -1.0) for array in (queries, documents))
    elif precision == "int8":
        from sentence_transformers.util.quantization import quantize_embeddings

        ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])
        queries, documents = (
            np.asarray(quantize_embeddings(array, "int8", ranges=ranges), dtype=np.float32)
            for array in (np.clip(queries, *ranges), documents)
        )
    return queries, documents, "dot"


def _measure(
    run: Run,
    name: str,
    what: str,
    wanted: Callable[[Vectors], Sequence[Any]],
    change: Callable[[Vectors, Any], tuple[Array, Array, str]],
) -> pd.DataFrame:
    """One row for each stage and each change of its vectors."""
    rows = []
    for stage in STAGES:
        vectors = load_vectors(run, name, stage)
        table = run.per_query(name, stage)
        relevant = dict(zip(table["query_id"], table["relevant"], strict=True))
        documents = int(run.settings(name, stage)["documents"])
        if len(vectors.document_ids) < documents:
            raise DataError(
                f"expected the vectors of all {documents:,} documents of {name!r}, found "
                f"{len(vectors.document_ids):,}; evaluate so large a corpus again with --truncate-dim."
            )
        for value in wanted(vectors):
            queries, corpus, similarity = change(vectors, value)
            size = -(-queries.shape[1] * BITS.get(value, 32) // 8)
            means = _means(vectors, relevant, queries, corpus, similarity)
            rows.append({"moment": stage, what: value, "bytes": size, **means})
    return pd.DataFrame(rows)


def _means(
    vectors: Vectors, relevant: Mapping[str, Any], queries: Array, documents: Array, similarity: str
) -> dict[str, float]:
    """Means of every metric over the queries, ranked by these vectors."""
    from workbench.evaluation.topk import top_k

    found = top_k(queries, documents, 100, similarity=similarity, ids=vectors.document_ids)
    place = {key: number for number, key in enumerate(vectors.document_ids)}
    gains = np.zeros(found.positions.shape)
    for row, query in enumerate(vectors.query_ids):
        gains[row] = np.isin(found.positions[row], [place[key] for key in relevant[query] if key in place])
    counts = [len(relevant[query]) for query in vectors.query_ids]
    return {metric: float(values.mean()) for metric, values in every_metric(gains, counts).items()}
