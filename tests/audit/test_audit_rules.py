"""Every rule of the audit on a made-up card that has the fault, and on near misses that have not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from healthy_card import (
    BATCH,
    COLUMN,
    TEXTS,
    arguments,
    by_fit,
    evaluation,
    healthy,
    healthy_log,
    row,
    statistics,
    versions,
    with_args,
    with_log,
    with_loss,
    with_rows,
    without_args,
    without_evaluation,
)

from workbench.audit.finding import Finding
from workbench.audit.rules import RULES, audit
from workbench.cards import lookup
from workbench.cards.card import (
    Card,
    ColumnStatistics,
    Dataset,
    IndexedResult,
    LogRow,
    Loss,
    Module,
    Stated,
    Text,
    Unread,
)
from workbench.cards.read import parse_card

Make = Callable[[], Card]


def found(card: Card, code: str) -> list[Finding]:
    return [finding for finding in audit(card) if finding.code == code]


def curve(*values: float, every: int = 100, per_epoch: int = 1000) -> Card:
    """The healthy card with these training losses and the healthy evaluations."""
    rows = [row(every * (at + 1), value, per_epoch=per_epoch) for at, value in enumerate(values)]
    return with_log(healthy(), rows)


def pairs_with(dataset_fields: dict[str, object], **values: object) -> Card:
    return with_args(with_rows(healthy(), **dataset_fields), **values)


# --------------------------------------------------------------------------------------------------- rows, processes


def at_length(per_epoch: int, **fields: object) -> Card:
    rows = [row(step, 0.9 - step / 1e6, per_epoch=per_epoch) for step in range(100, 3 * per_epoch + 1, 100)]
    return replace(with_log(healthy(), rows), **fields)


def _two_processes() -> Card:
    return at_length(500)


def _four_processes_that_accumulate() -> Card:
    # 64,000 rows / 64 = 1,000 batches, a quarter is 250; two of them make a step, 125 steps an epoch
    card = with_args(healthy(), gradient_accumulation_steps=2)
    return with_log(card, [replace(row(s, 0.9), epoch=round(s / 125, 4)) for s in (25, 50, 100, 150, 275, 375)])


def _four_fifths() -> Card:
    card = versions(at_length(800), st="3.3.1")
    held = replace(card.evaluation_datasets()[0], name="json", size=64_000)
    return replace(card, datasets=(replace(card.training_datasets()[0], name="json"), held))


# ------------------------------------------------------------------------------------------------- arguments


def _tenth_of_the_batches() -> Card:
    # 64,000 / 64 = 1,000 batches, a tenth is 100; four of them make a step, 250 steps an epoch
    card = with_args(healthy(), gradient_accumulation_steps=4, warmup_steps=100)
    return with_log(card, [replace(row(s, 0.9), epoch=round(s / 250, 4)) for s in (25, 50, 100, 175, 225, 500)])


def _static_at_a_transformers_rate() -> Card:
    return replace(healthy(), modules=(Module(0, "StaticEmbedding", {"num_embeddings": 30522, "embedding_dim": 768}),))


# ------------------------------------------------------------------------------------------------------------ loss


def _temperature() -> Card:
    return with_loss(healthy(), "MultipleNegativesRankingLoss", scale=0.05, similarity_fct="cos_sim")


def _inside_matryoshka() -> Card:
    inner = Loss("CachedMultipleNegativesRankingLoss", {"scale": 0.02, "similarity_fct": "cos_sim"})
    return with_rows(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


def _unbounded_similarity() -> Card:
    card = with_loss(healthy(), "MultipleNegativesRankingLoss", scale=20.0, similarity_fct="<lambda>")
    return with_log(card, [row(100, 7000.0), row(200, 5.0)])


def _logged_only(*rows: LogRow) -> Card:
    bare = without_evaluation(healthy())
    return replace(bare, training_log=(*bare.training_log, *rows))


NOT_PULLED = Unread("final_eval_results.csv", (1, 1), lookup.POINTER)
TWO_CARDS = b"""---
tags:
- sentence-transformers
---
# One

### Model Description

- **Model Type:** Sentence Transformer
---
tags:
- sentence-transformers
---
# Two

### Model Description

- **Model Type:** Sentence Transformer
"""
PATHS = (
    "acme/base", r"C:\Users\me\base", "/root/.cache/huggingface/hub/models--acme--base/snapshots/1a2b/", "./out/best",
    "/content/drive/checkpoint-500", "models/other",
)  # fmt: skip
"""Other paths of the healthy card's base, and paths that may be it."""


def _beside(base: str) -> Card:
    return replace(_shape_beside(), beside={"adapter_config.json": {**LORA, "base_model_name_or_path": base}})


def _three_matryoshka_dimensions() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {})
    card = with_rows(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256, 64]}, inner, 30))
    return with_log(card, [row(100, 12.0), row(200, 9.0), row(300, 3.0)])


def _collapsed() -> Card:
    return curve(6.1, 4.4, 4.1612, 4.1592, 4.1589, 4.1590, 4.1588, 4.1589)  # ln 64 = 4.1589


