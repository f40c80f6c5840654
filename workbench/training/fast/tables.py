"""Large embedding tables: a gradient on the rows that a batch touched, and one lookup for all columns of a batch.

The library allocates a gradient of the whole table for every column of every batch: 125 MB for 30,522 × 1,024 numbers
and 768 MB for the vocabulary of XLM-R, nearly all zeros. Here one gradient is kept for the whole training; a batch
writes the rows that it touched, and they are reset to zero afterwards. The optimizer sees the same gradient as before,
so rows that were not touched still change by momentum and weight decay: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.models.packing import copy_to


class Table:
    """The gradient of one table of embeddings."""

    def __init__(self, weight: nn.Parameter, padding: int | None = None) -> None:
        """`padding`: the row that never has a gradient, as torch.nn.Embedding has it."""
        self.weight, self.padding = weight, padding
        self.gradient: Tensor | None = None  # (rows, dim), kept; zero but in the rows of `touched`
        self.touched: list[Tensor] = []  # different rows, for each batch since the last step
        self.waiting: Tensor | None = None  # gradient of the one batch so far, not written into `gradient` yet

    def rows(self, unique: Tensor) -> Tensor:
        """(len(unique), dim) rows of the table; their gradient goes where it is kept."""
        found: Tensor = _Rows.apply(self.weight, unique, self)  # type: ignore[no-untyped-call]
        return found

    def add(self, unique: Tensor, gradient: Tensor) -> None:
        """Add a batch's gradient on the different rows `unique`."""
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.weight)
        if self.padding is not None:
            gradient = gradient.masked_fill((unique == self.padding)[:, None], 0.0)
        if not self.touched and self.weight.device.type == "cpu":
            self.waiting = gradient
        else:
            self.write()
            self.gradient.index_add_(0, unique, gradient.to(self.gradient.dtype))
        self.touched.append(unique)
        self.weight.grad = self.gradient

    def write(self) -> None:
        """Put what waits into the gradient that the optimizer sees."""
        if self.waiting is not None and self.gradient is not None:
            self.gradient.index_copy_(0, self.touched[0], self.waiting)
            self.waiting = None

    def scale(self, factor: Tensor, part: Tensor) -> None:
        """Multiply the gradient, whose touched rows are `part`."""
        part.mul_(factor.to(part.device))
        if self.waiting is None and self.gradient is not None:
            self.gradient.index_copy_(0, self._all_touched(), part)

    def part(self) -> Tensor:
        """The touched rows of the gradient."""
        if self.waiting is not None:
            return self.waiting
        assert self.gradient is not None
        return self.gradient.index_select(0, self._all_touched())

    def clear(self) -> None:
        """Put the gradient back to zero, once the trainer has taken it from the weights."""
        if self.weight.grad is None and self.gradient is not None:
            if self.waiting is None:
                for rows in self.touched:
                    self.gradient.index_fill_(0, rows, 0.0)
            self.touched, self.waiting = [], None

    def _all_touched(self) -> Tensor:
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
    parts = [table.part() for table in ours.values()]
    norm = torch.nn.utils.get_total_norm([each.grad for each in others if each.grad is not None] + parts)
    torch.nn.utils.clip_grads_with_norm_(others, most, norm)
    factor = torch.clamp(most / (norm + 1e-6), max=1.0)
    for table, part in zip(ours.values(), parts, strict=True):
        table.scale(factor, part)
    return norm


@dataclass(frozen=True)
class Bags:
    """Texts as bags of tokens, and the same tokens as bags of texts."""

    ids: Tensor  # (tokens,) text by text
    starts: Tensor  # (texts,) where each begins in `ids`
    lengths: Tensor  # (texts, 1) tokens of each, at least 1, float
    unique: Tensor  # (different,) tokens, ascending
    texts: Tensor  # (tokens,) the text of each token, token by token
    token_starts: Tensor  # (different,) where each begins in `texts`


def bags(texts: Sequence[np.ndarray[Any, Any]], device: Any) -> Bags:
    """Lay out texts for one reading of a table."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    ids = np.concatenate(texts).astype(np.int64)
    small = ids.astype(np.uint16) if ids.size and ids.max() < 1 << 16 else ids  # NumPy sorts these ten times as fast
    order = np.argsort(small, kind="stable")
    ordered = ids[order]
    token_starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counted = np.maximum(lengths, 1)
    whole = (
        ids,
        np.cumsum(lengths) - lengths,
        counted,
        ordered[token_starts],
        np.repeat(np.arange(len(texts)), lengths)[order],
        token_starts,
    )
    made = copy_to([torch.from_numpy(array) for array in whole], device)
    return Bags(made[0], made[1], made[2].float()[:, None], *made[3:])


class _Means(torch.autograd.Function):
    """The mean of each text's rows; its gradient, on the different tokens, is a sum over the texts of each of them."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Table, laid: Bags) -> Tensor:
        ctx.table, ctx.laid = table, laid
        return nn.functional.embedding_bag(laid.ids, weight.detach(), laid.starts, mode="mean")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        laid: Bags = ctx.laid
        shares = gradient / laid.lengths  # (texts, dim)
        found = nn.functional.embedding_bag(laid.texts, shares, laid.token_starts, mode="sum")  # (different, dim)
        ctx.table.add(laid.unique, found)
        return None, None, None


class TablePass:
    """One reading of a static model's table for the texts of several columns."""

    def __init__(self, laid: Bags, columns: Sequence[int], table: Table) -> None:
        """`columns`: how many texts each has, in the order in which they are laid."""
        self.laid, self.table = laid, table
        self.starts = np.cumsum([0, *columns]).tolist()
        self.tokens = len(laid.ids)
        self._vectors: Tensor | None = None  # (texts, dim)

    def outputs(self, module: Any, number: int) -> dict[str, Tensor]:
        if self._vectors is None:
            self._vectors = _Means.apply(self.table.weight, self.table, self.laid)  # type: ignore[no-untyped-call]
        assert self._vectors is not None
        return {"sentence_embedding": self._vectors[self.starts[number] : self.starts[number + 1]]}

    def features(self, number: int) -> dict[str, Any]:
        """What the model is called with for a column."""
        return {"pass": (self, number)}
