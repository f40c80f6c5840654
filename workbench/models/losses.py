"""The loss tree of a recipe, built from the losses of sentence-transformers.

A card prints a loss as a class name and a few parameters as text or numbers. Names are looked up in one explicit
tuple, or among those that a program has registered, and never imported: no text of a card chooses which code runs.
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
    "AnglELoss", "BatchAllTripletLoss", "BatchHardSoftMarginTripletLoss", "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss", "CachedGISTEmbedLoss", "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss", "CoSENTLoss", "ContrastiveLoss", "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives", "CosineSimilarityLoss", "DenoisingAutoEncoderLoss", "DistillKLDivLoss",
    "EmbedDistillLoss", "GISTEmbedLoss", "GlobalOrthogonalRegularizationLoss", "MSELoss", "MarginMSELoss",
    "MegaBatchMarginLoss", "MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss", "SoftmaxLoss", "TripletLoss",
)  # fmt: skip
"""Losses that read texts (and labels) and wrap no other."""

GUIDED = ("CachedGISTEmbedLoss", "GISTEmbedLoss")
"""Losses with a second model, which picks the negatives."""

WRAPPERS = ("AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss")
"""Losses that change how another one is computed."""

SIMILARITIES: Mapping[str, str] = {
    **{name: f"{name}_sim" for name in ("euclidean", "manhattan")},
    **dict.fromkeys(("cosine", "cos_sim", "pytorch_cos_sim"), "cos_sim"),
    **dict.fromkeys(("dot", "dot_score"), "dot_score"),
    **{
        name: name
        for name in (
            "euclidean_sim", "manhattan_sim", "pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim",
            "pairwise_manhattan_sim", "pairwise_angle_sim",
        )
    },
}  # fmt: skip
"""A printed `similarity_fct`, or a model's similarity -> the function in sentence_transformers.util."""

PAIRWISE = ("CoSENTLoss", "AnglELoss", "MarginMSELoss", "DistillKLDivLoss")
"""Losses that compare row by row and not every text with every other."""

