"""A base of a few thousand weights and rows for it, made in a moment, so that tests train for real.

As a program it trains, so that a test can kill it: `python tiny.py BASE ROWS RUNS [RUN]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.recipe.schema import Base, Data, EvaluationPlan, LossSpec, Recipe, Source, Split, Training
from workbench.run import Run

WORDS = [
    "brake",
    "wheel",
    "engine",
    "boot",
    "roof",
    "seat",
    "lamp",
    "mirror",
    "door",
    "key",
    "range",
    "charge",
    "litre",
    "power",
    "torque",
    "speed",
    "colour",
    "price",
    "what",
    "how",
    "many",
    "does",
    "the",
    "a",
    "have",
    "is",
    "it",
    "of",
    "with",
    "in",
    "for",
    "car",
    "model",
    "year",
]


def tiny_base(
    folder: Path, *, dimension: int = 32, dropout: float = 0.1, words: Sequence[str] = tuple(WORDS), seed: int = 7
) -> Path:
    """A BERT of two layers with random weights, mean pooling, that knows `words`, saved as the library saves it.

    One layer if `dimension` is large.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    source = folder / "source"
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *"0123456789"]))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words) + 15,
        hidden_size=dimension,
        num_hidden_layers=2 if dimension <= 128 else 1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(source)
    BertTokenizerFast(vocab=str(source / "vocab.txt"), model_max_length=32, strip_accents=False).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=32)
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")], device="cpu"
    )
    model.save_pretrained(str(folder / "base"), create_model_card=False)
    return folder / "base"


def tiny_rows(path: Path, rows: int = 60) -> Path:
    """Questions and answers that share a number of words, with a row of its own for each number."""
    made = []
    for number in range(rows):
        first, second = WORDS[number % 17], WORDS[(3 * number + 1) % 17]
        made.append(
            {
                "anchor": f"how many {first} does the {second} model {number} have",
                "positive": f"the {second} model {number} {first} is {number * 7 % 60}",
            }
        )
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def tiny_recipe(base: Path, rows: Path, **training: Any) -> Recipe:
    """A recipe in the shape of the Porsche card's."""
    arguments: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "batch_sampler": "no_duplicates",
        "eval_strategy": "epoch",
        "logging_steps": 1,
    }
    return Recipe(
        name="tiny",
        base=Base(model=str(base)),
        data=Data(train=Source(location=str(rows)), split=Split(), columns=("anchor", "positive")),
        loss=LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 20.0, "similarity_fct": "cos_sim"}),
        training=Training(**{**arguments, **training}),
        evaluation=EvaluationPlan(),
    )


def train_often(recipe: Recipe | None, *, timing: Mapping[str, Any] | None = None, **arguments: Any) -> Run:
    """`train` with a checkpoint every four steps, however long saving takes; `timing`: other fields of `Timing`."""
    from workbench.training.job import Timing
    from workbench.training.train import train

    given: dict[str, Any] = {"checkpoint_steps": 4, "saving_share": 1e9, **(timing or {})}
    return train(recipe, timing=Timing(**given), **arguments)


def main() -> None:
    base, rows, runs, *resumed = sys.argv[1:]
    made = tiny_recipe(Path(base), Path(rows))
    run = train_often(made, runs=runs, resume=resumed[0] if resumed else None, timing={"saving_share": 0.02})
    print(run.path, run.status)


if __name__ == "__main__":
    main()
