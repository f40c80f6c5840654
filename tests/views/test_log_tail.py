"""A log that is followed while it grows, and what it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from large_run import long_log
from synthetic_run import made_run

from workbench.run import Run, RunWriter
from workbench.views.log_tail import LogTail, checkpoint_steps, logged_names, training_row_count
from workbench.views.loss_curves import LogColumns


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = made_run(tmp_path_factory.mktemp("runs"))
    long_log(made, 120)
    return made


def test_a_log_is_followed_and_agrees_with_the_run(run: Run) -> None:
    assert LogTail(run.path / "log.jsonl").columns() == LogColumns.of(run.log())


def test_a_half_line_waits_a_replaced_log_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    assert tail.columns() == LogColumns.of([])
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert tail.columns() == LogColumns.of([{"step": 1, "loss": 2.0}])
    with path.open("a") as file:
        file.write('ss": 1.0}\nnonsense\n{"step": 1, "eval_loss": 0.5}\n')
    assert tail.columns() == LogColumns.of([{"step": 1, "loss": 2.0, "eval_loss": 0.5}, {"step": 2, "loss": 1.0}])
    other = tmp_path / "other"
    other.write_text('{"step": 7}\n')
    os.replace(other, path)
    assert tail.columns() == LogColumns.of([{"step": 7}])
    path.unlink()
    assert tail.columns() == LogColumns.of([])


def test_what_a_log_holds(run: Run) -> None:
    usual = {"loss", "learning_rate", "grad_norm", "rows_per_second"}
    assert set(logged_names(LogColumns.of(run.log()))) == {*usual, "components/dim_512", "components/dim_256"}
    assert checkpoint_steps(run) == (20, 40, 60, 80, 100, 120)
    assert training_row_count(run) == 1437


def test_rows_of_several_datasets_are_added(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    RunWriter(made.path).update(data={"rows": {"train": 10}, "more": {"b": {"rows": 5}, "c": {"rows": {"train": 2}}}})
    assert training_row_count(made) == 17
