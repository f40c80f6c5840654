"""Loss trees become the library's modules with the values that a card prints."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny import tiny_base

from workbench.errors import RecipeError
from workbench.models.losses import GUIDED, LOSSES, WRAPPERS, build_loss, register_loss
from workbench.recipe.schema import LossSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("losses"), dropout=0.0)


@pytest.fixture
def model(folder: Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


NEEDED: dict[str, dict[str, Any]] = {"SoftmaxLoss": {"num_labels": 3}, "MatryoshkaLoss": {"matryoshka_dims": [32, 16]}}
NEEDED["Matryoshka2dLoss"] = NEEDED["MatryoshkaLoss"]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in GUIDED])
def test_what_the_library_prints_on_a_card_builds_the_same_loss(name: str, model: SentenceTransformer) -> None:
    first = build_loss(LossSpec(name=name, parameters=NEEDED.get(name, {})), model)
    assert type(first).__name__ == name
    config: Any = getattr(first, "get_config_dict", dict)
    printed = {key: value for key, value in config().items() if key != "num_labels" or value is not None}
    again = build_loss(LossSpec(name=name, parameters=printed), model)
    before, after = config(), getattr(again, "get_config_dict", dict)()
    if name == "ContrastiveTensionLossInBatchNegatives":  # it keeps the logarithm of its scale
        assert (before.pop("scale"), after.pop("scale")) == pytest.approx((20.0, 20.0))
    assert after == before


TEXTS = [
    ["how many seat does the car have", "what is the price of a lamp", "is it a key", "the wheel of the engine"],
    ["the car seat is 5", "the price is 9", "a door key", "the engine power"],
    ["a roof", "the year of the model", "torque", "boot with a mirror"],
]
SCORES = [0.9, 0.1, 0.4, 0.7]
CLASSES = [0, 1, 0, 1]

INPUTS: dict[str, tuple[int, Any, dict[str, Any]]] = {
    "AnglELoss": (2, SCORES, {"scale": 10.0}),
    "BatchAllTripletLoss": (1, CLASSES, {"margin": 2.0}),
    "BatchHardSoftMarginTripletLoss": (1, CLASSES, {}),
    "BatchHardTripletLoss": (1, CLASSES, {"margin": 2.0}),
    "BatchSemiHardTripletLoss": (1, CLASSES, {"margin": 2.0}),
    "CachedGISTEmbedLoss": (3, None, {"temperature": 0.05, "mini_batch_size": 2}),
    "CachedMultipleNegativesRankingLoss": (3, None, {"scale": 5.0, "mini_batch_size": 2}),
    "CachedMultipleNegativesSymmetricRankingLoss": (2, None, {"scale": 5.0, "mini_batch_size": 2}),
    "CoSENTLoss": (2, SCORES, {"scale": 10.0}),
    "ContrastiveLoss": (2, CLASSES, {"margin": 0.7}),
    "ContrastiveTensionLoss": (2, CLASSES, {}),
    "ContrastiveTensionLossInBatchNegatives": (2, None, {"scale": 10.0}),
    "CosineSimilarityLoss": (2, SCORES, {}),
    "DenoisingAutoEncoderLoss": (2, None, {}),
    "DistillKLDivLoss": (3, [[0.9, 0.2]] * 4, {"temperature": 2.0}),
    "EmbedDistillLoss": (1, [[0.1] * 32] * 4, {"distance_metric": "cosine"}),
    "GISTEmbedLoss": (3, None, {"temperature": 0.05}),
    "GlobalOrthogonalRegularizationLoss": (2, None, {"mean_weight": 0.5}),
    "MSELoss": (1, [[0.1] * 32] * 4, {}),
    "MarginMSELoss": (3, SCORES, {}),
    "MegaBatchMarginLoss": (2, None, {"use_mini_batched_version": False}),
    "MultipleNegativesRankingLoss": (3, None, {"hardness_mode": "hard_negatives", "hardness_strength": 2.0}),
    "MultipleNegativesSymmetricRankingLoss": (2, None, {"scale": 5.0}),
    "OnlineContrastiveLoss": (2, CLASSES, {"margin": 0.7}),
    "SoftmaxLoss": (2, CLASSES, {"num_labels": 2}),
    "TripletLoss": (3, None, {"triplet_margin": 0.5}),
    "AdaptiveLayerLoss": (2, None, {"n_layers_per_step": 1}),
    "Matryoshka2dLoss": (2, None, {"matryoshka_dims": [32, 8]}),
    "MatryoshkaLoss": (2, None, {"matryoshka_dims": [32, 8], "matryoshka_weights": [1, 0.5]}),
}
"""Name -> text columns, labels, parameters."""


def value_of(loss: Any, model: SentenceTransformer, columns: int, labels: Any) -> Any:
    import torch

    features = [model.preprocess(texts) for texts in TEXTS[:columns]]
    torch.manual_seed(5)
    random.seed(5)
    value = loss(features, None if labels is None else torch.tensor(labels))
    return {name: part.item() for name, part in value.items()} if isinstance(value, dict) else value.item()


@pytest.mark.parametrize("name", LOSSES + WRAPPERS)
def test_a_loss_has_the_value_of_the_library(name: str, model: SentenceTransformer, folder: Path) -> None:
    import torch
    from sentence_transformers.sentence_transformer import losses

    columns, labels, parameters = INPUTS[name]
    inner = LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 3.0}) if name in WRAPPERS else None
    named = {**parameters, "guide": str(folder)} if name in GUIDED else parameters
    torch.manual_seed(3)
    ours = value_of(build_loss(LossSpec(name=name, parameters=named, inner=inner), model), model, columns, labels)

    direct: dict[str, Any] = dict(parameters)
    if name in GUIDED:
        direct["guide"] = type(model)(str(folder), device="cpu")
    if name in WRAPPERS:
        direct["loss"] = losses.MultipleNegativesRankingLoss(model, scale=3.0)
    if name == "SoftmaxLoss":
        direct["embedding_dimension"] = 32
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        library = getattr(losses, name)(model, **direct)
    theirs = value_of(library, model, columns, labels)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert all(math.isfinite(part) for part in (theirs.values() if isinstance(theirs, dict) else [theirs]))


def test_the_similarity_of_a_model_is_taken_by_its_own_name(model: SentenceTransformer) -> None:
    import torch
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.util import dot_score

    named = build_loss(LossSpec(name="MultipleNegativesRankingLoss", parameters={"similarity_fct": "dot"}), model)
    direct = losses.MultipleNegativesRankingLoss(model, similarity_fct=dot_score)
    assert value_of(named, model, 2, None) == pytest.approx(value_of(direct, model, 2, None))
    cosent: Any = build_loss(LossSpec(name="CoSENTLoss", parameters={"similarity_fct": "manhattan"}), model)
    ones = torch.ones(1, 2)
    assert cosent.similarity_fct(ones, 3 * ones).tolist() == [-4.0]


def test_the_energy_distance_is_a_loss_of_its_own(model: SentenceTransformer) -> None:
    parameters = {"scale": 2.0, "similarity_fct": "energy", "distance": "euclidean", "hardness_mode": None}
    loss: Any = build_loss(LossSpec(name="MultipleNegativesRankingLoss", parameters=parameters), model)
    assert type(loss).__name__ == "EnergyRankingLoss"
    assert (loss.scale, loss.distance) == (2.0, "euclidean")
    for name, more in (("CoSENTLoss", {}), ("MultipleNegativesRankingLoss", {"hardness_mode": "hard_negatives"})):
        with pytest.raises(
            RecipeError, match="expected the similarity 'energy' for MultipleNegativesRankingLoss alone"
        ):
            build_loss(LossSpec(name=name, parameters={"similarity_fct": "energy", **more}), model)


# ------------------------------------------------------------------------------------------------------- denoising


def test_single_texts_are_damaged_by_the_denoising_loss(model: SentenceTransformer) -> None:
    import torch

    loss: Any = build_loss(LossSpec(name="DenoisingAutoEncoderLoss"), model)
    features = model.preprocess(TEXTS[0])
    before = {name: tensor.clone() for name, tensor in features.items() if hasattr(tensor, "clone")}
    torch.manual_seed(1)
    value = loss([features], None)
    value.backward()
    assert 1 < value.item() < 10  # the vocabulary has 49 words: ln 49 = 3.9 is guessing
    assert all(torch.equal(features[name], tensor) for name, tensor in before.items())


def test_a_damaged_text_keeps_its_special_tokens_and_four_tenths_of_the_others() -> None:
    import torch

    from workbench.models.losses import _delete_tokens

    torch.manual_seed(2)
    ids = torch.tensor([[2, *range(10, 60), 3], [2, 10, 3, *[0] * 49]])
    made = _delete_tokens({"input_ids": ids, "attention_mask": (ids > 0).long(), "other": 1}, [0, 1, 2, 3])
    first, second = ([one for one in row if one] for row in made["input_ids"].tolist())
    assert (first[0], first[-1]) == (2, 3)
    assert first[1:-1] == sorted(first[1:-1])  # in their order
    assert 10 <= len(first) - 2 <= 30  # 50 draws at 0.4
    assert second == [2, 10, 3]  # one word always stays
    assert made["attention_mask"].sum(dim=1).tolist() == [len(first), 3]
    assert made["other"] == 1


def test_a_model_without_a_folder_has_a_denoising_loss(model: SentenceTransformer) -> None:
    model.transformers_model.config._name_or_path = "made/here"
    loss: Any = build_loss(LossSpec(name="DenoisingAutoEncoderLoss"), model)
    assert model.transformers_model.config._name_or_path == "made/here"
    assert math.isfinite(value_of(loss, model, 1, None))


# --------------------------------------------------------------------------------------------------- losses of users


@pytest.fixture
def registered() -> Iterator[str]:
    from workbench.models import losses

    name = "__main__.RLFeedbackLoss"
    yield name
    losses._REGISTERED.pop(name, None)


def test_a_registered_loss_is_built_with_its_parameters(model: SentenceTransformer, registered: str) -> None:
    from sentence_transformers.sentence_transformer import losses

    class Doubled(losses.MultipleNegativesRankingLoss):
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            return 2 * super().forward(sentence_features, labels)

    register_loss(registered, Doubled)
    plain = build_loss(LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 7.0}), model)
    mine = build_loss(LossSpec(name=registered, parameters={"scale": 7.0}), model)
    assert value_of(mine, model, 2, None) == pytest.approx(2 * value_of(plain, model, 2, None))
    wrapped = LossSpec(name="MatryoshkaLoss", parameters={"matryoshka_dims": [32]}, inner=LossSpec(name=registered))
    assert "Doubled" in {type(module).__name__ for module in build_loss(wrapped, model).modules()}
    with pytest.raises(RecipeError, match=r"registered loss __main__\.RLFeedbackLoss can take, found {'reward': 1}"):
        build_loss(LossSpec(name=registered, parameters={"reward": 1}), model)


def test_invalid_registrations_are_errors() -> None:
    with pytest.raises(RecipeError, match="expected a name that sentence-transformers has not taken, found 'MSELoss'"):
        register_loss("MSELoss", lambda model: model)
    with pytest.raises(RecipeError, match="expected a name and a function that builds the loss, found 'x' and 3"):
        register_loss("x", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_holds_the_loss_inside_it(name: str, model: SentenceTransformer) -> None:
    inner = LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 7.0, "similarity_fct": "dot_score"})
    loss: Any = build_loss(LossSpec(name=name, parameters=NEEDED.get(name, {}), inner=inner), model)
    assert type(loss).__name__ == name
    kinds = {type(module).__name__: module for module in loss.modules()}
    assert kinds["MultipleNegativesRankingLoss"].scale == 7.0
    assert kinds["MultipleNegativesRankingLoss"].similarity_fct.__name__ == "dot_score"


def test_values_of_the_card_reach_the_loss(model: SentenceTransformer) -> None:
    from sentence_transformers import util
    from sentence_transformers.sentence_transformer import losses

    cached: Any = build_loss(
        LossSpec(name="CachedMultipleNegativesRankingLoss", parameters={"scale": 0.05, "mini_batch_size": 4}), model
    )
    assert (cached.scale, cached.mini_batch_size) == (0.05, 4)
    cosent: Any = build_loss(
        LossSpec(name="CoSENTLoss", parameters={"scale": 20.0, "similarity_fct": "pairwise_cos_sim"}), model
    )
    assert cosent.similarity_fct is util.pairwise_cos_sim
    triplet: Any = build_loss(
        LossSpec(
            name="TripletLoss", parameters={"distance_metric": "TripletDistanceMetric.COSINE", "triplet_margin": 0.5}
        ),
        model,
    )
    assert triplet.distance_metric is losses.TripletDistanceMetric.COSINE
    assert triplet.triplet_margin == 0.5
    cosine: Any = build_loss(
        LossSpec(name="CosineSimilarityLoss", parameters={"loss_fct": "torch.nn.modules.loss.L1Loss"}), model
    )
    assert type(cosine.loss_fct).__name__ == "L1Loss"


@pytest.mark.parametrize("rows", [2, 5])
def test_the_loss_of_equal_texts_is_that_of_guessing(rows: int, model: SentenceTransformer) -> None:
    """All cosines are 1, so each of n answers is as likely: ln n, whatever the scale."""
    loss = build_loss(LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 20.0}), model)
    same = [model.preprocess(["the car has a door"] * rows) for _ in range(2)]
    assert loss(same, None).item() == pytest.approx(math.log(rows), abs=1e-6)


def test_a_loss_of_the_author_is_refused_with_what_is_missing(model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError) as caught:
        build_loss(LossSpec(name="__main__.RLFeedbackLoss"), model)
    assert str(caught.value) == (
        "expected a loss of sentence-transformers, found '__main__.RLFeedbackLoss', which its author defined in the "
        "training script; the card does not hold its code, so set loss.name to a known one to train a stand-in for it, "
        "or give its code with workbench.register_loss('__main__.RLFeedbackLoss', build)."
    )


@pytest.mark.parametrize("name", ["os.system", "", "nn", "__class__", "MultipleNegativeRankingLoss", "losses"])
def test_only_known_names_are_looked_up(name: str, model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError, match=r"expected a loss of sentence-transformers, found .*; nearest known: "):
        build_loss(LossSpec(name=name), model)


def test_the_nearest_known_loss_is_named(model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError, match="nearest known: MultipleNegativesRankingLoss"):
        build_loss(LossSpec(name="MultipleNegativeRankingLoss"), model)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("MultipleNegativesRankingLoss", {"similarity_fct": "<lambda>"}, "found '<lambda>', a function without a name"),
        ("MultipleNegativesRankingLoss", {"similarity_fct": "os.system"}, "found 'os.system', one that is not known"),
        ("MultipleNegativesRankingLoss", {"temperature": 0.1}, "expected a parameter of .*, found 'temperature'"),
        ("TripletLoss", {"distance_metric": "TripletDistanceMetric.MAXIMUM"}, "expected a distance of Triplet"),
        ("TripletLoss", {"distance_metric": "TripletDistanceMetric.__class__"}, "expected a distance of Triplet"),
        ("CosineSimilarityLoss", {"loss_fct": "subprocess.Popen"}, "for loss_fct of CosineSimilarityLoss, found 'sub"),
        ("SoftmaxLoss", {}, "expected parameters that SoftmaxLoss can take, found {}"),
        ("MatryoshkaLoss", {"matryoshka_dims": [8]}, "expected a loss inside MatryoshkaLoss, found none"),
        ("GISTEmbedLoss", {}, "expected the name of the guide of GISTEmbedLoss, a Hub id or a folder, found none"),
        ("GISTEmbedLoss", {"guide": "SentenceTransformer(\\n)"}, "a card prints only its architecture"),
        (
            "CachedGISTEmbedLoss",
            {"guide": "/none/such"},
            "expected the guide of CachedGISTEmbedLoss on this disk, .* found no model '/none/such'; set loss",
        ),
    ],
)
def test_invalid_parameters_are_errors(
    name: str, parameters: dict[str, Any], message: str, model: SentenceTransformer
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_loss(LossSpec(name=name, parameters=parameters), model)


def test_a_plain_loss_wraps_nothing(model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError, match="expected CoSENTLoss to stand alone, found MSELoss inside it"):
        build_loss(LossSpec(name="CoSENTLoss", inner=LossSpec(name="MSELoss")), model)


@pytest.mark.parametrize("name", ["MatryoshkaLoss", "Matryoshka2dLoss"])
def test_more_dimensions_than_the_model_has_are_refused(name: str, model: SentenceTransformer) -> None:
    inner = LossSpec(name="MultipleNegativesRankingLoss")
    with pytest.raises(RecipeError) as caught:
        build_loss(LossSpec(name=name, parameters={"matryoshka_dims": [64, 16]}, inner=inner), model)
    assert str(caught.value) == (
        "expected matryoshka_dims of at most 32, the dimensions that the model gives, found [64, 16]; take a larger "
        "base, or set matryoshka_dims of the loss, for example to [32, 16]."
    )
