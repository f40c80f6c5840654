"""Which findings count: codes, a least severity, what the card itself ignores, and what a baseline knows."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from workbench.audit.finding import SEVERITIES, Finding, Severity
from workbench.audit.rules import RULES, Audit
from workbench.cards.card import Card
from workbench.errors import CardError, short

IGNORED = re.compile(r"<!--\s*workbench:\s*ignore\s+([\w, -]+?)\s*-->")
CODES = tuple(sorted(rule.code for rule in RULES))
BASELINE_VERSION = 1


@dataclass(frozen=True)
class Selection:
    """Which findings count. Raises CardError for an unknown code or severity."""

    select: tuple[str, ...] = ()  # codes; () for all
    ignore: tuple[str, ...] = ()  # codes
    severity: Severity = "note"  # the least
    known: Mapping[str, frozenset[str]] = field(default_factory=dict)  # card -> fingerprints

    def __post_init__(self) -> None:
        for code in (*self.select, *self.ignore):
            check_code(code)
        if self.severity not in SEVERITIES:
            raise CardError(f"expected a severity ({', '.join(SEVERITIES)}), found {short(self.severity)}.")

    def of(self, found: Audit, path: str, card: Card) -> Audit:
        """The audit with the findings that count. `path` is how the baseline names the card."""
        codes = set(self.select or CODES) - set(self.ignore) - ignored_by(card)
        most = SEVERITIES.index(self.severity)
        known = self.known.get(_key(path), frozenset())
        return replace(
            found,
            findings=tuple(
                each
                for each in found.findings
                if each.code in codes and SEVERITIES.index(each.severity) <= most and fingerprint(each) not in known
            ),
        )


def check_code(code: str) -> None:
    """Raises CardError, with the nearest codes, if there is no such rule."""
    if code not in CODES:
        near = get_close_matches(code, CODES, n=3, cutoff=0.5)
        raise CardError(
            f"expected the code of a finding, found {short(code)}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; `workbench explain` lists them.")
        )


def ignored_by(card: Card) -> set[str]:
    """The codes in comments `<!-- workbench: ignore CODE, … -->` of a card. What is no code is passed over."""
    named = (code for line in card.lines for found in IGNORED.findall(line) for code in re.split(r"[,\s]+", found))
    return set(named) & set(CODES)


def fingerprint(found: Finding) -> str:
    """What a finding is known by: its code and message, but not its lines, which move."""
    return f"{found.code}:{hashlib.sha256(found.message.encode()).hexdigest()[:12]}"


def read_baseline(path: Path) -> dict[str, frozenset[str]]:
    """The fingerprints of each card in a file that `write_baseline` wrote. Raises CardError for anything else."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(f"expected a baseline, found no file {str(path)!r}; --write-baseline makes one.") from None
    except (ValueError, RecursionError):
        stored = None
    cards = stored.get("findings") if isinstance(stored, dict) else None
    if not isinstance(cards, dict) or not all(isinstance(codes, list) for codes in cards.values()):
        raise CardError(f"expected a baseline in {str(path)!r}, found another file; --write-baseline makes one.")
    if stored.get("version") != BASELINE_VERSION:
        raise CardError(
            f"expected a baseline of version {BASELINE_VERSION}, found version {short(stored.get('version'))} in "
            f"{str(path)!r}; write it again with --write-baseline."
        )
    return {card: frozenset(map(str, codes)) for card, codes in cards.items()}


def baseline(audits: Mapping[str, Audit]) -> str:
    """The text of a baseline that knows every finding of these cards."""
    cards = {_key(path): sorted(map(fingerprint, found)) for path, found in audits.items() if found.findings}
    return json.dumps({"version": BASELINE_VERSION, "findings": cards}, indent=1, sort_keys=True) + "\n"


class _Table(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    select: list[str]
    ignore: list[str]
    severity: str
    baseline: str


_TABLE = TypeAdapter(_Table)


def _key(path: str) -> str:
    return PurePath(path).as_posix()


def configuration(folder: Path) -> dict[str, Any]:
    """`[tool.card-workbench]` of the nearest pyproject.toml, in `folder` or above it.

    Keys: select and ignore (lists of codes), severity, and baseline, a path relative to that file. Raises CardError for
    another key or type.
    """
    path = next((at / "pyproject.toml" for at in (folder, *folder.parents) if (at / "pyproject.toml").is_file()), None)
    if path is None:
        return {}
    try:
        tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"expected TOML in {str(path)!r}, found a file that is not ({error}).") from error
    table = tools.get("card-workbench") if isinstance(tools, dict) else None
    try:
        found = _TABLE.validate_python(table or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        raise CardError(f"{where} of [tool.card-workbench] in {str(path)!r}: {first['msg']}.") from error
    return {**found, "baseline": path.parent / found["baseline"]} if "baseline" in found else dict(found)


def codes(values: Iterable[str]) -> tuple[str, ...]:
    """Codes from options that may be repeated and hold several.

    >>> codes(["diverged,world-size", "bases-disagree"])
    ('diverged', 'world-size', 'bases-disagree')
    """
    return tuple(code.strip() for value in values for code in value.split(",") if code.strip())
