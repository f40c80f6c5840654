"""The two questions that a comparison answers at a glance, and which of its metrics say nothing new."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.cards.metric_names import metric_name
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.verdict import default_margin, judge_change
from workbench.views.records import format_p_value, number, signed

PRINTED = 1.01e-4  # by how much two rounded numbers of a card can differ that are the same
TONES = {"better": "good", "worse": "bad", "equivalent": "info", "no significant difference": "open"}


@dataclass(frozen=True)
class Answer:
    """One question with its answer."""

    question: str
    word: str  # "better", "worse", "equivalent", "no significant difference", "not measured"
    tone: str  # see `records.Verdict`
    value: str = ""  # the number that matters
    details: tuple[str, ...] = ()


def better_than_the_base(found: Comparison) -> Answer:
    """Whether training changed the main metric for the better: direction, size, interval, queries."""
    question, row = "Better than the base?", found.main
    if row is None or row.difference is None:
        return Answer(question, "not measured", "open", details=("There is no number both before and after training.",))
    name, low, high = metric_name(row.metric), row.difference_low, row.difference_high
    details = [f"{number(row.before)} before, {number(row.after)} after"]
    if low is None or high is None or row.p_adjusted is None:
        return Answer(question, _direction(row.difference), "open", f"{name} {signed(row.difference)}", tuple(details))
    word = judge_change(row.difference, low, high, row.p_adjusted, default_margin(row.metric))
    details.append(f"95% CI of the change {signed(low)} to {signed(high)}, p {format_p_value(row.p_adjusted)}")
    if row.wins is not None and row.losses is not None:
        details.append(f"{row.wins:,} {found.unit} better, {row.losses:,} worse, {row.ties or 0:,} equal")
    return Answer(question, word, TONES[word], f"{name} {signed(row.difference)}", tuple(details))


def _direction(difference: float) -> str:
    return "higher" if difference > 0 else "lower" if difference < 0 else "equal"


def repeated_metrics(rows: Sequence[MetricRow], main: str) -> dict[str, str]:
    """Metric -> an earlier one, the main one first, whose numbers it repeats: the same, or divided by the cutoff.

    With one relevant document for each query, Recall@k is Accuracy@k, and Precision@k is Recall@k divided by k.
    """
    kept: list[MetricRow] = []
    found: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.metric != main):
        first = next((other.metric for other in kept if row.run == other.run and _repeats(row, other)), None)
        if first is None:
            kept.append(row)
        else:
            found[row.metric] = first
    return found


def _repeats(row: MetricRow, other: MetricRow) -> bool:
    """Whether every number of a row is that of another one, times one factor of 1 or of their common cutoff, with the
    same verdict; the card's are rounded."""
    if row.verdict != other.verdict:
        return False
    cutoff = row.metric.rpartition("@")[2]
    factors = [1.0]
    if cutoff.isdigit() and cutoff == other.metric.rpartition("@")[2]:
        factors += [float(cutoff), 1 / float(cutoff)]
    pairs = [(getattr(row, name), getattr(other, name)) for name in ("before", "after")]
    known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    if len(known) < len([pair for pair in pairs if pair != (None, None)]) or not known:
        return False
    fitting = [
        each for each in factors if all(math.isclose(mine * each, theirs, abs_tol=1e-9) for mine, theirs in known)
    ]
    if row.card is None or other.card is None:
        return bool(fitting) and row.card == other.card
    return any(abs(row.card * each - other.card) <= PRINTED * max(each, 1) for each in fitting)
