"""Linear layers by oneDNN where MKL, which torch takes for float32 matrices, runs its slow code, or a GELU follows.

On processors that are not Intel's, MKL takes code for older ones: on an AMD EPYC (Zen 5, one thread) it came to 104
GFLOP/s where oneDNN, which every build of torch carries, came to 230. The vendor decides and no stopwatch, so that the
same machine always gives the same numbers. Sums are taken in another order: results differ in the last bits.
Without gradients a layer and the GELU after it are one call, which saves a pass over the widest numbers of a model.
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
BEFORE_GELU = (("dense", "intermediate_act_fn"), ("lin1", "activation"))
"""Names of a layer and of the activation after it, as the transformers that are packed have them."""


def has_product() -> bool:
    """Whether oneDNN's product can be called."""
    backends: Any = torch.backends
    return bool(backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def mkl_is_slow() -> bool:
    """Whether this is a processor that MKL does not serve well, and oneDNN's product can be called."""
    backends: Any = torch.backends
    if not (backends.mkl.is_available() and has_product() and CPU.is_file()):
        return False
    vendors = [line for line in CPU.read_text(encoding="utf-8", errors="replace").splitlines() if "vendor_id" in line]
    return bool(vendors) and "GenuineIntel" not in vendors[0]


def product(left: Tensor, right: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """(m, k), (n, k) -> (m, n): left · rightᵀ + bias, by oneDNN; `then` "gelu": its GELU."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, then, [], "none" if then == "gelu" else "")
    return found


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b; all three products of forward and backward by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight if x.requires_grad else None)
        ctx.biased = bias is not None and bias.requires_grad
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_x = None if weight is None else product(gradient, weight.T)
        to_weight = None if x is None else product(gradient.T, x.T)
        return to_x, to_weight, gradient.sum(0) if ctx.biased else None


def _is_plain(module: nn.Linear, x: Tensor) -> bool:
    """Whether the product is of float32 numbers on the CPU."""
    weight = module.weight
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return plain and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """What `module` gives for x (..., in): float32 on the CPU by oneDNN, everything else as ever."""
    weight, bias = module.weight, module.bias
    if not _is_plain(module, x):
        return nn.functional.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return found.view(*x.shape[:-1], -1)


@contextmanager
def passing_through(model: nn.Module, kind: type[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Inside the block the modules of `model` that are of just this kind compute by `forward(module, x)`."""
    chosen = [each for each in model.modules() if type(each) is kind and "forward" not in each.__dict__]
    for module in chosen:
        module.forward = partial(forward, module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward


def faster_linears(model: nn.Module) -> AbstractContextManager[None]:
    """Inside the block the linear layers of `model` go through `linear`, where that is faster on this machine."""
    return passing_through(model, nn.Linear, linear) if mkl_is_slow() else nullcontext()


def linear_gelu(module: nn.Linear, x: Tensor) -> Tensor:
    """GELU of what `module` gives for x (..., in); without gradients float32 on the CPU by one call of oneDNN."""
    if torch.is_grad_enabled() or not _is_plain(module, x):
        return nn.functional.gelu(nn.functional.linear(x, module.weight, module.bias))
    return product(x.reshape(-1, x.shape[-1]), module.weight, module.bias, "gelu").view(*x.shape[:-1], -1)


@contextmanager
def joined_gelus(model: nn.Module) -> Iterator[None]:
    """Inside the block linear layers of `model` that a GELU follows go with it through `linear_gelu`."""
    from transformers.activations import GELUActivation

    found: list[tuple[Any, Any]] = [
        (layer, activation)
        for module in model.modules()
        for layer, activation in ((getattr(module, one, None), getattr(module, two, None)) for one, two in BEFORE_GELU)
        if type(layer) is nn.Linear and type(activation) is GELUActivation and activation.act is nn.functional.gelu
    ]
    chosen = found if has_product() else []
    for layer, activation in chosen:
        layer.forward = partial(linear_gelu, layer)
        activation.forward = _as_it_is
    try:
        yield
    finally:
        for pair in chosen:
            for module in pair:
                del module.forward


def _as_it_is(x: Tensor) -> Tensor:
    return x
