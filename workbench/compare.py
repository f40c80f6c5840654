"""Comparison: a run's numbers beside its card's, or two runs side by side, and a verdict that holds.

A verdict needs the same thing measured. `reproduced` and `differs` are said only where the run was finished, as
written, on the card's own base and rows, and on as many queries as the card's numbers imply; everything else is
`not comparable`, with each reason as a sentence. The numbers are shown in any case.

Intervals are over queries, or over the pairs or triplets that were measured (see `intervals`). The card's and ours come
from one source but are not known to be the same ones, and the card's own uncertainty is not on the card: a value just
outside our interval is weak evidence.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import RecipeError, RunError
from workbench.evaluate import folder_name
from workbench.evaluators import has_items
from workbench.run import Run, write_json
from workbench.tasks import Kept, kept, unit

if TYPE_CHECKING:
    from workbench.card import Card, Evaluation
    from workbench.recipe import Recipe

Verdict = Literal["reproduced", "differs", "not comparable", "not told apart"]
"""`not told apart` is for two runs only: no difference was shown."""

EFFECT = 0.01  # the difference that `queries_needed` is about
LEVEL = 0.05  # of tests, after Holm's correction
ROUNDING = 0.5e-4  # cards print four places
SHARES = re.compile(r"accuracy(@\d+)?$")  # metrics that are a share of queries, pairs or triplets
MOST_QUERIES = 5000  # above, four places fit any number of queries


@dataclass(frozen=True)
class Row:
    """One metric. Card against run: before and after training. Run against run: the first and the other run."""

    metric: str  # as the library names it: "cosine_ndcg@10"
    verdict: Verdict
    reason: str = ""  # why there is no verdict; empty where there is one
    card: float | None = None  # as the card prints it
    card_line: int | None = None
    before: float | None = None
    after: float | None = None
    low: float | None = None  # 95 % interval of `after`
    high: float | None = None
    difference: float | None = None  # after - before, paired by query
    difference_low: float | None = None  # 95 % interval of the difference
    difference_high: float | None = None
    p: float | None = None  # of the difference, paired randomisation test
    p_holm: float | None = None  # corrected for all metrics of the comparison
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
    rows: tuple[Row, ...]
    main_metric: str
    evaluation: str | None = None  # the run's evaluation that was compared
    queries: int | None = None  # how many were measured one by one
    unit: str = "queries"  # what they are: "pairs", "triplets"

    @property
    def main(self) -> Row | None:
        """The row of the main metric."""
        return next((row for row in self.rows if row.metric == self.main_metric), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        plain = asdict(self)
        plain["rows"] = [{key: _finite(value) for key, value in row.items()} for row in plain["rows"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def __repr__(self) -> str:
        table = [_HEADINGS[self.kind], *(_cells(row, self) for row in self.rows)]
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

        body = "".join(cells("td", _cells(row, self)) for row in self.rows)
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (
            f"<p><b>{html.escape(self.verdict)}</b> ({html.escape(' and '.join(self.names))})</p>"
            f"<table>{cells('th', _HEADINGS[self.kind])}{body}</table><ul>{reasons}</ul>{notes}"
        )


_HEADINGS = {
    "card": ("metric", "card", "before", "after", "95 % interval", "change", "p", "verdict"),
    "runs": ("metric", "first", "other", "95 % interval", "change", "95 % interval", "p", "verdict"),
}


def _cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    name = f"{row.metric} *" if row.metric == comparison.main_metric else row.metric
    change = "-" if row.difference is None else f"{row.difference:+.4f}"
    p = "-" if row.p_holm is None else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    numbers = (_number(row.before), _number(row.after), _range(row.low, row.high))
    if comparison.kind == "card":
        return (name, _number(row.card), *numbers, change, p, row.verdict)
    several = f"{row.verdict} ({row.run})" if len(comparison.names) > 2 else row.verdict
    return (name, *numbers, change, _range(row.difference_low, row.difference_high), p, several)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare(
    run: Run | Sequence[Run], *others: Run, card: Card | None = None, evaluation: str | None = None
) -> Comparison:
    """A run with its card; or, with several runs, each other run with the first.

    `card` takes the place of the one in the run folder. `evaluation` is the run's evaluation to look at; without it,
    the one that the recipe names, else "test", else "validation", else the first that there is.

    Raises RunError where a run cannot be read or has no such evaluation.
    """
    runs = (*((run,) if isinstance(run, Run) else run), *others)
    if not runs:
        raise RunError("expected a run to compare, found none; name one, or several.")
    if len(runs) == 1:
        return _with_card(runs[0], card or runs[0].card(), evaluation)
    return _with_runs(runs, evaluation)


def save_comparison(run: Run, comparison: Comparison) -> Path:
    """Store a comparison as comparison.json in the run folder; gives its path."""
    path = run.path / "comparison.json"
    write_json(path, comparison.to_dict())
    return path


# --- card and run ----------------------------------------------------------------------------------------------------


def _with_card(run: Run, card: Card | None, wanted: str | None) -> Comparison:
    recipe: Recipe = run.recipe()
    name = _evaluation_name(run, recipe, wanted)
    theirs, reasons, notes = _card_evaluation(card, recipe, run, name)
    measured = kept(run, name) if name is not None else {}
    queries, items = _counted(measured), unit(run, name) if name is not None else "queries"
    reasons = [*_hindrances(run, recipe, card), *reasons]
    if name is None or not measured:
        reasons.append("The run has no evaluation after training.")
    elif theirs is not None and queries is not None:
        reasons += _other_queries(theirs, queries, items)
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
    notes += [*_reading(rows, main, measured, items), *_elsewhere(run, name, main)]
    title = f"card {card.name!r}" if card is not None else "no card"
    names = (title, run.name)
    return Comparison("card", names, verdict, tuple(reasons), tuple(notes), rows, main, name, queries, items)


def _counted(measured: Mapping[str, Kept]) -> int | None:
    """How many queries or items were measured; None where no values of theirs were stored."""
    return next((len(each.values) for each in measured.values() if each.values is not None), None)


def _evaluation_name(run: Run, recipe: Recipe, wanted: str | None) -> str | None:
    there = {name: moments for name, moments in run.evaluations().items() if "after" in moments}
    if wanted is not None and folder_name(wanted) not in there:
        raise RunError(
            f"expected an evaluation {wanted!r} after training in run {run.name!r}, found "
            f"{', '.join(map(repr, there)) or 'none'}; choose one of them."
        )
    order = [wanted, recipe.evaluation.name, "test", "validation", *there]  # nothing was chosen on the test rows
    return next((folder_name(name) for name in order if name is not None and folder_name(name) in there), None)


def _card_evaluation(
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
    if "truncate_dim" in settings and cut != recipe.evaluation.truncate_dim:
        same = [each for each in same if each.parameters.get("truncate_dim") == cut]
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


def _card_row(
    metric: str,
    theirs: Evaluation | None,
    ours: Kept | None,
    found: Mapping[str, Any],
    reasons: Sequence[str],
) -> Row:
    """One metric with its verdict; `found` is what `_statistics` gave for it."""
    row = Row(metric, "not comparable")
    if theirs is not None and metric in theirs.metrics:
        row = replace(row, card=theirs.metrics[metric], card_line=theirs.metric_lines.get(metric))
    if ours is None:
        return replace(row, reason=next(iter(reasons), "The run did not measure this metric."))
    row = replace(row, before=ours.before, after=ours.after, **found)
    if reasons:
        return replace(row, reason=reasons[0])
    if row.card is None or math.isnan(row.card):
        return replace(row, reason="The card does not report this metric.")
    if row.low is None or row.high is None:
        return replace(row, reason="No values per query were stored, so there is no interval.")
    inside = row.low - ROUNDING <= row.card <= row.high + ROUNDING
    if not inside and row.low == row.high:
        return replace(row, reason="All queries have the same value, so drawing them again gives no interval.")
    return replace(row, verdict="reproduced" if inside else "differs")


def _statistics(measured: Mapping[str, Kept]) -> dict[str, dict[str, Any]]:
    """Metric -> the fields of its Row that come from values per query or item."""
    found: dict[str, dict[str, Any]] = {metric: {} for metric in measured}
    there = {metric: each for metric, each in measured.items() if each.values is not None and len(each.values)}
    means = {metric: each for metric, each in there.items() if each.statistic == "mean"}
    found |= _of_means(means)
    found |= {metric: _of_statistic(each) for metric, each in there.items() if metric not in means}
    return found


def _of_means(measured: Mapping[str, Kept]) -> dict[str, dict[str, Any]]:
    """Metrics that are means over queries, all in one go; `earlier` is paired with `values`, or None."""
    import numpy as np

    from workbench import intervals

    found: dict[str, dict[str, Any]] = {}
    if measured:
        values = np.stack([each.values for each in measured.values()], axis=1)  # (queries, metrics)
        low, high = intervals.bootstrap_interval(values)
        found = {metric: {"low": float(low[at]), "high": float(high[at])} for at, metric in enumerate(measured)}
    paired = {metric: each for metric, each in measured.items() if each.earlier is not None}
    if paired:
        moved = np.stack([each.values - each.earlier for each in paired.values()], axis=1)
        low, high = intervals.bootstrap_interval(moved)
        p, needed = intervals.randomisation_p(moved), intervals.queries_needed(moved, EFFECT)
        for at, metric in enumerate(paired):
            found[metric] |= {
                "difference": float(moved[:, at].mean()),
                "difference_low": float(low[at]),
                "difference_high": float(high[at]),
                "p": float(p[at]),
                **_won(moved[:, at]),
                "queries_needed": needed[at],
            }
    return found


def _won(moved: Any) -> dict[str, int]:
    return {"wins": int((moved > 0).sum()), "ties": int((moved == 0).sum()), "losses": int((moved < 0).sum())}


def _of_statistic(each: Kept) -> dict[str, Any]:
    """A metric that is no mean, such as a rank correlation. Its items win that come nearer to their right place."""
    from workbench import intervals

    low, high = intervals.statistic_interval(each.statistic, each.gold, each.values)
    if math.isnan(low):
        return {}  # not defined on these items, whichever are drawn
    found: dict[str, Any] = {"low": low, "high": high}
    if each.earlier is not None and each.before is not None and math.isfinite(each.before):
        paired = intervals.paired_statistic(each.statistic, each.gold, each.earlier, each.values, effect=EFFECT)
        agreed = [intervals.agreement(each.statistic, each.gold, values) for values in (each.earlier, each.values)]
        found |= {
            "difference": each.after - each.before,
            "difference_low": paired.low,
            "difference_high": paired.high,
            "p": paired.p,
            **_won(agreed[1] - agreed[0]),
            "queries_needed": paired.needed,
        }
    return found


def _holm(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    from workbench.intervals import holm

    tested = {place: row.p for place, row in enumerate(rows) if row.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(replace(row, p_holm=corrected.get(place)) for place, row in enumerate(rows))


def _overall(rows: Sequence[Row], main: str) -> Verdict:
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
            size = settings["items"] if has_items(run, other) else len(run.per_query(other, "after"))
            if before is not None or after is not None:
                where = f"{other} ({size:,} {unit(run, other)})"
                notes.append(f"On {where}: {main} {_number(before)} before, {_number(after)} after.")
    return notes


def _reading(rows: Sequence[Row], main: str, measured: Mapping[str, Kept], items: str) -> list[str]:
    """How to read the table."""
    from workbench.intervals import RESAMPLES, SEED, draws

    queries = _counted(measured)
    if queries is None:
        return []
    resamples = RESAMPLES if all(each.statistic == "mean" for each in measured.values()) else draws(queries)
    notes = [
        f"* decides. Intervals: 95 %, percentile bootstrap over {queries:,} {items}, {resamples:,} resamples, seed "
        f"{SEED}. p: paired randomisation test of the change, corrected for all metrics by Holm."
    ]
    needed = next((row.queries_needed for row in rows if row.metric == main), None)
    if needed is not None:
        notes.append(f"To tell a change of {EFFECT} in {main}, about {needed:,} {items} would be needed (80 % power).")
    decided = [row for row in rows if row.verdict in ("reproduced", "differs")]
    if decided:
        inside = sum(row.verdict == "reproduced" for row in decided)
        notes.append(f"The card's value lies inside our interval for {inside} of {len(decided)} metrics.")
    return notes


# --- what stands in the way of a verdict ---------------------------------------------------------------------------


def _hindrances(run: Run, recipe: Recipe, card: Card | None) -> list[str]:
    """Why this run cannot confirm or deny the card, whatever it measured."""
    record = run.record
    found = []
    if run.status != "finished":
        found.append(f"The run is not finished; its status is {run.status!r}.")
    found += _base_hindrances(record.get("base") or {}, card)
    found += _data_hindrances(record.get("data") or {}, card)
    if recipe.variant != "as written":
        found.append(f"The run followed the {recipe.variant} recipe; the card's numbers come from the one as written.")
    if card is not None:
        found += _departures(recipe, card)
    return list(dict.fromkeys(found))


def _base_hindrances(base: Mapping[str, Any], card: Card | None) -> list[str]:
    """Only a base that is known to be the card's own passes; a record that does not say so does not."""
    name = str(base.get("model") or "an unknown model")
    if base.get("stand_in") is not False or name.startswith("bundled:"):
        return [str(base.get("note") or f"The base {name} is not known to be the card's own.")]
    if card is None:
        return []
    if card.base_model is None:
        return ["The card does not name its base, so nobody can know that this run began with it."]
    theirs = card.base_model.value
    if name.rstrip("/").rpartition("/")[2].lower() != theirs.rstrip("/").rpartition("/")[2].lower():
        return [f"The run began with {name}, the card with {theirs}."]
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


