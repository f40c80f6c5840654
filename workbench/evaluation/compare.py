"""Comparison: a run's numbers beside its card's, or two runs side by side, and a verdict that holds.

A verdict needs the same thing measured. `reproduced` and `differs` are said only where nothing prevents it (see
`comparability_problems`) and the card has the same metric, by the same evaluator, at the same dimensions; everything
else is `not comparable`, with each reason as a sentence. The numbers are shown in any case.

Intervals are over queries, or over the pairs or triplets that were measured (see `intervals`). The card's and ours come
from one source but are not known to be the same ones, and the card's own uncertainty is not on the card: a value just
outside our interval is weak evidence.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import RecipeError, RunError
from workbench.evaluation.comparability import ROUNDING, comparability_problems, query_count_problems
from workbench.evaluation.examples import MetricValues, has_examples, metric_values, unit
from workbench.evaluation.retrieval import folder_name
from workbench.run import Run, write_json

if TYPE_CHECKING:
    from workbench.cards.card import Card, Evaluation
    from workbench.recipe.schema import Recipe

Verdict = Literal["reproduced", "differs", "not comparable", "no significant difference"]
"""`no significant difference` is for two runs only: no difference was shown."""

EFFECT = 0.01  # the difference that `queries_needed` is about
LEVEL = 0.05  # of tests, after Holm's correction
BINARY = " Relevance is binary, as in the library's evaluator: a graded judgement above 0 counts as 1."


@dataclass(frozen=True)
class MetricRow:
    """One metric. Card against run: before and after training. Run against run: the first and the other run, and the
    card's number beside them."""

    metric: str  # as the library names it: "cosine_ndcg@10"
    card: float | None = None  # as the card prints it
    before: float | None = None
    after: float | None = None
    low: float | None = None  # 95 % interval of `after`
    high: float | None = None
    card_line: int | None = None
    verdict: Verdict | Literal[""] = ""  # empty where nothing was compared
    reason: str = ""  # why there is no verdict; empty where there is one
    difference: float | None = None  # after - before, paired by query
    difference_low: float | None = None  # 95 % interval of the difference
    difference_high: float | None = None
    p: float | None = None  # of the difference, paired randomisation test
    p_holm: float | None = None  # corrected for all metrics of the comparison that are tests of their own
    same_test: str = ""  # another metric whose changes are these but for a factor: one test, not two
    wins: int | None = None  # queries, or other items, that are better after
    ties: int | None = None
    losses: int | None = None
    queries_needed: int | None = None  # to tell a difference of 0.01
    run: str = ""  # the run that `after` is from


