"""Rows of the overview, of whole and of damaged runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from synthetic_run import made_item_run, made_run

from workbench.evaluation.card_evaluation import evaluation_name
from workbench.evaluation.compare import compare, save_comparison
from workbench.recipe.overrides import with_overrides
from workbench.recipe.yaml_io import save_recipe
from workbench.run import RunWriter, write_json
from workbench.run_notes import Notes
from workbench.views import overview


def test_a_run_of_items_becomes_a_row(tmp_path: Path) -> None:
    run = made_item_run(tmp_path)
    row = overview.run_row(run)
    assert (row.main.metric, row.reason, row.main.low) == ("spearman_cosine", "", None)
    assert row.main.before is not None
    assert row.main.after is not None
    assert row.main.before < row.main.after
    save_comparison(run, compare(run))
    row = overview.run_row(run)
    assert (row.main.metric, row.verdict) == ("spearman_cosine", "not comparable")
    assert row.main.low is not None
    assert row.main.high is not None
    assert row.main.low < row.main.after < row.main.high


def test_a_run_becomes_a_row(tmp_path: Path) -> None:
    row = overview.run_row(made_run(tmp_path, stand_in=True))
    assert (row.card, row.variant, row.verdict, row.main.metric) == (
        "porsche-mxbai",
        "as written",
        "not comparable",
        "cosine_ndcg@10",
    )
    assert row.main.low is not None
    assert row.main.after is not None
    assert row.main.low < row.main.after
    assert (row.step, row.steps, len(row.stand_ins)) == (540, 540, 1)
    assert (row.base, row.data, row.learning_rate, row.batch, row.epochs) == (
        "bundled:minilm", "sample:porsche", 2e-5, 8, 3.0,
    )  # fmt: skip
    assert row.reason == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("comparison.json", "{"), ("comparison.json", '{"rows": [1]}'), ("recipe.yaml", ": [")],
)
def test_one_damaged_file_leaves_the_rest_of_the_row(tmp_path: Path, name: str, text: str) -> None:
    run = made_run(tmp_path)
    (run.path / name).write_text(text, encoding="utf-8")
    row = overview.run_row(run)
    assert row.card == "porsche-mxbai"
    assert row.reason


def test_a_run_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    (run.path / "run.json").write_text('{"status": "runn', encoding="utf-8")
    row = overview.run_row(run)
    assert row.name == run.name
    assert row.card is None
    assert "found something else in line 1; train again" in overview.status_reason(run.status, row)


def test_reasons_name_the_command_that_goes_on(tmp_path: Path) -> None:
    run = made_run(tmp_path, verdict=None)
    RunWriter(run.path).update(progress={"step": 1200, "steps": 5400})
    reason = overview.status_reason("interrupted", overview.run_row(run))
    assert reason == (
        "Its process ended unexpectedly after 1,200 of 5,400 steps. "
        f"Resume it with `workbench train --resume {run.name}`."
    )
    assert overview.status_reason("finished", overview.run_row(run)) == ""


def test_a_name_that_is_a_path_finds_no_run(tmp_path: Path) -> None:
    run = made_run(tmp_path / "runs")
    assert overview.find_run([run], run.name) == run
    for name in (f"../runs/{run.name}", str(run.path), "..", "", None):
        assert overview.find_run([run], name) is None


def test_short_names_tell_two_runs_apart() -> None:
    rows = [
        overview.RunRow("a", "porsche", "as written", created="2026-11-20T10:00:00Z"),
        overview.RunRow("b", "porsche", "as written", created="2026-11-20T11:30:00Z"),
        overview.RunRow("c", "porsche", "corrected"),
    ]
    names = overview.short_names(rows)
    assert names == {
        "a": "porsche, as written, 11-20 10:00", "b": "porsche, as written, 11-20 11:30", "c": "porsche, corrected",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("test", "test_256", "test_512", "validation"), "test"),
        (("validation_256", "validation"), "validation"),
        (("NanoArguAna", "NanoBEIR_mean", "NanoBEIR_mean_256"), "NanoBEIR_mean"),
    ],
)
def test_the_overview_shows_the_evaluation_that_a_comparison_would_choose(
    tmp_path: Path, names: tuple[str, ...], shown: str
) -> None:
    run = made_run(tmp_path)
    (run.path / "comparison.json").unlink()
    made = run.path / "evaluations" / "finetune"
    for place, name in enumerate(names):
        shutil.copytree(made, made.with_name(name))
        for moment in ("before", "after"):
            path = made.with_name(name) / f"{moment}.json"
            said = json.loads(path.read_text())
            write_json(path, {**said, "metrics": dict.fromkeys(said["metrics"], place / 10)})
    shutil.rmtree(made)
    called = "NanoBEIR_mean" if "NanoBEIR_mean" in names else "evaluation"  # as the recipes of such cards call it
    save_recipe(with_overrides(run.recipe(), {"evaluation.name": called}), run.path / "recipe.yaml")
    assert evaluation_name(run, run.recipe(), None) == shown
    assert overview.run_row(run).main.after == names.index(shown) / 10


def test_an_overview_judges_nothing_anew_and_writes_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    stored = {**(run.comparison() or {}), "rule": 1}
    write_json(run.file("comparison"), stored)
    row = overview.run_row(run)
    assert (row.verdict, row.word, row.why) == (None, overview.NOT_YET, (overview.OLD_RULE,))
    assert run.comparison() == stored


def test_a_table_says_the_change_with_its_own_interval(tmp_path: Path) -> None:
    row = overview.run_row(made_run(tmp_path, stand_in=False, verdict="differs", seeds=(42, 43), near=0.03))
    shown = overview.table_row(row)
    main = row.main
    assert main.difference is not None
    assert shown["texts"]["change"] == f"{main.difference:+.4f}"
    assert shown["interval"] == pytest.approx(
        [main.difference - 0.03, main.difference, main.difference + 0.03], abs=1e-6
    )
    assert shown["ends"] == f"{main.difference - 0.03:+.4f} to {main.difference + 0.03:+.4f}"
    assert (shown["texts"]["seeds"], shown["tone"], shown["texts"]["learning_rate"]) == ("2", "bad", "2e-05")
    assert shown["why"].startswith("Trained again, the recipe does not give the numbers that the card reports.")


def test_better_than_the_card_is_no_warning(tmp_path: Path) -> None:
    row = overview.run_row(made_run(tmp_path, stand_in=False, verdict="differs", near=-0.03))
    assert (row.verdict, row.tone) == ("differs", "info")
    assert row.why[0].endswith("that the card reports: nDCG@10 is higher here.")


def test_a_change_of_nothing_has_no_sign(tmp_path: Path) -> None:
    row = overview.RunRow("a", main=overview.MetricRow("ndcg@10", before=0.5, after=0.5, difference=-1e-17))
    assert overview.table_row(row)["texts"]["change"] == "+0.0000"


def test_what_is_counted_is_what_is_listed() -> None:
    measured = overview.MetricRow("ndcg@10", before=0.4, after=0.5, difference=0.1)
    rows = [
        overview.RunRow("a", status="running", main=measured, verdict="reproduced"),  # before it was resumed
        overview.RunRow("b", status="finished", main=measured),
        overview.RunRow("c", status="finished", main=measured, verdict="differs", reason="The log cannot be read."),
        overview.RunRow("d", status="stopped"),
        overview.RunRow("e", status="interrupted"),
        overview.RunRow("f", status="failed"),
        overview.RunRow("g"),
    ]
    assert [row.name for row, _ in overview.attention(rows)] == ["c", "e", "f", "g"]
    assert overview.tally(rows) == {
        "runs": 7, "differs": 1, overview.NOT_YET: 1, "running": 1, "need attention": 4,
    }  # fmt: skip


def test_an_alias_is_the_name_in_a_legend() -> None:
    rows = [overview.RunRow("a", "porsche", notes=Notes("first try")), overview.RunRow("b", "porsche", "corrected")]
    assert overview.short_names(rows) == {"a": "first try", "b": "porsche, corrected"}
