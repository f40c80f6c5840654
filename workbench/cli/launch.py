"""Commands that open the dashboard and JupyterLab."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from workbench.cli.terminal import note
from workbench.errors import WorkbenchError, check_installed

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Port = Annotated[int, Option("--port", min=1, max=65535, help="Port.")]
Browser = Annotated[bool, Option("--browser/--no-browser", help="Open a browser window.")]


def dashboard(
    runs: Annotated[Path, Argument(metavar="[RUNS_FOLDER]", help="Folder of runs.")] = Path("runs"),
    host: Annotated[str, Option("--host", help="Address to listen on, such as 0.0.0.0.")] = "127.0.0.1",
    port: Port = 8501,
    browser: Browser = True,
    read_only: Annotated[
        bool, Option("--read-only", help="No alias, tag, note, archive or trash of runs: only look.")
    ] = False,
) -> None:
    """Open the dashboard (Streamlit) on 127.0.0.1.

    On another --host it only shows, and asks for a password: WORKBENCH_PASSWORD, or one that is printed.
    """
    from workbench.resources import shipped_path

    check_installed("streamlit")
    page = shipped_path("dashboard/app.py")
    if host not in LOOPBACK:
        read_only = True
        if not os.environ.get("WORKBENCH_PASSWORD"):
            os.environ["WORKBENCH_PASSWORD"] = secrets.token_urlsafe(9)
            note(f"password: {os.environ['WORKBENCH_PASSWORD']}")
    words = [sys.executable, "-m", "streamlit", "run", str(page), "--server.address", host]
    words += ["--server.port", str(port), "--server.headless", str(not browser).lower()]
    words += ["--browser.gatherUsageStats", "false", "--", str(runs), *(["--read-only"] if read_only else [])]
    note(f"dashboard of {runs} on http://{host}:{port} (Ctrl-C to stop)")
    os.execv(sys.executable, words)


def lab(
    folder: Annotated[Path | None, Argument(metavar="[FOLDER]", help="Folder for copies of the notebooks.")] = None,
    port: Port = 8888,
    browser: Browser = True,
) -> None:
    """Open the notebooks in JupyterLab.

    Without FOLDER these are the notebooks of the clone; a FOLDER gets copies of those that it does not have.
    """
    from workbench.resources import is_installed, shipped_path

    check_installed("jupyterlab")
    if folder is None and not is_installed():
        folder = shipped_path("notebooks")
    else:
        folder = folder or Path("notebooks")
        _copy_notebooks(shipped_path("notebooks"), folder)
    words = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", "--ip=127.0.0.1", f"--port={port}"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += [] if browser else ["--no-browser"]
    words += ["--allow-root"] if os.geteuid() == 0 else []  # root is the only user of a container
    settings = [str(shipped_path("notebooks/settings")), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, settings))  # no requests for news or updates
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this Python's kernel, not one of the same name in the user's home
    os.execv(sys.executable, words)


def _copy_notebooks(source: Path, folder: Path) -> None:
    """Copy the notebooks that do not exist in `folder`."""
    paths = sorted(source.glob("*.ipynb"))
    kept = [path.name for path in paths if (folder / path.name).exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.name not in kept:
                (folder / path.name).write_bytes(path.read_bytes())
    except OSError as error:
        raise WorkbenchError(
            f"cannot copy the notebooks to {str(folder)!r}: {error.strerror or error}; name another folder."
        ) from error
    note(f"{len(paths) - len(kept)} notebooks copied to {folder}{'; kept: ' if kept else ''}{', '.join(kept)}")
