"""The report: the plain values it is made of, and the file that comes out."""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from large_run import add_vectors
from synthetic_run import ADVISED, HOSTILE, KOREAN, SINHALA, STAND_IN, made_card, made_item_run, made_run

from workbench.audit.finding import Finding, Fix
from workbench.cards.card import LogRow, Stated
from workbench.cards.card_json import card_to_dict
from workbench.data.collection import Collection
from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.examples import evaluation_from_table, save_examples
from workbench.evaluation.projection import save_vectors
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.recipe.yaml_io import save_recipe
from workbench.report.export import report
from workbench.report.markdown import markdown, markdown_of_several
from workbench.report.model_card import card_text, model_card
from workbench.report.notebook_page import export_notebook, render_notebook, sanitize
from workbench.report.page import render, render_several
from workbench.report.site import report_index
from workbench.run import Run, RunWriter
from workbench.views import figures
from workbench.views.records import Sourced, TopTen, duration
from workbench.views.summary import summarize, summarize_several
from workbench.views.theme import escape

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


def test_seeds_replay_and_statements_stand_beside_the_verdict(tmp_path):
    run = made_run(tmp_path, verdict="reproduced", seeds=(42, 43, 44), near=0.004, stand_in=False)
    words = Reader(own(render(summarize(run), written=WRITTEN))).words
    for said in (
        "the recipe gives the card's numbers within the margin. 6 of 6 metrics; nDCG@10: the made-up reason.",
        "card − ours +0.0040 (95% CI −0.0080 to +0.0160) margin ±0.02 SD between seeds 0.0158 not excluded a card "
        "up to 0.0140 off ours mean of 3 trainings, seeds 42 to 44 measured on 180 queries, the card's own",
        "The user states that rows.json holds the card's evaluation examples.",
        "Metric Card Line Before Mean of 3 SD Card − ours 95% CI Not excluded Margin Verdict",
        "Metric 42 43 44 Mean SD",
        "replayed for 200 steps 2 of 3 numbers are equal; the first that differs: finetune cosine_ndcg@10 after "
        "training: 0.7172 on the card, 0.7023 here.",
        "Training Loss at step 200 312 0.0955 0.0955 +0.0000 yes finetune cosine_ndcg@10 after training 33 0.7172 "
        "0.7023 +0.0149 no",
    ):
        assert said in words
    text = markdown(summarize(run))
    assert "## porsche-mxbai: reproduced ✅" in text
    assert "| Metric | Card | Before | Mean of 3 (SD) | Card − ours | 95% CI | Verdict |" in text
    assert "seeds 42 to 44" in text
    assert "**Replay: replayed for 200 steps.** 2 of 3 numbers are equal" in text


@pytest.mark.parametrize(
    ("word", "tone", "opened"), [("reproduced exactly", "good", False), ("cannot tell", "open", True)]
)
def test_the_numbers_of_a_replay_are_folded_where_all_agree(tmp_path, word, tone, opened):
    page = own(render(summarize(made_run(tmp_path, verdict=word, stand_in=False, near=0.0)), written=WRITTEN))
    assert f'<div class="verdict {tone}" id="verdict">' in page
    assert ("<details open>\n<summary>All 3 numbers</summary>" in page) == opened
    assert "one training, seed 42" in page


def test_a_finished_run_on_a_stand_in(run):
    summary = summarize(run)
    assert summary.gaps == {}
    assert (summary.card, summary.variant, summary.status) == ("porsche-mxbai", "as written", "finished")
    assert (summary.verdict.word, summary.verdict.tone) == ("not comparable", "open")
    assert summary.stand_ins == (ADVISED,)
    # the stand-in is a reason too, and is said in its own band
    assert summary.verdict.reasons == ("The run set training.seed to 42; the card says 7.",)
    stored = json.loads((run.path / "comparison.json").read_text())["rows"]
    assert [row.metric for row in summary.metrics] == [row["metric"] for row in stored]
    assert summary.main == Comparison.from_dict(run.comparison()).rows[4]
    queries = summary.queries
    assert len(queries.outcomes) == 180
    assert (queries.evaluation, queries.metric, queries.depth) == ("finetune", "nDCG@10", 100)


def test_movers_are_sorted_and_hold_texts(run):
    queries = summarize(run).queries
    gains = [query.difference for query, _ in queries.gained]
    losses = [query.difference for query, _ in queries.lost]
    assert gains == sorted(gains, reverse=True)
    assert losses == sorted(losses)
    assert min(gains) > 0 > max(losses)
    korean, opened = next(pair for pair in queries.gained if pair[0].query == KOREAN)
    assert (korean.rank_before, korean.rank_after) == (9, 1)
    assert korean.difference == pytest.approx(1 - 0.30103, abs=1e-5)  # 1/log2(2) - 1/log2(10)
    assert opened.texts == (("d0", "The boot of model 0 holds 300 litres."),)
    assert opened.after[0].relevant
    assert opened.after[0].document == opened.texts[0][1]
    assert not opened.before[0].relevant
    sinhala, _ = next(pair for pair in queries.lost if pair[0].query == SINHALA)
    assert (sinhala.rank_before, sinhala.rank_after) == (1, 8)
    assert any(query.rank_before is None for query, _ in queries.gained)


def test_curves_are_the_cards_and_ours(run):
    card, ours = summarize(run).curves
    assert (card.role, card.kept, list(card.steps)[:3]) == ("card", 540, [100, 180, 200])
    assert (ours.role, ours.kept, len(ours.steps)) == ("after", None, 54)  # the last model was kept, not the best
    assert [step for step, value in zip(ours.steps, ours.evaluated, strict=True) if value] == [180, 360, 540]


