"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from workbench.errors import DataError, RunError

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe
    from workbench.run import Run

CardName = Annotated[
    str, Argument(metavar="CARD", help="README.md, its folder, a shipped name, a Hub id, or the folder of a run.")
]
RunName = Annotated[str, Argument(metavar="RUN", help="A run: its name, the beginning of it, latest, or a folder.")]
Revision = Annotated[str | None, Option("--revision", help="Branch, tag or commit of a card by its Hub id.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Runs = Annotated[Path, Option("--runs", help="Folder of runs.")]
BaseName = Annotated[
    str | None, Option("--base", help="auto, bundled:minilm, bundled:multilingual, a folder, or a Hub id.")
]
DataName = Annotated[
    list[str] | None,
    Option(
        "--data", metavar="[NAME=]ROWS", help="A file or folder, sample:NAME, or a Hub id; repeat for several datasets."
    ),
]
Columns = Annotated[
    list[str] | None,
    Option("--columns", metavar="FILE_COLUMN=NAME,…", help="Example: user_query=anchor,answer=positive; adds up."),
]
Settings = Annotated[
    list[str] | None, Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; repeat for several.")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Show no progress.")]
MaxSteps = Annotated[int | None, Option("--max-steps", min=1, help="Stop training after this many steps.")]
Processes = Annotated[int, Option("--processes", min=1, help="Number of processes on this machine, one per GPU.")]
Corrected = Annotated[bool, Option("--corrected", help="Apply the fixes that the audit proposes.")]
Strict = Annotated[bool, Option("--strict", help="Exit with 1 for an audit error or the verdict differs.")]
Require = Annotated[
    str | None, Option("--require", metavar="VERDICT", help="Exit with 1 for any other verdict; example: reproduced.")
]
NoStandIns = Annotated[bool, Option("--no-stand-ins", help="Refuse to train on a stand-in for base or rows.")]
EvaluationSets = Annotated[
    list[str] | None,
    Option("--evaluation-set", metavar="[NAME=]PATH", help="The card's evaluation examples; repeat for several."),
]
BaseIsTheCards = Annotated[bool, Option("--base-is-the-cards", help="The folder of --base is the card's own base.")]
SplitSeed = Annotated[int | None, Option("--split-seed", help="The seed by which the card's rows were divided.")]
SplitFile = Annotated[str | None, Option("--split-file", help="JSON: the numbers of the rows of each part, from 0.")]
RowsInOrder = Annotated[bool, Option("--rows-in-order", help="The rows of --data are in the card's order.")]
Margin = Annotated[float | None, Option("--margin", help="Differences up to this count as none (0.02; 0.01: STS).")]
EvaluationName = Annotated[str | None, Option("--evaluation", help="test, validation, …; default: the compared one.")]


def find_recipe(
    name: str, *, corrected: bool = False, settings: Sequence[str] | None = None
) -> tuple[Recipe, Card | None]:
    """The recipe of a card, a run or a YAML file, with the settings applied, and its card where there is one."""
    from workbench.recipe.overrides import parse_setting
    from workbench.training.source import open_recipe

    return open_recipe(name, corrected=corrected, overrides=dict(parse_setting(each) for each in settings or ()))


def find_evaluation(run: Run, wanted: str | None) -> str:
    """The run's evaluation `wanted`, else the one that is compared with the card."""
    from workbench.evaluation.card_evaluation import evaluation_name

    found = evaluation_name(run, run.recipe(), wanted)
    if found is None:
        raise RunError(f"expected an evaluation after training in run {run.name!r}, found none; finish its training.")
    return found


def exit_code(verdict: str, required: str | None, strict: bool) -> int:
    """1 for a verdict that the user does not accept, else 0; `reproduced exactly` is `reproduced`, too.

    >>> exit_code("reproduced exactly", "reproduced", False), exit_code("not comparable", "reproduced", False)
    (0, 1)
    """
    if required is None:
        return int(strict and verdict == "differs")
    return int(verdict != required and not (required == "reproduced" and verdict == "reproduced exactly"))


def check_required(required: str | None) -> None:
    """Raises RunError for a word that is no verdict."""
    from typing import get_args

    from workbench.evaluation.verdict import Verdict

    words = get_args(Verdict)
    if required is not None and required not in words:
        raise RunError(f"expected a verdict with --require ({', '.join(words)}), found {required!r}.")


def parse_columns(texts: Sequence[str] | None) -> dict[str, str] | None:
    """`FILE_COLUMN=NAME,…` as a mapping (theirs -> ours), of all options together.

    >>> parse_columns(["user_query=anchor", "answer=positive"])
    {'user_query': 'anchor', 'answer': 'positive'}
    """
    if not texts:
        return None
    pairs = [part.partition("=") for part in ",".join(texts).split(",")]
    if any(not theirs.strip() or not ours.strip() for theirs, _, ours in pairs):
        raise DataError(f"expected --columns FILE_COLUMN=NAME,FILE_COLUMN=NAME, found {','.join(texts)!r}.")
    return {theirs.strip(): ours.strip() for theirs, _, ours in pairs}


def refuse(context: Context, beside: str, why: str, *names: str, but: Sequence[str] = ()) -> None:
    """Refuse parameters of the command that would be ignored beside others: those named, or all `but` some.

    Raises RunError with those that were given.
    """
    given = []
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        if (each.name in names if names else each.name not in but) and getattr(source, "name", "") == "COMMANDLINE":
            given.append(each.opts[0] if each.opts[0].startswith("-") else str(each.metavar))
    if given:
        raise RunError(f"expected {beside} without {', '.join(given)}, found both; {why}.")
