"""The findings on a card, each with the lines that prove it, unfolded by a click."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.audit.rules import audit
from workbench.notebook.html import Page, text, word
from workbench.views.card_facts import card_lines

if TYPE_CHECKING:
    from workbench.audit.finding import Finding
    from workbench.cards.card import Card


def findings(card: Card) -> Page:
    """Every finding: its severity and sentence; unfolded, the lines of the card, and the fix if there is one.

    Plain HTML without a script: it stays in the saved notebook as it is.
    """
    found = audit(card)
    counts = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in found.counts().items() if count)
    head = f"<p><b>{text(card.name)}</b>: {counts or 'nothing found'}.</p>"
    body = "".join(_finding(card, each) for each in found)
    return Page(f'{head}{body}<p class="muted">{text(found.reproducibility.verdict)}</p>', repr(found))


def _finding(card: Card, found: Finding) -> str:
    parts = []
    if lines := card_lines(card, found.lines):
        parts.append(f"<pre>{text(lines)}</pre>")
    if found.evidence:
        numbers = " · ".join(f"{text(name)} {text(value)}" for name, value in found.to_dict()["evidence"].items())
        parts.append(f'<p class="muted">{numbers}</p>')
    if found.fix is not None:
        changes = ", ".join(f"{field} = {value}" for field, value in found.to_dict()["fix"]["changes"].items())
        parts.append(f"<p>Corrected: {text(found.fix.sentence)} <code>{text(changes)}</code></p>")
    parts.append(f'<p class="muted"><code>{text(found.code)}</code></p>')
    summary = f"<summary>{word(found.severity)}<span>{text(found.message)}</span></summary>"
    return f"<details>{summary}<div>{''.join(parts)}</div></details>"
