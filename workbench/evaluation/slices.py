"""An evaluation looked at in parts: by kind of query, at fewer dimensions, and with coarser numbers.

`slice_queries` groups the queries of an evaluation. `at_dimensions` and `at_precisions` rank again from the vectors
that the run keeps, so that what truncation and quantisation cost is measured, not estimated. Quantisation is the
library's (`sentence_transformers.util.quantize_embeddings`): int8 with the range of each dimension over the documents,
compared by dot product; binary by the sign of each dimension, compared by the number of equal signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import DataError
from workbench.evaluation.tasks import matryoshka
from workbench.run import Run

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from workbench.evaluation.projection import Stage, Vectors

Precision = Literal["float32", "int8", "binary"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary")
BITS = {"float32": 32, "int8": 8, "binary": 1}

BY: tuple[str, ...] = ("query length", "relevant documents")
QUARTERS = 4


def slice_queries(
    run: Run, name: str, by: str | Mapping[str, Any], *, metric: str = "ndcg@10", groups: int = QUARTERS
) -> pd.DataFrame:
    """A metric for each group of queries: group, queries, before, after, difference, low, high.

    `by` is "query length" (in words, `groups` groups of about equal size), "relevant documents" (1, 2, 3, 4 or more), a
    column of `run.per_query`, or query id -> value; numbers of many values are cut into `groups`. low and high are the
    95 % bootstrap interval of the difference. Queries without a value are in the group "unknown".

    Raises DataError for a column or metric that is not there.
    """
    import pandas as pd

    from workbench.evaluation.statistics import bootstrap_interval

    after = run.per_query(name, "after")
    if metric not in after:
        raise DataError(f"expected a metric of {name!r}, found {metric!r}; there are {', '.join(_metrics(after))}.")
    before = run.per_query(name, "before") if "before" in run.evaluations()[name] else None
    labels = _labels(after, by, groups)
    values = pd.DataFrame({"group": labels, "after": after[metric].to_numpy(dtype=float)})
    if before is not None:
        values["before"] = before.set_index("query_id")[metric].reindex(after["query_id"]).to_numpy(dtype=float)
    rows = []
    for group, part in values.groupby("group", sort=False, observed=True):
        row: dict[str, Any] = {"group": str(group), "queries": len(part), "after": part["after"].mean()}
        if before is not None:
            moved = (part["after"] - part["before"]).to_numpy()
            low, high = bootstrap_interval(moved[:, None])
            row |= {"before": part["before"].mean(), "difference": moved.mean(), "low": low[0], "high": high[0]}
        rows.append(row)
    columns = ["group", "queries", "before", "after", "difference", "low", "high"]
    order = {label: place for place, label in enumerate(_order(labels))}
    rows.sort(key=lambda row: order[row["group"]])
    return pd.DataFrame(rows).reindex(columns=columns)


def _metrics(table: pd.DataFrame) -> list[str]:
    return [str(column) for column in table.columns if "@" in str(column)]


def _labels(table: pd.DataFrame, by: str | Mapping[str, Any], groups: int) -> list[str]:
    """The group of each query."""
    if isinstance(by, Mapping):
        return _grouped([by.get(query) for query in table["query_id"]], groups)
    if by == "query length":
        return _grouped([len(str(query).split()) for query in table["query"]], groups, unit=" words")
    if by == "relevant documents":
        counts = [len(relevant) for relevant in table["relevant"]]
        return ["4 or more" if count > 3 else str(count) for count in counts]
    if by in table:
        return _grouped(table[by].tolist(), groups)
    raise DataError(f"expected {', '.join(BY)} or a column to slice by, found {by!r}; choose one.")


def _grouped(values: Sequence[Any], groups: int, unit: str = "") -> list[str]:
    """Labels of values: themselves where there are few, else the ranges that hold about as many each.

    >>> _grouped([1, 2, 3, 4, 5, 6, 7, 8], 2, " words")[::7]
    ['1 to 4 words', '5 to 8 words']
    """
    known = [value for value in values if value is not None and value == value]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    if not numbers or len(set(known)) <= groups:
        return ["unknown" if value is None or value != value else f"{value}{unit}" for value in values]
    ordered = sorted(known)
    cuts = sorted({ordered[min(len(ordered) * part // groups, len(ordered) - 1)] for part in range(1, groups)})
    spans: list[list[Any]] = [[] for _ in range(len(cuts) + 1)]

    def place(value: Any) -> int:
        return sum(value >= cut for cut in cuts)

    for value in known:
        spans[place(value)].append(value)
    names = [
        f"{min(span):g}{unit}" if min(span) == max(span) else f"{min(span):g} to {max(span):g}{unit}" if span else ""
        for span in spans
    ]
    return ["unknown" if value is None or value != value else names[place(value)] for value in values]


def _order(labels: Sequence[str]) -> list[str]:
    """Groups as a reader expects them: numbers by size, then words by the alphabet, "unknown" last."""

    def key(label: str) -> tuple[bool, bool, float, str]:
        first = label.split()[0] if label.split() else ""
        number = first.replace(".", "", 1).lstrip("-").isdigit()
        return label == "unknown", not number, float(first) if number else 0.0, label

    return sorted(set(labels), key=key)


# --- from the vectors ------------------------------------------------------------------------------------------------


def at_dimensions(
    run: Run, name: str, dimensions: Sequence[int] = (), *, moments: Sequence[Stage] = ("before", "after")
) -> pd.DataFrame:
    """Every metric at each number of dimensions: moment, dimensions, bytes (of one vector), and a column per metric.

    Without `dimensions` they are those that the recipe's Matryoshka loss trains, else they are halved from the model's
    own down to 32. Vectors are cut before they are normalised.
    Raises RunError where the run keeps no vectors of all documents, DataError for more dimensions than there are.
    """

    def cut(vectors: Vectors, size: int) -> tuple[Any, Any, str]:
        whole = vectors.queries.shape[1]
        if not 1 <= size <= whole:
            raise DataError(f"expected dimensions from 1 to {whole}, found {size}; choose fewer.")
        return vectors.queries[:, :size], vectors.documents[:, :size], _similarity(run, name)

    return _measured(run, name, moments, "dimensions", lambda vectors: tuple(dimensions) or _sizes(run, vectors), cut)


def at_precisions(
    run: Run,
    name: str,
    precisions: Sequence[Precision] = PRECISIONS,
    *,
    moments: Sequence[Stage] = ("before", "after"),
) -> pd.DataFrame:
    """Every metric with vectors of coarser numbers: moment, precision, bytes (of one vector), and a column per metric.

    Vectors are normalised first, as for cosine. Raises RunError where the run keeps no vectors of all documents.
    """
    return _measured(run, name, moments, "precision", lambda vectors: tuple(precisions), _quantised)


def _sizes(run: Run, vectors: Vectors) -> tuple[int, ...]:
    """The whole and the dimensions that a Matryoshka loss trains; without one half of it and half again, down to 32."""
    sizes = [int(vectors.queries.shape[1])]
    recipe = run.recipe() if run.file("recipe").is_file() else None
    trained = {size for size in matryoshka(recipe.loss) if 0 < size < sizes[0]} if recipe else set()
    if trained:
        return (*sizes, *sorted(trained, reverse=True))
    while sizes[-1] // 2 >= 32:
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def _similarity(run: Run, name: str) -> str:
    """What the run's vectors are compared by; the energy distance needs more than one vector a query."""
    said = str(run.settings(name, "after").get("similarity", "cosine"))
    if said == "energy":
        raise DataError(
            f"expected vectors that are compared one by one in {name!r}, found the energy distance, which needs every "
            "token of a query; its runs keep only the mean."
        )
    return said


