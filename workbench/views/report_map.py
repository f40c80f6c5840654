"""The map of an evaluation's texts for the report: the stored one, or one by PCA where the run keeps its vectors.

UMAP takes minutes and is made by `workbench map`; a report never starts it. At most `MOST_SHOWN` points of each moment
are drawn, because the page draws them without WebGL, which a strict Content-Security-Policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.evaluation.examples import has_examples
from workbench.evaluation.projection import STAGES, Map, Method, load_map, project
from workbench.run import Run
from workbench.views.queries import metric_of
from workbench.views.records import MapPlaces, MapView
from workbench.views.theme import shorten

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 1500  # points of each moment
TEXT_LIMIT = 100  # characters of a text on hover


def map_view(run: Run, name: str, main: str) -> MapView | None:
    """The map of evaluation `name`; None where it is measured item by item, or where the run keeps no vectors."""
    if not name or has_examples(run, name):
        return None
    stored = _stored(run, name)
    if stored is None:
        return None
    points = stored.points
    outcome, texts = _outcomes(run, name, main), _texts(run, name)
    moments = [moment for moment in STAGES if (points["moment"] == moment).any()]
    ids = set(_chosen(points[points["moment"] == moments[0]]))
    places = [
        _places(points[(points["moment"] == moment) & points["id"].isin(ids)], moment, outcome, texts, stored)
        for moment in moments
    ]
    each = int((points["moment"] == moments[0]).sum())
    return MapView(str(stored.parameters["method"]), tuple(places), each, len(places[0].x))


def _stored(run: Run, name: str) -> Map | None:
    methods: tuple[Method, ...] = ("umap", "pca")
    for method in methods:
        if (found := load_map(run, name, method)) is not None:
            return found
    there = any(run.file("vectors", name, moment).is_file() for moment in STAGES)
    return project(run, name, "pca") if there else None


def _outcomes(run: Run, name: str, main: str) -> dict[str, str]:
    """Query id -> how it fared: "better", "worse", "same rank", "not in the top 10"; nothing without both moments."""
    moments = run.evaluations()[name]
    if not {"before", "after"} <= set(moments):
        return {}
    before, after = (run.per_query(name, moment) for moment in ("before", "after"))
    metric = metric_of(before, main)
    table = before.merge(after, on="query_id", suffixes=("_before", "_after"))

    def outcome(row: Mapping[Any, Any]) -> str:
        change = row[f"{metric}_after"] - row[f"{metric}_before"]
        if change:
            return "better" if change > 0 else "worse"
        return "not in the top 10" if row[f"{metric}_after"] == 0 else "same rank"

    return {str(row["query_id"]): outcome(row) for row in table.to_dict("records")}


def _texts(run: Run, name: str) -> dict[tuple[str, str], str]:
    queries, documents = run.per_query(name, run.evaluations()[name][0]), run.documents(name)
    found = {("query", str(key)): text for key, text in zip(queries["query_id"], queries["query"], strict=True)}
    pairs = zip(documents["document_id"], documents["document"], strict=True)
    return found | {("document", str(key)): text for key, text in pairs}


def _chosen(points: pd.DataFrame) -> list[str]:
    """Ids of the points that are drawn, evenly spread: of queries up to half of them, documents for the rest."""
    queries = points.loc[points["kind"] == "query", "id"].tolist()
    documents = points.loc[points["kind"] == "document", "id"].tolist()
    some = _spread(queries, max(MOST_SHOWN // 2, MOST_SHOWN - len(documents)))
    return [*some, *_spread(documents, MOST_SHOWN - len(some))]


def _spread(values: Sequence[str], most: int) -> list[str]:
    """At most `most` values, evenly spread, with the first and the last.

    >>> _spread("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / max(most - 1, 1))] for place in range(most)]


def _places(
    points: pd.DataFrame, moment: str, outcome: dict[str, str], texts: dict[tuple[str, str], str], stored: Map
) -> MapPlaces:
    """One moment's points, documents first; coordinates to a thousandth of the map's width, which no eye can see."""
    span = max(float(stored.points[axis].max() - stored.points[axis].min()) for axis in ("x", "y")) or 1.0
    decimals = max(0, 3 - math.floor(math.log10(span)))
    rows = points.sort_values(["kind", "id"], kind="stable").to_dict("records")
    return MapPlaces(
        moment,
        queries=tuple(row["kind"] == "query" for row in rows),
        x=tuple(round(float(row["x"]), decimals) for row in rows),
        y=tuple(round(float(row["y"]), decimals) for row in rows),
        groups=tuple(outcome.get(row["id"], "query") if row["kind"] == "query" else "document" for row in rows),
        texts=tuple(shorten(texts.get((row["kind"], row["id"]), ""), TEXT_LIMIT) for row in rows),
        kept=stored.preservation.get(moment),
    )
