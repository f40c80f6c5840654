"""Training in a separate process, which continues when the notebook, the browser or the terminal is closed.

`start` returns once the run folder exists, `resume` continues a run, `wait` waits for its end. Everything about the
training is in the run folder; what the process prints is in its `output.txt`. The process runs `main` on a temporary
folder that `start` or `resume` wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from workbench import errors
from workbench.cards.card import Card
from workbench.cards.read import card_to_dict
from workbench.errors import RunError, TrainingError, WorkbenchError
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, is_alive, list_runs, write_json
from workbench.training.given import Statements
from workbench.training.source import Source, base_name, command_of, open_recipe, rows_places

if TYPE_CHECKING:
    from workbench.training.source import BaseModel, Data

POLL_SECONDS = 0.2
REQUEST, FAILED = "request.json", "failed.json"
DETACH = (
    "import subprocess, sys; file = open(sys.argv[1], 'ab'); print(subprocess.Popen(sys.argv[2:], "
    "stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True).pid)"
)
"""Starts a process and exits: Jupyter ends the children of a kernel with it, but not their children."""


def start(
    source: Source,
    *,
    card: Card | None = None,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    base: BaseModel | None = None,
    data: Data | None = None,
    columns: Mapping[str, str] | None = None,
    max_steps: int | None = None,
    runs: str | os.PathLike[str] = "runs",
    **stated: Unpack[Statements],
) -> Run:
    """Train a card's recipe, or a recipe, in a separate process; returns when the run folder exists.

    The arguments are those of `train`. Rows and base are loaded and checked first, which
    may take a while; Ctrl-C ends the process then.

    Raises what `train` raises before there is a run folder.
    """
    made, card = open_recipe(source, card=card, corrected=corrected, overrides=overrides)
    options = {
        "base": base_name(base, runs), "data": rows_places(data, runs),
        "columns": None if columns is None else dict(columns), "max_steps": max_steps,
        **stated,
    }  # fmt: skip
    command = command_of(source, options, corrected, overrides or {}, runs)
    request = _new_request(Path(runs))
    save_recipe(made, request.file("recipe"))
    if card is not None:
        write_json(request.file("card"), card_to_dict(card))
    write_json(request.path / REQUEST, {**options, "runs": str(Path(runs).resolve()), "command": command})
    known = {run.name for run in list_runs(runs)}
    process = _detach(request)

    def find() -> Run | None:
        new = (run for run in list_runs(runs) if run.name not in known)
        return next((run for run in new if _belongs_to(run, process)), None)

    return _wait_for_run(request, process, find)


def resume(run: Run) -> Run:
    """Resume a stopped, failed or interrupted run in a separate process; returns when that has taken the folder.

    Raises RunError where the run is being trained, and what `train` raises before it continues.
    """
    if run.status == "finished":
        return run
    if run.status == "running":
        raise RunError(f"expected a run that has ended or was interrupted, found {run.name!r} being trained.")
    request = _new_request(run.path.parent)
    write_json(request.path / REQUEST, {"resume": str(run.path.resolve())})
    process = _detach(request)
    return _wait_for_run(request, process, lambda: run if _belongs_to(run, process) else None)


def wait(run: Run, *, seconds: float | None = None) -> Run:
    """The run, once it has finished. A stopped run is waited for too, since it may be resumed; stderr says so.

    In a notebook use `await wb.finished(run)`, which leaves the buttons of other cells usable.

    Raises RunError where the training failed or its process is gone, and after so many `seconds`.
    """
    until = None if seconds is None else time.monotonic() + seconds
    informed = False
    while not has_finished(run):
        if until is not None and time.monotonic() > until:
            raise RunError(f"expected run {run.name!r} to finish within {seconds:g} seconds, found it {run.status}.")
        if run.status == "stopped" and not informed:
            print(f"{run.name} is stopped; resume it with `workbench train --resume {run.name}`.", file=sys.stderr)
            informed = True
        time.sleep(POLL_SECONDS)
    return run


def has_finished(run: Run) -> bool:
    """Whether the run has finished; a stopped one has not, since it may be resumed.

    Raises RunError where the training failed or its process is gone.
    """
    status = run.status
    if status in ("running", "stopped", "finished"):
        return status == "finished"
    reason = "run.json cannot be read" if status == "broken" else run.record.get("error") or "its process is gone"
    raise RunError(f"expected run {run.name!r} to finish, found it {status}: {reason}")


def _new_request(runs: Path) -> Run:
    """A folder for the request, laid out like a run; its name begins with a dot, so that it is not listed as one."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        return Run(Path(tempfile.mkdtemp(prefix=".start-", dir=runs)))
    except OSError as error:
        raise RunError(
            f"cannot make a folder in {str(runs)!r}: {error.strerror or error}; choose another for the runs."
        ) from error


def _detach(request: Run) -> dict[str, Any]:
    """Start the process for the request; returns its pid and host, as in run.json."""
    code = "from workbench.training.background import main; raise SystemExit(main())"
    words = [sys.executable, "-c", code, str(request.path)]
    detach = [sys.executable, "-I", "-S", "-c", DETACH, str(request.file("output")), *words]
    done = subprocess.run(detach, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"expected a process to train in, found that none can be started: {last}.")
    return {"pid": int(done.stdout), "host": socket.gethostname()}


def _wait_for_run(request: Run, process: Mapping[str, Any], find: Callable[[], Run | None]) -> Run:
    """The run, once `find` finds it; raises the error of the process where it ends before that."""
    try:
        while True:
            running = is_alive(process)  # before looking: the run may be made and finished in between
            run = find()
            if run is not None:
                with suppress(OSError):
                    _move_output(request, run)
                return run
            if not running:
                raise _failure(request)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(int(process["pid"]), signal.SIGTERM)
        raise
    finally:
        shutil.rmtree(request.path, ignore_errors=True)  # a process that is about to end may still write there


def _belongs_to(run: Run, process: Mapping[str, Any]) -> bool:
    """Whether this process has written itself into the run."""
    with suppress(RunError):
        owner = run.record.get("process") or {}
        return all(owner.get(key) == value for key, value in process.items())
    return False


def _move_output(request: Run, run: Run) -> None:
    """Move the output into the run folder; the process continues to write to the same file."""
    target = run.file("output")
    if target.exists():
        target.rename(target.with_name("output-before.txt"))
    request.file("output").rename(target)


def _failure(request: Run) -> WorkbenchError:
    """The error that ended the process, of its own class where it is one of ours."""
    with suppress(OSError, ValueError, KeyError):
        failed = json.loads((request.path / FAILED).read_text(encoding="utf-8"))
        kind = getattr(errors, str(failed["error"]), TrainingError)
        return kind(str(failed["message"])) if issubclass(kind, WorkbenchError) else TrainingError(failed["message"])
    lines: list[str] = []
    with suppress(OSError):
        lines = request.file("output").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else "it printed nothing"
    return TrainingError(f"expected a run folder from the training process, found that it ended before: {last}")


def main() -> int:
    """Do what the folder on the command line requests; 2 and failed.json where that fails."""
    request = Run(Path(sys.argv[1]))
    try:
        _train(request)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        with suppress(RunError):
            if request.path.is_dir():  # the process that started this one still waits
                write_json(request.path / FAILED, {"error": type(error).__name__, "message": str(error)})
        return 2
    return 0


def _train(request: Run) -> None:
    from workbench.training.train import train

    options = json.loads((request.path / REQUEST).read_text(encoding="utf-8"))
    if "resume" in options:
        train(None, **options)
    else:
        train(request.recipe(), card=request.card(), **options)
