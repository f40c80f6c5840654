"""The dashboard in Chromium: addresses that survive a reload, a live training, nothing executed and nothing fetched."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from large_run import mapped_run
from synthetic_run import SINHALA, made_run
from tiny import tiny_base, tiny_recipe, tiny_rows

from workbench.cards.read import read_card
from workbench.evaluation.compare import compare
from workbench.recipe.from_card import recipe
from workbench.recipe.yaml_io import load_recipe
from workbench.run import Run, RunWriter, list_runs
from workbench.run_notes import Notes, read_notes
from workbench.training import background
from workbench.training.train import train

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "dashboard" / "app.py"
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
def korean(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The Korean card's recipe trained for 60 steps, as written and corrected, on a base that knows its syllables.

    The learning rate is far too high, so that there are regressions to find."""
    sample = ROOT / "data" / "samples" / "korean-law"
    text = pd.read_parquet(sample / "train.parquet").to_csv()
    syllables = sorted({letter for letter in text if "\uac00" <= letter <= "\ud7a3"})
    place = tmp_path_factory.mktemp("base")
    base = str(tiny_base(place, words=[*syllables, *(f"##{syllable}" for syllable in syllables)]))
    card = read_card("korean-law-lora")
    return {
        variant: train(
            recipe(card, corrected=variant == "corrected", overrides={"training.learning_rate": 0.2}),
            card=card, base=base, data="sample:korean-law", max_steps=60, runs=folder,
        )
        for variant in ("as written", "corrected")
    }  # fmt: skip


@pytest.fixture(scope="module")
def address(folder: Path, whole: Run, korean: dict[str, Run]) -> Iterator[str]:
    """The app on a free port of 127.0.0.1, over a folder with one made run and two trained ones."""
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


