"""Notebooks in a real JupyterLab in Chromium: a training is watched, stopped by its button, and goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, prepared

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT = 90_000  # ms
QUIET = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab on a free port of 127.0.0.1 over a folder of notebooks, with settings of its own."""
    books = tmp_path / "books"
    books.mkdir()
    (tmp_path / "labconfig").mkdir()
    (tmp_path / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(QUIET))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={books}", "--ip=127.0.0.1", f"--port={port}"]
    words += ["--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.port_retries=0"]
    own = {"JUPYTER_CONFIG_PATH": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "set"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(words, env={**os.environ, **own}, **quiet)
    place = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{place}/api", timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    yield place, books
    server.terminate()
    server.wait(timeout=30)


@pytest.mark.parametrize("name", ["00-start-here", "4-porsche-mxbai"])
def test_a_training_is_stopped_and_goes_on(browser: Browser, lab: tuple[str, Path], tmp_path: Path, name: str) -> None:
    address, books = lab
    notebook = prepared(next(path for path in NOTEBOOKS if path.stem == name), tmp_path / "runs", steps=150)
    living = next(place for place, cell in enumerate(notebook.cells) if "wb.live(" in cell.source)
    notebook.cells = notebook.cells[: living + 1]
    nbformat.write(notebook, books / f"{name}.ipynb")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(WAIT)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function("document.querySelector('.wb .facts')?.innerText.includes('training')")
    page.locator("button").filter(has_text="Stop").click()
    page.locator(".wb .word.stopped").first.wait_for()
    page.locator("button").filter(has_text="Resume").click()
    page.locator(".wb .word.finished").first.wait_for()
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() >= 1
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.get_by_text("official Jupyter news").count() == 0
    assert broken == []
    page.close()
