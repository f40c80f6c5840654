"""A figure for each table of `slices`: groups of queries, dimensions, precisions.

Pure functions from records to Plotly figures, on the template and in the colours of `figures`: before grey and open,
after blue and filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.views.figures import HEIGHT, ROW_HEIGHT, figure_of, metric_name
from workbench.views.theme import palette, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Rows = Sequence[Mapping[str, Any]]

MOMENTS = {"before": ("Before", "circle-open"), "after": ("After", "circle")}
"""Moment -> its name and mark."""


def slice_figure(rows: Rows, *, metric: str = "ndcg@10", title: str | None = None, dark: bool = False) -> Figure:
    """The figure of one table of `slices`; `rows` are its records: `table.to_dict("records")`.

    `slice_queries`: a row per group, before and after on a common scale, whiskers for the 95 % interval of the change,
    drawn from before: where they do not reach the open ring, the change is told from none. `at_dimensions`: a line for
    each moment, dimensions on a log axis. `at_precisions`: one row for each precision.

    `title` is that of the axis of values, the metric's name without one.

    Raises DataError for rows that are none of these, or without `metric`.

    >>> rows = [{"group": "1", "queries": 9, "before": 0.5, "after": 0.6, "difference": 0.1, "low": 0.02, "high": 0.2}]
    >>> [trace.name for trace in slice_figure(rows).data]
    [None, 'Before', 'After, whiskers: 95 % interval of the change']
    """
    there = set(rows[0]) if rows else {"group"}
    kind = next((name for name in ("dimensions", "precision", "group") if name in there), None)
    if kind is None:
        raise DataError(f"expected rows of a slicing, found the columns {', '.join(map(repr, there))}.")
    if kind != "group" and metric not in there:
        raise DataError(f"expected the metric {metric!r} in the rows, found {', '.join(map(repr, there))}; choose one.")
    title = title or f"{plain(metric_name(metric), 40)}, mean (0 to 1)"
    if kind == "dimensions":
        return _lines(rows, metric, title, dark)
    return _dots(rows if kind == "group" else _by_precision(rows, metric), title, dark)


def _by_precision(rows: Rows, metric: str) -> list[dict[str, Any]]:
    """One row for each precision, as those of groups: its name with the bytes of a vector, before and after."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        label = f"{row['precision']} ({row['bytes']:,.0f} bytes)"
        found.setdefault(row["precision"], {"group": label})[row["moment"]] = row[metric]
    return list(found.values())


def _known(value: Any) -> bool:
    return value is not None and value == value


def _dots(rows: Rows, title: str, dark: bool) -> Figure:
    """One row for each group, the first on top."""
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    rows = list(rows)[::-1]  # Plotly draws upwards
    traces: list[Any] = []
    both = [(y, row) for y, row in enumerate(rows) if _known(row.get("before")) and _known(row.get("after"))]
    if both:
        traces.append(
            go.Scatter(
                x=[value for _, row in both for value in (row["before"], row["after"], None)],
                y=[value for y, _ in both for value in (y, y, None)],
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                line={"color": colours.grid, "width": 5},
            )
        )
    for moment, (name, symbol) in MOMENTS.items():
        found = [(y, row) for y, row in enumerate(rows) if _known(row.get(moment))]
        whiskers = _whiskers([row for _, row in found], colours.after) if moment == "after" else None
        if found:
            traces.append(
                go.Scatter(
                    x=[row[moment] for _, row in found],
                    y=[y for y, _ in found],
                    mode="markers",
                    name=f"{name}, whiskers: 95 % interval of the change" if whiskers else name,
                    error_x=whiskers,
                    marker=_marker(colours.role(moment), symbol),  # type: ignore[arg-type]
                    text=[_said(row, moment) for _, row in found],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(rows))),
        "ticktext": [_label(row) for row in rows],
        "showgrid": False,
        "range": [-0.6, len(rows) - 0.4],
        "tickfont": {"color": colours.ink},
    }
    height = ROW_HEIGHT * len(rows) + 120 if rows else HEIGHT // 2
    return figure_of(traces, x=title, y="", dark=dark, height=height, yaxis=axis)


def _whiskers(rows: Rows, colour: str) -> dict[str, Any] | None:
    """The interval of the change, drawn from before: its ends' distances from after."""
    if not any(_known(row.get("low")) for row in rows):
        return None
    ends = [
        (row["high"] - row["difference"], row["difference"] - row["low"]) if _known(row.get("low")) else (0.0, 0.0)
        for row in rows
    ]
    return {
        "type": "data",
        "symmetric": False,
        "color": colour,
        "thickness": 2,
        "width": 5,
        "array": [max(more, 0.0) for more, _ in ends],
        "arrayminus": [max(less, 0.0) for _, less in ends],
    }


def _marker(colour: str, symbol: str) -> dict[str, Any]:
    return {"color": colour, "size": 11, "symbol": symbol, "line": {"color": colour, "width": 2}}


def _label(row: Mapping[str, Any]) -> str:
    return plain(row["group"], 40) + (f" ({row['queries']:,})" if "queries" in row else "")


def _said(row: Mapping[str, Any], moment: str) -> str:
    """What a mark says when it is pointed at."""
    said = f"{_label(row)}<br>{moment}: {row[moment]:.4f}"
    if moment == "after" and _known(row.get("difference")):
        said += f"<br>change {row['difference']:+.4f}"
        if _known(row.get("low")):
            said += f", 95 % interval {row['low']:+.4f} to {row['high']:+.4f}"
    return said


def _lines(rows: Rows, metric: str, title: str, dark: bool) -> Figure:
    """The metric over the number of dimensions, a line for each moment."""
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    traces: list[Any] = []
    for moment, (name, symbol) in MOMENTS.items():
        mine = sorted((row for row in rows if row["moment"] == moment), key=lambda row: row["dimensions"])
        if not mine:
            continue
        whole = mine[-1][metric]
        colour = colours.role(moment)  # type: ignore[arg-type]
        traces.append(
            go.Scatter(
                x=[row["dimensions"] for row in mine],
                y=[row[metric] for row in mine],
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2.25},
                marker=_marker(colour, symbol),
                text=[
                    f"{moment}, {row['dimensions']:,} dimensions, {row['bytes']:,.0f} bytes<br>{row[metric]:.4f}"
                    + (f", {100 * row[metric] / whole:.1f} % of the whole" if whole else "")
                    for row in mine
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    sizes = sorted({row["dimensions"] for row in rows})
    axis = {"type": "log", "tickmode": "array", "tickvals": sizes, "ticktext": [f"{size:,}" for size in sizes]}
    return figure_of(traces, x="Dimensions (log scale)", y=title, dark=dark, height=HEIGHT - 80, xaxis=axis)
