"""The command that verifies published weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from workbench.cli import options
from workbench.cli.terminal import print_json, progress_bars, say


def verify(
    model: Annotated[str, Argument(metavar="MODEL", help="A Hub id, a folder, bundled:minilm, or a run.")],
    card: Annotated[str | None, Option("--card", help="The card; default: the one beside the weights.")] = None,
    on: Annotated[
        list[str] | None,
        Option("--on", "--evaluation-set", metavar="[NAME=]PATH", help="Its evaluation examples; repeat for several."),
    ] = None,
    columns: options.Columns = None,
    metric: Annotated[str | None, Option("--metric", help="Judge only this one, such as cosine_ndcg@10.")] = None,
    base: options.BaseName = None,
    no_base: Annotated[bool, Option("--no-base", help="Do not measure the base for comparison.")] = False,
    revision: options.Revision = None,
    runs: options.Runs = Path("runs"),
    to: Annotated[Path | None, Option("--out", help="The HTML report; default: RUN/report.html.")] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    strict: options.Strict = False,
    require: options.Require = None,
) -> None:
    """Measure published weights against their card, without training.

    Public sets that the card names (NanoBEIR, Hub datasets) are found; --on gives others.
    """
    options.check_required(require)
    from workbench.pipeline import finish
    from workbench.training.verify import verify as measure

    with progress_bars(quiet=quiet or as_json, first="read the card and load the model") as on_progress:
        run = measure(
            model,
            card,
            on=on,
            columns=options.parse_columns(columns),
            metric=metric,
            base=base,
            with_base=not no_base,
            revision=revision,
            runs=runs,
            command=["workbench", *sys.argv[1:]],
            progress=False,
            on_progress=on_progress,
        )
    comparison, page = finish(run, to)
    if as_json:
        print_json({"run": str(run.path), "report": str(page), "status": run.status, **comparison.to_dict()})
    else:
        say(f"{comparison!r}\n\nrun     {run.path}\nreport  {page}\nto see it:  workbench dashboard {runs}")
    raise Exit(options.exit_code(comparison.verdict, require, strict))
