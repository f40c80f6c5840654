"""Rows, evaluation sets and trainings of the cards in `make_cards`: plain scripts of the library on a tiny base.

Everything follows from the shipped sample `porsche` and fixed seeds.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import sample_rows
import tiny

BASE = "acme/tiny-bert"  # as the cards name it
QUERIES = 60
DIMENSION = 48

Rows = list[dict[str, Any]]


# --- rows and evaluation sets ----------------------------------------------------------------------------------------


@cache
def sample() -> tuple[Rows, Rows]:
    """Rows to train on and rows held out: anchor, positive, topic, model."""
    rows = sample_rows.read("porsche")
    return rows["train"], rows["test"]


def pairs(start: int = 0, stop: int = 128) -> Rows:
    return [{name: row[name] for name in ("anchor", "positive")} for row in sample()[0][start:stop]]


def other(rows: Rows, place: int) -> str:
    """The answer to another question on the same topic, or of the next row."""
    row = rows[place]
    later = [*rows[place + 1 :], *rows[:place]]
    near = (each["positive"] for each in later if each["topic"] == row["topic"] and each["positive"] != row["positive"])
    return str(next(near, later[0]["positive"]))


def triplets(rows: Rows) -> Rows:
    return [
        {"anchor": row["anchor"], "positive": row["positive"], "negative": other(rows, place)}
        for place, row in enumerate(rows)
    ]


def scored(rows: Rows) -> Rows:
    """In turn: the own answer, 1.0; one on the same topic, 0.4 or 0.6; one on anything, 0.0 or 0.2."""
    made = []
    for place, row in enumerate(rows):
        far = rows[(place + len(rows) // 2) % len(rows)]["positive"]
        text, score = [(row["positive"], 1.0), (other(rows, place), 0.4 + place % 2 / 5), (far, place % 2 / 5)][
            place % 3
        ]
        made.append({"sentence1": row["anchor"], "sentence2": text, "score": score})
    return made


def labeled(rows: Rows) -> Rows:
    return [
        {
            "sentence1": row["anchor"],
            "sentence2": row["positive"] if place % 2 else other(rows, place),
            "label": place % 2,
        }
        for place, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class Search:
    """Questions, and among which answers theirs is to be found."""

    questions: Rows
    answers: Rows

    def texts(self) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
        """Queries, corpus, and the relevant documents of each query."""
        documents = dict.fromkeys(row["positive"] for row in (*self.questions, *self.answers))
        ids = {text: f"d{place}" for place, text in enumerate(documents)}
        queries = {f"q{place}": row["anchor"] for place, row in enumerate(self.questions)}
        relevant = {f"q{place}": {ids[row["positive"]]} for place, row in enumerate(self.questions)}
        return queries, {key: text for text, key in ids.items()}, relevant

    def evaluator(self, name: str, **options: Any) -> Any:
        from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

        return InformationRetrievalEvaluator(*self.texts(), name=name, **options)

    def write(self, place: Path) -> Path:
        """A folder in the layout of BEIR."""
        queries, corpus, relevant = self.texts()
        (place / "qrels").mkdir(parents=True, exist_ok=True)
        for name, texts in (("queries", queries), ("corpus", corpus)):
            write_rows(place / f"{name}.jsonl", [{"_id": key, "text": text} for key, text in texts.items()])
        judged = [f"{query}\t{key}\t1\n" for query, keys in relevant.items() for key in keys]
        (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged), encoding="utf-8")
        return place


@dataclass(frozen=True)
class Table:
    """Rows for one of the library's other evaluators."""

    kind: str  # its class
    rows: Rows

    def evaluator(self, name: str, **options: Any) -> Any:
        from sentence_transformers.sentence_transformer import evaluation

        columns = [[row[key] for row in self.rows] for key in self.rows[0]]
        return getattr(evaluation, self.kind)(*columns, name=name, **options)

    def write(self, place: Path) -> Path:
        return write_rows(place.with_suffix(".jsonl"), self.rows)


