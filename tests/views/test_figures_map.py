"""Figures of maps and of the queries of two runs: layers, marks, scales."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from workbench.views import theme
from workbench.views.figures_map import MapPoints, embedding_map, picture, query_scatter


def points(count: int = 6, **more: Any) -> MapPoints:
    values = {"queries": [n % 2 == 1 for n in range(count)], "x": range(count), "y": range(count)}
    return MapPoints(**{**values, "groups": ["better" if n % 2 else "" for n in range(count)], **more})


def test_the_smaller_ones_of_very_many_groups_share_a_look() -> None:
    names = [f"g{number}" for number in range(100) for _ in range(2 if number < 24 else 1)]
    found = picture(points(len(names), groups=names), np.arange(len(names)), name="PCA").layers
    assert len({layer.name.split(" ")[0] for layer in found}) == 24 + 2  # documents, queries
    assert sorted(place for layer in found for place in layer.places) == list(range(len(names)))


def test_queries_are_diamonds_above_the_dots_of_documents() -> None:
    figure = embedding_map(points(), name="PCA", picked=[1, 2])
    assert [(trace.name, trace.marker.symbol) for trace in figure.data] == [
        ("documents (3)", "circle"),
        ("better (3)", "diamond"),
    ]
    assert figure.data[1].marker.color == theme.LIGHT.better
    assert [list(trace.selectedpoints) for trace in figure.data] == [[1], [0]]
    assert figure.layout.xaxis.title.text == "PCA 1 (no unit)"


def test_many_points_are_drawn_by_webgl_and_none_say_so() -> None:
    assert {trace.type for trace in embedding_map(points(2000), name="PCA").data} == {"scattergl"}
    assert {trace.type for trace in embedding_map(points(100), name="PCA").data} == {"scatter"}
    empty = embedding_map(points(0), name="PCA")
    assert [note.text for note in empty.layout.annotations] == ["Nothing to draw yet"]


def test_numbers_have_a_scale_and_points_without_one_stay_neutral() -> None:
    figure = embedding_map(points(values=[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]), name="PCA")
    coloured = [trace for trace in figure.data if trace.marker.showscale]
    assert [tuple(trace.marker.colorbar.ticktext) for trace in coloured] == [("1", "6")] * 2
    assert {trace.name for trace in figure.data} == {"documents (2)", "documents without a number (1)", "queries (3)"}
    assert sum(len(trace.x) for trace in figure.data) == 6


def test_hostile_groups_and_names_stay_text() -> None:
    bad = "<b onclick=x>$x$</b>"
    figure = embedding_map(points(groups=[bad] * 6), name="PCA")
    scatter = query_scatter([0.5], [1.0], [bad], names=(bad, bad), metric=bad)
    assert "<b " not in json.dumps([figure.to_plotly_json(), scatter.to_plotly_json()], default=str)


def test_queries_of_two_runs_share_marks_and_are_counted() -> None:
    figure = query_scatter([0.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.2], list("abcd"), names=("one", "two"))
    assert [trace.name for trace in figure.data if trace.name] == ["two better (2)", "Same (1)", "one better (1)"]
    assert "0.000 → 1.000, 2 queries<br>a<br>b" in figure.data[1].text
