"""Rules on the model and what it ran with: dimensions, similarity, adapters, files beside the card, versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, note, short, some, warning
from workbench.cards import lookup
from workbench.cards.card import Card, Dataset, Loss
from workbench.cards.front_matter import texts
from workbench.cards.inference import infer

KNOWN_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan", "maxsim", "none", "unknown")
WRAPPERS = ("MatryoshkaLoss", "Matryoshka2dLoss", "AdaptiveLayerLoss")
HUB = "https://github.com/huggingface/sentence-transformers"


def _matryoshka(card: Card) -> list[tuple[Dataset, Loss, list[int]]]:
    """(dataset, the wrapping loss, its dimensions)."""
    found = []
    for dataset, node in lookup.loss_nodes(card):
        dims = node.parameters.get("matryoshka_dims")
        if lookup.class_name(node.name) in WRAPPERS and isinstance(dims, list) and dims:
            found.append((dataset, node, [int(size) for size in dims if isinstance(size, int)]))
    return found


@Rule
def untrained_dimension(card: Card) -> Iterator[Finding]:
    """The model is used at a dimension that its Matryoshka loss did not train.

    MatryoshkaLoss trains the listed prefixes of the embedding. If the full output is not among them, its last
    dimensions get no gradient, or only through shared weights.
    Silent when: the output dimension is among the listed ones, or unknown.
    Example: matryoshka_dims 512 and 256, output (and evaluation) 1,024.
    Fix: train the full dimensions too.
    """
    output = card.output_dimension
    if output is None or not isinstance(output.value, int):
        return
    for dataset, node, dims in _matryoshka(card):
        if output.value in dims or output.value < max(dims, default=0):
            continue
        path = f"{lookup.loss_path(card, dataset, node)}.parameters"
        changes: dict[str, Any] = {f"{path}.matryoshka_dims": [output.value, *dims]}
        weights = node.parameters.get("matryoshka_weights")
        if isinstance(weights, list):
            changes[f"{path}.matryoshka_weights"] = [1, *weights]
        yield warning(
            f"Trained at {some(dims)} dimensions, but the model gives {output.value:,}: the full vector, which is "
            "evaluated unless truncated, was not in the loss.",
            [node.line, output.line],
            Fix(changes, f"Train the full {output.value:,} dimensions too."),
            trained=dims,
            output=output.value,
        )
        return


@Rule
def truncated_dimension(card: Card) -> Iterator[Finding]:
    """The model gives fewer dimensions than its last module: `truncate_dim` cuts them.

    `truncate_dim` is a setting of loading, not a module, so the architecture does not show it. Truncation works well
    only for models trained for it (Matryoshka); the card does not say whether the loss saw truncated vectors.
    Silent when: the dimensions agree; a Dense module sets them; the last dimension is unknown.
    Example: pooling of 1,024 dimensions, output 512.
    """
    output, width = card.output_dimension, infer(card).width
    if output is None or width is None or not isinstance(output.value, int) or output.value >= width[0]:
        return
    if not any(output.value in dims for _, _, dims in _matryoshka(card)):
        yield warning(
            f"The output has {output.value:,} of the {width[0]:,} dimensions of the model: truncate_dim cut them, and "
            "no Matryoshka loss on the card trained for that.",
            [output.line, width[1]],
            output=output.value,
            made=width[0],
        )


@Rule
def hidden_inner_loss(card: Card) -> Iterator[Finding]:
    """A wrapping loss hides the parameters of the loss inside.

    The card prints MatryoshkaLoss (and similar) with the inner loss as a name only: its scale and similarity are
    unknown, and a recipe takes the library's defaults.
    Silent when: the parameters of the inner loss are printed; it has none that matter (SoftmaxLoss and similar).
    Example: MatryoshkaLoss over "MultipleNegativesRankingLoss", no scale.
    """
    scaled = lookup.IN_BATCH | {"CoSENTLoss", "AnglELoss", "TripletLoss"}
    for dataset, node in lookup.loss_nodes(card):
        wrapper, inner = lookup.class_name(node.name), node.inner
        if wrapper not in WRAPPERS or inner is None or inner.parameters or lookup.class_name(inner.name) not in scaled:
            continue
        yield note(
            f"{wrapper} prints its inner {lookup.class_name(inner.name)} by name only: its scale and similarity are "
            "not on the card.",
            [lookup.loss_line(dataset, node), inner.line],
            inner=inner.name,
        )
        return


@Rule
def similarity_not_portable(card: Card) -> Iterator[Finding]:
    """The similarity, a loss or an evaluator is code that the card does not hold.

    A lambda, a function of the training script or a class named `__main__.X` has only a name on the card. The card
    alone cannot be executed, and users of the model rank with another similarity.
    Silent when: similarity, losses and evaluators come from a library.
    Example: similarity_fct "<lambda>", similarity function Energy Distance.
    """
    foreign: list[tuple[str, int | None]] = []
    stated = card.similarity
    if stated is not None and not any(known in stated.value.lower() for known in KNOWN_SIMILARITIES):
        foreign.append((f"the model's similarity {stated.value!r}", stated.line))
    for dataset, node in lookup.loss_nodes(card):
        line, function = lookup.loss_line(dataset, node), str(node.parameters.get("similarity_fct", ""))
        if "<" in function:
            foreign.append((f"similarity_fct {function} of {lookup.class_name(node.name)}", line))
        if node.name.startswith("__main__."):
            foreign.append((f"the loss {node.name}", line))
    own = [each for each in card.evaluations if (each.evaluator or "").startswith("__main__.")]
    foreign += [(f"the evaluator {each.evaluator}", lookup.first_line(each)) for each in own]
    if foreign:
        names = list(dict.fromkeys(name for name, _ in foreign))
        yield warning(
            f"{some(names)[0].upper() + some(names)[1:]} {'is' if len(names) == 1 else 'are'} code of the training "
            "script: the card alone cannot be executed.",
            [line for _, line in foreign],
            names=names,
        )


@Rule
def similarity_mismatch(card: Card) -> Iterator[Finding]:
    """Trained with one similarity, used with another.

    The loss compares by cosine, the model ranks by dot product. Without a Normalize module vectors differ in length,
    which the loss did not see and the ranking follows.
    Silent when: a Normalize module makes both equal; the similarities agree; the similarity of the loss is unknown.
    Example: similarity_fct cos_sim, similarity function Dot Product, pooling without Normalize.
    Fix: rank as the loss does.
    """
    spec, stated = infer(card).softmax, card.similarity
    if spec is None or stated is None or lookup.module(card, "Normalize") is not None:
        return
    used = stated.value.lower()
    trained = {"cos_sim": "cosine", "dot_score": "dot"}.get((spec.similarity or "").removeprefix("pairwise_"))
    if (trained == "cosine" and "dot" in used) or (trained == "dot" and "cosine" in used):
        yield warning(
            f"Trained with {spec.similarity} and used with {stated.value}: without a Normalize module they rank "
            "differently.",
            [stated.line, lookup.loss_line(spec.dataset, spec.loss)],
            Fix({"base.similarity": trained}, "Rank as the loss does."),
            trained=spec.similarity,
            used=stated.value,
        )


@Rule
def adapter_unspecified(card: Card) -> Iterator[Finding]:
    """A LoRA adapter was trained, and its shape is not on the card.

    The architecture shows a PEFT model, so only adapter weights were trained. Rank, alpha, dropout and target layers
    are in adapter_config.json, not in the README.
    Silent when: the architecture shows no PEFT model; adapter_config.json is beside the card.
    Example: PeftModelForFeatureExtraction, no rank anywhere.
    """
    module = lookup.adapter(card)
    if module is not None and lookup.lora_config(card) is None:
        pointer = lookup.is_pointer(card, "adapter_config.json")
        how = "fetch adapter_config.json with `git lfs pull`" if pointer else "put adapter_config.json beside it"
        yield warning(
            f"{module.architecture} shows an adapter whose rank, alpha, dropout and layers are not on the card: {how}, "
            "or set them.",
            [module.line],
            architecture=module.architecture,
        )


@Rule
def hidden_adapter(card: Card) -> Iterator[Finding]:
    """There is an adapter beside the card, and the card shows a whole model.

    adapter_config.json says that only adapter weights were trained; the architecture shows the plain model, which looks
    like full fine-tuning.
    Silent when: there is no adapter_config.json beside the card, or one of another base (see files-disagree); the
    architecture shows the PEFT model.
    Example: adapter_config.json with r 8 and DoRA beside a card whose architecture is a plain BertModel.
    Fix: train an adapter of the shape in adapter_config.json.
    """
    found = lookup.lora_config(card)
    if found is None or lookup.adapter(card) is not None or not card.modules:
        return
    name, config = found
    shape = {"use_dora": False, **lookup.lora_shape(config)}
    kind = "DoRA" if shape["use_dora"] else str(config.get("peft_type", "LoRA"))
    r, alpha, targets = (shape.get(key, "unknown") for key in ("r", "alpha", "target_modules"))
    layers = some(targets) if isinstance(targets, list) else "unknown layers"
    yield warning(
        f"{name} beside the card shows that only an adapter was trained ({kind}, r {r}, alpha {alpha}, on {layers}), "
        "which the architecture does not show.",
        [card.modules[0].line],
        Fix({"base.lora": shape}, "Train an adapter of that shape."),
        file=name,
        **shape,
    )


@Rule
def hidden_prompts(card: Card) -> Iterator[Finding]:
    """Prompts are configured beside the card, and the card does not mention them.

    config_sentence_transformers.json holds prompts by name. Encoding with prompt_name="query" gives other vectors than
    encoding without, and the card's numbers came from one of the two.
    Silent when: no prompts are configured beside the card; all are empty; the card's `prompts` argument shows them.
    Example: a query prompt beside the card, `prompts` None on it.
    """
    found = lookup.file_beside(card, "config_sentence_transformers.json")
    if found is None or not isinstance(found[1], Mapping) or lookup.argument(card, "prompts"):
        return
    prompts = found[1].get("prompts")
    filled = {str(k): str(v) for k, v in prompts.items() if v} if isinstance(prompts, Mapping) else {}
    if filled:
        yield note(
            f"{found[0]} beside the card configures a prompt for {some(filled)}, and the card does not mention it.",
            lookup.argument_lines(card, "prompts"),
            file=found[0],
            prompts=filled,
        )


@Rule
def files_disagree(card: Card) -> Iterator[Finding]:
    """A file beside the card contradicts the card.

    Compared are the logged losses (trainer_state.json), the length limit (sentence_bert_config.json), the similarity
    (config_sentence_transformers.json) and the base model (adapter_config.json).
    Silent when: they agree; the files are missing; a step is in only one of them; a base is a local folder, which may
    be any model.
    Example: max_seq_length 128 on the card, 512 beside it.
    """
    for file, sentence, lines in (*_state_differences(card), *_config_differences(card)):
        yield warning(f"{file} beside the card {sentence}.", lines, file=file)


Difference = tuple[str, str, list[int | None]]


def _state_differences(card: Card) -> Iterator[Difference]:
    found = lookup.file_beside(card, "trainer_state.json")
    if found is None or not isinstance(found[1], Mapping) or len(lookup.runs(card)) != 1:
        return
    entries = lookup.logged_entries(found[1])
    by_step = {step: loss for step, entry in entries if isinstance(loss := entry.get("loss"), int | float)}
    logged = lookup.finite_losses(card.training_log)
    pairs = [(row, here, by_step[row.step]) for row, here in logged if row.step is not None and row.step in by_step]
    wrong = [(row, here, there) for row, here, there in pairs if abs(here - there) > 1e-4 + 1e-4 * abs(there)]
    if wrong:
        row, here, there = wrong[0]
        first = f"first {short(there)} and not {short(here)} at step {row.step:,}"
        lines = [row.line for row, _, _ in wrong[:5]]
        yield found[0], f"logs other losses at {len(wrong)} of {len(pairs)} steps, {first}", lines


def _config_differences(card: Card) -> Iterator[Difference]:
    bert = lookup.file_beside(card, "sentence_bert_config.json")
    limit, similarity, base = card.max_seq_length, card.similarity, card.base_model
    tokens = card.kind in ("sentence-transformer", "sparse-encoder")  # others count markers, or queries separately
    if tokens and bert and isinstance(bert[1], Mapping) and limit is not None and limit.source == "README.md":
        there = bert[1].get("max_seq_length")
        if isinstance(there, int) and isinstance(limit.value, int) and there != limit.value:
            yield bert[0], f"limits texts to {there} tokens, the card to {limit.value}", [limit.line]
    config = lookup.file_beside(card, "config_sentence_transformers.json")
    if config and isinstance(config[1], Mapping) and similarity and similarity.source == "README.md":
        there = config[1].get("similarity_fn_name")
        if isinstance(there, str) and _letters(there) not in _letters(similarity.value):
            yield config[0], f"names the similarity {there}, the card {similarity.value}", [similarity.line]
    if (foreign := lookup.foreign_adapter(card)) and base is not None:
        what = f"adapts {foreign[1]}, and the card's base is {base.value}: it is not this model's and is not used"
        yield foreign[0], what, [base.line]


@Rule
def bases_disagree(card: Card) -> Iterator[Finding]:
    """The front matter and the text name different base models.

    One of them belongs to another model, as where the README.md of an adapter was written over.
    Silent when: they name the same model, also by another path; one of them is a local folder, which may be any model.
    Example: base_model unsloth/Llama-3.2-3B above a text on all-MiniLM-L6-v2.
    """
    named, stated = texts(card.front_matter, "base_model"), card.base_model
    if stated is None or not named or any(lookup.same_model(name, stated.value) is not False for name in named):
        return
    line = next((at for at, text in enumerate(card.lines, 1) if text.startswith("base_model:")), None)
    yield warning(
        f"The front matter names the base {some(named)}, the text {stated.value}: one of them is another model's.",
        [line, stated.line],
        front_matter=list(named),
        text=stated.value,
    )


@Rule
def second_card(card: Card) -> Iterator[Finding]:
    """The file holds two cards, one below the other.

    Only the first is read: facts of two models in one table mean nothing.
    Silent when: at most one heading of level 1 has a model description below it.
    Example: two cards written into one README.md by `cat`.
    """
    for part in card.unread:
        if part.reason == lookup.SECOND:
            yield warning(f"The file holds two cards: the second begins at line {part.lines[0]}.", [part.lines[0]])


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


@Rule
def sampler_seed(card: Card) -> Iterator[Finding]:
    """The no_duplicates sampler of this version ignored the seed and never shuffled.

    Before sentence-transformers 3.4.0 it put the shuffled row numbers into a set, which restores ascending order: every
    epoch had the same batches in the order of the file.
    Silent when: the version is later or unknown; the sampler is another.
    Example: no_duplicates with 3.3.1, three epochs: three times the same batches.
    """
    found = lookup.version(card, "Sentence Transformers")
    sampler = str(lookup.argument(card, "batch_sampler") or "").lower()
    if "no_duplicates" not in sampler or not lookup.in_range(found, (3, 0, 0), (3, 4, 0)):
        return
    order = "in the order in which fit() read the rows" if infer(card).fit else "in the order of the file"
    arguments = lookup.argument_lines(card, "batch_sampler", "seed")
    yield warning(
        f"The no_duplicates sampler of sentence-transformers {found} ignored the seed: every epoch had the same "
        f"batches {order}.",
        [*arguments, *lookup.version_lines(card, "Sentence Transformers")],
        version=str(found),
        reference=f"{HUB}/pull/3073",
    )


def _uses(card: Card, name: str) -> bool:
    return any(lookup.class_name(node.name) == name for _, node in lookup.loss_nodes(card))


def _loads_best_partly(card: Card) -> bool:
    """Whether load_best_model_at_end left modules with weights of their own at their last state."""
    if lookup.argument(card, "load_best_model_at_end") is not True or card.kind == "cross-encoder" or not card.modules:
        return False
    return card.modules[0].type != "Transformer" or lookup.module(card, "Dense", "LSTM", "CNN", "LayerNorm") is not None


def _cached_on_gpu(card: Card) -> bool:
    on_cpu = any(lookup.argument(card, name) is True for name in ("use_cpu", "no_cuda"))
    return card.kind == "cross-encoder" and _uses(card, "CachedMultipleNegativesRankingLoss") and not on_cpu


@dataclass(frozen=True)
class VersionBug:
    """Versions of sentence-transformers with a known wrong result, and where it applies."""

    first: tuple[int, int, int]
    fixed: tuple[int, int, int]
    applies: Callable[[Card], bool]
    sentence: str  # what happened
    reference: str
    arguments: tuple[str, ...] = ()  # whose lines are shown


VERSION_BUGS = (
    VersionBug(
        (3, 0, 0),
        (5, 0, 0),
        _loads_best_partly,
        "load_best_model_at_end restored only the transformer, so every other module with weights (all of a static "
        "model) kept its last state",
        f"{HUB}/pull/3360",
        ("load_best_model_at_end",),
    ),
    VersionBug(
        (4, 0, 0),
        (5, 7, 0),
        _cached_on_gpu,
        "the cross-encoder's CachedMultipleNegativesRankingLoss had silently wrong gradients on a GPU",
        f"{HUB}/pull/3862",
    ),
    VersionBug(
        (3, 0, 0),
        (5, 7, 0),
        lambda card: _uses(card, "MegaBatchMarginLoss") and (lookup.batch_size(card) or 0) > 50,
        "MegaBatchMarginLoss used the gradient of the last mini-batch (of 50 rows) only",
        f"{HUB}/pull/3862",
        ("per_device_train_batch_size",),
    ),
)


@Rule
def version_bug(card: Card) -> Iterator[Finding]:
    """The version on the card has a bug that gives wrong results for this training.

    A table of known bugs, each with its reference and the condition under which it applies. sampler-seed,
    size-before-split and summed-loss are three more with their own codes.
    Silent when: the version has the fix, may have it (a development version), or is unknown.
    Example: load_best_model_at_end with a Dense module under sentence-transformers 4.1.0.
    """
    package = "Sentence Transformers"
    found = lookup.version(card, package)
    for bug in VERSION_BUGS if lookup.has_training(card) else ():
        if lookup.in_range(found, bug.first, bug.fixed) and bug.applies(card):
            yield warning(
                f"In {package} {found}, {bug.sentence}.",
                [*lookup.version_lines(card, package), *lookup.argument_lines(card, *bug.arguments)],
                package=package,
                version=str(found),
                fixed=".".join(map(str, bug.fixed)),
                reference=bug.reference,
            )


REMOVED: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "dispatch_batches", "fsdp_transformer_layer_cls_to_wrap", "per_gpu_eval_batch_size",
            "per_gpu_train_batch_size", "push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token",
            "split_batches", "torchdynamo", "tpu_num_cores",
        )
    ),
    **dict.fromkeys(
        (
            "adafactor", "group_by_length", "include_inputs_for_metrics", "include_tokens_per_second", "jit_mode_eval",
            "no_cuda", "overwrite_output_dir", "tpu_metrics_debug", "use_ipex", "use_legacy_prediction_loop",
            "use_mps_device",
        ),
        False,
    ),
    "evaluation_strategy": "no", "fp16_backend": "auto", "fp16_opt_level": "O1", "fsdp_min_num_params": 0,
    "half_precision_backend": "auto", "mp_parameters": "", "past_index": -1, "ray_scope": "last",
    "save_safetensors": True, "tp_size": 0,
}  # fmt: skip
"""Arguments of older libraries that transformers 5 does not take -> the default that had no effect."""


@Rule
def legacy_arguments(card: Card) -> Iterator[Finding]:
    """Arguments were set that today's library does not take.

    Old cards list them all; only those with a value other than the old default changed the training, and a recipe has
    to translate or drop them.
    Silent when: every removed argument has its default.
    Example: group_by_length True, which transformers 5 does not know.
    """
    removed = {name: stated for name in sorted(REMOVED) if (stated := card.argument(name)) is not None}
    changed = {
        name: stated
        for name, stated in removed.items()
        if stated.value != REMOVED[name] and str(stated.value or "") not in (str(REMOVED[name] or ""), "nan")
    }
    if changed:
        one = len(changed) == 1
        yield note(
            f"{some(f'{name} {stated.value}' for name, stated in changed.items())} {'was' if one else 'were'} set, and "
            f"today's library does not take {'it' if one else 'them'}.",
            [stated.line for stated in changed.values()],
            arguments={name: str(stated.value) for name, stated in changed.items()},
        )
