"""Figures of slicings hold the numbers of their tables."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import DataError
from workbench.views.figures_slices import slice_figure
from workbench.views.theme import DARK, LIGHT

GROUPS = [
    {
        "group": "2 to 3 words",
        "queries": 1200,
        "before": 0.5,
        "after": 0.6,
        "difference": 0.1,
        "low": 0.02,
        "high": 0.2,
    },
    {"group": "<b>4</b>", "queries": 1, "before": 0.4, "after": 0.3, "difference": -0.1, "low": None, "high": None},
]
DIMENSIONS = [
    {"moment": moment, "dimensions": size, "bytes": size * 4.0, "ndcg@10": value}
    for moment, values in (("before", (0.7, 0.5)), ("after", (0.8, 0.6)))
    for size, value in zip((384, 96), values, strict=True)
]
PRECISIONS = [
    {"moment": moment, "precision": name, "bytes": size, "ndcg@10": value + add}
    for moment, add in (("before", 0.0), ("after", 0.1))
    for name, size, value in (("float32", 1536.0, 0.7), ("int8", 384.0, 0.69), ("binary", 48.0, 0.6))
]


def traces(rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in slice_figure(rows, **options).data}


def test_groups_keep_their_order_and_the_interval_of_the_change_is_drawn_from_before() -> None:
    figure = slice_figure(GROUPS)
    assert figure.layout.yaxis.ticktext == ("&lt;b&gt;4&lt;/b&gt; (1)", "2 to 3 words (1,200)")  # upwards
    before, after = figure.data[1:]
    assert (before.name, after.name) == ("Before", "After, whiskers: 95% CI of the change")
    assert list(before.x) == [0.4, 0.5]
    assert list(after.x) == [0.3, 0.6]
    assert after.x[1] - after.error_x.arrayminus[1] == pytest.approx(0.5 + 0.02)
    assert after.x[1] + after.error_x.array[1] == pytest.approx(0.5 + 0.2)
    assert (after.error_x.array[0], after.error_x.arrayminus[0]) == (0.0, 0.0)
    assert after.text[1] == "2 to 3 words (1,200)<br>after: 0.6000<br>change +0.1000, 95% CI +0.0200 to +0.2000"


def test_dimensions_are_a_line_for_each_stage_from_few_to_many() -> None:
    figure = slice_figure(DIMENSIONS, dark=True)
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("Before", [96, 384], [0.5, 0.7]),
        ("After", [96, 384], [0.6, 0.8]),
    ]
    assert figure.data[1].text[0] == "after, 96 dimensions, 384 bytes<br>0.6000, 75.0% of full size"
    assert (figure.layout.xaxis.type, figure.layout.xaxis.ticktext) == ("log", ("96", "384"))
    assert [trace.line.color for trace in figure.data] == [DARK.before, DARK.after]


def test_precisions_are_a_row_each_without_whiskers() -> None:
    found = traces(PRECISIONS)
    assert slice_figure(PRECISIONS).layout.yaxis.ticktext == (
        "binary (48 bytes)",
        "int8 (384 bytes)",
        "float32 (1,536 bytes)",
    )
    assert list(found["Before"].x) == [0.6, 0.69, 0.7]
    assert list(found["After"].x) == pytest.approx([0.7, 0.79, 0.8])
    assert found["After"].marker.color == LIGHT.after


def test_one_stage_alone_is_drawn() -> None:
    assert list(traces([row for row in DIMENSIONS if row["moment"] == "after"])) == ["After"]
    alone = [{**row, "before": float("nan"), "difference": None, "low": None, "high": None} for row in GROUPS]
    assert list(traces(alone)) == ["After"]


def test_no_rows_say_so() -> None:
    assert slice_figure([]).layout.annotations[0].text == "Nothing to draw yet"


def test_other_rows_and_other_metrics_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        slice_figure([{"colour": 1}])
    assert str(caught.value) == "expected rows of a slicing, found the columns 'colour'."
    with pytest.raises(DataError, match="expected the metric 'mrr@10' in the rows"):
        slice_figure(PRECISIONS, metric="mrr@10")
