"""Card -> recipe, each field with its origin: what the card states, and what its numbers imply.

A fact that the card states is taken as it is. Some fields are on no card but can be computed from its numbers (how the
rows were divided, how many processes trained, how often was logged); they are `inferred`, with the calculation as
reason. A card written by the old `model.fit()` prints trainer arguments that never ran; the optimizer and schedule of
fit() are taken instead. Everything else takes the defaults in `schema`. Judging is the job of `audit`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from workbench.cards import lookup
from workbench.cards.card import Card, Dataset, Evaluation, Loss, Stated
from workbench.cards.inference import Fit, infer
from workbench.cards.lookup import (
    class_name,
    file_beside,
    finite_losses,
    first_line,
    foreign_adapter,
    has_trainer,
    is_pointer,
    label_statistics,
    label_values,
    last_run,
    lora_config,
    lora_shape,
    same_loss,
    static_table,
)
from workbench.cards.metric_names import SIMILARITIES
from workbench.cards.read import read_card
from workbench.cards.schedule import Schedule, interval
from workbench.errors import RecipeError
from workbench.recipe.draft import Draft
from workbench.recipe.overrides import as_lists, put, with_changes, with_overrides
from workbench.recipe.schema import Origin, Recipe, Training, error_path, recipe_error, with_origins
from workbench.recipe.sources import put_data, put_prompts, put_repeated_queries

POOLING = ("cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "use_amp": "fp16",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "lr_scheduler_warmup_ratio": "warmup_ratio",
    "lr_scheduler_warmup_steps": "warmup_steps",
    "num_epochs": "num_train_epochs",
    "body_learning_rate": "learning_rate",
    "warmup_proportion": "warmup_ratio",
}
"""Arguments of older transformers, of `fit()` before 3.0, of other trainers' cards and of SetFit -> today's names."""
OF_FIT = {"DataLoader", "scheduler", "optimizer_params", "optimizer_class", "evaluation_steps", "steps_per_epoch"}
"""Arguments of `fit()` before 3.0 that `put_legacy` translates."""
OF_SETFIT = ("loss", "setfit")
BUILT = {"Transformer", "Pooling", "Normalize", "StaticEmbedding"}
"""Modules whose settings a recipe holds, or that have none."""
SCHEDULERS = {
    "warmuplinear": "linear",
    "warmupcosine": "cosine",
    "warmupcosinewithhardrestarts": "cosine_with_restarts",
    "constantlr": "constant",
    "warmupconstant": "constant_with_warmup",
}
"""Schedulers of `fit()` -> those of the trainer."""
MAY_BE_NONE = {"data_seed", "eval_steps", "metric_for_best_model", "greater_is_better"}
"""Arguments whose None means something."""
NOT_USED = {
    "it concerns only how processes exchange gradients": ("ddp_find_unused_parameters",),
    "the device is chosen where the recipe runs": ("no_cuda", "use_cpu", "use_mps_device"),
    "nothing is uploaded": ("push_to_hub", "hub_model_id"),
    "no tracker follows a run unless training.report_to is set": ("report_to",),
    "a run has its own folder": ("output_dir", "overwrite_output_dir"),
    "a run keeps its best and its last checkpoint": ("save_total_limit",),
    "a run must be resumable after a kill": ("save_only_model",),
    "it changes what is printed, not results": ("disable_tqdm",),
    "it changes speed, not results": ("dataloader_num_workers", "dataloader_pin_memory"),
    "the batch size of the card is what ran": ("auto_find_batch_size",),
}
"""Why a recipe does not hold an argument -> the arguments."""
CONSEQUENTIAL = {
    "label_smoothing_factor", "optim_args", "optim_target_modules", "neftune_noise_alpha", "group_by_length",
    "learning_rate_mapping", "router_mapping", "torch_compile", "tf32", "deepspeed", "fsdp",
}  # fmt: skip
"""Arguments that change what is trained and that a recipe does not hold yet: noted wherever they are set."""
FIT = {
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "warmup_steps": 10_000,
    "optim": "adamw_torch",
    "lr_scheduler_kwargs": {},
}
"""Defaults of `SentenceTransformer.fit()`: see sentence_transformers/sentence_transformer/fit_mixin.py."""
SCORED = {"CosineSimilarityLoss", "CoSENTLoss", "AnglELoss"}
"""Losses over pairs with a score: measured by rank correlation, not by retrieval."""
HIDDEN_ADAPTER = "adapter_config.json, of which the card shows nothing"
"""Origin of an adapter that only a file beside the card shows."""


def recipe(
    card: Card | str | os.PathLike[str], *, corrected: bool = False, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """What has to be run to do what `card` (or the card that `read_card` finds there) says was done.

    `corrected` applies the fixes that `audit(card)` proposes, in the order of the findings; `overrides` (see
    `with_overrides`) come after. Raises RecipeError where the card states no loss, because then there is nothing to
    train, and where an override is not possible.
    """
    card = card if isinstance(card, Card) else read_card(card)
    draft = derive(card)
    if "loss.name" not in draft.fields:
        raise RecipeError(
            f"expected a training loss on the card {card.name!r}, found none in what was understood of it, so it "
            "cannot be trained again. Was the model never trained, or is the training told in other words, or cut off?"
        )
    made = _from_draft(card, draft)
    if corrected:
        made = _apply_fixes(made, card)
    return with_overrides(made, overrides) if overrides else made


def evaluation_recipe(card: Card) -> Recipe:
    """The recipe of a card whose model is only to be evaluated: it may state no loss."""
    draft = derive(card)
    if "loss.name" not in draft.fields:
        draft.put("loss.name", "none", "default", note="the card states no loss")
    return _from_draft(card, draft)


def derive(card: Card) -> Draft:
    """What `card` says and implies about the fields of a recipe; without a loss where it names none."""
    draft = Draft()
    put_base(draft, card)
    put_training(draft, card)
    put_data(draft, card)
    put_losses(draft, card)
    put_prompts(draft, card)
    put_evaluation(draft, card)
    put_repeated_queries(draft, card)
    return draft


def _from_draft(card: Card, draft: Draft) -> Recipe:
    """The draft as a Recipe; a value on the card that cannot be the field's is noted and takes the default."""
    while True:
        tree: dict[str, Any] = {"name": file_name(card.name, "card"), "kind": card.kind, "loss": {}, "data": {}}
        for path, (value, _) in draft.fields.items():
            put(tree, path, value)
        whole = {**as_lists(tree), "card_sha256": card.sha256 or None, "notes": draft.notes}
        try:
            made = Recipe.model_validate_json(json.dumps(whole), strict=True)
            break
        except ValidationError as error:
            path = error_path(error)
            wrong = next((known for known in draft.fields if path == known or path.startswith(known + ".")), None)
            if wrong is None:
                raise recipe_error(error) from error
            draft.notes.append(f"`{wrong}` cannot be {draft.value(wrong)!r}, as the card says; the default is taken.")
            del draft.fields[wrong]
    versions = {name: stated.value for name, stated in card.versions.items()}
    return with_origins(made, {path: origin for path, (_, origin) in draft.fields.items()}, versions)


