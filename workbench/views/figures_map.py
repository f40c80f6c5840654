"""Figures of very many points: the map of queries and documents, and the queries of two runs against each other.

What a map shows is decided once, in `picture`: layers with their places, colours, marks and sizes, names, axes, the
scale, and how a selection looks. `embedding_map` paints it with Plotly, for notebooks and reports; the dashboard's
`map.js` paints the same picture on a canvas, for 50,000 points without a GPU take Plotly's WebGL seconds. Plotly uses
WebGL where there are many points; a report, whose page forbids it, has them as SVG. The look and the handling of
foreign text are those of `figures` and `look`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from workbench.views.figures import figure_of
from workbench.views.theme import Palette, palette, plain, shorten, wrapped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAP_HEIGHT = 520  # px
SVG_POINTS = 1500  # up to so many points SVG is there sooner than WebGL, which has to be set up for each figure
MOST_LABELS = 25_000  # points; above, a point is named on hover by its group alone
MOST_GROUPS = 24  # groups with a look of their own
SHADES = 32  # steps of the scale
NEUTRAL = ""
"""The group of points that have no value of what is coloured."""

SCALE = ("#00204c", "#31446b", "#666970", "#958f78", "#cab969", "#ffea46")
SCALE_DARK = ("#31446b", "#575c6d", "#7c7b78", "#a59c74", "#d2c060", "#ffea46")
"""Cividis (Nuñez, Anderton and Renslow 2018), readable by colour-blind readers; without its darkest part on dark."""


@dataclass(frozen=True)
class MapPoints:
    """Points of one moment's map. Sequences are parallel."""

    queries: Sequence[bool]  # a query, else a document
    x: Sequence[float]
    y: Sequence[float]
    groups: Sequence[str]  # what colours them, `NEUTRAL` for none
    values: Sequence[float] | None = None  # in place of groups, a number each; NaN for none
    labels: Sequence[str] = ()  # what hovering says: plain text, made harmless (`look.plain`) by the caller


@dataclass(frozen=True)
class Layer:
    """Points of one look, drawn together."""

    name: str  # for the legend, still foreign text; layers of one name are one entry
    look: dict[str, Any]  # color, symbol, size (px), opacity
    places: Any  # (points,) places in the sequences of `MapPoints`
    share: float | None = None  # of points coloured by a number: how far along the scale, 0 to 1


@dataclass(frozen=True)
class Scale:
    """What the colours of numbers mean."""

    low: str  # the numbers at the two ends
    high: str
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """All that is decided about a map before it is painted, by Plotly or on a canvas."""

    layers: tuple[Layer, ...]  # from the bottom up
    scale: Scale | None  # None: coloured by groups
    axes: tuple[str, str]  # names of x and y
    line: dict[str, Any]  # color, width (px), opacity: from a query to its answer
    ring: dict[str, Any]  # color, width, size: around the opened point
    faded: float = 0.12  # opacity of what is not selected
    grown: int = 2  # px that a selected mark is larger


def picture(points: MapPoints, there: Any, *, name: str, lines: int = 0, dark: bool = False) -> Picture:
    """The picture of the points at the places `there`; `name` is the method, `lines` how many will be drawn."""
    colours = palette(dark=dark)
    found, scale = (_groups(points, there, dark), None) if points.values is None else _shades(points, there, dark)
    return Picture(
        layers=tuple(found),
        scale=scale,
        axes=(f"{name} 1 (no unit)", f"{name} 2 (no unit)"),
        line={"color": colours.ink, "width": 1.25, "opacity": 0.75 if lines < 40 else 0.35},
        ring={"color": colours.ink, "width": 2, "size": 20},
    )


