"""Make the shipped sample `porsche`: customers' questions and a made-up car maker's answers.

Reads `facts.yaml` (a table of cars and facts, with several wordings of each) and `pairs.txt` (single pairs), both
written by hand, and writes `train.parquet`, `validation.parquet` and `test.parquet` beside them. Nothing is random:
wordings rotate by position and the split follows a SHA-256 of the question, so the same text gives the same tables.

    python data/samples/porsche/make.py            # writes into its own folder
    python data/samples/porsche/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from sampling import digest, main, refuse_repeats, sentence, share_out, table_of

HERE = Path(__file__).parent
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


def split(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Share out each topic's pairs; a hash decides who goes where."""
    topics: dict[str, list[Pair]] = {}
    for pair in pairs:
        topics.setdefault(pair.topic, []).append(pair)
    ordered = [sorted(members, key=lambda pair: digest(pair.anchor)) for members in topics.values()]
    parts = share_out(ordered, test=TEST_SHARE, validation=VALIDATION_SHARE)
    return {name: sorted(rows, key=lambda pair: digest(pair.positive)) for name, rows in parts.items()}


def build() -> dict[str, pa.Table]:
    """All pairs by split, checked for repeated questions and answers."""
    facts = yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))
    pairs = table_pairs(facts) + single_pairs((HERE / "pairs.txt").read_text(encoding="utf-8"), facts["cars"])
    refuse_repeats(pair.anchor for pair in pairs)
    refuse_repeats(pair.positive for pair in pairs)
    return {name: table_of(rows, Pair) for name, rows in split(pairs).items()}


if __name__ == "__main__":
    main(__doc__, HERE, build)
