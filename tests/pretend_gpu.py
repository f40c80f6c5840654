"""A GPU that is not there: tensors that say they lie on a device "gpu", and are computed on the CPU.

Code for a GPU goes wrong in two ways that need no GPU to be seen: tensors of two devices meet in one operation, and
work is cut into more operations than it need be, each of which costs a launch. So torch gets a device whose tensors
wrap those of the CPU; operations that mix the two are refused, the others are counted. It knows nothing of speed, of
memory and of half precision.

    python tests/pretend_gpu.py FOLDER      # both engines on the five recipes, the search, encoding; prints JSON

It is a process of its own, since torch takes such a device once and for good.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

STEPS = 2
MAY_MIX = ("aten._to_copy.default", "aten.copy_.default")
INDEXED = ("aten.index.Tensor", "aten.index_put_.default", "aten.index_put.default", "aten._index_put_impl_.default")
"""A tensor on the GPU may be indexed by one that is not."""

FREE = {
    "view", "t", "detach", "transpose", "expand", "_unsafe_view", "unsqueeze", "squeeze", "select", "slice", "split",
    "split_with_sizes", "alias", "permute", "lift_fresh", "as_strided", "unbind", "empty",
}  # fmt: skip
"""Operations that launch nothing."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


@cache
def registered() -> torch.device:
    """The device, which torch knows from then on; not at import, since whoever reads this file is to be left alone."""
    _setup_privateuseone_for_python_backend("gpu", backend_module=_Module())
    return torch.device("gpu", 0)


class Far(torch.Tensor):
    """A tensor on the device; `near` is the one on the CPU that holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls: type[Far], near: torch.Tensor) -> Far:
        made: Far = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=registered(),
        )
        made.near = near
        return made

    def __init__(self, near: torch.Tensor) -> None:
        """Made by __new__."""

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("expected a tensor of the CPU, found one of a GPU; use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


launched: Counter[str] = Counter()


def is_far(device: Any) -> bool:
    return device is not None and torch.device(device).type == "gpu"


def computed(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation where its tensors say they are; RuntimeError where they are on two devices."""
    name, short = str(operation), operation._opname
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    far = [each for each in given if isinstance(each, Far)]
    near = [each for each in given if not isinstance(each, Far) and each.dim() > 0]
    if far and near and name not in MAY_MIX and not (name in INDEXED and isinstance(args[0], Far)):
        shapes = [[tuple(each.shape) for each in some] for some in (far, near)]
        raise RuntimeError(f"expected tensors of one device in {name}, found {shapes[0]} on the GPU, {shapes[1]} not.")
    device = kwargs.get("device")
    there = is_far(device) if device is not None else bool(far)
    if short == "copy_":
        there = isinstance(args[0], Far)
    if there and short not in FREE:
        launched[short] += 1
    args, kwargs = tree_map(lambda each: each.near if isinstance(each, Far) else each, (args, kwargs))
    if is_far(device):
        kwargs["device"] = torch.device("cpu")
    found = STANDS_FOR.get(name, operation)(*args, **kwargs)
    known = {id(each.near): each for each in far}  # what was changed in place stays the tensor that it was

    def wrapped(each: Any) -> Any:
        if not isinstance(each, torch.Tensor):
            return each
        if id(each) in known:
            return known[id(each)]
        return Far(each) if there else each

    return tree_map(wrapped, found)