def _departures(recipe: Recipe, card: Card) -> list[str]:
    """Fields that the card states and the user set to something else, steps cut short included."""
    from workbench.recipe import difference
    from workbench.recipe import recipe as read_off

    try:
        written = read_off(card)
    except RecipeError:
        return []
    found = []
    for path, theirs, ours in difference(written, recipe):
        origin = recipe.provenance.get(path)
        if path.startswith(("base.model", "data.")) or origin is None or origin.source != "user":
            continue
        stated = written.provenance.get(path)
        if path == "training.max_steps":
            found.append(f"The run was told to end after {ours} steps.")
        elif stated is not None and stated.source in ("card", "file"):
            found.append(f"The run set {path} to {ours!r}; the card says {theirs!r}.")
    return found


def _other_queries(theirs: Evaluation, queries: int, items: str) -> list[str]:
    """A share of n queries is a multiple of 1/n: accuracies that are none belong to another number of queries.

    Means over collections, which NanoBEIR gives, are no such shares.
    """
    if (theirs.evaluator or "").endswith("NanoBEIREvaluator"):
        return []
    printed = theirs.metrics.items()
    shares = [value for metric, value in printed if SHARES.search(metric) and 0 <= value <= 1]
    if not shares or _fits(shares, queries):
        return []
    fitting = next((number for number in range(1, MOST_QUERIES) if _fits(shares, number)), None)
    guess = f"; the smallest number that fits is {fitting:,}" if fitting is not None else ""
    measured = "asked" if items == "queries" else "measured"
    return [f"The card's accuracies cannot come from {queries:,} {items}, as many as this run {measured}{guess}."]


