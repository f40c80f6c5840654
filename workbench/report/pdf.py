"""A page -> a PDF, printed by an installed Chromium with JavaScript. Nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from workbench.errors import RunError
from workbench.run import atomic_write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
SECONDS = 180  # limit for Chromium on a slow machine


def browser() -> str | None:
    """The first Chromium-like browser on the path, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def print_page(text: str, path: Path) -> Path:
    """Print an HTML page to `path`, whole or not at all, and return the path.

    Raises RunError if there is no browser, or if it fails.
    """
    program = browser()
    if program is None:
        raise RunError(
            "expected Chromium to print the PDF, found none on the path; install it, or write the report as HTML and "
            "print that from any browser."
        )
    with tempfile.TemporaryDirectory() as folder:
        page, printed = Path(folder) / "page.html", Path(folder) / "page.pdf"
        page.write_text(text, encoding="utf-8", errors="replace")
        # Chromium's sandbox does not work for root, the user of containers; the page is ours and blocks the network.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        words = [
            program, "--headless", *sandbox, "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--no-pdf-header-footer", f"--user-data-dir={folder}/profile", f"--print-to-pdf={printed}", page.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunError(f"{program} could not print the report: {error}; write it as HTML.") from error
        if not printed.is_file():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"{program} could not print the report: {reason}; write it as HTML.")
        with atomic_write(path) as temporary:
            shutil.copyfile(printed, temporary)
    return path
