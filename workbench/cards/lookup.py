"""Facts of a card in the form in which rules and recipes need them: arguments as numbers, versions, log columns.

Nothing is inferred or judged here. A function returns None or an empty collection where the card does not say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any, TypeGuard

from workbench.cards.card import Card, ColumnStatistics, Dataset, Evaluation, LogRow, Loss, Module
from workbench.cards.literals import real

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""Columns that sentence-transformers passes to a loss as labels and not as text."""

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

POINTER = "a Git LFS pointer instead of the file; `git lfs pull` fetches the file"
"""Reason why a file beside a card was not read."""

SECOND = "a second card begins here: give each card a file of its own"
"""Reason why the end of a file was not read."""

Series = list[tuple[LogRow, float]]  # rows of the log with a finite value of one column, in order


def argument(card: Card, name: str) -> Any:
    """Value of a training argument; None where the card has none (or prints None)."""
    stated = card.argument(name)
    return None if stated is None else stated.value


def number(card: Card, name: str) -> float | None:
    """A training argument as a finite number; True and False are none."""
    value = argument(card, name)
    return value if _is_amount(value) else None


def _is_amount(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def epochs(card: Card) -> float | None:
    """Declared epochs: as the trainer prints them, else as SetFit does (of the body, then of the head).

    3, the trainer's default, where the trainer wrote the card without them.
    """
    stated = argument(card, "num_epochs")
    stated = stated[0] if isinstance(stated, list) and stated else stated
    default = 3 if card.hyperparameters and has_trainer(card) else None
    return next(filter(_is_amount, (number(card, "num_train_epochs"), stated, default)), None)


def argument_lines(card: Card, *names: str) -> list[int | None]:
    return [stated.line for name in names if (stated := card.argument(name)) is not None]


def batch_size(card: Card) -> int | None:
    """Rows per device and forward pass."""
    value = number(card, "per_device_train_batch_size")
    value = number(card, "train_batch_size") if value is None else value
    return int(value) if value and value >= 1 else None


def accumulation(card: Card) -> int:
    """Forward passes per optimizer step."""
    return max(int(number(card, "gradient_accumulation_steps") or 1), 1)


def has_trainer(card: Card) -> bool:
    """Whether the trainer of library 3.0 or later wrote the card: it logs and lists its arguments."""
    library = version(card, "Sentence Transformers")
    by_trainer = card.argument("per_device_train_batch_size") or card.argument("seed")
    return by_trainer is not None and card.kind != "setfit" and (library is None or library.numbers >= (3, 0, 0))


def has_training(card: Card) -> bool:
    """Whether the card describes a training at all."""
    return bool(card.training_datasets() or card.training_log or card.hyperparameters or card.non_default)


_TRAINING = re.compile(r"\b(?:fine-?tun|trained on|training (?:data|set|proc|ran|took)|epochs?\b|learning rate)", re.I)


def untold_training(card: Card) -> list[int]:
    """Lines about a training that were not understood."""
    parts = [range(part.lines[0], part.lines[1] + 1) for part in card.unread if part.section not in card.beside]
    return [
        line for part in parts for line in part if line <= len(card.lines) and _TRAINING.search(card.lines[line - 1])
    ]


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
    found = re.match(r"\s*v?(\d{1,9}(?:\.\d{1,9})*)(.*)", text or "")
    numbers = (*map(int, found[1].split(".")), 0, 0)[:3] if found else ()
    return Version(numbers, bool(re.search(r"dev|rc|a\d|b\d", found[2]))) if found else None


def in_range(found: Version | None, first: tuple[int, ...], before: tuple[int, ...]) -> bool:
    """Whether first <= found < before; a development version of `before` may have the change already: False.

    >>> in_range(Version((3, 3, 1)), (3, 0, 0), (3, 4, 0)), in_range(Version((3, 4, 0), True), (3, 0, 0), (3, 4, 0))
    (True, False)
    """
    return found is not None and first <= found.numbers < before


def version_lines(card: Card, *packages: str) -> list[int | None]:
    return [stated.line for package in packages if (stated := card.versions.get(package)) is not None]


def sizes(card: Card) -> tuple[int, ...] | None:
    """Rows of each training dataset; None where one does not say."""
    found = [dataset.size for dataset in card.training_datasets()]
    known = tuple(size for size in found if size)
    return known if found and len(known) == len(found) else None


def fact_line(dataset: Dataset, name: str) -> int | None:
    """Line of one fact of a dataset, else the first line of its part."""
    return dataset.facts.get(name) or (dataset.lines[0] if dataset.lines else None)


def text_columns(dataset: Dataset) -> tuple[str, ...]:
    """Columns that a loss reads as texts: all but labels."""
    kinds = {found.column: found.type for found in dataset.statistics}
    text = (None, "string", "str", "large_string", "list")
    return tuple(name for name in dataset.columns if name.lower() not in LABEL_COLUMNS and kinds.get(name) in text)


def label_statistics(dataset: Dataset) -> ColumnStatistics | None:
    return next((found for found in dataset.statistics if found.column.lower() in LABEL_COLUMNS), None)


def label_values(statistics: ColumnStatistics) -> dict[float, float] | None:
    """Share of each label value, where the card prints shares (integer labels).

    >>> label_values(ColumnStatistics("label", "int", {"0": 0.695, "1": 0.305}))
    {0.0: 0.695, 1.0: 0.305}
    """
    found = {real(label): share for label, share in statistics.details.items()}
    finite = all(label is not None and math.isfinite(label) for label in found)
    known = {label: float(share) for label, share in found.items() if label is not None and _is_amount(share)}
    return known if finite and known and len(known) == len(found) else None


def label_range(statistics: ColumnStatistics) -> tuple[float, float] | None:
    """Lowest and highest label, from min and max or from the values listed."""
    low, high = statistics.details.get("min"), statistics.details.get("max")
    if _is_amount(low) and _is_amount(high):
        return float(low), float(high)
    shares = label_values(statistics)
    return (min(shares), max(shares)) if shares else None


def runs(card: Card) -> tuple[tuple[LogRow, ...], ...]:
    """The log, cut where its steps start again; evaluations outside training (step -1) are left out."""
    parts: list[list[LogRow]] = []
    for row in card.training_log:
        if row.step is None or row.step < 0:
            continue
        if not parts or row.step < (parts[-1][-1].step or 0):
            parts.append([])
        parts[-1].append(row)
    return tuple(map(tuple, parts))


def last_run(card: Card) -> tuple[LogRow, ...]:
    """Rows of the last run: the one that the arguments on the card belong to."""
    parts = runs(card)
    return parts[-1] if parts else ()


def unshown_evaluations(card: Card) -> tuple[list[LogRow], list[str]] | None:
    """Evaluations without numbers on the card: rows of its log (see `is_unshown`) and files of results beside it."""
    rows = [row for row in card.training_log if is_unshown(row)]
    names = [*card.beside, *(part.section for part in card.unread if is_pointer(card, part.section))]
    files = [name for name in names if name.endswith(".csv")]
    return (rows, files) if rows or files else None


def is_unshown(row: LogRow) -> bool:
    """Whether a row is an evaluation whose numbers are not in the log: a training step is only logged with its loss."""
    if row.training_loss is not None or row.validation_loss is not None or row.source != "README.md":
        return False
    return (row.step or 0) > 0 and all(number is None for number in row.metrics.values())


def training_losses(rows: Iterable[LogRow]) -> Series:
    """Rows with a training loss, NaN and infinity included."""
    return [(row, row.training_loss) for row in rows if row.training_loss is not None]


def finite_losses(rows: Iterable[LogRow]) -> Series:
    return [(row, value) for row, value in training_losses(rows) if math.isfinite(value)]


@lru_cache(maxsize=1024)
def is_loss(column: str) -> bool:
    return column.lower() == "loss" or column.lower().endswith((" loss", "_loss"))


def _columns(rows: Iterable[LogRow], *, losses: bool) -> dict[str, Series]:
    """Columns of the log with finite values: losses of evaluation datasets, or metrics."""
    found: dict[str, Series] = {}
    for row in rows:
        values = {"Validation Loss": row.validation_loss} if losses else {}
        for name, value in (*values.items(), *row.metrics.items()):
            if value is not None and is_loss(name) == losses and math.isfinite(value):
                found.setdefault(name, []).append((row, value))
    return found


def validation_losses(rows: Iterable[LogRow]) -> dict[str, Series]:
    """Every validation loss of the log by name."""
    return _columns(rows, losses=True)


def metrics(rows: Iterable[LogRow]) -> dict[str, Series]:
    """Every metric column of the log by name."""
    return _columns(rows, losses=False)


def main_metric(card: Card, rows: Iterable[LogRow]) -> tuple[str, Series] | None:
    """The metric that ranks checkpoints: the only column, the one named mean or sequential, or the mean of all.

    None where columns measure different things and none is their mean.
    """
    columns = {name: series for name, series in metrics(rows).items() if len(series) > 1}
    named = (name for name in columns if len(columns) == 1 or "_mean_" in name or "sequential_score" in name)
    if name := next(named, None):
        return name, columns[name]
    kinds = {metric_of(card, name) for name in columns}
    steps = {tuple(row.step for row, _ in series) for series in columns.values()}
    if len(kinds) != 1 or len(steps) != 1:
        return None
    rows_of = [row for row, _ in next(iter(columns.values()))]
    means = [fmean(values) for values in zip(*([v for _, v in series] for series in columns.values()), strict=True)]
    return f"mean {kinds.pop()}", list(zip(rows_of, means, strict=True))


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

    The library prints `StaticEmbedding({})` since 6.0; of a model that is nothing else, the output is as wide.

    >>> table = Module(0, "StaticEmbedding", {"embedding": "EmbeddingBag(30522, 1024, mode='mean')"}, line=9)
    >>> static_table(Card(name="x", kind="sentence-transformer", modules=(table,)))
    (1024, 9)
    """
    if (found := module(card, "StaticEmbedding")) is None:
        return None
    match = re.search(r"EmbeddingBag\(\d+, (\d{1,9})", str(dict(found.parameters)))
    size, line = int(match[1]) if match else found.parameters.get("embedding_dim"), found.line
    if size is None and card.output_dimension is not None and len(card.modules) == 1:
        size, line = card.output_dimension.value, card.output_dimension.line
    return (size, line) if isinstance(size, int) else None


def adapter(card: Card) -> Module | None:
    """The module that shows a PEFT adapter."""
    return next((found for found in card.modules if found.architecture and "Peft" in found.architecture), None)


def file_beside(card: Card, name: str) -> tuple[str, Any] | None:
    """A file beside the card by the end of its name: (name, content)."""
    ends = (f".{name}", f"-{name}")
    return next((item for item in card.beside.items() if "/" not in item[0] and ("." + item[0]).endswith(ends)), None)


_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")  # a model in the Hub's cache
_HUB_ID = re.compile(r"(?!(?:models?|out|outputs?|results?|runs|checkpoints|data|tmp)/)[\w-][\w.-]*/[\w.-]+$")


def same_model(one: str, other: str) -> bool | None:
    """Whether two names are of the same model; None where one of them is a folder, whose name proves nothing.

    >>> same_model("BAAI/bge-m3", r"C:\\models\\bge-m3"), same_model("BAAI/bge-m3", "unsloth/Llama-3.2-3B")
    (True, False)
    >>> same_model("BAAI/bge-m3", "~/hub/models--BAAI--bge-m3/snapshots/56a9/"), same_model("BAAI/bge-m3", "out/best")
    (True, None)
    """
    paths = [name.replace("\\", "/").rstrip("/") for name in (one, other)]
    names = ["/".join(found.groups()) if (found := _CACHED.search(f"{path}/")) else path for path in paths]
    first, second = (name.rpartition("/")[2].lower() for name in names)
    return True if first == second else False if all(map(_HUB_ID.match, names)) else None


def lora_config(card: Card) -> tuple[str, Mapping[str, Any]] | None:
    """adapter_config.json beside the card, unless it adapts another base than the card's."""
    found = file_beside(card, "adapter_config.json")
    return found if found and isinstance(found[1], Mapping) and foreign_adapter(card) is None else None


def foreign_adapter(card: Card) -> tuple[str, str] | None:
    """The adapter_config.json beside the card and the base that it adapts, where that is not the card's."""
    name, config = file_beside(card, "adapter_config.json") or ("", None)
    theirs = config.get("base_model_name_or_path") if isinstance(config, Mapping) else None
    ours = card.base_model
    known = isinstance(theirs, str) and ours is not None and same_model(theirs, ours.value) is False
    return (name, str(theirs)) if known else None


def lora_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """What adapter_config.json says of the adapter's shape, by the names of `recipe.schema.Lora`."""
    shape: dict[str, Any] = {}
    for theirs, ours in (("r", "r"), ("lora_alpha", "alpha"), ("lora_dropout", "dropout")):
        if _is_amount(value := config.get(theirs)) and (ours != "r" or isinstance(value, int)):
            shape[ours] = value
    targets = config.get("target_modules")
    targets = [targets] if isinstance(targets, str) else targets
    if isinstance(targets, list) and targets and all(isinstance(each, str) for each in targets):
        shape["target_modules"] = sorted(targets)
    if isinstance(config.get("use_dora"), bool):
        shape["use_dora"] = config["use_dora"]
    return shape


def logged_entries(state: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Steps and entries of the log in a trainer_state.json."""
    history = state.get("log_history")
    for entry in history if isinstance(history, list) else ():
        if isinstance(entry, Mapping) and isinstance(step := entry.get("step"), int):
            yield int(step), entry


def is_pointer(card: Card, name: str) -> bool:
    """Whether a file beside the card is a Git LFS pointer instead of itself."""
    return any(part.section.endswith(name) and part.reason == POINTER for part in card.unread)


def class_name(name: str) -> str:
    """Class name without its package.

    >>> class_name("pylate.losses.contrastive.Contrastive")
    'Contrastive'
    """
    return name.rsplit(".", 1)[-1]


def loss_trees(card: Card) -> list[tuple[Dataset, Loss]]:
    """Training datasets with their outermost loss."""
    return [(dataset, dataset.loss) for dataset in card.training_datasets() if dataset.loss is not None]


def loss_nodes(card: Card) -> list[tuple[Dataset, Loss]]:
    """Every loss of the training datasets, outermost first, with its dataset."""
    return [(dataset, node) for dataset, root in loss_trees(card) for node in root.chain()]


def in_batch_losses(card: Card) -> list[tuple[Dataset, Loss]]:
    """Losses with in-batch negatives, with their datasets; none of a cross-encoder's."""
    nodes = [] if card.kind == "cross-encoder" else loss_nodes(card)
    return [(dataset, node) for dataset, node in nodes if class_name(node.name) in IN_BATCH]


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
    depth = next((depth for depth, found in enumerate(root.chain()) if found is node), 0) if root else 0
    return (f"data.more.{at - 1}.loss" if own and at else "loss") + ".inner" * depth


def same_loss(root: Loss) -> list[tuple[str, Mapping[str, Any]]]:
    """A loss tree without its lines: equal for losses that are the same."""
    return [(node.name, dict(node.parameters)) for node in root.chain()]


def loss_line(dataset: Dataset, node: Loss) -> int | None:
    return node.line or fact_line(dataset, "loss")


def fact_lines(datasets: Iterable[Dataset], name: str) -> list[int | None]:
    return [fact_line(dataset, name) for dataset in datasets]


def first_line(part: Dataset | Evaluation) -> int | None:
    return part.lines[0] if part.lines else None
