"""Exact top-k over a corpus of any size, in bounded memory.

No index and no approximation: every query is scored against every document, block by block, and only the best k are
kept. The order is that of InformationRetrievalEvaluator in sentence-transformers 6: score descending, equal scores by
document id ascending. The scores are computed by the same products, so they agree with the library's to the bit on
the same machine as long as a block is a multiple of 16 documents.

Memory beyond the vectors themselves: one block of scores (`QUERY_BLOCK` x `block` x 4 bytes) and 2k entries a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from workbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
"""Named as sentence-transformers names them; the two distances are negated, so that higher is nearer."""

SHORTEST = 1e-12  # length that a vector is divided by at least, as the library does
QUERY_BLOCK = 1024  # queries scored at once
BLOCK = 32_768  # documents scored at once: 128 MiB of scores for a full block of queries


class TopK(NamedTuple):
    """The best documents of each query, best first."""

    positions: npt.NDArray[np.int64]  # (queries, k) row numbers of the documents
    scores: npt.NDArray[np.float32]  # (queries, k) higher is nearer


def top_k(
    queries: Any,
    documents: Any,
    k: int,
    *,
    similarity: str = "cosine",
    ids: Sequence[str] | None = None,
    block: int = BLOCK,
    device: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TopK:
    """The k documents nearest to each query, exactly.

    queries (q, dim) and documents (n, dim) are arrays or tensors, taken as float32; `documents` may be a memory map,
    it is read one block at a time. `ids` decides between equal scores, lowest first; without it the row number does.
    A k above n gives n columns. `device` is CUDA where there is one, else the CPU.

    Raises DataError for vectors that are not finite, shapes that do not fit, or an unknown similarity.

    >>> found = top_k([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]], k=2, ids=["c", "b", "a"])
    >>> found.positions.tolist(), found.scores.tolist()
    ([[2, 1]], [[1.0, 1.0]])
    """
    search = Search(queries, k, similarity=similarity, block=block, device=device)
    ranks = id_ranks(ids) if ids is not None else None
    total = len(documents)
    if ranks is not None and len(ranks) != total:
        raise DataError(f"expected one id for each of {total} documents, found {len(ranks)}; give as many.")
    for start in range(0, total, block):
        search.add(documents[start : start + block], None if ranks is None else ranks[start : start + block])
        if on_progress is not None:
            on_progress("search", min(start + block, total), total)
    return search.result()


def id_ranks(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Place of each id in ascending order.

    >>> id_ranks(["b", "a", "c"]).tolist()
    [1, 0, 2]
    """
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return ranks


