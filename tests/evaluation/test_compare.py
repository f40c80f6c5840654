"""Verdicts: when a run may say that it reproduced a card, and above all when it may not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.cards.card import Card, Dataset, Evaluation, LogRow, Stated
from workbench.cards.read import card_to_dict, read_card
from workbench.data.collection import Collection
from workbench.errors import RunError
from workbench.evaluation import metric_tests
from workbench.evaluation.compare import compare, read_comparison, save_comparison
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.examples import ExampleEvaluation, MetricValues, evaluation_from_table, save_examples
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.evaluation.tasks import Mean, Search, save
from workbench.evaluation.verdict import judge_change
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Base, EvaluationPlan, LossSpec, Origin, Recipe, Source, Training
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, write_json

QUERIES = 180
EVALUATOR = "InformationRetrievalEvaluator"


def collection(queries: int = QUERIES, word: str = "query") -> Collection:
    numbers = range(queries)
    return Collection(
        name="made",
        queries={f"q{number:03}": f"{word} {number}" for number in numbers},
        corpus={f"d{number:03}": f"document {number}" for number in range(2 * queries)},
        relevant={f"q{number:03}": {f"d{number:03}": 1.0} for number in numbers},
    )


def noisy(noise: float, seed: int) -> Callable[[list[str], str], Any]:
    """Vectors by the number in the text; a query's is its document's, moved by `noise`."""

    def encode(texts: list[str], kind: str) -> Any:
        vectors = []
        for text in texts:
            number = int(text.split()[1])
            vector = np.random.default_rng(number).normal(size=16)
            if kind == "query":
                vector = vector + noise * np.random.default_rng([seed, number]).normal(size=16)
            vectors.append(vector)
        return np.array(vectors)

    return encode


RECORD: dict[str, Any] = {
    "schema_version": 1,
    "status": "finished",
    "base": {"asked": "auto", "model": "org/base", "sha256": "0", "stand_in": False, "note": ""},
    "data": {
        "source": "rows.json",
        "sha256": "0",
        "stand_in": False,
        "note": "",
        "rows": {"train": 1440, "validation": 180, "test": 180},
    },
    "examples": {name: {"same": True, "why": "stated"} for name in ("validation", "test", "NanoB", "NanoNQ", "sts")},
}

RECIPE = Recipe(name="made", base=Base(model="org/base"), loss=LossSpec(name="MultipleNegativesRankingLoss"))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What three models did: kept for the module, because every run of these tests stores the same."""
    ours = collection()
    return {
        "before": evaluate(ours, noisy(1.6, 1)),
        "after": evaluate(ours, noisy(1.1, 2)),
        "again": evaluate(ours, noisy(1.1, 3)),
    }


@pytest.fixture
def make(tmp_path: Path, measured: Mapping[str, Any]) -> Callable[..., Run]:
    """A run folder as training leaves it; `record` and `made` change it."""

    def build(
        name: str = "run",
        *,
        card: Card | None = None,
        made: Recipe = RECIPE,
        record: Mapping[str, Any] | None = None,
        stages: Mapping[str, str] | None = None,
        evaluation: str = "validation",
    ) -> Run:
        path = tmp_path / name
        path.mkdir()
        save_recipe(made, path / "recipe.yaml")
        write_json(path / "run.json", {**RECORD, **(record or {})})
        if card is not None:
            write_json(path / "card.json", card_to_dict(card))
        for stage, which in ({"before": "before", "after": "after"} if stages is None else stages).items():
            save_evaluation(path, evaluation, stage, measured[which])
        return Run(path)

    return build


def card(metrics: Mapping[str, float], **changes: Any) -> Card:
    measured = Evaluation(EVALUATOR, "Information Retrieval", ("dev",), {}, metrics, "cosine_ndcg@10")
    parts: dict[str, Any] = {
        "name": "made",
        "kind": "sentence-transformer",
        "base_model": Stated("org/base", 3),
        "datasets": (Dataset("train", None, size=1800),),
        "evaluations": (measured,),
        **changes,
    }
    return Card(**parts)


def rounded(measured: Any) -> dict[str, float]:
    """A card that reports exactly what we measured, as cards print it."""
    return {name: round(value, 4) for name, value in measured.metrics.items()}


def verdicts(comparison: Comparison) -> set[str]:
    return {comparison.verdict, *(row.verdict for row in comparison.rows)}


# --- card against run ------------------------------------------------------------------------------------------------


