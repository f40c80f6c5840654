"""What a user states about a card: it is checked before anything is trained, measured, and kept in run.json."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from healthy_card import evaluation, healthy
from tiny import tiny_recipe, tiny_rows

from workbench.cards.card import Card, Dataset, Loss
from workbench.data.training_rows import load_splits, split_sizes
from workbench.errors import DataError, RecipeError
from workbench.pipeline import evaluate
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Data, Origin, Recipe, Source, Split, TrainingSet
from workbench.run import Run
from workbench.training.given import Given, with_division
from workbench.training.job import Timing
from workbench.training.source import command_of
from workbench.training.train import train


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scored") / "dev.jsonl"
    texts = ("brake of the car", "how many seats", "price of it", "the roof", "a lamp", "range in litre")
    made = [
        {"sentence1": text, "sentence2": other, "score": (3 * one + two) % 7 / 6}
        for one, text in enumerate(texts)
        for two, other in enumerate(texts)
        if one < two
    ]
    path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    return path


def pairs_card() -> Card:
    """A card that trains on pairs and measures on scored pairs."""
    sts = replace(
        evaluation(),
        evaluator="EmbeddingSimilarityEvaluator",
        datasets=("sts dev",),
        metrics={"spearman_cosine": 0.5},
        main_metric="spearman_cosine",
    )
    return replace(healthy(), evaluations=(sts,), datasets=(), modules=(), output_dimension=None)


def made(base: Path, rows: Path) -> Recipe:
    plain = tiny_recipe(base, rows, max_steps=4, eval_strategy="steps", eval_steps=2)
    plan = plain.evaluation.model_copy(
        update={"name": "sts-dev", "evaluator": "EmbeddingSimilarityEvaluator", "main_metric": "spearman_cosine"}
    )
    own = plain.base.model_copy(update={"model": "acme/own"})
    return plain.model_copy(update={"evaluation": plan, "base": own})


@pytest.fixture(scope="module")
def run(base: Path, rows: Path, scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        made(base, rows),
        card=pairs_card(),
        runs=tmp_path_factory.mktemp("runs"),
        base=str(base),
        evaluation_set=str(scored),
        base_is_the_cards=True,
        margin=0.03,
    )


def test_the_set_is_measured_before_while_and_after(run: Run) -> None:
    assert run.evaluations()["sts-dev"] == ("before", "step-2", "step-4", "after")
    assert {"validation", "test"} < set(run.evaluations())  # the held-out parts stay
    assert [row["step"] for row in run.log() if "sts-dev_spearman_cosine" in row] == [2, 4]
    assert evaluate(run).metrics == pytest.approx(run.metrics("sts-dev", "after"))  # what a run is evaluated on


def test_the_record_keeps_each_statement_and_whose_examples_they_are(run: Run, base: Path, scored: Path) -> None:
    assert run.record["base"]["stand_in"] is False
    assert run.record["margin"] == 0.03
    assert run.record["statements"] == [
        {
            "option": "--evaluation-set",
            "value": str(scored),
            "sentence": f"The user states that {scored} holds the card's evaluation examples (sts-dev).",
        },
        {
            "option": "--base-is-the-cards",
            "value": "",
            "sentence": f"The user states that {base} is the card's base, acme/own.",
        },
    ]
    examples = run.record["examples"]
    assert {name: each["same"] for name, each in examples.items()} == {
        "sts-dev": True,
        "validation": False,
        "test": False,
    }
    assert examples["sts-dev"]["why"] == f"The user states it: --evaluation-set {scored}."
    assert all("--evaluation-set" in each["why"] for each in examples.values())


def test_a_resumed_run_keeps_its_statements(run: Run, base: Path, rows: Path, scored: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 2:
            Run(next(tmp_path.glob("tiny-*"))).stop()

    arguments: dict[str, Any] = {"card": pairs_card(), "runs": tmp_path, "base": str(base), "on_progress": stop}
    arguments["timing"] = Timing(stop_seconds=0.0)
    arguments |= {"evaluation_set": [f"sts dev={scored}"], "base_is_the_cards": True}
    stopped = train(made(base, rows), **arguments)
    assert stopped.status == "stopped"
    again = train(None, resume=stopped.path)
    assert again.status == "finished"
    assert again.metrics("sts-dev", "after") == run.metrics("sts-dev", "after")
    assert again.record["base"]["stand_in"] is False


def test_rows_of_several_datasets_are_given_by_name(base: Path, rows: Path, tmp_path: Path) -> None:
    plain = tiny_recipe(base, rows, max_steps=1, eval_strategy="no")
    more = TrainingSet(name="b", source=Source(location="unknown"), columns=("anchor", "positive"))
    data = plain.data.model_copy(update={"name": "a", "more": (more,), "train": Source(location="unknown")})
    several = plain.model_copy(update={"data": data})
    other = tiny_rows(tmp_path / "other.json", rows=20)
    found = train(several, runs=tmp_path, data=[f"b={other}", str(rows)])
    assert found.record["data"]["more"]["b"]["rows"] == 20
    assert found.record["data"]["source"] == str(rows)
    assert found.recipe().provenance["data.more.0.source.location"].source == "user"
    with pytest.raises(RecipeError, match=r"--data once for each dataset of the card \(a=PATH, b=PATH\), found 'a="):
        train(several, runs=tmp_path, data=[str(rows), f"a={rows}"])


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"margin": 0.0}, "expected a margin above 0, such as --margin 0.02, found 0.0"),
        ({"margin": -0.1}, "expected a margin above 0"),
        ({"margin": float("nan")}, "expected a margin above 0"),
        ({"margin": float("inf")}, "expected a margin above 0"),
        ({"base_is_the_cards": True}, "expected --base FOLDER with --base-is-the-cards, found none"),
        ({"base_is_the_cards": True, "base": "auto"}, "expected --base FOLDER with --base-is-the-cards"),
        ({"evaluation_set": "nothing.jsonl"}, "nothing.jsonl"),
    ],
)
def test_statements_that_make_no_sense_leave_no_run(
    stated: dict[str, Any], said: str, base: Path, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises((DataError, RecipeError), match=said):
        train(tiny_recipe(base, rows), card=pairs_card(), runs=tmp_path, **stated)
    assert list(tmp_path.iterdir()) == []


def test_the_command_of_a_training_has_the_statements() -> None:
    options = {"base": "folder", "evaluation_set": ["a=x", "y"], "base_is_the_cards": True, "rows_in_order": False}
    words = command_of("card", {**options, "margin": 0.1}, False, {}, "runs")
    expected = "train card --base folder --evaluation-set a=x --evaluation-set y --base-is-the-cards --margin 0.1"
    assert words == ["workbench", *expected.split(), "--runs", "runs"]


# --- the split -------------------------------------------------------------------------------------------------------


def split_card(rows: Path, seed: int, *, printed: bool = True) -> Card:
    """A card whose training rows are those of one call of `train_test_split`, with 12 of 60 rows held out."""
    from datasets import Dataset as Table

    parts = Table.from_list(json.loads(rows.read_text())).train_test_split(test_size=0.2, seed=seed)
    columns = ("anchor", "positive")
    train, held_out = (
        Dataset(role, None, size=len(part), columns=columns, samples=tuple(part.to_list()[:3]) if printed else ())
        for role, part in (("train", parts["train"]), ("evaluation", parts["test"]))
    )
    return replace(pairs_card(), datasets=(replace(train, loss=Loss("MultipleNegativesRankingLoss", {})), held_out))


@pytest.mark.parametrize("seed", [42, 1234])
def test_the_seed_of_the_split_is_found_from_the_printed_rows(seed: int, rows: Path) -> None:
    card = split_card(rows, seed)
    found, pairs = with_division(on(rows, card), card, Given(), lambda: False)
    assert pairs is not None
    assert len(pairs) == 60
    assert found.data.split is not None
    assert found.data.split.seed == seed
    assert split_sizes(60, found.data.split) == (48, 12, 0)
    origin = found.provenance["data.split.seed"]
    assert (origin.source, "of 10,000 seeds only 1234" in origin.note) == (("default", False), ("inferred", True))[
        seed > 42
    ]


def test_a_stated_seed_is_used_and_checked(rows: Path) -> None:
    card = split_card(rows, 1234)
    found, _ = with_division(on(rows, card), card, Given(split_seed=1234), lambda: False)
    assert found.data.split is not None
    assert found.data.split.seed == 1234
    assert found.provenance["data.split.seed"] == Origin(source="user", note="--split-seed")
    with pytest.raises(
        DataError, match="found --split-seed 7, which does not give the first rows that the card prints"
    ):
        with_division(on(rows, card), card, Given(split_seed=7), lambda: False)
    silent = split_card(rows, 1234, printed=False)
    bare, _ = with_division(on(rows, silent), silent, Given(split_seed=7), lambda: False)
    assert bare.data.split is not None
    assert bare.data.split.seed == 7
    whole = replace(silent, datasets=())
    with pytest.raises(
        DataError, match="expected rows that are to be divided with --split-seed 7, found none; omit it"
    ):
        with_division(made(rows, rows).model_copy(update={"data": Data()}), whole, Given(split_seed=7), lambda: False)


def on(rows: Path, card: Card) -> Recipe:
    """The card's recipe on these rows."""
    plain = recipe(card)
    train = plain.data.train.model_copy(update={"location": str(rows)})
    return plain.model_copy(update={"data": plain.data.model_copy(update={"train": train})})


