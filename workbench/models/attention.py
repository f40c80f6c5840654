"""Attention within each of many concatenated texts, in the fastest way of the device.

On a CPU texts of one length are one block: no mask, no copy. On a GPU, where each call costs as much as many tokens,
it is one call of torch's CUDA kernel for texts of different lengths; where that is missing or wrong, texts of similar
lengths are padded for the attention alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.models.dropout import dropped_indices

Blocks = list[tuple[int, int]]

PADDING = 2
"""Most padded positions per token in `padded_attention`."""

WEIGHTS = 1 << 18
"""Attention weights that are computed together on a CPU: 1 MiB."""


@dataclass(frozen=True)
class Group:
    """Texts that are padded together for the attention."""

    texts: int
    longest: int
    put: Tensor  # (tokens,) position of each among texts · longest
    mask: Tensor  # (texts, 1, 1, longest) true for tokens


@dataclass
class Layout:
    """Concatenated texts in order of length."""

    lengths: list[int]  # tokens of each text, ascending
    ends: Tensor  # (texts + 1,) where each text begins, and the end; int64, on the device

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
        return [self._group(np.asarray(run[::-1])) for run in reversed(sizes)]

    def _group(self, lengths: np.ndarray[Any, Any]) -> Group:
        mask = np.arange(lengths[-1]) < lengths[:, None]  # (texts, longest)
        put, masked = (torch.from_numpy(each).to(self.ends.device) for each in (np.flatnonzero(mask), mask))
        return Group(len(lengths), int(lengths[-1]), put, masked[:, None, None])

    @cached_property
    def short_ends(self) -> Tensor:
        """`ends` as `kernel_attention` needs them."""
        return self.ends.int()


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
    layout: Layout = given["layout"]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))  # (tokens, heads, dim) each
    if query.device.type != "cpu":
        attend = kernel_attention if kernel_works(q.device, q.dtype, q.shape[-1]) else padded_attention
        found = attend(q, k, v, layout, dropout, scale)
    elif dropout:
        found = _Attention.apply(q, k, v, layout.blocks, dropout, scale)  # type: ignore[no-untyped-call]
    else:
        found = block_attention(q, k, v, layout, scale)
    return found[None], None


def block_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """(tokens, heads, dim) each -> (tokens, heads, dim), one call for each length: no mask, no copy."""
    parts = [torch.split(each, [texts * tokens for texts, tokens in layout.blocks]) for each in (query, key, value)]
    found = []
    for (texts, tokens), *block in zip(layout.blocks, *parts, strict=True):
        # (texts, heads, tokens, dim) each
        q, k, v = (each.view(texts, tokens, *each.shape[1:]).transpose(1, 2) for each in block)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        found.append(seen.transpose(1, 2).flatten(0, 1))  # (texts · tokens, heads, dim)
    return torch.cat(found)


def padded_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float, scale: float) -> Tensor:
    """The same with few calls: texts of similar lengths are padded together."""
    parts = [torch.split(each, [len(group.put) for group in layout.groups]) for each in (query, key, value)]
    found = []
    for group, *block in zip(layout.groups, *parts, strict=True):
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


def kernel_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float, scale: float) -> Tensor:
    """The same in one call: torch's memory-efficient kernel, which it uses for nested tensors on CUDA."""
    ends, longest = layout.short_ends, layout.lengths[-1]
    given = [each[None] for each in (query, key, value)]  # (1, tokens, heads, dim) each
    with_gradient = torch.is_grad_enabled() and any(each.requires_grad for each in given)  # of one alone, in an adapter
    found: Tensor = torch.ops.aten._efficient_attention_forward(
        *given, None, ends, ends, longest, longest, dropout, 0, with_gradient, scale=scale
    )[0]
    return found[0]


