"""Linear layers by oneDNN where MKL, which torch uses for float32 matrices, is slow.

On processors that are not Intel's, MKL runs code for older ones: on an AMD EPYC (Zen 5, one thread) it reached 104
GFLOP/s where oneDNN, which every build of torch carries, reached 230. The vendor decides and no stopwatch, so that the
same machine always gives the same numbers. Sums are taken in another order: results differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CPU = Path("/proc/cpuinfo")


@cache
def mkl_is_slow() -> bool:
    """Whether the processor is not Intel's, and oneDNN's product can be called."""
    backends: Any = torch.backends
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not CPU.is_file():
        return False
    vendors = [line for line in CPU.read_text(encoding="utf-8", errors="replace").splitlines() if "vendor_id" in line]
    return bool(vendors) and "GenuineIntel" not in vendors[0]


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """(m, k), (n, k) -> (m, n): left · rightᵀ + bias, by oneDNN."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b; all three products of forward and backward by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight if x.requires_grad else None)
        ctx.biased = bias is not None and bias.requires_grad
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_x = None if weight is None else _product(gradient, weight.T)
        to_weight = None if x is None else _product(gradient.T, x.T)
        return to_x, to_weight, gradient.sum(0) if ctx.biased else None


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """`module(x)` for x (..., in): float32 on the CPU by oneDNN, everything else by torch."""
    weight, bias = module.weight, module.bias
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    if not plain or x.numel() == 0 or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return found.view(*x.shape[:-1], -1)


@contextmanager
def patch_forward(model: nn.Module, kind: type[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block the modules of `model` of exactly this kind compute `forward(module, x)`."""
    chosen = [each for each in model.modules() if type(each) is kind and "forward" not in each.__dict__]
    for module in chosen:
        module.forward = partial(forward, module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def fast_linear(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block the linear layers of `model` use `linear`, where that is faster on this machine."""
    return patch_forward(model, nn.Linear, linear) if mkl_is_slow() else nullcontext()
