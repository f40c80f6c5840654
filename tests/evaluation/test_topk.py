"""Exact top-k against a full sort, and against the library's own evaluator where scores tie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.cards.metric_names import LIBRARY_SIMILARITIES, SIMILARITIES
from workbench.errors import DataError
from workbench.evaluation import topk

LIBRARY = LIBRARY_SIMILARITIES


def by_full_sort(scores: np.ndarray, ids: list[str], k: int) -> list[list[int]]:
    """Positions by score descending, then id ascending, with Python's sort."""
    return [sorted(range(len(ids)), key=lambda at: (-row[at], ids[at]))[:k] for row in scores.tolist()]


@pytest.mark.parametrize("similarity", LIBRARY)
@pytest.mark.parametrize("block", [16, 64, 1000])
def test_every_similarity_is_the_library_s(similarity: str, block: int) -> None:
    from sentence_transformers import SimilarityFunction

    rng = np.random.default_rng(1)
    queries, documents = rng.normal(size=(37, 24)).astype("f"), rng.normal(size=(320, 24)).astype("f")
    scores = SimilarityFunction.to_similarity_fn(similarity)(queries, documents).numpy()
    found = topk.top_k(queries, documents, 50, similarity=similarity, block=block)
    expected = -np.sort(-scores, axis=1)[:, :50]
    assert found.scores == pytest.approx(expected, abs=2e-6)
    assert np.take_along_axis(scores, found.positions, axis=1) == pytest.approx(expected, abs=2e-6)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.integers(1, 70),
    st.sampled_from([1, 3, 16, 64]),
    st.randoms(use_true_random=False),
)
def test_ties_go_to_the_lower_id(values: list[int], k: int, block: int, random: object) -> None:
    """Scores of 0 to 3 tie in nearly every place: inside blocks, across blocks and at the cut."""
    ids = [f"d{number}" for number in range(len(values))]
    random.shuffle(ids)  # type: ignore[attr-defined]
    queries = np.array([[1.0], [2.0], [-1.0], [0.0]], dtype="f")
    documents = np.array(values, dtype="f")[:, None]
    found = topk.top_k(queries, documents, k, similarity="dot", ids=ids, block=block)
    assert found.positions.tolist() == by_full_sort(queries @ documents.T, ids, k)
    assert found.positions.shape == (4, min(k, len(values)))


