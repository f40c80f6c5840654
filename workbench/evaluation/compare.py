"""Comparison of a run with its card, or of runs with each other: differences, intervals, tests and a verdict.

`reproduced` and `differs` need comparable measurements: no problem (see `comparability_problems`), and the same metric
on the card, by the same evaluator, at the same dimensions. Everything else is `not comparable`, with the reasons. The
numbers are shown in any case.

Intervals are over the queries, pairs or triplets that were measured (see `statistics`). The card's are not known to be
the same ones, and the card does not state its own uncertainty: a value just outside our interval is weak evidence.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from workbench.errors import RecipeError, RunError
from workbench.evaluation import statistics
from workbench.evaluation.comparability import ROUNDING, comparability_problems, query_count_problems
from workbench.evaluation.examples import MetricValues, has_examples, metric_values, unit
from workbench.evaluation.retrieval import folder_name
from workbench.recipe.from_card import recipe as recipe_from_card
from workbench.run import Run, write_json

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation
    from workbench.recipe.schema import Recipe

Verdict = Literal["reproduced", "differs", "not comparable", "no significant difference"]
"""`no significant difference` is for runs only, `reproduced` for a card."""

LEVEL = 0.05  # significance level, after Holm's correction


@dataclass(frozen=True)
class MetricRow:
    """One metric. Card against run: before and after training. Run against run: the first and the other run, and the
    card's number beside them."""

    metric: str  # as the library names it: "cosine_ndcg@10"
    card: float | None = None  # as the card prints it
    before: float | None = None
    after: float | None = None
    low: float | None = None  # 95% interval of `after`
    high: float | None = None
    card_line: int | None = None
    verdict: Verdict | Literal[""] = ""  # empty where nothing was compared
    reason: str = ""  # why there is no verdict; empty where there is one
    difference: float | None = None  # after - before, paired by query
    difference_low: float | None = None  # 95% interval of the difference
    difference_high: float | None = None
    p: float | None = None  # of the difference, paired randomization test
    p_holm: float | None = None  # corrected for all separate tests of the comparison
    same_test: str = ""  # another metric whose changes differ by a constant factor only: one test, not two
    wins: int | None = None  # queries, or other examples, that are better after
    ties: int | None = None
    losses: int | None = None
    queries_needed: int | None = None  # to detect a difference of 0.01
    run: str = ""  # the run that `after` is from


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `compare`. `rows` are in the card's order, the run's where there is no card."""

    kind: Literal["card", "runs"]
    names: tuple[str, ...]  # card and run, or the runs
    verdict: Verdict  # that of the main metric; of several runs, the strongest
    reasons: tuple[str, ...]  # why it is not comparable, a sentence each
    notes: tuple[str, ...]  # how it was measured and chosen, a sentence each
    rows: tuple[MetricRow, ...]
    main_metric: str
    evaluation: str | None = None  # the run's evaluation that was compared
    queries: int | None = None  # how many were measured one by one
    unit: str = "queries"  # what they are: "pairs", "triplets"

    @property
    def main(self) -> MetricRow | None:
        """The row of the main metric."""
        return next((row for row in self.rows if row.metric == self.main_metric), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""

        def finite(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows = [{key: finite(value) for key, value in asdict(row).items()} for row in self.rows]
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return {**plain, "rows": rows}

    def _frame(self, minus: str = "-", none: str = "-") -> pd.DataFrame:
        """Every number as text, a row per metric."""

        def number(value: float | None, sign: str = "") -> str:
            return none if value is None else _number(value, sign).replace("-", minus)

        def interval(low: float | None, high: float | None) -> str:
            return none if low is None or high is None else f"{number(low)} to {number(high)}"

        first, last = ("before", "after") if self.kind == "card" else ("first", "other")
        rows = []
        for row in self.rows:
            p = none if row.p_holm is None else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
            cells = {"card": number(row.card), first: number(row.before), last: number(row.after)}
            cells |= {f"95% CI of {last}": interval(row.low, row.high), "change": number(row.difference, "+")}
            if self.kind == "runs":
                cells["95% CI of change"] = interval(row.difference_low, row.difference_high)
            cells |= {"p": p, "verdict": f"{row.verdict} ({row.run})" if len(self.names) > 2 else row.verdict}
            rows.append(cells)
        names = [f"{row.metric} *" if row.metric == self.main_metric else row.metric for row in self.rows]
        frame = pd.DataFrame(rows, index=names).rename_axis(columns="metric")
        shows_card = self.kind == "card" or any(row.card is not None for row in self.rows)
        return frame if shows_card else frame.drop(columns="card", errors="ignore")

    def __repr__(self) -> str:
        lines = [f"{' and '.join(self.names)}: {self.verdict}"]
        lines += [self._frame().to_string()] if self.rows else []
        return "\n".join([*lines, *(f"- {reason}" for reason in self.reasons), *self.notes])

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        title = f"<b>{html.escape(self.verdict)}</b> ({html.escape(' and '.join(self.names))})"
        return f"<p>{title}</p>{self._frame('−', '–').to_html(border=0)}<ul>{reasons}</ul>{notes}"


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def compare(
    run: Run | Sequence[Run], *others: Run, card: Card | None = None, evaluation: str | None = None
) -> Comparison:
    """Compare a run with its card; or, with several runs, each other run with the first, and show the card beside them.

    `card` replaces the one in the run folder; by default several runs show the card that they all came from.
    `evaluation` names the run's evaluation; by default the one of the recipe, else "test", else "validation", else the
    first.

    Raises RunError where a run cannot be read or has no such evaluation.
    """
    runs = (*((run,) if isinstance(run, Run) else run), *others)
    if not runs:
        raise RunError("expected a run to compare, found none; name one, or several.")
    if len(runs) == 1:
        return _compare_with_card(runs[0], card or runs[0].card(), evaluation)
    return _compare_runs(runs, card or _common_card(runs), evaluation)


def save_comparison(run: Run, comparison: Comparison) -> Path:
    """Store a comparison as comparison.json in the run folder; returns its path."""
    path = run.file("comparison")
    write_json(path, comparison.to_dict())
    return path


# --- card and run ----------------------------------------------------------------------------------------------------


def _compare_with_card(run: Run, card: Card | None, wanted: str | None) -> Comparison:
    recipe: Recipe = run.recipe()
    name = evaluation_name(run, recipe, wanted)
    theirs, reasons, notes = card_evaluation(card, recipe, run, name)
    measured = metric_values(run, name) if name is not None else {}
    count, examples = _count(measured), unit(run, name) if name is not None else "queries"
    reasons = [*comparability_problems(run, recipe, card), *reasons]
    if name is None or not measured:
        reasons.append("The run has no evaluation after training.")
    elif theirs is not None and count is not None:
        reasons += query_count_problems(theirs, count, examples)
    found = _test(measured)
    rows = _correct(
        [
            _card_row(MetricRow(metric, run=run.name, **found.get(metric, {})), theirs, measured.get(metric), reasons)
            for metric in dict.fromkeys([*(theirs.metrics if theirs else ()), *measured])
        ]
    )
    main, location = recipe.evaluation.main_metric, recipe.data.evaluation
    if location is not None and any(
        path.startswith("data.evaluation") and origin.source == "user" for path, origin in recipe.provenance.items()
    ):
        notes.append(f"Measured on {location.location}, which the user named as the card's evaluation data.")
    notes += _reading_notes(rows, main, measured, examples)
    decided = [row.verdict for row in rows if row.verdict in ("reproduced", "differs")]
    if decided:
        inside = decided.count("reproduced")
        notes.append(f"The card's value is inside our interval for {inside} of {len(decided)} metrics.")
    notes += _other_evaluations(run, name, main)
    verdicts: set[Any] = {row.verdict for row in rows if row.metric == main} or set(decided)
    names = (f"card {card.name!r}" if card is not None else "no card", run.name)
    verdict = _strongest(verdicts, "reproduced")
    return Comparison("card", names, verdict, tuple(reasons), tuple(notes), rows, main, name, count, examples)


def _strongest(verdicts: Collection[str], agreement: Verdict) -> Verdict:
    order: tuple[Verdict, ...] = ("differs", agreement, "not comparable")
    return next((verdict for verdict in order if verdict in verdicts), "not comparable")


def _count(measured: Mapping[str, MetricValues]) -> int | None:
    """How many queries or examples were measured; None where none of their values were stored."""
    return next((len(each.values) for each in measured.values() if each.values is not None), None)


def evaluation_name(run: Run, recipe: Recipe, wanted: str | None) -> str | None:
    """The evaluation to compare, see `compare`; None where there is none after training."""
    finished = _finished_evaluations(run)
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
        return None, [f"The card reports no evaluation by {kind}."], []
    cut = settings.get("truncate_dim")
    if "truncate_dim" in settings:
        unstated = cut if cut == _card_dimensions(recipe, card) else "another"
        same = [each for each in same if each.parameters.get("truncate_dim", unstated) == cut]
        if not same:
            return None, [f"The card reports no evaluation at {cut or 'all'} dimensions."], []
    named = [each for each in same if {recipe.evaluation.name, name} & {each.name, *each.datasets}]
    if not named and len({each.datasets for each in same}) > 1:
        sets = ", ".join(sorted({dataset for each in same for dataset in each.datasets}))
        return None, [f"The card's {len(same)} evaluations are of {sets}, and the run measured {name!r}."], []
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


def _card_row(
    row: MetricRow, theirs: Evaluation | None, ours: MetricValues | None, reasons: Sequence[str]
) -> MetricRow:
    """The row of one metric with both sides and the verdict."""
    row = replace(_with_card_value(row, theirs), verdict="not comparable")
    if ours is None:
        return replace(row, reason=next(iter(reasons), "The run did not measure this metric."))
    row = replace(row, before=ours.before, after=ours.after)
    return replace(row, **card_verdict(row.card, (row.low, row.high), reasons))


def card_verdict(
    card: float | None, interval: tuple[float | None, float | None], reasons: Sequence[str], drawn: str = "queries"
) -> dict[str, Any]:
    """Fields of a row: whether the card's number is inside our interval, or why there is no verdict.

    >>> card_verdict(0.5, (0.4, 0.6), []), card_verdict(None, (0.4, 0.6), [])
    ({'verdict': 'reproduced'}, {'reason': 'The card does not report this metric.'})
    """
    low, high = interval
    if reasons:
        return {"reason": reasons[0]}
    if card is None or math.isnan(card):
        return {"reason": "The card does not report this metric."}
    if low is None or high is None:
        return {"reason": "No values per query were stored, so there is no interval."}
    inside = low - ROUNDING <= card <= high + ROUNDING
    if not inside and low == high:
        return {"reason": f"All {drawn} have the same value, so resampling them gives no interval."}
    return {"verdict": "reproduced" if inside else "differs"}


# --- tests -----------------------------------------------------------------------------------------------------------


def _test(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metric -> the fields of its MetricRow that come from values per query or example."""
    complete = {
        metric: each if _is_complete(each.earlier) else replace(each, earlier=None)
        for metric, each in measured.items()
        if _is_complete(each.values)
    }
    means = {metric: each for metric, each in complete.items() if each.statistic == "mean"}
    others = {metric: _test_statistic(each) for metric, each in complete.items() if metric not in means}
    return _test_means(means) | others


