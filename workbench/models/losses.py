"""The loss tree of a recipe, made into modules of sentence-transformers.

A card prints a loss as a class name and a few parameters as text or numbers. The names are looked up in one explicit
tuple, or among those that a program has registered, and never imported by what the card says, so no text of a card can
choose which code runs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import BaseError, RecipeError
from workbench.recipe.schema import LossSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

LOSSES = (
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosineSimilarityLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "EmbedDistillLoss",
    "GISTEmbedLoss",
    "GlobalOrthogonalRegularizationLoss",
    "MSELoss",
    "MarginMSELoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SoftmaxLoss",
    "TripletLoss",
)
"""Losses that read texts (and labels) and wrap no other."""

GUIDED = ("CachedGISTEmbedLoss", "GISTEmbedLoss")
"""Losses with a second model, which picks the negatives."""

WRAPPERS = ("AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss")
"""Losses that change how another one is computed."""

SIMILARITIES: Mapping[str, str] = {
    "cosine": "cos_sim",
    "dot": "dot_score",
    "euclidean": "euclidean_sim",
    "manhattan": "manhattan_sim",
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
"""What a card prints for `similarity_fct`, or a model calls its similarity -> the function in
sentence_transformers.util. `_similarity` takes the form for pairs where a loss compares row by row."""

PAIRWISE = ("CoSENTLoss", "AnglELoss", "MarginMSELoss", "DistillKLDivLoss")
"""Losses that compare row by row and not every text with every other."""

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


Build = Callable[..., "nn.Module"]
"""`build(model, **parameters)` gives the loss; a loss class is one. A wrapping loss gets the inner one as `loss`."""

_REGISTERED: dict[str, Build] = {}


def register_loss(name: str, build: Build) -> None:
    """Let recipes name a loss of your own: `build(model, **loss.parameters)` makes it, and a loss class does.

    A card prints the loss of a training script as `__main__.Name`; register it under that name and its recipe runs. A
    loss that wraps another takes it as the keyword `loss`. The name of a loss of the library cannot be taken.

    >>> from torch import nn
    >>> register_loss("__main__.Nothing", lambda model, weight=1.0: nn.Identity())
    """
    if name in LOSSES + WRAPPERS:
        raise RecipeError(f"expected a name that sentence-transformers has not taken, found {name!r}; choose another.")
    if not name or not callable(build):
        raise RecipeError(
            f"expected a name and a function that builds the loss, found {name!r} and {build!r}; "
            "for example register_loss('__main__.MyLoss', MyLoss)."
        )
    _REGISTERED[name] = build


def build_loss(spec: LossSpec, model: SentenceTransformer) -> nn.Module:
    """The loss of `spec`, with everything that it wraps, for `model`.

    Parameters that the installed library no longer knows are refused, not dropped: a loss that ignores what the card
    says would train something else.

    Raises RecipeError where a loss or one of its parameters is not known, or the model cannot have it.
    """
    from sentence_transformers.sentence_transformer import losses

    if spec.name in _REGISTERED:
        return _build_registered(spec, model)
    if spec.name not in LOSSES + WRAPPERS:
        raise _unknown_loss(spec.name)
    if spec.parameters.get("similarity_fct") == "energy":
        return _energy(spec, model)
    kind = _denoising(losses.DenoisingAutoEncoderLoss) if spec.name == DENOISING else getattr(losses, spec.name)
    given = {key: value for key, value in spec.parameters.items() if key not in PRINTED_ONLY}
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", *PRINTED_ONLY)]
    names = {key: _parameter(key, known) for key in given}
    parameters = {name: _argument(spec.name, name, given[key]) for key, name in names.items() if name is not None}
    if spec.name in WRAPPERS:
        _fit_dimensions(spec, model)
        parameters["loss"] = build_loss(_inner(spec), model)
    elif spec.inner is not None:
        raise RecipeError(
            f"expected {spec.name} to stand alone, found {spec.inner.name} inside it; "
            f"losses that wrap another are {', '.join(WRAPPERS)}."
        )
    if spec.name == "SoftmaxLoss":
        parameters.setdefault("embedding_dimension", model.get_embedding_dimension())
    if spec.name in GUIDED:
        parameters["guide"] = _guide(spec, model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an old card names an old loss
            loss: nn.Module = kind(model, **parameters)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error) or "it does not fit the model"
        raise RecipeError(
            f"expected parameters that {spec.name} can take, found {dict(given)!r} ({reason}); change loss.parameters."
        ) from error
    _agree(spec.name, loss, {key: given[key] for key, name in names.items() if name is None}, known)
    return loss


def _build_registered(spec: LossSpec, model: SentenceTransformer) -> nn.Module:
    wrapped = {} if spec.inner is None else {"loss": build_loss(spec.inner, model)}
    try:
        return _REGISTERED[spec.name](model, **spec.parameters, **wrapped)
    except TypeError as error:
        raise RecipeError(
            f"expected parameters that the registered loss {spec.name} can take, found {spec.parameters!r} ({error}); "
            "change loss.parameters."
        ) from error


def _energy(spec: LossSpec, model: SentenceTransformer) -> nn.Module:
    """The ranking loss by energy distance, which the library does not have."""
    from workbench.models.energy_distance import EnergyRankingLoss

    taken = ("scale", "distance", "special_tokens")
    given = {name: value for name, value in spec.parameters.items() if name != "similarity_fct"}
    strange = [name for name in given if name not in taken and given[name] not in (None, False)]
    if spec.name != "MultipleNegativesRankingLoss" or spec.inner is not None or strange:
        found = f"with {', '.join(strange)}" if strange else f"for {spec.name}"
        raise RecipeError(
            f"expected the similarity 'energy' for MultipleNegativesRankingLoss alone, with {', '.join(taken)}, found "
            f"it {found}; change the loss."
        )
    try:
        return EnergyRankingLoss(model, **{name: given[name] for name in taken if name in given})
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"expected parameters that the ranking loss by energy distance can take, found {given!r} ({error}); change "
            "loss.parameters."
        ) from error


def _guide(spec: LossSpec, model: SentenceTransformer) -> SentenceTransformer:
    """The second model of a guided loss, on the device of `model`."""
    from workbench.models.base import load_base

    name = spec.parameters.get("guide")
    if not isinstance(name, str) or not name or "(" in name:
        found = "none" if name is None else repr(name)[:80]
        raise RecipeError(
            f"expected the name of the guide of {spec.name}, a Hub id or a folder, found {found}; a card prints only "
            "its architecture, so set loss.parameters.guide."
        )
    try:
        return load_base(name, device=str(model.device)).model
    except BaseError as error:
        raise RecipeError(
            f"expected the guide of {spec.name} on this disk, in the local cache or on the Hub, found no model "
            f"{name!r}; set loss.parameters.guide to a folder that holds it, or fetch it first with a connection."
        ) from error


def _fit_dimensions(spec: LossSpec, model: SentenceTransformer) -> None:
    """RecipeError where a Matryoshka loss asks for more dimensions than the model gives."""
    asked, most = spec.parameters.get("matryoshka_dims"), model.get_embedding_dimension()
    if not isinstance(asked, list | tuple) or most is None or not all(isinstance(size, int) for size in asked):
        return
    if any(size > most for size in asked):
        fitting = list(dict.fromkeys([most, *(size for size in asked if size < most)]))
        raise RecipeError(
            f"expected matryoshka_dims of at most {most}, the dimensions that the model gives, found {list(asked)}; "
            f"take a larger base, or set matryoshka_dims of the loss, for example to {fitting}."
        )


DENOISING = "DenoisingAutoEncoderLoss"
KEPT = 0.4
"""Share of tokens that a damaged text keeps: 0.6 are deleted, https://arxiv.org/abs/2104.06979."""


