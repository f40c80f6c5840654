"""Commands that train: a recipe, the whole pipeline, stop and resume."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option

from workbench.cli import options
from workbench.cli.audit import severity_counts
from workbench.cli.results import print_metrics
from workbench.cli.terminal import print_json, progress_bars, say, table
from workbench.errors import RunError
from workbench.training.processes import is_first, launch

if TYPE_CHECKING:
    from workbench.recipe.schema import Recipe
    from workbench.run import Run
    from workbench.training.given import Statements


def train(
    context: Context,
    source: Annotated[str | None, Argument(metavar="CARD|RECIPE", help="A card, or a recipe file (.yaml).")] = None,
    corrected: options.Corrected = False,
    base: options.BaseName = None,
    data: options.DataName = None,
    columns: options.Columns = None,
    evaluation_set: options.EvaluationSets = None,
    base_is_the_cards: options.BaseIsTheCards = False,
    split_seed: options.SplitSeed = None,
    split_file: options.SplitFile = None,
    rows_in_order: options.RowsInOrder = False,
    margin: options.Margin = None,
    settings: options.Settings = None,
    max_steps: options.MaxSteps = None,
    resume: Annotated[str | None, Option("--resume", metavar="RUN", help="Resume this run.")] = None,
    processes: options.Processes = 1,
    runs: options.Runs = Path("runs"),
    no_stand_ins: options.NoStandIns = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the recipe of a card, or a recipe file."""
    from workbench.run import open_run
    from workbench.training.train import train as fit

    launch(sys.argv[1:], processes)
    arguments: dict[str, Any]
    if resume is not None:
        stopped = open_run(resume, runs)
        why = "a run has its own recipe, base and rows"
        options.refuse(context, "--resume RUN", why, but=("resume", "processes", "runs", "quiet", "as_json"))
        if stopped.status == "finished":
            say(f"{stopped.name} has finished already; there is nothing to resume.")
        made, arguments = stopped.recipe(), {"resume": stopped.path}
    elif source is None:
        raise RunError("expected a card, a recipe file or --resume RUN, found none of them.")
    else:
        made, card = options.find_recipe(source, corrected=corrected, settings=settings)
        arguments = {"card": card, **_arguments(base, data, columns, max_steps, runs, no_stand_ins, as_json)}
        arguments |= _statements(evaluation_set, base_is_the_cards, split_seed, split_file, rows_in_order, margin)
    with progress_bars(quiet=quiet or as_json or not is_first()) as on_progress:
        run = fit(made, progress=False, on_progress=on_progress, **arguments)
    if not is_first():
        return
    if as_json:
        print_json({"run": str(run.path), "status": run.status})
    else:
        print_metrics(run)
        say(f"\n{run.status}: {run.path}")


def _arguments(
    base: str | None,
    data: list[str] | None,
    columns: list[str] | None,
    max_steps: int | None,
    runs: Path,
    no_stand_ins: bool,
    as_json: bool,
) -> dict[str, Any]:
    """The command's options as arguments of `train`."""
    return {
        "runs": runs,
        "base": base,
        "data": data,
        "columns": options.parse_columns(columns),
        "max_steps": max_steps,
        "stand_ins": not no_stand_ins,
        "command": ["workbench", *sys.argv[1:]],
        "on_run": None if as_json else _print_checks,
    }


def _statements(
    evaluation_set: list[str] | None,
    base_is_the_cards: bool,
    split_seed: int | None,
    split_file: str | None,
    rows_in_order: bool,
    margin: float | None,
) -> Statements:
    """What the user states about the card, as arguments of `train`."""
    return {
        "evaluation_set": evaluation_set,
        "base_is_the_cards": base_is_the_cards,
        "split_seed": split_seed,
        "split_file": split_file,
        "rows_in_order": rows_in_order,
        "margin": margin,
    }


