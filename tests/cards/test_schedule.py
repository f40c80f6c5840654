"""What a log shows about the evaluations of its training. Logs are written by hand, after the trainer's own rules."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.cards.card import Card, LogRow, Stated
from workbench.cards.inference import infer
from workbench.cards.schedule import Best, Schedule, schedule_of
from workbench.recipe.draft import Draft
from workbench.recipe.from_card import derive

METRIC = "sts-dev_spearman_cosine"


def log(*rows: tuple[float, int, float | None, float | None, float | None], saved: int | None = None) -> Card:
    """A card with rows of (epoch, step, training loss, validation loss, metric)."""
    return Card(
        name="x",
        kind="sentence-transformer",
        training_log=tuple(
            LogRow(epoch, step, loss, validation, {} if metric is None else {METRIC: metric}, step == saved, 50 + at)
            for at, (epoch, step, loss, validation, metric) in enumerate(rows)
        ),
    )


def stated(card: Card, **arguments: Any) -> Card:
    known = {name: Stated(value, 10) for name, value in arguments.items()}
    return Card(name="x", kind=card.kind, training_log=card.training_log, hyperparameters=known)


def schedule(card: Card, last: int | None = None) -> Schedule:
    found = schedule_of(card, infer(card).epoch, last)
    assert found is not None
    return found


def test_by_steps_and_once_more_at_the_end() -> None:
    found = schedule(log((0.38, 5, 6.7, None, None), (0.77, 10, 6.1, 3.7, 0.6), (1.54, 20, 6.0, 3.6, 0.65),
                         (2.0, 26, None, 3.5, 0.66), (-1, -1, None, None, 0.66)), 26)  # fmt: skip
    assert (found.strategy, found.every, found.at_end, found.regular) == ("steps", 10, True, True)
    assert (found.losses, found.metrics) == (("Validation Loss",), (METRIC,))
    assert (found.on_start, found.before, found.after, found.lines) == (False, False, True, (51, 53))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1.0, 25), (2.0, 50), (3.0, 75)], ("epoch", None)),
        ([(1.0, 25), (1.5, 38)], ("epoch", None)),  # num_train_epochs 1.5 ends in the middle of the second
        ([(2.0, 50), (4.0, 100)], ("steps", 50)),  # every second epoch
        ([(0.9746, 12), (1.9492, 24), (2.9239, 36)], ("epoch", None)),  # an older trainer leaves out the last batches
        ([(3.0, 75)], ("steps", 75)),  # once, after three epochs
        ([(0.4, 10), (0.8, 20), (1.2, 30)], ("steps", 10)),
        ([(0.5, 13), (1.0, 25), (1.5, 38), (2.0, 50)], ("steps", 13)),
        ([], ("no", None)),
    ],
)
def test_evaluations_by_epoch_are_told_from_those_by_steps(
    rows: list[tuple[float, int]], expected: tuple[str, int | None]
) -> None:
    card = log((0.04, 1, 0.5, None, None), *((epoch, step, 0.4, None, 0.5) for epoch, step in rows))
    if rows and rows[0] == (0.9746, 12):  # 197 batches, of which 16 make a step
        card = stated(log((0.0812, 1, 0.5, None, None), *((*row, 0.4, None, 0.5) for row in rows)),
                      gradient_accumulation_steps=16)  # fmt: skip
    found = schedule(card)
    assert (found.strategy, found.every) == expected
    assert found.losses == ()


def test_evaluations_that_no_interval_explains_are_not_regular() -> None:
    rows = ((0.25, 500), (0.5, 1000), (0.64, 1289), (0.75, 1500), (1.0, 2000))
    found = schedule(log(*((epoch, step, 0.4, None, 0.5) for epoch, step in rows)))
    assert (found.strategy, found.every, found.regular) == ("steps", 500, False)


def test_the_value_by_which_a_model_was_kept() -> None:
    """The bold row has the lowest loss, but neither the highest nor the lowest metric."""
    rows = ((1.0, 25, None, 0.0494, 0.7352), (2.0, 50, None, 0.0678, 0.7386), (3.0, 75, None, 0.062, 0.7303))
    assert schedule(log(*rows, saved=25)).best_by == (Best("eval_loss", False),)
    assert schedule(log(*rows, saved=50)).best_by == (
        Best(f"eval_{METRIC}", True),
        Best("eval_loss", True),  # `greater_is_better` set for a loss; the usual direction comes first
    )
    assert schedule(log(*rows, saved=75)).best_by == (Best(f"eval_{METRIC}", False),)
    assert schedule(log(*rows)).best_by == ()
    before = (0.0, 0, None, None, 0.9)
    assert schedule(log(before, *rows, saved=50)).best_by[0] == Best(f"eval_{METRIC}", True)
    assert schedule(log(before, *rows)).on_start


def test_a_loss_at_the_first_step() -> None:
    rows = [(step / 20, step, 0.5, None, None) for step in (1, 10, 20)]
    assert schedule(log(*rows)).first_logged
    assert not schedule(log(*rows[1:])).first_logged
    assert derive(log(*rows)).value("training.logging_steps") == 10


# --- the recipe ----------------------------------------------------------------------------------------------------


def training(card: Card) -> tuple[dict[str, Any], Draft]:
    draft = derive(card)
    found = {path.removeprefix("training."): value for path, (value, _) in draft.fields.items() if "training." in path}
    return found, draft


def test_the_recipe_evaluates_as_the_log_shows() -> None:
    rows = [(step / 13, step, None, None, step / 100) for step in (10, 20)]
    found, draft = training(stated(log(*rows, saved=20), max_steps=26, load_best_model_at_end=True))
    assert found["eval_strategy"] == "steps"
    assert (found["eval_steps"], found["validation_loss"], found["eval_on_end"]) == (10, False, False)
    assert found["metric_for_best_model"] == f"eval_{METRIC}"
    assert "greater_is_better" not in found
    origin = draft.fields["training.eval_strategy"][1]
    assert (origin.source, origin.lines) == ("inferred", (50, 51))
    at_end, _ = training(stated(log(*rows, (2.0, 26, None, None, 0.1), saved=20), max_steps=26))
    assert "eval_on_end" not in at_end


def test_what_the_card_states_wins() -> None:
    card = stated(
        log((1.0, 25, None, 0.5, None), saved=25), eval_strategy="steps", eval_on_start=False,
        load_best_model_at_end=True, metric_for_best_model="eval_mse", greater_is_better=False,
    )  # fmt: skip
    found, _ = training(card)
    assert (found["eval_strategy"], found["eval_steps"], found["eval_on_start"]) == ("steps", 25, False)
    assert (found["metric_for_best_model"], found["greater_is_better"]) == ("eval_mse", False)
    assert training(stated(card, eval_strategy="no"))[0]["eval_strategy"] == "no"


@pytest.mark.parametrize(
    ("rows", "saved", "why"),
    [
        ([(1.0, 25, 0.5, None, None)], None, "the log has no evaluation."),
        ([(1.0, 25, 0.5, None, 0.7)], None, "no row is marked as kept."),
        (
            [(1.0, 25, None, None, 0.7), (2.0, 50, None, None, 0.8), (3.0, 75, None, None, 0.9)], 50,
            "the row that was kept, step 50, is not the best by any column.",
        ),
    ],
)  # fmt: skip
def test_an_unknown_choice_of_the_best_model_is_noted(rows: list[Any], saved: int | None, why: str) -> None:
    found, draft = training(stated(log(*rows, saved=saved), load_best_model_at_end=True))
    assert "metric_for_best_model" not in found
    assert draft.notes == [f"`load_best_model_at_end` is set, but the log does not show by which value: {why}"]


def test_a_metric_that_falls_is_inferred_as_such() -> None:
    rows = [(1.0, 25, None, None, 0.7), (2.0, 50, None, None, 0.5), (3.0, 75, None, None, 0.6)]
    found, _ = training(stated(log(*rows, saved=50), load_best_model_at_end=True))
    assert (found["metric_for_best_model"], found["greater_is_better"]) == (f"eval_{METRIC}", False)


def test_a_row_at_step_0_is_an_evaluation_before_training() -> None:
    rows = [(0.0, 0, None, 0.9, None), (1.0, 25, None, 0.5, None)]
    assert training(log(*rows))[0]["eval_on_start"] is True
    assert "eval_on_start" not in training(log(*rows[1:]))[0]


def test_a_log_that_ends_at_an_evaluation_before_the_last_is_early_stopping() -> None:
    rows = [(step / 25, step, None, None, value) for step, value in ((10, 0.5), (20, 0.7), (30, 0.6), (40, 0.6))]
    card = log(*rows, saved=20)
    early, draft = training(stated(card, num_train_epochs=4, load_best_model_at_end=True))
    assert early["stop_step"] == 40
    assert draft.fields["training.stop_step"][1].lines == (53,)
    assert "stop_step" not in training(stated(card, num_train_epochs=4))[0]  # nothing was loaded: cut off, perhaps
    assert "stop_step" not in training(stated(card, num_train_epochs=1.9, load_best_model_at_end=True))[0]  # 48 steps


def test_irregular_evaluations_are_noted() -> None:
    rows = [(step / 100, step, None, None, 0.5) for step in (10, 20, 33, 40, 50)]
    assert training(log(*rows))[1].notes == [
        "The log has evaluations at steps 10, 20, 33, 40, ...: no interval explains them all."
    ]
