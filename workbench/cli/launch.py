"""Commands that open a place to work in, and the one that looks at this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from workbench.cli.options import AsJson, Runs, app
from workbench.cli.terminal import err, plain, print_json, progress_bars, table
from workbench.errors import WorkbenchError


@app.command()
def doctor(as_json: AsJson = False, runs: Runs = Path("runs")) -> None:
    """What this machine has, what is missing, and the command that gets it."""
    from workbench.cli.doctor import examine

    with progress_bars(quiet=as_json, first="look at this machine"):
        rows = examine(runs)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    marks = {
        "ok": Text("ok", style="green"),
        "missing": Text("missing", style="red"),
        "note": Text("note", style="cyan"),
    }
    table(("", "what", "found", "what to do"), [(marks[row.state], row.what, row.found, row.advice) for row in rows])
    if any(row.state == "missing" for row in rows):
        raise typer.Exit(1)


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS_FOLDER]", help="Folder that holds the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Open the Streamlit app on 127.0.0.1."""
    from workbench.resources import shipped

    page = shipped("dashboard/app.py")
    words = [sys.executable, "-m", "streamlit", "run", str(page), "--server.address", "127.0.0.1"]
    words += ["--server.port", str(port), "--server.headless", str(not browser).lower()]
    words += ["--browser.gatherUsageStats", "false", "--", str(runs)]
    err.print(plain(f"dashboard of {runs} on http://127.0.0.1:{port} (Ctrl-C ends it)"))
    os.execv(sys.executable, words)


@app.command()
def lab(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Folder for your copies of the notebooks; without it those of the clone, or ./notebooks.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8888,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Open JupyterLab on the notebooks. Notebooks that are in FOLDER already stay as they are."""
    from workbench.resources import installed, shipped

    if folder is None and not installed():
        folder = shipped("notebooks")
    else:
        folder = folder or Path("notebooks")
        _copy_notebooks(shipped("notebooks"), folder)
    words = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", "--ip=127.0.0.1", f"--port={port}"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += [] if browser else ["--no-browser"]
    words += ["--allow-root"] if os.geteuid() == 0 else []  # a container's only user; it listens on this machine alone
    settings = [str(shipped("notebooks/settings")), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, settings))  # asks for no news and no updates
    os.environ["JUPYTER_PREFER_ENV_PATH"] = (
        "1"  # the kernel of this Python, not one of the same name in the user's home
    )
    os.execv(sys.executable, words)


def _copy_notebooks(source: Path, folder: Path) -> None:
    """Copy the notebooks that `folder` does not have; what somebody has made of the others stays."""
    copied, kept = 0, []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.glob("*.ipynb")):
            try:
                with (folder / path.name).open("xb") as file:
                    file.write(path.read_bytes())
                copied += 1
            except FileExistsError:
                kept.append(path.name)
    except OSError as error:
        raise WorkbenchError(
            f"cannot copy the notebooks to {str(folder)!r}: {error.strerror or error}; name another folder."
        ) from error
    left = f"; left as they are: {', '.join(kept)}" if kept else ""
    err.print(plain(f"{copied} notebooks copied to {folder}{left}"))
