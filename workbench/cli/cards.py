"""Commands on a card: what it says, how to train it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Context, Option

from workbench.cli.options import AsJson, CardName, Corrected, Revision, Settings, find_recipe, refuse
from workbench.cli.terminal import note, print_json, printable, say, table


def show(card: CardName, revision: Revision = None, as_json: AsJson = False) -> None:
    """Show what a card says."""
    from workbench.cards.read import card_to_dict, read_card

    found = read_card(card, revision=revision)
    if as_json:
        print_json(card_to_dict(found), indent=2)
    else:
        say(repr(found))


def recipe(
    context: Context,
    card: CardName,
    corrected: Corrected = False,
    settings: Settings = None,
    to: Annotated[Path | None, Option("--out", help="Write the YAML to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a card's recipe, each field with its source."""
    from workbench.recipe.from_card import recipe as understand
    from workbench.recipe.schema import difference
    from workbench.recipe.yaml_io import recipe_yaml, save_recipe

    if to is not None:
        refuse(context, "--out FILE", "the file is YAML", "as_json")
    made, found = find_recipe(card, corrected=corrected, settings=settings)
    if to is not None:
        save_recipe(made, to)
        note(f"wrote {to}")
    elif as_json:
        print_json(made.model_dump(mode="json"), indent=2)
    else:
        print(printable(recipe_yaml(made)))
    if corrected and found is not None and not as_json:
        changes = difference(understand(found), made)
        rows = [(path, str(before), str(after)) for path, before, after in changes]
        table(("field", "as written", "corrected"), rows, title="What the corrections change")
