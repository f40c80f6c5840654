"""Loss trees become the library's modules with the values that a card prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from tiny import tiny_base

from workbench.errors import RecipeError
from workbench.losses import LOSSES, WRAPPERS, build_loss
from workbench.recipe import LossSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_base(tmp_path_factory.mktemp("losses"), dropout=0.0)), device="cpu")


NEEDED: dict[str, dict[str, Any]] = {"SoftmaxLoss": {"num_labels": 3}, "MatryoshkaLoss": {"matryoshka_dims": [32, 16]}}
NEEDED["Matryoshka2dLoss"] = NEEDED["MatryoshkaLoss"]


@pytest.mark.parametrize("name", LOSSES)
def test_what_the_library_prints_on_a_card_builds_the_same_loss(name: str, model: SentenceTransformer) -> None:
    first = build_loss(LossSpec(name=name, parameters=NEEDED.get(name, {})), model)
    assert type(first).__name__ == name
    config: Any = getattr(first, "get_config_dict", dict)
    printed = {key: value for key, value in config().items() if key != "num_labels" or value is not None}
    again = build_loss(LossSpec(name=name, parameters=printed), model)
    assert getattr(again, "get_config_dict", dict)() == config()


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
def test_where_all_texts_are_one_the_loss_is_that_of_guessing(rows: int, model: SentenceTransformer) -> None:
    """All cosines are 1, so each of n answers is as likely: ln n, whatever the scale."""
    loss = build_loss(LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 20.0}), model)
    same = [model.preprocess(["the car has a door"] * rows) for _ in range(2)]
    assert loss(same, None).item() == pytest.approx(math.log(rows), abs=1e-6)


def test_a_loss_of_the_author_is_refused_with_what_is_missing(model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError) as caught:
        build_loss(LossSpec(name="__main__.RLFeedbackLoss"), model)
    assert str(caught.value) == (
        "expected a loss of sentence-transformers, found '__main__.RLFeedbackLoss', which its author defined in the "
        "training script; the card does not hold its code, so set loss.name to a known one to train a stand-in for it."
    )


@pytest.mark.parametrize("name", ["os.system", "", "nn", "__class__", "MultipleNegativeRankingLoss", "losses"])
def test_no_name_but_a_known_one_is_looked_up(name: str, model: SentenceTransformer) -> None:
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
    ],
)
def test_what_cannot_be_understood_is_one_sentence(
    name: str, parameters: dict[str, Any], message: str, model: SentenceTransformer
) -> None:
    with pytest.raises(RecipeError, match=message):
        build_loss(LossSpec(name=name, parameters=parameters), model)


def test_a_plain_loss_wraps_nothing(model: SentenceTransformer) -> None:
    with pytest.raises(RecipeError, match="expected CoSENTLoss to stand alone, found MSELoss inside it"):
        build_loss(LossSpec(name="CoSENTLoss", inner=LossSpec(name="MSELoss")), model)