@dataclass(frozen=True, repr=False)
class Comparison:
    """What was found. `rows` come in the card's order, the run's where there is no card."""

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
        plain = asdict(self)
        plain["rows"] = [{key: _finite(value) for key, value in row.items()} for row in plain["rows"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def __repr__(self) -> str:
        table = [_headings(self), *(_cells(row, self) for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
        lines = [f"{' and '.join(self.names)}: {self.verdict}"]
        for cells in table if self.rows else ():
            aligned = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:-1], widths[1:-1], strict=True))]
            lines.append("  ".join([*aligned, cells[-1]]).rstrip())
        lines += [f"- {reason}" for reason in self.reasons]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        def cells(tag: str, texts: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

        def typeset(name: str, *numbers: str) -> tuple[str, ...]:
            return name, *("–" if text == "-" else text.replace("-", "−") for text in numbers)

        body = "".join(cells("td", typeset(*_cells(row, self))) for row in self.rows)
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (
            f"<p><b>{html.escape(self.verdict)}</b> ({html.escape(' and '.join(self.names))})</p>"
            f"<table>{cells('th', _headings(self))}{body}</table><ul>{reasons}</ul>{notes}"
        )


_HEADINGS = {
    "card": ("metric", "card", "before", "after", "95 % of after", "change", "p", "verdict"),
    "runs": ("metric", "first", "other", "95 % of other", "change", "95 % of change", "p", "verdict"),
}


def _headings(comparison: Comparison) -> tuple[str, ...]:
    names = _HEADINGS[comparison.kind]
    return (names[0], "card", *names[1:]) if _shows_card(comparison) else names


def _shows_card(comparison: Comparison) -> bool:
    """Whether runs that are compared with each other have a card's number beside them."""
    return comparison.kind == "runs" and any(row.card is not None for row in comparison.rows)


def _cells(row: MetricRow, comparison: Comparison) -> tuple[str, ...]:
    name = f"{row.metric} *" if row.metric == comparison.main_metric else row.metric
    change = "-" if row.difference is None else f"{row.difference:+.4f}"
    p = "-" if row.p_holm is None else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    numbers = (_number(row.before), _number(row.after), _range(row.low, row.high))
    if comparison.kind == "card":
        return (name, _number(row.card), *numbers, change, p, row.verdict)
    several = f"{row.verdict} ({row.run})" if len(comparison.names) > 2 else row.verdict
    theirs = (_number(row.card),) if _shows_card(comparison) else ()
    return (name, *theirs, *numbers, change, _range(row.difference_low, row.difference_high), p, several)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    run: Run | Sequence[Run], *others: Run, card: Card | None = None, evaluation: str | None = None
) -> Comparison:
    """A run with its card; or, with several runs, each other run with the first, and the card as one more column.

    `card` takes the place of the one in the run folder; without it, several runs show the card that they all came from.
    `evaluation` is the run's evaluation to look at; without it, the one that the recipe names, else "test", else
    "validation", else the first that there is.

    Raises RunError where a run cannot be read or has no such evaluation.
    """
    runs = (*((run,) if isinstance(run, Run) else run), *others)
    if not runs:
        raise RunError("expected a run to compare, found none; name one, or several.")
    if len(runs) == 1:
        return _with_card(runs[0], card or runs[0].card(), evaluation)
    return _with_runs(runs, card or _common_card(runs), evaluation)


def save_comparison(run: Run, comparison: Comparison) -> Path:
    """Store a comparison as comparison.json in the run folder; gives its path."""
    path = run.file("comparison")
    write_json(path, comparison.to_dict())
    return path


# --- card and run ----------------------------------------------------------------------------------------------------


def _with_card(run: Run, card: Card | None, wanted: str | None) -> Comparison:
    recipe: Recipe = run.recipe()
    name = evaluation_name(run, recipe, wanted)
    theirs, reasons, notes = card_evaluation(card, recipe, run, name)
    measured = metric_values(run, name) if name is not None else {}
    queries, items = _counted(measured), unit(run, name) if name is not None else "queries"
    reasons = [*comparability_problems(run, recipe, card), *reasons]
    if name is None or not measured:
        reasons.append("The run has no evaluation after training.")
    elif theirs is not None and queries is not None:
        reasons += query_count_problems(theirs, queries, items)
    metrics = list(dict.fromkeys([*(theirs.metrics if theirs else ()), *measured]))
    found = _statistics(measured)
    rows = _holm(
        tuple(
            replace(_card_row(metric, theirs, measured.get(metric), found.get(metric, {}), reasons), run=run.name)
            for metric in metrics
        )
    )
    main = recipe.evaluation.main_metric
    verdict = _overall(rows, main)
    notes = [*notes, *_named_by_user(recipe), *_reading(rows, main, measured, items), *_inside(rows)]
    notes += _elsewhere(run, name, main)
    title = f"card {card.name!r}" if card is not None else "no card"
    names = (title, run.name)
    return Comparison("card", names, verdict, tuple(reasons), tuple(notes), rows, main, name, queries, items)


def _named_by_user(recipe: Recipe) -> list[str]:
    """What only the user's word vouches for: a collection of their own may be the card's or another."""
    named = any(path.startswith("data.evaluation") and o.source == "user" for path, o in recipe.provenance.items())
    if recipe.data.evaluation is None or not named:
        return []
    return [f"Measured on {recipe.data.evaluation.location}, which the user named as the card's evaluation data."]


def _counted(measured: Mapping[str, MetricValues]) -> int | None:
    """How many queries or items were measured; None where no values of theirs were stored."""
    return next((len(each.values) for each in measured.values() if each.values is not None), None)


