"""Cards once read, audited or translated wrongly, and what is right about each; see the README beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.audit.rules import audit
from workbench.cards.inference import infer
from workbench.cards.read import card_to_dict, read_card
from workbench.errors import RecipeError
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import leaves
from workbench.recipe.yaml_io import load_recipe, save_recipe

FIELDS: dict[str, dict[str, Any]] = {
    "cards/ce_lambda": {"training.eval_strategy": "steps", "training.eval_steps": 3},
    "cards/mnrl_neg5": {
        "training.eval_strategy": "steps", "training.eval_steps": 5,
        "training.metric_for_best_model": "eval_my dev set (v1)_cosine_ndcg@10".replace(" ", "_"),
    },
    "cards/multi_dict": {"training.eval_strategy": "steps", "training.eval_steps": 5},
    "cards/multivector": {"training.eval_strategy": "steps", "training.eval_steps": 5},
    "cards/splade": {"training.eval_strategy": "steps", "training.eval_steps": 5},
    "cards/marginmse_list": {"training.eval_strategy": "no"},
    "cards/router_asym": {"training.eval_strategy": "no"},
    "cards/static_sym": {"base.static_dimensions": 64, "training.learning_rate": 0.2, "training.eval_strategy": "no"},
    "cards/logged-not-shown": {"training.eval_strategy": "steps", "training.eval_steps": 106, "base.pooling": "mean"},
    "cards/setfit": {
        "loss.name": "CosineSimilarityLoss", "training.num_train_epochs": 1.0, "training.learning_rate": 2e-05,
        "training.per_device_train_batch_size": 8, "training.warmup_ratio": 0.1, "evaluation.main_metric": "accuracy",
    },
    "cards/foreign-adapter": {"base.lora": None, "base.model": "sentence-transformers/all-MiniLM-L6-v2"},
    "faults/adapter-float": {"base.lora.r": 8, "base.lora.target_modules": ("query", "value")},
    "faults/batch-auto": {"training.per_device_train_batch_size": 8},
    "faults/batch-inf": {"training.per_device_train_batch_size": 8},
    "faults/c1": {"training.lr_scheduler_type": "linear"},
    "faults/epoch-inf": {"training.logging_steps": 100},
    "faults/loss-negative": {"training.logging_steps": 1},
    "faults/one-column": {"data.columns": ("anchor",)},
    "faults/scale-inf": {"loss.parameters.similarity_fct": "cos_sim"},
}  # fmt: skip
"""Card -> fields of its recipe; a card that is not here has none."""
SAID = {
    "cards/logged-not-shown": "a Git LFS pointer instead of the file; `git lfs pull` fetches the file",
    "cards/multi_dict": "--data NAME=FILE for each",
    "cards/router_asym": "The module `Router` (line 72) is not in a recipe",
    "cards/foreign-adapter": "adapter_config.json is not used: it adapts unsloth/Llama-3.2-3B",
    "faults/adapter-float": "`target_modules` of adapter_config.json cannot be '1.5'; the default is taken.",
    "faults/batch-auto": "`training.per_device_train_batch_size` cannot be 'auto', as the card says",
    "faults/batch-inf": "`training.per_device_train_batch_size` cannot be '1e999', as the card says",
    "faults/c1": "`training.lr_scheduler_type` cannot be ",
    "faults/epoch-inf": "log cell that is no number: '1e999'",
    "faults/scale-inf": "`loss.parameters.scale` cannot be inf, as the card says",
    "faults/yaml-int": "no valid YAML: '' is no int",
}
"""Card -> a sentence about what cannot be used, in `unread`, or in the notes or origins of the recipe."""
CODES = {
    "cards/logged-not-shown": ({"evaluation-not-shown"}, {"not-evaluated"}),
    "cards/setfit": (set(), {"stopped-early", "not-evaluated", "nothing-logged"}),
    "cards/foreign-adapter": ({"bases-disagree", "files-disagree"}, {"hidden-adapter"}),
    "cards/static_sym": (set(), {"learning-rate"}),
}
"""Card -> codes that its audit has, and codes that it has not."""


@pytest.mark.parametrize("name", sorted({*FIELDS, *SAID, *CODES, "faults/accuracy-at"}))
def test_a_card_that_failed_is_read_rightly(name: str, shared: Path, tmp_path: Path) -> None:
    place = shared / "found" / name
    if not place.is_dir():
        pytest.skip(f"no card at {place}")
    card = read_card(place)
    codes = set(audit(card).codes)
    present, absent = CODES.get(name, (set(), set()))
    assert present <= codes
    assert not absent & codes
    said = [part.reason for part in card.unread]
    json.dumps([card_to_dict(card), audit(card).to_dict()], allow_nan=False, ensure_ascii=False).encode()
    if name not in FIELDS:
        with pytest.raises(RecipeError, match="expected a training loss"):
            recipe(card)
    for corrected in (False, True) if name in FIELDS else ():
        made = recipe(card, corrected=corrected)
        save_recipe(made, tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml") == made
        if not corrected:
            assert {path: leaves(made)[path] for path in FIELDS[name]} == FIELDS[name]
        said += [*made.notes, *(origin.note for origin in made.provenance.values())]
    assert any(SAID.get(name, "") in sentence for sentence in [*said, ""])


def test_facts_that_no_recipe_holds(shared: Path) -> None:
    cards = shared / "found" / "cards"
    if not cards.is_dir():
        pytest.skip(f"no cards at {cards}")
    static, setfit, logged = (read_card(cards / name) for name in ("static_sym", "setfit", "logged-not-shown"))
    assert infer(static).width == (64, 55)
    assert (setfit.kind, setfit.evaluations[0].metrics, infer(setfit).planned_steps) == (
        "setfit", {"accuracy": 0.857}, 20_000
    )  # fmt: skip
    schedule = infer(logged).schedule
    assert schedule is not None
    assert [row.step for row in schedule.unshown] == [106, 212, 213, 318, 424]