def test_the_best_checkpoint_is_marked_only_if_it_was_kept(tmp_path):
    run = made_run(tmp_path)
    training = run.recipe().training.model_copy(update={"load_best_model_at_end": True})
    save_recipe(run.recipe().model_copy(update={"training": training}), run.file("recipe"))
    assert summarize(run).curves[1].kept == 360


def test_the_first_screen_says_each_thing_once(run, page):
    """The stand-in is the first reason, the verdict a heading, each table has a caption, and better is one number."""
    head = page[: page.index('<section id="metrics"')]
    assert '<h2 class="word">not comparable</h2>' in head
    assert head.index("A stand-in was used") < head.index("The run set training.seed")
    assert page.count("<table") == page.count("<caption")
    assert "Better / equal / worse" not in page


def test_large_dots_are_explained_if_there_are_any(run, page, lacking):
    words = "Large dots: this run's mean over the steps that a point of the card covers."
    assert summarize(run).curves[1].means
    assert words in Reader(page).words
    assert words not in read(lacking("card.json")).words


def test_metrics_have_the_same_names_in_tables_and_sentences(lacking):
    run = lacking("report.html")
    file = run.path / "comparison.json"
    found = json.loads(file.read_text())
    found["notes"] = ["On validation (9 queries): cosine_ndcg@10 0.1000 before, 0.2000 after."]
    file.write_text(json.dumps(found))
    assert summarize(run).metric_notes == ("On validation (9 queries): nDCG@10 0.1000 before, 0.2000 after.",)


def test_summed_losses_of_a_card_are_divided_and_that_is_said(lacking):
    """A log of sums over four accumulation steps, as the versions of the time wrote it."""
    run = lacking("card.json")
    rows = tuple(LogRow(step / 10, step, 4.0 * loss, 0.5, {}, line=step) for step, loss in ((2, 11.0), (4, 9.0)))
    card = replace(
        made_card(),
        training_log=rows,
        non_default={
            "gradient_accumulation_steps": Stated(4, 5),
            "per_device_train_batch_size": Stated(16, 6),
            "logging_steps": Stated(2, 7),
        },
        versions={"Transformers": Stated("4.51.3", 90), "Sentence Transformers": Stated("4.1.0", 91)},
    )
    (run.path / "card.json").write_text(json.dumps(card_to_dict(card)))
    summary = summarize(run)
    theirs = summary.curves[0]
    assert (theirs.name, theirs.values, theirs.evaluated) == (
        "Card: porsche-mxbai, loss divided by 4",
        [11.0, 9.0],
        [0.5, 0.5],
    )
    said = "The card's losses are divided by 4: transformers 4.51.3 logged their sum over the accumulation steps."
    assert summary.curve_notes[0] == said
    assert said in read(run).words
    assert not any(note in sentence for note in run.stand_ins for sentence in summary.curve_notes)


