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
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from workbench.audit.clues import Fit, beside, epoch, fit_marks
from workbench.audit.epochs import readings
from workbench.card import Card, Dataset, Evaluation, Loss, Stated
from workbench.recipe.plain_yaml import read_yaml
from workbench.shipped import shipped

Source = Literal["card", "file", "library", "inferred", "default"]

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
    "report_to": "nothing is sent anywhere",
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
    "label_smoothing_factor", "lr_scheduler_kwargs", "optim_args", "optim_target_modules", "neftune_noise_alpha",
    "group_by_length", "prompts", "learning_rate_mapping", "router_mapping", "torch_compile", "tf32", "deepspeed",
    "fsdp",
}  # fmt: skip
"""Arguments that change what is trained and that a recipe does not hold yet: said wherever they are set."""

FIT = {
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "warmup_steps": 10_000,
    "optim": "adamw_torch",
}
"""Defaults of `SentenceTransformer.fit()`, which hands the trainer an optimizer and a schedule of its own.

See sentence_transformers/sentence_transformer/fit_mixin.py: scheduler WarmupLinear, 10,000 warmup steps, AdamW.
"""
SCORED = {"CosineSimilarityLoss", "CoSENTLoss", "AnglELoss"}
"""Losses over pairs with a score: measured by rank correlation, not by retrieval."""
MOST_QUERIES = 20_000


@dataclass(frozen=True)
class Derived:
    """The value of one recipe field, and where it came from."""

    value: Any
    source: Source
    lines: tuple[int, ...] = ()
    note: str = ""


@dataclass
class Draft:
    """Fields by dotted path, and sentences about what was translated or dropped."""

    fields: dict[str, Derived] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any, source: Source, *lines: int | None, note: str = "") -> None:
        known = tuple(line for line in lines if line is not None)
        self.fields[path] = Derived(value, source, known, note)

    def put_stated(self, path: str, stated: Stated[Any], value: Any = None, note: str = "") -> None:
        """A fact of the card, or of a file beside it; `value` where the recipe says it in other words."""
        source: Source = "card" if stated.source == "README.md" else "file"
        words = "; ".join(part for part in ("" if source == "card" else stated.source, note) if part)
        self.put(path, stated.value if value is None else value, source, stated.line, note=words)


def derive(card: Card, arguments: Collection[str]) -> Draft:
    """What `card` says and implies about the fields of a recipe. `arguments` are the names of a recipe's `training`.

    The loss is left out where the card names none; the caller says so.
    """
    draft = Draft()
    put_base(draft, card)
    put_loss(draft, card)
    put_training(draft, card, arguments)
    put_data(draft, card)
    put_evaluation(draft, card)
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
    names = {"r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_dora": "use_dora"}
    for theirs, ours in names.items():
        if isinstance(adapter.get(theirs), int | float):
            draft.put(f"base.lora.{ours}", adapter[theirs], "file", note="adapter_config.json")
    modules = adapter.get("target_modules")
    targets = [modules] if isinstance(modules, str) else modules
    if isinstance(targets, list | tuple) and targets:
        draft.put("base.lora.target_modules", sorted(map(str, targets)), "file", note="adapter_config.json")
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
    for depth, node in enumerate(stated.chain()):
        path = "loss" + ".inner" * depth
        draft.put(f"{path}.name", node.name, "card", node.line)
        for name, value in node.parameters.items():
            put_loss_parameter(draft, card, f"{path}.parameters.{name}", node, value)