def write_rows(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def search() -> Search:
    return Search(sample()[1][:QUERIES], [])


def similarity() -> Table:
    return Table("EmbeddingSimilarityEvaluator", scored(sample()[1][:120]))


# --- trainings -------------------------------------------------------------------------------------------------------


def ranking(model: Any, **options: Any) -> Any:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model, **options)


def loss(name: str, **options: Any) -> Callable[[Any], Any]:
    """A loss of the library by name."""

    def make(model: Any) -> Any:
        from sentence_transformers.sentence_transformer import losses

        return getattr(losses, name)(model, **options)

    return make


def matryoshka(model: Any) -> Any:
    return loss("MatryoshkaLoss", loss=ranking(model), matryoshka_dims=[48, 24, 12])(model)


def both(model: Any) -> Any:
    return {"questions": ranking(model), "scored": loss("CoSENTLoss")(model)}


@dataclass(frozen=True)
class Shape:
    """One training by the library's trainer; by default pairs, MultipleNegativesRankingLoss, and a search per epoch."""

    rows: Callable[[], Rows | Mapping[str, Rows]] = pairs
    loss: Callable[[Any], Any] = ranking
    evaluators: Callable[[], Mapping[str, tuple[Search | Table, dict[str, Any]]]] = lambda: {"held-out": (search(), {})}
    held_out: Callable[[], Rows] | None = None  # rows of the validation loss
    split: int | None = None  # seed of the one train_test_split that divides the rows
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before: bool = False  # evaluate before training: the row with step -1
    after: bool = False  # and once more after it
    during: bool = True  # and while training
    lora: bool = False
    base_seed: int = 7


ARGUMENTS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-3,
    "warmup_steps": 0.1,
    "logging_steps": 5,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "batch_sampler": "no_duplicates",
    "disable_tqdm": True,
    "report_to": "none",
    "dataloader_pin_memory": False,
}
BY_STEPS = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
PLAIN_BATCHES = {"batch_sampler": "batch_sampler"}


def similar() -> Mapping[str, tuple[Search | Table, dict[str, Any]]]:
    return {"sts-dev": (similarity(), {})}


SHAPES: dict[str, Shape] = {
    "pairs": Shape(),
    "cosent": Shape(
        rows=lambda: scored(sample()[0][:128]),
        loss=loss("CoSENTLoss"),
        evaluators=similar,
        arguments={
            **BY_STEPS,
            **PLAIN_BATCHES,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_sts-dev_spearman_cosine",
            "learning_rate": 4e-3,
            "seed": 7,
        },
        after=True,
    ),
    "cosine": Shape(
        rows=lambda: scored(sample()[0][:128]),
        loss=loss("CosineSimilarityLoss"),
        evaluators=similar,
        held_out=lambda: scored(sample()[1][:120]),
        arguments={
            **PLAIN_BATCHES,
            "num_train_epochs": 3,
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "learning_rate": 1e-2,
        },
    ),
    "triplets": Shape(
        rows=lambda: triplets(sample()[0][:128]),
        evaluators=lambda: {"held-out": (Table("TripletEvaluator", triplets(sample()[1][:100])), {})},
        held_out=lambda: triplets(sample()[1][100:]),
    ),
    "matryoshka": Shape(
        loss=matryoshka,
        evaluators=lambda: {f"dim_{cut}": (search(), {"truncate_dim": cut}) for cut in (48, 24, 12)},
    ),
    "proportional": Shape(
        rows=lambda: {"questions": pairs(0, 96), "scored": scored(sample()[0][96:160])},
        loss=both,
        evaluators=lambda: {"held-out": (search(), {}), **similar()},
        arguments=PLAIN_BATCHES,
    ),
    "round-robin": Shape(
        rows=lambda: {"first": pairs(0, 64), "second": pairs(64, 160)},
        arguments={**PLAIN_BATCHES, "multi_dataset_batch_sampler": "round_robin"},
    ),
    "prompts": Shape(arguments={"prompts": {"anchor": "how many ", "positive": "the "}}),
    "accumulation": Shape(
        arguments={
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.01,
            "max_grad_norm": 0.5,
        },
    ),
    "cached": Shape(
        loss=loss("CachedMultipleNegativesRankingLoss", mini_batch_size=8), arguments={"num_train_epochs": 1}
    ),
    "lora": Shape(lora=True, arguments={"learning_rate": 1e-2}),
    "before": Shape(before=True, arguments={"num_train_epochs": 1}),
    "split": Shape(rows=lambda: pairs(0, 160), split=12),
    "labels": Shape(
        rows=lambda: labeled(sample()[0][:128]),
        loss=loss("ContrastiveLoss"),
        evaluators=lambda: {"duplicates": (Table("BinaryClassificationEvaluator", labeled(sample()[1][:100])), {})},
        arguments=PLAIN_BATCHES,
    ),
    "losses-only": Shape(evaluators=dict, held_out=lambda: pairs(300, 360)),
    "after": Shape(during=False, after=True, arguments={"num_train_epochs": 1}),
    "start": Shape(held_out=lambda: pairs(300, 360), arguments={**BY_STEPS, "eval_on_start": True}),
}
"""Honest trainings. Those that are falsified by training otherwise are in the cases."""


