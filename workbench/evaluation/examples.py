"""What one model did on items that are no search, and how a run keeps it: pairs, triplets, short lists, texts.

Every metric is a statistic (see `intervals`) of a column of the table of items, so that it can be computed again for
any selection of items. `evaluators` fills such tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.evaluation.retrieval import MOMENT, folder_name
from workbench.run import Run, write_json, write_parquet

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class ExampleEvaluation:
    """What one model did on items that are no search."""

    name: str
    kind: str  # the library's evaluator: "EmbeddingSimilarityEvaluator"
    metrics: Mapping[str, float]  # "spearman_cosine" -> 0.81; the main one first
    per_example: pd.DataFrame  # item_id, the texts, gold, then a column for each score or outcome; higher is better
    settings: Mapping[str, Any]  # how it was measured; "statistics": metric -> [one of intervals.STATISTICS, column]

    @property
    def main_metric(self) -> str:
        """What the library calls the primary metric."""
        return str(self.settings["main_metric"])

    def __repr__(self) -> str:
        main = self.main_metric
        items = f"{self.settings['items']:,} {self.settings['unit']}"
        return f"<Evaluation of {self.name!r}: {main} {self.metrics[main]:.4f}, {items}>"


def input_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """The columns of texts of a table of items: those between item_id and gold."""
    names = [str(name) for name in table.columns]
    return tuple(names[1 : names.index("gold")])


# --- tables of items -----------------------------------------------------------------------------------------------


def example_table(inputs: Mapping[str, Sequence[str]], gold: Any, values: Mapping[str, Any]) -> pd.DataFrame:
    """The table of items; ids are their numbers, wide enough to sort as text."""
    import numpy as np
    import pandas as pd

    items = len(next(iter(inputs.values())))
    if not items:
        raise DataError("expected items to measure, found none; give some rows.")
    width = len(str(items - 1))
    right = np.full(items, np.nan) if gold is None else np.asarray(gold, dtype=float)
    if len(right) != items:
        raise DataError(f"expected a gold value for each of {items} items, found {len(right)}; give as many.")
    ids = [f"i{number:0{width}}" for number in range(items)]
    return pd.DataFrame({"item_id": ids, **{k: list(v) for k, v in inputs.items()}, "gold": right, **values})


def evaluation_from_table(
    name: str,
    kind: str,
    table: pd.DataFrame,
    statistics: Mapping[str, Sequence[str]],
    *,
    unit: str,
    main: str,
    more: Mapping[str, float] | None = None,
    **settings: Any,
) -> ExampleEvaluation:
    """The evaluation of a table of items: metrics are `statistics` computed from its columns, and `more` as they are.

    `main` names the main metric; `unit` says in the plural what an item is.
    """
    told = {
        "kind": kind,
        "unit": unit,
        "main_metric": main,
        "items": len(table),
        "items_sha256": items_sha256(table),
        **settings,
        "statistics": {metric: list(each) for metric, each in statistics.items()},
    }
    return ExampleEvaluation(name, kind, {**compute_metrics(table, statistics), **(more or {})}, table, told)


def compute_metrics(table: pd.DataFrame, statistics: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Metric -> its value: the statistic named first, of the column named second."""
    from workbench.evaluation.statistics import statistic

    return {metric: statistic(name, table["gold"], table[column]) for metric, (name, column) in statistics.items()}


def with_correlations(evaluation: ExampleEvaluation) -> ExampleEvaluation:
    """An evaluation of labelled pairs with the correlations of its scores beside what it has."""
    said = evaluation.settings["statistics"]
    scores = dict.fromkeys(column for _, column in said.values())
    more = {f"{each}_{column}": [each, column] for column in scores for each in ("spearman", "pearson")}
    settings = {**evaluation.settings, "statistics": {**said, **more}}
    return replace(
        evaluation, metrics={**evaluation.metrics, **compute_metrics(evaluation.per_example, more)}, settings=settings
    )


def with_collection_metrics(evaluation: ExampleEvaluation) -> ExampleEvaluation:
    """A mean over collections with the numbers of each beside it, as NanoBEIREvaluator names them."""
    statistics = evaluation.settings["statistics"]
    each = {
        f"{name}_{metric}": float(rows[column].mean())
        for name, rows in evaluation.per_example.groupby("collection", sort=False)
        for metric, (_, column) in statistics.items()
    }
    named = {f"{evaluation.name}_{metric}": value for metric, value in evaluation.metrics.items()}
    return replace(evaluation, metrics={**evaluation.metrics, **named, **each})


def items_sha256(table: pd.DataFrame) -> str:
    """Hash of all ids, texts and gold values; equal hashes mean the same items."""
    digest = hashlib.sha256()
    for row in table[["item_id", *input_columns(table), "gold"]].itertuples(index=False):
        digest.update(f"{json.dumps(list(row), ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --- in a run folder ------------------------------------------------------------------------------------------------


def save_examples(run_path: str | Path, name: str, moment: str, evaluation: ExampleEvaluation) -> str:
    """Store an evaluation of items in a run folder; gives the folder's name.

    evaluations/<name>/items.parquet holds the texts and gold, <moment>.parquet the values, <moment>.json the metrics.
    The last is written last, so that an evaluation which can be listed can be read.

    Raises DataError where the moment is none, or where `name` holds other items.
    """
    if not MOMENT.fullmatch(moment):
        raise DataError(f"expected a moment of before, after or step-N, found {moment!r}.")
    safe, run = folder_name(name), Run(Path(run_path))
    table = evaluation.per_example
    fixed = ["item_id", *input_columns(table), "gold"]
    items, wanted = run.file("items", safe), evaluation.settings["items_sha256"]
    known = items.exists()
    if run.file("queries", safe).exists() or (known and items_sha256(run.table("items", safe)) != wanted):
        raise DataError(
            f"expected the items of {evaluation.name!r} in {str(items.parent)!r}, found those of another evaluation; "
            "store this one under another name."
        )
    if not known:
        write_parquet(items, table[fixed])
    values = table[["item_id", *table.columns.difference(fixed, sort=False)]]
    write_parquet(run.file("values", safe, moment), values)
    measured = {"metrics": dict(evaluation.metrics), "settings": dict(evaluation.settings)}
    write_json(run.file("metrics", safe, moment), measured)
    return safe


def has_examples(run: Run, name: str) -> bool:
    """Whether an evaluation of a run is one of items, not a search."""
    return run.file("items", name).is_file()


def read_examples(run: Run, name: str, moment: str) -> pd.DataFrame:
    """`ExampleEvaluation.per_example` as a run keeps it. Raises RunError where a file is missing or damaged."""
    return run.table("items", name).merge(run.table("values", name, moment), on="item_id")