def put_loss_parameter(draft: Draft, card: Card, path: str, node: Loss, value: Any) -> None:
    similarity = draft.fields.get("base.similarity")
    if path.endswith(".similarity_fct") and value == "<lambda>" and similarity is not None:
        line = card.similarity.line if card.similarity else None
        reason = f"the card prints <lambda>; the similarity of its model is {similarity.value!r}"
        draft.put(path, similarity.value, "inferred", node.line, line, note=reason)
    else:
        draft.put(path, value, "card", node.line)


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
        elif now not in arguments or now in ("report_to", "prompts"):
            note_unused(draft, card, name, stated)
        elif (value is not None or now in MAY_BE_NONE) and (now == name or card.argument(now) is None):
            note = "" if now == name else f"called {name} on the card"
            draft.put_stated(f"training.{now}", stated, value, note)
    share = draft.fields.get("training.warmup_steps")
    if share is not None and isinstance(share.value, float) and 0 < share.value < 1:
        reason = "warmup_steps below 1 is a share of all steps"
        draft.fields["training.warmup_ratio"] = Derived(share.value, share.source, share.lines, reason)
        del draft.fields["training.warmup_steps"]
    fit = fit_marks(card)
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
    if every_epoch and fit_marks(card) and (strategy is None or strategy.value == "no"):
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


def put_data(draft: Draft, card: Card) -> None:
    train = next(iter(card.training_datasets()), None)
    if len(card.training_datasets()) > 1:
        names = ", ".join(repr(dataset.name or "unnamed") for dataset in card.training_datasets())
        draft.notes.append(f"The card trains on several datasets ({names}); this recipe holds the first.")
    if train is None:
        tagged = next((tag for tag in card.tags if re.fullmatch(r"dataset_size:\d+", tag)), None)
        if tagged:
            draft.put("data.train.rows", int(tagged.split(":")[1]), "card", note="from the card's tags")
        return
    line = train.lines[0] if train.lines else None
    if train.id:
        draft.put("data.train.location", train.id, "card", train.facts.get("id", line))
    else:
        named = f"says only {train.name!r}" if train.name else "does not name its dataset"
        draft.put(
            "data.train.location", "unknown", "default", line, note=f"the card {named}; {where_to_get(card, train)}"
        )
    if train.revision:
        draft.put("data.train.revision", train.revision, "card", train.facts.get("id", line))
    if train.columns:
        draft.put("data.columns", list(train.columns), "card", train.facts.get("columns"))
    if train.size is not None:
        draft.put("data.train.rows", train.size, "card", train.facts.get("size"))
        put_split(draft, card, train)


def where_to_get(card: Card, train: Dataset) -> str:
    """What a person can do about rows that the card does not name: a public source known to match, or their own."""
    sources = read_yaml(shipped("data/cards/sources.yaml").read_text(encoding="utf-8"))
    known = (sources.get(card.name) or {}).get("train")
    if known and train.size and known["rows"] >= train.size:
        return f"{known['location']} is a public source that matches; name it, or yours, with --data"
    return "name yours with --data"


def put_split(draft: Draft, card: Card, train: Dataset) -> None:
    """Which part of the rows trained, and in how many processes: from the sizes, or from the steps of an epoch."""
    held_out = next(iter(card.evaluation_datasets()), None)
    lines = (train.facts.get("size"), held_out.facts.get("size") if held_out else None)
    rows = train.size or 0
    if held_out and held_out.id and held_out.id != train.id:
        line = held_out.facts.get("id", held_out.lines[0] if held_out.lines else None)
        draft.put("data.evaluation.location", held_out.id, "card", line)
        draft.put("data.evaluation.rows", held_out.size, "card", lines[1])
    whole = held_out is None or held_out.size in (None, rows)
    if not whole and held_out and held_out.size and not held_out.id:
        every = rows + held_out.size
        share = round(rows / every, 4)
        note = f"{rows:,} rows train and {held_out.size:,} are held out: one set of {every:,}, divided"
        draft.put("data.train.rows", every, "inferred", *lines, note=note)
        put_shares(draft, (share, round(1 - share, 4), 0.0), lines, note)
    found, batch = epoch(card), rows_per_batch(draft)
    if found is None or not rows:
        return
    explained = readings(found, [rows], batch, drop_last=stated(draft, "dataloader_drop_last"), round_robin=False)
    shares = [reading for reading in explained if reading.processes == 1 and whole]
    processes = [reading for reading in explained if reading.processes > 1]
    if not explained or explained[0].share == explained[0].processes == 1:
        return
    batches = explained[0].batches
    seen = f"the log's {batches:,} batches an epoch × {batch} rows = {batches * batch:,} of {rows:,} rows"
    if shares:
        put_share_seen(draft, card, max(reading.share for reading in shares), rows, seen, lines)
    elif processes:
        count = processes[0].processes
        draft.put(
            "training.processes", count, "inferred", lines[0], note=f"{seen}: the part of one of {count} processes"
        )


