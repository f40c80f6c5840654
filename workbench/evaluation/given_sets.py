"""Evaluation sets that a user gives for a card, or that the card names: each is measured by the card's evaluators that
it belongs to.

A set is given as `[NAME=]PATH`. NAME is what the card prints after "Dataset:" of an evaluator, or the name of one of
its evaluation datasets; without it the evaluator that fits the examples is meant. Rows that are those of the card's
evaluation dataset also give the trainer its validation loss. Without a user, a card names a set by the Hub id of a
dataset whose name its evaluator has, with a split ("all-nli-dev"), and NanoBEIR's collections by their own names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.known import SOURCES, known_card
from workbench.cards.lookup import class_name, validation_losses
from workbench.cards.metric_names import LIBRARY_SIMILARITIES
from workbench.data.collection import is_hub_id
from workbench.data.pairs import Check
from workbench.data.sources import open_rows
from workbench.data.training_rows import load_pairs, printed_places
from workbench.errors import DataError
from workbench.evaluation.comparability import query_count_problems
from workbench.evaluation.retrieval import folder_name
from workbench.evaluation.task_files import open_task
from workbench.evaluation.tasks import NANO_SOURCE, Examples, Mean, Search, Task, matryoshka
from workbench.recipe.schema import Recipe, Source

if TYPE_CHECKING:
    from workbench.cards.card import Card, Dataset, Evaluation

OPTION = "--evaluation-set"

PARTS = {"dev": "validation", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
"""The end of an evaluator's name -> the split of its dataset."""


@dataclass(frozen=True)
class GivenSet:
    """One evaluation set as the user gave it."""

    value: str  # "[NAME=]PATH"
    place: str  # a file, a folder or a Hub id
    tasks: Mapping[str, Task] = field(default_factory=dict)  # one for each of the card's evaluators, by folder name
    validates: str = ""  # the recipe's field whose rows these are, where they are those of an evaluation dataset
    known: str = ""  # nobody gave it: how it is known of this card
    checks: tuple[Check, ...] = ()  # what was found while it was read

    @property
    def sentence(self) -> str:
        """The statement that the user makes by giving it."""
        what = [f"evaluation examples ({', '.join(self.tasks)})"] if self.tasks else []
        what += ["evaluation dataset"] if self.validates else []
        return f"The user states that {self.place} holds the card's {' and its '.join(what)}."


def open_sets(
    card: Card | None,
    recipe: Recipe,
    values: Sequence[str],
    online: Callable[[], bool] = lambda: False,
    *,
    counted: bool = True,
) -> list[GivenSet]:
    """The sets given as `values`, opened, checked and matched with what the card reports; without any, those that are
    known of this very card.

    Raises DataError where one cannot be read, belongs to nothing on the card, or (if `counted`) cannot have given its
    accuracies, by the number of examples.
    """
    if values and card is None:
        raise DataError(f"expected a card with {OPTION}, found a recipe file, which reports nothing; name the card.")
    named = {_parse(value)[0] for value in values}
    found = [_open(card, recipe, value, online, named, counted) for value in values if card is not None]
    if card is not None and not values and (known := known_card(card.sha256)) is not None:
        why = f"known of this very card: {SOURCES}"
        found = [replace(_open(card, recipe, value, online, set()), known=why) for value in known.evaluation_sets]
    names = [name for each in found for name in each.tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"expected one {OPTION} for {twice!r}, found {names.count(twice)}; give each set once.")
    return found


def _open(
    card: Card,
    recipe: Recipe,
    value: str,
    online: Callable[[], bool],
    named: Collection[str | None] = (),
    counted: bool = True,
) -> GivenSet:
    """One set; `named` are the names of all that are given."""
    name, place = _parse(value)
    reported = [each for each in _reported(card) if name in (None, _name(each), each.name)]
    datasets = [each for each in card.evaluation_datasets() if name in (None, each.name)]
    if not reported and not datasets:
        raise _unknown(card, name)
    shown = [each for each in card.evaluation_datasets() if each.samples]
    validates = _validates(card, recipe, datasets or shown, place)
    if validates and name is None:  # rows of the validation loss: not those of an evaluator that has its own
        reported = [each for each in reported if _name(each) not in named]
    if name is not None and not reported:
        if not validates:
            raise DataError(
                f"expected the rows of the card's evaluation dataset {name!r} in {place!r} ({_said(datasets[0])}), "
                f"found others; give those with {OPTION} {name}=PATH."
            )
        return GivenSet(value, place, validates=validates)
    task, checks = open_task(place, _renames(recipe, place), kinds=[_kind(each) for each in reported], online=online)
    fitting = [each for each in reported if _kind(each) == task.kind]
    if not fitting and validates:
        return GivenSet(value, place, validates=validates)
    _require_fit(fitting, reported, task, place, counted)
    tasks = {}
    for theirs in fitting:
        made = _as_reported(task, theirs, recipe)
        made = replace(made, name=f"{made.name}_{_dimensions(theirs, recipe)}") if made.name in tasks else made
        tasks[made.name] = made
    return GivenSet(value, place, tasks, validates, checks=checks)


