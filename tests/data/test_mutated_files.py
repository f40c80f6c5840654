"""Damaged data files of every kind give rows or one sentence, soon, whatever is in them."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from usage import Usage

from workbench.data.collection import load_collection
from workbench.data.training_rows import load_pairs
from workbench.errors import WorkbenchError
from workbench.evaluation.task_files import open_task
from workbench.recipe.schema import Source

CHARACTERS = 1000

SCORED = [{"sentence1": f"one {n}", "sentence2": f"two, {n}", "score": n / 4} for n in range(5)]
TRIPLETS = [
    {"anchor": f"what {n}?", "positive": f'it "is" {n}', "negative_1": "no", "negative_2": "not"} for n in range(4)
]
LISTS = [{"query": f"q {n}", "pos": [f"yes {n}", "yes"], "neg": ["no"] * n} for n in range(4)]
MANY = [{"sent1": ["a", "b"], "sent2": ["c", "d"], "labels": [0, 1]}]
SQUAD = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"question": "q?", "id": "1"}]}]}]}
TEXTS = {f"d{n}": f"text {n}" for n in range(4)}
QUERIES = {f"q{n}": f"query {n}?" for n in range(4)}
WHOLE = {"queries": QUERIES, "corpus": TEXTS, "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in range(4)}}
BEIR = {
    "corpus.jsonl": "".join(json.dumps({"_id": k, "title": "T", "text": t}) + "\n" for k, t in TEXTS.items()),
    "queries.jsonl": "".join(json.dumps({"_id": k, "text": t, "metadata": {}}) + "\n" for k, t in QUERIES.items()),
}
JUDGED = [("query-id", "corpus-id", "score"), *((f"q{n}", f"d{n}", "1") for n in range(4)), ("q0", "d1", "0")]
STS = "".join(f"main\tfile\t2012\t{n}\t{n}.5\tA man {n}.\tA dog.\n" for n in range(4))


def apart(rows: list[Any], by: str) -> str:
    cells = [list(rows[0]), *(row.values() for row in rows)] if isinstance(rows[0], dict) else rows
    return "".join(
        by.join(f'"{cell}"' if by == "," and "," in str(cell) else str(cell) for cell in row) + "\n" for row in cells
    )


def table(rows: list[dict[str, Any]]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), written)
    return written.getvalue()


def beir(qrels: dict[str, str]) -> dict[str, str | bytes]:
    return {f"set/{name}": text for name, text in {**BEIR, **qrels}.items()}


FILES: list[dict[str, str | bytes]] = [  # path -> content; the first folder or file is what is opened
    {"a.csv": apart(SCORED, ",")},
    {"a.csv": apart(SCORED, ";")},
    {"a.tsv": apart(SCORED, "\t")},
    {"a.tsv": apart(TRIPLETS, "\t")},
    {"a.txt": apart(SCORED, "\t")},
    {"sts-test.csv": STS},
    {"a.json": json.dumps(SCORED)},
    {"a.json": json.dumps(TRIPLETS)},
    {"a.json": json.dumps({"columns": list(SCORED[0]), "index": [0], "data": [list(SCORED[0].values())]})},
    {"a.json": json.dumps({str(n): row for n, row in enumerate(SCORED)})},
    {"a.json": json.dumps({key: [row[key] for row in SCORED] for key in SCORED[0]})},
    {"a.json": json.dumps(WHOLE)},
    {"a.json": json.dumps(SQUAD)},
    {"a.jsonl": "".join(json.dumps(row) + "\n" for row in SCORED)},
    {"a.jsonl": "".join(json.dumps(row) + "\n" for row in LISTS)},
    {"a.jsonl": "".join(json.dumps(row) + "\n" for row in MANY)},
    {"a.jsonl": "".join(json.dumps(row) + "\n" for row in TRIPLETS)},
    {"a.parquet": table(SCORED)},
    {"a.parquet": table(LISTS)},
    beir({"qrels/test.tsv": apart(JUDGED, "\t"), "qrels/train.tsv": apart(JUDGED, "\t")}),
    beir({"qrels/test.csv": apart(JUDGED, ",")}),
    beir({"qrels.trec": "".join(f"q{n} 0 d{n} 1\n" for n in range(4))}),
    beir({"qrels.json": json.dumps(WHOLE["relevant_docs"])}),
    {"set/STS.input.x.txt": "a\tb\nc\td\n", "set/STS.gs.x.txt": "1\n2\n"},
    {"set/test.csv": apart(SCORED, ","), "set/train.csv": apart(SCORED, ",")},
]  # fmt: skip

ODD = [
    b"", b"\x00", b'"', b"'", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b"\r\n", b"\t", b",", b";", b"|",
    b"\\", b"[", b"]", b"{", b"}", b"[" * 3000, b"null", b"NaN", b"-Infinity", b"1e999", b"true", b"9" * 5000, b"1_0",
    b"0x1", b"\\ud83d", b"\\u0000", b'"a": 1, "a": 2,', b"score", b"label", b"_id", b"text", b"0", b"1", b"-1", b"7.0",
    b"word " * 20_000, "\u202e\u0085\u2028".encode(), b"=1+1", b"<b>", b"{}", b"[]", b'""', b"  ",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 2**70, "", " ", "7.0", "word " * 20_000, [], [None], [[]], ["a"], {}, {"a": 1},
    {"label": []}, "\ud83d", float("nan"), "9" * 5000, 10**30, "True",
]  # fmt: skip


def bytes_of(rng: random.Random, content: bytes) -> bytes:
    """A part flipped, cut, doubled, moved or replaced, on lines, fields or bytes."""
    where, length = rng.randrange(len(content) + 1), rng.choice([1, 1, 4, 30, 200])
    by = rng.choice([b"\n", b"\t", b",", b'"', b":"])
    parts = content.split(by)
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    choices: list[Callable[[], bytes]] = [
        lambda: content[:where] + rng.choice(ODD) + content[where:],
        lambda: content[:where] + rng.choice(ODD) + content[where + length :],
        lambda: content[:where],
        lambda: content[:where] + content[where : where + length] * rng.choice([2, 3, 500]) + content[where + length :],
        lambda: content[:where] + bytes([rng.randrange(256)]) + content[where + 1 :],
        lambda: by.join([*parts[:one], *parts[one + 1 :]]),
        lambda: by.join([*parts[:one], parts[two], *parts[one:]]),
        lambda: by.join([*parts[:one], rng.choice(ODD), *parts[one + 1 :]]),
        lambda: by.join([parts[two] if place == one else each for place, each in enumerate(parts)]),
        lambda: content.replace(by, rng.choice(ODD)[:3]),
    ]
    return rng.choice(choices)()


def values_of(rng: random.Random, value: Any) -> Any:
    """A value of JSON with one part replaced, removed, renamed or doubled."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, action = rng.choice(keys), rng.choice(["inside", "inside", "inside", "remove", "rename", "double"])
    if isinstance(value, list):
        new = [values_of(rng, value[key])] if action == "inside" else [] if action == "remove" else [value[key]] * 2
        return [*value[:key], *new, *value[key + 1 :]]
    if action == "inside":
        return {**value, key: values_of(rng, value[key])}
    rest = {name: each for name, each in value.items() if name != key}
    return rest if action == "remove" else {**rest, rng.choice(["score", "text", "", "1", "word " * 9000]): value[key]}


