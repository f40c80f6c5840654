"""The figures of a report, for Plotly, with the sentence that describes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.cards.metric_names import metric_names
from workbench.views import figures, figures_loss, theme
from workbench.views.figures_loss import Curve
from workbench.views.figures_map import embedding_map
from workbench.views.figures_slices import slice_figure
from workbench.views.summary import Several, Summary

if TYPE_CHECKING:
    from markupsafe import Markup

    from workbench.evaluation.projection import Stage
    from workbench.views.map_view import MapView

SYMBOLS = ("circle", "square", "diamond", "circle-open", "square-open", "diamond-open")


@dataclass(frozen=True)
class Drawing:
    label: str  # what the figure shows, for screen readers
    height: int  # px
    json: Markup  # data and layout, safe inside a `<script>` element


def drawing(label: str, figure: Any) -> Drawing:
    """`figure` is a Plotly figure, or its data and layout as plain values."""
    from markupsafe import Markup

    parts = figure if isinstance(figure, dict) else figure.to_dict()
    return Drawing(label, int(parts["layout"]["height"]), Markup(figures.script_json(figure)))


def drawings(summary: Summary) -> dict[str, Drawing]:
    """The figures that `summary` has values for, by name."""
    queries = summary.queries
    main = queries.metric
    found: dict[str, Drawing] = {}
    if any(curve.steps for curve in summary.curves):
        found["loss"] = drawing("Training and validation loss of the card and of this run.", _loss(summary.curves))
    if summary.losses:
        label = "The card's logged losses minus this run's, at each step that the card logs."
        found["differences"] = drawing(label, figures_loss.loss_differences({"": summary.losses}))
    if summary.metrics:
        names = metric_names(row.metric for row in summary.metrics)
        marks = [replace(row, metric=names[row.metric]) for row in summary.metrics]
        along = "Mean over queries (0 to 1)" if queries.ranked else f"Value over {queries.measured:,} {queries.unit}"
        label = "Every metric: before, after with its interval, and the card's number. The table has the same values."
        found["metrics"] = drawing(label, figures.metric_bars(marks, title=along))
    if queries.outcomes:
        ranks = figures.rank_changes(queries.outcomes, depth=queries.depth)
        found["ranks"] = drawing("Rank of the first relevant document, before and after.", ranks)
        change = figures.per_query_difference(queries.outcomes, metric=main, points=1000, height=theme.SQUARE_HEIGHT)
        found["changes"] = drawing(f"{main} after minus before of every query, sorted.", change)
    for place, grouping in enumerate(queries.groupings):
        title = f"{main}, mean (0 to 1)" if queries.ranked else "Agreement with gold labels, mean (0 to 1)"
        label = f"Before and after by {grouping.by}. The table has the same values."
        found[f"group-{place}"] = drawing(label, slice_figure(grouping.drawn, title=title))
    for grouping in queries.vector_sizes:
        label = f"{main} before and after by {grouping.by}. The table has the same values."
        found[f"cut-{grouping.by}"] = drawing(label, slice_figure(grouping.drawn, title=f"{main}, mean (0 to 1)"))
    if summary.map is not None:
        for stage in summary.map.stages:
            label = f"Map of queries and documents {stage} training."
            found[f"map-{stage}"] = drawing(label, _map(summary.map, stage))
    return found


def _loss(curves: Sequence[Curve]) -> Any:
    """On a log axis if the largest loss is more than 100 times the smallest."""
    values = [value for curve in curves for value in curve.values if value is not None and 0 < value < float("inf")]
    log = bool(values) and max(values) > 100 * min(values)
    return figures_loss.loss_curves(curves, x=figures_loss.axis_of(curves), log=log, quantity="Loss")


def _map(view: MapView, stage: Stage) -> Any:
    """The map of one stage, on the axes that both stages share."""
    labels = [theme.plain_lines(text, width=48, limit=110) for text in view.table["text"]]
    points = view.points(stage, "outcome" if "outcome" in view.colorings else "type", labels)
    figure = embedding_map(points, name=view.method, ranges=view.ranges(), height=theme.HALF_MAP_HEIGHT)
    return figure.update_layout(dragmode="pan")


def drawings_of_several(several: Several) -> dict[str, Drawing]:
    """The curves of all runs, and their metrics side by side."""
    found: dict[str, Drawing] = {}
    curves = _curves_of_several(several)
    if any(curve.steps for curve in curves):
        found["loss"] = drawing("Training and validation loss of every run.", _loss(curves))
    if any(row.after is not None for run in several.runs for row in run.metrics):
        label = "Every metric of every run, with its interval. The table has the same values."
        found["metrics"] = drawing(label, _metrics_of_several(several))
    return found


def _roles(several: Several) -> list[theme.Role]:
    """The role of each run in figures: the first as written is blue, the first corrected green."""
    roles: list[theme.Role] = []
    for run in several.runs:
        role: theme.Role = "corrected" if run.variant == "corrected" else "after"
        roles.append("other" if role in roles else role)
    return roles


def _curves_of_several(several: Several) -> list[Curve]:
    """Every card's curve once, then that of each run."""
    cards = {curve.name: curve for run in several.runs for curve in run.curves if curve.role == "card"}
    return [*cards.values()] + [
        replace(curve, name=f"{letter}: {run.variant}", role=role, means=())
        for letter, run, role in zip(several.letters, several.runs, _roles(several), strict=True)
        for curve in run.curves
        if curve.role != "card"
    ]


def _metrics_of_several(several: Several) -> Any:
    """One row per metric, in it a mark with its interval for each run."""
    metrics = several.metrics[::-1]  # Plotly draws upwards
    names, roles, runs = metric_names(metrics), _roles(several), len(several.runs)
    traces: list[figures.Trace] = []
    for place, (letter, run) in enumerate(zip(several.letters, several.runs, strict=True)):
        rows = {row.metric: row for row in run.metrics}
        named = [
            (at + 0.28 - 0.56 * place / (runs - 1), f"{theme.plain(names[metric])}<br>{letter}", rows[metric])
            for at, metric in enumerate(metrics)
            if metric in rows
        ]
        points, ends = figures.marks_after(named, with_card=False)
        color = theme.LIGHT.role(roles[place], roles[:place].count("other"))
        symbol = SYMBOLS[place % len(SYMBOLS)]
        traces += figures.dots(points, name=f"{letter}: {run.variant}", color=color, symbol=symbol, size=10, ends=ends)
        traces += figures.seed_marks(named, color, name=f"{letter}: each seed", lift=0.25 / runs)
    card = [(at, names[metric], several.card[metric]) for at, metric in enumerate(metrics) if metric in several.card]
    traces += figures.card_lines(card, theme.LIGHT)
    labels = [theme.plain(name, 40) for name in names.values()]
    title = f"After training, over {several.runs[0].queries.unit} (0 to 1)"
    return figures.dot_plot(traces, labels, title=title, dark=False, row_height=max(30, 14 * runs + 8))
