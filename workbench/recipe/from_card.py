"""Card -> fields of a recipe, each with where it came from: what the card states, what its numbers imply.

A fact that the card states is taken as it is. A few fields are not on any card but can be proved from its numbers
(how the rows were divided, how many processes trained, how often was logged); they are `inferred`, with the
calculation as reason. A card written by the old `model.fit()` prints trainer arguments that never ran: the optimizer
and the schedule were fit's own, and are taken from there. What stays open is left out here and takes the recipe's
stated default.

Left out on purpose: judging. That a value is unwise is for `audit` to say.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from workbench.cards.card import Card, Dataset, Evaluation, Loss, Stated
from workbench.cards.inference import Fit, infer
from workbench.cards.lookup import (
    class_name,
    finite_losses,
    label_statistics,
    label_values,
    last_run,
    same_loss,
    static_table,
)
from workbench.recipe.draft import Derived, Draft, content
from workbench.recipe.sources import put_data, put_prompts, put_repeated_queries

POOLING = {
    "cls_token": "cls",
    "mean_tokens": "mean",
    "max_tokens": "max",
    "lasttoken": "lasttoken",
    "weightedmean_tokens": "weightedmean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}
SIMILARITY = {
    "cosine similarity": "cosine",
    "dot product": "dot",
    "euclidean distance": "euclidean",
    "manhattan distance": "manhattan",
    "energy distance": "energy",
    "maxsim": "maxsim",
}
RANKED_BY = ("cosine", "dot", "euclidean", "manhattan", "energy")
"""Similarities that an evaluation here can rank by; a metric's name begins with one."""
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
"""Arguments of older transformers -> what they are called now."""
OF_FIT = {"batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs"}
"""Parameters of `fit()`, as cards from before sentence-transformers 3.0 print them -> trainer arguments."""
SCHEDULERS = {
    "warmuplinear": "linear",
    "warmupcosine": "cosine",
    "warmupcosinewithhardrestarts": "cosine_with_restarts",
    "constantlr": "constant",
    "warmupconstant": "constant_with_warmup",
}
"""Schedulers of `fit()` -> those of the trainer."""
MAY_BE_NONE = {"data_seed", "eval_steps", "metric_for_best_model"}
"""Arguments that a card prints as None and that mean something so."""
DROPPED = {
    "ddp_find_unused_parameters": "it concerns only how processes exchange gradients",
    "no_cuda": "the device is chosen where the recipe runs",
    "use_cpu": "the device is chosen where the recipe runs",
    "use_mps_device": "the device is chosen where the recipe runs",
    "push_to_hub": "nothing is sent anywhere",
    "hub_model_id": "nothing is sent anywhere",
    "report_to": "no tracker follows a run unless training.report_to is set",
    "output_dir": "a run has its own folder",
    "overwrite_output_dir": "a run has its own folder",
    "save_total_limit": "a run keeps its best and its last checkpoint",
    "save_only_model": "a run must be able to go on after a kill",
    "dataloader_num_workers": "it changes speed, not results",
    "dataloader_pin_memory": "it changes speed, not results",
    "auto_find_batch_size": "the batch size of the card is what ran",
}
"""Arguments that a recipe does not hold, and why not."""
CONSEQUENTIAL = {
    "label_smoothing_factor", "optim_args", "optim_target_modules", "neftune_noise_alpha", "group_by_length",
    "learning_rate_mapping", "router_mapping", "torch_compile", "tf32", "deepspeed", "fsdp",
}  # fmt: skip
"""Arguments that change what is trained and that a recipe does not hold yet: said wherever they are set."""

FIT = {
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "warmup_steps": 10_000,
    "optim": "adamw_torch",
    "lr_scheduler_kwargs": {},
}
"""Defaults of `SentenceTransformer.fit()`, which hands the trainer an optimizer and a schedule of its own.

See sentence_transformers/sentence_transformer/fit_mixin.py: scheduler WarmupLinear, 10,000 warmup steps, AdamW.
"""
SCORED = {"CosineSimilarityLoss", "CoSENTLoss", "AnglELoss"}
"""Losses over pairs with a score: measured by rank correlation, not by retrieval."""


