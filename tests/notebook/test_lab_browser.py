"""Notebooks in JupyterLab in Chromium: run, stop, resume, select points, reload the page.

The notebooks are complete, with few training steps and a base that is created in a second.
"""

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
from test_notebooks import NOTEBOOKS, prepare

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WAIT = 300_000  # ms; a test takes about 40 s on two quiet cores, and ten times that beside other work
STEPS = 90
QUIET = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # render cells outside the viewport too
}
READY = (
    "document.querySelector('.jp-KernelName')?.innerText.includes('Python') && "
    "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
)
"""Without a kernel the notebook is idle too, and Run All would ask which kernel to start."""
BUSY = "const after = AbortSignal.timeout.bind(AbortSignal); AbortSignal.timeout = ms => after(ms === 2000 ? 0 : ms);"
"""What happens in a busy browser: anywidget gives up on each model, and drops all later messages to it."""
LOST = "window.cardWorkbenchPlotly = Promise.reject(Error('lost')); window.cardWorkbenchPlotly.catch(() => {});"
"""The code of Plotly does not arrive."""
GAVE_UP = "[anywidget] Failed to initialize model."
ALL_RAN = (
    f"{READY} && [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(it => /\\d/.test(it.innerText))"
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab on a free port of 127.0.0.1 with a folder of notebooks and its own settings."""
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
    log = tmp_path / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(words, env={**os.environ, **own}, stdout=file, stderr=file)
        place = f"http://127.0.0.1:{port}"
        try:
            _wait_for(f"{place}/api", server, log)
            yield place, books
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


class Lab:
    """An open notebook in JupyterLab, and all errors of the browser."""

    def __init__(self, browser: Browser, address: str, script: str = "") -> None:
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.page.add_init_script(script)
        self.page.set_default_timeout(WAIT)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: dialog.accept())  # leave an unsaved notebook
        self.page.goto(address)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.wait_for_function(READY)

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def add_cell(self, source: str) -> None:
        """Append a cell and run it."""
        self.page.locator(".jp-Notebook .jp-Cell").last.click()
        for key in ("Escape", "b", "Enter"):
            self.page.keyboard.press(key)
        self.page.keyboard.type(source)
        self.page.keyboard.press("Shift+Enter")

    def cell(self, source: str) -> Locator:
        """The last code cell whose source contains this."""
        with_it = self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".jp-InputArea").filter(has_text=source)
        )
        return with_it.last

    def button(self, view: Locator, name: str) -> Locator:
        return view.locator("button.jupyter-button").filter(has_text=name)

    def settled(self, place: Locator) -> FloatRect:
        """Where a place is once it is in view and rests: JupyterLab scrolls to a new cell, whose figure is resized."""
        found: list[FloatRect | None] = []
        until = time.monotonic() + WAIT / 1000
        while len(found) < 4 or found[-4:] != [found[-1]] * 4:
            assert time.monotonic() < until, found[-4:]
            place.scroll_into_view_if_needed()
            found.append(place.bounding_box())
            self.page.wait_for_timeout(500)
        assert found[-1] is not None
        return found[-1]

    def select_points(self, view: Locator) -> None:
        """Draw a lasso around nearly all of the first figure of a map: its texts are listed."""
        plane = self.settled(view.locator(".js-plotly-plot .nsewdrag").first)
        corners = [(0.03, 0.03), (0.97, 0.03), (0.97, 0.9), (0.03, 0.9), (0.03, 0.03)]
        places = [(plane["x"] + right * plane["width"], plane["y"] + down * plane["height"]) for right, down in corners]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()
        view.locator(".wb-table tbody tr").first.wait_for()
        described = view.locator(".wb").filter(has_text="Neighborhood preservation")
        described.filter(has_text="Selected: ").first.wait_for()  # its message comes after that of the rows

    def expect_no_errors(self) -> None:
        assert self.page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts() == []
        assert self.page.get_by_text("official Jupyter news").count() == 0
        assert [error for error in self.errors if error != GAVE_UP] == []  # an answer to it is in view.js
        self.page.close()


def open_notebook(
    name: str, browser: Browser, lab: tuple[str, Path], tmp_path: Path, *, up_to: str = "", script: str = ""
) -> Lab:
    """The notebook `name` in a new page, with few steps; cells after the one with `up_to` are omitted.

    `script` runs before anything else on the page.
    """
    address, books = lab
    notebook = prepare(next(path for path in NOTEBOOKS if path.stem == name), tmp_path / "runs", steps=STEPS)
    if up_to:
        last = next(place for place, cell in enumerate(notebook.cells) if up_to in cell.source)
        notebook.cells = notebook.cells[: last + 1]
    nbformat.write(notebook, books / f"{name}.ipynb")
    return Lab(browser, f"{address}/lab/tree/{name}.ipynb?reset", script)


def facts(view: Locator) -> str:
    return view.locator(".wb .facts").first.inner_text()


def test_run_all_continues_after_stop_and_resume(browser: Browser, lab: tuple[str, Path], tmp_path: Path) -> None:
    """The buttons work while a later cell waits for the end of the training."""
    book = open_notebook("00-start-here", browser, lab, tmp_path)
    page, live = book.page, book.cell("wb.live(run)")
    book.run_all()
    live.locator(".wb .facts").filter(has_text="training").first.wait_for()
    book.button(live, "Stop").click()
    live.locator(".wb .word.stopped").first.wait_for()
    waiting = book.cell("wb.finished(run)").locator(".jp-OutputArea-output")
    waiting.filter(has_text="Press Resume above").wait_for()
    assert f"step {STEPS} of {STEPS}" not in facts(live)
    book.button(live, "Resume").click()
    live.locator(".wb .word.finished").first.wait_for()
    page.wait_for_function(ALL_RAN)
    assert waiting.filter(has_text="Press Resume above").count() == 0
    assert f"step {STEPS} of {STEPS}" in facts(live)
    assert live.locator(".js-plotly-plot .scatterlayer .trace").count() >= 1
    assert live.locator("img").is_hidden()  # the still copy is only for pages without widgets
    queries = book.cell("wb.explore(run)")
    queries.locator(".wb-table tbody tr").first.click()
    queries.locator(".wb .sides ol.hits li").first.wait_for()
    book.select_points(book.cell("wb.map(run"))
    widths = page.evaluate(
        "[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')]"
        ".map(it => [it.clientWidth, it.parentElement.clientWidth])"
    )
    assert len(widths) == 3  # the loss, and two maps
    assert all(abs(figure - room) <= 1 for figure, room in widths), widths
    book.expect_no_errors()


def test_a_reloaded_page_shows_the_current_run(browser: Browser, lab: tuple[str, Path], tmp_path: Path) -> None:
    """Reload a busy page while the training runs; another cell shows the run, stops it and resumes it."""
    book = open_notebook("7-your-own-card", browser, lab, tmp_path, up_to="wb.live(run)", script=BUSY + LOST)
    book.run_all()
    book.button(book.cell("wb.live(run)"), "Draw again").click()
    book.cell("wb.live(run)").locator(".wb .facts").filter(has_text="training").first.wait_for()
    book.cell("wb.live(run)").locator(".js-plotly-plot").first.wait_for()  # all widgets have loaded
    book.page.keyboard.press("Control+s")
    book.page.reload()
    book.ready()
    book.add_cell("wb.live(run) # again")
    again = book.cell("# again")
    again.locator(".wb .word.running").first.wait_for()
    book.button(again, "Stop").click()
    again.locator(".wb .word.stopped").first.wait_for()
    assert f"step {STEPS} of {STEPS}" not in facts(again)
    book.button(again, "Resume").click()
    again.locator(".wb .word.finished").first.wait_for()
    assert f"step {STEPS} of {STEPS}" in facts(again)
    book.add_cell("wb.map(run, method='pca')")
    book.select_points(book.cell("wb.map(run"))
    book.expect_no_errors()
