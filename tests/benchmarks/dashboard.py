"""What the dashboard costs beside an empty Streamlit app, in Chromium, on 50 runs of which one is large.

    python tests/benchmarks/dashboard.py [--actions 500] [--loads 5]

Both apps are served in the same run and asked in turn, so that a busy machine slows both. A time ends when the page's
script has run and what was asked for is drawn. Prints medians and the largest memory of the server as a table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import TimeoutError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

EMPTY = """import streamlit as st
st.title("Empty")
st.session_state["n"] = st.session_state.get("n", 0) + 1
st.button("Again")
st.text(f"answer {st.session_state['n']}.")
"""
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
COUNT = """
window.scriptRuns = 0;
new MutationObserver(found => { for (const each of found)
  if (each.target.getAttribute('data-test-script-state') === 'notRunning') window.scriptRuns += 1;
}).observe(document, {attributes: true, subtree: true, attributeFilter: ['data-test-script-state']});
"""
"""Counts the runs of the page's script, so that an answer is waited for, and not the state before the question."""

UNSEEN = 5.0

DONE = '[data-testid="stApp"][data-test-script-state="notRunning"]'


@contextmanager
def served(script: Path, *words: str) -> Iterator[tuple[str, int]]:
    """A Streamlit app on a free port: its address and process number."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless", "true"]
    command += ["--server.port", str(port), "--browser.gatherUsageStats", "false", "--", *words]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{address}_stcore/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield address, server.pid
    finally:
        server.terminate()
        server.wait(timeout=20)


def resident(pid: int) -> float:
    """Memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def settle(page: object) -> None:
    page.wait_for_selector("h1")  # type: ignore[attr-defined]
    page.wait_for_selector(DONE)  # type: ignore[attr-defined]


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def first_page(browser: object, address: str, ready: str, loads: int) -> float:
    """Median seconds until the first page is there, in a browser that has been here before."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
    page = context.new_page()
    found = []
    for _ in range(loads + 1):
        page.goto("about:blank")

        def load() -> None:
            page.goto(address)
            page.wait_for_selector(ready)
            settle(page)

        found.append(seconds(load))
    context.close()
    return statistics.median(found[1:])


def answered(page: object, act: Callable[[], object]) -> float:
    """Seconds from an action until the script has run for it and the page has drawn.

    A run that is over before the page shows that it began is not seen; it counts from its action for `UNSEEN` seconds.
    """
    before = page.evaluate("window.scriptRuns")  # type: ignore[attr-defined]

    def whole() -> None:
        act()
        with suppress(TimeoutError):
            page.wait_for_function(  # type: ignore[attr-defined]
                "n => window.scriptRuns > n", arg=before, polling=10, timeout=1000 * UNSEEN
            )
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # type: ignore[attr-defined]

    return seconds(whole)


def empty_rerun(browser: object, address: str, times: int) -> float:
    page = browser.new_page()  # type: ignore[attr-defined]
    page.goto(address)
    settle(page)
    button, found = page.get_by_role("button", name="Again"), []
    for number in range(2, times + 2):

        def click(number: int = number) -> None:
            button.click()
            page.get_by_text(f"answer {number}.").wait_for()

        found.append(seconds(click))
    page.close()
    return statistics.median(found[1:])


class Reader:
    """Somebody at the dashboard: every action is done and timed."""

    def __init__(self, page: object, address: str, run: str) -> None:
        self.page, self.address, self.run = page, address, run
        self.times: dict[str, list[float]] = {}

    def to(self, link: str, ready: str) -> None:
        """Change the page by its link in the head."""

        def act() -> None:
            self.page.get_by_role("link", name=link, exact=True).first.click()  # type: ignore[attr-defined]
            self.page.wait_for_selector(ready)  # type: ignore[attr-defined]
            settle(self.page)

        self.times.setdefault(f"page change: {link}", []).append(seconds(act))

    def click(self, what: str, act: Callable[[], object]) -> None:
        self.times.setdefault(f"click: {what}", []).append(answered(self.page, act))

    def row(self, number: int) -> None:
        box = self.page.locator('[data-testid="stDataFrame"] canvas').first.bounding_box()  # type: ignore[attr-defined]
        self.page.mouse.click(box["x"] + 17, box["y"] + 35 * (number + 1.5))  # type: ignore[attr-defined]

    def area(self, size: int) -> None:
        """Draw around points in the middle of the map before training, and do not let go."""
        box = self.page.locator(".wb-panel canvas").first.bounding_box()  # type: ignore[attr-defined]
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = self.page.mouse  # type: ignore[attr-defined]
        mouse.move(x, y)
        mouse.down()
        for across, down in ((size, 0), (size, size), (0, size)):
            mouse.move(x + across, y + down)

    def toggle(self, words: str) -> None:
        self.page.get_by_text(words, exact=True).click()  # type: ignore[attr-defined]

    def option(self, label: str, choice: str) -> None:
        self.page.get_by_role("combobox", name=label).first.click()  # type: ignore[attr-defined]
        self.page.get_by_role("option", name=choice, exact=True).click()  # type: ignore[attr-defined]

    def tour(self, number: int) -> int:
        """All pages once, with clicks on each; gives the number of actions."""
        self.to("Overview", '[data-testid="stDataFrame"]')
        self.click("a run of the overview", lambda: self.row(number % 5))
        self.to("Loss curves", ".js-plotly-plot")
        self.click("log scale", lambda: self.toggle("Log scale"))
        self.click("log scale", lambda: self.toggle("Log scale"))
        self.to("Embeddings", ".wb-panel canvas")
        self.click("colour of the map", lambda: self.option("Colour by", ("rank change", "failure")[number % 2]))
        self.click("lines of the map", lambda: self.toggle("Lines to the answers"))
        self.area(40 + number % 20)
        self.click("an area of the map", self.page.mouse.up)  # type: ignore[attr-defined]
        self.to("Retrieval", '[data-testid="stDataFrame"]')
        self.click("a query", lambda: self.row(number % 7))
        self.click("a filter", lambda: self.option("Show", ("got worse", "lost from top 10")[number % 2]))
        self.to("Compare", ".js-plotly-plot")
        self.to("Card", '[data-testid="stMain"]')
        return 14


def table(rows: list[tuple[str, float, float | None]], empty: float) -> str:
    lines = ["| what | seconds | over the empty app | allowed |", "| --- | ---: | ---: | ---: |"]
    for what, value, allowed in rows:
        over = "" if allowed is None else f"{value - empty:+.2f}"
        lines.append(f"| {what} | {value:.2f} | {over} | {'' if allowed is None else f'{allowed:.1f}'} |")
    return "\n".join(lines)


def main() -> None:
    from large_run import large_folder
    from playwright.sync_api import sync_playwright

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--actions", type=int, default=500)
    asked.add_argument("--loads", type=int, default=5)
    asked.add_argument("--runs", type=int, default=50)
    given = asked.parse_args()
    folder = Path(tempfile.mkdtemp())
    run = large_folder(folder / "runs", runs=given.runs)
    blank = folder / "empty.py"
    blank.write_text(EMPTY, encoding="utf-8")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    words = [*(["--no-sandbox"] if os.geteuid() == 0 else []), *QUIET]
    try:
        with (
            served(blank) as (empty, _),
            served(ROOT / "dashboard" / "app.py", str(folder / "runs")) as (ours, pid),
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=chromium, args=words)
            load = first_page(browser, empty, "h1", given.loads)
            mine = first_page(browser, ours, '[data-testid="stDataFrame"]', given.loads)
            again = empty_rerun(browser, empty, 12)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.add_init_script(COUNT)
            page.set_default_timeout(60_000)
            reader = Reader(page, ours, run.name)
            page.goto(f"{ours}retrieval?{urlencode({'run': run.name})}")
            settle(page)
            done, most, tours = 0, 0.0, 0
            while done < given.actions:
                if tours % 10 == 0:  # choose the large run again, as a reader does who comes back
                    page.goto(f"{ours}retrieval?{urlencode({'run': run.name})}")
                    settle(page)
                done += reader.tour(tours)
                tours, most = tours + 1, max(most, resident(pid))
            browser.close()
        print(f"first page: empty app {load:.2f} s, ours {mine:.2f} s, {mine - load:+.2f} s (allowed +1.0)")
        print(f"rerun of the empty app: {again:.2f} s")
        found = sorted(reader.times.items(), key=lambda item: item[0], reverse=True)
        print(table([(what, statistics.median(values), 0.4) for what, values in found], again))
        print(f"memory of the server over {done} actions: at most {most:,.0f} MB (allowed 1,500)")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