def derive(card: Card, arguments: Collection[str]) -> Draft:
    """What `card` says and implies about the fields of a recipe. `arguments` are the names of a recipe's `training`.

    The loss is left out where the card names none; the caller says so.
    """
    draft = Draft()
    put_base(draft, card)
    put_training(draft, card, arguments)
    put_data(draft, card)
    put_loss(draft, card)
    put_prompts(draft, card)
    put_evaluation(draft, card)
    put_repeated_queries(draft, card)
    return draft


def file_name(text: str, otherwise: str) -> str:
    """`text` as a name that can be a folder's: letters, digits and `._@+-`, and no dot in front.

    >>> file_name("../eval set", "evaluation")
    'eval-set'
    """
    return re.sub(r"[^\w.@+-]+", "-", text).strip(".-")[:120] or otherwise


def put_base(draft: Draft, card: Card) -> None:
    adapter = content(card, "adapter_config.json")
    if card.base_model is not None:
        draft.put_stated("base.model", card.base_model)
    elif isinstance(adapter.get("base_model_name_or_path"), str):
        draft.put("base.model", adapter["base_model_name_or_path"], "file", note="adapter_config.json")
    else:
        draft.put("base.model", "unknown", "default", note="the card names no base; name one with --base")
    if card.base_revision is not None:
        draft.put_stated("base.revision", card.base_revision)
    for module in card.modules:
        if module.type == "Pooling":
            modes = pooling_modes(module.parameters)
            if modes:
                also = f"the card joins {', '.join(modes)}; only the first is kept" if len(modes) > 1 else ""
                draft.put("base.pooling", modes[0], "card", module.line, note=also)
    if card.max_seq_length is not None and isinstance(card.max_seq_length.value, int):
        draft.put_stated("base.max_seq_length", card.max_seq_length)
    table = static_table(card)
    if table is not None:
        draft.put("base.static_dimensions", table[0], "card", table[1])
    put_similarity(draft, card)
    put_lora(draft, card, adapter)
    prompts = content(card, "config_sentence_transformers.json").get("prompts")
    if isinstance(prompts, Mapping):
        for name, text in prompts.items():
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
    flags = [short for flag, short in POOLING.items() if parameters.get(f"pooling_mode_{flag}") is True]
    return [name for name in named if name in POOLING.values()] or flags


def put_similarity(draft: Draft, card: Card) -> None:
    if card.similarity is not None:
        word = str(card.similarity.value).strip().lower()
        draft.put_stated("base.similarity", card.similarity, SIMILARITY.get(word, word))
        return
    name = content(card, "config_sentence_transformers.json").get("similarity_fn_name")
    if isinstance(name, str):
        draft.put("base.similarity", name, "file", note="config_sentence_transformers.json")


HIDDEN_ADAPTER = "adapter_config.json, of which the card shows nothing"
"""Origin of an adapter that only a file beside the card knows of."""


def put_lora(draft: Draft, card: Card, adapter: Mapping[str, Any]) -> None:
    shown = [module for module in card.modules if "peft" in (module.architecture or "").lower()]
    if not adapter:
        if shown:
            reason = "the card shows a PEFT model but not its shape, and no adapter_config.json lies beside it"
            draft.put("base.lora", {}, "default", shown[0].line, note=reason)
        return
    if str(adapter.get("peft_type", "LORA")).upper() != "LORA":
        draft.notes.append(f"adapter_config.json describes {adapter.get('peft_type')!r}, not LORA: it is not used.")
        return
    note = "adapter_config.json" if shown else HIDDEN_ADAPTER
    names = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_dora": "use_dora"}
    for theirs, ours in names.items():
        if isinstance(adapter.get(theirs), int | float):
            draft.put(f"base.lora.{ours}", adapter[theirs], "file", note=note)
    modules = adapter.get("target_modules")
    targets = [modules] if isinstance(modules, str) else modules
    if isinstance(targets, list | tuple) and targets:
        draft.put("base.lora.target_modules", sorted(map(str, targets)), "file", note=note)
    draft.notes += [f"`{name}` of adapter_config.json is not used." for name in ("use_rslora",) if adapter.get(name)]


