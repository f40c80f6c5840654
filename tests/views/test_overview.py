"""Rows of a screen: what runs, queries, cards and recipes become, whole and damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic_run import HOSTILE, KOREAN, SINHALA, made_item_run, made_recipe, made_run

from workbench.cards.card import Card, Stated
from workbench.evaluation.compare import compare, evaluation_name, save_comparison
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Origin
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, RunWriter, write_json, write_parquet
from workbench.views import overview
from workbench.views.closeup import opened


def small_run(folder: Path) -> Run:
    """Four queries: one gained, one lost from the top 10, one never found, one unchanged."""
    evaluation = folder / "evaluations" / "test"
    ids = ["a", "b", "c", "d"]
    write_json(folder / "run.json", {"status": "finished"})
    write_parquet(
        evaluation / "queries.parquet",
        pd.DataFrame(
            {"query_id": ids, "query": ["Red car", "Blue car", "Red boat", HOSTILE], "relevant": [[i] for i in ids]}
        ),
    )
    documents = pd.DataFrame({"document_id": [*ids, "x"], "document": ["one", "two", "three", "four", "other"]})
    write_parquet(evaluation / "documents.parquet", documents)
    for moment, ranks, values in (
        ("before", [5, 3, None, 1], [0.5, 0.6, 0.0, 1.0]),
        ("after", [1, 40, None, 1], [1.0, 0.0, 0.0, 1.0]),
    ):
        table = pd.DataFrame(
            {
                "query_id": ids,
                "rank": pd.array(ranks, dtype="Int64"),
                "ranks": [[]] * 4,
                "ndcg@10": values,
                "mrr@10": values,
            }
        )
        write_parquet(evaluation / f"{moment}.parquet", table)
        hits = pd.DataFrame(
            {
                "query_id": ["a", "a", "b"],
                "position": [2, 1, 1],
                "document_id": ["x", "a", "b"],
                "score": [0.1, 0.9, 0.8],
                "relevant": [False, True, True],
            }
        )
        write_parquet(evaluation / f"{moment}-hits.parquet", hits)
        write_json(evaluation / f"{moment}.json", {"metrics": {"cosine_ndcg@10": sum(values) / 4}})
    return Run(folder)


def test_queries_come_with_the_greatest_loss_first(tmp_path: Path) -> None:
    table = overview.query_table(small_run(tmp_path), "test")
    assert list(table["query_id"]) == ["b", "c", "d", "a"]
    assert table["difference"].tolist() == pytest.approx([-0.6, 0.0, 0.0, 0.5])
    assert table["rank_after"].tolist() == [40, pd.NA, 1, 1]


@pytest.mark.parametrize(
    ("name", "search", "expected"),
    [
        ("all", "", ["b", "c", "d", "a"]),
        ("got worse", "", ["b"]),
        ("got better", "", ["a"]),
        ("lost from top 10", "", ["b"]),
        ("never found", "", ["c"]),
        ("all", "red CAR", ["a"]),
        ("all", ".*", []),
    ],
)
def test_filters(tmp_path: Path, name: str, search: str, expected: list[str]) -> None:
    table = overview.query_table(small_run(tmp_path), "test")
    assert list(overview.chosen(table, name, search)["query_id"]) == expected


def test_every_filter_is_known() -> None:
    columns = ("query_id", "query", "rank_before", "rank_after", "before", "after", "difference")
    table = pd.DataFrame([("q", "text", 2, 12, 0.6, 0.0, -0.6)], columns=list(columns))
    kept = {name for name in overview.FILTERS if len(overview.chosen(table, name))}
    assert kept == {"all", "got worse", "lost from top 10"}


def test_a_ranking_comes_in_order_with_its_gold(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    hits = opened(run, "test", "a").after
    assert hits[["position", "relevant", "document"]].values.tolist() == [[1, True, "one"], [2, False, "other"]]
    nobody = opened(run, "test", "nobody")
    assert nobody.before.empty
    assert nobody.after.empty
    assert opened(run, "test", "b").gold == [("b", "two")]
    assert overview.query_metrics(run, "test") == ("ndcg@10", "mrr@10")


def test_items_are_rows_too(tmp_path: Path) -> None:
    """What a page of queries shows of pairs: texts, how right each is before and after, gold; no ranking."""
    run = made_item_run(tmp_path)
    assert overview.whole_evaluations(run) == ("sts",)
    assert overview.unit(run, "sts") == "pairs"
    assert overview.query_metrics(run, "sts") == ("spearman_cosine", "pearson_cosine")
    table = overview.query_table(run, "sts", "spearman_cosine")
    assert len(table) == 60
    assert table["query"].iloc[0] == f"{SINHALA} | Model 1 carries 301 litres."
    assert table["query"].iloc[-1].startswith(KOREAN)
    assert table[["gold", "score_before", "score_after"]].iloc[-1].tolist() == [1.0, -1.0, 2.0]
    assert table["rank_before"].isna().all()
    counts = {name: len(overview.chosen(table, name)) for name in overview.FILTERS}
    assert counts["all"] == 60
    assert counts["lost from top 10"] == counts["never found"] == 0
    assert counts["got better"] > counts["got worse"] > 0
    assert list(overview.chosen(table, search="CARRIES 301")["query_id"]) == ["i001"]
    assert len(overview.changes_of(table)) == 60
    assert opened(run, "sts", "i000").after.empty
    assert opened(run, "sts", "i000").gold == [
        ("sentence1", KOREAN), ("sentence2", "Model 0 carries 300 litres."), ("gold", "1"),
    ]  # fmt: skip
    assert any(path.name == "items.parquet" for path in overview.query_files(run, "sts"))


def test_a_run_of_items_becomes_a_row(tmp_path: Path) -> None:
    run = made_item_run(tmp_path)
    row = overview.run_row(run)
    assert (row.metric, row.reason, row.low) == ("spearman_cosine", "", None)
    assert row.before is not None
    assert row.after is not None
    assert row.before < row.after
    save_comparison(run, compare(run))
    row = overview.run_row(run)
    assert (row.metric, row.verdict) == ("spearman_cosine", "not comparable")
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.after < row.high


def test_a_run_becomes_a_row(tmp_path: Path) -> None:
    row = overview.run_row(made_run(tmp_path, stand_in=True))
    assert (row.card, row.variant, row.verdict, row.metric) == (
        "porsche-mxbai",
        "as written",
        "not comparable",
        "cosine_ndcg@10",
    )
    assert row.low is not None
    assert row.after is not None
    assert row.low < row.after
    assert (row.step, row.steps, len(row.stand_ins)) == (540, 540, 1)
    assert 4 < len(row.losses) <= overview.SPARK_POINTS
    assert row.reason == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("comparison.json", "{"), ("comparison.json", '{"rows": [1]}'), ("recipe.yaml", ": ["), ("log.jsonl", "\0\n{")],
)
def test_one_damaged_file_leaves_the_rest_of_the_row(tmp_path: Path, name: str, text: str) -> None:
    run = made_run(tmp_path)
    (run.path / name).write_text(text, encoding="utf-8")
    row = overview.run_row(run)
    assert row.card == "porsche-mxbai"
    assert row.reason or name == "log.jsonl"


def test_a_run_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    (run.path / "run.json").write_text('{"status": "runn', encoding="utf-8")
    row = overview.run_row(run)
    assert row.name == run.name
    assert row.card is None
    assert "Unterminated string" in overview.status_reason(run.status, row)


def test_reasons_name_the_command_that_goes_on(tmp_path: Path) -> None:
    run = made_run(tmp_path, verdict=None)
    RunWriter(run.path).update(progress={"step": 1200, "steps": 5400})
    reason = overview.status_reason("interrupted", overview.run_row(run))
    assert (
        reason
        == f"Its process is gone after 1,200 of 5,400 steps. `workbench train --resume {run.name}` goes on with it."
    )
    assert overview.status_reason("finished", overview.run_row(run)) == ""


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert overview.identity(path) == ()
    path.write_text("one")
    first = overview.identity(path)
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert first != overview.identity(path)
    assert overview.identity(path) == overview.identity(path)


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


def test_lines_of_a_card_keep_their_numbers() -> None:
    card = Card(name="x", kind="unknown", lines=("one", "two", "three\u202e", "four", "five"))
    assert overview.card_lines(card, [5, 1, 2, 99]) == "   1  one\n   2  two\n   …\n   5  five"
    assert overview.card_lines(card, [3]) == "   3  three"


def test_facts_leave_out_what_the_card_does_not_say() -> None:
    card = Card(
        name="x", kind="sentence-transformer", base_model=Stated("a/b", 24), non_default={"seed": Stated(7, 30)}
    )
    facts = [(fact.name, fact.value, fact.lines) for fact in overview.card_facts(card)]
    assert facts == [
        ("Kind of model", "sentence-transformer", ""),
        ("Base model", "a/b", "24"),
        ("Set: seed", "7", "30"),
    ]


def test_recipe_fields_show_what_a_correction_changes() -> None:
    written = made_recipe()
    corrected = with_overrides(written, {"training.learning_rate": 0.2})
    finding = Origin(source="finding", note="learning-rate")
    corrected = corrected.model_copy(update={"provenance": {**corrected.provenance, "training.learning_rate": finding}})
    changed = [field for field in overview.recipe_fields(written, corrected) if field.changed]
    assert [(f.path, f.written, f.corrected, f.source, f.lines) for f in changed] == [
        ("training.learning_rate", "2e-05", "0.2", "card", "31")
    ]
    assert changed[0].note == "corrected: learning-rate"
    by_path = {field.path: field for field in overview.recipe_fields(written, written)}
    assert by_path["loss.inner.name"].written == "MultipleNegativesRankingLoss"
    assert by_path["training.adam_beta1"].source == "unknown"


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
    mark = overview.main_mark(run)
    assert mark is not None
    assert mark.after == names.index(shown) / 10
