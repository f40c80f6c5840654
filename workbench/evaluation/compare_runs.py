"""Runs beside each other: each other run with the first, on their common queries or examples; and a run beside a file
of rankings from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import DataError, RunError, short
from workbench.evaluation.card_evaluation import card_evaluation, evaluation_name, finished_evaluations, with_card_value
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.examples import MetricValues, has_examples, metric_values, unit
from workbench.evaluation.metric_tests import example_count, has_changes, reading_notes, tested_fields
from workbench.evaluation.metrics import every_metric
from workbench.evaluation.rankings import RankAgreement, rank_agreement
from workbench.evaluation.trec import read_trec_run
from workbench.evaluation.verdict import Verdict, default_margin, judge_change
from workbench.recipe.schema import difference
from workbench.run import Run

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

FIRST = (
    "base.model", "data.train.location", "data.train.rows", "loss.name", "training.num_train_epochs",
    "training.max_steps", "training.learning_rate", "training.seed",
)  # fmt: skip
MOST_FIELDS = 6  # in one sentence
STRENGTH: tuple[Verdict, ...] = ("better", "worse", "no significant difference", "equivalent", "not comparable")


def common_card(runs: Sequence[Run]) -> Card | None:
    """The card that all runs came from; None where they differ."""
    cards: list[Card | None] = [run.card() for run in runs]
    return cards[0] if len({each.sha256 if each is not None else None for each in cards}) == 1 else None


def compare_runs(runs: Sequence[Run], card: Card | None, wanted: str | None, margin: float | None = None) -> Comparison:
    """Each other run with the first, on their common queries, and the card's numbers beside them."""
    first = runs[0]
    recipe: Recipe = first.recipe()
    name, main = evaluation_name(first, recipe, wanted), recipe.evaluation.main_metric
    rows: list[MetricRow] = []
    reasons: list[str] = []
    shared: dict[str, MetricValues] = {}
    rankings: list[RankAgreement] = []
    for other in runs[1:]:
        problems = pairing_problems(first, other, name)
        reasons += problems
        mine = metric_values(first, name) if name is not None else {}
        theirs = metric_values(other, name) if name is not None and name in finished_evaluations(other) else {}
        if not problems and name is not None:
            mine = shared = _align(first, other, name, mine)
            if all(run.file("hits", name, "after").is_file() for run in (first, other)):
                found = _rankings(first, name), _rankings(other, name)
                rankings.append(_agreement(*found, other.name, main, mine.get(main), theirs.get(main)))
        rows += _run_rows(other.name, mine, theirs, problems)
    return _comparison(
        first,
        card,
        name,
        margin,
        shared,
        names=tuple(run.name for run in runs),
        reasons=tuple(reasons),
        rows=rows,
        rankings=tuple(rankings),
        sentence=" ".join(what_differs(first, other) for other in runs[1:]),
    )


def _comparison(
    run: Run,
    card: Card | None,
    name: str | None,
    margin: float | None,
    shared: dict[str, MetricValues],
    *,
    rows: Sequence[MetricRow],
    notes: Sequence[str] = (),
    **fields: Any,
) -> Comparison:
    """The comparison on the evaluation `name` of `run`, each row judged, with the card's numbers. `shared` are the
    values of the first side on the common queries; `fields` are those of the Comparison."""
    recipe: Recipe = run.recipe()
    main, examples = recipe.evaluation.main_metric, unit(run, name) if name is not None else "queries"
    pairs = len({row.run for row in rows if has_changes(row)})  # a run that changes nothing is no test
    decided = tuple(
        row if row.p_adjusted is None else replace(row, p_adjusted=min(1.0, row.p_adjusted * max(pairs, 1)))
        for row in rows
    )
    printed, notes = None, [*reading_notes(decided, main, shared, examples), *notes]
    if card is not None:
        printed, why, chosen = card_evaluation(card, recipe, run, name)
        notes += chosen
        notes.append(
            f"The card {card.name!r} is not shown: {why[0]}"
            if printed is None
            else f"The card {card.name!r} is shown beside the runs; compare one run alone for its verdict."
        )
    decided = tuple(with_card_value(_with_verdict(row, margin), printed) for row in decided)
    verdicts = {row.verdict for row in decided if row.metric == main} or {row.verdict for row in decided}
    return Comparison(
        kind="runs",
        verdict=next((verdict for verdict in STRENGTH if verdict in verdicts), "not comparable"),
        notes=tuple(notes),
        rows=decided,
        main_metric=main,
        evaluation=name,
        queries=example_count(shared),
        unit=examples,
        **fields,
    )


