"""Draft: what was read off a card for a recipe, field by field, before it is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.cards.card import Stated
from workbench.recipe.schema import Origin, OriginKind


@dataclass
class Draft:
    """Values with their origins by dotted path, and sentences about what was translated or dropped."""

    fields: dict[str, tuple[Any, Origin]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any, source: OriginKind, *lines: int | None, note: str = "") -> None:
        known = tuple(line for line in lines if line is not None)
        self.fields[path] = value, Origin(source=source, lines=known, note=note)

    def put_stated(self, path: str, stated: Stated[Any], value: Any = None, note: str = "") -> None:
        """A fact of the card, or of a file beside it; `value` where the recipe says it in other words."""
        on_card = stated.source == "README.md"
        note = "; ".join(part for part in ("" if on_card else stated.source, note) if part)
        value = stated.value if value is None else value
        self.put(path, value, "card" if on_card else "file", stated.line, note=note)

    def value(self, path: str) -> Any:
        """The value at `path`; None where there is none."""
        return self.fields[path][0] if path in self.fields else None