def _labels_not_distinguished() -> Card:
    label = ColumnStatistics("label", "int", {"0": 0.503, "1": 0.497})
    card = with_rows(healthy(), columns=("anchor", "positive", "label"), statistics=(label,))
    losses = (0.71, 0.697, 0.6952, 0.6934, 0.6931, 0.6932, 0.6931, 0.6933)
    rows = [row(100 * (at + 1), value) for at, value in enumerate(losses)]
    return with_log(with_loss(card, "SoftmaxLoss"), rows)


def _labels_distinguished() -> Card:
    card = _labels_not_distinguished()
    return with_log(card, [*card.training_log[:-1], row(800, 0.64)])


def _added_up() -> Card:
    card = versions(with_args(healthy(), gradient_accumulation_steps=4), transformers="4.51.3")
    return with_log(card, [replace(row(s, 1.0), epoch=round(s / 250, 4)) for s in (25, 50, 100, 175)])


def _one_spike() -> Card:
    values = [round(2 * 0.97**at, 4) for at in range(30)]
    values[15] *= 1.6
    return curve(*values)


def _nothing_moved() -> Card:
    losses = [row(s, 0.39 + 0.002 * ((s // 100) % 2)) for s in range(100, 3001, 100)]
    measured = [row(s, metric=0.5039) for s in (1000, 2000, 3000)]
    return with_log(healthy(), sorted([*losses, *measured], key=lambda one: one.step or 0))


def _loss_flat_but_the_metric_rose() -> Card:
    rows = _nothing_moved().training_log
    return with_log(
        healthy(), [replace(one, metrics={COLUMN: one.metrics[COLUMN] and 0.5 + (one.step or 0) / 1e5}) for one in rows]
    )


def _validation_turned() -> Card:
    rows = []
    for at, (train, held) in enumerate([(1.0, 0.6), (0.8, 0.5), (0.5, 0.55), (0.3, 0.6), (0.2, 0.7)]):
        rows += [row(600 * at + 500, train), row(600 * at + 600, validation=held)]
    return with_args(with_log(healthy(), rows), load_best_model_at_end=False)


def _validation_wavers() -> Card:
    rows = []
    for at, (train, held) in enumerate([(1.0, 0.6), (0.8, 0.5), (0.5, 0.52), (0.3, 0.51), (0.2, 0.53)]):
        rows += [row(600 * at + 500, train), row(600 * at + 600, validation=held)]
    return with_log(healthy(), rows)


def _margin_of_five() -> Card:
    parameters = {"distance_metric": "TripletDistanceMetric.EUCLIDEAN", "triplet_margin": 5}
    return with_loss(healthy(), "TripletLoss", **parameters)


def _margin_of_a_half() -> Card:
    parameters = {"distance_metric": "TripletDistanceMetric.COSINE", "triplet_margin": 0.5}
    return with_loss(healthy(), "TripletLoss", **parameters)


# ------------------------------------------------------------------------------------------------------- evaluation


def _held_back_for_nothing() -> Card:
    card = with_args(without_evaluation(healthy()), eval_strategy="no")
    return replace(card, datasets=healthy().datasets)


def _measured(*values: float, **values_by_name: object) -> Card:
    rows = [one for one in healthy_log() if one.training_loss]
    rows += [row(1000 * (at + 1), metric=value) for at, value in enumerate(values)]
    card = with_log(healthy(), sorted(rows, key=lambda one: one.step or 0))
    return replace(with_args(card, **values_by_name), evaluations=(evaluation(values[-1]),))


def _table_of_another_epoch() -> Card:
    card = _measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False)
    return replace(card, evaluations=(evaluation(0.7242),))


def _accuracy_from(first: int, last: int, queries: int = 180) -> Card:
    """accuracy@1 of so many queries at the beginning and at the end, with the unrounded values in model-index."""
    exact = {"cosine_accuracy@1": last / queries, "cosine_accuracy@10": 161 / queries, "cosine_ndcg@10": 0.71}
    indexed = tuple(IndexedResult("information-retrieval", "dev", name, value) for name, value in exact.items())
    measured = evaluation(0.71, **{name: round(value, 4) for name, value in exact.items()})
    rows = [row(step, metrics={"dev_cosine_accuracy@1": round(hits / queries, 4)}, line=step)
            for step, hits in ((1000, first), (3000, last))]  # fmt: skip
    return replace(with_log(healthy(), rows), evaluations=(measured,), model_index=indexed)


def _twenty_four_queries() -> Card:
    values = {"cosine_accuracy@1": 0.5417, "cosine_accuracy@5": 0.7083, "cosine_accuracy@10": 0.9167}
    return replace(healthy(), evaluations=(evaluation(0.6017, **values),))


def _several_golds() -> Card:
    values = {
        "cosine_recall@1": 0.1,
        "cosine_recall@10": 0.31,
        "cosine_precision@1": 0.4321,
        "cosine_precision@10": 0.3,
    }
    return replace(healthy(), evaluations=(evaluation(0.6017, **values),))


# -------------------------------------------------------------------------------------------------------------- data


def _one_anchor_twice() -> Card:
    samples = (*TEXTS, {"anchor": TEXTS[0]["anchor"], "positive": "Light needs 1.3 seconds to it."})
    return with_args(with_rows(healthy(), samples=samples), batch_sampler="batch_sampler")


COMPARING = (
    {"anchor": "Which is longer, the Tarn Bridge or Osk Viaduct?", "positive": "Osk Viaduct is 310 m long."},
    {"anchor": "Were Ila Brand and Oto Senn born in the same town?", "positive": "Ila Brand was born in Arden."},
    {"anchor": "how far is the moon", "positive": "The moon is 384,400 km away."},
)


def _documents_about_both_things() -> Card:
    whole = tuple({**sample, "positive": f"{sample['anchor']} {sample['positive']}"} for sample in COMPARING)
    return with_args(with_rows(healthy(), samples=whole), batch_sampler="batch_sampler")


def _batch_of_four() -> Card:
    return with_log(with_args(with_rows(healthy(), size=4000), per_device_train_batch_size=4), [row(100, 0.3)])


def _mostly_no_match() -> Card:
    label = ColumnStatistics("label", "int", {"-1": 0.729, "1": 0.271})
    return with_rows(healthy(), columns=("anchor", "positive", "label"), statistics=(statistics("anchor", 9), label))


def _every_pair_a_match() -> Card:
    label = ColumnStatistics("label", "int", {"1": "100.00%"})
    return with_rows(healthy(), columns=("anchor", "positive", "label"), statistics=(statistics("anchor", 9), label))


def _scores_to_five() -> Card:
    label = ColumnStatistics("score", "float", {"min": 0.0, "mean": 2.6, "max": 5.0})
    card = with_rows(healthy(), columns=("anchor", "positive", "score"), statistics=(label,))
    return with_loss(card, "CosineSimilarityLoss")


def _the_same_on_both_sides() -> Card:
    same = tuple({"anchor": one["anchor"], "positive": one["anchor"]} for one in TEXTS)
    return with_rows(healthy(), samples=same, statistics=(statistics("anchor", 60), statistics("positive", 60)))


def _one_sample_alike() -> Card:
    samples = ({"anchor": "a b c", "positive": "a b c"}, *TEXTS[1:])
    return with_rows(healthy(), samples=samples, statistics=(statistics("anchor", 60), statistics("positive", 60)))


def _two_hundred_rows() -> Card:
    return with_log(with_rows(healthy(), size=200), [row(9, 0.9, per_epoch=4)])


def _two_hundred_rows_for_an_adapter() -> Card:
    module = replace(healthy().modules[0], architecture="PeftModelForFeatureExtraction")
    return replace(_two_hundred_rows(), modules=(module,))


def _a_sample_in_both() -> Card:
    held = replace(healthy().evaluation_datasets()[0], samples=TEXTS[:1])
    return replace(healthy(), datasets=(healthy().datasets[0], held))


def _the_same_numbers() -> Card:
    train = healthy().training_datasets()[0]
    held = replace(train, role="evaluation", samples=())
    return replace(healthy(), datasets=(train, held))


def _the_same_size() -> Card:
    held = replace(healthy().evaluation_datasets()[0], size=healthy().training_datasets()[0].size)
    return replace(healthy(), datasets=(healthy().datasets[0], held))


def _counted_in_characters() -> Card:
    long = replace(statistics("positive", 512, 180.0), unit="characters")
    return with_rows(healthy(), statistics=(statistics("anchor", 60), long))


def _query_before_every_query() -> Card:
    return with_rows(healthy(), samples=tuple({**one, "anchor": f"query: {one['anchor']}"} for one in TEXTS))


# ------------------------------------------------------------------------------------------------- model, versions


def _full_size_left_out() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {"scale": 20.0})
    parameters = {"matryoshka_dims": [512, 256], "matryoshka_weights": [1, 1]}
    return with_rows(healthy(), loss=Loss("MatryoshkaLoss", parameters, inner, 30))


def _full_size_among_them() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {"scale": 20.0})
    return with_rows(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


def _half_of_them() -> Card:
    return replace(healthy(), output_dimension=Stated(384, 5))


def _by_a_dense_module() -> Card:
    dense = Module(3, "Dense", {"in_features": 768, "out_features": 384}, None, 9)
    return replace(_half_of_them(), modules=(*healthy().modules, dense))


def _name_only() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {})
    return with_rows(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


def _peft() -> Card:
    module = replace(healthy().modules[0], architecture="PeftModelForFeatureExtraction")
    return replace(healthy(), modules=(module, *healthy().modules[1:]))


LORA = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["query", "value"], "peft_type": "LORA"}


def _shape_beside() -> Card:
    return replace(_peft(), beside={"adapter_config.json": LORA})


def _other_losses() -> Card:
    history = [{"step": one.step, "loss": 9.9} for one in healthy_log() if one.training_loss]
    return replace(healthy(), beside={"trainer_state.json": {"log_history": history}})


def _same_losses() -> Card:
    history = [{"step": one.step, "loss": one.training_loss} for one in healthy_log() if one.training_loss]
    config = {"similarity_fn_name": "cosine"}
    beside = {"trainer_state.json": {"log_history": history}, "config_sentence_transformers.json": config}
    return replace(healthy(), beside=beside)


def _best_of_a_dense_model() -> Card:
    dense = Module(3, "Dense", {"in_features": 768, "out_features": 768}, None, 9)
    return versions(replace(healthy(), modules=(*healthy().modules, dense)), st="4.1.0")


ILL: dict[str, dict[str, Make]] = {
    "world-size": {
        "two processes": _two_processes,
        "four processes that accumulate": _four_processes_that_accumulate,
    },
    "size-before-split": {
        "four fifths": _four_fifths,
        "four fifths and nothing else fits": lambda: versions(at_length(800), st="3.3.1"),
    },
    "size-mismatch": {
        "nothing fits": lambda: at_length(137),
    },
    "joined-logs": {
        "two runs": lambda: with_log(healthy(), [row(100, 1.0), row(200, 0.9), row(100, 0.8), row(200, 0.7)]),
    },
    "stopped-early": {
        "epoch one of three": lambda: with_log(healthy(), [one for one in healthy_log() if (one.step or 0) <= 1000]),
    },
    "nothing-logged": {
        "fewer steps than the interval": lambda: without_evaluation(with_log(pairs_with({"size": 260}), [])),
    },
    "fit-defaults": {
        "by fit": lambda: by_fit(healthy()),
    },
    "warmup-units": {
        "tenth of the batches": _tenth_of_the_batches,
        "longer than the run": lambda: with_args(healthy(), warmup_steps=10_000),
    },
    "learning-rate": {
        "transformer at two hundredths": lambda: with_args(healthy(), learning_rate=0.02),
        "static at a transformers rate": _static_at_a_transformers_rate,
    },
    "scale-as-temperature": {
        "temperature": _temperature,
        "inside matryoshka": _inside_matryoshka,
        "guided by a scale": lambda: with_loss(healthy(), "GISTEmbedLoss", temperature=20.0),
    },
    "loss-out-of-band": {
        "far too large": lambda: curve(400.0, 200.0, 100.0, 50.0),
        "below what the scale allows": lambda: with_log(_temperature(), [row(100, 4.1), row(200, 0.5)]),
        "unbounded similarity": _unbounded_similarity,
    },
    "loss-at-chance": {
        "collapsed": _collapsed,
        "labels not distinguished": _labels_not_distinguished,
    },
    "summed-loss": {
        "added up": _added_up,
        "added up by the first version": lambda: versions(_added_up(), transformers="4.46.1"),
    },
    "loss-spikes": {
        "one spike": _one_spike,
    },
    "flat-run": {
        "nothing moved": _nothing_moved,
    },
    "diverged": {
        "not a number": lambda: curve(2.1, 1.8, math.nan, math.nan),
        "rising": lambda: curve(1.0, 1.1, 1.0, 1.2, 1.5, 1.9, 2.2, 2.6),
    },
    "overfit": {
        "validation turned": _validation_turned,
    },
    "margin-unreachable": {
        "margin of five": _margin_of_five,
        "default margin": lambda: with_log(
            with_loss(healthy(), "BatchAllTripletLoss"), [row(100, 4.9), row(200, 3.4), row(300, 3.2)]
        ),
    },
    "evaluation-unused": {
        "held back for nothing": _held_back_for_nothing,
    },
    "not-evaluated": {
        "never evaluated": lambda: with_args(without_evaluation(healthy()), eval_strategy="no"),
    },
    "evaluation-not-shown": {
        "a row without a number": lambda: _logged_only(row(1000)),
        "results beside the card": lambda: replace(_logged_only(), beside={"eval/dev_results.csv": [{"epoch": 1}]}),
        "results that were not pulled": lambda: replace(_logged_only(), unread=(NOT_PULLED,)),
    },
    "best-not-kept": {
        "second epoch was best": lambda: _measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False),
    },
    "reported-not-saved": {
        "table of another epoch": _table_of_another_epoch,
        "front matter differs": lambda: replace(
            healthy(), model_index=(IndexedResult("information-retrieval", "dev", "cosine_ndcg@10", 0.65),)
        ),
    },
    "same-name-evaluations": {
        "twice dev": lambda: replace(healthy(), evaluations=(evaluation(0.6017), evaluation(0.7357))),
    },
    "evaluation-unmatched": {
        "in no row": lambda: replace(healthy(), evaluations=(evaluation(0.7357),)),
    },
    "metric-identities": {
        "recall above accuracy": lambda: replace(
            healthy(), evaluations=(evaluation(0.6017, **{"cosine_recall@10": 0.9}),)
        ),
        "twenty four queries": _twenty_four_queries,
    },
    "gain-unresolved": {
        "four of 180 queries": lambda: _accuracy_from(106, 110),
    },
    "metric-nan": {
        "correlation of nothing": lambda: replace(
            healthy(), evaluations=(evaluation(0.6017, spearman_cosine=math.nan),)
        ),
    },
    "evaluation-saturated": {
        "too easy": lambda: _measured(0.99, 1.0, 1.0),
    },
    "dataset-unnamed": {
        "json": lambda: with_rows(healthy(), name="json", id=None),
    },
    "duplicate-anchors": {
        "one anchor twice": _one_anchor_twice,
        "questions about two things": lambda: with_args(
            with_rows(healthy(), samples=COMPARING), batch_sampler="batch_sampler"
        ),
    },
    "batch-too-small": {
        "batch of four": _batch_of_four,
    },
    "label-ignored": {
        "mostly no match": _mostly_no_match,
    },
    "label-range": {
        "scores to five": _scores_to_five,
    },
    "identical-columns": {
        "the same on both sides": _the_same_on_both_sides,
    },
    "tiny-data": {
        "two hundred rows": _two_hundred_rows,
    },
    "train-is-eval": {
        "a sample in both": _a_sample_in_both,
        "the same numbers": _the_same_numbers,
    },
    "truncated-texts": {
        "at the limit": lambda: with_rows(
            healthy(), statistics=(statistics("anchor", 60), statistics("positive", 512, 180.0))
        ),
    },
    "prompts-in-texts": {
        "query before every query": _query_before_every_query,
    },
    "text-damaged": {
        "lost characters": lambda: replace(
            healthy(), text=Text(repaired=40, lost=3, repaired_lines=(3, 4), lost_lines=(4,))
        ),
    },
    "untrained-dimension": {
        "full size left out": _full_size_left_out,
    },
    "truncated-dimension": {
        "half of them": _half_of_them,
    },
    "hidden-inner-loss": {
        "name only": _name_only,
    },
    "similarity-not-portable": {
        "energy": lambda: replace(healthy(), similarity=Stated("Energy Distance", 6)),
        "loss of the script": lambda: with_loss(healthy(), "__main__.OwnLoss"),
    },
    "similarity-mismatch": {
        "cosine then dot": lambda: replace(
            healthy(), similarity=Stated("Dot Product", 6), modules=healthy().modules[:2]
        ),
    },
    "adapter-unspecified": {
        "shape nowhere": lambda: _peft(),
    },
    "hidden-adapter": {
        "adapter beside a whole model": lambda: replace(
            healthy(), beside={"adapter_config.json": {**LORA, "base_model_name_or_path": "acme/base"}}
        ),
    },
    "hidden-prompts": {
        "prompt beside": lambda: replace(
            healthy(), beside={"config_sentence_transformers.json": {"prompts": {"query": "q: ", "doc": ""}}}
        ),
    },
    "files-disagree": {
        "other losses": _other_losses,
        "other limit": lambda: replace(healthy(), beside={"sentence_bert_config.json": {"max_seq_length": 128}}),
        "adapter of another base": lambda: _beside("unsloth/Llama-3.2-3B"),
    },
    "bases-disagree": {
        "another above": lambda: replace(healthy(), front_matter={"base_model": "unsloth/Llama-3.2-3B"}),
    },
    "second-card": {
        "two files joined": lambda: parse_card(TWO_CARDS, name="two"),
    },
    "sampler-seed": {
        "old sampler": lambda: versions(healthy(), st="3.3.1"),
    },
    "version-bug": {
        "best of a dense model": _best_of_a_dense_model,
        "last mini batch only": lambda: with_loss(
            with_args(healthy(), per_device_train_batch_size=BATCH), "MegaBatchMarginLoss"
        ),
    },
    "legacy-arguments": {
        "grouped by length": lambda: with_args(healthy(), group_by_length=True),
    },
}
"""Code -> cards that have the fault."""

