"""Maps: every query and needed document is on them, they say how far they can be trusted, and are made once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from workbench.data.collection import Collection
from workbench.errors import DataError, RunError
from workbench.evaluation.projection import (
    NEIGHBORS,
    choose_documents,
    load_map,
    load_vectors,
    neighborhood_preservation,
    project,
    save_vectors,
    umap_graph,
)
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.run import Run, write_json

GROUPS, EACH = 6, 10


def texts_of(group: int, kind: str) -> dict[str, str]:
    return {f"{kind}{group}-{number}": f"{kind} {number} of {group}" for number in range(EACH)}


COLLECTION = Collection(
    name="test",
    queries={key: text for group in range(GROUPS) for key, text in texts_of(group, "q").items()},
    corpus={key: text for group in range(GROUPS) for key, text in texts_of(group, "d").items()},
    relevant={f"q{group}-{number}": {f"d{group}-{number}": 1.0} for group in range(GROUPS) for number in range(EACH)},
)


def encode(spread: float) -> Any:
    """A model that knows the group of a text, and little more: groups are orthogonal."""

    def of(texts: list[str], kind: Literal["query", "document"]) -> np.ndarray[Any, Any]:
        vectors = np.zeros((len(texts), 16), dtype=np.float32)
        for row, text in enumerate(texts):
            words = text.split()
            vectors[row, int(words[-1])] = 1
            vectors[row, GROUPS:] = spread * np.random.default_rng(int(words[1])).normal(size=16 - GROUPS)
        return vectors

    return of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder with one evaluation before and after training, and its vectors."""
    write_json(tmp_path / "run.json", {"schema_version": 1, "status": "finished"})
    for stage, spread in (("before", 0.3), ("after", 0.1)):
        found = evaluate(COLLECTION, encode(spread), depth=10)
        save_evaluation(tmp_path, "test", stage, found)
        save_vectors(tmp_path, "test", stage, found)
    return Run(tmp_path)


def test_vectors_are_loaded_as_saved(run: Run) -> None:
    found = load_vectors(run, "test", "after")
    assert found.query_ids == tuple(COLLECTION.queries)
    assert found.document_ids == tuple(COLLECTION.corpus)
    expected = encode(0.1)(list(COLLECTION.queries.values()), "query")
    np.testing.assert_array_equal(found.queries, expected)


def test_a_large_corpus_keeps_what_is_needed_and_the_same_sample_each_time() -> None:
    ids = [f"d{number}" for number in range(1000)]
    first, second = choose_documents(ids, ["d3", "d900"], 100), choose_documents(ids, ["d4", "d901"], 100)
    assert len(first) == len(second) == 100
    assert {3, 900} <= set(first)
    assert {4, 901} <= set(second)
    assert len(set(first) & set(second)) >= 96
    assert choose_documents(ids, ids[:200], 100) == list(range(200))


@pytest.mark.parametrize("together", [True, False])
def test_pca_keeps_as_much_variance_as_a_plane_can(run: Run, *, together: bool) -> None:
    """The oracle is numpy's SVD: no plane keeps more than its two largest singular values squared."""
    found = project(run, "test", "pca", together=together)
    arrays = []
    for stage in ("before", "after"):
        vectors = load_vectors(run, "test", stage)
        array = np.concatenate([vectors.queries, vectors.documents])
        arrays.append(array / np.linalg.norm(array, axis=1, keepdims=True))
    places = found.points[["x", "y"]].to_numpy()
    parts = [(arrays, places)] if together else [([arrays[0]], places[:120]), ([arrays[1]], places[120:])]
    for of, plane in parts:
        array = np.concatenate(of)
        values = np.linalg.svd(array - array.mean(axis=0), compute_uv=False)
        assert (plane**2).sum() == pytest.approx((values[:2] ** 2).sum(), rel=1e-4)
        assert abs(plane.mean(axis=0)).max() < 1e-5


