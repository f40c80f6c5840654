"""Make the shipped sample `hotpotqa`: questions that need two paragraphs of an encyclopaedia of a made-up country.

Reads the paragraphs (`places.txt`, `people.txt`, `works.txt`, `institutions.txt`, `neighbours.txt`), the questions
written one at a time (`questions.txt`) and the wordings of questions over the paragraphs' keys (`wordings.yaml`), all
written by hand. Writes `train.parquet`, `validation.parquet`, `test.parquet` and `corpus.parquet` (paragraphs that no
question asks for) beside them. Nothing is random: the split follows a SHA-256 of the question, so the same text gives
the same tables.

    python data/samples/hotpotqa/make.py            # writes into its own folder
    python data/samples/hotpotqa/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from sampling import digest, main, sentence, share_out, table_of

HERE = Path(__file__).parent
ARTICLES = ("places", "people", "works", "institutions", "neighbours")
TEST_SHARE, VALIDATION_SHARE = 0.30, 0.10


@dataclass(frozen=True)
class Article:
    """One paragraph of the encyclopaedia."""

    title: str  # as in a title line: "Herring Moon (film)"
    kind: str
    text: str
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title without its note in brackets."""
        return re.sub(r" \(.*\)$", "", self.title)

    @property
    def shown(self) -> str:
        """The name as it stands in a sentence: works in quotation marks, "the" where a paragraph opens with it, and a
        work with a note as `the film "Herring Moon"`."""
        name = f'"{self.name}"' if f'"{self.name}"' in self.text else self.name
        note = self.title.removeprefix(self.name).strip(" ()")
        if note and name != self.name:
            return f"the {note} {name}"
        return f"the {name}" if self.text.startswith(f"The {name}") else name

    def number(self, key: str) -> int:
        return int(self.keys[key].replace(",", ""))


class Question(NamedTuple):
    """A question with its answer and the titles of its two paragraphs."""

    text: str
    answer: str
    titles: tuple[str, str]
    type: str  # "bridge" or "comparison"
    topic: str  # kind of wordings.yaml, or "single"


class Row(NamedTuple):
    """One row of the sample; a question has two."""

    anchor: str  # the question
    positive: str  # one of its two paragraphs
    title: str  # of the paragraph
    answer: str
    type: str
    topic: str


def articles() -> dict[str, Article]:
    """All paragraphs by title, in the order of the files."""
    found: dict[str, Article] = {}
    for name in ARTICLES:
        head: list[str] = []
        for line in (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith("## "):
                head = [part.strip() for part in line[3:].split("|")]
            elif line and head:
                if head[0] in found:
                    raise SystemExit(f"titles must be unique; found {head[0]!r} twice. Rename one in {name}.txt.")
                keys = dict(part.split("=", 1) for part in head[2:])
                found[head[0]] = Article(head[0], head[1], line.strip(), keys)
                head = []
    return found


def single_questions(known: dict[str, Article]) -> list[Question]:
    """The questions of questions.txt: `B` is a bridge, `C` a comparison."""
    found = []
    for line in (HERE / "questions.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith(("B: ", "C: ")):
            continue
        text, answer, titles = (part.strip() for part in line[3:].split("=>"))
        first, second = (title.strip() for title in titles.split(" + "))
        for title in (first, second):
            if title not in known:
                raise SystemExit(f"titles must be those of paragraphs; found {title!r} in {line!r}. Mend it.")
        kind = "bridge" if line[0] == "B" else "comparison"
        found.append(Question(text, answer, (first, second), kind, "single"))
    return found


def bridge_questions(topic: str, kind: dict[str, Any], known: dict[str, Article]) -> list[Question]:
    """From an article over the key `via` to another one, whose key `asks` is the answer."""
    starts = [a for a in known.values() if a.kind in kind["from"] and kind["via"] in a.keys]
    starts = [a for a in starts if kind["asks"] in known[a.keys[kind["via"]]].keys]
    starts.sort(key=lambda a: digest(f"{topic} {a.title}"))
    found = []
    for k, start in enumerate(starts[: kind["number"]]):
        goal = known[start.keys[kind["via"]]]
        wording = kind["wordings"][k % len(kind["wordings"])]
        text = wording.format(x=start.shown, ref=start.keys.get("ref", ""), role=start.keys.get("role", ""))
        found.append(Question(sentence(text), goal.keys[kind["asks"]], (start.title, goal.title), "bridge", topic))
    return found


def comparison_questions(topic: str, kind: dict[str, Any], known: dict[str, Article]) -> list[Question]:
    """Two articles of one kind, compared by one key; `most` says whether the greater or the smaller is asked for."""
    members = [a for a in known.values() if a.kind in kind["of"] and kind["by"] in a.keys]
    members.sort(key=lambda a: digest(f"{topic} {a.title}"))
    found = []
    for k in range(kind["number"]):
        first, round_ = 2 * k % len(members), 2 * k // len(members)  # each round pairs with a more distant neighbour
        pair = members[first], members[(first + 1 + round_) % len(members)]
        low, high = sorted(pair, key=lambda a: a.number(kind["by"]))
        if low.number(kind["by"]) == high.number(kind["by"]):
            continue
        wording = kind["wordings"][k % len(kind["wordings"])]
        most = wording.startswith("+")
        refs = [article.keys.get("ref", article.shown) for article in pair]
        text = wording[1:].strip().format(a=pair[0].shown, b=pair[1].shown, ra=refs[0], rb=refs[1])
        answer = (high if most else low).shown
        found.append(Question(sentence(text), answer, (pair[0].title, pair[1].title), "comparison", topic))
    return found


def questions(known: dict[str, Article]) -> list[Question]:
    """All questions; no two are equal."""
    found = single_questions(known)
    for topic, kind in yaml.safe_load((HERE / "wordings.yaml").read_text(encoding="utf-8")).items():
        make = comparison_questions if "of" in kind else bridge_questions
        found += make(topic, kind, known)
    repeated = [text for text, count in Counter(q.text for q in found).items() if count > 1]
    if repeated:
        raise SystemExit(f"questions must be unique; found more than once: {repeated}. Reword them.")
    return found


def split(found: list[Question]) -> dict[str, list[Question]]:
    """Share out each topic's questions of each type; a hash decides who goes where."""
    topics: dict[str, list[Question]] = {}
    for question in found:
        topics.setdefault(f"{question.topic} {question.type}", []).append(question)
    ordered = [sorted(members, key=lambda question: digest(question.text)) for members in topics.values()]
    parts = share_out(ordered, test=TEST_SHARE, validation=VALIDATION_SHARE)
    return {name: sorted(members, key=lambda q: digest(f"row {q.text}")) for name, members in parts.items()}


def build() -> dict[str, pa.Table]:
    """The four tables by name."""
    known = articles()
    parts = split(questions(known))
    tables, asked = {}, set()
    for name, members in parts.items():
        rows = [Row(q.text, known[title].text, title, q.answer, q.type, q.topic) for q in members for title in q.titles]
        asked |= {row.title for row in rows}
        tables[name] = table_of(rows, Row)
    rest = [article for article in known.values() if article.title not in asked]
    tables["corpus"] = pa.table({"positive": [a.text for a in rest], "title": [a.title for a in rest]})
    return tables


if __name__ == "__main__":
    main(__doc__, HERE, build, unit="rows")