def put_loss(draft: Draft, card: Card) -> None:
    datasets = card.training_datasets() or card.evaluation_datasets()
    stated = next((dataset.loss for dataset in datasets if dataset.loss), None)
    if stated is None:
        tags = [tag.removeprefix("loss:") for tag in card.tags if tag.startswith("loss:")]
        nodes = tags or [name for name in card.citations if name.endswith("Loss")]
        note = "from the card's tags" if tags else "from the card's citations"
        for depth, name in enumerate(nodes[:2] if nodes and nodes[0] in ("MatryoshkaLoss",) else nodes[:1]):
            draft.put(f"loss{'.inner' * depth}.name", name, "card", note=f"{note}; its parameters are not stated")
        return
    put_loss_tree(draft, card, "loss", next(one for one in datasets if one.loss), stated)
    for number, dataset in enumerate(card.training_datasets()[1:]):
        if dataset.loss is not None and same_loss(dataset.loss) != same_loss(stated):
            put_loss_tree(draft, card, f"data.more.{number}.loss", dataset, dataset.loss)


def put_loss_tree(draft: Draft, card: Card, path: str, dataset: Dataset, root: Loss) -> None:
    for depth, node in enumerate(root.chain()):
        place = path + ".inner" * depth
        draft.put(f"{place}.name", node.name, "card", node.line)
        for name, value in node.parameters.items():
            put_loss_parameter(draft, card, f"{place}.parameters.{name}", node, value)
        if class_name(node.name) == "SoftmaxLoss" and "num_labels" not in node.parameters:
            put_label_count(draft, f"{place}.parameters.num_labels", dataset)


def put_label_count(draft: Draft, path: str, dataset: Dataset) -> None:
    """How many classes the labels have, where the card lists them; a SoftmaxLoss of older cards does not print it."""
    statistics = label_statistics(dataset)
    labels = sorted(label_values(statistics) or ()) if statistics else []
    if labels and labels == [float(number) for number in range(len(labels))]:
        line = dataset.facts.get("statistics")
        draft.put(path, len(labels), "inferred", line, note=f"the card lists the labels 0 to {len(labels) - 1}")


def put_loss_parameter(draft: Draft, card: Card, path: str, node: Loss, value: Any) -> None:
    similarity = draft.fields.get("base.similarity")
    if path.endswith(".similarity_fct") and value == "<lambda>" and similarity is not None:
        line = card.similarity.line if card.similarity else None
        reason = f"the card prints <lambda>; the similarity of its model is {similarity.value!r}"
        draft.put(path, similarity.value, "inferred", node.line, line, note=reason)
        if similarity.value == "energy":
            put_energy_distance(draft, card, path.removesuffix("similarity_fct") + "distance", node)
    else:
        draft.put(path, value, "card", node.line)


def put_energy_distance(draft: Draft, card: Card, path: str, node: Loss) -> None:
    """Which distance the energy distance was made of: the size of the first logged loss tells L1 from L2.

    A softmax loss cannot exceed its scale times the widest gap between two scores. A score is twice a mean distance, so
    gaps of L2 scores end at twice the longest distance: about the root of 2 x dimensions, where layer normalisation
    leaves values near 1. A loss above that was made of L1 distances, which are sums over the dimensions.
    """
    logged, scale, (width, _) = (
        finite_losses(last_run(card)),
        node.parameters.get("scale", 20.0),
        (infer(card).width or (None, None)),
    )
    note = "neither the card nor its losses tell L1 from L2"
    if not logged or not width or not isinstance(scale, int | float) or scale <= 0:
        draft.put(path, "manhattan", "default", note=note)
        return
    row, first = logged[0]
    parts = infer(card).summed
    gap, longest = first / parts / scale, math.sqrt(2 * width)
    if gap <= 2 * longest:
        draft.put(path, "manhattan", "default", row.line, note=note)
        return
    summed = f" summed over {parts} micro-batches" if parts > 1 else ""
    note = (
        f"the first logged loss, {first:,.0f}{summed}, is a gap of {gap:,.0f} between scores at scale {scale:g}: too "
        f"wide for L2 distances of {width} dimensions (about {longest:,.0f} at most, counted twice), usual for "
        "un-normalised L1"
    )
    draft.put(path, "manhattan", "inferred", node.line, row.line, note=note)


