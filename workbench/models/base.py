"""The base model: found, loaded as a SentenceTransformer, and adapted to the recipe.

Every model is first brought to a folder and then loaded from there: a Hub repository (from its cache, or downloaded
without pickled weights and code), a stand-in made on this machine (see `stand_ins`), or a local folder. An adapter's
folder leads to a second one, that of its base.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import BaseError, enough_memory, first_line
from workbench.models import lora, stand_ins
from workbench.models.multilingual import MULTILINGUAL
from workbench.models.stand_ins import BUNDLED, STATIC
from workbench.recipe.schema import Base

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    Vectors = np.ndarray[Any, np.dtype[np.float32]]
    Encode = Callable[[list[str], Literal["query", "document"]], Vectors]

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
NOT_FETCHED = ["onnx/*", "openvino/*", "pytorch_model*", "tf_*", "flax_*"]
HUB_SECONDS = 4.0
"""How long to wait, once, for an answer of the Hub."""

CACHED_TEXTS = 100_000
"""Texts whose vectors `cached_encode` keeps; at 1,024 dimensions they take 400 MB."""


@dataclass(frozen=True)
class LoadedBase:
    """A base, ready to be trained or measured."""

    model: SentenceTransformer  # float32, on the best device there is
    asked: str  # what was asked for: "auto", a Hub id, a folder, "bundled:minilm", "bundled:multilingual", …
    name: str  # what it is: the Hub id, the folder, the name of the stand-in
    sha256: str  # of its model.safetensors; of all of them in order of name where it has several
    stand_in: bool  # whether it stands in for the base that the recipe names
    note: str  # sentences for people: the stand-in and why, what was not applied
    unknown_share: float | None = None  # UNK rate of its tokenizer on the training texts


@cache
def hub_reachable() -> bool:
    """Whether the Hub answers; decided once in a process, in at most `HUB_SECONDS`.

    Where it does not, the Hub's libraries are told to work offline from here on. HF_HUB_OFFLINE is honored without
    asking. The request runs in a thread, because a name lookup has no time limit.
    """
    from huggingface_hub import constants

    answered: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(f"{constants.ENDPOINT}/robots.txt", method="HEAD")
        with (
            suppress(OSError, http.client.HTTPException, ValueError),
            urllib.request.urlopen(request, timeout=HUB_SECONDS - 0.5) as answer,
        ):
            answered.append(answer.status < 400)

    if not constants.HF_HUB_OFFLINE:
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(HUB_SECONDS)
    if not any(answered):
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return any(answered)


def _hub_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a Hub repository: from the cache, else downloaded; None where neither can be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    fetch = partial(snapshot_download, name, revision=revision, allow_patterns=FETCHED, ignore_patterns=NOT_FETCHED)
    with suppress(HFValidationError):  # no name of a repository
        with suppress(OSError):  # not in the cache
            cached = Path(fetch(local_files_only=True))
            if _is_model(cached):
                return cached
        with suppress(OSError):
            return Path(fetch()) if hub_reachable() else None
    return None


def _is_model(folder: Path) -> bool:
    """Whether a whole model is there; a cache may hold no more than a card.

    Weights are beside config.json, in a module's own folder (a StaticEmbedding), in several files, or an adapter's.
    """
    named = any((folder / name).is_file() for name in ("config.json", "modules.json", lora.CONFIG))
    weights = named and any(folder.rglob("*.safetensors"))
    return weights and all(_is_complete(index) for index in folder.rglob("*.safetensors.index.json"))


def _is_complete(index: Path) -> bool:
    """Whether every file that an index of weights in several files names is there."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return isinstance(files, dict) and all((index.parent / str(name)).is_file() for name in set(files.values()))


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the model's weights; see `LoadedBase.sha256`. Those under an adapter come after the adapter's."""
    under = _under_adapter(folder, str(folder))
    adapter = [] if under is None else [folder / lora.WEIGHTS]
    return stand_ins.files_sha256([*adapter, *stand_ins.weight_files(under or folder)])


def load_base(
    base: Base | str,
    asked: str | None = None,
    *,
    device: str | None = None,
    seed: int | None = None,
    texts: Sequence[str] | None = None,
    own: bool = False,
) -> LoadedBase:
    """The model that `base` names, or the one asked for in its place.

    `asked`: None or "auto" takes the base's own where it is cached or can be fetched, else the best stand-in (see
    `stand_ins.choose`); a Hub id, a folder, "bundled:minilm", "bundled:multilingual" or "bundled:static" takes that
    one, and it is a stand-in unless it is the base's own (the same id, a folder of the same name, the bundled model
    under its own name) or said to be (`own`). "bundled:minilm" is a table where the base is one. A str as `base` is a
    model by itself, as in `workbench evaluate MODEL`.

    `texts` are the training texts, whose language decides; unknown tokens are counted in them.

    Prompts and LoRA of `base` are applied to whatever is loaded; pooling and length to its own model, because another
    one was trained with its own. `seed` is set before new LoRA weights are drawn.

    Raises BaseError where the model cannot be had or is not safetensors.
    """
    wanted = Base(model=base) if isinstance(base, str) else base
    asked = base if asked is None and isinstance(base, str) else asked
    chosen = _choose(wanted, asked, texts, own)
    if seed is not None:
        from transformers import set_seed

        set_seed(seed)
    model = load_folder(chosen.folder, chosen.name, device)
    notes = [chosen.note]
    if lora.has_adapter(model):
        model = lora.merge_adapter(model)
        notes.append(f"The base {chosen.name} is a LoRA adapter; it is merged into the weights under it.")
    notes += _apply(model, wanted, chosen)
    return LoadedBase(
        model=model,
        asked=asked or "auto",
        name=chosen.name,
        sha256=weights_sha256(chosen.folder),
        stand_in=chosen.stand_in,
        note=" ".join(note for note in notes if note),
        unknown_share=stand_ins.tokens_of(model.tokenizer, texts)[0] if texts else None,
    )


@dataclass(frozen=True)
class _Chosen:
    name: str  # see LoadedBase
    folder: Path
    stand_in: bool
    note: str = ""  # the sentence about the stand-in


def _choose(wanted: Base, asked: str | None, texts: Sequence[str] | None, own: bool) -> _Chosen:
    """Which model to load, and the note about a stand-in."""
    if asked in (None, "auto"):
        there = None if wanted.model == "unknown" else _find(wanted.model, wanted)
        if there is not None:
            return _Chosen(wanted.model, there, False)
        why = "the card does not name its base" if wanted.model == "unknown" else "it is not cached and not reachable"
        name, reason = stand_ins.choose(wanted, texts)
    else:
        why = f"{asked} was asked for"
        own |= asked == BUNDLED and stand_ins.is_bundled(wanted.model)
        name, reason = stand_ins.choose(wanted, None) if asked == BUNDLED != wanted.model and not own else (asked, "")
    found = _find(name, wanted)
    if found is None:
        raise BaseError(
            f"expected a base that is a Hub id, a folder with a model or {BUNDLED!r}, found {name!r}, which is "
            "neither on this disk, nor in the local cache, nor reachable on the Hub; use --base auto or --base "
            f"{BUNDLED}."
        )
    if own or name == wanted.model or (os.path.isdir(name) and found.resolve().name == wanted.model.split("/")[-1]):
        return _Chosen(name, found, False)
    return _Chosen(name, found, True, stand_ins.note(wanted, name, why, reason))


def _find(name: str, wanted: Base) -> Path | None:
    """The folder of a model by any of its names; None where it cannot be had."""
    if name == BUNDLED:
        return stand_ins.bundled_folder()
    if name == MULTILINGUAL:
        return stand_ins.multilingual_folder()
    if name == STATIC:
        return stand_ins.static_folder(stand_ins.bundled_folder(), wanted.static_dimensions)
    if name.startswith(("bundled:", "scratch:")):
        raise BaseError(f"expected {BUNDLED!r}, {MULTILINGUAL!r} or {STATIC!r}, found {name!r}; there are only these.")
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        if _is_model(path) or any((path / pickle).is_file() for pickle in PICKLES):
            return path
        needed = "config.json or modules.json, and safetensors"
        raise BaseError(f"expected a model in the folder {name!r} ({needed}), found none.")
    revision = wanted.revision if name == wanted.model else None
    found = None if path.is_absolute() or name.count("/") > 1 else _hub_folder(name, revision)
    return stand_ins.bundled_folder() if found is None and stand_ins.is_bundled(name) else found


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a model: see `load_base`. Raises BaseError where it cannot be had."""
    found = _find(name, Base(model=name, revision=revision))
    if found is None:
        raise BaseError(
            f"expected a model that is a Hub id, a folder or {BUNDLED!r}, found {name!r}, which is neither on this "
            "disk, nor in the local cache, nor reachable on the Hub; check its name, or fetch it first."
        )
    return found