def base_folder(folder: Path, seed: int) -> Path:
    """A tiny base that knows the words of the sample, made once; the seed draws its weights."""
    place = folder / f"bases-{seed}"
    named_as_on_the_card = place / BASE.rpartition("/")[2]
    if not named_as_on_the_card.is_dir():
        import torch
        from sentence_transformers import SentenceTransformer

        texts = (row[key] for rows in sample() for row in rows for key in ("anchor", "positive"))
        words = sorted({word for text in texts for word in sample_rows.words(text)})
        with quiet():
            made = tiny.tiny_base(place, dimension=DIMENSION, words=words)
            model = SentenceTransformer(str(made), device="cpu")
            words_table = model[0].auto_model.embeddings.word_embeddings.weight.data
            # Larger than the rest, so that texts with common words are near before any training.
            words_table.normal_(std=0.4, generator=torch.Generator().manual_seed(seed))
            model.save_pretrained(str(named_as_on_the_card), create_model_card=False)
    return named_as_on_the_card


def train(shape: Shape, base: Path) -> Any:
    """The model, trained as a plain script of the library does, with one thread."""
    import torch
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.base.evaluation import SequentialEvaluator
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
    from transformers import set_seed

    torch.set_num_threads(1)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        model = SentenceTransformer(str(base), device="cpu")
        model.model_card_data.local_files_only = True
        model.model_card_data.base_model = BASE
        if shape.lora:
            set_seed(42)
            model.add_adapter(adapter())
        rows, held_out = datasets_of(shape)
        made = [task.evaluator(name, **options) for name, (task, options) in shape.evaluators().items()]
        evaluator = made[0] if len(made) == 1 else SequentialEvaluator(made) if made else None
        if shape.before:
            evaluator(model)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                **{**ARGUMENTS, **({} if shape.during else {"eval_strategy": "no"}), **shape.arguments},
            ),
            train_dataset=rows,
            eval_dataset=held_out,
            loss=shape.loss(model),
            evaluator=evaluator if shape.during else None,
        )
        trainer.train()
        if shape.after:
            evaluator(model)
    return model


def datasets_of(shape: Shape) -> tuple[Any, Any]:
    """What the trainer gets: rows to train on, and rows of the validation loss or None."""
    from datasets import Dataset

    rows = shape.rows()
    if isinstance(rows, Mapping):
        return {name: Dataset.from_list(part) for name, part in rows.items()}, None
    whole = Dataset.from_list(rows)
    if shape.split is not None:
        parts = whole.train_test_split(test_size=0.2, seed=shape.split)
        return parts["train"], parts["test"]
    return whole, None if shape.held_out is None else Dataset.from_list(shape.held_out())


def adapter() -> Any:
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION, r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["query", "value"]
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars of the libraries."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
