"""Training in a separate process: found, stopped, resumed, waited for; its errors are raised here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tiny import tiny_base, tiny_recipe, tiny_rows

from workbench.errors import DataError, RunError
from workbench.recipe.schema import Recipe
from workbench.run import Run, RunWriter, list_runs
from workbench.training.background import resume, start, wait


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("inputs")
    return tiny_recipe(tiny_base(folder), tiny_rows(folder / "rows.json"), num_train_epochs=200, eval_strategy="no")


def test_a_run_is_stopped_and_resumed_in_separate_processes(recipe: Recipe, tmp_path: Path) -> None:
    run = start(recipe, runs=tmp_path, max_steps=400)
    process = run.record["process"]["pid"]
    assert run.status == "running"
    assert process != os.getpid()
    parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) != os.getpid()  # Jupyter ends a kernel's children with it
    assert os.getsid(process) == process  # an interrupted cell does not reach it
    with pytest.raises(RunError, match="expected a run that has ended or was interrupted"):
        resume(run)
    until = time.monotonic() + 60
    while not run.log() and time.monotonic() < until:
        time.sleep(0.05)
    run.stop()
    while run.status == "running" and time.monotonic() < until:
        time.sleep(0.05)
    assert run.status == "stopped"
    stopped = run.record["progress"]["step"]
    assert 0 < stopped < 400
    again = resume(run)
    assert again.record["process"]["pid"] != process
    assert wait(again, seconds=90).status == "finished"
    assert [row["step"] for row in again.log() if "loss" in row] == list(range(1, 401))
    assert (again.path / "output.txt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert list_runs(tmp_path) == [run]


def test_an_error_before_there_is_a_run_is_raised_here(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        start(recipe, runs=tmp_path, data=str(tmp_path / "nowhere.json"))
    assert list(tmp_path.iterdir()) == []


def test_the_record_holds_the_command_that_does_the_same(tmp_path: Path) -> None:
    run = start(
        "porsche-mxbai", corrected=True, overrides={"training.seed": 3}, base="bundled:static", data="sample:porsche",
        max_steps=2, runs=tmp_path,
    )  # fmt: skip
    assert run.record["command"] == [
        "workbench", "train", "porsche-mxbai", "--corrected", "--base", "bundled:static", "--data", "sample:porsche",
        "--max-steps", "2", "--set", "training.seed=3", "--runs", str(tmp_path),
    ]  # fmt: skip
    assert run.recipe().training.seed == 3
    assert run.card().name == "porsche-mxbai"
    os.kill(run.record["process"]["pid"], signal.SIGKILL)
    with pytest.raises(RunError) as caught:
        wait(run, seconds=60)
    assert str(caught.value) == f"expected run {run.name!r} to finish, found it interrupted: its process is gone"


def test_waiting_for_a_failed_run_raises_and_for_a_stopped_one_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "run.json").write_text('{"status": "failed", "error": "The disk is full."}')
    run = Run(tmp_path / "it")
    with pytest.raises(RunError) as caught:
        wait(run)
    assert str(caught.value) == "expected run 'it' to finish, found it failed: The disk is full."
    RunWriter(run.path).update(status="stopped")
    with pytest.raises(RunError, match=r"within 0\.3 seconds, found it stopped"):
        wait(run, seconds=0.3)
    assert capsys.readouterr().err == "it is stopped; resume it with `workbench train --resume it`.\n"
