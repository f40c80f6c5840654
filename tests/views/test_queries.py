"""Queries of an evaluation: outcomes, filters, rankings, failures, two runs, downloads."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic_run import HOSTILE, KOREAN, SINHALA, made_item_run, made_run

from workbench.errors import RunError
from workbench.evaluation.examples import unit
from workbench.report.export import report_page
from workbench.run import Run, write_json, write_parquet
from workbench.views.failures import failure_causes, near_duplicates, query_causes
from workbench.views.queries import (
    FILTERS,
    annotate,
    compared_evaluations,
    document_texts,
    download,
    filter_queries,
    filters,
    group_names,
    open_queries,
    pair_queries,
    queries_csv,
    queries_view,
    query_metrics,
    query_outcomes,
    query_table,
)
from workbench.views.records import OUTCOMES, QueryOutcome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        (12, 3, "found"), (None, 10, "found"), (5, 3, "better"), (None, 40, "better"), (40, 11, "better"),
        (1, 1, "unchanged"), (None, None, "unchanged"), (1, 2, "worse"), (40, None, "worse"),
        (2, 11, "lost"), (10, None, "lost"),
    ],
)  # fmt: skip
def test_an_outcome_goes_by_the_rank_of_the_first_relevant_document(
    before: int | None, after: int | None, outcome: str
) -> None:
    assert QueryOutcome("q", before, after, before=1.0, after=0.0).outcome == outcome
    assert outcome in OUTCOMES


@pytest.mark.parametrize(
    ("before", "after", "outcome"), [(0.2, 0.5, "better"), (0.5, 0.5, "unchanged"), (1, 0, "worse")]
)
def test_an_outcome_of_an_example_goes_by_its_difference(before: float, after: float, outcome: str) -> None:
    assert QueryOutcome("pair", None, None, before, after, ranked=False).outcome == outcome


def small_run(folder: Path) -> Run:
    """Four queries: one gained, one lost from the top 10, one never found, one unchanged."""
    evaluation = folder / "evaluations" / "test"
    ids = ["a", "b", "c", "d"]
    write_json(folder / "run.json", {"status": "finished"})
    write_parquet(
        evaluation / "queries.parquet",
        pd.DataFrame(
            {"query_id": ids, "query": ["Red car", "Blue car", "Red boat", HOSTILE], "relevant": [[i] for i in ids]}
        ),
    )
    documents = pd.DataFrame({"document_id": [*ids, "x"], "document": ["one", "two", "three", "four", "other"]})
    write_parquet(evaluation / "documents.parquet", documents)
    for moment, ranks, values in (
        ("before", [5, 3, None, 1], [0.5, 0.6, 0.0, 1.0]),
        ("after", [1, 40, None, 1], [1.0, 0.0, 0.0, 1.0]),
    ):
        table = pd.DataFrame(
            {
                "query_id": ids,
                "rank": pd.array(ranks, dtype="Int64"),
                "ranks": [[]] * 4,
                "ndcg@10": values,
                "mrr@10": values,
            }
        )
        write_parquet(evaluation / f"{moment}.parquet", table)
        hits = pd.DataFrame(
            {
                "query_id": ["a", "a", "b"],
                "position": [2, 1, 1],
                "document_id": ["x", "a", "b"],
                "score": [0.1, 0.9, 0.8],
                "relevant": [False, True, True],
            }
        )
        write_parquet(evaluation / f"{moment}-hits.parquet", hits)
        write_json(evaluation / f"{moment}.json", {"metrics": {"cosine_ndcg@10": sum(values) / 4}})
    return Run(folder)


def test_queries_come_with_the_largest_loss_first(tmp_path: Path) -> None:
    table = query_table(small_run(tmp_path), "test")
    assert list(table["query_id"]) == ["b", "c", "d", "a"]
    assert table["difference"].tolist() == pytest.approx([-0.6, 0.0, 0.0, 0.5])
    assert table["rank_after"].tolist() == [40, pd.NA, 1, 1]
    assert table["outcome"].tolist() == ["lost", "unchanged", "unchanged", "better"]
    assert table[["words", "answers"]].to_numpy().tolist()[:2] == [[2, 1], [2, 1]]
    assert query_metrics(small_run(tmp_path), "test") == ("ndcg@10", "mrr@10")


@pytest.mark.parametrize(
    ("outcome", "search", "expected"),
    [
        ("all", "", ["b", "c", "d", "a"]),
        ("lost", "", ["b"]),
        ("worse", "", []),
        ("unchanged", "", ["c", "d"]),
        ("better", "", ["a"]),
        ("found", "", []),
        ("all", "red CAR", ["a"]),
        ("all", ".*", []),
    ],
)
def test_filters(tmp_path: Path, outcome: str, search: str, expected: list[str]) -> None:
    table = query_table(small_run(tmp_path), "test")
    assert filters(table) == FILTERS
    assert list(filter_queries(table, outcome, search)["query_id"]) == expected


def test_causes_tags_and_notes_are_filters_and_in_the_csv(tmp_path: Path) -> None:
    causes = {"b": ("not found", "truncated"), "c": ("not found",)}
    notes = {"b": {"tags": ["look", "data"], "note": "wrong answer"}, "d": {"tags": ["look"]}}
    table = annotate(query_table(small_run(tmp_path), "test"), causes, notes)
    kept = {
        (cause, tag): list(filter_queries(table, cause=cause, tag=tag)["query_id"])
        for cause in ("any", "not found", "truncated") for tag in ("any", "look")
    }  # fmt: skip
    assert kept["any", "any"] == ["b", "c", "d", "a"]
    assert (kept["not found", "any"], kept["any", "look"], kept["truncated", "look"]) == (["b", "c"], ["b", "d"], ["b"])
    rows = pd.read_csv(io.StringIO(queries_csv(table)), keep_default_na=False).set_index("query_id")
    assert rows.loc["b", ["causes", "tags", "note"]].tolist() == ["not found; truncated", "look; data", "wrong answer"]
    assert rows.loc["a", ["before", "after", "difference", "causes", "note"]].tolist() == [0.5, 1.0, 0.5, "", ""]


def test_a_ranking_comes_in_order_with_the_relevant_documents(tmp_path: Path) -> None:
    found = open_queries(small_run(tmp_path), "test", ["a", "b", "nobody"])
    assert [(hit.position, hit.relevant, hit.document) for hit in found["a"].after] == [
        (1, True, "one"),
        (2, False, "other"),
    ]
    assert found["b"].texts == (("b", "two"),)
    assert [hit.note for hit in found["a"].after] == ["was 1, score +0.0000", "was 2, score +0.0000"]
    assert list(found) == ["a", "b"]


def test_a_ranking_read_alone_is_that_of_the_whole_file(run: Run, tmp_path: Path) -> None:
    hits = run.hits("finetune", "after")
    expected = hits[hits["query_id"] == "q3"].sort_values("position").head(10)
    found = open_queries(run, "finetune", ["q3"])["q3"].after
    for column in ("position", "relevant", "score", "document_id", "document"):
        assert [getattr(hit, column) for hit in found] == expected[column].tolist()
    assert document_texts(run, "finetune", ["d3", "nobody"]) == {"d3": "The boot of model 3 holds 303 litres."}
    less = Run(Path(shutil.copytree(run.path, tmp_path / run.name)))
    places = hits[hits["query_id"] == "q3"].set_index("document_id")["position"]
    old = run.hits("finetune", "before").query("query_id == 'q3'").set_index("document_id")
    for hit in open_queries(run, "finetune", ["q3"])["q3"].after:
        there = hit.document_id in old.index
        score = round(hit.score - old["score"].get(hit.document_id, 0), 4)
        said = f"was {old['position'].get(hit.document_id)}, score {score:+.4f}".replace("-", "−")
        assert hit.note == (said if there else f"was > {len(old)}")
    assert {len(places), len(old)} == {len(places)}
    less.file("hits", "finetune", "after").unlink()
    opened = open_queries(less, "finetune", ["q3"])["q3"]
    assert (opened.after, len(opened.before)) == ((), 10)
    assert {hit.note for hit in opened.before} == {""}


def test_examples_are_rows_too(tmp_path: Path) -> None:
    """Pairs have texts, agreement before and after, and gold; no ranks, so they are never found or lost."""
    run = made_item_run(tmp_path)
    assert (compared_evaluations(run), unit(run, "sts")) == (("sts",), "pairs")
    assert query_metrics(run, "sts") == ("spearman_cosine", "pearson_cosine")
    table = query_table(run, "sts", "spearman_cosine")
    assert table["query"].iloc[0] == f"{SINHALA} | Model 1 carries 301 litres."
    assert table["query"].iloc[-1].startswith(KOREAN)
    assert table[["gold", "score_before", "score_after"]].iloc[-1].tolist() == [1.0, -1.0, 2.0]
    assert table["rank_before"].isna().all()
    counts = {name: len(filter_queries(table, name)) for name in filters(table)}
    assert list(counts) == ["all", "worse", "unchanged", "better"]
    assert counts["all"] == 60 == sum(counts.values()) - 60
    assert counts["better"] > counts["worse"] > 0
    assert list(filter_queries(table, search="CARRIES 301")["query_id"]) == ["i001"]
    outcomes = query_outcomes(table)
    assert (len(outcomes), outcomes[-1].gold, outcomes[-1].ranked) == (60, 1.0, False)
    opened = open_queries(run, "sts", ["i000"])["i000"]
    assert opened.texts == (("sentence1", KOREAN), ("sentence2", "Model 0 carries 300 litres."))
    assert group_names(run, "sts") == ()


def test_what_queries_can_be_grouped_by(run: Run) -> None:
    assert group_names(run, "finetune") == ("query length", "relevant documents")


# --- failures ---


QUERIES: dict[str, tuple[str, int | None, int | None]] = {
    # query: (text, rank before, rank after)
    "up": ("wide boot", 5, 3),
    "down": ("narrow road", 1, 2),
    "same": ("red paint", 1, 1),
    "lost": ("blue paint", 2, 3),
    "gone": ("green paint", 1, None),
    "gained": ("quick car", None, 2),
    "risen": ("slow car", None, 4),
    "never": ("old car", None, None),
}
DOCUMENTS = {
    "g-up": "The boot is wide and deep and holds five cases of water",
    "near": "The boot is wide and deep and holds five cases of wine",  # 10 of 12 words
    "g-gone": "Green paint costs more",
    "g-never": "word " * 40,
    "x1": "Something about tyres",
    "x2": "Something about wheels",
    "x3": "Something about a narrow road",
}


def ranking(query: str, rank: int | None) -> list[str]:
    """Four documents, the query's own one at its rank."""
    others = ["near", "x1", "x2", "x3"] if query == "up" else ["x1", "x2", "x3", "near"]
    if rank is not None:
        others.insert(rank - 1, f"g-{query}")
    return others[:4]


