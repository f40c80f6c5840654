"""The entry point of the command, and its commands in the order of `workbench --help`."""

from __future__ import annotations

import sys

import typer

from workbench.cli import cards, doctor, launch, results, training
from workbench.cli.terminal import printable
from workbench.errors import WorkbenchError
from workbench.training.processes import is_first, let_first_fail

app = typer.Typer(
    name="workbench",
    help="A model card goes in; a verdict that you can trust comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    cards.show, cards.audit, cards.recipe, training.reproduce, training.train, training.stop, results.runs,
    results.evaluate, results.compare, results.slices, results.map, results.report, results.export, launch.dashboard,
    launch.lab, doctor.doctor,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Run the command; an error of the package or the system becomes one sentence and exit code 2."""
    try:
        app()
    except WorkbenchError as error:
        fail(str(error))
    except OSError as error:
        path = f" {error.filename!r}" if error.filename else ""
        fail(f"the system refused{path}: {error.strerror or error}.")
    except KeyboardInterrupt:
        fail("interrupted.", code=130)


def fail(message: str, code: int = 2) -> None:
    """Print one sentence to standard error, in the first process only, and exit."""
    if is_first():
        print(f"workbench: {printable(message)}", file=sys.stderr)
    elif code != 130:
        let_first_fail()
    sys.exit(code)
