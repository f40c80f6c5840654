"""Which tasks a recipe and its rows give, what each measures, and what the notes say of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.data.collection import Collection
from workbench.data.pairs import Pairs, Splits
from workbench.errors import DataError
from workbench.evaluation import tasks
from workbench.evaluation.examples import ExampleEvaluation
from workbench.evaluation.retrieval import Evaluation, evaluate
from workbench.evaluation.tasks import recipe_tasks
from workbench.recipe.schema import Base, Data, EvaluationPlan, LossSpec, Origin, Recipe, Source
from workbench.run import Run


def encode(texts: list[str], kind: str) -> Any:
    """Vectors by letter counts: texts with the same letters are near each other."""
    return np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], dtype=float) + 0.01


def rows(**columns: Sequence[Any]) -> Pairs:
    from datasets import Dataset

    return Pairs(Dataset.from_dict({k: list(v) for k, v in columns.items()}), tuple(columns), "0", "made")


def recipe(evaluator: str = "InformationRetrievalEvaluator", *, stated: bool = True, **parts: Any) -> Recipe:
    plan = {"evaluator": evaluator, **parts.pop("evaluation", {})}
    made: dict[str, Any] = {"name": "made", "base": Base(model="base"), "loss": LossSpec(name="CosineSimilarityLoss")}
    origin = Origin(source="card" if stated else "default")
    return Recipe(**{**made, **parts}, evaluation=EvaluationPlan(**plan), provenance={"evaluation.evaluator": origin})


PAIRS = [("ab", "aab"), ("cd", "cdd"), ("ef", "eff"), ("gh", "ghh"), ("ab", "abb"), ("ce", "cce")]


def pair_splits(held_out: int = 2) -> Splits:
    parts = [rows(anchor=[a for a, _ in part], positive=[b for _, b in part]) for part in (PAIRS[:-2], PAIRS[-2:])]
    return Splits(parts[0], *parts[1:] * (held_out > 0), *parts[1:] * (held_out > 1))


def scored(values: Sequence[float] = (0.0, 0.4, 1.0, 0.2)) -> Splits:
    part = rows(sentence1=["ab", "cd", "ef", "gh"], sentence2=["abb", "ch", "ab", "gh"], score=values)
    return Splits(part, part, part)


def triplet_splits() -> Splits:
    part = rows(anchor=["ab", "cd"], positive=["abb", "cdd"], negative=["gh", "ef"])
    return Splits(part, None, part)


def kinds(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: task.kind for name, task in found.items()}


# --- searches --------------------------------------------------------------------------------------------------------


def test_pairs_are_searched_in_the_answers_of_all_parts() -> None:
    found, notes = recipe_tasks(recipe(), pair_splits())
    assert kinds(found) == dict.fromkeys(("validation", "test"), "InformationRetrievalEvaluator")
    assert notes == []
    collection = found["test"].collection  # type: ignore[attr-defined]
    assert set(collection.corpus.values()) == {answer for _, answer in PAIRS}
    assert list(collection.queries.values()) == ["ab", "ce"]
    measured = found["test"].measure(encode)
    assert isinstance(measured, Evaluation)
    assert measured.metrics == evaluate(collection, encode).metrics


def test_repeated_queries_are_merged_where_the_recipe_says_so() -> None:
    """`ab` is asked twice: as one query it has both answers, that of the training row included."""
    merged, _ = recipe_tasks(recipe(evaluation={"repeated_queries": "merged"}), pair_splits())
    collection = merged["validation"].collection  # type: ignore[attr-defined]
    answers = {collection.queries[query]: len(documents) for query, documents in collection.relevant.items()}
    assert answers == {"ab": 2, "ce": 1}
    separate, _ = recipe_tasks(recipe(), pair_splits())
    alone = separate["validation"].collection.relevant  # type: ignore[attr-defined]
    assert [len(documents) for documents in alone.values()] == [1, 1]


def test_a_folder_of_its_own_is_the_validation(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "text": "ab"}\n{"_id": "e", "text": "cd"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "ab"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    data = Data(evaluation=Source(location=str(tmp_path), split="dev"))
    found, notes = recipe_tasks(recipe(data=data), pair_splits())
    assert list(found) == ["validation"]
    assert notes == []
    assert found["validation"].measure(encode).metrics["cosine_accuracy@1"] == 1.0


def test_no_held_out_rows_are_noted_with_the_fix() -> None:
    found, notes = recipe_tasks(recipe(), pair_splits(0))
    assert found == {}
    assert len(notes) == 1
    assert notes[0].startswith("The recipe holds no rows out, so nothing is measured; --evaluation-set")
    assert "--set data.split.test=0.1" in notes[0]


def test_the_suggested_fix_works() -> None:
    from workbench.recipe.overrides import parse_setting, with_overrides

    split = with_overrides(recipe(), dict([parse_setting("data.split.test=0.1")])).data.split
    assert split is not None
    assert (split.train, split.validation, split.test) == (0.8, 0.1, 0.1)


def test_a_matryoshka_loss_is_measured_at_its_dimensions_too() -> None:
    loss = LossSpec(
        name="MatryoshkaLoss",
        parameters={"matryoshka_dims": [8, 4, 2]},
        inner=LossSpec(name="MultipleNegativesRankingLoss"),
    )
    found, _ = recipe_tasks(recipe(loss=loss), pair_splits())
    assert list(found) == ["validation", "test", "test_4", "test_2"]  # 8 is taken for the model's own
    assert found["test_2"].measure(encode).settings["dimensions"] == 2
    assert found["test"].measure(encode).settings["dimensions"] == 8
    assert found["test"].measure(encode, truncate_dim=4).settings["dimensions"] == 4
    static, _ = recipe_tasks(recipe(loss=loss, base=Base(model="base", static_dimensions=16)), pair_splits())
    assert list(static) == ["validation", "test", "test_8", "test_4", "test_2"]


# --- items -----------------------------------------------------------------------------------------------------------


def test_scored_pairs_are_correlated() -> None:
    found, notes = recipe_tasks(recipe("EmbeddingSimilarityEvaluator"), scored())
    assert kinds(found) == dict.fromkeys(("validation", "test"), "EmbeddingSimilarityEvaluator")
    assert notes == []
    measured = found["test"].measure(encode)
    assert isinstance(measured, ExampleEvaluation)
    assert set(measured.metrics) == {"spearman_cosine", "pearson_cosine"}
    assert measured.per_example["gold"].tolist() == [0.0, 0.4, 1.0, 0.2]
    assert found["test"].measure(encode, similarity="dot").main_metric == "spearman_dot"  # type: ignore[union-attr]
    assert found["test"].measure(encode, similarity="energy").main_metric == "spearman_cosine"  # type: ignore[union-attr]


@pytest.mark.parametrize("main", ["spearman_max", "pearson_manhattan"])
def test_all_similarities_where_the_card_s_metric_needs_them(main: str) -> None:
    plan = {"evaluator": "EmbeddingSimilarityEvaluator", "main_metric": main}
    found, _ = recipe_tasks(recipe(evaluation=plan), scored())
    assert main in found["test"].measure(encode).metrics


def test_an_evaluator_that_fits_replaces_one_that_does_not() -> None:
    found, notes = recipe_tasks(recipe(), scored())
    assert set(kinds(found).values()) == {"EmbeddingSimilarityEvaluator"}
    assert notes == [
        "InformationRetrievalEvaluator cannot measure rows with sentence1, sentence2, score; "
        "EmbeddingSimilarityEvaluator is used."
    ]
    assert recipe_tasks(recipe(stated=False), scored())[1] == []
    found, notes = recipe_tasks(recipe("EmbeddingSimilarityEvaluator"), pair_splits())
    assert set(kinds(found).values()) == {"InformationRetrievalEvaluator"}
    assert notes == [
        "EmbeddingSimilarityEvaluator cannot measure rows with anchor, positive; InformationRetrievalEvaluator is used."
    ]


def test_labels_of_a_contrastive_loss_are_classified() -> None:
    loss = LossSpec(name="OnlineContrastiveLoss")
    found, _ = recipe_tasks(recipe(stated=False, loss=loss), scored((0, 1, 1, 0)))
    assert set(kinds(found).values()) == {"BinaryClassificationEvaluator"}
    assert "cosine_ap" in found["test"].measure(encode).metrics
    named, _ = recipe_tasks(recipe("EmbeddingSimilarityEvaluator", loss=loss), scored((0, 1, 1, 0)))
    assert set(kinds(named).values()) == {"EmbeddingSimilarityEvaluator"}
    graded, _ = recipe_tasks(recipe("BinaryClassificationEvaluator"), scored())  # scores between 0 and 1 are no labels
    assert set(kinds(graded).values()) == {"EmbeddingSimilarityEvaluator"}


def test_the_evaluator_decides_how_triplets_are_measured() -> None:
    names = ("InformationRetrievalEvaluator", "TripletEvaluator", "RerankingEvaluator")
    for name in names:
        found, notes = recipe_tasks(recipe(name), triplet_splits())
        assert kinds(found) == {"test": name}
        assert notes == []
    triplets, _ = recipe_tasks(recipe("TripletEvaluator"), triplet_splits())
    assert triplets["test"].measure(encode).metrics == {"cosine_accuracy": 1.0}
    reranked, _ = recipe_tasks(recipe("RerankingEvaluator"), triplet_splits())
    assert reranked["test"].measure(encode).metrics == {"ndcg@10": 1.0, "mrr@10": 1.0, "map": 1.0}
    energy, _ = recipe_tasks(recipe("TripletEvaluator", base=Base(model="base", similarity="energy")), triplet_splits())
    assert kinds(energy) == {"test": "InformationRetrievalEvaluator"}


def test_rows_of_one_query_are_reranked_together() -> None:
    part = rows(query=["ab", "ab"], positive=["abb", "aab"], negative_1=["gh", "gh"], negative_2=["ef", "cd"])
    found, _ = recipe_tasks(recipe("RerankingEvaluator"), Splits(part, part))
    measured = found["validation"].measure(encode)
    assert isinstance(measured, ExampleEvaluation)
    assert measured.per_example[["query", "positive", "negative"]].to_numpy().tolist() == [
        ["ab", "abb\naab", "gh\nef\ncd"]
    ]


def test_classes_are_not_measured_and_noted() -> None:
    found, notes = recipe_tasks(recipe(loss=LossSpec(name="SoftmaxLoss")), scored((0, 1, 2, 1)))
    assert found == {}
    assert notes == [
        "The held-out rows (sentence1, sentence2, score) are not measured: no evaluator fits these columns."
    ]


# --- NanoBEIR --------------------------------------------------------------------------------------------------------


def nano(location: str, *, split: str, online: Any) -> Collection:
    """Two queries a collection, the second harder in the collections of even place."""
    assert location == "sentence-transformers/NanoBEIR-en"
    even = [f"Nano{name}" for name in tasks.NANO].index(split) % 2 == 0
    corpus = {"d0": "ab", "d1": "cd", "d2": "ef"}
    return Collection("NanoBEIR-en", {"q0": "ab", "q1": "ef" if even else "cd"}, corpus, {
        "q0": {"d0": 1.0}, "q1": {"d1": 1.0},
    })  # fmt: skip


def test_nanobeir_gives_its_collections_and_their_mean() -> None:
    found, notes = recipe_tasks(recipe("NanoBEIREvaluator"), pair_splits(0), load=nano)
    assert list(found) == [*(f"Nano{name}" for name in tasks.NANO), "NanoBEIR_mean"]
    assert notes == []
    each = [found[f"Nano{name}"].measure(encode).metrics["cosine_accuracy@1"] for name in tasks.NANO]
    assert each == [0.5, 1.0] * 6 + [0.5]
    measured = found["NanoBEIR_mean"].measure(encode)
    assert isinstance(measured, ExampleEvaluation)
    assert measured.metrics["cosine_accuracy@1"] == pytest.approx(np.mean(each), abs=1e-12)
    assert measured.main_metric == "cosine_ndcg@10"
    assert len(measured.per_example) == 26
    assert measured.per_example["item_id"][2] == "NanoDBPedia/q0"
    assert len(measured.metrics) == 15


def test_nanobeir_at_fewer_dimensions_has_the_library_s_names() -> None:
    found, _ = recipe_tasks(recipe("NanoBEIREvaluator", evaluation={"truncate_dim": 4}), pair_splits(0), load=nano)
    assert [*found][-2:] == ["NanoTouche2020_4", "NanoBEIR_mean_4"]
    loss = LossSpec(name="MatryoshkaLoss", parameters={"matryoshka_dims": [4, 2]})
    base = Base(model="base", static_dimensions=8)
    found, _ = recipe_tasks(recipe("NanoBEIREvaluator", loss=loss, base=base), pair_splits(), load=nano)
    assert [*found][-5:] == ["NanoBEIR_mean", "validation", "test", "NanoBEIR_mean_4", "NanoBEIR_mean_2"]
    assert found["NanoBEIR_mean_2"].measure(encode).settings["truncate_dim"] == 2


def test_without_nanobeir_the_rows_held_out_are_measured_instead() -> None:
    def refused(location: str, **_: Any) -> Collection:
        raise DataError("the Hub cannot be reached.")

    found, notes = recipe_tasks(recipe("NanoBEIREvaluator"), pair_splits(), load=refused)
    assert list(found) == ["validation", "test"]
    assert notes == [
        "NanoBEIR is not measured (the Hub cannot be reached).",
        "Measured instead: the rows held out (validation and test).",
    ]

    def partly(location: str, *, split: str, online: Any) -> Collection:
        if split == "NanoFEVER":
            raise DataError("no such split")
        return nano(location, split=split, online=online)

    found, notes = recipe_tasks(recipe("NanoBEIREvaluator"), pair_splits(0), load=partly)
    assert list(found) == ["NanoClimateFEVER", "NanoDBPedia"]
    assert notes == ["NanoFEVER cannot be loaded, so the mean of NanoBEIR is not measured (no such split)."]


# --- saving ----------------------------------------------------------------------------------------------------------


def test_both_kinds_are_saved_in_their_own_form(tmp_path: Path) -> None:
    search, _ = recipe_tasks(recipe(), pair_splits())
    items, _ = recipe_tasks(recipe("EmbeddingSimilarityEvaluator"), scored())
    assert tasks.save(tmp_path, "test", "before", search["test"].measure(encode)) == "test"
    assert tasks.save(tmp_path, "sts dev", "before", items["test"].measure(encode)) == "sts-dev"
    run = Run(tmp_path)
    assert run.evaluations() == {"sts-dev": ("before",), "test": ("before",)}
    assert list(run.metrics("sts-dev", "before")) == ["spearman_cosine", "pearson_cosine"]
    assert len(run.per_query("test", "before")) == 2
    with pytest.raises(DataError, match="store this one under another name"):
        tasks.save(tmp_path, "test", "after", items["test"].measure(encode))


def test_columns_of_the_held_out_rows_that_nothing_reads_are_noted() -> None:
    part = rows(anchor=["q", "r"], positive=["a", "b"], negative_1=["x", "x"], negative_2=["y", "y"])
    notes = recipe_tasks(recipe("TripletEvaluator"), Splits(part, test=part))[1]
    assert notes == ["TripletEvaluator reads anchor, positive, negative_1 of the held-out rows, not negative_2."]
