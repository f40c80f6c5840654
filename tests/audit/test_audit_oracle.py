"""The installed library trains a tiny model and writes its card; the audit says of it what is known to be true."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny import WORDS, tiny_base

from workbench.audit.rules import audit
from workbench.cards import lookup
from workbench.cards.card import Card
from workbench.cards.inference import infer
from workbench.cards.read import read_card

st = pytest.importorskip("sentence_transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the library's own warnings are not what is tested here
]

ROWS, BATCH = 203, 8
SMALL = {"dataset-unnamed", "not-evaluated", "tiny-data", "batch-too-small", "truncated-texts"}
"""What is true of every card here: 203 unnamed rows in batches of 8, nothing evaluated."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_base(tmp_path_factory.mktemp("base")))


def texts() -> dict[str, list[str]]:
    dice = random.Random(5)
    made = {name: [" ".join(dice.choices(WORDS, k=6)) for _ in range(ROWS)] for name in ("anchor", "positive")}
    assert len(set(made["anchor"])) == ROWS
    return made


def by_trainer(base: str, folder: Path, **settings: Any) -> Card:
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = st.SentenceTransformer(base, device="cpu")
    options = {"num_train_epochs": 2, "logging_steps": 1, "per_device_train_batch_size": BATCH, "save_strategy": "no"}
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "out"), report_to=[], use_cpu=True, disable_tqdm=True, **{**options, **settings}
    )
    rows = Dataset.from_dict(texts())
    loss = MultipleNegativesRankingLoss(model)
    st.SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    model.save_pretrained(str(folder / "model"))
    return read_card(folder / "model")


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_epochs_of_the_real_trainer(base: str, tmp_path: Path, accumulation: int, drop_last: bool) -> None:
    """203 rows in batches of 8: 26 batches, or 25 without the last; one process, all rows, whatever is accumulated."""
    card = by_trainer(
        base, tmp_path, gradient_accumulation_steps=accumulation, dataloader_drop_last=drop_last, logging_steps=2
    )
    epoch = infer(card).epoch
    assert epoch is not None
    assert epoch.exact == (25 if drop_last else 26)
    found = audit(card)
    assert set(found.codes) <= SMALL
    assert {fact.name: fact.value for fact in found.reproducibility.facts}["processes"] == 1


def test_a_card_of_fit_is_told_from_one_of_the_trainer(base: str, tmp_path: Path) -> None:
    """fit() runs at 3e-4 here, and the card shows the trainer's default."""
    from sentence_transformers import InputExample
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import DataLoader

    model = st.SentenceTransformer(base, device="cpu")
    pairs = [InputExample(texts=list(pair)) for pair in zip(*texts().values(), strict=True)]
    loader: Any = DataLoader(pairs, shuffle=True, batch_size=BATCH)
    model.fit(
        train_objectives=[(loader, MultipleNegativesRankingLoss(model))],
        epochs=1,
        optimizer_params={"lr": 3e-4},
        output_path=str(tmp_path / "model"),
        checkpoint_path=str(tmp_path / "checkpoints"),
        show_progress_bar=False,
    )
    card = read_card(tmp_path / "model")
    finding = audit(card)["fit-defaults"]
    assert finding.severity == "error"
    assert len(finding.evidence["marks"]) == 3
    assert lookup.number(card, "learning_rate") == 5e-05
    assert "fit-defaults" not in audit(by_trainer(base, tmp_path / "trainer", learning_rate=3e-4)).codes
