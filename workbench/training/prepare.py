"""What training needs, made and checked before a run folder exists: rows, base, loss, tasks, plan.

Whatever can be wrong beforehand is found here. Where several processes train, each of them prepares, in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from workbench.cards.known import known_card
from workbench.cards.metric_names import SIMILARITIES
from workbench.data.checks import Tokens, check_pairs, evenly_spaced
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.pairs import Check, Pairs, Splits
from workbench.data.training_rows import load_splits
from workbench.errors import DataError, RecipeError
from workbench.evaluation.comparability import GIVE_EXAMPLES
from workbench.evaluation.given_sets import GivenSet, not_measured, open_sets, public_sets
from workbench.evaluation.retrieval import Encode
from workbench.evaluation.tasks import NOTHING_HELD_OUT, Task, recipe_tasks
from workbench.models.base import LoadedBase, cached_encode, hub_reachable, load_base, token_counts
from workbench.models.losses import build_loss
from workbench.recipe.from_card import HIDDEN_ADAPTER
from workbench.recipe.schema import Origin, Recipe, leaves
from workbench.training.data_audit import audit_rows
from workbench.training.given import Given, with_division, with_statements
from workbench.training.known_examples import examples_of
from workbench.training.processes import world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from workbench.cards.card import Card
    from workbench.run import Run
    from workbench.training.job import Plan

TEXTS_FOR_THE_BASE = 4000
"""Texts of each column, spread over the rows, by which a stand-in base is chosen."""


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, in memory and checked."""

    recipe: Recipe
    base: LoadedBase
    splits: Splits
    loss: nn.Module | dict[str, nn.Module]  # one for each dataset, where there are several
    tasks: Mapping[str, Task]  # "validation", "test", ...: what is evaluated before and after
    checks: tuple[Check, ...]
    plan: Plan
    data_note: str  # the sentence about stand-in rows; empty for the card's or the user's own
    notes: tuple[str, ...]  # where training departs from the recipe, a sentence each
    given: Given  # what the user states about the card
    sets: tuple[GivenSet, ...]  # the user's evaluation sets; their tasks are among `tasks`

    @property
    def rows(self) -> Dataset | dict[str, Dataset]:
        """The training rows, as the trainer takes them."""
        if not self.splits.more:
            return self.splits.train.rows
        more = {name: part.rows for name, part in self.splits.more.items()}
        return {self.recipe.data.name: self.splits.train.rows, **more}

    @property
    def held_out(self) -> Dataset | dict[str, Dataset] | None:
        """Rows for the loss on unseen data; under the name of their dataset where there are several.

        None where the recipe says that its evaluations have no loss.
        """
        part, further = self.splits.validation, self.splits.more_held_out
        if not self.recipe.training.validation_loss:
            return None
        if not self.splits.more:
            return None if part is None else part.rows
        first = {} if part is None else {self.recipe.data.name: part.rows}
        return {**first, **{name: each.rows for name, each in further.items()}} or None

    def departures(self) -> dict[str, Any]:
        """What is trained in place of what the recipe asks for, by path: base, adapter, prompts, rows, dimensions."""
        from workbench.models.lora import has_adapter

        recipe, model, plan = self.recipe, self.base.model, self.recipe.evaluation
        base: dict[str, Any] = {
            "lora": recipe.base.lora if has_adapter(model) else None,
            "prompts": {name: text for name, text in model.prompts.items() if text},
        }
        if self.base.stand_in:
            modes = [module.pooling_mode for module in model if hasattr(module, "pooling_mode")]
            length = model.max_seq_length
            base |= {"model": self.base.name, "revision": None}
            base |= {"pooling": modes[0] if modes and isinstance(modes[0], str) else None}
            base |= {"max_seq_length": length if isinstance(length, int) else None}
        rows, most = sum(map(len, self.splits.parts().values())), model.get_embedding_dimension() or 0
        found = {
            "base": recipe.base.model_copy(update=base).model_dump(mode="json"),
            "data.train.location": self.splits.train.origin,
            "data.train.rows": None if recipe.data.train.rows is None else rows,
            "evaluation.truncate_dim": plan.truncate_dim if (plan.truncate_dim or most) < most else None,
            "training.fp16": self.plan.precision == "fp16",
            "training.bf16": self.plan.precision == "bf16",
        }
        asked = leaves(recipe) | {"base": recipe.base.model_dump(mode="json")}
        return {path: value for path, value in found.items() if value != asked[path]}

    @property
    def not_held_out(self) -> int:
        """How many further evaluation datasets of the card have no rows here: each draws a random number."""
        if not self.recipe.training.validation_loss:
            return 0
        known = len(self.held_out) if isinstance(self.held_out, dict) else 1
        return max(1 + sum(each.evaluation is not None for each in self.recipe.data.more) - known, 0)