def evaluation_name(run: Run, recipe: Recipe, wanted: str | None) -> str | None:
    there = {name: moments for name, moments in run.evaluations().items() if "after" in moments}
    if wanted is not None and folder_name(wanted) not in there:
        raise RunError(
            f"expected an evaluation {wanted!r} after training in run {run.name!r}, found "
            f"{', '.join(map(repr, there)) or 'none'}; choose one of them."
        )
    order = [wanted, recipe.evaluation.name, "test", "validation", *there]  # nothing was chosen on the test rows
    return next((folder_name(name) for name in order if name is not None and folder_name(name) in there), None)


def card_evaluation(
    card: Card | None, recipe: Recipe, run: Run, name: str | None
) -> tuple[Evaluation | None, list[str], list[str]]:
    """The card's evaluation that ours corresponds to, why there is none, and how it was chosen."""
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
        plain = cut == _dimensions(recipe, card)  # what an evaluation of the card means that does not say
        said = [(each, each.parameters.get("truncate_dim", cut if plain else "another")) for each in same]
        same = [each for each, theirs in said if theirs == cut]
        if not same:
            return None, [f"The card reports no evaluation at {cut or 'all'} dimensions."], []
    named = [each for each in same if {recipe.evaluation.name, name} & {each.name, *each.datasets}]
    if not named and len({each.datasets for each in same}) > 1:
        sets = sorted({dataset for each in same for dataset in each.datasets})
        return (
            None,
            [f"The card's {len(same)} evaluations are of {', '.join(sets)}, and the run measured {name!r}."],
            [],
        )
    chosen = (named or same)[-1]
    if len(named or same) == 1:
        return chosen, [], []
    where = f" (lines {chosen.lines[0]} to {chosen.lines[1]})" if chosen.lines else ""
    label = next(iter(chosen.datasets), chosen.name)
    note = f"The card has {len(named or same)} evaluations named {label!r}; its last one{where} is compared."
    return chosen, [], [note]


def _dimensions(recipe: Recipe, card: Card) -> int | None:
    """The dimensions that the card measured at, as far as it says; the run's recipe may have been set to others."""
    from workbench.recipe.from_card import recipe as read_off

    try:
        return read_off(card).evaluation.truncate_dim
    except RecipeError:
        return recipe.evaluation.truncate_dim


def _card_row(
    metric: str,
    theirs: Evaluation | None,
    ours: MetricValues | None,
    found: Mapping[str, Any],
    reasons: Sequence[str],
) -> MetricRow:
    """One metric with its verdict; `found` is what `_statistics` gave for it."""
    row = _with_number(MetricRow(metric, verdict="not comparable"), theirs)
    if ours is None:
        return replace(row, reason=next(iter(reasons), "The run did not measure this metric."))
    row = replace(row, before=ours.before, after=ours.after, **found)
    return replace(row, **card_verdict(row.card, (row.low, row.high), reasons))


def card_verdict(
    card: float | None, interval: tuple[float | None, float | None], reasons: Sequence[str], drawn: str = "queries"
) -> dict[str, Any]:
    """The fields of a row that say whether the card's number lies in our interval, or why nobody can say.

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
        return {"reason": f"All {drawn} have the same value, so drawing them again gives no interval."}
    return {"verdict": "reproduced" if inside else "differs"}


def _statistics(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metric -> the fields of its MetricRow that come from values per query or item."""
    found: dict[str, dict[str, Any]] = {metric: {} for metric in measured}
    there = {metric: _paired(each) for metric, each in measured.items() if _complete(each.values)}
    means = {metric: each for metric, each in there.items() if each.statistic == "mean"}
    found |= _of_means(means)
    found |= {metric: _of_statistic(each) for metric, each in there.items() if metric not in means}
    return found


def _complete(values: Any) -> bool:
    """Whether there is a finite value for every query."""
    import numpy as np

    return values is not None and len(values) > 0 and bool(np.isfinite(values).all())


def _paired(each: MetricValues) -> MetricValues:
    """Without the earlier values where they are of other queries."""
    return each if each.earlier is None or _complete(each.earlier) else replace(each, earlier=None)