@pytest.mark.slow
def test_umap_separates_groups_and_reports_preservation(run: Run) -> None:
    found = project(run, "test")
    assert len(found.points) == 2 * 2 * GROUPS * EACH
    assert set(found.preservation) == {"before", "after"}
    assert min(found.preservation.values()) > 0.5  # a map at random keeps 15 of 119, an eighth
    assert found.parameters["seed"] == 42
    assert found.parameters["versions"]["umap-learn"]
    next((run.path / "maps").glob("*.parquet")).unlink()
    again = project(run, "test")
    np.testing.assert_array_equal(found.points[["x", "y"]], again.points[["x", "y"]])


@pytest.mark.slow
def test_the_graph_of_umap_is_that_of_umap_learn() -> None:
    import umap

    array = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    array[7] = array[3]  # equal texts
    array /= np.linalg.norm(array, axis=1, keepdims=True)
    theirs = umap.UMAP(NEIGHBORS, metric="cosine", n_epochs=1, random_state=1, n_jobs=1).fit(array).graph_.toarray()
    assert np.abs(umap_graph(array).toarray() - theirs).max() < 1e-2
    assert np.abs(umap_graph(array).toarray() - theirs).mean() < 1e-6


def test_a_map_is_stored_until_its_vectors_change(run: Run) -> None:
    made = project(run, "test", "pca")
    stored = load_map(run, "test", "pca")
    assert stored is not None
    assert stored.parameters == made.parameters
    assert stored.points.equals(made.points)
    assert load_map(run, "test", "umap") is None
    file = next((run.path / "vectors").iterdir())
    newer = file.stat().st_mtime_ns + 10**10
    os.utime(file, ns=(newer, newer))
    assert load_map(run, "test", "pca") is None


def test_a_sample_has_every_query_and_every_needed_document(run: Run) -> None:
    found = project(run, "test", "pca", most=70)
    before = found.points[found.points["moment"] == "before"]
    assert set(before[before["kind"] == "query"]["id"]) == set(COLLECTION.queries)
    assert set(before[before["kind"] == "document"]["id"]) >= set(run.documents("test")["document_id"])


def test_neighborhood_preservation_by_hand() -> None:
    """Four points on a line; the map swaps the last two, so of k=1 neighbours half are kept."""
    angles = np.array([0.0, 0.1, 1.0, 1.15])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert neighborhood_preservation(vectors, np.array([[0.0, 0], [1, 0], [5, 0], [6, 0]]), k=1) == 1.0
    assert neighborhood_preservation(vectors, np.array([[0.0, 0], [9, 0], [1, 0], [10, 0]]), k=1) == 0.0


def test_vectors_of_another_collection_are_refused(run: Run) -> None:
    said = run.path / "evaluations" / "test" / "after.json"
    said.write_text(said.read_text().replace(COLLECTION.sha256, "0" * 64))
    with pytest.raises(RunError, match="found those of another; they were made for another model or other texts"):
        load_vectors(run, "test", "after")


def test_vectors_of_another_model_are_refused(run: Run) -> None:
    """The same texts, so the collection's hash is the same; the scores are not."""
    (run.path / "vectors" / "test-before.safetensors").replace(run.path / "vectors" / "test-after.safetensors")
    with pytest.raises(RunError) as caught:
        load_vectors(run, "test", "after")
    path = run.path / "vectors" / "test-after.safetensors"
    assert str(caught.value) == (
        f"expected in {str(path)!r} the vectors of the collection that run {run.name!r} measured, found those of "
        "another; they were made for another model or other texts, so train again."
    )


def test_missing_vectors_broken_vectors_and_too_few_points_are_errors(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        project(run, "validation")
    assert str(caught.value) == (
        f"expected vectors of 'validation', before, in run {run.name!r}, found none; runs trained with this version "
        "keep them, so train again or choose another evaluation."
    )
    (run.path / "vectors" / "test-after.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"expected vectors in .* found something else"):
        project(run, "test")
    few = Collection(name="few", queries={"q": "q 1 of 0"}, corpus={"d": "d 1 of 0"}, relevant={"q": {"d": 1.0}})
    found = evaluate(few, encode(0.1))
    save_evaluation(tmp_path, "few", "after", found)
    save_vectors(tmp_path, "few", "after", found)
    with pytest.raises(DataError, match="expected at least 5 texts for a map of 'few', found 2"):
        project(run, "few", "pca")
