"""The dashboard in Chromium: addresses that survive a reload, a live training, nothing executed and nothing fetched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from large_run import mapped_run
from synthetic_run import KOREAN, SINHALA, made_run

from workbench.run import Run, RunWriter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
APP = Path(__file__).resolve().parents[1] / "dashboard" / "app.py"
PAGES = ["", "card", "loss", "embeddings", "retrieval", "compare"]
WAIT = 30_000  # ms; a loaded machine is slow, a broken page is slower


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Run:
    """A run that ended well, with a map, and hostile texts in every place that data reaches."""
    return mapped_run(folder, topics=False, hostile=True)


@pytest.fixture(scope="module")
def address(folder: Path, whole: Run) -> Iterator[str]:
    """The app on a free port of 127.0.0.1, over a folder with one run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "streamlit", "run", str(APP), "--server.headless", "true"]
    words += ["--server.port", str(port), "--", str(folder)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place = f"http://127.0.0.1:{port}/"
    try:
        wait_for(f"{place}_stcore/health", server)
        yield place
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the dashboard did not start")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that refuses, and remembers, every request that leaves this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    yield opened
    context.close()


def leaving(page: Page) -> list[str]:
    """Addresses outside 127.0.0.1 that the page asks for, filled while it is used."""
    asked: list[str] = []
    page.on(
        "request",
        lambda request: (
            asked.append(request.url)
            if urlsplit(request.url).scheme in ("http", "https") and urlsplit(request.url).hostname != "127.0.0.1"
            else None
        ),
    )
    return asked


def settle(page: Page) -> None:
    """Wait until the page's script has run to its end."""
    page.wait_for_selector("h1")
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def shown(page: Page, text: str) -> Locator:
    """`text` where it is shown as plain text, not in a table."""
    return page.locator('[data-testid="stText"]', has_text=text)


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def select_row(page: Page, row: int) -> None:
    """Click the box at the left of a row of the first table; the table is drawn on a canvas."""
    table = page.locator('[data-testid="stDataFrame"] canvas').first
    table.evaluate("element => element.scrollIntoView({block: 'center'})")
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 17, box["y"] + 33 * (row + 1.5))


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_in_the_browser(page: Page, address: str, whole: Run, name: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    asked = leaving(page)
    words = (
        {"run": whole.name, "runs": whole.name, "query": "q2", "find": "bold", "pick": "query:q2"}
        if name not in ("card", "")
        else {"run": whole.name}
        if name != "card"
        else {"card": f"run {whole.name}", "view": "what it says"}
    )
    page.goto(f"{address}{name}?{urlencode(words)}")
    settle(page)
    page.wait_for_timeout(300)
    assert page.locator('[data-testid="stException"]').count() == 0
    assert page.evaluate("window.hostile") is None
    assert asked == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_text("Deploy", exact=True).count() == 0


def test_a_query_is_opened_and_survives_a_reload(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name, 'only': 'got worse'})}")
    settle(page)
    select_row(page, 0)
    page.get_by_text("The query", exact=True).wait_for()
    worst = query(page)["query"][0]
    assert worst == "q1"  # the Sinhala one falls from rank 1 to 8
    shown(page, SINHALA).wait_for()
    page.reload()
    settle(page)
    shown(page, SINHALA).wait_for()
    assert query(page) == {"run": [whole.name], "only": ["got worse"], "query": ["q1"]}


def test_choices_go_into_the_address(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}loss")
    settle(page)
    page.wait_for_function("location.search.includes('runs=')")
    assert query(page) == {"runs": [whole.name]}
    page.get_by_text("Log scale").click()
    page.wait_for_function("location.search.includes('log=')")
    page.reload()
    settle(page)
    page.locator(".js-plotly-plot .ytitle", has_text="log scale").wait_for()


def test_a_run_follows_from_page_to_page(page: Page, address: str, folder: Path, whole: Run) -> None:
    other = made_run(folder)
    RunWriter(other.path).update(created="2026-11-21T10:00:00Z")
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name})}")
    settle(page)
    page.get_by_role("link", name="Compare").click()
    page.wait_for_function("location.pathname == '/compare' && location.search.includes('run=')")
    assert query(page)["run"] == [whole.name]
    page.get_by_role("link", name="Loss curves").click()
    page.wait_for_function("location.pathname == '/loss' && location.search.includes('runs=')")
    assert query(page)["runs"] == [whole.name]
    page.get_by_role("link", name="Retrieval").click()
    page.wait_for_function("location.pathname == '/retrieval' && location.search.includes('run=')")
    assert query(page)["run"] == [whole.name]


def test_a_row_of_the_overview_leads_on(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}?{urlencode({'find': whole.name})}")
    settle(page)
    select_row(page, 0)
    page.wait_for_function("location.search.includes('run=')")
    page.get_by_role("link", name="Its card", exact=True).click()
    page.wait_for_function("location.pathname == '/card' && location.search.includes('card=')")
    assert query(page)["card"] == [f"run {whole.name}"]
    settle(page)
    assert page.locator('[data-testid="stException"]').count() == 0


