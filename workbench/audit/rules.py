"""Audit: what a card contradicts, hides, or cannot have measured.

    Card ──► every Rule ──► Finding…  (most severe first)
        └──► reproducibility: which facts are needed to run it again, and where they are

The rules are in rules_loss, rules_training, rules_evaluation, rules_data and rules_model; `findings.md` lists them.
"""

from __future__ import annotations

import html
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from workbench.audit import rules_data, rules_evaluation, rules_loss, rules_model, rules_training
from workbench.audit.finding import SEVERITIES, Finding, Rule, some
from workbench.audit.reproducibility import Reproducibility, reproducibility
from workbench.cards.card import Card
from workbench.cards.inference import infer
from workbench.cards.metric_arithmetic import Resolution
from workbench.cards.read import read_card

RULES: tuple[Rule, ...] = tuple(
    rule
    for module in (rules_training, rules_loss, rules_evaluation, rules_data, rules_model)
    for rule in vars(module).values()
    if isinstance(rule, Rule) and rule.check.__module__ == module.__name__
)
"""Every rule of the audit, one for each code."""


@dataclass(frozen=True)
class Audit:
    """All findings on one card, most severe first, and what is needed to run it again."""

    card: str  # the card's short name
    findings: tuple[Finding, ...]
    reproducibility: Reproducibility
    resolutions: tuple[Resolution, ...] = ()  # of each evaluation whose number of queries its values imply

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
        """Number of findings of each severity, most severe first."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: findings (code, severity, message, evidence, lines, fix), reproducibility, resolutions."""
        return {
            "findings": [found.to_dict() for found in self.findings],
            "reproducibility": self.reproducibility.to_dict(),
            "resolutions": [asdict(each) for each in self.resolutions],
        }

    def tally(self) -> str:
        """How many findings of each severity, in words."""
        counts = self.counts().items()
        words = [f"{number} {severity}{'s' if number != 1 else ''}" for severity, number in counts if number]
        return ", ".join(words) or "nothing found"

    def __repr__(self) -> str:
        head = f"Audit of {self.card}: {self.tally()}"
        rows = [f"  {found.severity:<8} {found.code:<24} {_where(found)}{found.message}" for found in self.findings]
        return "\n".join([head, *rows, f"  {self.reproducibility.verdict}"])

    def _repr_html_(self) -> str:
        """A table for a notebook; every text from the card is escaped."""
        left = "style='text-align:left'"
        rows = [
            (found.severity, found.code, found.message, _where(found), found.fix.sentence if found.fix else "")
            for found in self.findings
        ]
        body = "".join(
            "<tr>" + "".join(f"<td {left}>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        head = "".join(f"<th {left}>{name}</th>" for name in ("", "code", "finding", "lines", "fix"))
        return (
            f"<p><b>{html.escape(self.card)}</b>: {html.escape(self.tally())}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{html.escape(self.reproducibility.verdict)}</p>"
        )


def _where(found: Finding) -> str:
    return f"line{'s' if len(found.lines) > 1 else ''} {some(found.lines, 6)}: " if found.lines else ""


def audit(card: Card | str | os.PathLike[str]) -> Audit:
    """Check a card, or what `read_card` takes, by every rule, and list what is needed to run it again.

    >>> found = audit(Card(name="bare", kind="sentence-transformer"))
    >>> len(found), found.reproducibility.verdict
    (0, 'The card describes no training, so there is nothing to run again.')
    """
    card = card if isinstance(card, Card) else read_card(card)
    findings = sorted((found for rule in RULES for found in rule(card)), key=Finding.order)
    resolutions = (facts.resolution for facts in infer(card).metrics if facts.resolution is not None)
    return Audit(card.name, tuple(findings), reproducibility(card), tuple(dict.fromkeys(resolutions)))


def findings_page() -> str:
    """The text of `findings.md`: every code with its meaning, when it is silent, and an example.

    `python -c "from workbench.audit.rules import findings_page as page; print(page(), end='')"`, redirected to that
    file, writes it.
    """
    parts = [
        "# Findings",
        "",
        "Every code that `workbench audit` reports: what it means, when it is silent, and an example. error: the claim "
        "cannot be right, or the training did not do what the card suggests. warning: the reader is misled, or the "
        "result is at risk. note: worth knowing. Written from the docstrings of the rules.",
    ]
    for rule in sorted(RULES, key=lambda rule: rule.code):
        parts += ["", documented(rule)]
    return "\n".join(parts) + "\n"


def documented(rule: Rule) -> str:
    """Markdown of one code: what it means, when it is silent, an example, and what --corrected changes."""
    about = rule.documentation()
    fix = about.fix or "no change of the recipe corrects it."
    return "\n".join(
        [f"## {rule.code}", "", about.meaning, "", f"- Silent when {about.silent}", f"- Example: {about.example}",
         f"- Fix: {fix}"]
    )  # fmt: skip
