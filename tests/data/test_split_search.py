"""The seed of a split, found from the rows that a card prints; the truth is `datasets`' own train_test_split."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from workbench.data.pairs import Pairs
from workbench.data.split_search import Divided, find_split
from workbench.data.training_rows import split_pairs
from workbench.recipe.schema import Split

WHOLE = Dataset.from_list([{"anchor": f"question {n}", "positive": f"answer {n % 90}"} for n in range(300)])


def pairs(rows: Any = WHOLE) -> Pairs:
    return Pairs(rows, ("anchor", "positive"), "", "rows.jsonl")


def shown(train: Dataset, held_out: Dataset | None = None) -> Divided:
    """What a card prints of its parts."""
    held = {} if held_out is None else {"held_out": len(held_out), "held_first": held_out.to_list()[:3]}
    return Divided(len(train), train.to_list()[:3], **held)


@pytest.mark.parametrize(("seed", "share"), [(7, 0.2), (9999, 0.1), (0, 0.37)])
def test_one_call_of_train_test_split_is_found(seed: int, share: float) -> None:
    parts = WHOLE.train_test_split(test_size=share, seed=seed)
    found = find_split(pairs(), shown(parts["train"], parts["test"]), None)
    assert found is not None
    assert found[0].seed == seed
    assert "only" in found[1]
    train, validation, test = split_pairs(pairs(), found[0])
    assert train.texts("anchor") == list(parts["train"]["anchor"])
    assert validation is not None
    assert validation.texts("anchor") == list(parts["test"]["anchor"])
    assert test is None


def test_two_calls_are_found_by_the_evaluation_rows() -> None:
    first = WHOLE.train_test_split(test_size=0.2, seed=11)
    second = first["test"].train_test_split(test_size=0.5, seed=11)
    found = find_split(pairs(), shown(first["train"], second["train"]), None)
    assert found is not None
    parts = split_pairs(pairs(), found[0])
    expected = (first["train"], second["train"], second["test"])
    assert [part and part.texts("anchor") for part in parts] == [list(part["anchor"]) for part in expected]


def test_a_selection_of_shuffled_rows_is_found() -> None:
    chosen = WHOLE.shuffle(seed=3).select(range(120))
    found = find_split(pairs(), shown(chosen), None)
    assert found is not None
    assert split_pairs(pairs(), found[0])[0].texts("anchor") == list(chosen["anchor"])


def test_rows_that_were_not_shuffled_are_found() -> None:
    parts = WHOLE.train_test_split(test_size=60, shuffle=False)
    found = find_split(pairs(), shown(parts["train"]), None)
    assert found is not None
    assert found[0].shuffle is False
    train, validation, _ = split_pairs(pairs(), found[0])
    assert train.texts("anchor") == list(parts["train"]["anchor"])
    assert validation is not None
    assert validation.texts("anchor") == list(parts["test"]["anchor"])


def test_the_shares_of_a_card_that_counts_all_rows_are_kept() -> None:
    """Some cards print the size before the split; the log gave the share then."""
    train = WHOLE.train_test_split(test_size=0.2, seed=5)["train"]
    card = Divided(len(WHOLE), train.to_list()[:3])
    found = find_split(pairs(), card, Split())
    assert found is not None
    assert found[0] == Split(seed=5)
    assert find_split(pairs(), card, Split(seed=5)) is None  # nothing to find


def test_a_seed_that_the_user_states_is_the_only_one_tried() -> None:
    train = WHOLE.train_test_split(test_size=0.2, seed=5)["train"]
    assert find_split(pairs(), shown(train), None, seed=6) is None
    found = find_split(pairs(), shown(train), None, seed=5)
    assert found is not None
    assert found[0].seed == 5
    bare = find_split(pairs(), Divided(240, ()), None, seed=5)  # the card prints no rows
    assert bare is not None
    assert split_pairs(pairs(), bare[0])[0].texts("anchor") == list(train["anchor"])


def test_nothing_is_claimed_where_several_splits_fit_or_none_does() -> None:
    few = pairs(Dataset.from_list(WHOLE.to_list()[:12]))  # 12 x 11 x 10 orders of three rows, 10,000 seeds
    train = few.rows.train_test_split(test_size=0.25, seed=1)["train"]
    assert find_split(few, shown(train), None) is None
    other = Divided(240, [{"anchor": "another question", "positive": "answer 1"}])
    assert find_split(pairs(), other, None) is None
    assert find_split(pairs(), Divided(300, WHOLE.to_list()[5:8]), None) is None  # as many rows as the card has
    assert find_split(pairs(), Divided(240, ()), None) is None
