"""What is needed to run a card again: each fact that training needs, and where it is.

A fact is on the card (with its line), beside the card (with the file), inferred from other facts (with the reason), or
missing. Where fit() wrote the card, its optimizer arguments are missing: they are printed but did not run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench.audit.finding import short, some, to_json
from workbench.audit.rules_training import size_lines, split_lines
from workbench.cards import lookup
from workbench.cards.card import Card, Stated
from workbench.cards.inference import infer

Status = Literal["on the card", "beside the card", "inferred", "missing", "not needed"]
ESSENTIAL = ("base model", "training data", "loss", "loss parameters", "learning rate", "batch size", "epochs")
"""Without one of these a recipe has to guess the core of the training."""
OTHER_NAMES = {
    "lr_scheduler_type": ("scheduler",),
    "optim": ("optimizer_class",),
    "per_device_train_batch_size": ("batch_size",),
    "num_train_epochs": ("epochs", "num_epochs"),
    "learning_rate": ("body_learning_rate",),
    "warmup_ratio": ("warmup_proportion",),
}
"""Trainer arguments -> their names on cards from before library 3.0, and on those of SetFit."""


@dataclass(frozen=True)
class Fact:
    """One fact that running the recipe again needs."""

    name: str
    status: Status
    value: Any = None  # plain JSON value, or None
    lines: tuple[int, ...] = ()
    note: str = ""  # the file's name, the reason, what is missing

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = to_json(asdict(self))
        return fields


@dataclass(frozen=True)
class Reproducibility:
    """All facts, in the order of a recipe, and one sentence."""

    facts: tuple[Fact, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "facts": [fact.to_dict() for fact in self.facts]}


def reproducibility(card: Card) -> Reproducibility:
    """The summary of one card. A default that the card does not print is missing, not guessed.

    >>> reproducibility(Card(name="x", kind="unknown")).verdict
    'The card describes no training, so there is nothing to run again.'
    """
    trained = lookup.has_training(card)
    facts = tuple(_facts(card)) if trained or card.base_model else ()
    if not trained:
        told = lookup.untold_training(card)
        verdict = "The card describes no training, so there is nothing to run again."
        if told:
            verdict = f"What the card says of its training (line {told[0]}) was not understood, so no run is known."
        return Reproducibility(facts, verdict)
    missing = [fact.name for fact in facts if fact.status == "missing"]
    needed = [fact for fact in facts if fact.status != "not needed"]
    core = [name for name in missing if name in ESSENTIAL]
    have = f"{len(needed) - len(missing)} of {len(needed)} facts are known"
    verdict = f"It can be run again from what is here: {have}."
    if core:
        are = "is" if len(core) == 1 else "are"
        verdict = f"It cannot be run again from the card: {have}, and {some(core)} {are} not."
    elif missing:
        verdict = f"It can be run again but not exactly: {have}; missing: {some(missing)}."
    return Reproducibility(facts, verdict)


def _fact(name: str, status: Status, value: Any = None, lines: Iterable[int | None] = (), note: str = "") -> Fact:
    return Fact(name, status, value, tuple(sorted({line for line in lines if line is not None})), note)


def _stated_fact(name: str, stated: Stated[Any] | None) -> Fact:
    if stated is None:
        return Fact(name, "missing")
    if stated.source != "README.md":
        return Fact(name, "beside the card", stated.value, note=stated.source)
    return _fact(name, "on the card", stated.value, [stated.line])


def _facts(card: Card) -> Iterator[Fact]:
    yield _stated_fact("base model", card.base_model)
    yield _stated_fact("base revision", card.base_revision)
    yield from _data(card)
    yield from _loss(card)
    yield from _arguments(card)
    yield from _model(card)
    yield _evaluation(card)
    libraries = {name: stated.value for name, stated in card.versions.items()}
    lines = [stated.line for stated in card.versions.values()]
    yield _fact("versions", "on the card", libraries, lines) if libraries else Fact("versions", "missing")


def _data(card: Card) -> Iterator[Fact]:
    datasets = card.training_datasets()
    named = [dataset.id for dataset in datasets if dataset.id]
    if datasets and len(named) == len(datasets):
        yield _fact("training data", "on the card", named, [lookup.first_line(datasets[0])])
        revisions = [dataset.revision for dataset in datasets]
        known = all(revisions)
        yield Fact("data revision", "on the card" if known else "missing", revisions if known else None)
    else:
        yield Fact("training data", "missing", note="no dataset that could be found again")
    rows, lines = sum(lookup.sizes(card) or ()), lookup.fact_lines(datasets, "size")
    yield _fact("rows", "on the card", rows, lines) if rows else Fact("rows", "missing")
    division = infer(card).division
    if division is not None and division.split is not None:
        share = division.split.share
        note = f"{short(share * 100)}% for training, from the batches per epoch; which rows is not known"
        yield _fact("split", "inferred", share, split_lines(card), note)
    else:
        note = "the card names no split of the Hub dataset" if named else "the card does not say which rows it held out"
        yield Fact("split", "missing", note=note)


def _loss(card: Card) -> Iterator[Fact]:
    trees, nodes = lookup.loss_trees(card), [node for _, node in lookup.loss_nodes(card)]
    if not trees:
        yield Fact("loss", "missing")
        return
    names = [" > ".join(lookup.class_name(node.name) for node in root.chain()) for _, root in trees]
    lines = [lookup.loss_line(dataset, root) for dataset, root in trees]
    foreign = [node.name for node in nodes if node.name.startswith("__main__.")]
    if foreign:
        yield Fact("loss", "missing", names, note=f"{some(foreign)} is code of the training script")
    else:
        yield _fact("loss", "on the card", names, lines)
    silent = [lookup.class_name(node.name) for node in nodes if not node.parameters]
    if any("<lambda>" in str(value) for node in nodes for value in node.parameters.values()):
        yield Fact("loss parameters", "missing", note="the similarity is code that the card does not hold")
    elif silent:
        yield Fact("loss parameters", "inferred", note=f"{some(silent)} prints none: library defaults")
    else:
        yield _fact("loss parameters", "on the card", [dict(root.parameters) for _, root in trees], lines)


def _argument(card: Card, name: str) -> Stated[Any] | None:
    """A training argument, also by its other names."""
    found = next(filter(None, map(card.argument, (name, *OTHER_NAMES.get(name, ())))), None)
    parameters = card.argument("optimizer_params")
    if found is None and name == "learning_rate" and parameters is not None:
        rate = parameters.value.get("lr") if isinstance(parameters.value, dict) else None
        return None if rate is None else Stated(rate, parameters.line, parameters.source)
    return found


def _number_fact(name: str, stated: Stated[Any] | None) -> Fact:
    """A fact that has to be a number; of SetFit's two, the first is the body's."""
    value = stated.value[0] if stated and isinstance(stated.value, list) and stated.value else stated and stated.value
    if stated is None or (isinstance(value, int | float) and math.isfinite(value)):
        return _stated_fact(name, stated)
    return Fact(name, "missing", note=f"the card says {str(value)[:40]!r}, which is no number")


def _arguments(card: Card) -> Iterator[Fact]:
    for label, name in (
        ("learning rate", "learning_rate"),
        ("weight decay", "weight_decay"),
        ("schedule", "lr_scheduler_type"),
        ("warmup", "warmup_steps" if lookup.number(card, "warmup_steps") else "warmup_ratio"),
        ("optimizer", "optim"),
    ):
        if infer(card).fit is not None:
            yield Fact(label, "missing", note="fit() printed a default that did not run")
        else:
            found = _argument(card, name)
            yield _stated_fact(label, found) if label in ("schedule", "optimizer") else _number_fact(label, found)
    yield _number_fact("batch size", _argument(card, "per_device_train_batch_size"))
    yield _number_fact("accumulation", card.argument("gradient_accumulation_steps"))
    division = infer(card).division
    count = division.processes if division is not None else None
    if count is None:
        yield Fact("processes", "missing", note="the log does not show it")
    elif count == 1:
        yield Fact("processes", "inferred", 1, note="one process fits the log's epoch column")
    else:
        note = "from rows, batch size and the log's epoch column"
        yield _fact("processes", "inferred", count, size_lines(card), note)
    yield _number_fact("epochs", _argument(card, "num_train_epochs") or card.argument("max_steps"))
    yield _stated_fact("seed", card.argument("seed"))
    yield _stated_fact("batch sampler", card.argument("batch_sampler"))
    precise = [name for name in ("bf16", "fp16") if lookup.argument(card, name) is True]
    lines = lookup.argument_lines(card, "bf16", "fp16")
    precision = precise[0] if precise else "fp32"
    yield _fact("precision", "on the card", precision, lines) if lines else Fact("precision", "missing")


def _model(card: Card) -> Iterator[Fact]:
    prompts = card.argument("prompts")
    config = lookup.file_beside(card, "config_sentence_transformers.json")
    beside = config[1].get("prompts") if config and isinstance(config[1], dict) else None
    if prompts is not None and prompts.value:
        yield _stated_fact("prompts", prompts)
    elif config and isinstance(beside, dict) and any(beside.values()):
        yield Fact("prompts", "beside the card", beside, note=config[0])
    elif prompts is not None or config is not None:
        yield _fact("prompts", "on the card", None, lookup.argument_lines(card, "prompts"), "none")
    else:
        yield Fact("prompts", "missing", note="the card does not say whether prompts were used")
    lora = lookup.lora_config(card)
    if lora is not None:
        yield Fact("adapter shape", "beside the card", lookup.lora_shape(lora[1]), note=lora[0])
    elif lookup.adapter(card) is not None:
        yield Fact("adapter shape", "missing", note="the architecture shows an adapter, but not its shape")
    else:
        yield Fact("adapter shape", "not needed", note="the architecture shows no adapter")
    yield _stated_fact("length limit", card.max_seq_length)
    yield _stated_fact("similarity", card.similarity)


def _evaluation(card: Card) -> Fact:
    held = [dataset.id for dataset in card.evaluation_datasets() if dataset.id]
    public = [name for found in card.evaluations for name in found.datasets if name.startswith("Nano")]
    if held or public:
        return _fact("evaluation set", "on the card", held or public, map(lookup.first_line, card.evaluations))
    if card.evaluations or lookup.validation_losses(card.training_log):
        return Fact("evaluation set", "missing", note="it was evaluated on data that cannot be found again")
    shown = "its numbers are not on the card" if lookup.unshown_evaluations(card) else "the card shows no evaluation"
    return Fact("evaluation set", "missing", note=shown)
