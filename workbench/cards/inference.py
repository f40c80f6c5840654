"""What the numbers of a card imply, computed once per card: `infer(card)`.

Nothing is judged here. Audit rules, recipe, loss curves and comparison read these facts and decide what they mean.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from workbench.cards import lookup
from workbench.cards.card import Card, Dataset, Evaluation, Loss
from workbench.cards.loss_bounds import Band, mixed_band, softmax_band
from workbench.cards.metric_arithmetic import Resolution, broken_identities, queries_of, resolution, same_rounded
from workbench.cards.samples import Prompts, RepeatedAnchors, prompts_in_texts, repeated_anchors
from workbench.cards.schedule import Schedule, schedule_of
from workbench.cards.steps_per_epoch import Epoch, Reading, epoch_of, readings

SPLIT_SIZE_BUG = ((3, 1, 0), (4, 0, 1))
"""sentence-transformers versions whose card takes a dataset's size from the file before train_test_split."""

SUMMING = (((4, 46, 0), (4, 46, 2)), ((4, 48, 1), (4, 53, 0)))
"""transformers versions that log the sum of the micro-batches' losses."""

_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


@dataclass(frozen=True)
class Inferred:
    """What one card implies. None or empty: its numbers imply nothing."""

    epoch: Epoch | None  # batches per process and epoch, from the epoch column of the log's last run
    division: Division | None  # how the rows were divided, from sizes, batch size and `epoch`
    rows_per_step: int | None  # of all processes, from batch size, accumulation and `division`
    planned_steps: int | None  # optimizer steps of the training, from max_steps, or epochs and `epoch` or sizes
    logging_steps: int  # optimizer steps between two log rows: stated, else usual in the log, else 500
    summed: int  # micro-batch losses that a logged training loss adds up, from versions; 1: it is a mean
    schedule: Schedule | None  # when and by what the log's last run was evaluated
    fit: Fit | None  # marks of the old model.fit()
    softmax: Softmax | None  # the card's one softmax loss, ready for arithmetic
    loss_band: Band | None  # values that a logged training loss can take, from `softmax`, sizes and `summed`
    seconds: float | None  # of the training, from Training Time
    width: tuple[int, int | None] | None  # dimensions that the last module gives before truncation, and its line
    metrics: tuple[MetricFacts, ...]  # one for each of `card.evaluations`
    queries: int | None  # of the evaluation, or a divisor, from all unrounded accuracies of model-index
    prompts: Prompts | None  # prompts that the printed samples hold
    repeated_anchors: RepeatedAnchors | None  # from the printed samples, or suggested by a name


def infer(card: Card) -> Inferred:
    """What `card` implies; computed on the first call and kept with the card.

    >>> infer(Card(name="x", kind="unknown")).logging_steps
    500
    """
    known: Inferred | None = vars(card).get("_inferred")
    if known is None:
        epoch, softmax = _epoch(card), _softmax(card)
        sums = _sums_accumulation(card) and lookup.finite_losses(lookup.last_run(card))
        summed = lookup.accumulation(card) if sums else 1
        planned = _planned_steps(card, epoch)
        division, batch = _division(card, epoch), lookup.batch_size(card)
        processes = division.shared.processes if division and division.shared else 1
        known = Inferred(
            epoch=epoch,
            division=division,
            rows_per_step=None if batch is None else batch * lookup.accumulation(card) * processes,
            planned_steps=planned,
            logging_steps=_logging_steps(card),
            schedule=schedule_of(card, epoch, planned),
            summed=summed,
            fit=_fit_marks(card),
            softmax=softmax,
            loss_band=None if softmax is None else _loss_band(card, softmax, epoch, summed),
            seconds=_seconds(card),
            width=_width(card),
            metrics=tuple(_metric_facts(card, evaluation) for evaluation in card.evaluations),
            queries=queries_of(
                {f"{at} {entry.metric}": entry.value for at, entry in enumerate(card.model_index)}, exact=True
            ),
            prompts=prompts_in_texts(card),
            repeated_anchors=repeated_anchors(card),
        )
        vars(card)["_inferred"] = known  # equality and JSON of a card read its fields only
    return known