def test_ties_are_broken_as_the_library_breaks_them() -> None:
    """300 documents with 12 vectors among them, in chunks that cut through the ties."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    rng = np.random.default_rng(2)
    documents = rng.integers(-2, 3, size=(12, 4))[rng.integers(0, 12, 300)].astype("f")
    queries = rng.integers(-2, 3, size=(9, 4)).astype("f")
    ids = [str(number) for number in rng.permutation(300)]
    kept: list[list[str]] = []

    class Spy(InformationRetrievalEvaluator):
        def embed_inputs(self, model, sentences, encode_fn_name=None, **_):
            return torch.tensor(queries)

        def compute_metrics(self, results):
            kept.extend([hit["corpus_id"] for hit in row] for row in results)
            return super().compute_metrics(results)

    spy = Spy(
        {f"q{number}": "?" for number in range(9)},
        dict.fromkeys(ids, "!"),
        {f"q{number}": {ids[number]} for number in range(9)},
        corpus_chunk_size=77,
        score_functions={"dot": lambda a, b: a @ b.T},
    )
    spy.compute_all_metrics(None, corpus_embeddings=torch.tensor(documents))
    found = topk.top_k(queries, documents, 100, similarity="dot", ids=ids, block=64)
    assert [[ids[at] for at in row] for row in found.positions.tolist()] == kept


def test_parts_give_the_same_as_the_whole() -> None:
    rng = np.random.default_rng(3)
    queries, documents = rng.normal(size=(2100, 16)).astype("f"), rng.normal(size=(640, 16)).astype("f")
    whole = topk.top_k(queries, documents, 20)
    parts = topk.Search(queries, 20, block=64)
    for start in (0, 160, 480):
        parts.add(documents[start : {0: 160, 160: 480, 480: 640}[start]])
    assert parts.result().positions.tolist() == whole.positions.tolist()
    assert parts.result().scores.tolist() == whole.scores.tolist()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("queries", [1, 9, 40])
def test_equal_documents_tie_at_any_position(similarity: str, queries: int) -> None:
    """777 copies of 5 vectors: 5 scores for each query, and within each the ids ascend."""
    rng = np.random.default_rng(7)
    which = rng.integers(0, 5, 777)
    documents = rng.normal(size=(5, 33)).astype("f")[which]
    asked = rng.normal(size=(queries, *((6,) if similarity == "energy" else ()), 33)).astype("f")
    found = topk.top_k(asked, documents, 777, similarity=similarity, distance="euclidean", block=128)
    for positions, scores in zip(found.positions, found.scores, strict=True):
        assert len(set(scores.tolist())) == 5
        for each in range(5):
            at = np.flatnonzero(which[positions] == each)
            assert len(set(scores[at].tolist())) == 1
            assert (np.diff(positions[at]) > 0).all()


@pytest.mark.parametrize("order", ["random", "worst first", "best first", "all equal", "one query differs"])
@pytest.mark.parametrize("k", [1, 7])
def test_candidates_of_every_block_are_merged(order: str, k: int) -> None:
    """2,000 documents in blocks of 16, whole numbers as scores: the orders that let most or least candidates wait."""
    rng = np.random.default_rng(8)
    values = rng.integers(0, 400, 2000)
    if order in ("worst first", "best first"):
        values = np.sort(values)[:: 1 if order == "worst first" else -1]
    if order == "all equal":
        values = np.full(2000, 3)
    documents = np.stack([values, rng.integers(0, 400, 2000)], axis=1).astype("f")
    queries = np.array([[1, 0], [1, 0], [0, 1] if order == "one query differs" else [2, 0]], dtype="f")
    ids = [f"{number:05}" for number in rng.permutation(2000)]
    found = topk.top_k(queries, documents, k, similarity="dot", ids=ids, block=16)
    assert found.positions.tolist() == by_full_sort(queries @ documents.T, ids, k)


def test_the_order_of_arrival_changes_no_bit() -> None:
    rng = np.random.default_rng(9)
    queries, documents = rng.normal(size=(3, 24)).astype("f"), rng.normal(size=(500, 24)).astype("f")
    for similarity in LIBRARY:
        whole = topk.top_k(queries, documents, 60, similarity=similarity, block=64)
        parts = topk.Search(queries, 60, similarity=similarity, block=64)
        for start, end in [(0, 1), (1, 70), (70, 200), (200, 201), (201, 500)]:
            parts.add(documents[start:end])
        assert parts.result().scores.tolist() == whole.scores.tolist()
        assert parts.result().positions.tolist() == whole.positions.tolist()


def test_memory_is_that_of_a_block() -> None:
    """Numbers in the largest tensor: (16 queries, 512 documents) or (512 documents, 24); the corpus has 96,000."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, tuple | list) else (out,):
                # A part of the corpus is a view of it, so numbers are counted and not the memory behind them.
                largest = max(largest, each.numel() if hasattr(each, "numel") else 0)
            return out

    rng = np.random.default_rng(10)
    documents = rng.normal(size=(4000, 24)).astype("f")
    with Watch():
        topk.top_k(rng.normal(size=(16, 24)), documents, 10, block=512)
        assert largest == 512 * 24
        largest = 0
        topk.top_k(rng.normal(size=(16, 4, 24)), documents, 10, similarity="energy", block=512)
        assert largest == 16 * 4 * 512  # tokens x documents
        largest = 0
        topk.top_k(rng.normal(size=(400, 4, 24)), documents[:512], 10, similarity="energy", block=512)
        assert largest == topk.QUERIES_AT_ONCE * 512  # of the 1,600 tokens


