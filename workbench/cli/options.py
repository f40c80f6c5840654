"""The words that several commands take, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.errors import DataError, RecipeError

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

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
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="Train in so many processes on this machine, one for each GPU.")
]
Corrected = Annotated[bool, typer.Option("--corrected", help="With the fixes that the audit proposes.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when the answer is bad news.")]


def find_card(word: str) -> Card | None:
    """The card named by `word`; None where the word names a recipe."""
    from workbench.cards.read import read_card

    return None if Path(word).suffix in {".yaml", ".yml"} else read_card(word)


def find_recipe(
    word: str, card: Card | None, *, corrected: bool = False, settings: Sequence[str] | None = None
) -> Recipe:
    """The recipe of `card`, or without one that in the YAML file `word`, with the settings applied."""
    from workbench.recipe.schema import load_recipe, parse_setting, with_overrides
    from workbench.recipe.schema import recipe as understand

    overrides = dict(parse_setting(setting) for setting in settings or ())
    if card is None:
        if corrected:
            raise RecipeError(
                f"expected a card with --corrected, found the recipe file {word!r}, whose values are already decided; "
                "leave --corrected out, or name the card."
            )
        return with_overrides(load_recipe(Path(word)), overrides)
    return understand(card, corrected=corrected, overrides=overrides)


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