@dataclass(frozen=True)
class Division:
    """How the rows of an epoch were divided among processes and parts, as far as the card shows."""

    epoch: Epoch
    readings: tuple[Reading, ...]  # every simple explanation of the batches per epoch; empty: none fits
    split: Reading | None  # the sizes are those before a split, and this share of the rows trained
    shared: Reading | None  # several processes shared the rows

    @property
    def part(self) -> Reading | None:
        """The share of the stated rows that trained: `split`, or where no number of processes explains the log."""
        alone = next((each for each in self.readings if each.share < 1), None)
        return self.split or (None if any(each.processes > 1 for each in self.readings) else alone)

    @property
    def processes(self) -> int | None:
        """Processes (or devices) that trained; None where the log fits several numbers."""
        if self.shared is not None:
            return self.shared.processes
        return 1 if self.readings and self.readings[0].processes == 1 else None


def _epoch(card: Card) -> Epoch | None:
    run = lookup.last_run(card)
    rows = tuple((row.epoch, row.step) for row in run if row.epoch is not None and row.step is not None)
    return epoch_of(rows, lookup.accumulation(card))


def loading(card: Card) -> dict[str, bool]:
    """How rows were cut into batches, as arguments of `steps_per_epoch.readings`."""
    return {
        "drop_last": lookup.argument(card, "dataloader_drop_last") is True,
        "round_robin": lookup.argument(card, "multi_dataset_batch_sampler") == "round_robin",
    }


def _division(card: Card, epoch: Epoch | None) -> Division | None:
    """None where sizes or batch size are unknown, epochs are short, runs are joined, or the batch may have changed."""
    rows, batch = lookup.sizes(card), lookup.batch_size(card)
    if epoch is None or rows is None or batch is None or epoch.batches[0] < 20 or len(lookup.runs(card)) != 1:
        return None
    one_epoch = {*epoch.steps(epoch.batches[0]), *epoch.batches}  # where rows are streamed, an epoch is the run
    if lookup.number(card, "max_steps") in one_epoch or lookup.argument(card, "auto_find_batch_size") is True:
        return None
    found = readings(epoch, rows, batch, **loading(card))
    parts = [reading for reading in found if reading.share < 1]
    shared = [reading for reading in found if reading.processes > 1]
    is_split = bool(parts) and sizes_of_files(card) and (same_size(card) or not shared)
    alone = shared[0] if len(shared) == 1 and not is_split else None
    return Division(epoch, found, parts[0] if is_split else None, alone)


def same_size(card: Card) -> bool:
    """Whether a training and an evaluation dataset of one name state the same size: neither was split off, or both
    sizes were taken before the split."""
    return any(
        one.size and one.size == two.size and one.name == two.name and one.name is not None
        for one in card.training_datasets()
        for two in card.evaluation_datasets()
    )


def sizes_of_files(card: Card) -> bool:
    """Whether the library took sizes from the metadata of loaded files, which unnamed datasets do not have."""
    named = all(dataset.name is not None for dataset in card.training_datasets())
    return named and lookup.in_range(lookup.version(card, "Sentence Transformers"), *SPLIT_SIZE_BUG)


def _planned_steps(card: Card, epoch: Epoch | None) -> int | None:
    most = lookup.number(card, "max_steps")
    if most and most > 0:
        return int(most)
    epochs = lookup.epochs(card)
    if epochs is None:
        return None
    if epoch:
        return math.ceil(epochs * epoch.steps(epoch.batches[0])[0])
    rows, batch = lookup.sizes(card), lookup.batch_size(card)
    if not rows or not batch:
        return None
    batches = math.ceil(sum(rows) / batch)
    if len(rows) > 1 and loading(card)["round_robin"]:
        batches = min(math.ceil(size / batch) for size in rows) * len(rows)
    return math.ceil(epochs * max(math.ceil(batches / lookup.accumulation(card)), 1))


