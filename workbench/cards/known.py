"""Public facts about the shipped cards that the cards themselves do not state, keyed by content.

The key is the SHA-256 of the README.md: the damaged and the clean original and the shipped copy of each card. A renamed
copy is the same card; an edited one, or another card in a folder of the same name, is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import yaml

from workbench.resources import shipped_path

SOURCES = "data/cards/sources.yaml"


@dataclass(frozen=True)
class PublicRows:
    """A public source whose rows match those of a card."""

    location: str  # Hub id
    columns: Mapping[str, str]  # theirs -> the card's
    rows: int


@dataclass(frozen=True)
class KnownCard:
    """What is known about the rows of one card."""

    sample: str  # shipped sample that stands in for them: "porsche"
    own: bool = False  # the sample is no stand-in: the card trained on it
    evaluation_sets: tuple[str, ...] = ()  # its own: "NAME=PLACE", as --evaluation-set takes them
    train: PublicRows | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)  # column -> what its texts begin with
    repeated_queries: str | None = None  # "merged": a question has one row for each of its answers


def known_card(sha256: str | None) -> KnownCard | None:
    """What is known about the card whose file has this SHA-256; None for every other card.

    >>> known_card("0" * 64) is None
    True
    """
    return _known_cards().get(sha256 or "")


@cache
def _known_cards() -> dict[str, KnownCard]:
    found = {}
    for entry in yaml.safe_load(shipped_path(SOURCES).read_text(encoding="utf-8")).values():
        known = KnownCard(
            sample=entry["sample"],
            own=entry.get("own", False),
            evaluation_sets=tuple(entry.get("evaluation_sets", ())),
            train=PublicRows(**entry["train"]) if entry["train"] else None,
            prompts=entry.get("prompts", {}),
            repeated_queries=entry.get("repeated_queries"),
        )
        found.update(dict.fromkeys(entry["sha256"], known))
    return found
