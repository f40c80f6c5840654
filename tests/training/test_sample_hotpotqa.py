"""The shipped sample `hotpotqa`: made by its script, two paragraphs a question, free of leaks, consistent."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict

import pytest
from sample_rows import SAMPLES, SPLITS, Rows, ndcg_of_bm25, read, words

SAMPLE = SAMPLES / "hotpotqa"
COLUMNS = ["anchor", "positive", "title", "answer", "type", "topic"]
SMALL_WORDS = frozenset(
    re.findall(r"\w+", "a an and are as be by for from he her his in is it its of on she the they to was who")
)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The committed rows by file."""
    return read("hotpotqa", "corpus")


def by_question(rows: Rows, *splits: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for split in splits:
        for row in rows[split]:
            found[row["anchor"]].append(row)
    return found


def paragraphs(rows: Rows) -> dict[str, str]:
    """Text by title: the corpus of the evaluation."""
    return {row["title"]: row["positive"] for name in (*SPLITS, "corpus") for row in rows[name]}


def headers() -> dict[str, dict[str, str]]:
    """Keys of every paragraph, read from the sources without the script: title -> kind and keys."""
    found = {}
    for name in ("places", "people", "works", "institutions", "neighbours"):
        for line in re.findall(r"^## (.*)$", (SAMPLE / f"{name}.txt").read_text(encoding="utf-8"), re.MULTILINE):
            title, kind, *keys = line.split(" | ")
            kind = {"series": "film", "song": "oeuvre", "game": "oeuvre"}.get(kind, kind)
            found[title] = {"kind": kind, **dict(key.split("=", 1) for key in keys)}
    return found


def test_counts_and_columns(rows: Rows) -> None:
    import pyarrow.parquet as pq

    assert {name: len(part) for name, part in rows.items()} == {
        "train": 610,
        "validation": 100,
        "test": 304,
        "corpus": 79,
    }
    assert len(paragraphs(rows)) == 422
    for name in SPLITS:
        assert pq.read_schema(SAMPLE / f"{name}.parquet").names == COLUMNS
    assert pq.read_schema(SAMPLE / "corpus.parquet").names == ["positive", "title"]
    assert sum(path.stat().st_size for path in SAMPLE.iterdir() if path.is_file()) < 600_000
    for row in (row for part in rows.values() for row in part):
        assert all(isinstance(value, str) and value.strip() == value != "" for value in row.values()), row


def test_every_question_has_two_paragraphs_in_one_file(rows: Rows) -> None:
    for split in SPLITS:
        for question, pair in by_question(rows, split).items():
            assert len(pair) == len({row["positive"] for row in pair}) == 2, question
            assert len({(row["answer"], row["type"], row["topic"]) for row in pair}) == 1, question
    seen = [" ".join(words(question)) for split in SPLITS for question in by_question(rows, split)]
    assert len(set(seen)) == len(seen) == 507


def test_paragraphs_are_told_apart_and_shared_as_the_data_card_says(rows: Rows) -> None:
    everything = [row for part in rows.values() for row in part]
    assert len({row["positive"] for row in everything}) == len({row["title"] for row in everything}) == 422
    asked = {split: {row["positive"] for row in rows[split]} for split in SPLITS}
    assert not {row["positive"] for row in rows["corpus"]} & set().union(*asked.values())
    counts = {
        "train": len(asked["train"]),
        "validation": len(asked["validation"]),
        "test": len(asked["test"]),
        "test and train": len(asked["test"] & asked["train"]),
    }
    card = (SAMPLE / "README.md").read_text(encoding="utf-8")
    for name, count in counts.items():
        assert re.search(rf"^\| {name} \|.*\b{count} \|$", card, re.MULTILINE), (name, count)


def test_paragraphs_say_what_their_keys_say(rows: Rows) -> None:
    texts, known = paragraphs(rows), headers()
    assert set(texts) == set(known)
    for title, keys in known.items():
        assert re.sub(r" \(.*\)$", "", title).lower() in texts[title].lower(), title
        for key in ("year", "length", "height", "people", "area", "minutes"):
            assert keys.get(key, "") in texts[title], (title, key)
        for key in ("by", "born", "from", "at", "on"):
            assert keys.get(key, title) in known, (title, key)
            assert keys.get(key, "") in texts[title], (title, key)


def test_nobody_dies_before_birth_or_works_in_the_cradle(rows: Rows) -> None:
    texts, known = paragraphs(rows), headers()
    lives = {title: re.search(r"(\d{4})–(\d{4})", text) for title, text in texts.items()}
    assert sum(life is not None for life in lives.values()) >= 80
    assert all(25 <= int(life[2]) - int(life[1]) <= 100 for life in lives.values() if life)
    checked = 0
    for title, keys in known.items():
        if "by" in keys and "year" in keys and title != "Salt Psalms":  # its paragraph says that it is posthumous
            life = lives[keys["by"]]
            assert int(known[keys["by"]]["year"]) + 17 <= int(keys["year"]) <= (int(life[2]) if life else 2026), title
            checked += 1
    assert checked >= 50


def test_answers_and_links_are_in_the_paragraphs(rows: Rows) -> None:
    linked = bridges = 0
    for question, (first, second) in by_question(rows, *SPLITS).items():
        both = set(words(f"{first['positive']} {second['positive']} {first['title']} {second['title']}"))
        if first["answer"] not in ("yes", "no"):
            assert set(words(first["answer"])) <= both | SMALL_WORDS, question
        if first["type"] == "bridge":
            names = [re.sub(r" \(.*\)$", "", row["title"]).lower() for row in (first, second)]
            bridges += 1
            linked += names[0] in second["positive"].lower() or names[1] in first["positive"].lower()
            capitals = [set(re.findall(r"\b[A-Z]\w{3,}", row["positive"])) for row in (first, second)]
            assert capitals[0] & capitals[1], question  # a name that leads from one to the other
    assert linked >= 0.85 * bridges


def test_comparisons_by_number_have_the_right_answer(rows: Rows) -> None:
    greater = r"more|later|longer|larger|higher|greater|taller|further above|newer|younger|bigger|populous|newcomers"
    greater += r"|saw the light after|still to come|look down|set up after|gain more"
    key = {"longer-river": "length", "higher-mountain": "height", "larger-town": "people"}
    known, checked = headers(), 0
    for question, pair in by_question(rows, *SPLITS).items():
        if pair[0]["type"] != "comparison" or pair[0]["topic"] == "single":
            continue
        topic = pair[0]["topic"]
        number = {row["title"]: int(known[row["title"]][key.get(topic, "year")].replace(",", "")) for row in pair}
        assert len(set(number.values())) == 2, question
        most = re.search(rf"\b({greater})\b", question) and not re.search(
            r"further back|goes back|longer hist", question
        )
        wanted = (max if most else min)(number, key=lambda title: number[title])
        assert re.sub(r" \(.*\)$", "", wanted) in pair[0]["answer"], question
        checked += 1
    assert checked >= 150


def test_near_misses(rows: Rows) -> None:
    known = headers()
    kinds = Counter(keys["kind"] for keys in known.values())
    names = [re.sub(r" \(.*\)$", "", title) for title in known]
    near = {name: difflib.get_close_matches(name, set(names) - {name}, n=1, cutoff=0.7) for name in names}
    similar = {name for name, others in near.items() if others}
    assert len(similar) >= 180
    for row in rows["test"]:
        siblings = kinds[known[row["title"]]["kind"]] - 1
        assert siblings >= 3 or re.sub(r" \(.*\)$", "", row["title"]) in similar, row
    assert sum(kinds[known[row["title"]]["kind"]] >= 12 for row in rows["test"]) >= 0.75 * len(rows["test"])


def test_wordings_are_many_and_a_third_is_written_singly(rows: Rows) -> None:
    import yaml

    kinds = yaml.safe_load((SAMPLE / "wordings.yaml").read_text(encoding="utf-8"))
    for topic, kind in kinds.items():
        assert len({wording.lstrip("+- ") for wording in kind["wordings"]}) >= 12, topic
    topics = [pair[0]["topic"] for pair in by_question(rows, *SPLITS).values()]
    assert topics.count("single") >= len(topics) / 3
    assert set(topics) == {*kinds, "single"}
    for split in SPLITS:
        assert {row["type"] for row in rows[split]} == {"bridge", "comparison"}


def test_word_overlap_alone_does_not_find_everything(rows: Rows) -> None:
    relevant = {question: [row["title"] for row in pair] for question, pair in by_question(rows, "test").items()}
    assert len(relevant) == 152
    assert 0.5 <= ndcg_of_bm25(paragraphs(rows), relevant) <= 0.8
