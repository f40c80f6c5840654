"""Small files on which numbers were once wrong: each gives the right value, or its cause is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.data.training_rows import load_pairs
from workbench.errors import DataError
from workbench.pipeline import evaluate
from workbench.recipe.schema import Source


@pytest.fixture(scope="module")
def found(shared: Path) -> Path:
    if not (shared / "found" / "data").is_dir():
        pytest.skip(f"test inputs are not at {shared / 'found' / 'data'}")
    return shared / "found" / "data"


@pytest.mark.parametrize(
    ("name", "columns", "metric", "value", "items", "said"),
    [
        ("b01_intref", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("b02_pandas_index_csv", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("b05_quoted_tsv", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("b07_swapped_int", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("b08_irdatasets", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("b24_conflict", None, "cosine_ndcg@10", 1.0, 24, "24 of 24 documents are judged several times for a query"),
        ("s28_ref.csv", None, "spearman_cosine", -0.2872, 20, ""),
        ("s29_yearheader.csv", {"2024": "score"}, "spearman_cosine", -0.2872, 20, ""),
        ("p02_flag_emptyneg.jsonl", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("p05_flag_noneg.jsonl", None, "cosine_ndcg@10", 1.0, 24, ""),
        ("p07_neg_n.jsonl", None, "ndcg@10", 1.0, 24, ""),
        ("q01_someempty.jsonl", None, "ndcg@10", 1.0, 16, "8 of 24 queries have no positive or no negative text"),
    ],
)
def test_evaluations_give_the_right_value(
    found: Path, name: str, columns: Any, metric: str, value: float, items: int, said: str
) -> None:
    result: Any = evaluate("bundled:minilm", found / name, columns=columns)
    assert result.metrics[metric] == pytest.approx(value, abs=5e-5)
    assert len(result.per_query if hasattr(result, "per_query") else result.per_example) == items
    messages = " ".join(check["message"] for check in result.settings["checks"])
    assert messages.startswith(said) if said else not messages


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b12_float_ids", r"in its judgments, found '0\.0', '1\.0', '2\.0' and 21 more there and '0', '1', '2' and"),
        ("s31_dupscore.csv", "expected every column of 's31_dupscore.csv' once, found 'score' again"),
    ],
)
def test_causes_are_named(found: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate("bundled:minilm", found / name)


def test_rows_for_training_have_the_right_columns_and_types(found: Path) -> None:
    with pytest.raises(DataError, match="found 'label' again"):
        load_pairs(Source(location=str(found / "tr12_dupcol.csv")))
    columns = ("premise", "hypothesis", "label")
    for name in ("tr24_nli012.csv", "tr26_nli012.jsonl"):
        pairs = load_pairs(Source(location=str(found / name)), columns)
        assert (set(pairs.rows["label"]), pairs.rows.features["label"].dtype) == ({0, 1, 2}, "int64")
    named = {"1": "anchor", "2": "positive", "3": "negative"}
    triplets = load_pairs(Source(location=str(found / "t00_triples.tsv"), columns=named), tuple(named.values()))
    assert len(triplets) == 24
    with pytest.raises(DataError, match="name columns by place: --columns 1=anchor"):
        load_pairs(Source(location=str(found / "t00_triples.tsv")), tuple(named.values()))
