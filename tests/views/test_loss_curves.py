"""The card's log beside a run's: what is corrected, what is averaged, how far apart they are. Numbers by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.synthetic_run import made_card, made_run
from workbench.cards.card import Card, Dataset, LogRow, Stated
from workbench.cards.read import read_card
from workbench.errors import RunError
from workbench.run import Run, RunWriter
from workbench.views.loss_curves import LogColumns, curves, from_start


def logged(points: Iterable[tuple[float, int, float | None]]) -> tuple[LogRow, ...]:
    return tuple(LogRow(epoch, step, loss, None, {}, line=50 + step) for epoch, step, loss in points)


def card_of(log: tuple[LogRow, ...], **arguments: Any) -> Card:
    return replace(
        made_card(),
        training_log=log,
        non_default={name: Stated(value, 5) for name, value in arguments.items()},
        versions={"Transformers": Stated("4.47.1", 90), "Sentence Transformers": Stated("3.3.1", 91)},
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Twelve steps of 8 rows, four an epoch, two seconds each: the losses are 12, 11, ... 1."""
    made = made_run(tmp_path, queries=14, steps=0, verdict=None, stand_in=False)
    write_steps(made, range(1, 13))
    return made


def write_steps(run: Run, steps: Iterable[int]) -> None:
    RunWriter(run.path).log(
        *({"step": step, "epoch": step / 4, "time": 2.0 * step, "loss": 13.0 - step} for step in steps)
    )


PLAIN: Mapping[str, Any] = {"per_device_train_batch_size": 8, "logging_steps": 4}
LOG = logged([(1.0, 4, 10.0), (2.0, 8, 7.0), (3.0, 12, 2.0)])


@pytest.mark.parametrize(
    ("axis", "places"),
    [("steps", (4, 8, 12)), ("epochs", (1.0, 2.0, 3.0)), ("rows", (32, 64, 96))],
)
def test_a_run_s_losses_are_averaged_as_the_card_s_are(run: Run, axis: Any, places: tuple[float, ...]) -> None:
    """(12 + 11 + 10 + 9) / 4, (8 + 7 + 6 + 5) / 4, (4 + 3 + 2 + 1) / 4; the card has 10, 7 and 2."""
    found = curves(run, card_of(LOG, **PLAIN), axis=axis)
    assert found.card.x == found.run.x == places
    assert found.card.values == (10.0, 7.0, 2.0)
    assert found.run.values == (10.5, 6.5, 2.5)
    at = {"steps": "4 steps", "epochs": "1.00 epochs", "rows": "32 rows"}[axis]
    assert found.sentences == (
        "A point of the card is the mean of 4 steps; this run's are averaged over the same steps.",
        f"At 3 common points the losses differ by 0.5000 on average, at most by 0.5000 (at {at}); the median ratio of "
        "this run to the card is 1.05.",
    )


def test_a_card_s_row_stands_for_the_steps_since_the_row_before(run: Run) -> None:
    """logging_first_step: 1, then steps 2 to 4; and after a gap in the log the last 4 steps alone."""
    found = curves(run, card_of(logged([(0.25, 1, 9.0), (1.0, 4, 9.0), (3.0, 12, 9.0)]), **PLAIN))
    assert found.run.values == (12.0, 10.0, 2.5)


def test_epochs_that_are_rounded_take_no_step_from_the_next_stretch(tmp_path: Path) -> None:
    """Nine steps an epoch: 1/9 is printed as 0.1111 and 2/9 as 0.2222, a little before the steps they belong to."""
    run = made_run(tmp_path, queries=14, steps=0, verdict=None)
    RunWriter(run.path).log(*({"step": step, "epoch": step / 9, "loss": 10.0 * step} for step in range(1, 19)))
    log = logged([(round(step / 9, 4), step, 1.0) for step in range(1, 19)])
    found = curves(run, card_of(log, **{**PLAIN, "logging_steps": 1}), axis="epochs")
    assert found.run.values == tuple(10.0 * step for step in range(1, 19))


def test_a_run_under_way_has_the_points_that_it_got_to(tmp_path: Path) -> None:
    run = made_run(tmp_path, queries=14, steps=0, verdict=None)
    write_steps(run, range(1, 7))
    found = curves(run, card_of(LOG, **PLAIN))
    assert (found.run.x, found.card.x) == ((4,), (4, 8, 12))
    (run.path / "log.jsonl").unlink()
    nothing = curves(run, card_of(LOG, **PLAIN))
    assert list(nothing.run.x) == []
    assert not any("common point" in sentence for sentence in nothing.sentences)


def shared_card() -> Card:
    """1,280 rows in batches of 16 by 2 processes: 40 batches an epoch, 10 steps of 4; losses are sums of 4."""
    log = logged([(step * 4 / 40, step, 4.0 * (13.0 - step)) for step in (2, 4, 6, 8, 10, 12)])
    made = card_of(
        log, per_device_train_batch_size=16, gradient_accumulation_steps=4, logging_steps=2, dataloader_drop_last=True
    )
    return replace(
        made,
        datasets=(Dataset("train", None, size=1280, columns=("anchor", "positive")),),
        versions={**made.versions, "Transformers": Stated("4.51.3", 90), "Sentence Transformers": Stated("4.1.0", 91)},
    )