NEAR: dict[str, dict[str, Make]] = {
    "world-size": {
        "short last batch": lambda: with_rows(at_length(1001), size=64_001),
        "dropped last batch": lambda: with_args(with_rows(at_length(1000), size=64_063), dataloader_drop_last=True),
        "size unknown": lambda: with_rows(at_length(500), size=None),
        "streamed": lambda: with_args(at_length(500), max_steps=500),
        "batch found by itself": lambda: with_args(at_length(500), auto_find_batch_size=True),
    },
    "loss-out-of-band": {
        "an earlier run with another loss": lambda: with_log(
            healthy(), [row(100, 900.0), row(200, 800.0), row(100, 1.2), row(200, 0.9)]
        ),
        "three matryoshka dimensions": _three_matryoshka_dimensions,
        "unbounded but small": lambda: with_loss(
            healthy(), "MultipleNegativesRankingLoss", scale=20.0, similarity_fct="<lambda>"
        ),
    },
    "size-before-split": {
        "four fifths but a version that counts right": lambda: versions(_four_fifths(), st="4.1.0"),
        "four fifths of rows made in memory": lambda: versions(
            with_rows(at_length(800), name=None, id=None), st="3.3.1"
        ),
        "a half that is rather two processes": lambda: versions(at_length(500), st="3.3.1"),
    },
    "size-mismatch": {
        "a few rows left out": lambda: at_length(990),
    },
    "joined-logs": {
        "evaluated before and after": lambda: with_log(
            healthy(), [row(-1, metric=0.5), *healthy_log(), row(-1, metric=0.6017)]
        ),
    },
    "stopped-early": {
        "ends one interval before the end": lambda: with_log(
            healthy(), [one for one in healthy_log() if (one.step or 0) <= 2900]
        ),
    },
    "nothing-logged": {
        "no training with_args": lambda: Card(name="bare", kind="sentence-transformer", modules=healthy().modules),
    },
    "fit-defaults": {
        "same columns but a rate was set": lambda: with_args(by_fit(healthy()), learning_rate=3e-05),
        "round robin by choice": lambda: with_args(
            healthy(), multi_dataset_batch_sampler="round_robin", max_grad_norm=1
        ),
    },
    "warmup-units": {
        "a tenth of the steps": lambda: with_args(healthy(), warmup_steps=100),
    },
    "learning-rate": {
        "static at its rate": lambda: with_args(_static_at_a_transformers_rate(), learning_rate=0.2),
        "other optimizer": lambda: with_args(healthy(), learning_rate=0.02, optim="sgd"),
    },
    "scale-as-temperature": {
        "dot product unscaled": lambda: with_loss(
            healthy(), "MultipleNegativesRankingLoss", scale=1.0, similarity_fct="dot_score"
        ),
        "guided by a temperature": lambda: with_loss(healthy(), "GISTEmbedLoss", temperature=0.05),
    },
    "loss-at-chance": {
        "labels distinguished": _labels_distinguished,
        "starts at chance": lambda: curve(4.1589, 4.1, 3.9, 3.6, 3.2, 2.9, 2.5, 2.2),
    },
    "summed-loss": {
        "later transformers": lambda: versions(_added_up(), transformers="4.53.0"),
        "fixed for a while": lambda: versions(_added_up(), transformers="4.47.1"),
        "no accumulation": lambda: versions(healthy(), transformers="4.51.3"),
    },
    "loss-spikes": {
        "noise": lambda: curve(*(1 + 0.3 * math.sin(at * 1.7) + 0.2 * math.cos(at * 2.9) for at in range(30))),
    },
    "flat-run": {
        "metrics at their ceiling": lambda: with_log(
            healthy(),
            [
                replace(one, metrics={COLUMN: 1.0 if one.metrics[COLUMN] else None})
                for one in _nothing_moved().training_log
            ],
        ),
        "loss flat but the metric rose": _loss_flat_but_the_metric_rose,
    },
    "diverged": {
        "rewards below zero": lambda: curve(-0.3, -0.5, -0.6, -0.7, -0.72, -0.72, -0.73, -0.73),
    },
    "overfit": {
        "validation wavers": _validation_wavers,
    },
    "margin-unreachable": {
        "margin of a half": _margin_of_a_half,
        "not normalised": lambda: replace(_margin_of_five(), modules=healthy().modules[:2]),
    },
    "evaluation-unused": {
        "validated in another way": lambda: with_args(healthy(), eval_strategy="no"),
    },
    "not-evaluated": {
        "only a validation loss": lambda: replace(
            without_evaluation(healthy()), training_log=(row(100, 1.0), row(200, validation=0.9))
        ),
        "a row without a number": lambda: _logged_only(row(1000)),
    },
    "evaluation-not-shown": {
        "never evaluated": lambda: without_evaluation(healthy()),
        "shown elsewhere": lambda: with_log(healthy(), [*healthy_log(), row(3001)]),
        "a log of another writer": lambda: _logged_only(replace(row(1000), source="trainer_state.json")),
    },
    "best-not-kept": {
        "best was loaded": lambda: replace(_measured(0.7135, 0.7242, 0.7172), evaluations=()),
        "kept by fit": lambda: by_fit(_measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False)),
    },
    "reported-not-saved": {
        "front matter unrounded": lambda: replace(
            healthy(), model_index=(IndexedResult(None, "dev", "cosine_ndcg@10", 0.60171234),)
        ),
    },
    "same-name-evaluations": {
        "two names": lambda: replace(healthy(), evaluations=(evaluation(0.6017), evaluation(0.7357, name="test"))),
    },
    "evaluation-unmatched": {
        "on a set of its own": lambda: replace(healthy(), evaluations=(evaluation(0.7357, name="test"),)),
    },
    "metric-identities": {
        "several golds": _several_golds,
    },
    "gain-unresolved": {
        "six of 180 queries": lambda: _accuracy_from(106, 112),
        "nothing gained": lambda: _accuracy_from(106, 106),
    },
    "dataset-unnamed": {
        "named without id": lambda: with_rows(healthy(), name="quora-pairs", id=None),
    },
    "duplicate-anchors": {
        "kept apart": lambda: with_args(_one_anchor_twice(), batch_sampler="no_duplicates"),
        "scored pairs": lambda: with_rows(_one_anchor_twice(), loss=Loss("CoSENTLoss", {"scale": 20.0}, line=30)),
        "one row shown twice": lambda: with_args(
            with_rows(healthy(), samples=(*TEXTS, TEXTS[0])), batch_sampler="batch_sampler"
        ),
        "one question about two things": lambda: with_args(
            with_rows(healthy(), samples=COMPARING[1:]), batch_sampler="batch_sampler"
        ),
        "documents about both things": _documents_about_both_things,
    },
    "batch-too-small": {
        "hard negatives of its own": lambda: with_rows(_batch_of_four(), columns=("anchor", "positive", "negative")),
    },
    "label-ignored": {
        "every pair a match": _every_pair_a_match,
    },
    "label-range": {
        "scores to five ranked": lambda: with_loss(_scores_to_five(), "CoSENTLoss", scale=20.0),
    },
    "identical-columns": {
        "one sample alike": _one_sample_alike,
    },
    "tiny-data": {
        "two hundred rows for an adapter": _two_hundred_rows_for_an_adapter,
    },
    "train-is-eval": {
        "the same size": _the_same_size,
    },
    "truncated-texts": {
        "counted in characters": _counted_in_characters,
    },
    "prompts-in-texts": {
        "a template": lambda: with_rows(
            healthy(), samples=tuple({**one, "positive": f"Title: {one['positive']}"} for one in TEXTS)
        ),
        "prompts by name": lambda: with_args(_query_before_every_query(), prompts={"anchor": "query: "}),
    },
    "untrained-dimension": {
        "full size among them": _full_size_among_them,
    },
    "truncated-dimension": {
        "by a dense module": _by_a_dense_module,
    },
    "hidden-inner-loss": {
        "with parameters": lambda: _full_size_among_them(),
    },
    "similarity-not-portable": {
        "late interaction": lambda: replace(
            with_loss(healthy(), "pylate.losses.contrastive.Contrastive"), similarity=Stated("MaxSim", 6)
        ),
    },
    "similarity-mismatch": {
        "the same when normalised": lambda: replace(healthy(), similarity=Stated("Dot Product", 6)),
    },
    "adapter-unspecified": {
        "shape beside": _shape_beside,
    },
    "hidden-adapter": {
        "adapter shown": lambda: _shape_beside(),
        "adapter of another base": lambda: _beside("unsloth/Llama-3.2-3B"),
    },
    "hidden-prompts": {
        "empty prompts beside": lambda: replace(
            healthy(), beside={"config_sentence_transformers.json": {"prompts": {"query": "", "doc": ""}}}
        ),
    },
    "files-disagree": {
        "same losses": _same_losses,
        "steps that are no numbers": lambda: replace(
            healthy(), beside={"trainer_state.json": {"log_history": [{"step": {}, "loss": 9.9}, {"step": 100.5}, 3]}}
        ),
        **{path: partial(_beside, path) for path in PATHS},
    },
    "bases-disagree": {
        **{path: partial(replace, healthy(), front_matter={"base_model": [path]}) for path in PATHS},
    },
    "second-card": {
        "another heading of level 1": lambda: parse_card(
            TWO_CARDS.replace(b"### Model Description\n\n", b"", 1), name="x"
        ),
    },
    "sampler-seed": {
        "fixed sampler": lambda: versions(healthy(), st="3.4.0"),
        "development version of the fixed one": lambda: versions(healthy(), st="3.4.0.dev0"),
        "default sampler": lambda: versions(with_args(healthy(), batch_sampler="batch_sampler"), st="3.3.1"),
    },
    "version-bug": {
        "best of a plain model": lambda: versions(healthy(), st="4.1.0"),
    },
    "legacy-arguments": {
        "at its default": lambda: replace(
            healthy(), hyperparameters={**healthy().hyperparameters, **arguments(group_by_length=False)}
        ),
    },
}
"""Code -> cards that look like it and have not."""


