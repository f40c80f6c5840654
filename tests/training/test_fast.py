"""The fast engine and encoding give the library's numbers, with less work: both are held here.

Numbers are compared with the library's own trainer, `model.encode`, optimizer and gradients; work is counted in
tokens, passes and bytes, which are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from test_trainer import RECIPES, Made, lora, made_in, matryoshka, ranking, scored, several
from tiny import WORDS, tiny_base, tiny_recipe
from tiny import train_often as train
from torch import nn

from workbench.models import attention, dropout, encoding, linear, packing, tokens
from workbench.models.energy_distance import energy_encoder
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Base, LossSpec, Recipe
from workbench.run import Run, list_runs
from workbench.training import trainer
from workbench.training.fast import engine, tables
from workbench.training.prepare import encode_with

ENERGY = LossSpec(
    name="MultipleNegativesRankingLoss",
    parameters={"scale": 1.0, "similarity_fct": "energy", "distance": "manhattan", "special_tokens": False},
)
TEXTS = ["how many brake", "a", "the wheel of the car model year is it", "price", "does the engine have power", "price"]


class OnTheCpu(SentenceTransformerTrainingArguments):
    """Arguments that take bfloat16 without a GPU."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "use_cpu": True})


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

    monkeypatch.setattr(trainer, "can_compute", lambda precision: True)
    monkeypatch.setattr(trainer, "SentenceTransformerTrainingArguments", OnTheCpu)
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


def test_dropout_has_the_librarys_distribution(tmp_path: Path) -> None:
    """Means and spreads of token embeddings over many draws, ours and the library's."""
    model = load(tiny_base(tmp_path, dropout=0.3)).train()
    with torch.no_grad():
        with packing.packed_forward(model), dropout.fast_dropout(model):
            ours = torch.stack(
                [model[0](packed(model, TEXTS[:3]).features(0))["token_embeddings"][0, :3] for _ in range(600)]
            )
        theirs = torch.stack([model[0](model.preprocess(TEXTS[:3]))["token_embeddings"][0, :3] for _ in range(600)])
    error = (ours.var(0) / 600 + theirs.var(0) / 600).sqrt()
    assert float(((ours.mean(0) - theirs.mean(0)) / error).abs().max()) < 5
    assert float((ours.std(0) / theirs.std(0) - 1).abs().max()) < 0.2


@pytest.mark.parametrize("p", [0.05, 0.5, 0.97])
def test_numbers_are_dropped_one_by_one_with_their_probability(p: float) -> None:
    """Shares of single places and of neighbours, over many draws: five standard errors of a coin."""
    torch.manual_seed(2)
    draws = 4000
    dropped = torch.zeros(draws, 30)
    for row in dropped:
        row[dropout.dropped_indices(30, p)] = 1
    error = (p * (1 - p) / draws) ** 0.5
    assert float((dropped.mean(0) - p).abs().max()) < 5 * error
    both = (dropped[:, :-1] * dropped[:, 1:]).mean(0)  # neighbours do not know of each other
    assert float((both - p**2).abs().max()) < 5 * (p**2 * (1 - p**2) / draws) ** 0.5
    many = dropout.dropped_indices(1_000_000, p)
    assert abs(len(many) / 1_000_000 - p) < 5 * (p * (1 - p) / 1_000_000) ** 0.5
    assert bool((many.diff() > 0).all())
    assert 0 <= int(many[0]) <= int(many[-1]) < 1_000_000


def test_dropout_scales_what_stays_and_its_gradient() -> None:
    x = torch.randn(50, 40).T.requires_grad_()  # not contiguous
    y = dropout.apply_dropout(x, 0.25)
    assert torch.allclose(y[y != 0], x[y != 0] / 0.75)
    assert 0.15 < float((y == 0).float().mean()) < 0.35
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (y != 0) / 0.75)
    assert torch.equal(dropout.apply_dropout(x, 0.0), x)
    assert not dropout.apply_dropout(x, 1.0).any()
    layer = nn.Sequential(nn.Dropout(0.5)).eval()
    with dropout.fast_dropout(layer):
        assert layer(x) is x
    assert "forward" not in layer[0].__dict__


def laid(lengths: list[int], kind: torch.dtype = torch.float32) -> tuple[attention.Layout, list[Any]]:
    """Where texts of these lengths lie, and queries, keys and values of 3 heads for their tokens."""
    torch.manual_seed(4)
    made = packing.pack([np.arange(length) for length in lengths]).layout
    return made, [torch.randn(sum(lengths), 3, 4, dtype=kind).requires_grad_() for _ in range(3)]


