"""Columns go by name wherever there is a heading, and what is read and not used is said."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.data.collection import Collection, load_collection
from workbench.data.pairs import Pairs
from workbench.data.readers import text_lines
from workbench.data.training_rows import load_pairs, load_splits
from workbench.errors import DataError
from workbench.evaluation.task_files import open_task
from workbench.evaluation.tasks import Examples, Search
from workbench.recipe.schema import Data, Source, TrainingSet

PAIRS = (("A man.", "A horse.", 0.25), ("One.", "Two.", 0.5), ("Red.", "Blue.", 0.75))
GOLD = (0.25, 0.5, 0.75)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def collection(folder: Path, name: str, qrels: str, ids: Sequence[str] = ("1", "2", "3")) -> Collection:
    """Three queries, each answered by the document before it, judged as `qrels` says."""
    put(folder / "corpus.jsonl", lines([{"_id": each, "text": f"text {each}"} for each in ids]))
    put(folder / "queries.jsonl", lines([{"_id": each, "text": f"query {each}"} for each in ids]))
    put(folder / "qrels" / name, qrels)
    return load_collection(folder)


@pytest.mark.parametrize(
    ("name", "qrels"),
    [
        ("test.tsv", "query-id\tcorpus-id\tscore\n1\t3\t1\n2\t1\t1\n3\t2\t1\n"),
        ("test.csv", ",query-id,corpus-id,score\n0,1,3,1\n1,2,1,1\n2,3,2,1\n"),
        ("test.tsv", "\tquery-id\tcorpus-id\tscore\n0\t1\t3\t1\n1\t2\t1\t1\n2\t3\t2\t1\n"),
        ("test.tsv", "corpus-id\tquery-id\tscore\n3\t1\t1\n1\t2\t1\n2\t3\t1\n"),
        ("test.csv", "score,docid,qid\n1,3,1\n1,1,2\n1,2,3\n"),
        ("test.tsv", "query_id\tdoc_id\trelevance\titeration\n1\t3\t1\t0\n2\t1\t1\t0\n3\t2\t1\t0\n"),
        ("test.tsv", "Query ID\titer\tDoc ID\trel\n1\t0\t3\t1\n2\t0\t1\t1\n3\t0\t2\t1\n"),
        ("test.tsv", '"query-id"\t"corpus-id"\t"score"\n"1"\t"3"\t1\n"2"\t"1"\t1\n"3"\t"2"\t1\n'),
        ("test.tsv", 'query-id\tcorpus-id\tscore\n"1"\t"3"\t1\n"2"\t"1"\t1\n"3"\t"2"\t1\n'),
        ("test.tsv", "query-id,corpus-id,score\n1,3,1\n2,1,1\n3,2,1\n"),
        ("test.tsv", "1\t3\t1\n2\t1\t1\n3\t2\t1\n"),
        ("test.json", json.dumps([["corpus-id", "query-id", "score"], [3, 1, 1], [1, 2, 1], [2, 3, 1]])),
        ("test.trec", "1  0 3 1\n2 0  1 1 \n3 0 2 1\n"),
        ("test.jsonl", lines([{"qid": q, "pid": d, "label": True} for q, d in ((1, 3), (2, 1), (3, 2))])),
    ],
)
def test_judgments_go_by_name_and_by_place_only_without_a_heading(tmp_path: Path, name: str, qrels: str) -> None:
    found = collection(tmp_path, name, qrels)
    assert found.relevant == {"1": {"3": 1.0}, "2": {"1": 1.0}, "3": {"2": 1.0}}
    assert found.check() == ()


def test_ids_that_pandas_keeps_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    rows = pd.DataFrame({"query-id": [1.0, 2.0], "corpus-id": [2.0, 1.0], "score": [1, 1]})
    (tmp_path / "qrels").mkdir()
    rows.to_parquet(tmp_path / "qrels" / "test.parquet")
    put(tmp_path / "corpus.jsonl", lines([{"_id": each, "text": f"text {each}"} for each in "12"]))
    put(tmp_path / "queries.jsonl", lines([{"_id": each, "text": f"query {each}"} for each in "12"]))
    assert load_collection(tmp_path).relevant == {"1": {"2": 1.0}, "2": {"1": 1.0}}


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (
            "a\tb\tc\nq\td\t1\n",
            "expected the columns query-id, corpus-id and score (or no heading, and three fields or TREC's four) in "
            "{path}, row 1, found 'a', 'b', 'c'; rename them.",
        ),
        (
            "1.0\t3.0\t1\n2.0\t1.0\t1\n",
            "expected the ids of {folder} in its judgments, found '1.0', '2.0' there and '1', '2', '3' in the queries; "
            "write them alike.",
        ),
    ],
)
def test_the_cause_is_named_where_ids_or_columns_do_not_agree(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        collection(tmp_path, "test.tsv", qrels)
    where = {"path": repr(str(tmp_path / "qrels" / "test.tsv")), "folder": repr(tmp_path.name)}
    assert str(caught.value) == message.format(**where)


def test_of_contrary_judgments_the_highest_counts_and_is_said(tmp_path: Path) -> None:
    found = collection(tmp_path, "test.tsv", "1\t3\t1\n1\t3\t0\n2\t1\t0\n2\t3\t1\n2\t3\t1\n")
    assert found.relevant == {"1": {"3": 1.0}, "2": {"3": 1.0}}
    assert [each.message for each in found.check()] == [
        "1 of 3 documents are judged several times for a query: the highest gain counts.",
        "1 of 3 judgments say not relevant.",
        "1 of 3 queries have no judgment: left out.",
    ]


def test_corpus_and_queries_go_by_name_and_columns_that_nobody_reads_are_said(tmp_path: Path) -> None:
    put(tmp_path / "corpus.csv", ",Title,url,Text,ID\n0,One,here.example,first,7\n")
    put(tmp_path / "queries.csv", "text,_id\nwhich?,q\n")
    put(tmp_path / "qrels.tsv", "q\t7\t1\n")
    found = load_collection(tmp_path)
    assert (found.corpus, found.queries) == ({"7": "One first"}, {"q": "which?"})
    assert [each.message for each in found.check()] == ["Column of 'corpus.csv' not read: 'url'."]


# --- tables ----------------------------------------------------------------------------------------------------------


def scored(heading: Sequence[str] | None, index: bool = False) -> str:
    rows = [list(map(str, row)) for row in PAIRS]
    table = [[str(place), *row] if index else row for place, row in enumerate(rows)]
    return "".join(",".join(row) + "\n" for row in ([list(heading)] if heading else []) + table)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (scored(["sentence1", "sentence2", "2024"]), {"2024": "score"}),
        (scored(["left", "right", "2024"]), {"left": "sentence1", "right": "sentence2", "2024": "score"}),
        (scored(["left", "right", "2024"]), ["left", "right", "2024"]),
        (scored(["left", "right", "2024"]), {"sentence1": "left", "sentence2": "right", "score": "2024"}),
        (scored(["1900", "1950", "2024"]), ["1900", "1950", "2024"]),
        (scored(["0", "1", "2"]), None),
        (scored(["", "0", "1", "2"], index=True), None),
        (scored(["", "sentence1", "sentence2", "score"], index=True), None),
        (scored(["7", "sentence1", "sentence2", "score"], index=True), None),
        (scored(None), None),
        (scored(None), {"1": "sentence1", "2": "sentence2", "3": "score"}),
        (scored(None, index=True), None),
    ],
)
def test_a_number_in_a_heading_does_not_make_it_a_row(tmp_path: Path, text: str, columns: Any) -> None:
    task = open_task(put(tmp_path / "set.csv", text), columns)[0]
    assert isinstance(task, Examples)
    assert (task.texts, task.gold) == (tuple(row[:2] for row in PAIRS), GOLD)


def test_nameless_columns_of_pandas_in_json(tmp_path: Path) -> None:
    table = pd.DataFrame(PAIRS)
    for orient in ("columns", "index", "split", "records", "values"):
        named = table.set_axis(["sentence1", "sentence2", "score"], axis=1) if orient == "index" else table
        named.to_json(tmp_path / f"{orient}.json", orient=orient)
        task = open_task(tmp_path / f"{orient}.json")[0]
        assert isinstance(task, Examples)
        assert task.gold == GOLD


def test_lists_have_a_heading_where_it_has_usual_names(tmp_path: Path) -> None:
    for heading in ([["score", "sentence1", "sentence2"]], []):
        rows = [*heading, *([score, one, two] for one, two, score in PAIRS)]
        task = open_task(put(tmp_path / "set.json", json.dumps(rows)))[0]
        assert isinstance(task, Examples)
        assert (task.texts, task.gold) == (tuple(row[:2] for row in PAIRS), GOLD)


def test_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "sentence1,sentence2,score,score\na,b,1,2\n")
    put(tmp_path / "a.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1, "score": 2}\n')
    put(tmp_path / "a.json", '[{"sentence1": "a", "sentence2": "b", "score": 1, "score": 2}]\n')
    table = pa.table([["a"], ["b"], [1], [2]], names=["sentence1", "sentence2", "score", "score"])
    pq.write_table(table, tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        for read in (open_task, lambda path: load_pairs(Source(location=str(path)), ("sentence1", "score"))):
            with pytest.raises(DataError, match=r"found 'score' again; rename or remove|'score' twice in one object"):
                read(path)


def test_texts_without_a_heading_are_named_by_place(tmp_path: Path) -> None:
    rows = ["Which car is the fastest of all?\tThe red one.\tCheese.", "Who drives it every day?\tMy aunt.\tIron."]
    path = put(tmp_path / "rows.tsv", "\n".join(rows) + "\n")
    named = {"1": "anchor", "2": "positive", "3": "negative"}
    found = load_pairs(Source(location=str(path), columns=named), tuple(named.values()))
    assert ["\t".join(row.values()) for row in found.rows] == rows
    assert open_task(path, named)[0].texts == tuple(tuple(row.split("\t")) for row in rows)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="if the first row is no heading, name columns by place: --columns 1=anchor"):
        load_pairs(Source(location=str(path)), ("anchor", "positive"))
    with pytest.raises(DataError, match="if that is no heading, name columns by place: --columns 1=sentence1"):
        open_task(path)


# --- numbers ---------------------------------------------------------------------------------------------------------


def labels(path: Path, cells: Sequence[str], in_memory: int = 100) -> list[Any]:
    put(path, "sentence1,sentence2,label\n" + "".join(f"a {n},b,{cell}\n" for n, cell in enumerate(cells)))
    found: Pairs = load_pairs(Source(location=str(path)), ("sentence1", "sentence2", "label"), in_memory=in_memory)
    return list(found.rows["label"])


@pytest.mark.parametrize("in_memory", [1, 3, 100])
def test_numbers_of_a_table_keep_their_type(tmp_path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for cells, expected in (
        (["0", "1", "2", "1"], [0, 1, 2, 1]),
        (["True", "false", "TRUE", "1"], [1, 0, 1, 1]),
        (["0", "1", "1", "0.5"], [0.0, 1.0, 1.0, 0.5]),
    ):
        found = labels(tmp_path / "rows.csv", cells, in_memory)
        assert (found, set(map(type, found))) == (expected, {type(expected[0])})


def test_numbers_that_are_none_are_refused_and_never_crash(tmp_path: Path) -> None:
    for cell in ("1_0", "nan", "9" * 5000, "0x1", ""):
        with pytest.raises(DataError, match=r"expected a number in .*, column 'label'"):
            labels(tmp_path / "rows.csv", [cell])
    path = put(tmp_path / "rows.jsonl", '{"anchor": "a", "label": ' + "9" * 5000 + "}\n")
    with pytest.raises(DataError, match=r"in line 1 \(Exceeds the limit"):
        load_pairs(Source(location=str(path)), ("anchor", "label"))
    path = put(tmp_path / "surrogate.jsonl", '{"anchor": "half \\ud83d"}\n')
    assert load_pairs(Source(location=str(path)), ("anchor",)).texts("anchor") == ["half \ufffd"]
    path = put(tmp_path / "name.jsonl", '{"half \\ud83d": "a"}\n')
    with pytest.raises(DataError, match=r"with names of letters in .*, found .half .ud83d.; is each row"):
        load_pairs(Source(location=str(path)))


def test_a_column_that_is_wrong_in_every_row_is_not_to_be_fixed_row_by_row(tmp_path: Path) -> None:
    rows = [{"anchor": "a", "positive": [each]} for each in "bc"]
    with pytest.raises(DataError, match=r"row 1, .* found \['b'\]; all rows are so, choose another column"):
        load_pairs(Source(location=str(put(tmp_path / "a.jsonl", lines(rows)))), ("anchor", "positive"))
    rows[1]["positive"] = "c"
    with pytest.raises(DataError, match=r"row 1, .* found \['b'\]; fix or remove that row"):
        load_pairs(Source(location=str(put(tmp_path / "b.jsonl", lines(rows)))), ("anchor", "positive"))


# --- what is left out is said ----------------------------------------------------------------------------------------


def sets(path: Path, rows: Sequence[Mapping[str, Any]], **options: Any) -> tuple[Any, list[str]]:
    task, notes = open_task(put(path, lines(rows)), **options)
    checks = task.collection.check() if isinstance(task, Search) else notes
    return task, [each.message for each in checks]


def test_numbered_negatives_are_reranked_or_said(tmp_path: Path) -> None:
    row = {"anchor": "what", "positive": "a car"}
    rows = [{**row, "negative_1": "cheese", "negative_2": "iron"}, {**row, "anchor": "who", "negative_1": "wood"}]
    task, notes = sets(tmp_path / "a.jsonl", rows)
    assert (task.kind, task.texts) == (
        "RerankingEvaluator",
        (("what", "a car", "cheese", "iron"), ("who", "a car", "wood")),
    )
    assert notes == []
    task, notes = sets(tmp_path / "a.jsonl", rows, kinds=["TripletEvaluator"])
    assert task.texts == (("what", "a car", "cheese"), ("who", "a car", "wood"))
    assert notes == [f"Column of {str(tmp_path / 'a.jsonl')!r} not read: 'negative_2'."]


def test_rows_of_lists_without_negatives_are_searched_and_those_left_out_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"query": "what", "pos": ["a car", "a bus"]}, {"query": "who", "pos": ["a man"]}]
    for more in ({}, {"neg": []}, {"neg": None}):
        task, notes = sets(tmp_path / "a.jsonl", [{**row, **more} for row in rows])
        assert isinstance(task, Search)
        assert sorted(map(len, task.collection.relevant.values())) == [1, 2]
        assert notes == []
    task, notes = sets(tmp_path / "a.jsonl", [{**rows[0], "neg": []}, {**rows[1], "neg": ["iron"]}])
    assert task.kind == "RerankingEvaluator"
    assert notes == ["1 of 2 queries have no positive or no negative text: left out."]


def test_texts_and_scores_that_nobody_reads_are_said(tmp_path: Path) -> None:
    row = {"id": "x7", "sentence1": "a", "sentence2": "b", "score": 1, "label": 2, "context": "c", "year": "2012"}
    path = tmp_path / "a.jsonl"
    said = f"Columns of {str(path)!r} not read: 'label', 'context'."
    assert sets(path, [row, {**row, "score": 2}])[1] == [said]
    found = load_pairs(Source(location=str(path)), ("sentence1", "sentence2", "score"))
    assert [each.message for each in found.checks] == [said]


def test_lines_without_a_score_are_counted(tmp_path: Path) -> None:
    put(tmp_path / "STS.input.x.txt", "a\tb\nc\td\ne\tf\n")
    put(tmp_path / "STS.gs.x.txt", "1\n\n2\n")
    assert [each.message for each in open_task(tmp_path)[1]] == ["1 of 3 pairs have no score: left out."]


def test_each_dataset_of_several_needs_rows_of_its_own(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", lines([{"anchor": "a", "positive": "b"}]))
    more = TrainingSet(name="nli", columns=("anchor", "positive"))
    data = Data(name="qa", train=Source(location=str(path)), columns=("anchor", "positive"), more=(more,))
    with pytest.raises(DataError) as caught:
        load_splits(data)
    assert str(caught.value) == (
        "expected rows for each of the 2 datasets of the card, found none for 'nli'; name them with --data nli=PATH."
    )
    with pytest.raises(DataError, match="found none for 'qa', 'nli'; name them with --data qa=PATH"):
        load_splits(data.model_copy(update={"train": Source()}))


# --- bounded ---------------------------------------------------------------------------------------------------------


def test_messages_quote_no_whole_cells(tmp_path: Path) -> None:
    long = "word " * 40_000
    put(tmp_path / "a.csv", f"{long},{long}\n{long},{long}\n")
    put(tmp_path / "b.jsonl", lines([{"anchor": long, "positive": {"text": long}}]))
    put(tmp_path / "c.json", json.dumps({str(each): each for each in range(10_000)}))
    put(tmp_path / "d.json", json.dumps([{f"{each}{long}": each for each in range(10)}]))
    put(tmp_path / "e.json", json.dumps({str(each): {"anchor": str(each), "positive": each} for each in range(999)}))
    put(tmp_path / "f.json", json.dumps({str(each): {"0": str(each), "1": long} for each in range(999)}))
    for path in sorted(tmp_path.iterdir()):
        for read in (open_task, lambda path: load_pairs(Source(location=str(path)))):
            with pytest.raises(DataError) as caught:
                read(path)
            assert len(str(caught.value)) < 1000


def test_pipes_devices_long_lines_and_folders_of_many_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "corpus.jsonl")
    for place in (tmp_path / "pipe.jsonl", Path("/dev/zero"), tmp_path):
        for read in (open_task, load_collection, lambda each: load_pairs(Source(location=str(each)), ("anchor",))):
            with pytest.raises(DataError):
                read(place)
    with pytest.raises(DataError, match=r"expected lines of at most 100 bytes in 'a\.jsonl', found a longer one"):
        list(text_lines(put(tmp_path / "a.jsonl", "x" * 101), longest=100))
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2001):
        (many / f"{number}.csv").touch()
    for read in (open_task, lambda each: load_pairs(Source(location=str(each)), ("anchor",))):
        with pytest.raises(DataError, match=r"expected at most 2,000 files in .*, found more; join them, or name"):
            read(many)
