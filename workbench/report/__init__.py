"""Run -> one HTML file that tells what came out of it, and how sure one may be.

Two steps. `summarize` (in `summary`) reads the run into plain values that tests can look at; `render` lays them out and
computes nothing.

The file holds everything that it shows (plotly.js once, no address of any other file), forbids itself the network by
its Content-Security-Policy, reads without scripts and on paper by static drawings of the same figures, and is the same
bytes for the same run but for the line that says when it was written.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import figures, look
from workbench.errors import RunError
from workbench.figures import Curve, MetricMark
from workbench.report.summary import RecipeRow, Summary, summarize
from workbench.run import Run, replacing

__all__ = ["Drawing", "Summary", "render", "report", "summarize"]


COLUMNS = ("card", "before", "after", "low", "difference", "difference_low", "p_holm", "verdict")
"""Columns of the table of metrics that are left out where no metric has such a value."""


def render(summary: Summary, *, written: str | None = None) -> str:
    """The report as one HTML document. `written` is what the date line says; None takes the time now, in UTC."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("workbench.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: look.harmless(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=_number, signed=_signed, rank=_rank_text, chance=_chance, metric=figures.metric_name
    )
    drawn = _drawings(summary)
    style = _style(environment)
    library, script = figures.library(), _source(environment, "report.js")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src {_hash(style)} {_hash('')}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        written=written or time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        policy=policy,
        style=Markup(style),
        library=Markup(library) if drawn else "",
        script=Markup(script),
        drawn=drawn,
        has={name: any(getattr(row, name) not in (None, "") for row in summary.metrics) for name in COLUMNS},
        smoothed=any(len(curve.steps) >= figures.SMOOTH_FROM for curve in summary.curves),
        stated=_groups(summary.recipe, defaults=False),
        defaults=_groups(summary.recipe, defaults=True),
        dark_colours=Markup(_script_json(look.to_dark())),
        config=Markup(_script_json(look.CONFIG)),
    )


SOURCES = {
    "card": "the card",
    "file": "a file beside the card",
    "library": "the library's default",
    "inferred": "inferred",
    "default": "the workbench's default",
    "user": "yours",
    "finding": "the fix of a finding",
    "unknown": "unknown",
}
DEFAULTS = ("library", "default")  # origins of fields that nobody chose
GROUPS = {"base": "Base", "data": "Data", "loss": "Loss", "training": "Training", "evaluation": "Evaluation"}


