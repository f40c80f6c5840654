"""Records -> Plotly figures, the same for notebook, dashboard, and report.

Pure functions: no files, and no computation but smoothing and thinning for display. Colors, fonts, and the escaping of
foreign text are those of `theme`. All traces are SVG scatter traces: WebGL compiles code at run time, which a strict
Content-Security-Policy forbids. Training logs are in `figures_loss`, the map with its many points in `figures_map`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.views.smoothing import POINTS
from workbench.views.theme import (
    FONT_FAMILY,
    FONT_SIZE,
    HEIGHT,
    ROW_HEIGHT,
    SQUARE_HEIGHT,
    TICK_SIZE,
    Palette,
    palette,
    plain,
    plain_lines,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from plotly.graph_objects.layout import Template

    from workbench.evaluation.comparison import MetricRow
    from workbench.views.records import QueryOutcome

Trace = dict[str, Any]


def template(*, dark: bool = False) -> Template:
    """The one Plotly template: fonts, hairline grid, legend above the plot, transparent background."""
    from plotly import graph_objects as go

    colors = palette(dark=dark)
    axis = {
        "automargin": True,
        "exponentformat": "none",  # 0.00002, not 20µ
        "separatethousands": True,
        "gridcolor": colors.grid,
        "linecolor": colors.grid,
        "tickcolor": colors.grid,
        "tickfont": {"size": TICK_SIZE, "color": colors.muted},
        "title": {"font": {"size": FONT_SIZE, "color": colors.muted}, "standoff": 10},
        "zeroline": False,
    }
    font = {"family": FONT_FAMILY, "size": FONT_SIZE, "color": colors.ink}
    return go.layout.Template(
        layout={
            "colorway": [colors.after, *colors.series],
            "font": font,
            "hoverlabel": {
                "align": "left",
                "bgcolor": colors.surface,
                "bordercolor": colors.muted,
                "font": {**font, "size": TICK_SIZE},
            },
            "hovermode": "closest",
            "legend": {"font": font, "orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
            "modebar": {
                "orientation": "v",
                "bgcolor": f"{colors.surface}e0",
                "color": colors.muted,
                "activecolor": colors.ink,
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def figure_of(traces: Sequence[Any], *, x: str, y: str, dark: bool, height: int = HEIGHT, **layout: Any) -> Figure:
    """A figure with named axes on the template. Without traces it says so instead of showing bare axes."""
    from plotly import graph_objects as go

    figure = go.Figure(traces)
    figure.update_layout(template=template(dark=dark), height=height, showlegend=True)
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    figure.update_layout(**layout)
    if not traces:
        figure.add_annotation(text="Nothing to draw yet", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    return figure


def marker_of(color: str, symbol: str, size: int = 11) -> dict[str, Any]:
    return {"color": color, "size": size, "symbol": symbol, "line": {"color": color, "width": 2}}


def script_json(figure: Figure | Mapping[str, Any]) -> str:
    """A figure, or plain values, as JSON for a `<script>` element: without `<`, `>`, `&`, U+2028, and U+2029."""
    from plotly.io import to_json

    escapes = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    return str(to_json(figure, validate=False, engine="json", remove_uids=True)).translate(escapes)


def library() -> str:
    """The source of plotly.js that belongs to the installed Plotly, to be put into a page once."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def dots(
    points: Sequence[tuple[float, float, str]],
    *,
    name: str,
    color: str,
    symbol: str = "circle",
    size: int = 11,
    ends: Sequence[tuple[float, float]] = (),
) -> list[Trace]:
    """Marks of a dot plot: (row, value, hover text) each; `ends` are those of their whiskers, on the axis."""
    if not points:
        return []
    trace: Trace = {
        "x": [value for _, value, _ in points],
        "y": [row for row, _, _ in points],
        "mode": "markers",
        "name": name,
        "marker": marker_of(color, symbol, size),
        "text": [text for _, _, text in points],
        "hovertemplate": "%{text}<extra></extra>",
    }
    if ends:
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "color": color,
            "thickness": 2,
            "width": 5,
            "array": [max(high - value, 0.0) for (_, high), value in zip(ends, trace["x"], strict=True)],
            "arrayminus": [max(value - low, 0.0) for (low, _), value in zip(ends, trace["x"], strict=True)],
        }
    return [trace]


