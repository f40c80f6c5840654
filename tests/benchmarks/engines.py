"""The five cards' recipes on made-up rows and bases with random weights, for timing the two engines beside each other.

Texts are made-up words, their lengths log-normal around the card's own means and cut where the card cuts. Bases have
the real layers, widths and vocabularies, or are small ones of the same architectures. Word embeddings are drawn large,
so that vectors of different texts differ and the losses are not those of a model that says the same of every text.
Everything else, precision and learning rate too, is the recipe as its card says; only the schedule does not warm up,
so that weights move within the few steps.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    TrainerCallback,
    XLMRobertaConfig,
)
from transformers.trainer_callback import PrinterCallback

import workbench as wb
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Recipe
from workbench.training.callbacks import Journal
from workbench.training.energy_use import Energy
from workbench.training.fast import engine
from workbench.training.job import Job
from workbench.training.prepare import Prepared, prepare
from workbench.training.trainer import denormals_as_zero, quiet, training_arguments

WORDS = 20_000  # made-up words; each is one token
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
NARROW: dict[str, Any] = {
    "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 3
}  # fmt: skip
ROBERTA: dict[str, Any] = {"max_position_embeddings": 514, "type_vocab_size": 1}


@dataclass(frozen=True)
class Shape:
    """What a card's base and rows look like."""

    card: str
    real: Any  # configuration of transformers; None for a table of 30,522 × 1,024
    small: Any  # of the same architecture, for a CPU
    steps: int  # of one turn of the small one
    pooling: str
    tokens: tuple[int, int]  # mean tokens of the two columns
    scored: bool = False


SHAPES = (
    Shape(
        "hotpotqa-distilbert-energy",
        DistilBertConfig(),
        DistilBertConfig(dim=384, n_heads=12, hidden_dim=1536, n_layers=3),
        3,
        "mean",
        (24, 110),
    ),
    Shape("gooaq-static-matryoshka", None, None, 12, "mean", (12, 60)),
    Shape(
        "korean-law-lora",
        RobertaConfig(vocab_size=32_000, **ROBERTA),
        RobertaConfig(vocab_size=32_000, **ROBERTA, **NARROW),
        12,
        "mean",
        (32, 120),
    ),
    Shape(
        "porsche-mxbai",
        BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
        BertConfig(**NARROW),
        8,
        "cls",
        (14, 60),
    ),
    Shape(
        "sinhala-xlmr-cosine",
        XLMRobertaConfig(vocab_size=250_002, **ROBERTA),
        XLMRobertaConfig(vocab_size=100_000, **ROBERTA, **NARROW),
        12,
        "mean",
        (16, 16),
        scored=True,
    ),
)


# --- what is trained -----------------------------------------------------------------------------------------------


def tokenizer(limit: int) -> PreTrainedTokenizerFast:
    """One token a word, with begin and end, as the real ones have."""
    words = {word: place for place, word in enumerate((*SPECIAL, *(f"w{number}" for number in range(WORDS))))}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=limit, eos_token="</s>", **names)


def base(shape: Shape, config: Any, folder: Path, limit: int) -> Path:
    """A base with random weights, saved as the library saves it."""
    torch.manual_seed(1)
    path = folder / "base"
    if config is None:
        SentenceTransformer(modules=[StaticEmbedding(tokenizer(limit), embedding_dim=1024)]).save(str(path))
        return path
    source = folder / "source"
    model = AutoModel.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(25)  # from 0.02 to 0.5: positions do not drown words
    model.save_pretrained(source)
    tokenizer(limit).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=limit)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=shape.pooling)
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(path))
    return path


def rows(shape: Shape, count: int, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of made-up words; lengths log-normal with sigma 0.5 around the mean."""
    drawn = np.random.default_rng(1)
    for _ in range(count):
        texts = [
            " ".join(
                f"w{word}" for word in drawn.integers(WORDS, size=max(2, int(drawn.lognormal(math.log(mean), 0.5))))
            )
            for mean in shape.tokens
        ]
        row: dict[str, Any] = dict(zip(columns, texts, strict=False))
        if shape.scored:
            row[columns[-1]] = round(float(drawn.random()), 2)
        yield row


def rows_per_step(recipe: Recipe) -> int:
    return recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps


def prepared(shape: Shape, config: Any, steps: int, folder: Path) -> Prepared:
    """All that training of the card's recipe for `steps` steps needs, on the best device there is."""
    asked = wb.recipe(wb.read_card(shape.card))
    file = folder / "rows.jsonl"
    made = rows(shape, (steps + 1) * rows_per_step(asked), asked.data.columns)
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return _few_steps(asked, str(file), steps, str(base(shape, config, folder, asked.base.max_seq_length or 512)))


def on_sample(card: str, sample: str, steps: int, folder: Path) -> Prepared:
    """The same on a shipped sample and the base that stands in for the card's own."""
    return _few_steps(wb.recipe(wb.read_card(card)), f"sample:{sample}", steps, "bundled:minilm")


def _few_steps(asked: Recipe, location: str, steps: int, base: str) -> Prepared:
    settings: dict[str, Any] = {
        "data.train.location": location, "training.eval_strategy": "no", "training.max_steps": steps,
        "training.warmup_steps": 0, "training.warmup_ratio": 0.0, "training.engine": "fast",
    }  # fmt: skip
    recipe = with_overrides(asked, settings)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"split": None, "evaluation": None})})
    return prepare(recipe, base)


