"""Commands that train: a recipe, the whole pipeline, stop and resume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from workbench.cli import options
from workbench.cli.cards import severity_counts
from workbench.cli.results import print_metrics
from workbench.cli.terminal import print_json, progress_bars, say, table
from workbench.errors import RunError
from workbench.training.processes import is_first, launch

if TYPE_CHECKING:
    from workbench.recipe.schema import Recipe
    from workbench.run import Run


def train(
    source: Annotated[str | None, Argument(metavar="CARD|RECIPE", help="A card, or a recipe file (.yaml).")] = None,
    corrected: options.Corrected = False,
    base: options.BaseName = None,
    data: options.DataName = None,
    columns: options.Columns = None,
    settings: options.Settings = None,
    max_steps: options.MaxSteps = None,
    resume: Annotated[str | None, Option("--resume", metavar="RUN", help="Resume this run.")] = None,
    processes: options.Processes = 1,
    runs: options.Runs = Path("runs"),
    as_json: options.AsJson = False,
) -> None:
    """Train the recipe of a card, or a recipe file."""
    from workbench.run import open_run
    from workbench.training.train import train as fit

    launch(sys.argv[1:], processes)
    arguments: dict[str, Any]
    if resume is not None:
        stopped = open_run(resume, runs)
        made, arguments = stopped.recipe(), {"resume": stopped.path}
    elif source is None:
        raise RunError("expected a card, a recipe file or --resume RUN, found none of them.")
    else:
        card = options.find_card(source)
        made = options.find_recipe(source, card, corrected=corrected, settings=settings)
        arguments = {"card": card, **_arguments(base, data, columns, max_steps, runs, as_json)}
    with progress_bars(quiet=as_json or not is_first()) as on_progress:
        run = fit(made, on_progress=on_progress, **arguments)
    if not is_first():
        return
    if as_json:
        print_json({"run": str(run.path), "status": run.status})
    else:
        print_metrics(run)
        say(f"\n{run.status}: {run.path}")


def _arguments(
    base: str | None, data: str | None, columns: str | None, max_steps: int | None, runs: Path, as_json: bool
) -> dict[str, Any]:
    """The command's options as arguments of `train`."""
    return {
        "runs": runs,
        "base": base,
        "data": data,
        "columns": options.parse_columns(columns),
        "max_steps": max_steps,
        "command": ["workbench", *sys.argv[1:]],
        "on_run": None if as_json else _print_checks,
    }


def reproduce(
    card: options.CardName,
    corrected: options.Corrected = False,
    base: options.BaseName = None,
    data: options.DataName = None,
    columns: options.Columns = None,
    settings: options.Settings = None,
    max_steps: options.MaxSteps = None,
    seeds: Annotated[int, Option("--seeds", min=1, help="Train this many times, each with a different seed.")] = 1,
    processes: options.Processes = 1,
    runs: options.Runs = Path("runs"),
    to: Annotated[Path | None, Option("--out", help="The HTML report; default: RUN/report.html.")] = None,
    as_json: options.AsJson = False,
    strict: options.Strict = False,
) -> None:
    """Audit, train, evaluate, compare and report a card in one go."""
    from workbench.audit.rules import audit
    from workbench.pipeline import finish
    from workbench.training.train import train as fit

    launch(sys.argv[1:], processes)
    found = options.find_card(card)
    if not as_json and found is not None and is_first():
        say(f"{found.name}: {severity_counts(audit(found).counts())} (details: workbench audit {card})")
    made = options.find_recipe(card, found, corrected=corrected, settings=settings)
    arguments = {"card": found, **_arguments(base, data, columns, max_steps, runs, as_json)}
    if seeds > 1:
        _repeat(made, seeds, arguments, as_json)
        return
    with progress_bars(quiet=as_json or not is_first()) as on_progress:
        run = fit(made, on_progress=on_progress, **arguments)
    if not is_first():
        return
    comparison, page = finish(run, to)
    if as_json:
        print_json({"run": str(run.path), "status": run.status, "report": str(page), **comparison.to_dict()})
    else:
        say(f"{comparison!r}\n\nrun     {run.path}\nreport  {page}\nto see it:  workbench dashboard {runs}")
    if strict and comparison.verdict == "differs":
        raise Exit(1)


def _print_checks(run: Run) -> None:
    """Print what was found before training: stand-ins, checks of the rows, and departures from the recipe."""
    record = run.record
    rows = [("stand-in", record[part]["note"]) for part in ("base", "data") if record.get(part, {}).get("stand_in")]
    rows += [(check["severity"], check["message"]) for check in record.get("checks") or []]
    rows += [("note", note) for note in record.get("notes") or []]
    if rows:
        table(("checked", "found before training"), rows)
        say("")


def _repeat(made: Recipe, seeds: int, arguments: dict[str, Any], as_json: bool) -> None:
    """Train a recipe with several seeds and print the spread of its metrics."""
    from workbench.pipeline import finish
    from workbench.training.seeds import compare_seeds, repeat

    with progress_bars(quiet=as_json or not is_first()) as on_progress:
        done = repeat(made, seeds, on_progress=on_progress, **arguments)
    if not is_first():
        return
    pages = [finish(run)[1] for run in done]
    found = compare_seeds(done, card=arguments["card"])
    if as_json:
        print_json({"runs": [str(run.path) for run in done], **found.to_dict()})
    else:
        say("\n".join([repr(found), "\nreports:", *map(str, pages)]))


def stop(name: options.RunName, runs: options.Runs = Path("runs")) -> None:
    """Stop a training at its next step, with a checkpoint."""
    from workbench.run import open_run

    run = open_run(name, runs)
    run.stop()
    processes = run.record.get("processes") or 1
    again = f" --processes {processes}" if processes > 1 else ""
    say(f"asked {run.name} to stop; resume it with: workbench train --resume {run.name} --runs {runs}{again}")