def embedding_map(
    points: MapPoints,
    *,
    name: str,
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None,
    picked: Sequence[int] | None = None,
    lines: Sequence[tuple[int, int]] = (),
    ring: int | None = None,
    dark: bool = False,
    height: int = MAP_HEIGHT,
) -> Figure:
    """Queries (diamonds, on top) and documents (dots) on a plane: the `picture` of the points, by Plotly.

    `name` is the method, for the axes. `ranges` are those of x and y, so that two maps have the same. `picked` are
    places in `points` that stand out, all others step back. `lines` join pairs of places: a query and its answer.
    `ring` is one place to find again.
    """
    import numpy as np

    x, y = np.asarray(points.x, dtype=np.float32), np.asarray(points.y, dtype=np.float32)
    chosen = None if picked is None else np.isin(np.arange(len(x)), np.asarray(picked, dtype=int))
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    drawn = picture(points, there, name=name, lines=len(lines), dark=dark)
    traces = [_trace(points, drawn, layers, chosen=chosen, dark=dark) for layers in _together(drawn.layers)]
    if traces:
        traces += [*_lines(x, y, lines, drawn), *_ring(x, y, ring, drawn)]
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


def _groups(points: MapPoints, there: Any, dark: bool) -> list[Layer]:
    """Documents, then queries, a layer for each group; of more than `MOST_GROUPS` the smaller ones are neutral."""
    import numpy as np

    queries, groups = np.asarray(points.queries, dtype=bool), np.asarray(points.groups, dtype=object)
    names = _names(groups[there])
    size = _scale(len(points.x))
    found = []
    for query, word in ((False, "documents"), (True, "queries")):
        kind = there[queries[there] == query]
        for name in names:
            places = kind[groups[kind] == name] if name != NEUTRAL else kind[~np.isin(groups[kind], names[1:])]
            if len(places):
                look = _look(name, names, palette(dark=dark), query=query, scale=size)
                found.append(Layer(_legend(name, word, len(places)), look, places))
    return found


def _shades(points: MapPoints, there: Any, dark: bool) -> tuple[list[Layer], Scale]:
    """Documents, then queries, coloured by a number in `SHADES` steps of the scale; those without one at the bottom."""
    import numpy as np

    values = np.asarray(points.values, dtype=float)[there]
    queries = np.asarray(points.queries, dtype=bool)[there]
    low, high = _ends(values)
    step = np.full(len(there), -1)
    known = np.isfinite(values)
    step[known] = np.clip((values[known] - low) / (high - low) * SHADES, 0, SHADES - 1).astype(int)
    size, scale = _scale(len(points.x)), SCALE_DARK if dark else SCALE
    found = []
    for query, word in ((False, "documents"), (True, "queries")):
        mine = queries == query
        if (mine & ~known).any():
            look = _look(NEUTRAL, [], palette(dark=dark), query=query, scale=size)
            name = _legend(NEUTRAL, f"{word} without a number", int((mine & ~known).sum()))
            found.append(Layer(name, look, there[mine & ~known]))
        mark = {"symbol": "diamond" if query else "circle", "size": (8 if query else 5) * size, "opacity": 0.9}
        name = _legend(NEUTRAL, word, int((mine & known).sum()))
        for shade in sorted(set(step[mine & known].tolist())):
            share = (shade + 0.5) / SHADES
            look = {"color": _between(scale, share), **mark}
            found.append(Layer(name, look, there[mine & (step == shade)], share))
    return found, Scale(f"{low:.4g}", f"{high:.4g}", scale)


