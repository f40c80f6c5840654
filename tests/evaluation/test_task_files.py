"""What is measured on folders and files as public sets lie there, told by names and columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hub_cache import cached_dataset

from workbench.errors import DataError
from workbench.evaluation.examples import with_collection_metrics
from workbench.evaluation.task_files import Found, open_task
from workbench.evaluation.tasks import NANO, Examples, Mean, Search

CORPUS = {"d1": ("Brakes", "They are 380 mm wide."), "d2": ("", 'The "PCCB" cost extra; ask.'), "5": ("Käse", "Groß.")}
QUERIES = {"q1": "how wide?", "3": "wie groß?", "q9": "not judged"}
GAINS = {"q1": {"d1": 2, "d2": 1}, "3": {"5": 1, "d1": 0}}
PAIRS = (("A man's horse.", 'He "rides", slowly.', 4.75), ("Café.", "Größer; zu.", 3.0), ("One, two.", "Three?", 0.5))
LABELS = tuple((one, two, int(score >= 3)) for one, two, score in PAIRS)
LISTS = (
    {"query": "what", "positive": ["a car", "a bus"], "negative": ["cheese"]},
    {"query": "who", "positive": ["a man"], "negative": ["iron", "wood"]},
)


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: Sequence[Sequence[object]], apart: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=apart, lineterminator="\n").writerows(rows)
    return text.getvalue()


def parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([dict(row) for row in rows]).to_parquet(path)


def searched(found: Found) -> Search:
    assert isinstance(found[0], Search)
    return found[0]


def items(found: Found, kind: str) -> Examples:
    assert isinstance(found[0], Examples)
    assert found[0].kind == kind
    return found[0]


def is_the_set(found: Found, *, titles: bool = True) -> None:
    """Check that a collection is the one above, with or without titles."""
    collection = searched(found).collection
    assert collection.evaluated == ("q1", "3")
    assert collection.corpus == {key: f"{a} {b}".strip() if titles else b for key, (a, b) in CORPUS.items()}
    gains = {query: {document: gain for document, gain in each.items() if gain} for query, each in GAINS.items()}
    assert {query: dict(collection.relevant[query]) for query in collection.evaluated} == gains


# --- collections -----------------------------------------------------------------------------------------------------


def judged(apart: str = "\t", heading: str = "query-id\tcorpus-id\tscore\n", middle: str = "") -> str:
    rows = [(query, document, gain) for query, each in GAINS.items() for document, gain in each.items()]
    return heading + "".join(f"{q}{apart}{middle}{d}{apart}{g}\n" for q, d, g in rows)


def texts(identity: str, text: str) -> tuple[str, str]:
    corpus = [{identity: key, "title": title, text: body} for key, (title, body) in CORPUS.items()]
    return lines(corpus), lines([{identity: key, text: query} for key, query in QUERIES.items()])


@pytest.mark.parametrize(("identity", "text"), [("_id", "text"), ("id", "contents"), ("docid", "passage")])
@pytest.mark.parametrize(
    ("name", "qrels"),
    [
        ("qrels/test.tsv", judged()),
        ("qrels/dev.tsv", judged()),
        ("test.tsv", judged()),
        ("qrels.tsv", judged(heading="")),
        ("qrels.test.txt", judged(" ", heading="", middle="0 ")),
        ("qrels/test.csv", judged(",", heading="query-id,corpus-id,score\n")),
    ],
)
def test_corpus_queries_and_judgments(tmp_path: Path, identity: str, text: str, name: str, qrels: str) -> None:
    corpus, queries = texts(identity, text)
    inside = tmp_path / "unpacked"
    put(inside / "corpus.jsonl", corpus)
    put(inside / "queries.jsonl", queries)
    put(inside / name, qrels)
    is_the_set(open_task(str(inside)))
    is_the_set(open_task(str(tmp_path)))  # the folder around it, as an archive leaves it


def test_judgments_without_a_score(tmp_path: Path) -> None:
    corpus, queries = texts("_id", "text")
    put(tmp_path / "corpus.jsonl", corpus)
    put(tmp_path / "queries.jsonl", queries)
    put(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\nq1\td1\n3\t5\n")
    found = searched(open_task(tmp_path)).collection
    assert {query: dict(found.relevant[query]) for query in found.evaluated} == {"q1": {"d1": 1.0}, "3": {"5": 1.0}}


def test_a_file_named_after_its_split_is_that_split_only(tmp_path: Path) -> None:
    corpus, queries = texts("_id", "text")
    put(tmp_path / "corpus.jsonl", corpus)
    put(tmp_path / "queries.jsonl", queries)
    put(tmp_path / "qrels" / "test.tsv", judged())
    put(tmp_path / "qrels" / "test_large.tsv", judged() + "q9\td1\t1\n")
    is_the_set(open_task(tmp_path))
    assert "q9" in searched(open_task(tmp_path, split="test_large")).collection.evaluated


def test_tables_without_headings_as_ms_marco_has_them(tmp_path: Path) -> None:
    put(tmp_path / "collection.tsv", "".join(f"{key}\t{text}\n" for key, (_, text) in CORPUS.items()))
    put(tmp_path / "queries.dev.tsv", "".join(f"{key}\t{text}\n" for key, text in QUERIES.items()))
    put(tmp_path / "queries.train.tsv", "t1\tof training\n")
    put(tmp_path / "qrels.dev.tsv", judged(heading="", middle="0\t"))
    is_the_set(open_task(tmp_path), titles=False)


def test_objects_of_ids(tmp_path: Path) -> None:
    put(tmp_path / "corpus.json", json.dumps({key: {"title": a, "text": b} for key, (a, b) in CORPUS.items()}))
    put(tmp_path / "queries.json", json.dumps(QUERIES))
    put(tmp_path / "qrels.json", json.dumps(GAINS))
    is_the_set(open_task(tmp_path))


def test_one_object_with_all_three(tmp_path: Path) -> None:
    plain = {key: text for key, (_, text) in CORPUS.items()}
    whole = {"queries": QUERIES, "corpus": plain, "relevant_docs": GAINS}
    is_the_set(open_task(put(tmp_path / "set.json", json.dumps(whole))), titles=False)
    whole["relevant_docs"] = {"q1": ["d1"], "3": ["5"]}
    found = searched(open_task(put(tmp_path / "lists.json", json.dumps(whole)))).collection
    assert {query: dict(each) for query, each in found.relevant.items()} == {"q1": {"d1": 1.0}, "3": {"5": 1.0}}


def test_questions_on_paragraphs_as_squad_has_them(tmp_path: Path) -> None:
    asked = [{"question": f"what {number}", "id": str(number), "answers": []} for number in range(4)]
    article = [{"context": "first", "qas": asked[:3]}, {"context": "second", "qas": asked[3:]}]
    whole = {"version": "1.1", "data": [{"title": "A", "paragraphs": article}]}
    found = searched(open_task(put(tmp_path / "dev.json", json.dumps(whole)))).collection
    assert sorted(found.corpus.values()) == ["first", "second"]
    assert len(found.evaluated) == 4


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("apart", [",", ";", "\t", "|"])
@pytest.mark.parametrize("headed", [True, False])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_tables_of_scored_pairs(tmp_path: Path, encoding: str, apart: str, headed: bool, ends: str) -> None:
    rows = [*([("sentence1", "sentence2", "score")] if headed else []), *PAIRS]
    text = table(rows, apart)
    if apart == "\t":  # as these sets are written: quotation marks are text
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    found = items(
        open_task(put(tmp_path / "set.csv", text.replace("\n", ends), encoding)), "EmbeddingSimilarityEvaluator"
    )
    assert found.texts == tuple(pair[:2] for pair in PAIRS)
    assert found.gold == (4.75, 3.0, 0.5)


def test_quotation_marks_in_tables_of_tabs_are_text_unless_they_are_doubled(tmp_path: Path) -> None:
    rows = [("sentence1", "sentence2", "score"), *PAIRS]
    doubled = put(tmp_path / "doubled.tsv", table(rows, "\t"))
    assert '"He ""rides"", slowly."' in doubled.read_text(encoding="utf-8")
    plain = put(tmp_path / "plain.tsv", "".join("\t".join(map(str, row)) + "\n" for row in rows))
    for path in (doubled, plain):
        found = items(open_task(path), "EmbeddingSimilarityEvaluator")
        assert found.texts == tuple(pair[:2] for pair in PAIRS)
    said = put(tmp_path / "said.tsv", 'sentence1\tsentence2\tscore\n"Yes."\t"No."\t1\nMaybe\t"So\t2\n')
    assert items(open_task(said), "EmbeddingSimilarityEvaluator").texts == (('"Yes."', '"No."'), ("Maybe", '"So'))


NAMED = [{"sentence1": one, "sentence2": two, "score": score} for one, two, score in PAIRS]


@pytest.mark.parametrize(
    "value",
    [
        NAMED,
        {"data": NAMED, "version": 1},
        {name: [row[name] for row in NAMED] for name in NAMED[0]},
        {name: {str(place): row[name] for place, row in enumerate(NAMED)} for name in NAMED[0]},
        [list(row) for row in PAIRS],
    ],
)
def test_json_of_scored_pairs(tmp_path: Path, value: Any) -> None:
    found = items(open_task(put(tmp_path / "set.json", json.dumps(value))), "EmbeddingSimilarityEvaluator")
    assert found.texts == tuple(pair[:2] for pair in PAIRS)
    assert found.gold == (4.75, 3.0, 0.5)


def test_json_lines_under_the_name_of_json_and_scores_among_others(tmp_path: Path) -> None:
    rows = [{**row, "score": {"label": row["score"], "binary-label": 1}} for row in NAMED]
    for name, each in (("set.json", NAMED), ("klue.jsonl", rows)):
        found = items(open_task(put(tmp_path / name, lines(each))), "EmbeddingSimilarityEvaluator")
        assert found.gold == (4.75, 3.0, 0.5)


@pytest.mark.parametrize(
    "columns",
    [
        {"left": "sentence1", "right": "sentence2", "points": "score"},
        {"left": "anchor", "right": "positive", "points": "label"},
        {"sentence1": "left", "sentence2": "right", "score": "points"},
        ["left", "right", "points"],
    ],
)
def test_columns_named_one_way_or_another(tmp_path: Path, columns: Any) -> None:
    path = put(tmp_path / "set.csv", table([("left", "right", "points"), *PAIRS]))
    found = items(open_task(path, columns), "EmbeddingSimilarityEvaluator")
    assert (found.texts, found.gold) == (tuple(pair[:2] for pair in PAIRS), (4.75, 3.0, 0.5))
    with pytest.raises(DataError) as caught:
        open_task(path)
    assert str(caught.value) == (
        f"expected columns of two texts and a score (or of an anchor and a positive) in {str(path)!r}, found 'left', "
        "'right', 'points'; name them with --columns left=sentence1,right=sentence2,points=score or "
        "left=anchor,right=positive."
    )


@pytest.mark.parametrize("place", ["data/{}-00000-of-00001.parquet", "{}.parquet", "{}.jsonl"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_clone_of_a_hub_dataset_of_pairs(tmp_path: Path, place: str, split: str) -> None:
    for name, rows in ((split, NAMED), ("train", NAMED[:1])):
        path = tmp_path / place.format(name)
        parquet(path, rows) if path.suffix == ".parquet" else put(path, lines(rows))
    put(tmp_path / "README.md", "a card")
    assert items(open_task(tmp_path), "EmbeddingSimilarityEvaluator").gold == (4.75, 3.0, 0.5)
    assert len(items(open_task(tmp_path, split="train"), "EmbeddingSimilarityEvaluator").gold) == 1


def test_parts_of_a_split_are_read_together(tmp_path: Path) -> None:
    for part in range(2):
        parquet(tmp_path / "data" / f"test-0000{part}-of-00002.parquet", NAMED[part * 2 : part * 2 + 2])
    assert items(open_task(tmp_path), "EmbeddingSimilarityEvaluator").gold == (4.75, 3.0, 0.5)


def test_what_datasets_saved_to_disk(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    whole, part = Dataset.from_list(NAMED), Dataset.from_list(NAMED[:1])
    whole.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"test": whole, "train": part}).save_to_disk(str(tmp_path / "several"))
    for name in ("one", "several"):
        assert items(open_task(tmp_path / name), "EmbeddingSimilarityEvaluator").gold == (4.75, 3.0, 0.5)


def test_labels_of_0_and_1_are_classified(tmp_path: Path) -> None:
    rows = [("id", "qid1", "qid2", "question1", "question2", "is_duplicate")]
    rows += [(str(place), "7", "8", one, two, str(label)) for place, (one, two, label) in enumerate(LABELS)]
    quora = open_task(put(tmp_path / "quora.csv", table(rows)))
    assert items(quora, "BinaryClassificationEvaluator").gold == (1.0, 1.0, 0.0)
    assert [note.message for note in quora[1]] == [
        "The scores are labels of 0 and 1: measured as by BinaryClassificationEvaluator, and correlated."
    ]
    mrpc = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    mrpc += "".join(f"{label}\t1\t2\t{one}\t{two}\n" for one, two, label in LABELS)
    found = items(open_task(put(tmp_path / "msr.txt", mrpc)), "BinaryClassificationEvaluator")
    assert found.texts == tuple(row[:2] for row in LABELS)
    lists = {f"sent{side + 1}": [row[side] for row in LABELS] for side in (0, 1)} | {"labels": [1, 1, 0]}
    assert items(open_task(put(tmp_path / "mteb.jsonl", lines([lists]))), "BinaryClassificationEvaluator").gold == (
        1.0,
        1.0,
        0.0,
    )
    said = lines([{"sentence1": one, "sentence2": two, "label": str(bool(label))} for one, two, label in LABELS])
    assert items(open_task(put(tmp_path / "said.jsonl", said)), "BinaryClassificationEvaluator").gold == (1.0, 1.0, 0.0)


def test_equal_scores_are_noted(tmp_path: Path) -> None:
    found = open_task(put(tmp_path / "set.csv", table([("sentence1", "sentence2", "score"), *(("a", "b", 2),) * 3])))
    assert [note.message for note in found[1]] == [
        "All 3 pairs have the score 2: no correlation with it can be computed."
    ]


# --- triplets, reranking candidates, pairs without a score ---------------------------------------------------------


@pytest.mark.parametrize("names", [("anchor", "positive", "negative"), ("query", "pos", "neg")])
def test_triplets_and_the_search_in_them(tmp_path: Path, names: tuple[str, str, str]) -> None:
    rows = [("what", "a car", "cheese"), ("who", "a man", "iron")]
    path = put(tmp_path / "set.csv", table([names, *rows]))
    assert items(open_task(path), "TripletEvaluator").texts == tuple(rows)
    collection = searched(open_task(path, {names[0]: "anchor", names[1]: "positive"})).collection
    assert list(collection.corpus.values()) == ["a car", "a man"]


def test_reranking_candidates(tmp_path: Path) -> None:
    path = put(tmp_path / "lists.jsonl", lines(LISTS))
    assert items(open_task(path), "RerankingEvaluator").samples == LISTS
    parquet(tmp_path / "clone" / "data" / "test-00000-of-00001.parquet", LISTS)
    assert items(open_task(tmp_path / "clone"), "RerankingEvaluator").samples == LISTS
    broken = put(tmp_path / "broken.jsonl", lines([*LISTS, {"query": "who", "positive": None, "negative": []}]))
    with pytest.raises(DataError, match=r"expected a query and lists of positive and negative texts in .*, row 3"):
        open_task(broken)


@pytest.mark.parametrize("names", [("question", "answer"), ("anchor", "positive"), ("query", "passage")])
def test_pairs_without_a_score_are_searched(tmp_path: Path, names: tuple[str, str]) -> None:
    found = open_task(put(tmp_path / "set.csv", table([names, ("what", "a car"), ("who", "a man")])))
    assert list(searched(found).collection.corpus.values()) == ["a car", "a man"]


def test_a_sample_with_scores_is_correlated() -> None:
    assert len(items(open_task("sample:sinhala"), "EmbeddingSimilarityEvaluator").gold) > 50
    assert len(searched(open_task("sample:porsche")).collection.evaluated) > 50


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of `datasets`."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_hub_datasets_of_pairs_and_of_lists_from_the_cache(cache: Path) -> None:
    cached_dataset(cache, "somebody/sts-v1.5", {"default": {"test": NAMED, "train": NAMED[:1]}})
    assert items(open_task("somebody/sts-v1.5"), "EmbeddingSimilarityEvaluator").gold == (4.75, 3.0, 0.5)
    cached_dataset(cache, "somebody/lists", {"default": {"validation": LISTS}})
    assert items(open_task("somebody/lists"), "RerankingEvaluator").samples == LISTS
    with pytest.raises(DataError, match=r"found 'somebody/nothing', whose corpus cannot be loaded"):
        open_task("somebody/nothing")


def test_all_of_nanobeir_by_the_id_of_a_dataset(cache: Path) -> None:
    names = [f"Nano{short}" for short in NANO]
    rows = {
        "corpus": [{"_id": key, "text": text} for key, (_, text) in CORPUS.items()],
        "queries": [{"_id": key, "text": text} for key, text in QUERIES.items()],
        "qrels": [{"query-id": "q1", "corpus-id": "d1"}, {"query-id": "3", "corpus-id": "5"}],
    }
    cached_dataset(cache, "somebody/NanoBEIR-xx", {part: dict.fromkeys(names, each) for part, each in rows.items()})
    task = open_task("somebody/NanoBEIR-xx")[0]
    assert isinstance(task, Mean)
    assert [member.name for member in task.members] == names

    def encode(found: list[str], kind: str) -> Any:
        return [[len(text), text.count("e"), 1.0] for text in found]

    whole = with_collection_metrics(task.measure(encode))
    one = task.members[3].measure(encode).metrics["cosine_mrr@10"]
    assert one == pytest.approx(2 / 3)  # by hand: the first and the third place
    keys = ("cosine_mrr@10", "NanoBEIR_mean_cosine_mrr@10", f"{names[3]}_cosine_mrr@10")
    assert [whole.metrics[key] for key in keys] == pytest.approx([one] * 3)
    alone = searched(open_task("somebody/NanoBEIR-xx", split=names[3])).collection
    assert (alone.name, alone.evaluated) == (names[3], ("q1", "3"))


def test_folders_without_anything_to_measure_are_errors(tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "de").mkdir()
    with pytest.raises(DataError) as caught:
        open_task(tmp_path)
    assert str(caught.value) == (
        f"expected a collection (corpus.jsonl, queries.jsonl and qrels/test.tsv) or a file of pairs in "
        f"{str(tmp_path)!r}, found 'de', 'en'; name the file, or the folder that holds them."
    )
    for name in ("one", "two"):
        put(tmp_path / "several" / f"{name}.csv", table([("sentence1", "sentence2", "score"), *PAIRS]))
    with pytest.raises(
        DataError, match=r"expected one file of the split 'test' in .*, found 'one', 'two'; name the file"
    ):
        open_task(tmp_path / "several")
