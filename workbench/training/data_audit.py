"""The rules of the audit that can be asked of rows, asked before they train.

A rule reads a card, so the rows are described as a card describes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.audit.rules_data import label_ignored, label_range, prompts_in_texts
from workbench.cards.card import Card, ColumnStatistics, Dataset, Loss
from workbench.data.checks import evenly_spaced
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.pairs import Check, Pairs, Splits
from workbench.recipe.schema import LossSpec, Recipe

ROWS_SHOWN = 200


def audit_rows(recipe: Recipe, splits: Splits, card: Card | None) -> list[Check]:
    """What the rules find in the rows; an error is a warning where the card has the same, which is then reproduced."""
    rules = (label_range, label_ignored) if recipe.training.prompts else (label_range, label_ignored, prompts_in_texts)
    known = {found.code for rule in rules for found in (() if card is None else rule(card))}
    datasets = [_described(recipe.data.name, recipe.loss, [*splits.parts().values()])]
    for each in recipe.data.more:
        parts = [some[each.name] for some in (splits.more, splits.more_held_out) if each.name in some]
        datasets.append(_described(each.name, each.loss or recipe.loss, parts))
    rows = Card(name=recipe.name, kind="sentence-transformer", datasets=tuple(datasets))
    checks = []
    for found in (found for rule in rules for found in rule(rows)):
        severity = "warning" if found.severity == "error" and found.code in known else found.severity
        advice = " Change the labels or the loss before training." if severity == "error" else ""
        checks.append(Check(severity, f"{found.message}{advice}"))
    return checks


def _described(name: str | None, loss: LossSpec, parts: Sequence[Pairs]) -> Dataset:
    """The rows as a card describes a dataset: the range of its labels, and some of its texts."""
    first = parts[0]
    statistics = []
    for column in (column for column in first.columns if column in LABEL_COLUMNS):
        labels = [label for part in parts for label in part.rows[column]]
        kind = "int" if all(isinstance(label, int) for label in labels) else "float"
        statistics.append(ColumnStatistics(column, kind, {"min": min(labels), "max": max(labels)}))
    texts = [column for column in first.columns if column not in LABEL_COLUMNS]
    samples = zip(*(evenly_spaced(first, column, ROWS_SHOWN) for column in texts), strict=True)
    return Dataset(
        "train",
        name,
        size=len(first),
        columns=first.columns,
        statistics=tuple(statistics),
        samples=tuple(dict(zip(texts, sample, strict=True)) for sample in samples),
        loss=_loss(loss),
    )


def _loss(spec: LossSpec) -> Loss:
    return Loss(spec.name, spec.parameters, None if spec.inner is None else _loss(spec.inner))
