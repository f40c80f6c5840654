"""The command `workbench`: a thin face of the package for a terminal.

Each command reads its words, calls one function of the package and prints what came back: a table for a person, JSON
on standard output for a program (`--json`). Progress and remarks go to standard error. Exit code 0 is done, 1 is bad
news in the answer (`--strict`), 2 is that it could not be done, with one sentence on standard error.

Text from cards and data is hostile: control characters are shown as a mark, and no markup in it is obeyed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from workbench.errors import RunError, WorkbenchError
from workbench.terminal import err, plain, print_json, progress_bars, say, say_below, table

if TYPE_CHECKING:
    from workbench.audit import Audit
    from workbench.card import Card
    from workbench.compare import Comparison
    from workbench.recipe import Recipe
    from workbench.run import Run


app = typer.Typer(
    name="workbench",
    help="A model card goes in; a verdict that you can trust comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CardWord = Annotated[str, typer.Argument(metavar="CARD", help="README.md, its folder, a shipped name, or a Hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
BaseWord = Annotated[str | None, typer.Option("--base", help="auto, bundled:minilm, a folder, or a Hub id.")]
DataWord = Annotated[str | None, typer.Option("--data", help="A file, sample:NAME, or a Hub id.")]
ColumnsWord = Annotated[
    str | None, typer.Option("--columns", help="theirs=ours,…: e.g. user_query=anchor,answer=positive")
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="field=value, as often as needed.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop training after so many steps.")]
Corrected = Annotated[bool, typer.Option("--corrected", help="With the fixes that the audit proposes.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when the answer is bad news.")]


def main() -> None:
    """Entry point of the command; turns the package's errors into a sentence and exit code 2."""
    try:
        app()
    except WorkbenchError as error:
        complain(str(error))
    except OSError as error:
        named = f" {error.filename!r}" if error.filename else ""
        complain(f"the system refused{named}: {error.strerror or error}.")
    except KeyboardInterrupt:
        complain("stopped by the keyboard.", code=130)


def complain(sentence: str, code: int = 2) -> None:
    """Say one sentence on standard error and leave."""
    print(f"workbench: {plain(sentence)}", file=sys.stderr)
    sys.exit(code)


@app.command()
def show(card: CardWord, as_json: AsJson = False) -> None:
    """What a card says, as it was read."""
    from workbench.reading import card_to_dict, read_card

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
    from workbench.audit import audit as examine
    from workbench.reading import read_card

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


SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


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
    from workbench.recipe import difference, recipe_yaml, save_recipe
    from workbench.recipe import recipe as understand

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


def find_card(word: str) -> Card | None:
    """The card named by `word`; None where the word names a recipe."""
    from workbench.reading import read_card

    return None if Path(word).suffix in {".yaml", ".yml"} else read_card(word)


def find_recipe(
    word: str, card: Card | None, *, corrected: bool = False, settings: Sequence[str] | None = None
) -> Recipe:
    """The recipe of `card`, or without one that in the YAML file `word`, with the settings applied."""
    from workbench.recipe import load_recipe, parse_setting, with_overrides
    from workbench.recipe import recipe as understand

    overrides = dict(parse_setting(setting) for setting in settings or ())
    if card is None:
        return with_overrides(load_recipe(Path(word)), overrides)
    return understand(card, corrected=corrected, overrides=overrides)


