"""Token numbers of texts: made once, by all cores, and kept on disk as flat numbers and the places where texts begin.

A later epoch, a resumed run and another run on the same rows read them from the disk (memory-mapped), at the cost of a
slice. The key is the tokenizer with its settings, the prompt and the texts themselves.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.models.stand_ins import cache_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    Numbers = np.ndarray[Any, np.dtype[Any]]

AT_ONCE = 10_000
"""Texts that are in memory at once while they are tokenised."""

KEPT = 32
"""Columns of texts whose tokens are kept; the one that was not used for longest goes first."""

MADE = 1
"""Raised when the way of making them changes, so that older ones are not used."""


@dataclass(frozen=True)
class Tokens:
    """Token numbers of the texts of a column."""

    ids: Numbers  # (tokens,) of all texts, one after the other
    offsets: Numbers  # (texts + 1,) where each begins, and the end

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Numbers:
        return self.ids[self.offsets[text] : self.offsets[text + 1]]


def tokenize(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
    """Token numbers of each text as the model's own `preprocess` makes them, without padding."""
    tokenizer: Any = model.tokenizer
    given = [prompt + text for text in texts] if prompt else list(texts)
    if not given:
        return []
    if hasattr(tokenizer, "encode_batch_fast"):  # of a table of embeddings
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(given, add_special_tokens=False)]
    rows = tokenizer(
        given, padding=False, truncation="longest_first", return_attention_mask=False, return_token_type_ids=False
    )
    found: list[list[int]] = rows["input_ids"]
    return found


def load_tokens(
    model: SentenceTransformer, rows: Dataset, column: str, prompt: str = "", cache: Path | None = None
) -> Tokens:
    """The tokens of a column, from the disk where they were made before.

    `cache`: the folder that keeps them, by default `tokens` in the cache of stand-ins. Where it cannot be written they
    are held in memory.
    """
    place = (cache or cache_folder() / "tokens") / _key(model, rows, column, prompt)
    if not place.is_dir():
        try:
            _store(place, model, rows, column, prompt)
        except OSError:
            return _gathered(model, rows, column, prompt)
    os.utime(place)
    ids, offsets = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("ids", "offsets"))
    return Tokens(
        np.asarray(ids), np.asarray(offsets)
    )  # still on the disk; a slice of a np.memmap takes ten times as long


def _texts(rows: Dataset, column: str) -> Iterator[list[str]]:
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE][column]


def _key(model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> str:
    tokenizer: Any = model.tokenizer
    whole = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if whole is not tokenizer:  # it writes down how it cut and padded last, and is told anew at every call
        whole.no_truncation()
        whole.no_padding()
    digest = hashlib.sha256(f"{MADE} {model.max_seq_length} {prompt!r} ".encode())
    digest.update(whole.to_str().encode("utf-8", "surrogatepass"))
    for texts in _texts(rows, column):
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:32]


def _made(model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> Iterable[list[Numbers]]:
    for texts in _texts(rows, column):
        yield [np.asarray(numbers, dtype=np.int32) for numbers in tokenize(model, texts, prompt)]


def _gathered(model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> Tokens:
    parts = [numbers for part in _made(model, rows, column, prompt) for numbers in part]
    return Tokens(np.concatenate([np.empty(0, np.int32), *parts]), _offsets([len(part) for part in parts]))


def _offsets(lengths: Sequence[int]) -> Numbers:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _store(place: Path, model: SentenceTransformer, rows: Dataset, column: str, prompt: str) -> None:
    """Write the two files, a part at a time, and put their folder in place when both are whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        lengths: list[int] = []
        with (temporary / "flat").open("wb") as file:
            for part in _made(model, rows, column, prompt):
                lengths += map(len, part)
                file.write(np.concatenate([np.empty(0, np.int32), *part]).tobytes())
        _with_header(temporary / "flat", temporary / "ids.npy", sum(lengths))
        np.save(temporary / "offsets.npy", _offsets(lengths))
        if not place.is_dir():
            temporary.rename(place)
    except OSError:
        if not place.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _forget(place.parent)


def _with_header(flat: Path, file: Path, tokens: int) -> None:
    """The file of numbers as NumPy's format has it."""
    with file.open("wb") as target, flat.open("rb") as source:
        header = {"descr": np.dtype(np.int32).str, "fortran_order": False, "shape": (tokens,)}
        np.lib.format.write_array_header_1_0(target, header)
        shutil.copyfileobj(source, target)
    flat.unlink()


def _forget(folder: Path) -> None:
    """Remove what was not used for longest, where there is more than is kept."""
    found = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=_used, reverse=True)
    for path in found[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0