def test_a_stated_file_divides_the_rows(rows: Path, tmp_path: Path) -> None:
    card = split_card(rows, 1234)
    numbers = np.random.default_rng(1234).permutation(60).tolist()  # as `train_test_split` draws them
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": numbers[12:], "validation": numbers[:12]}))
    given = Given.of({"split_file": str(file)}, None)
    found, _ = with_division(on(rows, card), card, given, lambda: False)
    assert found.provenance["data.split.file"] == Origin(source="user", note="--split-file")
    by_file = load_splits(found.data, online=lambda: False)
    by_seed = load_splits(with_division(on(rows, card), card, Given(), lambda: False)[0].data, online=lambda: False)
    assert by_file.train.rows.to_list() == by_seed.train.rows.to_list()
    assert by_file.validation is not None
    assert by_seed.validation is not None
    assert by_file.validation.rows.to_list() == by_seed.validation.rows.to_list()
    assert by_file.test is None
    assert given.sentences(found, "base", ())[0]["sentence"] == f"The user states that {file} divides the rows."
    with pytest.raises(RecipeError, match="expected --split-seed or --split-file, found both"):
        Given.of({"split_file": str(file), "split_seed": 1}, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read the split"),
        ("{", "found Invalid JSON"),
        ('{"train": [0, 60]}', r"found Input should be less than 60 \(train.1\)"),
        ('{"train": [0], "dev": [1]}', r"found Input should be 'train', 'validation' or 'test' \(dev"),
        ('{"train": [0, 1], "test": [1]}', "found row 1 twice"),
        ('{"test": [1]}', "found none to train"),
        ('{"train": [0.5]}', r"found Input should be a valid integer \(train.0\)"),
    ],
)
def test_a_file_that_does_not_divide_the_rows_is_refused(
    text: str | None, said: str, rows: Path, tmp_path: Path
) -> None:
    file = tmp_path / "split.json"
    if text is not None:
        file.write_text(text)
    data = Data(train=Source(location=str(rows)), columns=("anchor", "positive"), split=Split(file=str(file)))
    with pytest.raises(DataError, match=said):
        load_splits(data, online=lambda: False)


def test_a_split_in_a_pipe_is_refused(rows: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "split.json")
    split = Split(file=str(tmp_path / "split.json"))
    data = Data(train=Source(location=str(rows)), columns=("anchor", "positive"), split=split)
    with pytest.raises(DataError, match="found a pipe or a device"):
        load_splits(data, online=lambda: False)
