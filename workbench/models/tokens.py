"""Token ids of texts: made once, by all cores, and kept on disk as flat numbers and offsets.

A later epoch, a resumed run and another run on the same rows read them memory-mapped, at the cost of a slice. The key
is the tokenizer with its settings, the prompt and the texts themselves.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.models.stand_ins import cache_folder, hash_texts, token_ids, whole_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    Numbers = np.ndarray[Any, np.dtype[Any]]

TEXTS_AT_ONCE = 10_000
KEPT = 32
"""Columns of texts whose tokens are kept; the least recently used goes first."""

VERSION = 2
"""Raised when the way of making or storing them changes, so that older ones are not used."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of the texts of a column."""

    ids: Numbers  # (tokens,) of all texts, one after the other
    offsets: Numbers  # (texts + 1,) where each begins, and the end

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Numbers:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]


def tokenize(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
    """Token ids of each text as the model's own `preprocess` makes them, without padding."""
    return token_ids(model.tokenizer, [prompt + text for text in texts], truncate=True)


def load_tokens(
    model: SentenceTransformer, rows: Dataset, column: str, prompt: str = "", cache: Path | None = None
) -> Tokens:
    """The tokens of a column, from the disk where they were made before.

    `cache` is the folder that keeps them, by default `tokens` in the cache of stand-ins. Where it cannot be written
    they are held in memory.
    """
    place = (cache or cache_folder() / "tokens") / _key(model, rows, column, prompt)
    if not place.is_dir():
        try:
            _store(place, model, rows, column, prompt)
        except OSError:
            parts = [each for part in _make(model, rows, column, prompt) for each in part]
            return Tokens(_join(parts), _offsets([len(part) for part in parts]))
    os.utime(place)
    offsets = np.asarray(np.load(place / "offsets.npy", mmap_mode="r"))
    if not offsets[-1]:
        return Tokens(_join([]), offsets)
    ids = np.memmap(place / "ids.bin", dtype=np.int32, mode="r")
    return Tokens(np.asarray(ids), offsets)  # still on the disk; a slice of a np.memmap takes ten times as long


def _texts(rows: Dataset, column: str) -> Iterator[list[str]]:
    for start in range(0, len(rows), TEXTS_AT_ONCE):
        yield rows[start : start + TEXTS_AT_ONCE][column]


def _key(model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> str:
    tokenizer: Any = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if backend is not tokenizer:  # it serializes how it last truncated and padded, which is set anew at every call
        backend.no_truncation()
        backend.no_padding()
    digest = hashlib.sha256(f"{VERSION} {model.max_seq_length} {prompt!r} ".encode())
    digest.update(backend.to_str().encode("utf-8", "surrogatepass"))
    for texts in _texts(rows, column):
        hash_texts(digest, texts)
    return digest.hexdigest()[:32]


def _make(model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> Iterator[list[Numbers]]:
    for texts in _texts(rows, column):
        yield [np.asarray(ids, dtype=np.int32) for ids in tokenize(model, texts, prompt)]


def _join(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.empty(0, np.int32), *parts])


def _offsets(lengths: Sequence[int]) -> Numbers:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _store(place: Path, model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> None:
    """Write the two files, a part at a time, and remove the folders that were not used for longest."""
    with whole_folder(place) as temporary:
        lengths: list[int] = []
        with (temporary / "ids.bin").open("wb") as file:
            for part in _make(model, rows, column, prompt):
                lengths += map(len, part)
                _join(part).tofile(file)
        np.save(temporary / "offsets.npy", _offsets(lengths))
    stored = sorted((path for path in place.parent.glob("[!.]*")), key=_last_use, reverse=True)
    for path in stored[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0
