"""Several processes train one run: the first writes, all of them give what one would have given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_base, tiny_recipe, tiny_rows
from tiny import train_often as train

from workbench.errors import RecipeError, RunError, TrainingError
from workbench.recipe.schema import Data, LossSpec, Recipe, Source, Split
from workbench.run import Run, RunWriter
from workbench.training import processes

SCRIPT = """
import os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from pathlib import Path
import test_processes
test_processes.in_each_process(*map(Path, sys.argv[2:]))
"""


def together(base: Path, rows: Path) -> Recipe:
    """A loss that is a mean over rows, so that processes that share a batch give what one gives."""
    recipe = tiny_recipe(base, rows, per_device_train_batch_size=4, batch_sampler="batch_sampler", processes=2)
    data = Data(train=Source(location=str(rows)), split=Split(), columns=("sentence1", "sentence2", "score"))
    return recipe.model_copy(update={"data": data, "loss": LossSpec(name="CosineSimilarityLoss")})


def ranking(base: Path, pairs: Path, **training: Any) -> Recipe:
    """A loss whose rows are each other's negatives, within a batch of 4."""
    return tiny_recipe(
        base, pairs, per_device_train_batch_size=4, batch_sampler="batch_sampler", num_train_epochs=1, processes=2,
        **training,
    )  # fmt: skip


