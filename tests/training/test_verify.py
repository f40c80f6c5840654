"""Published weights against their card: equal or not, and which other way to measure gives the card's numbers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healthy_card import evaluation, healthy, row
from hub_cache import cached_dataset, cached_model
from in_process import workbench
from tiny import WORDS, tiny_base

from workbench.cards.card import Card, Evaluation, Stated
from workbench.cards.read import card_to_dict
from workbench.errors import BaseError, CardError, DataError, RunError
from workbench.evaluation.tasks import NANO, NANO_SOURCE
from workbench.pipeline import evaluate, load_model, verify
from workbench.report.proposal import eval_results
from workbench.run import Run, open_run, write_json
from workbench.training.train import train
from workbench.views.queries import compared_evaluations

pytestmark = pytest.mark.slow
PROMPTS = {"query": "what is ", "document": "the model "}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model with prompts, and a collection with the judgments of two splits.

    Its word vectors are far from each other and of many lengths, so that every way to measure gives other numbers.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = tmp_path_factory.mktemp("published")
    base = SentenceTransformer(str(tiny_base(folder)), device="cpu")
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(len(base.tokenizer), 32, generator=generator)
    weights *= torch.rand(len(weights), 1, generator=generator) * 2
    modules = [StaticEmbedding(base.tokenizer.backend_tokenizer, embedding_weights=weights)]
    model = SentenceTransformer(modules=modules, prompts=dict(PROMPTS), device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    chosen, rows = random.Random(3), []
    for _ in range(48):
        words = chosen.sample(WORDS, 7)
        rows.append({"anchor": " ".join(words[:3] + chosen.sample(WORDS, 2)), "positive": " ".join(words)})
    (folder / "set/qrels").mkdir(parents=True)
    for name, column in (("queries", "anchor"), ("corpus", "positive")):
        lines = [json.dumps({"_id": f"{column}{n}", "text": each[column]}) for n, each in enumerate(rows)]
        (folder / f"set/{name}.jsonl").write_text("\n".join(lines))
    for split, numbers in (("test", range(24)), ("dev", range(24, 48))):
        judged = [f"anchor{n}\tpositive{n}\t1" for n in numbers]
        (folder / f"set/qrels/{split}.tsv").write_text("\n".join(("query-id\tcorpus-id\tscore", *judged)))
    return folder


def measured(
    place: Path,
    *,
    similarity: str = "cosine",
    split: str = "test",
    prompts: Mapping[str, str] = PROMPTS,
    normalized: bool = False,
    **settings: Any,
) -> dict[str, float]:
    """The library's own numbers, to four places, under the names of cosine similarity."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.modules import Normalize
    from sentence_transformers.util import SimilarityFunction

    model = SentenceTransformer(str(place / "model"), device="cpu")
    model = SentenceTransformer(modules=[*model, Normalize()], device="cpu") if normalized else model
    model.prompts = dict(prompts)
    texts = {
        name: {
            each["_id"]: each["text"] for each in map(json.loads, (place / f"set/{name}.jsonl").read_text().split("\n"))
        }
        for name in ("queries", "corpus")
    }
    judged = [line.split("\t") for line in (place / f"set/qrels/{split}.tsv").read_text().splitlines()[1:]]
    found = InformationRetrievalEvaluator(
        {query: texts["queries"][query] for query, _, _ in judged},
        texts["corpus"],
        {query: {document} for query, document, _ in judged},
        score_functions={similarity: SimilarityFunction.to_similarity_fn(similarity)},
        write_csv=False,
        **settings,
    )(model)
    return {name.replace(similarity, "cosine"): round(float(value), 4) for name, value in found.items()}


def reported(numbers: Mapping[str, float], name: str = "cars", **parameters: Any) -> Evaluation:
    lines = {metric: 20 + at for at, metric in enumerate(numbers)}
    found = replace(evaluation(), datasets=(name,), metrics=numbers, metric_lines=lines, parameters=parameters)
    return replace(found, main_metric="cosine_ndcg@10")


def card(*evaluations: Evaluation, **fields: Any) -> Card:
    """A card without a log, trained in full precision, of a base that nobody has."""
    bare: dict[str, Any] = {"training_log": (), "datasets": (), "non_default": {}, "hyperparameters": {}}
    return replace(healthy(), evaluations=evaluations, **{**bare, **fields})


def verified(place: Path, card: Card, runs: Path, model: str = "model", **options: Any) -> Run:
    options.setdefault("on", f"cars={place / 'set'}")
    return verify(place / model, card, runs=runs, progress=False, **options)


