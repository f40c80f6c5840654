"""The loss tree of a recipe, made into modules of sentence-transformers.

A card prints a loss as a class name and a few parameters as text or numbers. The names are looked up in one explicit
tuple and never imported by what the card says, so no text of a card can choose which code runs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from workbench.errors import RecipeError
from workbench.recipe import LossSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

LOSSES = (
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineSimilarityLoss",
    "MSELoss",
    "MarginMSELoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SoftmaxLoss",
    "TripletLoss",
)
"""Losses that read embeddings and need no second model."""

WRAPPERS = ("AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss")
"""Losses that change how another one is computed."""

SIMILARITIES: Mapping[str, str] = {
    "cos_sim": "cos_sim",
    "pytorch_cos_sim": "cos_sim",
    "dot_score": "dot_score",
    "euclidean_sim": "euclidean_sim",
    "manhattan_sim": "manhattan_sim",
    "pairwise_cos_sim": "pairwise_cos_sim",
    "pairwise_dot_score": "pairwise_dot_score",
    "pairwise_euclidean_sim": "pairwise_euclidean_sim",
    "pairwise_manhattan_sim": "pairwise_manhattan_sim",
    "pairwise_angle_sim": "pairwise_angle_sim",
}
"""What a card prints for `similarity_fct` -> the function's name in sentence_transformers.util."""

TORCH_MODULES = (
    "torch.nn.modules.loss.MSELoss",
    "torch.nn.modules.loss.L1Loss",
    "torch.nn.modules.loss.HuberLoss",
    "torch.nn.modules.loss.SmoothL1Loss",
    "torch.nn.modules.loss.CrossEntropyLoss",
    "torch.nn.modules.loss.BCEWithLogitsLoss",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.activation.Sigmoid",
    "torch.nn.modules.activation.Tanh",
)
"""What a card prints for `loss_fct` and `cos_score_transformation`."""

PRINTED_ONLY = ("loss", "model")
"""Printed parameters that the tree itself says."""


def build_loss(spec: LossSpec, model: SentenceTransformer) -> nn.Module:
    """The loss of `spec`, with everything that it wraps, for `model`.

    Parameters that the installed library no longer knows are refused, not dropped: a loss that ignores what the card
    says would train something else.

    Raises RecipeError where a loss or one of its parameters is not known.
    """
    from sentence_transformers.sentence_transformer import losses

    if spec.name not in LOSSES + WRAPPERS:
        raise _unknown_loss(spec.name)
    kind = getattr(losses, spec.name)
    given = {key: value for key, value in spec.parameters.items() if key not in PRINTED_ONLY}
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", *PRINTED_ONLY)]
    names = {key: _parameter(key, known) for key in given}
    parameters = {name: _argument(spec.name, name, given[key]) for key, name in names.items() if name is not None}
    if spec.name in WRAPPERS:
        parameters["loss"] = build_loss(_inner(spec), model)
    elif spec.inner is not None:
        raise RecipeError(
            f"expected {spec.name} to stand alone, found {spec.inner.name} inside it; "
            f"losses that wrap another are {', '.join(WRAPPERS)}."
        )
    if spec.name == "SoftmaxLoss":
        parameters.setdefault("embedding_dimension", model.get_embedding_dimension())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an old card names an old loss
            loss: nn.Module = kind(model, **parameters)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"expected parameters that {spec.name} can take, found {dict(given)!r} ({error}); change loss.parameters."
        ) from error
    _agree(spec.name, loss, {key: given[key] for key, name in names.items() if name is None}, known)
    return loss


def _agree(name: str, loss: nn.Module, printed: Mapping[str, Any], known: list[str]) -> None:
    """RecipeError where the card prints a value that the loss does not take and does not have by itself."""
    config: Mapping[str, Any] = getattr(loss, "get_config_dict", dict)()
    for key, value in printed.items():
        if key not in config or _listed(config[key]) != _listed(value):
            raise RecipeError(
                f"expected a parameter of {name} ({', '.join(known) or 'it has none'}), found {key!r} with the value "
                f"{value!r}; remove it from loss.parameters or correct it."
            )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _inner(spec: LossSpec) -> LossSpec:
    if spec.inner is None:
        raise RecipeError(f"expected a loss inside {spec.name}, found none; name it in loss.inner.")
    return spec.inner


def _unknown_loss(name: str) -> RecipeError:
    if name.startswith("__main__."):
        return RecipeError(
            f"expected a loss of sentence-transformers, found {name!r}, which its author defined in the training "
            "script; the card does not hold its code, so set loss.name to a known one to train a stand-in for it."
        )
    near = get_close_matches(name, LOSSES + WRAPPERS, n=3, cutoff=0.4) or LOSSES[:3]
    return RecipeError(
        f"expected a loss of sentence-transformers, found {name!r}; nearest known: {', '.join(near)}. Change loss.name."
    )


def _parameter(name: str, known: list[str]) -> str | None:
    """What the loss calls a printed parameter (some print `margin` and take `triplet_margin`); None where it takes
    none of the kind."""
    if name == "margin" and "triplet_margin" in known:
        return "triplet_margin"
    return name if name in known else None


def _argument(loss: str, name: str, value: Any) -> Any:
    """A printed value as the object that the loss takes; numbers, lists and None are taken as they are."""
    if name == "similarity_fct":
        return _similarity(loss, value)
    if name == "distance_metric" and loss != "EmbedDistillLoss":
        return _distance(loss, value)
    if name in ("loss_fct", "cos_score_transformation"):
        return _torch_module(loss, name, value)
    if name == "directions" and isinstance(value, list):
        return tuple(value)
    return value


def _similarity(loss: str, value: Any) -> Any:
    from sentence_transformers import util

    function = SIMILARITIES.get(value) if isinstance(value, str) else None
    if function is None:
        what = "a function without a name" if value == "<lambda>" else "one that is not known"
        raise RecipeError(
            f"expected a similarity of sentence-transformers for {loss} ({', '.join(SIMILARITIES)}), found {value!r}, "
            f"{what}; set loss.parameters.similarity_fct to the one that was meant."
        )
    return getattr(util, function)


def _distance(loss: str, value: Any) -> Any:
    from sentence_transformers.sentence_transformer import losses

    word = str(value).rpartition(".")[2].lower()
    enums = (
        losses.TripletDistanceMetric,
        losses.SiameseDistanceMetric,
        losses.BatchHardTripletLossDistanceFunction,
    )
    choices = enums[2] if loss.startswith("Batch") else enums[0] if loss == "TripletLoss" else enums[1]
    known = {name.lower(): getattr(choices, name) for name in vars(choices) if not name.startswith("_")}
    for candidate in (word, f"{word}_distance"):
        if candidate in known:
            return known[candidate]
    raise RecipeError(
        f"expected a distance of {choices.__name__} for {loss} ({', '.join(known)}), found {value!r}; "
        "change loss.parameters.distance_metric."
    )


def _torch_module(loss: str, name: str, value: Any) -> nn.Module:
    from torch import nn

    if not isinstance(value, str) or value not in TORCH_MODULES:
        raise RecipeError(
            f"expected one of {', '.join(TORCH_MODULES)} for {name} of {loss}, found {value!r}; "
            f"change loss.parameters.{name}."
        )
    module: nn.Module = getattr(nn, value.rpartition(".")[2])()
    return module
