"""Make the shipped sample `gooaq`: everyday questions as people type them, and short answers about things made up.

Reads `facts.yaml` (tables of plants, dishes and games, with twelve wordings of each question and answer) and
`pairs.txt` (single pairs), both written by hand, and writes `train.parquet`, `validation.parquet` and `test.parquet`
beside them. Nothing is random: wordings rotate or follow a SHA-256, and so does the split, so the same text gives the
same tables.

    python data/samples/gooaq/make.py            # writes into its own folder
    python data/samples/gooaq/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from sampling import digest, main, refuse_repeats, sentence, share_out, table_of

HERE = Path(__file__).parent
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
    groups = yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))
    pairs = table_pairs(groups) + single_pairs((HERE / "pairs.txt").read_text(encoding="utf-8"))
    refuse_repeats(pair.anchor for pair in pairs)
    refuse_repeats(pair.positive for pair in pairs)
    return {name: table_of(rows, Pair) for name, rows in split(pairs).items()}


if __name__ == "__main__":
    main(__doc__, HERE, build)
