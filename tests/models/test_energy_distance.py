"""Energy distance against the plain formula under autograd, the library's ranking loss, and the library's trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_base
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.errors import BaseError, DataError, RecipeError
from workbench.models import energy_distance

QUERIES = ["how many seat does the car have", "range", "what is the price of the wheel in the year"]
DOCUMENTS = ["the car model 3 seat is 5", "the range is 9 litre", "wheel price is 7"]
NEGATIVES = ["the lamp colour", "roof", "the boot of the car is 8 8 8"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("energy"), dropout=0.0)


@pytest.fixture
def model(base: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(base), device="cpu")


def whole(x: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, distance: str) -> torch.Tensor:
    """The scores with their second term, from the two functions."""
    own = [energy_distance.self_distance(row[kept], distance) for row, kept in zip(x, mask.bool(), strict=True)]
    return energy_distance.scores(x, mask, y, distance) + torch.stack(own)[:, None]


def plain(x: torch.Tensor, mask: torch.Tensor, y: torch.Tensor, distance: str, own_term: bool) -> torch.Tensor:
    """The formula as it stands, through (tokens, documents, dim), query by query."""

    def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        difference = a[:, None] - b[None]
        if distance == "manhattan":
            return difference.abs().sum(-1)
        squares = difference.square().sum(-1)
        return torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)

    rows = []
    for tokens, counts in zip(x, mask, strict=True):
        cloud = tokens[counts]
        row = 2 * apart(cloud, y).mean(0)
        rows.append(-(row - apart(cloud, cloud).mean()) if own_term else -row)
    return torch.stack(rows)


def drawn(seed: int, queries: int, length: int, documents: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Tokens with padding anywhere (one token at least), and documents; padding is NaN, which must not be read."""
    made = torch.Generator().manual_seed(seed)
    mask = torch.rand(queries, length, generator=made) < 0.6
    mask[:, 0] |= ~mask.any(1)
    x = torch.randn(queries, length, dim, generator=made, dtype=torch.double)
    y = torch.randn(documents, dim, generator=made, dtype=torch.double)
    return x.masked_fill(~mask[:, :, None], torch.nan), mask, y


# --- scores --------------------------------------------------------------------------------------------------------


