"""What the dashboard costs beside an empty Streamlit app, in Chromium, on 50 runs of which one is large.

    python tests/benchmarks/dashboard.py [--overview 50 200] [--actions 500] [--loads 5] [--points 50000]
        [--rows 100000]

Both apps are served in the same run and asked in turn, so that a busy machine slows both. A time ends when the page's
script has run and what was asked for is drawn. Prints how long the Overview of so many runs takes to open; medians and
the largest memory of the server as a table; then the time between frames while the mouse works on a map of so many
points, and what a log of so many rows costs on the page of loss curves. 0 leaves a part out. `--folder PLACE` keeps the
runs that are made for it, and takes those that are there; with `--make` it ends when they are made.
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

from workbench.run import Run, list_runs

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


def processor(pid: int) -> float:
    """Seconds that a process has computed, which a busy machine changes little."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
        self.to("Overview", "tr.run")
        row = self.page.locator(f'tr.run[data-name="{self.run}"]')  # type: ignore[attr-defined]
        self.click("a run of the overview", row.click)
        self.to("Loss curves", ".js-plotly-plot")
        self.click("log scale", lambda: self.toggle("Log scale"))
        self.click("log scale", lambda: self.toggle("Log scale"))
        self.to("Embeddings", ".wb-panel canvas")
        self.click("colour of the map", lambda: self.option("Color by", ("outcome", "relevant documents")[number % 2]))
        self.click("lines of the map", lambda: self.toggle("Lines to relevant documents"))
        self.area(40 + number % 20)
        self.click("an area of the map", self.page.mouse.up)  # type: ignore[attr-defined]
        self.to("Retrieval", '[data-testid="stDataFrame"]')
        self.click("a query", lambda: self.row(number % 7))
        self.click("a filter", lambda: self.option("Outcome", ("worse", "lost")[number % 2]))
        self.to("Compare", ".js-plotly-plot")
        self.to("Card", '[data-testid="stMain"]')
        return 14


GAPS = """() => { window.gaps = []; let last = performance.now();
  const next = now => { window.gaps.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next); }"""
"""Keeps the milliseconds between frames; 16.7 is a screen's own."""