@app.command()
def train(
    source: Annotated[str | None, typer.Argument(metavar="CARD|RECIPE")] = None,
    corrected: Corrected = False,
    base: BaseWord = None,
    data: DataWord = None,
    columns: ColumnsWord = None,
    settings: Settings = None,
    max_steps: MaxSteps = None,
    resume: Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a card's recipe (or a recipe file) into a run folder."""
    if resume is not None:
        run = resumed(resume, runs, as_json)
    elif source is None:
        raise RunError("expected a card, a recipe file or --resume RUN, found none of them.")
    else:
        card = find_card(source)
        made = find_recipe(source, card, corrected=corrected, settings=settings)
        run = trained(made, card, base, data, columns, max_steps, runs, as_json)
    if as_json:
        print_json({"run": str(run.path), "status": run.status})
    else:
        print_metrics(run)
        say(Text(plain(f"\n{run.status}: {run.path}")))


def resumed(name: str, runs: Path, as_json: bool) -> Run:
    """Go on with a run."""
    from workbench.run import open_run
    from workbench.train import train as fit

    run = open_run(name, runs)
    with progress_bars(quiet=as_json) as on_progress:
        return fit(run.recipe(), resume=run.path, on_progress=on_progress)


def trained(
    made: Recipe,
    card: Card | None,
    base: str | None,
    data: str | None,
    columns: str | None,
    max_steps: int | None,
    runs: Path,
    as_json: bool,
) -> Run:
    """Train a recipe as the words of `train` and `reproduce` say."""
    from workbench.train import train as fit

    renamed = parse_columns(columns)
    command = ["workbench", *sys.argv[1:]]
    with progress_bars(quiet=as_json) as on_progress:
        return fit(
            made,
            card=card,
            runs=runs,
            base=base,
            data=data,
            columns=renamed,
            max_steps=max_steps,
            command=command,
            on_progress=on_progress,
        )


def parse_columns(text: str | None) -> dict[str, str] | None:
    """`theirs=ours,…` as a mapping.

    >>> parse_columns("user_query=anchor, answer=positive")
    {'user_query': 'anchor', 'answer': 'positive'}
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not theirs.strip() or not ours.strip() for theirs, _, ours in pairs):
        raise RunError(f"expected --columns theirs=ours,theirs=ours, found {text!r}.")
    return {theirs.strip(): ours.strip() for theirs, _, ours in pairs}


def print_metrics(run: Run) -> None:
    """The run's metrics before and after, for each of its evaluations."""
    for name, moments in run.evaluations().items():
        before = run.metrics(name, "before") if "before" in moments else {}
        after = run.metrics(name, "after") if "after" in moments else {}
        metrics = list(before) or list(after)
        table(("metric", "before", "after"), [(m, before.get(m), after.get(m)) for m in metrics], title=f"\n{name}")


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, bundled:minilm, a folder, a Hub id.")],
    on: Annotated[str | None, typer.Option("--on", help="A BEIR folder, sample:NAME, or a file of pairs.")] = None,
    columns: ColumnsWord = None,
    truncate_dim: Annotated[int | None, typer.Option("--truncate-dim", min=1)] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or a model query by query on a collection."""
    from workbench.reproduce import evaluate as measure

    with progress_bars(quiet=as_json) as on_progress:
        found = measure(
            target, on, columns=parse_columns(columns), truncate_dim=truncate_dim, runs=runs, on_progress=on_progress
        )
    if as_json:
        print_json({"model": target, "on": found.collection.name, "metrics": found.metrics})
        return
    size = f"{len(found.collection.queries):,} queries, {len(found.collection.corpus):,} documents"
    table(("metric", "value"), found.metrics.items(), title=plain(f"{target} on {found.collection.name} ({size})"))


@app.command()
def compare(
    runs_named: Annotated[list[str], typer.Argument(metavar="RUN…")],
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="test, validation, …; test without it.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """A run with its card, or a run with another run: numbers, intervals, verdict."""
    from workbench.compare import compare as weigh
    from workbench.run import open_run

    found = weigh(*(open_run(name, runs) for name in runs_named), evaluation=evaluation)
    if as_json:
        print_json(found.to_dict())
    else:
        print_comparison(found)
    if strict and found.verdict == "differs":
        raise typer.Exit(1)


def print_comparison(found: Comparison) -> None:
    """The verdict table."""
    say(Text(plain(repr(found))))


@app.command()
def report(
    runs_named: Annotated[list[str], typer.Argument(metavar="RUN")],
    to: Annotated[Path | None, typer.Option("--out", help="The HTML file; RUN/report.html without it.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write one self-contained HTML file about a run."""
    from workbench.report import report as write
    from workbench.run import open_run

    if len(runs_named) != 1:
        raise RunError(f"expected one run, found {len(runs_named)}; write one report for each.")
    run = open_run(runs_named[0], runs)
    say(plain(write(run, to)))


@app.command()
def reproduce(
    card: CardWord,
    corrected: Corrected = False,
    base: BaseWord = None,
    data: DataWord = None,
    columns: ColumnsWord = None,
    settings: Settings = None,
    max_steps: MaxSteps = None,
    runs: Runs = Path("runs"),
    to: Annotated[Path | None, typer.Option("--out", help="The HTML report; RUN/report.html without it.")] = None,
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """All of it: read, audit, train, evaluate, compare, report."""
    from workbench.audit import audit as examine
    from workbench.reproduce import finish

    read = find_card(card)
    if not as_json and read is not None:
        found = examine(read)
        severities: list[str] = [finding.severity for finding in found.findings]
        counts = ", ".join(f"{severities.count(s)} {s}s" for s in SEVERITY_STYLES)
        say(Text(plain(f"{read.name}: {counts} (`workbench audit {card}` shows them)")))
    made = find_recipe(card, read, corrected=corrected, settings=settings)
    run = trained(made, read, base, data, columns, max_steps, runs, as_json)
    comparison, page = finish(run, to)
    if as_json:
        print_json({"run": str(run.path), "status": run.status, "report": str(page), **comparison.to_dict()})
    else:
        print_comparison(comparison)
        say(Text(plain(f"\nrun     {run.path}\nreport  {page}\nlook at it:  workbench dashboard {runs}")))
    if strict and comparison.verdict == "differs":
        raise typer.Exit(1)


@app.command(name="runs")
def list_all(runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """The runs there are, newest first."""
    from workbench.run import list_runs

    rows = [summary(run) for run in list_runs(runs)]
    if as_json:
        print_json(rows)
    elif not rows:
        say(plain(f"no runs in {str(runs)!r}; `workbench reproduce porsche-mxbai --base bundled:minilm` makes one."))
    else:
        table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def summary(run: Run) -> dict[str, Any]:
    """One row of the list of runs; a broken run says so and nothing else."""
    blank = {"run": run.name, "status": run.status, "card": None, "variant": None, "step": None, "verdict": None}
    try:
        record = run.record
        found = run.comparison()
    except WorkbenchError:
        return blank
    progress = record.get("progress") or {}
    return {
        **blank,
        "card": record.get("card"),
        "variant": record.get("variant"),
        "step": f"{progress.get('step', 0)}/{progress.get('steps', '?')}",
        "verdict": (found or {}).get("verdict"),
    }


@app.command()
def doctor(as_json: AsJson = False, runs: Runs = Path("runs")) -> None:
    """What this machine has, what is missing, and the command that gets it."""
    from workbench.doctor import examine

    with progress_bars(quiet=as_json, first="look at this machine"):
        rows = examine(runs)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    marks = {
        "ok": Text("ok", style="green"),
        "missing": Text("missing", style="red"),
        "note": Text("note", style="cyan"),
    }
    table(("", "what", "found", "what to do"), [(marks[row.state], row.what, row.found, row.advice) for row in rows])
    if any(row.state == "missing" for row in rows):
        raise typer.Exit(1)


@app.command()
def dashboard(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS_FOLDER]", help="Folder that holds the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8501,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Open the Streamlit app on 127.0.0.1."""
    from workbench.shipped import shipped

    page = shipped("dashboard/app.py")
    words = [sys.executable, "-m", "streamlit", "run", str(page), "--server.address", "127.0.0.1"]
    words += ["--server.port", str(port), "--server.headless", str(not browser).lower()]
    words += ["--browser.gatherUsageStats", "false", "--", str(runs)]
    err.print(plain(f"dashboard of {runs} on http://127.0.0.1:{port} (Ctrl-C ends it)"))
    os.execv(sys.executable, words)


@app.command()
def lab(
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8888,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Open JupyterLab on the notebooks."""
    from workbench.shipped import shipped

    folder = shipped("notebooks")
    words = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", "--ip=127.0.0.1", f"--port={port}"]
    words += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += [] if browser else ["--no-browser"]
    words += ["--allow-root"] if os.geteuid() == 0 else []  # a container's only user; it listens on this machine alone
    os.execv(sys.executable, words)


if __name__ == "__main__":
    main()
