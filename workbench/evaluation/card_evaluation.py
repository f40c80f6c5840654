"""Which evaluation of a card and which of a run belong together."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import RecipeError, RunError
from workbench.evaluation.comparability import GIVE_EXAMPLES
from workbench.evaluation.comparison import MetricRow
from workbench.evaluation.retrieval import folder_name
from workbench.evaluation.verdict import HALF_DIGIT
from workbench.recipe.from_card import recipe as recipe_from_card
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation
    from workbench.recipe.schema import Recipe


def finished_evaluations(run: Run) -> list[str]:
    return [name for name, stages in run.evaluations().items() if "after" in stages]


def evaluation_name(run: Run, recipe: Recipe, wanted: str | None) -> str | None:
    """The evaluation to compare, see `compare`; None where there is none after training."""
    finished = finished_evaluations(run)
    if wanted is not None and folder_name(wanted) not in finished:
        raise RunError(
            f"expected an evaluation {wanted!r} after training in run {run.name!r}, found "
            f"{', '.join(map(repr, finished)) or 'none'}; choose one of them."
        )
    order = [wanted, recipe.evaluation.name, "test", "validation", *finished]  # nothing was chosen on the test rows
    return next((folder_name(name) for name in order if name is not None and folder_name(name) in finished), None)


def card_evaluation(
    card: Card | None, recipe: Recipe, run: Run, name: str | None
) -> tuple[Evaluation | None, list[str], list[str]]:
    """The card's evaluation that corresponds to ours, why there is none, and how it was chosen."""
    if card is None:
        return None, ["There is no card to compare with."], []
    settings = run.settings(name, "after") if name is not None else {}
    planned = recipe.evaluation.evaluator.rpartition(".")[2]
    kind = planned if name is None else str(settings.get("kind") or "InformationRetrievalEvaluator")
    same = [each for each in card.evaluations if (each.evaluator or "").rpartition(".")[2] == kind and each.metrics]
    if not same:
        advice = f"; {GIVE_EXAMPLES}" if card.evaluations else ""
        return None, [f"The card reports no evaluation by {kind}{advice}."], []
    cut = settings.get("truncate_dim")
    if "truncate_dim" in settings:
        usual, in_name = cut == _card_dimensions(recipe, card), str(cut) in re.findall(r"\d+", str(name))
        same = [
            each
            for each in same
            for own in [usual or (in_name and name in list(map(folder_name, each.datasets)))]
            if each.parameters.get("truncate_dim", cut if own else "another") == cut
        ]
        if not same:
            return None, [f"The card reports no evaluation at {cut or 'all'} dimensions; {GIVE_EXAMPLES}."], []
    called = {name, str(name).removesuffix(f"_{cut}")}  # a set that is measured at several dimensions has them in both
    own = [each for each in same if called & set(map(folder_name, each.datasets))]
    named = own or [each for each in same if {recipe.evaluation.name, name} & {each.name, *each.datasets}]
    if not named and len({each.datasets for each in same}) > 1:
        sets = ", ".join(sorted({dataset for each in same for dataset in each.datasets}))
        text = f"The card's {len(same)} evaluations are of {sets}, and the run measured {name!r}"
        return None, [f"{text}; {GIVE_EXAMPLES}."], []
    candidates = named or same
    chosen = candidates[-1]
    if len(candidates) == 1:
        return chosen, [], []
    where = f" (lines {chosen.lines[0]} to {chosen.lines[1]})" if chosen.lines else ""
    label = next(iter(chosen.datasets), chosen.name)
    return chosen, [], [f"The card has {len(candidates)} evaluations named {label!r}; its last one{where} is compared."]


def _card_dimensions(recipe: Recipe, card: Card) -> int | None:
    """The dimensions that the card measured at, as far as it says; the run's recipe may have others."""
    try:
        return recipe_from_card(card).evaluation.truncate_dim
    except RecipeError:
        return recipe.evaluation.truncate_dim


def with_card_value(row: MetricRow, theirs: Evaluation | None) -> MetricRow:
    if theirs is None or row.metric not in theirs.metrics:
        return row
    return replace(row, card=theirs.metrics[row.metric], card_line=theirs.metric_lines.get(row.metric))


def table_stage(card: Card, theirs: Evaluation, run: Run, name: str) -> str:
    """The stage of our evaluation that the card's table of metrics is of: "after", or "step-N".

    The trainer prints an evaluator's last result: that is the model it kept only where it was evaluated once more.
    """
    main = main_metric(theirs)
    for step, value in reversed(_logged(card, theirs)):
        if abs(value - theirs.metrics[main]) <= HALF_DIGIT:
            stage = f"step-{step}"
            return stage if step != _kept_step(run) and stage in run.evaluations()[name] else "after"
    return "after"


def best_of(card: Card, theirs: Evaluation) -> int:
    """Of how many logged evaluations the card's main number is the highest; 1 where it is not known to be."""
    values = [value for step, value in _logged(card, theirs) if step > 0]
    best = len(values) > 1 and abs(max(values) - theirs.metrics[main_metric(theirs)]) <= HALF_DIGIT
    return len(values) if best and max(values) > min(values) else 1


def best_stage(run: Run, name: str, metric: str) -> str:
    """The stage while training, or after it, at which a run's metric is highest."""
    stages = [stage for stage in run.evaluations()[name] if stage != "before"]
    return max(stages, key=lambda stage: run.metrics(name, stage).get(metric, -math.inf), default="after")


def evaluation_label(theirs: Evaluation) -> str:
    """What an evaluation is called in a list of all numbers of a card: its set, and the dimensions that it states."""
    label, cut = next(iter(theirs.datasets), theirs.name), theirs.parameters.get("truncate_dim")
    return label if cut is None or str(cut) in re.findall(r"\d+", label) else f"{label} ({cut} dimensions)"


def main_metric(theirs: Evaluation) -> str:
    return theirs.main_metric or next(iter(theirs.metrics), "")


def _logged(card: Card, theirs: Evaluation) -> list[tuple[int, float]]:
    """(step, value) of the main metric in the card's log; step -1 is outside training."""
    main = main_metric(theirs)
    columns = {main, *(f"{dataset}_{main}" for dataset in theirs.datasets)}
    return [
        (row.step, value)
        for row in card.training_log
        for column, value in row.metrics.items()
        if row.step is not None and column in columns and value is not None
    ]


def _kept_step(run: Run) -> int | None:
    record, recipe = run.record, run.recipe()
    kept = record.get("best") if recipe.training.load_best_model_at_end else record.get("progress")
    step = (kept or {}).get("step")
    return step if isinstance(step, int) else None
