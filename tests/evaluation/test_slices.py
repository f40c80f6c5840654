"""An evaluation in parts: groups of queries, fewer dimensions, coarser numbers, and files for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

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
    halves = slice_queries(run, "test", "query length", groups=2)
    assert halves["group"].tolist() == ["2 to 3 words", "4 to 5 words"]


def test_groups_by_any_column_include_every_query(run: Run) -> None:
    topics = {query: "brakes" if number < 5 else "seats" for number, query in enumerate(QUERIES) if number < 15}
    found = slice_queries(run, "test", topics)
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
    found = at_dimensions(run, "test", [16], stages=("after",)).iloc[0]
    expected = evaluate(COLLECTION, encode(1.0), truncate_dim=16).metrics
    assert found["ndcg@10"] == pytest.approx(expected["cosine_ndcg@10"], abs=1e-9)
    assert found["bytes"] == 64


def test_more_dimensions_than_there_are_is_refused(run: Run) -> None:
    with pytest.raises(DataError, match="expected dimensions from 1 to 64, found 65; choose fewer"):
        at_dimensions(run, "test", [65])


def test_binary_vectors_rank_by_equal_signs(run: Run) -> None:
    """The oracle counts them by hand, with the evaluation's tie rule: score, then document id."""
    found = at_precisions(run, "test", stages=("after",)).set_index("precision")
    assert found["bytes"].to_dict() == {"float32": 256, "int8": 64, "binary": 8}
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


def test_trec_files_give_the_same_numbers_in_another_tool(run: Run, tmp_path: Path) -> None:
    """The oracle reads the two files by TREC's rules and counts reciprocal ranks."""
    ranking, qrels = export(run, "test", to=tmp_path)
    relevant: dict[str, set[str]] = {}
    for line in qrels.read_text().splitlines():
        query, zero, document, gain = line.split()
        assert (zero, gain) == ("0", "1")
        relevant.setdefault(query, set()).add(document)
    ranks: dict[str, float] = dict.fromkeys(relevant, 0.0)
    for line in ranking.read_text().splitlines():
        query, q0, document, rank, _score, _tag = line.split()
        assert q0 == "Q0"
        if document in relevant[query] and int(rank) <= 10 and not ranks[query]:
            ranks[query] = 1 / int(rank)
    assert sum(ranks.values()) / len(ranks) == pytest.approx(run.metrics("test", "after")["cosine_mrr@10"])


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
    with pytest.raises(DataError, match="expected a format of trec, json, csv, parquet, found 'xml'; choose one"):
        export(run, "test", to=tmp_path, format="xml")
