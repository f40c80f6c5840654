"""A training that is killed at any moment of its life and resumed is the training that was never killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import kills
import pytest


@pytest.mark.parametrize("engine", ["trainer", "fast"])
@pytest.mark.parametrize(
    ("seed", "number"),
    [pytest.param(1, 6, marks=pytest.mark.slow), pytest.param(2, 120, marks=pytest.mark.long)],
)
@pytest.mark.timeout(3600)
def test_a_killed_run_resumes_to_the_same_run(seed: int, number: int, engine: str, tmp_path: Path) -> None:
    """Log, weights, evaluations with their rankings and vectors, and no file more: no checkpoint, nothing half."""
    path = os.pathsep.join(str(Path(kills.__file__).parents[at]) for at in (1, 2))
    command = [sys.executable, kills.__file__, str(tmp_path), str(seed), str(number), engine]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if "DIFFERENCE" in line] == []
    made = re.search(r"^(\d+) kills in", done.stdout, re.MULTILINE)
    assert made is not None
    assert int(made[1]) >= number // 2, done.stdout