def what_differs(first: Run, other: Run) -> str:
    """A sentence that names two runs and the fields in which their trainings differ, those that matter most first."""
    published = [run.name for run in (first, other) if run.record.get("verification") is not None]
    if published:
        return f"{' and '.join(published)}: published weights, which were not trained here."
    found = difference(first.trained_recipe(), other.trained_recipe())
    for part in ("base", "data"):
        left, right = (str((run.record.get(part) or {}).get("sha256"))[:12] for run in (first, other))
        found += [(f"{part} (SHA-256)", left, right)] if left != right else []
    if not found:
        return f"{first.name} and {other.name} have the same recipe, base and rows."
    found.sort(key=lambda each: FIRST.index(each[0]) if each[0] in FIRST else len(FIRST))
    fields = [f"{path}: {short(ours)} and {short(theirs)}" for path, ours, theirs in found[:MOST_FIELDS]]
    fields += [f"{len(found) - MOST_FIELDS} more fields"] if len(found) > MOST_FIELDS else []
    return f"{first.name} and {other.name} differ in {'; '.join(fields)}."


def _with_verdict(row: MetricRow, margin: float | None) -> MetricRow:
    """The row with the verdict on its change; see `verdict.judge_change`."""
    if row.p_adjusted is None or row.difference is None or row.difference_low is None or row.difference_high is None:
        return row
    margin = margin or default_margin(row.metric)
    ends = row.difference_low, row.difference_high
    return replace(row, verdict=judge_change(row.difference, *ends, row.p_adjusted, margin), margin=margin)


def pairing_problems(first: Run, other: Run, name: str | None) -> list[str]:
    """Why two runs cannot be compared query by query; empty where they can."""
    if name is None:
        return [f"{first.name} has no evaluation after training."]
    if name not in finished_evaluations(other):
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
        metric: replace(
            each, **{name: value[order] for name in ("values", "ranks") if (value := getattr(each, name)) is not None}
        )
        for metric, each in mine.items()
    }


def _run_rows(
    run: str, mine: Mapping[str, MetricValues], theirs: Mapping[str, MetricValues], problems: Sequence[str]
) -> list[MetricRow]:
    """A row per metric of either run; the first run's values are paired with the other's."""
    both = {
        metric: replace(theirs[metric], before=each.after, earlier=each.values, earlier_ranks=each.ranks)
        for metric, each in mine.items()
        if metric in theirs and not problems
    }
    found = tested_fields(both)
    rows = []
    for metric in dict.fromkeys([*mine, *theirs]):
        left, right = (side[metric].after if metric in side else None for side in (mine, theirs))
        reason = ""
        if problems:
            reason = problems[0]
        elif left is None or right is None:
            reason = "Only one of the two measured this metric."
        elif "p" not in found.get(metric, {}):
            reason = "No values per query were stored."
        fields = found.get(metric, {})
        rows.append(MetricRow(metric, None, left, right, verdict="not comparable", reason=reason, run=run, **fields))
    return rows


# --- rankings --------------------------------------------------------------------------------------------------------


def _rankings(run: Run, name: str) -> dict[str, list[str]]:
    """Query id -> document ids, best first."""
    hits = run.table("hits", name, "after").sort_values("position", kind="stable")
    return {str(query): list(documents) for query, documents in hits.groupby("query_id", sort=False)["document_id"]}


def _agreement(
    first: Mapping[str, Sequence[str]],
    other: Mapping[str, Sequence[str]],
    name: str,
    metric: str,
    mine: MetricValues | None,
    theirs: MetricValues | None,
) -> RankAgreement:
    """The agreement of two rankings, and of their values of the main metric, which are in the same order."""
    scores = gains = None
    if mine is not None and theirs is not None:
        if mine.values is not None and theirs.values is not None:
            scores = mine.values, theirs.values
        if mine.before is not None and theirs.before is not None:
            gains = (mine.before, mine.after), (theirs.before, theirs.after)
    return rank_agreement(first, other, name=name, metric=metric, scores=scores, gains=gains)


