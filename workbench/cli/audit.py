"""The audit of one card or of many, for people and for other programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.text import Text
from typer import Argument, Exit, Option

from workbench.cli.options import AsJson, Revision
from workbench.cli.terminal import err, note, print_json, printable, progress_bars, say, table
from workbench.errors import CardError, NotACardError, WorkbenchError

if TYPE_CHECKING:
    from workbench.audit.rules import Audit
    from workbench.audit.selection import Selection

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
Codes = list[str] | None


def audit(
    cards: Annotated[list[str], Argument(metavar="CARD…", help="Cards, or folders of cards at any depth.")],
    revision: Revision = None,
    as_json: AsJson = False,
    format: Annotated[
        Literal["text", "json", "github", "sarif", "junit", "markdown"], Option("--format", help="What to print.")
    ] = "text",
    select: Annotated[Codes, Option("--select", metavar="CODE,…", help="Only these findings.")] = None,
    ignore: Annotated[Codes, Option("--ignore", metavar="CODE,…", help="Without these findings.")] = None,
    severity: Annotated[
        Literal["error", "warning", "note"] | None, Option("--severity", help="The least severity to report.")
    ] = None,
    baseline: Annotated[Path | None, Option("--baseline", help="Only findings that this file does not know.")] = None,
    write_baseline: Annotated[Path | None, Option("--write-baseline", help="Write all findings to this file.")] = None,
    cards_only: Annotated[bool, Option("--cards-only", help="Skip files that are no model cards.")] = False,
    strict: Annotated[bool, Option("--strict", help="Exit with 1 for an error, or what --severity reports.")] = False,
) -> None:
    """List what cards contradict, hide, or cannot have measured.

    Exits with 1 if --strict or --baseline finds something, with 2 if a card cannot be read. Defaults of --select,
    --ignore, --severity and --baseline come from [tool.card-workbench] in pyproject.toml. A card's own comment
    <!-- workbench: ignore CODE --> is obeyed.
    """
    from workbench.audit.selection import Selection, codes, configuration, read_baseline

    own = configuration(Path.cwd())
    known = baseline or own.get("baseline")
    selection = Selection(
        select=codes(own.get("select", ()) if select is None else select),
        ignore=codes(own.get("ignore", ()) if ignore is None else ignore),
        severity=severity or own.get("severity", "note"),
        known=read_baseline(known) if known and write_baseline is None else {},
    )
    format = "json" if as_json else format
    paths = [path for card in cards for path in find_cards(card)]
    single, lenient = len(paths) == 1, cards_only or len(paths) > len(cards)
    audits: dict[str, Audit] = {}
    unreadable: dict[str, str] = {}
    for path, found in _audited(paths, selection, revision):
        if not isinstance(found, WorkbenchError):
            audits[path] = found
        elif lenient and isinstance(found, NotACardError):
            continue
        elif single:
            raise found
        else:
            unreadable[path] = str(found)
    if write_baseline is not None:
        _write_baseline(write_baseline, audits)
    else:
        _print(format, audits, unreadable, single=single)
    counted = [each for found in audits.values() for each in found]
    failing = counted if known or severity else [each for each in counted if each.severity == "error"]
    if unreadable:
        raise Exit(2)
    if failing and (strict or known) and write_baseline is None:
        raise Exit(1)


def find_cards(name: str) -> list[str]:
    """The files of the card, or of all cards in the folder, that `name` means. Raises CardError for none."""
    folder = Path(name)
    if not folder.is_dir():
        return [name]
    if (folder / "README.md").is_file():
        return [str(folder / "README.md")]
    found = [str(path) for path in folder.rglob("README.md") if not any(part[:1] == "." for part in path.parts[:-1])]
    if not found:
        raise CardError(f"expected cards in the folder {name!r}, found no README.md in it.")
    return sorted(found)


def _audited(
    paths: Sequence[str], selection: Selection, revision: str | None
) -> Iterator[tuple[str, Audit | WorkbenchError]]:
    """Each card's audit, or why there is none; with a progress bar on a terminal."""
    from workbench.audit.rules import audit as examine
    from workbench.audit.selection import ignored_by
    from workbench.cards.read import read_card

    with progress_bars(quiet=len(paths) < 100 or not err.is_terminal, first="audit") as progress:
        for place, path in enumerate(paths):
            try:
                card = read_card(path, revision=revision)
                found = examine(card)
                if own := ignored_by(card) & {*found.codes}:
                    note(f"{path} itself says to ignore {', '.join(sorted(own))}")
                yield path, selection.of(found, path, card)
            except WorkbenchError as error:
                yield path, error
            if progress is not None:
                progress("audit", place + 1, len(paths))


def _write_baseline(path: Path, audits: Mapping[str, Audit]) -> None:
    from workbench.audit.selection import baseline

    path.write_text(baseline(audits), encoding="utf-8")
    note(f"wrote {path}: {sum(map(len, audits.values())):,} findings of {len(audits):,} cards")


def _print(format: str, audits: Mapping[str, Audit], unreadable: Mapping[str, str], *, single: bool) -> None:
    from workbench.audit import formats

    single = single and len(audits) == 1  # else it is none of the cards that were asked for
    if format == "text" and single:
        print_audit(next(iter(audits.values())))
    elif format == "text":
        print_audits(audits, unreadable)
    elif format == "json" and single:
        print_json(next(iter(audits.values())).to_dict(), indent=2)
    elif format == "json":
        listed = [{"card": name, **found.to_dict()} for name, found in audits.items()]
        print_json([*listed, *({"card": name, "error": error} for name, error in unreadable.items())], indent=2)
    else:
        written = getattr(formats, format)(audits)
        for text in [written] if isinstance(written, str) else written:
            print(printable(text))
        for name, message in unreadable.items():
            note(f"not read: {name}: {message}")


def explain(
    code: Annotated[
        str | None, Argument(metavar="[CODE]", help="Code of a finding; without it, all are listed.")
    ] = None,
) -> None:
    """Explain a finding of the audit: why it matters, when it is silent, an example, and its fix."""
    from workbench.audit.rules import RULES, documented
    from workbench.audit.selection import check_code

    rules = {rule.code: rule for rule in RULES}
    if code is None:
        table(("code", "meaning"), [(name, rules[name].documentation().short) for name in sorted(rules)])
        return
    check_code(code)
    say(documented(rules[code]))


def print_audit(found: Audit) -> None:
    """The findings of one card, most severe first, and what is known for reproducing it."""
    from workbench.audit.finding import line_ranges

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
    for each in found.resolutions:
        say(Text.assemble(("resolution: ", "bold"), each.sentence))
    say(found.reproducibility.verdict, style="bold")


def print_audits(audits: Mapping[str, Audit], unreadable: Mapping[str, str]) -> None:
    """One line per card, then the totals."""
    from workbench.audit.finding import SEVERITIES

    totals = Counter[str](dict.fromkeys(SEVERITIES, 0))
    for name, found in audits.items():
        totals.update(found.counts())
        numbers = " ".join(f"{number:2} {severity}s" for severity, number in found.counts().items())
        codes = ", ".join(dict.fromkeys(finding.code for finding in found.findings if finding.severity != "note"))
        say(f"{numbers}  {name}  {codes}")
    for name, message in unreadable.items():
        say(f"not read  {name}  {message}", style="red")
    say(
        f"{len(audits)} card{'s' * (len(audits) != 1)} audited: {severity_counts(totals)}; {len(unreadable)} not read.",
        style="bold",
    )


def severity_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {severity}{'s' * (number != 1)}" for severity, number in counts.items())