@pytest.mark.parametrize(
    ("queries", "documents", "block", "megabytes"), [(100, 20_000, 64, 2), (1000, 16_000, 16_000, 250)]
)
def test_memory_where_every_document_ties(queries: int, documents: int, block: int, megabytes: int) -> None:
    """All are candidates: half of the corpus would wait, 24 MB in the first case and 500 MB in the second."""
    import tracemalloc

    known = np.ones((documents, 2), dtype="f")
    tracemalloc.start()
    found = topk.top_k(np.ones((queries, 2)), known, 2, block=block)
    peak = tracemalloc.get_traced_memory()[1] / 1e6  # NumPy's memory; candidates are in no tensor
    tracemalloc.stop()
    assert found.positions.tolist() == [[0, 1]] * queries
    assert peak < megabytes


# --- energy ----------------------------------------------------------------------------------------------------------


def clouds(seed: int, queries: int, dim: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rng.integers(1, 9), dim)).astype("f") for _ in range(queries)]


def energy_by_hand(asked: list[np.ndarray], documents: np.ndarray, order: int) -> np.ndarray:
    """(queries, documents) in float64, by the formula."""
    norm = (lambda x: np.abs(x).sum(-1)) if order == 1 else (lambda x: np.sqrt(np.square(x).sum(-1)))
    rows = []
    for cloud in (each.astype(float) for each in asked):
        between = norm(cloud[:, None] - documents.astype(float)).mean(axis=0)
        rows.append(-(2 * between - norm(cloud[:, None] - cloud).mean()))
    return np.stack(rows)


@pytest.mark.parametrize(("distance", "order"), [("manhattan", 1), ("euclidean", 2)])
@pytest.mark.parametrize("block", [16, 1000])
def test_energy_ranks_as_the_formula(distance: str, order: int, block: int) -> None:
    asked = clouds(11, 300, 24)
    assert sum(len(cloud) for cloud in asked) > topk.QUERIES_AT_ONCE
    documents = np.random.default_rng(12).normal(size=(333, 24)).astype("f")
    documents[5] = asked[0][0]  # no distance to one of the tokens
    exact = energy_by_hand(asked, documents, order)
    found = topk.top_k(asked, documents, 20, similarity="energy", distance=distance, block=block)
    assert found.positions.tolist() == by_full_sort(exact, [f"{at:04}" for at in range(333)], 20)
    assert found.scores == pytest.approx(np.take_along_axis(exact, found.positions, axis=1), abs=2e-5)


def test_energy_needs_token_embeddings() -> None:
    with pytest.raises(DataError) as caught:
        topk.top_k([np.ones((2, 3)), np.ones((1, 4))], np.ones((2, 3)), 1, similarity="energy")
    assert str(caught.value) == (
        "expected at least one token for every query, each of 3 dimensions like the first, found (1, 4) for query 1."
    )
    with pytest.raises(DataError, match=r"found \(0, 3\) for query 0"):
        topk.top_k([np.ones((0, 3))], np.ones((2, 3)), 1, similarity="energy")
    with pytest.raises(DataError, match=r"expected the tokens of a query of shape \(rows, dimensions\), found \(3,\)"):
        topk.top_k(np.ones((2, 3)), np.ones((2, 3)), 1, similarity="energy")
    with pytest.raises(DataError, match="expected a distance of manhattan or euclidean, found 'cosine'"):
        topk.top_k([np.ones((2, 3))], np.ones((2, 3)), 1, similarity="energy", distance="cosine")
    with pytest.raises(DataError, match="vectors of the tokens of query 1, found NaN or infinity in row 2"):
        topk.top_k([np.ones((2, 3)), [[1.0], [1.0], [np.nan]] * np.ones(3)], np.ones((2, 3)), 1, similarity="energy")
    with pytest.raises(DataError, match="expected documents of 3 dimensions like the queries, found 4"):
        topk.top_k([np.ones((2, 3))], np.ones((2, 4)), 1, similarity="energy")
    assert topk.top_k([], np.ones((2, 4)), 1, similarity="energy").positions.shape == (0, 1)


