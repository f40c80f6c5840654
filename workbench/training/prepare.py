"""What training needs, made and checked before a run folder exists: rows, base, loss, what is measured, the plan.

Whatever can be wrong beforehand is found here, so that a run which begins is one that can be trained. Where several
processes train, each of them prepares, from the same rows and in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from workbench.cards.known import PublicRows, known_card
from workbench.data.checks import Check, Tokens, check_pairs, evenly_spaced
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.training_rows import Splits, load_splits
from workbench.errors import DataError, RecipeError
from workbench.evaluation.retrieval import Encode
from workbench.evaluation.tasks import Task, recipe_tasks
from workbench.models.base import LoadedBase, cached_encode, hub_reachable, load_base, token_counts
from workbench.models.losses import build_loss
from workbench.recipe.from_card import HIDDEN_ADAPTER
from workbench.recipe.schema import Data, LossSpec, Origin, Recipe
from workbench.training.processes import world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from workbench.training.trainer import Plan

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan", "energy")

TEXTS_FOR_THE_BASE = 4000
"""Texts of each column, spread over the rows, that the base is shown before it is chosen."""


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, in memory and checked."""

    recipe: Recipe
    base: LoadedBase
    splits: Splits
    loss: nn.Module | dict[str, nn.Module]  # one for each dataset, where there are several
    tasks: Mapping[str, Task]  # "validation", "test", ...: what is measured before and after
    checks: tuple[Check, ...]
    plan: Plan
    data_note: str  # the sentence about stand-in rows; empty for the card's or the user's own
    notes: tuple[str, ...]  # what was done otherwise than the recipe says, a sentence each

    @property
    def rows(self) -> Dataset | dict[str, Dataset]:
        """The training rows, as the trainer takes them."""
        if not self.splits.more:
            return self.splits.train.rows
        more = {name: part.rows for name, part in self.splits.more.items()}
        return {self.recipe.data.name: self.splits.train.rows, **more}

    @property
    def held_out(self) -> Dataset | dict[str, Dataset] | None:
        """Rows for the loss on unseen data, under the name of the dataset whose they are where there are several."""
        part = self.splits.validation
        if part is None:
            return None
        return {self.recipe.data.name: part.rows} if self.splits.more else part.rows


def prepare(recipe: Recipe, base: str | None = None) -> Prepared:
    """Rows, base, loss, tasks and plan; everything that can be wrong before a run folder is made.

    `base`: see `load_base`. Raises DataError, BaseError or RecipeError.
    """
    from workbench.training.trainer import plan

    _can_be_trained(recipe)
    splits, data_note = rows_of(recipe)
    loaded = _base(recipe, base, _texts(splits))
    checks = _checks(recipe, splits, loaded)
    tasks, notes = recipe_tasks(recipe, splits, online=hub_reachable)
    planned = plan(
        recipe,
        [len(part) for part in (splits.train, *splits.more.values())],
        measured=bool(while_training(tasks)),
        processes=world_size(),
    )
    return Prepared(
        recipe=recipe,
        base=loaded,
        splits=splits,
        loss=_loss(recipe, loaded.model),
        tasks=tasks,
        checks=checks,
        data_note=data_note,
        plan=planned,
        notes=(*notes, *planned.notes, *_engine_note(recipe, loaded)),
    )


def _base(recipe: Recipe, asked: str | None, texts: list[str]) -> LoadedBase:
    """The base, or what stands in for it: that does without a prompt which it neither knows nor is trained with, and
    without an adapter of which the card shows nothing, because the learning rate on the card was not meant for one."""
    loaded = load_base(recipe.base, asked, seed=recipe.training.seed, texts=texts)
    if not loaded.stand_in:
        return loaded
    left: dict[str, Any] = {}
    notes = []
    if recipe.base.lora is not None and _origin(recipe, "base.lora.r").note == HIDDEN_ADAPTER:
        left["lora"] = None
        notes.append("It is trained in full: the card shows nothing of the adapter that lies beside it.")
    if recipe.base.prompts and not recipe.training.prompts:
        left["prompts"] = {}
        notes.append("It gets no prompts, because it neither knows the base's nor is trained with them.")
    if not left:
        return loaded
    again = load_base(recipe.base.model_copy(update=left), asked, seed=recipe.training.seed, texts=texts)
    return replace(again, note=" ".join((again.note, *notes)))


def _origin(recipe: Recipe, path: str) -> Origin:
    return recipe.provenance.get(path, Origin(source="default"))


def _engine_note(recipe: Recipe, loaded: LoadedBase) -> list[str]:
    """Why the fast engine that was asked for does not take the recipe, where it does not."""
    if recipe.training.engine == "trainer":
        return []
    from workbench.training.fast.engine import accepts

    why = accepts(recipe, loaded.model)
    return [] if why is None else [why]


def _can_be_trained(recipe: Recipe) -> None:
    """RecipeError for what there is no engine for."""
    if recipe.kind != "sentence-transformer":
        raise RecipeError(
            f"expected the recipe of a sentence-transformer, found a {recipe.kind}; such cards can be read and "
            "audited, and not trained yet."
        )
    if recipe.base.similarity not in SIMILARITIES:
        raise RecipeError(
            f"expected a similarity of {', '.join(SIMILARITIES)}, found {recipe.base.similarity!r}; "
            "set base.similarity to the one that was meant."
        )


# --- rows ----------------------------------------------------------------------------------------------------------


