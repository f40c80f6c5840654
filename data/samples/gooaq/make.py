"""Make the shipped sample `gooaq`: everyday questions as people type them, and short answers about things made up.

Reads `facts.yaml` (tables of plants, dishes and games, with twelve wordings of each question and answer) and
`pairs.txt` (single pairs), both written by hand, and writes `train.parquet`, `validation.parquet` and `test.parquet`
beside them. Nothing is random: wordings rotate or follow a SHA-256, and so does the split, so the same text gives the
same tables.

    python data/samples/gooaq/make.py            # writes into its own folder
    python data/samples/gooaq/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test")
TEST_SHARE, VALIDATION_SHARE = 0.18, 0.10


class Pair(NamedTuple):
    """One row of the sample."""

    anchor: str  # the question, as typed into a search box
    positive: str  # the answer; it belongs to this question alone
    topic: str  # a kind of facts.yaml or a heading of pairs.txt
    thing: str  # name of the plant, dish or game that the pair is about, "" in pairs.txt


def table_pairs(groups: dict[str, Any]) -> list[Pair]:
    """One pair for each fact of each thing; question wordings rotate, answer wordings follow a hash."""
    pairs = []
    for group in groups.values():
        for k, (topic, kind) in enumerate(group["kinds"].items()):
            for t, (thing, value) in enumerate(zip(group["things"], kind["values"], strict=True)):
                mark = digest(f"{topic} {thing['name']}")
                refs = thing["refs"][:1] if kind.get("by_name") else thing["refs"]
                question = kind["questions"][(t + 5 * k) % len(kind["questions"])]
                answer = kind["answers"][mark[0] % len(kind["answers"])]
                # Every second answer ends with a general remark.
                tail = " " + kind["tails"][mark[1] % len(kind["tails"])] if mark[2] % 2 else ""
                pairs.append(
                    Pair(
                        typed(question.format(x=refs[mark[3] % len(refs)])),
                        sentence(answer.format(value, name=thing["name"])) + tail,
                        topic,
                        thing["name"],
                    )
                )
    return pairs


def single_pairs(text: str) -> list[Pair]:
    """The pairs of pairs.txt."""
    pairs, topic, anchor = [], "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            topic = line[3:].strip()
        elif line.startswith("Q: "):
            anchor = typed(line[3:].strip())
        elif line.startswith("A: "):
            pairs.append(Pair(anchor, line[3:].strip(), topic, ""))
    return pairs


def typed(text: str) -> str:
    """The question as GooAQ has it: small letters and a question mark.

    >>> typed("what is Ninepond")
    'what is ninepond?'
    """
    return f"{text.lower()}?"


def sentence(text: str) -> str:
    """The text with a capital first letter.

    >>> sentence("tosk keeps well.")
    'Tosk keeps well.'
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
    groups = yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))
    pairs = table_pairs(groups) + single_pairs((HERE / "pairs.txt").read_text(encoding="utf-8"))
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
