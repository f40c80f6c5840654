"""Texts of any lengths through a transformer without padding: one row of all their tokens, attention within each text.

Linear layers, where nearly all the time goes, then see real tokens alone. Positions restart with every text. Texts are
in order of length, so that those of one length are one block for the attention.
The transformer is the library's, called with another attention function: embeddings and LoRA are unchanged. Its output
is padded again for the modules that follow; that costs one copy.
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

from workbench.models.attention import Layout, packed_attention

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

ATTENTION = "workbench_packed"
ARCHITECTURES = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
"""`model_type` of transformers whose attention function and positions can be given."""


def flat_positions(starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(tokens,) the position of each token of concatenated texts, when texts begin at `starts`.

    >>> flat_positions(np.array([0, 3]), np.array([3, 2])).tolist()
    [0, 1, 2, 3, 4]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


@dataclass
class Pack:
    """Texts concatenated in order of length."""

    ids: Tensor  # (tokens,)
    within: Tensor  # (tokens,) each token's position in its text, from 0
    ends: Tensor  # (texts + 1,) where each text begins, and the end
    lengths: list[int]  # of each text, ascending
    place: list[int]  # text in the order of the caller -> its index here
    unique: Tensor | None = None  # the distinct tokens, ascending
    inverse: Tensor | None = None  # (tokens,) each token's index among them

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.lengths, self.ends)

    def to(self, device: Any) -> Pack:
        numbers = [self.ids, self.within, self.ends]
        if self.unique is not None and self.inverse is not None:
            numbers += [self.unique, self.inverse]
        ids, within, ends, *distinct = copy_to(numbers, device)
        return Pack(ids, within, ends, self.lengths, self.place, *distinct)

    def positions(self, padding: int | None = None) -> Tensor:
        """(tokens,) from 0 in each text; with `padding`, as RoBERTa counts: from padding + 1, where a token with the id
        of padding is not counted and gets position `padding`."""
        if padding is None:
            return self.within
        counted = (self.ids != padding).long()
        before = torch.cat([counted.new_zeros(1), counted.cumsum(0)])  # (tokens + 1,)
        starts = torch.arange(len(self.ids), device=self.ids.device) - self.within  # (tokens,) where its text begins
        return (before[1:] - before[starts]) * counted + padding


def copy_to(numbers: Sequence[Tensor], device: Any) -> Sequence[Tensor]:
    """Integer tensors on a device, by one copy: a copy of a few numbers costs as much as one of many.

    To a GPU they go from pinned memory: any other copy waits until all earlier work is done.
    """
    if torch.device(device) == numbers[0].device:
        return numbers
    whole, cuda = torch.cat(list(numbers)), torch.device(device).type == "cuda"
    copied = whole.pin_memory().to(device, non_blocking=True) if cuda else whole.to(device)
    return torch.split(copied, [len(each) for each in numbers])


def pack(texts: Sequence[np.ndarray[Any, Any]], *, distinct: bool = False) -> Pack:
    """Concatenate the token ids of texts; `distinct` also finds the distinct ones, for `Pack.unique`."""
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(lengths, kind="stable")  # (texts,)
    flat = np.concatenate([texts[text] for text in order]).astype(np.int64)
    lengths = lengths[order]
    numbers = flat, flat_positions(np.zeros_like(lengths), lengths), np.cumsum([0, *lengths])
    ids, within, ends = map(torch.from_numpy, numbers)
    made = Pack(ids, within, ends, lengths.tolist(), np.argsort(order).tolist())
    if distinct:
        unique, inverse = np.unique(flat, return_inverse=True)
        made.unique, made.inverse = torch.from_numpy(unique), torch.from_numpy(inverse.reshape(-1))
    return made


def hidden_states(transformer: Transformer, pack: Pack, rows: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """(tokens, dim): the last layer's output for each token of the pack.

    `rows` gives the word embeddings of distinct tokens, in place of the model's own table.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, packed_attention)
    inside: Any = transformer.model
    offset = transformer._infer_flatten_position_offset()  # id of padding + 1, where positions depend on it
    positions = pack.positions(offset - 1 if offset else None)
    given: dict[str, Any] = {"input_ids": pack.ids[None]}
    if rows is not None:
        assert pack.unique is not None
        assert pack.inverse is not None
        given = {"inputs_embeds": nn.functional.embedding(pack.inverse, rows(pack.unique))[None]}
    was = inside.config._attn_implementation
    inside.config._attn_implementation = ATTENTION
    try:
        out = inside(**given, position_ids=positions[None], layout=pack.layout)
    finally:
        inside.config._attn_implementation = was
    found: Tensor = out.last_hidden_state[0]
    return found


