"""Audit: what a card contradicts, hides, or cannot have measured.

    Card ──► every Rule ──► Finding…  (most severe first)
        └──► reproducibility: which facts one would need to run it again, and where they are

The rules live in rules_loss, rules_training, rules_evaluation, rules_data and rules_model, each a pure function whose
docstring is its documentation; `findings.md` lists them all and is written by `findings_page`.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.audit import rules_data, rules_evaluation, rules_loss, rules_model, rules_training
from workbench.audit.finding import SEVERITIES, Finding, Fix, Rule, some
from workbench.audit.reproducibility import Reproducibility, reproducibility
from workbench.cards.card import Card

__all__ = ["RULES", "SEVERITIES", "Audit", "Finding", "Fix", "Rule", "audit", "findings_page"]

RULES: tuple[Rule, ...] = (
    *rules_training.RULES,
    *rules_loss.RULES,
    *rules_evaluation.RULES,
    *rules_data.RULES,
    *rules_model.RULES,
)
"""Every rule of the audit, one for each code."""


@dataclass(frozen=True)
class Audit:
    """All findings on one card, most severe first, and the summary of what it would take to run it again."""

    card: str  # the card's short name
    findings: tuple[Finding, ...]
    reproducibility: Reproducibility

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, key: int | str) -> Finding:
        """The finding at a position, or the first one of a code; KeyError or IndexError where there is none."""
        if isinstance(key, int):
            return self.findings[key]
        for found in self.findings:
            if found.code == key:
                return found
        raise KeyError(f"no finding {key!r} on {self.card!r}; there are: {some(dict.fromkeys(self.codes)) or 'none'}.")

    @property
    def codes(self) -> tuple[str, ...]:
        """Code of each finding, in order."""
        return tuple(found.code for found in self.findings)

    def counts(self) -> dict[str, int]:
        """How many findings of each severity, most severe first."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: findings (code, severity, message, evidence, lines, fix) and reproducibility."""
        return {
            "findings": [found.to_dict() for found in self.findings],
            "reproducibility": self.reproducibility.to_dict(),
        }

    def __repr__(self) -> str:
        head = f"Audit of {self.card}: {_tally(self.counts())}"
        rows = [f"  {found.severity:<8} {found.code:<24} {_where(found)}{found.message}" for found in self.findings]
        return "\n".join([head, *rows, f"  {self.reproducibility.verdict}"])

    def _repr_html_(self) -> str:
        """A table for a notebook; every text from the card is escaped."""
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left'>{html.escape(cell)}</td>"
                for cell in (found.severity, found.code, found.message, _where(found), _fix(found))
            )
            + "</tr>"
            for found in self.findings
        )
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("", "code", "finding", "lines", "fix"))
        return (
            f"<p><b>{html.escape(self.card)}</b>: {html.escape(_tally(self.counts()))}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{html.escape(self.reproducibility.verdict)}</p>"
        )


def _tally(counts: dict[str, int]) -> str:
    """Counts in words.

    >>> _tally({"error": 1, "warning": 0, "note": 2})
    '1 error, 2 notes'
    """
    words = [f"{number} {severity}{'s' if number != 1 else ''}" for severity, number in counts.items() if number]
    return ", ".join(words) or "nothing found"


def _where(found: Finding) -> str:
    return f"line{'s' if len(found.lines) > 1 else ''} {some(found.lines, 6)}: " if found.lines else ""


def _fix(found: Finding) -> str:
    return "" if found.fix is None else found.fix.sentence


def audit(card: Card) -> Audit:
    """Judge a card by every rule, and say what it would take to run it again.

    >>> found = audit(Card(name="bare", kind="sentence-transformer"))
    >>> len(found), found.reproducibility.verdict
    (0, 'The card tells of no training, so there is nothing to run again.')
    """
    findings = sorted((found for rule in RULES for found in rule(card)), key=Finding.order)
    return Audit(card.name, tuple(findings), reproducibility(card))


def findings_page() -> str:
    """The text of `findings.md`: every code with its reasoning, when it is silent, and an example.

    Written from the rules' docstrings by the following command, redirected to that file:
    `python -c "from workbench.audit.rules import findings_page as page; print(page(), end='')"`
    """
    parts = [
        "# Findings",
        "",
        "Every code that `workbench audit` can give: what it says and why, when it is silent, and an example. An error"
        " is a claim that cannot be right, or a training that did not do what the card suggests; a warning misleads the"
        " reader or puts the result at risk; a note is worth knowing. This page is written from the docstrings of the"
        " rules.",
    ]
    for rule in sorted(RULES, key=lambda rule: rule.code):
        reasoning, silent, example = rule.documentation()
        parts += ["", f"## {rule.code}", "", reasoning, "", f"**Silent when** {silent}", "", f"**Example.** {example}"]
    return "\n".join(parts) + "\n"
