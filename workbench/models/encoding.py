"""Texts to vectors for evaluation: the numbers of `model.encode`, without padding and with fast linear layers.

All texts are tokenized at once and encoded in order of length, so that a batch has texts of one length or nearly so,
and a repeated text is encoded once. A StaticEmbedding reads all texts in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from workbench.models.base import prompt_of
from workbench.models.energy_distance import energy_encoder, padded_batches
from workbench.models.linear import fast_linear
from workbench.models.packing import Pass, pack, packed_forward, packing_obstacle
from workbench.models.tokens import tokenize

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.models.base import Encode, Vectors
    from workbench.models.energy_distance import Batches

TOKENS = {"cpu": 2048, "cuda": 16_384}
"""Tokens of one pass: more would leave the caches of a CPU, and so many fill a GPU."""

STATIC_TOKENS = 1 << 18
"""Tokens of one pass of a StaticEmbedding."""


def encoding_obstacle(model: SentenceTransformer) -> str | None:
    """Why `encode` has no faster way for `model`; None where it has."""
    return None if _is_static(model) else packing_obstacle(model)


def encode(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> Vectors:
    """(texts, dim) float32, as `model.encode(texts, prompt=prompt)` gives them; not normalized here.

    A model with an `encoding_obstacle` is encoded by the library. The model keeps its mode.
    """
    was_training = model.training
    model.eval()
    try:
        if not texts or encoding_obstacle(model) is not None:
            plain = model.encode(list(texts), prompt=prompt or None, show_progress_bar=False)
            return np.asarray(plain, dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        with torch.inference_mode():
            vectors = (_encode_static if _is_static(model) else _encode_packed)(model, distinct, prompt)
    finally:
        model.train(was_training)
    vectors = vectors[:, : model.truncate_dim]
    if len(distinct) == len(texts):
        return vectors
    places = {text: place for place, text in enumerate(distinct)}
    return vectors[[places[text] for text in texts]]


def encoder(model: SentenceTransformer) -> Encode:
    """The function that `evaluate` encodes with: `encode(texts, kind) -> float32 (texts, dim)`, not normalized.

    Texts get the model's prompt of their kind. The model keeps its mode.
    """

    def encode_kind(texts: list[str], kind: Literal["query", "document"]) -> Vectors:
        return encode(model, texts, prompt_of(model.prompts, kind))

    return encode_kind


def token_encoder(model: SentenceTransformer, *, special_tokens: bool = True) -> Encode:
    """As `encoder`, for the energy distance: `energy_encoder`, without padding where `model` allows it."""
    batches = packed_batches if packing_obstacle(model) is None else padded_batches
    return energy_encoder(model, special_tokens=special_tokens, batches=batches)


def packed_batches(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Batches:
    """(which texts, features of the model) for each pass; while iterating, `model` takes packed features."""
    if not texts:
        return
    rows = [np.asarray(ids) for ids in tokenize(model, texts, prompt)]
    lengths = np.array([len(row) for row in rows])
    order = np.argsort(-lengths, kind="stable")  # longest first: too little memory shows at once
    first: Any = model[0]
    extra = {"prompt_length": first._get_prompt_length(prompt)} if prompt else {}
    with ExitStack() as stack:
        stack.enter_context(packed_forward(model))
        stack.enter_context(fast_linear(model))
        for start, end in _runs(lengths[order].tolist(), TOKENS.get(model.device.type, TOKENS["cuda"])):
            places = order[start:end].tolist()
            packed = pack([rows[place] for place in places]).to(model.device)
            yield places, {**Pass(packed, [len(places)]).features(0), **extra}


def _is_static(model: SentenceTransformer) -> bool:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def _encode_static(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Vectors:
    found: list[Vectors] = []
    rows = [np.asarray(ids, dtype=np.int64) for ids in tokenize(model, texts, prompt)]
    for start, end in _runs(list(map(len, rows)), STATIC_TOKENS):
        part = rows[start:end]
        features = {
            "input_ids": torch.from_numpy(np.concatenate(part)).to(model.device),
            "offsets": torch.from_numpy(np.cumsum([0, *map(len, part[:-1])])).to(model.device),
        }
        found.append(model(features)["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(found)


def _encode_packed(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Vectors:
    found: Vectors = np.empty((0, 0), dtype=np.float32)
    with closing(packed_batches(model, texts, prompt)) as batches:
        for places, features in batches:
            vectors = model(features)["sentence_embedding"].float().cpu().numpy()
            if not found.size:
                found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
            found[places] = vectors
    return found


def _runs(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of texts with at most `most` tokens together, or a single longer one.

    >>> _runs([3, 3, 3, 9, 1], 6)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    found, start, held = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and held + length > most:
            found.append((start, place))
            start, held = place, 0
        held += length
    return [*found, (start, len(lengths))]