class Pass:
    """One pass of the transformer over texts of several columns, whose outputs are read one by one."""

    def __init__(self, pack: Pack, columns: Sequence[int], rows: Callable[[Tensor], Tensor] | None = None) -> None:
        """`columns`: texts of each, in the order of the caller of `pack`; `rows`: see `hidden_states`."""
        self.pack, self.rows = pack, rows
        self.tokens = len(pack.ids)
        lengths, place = np.asarray(pack.lengths), np.asarray(pack.place)
        ends = np.cumsum(columns)
        longest = [int(lengths[place[end - texts : end]].max()) for end, texts in zip(ends, columns, strict=True)]
        self.sizes = list(zip(columns, longest, strict=True))  # of each column, padded
        self.starts = np.cumsum([0, *(texts * most for texts, most in self.sizes)]).tolist()
        starts = np.empty_like(lengths)  # (texts,) where each begins among all columns padded
        starts[place] = np.concatenate(
            [start + np.arange(texts) * most for start, (texts, most) in zip(self.starts, self.sizes, strict=False)]
        )
        self.put = torch.from_numpy(flat_positions(starts, lengths)).to(pack.ids.device)
        self._found: Tensor | None = None  # (all columns padded, dim)

    def _pad(self, values: Tensor) -> Tensor:
        """(tokens, ...) -> (all columns padded, ...), with zeros where there is no token."""
        return values.new_zeros(self.starts[-1], *values.shape[1:]).index_copy_(0, self.put, values)

    def _column(self, padded: Tensor, number: int) -> Tensor:
        return padded[self.starts[number] : self.starts[number + 1]].view(*self.sizes[number], *padded.shape[1:])

    def outputs(self, module: Any, number: int) -> dict[str, Tensor]:
        """(texts, longest, dim) token embeddings of a column, zero where there is no token."""
        if self._found is None:
            self._found = self._pad(hidden_states(module, self.pack, self.rows))
        return {"token_embeddings": self._column(self._found, number)}

    @cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        return self._pad(self.pack.ids), self._pad(torch.ones_like(self.pack.ids))

    def features(self, number: int) -> dict[str, Any]:
        """Features of a column for a model inside `packed_forward`."""
        ids, mask = (self._column(each, number) for each in self._inputs)
        return {"input_ids": ids, "attention_mask": mask, "modality": "text", "pass": (self, number)}


@contextmanager
def packed_forward(model: SentenceTransformer) -> Iterator[None]:
    """Inside the block `model` also takes the features of a pass."""
    first: Any = model[0]
    plain, before = first.forward, first.__dict__.get("forward")  # another block may be around this one

    def forward(features: dict[str, Any], **given: Any) -> dict[str, Any]:
        if "pass" in features:
            batch, number = features["pass"]
            return {**features, **batch.outputs(first, number)}
        found: dict[str, Any] = plain(features, **given)
        return found

    first.forward = forward
    try:
        yield
    finally:
        del first.forward
        if before is not None:
            first.forward = before


def packing_obstacle(model: SentenceTransformer) -> str | None:
    """Why `model` cannot be run without padding; None where it can."""
    from sentence_transformers.base.modules import Transformer
    from transformers import PreTrainedTokenizerFast

    first = model[0]
    if not isinstance(first, Transformer):
        return f"its first module is a {type(first).__name__}"
    if first.config.model_type not in ARCHITECTURES:
        return f"its architecture is {first.config.model_type}"
    tokenizer, config = first.processor, first.config
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return "its tokenizer is not a fast one"
    text = first.modality_config.get("text") or {}
    obstacles = {
        "its transformer gives something else than its last layer": text.get("method") != "forward"
        or text.get("method_output_name") != "last_hidden_state",
        "its attention is of another kind": getattr(config, "is_decoder", False)
        or config._attn_implementation not in ("sdpa", "eager"),
        "it processes its texts in a way of its own": first.processing_kwargs
        or first.query_expansion
        or getattr(config, "output_hidden_states", False),
        "its texts may have no token": tokenizer.num_special_tokens_to_add() == 0,
        "it pads or cuts its texts at the left": "left" in (tokenizer.padding_side, tokenizer.truncation_side),
    }
    return next((reason for reason, holds in obstacles.items() if holds), None)