def select_row(page: Page, row: int, x: int = 17) -> None:
    """Click a row of the first table, `x` px from its left, on its box; the table is drawn on a canvas."""
    table = page.locator('[data-testid="stDataFrame"] canvas').first
    table.evaluate("element => element.scrollIntoView({block: 'center'})")
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x, box["y"] + 33 * (row + 1.5))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_in_the_browser(page: Page, address: str, whole: Run, name: str) -> None:
    asked = leaving(page)
    words = {"run": whole.name}
    if name == "card":
        words = {"card": f"run {whole.name}", "view": "text"}
    elif name:
        words |= {"runs": whole.name, "query": "q2", "find": "bold", "pick": "query:q2"}
    page.goto(f"{address}{name}?{urlencode(words)}")
    settle(page)
    for width in (1920, 1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator('[data-testid="stException"]').count() == 0
    assert page.evaluate("window.hostile") is None
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.reload()
    settle(page)
    assert violations(page) == []
    assert asked == []


def violations(page: Page) -> list[str]:
    """What axe-core calls serious or critical, with the first element of each and how to fix it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]} in {node['target'][0][-120:]}; {node['failureSummary'][-160:]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"][:1]
    ]
    assert page.get_by_text("Deploy", exact=True).count() == 0


def test_a_query_is_opened_and_survives_a_reload(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name, 'only': 'worse'})}")
    settle(page)
    select_row(page, 0)
    page.get_by_text("The query", exact=True).wait_for()
    worst = query(page)["query"][0]
    assert worst == "q1"  # the Sinhala one falls from rank 1 to 8
    shown(page, SINHALA).wait_for()
    page.reload()
    settle(page)
    shown(page, SINHALA).wait_for()
    assert query(page) == {"run": [whole.name], "only": ["worse"], "query": ["q1"]}


def test_a_point_of_a_figure_opens_its_query(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name})}")
    settle(page)
    mark = page.locator(".js-plotly-plot").nth(1).locator(".points path").last  # the largest loss
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator(".js-plotly-plot .hoverlayer .hovertext").wait_for()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("location.search.includes('query=q1')")
    shown(page, SINHALA).wait_for()


def test_choices_go_into_the_address(page: Page, address: str, folder: Path) -> None:
    page.goto(f"{address}loss")
    settle(page)
    page.locator(".js-plotly-plot").first.wait_for()
    assert query(page) == {}
    page.get_by_text("Log scale").click()
    page.wait_for_function("location.search.includes('log=')")
    shown = page.locator('[data-testid="stMultiSelect"] [data-tag]').all_inner_texts()
    assert query(page) == {"runs": shown, "log": ["true"]}
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


def test_every_page_is_one_step_of_back_and_forward(page: Page, address: str, whole: Run) -> None:
    def seen() -> tuple[str, list[str], str]:
        chosen = page.locator('[data-testid="stSelectbox"], [data-testid="stMultiSelect"]')
        shown = chosen.evaluate_all("all => all.map(e => e.innerText + (e.querySelector('input')?.value ?? '')).join()")
        return page.url, page.locator("h1").all_inner_texts(), shown

    def arrive(heading: str) -> None:
        page.locator("h1", has_text=heading).wait_for()
        page.locator('[data-testid="stSelectbox"], [data-testid="stMultiSelect"]').first.wait_for()
        page.wait_for_timeout(300)  # whatever would still change the address
        settle(page)

    def until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT / 1000
        while not done() and time.monotonic() < end:  # the choices of the page before may be there for a moment
            page.wait_for_timeout(100)
        assert done(), seen()

    page.goto(f"{address}?{urlencode({'run': whole.name, 'find': 'porsche'})}")
    arrive("Card Workbench")
    visits = [seen()]
    for heading in ("Card", "Loss curves", "Embeddings", "Retrieval", "Compare"):
        page.locator(".st-key-pages").get_by_role("link", name=heading).click()
        arrive(heading)
        until(lambda: whole.name in seen()[2])
        visits.append(seen())
    assert all(whole.name in url for url, *_ in visits)
    assert not any("find=" in url for url, *_ in visits[1:])
    assert page.evaluate("history.length") == len(visits) + 1  # the empty page before
    for move, expected in ((page.go_back, visits[-2::-1]), (page.go_forward, visits[1:])):
        for visit in expected:
            move()
            arrive(visit[1][0])
            until(partial(lambda visit: seen() == visit, visit))


def test_a_click_on_a_row_and_keys_open_queries_in_view(page: Page, address: str, whole: Run) -> None:
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{address}retrieval?{urlencode({'run': whole.name})}")
    settle(page)
    select_row(page, 2, x=200)
    page.get_by_text("The query", exact=True).wait_for()
    visits = [query(page)["query"]]
    page.wait_for_function("document.querySelector('.wb-hit').getBoundingClientRect().bottom < innerHeight")
    for key in "jk":
        page.keyboard.press(key)
        page.wait_for_function("before => !location.search.endsWith(before)", arg=f"query={visits[-1][0]}")
        settle(page)
        visits.append(query(page)["query"])
    assert visits[0] == visits[2] != visits[1]
    page.go_back()
    page.wait_for_function("query => location.search.endsWith(query)", arg=f"query={visits[1][0]}")
    shown(page, whole.per_query("finetune", "after").set_index("query_id").loc[visits[1][0], "query"]).first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("j?")
    assert page.get_by_role("textbox", name="Find in queries").input_value() == "j?"
    page.keyboard.press("Enter")
    page.wait_for_function("location.search.includes('words=')")
    page.get_by_role("textbox", name="Find in queries").blur()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()


def run_row(page: Page, run: Run) -> Locator:
    """The overview's row of a run, which it names only where it is open; the filter leaves no other."""
    page.goto(f"{page.url.split('?')[0]}?{urlencode({'find': run.name})}")
    settle(page)
    return page.locator("tr.run").first


def test_a_row_of_the_overview_leads_on(page: Page, address: str, whole: Run) -> None:
    page.goto(address)
    run_row(page, whole).click()
    page.wait_for_function("location.search.includes('run=')")
    page.get_by_role("link", name="Its card", exact=True).click()
    page.wait_for_function("location.pathname == '/card' && location.search.includes('card=')")
    assert query(page)["card"] == [f"run {whole.name}"]
    settle(page)
    assert page.locator('[data-testid="stException"]').count() == 0


def test_a_choice_of_columns_is_remembered_and_two_runs_are_compared(page: Page, address: str, folder: Path) -> None:
    page.goto(address)
    settle(page)
    page.get_by_text("Columns", exact=True).click()
    page.get_by_label("Learning rate", exact=True).check()
    page.reload()
    settle(page)
    page.get_by_role("columnheader", name="Learning rate").wait_for()
    names = [run.name for run in list_runs(folder)]
    for row in (0, 1):
        page.locator("tr.run input").nth(row).check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_function("location.pathname == '/compare'")
    page.wait_for_function("location.search.includes('with=')")
    assert (query(page)["run"], query(page)["with"]) == ([names[0]], [names[1]])


def test_a_run_gets_an_alias_and_goes_to_the_trash(page: Page, address: str, folder: Path) -> None:
    run = made_run(folder)
    page.goto(address)
    row = run_row(page, run)
    row.click()
    page.wait_for_function("location.search.includes('run=')")
    settle(page)
    page.wait_for_timeout(500)  # the row that was opened is drawn once more
    page.get_by_label("Alias").fill("<b>tried</b>")
    page.get_by_label("Tags, with commas").fill("demo, wrong")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="<b>tried</b>").wait_for()
    assert read_notes(run) == Notes("<b>tried</b>", ("demo", "wrong"))
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Move this run to the trash folder").click()
    page.wait_for_function("!location.search.includes('run=')")
    page.reload()
    page.get_by_text("No run fits the filter.").wait_for()
    assert not run.path.exists()
    assert (folder / ".workbench" / "trash" / run.name / "run.json").is_file()