def _logging_steps(card: Card) -> int:
    stated = lookup.number(card, "logging_steps")
    if stated and stated >= 1:
        return int(stated)
    steps = [row.step for row, _ in lookup.training_losses(card.training_log) if row.step]
    gaps = sorted(b - a for a, b in itertools.pairwise(steps) if b > a)
    return gaps[len(gaps) // 2] if gaps else (steps[0] if steps else 500)


def _seconds(card: Card) -> float | None:
    """From "17.883 hours" or "23.4 minutes"."""
    for name in ("Training", "Hours Used"):
        stated = card.training_time.get(name)
        found = re.match(r"(\d{1,9}(?:\.\d{1,9})?)\s*(second|minute|hour|day)", str(stated.value)) if stated else None
        if found:
            return float(found[1]) * _UNITS[found[2]]
    return None


@dataclass(frozen=True)
class Fit:
    """Marks of the old `model.fit()` on a card."""

    sure: bool
    marks: tuple[str, ...]
    lines: tuple[int | None, ...]


def _fit_marks(card: Card) -> Fit | None:
    """Whether `fit()` trained the model: it renames columns to sentence_0, sentence_1, ... and fixes some arguments.

    It never passes a learning rate on, so a card with one among its non-default arguments was not written by it.
    """
    datasets = card.training_datasets()
    renamed = [
        dataset
        for dataset in datasets
        if (columns := [c for c in dataset.columns if c not in lookup.LABEL_COLUMNS])
        and all(re.fullmatch(r"sentence_\d+", column) for column in columns)
    ]
    passed_on = {"learning_rate", "weight_decay", "warmup_ratio", "warmup_steps", "lr_scheduler_type", "optim"}
    if not datasets or len(renamed) < len(datasets) or passed_on & set(card.non_default):
        return None
    marks = [f"columns {', '.join(renamed[0].columns)}"]
    lines = [lookup.fact_line(renamed[0], "columns")]
    if lookup.argument(card, "multi_dataset_batch_sampler") == "round_robin":
        marks.append("multi_dataset_batch_sampler round_robin")
        lines += lookup.argument_lines(card, "multi_dataset_batch_sampler")
    clip = lookup.argument(card, "max_grad_norm")
    if isinstance(clip, int) and not isinstance(clip, bool):
        marks.append(f"max_grad_norm printed as the integer {clip}")
        lines += lookup.argument_lines(card, "max_grad_norm")
    return Fit(len(marks) > 1, tuple(marks), tuple(lines))


def _width(card: Card) -> tuple[int, int | None] | None:
    for module in reversed(card.modules):
        if module.type == "StaticEmbedding" and (table := lookup.static_table(card)):
            return table
        for key in ("out_features", "word_embedding_dimension", "embedding_dimension", "embedding_dim"):
            value = module.parameters.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value, module.line
    return None


@dataclass(frozen=True)
class Softmax:
    """The one softmax loss of a card, ready for arithmetic."""

    dataset: Dataset
    loss: Loss  # the softmax loss itself, not one that wraps it
    batch: int  # rows per device
    candidates: int  # per anchor, on one device
    scale: float  # as printed, else the library's default
    similarity: str | None  # as printed
    factor: float  # how many such losses are added up (Matryoshka dimensions times weights)
    path: str  # of the softmax loss in a recipe

    @property
    def chance(self) -> float:
        """The loss where all candidates score alike."""
        return self.factor * math.log(max(self.candidates, 1))

    @property
    def bounded(self) -> bool:
        """Whether the similarity is known to lie in [-1, 1]."""
        return self.similarity in ("cos_sim", "pairwise_cos_sim", "cosine", None)


def _softmax(card: Card) -> Softmax | None:
    """The card's softmax loss, where there is one training dataset and a loss whose value can be computed.

    None for several datasets (their losses mix in one column), other losses, cross-encoders (theirs draws a few
    negatives from the batch), and variants with hardness weights or other directions, whose bands differ.
    """
    datasets = card.training_datasets()
    batch = lookup.batch_size(card)
    if len(datasets) != 1 or datasets[0].loss is None or not batch or card.kind == "cross-encoder":
        return None
    dataset, root = datasets[0], datasets[0].loss
    chain = list(root.chain())
    node = next((found for found in chain if lookup.class_name(found.name) in lookup.SOFTMAX), None)
    columns = len(lookup.text_columns(dataset))
    if node is None or columns < 2:
        return None
    factor = 1.0
    for wrapper in chain[: chain.index(node)]:
        if lookup.class_name(wrapper.name) != "MatryoshkaLoss":
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
        loss=node,
        batch=batch,
        candidates=batch * (columns - 1),
        scale=20.0 if scale is None else float(scale),
        similarity=None if similarity is None else str(similarity),
        factor=factor,
        path=lookup.loss_path(card, dataset, node),
    )