def _fits(shares: Sequence[float], queries: int) -> bool:
    """
    >>> _fits([0.8944], 180), _fits([0.8944], 179)
    (True, False)
    """
    return all(abs(share * queries - round(share * queries)) <= queries * ROUNDING + 1e-9 for share in shares)


# --- runs ------------------------------------------------------------------------------------------------------------


def _with_runs(runs: Sequence[Run], wanted: str | None) -> Comparison:
    """Each other run with the first, on the queries that they share."""
    first = runs[0]
    name = _evaluation_name(first, first.recipe(), wanted)
    main = first.recipe().evaluation.main_metric
    rows: list[Row] = []
    reasons: list[str] = []
    shared: dict[str, Kept] = {}
    for other in runs[1:]:
        why = _not_the_same(first, other, name)
        reasons += why
        mine = kept(first, name) if name is not None else {}
        theirs = kept(other, name) if name is not None and name in _finished_evaluations(other) else {}
        if not why and name is not None:
            mine = shared = _aligned(first, other, name, mine)
        rows += [replace(row, run=other.name) for row in _run_rows(mine, theirs, why)]
    decided = tuple(_decided(row) for row in _holm(tuple(rows)))
    verdicts = {row.verdict for row in decided if row.metric == main} or {row.verdict for row in decided}
    order: tuple[Verdict, ...] = ("differs", "not told apart", "not comparable")
    verdict: Verdict = next((each for each in order if each in verdicts), "not comparable")
    names = tuple(run.name for run in runs)
    items = unit(first, name) if name is not None else "queries"
    notes, queries = tuple(_reading(decided, main, shared, items)), _counted(shared)
    return Comparison("runs", names, verdict, tuple(reasons), notes, decided, main, name, queries, items)