def is_half_precision(folder: Path) -> bool:
    """Whether weights in `folder` are stored in 16 bits."""
    from safetensors import safe_open

    kinds = set()
    for path in stand_ins.weight_files(folder):
        with safe_open(path, framework="np") as weights:
            kinds |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    return bool(kinds & {"F16", "BF16"})


def _under_adapter(folder: Path, name: str) -> Path | None:
    """The folder of the transformer under the adapter in `folder`; None where that is no adapter.

    Weights beside the adapter come first, then the folder that the adapter names. That may be one of another machine:
    then the same Hub repository or bundled model is taken, where this machine has it.

    Raises BaseError where it is nowhere.
    """
    config = lora.adapter_config(folder, name)
    if config is None:
        return None
    recorded = str(config["base_model_name_or_path"])
    parts = Path(recorded).parts
    cached = next((place for place, part in enumerate(parts) if part.startswith("models--")), None)
    under: Path | None = None
    if (folder / "config.json").is_file() and stand_ins.weight_files(folder):
        under = folder
    elif os.path.isdir(recorded):
        under = Path(recorded)
    elif stand_ins.BUNDLED_PACKAGE in parts:
        under = stand_ins.bundled_folder()
    elif cached is not None:
        repository = parts[cached].removeprefix("models--").replace("--", "/", 1)
        under = _hub_folder(repository, next(iter(parts[cached + 2 :]), None))
    elif not Path(recorded).is_absolute():
        under = _hub_folder(recorded, config.get("revision"))
    under = under and lora.transformer_folder(under)
    if under is None or not (under / "config.json").is_file():
        raise BaseError(
            f"expected the model {recorded!r}, the base of the adapter in {name!r}, found none that can be loaded; "
            f"put it there, or name it in {str(folder / lora.CONFIG)!r}."
        )
    return under