TORCH_MODULES = {
    "loss": ("MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "CrossEntropyLoss", "BCEWithLogitsLoss"),
    "linear": ("Identity",),
    "activation": ("Sigmoid", "Tanh"),
}
"""Modules of torch.nn that a card may print for `loss_fct` and `cos_score_transformation`."""

PRINTED_ONLY = ("loss", "model")
"""Printed parameters that the tree itself says."""

DENOISING = "DenoisingAutoEncoderLoss"
KEPT_TOKENS = 0.4
"""Share of tokens that a damaged text keeps: 0.6 are deleted, https://arxiv.org/abs/2104.06979."""

Build = Callable[..., "nn.Module"]
"""`build(model, **parameters)` gives the loss; a loss class is one. A wrapping loss gets the inner one as `loss`."""

_REGISTERED: dict[str, Build] = {}


def register_loss(name: str, build: Build) -> None:
    """Let recipes name a loss of your own, which `build(model, **loss.parameters)` makes; a loss class works.

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

    Raises RecipeError where a loss or one of its parameters is not known, or does not fit the model.
    """
    from sentence_transformers.sentence_transformer import losses

    if spec.name in _REGISTERED:
        wrapped = {} if spec.inner is None else {"loss": build_loss(spec.inner, model)}
        taken_by = f"the registered loss {spec.name}"
        return _call(_REGISTERED[spec.name], model, {**spec.parameters, **wrapped}, spec.parameters, taken_by)
    if spec.name not in LOSSES + WRAPPERS:
        raise _unknown_loss(spec.name)
    if spec.parameters.get("similarity_fct") == "energy":
        return _energy_loss(spec, model)
    kind = _denoising(losses.DenoisingAutoEncoderLoss) if spec.name == DENOISING else getattr(losses, spec.name)
    given = {key: value for key, value in spec.parameters.items() if key not in PRINTED_ONLY}
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", *PRINTED_ONLY)]
    names = {key: "triplet_margin" if key == "margin" and "triplet_margin" in known else key for key in given}
    parameters = {name: _argument(spec.name, name, given[key]) for key, name in names.items() if name in known}
    if spec.name in WRAPPERS:
        _check_dimensions(spec, model)
        if spec.inner is None:
            raise RecipeError(f"expected a loss inside {spec.name}, found none; name it in loss.inner.")
        parameters["loss"] = build_loss(spec.inner, model)
    elif spec.inner is not None:
        raise RecipeError(
            f"expected {spec.name} to stand alone, found {spec.inner.name} inside it; "
            f"losses that wrap another are {', '.join(WRAPPERS)}."
        )
    if spec.name == "SoftmaxLoss":
        parameters.setdefault("embedding_dimension", model.get_embedding_dimension())
    if spec.name in GUIDED:
        parameters["guide"] = _guide(spec, model)
    loss = _call(kind, model, parameters, given, spec.name)
    _check_unknown(spec.name, loss, {key: given[key] for key, name in names.items() if name not in known}, known)
    return loss


def _call(build: Build, model: Any, arguments: Mapping[str, Any], given: Mapping[str, Any], taken_by: str) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an old card names an old loss
            return build(model, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(
            f"expected parameters that {taken_by} can take, found {dict(given)!r} "
            f"({str(error) or 'it does not fit the model'}); change loss.parameters."
        ) from error


def _energy_loss(spec: LossSpec, model: SentenceTransformer) -> nn.Module:
    """The ranking loss by energy distance, which the library does not have."""
    from workbench.models.energy_distance import EnergyRankingLoss

    taken = ("scale", "distance", "special_tokens")
    given = {name: value for name, value in spec.parameters.items() if name != "similarity_fct"}
    other = [name for name in given if name not in taken and given[name] not in (None, False)]
    if spec.name != "MultipleNegativesRankingLoss" or spec.inner is not None or other:
        found = f"with {', '.join(other)}" if other else f"for {spec.name}"
        raise RecipeError(
            f"expected the similarity 'energy' for MultipleNegativesRankingLoss alone, with {', '.join(taken)}, found "
            f"it {found}; change the loss."
        )
    parameters = {name: given[name] for name in taken if name in given}
    return _call(EnergyRankingLoss, model, parameters, given, "the ranking loss by energy distance")


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


def _check_dimensions(spec: LossSpec, model: SentenceTransformer) -> None:
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


def _denoising(library: type[nn.Module]) -> type[nn.Module]:
    """The library's denoising loss, which damages rows of a single text itself.

    The library wants rows of (damaged, original); `fit()` made them from single texts by deleting words. A loss sees
    no words, so tokens are deleted, anew each time a row is seen. The tied decoder is read from the folder of the
    model's transformer; a model without one gets a temporary one.
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
                columns = [_delete_tokens(columns[0], self.tokenizer_encoder.all_special_ids), columns[0]]
            return super().forward(columns, labels)

    Denoising.__name__ = Denoising.__qualname__ = library.__name__
    return Denoising


def _delete_tokens(features: Mapping[str, Any], special: list[int]) -> dict[str, Any]:
    """`features` with most tokens of each text deleted, except special tokens and at least one other.

    `input_ids` and `attention_mask` are (rows, tokens) and keep their length, padded to the right.
    """
    import torch

    ids, mask = features["input_ids"], features["attention_mask"]  # both (rows, tokens)
    fixed = torch.isin(ids, torch.tensor(special, device=ids.device)) & mask.bool()
    words = mask.bool() & ~fixed
    draw = torch.rand(ids.shape, device=ids.device).masked_fill(~words, 2.0)
    kept = fixed | (words & ((draw < KEPT_TOKENS) | (draw == draw.min(dim=1, keepdim=True).values)))
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)  # kept tokens first, in their order
    shortened = kept.gather(1, order).to(mask.dtype)
    made = {"input_ids": ids.gather(1, order) * shortened, "attention_mask": shortened}
    return {**{name: value for name, value in features.items() if name not in made}, **made}


def _check_unknown(name: str, loss: nn.Module, printed: Mapping[str, Any], known: list[str]) -> None:
    """RecipeError where the card prints a value that the loss does not take and does not have by itself."""
    config: Mapping[str, Any] = getattr(loss, "get_config_dict", dict)()
    for key, value in printed.items():
        own, asked = (list(each) if isinstance(each, tuple) else each for each in (config.get(key), value))
        if key not in config or own != asked:
            raise RecipeError(
                f"expected a parameter of {name} ({', '.join(known) or 'it has none'}), found {key!r} with the value "
                f"{value!r}; remove it from loss.parameters or correct it."
            )


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
    pairwise = loss in PAIRWISE and not function.startswith("pairwise_")
    return getattr(util, f"pairwise_{function}" if pairwise else function)


def _distance(loss: str, value: Any) -> Any:
    from sentence_transformers.sentence_transformer import losses

    choices: Any = losses.SiameseDistanceMetric
    if loss.startswith("Batch"):
        choices = losses.BatchHardTripletLossDistanceFunction
    elif loss == "TripletLoss":
        choices = losses.TripletDistanceMetric
    word = str(value).rpartition(".")[2].lower()
    known = {name.lower(): getattr(choices, name) for name in vars(choices) if not name.startswith("_")}
    found = known.get(word, known.get(f"{word}_distance"))
    if found is None:
        raise RecipeError(
            f"expected a distance of {choices.__name__} for {loss} ({', '.join(known)}), found {value!r}; "
            "change loss.parameters.distance_metric."
        )
    return found


def _torch_module(loss: str, name: str, value: Any) -> nn.Module:
    from torch import nn

    known = [f"torch.nn.modules.{file}.{kind}" for file, kinds in TORCH_MODULES.items() for kind in kinds]
    if value not in known:
        raise RecipeError(
            f"expected one of {', '.join(known)} for {name} of {loss}, found {value!r}; change loss.parameters.{name}."
        )
    module: nn.Module = getattr(nn, value.rpartition(".")[2])()
    return module
