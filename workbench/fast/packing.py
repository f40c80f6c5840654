"""Texts of any lengths through a transformer without padding: one row of all their tokens, attention within each text.

Linear layers, where nearly all the time goes, then see real tokens alone. Positions start anew with every text. Texts
lie in order of length, so that those of one length are one block for the attention, without a mask and without a copy.
The transformer is the library's, called with an attention function of ours: whatever it does else (embeddings, LoRA) it
does as ever. Its output is padded again for the modules that follow; that costs one copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.fast.dropout import places, scaled

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

ATTENTION = "workbench_packed"
ARCHITECTURES = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta")
"""`model_type` of transformers whose attention is a function that can be given, over positions that can be given."""


Blocks = list[tuple[int, int]]

PADDING = 2
"""Numbers that are padded for each that is a token's, at most, where attention is by groups of texts."""


@dataclass(frozen=True)
class Group:
    """Texts that are padded together for the attention."""

    texts: int
    longest: int
    put: Tensor  # (tokens,) where each lies among texts · longest
    mask: Tensor  # (texts, 1, 1, longest) true where a token is


def _group(lengths: np.ndarray[Any, Any], device: Any) -> Group:
    texts, longest = len(lengths), int(lengths.max())
    put = torch.from_numpy(spread(np.arange(texts) * longest, lengths)).to(device)
    mask = torch.zeros(texts * longest, dtype=torch.bool, device=device).index_fill_(0, put, True)
    return Group(texts, longest, put, mask.view(texts, 1, 1, longest))


def spread(starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(tokens,) where each token of texts that lie end to end goes, when texts begin at `starts`.

    >>> spread(np.array([0, 3]), np.array([3, 2])).tolist()
    [0, 1, 2, 3, 4]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


@dataclass
class Pack:
    """Texts laid end to end in order of length."""

    ids: Tensor  # (tokens,)
    lengths: list[int]  # of each text, in the order in which they lie
    place: list[int]  # text in the order of the caller -> where it lies
    unique: Tensor | None = None  # the different tokens, ascending
    inverse: Tensor | None = None  # (tokens,) each token's place among them

    @cached_property
    def blocks(self) -> Blocks:
        """(texts, tokens of each) for each length, in order."""
        values, counts = np.unique(np.asarray(self.lengths), return_counts=True)
        return [(int(count), int(value)) for value, count in zip(values, counts, strict=True)]

    @cached_property
    def groups(self) -> list[Group]:
        """Runs of texts in which less than half is padding, in order."""
        sizes: list[list[int]] = []  # lengths, the longest first, of the longest texts first
        for length in reversed(self.lengths):
            if not sizes or (len(sizes[-1]) + 1) * sizes[-1][0] > PADDING * (sum(sizes[-1]) + length):
                sizes.append([])
            sizes[-1].append(length)
        return [_group(np.asarray(lengths[::-1]), self.ids.device) for lengths in reversed(sizes)]

    def to(self, device: Any) -> Pack:
        """The same pack on a device."""
        numbers = (None if each is None else each.to(device) for each in (self.unique, self.inverse))
        return Pack(self.ids.to(device), self.lengths, self.place, *numbers)

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
    pack: Pack = given["pack"]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, dim) each
    if query.device.type != "cpu":
        found = padded_attention(q, k, v, pack, dropout, scale)
    elif dropout:
        found = _Attention.apply(q, k, v, pack.blocks, dropout, scale)  # type: ignore[no-untyped-call]
    else:
        found = attention_by_length(q, k, v, pack, scale)
    return found[None], None


def attention_by_length(query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float) -> Tensor:
    """(tokens, heads, dim) each -> (tokens, heads, dim), by one call for the texts of each length: no mask, no copy."""
    parts = [torch.split(each, [texts * tokens for texts, tokens in pack.blocks]) for each in (query, key, value)]
    found = []
    for (texts, tokens), *block in zip(pack.blocks, *parts, strict=True):
        q, k, v = (
            each.view(texts, tokens, *each.shape[1:]).transpose(1, 2) for each in block
        )  # (texts, heads, tokens, dim)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        found.append(seen.transpose(1, 2).flatten(0, 1))  # (texts · tokens, heads, dim)
    return torch.cat(found)


def padded_attention(query: Tensor, key: Tensor, value: Tensor, pack: Pack, dropout: float, scale: float) -> Tensor:
    """The same with few calls, for a device on which each call costs as much as many tokens: texts of near lengths are
    padded for the attention alone."""
    parts = [torch.split(each, [len(group.put) for group in pack.groups]) for each in (query, key, value)]
    found = []
    for group, *block in zip(pack.groups, *parts, strict=True):
        q, k, v = (
            each.new_zeros(group.texts * group.longest, *each.shape[1:])
            .index_copy_(0, group.put, each)
            .view(group.texts, group.longest, *each.shape[1:])
            .transpose(1, 2)  # (texts, heads, longest, dim)
            for each in block
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, dropout_p=dropout, scale=scale)
        found.append(seen.transpose(1, 2).flatten(0, 1).index_select(0, group.put))
    return torch.cat(found)


