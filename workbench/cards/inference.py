"""What several rules read out of a card: arguments as numbers, versions, the runs in its log, its softmax loss.

Nothing here judges. A function gives None or an empty tuple where the card does not say.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from workbench.cards.card import Card, ColumnStatistics, Dataset, LogRow, Loss, Module
from workbench.cards.steps_per_epoch import Epoch, epoch_of

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""Columns that sentence-transformers hands to a loss as labels and not as text."""

FIRST_OF_TEXT = ("string", "str", "large_string")


# ---------------------------------------------------------------------------------------------- arguments, versions


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


def line_of(card: Card, *names: str) -> list[int | None]:
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


def between(found: Version | None, first: tuple[int, ...], before: tuple[int, ...]) -> bool:
    """Whether first <= found < before. A development version of `before` may or may not have the change: False.

    >>> between(Version((3, 3, 1)), (3, 0, 0), (3, 4, 0)), between(Version((3, 4, 0), True), (3, 0, 0), (3, 4, 0))
    (True, False)
    """
    return found is not None and first <= found.numbers < before


def version_lines(card: Card, *packages: str) -> list[int | None]:
    return [stated.line for package in packages if (stated := card.versions.get(package)) is not None]


# ------------------------------------------------------------------------------------------------------- datasets


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


def trained(card: Card) -> bool:
    """Whether the card tells of a training at all (a bare model has nothing to audit there)."""
    return bool(card.training_datasets() or card.training_log or card.hyperparameters or card.non_default)


def sizes(card: Card) -> tuple[int, ...] | None:
    """Rows of each training dataset; None where one does not say."""
    found = tuple(dataset.size for dataset in card.training_datasets())
    known = tuple(size for size in found if size)
    return known if found and len(known) == len(found) else None


# ----------------------------------------------------------------------------------------------------------- log


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


def losses(rows: Iterable[LogRow]) -> list[tuple[LogRow, float]]:
    """Rows with a training loss, and it."""
    return [(row, row.training_loss) for row in rows if row.training_loss is not None]


def finite(rows: Iterable[LogRow]) -> list[tuple[LogRow, float]]:
    return [(row, value) for row, value in losses(rows) if math.isfinite(value)]


@lru_cache(maxsize=1024)
def is_loss(column: str) -> bool:
    """Whether a column of the log holds a loss (of an evaluation dataset) and not a metric."""
    return column.lower() in ("loss", "validation loss") or column.lower().endswith((" loss", "_loss"))


def validation(rows: Iterable[LogRow]) -> dict[str, list[tuple[LogRow, float]]]:
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


def epoch(card: Card) -> Epoch | None:
    """Batches per epoch as the last run of the log shows them."""
    rows = tuple((row.epoch, row.step) for row in last_run(card) if row.epoch is not None and row.step is not None)
    return epoch_of(rows, accumulation(card))


def planned_steps(card: Card) -> int | None:
    """Optimizer steps of the whole run: max_steps, or epochs times steps per epoch (from the log, else from sizes)."""
    most = number(card, "max_steps")
    if most and most > 0:
        return int(most)
    epochs = number(card, "num_train_epochs")
    if epochs is None and not card.hyperparameters:
        return None
    epochs = 3 if epochs is None else epochs
    found = epoch(card)
    if found:
        return math.ceil(epochs * found.steps(found.batches[0])[0])
    rows, batch = sizes(card), batch_size(card)
    if not rows or not batch:
        return None
    batches = math.ceil(sum(rows) / batch)
    if len(rows) > 1 and argument(card, "multi_dataset_batch_sampler") == "round_robin":
        batches = min(math.ceil(size / batch) for size in rows) * len(rows)
    return math.ceil(epochs * max(math.ceil(batches / accumulation(card)), 1))


