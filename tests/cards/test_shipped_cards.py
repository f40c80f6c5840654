"""The shipped facts of the five cards: equal to the originals in every fact, and free of their sentences."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sample_rows

from workbench.cards.card import Card
from workbench.cards.read import read_card, shipped_cards
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import difference

FOLDER = Path(__file__).resolve().parents[2] / "data" / "cards"
NAMES = (
    "gooaq-static-matryoshka",
    "hotpotqa-distilbert-energy",
    "korean-law-lora",
    "porsche-mxbai",
    "sinhala-xlmr-cosine",
)
NOT_FACTS = {"line", "lines", "metric_lines", "facts", "samples", "widget", "text", "sha256"}
"""Places in the file, examples, and the file itself."""


def facts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: facts(inner) for name, inner in value.items() if name not in NOT_FACTS}
    if isinstance(value, list | tuple):
        return [facts(inner) for inner in value]
    return value


def facts_of(card: Card) -> dict[str, Any]:
    found: dict[str, Any] = facts(dataclasses.asdict(card))
    found["beside"].pop("trainer_state.json", None)
    return found


def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cards", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OWN = "porsche-minilm"  # made by a script in its folder


def test_the_five_and_our_own_are_shipped() -> None:
    assert set(shipped_cards()) == {*NAMES, OWN}


def test_our_own_card_has_the_facts_of_its_script_and_the_first_rows_of_the_sample() -> None:
    card, script = read_card(OWN), (FOLDER / OWN / "make_card.py").read_text(encoding="utf-8")
    assert (card.unread, card.base_model and card.base_model.value) == ((), "sentence-transformers/all-MiniLM-L6-v2")
    for name in ("learning_rate", "per_device_train_batch_size", "num_train_epochs"):
        stated, found = card.argument(name), re.search(rf"{name}=([^,]+),", script)
        assert stated is not None
        assert found is not None
        assert float(stated.value) == float(found[1])
    for part, dataset in zip(("train", "validation"), card.datasets, strict=True):
        rows = sample_rows.read("porsche")[part]
        assert dataset.size == len(rows)
        assert [dict(row) for row in dataset.samples] == [
            {name: row[name] for name in ("anchor", "positive")} for row in rows[:3]
        ]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_card_is_read_whole_and_makes_a_recipe(name: str) -> None:
    card = read_card(name)
    assert (card.name, card.kind, card.unread) == (name, "sentence-transformer", ())
    assert recipe(card).loss.name.endswith("Loss")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_card_has_every_fact_of_the_original(shared: Path, name: str) -> None:
    original, ours = read_card(shared / "cards" / "seeds-clean" / f"{name}.md"), read_card(name)
    assert facts_of(ours) == facts_of(original)
    assert difference(recipe(ours), recipe(original)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_card_has_no_sentence_of_the_original(shared: Path, name: str) -> None:
    original = read_card(shared / "cards" / "seeds-clean" / f"{name}.md")
    ours = "\n".join(path.read_text(encoding="utf-8") for path in (FOLDER / name).iterdir())
    samples = itertools.chain.from_iterable(row.values() for part in original.datasets for row in part.samples)
    widget = original.front_matter.get("widget", [])
    texts = [text for text in samples if isinstance(text, str)]
    texts += [text for example in widget for text in (example["source_sentence"], *example["sentences"])]
    assert texts
    assert [text for text in texts if text[:40] in ours] == []
    standing = ("maps sentences", "pip install", "@inproceedings", "foreseeable", "Download from", "Click to")
    assert [words for words in standing if words in ours] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_script_writes_what_is_committed(shared: Path, name: str) -> None:
    files = made().make(shared / "cards" / "seeds-clean", name)
    assert files == {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / name).iterdir()}
