"""Energy distance between a query's token embeddings and a document's vector: scores, loss, encoder, settings file.

A query has the token embeddings x_1 ... x_T, a document one point y, its pooled vector:

    score(q, d) = -(2 · mean_i |x_i - y| - mean_ij |x_i - x_j|)        |.| is L2 ("euclidean") or L1 ("manhattan")

That is minus the energy distance of two samples, the second of one point (its own mean distance is 0). With L2 it is
Székely and Rizzo's; L1 is the same for a metric of negative type. The second term is the same for all documents of a
query, so it changes neither a softmax over documents nor a ranking, and is computed only where its value is shown.

Padding is never a token; [CLS], [SEP] and the like are, unless `special_tokens` is false. The tokens of a prompt follow
the pooling's `include_prompt`. Where a Normalize module follows the pooling, y is the vector before it: a vector of
unit length and token embeddings of other lengths are not points of one space.

Distances are computed in float32 at least, whatever autocast says, and never through (queries, tokens, documents,
dim): L2 needs one matrix product, the gradient of L1 one document at a time.

Source: G. J. Székely and M. L. Rizzo, "Energy statistics: A class of statistics based on distances", Journal of
Statistical Planning and Inference 143 (2013), https://doi.org/10.1016/j.jspi.2013.03.018
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from workbench.errors import BaseError, DataError, RecipeError, WorkbenchError
from workbench.models.base import prompt_of
from workbench.run import write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from workbench.models.base import Vectors

    Encode = Callable[[list[str], Literal["query", "document"]], Any]
    Batches = Generator[tuple[list[int], dict[str, Any]], None, None]

DISTANCES = ("manhattan", "euclidean")
SIMILARITY_FILE = "energy_similarity.json"
NEAR = 1e-3
"""Share of |x|² + |y|² below which the matrix product loses a squared L2 distance, so that it is computed directly."""
PAIRS_AT_ONCE = 1 << 22  # numbers in one difference of such pairs: 16 MiB
CPU_AT_ONCE = 1 << 17  # numbers in one difference of tokens and a document, for each thread: 512 KiB of its cache
GPU_AT_ONCE = 1 << 24


def distances(points: Tensor, others: Tensor, distance: str = "manhattan") -> Tensor:
    """(m, n) distances between points (m, dim) and others (n, dim), with gradients; 0 has the gradient 0.

    float16 and bfloat16 are computed as float32. Raises DataError for an unknown distance or shapes that do not fit.

    >>> distances(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), "euclidean").tolist()
    [[5.0]]
    """
    _check_distance(distance, DataError)
    if points.ndim != 2 or others.ndim != 2 or points.shape[1] != others.shape[1]:
        raise DataError(
            f"expected points (m, dim) and others (n, dim), found {tuple(points.shape)} and {tuple(others.shape)}."
        )
    with torch.autocast(points.device.type, enabled=False):
        half = (torch.float16, torch.bfloat16)
        both = (each.float() if each.dtype in half else each for each in (points, others))
        result: Tensor = (_Manhattan if distance == "manhattan" else _Euclidean).apply(*both)  # type: ignore[no-untyped-call]
    return result


def scores(tokens: Tensor, mask: Tensor, documents: Tensor, distance: str = "manhattan") -> Tensor:
    """(queries, documents) of minus the energy distance, without its second term; higher is nearer.

    tokens (queries, length, dim), mask (queries, length) true for tokens that count, documents (n, dim). The second
    term, which changes no ranking, is `self_distance` of a query's tokens.

    Raises DataError where a query has no token, for an unknown distance, or shapes that do not fit.

    >>> tokens, mask = torch.tensor([[[0.0], [2.0], [9.0]]]), torch.tensor([[True, True, False]])
    >>> scores(tokens, mask, torch.tensor([[1.0], [2.0]])).tolist()  # -2 · mean(1, 1) and -2 · mean(2, 0)
    [[-2.0, -2.0]]
    """
    mask = mask.bool()
    counts = mask.sum(dim=1)  # (queries,)
    if bool((counts == 0).any()):
        raise DataError(f"expected a token for every query, found none in row {int((counts == 0).nonzero()[0])}.")
    with torch.autocast(tokens.device.type, enabled=False):
        # by indices: the gradient of indexing by a mask adds one number after the other
        flat = tokens.flatten(0, 1).index_select(0, mask.flatten().nonzero()[:, 0])  # (all tokens, dim)
        found = distances(flat, documents, distance)  # (all tokens, documents)
        return -2 * (mean_weights(counts, found.dtype) @ found)


def self_distance(tokens: Tensor, distance: str = "manhattan") -> Tensor:
    """Mean of all distances among tokens (tokens, dim), including each to itself.

    >>> self_distance(torch.tensor([[0.0], [2.0]])).item()  # mean(0, 2, 2, 0)
    1.0
    """
    return distances(tokens, tokens, distance).mean()


def mean_weights(counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(queries, all tokens): 1 / counts[q] where the token is one of query q, else 0.

    For a mean by matrix product: `index_add` adds in any order on CUDA, and equal documents would no longer tie.
    """
    owners = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    made = torch.zeros(len(counts), len(owners), dtype=dtype, device=counts.device)
    made[owners, torch.arange(len(owners), device=counts.device)] = (1.0 / counts.to(dtype))[owners]
    return made


