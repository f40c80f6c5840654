"""Run the command or a script in this process, which has the heavy libraries loaded already."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench import cli

Done = subprocess.CompletedProcess[str]

COLUMNS = "200"  # of the terminal


def workbench(*words: object, folder: Path | None = None) -> Done:
    """`workbench WORDS` in `folder`."""
    return _run(cli.main, ["workbench", *map(str, words)], folder)


def python(script: Path, *words: object, folder: Path | None = None) -> Done:
    """`python SCRIPT WORDS` in `folder`."""
    return _run(lambda: runpy.run_path(str(script), run_name="__main__"), [str(script), *map(str, words)], folder)


def _run(call: Callable[[], object], command: Sequence[str], folder: Path | None) -> Done:
    """Call with arguments, folder and environment of its own; the exit code is 0 if it returns."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    arguments, environment = sys.argv, dict(os.environ)
    sys.argv = list(command)
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.chdir(folder or Path.cwd()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            call()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
        if torch := sys.modules.get("torch"):  # UMAP leaves it other threads, which make trainings three times as slow
            torch.set_num_threads(torch.get_num_threads())
    return Done(list(command), code, out.getvalue(), err.getvalue())
