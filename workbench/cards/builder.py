"""A card while it is being read: its lines, the facts found so far, and which lines were understood."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.cards import literals
from workbench.cards.card import Dataset, Evaluation, LogRow, Module, Stated, Unread
from workbench.cards.markdown import Fence, Section, Structure

STAR_BULLET = re.compile(
    r"\s{0,3}[*-] (Datasets?|Evaluated with|Size|Columns|Approximate statistics|Samples|Loss)\b:?\s*(.*)$"
)
LINK = re.compile(r"\[([^\[\]]{0,300})\]\(([^()\s]{0,600})\)")
CODE = re.compile(r"<code>(.{0,300}?)</code>", re.DOTALL)


@dataclass
class Sheet:
    """A card while it is being read."""

    structure: Structure
    seen: set[int] = field(default_factory=set)  # lines that were understood
    unread: list[Unread] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    pipeline: str | None = None  # class around the modules: "SentenceTransformer", "ColBERT"
    description: dict[str, Stated[str]] = field(default_factory=dict)
    facts: dict[str, Stated[Any]] = field(default_factory=dict)  # base_model, base_revision, max_seq_length, ...
    datasets: list[Dataset] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    non_default: dict[str, Stated[Any]] = field(default_factory=dict)
    hyperparameters: dict[str, Stated[Any]] = field(default_factory=dict)
    log: list[LogRow] = field(default_factory=list)
    training_time: dict[str, Stated[Any]] = field(default_factory=dict)
    versions: dict[str, Stated[str]] = field(default_factory=dict)
    citations: list[str] = field(default_factory=list)

    def line(self, number: int) -> str:
        return self.structure.line(number)

    def mark(self, first: int, last: int | None = None) -> None:
        self.seen.update(range(first, (first if last is None else last) + 1))

    def state(self, name: str, value: Any, line: int) -> None:
        """Keep a fact unless an earlier line has stated it."""
        self.facts.setdefault(name, Stated(value, line))

    def miss(self, section: Section, first: int, last: int, reason: str) -> None:
        self.unread.append(Unread(" > ".join(section.path), (first, last), reason))
        self.mark(first, last)


def unlinked(text: str) -> str:
    """Text with `[shown](address)` replaced by what is shown, without comments."""
    return LINK.sub(lambda found: found.group(1), re.sub(r"<!--[^<>]{0,300}-->", "", text)).strip()


def block(sheet: Sheet, section: Section, fence: Fence) -> Mapping[str, Any] | None:
    """Parameters in a fenced block; unread where they are neither JSON nor a Python literal."""
    found = literals.parameters(fence.text)
    if found is None:
        sheet.miss(section, fence.first, fence.last, "parameters that are neither JSON nor a Python literal")
    else:
        sheet.mark(fence.first, fence.last)
    return found


def key_lines(fence: Fence) -> dict[str, int]:
    out: dict[str, int] = {}
    for offset, line in enumerate(fence.text.split("\n")):
        found = re.match(r"""\s*\{?\s*["']([^"']+)["']\s*:""", line)
        if found:
            out.setdefault(found.group(1), fence.first + 1 + offset)
    return out


def list_unread(sheet: Sheet) -> None:
    """Every line with text that no reader claimed, in runs, with its section."""
    tables = {number for table in sheet.structure.tables.values() for number in range(table.first, table.last + 1)}
    if sheet.structure.header is not None:
        _list_lines(sheet, Section((), 0, 1, 0), 1, sheet.structure.header[0] - 2, tables)
    for section in sheet.structure.sections:
        _list_lines(sheet, section, max(section.first, 1), section.last, tables)
    sheet.unread.sort(key=lambda part: part.lines)


def _list_lines(sheet: Sheet, section: Section, first: int, last: int, tables: set[int]) -> None:
    start = end = 0
    for number in range(first, last + 2):
        missed = number <= last and number not in sheet.seen and sheet.line(number).strip()
        if missed:
            start, end = start or number, number
        elif start and (number > last or number in sheet.seen):
            reason = "table outside the template" if start in tables else "text outside the template"
            sheet.unread.append(Unread(" > ".join(section.path), (start, end), reason))
            start = 0