def compare_with_file(
    run: Run, path: Path, card: Card | None, wanted: str | None, margin: float | None = None
) -> Comparison:
    """A run with the rankings of a TREC run file, on the queries of both; the file is the first side.

    The file is measured by the run's judgments, which are binary, and without the documents that the run leaves out.

    Raises RunError where the run has no rankings, DataError where the file has none of its queries or documents.
    """
    name = evaluation_name(run, run.recipe(), wanted)
    if name is None or has_examples(run, name):
        raise RunError(f"expected an evaluation of {run.name!r} that ranks documents, found none; choose another run.")
    published, table = read_trec_run(path), run.per_query(name, "after")
    rows = np.flatnonzero(table["query_id"].isin(list(published)))
    if not len(rows):
        ours, others = (short(next(iter(ids))) for ids in (table["query_id"], published))
        raise DataError(
            f"expected queries of {run.name!r}, such as {ours}, in {path.name!r}, found others, such as {others}; use "
            "the ids of `workbench export --format trec`."
        )
    own = run.settings(name, "after").get("own_documents", True)
    theirs = {
        query: [document for document in published[query] if own or document != query]
        for query in table["query_id"].iloc[rows]
    }
    known = set(run.documents(name)["document_id"])
    if all(known.isdisjoint(documents) for documents in theirs.values()):
        raise DataError(
            f"expected documents of {run.name!r} in {path.name!r}, found others; use the ids of `workbench export "
            "--format trec`."
        )
    depth = max(map(len, theirs.values()))
    measured = {
        metric: _on(each, rows, depth) for metric, each in metric_values(run, name).items() if each.values is not None
    }
    values = _measure(theirs, dict(zip(table["query_id"], table["relevant"], strict=True)))
    reach = math.inf if depth >= run.settings(name, "after").get("documents", math.inf) else depth
    mine = {
        metric: values[column]
        for metric in measured
        if (column := metric.partition("_")[2]) in values and int(column.partition("@")[2]) <= reach
    }
    main = run.recipe().evaluation.main_metric
    agreement = _agreement(theirs, _rankings(run, name), run.name, main, mine.get(main), measured.get(main))
    return _comparison(
        run,
        card,
        name,
        margin,
        mine,
        names=(path.name, run.name),
        reasons=(),
        rows=_run_rows(run.name, mine, measured, []),
        rankings=(agreement,),
        notes=_file_notes(path, run, len(published), len(table), len(rows), depth),
    )


def _measure(rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Sequence[str]]) -> dict[str, MetricValues]:
    """Metrics of `CUTS` and their values for each query of `rankings`."""
    depth = max(map(len, rankings.values()))
    gains = np.zeros((len(rankings), depth), dtype=bool)
    for row, (query, documents) in enumerate(rankings.items()):
        wanted = set(relevant[query])
        gains[row, : len(documents)] = [document in wanted for document in documents]
    ranks = np.where(gains.any(axis=1), gains.argmax(axis=1) + 1.0, np.inf)
    values = every_metric(gains, [len(relevant[query]) for query in rankings])
    return {name: MetricValues(after=float(each.mean()), values=each, ranks=ranks) for name, each in values.items()}


def _on(measured: MetricValues, rows: Any, depth: int) -> MetricValues:
    """A metric on some queries only, with the ranks that a ranking of `depth` documents could have."""
    values, ranks = measured.values[rows], measured.ranks[rows]
    return MetricValues(after=float(values.mean()), values=values, ranks=np.where(ranks > depth, np.inf, ranks))


def _file_notes(path: Path, run: Run, given: int, asked: int, common: int, depth: int) -> list[str]:
    """What of the file and of the run was compared."""
    notes = [f"{path.name} is measured by the judgments of {run.name}, up to its depth of {depth:,} documents."]
    if common < asked:
        notes.append(f"{asked - common:,} of {asked:,} queries of {run.name} are not in {path.name}, and are left out.")
    if common < given:
        notes.append(f"{given - common:,} of {given:,} queries of {path.name} are not in {run.name}, and are left out.")
    return notes