def points(page: Page) -> int:
    """Logged values of training losses that the figure has drawn."""
    script = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)
      .filter(trace => trace.mode.startsWith('lines')).reduce((all, trace) => all + trace.x.length, 0)"""
    return int(page.evaluate(script))


def test_a_live_training_is_followed(page: Page, address: str, folder: Path, tmp_path: Path) -> None:
    long = tiny_recipe(tiny_base(tmp_path), tiny_rows(tmp_path / "rows.json"), num_train_epochs=2000)
    run = background.start(long, runs=folder)
    try:
        page.goto(f"{address}loss?{urlencode({'runs': run.name})}")
        settle(page)
        page.locator(".js-plotly-plot").first.wait_for()
        said = page.get_by_text(re.compile(r"step \d+ of 12,000"))
        first, drawn = said.inner_text(), points(page)
        page.wait_for_function("words => !document.body.innerText.includes(words)", arg=first.split(" · ")[0] + " ")
        page.wait_for_timeout(2500)  # the page looks again every two seconds
        assert step_of(said.inner_text()) > step_of(first)
        assert points(page) > drawn
    finally:
        run.stop()
    said.wait_for(state="detached")
    assert run.status == "stopped"


def step_of(words: str) -> int:
    return int(words.split()[1].replace(",", ""))


def test_the_worst_regression_of_a_run_is_found_and_shared(
    page: Page, browser: Browser, address: str, korean: dict[str, Run]
) -> None:
    run = korean["corrected"]
    before, after = (run.per_query("test", moment).set_index("query_id") for moment in ("before", "after"))
    change = after["ndcg@10"] - before["ndcg@10"]
    ranks = {stage: table["rank"].astype(float).fillna(1000) for stage, table in (("before", before), ("after", after))}
    lost = change.index[(ranks["before"] <= 10) & (ranks["after"].reindex(change.index) > 10)]
    worst = min(lost, key=lambda key: (change[key], key))
    page.goto(f"{address}retrieval?{urlencode({'run': run.name})}")
    settle(page)
    page.get_by_role("combobox", name="Outcome").click()
    page.get_by_role("option", name="lost", exact=True).click()
    page.get_by_text(re.compile(rf"^{len(lost)} rows?, largest loss first")).wait_for()  # the new table is drawn
    settle(page)
    select_row(page, 0)
    page.get_by_text("The query", exact=True).wait_for()
    assert query(page)["query"] == [worst]
    shown(page, after.loc[worst, "query"]).first.wait_for()
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(WAIT)
    other.goto(page.url)
    shown(other, after.loc[worst, "query"]).first.wait_for()
    other.locator(".wb-hit").nth(19).wait_for()
    hits = page.locator(".wb-hit").all_inner_texts()
    assert len(hits) == 20
    assert other.locator(".wb-hit").all_inner_texts() == hits
    context.close()


def test_what_the_wrong_scale_of_the_korean_card_did_and_did_not_cost(
    page: Page, address: str, korean: dict[str, Run]
) -> None:
    written, corrected = korean["as written"], korean["corrected"]
    page.goto(f"{address}compare?{urlencode({'run': written.name, 'with': corrected.name})}")
    settle(page)
    page.get_by_text(str(compare([written, corrected]).verdict)).first.wait_for()
    page.locator("td", has_text="loss.parameters.scale").wait_for(state="attached")
    page.goto(f"{address}loss?{urlencode({'runs': [written.name, corrected.name]}, doseq=True)}")
    settle(page)
    page.locator(".js-plotly-plot").first.wait_for()
    spans = page.evaluate(
        """() => Object.fromEntries(document.querySelector('.js-plotly-plot').data
          .filter(trace => trace.mode.startsWith('lines') && trace.opacity === 0.4)
          .map(trace => [trace.name, [Math.min(...trace.y), Math.max(...trace.y)]]))"""
    )
    low, high = spans["korean-law-lora, as written, every logged point"]
    assert 1.3122 <= low <= high <= 1.4622  # the only losses that this scale allows, says the audit
    low, high = spans["korean-law-lora, corrected, every logged point"]
    assert high - low > 0.15
    page.get_by_text("Compared with the card").wait_for()


def test_the_card_as_written_beside_corrected(page: Page, address: str, korean: dict[str, Run]) -> None:
    card = f"run {korean['as written'].name}"
    page.goto(f"{address}card?{urlencode({'card': card})}")
    settle(page)
    page.locator(".wb-marked", has_text="MultipleNegativesRankingLoss").first.wait_for()
    page.get_by_text("recipe", exact=True).click()
    page.get_by_text("Only corrected fields").click()
    page.wait_for_function("location.search.includes('changes=')")
    page.locator("td", has_text="loss.parameters.scale").wait_for(state="attached")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Recipe corrected (YAML)").click()
    assert load_recipe(waiting.value.path()).loss.parameters["scale"] == 20.0


def test_a_number_of_a_line_leads_to_the_text_of_a_card_that_was_dropped(page: Page, address: str) -> None:
    page.goto(f"{address}card")
    settle(page)
    page.locator('input[type="file"]').set_input_files(ROOT / "data" / "cards" / "korean-law-lora" / "README.md")
    page.wait_for_function("location.search.includes('card=dropped')")
    page.get_by_text("scale-as-temperature").wait_for()
    link = page.locator(".wb-source .wb-marked a").last
    line = link.inner_text()
    link.click()
    page.wait_for_function("location.search.includes('view=text')")
    page.locator(".wb-asked", has=page.get_by_role("link", name=line, exact=True)).wait_for()
    assert query(page)["line"] == [line]


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
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Image", exact=True).click()
    assert (waiting.value.path().read_bytes()[:4], waiting.value.suggested_filename[-7:]) == (b"\x89PNG", "map.png")
    page.get_by_role("button", name="Clear", exact=True).click()
    page.wait_for_function("!location.search.includes('pick=') && !location.search.includes('area=')")
    assert asked == []
    assert page.evaluate("window.hostile") is None


def first_found(canvas: Locator) -> dict[str, float]:
    """Where the map shows the first point that a search has found: its outline is the only blue."""
    x, y = canvas.evaluate(
        """canvas => {
          const pen = canvas.getContext('2d'), {width, height} = canvas;
          const at = pen.getImageData(0, 0, width, height).data;
          for (let y = 3; y < height - 3; y++) for (let x = 3; x < width - 3; x++) {
            const i = 4 * (y * width + x);
            if (at[i + 2] > at[i] + 120) return [x * canvas.clientWidth / width, y * canvas.clientHeight / height];
          }
        }"""
    )
    return {"x": x, "y": y + 2}


def test_a_point_under_the_mouse_is_named_and_opened_by_a_click(page: Page, address: str, whole: Run) -> None:
    page.goto(f"{address}embeddings?{urlencode({'run': whole.name, 'find': 'q2', 'by': 'type'})}")
    settle(page)
    canvas = maps(page).first
    canvas.wait_for()
    page.locator(".wb-legend").wait_for()
    settle(page)
    canvas.hover(position=first_found(canvas))
    tip = page.locator(".wb-tip")
    tip.wait_for()
    named, ranks = tip.inner_text().split("\n")[0].split(", ")
    assert ranks == "rank not found → 1"
    assert named == "query q2"
    canvas.click(position=first_found(canvas))  # looked for again: the map may have taken another width meanwhile
    page.wait_for_function("location.search.includes('pick=')")
    assert query(page)["pick"] == [named.replace(" ", ":")]
    page.get_by_role("link", name="Rankings").click()
    page.wait_for_function("location.pathname == '/retrieval' && location.search.includes('query=q2')")
    page.get_by_text("The query", exact=True).wait_for()
    page.get_by_role("link", name="Show on the map").click()
    page.wait_for_function("location.pathname == '/embeddings' && location.search.includes('pick=')")
    page.get_by_text("nearest documents, by the cosine").wait_for()
    assert page.evaluate("window.hostile") is None


def test_two_runs_are_compared_and_taken_away(page: Page, address: str, folder: Path, whole: Run) -> None:
    other = made_run(folder, hostile=True)
    RunWriter(other.path).update(variant="corrected")
    page.goto(f"{address}compare?{urlencode({'run': whole.name, 'with': other.name})}")
    settle(page)
    page.get_by_role("heading", name="Per-query comparison").wait_for()
    page.get_by_text("no significant difference").first.wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Judgments (TREC qrels)").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    assert (len(lines), lines[0]) == (180, "q0 0 d0 1")


def test_dark_is_dark(browser: Browser, address: str, whole: Run) -> None:
    from workbench.views.theme import DARK

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
