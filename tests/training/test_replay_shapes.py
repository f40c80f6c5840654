"""A card that the plain trainer writes is trained again from its own text alone, and every number is the same.

The library's trainer trains a tiny model and writes its card; the recipe is made from that card, and only what no card
holds is given: the base, the rows, the evaluation rows. Losses, evaluation losses and kept weights are equal to the
last bit; metrics to half of the fourth place, as cards print them, because we encode without padding and the
correlation of nearly equal similarities, those of a model with random weights, is a quotient of small numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import WORDS, tiny_base, tiny_rows
from tiny import train_often as train

from workbench.cards.read import read_card
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Recipe
from workbench.run import Run

PAIRS, SCORED, LABELED = "pairs.json", "scored.json", "labeled.json"


def rows_of(folder: Path, name: str, number: int, first: int = 0) -> Path:
    """`number` rows of one of three kinds, starting with row `first`."""
    pairs = json.loads(tiny_rows(folder / "all.json", first + number).read_text())[first:]
    made: Any = pairs
    if name == SCORED:
        made = [
            {"sentence1": row["anchor"], "sentence2": row["positive"], "score": (at * 7 % 11) / 10}
            for at, row in enumerate(pairs)
        ]
    elif name == LABELED:
        made = [{"sentence": row["positive"], "label": at % 3} for at, row in enumerate(pairs)]
    path = folder / f"{first}-{name}"
    path.write_text(json.dumps(made))
    return path


def loss_of(name: str) -> Callable[[Any], Any]:
    """A loss of the library by its class, or by one of three compositions."""

    def make(model: Any) -> Any:
        from sentence_transformers.sentence_transformer import losses

        ranking = losses.MultipleNegativesRankingLoss(model)
        if name == "Matryoshka":
            return losses.MatryoshkaLoss(model, ranking, [32, 16, 8])
        if name == "Matryoshka, one dimension per step":
            return losses.MatryoshkaLoss(model, ranking, [32, 16, 8], n_dims_per_step=1)
        if name == "CachedMultipleNegativesRankingLoss":
            return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
        return getattr(losses, name)(model)

    return make


@dataclass(frozen=True)
class Shape:
    """One way of training with the plain trainer."""

    loss: str = "MultipleNegativesRankingLoss"
    rows: str = PAIRS
    arguments: Mapping[str, Any] = field(default_factory=dict)
    held_out: bool = False  # the trainer has an evaluation dataset
    evaluator: bool = False
    lora: bool = False
    more: str = ""  # a second dataset with a loss of its own
    given: bool = True  # whether the evaluation rows, of several datasets those of the second, are known to us

    def __call__(self, **arguments: Any) -> Shape:
        return Shape(**{**vars(self), "arguments": arguments})


RANKING, RANKING_LOSS = Shape(), Shape(held_out=True)
SCORES = Shape("CoSENTLoss", SCORED)
SCORES_LOSS, SCORES_METRIC = Shape("CoSENTLoss", SCORED, held_out=True), Shape("CoSENTLoss", SCORED, evaluator=True)
SCORES_BOTH = Shape("CosineSimilarityLoss", SCORED, held_out=True, evaluator=True)
BEST: Mapping[str, Any] = {"load_best_model_at_end": True}

SHAPES: Mapping[str, Shape] = {
    "linear, warmup share": RANKING(warmup_steps=0.1, weight_decay=0.01),
    "cosine, warmup steps": RANKING(lr_scheduler_type="cosine", warmup_steps=3, logging_steps=4),
    "polynomial": RANKING(lr_scheduler_type="polynomial", lr_scheduler_kwargs={"power": 2.0}, logging_first_step=True),
    "adafactor": RANKING(optim="adafactor", max_grad_norm=0.5),
    "accumulation": RANKING_LOSS(gradient_accumulation_steps=3, per_device_train_batch_size=4, eval_strategy="epoch"),
    "drop last": RANKING(dataloader_drop_last=True, per_device_train_batch_size=11),
    "max steps": RANKING_LOSS(max_steps=9, eval_strategy="steps", eval_steps=4),
    "no duplicates": RANKING_LOSS(batch_sampler="no_duplicates", eval_strategy="epoch"),
    "by label": Shape("BatchAllTripletLoss", LABELED)(batch_sampler="group_by_label"),
    "proportional": Shape(more=SCORED)(multi_dataset_batch_sampler="proportional"),
    "round robin": Shape(more=SCORED)(multi_dataset_batch_sampler="round_robin"),
    "several, each evaluated": Shape(more=SCORED, held_out=True)(eval_strategy="steps", eval_steps=5),
    "several, evaluation rows of one": Shape(more=SCORED, held_out=True, given=False)(eval_strategy="epoch"),
    "prompt for all": RANKING_LOSS(prompts="what is: ", eval_strategy="epoch"),
    "prompt for one": RANKING(prompts={"anchor": "what is: "}),
    "matryoshka": Shape("Matryoshka", held_out=True)(eval_strategy="steps", eval_steps=5),
    "matryoshka, some": Shape("Matryoshka, one dimension per step", held_out=True)(eval_strategy="epoch"),
    "matryoshka, some, no loss": Shape("Matryoshka, one dimension per step")(seed=3),
    "cached": Shape("CachedMultipleNegativesRankingLoss", held_out=True)(eval_strategy="epoch"),
    "lora": Shape(lora=True, held_out=True)(eval_strategy="epoch"),
    "bf16": RANKING_LOSS(bf16=True, use_cpu=True, eval_strategy="epoch"),
    "plateau": SCORES_LOSS(lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=2),
    "evaluator alone, epochs": SCORES_METRIC(eval_strategy="epoch"),
    "evaluator alone, steps and the end": SCORES_METRIC(eval_strategy="steps", eval_steps=4),
    "evaluator alone, its examples unknown": Shape("CoSENTLoss", SCORED, evaluator=True, given=False)(
        eval_strategy="steps", eval_steps=3
    ),
    "best by the loss": SCORES_BOTH(eval_strategy="epoch", save_strategy="epoch", learning_rate=2e-2, seed=11, **BEST),
    "best by the metric": SCORES_BOTH(
        eval_strategy="steps", eval_steps=4, save_steps=4, learning_rate=2e-2, logging_steps=5,
        metric_for_best_model="eval_my-dev_spearman_cosine", **BEST,
    ),
    "best by a metric that falls": SCORES_BOTH(
        eval_strategy="steps", eval_steps=3, save_steps=3, metric_for_best_model="my-dev_spearman_cosine",
        greater_is_better=False, **BEST,
    ),
    "early stopping": SCORES_BOTH(
        eval_strategy="steps", eval_steps=3, save_steps=3, num_train_epochs=6, learning_rate=2e-2, patience=2, **BEST,
    ),
    "on start": SCORES_BOTH(eval_on_start=True, eval_strategy="epoch", data_seed=9),
}  # fmt: skip


ALWAYS = {
    "linear, warmup share", "accumulation", "max steps", "no duplicates", "several, each evaluated", "prompt for all",
    "matryoshka", "cached", "lora", "plateau", "evaluator alone, epochs", "best by the metric", "early stopping",
    "on start",
}  # fmt: skip
"""Replayed in every run; the others need `-m long`."""


@dataclass(frozen=True)
class Given:
    """What a card does not hold."""

    base: Path
    rows: Path
    more: Path
    held_out: Path


def plain(shape: Shape, given: Given, folder: Path) -> Any:
    """Train with the library's trainer and save the model with its card in `folder`; returns the trainer."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
    from transformers import EarlyStoppingCallback, set_seed

    def dataset(path: Path) -> Any:
        return Dataset.from_list(json.loads(path.read_text()))

    arguments = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "steps", "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False,
        **shape.arguments,
    }  # fmt: skip
    patience = arguments.pop("patience", None)
    set_seed(arguments.get("seed", 42))
    model = SentenceTransformer(str(given.base), device="cpu")
    if shape.lora:
        from peft import LoraConfig, TaskType

        model.add_adapter(
            LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=4, lora_alpha=8, target_modules=["query", "value"])
        )
    rows, loss = dataset(given.rows), loss_of(shape.loss)(model)
    if shape.more:
        rows = {"pairs": rows, "scores": dataset(given.more)}
        loss = {"pairs": loss, "scores": loss_of("CoSENTLoss")(model)}
    held_out: Any = dataset(given.held_out) if shape.held_out else None
    if shape.more and shape.held_out:
        held_out = {"pairs": held_out, "scores": dataset(given.more).select(range(12))}
    evaluator = None
    if shape.evaluator:
        held = dataset(given.held_out)
        evaluator = EmbeddingSimilarityEvaluator(held["sentence1"], held["sentence2"], held["score"], name="my-dev")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(folder / "checkpoints"), **arguments),
        train_dataset=rows,
        eval_dataset=held_out,
        evaluator=evaluator,
        loss=loss,
        callbacks=[EarlyStoppingCallback(patience)] if patience else [],
    )
    trainer.train()
    model.save_pretrained(str(folder / "card"))
    return trainer


