"""Train the five recipes at their real shapes on this machine's GPU, with random weights: speed, memory, loss.

    make bench-gpu                                            # 200 steps of each, into RESULTS.md
    python tests/benchmarks/gpu.py --steps 2 --device cpu     # only to see that the script works; writes nothing

The bases have the layers, widths and vocabularies of the real ones and random weights, which cost the same to train.
Texts are made-up words; their lengths follow a log-normal law around the card's own mean lengths, and are cut where
the card cuts. Everything else, precision too, is the recipe as its card says. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, __version__
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
    XLMRobertaConfig,
)

import workbench as wb
from workbench.recipe import with_overrides

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## On a GPU: five recipes at their real shapes"
WORDS = 20_000  # made-up words; each is one token
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Shape:
    """What a card's base and rows look like."""

    card: str
    config: Any  # of transformers; None for a table of 30,522 × 1,024
    pooling: str
    tokens: tuple[int, int]  # mean tokens of the two columns
    scored: bool = False


SHAPES = (
    Shape("hotpotqa-distilbert-energy", DistilBertConfig(), "mean", (24, 110)),
    Shape("gooaq-static-matryoshka", None, "mean", (12, 60)),
    Shape(
        "korean-law-lora",
        RobertaConfig(vocab_size=32_000, max_position_embeddings=514, type_vocab_size=1),
        "mean",
        (32, 120),
    ),
    Shape(
        "porsche-mxbai",
        BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
        "cls",
        (14, 60),
    ),
    Shape(
        "sinhala-xlmr-cosine",
        XLMRobertaConfig(vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1),
        "mean",
        (16, 16),
        scored=True,
    ),
)


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


def base(shape: Shape, folder: Path, limit: int) -> Path:
    """A base of the real shape with random weights, saved as the library saves it."""
    torch.manual_seed(1)
    path = folder / "base"
    if shape.config is None:
        SentenceTransformer(modules=[StaticEmbedding(tokenizer(limit), embedding_dim=1024)]).save(str(path))
        return path
    source = folder / "source"
    AutoModel.from_config(shape.config).save_pretrained(source)
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


def measure(shape: Shape, steps: int, folder: Path) -> dict[str, Any]:
    """Train one recipe for `steps` and give its figures."""
    card = wb.read_card(shape.card)
    asked = wb.recipe(card)
    training = asked.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    limit = asked.base.max_seq_length or 512
    file = folder / "rows.jsonl"
    made = rows(shape, (steps + 1) * batch, asked.data.columns)
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    path = base(shape, folder, limit)
    settings: dict[str, Any] = {
        "base.model": str(path),
        "data.train.location": str(file),
        "training.eval_strategy": "no",
    }
    recipe = with_overrides(asked, settings)
    data = recipe.data.model_copy(update={"split": None, "evaluation": None})
    recipe = recipe.model_copy(update={"data": data})
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    run = wb.train(recipe, card=card, runs=folder / "runs", base=str(path), max_steps=steps)
    record = run.record
    losses = [row["loss"] for row in run.log() if row.get("loss") is not None]
    return {
        "card": shape.card,
        "parameters": sum(np.prod(p.shape) for p in SentenceTransformer(str(path), device="cpu").parameters()),
        "precision": record["precision"],
        "batch": batch,
        "rows_per_second": record["cost"]["rows_per_second"],
        "peak_memory": record["cost"]["peak_memory"],
        "first": losses[0],
        "last": losses[-1],
        "finite": all(map(math.isfinite, losses)),
        "seconds": time.monotonic() - started,
    }


def table(found: list[dict[str, Any]], steps: int, device: str) -> str:
    """The figures as a section of RESULTS.md."""
    heads = ("card", "parameters", "precision", "rows a step", "rows/s", "peak memory", "loss", "finite", "seconds")
    cells = [heads, ("---",) * len(heads)]
    for each in found:
        cells.append(  # noqa: PERF401
            (
                each["card"],
                f"{each['parameters'] / 1e6:.0f} M",
                each["precision"],
                f"{each['batch']}",
                f"{each['rows_per_second']:,.0f}",
                f"{each['peak_memory'] / 1e9:.2f} GB",
                f"{each['first']:.4f} → {each['last']:.4f}",
                "yes" if each["finite"] else "NO",
                f"{each['seconds']:.0f}",
            )
        )
    lines = [
        HEADING,
        "",
        f"{date.today()}, {device}; Python {platform.python_version()}, torch {torch.__version__},",
        f"sentence-transformers {__version__}. `make bench-gpu`: {steps} optimizer steps of each recipe as written,",
        "random weights, made-up words. Rows/s are of training alone; memory is the most that torch held.",
        "",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    return "\n".join(lines) + "\n"


def keep(section: str) -> None:
    """Put the section into RESULTS.md, in place of an earlier one."""
    text = RESULTS.read_text(encoding="utf-8")
    earlier = re.search(rf"{re.escape(HEADING)}\n.*?(?=\n## |\Z)", text, re.DOTALL)
    text = text.replace(earlier[0], section) if earlier else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text, encoding="utf-8")


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Train the five recipes at their real shapes.")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu writes nothing")
    parser.add_argument("--cards", nargs="*", help="only these")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("expected a CUDA GPU, found none; --device cpu --steps 2 shows that the script works.", file=sys.stderr)
        return 2
    found = []
    for shape in SHAPES:
        if not chosen.cards or shape.card in chosen.cards:
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(shape, chosen.steps, Path(folder)))
            print(json.dumps(found[-1], default=float), flush=True)
    device = torch.cuda.get_device_name() if chosen.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    section = table(found, chosen.steps, device)
    print(section)
    if chosen.device == "cuda" and not chosen.cards:
        keep(section)
    return 0 if all(each["finite"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
