"""Several processes train one run: the first writes, all of them give what one would have given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_base, tiny_recipe, tiny_rows

from workbench.errors import RecipeError, RunError, TrainingError
from workbench.recipe.schema import Data, LossSpec, Recipe, Source, Split
from workbench.run import Run, RunWriter
from workbench.training import processes
from workbench.training.train import train

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
    from workbench.training import callbacks, trainer

    trainer.CHECKPOINT_STEPS, callbacks.LOOK_SECONDS = 4, 0.0
    train(ranking(base, pairs, engine="fast"), runs=folder / "ranking")
    recipe = together(base, rows)
    train(recipe, runs=folder / "whole")
    stops = folder / "stopped"

    def stop(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 5 and processes.is_first():
            Run(next(stops.iterdir())).stop()

    run = train(recipe, runs=stops, on_progress=stop)
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
        "Several processes train on full batches alone; rows that fill none at the end of an epoch are left out."
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


# --- starting them -------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
number, folder = os.environ["RANK"], sys.argv[1]
told = " ".join(os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))
open(f"{folder}/{number}", "w").write(told)
"""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Makes processes run a few lines of Python instead of the command; gives the folder that they write into."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)

    def does(code: str) -> Path:
        monkeypatch.setattr(processes, "words", lambda _: [sys.executable, "-c", CHILD + code, str(tmp_path)])
        return tmp_path

    return does


def test_launch_starts_every_process_with_its_number(child: Callable[[str], Path]) -> None:
    folder = child("")
    with pytest.raises(SystemExit) as ended:
        processes.launch(["train"], 3)
    assert ended.value.code == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        str(number): f"3 {number} 127.0.0.1" for number in range(3)
    }


def test_processes_that_fail_alike_end_with_the_code_of_the_first(child: Callable[[str], Path]) -> None:
    child("time.sleep(0.3 * (number == '0')); sys.exit(2)")
    with pytest.raises(SystemExit) as ended:
        processes.launch(["train"], 2)
    assert ended.value.code == 2


def test_a_process_that_ends_alone_ends_the_others(
    child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    child("sys.exit(7) if number == '1' else time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        processes.launch(["train"], 2)
    assert time.monotonic() - began < 20
    assert str(caught.value) == (
        "expected 2 processes that train to the end, found that process 1 ended with exit code 7 and the others waited "
        "for it; resume the run."
    )


def test_a_signal_reaches_every_process_once(child: Callable[[str], Path]) -> None:
    folder = child(
        "count = []\n"
        "signal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "open(f'{folder}/ready{number}', 'w').close()\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3); open(f'{folder}/{number}', 'w').write(str(len(count)))"
    )

    def press() -> None:
        while len(list(folder.glob("ready*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(SystemExit):
        processes.launch(["train"], 2)
    assert [(folder / name).read_text() for name in ("0", "1")] == ["1", "1"]


def test_one_process_and_one_that_was_started_so_go_on(
    child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = child("")
    processes.launch(["train"], 1)
    assert (processes.world_size(), processes.rank(), processes.is_first()) == (1, 0, True)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    processes.launch(["train"], 2)
    assert (processes.world_size(), processes.rank(), processes.is_first()) == (2, 1, False)
    assert list(folder.iterdir()) == []


def test_processes_that_cannot_be_are_one_sentence(
    child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match="expected at least one process, found 0"):
        processes.launch(["train"], 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(RecipeError) as caught:
        processes.launch(["train"], 2)
    assert str(caught.value) == (
        "expected a GPU for each of 2 processes, found 1; use --processes 1, or CUDA_VISIBLE_DEVICES= to train on the "
        "CPU."
    )


def test_alone_nothing_is_shared_and_nobody_waits() -> None:
    processes.wait()
    assert processes.from_first({"a": 1}) == {"a": 1}
    assert processes.any_of([True, False]) == [True, False]
    with processes.together():
        assert processes.mean_of(3.0) == 3.0