def in_each_process(base: Path, rows: Path, pairs: Path, folder: Path) -> None:
    """What each of the two processes does: a whole run of each loss, and one that is stopped and goes on."""
    train(ranking(base, pairs, engine="fast"), runs=folder / "ranking")
    recipe = together(base, rows)
    train(recipe, runs=folder / "whole")
    stops = folder / "stopped"

    def stop(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 5 and processes.is_first():
            Run(next(stops.iterdir())).stop()

    run = train(recipe, runs=stops, on_progress=stop, timing={"stop_seconds": 0.0})
    status = run.status
    again = train(None, resume=run.path)
    (folder / f"{os.getpid()}.json").write_text(json.dumps([status, again.status, processes.rank()]))


def steps_of(run: Run) -> list[tuple[Any, ...]]:
    return [(row["step"], row["loss"], row["grad_norm"], row["learning_rate"]) for row in run.log()]


@pytest.mark.slow
def test_two_processes_give_what_one_gives_with_a_batch_twice_as_large(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", dropout=0.0)
    rows = tmp_path / "rows.json"
    pairs = json.loads(tiny_rows(tmp_path / "pairs.json").read_text())
    scored = [
        {"sentence1": row["anchor"], "sentence2": row["positive"], "score": at % 5 / 4} for at, row in enumerate(pairs)
    ]
    rows.write_text(json.dumps(scored))
    pairs_file = tmp_path / "pairs.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [*command, str(script), here, str(base), str(rows), str(pairs_file), str(tmp_path / "runs")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*.json")]
    assert sorted(told) == [["stopped", "finished", 0], ["stopped", "finished", 1]]

    both, again = (Run(next((tmp_path / "runs" / name).iterdir())) for name in ("whole", "stopped"))
    alone = train(
        together(base, rows).model_copy(
            update={"training": together(base, rows).training.model_copy(update={"per_device_train_batch_size": 8})}
        ),
        runs=tmp_path / "alone",
    )
    assert both.record["notes"] == [
        "Several processes train on full batches only; the last rows of an epoch may be left out."
    ]
    assert both.record["processes"] == both.record["cost"]["processes"] == 2
    lines = (both.path / "log.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"loss"' in line]) == 18  # one writer
    for ours, theirs in zip(steps_of(both), steps_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert shape(both) == shape(alone)
    assert steps_of(again) == steps_of(both)
    model = Path("model") / "model.safetensors"
    assert (again.path / model).read_bytes() == (both.path / model).read_bytes()

    # Of any loss: a batch of each process is what a batch of each accumulated step is, as the negatives are its own.
    shared = Run(next((tmp_path / "runs" / "ranking").iterdir()))
    accumulated = train(ranking(base, pairs_file, gradient_accumulation_steps=2), runs=tmp_path / "accumulated")
    assert len(steps_of(shared)) == 6
    for ours, theirs in zip(steps_of(shared), steps_of(accumulated), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert shared.record["notes"][-1] == (
        "The fast engine does not take this recipe (several processes train); the trainer trains it."
    )

    RunWriter(both.path).update(status="stopped")
    with pytest.raises(RunError) as caught:
        train(None, resume=both.path)
    assert str(caught.value) == (
        f"expected the 2 processes that run {both.name!r} began with, found 1; resume with --processes 2."
    )


def shape(run: Run) -> set[str]:
    """The files of a run and the keys of its record."""
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    return files | {f"run.json {key}" for key in run.record}


# --- start ---------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
number, folder = os.environ["RANK"], sys.argv[1]
told = " ".join(os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))
open(f"{folder}/{number}", "w").write(told)
"""


def launch(folder: Path, code: str, number: int) -> None:
    """Processes that run a few lines of Python instead of the command, and write into `folder`."""
    processes.launch([str(folder)], number, program=("-c", CHILD + code))


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    yield
    for name, handler in handlers.items():  # torch's starter leaves its own
        signal.signal(name, handler)


def test_launch_starts_every_process_with_its_rank(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(tmp_path, "", 3)
    assert ended.value.code == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(number): f"3 {number} 127.0.0.1" for number in range(3)
    }


def test_the_first_process_says_why_before_the_others_end(tmp_path: Path) -> None:
    """All fail for the same reason, the first last: it is not ended before it has spoken."""
    code = """
from workbench.training.processes import let_first_fail
let_first_fail()
time.sleep(0.3)
open(f"{folder}/said", "w").close()
sys.exit(2)
"""
    with pytest.raises(SystemExit) as ended:
        launch(tmp_path, code, 2)
    assert ended.value.code == 2
    assert (tmp_path / "said").exists()


def test_a_process_that_ends_alone_ends_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        launch(tmp_path, "sys.exit(7) if number == '1' else time.sleep(60)", 2)
    assert time.monotonic() - began < 20
    assert str(caught.value) == (
        "expected 2 processes that train to the end, found that process 1 ended with exit code 7 and the others waited "
        "for it; resume the run."
    )


def test_every_signal_reaches_every_process_once(tmp_path: Path) -> None:
    """Two of them: the second comes while the processes are about to end."""
    code = (
        "count = []\n"
        "signal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "open(f'{folder}/ready{number}', 'w').close()\n"
        "while not count: time.sleep(0.01)\n"
        "open(f'{folder}/first{number}', 'w').close()\n"
        "while len(count) < 2: time.sleep(0.01)\n"
        "time.sleep(0.3); open(f'{folder}/{number}', 'w').write(str(len(count)))"
    )

    def press() -> None:
        for name in ("ready", "first"):
            while len(list(tmp_path.glob(f"{name}*"))) < 2:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        launch(tmp_path, code, 2)
    assert ended.value.code == 0
    assert [(tmp_path / name).read_text() for name in ("0", "1")] == ["2", "2"]


def test_launch_returns_for_one_process_and_in_a_launched_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launch(tmp_path, "", 1)
    assert (processes.world_size(), processes.rank(), processes.is_first()) == (1, 0, True)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    launch(tmp_path, "", 2)
    assert (processes.world_size(), processes.rank(), processes.is_first()) == (2, 1, False)
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="expected at least one process, found 0"):
        processes.launch(["train"], 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(RecipeError) as caught:
        processes.launch(["train"], 2)
    assert str(caught.value) == (
        "expected a GPU for each of 2 processes, found 1; use --processes 1, or CUDA_VISIBLE_DEVICES= to train on the "
        "CPU."
    )


def test_a_single_process_shares_nothing_and_waits_for_nobody() -> None:
    processes.wait()
    assert processes.from_first({"a": 1}) == {"a": 1}
    assert processes.any_of([True, False]) == [True, False]
    with processes.joined_processes():
        assert processes.mean_of(3.0) == 3.0
