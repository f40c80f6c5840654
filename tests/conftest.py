"""Shared fixtures: test inputs, an offline Hub, a browser."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # torch's threads must not compete for cores
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ["OMP_NUM_THREADS"] = str(max(share, 1))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="workbench-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
os.fsync = lambda file: None  # no test needs its files after a power failure, and thousands of calls wait for the disk

QUIET = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
"""Options of a browser that requests nothing on its own."""

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first, so that no worker starts a long file when the others have finished.

    About ten seconds a slow test, three a browser test, a hundred one of both, one a test of the trainer.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        slow, browser = (item.get_closest_marker(name) is not None for name in ("slow", "browser"))
        usual = 1 if "training" in item.path.parts else 0.5 if {"cli", "report"} & {*item.path.parts} else 0
        seconds[item.path] += 100 if slow and browser else 10 if slow else 3 if browser else usual
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real cards and data beside the repository; tests are skipped without them."""
    if not SHARED.is_dir():
        pytest.skip(f"test inputs are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium, driven by Playwright; tests are skipped without it. Mark such tests `browser`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium not found; `make browser` installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, the user of containers; the pages are the tests' own.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=path, args=[*sandbox, *QUIET])
        yield chromium
        chromium.close()