def _apply_fixes(made: Recipe, card: Card) -> Recipe:
    from workbench.audit.rules import audit

    changes: dict[str, tuple[Any, Origin]] = {}
    for finding in audit(card):
        if finding.fix is not None:
            origin = Origin(source="finding", lines=finding.lines, note=finding.code)
            changes.update({path: (value, origin) for path, value in finding.fix.changes.items()})
    made = with_changes(made, changes, only_new=True)
    if made.training.load_best_model_at_end and made.training.save_strategy != made.training.eval_strategy:
        # The trainer can load the best checkpoint only where each evaluation has one.
        origin = Origin(source="inferred", note="as often as evaluated, so that the best checkpoint can be kept")
        made = with_changes(made, {"training.save_strategy": (made.training.eval_strategy, origin)})
    return made.model_copy(update={"variant": "corrected"})


def file_name(text: str, otherwise: str) -> str:
    """`text` as the name of a folder: letters, digits and `._@+-`, and no dot in front.

    >>> file_name("../eval set", "evaluation")
    'eval-set'
    """
    return re.sub(r"[^\w.@+-]+", "-", text).strip(".-")[:120] or otherwise


def put_base(draft: Draft, card: Card) -> None:
    if card.base_model is not None:
        draft.put_stated("base.model", card.base_model)
    else:
        draft.put("base.model", "unknown", "default", note="the card names no base; name one with --base")
    if card.base_revision is not None:
        draft.put_stated("base.revision", card.base_revision)
    for module in card.modules:
        if module.type == "Pooling" and (modes := pooling_modes(module.parameters)):
            also = f"the card joins {', '.join(modes)}; only the first is kept" if len(modes) > 1 else ""
            draft.put("base.pooling", modes[0], "card", module.line, note=also)
    if card.max_seq_length is not None and isinstance(card.max_seq_length.value, int):
        draft.put_stated("base.max_seq_length", card.max_seq_length)
    table = static_table(card)
    if table is not None:
        draft.put("base.static_dimensions", table[0], "card", table[1])
    if card.similarity is not None:
        word = re.sub(r" (similarity|product|distance)$", "", str(card.similarity.value).strip().lower())
        draft.put_stated("base.similarity", card.similarity, word)
    put_lora(draft, card)
    for module in card.modules:
        if module.type not in BUILT:
            draft.notes.append(
                f"The module `{module.type}`{_at(module.line)} is not in a recipe: it is trained only where the base "
                "has it."
            )
    _, settings = file_beside(card, "config_sentence_transformers.json") or ("", None)
    prompts = settings.get("prompts") if isinstance(settings, Mapping) else None
    for name, text in prompts.items() if isinstance(prompts, Mapping) else ():
        if isinstance(text, str) and text:
            draft.put(f"base.prompts.{name}", text, "file", note="config_sentence_transformers.json")


