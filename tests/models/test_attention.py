"""Attention and dropout of concatenated texts against the formula, torch and the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import tiny_base
from torch import nn

from workbench.models import attention, dropout, packing, tokens

TEXTS = ["how many brake", "a", "the wheel of the car model year is it"]


def test_dropout_has_the_librarys_distribution(tmp_path: Path) -> None:
    """Means and spreads of token embeddings over many draws, ours and the library's."""
    model = SentenceTransformer(str(tiny_base(tmp_path, dropout=0.3)), device="cpu").train()
    packed = packing.pack([np.array(row) for row in tokens.tokenize(model, TEXTS)])
    with torch.no_grad():
        with packing.packed_forward(model), dropout.fast_dropout(model):
            ours = torch.stack(
                [
                    model[0](packing.Pass(packed, [len(TEXTS)]).features(0))["token_embeddings"][0, :3]
                    for _ in range(600)
                ]
            )
        theirs = torch.stack([model[0](model.preprocess(TEXTS))["token_embeddings"][0, :3] for _ in range(600)])
    error = (ours.var(0) / 600 + theirs.var(0) / 600).sqrt()
    assert float(((ours.mean(0) - theirs.mean(0)) / error).abs().max()) < 5
    assert float((ours.std(0) / theirs.std(0) - 1).abs().max()) < 0.2


@pytest.mark.parametrize("p", [0.05, 0.5, 0.97])
def test_numbers_are_dropped_independently_with_their_probability(p: float) -> None:
    """Shares of single places and of neighbours, over many draws: five standard errors of a coin."""
    torch.manual_seed(2)
    draws = 4000
    dropped = torch.zeros(draws, 30)
    for row in dropped:
        row[dropout.dropped_indices(30, p)] = 1
    error = (p * (1 - p) / draws) ** 0.5
    assert float((dropped.mean(0) - p).abs().max()) < 5 * error
    both = (dropped[:, :-1] * dropped[:, 1:]).mean(0)  # neighbours do not know of each other
    assert float((both - p**2).abs().max()) < 5 * (p**2 * (1 - p**2) / draws) ** 0.5
    many = dropout.dropped_indices(1_000_000, p)
    assert abs(len(many) / 1_000_000 - p) < 5 * (p * (1 - p) / 1_000_000) ** 0.5
    assert bool((many.diff() > 0).all())
    assert 0 <= int(many[0]) <= int(many[-1]) < 1_000_000


def test_dropout_scales_the_rest_and_its_gradient() -> None:
    x = torch.randn(50, 40).T.requires_grad_()  # not contiguous
    y = dropout.apply_dropout(x, 0.25)
    assert torch.allclose(y[y != 0], x[y != 0] / 0.75)
    assert 0.15 < float((y == 0).float().mean()) < 0.35
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (y != 0) / 0.75)
    assert torch.equal(dropout.apply_dropout(x, 0.0), x)
    assert not dropout.apply_dropout(x, 1.0).any()
    layer = nn.Sequential(nn.Dropout(0.5)).eval()
    with dropout.fast_dropout(layer):
        assert layer(x) is x
    assert "forward" not in layer[0].__dict__


def layout_of(lengths: list[int], kind: torch.dtype = torch.float32) -> tuple[attention.Layout, list[Any]]:
    """The layout of texts of these lengths, and queries, keys and values of 3 heads for their tokens."""
    torch.manual_seed(4)
    made = packing.pack([np.arange(length) for length in lengths]).layout
    return made, [torch.randn(sum(lengths), 3, 4, dtype=kind).requires_grad_() for _ in range(3)]


def gradients(found: torch.Tensor, rows: list[Any]) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), rows)]


def test_padded_attention_equals_block_attention() -> None:
    """As a GPU gets it; most lengths differ, and the groups of them are not half padding."""
    made, rows = layout_of([5, 1, 5, 2, 9, 30, 3])
    padded = sum(group.texts * group.longest for group in made.groups)
    assert (len(made.groups), sum(group.texts for group in made.groups)) == (2, 7)
    assert padded <= attention.PADDING * 55
    ours = gradients(attention.padded_attention(*rows, made, 0.0, 0.5), rows)
    for one, other in zip(ours, gradients(attention.block_attention(*rows, made, 0.5), rows), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    dropped = attention.padded_attention(*rows, made, 0.5, 0.5)
    assert dropped.shape == ours[0].shape
    assert not torch.allclose(dropped, ours[0], atol=1e-2)


def test_a_kernel_is_used_only_where_it_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has it for CUDA alone; here another stands for it, a right one and two that are wrong."""

    def tried(way: Any) -> bool:
        monkeypatch.setattr(attention, "kernel_attention", way)
        return attention.kernel_works.__wrapped__(torch.device("cpu"), torch.float32, 4)

    def right(query: Any, key: Any, value: Any, layout: Any, dropout: float, scale: float) -> torch.Tensor:
        return attention.block_attention(query, key, value, layout, scale)

    assert not attention.kernel_works(torch.device("cpu"), torch.float32, 4)
    assert tried(right)
    assert not tried(lambda *given: right(*given) * 1.01)
    assert not tried(lambda *given: right(*given).detach() + 0 * given[0])  # no gradient


def test_the_kernel_accepts_its_arguments() -> None:
    """Its arguments and the shape of what comes out, on the device that computes nothing."""
    made, rows = layout_of([5, 1, 5])
    there = attention.Layout(made.lengths, made.ends.to("meta"))
    query, key, value = (each.detach().to("meta") for each in rows)
    found = attention.kernel_attention(query, key, value, there, 0.1, 0.5)
    assert (found.shape, found.device.type) == (rows[0].shape, "meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_kernel_works_on_a_gpu(kind: torch.dtype) -> None:
    assert attention.kernel_works(torch.device("cuda", 0), kind, 64)


def test_attention_with_dropout_equals_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, with the same weights dropped, against autograd."""
    made, rows = layout_of([5, 1, 5, 2], torch.float64)
    dropped = torch.arange(0, 3 * (1 + 4 + 25 + 25), 4)
    monkeypatch.setattr(attention, "dropped_indices", lambda count, p: dropped)
    query, key, value = (each.transpose(0, 1)[None] for each in rows)  # as transformers hands them over
    ours, _ = attention.packed_attention(nn.Identity(), query, key, value, None, 0.2, 0.5, layout=made)
    found, token, weight = [], 0, 0
    for length in (1, 2, 5, 5):
        q, k, v = (each[token : token + length].transpose(0, 1) for each in rows)  # (heads, tokens, dim)
        weights = torch.softmax(0.5 * q @ k.transpose(1, 2), dim=-1) / 0.8
        mine = (dropped >= weight) & (dropped < weight + weights.numel())
        weights = weights.flatten().index_fill(0, dropped[mine] - weight, 0.0).view_as(weights)
        found.append((weights @ v).transpose(0, 1))
        token, weight = token + length, weight + weights.numel()
    for one, other in zip(gradients(ours[0], rows), gradients(torch.cat(found), rows), strict=True):
        assert torch.allclose(one, other, atol=1e-12)
