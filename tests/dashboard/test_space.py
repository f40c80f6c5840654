"""The card page as a Space, laid out as by its Dockerfile, with no other libraries than it has there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

from workbench.errors import EXTRAS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WAIT = 30_000  # ms
VIEWS = {
    "text": "those of findings are marked with the code",
    "what it says": "Facts",
    "what is needed": "on the card",
    "recipe": "Only corrected fields",
    "findings": "batch-too-small",
}
"""View of the page -> a text of it alone."""
OF_STREAMLIT = {"jinja2", "markupsafe", "numpy", "pandas", "pyarrow"}
HEAVY = sorted({*EXTRAS["train"], *EXTRAS["notebooks"]} - OF_STREAMLIT)
MISSING = f"""import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def space(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "app"
    shutil.copytree(root / "data" / "guide" / "space", folder)
    shutil.copytree(root / "dashboard" / ".streamlit", folder / ".streamlit")
    (folder / "sitecustomize.py").write_text(MISSING)
    return folder


@pytest.fixture(scope="module")
def address(space: Path, root: Path) -> Iterator[str]:
    """The Space on a free port of 127.0.0.1, by the command of its Dockerfile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (line,) = (line for line in (space / "Dockerfile").read_text().splitlines() if line.startswith("CMD "))
    command = yaml.safe_load(line.removeprefix("CMD ").replace("0.0.0.0", "127.0.0.1").replace("8501", str(port)))
    environment = {**os.environ, "PYTHONPATH": f"{space}{os.pathsep}{root}"}
    with (space.parent / "log.txt").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=space, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and server.poll() is None and not answers(f"http://127.0.0.1:{port}"):
            time.sleep(0.2)
        assert server.poll() is None, (space.parent / "log.txt").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
            return bool(answer.read() == b"ok")
    except OSError:
        return False


def test_the_front_matter_is_that_of_a_docker_space(space: Path) -> None:
    header = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (header["sdk"], f"EXPOSE {header['app_port']}") == ("docker", "EXPOSE 8501")
    assert len(header["short_description"]) <= 60
    assert (space / "requirements.txt").read_text().split() == ["card-workbench[hub]", "streamlit>=1.50"]


@pytest.mark.browser
def test_a_card_that_is_dropped_shows_its_findings(address: str, browser: Browser, root: Path, space: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(str(urlsplit(request.url).hostname)))
    page.goto(address)
    page.get_by_text("learning-rate", exact=True).wait_for()  # of the first shipped card
    assert page.get_by_text("scale-as-temperature").count() == 0
    page.locator('input[type="file"]').set_input_files(root / "data" / "cards" / "korean-law-lora" / "README.md")
    page.get_by_text("scale-as-temperature").wait_for()
    page.get_by_text("SentenceTransformer based on jhgan/ko-sroberta-multitask").wait_for()
    for view, proof in VIEWS.items():
        page.get_by_test_id("stButtonGroup").get_by_text(view, exact=True).click()
        page.get_by_text(proof).first.wait_for(state="attached")  # tables are drawn on a canvas
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')
        assert page.get_by_test_id("stException").count() == 0, view
        assert page.get_by_text("This cannot be shown.").count() == 0, view
    if place := os.environ.get("PICTURES"):
        page.screenshot(path=f"{place}/space.png")
    assert set(asked) == {"127.0.0.1", "None"}  # None: a script of ours, which has no address
    assert "Traceback" not in (space.parent / "log.txt").read_text()
    context.close()
