"""Dropout on the CPU that draws where numbers are dropped, not whether each of them is.

torch draws a random number for every number, and dropout was a sixth of a step. The distances between dropped numbers
are geometric (each is dropped independently with probability p), so one random number for each dropped number gives the
same distribution. They come from torch's generator, so a resumed run continues with them.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.linear import patch_forward


def dropped_indices(count: int, p: float) -> Tensor:
    """(dropped,) which of `count` numbers are dropped, ascending; each with probability 0 < p < 1."""
    found, last = [], -1
    while last < count:
        expected = (count - last) * p
        draws = torch.rand(int(expected + 4 * math.sqrt(expected)) + 8)
        distances = draws.neg_().log1p_().div_(math.log1p(-p)).to(torch.int64).add_(1)  # geometric, from 1
        distances[0] += last
        found.append(distances.cumsum(0))
        last = int(found[-1][-1])
    indices = torch.cat(found)
    return indices[: int(torch.searchsorted(indices, count))]


def apply_dropout(x: Tensor, p: float) -> Tensor:
    """nn.functional.dropout(x, p), with other random numbers."""
    if not 0 < p < 1 or x.device.type != "cpu" or x.numel() == 0:
        return nn.functional.dropout(x, p)
    found: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return found


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p, dropped = p, dropped_indices(x.numel(), p)
        ctx.save_for_backward(dropped)
        return _scale(x, p, dropped)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _scale(gradient, ctx.p, *ctx.saved_tensors), None


def _scale(x: Tensor, p: float, dropped: Tensor) -> Tensor:
    """x / (1 - p), and 0 at the flat indices `dropped`."""
    found = torch.mul(x.contiguous(), 1 / (1 - p))
    found.view(-1).index_fill_(0, dropped, 0.0)
    return found


def fast_dropout(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block the dropouts of `model` use `apply_dropout`."""
    return patch_forward(model, nn.Dropout, lambda module, x: apply_dropout(x, module.p) if module.training else x)
