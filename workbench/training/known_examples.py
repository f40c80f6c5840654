"""Whether the examples of an evaluation are known to be those that the card measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.data.training_rows import printed_places
from workbench.evaluation.comparability import GIVE_EXAMPLES
from workbench.evaluation.tasks import NANO_SOURCE

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.data.pairs import Splits
    from workbench.evaluation.given_sets import GivenSet
    from workbench.recipe.schema import Recipe


def examples_of(
    recipe: Recipe,
    tasks: Iterable[str],
    sets: Sequence[GivenSet],
    splits: Splits | None,
    data_note: str,
    card: Card | None,
) -> dict[str, dict[str, Any]]:
    """Task -> whether its examples are known to be the card's, and why; `splits` is None where no rows were read."""
    given = {name: each for each in sets for name in each.tasks}
    found = {}
    for name in tasks:
        if name in given and given[name].known:
            same, why = True, given[name].known
        elif name in given:
            same, why = True, f"the user states it: --evaluation-set {given[name].value}"
        elif name.startswith("Nano"):
            same, why = _nano(recipe)
        else:
            same, why = _held_out(recipe, splits, data_note, card, name)
        found[name] = {"same": same, "why": f"{why[0].upper()}{why[1:]}."}
    return found


def _nano(recipe: Recipe) -> tuple[bool, str]:
    source = recipe.data.evaluation
    same = source is not None and source.location == NANO_SOURCE
    return same, "public collection" if same else "another collection than the library's NanoBEIR"


def _held_out(recipe: Recipe, splits: Splits | None, data_note: str, card: Card | None, name: str) -> tuple[bool, str]:
    """For the held-out parts: rows of the Hub at the card's revision, or divided from the rows so that the ones that
    the card prints come first."""
    advice = GIVE_EXAMPLES
    if data_note:
        return False, f"a shipped sample stands in for the card's rows; {advice}"
    dataset = next(iter(card.evaluation_datasets()), None) if card is not None else None
    part, data = splits.validation if splits else None, recipe.data
    if card is None or dataset is None or part is None or not name.startswith("validation"):
        return False, f"the card does not say which rows it held out; {advice}"
    printed = printed_places(part, dataset.samples, recipe.training.prompts)
    if not all(number in places for number, places in enumerate(printed)):
        return False, f"the evaluation rows that the card prints are not the first ones here; {advice}"
    source = data.evaluation
    theirs = (dataset.id, dataset.revision)
    if source is not None and None not in theirs and theirs == (source.location, source.revision):
        return True, f"rows of {dataset.id} at the card's revision"
    if printed and dataset.size in (None, len(part)):
        return True, "they begin with the evaluation rows that the card prints, and are as many"
    return False, f"the card does not print evaluation rows that would show it; {advice}"