def test_the_same_numbers_are_reproduced_exactly(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    found = compare(make(card=card(rounded(measured["after"]))))
    assert verdicts(found) == {"reproduced exactly"}
    assert found.reasons == ()
    assert (found.queries, found.evaluation, found.kind) == (QUERIES, "validation", "card")
    assert found.sentence == ("Every number that the card logs and prints is ours to the printed digit: 15 metrics.")


def test_other_examples_than_the_card_s_are_never_an_exact_replay(
    make: Callable[..., Run], measured: Mapping[str, Any]
) -> None:
    """Equal numbers on unknown queries: one training says little, and the interval counts both sides' sampling."""
    run = make(card=card(rounded(measured["after"])), record={"examples": {}})
    found = compare(run)
    assert (found.verdict, found.same_examples) == ("cannot tell", False)
    row = found.main
    assert row is not None
    assert row.card_high is not None
    values = measured["after"].per_query["ndcg@10"].to_numpy()
    assumed = 0.02 / QUERIES  # variance between seeds, see verdict.assumed_deviation
    error = np.sqrt(2 * assumed + 2 * values.var(ddof=1) / QUERIES)
    assert row.card_high - (row.card_difference or 0) == pytest.approx(2.7764 * error, rel=1e-3)  # t(4, 0.975)


def test_one_training_tells_only_large_differences(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """h = 2.7764 * sqrt(0.02 / 180 * 2) = 0.0414 for one metric, more for 15 of them together."""
    numbers = rounded(measured["after"])
    for name, more, expected in (("near", 0.03, "cannot tell"), ("far", 0.1, "differs")):
        theirs = card({**numbers, "cosine_ndcg@10": round(numbers["cosine_ndcg@10"] + more, 4)})
        found = compare(make(name, card=theirs))
        assert found.verdict == expected
        assert found.main is not None
        assert found.main.verdict == expected
        assert found.main.detectable == pytest.approx(more + 2.1318 * np.sqrt(0.02 / QUERIES * 2), abs=2e-4)
    assert found.main.reason == "The card's number is 0.1000 higher than ours."


def test_rows_hold_the_statistics_of_their_queries(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    from workbench.evaluation import statistics

    run = make(card=card(rounded(measured["after"])))
    row = compare(run).main
    assert row is not None
    after = measured["after"].per_query["ndcg@10"].to_numpy()
    before = measured["before"].per_query["ndcg@10"].to_numpy()
    assert row.after == pytest.approx(after.mean(), abs=1e-12)
    assert row.before == pytest.approx(before.mean(), abs=1e-12)
    assert row.difference == pytest.approx(after.mean() - before.mean(), abs=1e-12)
    ranks = [measured[stage].per_query["rank"].astype(float).fillna(np.inf).to_numpy() for stage in ("before", "after")]
    counts = sum(ranks[1] < ranks[0]), sum(ranks[1] == ranks[0]), sum(ranks[1] > ranks[0])
    assert (
        (row.wins, row.ties, row.losses) == counts != (sum(after > before), sum(after == before), sum(after < before))
    )
    assert {(each.wins, each.ties, each.losses) for each in compare(run).rows} == {counts}  # one counting for all
    (low,), (high,) = statistics.mean_intervals(after[:, None])
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-12)
    assert row.p == pytest.approx(statistics.randomization_test((after - before)[:, None])[0], abs=1e-12)
    assert row.p_adjusted is not None
    assert row.p is not None
    assert row.p_adjusted >= row.p
    assert row.queries_needed == statistics.queries_needed((after - before)[:, None])[0]


def test_metrics_that_differ_by_a_factor_are_one_test(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """Each query has one answer: accuracy, recall and, but for k, precision at k are one number."""
    found = compare(make(card=card(rounded(measured["after"]))))
    rows = {row.metric.removeprefix("cosine_"): row for row in found.rows}
    for k in (1, 3, 5, 10):
        for name in (f"precision@{k}", f"recall@{k}"):
            assert (rows[name].p, rows[name].p_adjusted) == pytest.approx(
                (rows[f"accuracy@{k}"].p, rows[f"accuracy@{k}"].p_adjusted)
            )
    assert any("adjusted for all 15 metrics (max-T)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("base", {"stand_in": True, "note": "The base bundled:minilm stands in for org/base."}),
        ("base", {"stand_in": True, "note": ""}),
        ("base", {"stand_in": None}),
        ("base", {"stand_in": "no"}),
        ("base", {"stand_in": 0}),
        ("base", {"model": "bundled:minilm"}),
        ("base", {"model": "org/another"}),
        ("base", {"model": None}),
        ("base", None),
        ("data", {"stand_in": True, "note": "The shipped sample 'porsche' stands in for the card's rows."}),
        ("data", {"stand_in": None}),
        ("data", {"source": "sample:porsche"}),
        ("data", {"source": "unknown"}),
        ("data", {"rows": {"train": 500, "validation": 50, "test": 50}}),
        ("data", {"printed": {"rows": 3, "found": 2}}),
        ("data", None),
    ],
)
def test_a_stand_in_is_never_a_reproduction(
    make: Callable[..., Run], measured: Mapping[str, Any], part: str, change: dict[str, Any] | None
) -> None:
    """Whatever the record says or leaves out: the numbers equal the card's, and the verdict is still none."""
    record = {part: {} if change is None else {**RECORD[part], **change}}
    found = compare(make(card=card(rounded(measured["after"])), record=record))
    assert verdicts(found) == {"not comparable"}
    assert len(found.reasons) == 1
    assert found.reasons[0].endswith(".")
    assert all(row.reason == found.reasons[0] for row in found.rows)
    assert found.main is not None
    assert found.main.card == round(found.main.after or 0, 4)  # the numbers stand side by side all the same


def test_a_card_that_names_a_stand_in_as_its_base_gains_nothing(
    make: Callable[..., Run], measured: Mapping[str, Any]
) -> None:
    hostile = card(rounded(measured["after"]), base_model=Stated("bundled:minilm", 3))
    found = compare(make(card=hostile, record={"base": {**RECORD["base"], "model": "bundled:minilm"}}))
    assert verdicts(found) == {"not comparable"}
    assert found.reasons == ("The base bundled:minilm is not known to be the card's own.",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"record": {"status": "stopped"}}, "The run is not finished; its status is 'stopped'."),
        ({"record": {"status": "failed"}}, "The run is not finished; its status is 'failed'."),
        (
            {"made": RECIPE.model_copy(update={"variant": "corrected"})},
            "The run followed the corrected recipe, not the card's recipe as written.",
        ),
        ({"stages": {"before": "before"}}, "The run has no evaluation after training."),
    ],
)
def test_a_run_that_did_something_else(
    make: Callable[..., Run], measured: Mapping[str, Any], changes: dict[str, Any], reason: str
) -> None:
    found = compare(make(card=card(rounded(measured["after"])), **changes))
    assert verdicts(found) == {"not comparable"}
    assert any(each.startswith(reason.rstrip(".")) for each in found.reasons)


