"""The fast engine gives the library's numbers, with less work: both are held here.

Numbers are compared with the library's own trainer and optimizer; work is counted in tokens and passes, which are the
same on every machine. What it is built from is tested in tests/models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import RECIPES, Made, lora, made_in, matryoshka, ranking, scored, several
from tiny import tiny_recipe
from tiny import train_often as train
from torch import nn

from workbench.models import attention, packing
from workbench.models.energy_distance import energy_encoder
from workbench.models.stand_ins import multilingual_folder
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.run import Run, list_runs
from workbench.training.fast import engine, tables
from workbench.training.prepare import encode_with

ENERGY = LossSpec(
    name="MultipleNegativesRankingLoss",
    parameters={"scale": 1.0, "similarity_fct": "energy", "distance": "manhattan", "special_tokens": False},
)
TEXTS = ["how many brake", "a", "the wheel of the car model year is it", "price", "does the engine have power", "price"]


def energy(made: Made) -> Recipe:
    """At a learning rate like the card's: the gradient of L1 jumps where two numbers meet, and large steps of Adam
    would make two roundings two trainings."""
    recipe = tiny_recipe(made.base, made.pairs, learning_rate=1e-4)
    return recipe.model_copy(update={"base": Base(model=str(made.base), similarity="energy"), "loss": ENERGY})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """As in test_fit, but a base without dropout."""
    return made_in(tmp_path_factory.mktemp("made"), dropout=0.0)


def trained(kind: str, recipe: Recipe, runs: Path, **given: Any) -> Run:
    """A run by the engine `kind`: "trainer" or "fast"."""
    return train(with_overrides(recipe, {"training.engine": kind}), runs=runs, **given)


@pytest.fixture
def made_trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fast trainers, as they are made."""
    trainers: list[Any] = []

    class Kept(engine.Fast):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            trainers.append(self)

    monkeypatch.setattr(engine, "Fast", Kept)
    return trainers


def without_dropout(recipe: Recipe) -> Recipe:
    if recipe.base.lora is None:
        return recipe
    changed = recipe.base.lora.model_copy(update={"dropout": 0.0})
    return recipe.model_copy(update={"base": recipe.base.model_copy(update={"lora": changed})})


def load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def numbers(run: Run, key: str) -> list[float]:
    return [row[key] for row in run.log() if key in row]


# --- the engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*RECIPES, energy])
def test_the_fast_engine_has_the_losses_of_the_trainer(
    make: Callable[[Made], Recipe], made: Made, tmp_path: Path, made_trainers: list[Any]
) -> None:
    """Every step's loss, gradient norm and learning rate, and what is measured afterwards."""
    recipe = without_dropout(make(made))
    theirs = trained("trainer", recipe, tmp_path / "trainer")
    assert not made_trainers
    ours = trained("fast", recipe, tmp_path / "fast")
    assert len(made_trainers) == 1
    assert len(numbers(theirs, "loss")) >= 12
    for key in ("loss", "grad_norm", "eval_loss", "learning_rate"):
        assert numbers(ours, key) == pytest.approx(numbers(theirs, key), rel=1e-4), key
    for name, moments in theirs.evaluations().items():
        for at in moments:
            assert ours.metrics(name, at) == pytest.approx(theirs.metrics(name, at), abs=1e-4)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_multilingual_base_has_the_losses_of_the_trainer(
    made: Made, tmp_path: Path, made_trainers: list[Any]
) -> None:
    """Without dropout, as the other bases here; its table of 250,037 rows gets its gradient on the touched ones."""
    base = tmp_path / "base"
    shutil.copytree(multilingual_folder(), base)
    config = json.loads((base / "config.json").read_text())
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base / "config.json").write_text(json.dumps(config | without))
    recipe = scored(made).model_copy(update={"base": Base(model=str(base))})
    training = recipe.training.model_copy(update={"learning_rate": 2e-5, "eval_strategy": "no"})
    recipe = recipe.model_copy(update={"training": training})
    theirs, ours = (trained(kind, recipe, tmp_path / kind, max_steps=6) for kind in ("trainer", "fast"))
    assert [len(table.weight) for table in made_trainers[0].tables] == [250_037]
    assert len(numbers(theirs, "loss")) == 6
    for key in ("loss", "grad_norm"):
        assert numbers(ours, key) == pytest.approx(numbers(theirs, key), rel=1e-4), key


