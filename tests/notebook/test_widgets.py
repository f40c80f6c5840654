"""What notebooks show, without a browser: what the widgets hold, and that foreign text stays text."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from large_run import add_vectors
from synthetic_run import HOSTILE, KOREAN, SINHALA, made_card, made_item_run, made_run

import workbench as wb
from workbench.cards.card import Card
from workbench.errors import RunError
from workbench.notebook import html, live_training, map, query_table
from workbench.notebook.live_training import live
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Origin
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, RunWriter
from workbench.views.loss_curves import loss_numbers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def with_vectors(run: Run) -> Run:
    """A run with vectors of its texts, so that a map can be made."""
    add_vectors(run)
    return run


def test_findings_show_severity_sentence_lines_and_fix() -> None:
    card = wb.read_card("porsche-mxbai")
    page = wb.findings(card)._repr_html_()
    found = wb.audit(card)
    assert page.count("<details>") == len(found)
    first = found[0]
    assert first.message.replace("'", "&#x27;") in page
    assert f"{first.lines[0]:>4}  {card.lines[first.lines[0] - 1]}".replace("'", "&#x27;") in page
    assert all(each.fix.sentence.replace("'", "&#x27;") in page for each in found if each.fix)


def test_a_hostile_card_stays_text() -> None:
    page = wb.findings(Card(name=HOSTILE, kind="sentence-transformer"))._repr_html_()
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


def test_queries_are_listed_filtered_searched_and_opened(tmp_path: Path) -> None:
    run = made_run(tmp_path, hostile=True)
    view = wb.explore(run)
    whole = len(view.table.rows)
    assert whole == len(run.per_query(view.evaluation.value, "after"))
    assert view.table.rows[0][0] == SINHALA  # falls from rank 1 to 8
    assert view.table.rows[0][1:3] == [1, 8]
    view.only.value = "lost"
    assert 0 < len(view.table.rows) < whole
    assert all(row[1] <= 10 and (row[2] is None or row[2] > 10) for row in view.table.rows)
    view.only.value = "all"
    view.words.value = KOREAN.split()[0]
    assert [row[0] for row in view.table.rows] == [KOREAN]
    view.table.chosen = 0
    assert KOREAN in view.detail.value
    assert "Before" in view.detail.value
    assert "After training" in view.detail.value
    view.words.value = ""
    assert view.detail.value == ""
    for place in range(whole):
        view.table.chosen = place
        assert "<script>" not in view.detail.value
        assert "<img" not in view.detail.value


def test_pairs_are_shown_with_their_scores(tmp_path: Path) -> None:
    view = wb.explore(made_item_run(tmp_path))
    assert [name for name, _ in view.table.columns] == [
        "Pair", "gold", "score before", "score after", "agreement change",
    ]  # fmt: skip
    assert view.table.rows[0][0].startswith(SINHALA)  # from the highest place to the lowest
    assert view.table.rows[0][1:4] == [1.0, 2.0, -1.0]
    view.table.chosen = 0
    assert SINHALA in view.detail.value


def test_a_run_without_both_evaluations_has_no_queries(tmp_path: Path) -> None:
    run = Run(tmp_path / "it")
    run.path.mkdir()
    (run.path / "run.json").write_text('{"status": "stopped"}')
    with pytest.raises(RunError) as caught:
        wb.explore(run)
    assert str(caught.value) == (
        "expected an evaluation before and after training in run 'it', found none; train it to its end first."
    )


def test_a_selection_is_listed_and_highlighted_on_both_maps(tmp_path: Path) -> None:
    run = with_vectors(made_run(tmp_path))
    view = wb.map(run, method="pca")
    table = view.map.table
    view.select([0, len(table) - 1])  # a document and a query
    assert [row[1] for row in view.table.rows] == ["query", "document"]
    query = table.iloc[-1]
    ranks = run.per_query("finetune", "after").set_index("query_id")["rank"]
    assert view.table.rows[0][0] == query["text"]
    assert view.table.rows[0][3] == ranks[query["id"]]
    for figure in view.figures.values():
        assert sum(0 if trace.selectedpoints is None else len(trace.selectedpoints) for trace in figure.data) == 2
    view.by.value = "type"
    assert {trace.name.split(" (")[0] for trace in view.figures["after"].data} == {"queries", "documents"}
    view.clear.click()
    assert view.table.rows == []
    assert view.table.layout.display == "none"


def test_a_map_needs_vectors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected vectors of an evaluation"):
        wb.map(made_item_run(tmp_path))


def test_a_running_training_is_followed_in_place_until_it_ends(tmp_path: Path) -> None:
    run = made_run(tmp_path, verdict=None, steps=9)
    writer = RunWriter(run.path)
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    writer.update(
        status="running", process=process, progress={"step": 90, "steps": 540, "epoch": 0.5, "phase": "train"}
    )
    view = live(run)
    lines = view.figure.data
    assert view.update() is True
    points = len(lines[1].x)
    assert "90 of 540" in view.head.value
    assert "GiB" in view.head.value
    assert view.resume.disabled
    assert not view.stop.disabled
    view._follow()
    writer.log({"step": 100, "epoch": 0.55, "loss": 0.4})
    writer.update(progress={"step": 100, "steps": 540, "epoch": 0.55, "phase": "train"})
    until = time.monotonic() + 20
    while len(lines[1].x) == points and time.monotonic() < until:
        time.sleep(0.05)
    assert len(lines[1].x) == points + 1
    assert all(line is same for line, same in zip(lines, view.figure.data, strict=True))
    view.stop.click()
    while not run.has_stop_request() and time.monotonic() < until:
        time.sleep(0.05)
    assert run.has_stop_request()
    while "It stops at the next step" not in view.head.value and time.monotonic() < until:
        time.sleep(0.05)
    writer.update(status="stopped")
    while view.resume.disabled and time.monotonic() < until:
        time.sleep(0.05)
    assert view.stop.disabled
    assert "<code>workbench train --resume" in view.head.value
    assert "It stops at the next step" not in view.head.value
    again = live(run)  # in another kernel: the run as it stands
    again.update()
    assert "100 of 540" in again.head.value
    assert len(again.figure.data[1].x) == points + 1


def test_what_the_user_set_distinguishes_two_runs_of_a_card(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    view = live(run)
    view.update()
    assert "<b>porsche-mxbai</b>, as written, seed 42 <" in view.head.value
    recipe = run.recipe()
    arguments = {"training.max_steps": "max_steps", "data.train.location": "data", "data.train.config": "data"}
    origins = {path: Origin(source="user", note=note) for path, note in arguments.items()}
    given = recipe.model_copy(update={"provenance": {**recipe.provenance, **origins}})
    save_recipe(with_overrides(given, {"learning_rate": 2e-6, "data.split.seed": 7}), run.path / "recipe.yaml")
    view = live(run)
    view.update()
    assert "<b>porsche-mxbai</b>, as written, split.seed 7, learning_rate 2e-06, seed 42 <" in view.head.value


def test_the_losses_that_equal_the_card_s_are_counted_on_its_own_base_and_rows(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    logged = loss_numbers(made_card(), run.log())
    assert logged
    stands_in = live(run)
    stands_in.update()
    assert "replayed" not in stands_in.head.value
    own = {part: {**run.record[part], "stand_in": False} for part in ("base", "data")}
    RunWriter(run.path).update(**own)
    view = live(run)
    view.update()
    equal = sum(number.equal for number in logged)
    assert f"losses replayed <b>{equal} of {len(logged)}</b>" in view.head.value


def test_a_saved_notebook_keeps_a_table_in_place_of_each_widget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_vectors(made_run(tmp_path, hostile=True))
    pages: list[str] = []
    for module in (html, live_training, query_table, map):
        for name in {"display", "publish_display_data"} & set(vars(module)):
            monkeypatch.setattr(module, name, lambda shown, **_: pages.append(shown))
    for view in (live(run), wb.explore(run), wb.map(run, method="pca")):
        view._ipython_display_()
    tables = [page["text/html"] for page in pages if isinstance(page, dict)]
    for page, words in zip(tables, ("validation loss", "change", "Points"), strict=True):
        assert page.count("<tr>") >= 3
        assert words in page
        assert "<img" not in page
        assert "<script" not in page
