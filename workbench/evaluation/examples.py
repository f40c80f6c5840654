"""Results of one model on examples other than searches, such as pairs or triplets, and how a run stores them.

Every metric is a statistic (see `statistics`) of a column of the table of examples, so that it can be computed again on
any selection of them. `evaluators` fills such tables. Files, columns and settings of a run call an example "item".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import DataError, RunError
from workbench.evaluation.retrieval import check_stage, folder_name, save_stage
from workbench.run import Run, write_parquet


@dataclass(frozen=True, repr=False)
class ExampleEvaluation:
    """The results of one model on examples that are not searches."""

    name: str
    kind: str  # the library's evaluator: "EmbeddingSimilarityEvaluator"
    metrics: Mapping[str, float]  # "spearman_cosine" -> 0.81; the main one first
    per_example: pd.DataFrame  # item_id, the texts, gold, then a column for each score or outcome; higher is better
    settings: Mapping[str, Any]  # how it was measured; "statistics": metric -> [name in statistics.STATISTICS, column]

    @property
    def main_metric(self) -> str:
        """The library's primary metric."""
        return str(self.settings["main_metric"])

    def __repr__(self) -> str:
        main = self.main_metric
        examples = f"{self.settings['items']:,} {self.settings['unit']}"
        return f"<Evaluation of {self.name!r}: {main} {self.metrics[main]:.4f}, {examples}>"


def input_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """The text columns of a table of examples: those between item_id and gold."""
    names = [str(name) for name in table.columns]
    return tuple(names[1 : names.index("gold")])


def example_table(inputs: Mapping[str, Sequence[str]], gold: Any, values: Mapping[str, Any]) -> pd.DataFrame:
    """A table of examples; their ids are numbers, padded to sort as text."""
    count = len(next(iter(inputs.values())))
    if not count:
        raise DataError("expected items to measure, found none; give some rows.")
    right = np.full(count, np.nan) if gold is None else np.asarray(gold, dtype=float)
    if len(right) != count:
        raise DataError(f"expected a gold value for each of {count} items, found {len(right)}; give as many.")
    ids = [f"i{number:0{len(str(count - 1))}}" for number in range(count)]
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
    """The evaluation of a table of examples: `statistics` of its columns are the metrics, and `more` are added.

    `main` is the main metric; `unit` is the plural noun for an example.
    """
    settings = {
        "kind": kind,
        "unit": unit,
        "main_metric": main,
        "items": len(table),
        "items_sha256": examples_sha256(table),
        **settings,
        "statistics": {metric: list(each) for metric, each in statistics.items()},
    }
    return ExampleEvaluation(name, kind, {**compute_metrics(table, statistics), **(more or {})}, table, settings)