@pytest.mark.parametrize("make", [ranking, matryoshka, lora, energy])
def test_bfloat16_stays_near_the_trainer(
    make: Callable[[Made], Recipe], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, here on the CPU; once also with attention as a GPU gets it."""
    kinds = set()

    def as_a_gpu(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Any, scale: float
    ) -> torch.Tensor:
        kinds.add(query.dtype)
        return attention.padded_attention(query, key, value, layout, 0.0, scale)

    recipe = with_overrides(without_dropout(make(made)), {"training.bf16": True})
    theirs = trained("trainer", recipe, tmp_path / "trainer", max_steps=4)
    ours = trained("fast", recipe, tmp_path / "fast", max_steps=4)
    monkeypatch.setattr(attention, "block_attention", as_a_gpu)
    again = trained("fast", recipe, tmp_path / "again", max_steps=4)
    assert (torch.bfloat16 in kinds) == (make is not matryoshka)
    assert numbers(ours, "loss") == pytest.approx(numbers(theirs, "loss"), rel=0.03)
    assert numbers(again, "loss") == pytest.approx(numbers(ours, "loss"), rel=0.03)


@pytest.mark.parametrize("make", [ranking, matryoshka, lora, energy])
def test_fifty_steps_stay_equal_to_the_trainer(make: Callable[[Made], Recipe], made: Made, tmp_path: Path) -> None:
    recipe = without_dropout(make(made))
    training = recipe.training.model_copy(update={"learning_rate": 1e-4, "eval_strategy": "no"})
    recipe = recipe.model_copy(update={"training": training})
    theirs = trained("trainer", recipe, tmp_path / "trainer", max_steps=50)
    ours = trained("fast", recipe, tmp_path / "fast", max_steps=50)
    assert len(numbers(theirs, "loss")) == 50
    assert numbers(ours, "loss") == pytest.approx(numbers(theirs, "loss"), rel=1e-4)


@pytest.mark.parametrize("make", [ranking, matryoshka, several])
def test_a_resumed_run_equals_one_that_was_never_stopped(make: Callable[[Made], Recipe], tmp_path: Path) -> None:
    """With dropout, so that the random numbers count."""
    recipe = with_overrides(make(made_in(tmp_path / "made", dropout=0.1)), {"training.num_train_epochs": 2})

    def stop(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 7:
            list_runs(tmp_path / "stopped")[0].stop()

    whole = trained("fast", recipe, tmp_path / "whole")
    stopped = trained("fast", recipe, tmp_path / "stopped", on_progress=stop, timing={"stop_seconds": 0.0})
    assert (stopped.status, len(numbers(stopped, "loss"))) == ("stopped", 7)
    again = train(None, resume=stopped.path)
    assert numbers(again, "loss") == numbers(whole, "loss")
    assert numbers(again, "grad_norm") == numbers(whole, "grad_norm")


def test_batches_of_a_step_may_share_a_pass(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_trainers: list[Any]
) -> None:
    recipe = ranking(made)  # three batches a step
    apart = trained("fast", recipe, tmp_path / "apart")
    monkeypatch.setitem(engine.STEP_TOKENS, "cpu", 10_000)
    shared = trained("fast", recipe, tmp_path / "shared")
    first, second = made_trainers
    assert numbers(shared, "loss") == pytest.approx(numbers(apart, "loss"), rel=1e-4)
    assert numbers(shared, "grad_norm") == pytest.approx(numbers(apart, "grad_norm"), rel=1e-4)
    assert (second.passes, second.tokens_passed) == (12, first.tokens_passed)  # 4 steps in each of 3 epochs


@pytest.mark.parametrize(("free", "most"), [(80 * 10**9, 65_536), (6 * 10**9, 9_574), (10**4, 0)])
def test_a_pass_is_shared_as_far_as_the_memory_of_a_gpu_allows(
    free: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 GB free: half of it is 9,574 tokens of six layers of 768 numbers, 68 bytes for each."""

    class Model(list[Any]):
        device = torch.device("cuda", 0)

        def parameters(self) -> list[nn.Parameter]:
            return [nn.Parameter(torch.empty(1_000))]

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**11))
    config = SimpleNamespace(hidden_size=768, num_hidden_layers=6)
    model: Any = Model([SimpleNamespace(config=config)])
    assert engine._step_tokens(model) == most


# --- work, counted -------------------------------------------------------------------------------------------------


