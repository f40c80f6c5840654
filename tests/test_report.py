"""The report: the plain values it is made of, and the file that comes out."""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from synthetic_run import HOSTILE, KOREAN, SINHALA, STAND_IN, made_item_run, made_run

from workbench import figures
from workbench.errors import RunError
from workbench.evaluators import of_table, save_items
from workbench.report import render, report, summarize
from workbench.report.summary import FindingLine, FindingRow, Metric, RecipeRow, duration
from workbench.run import Run

WRITTEN = "2026-11-20 12:00 UTC"
LIBRARY = figures.library()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return made_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run) -> str:
    return render(summarize(run), written=WRITTEN)


def own(page: str) -> str:
    """The page without plotly.js."""
    return page.replace(LIBRARY, "")


class Reader(HTMLParser):
    """Reads a page the strict way: what is opened is closed, in order; ids are unique."""

    EMPTY = frozenset({"meta", "link", "br", "img", "col", "path", "circle", "rect"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts[self.elements[-1][1].get("id")] = data
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


# --- summarize ---


def test_a_finished_run_on_a_stand_in(run):
    summary = summarize(run)
    assert summary.gaps == {}
    assert (summary.card, summary.variant, summary.status) == ("porsche-mxbai", "as written", "finished")
    assert (summary.verdict.word, summary.verdict.tone) == ("not comparable", "open")
    assert summary.stand_ins == (STAND_IN,)
    # the stand-in is a reason too, and is said in its own band
    assert summary.verdict.reasons == ("The run set training.seed to 42; the card says 7.",)
    stored = json.loads((run.path / "comparison.json").read_text())["rows"]
    assert [row.metric for row in summary.metrics] == [row["metric"] for row in stored]
    assert summary.main == Metric(**{key: stored[4][key] for key in stored[4] if key not in ("p", "reason")}, main=True)
    assert len(summary.changes) == 180
    assert (summary.evaluation, summary.per_query_metric, summary.depth) == ("finetune", "nDCG@10", 100)


def test_movers_are_sorted_and_hold_texts(run):
    summary = summarize(run)
    gains = [mover.difference for mover in summary.gained]
    losses = [mover.difference for mover in summary.lost]
    assert gains == sorted(gains, reverse=True)
    assert losses == sorted(losses)
    assert min(gains) > 0 > max(losses)
    korean = next(mover for mover in summary.gained if mover.query == KOREAN)
    assert (korean.rank_before, korean.rank_after) == (9, 1)
    assert korean.difference == pytest.approx(1 - 0.30103, abs=1e-5)  # 1/log2(2) - 1/log2(10)
    assert korean.relevant == "The boot of model 0 holds 300 litres."
    assert korean.top_after.relevant
    assert korean.top_after.text == korean.relevant
    assert not korean.top_before.relevant
    sinhala = next(mover for mover in summary.lost if mover.query == SINHALA)
    assert (sinhala.rank_before, sinhala.rank_after) == (1, 8)
    assert any(mover.rank_before is None for mover in summary.gained)


def test_curves_are_the_cards_and_ours(run):
    card, ours = summarize(run).curves
    assert (card.role, card.kept, list(card.steps)[:3]) == ("card", 540, [100, 180, 200])
    assert (ours.role, ours.kept, len(ours.steps)) == ("after", 360, 54)
    assert [step for step, value in zip(ours.steps, ours.evaluated, strict=True) if value] == [180, 360, 540]


def test_recipe_rows_keep_their_provenance(run):
    rows = {row.path: row for row in summarize(run).recipe}
    assert rows["training.learning_rate"] == RecipeRow("training.learning_rate", "2e-05", "card", (31,))
    assert rows["training.seed"].source == "user"
    assert rows["loss.inner.parameters.scale"].value == "20"
    assert rows["training.fp16"].value == "no"
    assert "loss.inner.inner" not in rows
    assert not {path for path in rows if "." not in path}


def test_facts_of_the_machine(run):
    summary = summarize(run)
    facts = {fact.name: fact.value for fact in summary.machine}
    assert facts["Base model"] == "bundled:minilm (asked for: mixedbread-ai/mxbai-embed-large-v1)"
    assert facts["Rows"] == "1,437 train, 180 validation, 180 test"
    assert facts["Device"] == "cpu in float32"
    assert facts["Training took"] == "6 min 45 s"
    assert facts["Most memory used"] == "1.40 GB"
    assert summary.command == "workbench train porsche-mxbai --set learning_rate=2e-5"
    assert [fact.name for fact in summary.versions] == ["python", "sentence-transformers", "torch"]
    assert {fact.name: fact.value for fact in summary.hashes}["Card"] == "ab" * 32
    assert duration(59.6) == "1 min 0 s"


def test_the_host_is_not_told(run, page):
    assert run.record["process"]["host"] not in re.sub(r"porsche-mxbai-[\w-]+", "", own(page))


@pytest.mark.parametrize(("word", "tone"), [("reproduced", "good"), ("differs", "bad")])
def test_verdicts_of_a_run_on_the_real_thing(tmp_path, word, tone):
    summary = summarize(made_run(tmp_path, verdict=word, stand_in=False))
    assert (summary.verdict.word, summary.verdict.tone) == (word, tone)
    assert summary.verdict.reasons == ()
    assert summary.stand_ins == ()


# --- runs that were measured item by item ---


@pytest.fixture(scope="module")
def item_run(tmp_path_factory) -> Run:
    return made_item_run(tmp_path_factory.mktemp("items"))


def test_items_that_moved_most_are_told_with_gold_and_scores(item_run):
    summary = summarize(item_run)
    assert summary.gaps == {}
    assert (summary.evaluation, summary.unit, summary.measured) == ("sts", "pairs", 60)
    assert summary.changes == summary.gained == summary.lost == ()
    best, worst = summary.items_gained[0], summary.items_lost[0]
    assert best.texts == (("sentence1", KOREAN), ("sentence2", "Model 0 carries 300 litres."))
    assert (best.gold, best.score_before, best.score_after) == (1.0, -1.0, 2.0)
    assert worst.texts[0] == ("sentence1", SINHALA)
    gains = [mover.difference for mover in summary.items_gained]
    assert gains == sorted(gains, reverse=True)
    assert 0 < gains[-1] <= gains[0] <= 1
    main = summary.main
    assert (main.metric, main.low < main.after < main.high) == ("spearman_cosine", True)
    assert main.difference > 0


def test_the_page_of_items_holds_their_table_and_no_ranks(item_run):
    page = render(summarize(item_run), written=WRITTEN)
    words = Reader(own(page)).words
    assert "Our numbers are computed over the pairs (60 of them); intervals are over pairs too." in words
    assert "Pairs What came nearer to its right place and what went away from it, on the evaluation sts" in words
    assert "sentence1 sentence2 Gold Before After Change" in words
    assert f"{KOREAN} Model 0 carries 300 litres. 1.00 −1.000 2.000" in words
    assert "figure-ranks" not in page
    assert 'class="items"' in page


def test_items_that_did_not_move_are_no_gap(tmp_path, item_run):
    run = Run(tmp_path / item_run.name)
    shutil.copytree(item_run.path, run.path)
    for ending in ("parquet", "json"):
        shutil.copy(run.path / f"evaluations/sts/before.{ending}", run.path / f"evaluations/sts/after.{ending}")
    words = Reader(own(render(summarize(run), written=WRITTEN))).words
    assert "Nothing came nearer." in words
    assert "Nothing went away." in words
    assert "Value over 60 pairs" in words


def test_triplets_have_no_gold(tmp_path, item_run):
    run = Run(tmp_path / item_run.name)
    shutil.copytree(item_run.path, run.path)
    shutil.rmtree(run.path / "evaluations")
    for moment, right in (("before", [0.0, 1.0, 1.0]), ("after", [1.0, 1.0, 0.0])):
        table = pd.DataFrame({"item_id": ["i0", "i1", "i2"], "anchor": list("abc"), "positive": list("def")})
        table = table.assign(negative=list("ghi"), gold=float("nan"), cosine_accuracy=right)
        statistics = {"cosine_accuracy": ["mean", "cosine_accuracy"]}
        found = of_table("t", "TripletEvaluator", table, statistics, unit="triplets", main="cosine_accuracy")
        save_items(run.path, "sts", moment, found)
    summary = summarize(run)
    assert [(mover.gold, mover.difference) for mover in summary.items_gained] == [(None, 1.0)]
    assert summary.items_gained[0].texts == (("anchor", "a"), ("positive", "d"), ("negative", "g"))
    words = Reader(own(render(summary, written=WRITTEN))).words
    assert "anchor positive negative Before After Change" in words


def test_hostile_texts_of_items_are_text(tmp_path):
    page = own(render(summarize(made_item_run(tmp_path, hostile=True)), written=WRITTEN))
    assert "window.hostile=1</script>" not in page
    assert not [image for image in Reader(page).all("img") if image.get("src") == "x"]


# --- runs that are not whole ---


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    return made_run(tmp_path_factory.mktemp("small"), queries=20, steps=5)


@pytest.fixture
def lacking(small, tmp_path):
    """A copy of the small run without the files of some names, and with other values in its record."""

    def copy(*names: str, **record) -> Run:
        run = Run(tmp_path / small.name)
        shutil.copytree(small.path, run.path)
        for name in names:
            for path in run.path.glob(name):
                path.unlink()
        (run.path / "run.json").write_text(json.dumps({**run.record, **record}))
        return run

    return copy


def read(run: Run) -> Reader:
    return Reader(own(render(summarize(run), written=WRITTEN)))


def test_a_run_without_a_card(lacking):
    run = lacking("card.json")
    summary = summarize(run)
    assert summary.findings is None
    assert [curve.role for curve in summary.curves] == ["after"]
    assert "The run folder holds no card, so there is nothing to audit." in read(run).words


def test_a_run_that_goes_on(lacking):
    run = lacking("comparison.json", "evaluations/*/after*", status="running")
    summary = summarize(run)
    assert (summary.verdict.word, summary.verdict.reasons) == ("running", ("540 of 540 steps are done.",))
    assert summary.changes == ()
    words = read(run).words
    assert "There is no evaluation that was made both before and after training." in words
    assert "0.4" in words  # what was measured before is shown


def test_a_run_whose_process_is_gone(lacking):
    process = {"pid": 2**22 + 1, "host": socket.gethostname()}  # above the highest process id of Linux
    run = lacking("comparison.json", "evaluations/*/*", status="running", process=process)
    assert summarize(run).verdict.word == "interrupted"
    assert "This run was not evaluated." in read(run).words


def test_a_run_that_failed(lacking):
    run = lacking("comparison.json", status="failed", error="The loss was not a number at step 70.")
    summary = summarize(run)
    assert (summary.verdict.word, summary.verdict.tone) == ("failed", "bad")
    assert summary.verdict.reasons == ("The loss was not a number at step 70.",)
    read(run)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"status": 3, "base": [], "data": 7, "seconds": "x"}'])
def test_a_run_that_cannot_be_read(lacking, content):
    run = lacking()
    (run.path / "run.json").write_text(content)
    summary = summarize(run)
    assert summary.verdict.word == "broken"
    assert read(run).all("h1")


@pytest.mark.parametrize(
    "name",
    [
        "comparison.json",
        "card.json",
        "recipe.yaml",
        "log.jsonl",
        "evaluations/finetune/after.json",
        "evaluations/finetune/queries.parquet",
        "evaluations/finetune/documents.parquet",
        "evaluations/finetune/before.parquet",
        "evaluations/finetune/after-hits.parquet",
    ],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe nothing", b'{"rows": 3, "verdict": []}'])
def test_a_damaged_file_costs_only_its_own_part(lacking, name, content):
    run = lacking()
    (run.path / name).write_bytes(content)
    words = read(run).words
    assert "What it ran on" in words
    assert "bundled:minilm" in words


def test_a_folder_that_is_empty_but_for_its_record(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    summary = summarize(Run(tmp_path))
    assert summary.verdict.word == "no verdict"
    page = render(summary, written=WRITTEN)
    assert "plotly" not in page  # nothing to draw, so no library
    assert Reader(page).words.count("unknown") >= 8


# --- render ---


def test_the_page_is_well_formed_and_can_be_found_around_in(page):
    reader = Reader(own(page))
    assert [len(reader.all(tag)) for tag in ("h1", "main", "header", "footer", "nav")] == [1, 1, 1, 1, 1]
    assert reader.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in reader.all("a")} <= set(ids)
    for attribute in ("aria-labelledby", "data-log"):
        named = {attributes[attribute] for _, attributes in reader.elements if attribute in attributes}
        assert named <= set(ids)
    assert all(th.get("scope") in ("col", "row", "rowgroup") for th in reader.all("th"))
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in reader.all("svg"))


def test_the_page_says_what_the_summary_holds(run, page):
    words = Reader(own(page)).words
    after = summarize(run).main.after
    for expected in (
        "porsche-mxbai",
        "not comparable",
        STAND_IN,
        f"{after:.4f}",
        KOREAN,
        SINHALA,
        "the card, line 31",
        "126 rows repeat a question.",
        "learning_rate=2e-5",
        "2.13.0",
        "ab" * 32,
        WRITTEN,
    ):
        assert expected in words


def test_the_policy_names_every_script_and_style_and_nothing_else(page):
    reader = Reader(page)
    policy = next(meta["content"] for meta in reader.all("meta") if meta.get("http-equiv"))
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))

    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    (style,) = re.findall("<style>(.*?)</style>", own(page), re.DOTALL)
    (script,) = re.findall("<script>(.*?)</script>", own(page), re.DOTALL)
    assert parts == {
        "default-src": "'none'",
        "script-src": f"{hashed(LIBRARY)} {hashed(script)}",
        "style-src": f"{hashed(style)} {hashed('')}",  # plotly.js fills an empty style element rule by rule
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [attributes for _, attributes in reader.elements if {"style", "onclick", "onload"} & attributes.keys()]


def test_the_page_has_no_address_of_anything_outside(page):
    addresses = [
        value
        for _, attributes in Reader(own(page)).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert {address[:1] for address in addresses} == {"#", "d"}
    assert not re.search(r"https?://", own(page))


def test_plotly_is_in_the_page_once(page):
    assert page.count(LIBRARY) == 1


def test_hostile_text_is_text_everywhere(tmp_path):
    run = made_run(tmp_path, queries=20, hostile=True)
    page = render(summarize(run), written=WRITTEN)
    reader = Reader(own(page))
    assert {tag for tag, _ in reader.elements} & {"img", "b", "iframe", "object"} == set()
    assert len(reader.all("script")) == 8  # four figures, the colours, the settings, plotly.js, ours
    assert reader.words.count("</script><script>window.hostile=1</script>") > 10
    for name in ("loss", "metrics", "ranks", "changes"):
        json.loads(reader.scripts[f"figure-{name}-data"])
    assert HOSTILE[-4:] in reader.words
    assert "\u202e" not in page
    assert "\u2028" not in own(page)


def test_the_same_run_gives_the_same_bytes(run, page):
    assert render(summarize(run), written=WRITTEN) == page
    later = own(render(summarize(run), written="another time"))
    assert later == own(page).replace(WRITTEN, "another time")
    assert own(page).count(WRITTEN) == 1


def test_findings_are_shown_with_their_lines(run):
    from dataclasses import replace

    rows = (
        FindingRow("a-code", "error", "Something <is> wrong.", (FindingLine(8, "epochs: 3"),), "Do this."),
        FindingRow("another", "note", "Nothing much."),
    )
    words = Reader(own(render(replace(summarize(run), findings=rows), written=WRITTEN))).words
    assert "Something <is> wrong. Proposed fix: Do this. a-code , line 8 of the card 8 epochs: 3" in words
    none = Reader(own(render(replace(summarize(run), findings=()), written=WRITTEN))).words
    assert "Nothing was found. The audit of the card has no error, warning or note." in none


def test_numbers_line_up_and_have_a_true_minus(tmp_path):
    from dataclasses import replace

    summary = summarize(made_run(tmp_path, queries=20))
    worse = Metric("cosine_ndcg@10", card=0.7, before=0.5, after=0.4321, low=0.4, high=0.46, difference=-0.0679)
    page = own(render(replace(summary, metrics=(worse,)), written=WRITTEN))
    assert '<td class="number">−0.0679</td>' in page
    assert '<td class="number muted">0.4000 to 0.4600</td>' in page


@pytest.mark.slow
def test_five_thousand_queries_stay_small_and_quick(tmp_path):
    run = made_run(tmp_path, queries=5000, steps=300)
    began = time.perf_counter()
    page = render(summarize(run), written=WRITTEN)
    seconds = time.perf_counter() - began
    assert len(own(page).encode()) < 3_000_000
    assert seconds < 20


def test_report_writes_the_file_whole(run, tmp_path):
    out = report(run, tmp_path / "new folder" / "report.html")
    assert out == tmp_path / "new folder" / "report.html"
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert os.listdir(out.parent) == ["report.html"]


def test_report_says_where_it_cannot_write(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"cannot write the report to .*report\.html': .*; choose another place with --out\."
    ):
        report(run, tmp_path / "file" / "report.html")


def test_the_templates_are_package_data():
    folder = Path(figures.__file__).parent / "report" / "templates"
    assert {path.name for path in folder.iterdir()} >= {"page.html.j2", "parts.html.j2", "report.html.j2", "several.html.j2"}
