"""The replay of a run: which numbers of its card belong to which of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cards.inference import exact_values
from workbench.errors import RunError
from workbench.evaluation.card_evaluation import card_evaluation, evaluation_label, finished_evaluations, table_stage
from workbench.evaluation.examples import evaluation_size
from workbench.evaluation.metrics import every_metric
from workbench.evaluation.replay import Number, Replay, judge_replay, judge_weights, logged_numbers, numbers_outside
from workbench.evaluation.retrieval import folder_name
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation, LogRow
    from workbench.recipe.schema import Recipe

NOISE = {"float32": 1e-4, "half": 2e-3}
"""By how much a number of published weights may differ from the card's: of another machine, or in half precision."""


def replay_of(card: Card, run: Run, recipe: Recipe) -> Replay:
    """Every number of the card beside the one of the run at the same step; of a verification, those of its tables
    beside those of the published weights."""
    columns = {name for row in card.training_log for name in row.metrics}
    pairs = _evaluations(card, recipe, run)
    names, tasks = {}, {}  # column of the card's log -> key of our log; -> our evaluation
    for task, theirs in pairs.items():
        for column in columns:
            dataset = next((each for each in theirs.datasets if column.startswith(f"{each}_")), None)
            metric = column if dataset is None else column[len(dataset) + 1 :]
            if metric in theirs.metrics and (dataset is not None or column not in names):
                names[column], tasks[column] = f"{task}_{metric}", task
    sizes = {column: evaluation_size(run, task) for column, task in tasks.items()}
    log = run.log()
    numbers = logged_numbers(card, log, names, sizes)
    sides: list[dict[str, Any]] = []
    for stage in ("before", "after"):
        values = {
            f"{task}_{metric}": value
            for task in pairs
            if stage in run.evaluations()[task]
            for metric, value in run.metrics(task, stage).items()
        }
        sides.append({column: values.get(key) for column, key in names.items()})
    outside = numbers_outside(card, sides[0], sides[1], sizes)
    verification = run.record.get("verification")
    numbers += outside if verification is None else [each for each in outside if each.stage == "before"]
    numbers = [
        _with_exchanges([each], run, tasks[each.name], f"step-{each.step}" if each.stage == "training" else each.stage)[
            0
        ]
        if each.kind == "metric"
        else each
        for each in numbers
    ]
    last = max((int(row["step"]) for row in log), default=0)
    for task, theirs in pairs.items():
        numbers += _table_numbers(card, theirs, run, task, last)
    if verification is None:
        return judge_replay(card, numbers, _departures(card, run, recipe))
    wanted, noise = verification.get("metric"), NOISE[verification["precision"]]
    numbers = [replace(each, noise=noise) for each in numbers if wanted is None or each.name.endswith(wanted)]
    causes = [str(each["sentence"]) for each in verification.get("causes") or ()]
    return judge_weights(numbers, _same_row(card, sides[1], noise), causes)


def _same_row(card: Card, ours: Mapping[str, float | None], noise: float) -> LogRow | None:
    """The last row of the card's log whose metrics are ours: the weights may be those of another step."""
    for row in reversed(card.training_log):
        pairs = [(value, ours[name]) for name, value in row.metrics.items() if value is not None and name in ours]
        known = [(theirs, own) for theirs, own in pairs if own is not None]
        if known and (row.step or 0) > 0 and all(abs(theirs - own) <= noise for theirs, own in known):
            return row
    return None


def _evaluations(card: Card, recipe: Recipe, run: Run) -> dict[str, Evaluation]:
    """The run's evaluation -> the card's that it repeats, on examples that are known to be the card's.

    Where a run's evaluation has the name of the card's, no other repeats that one.
    """
    found, named = {}, []
    for name in finished_evaluations(run):
        theirs = card_evaluation(card, recipe, run, name)[0]
        if theirs is not None and same_examples(run, name):
            found[name] = theirs
            named += [id(theirs)] if name in map(folder_name, theirs.datasets) else []
    return {
        name: theirs
        for name, theirs in found.items()
        if id(theirs) not in named or name in map(folder_name, theirs.datasets)
    }


