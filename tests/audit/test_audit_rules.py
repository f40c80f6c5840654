"""Every rule of the audit on a made-up card that has the fault, and on near misses that have not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

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
    logged,
    lost_by,
    row,
    silent_about,
    statistics,
    told,
    trained_on,
    versions,
    without_evaluation,
)

from workbench.audit.finding import Finding
from workbench.audit.rules import RULES, audit
from workbench.cards.card import Card, ColumnStatistics, Dataset, IndexedResult, Loss, Module, Stated, Text

Make = Callable[[], Card]

ILL: dict[str, list[Make]] = {}
"""Code -> cards that have the fault."""

NEAR: dict[str, list[Make]] = {}
"""Code -> cards that look like it and have not."""


def ill(code: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        ILL.setdefault(code, []).append(make)
        return make

    return add


def near(code: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        NEAR.setdefault(code, []).append(make)
        return make

    return add


def found(card: Card, code: str) -> list[Finding]:
    return [finding for finding in audit(card) if finding.code == code]


def curve(*values: float, every: int = 100, per_epoch: int = 1000) -> Card:
    """The healthy card with these training losses and the healthy evaluations."""
    rows = [row(every * (at + 1), value, per_epoch=per_epoch) for at, value in enumerate(values)]
    return logged(healthy(), rows)


def pairs_with(dataset_fields: dict[str, object], **values: object) -> Card:
    return told(trained_on(healthy(), **dataset_fields), **values)


# --------------------------------------------------------------------------------------------------- rows, processes


def at_length(per_epoch: int, **fields: object) -> Card:
    rows = [row(step, 0.9 - step / 1e6, per_epoch=per_epoch) for step in range(100, 3 * per_epoch + 1, 100)]
    return replace(logged(healthy(), rows), **fields)


@ill("world-size")
def _two_processes() -> Card:
    return at_length(500)


@ill("world-size")
def _four_processes_that_accumulate() -> Card:
    # 64,000 rows / 64 = 1,000 batches, a quarter is 250; two of them make a step, 125 steps an epoch
    card = told(healthy(), gradient_accumulation_steps=2)
    return logged(card, [replace(row(s, 0.9), epoch=round(s / 125, 4)) for s in (25, 50, 100, 150, 275, 375)])


@near("world-size")
def _short_last_batch() -> Card:
    return trained_on(at_length(1001), size=64_001)


@near("world-size")
def _dropped_last_batch() -> Card:
    return told(trained_on(at_length(1000), size=64_063), dataloader_drop_last=True)


@near("world-size")
def _size_unknown() -> Card:
    return trained_on(at_length(500), size=None)


@near("world-size")
def _streamed() -> Card:
    return told(at_length(500), max_steps=500)


@near("world-size")
def _batch_found_by_itself() -> Card:
    return told(at_length(500), auto_find_batch_size=True)


@near("loss-out-of-band")
def _an_earlier_run_with_another_loss() -> Card:
    return logged(healthy(), [row(100, 900.0), row(200, 800.0), row(100, 1.2), row(200, 0.9)])


@ill("size-before-split")
def _four_fifths() -> Card:
    card = versions(at_length(800), st="3.3.1")
    held = replace(card.evaluation_datasets()[0], name="json", size=64_000)
    return replace(card, datasets=(replace(card.training_datasets()[0], name="json"), held))


@near("size-before-split")
def _four_fifths_but_a_version_that_counts_right() -> Card:
    return versions(_four_fifths(), st="4.1.0")


@ill("size-before-split")
def _four_fifths_and_nothing_else_fits() -> Card:
    return versions(at_length(800), st="3.3.1")


@near("size-before-split")
def _four_fifths_of_rows_made_in_memory() -> Card:
    return versions(trained_on(at_length(800), name=None, id=None), st="3.3.1")


@near("size-before-split")
def _a_half_that_is_rather_two_processes() -> Card:
    return versions(at_length(500), st="3.3.1")


@ill("size-mismatch")
def _nothing_fits() -> Card:
    return at_length(137)


@near("size-mismatch")
def _a_few_rows_left_out() -> Card:
    return at_length(990)


@ill("joined-logs")
def _two_runs() -> Card:
    return logged(healthy(), [row(100, 1.0), row(200, 0.9), row(100, 0.8), row(200, 0.7)])


@near("joined-logs")
def _evaluated_before_and_after() -> Card:
    return logged(healthy(), [row(-1, metric=0.5), *healthy_log(), row(-1, metric=0.6017)])


@ill("stopped-early")
def _epoch_one_of_three() -> Card:
    return logged(healthy(), [one for one in healthy_log() if (one.step or 0) <= 1000])


@near("stopped-early")
def _ends_one_interval_before_the_end() -> Card:
    return logged(healthy(), [one for one in healthy_log() if (one.step or 0) <= 2900])


@ill("nothing-logged")
def _fewer_steps_than_the_interval() -> Card:
    return without_evaluation(logged(pairs_with({"size": 260}), []))


@near("nothing-logged")
def _no_training_told() -> Card:
    return Card(name="bare", kind="sentence-transformer", modules=healthy().modules)


# ------------------------------------------------------------------------------------------------- arguments


@ill("fit-defaults")
def _by_fit() -> Card:
    return by_fit(healthy())


@near("fit-defaults")
def _same_columns_but_a_rate_was_set() -> Card:
    return told(by_fit(healthy()), learning_rate=3e-05)


@near("fit-defaults")
def _round_robin_by_choice() -> Card:
    return told(healthy(), multi_dataset_batch_sampler="round_robin", max_grad_norm=1)


@ill("warmup-units")
def _tenth_of_the_batches() -> Card:
    # 64,000 / 64 = 1,000 batches, a tenth is 100; four of them make a step, 250 steps an epoch
    card = told(healthy(), gradient_accumulation_steps=4, warmup_steps=100)
    return logged(card, [replace(row(s, 0.9), epoch=round(s / 250, 4)) for s in (25, 50, 100, 175, 225, 500)])


@ill("warmup-units")
def _longer_than_the_run() -> Card:
    return told(healthy(), warmup_steps=10_000)


@near("warmup-units")
def _a_tenth_of_the_steps() -> Card:
    return told(healthy(), warmup_steps=100)


@ill("learning-rate")
def _transformer_at_two_hundredths() -> Card:
    return told(healthy(), learning_rate=0.02)


@ill("learning-rate")
def _static_at_a_transformers_rate() -> Card:
    return replace(healthy(), modules=(Module(0, "StaticEmbedding", {"num_embeddings": 30522, "embedding_dim": 768}),))


@near("learning-rate")
def _static_at_its_rate() -> Card:
    return told(_static_at_a_transformers_rate(), learning_rate=0.2)


@near("learning-rate")
def _other_optimizer() -> Card:
    return told(healthy(), learning_rate=0.02, optim="sgd")


# ------------------------------------------------------------------------------------------------------------ loss


@ill("scale-as-temperature")
def _temperature() -> Card:
    return lost_by(healthy(), "MultipleNegativesRankingLoss", scale=0.05, similarity_fct="cos_sim")


@ill("scale-as-temperature")
def _inside_matryoshka() -> Card:
    inner = Loss("CachedMultipleNegativesRankingLoss", {"scale": 0.02, "similarity_fct": "cos_sim"})
    return trained_on(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


@ill("scale-as-temperature")
def _guided_by_a_scale() -> Card:
    return lost_by(healthy(), "GISTEmbedLoss", temperature=20.0)


@near("scale-as-temperature")
def _dot_product_unscaled() -> Card:
    return lost_by(healthy(), "MultipleNegativesRankingLoss", scale=1.0, similarity_fct="dot_score")


@near("scale-as-temperature")
def _guided_by_a_temperature() -> Card:
    return lost_by(healthy(), "GISTEmbedLoss", temperature=0.05)


@ill("loss-out-of-band")
def _far_too_large() -> Card:
    return curve(400.0, 200.0, 100.0, 50.0)


@ill("loss-out-of-band")
def _below_what_the_scale_allows() -> Card:
    return logged(_temperature(), [row(100, 4.1), row(200, 0.5)])


@ill("loss-out-of-band")
def _unbounded_similarity() -> Card:
    card = lost_by(healthy(), "MultipleNegativesRankingLoss", scale=20.0, similarity_fct="<lambda>")
    return logged(card, [row(100, 7000.0), row(200, 5.0)])


@near("loss-out-of-band")
def _three_matryoshka_dimensions() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {})
    card = trained_on(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256, 64]}, inner, 30))
    return logged(card, [row(100, 12.0), row(200, 9.0), row(300, 3.0)])


@near("loss-out-of-band")
def _unbounded_but_small() -> Card:
    return lost_by(healthy(), "MultipleNegativesRankingLoss", scale=20.0, similarity_fct="<lambda>")


@ill("loss-at-chance")
def _collapsed() -> Card:
    return curve(6.1, 4.4, 4.1612, 4.1592, 4.1589, 4.1590, 4.1588, 4.1589)  # ln 64 = 4.1589


@ill("loss-at-chance")
def _labels_not_told_apart() -> Card:
    label = ColumnStatistics("label", "int", {"0": "~50.30%", "1": "~49.70%"})
    card = trained_on(healthy(), columns=("anchor", "positive", "label"), statistics=(label,))
    losses = (0.71, 0.697, 0.6952, 0.6934, 0.6931, 0.6932, 0.6931, 0.6933)
    rows = [row(100 * (at + 1), value) for at, value in enumerate(losses)]
    return logged(lost_by(card, "SoftmaxLoss"), rows)


@near("loss-at-chance")
def _labels_told_apart() -> Card:
    card = _labels_not_told_apart()
    return logged(card, [*card.training_log[:-1], row(800, 0.64)])


@near("loss-at-chance")
def _starts_at_chance() -> Card:
    return curve(4.1589, 4.1, 3.9, 3.6, 3.2, 2.9, 2.5, 2.2)


@ill("summed-loss")
def _added_up() -> Card:
    card = versions(told(healthy(), gradient_accumulation_steps=4), transformers="4.51.3")
    return logged(card, [replace(row(s, 1.0), epoch=round(s / 250, 4)) for s in (25, 50, 100, 175)])


@near("summed-loss")
def _later_transformers() -> Card:
    return versions(_added_up(), transformers="4.53.0")


@ill("summed-loss")
def _added_up_by_the_first_version() -> Card:
    return versions(_added_up(), transformers="4.46.1")


@near("summed-loss")
def _mended_for_a_while() -> Card:
    return versions(_added_up(), transformers="4.47.1")


@near("summed-loss")
def _no_accumulation() -> Card:
    return versions(healthy(), transformers="4.51.3")


@ill("loss-spikes")
def _one_spike() -> Card:
    values = [round(2 * 0.97**at, 4) for at in range(30)]
    values[15] *= 1.6
    return curve(*values)


@near("loss-spikes")
def _noise() -> Card:
    return curve(*(1 + 0.3 * math.sin(at * 1.7) + 0.2 * math.cos(at * 2.9) for at in range(30)))


@ill("flat-run")
def _nothing_moved() -> Card:
    losses = [row(s, 0.39 + 0.002 * ((s // 100) % 2)) for s in range(100, 3001, 100)]
    measured = [row(s, metric=0.5039) for s in (1000, 2000, 3000)]
    return logged(healthy(), sorted([*losses, *measured], key=lambda one: one.step or 0))


@near("flat-run")
def _metrics_at_their_ceiling() -> Card:
    return logged(
        healthy(),
        [replace(one, metrics={COLUMN: 1.0 if one.metrics[COLUMN] else None}) for one in _nothing_moved().training_log],
    )


@near("flat-run")
def _loss_flat_but_the_metric_rose() -> Card:
    rows = _nothing_moved().training_log
    return logged(
        healthy(), [replace(one, metrics={COLUMN: one.metrics[COLUMN] and 0.5 + (one.step or 0) / 1e5}) for one in rows]
    )


@ill("diverged")
def _not_a_number() -> Card:
    return curve(2.1, 1.8, math.nan, math.nan)


@ill("diverged")
def _rising() -> Card:
    return curve(1.0, 1.1, 1.0, 1.2, 1.5, 1.9, 2.2, 2.6)


@near("diverged")
def _rewards_below_zero() -> Card:
    return curve(-0.3, -0.5, -0.6, -0.7, -0.72, -0.72, -0.73, -0.73)


@ill("overfit")
def _validation_turned() -> Card:
    rows = []
    for at, (train, held) in enumerate([(1.0, 0.6), (0.8, 0.5), (0.5, 0.55), (0.3, 0.6), (0.2, 0.7)]):
        rows += [row(600 * at + 500, train), row(600 * at + 600, validation=held)]
    return told(logged(healthy(), rows), load_best_model_at_end=False)


@near("overfit")
def _validation_wavers() -> Card:
    rows = []
    for at, (train, held) in enumerate([(1.0, 0.6), (0.8, 0.5), (0.5, 0.52), (0.3, 0.51), (0.2, 0.53)]):
        rows += [row(600 * at + 500, train), row(600 * at + 600, validation=held)]
    return logged(healthy(), rows)


@ill("margin-unreachable")
def _margin_of_five() -> Card:
    parameters = {"distance_metric": "TripletDistanceMetric.EUCLIDEAN", "triplet_margin": 5}
    return lost_by(healthy(), "TripletLoss", **parameters)


@ill("margin-unreachable")
def _default_margin() -> Card:
    return logged(lost_by(healthy(), "BatchAllTripletLoss"), [row(100, 4.9), row(200, 3.4), row(300, 3.2)])


@near("margin-unreachable")
def _margin_of_a_half() -> Card:
    parameters = {"distance_metric": "TripletDistanceMetric.COSINE", "triplet_margin": 0.5}
    return lost_by(healthy(), "TripletLoss", **parameters)


@near("margin-unreachable")
def _not_normalised() -> Card:
    return replace(_margin_of_five(), modules=healthy().modules[:2])


# ------------------------------------------------------------------------------------------------------- evaluation


@ill("evaluation-unused")
def _held_back_for_nothing() -> Card:
    card = told(without_evaluation(healthy()), eval_strategy="no")
    return replace(card, datasets=healthy().datasets)


@near("evaluation-unused")
def _validated_in_another_way() -> Card:
    return told(healthy(), eval_strategy="no")


@ill("not-evaluated")
def _never_evaluated() -> Card:
    return told(without_evaluation(healthy()), eval_strategy="no")


@near("not-evaluated")
def _only_a_validation_loss() -> Card:
    return replace(without_evaluation(healthy()), training_log=(row(100, 1.0), row(200, validation=0.9)))


def _measured(*values: float, **told_values: object) -> Card:
    rows = [one for one in healthy_log() if one.training_loss]
    rows += [row(1000 * (at + 1), metric=value) for at, value in enumerate(values)]
    card = logged(healthy(), sorted(rows, key=lambda one: one.step or 0))
    return replace(told(card, **told_values), evaluations=(evaluation(values[-1]),))


@ill("best-not-kept")
def _second_epoch_was_best() -> Card:
    return _measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False)


@near("best-not-kept")
def _best_was_loaded() -> Card:
    return replace(_measured(0.7135, 0.7242, 0.7172), evaluations=())


@near("best-not-kept")
def _kept_by_fit() -> Card:
    return by_fit(_measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False))


@ill("reported-not-saved")
def _table_of_another_epoch() -> Card:
    card = _measured(0.7135, 0.7242, 0.7172, load_best_model_at_end=False)
    return replace(card, evaluations=(evaluation(0.7242),))


@ill("reported-not-saved")
def _front_matter_differs() -> Card:
    return replace(healthy(), model_index=(IndexedResult("information-retrieval", "dev", "cosine_ndcg@10", 0.65),))


@near("reported-not-saved")
def _front_matter_unrounded() -> Card:
    return replace(healthy(), model_index=(IndexedResult(None, "dev", "cosine_ndcg@10", 0.60171234),))


@ill("same-name-evaluations")
def _twice_dev() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.6017), evaluation(0.7357)))


@near("same-name-evaluations")
def _two_names() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.6017), evaluation(0.7357, name="test")))


@ill("evaluation-unmatched")
def _in_no_row() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.7357),))


@near("evaluation-unmatched")
def _on_a_set_of_its_own() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.7357, name="test"),))


@ill("metric-identities")
def _recall_above_accuracy() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.6017, **{"cosine_recall@10": 0.9}),))


@ill("metric-identities")
def _twenty_four_queries() -> Card:
    values = {"cosine_accuracy@1": 0.5417, "cosine_accuracy@5": 0.7083, "cosine_accuracy@10": 0.9167}
    return replace(healthy(), evaluations=(evaluation(0.6017, **values),))


@near("metric-identities")
def _several_golds() -> Card:
    values = {
        "cosine_recall@1": 0.1,
        "cosine_recall@10": 0.31,
        "cosine_precision@1": 0.4321,
        "cosine_precision@10": 0.3,
    }
    return replace(healthy(), evaluations=(evaluation(0.6017, **values),))


@ill("metric-nan")
def _correlation_of_nothing() -> Card:
    return replace(healthy(), evaluations=(evaluation(0.6017, spearman_cosine=math.nan),))


@ill("evaluation-saturated")
def _too_easy() -> Card:
    return _measured(0.99, 1.0, 1.0)


# -------------------------------------------------------------------------------------------------------------- data


@ill("dataset-unnamed")
def _json() -> Card:
    return trained_on(healthy(), name="json", id=None)


@near("dataset-unnamed")
def _named_without_id() -> Card:
    return trained_on(healthy(), name="quora-pairs", id=None)


@ill("duplicate-anchors")
def _one_anchor_twice() -> Card:
    samples = (*TEXTS, {"anchor": TEXTS[0]["anchor"], "positive": "Light needs 1.3 seconds to it."})
    return told(trained_on(healthy(), samples=samples), batch_sampler="batch_sampler")


@near("duplicate-anchors")
def _kept_apart() -> Card:
    return told(_one_anchor_twice(), batch_sampler="no_duplicates")


@near("duplicate-anchors")
def _scored_pairs() -> Card:
    return trained_on(_one_anchor_twice(), loss=Loss("CoSENTLoss", {"scale": 20.0}, line=30))


@near("duplicate-anchors")
def _one_row_shown_twice() -> Card:
    return told(trained_on(healthy(), samples=(*TEXTS, TEXTS[0])), batch_sampler="batch_sampler")


COMPARING = (
    {"anchor": "Which is longer, the Tarn Bridge or Osk Viaduct?", "positive": "Osk Viaduct is 310 m long."},
    {"anchor": "Were Ila Brand and Oto Senn born in the same town?", "positive": "Ila Brand was born in Arden."},
    {"anchor": "how far is the moon", "positive": "The moon is 384,400 km away."},
)


@ill("duplicate-anchors")
def _questions_about_two_things() -> Card:
    return told(trained_on(healthy(), samples=COMPARING), batch_sampler="batch_sampler")


@near("duplicate-anchors")
def _one_question_about_two_things() -> Card:
    return told(trained_on(healthy(), samples=COMPARING[1:]), batch_sampler="batch_sampler")


@near("duplicate-anchors")
def _documents_about_both_things() -> Card:
    whole = tuple({**sample, "positive": f"{sample['anchor']} {sample['positive']}"} for sample in COMPARING)
    return told(trained_on(healthy(), samples=whole), batch_sampler="batch_sampler")


@ill("batch-too-small")
def _batch_of_four() -> Card:
    return logged(told(trained_on(healthy(), size=4000), per_device_train_batch_size=4), [row(100, 0.3)])


@near("batch-too-small")
def _hard_negatives_of_its_own() -> Card:
    return trained_on(_batch_of_four(), columns=("anchor", "positive", "negative"))


@ill("label-ignored")
def _mostly_no_match() -> Card:
    label = ColumnStatistics("label", "int", {"-1": "~72.90%", "1": "~27.10%"})
    return trained_on(healthy(), columns=("anchor", "positive", "label"), statistics=(statistics("anchor", 9), label))


@near("label-ignored")
def _every_pair_a_match() -> Card:
    label = ColumnStatistics("label", "int", {"1": "100.00%"})
    return trained_on(healthy(), columns=("anchor", "positive", "label"), statistics=(statistics("anchor", 9), label))


@ill("label-range")
def _scores_to_five() -> Card:
    label = ColumnStatistics("score", "float", {"min": 0.0, "mean": 2.6, "max": 5.0})
    card = trained_on(healthy(), columns=("anchor", "positive", "score"), statistics=(label,))
    return lost_by(card, "CosineSimilarityLoss")


@near("label-range")
def _scores_to_five_ranked() -> Card:
    return lost_by(_scores_to_five(), "CoSENTLoss", scale=20.0)


@ill("identical-columns")
def _the_same_on_both_sides() -> Card:
    same = tuple({"anchor": one["anchor"], "positive": one["anchor"]} for one in TEXTS)
    return trained_on(healthy(), samples=same, statistics=(statistics("anchor", 60), statistics("positive", 60)))


@near("identical-columns")
def _one_sample_alike() -> Card:
    samples = ({"anchor": "a b c", "positive": "a b c"}, *TEXTS[1:])
    return trained_on(healthy(), samples=samples, statistics=(statistics("anchor", 60), statistics("positive", 60)))


@ill("tiny-data")
def _two_hundred_rows() -> Card:
    return logged(trained_on(healthy(), size=200), [row(9, 0.9, per_epoch=4)])


@near("tiny-data")
def _two_hundred_rows_for_an_adapter() -> Card:
    module = replace(healthy().modules[0], architecture="PeftModelForFeatureExtraction")
    return replace(_two_hundred_rows(), modules=(module,))


@ill("train-is-eval")
def _a_sample_in_both() -> Card:
    held = replace(healthy().evaluation_datasets()[0], samples=TEXTS[:1])
    return replace(healthy(), datasets=(healthy().datasets[0], held))


@ill("train-is-eval")
def _the_same_numbers() -> Card:
    train = healthy().training_datasets()[0]
    held = replace(train, role="evaluation", samples=())
    return replace(healthy(), datasets=(train, held))


@near("train-is-eval")
def _the_same_size() -> Card:
    held = replace(healthy().evaluation_datasets()[0], size=healthy().training_datasets()[0].size)
    return replace(healthy(), datasets=(healthy().datasets[0], held))


@ill("truncated-texts")
def _at_the_limit() -> Card:
    return trained_on(healthy(), statistics=(statistics("anchor", 60), statistics("positive", 512, 180.0)))


@near("truncated-texts")
def _counted_in_characters() -> Card:
    long = replace(statistics("positive", 512, 180.0), unit="characters")
    return trained_on(healthy(), statistics=(statistics("anchor", 60), long))


@ill("prompts-in-texts")
def _query_before_every_query() -> Card:
    return trained_on(healthy(), samples=tuple({**one, "anchor": f"query: {one['anchor']}"} for one in TEXTS))


@near("prompts-in-texts")
def _a_template() -> Card:
    return trained_on(healthy(), samples=tuple({**one, "positive": f"Title: {one['positive']}"} for one in TEXTS))


@near("prompts-in-texts")
def _prompts_by_name() -> Card:
    return told(_query_before_every_query(), prompts={"anchor": "query: "})


@ill("text-damaged")
def _lost_characters() -> Card:
    return replace(healthy(), text=Text(repaired=40, lost=3, repaired_lines=(3, 4), lost_lines=(4,)))


# ------------------------------------------------------------------------------------------------- model, versions


@ill("untrained-dimension")
def _full_size_left_out() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {"scale": 20.0})
    parameters = {"matryoshka_dims": [512, 256], "matryoshka_weights": [1, 1]}
    return trained_on(healthy(), loss=Loss("MatryoshkaLoss", parameters, inner, 30))


@near("untrained-dimension")
def _full_size_among_them() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {"scale": 20.0})
    return trained_on(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


@ill("truncated-dimension")
def _half_of_them() -> Card:
    return replace(healthy(), output_dimension=Stated(384, 5))


@near("truncated-dimension")
def _by_a_dense_module() -> Card:
    dense = Module(3, "Dense", {"in_features": 768, "out_features": 384}, None, 9)
    return replace(_half_of_them(), modules=(*healthy().modules, dense))


@ill("hidden-inner-loss")
def _name_only() -> Card:
    inner = Loss("MultipleNegativesRankingLoss", {})
    return trained_on(healthy(), loss=Loss("MatryoshkaLoss", {"matryoshka_dims": [768, 256]}, inner, 30))


@near("hidden-inner-loss")
def _with_parameters() -> Card:
    return _full_size_among_them()


@ill("similarity-not-portable")
def _energy() -> Card:
    return replace(healthy(), similarity=Stated("Energy Distance", 6))


@ill("similarity-not-portable")
def _loss_of_the_script() -> Card:
    return lost_by(healthy(), "__main__.OwnLoss")


@near("similarity-not-portable")
def _late_interaction() -> Card:
    return replace(lost_by(healthy(), "pylate.losses.contrastive.Contrastive"), similarity=Stated("MaxSim", 6))


@ill("similarity-mismatch")
def _cosine_then_dot() -> Card:
    return replace(healthy(), similarity=Stated("Dot Product", 6), modules=healthy().modules[:2])


@near("similarity-mismatch")
def _the_same_when_normalised() -> Card:
    return replace(healthy(), similarity=Stated("Dot Product", 6))


def _peft() -> Card:
    module = replace(healthy().modules[0], architecture="PeftModelForFeatureExtraction")
    return replace(healthy(), modules=(module, *healthy().modules[1:]))


LORA = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["query", "value"], "peft_type": "LORA"}


@ill("adapter-unspecified")
def _shape_nowhere() -> Card:
    return _peft()


@near("adapter-unspecified")
def _shape_beside() -> Card:
    return replace(_peft(), beside={"adapter_config.json": LORA})


@ill("hidden-adapter")
def _adapter_beside_a_whole_model() -> Card:
    return replace(healthy(), beside={"adapter_config.json": {**LORA, "base_model_name_or_path": "acme/base"}})


@near("hidden-adapter")
def _adapter_shown() -> Card:
    return _shape_beside()


@ill("hidden-prompts")
def _prompt_beside() -> Card:
    return replace(healthy(), beside={"config_sentence_transformers.json": {"prompts": {"query": "q: ", "doc": ""}}})


@near("hidden-prompts")
def _empty_prompts_beside() -> Card:
    return replace(healthy(), beside={"config_sentence_transformers.json": {"prompts": {"query": "", "doc": ""}}})


@ill("files-disagree")
def _other_losses() -> Card:
    history = [{"step": one.step, "loss": 9.9} for one in healthy_log() if one.training_loss]
    return replace(healthy(), beside={"trainer_state.json": {"log_history": history}})


@ill("files-disagree")
def _other_limit() -> Card:
    return replace(healthy(), beside={"sentence_bert_config.json": {"max_seq_length": 128}})


@near("files-disagree")
def _same_losses() -> Card:
    history = [{"step": one.step, "loss": one.training_loss} for one in healthy_log() if one.training_loss]
    config = {"similarity_fn_name": "cosine"}
    beside = {"trainer_state.json": {"log_history": history}, "config_sentence_transformers.json": config}
    return replace(healthy(), beside=beside)


@ill("sampler-seed")
def _old_sampler() -> Card:
    return versions(healthy(), st="3.3.1")


@near("sampler-seed")
def _mended_sampler() -> Card:
    return versions(healthy(), st="3.4.0")


@near("sampler-seed")
def _development_of_the_mended_one() -> Card:
    return versions(healthy(), st="3.4.0.dev0")


@near("sampler-seed")
def _default_sampler() -> Card:
    return versions(told(healthy(), batch_sampler="batch_sampler"), st="3.3.1")


@ill("version-bug")
def _best_of_a_dense_model() -> Card:
    dense = Module(3, "Dense", {"in_features": 768, "out_features": 768}, None, 9)
    return versions(replace(healthy(), modules=(*healthy().modules, dense)), st="4.1.0")


@ill("version-bug")
def _last_mini_batch_only() -> Card:
    return lost_by(told(healthy(), per_device_train_batch_size=BATCH), "MegaBatchMarginLoss")


@near("version-bug")
def _best_of_a_plain_model() -> Card:
    return versions(healthy(), st="4.1.0")


@ill("legacy-arguments")
def _grouped_by_length() -> Card:
    return told(healthy(), group_by_length=True)


@near("legacy-arguments")
def _at_its_default() -> Card:
    return replace(healthy(), hyperparameters={**healthy().hyperparameters, **arguments(group_by_length=False)})


# --------------------------------------------------------------------------------------------------------------------


def test_a_healthy_card_is_silent() -> None:
    assert [finding.message for finding in audit(healthy())] == []


def test_every_rule_has_a_card_that_it_finds() -> None:
    assert {rule.code for rule in RULES} == set(ILL)
    assert len({rule.code for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("code", "make"), [pytest.param(code, make, id=make.__name__) for code, makes in ILL.items() for make in makes]
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
    ("code", "make"), [pytest.param(code, make, id=make.__name__) for code, makes in NEAR.items() for make in makes]
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
        for make, changes in zip(ILL[code], expected, strict=False):
            fix = found(make(), code)[0].fix
            assert fix is not None
            assert dict(fix.changes) == changes


def test_the_mean_of_several_sets_tells_checkpoints_apart() -> None:
    rows = [one for one in healthy_log() if one.training_loss]
    values = [(0.50, 0.30), (0.60, 0.40), (0.55, 0.44)]  # means 0.40, 0.50, 0.495
    rows += [
        row(1000 * (at + 1), metrics={"A_cosine_ndcg@10": a, "B_cosine_ndcg@10": b}) for at, (a, b) in enumerate(values)
    ]
    card = told(logged(healthy(), sorted(rows, key=lambda one: one.step or 0)), load_best_model_at_end=False)
    card = replace(card, evaluations=(evaluation(0.55, name="A"), evaluation(0.44, name="B")))
    finding = found(card, "best-not-kept")[0]
    assert (finding.evidence["best"], finding.evidence["best_step"]) == (0.5, 2000)


def test_known_queries_with_several_documents() -> None:
    card = told(replace(healthy(), name="hotpotqa-test"), batch_sampler="batch_sampler")
    note = found(card, "duplicate-anchors")[0]
    assert note.severity == "note"
    assert note.evidence["chance"] == pytest.approx(63 / 63_999, abs=1e-6)


def test_fit_without_a_second_mark_is_only_likely() -> None:
    card = silent_about(by_fit(healthy()), "multi_dataset_batch_sampler", "max_grad_norm")
    card = replace(card, hyperparameters=told(healthy(), max_grad_norm=1.0).hyperparameters)
    finding = found(card, "fit-defaults")[0]
    assert (finding.severity, finding.message.split()[:2]) == ("warning", ["Very", "likely"])


def test_several_datasets_do_not_confuse() -> None:
    one = healthy().training_datasets()[0]
    two = replace(one, name="other", size=6_400, loss=Loss("TripletLoss", {}, line=31))
    rows = [row(step, 5.0, per_epoch=1100) for step in range(100, 3301, 100)]
    card = replace(logged(healthy(), rows), datasets=(one, two), evaluations=())
    assert not found(card, "world-size")
    assert not found(card, "size-mismatch")
    assert not found(card, "loss-out-of-band")
    turns = told(card, multi_dataset_batch_sampler="round_robin")  # twice the 100 batches of the smaller one
    shorter = logged(turns, [row(step, 5.0, per_epoch=200) for step in range(20, 601, 20)])
    assert not found(shorter, "world-size")
    assert not found(shorter, "size-mismatch")


def test_a_card_of_nothing_is_silent() -> None:
    assert list(audit(Card(name="x", kind="unknown"))) == []
    assert list(audit(Card(name="x", kind="unknown", datasets=(Dataset("train", "x", "a/x"),)))) == []