def _of_means(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metrics that are means over queries, all in one go; `earlier` is paired with `values`, or None."""
    import numpy as np

    from workbench.evaluation import statistics

    found: dict[str, dict[str, Any]] = {}
    if measured:
        values = np.stack([each.values for each in measured.values()], axis=1)  # (queries, metrics)
        low, high = statistics.bootstrap_interval(values)
        found = {metric: {"low": float(low[at]), "high": float(high[at])} for at, metric in enumerate(measured)}
    paired = {metric: each for metric, each in measured.items() if each.earlier is not None}
    if paired:
        moved = np.stack([each.values - each.earlier for each in paired.values()], axis=1)
        low, high = statistics.bootstrap_interval(moved)
        p, needed = statistics.randomization_test(moved), statistics.queries_needed(moved, EFFECT)
        names, first = list(paired), statistics.first_proportional(moved)
        for at, metric in enumerate(names):
            found[metric] |= {
                "difference": float(moved[:, at].mean()),
                "difference_low": float(low[at]),
                "difference_high": float(high[at]),
                "p": float(p[first[at]]),
                "same_test": names[first[at]] if first[at] != at else "",
                **_won(moved[:, at]),
                "queries_needed": needed[at],
            }
    return found


def _won(moved: Any) -> dict[str, int]:
    return {"wins": int((moved > 0).sum()), "ties": int((moved == 0).sum()), "losses": int((moved < 0).sum())}


def _of_statistic(each: MetricValues) -> dict[str, Any]:
    """A metric that is no mean, such as a rank correlation. Its items win that come nearer to their right place."""
    from workbench.evaluation import statistics

    low, high = statistics.statistic_interval(each.statistic, each.gold, each.values)
    if math.isnan(low):
        return {}  # not defined on these items, whichever are drawn
    found: dict[str, Any] = {"low": low, "high": high}
    if each.earlier is not None and each.before is not None and math.isfinite(each.before):
        paired = statistics.paired_statistic(each.statistic, each.gold, each.earlier, each.values, effect=EFFECT)
        agreed = [statistics.agreement(each.statistic, each.gold, values) for values in (each.earlier, each.values)]
        found |= {
            "difference": each.after - each.before,
            "difference_low": paired.low,
            "difference_high": paired.high,
            "p": paired.p,
            **_won(agreed[1] - agreed[0]),
            "queries_needed": paired.needed,
        }
    return found


def _holm(rows: tuple[MetricRow, ...]) -> tuple[MetricRow, ...]:
    from workbench.evaluation.statistics import holm

    tested = {(row.run, row.same_test or row.metric): row.p for row in rows if row.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(replace(row, p_holm=corrected.get((row.run, row.same_test or row.metric))) for row in rows)


def _overall(rows: Sequence[MetricRow], main: str) -> Verdict:
    """The main metric's; where it has no row, what all rows with a verdict agree on, else `differs`."""
    verdicts = {row.verdict for row in rows if row.metric == main} or {
        row.verdict for row in rows if row.verdict != "not comparable"
    }
    order: tuple[Verdict, ...] = ("differs", "reproduced", "not comparable")
    return next((verdict for verdict in order if verdict in verdicts), "not comparable")


def _elsewhere(run: Run, name: str | None, main: str) -> list[str]:
    """The main metric on the run's other evaluations."""
    notes = []
    for other, moments in run.evaluations().items():
        if other != name and {"before", "after"} <= set(moments):
            before, after = (run.metrics(other, moment).get(main) for moment in ("before", "after"))
            settings = run.settings(other, "after")
            size = settings["items"] if has_examples(run, other) else len(run.per_query(other, "after"))
            if before is not None or after is not None:
                where = f"{other} ({size:,} {unit(run, other)})"
                notes.append(f"On {where}: {main} {_number(before)} before, {_number(after)} after.")
    return notes


def _reading(rows: Sequence[MetricRow], main: str, measured: Mapping[str, MetricValues], items: str) -> list[str]:
    """How to read the table."""
    from workbench.evaluation.statistics import RESAMPLES, SEED, resample_count

    queries = _counted(measured)
    if queries is None:
        return []
    resamples = RESAMPLES if all(each.statistic == "mean" for each in measured.values()) else resample_count(queries)
    tested = [row for row in rows if row.p is not None]
    own = sum(not row.same_test for row in tested)
    alike = "" if own == len(tested) else f", of which {own} are tests of their own: the others differ by a factor"
    notes = [
        f"* decides. Intervals: 95 %, percentile bootstrap over {queries:,} {items}, {resamples:,} resamples, seed "
        f"{SEED}. p: paired randomisation test of the change, corrected by Holm for all {len(tested)} metrics{alike}."
        f"{BINARY if items == 'queries' else ''}"
    ]
    several = len({row.run for row in rows}) > 1
    notes += [_moved(row, items, several) for row in rows if row.metric == main and row.wins is not None]
    needed = next((row.queries_needed for row in rows if row.metric == main), None)
    if needed is not None:
        many = f"about {needed:,}" if needed >= 10 else "fewer than 10"
        notes.append(f"To tell a change of {EFFECT} in {main}, {many} {items} would be needed (80 % power).")
    if any(each.earlier is not None and not _complete(each.earlier) for each in measured.values()):
        notes.append(f"Not all {queries:,} {items} have a value before training, so no change of theirs is tested.")
    return notes


def _moved(row: MetricRow, items: str, several: bool) -> str:
    """How many got better or worse, and how far the change may be from the one that was seen."""
    low, high = row.difference_low, row.difference_high
    between = "" if low is None or high is None else f" (95 % interval {low:+.4f} to {high:+.4f}, of this metric alone)"
    where = f" in {row.run}" if several else ""
    counts = f"{row.wins:,} {items} better, {row.ties:,} equal, {row.losses:,} worse"
    return f"Change of {row.metric}{where}: {row.difference:+.4f}{between}; {counts}."


def _inside(rows: Sequence[MetricRow]) -> list[str]:
    """How many of the card's values lie inside our intervals."""
    decided = [row for row in rows if row.verdict in ("reproduced", "differs")]
    inside = sum(row.verdict == "reproduced" for row in decided)
    return [f"The card's value lies inside our interval for {inside} of {len(decided)} metrics."] if decided else []


# --- runs ------------------------------------------------------------------------------------------------------------


def _common_card(runs: Sequence[Run]) -> Card | None:
    """The card that all runs came from; None where they came from several, or one from none."""
    cards: list[Card | None] = [run.card() for run in runs]
    return cards[0] if len({each.sha256 if each is not None else None for each in cards}) == 1 else None


def _with_runs(runs: Sequence[Run], card: Card | None, wanted: str | None) -> Comparison:
    """Each other run with the first, on the queries that they share; the card's numbers stand beside them."""
    first = runs[0]
    name = evaluation_name(first, first.recipe(), wanted)
    main = first.recipe().evaluation.main_metric
    rows: list[MetricRow] = []
    reasons: list[str] = []
    shared: dict[str, MetricValues] = {}
    for other in runs[1:]:
        why = pairing_problems(first, other, name)
        reasons += why
        mine = metric_values(first, name) if name is not None else {}
        theirs = metric_values(other, name) if name is not None and name in _finished_evaluations(other) else {}
        if not why and name is not None:
            mine = shared = _aligned(first, other, name, mine)
        rows += [replace(row, run=other.name) for row in _run_rows(mine, theirs, why)]
    beside, absent = _beside(card, first, name)
    decided = tuple(_with_number(_decided(row), beside) for row in _holm(tuple(rows)))
    verdicts = {row.verdict for row in decided if row.metric == main} or {row.verdict for row in decided}
    order: tuple[Verdict, ...] = ("differs", "no significant difference", "not comparable")
    verdict: Verdict = next((each for each in order if each in verdicts), "not comparable")
    names = tuple(run.name for run in runs)
    items = unit(first, name) if name is not None else "queries"
    notes, queries = (*_reading(decided, main, shared, items), *absent), _counted(shared)
    return Comparison("runs", names, verdict, tuple(reasons), notes, decided, main, name, queries, items)


def _beside(card: Card | None, first: Run, name: str | None) -> tuple[Evaluation | None, list[str]]:
    """The card's evaluation to show beside runs, and what is said of it."""
    if card is None:
        return None, []
    theirs, why, notes = card_evaluation(card, first.recipe(), first, name)
    if theirs is None:
        return None, [f"The card {card.name!r} is not shown: {why[0]}"]
    return theirs, [
        *notes,
        f"The card {card.name!r} is shown beside the runs; compare a run alone for the verdict on it.",
    ]


def _with_number(row: MetricRow, theirs: Evaluation | None) -> MetricRow:
    """The row with the card's number, where it has one."""
    if theirs is None or row.metric not in theirs.metrics:
        return row
    return replace(row, card=theirs.metrics[row.metric], card_line=theirs.metric_lines.get(row.metric))


def _finished_evaluations(run: Run) -> set[str]:
    return {name for name, moments in run.evaluations().items() if "after" in moments}


def pairing_problems(first: Run, other: Run, name: str | None) -> list[str]:
    """Why two runs do not answer the same questions on the same documents."""
    if name is None:
        return [f"{first.name} has no evaluation after training."]
    if name not in _finished_evaluations(other):
        return [f"{other.name} has no evaluation {name!r} after training."]
    settings = [run.settings(name, "after") for run in (first, other)]
    if has_examples(first, name) or has_examples(other, name):
        hashes = [each.get("items_sha256") for each in settings]
        same = hashes[0] is not None and hashes[0] == hashes[1]
        return [] if same else [f"{first.name} and {other.name} did not measure the same {unit(first, name)}."]
    mine, theirs = first.per_query(name, "after"), other.per_query(name, "after")
    asked = dict(zip(mine["query_id"], mine["query"], strict=True))
    others = dict(zip(theirs["query_id"], theirs["query"], strict=True))
    shared = sum(others.get(query) == text for query, text in asked.items())
    if shared < len(asked) or len(others) != len(asked):
        return [
            f"{first.name} and {other.name} do not share their queries: {shared:,} of {len(asked):,} and "
            f"{len(others):,} are the same."
        ]
    collections = [each.get("collection_sha256") for each in settings]
    if None not in collections and collections[0] != collections[1]:
        return [f"{first.name} and {other.name} searched other documents, or judged them otherwise."]
    return []


def _aligned(first: Run, other: Run, name: str, mine: dict[str, MetricValues]) -> dict[str, MetricValues]:
    """The first run's values in the order of the other's queries; equal items are in equal order."""
    if has_examples(first, name):
        return mine
    place = {query: row for row, query in enumerate(first.per_query(name, "after")["query_id"])}
    order = [place[query] for query in other.per_query(name, "after")["query_id"]]
    return {
        metric: replace(each, values=None if each.values is None else each.values[order])
        for metric, each in mine.items()
    }


def _run_rows(
    mine: Mapping[str, MetricValues], theirs: Mapping[str, MetricValues], why: Sequence[str]
) -> list[MetricRow]:
    """A row per metric of either run; the first run's values are what the other's are paired with."""
    both = {
        metric: replace(theirs[metric], before=each.after, earlier=each.values)
        for metric, each in mine.items()
        if metric in theirs and not why
    }
    found = _statistics(both)
    rows = []
    for metric in dict.fromkeys([*mine, *theirs]):
        left, right = (side[metric].after if metric in side else None for side in (mine, theirs))
        row = MetricRow(metric, verdict="not comparable", before=left, after=right, **found.get(metric, {}))
        if why:
            row = replace(row, reason=why[0])
        elif left is None or right is None:
            row = replace(row, reason="Only one of the two runs measured this metric.")
        elif row.p is None:
            row = replace(row, reason="No values per query were stored.")
        rows.append(row)
    return rows


def _decided(row: MetricRow) -> MetricRow:
    if row.p_holm is None:
        return row
    return replace(row, verdict="differs" if row.p_holm < LEVEL else "no significant difference")
