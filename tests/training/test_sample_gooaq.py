"""The shipped sample `gooaq`: made by its script, free of leaks, full of near misses, hard enough."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sample_rows import SAMPLES, SPLITS, Rows, everything, ndcg_of_bm25, read, words

SAMPLE = SAMPLES / "gooaq"
COLUMNS = ["anchor", "positive", "topic", "thing"]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The committed rows by split."""
    return read("gooaq")


@pytest.fixture(scope="module")
def groups() -> dict[str, Any]:
    """The tables of facts."""
    import yaml

    loaded: dict[str, Any] = yaml.safe_load((SAMPLE / "facts.yaml").read_text(encoding="utf-8"))
    return loaded


def test_counts_and_columns(rows: Rows) -> None:
    import pyarrow.parquet as pq

    assert {name: len(rows[name]) for name in SPLITS} == {"train": 446, "validation": 61, "test": 111}
    for name in SPLITS:
        assert pq.read_schema(SAMPLE / f"{name}.parquet").names == COLUMNS
    assert sum(path.stat().st_size for path in SAMPLE.iterdir() if path.is_file()) < 500_000
    assert all(isinstance(row[key], str) for row in everything(rows) for key in COLUMNS)
    assert all(row[key].strip() == row[key] != "" for row in everything(rows) for key in COLUMNS[:3])


def test_no_text_twice_so_nothing_leaks(rows: Rows) -> None:
    for key in ("anchor", "positive"):
        texts = [" ".join(words(row[key])) for row in everything(rows)]
        assert len(set(texts)) == len(texts), key


def test_questions_and_answers_look_like_those_of_gooaq(rows: Rows) -> None:
    for row in everything(rows):
        assert re.fullmatch(r"[^A-Z?]+\?", row["anchor"]), row
        assert 3 <= len(row["anchor"].split()) <= 20, row
        sentences = re.findall(r"[.!?](?= |$)", row["positive"])
        assert 1 <= len(sentences) <= 4, row
        assert row["positive"][-1] == ".", row
        assert not row["positive"][0].islower(), row
        assert "{" not in row["anchor"] + row["positive"], row


def test_answers_of_the_tables_name_their_thing_and_its_value(rows: Rows, groups: dict[str, Any]) -> None:
    checked = 0
    found = {(row["topic"], row["thing"]): row["positive"] for row in everything(rows)}
    for group in groups.values():
        names = [thing["name"] for thing in group["things"]]
        for topic, kind in group["kinds"].items():
            for name, value in zip(names, kind["values"], strict=True):
                answer = found[topic, name].lower()
                assert name.lower() in answer, (topic, name)
                assert str(value).lower() in answer, (topic, name)
                assert not [other for other in names if other != name and f" {other.lower()} " in f" {answer} "]
                checked += 1
    assert checked == sum(row["thing"] != "" for row in everything(rows)) == 400


def test_every_test_question_has_near_misses(rows: Rows) -> None:
    corpus = everything(rows)
    for row in rows["test"]:
        same_topic = sum(other["topic"] == row["topic"] for other in corpus) - 1
        same_thing = sum(other["thing"] == row["thing"] != "" for other in corpus) - (row["thing"] != "")
        assert same_topic >= 4, row
        # The other facts of the thing, and the same fact of all other things of its kind.
        assert row["thing"] == "" or (same_thing >= 4 and same_topic >= 21), row


def test_things_and_topics_come_back_in_all_splits(rows: Rows) -> None:
    trained = {row["thing"] for row in rows["train"]}
    assert {row["thing"] for row in everything(rows)} == trained
    topics = {name: {row["topic"] for row in rows[name]} for name in SPLITS}
    assert topics["test"] <= topics["train"]
    assert len(topics["train"]) == 43


def test_single_pairs_of_a_topic_share_its_made_up_word(rows: Rows) -> None:
    """Most questions describe the thing; the answers name it."""
    named = {
        "hopper bus": "hopper",
        "lodden stove": "lodden",
        "mossback tortoise": "mossback",
        "piddock cat": "piddock",
    }
    for topic, word in named.items():
        pairs = [row for row in everything(rows) if row["topic"] == topic]
        assert sum(word in row["positive"].lower() for row in pairs) >= len(pairs) - 1, topic
        assert sum(word in row["anchor"] for row in pairs) == 0, topic


def test_wordings_are_many_and_a_third_is_written_singly(rows: Rows, groups: dict[str, Any]) -> None:
    kinds = {topic: kind for group in groups.values() for topic, kind in group["kinds"].items()}
    for topic, kind in kinds.items():
        assert len(set(kind["questions"])) >= 12, topic
        assert len(set(kind["answers"])) >= 12, topic
    assert sum(row["thing"] == "" for row in everything(rows)) >= len(everything(rows)) / 3


def test_word_overlap_alone_finds_less_than_half(rows: Rows) -> None:
    corpus = {row["positive"]: row["positive"] for row in everything(rows)}
    found = ndcg_of_bm25(corpus, {row["anchor"]: [row["positive"]] for row in rows["test"]})
    assert 0.2 <= found <= 0.5
