"""What a user states about a card, so that a run can be held against it: each statement is kept in run.json."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from workbench.data.split_search import Divided, find_split
from workbench.data.training_rows import has_rows, is_split, load_pairs
from workbench.errors import DataError, RecipeError
from workbench.evaluation.given_sets import OPTION, GivenSet
from workbench.recipe.overrides import with_changes
from workbench.recipe.schema import Origin, Recipe

if TYPE_CHECKING:
    from workbench.cards.card import Card, Dataset
    from workbench.data.pairs import Pairs


class Statements(TypedDict, total=False):
    """Arguments of `train` that state something about the card."""

    evaluation_set: str | Sequence[str] | None  # "[NAME=]PATH": the card's evaluation examples; see `given_sets`
    base_is_the_cards: bool  # the folder given as `base` is the card's base
    split_seed: int | None  # the seed by which the card's rows were divided
    split_file: str | None  # or the rows of each part, see `split_pairs`
    rows_in_order: bool  # the rows are in the card's order
    margin: float | None  # differences up to this count as none


@dataclass(frozen=True)
class Given:
    """The statements, checked."""

    evaluation_sets: tuple[str, ...] = ()
    base_is_the_cards: bool = False
    split_seed: int | None = None
    split_file: str | None = None
    rows_in_order: bool = False
    margin: float | None = None

    @classmethod
    def of(cls, stated: Statements, base: str | None) -> Given:
        """The statements of a user who asked for `base`; RecipeError where one makes no sense."""
        sets, margin = stated.get("evaluation_set") or (), stated.get("margin")
        own = bool(stated.get("base_is_the_cards"))
        if own and base in (None, "auto"):
            raise RecipeError("expected --base FOLDER with --base-is-the-cards, found none; name the card's base.")
        seed, file = stated.get("split_seed"), stated.get("split_file")
        if seed is not None and file is not None:
            raise RecipeError(f"expected --split-seed or --split-file, found both ({seed}, {file!r}); omit one.")
        if margin is not None and not (math.isfinite(margin) and margin > 0):
            raise RecipeError(f"expected a margin above 0, such as --margin 0.02, found {margin!r}.")
        return cls(
            evaluation_sets=(sets,) if isinstance(sets, str) else tuple(sets),
            base_is_the_cards=own,
            split_seed=seed,
            split_file=None if file is None else os.path.abspath(os.path.expanduser(file)),
            rows_in_order=bool(stated.get("rows_in_order")),
            margin=margin,
        )

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Given:
        """The statements of a run, from its record."""
        said = [(each["option"], each["value"]) for each in record.get("statements") or ()]
        options = {option for option, _ in said}
        return cls(
            evaluation_sets=tuple(value for option, value in said if option == OPTION),
            base_is_the_cards="--base-is-the-cards" in options,
            rows_in_order="--rows-in-order" in options,
            margin=record.get("margin"),
        )

    def sentences(self, recipe: Recipe, base: str, sets: Sequence[GivenSet]) -> list[dict[str, str]]:
        """The statements as run.json keeps them: option, value and a sentence."""
        said = [(OPTION, each.value, each.sentence) for each in sets if not each.known]
        if self.base_is_the_cards:
            text = f"The user states that {base} is the card's base, {recipe.base.model}."
            said.append(("--base-is-the-cards", "", text))
        if self.split_seed is not None:
            text = f"The user states that the card's rows were divided with seed {self.split_seed}."
            said.append(("--split-seed", str(self.split_seed), text))
        if self.split_file is not None:
            said.append(("--split-file", self.split_file, f"The user states that {self.split_file} divides the rows."))
        if self.rows_in_order:
            said.append(("--rows-in-order", "", "The user states that the rows are in the card's order."))
        return [{"option": option, "value": value, "sentence": text} for option, value, text in said]


def with_statements(recipe: Recipe, sets: Sequence[GivenSet]) -> Recipe:
    """The recipe with the rows of validation losses that the user gave."""
    changes: dict[str, tuple[Any, Origin]] = {}
    for rows in (each for each in sets if each.validates):
        more = recipe.data.more[int(rows.validates.split(".")[2])] if "more" in rows.validates else None
        renames = recipe.data.train.columns if more is None else more.source.columns
        place = {"location": rows.place, "config": None, "split": None, "revision": None, "columns": dict(renames)}
        changes |= {
            f"{rows.validates}.{name}": (value, Origin(source="user", note=OPTION)) for name, value in place.items()
        }
    return with_changes(recipe, changes) if changes else recipe


def with_division(
    recipe: Recipe, card: Card | None, given: Given, online: Callable[[], bool]
) -> tuple[Recipe, Pairs | None]:
    """The recipe with the split of its rows that the user states, or that the rows on the card show; and the rows,
    where they were read for that.

    A split that the user set field by field stays. Raises DataError where the stated seed is not the card's.
    """
    data, seed, place = recipe.data, given.split_seed, recipe.data.train.location
    if given.split_file is not None:
        origin = Origin(source="user", note="--split-file")
        return with_changes(recipe, {"data.split": ({"file": given.split_file}, origin)}), None
    trained, held_out = (next(iter(each), None) for each in _datasets(card))
    own = any(path.startswith("data.split") and each.source == "user" for path, each in recipe.provenance.items())
    separate = data.evaluation is not None and has_rows(data.evaluation)
    shown = trained is not None and trained.size is not None and (trained.samples or data.split is None)
    if own or separate or not shown or trained is None or place.startswith("sample:") or place == "unknown":
        if seed is None:
            return recipe, None
        if data.split is None:
            raise DataError(f"expected rows that are to be divided with --split-seed {seed}, found none; omit it.")
        return with_changes(recipe, {"data.split.seed": (seed, Origin(source="user", note="--split-seed"))}), None
    try:
        pairs = load_pairs(data.train, data.columns, online=online)
    except DataError:
        return recipe, None  # a sample may stand in for them
    if is_split(pairs, data):
        return recipe, pairs
    size, first = (held_out.size, held_out.samples) if held_out is not None else (None, ())
    divided = Divided(trained.size or 0, trained.samples, size, first, recipe.training.prompts)
    found = find_split(pairs, divided, data.split, seed)
    if found is None:
        if seed is not None and (data.split is None or data.split.seed != seed):
            raise DataError(
                f"expected the seed that divided the card's rows, found --split-seed {seed}, which does not give the "
                f"first rows that the card prints from the {len(pairs):,} in {place!r}; omit it, and it is searched."
            )
        return recipe, pairs
    split, note = found
    origin = Origin(source="inferred", note=note) if seed is None else Origin(source="user", note="--split-seed")
    changes = {f"data.split.{name}": (value, origin) for name, value in split.model_dump().items()}
    return with_changes(recipe, changes), pairs


def _datasets(card: Card | None) -> tuple[Sequence[Dataset], Sequence[Dataset]]:
    """The card's datasets for training and for evaluation."""
    return ((), ()) if card is None else (card.training_datasets(), card.evaluation_datasets())