def prepare(
    recipe: Recipe, base: str | None = None, *, card: Card | None = None, given: Given | None = None
) -> Prepared:
    """Rows, base, loss, tasks and plan; everything that can be wrong before a run folder is made.

    `base`: see `load_base`; `given`: what the user states about `card`. Raises DataError, BaseError or RecipeError.
    """
    from workbench.training.job import plan
    from workbench.training.trainer import check_arguments

    _require_trainable(recipe)
    check_arguments(recipe.training)
    given = given or Given()
    sets = open_sets(card, recipe, given.evaluation_sets, hub_reachable)
    recipe, pairs = with_division(with_statements(recipe, sets), card, given, hub_reachable)
    splits, data_note = recipe_rows(recipe, pairs)
    loaded = _load_base(recipe, base, splits, own=given.base_is_the_cards)
    checks = (*_checks(recipe, splits, loaded, card), *(check for each in sets for check in each.checks))
    tasks, notes = evaluation_tasks(recipe, sets, splits)
    planned = plan(
        recipe,
        [len(part) for part in (splits.train, *splits.more.values())],
        measured=bool(tasks_while_training(tasks, sets))
        or (recipe.training.validation_loss and splits.validation is not None),
        processes=world_size(),
    )
    notes += planned.notes
    if recipe.training.engine == "fast":
        from workbench.training.fast.engine import refusal

        reason = refusal(recipe, loaded.model)
        notes += [] if reason is None else [reason]
    loss = _build_loss(recipe, loaded.model)
    done = (recipe, loaded, splits, loss, tasks, checks, planned, data_note, tuple(notes))
    return Prepared(*done, given, tuple(sets))


def _require_trainable(recipe: Recipe) -> None:
    if recipe.kind != "sentence-transformer":
        raise RecipeError(
            f"expected the recipe of a sentence-transformer, found a {recipe.kind}; such cards can be read and "
            "audited, but not trained yet."
        )
    if recipe.base.similarity not in SIMILARITIES:
        raise RecipeError(
            f"expected a similarity of {', '.join(SIMILARITIES)}, found {recipe.base.similarity!r}; "
            "set base.similarity to the one that was meant."
        )


def _load_base(recipe: Recipe, asked: str | None, splits: Splits, *, own: bool) -> LoadedBase:
    """The base or a stand-in.

    A stand-in gets no prompts that it neither knows nor is trained with, and no adapter that the card does not show:
    the card's learning rate was not meant for one.
    """
    texts = [
        text
        for part in (splits.train, *splits.more.values())
        for column in part.columns
        if column not in LABEL_COLUMNS
        for text in evenly_spaced(part, column, TEXTS_FOR_THE_BASE)
    ]
    loaded = load_base(recipe.base, asked, seed=recipe.training.seed, texts=texts, own=own)
    without: dict[str, Any] = {}
    notes = []
    if recipe.base.lora is not None and _origin(recipe, "base.lora.r").note == HIDDEN_ADAPTER:
        without["lora"] = None
        notes.append("It is trained in full: the card shows nothing of the adapter beside it.")
    if recipe.base.prompts and not recipe.training.prompts:
        without["prompts"] = {}
        notes.append("It gets no prompts, because it neither knows the base's nor is trained with them.")
    if not (loaded.stand_in and without):
        return loaded
    again = load_base(recipe.base.model_copy(update=without), asked, seed=recipe.training.seed, texts=texts)
    return replace(again, note=" ".join((again.note, *notes)))


def _origin(recipe: Recipe, path: str) -> Origin:
    return recipe.provenance.get(path, Origin(source="default"))


