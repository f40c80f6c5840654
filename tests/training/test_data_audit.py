"""The rows are asked what the audit asks a card, before a run folder exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from healthy_card import healthy
from tiny import tiny_recipe

from workbench.cards.card import Card, ColumnStatistics, Dataset, Loss
from workbench.data.training_rows import load_splits
from workbench.errors import DataError
from workbench.recipe.schema import Data, LossSpec, Recipe, Source, Split
from workbench.training.data_audit import audit_rows
from workbench.training.train import train

Put = Callable[..., Recipe]
COLUMNS = ("sentence_0", "sentence_1", "label")


@pytest.fixture
def put(tmp_path: Path, base: Path) -> Put:
    def write(loss: str, labels: list[str], text: str = "the car {}", **parameters: object) -> Recipe:
        path = tmp_path / "rows.csv"
        rows = (f"{text.format(n)},the model {n},{label}\n" for n, label in enumerate(labels * 8))
        path.write_text(",".join(COLUMNS) + "\n" + "".join(rows), encoding="utf-8")
        data = Data(train=Source(location=str(path)), columns=COLUMNS, split=Split())
        spec = LossSpec(name=loss, parameters=parameters)
        return tiny_recipe(base, path, num_train_epochs=1).model_copy(update={"data": data, "loss": spec})

    return write


def found(recipe: Recipe, card: Card | None = None) -> list[tuple[str, str]]:
    return [(check.severity, check.message) for check in audit_rows(recipe, load_splits(recipe.data), card)]


ADVICE = " Change the labels or the loss before training."
TO_FIVE = "CosineSimilarityLoss takes labels from -1 to 1, but the column label holds 0 to 5."


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        ("CosineSimilarityLoss", ["0", "1.5", "5"], TO_FIVE),
        ("SoftmaxLoss", ["1", "2", "3"], "SoftmaxLoss takes labels from 0 to 2, but the column label holds 1 to 3."),
        (
            "SoftmaxLoss",
            ["0", "1.0", "2"],
            "SoftmaxLoss takes whole numbers as labels, but the column label holds others.",
        ),
        (
            "MultipleNegativesRankingLoss",
            ["1", "0"],
            "MultipleNegativesRankingLoss does not read the column label (from 0 to 1): pairs labeled as no match were "
            "trained as matches.",
        ),
        ("CosineSimilarityLoss", ["0", "0.5", "1"], None),
        ("SoftmaxLoss", ["0", "1", "2"], None),
        ("CoSENTLoss", ["0", "5"], None),
        ("MultipleNegativesRankingLoss", ["1", "1"], None),
    ],
)
def test_labels_are_held_against_the_loss(put: Put, loss: str, labels: list[str], message: str | None) -> None:
    parameters = {"num_labels": 3} if loss == "SoftmaxLoss" else {}
    assert found(put(loss, labels, **parameters)) == ([] if message is None else [("error", message + ADVICE)])


def test_what_the_card_itself_shows_is_a_warning(put: Put) -> None:
    """The run is to repeat the card, mistakes included."""
    statistics = (ColumnStatistics("label", "float", {"min": 0.0, "max": 5.0}),)
    shown = Dataset("train", "a", columns=COLUMNS, statistics=statistics, loss=Loss("CosineSimilarityLoss", {}))
    card = replace(healthy(), datasets=(shown,))
    assert found(put("CosineSimilarityLoss", ["0", "5"]), card) == [("warning", TO_FIVE)]


def test_prompts_in_the_texts_are_a_warning(put: Put) -> None:
    (only,) = found(put("CoSENTLoss", ["0", "1"], text="query: the car {}"))
    assert only[0] == "warning"
    assert only[1].startswith("Prompts are part of the texts instead of `prompts`: every sample of sentence_0 with")


def test_an_error_leaves_no_run_and_whole_labels_of_a_csv_train(put: Put, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CosineSimilarityLoss takes labels from -1 to 1, but the column label holds"):
        train(put("CosineSimilarityLoss", ["0", "5"]), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    run = train(put("SoftmaxLoss", ["0", "1", "2"], num_labels=3), runs=tmp_path / "runs")
    assert run.status == "finished"
