"""Finding: one audit result; Rule: the function Card -> findings that makes it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from workbench.cards.card import Card

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Most severe first. error: the claim cannot be right, or the training did not do what the card suggests. warning:
the reader is misled, or the result is at risk. note: worth knowing."""


@dataclass(frozen=True)
class Fix:
    """The change to a recipe that corrects what a finding found."""

    changes: Mapping[str, Any]  # dotted recipe path -> new value: {"training.learning_rate": 0.2}
    sentence: str  # what the change does


@dataclass(frozen=True)
class Finding:
    """One audit result."""

    code: str  # stable: "world-size"
    severity: Severity
    message: str  # one sentence with the card's own numbers
    evidence: Mapping[str, Any] = field(default_factory=dict)  # name -> value, plain JSON values
    lines: tuple[int, ...] = ()  # 1-based lines of README.md, ascending
    fix: Fix | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: code, severity, message, evidence, lines, fix."""
        fields: dict[str, Any] = to_json(asdict(self))
        return fields

    def order(self) -> tuple[int, int, str]:
        """Sort key: most severe first, then by first line, then by code."""
        return SEVERITIES.index(self.severity), self.lines[0] if self.lines else 1 << 30, self.code


def finding(
    severity: Severity, message: str, lines: Iterable[int | None] = (), fix: Fix | None = None, **evidence: Any
) -> Finding:
    """A finding of the rule that yields it; lines that are unknown or repeated are left out.

    >>> finding("warning", "Two processes.", [9, None, 4, 9], processes=2).lines
    (4, 9)
    """
    return Finding("", severity, message, evidence, tuple(sorted({line for line in lines if line is not None})), fix)


error, warning, note = (partial(finding, severity) for severity in SEVERITIES)


@dataclass(frozen=True)
class Rule:
    """A decorator: a pure function Card -> findings as a rule of the audit.

    The function's name is the code; its docstring is the documentation: what the finding means and why it matters, then
    the paragraphs `Silent when:`, `Example:` and, where the recipe can be corrected, `Fix:`. `findings.md` holds them.
    """

    check: Callable[[Card], Iterable[Finding]]

    @property
    def code(self) -> str:
        return self.check.__name__.replace("_", "-")

    def __call__(self, card: Card) -> Iterator[Finding]:
        for found in self.check(card):
            yield replace(found, code=self.code)

    def documentation(self) -> Documentation:
        """The docstring in its parts."""
        meaning, _, rest = inspect.cleandoc(self.check.__doc__ or "").partition("Silent when:")
        silent, _, rest = rest.partition("Example:")
        example, _, fix = rest.partition("Fix:")
        return Documentation(*(part.strip() for part in (meaning, silent, example, fix)))


class Documentation(NamedTuple):
    """What a rule's docstring says. `fix`: what --corrected changes in the recipe; empty for nothing."""

    meaning: str
    silent: str
    example: str
    fix: str

    @property
    def short(self) -> str:
        return self.meaning.partition("\n")[0]


def spans(lines: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each block of consecutive lines.

    >>> spans((3, 4, 5, 9))
    [(3, 5), (9, 9)]
    """
    found: list[tuple[int, int]] = []
    for line in sorted(set(lines)):
        if found and line == found[-1][1] + 1:
            found[-1] = found[-1][0], line
        else:
            found.append((line, line))
    return found


def line_ranges(lines: Iterable[int], most: int = 100) -> str:
    """Line numbers with consecutive ones joined, at most so many ranges.

    >>> line_ranges((3, 4, 5, 9)), line_ranges((3, 5), most=1)
    ('3-5, 9', '3, …')
    """
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in spans(lines)]
    return ", ".join([*texts[:most], *(["…"] if len(texts) > most else [])])


def to_json(value: Any) -> Any:
    """`value` as JSON can hold it; NaN and infinity become text.

    >>> to_json({"limit": float("inf"), "dims": (512, 256)})
    {'limit': 'inf', 'dims': [512, 256]}
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def some(numbers: Iterable[Any], most: int = 8) -> str:
    """A list in words, cut when long.

    >>> some([1, 2, 3]), some(range(20), most=3)
    ('1, 2 and 3', '0, 1, 2 and 17 more')
    """
    items = [str(number) for number in numbers]
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1] if items else ""]))


def short(value: float, digits: int = 4) -> str:
    """A number for a sentence: thousands separated, `digits` places, no trailing zeros.

    >>> short(7287.04), short(1.3122), short(153000), short(0.05), short(2e-05)
    ('7,287.04', '1.3122', '153,000', '0.05', '2e-05')
    """
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) < 10 ** (1 - digits):
        return f"{value:g}"
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".")