def test_smaller_embeddings_are_measured_if_the_run_keeps_vectors(tmp_path, small):
    words = {f"q{number}": f"word {number}" for number in range(12)}
    relevant = {f"q{number}": {f"d{number}": 1.0} for number in range(12)}
    collection = Collection("test", words, {f"d{number}": f"text {number}" for number in range(12)}, relevant)

    def encode(texts, kind):
        rows = [np.random.default_rng(int(text.split()[1])).normal(size=64) for text in texts]
        return np.array(rows, dtype=np.float32) + (0.3 if kind == "query" else 0.0)

    shutil.copytree(small.path, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations", "comparison.json"))
    run = Run(tmp_path / "run")
    for moment in ("before", "after"):
        found = evaluate(collection, encode)
        save_evaluation(run.path, "finetune", moment, found)
        save_vectors(run.path, "finetune", moment, found)
    dimensions, precision = summarize(run).queries.vector_sizes
    assert [row["group"] for row in dimensions.rows] == ["64 dimensions", "32 dimensions"]
    assert dimensions.rows[0]["after"] == pytest.approx(run.metrics("finetune", "after")["cosine_ndcg@10"])
    assert (dimensions.rows[0]["share"], dimensions.rows[1]["bytes"]) == (1.0, 128)
    assert [row["group"] for row in precision.rows] == ["float32", "int8", "binary"]
    page = read(run)
    assert {"figure-cut-dimensions-data", "figure-cut-precision-data"} <= page.scripts.keys()
    assert "binary 8 " in page.words


def test_recipe_rows_keep_their_provenance(run):
    rows = {row.name: row for row in summarize(run).recipe}
    assert rows["training.learning_rate"] == Sourced("training.learning_rate", "2e-05", "card", (31,), other="2e-05")
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
    assert facts["Training time"] == "6 min 45 s"
    assert facts["Peak memory"] == "1.40 GB"
    assert summary.command == "workbench train porsche-mxbai --set learning_rate=2e-5"
    assert [fact.name for fact in summary.versions] == ["python", "sentence-transformers", "torch"]
    assert {fact.name: fact.value for fact in summary.hashes}["Card"] == "ab" * 32
    assert duration(59.6) == "1 min 0 s"


def test_a_report_does_not_name_the_host(run, page):
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


def test_the_largest_changes_of_examples_have_gold_and_scores(item_run):
    summary = summarize(item_run)
    assert summary.gaps == {}
    queries = summary.queries
    assert (queries.evaluation, queries.unit, queries.measured) == ("sts", "pairs", 60)
    assert (queries.outcomes, queries.ranked) == ((), False)
    (best, opened), (_, worst) = queries.gained[0], queries.lost[0]
    assert opened.texts == (("sentence1", KOREAN), ("sentence2", "Model 0 carries 300 litres."))
    assert (best.gold, best.score_before, best.score_after) == (1.0, -1.0, 2.0)
    assert worst.texts[0] == ("sentence1", SINHALA)
    gains = [example.difference for example, _ in queries.gained]
    assert gains == sorted(gains, reverse=True)
    assert 0 < gains[-1] <= gains[0] <= 1
    main = summary.main
    assert (main.metric, main.low < main.after < main.high) == ("spearman_cosine", True)
    assert main.difference > 0


def test_the_page_of_items_holds_their_table_and_no_ranks(item_run):
    page = render(summarize(item_run), written=WRITTEN)
    words = Reader(own(page)).words
    assert "Computed over 60 pairs, with 95% confidence intervals over the pairs." in words
    assert "Pairs Change in agreement with the gold labels, −1 to 1, on the evaluation sts" in words
    assert "sentence1 sentence2 Gold Before After Change" in words
    assert f"{KOREAN} Model 0 carries 300 litres. 1.00 −1.000 2.000" in words
    assert "figure-ranks" not in page
    assert 'class="items"' in page


def test_items_that_did_not_move_are_no_gap(tmp_path, item_run):
    run = Run(tmp_path / item_run.name)
    shutil.copytree(item_run.path, run.path)
    for ending in ("parquet", "json"):
        shutil.copy(run.path / f"evaluations/sts/before.{ending}", run.path / f"evaluations/sts/after.{ending}")
    reader = Reader(own(render(summarize(run), written=WRITTEN)))
    assert "None gained." in reader.words
    assert "None lost." in reader.words
    assert "Value over 60 pairs" in reader.scripts["figure-metrics-data"]


def test_triplets_have_no_gold(tmp_path, item_run):
    run = Run(tmp_path / item_run.name)
    shutil.copytree(item_run.path, run.path)
    shutil.rmtree(run.path / "evaluations")
    for moment, right in (("before", [0.0, 1.0, 1.0]), ("after", [1.0, 1.0, 0.0])):
        table = pd.DataFrame({"item_id": ["i0", "i1", "i2"], "anchor": list("abc"), "positive": list("def")})
        table = table.assign(negative=list("ghi"), gold=float("nan"), cosine_accuracy=right)
        statistics = {"cosine_accuracy": ["mean", "cosine_accuracy"]}
        found = evaluation_from_table(
            "t", "TripletEvaluator", table, statistics, unit="triplets", main="cosine_accuracy"
        )
        save_examples(run.path, "sts", moment, found)
    summary = summarize(run)
    ((example, opened),) = summary.queries.gained
    assert (example.gold, example.difference) == (None, 1.0)
    assert opened.texts == (("anchor", "a"), ("positive", "d"), ("negative", "g"))
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


def test_a_running_run(lacking):
    run = lacking("comparison.json", "evaluations/*/after*", status="running")
    summary = summarize(run)
    assert (summary.verdict.word, summary.verdict.reasons) == ("running", ("540 of 540 steps are done.",))
    assert summary.queries.outcomes == ()
    words = read(run).words
    assert "No evaluation has results from both before and after training." in words
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
def test_a_damaged_file_affects_only_its_own_part(lacking, name, content):
    run = lacking()
    (run.path / name).write_bytes(content)
    words = read(run).words
    assert "Environment" in words
    assert "bundled:minilm" in words


def test_a_folder_that_is_empty_but_for_its_record(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    summary = summarize(Run(tmp_path))
    assert summary.verdict.word == "no verdict"
    page = render(summary, written=WRITTEN)
    assert "plotly" not in page  # nothing to draw, so no library
    assert Reader(page).words.count("unknown") >= 8


# --- render ---


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page):
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
    assert all(svg.get("aria-hidden") == "true" for svg in reader.all("svg"))
    assert all(plot.get("aria-label") for plot in reader.all("div") if plot.get("class") == "plot")
    assert len(reader.all("noscript")) == 1


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
    assert len(reader.all("script")) == 10  # six figures, the colors, the settings, plotly.js, ours
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
        (Finding("a-code", "error", "Something <is> wrong.", fix=Fix({}, "Do this.")), ((8, "epochs: 3"),)),
        (Finding("another", "note", "Nothing much."), ()),
    )
    words = Reader(own(render(replace(summarize(run), findings=rows), written=WRITTEN))).words
    assert "Something <is> wrong. Proposed fix: Do this. a-code , line 8 of the card 8 epochs: 3" in words
    none = Reader(own(render(replace(summarize(run), findings=()), written=WRITTEN))).words
    assert "No findings. The audit of the card found no errors, warnings, or notes." in none


def test_numbers_are_aligned_and_have_a_true_minus(tmp_path):
    from dataclasses import replace

    summary = summarize(made_run(tmp_path, queries=20))
    worse = MetricRow("cosine_ndcg@10", card=0.7, before=0.5, after=0.4321, low=0.4, high=0.46, difference=-0.0679)
    page = own(render(replace(summary, metrics=(worse,)), written=WRITTEN))
    assert '<td class="number">−0.0679</td>' in page
    assert '<td class="number muted">0.4000 to 0.4600</td>' in page


@pytest.mark.slow
def test_five_thousand_queries_stay_small_and_quick(tmp_path):
    run = made_run(tmp_path, queries=5000, steps=300)
    add_vectors(run)
    summarize(run)  # makes the map, once
    began = time.perf_counter()
    summary = summarize(run)
    page = render(summary, written=WRITTEN)
    seconds = time.perf_counter() - began
    assert (summary.map.total, len(summary.map.table)) == (10_000, 1500)
    assert len(own(page).encode()) < 3_000_000
    assert seconds < 20


