"""A training in a process of its own: it goes on when the notebook, the browser or the terminal is closed.

`start` begins one and comes back once the run folder exists; `resume` goes on with one; `wait` waits for the end. The
run folder says everything there is to know, so that whoever opens it sees the training as it stands. What the process
prints is in `output.txt` of the run folder.

The process runs `main` on the folder that `start` wrote.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench import errors
from workbench.cards.card import Card
from workbench.cards.read import card_from_dict, card_to_dict, read_card, shipped_cards
from workbench.errors import RunError, TrainingError, WorkbenchError
from workbench.recipe.from_card import recipe as understand
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_io import load_recipe, save_recipe
from workbench.run import Run, is_alive, list_runs, write_json

OUTPUT = "output.txt"
LOOK_EVERY = 0.2  # seconds between two looks at the disk
DETACH = (
    "import subprocess, sys; file = open(sys.argv[1], 'ab'); print(subprocess.Popen(sys.argv[2:], "
    "stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True).pid)"
)
"""Starts a process and leaves at once: Jupyter ends the children of a kernel with it, but not their children's."""


def start(
    source: Card | Recipe | str | os.PathLike[str],
    *,
    card: Card | None = None,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    base: str | None = None,
    data: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_steps: int | None = None,
    runs: str | os.PathLike[str] = "runs",
) -> Run:
    """Train a card's recipe, or a recipe, in a process of its own; comes back when the run folder exists.

    `source` is a card or what `read_card` takes, or a Recipe (with the `card` that it came from, if any). `corrected`
    and `overrides` are those of `recipe`, the rest those of `train`. Rows and base are read and checked before there is
    a folder, which may take a while; Ctrl-C in that time ends the process.

    Raises what `train` raises before there is a run folder, with its sentence.
    """
    named = source if isinstance(source, Card | Recipe) else read_card(source)
    if isinstance(named, Recipe):
        made, found = with_overrides(named, overrides or {}), card
    else:
        made, found = understand(named, corrected=corrected, overrides=overrides), named
    folder = _folder(Path(runs))
    save_recipe(made, folder / "recipe.yaml")
    if found is not None:
        write_json(folder / "card.json", card_to_dict(found))
    asked = {"base": base, "data": data, "columns": None if columns is None else dict(columns), "max_steps": max_steps}
    words = _words(source, named, asked, corrected=corrected, overrides=overrides or {}, runs=str(runs))
    write_json(folder / "asked.json", {**asked, "runs": str(Path(runs).resolve()), "command": words})
    known = {run.name for run in list_runs(runs)}
    process = _detach(folder)

    def made_by_it() -> Run | None:
        new = (run for run in list_runs(runs) if run.name not in known)
        return next((run for run in new if _holds(run, process)), None)

    return _settled(folder, process, made_by_it)


def resume(run: Run) -> Run:
    """Go on with a stopped, failed or interrupted run in a process of its own; comes back when that has the folder.

    Raises RunError where somebody trains the run, and what `train` raises before it goes on.
    """
    if run.status == "finished":
        return run
    if run.status == "running":
        raise RunError(f"expected a run that has ended or was interrupted, found {run.name!r} being trained.")
    folder = _folder(run.path.parent)
    write_json(folder / "asked.json", {"resume": str(run.path.resolve())})
    process = _detach(folder)
    return _settled(folder, process, lambda: run if _holds(run, process) else None)


def wait(run: Run, *, seconds: float | None = None) -> Run:
    """The run, once it has finished. A stopped run is waited for too, which is said on stderr: somebody may resume it.

    In a notebook `await widgets.finished(run)` does the same and leaves its buttons usable.

    Raises RunError where the training failed or its process is gone, and after so many `seconds`.
    """
    until = None if seconds is None else time.monotonic() + seconds
    said = False
    while not ended(run):
        if until is not None and time.monotonic() > until:
            raise RunError(f"expected run {run.name!r} to finish within {seconds:g} seconds, found it {run.status}.")
        if run.status == "stopped" and not said:
            print(f"{run.name} is stopped; `workbench train --resume {run.name}` goes on with it.", file=sys.stderr)
            said = True
        time.sleep(LOOK_EVERY)
    return run


def ended(run: Run) -> bool:
    """Whether the run has finished; a stopped one has not, for somebody may resume it.

    Raises RunError where the training failed or its process is gone.
    """
    status = run.status
    if status in ("running", "stopped"):
        return False
    if status == "finished":
        return True
    why = str(run.record.get("error") or "its process is gone") if status != "broken" else "run.json cannot be read"
    raise RunError(f"expected run {run.name!r} to finish, found it {status}: {why}")


