"""Evaluations item by item against the library's own evaluators, and the files of a run folder.

Both sides see the same vectors. Scores are compute_metrics by us in float64 and by the library in float32: a linear
correlation or a threshold differs by less than 1e-6, everything that ranks or counts items not at all, unless texts
are equal: equal pairs tie here, and come in the order of rounding errors there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from workbench.errors import DataError, RunError
from workbench.evaluation import evaluators
from workbench.evaluation.evaluators import (
    binary_classification,
    embedding_similarity,
    reranking,
    triplet_accuracy,
)
from workbench.evaluation.examples import has_examples, read_examples, save_examples, with_correlations
from workbench.run import Run

WORDS = ["engine", "wheel", "seat", "door", "speed", "range", "price", "colour", "light", "brake"]
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

since_6_2 = pytest.mark.skipif(
    Version(version("sentence-transformers")) < Version("6.2"),
    reason="before 6.2 the library's thresholds could part equal scores; ours are those of 6.2",
)


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A real SentenceTransformer with random word vectors of 16 dimensions, and prompts for queries and documents."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS, "q:", "d:"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(1)
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=16)],
        prompts={"query": "q: ", "document": "d: "},
        device="cpu",
    )


@pytest.fixture(scope="module")
def encode(tiny: Any) -> Callable[[list[str], str], Any]:
    """As `fast.encoding.encoder` makes it: the prompt of the kind, and none for "text"."""
    prompts = {"query": "q: ", "document": "d: ", "text": ""}
    return lambda texts, kind: tiny.encode(texts, prompt=prompts[kind], show_progress_bar=False)


def sentences(count: int, seed: int, length: int = 4) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) for _ in range(count)]


def pairs(count: int = 120) -> list[tuple[str, str]]:
    return list(zip(sentences(count, 1, 5), sentences(count, 2, 7), strict=True))


def graded(count: int = 120) -> list[float]:
    return (np.random.default_rng(3).integers(0, 6, count) / 5).tolist()


def labels(count: int = 120) -> list[int]:
    return np.random.default_rng(4).integers(0, 2, count).tolist()


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    texts = sentences(200, 6, length=2)  # many equal ones, so that scores tie
    made = [
        {
            "query": query,
            "positive": list(dict.fromkeys(rng.choice(texts, rng.integers(1, 3)).tolist())),
            "negative": list(dict.fromkeys(rng.choice(texts, rng.integers(1, 15)).tolist())),
        }
        for query in sentences(30, 7)
    ]
    for sample in made:
        sample["negative"] = [text for text in sample["negative"] if text not in sample["positive"]]
    return [*made, {"query": "engine", "positive": [], "negative": ["door"]}]


# --- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate_dim", [None, 5])
def test_similarity_is_the_library_s(tiny: Any, encode: Any, truncate_dim: int | None) -> None:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    ours = embedding_similarity("sts", pairs(), graded(), encode, similarities=SIMILARITIES, truncate_dim=truncate_dim)
    first, second = zip(*pairs(), strict=True)
    theirs = EmbeddingSimilarityEvaluator(
        list(first), list(second), graded(), similarity_fn_names=list(SIMILARITIES), truncate_dim=truncate_dim
    )
    expected = theirs(tiny)
    assert ours.metrics == pytest.approx(expected, abs=1e-6)
    ranked = [name for name in expected if name.startswith("spearman")]
    assert [ours.metrics[name] for name in ranked] == pytest.approx([expected[name] for name in ranked], abs=1e-9)
    assert ours.main_metric == theirs.primary_metric == "spearman_max"
    assert ours.settings["dimensions"] == (truncate_dim or 16)


def test_one_similarity_gives_two_numbers_under_the_library_s_names(tiny: Any, encode: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    ours = embedding_similarity("sts", pairs(), graded(), encode)
    first, second = zip(*pairs(), strict=True)
    theirs = EmbeddingSimilarityEvaluator(list(first), list(second), graded())
    assert ours.metrics == pytest.approx(theirs(tiny), abs=1e-6)
    assert ours.main_metric == theirs.primary_metric == "spearman_cosine"
    assert repr(ours) == f"<Evaluation of 'sts': spearman_cosine {ours.metrics['spearman_cosine']:.4f}, 120 pairs>"


def test_equal_texts_tie_exactly(encode: Any) -> None:
    ours = embedding_similarity("sts", [(text, text) for text in sentences(200, 3)], [1.0] * 200, encode)
    assert set(ours.per_example["cosine"]) == {1.0}


def test_correlation_by_hand() -> None:
    """Angles of 0, 60 and 90 degrees: cosines 1, 0.5, 0; gold 3, 1, 2. Spearman 1 - 6 * 2 / 24 = 0.5."""
    angles = {"a": 0.0, "b": 60.0, "c": 90.0}

    def turn(texts: list[str], kind: str) -> Any:
        assert kind == "text"
        radians = np.radians([angles[text] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1)

    found = embedding_similarity("hand", [("a", "a"), ("a", "b"), ("a", "c")], [3, 1, 2], turn)
    assert found.metrics == pytest.approx({"spearman_cosine": 0.5, "pearson_cosine": 0.5}, abs=1e-7)
    assert found.per_example["cosine"].tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-7)
    assert list(found.per_example) == ["item_id", "sentence1", "sentence2", "gold", "cosine"]


def test_scores_that_do_not_vary_have_no_correlation(encode: Any) -> None:
    found = embedding_similarity("sts", pairs(), [1.0] * 120, encode)
    assert np.isnan(list(found.metrics.values())).all()


@since_6_2
def test_classification_is_the_library_s(tiny: Any, encode: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

    ours = binary_classification("duplicates", pairs(), labels(), encode, similarities=SIMILARITIES)
    first, second = zip(*pairs(), strict=True)
    theirs = BinaryClassificationEvaluator(list(first), list(second), labels(), similarity_fn_names=list(SIMILARITIES))
    expected = theirs(tiny)
    assert ours.metrics == pytest.approx(expected, abs=1e-5)
    counted = [name for name in expected if not name.endswith("_threshold")]
    assert [ours.metrics[name] for name in counted] == pytest.approx([expected[name] for name in counted], abs=1e-9)
    assert ours.main_metric == theirs.primary_metric == "max_ap"


def test_labeled_pairs_are_also_correlated_on_request(encode: Any) -> None:
    from scipy import stats

    found = binary_classification("duplicates", pairs(), labels(), encode)
    both = with_correlations(found)
    scores = found.per_example["cosine"]
    assert both.metrics["spearman_cosine"] == pytest.approx(stats.spearmanr(scores, labels()).statistic, abs=1e-9)
    assert both.metrics["pearson_cosine"] == pytest.approx(stats.pearsonr(scores, labels()).statistic, abs=1e-9)
    assert {metric: both.metrics[metric] for metric in found.metrics} == dict(found.metrics)


def test_classification_with_one_label_or_one_score(encode: Any) -> None:
    """All labels 0: calling every pair different is right, and there is no F1. Scores equal: one threshold."""
    none = binary_classification("none", pairs(), [0] * 120, encode)
    assert none.metrics["cosine_accuracy"] == 1.0
    assert none.metrics["cosine_f1"] == none.metrics["cosine_f1_threshold"] == 0.0
    assert none.metrics["cosine_accuracy_threshold"] > none.per_example["cosine"].max()
    same = binary_classification("same", [("engine", "engine")] * 4, [1, 0, 1, 1], encode)
    assert same.metrics["cosine_accuracy"] == 0.75
    assert same.metrics["cosine_accuracy_threshold"] == 1.0


def test_only_labels_of_zero_and_one_are_classified(encode: Any) -> None:
    with pytest.raises(DataError) as raised:
        binary_classification("odd", pairs(2), [0, 0.5], encode)
    assert str(raised.value) == "expected labels of 0 and 1 in 'odd', found 0.5; measure scores by correlation."


def test_triplets_are_the_library_s_with_its_prompts(tiny: Any, encode: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import TripletEvaluator

    texts = [sentences(90, seed) for seed in (11, 12, 13)]
    texts[2][:5] = texts[1][:5]  # a tie is no win
    ours = triplet_accuracy("triplets", list(zip(*texts, strict=True)), encode, similarities=SIMILARITIES)
    theirs = TripletEvaluator(*texts, similarity_fn_names=list(SIMILARITIES))
    assert ours.metrics == pytest.approx(theirs(tiny), abs=1e-7)  # the library's mean is a float32
    assert ours.main_metric == theirs.primary_metric == "max_accuracy"
    assert ours.per_example["gold"].isna().all()
    plain = triplet_accuracy("triplets", list(zip(*texts, strict=True)), lambda t, kind: encode(t, "text"))
    assert plain.per_example["cosine_margin"].tolist() != ours.per_example["cosine_margin"].tolist()


def test_reranking_is_the_library_s(tiny: Any, encode: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator

    kept = [sample for sample in samples() if sample["positive"] and sample["negative"]]
    ours = reranking("rerank", samples(), encode)
    theirs = RerankingEvaluator(samples())
    expected = theirs(tiny)
    assert ours.metrics["map"] == pytest.approx(expected["map"], abs=1e-6)
    assert ours.metrics["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=1e-6)
    assert ours.metrics["mrr@10"] == pytest.approx(expected["mrr@10"], abs=1e-6)
    assert ours.main_metric == theirs.primary_metric
    assert ours.settings["left_out"] == len(samples()) - len(kept) > 0
    assert ours.per_example["map"].mean() == pytest.approx(ours.metrics["map"], abs=1e-12)


def test_equal_scores_keep_the_order_given() -> None:
    """A positive before a negative for the reciprocal rank; half of each for the others, as in the library."""
    sample = [{"query": "a", "positive": ["b"], "negative": ["c"]}]
    found = reranking("tie", sample, lambda texts, kind: np.ones((len(texts), 2)))
    assert found.metrics["mrr@10"] == 1.0
    assert found.metrics["map"] == 0.5
    assert found.metrics["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2, abs=1e-12)


# --- what cannot be measured ----------------------------------------------------------------------------------------


def test_no_rows_and_broken_vectors_are_errors(encode: Any) -> None:
    with pytest.raises(DataError) as raised:
        embedding_similarity("empty", [], [], encode)
    assert str(raised.value) == "expected texts to measure, found none; give some rows."
    with pytest.raises(DataError, match="expected a gold value for each of 3 items, found 2; give as many"):
        embedding_similarity("short", pairs(3), [1.0, 2.0], encode)
    with pytest.raises(DataError) as raised:
        embedding_similarity("nan", pairs(1), [1.0], lambda texts, kind: np.full((len(texts), 2), np.nan))
    assert str(raised.value).startswith("expected finite numbers in the vectors of the model, found NaN or infinity")
    with pytest.raises(DataError) as raised:
        embedding_similarity("few", pairs(1), [1.0], lambda texts, kind: np.ones((1, 2)))
    assert str(raised.value) == (
        "expected one vector for each of 2 texts from the encode function, found an array of shape (1, 2)."
    )
    with pytest.raises(DataError) as raised:
        evaluators.similarity_of("energy", np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    assert str(raised.value) == (
        "expected a similarity of cosine, dot, euclidean, manhattan, found 'energy'; choose one."
    )


# --- in a run folder -------------------------------------------------------------------------------------------------


def test_examples_are_read_as_saved(tmp_path: Path, encode: Any) -> None:
    found = embedding_similarity("sts", pairs(), graded(), encode)
    assert save_examples(tmp_path, "eval/../sts", "before", found) == "eval-..-sts"
    save_examples(tmp_path, "eval/../sts", "after", found)
    run = Run(tmp_path)
    assert run.evaluations() == {"eval-..-sts": ("before", "after")}
    assert run.metrics("eval-..-sts", "after") == found.metrics
    assert run.settings("eval-..-sts", "after")["statistics"]["spearman_cosine"] == ["spearman", "cosine"]
    assert has_examples(run, "eval-..-sts")
    assert read_examples(run, "eval-..-sts", "after").equals(found.per_example)
    files = sorted(path.name for path in (tmp_path / "evaluations" / "eval-..-sts").iterdir())
    assert files == ["after.json", "after.parquet", "before.json", "before.parquet", "items.parquet"]


def test_other_items_do_not_share_a_folder(tmp_path: Path, encode: Any) -> None:
    save_examples(tmp_path, "sts", "before", embedding_similarity("sts", pairs(), graded(), encode))
    other = embedding_similarity("sts", pairs(), [1 - value for value in graded()], encode)
    with pytest.raises(DataError) as raised:
        save_examples(tmp_path, "sts", "after", other)
    assert str(raised.value) == (
        f"expected the items of 'sts' in {str(tmp_path / 'evaluations' / 'sts')!r}, found those of another "
        "evaluation; store this one under another name."
    )
    with pytest.raises(DataError, match="expected a stage of before, after or step-N, found 'later'"):
        save_examples(tmp_path, "sts", "later", other)
    with pytest.raises(RunError, match="expected the values of 'sts', 'after' in run"):
        read_examples(Run(tmp_path), "sts", "after")
