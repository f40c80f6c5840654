"""One recipe trained several times, each with another seed; `evaluation.compare` judges them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.cards.card import Card
from workbench.errors import RecipeError
from workbench.evaluation.compare import SEED_PATH
from workbench.recipe.from_card import recipe
from workbench.recipe.overrides import with_changes
from workbench.recipe.schema import Origin, Recipe
from workbench.run import Run, RunWriter
from workbench.training.processes import from_first, is_first, wait
from workbench.training.train import train


def repeat(
    source: Card | Recipe,
    seeds: int = 5,
    *,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    fit: Callable[..., Run] = train,
    enough: Callable[[Run], bool] = lambda first: False,
    **options: Any,
) -> list[Run]:
    """Train the recipe of a card (or a recipe) `seeds` times, with training.seed, training.seed + 1, ...

    Rows, their division and everything else stay the same; the seed is in each run's recipe, and `repeat` in its
    record says which repetition it is. The first is the run that `train` alone would give; where it is `enough`, as an
    exact replay is, it stays alone. `options` are those of `train`; `fit` trains. A run that was stopped ends the
    repetition, and is the last in the list.

    Raises RecipeError for fewer than 2 seeds, or a run to resume among the options; else as `train` does.
    """
    if seeds < 2:
        raise RecipeError(f"expected at least 2 seeds, found {seeds!r}; one training has no spread.")
    if options.get("resume") is not None:
        raise RecipeError("expected a new training for each seed, found a run to resume; resume it with `train`.")
    if isinstance(source, Card):
        options = {"card": source, **options}
        source = recipe(source, corrected=corrected, overrides=overrides)
    runs: list[Run] = []
    for number in range(seeds):
        seed, made = source.training.seed + number, source
        if number > 0:
            origin = Origin(source="user", note=f"repetition {number + 1} of {seeds}")
            made = with_changes(source, {SEED_PATH: (seed, origin)})
        run = fit(made, **options)
        wait()  # until the first process has written how the run ended
        made_first = runs[0].name if runs else run.name
        repeated = {"number": number + 1, "of": seeds, "seed": seed, "first": made_first}
        RunWriter(run.path, writes=is_first()).update(repeat=repeated)
        runs.append(run)
        if run.status != "finished" or (number == 0 and from_first(is_first() and enough(run))):
            break
    return runs