def pooling_modes(parameters: Mapping[str, Any]) -> list[str]:
    """The pooling modes of a Pooling module, as older cards print them (one flag each) or as newer ones do.

    >>> pooling_modes({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    ['cls']
    >>> pooling_modes({"pooling_mode": "mean"})
    ['mean']
    """
    mode = parameters.get("pooling_mode")
    named = [mode] if isinstance(mode, str) else list(mode) if isinstance(mode, list | tuple) else []
    ends = ("", "_token", "_tokens")
    flags = [mode for mode in POOLING if any(parameters.get(f"pooling_mode_{mode}{end}") is True for end in ends)]
    return [name for name in named if name in POOLING] or flags


def put_lora(draft: Draft, card: Card) -> None:
    _, adapter = lora_config(card) or ("", {})
    shown = [module for module in card.modules if "peft" in (module.architecture or "").lower()]
    if not adapter:
        missing = "there is no adapter_config.json of it beside it"
        if is_pointer(card, "adapter_config.json"):
            missing = "adapter_config.json beside it is a Git LFS pointer: run `git lfs pull`"
        if shown:
            reason = f"the card shows a PEFT model but not its shape, and {missing}"
            draft.put("base.lora", {}, "default", shown[0].line, note=reason)
        if foreign := foreign_adapter(card):
            draft.notes.append(f"{foreign[0]} is not used: it adapts {foreign[1]}, which is not the card's base.")
        return
    if str(adapter.get("peft_type", "LORA")).upper() != "LORA":
        draft.notes.append(f"adapter_config.json describes {adapter.get('peft_type')!r}, not LORA: it is not used.")
        return
    note = "adapter_config.json" if shown else HIDDEN_ADAPTER
    shape = lora_shape(adapter)
    for ours, value in shape.items():
        draft.put(f"base.lora.{ours}", value, "file", note=note)
    names = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "target_modules"}
    for theirs in (theirs for theirs, ours in names.items() if adapter.get(theirs) is not None and ours not in shape):
        draft.notes.append(
            f"`{theirs}` of adapter_config.json cannot be {str(adapter[theirs])[:60]!r}; the default is taken."
        )
    if adapter.get("use_rslora"):
        draft.notes.append("`use_rslora` of adapter_config.json is not used.")


