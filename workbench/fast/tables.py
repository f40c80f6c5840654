"""Large tables of embeddings: a gradient on the rows that a batch touched, and a table read with all columns at once.

The library makes a gradient of the whole table anew for every column of every batch: 125 MB for 30,522 × 1,024 numbers
and 768 MB for the vocabulary of XLM-R, nearly all of them zero. Here one such gradient is kept for the whole training;
a batch writes the rows it touched and they are put back to zero afterwards. The optimizer sees what it always saw, so
rows that were not touched still move by momentum and weight decay: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.fast.packing import Pack


class Table:
    """The gradient of one table of embeddings."""

    def __init__(self, weight: nn.Parameter, padding: int | None = None) -> None:
        """`padding`: the row that never has a gradient, as torch.nn.Embedding has it."""
        self.weight, self.padding = weight, padding
        self.gradient: Tensor | None = None  # (rows, dim), kept; zero but in the rows of `touched`
        self.touched: list[Tensor] = []  # rows, for each batch since the last step

    def rows(self, unique: Tensor) -> Tensor:
        """(len(unique), dim) rows of the table; their gradient goes into `gradient`."""
        found: Tensor = _Rows.apply(self.weight, unique, self)  # type: ignore[no-untyped-call]
        return found

    def add(self, unique: Tensor, gradient: Tensor) -> None:
        """Add a batch's gradient on the different rows `unique`."""
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.weight)
        if self.padding is not None:
            gradient = gradient.masked_fill((unique == self.padding)[:, None], 0.0)
        self.gradient.index_add_(0, unique, gradient.to(self.gradient.dtype))
        self.touched.append(unique)

    def give(self) -> None:
        """Let the optimizer see the gradient."""
        if self.touched:
            self.weight.grad = self.gradient

    def clear(self) -> None:
        """Put the gradient back to zero, once the trainer has taken it from the weights."""
        if self.weight.grad is None and self.gradient is not None:
            for rows in self.touched:
                self.gradient.index_fill_(0, rows, 0.0)
            self.touched = []

    def all_touched(self) -> Tensor:
        return self.touched[0] if len(self.touched) == 1 else torch.unique(torch.cat(self.touched))


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, unique: Tensor, table: Table) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(unique)
        return weight.detach().index_select(0, unique)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.table.add(ctx.saved_tensors[0], gradient)
        return None, None, None


def clip(parameters: Iterable[nn.Parameter], most: float, tables: Sequence[Table]) -> Tensor:
    """torch.nn.utils.clip_grad_norm_, which reads and scales only the touched rows of `tables`; gives the norm."""
    ours = {id(table.weight): table for table in tables if table.touched and table.weight.grad is not None}
    others = [each for each in parameters if each.grad is not None and id(each) not in ours]
    found = [(table.gradient, table.all_touched()) for table in ours.values()]
    parts = [gradient.index_select(0, rows) for gradient, rows in found if gradient is not None]
    norm = torch.nn.utils.get_total_norm([each.grad for each in others if each.grad is not None] + parts)
    torch.nn.utils.clip_grads_with_norm_(others, most, norm)
    factor = torch.clamp(most / (norm + 1e-6), max=1.0)
    for (gradient, rows), part in zip(found, parts, strict=True):
        if gradient is not None:
            gradient.index_copy_(0, rows, part.mul_(factor.to(part.device)))
    return norm


class TablePass:
    """One reading of a static model's table for the texts of several columns."""

    def __init__(self, pack: Pack, columns: Sequence[int], offsets: Tensor, table: Table) -> None:
        """`pack.ids` lie in the order of the caller, `offsets` (texts,) say where each text begins."""
        self.pack, self.table, self.offsets = pack, table, offsets
        self.starts = np.cumsum([0, *columns]).tolist()
        self._vectors: Tensor | None = None  # (texts, dim)

    def outputs(self, module: Any, number: int) -> dict[str, Tensor]:
        if self._vectors is None:
            assert self.pack.unique is not None
            assert self.pack.inverse is not None
            self._vectors = _bags(self.table.rows(self.pack.unique), self.pack.inverse, self.offsets)
            self.pack.passes += 1
        return {"sentence_embedding": self._vectors[self.starts[number] : self.starts[number + 1]]}

    def features(self, number: int) -> dict[str, Any]:
        return {"input_ids": self.pack.ids, "offsets": self.offsets, "pass": (self, number)}


def _bags(rows: Tensor, inverse: Tensor, offsets: Tensor) -> Tensor:
    return nn.functional.embedding_bag(inverse, rows, offsets, mode="mean")
