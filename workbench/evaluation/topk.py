"""Exact top-k over a corpus of any size, in bounded memory.

No index and no approximation: every query is scored against every document, block by block, and only the best k are
kept. The order is that of InformationRetrievalEvaluator in sentence-transformers 6: score descending, equal scores by
document id ascending.

Sorting every block would cost more than scoring it. The k-th best score so far is a threshold, and only the few
candidates at or above it are merged, as integers: the score in the upper bits and the rank of the id in the lower.

Scores are computed by the library's own products, and agree with it to the bit on the same machine. One exception:
blocks are padded with zeros to a multiple of 16 documents, because a matrix product computes an incomplete tile in
another order. So equal documents tie exactly, and a block does not depend on how the documents arrived.

Memory beyond the vectors: a block of documents, a block of scores (`QUERIES_AT_ONCE` x `block` x 4 bytes), a few times
k entries per query and 8 bytes per document.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from workbench.cards.metric_names import SIMILARITIES
from workbench.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

SHORTEST = 1e-12  # length that a vector is divided by at least, as the library does
LONGEST = 1e18  # length above which float32 may not hold a product or a distance
QUERIES_AT_ONCE = 1024  # queries, or tokens of queries, scored at once
BLOCK = 2_048  # documents scored at once: 8 MiB of scores, which stay in the processor's cache until they are compared
BLOCK_OF_GPU = 16_384  # ... where starting a computation costs more than memory does
TILE = 16  # documents that a matrix product computes in one way
MOST = 1 << 21  # candidates at once, or numbers of the table they are merged in, for a small k: 16 MiB


class TopK(NamedTuple):
    """The best documents of each query, best first."""

    positions: Integers  # (queries, k) row numbers of the documents
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
) -> TopK:
    """The k documents nearest to each query, exactly.

    queries (q, dim) and documents (n, dim) are arrays or tensors, taken as float32; `documents` may be a memory map,
    read block by block. Under "energy" each query is its token embeddings (tokens, dim), and `distance` that of
    `energy_distance`. `ids` orders equal scores, lowest first; without it the row number does. A k above n gives n
    columns. `device` defaults to CUDA where there is one. `block`, the number of documents scored at once, does not
    change the result.

    Raises DataError for vectors that are not finite, shapes that do not fit, ids that come twice, or an unknown
    similarity.

    >>> found = top_k([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]], k=2, ids=["c", "b", "a"])
    >>> found.positions.tolist(), found.scores.tolist()
    ([[2, 1]], [[1.0, 1.0]])
    """
    search = Search(queries, k, similarity=similarity, distance=distance, block=block, device=device)
    ranks = id_ranks(ids) if ids is not None else None
    if ranks is not None and len(ranks) != len(documents):
        raise DataError(f"expected one id for each of {len(documents)} documents, found {len(ranks)}; give as many.")
    search.add(documents, ranks)
    return search.result()


def id_ranks(ids: Sequence[str]) -> Integers:
    """Place of each id in ascending order.

    Raises DataError where an id comes twice.

    >>> id_ranks(["b", "a", "c"]).tolist()
    [1, 0, 2]
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    if len(set(ids)) < len(ids):
        twice = next(ids[one] for one, other in pairwise(order) if ids[one] == ids[other])
        raise DataError(f"expected every document to have its own id, found {twice!r} twice; rename one.")
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
        if similarity not in SIMILARITIES:
            raise DataError(f"expected a similarity of {', '.join(SIMILARITIES)}, found {similarity!r}; choose one.")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        block = (BLOCK if self.device.type == "cpu" else BLOCK_OF_GPU) if block is None else block
        if k < 1 or block < 1:
            raise DataError(f"expected k and block of at least 1, found {k} and {block}; give larger ones.")
        self.k, self.block, self.similarity, self.distance = k, block, similarity, distance
        self.dim = 0
        self._groups = self._energy_groups(queries) if similarity == "energy" else self._groups_of(queries)
        self.seen = 0  # documents scored
        self._tile = TILE if self.device.type == "cpu" else block  # a GPU computes each shape in its own way
        self._staged = 0  # documents that wait for a full block, in the first rows of:
        self._stage = torch.empty(0)
        self._stage_ranks: list[Integers] = []
        self._ranks = [np.empty(0, dtype=np.int64)]  # of the ids of each block

    def add(self, documents: Any, ranks: Integers | None = None) -> None:
        """Score `documents` (m, dim); `ranks` (m,) are those of their ids in the whole corpus."""
        arrived, start = self.seen + self._staged, 0
        ranks = np.arange(arrived, arrived + len(documents)) if ranks is None else ranks
        while start < len(documents):
            part = self._float32(documents[start : start + self.block - self._staged], "documents")
            if self._groups and part.shape[1] != self.dim:
                raise DataError(
                    f"expected documents of {self.dim} dimensions like the queries, found {part.shape[1]}; were they "
                    "encoded by another model?"
                )
            if not len(self._stage):
                rows = -(-self.block // self._tile) * self._tile
                self._stage = torch.empty(rows, part.shape[1], device=self.device)
            self._stage[self._staged : self._staged + len(part)] = part
            self._stage_ranks.append(ranks[start : start + len(part)])
            self._staged, start = self._staged + len(part), start + len(part)
            if self._staged == self.block:
                self._score()

    def result(self) -> TopK:
        """What was found so far."""
        self._score()
        ranks = np.concatenate(self._ranks)  # (seen,) of each document
        places = np.zeros(int(ranks.max(initial=-1)) + 1, dtype=np.int64)  # of each rank
        places[ranks] = np.arange(len(ranks))
        empty = np.empty((0, min(self.k, self.seen)), dtype=np.int64)
        keys = np.concatenate([empty, *(np.sort(group.best, axis=1) for group in self._groups)])  # (q, up to k)
        scores = _scores(keys)
        if self.similarity == "energy" and self._groups:
            scores = scores + np.concatenate([group.own_terms(self.distance) for group in self._groups])[:, None]
        return TopK(places[keys & _RANK], scores)

    def _groups_of(self, queries: Any) -> list[_Group]:
        """Equal parts of at most `QUERIES_AT_ONCE` rows: a part of few rows would be multiplied in another way."""
        vectors = self._float32(queries, "queries")
        lengths = self._lengths(vectors, "queries", 0)
        if self.similarity == "cosine":
            vectors = torch.div(vectors, lengths.clamp_min(SHORTEST))
        self.dim = vectors.shape[1]
        parts = torch.tensor_split(vectors, max(-(-len(vectors) // QUERIES_AT_ONCE), 1))
        return [_Group(part, self.k) for part in parts if len(part)]

    def _energy_groups(self, queries: Any) -> list[_Group]:
        """Queries of at most `QUERIES_AT_ONCE` tokens together, or one with more."""
        from workbench.models.energy_distance import DISTANCES

        if self.distance not in DISTANCES:
            raise DataError(f"expected a distance of {' or '.join(DISTANCES)}, found {self.distance!r}; choose one.")
        embeddings = [self._float32(each, "the tokens of a query") for each in queries]  # (tokens, dim) each
        self.dim = embeddings[0].shape[1] if embeddings else 0
        groups: list[list[torch.Tensor]] = []
        size = 0
        for row, tokens in enumerate(embeddings):
            if not len(tokens) or tokens.shape[1] != self.dim:
                raise DataError(
                    f"expected at least one token for every query, each of {self.dim} dimensions like the first, found "
                    f"{tuple(tokens.shape)} for query {row}."
                )
            self._lengths(tokens, f"tokens of query {row}", 0)
            size += len(tokens)
            if not groups or size > QUERIES_AT_ONCE:
                groups.append([])
                size = len(tokens)
            groups[-1].append(tokens)
        self._center = torch.cat(embeddings).mean(dim=0) if embeddings else torch.empty(0)
        return [_Group(torch.cat(group), self.k, [len(tokens) for tokens in group]) for group in groups]

    def _float32(self, vectors: Any, what: str) -> torch.Tensor:
        """(rows, dim) on the device."""
        if isinstance(vectors, torch.Tensor):
            tensor = vectors.detach().to(self.device, torch.float32)
        else:
            array = np.require(vectors, dtype=np.float32, requirements=["C", "W"])
            tensor = torch.from_numpy(array).to(self.device)
        if tensor.ndim != 2:
            raise DataError(f"expected {what} of shape (rows, dimensions), found {tuple(tensor.shape)}.")
        return tensor

    def _score(self) -> None:
        """Offer the staged documents to every group of queries."""
        count, self._staged = self._staged, 0
        if not count:
            return
        documents = self._stage[: -(-count // self._tile) * self._tile]
        lengths = self._lengths(documents[:count], "documents", self.seen)
        if self.similarity == "cosine":
            documents[:count] /= lengths.clamp_min(SHORTEST)
        documents[count:] = 0
        ranks, self._stage_ranks = np.concatenate(self._stage_ranks), []
        self._ranks.append(ranks)
        for group in self._groups:
            group.offer(self._similarities(group, documents)[:, :count], ranks)
        self.seen += count

    def _similarities(self, group: _Group, documents: torch.Tensor) -> torch.Tensor:
        """(q, m) similarities."""
        queries = group.queries
        if self.similarity == "energy":
            return group.energies(documents, self.distance, self._center)
        if self.similarity == "manhattan":
            return -torch.cdist(queries, documents, p=1.0)
        if self.similarity == "euclidean":
            # torch.cdist decides so by the size; here by that of the whole, so that blocks are computed alike.
            product = len(queries) > 25 or self.seen + len(documents) > 25
            mode = "use_mm_for_euclid_dist" if product else "donot_use_mm_for_euclid_dist"
            return -torch.cdist(queries, documents, p=2.0, compute_mode=mode)
        return queries @ documents.T

    def _lengths(self, vectors: torch.Tensor, what: str, first: int) -> torch.Tensor:
        """(rows, 1) lengths; DataError naming the first row that cannot be used, `first` being the number of row 0.

        A length is not finite where a number is not. Long vectors pass under cosine, which divides by the length.
        """
        lengths: torch.Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        if not bool(torch.isfinite(lengths).all()):
            bad = torch.nonzero(~torch.isfinite(vectors).all(dim=1)).flatten()
            if len(bad):
                raise DataError(
                    f"expected finite numbers in the vectors of the {what}, found NaN or infinity in row "
                    f"{first + int(bad[0])}; the model that made them is broken, or its precision too low."
                )
        if self.similarity != "cosine" and len(lengths) and float(lengths.max()) > LONGEST:
            raise DataError(
                f"expected vectors of the {what} no longer than {LONGEST:g}, found row {first + int(lengths.argmax())} "
                "whose scores float32 may not hold; make the vectors shorter, or use the similarity cosine."
            )
        return lengths


class _Group:
    """Some of the queries, and the best k found so far for each."""

    def __init__(self, queries: torch.Tensor, k: int, counts: list[int] | None = None) -> None:
        self.queries = queries  # (q, dim), or the tokens of all, (tokens, dim)
        self.counts = counts  # tokens of each query; None where a query is one vector
        self.k = k
        count = len(queries) if counts is None else len(counts)
        self.best = np.empty((count, 0), dtype=np.int64)  # (q, up to k) keys, the last the greatest once there are k

    def offer(self, scores: torch.Tensor, ranks: Integers) -> None:
        """Merge the best of scores (q, m) of documents of ranks (m,)."""
        (count, size), known = scores.shape, self.best.shape[1]
        if known == self.k:
            least = torch.from_numpy(_scores(self.best[:, -1:])).to(scores.device)
        else:
            least = scores.topk(min(self.k, size), dim=1).values[:, -1:]
        mask = scores >= least
        counts = np.asarray(mask.sum(dim=1).cpu())  # (q,) candidates
        most = int(counts.max())
        if size > 1 and count * most > max(MOST, 8 * count * self.k):  # many ties, or better and better: bound memory
            self.offer(scores[:, : size // 2], ranks[: size // 2])
            self.offer(scores[:, size // 2 :], ranks[size // 2 :])
            return
        where = np.flatnonzero(mask.cpu().numpy())  # five times faster than torch for few among many
        rows, columns = np.divmod(where, size)
        values = scores.take(torch.from_numpy(where).to(scores.device)).cpu().numpy()
        table = np.full((count, known + most), np.iinfo(np.int64).max)
        table[:, :known] = self.best
        table[rows, known + np.arange(len(rows)) - (counts.cumsum() - counts)[rows]] = _keys(values, ranks[columns])
        if table.shape[1] >= self.k:
            table.partition(self.k - 1, axis=1)
            table = table[:, : self.k].copy()
        self.best = table

    def energies(self, documents: torch.Tensor, distance: str, center: torch.Tensor) -> torch.Tensor:
        """(q, m) energy scores without the query's own term."""
        from workbench.models.energy_distance import mean_weights, squared_euclidean

        if distance == "manhattan":
            apart = torch.cdist(self.queries, documents, p=1.0)  # (tokens, m)
        else:
            apart = squared_euclidean(self.queries, documents, center)[0].sqrt_()
        return (mean_weights(torch.tensor(self.counts, device=apart.device)) @ apart).mul_(-2)

    def own_terms(self, distance: str) -> npt.NDArray[np.float32]:
        """(q,) mean distance among the tokens of each query."""
        from workbench.models.energy_distance import self_distance

        tokens = torch.split(self.queries, self.counts or [])
        own = torch.stack([self_distance(each, distance) for each in tokens])
        return np.asarray(own.float().cpu().numpy())


_RANK = 0xFFFFFFFF  # the lower bits of a key


def _keys(scores: npt.NDArray[np.float32], ranks: Integers) -> Integers:
    """Integers that ascend as the score descends, then as the rank (below 2^32) ascends.

    >>> keys = _keys(np.array([0.0, -0.0], dtype=np.float32), np.array([7, 6]))
    >>> int(keys[0] - keys[1])  # 0 and -0 tie
    1
    """
    return _order_preserving((0 - scores).view(np.int32)).astype(np.int64) << 32 | ranks


def _scores(keys: Integers) -> npt.NDArray[np.float32]:
    """The scores in keys.

    >>> scores = np.array([0.5, -0.25, 0.0, 3e38], dtype=np.float32)
    >>> keys = _keys(scores, np.arange(4))
    >>> keys.argsort().tolist(), _scores(keys).tolist() == scores.tolist()
    ([3, 0, 2, 1], True)
    """
    return 0 - _order_preserving((keys >> 32).astype(np.int32)).view(np.float32)


def _order_preserving(bits: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The bits of float32 numbers as integers of the same order, and back: those of negative numbers are inverted."""
    return bits ^ (bits >> 31 & 0x7FFFFFFF)
