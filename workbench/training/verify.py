"""Verify published weights: measure them as their card says, without training, into a run folder.

"after" is the published model and "before" the card's base, where that can be had, so that everything which shows a run
shows a verification, too. `evaluation.replay.judge_weights` gives the verdict.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.card import Card
from workbench.cards.lookup import argument
from workbench.cards.read import card_to_dict, read_card
from workbench.errors import BaseError, CardError, DataError, RunError, enough_memory
from workbench.models.base import LoadedBase, describe_device, is_half_precision, load_base, model_folder
from workbench.recipe.from_card import evaluation_recipe
from workbench.recipe.schema import Base, Recipe, recipe_sha256
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Progress, Run, create, open_run, write_json
from workbench.training.evaluations import evaluate_all
from workbench.training.given import Given
from workbench.training.prepare import CardTasks, card_tasks
from workbench.training.progress import shown_progress
from workbench.training.train import package_versions, recorded_ending
from workbench.training.variants import likely_causes

if TYPE_CHECKING:
    from workbench.run import RunWriter


@dataclass(frozen=True)
class _Published:
    """The published model."""

    name: str  # as it was asked for
    folder: Path
    loaded: LoadedBase
    half: bool  # stored in 16 bits, or measured so by the card's trainer


@enough_memory("the verification")
def verify(
    model: Run | str | os.PathLike[str],
    card: Card | str | os.PathLike[str] | None = None,
    *,
    on: str | Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    metric: str | None = None,
    base: str | None = None,
    with_base: bool = True,
    revision: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    command: Sequence[str] | None = None,
    progress: bool = True,
    on_progress: Progress | None = None,
) -> Run:
    """Measure the published weights of `model` as their card says, into a new folder under `runs`.

    `model` is a Hub id (at `revision`), a folder, "bundled:minilm", or a Run, whose model is taken; `card` is the one
    beside it by default. `on` gives evaluation sets, "PATH" or "NAME=PATH" (see `given_sets`), `columns` renames their
    columns (theirs -> ours); public sets that the card names are found by themselves. With `metric`, such as
    "cosine_ndcg@10", nothing else is judged. `base` is measured as "before", by default the card's, unless it cannot be
    had here or `with_base` is False.

    Raises BaseError, CardError or DataError before there is a run.
    """
    with shown_progress(on_progress, shown=progress) as on_progress:
        published = _published(model, runs, revision)
        found = _card(card, published, revision)
        recipe = _recipe(found, columns)
        sets = (on,) if isinstance(on, str) else tuple(on or ())
        measured = card_tasks(found, recipe, sets)
        if not measured.tasks:
            raise DataError(
                " ".join([f"expected something to measure for {found.name!r}, found none.", *measured.problems])
            )
        started = _base(recipe, base) if with_base else None
        published = replace(published, half=published.half or _trained_in_half(found))
        record = _record(published, found, recipe, measured, started, metric, sets, command)
        writer = _create(Path(runs), recipe, found, record)
        with recorded_ending(writer, "verification", "verify again"):
            tasks, run = measured.tasks, writer.run
            evaluate_all(run, tasks, published.loaded.model, "after", recipe, on_progress)
            causes = likely_causes(run, found, recipe, measured, published.loaded.model, half=published.half)
            writer.update(verification={**record["verification"], "causes": causes})
            if started is not None:
                evaluate_all(run, tasks, started.model, "before", recipe, on_progress)
        return run


def _published(model: Run | str | os.PathLike[str], runs: str | os.PathLike[str], revision: str | None) -> _Published:
    name = os.fspath(model)
    if isinstance(model, Run) or not os.path.isdir(name) or Path(name, "run.json").is_file():
        with suppress(RunError):
            name = str(open_run(model, runs).model_folder())
    folder = model_folder(name, revision)
    return _Published(name, folder, load_base(str(folder)), is_half_precision(folder))


def _card(card: Card | str | os.PathLike[str] | None, published: _Published, revision: str | None) -> Card:
    """The card that is given, else the README.md beside the weights, else that of the Hub id."""
    if card is not None:
        return card if isinstance(card, Card) else read_card(card)
    if (published.folder / "README.md").is_file() or os.path.isdir(published.name):
        try:
            return read_card(published.folder)
        except CardError as error:
            raise CardError(f"{error} Name the card with --card.") from error
    if published.name.startswith("bundled:"):
        raise CardError(f"Expected a card for {published.name!r}, found none; name one with --card.")
    return read_card(published.name, revision=revision)


def _recipe(card: Card, columns: Mapping[str, str] | None) -> Recipe:
    if card.kind != "sentence-transformer":
        raise CardError(f"Expected the card of a sentence-transformer, found {card.name!r}, of a {card.kind}.")
    if not card.evaluations:
        raise CardError(f"Expected a card that reports metrics, found {card.name!r}, which reports none.")
    recipe = evaluation_recipe(card)
    train = recipe.data.train.model_copy(update={"columns": dict(columns or {})})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train})}) if columns else recipe


def _trained_in_half(card: Card) -> bool:
    """Whether the card's own evaluation ran in 16 bits, as far as it says."""
    return any(argument(card, name) is True for name in ("fp16_full_eval", "bf16_full_eval", "fp16", "bf16"))