class _Attention(torch.autograd.Function):
    """Attention with dropout on the CPU, text by text: torch's makes copies and draws a random number for each weight.

    The weights of all texts lie in one row, so that dropout takes all of them at once.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, p: float, scale: float) -> Tensor:
        heads = query.shape[1]
        flat = query.new_empty(sum(texts * heads * tokens**2 for texts, tokens in blocks))
        for weights, _, q, k in _by_block(flat, heads, blocks, query, key):
            torch.baddbmm(weights, q, k.transpose(1, 2), beta=0, alpha=scale, out=weights)
            torch.softmax(weights, dim=-1, out=weights)
        dropped = places(len(flat), p)
        left, found = scaled(flat, p, dropped), torch.empty_like(query)
        for weights, rows, v in _by_block(left, heads, blocks, value):
            _put(found, rows, torch.bmm(weights, v))
        ctx.blocks, ctx.p, ctx.scale = blocks, p, scale
        ctx.save_for_backward(query, key, value, flat, left, dropped)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, flat, left, dropped = ctx.saved_tensors
        heads, blocks = query.shape[1], ctx.blocks
        to_query, to_key, to_value = (torch.empty_like(each) for each in (query, key, value))
        to_left = torch.empty_like(left)
        for weights, rows, v, g in _by_block(to_left, heads, blocks, value, gradient):
            torch.bmm(g, v.transpose(1, 2), out=weights)
            kept = left[rows.weights].view_as(weights)
            _put(to_value, rows, torch.bmm(kept.transpose(1, 2), g))
        to_flat = scaled(to_left, ctx.p, dropped)
        for weights, rows, q, k in _by_block(flat, heads, blocks, query, key):
            above = to_flat[rows.weights].view_as(weights)
            to_scores = torch._softmax_backward_data(above, weights, -1, weights.dtype)
            _put(to_query, rows, torch.bmm(to_scores, k).mul_(ctx.scale))
            _put(to_key, rows, torch.bmm(to_scores.transpose(1, 2), q).mul_(ctx.scale))
        return to_query, to_key, to_value, None, None, None


class _Rows(NamedTuple):
    """A block of texts of one length."""

    tokens: slice  # of all tokens
    weights: slice  # of all attention weights
    sizes: tuple[int, int]  # texts, tokens of each


def _by_block(flat: Tensor, heads: int, blocks: Blocks, *given: Tensor) -> Iterator[Any]:
    """(texts · heads, tokens, tokens) weights in `flat`, where the block is, and its (texts · heads, tokens, dim) of
    each of `given` (all tokens, heads, dim)."""
    token = weight = 0
    for texts, tokens in blocks:
        size = texts * heads * tokens**2
        rows = _Rows(slice(token, token + texts * tokens), slice(weight, weight + size), (texts, tokens))
        parts = (each[rows.tokens].view(texts, tokens, *each.shape[1:]).transpose(1, 2).flatten(0, 1) for each in given)
        yield flat[rows.weights].view(texts * heads, tokens, tokens), rows, *parts
        token, weight = token + texts * tokens, weight + size


def _put(target: Tensor, rows: _Rows, found: Tensor) -> None:
    """Put (texts · heads, tokens, dim) where they belong in (all tokens, heads, dim)."""
    heads = target.shape[1]
    target[rows.tokens].view(*rows.sizes, *target.shape[1:]).copy_(
        found.view(rows.sizes[0], heads, *found.shape[1:]).transpose(1, 2)
    )


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
        self.tokens = len(pack.ids)
        lengths, place = np.asarray(pack.lengths), np.asarray(pack.place)
        ends = np.cumsum(columns)
        longest = [int(lengths[place[end - texts : end]].max()) for end, texts in zip(ends, columns, strict=True)]
        self.sizes = list(zip(columns, longest, strict=True))  # of each column, padded
        self.starts = np.cumsum([0, *(texts * most for texts, most in self.sizes)]).tolist()
        starts = np.empty_like(lengths)  # (texts,) where each begins among all columns padded, as they lie
        starts[place] = np.concatenate(
            [start + np.arange(texts) * most for start, (texts, most) in zip(self.starts, self.sizes, strict=False)]
        )
        self.put = torch.from_numpy(spread(starts, lengths)).to(pack.ids.device)
        self._found: Tensor | None = None  # (all columns padded, dim)

    def _padded(self, values: Tensor) -> Tensor:
        """(tokens, ...) as they lie -> (all columns padded, ...), with zeros where there is no token."""
        return values.new_zeros(self.starts[-1], *values.shape[1:]).index_copy_(0, self.put, values)

    def _column(self, padded: Tensor, number: int) -> Tensor:
        return padded[self.starts[number] : self.starts[number + 1]].view(*self.sizes[number], *padded.shape[1:])

    def outputs(self, module: Any, number: int) -> dict[str, Tensor]:
        """(texts, longest, dim) token embeddings of a column, with zeros where there is no token."""
        if self._found is None:
            self._found = self._padded(hidden_states(module, self.pack, self.rows))
        return {"token_embeddings": self._column(self._found, number)}

    @cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        return self._padded(self.pack.ids), self._padded(torch.ones_like(self.pack.ids))

    def features(self, number: int) -> dict[str, Any]:
        """What the model is called with for a column; `packed_forward` knows what to do with it."""
        ids, mask = (self._column(each, number) for each in self._inputs)
        return {"input_ids": ids, "attention_mask": mask, "modality": "text", "pass": (self, number)}


@contextmanager
def packed_forward(model: SentenceTransformer) -> Iterator[None]:
    """Inside the block `model` takes the features that a pass gives; others it takes as ever."""
    first: Any = model[0]
    plain, before = first.forward, first.__dict__.get("forward")  # another block may be around this one

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
        if before is not None:
            first.forward = before


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
