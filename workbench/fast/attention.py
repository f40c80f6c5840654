"""Attention within each of many texts that lie end to end, by what the device does best.

On a CPU texts of one length are one block: no mask, no copy. On a GPU, where each call costs as much as many tokens,
it is one call of the kernel for texts of different lengths that torch has for CUDA; where that is not there, or does
not give what it should, texts of near lengths are padded for the attention alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.fast.dropout import places, scaled

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


@dataclass
class Layout:
    """Where texts lie, end to end in order of length."""

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
        return [_group(np.asarray(run[::-1]), self.ends.device) for run in reversed(sizes)]

    @cached_property
    def short_ends(self) -> Tensor:
        """`ends` as `by_kernel` needs them."""
        return self.ends.int()


def _group(lengths: np.ndarray[Any, Any], device: Any) -> Group:
    texts, longest = len(lengths), int(lengths.max())
    there = np.arange(longest) < lengths[:, None]  # (texts, longest)
    put = torch.from_numpy(np.flatnonzero(there)).to(device)
    return Group(texts, longest, put, torch.from_numpy(there).to(device)[:, None, None])


# --- the function --------------------------------------------------------------------------------------------------


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
        way = by_kernel if has_kernel(q.device, q.dtype, q.shape[-1]) else padded_attention
        found = way(q, k, v, layout, dropout, scale)
    elif dropout:
        found = _Attention.apply(q, k, v, layout.blocks, dropout, scale)  # type: ignore[no-untyped-call]
    else:
        found = attention_by_length(q, k, v, layout, scale)
    return found[None], None


def attention_by_length(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """(tokens, heads, dim) each -> (tokens, heads, dim), by one call for the texts of each length: no mask, no copy."""
    parts = [torch.split(each, [texts * tokens for texts, tokens in layout.blocks]) for each in (query, key, value)]
    found = []
    for (texts, tokens), *block in zip(layout.blocks, *parts, strict=True):
        q, k, v = (
            each.view(texts, tokens, *each.shape[1:]).transpose(1, 2) for each in block
        )  # (texts, heads, tokens, dim)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
        found.append(seen.transpose(1, 2).flatten(0, 1))  # (texts · tokens, heads, dim)
    return torch.cat(found)


def padded_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float, scale: float) -> Tensor:
    """The same with few calls, for a device on which each call costs as much as many tokens: texts of near lengths are
    padded for the attention alone."""
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


def by_kernel(query: Tensor, key: Tensor, value: Tensor, layout: Layout, dropout: float, scale: float) -> Tensor:
    """The same in one call: torch's memory-efficient kernel, which it takes for nested tensors on CUDA."""
    ends, longest = layout.short_ends, layout.lengths[-1]
    given = [each[None] for each in (query, key, value)]  # (1, tokens, heads, dim) each
    asked = torch.is_grad_enabled() and any(each.requires_grad for each in given)  # an adapter may train one of them
    found: Tensor = torch.ops.aten._efficient_attention_forward(
        *given, None, ends, ends, longest, longest, dropout, 0, asked, scale=scale
    )[0]
    return found[0]


@cache
def has_kernel(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Whether `by_kernel` runs on this device and gives there, forward and backward, what `padded_attention` gives.

    It is no public function of torch, so it is tried, on three short texts and two heads, before it is relied on.
    """
    texts = Layout([1, 5, 19], torch.tensor([0, 1, 6, 25], device=device))
    with torch.enable_grad(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        waves = torch.arange(3 * 25 * 2 * dim, dtype=torch.float32).sin().view(3, 25, 2, dim)
        q, k, v = (each.to(device, dtype).requires_grad_() for each in waves)
        try:
            found = [
                _with_gradients(way(q, k, v, texts, 0.0, dim**-0.5), [q, k, v]) for way in (by_kernel, padded_attention)
            ]
        except (RuntimeError, TypeError, AttributeError):  # not there, not for this device, or called otherwise
            return False
    near = 1e-4 if dtype == torch.float32 else 2e-2
    return all(torch.allclose(ours, plain, rtol=near, atol=near) for ours, plain in zip(*found, strict=True))


def _with_gradients(found: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype, device=found.device).view_as(found)
    return [found.detach(), *torch.autograd.grad((found * weights).sum(), rows)]


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
