"""The map of a run: points with outcomes, selections, neighbors."""

from __future__ import annotations

import base64
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from large_run import mapped_run

from workbench.evaluation.projection import Vectors
from workbench.run import Run
from workbench.views import map_view as maps
from workbench.views.clusters import clusters, density
from workbench.views.map_view import MapView
from workbench.views.records import QueryOutcome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return mapped_run(tmp_path_factory.mktemp("runs"), topics=False)


@pytest.fixture(scope="module")
def view(run: Run) -> MapView:
    found = maps.map_view(run, "finetune", "pca")
    assert found is not None
    return found


def test_every_text_is_one_row_queries_after_documents(run: Run, view: MapView) -> None:
    assert list(view.table["kind"]) == ["document"] * 180 + ["query"] * 180
    points = pd.read_parquet(run.path / "maps" / "finetune-pca-together.parquet")
    mine = points[(points["moment"] == "after") & (points["kind"] == "query") & (points["id"] == "q7")].iloc[0]
    row = view.rows["query", "q7"]
    assert (view.table.at[row, "x_after"], view.table.at[row, "y_after"]) == (mine["x"], mine["y"])
    assert view.relevant[row] == (view.rows["document", "d7"],)


def test_outcomes_are_those_of_the_files(run: Run, view: MapView) -> None:
    ranks = [run.per_query("finetune", stage).set_index("query_id")["rank"] for stage in ("before", "after")]
    for key in ranks[0].index:
        first, last = (None if pd.isna(rank[key]) else int(rank[key]) for rank in ranks)
        expected = QueryOutcome("", first, last).outcome
        assert view.table.at[view.rows["query", str(key)], "outcome"] == expected
    assert view.table["outcome"].isna().sum() == 180  # documents


def test_the_map_of_a_report_has_some_points_of_each_kind(run: Run, view: MapView) -> None:
    whole = maps.report_map(run, "finetune")
    assert whole is not None
    pd.testing.assert_frame_equal(whole.table, view.table)
    few = view.thin(100)
    assert few.table["kind"].value_counts().to_dict() == {"document": 50, "query": 50}
    assert (few.total, few.table["id"].iloc[0], few.table["id"].iloc[-1]) == (
        360,
        view.table["id"].iloc[0],
        view.table["id"].iloc[-1],
    )


def test_hovering_tells_the_ranks_of_a_query(run: Run, view: MapView) -> None:
    ranks = [run.per_query("finetune", stage).set_index("query_id")["rank"]["q5"] for stage in ("before", "after")]
    named = view.names()[view.rows["query", "q5"]].split("\n")[0]
    assert named == f"query q5, rank {ranks[0]} → {ranks[1]}"
    assert view.names()[view.rows["document", "d5"]].split("\n")[0] == "document d5"
    change = view.table.loc[view.rows["query", "q5"], "rank change (halvings)"]
    assert change == pytest.approx(math.log2(ranks[0] / ranks[1]))


def test_clusters_are_found_in_the_full_vectors_and_named_by_their_words() -> None:
    chance = np.random.default_rng(1)
    topics = ("wide boot", "loud radio", "green paint")
    centers = 8 * np.eye(3, 16)
    array = np.concatenate([center + 0.3 * chance.normal(size=(40, 16)) for center in centers]).astype(np.float32)
    ids = tuple(f"d{number}" for number in range(120))
    texts = {key: f"the {topics[number // 40]} again" for number, key in enumerate(ids)}
    vectors = Vectors(("q",), ids, array[:1], array)
    found = clusters(vectors, texts)
    named = [{found[key] for key in ids[start : start + 40] if key in found} for start in (0, 40, 80)]
    assert [len(each) for each in named] == [1, 1, 1]
    for names, topic in zip(named, topics, strict=True):
        assert set(topic.split()) <= set(next(iter(names)).split(", "))
    near = density(vectors)
    assert len(near) == 121
    assert 0.9 < min(near.values()) <= max(near.values()) < 1


def test_points_inside_by_hand(view: MapView) -> None:
    table = view.table.head(4).copy()
    table["x_after"], table["y_after"] = [0.5, 1.5, 0.9, 0.5], [0.5, 0.5, 0.9, 1.5]
    small = MapView(table, (), {}, {}, ("after",), {}, {}, 4)
    triangle = ((0.0, 0.0), (1.2, 0.0), (0.0, 1.2))
    inner = ((0.0, 0.0), (0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7), (0.3, 0.3))
    ring = ((0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0), *inner)  # a square with a square hole
    assert small.inside("after", triangle) == [0]
    assert small.inside("after", ring) == [1, 2, 3]


