"""The entry point of the command, and its commands in the order of `workbench --help`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from workbench.cli import audit, cards, doctor, launch, propose, results, training, verify
from workbench.cli.terminal import printable
from workbench.errors import WorkbenchError, enough_memory, install_line
from workbench.training.processes import is_first, let_first_fail

app = typer.Typer(
    name="workbench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    cards.show, audit.audit, audit.explain, verify.verify, cards.recipe, training.reproduce, training.train,
    training.stop,
    results.runs, results.evaluate, results.compare, results.slices, results.map, results.report, results.export,
    propose.propose, launch.dashboard, launch.lab, doctor.doctor,
):  # fmt: skip
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"workbench {version('card-workbench')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A model card goes in; a verdict that you can trust comes out."""


def main() -> None:
    """Run the command; an error of the package or the system becomes one sentence and exit code 2."""
    try:
        with enough_memory("this command"):
            app()
    except WorkbenchError as error:
        fail(str(error))
    except ModuleNotFoundError as error:
        if (missing := install_line(error.name)) is None:
            raise
        fail(f"{missing}.")
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