def of_the_card(shape: Shape, given: Given, folder: Path) -> Recipe:
    """The recipe as the card says, with the places of its rows."""
    places = {"data.train.location": str(given.rows)}
    if shape.more:
        places["data.more.0.source.location"] = str(given.more)
        if shape.held_out and shape.given:
            few = folder / "few.json"
            few.write_text(json.dumps(json.loads(given.more.read_text())[:12]))
            places["data.more.0.evaluation.location"] = str(few)
    if (shape.held_out or shape.evaluator) and (shape.given or shape.more):
        places["data.evaluation.location"] = str(given.held_out)
    return recipe(read_card(folder / "card"), overrides=places)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), words=[*WORDS, ":"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.long) for name in SHAPES]
)
def test_a_card_of_the_plain_trainer_replays_to_the_last_digit(name: str, base: Path, tmp_path: Path) -> None:
    shape = SHAPES[name]
    given = Given(
        base, rows_of(tmp_path, shape.rows, 44), rows_of(tmp_path, SCORED, 30, 7), rows_of(tmp_path, shape.rows, 20, 44)
    )
    trainer = plain(shape, given, tmp_path)
    made = of_the_card(shape, given, tmp_path)
    run = train(made, base=str(base), runs=tmp_path / "runs")
    theirs = trainer.state.log_history
    assert ("patience" in shape.arguments) == (trainer.state.global_step < trainer.state.max_steps)
    assert logged_losses(run, [row["step"] for row in theirs if "loss" in row]) == {
        row["step"]: row["loss"] for row in theirs if "loss" in row
    }
    expected = evaluations(theirs) if shape.given or shape.more else {}
    ours = evaluations(run.log())
    assert {step: losses(row) for step, row in ours.items()} == {
        step: {name: value for name, value in losses(row).items() if shape.given or name != "scores_loss"}
        for step, row in expected.items()
    }
    for step, row in expected.items():
        metrics = {name: value for name, value in row.items() if not name.endswith("loss")}
        assert {name: ours[step].get(name) for name in metrics} == pytest.approx(metrics, abs=5e-5)
    if shape.arguments.get("load_best_model_at_end"):
        assert run.record["best"]["step"] == trainer.state.best_global_step
    assert run.record["precision"] == ("bf16" if "bf16" in shape.arguments else "fp32")
    (weights,) = (run.path / "model").glob("*.safetensors")
    assert weights.read_bytes() == (tmp_path / "card" / weights.name).read_bytes()


def logged_losses(run: Run, steps: list[int]) -> dict[int, float]:
    """The mean loss up to each of the logged steps, summed in float32 as the trainer does."""
    losses = {row["step"]: np.float32(row["loss"]) for row in run.log() if "loss" in row}
    found, done = {}, 0
    for step in steps:
        total = sum((losses[at] for at in range(done + 1, step + 1)), start=np.float32(0))
        found[step], done = float(total) / (step - done), step
    return found


def evaluations(log: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Step -> the losses on held-out rows and the metrics of each evaluation, of the trainer's log or of ours."""
    found: dict[int, dict[str, float]] = {}
    for row in log:
        for key, value in row.items():
            name = re.sub("^(eval_)?(my-dev|validation)_|^eval_", "", key)
            if name != key and not name.endswith(("runtime", "per_second")):
                found.setdefault(row["step"], {})[name] = value
    return found


def losses(row: Mapping[str, float]) -> dict[str, float]:
    """The losses of one evaluation; where datasets have names, under these alone."""
    found = {name: value for name, value in row.items() if name.endswith("loss")}
    return {name: value for name, value in found.items() if name != "loss"} or found