def put_training(draft: Draft, card: Card, arguments: Collection[str]) -> None:
    if "epochs" in card.hyperparameters:
        put_legacy(draft, card)
    for name in {**card.hyperparameters, **card.non_default}:
        stated = card.argument(name)
        if stated is None:
            continue
        now = RENAMED.get(name, name)
        value = plain_word(stated.value)
        if now == "adafactor":
            if value is True:
                draft.put_stated("training.optim", stated, "adafactor", note="adafactor: True is optim: adafactor now")
        elif now == "prompts":
            continue  # see put_prompts
        elif now not in arguments or now == "report_to":
            note_unused(draft, card, name, stated)
        elif (value is not None or now in MAY_BE_NONE) and (now == name or card.argument(now) is None):
            note = "" if now == name else f"called {name} on the card"
            draft.put_stated(f"training.{now}", stated, value, note)
    share = draft.fields.get("training.warmup_steps")
    if share is not None and isinstance(share.value, float) and 0 < share.value < 1:
        reason = "warmup_steps below 1 is a share of all steps"
        draft.fields["training.warmup_ratio"] = Derived(share.value, share.source, share.lines, reason)
        del draft.fields["training.warmup_steps"]
    fit = infer(card).fit
    if fit is not None and fit.sure:
        put_fit_defaults(draft, card, fit)
    put_intervals(draft, card)


def put_legacy(draft: Draft, card: Card) -> None:
    """The parameters of `fit()` that a card from before sentence-transformers 3.0 prints: these did run."""
    for name, now in OF_FIT.items():
        stated = card.hyperparameters.get(name)
        if stated is not None and stated.value is not None:
            draft.put_stated(f"training.{now}", stated, note=f"called {name} on the card")
    scheduler = card.hyperparameters.get("scheduler")
    if scheduler is not None and str(scheduler.value).lower() in SCHEDULERS:
        word = SCHEDULERS[str(scheduler.value).lower()]
        draft.put_stated("training.lr_scheduler_type", scheduler, word, f"called {scheduler.value} on the card")
    parameters = card.hyperparameters.get("optimizer_params")
    if parameters is not None and isinstance(parameters.value, Mapping) and "lr" in parameters.value:
        draft.put_stated("training.learning_rate", parameters, parameters.value["lr"], "lr of optimizer_params")
    optimizer = card.hyperparameters.get("optimizer_class")
    if optimizer is not None:
        word = "adamw_bnb_8bit" if "AdamW8bit" in str(optimizer.value) else "adamw_torch"
        draft.put_stated("training.optim", optimizer, word, f"{optimizer.value} on the card")
    every = card.hyperparameters.get("evaluation_steps")
    if every is not None and isinstance(every.value, int) and every.value > 0:
        draft.put_stated("training.eval_strategy", every, "steps", "evaluation_steps above 0")
        draft.put_stated("training.eval_steps", every, note="called evaluation_steps on the card")


def plain_word(value: Any) -> Any:
    """An enumeration's member as its value; everything else as it is.

    >>> plain_word("BatchSamplers.NO_DUPLICATES"), plain_word("epoch"), plain_word(3)
    ('no_duplicates', 'epoch', 3)
    """
    if isinstance(value, str) and re.fullmatch(r"[A-Z]\w+\.[A-Z_]+", value):
        return value.split(".")[1].lower()
    return value


def note_unused(draft: Draft, card: Card, name: str, stated: Stated[Any]) -> None:
    matters = name in card.non_default or (name in CONSEQUENTIAL and bool(stated.value))
    if matters and name not in RENAMED:
        where = f" (line {stated.line})" if stated.line else ""
        reason = DROPPED.get(name, "a recipe does not hold it")
        draft.notes.append(f"`{name}` = {stated.value!r}{where} is not used: {reason}.")


def put_fit_defaults(draft: Draft, card: Card, fit: Fit) -> None:
    version = f" (sentence-transformers {card.library_version})" if card.library_version else ""
    for name, value in FIT.items():
        stated = card.argument(name)
        same = stated is not None and stated.value == value
        printed = f"; the card's {stated.value!r} is an argument that did not run" if stated and not same else ""
        note = f"default of SentenceTransformer.fit(){version}{printed}"
        draft.put(f"training.{name}", value, "library", stated.line if stated else fit.lines[0], note=note)