def test_a_healthy_card_is_silent() -> None:
    assert [finding.message for finding in audit(healthy())] == []


def test_every_rule_has_a_card_that_it_finds() -> None:
    assert {rule.code for rule in RULES} == set(ILL)
    assert len({rule.code for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("code", "make"),
    [pytest.param(code, make, id=f"{code}: {name}") for code, cards in ILL.items() for name, make in cards.items()],
)
def test_found(code: str, make: Make) -> None:
    findings = found(make(), code)
    assert findings, audit(make())
    for finding in findings:
        assert finding.message.endswith(".")
        assert finding.message[0].isupper() or not finding.message[0].isalpha() or finding.message.split()[0] in (
            "sentence_0", COLUMN, "adapter_config.json", "spearman_cosine", "config_sentence_transformers.json",
            "json", "trainer_state.json", "sentence_bert_config.json", "group_by_length", "anchor",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "make"),
    [pytest.param(code, make, id=f"{code}: {name}") for code, cards in NEAR.items() for name, make in cards.items()],
)
def test_silent_on_a_near_miss(code: str, make: Make) -> None:
    assert [finding.message for finding in found(make(), code)] == []


# ---------------------------------------------------------------------------------------------- numbers in findings


def test_processes_and_rows_per_step() -> None:
    two = found(_two_processes(), "world-size")[0]
    assert (two.evidence["processes"], two.evidence["batches_per_epoch"], two.evidence["rows_per_step"]) == (
        2,
        500,
        128,
    )
    four = found(_four_processes_that_accumulate(), "world-size")[0]
    assert (four.evidence["processes"], four.evidence["batches_per_epoch"], four.evidence["rows_per_step"]) == (
        4,
        250,
        512,
    )


