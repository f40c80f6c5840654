"""Comparison of a run with its card: replay, seeds, margin and the verdict; and of runs with each other.

A verdict needs comparable measurements: no problem (see `comparability`), and the same metrics on the card, by the same
evaluator, at the same dimensions. Everything else is `not comparable`, with the reasons; the numbers are shown in any
case. If a replay decides (see `replay`), one training is enough; otherwise `verdict.judge` does, with all runs that
differ in their seed only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.cards.card import Card
from workbench.cards.inference import infer
from workbench.cards.read import read_card
from workbench.errors import RunError
from workbench.evaluation import statistics
from workbench.evaluation.card_evaluation import (
    best_of,
    best_stage,
    card_evaluation,
    evaluation_label,
    evaluation_name,
    finished_evaluations,
    main_metric,
    table_stage,
    with_card_value,
)
from workbench.evaluation.card_replay import replay_of, same_examples
from workbench.evaluation.comparability import GIVE_EXAMPLES, comparability_problems, query_count_problems
from workbench.evaluation.compare_runs import common_card, compare_runs, compare_with_file
from workbench.evaluation.comparison import Comparison, MetricRow, number_text
from workbench.evaluation.examples import MetricValues, evaluation_size, has_examples, metric_values, unit
from workbench.evaluation.metric_tests import example_count, reading_notes, tested_fields
from workbench.evaluation.replay import Replay
from workbench.evaluation.verdict import RULE, Judgment, Measured, Verdict, default_margin, effect_ratio, judge
from workbench.run import Run, list_runs, open_run, write_json

if TYPE_CHECKING:
    from workbench.cards.card import Evaluation
    from workbench.recipe.schema import Recipe

SEED_PATH = "training.seed"


def compare(
    run: Run | str | os.PathLike[str] | Sequence[Run],
    *others: Run | str | os.PathLike[str],
    card: Card | str | os.PathLike[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    evaluation: str | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare a run with its card; or, with several runs, each other run with the first, and show the card beside them.

    `against` compares the run with rankings from elsewhere instead: a TREC run file (`query Q0 document rank score
    tag`) with the ids of `workbench export`, measured by the run's judgments, on the queries of both.

    A run may be given by its folder or name, as to `open_run`, the `card` as to `read_card`. A run that is one of
    several seeds (see `training.seeds.repeat`) is judged with all of them. `card` replaces the one in the run folder;
    by default several runs show the card that they all came from. `evaluation` names the run's evaluation; by default
    the one of the recipe, else "test", else "validation", else the first. `margin`: see `verdict.default_margin`.

    Raises RunError where a run cannot be read or has no such evaluation, or the margin is not above 0, and DataError
    where the file `against` is none, or has no query or document of the run.
    """
    given = (*((run,) if isinstance(run, Run | str | os.PathLike) else run), *others)
    runs = [open_run(each) for each in given]
    card = card if isinstance(card, Card | None) else read_card(card)
    if not runs:
        raise RunError("expected a run to compare, found none; name one, or several.")
    if against is not None:
        if len(runs) > 1:
            raise RunError(f"expected one run to compare with {str(against)!r}, found {len(runs)}; compare each alone.")
        return compare_with_file(runs[0], Path(against), card or runs[0].card(), evaluation, _checked_margin(margin))
    if len(runs) == 1:
        return _compare_with_card(runs[0], seed_runs(runs[0]), card or runs[0].card(), evaluation, margin)
    return compare_runs(runs, card or common_card(runs), evaluation, _checked_margin(margin))


def is_decided(run: Run) -> bool:
    """Whether more seeds could add nothing to the verdict on the card: its replay decides, or it is not comparable."""
    found = compare(run)
    return found.verdict == "not comparable" or (found.replay is not None and found.replay.verdict is not None)


def seed_runs(run: Run) -> list[Run]:
    """The finished runs that `repeat` made, `run` among them, by seed; `run` alone where it is no such run."""
    first = (run.record.get("repeat") or {}).get("first")
    if first is None or run.status != "finished":
        return [run]
    found = [
        other
        for other in list_runs(run.path.parent)
        if other.status == "finished" and (other.record.get("repeat") or {}).get("first") == first
    ]
    return sorted(found, key=lambda other: int(other.record["repeat"]["number"]))


def read_comparison(run: Run) -> dict[str, Any] | None:
    """The stored comparison of a run with its card; one by an older rule is judged anew and, if possible, stored.

    None where the run was not compared. Raises RunError where it cannot be read.
    """
    stored = run.comparison()
    if stored is None or stored.get("rule") == RULE:
        return stored
    anew = compare(run)
    with suppress(OSError):  # a folder that cannot be written to is judged each time
        save_comparison(run, anew)
    return anew.to_dict()