def load_folder(folder: Path, name: str, device: str | None = None) -> SentenceTransformer:
    """The model in `folder`, in float32, by safetensors and without code of its own; `name` is for messages.

    An adapter is loaded onto the model under it and not merged; see `lora.merge_adapter` and `export_merged`.
    """
    under = _under_adapter(folder, name)
    if under is None:
        return _load(folder, name, device)
    _refuse_pickles(under, str(under))
    with tempfile.TemporaryDirectory() as temporary:
        if (folder / "modules.json").is_file():
            whole = lora.plain_view(folder, under, Path(temporary) / "model")
        else:  # saved by PEFT alone: all but the adapter is the base's, whose transformer may have a folder of its own
            above = (under.parent / "modules.json").is_file() and not (under / "modules.json").is_file()
            whole = under.parent if above else under
        model = _load(whole, name, device)
    with _loading(name):
        lora.load_adapter(model, folder, under, name)
    return model


def _refuse_pickles(folder: Path, name: str) -> None:
    for pickle in (found for pattern in PICKLES for found in folder.rglob(pattern)):
        if not any(pickle.parent.glob("*.safetensors")):
            raise BaseError(
                f"expected safetensors in {name!r}, found only the pickled {pickle.name!r}, which can run code when "
                "it is read; convert it to safetensors."
            )


