"""LoRA adapters: added to a model, saved, loaded, merged into the weights.

An adapter is saved as PEFT saves it: its own weights, and in adapter_config.json the name of the model under it. Here
that is a local folder; `base.load_folder` looks for it elsewhere where it is gone.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import BaseError
from workbench.recipe.schema import Lora

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the name of each weight in the file
ALL_LINEAR = "all-linear"
"""PEFT's own word for every linear layer."""

ROLES = ("query", "key", "value", "dense")
FAMILIES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("query",), ("key",), ("value",), ("dense",)),  # BERT, RoBERTa, XLM-R, ELECTRA
    (("q_lin",), ("k_lin",), ("v_lin",), ("out_lin", "lin1", "lin2")),  # DistilBERT
    (("q",), ("k",), ("v",), ("o", "dense")),  # MPNet
    (("q",), ("k",), ("v",), ("o", "wi", "wi_0", "wi_1", "wo")),  # T5
    (("Wqkv",), ("Wqkv",), ("Wqkv",), ("Wo", "Wi")),  # ModernBERT
    (("q_proj",), ("k_proj",), ("v_proj",), ("o_proj", "gate_proj", "up_proj", "down_proj")),  # Llama, Qwen, Gemma
)
"""The names of the layers of each of `ROLES` by architecture; "dense" is every other linear layer."""


def add_lora(model: SentenceTransformer, lora: Lora, name: str, folder: Path) -> list[str]:
    """Put a new adapter of the shape `lora` on `model` and freeze the rest; notes on what was done otherwise.

    `folder` is where the model was loaded from and `name` what it is called. Modules that another architecture names
    differently are taken under those names (see `FAMILIES`). A StaticEmbedding has nothing to adapt: a note says so.

    Raises BaseError where the model has no such modules under any known name.
    """
    from peft import LoraConfig, TaskType

    if not model.has_peft_compatible_model():
        return [f"LoRA needs a transformer, which {name} is not, so all of its weights are trained."]
    targets = target_modules(model, lora.target_modules, name)
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=lora.r,
        lora_alpha=int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if targets == (ALL_LINEAR,) else list(targets),
        use_dora=lora.use_dora,
    )
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise BaseError(
            f"expected a LoRA adapter that PEFT can put on {name!r}, found one that it cannot ({error}); "
            "change base.lora."
        ) from error
    config.base_model_name_or_path = str(transformer_folder(folder.absolute()))
    if set(lora.target_modules) == set(targets):
        return []
    absent = ", ".join(target for target in lora.target_modules if target not in targets)
    return [f"LoRA is on the modules {', '.join(targets)}: {name} has none that are called {absent}."]


def target_modules(model: SentenceTransformer, asked: Sequence[str], name: str) -> tuple[str, ...]:
    """The modules of `model` that `asked` means: by their own names, else by those of its architecture.

    Raises BaseError where a name means nothing there.
    """
    if tuple(asked) == (ALL_LINEAR,):
        return (ALL_LINEAR,)
    transformer: Any = model.transformers_model
    weights = ((path, getattr(module, "weight", None)) for path, module in transformer.named_modules())
    layers = [path for path, weight in weights if weight is not None and weight.dim() == 2]
    ends = {path.rsplit(".", 1)[-1] for path in layers}
    alike = [names for names in FAMILIES if all(ends.issuperset(known) for known in names[:3])]
    family = max(alike, key=lambda names: sum(known in ends for role in names for known in role), default=((),) * 4)
    there = {target for target in asked if any(path == target or path.endswith(f".{target}") for path in layers)}
    targets: dict[str, None] = {}  # in order, each once
    missing = []
    for target in asked:
        role = next((role for names in FAMILIES for role, known in enumerate(names) if target in known), None)
        found = [other for other in family[role] if other in ends] if role is not None else []
        if len(there) == len(asked) or (target in there and not found):
            found = [target]
        targets.update(dict.fromkeys(found))
        missing += [] if found else [target]
    if missing:
        raise BaseError(
            f"expected modules named {', '.join(missing)} in {name!r} for LoRA, found "
            f"{', '.join(sorted(ends - {'word_embeddings'}))}; change base.lora.target_modules."
        )
    return tuple(targets)


def transformer_folder(folder: Path) -> Path:
    """The folder of the transformer in a model's folder; older models have it in a folder of its own."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return folder / str(modules[0]["path"])
    except (OSError, ValueError, LookupError, TypeError):
        return folder


def has_adapter(model: SentenceTransformer) -> bool:
    """Whether the model has an adapter that is not merged."""
    return bool(getattr(model.transformers_model, "peft_config", None))


def adapter_config(folder: Path, name: str) -> dict[str, Any] | None:
    """The content of adapter_config.json, whose `base_model_name_or_path` is the model under it; None without one.

    Raises BaseError where the file cannot be read or names no model.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("base_model_name_or_path"), str):
        raise BaseError(
            f"expected the adapter in {name!r} to name the model under it, found no base_model_name_or_path in its "
            f"{CONFIG}; write it there."
        )
    return config


def plain_view(folder: Path, under: Path, view: Path) -> Path:
    """A plain model in the new folder `view`: weights from `under`, everything else as in the adapter's `folder`.

    The library cannot load the adapter itself: transformers 5.23 does not find DoRA's magnitudes under the names that
    it saves them by and draws them anew, with a line in the log only.
    """
    skipped = shutil.ignore_patterns(CONFIG, "adapter_model*", "*.pt", "*.pth", "*.bin", "trainer_state.json")
    shutil.copytree(folder, view, ignore=skipped)
    for path in (under / "config.json", *sorted(under.glob("*.safetensors*"))):
        if (view / path.name).exists():
            continue  # the weights are beside the adapter
        try:
            (view / path.name).symlink_to(path.resolve())
        except OSError:  # no right to make links
            shutil.copyfile(path, view / path.name)
    return view


def load_adapter(model: SentenceTransformer, folder: Path, under: Path, name: str) -> None:
    """Put the adapter in `folder` on `model`, which was loaded from `under`; only its weights are trained.

    Raises BaseError where the adapter's weights are not those of its configuration.
    """
    import safetensors.torch
    from peft import PeftConfig
    from peft.utils.save_and_load import get_peft_model_state_dict, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    model.add_adapter(config)
    config.base_model_name_or_path = str(under)
    transformer: Any = model.transformers_model
    found = safetensors.torch.load_file(str(folder / WEIGHTS))
    weights = {key.removeprefix(PREFIX): value for key, value in found.items()}
    wanted = set(get_peft_model_state_dict(transformer))
    if wanted != set(weights):
        odd = sorted(wanted ^ set(weights))[0]
        raise BaseError(
            f"expected {len(wanted)} weights in the adapter {name!r}, as its {CONFIG} says, found {len(weights)} and "
            f"not the same ones ({odd!r}); take both files from the same place."
        )
    set_peft_model_state_dict(transformer, weights)


def merge_adapter(model: SentenceTransformer) -> SentenceTransformer:
    """A copy of `model` in evaluation mode with its adapter merged into the weights: the same embeddings, no PEFT."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    plain = copy.deepcopy(model).eval()
    transformer: Any = plain.transformers_model
    if not has_adapter(plain):
        return plain
    for path, module in list(transformer.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            transformer.set_submodule(path, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            transformer.set_submodule(path, module.modules_to_save[module.active_adapters[0]])
    del transformer.peft_config
    transformer._hf_peft_config_loaded = False
    transformer.requires_grad_(True)
    return plain
