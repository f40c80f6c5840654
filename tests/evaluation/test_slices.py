"""An evaluation in parts: groups of queries, fewer dimensions, coarser numbers, and files for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import ir_measures
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from ir_measures import AP, RR, P, R, Success, nDCG, read_trec_qrels, read_trec_run

from workbench.data.collection import Collection
from workbench.errors import DataError
from workbench.evaluation.projection import save_vectors
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.evaluation.slices import at_dimensions, at_precisions, slice_queries
from workbench.evaluation.trec import export
from workbench.run import Run, write_json

DOCUMENTS = {f"d{number}": f"document {number}" for number in range(40)}
QUERIES = {f"q{number}": "word " * (number % 4 + 1) + f"{number}" for number in range(20)}
RELEVANT = {f"q{number}": {f"d{number}": 1.0, **({"d39": 1.0} if number % 2 else {})} for number in range(20)}
COLLECTION = Collection("test", QUERIES, DOCUMENTS, RELEVANT)


def encode(noise: float) -> Any:
    """A document and its query share a vector of 64 numbers, the query's disturbed by `noise`."""

    def of(texts: list[str], kind: Literal["query", "document"]) -> np.ndarray[Any, Any]:
        rows = []
        for text in texts:
            number = int(text.split()[-1])
            vector = np.random.default_rng(number).normal(size=64)
            rows.append(vector + noise * np.random.default_rng(1000 + number).normal(size=64) * (kind == "query"))
        return np.array(rows, dtype=np.float32)

    return of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    write_json(folder / "run.json", {"schema_version": 1, "status": "finished"})
    for stage, noise in (("before", 3.0), ("after", 1.0)):
        found = evaluate(COLLECTION, encode(noise))
        save_evaluation(folder, "test", stage, found)
        save_vectors(folder, "test", stage, found)
    return Run(folder)


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_by_relevant_documents_have_the_means_of_their_queries(run: Run) -> None:
    found = slice_queries(run, "test", "relevant documents").set_index("group")
    assert found["queries"].to_dict() == {"1": 10, "2": 10}
    table = run.per_query("test", "after").set_index("query_id")["ndcg@10"]
    odd = [f"q{number}" for number in range(20) if number % 2]
    assert found.loc["2", "after"] == pytest.approx(table[odd].mean())
    assert found.loc["2", "low"] <= found.loc["2", "difference"] <= found.loc["2", "high"]
    assert found.loc["2", "difference"] == pytest.approx(found.loc["2", "after"] - found.loc["2", "before"])


def test_groups_by_length_of_query_are_in_order(run: Run) -> None:
    found = slice_queries(run, "test", "query length")
    assert found["group"].tolist() == ["2 words", "3 words", "4 words", "5 words"]
    assert found["queries"].tolist() == [5, 5, 5, 5]