def test_report_writes_the_file_whole_and_a_notebook_links_to_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = report(run, tmp_path / "new folder" / "report.html")
    assert '<a href="new%20folder/report.html" target="_blank">' in out._repr_html_()
    assert out == tmp_path / "new folder" / "report.html"
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert os.listdir(out.parent) == ["report.html"]


def test_a_report_that_cannot_be_written_is_an_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunError, match=r"cannot write the report to .*report\.html': .*; choose another place with --out\."
    ):
        report(run, tmp_path / "file" / "report.html")


def test_the_templates_are_package_data():
    folder = Path(__file__).resolve().parents[2] / "workbench" / "report" / "templates"
    assert {path.name for path in folder.iterdir()} >= {
        "page.html.j2",
        "parts.html.j2",
        "report.html.j2",
        "several.html.j2",
    }


# --- rankings, failures, map ---


def test_a_ranking_is_in_order_and_marks_relevant_documents(run):
    korean = next(opened for query, opened in summarize(run).queries.gained if query.query == KOREAN)
    assert (len(korean.before), len(korean.after)) == (5, 5)
    assert [hit.relevant for hit in korean.after] == [True, False, False, False, False]
    assert not any(hit.relevant for hit in korean.before)  # its rank is 9
    scores = [hit.score for hit in korean.after]
    assert scores == sorted(scores, reverse=True)


@pytest.fixture
def ranked(small, tmp_path):
    """The small run with ranks that are set by hand, five queries of each kind."""
    run = Run(tmp_path / small.name)
    shutil.copytree(small.path, run.path)
    (run.path / "comparison.json").unlink()
    folder = run.path / "evaluations" / "finetune"
    kinds = {"before": [1] * 5 + [11] * 5 + [5] * 5 + [None] * 5, "after": [1] * 5 + [2] * 5 + [20] * 5 + [None] * 5}
    for moment, ranks in kinds.items():
        table = pd.read_parquet(folder / f"{moment}.parquet")
        table["rank"] = pd.array(ranks, dtype="Int64")
        table["accuracy@10"] = [float(rank is not None and rank <= 10) for rank in ranks]
        table.to_parquet(folder / f"{moment}.parquet", index=False)
    queries = pd.read_parquet(folder / "queries.parquet")
    queries["query"] = ["two words"] * 10 + ["now these are five words"] * 10
    queries.to_parquet(folder / "queries.parquet", index=False)
    return run


def test_found_and_lost_queries_are_counted_and_grouped(ranked):
    summary = summarize(ranked)
    assert summary.gaps == {}
    queries = summary.queries
    assert queries.top_ten == TopTen(both=5, found=5, lost=5, neither=5)
    (length,) = queries.groupings
    rows = [tuple(row[name] for name in ("group", "queries", "failed_before", "failed_after")) for row in length.rows]
    assert (length.by, rows) == ("query length", [("2 words", 10, 5, 0), ("5 words", 10, 5, 10)])
    assert {cause.name: cause.queries for cause in queries.causes} == {
        "not found": 5,
        "none of these": 5,
    }
    words = Reader(own(render(summary, written=WRITTEN))).words
    assert "In the top 10 before and after 5 Found 5 Lost 5 Failed before and after 5" in words
    assert "Possible causes of the 10 failures after training" in words
    assert "not found 5 50% no relevant document in the top 100" in words


def test_items_are_grouped_by_their_gold_score(item_run):
    (gold,) = summarize(item_run).queries.groupings
    assert gold.by == "gold score"
    assert sum(row["queries"] for row in gold.rows) == 60
    assert "failed_after" not in gold.rows[0]
    assert (
        "Agreement with gold labels of the pairs in each group"
        in Reader(own(render(summarize(item_run), written=WRITTEN))).words
    )


def test_without_a_map_pca_makes_one_where_there_are_vectors(small, tmp_path):
    run = Run(tmp_path / small.name)
    shutil.copytree(small.path, run.path)
    assert summarize(run).map is None
    add_vectors(run)
    view = summarize(run).map
    assert (view.method, view.total, len(view.table), view.stages) == ("PCA", 40, 40, ("before", "after"))
    assert all(0 < share <= 1 for share in view.preservation.values())
    drawn = view.table.set_index("text")["outcome"].dropna().to_dict()
    assert drawn == {each.query: each.outcome for each in summarize(run).queries.outcomes}
    assert (drawn[KOREAN], drawn[SINHALA]) == ("better", "worse")
    page = render(summarize(run), written=WRITTEN)
    data = json.loads(Reader(own(page)).scripts["figure-map-after-data"])
    assert {trace["type"] for trace in data["data"]} == {"scatter"}  # WebGL is forbidden by the page's policy
    assert "by PCA. For visual inspection only." in Reader(own(page)).words


# --- several runs ---


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[Run]:
    """Two runs on the same queries; the other finds the answer first, whatever was asked, and trained faster."""
    root = tmp_path_factory.mktemp("pair")
    first, other = made_run(root, queries=40, steps=20), made_run(root, queries=40, steps=20)
    folder = other.path / "evaluations" / "finetune"
    table = pd.read_parquet(folder / "after.parquet").assign(rank=1)
    table["ndcg@10"] = 1.0
    table.to_parquet(folder / "after.parquet", index=False)
    after = json.loads((folder / "after.json").read_text())
    after["metrics"]["cosine_ndcg@10"] = 1.0
    (folder / "after.json").write_text(json.dumps(after))
    text = (other.path / "recipe.yaml").read_text().replace("learning_rate: 2.0e-05", "learning_rate: 3.0e-05")
    (other.path / "recipe.yaml").write_text(text)
    RunWriter(other.path).update(variant="corrected")
    return [first, other]