def put_intervals(draft: Draft, card: Card) -> None:
    """How often was logged and evaluated: not on the card as arguments, but to be read off the log."""
    logged = [(row.step, row.line) for row in card.training_log if row.training_loss is not None and row.step]
    gap = usual_gap([step for step, _ in logged if step is not None])
    if gap:
        reason = f"the log has a training loss every {gap} steps"
        draft.put("training.logging_steps", gap, "inferred", logged[0][1], logged[-1][1], note=reason)
    measured = [
        row
        for row in card.training_log
        if row.step and row.step > 0 and any(value is not None for value in row.metrics.values())
    ]
    if not measured:
        return
    lines = (measured[0].line, measured[-1].line)
    every_epoch = all(row.epoch is not None and abs(row.epoch - round(row.epoch)) < 5e-4 for row in measured)
    strategy = draft.fields.get("training.eval_strategy")
    if every_epoch and infer(card).fit and (strategy is None or strategy.value == "no"):
        reason = "fit() evaluates after every epoch, and so does the log"
        draft.put("training.eval_strategy", "epoch", "inferred", *lines, note=reason)
    elif strategy is not None and strategy.value == "steps":
        gap = usual_gap([row.step for row in measured if row.step is not None])
        if gap:
            draft.put("training.eval_steps", gap, "inferred", *lines, note=f"the log has metrics every {gap} steps")


def usual_gap(steps: list[int]) -> int | None:
    """The most frequent distance between neighbours, counted from 0; None for no steps.

    >>> usual_gap([25, 50, 75, 90]), usual_gap([])
    (25, None)
    """
    gaps = [after - before for before, after in zip([0, *steps], steps, strict=False) if after > before]
    return Counter(gaps).most_common(1)[0][0] if gaps else None


def put_evaluation(draft: Draft, card: Card) -> None:
    chosen = main_evaluation(card)
    if chosen is None:
        loss = draft.fields.get("loss.name")
        scored = loss is not None and loss.value in SCORED
        rows = "rows with a score are measured by rank correlation" if scored else "pairs are measured as a search"
        evaluator = "EmbeddingSimilarityEvaluator" if scored else "InformationRetrievalEvaluator"
        draft.put("evaluation.evaluator", evaluator, "default", note=f"the card evaluates nothing; {rows}")
        similarity = draft.fields.get("base.similarity")
        word = similarity.value if similarity and similarity.value in RANKED_BY else "cosine"
        metric = f"spearman_{word}" if scored else f"{word}_ndcg@10"
        draft.put("evaluation.main_metric", metric, "default", note="the card evaluates nothing")
    else:
        line = chosen.lines[0] if chosen.lines else None
        if chosen.evaluator:
            draft.put("evaluation.evaluator", chosen.evaluator, "card", line)
        name = file_name(chosen.datasets[0] if chosen.datasets else chosen.name, "evaluation")
        draft.put("evaluation.name", name, "card", line)
        if chosen.main_metric:
            metric = chosen.main_metric
            draft.put("evaluation.main_metric", metric, "card", chosen.metric_lines.get(metric, line))
            if metric.endswith("mse") and "negative" not in metric:
                draft.put("evaluation.higher_is_better", False, "inferred", note="an error is better when smaller")
        if chosen.evaluator == "NanoBEIREvaluator" and "data.evaluation.location" not in draft.fields:
            note = "where NanoBEIREvaluator takes its collections from"
            draft.put("data.evaluation.location", "sentence-transformers/NanoBEIR-en", "inferred", line, note=note)
    put_truncation(draft, card, chosen)


def main_evaluation(card: Card) -> Evaluation | None:
    """The evaluation that sums up the card: NanoBEIR's mean where it is there, else the first."""
    return next(
        (found for found in card.evaluations if found.evaluator == "NanoBEIREvaluator"),
        card.evaluations[0] if card.evaluations else None,
    )


def put_truncation(draft: Draft, card: Card, chosen: Evaluation | None) -> None:
    asked = chosen.parameters.get("truncate_dim") if chosen else None
    if chosen and isinstance(asked, int):
        draft.put("evaluation.truncate_dim", asked, "card", chosen.lines[0] if chosen.lines else None)
        return
    output, (width, line) = card.output_dimension, (infer(card).width or (None, None))
    if output is not None and width is not None and output.value < width:
        note = f"the model gives {width} numbers, the card says {output.value}: cut off after encoding"
        draft.put("evaluation.truncate_dim", output.value, "inferred", output.line, line, note=note)
