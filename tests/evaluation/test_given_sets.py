"""Evaluation sets that a user gives: which of the card's evaluators each belongs to, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healthy_card import evaluation, healthy, row, with_log, with_loss, with_rows, without_evaluation

from workbench.cards.card import Card, Dataset, Evaluation, Loss
from workbench.errors import DataError
from workbench.evaluation.given_sets import open_sets
from workbench.evaluation.tasks import Examples, Search
from workbench.recipe.from_card import recipe
from workbench.training.given import with_statements

SCORED = [
    {"sentence1": f"one {n}", "sentence2": f"two {n}", "score": score} for n, score in enumerate((0.1, 0.5, 0.9, 0.4))
]
TRIPLETS = [{"anchor": f"a {n}", "positive": f"p {n}", "negative": f"n {n}"} for n in range(4)]


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Any, name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def beir(tmp_path: Path) -> str:
    """Four queries, each with one document."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    for name, what in (("queries", "query"), ("corpus", "document")):
        rows = [json.dumps({"_id": f"{what}{n}", "text": f"{what} {n}"}) for n in range(4)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    judged = [f"query{n}\tdocument{n}\t1" for n in range(4)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(("query-id\tcorpus-id\tscore", *judged)))
    return str(folder)


def reported(kind: str, name: str, metrics: Mapping[str, float] | None = None, **parameters: Any) -> Evaluation:
    found = metrics or {"spearman_cosine": 0.7}
    return replace(evaluation(), evaluator=kind, datasets=(name,), metrics=found, parameters=parameters)


SEARCH = reported("InformationRetrievalEvaluator", "car eval", {"cosine_accuracy@1": 0.25, "cosine_ndcg@10": 0.5})
STS = reported("EmbeddingSimilarityEvaluator", "sts-dev")


def card(*evaluations: Evaluation) -> Card:
    return replace(healthy(), evaluations=evaluations)


def opened(card: Card, *values: str) -> Any:
    return open_sets(card, recipe(card), values)


def test_each_set_belongs_to_the_evaluator_that_fits_it(put: Callable[..., str], beir: str) -> None:
    first, second = opened(card(SEARCH, STS), beir, put(SCORED))
    assert list(first.tasks) == ["car-eval"]  # the card's name as that of a folder
    assert isinstance(first.tasks["car-eval"], Search)
    assert len(first.tasks["car-eval"].collection.evaluated) == 4
    assert first.sentence == f"The user states that {beir} holds the card's evaluation examples (car-eval)."
    found = second.tasks["sts-dev"]
    assert isinstance(found, Examples)
    assert (found.kind, found.gold, found.every_similarity) == (
        "EmbeddingSimilarityEvaluator",
        (0.1, 0.5, 0.9, 0.4),
        False,
    )


def test_a_name_chooses_between_evaluators_of_one_kind(put: Callable[..., str]) -> None:
    test = reported("EmbeddingSimilarityEvaluator", "sts-test")
    path = put(SCORED)
    with pytest.raises(
        DataError, match=r"found 2 that fit \(sts-dev, sts-test\); say which with --evaluation-set sts-dev="
    ):
        opened(card(STS, test), path)
    (found,) = opened(card(STS, test), f"sts-test={path}")
    assert list(found.tasks) == ["sts-test"]


def test_the_card_s_evaluator_decides_how_rows_are_measured(put: Callable[..., str]) -> None:
    labels = [{**each, "score": int(each["score"] > 0.4)} for each in SCORED]
    for kind in ("EmbeddingSimilarityEvaluator", "BinaryClassificationEvaluator"):
        (found,) = opened(card(reported(kind, "pairs", {"max_ap": 0.5})), put(labels))
        assert (found.tasks["pairs"].kind, found.tasks["pairs"].every_similarity) == (kind, True)
    for kind in ("TripletEvaluator", "RerankingEvaluator", "InformationRetrievalEvaluator"):
        (found,) = opened(card(reported(kind, "triplets")), put(TRIPLETS))
        assert found.tasks["triplets"].kind == kind


@pytest.mark.parametrize("stated", [True, False])
def test_one_set_at_several_dimensions_gives_a_task_each(stated: bool, put: Callable[..., str]) -> None:
    made = [
        reported("EmbeddingSimilarityEvaluator", f"dev-{size}", **({"truncate_dim": size} if stated else {}))
        for size in (64, 32)
    ]
    loss = Loss("MatryoshkaLoss", {"matryoshka_dims": [64, 32]}, Loss("CoSENTLoss", {}))
    (found,) = opened(with_rows(card(*made), loss=loss), put(SCORED))
    first = None if stated else 64  # the recipe measures at what the first evaluator states
    assert {name: task.dimensions for name, task in found.tasks.items()} == {"dev-64": first, "dev-32": 32}


def test_equal_names_at_several_dimensions_are_kept_apart(put: Callable[..., str]) -> None:
    made = [reported("EmbeddingSimilarityEvaluator", "dev", truncate_dim=size) for size in (64, 32)]
    (found,) = opened(card(*made), put(SCORED))
    assert list(found.tasks) == ["dev", "dev_32"]


def scored_card(samples: Any = tuple(SCORED[:3]), size: int = 4) -> Card:
    """A card that trains on scored pairs and has a validation loss on others."""
    columns = ("sentence1", "sentence2", "score")
    made = with_rows(with_loss(card(STS), "CoSENTLoss"), columns=columns, samples=(), statistics=())
    held_out = Dataset("evaluation", "held", size=size, columns=columns, samples=samples)
    return replace(made, datasets=(made.datasets[0], held_out))


def test_rows_of_the_card_s_evaluation_dataset_give_the_validation_loss(put: Callable[..., str]) -> None:
    path = put(SCORED)
    (found,) = opened(scored_card(), path)
    assert (found.validates, list(found.tasks)) == ("data.evaluation", ["sts-dev"])
    assert found.sentence.endswith("holds the card's evaluation examples (sts-dev) and its evaluation dataset.")
    (by_evaluator,) = opened(scored_card(), f"sts-dev={path}")
    assert by_evaluator.validates
    (by_name,) = opened(scored_card(), f"held={path}")
    assert (by_name.validates, by_name.tasks) == ("data.evaluation", {})


def test_rows_of_a_further_dataset_give_its_validation_loss(put: Callable[..., str]) -> None:
    made = scored_card()
    pairs = replace(made.datasets[0], name="pairs", columns=("anchor", "positive"))
    scores = replace(made.datasets[0], name="scores", id=None)
    held_out = replace(made.datasets[1], name="scores", size=4)
    made = replace(made, datasets=(pairs, scores, held_out), evaluations=())
    path = put(SCORED)
    for value in (path, f"scores={path}"):
        (found,) = opened(made, value)
        assert found.validates == "data.more.0.evaluation"
    further = with_statements(recipe(made), [found]).data.more[0].evaluation
    assert further is not None
    assert further.location == path


@pytest.mark.parametrize(
    "made",
    [
        scored_card(samples=tuple(SCORED[1:])),
        scored_card(samples=({**SCORED[0], "score": 0.2},)),
        scored_card(size=5),
        with_log(scored_card(), [row(1000, 0.5, metric=0.7)]),  # nothing was measured on them
        card(STS),  # the card's evaluation dataset has other columns
    ],
    ids=["order", "score", "size", "no loss", "columns"],
)
def test_other_rows_are_only_measured(made: Card, put: Callable[..., str]) -> None:
    (found,) = opened(made, put(SCORED))
    assert (found.validates, list(found.tasks)) == ("", ["sts-dev"])


def test_what_is_refused(put: Callable[..., str], beir: str) -> None:
    path, made = put(SCORED), card(SEARCH, STS)
    for values, said in (
        ((f"sts={path}",), r"names \('car eval', 'sts-dev', 'held'\), found 'sts'"),
        ((f"car eval={path}",), "expected examples for the card's InformationRetrievalEvaluator on 'car eval' with"),
        ((path, path), "expected one --evaluation-set for 'sts-dev', found 2"),
        ((f"held={path}",), "expected the rows of the card's evaluation dataset 'held'"),
        (("nothing.jsonl",), "nothing.jsonl"),
        (("=x",), "expected --evaluation-set PATH or NAME=PATH, found '=x'"),
    ):
        with pytest.raises(DataError, match=said):
            opened(made, *values)
    third = replace(SEARCH, metrics={"cosine_accuracy@1": 0.3333})
    with pytest.raises(DataError, match=r"accuracies cannot come from 4 queries.*the smallest number that fits is 3"):
        opened(card(third), beir)
    with pytest.raises(DataError, match=r"card's EmbeddingSimilarityEvaluator on 'sts-dev' .* of TripletEvaluator in"):
        opened(card(STS), put(TRIPLETS, "other.jsonl"))
    with pytest.raises(DataError, match="expected a card that evaluates on something with --evaluation-set"):
        opened(without_evaluation(healthy()), beir)
    with pytest.raises(DataError, match="found a recipe file, which reports nothing; name the card"):
        open_sets(None, recipe(made), (beir,))