def test_scores_equal_a_hand_calculation() -> None:
    """Tokens (0, 0) and (6, 8), documents (3, 4) and (0, 0): L2 5, 5 and 0, 10; L1 7, 7 and 0, 14; own 5, 7."""
    x, y = torch.tensor([[[0.0, 0.0], [6.0, 8.0]]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    mask = torch.ones(1, 2)
    assert energy_distance.scores(x, mask, y, "euclidean").tolist() == [[-10.0, -10.0]]
    assert whole(x, mask, y, "euclidean").tolist() == [[-5.0, -5.0]]
    assert energy_distance.scores(x, mask, y, "manhattan").tolist() == [[-14.0, -14.0]]
    assert whole(x, mask, y, "manhattan").tolist() == [[-7.0, -7.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(energy_distance.DISTANCES),
    st.booleans(),
)
def test_values_and_gradients_are_those_of_the_plain_formula(
    seed: int, queries: int, length: int, documents: int, dim: int, distance: str, own_term: bool
) -> None:
    x, mask, y = drawn(seed, queries, length, documents, dim)
    if seed % 2:  # documents that are tokens of a query, and queries that meet in a token
        y[0] = x[mask][0]
        x[-1, mask[-1].nonzero()[0]] = x[mask][0]
    cotangent = torch.randn(queries, documents, dtype=torch.double)
    results = []
    score = whole if own_term else energy_distance.scores
    for function in (lambda a, b: score(a, mask, b, distance), lambda a, b: plain(a, mask, b, distance, own_term)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = function(a, b)
        value.backward(cotangent)
        results.append((value.detach(), a.grad, b.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not results[0][1].isnan().any()


@pytest.mark.parametrize("distance", energy_distance.DISTANCES)
@pytest.mark.parametrize("score", [energy_distance.scores, whole])
def test_gradients_are_those_of_finite_differences(distance: str, score: Any) -> None:
    x, mask, y = drawn(5, 3, 4, 4, 3)
    x = x.nan_to_num(0.0).requires_grad_()
    y.requires_grad_()

    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = score(a, mask, b, distance)
        return found

    assert torch.autograd.gradcheck(function, (x, y))


@pytest.mark.parametrize("distance", energy_distance.DISTANCES)
def test_the_gradient_of_no_distance_is_zero(distance: str) -> None:
    x = torch.full((1, 1, 4), 3.0, requires_grad=True)
    y = torch.full((2, 4), 3.0, requires_grad=True)
    found = whole(x, torch.ones(1, 1), y, distance)
    found.sum().backward()
    assert found.tolist() == [[0.0, 0.0]]
    assert x.grad.count_nonzero() == y.grad.count_nonzero() == 0


def test_nearly_equal_points_far_from_the_origin_are_exact() -> None:
    """A matrix product alone would give noise: the squared lengths are near 1e6, the squared distance is 9e-6."""
    x = torch.full((1, 100), 100.0).requires_grad_()
    y = torch.cat([x.detach(), torch.randn(3, 100)])
    y[0, 7] += 0.003
    y.requires_grad_()
    found = energy_distance.distances(x, y, "euclidean")
    found[0, 0].backward()
    step = float((y - x).detach()[0, 7])  # 0.003 as float32 has it at 100
    assert found[0, 0].item() == pytest.approx(step, rel=1e-6)
    expected = torch.zeros(100)
    expected[7] = -1
    assert torch.allclose(x.grad[0], expected, atol=1e-6)
    assert torch.allclose(y.grad[0], -expected, atol=1e-6)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return out


@pytest.mark.parametrize("distance", energy_distance.DISTANCES)
def test_no_tensor_of_tokens_times_documents_times_dim_is_made(distance: str) -> None:
    x, y = torch.randn(16, 8, 64, requires_grad=True), torch.randn(16, 64, requires_grad=True)
    with Largest() as largest:
        energy_distance.scores(x, torch.ones(16, 8), y, distance).sum().backward()
    assert largest.numbers == 16 * 8 * 64  # the tokens; the plain formula makes 16 times as many
    with Largest() as largest:
        plain(x[:4], torch.ones(4, 8).bool(), y, distance, False).sum().backward()
    assert largest.numbers >= 8 * 16 * 64


@pytest.mark.parametrize("distance", energy_distance.DISTANCES)
def test_half_precision_and_autocast_measure_in_float32(distance: str) -> None:
    x, mask, y = drawn(3, 3, 5, 4, 32)
    x, y = x.nan_to_num(0.0).to(torch.bfloat16).requires_grad_(), y.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = whole(x, mask, y, distance)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    exact = plain(x.detach().double(), mask, y.double(), distance, True)
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=2e-5)


def test_invalid_input_is_an_error() -> None:
    x, y = torch.ones(2, 1, 3), torch.ones(4, 3)
    with pytest.raises(DataError, match="expected a token for every query, found none in row 1"):
        energy_distance.scores(x, torch.tensor([[1], [0]]), y)
    with pytest.raises(DataError, match="expected a distance of manhattan or euclidean, found 'cosine'; choose one"):
        energy_distance.scores(x, torch.ones(2, 1), y, "cosine")
    with pytest.raises(DataError) as caught:
        energy_distance.distances(y, torch.ones(4, 2))
    assert str(caught.value) == "expected points (m, dim) and others (n, dim), found (4, 3) and (4, 2)."


# --- the loss ------------------------------------------------------------------------------------------------------


def features(model: Any, *columns: list[str], prompt: str | None = None) -> list[dict[str, Any]]:
    return [model.preprocess(list(column), prompt=prompt) for column in columns]


@pytest.mark.parametrize("distance", energy_distance.DISTANCES)
@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_the_loss_is_the_library_s_with_this_similarity(model: Any, distance: str, negatives: int) -> None:
    """Its own MultipleNegativesRankingLoss, given the plain formula, in value and in the gradient of every weight."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model.double().train()
    columns = [QUERIES, DOCUMENTS, *[NEGATIVES] * negatives]
    ours = energy_distance.EnergyRankingLoss(model, scale=0.5, distance=distance)(features(model, *columns), None)
    ours.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    read = [model(column) for column in features(model, *columns)]
    mask = read[0]["attention_mask"].bool()
    library = MultipleNegativesRankingLoss(
        model, scale=0.5, similarity_fct=lambda x, y: plain(x, mask, y, distance, own_term=True)
    )
    theirs = library.compute_loss_from_embeddings(
        [read[0]["token_embeddings"], *[each["sentence_embedding"] for each in read[1:]]], torch.empty(0)
    )
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert len(gradients) > 20
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-8, atol=1e-10)


def test_the_loss_prints_what_a_card_needs(model: Any) -> None:
    loss = energy_distance.EnergyRankingLoss(model, 3.0, "euclidean", False)
    assert loss.get_config_dict() == {
        "scale": 3.0,
        "similarity_fct": "energy",
        "distance": "euclidean",
        "special_tokens": False,
    }
    assert "doi={10.1016/j.jspi.2013.03.018}" in loss.citation


def test_invalid_loss_parameters_are_errors(model: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        energy_distance.EnergyRankingLoss(model, scale=0.0)
    assert str(caught.value) == "expected a scale above 0, found 0.0; change loss.parameters.scale."
    with pytest.raises(RecipeError, match="expected a distance of manhattan or euclidean, found 'cosine'"):
        energy_distance.EnergyRankingLoss(model, distance="cosine")
    with pytest.raises(DataError, match="one of documents at least, found 1"):
        energy_distance.EnergyRankingLoss(model)(features(model, QUERIES))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_library_s_trainer_trains_with_it(model: Any, tmp_path: Path, bf16: bool) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    rows = Dataset.from_dict({"query": QUERIES * 4, "text": DOCUMENTS * 4, "other": NEGATIVES * 4})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        max_steps=8,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        bf16=bf16,
        use_cpu=True,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        prompts={"query": "how "},
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = energy_distance.EnergyRankingLoss(model, scale=0.2)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    model.model_card_data.local_files_only = True
    model.save_pretrained(str(tmp_path / "model"))
    assert '"similarity_fct": "energy"' in (tmp_path / "model" / "README.md").read_text()


# --- which tokens count ----------------------------------------------------------------------------------------------


def test_special_tokens_can_be_left_out(model: Any) -> None:
    model.eval()
    batch = model.preprocess(["the car", "zebra", ""])  # zebra is [UNK]: a word all the same
    everything = energy_distance.embed(model, dict(batch))
    words = energy_distance.embed(model, dict(batch), special_tokens=False)
    assert everything.mask.sum(1).tolist() == [4, 3, 2]
    assert words.mask.tolist() == [[False, True, True, False], [False, True, False, False], [True, True, False, False]]
    assert torch.equal(everything.tokens, words.tokens)


@pytest.mark.parametrize("left", [False, True])
def test_the_prompt_follows_the_pooling(model: Any, left: bool) -> None:
    model.eval()
    model.tokenizer.padding_side = "left" if left else "right"
    batch = model.preprocess(["the car is it", "the car"], prompt="what is ")
    assert int(batch["prompt_length"]) == 3  # [CLS] what is
    assert energy_distance.embed(model, dict(batch)).mask.sum(1).tolist() == [8, 6]
    model[1].include_prompt = False
    found = energy_distance.embed(model, dict(batch))
    assert found.mask.sum(1).tolist() == [5, 3]
    mean = (found.tokens * found.mask[:, :, None]).sum(1) / found.mask.sum(1, keepdim=True)
    torch.testing.assert_close(mean, found.pooled)  # the pooling saw the same tokens


def test_a_model_without_tokens_is_refused(model: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, StaticEmbedding

    static = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_dim=4)], device="cpu")
    with pytest.raises(BaseError) as caught:
        energy_distance.energy_encoder(static)(["car"], "query")
    assert str(caught.value) == (
        "expected a model with token embeddings and a pooled vector of the same dimensions for the energy distance, "
        "found one without a pooling module; choose a transformer with one pooling mode."
    )
    model[1] = Pooling(32, pooling_mode=("cls", "mean"))
    with pytest.raises(BaseError, match="found tokens of 32 and vectors of 64"):
        energy_distance.energy_encoder(model)(["car"], "query")
    model[1] = Pooling(32, pooling_mode="mean")
    model.append(Dense(32, 32))
    with pytest.raises(BaseError, match="found a Dense module after the pooling"):
        energy_distance.energy_encoder(model)(["car"], "query")


# --- the encoder -----------------------------------------------------------------------------------------------------


def test_the_encoder_gives_what_the_library_gives(model: Any) -> None:
    model.train()
    texts = [*QUERIES, "a", *DOCUMENTS]
    model.prompts = {"query": "what is "}
    encode = energy_distance.energy_encoder(model, batches=partial(energy_distance.padded_batches, batch_size=2))
    clouds, vectors = encode(texts, "query"), encode(texts, "document")
    assert model.training
    theirs = model.encode(texts, prompt="what is ", output_value="token_embeddings")
    assert [cloud.shape for cloud in clouds] == [tuple(cloud.shape) for cloud in theirs]
    for ours, other in zip(clouds, theirs, strict=True):
        assert ours.dtype == np.float32
        assert ours == pytest.approx(other.numpy(), abs=1e-5)
    assert vectors == pytest.approx(model.encode(texts), abs=1e-5)


def test_vectors_are_those_before_a_normalize_module(model: Any) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    before = model.encode(DOCUMENTS)
    model.append(Normalize())
    assert energy_distance.energy_encoder(model)(DOCUMENTS, "document") == pytest.approx(before, abs=1e-5)
    assert np.linalg.norm(model.encode(DOCUMENTS), axis=1) == pytest.approx(1.0, abs=1e-5)
    loss = energy_distance.EnergyRankingLoss(model)(features(model, QUERIES, DOCUMENTS))
    del model[2]
    assert loss.item() == pytest.approx(
        energy_distance.EnergyRankingLoss(model)(features(model, QUERIES, DOCUMENTS)).item(), rel=1e-5
    )


def test_the_model_s_own_dimensions_cut_both(model: Any) -> None:
    whole = energy_distance.energy_encoder(model)(["car"], "query")[0]
    model.truncate_dim = 5
    encode = energy_distance.energy_encoder(model)
    assert encode(["car"], "query")[0].tolist() == whole[:, :5].tolist()
    assert encode(["car"], "document").shape == (1, 5)
    assert encode([], "query") == []
    assert len(encode([], "document")) == 0


# --- beside a saved model --------------------------------------------------------------------------------------------


@pytest.fixture
def saved(model: Any, tmp_path: Path) -> Iterator[Path]:
    model.save_pretrained(str(tmp_path / "model"))
    return tmp_path / "model"


def test_the_similarity_is_saved_with_the_model(saved: Path) -> None:
    from sentence_transformers import SentenceTransformer

    assert energy_distance.read_similarity(saved) is None
    expected = SentenceTransformer(str(saved), device="cpu").encode(DOCUMENTS)
    path = energy_distance.save_similarity(saved, "euclidean", False)
    assert energy_distance.read_similarity(saved) == {
        "similarity": "energy",
        "distance": "euclidean",
        "special_tokens": False,
    }
    assert json.loads(path.read_text()) == energy_distance.read_similarity(saved)
    again = SentenceTransformer(str(saved), device="cpu", local_files_only=True)
    assert again.encode(DOCUMENTS).tolist() == expected.tolist()
    assert {file.suffix for file in saved.rglob("*") if file.is_file()} <= {".json", ".safetensors", ".md", ".txt"}


def test_a_config_that_names_the_energy_distance_still_loads(saved: Path) -> None:
    from sentence_transformers import SentenceTransformer

    config = json.loads((saved / "config_sentence_transformers.json").read_text())
    (saved / "config_sentence_transformers.json").write_text(json.dumps({**config, "similarity_fn_name": "energy"}))
    assert SentenceTransformer(str(saved), device="cpu").similarity_fn_name == "cosine"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        '{"similarity": "energy"}',
        '{"similarity": "cosine", "distance": "manhattan", "special_tokens": true}',
        '{"similarity": "energy", "distance": "__import__", "special_tokens": true}',
        '{"similarity": "energy", "distance": ["manhattan"], "special_tokens": true}',
        '{"similarity": "energy", "distance": "manhattan", "special_tokens": 1}',
        '{"similarity": "energy", "distance": "manhattan", "special_tokens": true, "code": "x.py"}',
    ],
)
def test_another_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / energy_distance.SIMILARITY_FILE).write_text(text)
    with pytest.raises(BaseError) as caught:
        energy_distance.read_similarity(tmp_path)
    assert str(caught.value) == (
        "expected similarity energy, a distance of manhattan or euclidean and special_tokens true or false in "
        f"{str(tmp_path / energy_distance.SIMILARITY_FILE)!r}, found {json.loads(text)!r}; save the model again."
    )


@pytest.mark.parametrize("text", [b"{", b"", b"\xff", b"[" * 100_000])
def test_a_settings_file_that_is_not_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / energy_distance.SIMILARITY_FILE).write_bytes(text)
    with pytest.raises(BaseError, match=r"expected JSON in .*energy_similarity\.json', found something else"):
        energy_distance.read_similarity(tmp_path)


def test_an_unknown_distance_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="expected a distance of manhattan or euclidean, found 'cosine'"):
        energy_distance.save_similarity(tmp_path, "cosine", True)
