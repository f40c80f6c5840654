"""Exact top-k against a full sort, and against the library's own evaluator where scores tie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import search
from workbench.errors import DataError


def by_full_sort(scores: np.ndarray, ids: list[str], k: int) -> list[list[int]]:
    """Positions by score descending, then id ascending, with Python's sort."""
    return [sorted(range(len(ids)), key=lambda at: (-row[at], ids[at]))[:k] for row in scores.tolist()]


@pytest.mark.parametrize("similarity", search.SIMILARITIES)
@pytest.mark.parametrize("block", [16, 64, 1000])
def test_every_similarity_is_the_library_s(similarity: str, block: int) -> None:
    from sentence_transformers import SimilarityFunction

    rng = np.random.default_rng(1)
    queries, documents = rng.normal(size=(37, 24)).astype("f"), rng.normal(size=(320, 24)).astype("f")
    scores = SimilarityFunction.to_similarity_fn(similarity)(queries, documents).numpy()
    found = search.top_k(queries, documents, 50, similarity=similarity, block=block)
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
    found = search.top_k(queries, documents, k, similarity="dot", ids=ids, block=block)
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
    found = search.top_k(queries, documents, 100, similarity="dot", ids=ids, block=64)
    assert [[ids[at] for at in row] for row in found.positions.tolist()] == kept


def test_parts_give_the_same_as_the_whole() -> None:
    rng = np.random.default_rng(3)
    queries, documents = rng.normal(size=(2100, 16)).astype("f"), rng.normal(size=(640, 16)).astype("f")
    whole = search.top_k(queries, documents, 20)
    parts = search.Search(queries, 20, block=64)
    for start in (0, 160, 480):
        parts.add(documents[start : {0: 160, 160: 480, 480: 640}[start]])
    assert parts.result().positions.tolist() == whole.positions.tolist()
    assert parts.result().scores.tolist() == whole.scores.tolist()


def test_a_memory_map_and_other_number_types_are_read(tmp_path) -> None:
    rng = np.random.default_rng(4)
    documents = rng.normal(size=(100, 8)).astype(np.float16)
    np.save(tmp_path / "documents.npy", documents)
    stored = np.load(tmp_path / "documents.npy", mmap_mode="r")
    assert search.top_k(documents[:3], stored, 1, block=32).positions.ravel().tolist() == [0, 1, 2]


def test_k_above_the_corpus_gives_the_corpus() -> None:
    found = search.top_k(np.eye(2), np.eye(2), 100)
    assert found.positions.tolist() == [[0, 1], [1, 0]]


def test_an_empty_corpus_gives_nothing() -> None:
    assert search.top_k(np.eye(2), np.empty((0, 2)), 5).positions.shape == (2, 0)
    assert search.top_k(np.empty((0, 2)), np.eye(2), 5).positions.shape[0] == 0


def test_a_zero_vector_is_as_far_from_everything() -> None:
    assert search.top_k([[0.0, 0.0]], np.eye(2), 2).scores.tolist() == [[0.0, 0.0]]


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    search.top_k(np.eye(3), np.eye(3), 1, block=2, on_progress=lambda *values: told.append(values))
    assert told == [("search", 2, 3), ("search", 3, 3)]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_named(broken: float) -> None:
    documents = np.ones((10, 3))
    documents[7, 1] = broken
    with pytest.raises(DataError) as caught:
        search.top_k(np.ones((1, 3)), documents, 3, block=4)
    assert str(caught.value) == (
        "expected finite numbers in the vectors of the documents, found NaN or infinity in row 7; "
        "the model that made them is broken, or its precision too low."
    )


def test_large_finite_numbers_are_finite() -> None:
    assert search.top_k(np.full((1, 4), 3e38), np.full((2, 4), 3e38), 1).positions.tolist() == [[0]]


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        search.top_k(np.ones((1, 3)), np.ones((2, 4)), 1)
    assert str(caught.value) == (
        "expected documents of 3 dimensions like the queries, found 4; were they encoded by another model?"
    )


def test_arguments_that_mean_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="expected a similarity of cosine, dot, euclidean, manhattan, found 'near'"):
        search.top_k(np.eye(2), np.eye(2), 1, similarity="near")
    with pytest.raises(DataError, match="found 0 and 32768"):
        search.top_k(np.eye(2), np.eye(2), 0)
    with pytest.raises(DataError, match="expected one id for each of 2 documents, found 1"):
        search.top_k(np.eye(2), np.eye(2), 1, ids=["a"])
    with pytest.raises(DataError, match=r"of shape \(rows, dimensions\), found \(2,\)"):
        search.top_k(np.ones(2), np.eye(2), 1)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA GPU")
def test_cuda_finds_the_same() -> None:
    rng = np.random.default_rng(6)
    queries, documents = rng.normal(size=(50, 32)).astype("f"), rng.normal(size=(5000, 32)).astype("f")
    here, there = (search.top_k(queries, documents, 100, device=device) for device in ("cpu", "cuda"))
    assert there.scores == pytest.approx(here.scores, abs=1e-6)