def logging_steps(card: Card) -> int:
    """Steps between two rows with a loss: as stated, else as most rows show, else the trainer's default of 500."""
    stated = number(card, "logging_steps")
    if stated and stated >= 1:
        return int(stated)
    steps = [row.step for row, _ in losses(card.training_log) if row.step]
    gaps = sorted(b - a for a, b in itertools.pairwise(steps) if b > a)
    return gaps[len(gaps) // 2] if gaps else (steps[0] if steps else 500)


# ---------------------------------------------------------------------------------------------- fit(), architecture


@dataclass(frozen=True)
class Fit:
    """Marks of the old `model.fit()` on a card."""

    sure: bool
    marks: tuple[str, ...]
    lines: tuple[int | None, ...]


def fit_marks(card: Card) -> Fit | None:
    """Whether `fit()` trained the model: it renames columns to sentence_0, sentence_1, ... and fixes some arguments.

    It never passes a learning rate on, so a card with one among its non-default arguments was not written by it.
    """
    datasets = card.training_datasets()
    renamed = [
        dataset
        for dataset in datasets
        if (columns := [c for c in dataset.columns if c not in LABEL_COLUMNS])
        and all(re.fullmatch(r"sentence_\d+", column) for column in columns)
    ]
    passed_on = {"learning_rate", "weight_decay", "warmup_ratio", "warmup_steps", "lr_scheduler_type", "optim"}
    if not datasets or len(renamed) < len(datasets) or passed_on & set(card.non_default):
        return None
    marks = [f"columns {', '.join(renamed[0].columns)}"]
    lines = [fact_line(renamed[0], "columns")]
    if argument(card, "multi_dataset_batch_sampler") == "round_robin":
        marks.append("multi_dataset_batch_sampler round_robin")
        lines += line_of(card, "multi_dataset_batch_sampler")
    clip = argument(card, "max_grad_norm")
    if isinstance(clip, int) and not isinstance(clip, bool):
        marks.append(f"max_grad_norm printed as the integer {clip}")
        lines += line_of(card, "max_grad_norm")
    return Fit(len(marks) > 1, tuple(marks), tuple(lines))


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


def beside(card: Card, name: str) -> tuple[str, Any] | None:
    """A file beside the card by the end of its name: (name, content)."""
    for key, content in card.beside.items():
        base = key.rsplit("/", 1)[-1]
        if "/" not in key and (base == name or base.endswith((f".{name}", f"-{name}"))):
            return key, content
    return None


def lora_config(card: Card) -> tuple[str, Mapping[str, Any]] | None:
    """adapter_config.json beside the card."""
    found = beside(card, "adapter_config.json")
    return found if found and isinstance(found[1], Mapping) else None


# ----------------------------------------------------------------------------------------------------------- losses

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


def bare(name: str) -> str:
    """Class name without its package.

    >>> bare("pylate.losses.contrastive.Contrastive")
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


@dataclass(frozen=True)
class Softmax:
    """The one softmax loss of a card, ready for arithmetic."""

    dataset: Dataset
    root: Loss  # the outermost loss
    loss: Loss  # the softmax loss itself
    batch: int  # rows per device
    candidates: int  # per anchor, on one device
    scale: float  # as printed, else the library's default
    scale_stated: bool
    similarity: str | None  # as printed
    factor: float  # how many such losses are added up (Matryoshka dimensions times weights)
    path: str  # of the softmax loss in a recipe

    @property
    def bounded(self) -> bool:
        """Whether the similarity is known to lie in [-1, 1]."""
        return self.similarity in ("cos_sim", "pairwise_cos_sim", "cosine", None)


def softmax(card: Card) -> Softmax | None:
    """The card's softmax loss, when it has exactly one training dataset and a loss whose value can be reckoned.

    None for several datasets (their losses mix in one column), other losses, cross-encoders (theirs draws a few
    negatives from the batch), and variants with hardness weights or other directions, whose bands differ.
    """
    datasets = card.training_datasets()
    batch = batch_size(card)
    if len(datasets) != 1 or datasets[0].loss is None or not batch or card.kind == "cross-encoder":
        return None
    dataset, root = datasets[0], datasets[0].loss
    chain = list(root.chain())
    node = next((found for found in chain if bare(found.name) in SOFTMAX), None)
    columns = len(text_columns(dataset))
    if node is None or columns < 2:
        return None
    factor = 1.0
    for wrapper in chain[: chain.index(node)]:
        if bare(wrapper.name) != "MatryoshkaLoss":
            return None
        factor *= _dimensions(wrapper)
    odd = [
        node.parameters.get("hardness_mode"),
        node.parameters.get("partition_mode") not in (None, "joint"),
        node.parameters.get("directions") not in (None, ["query_to_doc"], ("query_to_doc",)),
        "Symmetric" in node.name and columns > 2,
        node.parameters.get("gather_across_devices"),
    ]
    scale = node.parameters.get("scale")
    if any(odd) or (scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float))):
        return None
    similarity = node.parameters.get("similarity_fct")
    return Softmax(
        dataset=dataset,
        root=root,
        loss=node,
        batch=batch,
        candidates=batch * (columns - 1),
        scale=20.0 if scale is None else float(scale),
        scale_stated=scale is not None,
        similarity=None if similarity is None else str(similarity),
        factor=factor,
        path=loss_path(card, dataset, node),
    )


def _dimensions(wrapper: Loss) -> float:
    """How many times a MatryoshkaLoss adds its inner loss up."""
    dims = wrapper.parameters.get("matryoshka_dims")
    weights = wrapper.parameters.get("matryoshka_weights")
    per_step = wrapper.parameters.get("n_dims_per_step", -1)
    if not isinstance(dims, list) or not dims:
        return 1.0
    total = float(sum(weights)) if isinstance(weights, list) and len(weights) == len(dims) else float(len(dims))
    if isinstance(per_step, int) and 0 < per_step < len(dims):
        return total * per_step / len(dims)
    return total


SUMMING = (((4, 46, 0), (4, 46, 2)), ((4, 48, 1), (4, 53, 0)))
"""transformers versions that log the sum of the micro-batches' losses."""


def sums_accumulation(card: Card) -> bool:
    """Whether the trainer's version adds the micro-batches' losses up where it should take their mean.

    transformers 4.48.1 to 4.52 divides by gradient_accumulation_steps only when the model's `forward` takes no keyword
    arguments; SentenceTransformer and CrossEncoder take them, and their losses do not divide either. 4.46.0 and 4.46.1
    multiply before they divide. Read in the sources of these versions and of those between; see also
    https://github.com/huggingface/transformers/issues/37766.
    """
    library, trainer = version(card, "Sentence Transformers"), version(card, "Transformers")
    summing = any(between(trainer, first, before) for first, before in SUMMING)
    return accumulation(card) > 1 and summing and (library is None or library.numbers >= (3, 1, 0))