def test_summed_losses_are_divided_and_rows_of_two_processes_counted(run: Run) -> None:
    found = curves(run, shared_card(), axis="rows")
    assert found.card.values == (11.0, 9.0, 7.0, 5.0, 3.0, 1.0)
    assert list(found.card.x) == [256, 512, 768, 1024, 1280, 1536]  # 16 rows x 4 batches x 2 processes a step
    assert list(found.run.x) == []  # 96 rows in all: the run ends before the card's first point
    assert found.sentences[:2] == (
        "The card's losses are divided by 4: transformers 4.51.3 logged their sum over the accumulation steps.",
        "2 processes trained the card's model, as its epochs show: a step saw 128 rows. Its logged loss is the mean "
        "over the processes.",
    )
    steps = curves(run, shared_card())
    assert steps.run.values == (11.5, 9.5, 7.5, 5.5, 3.5, 1.5)
    assert "the losses differ by 0.5000 on average" in steps.sentences[-1]
    assert steps.sentences[2] == (
        "A step of the card saw 128 rows, one of this run 8: at equal steps they have seen different numbers of rows."
    )


def test_validation_losses_are_never_divided(run: Run) -> None:
    rows = (*shared_card().training_log, LogRow(1.4, 14, None, 0.5, {}, line=80))
    found = curves(run, replace(shared_card(), training_log=rows))
    assert (found.card_validation.x, found.card_validation.values) == ((14,), (0.5,))


def test_over_time_the_card_has_what_it_prints(run: Run) -> None:
    plain = card_of(LOG, **PLAIN, num_train_epochs=3)
    silent = curves(run, plain, axis="seconds")
    assert (silent.card.x, silent.run.x) == ((), ())
    assert silent.sentences == ("The card does not say how long it trained, so it has no curve over time.",)
    for text, seconds in (("1.5 minutes", 90.0), ("0.5 hours", 1800.0), ("soon", None), ("1.2.3 hours", None)):
        found = curves(run, replace(plain, training_time={"Training": Stated(text, 3)}), axis="seconds")
        assert found.card.x[-1:] == (() if seconds is None else (seconds,))
    told = replace(plain, training_time={"Training": Stated("24 seconds", 3)})
    found = curves(run, told, axis="seconds")
    assert (found.card.x, found.run.values) == ((8.0, 16.0, 24.0), (10.5, 6.5, 2.5))
    assert found.sentences[0] == "The card trained for 24 seconds; its points are spread over them evenly."


def test_a_card_without_a_batch_size_has_no_rows(run: Run) -> None:
    found = curves(run, card_of(LOG, logging_steps=4), axis="rows")
    assert found.card.x == ()
    assert "The card does not say its batch size, so it has no curve over rows." in found.sentences


def test_stand_ins_are_said_on_the_plot(tmp_path: Path) -> None:
    run = made_run(tmp_path, queries=14, steps=0, verdict=None)
    assert any(said.startswith("The curves need not agree: bundled all-MiniLM") for said in curves(run).sentences)


def test_what_cannot_be_drawn(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        curves(run, axis="hours")  # type: ignore[arg-type]
    assert str(caught.value) == "expected an axis of steps, epochs, rows, seconds, found 'hours'; choose one."
    with pytest.raises(RunError) as caught:
        curves(run, card_of(()))
    assert str(caught.value) == (
        "expected a training log on the card 'porsche-mxbai', found none; there is nothing to draw."
    )
    bare = made_run(tmp_path / "bare", queries=14, steps=0, verdict=None, card=False)
    with pytest.raises(RunError) as caught:
        curves(bare)
    assert str(caught.value) == f"expected a card to compare run {bare.name!r} with, found none; name one."
    evaluated = logged([(1.0, 4, None)])
    assert "The card 'porsche-mxbai' prints no training loss." in curves(run, card_of(evaluated)).sentences


def test_values_that_are_no_numbers_are_left_out(run: Run) -> None:
    RunWriter(run.path).log({"step": 13, "epoch": 3.25, "loss": float("nan")}, {"step": 14, "loss": "much"})
    found = curves(run, card_of(logged([(1.0, 4, 10.0), (2.0, 8, float("nan")), (3.5, 14, 3.0)]), **PLAIN))
    assert (found.card.values, found.run.values) == ((10.0, 3.0), (10.5,))  # the run has no loss after step 12


def test_the_hotpotqa_card(run: Run, shared: Path) -> None:
    """478 rows of sums over 4: 7287.04 is 1821.76, at 25 steps of 128 rows."""
    found = curves(run, read_card(shared / "cards/seeds/hotpotqa-distilbert-energy.md"), axis="rows")
    assert found.card.x[0] == 3200
    assert found.card.values[0] == pytest.approx(7287.04 / 4)
    assert len(found.card.x) == 478


def test_a_metric_begins_with_what_the_base_measured(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    log = LogColumns.of([{"step": 180, "finetune_cosine_ndcg@10": 0.5, "loss": 1.0}])
    begun = from_start(run, log, "finetune_cosine_ndcg@10")
    assert begun.steps == [0, 180]
    assert begun.column("finetune_cosine_ndcg@10") == [run.metrics("finetune", "before")["cosine_ndcg@10"], 0.5]
    assert log.steps == [180]
    assert from_start(run, log, "loss") is log
    assert from_start(run, log, "test_cosine_ndcg@10") is log