def test_a_card_of_another_number_of_queries(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """0.8944 is 161 of 180, 0.5944 is 107 of 180; 0.6 and 0.7 of 10, 0.65 of 20."""
    numbers = rounded(measured["after"])
    assert compare(make("same", card=card({**numbers, "cosine_accuracy@10": 0.8944}))).reasons == ()
    others = {name: value for name, value in numbers.items() if "accuracy" not in name}
    found = compare(make("other", card=card({**others, "cosine_accuracy@1": 0.6471, "cosine_accuracy@3": 0.7059})))
    assert verdicts(found) == {"not comparable"}
    assert found.reasons == (
        "The card's accuracies cannot come from 180 queries, as many as this run measured; the smallest number that "
        "fits is 17; give the card's with --evaluation-set.",
    )


def test_a_card_without_a_base_evaluation_or_anything(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    numbers = rounded(measured["after"])
    nameless = compare(make("a", card=card(numbers, base_model=None)))
    assert nameless.reasons == (
        "The card does not name its base, so it may differ from the run's; if it is the card's, state it with "
        "--base-is-the-cards.",
    )
    silent = compare(make("b", card=card({}, evaluations=())))
    assert silent.reasons == (f"The card reports no evaluation by {EVALUATOR}.",)
    assert silent.main is not None
    assert silent.main.card is None
    assert silent.main.after == measured["after"].metrics["cosine_ndcg@10"]
    assert compare(make("c")).reasons == ("There is no card to compare with.",)
    for found in (nameless, silent):
        assert verdicts(found) == {"not comparable"}


def test_a_card_of_losses_alone_can_be_replayed(make: Callable[..., Run]) -> None:
    losses = [1.2345, 0.9876, 0.7654]
    log = tuple(LogRow(step / 10, step, value, None, {}, line=step) for step, value in enumerate(losses, 1))
    run = make(card=card({}, evaluations=(), training_log=log))
    (run.path / "log.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in enumerate(losses, 1))
    )
    found = compare(run)
    assert (found.verdict, found.reasons) == ("reproduced exactly", ())
    assert found.sentence == "Every number that the card logs and prints is ours to the printed digit: 3 losses."
    (run.path / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    assert compare(run).verdict == "not comparable"


def test_metrics_that_only_one_side_has(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    numbers = {"cosine_ndcg@10": rounded(measured["after"])["cosine_ndcg@10"], "dot_ndcg@10": 0.5}
    found = {row.metric: row for row in compare(make(card=card(numbers))).rows}
    assert found["cosine_ndcg@10"].verdict == "cannot tell"  # one number is too little for a replay
    assert (found["dot_ndcg@10"].verdict, found["dot_ndcg@10"].after) == ("not comparable", None)
    assert found["dot_ndcg@10"].reason == "The run did not measure this metric."
    assert found["cosine_map@100"].reason == "The card does not report this metric."
    assert list(found)[:2] == ["cosine_ndcg@10", "dot_ndcg@10"]


def test_nan_on_the_card_gives_no_verdict(make: Callable[..., Run]) -> None:
    found = compare(make(card=card({"cosine_ndcg@10": float("nan")})))
    assert found.verdict == "not comparable"
    assert found.to_dict()["rows"][0]["card"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_of_evaluations_with_one_name_the_last_is_compared(
    make: Callable[..., Run], measured: Mapping[str, Any]
) -> None:
    first = Evaluation(EVALUATOR, "Information Retrieval", ("dev",), {}, {"cosine_ndcg@10": 0.1}, lines=(10, 20))
    last = replace(first, metrics=rounded(measured["after"]), lines=(30, 40), metric_lines={"cosine_ndcg@10": 35})
    found = compare(make(card=card({}, evaluations=(first, last))))
    assert found.verdict == "reproduced exactly"
    assert found.notes[0] == "The card has 2 evaluations named 'dev'; its last one (lines 30 to 40) is compared."
    assert found.main is not None
    assert found.main.card_line == 35


def test_evaluations_of_other_data_are_not_compared(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    one, two = (Evaluation(EVALUATOR, name, (name,), {}, rounded(measured["after"])) for name in ("NanoA", "NanoB"))
    found = compare(make("a", card=card({}, evaluations=(one, two))))
    text = "The card's 2 evaluations are of NanoA, NanoB, and the run measured 'validation'"
    assert found.reasons == (f"{text}; give the card's with --evaluation-set.",)
    named = compare(make("b", card=card({}, evaluations=(one, two)), evaluation="NanoB"))
    assert named.verdict == "reproduced exactly"


def test_equal_values_have_an_interval(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """A metric that is 1 for all 180 queries: Clopper and Pearson's bound is 0.025^(1/180) = 0.9797."""
    run = make(
        card=card({"cosine_ndcg@10": rounded(measured["after"])["cosine_ndcg@10"], "cosine_accuracy@10": 0.9944})
    )
    path = run.path / "evaluations/validation/after.parquet"
    pd.read_parquet(path).assign(**{"accuracy@10": 1.0}).to_parquet(path)
    row = next(row for row in compare(run).rows if row.metric == "cosine_accuracy@10")
    assert (row.low, row.high) == pytest.approx((0.9797, 1.0), abs=1e-4)


# --- the real card ---------------------------------------------------------------------------------------------------

REAL = {
    "base": {**RECORD["base"], "model": "mixedbread-ai/mxbai-embed-large-v1"},
    "data": {**RECORD["data"], "rows": {"train": 1437, "validation": 180, "test": 180}},
}


def at_512(run: Run) -> Run:
    """The run as if it had been measured at the card's dimensions; these vectors have 16."""
    path = run.path / "evaluations/validation/after.json"
    stored = json.loads(path.read_text())
    write_json(path, {**stored, "settings": {**stored["settings"], "truncate_dim": 512}})
    return run


def test_the_porsche_card(make: Callable[..., Run], shared: Path) -> None:
    seed = read_card(shared / "cards/seeds/porsche-mxbai.md")
    made = recipe(seed)
    found = compare(at_512(make("a", card=seed, made=made, record=REAL)))
    assert found.reasons == ()
    assert [row.card for row in found.rows if row.metric == "cosine_ndcg@10"] == [0.7172]
    assert found.notes[0].startswith("The card has 2 evaluations named 'eval_finetune_embed'; its last one (lines 384")
    assert {row.verdict for row in found.rows} <= {"cannot tell", "differs"}
    standing = {**REAL, "base": {**REAL["base"], "model": "bundled:minilm", "stand_in": True, "note": "A stand-in."}}
    assert compare(at_512(make("b", card=seed, made=made, record=standing))).reasons == ("A stand-in.",)


def test_a_setting_that_departs_from_the_card_prevents_a_verdict(make: Callable[..., Run], shared: Path) -> None:
    """The card says batch 8; the seed and the split are nowhere on it."""
    seed = read_card(shared / "cards/seeds/porsche-mxbai.md")
    stated = recipe(seed, overrides={"per_device_train_batch_size": 64})
    found = compare(at_512(make("a", card=seed, made=stated, record=REAL)))
    text = "The run set training.per_device_train_batch_size to 64; the card says 8; train again without that --set."
    assert found.reasons == (text,)
    assert found.verdict == "not comparable"
    hidden = recipe(seed, overrides={"data.split.seed": 7})
    assert compare(at_512(make("b", card=seed, made=hidden, record=REAL))).reasons == ()
    short = recipe(seed, overrides={"training.max_steps": 5})
    assert compare(at_512(make("c", card=seed, made=short, record=REAL))).reasons == (
        "The run was set to end after 5 steps; train again without --max-steps.",
    )
    corrected = recipe(seed, corrected=True, overrides={"training.max_steps": 5})
    assert compare(at_512(make("d", card=seed, made=corrected, record=REAL))).reasons == (
        "The run followed the corrected recipe, not the card's recipe as written; train again without --corrected.",
        "The run was set to end after 5 steps; train again without --max-steps.",
    )


def test_a_recipe_edited_by_hand_still_departs_from_the_card(make: Callable[..., Run], shared: Path) -> None:
    """The file goes on naming the card as the origin of its batch size."""
    seed = read_card(shared / "cards/seeds/porsche-mxbai.md")
    made = recipe(seed)
    edited = made.model_copy(update={"training": made.training.model_copy(update={"per_device_train_batch_size": 64})})
    found = compare(at_512(make(card=seed, made=edited, record=REAL)))
    text = "The run set training.per_device_train_batch_size to 64; the card says 8; train again without that --set."
    assert found.reasons == (text,)


def test_dimensions_that_the_user_chose_are_not_the_card_s(make: Callable[..., Run], shared: Path) -> None:
    seed = read_card(shared / "cards/seeds/porsche-mxbai.md")
    made = recipe(seed)
    whole = made.model_copy(update={"evaluation": made.evaluation.model_copy(update={"truncate_dim": None})})
    found = compare(make(card=seed, made=whole, record=REAL))
    assert "The card reports no evaluation at all dimensions; give the card's with --evaluation-set." in found.reasons
    assert verdicts(found) == {"not comparable"}


def test_of_several_dimensions_the_run_s_are_compared(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """All of one name, as a card prints them that truncates on evaluation; the last is at 4 dimensions."""
    parts = [
        Evaluation(EVALUATOR, "", ("dev",), parameters, {"cosine_ndcg@10": number})
        for parameters, number in (
            ({"truncate_dim": 8}, 0.1),
            ({}, rounded(measured["after"])["cosine_ndcg@10"]),
            ({"truncate_dim": 4}, 0.2),
        )
    ]
    found = compare(make(card=card({}, evaluations=tuple(parts))))
    assert (found.verdict, found.reasons) == ("cannot tell", ())
    assert found.main is not None
    assert found.main.card == rounded(measured["after"])["cosine_ndcg@10"]


def test_the_base_of_another_owner_is_another_base(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    theirs = card(rounded(measured["after"]))
    advice = "if it is the card's, state it with --base-is-the-cards"
    for name, model, reasons in (
        ("other", "stranger/base", (f"The run started from stranger/base, the card from org/base; {advice}.",)),
        ("folder", "/models/base", ()),
        ("case", "Org/Base", ()),
    ):
        found = compare(make(name, card=theirs, record={"base": {**RECORD["base"], "model": model}}))
        assert found.reasons == reasons
    scratch = {"base": {**RECORD["base"], "model": "scratch:base"}}
    assert compare(make("scratch", card=theirs, record=scratch)).verdict == "not comparable"


def test_a_collection_named_by_the_user_is_noted(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    made = RECIPE.model_copy(
        update={
            "data": RECIPE.data.model_copy(update={"evaluation": Source(location="mine/")}),
            "provenance": {"data.evaluation.location": Origin(source="user")},
        }
    )
    found = compare(make(made=made, card=card(rounded(measured["after"]))))
    assert found.notes[0] == "Measured on mine/, which the user named as the card's evaluation data."


# --- damaged runs ----------------------------------------------------------------------------------------------------


def test_other_queries_before_than_after_are_not_paired(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    run = make(card=card(rounded(measured["after"])))
    path = run.path / "evaluations/validation/before.parquet"
    table = pd.read_parquet(path)
    table.assign(query_id=[f"z{number}" for number in range(len(table))]).to_parquet(path)
    found = compare(run)
    assert found.verdict == "reproduced exactly"  # after is whole
    assert {(row.difference, row.p, row.queries_needed) for row in found.rows} == {(None, None, None)}
    assert "Not all 180 queries have a value before training, so their changes are not tested." in found.notes
    json.dumps(found.to_dict(), allow_nan=False)


def test_nan_values_give_no_interval(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    run = make(card=card(rounded(measured["after"])))
    path = run.path / "evaluations/validation/after.parquet"
    pd.read_parquet(path).assign(**{"ndcg@10": float("nan")}).to_parquet(path)
    found = compare(run)
    assert found.main is not None
    assert (found.main.low, found.main.high) == (None, None)


def test_a_half_written_run_is_named(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    run = make(card=card(rounded(measured["after"])))
    (run.path / "evaluations/validation/after.json").unlink()  # written last: the evaluation is not there yet
    text = "The run has no evaluation after training; give the card's with --evaluation-set."
    assert text in compare(run).reasons
    half = make("half", card=card(rounded(measured["after"])))
    (half.path / "evaluations/validation/after.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match=r"expected a Parquet table in '.*after.parquet', found something else"):
        compare(half)
    nameless = make("nameless", card=card(rounded(measured["after"])))
    (nameless.path / "run.json").unlink()
    with pytest.raises(RunError, match="expected the record in run"):
        compare(nameless)


# --- run against run -------------------------------------------------------------------------------------------------


def test_two_runs_that_differ(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    left, right = make("left", stages={"after": "before"}), make("right", stages={"after": "after"})
    found = compare(left, right)
    assert (found.kind, found.verdict, found.names) == ("runs", "better", ("left", "right"))
    row = found.main
    assert row is not None
    assert (row.before, row.after) == tuple(measured[which].metrics["cosine_ndcg@10"] for which in ("before", "after"))
    assert row.run == "right"
    assert compare([left, right]).to_dict() == found.to_dict()
    mirrored = compare(right, left).main
    assert mirrored is not None
    assert mirrored.difference == pytest.approx(-(row.difference or 0), abs=1e-12)
    assert (mirrored.wins, mirrored.losses) == (row.losses, row.wins)


def test_two_runs_without_a_significant_difference(make: Callable[..., Run]) -> None:
    found = compare(make("left"), make("right", stages={"after": "again"}))
    assert found.verdict == "no significant difference"
    assert verdicts(found) <= {"no significant difference", "equivalent"}
    same = compare(make("first"), make("second"))
    assert verdicts(same) == {"no significant difference"}  # 180 equal queries leave 0.0203 open, more than 0.02
    assert same.main is not None
    assert (same.main.difference, same.main.p, same.main.ties) == (0.0, 1.0, QUERIES)


def test_nearly_equal_models_are_equivalent_and_plan_no_study() -> None:
    """+0.0002 on every query is significant, and no difference that matters; its spread says nothing about others."""
    values = np.linspace(0.1, 0.9, 180)
    for change, said in (
        (np.full(180, 2e-4) + 1e-5 * (np.arange(180) % 7), False),
        (0.3 * np.sin(np.arange(180)), True),
    ):
        measured = {"m_ndcg@10": MetricValues(0.5, 0.5, values + change, values)}
        row = MetricRow("m_ndcg@10", **metric_tests.tested_fields(measured)["m_ndcg@10"])
        notes = metric_tests.reading_notes([row], "m_ndcg@10", measured, "queries")
        assert any("Detecting a change of 0.01" in note for note in notes) == said
        if not said:
            assert row.p_adjusted is not None
            assert row.difference is not None
            assert row.p_adjusted < 0.001
            ends = row.difference_low or 0.0, row.difference_high or 0.0
            assert judge_change(row.difference, *ends, row.p_adjusted, 0.02) == "equivalent"


def test_a_run_that_changes_nothing_is_no_test(make: Callable[..., Run]) -> None:
    """Its zeros do not double the p-values of the other run."""
    first, other, same = make("a"), make("b", stages={"after": "again"}), make("c")
    alone, beside = compare(first, other), compare(first, other, same)
    assert [row.p_adjusted for row in beside.rows if row.run == "b"] == [row.p_adjusted for row in alone.rows]
    third = compare(first, other, make("d", stages={"after": "before"}))
    assert third.rows[0].p_adjusted == min(1.0, 2 * (alone.rows[0].p_adjusted or 0))


def test_a_margin_of_the_user_s_holds_between_runs(make: Callable[..., Run]) -> None:
    runs = [make("a"), make("b", stages={"after": "again"})]
    assert compare(runs, margin=0.5).verdict == "equivalent"
    with pytest.raises(RunError, match="expected a margin above 0, found 0"):
        compare(runs, margin=0)


def test_several_runs_are_each_compared_with_the_first(make: Callable[..., Run]) -> None:
    runs = [make("a", stages={"after": "before"}), make("b"), make("c", stages={"after": "again"})]
    found = compare(runs)
    assert [row.run for row in found.rows if row.metric == "cosine_ndcg@10"] == ["b", "c"]
    assert found.verdict == "better"
    assert "better (c)" in repr(found)


def test_what_differs_between_two_runs_is_said(make: Callable[..., Run]) -> None:
    shorter = RECIPE.model_copy(update={"training": Training(max_steps=6)})
    other = {"base": {**RECORD["base"], "sha256": "other"}, "trained": {"data.train.rows": 7}}
    runs = [make("a"), make("b", made=shorter, record=other, stages={"after": "again"})]
    assert compare(*runs).sentence == (
        "a and b differ in data.train.rows: None and 7; training.max_steps: -1 and 6; base (SHA-256): '0' and 'other'."
    )


def test_the_card_is_one_more_run_beside_runs(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    theirs = card({"cosine_ndcg@10": 0.7172})
    runs = [make("a", card=theirs), make("b", card=theirs, stages={"after": "again"})]
    for found in (compare(runs), compare(*runs, card=theirs)):
        assert found.main is not None
        assert found.main.card == 0.7172
        assert found.verdict == "no significant difference"  # between the runs; the card has no say in it
        lines = repr(found).splitlines()
        assert lines[1] == "a and b have the same recipe, base and rows."
        assert lines[2].startswith("other - first: +0.0218 (95% CI -0.0")
        assert lines[3].split()[:4] == ["metric", "card", "first", "other"]
        assert "0.7172" in found._repr_html_()
        assert found.to_frame().loc["cosine_ndcg@10", "card"] == 0.7172
        assert found.notes[-1] == ("The card 'made' is shown beside the runs; compare one run alone for its verdict.")
    mixed = compare(runs[0], make("c"))  # one of them came from no card
    assert mixed.main is not None
    assert mixed.main.card is None
    assert "card" not in repr(mixed).splitlines()[2]
    absent = compare(*runs, card=card({}, evaluations=()))
    assert absent.notes[-1] == f"The card 'made' is not shown: The card reports no evaluation by {EVALUATOR}."


def test_runs_that_answered_other_questions(make: Callable[..., Run]) -> None:
    left, right = make("left"), make("right", stages={})
    save_evaluation(right.path, "validation", "after", evaluate(collection(word="question"), noisy(1.1, 2)))
    found = compare(left, right)
    assert verdicts(found) == {"not comparable"}
    assert found.reasons == ("left and right do not share their queries: 0 of 180 and 180 are the same.",)
    assert found.main is not None
    assert found.main.after is not None


def test_runs_that_searched_other_documents(make: Callable[..., Run]) -> None:
    left, right = make("left"), make("right", stages={})
    other = replace(collection(), corpus={**collection().corpus, "d999": "document 999"})
    save_evaluation(right.path, "validation", "after", evaluate(other, noisy(1.1, 2)))
    assert compare(left, right).reasons == ("left and right searched other documents, or judged them otherwise.",)


def test_runs_are_paired_whatever_the_order_of_their_queries(make: Callable[..., Run]) -> None:
    left, right = make("left"), make("right", stages={})
    ours = collection()
    turned = replace(ours, queries=dict(reversed(list(ours.queries.items()))))
    save_evaluation(right.path, "validation", "after", evaluate(turned, noisy(1.1, 2)))
    row = compare(left, right).main
    assert row is not None
    assert (row.difference, row.ties) == (0.0, QUERIES)


def test_a_run_without_that_evaluation(make: Callable[..., Run]) -> None:
    left, right = make("left"), make("right", evaluation="test")
    assert compare(left, right).reasons == ("right has no evaluation 'validation' after training.",)
    with pytest.raises(RunError) as caught:
        compare(right, evaluation="validation")
    assert str(caught.value) == (
        "expected an evaluation 'validation' after training in run 'right', found 'test'; choose one of them."
    )
    with pytest.raises(RunError, match="expected a run to compare, found none"):
        compare([])


# --- evaluations of items --------------------------------------------------------------------------------------------

PAIRS = 120
SIMILARITY = "EmbeddingSimilarityEvaluator"
SIMILAR = RECIPE.model_copy(
    update={"evaluation": EvaluationPlan(evaluator=SIMILARITY, name="sts", main_metric="spearman_cosine")}
)


def correlated(noise: float, seed: int, gold: Any = None) -> ExampleEvaluation:
    """Pairs whose cosine is their gold score, moved by `noise`."""
    right = np.random.default_rng(0).integers(0, 6, PAIRS) / 5 if gold is None else np.asarray(gold, dtype=float)
    score = right + noise * np.random.default_rng(seed).normal(size=len(right))
    ids = [f"i{number:03}" for number in range(len(right))]
    table = pd.DataFrame({"item_id": ids, "sentence1": ids, "sentence2": ids, "gold": right, "cosine": score})
    statistics = {f"{name}_cosine": [name, "cosine"] for name in ("spearman", "pearson")}
    return evaluation_from_table(
        "sts", SIMILARITY, table, statistics, unit="pairs", main="spearman_cosine", truncate_dim=None
    )


@pytest.fixture
def made_items(make: Callable[..., Run]) -> Callable[..., Run]:
    def build(name: str = "run", before: Any = (1.0, 1), after: Any = (0.2, 2), **changes: Any) -> Run:
        run = make(name, stages={}, **{"made": SIMILAR, **changes})
        for stage, given in (("before", before), ("after", after)):
            if given is not None:
                found = given if isinstance(given, ExampleEvaluation) else correlated(*given)
                save_examples(run.path, "sts", stage, found)
        return run

    return build


def similar_card(metrics: Mapping[str, float], **changes: Any) -> Card:
    evaluation = Evaluation(SIMILARITY, "Semantic Similarity", ("sts",), {}, metrics, "spearman_cosine")
    return card({}, evaluations=(evaluation,), **changes)


def test_a_correlation_has_an_interval_and_a_verdict(made_items: Callable[..., Run]) -> None:
    numbers = {name: round(value, 4) for name, value in correlated(0.2, 2).metrics.items()}
    found = compare(made_items(card=similar_card(numbers)))
    assert verdicts(found) == {"cannot tell"}
    assert (found.queries, found.unit, found.evaluation) == (PAIRS, "pairs", "sts")
    assert (
        "* main metric. Intervals: 95%, BCa bootstrap over 120 pairs (2,000 resamples, seed 0); of a share, Wilson's. "
        "p: paired randomization test of the change, adjusted for all 2 metrics (max-T)."
    ) in found.notes
    row = found.main
    assert row is not None
    assert row.difference == pytest.approx(
        numbers["spearman_cosine"] - correlated(1.0, 1).metrics["spearman_cosine"], abs=1e-4
    )
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.after < row.high  # type: ignore[operator]
    assert row.p is not None
    assert row.p < 0.01
    assert row.wins is not None
    assert row.losses is not None
    assert row.wins + row.losses + (row.ties or 0) == PAIRS
    assert row.wins > row.losses
    far = compare(made_items("far", card=similar_card({**numbers, "spearman_cosine": 0.2})))
    assert far.verdict == "differs"


def test_as_written_against_corrected_on_the_same_pairs(made_items: Callable[..., Run]) -> None:
    written, corrected = made_items("written", after=(0.9, 3)), made_items("corrected", after=(0.4, 4))
    found = compare(written, corrected)
    assert found.verdict == "better"
    row = found.main
    assert row is not None
    assert row.before == correlated(0.9, 3).metrics["spearman_cosine"]
    assert row.after == correlated(0.4, 4).metrics["spearman_cosine"]
    assert row.difference_low is not None
    assert row.difference_low > 0
    assert verdicts(compare(written, made_items("again", after=(0.9, 3)))) == {"no significant difference"}


def test_runs_that_measured_other_pairs(made_items: Callable[..., Run]) -> None:
    other = correlated(0.5, 2, gold=np.linspace(0, 1, PAIRS))
    found = compare(made_items("left"), made_items("right", before=None, after=other))
    assert found.reasons == ("left and right did not measure the same pairs.",)
    assert verdicts(found) == {"not comparable"}


def test_a_correlation_of_scores_that_do_not_vary_has_no_interval(made_items: Callable[..., Run]) -> None:
    flat = correlated(0.5, 2, gold=[1.0] * PAIRS)
    found = compare(made_items(before=None, after=flat, card=similar_card({"spearman_cosine": 0.8})))
    assert found.verdict == "not comparable"
    assert found.main is not None
    assert (found.main.low, found.main.p) == (None, None)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_card_with_another_evaluator_is_not_compared(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    """The recipe says rank correlation, the rows only allowed a search: a number of the one is none of the other."""
    run = make(made=SIMILAR, card=similar_card({"cosine_ndcg@10": rounded(measured["after"])["cosine_ndcg@10"]}))
    (reason,) = compare(run).reasons
    assert reason.startswith("The card reports no evaluation by InformationRetrievalEvaluator; give")


def test_shares_of_triplets_tell_how_many_there_were(make: Callable[..., Run]) -> None:
    plan = EvaluationPlan(evaluator="TripletEvaluator", name="triplets", main_metric="cosine_accuracy")
    theirs = Evaluation(
        "TripletEvaluator", "Triplet", ("triplets",), {}, {"cosine_accuracy": 0.5556}, "cosine_accuracy"
    )
    run = make(stages={}, made=RECIPE.model_copy(update={"evaluation": plan}), card=card({}, evaluations=(theirs,)))
    ids = [f"i{number}" for number in range(10)]
    table = pd.DataFrame({"item_id": ids, "anchor": ids, "gold": float("nan"), "cosine_accuracy": [1.0, 0.0] * 5})
    statistics = {"cosine_accuracy": ["mean", "cosine_accuracy"]}
    found = evaluation_from_table("t", "TripletEvaluator", table, statistics, unit="triplets", main="cosine_accuracy")
    save_examples(run.path, "triplets", "after", found)
    assert compare(run).reasons == (
        "The card's accuracies cannot come from 10 triplets, as many as this run measured; the smallest number that "
        "fits is 9; give the card's with --evaluation-set.",
    )


def test_nanobeir_s_mean_is_only_compared_with_nanobeir_s_mean(
    make: Callable[..., Run], measured: Mapping[str, Any]
) -> None:
    numbers = rounded(measured["after"])
    plan = EvaluationPlan(evaluator="NanoBEIREvaluator", name="NanoBEIR_mean")
    nano = RECIPE.model_copy(update={"evaluation": plan})
    members = [Evaluation(EVALUATOR, name, (name,), {}, numbers) for name in ("NanoFEVER", "NanoNQ")]
    mean = Evaluation("NanoBEIREvaluator", "Nano BEIR", ("NanoBEIR_mean",), {}, numbers, "cosine_ndcg@10")
    theirs = card({}, evaluations=(*members, mean))
    assert compare(make("rows", made=nano, card=theirs, evaluation="test")).reasons == (
        "The card's 2 evaluations are of NanoFEVER, NanoNQ, and the run measured 'test'; give the card's with "
        "--evaluation-set.",
    )
    assert compare(make("member", made=nano, card=theirs, evaluation="NanoNQ")).verdict == "reproduced exactly"
    run = make("mean", made=nano, card=theirs, stages={})
    for stage in ("before", "after"):
        save(run.path, "NanoBEIR_mean", stage, nano_mean(noisy(1.1 if stage == "after" else 1.6, 2)))
    found = compare(run)
    assert (found.verdict, found.queries, found.unit, found.reasons) == ("cannot tell", 2 * QUERIES, "queries", ())
    assert len(found.rows) == 15


def nano_mean(encode: Callable[..., Any]) -> ExampleEvaluation:
    return Mean("NanoBEIR_mean", tuple(Search(name, collection()) for name in ("NanoFEVER", "NanoNQ"))).measure(encode)


def test_other_dimensions_than_the_card_s_are_not_compared(make: Callable[..., Run]) -> None:
    run = make(stages={}, card=card({"cosine_ndcg@10": 0.5}))
    save_evaluation(run.path, "test_4", "after", evaluate(collection(), noisy(1.1, 2), truncate_dim=4))
    (reason,) = compare(run).reasons
    assert reason.startswith("The card reports no evaluation at 4 dimensions; give")
    at_four = Evaluation(EVALUATOR, "", ("dim_4",), {"truncate_dim": 4}, {"cosine_ndcg@10": 0.0})
    run = make("named", stages={}, card=card({}, evaluations=(at_four,)))
    save_evaluation(run.path, "test_4", "after", evaluate(collection(), noisy(1.1, 2), truncate_dim=4))
    assert compare(run).verdict == "differs"
    in_its_name = Evaluation(EVALUATOR, "", ("dim_4",), {}, {"cosine_ndcg@10": 0.0})  # as older cards print it
    run = make("older", stages={}, card=card({}, evaluations=(in_its_name,)))
    save_evaluation(run.path, "dim_4", "after", evaluate(collection(), noisy(1.1, 2), truncate_dim=4))
    assert compare(run).verdict == "differs"


# --- showing and storing ---------------------------------------------------------------------------------------------


def test_the_table_explains_itself(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    lines = repr(compare(make(card=card(rounded(measured["after"]))))).splitlines()
    assert lines[0] == "card 'made' and run: reproduced exactly"
    assert lines[2] == "card - ours: +0.0000; ours: one training, seed 42; measured on: 180 queries, the card's own"
    assert lines[3].split()[:4] == ["metric", "card", "before", "after"]
    assert any(line.startswith("nDCG@10 *") for line in lines)
    assert lines[-4] == "replay: replayed exactly; 15 of 15 numbers are equal."
    assert "seed 0" in lines[-3]
    assert lines[-3].endswith("a graded judgment above 0 counts as 1.")
    assert re.fullmatch(
        r"Change of nDCG@10: \+0.2575 \(95% interval \+0.18\d\d to \+0.3\d\d\d, of this metric alone\); "
        r"117 queries better, 23 equal, 40 worse \(rank of the first relevant document\).",
        lines[-2],
    )
    assert re.fullmatch(
        r"Detecting a change of 0.01 in nDCG@10 would take about [\d,]+ queries \(80% power\).", lines[-1]
    )


def test_hostile_text_is_escaped(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    hostile = card({"<script>x</script>": 0.5, "cosine_ndcg@10": 0.1}, name="<img src=x>")
    record = {"base": {**RECORD["base"], "stand_in": True, "note": "<b>bold</b>"}}
    shown = compare(make(card=hostile, record=record))._repr_html_()
    for tag in ("<script>", "<img", "<b>bold"):
        assert tag not in shown
    assert "&lt;script&gt;" in shown


def test_what_is_stored_is_what_the_run_reads(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    run = make(card=card(rounded(measured["after"])))
    found = compare(run)
    assert run.comparison() is None
    assert save_comparison(run, found) == run.path / "comparison.json"
    assert run.comparison() == found.to_dict()
    assert compare(run).to_dict() == found.to_dict()


def test_a_stored_comparison_is_read_as_it_was(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    runs = [make("a"), make("b", stages={"after": "again"})]
    for found in (compare(runs[0], card=card(rounded(measured["after"]))), compare(runs)):
        stored = json.loads(json.dumps(found.to_dict()))
        assert Comparison.from_dict(stored | {"of a later version": 1}) == found


def test_facts_beside_the_verdict() -> None:
    row = MetricRow(
        "m", card=0.7, values=(0.68, 0.7), mean=0.69, deviation=0.0041, card_difference=0.01, card_low=-0.002,
        card_high=0.022, detectable=0.0195, margin=0.02,
    )  # fmt: skip
    made = Comparison(
        "card", ("card", "run"), "reproduced", (), (), (row,), "m", queries=839, seeds=(7, 42), same_examples=True,
        effect_ratio=-0.5,
    )  # fmt: skip
    assert made.facts("−") == {
        "card − ours": "+0.0100 (95% CI −0.0020 to +0.0220)",
        "margin": "±0.02",
        "SD between seeds": "0.0041",
        "not excluded": "a card up to 0.0195 off",
        "ours": "mean of 2 trainings, seeds 7, 42",
        "measured on": "839 queries, the card's own",
        "effect of training": "−0.50 times the card's",
    }
    one = replace(made, rows=(replace(row, values=(0.68,), margin=None),), seeds=(42,), same_examples=False)
    assert [one.facts()[name] for name in ("ours", "SD between seeds", "margin", "measured on")] == [
        "one training, seed 42", "0.0041, assumed", "none", "839 queries, not known to be the card's own",
    ]  # fmt: skip


def test_a_verdict_by_an_older_rule_is_judged_anew(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    numbers = rounded(measured["after"])
    run = make(card=card({**numbers, "cosine_ndcg@10": round(numbers["cosine_ndcg@10"] + 0.03, 4)}))
    assert read_comparison(run) is None
    write_json(run.path / "comparison.json", {"kind": "card", "verdict": "reproduced", "rows": []})
    found = read_comparison(run)
    assert found is not None
    assert found["verdict"] == "cannot tell"
    assert run.comparison() == found


def test_fields_set_by_the_user_do_not_prevent_a_verdict(make: Callable[..., Run], measured: Mapping[str, Any]) -> None:
    made = RECIPE.model_copy(
        update={"training": Training(learning_rate=1), "provenance": {"training.learning_rate": Origin(source="user")}}
    )
    assert compare(make(made=made), card=card(rounded(measured["after"]))).verdict == "reproduced exactly"
