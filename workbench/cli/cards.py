"""Commands on a card: what it says, what is wrong with it, how to train it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Argument, Exit, Option

from workbench.cli.options import AsJson, CardName, Corrected, Settings, Strict, find_card, find_recipe
from workbench.cli.terminal import note, print_json, printable, say, table
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.audit.rules import Audit

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show(card: CardName, as_json: AsJson = False) -> None:
    """Show what a card says."""
    from workbench.cards.read import card_to_dict, read_card

    found = read_card(card)
    if as_json:
        print_json(card_to_dict(found), indent=2)
    else:
        say(repr(found))


def audit(
    cards: Annotated[list[str], Argument(metavar="CARD…", help="One or more cards.")],
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """List what a card contradicts, hides, or cannot have measured."""
    from workbench.audit.rules import audit as examine
    from workbench.cards.read import read_card

    audits: dict[str, Audit] = {}
    unreadable: dict[str, str] = {}
    for name in cards:
        try:
            audits[name] = examine(read_card(name))
        except WorkbenchError as error:
            if len(cards) == 1:
                raise
            unreadable[name] = str(error)
    if as_json and len(cards) == 1:
        print_json(audits[cards[0]].to_dict(), indent=2)
    elif as_json:
        listed = [{"card": name, **found.to_dict()} for name, found in audits.items()]
        print_json([*listed, *({"card": name, "error": error} for name, error in unreadable.items())], indent=2)
    elif len(cards) == 1:
        print_audit(audits[cards[0]])
    else:
        print_audits(audits, unreadable)
    if unreadable:
        raise Exit(2)
    if strict and any(finding.severity == "error" for found in audits.values() for finding in found.findings):
        raise Exit(1)


def print_audit(found: Audit) -> None:
    """The findings of one card, most severe first, and what is known for reproducing it."""
    for finding in found.findings:
        head = Text(f"{finding.severity:7} ", style=SEVERITY_STYLES[finding.severity])
        head.append(f"{finding.code} ", style="bold")
        if finding.lines:
            head.append(f"(line{'s' if len(finding.lines) > 1 else ''} {line_ranges(finding.lines)})", style="dim")
        say(head)
        say(finding.message, indent=8)
        if finding.fix is not None:
            say(f"Fix: {finding.fix.sentence}", style="green", indent=8)
    if not found.findings:
        say("No findings.")
    facts = found.reproducibility.facts
    say("")
    for status in dict.fromkeys(fact.status for fact in facts):
        names = ", ".join(fact.name for fact in facts if fact.status == status)
        say(Text.assemble((f"{status}: ", "bold"), printable(names)))
    say(found.reproducibility.verdict, style="bold")


def print_audits(audits: Mapping[str, Audit], unreadable: Mapping[str, str]) -> None:
    """One line per card, then the totals."""
    totals: Counter[str] = Counter()
    for name, found in audits.items():
        totals.update(found.counts())
        numbers = " ".join(f"{number:2} {severity}s" for severity, number in found.counts().items())
        codes = ", ".join(dict.fromkeys(finding.code for finding in found.findings if finding.severity != "note"))
        say(f"{numbers}  {name}  {codes}")
    for name, message in unreadable.items():
        say(f"not read  {name}  {message}", style="red")
    say(f"{len(audits)} cards audited: {severity_counts(totals)}; {len(unreadable)} not read.", style="bold")


def severity_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {severity}s" for severity, number in counts.items())


def line_ranges(lines: Sequence[int]) -> str:
    """Line numbers with consecutive ones joined.

    >>> line_ranges((3, 4, 5, 9))
    '3-5, 9'
    """
    spans: list[list[int]] = []
    for line in sorted(set(lines)):
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def recipe(
    card: CardName,
    corrected: Corrected = False,
    settings: Settings = None,
    to: Annotated[Path | None, Option("--out", help="Write the YAML to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a card's recipe, each field with its source."""
    from workbench.recipe.from_card import recipe as understand
    from workbench.recipe.schema import difference
    from workbench.recipe.yaml_io import recipe_yaml, save_recipe

    found = find_card(card)
    made = find_recipe(card, found, corrected=corrected, settings=settings)
    if to is not None:
        save_recipe(made, to)
        note(f"wrote {to}")
    elif as_json:
        print_json(made.model_dump(mode="json"), indent=2)
    else:
        print(printable(recipe_yaml(made)))
    if corrected and found is not None and not as_json:
        changes = difference(understand(found), made)
        rows = [(path, str(before), str(after)) for path, before, after in changes]
        table(("field", "as written", "corrected"), rows, title="What the corrections change")
