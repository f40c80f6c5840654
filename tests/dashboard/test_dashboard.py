"""The dashboard's pages without a browser: what they show, their addresses, damaged runs, hostile text."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hub_cache import cached_model
from large_run import long_log, mapped_run
from streamlit.config import get_option, set_option
from streamlit.testing.v1 import AppTest
from synthetic_run import HOSTILE, KOREAN, SINHALA, made_item_run, made_run

from workbench.audit.rules import audit
from workbench.cards.card_json import card_to_dict
from workbench.cards.read import read_card
from workbench.run import Run, RunWriter, list_runs, this_process, write_json
from workbench.run_notes import notes_path, read_query_notes, write_notes, write_query_notes
from workbench.views import map_view as maps
from workbench.views import theme
from workbench.views.failures import query_causes
from workbench.views.figures_map import embedding_map

DASHBOARD = Path(__file__).resolve().parents[2] / "dashboard"
PAGES = ["overview.py", "card.py", "loss.py", "embeddings.py", "retrieval.py", "compare.py"]
PROGRESS = {"step": 90, "steps": 540, "epoch": 0.5, "rows_per_second": 61.4, "seconds_left": 700.0}
CARD = """---
library_name: sentence-transformers
base_model: a/b
---

# <script>window.hostile=1</script> SentenceTransformer based on a/b

## Model Details