def mutated(rng: random.Random, name: str, content: str | bytes) -> bytes:
    whole = content.encode() if isinstance(content, str) else content
    if name.endswith(".parquet") and rng.random() < 0.7:
        try:
            return table(values_of(rng, pq.read_table(io.BytesIO(whole)).to_pylist()))
        except (pa.ArrowException, LookupError, TypeError, AttributeError, ValueError, OverflowError):
            return whole  # no such table
    if "json" in name and rng.random() < 0.5:
        rows = [json.loads(line) for line in whole.splitlines()] if name.endswith("l") else json.loads(whole)
        rows = values_of(rng, rows)
        lines = rows if name.endswith("l") and isinstance(rows, list) else [rows]
        return "\n".join(map(json.dumps, lines)).encode()
    for _ in range(rng.choice([1, 1, 2, 4])):
        whole = bytes_of(rng, whole)
    return whole


def write(rng: random.Random, folder: Path) -> Path:
    """One of the sets with one of its files changed, and the place to open."""
    files = rng.choice(FILES)
    changed = rng.choice(list(files))
    for name, content in files.items():
        whole = content.encode() if isinstance(content, str) else content
        if name == changed:
            whole = mutated(rng, name, content)
            if len(files) > 1 and rng.random() < 0.1:
                continue  # one is missing
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
    return folder / next(iter(files)).partition("/")[0]


def readers(rng: random.Random, place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    columns: Any = rng.choice([None, None, {"sentence1": "anchor", "2024": "score"}, ["1", "2", "3"], {"1": "anchor"}])
    yield "open_task", lambda: open_task(place, columns)
    yield "load_collection", lambda: load_collection(place)
    if place.is_file() or (place / "qrels").is_dir():  # the others are read by `datasets`
        wanted = rng.choice([("sentence1", "sentence2", "score"), ("anchor", "positive"), ("query", "text"), ()])
        yield "load_pairs", lambda: load_pairs(Source(location=str(place)), wanted)


def failures(seed: int, count: int, folder: Path) -> list[str]:
    """What went wrong with `count` sets, one line each."""
    found = []
    import datasets  # noqa: F401 - takes seconds, once

    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        place = write(rng, folder / "set")
        for name, read in readers(rng, place):
            wrong = ""
            with Usage() as usage:
                try:
                    read()
                except WorkbenchError as error:
                    if len(str(error)) > CHARACTERS or "\n" in str(error):
                        wrong = f"a message of {len(str(error)):,} characters: {str(error)[:300]!r}"
                except Exception as error:  # noqa: BLE001 - any other is what is looked for
                    wrong = f"{type(error).__name__}: {str(error)[:200]}"
            if wrong or usage.too_much:
                found.append(f"{seed}/{number}, {name} of {place.name}: {wrong} {usage.too_much}")
        shutil.rmtree(folder / "set")
    return found


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    assert failures(0, 150, tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_damaged_files_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    assert failures(seed, 2000, tmp_path) == []
