"""Make the shipped sample `porsche`: customers' questions and a made-up car maker's answers.

Reads `facts.yaml` (a table of cars and facts, with several wordings of each) and `pairs.txt` (single pairs), both
written by hand, and writes `train.parquet`, `validation.parquet` and `test.parquet` beside them. Nothing is random:
wordings rotate by position and the split follows a SHA-256 of the question, so the same text gives the same tables.

    python data/samples/porsche/make.py            # writes into its own folder
    python data/samples/porsche/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test")
TEST_SHARE, VALIDATION_SHARE = 0.16, 0.10


class Pair(NamedTuple):
    """One row of the sample."""

    anchor: str  # the customer's question
    positive: str  # the maker's answer; it belongs to this question alone
    topic: str  # a kind of facts.yaml or a heading of pairs.txt
    model: str  # id of the car that the pair is about, "" for none


def table_pairs(facts: dict[str, Any]) -> list[Pair]:
    """One pair for each fact of each car; wordings rotate so that neighbours never share one."""
    cars, pairs = facts["cars"], []
    for k, (topic, kind) in enumerate(facts["kinds"].items()):
        for c, (car, value) in enumerate(zip(cars, kind["values"], strict=True)):
            if value is None:
                continue
            values = value if isinstance(value, list) else [value]
            question = kind["questions"][(c + k) % len(kind["questions"])]
            # Backwards, and two further after each round: or else a question's wording would give away its answer's.
            answer = kind["answers"][(k - c + 2 * (c // len(kind["questions"]))) % len(kind["answers"])]
            refs = car["refs"][:1] if kind.get("by_name") else car["refs"]
            ref = refs[digest(f"{topic} {car['id']}")[0] % len(refs)]
            pairs.append(
                Pair(
                    sentence(question.format(car=ref, name=car["name"])),
                    sentence(answer.format(*values, name=car["name"])),
                    topic,
                    car["id"],
                )
            )
    return pairs


def single_pairs(text: str, cars: list[dict[str, Any]]) -> list[Pair]:
    """The pairs of pairs.txt; a pair whose answer names exactly one car is about that car."""
    pairs, topic, anchor = [], "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            topic = line[3:].strip()
        elif line.startswith("Q: "):
            anchor = line[3:].strip()
        elif line.startswith("A: "):
            positive = line[3:].strip()
            named = [car["id"] for car in cars if re.search(rf"\b{car['name']}\b", positive)]
            pairs.append(Pair(anchor, positive, topic, named[0] if len(named) == 1 else ""))
    return pairs


def sentence(text: str) -> str:
    """The text with a capital first letter.

    >>> sentence("the Tillo is small.")
    'The Tillo is small.'
    """
    return text[0].upper() + text[1:]


def digest(text: str) -> bytes:
    """SHA-256 of the text: an order without meaning, the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def split(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Share out each topic's pairs, so that each split holds most topics; a hash decides who goes where."""
    topics: dict[str, list[Pair]] = {}
    for pair in pairs:
        topics.setdefault(pair.topic, []).append(pair)
    parts: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    test = validation = 0.0  # rows owed to each split, carried from topic to topic
    for members in topics.values():
        order = sorted(members, key=lambda pair: digest(pair.anchor))
        test += len(order) * TEST_SHARE
        validation += len(order) * VALIDATION_SHARE
        for pair in order:
            if test >= 1:
                parts["test"].append(pair)
                test -= 1
            elif validation >= 1:
                parts["validation"].append(pair)
                validation -= 1
            else:
                parts["train"].append(pair)
    return {name: sorted(rows, key=lambda pair: digest(pair.positive)) for name, rows in parts.items()}


def build() -> dict[str, list[Pair]]:
    """All pairs, checked for repeated questions and answers, by split."""
    facts = yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))
    pairs = table_pairs(facts) + single_pairs((HERE / "pairs.txt").read_text(encoding="utf-8"), facts["cars"])
    for texts in ([p.anchor for p in pairs], [p.positive for p in pairs]):
        repeated = [text for text, count in Counter(texts).items() if count > 1]
        if repeated:
            raise SystemExit(f"texts must be unique; found more than once: {repeated}. Reword them.")
    return split(pairs)


def write(folder: Path) -> None:
    """Write one Parquet file per split into `folder`."""
    for name, rows in build().items():
        table = pa.table({field: [getattr(row, field) for row in rows] for field in Pair._fields})
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        print(f"{name}: {len(rows)} pairs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for the three files (default: beside this script)"
    )
    write(parser.parse_args().out)
