"""What the printed samples imply: prompts inside the texts, and anchors that occur in several rows."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.cards.card import Card, Dataset
from workbench.cards.lookup import argument, argument_lines, batch_size, fact_line, in_batch_losses, text_columns

SEVERAL_POSITIVES = {"hotpotqa": 2.0, "nfcorpus": 38.2, "fiqa": 2.6, "scidocs": 4.9}
"""Mean relevant documents per query of public datasets, table 1 of https://arxiv.org/abs/2104.08663."""

_PROMPT = re.compile(
    r"(query|passage|document|question|search_query|search_document|clustering|classification|represent|instruct"
    r"|task|given|retrieve)\b",
    re.IGNORECASE,
)
_NAME = r"[A-Z][\w'’.-]*(?:\s+(?:[A-Z][\w'’.-]*|of|the|on|to|in|a|de|van))*"
_TWO_THINGS = re.compile(rf"\b({_NAME}),?\s+(or|and)\s+({_NAME})")
_OPENING = re.compile(r"^(?:Were|Was|Is|Are|Did|Do|Does|Which|Who|What|Between|Both)\s+")

Lines = tuple[int | None, ...]


@dataclass(frozen=True)
class Prompts:
    """Instructions that every printed sample of a column begins with."""

    texts: Mapping[str, str]  # column -> prompt
    lines: Lines


@dataclass(frozen=True)
class RepeatedAnchors:
    """Anchors that occur in several rows, which the default sampler may put into one batch."""

    dataset: Dataset
    evidence: Literal["samples", "comparisons", "name"]
    lines: Lines
    count: int = 0  # samples: those that share one anchor; comparisons: questions that compare two things
    anchors: int = 0  # samples: anchors that occur more than once
    printed: int = 0  # samples examined
    known: str = ""  # name: the public dataset that the card's names suggest
    documents: float = 1.0  # name: mean relevant documents per query of that dataset


def prompts_in_texts(card: Card) -> Prompts | None:
    """Prompts that are part of the texts; None where `prompts` are configured, and for cross-encoders.

    The texts of a cross-encoder are often filled into templates, which look like prompts.
    """
    if argument(card, "prompts") or card.kind == "cross-encoder":
        return None
    found: dict[str, str] = {}
    lines: list[int | None] = []
    for dataset in card.training_datasets():
        for column in text_columns(dataset):
            texts = [value for sample in dataset.samples if isinstance(value := sample.get(column), str)]
            prefix = _common_prefix(texts)
            if len(prefix) >= 6 and _PROMPT.match(prefix):
                found[column] = prefix
                lines.append(fact_line(dataset, "samples"))
    return Prompts(found, tuple(lines)) if found else None


def _common_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with, up to the last colon and space.

    >>> _common_prefix(["query: what is it", "query: who was it"])
    'query: '
    """
    if len(set(texts)) < 2:
        return ""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    found = re.match(r".*[:：]\s", "".join(letters[0] for letters in same), re.DOTALL)
    return found[0] if found else ""


def repeated_anchors(card: Card) -> RepeatedAnchors | None:
    """Repeated anchors of the first dataset with in-batch negatives; None where the sampler keeps repeats apart."""
    sampler = str(argument(card, "batch_sampler") or "batch_sampler").lower()
    pairs = (found for found, _ in in_batch_losses(card) if len(text_columns(found)) >= 2)
    dataset = next(pairs, None)
    if sampler not in ("batch_sampler", "batchsamplers.batch_sampler") or dataset is None:
        return None
    lines = (*argument_lines(card, "batch_sampler"), fact_line(dataset, "samples"))
    return (
        _repeats_in_samples(dataset, lines)
        or _repeats_by_comparison(card, dataset, lines)
        or _repeats_by_name(card, dataset, lines)
    )


def _repeats_in_samples(dataset: Dataset, lines: Lines) -> RepeatedAnchors | None:
    columns = text_columns(dataset)[:2]
    rows = {tuple(str(sample.get(column)) for column in columns) for sample in dataset.samples}
    counts = Counter(anchor for anchor, _ in rows)
    repeated = [anchor for anchor, count in counts.items() if count > 1 and len(anchor) > 1]
    if not repeated:
        return None
    count, anchors, printed = counts[repeated[0]], len(repeated), len(dataset.samples)
    return RepeatedAnchors(dataset, "samples", lines, count, anchors, printed)


def find_comparison(question: str) -> tuple[str, str] | None:
    """The two things that a question compares, or None.

    >>> find_comparison("Which is older, Mount Arden or Lake Imber?")
    ('Mount Arden', 'Lake Imber')
    >>> find_comparison("Who wrote Salt and Iron?") is None
    True
    """
    found = _TWO_THINGS.search(question[:500])
    if found is None or (found[2] == "and" and not re.search(r"\b(?:both|same)\b", question)):
        return None
    return _OPENING.sub("", found[1]), found[3]


def _repeats_by_comparison(card: Card, dataset: Dataset, lines: Lines) -> RepeatedAnchors | None:
    """Questions that compare two things, each beside a document on one of them: the other has a row of its own."""
    parts = [part for part in card.datasets if part.columns == dataset.columns]
    question, answer = text_columns(dataset)[:2]
    count = printed = 0
    for part in parts:
        for sample in part.samples:
            printed += 1
            things = find_comparison(str(sample.get(question)))
            count += things is not None and sum(thing in str(sample.get(answer)) for thing in things) == 1
    if count < 2:
        return None
    lines = (*lines, *(fact_line(part, "samples") for part in parts))
    return RepeatedAnchors(dataset, "comparisons", lines, count, printed=printed)


def _repeats_by_name(card: Card, dataset: Dataset, lines: Lines) -> RepeatedAnchors | None:
    """A name that suggests public data whose queries have several documents."""
    texts = " ".join(filter(None, (card.name, card.title, dataset.name, dataset.id))).lower()
    known = next((name for name in SEVERAL_POSITIVES if re.search(rf"(?<![a-z]){name}(?![a-z])", texts)), None)
    batch, rows = batch_size(card), dataset.size
    if known is None or not batch or not rows or batch >= rows:
        return None
    return RepeatedAnchors(dataset, "name", lines, known=known, documents=SEVERAL_POSITIVES[known])
