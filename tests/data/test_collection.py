"""Collections: what each source gives, and what is said of a bad one."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from hub_cache import cached_dataset

from workbench.data.collection import Collection, from_folder, from_pairs, load_collection
from workbench.data.sources import shipped_samples
from workbench.errors import DataError

COLUMNS = {"user_query": "anchor", "positive_answer": "positive"}


def small(**changes: object) -> Collection:
    parts: dict[str, object] = {
        "name": "small",
        "queries": {"q1": "one?", "q2": "two?"},
        "corpus": {"d1": "one", "d2": "two"},
        "relevant": {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}},
    }
    return Collection(**{**parts, **changes})  # type: ignore[arg-type]


def folder(tmp_path: Path, **files: str) -> Path:
    """A BEIR folder; `files` replace its three."""
    texts = {
        "corpus": '{"_id": "d1", "title": "One", "text": "first"}\n{"_id": "d2", "title": "", "text": "second"}\n',
        "queries": '{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n',
        "qrels": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t1\n",
        **files,
    }
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(texts["corpus"], encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(texts["queries"], encoding="utf-8")
    (tmp_path / "qrels" / "test.tsv").write_text(texts["qrels"], encoding="utf-8")
    return tmp_path


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_valid_collection_has_no_checks() -> None:
    assert small().check() == ()
    assert repr(small()) == "<Collection 'small': 2 queries, 2 documents, 2 relevant>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": {}}, "expected documents in the corpus of 'small', found none; give a corpus."),
        ({"queries": {}}, "expected queries in 'small', found none; give some."),
        (
            {"relevant": {"q1": {}}},
            "expected relevant documents for the queries of 'small', found none for any of the 2; do the ids of "
            "queries and judgments agree?",
        ),
        (
            {"relevant": {"q1": {"x9": 1.0}}},
            "expected relevant documents of 'small' in its corpus, found none of them there: the first is 'x9', and "
            "the corpus has 'd1', 'd2'; write the ids alike.",
        ),
    ],
)
def test_an_unusable_collection_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        small(**changes).usable()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "severity", "message"),
    [
        (
            {"relevant": {"q1": {"d1": 1.0}}},
            "note",
            "1 of 2 queries have no relevant document: left out.",
        ),
        (
            {"relevant": {"q1": {"d1": 1.0, "gone": 1.0}, "q2": {"d2": 1.0}}},
            "warning",
            "1 of 3 relevant documents are not in the corpus: counted as never found.",
        ),
        (
            {"relevant": {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}, "q3": {"d1": 1.0}}},
            "warning",
            "1 judged queries are not among the queries: left out.",
        ),
        (
            {"queries": {"q1": " ", "q2": "two?"}},
            "warning",
            "1 of 2 queries have an empty text: measured as they are.",
        ),
        (
            {"corpus": {"d1": "one", "d2": "two", "d3": ""}},
            "warning",
            "1 of 3 documents have an empty text: kept.",
        ),
        (
            {"corpus": {"d1": "one", "d2": "one"}},
            "note",
            "1 of 2 documents repeat the text of another; each is a document of its own, so finding the other one "
            "counts as a miss.",
        ),
    ],
)
def test_a_usable_defect_is_reported(changes: dict[str, object], severity: str, message: str) -> None:
    (check,) = small(**changes).usable().check()
    assert (check.severity, check.message) == (severity, message)


def test_the_hash_depends_on_texts_ids_and_gains_but_not_on_order() -> None:
    same = small(queries={"q2": "two?", "q1": "one?"})
    assert same.sha256 == small().sha256
    others = (
        small(queries={"q1": "one?", "q2": "Two?"}),
        small(corpus={"d1": "one", "d3": "two"}),
        small(relevant={"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}),
    )
    assert len({small().sha256, *(other.sha256 for other in others)}) == 4


def test_hostile_text_is_escaped() -> None:
    shown = small(name="<script>alert(1)</script>", corpus={"d1": "one"})._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


# --- rows ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"anchor": "how fast?", "positive": "320 km/h"},
    {"anchor": "how big?", "positive": "large"},
    {"anchor": "how fast?", "positive": "very"},
    {"anchor": "top speed?", "positive": "320 km/h"},
]


def test_separate_rows_are_documents_of_their_own() -> None:
    collection = from_pairs(ROWS[2:], ROWS)
    assert collection.queries == {"q2": "how fast?", "q3": "top speed?"}
    assert collection.corpus == {"d0": "320 km/h", "d1": "large", "d2": "very", "d3": "320 km/h"}
    assert collection.relevant == {"q2": {"d2": 1.0}, "q3": {"d3": 1.0}}


def test_merged_rows_are_one_document_per_text() -> None:
    collection = from_pairs(ROWS[2:], ROWS, duplicates="merge")
    assert collection.queries == {"q0": "how fast?", "q2": "top speed?"}
    assert collection.corpus == {"d0": "320 km/h", "d1": "large", "d2": "very"}
    assert collection.relevant == {"q0": {"d0": 1.0, "d2": 1.0}, "q2": {"d0": 1.0}}


def test_rows_that_are_not_among_the_answers_are_added() -> None:
    assert from_pairs(ROWS[:1], ROWS[1:2]).corpus == {"d0": "large", "d1": "320 km/h"}
    assert list(from_pairs(ROWS).corpus.values()) == [row["positive"] for row in ROWS]


def test_a_repeated_row_is_two_documents() -> None:
    collection = from_pairs([ROWS[0], ROWS[0]], [ROWS[0], ROWS[0]])
    assert collection.relevant == {"q0": {"d0": 1.0}, "q1": {"d1": 1.0}}
    assert len(from_pairs([ROWS[0], ROWS[0]], [ROWS[0]]).corpus) == 2


def test_ids_sort_as_the_rows_do() -> None:
    rows = [{"anchor": str(number), "positive": str(number)} for number in range(12)]
    assert sorted(from_pairs(rows).corpus) == list(from_pairs(rows).corpus)


def test_the_porsche_rows_have_the_counts_of_their_authors(shared: Path) -> None:
    """126 rows repeat a question and 60 an answer, by shared/CARDS.md: rows whose text comes more than once."""
    collection = load_collection(shared / "data/porsche/qa_pairs_pos_only.json", columns=COLUMNS)
    assert (len(collection.queries), len(collection.corpus)) == (1797, 1797)
    texts = list(collection.corpus.values())
    assert sum(texts.count(text) > 1 for text in texts) == 60
    merged = load_collection(shared / "data/porsche/qa_pairs_pos_only.json", columns=COLUMNS, duplicates="merge")
    assert len(merged.corpus) == len(set(texts))


@pytest.mark.skipif("porsche" not in shipped_samples(), reason="data/samples/porsche is not there")
def test_a_sample_has_queries_of_one_part_and_documents_of_all() -> None:
    parts = [load_collection("sample:porsche", split=split) for split in ("train", "validation", "test")]
    assert len({len(part.corpus) for part in parts}) == 1
    assert sum(len(part.queries) for part in parts) == len(parts[0].corpus)
    assert parts[2].queries == load_collection("sample:porsche").queries
    assert not set(parts[0].queries) & set(parts[2].queries)


def test_an_unknown_sample_or_split_is_an_error() -> None:
    with pytest.raises(DataError, match="expected a split of train, validation, test for 'sample:porsche', found 'x'"):
        load_collection("sample:porsche", split="x")
    with pytest.raises(DataError, match="found 'sample:nothing'"):
        load_collection("sample:nothing")


def test_a_file_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert repr(load_collection(path)) == "<Collection 'mine': 4 queries, 4 documents, 4 relevant>"
    with pytest.raises(DataError, match="expected a file of rows at"):
        load_collection(tmp_path / "other.jsonl")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    collection = from_folder(folder(tmp_path))
    assert collection.queries == {"q1": "one?", "q2": "two?"}
    assert collection.corpus == {"d1": "One first", "d2": "second"}
    assert collection.relevant == {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}
    assert collection.check() == ()


@pytest.mark.parametrize(
    "qrels",
    [
        "q1\td1\t2\nq2\td2\t1\n",
        "q1 0 d1 2\nq2 0 d2 1\n",
        "q1\t0\td1\t2\r\nq2\t0\td2\t1\r\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t2\n\nq2\td2\t1",
    ],
)
def test_every_layout_of_judgments_is_read(tmp_path: Path, qrels: str) -> None:
    assert from_folder(folder(tmp_path, qrels=qrels)).relevant == {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}


def test_judged_as_not_relevant_is_not_relevant(tmp_path: Path) -> None:
    collection = from_folder(folder(tmp_path, qrels="q1\td1\t1\nq1\td2\t0\nq2\td2\t-1\n"))
    assert collection.relevant == {"q1": {"d1": 1.0}, "q2": {}}
    assert [check.message for check in collection.check()] == [
        "2 of 3 judgments say not relevant.",
        "1 of 2 queries have no relevant document: left out.",
    ]


def test_numeric_ids_and_repeated_lines_are_accepted(tmp_path: Path) -> None:
    corpus = '{"_id": 1, "text": "one"}\n{"id": "d2", "text": "two"}\n{"_id": "1", "text": "one"}\n'
    collection = from_folder(folder(tmp_path, corpus=corpus, qrels="q1\t1\t1\n"))
    assert collection.corpus == {"1": "one", "d2": "two"}
    assert [check.message for check in collection.check()] == [
        "1 rows of corpus.jsonl repeat another row: kept once.",
        "1 of 2 queries have no judgment: left out.",
    ]


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    collection = from_folder(folder(tmp_path, queries='{"_id": "q1", "text": "one \\ud83d"}\n'))
    assert collection.queries == {"q1": "one \ufffd"}
    assert collection.sha256


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "corpus",
            '{"_id": "d1", "text": "one"}\n{"_id": "d1", "text": "other"}\n',
            "expected every id once in {path}, found 'd1' again in row 2 with another text; give one of them another "
            "id.",
        ),
        (
            "corpus",
            '{"_id": "d1", "text": "one"}\n{"_id": "d2", "te\n',
            'expected one JSON object a line in {name}, found \'{{"_id": "d2", "te\' in line 2 (Invalid control '
            "character at); fix or remove that line.",
        ),
        (
            "queries",
            '{"_id": "q1", "words": "one?"}\n',
            "expected an object with an '_id' and a 'text' in {path}, row 1, found '_id', 'words'; rename its columns.",
        ),
        (
            "queries",
            "7\n",
            "expected an object with one key a column in {name}, row 1, found 7; fix that row.",
        ),
        ("corpus", "", "expected documents in the corpus of {folder}, found none; give a corpus."),
        (
            "qrels",
            "q1\td1\t1\nq2\td2\tyes\n",
            "expected query-id, corpus-id and a number called score in {path}, row 2, found 1 'q2', 2 'd2', 3 'yes'; "
            "fix or remove that row.",
        ),
        (
            "qrels",
            "q1\td1\tnan\n",
            "expected query-id, corpus-id and a number called score in {path}, row 1, found 1 'q1', 2 'd1', 3 'nan'; "
            "fix or remove that row.",
        ),
        (
            "qrels",
            "q1\t1\n",
            "expected the columns query-id, corpus-id and score (or no heading, and three fields or TREC's four) in "
            "{path}, row 1, found '1', '2'; rename them.",
        ),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    root = folder(tmp_path, **{name: text})
    path = root / "qrels" / "test.tsv" if name == "qrels" else root / f"{name}.jsonl"
    with pytest.raises(DataError) as caught:
        from_folder(root)
    assert str(caught.value) == message.format(path=repr(str(path)), name=repr(path.name), folder=repr(root.name))


def rows_of(name: str) -> list[dict[str, object]]:
    return {
        "corpus": [{"_id": "d1", "title": "One", "text": "first"}, {"_id": "d2", "title": None, "text": "second"}],
        "queries": [{"_id": "q1", "text": "one?"}, {"_id": "q2", "text": "two?"}],
        "qrels": [
            {"query-id": "q1", "corpus-id": "d1", "score": 2},
            {"query-id": "q2", "corpus-id": "d2", "score": 1},
        ],
    }[name]


def written(path: Path, name: str) -> None:
    """The rows of a part as the ending of `path` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = rows_of(name)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
        return
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif ".json" in path.name:
        text = json.dumps(rows)
    else:
        apart = "," if ".csv" in path.name else "\t"
        lines = [list(rows[0]), *([str(value or "") for value in row.values()] for row in rows)]
        text = "".join(apart.join(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels"),
    [
        ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels/test.tsv.gz"),
        ("corpus.json", "queries.csv", "qrels/test.csv"),
        ("corpus.parquet", "queries.tsv", "qrels/test.jsonl"),
        ("corpus/corpus-0-of-1.parquet", "queries/queries-0-of-1.parquet", "data/test-0-of-1.parquet"),
        ("corpus/test.jsonl", "queries/test.jsonl", "qrels.jsonl"),
        ("corpus.jsonl", "queries.jsonl", "default/test.parquet"),
        ("corpus.jsonl", "queries.jsonl", "qrels.txt"),
    ],
)  # fmt: skip
def test_every_layout_of_files_gives_the_same_collection(tmp_path: Path, corpus: str, queries: str, qrels: str) -> None:
    for place, name in ((corpus, "corpus"), (queries, "queries"), (qrels, "qrels")):
        written(tmp_path / place, name)
    found = from_folder(tmp_path)
    assert found.queries == {"q1": "one?", "q2": "two?"}
    assert found.corpus == {"d1": "One first", "d2": "second"}
    assert found.relevant == {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}


def test_each_split_has_its_own_queries_and_documents(tmp_path: Path) -> None:
    """As in a clone of a NanoBEIR with several sets: a file of each set in each folder."""
    for name in ("corpus", "queries", "qrels"):
        written(tmp_path / name / "NanoNQ-00000-of-00001.parquet", name)
        other = pd.DataFrame(rows_of(name)).map(lambda value: f"x{value}" if isinstance(value, str) else value)
        other.to_parquet(tmp_path / name / "NanoMSMARCO-00000-of-00001.parquet")
    assert from_folder(tmp_path, "NanoNQ").corpus == {"d1": "One first", "d2": "second"}
    assert from_folder(tmp_path, "NanoMSMARCO").relevant == {"xq1": {"xd1": 2.0}, "xq2": {"xd2": 1.0}}


def test_a_damaged_gzip_file_is_an_error(tmp_path: Path) -> None:
    (folder(tmp_path) / "corpus.jsonl").unlink()
    whole = gzip.compress(b'{"_id": "d1", "text": "one"}\n' * 100)
    for broken in (b"no gzip", whole[:-9]):
        (tmp_path / "corpus.jsonl.gz").write_bytes(broken)
        with pytest.raises(DataError, match=r"expected to read .*corpus\.jsonl\.gz', found "):
            from_folder(tmp_path)


def test_an_invalid_judgment_names_its_row(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "qrels/test.tsv").unlink()
    (root / "qrels/test.jsonl").write_text('{"query_id": "q1", "corpus_id": "d1", "score": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        from_folder(root)
    assert str(caught.value) == (
        f"expected query-id, corpus-id and a number called score in {str(root / 'qrels' / 'test.jsonl')!r}, row 1, "
        "found query_id 'q1', corpus_id 'd1', score 'x'; fix or remove that row."
    )


def test_without_test_the_dev_split_is_measured_with_a_note(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "qrels/test.tsv").rename(root / "qrels/dev.tsv")
    (root / "qrels/train.tsv").write_text("q1\td2\t1\n", encoding="utf-8")
    found = from_folder(root)
    assert found.relevant == {"q1": {"d1": 2.0}, "q2": {"d2": 1.0}}
    assert [check.message for check in found.check()] == [
        "Measured on the judgments of 'dev': there are none of 'test'."
    ]
    assert from_folder(root, "train").relevant == {"q1": {"d2": 1.0}}


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "qrels" / "test.tsv").rename(root / "qrels" / "dev.tsv")
    assert from_folder(root).relevant == from_folder(root, "dev").relevant
    with pytest.raises(DataError) as caught:
        load_collection(root, split="test")
    assert str(caught.value) == (
        f"expected judgments in {str(root / 'qrels' / 'test.tsv')!r}, found 'dev.tsv'; choose a split that is there."
    )


def test_a_folder_without_a_collection_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found none; choose a split that is there\."):
        from_folder(tmp_path)
    with pytest.raises(DataError, match="expected a folder with corpus"):
        from_folder(tmp_path / "nowhere")
    (folder(tmp_path) / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"expected to read .*queries.jsonl.*, found No such file or directory\."):
        from_folder(tmp_path)


def test_bytes_that_are_not_utf_8_are_an_error(tmp_path: Path) -> None:
    (folder(tmp_path) / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"expected UTF-8 text in .*corpus.jsonl"):
        from_folder(tmp_path)


def test_an_unreachable_hub_collection_is_an_error() -> None:
    with pytest.raises(DataError) as caught:
        load_collection("nobody-at-all/nothing")
    assert str(caught.value) == (
        "expected a folder, a file, sample:NAME or a Hub collection, found 'nobody-at-all/nothing', whose corpus "
        "cannot be loaded (the Hub cannot be reached and the local cache does not have it); give a local folder."
    )


def test_real_folders_have_the_published_sizes(shared: Path) -> None:
    scifact = load_collection(shared / "data/scifact")
    assert repr(scifact) == "<Collection 'scifact': 300 queries, 5,183 documents, 339 relevant>"
    xquad = load_collection(shared / "data/xquad-en")
    assert repr(xquad) == "<Collection 'xquad-en': 1,185 queries, 240 documents, 1,185 relevant>"


# --- the Hub, from its cache -----------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


def test_a_nanobeir_collection_is_read_by_its_split(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def split(name: str) -> list[dict[str, str]]:
        return [{"_id": "1", "text": f"{name} one"}, {"_id": "2", "text": f"{name} two"}]

    texts = {name: split(name) for name in ("NanoNQ", "NanoSciFact")}
    judged = {name: [{"query-id": "2", "corpus-id": "1"}] for name in texts}
    cached_dataset(cache, "somebody/NanoBEIR-xx", {"corpus": texts, "queries": texts, "qrels": judged})
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)  # to caplog
    found = load_collection("somebody/NanoBEIR-xx", split="NanoSciFact")
    assert caplog.records == []  # else a line for each part
    assert found.corpus == {"1": "NanoSciFact one", "2": "NanoSciFact two"}
    assert found.queries["2"] == "NanoSciFact two"
    assert found.relevant == {"2": {"1": 1.0}}


def test_a_collection_in_beirs_layout_has_one_corpus_for_all_splits(cache: Path) -> None:
    texts = {
        "corpus": {"corpus": [{"_id": "d", "title": "T", "text": "text"}]},
        "queries": {"queries": [{"_id": "q", "text": "?"}]},
    }
    judged = {"default": {name: [{"query-id": "q", "corpus-id": "d", "score": 1}] for name in ("dev", "test")}}
    cached_dataset(cache, "mteb/some-set", {**texts, **judged})
    assert load_collection("mteb/some-set", split="dev").corpus == {"d": "T text"}


def test_a_hub_collection_that_is_not_cached_is_an_error(cache: Path) -> None:
    with pytest.raises(DataError, match="the Hub cannot be reached and the local cache does not have it"):
        load_collection("somebody/nothing")