def test_groups_by_any_column_include_every_query(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    topics = ["brakes" if number < 5 else "seats" if number < 15 else None for number in range(len(QUERIES))]
    table = run.per_query("test", "after").set_index("query_id").loc[[*QUERIES]].assign(topic=topics)
    monkeypatch.setattr(Run, "per_query", lambda *_: table.reset_index())
    found = slice_queries(run, "test", "topic")
    assert dict(zip(found["group"], found["queries"], strict=True)) == {"brakes": 5, "seats": 10, "unknown": 5}
    assert found["group"].tolist()[-1] == "unknown"


def test_unknown_columns_and_metrics_are_errors(run: Run) -> None:
    with pytest.raises(DataError) as caught:
        slice_queries(run, "test", "colour")
    assert str(caught.value) == (
        "expected query length, relevant documents or a column to slice by, found 'colour'; choose one."
    )
    with pytest.raises(DataError, match="expected a metric of 'test', found 'bleu'"):
        slice_queries(run, "test", "query length", metric="bleu")


# --- dimensions and precisions ---------------------------------------------------------------------------------------


def test_all_dimensions_give_the_numbers_of_the_evaluation(run: Run) -> None:
    found = at_dimensions(run, "test").set_index(["moment", "dimensions"])
    assert [size for stage, size in found.index if stage == "after"] == [64, 32]
    for stage in ("before", "after"):
        stored = run.metrics("test", stage)
        for metric, value in found.loc[(stage, 64)].drop("bytes").items():
            assert value == pytest.approx(stored[f"cosine_{metric}"], abs=1e-9)


def test_fewer_dimensions_are_the_numbers_of_an_evaluation_cut_there(run: Run) -> None:
    found = at_dimensions(run, "test").set_index(["moment", "dimensions"]).loc[("after", 32)]
    expected = evaluate(COLLECTION, encode(1.0), truncate_dim=32).metrics
    assert found["ndcg@10"] == pytest.approx(expected["cosine_ndcg@10"], abs=1e-9)
    assert found["bytes"] == 128


def test_binary_vectors_rank_by_equal_signs(run: Run) -> None:
    """The oracle counts them by hand, with the evaluation's tie rule: score, then document id."""
    found = at_precisions(run, "test").query("moment == 'after'").set_index("precision")
    assert found["bytes"].to_dict() == {"float32": 256, "int8": 64, "binary": 8}
    assert found["bytes"].dtype.kind == "i"  # printed without decimals
    stored = run.metrics("test", "after")["cosine_mrr@10"]
    assert found.loc["float32", "mrr@10"] == pytest.approx(stored, abs=1e-9)
    assert abs(found.loc["int8", "mrr@10"] - stored) < 0.05
    signs = {key: encode(1.0)([text], "document")[0] > 0 for key, text in DOCUMENTS.items()}
    expected = []
    for query, text in QUERIES.items():
        asked = encode(1.0)([text], "query")[0] > 0
        ranked = sorted(DOCUMENTS, key=lambda key: (-(signs[key] == asked).sum(), key))[:10]
        ranks = [rank for rank, key in enumerate(ranked, 1) if key in RELEVANT[query]]
        expected.append(1 / ranks[0] if ranks else 0)
    assert found.loc["binary", "mrr@10"] == pytest.approx(np.mean(expected))


# --- export ----------------------------------------------------------------------------------------------------------


MEASURES = {
    "accuracy@10": Success @ 10, "precision@5": P @ 5, "recall@10": R @ 10, "ndcg@10": nDCG @ 10, "mrr@10": RR @ 10,
    "map@100": AP @ 100,
}  # fmt: skip
"""Our metric -> that of ir-measures, which computes it by trec_eval's rules."""


def assert_exported_as_measured(run: Run, to: Path, similarity: str) -> None:
    """What ir-measures and pytrec_eval measure on the exported files is what the run reports, query by query."""
    ranking, qrels = export(run, "test", to=to)
    judged, ranked = list(read_trec_qrels(str(qrels))), list(read_trec_run(str(ranking)))
    found = ir_measures.calc_aggregate(MEASURES.values(), judged, ranked)
    means, table = run.metrics("test", "after"), run.per_query("test", "after").set_index("query_id")
    for ours, theirs in MEASURES.items():
        assert found[theirs] == pytest.approx(means[f"{similarity}_{ours}"], abs=1e-12), ours
    relevance: dict[str, dict[str, int]] = {}
    scores: dict[str, dict[str, float]] = {}
    for each in judged:
        relevance.setdefault(each.query_id, {})[each.doc_id] = each.relevance
    for each in ranked:
        scores.setdefault(each.query_id, {})[each.doc_id] = each.score
    for query, values in (
        pytrec_eval.RelevanceEvaluator(relevance, {"ndcg_cut.10", "map_cut.100"}).evaluate(scores).items()
    ):
        assert values["ndcg_cut_10"] == pytest.approx(table.loc[query, "ndcg@10"], abs=1e-12)
        assert values["map_cut_100"] == pytest.approx(table.loc[query, "map@100"], abs=1e-12)


def test_trec_files_give_the_same_numbers_in_other_tools(run: Run, tmp_path: Path) -> None:
    assert_exported_as_measured(run, tmp_path, "cosine")


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("size", [0.0, 1e-7, 1.0, 3000.0])
def test_tied_documents_have_one_rank_in_other_tools(size: float, similarity: str, tmp_path: Path) -> None:
    """Eight copies of every document, one of them relevant: we rank ties by id upward, trec_eval downward."""
    documents = {f"d{number:03}": f"document {number // 8}" for number in range(160)}
    queries = {f"q{number}": f"word {number}" for number in range(20)}
    relevant = {f"q{number}": {f"d{8 * number + number % 8:03}": 1.0} for number in range(20)}

    def scaled(texts: list[str], kind: Literal["query", "document"]) -> Any:
        return encode(0.2)(texts, kind) * np.float32(size)

    write_json(tmp_path / "run.json", {"schema_version": 1, "status": "finished"})
    found = evaluate(Collection("test", queries, documents, relevant), scaled, similarity=similarity)
    assert size or found.hits["score"].nunique() == 1
    save_evaluation(tmp_path, "test", "after", found)
    assert_exported_as_measured(Run(tmp_path), tmp_path / "out", similarity)


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_exported_tables_are_read_back(run: Run, tmp_path: Path, format: Any) -> None:
    queries, hits = export(run, "test", "before", to=tmp_path, format=format)
    read = {"json": pd.read_json, "csv": pd.read_csv, "parquet": pd.read_parquet}[format]
    assert read(queries)["query_id"].tolist() == list(QUERIES)
    assert len(read(hits)) == len(run.hits("test", "before"))
    if format == "json":
        assert json.loads(queries.read_text())[0]["relevant"] == ["d0"]


def test_ids_with_blanks_are_refused_by_trec(tmp_path: Path) -> None:
    found = evaluate(Collection("test", {"q 1": "word 1"}, DOCUMENTS, {"q 1": {"d1": 1.0}}), encode(1.0))
    write_json(tmp_path / "run.json", {"schema_version": 1, "status": "finished"})
    save_evaluation(tmp_path, "test", "after", found)
    with pytest.raises(DataError) as caught:
        export(Run(tmp_path), "test", to=tmp_path / "out")
    assert str(caught.value) == (
        "expected ids without blanks for TREC's formats, found 'q 1'; export as JSON or Parquet."
    )
    assert not (tmp_path / "out" / "test-after.run").exists()


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="expected a format of trec, json, csv, parquet, model or zip, found 'xml'; choose one"
    ):
        export(run, "test", to=tmp_path, format="xml")
