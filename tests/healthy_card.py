"""A healthy made-up card, on which every rule of the audit is silent, and ways to make it ill."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from workbench.cards.card import Card, ColumnStatistics, Dataset, Evaluation, LogRow, Loss, Module, Stated

ROWS, BATCH, PER_EPOCH, EPOCHS = 64_000, 64, 1000, 3
COLUMN = "dev_cosine_ndcg@10"
TEXTS = (
    {"anchor": "how far is the moon", "positive": "The moon is 384,400 km away."},
    {"anchor": "who wrote the letter", "positive": "The letter was written by Ada."},
    {"anchor": "why is the sky blue", "positive": "Air scatters blue light most."},
)


def statistics(column: str, longest: int, mean: float = 20.0) -> ColumnStatistics:
    return ColumnStatistics(column, "string", {"min": 3, "mean": mean, "max": longest}, "tokens")


def row(step: int, loss: float | None = None, *, per_epoch: int = PER_EPOCH, line: int = 0, **rest: Any) -> LogRow:
    """A log row whose epoch is rounded as the trainer rounds it. `metric` fills the column of `COLUMN`."""
    metric = rest.pop("metric", None)
    metrics = rest.pop("metrics", {COLUMN: metric})
    epoch = round(step / per_epoch, 4) if step >= 0 else -1.0
    return LogRow(
        epoch, step, loss, rest.pop("validation", None), metrics, rest.pop("saved", False), line or 100 + step
    )


def healthy_log() -> tuple[LogRow, ...]:
    falling = [row(step, round(0.4 + 0.8 * math.exp(-step / 900), 4)) for step in range(100, 3001, 100)]
    measured = [
        row(1000, metric=0.5512, validation=0.61),
        row(2000, metric=0.5893, validation=0.52),
        row(3000, metric=0.6017, validation=0.49, saved=True),
    ]
    return tuple(sorted([*falling, *measured], key=lambda one: (one.step or 0, one.training_loss is None)))


def arguments(**values: Any) -> dict[str, Stated[Any]]:
    return {name: Stated(value, 50 + at) for at, (name, value) in enumerate(values.items())}


def train_dataset() -> Dataset:
    return Dataset(
        role="train",
        name="pairs",
        id="acme/pairs",
        revision="0" * 40,
        size=ROWS,
        columns=("anchor", "positive"),
        statistics=(statistics("anchor", 60), statistics("positive", 200, 80.0)),
        samples=TEXTS,
        loss=Loss("MultipleNegativesRankingLoss", {"scale": 20.0, "similarity_fct": "cos_sim"}, line=30),
        lines=(20, 35),
        facts={"size": 21, "columns": 22, "statistics": 23, "samples": 25, "loss": 30},
    )


def evaluation_dataset() -> Dataset:
    return replace(
        train_dataset(),
        role="evaluation",
        id="acme/held",
        name="held",
        size=2000,
        statistics=(statistics("anchor", 55), statistics("positive", 190, 81.0)),
        samples=({"anchor": "when was the war", "positive": "The war began in 1701."},),
        lines=(36, 45),
        facts={"size": 37},
    )


def evaluation(value: float = 0.6017, name: str = "dev", **metrics: float) -> Evaluation:
    return Evaluation(
        evaluator="InformationRetrievalEvaluator",
        name="Information Retrieval",
        datasets=(name,),
        parameters={},
        metrics={"cosine_accuracy@1": 0.4321, "cosine_accuracy@10": 0.8123, "cosine_ndcg@10": value, **metrics},
        main_metric="cosine_ndcg@10",
        lines=(10, 15),
        metric_lines={"cosine_ndcg@10": 14, "cosine_accuracy@10": 13},
    )


def healthy() -> Card:
    return Card(
        name="healthy",
        kind="sentence-transformer",
        library_version="5.1.2",
        base_model=Stated("acme/base", 4),
        base_revision=Stated("1" * 40, 4),
        modules=(
            Module(0, "Transformer", {"max_seq_length": 512}, "BertModel", 7),
            Module(1, "Pooling", {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}, None, 8),
            Module(2, "Normalize", {}, None, 9),
        ),
        similarity=Stated("Cosine Similarity", 6),
        max_seq_length=Stated(512, 5),
        output_dimension=Stated(768, 5),
        datasets=(train_dataset(), evaluation_dataset()),
        non_default=arguments(
            per_device_train_batch_size=BATCH, learning_rate=2e-05, eval_strategy="epoch", load_best_model_at_end=True
        ),
        hyperparameters=arguments(
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            gradient_accumulation_steps=1,
            learning_rate=2e-05,
            weight_decay=0.0,
            lr_scheduler_type="linear",
            warmup_ratio=0.1,
            warmup_steps=0,
            optim="adamw_torch",
            num_train_epochs=EPOCHS,
            max_steps=-1,
            max_grad_norm=1.0,
            seed=42,
            fp16=False,
            bf16=True,
            dataloader_drop_last=False,
            eval_strategy="epoch",
            load_best_model_at_end=True,
            prompts=None,
            batch_sampler="no_duplicates",
            multi_dataset_batch_sampler="proportional",
        ),
        training_log=healthy_log(),
        evaluations=(evaluation(),),
        versions={"Sentence Transformers": Stated("5.1.2", 90), "Transformers": Stated("4.57.1", 91)},
    )


def with_args(card: Card, **values: Any) -> Card:
    """The card with other training arguments, non-default and among all."""
    return replace(
        card,
        non_default={**card.non_default, **arguments(**values)},
        hyperparameters={**card.hyperparameters, **arguments(**values)},
    )


def without_args(card: Card, *names: str) -> Card:
    """The card without these arguments among the non-default ones."""
    return replace(card, non_default={k: v for k, v in card.non_default.items() if k not in names})


def with_rows(card: Card, **fields: Any) -> Card:
    """The card with another training dataset."""
    rest = tuple(one for one in card.datasets if one.role != "train")
    return replace(card, datasets=(replace(card.training_datasets()[0], **fields), *rest))


def with_loss(card: Card, name: str, **parameters: Any) -> Card:
    """The card with another loss."""
    return with_rows(card, loss=Loss(name, parameters, line=30))


def with_log(card: Card, rows: Iterable[LogRow]) -> Card:
    return replace(card, training_log=tuple(rows))


def versions(card: Card, **stated: str) -> Card:
    """The card written by other versions: `st` and `transformers`."""
    names = {"st": "Sentence Transformers", "transformers": "Transformers"}
    return replace(
        card,
        library_version=stated.get("st", card.library_version),
        versions={**card.versions, **{names[key]: Stated(value, 90) for key, value in stated.items()}},
    )


def without_evaluation(card: Card) -> Card:
    bare = tuple(replace(one, metrics={}, validation_loss=None) for one in card.training_log if one.training_loss)
    return replace(card, evaluations=(), training_log=bare, datasets=card.training_datasets())


def by_fit(card: Card) -> Card:
    """The card as fit() would have written it."""
    columns = ("sentence_0", "sentence_1")
    texts = tuple(dict(zip(columns, sample.values(), strict=True)) for sample in TEXTS)
    made = with_rows(card, columns=columns, samples=texts, statistics=tuple(statistics(name, 90) for name in columns))
    made = with_args(made, max_grad_norm=1, multi_dataset_batch_sampler="round_robin")
    made = without_args(made, "learning_rate", "load_best_model_at_end")
    return replace(made, hyperparameters={**made.hyperparameters, **arguments(learning_rate=5e-05, warmup_ratio=0.0)})
