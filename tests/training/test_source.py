"""What may be trained, on which base and rows: names, paths and objects alike."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from synthetic_run import made_run
from tiny import tiny_recipe

import workbench as wb
from workbench.errors import DataError, RecipeError, RunError
from workbench.recipe.yaml_io import save_recipe
from workbench.training.progress import shown_progress
from workbench.training.source import base_name, command_of, open_recipe, rows_places

PAIRS = [{"anchor": f"question {n} about Köln", "positive": f"answer {n}"} for n in range(20)]


def test_a_card_a_name_a_path_and_a_run_give_their_recipe(tmp_path: Path, root: Path) -> None:
    card = wb.read_card("porsche-mxbai")
    made = wb.recipe(card, corrected=True, overrides={"seed": 7})
    for source in (card, "porsche-mxbai", root / "data/cards/porsche-mxbai"):
        assert open_recipe(source, corrected=True, overrides={"seed": 7}) == (made, card)
    save_recipe(made, tmp_path / "recipe.yaml")
    assert open_recipe(tmp_path / "recipe.yaml", card=card) == (made, card)
    run = made_run(tmp_path)
    for source in (run, run.path, str(run.path)):
        found, theirs = open_recipe(source, overrides={"seed": 7})
        assert (found.training.seed, found.loss) == (7, run.recipe().loss)
        assert theirs == run.card()
    assert wb.read_card(run) == run.card()
    assert wb.audit(run).to_dict() == wb.audit(run.card()).to_dict()


def test_a_card_is_named_once_and_a_recipe_is_not_corrected(tmp_path: Path) -> None:
    card = wb.read_card("porsche-mxbai")
    with pytest.raises(RecipeError, match="expected a card once, found 'porsche-mxbai' and card='porsche-mxbai'"):
        wb.train(card, card=card, runs=tmp_path)
    with pytest.raises(RecipeError, match="expected a card to correct, found the recipe 'porsche-mxbai'"):
        wb.train(wb.recipe(card), card=card, corrected=True, runs=tmp_path)


@pytest.mark.parametrize("rows", [PAIRS, pd.DataFrame(PAIRS), datasets.Dataset.from_list(PAIRS)], ids=type)
def test_rows_in_memory_are_stored_once_by_their_content(rows: Any, tmp_path: Path) -> None:
    place = rows_places(rows, tmp_path)
    assert isinstance(place, str)
    assert [json.loads(line) for line in Path(place).read_text(encoding="utf-8").splitlines()] == PAIRS
    assert rows_places(PAIRS, tmp_path) == place
    assert wb.list_runs(tmp_path) == []


def test_places_of_rows_stay_as_they_are(tmp_path: Path) -> None:
    assert rows_places("sample:porsche", tmp_path) == "sample:porsche"
    assert rows_places(tmp_path / "rows.json", tmp_path) == str(tmp_path / "rows.json")
    assert rows_places(["a=one.json", "b=two.json"], tmp_path) == ["a=one.json", "b=two.json"]
    with pytest.raises(DataError, match="expected rows of texts and numbers by column, found others"):
        rows_places([{"anchor": object()}], tmp_path)
    with pytest.raises(DataError, match="expected rows that map columns to values, found \\['a', 'b'\\]"):
        rows_places([["a", "b"]], tmp_path)  # type: ignore[list-item]


def test_a_model_and_rows_in_memory_are_trained_and_loaded_again(base: Path, rows: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(base), device="cpu")
    held = json.loads(rows.read_text(encoding="utf-8"))
    run = wb.train(tiny_recipe(base, rows), base=model, data=held, runs=tmp_path / "runs", max_steps=2)
    assert run.status == "finished"
    assert run.record["base"]["asked"] == base_name(model, tmp_path / "runs")
    assert wb.list_runs(tmp_path / "runs") == [run]
    trained = run.load_model()
    assert trained.encode("a text").shape == model.encode("a text").shape
    assert (trained.encode("a text") != model.encode("a text")).any()
    again = wb.train(run, base=run, runs=tmp_path / "runs", max_steps=1)
    assert again.record["base"]["asked"] == str(run.file("model"))
    assert again.record["command"] == [
        "workbench", "train", str(run.path), "--base", str(run.file("model")), "--max-steps", "1",
        "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    assert run.record["command"] == []  # the recipe is in memory only
    log = run.log(as_frame=True)
    assert log["step"].tolist() == [1, 2]
    assert log["loss"].tolist() == [row["loss"] for row in run.log()]


def test_a_card_in_memory_has_a_command_only_if_it_is_shipped_as_it_is() -> None:
    options = {"base": "bundled:minilm", "columns": {"q": "anchor"}, "split_seed": None}
    words = command_of(wb.read_card("porsche-mxbai"), options, True, {"seed": 7}, "runs", stand_ins=False)
    assert " ".join(words) == (
        "workbench train porsche-mxbai --corrected --base bundled:minilm --columns q=anchor "
        "--set seed=7 --no-stand-ins --runs runs"
    )
    assert command_of(replace(wb.read_card("porsche-mxbai"), title="Another"), options, True, {}, "runs") == []


def test_a_run_is_compared_and_reported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path / "runs", queries=20, steps=5)
    monkeypatch.chdir(tmp_path)
    assert wb.compare("latest").to_dict() == wb.compare(run).to_dict() == wb.compare(run.path).to_dict()
    assert wb.report(run.name).resolve() == run.path / "report.html"
    with pytest.raises(RunError, match="expected a trained model in run"):
        run.load_model()
    assert made_run(tmp_path / "more", steps=0).log(as_frame=True).empty


def test_bars_are_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, shown, expected in ((True, True, True), (False, True, False), (True, False, False)):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr("sys.stderr", out)
        with shown_progress(None, shown=shown) as draw:
            for done in range(3) if draw else ():
                draw("train: 61 rows/s", done + 1, 3)
        assert ("train: 100%" in out.getvalue()) == expected
        assert ("3/3" in out.getvalue()) == expected


def test_what_is_printed_is_short() -> None:
    card = wb.read_card("porsche-mxbai")
    assert str(wb.recipe(card)).startswith("Recipe('porsche-mxbai', as written)\n  base ")
    assert "Stated(" not in pd.DataFrame([card.non_default]).to_string()
