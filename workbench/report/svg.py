"""A figure of `figures` as a static SVG: for paper, for readers without scripts, and until the scripts have run.

Plotly's own image export starts a browser that would have to be downloaded. Our figures use a small part of Plotly
(scatter traces on two axes, linear or logarithmic; dashes, five marker shapes, fills, horizontal error bars, vertical
lines, notes), and this module draws exactly that part, from the same figure, so that both always say the same. Left
out: everything else of Plotly, hover labels, opacity of fills other than `#rrggbbaa`.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FONT = 13  # px
EM = 0.55  # width of an average Latin character, in font sizes
LEGEND_ROW = 22  # px
INK, GRID = "#5b636b", "#e3e6e9"  # where a figure's template names no colours
MANY = 60  # markers of one trace; above, they are drawn as one path
DASHES = {"dash": "7 4", "dot": "2 3", "dashdot": "8 3 2 3", "solid": ""}


@dataclass(frozen=True)
class Scale:
    """One axis: data values to pixels."""

    low: float  # data value, its log10 on a log axis
    high: float
    start: float  # pixels
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.stop - self.start)


def draw(
    figure: Mapping[str, Any],
    *,
    label: str,
    width: int = 960,
    colour: Callable[[str], str] = str,
    identity: str = "figure",
) -> str:
    """A figure, given as its `to_dict()`, as an `<svg>` element, `width` units wide, that scales with its box.

    `label` tells a reader who does not see it what it shows. `colour` may turn a `#rrggbb` into something else, such
    as `var(--after)`; `identity` makes ids in the page unique.
    """
    layout = {"xaxis": {}, "yaxis": {}, **figure["layout"]}
    traces = [_coloured(unpacked(trace), place, layout) for place, trace in enumerate(figure["data"])]
    shown_y = layout["yaxis"].get("showticklabels") is not False
    ticks_y = _ticks(layout["yaxis"], *_extent(traces, layout["yaxis"], "y")) if shown_y else []
    legend, legend_height = _legend(traces, width, colour)
    title_y = _text(layout["yaxis"].get("title"))
    top = legend_height + (24 if title_y else 8)
    left = max((len(text) for _, text in ticks_y), default=0) * FONT * EM + 16
    height = int(layout.get("height") or 400)
    x_low, x_high = _extent(traces, layout["xaxis"], "x")
    y_low, y_high = _extent(traces, layout["yaxis"], "y")
    across = Scale(x_low, x_high, left, width - 14, layout["xaxis"].get("type") == "log")
    up = Scale(y_low, y_high, height - 52, top, layout["yaxis"].get("type") == "log")
    body = [*_axes(layout, across, up, ticks_y, colour), *_shapes(layout, across, up, colour)]
    for trace in traces:
        body += _trace(trace, across, up, colour)
    body += legend + _notes(layout, across, up, colour)
    if title_y:
        body.append(_label(0, legend_height + 12, title_y, colour(_ink(layout, "yaxis")), "start"))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{identity}-title" font-size="{FONT}">'
        f'<title id="{identity}-title">{html.escape(label)}</title>{"".join(body)}</svg>'
    )


def unpacked(value: Any) -> Any:
    """Plotly's packed arrays ({"dtype", "bdata", "shape"}) as lists of numbers."""
    if isinstance(value, Mapping) and {"dtype", "bdata"} <= value.keys():
        import numpy as np

        found = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
        if value.get("shape"):
            found = found.reshape([int(size) for size in str(value["shape"]).split(",")])
        return found.tolist()
    if isinstance(value, Mapping):
        return {name: unpacked(inner) for name, inner in value.items()}
    return value


def _coloured(trace: Mapping[str, Any], place: int, layout: Mapping[str, Any]) -> dict[str, Any]:
    """A trace with the colour that Plotly would give it where it names none.

    Raises ValueError for a trace that this module cannot draw.
    """
    if trace.get("type", "scatter") != "scatter":
        raise ValueError(f"expected scatter traces, found {trace['type']!r}.")
    way = ((layout.get("template") or {}).get("layout") or {}).get("colorway") or ("#0072b2",)
    own = {"color": str(way[place % len(way)])}
    line, marker = ({**own, **(trace.get(part) or {})} for part in ("line", "marker"))
    colours = marker["color"]
    if not isinstance(colours, str):
        raise ValueError("expected one colour for the marks of a trace, found one for each.")
    return {"mode": "lines", **trace, "line": line, "marker": marker}