def test_every_token_is_computed_once_and_none_for_padding(
    made: Made, tmp_path: Path, made_trainers: list[Any]
) -> None:
    recipe = tiny_recipe(made.base, made.pairs, batch_sampler="batch_sampler", num_train_epochs=2)
    run = trained("fast", recipe, tmp_path)
    (trainer,) = made_trainers
    tokenizer = trainer.model.tokenizer
    rows: Any = trainer.train_dataset
    real = sum(len(tokenizer(text)["input_ids"]) for column in ("anchor", "positive") for text in rows[column])
    assert trainer.tokens_passed == 2 * real
    assert trainer.passes == len(numbers(run, "loss"))  # one for both columns


def test_what_a_run_is_measured_with_computes_no_padding(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors, and clouds with the documents of an energy distance; each equal to the library's."""
    model, seen, plain = load(made.base), [], packing.hidden_states

    def counted(transformer: Any, pack: packing.Pack, rows: Any = None) -> torch.Tensor:
        seen.append(len(pack.ids))
        return plain(transformer, pack, rows)

    monkeypatch.setattr(packing, "hidden_states", counted)
    real = {text: len(model.tokenizer(text)["input_ids"]) for text in TEXTS}  # of the different ones
    vectors = encode_with(model, ranking(made))(TEXTS, "query")
    assert np.abs(vectors - model.encode(TEXTS)).max() < 1e-5
    assert seen == [sum(real.values())]
    ours, theirs = encode_with(model, energy(made)), energy_encoder(model, special_tokens=False)
    for one, other in zip(ours(TEXTS, "query"), theirs(TEXTS, "query"), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-5
    assert np.abs(ours(TEXTS, "document") - theirs(TEXTS, "document")).max() < 1e-5
    assert seen == [sum(real.values()), *2 * [sum(real[text] for text in TEXTS)]]


def test_the_engine_says_why_it_refuses_a_recipe(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = load(made.base), scored(made)
    cached = recipe.model_copy(update={"loss": LossSpec(name="CachedMultipleNegativesRankingLoss")})
    assert engine.refusal(cached, model) == (
        "The fast engine does not take this recipe (CachedMultipleNegativesRankingLoss does not call the model once "
        "for each column); the trainer trains it."
    )
    again = recipe.training.model_copy(update={"gradient_checkpointing": True})
    assert "gradient checkpointing is on" in str(engine.refusal(recipe.model_copy(update={"training": again}), model))
    electra = load(made.base)
    electra[0].config.model_type = "electra"
    assert "its architecture is electra" in str(engine.refusal(recipe, electra))
    monkeypatch.setattr(engine, "world_size", lambda: 2)
    assert "several processes" in str(engine.refusal(recipe, model))


# --- tables --------------------------------------------------------------------------------------------------------


def test_steps_on_touched_rows_equal_dense_adam() -> None:
    """torch's AdamW on a dense gradient: rows that were touched once move on by momentum, all of them decay."""
    drawn = np.random.default_rng(0)
    dense: Any = nn.EmbeddingBag(40, 6, mode="mean")
    ours: Any = nn.EmbeddingBag(40, 6, mode="mean")
    ours.load_state_dict(dense.state_dict())
    table = tables.Table(ours.weight)
    optimizers = [torch.optim.AdamW([each.weight], lr=0.1, weight_decay=0.1, fused=True) for each in (dense, ours)]
    optimizers[1].register_step_pre_hook(lambda *_: table.write())
    for step in range(12):
        norms = []
        for _ in range(1 + step % 3):  # batches of a step
            texts = [drawn.integers(0, 40 if step < 3 else 20, size=size) for size in (3, 0, 5, 1)]
            target = torch.from_numpy(drawn.standard_normal((4, 6)).astype(np.float32))
            ids, starts = torch.from_numpy(np.concatenate(texts)), torch.tensor([0, 3, 3, 8])
            (dense(ids, starts) * target).sum().backward()
            table.clear()
            made = tables.TablePass(tables.bags(texts, "cpu"), [2, 2], table)
            vectors: Any = torch.cat([made.outputs(None, number)["sentence_embedding"] for number in range(2)])
            assert torch.allclose(vectors, dense(ids, starts), atol=1e-6)
            (vectors * target).sum().backward()
        norms = [torch.nn.utils.clip_grad_norm_([dense.weight], 1.0), tables.clip([ours.weight], 1.0, [table])]
        assert float(norms[0]) == pytest.approx(float(norms[1]), rel=1e-5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        assert torch.allclose(dense.weight, ours.weight, atol=2e-5)


def test_the_padding_row_has_no_gradient() -> None:
    weight = nn.Parameter(torch.ones(4, 2))
    table = tables.Table(weight, padding=0)
    rows: Any = table.rows(torch.tensor([0, 2]))
    rows.sum().backward()
    table.write()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