def compute_metrics(table: pd.DataFrame, statistics: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Metric -> the statistic named first, of the column named second."""
    from workbench.evaluation.statistics import statistic

    return {metric: statistic(name, table["gold"], table[column]) for metric, (name, column) in statistics.items()}


def with_correlations(evaluation: ExampleEvaluation) -> ExampleEvaluation:
    """An evaluation of labeled pairs with the correlations of its scores added."""
    statistics = evaluation.settings["statistics"]
    scores = dict.fromkeys(column for _, column in statistics.values())
    more = {f"{each}_{column}": [each, column] for column in scores for each in ("spearman", "pearson")}
    settings = {**evaluation.settings, "statistics": {**statistics, **more}}
    metrics = {**evaluation.metrics, **compute_metrics(evaluation.per_example, more)}
    return replace(evaluation, metrics=metrics, settings=settings)


def with_collection_metrics(evaluation: ExampleEvaluation) -> ExampleEvaluation:
    """A mean over collections with the metrics of each added, named as by NanoBEIREvaluator."""
    statistics = evaluation.settings["statistics"]
    each = {
        f"{name}_{metric}": float(rows[column].mean())
        for name, rows in evaluation.per_example.groupby("collection", sort=False)
        for metric, (_, column) in statistics.items()
    }
    named = {f"{evaluation.name}_{metric}": value for metric, value in evaluation.metrics.items()}
    return replace(evaluation, metrics={**evaluation.metrics, **named, **each})


def examples_sha256(table: pd.DataFrame) -> str:
    """Hash of all ids, texts and gold values; equal hashes mean the same examples."""
    digest = hashlib.sha256()
    for row in table[["item_id", *input_columns(table), "gold"]].itertuples(index=False):
        digest.update(f"{json.dumps(list(row), ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --- in a run folder ------------------------------------------------------------------------------------------------


def save_examples(run_path: str | Path, name: str, stage: str, evaluation: ExampleEvaluation) -> str:
    """Store an evaluation in a run folder; returns the folder's name.

    Raises DataError where `stage` is invalid, or where `name` holds other examples.
    """
    check_stage(stage)
    safe, run = folder_name(name), Run(Path(run_path))
    table = evaluation.per_example
    fixed = ["item_id", *input_columns(table), "gold"]
    path, wanted = run.file("items", safe), evaluation.settings["items_sha256"]
    known = path.exists()
    if run.file("queries", safe).exists() or (known and examples_sha256(run.table("items", safe)) != wanted):
        raise DataError(
            f"expected the items of {evaluation.name!r} in {str(path.parent)!r}, found those of another evaluation; "
            "store this one under another name."
        )
    if not known:
        write_parquet(path, table[fixed])
    values = table[["item_id", *table.columns.difference(fixed, sort=False)]]
    save_stage(run, safe, stage, values, evaluation.metrics, evaluation.settings)
    return safe


def has_examples(run: Run, name: str) -> bool:
    """Whether an evaluation of a run is one of examples, not a search."""
    return run.file("items", name).is_file()


def read_examples(run: Run, name: str, stage: str) -> pd.DataFrame:
    """`ExampleEvaluation.per_example` as stored. Raises RunError where a file is missing or damaged."""
    return run.joined("items", name, stage, "item_id")


def unit(run: Run, name: str) -> str:
    """What was measured one by one, in the plural: "queries", "pairs", "triplets"."""
    return str(run.settings(name, "after").get("unit") or "queries")


def evaluation_size(run: Run, name: str) -> int:
    """How many queries or examples an evaluation has."""
    return int(run.settings(name, "after").get("items") or 0) or len(run.per_query(name, "after"))


@dataclass(frozen=True)
class MetricValues:
    """One metric of a stored evaluation, and its value for each query or example."""

    after: float
    before: float | None = None
    values: Any = None  # (examples,) after training; None where nothing was stored per example
    earlier: Any = None  # (examples,) before training, in the same order
    ranks: Any = None  # (queries,) of the first relevant document, infinite beyond the depth kept; None for examples
    earlier_ranks: Any = None  # (queries,) before training
    statistic: str = "mean"  # one of statistics.STATISTICS, which gives the metric from gold and values
    gold: Any = None  # (examples,)


def stored_statistics(run: Run, name: str, stage: str) -> dict[str, tuple[str, str]]:
    """Metric -> the statistic that it is, and of which column of `read_examples`.

    Raises RunError where there is none, or a statistic or column that is not there.
    """
    from workbench.evaluation.statistics import STATISTICS

    found, columns = run.settings(name, stage).get("statistics") or {}, read_examples(run, name, stage).columns
    if found and all(len(each) == 2 and each[0] in STATISTICS and each[1] in columns for each in found.values()):
        return {metric: (statistic, column) for metric, (statistic, column) in found.items()}
    raise RunError(f"expected statistics of the columns of {name!r}, {stage}, in its settings, found {found!r:.200}.")


def metric_values(run: Run, name: str, last: str = "after") -> dict[str, MetricValues]:
    """Metric -> its stored values, also of a search, at the stage `last` and before training.

    Raises RunError where the evaluation cannot be read.
    """
    stages = [stage for stage in (last, "before") if stage in run.evaluations()[name]]
    metrics = {stage: run.metrics(name, stage) for stage in stages}
    statistics: Mapping[str, Sequence[str]]
    if has_examples(run, name):
        identity, statistics = "item_id", stored_statistics(run, name, last)
        tables = {stage: read_examples(run, name, stage) for stage in stages}
    else:
        identity, statistics = "query_id", {metric: ["mean", metric.partition("_")[2]] for metric in metrics[last]}
        tables = {last: run.per_query(name, last)} | {each: run.table("values", name, each) for each in stages[1:]}
    table = tables[last]
    earlier = tables["before"].set_index(identity).reindex(table[identity]) if "before" in tables else None

    def column_of(of: pd.DataFrame | None, column: str, missing: float = np.nan) -> Any:
        return of[column].to_numpy(dtype=float, na_value=missing) if of is not None and column in of else None

    ranks, earlier_ranks = (column_of(each, "rank", np.inf) for each in (table, earlier))

    found = {}
    for metric, value in metrics[last].items():
        statistic, column = statistics.get(metric, ("mean", ""))
        found[metric] = MetricValues(
            after=value,
            before=metrics.get("before", {}).get(metric),
            values=column_of(table, column),
            earlier=column_of(earlier, column) if column in table else None,
            statistic=statistic,
            gold=column_of(table, "gold"),
            ranks=ranks,
            earlier_ranks=earlier_ranks,
        )
    return found


def example_changes(run: Run, name: str, metric: str | None = None) -> tuple[str, pd.DataFrame]:
    """The change of each example, and the metric: the main one where the evaluation has no `metric`.

    Columns: item_id, the texts, gold (NaN where examples have none), score_before and score_after (what the metric is
    computed from), before and after (how right that is, 0 to 1, see `statistics.agreement`), difference.
    """
    from workbench.evaluation.statistics import MEANS, agreement

    statistics = stored_statistics(run, name, "after")
    wanted = (metric, run.settings(name, "after").get("main_metric"), *statistics)
    chosen = next(each for each in wanted if each in statistics)
    statistic, column = statistics[chosen]
    first, last = read_examples(run, name, "before").set_index("item_id"), read_examples(run, name, "after")
    if column not in first:
        raise RunError(f"expected {column!r} of each example of {name!r} before training, found none; train again.")
    table = last[["item_id", *input_columns(last), "gold"]].copy()
    table["score_before"] = first[column].reindex(last["item_id"]).to_numpy(dtype=float)
    table["score_after"] = last[column].to_numpy(dtype=float)
    for stage in ("before", "after"):
        table[stage] = agreement(statistic, last["gold"], table[f"score_{stage}"])
    table["difference"] = table["after"] - table["before"]
    if statistic in MEANS:
        table["gold"] = np.nan
    return chosen, table