def joins(rows: Iterable[tuple[int, float | None, float | None]], colors: Palette) -> list[Trace]:
    """A broad light line between the two values of each row that has both."""
    both = [row for row in rows if all(value is not None and value == value for value in row)]
    trace = {
        "x": [value for _, first, second in both for value in (first, second, None)],
        "y": [value for row, _, _ in both for value in (row, row, None)],
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "line": {"color": colors.grid, "width": 5},
    }
    return [trace] if both else []


def card_lines(rows: Sequence[tuple[int, str, float]], colors: Palette) -> list[Trace]:
    """A dashed line across each row at the card's number: (row, metric, number)."""
    trace = {
        "x": [x for _, _, value in rows for x in (value, value, None)],
        "y": [y for row, _, _ in rows for y in (row - 0.38, row + 0.38, None)],
        "mode": "lines",
        "name": "The card's number",
        "line": {"color": colors.ink, "width": 2.25, "dash": "4px,3px"},
        "text": [plain(name) for _, name, _ in rows for _ in range(3)],
        "hovertemplate": "%{text}<br>the card: %{x:.4f}<extra></extra>",
    }
    return [trace] if rows else []


def dot_plot(
    traces: Sequence[Trace],
    labels: Sequence[str],
    *,
    title: str,
    dark: bool,
    row_height: int = ROW_HEIGHT,
    **layout: Any,
) -> Figure:
    """A dot plot with a row for each of `labels`, from the bottom up; `title` names the axis of values."""
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [*labels],
        "showgrid": False,
        "range": [-0.6, len(labels) - 0.4],
        "tickfont": {"color": palette(dark=dark).ink},
    }
    height = row_height * len(labels) + 120 if labels else HEIGHT // 2
    return figure_of(traces, x=title, y="", dark=dark, height=height, yaxis=axis, **layout)


def marks_after(
    rows: Iterable[tuple[float, str, MetricRow]], *, with_card: bool = True
) -> tuple[list[tuple[float, float, str]], list[tuple[float, float]]]:
    """Points and ends for `dots`, of the values after training: (place, name, row) each.

    Of several seeds the point is their mean. The ends are those between which the card's number is expected where the
    row was judged against it and `with_card`, else those of the value over queries.
    """
    points, ends = [], []
    for place, name, row in rows:
        if row.after is None:
            continue
        value, low, high, text = row.after, row.low, row.high, "95% CI over queries"
        if len(row.values) > 1 and row.mean is not None:
            value, name = row.mean, f"{name}, mean of {len(row.values)} seeds"
        if with_card and row.card_low is not None and row.card_high is not None:
            half, text = (row.card_high - row.card_low) / 2, "95% range expected of the card"
            low, high = value - half, value + half
        interval = "" if low is None or high is None else f"<br>{text}: {low:.4f} to {high:.4f}"
        points.append((place, value, f"{name}: {value:.4f}{interval}"))
        ends.append((value if low is None else low, value if high is None else high))
    return points, ends


def seed_marks(
    rows: Iterable[tuple[float, str, MetricRow]], color: str, *, name: str = "Each seed", lift: float = 0.27
) -> list[Trace]:
    """A small dot for each training of a metric, `lift` rows above its mean: (place, name, row) each."""
    points = [
        (place + lift, value, f"{metric}: {value:.4f}, training {number} of {len(row.values)}")
        for place, metric, row in rows
        if len(row.values) > 1
        for number, value in enumerate(row.values, start=1)
    ]
    return [{**trace, "opacity": 0.7} for trace in dots(points, name=name, color=color, size=5)]


