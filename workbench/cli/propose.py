"""The command that proposes corrections of a card to its author."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, confirm

from workbench.cli.options import Revision, Runs, refuse
from workbench.cli.terminal import note, printable, say
from workbench.errors import RunError, WorkbenchError

if TYPE_CHECKING:
    from workbench.report.proposal import Proposal
    from workbench.run import Run

File = Path | None


def propose(
    context: Context,
    name: Annotated[str, Argument(metavar="RUN|CARD", help="A run, README.md, its folder, a shipped name, a Hub id.")],
    to: Annotated[File, Option("--out", help="Write the diff to this file.")] = None,
    description: Annotated[File, Option("--description", help="Write the text of the discussion to this file.")] = None,
    model: Annotated[
        str | None, Option("--model", metavar="HUB_ID", help="The card's model on the Hub; default: CARD, if an id.")
    ] = None,
    discussion: Annotated[bool, Option("--discussion", help="Open it on the Hub; needs a token.")] = False,
    yes: Annotated[bool, Option("--yes", help="Open it without asking.")] = False,
    eval_results: Annotated[
        File, Option("--eval-results", help="Write the run's main metric for .eval_results/ to this file.")
    ] = None,
    dataset: Annotated[
        str | None, Option("--dataset", metavar="HUB_ID", help="The benchmark that it was measured on.")
    ] = None,
    task: Annotated[str, Option("--task", help="The benchmark's name of the task.")] = "default",
    revision: Revision = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write corrections of a card as a diff, for its author.

    Changes only what is certain: damaged characters, the model's name in the example, an adapter or prompts of files
    beside the card, numbers of a run that differ. Nothing is sent without --discussion, which opens a pull request, or
    a discussion where only the author can decide.
    """
    from workbench.cards.read import card_file, read_card
    from workbench.report.proposal import eval_results as results
    from workbench.report.proposal import propose as make

    run = _run(name, runs)
    if run is not None:
        refuse(context, "a run", "its card is in its folder", "revision")
    if not discussion:
        refuse(context, "a proposal", "without --discussion nothing is opened", "yes")
    if eval_results is None:
        refuse(context, "a proposal", "they belong to --eval-results FILE", "dataset", "task")
    if eval_results is not None:
        if run is None:
            raise RunError(f"expected a run for --eval-results, found the card {name!r}; name a run.")
        _write(eval_results, results(run, dataset, task).encode())
    file = None if run is not None or revision is not None else card_file(name)
    if run is None and file is None:
        model = model or name
    card = read_card(name, revision=revision) if run is None else run.card()
    if card is None:
        raise RunError(f"expected a run of a card, found {name!r} trained from a recipe; name a card.")
    made = make(card, None if file is None else file.read_bytes(), model=model, run=run)
    if run is not None and not made.measured:
        note("the run's numbers are not proposed: it is corrected, on a stand-in, or not comparable with the card")
    if description is not None:
        _write(description, made.description().encode())
    _show(made, to)
    if discussion:
        _send(made, model, yes)


def _show(made: Proposal, to: Path | None) -> None:
    """Print or write the diff; on standard error, what it changes and what it does not."""
    for change in made.changes:
        note(f"{change.code}: {change.reason}")
    codes = ", ".join(dict.fromkeys(found.code for found in made.findings))
    note(f"left to the author: {codes}" if codes else "no findings are left to the author")
    if not made.changes:
        note(f"nothing to change in the text of {made.card}")
    elif to is not None:
        _write(to, made.diff)
    elif sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        print(printable(made.diff.decode("utf-8", errors="replace")), end="")
    else:
        sys.stdout.buffer.write(made.diff)
        sys.stdout.flush()


def _run(name: str, runs: Path) -> Run | None:
    """The run that `name` means: a folder of one, or a name that neither a file nor a shipped card has."""
    from workbench.cards.read import card_file
    from workbench.run import Run, list_runs, open_run

    if Run(Path(name)).file("record").is_file():
        return open_run(name)
    known = name == "latest" or any(run.name.startswith(name) for run in list_runs(runs))
    return open_run(name, runs) if known and card_file(name) is None and "/" not in name else None


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    note(f"wrote {path}")


def _send(made: Proposal, model: str | None, yes: bool) -> None:
    from workbench.report.proposal import current_commit, open_proposal

    if model is None:
        raise WorkbenchError("expected the card's model on the Hub, found no id; name it with --model OWNER/NAME.")
    if not made:
        note("nothing to propose, so nothing was opened")
        return
    if not yes and not sys.stdin.isatty():
        raise WorkbenchError("expected a terminal to ask on before --discussion opens anything, found none; add --yes.")
    commit = current_commit(made, model)
    kind = "pull request" if made.changes else "discussion"
    if not yes:
        note(f"\n{made.title}\n\n{made.description()}")
        if not confirm(f"Open this {kind} in {model}, for everyone to read?", err=True):
            note("nothing was opened")
            raise Exit(1)
    say(open_proposal(made, model, commit))