def reproduce(
    card: options.CardName,
    corrected: options.Corrected = False,
    base: options.BaseName = None,
    data: options.DataName = None,
    columns: options.Columns = None,
    evaluation_set: options.EvaluationSets = None,
    base_is_the_cards: options.BaseIsTheCards = False,
    split_seed: options.SplitSeed = None,
    split_file: options.SplitFile = None,
    rows_in_order: options.RowsInOrder = False,
    margin: options.Margin = None,
    settings: options.Settings = None,
    max_steps: options.MaxSteps = None,
    seeds: Annotated[int, Option("--seeds", min=1, help="Train this many times, each with a different seed.")] = 1,
    processes: options.Processes = 1,
    runs: options.Runs = Path("runs"),
    to: Annotated[Path | None, Option("--out", help="The HTML report; default: RUN/report.html.")] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    strict: options.Strict = False,
    require: options.Require = None,
    no_stand_ins: options.NoStandIns = False,
) -> None:
    """Audit, train, evaluate, compare and report a card in one go."""
    options.check_required(require)
    from workbench.audit.rules import audit
    from workbench.pipeline import finish
    from workbench.training.train import train as fit

    launch(sys.argv[1:], processes)
    made, found = options.find_recipe(card, corrected=corrected, settings=settings)
    if not as_json and found is not None and is_first():
        say(f"{found.name}: {severity_counts(audit(found).counts())} (details: workbench audit {card})")
    arguments = {"card": found, **_arguments(base, data, columns, max_steps, runs, no_stand_ins, as_json)}
    arguments |= _statements(evaluation_set, base_is_the_cards, split_seed, split_file, rows_in_order, margin)
    if seeds > 1:
        runs_made = _repeat(made, seeds, arguments, quiet or as_json)
    else:
        with progress_bars(quiet=quiet or as_json or not is_first()) as on_progress:
            runs_made = [fit(made, progress=False, on_progress=on_progress, **arguments)]
    if not is_first():
        return
    run = runs_made[0]
    for other in runs_made[1:]:
        finish(other)
    comparison, page = finish(run, to)
    if as_json:
        paths = {"run": str(run.path), "runs": [str(each.path) for each in runs_made], "report": str(page)}
        print_json({**paths, "status": run.status, **comparison.to_dict()})
    else:
        say(f"{comparison!r}\n\nrun     {run.path}\nreport  {page}\nto see it:  workbench dashboard {runs}")
    raise Exit(options.exit_code(comparison.verdict, require, strict))


def _print_checks(run: Run) -> None:
    """Print what was found before training: stand-ins, checks of the rows, and departures from the recipe."""
    record = run.record
    rows = [("stand-in", record[part]["note"]) for part in ("base", "data") if record.get(part, {}).get("stand_in")]
    rows += [(check["severity"], check["message"]) for check in record.get("checks") or []]
    rows += [("stated", each["sentence"]) for each in record.get("statements") or []]
    rows += [("note", note) for note in record.get("notes") or []]
    if rows:
        table(("checked", "found before training"), rows)
        say("")


def _repeat(made: Recipe, seeds: int, arguments: dict[str, Any], quiet: bool) -> list[Run]:
    """Train a recipe with several seeds, unless the first training decides."""
    from workbench.evaluation.compare import is_decided
    from workbench.training.seeds import repeat

    with progress_bars(quiet=quiet or not is_first()) as on_progress:
        return repeat(made, seeds, enough=is_decided, on_progress=on_progress, **arguments)


def stop(name: options.RunName, runs: options.Runs = Path("runs")) -> None:
    """Stop a training at its next step, with a checkpoint."""
    from workbench.run import open_run

    run = open_run(name, runs)
    run.stop()
    processes = run.record.get("processes") or 1
    again = f" --processes {processes}" if processes > 1 else ""
    say(f"asked {run.name} to stop; resume it with: workbench train --resume {run.name} --runs {runs}{again}")
