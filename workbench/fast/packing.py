"""Texts of any lengths through a transformer without padding: one row of all their tokens, attention within each text.

Linear layers, where nearly all the time goes, then see real tokens alone. Positions start anew with every text. Texts
lie in order of length, so that those of one length are one block for the attention, without a mask and without a copy.
The transformer is the library's, called with an attention function of ours: whatever it does else (embeddings, LoRA,
dropout) it does as ever. Its output is padded again for the modules that follow; that costs one copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

ATTENTION = "workbench_packed"
ARCHITECTURES = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
"""`model_type` of transformers whose attention is a function that can be given, over positions that can be given."""


@dataclass
class Pack:
    """Texts laid end to end in order of length."""

    ids: Tensor  # (tokens,)
    lengths: list[int]  # of each text, in the order in which they lie
    place: list[int]  # text in the order of the caller -> where it lies
    unique: Tensor | None = None  # the different tokens, ascending
    inverse: Tensor | None = None  # (tokens,) each token's place among them

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """(texts, tokens of each) for each length, in order."""
        values, counts = np.unique(np.asarray(self.lengths), return_counts=True)
        return [(int(count), int(value)) for value, count in zip(values, counts, strict=True)]

    def positions(self, padding: int | None = None) -> Tensor:
        """(tokens,) from 0 in each text; with `padding`, as RoBERTa counts: from padding + 1, and a token that has the
        number of padding is not counted and stands at `padding`."""
        lengths = torch.tensor(self.lengths, device=self.ids.device)
        starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)  # (tokens,) where its text begins
        if padding is None:
            return torch.arange(len(self.ids), device=self.ids.device) - starts
        counted = (self.ids != padding).long()
        before = torch.cat([counted.new_zeros(1), counted.cumsum(0)])  # (tokens + 1,)
        return (before[1:] - before[starts]) * counted + padding


def pack(texts: Sequence[np.ndarray[Any, Any]], *, distinct: bool = False) -> Pack:
    """Lay the token numbers of texts end to end; `distinct` finds the different ones too, for `Pack.unique`."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    order = np.argsort(lengths, kind="stable")  # (texts,) the text that lies at each place
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    flat = np.concatenate([texts[text] for text in order]).astype(np.int64)
    made = Pack(torch.from_numpy(flat), lengths[order].tolist(), place.tolist())
    if distinct:
        unique, inverse = np.unique(flat, return_inverse=True)
        made.unique, made.inverse = torch.from_numpy(unique), torch.from_numpy(inverse.reshape(-1))
    return made


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers' interface: (1, heads, tokens, dim) each -> (1, tokens, heads, dim)."""
    blocks = given["pack"].blocks
    sizes = [texts * tokens for texts, tokens in blocks]
    parts = [torch.split(each[0].transpose(0, 1), sizes) for each in (query, key, value)]  # (tokens, heads, dim)
    found = []
    for (texts, tokens), *block in zip(blocks, *parts, strict=True):
        q, k, v = (each.unflatten(0, (texts, tokens)).transpose(1, 2) for each in block)  # (texts, heads, tokens, dim)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        found.append(seen.transpose(1, 2).flatten(0, 1))  # (texts · tokens, heads, dim)
    return torch.cat(found)[None], None


def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if ATTENTION not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)


def hidden_states(transformer: Transformer, pack: Pack, rows: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """(tokens, dim): the last layer's output for each token of the pack.

    `rows`: gives the word embeddings of the different tokens, where another than the model's own table is to be asked.
    """
    _register()
    inside: Any = transformer.model
    offset = transformer._infer_flatten_position_offset()  # the number of padding + 1, where positions depend on it
    positions = pack.positions(offset - 1 if offset else None)
    given: dict[str, Any] = {"input_ids": pack.ids[None]}
    if rows is not None:
        assert pack.unique is not None
        assert pack.inverse is not None
        given = {"inputs_embeds": nn.functional.embedding(pack.inverse, rows(pack.unique))[None]}
    was = inside.config._attn_implementation
    inside.config._attn_implementation = ATTENTION
    try:
        out = inside(**given, position_ids=positions[None], pack=pack)
    finally:
        inside.config._attn_implementation = was
    found: Tensor = out.last_hidden_state[0]
    return found


class Pass:
    """One run of the transformer over texts of several columns, whose parts are asked for one by one."""

    def __init__(self, pack: Pack, columns: Sequence[int], rows: Callable[[Tensor], Tensor] | None = None) -> None:
        """`columns`: how many texts each has, in the order in which the pack was given them; `rows`: see
        `hidden_states`."""
        self.pack, self.rows = pack, rows
        self.starts = np.cumsum([0, *columns]).tolist()
        self.tokens = len(pack.ids)
        self._texts: tuple[Tensor, ...] | None = None  # (tokens, dim) each, as they lie

    def outputs(self, module: Any, number: int) -> dict[str, Tensor]:
        """(texts, longest, dim) token embeddings of a column, with zeros where there is no token."""
        if self._texts is None:
            self._texts = torch.split(hidden_states(module, self.pack, self.rows), self.pack.lengths)
        return {
            "token_embeddings": pad_sequence([self._texts[place] for place in self._places(number)], batch_first=True)
        }

    def features(self, number: int) -> dict[str, Any]:
        """What the model is called with for a column; `packed_forward` knows what to do with it."""
        places = self._places(number)
        lengths = torch.tensor([self.pack.lengths[place] for place in places], device=self.pack.ids.device)
        texts = torch.split(self.pack.ids, self.pack.lengths)
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # (texts, longest)
        return {
            "input_ids": pad_sequence([texts[place] for place in places], batch_first=True),
            "attention_mask": mask.to(torch.int64),
            "modality": "text",
            "pass": (self, number),
        }

    def _places(self, number: int) -> list[int]:
        return self.pack.place[self.starts[number] : self.starts[number + 1]]


@contextmanager
def packed_forward(model: SentenceTransformer) -> Iterator[None]:
    """Inside the block `model` takes the features that a pass gives; others it takes as ever."""
    first: Any = model[0]
    plain = first.forward

    def forward(features: dict[str, Any], **given: Any) -> dict[str, Any]:
        asked = features.get("pass")
        if asked is None:
            found: dict[str, Any] = plain(features, **given)
            return found
        batch, number = asked
        return {**features, **batch.outputs(first, number)}

    first.forward = forward
    try:
        yield
    finally:
        del first.forward


def packs(model: SentenceTransformer) -> str | None:
    """None where `model` can be run without padding, else the reason why not."""
    from sentence_transformers.base.modules import Transformer
    from transformers import PreTrainedTokenizerFast

    first = model[0]
    if not isinstance(first, Transformer):
        return f"its first module is a {type(first).__name__}"
    kind = str(first.config.model_type)
    if kind not in ARCHITECTURES:
        return f"its architecture is {kind}"
    if not isinstance(first.processor, PreTrainedTokenizerFast):
        return "its tokenizer is not a fast one"
    text = first.modality_config.get("text") or {}
    if text.get("method") != "forward" or text.get("method_output_name") != "last_hidden_state":
        return "its transformer gives something else than its last layer"
    if getattr(first.config, "is_decoder", False) or first.config._attn_implementation not in ("sdpa", "eager"):
        return "its attention is of another kind"
    if first.processing_kwargs or first.query_expansion or getattr(first.config, "output_hidden_states", False):
        return "it treats its texts in a way of its own"
    if first.processor.num_special_tokens_to_add() == 0:
        return "its texts may have no token"
    if first.processor.padding_side != "right" or first.processor.truncation_side != "right":
        return "it pads or cuts its texts at the left"
    return None
