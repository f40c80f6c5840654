"""The command `workbench`: a thin face of the package for a terminal.

Each command reads its words, calls one function of the package and prints what came back: a table for a person, JSON
on standard output for a program (`--json`). Progress and remarks go to standard error. Exit code 0 is done, 1 is bad
news in the answer (`--strict`), 2 is that it could not be done, with one sentence on standard error.

Text from cards and data is hostile: control characters are shown as a mark, and no markup in it is obeyed.
"""

from __future__ import annotations

import sys

from workbench.cli import cards, launch, results, training
from workbench.cli.options import app
from workbench.cli.terminal import plain
from workbench.errors import WorkbenchError
from workbench.training.processes import is_first

ORDER = (
    "show", "audit", "recipe", "reproduce", "train", "stop", "runs", "evaluate", "compare", "slices", "map", "report",
    "export", "dashboard", "lab", "doctor",
)  # fmt: skip
"""Of the commands in the help: as a person comes to need them."""

app.registered_commands.sort(key=lambda command: ORDER.index(command.name or getattr(command.callback, "__name__", "")))

__all__ = ["app", "cards", "launch", "main", "results", "training"]


def main() -> None:
    """Entry point of the command; turns the package's errors into a sentence and exit code 2."""
    try:
        app()
    except WorkbenchError as error:
        complain(str(error))
    except OSError as error:
        named = f" {error.filename!r}" if error.filename else ""
        complain(f"the system refused{named}: {error.strerror or error}.")
    except KeyboardInterrupt:
        complain("stopped by the keyboard.", code=130)


def complain(sentence: str, code: int = 2) -> None:
    """Say one sentence on standard error and leave."""
    if is_first():
        print(f"workbench: {plain(sentence)}", file=sys.stderr)
    sys.exit(code)
