"""Kills tiny trainings at random moments and resumes them: `python kills.py FOLDER SEED KILLS ENGINE`.

One process trains once, in one thread, and forks a process for each further training, so that a kill costs seconds.
Half of the kills come at a random file operation, half at a random time. Prints a line for each difference from the run
that was never killed, and last how many kills there were.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from tiny import tiny_base, tiny_recipe, tiny_rows, train_often

from workbench.evaluation.projection import load_vectors
from workbench.recipe.overrides import with_overrides
from workbench.run import Run, list_runs

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.copyfile"}


def in_fork(work: Callable[[], Any], alive: float = 600.0) -> int:
    """Do `work` in a fork, killed after `alive` seconds; returns the signal that ended it, or its exit code."""
    process = os.fork()
    if not process:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + alive
    while time.monotonic() < until:
        if os.waitpid(process, os.WNOHANG)[0]:
            return 0
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return signal.SIGKILL


def die_at(root: Path, number: int) -> list[int]:
    """Kill this process before its file operation `number` below `root`, from 1; returns the list that counts them."""
    done = [0]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in WRITES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT)
        if writes and str(arguments[0]).startswith(str(root)):
            done[0] += 1
            if done[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return done


def steps_of(run: Run) -> dict[int, tuple[float, ...]]:
    keys = ("loss", "learning_rate", "grad_norm", "eval_loss")
    return {row["step"]: tuple(row[key] for key in keys if key in row) for row in run.log()}


def files_of(run: Run) -> list[str]:
    return sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.name != "stop")


def differences(found: Run, expected: Run) -> list[str]:
    """What a resumed run has other than the one that was never killed."""
    wrong = [] if found.status == "finished" else [f"status {found.status}"]
    wrong += (
        [] if files_of(found) == files_of(expected) else [f"files {set(files_of(found)) ^ set(files_of(expected))}"]
    )
    wrong += [] if steps_of(found) == steps_of(expected) else ["log"]
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (found, expected)]
    wrong += [] if weights[0] == weights[1] else ["weights"]
    for name, stages in expected.evaluations().items():
        for stage in stages:
            same = found.metrics(name, stage) == expected.metrics(name, stage)
            same &= found.hits(name, stage).equals(expected.hits(name, stage))
            same &= found.per_query(name, stage).equals(expected.per_query(name, stage))
            wrong += [] if same else [f"evaluation {name}, {stage}"]
            if stage in ("before", "after"):
                ours, theirs = (load_vectors(run, name, stage) for run in (found, expected))  # type: ignore[arg-type]
                same = np.array_equal(ours.queries, theirs.queries) and np.array_equal(ours.documents, theirs.documents)
                wrong += [] if same else [f"vectors {name}, {stage}"]
    return wrong


def main() -> None:
    folder, seed, kills, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    jinja2.Environment.compile = functools.cache(jinja2.Environment.compile)  # type: ignore[method-assign]  # of cards
    recipe = tiny_recipe(tiny_base(folder), tiny_rows(folder / "rows.json"), num_train_epochs=2)
    recipe = with_overrides(recipe, {"training.engine": kind})
    chance, counted = random.Random(seed), folder / "operations"
    expected = train_often(recipe, runs=folder / "whole", timing={"log_seconds": 0.0})

    def train(runs: Path, die: int = 0) -> None:
        done = die_at(runs, die)
        train_often(recipe, runs=runs, timing={"log_seconds": 0.0})
        counted.write_text(str(done[0]))

    began = time.monotonic()
    in_fork(lambda: train(folder / "again"))
    seconds, operations = time.monotonic() - began, int(counted.read_text())
    print(*(f"DIFFERENCE without a kill: {each}" for each in differences(list_runs(folder / "again")[0], expected)))
    made = 0
    for number in range(kills):
        runs, at, alive = folder / f"{number}", 0, 600.0
        if number % 2:
            alive = chance.uniform(0.0, seconds)
        else:
            at = chance.randint(1, operations)
        began = time.monotonic()
        ended = in_fork(lambda: train(runs, at), alive)  # noqa: B023
        seconds = seconds if ended else time.monotonic() - began  # a machine is not always as busy
        run = next(iter(list_runs(runs)), None)
        when = f"seed {seed}, kill {number}: " + (f"file operation {at}" if at else f"{alive:.3f} s")
        if run is None or run.status == "finished":
            print(f"{when}: {'no run yet' if run is None else 'after its end'}")
            continue
        made += 1
        logged, status = steps_of(run), run.status
        in_fork(lambda: train_often(None, resume=run.path, timing={"log_seconds": 0.0}))  # noqa: B023
        wrong = differences(run, expected)
        wrong += [] if status == "interrupted" else [f"killed as {status}"]
        again = steps_of(run)
        lost = [step for step, values in logged.items() if again.get(step, ())[: len(values)] != values]
        wrong += [f"logged steps lost: {lost}"] if lost else []
        for each in wrong:
            print(f"DIFFERENCE {when}, {len(logged)} steps logged: {each} ({ended})")
    print(f"{made} kills in {operations} file operations, {seconds:.1f} s each")


if __name__ == "__main__":
    main()
