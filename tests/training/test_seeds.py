"""Several seeds: what is trained, what is refused, and intervals against simulation and hand calculation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.cards.card import Card, Dataset, Evaluation, Stated
from workbench.cards.read import card_to_dict
from workbench.errors import RecipeError, RunError
from workbench.evaluation.statistics import spread_over_seeds
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.recipe.yaml_io import load_recipe, save_recipe
from workbench.run import Run, write_json, write_parquet
from workbench.training.seeds import compare_seeds, repeat

QUERIES = 60
EVALUATOR = "InformationRetrievalEvaluator"
RECIPE = Recipe(name="made", base=Base(model="org/base"), loss=LossSpec(name="MultipleNegativesRankingLoss"))
RECORD: dict[str, Any] = {
    "schema_version": 1,
    "status": "finished",
    "base": {"model": "org/base", "sha256": "0", "stand_in": False, "note": ""},
    "data": {"source": "rows.json", "sha256": "0", "stand_in": False, "note": "", "rows": {"train": 1800}},
}


def card(metrics: dict[str, float]) -> Card:
    return Card(
        name="made",
        kind="sentence-transformer",
        base_model=Stated("org/base", 3),
        datasets=(Dataset("train", None, size=1800),),
        evaluations=(Evaluation(EVALUATOR, "", ("dev",), {}, metrics, "cosine_ndcg@10"),),
    )


def made_run(root: Path, made: Recipe, values: Any, *, theirs: Card | None = None, **record: Any) -> Run:
    """A finished run whose nDCG@10 of each query is given; 0 before training."""
    path = root / f"seed-{made.training.seed}-{len(list(root.iterdir()))}"
    path.mkdir()
    save_recipe(made, path / "recipe.yaml")
    write_json(path / "run.json", {**RECORD, **record})
    if theirs is not None:
        write_json(path / "card.json", card_to_dict(theirs))
    folder = path / "evaluations/validation"
    ids = [f"q{number}" for number in range(len(values))]
    write_parquet(
        folder / "queries.parquet", pd.DataFrame({"query_id": ids, "query": ids, "relevant": [["d"]] * len(ids)})
    )
    for moment, given in (("before", np.zeros(len(ids))), ("after", np.asarray(values, dtype=float))):
        table = pd.DataFrame({"query_id": ids, "rank": 1, "ndcg@10": given})
        write_parquet(folder / f"{moment}.parquet", table)
        metrics = {"cosine_ndcg@10": float(given.mean())}
        write_json(folder / f"{moment}.json", {"metrics": metrics, "settings": {"kind": EVALUATOR}})
    return Run(path)


def seeded(seed: int, **changes: Any) -> Recipe:
    return RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"seed": seed, **changes})})


def drawn(seeds: int, queries: int = QUERIES, between: float = 0.05) -> Any:
    """(seeds, queries) values: a query's difficulty, a seed's luck, and noise."""
    rng = np.random.default_rng(3)
    return (
        0.6 + rng.normal(0, 0.2, queries) + rng.normal(0, between, (seeds, 1)) + rng.normal(0, 0.02, (seeds, queries))
    )


@pytest.fixture
def five(tmp_path: Path) -> list[Run]:
    return [made_run(tmp_path, seeded(42 + place), row) for place, row in enumerate(drawn(5))]


# --- training --------------------------------------------------------------------------------------------------------


def test_a_recipe_is_trained_with_consecutive_seeds(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    given: list[Recipe] = []

    def fit(made: Recipe, **options: Any) -> Run:
        asked.append(options)
        given.append(made)
        return made_run(tmp_path, made, [0.5, 0.7])

    runs = repeat(RECIPE, 3, fit=fit, runs="somewhere", max_steps=2)
    recipes = [load_recipe(run.path / "recipe.yaml") for run in runs]
    assert [made.training.seed for made in recipes] == [42, 43, 44]
    assert given[0] == RECIPE  # the first is what `train` alone would give
    assert recipes[1].provenance["training.seed"].note == "repetition 2 of 3"
    assert [run.record["repeat"] for run in runs][1] == {"number": 2, "of": 3, "seed": 43}
    assert asked == [{"runs": "somewhere", "max_steps": 2}] * 3


def test_a_run_that_was_stopped_ends_the_repetition(tmp_path: Path) -> None:
    runs = repeat(RECIPE, 5, fit=lambda made, **options: made_run(tmp_path, made, [0.5], status="stopped"))
    assert [run.status for run in runs] == ["stopped"]


def test_one_seed_or_a_run_to_resume_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        repeat(RECIPE, 1)
    assert str(caught.value) == "expected at least 2 seeds, found 1; one training has no spread."
    with pytest.raises(RecipeError) as caught:
        repeat(RECIPE, 2, resume="run")
    assert str(caught.value) == (
        "expected a new training for each seed, found a run to resume; resume it with `train`."
    )


# --- intervals -------------------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_the_means(five: list[Run]) -> None:
    means = drawn(5).mean(axis=1)
    row = compare_seeds(five).main
    assert row is not None
    assert row.values == pytest.approx(means, abs=1e-12)
    assert (row.mean, row.deviation) == pytest.approx((means.mean(), np.std(means, ddof=1)), abs=1e-12)
    assert (row.lowest, row.highest) == pytest.approx((means.min(), means.max()), abs=1e-12)
    assert (row.before, row.difference) == pytest.approx((0.0, means.mean()), abs=1e-12)


def test_the_interval_counts_queries_and_seeds() -> None:
    """Variances add up: s_q^2 / Q of the queries' means, s_s^2 / S of the seeds' means; s_s^2 for one training."""
    values = drawn(40, 400)
    found = spread_over_seeds("mean", np.zeros(400), values)
    by_query = values.mean(axis=0).var(ddof=1) / 400
    by_seed = values.mean(axis=1).var(ddof=1)
    both, one = 1.96 * np.sqrt(by_query + by_seed / 40), 1.96 * np.sqrt(by_query + by_seed)
    assert (found.high - found.low) / 2 == pytest.approx(both, rel=0.06)
    assert (found.one_high - found.one_low) / 2 == pytest.approx(one, rel=0.15)


def test_the_spread_of_few_seeds_is_not_underestimated() -> None:
    """Two seeds at 0 and 1 on queries that are all alike: n - 1 makes their standard deviation 0.7071, not 0.5."""
    found = spread_over_seeds("mean", np.zeros(30), [[0.0] * 30, [1.0] * 30])
    ends = (0.5 - np.sqrt(2) / 2, 0.5 + np.sqrt(2) / 2)
    assert (found.one_low, found.one_high) == pytest.approx(ends, abs=1e-9)
    assert found.deviation == pytest.approx(np.sqrt(0.5))


def test_seeds_without_spread_leave_the_queries_interval() -> None:
    from workbench.evaluation.statistics import bootstrap_interval

    values = np.tile(drawn(1), (4, 1))
    found = spread_over_seeds("mean", np.zeros(QUERIES), values)
    low, high = bootstrap_interval(values[0][:, None])
    assert (found.low, found.high) == pytest.approx((low[0], high[0]), abs=1e-9)
    assert (found.one_low, found.one_high) == pytest.approx((low[0], high[0]), abs=1e-9)


def test_a_correlation_is_computed_for_each_seed() -> None:
    rng = np.random.default_rng(5)
    gold = rng.normal(size=80)
    values = gold + rng.normal(size=(3, 80))
    found = spread_over_seeds("pearson", gold, values, gold + np.zeros((3, 80)))
    own = [np.corrcoef(gold, row)[0, 1] - 1 for row in values]
    assert (found.mean, found.deviation) == pytest.approx((np.mean(own), np.std(own, ddof=1)))
    assert found.one_low < found.low < found.mean < found.high < found.one_high


# --- comparing -------------------------------------------------------------------------------------------------------


def test_the_card_is_compared_with_a_single_training(five: list[Run]) -> None:
    row = compare_seeds(five).main
    assert row is not None
    assert row.high is not None
    assert row.one_high is not None
    between = (row.high + row.one_high) / 2  # outside the mean's interval, inside that of one training
    for number, verdict, where in ((between, "reproduced", "inside"), (row.one_high + 0.01, "differs", "outside")):
        found = compare_seeds(five, card=card({"cosine_ndcg@10": round(number, 4)}))
        assert (found.verdict, found.reasons) == (verdict, ())  # another seed is no departure
        assert found.sentence.endswith(f"; the card's {number:.4f} is {where} the latter.")
        assert found.sentence.startswith(
            f"Over 5 seeds cosine_ndcg@10 is {row.mean:.4f} on average, standard deviation"
        )
        json.dumps(found.to_dict(), allow_nan=False)
        assert repr(found).startswith(f"5 seeds (42, 43, 44, 45, 46): {verdict}")
        assert "<script" not in found._repr_html_()


def test_one_stand_in_makes_all_runs_not_comparable(five: list[Run], tmp_path: Path) -> None:
    base = {**RECORD["base"], "stand_in": True, "note": "A stand-in."}
    runs = [*five, made_run(tmp_path, seeded(99), drawn(1)[0], base=base)]
    found = compare_seeds(runs, card=card({"cosine_ndcg@10": 0.6}))
    assert (found.verdict, found.reasons) == ("not comparable", ("A stand-in.",))
    assert found.main is not None
    assert found.main.card == 0.6


def refused(runs: list[Run]) -> str:
    with pytest.raises(RunError) as caught:
        compare_seeds(runs)
    return str(caught.value)


def test_runs_that_differ_in_more_than_the_seed_are_refused(five: list[Run], tmp_path: Path) -> None:
    first, name = five[0], five[0].name
    build: Callable[..., Run] = lambda *args, **record: made_run(tmp_path, *args, **record)  # noqa: E731
    assert refused([first]) == "expected at least 2 runs that differ in their seed, found 1; train with --seeds 5."
    other = build(seeded(7, learning_rate=0.5), drawn(1)[0])
    assert refused([first, other]) == (
        f"expected runs that differ in their seed only, found training.learning_rate 5e-05 in {name!r} and 0.5 in "
        f"{other.name!r}; compare them as two runs."
    )
    again = build(seeded(42), drawn(1)[0])
    assert refused([first, again]) == (
        f"expected another seed in each run, found 42 in {name!r} and {again.name!r}; the same seed shows no spread."
    )
    rows = build(seeded(8), drawn(1)[0], data={**RECORD["data"], "sha256": "1"})
    assert refused([first, rows]) == (
        f"expected runs of one data, found another in {rows.name!r} than in {name!r}; compare them as two runs."
    )
    asked = build(seeded(9), [0.5] * 3)
    assert refused([first, asked]) == (
        f"expected runs that were measured on the same queries: {name} and {asked.name} do not share their queries: 3 "
        "of 60 and 3 are the same."
    )