### Model Description
- **Model Type:** Sentence Transformer
- **Base model:** [a/b](https://huggingface.co/a/b)
- **Maximum Sequence Length:** 128 tokens
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a run that ended well, a corrected one, a hostile one and a broken one."""
    root = tmp_path_factory.mktemp("runs")
    long_log(mapped_run(root, topics=False), 600)
    seeds = made_run(root, stand_in=False, verdict="differs", seeds=(42, 43, 44), near=0.03)
    RunWriter(seeds.path).update(variant="corrected")
    RunWriter(mapped_run(root, topics=False, hostile=True).path).update(card="hostile")
    (made_run(root).path / "run.json").write_text("{", encoding="utf-8")
    return root


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the one that the app was started with."""
    start(made, monkeypatch)
    return made


def start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `streamlit run dashboard/app.py -- ROOT` does."""
    monkeypatch.setattr(sys, "argv", ["app.py", str(root)])
    monkeypatch.syspath_prepend(str(DASHBOARD))


def page(name: str, **address: str | list[str]) -> AppTest:
    """The page, opened at an address, without an exception."""
    app = AppTest.from_file(DASHBOARD / "app.py", default_timeout=60)
    app.query_params.update(address)
    if name != "overview.py":
        app.switch_page(name)
    app.run()
    assert [error.value for error in app.exception] == []
    return app


def named(root: Path, card: str, variant: str = "as written") -> Run:
    return next(
        run
        for run in list_runs(root)
        if run.status != "broken" and (run.record["card"], run.record["variant"]) == (card, variant)
    )


def texts(app: AppTest) -> str:
    return "\n".join([*(str(text.value) for text in app.text), *shown_hits(app)])


def shown_hits(app: AppTest) -> list[str]:
    """Texts of documents, which are shown with shared words underlined, as a reader sees them, and of other blocks."""
    blocks = [str(block.value) for block in app.html if "<div class=" in str(block.value)]
    pieces = [
        each for block in blocks for each in re.findall(r'class="wb-hit" dir="auto">(.*?)</div>', block) or [block]
    ]
    return [html.unescape(re.sub(r"</?(div|mark)[^>]*>", "", piece)) for piece in pieces]


def obeyed(app: AppTest) -> str:
    """Everything that is shown through Markdown or HTML, or as a label, which is Markdown too."""
    shown = [app.markdown, app.caption, app.title, app.header, app.subheader]
    words = [re.sub(r"window\.hostile|\$x\^2\$", "", str(block.value)) for block in app.html]  # escaped, see `hits`
    words += [str(element.value) for elements in shown for element in elements]
    widgets = [app.selectbox, app.multiselect, app.toggle, app.text_input, app.metric, app.button, app.expander]
    return "\n".join([*words, *(str(widget.label) for widgets_ in widgets for widget in widgets_)])


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens(folder: Path, name: str) -> None:
    app = page(name)
    assert len(app.title) == 1


def test_a_path_in_the_address_opens_nothing(folder: Path) -> None:
    app = page("retrieval.py", run="../../../etc")
    assert "The run of this address is not here." in obeyed(app)
    assert "root:" not in obeyed(app) + texts(app)


@pytest.mark.parametrize("name", [name for name in PAGES if name != "card.py"])
def test_an_empty_folder_says_how_to_make_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "with space"
    start(root, monkeypatch)
    app = page(name)
    assert [block.value for block in app.code] == [
        f"workbench reproduce porsche-mxbai --base bundled:minilm --data sample:porsche --runs '{root}'"
    ]
    assert not root.exists()


def table_of_runs(app: AppTest) -> dict[str, Any]:
    """What the table of the overview is told to draw."""
    return drawn_by(app, "runs")


def drawn_by(app: AppTest, name: str) -> dict[str, Any]:
    """What a component of ours is told to draw."""
    told = next(each.proto for each in app.get("bidi_component") if each.proto.component_name == name)
    found: dict[str, Any] = json.loads(told.bytes)
    return found


def test_the_overview_has_a_row_for_every_run(folder: Path) -> None:
    rows = {row["name"]: row for row in table_of_runs(page("overview.py"))["rows"]}
    assert sorted(rows) == sorted(run.name for run in list_runs(folder))
    run = named(folder, "porsche-mxbai", "corrected")
    row = rows[run.name]
    assert (row["status"], row["texts"]["verdict"], row["metric"], row["texts"]["seeds"]) == (
        "finished", "differs", "nDCG@10", "3",
    )  # fmt: skip
    stored = run.metrics("finetune", "after")["cosine_ndcg@10"]
    assert row["sort"]["metric"] == pytest.approx(stored)
    assert row["texts"]["metric"].endswith(f"→ {stored:.4f}")


def test_a_broken_run_shows_why_and_the_others_stay(folder: Path) -> None:
    app = page("overview.py")
    broken = next(run for run in list_runs(folder) if run.status == "broken")
    assert f"{broken.name}: expected JSON in" in texts(app)
    assert {row["status"] for row in table_of_runs(app)["rows"]} == {"finished", "broken"}
    assert "1 run needs attention: 1 broken" in obeyed(app)


def test_the_filter_of_the_overview_is_in_the_address_and_its_tiles_follow(folder: Path) -> None:
    app = page("overview.py", find="corrected", status="finished")
    assert [row["texts"]["verdict"] for row in table_of_runs(app)["rows"]] == ["differs"]
    assert {metric.label: metric.value for metric in app.metric} == {"Runs": "1", "Differs": "1"}
    app.text_input(key="find").set_value("no such run").run()
    assert table_of_runs(app)["rows"] == []
    assert {metric.label: metric.value for metric in app.metric} == {"Runs": "0"}


def test_notes_are_shown_and_archived_runs_only_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, damaged = (made_run(tmp_path) for _ in range(3))
    write_notes(one, alias="first try", tags=["demo"])
    write_notes(other, archived=True)
    notes_path(damaged).write_text("{")
    start(tmp_path, monkeypatch)
    app = page("overview.py")
    assert {row["name"]: row["title"] for row in table_of_runs(app)["rows"]} == {
        one.name: "first try", damaged.name: "porsche-mxbai",
    }  # fmt: skip
    assert "delete that file" in texts(app)
    assert len(table_of_runs(page("overview.py", archived="true"))["rows"]) == 3
    assert [row["name"] for row in table_of_runs(page("overview.py", find="demo"))["rows"]] == [one.name]


@pytest.mark.parametrize(
    ("words", "address", "writes"),
    [([], "127.0.0.1", True), (["--read-only"], "127.0.0.1", False), ([], "0.0.0.0", False), ([], None, False)],
)
def test_notes_are_written_on_this_machine_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], address: str | None, writes: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, *words])
    before = get_option("server.address")
    set_option("server.address", address)
    try:
        assert table_of_runs(page("overview.py"))["writes"] is writes
    finally:
        set_option("server.address", before)


def test_the_address_opens_a_query(folder: Path) -> None:
    run = named(folder, "porsche-mxbai")
    app = page("retrieval.py", run=run.name, query="q1")
    assert SINHALA in [text.value for text in app.text]
    hits = run.hits("finetune", "after")
    best = hits[(hits["query_id"] == "q1") & (hits["position"] == 1)]["document"].iloc[0]
    assert best in shown_hits(app)
    assert KOREAN in list(app.dataframe[0].value["query"])


@pytest.mark.parametrize("only", ["worse", "lost", "lost from top 10", "never found"])
def test_filters_keep_the_queries_that_the_files_tell(folder: Path, only: str) -> None:
    run = named(folder, "porsche-mxbai")
    parts = [
        pd.read_parquet(run.path / "evaluations" / "finetune" / f"{moment}.parquet") for moment in ("before", "after")
    ]
    pairs = [part.set_index("query_id") for part in parts]
    first, last = (pair["rank"].fillna(1000).astype(int) for pair in pairs)
    lost = (first <= 10) & (last > 10)
    expected = {"worse": int(((last > first) & ~lost).sum()), "lost": int(lost.sum()), "all": len(first)}
    name = {"lost from top 10": "lost", "never found": "all"}.get(only, only)  # as older versions wrote the address
    app = page("retrieval.py", run=run.name, only=only)
    assert len(app.dataframe[0].value) == expected[name] > 0
    if name != "all":
        assert [metric.value for metric in app.metric if metric.label == name.capitalize()] == [str(expected[name])]


def test_table_and_map_count_the_same_outcomes(folder: Path) -> None:
    run = named(folder, "porsche-mxbai")
    counted = {metric.label.lower(): metric for metric in page("retrieval.py", run=run.name).metric}
    assert counted["lost"].proto.help == "A relevant document in the top 10 before training, none after"
    legend = [layer["name"] for layer in drawn_map(page("embeddings.py", run=run.name, by="outcome"))["layers"]]
    outcomes = dict(re.findall(r"(\w+) \((\d+)\)", " ".join(legend)))
    del outcomes["documents"]
    assert outcomes == {name: metric.value for name, metric in counted.items() if name in outcomes}
    assert {"found", "lost", "worse"} <= set(outcomes)


def test_the_figures_of_the_queries_are_drawn(folder: Path) -> None:
    assert len(page("retrieval.py", run=named(folder, "porsche-mxbai").name).get("plotly_chart")) == 2


def test_queries_are_filtered_by_a_possible_cause(folder: Path) -> None:
    run = named(folder, "porsche-mxbai")
    causes = query_causes(run, "finetune", 1)
    wanted = next(iter(causes.values()))[0]
    table = page("retrieval.py", run=run.name, why=wanted).dataframe[0].value
    assert len(table) == sum(wanted in found for found in causes.values()) > 0
    assert all(wanted in found for found in table["causes"])


def test_a_query_gets_tags_and_a_note_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, queries=20)
    start(tmp_path, monkeypatch)
    monkeypatch.setattr("cached.can_write", lambda: True)
    app = page("retrieval.py", run=run.name, query="q1")
    app.text_input[-1].set_value(HOSTILE)
    app.button[-1].click().run()
    assert read_query_notes(run, "finetune") == {"q1": {"tags": [], "note": HOSTILE.strip()}}
    write_query_notes(run, "finetune", "q2", tags=["look"], note="")
    app = page("retrieval.py", run=run.name, tag="look")
    assert app.dataframe[0].value[["tags"]].to_numpy().tolist() == [[["look"]]]
    assert "hostile" not in obeyed(app)
    notes_path(run).write_text("{")
    assert "delete that file" in texts(page("retrieval.py", run=run.name))


@pytest.mark.parametrize("name", ["../../etc", "..", "/etc/passwd", "no-such-run", HOSTILE])
def test_a_strange_name_in_the_address_is_said_and_left_aside(folder: Path, name: str) -> None:
    app = page("retrieval.py", run=name)
    assert name[:100] in texts(app)
    assert app.selectbox(key="run").value is None
    assert len(app.dataframe) == 0


def test_a_default_is_not_written_and_a_choice_is_written_with_its_run(folder: Path) -> None:
    app = page("compare.py")
    run = app.selectbox(key="run").value
    assert app.query_params == {}
    other = next(name for name in app.multiselect(key="with").options if name != run)
    app.multiselect(key="with").set_value([other]).run()
    assert app.query_params == {"run": run, "with": other}
    app.multiselect(key="with").set_value([]).run()
    assert app.query_params == {"run": run}


def test_compare_shows_the_stored_verdict_with_its_reasons(folder: Path) -> None:
    run = named(folder, "porsche-mxbai", "corrected")
    app = page("compare.py", run=run.name)
    assert any("differs" in markdown.value for markdown in app.markdown)
    stored = run.comparison()
    assert stored is not None
    table = app.dataframe[0].value
    assert table["metric"].tolist()[0] == "nDCG@10 *"
    told = pd.concat([table, *(each.value for each in app.dataframe if "card" in each.value)])
    assert {round(row["after"], 9) for row in stored["rows"]} == set(told["after"].round(9))
    questions = [caption.value for caption in app.caption if caption.value.endswith("?")]
    assert questions == ["Better than the base?", "Reproduces the card?"]


def test_compare_shows_seeds_replay_and_statements(folder: Path) -> None:
    app = page("compare.py", run=named(folder, "porsche-mxbai", "corrected").name)
    for said in (
        "The user states that rows.json holds the card's evaluation examples.",
        "mean of 3 trainings, seeds 42 to 44",
        "a card up to 0.0400 off",
        "2 of 3 numbers are equal; the first that differs: finetune cosine_ndcg@10",
    ):
        assert said in texts(app).replace("<b>", "").replace("</b>", "")
    tables = [table.value for table in app.dataframe]
    judged, changes = tables[:2]
    seeds, replayed = tables[-2:]
    assert judged["card_difference"].tolist()[0] == pytest.approx(0.03, abs=1e-4)
    assert {"deviation", "detectable", "margin"} <= set(judged)
    assert {"difference", "wins"} <= set(changes)
    assert set(changes["p_adjusted"]) == {"0.003"}
    assert list(seeds) == ["metric", "42", "43", "44"]
    assert replayed["Equal"].tolist() == [True, True, False]
    assert "Each seed" in app.get("plotly_chart")[0].proto.spec


def test_no_change_has_no_sign_and_a_small_p_is_below_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(tmp_path)
    stored = run.comparison() or {}
    rows = [{**row, "difference": -1e-7, "difference_low": -1e-6, "p_adjusted": 0.0007} for row in stored["rows"]]
    write_json(run.file("comparison"), {**stored, "rows": rows})
    start(tmp_path, monkeypatch)
    tables = [table.value for table in page("compare.py", run=run.name).dataframe]
    changes = next(table for table in tables if "p_adjusted" in table)
    assert set(changes["p_adjusted"]) == {"< 0.001"}
    assert [str(value) for value in (*changes["difference"], *changes["difference_low"])] == ["0.0"] * 2 * len(changes)


def test_the_losses_of_card_and_run_are_subtracted(folder: Path) -> None:
    app = page("loss.py", runs=named(folder, "porsche-mxbai", "corrected").name)
    assert "Validation loss, different (3)" in app.get("plotly_chart")[1].proto.spec


def test_two_runs_are_compared_query_by_query(folder: Path) -> None:
    first, other = named(folder, "porsche-mxbai"), named(folder, "porsche-mxbai", "corrected")
    app = page("compare.py", run=first.name, **{"with": other.name})
    assert any("no significant difference" in markdown.value for markdown in app.markdown)
    table = app.dataframe[0].value
    assert table["difference"].dropna().tolist() == pytest.approx([0.0] * table["difference"].notna().sum())
    assert "both runs trained the same recipe" in texts(app)
    agreement = next(each.value for each in app.dataframe if "Measure" in each.value)
    assert list(agreement) == ["Measure", "Value", "How to read it"]
    assert agreement["Measure"].tolist()[:3] == ["Kendall's tau union", "RBO", "RMSE of nDCG@10"]
    assert agreement["Value"].tolist()[:3] == pytest.approx([1, 1, 0])


def test_the_panels_of_a_training_are_below_each_other(folder: Path) -> None:
    app = page("loss.py", runs=named(folder, "porsche-mxbai").name)
    assert "yaxis2" not in app.get("plotly_chart")[0].proto.spec
    app.toggle(key="panels").set_value(True).run()
    spec = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert "Learning rate" in spec["layout"]["yaxis2"]["title"]["text"]


def test_loss_curves_of_two_runs_and_their_card(folder: Path) -> None:
    runs = [named(folder, "porsche-mxbai").name, named(folder, "porsche-mxbai", "corrected").name]
    app = page("loss.py", runs=runs)
    drawn = app.get("plotly_chart")[0].proto.spec
    assert "Card: porsche-mxbai" in drawn
    assert "porsche-mxbai, corrected" in drawn
    assert title_of_x(app) == "Epoch (passes over the training rows)"  # the card's log is longer than these
    app.selectbox(key="x").set_value("step").run()
    assert title_of_x(app) == "Step (optimizer updates)"
    app.selectbox(key="y").set_value("learning_rate").run()
    assert "Learning rate" in app.get("plotly_chart")[0].proto.spec
    app = page("loss.py", runs=runs[1])
    app.selectbox(key="y").set_value("grad_norm").run()
    assert "Nothing logged yet" in obeyed(app)


def test_a_curve_follows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, steps=5, card=False)
    start(tmp_path, monkeypatch)
    app = page("loss.py", runs=run.name)
    before = app.get("plotly_chart")[0].proto.spec
    RunWriter(run.path).log({"step": 60, "epoch": 0.4, "loss": 7.5})
    app.run()
    assert "7.5" not in before
    assert "7.5" in app.get("plotly_chart")[0].proto.spec


def test_logs_of_one_length_lie_along_steps(folder: Path) -> None:
    app = page("loss.py", runs=named(folder, "porsche-mxbai").name)
    assert title_of_x(app) == "Epoch (passes over the training rows)"
    app.toggle(key="with_card").set_value(False).run()
    assert title_of_x(app) == "Step (optimizer updates)"


def title_of_x(app: AppTest) -> str:
    title: str = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]["xaxis"]["title"]["text"]
    return title


def drawn_names(app: AppTest) -> list[str]:
    return [trace.get("name", "") for trace in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]]


def test_spikes_checkpoints_and_parts_of_a_loss_are_drawn(folder: Path) -> None:
    run = named(folder, "porsche-mxbai").name
    app = page("loss.py", runs=run)
    names = " ".join(drawn_names(app))
    assert "spike" in names
    assert "saved checkpoint" in names
    assert "mean over the card's stretch" in names
    assert "A point of the card is the mean of 100 steps" in texts(app)
    app.selectbox(key="y").set_value("components").run()
    assert {name.rpartition(", ")[2] for name in drawn_names(app)} >= {"dim_512", "dim_256"}
    for along, title in (("rows", "Training rows seen (count)"), ("time", "Time since the start (minutes)")):
        app.selectbox(key="x").set_value(along).run()
        assert title in app.get("plotly_chart")[0].proto.spec


# --- embeddings ---


def drawn_map(app: AppTest) -> dict[str, Any]:
    """What the canvas of the maps is told to draw."""
    return drawn_by(app, "map")


def test_the_map_has_both_moments_with_the_same_axes(folder: Path) -> None:
    app = page("embeddings.py", run=named(folder, "porsche-mxbai").name)
    drawn = drawn_map(app)
    assert [moment["name"] for moment in drawn["stages"]] == ["before", "after"]
    assert drawn["stages"][0]["ranges"] == drawn["stages"][1]["ranges"]
    assert drawn["axes"] == ["PCA 1 (no unit)", "PCA 2 (no unit)"]
    assert len(drawn["labels"]) == 360
    assert app.selectbox(key="map").value == "PCA, together"
    assert "workbench map" in app.code[0].value  # the one by UMAP is not there


Mark = tuple[float, float, str, str, str, float, float, str]  # x, y, layer, colour, symbol, size, opacity, hover text


def of_canvas(drawn: dict[str, Any], stage: dict[str, Any]) -> set[Mark]:
    """Every mark that the canvas is told to paint."""
    x, y = (np.frombuffer(base64.b64decode(stage[axis]), dtype="f4") for axis in "xy")
    group = np.frombuffer(base64.b64decode(drawn["group"]), dtype="u1")
    looks = [drawn["layers"][number] for number in group]
    return {
        (*place, look["name"], look["color"], look["symbol"], look["size"], look["opacity"], label)
        for *place, look, label in zip(x.tolist(), y.tolist(), looks, drawn["labels"], strict=True)
    }


def of_plotly(figure: Any) -> set[Mark]:
    """Every mark that Plotly is told to paint."""
    found: set[Mark] = set()
    for trace in figure.data:
        colours = [trace.marker.color] * len(trace.x)
        if trace.marker.showscale:
            ends, scale = zip(*trace.marker.colorscale, strict=True)
            parts = [[int(colour[at : at + 2], 16) for colour in scale] for at in (1, 3, 5)]
            shares = (np.asarray(trace.marker.color) - trace.marker.cmin) / (trace.marker.cmax - trace.marker.cmin)
            rows = zip(*(np.interp(shares, ends, part).round().astype(int) for part in parts), strict=True)
            colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in rows]
        texts = [html.unescape(text.replace("<br>", "\n")) for text in trace.hovertext]
        look = (trace.marker.symbol, trace.marker.size, trace.marker.opacity)
        places = zip(trace.x.tolist(), trace.y.tolist(), colours, texts, strict=True)
        found |= {(x, y, html.unescape(trace.name), colour, *look, text) for x, y, colour, text in places}
    return found


@pytest.mark.parametrize("by", ["type", "outcome", "MRR@10 after", "length (words)"])
def test_the_canvas_paints_the_marks_that_plotly_paints(folder: Path, by: str) -> None:
    run = named(folder, "porsche-mxbai")
    drawn = drawn_map(page("embeddings.py", run=run.name, by=by, find="holds 14"))
    seen = maps.map_view(run, "finetune", "pca")
    assert seen is not None
    for stage in drawn["stages"]:
        points = seen.points(stage["name"], by, seen.labels())
        figure = embedding_map(points, name="PCA", ranges=seen.ranges(), picked=seen.containing("holds 14"))
        assert len(of_canvas(drawn, stage)) == 360
        assert of_canvas(drawn, stage) == of_plotly(figure)
        axes = (figure.layout.xaxis, figure.layout.yaxis)
        assert [axis.title.text for axis in axes] == drawn["axes"]
        assert [list(axis.range) for axis in axes] == stage["ranges"]
        for trace in figure.data:
            assert trace.unselected.marker.opacity == drawn["faded"]
            assert trace.selected.marker.size == trace.marker.size + drawn["grown"]
            if trace.marker.showscale:
                assert list(trace.marker.colorbar.ticktext) == [drawn["scale"]["low"], drawn["scale"]["high"]]


def test_queries_lie_above_documents_whatever_colours_them(folder: Path) -> None:
    run = named(folder, "porsche-mxbai")
    for by in ("type", "outcome", "MRR@10 after", "length (words)"):
        marks = [
            layer["symbol"].split("-")[0] for layer in drawn_map(page("embeddings.py", run=run.name, by=by))["layers"]
        ]
        assert marks == sorted(marks)  # circles, then diamonds
        assert set(marks) == {"circle", "diamond"}


def test_a_search_marks_points_in_both_maps_and_lists_texts_with_neighbours(folder: Path) -> None:
    app = page("embeddings.py", run=named(folder, "porsche-mxbai").name, find="holds 14")
    table = app.dataframe[0].value
    expected = {f"d{n}" for n in range(3, 180) if "14" in f"{n} {300 + n}"}  # "The boot of model 14 holds 314 litres."
    assert set(table["id"]) == expected
    marked = base64.b64decode(drawn_map(app)["marked"])
    assert sum(byte.bit_count() for byte in marked) == len(expected)
    nearest = table.set_index("id").loc["d14", "nearest after"]
    assert re.fullmatch(r"0\.\d{3}  The boot of model \d+ holds \d+ litres\.", nearest)


def test_an_area_and_a_point_of_the_address_are_selected(folder: Path) -> None:
    run = named(folder, "porsche-mxbai")
    app = page("embeddings.py", run=run.name, area="after:-9,-9;9,-9;9,9;-9,9", pick="query:q5", lines="true")
    assert len(app.dataframe[0].value) == 300  # of 360
    assert any("Selected: 360 texts" in heading.value for heading in app.subheader)
    assert "q5: " in texts(app)
    assert len(shown_hits(app)) == 20
    strange = page("embeddings.py", run=run.name, area="../../etc:1,2", pick="query:../../etc")
    assert len(strange.dataframe) == 0


@pytest.mark.parametrize(
    "by", ["type", "outcome", "length (words)", "relevant documents", "MRR@10 after", "cluster", "density"]
)
def test_a_map_is_coloured_by(folder: Path, by: str) -> None:
    app = page("embeddings.py", run=named(folder, "porsche-mxbai").name, by=by)
    assert app.selectbox(key="by").value == by
    assert len(drawn_map(app)["layers"]) > 1


def test_without_a_map_the_command_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = mapped_run(tmp_path, queries=20)
    shutil.rmtree(run.path / "maps")
    start(tmp_path, monkeypatch)
    app = page("embeddings.py")
    command = f"workbench map {run.name} --evaluation finetune --runs {tmp_path}"
    assert [block.value for block in app.code] == [command]
    shutil.rmtree(run.path / "vectors")
    assert "No vectors, no map" in obeyed(page("embeddings.py"))


# --- more of the queries ---


def test_queries_in_groups(folder: Path) -> None:
    app = page("retrieval.py", run=named(folder, "porsche-mxbai").name, view="groups", by="relevant documents")
    assert list(app.dataframe[0].value["group"]) == ["1"]
    assert list(app.dataframe[0].value["queries"]) == [180]


def test_a_model_that_is_not_there_says_so_in_the_playground(folder: Path) -> None:
    run = named(folder, "porsche-mxbai", "as written")
    app = page("retrieval.py", run=run.name, view="playground", ask="Which tyres?")
    assert obeyed(app).count("This model cannot answer.") >= 1
    other = named(folder, "porsche-mxbai", "corrected")
    app = page("retrieval.py", run=other.name, view="playground")
    assert "this run keeps none of this evaluation" in texts(app)
    assert [list(each.options) for each in app.get("button_group")] == [["queries", "groups"]]


def test_items_have_no_rankings_and_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_item_run(tmp_path, hostile=True)
    start(tmp_path, monkeypatch)
    app = page("retrieval.py", run=run.name, query="i001")
    assert {"gold", "score_before", "score_after"} <= set(app.dataframe[0].value.columns)
    assert [metric.label for metric in app.metric] == ["Pairs", "Worse", "Unchanged", "Better"]  # pairs have no ranks
    assert SINHALA in texts(app)
    assert "This evaluation has pairs" in texts(page("retrieval.py", run=run.name, view="groups"))
    assert "Pairs have no map" in obeyed(page("embeddings.py", run=run.name))
    page("compare.py", run=run.name)


def test_three_runs_and_what_can_be_taken_away(folder: Path) -> None:
    runs = [run.name for run in list_runs(folder) if run.status != "broken"]
    app = page("compare.py", run=runs[0], **{"with": runs[1:3]})
    assert list(app.dataframe[0].value.index) == runs[1:3]  # each minus the first, the baseline
    labels = [button.label for button in app.get("download_button")]
    assert labels[:4] == ["These runs as a site (zip)", "All (zip)", "Report (HTML)", "Queries (CSV)"]
    assert sum("TREC" in label for label in labels) == 2


def test_a_running_training_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, verdict=None, steps=9)
    RunWriter(run.path).update(status="running", progress=PROGRESS)
    start(tmp_path, monkeypatch)
    for name in ("overview.py", "loss.py"):
        bars = [bar.proto.text for bar in page(name).get("progress")]
        assert bars == ["step 90 of 540 · 61 rows/s · 11 min 40 s left"]


def test_a_dropped_card_is_read_and_its_text_stays_text(folder: Path) -> None:
    app = page("card.py")
    app.file_uploader[0].set_value(("README.md", CARD.encode(), "text/markdown")).run()
    assert [error.value for error in app.exception] == []
    assert "<script>window.hostile=1</script>" in texts(app) + "".join(block.value for block in app.code)
    assert "hostile" not in obeyed(app)
    assert app.query_params["card"] == "dropped README.md"
    app.switch_page("loss.py").run()
    app.switch_page("card.py").run()
    assert app.selectbox(key="card").options[0] == "dropped README.md"
    app.selectbox(key="card").set_value("dropped README.md").run()
    assert "<script>window.hostile=1</script>" in texts(app) + "".join(block.value for block in app.code)
    app.file_uploader[0].set_value(("README.md", b"\0\1\2", "text/markdown")).run()
    assert "binary data" in texts(app)
    assert app.selectbox(key="card").value == "dropped README.md (2)"
    app.file_uploader[0].set_value(("huge.md", b"x" * 5_000_001, "text/markdown")).run()
    assert "Expected a model card of at most 5,000,000 bytes, found 5,000,001" in texts(app)
    assert "drop the README.md again" in texts(page("card.py", card="dropped README.md"))


def test_a_card_of_the_hub_is_read_by_its_id(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    (model := tmp_path / "model").mkdir()
    (model / "README.md").write_text(CARD)
    cached_model(tmp_path / "cache", model, "acme/mine", reference="v2")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    app = page("card.py", hub="acme/mine@v2")
    assert [error.value for error in app.exception] == []
    assert "SentenceTransformer based on a/b" in texts(app)
    for wrong, said in {"acme/mine": "found none", "../model": "cannot be one", str(model): "cannot be one"}.items():
        assert said in texts(app.text_input[0].set_value(wrong).run())


@pytest.mark.parametrize("view", ["what it says", "what is needed", "recipe"])
def test_the_tables_of_a_shipped_card(folder: Path, view: str) -> None:
    app = page("card.py", card="korean-law-lora", view=view)
    assert app.query_params["card"] == "korean-law-lora"
    assert len(app.dataframe) > 0


def marked_lines(app: AppTest) -> list[str]:
    """The lines of the card that are marked, each with its number."""
    bodies = " ".join(element.proto.body for element in app.get("html"))
    rows = re.findall(r'<div class="wb-marked"[^>]*><i><a[^>]*>(\d+)</a></i><span[^>]*>(.*?)</span>', bodies)
    return [f"{number} {html.unescape(text)}" for number, text in rows]


def test_findings_stand_beside_the_lines_that_they_rest_on(folder: Path) -> None:
    card = read_card("korean-law-lora")
    scale = next(found for found in audit(card) if found.code == "scale-as-temperature")
    app = page("card.py", card="korean-law-lora")
    assert {f"{line} {card.lines[line - 1]}" for line in scale.lines} <= set(marked_lines(app))
    assert scale.message in texts(app)
    whole = page("card.py", card="korean-law-lora", view="text")
    assert len(marked_lines(whole)) == len({line for found in audit(card) for line in found.lines})


def test_the_curve_of_a_card_is_corrected_for_what_the_audit_knows(tmp_path: Path, monkeypatch: Any) -> None:
    run = made_run(tmp_path)
    card = read_card("hotpotqa-distilbert-energy")
    write_json(run.path / "card.json", card_to_dict(card))
    start(tmp_path, monkeypatch)
    app = page("loss.py", runs=run.name)
    summed = next(found for found in audit(card) if found.code == "summed-loss").evidence["accumulation"]
    assert f"Card: {card.name}, loss divided by {summed}" in drawn_names(app)
    assert f"The card's losses are divided by {summed}" in texts(app)


def test_recipe_of_a_card_names_where_each_field_is_from(folder: Path) -> None:
    table = page("card.py", card="korean-law-lora", view="recipe").dataframe[0].value.set_index("Field")
    assert table.loc["base.model", "As written"] == "jhgan/ko-sroberta-multitask"
    assert (table.loc["base.model", "From"], table.loc["base.model", "Lines"]) == ("card", "24")
    assert (table.loc["base.lora.r", "From"], table.loc["base.lora.r", "Note"]) == ("file", "adapter_config.json")


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_goes_nowhere_where_markup_is_obeyed(folder: Path, name: str) -> None:
    run = named(folder, "hostile")
    address = (
        {"card": f"run {run.name}", "view": "what it says"}
        if name == "card.py"
        else {"run": run.name, "runs": run.name, "query": "q2", "find": "bold" if name == "embeddings.py" else ""}
    )
    app = page(name, **address)
    for part in ("window.hostile", "<img", "<b>bold", "$x^2$", "\u202e"):
        assert part not in obeyed(app)
    assert "\u202e" not in texts(app)


def test_identity_changes_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path, monkeypatch)
    cached = importlib.import_module("cached")
    path = tmp_path / "a"
    assert cached.identity(path) == ()
    path.write_text("one")
    first = cached.identity(path)
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert first != cached.identity(path)
    assert cached.identity(path) == cached.identity(path)


def test_looking_changes_no_run(folder: Path) -> None:
    def fingerprint() -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = fingerprint()
    for name in PAGES:
        page(name)
    assert fingerprint() == before


def test_a_file_of_another_form_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path)
    pd.DataFrame({"something": [1]}).to_parquet(run.path / "evaluations" / "finetune" / "after.parquet")
    start(tmp_path, monkeypatch)
    app = page("retrieval.py", run=run.name)
    assert "expected a column 'query_id' in" in texts(app)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("loss.py", "runs", "gone"), ("card.py", "card", "run gone"), ("compare.py", "run", "gone"),
     ("embeddings.py", "run", "gone"), ("overview.py", "run", "gone")],
)  # fmt: skip
def test_a_link_to_a_run_that_is_gone_shows_no_other(folder: Path, name: str, key: str, value: str) -> None:
    app = page(name, **{key: value})
    assert f"Expected {value} in {str(folder)!r}" in texts(app)
    shown = [*app.dataframe, *app.get("plotly_chart"), *app.subheader]
    assert shown == []


def test_a_run_that_is_deleted_while_it_is_open_becomes_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_run(tmp_path)
    start(tmp_path, monkeypatch)
    for name, key in (("retrieval.py", "run"), ("loss.py", "runs"), ("compare.py", "run")):
        run = made_run(tmp_path)
        app = page(name, **{key: run.name})
        shutil.rmtree(run.path)
        app.run()
        assert "The run of this address is not here." in obeyed(app)
        assert run.name in texts(app)


def test_a_verification_has_no_log_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path)
    run.file("log").unlink()
    checked = {"model": "a/b", "path": str(tmp_path), "sha256": "0", "precision": "fp32"}
    RunWriter(run.path).update(verification=checked)
    start(tmp_path, monkeypatch)
    assert f"{run.name} has no log: published weights were verified" in texts(page("loss.py", runs=run.name))


def test_a_run_whose_folder_vanishes_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = made_run(tmp_path), made_run(tmp_path)
    start(tmp_path, monkeypatch)
    app = page("overview.py")
    assert len(table_of_runs(app)["rows"]) == 2
    shutil.rmtree(gone.path)
    app.run()
    assert [row["name"] for row in table_of_runs(app)["rows"]] == [kept.name]


def test_the_theme_is_the_palette() -> None:
    settings = tomllib.loads((DASHBOARD / ".streamlit" / "config.toml").read_text(encoding="utf-8"))["theme"]
    assert settings["font"] == theme.FONT_FAMILY
    assert settings["dark"]["primaryColor"] == theme.DARK.after
    for part, colours in (("light", theme.LIGHT), ("dark", theme.DARK)):
        mine = settings[part]
        assert (mine["textColor"], mine["linkColor"]) == (colours.ink, colours.after)
        assert (mine["greenColor"], mine["orangeColor"], mine["grayColor"]) == (
            colours.better,
            colours.worse,
            colours.before,
        )


def test_a_dashboard_with_a_password_shows_nothing_without_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import password

    monkeypatch.setattr(password, "SECONDS", 0)
    monkeypatch.setenv("WORKBENCH_PASSWORD", "open sesame")
    app = page("overview.py")
    assert ([title.value for title in app.title], len(app.dataframe)) == (["Card Workbench"], 0)
    app.text_input[0].set_value("open says me").run()
    assert "This is not the password." in texts(app)
    assert len(app.dataframe) == 0
    app.text_input[0].set_value("open sesame").run()
    assert "This is not the password." not in texts(app)
    assert any(title.value != "Card Workbench" for title in app.title)


@pytest.fixture
def here() -> Iterator[None]:
    """A server for this machine only."""
    before = get_option("server.address")
    set_option("server.address", "127.0.0.1")
    yield
    set_option("server.address", before)


def pressed(app: AppTest, key: str) -> AppTest:
    return app.button(key=key).click().run()


@pytest.mark.usefixtures("here")
def test_buttons_act_after_a_second_click_and_only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, verdict=None)
    start(tmp_path, monkeypatch)
    assert not run.file("comparison").exists()
    pressed(page("compare.py", run=run.name), "keep")
    assert run.comparison() is not None
    assert [button.key for button in page("compare.py", run=run.name).button if button.key == "keep"] == []
    RunWriter(run.path).update(status="running", process=this_process())
    pressed(page("loss.py", runs=run.name), f"stop {run.name}")
    assert run.has_stop_request()
    monkeypatch.setattr(sys, "argv", ["app.py", str(tmp_path), "--read-only"])
    assert [button.key for button in page("loss.py", runs=run.name).button if "stop" in str(button.key)] == []


@pytest.mark.usefixtures("here")
def test_a_training_is_started_as_the_command_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path, monkeypatch)
    app = page("card.py", card="porsche-mxbai")
    app.text_input(key="train base").set_value("bundled:nothing")
    app.number_input(key="train steps").set_value(3)
    app.run()
    words = next(block.value for block in app.code if "reproduce" in block.value)
    assert words == (
        f"workbench reproduce porsche-mxbai --base bundled:nothing --max-steps 3 --runs {tmp_path} --quiet"
    )
    pressed(app, "start train")
    assert "expected 'bundled:minilm'" in texts(app)  # the command's own sentence
    assert list_runs(tmp_path) == []
