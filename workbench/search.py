"""Exact top-k over a corpus of any size, in bounded memory.

No index and no approximation: every query is scored against every document, block by block, and only the best k are
kept. The order is that of InformationRetrievalEvaluator in sentence-transformers 6: score descending, equal scores by
document id ascending.

Sorting costs more than scoring where it is done block by block, so it is done rarely: the k-th best score so far is a
threshold, and a block, while it is still in the processor's cache, is only compared with it. The few that reach it
wait, and are merged each time the corpus seen has doubled. A block never depends on how the documents arrived.

Scores are computed by the library's own products, and agree with it to the bit on the same machine. One exception:
the last block is filled up to 16 documents with zeros, because a matrix product computes an incomplete last tile in
another order. So equal documents tie exactly wherever they stand; the library's last 15, under few queries, may not.

Memory beyond the vectors themselves: a block of documents, a block of scores (`QUERIES_AT_ONCE` x `block` x 4 bytes)
and a few times k entries a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from workbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

Similarity = Literal["cosine", "dot", "euclidean", "manhattan", "energy"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
"""Named as sentence-transformers names them; distances are negated, so that higher is nearer. "energy" is ours."""

SHORTEST = 1e-12  # length that a vector is divided by at least, as the library does
QUERIES_AT_ONCE = 1024  # queries, or tokens of queries, scored at once
BLOCK = 4096  # documents scored at once on a CPU: 16 MiB of scores stay in its cache
BLOCK_ELSEWHERE = 32_768
TILE = 16  # documents that a matrix product computes in one way
WAITING = 4  # times k: candidates of one query that wait to be merged


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
    distance: str = "manhattan",
    ids: Sequence[str] | None = None,
    block: int | None = None,
    device: str | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TopK:
    """The k documents nearest to each query, exactly.

    queries (q, dim) and documents (n, dim) are arrays or tensors, taken as float32; `documents` may be a memory map,
    it is read one block at a time. Under "energy" each query is its token embeddings (tokens, dim), and `distance` is
    that of `workbench.energy`. `ids` decides between equal scores, lowest first; without it the row number does.
    A k above n gives n columns. `device` is CUDA where there is one, else the CPU.

    Raises DataError for vectors that are not finite, shapes that do not fit, ids that come twice, or an unknown
    similarity.

    >>> found = top_k([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]], k=2, ids=["c", "b", "a"])
    >>> found.positions.tolist(), found.scores.tolist()
    ([[2, 1]], [[1.0, 1.0]])
    """
    search = Search(queries, k, similarity=similarity, distance=distance, block=block, device=device)
    ranks = id_ranks(ids) if ids is not None else None
    total = len(documents)
    if ranks is not None and len(ranks) != total:
        raise DataError(f"expected one id for each of {total} documents, found {len(ranks)}; give as many.")
    for start in range(0, total, search.block):
        end = min(start + search.block, total)
        search.add(documents[start:end], None if ranks is None else ranks[start:end])
        if on_progress is not None:
            on_progress("search", end, total)
    return search.result()


def id_ranks(ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """Place of each id in ascending order.

    Raises DataError where an id comes twice.

    >>> id_ranks(["b", "a", "c"]).tolist()
    [1, 0, 2]
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    twice = next((ids[one] for one, other in pairwise(order) if ids[one] == ids[other]), None)
    if twice is not None:
        raise DataError(f"expected every document to have an id of its own, found {twice!r} twice; rename one.")
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