def put_losses(draft: Draft, card: Card) -> None:
    datasets = card.training_datasets() or card.evaluation_datasets()
    first = next((dataset for dataset in datasets if dataset.loss), None)
    if first is None or first.loss is None:
        tags = [tag.removeprefix("loss:") for tag in card.tags if tag.startswith("loss:")]
        names = tags or [name for name in card.citations if name.endswith("Loss")]
        note = f"from the card's {'tags' if tags else 'citations'}; its parameters are not stated"
        for depth, name in enumerate(names[:2] if names[:1] == ["MatryoshkaLoss"] else names[:1]):
            draft.put(f"loss{'.inner' * depth}.name", name, "card", note=note)
        return
    put_loss(draft, card, "loss", first, first.loss)
    for number, dataset in enumerate(card.training_datasets()[1:]):
        if dataset.loss is not None and same_loss(dataset.loss) != same_loss(first.loss):
            put_loss(draft, card, f"data.more.{number}.loss", dataset, dataset.loss)


def put_loss(draft: Draft, card: Card, path: str, dataset: Dataset, root: Loss) -> None:
    for node in root.chain():
        draft.put(f"{path}.name", node.name, "card", node.line)
        for name, value in node.parameters.items():
            put_loss_parameter(draft, card, f"{path}.parameters.{name}", node, value)
        if class_name(node.name) == "SoftmaxLoss" and "num_labels" not in node.parameters:
            # A SoftmaxLoss of older cards does not print the number of classes.
            statistics = label_statistics(dataset)
            labels = sorted(label_values(statistics) or ()) if statistics else []
            if labels and labels == [*range(len(labels))]:
                note = f"the card lists the labels 0 to {len(labels) - 1}"
                line = dataset.facts.get("statistics")
                draft.put(f"{path}.parameters.num_labels", len(labels), "inferred", line, note=note)
        path += ".inner"


def put_loss_parameter(draft: Draft, card: Card, path: str, node: Loss, value: Any) -> None:
    similarity = draft.value("base.similarity")
    if not path.endswith(".similarity_fct") or value != "<lambda>" or similarity is None:
        draft.put(path, value, "card", node.line)
        return
    line = card.similarity.line if card.similarity else None
    note = f"the card prints <lambda>; the similarity of its model is {similarity!r}"
    draft.put(path, similarity, "inferred", node.line, line, note=note)
    if similarity == "energy":
        put_energy_distance(draft, card, path.removesuffix("similarity_fct") + "distance", node)


def put_energy_distance(draft: Draft, card: Card, path: str, node: Loss) -> None:
    """Whether the energy distance was made of L1 or L2 distances, from the size of the first logged loss.

    A softmax loss cannot exceed its scale times the widest gap between two scores. A score is twice a mean distance, so
    gaps of L2 scores end at twice the longest distance: about the root of 2 x dimensions, where layer normalization
    leaves values near 1. A loss above that was made of L1 distances, which are sums over the dimensions.
    """
    logged, scale = finite_losses(last_run(card)), node.parameters.get("scale", 20.0)
    width, parts = (infer(card).width or (0, None))[0], infer(card).summed
    if logged and width and isinstance(scale, int | float) and scale > 0:
        row, first = logged[0]
        gap, longest = first / parts / scale, math.sqrt(2 * width)
        if gap > 2 * longest:
            summed = f" summed over {parts} micro-batches" if parts > 1 else ""
            note = (
                f"the first logged loss, {first:,.0f}{summed}, is a gap of {gap:,.0f} between scores at scale "
                f"{scale:g}: too wide for L2 distances of {width} dimensions (about {longest:,.0f} at most, counted "
                "twice), usual for L1 distances without normalization"
            )
            draft.put(path, "manhattan", "inferred", node.line, row.line, note=note)
            return
    line = logged[0][0].line if logged and width else None
    draft.put(path, "manhattan", "default", line, note="neither the card nor its losses tell L1 from L2")