def gradients(found: torch.Tensor, rows: list[Any]) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), rows)]


def test_attention_with_few_calls_is_attention_by_length() -> None:
    """As a GPU gets it; most lengths differ, and the groups of them are not half padding."""
    made, rows = laid([5, 1, 5, 2, 9, 30, 3])
    padded = sum(group.texts * group.longest for group in made.groups)
    assert (len(made.groups), sum(group.texts for group in made.groups)) == (2, 7)
    assert padded <= attention.PADDING * 55
    ours = gradients(attention.padded_attention(*rows, made, 0.0, 0.5), rows)
    for one, other in zip(ours, gradients(attention.block_attention(*rows, made, 0.5), rows), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    dropped = attention.padded_attention(*rows, made, 0.5, 0.5)
    assert dropped.shape == ours[0].shape
    assert not torch.allclose(dropped, ours[0], atol=1e-2)


def test_a_kernel_is_relied_on_where_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has it for CUDA alone; here another stands for it, a right one and two that are wrong."""

    def tried(way: Any) -> bool:
        monkeypatch.setattr(attention, "kernel_attention", way)
        return attention.kernel_works.__wrapped__(torch.device("cpu"), torch.float32, 4)

    def right(query: Any, key: Any, value: Any, layout: Any, dropout: float, scale: float) -> torch.Tensor:
        return attention.block_attention(query, key, value, layout, scale)

    assert not attention.kernel_works(torch.device("cpu"), torch.float32, 4)
    assert tried(right)
    assert not tried(lambda *given: right(*given) * 1.01)
    assert not tried(lambda *given: right(*given).detach() + 0 * given[0])  # no gradient


def test_the_kernel_takes_what_it_is_given() -> None:
    """Its arguments and the shape of what comes out, on the device that computes nothing."""
    made, rows = laid([5, 1, 5])
    there = attention.Layout(made.lengths, made.ends.to("meta"))
    query, key, value = (each.detach().to("meta") for each in rows)
    found = attention.kernel_attention(query, key, value, there, 0.1, 0.5)
    assert (found.shape, found.device.type) == (rows[0].shape, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_is_relied_on_where_there_is_a_gpu(kind: torch.dtype) -> None:
    assert attention.kernel_works(torch.device("cuda", 0), kind, 64)


def test_attention_with_dropout_is_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with the same weights dropped, against autograd."""
    made, rows = laid([5, 1, 5, 2], torch.float64)
    dropped = torch.arange(0, 3 * (1 + 4 + 25 + 25), 4)
    monkeypatch.setattr(attention, "dropped_indices", lambda count, p: dropped)
    query, key, value = (each.transpose(0, 1)[None] for each in rows)  # as transformers hands them over
    ours, _ = attention.packed_attention(nn.Identity(), query, key, value, None, 0.2, 0.5, layout=made)
    found, token, weight = [], 0, 0
    for length in (1, 2, 5, 5):
        q, k, v = (each[token : token + length].transpose(0, 1) for each in rows)  # (heads, tokens, dim)
        weights = torch.softmax(0.5 * q @ k.transpose(1, 2), dim=-1) / 0.8
        mine = (dropped >= weight) & (dropped < weight + weights.numel())
        weights = weights.flatten().index_fill(0, dropped[mine] - weight, 0.0).view_as(weights)
        found.append((weights @ v).transpose(0, 1))
        token, weight = token + length, weight + weights.numel()
    for one, other in zip(gradients(ours[0], rows), gradients(torch.cat(found), rows), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


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


def test_encoding_computes_every_different_text_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = load(made.base), []
    plain = packing.hidden_states

    def counted(transformer: Any, pack: packing.Pack, rows: Any = None) -> torch.Tensor:
        seen.append(len(pack.ids))
        return plain(transformer, pack, rows)

    monkeypatch.setattr(packing, "hidden_states", counted)
    encoding.encode(model, TEXTS * 3)
    assert seen == [sum(len(model.tokenizer(text)["input_ids"]) for text in set(TEXTS))]


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


def test_tokens_take_four_bytes_each_on_the_disk(made: Made, tmp_path: Path) -> None:
    from datasets import Dataset

    model = load(made.base)
    rows = Dataset.from_dict({"anchor": TEXTS})
    found = tokens.load_tokens(model, rows, "anchor", cache=tmp_path)
    real = sum(len(model.tokenizer(text)["input_ids"]) for text in TEXTS)
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"ids.bin", "offsets.npy"}
    assert len(found.ids) == real
    assert (folder / "ids.bin").stat().st_size == 4 * real


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "what is: "])
def test_tokens_are_those_of_the_model(
    prompt: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    model = load(made.base)
    model.max_seq_length = 8  # the longest is cut
    rows = Dataset.from_dict({"anchor": TEXTS})
    theirs = model.preprocess(TEXTS, prompt=prompt)
    wanted = [
        row[mask.bool()].tolist() for row, mask in zip(theirs["input_ids"], theirs["attention_mask"], strict=True)
    ]
    for _ in range(2):  # made, and read again
        found = tokens.load_tokens(model, rows, "anchor", prompt, tmp_path)
        assert [found[text].tolist() for text in range(len(found))] == wanted
        monkeypatch.setattr(tokens, "tokenize", None)


def test_other_texts_settings_and_prompts_have_tokens_of_their_own(made: Made, tmp_path: Path) -> None:
    from datasets import Dataset

    model = load(made.base)
    one, other = Dataset.from_dict({"a": ["price", "car"]}), Dataset.from_dict({"a": ["pricecar", ""]})
    for rows, prompt in ((one, ""), (other, ""), (one, "what is: "), (one, "")):
        tokens.load_tokens(model, rows, "a", prompt, tmp_path)
    model.max_seq_length = 3
    tokens.load_tokens(model, one, "a", "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_only_the_last_used_tokens_are_kept(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    monkeypatch.setattr(tokens, "KEPT", 2)
    for word in WORDS[:4]:
        tokens.load_tokens(load(made.base), Dataset.from_dict({"a": [word]}), "a", "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_without_a_place_to_write_tokens_are_held_in_memory(made: Made, tmp_path: Path) -> None:
    from datasets import Dataset

    (tmp_path / "file").write_text("")
    found = tokens.load_tokens(load(made.base), Dataset.from_dict({"a": TEXTS}), "a", "", tmp_path / "file" / "tokens")
    assert len(found) == len(TEXTS)


# --- without padding -----------------------------------------------------------------------------------------------


def load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def packed(model: Any, texts: list[str]) -> packing.Pass:
    return packing.Pass(packing.pack([np.array(row) for row in tokens.tokenize(model, texts)]), [len(texts)])


def of_kind(kind: str, base: Path, pooling: str = "mean") -> Any:
    """A small transformer of an architecture, with the tiny tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = base.parent / f"{kind}-{pooling}"
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    if kind == "distilbert":
        sizes = {"n_layers": 2, "dim": 32, "n_heads": 2, "hidden_dim": 64}
    config = AutoConfig.for_model(kind, vocab_size=64, max_position_embeddings=66, pad_token_id=0, **sizes)
    make: Any = AutoModel.from_config
    make(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=16)
    modules = [transformer, Pooling(32, pooling_mode=pooling), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu").eval()


@pytest.mark.parametrize("kind", packing.ARCHITECTURES)
def test_vectors_and_gradients_of_each_architecture_are_the_librarys(kind: str, made: Made) -> None:
    """No model of ours here: the same module, called with padding and without."""
    model = of_kind(kind, made.base)
    assert packing.packing_obstacle(model) is None
    weights = torch.randn(len(TEXTS), 32)
    plain = model(model.preprocess(TEXTS))["sentence_embedding"]
    (plain * weights).sum().backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    with packing.packed_forward(model), linear.fast_linear(model):
        ours = model(packed(model, TEXTS).features(0))["sentence_embedding"]
        (ours * weights).sum().backward()
    assert torch.allclose(ours, plain, atol=1e-6)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, wanted[name], atol=1e-5), name
    assert model[0].config._attn_implementation == "sdpa"


def test_roberta_does_not_count_a_token_with_the_number_of_padding(made: Made) -> None:
    """The tiny tokenizer's unknown word is 1, which such a model was told to take for padding."""
    model = of_kind("roberta", made.base)
    embeddings = model[0].model.embeddings
    embeddings.padding_idx = 1
    texts = ["price strange car", "strange", "how many litre"]
    assert np.abs(encoding.encode(model, texts) - model.encode(texts)).max() < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_every_pooling_follows(pooling: str, made: Made) -> None:
    model = of_kind("bert", made.base, pooling)
    assert np.abs(encoding.encode(model, TEXTS) - model.encode(TEXTS)).max() < 1e-5


def test_what_cannot_be_packed_is_said(made: Made) -> None:
    assert packing.packing_obstacle(load(made.table)) == "its first module is a StaticEmbedding"
    assert packing.packing_obstacle(of_kind("electra", made.base)) == "its architecture is electra"
    model = load(made.base)
    model.tokenizer.padding_side = "left"
    assert packing.packing_obstacle(model) == "it pads or cuts its texts at the left"


def test_the_engine_says_why_it_refuses_a_recipe(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = load(made.base), scored(made)
    cached = recipe.model_copy(update={"loss": LossSpec(name="CachedMultipleNegativesRankingLoss")})
    assert engine.refusal(cached, model) == (
        "The fast engine does not take this recipe (CachedMultipleNegativesRankingLoss does not call the model once "
        "for each column); the trainer trains it."
    )
    again = recipe.training.model_copy(update={"gradient_checkpointing": True})
    assert "gradient checkpointing is on" in str(engine.refusal(recipe.model_copy(update={"training": again}), model))
    assert "its architecture is electra" in str(engine.refusal(recipe, of_kind("electra", made.base)))
    monkeypatch.setattr(engine, "world_size", lambda: 2)
    assert "several processes" in str(engine.refusal(recipe, model))


# --- encoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["base", "table"])
@pytest.mark.parametrize("prompt", ["", "what is: "])
def test_vectors_are_those_of_the_model(which: str, prompt: str, made: Made) -> None:
    model = load(getattr(made, which)).train()
    for texts in (TEXTS, [TEXTS[0]], [*TEXTS, "", "unknown words only"], [" ".join(WORDS * 5)]):
        theirs = load(getattr(made, which)).encode(texts, prompt=prompt or None)
        ours = encoding.encode(model, texts, prompt)
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5
    assert model.training


def test_the_encoder_takes_the_models_prompts_and_dimensions(made: Made) -> None:
    model = load(made.base)
    model.prompts, model.truncate_dim = {"query": "what is: ", "passage": "a car "}, 10
    encode = encoding.encoder(model)
    assert np.abs(encode(TEXTS, "query") - model.encode(TEXTS, prompt="what is: ")).max() < 1e-5
    assert np.abs(encode(TEXTS, "document") - model.encode(TEXTS, prompt="a car ")).max() < 1e-5
    assert encode(TEXTS, "query").shape == (len(TEXTS), 10)
    assert encode([], "query").size == 0


def test_many_passes_give_what_one_gives(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(made.base)
    whole = encoding.encode(model, TEXTS)
    monkeypatch.setitem(encoding.TOKENS, "cpu", 9)
    assert np.abs(encoding.encode(model, TEXTS) - whole).max() < 1e-6


def test_a_model_without_a_faster_way_goes_the_librarys(made: Made) -> None:
    model = of_kind("electra", made.base)
    assert encoding.encoding_obstacle(model) == "its architecture is electra"
    assert np.array_equal(encoding.encode(model, TEXTS), model.encode(TEXTS))


# --- linear layers -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_products_and_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    """Against float64."""
    layer, x = nn.Linear(5, 4), torch.randn(shape)
    found = []
    for kind in (torch.float32, torch.float64):
        given = x.to(kind, copy=True).requires_grad_()
        other = nn.Linear(5, 4, dtype=kind)
        other.load_state_dict(layer.state_dict())
        y: Any = linear.linear(other, given)
        y.pow(2).sum().backward()
        found.append([y, given.grad, other.weight.grad, other.bias.grad])
    for ours, exact in zip(*found, strict=True):
        assert ours is not None
        assert exact is not None
        assert torch.allclose(ours.double(), exact, atol=1e-5)


def test_frozen_weights_get_no_gradient_and_layers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: True)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).requires_grad_(False)
    x = torch.randn(4, 3, requires_grad=True)
    with linear.fast_linear(model):
        assert all("forward" in each.__dict__ for each in model)
        model(x).sum().backward()
    assert x.grad is not None
    assert [weight.grad for weight in model.parameters()] == [None] * 4
    assert not any("forward" in each.__dict__ for each in model)
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: False)
    with linear.fast_linear(model):
        assert not any("forward" in each.__dict__ for each in model)


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