def public_sets(
    card: Card, recipe: Recipe, sets: Sequence[GivenSet], online: Callable[[], bool]
) -> tuple[list[GivenSet], dict[str, str]]:
    """The sets that the card names itself, for its evaluations that are not in `sets`; and by name why one of them
    cannot be had."""
    opened: dict[tuple[str, str | None], tuple[Task, tuple[Check, ...]]] = {}
    found, problems, names = [], dict[str, str](), {name for each in sets for name in each.tasks}
    open_ones = not_measured(card, names)
    for theirs in (each for each in _reported(card) if _name(each) in open_ones):
        place, split = _public_place(card, theirs)
        if not place:
            continue
        try:
            if (place, split) not in opened:
                opened[place, split] = open_task(place, None, split, kinds=[_kind(theirs)], online=online)
            task, checks = opened[place, split]
            if isinstance(task, Mean) and (wanted := theirs.parameters.get("dataset_names")):
                named = {str(name).lower() for name in wanted}
                task = replace(task, members=tuple(m for m in task.members if m.name[4:].lower() in named))
            _require_fit([theirs] if _kind(theirs) == task.kind else [], [theirs], task, place, counted=False)
        except DataError as error:
            problems[_name(theirs)] = f"{_name(theirs)} is not measured: {error}"
            continue
        made = _as_reported(task, theirs, recipe)
        made = replace(made, name=f"{made.name}_{_dimensions(theirs, recipe)}") if made.name in names else made
        names.add(made.name)
        why = f"the card names it: {place}{f', {split}' if split else ''}"
        found.append(GivenSet(f"{_name(theirs)}={place}", place, {made.name: made}, known=why, checks=checks))
    return found, problems


def not_measured(card: Card, names: Collection[str]) -> list[str]:
    """The names of the card's evaluations that none of the tasks called `names` repeats."""
    measured = {*names} | {name.rpartition("_")[0] for name in names}
    return list(dict.fromkeys(name for name in map(_name, _reported(card)) if folder_name(name) not in measured))


def _public_place(card: Card, theirs: Evaluation) -> tuple[str, str | None]:
    """Hub id and split of an evaluation's examples, as far as the card names them; "" where it does not."""
    name = _name(theirs)
    if nano := re.match(r"Nano([A-Za-z0-9]+)(_mean)?", name):
        return str(theirs.parameters.get("dataset_id") or NANO_SOURCE), None if nano[2] else f"Nano{nano[1]}"
    if is_hub_id(name):
        return name, None
    stem, _, split = name.lower().replace("_", "-").rpartition("-")
    if not stem or split not in PARTS:
        return "", None
    listed = card.front_matter.get("datasets")
    ids = [each.id for each in card.datasets if each.id] + [str(each) for each in listed or () if "/" in str(each)]
    fitting = [each for each in dict.fromkeys(ids) if _alike(each.rpartition("/")[2].lower(), stem)]
    return (fitting[0], PARTS[split]) if len(fitting) == 1 else ("", None)


def _alike(dataset: str, stem: str) -> bool:
    return dataset.startswith(stem) or stem.startswith(dataset)


def _parse(value: str) -> tuple[str | None, str]:
    """Name and place; a place that exists may have "=" in its name."""
    name, equals, place = value.partition("=")
    if not equals or os.path.exists(os.path.expanduser(value)):
        return None, value
    if not name.strip() or not place.strip():
        raise DataError(f"expected {OPTION} PATH or NAME=PATH, found {value!r}.")
    return name.strip(), place.strip()


def _reported(card: Card) -> list[Evaluation]:
    """What the card reports, the last one where a set is reported twice by one evaluator."""
    keyed = {(_name(each), _kind(each), str(each.parameters)): each for each in card.evaluations if each.metrics}
    return list(keyed.values())


def _name(evaluation: Evaluation) -> str:
    return next(iter(evaluation.datasets), evaluation.name)


def _kind(evaluation: Evaluation) -> str:
    return class_name(evaluation.evaluator or "")


def _unknown(card: Card, name: str | None) -> DataError:
    there = [*map(_name, _reported(card)), *(each.name for each in card.evaluation_datasets() if each.name)]
    if not there:
        return DataError(f"expected a card that evaluates on something with {OPTION}, found {card.name!r}; omit it.")
    known = ", ".join(dict.fromkeys(map(repr, there)))
    return DataError(f"expected an evaluation set that the card {card.name!r} names ({known}), found {name!r}.")


