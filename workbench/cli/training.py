"""Commands that train: a recipe, all of a card, a run that goes on or is to stop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from workbench.cli.cards import SEVERITY_STYLES
from workbench.cli.options import (
    AsJson,
    BaseWord,
    CardWord,
    ColumnsWord,
    Corrected,
    DataWord,
    MaxSteps,
    Processes,
    Runs,
    Settings,
    Strict,
    app,
    find_card,
    find_recipe,
    parse_columns,
)
from workbench.cli.results import print_comparison, print_metrics
from workbench.cli.terminal import plain, print_json, progress_bars, say, table
from workbench.errors import RunError
from workbench.training.processes import is_first, launch

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe
    from workbench.run import Run


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
    processes: Processes = 1,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train a card's recipe (or a recipe file) into a run folder."""
    launch(sys.argv[1:], processes)
    if resume is not None:
        run = resumed(resume, runs, as_json)
    elif source is None:
        raise RunError("expected a card, a recipe file or --resume RUN, found none of them.")
    else:
        card = find_card(source)
        made = find_recipe(source, card, corrected=corrected, settings=settings)
        run = trained(made, options(card, base, data, columns, max_steps, runs, as_json), quiet=as_json)
    if not is_first():
        return
    if as_json:
        print_json({"run": str(run.path), "status": run.status})
    else:
        print_metrics(run)
        say(Text(plain(f"\n{run.status}: {run.path}")))


def resumed(name: str, runs: Path, as_json: bool) -> Run:
    """Go on with a run."""
    from workbench.run import open_run
    from workbench.training.train import train as fit

    run = open_run(name, runs)
    with progress_bars(quiet=as_json or not is_first()) as on_progress:
        return fit(run.recipe(), resume=run.path, on_progress=on_progress)


def options(
    card: Card | None, base: str | None, data: str | None, columns: str | None, max_steps: int | None, runs: Path,
    as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """The arguments of `train` beside the recipe, as the words of a command say them."""
    return {
        "card": card,
        "runs": runs,
        "base": base,
        "data": data,
        "columns": parse_columns(columns),
        "max_steps": max_steps,
        "command": ["workbench", *sys.argv[1:]],
        "on_run": None if as_json else print_checks,
    }


def trained(made: Recipe, arguments: Mapping[str, Any], *, quiet: bool) -> Run:
    """Train a recipe, with bars that show how far it is unless `quiet`."""
    from workbench.training.train import train as fit

    with progress_bars(quiet=quiet or not is_first()) as on_progress:
        return fit(made, on_progress=on_progress, **arguments)


@app.command()
def reproduce(
    card: CardWord,
    corrected: Corrected = False,
    base: BaseWord = None,
    data: DataWord = None,
    columns: ColumnsWord = None,
    settings: Settings = None,
    max_steps: MaxSteps = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Train so often, each time with another seed.")] = 1,
    processes: Processes = 1,
    runs: Runs = Path("runs"),
    to: Annotated[Path | None, typer.Option("--out", help="The HTML report; RUN/report.html without it.")] = None,
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """All of it: read, audit, train, evaluate, compare, report."""
    from workbench.audit.rules import audit as examine
    from workbench.pipeline import finish

    launch(sys.argv[1:], processes)
    read = find_card(card)
    if not as_json and read is not None and is_first():
        found = examine(read)
        severities: list[str] = [finding.severity for finding in found.findings]
        counts = ", ".join(f"{severities.count(s)} {s}s" for s in SEVERITY_STYLES)
        say(Text(plain(f"{read.name}: {counts} (`workbench audit {card}` shows them)")))
    made = find_recipe(card, read, corrected=corrected, settings=settings)
    arguments = options(read, base, data, columns, max_steps, runs, as_json)
    if seeds > 1:
        repeated(made, seeds, arguments, as_json)
        return
    run = trained(made, arguments, quiet=as_json)
    if not is_first():
        return
    comparison, page = finish(run, to)
    if as_json:
        print_json({"run": str(run.path), "status": run.status, "report": str(page), **comparison.to_dict()})
    else:
        print_comparison(comparison)
        say(Text(plain(f"\nrun     {run.path}\nreport  {page}\nlook at it:  workbench dashboard {runs}")))
    if strict and comparison.verdict == "differs":
        raise typer.Exit(1)


def print_checks(run: Run) -> None:
    """What was found out about the rows before training, and what was done otherwise than the recipe says."""
    record = run.record
    found = [(check["severity"], check["message"]) for check in record.get("checks") or []]
    stands = [("stand-in", record[part]["note"]) for part in ("base", "data") if record.get(part, {}).get("stand_in")]
    notes = [("note", note) for note in record.get("notes") or []]
    if found or stands or notes:
        table(("checked", "found before training"), [*stands, *found, *notes])
        say("")


@app.command()
def stop(name: Annotated[str, typer.Argument(metavar="RUN")], runs: Runs = Path("runs")) -> None:
    """Ask a run that is being trained to end at its next step, with a checkpoint; `train --resume` goes on."""
    from workbench.run import open_run

    run = open_run(name, runs)
    run.stop()
    processes = run.record.get("processes") or 1
    again = f" --processes {processes}" if processes > 1 else ""
    say(plain(f"asked {run.name} to stop; workbench train --resume {run.name} --runs {runs}{again} goes on"))


def repeated(made: Recipe, seeds: int, arguments: Mapping[str, Any], as_json: bool) -> None:
    """Train a recipe with several seeds and say how far they are apart."""
    from workbench.pipeline import finish
    from workbench.training.seeds import compare_seeds, repeat

    with progress_bars(quiet=as_json or not is_first()) as on_progress:
        done = repeat(made, seeds, on_progress=on_progress, **arguments)
    if not is_first():
        return
    pages = [finish(run, None)[1] for run in done]
    found = compare_seeds(done, card=arguments["card"])
    if as_json:
        print_json({"runs": [str(run.path) for run in done], **found.to_dict()})
        return
    say(plain(repr(found)))
    say(plain("\nreports:\n" + "\n".join(map(str, pages))))
