"""What it would take to run a card again: each fact that training needs, and whether one has it.

A fact is on the card (with its line), beside the card (with the file), inferred from other facts (with the reason), or
missing. Where fit() wrote the card, its optimizer arguments count as missing: they are printed but did not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from workbench.audit.finding import plain, short, some
from workbench.audit.rules_training import size_lines, split_lines
from workbench.cards import lookup
from workbench.cards.card import Card, Stated
from workbench.cards.inference import infer

Status = Literal["on the card", "beside the card", "inferred", "missing", "not needed"]
ESSENTIAL = ("base model", "training data", "loss", "loss parameters", "learning rate", "batch size", "epochs")
"""Without one of these a recipe has to guess at the heart of the training."""


@dataclass(frozen=True)
class Fact:
    """One fact that running the recipe again needs."""

    name: str
    status: Status
    value: Any = None  # plain JSON value, or None
    lines: tuple[int, ...] = ()
    note: str = ""  # the file's name, the reason, what is missing

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "value": plain(self.value),
            "lines": list(self.lines),
            "note": self.note,
        }


@dataclass(frozen=True)
class Reproducibility:
    """All facts, in the order in which a person would set them, and one sentence."""

    facts: tuple[Fact, ...]
    verdict: str

    def with_status(self, status: Status) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.status == status)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "facts": [fact.to_dict() for fact in self.facts]}


def reproducibility(card: Card) -> Reproducibility:
    """The summary of one card. Nothing is guessed: a default that the card does not print is missing.

    >>> reproducibility(Card(name="x", kind="unknown")).verdict
    'The card tells of no training, so there is nothing to run again.'
    """
    if not lookup.has_training(card) and not card.base_model:
        return Reproducibility((), "The card tells of no training, so there is nothing to run again.")
    facts = tuple(_facts(card))
    if not lookup.has_training(card):
        return Reproducibility(facts, "The card tells of no training, so there is nothing to run again.")
    return Reproducibility(facts, _verdict(facts))


def _verdict(facts: tuple[Fact, ...]) -> str:
    missing = [fact.name for fact in facts if fact.status == "missing"]
    needed = [fact for fact in facts if fact.status != "not needed"]
    heart = [name for name in missing if name in ESSENTIAL]
    have = f"{len(needed) - len(missing)} of {len(needed)} facts are known"
    if heart:
        return (
            f"It cannot be run again from the card: {have}, and {some(heart)} {'is' if len(heart) == 1 else 'are'} not."
        )
    if missing:
        return f"It can be run again but not exactly: {have}; missing: {some(missing)}."
    return f"It can be run again from what is here: {have}."


def _said(name: str, stated: Stated[Any] | None, note: str = "") -> Fact:
    if stated is None:
        return Fact(name, "missing", note=note)
    if stated.source != "README.md":
        return Fact(name, "beside the card", stated.value, note=stated.source)
    return Fact(name, "on the card", stated.value, () if stated.line is None else (stated.line,), note)


def _at(name: str, value: Any, *lines: int | None, note: str = "") -> Fact:
    return Fact(name, "on the card", value, _lines(lines), note)


def _lines(lines: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(sorted({line for line in lines if line is not None}))


def _facts(card: Card) -> Iterator[Fact]:
    yield _said("base model", card.base_model)
    yield _said("base revision", card.base_revision)
    yield from _data(card)
    yield from _loss(card)
    yield from _arguments(card)
    yield from _model(card)
    yield _evaluation(card)
    libraries = {name: stated.value for name, stated in card.versions.items()}
    lines = [stated.line for stated in card.versions.values()]
    if libraries:
        yield _at("versions", libraries, *lines)
    else:
        yield Fact("versions", "missing")


def _data(card: Card) -> Iterator[Fact]:
    datasets = card.training_datasets()
    named = [dataset for dataset in datasets if dataset.id]
    line = (datasets[0].lines or (None,))[0] if datasets else None
    if datasets and len(named) == len(datasets):
        yield _at("training data", [dataset.id for dataset in named], line)
        revisions = [dataset.revision for dataset in named]
        known = all(revisions)
        yield Fact("data revision", "on the card" if known else "missing", revisions if known else None)
    else:
        yield Fact("training data", "missing", note="no dataset that could be found again")
    rows = lookup.sizes(card)
    if rows:
        yield _at("rows", sum(rows), *(lookup.fact_line(dataset, "size") for dataset in datasets))
    else:
        yield Fact("rows", "missing")
    yield from _split(card)


def _split(card: Card) -> Iterator[Fact]:
    division = infer(card).division
    if division is not None and division.split is not None:
        share = division.split.share
        note = f"{short(share * 100)} % for training, from the batches per epoch; which rows is not known"
        yield Fact("split", "inferred", share, _lines(split_lines(card)), note)
    elif any(dataset.id for dataset in card.training_datasets()):
        yield Fact("split", "missing", note="the card names no split of the Hub dataset")
    else:
        yield Fact("split", "missing", note="which rows were held back is not on the card")


def _loss(card: Card) -> Iterator[Fact]:
    trees = lookup.loss_trees(card)
    if not trees:
        yield Fact("loss", "missing")
        return
    names = [" > ".join(lookup.class_name(node.name) for node in root.chain()) for _, root in trees]
    lines = [root.line or lookup.fact_line(dataset, "loss") for dataset, root in trees]
    foreign = [node.name for _, root in trees for node in root.chain() if node.name.startswith("__main__.")]
    if foreign:
        yield Fact("loss", "missing", names, note=f"{some(foreign)} is code of the training script")
    else:
        yield _at("loss", names, *lines)
    bare = [node.name for _, root in trees for node in root.chain() if not node.parameters]
    if any("<lambda>" in str(value) for _, root in trees for n in root.chain() for value in n.parameters.values()):
        yield Fact("loss parameters", "missing", note="the similarity is code that the card does not hold")
    elif bare:
        yield Fact(
            "loss parameters", "inferred", note=f"{some(map(lookup.class_name, bare))} prints none: library defaults"
        )
    else:
        yield _at("loss parameters", [dict(root.parameters) for _, root in trees], *lines)


def _stated(card: Card, name: str) -> Stated[Any] | None:
    """A training argument, also by the name that cards before library 3.0 print it under."""
    found = card.argument(name)
    if found is None and name == "learning_rate":
        parameters = card.argument("optimizer_params")
        if parameters is not None and isinstance(parameters.value, dict) and "lr" in parameters.value:
            return Stated(parameters.value["lr"], parameters.line, parameters.source)
    return found if found is not None or name not in BEFORE_3 else card.argument(BEFORE_3[name])


BEFORE_3 = {
    "lr_scheduler_type": "scheduler",
    "optim": "optimizer_class",
    "per_device_train_batch_size": "batch_size",
    "num_train_epochs": "epochs",
}


def _arguments(card: Card) -> Iterator[Fact]:
    fit = infer(card).fit
    for label, name in (
        ("learning rate", "learning_rate"),
        ("weight decay", "weight_decay"),
        ("schedule", "lr_scheduler_type"),
        ("warmup", "warmup_steps" if lookup.number(card, "warmup_steps") else "warmup_ratio"),
        ("optimizer", "optim"),
    ):
        if fit is not None:
            yield Fact(label, "missing", note="fit() printed a default that did not run")
        else:
            yield _said(label, _stated(card, name))
    yield _said("batch size", _stated(card, "per_device_train_batch_size"))
    yield _said("accumulation", card.argument("gradient_accumulation_steps"))
    yield _processes(card)
    yield _said("epochs", _stated(card, "num_train_epochs") or card.argument("max_steps"))
    yield _said("seed", card.argument("seed"))
    yield _said("batch sampler", card.argument("batch_sampler"))
    precise = [name for name in ("bf16", "fp16") if lookup.argument(card, name) is True]
    lines = lookup.argument_lines(card, "bf16", "fp16")
    yield _at("precision", precise[0] if precise else "fp32", *lines) if lines else Fact("precision", "missing")


def _processes(card: Card) -> Fact:
    division = infer(card).division
    count = division.processes if division is not None else None
    if count == 1:
        return Fact("processes", "inferred", 1, note="one process fits the log's epoch column")
    if count is not None:
        note = "from rows, batch size and the log's epoch column"
        return Fact("processes", "inferred", count, _lines(size_lines(card)), note)
    return Fact("processes", "missing", note="the log does not let it be inferred")


def _model(card: Card) -> Iterator[Fact]:
    prompts = card.argument("prompts")
    config = lookup.file_beside(card, "config_sentence_transformers.json")
    beside = config[1].get("prompts") if config and isinstance(config[1], dict) else None
    if prompts is not None and prompts.value:
        yield _said("prompts", prompts)
    elif isinstance(beside, dict) and any(beside.values()):
        yield Fact("prompts", "beside the card", beside, note=config[0] if config else "")
    elif prompts is not None or config is not None:
        yield Fact("prompts", "on the card", None, tuple(filter(None, lookup.argument_lines(card, "prompts"))), "none")
    else:
        yield Fact("prompts", "missing", note="the card does not say whether prompts were used")
    lora, shown = lookup.lora_config(card), lookup.adapter(card)
    if lora is not None:
        keys = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_dora")
        yield Fact("adapter shape", "beside the card", {k: lora[1][k] for k in keys if k in lora[1]}, note=lora[0])
    elif shown is not None:
        yield Fact("adapter shape", "missing", note="the architecture shows an adapter, its shape is nowhere")
    else:
        yield Fact("adapter shape", "not needed", note="the architecture shows no adapter")
    yield _said("length limit", card.max_seq_length)
    yield _said("similarity", card.similarity)


def _evaluation(card: Card) -> Fact:
    held = [dataset.id for dataset in card.evaluation_datasets() if dataset.id]
    public = [name for found in card.evaluations for name in found.datasets if name.startswith("Nano")]
    if held or public:
        return _at("evaluation set", held or public, *((found.lines or (None,))[0] for found in card.evaluations))
    if card.evaluations or lookup.validation_losses(card.training_log):
        return Fact("evaluation set", "missing", note="it was evaluated on data that cannot be found again")
    return Fact("evaluation set", "missing", note="nothing was evaluated")
