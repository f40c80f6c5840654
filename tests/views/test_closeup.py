"""Close looks at a run: its log as it grows, its map, neighbours, rankings of one query, two runs, downloads."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from large_run import long_log, mapped_run
from synthetic_run import made_run

from workbench.errors import RunError
from workbench.evaluation.projection import Vectors
from workbench.report.export import report_page
from workbench.run import Run, RunWriter
from workbench.views import map_view, theme
from workbench.views.closeup import (  # fmt: skip
    LogTail,
    answer,
    checkpoints,
    document_texts,
    download,
    encoder_of,
    groupings,
    logged,
    opened,
    paired,
    shared_words,
    sizes,
    train_rows,
)
from workbench.views.figures_map import MapPoints, embedding_map, picture, query_scatter
from workbench.views.loss_curves import LogColumns
from workbench.views.map_view import Scene


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = mapped_run(tmp_path_factory.mktemp("runs"), topics=False)
    long_log(made, 120)
    return made


@pytest.fixture(scope="module")
def seen(run: Run) -> Scene:
    found = map_view.scene(run, "finetune", "pca")
    assert found is not None
    return found


# --- log ---


def test_a_log_is_followed_and_agrees_with_the_run(run: Run) -> None:
    assert LogTail(run.path / "log.jsonl").rows() == run.log()


def test_a_half_line_waits_a_replaced_log_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    assert tail.rows() == []
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert tail.rows() == [{"step": 1, "loss": 2.0}]
    with path.open("a") as file:
        file.write('ss": 1.0}\nnonsense\n{"step": 1, "eval_loss": 0.5}\n')
    assert tail.rows() == [{"step": 1, "loss": 2.0, "eval_loss": 0.5}, {"step": 2, "loss": 1.0}]
    other = tmp_path / "other"
    other.write_text('{"step": 7}\n')
    os.replace(other, path)
    assert tail.rows() == [{"step": 7}]
    path.unlink()
    assert tail.rows() == []


def test_what_a_log_holds(run: Run) -> None:
    usual = {"loss", "learning_rate", "grad_norm", "rows_per_second"}
    assert set(logged(LogColumns.of(run.log()))) == {*usual, "components/dim_512", "components/dim_256"}
    assert checkpoints(run) == (20, 40, 60, 80, 100, 120)
    assert train_rows(run) == 1437


def test_rows_of_several_datasets_are_added(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    RunWriter(made.path).update(data={"rows": {"train": 10}, "more": {"b": {"rows": 5}, "c": {"rows": {"train": 2}}}})
    assert train_rows(made) == 17


# --- map ---


def test_every_text_is_once_in_the_scene_queries_after_documents(run: Run, seen: Scene) -> None:
    assert list(seen.table["kind"]) == ["document"] * 180 + ["query"] * 180
    points = pd.read_parquet(run.path / "maps" / "finetune-pca-together.parquet")
    mine = points[(points["moment"] == "after") & (points["kind"] == "query") & (points["id"] == "q7")].iloc[0]
    row = seen.rows["query", "q7"]
    assert (seen.table.at[row, "x_after"], seen.table.at[row, "y_after"]) == (mine["x"], mine["y"])
    assert seen.relevant[row] == (seen.rows["document", "d7"],)


def test_changes_of_rank_and_failures_are_those_of_the_files(run: Run, seen: Scene) -> None:
    ranks = [
        pd.read_parquet(run.path / "evaluations" / "finetune" / f"{moment}.parquet").set_index("query_id")["rank"]
        for moment in ("before", "after")
    ]
    for key in ranks[0].index:
        first, last = (None if pd.isna(rank[key]) else int(rank[key]) for rank in ranks)
        a, b = first or 10_000, last or 10_000
        change = "never found" if a == b == 10_000 else f"{'better' if b < a else 'worse' if b > a else 'same'} rank"
        failure = "in the top 10" if b <= 10 else "lost from top 10" if a <= 10 else "not in the top 10"
        row = seen.rows["query", key]
        assert (seen.table.at[row, "rank change"], seen.table.at[row, "failure"]) == (change, failure)


def test_points_inside_by_hand(seen: Scene) -> None:
    table = seen.table.head(4).copy()
    table["x_after"], table["y_after"] = [0.5, 1.5, 0.9, 0.5], [0.5, 0.5, 0.9, 1.5]
    small = Scene(table, (), {}, {}, ("after",), {}, {})
    triangle = ((0.0, 0.0), (1.2, 0.0), (0.0, 1.2))
    square = ((1.4, 0.4), (1.6, 0.4), (1.6, 0.6), (1.4, 0.6))
    assert map_view.inside(small, "after", [triangle]) == [0]
    assert map_view.inside(small, "after", [triangle, square]) == [0, 1]


def test_an_area_becomes_a_word_and_back() -> None:
    areas = (((0.0, 1.0), (2.0, 1.0), (2.0, 3.0)), ((0.5, 0.5), (1.0, -1.0), (1e-3, 4.0)))
    assert map_view.area_of(map_view.area_text("before", areas)) == ("before", areas)


def unpacked(text: str, kind: Any) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_canvas_gets_the_places_of_the_map_and_every_point_in_one_layer(seen: Scene) -> None:
    drawn = map_view.canvas(seen, "rank change", titles={"before": "B", "after": "A"}, rows=[3, 300], lines=[(200, 20)])
    for moment in drawn["moments"]:
        assert unpacked(moment["y"], "f4") == pytest.approx(seen.table[f"y_{moment['name']}"].to_numpy(), abs=1e-5)
        assert moment["ranges"] == map_view.ranges(seen)
    names = [layer["name"] for layer in drawn["layers"]]
    counted = [int(re.findall(r"[(]([\d,]+)[)]$", name)[0].replace(",", "")) for name in names]
    group = unpacked(drawn["group"], "u1")
    assert [int((group == number).sum()) for number in range(len(names))] == counted
    assert np.flatnonzero(np.unpackbits(unpacked(drawn["marked"], "u1"))).tolist() == [3, 300]
    assert (drawn["lines"], drawn["together"], drawn["scale"]) == ([200, 20], True, None)


def test_numbers_on_the_canvas_are_shades_between_their_ends(seen: Scene) -> None:
    drawn = map_view.canvas(seen, "length (words)", titles={"before": "B", "after": "A"}, dark=True)
    lengths = seen.table["length (words)"]
    assert (drawn["scale"]["low"], drawn["scale"]["high"]) == (f"{lengths.min():.4g}", f"{lengths.max():.4g}")
    group = unpacked(drawn["group"], "u1")
    ends = [drawn["layers"][group[row]]["color"] for row in (int(lengths.idxmin()), int(lengths.idxmax()))]
    assert [len(set(ends)), *(colour[0] for colour in ends)] == [2, "#", "#"]


def test_the_smaller_ones_of_very_many_groups_share_a_look() -> None:
    names = [f"g{number}" for number in range(100) for _ in range(2 if number < 24 else 1)]
    found = picture(points(len(names), groups=names), np.arange(len(names)), name="PCA").layers
    assert len({layer.name.split(" ")[0] for layer in found}) == 24 + 2  # documents, queries
    assert sorted(place for layer in found for place in layer.places) == list(range(len(names)))


@pytest.mark.parametrize(
    "text", ["", "after", "after:", "never:0,0;1,0;1,1", "after:0,0;1,1", "after:a,b;c,d;e,f", "../.."]
)
def test_a_word_that_is_no_area_is_none(text: str) -> None:
    assert map_view.area_of(text) is None


def test_a_point_is_found_by_its_name_only(seen: Scene) -> None:
    row = seen.rows["query", "q5"]
    assert map_view.row_of(seen, map_view.point_name(seen, row)) == row
    assert [map_view.row_of(seen, name) for name in ("", "query:nobody", "../../etc", "document")] == [None] * 4


def test_neighbours_are_those_of_all_cosines() -> None:
    chance = np.random.default_rng(1)
    queries, documents = chance.normal(size=(4, 8)), chance.normal(size=(30, 8)) * 3
    vectors = Vectors(tuple("abcd"), tuple(f"d{n}" for n in range(30)), queries, documents)
    cosines = (documents @ queries[2]) / (np.linalg.norm(documents, axis=1) * np.linalg.norm(queries[2]))
    expected = [(f"d{n}", pytest.approx(cosines[n])) for n in np.argsort(-cosines)[:5]]
    assert map_view.neighbours(vectors, "query", ["c", "nobody"], 5) == {"c": expected}
    own = map_view.neighbours(vectors, "document", ["d3"], 30)["d3"]
    assert (len(own), "d3" in [key for key, _ in own]) == (29, False)


def test_lines_are_those_of_the_rows_and_of_the_opened_one(seen: Scene) -> None:
    q, d = (lambda n: seen.rows["query", f"q{n}"]), (lambda n: seen.rows["document", f"d{n}"])
    assert map_view.answer_lines(seen, [q(3), q(4), d(9)], None, 9) == [(q(3), d(3)), (q(4), d(4))]
    assert map_view.answer_lines(seen, None, d(7), 0) == [(q(7), d(7))]
    assert len(map_view.answer_lines(seen, None, None, 5)) == 5


def test_a_map_older_than_its_vectors_is_none(tmp_path: Path) -> None:
    made = mapped_run(tmp_path, queries=20)
    assert map_view.maps(made, "finetune") == (("pca", True),)
    newer = (made.path / "maps" / "finetune-pca-together.parquet").stat().st_mtime + 5
    os.utime(made.path / "vectors" / "finetune-after.safetensors", (newer, newer))
    assert map_view.scene(made, "finetune", "pca") is None


# --- figures of points ---


def points(count: int = 6, **more: Any) -> MapPoints:
    values = {"queries": [n % 2 == 1 for n in range(count)], "x": range(count), "y": range(count)}
    return MapPoints(**{**values, "groups": ["better" if n % 2 else "" for n in range(count)], **more})


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


def test_runs_that_asked_other_queries_have_none_in_common(tmp_path: Path, run: Run) -> None:
    other = made_run(tmp_path, queries=40)
    both = paired(run, other, "finetune")
    assert len(both) == 40
    path = other.path / "evaluations" / "finetune" / "queries.parquet"
    table = pd.read_parquet(path)
    table["query"] = [f"another question {number}" for number in range(len(table))]
    table.to_parquet(path, index=False)
    assert paired(run, other, "finetune").empty


def test_queries_of_two_runs_share_marks_and_are_counted() -> None:
    figure = query_scatter([0.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 0.2], list("abcd"), names=("one", "two"))
    assert [trace.name for trace in figure.data if trace.name] == ["two better (2)", "Same (1)", "one better (1)"]
    assert "0.000 → 1.000, 2 queries<br>a<br>b" in figure.data[1].text


# --- queries ---


def test_a_ranking_read_alone_is_that_of_the_whole_file(run: Run, tmp_path: Path) -> None:
    hits = run.hits("finetune", "after")
    expected = hits[hits["query_id"] == "q3"].sort_values("position").head(10)
    found = opened(run, "finetune", "q3").after
    for column in ("position", "relevant", "score", "document_id", "document"):
        assert found[column].tolist() == expected[column].tolist()
    assert document_texts(run, "finetune", ["d3", "nobody"]) == {"d3": "The boot of model 3 holds 303 litres."}
    less = Run(Path(shutil.copytree(run.path, tmp_path / run.name)))
    (less.path / "evaluations/finetune/after-hits.parquet").unlink()
    assert opened(less, "finetune", "q3").after.empty
    assert not opened(less, "finetune", "q3").before.empty


@pytest.mark.parametrize(
    ("query", "document", "shared"),
    [
        ("Which boot is wide?", "A wide, flat Boot!", ["wide", "Boot"]),
        ("주택임대차보호법 언제", "주택임대차보호법은 이렇다", ["주택임대차보호법은"]),
        ("ශ්‍රී ලංකාවේ අගනුවර", "අගනුවර කොළඹ", ["අගනුවර"]),
        ("the of it 42", "the 42 of it", ["42"]),
    ],
)
def test_shared_words(query: str, document: str, shared: list[str]) -> None:
    found = shared_words(query, document)
    assert "".join(text for text, _ in found) == document
    assert [text for text, same in found if same] == shared


def test_sizes_and_groups_of_queries(run: Run) -> None:
    table = sizes(run, "finetune").set_index("query_id")
    assert (table.loc["q5", "words"], table.loc["q5", "answers"]) == (14, 1)
    assert groupings(run, "finetune") == ("query length", "relevant documents")


def test_a_new_query_is_answered_from_the_kept_vectors(run: Run) -> None:
    vectors = Vectors(("q",), ("d0", "d1", "d2"), np.zeros((1, 2)), np.array([[1.0, 0], [0.6, 0.8], [0, 1]]))
    asked: list[tuple[list[str], str]] = []

    def encode(texts: list[str], kind: str) -> Any:
        asked.append((texts, kind))
        return np.array([[3.0, 0.0, 99.0]])  # one dimension more than was kept

    found = answer(run, "finetune", "after", encode, vectors, "Which boot?")
    assert asked == [(["Which boot?"], "query")]
    assert found["document_id"].tolist() == ["d0", "d1", "d2"]
    assert found["score"].tolist() == pytest.approx([1.0, 0.6, 0.0])


def test_a_base_that_is_not_kept_cannot_answer(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    RunWriter(made.path).update(base={"model": "scratch:small"})
    with pytest.raises(RunError) as caught:
        encoder_of(made, "before")
    assert str(caught.value) == (
        f"the base 'scratch:small' of run {made.name!r} was made from its training rows and is not kept."
    )


# --- two runs, downloads ---


def test_two_runs_query_by_query(tmp_path: Path) -> None:
    first, other = made_run(tmp_path), made_run(tmp_path)
    path = other.path / "evaluations" / "finetune" / "after.parquet"
    table = pd.read_parquet(path)
    table.loc[table["query_id"] == "q9", "ndcg@10"] = 0.0
    table.to_parquet(path, index=False)
    found = paired(first, other, "finetune")
    assert (len(found), found.loc[0, "query_id"], found.loc[0, "second"]) == (180, "q9", 0.0)
    assert found["difference"].abs().is_monotonic_decreasing
    with pytest.raises(RunError, match="expected 'nothing' for each query"):
        paired(first, other, "finetune", "nothing")


def test_downloads_change_nothing_in_the_run(run: Run) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
    assert len(download(run, "finetune", "after", "csv").decode().splitlines()) == 181
    assert download(run, "finetune", "after", "parquet")[:4] == b"PAR1"
    assert download(run, "finetune", "after", "trec").decode().split()[:2] == ["q0", "Q0"]
    assert download(run, "finetune", "after", "qrels").decode().splitlines()[5] == "q5 0 d5 1"
    assert report_page(run).lstrip().lower().startswith(b"<!doctype html>")
    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before
