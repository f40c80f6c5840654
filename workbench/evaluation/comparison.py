"""`Comparison` and `MetricRow`: what a comparison found, as plain values, and how it is printed."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from workbench.cards.metric_names import metric_names, name_metrics
from workbench.errors import RunError
from workbench.evaluation.rankings import RankAgreement, agreement_scope, agreement_table
from workbench.evaluation.replay import Replay
from workbench.evaluation.verdict import RULE, Verdict


@dataclass(frozen=True)
class MetricRow:
    """One metric. Card against run: before and after training. Run against run: the first and the other run, and the
    card's number beside them."""

    metric: str  # as the library names it: "cosine_ndcg@10"
    card: float | None = None  # as the card prints it
    before: float | None = None
    after: float | None = None
    low: float | None = None  # 95% interval of `after`, over queries or examples
    high: float | None = None
    card_line: int | None = None
    verdict: Verdict | Literal[""] = ""  # empty where nothing was compared
    reason: str = ""  # what the verdict rests on, or why there is none
    difference: float | None = None  # after - before, paired by query
    difference_low: float | None = None  # 95% interval of the difference
    difference_high: float | None = None
    p: float | None = None  # of the difference, paired randomization test
    p_adjusted: float | None = None  # for all metrics of the comparison together, by max-T
    wins: int | None = None  # queries, by the rank of the first relevant document, or examples that are better after
    ties: int | None = None
    losses: int | None = None
    queries_needed: int | None = None  # to detect a difference of 0.01
    run: str = ""  # the run that `after` is from
    values: tuple[float, ...] = ()  # after training, one for each seed
    mean: float | None = None  # of `values`
    deviation: float | None = None  # standard deviation between seeds; assumed where there is one training
    card_difference: float | None = None  # card - mean
    card_low: float | None = None  # 95% interval of the card's difference
    card_high: float | None = None
    detectable: float | None = None  # the largest inflation of the card that is not excluded
    margin: float | None = None  # within which a card is reproduced


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `compare`. `rows` are in the card's order, the run's where there is no card."""

    kind: Literal["card", "runs"]
    names: tuple[str, ...]  # card and run, or the runs
    verdict: Verdict  # on the card; of two runs that of the main metric, of several the strongest
    reasons: tuple[str, ...]  # why it is not comparable, a sentence each
    notes: tuple[str, ...]  # how it was measured and chosen, a sentence each
    rows: tuple[MetricRow, ...]
    main_metric: str
    evaluation: str | None = None  # the run's evaluation that was compared
    queries: int | None = None  # how many were measured one by one
    unit: str = "queries"  # what they are: "pairs", "triplets"
    sentence: str = ""  # what the verdict rests on
    seeds: tuple[int, ...] = ()  # of the trainings that were compared with the card
    same_examples: bool | None = None  # whether they are known to be the card's own; None: of runs
    effect_ratio: float | None = None  # our effect of training over the card's; 1: the same
    statements: tuple[str, ...] = ()  # what the user states about the card, a sentence each
    replay: Replay | None = None
    rankings: tuple[RankAgreement, ...] = ()  # of runs: each other run's with the first's
    rule: int = RULE

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Comparison:
        """A stored comparison; unknown keys are left out. Raises RunError where it is no such thing."""
        try:
            return _adapter().validate_python(stored)
        except ValidationError as error:
            first = error.errors()[0]
            raise RunError(
                f"expected {'.'.join(map(str, first['loc']))!r} in comparison.json as `workbench compare` writes it, "
                f"found {first['input']!r:.60}; remove that file, and the run is compared anew."
            ) from error

    @property
    def main(self) -> MetricRow | None:
        """The row of the main metric."""
        return next((row for row in self.rows if row.metric == self.main_metric), None)

    def facts(self, minus: str = "-") -> dict[str, str]:
        """What the verdict rests on, to be shown beside it: name -> value."""
        found: dict[str, str] = {}
        row = self.main
        if self.kind == "card":
            found |= {} if row is None else _judged_facts(row, minus)
            if self.seeds:
                found["ours"] = _seeds_text(self.seeds)
            elif self.replay is not None and self.replay.of == "weights":
                found["ours"] = "the published weights"
        elif row is not None and row.difference is not None and len(self.names) == 2:
            found["other - first".replace("-", minus)] = _with_interval(
                row.difference, row.difference_low, row.difference_high, minus
            )
            found |= {} if row.p_adjusted is None else {"p": p_text(row.p_adjusted)}
            found["margin"] = "none" if row.margin is None else f"±{row.margin:g}"
        if self.queries:
            whose = {True: ", the card's own", False: ", not known to be the card's own", None: ""}[self.same_examples]
            found["measured on"] = f"{self.queries:,} {self.unit}{whose}"
        if self.effect_ratio is not None:
            found["effect of training"] = f"{self.effect_ratio:.2f} times the card's".replace("-", minus)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""

        def finite(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: finite(each) for key, each in value.items()}
            if isinstance(value, list | tuple):
                return [finite(each) for each in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        rows, rankings = ([asdict(each) for each in several] for several in (self.rows, self.rankings))
        replay = self.replay and self.replay.to_dict()
        plain: dict[str, Any] = finite({**vars(self), "rows": rows, "replay": replay, "rankings": rankings})
        return plain

    def to_frame(self) -> pd.DataFrame:
        """A row per metric with everything that was measured; the columns are those of `MetricRow`."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("metric")

    def _frame(self, minus: str = "-", none: str = "-", *, changes: bool = False) -> pd.DataFrame:
        """Every number as text, a row per metric: card - ours, or the changes by training or between runs."""

        def number(value: float | None, sign: str = "") -> str:
            return none if value is None else number_text(value, sign).replace("-", minus)

        def interval(low: float | None, high: float | None, sign: str = "") -> str:
            return none if low is None or high is None else f"{number(low, sign)} to {number(high, sign)}"

        first, last = ("before", "after") if self.kind == "card" else ("first", "other")
        judged = self.kind == "card" and not changes and any(row.card_difference is not None for row in self.rows)
        rows = []
        for row in self.rows:
            cells = {} if changes else {"card": number(row.card)}
            cells |= {first: number(row.before), last: number(row.after)}
            if judged and len(self.seeds) > 1:
                cells |= {"mean": number(row.mean), "SD": number(row.deviation)}
            if judged:
                cells |= {"card - ours".replace("-", minus): number(row.card_difference, "+")}
                cells |= {"95% CI of it": interval(row.card_low, row.card_high, "+")}
            else:
                cells |= {f"95% CI of {last}": interval(row.low, row.high)} if self.kind == "card" else {}
                cells |= {"change": number(row.difference, "+")}
                cells |= {"95% CI of change": interval(row.difference_low, row.difference_high, "+")}
                cells |= {"p": none if row.p_adjusted is None else p_text(row.p_adjusted)}
            if changes:
                rows.append(cells)
                continue
            cells["verdict"] = f"{row.verdict} ({row.run})" if len(self.names) > 2 and row.run else row.verdict
            rows.append(cells)
        named = metric_names(row.metric for row in self.rows)
        names = [named[row.metric] + " *" * (row.metric == self.main_metric) for row in self.rows]
        frame = pd.DataFrame(rows, index=names).rename_axis(columns="metric")
        if "verdict" in frame and (frame["verdict"] == "not comparable").all():
            frame["verdict"] = none  # it is said above
        return frame.drop(columns=[name for name in frame.columns if (frame[name] == none).all()])

    def _rankings_frame(self, minus: str = "-", none: str = "-") -> pd.DataFrame:
        """How far the rankings agree, as text: a row for each measure, a column for each other run."""
        columns = [each.other for each in self.rankings] if len(self.rankings) > 1 else ["value"]
        rows = {
            name: [none if each is None else number_text(each).replace("-", minus) for each in values] + [meaning]
            for name, values, meaning in agreement_table(self.rankings)
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "meaning"])

    def __repr__(self) -> str:
        lines = [f"{' and '.join(self.names)}: {self.verdict}"]
        lines += [self.sentence] if self.sentence else []
        lines += ["; ".join(f"{name}: {value}" for name, value in self.facts().items())] if self.facts() else []
        lines += [*self.statements, *([self._frame().to_string()] if self.rows else [])]
        lines += [f"- {reason}" for reason in self.reasons]
        if self.rankings:
            table = self._rankings_frame()
            table["meaning"] = " " + table["meaning"].str.ljust(table["meaning"].str.len().max())
            lines += [
                f"Rank agreement, {agreement_scope(self.rankings)}:",
                table.to_string(header=len(self.rankings) > 1),
            ]
        if self.replay is not None and self.replay.numbers:
            lines.append(f"{self.replay.heading.lower()}: {self.replay.word}; {self.replay.agreeing}.")
        return name_metrics("\n".join([*lines, *self.notes]), (row.metric for row in self.rows))

    def _repr_html_(self) -> str:
        names = html.escape(" and ".join(self.names))
        facts = "; ".join(
            f"{html.escape(name)}: <b>{html.escape(value)}</b>" for name, value in self.facts("−").items()
        )
        parts = [f"<p><b>{html.escape(self.verdict)}</b> ({names})</p>"]
        parts += [f"<p>{html.escape(self.sentence)}</p>"] if self.sentence else []
        parts += [f"<p>{facts}</p>"] if facts else []
        parts += [f"<p>{html.escape(each)}</p>" for each in self.statements]
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        parts += [self._frame("−", "–").to_html(border=0), f"<ul>{reasons}</ul>" if reasons else ""]
        if any(row.card_difference is not None for row in self.rows):
            table = self._frame("−", "–", changes=True).to_html(border=0)
            parts.append(f"<details><summary>Change by training</summary>{table}</details>")
        if self.rankings:
            table = self._rankings_frame("−", "–").to_html(border=0)
            parts.append(f"<p>Rank agreement, {agreement_scope(self.rankings)}</p>{table}")
        parts += [] if self.replay is None else [_replay_html(self.replay, self.sentence)]
        text = "".join([*parts, *(f"<p>{html.escape(note)}</p>" for note in self.notes)])
        return name_metrics(text, (row.metric for row in self.rows))


