"""Rank agreement, equal to repro_eval 0.5 (Breuer et al.); and rankings from a TREC run file."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from workbench.data.collection import Collection
from workbench.errors import DataError, RunError
from workbench.evaluation.compare import compare
from workbench.evaluation.comparison import Comparison
from workbench.evaluation.rankings import (
    RankAgreement,
    agreement_table,
    delta_relative_improvement,
    rank_agreement,
    rank_biased_overlap,
    rmse,
    tau_union,
)
from workbench.evaluation.retrieval import evaluate, save_evaluation
from workbench.evaluation.trec import export, read_trec_run
from workbench.evaluation.verdict import effect_ratio
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.recipe.yaml_io import save_recipe
from workbench.run import Run, write_json

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of a module that SciPy renamed
    from repro_eval.Evaluator import RpdEvaluator
    from repro_eval.measure.document_order import KTU, RBO
    from repro_eval.measure.effectiveness import RMSE
    from repro_eval.measure.overall_effects import DRI, ER
    from repro_eval.util import break_ties, evaluate_run, load_run

METRICS = [ir_measures.nDCG @ 10, ir_measures.RR @ 10, ir_measures.AP @ 100]
Rankings = dict[str, dict[str, float]]


def made(seed: int, lengths: tuple[int, int], documents: int = 40) -> Rankings:
    """Rankings of 12 queries with equal scores among them."""
    chance = random.Random(seed)
    found = {}
    for number in range(12):
        ids = chance.sample([f"d{each}" for each in range(documents)], chance.randint(*lengths))
        scores = sorted((chance.randint(0, 15) / 4 for _ in ids), reverse=True)
        found[f"q{number}"] = dict(zip(ids, scores, strict=True))
    return break_ties(found)


def judged(seed: int) -> dict[str, dict[str, int]]:
    """Graded judgments of them."""
    chance = random.Random(seed)
    return {f"q{query}": {f"d{each}": chance.randint(0, 3) for each in range(0, 40, 2)} for query in range(12)}


def ids(rankings: Rankings) -> dict[str, list[str]]:
    return {query: list(ranking) for query, ranking in rankings.items()}


# --- as repro_eval ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 10, 33, 40])
def test_tau_union_is_repro_eval_s(length: int) -> None:
    first, other = made(1, (length, length)), made(2, (length, length))
    expected = KTU(first, other, per_topic=True)
    assert len(set(expected.values())) > 1
    assert {query: tau_union(list(first[query]), list(other[query])) for query in first} == pytest.approx(
        expected, abs=1e-9
    )
    cut = KTU(first, other, trim_thresh=7, per_topic=True)
    for query, tau in cut.items():
        assert tau_union(list(first[query])[:7], list(other[query])[:7]) == pytest.approx(tau, abs=1e-9)


@pytest.mark.parametrize(("depth", "p"), [(1, 0.95), (10, 0.95), (60, 0.95), (1000, 0.8)])
def test_rank_biased_overlap_is_repro_eval_s(depth: int, p: float) -> None:
    first, other = made(3, (0, 40)), made(4, (1, 25))
    expected = RBO(first, other, p=p, depth=depth, pbar=False, per_topic=True)
    found = {query: rank_biased_overlap(list(first[query]), list(other[query]), depth, p) for query in first}
    assert found == pytest.approx(expected, abs=1e-9)
    assert len(set(expected.values())) > 1


def test_scores_and_effects_are_repro_eval_s() -> None:
    """On graded judgments; before and after on both sides."""
    qrels = judged(9)
    sides = [evaluate_run(METRICS, qrels, made(seed, (5, 40))) for seed in (5, 6, 7, 8)]
    before, after, before_again, after_again = sides
    for metric in map(str, METRICS):
        scores = [np.array([side[query][metric] for query in qrels]) for side in sides]
        first, other = ((float(scores[at].mean()), float(scores[at + 1].mean())) for at in (0, 2))
        assert rmse(scores[1], scores[3]) == pytest.approx(RMSE(after, after_again)[metric], abs=1e-9)
        given = after, before, after_again, before_again
        assert effect_ratio(ours=other, card=first) == pytest.approx(ER(*given)[metric], abs=1e-9)
        assert delta_relative_improvement(first, other) == pytest.approx(DRI(*given)[metric], abs=1e-9)


def test_rankings_of_unequal_length_and_of_no_common_document() -> None:
    """repro_eval refuses the first for tau; here the longer one is cut."""
    with pytest.raises(ValueError, match="shapes"):
        KTU({"q": {"a": 3.0, "b": 2.0, "c": 1.0}}, {"q": {"a": 2.0, "b": 1.0}})
    assert tau_union(["a", "b", "c"], ["a", "b"]) == 1
    found = rank_agreement({"q": ["a"], "p": ["b"]}, {"q": ["c"], "r": ["b"]}, name="other", metric="cosine_ndcg@10")
    assert found == RankAgreement("other", "cosine_ndcg@10", 1, 1, tau_union=None, rbo=0.0)
    assert rank_agreement({}, {}, name="other", metric="m").rbo is None
    assert [row[0] for row in agreement_table([found])] == ["RBO"]


# --- runs ------------------------------------------------------------------------------------------------------------


def collection(queries: int = 40) -> Collection:
    return Collection(
        name="made",
        queries={f"q{number}": f"query {number}" for number in range(queries)},
        corpus={f"d{number}": f"document {number}" for number in range(120)},
        relevant={f"q{number}": {f"d{number}": 1.0, f"d{number + 1}": 1.0} for number in range(queries)},
    )


def encoder(noise: float, seed: int) -> Callable[[list[str], str], Any]:
    def encode(texts: list[str], kind: str) -> Any:
        numbers = [int(text.split()[1]) for text in texts]
        vectors = np.stack([np.random.default_rng(number).normal(size=8) for number in numbers])
        moved = np.stack([np.random.default_rng([seed, number]).normal(size=8) for number in numbers])
        return vectors + noise * moved * (kind == "query")

    return encode


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    def build(name: str, seed: int, ours: Collection | None = None, *, before: bool = True, **options: Any) -> Run:
        path = tmp_path / name
        path.mkdir()
        save_recipe(Recipe(name="made", base=Base(model="b"), loss=LossSpec(name="l")), path / "recipe.yaml")
        write_json(path / "run.json", {"schema_version": 1, "status": "finished"})
        for stage, noise in (("before", 2.0), ("after", 1.0))[not before :]:
            measured = evaluate(ours or collection(), encoder(noise, seed), **options)
            save_evaluation(path, "test", stage, measured)
        return Run(path)

    return build


def exported(run: Run) -> tuple[Path, Path, Path]:
    """Judgments, ranking before, ranking after."""
    runs = [export(run, "test", stage, to=run.path / "trec")[0] for stage in ("before", "after")]
    return run.path / "trec/test.qrels", runs[0], runs[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_runs_agree_as_repro_eval_says_of_their_files(make: Callable[..., Run]) -> None:
    first, other = make("first", 1), make("other", 2)
    qrels, before, after = map(str, exported(first))
    _, before_again, after_again = map(str, exported(other))
    theirs = RpdEvaluator(
        qrels_orig_path=qrels, run_b_orig_path=before, run_a_orig_path=after, run_b_rep_path=before_again,
        run_a_rep_path=after_again,
    )  # fmt: skip
    theirs.measures = METRICS
    theirs.evaluate()
    found = compare(first, other)
    (one,) = found.rankings
    assert (one.other, one.metric, one.queries, one.depth) == ("other", "cosine_ndcg@10", 40, 100)
    assert one.tau_union == pytest.approx(theirs.ktu()["advanced"], abs=1e-9)
    assert one.rbo == pytest.approx(theirs.rbo(p=0.95, depth=100)["advanced"], abs=1e-9)
    assert one.rmse == pytest.approx(theirs.rmse()["advanced"]["nDCG@10"], abs=1e-9)
    assert one.effect_ratio == pytest.approx(theirs.er()["nDCG@10"], abs=1e-9)
    assert one.dri == pytest.approx(theirs.dri()["nDCG@10"], abs=1e-9)
    lines = repr(found).splitlines()
    at = lines.index("Rank agreement, first 100 documents of 40 queries:")
    assert [line.split()[0] for line in lines[at + 1 : at + 6]] == ["Kendall's", "RBO", "RMSE", "Effect", "DRI"]
    assert f"{one.rbo:.4f}" in found._repr_html_()
    assert Comparison.from_dict(found.to_dict()) == found
    older = {name: value for name, value in found.to_dict().items() if name != "rankings"}
    assert Comparison.from_dict(older) == replace(found, rankings=())


def test_several_runs_have_a_column_each(make: Callable[..., Run]) -> None:
    found = compare(make("a", 1), make("b", 2), make("c", 1, before=False, depth=20))
    assert [(each.other, each.depth) for each in found.rankings] == [("b", 100), ("c", 20)]
    assert found.rankings[1].tau_union == found.rankings[1].rbo == 1
    assert (found.rankings[1].rmse, found.rankings[1].effect_ratio) == (0, None)
    assert list(found._rankings_frame()) == ["b", "c", "meaning"]
    assert found._rankings_frame().loc["DRI", "c"] == "-"
    assert "first 20/100 documents of 40 queries" in repr(found)


def test_rankings_of_other_collections_are_not_compared(make: Callable[..., Run]) -> None:
    found = compare(make("a", 1), make("b", 2, collection(39)))
    assert found.rankings == ()
    assert found.reasons == ("a and b do not share their queries: 39 of 40 and 39 are the same.",)
    assert "Rank agreement" not in repr(found) + found._repr_html_()
    bare = make("bare", 2)
    bare.file("hits", "test", "after").unlink()  # older, or to save space
    assert compare(make("c", 1), bare).rankings == ()


# --- a file ----------------------------------------------------------------------------------------------------------


def test_a_file_compares_as_the_run_that_it_was_exported_from(make: Callable[..., Run]) -> None:
    first, other = make("first", 1), make("other", 2)
    beside, found = compare(first, other), compare(other, against=exported(first)[2])
    assert found.names == ("test-after.run", "other")
    assert found.kind == "runs"
    for row, theirs in zip(found.rows, beside.rows, strict=True):
        assert replace(row, run="") == replace(theirs, run="")
    assert found.rankings == (replace(beside.rankings[0], effect_ratio=None, dri=None),)  # there is no ranking before
    assert found.notes[-1] == (
        "test-after.run is measured by the judgments of other, up to its depth of 100 documents."
    )


def test_queries_of_one_side_are_left_out_and_said(make: Callable[..., Run], tmp_path: Path) -> None:
    run, path = make("run", 1), tmp_path / "theirs.run"
    lines = exported(run)[2].read_text().splitlines()
    kept = [line for line in lines if line.split()[0] not in ("q3", "q4") and int(line.split()[3]) <= 10]
    path.write_text("\n".join([*kept, "extra Q0 d1 1 0.5 x", ""]))
    found = compare(run, against=path)
    assert found.queries == 38
    assert found.notes[-3:] == (
        "theirs.run is measured by the judgments of run, up to its depth of 10 documents.",
        "2 of 40 queries of run are not in theirs.run, and are left out.",
        "1 of 39 queries of theirs.run are not in run, and are left out.",
    )
    assert found.main is not None
    assert (found.main.difference, found.main.ties) == (0, 38)
    assert found.rows[-1].metric == "cosine_map@100"  # beyond the file's depth
    assert (found.rows[-1].verdict, found.rows[-1].reason) == (
        "not comparable",
        "Only one of the two measured this metric.",
    )
    one = found.rankings[0]
    assert (one.queries, one.depth, one.tau_union, one.rbo, one.rmse) == (38, 10, *[pytest.approx(1)] * 2, 0)


def test_a_query_s_own_document_is_left_out_as_in_the_run(make: Callable[..., Run], tmp_path: Path) -> None:
    ours = collection()
    named = replace(
        ours,
        queries={f"d{number}": f"query {number}" for number in range(40)},
        relevant={f"d{number}": {f"d{number + 1}": 1.0} for number in range(40)},
    )
    run = make("run", 1, named, own_documents=False)
    path = tmp_path / "theirs.run"
    tops = "".join(f"d{number} Q0 d{number} 0 99 x\n" for number in range(40))
    path.write_text(tops + exported(run)[2].read_text())
    assert compare(run, against=path).rankings[0].rbo == pytest.approx(1)


def test_a_file_is_ranked_as_trec_eval_ranks(tmp_path: Path) -> None:
    """By score, equal scores by id, both descending; ranks in the file do not count."""
    path = tmp_path / "a.run"
    path.write_text("q Q0 a 1 3 x\nq Q0 c 9 2.00000001 x\nq Q0 b 2 2 x\n\np Q0 z 1 -1e3 x y\n".replace(" x y", " x"))
    assert read_trec_run(path) == {"q": ["a", "c", "b"], "p": ["z"]}
    tied = made(10, (30, 40))
    path.write_text("".join(f"{q} Q0 {d} 0 {score} x\n" for q, each in tied.items() for d, score in each.items()))
    assert read_trec_run(path) == ids(break_ties(load_run(str(path))))


LINES = "q0 Q0 d1 1 0.9 x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            LINES + "q0 Q0 d2 2 0.8\n",
            "expected `query Q0 document rank score tag` in line 2 of 'bad.run', found 'q0 Q0 d2 2 0.8\\n'; fix it.",
        ),
        (
            "q0 Q0 d2 2 nan x\n",
            "expected `query Q0 document rank score tag` in line 1 of 'bad.run', found 'q0 Q0 d2 2 nan x\\n'; fix it.",
        ),
        (
            "q0 Q0 d2 2 1e39 x",
            "expected `query Q0 document rank score tag` in line 1 of 'bad.run', found 'q0 Q0 d2 2 1e39 x'; fix it.",
        ),
        (
            LINES + "\n" + LINES,
            "expected each document once for a query, found 'd1' again for query 'q0' in line 3 of 'bad.run'; "
            "remove one.",
        ),
        ("\n", "expected lines of `query Q0 document rank score tag` in 'bad.run', found none."),
        (
            "other Q0 d1 1 0.9 x\n",
            "expected queries of 'run', such as 'q0', in 'bad.run', found others, such as 'other'; use the ids of "
            "`workbench export --format trec`.",
        ),
        (
            "q0 Q0 other 1 0.9 x\n",
            "expected documents of 'run' in 'bad.run', found others; use the ids of `workbench export --format trec`.",
        ),
    ],
)
def test_files_that_cannot_be_compared(make: Callable[..., Run], tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.run").write_text(text)
    with pytest.raises(DataError) as caught:
        compare(make("run", 1), against=tmp_path / "bad.run")
    assert str(caught.value) == message


def test_what_a_file_cannot_be_compared_with(make: Callable[..., Run], tmp_path: Path) -> None:
    first, other = make("first", 1), make("other", 2)
    with pytest.raises(RunError) as caught:
        compare(first, other, against="a.run")
    assert str(caught.value) == "expected one run to compare with 'a.run', found 2; compare each alone."
    with pytest.raises(DataError, match=r"expected to read '.*absent\.run', found No such file or directory\."):
        compare(first, against=tmp_path / "absent.run")