def metric_bars(
    rows: Sequence[MetricRow],
    *,
    dark: bool = False,
    title: str = "Mean over queries (0 to 1)",
    names: tuple[str, str] = ("Before", "After"),
) -> Figure:
    """One row per metric: before (open, grey), after (filled, blue, with its interval), the card's (dashed, ink).

    Dots on a common scale, not bars from zero: the differences of interest are hundredths. `names` label the two
    values, for two runs that are compared. With several seeds, after is their mean, and each seed is a small dot.
    """
    colors = palette(dark=dark)
    first, second = (plain(name, 60) for name in names)
    numbered = list(enumerate(rows[::-1]))  # Plotly draws upwards
    before = [
        (place, row.before, f"{plain(row.metric)}<br>{first}: {row.before:.4f}")
        for place, row in numbered
        if row.before is not None
    ]
    named = [(place, f"{plain(row.metric)}<br>{second}", row) for place, row in numbered]
    after, ends = marks_after(named)
    judged, counts = any(row.card_low is not None for row in rows), {len(row.values) for row in rows} - {0}
    seeds = f", mean of {max(counts)} seeds" if len(counts) == 1 else ", mean of the seeds"
    shown = second + (seeds if max(counts, default=1) > 1 else "")
    shown += ", with the range expected of the card (95%)" if judged else ", with 95% CI"
    traces = [
        *joins(((place, row.before, after_value(row)) for place, row in numbered), colors),
        *dots(before, name=first, color=colors.before, symbol="circle-open"),
        *dots(after, name=shown, color=colors.after, ends=ends),
        *seed_marks(named, colors.after),
        *card_lines([(place, row.metric, row.card) for place, row in numbered if row.card is not None], colors),
    ]
    values = [v for row in rows for v in (row.card, row.before, row.after, *row.values) if v is not None]
    values += [end for pair in ends for end in pair]
    labels = [plain(row.metric, 40) for _, row in numbered]
    return dot_plot(traces, labels, title=title, dark=dark, xaxis=_padded_range(values))


def after_value(row: MetricRow) -> float | None:
    """The value after training; of several seeds their mean."""
    return row.mean if len(row.values) > 1 else row.after