def _load(folder: Path, name: str, device: str | None) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer

    _refuse_pickles(folder, name)
    with _loading(name):
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).float()  # modules other than the transformer do not read `dtype`
    model.model_card_data.local_files_only = True
    model.model_card_data.generate_widget_examples = False
    return model


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """BaseError for what the libraries raise on a damaged model, and no progress bars of theirs."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        with stand_ins.no_progress_bars(), enough_memory(f"the model {name!r}"):
            yield
    except SafetensorError as error:
        found = f"expected whole weights in {name!r}, found a damaged file ({error})"
        raise BaseError(f"{found}; fetch it again.") from error
    except ImportError as error:
        raise BaseError(
            f"expected the packages that the model in {name!r} needs, found one that cannot be imported "
            f"({first_line(error)}); install it or choose another with --base."
        ) from error
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        raise BaseError(
            f"expected a model that sentence-transformers can load in {name!r}, found one that it cannot "
            f"({type(error).__name__}: {first_line(error)}); check the folder or choose another with --base."
        ) from error
    except (TypeError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise BaseError(
            f"expected valid settings in the JSON files of the model in {name!r}, found one that the libraries reject "
            f"({first_line(error)}); fetch the model again or choose another with --base."
        ) from error


def load_weights(model: SentenceTransformer, checkpoint: Path) -> None:
    """Give `model` the weights that it had when it was saved to `checkpoint`.

    The library's trainer reads a checkpoint's adapter in the precision of the base's file and loses DoRA's magnitudes
    (see `lora.plain_view`), so that training would not resume where it stopped.
    """
    model.load_state_dict(load_folder(checkpoint, str(checkpoint), "cpu").state_dict())


def export_merged(folder: Path, out: Path) -> Path:
    """Save the model in `folder` to `out` with its adapter merged into the weights: plain safetensors for any program.

    Raises BaseError where `out` exists.
    """
    if out.exists():
        raise BaseError(f"expected a new folder to export to, found {str(out)!r}, which exists; name another.")
    plain = lora.merge_adapter(load_folder(folder, str(folder), "cpu"))
    with stand_ins.no_progress_bars():
        plain.save_pretrained(str(out), create_model_card=False)
    return out


def _apply(model: SentenceTransformer, base: Base, chosen: _Chosen) -> list[str]:
    """Apply pooling, length, prompts, similarity and LoRA of `base`; notes on what could not be."""
    from sentence_transformers.util import SimilarityFunction

    notes = []
    if base.pooling is not None and not chosen.stand_in:
        notes += _apply_pooling(model, base.pooling)
    if base.max_seq_length is not None and not chosen.stand_in:
        notes += _apply_length(model, base.max_seq_length)
    if base.prompts:
        model.prompts = {**model.prompts, **base.prompts}
    if base.similarity in SimilarityFunction.possible_values():
        model.similarity_fn_name = SimilarityFunction(base.similarity)
    if base.lora is not None:
        if lora.adapter_config(chosen.folder, chosen.name) is not None:
            raise BaseError(
                f"expected a base with plain weights for LoRA, found {chosen.name!r}, which is an adapter itself; "
                "export it merged first and give that folder as --base."
            )
        notes += lora.add_lora(model, base.lora, chosen.name, chosen.folder)
    return notes


def _apply_pooling(model: SentenceTransformer, pooling: str) -> list[str]:
    from sentence_transformers.sentence_transformer.modules import Pooling

    for index, module in enumerate(model):
        if isinstance(module, Pooling):
            if module.pooling_mode not in (pooling, (pooling,)):
                model[index] = Pooling(module.embedding_dimension, pooling, include_prompt=module.include_prompt)
            return []
    return [f"The base has no pooling module, so {pooling} pooling was not applied."]


def _apply_length(model: SentenceTransformer, length: int) -> list[str]:
    if model.max_seq_length == math.inf:  # a StaticEmbedding; its length cannot be set
        return []
    most = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        return [f"The base takes {most} tokens at most, so the card's {length} were not applied."]
    model.max_seq_length = length
    return []


def prompt_of(prompts: Mapping[str, str | None], kind: str) -> str:
    """The prompt of a kind of text; a document's may be named "passage".

    >>> prompt_of({"query": "what is ", "passage": "a text: "}, "document")
    'a text: '
    """
    return prompts.get(kind) or prompts.get("passage" if kind == "document" else kind) or ""


def cached_encode(encode: Encode) -> Encode:
    """`encode` with a cache of vectors: validation and test share their corpus."""
    import numpy as np

    known: dict[tuple[str, str], Any] = {}

    def encode_new(texts: list[str], kind: Literal["query", "document"]) -> Vectors:
        if not texts or len(known) + len(texts) > CACHED_TEXTS:
            return encode(texts, kind)
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in known]
        if new:
            known.update(((kind, text), vector) for text, vector in zip(new, encode(new, kind), strict=True))
        return np.stack([known[kind, text] for text in texts])

    return encode_new


def token_counts(model: SentenceTransformer, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """(tokens of each text, unknown tokens of each), untruncated, with the special tokens that the model adds itself
    (a StaticEmbedding adds none)."""
    unknown = stand_ins.unknown_id(model.tokenizer)
    rows = stand_ins.token_ids(model.tokenizer, texts, special=True)
    return [len(row) for row in rows], [row.count(unknown) for row in rows]


def describe_device() -> tuple[str, bool]:
    """The training device, in words, and whether it is faster than the CPU."""
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name(0)}", True
    if torch.backends.mps.is_available():
        return "MPS: Apple GPU", True
    return f"CPU: {os.cpu_count() or 1} cores, {torch.get_num_threads()} threads", False