def put_share_seen(
    draft: Draft, card: Card, share: float, rows: int, seen: str, lines: tuple[int | None, int | None]
) -> None:
    note, rest = f"{seen}, which is {share:.0%}", round(1 - share, 4)
    queries = evaluation_queries(card)
    held_out = round(queries / rows, 2) if queries else rest
    if queries and held_out < rest:
        note += f"; accuracies are multiples of 1/{queries}, {held_out:.0%} of the rows"
        put_shares(draft, (share, held_out, round(rest - held_out, 4)), lines, note)
    else:
        put_shares(draft, (share, rest, 0.0), lines, note)


def put_shares(draft: Draft, shares: tuple[float, float, float], lines: tuple[int | None, ...], note: str) -> None:
    for name, share in zip(("train", "validation", "test"), shares, strict=True):
        draft.put(f"data.split.{name}", share, "inferred", *lines, note=note)
    draft.put("data.split.seed", 42, "default", note="the card does not say how the rows were drawn")


def rows_per_batch(draft: Draft) -> int:
    """Rows of one forward pass in one process."""
    batch = draft.fields.get("training.per_device_train_batch_size")
    return max(1, int(batch.value)) if batch else 8


def stated(draft: Draft, name: str) -> bool:
    """Whether a training argument is known to be true."""
    found = draft.fields.get(f"training.{name}")
    return found is not None and found.value is True


def evaluation_queries(card: Card) -> int | None:
    """How many queries the accuracies were measured on, or a divisor of it: the least common denominator.

    Only `model-index` prints them unrounded. None where there are none, or where they fit no common denominator.
    """
    fractions = [
        Fraction(result.value).limit_denominator(MOST_QUERIES)
        for result in card.model_index
        if "accuracy@" in result.metric and 0 < result.value < 1
    ]
    queries = math.lcm(*(fraction.denominator for fraction in fractions)) if fractions else None
    return queries if queries and queries <= MOST_QUERIES else None


def put_evaluation(draft: Draft, card: Card) -> None:
    chosen = main_evaluation(card)
    if chosen is None:
        loss = draft.fields.get("loss.name")
        scored = loss is not None and loss.value in SCORED
        rows = "rows with a score are measured by rank correlation" if scored else "pairs are measured as a search"
        evaluator = "EmbeddingSimilarityEvaluator" if scored else "InformationRetrievalEvaluator"
        draft.put("evaluation.evaluator", evaluator, "default", note=f"the card evaluates nothing; {rows}")
        metric = "spearman_cosine" if scored else "cosine_ndcg@10"
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
    output, (width, line) = card.output_dimension, module_width(card)
    if output is not None and width is not None and output.value < width:
        note = f"the model gives {width} numbers, the card says {output.value}: cut off after encoding"
        draft.put("evaluation.truncate_dim", output.value, "inferred", output.line, line, note=note)


def module_width(card: Card) -> tuple[int | None, int | None]:
    """Dimensions that the last module which has any gives, and its line."""
    for module in reversed(card.modules):
        for name in ("out_features", "word_embedding_dimension", "embedding_dimension", "embedding_dim"):
            if isinstance(module.parameters.get(name), int):
                return module.parameters[name], module.line
    return None, None


def content(card: Card, name: str) -> Mapping[str, Any]:
    """The parsed content of a file beside the card; empty where there is none or it is no mapping."""
    found = beside(card, name)
    return found[1] if found and isinstance(found[1], Mapping) else {}