def _text(title: Mapping[str, Any] | None) -> str:
    return html.unescape((title or {}).get("text") or "")


def _ink(layout: Mapping[str, Any], axis: str) -> str:
    font = _template(layout, axis).get("tickfont") or (layout.get("template") or {}).get("layout", {}).get("font") or {}
    return str(font.get("color") or INK)


def _template(layout: Mapping[str, Any], axis: str) -> Mapping[str, Any]:
    """What the template says of an axis."""
    found: Mapping[str, Any] = ((layout.get("template") or {}).get("layout") or {}).get(axis) or {}
    return found


def _label(x: float, y: float, text: str, fill: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _extent(traces: Sequence[Mapping[str, Any]], axis: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Lowest and highest value of the axis (log10 of them on a log axis), with a little air."""
    if axis.get("range"):
        return float(axis["range"][0]), float(axis["range"][1])
    log = axis.get("type") == "log"
    values: list[float] = []
    for trace in traces:
        here = [value for value in trace.get(name) or () if value is not None and math.isfinite(value)]
        values += here
        error = trace.get(f"error_{name}") or {}
        values += [v + more for v, more in zip(here, error.get("array") or (), strict=False)]
        values += [v - less for v, less in zip(here, error.get("arrayminus") or (), strict=False)]
    values = [math.log10(value) for value in values if value > 0] if log else values
    if axis.get("rangemode") == "tozero":
        values.append(0.0)
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = (high - low or abs(high) or 1.0) * 0.05
    return (low if low == 0 and axis.get("rangemode") == "tozero" else low - air), high + air


def _ticks(axis: Mapping[str, Any], low: float, high: float) -> list[tuple[float, str]]:
    """Tick values of an axis and their texts."""
    if axis.get("tickvals") is not None:
        texts = axis.get("ticktext") or [f"{value:g}" for value in axis["tickvals"]]
        return [(float(value), html.unescape(str(text))) for value, text in zip(axis["tickvals"], texts, strict=True)]
    if axis.get("type") == "log":
        steps = (1, 2, 5) if high - low < 3 else (1,)
        decades = range(math.floor(low), math.ceil(high) + 1)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return [(value, f"{value:,g}") for value in values if low <= math.log10(value) <= high]
    size = 10 ** math.floor(math.log10((high - low) / 5))
    step = next(size * factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= 6)
    count = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(place * step, f"{place * step:,.{decimals}f}".replace("-", "−")) for place in count]


def _axes(
    layout: Mapping[str, Any],
    across: Scale,
    up: Scale,
    ticks_y: Sequence[tuple[float, str]],
    colour: Callable[[str], str],
) -> list[str]:
    """Grid, tick labels and the name of the x axis."""
    grid = colour(str(_template(layout, "xaxis").get("gridcolor") or GRID))
    ink = colour(_ink(layout, "xaxis"))
    name_ink = colour(str((layout["yaxis"].get("tickfont") or {}).get("color") or _ink(layout, "yaxis")))
    parts = []
    right_end = -math.inf
    shown_x = layout["xaxis"].get("showticklabels") is not False
    for value, text in _ticks(layout["xaxis"], across.low, across.high) if shown_x else ():
        x = across(value)
        parts.append(f'<path d="M{x:.1f} {up.stop:.1f}V{up.start:.1f}" stroke="{grid}"/>')
        half = len(text) * FONT * EM / 2
        if x - half > right_end + 6:  # a label that would touch the one before it is left out
            place = min(x, across.stop + 14 - half)
            parts.append(_label(place, up.start + 18, text, ink))
            right_end = place + half
    for value, text in ticks_y:
        y = up(value)
        if layout["yaxis"].get("showgrid") is not False:
            parts.append(f'<path d="M{across.start:.1f} {y:.1f}H{across.stop:.1f}" stroke="{grid}"/>')
        parts.append(_label(across.start - 8, y + 4.5, text, name_ink, "end"))
    middle = (across.start + across.stop) / 2
    return [*parts, _label(middle, up.start + 42, _text(layout["xaxis"].get("title")), ink)]


def _trace(trace: Mapping[str, Any], across: Scale, up: Scale, colour: Callable[[str], str]) -> list[str]:
    """One scatter trace: fill, line, error bars, markers."""
    line, marker = trace.get("line") or {}, trace.get("marker") or {}
    mode = trace.get("mode") or "lines"
    places = [
        (across(x), up(y)) if x is not None and y is not None and _shown(across, x) and _shown(up, y) else None
        for x, y in zip(trace.get("x") or (), trace.get("y") or (), strict=False)
    ]
    parts: list[str] = []
    if "lines" in mode:
        path = _path(places, stepped=line.get("shape") == "hvh")
        drawn = [place for place in places if place]
        if trace.get("fill") == "tozeroy" and drawn:
            zero = f"V{up(0):.1f}H{drawn[0][0]:.1f}Z"
            parts.append(f'<path d="{path}{zero}" fill="{colour(line["color"])}" fill-opacity="0.2"/>')
        dashes = DASHES.get(line.get("dash") or "solid", (line.get("dash") or "").replace("px", ""))
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour(line["color"])}" stroke-width="{line.get("width", 2)}"'
            f' stroke-linejoin="round"{dash}/>'
        )
    parts += _errors(trace, across, up, colour)
    if "markers" in mode and len(places) > MANY and isinstance(marker.get("size"), int | float):
        symbol = str(marker.get("symbol") or "circle")
        parts += _many(places, float(marker["size"]), symbol, colour(marker["color"]), marker.get("opacity"))
    elif "markers" in mode:
        sizes = marker.get("size") or 6
        for index, place in enumerate(places):
            size = sizes[index] if isinstance(sizes, Sequence) else sizes
            if place:
                parts.append(_marker(place, size, str(marker.get("symbol") or "circle"), colour(marker["color"])))
    opacity = trace.get("opacity")
    return [f'<g opacity="{opacity}">', *parts, "</g>"] if opacity else parts


def _shown(scale: Scale, value: float) -> bool:
    return math.isfinite(value) and (value > 0 or not scale.log)


def _path(places: Sequence[tuple[float, float] | None], *, stepped: bool) -> str:
    """Path data through the places, broken at None; `stepped` turns half way between neighbours."""
    data: list[str] = []
    last: tuple[float, float] | None = None
    for place in places:
        if place and last and stepped:
            data.append(f"H{(last[0] + place[0]) / 2:.1f}V{place[1]:.1f}H{place[0]:.1f}")
        elif place:
            data.append(f"{'L' if last else 'M'}{place[0]:.1f} {place[1]:.1f}")
        last = place
    return "".join(data)


def _errors(trace: Mapping[str, Any], across: Scale, up: Scale, colour: Callable[[str], str]) -> list[str]:
    error = trace.get("error_x")
    if not error:
        return []
    parts = []
    for x, y, more, less in zip(trace["x"], trace["y"], error["array"], error["arrayminus"], strict=True):
        low, high, middle = across(x - less), across(x + more), up(y)
        bars = f"M{low:.1f} {middle:.1f}H{high:.1f}" + "".join(f"M{end:.1f} {middle - 5:.1f}v10" for end in (low, high))
        parts.append(f'<path d="{bars}" stroke="{colour(error["color"])}" stroke-width="2" fill="none"/>')
    return parts


def _many(
    places: Sequence[tuple[float, float] | None], size: float, symbol: str, colour: str, opacity: float | None
) -> list[str]:
    """Equal markers as one path, so that a map of a thousand points stays small."""
    there = [place for place in places if place]
    faint = f' opacity="{opacity}"' if opacity else ""
    if symbol.startswith("diamond"):
        wide = round(size * 0.6, 1)
        step = f"l{wide} {-wide} {wide} {wide} {-wide} {wide}z"
        data = "".join(f"M{x - wide:.1f} {y:.1f}{step}" for x, y in there)
        paint = f'fill="none" stroke="{colour}"' if "open" in symbol else f'fill="{colour}"'
        return [f'<path d="{data}" {paint}{faint}/>']
    data = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in there)
    return [f'<path d="{data}" stroke="{colour}" stroke-width="{size:g}" stroke-linecap="round"{faint}/>']


def _marker(place: tuple[float, float], size: float, symbol: str, colour: str) -> str:
    x, y, half = *place, size / 2
    hollow = symbol.endswith("-open")
    paint = f'fill="none" stroke="{colour}" stroke-width="1.75"' if hollow else f'fill="{colour}"'
    shape = symbol.removesuffix("-open")
    if shape.startswith("diamond"):  # a cross inside it is a hairline of the ground's colour, left out
        wide = half * 1.3
        corners = f"l{wide:.1f} {-wide:.1f} {wide:.1f} {wide:.1f} {-wide:.1f} {wide:.1f}z"
        return f'<path d="M{x - wide:.1f} {y:.1f}{corners}" {paint}/>'
    if shape == "square":
        return f'<rect x="{x - half:.1f}" y="{y - half:.1f}" width="{size:.1f}" height="{size:.1f}" {paint}/>'
    if shape == "x":
        cross = f"M{x - half:.1f} {y - half:.1f}l{size:.1f} {size:.1f}m0 {-size:.1f}l{-size:.1f} {size:.1f}"
        return f'<path d="{cross}" stroke="{colour}" stroke-width="2.5"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{half:.1f}" {paint}/>'


def _legend(traces: Sequence[Mapping[str, Any]], width: int, colour: Callable[[str], str]) -> tuple[list[str], float]:
    """Legend entries in rows from the top left, and the height that they take."""
    parts: list[str] = []
    x, y = 0.0, 13.0
    for trace in traces:
        if trace.get("showlegend") is False or not trace.get("name"):
            continue
        text = html.unescape(str(trace["name"]))
        long = 34 + len(text) * FONT * EM + 22
        if x > 0 and x + long > width:
            x, y = 0.0, y + LEGEND_ROW
        flat = Scale(0.0, 1.0, x, x + 26, False), Scale(0.0, 1.0, y, y, False)
        few = "markers" in trace["mode"] and "lines" not in trace["mode"]
        size = min(marker_size, 11) if isinstance(marker_size := (trace.get("marker") or {}).get("size"), int) else 9
        sample = {**trace, "x": [0.5] if few else [0.0, 1.0], "y": [0.0] if few else [0.0, 0.0], "fill": None}
        sample |= {
            "error_x": None,
            "marker": {**(trace.get("marker") or {}), "size": size},
            "mode": "markers" if few else "lines",
        }
        parts += [*_trace(sample, *flat, colour), _label(x + 34, y + 4.5, text, "currentColor", "start")]
        x += long
    return parts, y + 14 if parts else 0.0


def _shapes(layout: Mapping[str, Any], across: Scale, up: Scale, colour: Callable[[str], str]) -> list[str]:
    """Vertical lines over the whole height."""
    return [
        f'<path d="M{across(shape["x0"]):.1f} {up.stop:.1f}V{up.start:.1f}" stroke="{colour(shape["line"]["color"])}"'
        f' stroke-dasharray="2 3"/>'
        for shape in layout.get("shapes") or ()
        if shape.get("type") == "line" and shape["x0"] == shape["x1"]
    ]


def _notes(layout: Mapping[str, Any], across: Scale, up: Scale, colour: Callable[[str], str]) -> list[str]:
    """Notes that stand at a value of x and a share of the height, or in the middle of an empty figure."""
    parts = []
    for note in layout.get("annotations") or ():
        paper = note.get("xref") == "paper"
        x = across.start + note["x"] * (across.stop - across.start) if paper else across(note["x"])
        y = up.start + note["y"] * (up.stop - up.start) + (12 if note.get("yanchor") == "top" else 0)
        anchor = {"right": "end", "left": "start"}.get(str(note.get("xanchor")), "middle")
        parts.append(_label(x, y, html.unescape(note["text"]), colour(_ink(layout, "xaxis")), anchor))
    return parts
