"""Encoding without padding gives the library's numbers, with less work: both are held here.

Numbers are compared with `model.encode` and gradients of the library; work is counted in tokens, passes and bytes,
which are the same on every machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from tiny import WORDS, tiny_base
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from workbench.models import encoding, linear, packing, tokens

TEXTS = ["how many brake", "a", "the wheel of the car model year is it", "price", "does the engine have power", "price"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("encoding"), dropout=0.0)


@pytest.fixture(scope="module")
def table(base: Path) -> Path:
    """A StaticEmbedding with the tokenizer of `base`."""
    torch.manual_seed(3)
    module = StaticEmbedding(Tokenizer.from_file(str(base / "tokenizer.json")), embedding_dim=24)
    folder = base.parent / "table"
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder), create_model_card=False)
    return folder


def load(folder: Path) -> Any:

    return SentenceTransformer(str(folder), device="cpu")


def packed(model: Any, texts: list[str]) -> packing.Pass:
    return packing.Pass(packing.pack([np.array(row) for row in tokens.tokenize(model, texts)]), [len(texts)])


def of_kind(kind: str, base: Path, pooling: str = "mean") -> Any:
    """A small transformer of an architecture, with the tiny tokenizer."""

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
def test_vectors_and_gradients_of_each_architecture_equal_the_library(kind: str, base: Path) -> None:
    """No model of ours here: the same module, called with padding and without."""
    model = of_kind(kind, base)
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


def test_roberta_positions_skip_tokens_with_the_id_of_padding(base: Path) -> None:
    """The tiny tokenizer's unknown word is 1, which such a model was told to take for padding."""
    model = of_kind("roberta", base)
    embeddings = model[0].model.embeddings
    embeddings.padding_idx = 1
    texts = ["price strange car", "strange", "how many litre"]
    assert np.abs(encoding.encode(model, texts) - model.encode(texts)).max() < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_every_pooling_equals_the_library(pooling: str, base: Path) -> None:
    model = of_kind("bert", base, pooling)
    assert np.abs(encoding.encode(model, TEXTS) - model.encode(TEXTS)).max() < 1e-5


def test_packing_obstacles_are_named(base: Path, table: Path) -> None:
    assert packing.packing_obstacle(load(table)) == "its first module is a StaticEmbedding"
    assert packing.packing_obstacle(of_kind("electra", base)) == "its architecture is electra"
    model = load(base)
    model.tokenizer.padding_side = "left"
    assert packing.packing_obstacle(model) == "it pads or cuts its texts at the left"


@pytest.mark.parametrize("which", ["base", "table"])
@pytest.mark.parametrize("prompt", ["", "what is: "])
def test_vectors_equal_the_library(which: str, prompt: str, base: Path, table: Path) -> None:
    folder = base if which == "base" else table
    model = load(folder).train()
    for texts in (TEXTS, [TEXTS[0]], [*TEXTS, "", "unknown words only"], [" ".join(WORDS * 5)]):
        theirs = load(folder).encode(texts, prompt=prompt or None)
        ours = encoding.encode(model, texts, prompt)
        assert ours.dtype == np.float32
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5
    assert model.training


def test_the_encoder_uses_the_models_prompts_and_dimensions(base: Path) -> None:
    model = load(base)
    model.prompts, model.truncate_dim = {"query": "what is: ", "passage": "a car "}, 10
    encode = encoding.encoder(model)
    assert np.abs(encode(TEXTS, "query") - model.encode(TEXTS, prompt="what is: ")).max() < 1e-5
    assert np.abs(encode(TEXTS, "document") - model.encode(TEXTS, prompt="a car ")).max() < 1e-5
    assert encode(TEXTS, "query").shape == (len(TEXTS), 10)
    assert encode([], "query").size == 0


def test_many_passes_equal_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(base)
    whole = encoding.encode(model, TEXTS)
    monkeypatch.setitem(encoding.TOKENS, "cpu", 9)
    assert np.abs(encoding.encode(model, TEXTS) - whole).max() < 1e-6


def test_a_model_with_an_obstacle_is_encoded_by_the_library(base: Path) -> None:
    model = of_kind("electra", base)
    assert encoding.encoding_obstacle(model) == "its architecture is electra"
    assert np.array_equal(encoding.encode(model, TEXTS), model.encode(TEXTS))


def test_encoding_computes_every_distinct_text_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = load(base), []
    plain = packing.hidden_states

    def counted(transformer: Any, pack: packing.Pack, rows: Any = None) -> torch.Tensor:
        seen.append(len(pack.ids))
        return plain(transformer, pack, rows)

    monkeypatch.setattr(packing, "hidden_states", counted)
    encoding.encode(model, TEXTS * 3)
    assert seen == [sum(len(model.tokenizer(text)["input_ids"]) for text in set(TEXTS))]


def test_tokens_take_four_bytes_each_on_the_disk(base: Path, tmp_path: Path) -> None:

    model = load(base)
    rows = Dataset.from_dict({"anchor": TEXTS})
    found = tokens.load_tokens(model, rows, "anchor", cache=tmp_path)
    real = sum(len(model.tokenizer(text)["input_ids"]) for text in TEXTS)
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"ids.bin", "offsets.npy"}
    assert len(found.ids) == real
    assert (folder / "ids.bin").stat().st_size == 4 * real


@pytest.mark.parametrize("prompt", ["", "what is: "])
def test_tokens_equal_the_librarys(prompt: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    model = load(base)
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


def test_tokens_are_stored_by_texts_settings_and_prompt(base: Path, tmp_path: Path) -> None:

    model = load(base)
    one, other = Dataset.from_dict({"a": ["price", "car"]}), Dataset.from_dict({"a": ["pricecar", ""]})
    for rows, prompt in ((one, ""), (other, ""), (one, "what is: "), (one, "")):
        tokens.load_tokens(model, rows, "a", prompt, tmp_path)
    model.max_seq_length = 3
    tokens.load_tokens(model, one, "a", "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_only_the_most_recently_used_tokens_are_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(tokens, "KEPT", 2)
    for word in WORDS[:4]:
        tokens.load_tokens(load(base), Dataset.from_dict({"a": [word]}), "a", "", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_tokens_are_held_in_memory_where_the_cache_cannot_be_written(base: Path, tmp_path: Path) -> None:

    (tmp_path / "file").write_text("")
    found = tokens.load_tokens(load(base), Dataset.from_dict({"a": TEXTS}), "a", "", tmp_path / "file" / "tokens")
    assert len(found) == len(TEXTS)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5)])
def test_linear_products_and_gradients_equal_torch(shape: tuple[int, ...]) -> None:
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


def test_frozen_weights_get_no_gradient_and_layers_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
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
