"""What the numbers of a card imply: steps per epoch, planned steps, the softmax loss, summed losses, marks of fit()."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from workbench.cards.card import Card, Dataset, Loss
from workbench.cards.lookup import (
    LABEL_COLUMNS,
    SOFTMAX,
    accumulation,
    argument,
    argument_lines,
    batch_size,
    class_name,
    fact_line,
    in_range,
    last_run,
    loss_path,
    number,
    sizes,
    text_columns,
    training_losses,
    version,
)
from workbench.cards.steps_per_epoch import Epoch, epoch_of


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
    steps = [row.step for row, _ in training_losses(card.training_log) if row.step]
    gaps = sorted(b - a for a, b in itertools.pairwise(steps) if b > a)
    return gaps[len(gaps) // 2] if gaps else (steps[0] if steps else 500)


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
        lines += argument_lines(card, "multi_dataset_batch_sampler")
    clip = argument(card, "max_grad_norm")
    if isinstance(clip, int) and not isinstance(clip, bool):
        marks.append(f"max_grad_norm printed as the integer {clip}")
        lines += argument_lines(card, "max_grad_norm")
    return Fit(len(marks) > 1, tuple(marks), tuple(lines))


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
    node = next((found for found in chain if class_name(found.name) in SOFTMAX), None)
    columns = len(text_columns(dataset))
    if node is None or columns < 2:
        return None
    factor = 1.0
    for wrapper in chain[: chain.index(node)]:
        if class_name(wrapper.name) != "MatryoshkaLoss":
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
    summing = any(in_range(trainer, first, before) for first, before in SUMMING)
    return accumulation(card) > 1 and summing and (library is None or library.numbers >= (3, 1, 0))