def _groups(rows: Sequence[RecipeRow], *, defaults: bool) -> list[dict[str, Any]]:
    """The recipe's rows under the name of their part, with their origin in words: the defaults, or all others."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if (row.source in DEFAULTS) == defaults:
            head, _, name = row.path.partition(".")
            shown = {"name": name or head, "value": row.value, "source": row.source, "origin": _origin(row)}
            groups.setdefault(GROUPS.get(head, "Recipe"), []).append(shown)
    return [{"name": name, "fields": fields} for name, fields in groups.items()]


def _origin(row: RecipeRow) -> str:
    origin = SOURCES.get(row.source, row.source)
    if row.lines:
        origin += f", {'line' if len(row.lines) == 1 else 'lines'} {', '.join(map(str, row.lines))}"
    if row.source == "library" and row.note.startswith("default of "):
        return row.note
    return f"{origin}: {row.note}" if row.note else origin


@dataclass(frozen=True)
class Drawing:
    """One figure, three times: for Plotly, and as static drawings for wide and narrow pages."""

    identity: str
    label: str  # what it shows, in a sentence, for readers who do not see it
    json: str
    wide: str
    narrow: str


WIDE, HALF, NARROW = 880, 520, 380  # units of the static drawings; a page scales them to its column


def _drawings(summary: Summary) -> dict[str, Drawing]:
    """The figures that this summary has values for."""
    main = summary.per_query_metric
    found: dict[str, Drawing] = {}
    if any(curve.steps for curve in summary.curves):
        figure = figures.loss_curves(summary.curves, x=_along(summary.curves), log=_spans_decades(summary.curves))
        found["loss"] = _drawing("loss", figure, "Training and validation loss, the card's and this run's.", WIDE)
    if summary.metrics:
        names = [figures.metric_name(row.metric) for row in summary.metrics]
        names = names if len(set(names)) == len(names) else [row.metric for row in summary.metrics]
        marks = [
            MetricMark(name, row.card, row.before, row.after, row.low, row.high)
            for name, row in zip(names, summary.metrics, strict=True)
        ]
        label = "Every metric: before, after with its interval, and the card's number. The table has the same values."
        along = f"Value over {summary.measured:,} {summary.unit}" if summary.by_item else "Mean over queries (0 to 1)"
        found["metrics"] = _drawing("metrics", figures.metric_bars(marks, title=along), label, WIDE)
    if summary.changes:
        ranks = figures.rank_changes(summary.changes, depth=summary.depth)
        found["ranks"] = _drawing("ranks", ranks, "Rank of the first relevant document, before against after.", HALF)
        change = figures.per_query_difference(summary.changes, metric=main, points=1000, height=460)
        found["changes"] = _drawing("changes", change, f"{main} after minus before of every query, sorted.", HALF)
    return found


def _drawing(identity: str, figure: Any, label: str, width: int) -> Drawing:
    from markupsafe import Markup

    from workbench.report.svg import draw

    parts = figure.to_dict()
    names: dict[str, str] = {}
    for name in look.Palette.__dataclass_fields__:
        value = getattr(look.LIGHT, name)
        pairs = zip(value, range(len(value)), strict=True) if name == "series" else [(value, "")]
        names.update({colour: f"var(--{name}{index})" for colour, index in pairs})

    def drawn(size: str, units: int) -> Markup:
        identity_here = f"{identity}-{size}"
        return Markup(draw(parts, label=label, width=units, colour=lambda c: names.get(c, c), identity=identity_here))

    return Drawing(identity, label, Markup(figures.script_json(figure)), drawn("wide", width), drawn("narrow", NARROW))


def _along(curves: Sequence[Curve]) -> Any:
    """Epochs where two logs of different length would not fit one another over steps, else steps."""
    lengths = [max(curve.steps) for curve in curves if curve.steps]
    by_epoch = all(any(epoch is not None for epoch in curve.epochs) for curve in curves if curve.steps)
    return "epoch" if by_epoch and len(lengths) > 1 and max(lengths) > 1.1 * min(lengths) else "step"


def _spans_decades(curves: Sequence[Curve]) -> bool:
    """Whether the greatest loss is more than a hundred times the smallest: too much for a linear axis."""
    values = [value for curve in curves for value in curve.values if value is not None and 0 < value < float("inf")]
    return bool(values) and max(values) > 100 * min(values)


def _hash(text: str) -> str:
    """The source expression of an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _source(environment: Any, name: str) -> str:
    text: str = environment.loader.get_source(environment, name)[0]
    return text


def _style(environment: Any) -> str:
    """The style sheet: the palette of `figures` as custom properties, then report.css."""

    def properties(palette: look.Palette) -> str:
        pairs = {name: getattr(palette, name) for name in look.Palette.__dataclass_fields__ if name != "series"}
        pairs |= {f"series{index}": colour for index, colour in enumerate(palette.series)}
        return "".join(f"--{name}:{colour};" for name, colour in pairs.items())

    fonts = f"--font:{look.FONT_FAMILY};"
    light, dark = properties(look.LIGHT), properties(look.DARK)
    head = f":root{{{fonts}{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return head + _source(environment, "report.css")


def _script_json(value: Any) -> str:
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value))


def _number(value: float | None, decimals: int = 4) -> str:
    """A number with a fixed count of decimals and a true minus; an en dash where there is none."""
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def _signed(value: float | None, decimals: int = 4) -> str:
    return "–" if value is None else f"{value:+.{decimals}f}".replace("-", "−")


def _chance(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rank_text(rank: int | None, depth: int) -> str:
    return f"> {depth}" if rank is None else f"{rank:,}"


def report(run: Run, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of `run` to `out`, or to report.html in its folder, whole or not at all; gives its path.

    Raises RunError where it cannot be written.
    """
    path = run.path / "report.html" if out is None else Path(out)
    text = render(summarize(run))
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except RunError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise RunError(
            f"cannot write the report to {str(path)!r}: {reason}; choose another place with --out."
        ) from error
    return path