class Search:
    """Top-k of a corpus that arrives in parts, as it does from an encoder.

    `add` the parts, of any size and in any order; `result` gives what was found so far. See `top_k` for the rest.
    """

    def __init__(
        self,
        queries: Any,
        k: int,
        *,
        similarity: str = "cosine",
        distance: str = "manhattan",
        block: int | None = None,
        device: str | None = None,
    ) -> None:
        import torch

        if similarity not in SIMILARITIES:
            raise DataError(f"expected a similarity of {', '.join(SIMILARITIES)}, found {similarity!r}; choose one.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.block = (BLOCK if self.device.type == "cpu" else BLOCK_ELSEWHERE) if block is None else block
        if k < 1 or self.block < 1:
            raise DataError(f"expected k and block of at least 1, found {k} and {self.block}; give larger ones.")
        self.k, self.similarity, self.distance = k, similarity, distance
        self._groups = self._energy_groups(queries) if similarity == "energy" else self._groups_of(queries)
        self.seen = 0  # documents scored
        self._staged = 0  # documents that wait for a full block, in the first rows of:
        self._stage = self._unit = self._room = torch.empty(0)
        self._stage_ranks = np.empty(0, dtype=np.int64)

    def add(self, documents: Any, ranks: npt.NDArray[np.int64] | None = None) -> None:
        """Score `documents` (m, dim); `ranks` (m,) is where their ids stand among those of the whole corpus."""
        total = len(documents)
        if ranks is None:
            first = self.seen + self._staged
            ranks = np.arange(first, first + total)
        start = 0
        while start < total:
            whole = not self._staged and total - start >= self.block
            end = min(start + self.block - self._staged, total)
            part = self._float32(documents[start:end], "documents")
            if self._groups and part.shape[1] != self.dim:
                raise DataError(
                    f"expected documents of {self.dim} dimensions like the queries, found {part.shape[1]}; were they "
                    "encoded by another model?"
                )
            if whole:
                self._score(part, ranks[start:end])
            else:
                self._wait(part, ranks[start:end])
            start = end

    def result(self) -> TopK:
        """What was found so far.

        Raises DataError where a score is not a number, as that of vectors whose product float32 cannot hold.
        """
        import torch

        self._flush()
        for group in self._groups:
            group.merge()
        if not self._groups:
            shape = (0, min(self.k, self.seen))
            return TopK(np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32))
        scores = torch.cat([group.scores for group in self._groups])
        ranks = torch.cat([group.ranks for group in self._groups])
        positions = torch.cat([group.positions for group in self._groups])
        if bool(scores.isnan().any()):
            raise DataError("expected scores that are numbers, found NaN; the numbers in the vectors are too large.")
        equal = scores[:, 1:] == scores[:, :-1]  # (q, k - 1) neighbours whose order is arbitrary so far
        rows = torch.nonzero(equal.any(dim=1)).flatten()
        by_rank = ranks[rows].argsort(dim=1)
        by_score = scores[rows].gather(1, by_rank).argsort(dim=1, descending=True, stable=True)
        positions[rows] = positions[rows].gather(1, by_rank.gather(1, by_score))
        if self.similarity == "energy":
            scores = scores + torch.cat([group.own_terms(self.distance) for group in self._groups])[:, None]
        return TopK(positions.cpu().numpy(), scores.cpu().numpy())

    # --- queries ---

    def _groups_of(self, queries: Any) -> list[_Group]:
        """Equal parts of at most `QUERIES_AT_ONCE` rows: a part of few rows would be multiplied in another way."""
        import torch

        vectors = self._float32(queries, "queries")
        lengths = _lengths(vectors, "queries", 0)
        if self.similarity == "cosine":
            vectors = torch.div(vectors, lengths.clamp_min(SHORTEST))
        self.dim = vectors.shape[1]
        parts = torch.tensor_split(vectors, max(-(-len(vectors) // QUERIES_AT_ONCE), 1))
        return [_Group(part, self.k) for part in parts if len(part)]

    def _energy_groups(self, queries: Any) -> list[_Group]:
        """Queries of at most `QUERIES_AT_ONCE` tokens together, or one with more."""
        import torch

        from workbench.energy import DISTANCES

        if self.distance not in DISTANCES:
            raise DataError(f"expected a distance of {' or '.join(DISTANCES)}, found {self.distance!r}; choose one.")
        clouds = [self._float32(cloud, "the tokens of a query") for cloud in queries]
        self.dim = clouds[0].shape[1] if clouds else 0
        groups: list[list[torch.Tensor]] = []
        size = 0
        for row, cloud in enumerate(clouds):
            if not len(cloud) or cloud.shape[1] != self.dim:
                raise DataError(
                    f"expected a token at least for every query, each of {self.dim} dimensions like the first, found "
                    f"{tuple(cloud.shape)} for query {row}."
                )
            _lengths(cloud, f"tokens of query {row}", 0)
            size += len(cloud)
            if not groups or size > QUERIES_AT_ONCE:
                groups.append([])
                size = len(cloud)
            groups[-1].append(cloud)
        self._centre = torch.cat(clouds).mean(dim=0) if clouds else torch.empty(0)
        return [_Group(torch.cat(group), self.k, [len(cloud) for cloud in group]) for group in groups]

    # --- documents ---

    def _float32(self, vectors: Any, what: str) -> torch.Tensor:
        """(rows, dim) on the device."""
        import torch

        if isinstance(vectors, torch.Tensor):
            tensor = vectors.detach().to(self.device, torch.float32)
        else:
            array = np.require(vectors, dtype=np.float32, requirements=["C", "W"])
            tensor = torch.from_numpy(array).to(self.device)
        if tensor.ndim != 2:
            raise DataError(f"expected {what} of shape (rows, dimensions), found {tuple(tensor.shape)}.")
        return tensor

    def _wait(self, part: torch.Tensor, ranks: npt.NDArray[np.int64]) -> None:
        """Keep a copy until a block is full."""
        import torch

        if not len(self._stage):
            self._stage = torch.empty(self.block, part.shape[1], device=self.device)
            self._stage_ranks = np.empty(self.block, dtype=np.int64)
        end = self._staged + len(part)
        self._stage[self._staged : end] = part
        self._stage_ranks[self._staged : end] = ranks
        self._staged = end
        if end == self.block:
            self._flush()

    def _flush(self) -> None:
        staged, self._staged = self._staged, 0
        if staged:
            self._score(self._stage[:staged], self._stage_ranks[:staged])

    def _score(self, documents: torch.Tensor, ranks: npt.NDArray[np.int64]) -> None:
        """Offer one block to every group of queries."""
        import torch

        count = len(documents)
        lengths = _lengths(documents, "documents", self.seen)
        documents = self._whole_tiles(documents, lengths)
        order = torch.from_numpy(np.ascontiguousarray(ranks)).to(self.device)
        for group in self._groups:
            scores = self._similarities(group, documents)[:, :count]
            group.offer(scores, order, self.seen)
        self.seen += count

    def _whole_tiles(self, documents: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Of unit length for cosine, and filled up to whole tiles; valid until the next call."""
        import torch

        count, rows = len(documents), -(-len(documents) // TILE) * TILE
        if self.similarity == "manhattan" or (self.similarity != "cosine" and rows == count):
            return documents
        if len(self._unit) < rows:
            self._unit = torch.empty(rows, documents.shape[1], device=self.device)
        filled = self._unit[:rows]
        if self.similarity == "cosine":
            torch.div(documents, lengths.clamp_min(SHORTEST), out=filled[:count])
        else:
            filled[:count] = documents
        filled[count:] = 0
        return filled

    def _similarities(self, group: _Group, documents: torch.Tensor) -> torch.Tensor:
        """(q, m) similarities; valid until the next call, which uses the same memory."""
        import torch

        queries = group.queries
        if self.similarity == "energy":
            return group.energies(documents, self.distance, self._centre)
        if self.similarity == "manhattan":
            return -torch.cdist(queries, documents, p=1.0)
        if self.similarity == "euclidean":
            # torch.cdist decides so by the size; here by that of the whole, so that blocks are computed alike.
            product = len(queries) > 25 or self.seen + len(documents) > 25
            mode = "use_mm_for_euclid_dist" if product else "donot_use_mm_for_euclid_dist"
            return -torch.cdist(queries, documents, p=2.0, compute_mode=mode)
        size = len(queries) * len(documents)
        if self._room.numel() < size:
            self._room = torch.empty(size, device=self.device)
        return torch.mm(queries, documents.T, out=self._room[:size].view(len(queries), len(documents)))


class _Group:
    """Some of the queries, the best k found so far for each, and the candidates that wait."""

    def __init__(self, queries: torch.Tensor, k: int, counts: list[int] | None = None) -> None:
        import torch

        self.queries = queries  # (q, dim), or the tokens of all, (tokens, dim)
        self.counts = counts  # tokens of each query; None where a query is one vector
        self.k = k
        count = len(queries) if counts is None else len(counts)
        device = queries.device
        self.scores = torch.empty(count, 0, device=device)  # (q, up to k), best first
        self.ranks = torch.empty(count, 0, dtype=torch.long, device=device)
        self.positions = torch.empty(count, 0, dtype=torch.long, device=device)
        self._mask = torch.empty(0, dtype=torch.bool, device=device)
        self._waiting: list[tuple[torch.Tensor, ...]] = []  # rows, scores, ranks, positions of candidates
        self._counts = torch.zeros(count, dtype=torch.long, device=device)  # waiting, of each query
        self._merged = 0  # documents seen when candidates were last merged

    def offer(self, scores: torch.Tensor, ranks: torch.Tensor, first: int) -> None:
        """Take what may be among the best of a block: scores (q, m), ranks (m,), its first document's position."""
        import torch

        count, size = scores.shape
        if self.scores.shape[1] < self.k:
            columns, values = _pick(scores, ranks.expand(scores.shape), self.k)
            self._keep(values, ranks[columns], columns + first)
            self._merged = first + size
            return
        if self._mask.numel() < count * size:
            self._mask = torch.empty(count * size, dtype=torch.bool, device=scores.device)
        mask = torch.ge(scores, self.scores[:, -1:], out=self._mask[: count * size].view(count, size))
        places = _true_places(mask.view(-1))
        if len(places):
            rows, columns = places.div(size, rounding_mode="floor"), places % size
            self._waiting.append((rows, scores[rows, columns], ranks[columns], columns + first))
            self._counts += torch.bincount(rows, minlength=count)
        if first + size >= 2 * self._merged or int(self._counts.max()) > WAITING * self.k:
            self.merge()
            self._merged = first + size

    def merge(self) -> None:
        """Choose the best k among those kept and those that wait."""
        import torch

        if not self._waiting:
            return
        rows, *values = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        order = rows.argsort(stable=True)
        rows = rows[order]
        slots = torch.arange(len(rows), device=rows.device) - (self._counts.cumsum(0) - self._counts)[rows]
        shape = (len(self._counts), int(self._counts.max()))
        filled = []
        for value, filler in zip(values, (-torch.inf, _FAR, 0), strict=True):
            table = torch.full(shape, filler, dtype=value.dtype, device=value.device)  # (q, most that wait)
            table[rows, slots] = value[order]
            filled.append(table)
        self._waiting.clear()
        self._counts.zero_()
        self._keep(*filled)

    def _keep(self, scores: torch.Tensor, ranks: torch.Tensor, positions: torch.Tensor) -> None:
        """Keep the best k of those kept so far and these, all (q, any)."""
        import torch

        ranks = torch.cat([self.ranks, ranks], dim=1)
        columns, self.scores = _pick(torch.cat([self.scores, scores], dim=1), ranks, self.k)
        self.ranks = ranks.gather(1, columns)
        self.positions = torch.cat([self.positions, positions], dim=1).gather(1, columns)

    def energies(self, documents: torch.Tensor, distance: str, centre: torch.Tensor) -> torch.Tensor:
        """(q, m) energy scores without the query's own term."""
        import torch

        from workbench.energy import squared_euclidean, weights

        if distance == "manhattan":
            apart = torch.cdist(self.queries, documents, p=1.0)  # (tokens, m)
        else:
            apart = squared_euclidean(self.queries, documents, centre)[0].sqrt_()
        return (weights(torch.tensor(self.counts, device=apart.device)) @ apart).mul_(-2)

    def own_terms(self, distance: str) -> torch.Tensor:
        """(q,) mean distance among the tokens of each query."""
        import torch

        from workbench.energy import own_distance

        return torch.stack([own_distance(cloud, distance) for cloud in torch.split(self.queries, self.counts or [])])


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


def _true_places(mask: torch.Tensor) -> torch.Tensor:
    """Places of the true ones of a flat mask; NumPy finds few among many five times faster than torch on a CPU."""
    import torch

    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero().flatten()


def _lengths(vectors: torch.Tensor, what: str, first: int) -> torch.Tensor:
    """(rows, 1) lengths; DataError naming the first row that is not finite, `first` being the number of row 0.

    A length is not finite where a number is not; large finite numbers pass.
    """
    import torch

    lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if not bool(torch.isfinite(lengths).all()):
        bad = torch.nonzero(~torch.isfinite(vectors).all(dim=1)).flatten()
        if len(bad):
            raise DataError(
                f"expected finite numbers in the vectors of the {what}, found NaN or infinity in row "
                f"{first + int(bad[0])}; the model that made them is broken, or its precision too low."
            )
    return lengths
