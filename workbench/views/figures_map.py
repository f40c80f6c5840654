"""Figures of very many points: the map of queries and documents, and the queries of two runs against each other.

`picture` decides what a map shows: layers with their points, colors, marks, and sizes, names, axes, the scale.
`embedding_map` draws it with Plotly, for notebooks and reports; the dashboard's `map.js` draws it on a canvas, because
Plotly takes seconds for 50,000 points without a GPU. Plotly uses WebGL for many points only: a report forbids it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from workbench.views.figures import Trace, diagonal, figure_of, shared_marks
from workbench.views.theme import MAP_HEIGHT, SQUARE_HEIGHT, Palette, palette, plain, shorten

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SVG_POINTS = 1500  # at most; for so few SVG is faster than WebGL, which has to be set up for each figure
MOST_LABELS = 25_000  # points; above, hovering names only the group of a point
MOST_GROUPS = 24  # groups with a look of their own
SHADES = 32  # steps of the scale
NEUTRAL = ""
"""The group of points without a value of what is colored."""

SCALE = ("#00204c", "#31446b", "#666970", "#958f78", "#cab969", "#ffea46")
SCALE_DARK = ("#31446b", "#575c6d", "#7c7b78", "#a59c74", "#d2c060", "#ffea46")
"""Cividis (Nuñez, Anderton and Renslow 2018), readable by color-blind readers; on dark without its darkest part."""

MEANINGS: dict[str, tuple[str, str]] = {
    "document": ("before", "circle"),
    "query": ("after", "diamond"),
    "unchanged": ("before", "diamond-open"),
    "found": ("better", "diamond-cross"),
    "better": ("better", "diamond"),
    "worse": ("worse", "diamond-x"),
    "lost": ("ink", "diamond-x"),
}
"""Groups with a color of their own: a field of the palette, and a mark."""


@dataclass(frozen=True)
class MapPoints:
    """Points of the map of one stage. Sequences are parallel."""

    queries: Sequence[bool]  # a query, else a document
    x: Sequence[float]
    y: Sequence[float]
    groups: Sequence[str]  # what colors them, `NEUTRAL` for none
    values: Sequence[float] | None = None  # in place of groups, a number each; NaN for none
    labels: Sequence[str] = ()  # hover texts, escaped by the caller (`theme.plain`)


@dataclass(frozen=True)
class Layer:
    """Points of one look, drawn together."""

    name: str  # for the legend, still foreign text; layers of one name are one entry
    look: dict[str, Any]  # color, symbol, size (px), opacity
    places: Any  # (points,) places in the sequences of `MapPoints`
    share: float | None = None  # of points colored by a number: their place on the scale, 0 to 1


@dataclass(frozen=True)
class Scale:
    """What the colors of numbers mean."""

    low: str  # the numbers at the two ends
    high: str
    colors: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """Everything about a map before it is drawn, by Plotly or on a canvas."""

    layers: tuple[Layer, ...]  # from the bottom up
    scale: Scale | None  # None: colored by groups
    axes: tuple[str, str]  # names of x and y
    line: dict[str, Any]  # color, width (px), opacity: from a query to its answer
    ring: dict[str, Any]  # color, width, size: around the opened point
    faded: float = 0.12  # opacity of what is not selected
    grown: int = 2  # px that a selected mark is larger


def picture(points: MapPoints, there: Any, *, name: str, lines: int = 0, dark: bool = False) -> Picture:
    """The picture of the points at the places `there`; `name` is the method, `lines` how many will be drawn."""
    colors = palette(dark=dark)
    found, scale = (_groups(points, there, colors), None) if points.values is None else _shades(points, there, dark)
    return Picture(
        layers=tuple(found),
        scale=scale,
        axes=(f"{name} 1 (no unit)", f"{name} 2 (no unit)"),
        line={"color": colors.ink, "width": 1.25, "opacity": 0.75 if lines < 40 else 0.35},
        ring={"color": colors.ink, "width": 2, "size": 20},
    )


def embedding_map(
    points: MapPoints,
    *,
    name: str,
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None,
    picked: Sequence[int] | None = None,
    dark: bool = False,
    height: int = MAP_HEIGHT,
) -> Figure:
    """Queries (diamonds, on top) and documents (dots) on a plane: the `picture` of the points, by Plotly.

    `name` is the method, for the axes. `ranges` are those of x and y, so that two maps have the same. `picked` are
    places in `points` that stand out; all others fade.
    """
    import numpy as np

    x, y = np.asarray(points.x, dtype=np.float32), np.asarray(points.y, dtype=np.float32)
    chosen = None if picked is None else np.isin(np.arange(len(x)), np.asarray(picked, dtype=int))
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    drawn = picture(points, there, name=name, dark=dark)
    traces = [_trace(points, drawn, layers, chosen=chosen, dark=dark) for layers in _by_trace(drawn.layers)]
    return figure_of(
        traces,
        x=drawn.axes[0],
        y=drawn.axes[1],
        dark=dark,
        height=height,
        uirevision="map",
        dragmode="lasso",
        legend={"itemsizing": "constant"},
        xaxis={"range": None if ranges is None else ranges[0], "showticklabels": False},
        yaxis={"range": None if ranges is None else ranges[1], "showticklabels": False},
    )


def _groups(points: MapPoints, there: Any, colors: Palette) -> list[Layer]:
    """Documents, then queries, a layer for each group; of more than `MOST_GROUPS` the smaller ones are neutral."""
    import numpy as np

    queries, groups = np.asarray(points.queries, dtype=bool), np.asarray(points.groups, dtype=object)
    names = _names(groups[there])
    factor = _size_factor(len(points.x))
    found = []
    for query, word in ((False, "documents"), (True, "queries")):
        kind = there[queries[there] == query]
        for name in names:
            places = kind[groups[kind] == name] if name != NEUTRAL else kind[~np.isin(groups[kind], names[1:])]
            if len(places):
                look = _look(name, names, colors, query=query, factor=factor)
                found.append(Layer(_legend(name, word, len(places)), look, places))
    return found


def _shades(points: MapPoints, there: Any, dark: bool) -> tuple[list[Layer], Scale]:
    """Documents, then queries, colored by a number in `SHADES` steps of the scale; those without one at the bottom."""
    import numpy as np

    values = np.asarray(points.values, dtype=float)[there]
    queries = np.asarray(points.queries, dtype=bool)[there]
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 1.0)
    high = high if high > low else low + 1
    step = np.full(len(there), -1)
    step[known] = np.clip((values[known] - low) / (high - low) * SHADES, 0, SHADES - 1).astype(int)
    factor, scale = _size_factor(len(points.x)), SCALE_DARK if dark else SCALE
    found = []
    for query, word in ((False, "documents"), (True, "queries")):
        mine = queries == query
        if (mine & ~known).any():
            look = _look(NEUTRAL, [], palette(dark=dark), query=query, factor=factor)
            name = _legend(NEUTRAL, f"{word} without a number", int((mine & ~known).sum()))
            found.append(Layer(name, look, there[mine & ~known]))
        mark = {"symbol": "diamond" if query else "circle", "size": (8 if query else 5) * factor, "opacity": 0.9}
        name = _legend(NEUTRAL, word, int((mine & known).sum()))
        for shade in sorted(set(step[mine & known].tolist())):
            share = (shade + 0.5) / SHADES
            look = {"color": _interpolate(scale, share), **mark}
            found.append(Layer(name, look, there[mine & (step == shade)], share))
    return found, Scale(f"{low:.4g}", f"{high:.4g}", scale)


def _interpolate(scale: Sequence[str], share: float) -> str:
    """The color at a share of the way along a scale of #rrggbb.

    >>> _interpolate(("#000000", "#204060"), 0.5)
    '#102030'
    """
    import numpy as np

    channels = np.array([[int(color[digit : digit + 2], 16) for digit in (1, 3, 5)] for color in scale])
    at = share * (len(scale) - 1)
    return "#" + "".join(f"{round(np.interp(at, range(len(scale)), channel)):02x}" for channel in channels.T)


def _size_factor(points: int) -> float:
    """Of many points smaller marks, so that all show."""
    return 1.0 if points <= 2000 else 0.75 if points <= 8000 else 0.55


def _names(groups: Any) -> list[str]:
    """Group names: the neutral one first, so it is at the bottom, then by name, then those of `MEANINGS`."""
    counts = Counter(groups.tolist())
    counts[NEUTRAL] += 0
    order = {name: place for place, name in enumerate(MEANINGS)}
    kept = [NEUTRAL, *(name for name, _ in counts.most_common(MOST_GROUPS + 1) if name != NEUTRAL)][: MOST_GROUPS + 1]
    return sorted(kept, key=lambda group: (group != NEUTRAL, order.get(group, -1), group))


def _look(group: str, names: Sequence[str], colors: Palette, *, query: bool, factor: float) -> dict[str, Any]:
    """Color, mark, size, and opacity of a group."""
    size, opacity = (8 * factor, 0.92) if query else (5 * factor, 0.6)
    if group == NEUTRAL:
        symbol = "diamond" if query else "circle"
        return {"color": colors.before, "symbol": symbol, "size": size * 0.85, "opacity": 0.28}
    if group in MEANINGS:
        field, symbol = MEANINGS[group]
        return {"color": getattr(colors, field), "symbol": symbol, "size": size, "opacity": opacity}
    place = [name for name in names if name != NEUTRAL and name not in MEANINGS].index(group)
    series = (colors.after, colors.worse, colors.better, *colors.series)
    symbols = ("diamond", "diamond-open", "diamond-x") if query else ("circle", "circle-open", "circle-x")
    symbol = symbols[(place // len(series)) % len(symbols)]
    return {"color": series[place % len(series)], "symbol": symbol, "size": size, "opacity": opacity}


def _legend(group: str, word: str, count: int) -> str:
    head = word if group in (NEUTRAL, "query", "document") else shorten(group, 40)
    return f"{head} ({count:,})"


def _by_trace(layers: Iterable[Layer]) -> list[list[Layer]]:
    """Layers that Plotly draws as one trace: each alone, but all shades of one kind together."""
    return [list(each) for _, each in groupby(layers, lambda layer: layer.name if layer.share else id(layer))]


def _kind(points: int) -> str:
    return "scatter" if points <= SVG_POINTS else "scattergl"


def _trace(points: MapPoints, drawn: Picture, layers: Sequence[Layer], *, chosen: Any, dark: bool) -> Trace:
    """Layers of one name as one trace."""
    import numpy as np

    labeled = len(points.labels) == len(points.x) <= MOST_LABELS
    name = plain(layers[0].name, 60)
    places = np.concatenate([layer.places for layer in layers])
    crossed = str(layers[0].look["symbol"]).endswith(("-x", "-cross"))  # the cross has the color of the line
    marker = {**layers[0].look, "line": {"width": int(crossed), "color": palette(dark=dark).surface}}
    if drawn.scale is not None and layers[0].share is not None:
        shares = np.concatenate([np.full(len(layer.places), layer.share, dtype=np.float32) for layer in layers])
        marker |= {"color": shares, **_color_bar(drawn.scale, palette(dark=dark))}
    trace: Trace = {
        "type": _kind(len(points.x)),
        "x": np.asarray(points.x, dtype=np.float32)[places],
        "y": np.asarray(points.y, dtype=np.float32)[places],
        "mode": "markers",
        "name": name,
        "marker": marker,
        "unselected": {"marker": {"opacity": drawn.faded}},
        "selected": {"marker": {"opacity": 1.0}},
        "hovertext": [points.labels[place] for place in places.tolist()] if labeled else None,
        "hovertemplate": ("%{hovertext}" if labeled else name) + "<extra></extra>",
    }
    if chosen is not None:
        trace["selectedpoints"] = np.flatnonzero(chosen[places]).tolist()
        trace["selected"] = {"marker": {"opacity": 1.0, "size": marker["size"] + drawn.grown}}
    return trace


def _color_bar(scale: Scale, colors: Palette) -> dict[str, Any]:
    """The scale beside the map, with the numbers at its ends."""
    ends = {"tickmode": "array", "tickvals": [0, 1], "ticktext": [scale.low, scale.high]}
    last = len(scale.colors) - 1
    return {
        "cmin": 0,
        "cmax": 1,
        "showscale": True,
        "colorscale": [[place / last, color] for place, color in enumerate(scale.colors)],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": colors.muted}, **ends},
    }


def query_scatter(
    first: Sequence[float],
    second: Sequence[float],
    texts: Sequence[str],
    *,
    names: tuple[str, str],
    metric: str = "nDCG@10",
    dark: bool = False,
    height: int = SQUARE_HEIGHT,
) -> Figure:
    """A metric of every query in one run against the other; above the diagonal the second is better."""
    colors = palette(dark=dark)
    one, other = (plain(name, 60) for name in names)
    looks = {
        1: (f"{other} better", colors.better, "diamond"),
        0: ("Same", colors.before, "diamond-open"),
        -1: (f"{one} better", colors.worse, "diamond-x"),
    }

    rows = zip(first, second, texts, strict=True)
    pairs = [((round(float(x), 3), round(float(y), 3)), text, "") for x, y, text in rows]
    kind = _kind(len({place for place, *_ in pairs}))
    traces = [
        {**each, "type": kind}
        for each in (
            diagonal(0, 1, colors),
            *shared_marks(pairs, looks, lambda place: f"{place[0]:.3f} → {place[1]:.3f}"),
        )
    ]
    axis, unit = {"range": [-0.04, 1.06]}, f"{plain(metric, 40)} (0 to 1)"
    titles = {"x": f"{one}: {unit}", "y": f"{other}: {unit}"}
    return figure_of(traces if pairs else [], **titles, dark=dark, height=height, xaxis=axis, yaxis=axis)