def test_a_live_training_moves_without_a_reload(page: Page, address: str, folder: Path) -> None:
    run = made_run(folder, verdict=None, steps=9)
    writer = RunWriter(run.path)
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    writer.update(status="running", process=process, progress={"step": 90, "steps": 540, "epoch": 0.5})
    page.goto(f"{address}loss?{urlencode({'runs': run.name})}")
    settle(page)
    page.get_by_text("step 90 of 540").wait_for()
    writer.log({"step": 100, "epoch": 0.55, "loss": 0.4})
    writer.update(progress={"step": 100, "steps": 540, "epoch": 0.55})
    page.get_by_text("step 100 of 540").wait_for()
    writer.update(status="finished")
    page.get_by_text("step 100 of 540").wait_for(state="detached")


def test_a_path_in_the_address_opens_nothing(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': '../../../etc'})}")
    settle(page)
    page.get_by_text("The address names something that is not here.").wait_for()
    assert page.get_by_text("root:").count() == 0


def maps(page: Page) -> Locator:
    return page.locator(".wb-panel canvas")


def colours(page: Page, chart: int) -> set[str]:
    """The colours that a map shows."""
    script = """canvas => {
      const at = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
      for (let i = 0; i < at.length; i += 4) seen.add([at[i], at[i + 1], at[i + 2]].join());
      return [...seen];
    }"""
    return set(maps(page).nth(chart).evaluate(script))


def draw_around(page: Page, chart: int) -> None:
    """Draw a box over most of a map, by the mouse."""
    page.get_by_role("button", name="Box", exact=True).click()
    box = maps(page).nth(chart).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=5)
    page.mouse.up()


def test_a_selection_in_one_map_marks_the_other_and_survives_sharing(page: Page, address: str, whole: Run) -> None:
    asked = leaving(page)
    page.goto(f"{address}embeddings?{urlencode({'run': whole.name})}")
    settle(page)
    maps(page).nth(1).wait_for()
    other = colours(page, 1)
    draw_around(page, 0)
    page.get_by_role("heading", name="Selected:").wait_for()
    assert query(page)["area"][0].startswith("before:")
    assert colours(page, 1) != other  # what is not chosen steps back in the other map too
    heading = page.get_by_role("heading", name="Selected:").inner_text()
    shared = page.context.new_page()
    shared.goto(page.url)
    settle(shared)
    shared.get_by_role("heading", name=heading, exact=True).wait_for()
    shared.close()
    select_row(page, 0)
    page.wait_for_function("location.search.includes('pick=')")
    page.get_by_text("nearest documents, by the cosine").wait_for()
    page.keyboard.press("Escape")
    assert asked == []
    assert page.evaluate("window.hostile") is None


def test_a_point_under_the_mouse_is_named_and_opened_by_a_click(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}embeddings?{urlencode({'run': whole.name, 'find': 'q2'})}")
    settle(page)
    canvas = maps(page).first
    canvas.wait_for()
    place = canvas.evaluate(
        """canvas => {
          const pen = canvas.getContext('2d'), {width, height} = canvas;
          const at = pen.getImageData(0, 0, width, height).data;
          for (let y = 3; y < height - 3; y++) for (let x = 3; x < width - 3; x++) {
            const i = 4 * (y * width + x);
            if (at[i + 2] > at[i] + 120) return [x * canvas.clientWidth / width, y * canvas.clientHeight / height];
          }
        }"""
    )
    canvas.hover(position={"x": place[0], "y": place[1] + 2})
    tip = page.locator(".wb-tip")
    tip.wait_for()
    named = tip.inner_text().split("\n")[0]
    assert named == "query q2"
    canvas.click(position={"x": place[0], "y": place[1] + 2})
    page.wait_for_function("location.search.includes('pick=')")
    assert query(page)["pick"] == [named.replace(" ", ":")]
    assert page.evaluate("window.hostile") is None


def test_two_runs_are_compared_and_taken_away(page: Page, address: str, folder: Path, whole: Run) -> None:
    other = made_run(folder, hostile=True)
    RunWriter(other.path).update(variant="corrected")
    page.goto(f"{address}compare?{urlencode({'run': whole.name, 'with': other.name})}")
    settle(page)
    page.get_by_role("heading", name="Query by query").wait_for()
    page.get_by_text("not told apart").first.wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Answers (TREC qrels)").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    assert (len(lines), lines[0]) == (180, "q0 0 d0 1")


def test_the_playground_says_which_model_is_missing(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name, 'view': 'playground'})}")
    settle(page)
    field = page.get_by_role("textbox", name="Your query")
    field.fill("<img src=x onerror=window.hostile=1>")
    field.press("Enter")
    page.get_by_text("This model cannot answer.").first.wait_for()
    assert page.evaluate("window.hostile") is None


def test_korean_is_shown(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name, 'query': 'q0'})}")
    settle(page)
    shown(page, KOREAN).wait_for()


def test_dark_is_dark(browser: Browser, address: str, whole: Run) -> None:
    from workbench.look import DARK

    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{address}compare?{urlencode({'run': whole.name})}")
    settle(page)
    red, green, blue = (int(DARK.muted[place : place + 2], 16) for place in (1, 3, 5))
    page.wait_for_function(
        "fill => document.querySelector('.js-plotly-plot .xtitle')?.style.fill === fill",
        arg=f"rgb({red}, {green}, {blue})",
    )
    context.close()