# --- the other process ---------------------------------------------------------------------------------------------


def _folder(runs: Path) -> Path:
    """A folder for what the process is asked; its name begins with a dot, so that it is no run."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".start-", dir=runs))
    except OSError as error:
        raise RunError(
            f"cannot make a folder in {str(runs)!r}: {error.strerror or error}; choose another for the runs."
        ) from error


def _detach(folder: Path) -> dict[str, Any]:
    """Start the process that does what `folder` asks; what identifies it, as in run.json."""
    code = "from workbench.training.background import main; raise SystemExit(main())"
    words = [sys.executable, "-c", code, str(folder)]
    detach = [sys.executable, "-I", "-S", "-c", DETACH, str(folder / OUTPUT), *words]
    done = subprocess.run(detach, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"expected a process to train in, found that none can be started: {last}.")
    return {"pid": int(done.stdout), "host": socket.gethostname()}


def _settled(folder: Path, process: Mapping[str, Any], find: Callable[[], Run | None]) -> Run:
    """The run, once `find` finds it; raises what the process says where it ends before that."""
    try:
        while True:
            running = is_alive(process)  # before looking: a run that is made and finished in between is found
            run = find()
            if run is not None:
                with suppress(OSError):
                    _move_output(folder, run)
                return run
            if not running:
                raise _complaint(folder)
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(int(process["pid"]), signal.SIGTERM)
        raise
    finally:
        _remove(folder)


def _holds(run: Run, process: Mapping[str, Any]) -> bool:
    """Whether this process has written itself into the run."""
    with suppress(RunError):
        said = run.record.get("process") or {}
        return all(said.get(key) == value for key, value in process.items())
    return False


def _move_output(folder: Path, run: Run) -> None:
    """What the process prints goes to the run folder: the file is the same, and it goes on writing there."""
    target = run.path / OUTPUT
    if target.exists():
        target.rename(target.with_name("output-before.txt"))
    (folder / OUTPUT).rename(target)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a process that was just ended may still write there
        folder.rmdir()


def _complaint(folder: Path) -> WorkbenchError:
    """The error that ended the process, of its own class where it is one of ours."""
    with suppress(OSError, ValueError, KeyError):
        said = json.loads((folder / "failed.json").read_text(encoding="utf-8"))
        kind = getattr(errors, str(said["error"]), TrainingError)
        return kind(str(said["sentence"])) if issubclass(kind, WorkbenchError) else TrainingError(said["sentence"])
    try:
        lines = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = lines[-1][:300] if lines else "it said nothing"
    return TrainingError(f"expected a run folder from the training process, found that it ended before: {last}")


def _words(
    source: Any, named: Card | Recipe, asked: Mapping[str, Any], *, corrected: bool, overrides: Mapping[str, Any],
    runs: str,
) -> list[str]:  # fmt: skip
    """The command that does the same in a terminal; empty for a recipe or a card that is only in memory."""
    if isinstance(named, Recipe) or isinstance(source, Card):
        word = named.name if isinstance(named, Card) else ""
        if word not in shipped_cards():
            return []
    else:
        word = os.fspath(source)
    words = ["workbench", "train", word, *(["--corrected"] if corrected else [])]
    for name, value in asked.items():
        if isinstance(value, Mapping):
            value = ",".join(f"{theirs}={ours}" for theirs, ours in value.items())
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    for field, value in overrides.items():
        words += ["--set", f"{field}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"]
    return [*words, "--runs", runs]


def main() -> int:
    """Do what the folder on the command line asks; 2 where that cannot be done, with the sentence in failed.json."""
    folder = Path(sys.argv[1])
    try:
        _train(folder)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        with suppress(RunError):
            if folder.is_dir():  # who started this still waits
                write_json(folder / "failed.json", {"error": type(error).__name__, "sentence": str(error)})
        return 2
    return 0


def _train(folder: Path) -> None:
    from workbench.training.train import train

    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    if "resume" in asked:
        train(None, resume=asked["resume"])
        return
    card = folder / "card.json"
    train(
        load_recipe(folder / "recipe.yaml"),
        card=card_from_dict(json.loads(card.read_text(encoding="utf-8"))) if card.exists() else None,
        runs=asked["runs"],
        command=asked["command"],
        **{name: asked[name] for name in ("base", "data", "columns", "max_steps")},
    )
