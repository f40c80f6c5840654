"""Rows come in whole, or one sentence says which row and column is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hub_cache import cached_dataset
from hypothesis import given
from hypothesis import strategies as st

from workbench.cards.read import read_card
from workbench.data.checks import Tokens, check_pairs
from workbench.data.pairs import Check, Pairs
from workbench.data.sources import shipped_samples
from workbench.data.training_rows import (
    count_printed_rows,
    load_pairs,
    load_splits,
    printed_places,
    split_pairs,
    split_sizes,
)
from workbench.errors import DataError
from workbench.recipe.schema import Data, Source, Split

PAIR = ("anchor", "positive")
PORSCHE = {"user_query": "anchor", "positive_answer": "positive"}
ROWS = [{"anchor": "how fast?", "positive": "very"}, {"anchor": 'how "big"?', "positive": "a bit,\nor more"}]


def of(rows: Sequence[dict[str, Any]], columns: tuple[str, ...] = PAIR) -> Pairs:
    from datasets import Dataset

    return Pairs(
        rows=Dataset.from_list([{c: row[c] for c in columns} for row in rows]),
        columns=columns,
        sha256="",
        origin="here",
    )


def load(path: Path, columns: tuple[str, ...] = PAIR, **renames: str) -> Pairs:
    return load_pairs(Source(location=str(path), columns=renames), columns)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path, table = tmp_path / f"rows.{ending}", pd.DataFrame(ROWS)
    if ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\r\n\n" for row in ROWS))
    elif ending == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    assert list(load(path).rows) == ROWS


def test_tab_separated_files_keep_quotation_marks(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.tsv", 'anchor\tpositive\nhow "big"?\t"very\n')
    assert list(load(path).rows) == [{"anchor": 'how "big"?', "positive": '"very'}]


def test_a_table_without_heading_has_numbered_columns_and_those_of_the_sts_benchmark(tmp_path: Path) -> None:
    """As its files are: called .csv, apart by tabs, quotation marks are text, sources at the end of some rows."""
    lines = ['g\tf\t2012\t1\t2.5\tA "red\tcar.\n', "g\tf\t2012\t2\t5\tB, too\tC.\tfrom\there\n"]
    path = written(tmp_path, "sts-test.csv", "".join(lines))
    columns = ("sentence1", "sentence2", "score")
    expected = [
        {"sentence1": 'A "red', "sentence2": "car.", "score": 2.5},
        {"sentence1": "B, too", "sentence2": "C.", "score": 5.0},
    ]
    assert list(load(path, columns).rows) == expected
    renames = {"6": "sentence1", "7": "sentence2", "5": "score"}
    assert list(load_pairs(Source(location=str(path), columns=renames), columns).rows) == expected
    path = written(tmp_path, "rows.txt", "0.5\ta\tb\n1\tc\td\n")
    assert load_pairs(Source(location=str(path), columns={"2": "anchor"}), ("anchor",)).texts("anchor") == ["a", "c"]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", b"\xef\xbb\xbfanchor,positive\na,b\n")
    assert list(load(path).rows) == [{"anchor": "a", "positive": "b"}]


def test_columns_are_renamed_ordered_and_others_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.json", json.dumps([{"extra": 1, "answer": "b", "question": "a"}]))
    found = load(path, question="anchor", answer="positive")
    assert found.rows.column_names == ["anchor", "positive"]
    assert list(found.rows) == [{"anchor": "a", "positive": "b"}]


def test_scores_are_numbers_and_all_columns_are_taken_where_none_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "sentence_1,sentence_2,label\na,b,0.5\nc,d,1\n")
    found = load(path, (), label="score")
    assert found.columns == ("sentence_1", "sentence_2", "score")
    assert found.rows["score"] == [0.5, 1.0]


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    """Expected: `sha256sum` of the same bytes."""
    path = written(tmp_path, "rows.jsonl", '{"anchor": "a", "positive": "b"}\n')
    assert load(path).sha256 == "592305920a40afa70888380fa97ff8c66684a796c078865afba0a2127f64d3dd"


# --- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[\n{"anchor": "a"},\n{"anchor: "b"}\n]', "found a break in line 3, column 12"),
        ("a.json", '{"anchor": "a"}', "expected a JSON list of objects in 'a.json', found an object with 'anchor'"),
        ("a.json", '[{"anchor": "a", "positive": "b"}, 7]', "expected an object .*, row 2, found 7; fix that row"),
        ("a.json", "[]", "expected rows in .*, found none"),
        ("a.json", "", "found a break in line 1"),
        ("a.json", b"\xff\xfe\x00", "expected UTF-16 text in 'a.json', found a broken end"),
        ("a.json", "[" * 100_000, "nested too deep|found a break"),
        ("a.jsonl", '{"anchor": "a", "positive": "b"}\n{"anchor": \n', "found '{\"anchor\": ' in line 2"),
        ("a.csv", "anchor,positive\na,b\nc\n", "expected 2 fields a row in 'a.csv', found 1 in row 2"),
        ("a.csv", 'anchor,positive\na,"b\n', "expected fields separated by ',' in 'a.csv'"),
        ("a.csv", "anchor,positive\n", "expected rows in .*, found none"),
        ("a.parquet", "PAR1", "expected a Parquet table in 'a.parquet', found something else"),
        (
            "a.doc",
            "hello",
            "expected a file ending in .json, .jsonl, .ndjson, .csv, .tsv, .txt, .parquet, found 'a.doc'",
        ),
        ("a.json", '[{"anchor": "a", "positive": "  "}]', "a text that is not empty .*, row 1, column 'positive'"),
        ("a.json", '[{"anchor": "a", "positive": null}]', "expected a text in .*, column 'positive', found None"),
        ("a.json", '[{"anchor": "a", "positive": ["b"]}]', "expected a text in .*, column 'positive', found \\['b'\\]"),
        (
            "a.json",
            '[{"question": "a", "positive": "b"}]',
            "expected a column 'anchor' .*, found 'question', 'positive'",
        ),
    ],
)
def test_a_bad_file_is_an_error_of_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("score", ['"high"', "null", "NaN", "[1]"])
def test_a_score_that_is_not_a_number_is_an_error(tmp_path: Path, score: str) -> None:
    path = written(tmp_path, "a.json", f'[{{"anchor": "a", "score": {score}}}]')
    with pytest.raises(DataError, match=r"expected a number in .*, row 1, column 'score', found "):
        load(path, ("anchor", "score"))


def test_a_missing_file_is_not_taken_for_a_hub_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path / "none.json")
    assert str(caught.value) == (
        f"expected a file of rows at {str(tmp_path / 'none.json')!r}, found none; check the path."
    )


def test_a_place_that_is_neither_file_nor_cached_is_an_error() -> None:
    with pytest.raises(DataError, match="the Hub cannot be reached and the local cache does not have it"):
        load_pairs(Source(location="somebody/no-such-dataset"), PAIR)


@pytest.mark.parametrize("name", ["", "..", "~nobody/x", "x" * 300, "a\0b", "/", "bad name!", "a/b/c"])
def test_a_strange_place_is_an_error_and_no_crash(name: str) -> None:
    with pytest.raises(DataError):
        load_pairs(Source(location=name), PAIR)


def test_an_unknown_place_is_an_error() -> None:
    with pytest.raises(DataError, match="found 'unknown'; name one with --data"):
        load_pairs(Source(), PAIR)


def test_an_unknown_sample_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="found 'sample:trabant'; there are: "):
        load_pairs(Source(location="sample:trabant"), PAIR)


# --- layouts of several files ---------------------------------------------------------------------------------------


def beir(folder: Path, split: str = "train") -> Path:
    """Two questions with two paragraphs each; one judgment says not relevant, one document is never judged."""
    (folder / "qrels").mkdir(parents=True)
    documents = [("d1", "One", "first"), ("d2", "Two", "second"), ("d3", "Three", "third"), ("d9", "Nine", "unused")]
    lines = [json.dumps({"_id": key, "title": title, "text": text}) for key, title, text in documents]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "who?"}\n{"_id": "q2", "text": "where?"}\n')
    judged = ("q1\td1\t1", "q1\td2\t1", "q2\td3\t1", "q2\td1\t0")
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(("query-id\tcorpus-id\tscore", *judged)))
    return folder


def test_judgments_of_a_beir_folder_are_rows_of_query_and_text_without_title(tmp_path: Path) -> None:
    found = load(beir(tmp_path / "hotpot"), ("query", "text"))
    assert [tuple(row.values()) for row in found.rows] == [("who?", "first"), ("who?", "second"), ("where?", "third")]


def test_a_beir_folder_without_the_split_lists_the_others(tmp_path: Path) -> None:
    folder = beir(tmp_path / "hotpot", "dev")
    with pytest.raises(DataError) as caught:
        load(folder, ("query", "text"))
    wanted = folder / "qrels" / "train.tsv"
    assert str(caught.value) == f"expected judgments in {str(wanted)!r}, found 'dev'; name a split that is there."


def test_a_judgment_of_an_unknown_document_is_an_error(tmp_path: Path) -> None:
    folder = beir(tmp_path / "hotpot")
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "first"}\n')
    with pytest.raises(DataError, match="expected the document 'd2' of judgment 2, found none of that id"):
        load(folder, ("query", "text"))


def test_ids_of_a_corpus_beside_the_file_become_one_row_each(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "T", "text": "first"}\n{"_id": "b", "text": "second"}\n'
    )
    path = written(tmp_path, "rows.jsonl", '{"q": "who?", "ids": ["a", "b"]}\n{"q": "where?", "ids": ["b"]}\n')
    expected = [("who?", "first"), ("who?", "second"), ("where?", "second")]
    for place in (path, tmp_path):  # the file, or the folder that holds both
        found = load(place, q="anchor", ids="positive")
        assert [tuple(row.values()) for row in found.rows] == expected
    written(tmp_path, "rows.jsonl", '{"q": "who?", "ids": ["a", "c"]}\n')
    with pytest.raises(
        DataError, match=r"expected the id of a document in corpus.jsonl .*, row 1, column 'ids', found 'c'"
    ):
        load(path, q="anchor", ids="positive")


def test_the_first_rows_of_a_dataset_folder_are_streamed(tmp_path: Path) -> None:
    pd.DataFrame([{"anchor": f"q{n}", "positive": f"a{n}"} for n in range(50)]).to_parquet(tmp_path / "train.parquet")
    source = Source(location=str(tmp_path), split="train[:3]")
    assert load_pairs(source, PAIR).texts("anchor") == ["q0", "q1", "q2"]
    assert len(load_pairs(Source(location=str(tmp_path)), PAIR)) == 50


def test_a_folder_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected rows in the folder .* found none; check the path"):
        load(tmp_path)


def test_hub_rows_come_from_the_cache_with_the_network_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = [{"question": "how fast?", "answer": "very"}, {"question": "how big?", "answer": "a bit"}]
    cached_dataset(tmp_path, "somebody/gooaq", {"default": {"train": rows}})
    source = Source(location="somebody/gooaq", columns={"question": "anchor", "answer": "positive"})
    assert load_pairs(source, PAIR).texts("positive") == ["very", "a bit"]


def test_judgments_of_beir_on_the_hub_are_joined_with_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    corpus = [{"_id": f"d{n}", "title": f"T{n}", "text": f"text {n}"} for n in range(3)]
    queries = [{"_id": "q0", "text": "who?", "title": ""}, {"_id": "q1", "text": "where?", "title": ""}]
    cached_dataset(tmp_path, "BeIR/hotpotqa", {"corpus": {"corpus": corpus}, "queries": {"queries": queries}})
    judged = [{"query-id": "q1", "corpus-id": key, "score": 1} for key in ("d2", "d0")]
    cached_dataset(tmp_path, "BeIR/hotpotqa-qrels", {"default": {"train": judged}})
    found = load_pairs(Source(location="BeIR/hotpotqa"), ("query", "text"))
    assert list(found.rows) == [{"query": "where?", "text": "text 2"}, {"query": "where?", "text": "text 0"}]


# --- many rows -----------------------------------------------------------------------------------------------------


def test_rows_beyond_memory_are_the_same_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = written(tmp_path, "rows.csv", "anchor,positive,label\n" + "".join(f"q{n},a{n},{n}\n" for n in range(250)))
    source, columns = Source(location=str(path)), (*PAIR, "label")
    here, there = load_pairs(source, columns), load_pairs(source, columns, in_memory=100)
    assert list(there.rows) == list(here.rows)
    assert not here.rows.cache_files
    (kept,) = there.rows.cache_files
    assert list((tmp_path / "cache" / "card-workbench").iterdir()) == [Path(kept["filename"])]
    assert [part.texts("anchor") for part in split_pairs(there, Split()) if part] == [
        part.texts("anchor") for part in split_pairs(here, Split()) if part
    ]


# --- prompts -------------------------------------------------------------------------------------------------------


def test_prompts_in_texts_are_removed_with_a_note(tmp_path: Path) -> None:
    rows = [{"anchor": "find: a", "positive": "text: b"}, {"anchor": "c", "positive": "text: d"}]
    path = written(tmp_path, "rows.json", json.dumps(rows))
    data = Data(train=Source(location=str(path)), columns=PAIR)
    found = load_splits(data, prompts={"anchor": "find: ", "positive": "text: "}).train
    assert list(found.rows) == [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    assert found.checks[0] == Check(
        "note",
        "1 of 2 texts of column 'anchor' carried the prompt 'find: '; it was removed, because training adds it.",
    )
    assert list(load_splits(data).train.rows) == rows


def test_a_text_that_is_only_its_prompt_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.json", json.dumps([{"anchor": "find: ", "positive": "b"}]))
    with pytest.raises(DataError, match=r"expected a text after the prompt 'find: ' in .*, row 1, column 'anchor'"):
        load_splits(Data(train=Source(location=str(path)), columns=PAIR), prompts={"anchor": "find: "})


# --- the real rows -------------------------------------------------------------------------------------------------


def test_the_porsche_rows_split_as_on_the_card(shared: Path) -> None:
    path = shared / "data/porsche/qa_pairs_pos_only.json"
    data = Data(train=Source(location=str(path), columns=PORSCHE), split=Split(), columns=PAIR)
    parts = load_splits(data)
    assert parts.validation is not None
    assert parts.test is not None
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (1437, 180, 180)
    assert -(-len(parts.train) // 8) == 180  # steps an epoch, as on the card


def test_rows_with_another_key_are_named_and_can_be_mapped(shared: Path) -> None:
    path = shared / "data/porsche/qa_pairs_pos_and_neg.json"
    with pytest.raises(DataError) as caught:
        load(path, **PORSCHE)
    assert str(caught.value) == (
        f"expected a column 'user_query' or 'anchor' in {str(path)!r}, found 'question', 'positive_answer', "
        "'negative_answer' in row 1558 (91 of 1,648 rows lack it); say which column it is with --columns "
        "user_query=anchor,positive_answer=positive,question=anchor, or fix these rows."
    )
    assert len(load(path, **PORSCHE, question="anchor")) == 1648


def test_the_sinhala_pairs_are_read(shared: Path) -> None:
    path = shared / "data/sinhala/train.csv"
    found = load(
        path, ("sentence1", "sentence2", "score"), sentence_1="sentence1", sentence_2="sentence2", label="score"
    )
    assert len(found) == 260
    assert set(map(type, found.rows["score"])) == {float}


def test_the_korean_card_has_as_many_steps_as_it_says(shared: Path) -> None:
    """15,427 pairs in batches of 4: 3,857 steps, as on the card."""
    columns = {"query_text": "sentence_0", "positive_passages": "sentence_1"}
    found = load_pairs(Source(location=str(shared / "data/korean-law"), columns=columns), ("sentence_0", "sentence_1"))
    assert len(found) == 15_427
    assert -(-len(found) // 4) == 3_857


# --- splitting -----------------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 5000), held=st.sampled_from([(0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (1.0, 0.0, 0.0)]))
def test_sizes_add_up_and_are_those_of_train_test_split(rows: int, held: tuple[float, float, float]) -> None:
    sizes = split_sizes(rows, Split(train=held[0], validation=held[1], test=held[2]))
    assert sum(sizes) == rows
    assert min(sizes) >= 0


@pytest.mark.parametrize("rows", [10, 97, 600, 1797])
@pytest.mark.parametrize("seed", [42, 7])
def test_parts_equal_two_calls_of_datasets(rows: int, seed: int) -> None:
    """The oracle is `datasets`: 20% held out, then half of that for the test."""
    pairs = of([{"anchor": f"q{n}", "positive": f"a{n}"} for n in range(rows)])
    first = pairs.rows.train_test_split(test_size=0.2, seed=seed)
    second = first["test"].train_test_split(test_size=0.5, seed=seed)
    expected = [list(part["anchor"]) for part in (first["train"], second["train"], second["test"])]
    parts = split_pairs(pairs, Split(seed=seed))
    assert [part.texts("anchor") for part in parts if part is not None] == expected


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(("rows", "share"), [(10, 0.1), (97, 0.2), (600, 0.25)])
def test_one_part_held_out_equals_one_call_of_datasets(rows: int, share: float, part: str) -> None:
    """The same rows in the same order: an evaluation loss depends on how they fall into batches."""
    pairs = of([{"anchor": f"q{n}", "positive": f"a{n}"} for n in range(rows)])
    expected = pairs.rows.train_test_split(test_size=share, seed=3)
    train, *held = split_pairs(
        pairs, Split(**{"train": 1 - share, "validation": 0.0, "test": 0.0, part: share}, seed=3)
    )
    (only,) = [each for each in held if each is not None]
    assert train.texts("anchor") == list(expected["train"]["anchor"])
    assert only.texts("anchor") == list(expected["test"]["anchor"])


def test_parts_are_disjoint_complete_and_reproducible() -> None:
    pairs = of([{"anchor": f"q{n}", "positive": f"a{n}"} for n in range(50)])
    parts = [part for part in split_pairs(pairs, Split()) if part is not None]
    texts = [part.texts("anchor") for part in parts]
    assert sorted(text for part in texts for text in part) == sorted(pairs.texts("anchor"))
    again = [part for part in split_pairs(pairs, Split()) if part is not None]
    assert [part.texts("anchor") for part in again] == texts
    other = split_pairs(pairs, Split(seed=7))[0]
    assert other.texts("anchor") != texts[0]


def test_shares_above_one_are_an_error() -> None:
    too_much = Split.model_construct(train=0.9, validation=0.2, test=0.1)
    with pytest.raises(DataError, match=r"add up to 1 at most, found 0.9, 0.2, 0.1; change data.split"):
        split_sizes(10, too_much)


def test_shares_below_one_leave_rows_out() -> None:
    assert split_sizes(10, Split(train=0.5, validation=0.2, test=0.1)) == (5, 2, 1)


def test_rows_that_are_the_training_part_already_are_not_divided_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"anchor": f"question {number}", "positive": f"answer {number}"} for number in range(24)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    split = Split(train=0.8, validation=0.2, test=0.0)
    for expected, parts in ((30, 1), (24, 2), (None, 2)):
        data = Data(train=Source(location=str(path), rows=expected), split=split, columns=PAIR)
        found = load_splits(data)
        assert len(found.parts()) == parts
    assert len(load_splits(data.model_copy(update={"train": data.train.model_copy(update={"rows": 30})})).train) == 24


def test_a_split_without_training_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="expected rows to train on after the split, found 1 rows"):
        split_pairs(of(ROWS[:1]), Split())


# --- checks --------------------------------------------------------------------------------------------------------


def test_repeats_and_leaks_are_counted() -> None:
    """Of four rows one repeats another, and a third has the same question; of three held-out rows one is trained."""
    train = of([{"anchor": a, "positive": p} for a, p in (("q", "1"), ("q", "1"), ("q", "2"), ("r", "3"))])
    test = of([{"anchor": a, "positive": p} for a, p in (("q", "1"), ("r", "4"), ("s", "5"))])
    assert check_pairs(train, {"test": test}) == (
        Check("warning", "1 of 4 training rows repeat another row."),
        Check(
            "warning",
            "2 of 4 training rows repeat a text of column 'anchor'; in one batch they would be each other's false "
            "negatives (the no_duplicates sampler keeps them apart).",
        ),
        Check("warning", "1 of 3 rows of test are also training rows."),
        Check("warning", "1 of 3 queries of test are also in training, with another answer."),
    )


def test_a_text_with_several_scores_is_no_false_negative() -> None:
    rows = [{"anchor": "q", "positive": "1", "score": 0.5}, {"anchor": "q", "positive": "2", "score": 0.9}]
    assert check_pairs(of(rows, (*PAIR, "score"))) == ()


def test_measuring_on_the_training_rows_is_an_error() -> None:
    assert check_pairs(of(ROWS), {"test": of(ROWS)}) == (
        Check("error", "all 2 rows of test are training rows; give test rows of its own."),
    )


def test_clean_rows_have_no_checks() -> None:
    assert check_pairs(of(ROWS)) == ()


def test_cut_texts_and_unknown_tokens_are_counted() -> None:
    """By a tokenizer that makes a token of each letter and knows no capitals."""

    def count(texts: Sequence[str]) -> tuple[list[int], list[int]]:
        return [len(text) for text in texts], [sum(letter.isupper() for letter in text) for text in texts]

    rows = of([{"anchor": "abc", "positive": "ABCDEFGH"}, {"anchor": "abd", "positive": "ab"}])
    assert check_pairs(rows, tokens=Tokens(count, limit=6)) == (
        Check(
            "warning",
            "50.0% of the texts of column 'positive' are longer than 6 tokens and are cut (the longest has 8).",
        ),
        Check(
            "warning",
            "80.0% of the tokens of column 'positive' are unknown to the base's tokenizer; it cannot read this "
            "language or script well.",
        ),
    )


def test_the_shipped_samples_have_three_parts_whatever_their_columns_are_called() -> None:
    for name in shipped_samples():
        columns = ("sentence_0", "sentence_1", "label") if name == "sinhala" else ("sentence_0", "sentence_1")
        parts = load_splits(Data(train=Source(location=f"sample:{name}"), columns=columns))
        assert tuple(parts.train.rows.column_names) == columns
        assert parts.validation is not None
        assert parts.test is not None
        assert min(len(parts.train), len(parts.validation), len(parts.test)) > 0


def test_the_rows_that_a_card_prints_are_found_among_its_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"anchor": f"question {n}", "positive": f"a long answer\nwith number {n}, and more"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = load_pairs(Source(location=str(path)), ("anchor", "positive"))
    printed = [
        {"anchor": "question 1", "positive": "a long answer with number 1, and more"},
        {"anchor": "question 2", "positive": "a long answer with num..."},
        {"anchor": "question 2", "positive": "another answer..."},
        {"anchor": "question 3", "score": 0.5},
    ]
    assert count_printed_rows([pairs], printed) == (2, 4)
    assert printed_places(pairs, printed) == [[1], [2], [], []]
    assert count_printed_rows([pairs], []) == (0, 0)


def test_printed_numbers_match_to_the_places_that_are_printed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    scores = (0.0, 0.123456, 1, 0.5)
    rows = [{"sentence1": "find: one", "sentence2": "two", "score": score} for score in (*scores, 0.5)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pairs = load_pairs(Source(location=str(path)), ("sentence1", "sentence2", "score"))
    printed = [
        {"sentence1": "one", "sentence2": "two", "score": score} for score in (0, 0.1235, 0.1234, 1.0, 0.5, 0.49)
    ]
    prompts = {"sentence1": "find: "}
    assert printed_places(pairs, printed, prompts) == [[0], [1], [], [2], [3, 4], []]
    assert printed_places(pairs, printed) == [[]] * 6
    backwards = [dict(reversed(row.items())) for row in printed[:1]]  # columns in another order
    assert printed_places(pairs, backwards, prompts) == [[0]]


def test_the_porsche_rows_are_those_that_their_card_prints(shared: Path) -> None:
    card = read_card(shared / "cards/seeds/porsche-mxbai.md")
    source = Source(location=str(shared / "data/porsche/qa_pairs_pos_only.json"), columns=PORSCHE)
    samples = [sample for dataset in card.training_datasets() for sample in dataset.samples]
    assert count_printed_rows([load_pairs(source, PAIR)], samples) == (3, 3)
    others = Source(location="sample:porsche", split="train")
    assert count_printed_rows([load_pairs(others, PAIR)], samples) == (0, 3)


def test_a_name_that_no_column_has_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"anchor": "a", "positive": "b"}\n', encoding="utf-8")
    found = load(path, question="anchor")
    assert found.rows[0] == {"anchor": "a", "positive": "b"}
    (check,) = found.checks
    assert (check.severity, check.message) == ("warning", f"No column 'question' in {str(path)!r}: not renamed.")
