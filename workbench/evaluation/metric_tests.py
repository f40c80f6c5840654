"""The fields of a `MetricRow` that come from values per query or example, and the notes that explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.evaluation import statistics
from workbench.evaluation.comparison import MetricRow
from workbench.evaluation.examples import MetricValues


def tested_fields(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metric -> the fields of its MetricRow that come from values per query or example."""
    complete = {
        metric: each if _is_complete(each.earlier) else replace(each, earlier=None)
        for metric, each in measured.items()
        if _is_complete(each.values)
    }
    means = {metric: each for metric, each in complete.items() if each.statistic == "mean"}
    others = {metric: each for metric, each in complete.items() if metric not in means}
    return _test_means(means) | _test_statistics(others)


def _is_complete(values: Any) -> bool:
    """Whether there is a finite value for every query."""
    return values is not None and len(values) > 0 and bool(np.isfinite(values).all())


def _test_means(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metrics that are means over queries, all in one go; `earlier` is paired with `values`, or None."""
    if not measured:
        return {}
    values = np.stack([each.values for each in measured.values()], axis=1)  # (queries, metrics)
    ends = zip(measured, *statistics.mean_intervals(values), strict=True)
    found: dict[str, dict[str, Any]] = {metric: {"low": float(low), "high": float(high)} for metric, low, high in ends}
    names = [metric for metric, each in measured.items() if each.earlier is not None]
    if names:
        changes = np.stack([measured[metric].values - measured[metric].earlier for metric in names], axis=1)
        low, high = statistics.mean_intervals(changes, signed=True)
        p, needed = statistics.randomization_test(changes), statistics.queries_needed(changes)
        adjusted = statistics.max_t(changes)
        for at, metric in enumerate(names):
            found[metric] |= {
                "difference": float(changes[:, at].mean()),
                "difference_low": float(low[at]),
                "difference_high": float(high[at]),
                "p": float(p[at]),
                "p_adjusted": float(adjusted[at]),
                **_wins(measured[metric], changes[:, at]),
                "queries_needed": needed[at],
            }
    return found


def _wins(measured: MetricValues, changes: Any) -> dict[str, int]:
    """How many are better, equal and worse: by the rank of the first relevant document, whatever the metric, as
    everywhere; examples have no ranks and count by their change."""
    if measured.ranks is not None and measured.earlier_ranks is not None:
        better, worse = measured.ranks < measured.earlier_ranks, measured.ranks > measured.earlier_ranks
    else:
        better, worse = changes > 0, changes < 0
    return {"wins": int(better.sum()), "ties": int((~better & ~worse).sum()), "losses": int(worse.sum())}


def _test_statistics(measured: Mapping[str, MetricValues]) -> dict[str, dict[str, Any]]:
    """Metrics that are not means, such as rank correlations. An example wins that comes nearer to its right place."""
    found: dict[str, dict[str, Any]] = {}
    tests: dict[str, statistics.PairedTest] = {}
    for metric, each in measured.items():
        low, high = statistics.statistic_interval(each.statistic, each.gold, each.values)
        found[metric] = {} if math.isnan(low) else {"low": low, "high": high}  # undefined on these examples
        if found[metric] and each.earlier is not None and each.before is not None and math.isfinite(each.before):
            paired = statistics.paired_statistic(each.statistic, each.gold, each.earlier, each.values)
            sides = (statistics.agreement(each.statistic, each.gold, side) for side in (each.values, each.earlier))
            tests[metric] = paired
            found[metric] |= {
                "difference": each.after - each.before,
                "difference_low": paired.low,
                "difference_high": paired.high,
                "p": paired.p,
                **_wins(each, np.subtract(*sides)),
                "queries_needed": paired.needed,
            }
    for metric, p in zip(tests, statistics.adjusted_p(list(tests.values())), strict=True):
        found[metric]["p_adjusted"] = p
    return found


def has_changes(row: MetricRow) -> bool:
    """Whether any query or example changed, so that there was something to test."""
    return bool(row.difference or row.queries_needed)


def example_count(measured: Mapping[str, MetricValues]) -> int | None:
    """How many queries or examples were measured; None where none of their values were stored."""
    return next((len(each.values) for each in measured.values() if each.values is not None), None)


def reading_notes(
    rows: Sequence[MetricRow], main: str, measured: Mapping[str, MetricValues], examples: str
) -> list[str]:
    """How to read the table."""
    count = example_count(measured)
    if count is None:
        return []
    means = all(each.statistic == "mean" for each in measured.values())
    resamples = statistics.RESAMPLES if means else statistics.resample_count(count)
    tested = sum(has_changes(row) for row in rows)
    binary = " Relevance is binary, as in the library's evaluator: a graded judgment above 0 counts as 1."
    test = f" p: paired randomization test of the change, adjusted for all {tested} metrics (max-T)." if tested else ""
    notes = [
        f"* main metric. Intervals: 95%, BCa bootstrap over {count:,} {examples} ({resamples:,} resamples, seed "
        f"{statistics.SEED}); of a share, Wilson's.{test}{binary if examples == 'queries' else ''}"
    ]
    by = " (rank of the first relevant document)" if next(iter(measured.values())).ranks is not None else ""
    decisive = [row for row in rows if row.metric == main]
    for row in decisive:
        if row.wins is not None:
            where = f" in {row.run}" if len({each.run for each in rows}) > 1 else ""
            notes.append(
                f"Change of {main}{where}: {row.difference:+.4f} (95% interval {row.difference_low:+.4f} to "
                f"{row.difference_high:+.4f}, of this metric alone); {row.wins:,} {examples} better, {row.ties:,} "
                f"equal, {row.losses:,} worse{by}."
            )
    needed = decisive[0].queries_needed if decisive else None
    if needed is not None and needed > count:  # fewer would rest on changes that are few or small: no plan for others
        notes.append(
            f"Detecting a change of {statistics.EFFECT} in {main} would take about {needed:,} {examples} (80% power)."
        )
    if any(each.earlier is not None and not _is_complete(each.earlier) for each in measured.values()):
        notes.append(f"Not all {count:,} {examples} have a value before training, so their changes are not tested.")
    return notes
