"""Make the shipped sample `korean-law`: Korean legal questions and the articles of made-up statutes that answer them.

Reads `kinds.yaml` (sorts of article that most statutes have, in several wordings), `near.yaml` (their near misses) and
`acts/*.txt` (one statute each: its words, the values for the sorts of article, and its singly written articles with
their near misses), all written by hand. Writes `train.parquet`, `validation.parquet`, `test.parquet` and
`corpus.parquet` (the near misses, which answer no question) beside them. Nothing is random: wordings rotate by position
and the split follows a SHA-256 of the question, so the same text gives the same tables.

    python data/samples/korean-law/make.py            # writes into its own folder
    python data/samples/korean-law/make.py --out DIR  # writes elsewhere, to compare

An act's file: `key: value` lines give the words of the act; then its articles in order. `= kind | value | value` is an
article from kinds.yaml, `# title` with `A:`, one or more `Q:` and near misses (`N:`, see near.yaml) a singly written
one; numbers follow from the order.
`{@title}` stands for the number of the article with that title (or kind) in the same act.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

sys.path.append(str(Path(__file__).resolve().parents[1]))
from sampling import digest, main, refuse_repeats, share_out, table_of

HERE = Path(__file__).parent
TEST_SHARE, VALIDATION_SHARE = 0.18, 0.09
WORDS = ("name", "short", "org", "op", "biz", "fac", "want", "me", "about", "com", "body", "entry")  # keys of an act
# entry -> what cannot be done without it, what is taken away, how that is said before "정지를 명할 수 있다"
ENTRIES = {
    "신고": ("신고를 할 수 없다", "{fac}의 폐쇄를 명", "폐쇄명령"),
    "허가": ("허가를 받을 수 없다", "허가를 취소", "허가취소"),
    "등록": ("등록을 할 수 없다", "등록을 취소", "등록취소"),
}
DIGITS = "영일이삼사오육칠팔구"  # how a digit at the end of a word is read


class Pair(NamedTuple):
    """One row of the sample."""

    anchor: str  # the question
    positive: str  # the article that answers it
    topic: str  # short name of the act
    article: str  # number of the article, "제12조"


class Article(NamedTuple):
    """One article of an act as its file gives it."""

    key: str  # kind, or title of a singly written article
    values: tuple[str, ...]  # for the slots of the kind; empty for a singly written article
    text: str  # body of a singly written article, "" for a kind
    questions: tuple[str, ...]  # written for this article alone
    near: tuple[str, ...] = ()  # near misses written for it alone, "의2 title | text" or "항 | text"


class Document(NamedTuple):
    """A near miss: a text that no question asks for."""

    positive: str  # under the name of an answer, as the rows have it
    topic: str
    article: str  # "제12조의2", or "제12조" for another paragraph


class Act(NamedTuple):
    """One made-up statute."""

    words: dict[str, str]  # see WORDS
    articles: list[Article]  # in order: the first is 제1조


class Word(str):
    """A text that takes a Korean particle as its format specification: `{0:은/는}`."""

    def __format__(self, spec: str) -> str:
        return f"{self}{particle(self, spec)}" if spec else str(self)


def particle(word: str, pair: str) -> str:
    """The one of `pair` ("은/는", "을/를", "으로/로" …: after a consonant / after a vowel) that fits the word's end.

    Closing quotes and brackets are skipped and digits are read in Korean. 으로/로 counts a final ㄹ as a vowel.

    >>> particle("벌통", "은/는"), particle("공동배", "은/는"), particle("연필", "으로/로"), particle("3", "이/가")
    ('은', '는', '로', '이')
    """
    consonant, vowel = pair.split("/")
    if pair in ("과/와", "와/과"):  # written either way; 과 follows a consonant
        consonant, vowel = "과", "와"
    spoken = re.sub(r"[^가-힣0-9]+$", "", word)
    if not spoken:
        raise ValueError(f"expected a word that ends in Hangul or a digit, found {word!r}")
    last = spoken[-1]
    last = DIGITS[int(last)] if last.isdigit() else last
    final = (ord(last) - ord("가")) % 28  # 0: no final consonant, 8: ㄹ
    return vowel if final == 0 or (final == 8 and consonant == "으로") else consonant


def read_act(text: str) -> Act:
    """The act that one file of acts/ holds."""
    words: dict[str, str] = {}
    articles: list[Article] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("= "):
            key, *values = (part.strip() for part in line[2:].split("|"))
            articles.append(Article(key, tuple(values), "", ()))
        elif line.startswith("# "):
            articles.append(Article(line[2:].strip(), (), "", ()))
        elif line.startswith("A: "):
            articles[-1] = articles[-1]._replace(text=line[3:].strip())
        elif line.startswith("Q: "):
            articles[-1] = articles[-1]._replace(questions=(*articles[-1].questions, line[3:].strip()))
        elif line.startswith("N: "):
            articles[-1] = articles[-1]._replace(near=(*articles[-1].near, line[3:].strip()))
        else:
            key, value = line.split(": ", 1)
            words[key] = value.strip()
    if set(words) != set(WORDS):
        raise SystemExit(f"{words.get('name')}: expected the words {WORDS}, found {tuple(words)}")
    return Act(words, articles)


def refer(text: str, act: Act) -> str:
    """The text with each `{@title}` turned into that article's number; 진입 is the article named by `entry`."""
    keys = [article.key for article in act.articles]

    def number(match: re.Match[str]) -> str:
        key = act.words["entry"] if match[1] == "진입" else match[1]
        if key not in keys:
            raise SystemExit(f"{act.words['short']}: no article {key!r} to refer to in {text!r}")
        return f"제{keys.index(key) + 1}조"

    return re.sub(r"\{@([^}]+)\}", number, text)


