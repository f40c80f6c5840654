"""The figures of a report, for Plotly, with the sentence that describes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.views import figures, theme
from workbench.views.figures import Curve
from workbench.views.figures_map import MapPoints, embedding_map
from workbench.views.figures_slices import slice_figure
from workbench.views.records import Grouping, MapPlaces, MapView, Several, Summary

if TYPE_CHECKING:
    from markupsafe import Markup

METHODS = {"umap": "UMAP", "pca": "PCA"}
MAP_HEIGHT = 440  # px
HALF_HEIGHT = 460  # px, figures side by side


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
    main = summary.per_query_metric
    found: dict[str, Drawing] = {}
    if any(curve.steps for curve in summary.curves):
        found["loss"] = drawing("Training and validation loss of the card and of this run.", _loss(summary.curves))
    if summary.metrics:
        names = figures.metric_names(row.metric for row in summary.metrics)
        marks = [replace(row, metric=names[row.metric]) for row in summary.metrics]
        along = f"Value over {summary.measured:,} {summary.unit}" if summary.by_item else "Mean over queries (0 to 1)"
        label = "Every metric: before, after with its interval, and the card's number. The table has the same values."
        found["metrics"] = drawing(label, figures.metric_bars(marks, title=along))
    if summary.changes:
        ranks = figures.rank_changes(summary.changes, depth=summary.depth)
        found["ranks"] = drawing("Rank of the first relevant document, before and after.", ranks)
        change = figures.per_query_difference(summary.changes, metric=main, points=1000, height=HALF_HEIGHT)
        found["changes"] = drawing(f"{main} after minus before of every query, sorted.", change)
    for place, grouping in enumerate(summary.groupings):
        title = f"{main}, mean (0 to 1)" if summary.found else "Agreement with gold labels, mean (0 to 1)"
        label = f"Before and after by {grouping.by}. The table has the same values."
        found[f"group-{place}"] = drawing(label, _grouped(grouping, title))
    for cutting in summary.cuttings:
        label = f"{main} before and after by {cutting.by}. The table has the same values."
        found[f"cut-{cutting.by}"] = drawing(label, slice_figure(cutting.rows, title=f"{main}, mean (0 to 1)"))
    for places in summary.map.moments if summary.map else ():
        label = f"Map of queries and documents {places.moment} training."
        found[f"map-{places.moment}"] = drawing(label, _map(summary.map, places) if summary.map else {})
    return found


def _loss(curves: Sequence[Curve]) -> Any:
    """On a log axis if the largest loss is more than 100 times the smallest."""
    values = [value for curve in curves for value in curve.values if value is not None and 0 < value < float("inf")]
    log = bool(values) and max(values) > 100 * min(values)
    figure = figures.loss_curves(curves, x=figures.axis_of(curves), log=log, quantity="Loss")
    return figure.update_layout(yaxis_exponentformat="none")  # 0.0001, not 100µ


def _grouped(grouping: Grouping, title: str) -> Any:
    rows = [{"group": group.name, **vars(group), "difference": group.difference} for group in grouping.groups]
    return slice_figure(rows, title=title)


def _map(view: MapView, places: MapPlaces) -> Any:
    """The map of one stage, on the axes that both stages share."""
    labels = [theme.wrapped(text, width=48, limit=110) for text in places.texts]
    points = MapPoints(places.queries, places.x, places.y, places.groups, labels=labels)
    every = [[value for moment in view.moments for value in getattr(moment, axis)] for axis in ("x", "y")]
    ranges = [_padded(min(values), max(values)) for values in every]
    name = METHODS.get(view.method, view.method)
    figure = embedding_map(points, name=name, ranges=(ranges[0], ranges[1]), height=MAP_HEIGHT)
    return figure.update_layout(dragmode="pan")


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low or 1.0) * 0.04
    return low - pad, high + pad


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


def _curves_of_several(several: Several) -> list[Curve]:
    """Every card's curve once, then that of each run; the first is blue, others in colours of their own."""
    cards = {curve.name: curve for run in several.runs for curve in run.curves if curve.role == "card"}
    curves = list(cards.values())
    taken: set[str] = set()
    for letter, run in zip(several.letters, several.runs, strict=True):
        for curve in run.curves:
            if curve.role != "card":
                role: theme.Role = "other" if curve.role in taken else curve.role
                taken.add(curve.role)
                curves.append(replace(curve, name=f"{letter}: {run.variant}", role=role, means=()))
    return curves


