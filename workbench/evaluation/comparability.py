"""What stands in the way of a verdict: why a run cannot confirm or deny its card, whatever it measured.

A run passes that was finished, as written, on the card's own base and rows, and on as many queries as the card's
numbers imply. What is not known to be so is a reason against it; each reason is a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.metric_arithmetic import are_shares
from workbench.errors import RecipeError
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation
    from workbench.recipe.schema import Recipe

ROUNDING = 0.5e-4  # cards print four places
SHARES = re.compile(r"accuracy(@\d+)?$")  # metrics that are a share of queries, pairs or triplets
MOST_QUERIES = 5000  # above, four places fit any number of queries


def comparability_problems(run: Run, recipe: Recipe, card: Card | None, *, apart: Sequence[str] = ()) -> list[str]:
    """Why this run cannot confirm or deny the card, whatever it measured; fields in `apart` may differ."""
    record = run.record
    found = []
    if run.status != "finished":
        found.append(f"The run is not finished; its status is {run.status!r}.")
    found += _base_hindrances(record.get("base") or {}, card)
    found += _data_hindrances(record.get("data") or {}, card)
    if recipe.variant != "as written":
        found.append(f"The run followed the {recipe.variant} recipe; the card's numbers come from the one as written.")
    if card is not None:
        found += _departures(recipe, card, apart)
    return list(dict.fromkeys(found))


def _base_hindrances(base: Mapping[str, Any], card: Card | None) -> list[str]:
    """Only a base that is known to be the card's own passes; a record that does not say so does not."""
    name = str(base.get("model") or "an unknown model")
    if base.get("stand_in") is not False or name.startswith(("bundled:", "scratch:")):
        return [str(base.get("note") or f"The base {name} is not known to be the card's own.")]
    if card is None:
        return []
    if card.base_model is None:
        return ["The card does not name its base, so nobody can know that this run began with it."]
    ours, theirs = (each.rstrip("/").lower() for each in (name, card.base_model.value))
    both_ids = ours.count("/") == theirs.count("/") == 1 and not Path(name).is_dir()
    if (ours if both_ids else ours.rpartition("/")[2]) != (theirs if both_ids else theirs.rpartition("/")[2]):
        return [f"The run began with {name}, the card with {card.base_model.value}."]
    return []


def _data_hindrances(data: Mapping[str, Any], card: Card | None) -> list[str]:
    """Only rows that are known to be the card's own, and as many, pass."""
    source = str(data.get("source") or "unknown")
    if data.get("stand_in") is not False or source.startswith("sample:") or source == "unknown":
        return [str(data.get("note") or f"The rows of {source} are not known to be the card's own.")]
    printed = data.get("printed") or {}
    if printed and printed["found"] < printed["rows"]:
        return [f"Of the {printed['rows']} rows that the card prints, {printed['found']} are among those of {source}."]
    rows = {str(part): int(count) for part, count in (data.get("rows") or {}).items()}
    sizes = [dataset.size for dataset in card.training_datasets()] if card is not None else []
    size = sum(each for each in sizes if each is not None)
    if rows and sizes and None not in sizes and size not in (rows.get("train"), sum(rows.values())):
        return [
            f"The card counts {size:,} training rows; this run had {sum(rows.values()):,} rows from {source}, "
            f"{rows.get('train', 0):,} of them for training."
        ]
    return []


def _departures(recipe: Recipe, card: Card, apart: Sequence[str]) -> list[str]:
    """Fields that the card states and the run's recipe, which says that it is as written, has otherwise.

    Whoever changed them: a recipe file edited by hand still names the card as their origin.
    """
    from workbench.recipe.from_card import recipe as read_off
    from workbench.recipe.schema import difference

    try:
        written = read_off(card)
    except RecipeError:
        return []
    found = []
    for path, theirs, ours in difference(written, recipe) if recipe.variant == "as written" else ():
        stated = written.provenance.get(path)
        if path in apart or path.startswith(("base.model", "data.")):
            continue
        if path == "training.max_steps":
            found.append(f"The run was told to end after {ours} steps.")
        elif stated is not None and stated.source in ("card", "file"):
            found.append(f"The run set {path} to {ours!r}; the card says {theirs!r}.")
    return found


def query_count_problems(theirs: Evaluation, queries: int, items: str) -> list[str]:
    """A share of n queries is a multiple of 1/n: accuracies that are none belong to another number of queries.

    Means over collections, which NanoBEIR gives, are no such shares.
    """
    if (theirs.evaluator or "").endswith("NanoBEIREvaluator"):
        return []
    printed = theirs.metrics.items()
    shares = [value for metric, value in printed if SHARES.search(metric) and 0 <= value <= 1]
    if not shares or are_shares(shares, queries):
        return []
    fitting = next((number for number in range(1, MOST_QUERIES) if are_shares(shares, number)), None)
    guess = f"; the smallest number that fits is {fitting:,}" if fitting is not None else ""
    measured = "asked" if items == "queries" else "measured"
    return [f"The card's accuracies cannot come from {queries:,} {items}, as many as this run {measured}{guess}."]
