"""Finding: one result of an audit, and Rule: the pure function Card -> findings that makes it.

A rule's docstring is its documentation: what it says and why (first paragraphs), then `Silent when:` and `Example:`.
`workbench/audit/findings.md` is written from these docstrings, so there is one text in one place.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.cards.card import Card

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Most severe first. error: the claim cannot be right, or the training did not do what the card suggests. warning:
the reader will be misled, or the result is at risk. note: worth knowing."""


@dataclass(frozen=True)
class Fix:
    """The change to a recipe that corrects what a finding found."""

    changes: Mapping[str, Any]  # dotted recipe path -> new value: {"training.learning_rate": 0.2}
    sentence: str  # what the change does, for a person


@dataclass(frozen=True)
class Finding:
    """One audit result."""

    code: str  # stable: "world-size"
    severity: Severity
    message: str  # one sentence in plain words with the card's own numbers
    evidence: Mapping[str, Any] = field(default_factory=dict)  # name -> value, plain JSON values
    lines: tuple[int, ...] = ()  # 1-based lines of README.md, ascending
    fix: Fix | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: code, severity, message, evidence, lines, fix."""
        fix = None if self.fix is None else {"changes": plain(self.fix.changes), "sentence": self.fix.sentence}
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "evidence": plain(self.evidence),
            "lines": list(self.lines),
            "fix": fix,
        }

    def order(self) -> tuple[int, int, str]:
        """Sort key: most severe first, then by first line, then by code."""
        return SEVERITIES.index(self.severity), self.lines[0] if self.lines else 1 << 30, self.code


def finding(
    code: str,
    severity: Severity,
    message: str,
    *,
    lines: Iterable[int | None] = (),
    fix: Fix | None = None,
    **evidence: Any,
) -> Finding:
    """A Finding whose lines are sorted, without repeats and without the facts that have none.

    >>> finding("world-size", "warning", "two processes", lines=[9, None, 4, 9], processes=2).lines
    (4, 9)
    """
    kept = tuple(sorted({line for line in lines if line is not None}))
    return Finding(code, severity, message, evidence, kept, fix)


@dataclass(frozen=True)
class Rule:
    """One rule of the audit: its code, and the function that finds it."""

    code: str
    check: Callable[[Card], Iterable[Finding]]

    def __call__(self, card: Card) -> Iterator[Finding]:
        yield from self.check(card)

    def documentation(self) -> tuple[str, str, str]:
        """The docstring in its three parts: reasoning, when the rule is silent, an example."""
        text = inspect.cleandoc(self.check.__doc__ or "")
        reasoning, _, rest = text.partition("Silent when:")
        silent, _, example = rest.partition("Example:")
        return reasoning.strip(), silent.strip(), example.strip()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: mappings and lists of plain values; NaN and infinity, which JSON has not, as words.

    >>> plain({"limit": float("inf"), "dims": (512, 256)})
    {'limit': 'inf', 'dims': [512, 256]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def some(numbers: Iterable[Any], most: int = 8) -> str:
    """A list in words, cut when long.

    >>> some([1, 2, 3])
    '1, 2 and 3'
    >>> some(range(20), most=3)
    '0, 1, 2 and 17 more'
    """
    items = [str(number) for number in numbers]
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1] if items else ""]))


def short(value: float, digits: int = 4) -> str:
    """A number as a person would write it: thousands separated, `digits` places, no trailing zeros.

    >>> short(7287.04), short(1.3122), short(153000), short(0.05), short(2e-05)
    ('7,287.04', '1.3122', '153,000', '0.05', '2e-05')
    """
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) < 10 ** (1 - digits):
        return f"{value:g}"
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".")