def _table_numbers(card: Card, theirs: Evaluation, run: Run, task: str, last: int) -> list[Number]:
    """The printed table, unrounded where model-index has it, beside our evaluation at the step that it came from."""
    stage, exact, size = table_stage(card, theirs, run, task), exact_values(card, theirs), evaluation_size(run, task)
    ours, label = run.metrics(task, stage), evaluation_label(theirs)
    step = int(stage.removeprefix("step-")) if stage.startswith("step-") else last
    numbers = [
        Number(
            name=f"{label} {metric}",
            kind="metric",
            stage="after",
            step=step,
            card=exact.get(metric, value),
            ours=ours[metric],
            line=theirs.metric_lines.get(metric),
            exact=metric in exact,
            examples=size,
        )
        for metric, value in theirs.metrics.items()
        if metric in ours and math.isfinite(value)
    ]
    return _with_exchanges(numbers, run, task, stage)


SAME_SCORE = 5e-6  # of two documents: rounding decides which of them comes first


def _with_exchanges(numbers: list[Number], run: Run, task: str, stage: str) -> list[Number]:
    """The numbers of one search with what they can be if documents of nearly one score change places, where they are
    not the card's without."""
    if all(each.equal for each in numbers) or not run.file("hits", task, stage).is_file():
        return numbers
    hits, table = run.table("hits", task, stage), run.table("values", task, stage).set_index("query_id")
    if "ranks" not in table or set(hits["query_id"]) != set(table.index):
        raise RunError(f"expected rankings of the queries of {task!r}, {stage}, found others; evaluate again.")
    counts = table["ranks"].map(len)
    sides: list[dict[str, float]] = []
    for sign in (-1, 1):  # each relevant document behind, and before, those of nearly its score
        moved = hits["score"] + sign * SAME_SCORE * hits["score"].abs().clip(lower=1) * hits["relevant"]
        order = hits.assign(moved=moved).sort_values(["query_id", "moved"], ascending=[True, False], kind="stable")
        gains = [each.to_numpy(dtype=float) for _, each in order.groupby("query_id")["relevant"]]
        values = [every_metric(row, count) for row, count in zip(gains, counts.sort_index(), strict=True)]
        sides.append({metric: float(np.mean([each[metric] for each in values])) for metric in values[0]})
    found = []
    for each in numbers:
        metric = next((metric for metric in sides[0] if each.name.endswith(f"_{metric}")), None)
        low, high = (side.get(metric or "") for side in sides)
        found.append(replace(each, low=low, high=high) if "graded" not in each.name else each)
    return found


def _departures(card: Card, run: Run, recipe: Recipe) -> list[str]:
    """What is known to prevent an exact replay."""
    found = []
    for name, key in (("PyTorch", "torch"), ("Sentence Transformers", "sentence-transformers")):
        theirs, ours = card.versions.get(name), str((run.record.get("versions") or {}).get(key) or "")
        if theirs is not None and ours and str(theirs.value) != ours:
            found.append(f"the card's {name} is {theirs.value}, ours {ours}")
    stated = card.argument("seed")
    if stated is not None and stated.value != recipe.training.seed:
        found.append(f"the card's seed is {stated.value}, ours {recipe.training.seed}")
    precision = str(run.record.get("precision") or recipe.training.precision)
    if precision != recipe.training.precision:
        found.append(f"the card's precision is {recipe.training.precision}, ours {precision}")
    if recipe.training.engine != "trainer":
        found.append("the fast engine replays without dropout only")
    found += [each["sentence"] for each in run.record.get("identity") or () if each.get("ok") is False]
    return found


def same_examples(run: Run, name: str) -> bool:
    """Whether the examples of an evaluation are known to be the card's own; older runs did not record it."""
    return bool(((run.record.get("examples") or {}).get(name) or {}).get("same"))
