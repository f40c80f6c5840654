"""What became of each query, on eight queries that were made up so that every kind and every group is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests.synthetic_run import HOSTILE, made_item_run, made_run
from workbench.errors import RunError
from workbench.run import Run, write_json, write_parquet
from workbench.views.rank_changes import (
    GROUPS,
    KINDS,
    counts,
    failure_groups,
    failures,
    movements,
    nearest,
    word_differences,
    words,
)

QUERIES: dict[str, tuple[str, int | None, int | None, str]] = {
    # query: (text, rank before, rank after, kind with k = 2)
    "up": ("wide boot", 5, 3, "moved up"),
    "down": ("narrow road", 1, 2, "moved down"),
    "same": ("red paint", 1, 1, "unchanged"),
    "lost": ("blue paint", 2, 3, "lost"),
    "gone": ("green paint", 1, None, "lost"),
    "gained": ("quick car", None, 2, "gained"),
    "risen": ("slow car", None, 4, "moved up"),
    "never": ("old car", None, None, "never found"),
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
def run(tmp_path: Path) -> Run:
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
        ranks = [(first, last)[place] for _, first, last, _ in QUERIES.values()]
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


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_every_query_is_of_one_kind(run: Run) -> None:
    """The tables of the two moments lie in opposite order."""
    found = movements(run, "small", k=2)
    assert dict(zip(found["query_id"], found["moved"], strict=True)) == {
        query: kind for query, (_, _, _, kind) in QUERIES.items()
    }
    assert [None if pd.isna(each) else each for each in found["places"]] == [2, -1, 0, -1, None, None, None, None]
    assert [None if pd.isna(each) else each for each in found["rank_before"]] == [5, 1, 1, 2, 1, None, None, None]
    assert counts(found) == {
        "gained": 1, "moved up": 2, "unchanged": 1, "moved down": 1, "lost": 2, "never found": 1
    }  # fmt: skip
    assert sum(counts(found).values()) == len(found)
    assert list(counts(found)) == list(KINDS)


def test_another_k_draws_the_line_elsewhere(run: Run) -> None:
    found = counts(movements(run, "small", k=4))
    assert (found["gained"], found["lost"]) == (3, 1)  # up 5 to 3, gained, risen; gone


def test_moments_can_be_chosen(run: Run) -> None:
    found = movements(run, "small", moments=("after", "before"), k=2)
    assert found.set_index("query_id").loc["gained", "moved"] == "lost"


def test_what_is_no_search_or_not_there(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        movements(run, "small", moments=("before", "step-3"))
    assert str(caught.value) == (
        f"expected an evaluation 'small' at 'step-3' in run {run.name!r}, found finetune (before, step-360, after), "
        "small (before, after)."
    )
    items = made_item_run(tmp_path / "items")
    for function in (movements, nearest, word_differences, failures):
        with pytest.raises(RunError) as caught:
            function(items, "sts")
        assert str(caught.value) == (
            f"expected a search in 'sts' of run {items.name!r}, found pairs that were measured one by one; they have "
            "scores and no ranks."
        )


def test_tables_of_other_queries(run: Run) -> None:
    path = run.path / "evaluations/small/before.parquet"
    pd.read_parquet(path)[:5].to_parquet(path)
    with pytest.raises(RunError) as caught:
        movements(run, "small")
    assert str(caught.value) == (
        f"expected the same queries before and after in 'small' of run {run.name!r}, found 5 and 8, 5 of them shared; "
        "evaluate again."
    )


# --- documents and words ---------------------------------------------------------------------------------------------


def test_nearest_documents_come_with_their_text(run: Run) -> None:
    found = nearest(run, "small", query_ids=["up"], top=2)
    assert found[["moment", "position", "document_id", "relevant"]].to_numpy().tolist() == [
        ["before", 1, "near", False],
        ["before", 2, "x1", False],
        ["after", 1, "near", False],
        ["after", 2, "x1", False],
    ]
    assert found["document"][0] == DOCUMENTS["near"]
    assert len(nearest(run, "small", top=1)) == 2 * len(QUERIES)


def test_the_words_by_which_the_first_documents_differ(run: Run) -> None:
    """Before training "narrow road" found its answer; after it a text about a narrow road would not be first."""
    found = word_differences(run, "small").set_index("query_id")
    assert found.loc["same", "same"]
    assert found.loc["same", "only_before"] == ()
    down = found.loc["down"]
    assert (down["before"], down["after"]) == ("g-down", "x1")
    assert (down["only_before"], down["only_after"]) == (("answer", "down"), ("something", "about", "tyres"))
    up = found.loc["up"]
    assert (up["shared_before"], up["shared_after"]) == (("wide", "boot"), ("wide", "boot"))
    assert word_differences(run, "small", query_ids=["gone"])["query_id"].tolist() == ["gone"]
    assert list(word_differences(run, "small", query_ids=[])) == list(found.reset_index())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Was kostet's? Äpfel & ÄPFEL!", ["was", "kostet", "s", "äpfel"]),
        ("한국어 법률", ["한국어", "법률"]),
        ("ශ්‍රී ලංකා", ["ශ්‍රී", "ලංකා"]),
        ("東京A駅", ["東", "京", "a", "駅"]),
        ("", []),
        ("--- !", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


# --- failures --------------------------------------------------------------------------------------------------------


def by_blanks(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """A tokenizer of words that does not know the colour green."""
    split = [text.split() for text in texts]
    return [len(row) for row in split], [sum(word.lower() == "green" for word in row) for row in split]


def test_failures_are_grouped_by_what_may_be_the_reason(run: Run) -> None:
    found = failures(run, "small", token_counts=by_blanks, max_seq_length=20).set_index("query_id")
    assert list(found.index) == [query for query in QUERIES if query != "same"]
    groups = {query: [group for group in GROUPS if row[group]] for query, row in found.iterrows()}
    assert groups == {
        "up": ["near duplicate"],
        "down": ["none of these"],
        "lost": ["none of these"],
        "gone": ["not found", "unknown tokens"],
        "gained": ["none of these"],
        "risen": ["none of these"],
        "never": ["not found", "truncated"],
    }
    assert found.loc["up", "duplicate"] == "near"
    assert found.loc["never", "tokens"] == 40
    assert found.loc["gone", "unknown_share"] == pytest.approx(2 / 6)
    table = failure_groups(found).set_index("group")
    assert table["queries"].tolist() == [2, 1, 1, 1, 4]
    assert table.loc["not found", "share"] == pytest.approx(2 / 7)


def test_without_a_tokenizer_nothing_is_said_of_tokens(run: Run) -> None:
    found = failures(run, "small")
    assert found[["tokens", "unknown_share", "truncated", "unknown tokens"]].isna().all(axis=None)
    table = failure_groups(found)
    assert table["queries"].isna().tolist() == table["share"].isna().tolist() == [False, False, True, True, False]
    assert table["queries"][0] == 2


def test_the_length_that_a_model_reads_is_what_was_stored_else_the_recipe_s(run: Run) -> None:
    """The recipe says 512; "never" has a relevant document of 40 words."""
    assert not failures(run, "small", token_counts=by_blanks)["truncated"].any()
    write_json(run.path / "evaluations/small/after.json", {"metrics": {}, "settings": {"max_seq_length": 30}})
    assert failures(run, "small", token_counts=by_blanks)["truncated"].sum() == 1
    assert failures(run, "small", token_counts=by_blanks, max_seq_length=2)["truncated"].all()


def test_a_rank_beyond_100_is_not_found(run: Run) -> None:
    path = run.path / "evaluations/small/after.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "rank"] = 101
    table.to_parquet(path)
    found = failures(run, "small").set_index("query_id")
    assert found.loc["up", "not found"]
    assert failures(run, "small", k=200)["query_id"].tolist() == ["gone", "never"]


def test_a_run_without_failures(run: Run) -> None:
    path = run.path / "evaluations/small/after.parquet"
    pd.read_parquet(path).assign(rank=1).to_parquet(path)
    found = failures(run, "small", token_counts=by_blanks)
    assert len(found) == 0
    assert failure_groups(found)["queries"].tolist() == [0, 0, 0, 0, 0]


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    run = made_run(tmp_path, queries=20, steps=1, hostile=True, verdict=None)
    assert HOSTILE in movements(run, "finetune")["query"][2]
    assert "script" in words(HOSTILE)
    assert len(word_differences(run, "finetune")) == 20
    failures(run, "finetune")