def _said(dataset: Dataset) -> str:
    size = "" if dataset.size is None else f"{dataset.size:,} rows, "
    return f"{size}columns {', '.join(dataset.columns)}"


def _renames(recipe: Recipe, place: str) -> dict[str, str] | None:
    """The user's names of columns, where the file of the set has those columns, too."""
    named = recipe.data.train.columns
    if not named or not Path(os.path.expanduser(place)).is_file():
        return None
    first = next(iter(islice(open_rows(Source(location=place, columns=named), lambda: False), 1)), {})
    return dict(named) if set(named) <= set(first) else None


def _validates(card: Card, recipe: Recipe, datasets: Sequence[Dataset], place: str) -> str:
    """The recipe's field for the rows of the only evaluation dataset among `datasets` that those at `place` are, as far
    as the card shows; empty where there is none, or the log has no validation loss."""
    if not Path(os.path.expanduser(place)).is_file() or not validation_losses(card.training_log):
        return ""
    data = recipe.data
    known = {data.name if data.more else None: ("data.evaluation", data.train.columns, data.columns)}
    for number, each in enumerate(data.more):
        known[each.name] = (f"data.more.{number}.evaluation", each.source.columns, each.columns)
    fitting = []
    for dataset in datasets:
        field_name, renames, columns = known.get(dataset.name if data.more else None, ("", {}, ()))
        try:
            pairs = load_pairs(Source(location=place, columns=renames), columns) if field_name else None
        except DataError:
            continue
        printed = printed_places(pairs, dataset.samples, recipe.training.prompts) if pairs is not None else []
        first = all(number in places for number, places in enumerate(printed))
        if pairs is not None and first and dataset.size in (None, len(pairs)):
            fitting.append(field_name)
    return fitting[0] if len(fitting) == 1 else ""


def _require_fit(
    fitting: Sequence[Evaluation], reported: Sequence[Evaluation], task: Task, place: str, counted: bool
) -> None:
    """DataError where the examples are of no evaluator, of several sets, or too few or many for the card's shares."""
    if not fitting:
        wanted = " or ".join(dict.fromkeys(f"{_kind(each)} on {_name(each)!r}" for each in reported))
        raise DataError(
            f"expected examples for the card's {wanted} with {OPTION}, found those of {task.kind} in {place!r}."
        )
    dimensions = [each.parameters.get("truncate_dim", _name(each)) for each in fitting]
    named = sorted(dict.fromkeys(re.sub(r"\d+", "", _name(each)) for each in fitting))
    if len(fitting) > 1 and (len(set(dimensions)) < len(dimensions) or len(named) > 1):
        names = ", ".join(_name(each) for each in fitting)
        raise DataError(
            f"expected one evaluator that {place!r} belongs to, found {len(fitting)} that fit ({names}); say which "
            f"with {OPTION} {_name(fitting[0])}={place}."
        )
    count, unit = _count(task)
    problem = next((each for theirs in fitting for each in query_count_problems(theirs, count, unit)), None)
    if problem is not None and counted:
        raise DataError(f"expected the card's evaluation set, found another in {place!r}: {problem}")


def _count(task: Task) -> tuple[int, str]:
    """How many examples a task has, and what they are."""
    if isinstance(task, Search):
        return len(task.collection.evaluated), "queries"
    if isinstance(task, Mean):
        return sum(len(member.collection.evaluated) for member in task.members), "queries"
    unit = {"TripletEvaluator": "triplets", "RerankingEvaluator": "queries"}.get(task.kind, "pairs")
    return len(task.samples or task.texts), unit


def _dimensions(theirs: Evaluation, recipe: Recipe) -> int | None:
    """The dimensions that an evaluator measured at: as it says, else the number in its name that the loss trains."""
    stated = theirs.parameters.get("truncate_dim")
    if isinstance(stated, int):
        return stated
    numbers = map(int, re.findall(r"\d+", _name(theirs)))
    return next((number for number in numbers if number in matryoshka(recipe.loss)), None)


def _as_reported(task: Task, theirs: Evaluation, recipe: Recipe) -> Task:
    """The task under the name of the card's evaluator, at its dimensions, with its similarities."""
    cut = _dimensions(theirs, recipe)
    own: dict[str, Any] = {
        "name": folder_name(_name(theirs)),
        "dimensions": None if cut == recipe.evaluation.truncate_dim else cut,
    }
    if isinstance(task, Examples):
        others = [similarity for similarity in LIBRARY_SIMILARITIES if similarity != recipe.base.similarity]
        every = any(word in metric for metric in theirs.metrics for word in ("max_", "_max", *others))
        return replace(task, **own, every_similarity=every)
    return replace(task, **own)