def colours_of(several: Several) -> list[tuple[theme.Role, int]]:
    """The role and place among `other` of each run: the colour that it has in every figure."""
    found: list[tuple[theme.Role, int]] = []
    taken: set[str] = set()
    others = 0
    for run in several.runs:
        role: theme.Role = "corrected" if run.variant == "corrected" else "after"
        if role in taken:
            found.append(("other", others))
            others += 1
        else:
            taken.add(role)
            found.append((role, 0))
    return found


SYMBOLS = ("circle", "square", "diamond", "circle-open", "square-open", "diamond-open")


def _metrics_of_several(several: Several) -> Any:
    """One row per metric, in it a mark with its interval for each run."""
    metrics = several.metrics[::-1]  # Plotly draws upwards
    names = figures.metric_names(metrics)
    traces: list[dict[str, Any]] = []
    runs = len(several.runs)
    for place, (letter, run) in enumerate(zip(several.letters, several.runs, strict=True)):
        role, index = colours_of(several)[place]
        colour = theme.LIGHT.role(role, index)
        rows = {row.metric: row for row in run.metrics if row.after is not None}
        there = [(at, rows[metric], names[metric]) for at, metric in enumerate(metrics) if metric in rows]
        value = [float(row.after or 0.0) for _, row, _ in there]
        ends = [
            (row.low if row.low is not None else after, row.high if row.high is not None else after)
            for (_, row, _), after in zip(there, value, strict=True)
        ]
        offset = 0.0 if runs == 1 else 0.28 - 0.56 * place / (runs - 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"{letter}: {run.variant}",
                "x": value,
                "y": [at + offset for at, _, _ in there],
                "marker": {"color": colour, "size": 10, "symbol": SYMBOLS[place % len(SYMBOLS)]},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "color": colour,
                    "thickness": 2,
                    "width": 4,
                    "array": [max(high - after, 0.0) for (_, high), after in zip(ends, value, strict=True)],
                    "arrayminus": [max(after - low, 0.0) for (low, _), after in zip(ends, value, strict=True)],
                },
                "text": [
                    f"{theme.plain(name)}<br>{letter}: {after:.4f}<br>95 % interval {low:.4f} to {high:.4f}"
                    for (_, _, name), after, (low, high) in zip(there, value, ends, strict=True)
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    carded = [(at, names[metric], several.card[metric]) for at, metric in enumerate(metrics) if metric in several.card]
    if carded:
        traces.append(_lines_of_the_card(carded))
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [theme.plain(name, 40) for name in names.values()],
        "showgrid": False,
        "range": [-0.6, len(names) - 0.4],
        "tickfont": {"color": theme.LIGHT.ink},
    }
    height = max(30, 14 * runs + 8) * len(names) + 120
    along = f"After training, over {several.runs[0].unit} (0 to 1)"
    return figures.figure_of(traces, x=along, y="", dark=False, height=height, yaxis=axis)


def _lines_of_the_card(rows: Sequence[tuple[int, str, float]]) -> dict[str, Any]:
    """A dashed line over each row: its place, the metric's name, the card's number."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "The card's number",
        "x": [x for _, _, value in rows for x in (value, value, None)],
        "y": [y for at, _, _ in rows for y in (at - 0.38, at + 0.38, None)],
        "line": {"color": theme.LIGHT.ink, "width": 2.25, "dash": "dash"},
        "text": [theme.plain(name) for _, name, _ in rows for _ in range(3)],
        "hovertemplate": "%{text}<br>the card: %{x:.4f}<extra></extra>",
    }
