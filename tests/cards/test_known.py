"""Facts about known cards are found by the content of the card, never by its name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from workbench.cards.known import known_card
from workbench.cards.read import read_card, shipped_cards
from workbench.errors import DataError
from workbench.evaluation.given_sets import open_sets
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_io import load_recipe, recipe_yaml, save_recipe
from workbench.run import Run
from workbench.training.prepare import recipe_rows

FOLDER = Path(__file__).resolve().parents[2] / "data" / "cards"
ENTRIES = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
KOREAN = "korean-law-lora"
PROMPT = "Represent this sentence for searching relevant passages: "


def known_facts(made: Recipe) -> tuple[object, ...]:
    return made.training.prompts.get("sentence_0"), made.evaluation.repeated_queries


FIVE = [name for name, entry in ENTRIES.items() if not entry.get("own")]


@pytest.mark.parametrize("name", FIVE)
def test_the_damaged_the_clean_and_the_shipped_copy_of_each_card_are_known(shared: Path, name: str) -> None:
    cards = shared / "cards"
    files = [cards / "seeds" / f"{name}.md", cards / "seeds-clean" / f"{name}.md", FOLDER / name / "README.md"]
    assert ENTRIES[name]["sha256"] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert len({id(known_card(read_card(file).sha256)) for file in files}) == 1
    assert set(ENTRIES) == set(shipped_cards())


def test_the_card_of_this_project_knows_its_own_rows_and_examples() -> None:
    card = read_card("porsche-minilm")
    assert ENTRIES[card.name]["sha256"] == [card.sha256]
    made = recipe(card)
    assert (made.data.train.location, recipe_rows(made)[1]) == ("sample:porsche", "")
    (each,) = open_sets(card, made, ())
    assert (list(each.tasks), bool(each.known)) == (["porsche-test"], True)
    other = replace(card, sha256="0" * 64)  # the same facts in an edited file
    assert recipe(other).data.train.location == "unknown"
    assert open_sets(other, recipe(other), ()) == []


def test_a_renamed_copy_keeps_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_bytes((FOLDER / KOREAN / "README.md").read_bytes())
    made = recipe(read_card(tmp_path / "other.md"))
    assert (made.name, known_facts(made)) == ("other", (PROMPT, "merged"))
    assert recipe_rows(made)[1].startswith("The shipped sample 'korean-law' stands in for the card's rows")


@pytest.mark.parametrize("edited", [True, False])
def test_an_edited_copy_and_another_card_in_a_folder_of_that_name_get_nothing(
    shared: Path, tmp_path: Path, edited: bool
) -> None:
    other = shared / "cards" / "real" / "Fervidstar__intelligent-investment-advisor__bge-zh-stock" / "README.md"
    text = (FOLDER / KOREAN / "README.md").read_bytes() + b"\n" if edited else other.read_bytes()
    (tmp_path / KOREAN).mkdir()
    (tmp_path / KOREAN / "README.md").write_bytes(text)
    made = recipe(read_card(tmp_path / KOREAN))
    assert (made.name, known_facts(made)) == (KOREAN, (None, "separate"))
    with pytest.raises(DataError, match="found 'unknown'; name one with --data"):
        recipe_rows(made)


def test_a_recipe_file_names_the_card_it_was_made_from(tmp_path: Path) -> None:
    made = recipe(read_card(KOREAN))
    save_recipe(made, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml").card_sha256 == made.card_sha256 == ENTRIES[KOREAN]["sha256"][2]


def test_a_recipe_file_of_an_older_version_loads_and_its_run_takes_the_card_from_card_json(tmp_path: Path) -> None:
    made = recipe(read_card(KOREAN))
    text = recipe_yaml(made).replace(f"card_sha256: {made.card_sha256}\n", "")
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == made.model_copy(update={"card_sha256": None})
    (tmp_path / "card.json").write_text(json.dumps({"sha256": made.card_sha256}), encoding="utf-8")
    assert Run(tmp_path).recipe() == made