def _padded_range(values: Sequence[float], share: float = 0.04) -> dict[str, Any]:
    """An axis range that leaves marks at its ends whole."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = (high - low or 1.0) * share
    return {"range": [low - pad, high + pad]}


Place = tuple[float, float]


def shared_marks(
    pairs: Iterable[tuple[Place, str, str]],
    looks: Mapping[int, tuple[str, str, str]],
    describe: Callable[[Place], str],
) -> list[Trace]:
    """Queries at (x, y), equal ones as one larger mark, which has the id of the first; (place, text, id) each.

    `looks` maps the sign of y - x to name, color, and symbol. A hover text has `describe`, how many queries share the
    place, and up to three of their texts.
    """
    counts: Counter[Place] = Counter()
    examples: dict[Place, list[str]] = defaultdict(list)
    first: dict[Place, str] = {}
    for place, text, key in pairs:
        counts[place] += 1
        first.setdefault(place, key)
        if len(examples[place]) < 3:
            examples[place].append(plain_lines(text, limit=110))

    def text_of(place: Place) -> str:
        head = f"{describe(place)}, {counts[place]:,} {'query' if counts[place] == 1 else 'queries'}"
        return "<br>".join([head, *examples[place], *(["…"] if counts[place] > len(examples[place]) else [])])

    traces = []
    for sign, (name, color, symbol) in looks.items():
        places = sorted(place for place in counts if (place[1] > place[0]) - (place[1] < place[0]) == sign)
        marker = {"color": color, "symbol": symbol, "opacity": 0.8, "line": {"color": color, "width": 1.5}}
        trace = {
            "x": [x for x, _ in places],
            "y": [y for _, y in places],
            "mode": "markers",
            "name": f"{name} ({sum(counts[place] for place in places):,})",
            "marker": {**marker, "size": [min(7 + 2.5 * math.sqrt(counts[place] - 1), 34) for place in places]},
            "text": [text_of(place) for place in places],
            "customdata": [first[place] for place in places],
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces += [trace] if places else []
    return traces


def diagonal(low: float, high: float, colors: Palette) -> Trace:
    """A light line from (low, low) to (high, high)."""
    ends, line = [low, high], {"color": colors.grid, "width": 1.5}
    return {"x": ends, "y": ends, "mode": "lines", "hoverinfo": "skip", "showlegend": False, "line": line}


def rank_changes(
    queries: Sequence[QueryOutcome], *, depth: int = 100, dark: bool = False, height: int = SQUARE_HEIGHT
) -> Figure:
    """Rank before against rank after on log axes; below the diagonal is better.

    A document that is not among the best `depth` is on a line of its own beyond the last rank.
    """
    colors = palette(dark=dark)
    beyond = depth * 2.0
    pairs = [
        ((float(each.rank_before or beyond), float(each.rank_after or beyond)), each.query, each.query_id)
        for each in queries
    ]
    end = max((rank for place, _, _ in pairs for rank in place), default=float(depth))

    def describe(place: Place) -> str:
        return "rank " + " → ".join(plain(f"> {depth}") if rank > depth else f"{rank:.0f}" for rank in place)

    looks = {
        -1: ("Better rank", colors.better, "diamond"),
        0: ("Same rank", colors.before, "diamond-open"),
        1: ("Worse rank", colors.worse, "diamond"),
    }
    ticks = [rank for rank in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= min(end, depth)]
    axis = {
        "type": "log",
        "tickmode": "array",
        "tickvals": [*ticks, *([beyond] if end == beyond else [])],
        "ticktext": [*map(str, ticks), *([plain(f"> {depth}")] if end == beyond else [])],
        "minor": {"showgrid": False},
        "range": [math.log10(0.82), math.log10(max(end, 2) * 1.3)],
    }
    marks = ({**each, "cliponaxis": False} for each in shared_marks(pairs, looks, describe))
    traces = [diagonal(1, end, colors), *marks]
    x, y = (f"Rank {stage} (1 is best, log scale)" for stage in ("before", "after"))
    return figure_of(traces if pairs else [], x=x, y=y, dark=dark, height=height, xaxis=axis, yaxis=axis)


def _change_text(query: QueryOutcome) -> str:
    if not query.ranked:
        return f"{query.difference:+.3f}, agreement {query.before:.3f} → {query.after:.3f}"
    return f"{query.difference:+.3f}, rank {query.rank_before or 'not found'} → {query.rank_after or 'not found'}"


def per_query_difference(
    queries: Sequence[QueryOutcome],
    *,
    metric: str = "nDCG@10",
    dark: bool = False,
    points: int = POINTS,
    height: int = HEIGHT,
) -> Figure:
    """After minus before of every query, sorted from the largest gain to the largest loss.

    The areas show how many queries gained and lost, and how much: a mean hides both. Of examples each has its agreement
    with the gold labels, whatever the `metric` of all.
    """
    colors = palette(dark=dark)
    of = "Queries" if all(query.ranked for query in queries) else "Examples"
    shown_metric = metric if of == "Queries" else "Agreement with gold"
    ranked = list(enumerate(sorted(queries, key=lambda query: (-query.difference, query.query)), start=1))
    groups = (
        ("Higher", colors.better, [row for row in ranked if row[1].difference > 0]),
        ("No change", colors.before, [row for row in ranked if row[1].difference == 0]),
        ("Lower", colors.worse, [row for row in ranked if row[1].difference < 0]),
    )
    traces = []
    for name, color, rows in groups:
        last = len(rows) - 1  # evenly spread, with the first and the last
        shown = rows if last < points else [rows[round(each * last / (points - 1))] for each in range(points)]
        changed = name != "No change"
        trace = {
            "x": [place for place, _ in shown],
            "y": [query.difference for _, query in shown],
            "mode": "lines+markers",
            "fill": "tozeroy" if changed else None,
            "name": name,
            "fillcolor": f"{color}33",
            "line": {"color": color, "width": 1.5, "shape": "hvh"},
            "marker": {"color": color, "size": 6, "symbol": "diamond" if changed else "diamond-open"},
            "text": [f"{_change_text(query)}<br>{plain_lines(query.query, limit=160)}" for _, query in shown],
            "customdata": [query.query_id for _, query in shown],
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces += [trace] if rows else []
    return figure_of(
        traces,
        x=f"{of}, sorted by change (count)",
        y=f"{plain(shown_metric, 40)}, after − before (−1 to 1)",
        dark=dark,
        height=height,
        yaxis={"range": [-1.08, 1.08]},
        xaxis=_padded_range([1, max(len(ranked), 2)], share=0.03),
    )