def test_split_and_its_share() -> None:
    split = found(_four_fifths(), "size-before-split")[0]
    assert (split.evidence["share"], split.evidence["rows_at_most"]) == (0.8, 51_200)


def test_a_split_is_not_taken_for_processes_and_processes_not_for_a_split() -> None:
    half = versions(at_length(500), st="3.3.1")
    held = replace(half.evaluation_datasets()[0], name="json", size=64_000)
    same = replace(half, datasets=(replace(half.training_datasets()[0], name="json"), held))
    assert not found(same, "world-size")
    assert "2 processes would fit too" in found(same, "size-before-split")[0].message
    assert found(half, "world-size")
    assert not found(half, "size-before-split")


def test_fixes_change_the_right_path() -> None:
    fixes = {
        "scale-as-temperature": [{"loss.parameters.scale": 20.0}, {"loss.inner.parameters.scale": 50.0}],
        "untrained-dimension": [
            {"loss.parameters.matryoshka_dims": [768, 512, 256], "loss.parameters.matryoshka_weights": [1, 1, 1]}
        ],
        "warmup-units": [
            {"training.warmup_ratio": 0.0333, "training.warmup_steps": 0},
            {"training.warmup_ratio": 0.1, "training.warmup_steps": 0},
        ],
        "evaluation-unused": [{"training.eval_strategy": "epoch"}],
        "best-not-kept": [
            {
                "training.load_best_model_at_end": True,
                "training.eval_strategy": "epoch",
                "training.save_strategy": "epoch",
                "training.metric_for_best_model": "cosine_ndcg@10",
            }
        ],
    }
    for code, expected in fixes.items():
        for make, changes in zip(ILL[code].values(), expected, strict=False):
            fix = found(make(), code)[0].fix
            assert fix is not None
            assert dict(fix.changes) == changes