@pytest.fixture
def failing(tmp_path: Path) -> Run:
    made = made_run(tmp_path, queries=14, steps=1, verdict=None)
    folder = made.path / "evaluations" / "small"
    texts = {**{f"g-{query}": f"answer to {query}" for query in QUERIES}, **DOCUMENTS}
    write_parquet(
        folder / "queries.parquet",
        pd.DataFrame(
            {
                "query_id": list(QUERIES),
                "query": [text for text, *_ in QUERIES.values()],
                "relevant": [[f"g-{query}"] for query in QUERIES],
            }
        ),
    )
    write_parquet(
        folder / "documents.parquet", pd.DataFrame({"document_id": list(texts), "document": list(texts.values())})
    )
    for place, moment in enumerate(("before", "after")):
        ranks = [(first, last)[place] for _, first, last in QUERIES.values()]
        table = pd.DataFrame({"query_id": list(QUERIES), "rank": pd.array(ranks, dtype="Int64")})
        write_parquet(folder / f"{moment}.parquet", table[::-1] if moment == "before" else table)
        hits = [
            {"query_id": query, "position": at, "document_id": key, "score": 1 - at / 10, "relevant": key[:2] == "g-"}
            for query, rank in zip(QUERIES, ranks, strict=True)
            for at, key in enumerate(ranking(query, rank), start=1)
        ]
        write_parquet(folder / f"{moment}-hits.parquet", pd.DataFrame(hits))
        write_json(folder / f"{moment}.json", {"metrics": {}, "settings": {}})
    return made