def put_training(draft: Draft, card: Card) -> None:
    if "epochs" in card.hyperparameters:
        put_legacy(draft, card)
    for name in {**card.hyperparameters, **card.non_default}:
        stated = card.argument(name)
        if stated is None:
            continue
        now = RENAMED.get(name, name)
        value = plain_word(stated.value)
        if card.kind == "setfit" and isinstance(value, list) and len(value) == 2:
            value = value[0]  # of the body; the second is of the head
        if now == "adafactor":
            if value is True:
                draft.put_stated("training.optim", stated, "adafactor", "adafactor: True is optim: adafactor now")
        elif (
            now == "prompts" or (name in OF_FIT and "epochs" in card.hyperparameters) or (name, card.kind) == OF_SETFIT
        ):
            continue  # see put_prompts, put_legacy, put_losses
        elif now not in Training.model_fields or now == "report_to":
            note_unused(draft, card, name, stated)
        elif (value is not None or now in MAY_BE_NONE) and (now == name or card.argument(now) is None):
            note = "" if now == name else f"called {name} on the card"
            draft.put_stated(f"training.{now}", stated, value, note)
    share = draft.value("training.warmup_steps")
    if isinstance(share, float) and 0 < share < 1:
        _, origin = draft.fields.pop("training.warmup_steps")
        note = "warmup_steps below 1 is a share of all steps"
        draft.fields["training.warmup_ratio"] = share, origin.model_copy(update={"note": note})
    fit = infer(card).fit
    if fit is not None and fit.sure:
        put_fit_defaults(draft, card, fit)
    put_intervals(draft, card)


def put_legacy(draft: Draft, card: Card) -> None:
    """The parameters of `fit()` that a card from before sentence-transformers 3.0 prints: these did run."""
    stated = card.hyperparameters
    if "scheduler" in stated:
        word = str(stated["scheduler"].value)
        if word.lower() not in SCHEDULERS:
            draft.notes.append(f"`scheduler` = {word!r}{_at(stated['scheduler'].line)} is not known: linear is taken.")
        else:
            now, note = SCHEDULERS[word.lower()], f"called {word} on the card"
            draft.put_stated("training.lr_scheduler_type", stated["scheduler"], now, note)
    if "optimizer_params" in stated and isinstance(stated["optimizer_params"].value, Mapping):
        for theirs, value in stated["optimizer_params"].value.items():
            if ours := {"lr": "learning_rate", "eps": "adam_epsilon"}.get(theirs):
                draft.put_stated(f"training.{ours}", stated["optimizer_params"], value, f"{theirs} of optimizer_params")
            elif (theirs, value) != ("correct_bias", True):  # what AdamW does
                where = _at(stated["optimizer_params"].line)
                draft.notes.append(f"`{theirs}` = {value!r} of optimizer_params{where} is not used.")
    if "optimizer_class" in stated:
        word = str(stated["optimizer_class"].value)
        now = "adamw_bnb_8bit" if "AdamW8bit" in word else "adafactor" if "Adafactor" in word else "adamw_torch"
        draft.put_stated("training.optim", stated["optimizer_class"], now, f"{word} on the card")
        if "AdamW" not in word and now == "adamw_torch":
            draft.notes.append(f"`optimizer_class` = {word!r} is not known: {now} is taken.")
    every = stated.get("evaluation_steps")
    if every is not None and isinstance(every.value, int) and every.value > 0:
        draft.put_stated("training.eval_strategy", every, "steps", "evaluation_steps above 0")
        draft.put_stated("training.eval_steps", every, note="called evaluation_steps on the card")
    epochs, steps = lookup.number(card, "epochs"), stated.get("steps_per_epoch")
    if steps is not None and isinstance(steps.value, int) and steps.value > 0 and epochs:
        note = f"steps_per_epoch {steps.value:,} on the card, times {epochs:g} epochs"
        draft.put_stated("training.max_steps", steps, math.ceil(steps.value * epochs), note)
    put_loader(draft, card)


def put_loader(draft: Draft, card: Card) -> None:
    """How the DataLoader of `fit()` drew rows: in random order, where nothing else is said."""
    for name, stated in card.hyperparameters.items():
        if not name.startswith("DataLoader") or not isinstance(stated.value, Mapping):
            continue
        words = [class_name(str(stated.value.get(key) or "")) for key in ("class", "sampler", "batch_sampler")]
        if words[0].startswith("NoDuplicates"):
            draft.put_stated("training.batch_sampler", stated, "no_duplicates", f"{words[0]} on the card")
        for word in words:
            if word not in ("", "DataLoader", "RandomSampler", "BatchSampler", "NoneType", "NoDuplicatesDataLoader"):
                draft.notes.append(f"`{word}` of {name}{_at(stated.line)} is not used: rows are drawn in random order.")