def test_the_mean_of_several_sets_tells_checkpoints_apart() -> None:
    rows = [one for one in healthy_log() if one.training_loss]
    values = [(0.50, 0.30), (0.60, 0.40), (0.55, 0.44)]  # means 0.40, 0.50, 0.495
    rows += [
        row(1000 * (at + 1), metrics={"A_cosine_ndcg@10": a, "B_cosine_ndcg@10": b}) for at, (a, b) in enumerate(values)
    ]
    card = with_args(with_log(healthy(), sorted(rows, key=lambda one: one.step or 0)), load_best_model_at_end=False)
    card = replace(card, evaluations=(evaluation(0.55, name="A"), evaluation(0.44, name="B")))
    finding = found(card, "best-not-kept")[0]
    assert (finding.evidence["best"], finding.evidence["best_step"]) == (0.5, 2000)


def test_known_queries_with_several_documents() -> None:
    card = with_args(replace(healthy(), name="hotpotqa-test"), batch_sampler="batch_sampler")
    note = found(card, "duplicate-anchors")[0]
    assert note.severity == "note"
    assert note.evidence["chance"] == pytest.approx(63 / 63_999, abs=1e-6)


def test_fit_without_a_second_mark_is_only_likely() -> None:
    card = without_args(by_fit(healthy()), "multi_dataset_batch_sampler", "max_grad_norm")
    card = replace(card, hyperparameters=with_args(healthy(), max_grad_norm=1.0).hyperparameters)
    finding = found(card, "fit-defaults")[0]
    assert (finding.severity, finding.message.split()[:2]) == ("warning", ["Very", "likely"])


def test_several_datasets_do_not_confuse() -> None:
    one = healthy().training_datasets()[0]
    two = replace(one, name="other", size=6_400, loss=Loss("TripletLoss", {}, line=31))
    rows = [row(step, 5.0, per_epoch=1100) for step in range(100, 3301, 100)]
    card = replace(with_log(healthy(), rows), datasets=(one, two), evaluations=())
    assert not found(card, "world-size")
    assert not found(card, "size-mismatch")
    assert not found(card, "loss-out-of-band")
    turns = with_args(card, multi_dataset_batch_sampler="round_robin")  # twice the 100 batches of the smaller one
    shorter = with_log(turns, [row(step, 5.0, per_epoch=200) for step in range(20, 601, 20)])
    assert not found(shorter, "world-size")
    assert not found(shorter, "size-mismatch")


def test_a_card_of_nothing_is_silent() -> None:
    assert list(audit(Card(name="x", kind="unknown"))) == []
    assert list(audit(Card(name="x", kind="unknown", datasets=(Dataset("train", "x", "a/x"),)))) == []