def near_miss(template: str, number: str, title: str, body: str) -> tuple[str, str]:
    """(number, text) of a near miss of the article `number`.

    >>> near_miss("의2 재발급 | 다시 받을 수 있다.", "제5조", "등록", "등록하여야 한다.")
    ('제5조의2', '제5조의2(재발급) 다시 받을 수 있다.')
    >>> near_miss("항 | 명단을 올린다.", "제5조", "등록", "① 등록하여야 한다. ② 등록증을 준다.")
    ('제5조', '제5조(등록) ③ 명단을 올린다.')
    """
    head, text = template.split(" | ")
    if head == "항":
        return number, f"{number}({title}) {'③' if '②' in body else '②'} {text}"
    branch, title = head.split(" ", 1)
    return number + branch, f"{number}{branch}({title}) {text}"


def act_rows(
    act: Act, place: int, kinds: dict[str, Any], near: dict[str, list[str]]
) -> tuple[list[Pair], list[Document]]:
    """The pairs of one act, and its near misses; `place` is its position among the acts, which turns the wordings."""
    order = list(kinds)
    cannot, revoke, revocation = ENTRIES[act.words["entry"]]
    words = {key: Word(value) for key, value in act.words.items()}
    words |= {"cannot": Word(cannot), "revoke": Word(revoke.format(**words)), "revocation": Word(revocation)}
    pairs, documents = [], []
    for i, article in enumerate(act.articles):
        number, title, body, questions = Word(f"제{i + 1}조"), article.key, article.text, article.questions
        misses = article.near
        if not body:
            kind, k = kinds[article.key], order.index(article.key)
            if len(article.values) != kind["slots"]:
                raise SystemExit(
                    f"{act.words['short']} {article.key}: expected {kind['slots']} values, found {article}"
                )
            values = [Word(refer(value, act)) for value in article.values]
            asked, told = kind["questions"], kind["articles"]
            # Backwards, and one further after each round: or else a question's wording would give away its article's.
            body = refer(told[(k - place + place // len(asked)) % len(told)], act).format(*values, **words)
            title = kind["title"].format(*values, **words)
            misses = tuple(each.format(*values, **words) for each in near[article.key])
            if not questions:
                questions = (asked[(place + k) % len(asked)].format(*values, **words, n=number),)
        positive = f"{number}({title}) {refer(body, act)}"
        pairs += [Pair(question, positive, act.words["short"], number) for question in questions]
        for miss, text in (near_miss(each, number, title, body) for each in misses):
            documents.append(Document(text, act.words["short"], miss))
    return [Pair(*map(str, pair)) for pair in pairs], documents


def split(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Share out each act's articles with all their questions; a hash decides which article goes where."""
    acts: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        acts.setdefault(pair.topic, {}).setdefault(pair.article, []).append(pair)
    ordered = [sorted(articles.values(), key=lambda rows: digest(rows[0].anchor)) for articles in acts.values()]
    parts = share_out(ordered, test=TEST_SHARE, validation=VALIDATION_SHARE)
    rows = {name: [pair for article in articles for pair in article] for name, articles in parts.items()}
    return {name: sorted(each, key=lambda pair: digest(pair.anchor)) for name, each in rows.items()}


def build() -> dict[str, pa.Table]:
    """All pairs by split and the near misses, checked for repeated questions and articles."""
    kinds, near = (yaml.safe_load((HERE / name).read_text(encoding="utf-8")) for name in ("kinds.yaml", "near.yaml"))
    acts = [read_act(path.read_text(encoding="utf-8")) for path in sorted((HERE / "acts").glob("*.txt"))]
    made = [act_rows(act, place, kinds, near) for place, act in enumerate(acts)]
    pairs, documents = ([row for rows in each for row in rows] for each in zip(*made, strict=True))
    refuse_repeats(pair.anchor for pair in pairs)
    answers = {(pair.topic, pair.article): pair.positive for pair in pairs}
    refuse_repeats([*answers.values(), *(document.positive for document in documents)])
    tables = {name: table_of(rows, Pair) for name, rows in split(pairs).items()}
    return {**tables, "corpus": table_of(documents, Document)}


if __name__ == "__main__":
    main(__doc__, HERE, build)
