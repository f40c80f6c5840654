"""Summaries as Markdown for a pull request or a discussion on the Hub: verdict, main findings, metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from workbench.cards.metric_names import metric_name
from workbench.evaluation.comparison import MetricRow
from workbench.evaluation.rankings import agreement_scope, agreement_table
from workbench.views.figures import after_value
from workbench.views.records import FindingLines, Verdict, format_p_value, number, signed
from workbench.views.summary import Several, Summary
from workbench.views.theme import escape

FINDINGS = 3  # findings that a summary lists
SIGNS = {"good": "✅", "bad": "❌", "open": "⚪", "info": "🔵"}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str]) -> list[str]:
    """The lines of a table of cells that are escaped already; columns not in `left` are aligned right."""
    marks = ("---" if name in left else "---:" for name in columns)
    return [f"| {' | '.join(cells)} |" for cells in (columns, marks, *rows)]


def name_of(row_metric: str, main: str) -> str:
    """The name of a metric for a table, the main one in bold."""
    name = escape(metric_name(row_metric), 60)
    return f"**{name}**" if row_metric == main else name


def interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{number(low)} to {number(high)}"


def signed_interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def with_interval(row: MetricRow | None) -> str:
    """The value after training and, in parentheses, its interval."""
    if row is None or row.after is None:
        return "–"
    return number(row.after) + ("" if row.low is None else f" ({interval(row.low, row.high)})")


def lines_of(proof: Sequence[tuple[int, str]]) -> str:
    """The numbers of the card's lines that prove a finding: "line 8", "lines 8, 9", or nothing."""
    numbers = ", ".join(str(number) for number, _ in proof)
    return f"line{'s' * (len(proof) > 1)} {numbers}" if proof else ""


def markdown(summary: Summary) -> str:
    """The summary of one run."""
    lines = [*_head(escape(summary.card), summary.verdict), ""]
    if summary.stand_ins:
        lines += ["**A stand-in was used, so this is not a reproduction.**", ""]
        lines += [*(f"- {escape(sentence)}" for sentence in summary.stand_ins), ""]
    versions = ", ".join(f"{fact.name} {fact.value}" for fact in summary.versions[:2])
    source = (f"run {summary.run}, {summary.variant}", versions, "written by Card Workbench")
    lines += [*_findings(summary.findings), *_metrics(summary), "", f"<sub>{_join(source)}</sub>", ""]
    return _text(lines)


def markdown_of_several(several: Several) -> str:
    """The summary of several runs side by side."""
    lines = [*_head(f"{len(several.runs)} runs", several.verdict), ""]
    for letter, run in zip(several.letters, several.runs, strict=True):
        note = " (on a stand-in)" if run.stand_ins else ""
        lines.append(f"- **{letter}**: {escape(run.run)}, {escape(run.variant)}{note}")
    by_metric = [{row.metric: row for row in run.metrics} for run in several.runs]
    metrics = (
        [name_of(metric, several.main), *(with_interval(rows.get(metric)) for rows in by_metric)]
        for metric in several.metrics
    )
    lines += ["", *table(["Metric", *several.letters], metrics, left=["Metric"])]
    if several.rankings:
        found = [*several.rankings.values()]
        columns = ["Measure", *(f"{letter} vs. {several.letters[0]}" for letter in several.rankings), "How to read it"]
        cells = ([name, *map(number, values), escape(meaning)] for name, values, meaning in agreement_table(found))
        lines += ["", f"Rank agreement, {agreement_scope(found)}:", ""]
        lines += table(columns, cells, left=[columns[0], columns[-1]])
    if several.differences:
        fields = ([f"`{path}`", *(escape(value, 120) for value in values)] for path, values in several.differences)
        columns = ["Recipe", *several.letters]
        lines += ["", *table(columns, fields, left=columns)]
    unit = several.runs[0].queries.unit
    return _text([*lines, "", f"<sub>After training, with 95% CIs over {unit}. Written by Card Workbench.</sub>", ""])