def save_comparison(run: Run, comparison: Comparison) -> Path:
    """Store a comparison as comparison.json in the run folder; returns its path."""
    path = run.file("comparison")
    write_json(path, comparison.to_dict())
    return path


# --- card and runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """One evaluation of the runs beside that of the card."""

    name: str
    theirs: Evaluation
    verdict: Verdict
    metrics: Mapping[str, Judgment]


def _compare_with_card(
    run: Run, runs: Sequence[Run], card: Card | None, wanted: str | None, margin: float | None
) -> Comparison:
    """`run` is the one whose numbers are shown, one of `runs`, which differ in their seed only."""
    recipe: Recipe = run.recipe()
    margin = _checked_margin(margin if margin is not None else run.record.get("margin"))
    name = evaluation_name(run, recipe, wanted)
    theirs, why, notes = card_evaluation(card, recipe, run, name)
    stage = "after" if name is None or theirs is None or card is None else table_stage(card, theirs, run, name)
    measured = {} if name is None else metric_values(run, name, stage)
    count, examples = example_count(measured), "queries" if name is None else unit(run, name)
    reasons = [
        problem for each in runs for problem in comparability_problems(each, each.recipe(), card, ignore=(SEED_PATH,))
    ]
    replay = None if card is None else replay_of(card, runs[0], runs[0].recipe())
    if card is None or card.evaluations or replay is None or replay.verdict is None:  # else its losses are all it says
        reasons += [*why, *([] if measured else [f"The run has no evaluation after training; {GIVE_EXAMPLES}."])]
    verification = run.record.get("verification")
    if theirs is not None and count is not None:
        (reasons if verification is None else notes).extend(query_count_problems(theirs, count, examples))
    if verification is not None and replay is not None and replay.verdict is None:
        reasons += [*_not_known(run), *map(str, verification.get("problems") or ())] or [replay.sentence]
    reasons = list(dict.fromkeys([*reasons, *_baseline_problems(replay)]))
    judged = [] if card is None or reasons else _judge_all(runs, card, recipe, margin, wanted=name)
    verdict, sentence = _verdict(reasons, replay, judged, len(runs))
    rows = [_with_seeds(row, runs, name, stage) for row in _rows(run.name, theirs, measured, reasons, judged, replay)]
    if verification is not None:
        rows = [replace(row, values=()) for row in rows]  # they are of no seed
    main = recipe.evaluation.main_metric
    same = None if name is None else same_examples(run, name)
    notes += _card_notes(runs, judged, stage, card, replay)
    notes += reading_notes(rows, main, measured, examples) + _other_evaluations(run, name, main)
    notes += run.damages() if measured else ()
    notes += [] if verification is None else [str(each) for each in verification.get("problems") or ()]
    return Comparison(
        kind="card",
        names=(f"card {card.name!r}" if card is not None else "no card", run.name),
        verdict=verdict,
        reasons=tuple(reasons),
        notes=tuple(notes),
        rows=tuple(rows),
        main_metric=main,
        evaluation=name,
        queries=count,
        unit=examples,
        sentence=sentence,
        seeds=() if verification else tuple(each.recipe().training.seed for each in runs),
        same_examples=same,
        effect_ratio=_effect_ratio(replay, rows, main),
        statements=tuple(str(each["sentence"]) for each in run.record.get("statements") or () if each.get("sentence")),
        replay=replay,
    )


def _checked_margin(margin: Any) -> float | None:
    if margin is None:
        return None
    if not isinstance(margin, int | float) or not 0 < margin < math.inf:
        raise RunError(f"expected a margin above 0, found {margin!r}; omit --margin for the usual one.")
    return float(margin)


def _verdict(
    reasons: Sequence[str], replay: Replay | None, judged: Sequence[_Judged], seeds: int
) -> tuple[Verdict, str]:
    """The verdict on the card, and the sentence that says what it rests on."""
    if reasons:
        return "not comparable", ""
    if replay is not None and replay.verdict is not None:
        return replay.verdict, replay.sentence
    order: tuple[Verdict, ...] = ("differs", "cannot tell", "reproduced")
    found = {each.verdict for each in judged}
    verdict: Verdict = next((word for word in order if word in found), "not comparable")
    rows = [(metric, row) for each in judged for metric, row in each.metrics.items() if row.verdict == verdict]
    trainings = "one training" if seeds == 1 else f"{seeds} trainings"
    if not rows:
        return "not comparable", ""
    if verdict == "reproduced":
        worst = max(row.detectable for _, row in rows)
        return verdict, f"Every metric is within the margin of the mean of {trainings} (up to {worst:.4f} off at most)."
    metric, row = max(rows, key=lambda pair: abs(pair[1].difference))
    return verdict, f"{len(rows)} of {sum(len(each.metrics) for each in judged)} metrics; {metric}: {row.reason}"