def test_other_runs_are_compared_with_the_first(pair):
    several = summarize_several(pair)
    assert several.gaps == {}
    assert (several.letters, several.main) == (("A", "B"), "cosine_ndcg@10")
    assert several.metrics[0] == "cosine_ndcg@10"
    (other,) = several.pairs
    row = next(row for row in other.rows if row.metric == several.main)
    values = pair[0].per_query("finetune", "after")["ndcg@10"]
    assert row.difference == pytest.approx(1 - values.mean())
    assert row.difference_low < row.difference < row.difference_high
    assert (row.verdict, several.verdict.word, several.verdict.tone) == ("better", "better", "good")
    assert several.verdict.meaning == "The other run is better than run A in nDCG@10."
    assert several.differences == (("training.learning_rate", ("2e-05", "3e-05")),)
    stored = {row["metric"]: row["card"] for row in pair[0].comparison()["rows"]}
    assert several.card["cosine_ndcg@10"] == stored["cosine_ndcg@10"] is not None


def test_the_page_of_several_runs_stands_alone(pair):
    several = summarize_several(pair)
    page = render_several(several, written=WRITTEN)
    reader = Reader(own(page))
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in reader.all("a")} <= set(ids)
    assert page.count(LIBRARY) == 1
    assert not re.search(r"https?://", own(page))
    names = [trace["name"] for trace in json.loads(reader.scripts["figure-loss-data"])["data"] if "name" in trace]
    assert [name for name in names if "," not in name] == ["Card: porsche-mxbai", "A: as written", "B: corrected"]
    assert "training.learning_rate 2e-05 3e-05" in reader.words
    assert "Metric Card A" in reader.words
    assert "The card's number" in reader.scripts["figure-metrics-data"]
    assert "B vs. A: better" in reader.words
    rmse = (1 - pair[0].per_query("finetune", "after")["ndcg@10"]).pow(2).mean() ** 0.5
    assert "Rank agreement, first 10 documents of 40 queries Measure B vs. A How to read it" in reader.words
    assert f"RMSE of nDCG@10 {rmse:.4f} 0: every query has the same value" in reader.words
    assert render_several(summarize_several(pair), written=WRITTEN) == page


def test_runs_with_different_queries_are_not_compared(pair, run):
    several = summarize_several([pair[0], run])
    assert several.verdict.word == "not comparable"
    assert several.pairs[0].reasons == ("A and B do not share their queries: 40 of 40 and 180 are the same.",)


def test_a_broken_run_among_others_is_called_broken(pair, lacking):
    broken = lacking()
    (broken.path / "run.json").write_text("{")
    (broken.path / "recipe.yaml").unlink()
    several = summarize_several([pair[0], broken])
    assert several.runs[1].verdict.word == "broken"
    Reader(own(render_several(several, written=WRITTEN)))


def test_hostile_texts_of_several_runs_are_text(tmp_path, pair):
    page = own(render_several(summarize_several([made_run(tmp_path, queries=14, hostile=True), *pair])))
    assert "<script>window.hostile=1</script>" not in page
    assert "window.hostile=1" in Reader(page).words
    assert not Reader(page).all("img")


# --- other forms ---


def test_a_summary_in_markdown_has_verdict_findings_and_table(run):
    from dataclasses import replace

    found = tuple((Finding(f"code-{n}", severity, f"Finding {n}."), ((n, ""),)) for n, severity in
                  enumerate(("note", "warning", "error", "note", "error"), start=1))  # fmt: skip
    text = markdown(replace(summarize(run), findings=found))
    lines = text.splitlines()
    assert lines[0] == "## porsche-mxbai: not comparable ⚪"
    start = lines.index("### Findings on the card")
    assert lines[start + 2 : start + 6] == [
        "- **error** Finding 3. (`code-3`, line 3)",
        "- **error** Finding 5. (`code-5`, line 5)",
        "- **warning** Finding 2. (`code-2`, line 2)",
        "- and 2 more",
    ]
    head, changes = (line for line in lines if line.startswith("| Metric"))
    rows = [line for line in lines if line.startswith("|")]
    assert [row.count("|") for row in rows] == [head.count("|")] * 9 + [changes.count("|")] * 9
    main = summarize(run).main
    assert f"| **nDCG@10** | {main.card:.4f} | {main.before:.4f} | {main.after:.4f} | not comparable |" in text
    assert f"| **nDCG@10** | {main.before:.4f} | {main.after:.4f} ({main.low:.4f} to {main.high:.4f}) | +" in text