def _head(title: str, verdict: Verdict) -> list[str]:
    sign = SIGNS.get(verdict.tone, "")
    reasons = (f"- {escape(reason)}" for reason in verdict.reasons)
    return [
        f"## {title}: {escape(verdict.word)} {sign}".rstrip(),
        "",
        escape(verdict.meaning),
        *basis(verdict),
        *reasons,
    ]


def basis(verdict: Verdict) -> list[str]:
    """What a verdict rests on: a sentence, facts on one line, and what the user states."""
    facts = " · ".join(f"{escape(name)} **{escape(value)}**" for name, value in verdict.facts)
    lines = [escape(verdict.sentence), facts, *map(escape, verdict.statements)]
    return [each for line in lines if line for each in ("", line)] + [""]


def _text(lines: Sequence[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _join(parts: Sequence[str]) -> str:
    return " · ".join(escape(part) for part in parts if part)


def _findings(findings: Sequence[FindingLines] | None) -> list[str]:
    """The most severe findings, and the number of the others."""
    if not findings:
        return []
    order = {"error": 0, "warning": 1, "note": 2}
    shown = sorted(findings, key=lambda pair: order.get(pair[0].severity, 3))[:FINDINGS]
    lines = ["### Findings on the card", ""]
    for finding, proof in shown:
        where = f" (`{finding.code}`, {lines_of(proof)})" if proof else ""
        lines.append(f"- **{escape(finding.severity)}** {escape(finding.message)}{where}")
    more = len(findings) - len(shown)
    return [*lines, *([f"- and {more} more"] if more else []), ""]


def _metrics(summary: Summary) -> list[str]:
    if not summary.metrics:
        return [escape(summary.gaps.get("metrics") or "This run was not evaluated.")]
    queries, rows = summary.queries, summary.metrics
    size = f" over {queries.measured:,} {queries.unit}" if queries.measured else ""
    lines = [f"### Metrics{size}", ""]
    changes = _changes(rows, summary.main_metric)
    if all(row.card is None for row in rows):
        return [*lines, *changes]
    lines += card_table(rows, summary.main_metric, summary.seeds)
    if (one := summary.replay) is not None and one.numbers:
        lines += ["", f"**{one.heading}: {escape(one.word)}.** {escape(one.agreeing)}."]
    return [*lines, "", "<details><summary>Change by training</summary>", "", *changes, "", "</details>"]


def card_table(rows: Sequence[MetricRow], main: str, seeds: Sequence[int], *, before: bool = True) -> list[str]:
    """The card's numbers beside ours, with the interval of their difference and the verdict on each."""
    ours = f"Mean of {len(seeds)} (SD)" if len(seeds) > 1 else "After"
    judged = any(row.card_difference is not None for row in rows)
    columns = ["Metric", "Card", *(["Before"] if before else []), ours]
    columns += [*(["Card − ours", "95% CI"] if judged else []), "Verdict"]
    cells = (
        [
            name_of(row.metric, main),
            number(row.card),
            *([number(row.before)] if before else []),
            number(after_value(row)) + (f" ({number(row.deviation)})" if len(row.values) > 1 else ""),
            *([signed(row.card_difference), signed_interval(row.card_low, row.card_high)] if judged else []),
            row.verdict or "–",
        ]
        for row in rows
    )
    return table(columns, cells, left=["Metric", "Verdict"])


def _changes(rows: Sequence[MetricRow], main: str) -> list[str]:
    columns = ["Metric", "Before", "After (95% CI)", "Change", "95% CI", "p"]
    cells = (
        [
            name_of(row.metric, main),
            number(row.before),
            with_interval(row),
            signed(row.difference),
            signed_interval(row.difference_low, row.difference_high),
            format_p_value(row.p_adjusted),
        ]
        for row in rows
    )
    return table(columns, cells, left=["Metric"])