def recipe_rows(recipe: Recipe, pairs: Pairs | None = None) -> tuple[Splits, str]:
    """The recipe's rows (`pairs`, where they are read already), or the shipped sample that stands in for them, and the
    sentence that says so ("" for its own).

    Where the card names no rows, known public rows that match it are used, with a note that the card does not name
    them. Raises DataError where the rows cannot be had and there is no sample.
    """

    def load(**place: Any) -> Splits:
        source = recipe.data.train.model_copy(update=place)
        data = recipe.data.model_copy(update={"train": source})
        return load_splits(data, prompts=recipe.training.prompts, online=hub_reachable, pairs=None if place else pairs)

    location, card = recipe.data.train.location, known_card(recipe.card_sha256)
    if location.startswith("sample:"):
        name = location.removeprefix("sample:")
        own = card is not None and card.own and card.sample == name
        return load(), "" if own else f"The shipped sample {name!r} stands in for the card's rows."
    public = card.train if card and location == "unknown" else None
    try:
        if public is None:
            return load(), ""
        splits = load(location=public.location, columns=public.columns)
    except DataError:
        if card is None or _origin(recipe, "data.train.location").source == "user":
            raise
    else:
        text = f"the rows are those of {public.location}, which match the card; the card does not name its own."
        checks = (*splits.train.checks, Check("note", text))
        return replace(splits, train=replace(splits.train, checks=checks)), ""
    reason = "the card does not say where they are" if location == "unknown" else f"{location} cannot be had here"
    if public is not None:
        reason += f", and {public.location}, which matches, cannot be had here"
    note = f"The shipped sample {card.sample!r} stands in for the card's rows ({reason})."
    return load(location=f"sample:{card.sample}", columns={}), note


def _checks(recipe: Recipe, splits: Splits, loaded: LoadedBase, card: Card | None) -> tuple[Check, ...]:
    """What was found in the rows; raises DataError for an error, which would make every number worthless."""
    parts, expected = splits.parts(), recipe.data.train.rows
    tokens = Tokens(lambda texts: token_counts(loaded.model, texts), loaded.model.max_seq_length)
    evaluations = {name: part for name, part in parts.items() if name != "train"}
    checks = [check for part in (*parts.values(), *splits.more.values()) for check in part.checks]
    checks += check_pairs(splits.train, evaluations, tokens=tokens)
    checks += audit_rows(recipe, splits, card)
    total, trained = sum(map(len, parts.values())), len(splits.train)
    if expected is not None and expected not in (total, trained):
        text = f"the card says {expected:,} rows, found {total:,} ({trained:,} to train)."
        checks.append(Check("warning", text))
    error = next((check for check in checks if check.severity == "error"), None)
    if error is not None:
        raise DataError(error.message)
    return tuple(dict.fromkeys(checks))


def _build_loss(recipe: Recipe, model: SentenceTransformer) -> nn.Module | dict[str, nn.Module]:
    from workbench.training.trainer import quiet

    with quiet():
        first = build_loss(recipe.loss, model)
        more = {each.name: build_loss(each.loss, model) if each.loss else first for each in recipe.data.more}
    return {recipe.data.name: first, **more} if more else first


def evaluation_tasks(
    recipe: Recipe, sets: Sequence[GivenSet] = (), splits: Splits | None = None
) -> tuple[dict[str, Task], list[str]]:
    """What a run of `recipe` evaluates before and after, by name, and notes; see `recipe_tasks`.

    The user's `sets` come first, also in place of the rows that they are; where they are known of the card, nothing is
    missing beside them. Raises DataError where rows cannot be had.
    """
    given = {name: task for each in sets for name, task in each.tasks.items()}
    if any(each.known for each in sets):
        return given, []
    found, notes = recipe_tasks(recipe, splits or recipe_rows(recipe)[0], online=hub_reachable)
    again = any(each.validates == "data.evaluation" and each.tasks for each in sets)
    held_out = {name: task for name, task in found.items() if not (again and name.partition("_")[0] == "validation")}
    notes = [note for note in notes if not (given and note.startswith(NOTHING_HELD_OUT))]
    return {**given, **{name: task for name, task in held_out.items() if name not in given}}, notes