def _dimensions(wrapper: Loss) -> float:
    """How many inner losses a MatryoshkaLoss adds up, weighted."""
    dims = wrapper.parameters.get("matryoshka_dims")
    weights = wrapper.parameters.get("matryoshka_weights")
    per_step = wrapper.parameters.get("n_dims_per_step", -1)
    if not isinstance(dims, list) or not dims:
        return 1.0
    stated = [each for each in weights if isinstance(each, int | float)] if isinstance(weights, list) else []
    total = float(sum(stated)) if len(stated) == len(dims) else float(len(dims))
    if isinstance(per_step, int) and 0 < per_step < len(dims):
        return total * per_step / len(dims)
    return total


def _sums_accumulation(card: Card) -> bool:
    """Whether the trainer's version adds the micro-batches' losses up where it should take their mean.

    transformers 4.48.1 to 4.52 divides by gradient_accumulation_steps only when the model's `forward` takes no keyword
    arguments; SentenceTransformer and CrossEncoder take them, and their losses do not divide either. 4.46.0 and 4.46.1
    multiply before they divide. Source: these versions' trainer.py, and
    https://github.com/huggingface/transformers/issues/37766.
    """
    library, trainer = lookup.version(card, "Sentence Transformers"), lookup.version(card, "Transformers")
    summing = any(lookup.in_range(trainer, first, before) for first, before in SUMMING)
    return lookup.accumulation(card) > 1 and summing and (library is None or library.numbers >= (3, 1, 0))


def _loss_band(card: Card, spec: Softmax, epoch: Epoch | None, summed: int) -> Band:
    """Short last batches, several devices and summed micro-batches are allowed for."""
    rows, all_rows = spec.dataset.size, lookup.sizes(card)
    rest = (rows % spec.batch) * (spec.candidates // spec.batch) if rows else 1
    if lookup.argument(card, "dataloader_drop_last") is True or rest == 0:
        band = softmax_band(spec.candidates, spec.scale)
    else:
        window = _logging_steps(card) * lookup.accumulation(card)
        shorts = math.ceil(window / epoch.batches[0]) if epoch else window
        band = mixed_band(spec.candidates, rest, min(shorts / window, 1.0), spec.scale)
    if epoch and all_rows and epoch.batches[-1] * spec.batch < 0.6 * sum(all_rows):
        # One process that feeds several devices pools their candidates.
        band = Band(band.low, band.chance, softmax_band(spec.candidates * 8, spec.scale).high)
    band = band.times(spec.factor)
    return band.union(band.times(summed))


@dataclass(frozen=True)
class MetricFacts:
    """What the metrics of one evaluation imply."""

    broken: tuple[str, ...]  # identities that the values break, as sentences
    queries: int | None  # number of queries, or a divisor of it, from accuracies; None for NanoBEIR, whose are means
    resolution: Resolution | None  # of the main metric on so many queries


def _metric_facts(card: Card, evaluation: Evaluation) -> MetricFacts:
    exact = exact_values(card, evaluation)
    nano = any("Nano" in name for name in (evaluation.evaluator or "", *evaluation.datasets))
    queries = None if nano else queries_of(exact or evaluation.metrics, exact=bool(exact))
    main = evaluation.main_metric or next(iter(evaluation.metrics), "")
    found = None if queries is None else resolution(main, evaluation.metrics.get(main, math.nan), queries)
    return MetricFacts(tuple(broken_identities(evaluation.metrics)), queries, found)


def exact_values(card: Card, evaluation: Evaluation) -> dict[str, float]:
    """model-index entries that belong to an evaluation: one for each metric, rounding to its table."""
    found = {}
    for metric, value in evaluation.metrics.items():
        for entry in card.model_index:
            if entry.metric == metric and same_rounded(entry.value, value):
                found[metric] = entry.value
                break
    return found if len(found) == len(evaluation.metrics) else {}