def _at(line: int | None) -> str:
    return f" (line {line})" if line else ""


def plain_word(value: Any) -> Any:
    """The value of an enumeration's member; everything else as it is.

    >>> plain_word("BatchSamplers.NO_DUPLICATES"), plain_word("epoch"), plain_word(3)
    ('no_duplicates', 'epoch', 3)
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Z]\w+\.[A-Z_]+", value):
        return value.split(".")[1].lower()
    return value


def note_unused(draft: Draft, card: Card, name: str, stated: Stated[Any]) -> None:
    by_trainer = has_trainer(card) or card.argument("per_device_train_batch_size")  # prints all of its defaults
    matters = name in CONSEQUENTIAL or not by_trainer
    matters = name in card.non_default or (matters and stated.value not in (None, False, "", "NoneType", [], {}))
    if matters and name not in RENAMED and not name.startswith("DataLoader"):
        why = next((reason for reason, names in NOT_USED.items() if name in names), "a recipe does not hold it")
        draft.notes.append(f"`{name}` = {stated.value!r}{_at(stated.line)} is not used: {why}.")


def put_fit_defaults(draft: Draft, card: Card, fit: Fit) -> None:
    version = f" (sentence-transformers {card.library_version})" if card.library_version else ""
    for name, value in FIT.items():
        stated = card.argument(name)
        same = stated is not None and stated.value == value
        printed = f"; the card's {stated.value!r} is an argument that did not run" if stated and not same else ""
        note = f"default of SentenceTransformer.fit(){version}{printed}"
        draft.put(f"training.{name}", value, "library", stated.line if stated else fit.lines[0], note=note)


def put_intervals(draft: Draft, card: Card) -> None:
    """How often was logged and evaluated and which model was kept, from the log: cards print few such arguments."""
    logged = [row for row in card.training_log if row.training_loss is not None and row.step]
    gap = interval([row.step or 0 for row in logged])
    if gap:
        note = f"the log has a training loss every {gap} steps"
        draft.put("training.logging_steps", gap, "inferred", logged[0].line, logged[-1].line, note=note)
    schedule = infer(card).schedule
    if schedule is not None and schedule.at:
        put_schedule(draft, card, schedule)
    if draft.value("training.load_best_model_at_end") is True and not draft.value("training.metric_for_best_model"):
        put_best(draft, schedule)


def put_schedule(draft: Draft, card: Card, schedule: Schedule) -> None:
    """When the log has evaluations, and of what; what the card states wins, except where fit() did not heed it."""
    strategy, fit, steps = (
        draft.value("training.eval_strategy"),
        infer(card).fit,
        [row.step or 0 for row in schedule.at],
    )
    if strategy is None or (strategy == "no" and fit and schedule.strategy == "epoch"):
        strategy = schedule.strategy
        by_fit = (
            "fit() evaluates after every epoch, and so does the log" if fit else "the log has one after every epoch"
        )
        note = by_fit if strategy == "epoch" else f"the log has evaluations at {_few(steps)}"
        draft.put("training.eval_strategy", strategy, "inferred", *schedule.lines, note=note)
    if strategy == "steps" and (every := schedule.every or interval(steps)):
        note = f"the log has evaluations every {every} steps" + ", and one at the end" * schedule.at_end
        draft.put("training.eval_steps", every, "inferred", *schedule.lines, note=note)
        planned = infer(card).planned_steps or 0
        if planned % every and planned not in steps:
            note = f"the log has no evaluation at the last step, {planned:,}"
            draft.put("training.eval_on_end", False, "inferred", *schedule.lines, note=note)
    if not schedule.regular:
        draft.notes.append(f"The log has evaluations at {_few(steps)}: no interval explains them all.")
    if schedule.losses or schedule.metrics:
        said = f"the log's evaluations have {'a' if schedule.losses else 'no'} validation loss"
        draft.put("training.validation_loss", bool(schedule.losses), "inferred", *schedule.lines, note=said)
    if schedule.stopped is not None and draft.value("training.load_best_model_at_end") is True:
        note = f"the log ends at an evaluation before step {infer(card).planned_steps:,}: early stopping"
        draft.put("training.stop_step", schedule.stopped, "inferred", schedule.lines[1], note=note)
    if schedule.on_start and draft.value("training.eval_on_start") is None:
        draft.put("training.eval_on_start", True, "inferred", note="the log has an evaluation at step 0")


def put_best(draft: Draft, schedule: Schedule | None) -> None:
    """By which value the model was chosen: one by which the row of the model that was kept is the best."""
    if schedule is None or schedule.kept is None or not schedule.best_by:
        why = "the log has no evaluation" if schedule is None or not schedule.at else "no row is marked as kept"
        if schedule is not None and schedule.kept is not None:
            why = f"the row that was kept, step {schedule.kept.step}, is not the best by any column"
        draft.notes.append(f"`load_best_model_at_end` is set, but the log does not show by which value: {why}.")
        return
    best, *others = schedule.best_by
    also = [other.argument for other in others if other.usual and other.argument != best.argument]
    note = f"the row in bold, step {schedule.kept.step}, has the {'highest' if best.higher else 'lowest'}"
    note += f"; it is also the best by {', '.join(also)}" if also else ""
    draft.put("training.metric_for_best_model", best.argument, "inferred", schedule.kept.line, note=note)
    if not best.usual:
        draft.put("training.greater_is_better", best.higher, "inferred", schedule.kept.line, note=note)


def _few(steps: Sequence[int]) -> str:
    """Steps as words, the first four of many.

    >>> _few([10]), _few([10, 20, 26]), _few([5, 10, 15, 20, 24])
    ('step 10', 'steps 10, 20, 26', 'steps 5, 10, 15, 20, ...')
    """
    return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps[:4]))}" + ", ..." * (len(steps) > 4)


def put_evaluation(draft: Draft, card: Card) -> None:
    """The evaluation that sums up the card: NanoBEIR's mean where there is one, else the first."""
    nano = (found for found in card.evaluations if found.evaluator == "NanoBEIREvaluator")
    chosen = next(nano, next(iter(card.evaluations), None))
    if chosen is None:
        scored = draft.value("loss.name") in SCORED
        rows = "rows with a score are measured by rank correlation" if scored else "pairs are measured as a search"
        evaluator = "EmbeddingSimilarityEvaluator" if scored else "InformationRetrievalEvaluator"
        draft.put("evaluation.evaluator", evaluator, "default", note=f"the card shows no evaluation; {rows}")
        similarity = draft.value("base.similarity")
        word = similarity if similarity in SIMILARITIES else "cosine"
        metric = f"spearman_{word}" if scored else f"{word}_ndcg@10"
        draft.put("evaluation.main_metric", metric, "default", note="the card shows no evaluation")
    else:
        line = first_line(chosen)
        if chosen.evaluator:
            draft.put("evaluation.evaluator", chosen.evaluator, "card", line)
        name = file_name(chosen.datasets[0] if chosen.datasets else chosen.name, "evaluation")
        draft.put("evaluation.name", name, "card", line)
        if main := chosen.main_metric:
            draft.put("evaluation.main_metric", main, "card", chosen.metric_lines.get(main, line))
            if main.endswith("mse") and "negative" not in main:
                draft.put("evaluation.higher_is_better", False, "inferred", note="a smaller error is better")
        if chosen.evaluator == "NanoBEIREvaluator" and "data.evaluation.location" not in draft.fields:
            note = "where NanoBEIREvaluator takes its collections from"
            draft.put("data.evaluation.location", "sentence-transformers/NanoBEIR-en", "inferred", line, note=note)
    put_truncation(draft, card, chosen)


def put_truncation(draft: Draft, card: Card, chosen: Evaluation | None) -> None:
    asked = chosen.parameters.get("truncate_dim") if chosen else None
    output, width = card.output_dimension, infer(card).width
    if chosen and isinstance(asked, int):
        draft.put("evaluation.truncate_dim", asked, "card", first_line(chosen))
    elif output is not None and width is not None and output.value < width[0]:
        note = f"the model gives {width[0]} numbers, the card says {output.value}: truncated after encoding"
        draft.put("evaluation.truncate_dim", output.value, "inferred", output.line, width[1], note=note)
