"""Metrics against the library, against ir-measures, and against hand calculation."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import DataError
from workbench.evaluation import metrics


def library(gains: np.ndarray, relevant: list[int]) -> list[dict[str, float]]:
    """What InformationRetrievalEvaluator computes for each ranking alone."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    results = []
    for row, count in zip(gains, relevant, strict=True):
        hits = [f"r{at}" if gain > 0 else f"n{at}" for at, gain in enumerate(row)]
        gold = {hit for hit in hits if hit[0] == "r"}
        gold |= {f"missing{number}" for number in range(count - len(gold))}
        evaluator = InformationRetrievalEvaluator({"q": "?"}, {"d": "!"}, {"q": gold})
        ranking = [{"corpus_id": hit, "score": -at} for at, hit in enumerate(hits)]
        scores = evaluator.compute_metrics([ranking])
        results.append(
            {name.replace("@k", f"@{k}"): float(value) for name, by_k in scores.items() for k, value in by_k.items()}
        )
    return results


def rankings(seed: int, queries: int = 60, depth: int = 100) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.01, 0.05, 0.3, 0.9], size=(queries, 1))
    gains = (rng.random((queries, depth)) < share).astype(float)
    relevant = (gains.sum(axis=1) + rng.integers(0, 4, queries)).clip(1).astype(int).tolist()
    return gains, relevant


@pytest.mark.parametrize("depth", [1, 7, 100, 130])
def test_equal_to_the_library_on_every_ranking(depth: int) -> None:
    gains, relevant = rankings(depth, depth=depth)
    ours = metrics.every_metric(gains, relevant)
    for row, expected in enumerate(library(gains, relevant)):
        assert set(expected) == set(ours)
        for name, value in expected.items():
            assert ours[name][row] == pytest.approx(value, abs=1e-12), (name, row)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 3))
def test_equal_to_the_library_on_any_short_ranking(hits: list[bool], missing: int) -> None:
    gains = np.array([hits], dtype=float)
    relevant = [max(sum(hits) + missing, 1)]
    (expected,) = library(gains, relevant)
    ours = metrics.every_metric(gains, relevant)
    assert {name: ours[name][0] for name in ours} == pytest.approx(expected, abs=1e-12)


def test_one_ranking_and_many_give_the_same() -> None:
    gains, relevant = rankings(3)
    many = metrics.every_metric(gains, relevant)
    for row in range(len(gains)):
        one = metrics.every_metric(gains[row], relevant[row])
        alone = {name: float(value) for name, value in one.items()}
        assert alone == pytest.approx({name: many[name][row] for name in many}, abs=1e-15)


def test_by_hand() -> None:
    gains = [0, 1, 0, 1, 0]  # relevant at 2 and 4, a third one never found
    assert float(metrics.accuracy(gains, 1)) == 0
    assert float(metrics.accuracy(gains, 2)) == 1
    assert float(metrics.precision(gains, 10)) == pytest.approx(2 / 10)
    assert float(metrics.recall(gains, 3, 10)) == pytest.approx(2 / 3)
    assert float(metrics.mrr(gains, 10)) == pytest.approx(1 / 2)
    assert float(metrics.average_precision(gains, 3, 100)) == pytest.approx((1 / 2 + 2 / 4) / 3)
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert float(metrics.ndcg(gains, 3, 10)) == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)


def test_graded_ndcg_is_that_of_ir_measures() -> None:
    rng = np.random.default_rng(5)
    gains = rng.choice([0, 0, 0, 1, 2, 3], size=(20, 30))
    missing = rng.integers(1, 4, size=(20, 2))
    measure = ir_measures.nDCG @ 10
    ours = metrics.graded_ndcg(gains, np.concatenate([gains, missing], axis=1), 10)
    for row in range(20):
        qrels = [ir_measures.Qrel("q", f"d{at:02}", int(value)) for at, value in enumerate(gains[row])]
        qrels += [ir_measures.Qrel("q", f"m{at}", int(value)) for at, value in enumerate(missing[row])]
        run = [ir_measures.ScoredDoc("q", f"d{at:02}", float(-at)) for at in range(30)]
        assert ours[row] == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure], abs=1e-9)


def test_binary_metrics_are_those_of_ir_measures() -> None:
    gains, relevant = rankings(8, depth=100)
    ours = metrics.every_metric(gains, relevant)
    pairs = {
        "precision@10": ir_measures.P @ 10,
        "recall@10": ir_measures.R @ 10,
        "ndcg@10": ir_measures.nDCG @ 10,
        "mrr@10": ir_measures.RR @ 10,
        "map@100": ir_measures.AP @ 100,
    }
    for row, count in enumerate(relevant):
        found = [f"d{at:03}" for at in range(100) if gains[row, at]]
        gold = [*found, *(f"m{number}" for number in range(count - len(found)))]
        qrels = [ir_measures.Qrel("q", document, 1) for document in gold]
        run = [ir_measures.ScoredDoc("q", f"d{at:03}", float(-at)) for at in range(100)]
        expected = ir_measures.calc_aggregate(pairs.values(), qrels, run)
        for name, measure in pairs.items():
            if name == "map@100" and count > 100:
                continue  # ir-measures divides by all relevant documents, the library by at most k
            assert ours[name][row] == pytest.approx(expected[measure], abs=1e-9), (name, row)


def test_graded_equals_binary_for_gains_of_one() -> None:
    gains, relevant = rankings(9)
    ideal = np.array([[1.0] * count + [0.0] * (200 - count) for count in relevant])
    assert metrics.graded_ndcg(gains, ideal, 10) == pytest.approx(metrics.ndcg(gains, relevant, 10), abs=1e-12)


def test_an_empty_ranking_scores_zero() -> None:
    for name, value in metrics.every_metric(np.zeros((2, 0)), [1, 2]).items():
        assert value.tolist() == [0.0, 0.0], name


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        metrics.recall([1], 0, 10)
    assert str(caught.value) == (
        "expected a relevant document for every ranking, found one without; leave such queries out."
    )
    with pytest.raises(DataError, match="leave such queries out"):
        metrics.graded_ndcg([1], [0], 10)
    with pytest.raises(DataError) as caught:
        metrics.precision([1], 0)
    assert str(caught.value) == "expected k of at least 1, found 0; metrics look at the first k documents."
