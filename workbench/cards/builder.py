"""A card while it is being read: its lines, the facts found so far, and which lines were understood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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

    def body(self, sections: Iterable[Section]) -> Iterator[tuple[int, str]]:
        """Number and text of every line below the headings of `sections`."""
        for section in sections:
            for number in range(section.first + 1, section.last + 1):
                yield number, self.line(number)

    def mark(self, first: int, last: int | None = None) -> None:
        self.seen.update(range(first, (first if last is None else last) + 1))

    def state(self, name: str, value: Any, line: int) -> None:
        """Keep a fact unless an earlier line has stated it."""
        self.facts.setdefault(name, Stated(value, line))

    def miss(self, section: Section, first: int, last: int, reason: str) -> None:
        self.unread.append(Unread(" > ".join(section.path), (first, last), reason))
        self.mark(first, last)

    def parameters(self, section: Section, fence: Fence | None) -> Mapping[str, Any]:
        """Parameters in a fenced block; empty, and unread, where they are neither JSON nor a Python literal."""
        found = literals.parameters(fence.text) if fence else None
        if fence and found is None:
            self.miss(section, fence.first, fence.last, "parameters that are neither JSON nor a Python literal")
        elif fence:
            self.mark(fence.first, fence.last)
        return found or {}


def strip_links(text: str) -> str:
    """Text with `[shown](address)` replaced by what is shown, without comments."""
    return LINK.sub(lambda found: found.group(1), re.sub(r"<!--[^<>]{0,300}-->", "", text)).strip()


def key_lines(fence: Fence) -> dict[str, int]:
    """Line of each key in a fenced block."""
    out: dict[str, int] = {}
    for number, line in enumerate(fence.text.split("\n"), fence.first + 1):
        if found := re.match(r"""\s*\{?\s*["']([^"']+)["']\s*:""", line):
            out.setdefault(found.group(1), number)
    return out


def list_unread(sheet: Sheet) -> None:
    """List every line with text that no reader understood, in runs, with its section."""
    tables = {number for table in sheet.structure.tables.values() for number in range(table.first, table.last + 1)}
    header = sheet.structure.header
    before = [Section((), 0, 1, header[0] - 2)] if header is not None else []
    for section in (*before, *sheet.structure.sections):
        run: list[int] = []  # blank lines do not end it
        for number in range(max(section.first, 1), section.last + 2):
            if number <= section.last and number not in sheet.seen:
                run += [number] if sheet.line(number).strip() else []
            elif run:
                reason = "table outside the template" if run[0] in tables else "text outside the template"
                sheet.unread.append(Unread(" > ".join(section.path), (run[0], run[-1]), reason))
                run = []
    sheet.unread.sort(key=lambda part: part.lines)
