"""The shipped sample `sinhala`: made by its script, Sinhala throughout, scored by its scale, free of leaks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sample_rows import SAMPLES, SPLITS, Rows, read

from workbench import evaluate
from workbench.models.multilingual import MULTILINGUAL
from workbench.models.stand_ins import BUNDLED

SAMPLE = SAMPLES / "sinhala"
COLUMNS = ["sentence1", "sentence2", "score", "kind", "topic"]
SCALE = {  # the README's scale
    "identical": {1.0},
    "paraphrase": {0.9, 0.95},
    "one fact changed": {0.6, 0.7, 0.8},
    "same topic": {0.3, 0.4, 0.5},
    "unrelated": {0.0, 0.05},
}
# Sinhala letters and signs, single spaces, and the joiner U+200D only between al-lakuna and ය or ර.
LETTERS = re.compile("(?:[\u0d80-\u0dff]|(?<=\u0dca)\u200d(?=[\u0dba\u0dbb])|(?<=\\S) (?=\\S))+")


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The committed rows by part."""
    return read("sinhala")


def sentences(part: list[dict[str, Any]]) -> set[str]:
    return {row[key] for row in part for key in ("sentence1", "sentence2")}


def test_counts_and_columns(rows: Rows) -> None:
    import pyarrow.parquet as pq

    assert {name: len(rows[name]) for name in SPLITS} == {"train": 1187, "validation": 122, "test": 243}
    for name in SPLITS:
        schema = pq.read_schema(SAMPLE / f"{name}.parquet")
        assert schema.names == COLUMNS
        assert [str(kind) for kind in schema.types] == ["string", "string", "double", "string", "string"]
    assert sum(path.stat().st_size for path in SAMPLE.iterdir() if path.is_file()) < 1_000_000
    assert {row["topic"] for row in rows["test"]} == {row["topic"] for row in rows["train"]}
    assert len({row["topic"] for row in rows["train"]}) == 20


def test_readme_counts_each_kind_and_shows_true_rows(rows: Rows) -> None:
    readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
    order = ["paraphrase", "identical", "one fact changed", "same topic", "unrelated"]
    for name in SPLITS:
        kinds = Counter(row["kind"] for row in rows[name])
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{name}.parquet`"))
        cells = [int(cell.replace(",", "")) for cell in line.split("|")[2:-1]]
        assert [cells[0], *cells[2:]] == [len(rows[name]), len(sentences(rows[name])), *(kinds[kind] for kind in order)]
    kept = {(frozenset((row["sentence1"], row["sentence2"])), row["score"]) for name in SPLITS for row in rows[name]}
    shown = re.findall(r"^\| ([\u0d80-\u0dff][^|]+) \| ([^|]+) \| ([\d.]+) \|$", readme, re.MULTILINE)
    assert len(shown) == 5
    assert {(frozenset((first, second)), float(score)) for first, second, score in shown} <= kept


def test_scores_follow_the_scale(rows: Rows) -> None:
    for name in SPLITS:
        for row in rows[name]:
            assert row["score"] in SCALE[row["kind"]], row
            assert (row["sentence1"] == row["sentence2"]) == (row["kind"] == "identical"), row
    for kind, scores in SCALE.items():  # no grade is there in name only
        assert {row["score"] for row in rows["train"] if row["kind"] == kind} == scores, kind


def test_no_pair_twice_and_no_sentence_in_two_parts(rows: Rows) -> None:
    pairs = [frozenset((row["sentence1"], row["sentence2"])) for name in SPLITS for row in rows[name]]
    assert len(set(pairs)) == len(pairs)
    train, validation, test = (sentences(rows[name]) for name in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_text_is_sinhala_in_normal_form(rows: Rows) -> None:
    for text in set().union(*(sentences(rows[name]) for name in SPLITS)):
        assert LETTERS.fullmatch(text), text
        assert unicodedata.normalize("NFC", text) == text
        assert 2 <= len(text.split()) <= 9, text
    assert LETTERS.fullmatch("ශ්‍රී ලංකාව")
    assert not LETTERS.fullmatch("school පාසල")
    assert not LETTERS.fullmatch("පාසල\u200d")


def test_words_that_join_are_joined(rows: Rows) -> None:
    """Within a word, al-lakuna before ය or ර without the joiner is a wrong spelling, but for a few that are right."""
    right = re.compile("ම්ය$|ම්රිය|ම්රියේ|ර්යාල|න්ය$|ල්ය$|ස්ය$|ොයයි")
    loose = re.compile("\u0dca[\u0dba\u0dbb]")
    texts = set().union(*(sentences(rows[name]) for name in SPLITS))
    words = {word for text in texts for word in text.split() if loose.search(word)}
    assert [word for word in words if not right.search(word)] == []
    assert words  # the pattern finds something


def test_words_of_the_held_out_parts_come_back_in_train(rows: Rows) -> None:
    known = {word for text in sentences(rows["train"]) for word in text.split()}
    share = {}
    for name in ("validation", "test"):
        words = [word for text in sentences(rows[name]) for word in text.split()]
        share[name] = sum(word in known for word in words) / len(words)
    assert share == {"validation": pytest.approx(0.88, abs=0.005), "test": pytest.approx(0.91, abs=0.005)}
    everywhere = {word for name in SPLITS for text in sentences(rows[name]) for word in text.split()}
    assert len(everywhere) == 1135


def test_counting_common_words_ranks_only_roughly(rows: Rows) -> None:
    from scipy.stats import spearmanr

    overlap = []
    for row in rows["test"]:
        first, second = set(row["sentence1"].split()), set(row["sentence2"].split())
        overlap.append(len(first & second) / len(first | second))
    found = spearmanr(overlap, [row["score"] for row in rows["test"]]).statistic
    assert found == pytest.approx(0.73, abs=0.005)


@pytest.mark.long
def test_the_multilingual_base_reads_it_and_the_english_one_hardly() -> None:
    """Spearman measured 0.891 and 0.410; the share of common words has 0.73."""
    found = {base: evaluate(base, "sample:sinhala").metrics["spearman_cosine"] for base in (MULTILINGUAL, BUNDLED)}
    assert found == pytest.approx({MULTILINGUAL: 0.891, BUNDLED: 0.410}, abs=0.002)


def test_real_data_is_not_in_it(rows: Rows, shared: Path) -> None:
    """None of the card's sentences, whatever their spaces and marks."""
    import csv

    mine = {re.sub(r"\W", "", text) for name in SPLITS for text in sentences(rows[name])}
    files = sorted((shared / "data" / "sinhala").glob("*.csv"))
    assert files
    for path in files:
        with path.open(encoding="utf-8", newline="") as handle:
            real = {re.sub(r"\W", "", cell) for line in csv.reader(handle) for cell in line[:2]}
        assert not mine & real, path.name
