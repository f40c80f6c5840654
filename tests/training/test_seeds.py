"""Several seeds: what is trained, what is refused, and the verdict against a calculation by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.cards.card import Card, Dataset, Evaluation, Stated
from workbench.cards.read import card_to_dict
from workbench.errors import RecipeError
from workbench.evaluation.compare import compare
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.recipe.yaml_io import load_recipe, save_recipe
from workbench.run import Run, write_json, write_parquet
from workbench.training.seeds import repeat

QUERIES = 60
EVALUATOR = "InformationRetrievalEvaluator"
RECIPE = Recipe(name="made", base=Base(model="org/base"), loss=LossSpec(name="MultipleNegativesRankingLoss"))
RECORD: dict[str, Any] = {
    "schema_version": 1,
    "status": "finished",
    "base": {"model": "org/base", "sha256": "0", "stand_in": False, "note": ""},
    "data": {"source": "rows.json", "sha256": "0", "stand_in": False, "note": "", "rows": {"train": 1800}},
}


SAME = {"validation": {"same": True, "why": "stated"}}


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


def seed_run(root: Path, place: int, values: Any, **record: Any) -> Run:
    """One of the runs that `repeat` makes in `root`."""
    repetition = {"number": place + 1, "of": 5, "seed": 42 + place, "first": "seed-42-0"}
    return made_run(root, seeded(42 + place), values, repeat=repetition, **record)


@pytest.fixture
def five(tmp_path: Path) -> list[Run]:
    return [seed_run(tmp_path, place, row) for place, row in enumerate(drawn(5))]


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
    assert [run.record["repeat"] for run in runs][1] == {"number": 2, "of": 3, "seed": 43, "first": runs[0].name}
    assert asked == [{"runs": "somewhere", "max_steps": 2}] * 3


def test_a_run_that_was_stopped_ends_the_repetition(tmp_path: Path) -> None:
    runs = repeat(RECIPE, 5, fit=lambda made, **options: made_run(tmp_path, made, [0.5], status="stopped"))
    assert [run.status for run in runs] == ["stopped"]


def test_seeds_stop_where_the_first_training_decides(tmp_path: Path) -> None:
    def fit(made: Recipe, **options: Any) -> Run:
        return made_run(tmp_path, made, [0.5, 0.7])

    assert len(repeat(RECIPE, 5, fit=fit, enough=lambda first: True)) == 1
    assert len(repeat(RECIPE, 3, fit=fit, enough=lambda first: False)) == 3


def test_one_seed_or_a_run_to_resume_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        repeat(RECIPE, 1)
    assert str(caught.value) == "expected at least 2 seeds, found 1; one training has no spread."
    with pytest.raises(RecipeError) as caught:
        repeat(RECIPE, 2, resume="run")
    assert str(caught.value) == (
        "expected a new training for each seed, found a run to resume; resume it with `train`."
    )


# --- comparing -------------------------------------------------------------------------------------------------------


def test_the_numbers_of_all_seeds_are_shown(five: list[Run]) -> None:
    means = drawn(5).mean(axis=1)
    found = compare(five[0])
    row = found.main
    assert row is not None
    assert (found.seeds, row.values) == ((42, 43, 44, 45, 46), pytest.approx(means, abs=1e-12))
    assert (row.mean, row.deviation) == pytest.approx((means.mean(), np.std(means, ddof=1)), abs=1e-12)
    assert row.after == pytest.approx(means[0], abs=1e-12)


def test_the_verdict_is_that_of_the_rule(tmp_path: Path) -> None:
    """K = 5 on the card's own 60 queries: the formulas of VERDICT's part C, written out."""
    values = drawn(5, between=0.002)
    runs = [seed_run(tmp_path, place, row, examples=SAME) for place, row in enumerate(values)]
    means = values.mean(axis=1)
    v2 = values.var(axis=0, ddof=1).mean() / QUERIES
    s2 = (4 * means.var(ddof=1) + 4 * v2) / 8
    one, two = (level * np.sqrt(s2 * (1 + 1 / 5)) for level in (1.8595, 2.3060))  # t(8, 0.95) and t(8, 0.975)
    for distance, verdict in ((0.02 - one - 0.0002, "reproduced"), (0.02 - one + 0.0002, "differs")):
        theirs = card({"cosine_ndcg@10": round(float(means.mean() + distance), 4)})
        found = compare(runs[0], card=theirs)
        assert (found.verdict, found.reasons) == (verdict, ())  # another seed is no departure
        row = found.main
        assert row is not None
        assert row.card_difference == pytest.approx(distance, abs=1e-4)
        assert row.detectable == pytest.approx(distance + one, abs=1e-4)
        assert (row.card_high or 0) - (row.card_difference or 0) == pytest.approx(two, rel=1e-3)
        json.dumps(found.to_dict(), allow_nan=False)
        assert "<script" not in found._repr_html_()


def test_a_run_is_judged_with_the_runs_of_its_other_seeds(tmp_path: Path) -> None:
    theirs = card({"cosine_ndcg@10": 0.6})

    def fit(made: Recipe, **options: Any) -> Run:
        place = made.training.seed - 42
        return made_run(tmp_path, made, drawn(3)[place], theirs=theirs, examples=SAME)

    runs = repeat(RECIPE, 3, fit=fit)
    made_run(tmp_path, seeded(60), drawn(1)[0], theirs=theirs)  # not one of them
    for place, run in enumerate(runs):
        found = compare(run)
        assert found.seeds == (42, 43, 44)
        assert found.main is not None
        assert found.main.after == pytest.approx(drawn(3)[place].mean())
    assert len({compare(run).verdict for run in runs}) == 1


def test_one_stand_in_makes_all_runs_not_comparable(five: list[Run], tmp_path: Path) -> None:
    base = {**RECORD["base"], "stand_in": True, "note": "A stand-in."}
    seed_run(tmp_path, 5, drawn(1)[0], base=base)
    found = compare(five[0], card=card({"cosine_ndcg@10": 0.6}))
    assert (found.verdict, found.reasons) == ("not comparable", ("A stand-in.",))
    assert found.main is not None
    assert found.main.card == 0.6