class Computing(TorchDispatchMode):
    """Operations without a tensor, as torch.zeros, come here."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})


class _Sent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, near: torch.Tensor) -> torch.Tensor:
        return Far(near.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        assert isinstance(gradient, Far)
        return gradient.near


class Moving(TorchFunctionMode):
    """Tensor.to and torch.tensor, which torch itself cannot do for such a device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function is torch.Tensor.to:
            return self._to(args[0], args[1:], kwargs)
        if name in ("tensor", "as_tensor") and is_far(kwargs.get("device")):
            return Far(function(*args, **{key: value for key, value in kwargs.items() if key != "device"}))
        return function(*args, **kwargs)

    def _to(self, tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        device, kind = kwargs.get("device"), kwargs.get("dtype")
        for each in args:
            if isinstance(each, torch.Tensor):
                device, kind = each.device, each.dtype
            elif isinstance(each, torch.dtype):
                kind = each
            elif isinstance(each, (str, torch.device)):
                device = each
        kind = kind or tensor.dtype
        if is_far(device) and not isinstance(tensor, Far):
            with self:
                tensor = _Sent.apply(tensor)
        elif device is not None and isinstance(tensor, Far) and not is_far(device):
            found: torch.Tensor = torch.ops.aten._to_copy.default(tensor, device=torch.device("cpu"), dtype=kind)
            return found
        return torch.Tensor.to(tensor, dtype=kind)


# --- the kernel that torch has for CUDA alone ----------------------------------------------------------------------


def _texts(ends: torch.Tensor, longest: int) -> Iterator[slice]:
    assert ends.dtype == torch.int32
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert end - start <= longest
        yield slice(start, end)


def _attention(
    query: Any, key: Any, value: Any, bias: None, ends: Any, same: Any, most: int, too: int, *more: Any, scale: float
) -> Any:
    found = torch.empty_like(query)
    for text in _texts(ends, most):
        q, k, v = (each[0, text].transpose(0, 1) for each in (query, key, value))
        found[0, text] = (torch.softmax(scale * q @ k.transpose(1, 2), -1) @ v).transpose(0, 1)
    nothing = torch.zeros(1)
    return found, torch.zeros(int(more[-1])), nothing.long(), nothing.long(), most, too


def _attention_backward(
    gradient: Any,
    query: Any,
    key: Any,
    value: Any,
    bias: None,
    out: Any,
    ends: Any,
    same: Any,
    most: int,
    *more: Any,
    scale: float,
) -> Any:
    assert more[1].numel() == 1, "the kernel was not told that a gradient would be asked for"
    made = [torch.empty_like(each) for each in (query, key, value)]
    for text in _texts(ends, most):
        q, k, v, g = (each[0, text].transpose(0, 1) for each in (query, key, value, gradient))
        weights = torch.softmax(scale * q @ k.transpose(1, 2), -1)
        above = g @ v.transpose(1, 2)
        scores = scale * weights * (above - (above * weights).sum(-1, keepdim=True))
        for to, part in zip(made, (scores @ k, scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ g), strict=True):
            to[0, text] = part.transpose(0, 1)
    return *made, None


STANDS_FOR = {
    "aten._efficient_attention_forward.default": _attention,
    "aten._efficient_attention_backward.default": _attention_backward,
}


# --- what is tried -------------------------------------------------------------------------------------------------


def _no_gradients(mode: bool = True) -> Any:
    """For torch.inference_mode, whose tensors cannot be wrapped."""
    return torch.no_grad() if mode else torch.enable_grad()


@contextmanager
def pretending() -> Iterator[None]:
    """Inside the block the device can be used, and the library's trainer trains on it."""
    import accelerate
    import transformers

    registered()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.inference_mode = _no_gradients
    kept = transformers.TrainingArguments.device, accelerate.Accelerator.device
    transformers.TrainingArguments.device = property(lambda self: (self._setup_devices, registered())[1])
    accelerate.Accelerator.device = property(lambda self: registered())
    try:
        with Computing(), Moving():
            yield
    finally:
        transformers.TrainingArguments.device, accelerate.Accelerator.device = kept


def trained(folder: Path) -> dict[str, Any]:
    """Losses of each recipe by the trainer on the CPU and by both engines on the GPU; launches of a step."""
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    import engines
    from transformers import BertConfig, DistilBertConfig, RobertaConfig, XLMRobertaConfig

    from workbench.training.fast import engine

    engine.STEP_TOKENS["gpu"] = engine.STEP_TOKENS["cuda"]
    small: dict[str, Any] = {
        "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2
    }  # fmt: skip
    configs = (
        DistilBertConfig(dim=64, n_heads=4, hidden_dim=128, n_layers=2), None,
        RobertaConfig(**small, **engines.ROBERTA), BertConfig(**small), XLMRobertaConfig(**small, **engines.ROBERTA),
    )  # fmt: skip
    found = {}
    for shape, config in zip(engines.SHAPES, configs, strict=True):
        place = folder / shape.card
        place.mkdir()
        ready = engines.prepared(shape, config, STEPS, place)
        ready = dataclasses.replace(ready, plan=dataclasses.replace(ready.plan, precision="fp32"))
        said: dict[str, Any] = {"cpu": engines.turn(ready, place, fast=False, dropout=False).losses}
        with pretending():
            for fast in (False, True):
                launched.clear()
                losses = engines.turn(ready, place, fast=fast, dropout=False).losses
                said["fast" if fast else "trainer"] = {"losses": losses, "launched": launched.total() // STEPS}
        found[shape.card] = said
    return found


def searched() -> dict[str, bool]:
    """Whether the search finds the same documents on the GPU, of each similarity."""
    from workbench.cards.metric_names import SIMILARITIES
    from workbench.evaluation.topk import top_k

    drawn = np.random.default_rng(1)
    queries, documents = (drawn.normal(size=(rows, 16)).astype(np.float32) for rows in (30, 700))
    clouds = [drawn.normal(size=(tokens, 16)).astype(np.float32) for tokens in range(1, 31)]
    found = {}
    for similarity in SIMILARITIES:
        asked: Any = clouds if similarity == "energy" else queries
        here = top_k(asked, documents, 10, similarity=similarity, device="cpu", block=256)
        with pretending():
            there = top_k(asked, documents, 10, similarity=similarity, device="gpu", block=256)
        found[similarity] = bool((here[0] == there[0]).all() and np.allclose(here[1], there[1], atol=1e-4))
    return found


def encoded() -> float:
    """The greatest difference between vectors of a model on the GPU and on the CPU."""
    from workbench.models.base import load_base
    from workbench.models.encoding import encode

    texts = ["one", "a text of some more words", "", "the last, " * 40]
    model = load_base("bundled:minilm").model
    here = encode(model, texts)
    with pretending():
        there = encode(copy.deepcopy(model).to("gpu"), texts)
    return float(np.abs(here - there).max())


def main(folder: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(folder))
    torch.manual_seed(1)
    with redirect_stdout(sys.stderr):
        found = {"search": searched(), "encode": encoded(), "train": trained(folder)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