# --- turns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One training of some steps."""

    seconds: float  # of all steps but the first ones, which warm up
    steps: int  # that those seconds are of
    first: float  # seconds until the first step had ended, tokens made ahead among them
    losses: list[float]  # of every step
    memory: int  # bytes that CUDA held at most; 0 without


class Clock(TrainerCallback):
    """When steps ended; the device is waited for at the two between which is counted, and nowhere else."""

    def __init__(self, warm: int) -> None:
        self.warm, self.began = warm, time.perf_counter()
        self.ends: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (1, self.warm, state.max_steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends[state.global_step] = time.perf_counter()
        control.should_save = False  # a checkpoint at the end is not what is timed

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = False


class Plain(SentenceTransformerTrainer):
    """The library's trainer, whose losses are kept where they are computed."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.parts: list[torch.Tensor] = []  # of each batch, divided by the batches of a step

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.parts.append(loss.detach())
        return loss


def turn(ready: Prepared, folder: Path, *, fast: bool, dropout: bool = True, warm: int = 1) -> Turn:
    """Train by the library's trainer or the fast engine, from the same weights each time.

    `warm`: steps that are not counted. Raises SystemExit where the fast engine does not take the recipe.
    """
    model, loss = copy.deepcopy((ready.base.model, ready.loss))
    reason = engine.refusal(ready.recipe, model)
    if reason is not None:
        raise SystemExit(f"{ready.recipe.name}: {reason}")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    steps, kept = ready.plan.steps, []
    job = Job(
        model=model, loss=loss, rows=ready.rows, held_out=None, not_held_out=0, recipe=ready.recipe, plan=ready.plan,
        folder=folder / "checkpoints", evaluate=lambda step: {}, best_metric=None, higher_is_better=True,
        log=lambda *rows: kept.extend(row["loss"] for row in rows), on_step=lambda progress: None,
    )  # fmt: skip
    arguments = training_arguments(job)
    arguments.save_strategy, arguments.logging_steps = "no", steps
    given = {"model": model, "args": arguments, "train_dataset": job.rows, "loss": loss}
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with quiet(), denormals_as_zero(), redirect_stderr(io.StringIO()):  # as `train` has both engines
        if fast:
            journal = Journal(job, Energy({}))
            fitting: Any = engine.Fast(journal=journal, **given)
        else:
            fitting = Plain(**given)
        fitting.remove_callback(PrinterCallback)
        clock = Clock(min(warm, steps - 1))
        fitting.add_callback(clock)
        fitting.train()
    if not fast:
        batches = ready.recipe.training.gradient_accumulation_steps
        kept = torch.stack(fitting.parts).float().view(-1, batches).sum(1).tolist()
    return Turn(
        seconds=clock.ends[steps] - clock.ends[clock.warm],
        steps=steps - clock.warm,
        first=clock.ends[1] - clock.began,
        losses=kept,
        memory=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    )


def without_dropout(ready: Prepared, folder: Path) -> tuple[float, list[float]]:
    """The greatest relative difference of the engines' losses where there is no dropout, and the trainer's losses.

    In float32, and with a scale of 20 where the card's is so small that every loss is the logarithm of the batch.
    """
    model, loss = copy.deepcopy((ready.base.model, ready.loss))
    if getattr(loss, "scale", 1) < 1:
        loss.scale = 20.0
    base, plan = replace(ready.base, model=model), replace(ready.plan, precision="fp32")
    exact = replace(ready, base=base, loss=loss, plan=plan)
    plain, ours = (turn(exact, folder, fast=fast, dropout=False).losses for fast in (False, True))
    return max(abs(a - b) / abs(a) for a, b in zip(plain, ours, strict=True)), plain