def _between(scale: Sequence[str], share: float) -> str:
    """The colour at a share of the way along a scale of #rrggbb.

    >>> _between(("#000000", "#204060"), 0.5)
    '#102030'
    """
    place = share * (len(scale) - 1)
    first = min(int(place), len(scale) - 2)
    left, right = ([int(scale[at][digit : digit + 2], 16) for digit in (1, 3, 5)] for at in (first, first + 1))
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(left, right, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _scale(points: int) -> float:
    """Of many points smaller marks, so that all show."""
    return 1.0 if points <= 2000 else 0.75 if points <= 8000 else 0.55


def _ends(values: Any) -> tuple[float, float]:
    """The least and the greatest finite number, never the same."""
    finite = values[values == values]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return low, high if high > low else low + 1


def _names(groups: Any) -> list[str]:
    """Group names, the neutral one first so that it is drawn at the bottom, then those with a meaning, then by name."""
    counts = Counter(groups.tolist())
    counts[NEUTRAL] += 0
    order = {name: place for place, name in enumerate(MEANINGS)}
    kept = [NEUTRAL, *(name for name, _ in counts.most_common(MOST_GROUPS + 1) if name != NEUTRAL)][: MOST_GROUPS + 1]
    return sorted(kept, key=lambda group: (group != NEUTRAL, order.get(group, -1), group))


MEANINGS: dict[str, tuple[str, str]] = {
    "document": ("before", "circle"),
    "query": ("after", "diamond"),
    "same rank": ("before", "diamond-open"),
    "in the top 10": ("after", "diamond-open"),
    "better rank": ("better", "diamond"),
    "better": ("better", "diamond"),
    "worse rank": ("worse", "diamond-x"),
    "worse": ("worse", "diamond-x"),
    "never found": ("ink", "diamond-cross"),
    "lost from top 10": ("worse", "diamond-x"),
    "not in the top 10": ("ink", "diamond-cross"),
}
"""Groups with a colour of their own: a field of the palette, and a mark."""


def _look(group: str, names: Sequence[str], colours: Palette, *, query: bool, scale: float) -> dict[str, Any]:
    """Colour, mark, size and opacity of a group."""
    size, opacity = (8 * scale, 0.92) if query else (5 * scale, 0.6)
    if group == NEUTRAL:
        return {
            "color": colours.before,
            "symbol": "diamond" if query else "circle",
            "size": size * 0.85,
            "opacity": 0.28,
        }
    if group in MEANINGS:
        field, symbol = MEANINGS[group]
        return {"color": getattr(colours, field), "symbol": symbol, "size": size, "opacity": opacity}
    others = [name for name in names if name != NEUTRAL and name not in MEANINGS]
    series = (colours.after, colours.worse, colours.better, *colours.series)
    place = others.index(group)
    symbols = ("diamond", "diamond-open", "diamond-x") if query else ("circle", "circle-open", "circle-x")
    symbol = symbols[(place // len(series)) % len(symbols)]
    return {"color": series[place % len(series)], "symbol": symbol, "size": size, "opacity": opacity}


def _legend(group: str, word: str, count: int) -> str:
    head = word if group in (NEUTRAL, "query", "document") else shorten(group, 40)
    return f"{head} ({count:,})"


def _kind(points: int) -> Any:
    """The class of trace for a figure of so many points."""
    from plotly import graph_objects as go

    return go.Scatter if points <= SVG_POINTS else go.Scattergl


def _together(layers: Iterable[Layer]) -> list[list[Layer]]:
    """Layers that Plotly draws as one trace: each of its own, but all shades of one kind."""
    found = groupby(layers, key=lambda layer: id(layer) if layer.share is None else layer.name)
    return [list(each) for _, each in found]


def _trace(points: MapPoints, drawn: Picture, layers: Sequence[Layer], *, chosen: Any, dark: bool) -> Any:
    """Layers of one name as one trace."""
    import numpy as np

    named = len(points.labels) == len(points.x) <= MOST_LABELS
    name = plain(layers[0].name, 60)
    places = np.concatenate([layer.places for layer in layers])
    marker = {**layers[0].look, "line": {"width": 0}}
    if drawn.scale is not None and layers[0].share is not None:
        shares = np.concatenate([np.full(len(layer.places), layer.share, dtype=np.float32) for layer in layers])
        marker |= {"color": shares, **_bar(drawn.scale, palette(dark=dark))}
    trace = _kind(len(points.x))(
        x=np.asarray(points.x, dtype=np.float32)[places],
        y=np.asarray(points.y, dtype=np.float32)[places],
        mode="markers",
        name=name,
        marker=marker,
        unselected={"marker": {"opacity": drawn.faded}},
        selected={"marker": {"opacity": 1.0}},
        hovertext=[points.labels[place] for place in places.tolist()] if named else None,
        hovertemplate=("%{hovertext}" if named else name) + "<extra></extra>",
    )
    if chosen is not None:
        trace.selectedpoints = np.flatnonzero(chosen[places]).tolist()
        trace.selected = {"marker": {"opacity": 1.0, "size": marker["size"] + drawn.grown}}
    return trace


def _bar(scale: Scale, colours: Palette) -> dict[str, Any]:
    """The scale beside the map, with the numbers at its ends."""
    ends = {"tickmode": "array", "tickvals": [0, 1], "ticktext": [scale.low, scale.high]}
    last = len(scale.colours) - 1
    return {
        "cmin": 0,
        "cmax": 1,
        "showscale": True,
        "colorscale": [[place / last, colour] for place, colour in enumerate(scale.colours)],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": colours.muted}, **ends},
    }


def _lines(x: Any, y: Any, lines: Sequence[tuple[int, int]], drawn: Picture) -> list[Any]:
    if not lines:
        return []
    return [
        _kind(len(x))(
            x=[value for first, last in lines for value in (float(x[first]), float(x[last]), None)],
            y=[value for first, last in lines for value in (float(y[first]), float(y[last]), None)],
            mode="lines",
            name="query to its answer",
            hoverinfo="skip",
            line={"color": drawn.line["color"], "width": drawn.line["width"]},
            opacity=drawn.line["opacity"],
        )
    ]


def _ring(x: Any, y: Any, place: int | None, drawn: Picture) -> list[Any]:
    if place is None:
        return []
    line = {"color": drawn.ring["color"], "width": drawn.ring["width"]}
    marker = {"color": drawn.ring["color"], "symbol": "circle-open", "size": drawn.ring["size"], "line": line}
    return [
        _kind(len(x))(
            x=[float(x[place])], y=[float(y[place])], mode="markers", name="opened", hoverinfo="skip", marker=marker
        )
    ]


def query_scatter(
    first: Sequence[float],
    second: Sequence[float],
    texts: Sequence[str],
    *,
    names: tuple[str, str],
    metric: str = "nDCG@10",
    dark: bool = False,
    height: int = 460,
) -> Figure:
    """A metric of every query in one run against the other; above the diagonal the second is better.

    Queries of equal numbers share one larger mark.
    """
    colours = palette(dark=dark)
    counts: Counter[tuple[float, float]] = Counter()
    examples: dict[tuple[float, float], list[str]] = defaultdict(list)
    for one, other, text in zip(first, second, texts, strict=True):
        place = (round(float(one), 3), round(float(other), 3))
        counts[place] += 1
        if len(examples[place]) < 3:
            examples[place].append(text)
    labels = tuple(plain(name, 60) for name in names)
    groups = (
        (f"{labels[1]} better", colours.better, "diamond", 1),
        ("Same", colours.before, "diamond-open", 0),
        (f"{labels[0]} better", colours.worse, "diamond-x", -1),
    )
    line = {"color": colours.grid, "width": 1.5}
    traces = [_kind(len(counts))(x=[0, 1], y=[0, 1], mode="lines", hoverinfo="skip", showlegend=False, line=line)]
    for name, colour, symbol, sign in groups:
        places = sorted(place for place in counts if (place[1] > place[0]) - (place[1] < place[0]) == sign)
        if places:
            sizes = [min(7 + 2.5 * (counts[place] - 1) ** 0.5, 34) for place in places]
            traces.append(
                _kind(len(counts))(
                    x=[place[0] for place in places],
                    y=[place[1] for place in places],
                    mode="markers",
                    name=f"{name} ({sum(counts[place] for place in places):,})",
                    marker={"color": colour, "symbol": symbol, "size": sizes, "opacity": 0.8},
                    hovertext=[_text(place, counts[place], examples[place]) for place in places],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
    axis = {"range": [-0.04, 1.06]}
    unit = f"{plain(metric, 40)} (0 to 1)"
    return figure_of(
        traces if counts else [], x=f"{labels[0]}: {unit}", y=f"{labels[1]}: {unit}", dark=dark, height=height,
        xaxis=axis, yaxis=axis,
    )  # fmt: skip


def _text(place: tuple[float, float], count: int, examples: Sequence[str]) -> str:
    head = f"{place[0]:.3f} → {place[1]:.3f}, {count:,} {'query' if count == 1 else 'queries'}"
    return "<br>".join(
        [head, *(wrapped(text, limit=110) for text in examples), *(["…"] if count > len(examples) else [])]
    )
