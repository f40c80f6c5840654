"""Commands about a card: what it says, what is wrong with it, what would have to be run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from workbench.cli.options import AsJson, CardWord, Corrected, Settings, Strict, app, find_card, find_recipe
from workbench.cli.terminal import err, plain, print_json, say, say_below, table
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.audit.rules import Audit

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@app.command()
def show(card: CardWord, as_json: AsJson = False) -> None:
    """What a card says, as it was read."""
    from workbench.cards.read import card_to_dict, read_card

    found = read_card(card)
    if as_json:
        print_json(card_to_dict(found), indent=2)
        return
    say(Text(plain(repr(found))))


@app.command()
def audit(
    cards: Annotated[list[str], typer.Argument(metavar="CARD…", help="One card, or many.")],
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """What a card contradicts, hides, or cannot have measured."""
    from workbench.audit.rules import audit as examine
    from workbench.cards.read import read_card

    audits: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for word in cards:
        try:
            audits[word] = examine(read_card(word))
        except WorkbenchError as error:
            if len(cards) == 1:
                raise
            unreadable[word] = str(error)
    if as_json:
        listed = [{"card": word, **found.to_dict()} for word, found in audits.items()]
        listed += [{"card": word, "error": sentence} for word, sentence in unreadable.items()]
        print_json(next(iter(audits.values())).to_dict() if len(cards) == 1 else listed, indent=2)
    elif len(cards) == 1:
        print_audit(next(iter(audits.values())))
    else:
        print_audits(audits, unreadable)
    if unreadable:
        raise typer.Exit(2)
    if strict and any(finding.severity == "error" for found in audits.values() for finding in found.findings):
        raise typer.Exit(1)


def print_audit(found: Audit) -> None:
    """Findings of one card, most severe first, and what is known for running it again."""
    for finding in found.findings:
        head = Text(f"{finding.severity:7} ", style=SEVERITY_STYLES[finding.severity])
        head.append(f"{finding.code} ", style="bold")
        if finding.lines:
            head.append(f"(line{'s' if len(finding.lines) > 1 else ''} {line_ranges(finding.lines)})", style="dim")
        say(head)
        say_below(finding.message)
        if finding.fix is not None:
            say_below(f"Fix: {finding.fix.sentence}", style="green")
    if not found.findings:
        say("Nothing found that this audit can prove.")
    facts = found.reproducibility.facts
    say("")
    for status in dict.fromkeys(fact.status for fact in facts):
        names = ", ".join(fact.name for fact in facts if fact.status == status)
        say(Text.assemble((f"{status}: ", "bold"), plain(names)))
    say(Text(plain(found.reproducibility.verdict), style="bold"))


def print_audits(audits: dict[str, Any], unreadable: dict[str, str]) -> None:
    """One line for each card, then a summary."""
    counts: dict[str, int] = {"error": 0, "warning": 0, "note": 0}
    for word, found in audits.items():
        own = dict.fromkeys(counts, 0)
        for finding in found.findings:
            own[finding.severity] += 1
            counts[finding.severity] += 1
        codes = ", ".join(dict.fromkeys(finding.code for finding in found.findings if finding.severity != "note"))
        numbers = f"{own['error']:2} errors {own['warning']:2} warnings {own['note']:2} notes"
        say(Text(f"{numbers}  {plain(word)}  {plain(codes)}"))
    for word, sentence in unreadable.items():
        say(Text(f"not read  {plain(word)}  {plain(sentence)}", style="red"))
    total = ", ".join(f"{number} {name}s" for name, number in counts.items())
    say(Text(f"{len(audits)} cards audited: {total}; {len(unreadable)} not read.", style="bold"))


def line_ranges(lines: Sequence[int]) -> str:
    """Lines as a person writes them.

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


@app.command()
def recipe(
    card: CardWord,
    corrected: Corrected = False,
    settings: Settings = None,
    to: Annotated[Path | None, typer.Option("--out", help="Write the YAML to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The executable reading of a card, every field with where it came from."""
    from workbench.recipe.schema import difference, recipe_yaml, save_recipe
    from workbench.recipe.schema import recipe as understand

    found = find_card(card)
    made = find_recipe(card, found, corrected=corrected, settings=settings)
    if to is not None:
        save_recipe(made, to)
        err.print(plain(f"wrote {to}"))
    elif as_json:
        print_json(made.model_dump(mode="json"), indent=2)
    else:
        print(plain(recipe_yaml(made)))
    if corrected and found is not None and not as_json:
        changes = difference(understand(found), made)
        rows = [(path, str(before), str(after)) for path, before, after in changes]
        table(("field", "as written", "corrected"), rows, title="What the corrections change")