@cache
def kernel_works(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether `kernel_attention` runs on this device and equals `padded_attention`, forward and backward.

    It is not public in torch, so it is tried first, on three short texts and two heads.
    """
    if not hasattr(torch.ops.aten, "_efficient_attention_forward"):
        return False
    texts = Layout([1, 5, 19], torch.tensor([0, 1, 6, 25], device=device))
    with torch.enable_grad(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        waves = torch.arange(3 * 25 * 2 * dim, dtype=torch.float32).sin().view(3, 25, 2, dim)
        q, k, v = (each.to(device, dtype).requires_grad_() for each in waves)
        found = []
        for attend in (kernel_attention, padded_attention):
            try:
                result = attend(q, k, v, texts, 0.0, dim**-0.5)
                weights = torch.linspace(-1, 1, result.numel(), dtype=dtype, device=device).view_as(result)
                found.append([result.detach(), *torch.autograd.grad((result * weights).sum(), (q, k, v))])
            except (RuntimeError, TypeError):  # not for this device, or with another signature
                return False
    near = 1e-4 if dtype == torch.float32 else 2e-2
    return all(torch.allclose(ours, plain, rtol=near, atol=near) for ours, plain in zip(*found, strict=True))


class _Attention(torch.autograd.Function):
    """Attention with dropout on the CPU, some texts at a time: torch's copies, and draws a random number per weight.

    All work on the weights of a block happens while they are in the processor's cache. Dropped weights are 0 there and
    kept separately for the backward pass; the factor 1 / (1 - p) goes into a product.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, p: float, scale: float) -> Tensor:
        parts = _parts(blocks, query.shape[1])
        weights = query.new_empty(parts[-1].weights.stop)
        dropped = dropped_indices(len(weights), p)
        lost, found = weights.new_empty(len(dropped)), torch.empty_like(query)
        pieces = list(zip(parts, _cuts(dropped, parts), strict=True))
        for part, mine in pieces:
            q, k, v = (part.of(each) for each in (query, key, value))
            block = weights[part.weights].view(len(q), part.tokens, part.tokens)
            torch.baddbmm(block, q, k.transpose(1, 2), beta=0, alpha=scale, out=block)
            torch.softmax(block, dim=-1, out=block)
            torch.index_select(weights, 0, dropped[mine], out=lost[mine])
            weights.index_fill_(0, dropped[mine], 0.0)
            part.put(found, _product(block, v, 1 / (1 - p)))
        ctx.pieces, ctx.p, ctx.scale = pieces, p, scale
        ctx.save_for_backward(query, key, value, weights, dropped, lost)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, saved, dropped, lost = ctx.saved_tensors
        weights = saved.data  # changed and restored below, hidden from autograd
        to_query, to_key, to_value = (
            torch.empty_like(each) if asked else None
            for each, asked in zip((query, key, value), ctx.needs_input_grad, strict=False)
        )
        room = weights.new_empty(max(part.weights.stop - part.weights.start for part, _ in ctx.pieces))
        for part, mine in ctx.pieces:
            q, k, v, g = (part.of(each) for each in (query, key, value, gradient))
            block = weights[part.weights].view(len(q), part.tokens, part.tokens)
            above = room[: block.numel()].view_as(block)  # the gradient of the weights, then of the scores
            torch.baddbmm(above, g, v.transpose(1, 2), beta=0, alpha=1 / (1 - ctx.p), out=above)
            if to_value is not None:
                part.put(to_value, _product(block.transpose(1, 2), g, 1 / (1 - ctx.p)))
            above.view(-1).index_fill_(0, dropped[mine] - part.weights.start, 0.0)
            weights.index_copy_(0, dropped[mine], lost[mine])
            torch._softmax_backward_data(above, block, -1, above.dtype, grad_input=above)
            weights.index_fill_(0, dropped[mine], 0.0)
            if to_query is not None:
                part.put(to_query, _product(above, k, ctx.scale))
            if to_key is not None:
                part.put(to_key, _product(above.transpose(1, 2), q, ctx.scale))
        return to_query, to_key, to_value, None, None, None


class _Part(NamedTuple):
    """Some texts of one length."""

    texts: int
    tokens: int  # of each text
    place: slice  # among all tokens
    weights: slice  # among all attention weights

    def of(self, each: Tensor) -> Tensor:
        """(texts · heads, tokens, dim) of (all tokens, heads, dim)."""
        return each[self.place].view(self.texts, self.tokens, *each.shape[1:]).transpose(1, 2).flatten(0, 1)

    def put(self, target: Tensor, found: Tensor) -> None:
        """Write (texts · heads, tokens, dim) into (all tokens, heads, dim)."""
        own = target[self.place].view(self.texts, self.tokens, *target.shape[1:])
        own.copy_(found.view(self.texts, -1, *found.shape[1:]).transpose(1, 2))


def _parts(blocks: Blocks, heads: int) -> list[_Part]:
    """The texts of each length, as many together as have `WEIGHTS` attention weights."""
    found, token, weight = [], 0, 0
    for texts, tokens in blocks:
        most = max(WEIGHTS // (heads * tokens**2), 1)
        for start in range(0, texts, most):
            count = min(most, texts - start)
            ends = token + count * tokens, weight + count * heads * tokens**2
            found.append(_Part(count, tokens, slice(token, ends[0]), slice(weight, ends[1])))
            token, weight = ends
    return found


def _cuts(dropped: Tensor, parts: Sequence[_Part]) -> list[slice]:
    """The slice of the ascending indices `dropped` that belongs to each part."""
    ends = torch.searchsorted(dropped, torch.tensor([part.weights.stop for part in parts])).tolist()
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale · left · right, matrix by matrix."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)