def _is_complete(values: Any) -> bool:
    """Whether there is a finite value for every query."""
    return values is not None and len(values) > 0 and bool(np.isfinite(values).all())


def _test_means(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metrics that are means over queries, all in one go; `earlier` is paired with `values`, or None."""
    if not measured:
        return {}
    values = np.stack([each.values for each in measured.values()], axis=1)  # (queries, metrics)
    ends = zip(measured, *statistics.bootstrap_interval(values), strict=True)
    found: dict[str, dict[str, Any]] = {metric: {"low": float(low), "high": float(high)} for metric, low, high in ends}
    names = [metric for metric, each in measured.items() if each.earlier is not None]
    if names:
        changes = np.stack([measured[metric].values - measured[metric].earlier for metric in names], axis=1)
        low, high = statistics.bootstrap_interval(changes)
        p, needed = statistics.randomization_test(changes), statistics.queries_needed(changes)
        first = statistics.first_proportional(changes)
        for at, metric in enumerate(names):
            found[metric] |= {
                "difference": float(changes[:, at].mean()),
                "difference_low": float(low[at]),
                "difference_high": float(high[at]),
                "p": float(p[first[at]]),
                "same_test": names[first[at]] if first[at] != at else "",
                **_wins(changes[:, at]),
                "queries_needed": needed[at],
            }
    return found


def _wins(changes: Any) -> dict[str, int]:
    return {"wins": int((changes > 0).sum()), "ties": int((changes == 0).sum()), "losses": int((changes < 0).sum())}


def _test_statistic(each: MetricValues) -> dict[str, Any]:
    """A metric that is not a mean, such as a rank correlation. An example wins that comes nearer to its right place."""
    low, high = statistics.statistic_interval(each.statistic, each.gold, each.values)
    if math.isnan(low):
        return {}  # undefined on these examples
    found: dict[str, Any] = {"low": low, "high": high}
    if each.earlier is not None and each.before is not None and math.isfinite(each.before):
        paired = statistics.paired_statistic(each.statistic, each.gold, each.earlier, each.values)
        before, after = (statistics.agreement(each.statistic, each.gold, side) for side in (each.earlier, each.values))
        found |= {
            "difference": each.after - each.before,
            "difference_low": paired.low,
            "difference_high": paired.high,
            "p": paired.p,
            **_wins(after - before),
            "queries_needed": paired.needed,
        }
    return found


def _correct(rows: Sequence[MetricRow]) -> tuple[MetricRow, ...]:
    """The rows with their p-values corrected for all separate tests."""
    tests = [(row.run, row.same_test or row.metric) for row in rows]
    tested = {test: row.p for test, row in zip(tests, rows, strict=True) if row.p is not None}
    corrected = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    return tuple(replace(row, p_holm=corrected.get(test)) for test, row in zip(tests, rows, strict=True))


# --- notes -----------------------------------------------------------------------------------------------------------


def _other_evaluations(run: Run, name: str | None, main: str) -> list[str]:
    """The main metric on the run's other evaluations."""
    notes = []
    for other, stages in run.evaluations().items():
        if other != name and {"before", "after"} <= set(stages):
            before, after = (run.metrics(other, stage).get(main) for stage in ("before", "after"))
            settings = run.settings(other, "after")
            size = settings["items"] if has_examples(run, other) else len(run.per_query(other, "after"))
            if before is not None or after is not None:
                where = f"{other} ({size:,} {unit(run, other)})"
                notes.append(f"On {where}: {main} {_number(before)} before, {_number(after)} after.")
    return notes


def _reading_notes(
    rows: Sequence[MetricRow], main: str, measured: Mapping[str, MetricValues], examples: str
) -> list[str]:
    """How to read the table."""
    count = _count(measured)
    if count is None:
        return []
    means = all(each.statistic == "mean" for each in measured.values())
    resamples = statistics.RESAMPLES if means else statistics.resample_count(count)
    tested = [row for row in rows if row.p is not None]
    separate = sum(not row.same_test for row in tested)
    same = "" if separate == len(tested) else f", of which {separate} are separate tests: the others differ by a factor"
    binary = " Relevance is binary, as in the library's evaluator: a graded judgment above 0 counts as 1."
    notes = [
        f"* main metric. Intervals: 95%, percentile bootstrap over {count:,} {examples}, "
        f"{resamples:,} resamples, seed {statistics.SEED}. p: paired randomization test of "
        f"the change, corrected by Holm for all {len(tested)} metrics{same}.{binary if examples == 'queries' else ''}"
    ]
    decisive = [row for row in rows if row.metric == main]
    for row in decisive:
        if row.wins is not None:
            where = f" in {row.run}" if len({each.run for each in rows}) > 1 else ""
            notes.append(
                f"Change of {main}{where}: {row.difference:+.4f} (95% interval {row.difference_low:+.4f} to "
                f"{row.difference_high:+.4f}, of this metric alone); {row.wins:,} {examples} better, {row.ties:,} "
                f"equal, {row.losses:,} worse."
            )
    needed = decisive[0].queries_needed if decisive else None
    if needed is not None:
        many = f"about {needed:,}" if needed >= 10 else "fewer than 10"
        notes.append(f"Detecting a change of {statistics.EFFECT} in {main} would take {many} {examples} (80% power).")
    if any(each.earlier is not None and not _is_complete(each.earlier) for each in measured.values()):
        notes.append(f"Not all {count:,} {examples} have a value before training, so their changes are not tested.")
    return notes


# --- runs ------------------------------------------------------------------------------------------------------------


def _common_card(runs: Sequence[Run]) -> Card | None:
    """The card that all runs came from; None where they differ."""
    cards: list[Card | None] = [run.card() for run in runs]
    return cards[0] if len({each.sha256 if each is not None else None for each in cards}) == 1 else None


def _compare_runs(runs: Sequence[Run], card: Card | None, wanted: str | None) -> Comparison:
    """Each other run with the first, on their common queries, and the card's numbers beside them."""
    first = runs[0]
    recipe: Recipe = first.recipe()
    name, main = evaluation_name(first, recipe, wanted), recipe.evaluation.main_metric
    examples = unit(first, name) if name is not None else "queries"
    rows: list[MetricRow] = []
    reasons: list[str] = []
    shared: dict[str, MetricValues] = {}
    for other in runs[1:]:
        problems = pairing_problems(first, other, name)
        reasons += problems
        mine = metric_values(first, name) if name is not None else {}
        theirs = metric_values(other, name) if name is not None and name in _finished_evaluations(other) else {}
        if not problems and name is not None:
            mine = shared = _align(first, other, name, mine)
        rows += _run_rows(other.name, mine, theirs, problems)
    decided = _correct(rows)
    printed, notes = None, _reading_notes(decided, main, shared, examples)
    if card is not None:
        printed, why, chosen = card_evaluation(card, recipe, first, name)
        notes += chosen
        notes.append(
            f"The card {card.name!r} is not shown: {why[0]}"
            if printed is None
            else f"The card {card.name!r} is shown beside the runs; compare one run alone for its verdict."
        )
    decided = tuple(_with_card_value(row, printed) for row in map(_with_verdict, decided))
    verdicts = {row.verdict for row in decided if row.metric == main} or {row.verdict for row in decided}
    names, verdict = tuple(run.name for run in runs), _strongest(verdicts, "no significant difference")
    return Comparison(
        "runs", names, verdict, tuple(reasons), tuple(notes), decided, main, name, _count(shared), examples
    )


def _with_verdict(row: MetricRow) -> MetricRow:
    if row.p_holm is None:
        return row
    return replace(row, verdict="differs" if row.p_holm < LEVEL else "no significant difference")


def _with_card_value(row: MetricRow, theirs: Evaluation | None) -> MetricRow:
    if theirs is None or row.metric not in theirs.metrics:
        return row
    return replace(row, card=theirs.metrics[row.metric], card_line=theirs.metric_lines.get(row.metric))


def _finished_evaluations(run: Run) -> list[str]:
    return [name for name, stages in run.evaluations().items() if "after" in stages]


def pairing_problems(first: Run, other: Run, name: str | None) -> list[str]:
    """Why two runs cannot be compared query by query; empty where they can."""
    if name is None:
        return [f"{first.name} has no evaluation after training."]
    if name not in _finished_evaluations(other):
        return [f"{other.name} has no evaluation {name!r} after training."]
    settings = [run.settings(name, "after") for run in (first, other)]
    if has_examples(first, name) or has_examples(other, name):
        hashes = [each.get("items_sha256") for each in settings]
        same = hashes[0] is not None and hashes[0] == hashes[1]
        return [] if same else [f"{first.name} and {other.name} did not measure the same {unit(first, name)}."]
    tables = [run.per_query(name, "after") for run in (first, other)]
    mine, theirs = (dict(zip(table["query_id"], table["query"], strict=True)) for table in tables)
    if mine != theirs:
        shared = sum(theirs.get(query) == text for query, text in mine.items())
        return [
            f"{first.name} and {other.name} do not share their queries: {shared:,} of {len(mine):,} and "
            f"{len(theirs):,} are the same."
        ]
    collections = [each.get("collection_sha256") for each in settings]
    if None not in collections and collections[0] != collections[1]:
        return [f"{first.name} and {other.name} searched other documents, or judged them otherwise."]
    return []


def _align(first: Run, other: Run, name: str, mine: dict[str, MetricValues]) -> dict[str, MetricValues]:
    """The first run's values in the order of the other's queries; equal examples have equal order."""
    if has_examples(first, name):
        return mine
    place = {query: row for row, query in enumerate(first.per_query(name, "after")["query_id"])}
    order = [place[query] for query in other.per_query(name, "after")["query_id"]]
    return {
        metric: each if each.values is None else replace(each, values=each.values[order])
        for metric, each in mine.items()
    }


def _run_rows(
    run: str, mine: Mapping[str, MetricValues], theirs: Mapping[str, MetricValues], problems: Sequence[str]
) -> list[MetricRow]:
    """A row per metric of either run; the first run's values are paired with the other's."""
    both = {
        metric: replace(theirs[metric], before=each.after, earlier=each.values)
        for metric, each in mine.items()
        if metric in theirs and not problems
    }
    found = _test(both)
    rows = []
    for metric in dict.fromkeys([*mine, *theirs]):
        left, right = (side[metric].after if metric in side else None for side in (mine, theirs))
        reason = ""
        if problems:
            reason = problems[0]
        elif left is None or right is None:
            reason = "Only one of the two runs measured this metric."
        elif "p" not in found.get(metric, {}):
            reason = "No values per query were stored."
        fields = found.get(metric, {})
        rows.append(MetricRow(metric, None, left, right, verdict="not comparable", reason=reason, run=run, **fields))
    return rows