def squared_euclidean(points: Tensor, others: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(m, n) squared L2 distances by one matrix product, and the (pairs, 2) that had to be computed directly.

    Both sides are shifted by `centre`, by default the mean of `others`: shorter vectors round less.
    """
    centre = others.mean(dim=0) if centre is None else centre
    left, right = points - centre, others - centre
    lengths = left.square().sum(1, keepdim=True) + right.square().sum(1)  # (m, n)
    squares = torch.addmm(lengths, left, right.T, alpha=-2.0)
    near = torch.nonzero(squares < NEAR * lengths)  # (pairs, 2)
    for part in torch.split(near, max(PAIRS_AT_ONCE // max(points.shape[1], 1), 1)):
        squares[part[:, 0], part[:, 1]] = (points[part[:, 0]] - others[part[:, 1]]).square().sum(1)
    return squares.clamp_min_(0), near


class _Euclidean(torch.autograd.Function):
    """Gradient: g (x - y) / |x - y|, by two matrix products; nearly equal pairs directly, because they cancel."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, others: Tensor) -> Tensor:
        squares, near = squared_euclidean(points, others)
        found = squares.sqrt_()
        ctx.save_for_backward(points, others, found, near)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        points, others, found, near = ctx.saved_tensors
        with torch.autocast(points.device.type, enabled=False):
            share = torch.where(found > 0, gradient / found, 0.0)  # (m, n)
            close = share[near[:, 0], near[:, 1]]
            share[near[:, 0], near[:, 1]] = 0
            centre = others.mean(dim=0)
            left, right = points - centre, others - centre
            to_points = left * share.sum(1, keepdim=True) - share @ right
            to_others = right * share.sum(0)[:, None] - share.T @ left
            size = max(PAIRS_AT_ONCE // max(points.shape[1], 1), 1)
            for pairs, factor in zip(torch.split(near, size), torch.split(close, size), strict=True):
                pull = (points[pairs[:, 0]] - others[pairs[:, 1]]) * factor[:, None]  # (pairs, dim)
                to_points.index_add_(0, pairs[:, 0], pull)
                to_others.index_add_(0, pairs[:, 1], pull, alpha=-1)
        return to_points, to_others


class _Manhattan(torch.autograd.Function):
    """Gradient: g sign(x - y), one document and a cache's worth of tokens at a time, on a CPU forward too.

    torch.cdist has the same gradient, but its CUDA kernel needs the whole (n, m, dim). The gradient of the smooth L1
    loss is g sign(x - y) in one operation; where it is smooth, below 1e-30, no two numbers differ.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(points, others)
        if points.device.type != "cpu" or not any(ctx.needs_input_grad):
            return torch.cdist(points, others, p=1.0)
        found = points.new_empty(len(points), len(others))
        for part, rows in _blocks(points, found):
            apart = torch.empty_like(part)  # (tokens, dim)
            for number, other in enumerate(others):
                torch.sub(part, other, out=apart).abs_()
                torch.sum(apart, dim=1, out=rows[:, number])
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        points, others = ctx.saved_tensors
        to_points, to_others = torch.zeros_like(points), torch.zeros_like(others)
        signed = torch.ops.aten.smooth_l1_loss_backward.grad_input
        with torch.autocast(points.device.type, enabled=False):
            for part, pull, rows in _blocks(points, to_points, gradient):
                found, ones = torch.empty_like(part), part.new_ones(len(part))  # (tokens, dim), (tokens,)
                for number, other in enumerate(others):
                    signed(rows[:, number : number + 1], part, other, 0, 1e-30, grad_input=found)
                    pull.add_(found)
                    to_others[number].addmv_(found.T, ones, alpha=-1)
        return to_points, to_others


def _blocks(points: Tensor, *more: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Rows of `points` and of `more`, as many at once as keep their differences small."""
    numbers = CPU_AT_ONCE * torch.get_num_threads() if points.device.type == "cpu" else GPU_AT_ONCE
    size = max(numbers // max(points.shape[1], 1), 1)
    return zip(*(torch.split(each, size) for each in (points, *more)), strict=True)


def _check_distance(distance: str, error: type[WorkbenchError]) -> None:
    if distance not in DISTANCES:
        raise error(f"expected a distance of {' or '.join(DISTANCES)}, found {distance!r}; choose one.")


class Embedded(NamedTuple):
    """A batch of texts as the similarity reads it."""

    tokens: Tensor  # (texts, length, dim)
    mask: Tensor  # (texts, length) bool: tokens that count
    pooled: Tensor  # (texts, dim)


def embed(model: nn.Module, features: dict[str, Any], *, special_tokens: bool = True) -> Embedded:
    """Run a batch through the model, with gradients where they are enabled.

    A text without any token that counts, such as an empty one without its special tokens, keeps all attended ones.

    Raises BaseError where the model has no token embeddings beside a pooled vector of the same dimensions.
    """
    pooling = _pooling(model)
    kept: list[Tensor] = []
    handle = pooling.register_forward_hook(lambda _, __, found: kept.append(found["sentence_embedding"]))
    try:
        out = model(features)
    finally:
        handle.remove()
    if "cu_seq_lens_q" in out:
        raise _no_tokens("batches without padding; load it without flash attention")
    tokens, pooled = out["token_embeddings"], kept[-1]
    if tokens.shape[-1] != pooled.shape[-1]:
        raise _no_tokens(f"tokens of {tokens.shape[-1]} and vectors of {pooled.shape[-1]}")
    return Embedded(tokens, _token_mask(model, out, tokens, pooling.include_prompt, special_tokens), pooled)


def _pooling(model: nn.Module) -> Pooling:
    """The pooling module; what follows it may change the length of a vector and nothing else."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    modules = iter(getattr(model, "module", model).children())  # of the model inside DistributedDataParallel
    found: Pooling | None = next((module for module in modules if isinstance(module, Pooling)), None)
    if found is None:
        raise _no_tokens("one without a pooling module")
    for module in modules:  # those after it
        if not isinstance(module, Normalize):
            raise _no_tokens(f"a {type(module).__name__} module after the pooling")
    return found


def _no_tokens(found: str) -> BaseError:
    return BaseError(
        "expected a model with token embeddings and a pooled vector of the same dimensions for the energy distance, "
        f"found {found}; choose a transformer with one pooling mode."
    )


def _token_mask(
    model: nn.Module, out: Mapping[str, Any], tokens: Tensor, include_prompt: bool, special_tokens: bool
) -> Tensor:
    """(texts, length) which tokens count."""
    attended = out.get("attention_mask")
    if attended is None or attended.shape[-1] != tokens.shape[1]:
        attended = torch.ones(tokens.shape[:2], device=tokens.device)
    mask = attended = attended.bool()
    if not include_prompt and out.get("prompt_length") is not None:
        length = torch.as_tensor(out["prompt_length"]).flatten()[0].to(tokens.device)
        first = attended.int().argmax(dim=1, keepdim=True)  # (texts, 1) end of the padding on the left
        mask = mask & (torch.arange(tokens.shape[1], device=tokens.device) >= first + length)
    if not special_tokens:  # but [UNK] and [MASK], which stand for words
        tokenizer: Any = getattr(model, "module", model).tokenizer
        ids = [getattr(tokenizer, f"{name}_token_id", None) for name in ("cls", "sep", "bos", "eos", "pad")]
        special = [each for each in ids if each is not None]
        mask = mask & ~torch.isin(out["input_ids"], torch.tensor(special, device=tokens.device, dtype=torch.long))
    mask = torch.where(mask.any(dim=1, keepdim=True), mask, attended)
    return torch.where(mask.any(dim=1, keepdim=True), mask, torch.ones_like(mask))


def padded_batches(model: SentenceTransformer, texts: Sequence[str], prompt: str, batch_size: int = 32) -> Batches:
    """(which texts, features of the model) for each batch, longest texts first."""
    from sentence_transformers.util import batch_to_device

    order = sorted(range(len(texts)), key=lambda text: -len(texts[text]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        given = model.preprocess([texts[text] for text in places], prompt=prompt or None)
        yield places, batch_to_device(given, model.device)


def energy_encoder(
    model: SentenceTransformer,
    *,
    special_tokens: bool = True,
    batches: Callable[[SentenceTransformer, Sequence[str], str], Batches] = padded_batches,
) -> Encode:
    """The `encode` of `evaluate(similarity="energy")`, in float32.

    Kind "query" gives a list of arrays (tokens of the text, dim), "document" one array (texts, dim). Prompts and
    mode of the model are as in `encoding.encoder`; its `truncate_dim` cuts both. `batches`: see `padded_batches`.
    """

    @torch.inference_mode()
    def encode(texts: list[str], kind: Literal["query", "document"]) -> list[Vectors] | Vectors:
        import numpy as np

        prompt = prompt_of(model.prompts, kind)
        found: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        was_training = model.training
        model.eval()
        try:
            with closing(batches(model, texts, prompt)) as parts:
                for places, features in parts:
                    batch = embed(model, features, special_tokens=special_tokens)
                    rows = batch.pooled if kind == "document" else [a[b] for a, b in zip(*batch[:2], strict=True)]
                    for place, row in zip(places, rows, strict=True):
                        found[place] = row[..., : model.truncate_dim].float().cpu().numpy()
        finally:
            model.train(was_training)
        if kind == "query":
            return found
        return np.stack(found) if found else np.empty((0, 0), dtype=np.float32)  # (texts, dim)

    encode.special_tokens = special_tokens  # type: ignore[attr-defined]  # for the settings of an evaluation
    return encode


class EnergyRankingLoss(nn.Module):
    """MultipleNegativesRankingLoss with the energy distance as its similarity.

    Columns are (query, positive[, negative ...]). Every positive and negative of the batch is a candidate for each
    query; the loss is the mean cross-entropy of its own positive under a softmax of scale · score.

    Raises RecipeError for a scale that is not positive or an unknown distance.
    """

    def __init__(
        self, model: SentenceTransformer, scale: float = 20.0, distance: str = "manhattan", special_tokens: bool = True
    ) -> None:
        super().__init__()
        _check_distance(distance, RecipeError)
        if not scale > 0:
            raise RecipeError(f"expected a scale above 0, found {scale!r}; change loss.parameters.scale.")
        self.model, self.scale = model, scale
        self.distance, self.special_tokens = distance, special_tokens

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of a batch: one dict of features a column."""
        columns = list(sentence_features)
        if len(columns) < 2:
            raise DataError(f"expected a column of queries and one of documents at least, found {len(columns)}.")
        queries = embed(self.model, columns[0], special_tokens=self.special_tokens)
        documents = torch.cat([embed(self.model, column).pooled for column in columns[1:]])  # (documents, dim)
        found = self.scale * scores(queries.tokens, queries.mask, documents, self.distance)  # (queries, documents)
        return nn.functional.cross_entropy(found, torch.arange(len(found), device=found.device))

    def get_config_dict(self) -> dict[str, Any]:
        """What a model card prints of the loss."""
        own = {"distance": self.distance, "special_tokens": self.special_tokens}
        return {"scale": self.scale, "similarity_fct": "energy", **own}

    @property
    def citation(self) -> str:
        """What a model card cites for the loss."""
        return (
            "@article{szekely2013energy,\n"
            "    title={Energy statistics: A class of statistics based on distances},\n"
            "    author={Sz\\'ekely, G\\'abor J. and Rizzo, Maria L.},\n"
            "    journal={Journal of Statistical Planning and Inference},\n"
            "    volume={143},\n    number={8},\n    year={2013},\n    doi={10.1016/j.jspi.2013.03.018}\n}"
        )


def save_similarity(folder: str | Path, distance: str, special_tokens: bool) -> Path:
    """Write beside a saved model that it is compared by the energy distance; returns the file.

    sentence-transformers has no such similarity and keeps its own in config_sentence_transformers.json, so the model
    loads as any other; `read_similarity` reads this one.
    """
    _check_distance(distance, BaseError)
    path = Path(folder) / SIMILARITY_FILE
    write_json(path, {"similarity": "energy", "distance": distance, "special_tokens": special_tokens})
    return path


def read_similarity(folder: str | Path) -> dict[str, Any] | None:
    """{"similarity": "energy", "distance": ..., "special_tokens": ...} of a saved model, None where it has none.

    Raises BaseError where the file says something else.
    """
    path = Path(folder) / SIMILARITY_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        shown = f"expected JSON in {str(path)!r}, found something else ({error})"
        raise BaseError(f"{shown}; save the model again.") from error
    match found:
        case {"similarity": "energy", "distance": distance, "special_tokens": bool(), **more}:
            if distance in DISTANCES and not more:
                return dict(found)
    raise BaseError(
        f"expected similarity energy, a distance of {' or '.join(DISTANCES)} and special_tokens true or false in "
        f"{str(path)!r}, found {found!r}; save the model again."
    )