class Search:
    """Top-k of a corpus that arrives in parts, as it does from an encoder.

    `add` each part once, in order; `result` gives what was found so far. See `top_k` for everything else.
    """

    def __init__(
        self,
        queries: Any,
        k: int,
        *,
        similarity: str = "cosine",
        block: int = BLOCK,
        device: str | None = None,
    ) -> None:
        import torch

        if similarity not in SIMILARITIES:
            raise DataError(f"expected a similarity of {', '.join(SIMILARITIES)}, found {similarity!r}; choose one.")
        if k < 1 or block < 1:
            raise DataError(f"expected k and block of at least 1, found {k} and {block}; give larger ones.")
        self.k, self.block, self.similarity = k, block, similarity
        self._room = self._unit = torch.empty(0)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.queries = self._prepared(queries, "queries")  # (q, dim)
        self.seen = 0  # documents
        shape = (len(self.queries), 0)
        self.scores = torch.empty(shape, device=self.device)  # (q, up to k), best first
        self.ranks = torch.empty(shape, dtype=torch.long, device=self.device)
        self.positions = torch.empty(shape, dtype=torch.long, device=self.device)

    def add(self, documents: Any, ranks: npt.NDArray[np.int64] | None = None) -> None:
        """Score `documents` (m, dim); `ranks` (m,) is where their ids stand among those of the whole corpus."""
        import torch

        for start in range(0, len(documents), self.block):
            part = self._prepared(documents[start : start + self.block], "documents", self.seen)
            if part.shape[1] != self.queries.shape[1]:
                raise DataError(
                    f"expected documents of {self.queries.shape[1]} dimensions like the queries, found "
                    f"{part.shape[1]}; were they encoded by another model?"
                )
            if ranks is None:
                order = torch.arange(self.seen, self.seen + len(part), device=self.device)
            else:
                order = torch.from_numpy(ranks[start : start + self.block]).to(self.device)
            best = [
                self._best(self._score(self.queries[row : row + QUERY_BLOCK], part), order)
                for row in range(0, len(self.queries), QUERY_BLOCK)
            ]
            if best:
                self._merge(*(torch.cat(parts) for parts in zip(*best, strict=True)))
            self.seen += len(part)

    def result(self) -> TopK:
        """What was found so far."""
        import torch

        positions = self.positions.clone()
        equal = self.scores[:, 1:] == self.scores[:, :-1]  # (q, k - 1) neighbours whose order is arbitrary so far
        rows = torch.nonzero(equal.any(dim=1)).flatten()
        by_rank = self.ranks[rows].argsort(dim=1)
        by_score = self.scores[rows].gather(1, by_rank).argsort(dim=1, descending=True, stable=True)
        positions[rows] = self.positions[rows].gather(1, by_rank.gather(1, by_score))
        return TopK(positions.cpu().numpy(), self.scores.cpu().numpy())

    def _prepared(self, vectors: Any, what: str, first: int = 0) -> torch.Tensor:
        """Float32, on the device, of unit length for cosine; `first` is the number of the first row.

        Documents of unit length are valid until the next call, which uses the same memory.
        """
        import torch

        if isinstance(vectors, torch.Tensor):
            tensor = vectors.detach().to(self.device, torch.float32)
        else:
            array = np.require(vectors, dtype=np.float32, requirements=["C", "W"])
            tensor = torch.from_numpy(array).to(self.device)
        if tensor.ndim != 2:
            raise DataError(f"expected {what} of shape (rows, dimensions), found {tuple(tensor.shape)}.")
        lengths = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)  # (rows, 1) not finite where a number is not
        if not bool(torch.isfinite(lengths).all()):
            _refuse_infinite(tensor, what, first)
        if self.similarity != "cosine":
            return tensor
        if what == "queries":
            return torch.div(tensor, lengths.clamp_min(SHORTEST))
        if self._unit.numel() < tensor.numel():
            self._unit = torch.empty(tensor.numel(), device=self.device)
        out = self._unit[: tensor.numel()].view_as(tensor)
        torch.div(tensor, lengths.clamp_min(SHORTEST), out=out)
        return out

    def _score(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """(q, m) similarities; valid until the next call, which uses the same memory."""
        import torch

        if self.similarity in ("euclidean", "manhattan"):
            return -torch.cdist(queries, documents, p=2.0 if self.similarity == "euclidean" else 1.0)
        size = len(queries) * len(documents)
        if self._room.numel() < size:
            self._room = torch.empty(size, device=self.device)
        return torch.mm(queries, documents.T, out=self._room[:size].view(len(queries), len(documents)))

    def _best(self, scores: torch.Tensor, ranks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, ranks and positions of the best k of this block."""
        columns, values = _pick(scores, ranks.expand(scores.shape), self.k)
        return values, ranks[columns], columns + self.seen

    def _merge(self, scores: torch.Tensor, ranks: torch.Tensor, positions: torch.Tensor) -> None:
        """Keep the best k of those kept so far and a block's best."""
        import torch

        ranks = torch.cat([self.ranks, ranks], dim=1)
        columns, self.scores = _pick(torch.cat([self.scores, scores], dim=1), ranks, self.k)
        self.ranks = ranks.gather(1, columns)
        self.positions = torch.cat([self.positions, positions], dim=1).gather(1, columns)


def _pick(scores: torch.Tensor, ranks: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and scores of the best k of each row, score descending; equal scores at the cut by rank.

    torch.topk picks any of several equal scores. One more than k is asked for: where the last two are equal, the
    choice was arbitrary and is made again by rank.
    """
    import torch

    keep = min(k, scores.shape[1])
    values, columns = scores.topk(min(keep + 1, scores.shape[1]), dim=1)  # (q, keep + 1)
    if values.shape[1] == keep:
        return columns, values
    cut = values[:, keep - 1]
    tied = torch.nonzero(cut == values[:, keep]).flatten()
    values, columns = values[:, :keep], columns[:, :keep]
    for rows in torch.split(tied, 64):
        some, edge = scores[rows], cut[rows, None]
        key = torch.where(some > edge, ranks[rows] - 2 * _FAR, ranks[rows])
        columns[rows] = torch.where(some < edge, _FAR, key).topk(keep, dim=1, largest=False).indices
        values[rows], order = some.gather(1, columns[rows]).sort(dim=1, descending=True)
        columns[rows] = columns[rows].gather(1, order)
    return columns, values


_FAR = 1 << 40  # beyond every rank


def _refuse_infinite(vectors: torch.Tensor, what: str, first: int) -> None:
    """DataError naming the first row that is not finite; large finite numbers pass."""
    import torch

    bad = torch.nonzero(~torch.isfinite(vectors).all(dim=1)).flatten()
    if len(bad):
        raise DataError(
            f"expected finite numbers in the vectors of the {what}, found NaN or infinity in row "
            f"{first + int(bad[0])}; the model that made them is broken, or its precision too low."
        )
