"""A summary as Markdown, fit for a pull request or a discussion on the Hub: verdict, main findings, the table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from workbench.evaluation.compare import MetricRow
from workbench.views.figures import metric_name
from workbench.views.records import FindingLines, Several, Summary, format_p_value, number, signed
from workbench.views.theme import shorten

FINDINGS = 3  # findings that a summary tells
SIGNS = {"good": "✅", "bad": "❌", "open": "⚪", "told": "🔵"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&#]|:(?=//)|^[-+](?=\s)|(?<=^\d)[.)](?=\s))")
REFERRING = re.compile(r"(?<!\w)([@#])(?=\w)")  # GitHub and the Hub read these in finished text, escaped or not


def escaped(text: object, limit: int = 600) -> str:
    """`text` as Markdown shows it: on one line, no tag, link, mention, formula, table cell or code in it takes effect.

    >>> print(escaped("a <b>user</b> | [x](http://y)"))
    a \\<b\\>user\\</b\\> \\| \\[x\\](http\\://y)
    """
    line = REFERRING.sub("\\1\u200b", shorten(text, limit))
    return re.sub(r"(?i)\b(www)\.", "\\1\u200b.", SPECIAL.sub(r"\\\1", line))


def markdown(summary: Summary) -> str:
    """The summary of one run."""
    verdict = summary.verdict
    lines = [
        f"## {escaped(summary.card)}: {escaped(verdict.word)} {SIGNS.get(verdict.tone, '')}".rstrip(),
        "",
        escaped(verdict.meaning),
        "",
        *(f"- {escaped(reason)}" for reason in verdict.reasons),
    ]
    if summary.stand_ins:
        lines += ["", "**A stand-in was used, so this is not a reproduction.**", ""]
        lines += [f"- {escaped(sentence)}" for sentence in summary.stand_ins]
    lines += ["", *_findings(summary.findings)]
    lines += _table(summary)
    lines += ["", f"<sub>{_source(summary)}</sub>", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def markdown_of_several(several: Several) -> str:
    """The summary of several runs side by side."""
    verdict = several.verdict
    lines = [
        f"## {len(several.runs)} runs: {escaped(verdict.word)} {SIGNS.get(verdict.tone, '')}".rstrip(),
        "",
        escaped(verdict.meaning),
        "",
        *(f"- {escaped(reason)}" for reason in verdict.reasons),
        "",
    ]
    pairs = list(zip(several.letters, several.runs, strict=True))
    for letter, run in pairs:
        note = " (stand-ins were used)" if run.stand_ins else ""
        lines.append(f"- **{letter}**: {escaped(run.run)}, {escaped(run.variant)}{note}")
    lines += ["", "| Metric | " + " | ".join(several.letters) + " |", "| --- |" + " ---: |" * len(pairs)]
    for metric in several.metrics:
        rows = [next((row for row in run.metrics if row.metric == metric), None) for _, run in pairs]
        cells = [_with_interval(row) for row in rows]
        lines.append(f"| {_named(metric, metric == several.main)} | {' | '.join(cells)} |")
    if several.differences:
        lines += ["", "| Recipe | " + " | ".join(several.letters) + " |", "| --- |" + " --- |" * len(pairs)]
        lines += [
            f"| `{path}` | {' | '.join(escaped(value, 120) for value in values)} |"
            for path, values in several.differences
        ]
    lines += ["", "<sub>After training, with 95 % intervals over queries. Written by Card Workbench.</sub>", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _findings(findings: Sequence[FindingLines] | None) -> list[str]:
    """The gravest findings, and how many more there are."""
    if not findings:
        return []
    order = {"error": 0, "warning": 1, "note": 2}
    gravest = sorted(findings, key=lambda pair: order.get(pair[0].severity, 3))[:FINDINGS]
    lines = [f"- **{escaped(one.severity)}** {escaped(one.message)}{_where(one.code, proof)}" for one, proof in gravest]
    more = len(findings) - len(gravest)
    return ["### Findings on the card", "", *lines, *([f"- and {more} more"] if more else []), ""]


def _where(code: str, proof: Sequence[tuple[int, str]]) -> str:
    places = ", ".join(str(line) for line, _ in proof)
    return f" (`{code}`, {'line' if len(proof) == 1 else 'lines'} {places})" if places else ""


def _table(summary: Summary) -> list[str]:
    if not summary.metrics:
        return [escaped(summary.gaps.get("metrics") or "This run was not evaluated.")]
    size = f" over {summary.queries.measured:,} {summary.queries.unit}" if summary.queries.measured else ""
    lines = [
        f"### Metrics{size}",
        "",
        "| Metric | Card | Before | After (95 % interval) | Change | p | Verdict |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in summary.metrics:
        cells = (
            _named(row.metric, row.metric == summary.main_metric),
            number(row.card),
            number(row.before),
            _with_interval(row),
            signed(row.difference),
            format_p_value(row.p_holm),
            row.verdict or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _named(metric: str, main: bool) -> str:
    name = escaped(metric_name(metric), 60)
    return f"**{name}**" if main else name


def _with_interval(row: MetricRow | None) -> str:
    if row is None or row.after is None:
        return "–"
    between = "" if row.low is None or row.high is None else f" ({number(row.low)} to {number(row.high)})"
    return number(row.after) + between


def _source(summary: Summary) -> str:
    versions = ", ".join(f"{fact.name} {fact.value}" for fact in summary.versions[:2])
    parts = (f"run {summary.run}, {summary.variant}", versions, "written by Card Workbench")
    return " · ".join(escaped(part) for part in parts if part)