def _finished_evaluations(run: Run) -> set[str]:
    return {name for name, moments in run.evaluations().items() if "after" in moments}


def _not_the_same(first: Run, other: Run, name: str | None) -> list[str]:
    """Why two runs do not answer the same questions on the same documents."""
    if name is None:
        return [f"{first.name} has no evaluation after training."]
    if name not in _finished_evaluations(other):
        return [f"{other.name} has no evaluation {name!r} after training."]
    settings = [run.settings(name, "after") for run in (first, other)]
    if has_items(first, name) or has_items(other, name):
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


def _aligned(first: Run, other: Run, name: str, mine: dict[str, Kept]) -> dict[str, Kept]:
    """The first run's values in the order of the other's queries; equal items are in equal order."""
    if has_items(first, name):
        return mine
    place = {query: row for row, query in enumerate(first.per_query(name, "after")["query_id"])}
    order = [place[query] for query in other.per_query(name, "after")["query_id"]]
    return {
        metric: replace(each, values=None if each.values is None else each.values[order])
        for metric, each in mine.items()
    }


def _run_rows(mine: Mapping[str, Kept], theirs: Mapping[str, Kept], why: Sequence[str]) -> list[Row]:
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
        row = Row(metric, "not comparable", before=left, after=right, **found.get(metric, {}))
        if why:
            row = replace(row, reason=why[0])
        elif left is None or right is None:
            row = replace(row, reason="Only one of the two runs measured this metric.")
        elif row.p is None:
            row = replace(row, reason="No values per query were stored.")
        rows.append(row)
    return rows


def _decided(row: Row) -> Row:
    if row.p_holm is None:
        return row
    return replace(row, verdict="differs" if row.p_holm < LEVEL else "not told apart")
