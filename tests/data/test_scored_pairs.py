"""Scored pairs, however their columns are called and their files lie."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from workbench.errors import DataError
from workbench.evaluation.task_files import open_task
from workbench.evaluation.tasks import Examples, Search

PAIRS = (("A man rides.", "Someone is riding."), ('The "cat" sleeps.', "A dog, awake."), ("One, two.", "Three?"))
GOLD = (4.75, 0.5, 2.0)


def scored_pairs(place: str, columns: dict[str, str] | None = None, split: str | None = None) -> Examples:
    found = open_task(place, columns, split)[0]
    assert isinstance(found, Examples)
    return found


def table(*headings: str, apart: str = "\t", quoted: bool = False) -> str:
    """The pairs with a heading, or without one."""
    rows = [*([headings] if headings else []), *((*pair, str(gold)) for pair, gold in zip(PAIRS, GOLD, strict=True))]

    def field(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "".join(apart.join(map(field, row)) + "\n" for row in rows)


def found_in(path: Path, text: str, **options: dict[str, str]) -> None:
    """Check that a file of this text gives the pairs and their scores."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    found = scored_pairs(str(path), **options)
    assert (found.texts, found.gold) == (PAIRS, GOLD)


@pytest.mark.parametrize(
    "headings",
    [
        ("sentence1", "sentence2", "score"),
        ("sentence_0", "sentence_1", "label"),
        ("Sentence A", "Sentence B", "Relatedness Score"),
        ("text1", "text2", "similarity"),
        ("anchor", "positive", "labels"),
        ("premise", "hypothesis", "gold_score"),
        (),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["set.tsv", "set.txt", "set.csv", "set.tsv.gz"])
def test_usual_column_names_and_none_are_recognized(tmp_path: Path, headings: tuple[str, ...], name: str) -> None:
    found_in(tmp_path / name, table(*headings))


@pytest.mark.parametrize("apart", [",", ";", "\t"])
def test_quoted_fields_are_unquoted(tmp_path: Path, apart: str) -> None:
    name = "set.tsv" if apart == "\t" else "set.csv"
    found_in(tmp_path / name, table("sentence1", "sentence2", "score", apart=apart, quoted=True))
    assert scored_pairs(str(tmp_path / name)).name == "set"


@pytest.mark.parametrize("name", ["test.jsonl", "test.jsonl.gz", "test.json"])
def test_json_is_read(tmp_path: Path, name: str) -> None:
    rows = [
        {"sentence1": one, "sentence2": two, "score": gold, "sid": 7}
        for (one, two), gold in zip(PAIRS, GOLD, strict=True)
    ]
    lines = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    found_in(tmp_path / name, lines)


def test_parquet_is_read(tmp_path: Path) -> None:
    import pandas as pd

    one, two = zip(*PAIRS, strict=True)
    pd.DataFrame({"idx": range(3), "sentence1": one, "sentence2": two, "label": GOLD}).to_parquet(
        tmp_path / "s.parquet"
    )
    assert scored_pairs(str(tmp_path / "s.parquet")).gold == GOLD


def test_named_columns_are_used(tmp_path: Path) -> None:
    found_in(
        tmp_path / "set.tsv",
        table("left", "right", "points"),
        columns={"left": "sentence1", "right": "sentence2", "points": "score"},
    )
    rows = table("text1", "text2", "score")
    both = rows.replace("score\n", "score\tother\n").replace(".75", ".75\t1").replace("0.5", "0.5\t2")
    (tmp_path / "both.tsv").write_text(both.replace("2.0", "2.0\t3"), encoding="utf-8")
    found = scored_pairs(str(tmp_path / "both.tsv"), {"other": "score"})
    assert found.gold == (1.0, 2.0, 3.0)


def test_a_file_without_scores_is_searched(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("anchor\tpositive\nwhy\tbecause\n", encoding="utf-8")
    assert isinstance(open_task(tmp_path / "pairs.tsv")[0], Search)


def test_a_pattern_reads_several_files(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"SICK_{part}.txt").write_text(table("sentence_A", "sentence_B", "relatedness_score"), "utf-8")
    (tmp_path / "readme.txt").write_text("About\n", encoding="utf-8")
    found = scored_pairs(f"{tmp_path}/SICK_*.txt")
    assert (found.name, found.texts, found.gold) == (tmp_path.name, PAIRS * 2, GOLD * 2)
    with pytest.raises(DataError, match=r"expected rows in .*, found none; give a file that has some"):
        scored_pairs(f"{tmp_path}/[r]*.txt")
    with pytest.raises(DataError, match=r"expected files like .*, found none; check the place given with --on"):
        scored_pairs(f"{tmp_path}/STS*.txt")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_scores_match_two_lines_each(tmp_path: Path) -> None:
    (tmp_path / "SOURCE.txt").write_text("about it\n", encoding="utf-8")
    (tmp_path / "README.txt").write_bytes("Von Käse\n".encode("latin-1"))
    (tmp_path / "pairs.txt").write_text("".join(f"{one}\n{two}\n" for one, two in PAIRS), encoding="utf-8")
    (tmp_path / "scores.txt").write_text("4.75\n0.5\n2\n", encoding="utf-8")
    found = scored_pairs(str(tmp_path))
    assert (found.texts, found.gold) == (PAIRS, GOLD)


def test_scores_match_one_line_each_as_in_semeval(tmp_path: Path) -> None:
    for part, given in (("MSRpar", "4.75\n\n2\n"), ("SMT", "1\n2\n3\n")):
        lines = "".join(f"{one}\t{two}\n" for one, two in PAIRS)
        (tmp_path / f"STS.input.{part}.txt").write_text(lines, encoding="utf-8")
        (tmp_path / f"STS.gs.{part}.txt").write_text(given, encoding="utf-8")
    found = scored_pairs(str(tmp_path))
    assert found.texts == (PAIRS[0], PAIRS[2], *PAIRS)  # a line without a score is no pair of the set
    assert found.gold == (4.75, 2.0, 1.0, 2.0, 3.0)
    (tmp_path / "STS.gs.SMT.txt").rename(tmp_path / "scores.txt")
    with pytest.raises(DataError) as caught:
        scored_pairs(str(tmp_path))
    assert str(caught.value) == (
        "expected one file of texts for the scores of 'scores.txt', found 'STS.input.MSRpar.txt', 'STS.input.SMT.txt'; "
        "keep one in the folder."
    )


def test_the_split_of_a_folder_is_chosen(tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        text = table("sentence1", "sentence2", "score")
        (tmp_path / f"sts-{split}.tsv").write_text(text if split == "test" else text.replace("4.75", "1"), "utf-8")
    assert scored_pairs(str(tmp_path)).gold == GOLD
    assert scored_pairs(str(tmp_path), split="dev").gold[0] == 1.0
