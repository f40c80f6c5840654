"""Comparability: why a run can neither confirm nor deny its card, whatever it measured.

A run is comparable that finished, as written, on the card's own base and rows, and on as many queries as the card's
numbers imply. Whatever is not known to be so is a problem; each problem is a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.known import known_card
from workbench.cards.metric_arithmetic import are_shares
from workbench.errors import RecipeError
from workbench.recipe.from_card import recipe as recipe_from_card
from workbench.recipe.schema import difference
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation
    from workbench.recipe.schema import Recipe

GIVE_ROWS = "give the card's rows with --data"
GIVE_EXAMPLES = "give the card's with --evaluation-set"
STATE_BASE = "if it is the card's, state it with --base-is-the-cards"

MOST_QUERIES = 5000  # above, four places fit any number of queries


def comparability_problems(run: Run, recipe: Recipe, card: Card | None, *, ignore: Sequence[str] = ()) -> list[str]:
    """Why this run can neither confirm nor deny the card; recipe fields in `ignore` may differ."""
    problems = []
    if run.status != "finished":
        resume = f"resume it with workbench train --resume {run.name}"
        advice = "wait for its end" if run.status == "running" else resume
        problems.append(f"The run is not finished; its status is {run.status!r}; {advice}.")
    checks = run.record.get("identity")
    if checks is not None and (card is None or _is_of(run, card)):
        problems += [check["sentence"] for check in checks if not check["ok"]]
    else:  # an older run, or another card than the one that it was checked against
        problems += _base_problems(run.record.get("base") or {}, card)
        problems += _data_problems(run.record.get("data") or {}, card)
    if recipe.variant != "as written":
        text = f"The run followed the {recipe.variant} recipe, not the card's recipe as written"
        problems.append(f"{text}; train again without --corrected.")
    if card is not None:
        problems += _recipe_problems(recipe, card, ignore)
    return list(dict.fromkeys(problems))


def _is_of(run: Run, card: Card) -> bool:
    """Whether the run was checked against this card when it began."""
    own = run.card()
    return own is not None and own.sha256 == card.sha256


def _base_problems(base: Mapping[str, Any], card: Card | None) -> list[str]:
    """Only a base that is known to be the card's own is comparable."""
    name = str(base.get("model") or "an unknown model")
    if base.get("stand_in") is not False or name.startswith(("bundled:", "scratch:")):
        return [str(base.get("note") or f"The base {name} is not known to be the card's own.")]
    if card is None:
        return []
    if card.base_model is None:
        return [f"The card does not name its base, so it may differ from the run's; {STATE_BASE}."]
    ours, theirs = (each.rstrip("/").lower() for each in (name, card.base_model.value))
    if not (ours.count("/") == theirs.count("/") == 1) or Path(name).is_dir():  # not two Hub ids: without the owner
        ours, theirs = ours.rpartition("/")[2], theirs.rpartition("/")[2]
    return (
        [] if ours == theirs else [f"The run started from {name}, the card from {card.base_model.value}; {STATE_BASE}."]
    )


def _data_problems(data: Mapping[str, Any], card: Card | None) -> list[str]:
    """Only rows that are known to be the card's own, and as many, are comparable."""
    source = str(data.get("source") or "unknown")
    known = known_card(card.sha256) if card is not None else None
    own = known is not None and known.own and source == f"sample:{known.sample}"
    if data.get("stand_in") is not False or source == "unknown" or (source.startswith("sample:") and not own):
        return [str(data.get("note") or f"The rows of {source} are not known to be the card's own.")]
    printed = data.get("printed") or {}
    if printed and printed["found"] < printed["rows"]:
        text = f"Of the {printed['rows']} rows that the card prints, {source} has {printed['found']}"
        return [f"{text}; {GIVE_ROWS}."]
    rows = {str(part): int(count) for part, count in (data.get("rows") or {}).items()}
    sizes = [dataset.size for dataset in card.training_datasets()] if card is not None else []
    size = sum(each for each in sizes if each is not None)
    more = sum(int(each.get("rows") or 0) for each in (data.get("more") or {}).values())  # of further datasets
    train, total = rows.get("train", 0) + more, sum(rows.values()) + more
    if rows and sizes and None not in sizes and size not in (train, total):
        return [
            f"The card counts {size:,} training rows; this run had {total:,} rows from {source}, {train:,} of them for "
            f"training; {GIVE_ROWS}."
        ]
    return []


def _recipe_problems(recipe: Recipe, card: Card, ignore: Sequence[str]) -> list[str]:
    """Fields that the card (or its correction) states and the run's recipe has otherwise, also where its file was
    edited by hand."""
    try:
        written = recipe_from_card(card, corrected=recipe.variant == "corrected")
    except RecipeError:
        return []
    problems = []
    for path, theirs, ours in difference(written, recipe):
        stated = written.provenance.get(path)
        if path in ignore or path.startswith(("base.model", "data.")):
            continue
        if path == "training.max_steps":
            problems.append(f"The run was set to end after {ours} steps; train again without --max-steps.")
        elif stated is not None and stated.source in ("card", "file", "finding"):
            who = "its correction" if stated.source == "finding" else "the card"
            text = f"The run set {path} to {ours!r}; {who} says {theirs!r}"
            problems.append(f"{text}; train again without that --set.")
    return problems


def query_count_problems(theirs: Evaluation, queries: int, unit: str) -> list[str]:
    """Accuracies that are no multiples of 1/n cannot come from n queries; means over collections (NanoBEIR) can."""
    if (theirs.evaluator or "").endswith("NanoBEIREvaluator"):
        return []
    shares = [
        value
        for metric, value in theirs.metrics.items()
        if re.search(r"accuracy(@\d+)?$", metric) and 0 <= value <= 1  # a share of queries, pairs or triplets
    ]
    if not shares or are_shares(shares, queries):
        return []
    fitting = next((number for number in range(1, MOST_QUERIES) if are_shares(shares, number)), None)
    guess = f"; the smallest number that fits is {fitting:,}" if fitting is not None else ""
    text = f"The card's accuracies cannot come from {queries:,} {unit}, as many as this run measured{guess}"
    return [f"{text}; {GIVE_EXAMPLES}."]