# --- input -----------------------------------------------------------------------------------------------------------


def test_a_memory_map_and_other_number_types_are_read(tmp_path) -> None:
    rng = np.random.default_rng(4)
    documents = rng.normal(size=(100, 8)).astype(np.float16)
    np.save(tmp_path / "documents.npy", documents)
    stored = np.load(tmp_path / "documents.npy", mmap_mode="r")
    assert topk.top_k(documents[:3], stored, 1, block=32).positions.ravel().tolist() == [0, 1, 2]


def test_k_above_the_corpus_gives_the_corpus() -> None:
    found = topk.top_k(np.eye(2), np.eye(2), 100)
    assert found.positions.tolist() == [[0, 1], [1, 0]]


def test_an_empty_corpus_gives_nothing() -> None:
    assert topk.top_k(np.eye(2), np.empty((0, 2)), 5).positions.shape == (2, 0)
    assert topk.top_k(np.empty((0, 2)), np.eye(2), 5).positions.shape[0] == 0


def test_a_zero_vector_is_as_far_from_everything() -> None:
    assert topk.top_k([[0.0, 0.0]], np.eye(2), 2).scores.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_errors(broken: float) -> None:
    documents = np.ones((10, 3))
    documents[7, 1] = broken
    with pytest.raises(DataError) as caught:
        topk.top_k(np.ones((1, 3)), documents, 3, block=4)
    assert str(caught.value) == (
        "expected finite numbers in the vectors of the documents, found NaN or infinity in row 7; "
        "the model that made them is broken, or its precision too low."
    )


def test_large_finite_numbers_are_finite() -> None:
    assert topk.top_k(np.full((1, 4), 3e38), np.full((2, 4), 3e38), 1).positions.tolist() == [[0]]


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        topk.top_k(np.ones((1, 3)), np.ones((2, 4)), 1)
    assert str(caught.value) == (
        "expected documents of 3 dimensions like the queries, found 4; were they encoded by another model?"
    )


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(
        DataError, match="expected a similarity of cosine, dot, euclidean, manhattan, energy, found 'near'"
    ):
        topk.top_k(np.eye(2), np.eye(2), 1, similarity="near")
    with pytest.raises(DataError, match="found 0 and 2048"):
        topk.top_k(np.eye(2), np.eye(2), 0, device="cpu")
    with pytest.raises(DataError, match="found 1 and 0"):
        topk.top_k(np.eye(2), np.eye(2), 1, block=0)
    with pytest.raises(DataError) as caught:
        topk.top_k(np.eye(2), np.eye(3, 2), 1, ids=["a", "b", "a"])
    assert str(caught.value) == "expected every document to have its own id, found 'a' twice; rename one."
    with pytest.raises(DataError) as caught:
        topk.top_k(np.full((1, 2), 3e38), np.array([[3e38, -3e38]]), 1, similarity="dot")
    assert str(caught.value) == (
        "expected vectors of the queries no longer than 1e+18, found row 0 whose scores float32 may not hold; make the "
        "vectors shorter, or use the similarity cosine."
    )
    with pytest.raises(DataError, match="expected one id for each of 2 documents, found 1"):
        topk.top_k(np.eye(2), np.eye(2), 1, ids=["a"])
    with pytest.raises(DataError, match=r"of shape \(rows, dimensions\), found \(2,\)"):
        topk.top_k(np.ones(2), np.eye(2), 1)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA GPU")
def test_cuda_finds_the_same() -> None:
    rng = np.random.default_rng(6)
    queries, documents = rng.normal(size=(50, 32)).astype("f"), rng.normal(size=(5000, 32)).astype("f")
    here, there = (topk.top_k(queries, documents, 100, device=device) for device in ("cpu", "cuda"))
    assert there.scores == pytest.approx(here.scores, abs=1e-6)