@dataclass(frozen=True)
class CardTasks:
    """What a card's evaluations were measured on, as far as it can be had."""

    tasks: Mapping[str, Task]
    examples: Mapping[str, Mapping[str, Any]]  # task -> whether its examples are known to be the card's; see identity
    sets: tuple[GivenSet, ...]  # given by the user, known of the card, or named by it
    problems: tuple[str, ...]  # a sentence for each evaluation that has none


def card_tasks(card: Card, recipe: Recipe, values: Sequence[str] = ()) -> CardTasks:
    """The tasks of the evaluations that `card` reports, for a model that need not be trained.

    The user's sets (`values`, see `open_sets`) come first, then those known of the card, those that it names, and for
    evaluations that are still open the rows that the recipe holds out. A shipped sample stands in for nothing here.
    Raises DataError where a set of the user's cannot be read or belongs to nothing.
    """
    sets = open_sets(card, recipe, values, hub_reachable, counted=False)
    public, problems = public_sets(card, recipe, sets, hub_reachable)
    tasks = {name: task for each in (*sets, *public) for name, task in each.tasks.items()}
    splits, note = None, ""
    if open_ones := [name for name in not_measured(card, tasks) if name not in problems]:
        try:
            divided, pairs = with_division(with_statements(recipe, sets), card, Given(), hub_reachable)
            splits, note = recipe_rows(divided, pairs)
            held_out = {} if note else recipe_tasks(divided, splits, online=hub_reachable)[0]
        except DataError as error:
            held_out, note = {}, str(error)
        tasks |= {name: task for name, task in held_out.items() if name not in tasks}
        if not held_out:
            problems |= {name: f"{name} is not measured; {GIVE_EXAMPLES} {name}=PATH." for name in open_ones}
    sets = [*sets, *public]
    examples = examples_of(recipe, tasks, sets, splits, note, card)
    return CardTasks(tasks, examples, tuple(sets), tuple(problems.values()))


def run_tasks(run: Run) -> dict[str, Task]:
    """What a run evaluated, by name; raises DataError where its rows or sets cannot be had any more."""
    recipe: Recipe = run.recipe()
    card = run.card()
    if card is not None and run.record.get("verification") is not None:
        return dict(card_tasks(card, recipe, Given.of_record(run.record).evaluation_sets).tasks)
    sets = open_sets(card, recipe, Given.of_record(run.record).evaluation_sets, hub_reachable)
    return evaluation_tasks(recipe, sets)[0]


def tasks_while_training(tasks: Mapping[str, Task], sets: Sequence[GivenSet] = ()) -> dict[str, Task]:
    """The tasks that may be evaluated while training: the user's, and the others but those of the test rows."""
    given = {name for each in sets for name in each.tasks}
    return {name: task for name, task in tasks.items() if name in given or name.partition("_")[0] != "test"}


def encode_with(model: SentenceTransformer, recipe: Recipe, *, remember: bool = False) -> Encode:
    """The function that encodes for an evaluation of `recipe`: to vectors, or to token embeddings for energy distance.

    Without padding where the model allows, else as the library encodes. `remember` caches the vectors of texts, but
    not the token embeddings of queries.
    """
    from workbench.models import encoding

    if recipe.base.similarity != "energy":
        encode = encoding.encoder(model)
        return cached_encode(encode) if remember else encode
    settings = energy_settings(recipe)
    encode = encoding.token_encoder(model, special_tokens=settings["special_tokens"])
    return _EnergyEncoder(encode, cached_encode(encode) if remember else encode, **settings)


@dataclass(frozen=True)
class _EnergyEncoder:
    """An encoder for the energy distance; `evaluate` stores its settings with the results."""

    queries: Encode
    documents: Encode
    distance: str
    special_tokens: bool

    def __call__(self, texts: list[str], kind: Literal["query", "document"]) -> Any:
        return self.queries(texts, kind) if kind == "query" else self.documents(texts, kind)


def energy_settings(recipe: Recipe) -> dict[str, Any]:
    """Distance and special tokens of the recipe's energy distance, as its loss states them."""
    found = (each.parameters for each in recipe.loss.chain() if each.parameters.get("similarity_fct") == "energy")
    parameters = next(found, {})
    return {
        "distance": str(parameters.get("distance", "manhattan")),
        "special_tokens": bool(parameters.get("special_tokens", True)),
    }
