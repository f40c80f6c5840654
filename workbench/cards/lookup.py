"""Facts of a card in the form in which rules and recipes need them: arguments as numbers, versions, log series.

Nothing is inferred or judged here. A function gives None or an empty collection where the card does not say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from workbench.cards.card import Card, ColumnStatistics, Dataset, LogRow, Loss, Module

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""Columns that sentence-transformers hands to a loss as labels and not as text."""


FIRST_OF_TEXT = ("string", "str", "large_string")


def argument(card: Card, name: str) -> Any:
    """Value of a training argument; None where the card has none (or prints None)."""
    stated = card.argument(name)
    return None if stated is None else stated.value


def number(card: Card, name: str) -> float | None:
    """A training argument as a finite number, else None. True and False are no numbers."""
    value = argument(card, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def argument_lines(card: Card, *names: str) -> list[int | None]:
    """Lines of training arguments."""
    return [stated.line for name in names if (stated := card.argument(name)) is not None]


def batch_size(card: Card) -> int | None:
    """Rows per device and forward pass."""
    value = number(card, "per_device_train_batch_size")
    if value is None:
        value = number(card, "train_batch_size")
    return int(value) if value and value >= 1 else None


def accumulation(card: Card) -> int:
    return max(int(number(card, "gradient_accumulation_steps") or 1), 1)


@dataclass(frozen=True, order=True)
class Version:
    """A released version as comparable numbers; a development version sorts with its release but is not one."""

    numbers: tuple[int, ...]
    development: bool = False

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + (".dev" if self.development else "")


def version(card: Card, package: str) -> Version | None:
    """Version of `package` ("Sentence Transformers", "Transformers", "PyLate") on the card.

    >>> card = Card(name="x", kind="unknown", library_version="3.4.0.dev0")
    >>> version(card, "Sentence Transformers")
    Version(numbers=(3, 4, 0), development=True)
    """
    stated = card.versions.get(package)
    text = stated.value if stated else None
    if text is None and package == "Sentence Transformers" and "PyLate" not in card.versions:
        text = card.library_version
    found = re.match(r"\s*v?(\d+(?:\.\d+)*)(.*)", text or "")
    if not found:
        return None
    numbers = tuple(int(part) for part in found[1].split("."))[:3]
    return Version((*numbers, 0, 0)[: max(3, len(numbers))], bool(re.search(r"dev|rc|a\d|b\d", found[2])))


def in_range(found: Version | None, first: tuple[int, ...], before: tuple[int, ...]) -> bool:
    """Whether first <= found < before. A development version of `before` may or may not have the change: False.

    >>> in_range(Version((3, 3, 1)), (3, 0, 0), (3, 4, 0)), in_range(Version((3, 4, 0), True), (3, 0, 0), (3, 4, 0))
    (True, False)
    """
    return found is not None and first <= found.numbers < before


def version_lines(card: Card, *packages: str) -> list[int | None]:
    return [stated.line for package in packages if (stated := card.versions.get(package)) is not None]


def text_columns(dataset: Dataset) -> tuple[str, ...]:
    """Columns a loss reads as texts: all but labels."""
    kinds = {found.column: found.type for found in dataset.statistics}
    return tuple(
        column
        for column in dataset.columns
        if column.lower() not in LABEL_COLUMNS and kinds.get(column) in (None, *FIRST_OF_TEXT, "list")
    )


def label_statistics(dataset: Dataset) -> ColumnStatistics | None:
    """Statistics of the label column, where there is one."""
    return next((found for found in dataset.statistics if found.column.lower() in LABEL_COLUMNS), None)


def label_values(statistics: ColumnStatistics) -> dict[float, float] | None:
    """Share of each label value, where the card prints shares (integer labels).

    >>> label_values(ColumnStatistics("label", "int", {"0": "~69.50%", "1": "~30.50%"}))
    {0.0: 0.695, 1.0: 0.305}
    """
    shares: dict[float, float] = {}
    for key, value in statistics.details.items():
        try:
            label = float(str(key))
        except ValueError:
            return None
        if isinstance(value, str):
            found = re.search(r"([\d.]+)\s*%", value)
            if not found:
                return None
            shares[label] = round(float(found[1]) / 100, 6)
        elif isinstance(value, int | float):
            shares[label] = float(value) / (100 if value > 1 else 1)
    return shares or None


def label_range(statistics: ColumnStatistics) -> tuple[float, float] | None:
    """Lowest and highest label, from min and max or from the values listed."""
    low, high = statistics.details.get("min"), statistics.details.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return float(low), float(high)
    shares = label_values(statistics)
    return (min(shares), max(shares)) if shares else None


def fact_line(dataset: Dataset, name: str) -> int | None:
    """Line of one fact of a dataset, else the first line of its part."""
    return dataset.facts.get(name) or (dataset.lines[0] if dataset.lines else None)


def has_trainer(card: Card) -> bool:
    """Whether the card was written by the trainer of library 3.0 or later, which logs and lists its arguments."""
    library = version(card, "Sentence Transformers")
    by_trainer = card.argument("per_device_train_batch_size") or card.argument("seed")
    return by_trainer is not None and (library is None or library.numbers >= (3, 0, 0))


def has_training(card: Card) -> bool:
    """Whether the card tells of a training at all (a bare model has nothing to audit there)."""
    return bool(card.training_datasets() or card.training_log or card.hyperparameters or card.non_default)


def sizes(card: Card) -> tuple[int, ...] | None:
    """Rows of each training dataset; None where one does not say."""
    found = tuple(dataset.size for dataset in card.training_datasets())
    known = tuple(size for size in found if size)
    return known if found and len(known) == len(found) else None


def runs(card: Card) -> tuple[tuple[LogRow, ...], ...]:
    """The log cut where its steps start again; evaluations outside training (step -1) are left out."""
    parts: list[list[LogRow]] = [[]]
    for row in card.training_log:
        if row.step is None or row.step < 0:
            continue
        if parts[-1] and row.step < (parts[-1][-1].step or 0):
            parts.append([])
        parts[-1].append(row)
    return tuple(tuple(part) for part in parts if part)


def last_run(card: Card) -> tuple[LogRow, ...]:
    """Rows of the last run: the one that the arguments on the card belong to."""
    parts = runs(card)
    return parts[-1] if parts else ()


def training_losses(rows: Iterable[LogRow]) -> list[tuple[LogRow, float]]:
    """Rows with a training loss, and it."""
    return [(row, row.training_loss) for row in rows if row.training_loss is not None]


def finite_losses(rows: Iterable[LogRow]) -> list[tuple[LogRow, float]]:
    return [(row, value) for row, value in training_losses(rows) if math.isfinite(value)]


@lru_cache(maxsize=1024)
def is_loss(column: str) -> bool:
    """Whether a column of the log holds a loss (of an evaluation dataset) and not a metric."""
    return column.lower() in ("loss", "validation loss") or column.lower().endswith((" loss", "_loss"))


def validation_losses(rows: Iterable[LogRow]) -> dict[str, list[tuple[LogRow, float]]]:
    """Every validation loss of the log: name -> rows and finite values."""
    found: dict[str, list[tuple[LogRow, float]]] = {}
    for row in rows:
        if row.validation_loss is not None and math.isfinite(row.validation_loss):
            found.setdefault("Validation Loss", []).append((row, row.validation_loss))
        for name, value in row.metrics.items():
            if value is not None and is_loss(name) and math.isfinite(value):
                found.setdefault(name, []).append((row, value))
    return found


def metrics(rows: Iterable[LogRow]) -> dict[str, list[tuple[LogRow, float]]]:
    """Every metric column of the log: name -> rows and finite values, in order."""
    found: dict[str, list[tuple[LogRow, float]]] = {}
    for row in rows:
        for name, value in row.metrics.items():
            if value is not None and not is_loss(name) and math.isfinite(value):
                found.setdefault(name, []).append((row, value))
    return found


def main_metric(card: Card, rows: Iterable[LogRow]) -> tuple[str, list[tuple[LogRow, float]]] | None:
    """The metric that tells checkpoints apart: the only column, the one named mean or sequential, or the mean of all.

    None where columns measure different things and none is their mean.
    """
    columns = {name: series for name, series in metrics(rows).items() if len(series) > 1}
    if not columns:
        return None
    if len(columns) == 1:
        return next(iter(columns.items()))
    for name, series in columns.items():
        if "_mean_" in name or "sequential_score" in name:
            return name, series
    kinds = {metric_of(card, name) for name in columns}
    steps = {tuple(row.step for row, _ in series) for series in columns.values()}
    if len(kinds) > 1 or len(steps) > 1:
        return None
    first = next(iter(columns.values()))
    means = [fmean(series[at][1] for series in columns.values()) for at in range(len(first))]
    return f"mean {kinds.pop()}", [(row, mean) for (row, _), mean in zip(first, means, strict=True)]


def metric_of(card: Card, column: str) -> str:
    """The metric's own name: the column of the log without the evaluation's name."""
    names = {name for found in card.evaluations for name in found.datasets}
    for name in sorted(names, key=len, reverse=True):
        if column.startswith(f"{name}_"):
            return column[len(name) + 1 :]
    known = re.search(
        r"(?:(?:cosine|dot|euclidean|manhattan|max|maxsim)_)?(?:ndcg|mrr|map|accuracy|precision|recall)@\d+$"
        r"|(?:pearson|spearman)(?:_\w+)?$|(?:(?:cosine|dot|euclidean|manhattan|max|maxsim)_)(?:ap|f1|accuracy|mcc)$",
        column,
    )
    return known[0] if known else column


def module(card: Card, *types: str) -> Module | None:
    """First module of one of these types."""
    return next((found for found in card.modules if found.type in types), None)


def is_static(card: Card) -> bool:
    return module(card, "StaticEmbedding") is not None


def static_table(card: Card) -> tuple[int, int | None] | None:
    """Dimensions of the embedding table of a static model, and the line that says so.

    >>> table = Module(0, "StaticEmbedding", {"embedding": "EmbeddingBag(30522, 1024, mode='mean')"}, line=9)
    >>> static_table(Card(name="x", kind="sentence-transformer", modules=(table,)))
    (1024, 9)
    """
    found = module(card, "StaticEmbedding")
    if found is None:
        return None
    match = re.search(r"EmbeddingBag\(\d+, (\d+)", str(dict(found.parameters)))
    size = int(match[1]) if match else found.parameters.get("embedding_dim")
    return (size, found.line) if isinstance(size, int) else None


def adapter(card: Card) -> Module | None:
    """The module that shows a PEFT adapter."""
    return next((found for found in card.modules if found.architecture and "Peft" in found.architecture), None)


def file_beside(card: Card, name: str) -> tuple[str, Any] | None:
    """A file beside the card by the end of its name: (name, content)."""
    for key, content in card.beside.items():
        base = key.rsplit("/", 1)[-1]
        if "/" not in key and (base == name or base.endswith((f".{name}", f"-{name}"))):
            return key, content
    return None


def lora_config(card: Card) -> tuple[str, Mapping[str, Any]] | None:
    """adapter_config.json beside the card."""
    found = file_beside(card, "adapter_config.json")
    return found if found and isinstance(found[1], Mapping) else None


SOFTMAX = {
    "MultipleNegativesRankingLoss",
    "CachedMultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
}
"""Softmax over in-batch negatives with a scale; the same loss value means the same thing in all of them."""


IN_BATCH = SOFTMAX | {
    "GISTEmbedLoss",
    "CachedGISTEmbedLoss",
    "MegaBatchMarginLoss",
    "SparseMultipleNegativesRankingLoss",
}
"""Losses that take the other rows of the batch as negatives."""


def class_name(name: str) -> str:
    """Class name without its package.

    >>> class_name("pylate.losses.contrastive.Contrastive")
    'Contrastive'
    """
    return name.rsplit(".", 1)[-1]


def loss_trees(card: Card) -> list[tuple[Dataset, Loss]]:
    """Training datasets with their loss."""
    return [(dataset, dataset.loss) for dataset in card.training_datasets() if dataset.loss is not None]


def loss_path(card: Card, dataset: Dataset, node: Loss) -> str:
    """Dotted recipe path of a node of the loss tree of `dataset`: "loss", "loss.inner", "data.more.0.loss", ...

    A further dataset has a loss of its own only where it differs from the first's.

    >>> inner = Loss("MultipleNegativesRankingLoss", {})
    >>> one = Dataset("train", "a", loss=Loss("MatryoshkaLoss", {}, inner))
    >>> two = Dataset("train", "b", loss=Loss("CoSENTLoss", {}))
    >>> card = Card(name="x", kind="sentence-transformer", datasets=(one, two))
    >>> loss_path(card, one, inner), loss_path(card, two, two.loss)
    ('loss.inner', 'data.more.0.loss')
    """
    datasets = card.training_datasets()
    first = next((found.loss for found in datasets if found.loss), None)
    root = dataset.loss
    own = root is not None and first is not None and same_loss(root) != same_loss(first)
    at = next((number for number, found in enumerate(datasets) if found is dataset), 0)
    path = f"data.more.{at - 1}.loss" if own and at else "loss"
    for found in root.chain() if root else ():
        if found is node:
            break
        path += ".inner"
    return path


def same_loss(root: Loss) -> list[tuple[str, Mapping[str, Any]]]:
    """A loss tree without its lines: equal for losses that are the same."""
    return [(node.name, dict(node.parameters)) for node in root.chain()]


def in_batch_losses(card: Card) -> list[tuple[Dataset, Loss, Loss]]:
    """(dataset, outermost loss, loss with in-batch negatives) of training datasets; none of a cross-encoder's."""
    if card.kind == "cross-encoder":
        return []
    return [
        (dataset, root, node)
        for dataset, root in loss_trees(card)
        for node in root.chain()
        if class_name(node.name) in IN_BATCH
    ]