def test_the_markdown_of_several_runs_has_a_column_for_each(pair):
    text = markdown_of_several(summarize_several(pair))
    assert text.splitlines()[0] == "## 2 runs: better ✅"
    assert "| Metric | A | B |" in text
    assert "| **nDCG@10** | " in text
    assert "| `training.learning_rate` | 2e-05 | 3e-05 |" in text
    assert "Rank agreement, first 10 documents of 40 queries:" in text
    assert "| RBO | 1.0000 | 1: same documents from the top down (p = 0.95) |" in text


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "[link](http://evil.example) ![image](http://evil.example/x.png) <http://evil.example>",
        "http://evil.example www.evil.example",
        "`code` **bold** ~~gone~~ | cell | # title",
        "- item",
        "1. item",
        "> quote",
        "a\n\n# title\n\n- item\n\n```\ncode\n```",
        "\\[x](y) \\`z`",
        "&lt;img&gt; &#60;b&#62;",
    ],
)
def test_hostile_text_in_markdown_stays_text(text):
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])  # as GitHub does, HTML let through
    tokens = reader.parse(escape(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    shown = "".join(child.content for child in tokens[1].children).replace("\u200b", "")
    wanted = re.sub("[\u2028\u202e\u200b]", " ", text)
    assert " ".join(shown.split()) == " ".join(wanted.split())
    assert not re.search(r"(?<![\\\w])https?://|(?i:\bwww\.)|(?<!\w)@\w", escape(text))


def test_a_summary_mentions_nobody_and_links_nothing():
    assert escape("ask @someone about #12") == "ask @\u200bsomeone about \\#\u200b12"
    assert escape("nDCG@10") == "nDCG@10"


def test_the_summary_of_a_hostile_run_keeps_its_table(tmp_path):
    text = markdown(summarize(made_run(tmp_path, queries=14, hostile=True)))
    assert "<script" not in text
    assert "<img" not in text


@pytest.mark.parametrize("form", ["html", "md"])
def test_a_report_is_written_into_its_run_folder(lacking, pair, form):
    run = lacking()
    assert report(run, format=form) == run.path / f"report.{form}"
    assert report([run, pair[0]], format=form) == run.path / f"comparison.{form}"
    assert report([run], format=form) == run.path / f"report.{form}"


def test_an_unknown_format_or_no_run_is_an_error(run, tmp_path):
    with pytest.raises(RunError, match=r"^expected a format of html, md, pdf, found 'docx'\.$"):
        report(run, tmp_path / "x", format="docx")
    with pytest.raises(RunError, match=r"^expected a run to report on, found none; name one, or several\.$"):
        report([], tmp_path / "x")


def test_without_chromium_the_error_says_what_to_do(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    told = (
        "^expected Chromium to print the PDF, found none on the path; install it, or write the report as HTML and "
        r"print that from any browser\.$"
    )
    with pytest.raises(RunError, match=told):
        report(run, tmp_path / "report.pdf", format="pdf")
    assert not (tmp_path / "report.pdf").exists()


# --- a folder of runs ---


def test_the_overview_links_to_a_report_of_every_run(tmp_path):
    runs = tmp_path / "runs"
    good = made_run(runs, queries=14, steps=5)
    hostile = made_run(runs, queries=14, steps=5, hostile=True)
    broken = made_run(runs, queries=14, steps=5)
    (broken.path / "run.json").write_text("{")
    said = []
    index = report_index(runs, tmp_path / "site", written=WRITTEN, on_progress=lambda *each: said.append(each))
    assert index == tmp_path / "site" / "index.html"
    page = index.read_text(encoding="utf-8")
    links = [link["href"] for link in Reader(page).all("a")]
    assert sorted(links) == sorted(f"runs/{run.name}.html" for run in (good, hostile, broken))
    for link in links:
        assert (index.parent / link).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "plotly" not in page
    words = Reader(page).words
    assert "3 runs of 1 card," in words
    assert "not comparable nDCG@10" in words
    assert said[-1] == ("report", 3, 3)
    assert report_index(runs, tmp_path / "again", written=WRITTEN).read_text(encoding="utf-8") == page


def test_an_overview_of_nothing_says_so(tmp_path):
    (tmp_path / "runs").mkdir()
    page = report_index(tmp_path / "runs", tmp_path / "site").read_text(encoding="utf-8")
    assert "There is no run in this folder yet." in Reader(page).words
    with pytest.raises(RunError, match=r"^expected a folder of runs, found none at '.*gone'\.$"):
        report_index(tmp_path / "gone", tmp_path / "site")


# --- the card of the new model ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    """A run that kept a model of a few thousand weights."""
    from tiny import tiny_base

    root = tmp_path_factory.mktemp("trained")
    run = made_run(root, queries=20, steps=54, hostile=True)
    shutil.copytree(tiny_base(root / "tiny"), run.path / "model")
    return run


def test_the_new_models_card_is_one_that_we_can_read(trained):
    from workbench.cards.read import parse_card

    text = card_text(trained)
    card = parse_card(text.encode(), name="new")
    assert card.unread == ()
    (ours,) = card.evaluations
    assert (ours.evaluator, ours.datasets) == ("InformationRetrievalEvaluator", ("finetune",))
    measured = trained.metrics("finetune", "after")
    assert {name: ours.metrics[name] for name in measured} == pytest.approx(measured, abs=5e-5)
    assert ours.main_metric == "cosine_ndcg@10"
    assert card.base_model.value == "sentence-transformers/all-MiniLM-L6-v2"  # the stand-in, by its name on the Hub
    assert [row.step for row in card.training_log if row.validation_loss is not None] == [180, 360, 540]
    assert len(card.training_log) == 54
    assert card.datasets[0].size == 1437
    assert card.datasets[0].loss.name == "MatryoshkaLoss"
    assert card.hyperparameters["learning_rate"].value == 2e-5
    assert not {"processes", "engine", "stop_step"} & set(card.hyperparameters)  # they are no arguments of the trainer
    assert card.versions["Sentence Transformers"].value == "6.0.1"  # those of the training, not of the writing


def test_the_new_models_card_has_our_numbers_and_the_differences(trained):
    text = card_text(trained)
    main = summarize(trained).main
    assert text.index("## Evaluation by Card Workbench") < text.index("## How this card differs from the original")
    assert text.index("## How this card differs from the original") < text.index("## Training Details")
    assert f"| **nDCG@10** | {main.before:.4f} | {main.after:.4f} | {main.low:.4f} to {main.high:.4f} |" in text
    assert f"| nDCG@10 | {main.card:.4f} | {main.after:.4f} | not comparable |" in text
    assert "**Verdict on the original's numbers: not comparable.**" in text
    assert "> **A stand-in was used, so this model is not a reproduction.**" in text
    assert "`dataset-unnamed`" in text
    assert "The original cannot be trained as written: expected a training loss on the card" in text
    assert card_text(trained) == text


@pytest.mark.parametrize("name", ["ranking", "matryoshka"])
def test_the_recipe_of_the_new_models_card_is_the_one_that_ran(name, tmp_path):
    """Run -> card -> recipe: what no card holds is missing, such as the seed of the split; nothing is false."""
    from huggingface_hub import ModelCard
    from tiny import tiny_base, tiny_recipe, tiny_rows

    from workbench.audit.rules import audit
    from workbench.cards.read import read_card
    from workbench.recipe.from_card import recipe
    from workbench.recipe.schema import LossSpec, difference
    from workbench.training.train import train

    base = tiny_base(tmp_path / "tiny")
    made = tiny_recipe(base, tiny_rows(tmp_path / "<b>rows.json"), max_steps=12, eval_strategy="steps", eval_steps=4)
    made = made.model_copy(update={"training": made.training.model_copy(update={"logging_steps": 3, "seed": 5})})
    if name == "matryoshka":
        loss = LossSpec(name="MatryoshkaLoss", parameters={"matryoshka_dims": [32, 16]}, inner=made.loss)
        made = made.model_copy(update={"loss": loss})
    run = train(made, runs=tmp_path / "runs")
    path = model_card(run)
    assert path == run.path / "model" / "README.md"
    ModelCard.load(path)
    card = read_card(path)
    assert card.unread == ()
    losses = [row["loss"] for row in run.log() if "loss" in row]
    logged = {row.step: row.training_loss for row in card.training_log if row.training_loss is not None}
    assert logged == {step: pytest.approx(sum(losses[step - 3 : step]) / 3, abs=5e-5) for step in (3, 6, 9, 12)}
    changed = {path.rpartition(".")[2] for path, _, _ in difference(recipe(card), run.trained_recipe())}
    assert changed <= {"location", "rows", "train", "validation", "test", "name", "pooling", "max_seq_length"}
    assert not [finding for finding in audit(card) if finding.severity == "error"]
    assert "<b>" not in path.read_text(encoding="utf-8").replace("<b>rows.json", "")


def test_hostile_data_in_the_new_models_card_is_text(trained):
    from markdown_it import MarkdownIt

    text = card_text(trained)
    assert "window.hostile=1" in text
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    every = [*tokens, *(child for token in tokens for child in token.children or ())]
    assert not [token.content for token in every if token.type.startswith("html") and "hostile" in token.content]
    assert not [token for token in every if token.type == "image"]


def test_the_new_models_card_says_what_was_corrected_and_why(trained, tmp_path):
    from workbench.cards.read import card_to_dict, read_card
    from workbench.recipe.from_card import recipe

    run = Run(tmp_path / trained.name)
    shutil.copytree(trained.path, run.path)
    card = read_card("gooaq-static-matryoshka")
    (run.path / "card.json").write_text(json.dumps(card_to_dict(card)))
    save_recipe(recipe(card, corrected=True, overrides={"training.seed": 7}), run.path / "recipe.yaml")
    text = card_text(run)
    assert "| `training.learning_rate` | 2e-05 | 0.2 | a finding on the original: learning-rate |" in text
    assert "| `training.seed` | 42 | 7 | chosen for this run |" in text
    assert "- **error**, `learning-rate`: " in text
    assert "(lines 781, 888)" in text


def test_the_new_models_card_is_written_beside_it(trained, tmp_path, small):
    assert model_card(trained, tmp_path / "README.md").read_text(encoding="utf-8").startswith("---\n")
    with pytest.raises(
        RunError, match=r"^expected a trained model in run '.*', found none; its status is 'finished'\.$"
    ):
        model_card(small)


# --- notebooks ---


def notebook(*cells: tuple[str, str, list[dict]]) -> dict:
    """A notebook as plain values: (kind, source, outputs) of each cell."""
    return {
        "cells": [
            {"cell_type": kind, "id": f"c{n}", "metadata": {}, "source": source}
            | ({"outputs": outputs, "execution_count": None} if kind == "code" else {})
            for n, (kind, source, outputs) in enumerate(cells)
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def shown(**data: object) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("__", "/"): v for k, v in data.items()}}


def test_a_notebook_is_executed_and_its_figures_are_kept(tmp_path, capfd):
    path = tmp_path / "some.ipynb"
    code = (
        "from pathlib import Path\nfrom workbench.views import figures_loss\nprint(Path.cwd().name, 6 * 7)\n"
        "figures_loss.loss_curves([figures_loss.Curve('ours', [1, 2, 3], [3.0, 2.0, 1.5])])"
    )
    path.write_text(json.dumps(notebook(("markdown", "# Its title\n\nSome *prose*.", []), ("code", code, []))))
    before = path.read_bytes()
    out = export_notebook(path, written=WRITTEN)
    assert "WARNING" not in capfd.readouterr().err  # of a kernel on open sockets
    assert out == tmp_path / "some.html"
    page = out.read_text(encoding="utf-8")
    reader = Reader(own(page).replace("<br>", "<br/>"))
    assert "Its title (Card Workbench)" in reader.words
    assert f"{tmp_path.name} 42" in reader.words
    assert page.count(LIBRARY) == 1
    assert json.loads(reader.scripts["figure-cell-1-data"])["data"][0]["name"] == "ours"
    assert path.read_bytes() == before


def test_a_failing_cell_is_reported(tmp_path):
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps(notebook(("code", "raise KeyError('here')", []))))
    with pytest.raises(WorkbenchError, match=r"^a cell of '.*some\.ipynb' failed: KeyError: 'here'\.$"):
        export_notebook(path)
    assert not path.with_suffix(".html").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"cells": 3}', '{"cells": [3]}', '{"nbformat": 9, "cells": []}', None]
)
def test_a_file_that_is_not_a_notebook_is_refused(tmp_path, content):
    path = tmp_path / "some.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WorkbenchError, match=r"^expected a notebook at '.*some\.ipynb', found none that can be read: "):
        export_notebook(path, execute=False)