def _baseline_problems(replay: Replay | None) -> list[str]:
    """The base's numbers on the card that are not those of this base."""
    if replay is None or replay.verdict is not None:
        return []
    wrong = [each for each in replay.numbers if each.stage == "before" and not each.equal]
    if not wrong:
        return []
    return [f"The base is another one, or was measured on other examples: {wrong[0]}. Give the card's with --base."]


def _not_known(run: Run) -> list[str]:
    """Why none of the measured examples is known to be the card's."""
    examples = (run.record.get("examples") or {}).values()
    return list(dict.fromkeys(str(each["why"]) for each in examples if not each.get("same") and each.get("why")))


# --- seeds -----------------------------------------------------------------------------------------------------------


def _judge_all(
    runs: Sequence[Run], card: Card, recipe: Recipe, margin: float | None, wanted: str | None
) -> list[_Judged]:
    """Every evaluation of the card that the runs measured, the wanted one first."""
    found: list[_Judged] = []
    for name in sorted(finished_evaluations(runs[0]), key=lambda each: each != wanted):
        theirs = card_evaluation(card, recipe, runs[0], name)[0]
        if theirs is None or any(each.theirs == theirs for each in found):
            continue
        if name != wanted and not same_examples(runs[0], name):
            continue
        stages = [_stage_of(run, name, table_stage(card, theirs, runs[0], name)) for run in runs]
        if best_of(card, theirs) > 1 and not recipe.training.load_best_model_at_end:
            stages = [best_stage(run, name, main_metric(theirs)) for run in runs]
        verdict, metrics = _judge_evaluation(runs, theirs, name, stages, margin)
        if metrics:
            found.append(_Judged(name, theirs, verdict, metrics))
    return found


def _judge_evaluation(
    runs: Sequence[Run], theirs: Evaluation, name: str, stages: Sequence[str], margin: float | None
) -> tuple[Verdict, dict[str, Judgment]]:
    own = [metric_values(run, name, stage) for run, stage in zip(runs, stages, strict=True)]
    orders = [_order(runs[0], run, name) for run in runs]
    same, numbers, noise = same_examples(runs[0], name), {}, []
    for metric, value in theirs.metrics.items():
        if not math.isfinite(value) or not all(metric in each and math.isfinite(each[metric].after) for each in own):
            continue
        each = [one[metric] for one in own]
        table = _stack(each, orders)  # (seeds, examples)
        spread = None
        if table is not None and len(runs) > 1:
            spread = math.sqrt(float(table.var(axis=0, ddof=1).mean()) / table.shape[1])
        sampling = 0.0 if same or table is None else 2 * float(table[0].var(ddof=1)) / table.shape[1]
        if table is not None and np.isfinite(table).all():
            noise.append((table - table.mean(axis=0) if len(runs) > 1 else table - table.mean()).ravel())
        count = example_count(own[0]) or 1
        numbers[metric] = Measured(
            card=value,
            values=tuple(one.after for one in each),
            examples=count,
            spread=spread,
            sampling=sampling,
            margin=margin or default_margin(metric),
        )
    columns = np.stack([column for column in noise if len(column) == len(noise[0])], axis=1) if noise else None
    return judge(numbers, None if columns is None else lambda freedom: statistics.max_t_factor(columns, freedom))


def _stack(each: Sequence[MetricValues], orders: Sequence[Any]) -> Any:
    """(seeds, examples) values, of a statistic that is no mean its pseudo-values; None where a run has none."""
    if any(one.values is None or not np.isfinite(one.values).all() or len(one.values) < 2 for one in each):
        return None
    rows = [
        one.values[order] if one.statistic == "mean" else statistics.pseudo_values(one.statistic, one.gold, one.values)
        for one, order in zip(each, orders, strict=True)
    ]
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else None


def _order(first: Run, run: Run, name: str) -> Any:
    """An index that puts the run's queries in the order of the first run's; examples have one order."""
    if has_examples(first, name):
        return slice(None)
    own, wanted = (each.per_query(name, "after")["query_id"] for each in (run, first))
    return pd.Index(own).get_indexer(wanted)


# --- rows and notes --------------------------------------------------------------------------------------------------


def _rows(
    run: str,
    theirs: Evaluation | None,
    measured: Mapping[str, MetricValues],
    reasons: Sequence[str],
    judged: Sequence[_Judged],
    replay: Replay | None,
) -> list[MetricRow]:
    """A row for each metric of the card and of the run."""
    found, rows = tested_fields(measured), []
    own = next((each.metrics for each in judged if each.theirs == theirs), {})
    for metric in dict.fromkeys([*(theirs.metrics if theirs else ()), *measured]):
        row = with_card_value(MetricRow(metric, run=run, **found.get(metric, {})), theirs)
        if metric in measured:
            row = replace(row, before=measured[metric].before, after=measured[metric].after)
        if metric in own:
            rows.append(_judged_row(row, own[metric], replay, theirs))
            continue
        missing = "The run did not measure this metric."
        if row.card is None:
            missing = "The card does not report this metric."
        elif not math.isfinite(row.card):
            missing = "The card's number is not a number."
        rows.append(replace(row, verdict="not comparable", reason=next(iter(reasons), missing)))
    return rows


