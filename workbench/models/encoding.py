"""Texts to vectors for evaluation: as `model.encode` gives them, without padding and by the faster linear layers.

All texts are tokenised at once and taken in order of their length in tokens, so that a batch is a block of one length
or nearly so, and a text that comes twice is encoded once. A table of embeddings is read with all texts in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    from workbench.models.base import Encode
    from workbench.models.energy_distance import Parts

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

TOKENS = {"cpu": 2048, "cuda": 16_384}
"""Tokens of one pass; more of them gain nothing: they leave the caches of a CPU, and so many fill a GPU."""

TABLE_TOKENS = 1 << 18
"""Tokens of one reading of a table of embeddings."""


def encoding_obstacle(model: SentenceTransformer) -> str | None:
    """None where `encode` has a faster way for `model`, else the reason why not."""
    return None if _is_table(model) else packing_obstacle(model)


def encode(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> Vectors:
    """(texts, dim) float32, as `model.encode(texts, prompt=prompt)` gives them; not normalised by this function.

    A model that `encodes` has a reason against goes the library's way. The model is left in the mode it was found in.
    """
    was_training = model.training
    model.eval()
    try:
        if not texts or encoding_obstacle(model) is not None:
            plain = model.encode(list(texts), prompt=prompt or None, show_progress_bar=False)
            return np.asarray(plain, dtype=np.float32)
        different = list(dict.fromkeys(texts))
        with torch.inference_mode():
            vectors = (_by_table if _is_table(model) else _by_transformer)(model, different, prompt)
    finally:
        model.train(was_training)
    vectors = vectors[:, : model.truncate_dim]
    if len(different) == len(texts):
        return vectors
    places = {text: place for place, text in enumerate(different)}
    return vectors[[places[text] for text in texts]]


def encoder(model: SentenceTransformer, prompts: Mapping[str, str] | None = None) -> Encode:
    """The function that `evaluate` encodes with: `encode(texts, kind) -> float32 (texts, dim)`, not normalised.

    `prompts` {"query": "...", "document": "..."}: None takes those of the model. The model is put back into the mode,
    training or not, in which it was found.
    """
    chosen = dict(model.prompts if prompts is None else prompts)

    def encode_kind(texts: list[str], kind: Literal["query", "document"]) -> Vectors:
        return encode(model, texts, prompt_of(chosen, kind))

    return encode_kind


def token_encoder(model: SentenceTransformer, *, special_tokens: bool = True) -> Encode:
    """As `encoder`, for the energy distance: `energy.energy_encoder`, without padding where `model` can do without."""
    found = packed_batches if packing_obstacle(model) is None else padded_batches
    return energy_encoder(model, special_tokens=special_tokens, batches=found)


def packed_batches(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Parts:
    """(which texts, what to call the model with) for each pass; while it is gone through, `model` takes packed ones."""
    if not texts:
        return
    rows = [np.asarray(numbers) for numbers in tokenize(model, texts, prompt)]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    order = np.argsort(-lengths, kind="stable")  # the longest first: too little memory shows at once
    first: Any = model[0]
    extra = {"prompt_length": first._get_prompt_length(prompt)} if prompt else {}
    with ExitStack() as stack:
        stack.enter_context(packed_forward(model))
        stack.enter_context(fast_linear(model))
        for start, end in _parts(lengths[order].tolist(), TOKENS.get(model.device.type, TOKENS["cuda"])):
            places = order[start:end].tolist()
            packed = pack([rows[place] for place in places]).to(model.device)
            yield places, {**Pass(packed, [len(places)]).features(0), **extra}


def _is_table(model: SentenceTransformer) -> bool:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return isinstance(model[0], StaticEmbedding)


def _by_table(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Vectors:
    found: list[Vectors] = []
    rows = [np.asarray(numbers, dtype=np.int64) for numbers in tokenize(model, texts, prompt)]
    for start, end in _parts(list(map(len, rows)), TABLE_TOKENS):
        part = rows[start:end]
        features = {
            "input_ids": torch.from_numpy(np.concatenate([np.empty(0, np.int64), *part])).to(model.device),
            "offsets": torch.from_numpy(np.cumsum([0, *map(len, part[:-1])])).to(model.device),
        }
        found.append(model(features)["sentence_embedding"].float().cpu().numpy())
    return np.concatenate(found)


def _by_transformer(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> Vectors:
    found: Vectors = np.empty((0, 0), dtype=np.float32)
    with closing(packed_batches(model, texts, prompt)) as parts:
        for places, features in parts:
            vectors = model(features)["sentence_embedding"].float().cpu().numpy()
            if not found.size:
                found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
            found[places] = vectors
    return found


def _parts(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Runs of texts with at most `most` tokens together, or a single longer one.

    >>> _parts([3, 3, 3, 9, 1], 6)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    found, start, held = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and held + length > most:
            found.append((start, place))
            start, held = place, 0
        held += length
    return [*found, (start, len(lengths))]
