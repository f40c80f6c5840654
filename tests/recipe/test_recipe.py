"""Recipes of the five cards against values read off the cards by hand; overrides, YAML, provenance."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from workbench.audit.rules import audit
from workbench.cards.card import (
    Card,
    ColumnStatistics,
    Dataset,
    Evaluation,
    IndexedResult,
    LogRow,
    Loss,
    Module,
    Stated,
)
from workbench.cards.read import parse_card, read_card
from workbench.errors import RecipeError
from workbench.recipe.from_card import recipe
from workbench.recipe.overrides import parse_setting, with_overrides
from workbench.recipe.schema import (
    Base,
    Lora,
    LossSpec,
    Origin,
    Recipe,
    Source,
    difference,
    leaves,
    recipe_sha256,
    with_origins,
)
from workbench.recipe.yaml_io import load_recipe, read_yaml, recipe_yaml, save_recipe

FIVE = {
    "hotpotqa-distilbert-energy": {
        "base.model": "distilbert/distilbert-base-uncased",
        "base.pooling": "mean",
        "base.max_seq_length": 512,
        "base.similarity": "energy",
        "base.lora": None,
        "data.train.location": "unknown",
        "data.train.rows": 170_000,
        "data.columns": ("query", "text"),
        "data.split.train": 0.9,
        "data.split.validation": 0.1,
        "data.split.test": 0.0,
        "loss.name": "MultipleNegativesRankingLoss",
        "loss.parameters.scale": 20.0,
        "loss.parameters.similarity_fct": "energy",
        "loss.parameters.distance": "manhattan",
        "training.num_train_epochs": 10.0,
        "training.per_device_train_batch_size": 16,
        "training.gradient_accumulation_steps": 4,
        "training.learning_rate": 3e-5,
        "training.weight_decay": 0.01,
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 956,
        "training.seed": 24,
        "training.fp16": True,
        "training.dataloader_drop_last": True,
        "training.eval_strategy": "no",
        "training.logging_steps": 25,
        "training.processes": 2,
        "evaluation.main_metric": "energy_ndcg@10",
        "evaluation.repeated_queries": "merged",
    },
    "gooaq-static-matryoshka": {
        "base.model": "sentence-transformers/static-retrieval-mrl-en-v1",
        "base.pooling": None,
        "base.static_dimensions": 1024,
        "data.train.rows": 3_012_496,
        "data.columns": ("sentence_0", "sentence_1"),
        "data.split": None,
        "data.evaluation.location": "sentence-transformers/NanoBEIR-en",
        "loss.name": "MatryoshkaLoss",
        "loss.parameters.matryoshka_dims": [512, 256],
        "loss.inner.name": "MultipleNegativesRankingLoss",
        "training.num_train_epochs": 15.0,
        "training.per_device_train_batch_size": 256,
        "training.learning_rate": 2e-5,
        "training.weight_decay": 0.01,
        "training.warmup_steps": 10_000,
        "training.multi_dataset_batch_sampler": "round_robin",
        "training.eval_strategy": "epoch",
        "training.logging_steps": 500,
        "training.processes": 1,
        "evaluation.evaluator": "NanoBEIREvaluator",
        "evaluation.main_metric": "cosine_ndcg@10",
        "evaluation.truncate_dim": None,
        "evaluation.repeated_queries": "separate",
    },
    "korean-law-lora": {
        "base.model": "jhgan/ko-sroberta-multitask",
        "base.max_seq_length": 128,
        "base.lora.r": 8,
        "base.lora.alpha": 16.0,
        "base.lora.target_modules": ("query", "value"),
        "data.train.rows": 15_427,
        "data.split": None,
        "loss.parameters.scale": 0.05,
        "loss.parameters.similarity_fct": "cos_sim",
        "training.num_train_epochs": 1.0,
        "training.per_device_train_batch_size": 4,
        "training.learning_rate": 2e-5,
        "training.fp16": True,
        "training.warmup_steps": 10_000,
        "training.logging_steps": 500,
        "training.prompts.sentence_0": "Represent this sentence for searching relevant passages: ",
        "training.prompts.sentence_1": "Represent this sentence for retrieving relevant passages: ",
        "base.prompts.query": "Represent this sentence for searching relevant passages: ",
        "base.prompts.document": "Represent this sentence for retrieving relevant passages: ",
        "evaluation.repeated_queries": "merged",
    },
    "porsche-mxbai": {
        "base.model": "mixedbread-ai/mxbai-embed-large-v1",
        "base.revision": "e7857440379da569f68f19e8403b69cd7be26e50",
        "base.pooling": "cls",
        "base.max_seq_length": 512,
        "base.similarity": "cosine",
        "base.static_dimensions": None,
        "training.prompts": {},
        "data.train.rows": 1_797,
        "data.columns": ("anchor", "positive"),
        "data.split.train": 0.8,
        "data.split.validation": 0.1,
        "data.split.test": 0.1,
        "loss.parameters.scale": 20.0,
        "training.num_train_epochs": 3.0,
        "training.per_device_train_batch_size": 8,
        "training.learning_rate": 2e-5,
        "training.lr_scheduler_type": "cosine",
        "training.warmup_ratio": 0.1,
        "training.batch_sampler": "no_duplicates",
        "training.eval_strategy": "epoch",
        "training.load_best_model_at_end": False,
        "training.logging_steps": 100,
        "training.processes": 1,
        "evaluation.evaluator": "InformationRetrievalEvaluator",
        "evaluation.name": "eval_finetune_embed",
        "evaluation.truncate_dim": 512,
        "evaluation.repeated_queries": "separate",
        "evaluation.main_metric": "cosine_ndcg@10",
    },
    "sinhala-xlmr-cosine": {
        "base.model": "sentence-transformers/xlm-r-100langs-bert-base-nli-stsb-mean-tokens",
        "base.max_seq_length": 128,
        "data.train.rows": 260,
        "data.columns": ("sentence_0", "sentence_1", "label"),
        "data.split": None,
        "loss.name": "CosineSimilarityLoss",
        "training.per_device_train_batch_size": 4,
        "training.learning_rate": 2e-5,
        "training.warmup_steps": 10_000,
        "training.logging_steps": 500,
        "evaluation.evaluator": "EmbeddingSimilarityEvaluator",
        "evaluation.main_metric": "spearman_cosine",
    },
}
"""Read off the cards by hand; the learning rates of three are those of `fit()`, whose signature says 2e-5."""


def small(**changes: Any) -> Card:
    """A card with little on it."""
    loss = Loss("MultipleNegativesRankingLoss", {"scale": 20.0}, line=30)
    dataset = Dataset("train", None, size=800, columns=("anchor", "positive"), loss=loss, lines=(20, 35))
    card = Card("small", "sentence-transformer", base_model=Stated("some/base", 5), datasets=(dataset,))
    return dataclasses.replace(card, **changes)


@pytest.mark.parametrize("folder", ["seeds", "seeds-clean"])
@pytest.mark.parametrize("name", FIVE)
def test_the_five_cards_as_read_by_hand(shared: Path, folder: str, name: str) -> None:
    found = leaves(recipe(read_card(shared / "cards" / folder / f"{name}.md")))
    assert {path: found.get(path, "absent") for path in FIVE[name]} == FIVE[name]


def test_damaged_cards_give_the_same_recipes_as_clean_ones(shared: Path) -> None:
    for name in FIVE:
        damaged, clean = (
            recipe(read_card(shared / "cards" / folder / f"{name}.md")) for folder in ("seeds", "seeds-clean")
        )
        assert [change for change in difference(damaged, clean) if not change[0].startswith("base.")] == []


def test_real_cards_make_a_recipe_or_say_why_not(shared: Path, tmp_path: Path) -> None:
    untrained: dict[str, str] = {}
    for readme in sorted((shared / "cards" / "real").rglob("README.md")):
        card = read_card(readme.parent)
        try:
            made = recipe(card)
        except RecipeError as error:
            untrained[card.name] = str(error)
            continue
        assert set(made.provenance) == set(leaves(made))
        save_recipe(made, tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml") == made
    assert set(untrained) == {"lightonai__pylate-rs__untrained-colbert", "mazenbs__arabic_emdd__untrained-albert-ar"}
    assert all("expected a training loss" in message for message in untrained.values())


@pytest.mark.parametrize("name", FIVE)
def test_every_origin_points_at_the_line_that_says_so(shared: Path, name: str) -> None:
    card = read_card(shared / "cards" / "seeds-clean" / f"{name}.md")
    made = recipe(card)
    for path, value in leaves(made).items():
        origin = made.provenance[path]
        if origin.source == "card" and path.startswith("training."):
            assert origin.lines, path
            line = card.lines[origin.lines[0] - 1]
            word, stated = re.match(r"- `(\w+)`: (.*)", line).groups()  # type: ignore[union-attr]
            assert word == path.removeprefix("training.")
            assert stated.strip() == str(value) or float(stated) == float(value)


def test_inferred_fields_give_the_calculation(shared: Path) -> None:
    made = recipe(read_card(shared / "cards" / "seeds-clean" / "porsche-mxbai.md"))
    origin = made.provenance["data.split.train"]
    assert origin.source == "inferred"
    assert "180 batches an epoch × 8 rows = 1,440 of 1,797 rows, which is 80%" in origin.note
    assert "1/180" in origin.note
    made = recipe(read_card(shared / "cards" / "seeds-clean" / "hotpotqa-distilbert-energy.md"))
    assert "one of 2 processes" in made.provenance["training.processes"].note


def test_what_fit_did_not_run_is_said(shared: Path) -> None:
    made = recipe(read_card(shared / "cards" / "seeds-clean" / "gooaq-static-matryoshka.md"))
    origin = made.provenance["training.learning_rate"]
    assert origin.source == "library"
    assert origin.lines == (1039,)
    assert origin.note.startswith("default of SentenceTransformer.fit()")
    assert "5e-05 is an argument that did not run" in origin.note


def test_a_public_source_that_matches_is_named_but_not_taken(shared: Path) -> None:
    made = recipe(read_card(shared / "cards" / "seeds-clean" / "gooaq-static-matryoshka.md"))
    assert made.data.train.location == "unknown"
    assert made.provenance["data.train.location"].note == (
        "the card does not name its dataset; sentence-transformers/gooaq is a public source that matches; "
        "name it, or yours, with --data"
    )


def test_the_parameters_of_an_old_card_did_run() -> None:
    stated = {
        "epochs": Stated(4, 111),
        "batch_size": Stated(32, 87),
        "optimizer_class": Stated("<class 'transformers.optimization.AdamW'>", 115),
        "optimizer_params": Stated({"lr": 3e-5}, 116),
        "scheduler": Stated("WarmupCosine", 119),
        "warmup_steps": Stated(72, 121),
        "weight_decay": Stated(0.01, 122),
        "evaluation_steps": Stated(1000, 112),
    }
    training = recipe(small(hyperparameters=stated)).training
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.optim) == (4, 32, "adamw_torch")
    assert (training.learning_rate, training.lr_scheduler_type, training.warmup_steps) == (3e-5, "cosine", 72)
    assert (training.weight_decay, training.eval_strategy, training.eval_steps) == (0.01, "steps", 1000)


def test_what_a_recipe_does_not_hold_of_an_old_card_is_said() -> None:
    loader = {"class": "torch.utils.data.DataLoader", "batch_size": 8, "sampler": "torch.utils.data.SequentialSampler"}
    stated = {
        "epochs": Stated(2, 111),
        "steps_per_epoch": Stated(100, 112),
        "DataLoader": Stated(loader, 113),
        "scheduler": Stated("WarmupMine", 119),
        "optimizer_class": Stated("<class 'torch.optim.SGD'>", 115),
        "optimizer_params": Stated({"lr": 3e-5, "eps": 1e-6, "momentum": 0.9}, 116),
        "evaluator": Stated("NoneType", 117),
        "callback": Stated("mine.Callback", 118),
    }
    made = recipe(small(hyperparameters=stated))
    assert (made.training.max_steps, made.training.adam_epsilon) == (200, 1e-6)
    assert made.provenance["training.max_steps"].lines == (112,)
    assert made.notes == (
        "`scheduler` = 'WarmupMine' (line 119) is not known: linear is taken.",
        "`momentum` = 0.9 of optimizer_params (line 116) is not used.",
        "`optimizer_class` = \"<class 'torch.optim.SGD'>\" is not known: adamw_torch is taken.",
        "`SequentialSampler` of DataLoader (line 113) is not used: rows are drawn in random order.",
        "`callback` = 'mine.Callback' (line 118) is not used: a recipe does not hold it.",
    )
    apart = {"class": "sentence_transformers.datasets.NoDuplicatesDataLoader", "batch_size": 8}
    made = recipe(small(hyperparameters={**stated, "DataLoader": Stated(apart, 113)}))
    assert made.training.batch_sampler == "no_duplicates"


def test_a_module_that_a_recipe_does_not_build_is_said() -> None:
    modules = (Module(0, "Router", {"default_route": "document"}, line=72), Module(1, "Normalize", {}))
    assert recipe(small(modules=modules)).notes == (
        "The module `Router` (line 72) is not in a recipe: it is trained only where the base has it.",
    )


def test_a_static_table_without_a_size_is_as_wide_as_the_output() -> None:
    modules = (Module(0, "StaticEmbedding", {}, line=66),)
    made = recipe(small(modules=modules, output_dimension=Stated(64, 55)))
    assert (made.base.static_dimensions, made.provenance["base.static_dimensions"].lines) == (64, (55,))
    longer = (*modules, Module(1, "Dense", {"out_features": 64}))
    assert recipe(small(modules=longer, output_dimension=Stated(64, 55))).base.static_dimensions is None


def test_an_adapter_of_another_base_is_not_trained() -> None:
    beside = {"adapter_config.json": {"base_model_name_or_path": "unsloth/Llama-3.2-3B", "r": 16}}
    made = recipe(small(beside=beside, base_model=Stated("acme/base", 4)))
    assert made.base.lora is None
    assert made.notes == (
        "adapter_config.json is not used: it adapts unsloth/Llama-3.2-3B, which is not the card's base.",
    )
    beside["adapter_config.json"]["base_model_name_or_path"] = r"D:\models\base"
    assert recipe(small(beside=beside, base_model=Stated("acme/base", 4))).base.lora == Lora(r=16)


@pytest.mark.parametrize(
    "word", ["1e1", "\x85", "a\u2028b", "no", "0x10", "12:30", "~", "", " x", "1e999", "\ufeff", "a\nb", "!!int x"]
)
def test_any_text_is_the_same_after_writing_and_reading(word: str, tmp_path: Path) -> None:
    made = recipe(small()).model_copy(update={"notes": (word, f"x{word}y")})
    made = made.model_copy(update={"base": made.base.model_copy(update={"model": word, "prompts": {word: word}})})
    made = with_origins(made, made.provenance)
    save_recipe(made, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == made


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!!int ''", "'' is no int"), ("!!bool maybe", "'maybe' is no bool"), ("!!float x", "'x' is no float"),
        ("!!int 0x1F", "'0x1F' is no int"), ("!!null 1", "'1' is no null"),
        ("!!timestamp x", "could not determine a constructor for the tag 'tag:yaml.org,2002:timestamp'"),
        ("!!set {a}", "could not determine a constructor for the tag 'tag:yaml.org,2002:set'"),
    ],
)  # fmt: skip
def test_a_tag_that_does_not_fit_is_refused_everywhere(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match=f"^{re.escape(problem)}"):
        read_yaml(text)
    assert parse_setting(f"x={text}") == ("x", text)
    (tmp_path / "recipe.yaml").write_text(f"name: {text}")
    with pytest.raises(RecipeError, match=f"found something else \\({re.escape(problem)}, line 1, column 7\\)"):
        load_recipe(tmp_path / "recipe.yaml")
    card = parse_card(f"---\ntags: [sentence-transformers]\nx: {text}\n---\n# SentenceTransformer\n".encode(), name="x")
    assert [part.reason for part in card.unread if part.section == "header"] == [f"no valid YAML: {problem}"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, [1, {"a": math.inf}]])
def test_a_number_that_no_file_can_hold_is_refused(value: object) -> None:
    made = recipe(small())
    for path in ("loss.parameters.scale", "training.lr_scheduler_kwargs.x", "training.max_grad_norm"):
        with pytest.raises(RecipeError, match=f"^expected a (finite )?number for '{path}', found "):
            with_overrides(made, {path: value})


def test_fit_has_the_defaults_that_are_written_down() -> None:
    import inspect

    from sentence_transformers import SentenceTransformer

    from workbench.recipe.from_card import FIT

    signature = inspect.signature(SentenceTransformer.fit).parameters
    assert signature["optimizer_params"].default == {"lr": FIT["learning_rate"]}
    assert signature["weight_decay"].default == FIT["weight_decay"]
    assert signature["warmup_steps"].default == FIT["warmup_steps"]
    assert signature["scheduler"].default == "WarmupLinear"


def test_an_adapter_beside_the_card_gives_its_shape() -> None:
    adapter = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "use_dora": True,
        "target_modules": ["value", "query"],
    }
    prompts = {"prompts": {"query": "find: ", "passage": ""}}
    beside = {"adapter_config.json": adapter, "config_sentence_transformers.json": prompts}
    made = recipe(small(beside=beside))
    assert made.base.lora is not None
    assert made.base.lora.model_dump() == {
        "r": 4, "alpha": 32.0, "dropout": 0.1, "target_modules": ("query", "value"), "use_dora": True
    }  # fmt: skip
    assert made.base.prompts == {"query": "find: "}
    assert made.provenance["base.lora.r"] == Origin(
        source="file", note="adapter_config.json, of which the card shows nothing"
    )
    assert made.provenance["base.prompts.query"].note == "config_sentence_transformers.json"


def test_a_peft_model_without_its_shape_takes_the_stated_default() -> None:
    module = Module(0, "Transformer", {}, "PeftModelForFeatureExtraction", 50)
    made = recipe(small(modules=(module,)))
    assert made.base.lora is not None
    assert made.provenance["base.lora.r"].source == "default"
    assert made.provenance["base.lora.r"].lines == (50,)


def test_arguments_of_older_libraries_are_translated_or_dropped_with_a_note() -> None:
    stated = {
        "evaluation_strategy": Stated("steps", 60),
        "batch_sampler": Stated("BatchSamplers.NO_DUPLICATES", 61),
        "per_gpu_train_batch_size": Stated(4, 62),
        "no_cuda": Stated(True, 63),
        "warmup_steps": Stated(0.1, 64),
    }
    made = recipe(small(non_default=stated, hyperparameters={"lr_scheduler_kwargs": Stated({"num_cycles": 2}, 70)}))
    assert made.training.eval_strategy == "steps"
    assert made.provenance["training.eval_strategy"].note == "called evaluation_strategy on the card"
    assert made.training.batch_sampler == "no_duplicates"
    assert made.training.per_device_train_batch_size == 4
    assert (made.training.warmup_ratio, made.training.warmup_steps) == (0.1, 0)
    assert made.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert made.provenance["training.lr_scheduler_kwargs.num_cycles"] == Origin(source="card", lines=(70,))
    assert made.notes == ("`no_cuda` = True (line 63) is not used: the device is chosen where the recipe runs.",)


def test_a_new_name_wins_over_an_old_one() -> None:
    stated = {"per_gpu_train_batch_size": Stated(4, 1), "per_device_train_batch_size": Stated(32, 2)}
    assert recipe(small(hyperparameters=stated)).training.per_device_train_batch_size == 32


def test_impossible_values_on_a_card_are_noted_and_take_the_default() -> None:
    stated = {"seed": Stated("forty-two", 60), "learning_rate": Stated(float("nan"), 61)}
    made = recipe(small(hyperparameters=stated))
    assert (made.training.seed, made.training.learning_rate) == (42, 5e-5)
    assert made.provenance["training.seed"].source == "library"
    assert any("`training.seed` cannot be 'forty-two'" in note for note in made.notes)


def test_a_library_default_names_its_version() -> None:
    made = recipe(small(versions={"Transformers": Stated("4.44.2", 90)}))
    assert made.provenance["training.weight_decay"] == Origin(source="library", note="default of Transformers 4.44.2")
    assert "version not stated" in recipe(small()).provenance["training.weight_decay"].note


def test_what_is_called_a_default_of_the_library_is_an_argument_of_it() -> None:
    from sentence_transformers import SentenceTransformerTrainingArguments

    arguments = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)}
    origins = recipe(small()).provenance
    said = {path.removeprefix("training.") for path, origin in origins.items() if origin.source == "library"}
    assert {name for name in said if "." not in name} - arguments == set()
    assert "engine" not in said


def test_truncation_is_inferred_from_the_dimensions() -> None:
    pooling = Module(1, "Pooling", {"word_embedding_dimension": 1024, "pooling_mode_cls_token": True}, line=80)
    made = recipe(small(modules=(pooling,), output_dimension=Stated(512, 40)))
    assert made.evaluation.truncate_dim == 512
    assert made.provenance["evaluation.truncate_dim"].lines == (40, 80)
    assert recipe(small(modules=(pooling,), output_dimension=Stated(1024, 40))).evaluation.truncate_dim is None


def test_a_split_is_read_off_the_steps_of_an_epoch() -> None:
    # 800 rows, 80 steps of 8 rows an epoch: 640 rows, 80%; accuracies are multiples of 1/80, 10% of the rows.
    log = (LogRow(0.5, 40, 0.3, None, {}, line=60), LogRow(1.0, 80, 0.2, None, {}, line=61))
    results = tuple(IndexedResult(None, None, "cosine_accuracy@1", count / 80) for count in (41, 57))
    batch = {"per_device_train_batch_size": Stated(8, 50)}
    made = recipe(small(training_log=log, model_index=results, hyperparameters=batch))
    assert made.data.split is not None
    assert (made.data.split.train, made.data.split.validation, made.data.split.test) == (0.8, 0.1, 0.1)
    whole = (LogRow(1.0, 100, 0.2, None, {}, line=61),)
    assert recipe(small(training_log=whole, hyperparameters=batch)).data.split is None
    assert recipe(small(training_log=log)).data.split is None  # the batch size is not known


def test_a_card_without_a_loss_has_no_recipe() -> None:
    message = (
        "expected a training loss on the card 'small', found none in what was understood of it, so it cannot be "
        "trained again. Was the model never trained, or is the training told in other words, or cut off?"
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        recipe(small(datasets=()))


def test_names_from_a_card_never_leave_their_folder() -> None:
    evaluation = Evaluation("X", "y", ("../../etc/passwd",), {}, {"a": 1.0}, "a", (1, 2))
    made = recipe(small(name="../../tmp/x", evaluations=(evaluation,)))
    assert (made.name, made.evaluation.name) == ("tmp-x", "etc-passwd")
    with pytest.raises(ValidationError):
        Recipe(name="../x", base=Base(model="a"), loss=LossSpec(name="b"))


# --------------------------------------------------------------------------------------- several datasets, prompts


def several(*datasets: Dataset, **changes: Any) -> Card:
    return small(datasets=datasets, **changes)


RANKING = Loss("MultipleNegativesRankingLoss", {"scale": 20.0}, line=30)
TRIPLETS = Loss("TripletLoss", {"distance_metric": "TripletDistanceMetric.EUCLIDEAN", "triplet_margin": 5}, line=40)


def test_a_card_with_several_datasets_keeps_each_with_its_own_loss() -> None:
    first = Dataset("train", "nli", id="a/nli", size=800, columns=("anchor", "positive"), loss=RANKING, lines=(20, 30))
    alike = Dataset(
        "train", "qa", id="a/qa", revision="ab12", size=90, columns=("q", "a"), loss=RANKING, lines=(31, 36)
    )
    other = Dataset("train", None, size=70, columns=("anchor", "positive", "negative"), loss=TRIPLETS, lines=(37, 44))
    made = recipe(
        several(first, alike, other, hyperparameters={"multi_dataset_batch_sampler": Stated("round_robin", 60)})
    )
    assert (made.data.name, made.data.train.location) == ("nli", "a/nli")
    assert [further.model_dump() for further in made.data.more] == [
        {
            "name": "qa",
            "source": Source(location="a/qa", revision="ab12", rows=90).model_dump(),
            "columns": ("q", "a"),
            "loss": None,
            "evaluation": None,
        },
        {
            "name": "dataset_3",
            "source": Source(rows=70).model_dump(),
            "columns": ("anchor", "positive", "negative"),
            "loss": {"name": "TripletLoss", "parameters": dict(TRIPLETS.parameters), "inner": None},
            "evaluation": None,
        },
    ]
    assert made.training.multi_dataset_batch_sampler == "round_robin"
    assert made.notes == ()
    assert made.provenance["data.more.0.source.location"] == Origin(source="card", lines=(31,))
    assert made.provenance["data.more.1.loss.parameters.triplet_margin"] == Origin(source="card", lines=(40,))
    assert made.provenance["data.more.1.name"].source == "default"
    assert set(made.provenance) == set(leaves(made))
    assert "  and         qa, a/qa: 90 rows (q, a)\n" in repr(made)


def test_several_datasets_survive_their_yaml(tmp_path: Path) -> None:
    one = Dataset("train", "a", size=10, columns=("x", "y"), loss=RANKING)
    made = recipe(several(one, Dataset("train", "b", size=20, columns=("x", "y", "z"), loss=TRIPLETS)))
    save_recipe(made, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == made
    plain = recipe(several(one))
    assert ("data.more.0.name", None, "b") in difference(plain, made)
    assert not any(path == "data.more" for path, _, _ in difference(plain, made))


def test_a_real_card_with_a_loss_for_each_dataset(shared: Path) -> None:
    # 15,612 and 5,000 rows: two losses, and evaluation rows of both.
    made = recipe(read_card(shared / "cards" / "real" / "thinhcopypaste__chatbot_uit__softmax-triplet"))
    assert (made.data.name, made.loss.name, made.data.train.rows) == ("pair-class", "SoftmaxLoss", 17_564)
    assert made.loss.parameters == {"num_labels": 2}
    (further,) = made.data.more
    assert further.loss is not None
    assert (further.name, further.source.rows, further.loss.name) == ("triplet", 5_000, "TripletLoss")
    assert made.training.processes == 2
    assert made.notes == (
        "`load_best_model_at_end` is set, but the log does not show by which value: the row that was kept, step 5160, "
        "is not the best by any column.",
    )
    assert further.evaluation is not None
    assert (further.evaluation.location, further.evaluation.rows) == ("unknown", 1_500)


def test_a_fix_reaches_the_loss_of_the_dataset_that_needs_it() -> None:
    wrong = Loss("MultipleNegativesRankingLoss", {"scale": 0.05}, line=40)
    one = Dataset("train", "a", size=800, columns=("x", "y"), loss=RANKING)
    made = recipe(several(one, Dataset("train", "b", size=800, columns=("x", "y"), loss=wrong)), corrected=True)
    assert made.loss.parameters == {"scale": 20.0}
    assert made.data.more[0].loss is not None
    assert made.data.more[0].loss.parameters == {"scale": 20.0}
    assert made.provenance["data.more.0.loss.parameters.scale"].note == "scale-as-temperature"


@pytest.mark.parametrize(
    ("value", "expected", "notes"),
    [
        ("find: ", {"anchor": "find: ", "positive": "find: "}, 0),
        ({"anchor": "find: ", "positive": ""}, {"anchor": "find: "}, 0),
        ({"a": "find: ", "b": "find: "}, {"anchor": "find: ", "positive": "find: "}, 0),
        ({"a": {"anchor": "find: "}, "b": "other: "}, {"anchor": "find: "}, 1),
        ({"b": {"anchor": "find: "}}, {}, 1),
        (["find: "], {}, 1),
        ({"anchor": 3}, {}, 1),
        (None, {}, 0),
    ],
)
def test_prompts_of_the_trainer_are_taken_by_column(value: Any, expected: dict[str, str], notes: int) -> None:
    one = Dataset("train", "a", size=80, columns=("anchor", "positive", "label"), loss=RANKING)
    two = Dataset("train", "b", size=80, columns=("anchor", "positive"), loss=RANKING)
    made = recipe(several(one, two, non_default={"prompts": Stated(value, 70)}))
    assert made.training.prompts == expected
    assert len(made.notes) == notes
    assert made.base.prompts == {}  # what evaluation used is not said
    for column in expected:
        assert made.provenance[f"training.prompts.{column}"] == Origin(source="card", lines=(70,))


def test_prompts_in_texts_are_proved_by_the_samples() -> None:
    samples = tuple({"q": f"query: what is {n}", "a": f"passage: it is {n}"} for n in range(3))
    dataset = Dataset("train", None, size=80, columns=("q", "a"), samples=samples, loss=RANKING, facts={"samples": 25})
    made = recipe(several(dataset))
    assert made.training.prompts == {"q": "query: ", "a": "passage: "}
    assert made.base.prompts == {"query": "query: ", "document": "passage: "}
    origin = made.provenance["training.prompts.q"]
    assert (origin.source, origin.lines) == ("inferred", (25,))
    assert "every sample of the column on the card begins so" in origin.note
    beside = {"config_sentence_transformers.json": {"prompts": {"query": "find: "}}}
    assert recipe(several(dataset, beside=beside)).base.prompts == {"query": "find: "}


def test_what_is_known_of_the_shipped_rows_is_what_the_full_card_proves(shared: Path) -> None:
    whole = recipe(read_card(shared / "cards" / "seeds-clean" / "korean-law-lora.md"))
    facts = recipe(read_card("korean-law-lora"))
    assert (facts.training.prompts, facts.base.prompts) == (whole.training.prompts, whole.base.prompts)
    assert "data/cards/sources.yaml" in facts.provenance["training.prompts.sentence_0"].note
    assert "every sample" in whole.provenance["training.prompts.sentence_0"].note


def test_repeated_questions_are_one_query_where_the_card_shows_them_and_counts_nothing() -> None:
    samples = ({"anchor": "who won", "positive": "it did"}, {"anchor": "who won", "positive": "they did"})
    dataset = Dataset("train", None, size=80, columns=("anchor", "positive"), samples=samples, loss=RANKING)
    assert recipe(several(dataset)).evaluation.repeated_queries == "merged"
    counted = Evaluation(
        "InformationRetrievalEvaluator", "x", (), {}, {"cosine_ndcg@10": 0.5}, "cosine_ndcg@10", (1, 2)
    )
    assert recipe(several(dataset, evaluations=(counted,))).evaluation.repeated_queries == "separate"
    assert recipe(small()).evaluation.repeated_queries == "separate"


def test_the_size_of_the_first_loss_tells_the_distance() -> None:
    """768 dimensions: L2 distances end near 39, so gaps of L2 scores at 78 and the loss at 20 x 78 = 1,568."""
    unknown = Loss("MultipleNegativesRankingLoss", {"scale": 20.0, "similarity_fct": "<lambda>"}, line=30)
    dataset = Dataset("train", None, size=800, columns=("anchor", "positive"), loss=unknown)
    pooling = Module(1, "Pooling", {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True}, line=80)
    for loss, source in ((1600.0, "inferred"), (1500.0, "default")):
        log = (LogRow(0.5, 10, loss, None, {}, line=90), LogRow(1.0, 20, loss / 2, None, {}, line=91))
        card = several(dataset, similarity=Stated("Energy Distance", 9), modules=(pooling,), training_log=log)
        made = recipe(card)
        assert made.loss.parameters == {"scale": 20.0, "similarity_fct": "energy", "distance": "manhattan"}
        assert made.provenance["loss.parameters.distance"].source == source
        assert made.evaluation.main_metric == "energy_ndcg@10"


def test_the_classes_of_a_softmax_loss_are_counted_on_the_card() -> None:
    def made(details: dict[str, str]) -> dict[str, Any]:
        statistics = (ColumnStatistics("label", "int", details),)
        dataset = Dataset(
            "train", None, size=9, columns=("a", "b", "label"), statistics=statistics, loss=Loss("SoftmaxLoss", {})
        )
        return recipe(several(dataset)).loss.parameters

    assert made({"0": 0.5, "1": 0.3, "2": 0.2}) == {"num_labels": 3}
    assert made({"1": 0.5, "5": 0.5}) == {}


def test_a_card_named_like_a_public_set_does_not_prove_repeated_queries() -> None:
    card = small(name="hotpotqa", non_default={"per_device_train_batch_size": Stated(16, 40)})
    assert "duplicate-anchors" in audit(card).codes
    assert recipe(card).evaluation.repeated_queries == "separate"


def test_trackers_of_the_card_are_said_and_not_taken() -> None:
    made = recipe(small(non_default={"report_to": Stated(["wandb"], 70)}))
    assert made.training.report_to == ()
    assert made.notes == (
        "`report_to` = ['wandb'] (line 70) is not used: no tracker follows a run unless training.report_to is set.",
    )


# ------------------------------------------------------------------------------------------------------ corrected

CORRECTED: dict[str, dict[str, Any]] = {
    "hotpotqa-distilbert-energy": {
        "training.eval_strategy": "epoch",
        "training.batch_sampler": "no_duplicates",
        "training.warmup_ratio": 0.01,
        "training.warmup_steps": 0,
    },
    "gooaq-static-matryoshka": {
        "training.learning_rate": 0.2,
        "training.warmup_ratio": 0.1,
        "training.warmup_steps": 0,
        "training.bf16": True,
        "loss.parameters.matryoshka_dims": [1024, 512, 256],
    },
    "korean-law-lora": {
        "loss.parameters.scale": 20.0,
        "training.eval_strategy": "epoch",
        "training.warmup_ratio": 0.1,
        "training.warmup_steps": 0,
        "data.split.validation": 0.1,
    },
    "porsche-mxbai": {"training.load_best_model_at_end": True, "training.save_strategy": "epoch"},
    "sinhala-xlmr-cosine": {
        "training.warmup_ratio": 0.1,
        "training.warmup_steps": 0,
        "training.logging_steps": 3,
        "training.eval_strategy": "epoch",
        "data.split.validation": 0.1,
    },
}
"""Issue by issue: the learning rate of static embeddings, the full dimension, the scale, the best checkpoint kept, a
warmup that fits 65 steps. 10% of the 1,195 steps of one of ten epochs are 1% of the run."""


@pytest.mark.parametrize("name", FIVE)
def test_corrected_recipes_carry_the_fixes_and_say_which_finding(shared: Path, name: str) -> None:
    card = read_card(shared / "cards" / "seeds" / f"{name}.md")
    written, made = recipe(card), recipe(card, corrected=True)
    found = leaves(made)
    assert {path: found[path] for path in CORRECTED[name]} == CORRECTED[name]
    assert (written.variant, made.variant) == ("as written", "corrected")
    assert set(made.provenance) == set(found)
    changed = {path for path, _, _ in difference(written, made) if path in found}
    fixed = {path for path, origin in made.provenance.items() if origin.source == "finding"}
    assert {path for path in fixed if found[path] is not None} == changed
    assert all(made.provenance[path].note for path in changed)


def test_overrides_win_over_corrections(shared: Path) -> None:
    card = read_card(shared / "cards" / "seeds" / "gooaq-static-matryoshka.md")
    made = recipe(card, corrected=True, overrides={"learning_rate": 0.1})
    assert made.training.learning_rate == 0.1
    assert made.provenance["training.learning_rate"] == Origin(source="user")


# ------------------------------------------------------------------------------------------------------ overrides


def test_overrides_by_leaf_name_and_by_path() -> None:
    made = with_overrides(
        recipe(small()), {"learning_rate": 0.2, "training.seed": 1, "lora.r": 16, "scale": 30, "split.train": 0.5}
    )
    assert (made.training.learning_rate, made.training.seed) == (0.2, 1)
    assert made.base.lora is not None
    assert (made.base.lora.r, made.base.lora.alpha) == (16, 16)
    assert made.loss.parameters == {"scale": 30}
    assert made.data.split is not None
    assert (made.data.split.train, made.data.split.test) == (0.5, 0.1)
    assert made.provenance["training.learning_rate"] == Origin(source="user")
    assert made.provenance["base.lora.alpha"].source == "default"
    assert made.provenance["base.model"] == Origin(source="card", lines=(5,))
    assert set(made.provenance) == set(leaves(made))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"learning_rte": 1},
            "expected a field of the recipe, found 'learning_rte'; the nearest are training.learning_rate",
        ),
        (
            {"location": "x"},
            "expected one field, found 2 named 'location': data.train.location, data.evaluation.location; write the",
        ),
        (
            {"batch_size": 8},
            "expected a field of the recipe, found 'batch_size'; the nearest is training.per_device_train_batch_size.",
        ),
        ({"zzz": 1}, "expected a field of the recipe, found 'zzz'; `workbench recipe CARD` shows all of them."),
        ({"learning_rate": "fast"}, "expected a number for 'training.learning_rate', found 'fast'."),
        ({"learning_rate": True}, "expected a number for 'training.learning_rate', found True."),
        ({"learning_rate": float("inf")}, "expected a finite number for 'training.learning_rate', found inf."),
        ({"fp16": 1}, "expected true or false for 'training.fp16', found 1."),
        ({"training.seed": 1.5}, "expected a whole number for 'training.seed', found 1.5."),
        ({"eval_strategy": "daily"}, "expected 'no', 'steps' or 'epoch' for 'training.eval_strategy', found 'daily'."),
        ({"data.columns": "anchor"}, "expected a list for 'data.columns', found 'anchor'."),
        ({"lora": {"rank": 4}}, "expected a field of the recipe, found 'base.lora.rank'; the nearest are base.lora.r"),
    ],
)
def test_an_override_that_cannot_be_says_what_was_expected(override: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(recipe(small()), override)
    assert str(caught.value).startswith(message)


def test_a_bare_seed_is_the_training_s() -> None:
    made, before = with_overrides(recipe(small()), {"seed": 7}), recipe(small())
    assert [(path, value) for path, _, value in difference(before, made)] == [("training.seed", 7)]


def test_every_new_field_can_be_set() -> None:
    made = with_overrides(
        recipe(small()),
        {
            "training.prompts.anchor": "find: ",
            "base.prompts.query": "find: ",
            "lr_scheduler_kwargs.num_cycles": 2,
            "report_to": ["tensorboard"],
            "static_dimensions": 256,
            "repeated_queries": "merged",
            "data.name": "mine",
            "data.more.0.name": "yours",
            "data.more.0.source.location": "yours.csv",
            "data.more.0.columns": ["a", "b"],
            "data.more.0.loss": {"name": "CoSENTLoss"},
            "data.more.0.loss.parameters.scale": 10,
        },
    )
    assert (made.training.prompts, made.base.prompts) == ({"anchor": "find: "}, {"query": "find: "})
    assert made.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert made.training.report_to == ("tensorboard",)
    assert (made.base.static_dimensions, made.evaluation.repeated_queries) == (256, "merged")
    (further,) = made.data.more
    assert (further.name, further.source.location, further.columns) == ("yours", "yours.csv", ("a", "b"))
    assert further.loss == LossSpec(name="CoSENTLoss", parameters={"scale": 10})
    assert made.provenance["training.prompts.anchor"] == Origin(source="user")
    assert made.provenance["data.more.0.source.location"] == Origin(source="user")
    assert set(made.provenance) == set(leaves(made))
    assert with_overrides(made, {"data.more": []}).data.more == ()
    assert with_overrides(made, {"data.more.0.columns": ["c"]}).data.more[0].columns == ("c",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            {"training.prompts.anchr": "x"},
            "expected a column of the rows (anchor, positive) for a prompt, found 'anchr'; write "
            "training.prompts.anchor, or set data.columns.",
        ),
        (
            {"prompts.anchor": "x"},
            "expected one field, found 2 named 'prompts': base.prompts, training.prompts; write the whole path.",
        ),
        (
            {"training.promps.anchor": "x"},
            "expected a field of the recipe, found 'training.promps.anchor'; the nearest",
        ),
        ({"report_to": "wandb"}, "expected a list for 'training.report_to', found 'wandb'."),
        (
            {"repeated_queries": "both"},
            "expected 'separate' or 'merged' for 'evaluation.repeated_queries', found 'both'.",
        ),
        (
            {"data.more.1.name": "x"},
            "expected a dataset of data.more by its number, 0 to 0 (the last adds one), found '1'.",
        ),
        (
            {"data.more.x.name": "x"},
            "expected a dataset of data.more by its number, 0 to 0 (the last adds one), found 'x'.",
        ),
        (
            {"data.more.0.source.locaton": "x"},
            "expected a field of the recipe, found 'data.more.0.source.locaton'; the nearest are "
            "data.more.0.source.location",
        ),
        ({"data.more.0.columns": ["a"]}, "expected a value for 'data.more.0.name', found nothing."),
    ],
)
def test_an_override_of_a_new_field_that_cannot_be(override: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(recipe(small()), override)
    assert str(caught.value).startswith(message)


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(RecipeError, match="add up to 1 at most"):
        with_overrides(recipe(small()), {"split.train": 0.95})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("learning_rate=0.2", 0.2),
        ("learning_rate=2e-5", 2e-5),
        ("a=3", 3),
        ("a=no", "no"),
        ("a=true", True),
        ("a=null", None),
        ("a=[512, 256]", [512, 256]),
        ("a=find this: ", "find this:"),
        ("a=b=c", "b=c"),
        ("a=010", "010"),
        ("a=2026-01-01", "2026-01-01"),
        ("a='quoted: '", "quoted: "),
        ("a=*x", "*x"),
        ("a=", ""),
    ],
)
def test_settings_are_read_as_a_person_means_them(setting: str, expected: Any) -> None:
    assert parse_setting(setting)[1] == expected


@pytest.mark.parametrize("setting", ["learning_rate", "=3", "a=[1, 2", "a={b"])
def test_a_setting_without_a_value_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=r"^expected a "):
        parse_setting(setting)


# ----------------------------------------------------------------------------------------------------------- YAML


def test_yaml_round_trip_and_layout(tmp_path: Path) -> None:
    made = with_overrides(recipe(small()), {"training.seed": 7, "base.prompts": {"query": "find: é\n"}})
    path = tmp_path / "recipe.yaml"
    save_recipe(made, path)
    assert load_recipe(path) == made
    text = path.read_text(encoding="utf-8")
    assert "\n  columns: [anchor, positive]\n" in text
    assert "\n  training.seed: {source: user}\n" in text
    assert "\n  base.model: {source: card, lines: [5]}\n" in text
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_recipe_typed_by_hand_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nbase: {model: 'bundled:minilm'}\nloss: {name: CoSENTLoss}\n"
        "training: {learning_rate: 2e-5, eval_strategy: no}\n"
    )
    made = load_recipe(path)
    assert made.training.learning_rate == 2e-5
    assert made.training.eval_strategy == "no"
    assert set(made.provenance) == set(leaves(made))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a recipe in"),
        ("- a", "expected a recipe in"),
        ("a: [1", "expected a recipe in YAML in"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("name: a\nname: b", "'name' is repeated"),
        ("a: !!python/object/apply:os.system ['true']", "expected a recipe in YAML in"),
        ("[" * 5000, "expected a recipe in YAML in"),
        ("name: x\nloss: {name: y}", "expected a value for 'base'"),
        ("name: x\nbase: {model: a}\nloss: {name: y}\ntraning: {}", "the nearest are training"),
        ("schema_version: 2\nname: x\nbase: {model: a}\nloss: {name: y}", "expected 1 for 'schema_version'"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="expected a recipe in YAML"):
        load_recipe(tmp_path / "binary.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(RecipeError, match="at most 1,000,000 bytes"):
        load_recipe(tmp_path / "big.yaml")
    with pytest.raises(RecipeError, match="cannot write the recipe"):
        save_recipe(recipe(small()), tmp_path / "no" / "folder.yaml")


def test_the_hash_is_of_what_runs() -> None:
    made = recipe(small())
    elsewhere = made.model_copy(update={"name": "other", "variant": "corrected", "provenance": {}, "notes": ("x",)})
    assert recipe_sha256(made) == recipe_sha256(elsewhere)
    assert recipe_sha256(made) != recipe_sha256(with_overrides(made, {"training.seed": 1}))


def test_difference_names_each_field_that_changed() -> None:
    made = recipe(small())
    other = with_overrides(made, {"training.seed": 1, "base.lora": {"r": 4}})
    assert difference(made, made) == []
    assert ("training.seed", 42, 1) in difference(made, other)
    assert ("base.lora.r", None, 4) in difference(made, other)


def test_what_a_card_says_is_escaped_when_shown() -> None:
    made = recipe(small(base_model=Stated("<script>alert(1)</script>", 5)))
    assert "<script>" not in made._repr_html_()
    assert "&lt;script&gt;" in made._repr_html_()
    shown, _, folded = made._repr_html_().partition("<details><summary>")
    assert "<td" in folded
    assert {path for path in leaves(made) if f">{path}</td>" in folded} == {
        path for path, origin in made.provenance.items() if origin.source in ("default", "library")
    }
    assert all(f">{path}</td>" in shown + folded for path in leaves(made))
    assert repr(made).startswith("Recipe('small', as written)\n")


def test_the_schema_describes_every_part() -> None:
    schema = Recipe.model_json_schema()
    assert set(schema["$defs"]) == {
        "Base",
        "Data",
        "EvaluationPlan",
        "Lora",
        "LossSpec",
        "Origin",
        "Source",
        "Split",
        "Training",
        "TrainingSet",
    }
    assert recipe_yaml(recipe(small())).startswith("# Recipe of small, as written.")


@pytest.mark.parametrize("name", FIVE)
def test_the_schema_accepts_what_is_made_and_nothing_unknown(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = Recipe.model_json_schema()
    for corrected in (False, True):
        dumped = recipe(read_card(name), corrected=corrected).model_dump(mode="json")
        jsonschema.validate(dumped, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**dumped, "traning": {}}, schema)


def test_a_recipe_is_read_without_its_provenance(tmp_path: Path) -> None:
    made = recipe(read_card("porsche-mxbai"))
    save_recipe(made, tmp_path / "recipe.yaml")
    found = load_recipe(tmp_path / "recipe.yaml", provenance=False)
    assert found.provenance == {}
    assert found.model_dump(exclude={"provenance"}) == made.model_dump(exclude={"provenance"})