def test_failures_have_causes(failing: Run) -> None:
    """With k = 1 all queries but "same" fail; "gone" and "never" have no rank, "up" has a near duplicate above."""
    assert query_causes(failing, "small") == {"gone": ("not found",), "never": ("not found",)}
    causes = failure_causes(failing, "small", k=1)
    assert [(cause.name, cause.queries) for cause in causes] == [
        ("not found", 2),
        ("near duplicate", 1),
        ("none of these", 4),
    ]
    assert causes[0].share == pytest.approx(2 / 7)
    table = failing.per_query("small", "after")
    duplicates = near_duplicates(failing, "small", table)
    assert dict(zip(table["query_id"], duplicates, strict=True))["up"] == "near"
    assert sum(each is not None for each in duplicates) == 1


def test_causes_by_tokens_and_by_the_answer_of_another_query(failing: Run) -> None:
    """A tokenizer of five words that reads six tokens: of "g-never" it reads too little, of "old car" no word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"[UNK]": 0, "word": 1, "green": 2, "paint": 3, "Green": 4}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    failing.file("model").mkdir(exist_ok=True)
    made.save(str(failing.file("model") / "tokenizer.json"))
    write_json(failing.file("model") / "tokenizer_config.json", {"model_max_length": 6})
    path = failing.file("queries", "small")
    table = pd.read_parquet(path)
    table.loc[table["query_id"] == "same", "relevant"] = pd.Series([["g-same", "x1"]], index=[2])
    table.loc[table["query_id"] == "never", "query"] = "word"
    table.to_parquet(path)
    found = query_causes(failing, "small")
    assert found["never"] == ("not found", "answer of another query", "truncated")
    assert found["gone"] == ("not found", "answer of another query", "unknown tokens")


def test_a_rank_beyond_100_is_not_found(failing: Run) -> None:
    path = failing.file("values", "small", "after")
    pd.read_parquet(path).assign(rank=[101] + [1] * 7).to_parquet(path)
    assert [cause.queries for cause in failure_causes(failing, "small")] == [1, 1]
    pd.read_parquet(path).assign(rank=1).to_parquet(path)
    assert failure_causes(failing, "small") == ()


def test_the_view_of_a_report_counts_the_top_10(run: Run) -> None:
    view = queries_view(run, "finetune", "cosine_ndcg@10")
    assert view is not None
    assert view.top_ten is not None
    ranks = [run.per_query("finetune", stage)["rank"].fillna(1000) <= 10 for stage in ("before", "after")]
    assert view.top_ten.found == int((~ranks[0] & ranks[1]).sum())
    assert view.top_ten.failed == int((~ranks[1]).sum())
    outcomes = [each.outcome for each in view.outcomes]
    assert (outcomes.count("found"), outcomes.count("lost")) == (view.top_ten.found, view.top_ten.lost)
    assert view.gained[0][0].difference == max(each.difference for each in view.outcomes)
    assert view.lost[0][0].difference == min(each.difference for each in view.outcomes)


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    run = made_run(tmp_path, queries=20, steps=1, hostile=True, verdict=None)
    assert any("<script>" in text for text in query_table(run, "finetune")["query"])
    assert not any("\u202e" in text for text in query_table(run, "finetune")["query"])
    failure_causes(run, "finetune")


# --- two runs, downloads ---


def test_two_runs_query_by_query(tmp_path: Path) -> None:
    first, other = made_run(tmp_path), made_run(tmp_path)
    path = other.path / "evaluations" / "finetune" / "after.parquet"
    table = pd.read_parquet(path)
    table.loc[table["query_id"] == "q9", "ndcg@10"] = 0.0
    table.to_parquet(path, index=False)
    found = pair_queries(first, other, "finetune")
    assert (len(found), found.loc[0, "query_id"], found.loc[0, "second"]) == (180, "q9", 0.0)
    assert found["difference"].abs().is_monotonic_decreasing
    with pytest.raises(RunError, match="expected 'nothing' for each query"):
        pair_queries(first, other, "finetune", "nothing")


def test_runs_that_asked_other_queries_have_none_in_common(tmp_path: Path, run: Run) -> None:
    other = made_run(tmp_path, queries=40)
    both = pair_queries(run, other, "finetune")
    assert len(both) == 40
    path = other.path / "evaluations" / "finetune" / "queries.parquet"
    table = pd.read_parquet(path)
    table["query"] = [f"another question {number}" for number in range(len(table))]
    table.to_parquet(path, index=False)
    assert pair_queries(run, other, "finetune").empty


def test_downloads_change_nothing_in_the_run(run: Run) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
    assert len(download(run, "finetune", "after", "csv").decode().splitlines()) == 181
    assert download(run, "finetune", "after", "parquet")[:4] == b"PAR1"
    assert download(run, "finetune", "after", "trec").decode().split()[:2] == ["q0", "Q0"]
    assert download(run, "finetune", "after", "qrels").decode().splitlines()[5] == "q5 0 d5 1"
    assert report_page(run).lstrip().lower().startswith(b"<!doctype html>")
    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before
