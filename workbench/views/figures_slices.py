"""A figure for each table of `evaluation.slices`: groups of queries, dimensions, precisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.cards.metric_names import metric_name
from workbench.errors import DataError
from workbench.views.figures import dot_plot, dots, figure_of, joins, marker_of
from workbench.views.theme import HEIGHT, palette, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Rows = Sequence[Mapping[str, Any]]

STAGES = {"before": ("Before", "circle-open"), "after": ("After", "circle")}
"""Stage -> its name and mark."""


def slice_figure(rows: Rows, *, metric: str = "ndcg@10", title: str | None = None, dark: bool = False) -> Figure:
    """The figure of one table of `slices`; `rows` are its records: `table.to_dict("records")`.

    Groups of `sliced`: one row each, before and after on a common scale, whiskers for the 95% interval of the change,
    drawn from before: where they do not reach the open ring, the change is not zero. `at_dimensions`: a line for each
    stage, dimensions on a log axis. `at_precisions`: one row for each precision.

    `title` is that of the axis of values, the metric's name without one.

    Raises DataError for rows that are none of these, or without `metric`.

    >>> rows = [{"group": "1", "queries": 9, "before": 0.5, "after": 0.6, "difference": 0.1, "low": 0.02, "high": 0.2}]
    >>> [trace.name for trace in slice_figure(rows).data]
    [None, 'Before', 'After, whiskers: 95% CI of the change']
    """
    columns = set(rows[0]) if rows else {"group"}
    kind = next((name for name in ("dimensions", "precision", "group") if name in columns), None)
    if kind is None:
        raise DataError(f"expected rows of a slicing, found the columns {', '.join(map(repr, columns))}.")
    if kind != "group" and metric not in columns:
        found = ", ".join(map(repr, columns))
        raise DataError(f"expected the metric {metric!r} in the rows, found {found}; choose one.")
    title = title or f"{plain(metric_name(metric), 40)}, mean (0 to 1)"
    if kind == "dimensions":
        return _lines(rows, metric, title, dark)
    return _groups(rows if kind == "group" else _by_precision(rows, metric), title, dark)


def _by_precision(rows: Rows, metric: str) -> list[dict[str, Any]]:
    """One row for each precision, like those of groups: its name with the bytes of a vector, before and after."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        label = f"{row['precision']} ({row['bytes']:,.0f} bytes)"
        found.setdefault(row["precision"], {"group": label})[row["moment"]] = row[metric]
    return list(found.values())


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _groups(rows: Rows, title: str, dark: bool) -> Figure:
    """One row for each group, the first on top."""
    colors = palette(dark=dark)
    numbered = list(enumerate(rows[::-1]))  # Plotly draws upwards
    points = {
        stage: [(place, row[stage], _hover(row, stage)) for place, row in numbered if _is_known(row.get(stage))]
        for stage in STAGES
    }
    ends = []
    if any(_is_known(row.get("low")) for row in rows):  # of the change, drawn from before
        for _, row in ((place, row) for place, row in numbered if _is_known(row.get("after"))):
            known = _is_known(row.get("low"))
            ends.append((row["before"] + row["low"], row["before"] + row["high"]) if known else (row["after"],) * 2)
    traces = joins(((place, row.get("before"), row.get("after")) for place, row in numbered), colors)
    for stage, (name, symbol) in STAGES.items():
        whiskers = ends if stage == "after" else ()
        name += ", whiskers: 95% CI of the change" if whiskers else ""
        color = colors.after if stage == "after" else colors.before
        traces += dots(points[stage], name=name, color=color, symbol=symbol, ends=whiskers)
    return dot_plot(traces, [_label(row) for _, row in numbered], title=title, dark=dark)


def _label(row: Mapping[str, Any]) -> str:
    return plain(row["group"], 40) + (f" ({row['queries']:,})" if "queries" in row else "")


def _hover(row: Mapping[str, Any], stage: str) -> str:
    text = f"{_label(row)}<br>{stage}: {row[stage]:.4f}"
    if stage == "after" and _is_known(row.get("difference")):
        text += f"<br>change {row['difference']:+.4f}"
        if _is_known(row.get("low")):
            text += f", 95% CI {row['low']:+.4f} to {row['high']:+.4f}"
    return text


def _lines(rows: Rows, metric: str, title: str, dark: bool) -> Figure:
    """The metric over the number of dimensions, a line for each stage."""
    colors = palette(dark=dark)
    traces = []
    for stage, (name, symbol) in STAGES.items():
        mine = sorted((row for row in rows if row["moment"] == stage), key=lambda row: row["dimensions"])
        whole = mine[-1][metric] if mine else 0.0
        color = colors.after if stage == "after" else colors.before
        trace = {
            "x": [row["dimensions"] for row in mine],
            "y": [row[metric] for row in mine],
            "mode": "lines+markers",
            "name": name,
            "line": {"color": color, "width": 2.25},
            "marker": marker_of(color, symbol),
            "text": [
                f"{stage}, {row['dimensions']:,} dimensions, {row['bytes']:,.0f} bytes<br>{row[metric]:.4f}"
                + (f", {row[metric] / whole:.1%} of full size" if whole else "")
                for row in mine
            ],
            "hovertemplate": "%{text}<extra></extra>",
        }
        traces += [trace] if mine else []
    sizes = sorted({row["dimensions"] for row in rows})
    axis = {"type": "log", "tickmode": "array", "tickvals": sizes, "ticktext": [f"{size:,}" for size in sizes]}
    return figure_of(traces, x="Dimensions (log scale)", y=title, dark=dark, height=HEIGHT - 80, xaxis=axis)
