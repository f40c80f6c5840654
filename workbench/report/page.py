"""Values -> one HTML document: reports of one run and of several, the overview of a folder of runs, a notebook.

Every page is self-contained (plotly.js once, no address of another file) and blocks the network by its
Content-Security-Policy. Without scripts it has all tables. The same values give the same bytes, but for the date line.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from workbench.cards.metric_names import metric_name
from workbench.evaluation.rankings import agreement_scope, agreement_table
from workbench.report.drawings import Drawing, drawings, drawings_of_several
from workbench.views import figures, figures_loss, theme
from workbench.views.records import Sourced, format_p_value, number, rank_text, signed
from workbench.views.summary import Several, Summary, tone

if TYPE_CHECKING:
    from jinja2 import Environment

    from workbench.evaluation.comparison import MetricRow

COLUMNS = (
    "card", "before", "after", "low", "difference", "difference_low", "p_adjusted", "card_difference",
    "card_low", "detectable", "verdict",
)  # fmt: skip
"""Columns of the tables of metrics that are left out if no metric has such a value."""

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
DEFAULTS = ("library", "default")  # sources of fields that nobody chose
GROUPS = {"base": "Base", "data": "Data", "loss": "Loss", "training": "Training", "evaluation": "Evaluation"}


def render(summary: Summary, *, written: str | None = None) -> str:
    """The report of one run. `written` is the text of the date line, None for the time now, in UTC."""
    drawn = drawings(summary)
    return page(
        "report.html.j2",
        drawn,
        written,
        summary=summary,
        has=_columns(summary.metrics),
        averaged=any(curve.means for curve in summary.curves),
        smoothed=any(len(curve.steps) >= figures_loss.SMOOTH_FROM for curve in summary.curves),
        drawn_maps=[name for name in drawn if name.startswith("map-")],
        stated=_groups(summary.recipe, defaults=False),
        defaults=_groups(summary.recipe, defaults=True),
    )


def render_several(several: Several, *, written: str | None = None) -> str:
    """The report of several runs, side by side. See `render`."""
    stand_ins, curve_notes = (_by_sentence(several, name) for name in ("stand_ins", "curve_notes"))
    return page(
        "several.html.j2",
        drawings_of_several(several),
        written,
        several=several,
        runs=list(zip(several.letters, several.runs, strict=True)),
        stand_ins=stand_ins,
        curve_notes=curve_notes,
        rankings=agreement_table([*several.rankings.values()]),
        scope=agreement_scope([*several.rankings.values()]) if several.rankings else "",
        pair_has=_columns(row for pair in several.pairs for row in pair.rows) | {"low": False},
        table=[
            (metric, [next((row for row in run.metrics if row.metric == metric), None) for run in several.runs])
            for metric in several.metrics
        ],
    )


def _columns(rows: Iterable[MetricRow]) -> dict[str, bool]:
    rows = list(rows)
    found = {name: any(getattr(row, name) not in (None, "") for row in rows) for name in COLUMNS}
    return {**found, "verdict": any(row.verdict not in ("", "not comparable") for row in rows)}  # else it is said above


def _by_sentence(several: Several, field: str) -> list[tuple[str, list[str]]]:
    """Each sentence once, with the letters of its runs."""
    letters: dict[str, list[str]] = {}
    for letter, run in zip(several.letters, several.runs, strict=True):
        for sentence in getattr(run, field):
            letters.setdefault(sentence, []).append(letter)
    return list(letters.items())


def page(
    template: str, drawn: Mapping[str, Drawing], written: str | None, *, foreign: bool = False, **values: Any
) -> str:
    """A template with all that it needs to be self-contained.

    `foreign` is for the outputs of a notebook: their elements may have styles, and the widgets have their style sheet.
    """
    from markupsafe import Markup

    environment = _environment()
    style = _style(environment) + (theme.widget_style() if foreign else "")
    library, script = figures.library(), _source(environment, "report.js")
    # Browsers ignore 'unsafe-inline' next to a hash.
    styles = "'unsafe-inline'" if foreign else f"{_hash(style)} {_hash('')}"
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src {styles}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        written=written or time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        policy=policy,
        style=Markup(style),
        library=Markup(library) if drawn else "",
        script=Markup(script),
        drawn=drawn,
        dark_colors=Markup(figures.script_json(theme.to_dark())),
        config=Markup(figures.script_json(theme.CONFIG)),
        **values,
    )


@cache  # templates are compiled once: half the time of a report
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("workbench.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: theme.remove_controls(value) if type(value) is str else value,
    )
    environment.filters.update(
        number=number, signed=signed, rank=rank_text, p_value=format_p_value, metric=metric_name,
        shorten=theme.shorten, tone=tone, after=figures.after_value,
    )  # fmt: skip
    return environment


def _groups(rows: Sequence[Sourced], *, defaults: bool) -> list[dict[str, Any]]:
    """The recipe's rows by part, with their sources in words: the defaults, or all others."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if (row.source in DEFAULTS and not row.changed) == defaults:
            head, _, name = row.name.partition(".")
            shown = {"name": name or head, "value": row.value, "source": row.source, "origin": _origin(row)}
            shown["trained"] = str(row.other) if row.changed else ""
            groups.setdefault(GROUPS.get(head, "Recipe"), []).append(shown)
    return [{"name": name, "fields": fields} for name, fields in groups.items()]


def _origin(row: Sourced) -> str:
    origin = SOURCES.get(row.source, row.source)
    if row.lines:
        origin += f", {'line' if len(row.lines) == 1 else 'lines'} {', '.join(map(str, row.lines))}"
    if row.source == "library" and row.note.startswith("default of "):
        return row.note
    return f"{origin}: {row.note}" if row.note else origin


def _hash(text: str) -> str:
    """The source expression of an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _style(environment: Environment) -> str:
    """report.css, after the palettes of `theme` as custom properties."""
    dark = theme.css_variables(":root", theme.DARK)
    head = f"{theme.css_variables(':root')}@media screen and (prefers-color-scheme:dark){{{dark}}}\n"
    return head + _source(environment, "report.css")