@cache
def _adapter() -> TypeAdapter[Comparison]:
    return TypeAdapter(Comparison)


def _judged_facts(row: MetricRow, minus: str) -> dict[str, str]:
    """Those of one metric that was compared with the card's."""
    if row.card_difference is None:
        return {}
    found = {"card - ours".replace("-", minus): _with_interval(row.card_difference, row.card_low, row.card_high, minus)}
    if row.detectable is not None:  # judged by seeds, not by the replay
        found["margin"] = "none" if row.margin is None else f"±{row.margin:g}"
        known = "" if len(row.values) > 1 else ", assumed"
        found |= {} if row.deviation is None else {"SD between seeds": f"{row.deviation:.4f}{known}"}
        found["not excluded"] = f"a card up to {row.detectable:.4f} off"
    return found


def _with_interval(value: float, low: float | None, high: float | None, minus: str) -> str:
    between = "" if low is None or high is None else f" (95% CI {number_text(low, '+')} to {number_text(high, '+')})"
    return (number_text(value, "+") + between).replace("-", minus)


def _seeds_text(seeds: tuple[int, ...]) -> str:
    """
    >>> _seeds_text((42,)), _seeds_text((42, 43, 44, 7))
    ('one training, seed 42', 'mean of 4 trainings, seeds 7, 42 to 44')
    """
    if len(seeds) == 1:
        return f"one training, seed {seeds[0]}"
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], seed]
        else:
            ranges.append([seed])
    return f"mean of {len(seeds)} trainings, seeds {', '.join(' to '.join(map(str, each)) for each in ranges)}"


def _replay_html(replay: Replay, known: str) -> str:
    """The replay's sentence where it is not `known` already, and its numbers, folded where all agree."""
    rows = [
        {
            "number": each.name,
            "when": each.when,
            "card": f"{each.card:.{each.places}f}",
            "ours": f"{each.ours:.{each.places}f}",
            "card − ours": f"{round(each.difference, each.places) + 0.0:+.{each.places}f}".replace("-", "−"),
            "equal": "yes" if each.equal else "no",
            "line": "–" if each.line is None else str(each.line),
        }
        for each in replay.shown()
    ]
    said = "" if not rows else f" {html.escape(replay.agreeing)}."
    why = "" if replay.sentence == known else f" {html.escape(replay.sentence)}"
    head = f"<p>{replay.heading}: <b>{html.escape(replay.word)}</b>.{why}{said}</p>"
    if not rows:
        return head
    table = pd.DataFrame(rows).to_html(index=False, border=0)
    opened = " open" if replay.first is not None else ""
    return f"{head}<details{opened}><summary>Number by number</summary>{table}</details>"


def number_text(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{round(value, 4) + 0.0:{sign}.4f}"  # + 0.0: no minus before zero


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"