def verdict(run: Run) -> tuple[str, str]:
    found = run.comparison() or {}
    return found["verdict"], found["sentence"]


def test_the_library_s_numbers_are_equal_and_an_edited_one_is_not(place: Path, tmp_path: Path) -> None:
    numbers = measured(place)
    assert 0.005 < numbers["cosine_ndcg@10"] < 0.95  # they say something
    right = verified(place, card(reported(numbers)), tmp_path)
    assert verdict(right) == ("reproduced exactly", "All 15 metrics of the card are equal.")
    assert right.status == "finished"
    edited = {**numbers, "cosine_mrr@10": round(numbers["cosine_mrr@10"] + 0.0002, 4)}
    word, sentence = verdict(verified(place, card(reported(edited)), tmp_path))
    assert word == "differs"
    assert sentence.startswith("1 of 15 metrics of the card are not those of these weights; first: cars cosine_mrr@10")
    assert "Measured" not in sentence
    only = verified(place, card(reported(edited)), tmp_path, metric="cosine_ndcg@10")
    assert verdict(only) == ("reproduced exactly", "All 1 metric of the card are equal.")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"similarity": "dot"}, "by dot product"),
        ({"similarity": "manhattan"}, "by Manhattan distance"),
        ({"truncate_dim": 16}, "at 16 dimensions"),
        ({"prompts": {}}, "without prompts"),
        ({"prompts": {}, "similarity": "dot"}, "without prompts and by dot product"),
        ({"split": "dev"}, "on the dev split of"),
    ],
)
def test_the_way_to_measure_that_gives_the_card_s_numbers_is_named(
    place: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    wrong = measured(place, **settings)
    assert wrong != measured(place)
    loss = replace(healthy().training_datasets()[0].loss, name="MatryoshkaLoss")  # type: ignore[type-var]
    loss = replace(loss, parameters={"matryoshka_dims": [32, 16]}, inner=healthy().training_datasets()[0].loss)
    datasets = (replace(healthy().training_datasets()[0], loss=loss),)
    run = verified(place, replace(card(reported(wrong)), datasets=datasets), tmp_path)
    word, sentence = verdict(run)
    assert word == "differs"
    assert f"Measured {words}" in sentence
    assert "the numbers of cars are the card's." in sentence


def test_normalization_is_found_where_the_similarity_needs_it(place: Path, tmp_path: Path) -> None:
    theirs = measured(place, normalized=True, similarity="manhattan")
    numbers = {name.replace("cosine", "manhattan"): value for name, value in theirs.items()}
    made = replace(reported(numbers), main_metric="manhattan_ndcg@10")
    run = verified(place, card(made, similarity=Stated("Manhattan Distance", 6)), tmp_path)
    assert verdict(run)[0] == "differs"
    assert "Measured with normalization, the numbers of cars are the card's." in verdict(run)[1]


def test_the_row_of_the_log_whose_weights_these_are_is_named(place: Path, tmp_path: Path) -> None:
    ours = measured(place)
    last = {name: round(value * 0.9, 4) for name, value in ours.items()}
    log = [
        row(500, metrics={"cars_cosine_ndcg@10": round(ours["cosine_ndcg@10"] * 0.8, 4)}),
        row(1000, metrics={"cars_cosine_ndcg@10": ours["cosine_ndcg@10"]}, saved=True),
        row(1500, metrics={"cars_cosine_ndcg@10": last["cosine_ndcg@10"]}),
    ]
    run = verified(place, replace(card(reported(last)), training_log=tuple(log)), tmp_path)
    word, sentence = verdict(run)
    assert word == "differs"
    assert "Ours equal the row of step 1,000 of the log, in bold: the checkpoint that was saved" in sentence


def test_several_dimensions_are_each_held_against_their_own_table(place: Path, tmp_path: Path) -> None:
    whole, half = measured(place), measured(place, truncate_dim=16)
    both = card(reported(whole, "cars", truncate_dim=32), reported(half, "cars", truncate_dim=16))
    run = verified(place, both, tmp_path)
    assert verdict(run) == ("reproduced exactly", "All 30 metrics of the card are equal.")
    names = {each["name"] for each in (run.comparison() or {})["replay"]["numbers"]}
    assert {"cars (32 dimensions) cosine_ndcg@10", "cars (16 dimensions) cosine_ndcg@10"} <= names
    swapped = card(reported(half, "cars", truncate_dim=32), reported(whole, "cars", truncate_dim=16))
    assert verdict(verified(place, swapped, tmp_path))[0] == "differs"


def test_numbers_of_weights_in_half_precision_may_differ_by_more(place: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    near = {name: round(value + 0.0015, 4) for name, value in measured(place).items()}
    SentenceTransformer(str(place / "model"), device="cpu").half().save_pretrained(
        str(tmp_path / "half"), create_model_card=False
    )
    assert verdict(verified(place, card(reported(near)), tmp_path))[0] == "differs"
    run = verify(tmp_path / "half", card(reported(near)), on=f"cars={place / 'set'}", runs=tmp_path, progress=False)
    assert run.record["verification"]["precision"] == "half"
    assert verdict(run)[0] == "reproduced exactly"


def test_a_verification_can_be_looked_at_as_a_run(place: Path, tmp_path: Path) -> None:
    run = verified(place, card(reported(measured(place))), tmp_path, base=str(place / "base"))
    assert compared_evaluations(run) == ("cars",)
    assert run.per_query("cars", "before")["query_id"].tolist() == run.per_query("cars", "after")["query_id"].tolist()
    assert run.file("vectors", "cars", "after").is_file()
    page = run.path.joinpath("report.html").read_text()
    assert "The published weights give the numbers of the card." in page
    assert "Trained again" not in page
    assert load_model(run).get_embedding_dimension() == 32
    again = evaluate(run, place / "set", progress=False)
    assert again.metrics["cosine_ndcg@10"] == run.metrics("cars", "after")["cosine_ndcg@10"]
    write_json(run.file("record"), {**run.record, "status": "stopped"})
    assert "published weights, measured by Card Workbench" in eval_results(run, "acme/cars", "retrieval")
    with pytest.raises(RunError, match=r"found 'healthy.*, a verification; verify again"):
        train(None, resume=run.path)
    done = workbench("report", run.path, "--card", folder=tmp_path)
    assert (done.returncode, (place / "model/README.md").exists()) == (2, False)  # no card beside foreign weights


def test_what_cannot_be_measured_is_said(place: Path, tmp_path: Path) -> None:
    two = card(reported(measured(place)), reported({"cosine_ndcg@10": 0.5}, "boats"))
    run = verified(place, two, tmp_path)
    assert verdict(run)[0] == "reproduced exactly"
    assert (
        "boats is not measured; give the card's with --evaluation-set boats=PATH." in (run.comparison() or {})["notes"]
    )
    with pytest.raises(DataError, match=r"expected something to measure .* cars is not measured"):
        verify(place / "model", card(reported({"cosine_ndcg@10": 0.5})), runs=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_wrong_models_and_cards_are_one_sentence_and_no_run(place: Path, tmp_path: Path) -> None:
    right = card(reported(measured(place)))
    pickled = tmp_path / "pickled"
    shutil.copytree(place / "model", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (tmp_path / "nowhere", right, BaseError, "neither on this disk"),
        (pickled, right, BaseError, "only the pickled 'pytorch_model.bin'"),
        (place / "model", None, CardError, "Name the card with --card"),
        ("bundled:minilm", None, CardError, "reports none"),
        (place / "model", replace(right, kind="cross-encoder"), CardError, "of a cross-encoder"),
        (place / "model", replace(right, evaluations=()), CardError, "reports none"),
    ]
    for model, theirs, kind, said in cases:
        with pytest.raises(kind, match=said):
            verify(model, theirs, on=f"cars={place / 'set'}", runs=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_the_command_prints_the_verdict_and_exits_with_it(place: Path, tmp_path: Path) -> None:
    numbers = measured(place)
    for name, value in (("right", numbers), ("wrong", {**numbers, "cosine_map@100": 0.9})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps(card_to_dict(card(reported(value)))))
    words = (
        "verify",
        str(place / "model"),
        "--on",
        f"cars={place / 'set'}",
        "--quiet",
        "--runs",
        str(tmp_path / "runs"),
    )
    done = workbench(*words, "--card", str(tmp_path / "right"), "--json", "--strict", folder=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (0, "reproduced exactly")
    assert open_run(found["run"]).record["command"][:2] == ["workbench", "verify"]
    done = workbench(*words, "--card", str(tmp_path / "wrong"), "--strict", folder=tmp_path)
    assert done.returncode == 1
    assert "published weights: 14 of 15 metrics equal" in done.stdout


@pytest.fixture
def hub(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Local caches with the model as `acme/cars-embed`, its card, NanoBEIR, and scored pairs of two splits."""
    import datasets
    from huggingface_hub import constants

    texts = {name: (place / f"set/{name}.jsonl").read_text().splitlines() for name in ("queries", "corpus")}
    rows = {name: [json.loads(line) for line in lines] for name, lines in texts.items()}
    rows["qrels"] = [{"query-id": f"anchor{n}", "corpus-id": f"positive{n}"} for n in range(24)]
    names = [f"Nano{short}" for short in NANO]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    cached_dataset(
        tmp_path / "datasets", NANO_SOURCE, {part: dict.fromkeys(names, each) for part, each in rows.items()}
    )
    pairs = [
        {"sentence1": one["text"], "sentence2": two["text"], "score": n % 7 / 7}
        for n, (one, two) in enumerate(zip(rows["queries"], rows["corpus"], strict=True))
    ]
    splits = {"validation": pairs[:20], "test": pairs[20:]}
    cached_dataset(tmp_path / "datasets", "sentence-transformers/stsb", {"default": splits})
    cached_dataset(tmp_path / "datasets", "mteb/cars-sts", {"default": {"test": pairs}})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached_model(tmp_path / "hub", place / "model", "acme/cars-embed")
    return "acme/cars-embed"


def correlations(place: Path, numbers: slice) -> dict[str, float]:
    """The library's own numbers on part of the pairs of `hub`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    model = SentenceTransformer(str(place / "model"), device="cpu", prompts={"query": "", "document": ""})
    one, two = (
        [json.loads(line)["text"] for line in (place / f"set/{name}.jsonl").read_text().splitlines()][numbers]
        for name in ("queries", "corpus")
    )
    scores = [n % 7 / 7 for n in range(48)][numbers]
    found = EmbeddingSimilarityEvaluator(one, two, scores, similarity_fn_names=["cosine"], write_csv=False)(model)
    return {name: round(float(value), 4) for name, value in found.items()}


def test_sets_that_the_card_names_are_found_and_so_is_the_hub_s_model(place: Path, tmp_path: Path, hub: str) -> None:
    search, dev = measured(place), correlations(place, slice(0, 20))
    member = reported(search, "NanoMSMARCO")
    mean = replace(reported(search, "NanoBEIR_mean"), evaluator="NanoBEIREvaluator")
    sts = replace(reported(dev, "sts-dev"), evaluator="EmbeddingSimilarityEvaluator", main_metric="spearman_cosine")
    front = {"datasets": ["sentence-transformers/stsb"]}
    run = verify(hub, card(member, mean, sts, front_matter=front), runs=tmp_path / "runs", progress=False)
    examples = {name: each["why"] for name, each in run.record["examples"].items()}
    assert examples == {
        "NanoMSMARCO": f"The card names it: {NANO_SOURCE}, NanoMSMARCO.",
        "NanoBEIR_mean": f"The card names it: {NANO_SOURCE}.",
        "sts-dev": "The card names it: sentence-transformers/stsb, validation.",
    }
    assert verdict(run) == ("reproduced exactly", "All 32 metrics of the card are equal.")
    assert run.record["verification"]["model"] == hub
    other = replace(sts, metrics=correlations(place, slice(20, 48)))
    word, sentence = verdict(verify(hub, card(other, front_matter=front), runs=tmp_path / "runs", progress=False))
    assert word == "differs"
    assert "Measured on the test split of sentence-transformers/stsb, the numbers of sts-dev are the card's" in sentence


def test_a_set_that_is_named_by_its_id_is_found(place: Path, tmp_path: Path, hub: str) -> None:
    sts = replace(reported(correlations(place, slice(0, 48)), "mteb/cars-sts"), main_metric="spearman_cosine")
    run = verify(hub, card(replace(sts, evaluator="EmbeddingSimilarityEvaluator")), runs=tmp_path / "r", progress=False)
    assert verdict(run)[0] == "reproduced exactly"
    assert [each["why"] for each in run.record["examples"].values()] == ["The card names it: mteb/cars-sts."]


def test_a_named_set_that_is_not_here_is_said(place: Path, tmp_path: Path) -> None:
    two = card(reported(measured(place)), reported(measured(place), "NanoNQ"))
    run = verified(place, two, tmp_path)
    assert verdict(run)[0] == "reproduced exactly"
    notes = (run.comparison() or {})["notes"]
    assert any(note.startswith("NanoNQ is not measured: expected") for note in notes)