def test_outputs_of_a_notebook_are_harmless():
    packed = {"dtype": "f8", "bdata": base64.b64encode(b"\0" * 8 + bytes.fromhex("000000000000f03f")).decode()}
    figure = {"data": [{"type": "scattergl", "mode": "markers", "x": packed, "y": [1, 2]}], "layout": {}}
    bars = {"data": [{"type": "bar", "x": [1], "y": [2]}], "layout": {"title": {"text": "<b>Bars</b>"}}}
    stream = {"output_type": "stream", "name": "stdout", "text": "10 %\r100 %\n\x1b[31mred\x1b[0m <b>"}
    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["\x1b[31mE\x1b[0m: <script>"]}
    page = render_notebook(
        notebook(
            ("markdown", "# A *title*\n\n" + HOSTILE + "\n\n![p](http://127.0.0.1:9/x.png) [l](javascript:x)", []),
            ("raw", "<script>raw()</script>", []),
            ("code", "x = '<script>' # a comment", [
                stream,
                error,
                shown(text__html="<table><tr><td onclick='x()'>5</td></tr></table>" + HOSTILE, text__plain="no"),
                shown(text__markdown=HOSTILE, text__plain="no"),
                shown(application__javascript="window.hostile=1"),
                shown(image__png="aGk=\n", text__plain="no"),
                {**shown(), "data": {"image/svg+xml": "<svg onload='x()'></svg>"}},
                {**shown(), "data": {"application/vnd.plotly.v1+json": figure}},
                {**shown(), "data": {"application/vnd.plotly.v1+json": bars}},
                {**shown(), "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "VBox()"}},
            ]),
        ),
        "its-name",
        written=WRITTEN,
    )  # fmt: skip
    reader = Reader(own(page))
    images = [image["src"].strip() for image in reader.all("img") if image.get("src")]
    assert images == ["data:image/png;base64,aGk=", "data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9J3goKSc+PC9zdmc+"]
    assert not [attributes for _, attributes in reader.elements if {"onclick", "onerror"} & attributes.keys()]
    assert not [link for link in reader.all("a") if link.get("href")]
    assert len(reader.all("script")) == 6  # two figures, the colors, the settings, plotly.js, ours
    assert "A title (Card Workbench)" in reader.words
    assert "100 % red <b>" in reader.words
    assert "E : <script>" in reader.words
    assert "10 %" not in reader.words.replace("100 %", "")
    assert "VBox()" not in reader.words
    drawn = json.loads(reader.scripts["figure-cell-1-data"])["data"][0]
    assert (drawn["type"], drawn["x"]) == ("scatter", packed)
    assert 'aria-label="Bars"' in page
    (policy,) = (meta["content"] for meta in reader.all("meta") if meta.get("http-equiv"))
    assert "style-src 'unsafe-inline';" in policy  # the tables of pandas; scripts stay those of the page
    assert re.search("script-src 'sha256-[^ ]+' 'sha256-[^ ]+';", policy)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("<p>a<script>x</script>b</p>", "<p>ab</p>"),
        ("<p>a", "<p>a</p>"),
        ("<b><i>x</b>y", "<b><i>x</i></b><i>y</i>"),
        ("<iframe src=http://x>in</iframe>out", "out"),
        ("<meta http-equiv=refresh content=0>x", "x"),
        ("<form action=x><input name=y></form>z", "z"),
        ('<svg><style><img src=x onerror="y"></style></svg>z', "z"),
        ('<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=y&gt;">', None),
        ('<noscript><p title="</noscript><img src=x onerror=y>"></noscript>', None),
        ('<img src="http://x/y.png" onerror="z">', "<img>"),
        ('<img src="data:image/png;base64,aa">', '<img src="data:image/png;base64,aa">'),
        ('<img src="data:text/html;base64,aa">', "<img>"),
        ('<a href="#there">x</a><a href="javascript:y">z</a>', '<a href="#there">x</a><a>z</a>'),
        ('<a href="&#106;avascript:y">z</a>', "<a>z</a>"),
        ("<style>b > i { color: red }</style>z", "z"),
        ("1 &lt; 2 &#60; 3", "1 &lt; 2 &#60; 3"),
        ('<p style="color: red; position: fixed" id="x" class="y">a</p>', '<p style="color: red;" class="y">a</p>'),
        ("<!-- x --><b>y</b>", "<b>y</b>"),
        ("<script>alert(1)", ""),
    ],
)
def test_html_is_sanitized(given, kept):
    clean = sanitize(given)
    assert not re.search(r"<[^>]*\bon\w+=", clean)
    if kept is not None:
        assert clean == kept
