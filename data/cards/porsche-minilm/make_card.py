"""Train the model of this card with the library's own trainer, and write the card.

    python data/cards/porsche-minilm/make_card.py

A plain script of sentence-transformers, as anybody writes one: the bundled all-MiniLM-L6-v2, the shipped sample
`porsche`, evaluations before, while and after training. Of the workbench, only the place of the files takes part.
So base, rows and evaluation set of the card are known, and `workbench reproduce porsche-minilm` needs no option.

Standing text of the library's template, the widget and citations are cut from the card: what is left are its facts.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.model_card import generate_model_card
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

from workbench.models.stand_ins import bundled_folder
from workbench.resources import shipped_path

BASE = "sentence-transformers/all-MiniLM-L6-v2"
STANDING = (
    r"<!--.*?-->",
    r"^## Usage\n.*?(?=^## )",
    r"^## Additional Resources\n.*?(?=^## )",
    r"^## Citation\n.*",
    r"^This is a \[sentence-transformers\].*?$",
    r"^### Training Time\n.*?(?=^### )",
)
ORIGIN = (
    "Trained by `make_card.py` in this folder on the sample `porsche` of Card Workbench. Its cars are invented, so "
    "nothing here is about real ones."
)


def train() -> SentenceTransformer:
    parts = {
        name: Dataset(
            pq.read_table(shipped_path(f"data/samples/porsche/{name}.parquet"), columns=["anchor", "positive"])
        )
        for name in ("train", "validation", "test")
    }
    answers = dict.fromkeys(text for part in parts.values() for text in part["positive"])
    ids = {text: str(place) for place, text in enumerate(answers)}
    evaluator = InformationRetrievalEvaluator(
        queries={str(place): text for place, text in enumerate(parts["test"]["anchor"])},
        corpus={place: text for text, place in ids.items()},
        relevant_docs={str(place): {ids[text]} for place, text in enumerate(parts["test"]["positive"])},
        name="porsche-test",
    )
    model = SentenceTransformer(str(bundled_folder()), device="cpu")
    model.model_card_data.local_files_only = True
    model.model_card_data.base_model = BASE
    evaluator(model)
    with tempfile.TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=16,
                learning_rate=2e-5,
                warmup_steps=0.1,
                batch_sampler="no_duplicates",
                eval_strategy="steps",
                eval_steps=22,
                logging_steps=4,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=parts["train"],
            eval_dataset=parts["validation"],
            loss=MultipleNegativesRankingLoss(model),
            evaluator=evaluator,
        ).train()
    return model


def facts(card: str) -> str:
    """The library's card without its standing text."""
    _, header, body = card.split("---\n", 2)
    header = re.sub(r"^widget:\n(?:[- ].*\n)+", "", header, flags=re.MULTILINE)
    for pattern in STANDING:
        body = re.sub(pattern, "", body, flags=re.DOTALL | re.MULTILINE)
    body = re.sub(r"(?<=^### Model Sources\n\n).*?\n\n(?=^### )", f"{ORIGIN}\n\n", body, flags=re.DOTALL | re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body).rstrip()
    return f"---\n{header}---\n{body}\n"


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("README.md")
    place.write_text(facts(generate_model_card(train())), encoding="utf-8")