def _denoising(library: type[nn.Module]) -> type[nn.Module]:
    """The library's denoising loss, which takes rows of a single text too: then it damages the texts itself.

    The library wants rows of (damaged, original); `fit()` made them from single texts by deleting words. Here tokens
    are deleted, anew each time a row is seen, because a loss sees tokens and no words. The tied decoder is read from
    the folder of the model's transformer; a model that lies in none gets a passing one.
    """
    import tempfile

    class Denoising(library):  # type: ignore[valid-type, misc]
        def __init__(
            self, model: Any, decoder_name_or_path: str | None = None, tie_encoder_decoder: bool = True
        ) -> None:
            inside = getattr(model, "transformers_model", None)
            name = getattr(getattr(inside, "config", None), "_name_or_path", "")
            if inside is None or not tie_encoder_decoder or Path(name, "config.json").is_file():
                super().__init__(model, decoder_name_or_path, tie_encoder_decoder)
                return
            with tempfile.TemporaryDirectory() as folder:
                inside.save_pretrained(folder)
                model.tokenizer.save_pretrained(folder)
                inside.config._name_or_path = folder
                try:
                    super().__init__(model, decoder_name_or_path, tie_encoder_decoder)
                finally:
                    inside.config._name_or_path = name

        def forward(self, sentence_features: Any, labels: Any) -> Any:
            columns = list(sentence_features)
            if len(columns) == 1:
                columns = [_damaged(columns[0], self.tokenizer_encoder.all_special_ids), columns[0]]
            return super().forward(columns, labels)

    Denoising.__name__ = Denoising.__qualname__ = library.__name__
    return Denoising


def _damaged(features: Mapping[str, Any], special: list[int]) -> dict[str, Any]:
    """`features` with most tokens of each text deleted; special tokens stay, and one other at least.

    `input_ids` and `attention_mask` are (rows, tokens) and come back as long as before, padded to the right.
    """
    import torch

    ids, mask = features["input_ids"], features["attention_mask"]  # both (rows, tokens)
    fixed = torch.isin(ids, torch.tensor(special, device=ids.device)) & mask.bool()
    words = mask.bool() & ~fixed
    draw = torch.rand(ids.shape, device=ids.device).masked_fill(~words, 2.0)
    kept = fixed | (words & ((draw < KEPT) | (draw == draw.min(dim=1, keepdim=True).values)))
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)  # kept tokens first, in their order
    shortened = kept.gather(1, order).to(mask.dtype)
    made = {"input_ids": ids.gather(1, order) * shortened, "attention_mask": shortened}
    return {**{name: value for name, value in features.items() if name not in made}, **made}


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
            "script; the card does not hold its code, so set loss.name to a known one to train a stand-in for it, or "
            f"give its code with workbench.register_loss({name!r}, build)."
        )
    known = [*LOSSES, *WRAPPERS, *_REGISTERED]
    near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
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
    if function is not None and loss in PAIRWISE and not function.startswith("pairwise_"):
        function = f"pairwise_{function}"
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
