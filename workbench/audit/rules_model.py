"""Rules on the model and what it ran with: dimensions, similarity, adapters, files beside the card, versions.

Each rule is a pure function Card -> findings; its docstring is its page in `findings.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, finding, short, some
from workbench.cards import lookup
from workbench.cards.card import Card, Dataset, Loss
from workbench.cards.inference import infer

KNOWN_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan", "maxsim", "none", "unknown")
WRAPPERS = ("MatryoshkaLoss", "Matryoshka2dLoss", "AdaptiveLayerLoss")
HUB = "https://github.com/huggingface/sentence-transformers"


def _matryoshka(card: Card) -> list[tuple[Dataset, Loss, list[int]]]:
    """(dataset, the wrapping loss, its dimensions)."""
    found = []
    for dataset, root in lookup.loss_trees(card):
        for node in root.chain():
            dims = node.parameters.get("matryoshka_dims")
            if lookup.class_name(node.name) in WRAPPERS and isinstance(dims, list) and dims:
                found.append((dataset, node, [int(size) for size in dims if isinstance(size, int)]))
    return found


def untrained_dimension(card: Card) -> Iterator[Finding]:
    """The model is used at a dimension that its Matryoshka loss never trained.

    MatryoshkaLoss trains the listed prefixes of the embedding. When the full output is not among them, its last
    dimensions get no gradient, or only by way of shared weights, and whoever evaluates the full vector evaluates
    something that was not trained.

    Silent when: the output dimension is among the listed ones; no Matryoshka loss; the dimension is unknown.

    Example: matryoshka_dims 512 and 256, output (and evaluation) 1,024.
    """
    output = card.output_dimension
    if output is None or not isinstance(output.value, int):
        return
    for dataset, node, dims in _matryoshka(card):
        if output.value in dims or output.value < max(dims, default=0):
            continue
        path = lookup.loss_path(card, dataset, node)
        changes: dict[str, Any] = {f"{path}.parameters.matryoshka_dims": [output.value, *dims]}
        weights = node.parameters.get("matryoshka_weights")
        if isinstance(weights, list):
            changes[f"{path}.parameters.matryoshka_weights"] = [1, *weights]
        yield finding(
            "untrained-dimension",
            "warning",
            f"Trained at {some(dims)} dimensions, but the model gives {output.value:,}: the full vector, which is what "
            "is evaluated unless truncated, was never in the loss.",
            lines=[node.line, output.line],
            fix=Fix(changes, f"Train the full {output.value:,} dimensions too."),
            trained=dims,
            output=output.value,
        )
        return


def truncated_dimension(card: Card) -> Iterator[Finding]:
    """The model gives fewer dimensions than its last module makes: `truncate_dim` cuts them.

    `truncate_dim` is a setting of loading, not a module, so it is not in the architecture. Cutting works well only
    for models trained for it (Matryoshka); the card does not say whether the loss saw cut or whole vectors.

    Silent when: the dimensions agree; a Dense module sets them; the last dimension is unknown.

    Example: pooling of 1,024 dimensions, output 512.
    """
    output, width = card.output_dimension, infer(card).width
    if output is None or width is None or not isinstance(output.value, int) or output.value >= width[0]:
        return
    trained = any(output.value in dims for _, _, dims in _matryoshka(card))
    if trained:
        return
    yield finding(
        "truncated-dimension",
        "warning",
        f"The output has {output.value:,} of the {width[0]:,} dimensions that the model makes: truncate_dim cut them, "
        "and no Matryoshka loss on the card trained for that.",
        lines=[output.line, width[1]],
        output=output.value,
        made=width[0],
    )


def hidden_inner_loss(card: Card) -> Iterator[Finding]:
    """A wrapping loss hides the parameters of the loss inside.

    The card prints MatryoshkaLoss (and its kin) with the inner loss as a name only: scale and similarity of the loss
    that does the work are unknown, and a recipe takes the library's defaults.

    Silent when: the inner loss's parameters are printed; the loss wraps nothing; the inner loss has no parameters that
    matter (SoftmaxLoss and other plain ones).

    Example: MatryoshkaLoss over "MultipleNegativesRankingLoss", no scale.
    """
    for dataset, root in lookup.loss_trees(card):
        for node in root.chain():
            inner = node.inner
            if lookup.class_name(node.name) in WRAPPERS and inner is not None and not inner.parameters:
                if lookup.class_name(inner.name) not in lookup.IN_BATCH | {"CoSENTLoss", "AnglELoss", "TripletLoss"}:
                    continue
                yield finding(
                    "hidden-inner-loss",
                    "note",
                    f"{lookup.class_name(node.name)} prints its inner {lookup.class_name(inner.name)} by name only: "
                    "its scale and similarity are not on the card.",
                    lines=[node.line or lookup.fact_line(dataset, "loss"), inner.line],
                    inner=inner.name,
                )
                return


def similarity_not_portable(card: Card) -> Iterator[Finding]:
    """The similarity, a loss or an evaluator is code that the card does not hold.

    A lambda, a function of the training script or a class named `__main__.X` has a name on the card and nothing else.
    The card alone cannot be executed, and whoever loads the model ranks with another similarity.

    Silent when: the similarity is one that the library names (cosine, dot, Euclidean, Manhattan, MaxSim) and losses and
    evaluators come from a library.

    Example: similarity_fct "<lambda>", similarity function Energy Distance.
    """
    foreign: list[str] = []
    lines: list[int | None] = []
    stated = card.similarity
    if stated is not None and not any(known in stated.value.lower() for known in KNOWN_SIMILARITIES):
        foreign.append(f"the model's similarity {stated.value!r}")
        lines.append(stated.line)
    for dataset, root in lookup.loss_trees(card):
        for node in root.chain():
            line = node.line or lookup.fact_line(dataset, "loss")
            if "<" in str(node.parameters.get("similarity_fct", "")):
                foreign.append(f"similarity_fct {node.parameters['similarity_fct']} of {lookup.class_name(node.name)}")
                lines.append(line)
            if node.name.startswith("__main__."):
                foreign.append(f"the loss {node.name}")
                lines.append(line)
    for evaluation in card.evaluations:
        if (evaluation.evaluator or "").startswith("__main__."):
            foreign.append(f"the evaluator {evaluation.evaluator}")
            lines.append((evaluation.lines or (None,))[0])
    if foreign:
        names = list(dict.fromkeys(foreign))
        yield finding(
            "similarity-not-portable",
            "warning",
            f"{some(names)[0].upper() + some(names)[1:]} {'is' if len(names) == 1 else 'are'} code of the training "
            "script: the card alone cannot be executed.",
            lines=lines,
            names=names,
        )


def similarity_mismatch(card: Card) -> Iterator[Finding]:
    """Trained with one similarity, used with another.

    The loss compares by cosine, the model ranks by dot product. Without a Normalize module vectors differ in length,
    the loss never saw that, and the ranking follows it.

    Silent when: a Normalize module makes both the same; the similarities agree; the loss's similarity is unknown.

    Example: similarity_fct cos_sim, similarity function Dot Product, pooling without Normalize.
    """
    spec, stated = infer(card).softmax, card.similarity
    if spec is None or stated is None or lookup.module(card, "Normalize") is not None:
        return
    uses_dot, trained_dot = "dot" in stated.value.lower(), spec.similarity in ("dot_score", "pairwise_dot_score")
    uses_cosine, trained_cosine = "cosine" in stated.value.lower(), spec.similarity in ("cos_sim", "pairwise_cos_sim")
    if (uses_dot and trained_cosine) or (uses_cosine and trained_dot):
        yield finding(
            "similarity-mismatch",
            "warning",
            f"Trained with {spec.similarity} and used with {stated.value}: without a Normalize module they rank "
            "differently.",
            lines=[stated.line, spec.loss.line or lookup.fact_line(spec.dataset, "loss")],
            fix=Fix({"base.similarity": "cosine" if trained_cosine else "dot"}, "Rank as the loss does."),
            trained=spec.similarity,
            used=stated.value,
        )


def adapter_unspecified(card: Card) -> Iterator[Finding]:
    """A LoRA adapter was trained, and its shape is not on the card.

    The architecture shows a PEFT model, so only adapter weights were trained. Rank, alpha, dropout and the layers they
    sit in are in adapter_config.json, not in the README.

    Silent when: the architecture shows no PEFT model; adapter_config.json lies beside the card.

    Example: PeftModelForFeatureExtraction, no rank anywhere.
    """
    module = lookup.adapter(card)
    if module is None or lookup.lora_config(card) is not None:
        return
    yield finding(
        "adapter-unspecified",
        "warning",
        f"{module.architecture} shows an adapter whose rank, alpha, dropout and layers are not on the card: put "
        "adapter_config.json beside it, or give them.",
        lines=[module.line],
        architecture=module.architecture,
    )


def hidden_adapter(card: Card) -> Iterator[Finding]:
    """An adapter lies beside the card, and the card shows a whole model.

    adapter_config.json says that only adapter weights were trained; the architecture block shows the plain model, so a
    reader takes it for full fine-tuning.

    Silent when: there is no adapter_config.json beside the card; the architecture shows the PEFT model.

    Example: adapter_config.json with r 8 and DoRA beside a card whose architecture is a plain BertModel.
    """
    found = lookup.lora_config(card)
    if found is None or lookup.adapter(card) is not None or not card.modules:
        return
    name, config = found
    targets = sorted(map(str, config.get("target_modules") or ()))
    shape = {
        "r": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "dropout": config.get("lora_dropout"),
        "target_modules": targets,
        "use_dora": bool(config.get("use_dora")),
    }
    known = {key: value for key, value in shape.items() if value is not None}
    kind = "DoRA" if shape["use_dora"] else str(config.get("peft_type", "LoRA"))
    yield finding(
        "hidden-adapter",
        "warning",
        f"{name} beside the card shows that only an adapter was trained ({kind}, r {shape['r']}, alpha "
        f"{shape['alpha']}, on {some(targets)}), which the architecture does not show.",
        lines=[card.modules[0].line],
        fix=Fix({"base.lora": known}, "Train an adapter of that shape."),
        file=name,
        **known,
    )


def hidden_prompts(card: Card) -> Iterator[Finding]:
    """Prompts are configured beside the card, and the card does not mention them.

    config_sentence_transformers.json holds prompts by name. Who encodes with prompt_name="query" gets other vectors
    than who does not, and the card's numbers came from one of the two.

    Silent when: no prompts are configured beside the card; all are empty; the card's `prompts` argument shows them.

    Example: a query prompt beside the card, `prompts` None on it.
    """
    found = lookup.file_beside(card, "config_sentence_transformers.json")
    if found is None or not isinstance(found[1], Mapping) or lookup.argument(card, "prompts"):
        return
    prompts = found[1].get("prompts")
    filled = {str(k): str(v) for k, v in prompts.items() if v} if isinstance(prompts, Mapping) else {}
    if filled:
        yield finding(
            "hidden-prompts",
            "note",
            f"{found[0]} beside the card configures a prompt for {some(filled)}, and the card does not mention it.",
            lines=lookup.argument_lines(card, "prompts"),
            file=found[0],
            prompts=filled,
        )


def files_disagree(card: Card) -> Iterator[Finding]:
    """A file beside the card says something else than the card.

    Compared are the logged losses (trainer_state.json), the length limit (sentence_bert_config.json), the similarity
    (config_sentence_transformers.json) and the base model (adapter_config.json).

    Silent when: they agree; the files are not there; a step is in only one of them.

    Example: max_seq_length 128 on the card, 512 beside it.
    """
    differing = [*_state_differs(card), *_config_differs(card)]
    for file, sentence, lines in differing:
        yield finding("files-disagree", "warning", f"{file} beside the card {sentence}.", lines=lines, file=file)


Difference = tuple[str, str, list[int | None]]


def _state_differs(card: Card) -> Iterator[Difference]:
    found = lookup.file_beside(card, "trainer_state.json")
    if found is None or not isinstance(found[1], Mapping) or len(lookup.runs(card)) != 1:
        return
    history = found[1].get("log_history")
    entries = [entry for entry in history if isinstance(entry, Mapping)] if isinstance(history, list) else []
    by_step = {entry.get("step"): entry["loss"] for entry in entries if isinstance(entry.get("loss"), int | float)}
    pairs = [
        (row, value, by_step[row.step]) for row, value in lookup.finite_losses(card.training_log) if row.step in by_step
    ]
    wrong = [(row, here, there) for row, here, there in pairs if abs(here - there) > 1e-4 + 1e-4 * abs(there)]
    if wrong:
        row, here, there = wrong[0]
        yield (
            found[0],
            f"logs other losses at {len(wrong)} of {len(pairs)} steps, first {short(there)} and not {short(here)} at "
            f"step {row.step:,}",
            [row.line for row, _, _ in wrong[:5]],
        )


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _config_differs(card: Card) -> Iterator[Difference]:
    bert = lookup.file_beside(card, "sentence_bert_config.json")
    limit = card.max_seq_length
    tokens = card.kind in ("sentence-transformer", "sparse-encoder")  # others count markers, or queries apart
    if tokens and bert and isinstance(bert[1], Mapping) and limit is not None and limit.source == "README.md":
        there = bert[1].get("max_seq_length")
        if isinstance(there, int) and isinstance(limit.value, int) and there != limit.value:
            yield bert[0], f"limits texts to {there} tokens, the card to {limit.value}", [limit.line]
    config = lookup.file_beside(card, "config_sentence_transformers.json")
    if config and isinstance(config[1], Mapping) and card.similarity and card.similarity.source == "README.md":
        there = config[1].get("similarity_fn_name")
        if isinstance(there, str) and _letters(there) not in _letters(card.similarity.value):
            yield config[0], f"names the similarity {there}, the card {card.similarity.value}", [card.similarity.line]
    lora, base = lookup.lora_config(card), card.base_model
    if lora and base is not None:
        there = lora[1].get("base_model_name_or_path")
        if isinstance(there, str) and there.rsplit("/", 1)[-1].lower() != base.value.rsplit("/", 1)[-1].lower():
            yield lora[0], f"adapts {there}, the card {base.value}", [base.line]


# --------------------------------------------------------------------------------------------------------- versions


def sampler_seed(card: Card) -> Iterator[Finding]:
    """The no_duplicates sampler of this version ignored the seed and never shuffled.

    Up to sentence-transformers 3.3.1 it put the shuffled row numbers into a set, which brings them back into ascending
    order: every epoch had the same batches in the order of the file, whatever the seed.

    Silent when: the version is 3.4.0 or later (or a development version of it); the sampler is another; the version is
    unknown.

    Example: no_duplicates with 3.3.1, three epochs: three times the same batches.
    """
    found = lookup.version(card, "Sentence Transformers")
    sampler = str(lookup.argument(card, "batch_sampler") or "").lower()
    if "no_duplicates" not in sampler or not lookup.in_range(found, (3, 0, 0), (3, 4, 0)):
        return
    fit = infer(card).fit is not None
    order = "in the order in which fit() read the rows" if fit else "in the order of the file"
    yield finding(
        "sampler-seed",
        "warning",
        f"The no_duplicates sampler of sentence-transformers {found} ignored the seed: every epoch had the same "
        f"batches {order}.",
        lines=[
            *lookup.argument_lines(card, "batch_sampler", "seed"),
            *lookup.version_lines(card, "Sentence Transformers"),
        ],
        version=str(found),
        reference=f"{HUB}/pull/3073",
    )


@dataclass(frozen=True)
class VersionBug:
    """A library version with a known wrong result, where it applies, and its public reference."""

    package: str
    first: tuple[int, int, int]
    before: tuple[int, int, int]  # the version that has the fix
    applies: Callable[[Card], bool]
    sentence: str  # what happened
    reference: str
    lines: tuple[str, ...] = ()  # arguments whose lines are shown


def _uses(name: str) -> Callable[[Card], bool]:
    return lambda card: any(
        lookup.class_name(node.name) == name for _, root in lookup.loss_trees(card) for node in root.chain()
    )


def _best_model_partly_loaded(card: Card) -> bool:
    """Whether load_best_model_at_end left modules with weights of their own at their last state."""
    if lookup.argument(card, "load_best_model_at_end") is not True or card.kind == "cross-encoder" or not card.modules:
        return False
    return card.modules[0].type != "Transformer" or lookup.module(card, "Dense", "LSTM", "CNN", "LayerNorm") is not None


VERSION_BUGS = (
    VersionBug(
        package="Sentence Transformers",
        first=(3, 0, 0),
        before=(5, 0, 0),
        applies=_best_model_partly_loaded,
        sentence="load_best_model_at_end restored only the transformer, so every other module with weights (all of a "
        "static model) kept its last state",
        reference=f"{HUB}/pull/3360",
        lines=("load_best_model_at_end",),
    ),
    VersionBug(
        package="Sentence Transformers",
        first=(4, 0, 0),
        before=(5, 7, 0),
        applies=lambda card: (
            card.kind == "cross-encoder" and _uses("CachedMultipleNegativesRankingLoss")(card) and not _on_cpu(card)
        ),
        sentence="the cross-encoder's CachedMultipleNegativesRankingLoss had silently wrong gradients on a GPU",
        reference=f"{HUB}/pull/3862",
    ),
    VersionBug(
        package="Sentence Transformers",
        first=(3, 0, 0),
        before=(5, 7, 0),
        applies=lambda card: _uses("MegaBatchMarginLoss")(card) and (lookup.batch_size(card) or 0) > 50,
        sentence="MegaBatchMarginLoss used the gradient of the last mini-batch (of 50 rows) only",
        reference=f"{HUB}/pull/3862",
        lines=("per_device_train_batch_size",),
    ),
)


def _on_cpu(card: Card) -> bool:
    return lookup.argument(card, "use_cpu") is True or lookup.argument(card, "no_cuda") is True


def version_bug(card: Card) -> Iterator[Finding]:
    """The versions on the card have a bug that gives wrong results for this training.

    A table of known ones, each with its public reference and the condition under which it bites. sampler-seed,
    size-before-split and summed-loss are three more with codes of their own.

    Silent when: the version has the fix (a development version of it may have); the loss or setting is not used; the
    card states no versions.

    Example: load_best_model_at_end with a Dense module under sentence-transformers 4.1.0.
    """
    for bug in VERSION_BUGS:
        found = lookup.version(card, bug.package)
        if lookup.in_range(found, bug.first, bug.before) and lookup.has_training(card) and bug.applies(card):
            yield finding(
                "version-bug",
                "warning",
                f"In {bug.package} {found}, {bug.sentence}.",
                lines=[*lookup.version_lines(card, bug.package), *lookup.argument_lines(card, *bug.lines)],
                package=bug.package,
                version=str(found),
                fixed=".".join(map(str, bug.before)),
                reference=bug.reference,
            )


REMOVED: Mapping[str, Any] = {
    "adafactor": False,
    "dispatch_batches": None,
    "evaluation_strategy": "no",
    "fp16_backend": "auto",
    "fp16_opt_level": "O1",
    "fsdp_min_num_params": 0,
    "fsdp_transformer_layer_cls_to_wrap": None,
    "group_by_length": False,
    "half_precision_backend": "auto",
    "include_inputs_for_metrics": False,
    "include_tokens_per_second": False,
    "jit_mode_eval": False,
    "mp_parameters": "",
    "no_cuda": False,
    "overwrite_output_dir": False,
    "past_index": -1,
    "per_gpu_eval_batch_size": None,
    "per_gpu_train_batch_size": None,
    "push_to_hub_model_id": None,
    "push_to_hub_organization": None,
    "push_to_hub_token": None,
    "ray_scope": "last",
    "save_safetensors": True,
    "split_batches": None,
    "torchdynamo": None,
    "tp_size": 0,
    "tpu_metrics_debug": False,
    "tpu_num_cores": None,
    "use_ipex": False,
    "use_legacy_prediction_loop": False,
    "use_mps_device": False,
}
"""Arguments of older libraries that transformers 5 no longer takes, with the value that meant nothing."""


def legacy_arguments(card: Card) -> Iterator[Finding]:
    """Arguments that were set and that today's library no longer takes.

    Old cards list them all; only those with a value other than the old default changed the training, and a recipe has
    to translate or drop them.

    Silent when: every removed argument has its default.

    Example: group_by_length True, which transformers 5 does not know.
    """
    set_ones = {}
    for name, default in REMOVED.items():
        stated = card.argument(name)
        if stated is not None and stated.value != default and str(stated.value or "") != str(default or ""):
            if isinstance(stated.value, float) and math.isnan(stated.value):
                continue
            set_ones[name] = stated
    if set_ones:
        yield finding(
            "legacy-arguments",
            "note",
            f"{some(f'{name} {stated.value}' for name, stated in set_ones.items())} "
            f"{'was' if len(set_ones) == 1 else 'were'} set, and today's library no longer takes "
            f"{'it' if len(set_ones) == 1 else 'them'}.",
            lines=[stated.line for stated in set_ones.values()],
            arguments={name: str(stated.value) for name, stated in set_ones.items()},
        )


RULES = (
    Rule("untrained-dimension", untrained_dimension),
    Rule("truncated-dimension", truncated_dimension),
    Rule("hidden-inner-loss", hidden_inner_loss),
    Rule("similarity-not-portable", similarity_not_portable),
    Rule("similarity-mismatch", similarity_mismatch),
    Rule("adapter-unspecified", adapter_unspecified),
    Rule("hidden-adapter", hidden_adapter),
    Rule("hidden-prompts", hidden_prompts),
    Rule("files-disagree", files_disagree),
    Rule("sampler-seed", sampler_seed),
    Rule("version-bug", version_bug),
    Rule("legacy-arguments", legacy_arguments),
)
