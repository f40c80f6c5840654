"""Replay: which numbers of a card and a training belong together, and what their equality says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from workbench.cards.card import Card, LogRow, Stated
from workbench.evaluation.replay import Number, Replay, judge_replay, logged_numbers, numbers_outside

COLUMN = "dev_cosine_ndcg@10"
LOSSES = [1.4749, 1.3149, 0.9633, 0.9429, 0.6279, 0.6403]
METRICS = [0.5861, 0.6142, 0.6381]


def card(rows: Sequence[LogRow] = (), **changes: Any) -> Card:
    return Card(name="made", kind="sentence-transformer", training_log=tuple(rows), **changes)


def row(step: int, loss: float | None = None, validation: float | None = None, metric: float | None = None) -> LogRow:
    return LogRow(step / 10, step, loss, validation, {COLUMN: metric}, line=100 + step)


def loss(step: int, card_says: float, ours: float | None = None) -> Number:
    return Number("Training Loss", "loss", "training", step, card_says, card_says if ours is None else ours)


def metric(step: int, card_says: float, ours: float | None = None, examples: int = 120) -> Number:
    return Number(COLUMN, "metric", "training", step, card_says, card_says if ours is None else ours, examples=examples)


def numbers(*changed: Number) -> list[Number]:
    """Six losses and three metrics that agree, but for those that are given."""
    honest = [loss(5 * place, value) for place, value in enumerate(LOSSES, 1)]
    honest += [metric(10 * place, value) for place, value in enumerate(METRICS, 1)]
    other = {(each.name, each.step): each for each in changed}
    return [other.get((each.name, each.step), each) for each in honest]


def judged(*changed: Number, **changes: Any) -> Replay:
    return judge_replay(card(**changes), numbers(*changed))


def test_a_logged_loss_is_the_mean_since_the_one_before() -> None:
    log = [{"step": step, "loss": float(step)} for step in range(1, 11)]
    log[9] |= {"eval_loss": 0.5, "dev_cosine_ndcg@10": 0.6}
    theirs = card([row(4, 2.5), row(10, 7.5, 0.5, 0.6)])
    found = logged_numbers(theirs, log, {COLUMN: "dev_cosine_ndcg@10"}, {COLUMN: 120})
    assert [(each.name, each.step, each.ours, each.line) for each in found] == [
        ("Training Loss", 4, 2.5, 104),  # (1 + 2 + 3 + 4) / 4
        ("Training Loss", 10, 7.5, 110),  # (5 + ... + 10) / 6
        ("Validation Loss", 10, 0.5, 110),
        (COLUMN, 10, 0.6, 110),
    ]
    assert all(each.equal for each in found)
    assert logged_numbers(theirs, log[:8], {}, {})[1:] == []  # steps 5 to 10 are not all there


def test_rows_at_step_minus_one_are_before_or_after_training() -> None:
    theirs = card([row(-1, metric=0.5), row(5, 1.0), row(-1, metric=0.7)])
    found = numbers_outside(theirs, {COLUMN: 0.5}, {COLUMN: 0.6}, {COLUMN: 120})
    assert [(each.stage, each.step, each.card, each.ours, each.equal) for each in found] == [
        ("before", 0, 0.5, 0.5, True),
        ("after", 5, 0.7, 0.6, False),
    ]


@pytest.mark.parametrize(
    ("theirs", "ours", "exact", "equal"),
    [
        (0.6381, 0.63814, False, True),  # half a digit is 0.00005, and 2e-5 of the number is 0.0000128
        (0.6381, 0.63817, False, False),
        (0.6381, 0.6381 + 1.3e-5, True, True),
        (0.6381, 0.6381 + 1.5e-5, True, False),
        (12.3456, 12.3456 + 0.00029, False, True),
        (12.3456, 12.3456 + 0.0003, False, False),
    ],
)
def test_numbers_are_equal_as_printed(theirs: float, ours: float, exact: bool, equal: bool) -> None:
    assert Number("x", "metric", "after", 1, theirs, ours, exact=exact).equal is equal


def test_every_number_equal_is_an_exact_reproduction() -> None:
    found = judged()
    assert (found.word, found.verdict, found.steps) == ("replayed exactly", "reproduced exactly", 30)
    assert found.sentence == (
        "Every number that the card logs and prints is ours to the printed digit: 6 losses, 3 metrics."
    )


def test_equal_losses_and_other_metrics_are_edited_metrics() -> None:
    found = judged(*(metric(10 * place, value + 0.01, value) for place, value in enumerate(METRICS, 1)))
    assert found.verdict == "differs"
    assert "the metrics were edited, or measured on other examples" in found.sentence
    assert "dev_cosine_ndcg@10 at step 10: 0.5961 on the card, 0.5861 here" in found.sentence


def test_a_near_tie_of_one_query_is_no_edit() -> None:
    """1 / 120 = 0.0083: rounding may exchange two documents of one query; more metrics than half are no accident."""
    assert judged(metric(20, 0.6142, 0.6142 - 0.008)).verdict is None
    assert judged(metric(20, 0.6142, 0.6142 - 0.009)).verdict == "differs"
    assert judged(metric(20, 0.6142, 0.61), metric(30, 0.6381, 0.634)).verdict == "differs"


def test_equal_metrics_and_other_losses_are_an_edited_log() -> None:
    found = judged(*(loss(5 * place, 0.8 * value, value) for place, value in enumerate(LOSSES, 1)))
    assert found.verdict == "differs"
    assert found.sentence.startswith("All 3 metrics are the card's, but 6 of 6 losses are not: the log was edited.")


def test_one_edited_loss_is_seen_because_later_ones_agree() -> None:
    honest = [each for each in numbers(loss(10, 1.0, 1.3149)) if each.kind == "loss"]
    found = judge_replay(card(), honest)
    assert found.verdict == "differs"
    assert "later ones are again" in found.sentence


def test_a_training_that_departs_is_left_to_the_seeds() -> None:
    changed = [loss(5 * place, LOSSES[place - 1], LOSSES[place - 1] + 0.01) for place in (4, 5, 6)]
    changed += [metric(20, 0.6142, 0.62), metric(30, 0.6381, 0.65)]
    found = judged(*changed)
    assert (found.word, found.verdict, found.steps) == ("replayed for 15 steps", None, 15)
    assert found.first is not None
    assert found.first.step == 20
    all_off = judge_replay(
        card(), [loss(5, 1.0, 2.0), metric(10, 0.5, 0.6)], causes=["the card's PyTorch is 2.1.0, ours 2.13.0+cpu"]
    )
    assert (all_off.word, all_off.verdict) == ("not replayed", None)
    assert all_off.sentence.endswith("Likely: the card's PyTorch is 2.1.0, ours 2.13.0+cpu.")


def test_summed_losses_are_explained() -> None:
    theirs = card(non_default={"gradient_accumulation_steps": Stated(4)})
    found = judge_replay(theirs, [loss(5, 5.9, 1.475), loss(10, 5.26, 1.315), metric(10, 0.5, 0.6)])
    assert found.sentence == (
        "The card's losses are 4 times ours: its trainer added up the losses of the micro-batches."
    )


def test_few_or_round_numbers_prove_nothing() -> None:
    assert judge_replay(card(), [metric(10, 0.98), metric(20, 1.0)]).verdict is None
    assert judge_replay(card(), [loss(10, 0.0), loss(20, 0.0001), loss(30, 0.0)]).verdict is None
    assert judge_replay(card(), []).word == "nothing to replay"


def test_another_number_of_the_base_is_seen_although_the_training_replays() -> None:
    before = Number(COLUMN, "metric", "before", 0, 0.4, 0.5)
    found = judge_replay(card(), [before, *numbers()])
    assert (found.verdict, found.first) == ("differs", before)
    assert "but not that of the base" in found.sentence