def frames(page: object, act: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds between frames while `act` works: the median, and what one frame in twenty exceeds."""
    page.evaluate("window.gaps.length = 0")  # type: ignore[attr-defined]
    act()
    found = sorted(page.evaluate("window.gaps.slice(1)"))  # type: ignore[attr-defined]
    return statistics.median(found), found[int(0.95 * (len(found) - 1))]


def made(folder: Path, make: Callable[[Path], Run]) -> Run:
    """The run with the longest log of a folder, made where there is none."""
    found = list_runs(folder)
    return max(found, key=lambda run: (run.path / "log.jsonl").stat().st_size) if found else make(folder)


def runs_of(folder: Path, given: argparse.Namespace) -> dict[str, Run]:
    """The runs of each part that is asked for."""
    from large_run import large_folder, long_log, made_run, mapped_run

    def long(place: Path) -> Run:
        run = made_run(place)
        long_log(run, given.rows)
        return run

    makers: dict[str, tuple[int, Callable[[Path], Run]]] = {
        "runs": (given.actions, lambda place: large_folder(place, runs=given.runs)),
        f"points-{given.points}": (given.points, lambda place: mapped_run(place, queries=given.points // 4)),
        f"rows-{given.rows}": (given.rows, long),
    }
    for count in given.overview:
        makers[f"overview{count}"] = (count, lambda place, count=count: large_folder(place, runs=count))
    return {name.partition("-")[0]: made(folder / name, make) for name, (wanted, make) in makers.items() if wanted}


def moving(browser: object, run: Run, points: int) -> None:
    """Frames while somebody points, zooms, moves and draws on a map of so many points, both moments together."""
    folder = run.path.parent
    with served(ROOT / "dashboard" / "app.py", str(folder)) as (address, _):
        page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
        page.set_default_timeout(60_000)
        page.goto(f"{address}embeddings?{urlencode({'run': run.name, 'by': 'rank change'})}")
        canvas = page.locator(".wb-panel canvas")
        canvas.nth(1).wait_for()
        settle(page)
        page.wait_for_timeout(3000)
        page.evaluate(GAPS)
        box = canvas.first.bounding_box()
        x, y, mouse = box["x"] + 150, box["y"] + 150, page.mouse

        def over() -> None:
            for step in range(60):
                mouse.move(x + 3 * step, y + 2 * step)

        def zoom() -> None:
            for step in range(30):
                mouse.wheel(0, -20 if step < 15 else 20)
                page.wait_for_timeout(16)

        def drag() -> None:
            mouse.move(x, y)
            mouse.down()
            over()

        print(f"milliseconds between frames, a map of {points:,} points ({points // 2:,} a moment):")
        for what, act in (("pointing", over), ("zooming", zoom), ("drawing around points", drag)):
            print("| {} | {:.1f} | {:.1f} |".format(what, *frames(page, act)))
        mouse.up()
        page.wait_for_timeout(3000)
        page.get_by_role("button", name="Move", exact=True).click()
        print("| {} | {:.1f} | {:.1f} |".format("moving the map", *frames(page, drag)))
        page.close()


def long_page(browser: object, run: Run, rows: int, empty: str, again: float) -> None:
    """The page of loss curves over a log of so many rows: the first time, a new option, one chosen before."""
    folder = run.path.parent
    with served(ROOT / "dashboard" / "app.py", str(folder)) as (address, pid):
        page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
        page.add_init_script(COUNT)
        page.set_default_timeout(60_000)
        reader = Reader(page, address, run.name)

        def load() -> None:
            page.goto(f"{address}loss?{urlencode({'runs': run.name})}")
            page.wait_for_selector(".js-plotly-plot .scatterlayer path.js-line")
            settle(page)

        def blank() -> None:
            page.goto(empty)
            settle(page)

        print(f"seconds of the page of loss curves, a log of {rows:,} rows:")
        blank()
        first, bare = seconds(load), seconds(blank)
        print(f"| first time, in a new server | {first:.2f} | empty app {bare:.2f} |")
        print(f"| again | {statistics.median(seconds(load) for _ in range(3)):.2f} | |")
        news, olds = [], []
        for option in ("0.5", "0.8", "0.9", "0.95", "0.99"):  # of smoothing, on and on with log scale
            news.append(answered(page, lambda option=option: reader.option("Smoothing", option)))
            news.append(answered(page, lambda: reader.toggle("Log scale")))
            olds.append(answered(page, lambda: reader.toggle("Log scale")))
        for name, found in (("a new option", news), ("an option chosen before", olds)):
            median = statistics.median(found)
            print(f"| {name} | {median:.2f} | {median - again:+.2f} over the empty app's rerun |")
        print(f"memory of the server: {resident(pid):,.0f} MB")
        page.close()


def opening(browser: object, folder: Path, runs: int, empty: str, loads: int) -> None:
    """Seconds until the table of an Overview of so many runs is there: in a new server, and again."""
    with served(ROOT / "dashboard" / "app.py", str(folder)) as (address, pid):
        page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
        page.set_default_timeout(120_000)

        def load() -> None:
            page.goto(address)
            page.locator("tr.run").nth(runs - 1).wait_for(state="attached")

        def bare() -> None:
            page.goto(empty)
            settle(page)

        bare()  # the browser has Streamlit's files then
        begun = processor(pid)
        first, used = seconds(load), processor(pid) - begun
        again = statistics.median(seconds(load) for _ in range(loads))
        nothing = statistics.median(seconds(bare) for _ in range(loads))
        page.close()
    print(
        f"Overview of {runs} runs: {first:.2f} s in a new server ({used:.2f} s of its processor), {again:.2f} s again "
        f"(allowed 2.0 and 1.0); empty app {nothing:.2f} s"
    )


def table(rows: list[tuple[str, float, float | None]], empty: float) -> str:
    lines = ["| what | seconds | over the empty app | allowed |", "| --- | ---: | ---: | ---: |"]
    for what, value, allowed in rows:
        over = "" if allowed is None else f"{value - empty:+.2f}"
        lines.append(f"| {what} | {value:.2f} | {over} | {'' if allowed is None else f'{allowed:.1f}'} |")
    return "\n".join(lines)


def main() -> None:
    from playwright.sync_api import sync_playwright

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--actions", type=int, default=500)
    asked.add_argument("--loads", type=int, default=5)
    asked.add_argument("--runs", type=int, default=50)
    asked.add_argument("--points", type=int, default=50_000)
    asked.add_argument("--rows", type=int, default=100_000)
    asked.add_argument("--overview", type=int, nargs="*", default=[50, 200], help="numbers of runs")
    asked.add_argument("--folder", type=Path)
    asked.add_argument("--make", action="store_true")
    given = asked.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    blank = folder / "empty.py"
    blank.write_text(EMPTY, encoding="utf-8")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    words = [*(["--no-sandbox"] if os.geteuid() == 0 else []), *QUIET]
    try:
        runs = runs_of(folder, given)
        if given.make:
            return
        with served(blank) as (empty, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=words)
            again = empty_rerun(browser, empty, 12)
            print(f"rerun of the empty app: {again:.2f} s")
            for count in given.overview:
                place = runs[f"overview{count}"].path.parent
                opening(browser, place, count, empty, given.loads)
            if "runs" in runs:
                reading(browser, runs["runs"], empty, again, given)
            if "points" in runs:
                moving(browser, runs["points"], given.points)
            if "rows" in runs:
                long_page(browser, runs["rows"], given.rows, empty, again)
            browser.close()
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def reading(browser: object, run: Run, empty: str, again: float, given: argparse.Namespace) -> None:
    """Pages and clicks of somebody who reads runs, in tours over all pages."""
    folder = run.path.parent
    with served(ROOT / "dashboard" / "app.py", str(folder)) as (ours, pid):
        load = first_page(browser, empty, "h1", given.loads)
        mine = first_page(browser, ours, "tr.run", given.loads)
        page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
        page.add_init_script(COUNT)
        page.set_default_timeout(60_000)
        reader = Reader(page, ours, run.name)
        done, most, tours = 0, 0.0, 0
        while done < given.actions:
            if tours % 10 == 0:  # choose the large run again, as a reader does who comes back
                page.goto(f"{ours}retrieval?{urlencode({'run': run.name})}")
                settle(page)
            done += reader.tour(tours)
            tours, most = tours + 1, max(most, resident(pid))
        page.close()
    print(f"first page: empty app {load:.2f} s, ours {mine:.2f} s, {mine - load:+.2f} s (allowed +1.0)")
    found = sorted(reader.times.items(), key=lambda item: item[0], reverse=True)
    print(table([(what, statistics.median(values), 0.4) for what, values in found], again))
    print(f"memory of the server over {done} actions: at most {most:,.0f} MB (allowed 1,500)", flush=True)


if __name__ == "__main__":
    main()
