"""Draft: what could be read off a card for a recipe, field by field, before it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.cards.card import Card, Stated
from workbench.cards.lookup import file_beside

Source = Literal["card", "file", "library", "inferred", "default"]


@dataclass(frozen=True)
class Derived:
    """The value of one recipe field, and where it came from."""

    value: Any
    source: Source
    lines: tuple[int, ...] = ()
    note: str = ""


@dataclass
class Draft:
    """Fields by dotted path, and sentences about what was translated or dropped."""

    fields: dict[str, Derived] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any, source: Source, *lines: int | None, note: str = "") -> None:
        known = tuple(line for line in lines if line is not None)
        self.fields[path] = Derived(value, source, known, note)

    def put_stated(self, path: str, stated: Stated[Any], value: Any = None, note: str = "") -> None:
        """A fact of the card, or of a file beside it; `value` where the recipe says it in other words."""
        source: Source = "card" if stated.source == "README.md" else "file"
        words = "; ".join(part for part in ("" if source == "card" else stated.source, note) if part)
        self.put(path, stated.value if value is None else value, source, stated.line, note=words)


def content(card: Card, name: str) -> Mapping[str, Any]:
    """The parsed content of a file beside the card; empty where there is none or it is no mapping."""
    found = file_beside(card, name)
    return found[1] if found and isinstance(found[1], Mapping) else {}