def _base(recipe: Recipe, asked: str | None) -> LoadedBase | None:
    """The card's base, or the one asked for; None where the card's cannot be had here."""
    if asked is None and recipe.base.model == "unknown":
        return None
    if asked is not None:
        return load_base(Base(model=recipe.base.model), asked)
    try:
        folder = model_folder(recipe.base.model, recipe.base.revision)
    except BaseError:
        return None
    return replace(load_base(str(folder)), name=recipe.base.model)


def _record(
    published: _Published,
    card: Card,
    recipe: Recipe,
    measured: CardTasks,
    started: LoadedBase | None,
    metric: str | None,
    sets: Sequence[str],
    command: Sequence[str] | None,
) -> dict[str, Any]:
    """What run.json says from the start; see `Run.record`."""
    given = Given(evaluation_sets=tuple(sets))
    base = {"asked": "auto", "model": recipe.base.model, "sha256": "", "stand_in": False}
    if started is None:
        base["note"] = f"The base {recipe.base.model} was not measured: it is not on this machine."
    else:
        base |= {"asked": started.asked, "model": started.name, "sha256": started.sha256}
        base |= {"stand_in": started.stand_in, "note": started.note}
    places = dict.fromkeys(each.place for each in measured.sets)
    return {
        "card": recipe.name,
        "variant": "published weights",
        "recipe_sha256": recipe_sha256(recipe),
        "base": base,
        "data": {
            "source": ", ".join(places) or recipe.data.train.location,
            "sha256": "",
            "stand_in": False,
            "note": "",
        },
        "statements": given.sentences(recipe, "", [each for each in measured.sets if not each.known]),
        "examples": measured.examples,
        "identity": [],
        "checks": [{"severity": c.severity, "message": c.message} for each in measured.sets for c in each.checks],
        "device": describe_device()[0],
        "precision": "fp32",
        "versions": package_versions(),
        "command": list(command or ()),
        "verification": {
            "model": published.name,
            "path": str(published.folder.resolve()),
            "sha256": published.loaded.sha256,
            "precision": "half" if published.half else "float32",
            "metric": metric,
            "problems": list(measured.problems),
        },
    }


def _create(runs: Path, recipe: Recipe, card: Card, record: Mapping[str, Any]) -> RunWriter:
    def write(run: Run) -> None:
        save_recipe(recipe, run.file("recipe"))
        write_json(run.file("card"), card_to_dict(card))

    return create(runs, card_name=recipe.name, recipe_sha256=str(record["recipe_sha256"]), record=record, write=write)