def test_an_area_becomes_a_word_and_back() -> None:
    area = ((0.0, 1.0), (2.0, -1.0), (1e-3, 4.0))
    assert maps.parse_area(maps.area_text("before", area)) == ("before", area)


def unpacked(text: str, kind: Any) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_canvas_gets_the_places_of_the_map_and_every_point_in_one_layer(view: MapView) -> None:
    drawn = view.canvas("outcome", titles={"before": "B", "after": "A"}, rows=[3, 300], lines=[(200, 20)])
    for stage in drawn["stages"]:
        assert unpacked(stage["y"], "f4") == pytest.approx(view.table[f"y_{stage['name']}"].to_numpy(), abs=1e-5)
        assert stage["ranges"] == view.ranges()
    names = [layer["name"] for layer in drawn["layers"]]
    counted = [int(re.findall(r"[(]([\d,]+)[)]$", name)[0].replace(",", "")) for name in names]
    group = unpacked(drawn["group"], "u1")
    assert [int((group == number).sum()) for number in range(len(names))] == counted
    assert np.flatnonzero(np.unpackbits(unpacked(drawn["marked"], "u1"))).tolist() == [3, 300]
    assert (drawn["lines"], drawn["together"], drawn["scale"]) == ([200, 20], True, None)


def test_numbers_on_the_canvas_are_shades_between_their_ends(view: MapView) -> None:
    drawn = view.canvas("length (words)", titles={"before": "B", "after": "A"}, dark=True)
    lengths = view.table["length (words)"]
    assert (drawn["scale"]["low"], drawn["scale"]["high"]) == (f"{lengths.min():.4g}", f"{lengths.max():.4g}")
    group = unpacked(drawn["group"], "u1")
    ends = [drawn["layers"][group[row]]["color"] for row in (int(lengths.idxmin()), int(lengths.idxmax()))]
    assert [len(set(ends)), *(colour[0] for colour in ends)] == [2, "#", "#"]


@pytest.mark.parametrize(
    "text", ["", "after", "after:", "never:0,0;1,0;1,1", "after:0,0;1,1", "after:a,b;c,d;e,f", "../.."]
)
def test_a_word_that_is_no_area_is_none(text: str) -> None:
    assert maps.parse_area(text) is None


def test_a_point_is_found_by_its_name_only(view: MapView) -> None:
    row = view.rows["query", "q5"]
    assert view.row_of(view.point_name(row)) == row
    assert [view.row_of(name) for name in ("", "query:nobody", "../../etc", "document")] == [None] * 4


def test_neighbors_are_those_of_all_cosines() -> None:
    chance = np.random.default_rng(1)
    queries, documents = chance.normal(size=(4, 8)), chance.normal(size=(30, 8)) * 3
    vectors = Vectors(tuple("abcd"), tuple(f"d{n}" for n in range(30)), queries, documents)
    cosines = (documents @ queries[2]) / (np.linalg.norm(documents, axis=1) * np.linalg.norm(queries[2]))
    expected = [(f"d{n}", pytest.approx(cosines[n])) for n in np.argsort(-cosines)[:5]]
    assert maps.neighbors(vectors, "query", ["c", "nobody"], 5) == {"c": expected}
    own = maps.neighbors(vectors, "document", ["d3"], 30)["d3"]
    assert (len(own), "d3" in [key for key, _ in own]) == (29, False)


def test_lines_are_those_of_the_rows_and_of_the_opened_one(view: MapView) -> None:
    q, d = (lambda n: view.rows["query", f"q{n}"]), (lambda n: view.rows["document", f"d{n}"])
    assert view.answer_lines([q(3), q(4), d(9)], None, 9) == [(q(3), d(3)), (q(4), d(4))]
    assert view.answer_lines(None, d(7), 0) == [(q(7), d(7))]
    assert len(view.answer_lines(None, None, 5)) == 5


def test_a_map_older_than_its_vectors_is_none(tmp_path: Path) -> None:
    made = mapped_run(tmp_path, queries=20)
    assert maps.stored_maps(made, "finetune") == (("pca", True),)
    newer = (made.path / "maps" / "finetune-pca-together.parquet").stat().st_mtime + 5
    os.utime(made.path / "vectors" / "finetune-after.safetensors", (newer, newer))
    assert maps.map_view(made, "finetune", "pca") is None