def _with_seeds(row: MetricRow, runs: Sequence[Run], name: str | None, stage: str) -> MetricRow:
    """The row with the numbers of all trainings, and their mean and standard deviation."""
    if name is None or row.after is None:
        return row
    found = [
        run.metrics(name, _stage_of(run, name, stage)).get(row.metric) for run in runs if name in run.evaluations()
    ]
    values = tuple(value for value in found if value is not None and math.isfinite(value))
    if len(values) < len(runs):
        return row
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else row.deviation
    return replace(row, values=values, mean=float(np.mean(values)), deviation=deviation)


def _stage_of(run: Run, name: str, stage: str) -> str:
    return stage if stage in run.evaluations()[name] else "after"


def _judged_row(row: MetricRow, judgment: Judgment, replay: Replay | None, theirs: Evaluation | None) -> MetricRow:
    """The row with what the rule says of it, or the replay where that decides."""
    if replay is not None and replay.verdict is not None and theirs is not None:
        name = f"{evaluation_label(theirs)} {row.metric}"
        number = next((each for each in replay.numbers if each.name == name and each.line == row.card_line), None)
        if number is not None:
            found = replace(row, card_difference=judgment.difference, margin=judgment.margin)
            if number.equal:
                return replace(found, verdict="reproduced exactly")
            return replace(found, verdict="differs", reason=f"{number}.")
    return replace(
        row,
        verdict=judgment.verdict,
        reason=judgment.reason,
        deviation=judgment.deviation,
        card_difference=judgment.difference,
        card_low=judgment.low,
        card_high=judgment.high,
        detectable=judgment.detectable,
        margin=judgment.margin,
    )


def _card_notes(
    runs: Sequence[Run], judged: Sequence[_Judged], stage: str, card: Card | None, replay: Replay | None
) -> list[str]:
    """Where and when the numbers were measured, and what the card's other evaluations say."""
    recipe, notes = runs[0].recipe(), []
    location, stated = recipe.data.evaluation, runs[0].record.get("statements")
    by_user = any(
        path.startswith("data.evaluation") and origin.source == "user" for path, origin in recipe.provenance.items()
    )
    if location is not None and by_user and not stated:
        notes.append(f"Measured on {location.location}, which the user named as the card's evaluation data.")
    if stage.startswith("step-"):
        notes.append(f"The card's table is of step {stage.removeprefix('step-')}, so ours is, too.")
    tries = best_of(card, judged[0].theirs) if judged and card is not None else 1
    if tries > 1 and (replay is None or replay.of == "training"):
        ours = "is of the same step" if replay is not None and replay.verdict is not None else "is our best"
        notes.append(f"The card's number is the best of {tries} evaluations while training; ours {ours}.")
    if judged and card is not None:
        at = next((place for place, each in enumerate(card.evaluations) if each is judged[0].theirs), None)
        resolved = None if at is None else infer(card).metrics[at].resolution
        notes += [] if resolved is None else [f"What the card's table can resolve: {resolved.sentence}."]
    return [*notes, *(f"{each.name}: {each.verdict} ({len(each.metrics)} metrics)." for each in judged[1:])]


def _effect_ratio(replay: Replay | None, rows: Sequence[MetricRow], main: str) -> float | None:
    """Breuer's effect ratio of the main metric, where the card prints the base's number."""
    row = next((row for row in rows if row.metric == main), None)
    before = next(
        (
            each.card
            for each in (replay.numbers if replay else ())
            if each.stage == "before" and each.name.endswith(main)
        ),
        None,
    )
    if row is None or before is None or row.before is None or row.card is None or row.mean is None:
        return None
    return effect_ratio((row.before, row.mean), (before, row.card))


def _other_evaluations(run: Run, name: str | None, main: str) -> list[str]:
    """The main metric on the run's other evaluations."""
    notes = []
    for other, stages in run.evaluations().items():
        if other != name and {"before", "after"} <= set(stages):
            before, after = (run.metrics(other, stage).get(main) for stage in ("before", "after"))
            if before is not None or after is not None:
                where = f"{other} ({evaluation_size(run, other):,} {unit(run, other)})"
                notes.append(f"On {where}: {main} {number_text(before)} before, {number_text(after)} after.")
    return notes