def rows_of(recipe: Recipe) -> tuple[Splits, str]:
    """The recipe's rows, or the shipped sample that stands in for them, and the sentence that says so.

    Raises DataError where the rows cannot be had and no sample stands in.
    """
    location, prompts = recipe.data.train.location, recipe.training.prompts
    card = known_card(recipe.card_sha256)
    if location.startswith("sample:"):
        note = f"The shipped sample {location.removeprefix('sample:')!r} stands in for the card's rows."
        return load_splits(recipe.data, prompts=prompts, online=hub_reachable), note
    given = _origin(recipe, "data.train.location").source == "user"
    known = card.train if card and location == "unknown" else None
    try:
        if known is not None:
            return _public(recipe, known), ""
        return load_splits(recipe.data, prompts=prompts, online=hub_reachable), ""
    except DataError:
        if card is None or given:
            raise
    why = "the card does not say where they are" if location == "unknown" else f"{location} cannot be had here"
    why = why if known is None else f"{why}, and {known.location}, which matches, cannot be had here"
    data = _taken_from(recipe, {"location": f"sample:{card.sample}", "columns": {}})
    return load_splits(
        data, prompts=prompts
    ), f"The shipped sample {card.sample!r} stands in for the card's rows ({why})."


def _public(recipe: Recipe, known: PublicRows) -> Splits:
    """The public rows that match what the card says, with a note that the card itself does not name them."""
    place = {"location": known.location, "columns": known.columns}
    splits = load_splits(_taken_from(recipe, place), prompts=recipe.training.prompts, online=hub_reachable)
    note = Check(
        "note",
        f"the rows are those of {known.location}, which match what the card says; the card does not name its own.",
    )
    return replace(splits, train=replace(splits.train, checks=(*splits.train.checks, note)))


def _taken_from(recipe: Recipe, place: Mapping[str, Any]) -> Data:
    return recipe.data.model_copy(update={"train": recipe.data.train.model_copy(update=dict(place))})


def _texts(splits: Splits) -> list[str]:
    """Texts of every column and dataset, spread over the rows."""
    parts = (splits.train, *splits.more.values())
    columns = [(part, column) for part in parts for column in part.columns if column not in LABEL_COLUMNS]
    return [text for part, column in columns for text in evenly_spaced(part, column, TEXTS_FOR_THE_BASE)]


def _checks(recipe: Recipe, splits: Splits, loaded: LoadedBase) -> tuple[Check, ...]:
    """What was found while reading and in the rows; raises DataError for what makes every number worthless."""
    parts = splits.parts()
    tokens = Tokens(token_counts(loaded.model), loaded.model.max_seq_length)
    evaluations = {name: part for name, part in parts.items() if name != "train"}
    read = [check for part in (*parts.values(), *splits.more.values()) for check in part.checks]
    checks = (*read, *check_pairs(splits.train, evaluations, tokens=tokens), *_expected_rows(recipe.data, splits))
    error = next((check for check in checks if check.severity == "error"), None)
    if error is not None:
        raise DataError(error.message)
    return tuple(dict.fromkeys(checks))


def _expected_rows(data: Data, splits: Splits) -> tuple[Check, ...]:
    """A warning where the card names another number of rows than were found."""
    parts = [len(part) for part in splits.parts().values()]
    if data.train.rows is None or data.train.rows in (sum(parts), parts[0]):
        return ()
    return (Check("warning", f"the card says {data.train.rows:,} rows, found {sum(parts):,} ({parts[0]:,} to train)."),)


# --- loss, tasks, encoder ------------------------------------------------------------------------------------------


def _loss(recipe: Recipe, model: SentenceTransformer) -> nn.Module | dict[str, nn.Module]:
    from workbench.training.trainer import quiet

    with quiet():
        first = build_loss(recipe.loss, model)
        more = {each.name: build_loss(each.loss, model) if each.loss else first for each in recipe.data.more}
    return {recipe.data.name: first, **more} if more else first


def measured(recipe: Recipe) -> dict[str, Task]:
    """What a run of `recipe` measures before and after, by name; raises DataError where its rows cannot be had."""
    return recipe_tasks(recipe, rows_of(recipe)[0], online=hub_reachable)[0]


def while_training(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The tasks that may be looked at while training: the test rows are measured before and after and not between."""
    return {name: task for name, task in tasks.items() if name.partition("_")[0] != "test"}


def encode_with(model: SentenceTransformer, recipe: Recipe, *, remember: bool = False) -> Encode:
    """The function that a model of `recipe` is measured with: vectors, or for the energy distance clouds of them.

    Without padding where the model can do without, else as the library encodes. `remember` keeps the vectors of texts
    that come again; the clouds of queries are not kept.
    """
    from workbench.models import encoding

    if recipe.base.similarity != "energy":
        vectors = encoding.encoder(model)
        return cached_encode(vectors) if remember else vectors
    settings = energy_settings(recipe)
    clouds = encoding.token_encoder(model, special_tokens=settings["special_tokens"])
    return _Clouds(clouds, cached_encode(clouds) if remember else clouds, **settings)


@dataclass(frozen=True)
class _Clouds:
    """An encoder for the energy distance; `evaluate` keeps its settings with what it measures."""

    queries: Encode
    documents: Encode
    distance: str
    special_tokens: bool

    def __call__(self, texts: list[str], kind: Literal["query", "document"]) -> Any:
        return self.queries(texts, kind) if kind == "query" else self.documents(texts, kind)


def energy_settings(recipe: Recipe) -> dict[str, Any]:
    """Distance and special tokens of the recipe's energy distance; its loss says them."""
    spec: LossSpec | None = recipe.loss
    while spec is not None and spec.parameters.get("similarity_fct") != "energy":
        spec = spec.inner
    parameters = spec.parameters if spec is not None else {}
    return {
        "distance": str(parameters.get("distance", "manhattan")),
        "special_tokens": bool(parameters.get("special_tokens", True)),
    }
