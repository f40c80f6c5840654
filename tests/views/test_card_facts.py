"""What a card states and the fields of its recipe, as text with lines and sources."""

from __future__ import annotations

from synthetic_run import made_recipe

from workbench.audit.rules import audit
from workbench.cards.card import Card, Stated
from workbench.cards.read import read_card
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Origin
from workbench.views import card_facts


def test_lines_of_a_card_keep_their_numbers() -> None:
    card = Card(name="x", kind="unknown", lines=("one", "two", "three\u202e", "four", "five"))
    assert card_facts.card_lines(card, [5, 1, 2, 99]) == "   1  one\n   2  two\n   …\n   5  five"
    assert card_facts.card_lines(card, [3]) == "   3  three"


def test_facts_leave_out_what_the_card_does_not_say() -> None:
    card = Card(
        name="x", kind="sentence-transformer", base_model=Stated("a/b", 24), non_default={"seed": Stated(7, 30)}
    )
    facts = [(fact.name, fact.value, fact.line_ranges) for fact in card_facts.card_facts(card)]
    assert facts == [
        ("Kind of model", "sentence-transformer", ""),
        ("Base model", "a/b", "24"),
        ("Set: seed", "7", "30"),
    ]


def test_missing_facts_are_named_and_counted() -> None:
    assert card_facts.missing_facts(audit(read_card("porsche-mxbai"))) == (
        "It cannot be run again from the card. Missing: training data, evaluation set (23 of 25 facts known)"
    )
    untrained = Card(name="x", kind="unknown")
    assert card_facts.missing_facts(audit(untrained)).startswith("The card describes no training")


def test_recipe_fields_show_what_a_correction_changes() -> None:
    written = made_recipe()
    corrected = with_overrides(written, {"training.learning_rate": 0.2})
    finding = Origin(source="finding", note="learning-rate")
    corrected = corrected.model_copy(update={"provenance": {**corrected.provenance, "training.learning_rate": finding}})
    changed = [field for field in card_facts.recipe_fields(written, corrected) if field.changed]
    assert [(f.name, f.value, f.other, f.source, f.line_ranges) for f in changed] == [
        ("training.learning_rate", "2e-05", "0.2", "card", "31")
    ]
    assert changed[0].note == "corrected: learning-rate"
    by_path = {field.name: field for field in card_facts.recipe_fields(written, written)}
    assert by_path["loss.inner.name"].value == "MultipleNegativesRankingLoss"
    assert by_path["training.adam_beta1"].source == "unknown"