def _quantised(vectors: Vectors, precision: str) -> tuple[Any, Any, str]:
    """Queries and documents at a precision, and what compares them."""
    import numpy as np

    queries, documents = (_unit(array) for array in (vectors.queries, vectors.documents))
    if precision == "float32":
        return queries, documents, "dot"
    if precision == "binary":
        return np.where(queries > 0, 1.0, -1.0), np.where(documents > 0, 1.0, -1.0), "dot"
    if precision != "int8":
        raise DataError(f"expected a precision of {', '.join(PRECISIONS)}, found {precision!r}; choose one.")
    from sentence_transformers.util.quantization import quantize_embeddings

    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])
    return (
        np.asarray(quantize_embeddings(np.clip(queries, *ranges), "int8", ranges=ranges), dtype=np.float32),
        np.asarray(quantize_embeddings(documents, "int8", ranges=ranges), dtype=np.float32),
        "dot",
    )


def _unit(array: Any) -> Any:
    import numpy as np

    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def _measured(
    run: Run,
    name: str,
    moments: Sequence[Stage],
    what: str,
    wanted: Callable[[Vectors], Sequence[Any]],
    change: Callable[[Vectors, Any], tuple[Any, Any, str]],
) -> pd.DataFrame:
    """One row for each moment and each change of its vectors."""
    import pandas as pd

    from workbench.evaluation.projection import load_vectors

    rows = []
    for moment in moments:
        vectors = load_vectors(run, name, moment)
        relevant = dict(zip(*(run.per_query(name, moment)[column] for column in ("query_id", "relevant")), strict=True))
        documents = int(run.settings(name, moment)["documents"])
        if len(vectors.document_ids) < documents:
            raise DataError(
                f"expected the vectors of all {documents:,} documents of {name!r}, found "
                f"{len(vectors.document_ids):,}; so large a corpus is measured by evaluating again with --truncate-dim."
            )
        for value in wanted(vectors):
            queries, corpus, similarity = change(vectors, value)
            numbers = queries.shape[1]
            size = numbers * BITS.get(str(value), 32) / 8
            means = _means(vectors, relevant, queries, corpus, similarity)
            rows.append({"moment": moment, what: value, "bytes": size, **means})
    return pd.DataFrame(rows)


def _means(
    vectors: Vectors, relevant: Mapping[str, Any], queries: np.ndarray[Any, Any], documents: Any, similarity: str
) -> dict[str, float]:
    """Means of every metric over the queries, ranked by these vectors."""
    import numpy as np

    from workbench.evaluation.metrics import every_metric
    from workbench.evaluation.topk import top_k

    found = top_k(queries, documents, 100, similarity=similarity, ids=vectors.document_ids)
    place = {key: number for number, key in enumerate(vectors.document_ids)}
    gains = np.zeros(found.positions.shape)
    for row, query in enumerate(vectors.query_ids):
        gains[row] = np.isin(found.positions[row], [place[key] for key in relevant[query] if key in place])
    counts = [len(relevant[query]) for query in vectors.query_ids]
    return {metric: float(values.mean()) for metric, values in every_metric(gains, counts).items()}
