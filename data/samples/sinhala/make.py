"""Make the shipped sample `sinhala`: pairs of Sinhala sentences, each with a score of how near their meanings are.

Reads `scenes.txt`, written by hand: scenes of five sentences with the scores between them. It writes `train.parquet`,
`validation.parquet` and `test.parquet` beside it. A scene goes to one part as a whole, so no sentence is in two parts.
Nothing is random: within a topic the scenes whose words come back most elsewhere are held out, so that a model which
has only seen the training rows knows most words of the others; ties, the order and the partners of unrelated sentences
follow a SHA-256 of each scene's first sentence.

    python data/samples/sinhala/make.py            # writes into its own folder
    python data/samples/sinhala/make.py --out DIR  # writes elsewhere, to compare
"""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

sys.path.append(str(Path(__file__).resolve().parents[1]))
from sampling import digest, main, refuse_repeats, share_out, table_of

HERE = Path(__file__).parent
TEST_SHARE, VALIDATION_SHARE = 0.16, 0.09
SAME_TOPIC = 0.3  # two scenes of one topic
UNRELATED = (0.0, 0.05)  # two scenes of two areas: the sentences share no word, or some
HEAD = 3  # words with the same first three characters count as forms of one word: Sinhala inflects the end
FEW = 2  # scenes with more of them in common are not called unrelated, unless no others are left
FAMILIAR = 4  # a word is familiar from so many scenes on
IDENTICAL_EVERY = 8  # one scene in so many also gives a sentence against itself


class Row(NamedTuple):
    """One row of the sample."""

    sentence1: str
    sentence2: str
    score: float  # 0: nothing in common, 1: the same meaning
    kind: str  # paraphrase, one fact changed, same topic, unrelated, identical
    topic: str  # of both sentences; of an unrelated pair, the topic of one of them


class Scene(NamedTuple):
    """Five sentences about one thing, by letter (see scenes.txt), and the scores written beside four of them."""

    topic: str
    area: str
    text: dict[str, str]
    score: dict[str, float]


def read_scenes(source: str) -> list[Scene]:
    """The scenes in the order of the file; every scene must hold the five letters once."""
    scenes: list[Scene] = []
    topic = area = ""
    for line in source.splitlines():
        letter, _, rest = line.partition(" ")
        if letter == "##":
            topic, area = (part.strip() for part in rest.split("|"))
        elif letter == "A":
            scenes.append(Scene(topic, area, {"A": rest}, {}))
        elif letter in tuple("PFGT"):
            score, _, text = rest.partition(" ")
            scenes[-1].text[letter], scenes[-1].score[letter] = text, float(score)
    for scene in scenes:
        if "".join(scene.text) != "APFGT":
            raise SystemExit(f"a scene must have A, P, F, G and T in this order; found {scene.text}. Complete it.")
    return scenes


def words(scene: Scene) -> list[str]:
    """Every word of the scene's five sentences, as often as it is there."""
    return " ".join(scene.text.values()).split()


def split(scenes: list[Scene]) -> dict[str, list[Scene]]:
    """Share out each topic's scenes, so that each part holds most topics; the most familiar scenes are held out."""
    holders = Counter(word for scene in scenes for word in set(words(scene)))  # word -> number of scenes with it
    order = {
        scene.text["A"]: (
            -sum(holders[w] >= FAMILIAR for w in words(scene)) / len(words(scene)),
            digest(scene.text["A"]),
        )
        for scene in scenes
    }
    topics: dict[str, list[Scene]] = {}
    for scene in scenes:
        topics.setdefault(scene.topic, []).append(scene)
    ordered = [sorted(members, key=lambda scene: order[scene.text["A"]]) for members in topics.values()]
    parts = share_out(ordered, test=TEST_SHARE, validation=VALIDATION_SHARE)
    return {name: sorted(members, key=lambda scene: digest(scene.text["A"])) for name, members in parts.items()}


def rows_of(scenes: list[Scene]) -> list[Row]:
    """The rows of one part: each scene's own pairs, then its pairs with other scenes of the part."""
    rows = []
    for i, scene in enumerate(scenes):
        text, score = scene.text, scene.score
        own = [
            Row(text["A"], text["P"], score["P"], "paraphrase", scene.topic),
            Row(text["F"], text["G"], score["G"], "paraphrase", scene.topic),
            Row(text["A"], text["F"], score["F"], "one fact changed", scene.topic),
            Row(text["A"], text["G"], score["F"], "one fact changed", scene.topic),
            Row(text["A"], text["T"], score["T"], "same topic", scene.topic),
        ]
        if i % IDENTICAL_EVERY == 0:
            own.append(Row(text["T"], text["T"], 1.0, "identical", scene.topic))
        after = scenes[i + 1 :] + scenes[:i]  # the other scenes, from the next one round to the one before
        near = [other for other in after if other.topic == scene.topic]
        own += [Row(text["P"], other.text["T"], SAME_TOPIC, "same topic", scene.topic) for other in near[:1]]
        far = [other for other in after if other.area != scene.area]
        far.sort(key=lambda other: max(shared(words(scene), words(other)), FEW))  # stable: the order stays among equals
        own += [unrelated(scene, "PT"[k], other, "FA"[k]) for k, other in enumerate(far[:2])]
        # Every other scene the other way round: the first sentence is then not always the one written first.
        rows += own if i % 2 else [row._replace(sentence1=row.sentence2, sentence2=row.sentence1) for row in own]
    return rows


def unrelated(scene: Scene, letter: str, other: Scene, other_letter: str) -> Row:
    """A sentence of each of two scenes; the score is a little higher where they have a word in common."""
    first, second = scene.text[letter], other.text[other_letter]
    return Row(first, second, UNRELATED[bool(shared(first.split(), second.split()))], "unrelated", scene.topic)


def shared(first: list[str], second: list[str]) -> int:
    """How many words the two lists have in common, whatever their endings.

    >>> shared(["පාසලට", "යයි"], ["පාසලේ", "ළමයි"])
    1
    """
    return len({word[:HEAD] for word in first} & {word[:HEAD] for word in second})


def build() -> dict[str, pa.Table]:
    """All rows by part, checked for repeated sentences and for text that is not in normal form C."""
    scenes = read_scenes((HERE / "scenes.txt").read_text(encoding="utf-8"))
    texts = [text for scene in scenes for text in scene.text.values()]
    refuse_repeats(texts, "sentences")
    loose = [text for text in texts if unicodedata.normalize("NFC", text) != text or " ".join(text.split()) != text]
    if loose:
        raise SystemExit(f"sentences must be in NFC with single spaces; found {loose}. Write them again.")
    return {name: table_of(rows_of(members), Row) for name, members in split(scenes).items()}


if __name__ == "__main__":
    main(__doc__, HERE, build)
