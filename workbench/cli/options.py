"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from workbench.errors import DataError, RecipeError

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

CardName = Annotated[str, Argument(metavar="CARD", help="README.md, its folder, a shipped name, or a Hub id.")]
RunName = Annotated[str, Argument(metavar="RUN", help="A name from `workbench runs`, or a run folder.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Runs = Annotated[Path, Option("--runs", help="Folder of runs.")]
BaseName = Annotated[str | None, Option("--base", help="auto, bundled:minilm, a folder, or a Hub id.")]
DataName = Annotated[str | None, Option("--data", help="A file or folder, sample:NAME, or a Hub id.")]
Columns = Annotated[str | None, Option("--columns", help="theirs=ours,… (example: user_query=anchor,answer=positive).")]
Settings = Annotated[list[str] | None, Option("--set", help="field=value; repeat for several fields.")]
MaxSteps = Annotated[int | None, Option("--max-steps", min=1, help="Stop training after this many steps.")]
Processes = Annotated[int, Option("--processes", min=1, help="Number of processes on this machine, one per GPU.")]
Corrected = Annotated[bool, Option("--corrected", help="Apply the fixes that the audit proposes.")]
Strict = Annotated[bool, Option("--strict", help="Exit with 1 if a check fails.")]
EvaluationName = Annotated[str, Option("--evaluation", help="Evaluation of the run: test, validation, …")]


def find_card(name: str) -> Card | None:
    """Read the card `name`; None if `name` is a recipe file."""
    from workbench.cards.read import read_card

    return None if Path(name).suffix in {".yaml", ".yml"} else read_card(name)


def find_recipe(
    name: str, card: Card | None, *, corrected: bool = False, settings: Sequence[str] | None = None
) -> Recipe:
    """The recipe of `card`, or of the YAML file `name` if there is no card, with the settings applied."""
    from workbench.recipe.from_card import recipe
    from workbench.recipe.overrides import parse_setting, with_overrides
    from workbench.recipe.yaml_io import load_recipe

    overrides = dict(parse_setting(setting) for setting in settings or ())
    if card is not None:
        return recipe(card, corrected=corrected, overrides=overrides)
    if corrected:
        raise RecipeError(
            f"expected a card with --corrected, found the recipe file {name!r}, whose values are already decided; "
            "omit --corrected, or name the card."
        )
    return with_overrides(load_recipe(Path(name)), overrides)


def parse_columns(text: str | None) -> dict[str, str] | None:
    """`theirs=ours,…` as a mapping.

    >>> parse_columns("user_query=anchor, answer=positive")
    {'user_query': 'anchor', 'answer': 'positive'}
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not theirs.strip() or not ours.strip() for theirs, _, ours in pairs):
        raise DataError(f"expected --columns theirs=ours,theirs=ours, found {text!r}.")
    return {theirs.strip(): ours.strip() for theirs, _, ours in pairs}
