"""The engine gives the library's own numbers, whatever is trained, and goes on where it was as if nothing had been."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_base, tiny_recipe, tiny_rows
from tiny import train_often as train

from workbench.data.training_rows import load_pairs, split_pairs
from workbench.errors import DataError, RecipeError
from workbench.models.losses import register_loss
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Base, Data, Lora, LossSpec, Recipe, Source, Split, Training, TrainingSet
from workbench.run import Run, list_runs
from workbench.training import job, trainer
from workbench.training.energy_use import Energy, energy_counters
from workbench.training.job import plan, steps_per_epoch

RANKING = LossSpec(name="MultipleNegativesRankingLoss", parameters={"scale": 20.0, "similarity_fct": "cos_sim"})
COSINE = LossSpec(name="CosineSimilarityLoss")


@dataclass(frozen=True)
class Made:
    """Folders and files that all tests share."""

    base: Path  # a small BERT with dropout
    table: Path  # a table of embeddings
    pairs: Path  # anchor, positive
    scored: Path  # sentence1, sentence2, score


def made_in(folder: Path, dropout: float = 0.1) -> Made:
    """A base, a table of embeddings with its tokenizer, and rows of two kinds."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    base = tiny_base(folder, dropout=dropout)
    torch.manual_seed(3)
    table = StaticEmbedding(Tokenizer.from_file(str(base / "tokenizer.json")), embedding_dim=24)
    SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(folder / "table"), create_model_card=False)
    pairs = tiny_rows(folder / "pairs.json")
    scored = [
        {"sentence1": row["anchor"], "sentence2": row["positive"], "score": (number % 5) / 4}
        for number, row in enumerate(json.loads(pairs.read_text()))
    ]
    (folder / "scored.json").write_text(json.dumps(scored))
    return Made(base, folder / "table", pairs, folder / "scored.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_in(tmp_path_factory.mktemp("made"))


# --- recipes -------------------------------------------------------------------------------------------------------


def ranking(made: Made) -> Recipe:
    """A transformer with dropout, whose gradients are accumulated."""
    return tiny_recipe(made.base, made.pairs, per_device_train_batch_size=4, gradient_accumulation_steps=3)


def matryoshka(made: Made) -> Recipe:
    """A table of embeddings, at several lengths."""
    loss = LossSpec(name="MatryoshkaLoss", parameters={"matryoshka_dims": [24, 12, 6]}, inner=RANKING)
    recipe = tiny_recipe(made.table, made.pairs, learning_rate=0.2)
    return recipe.model_copy(update={"loss": loss, "base": Base(model=str(made.table), static_dimensions=24)})


def lora(made: Made) -> Recipe:
    recipe = tiny_recipe(made.base, made.pairs)
    adapter = Lora(r=4, alpha=8, dropout=0.1, target_modules=("query", "value"), use_dora=True)
    return recipe.model_copy(update={"base": Base(model=str(made.base), lora=adapter)})


def scored(made: Made) -> Recipe:
    recipe = tiny_recipe(made.base, made.scored, batch_sampler="batch_sampler")
    data = Data(train=Source(location=str(made.scored)), split=Split(), columns=("sentence1", "sentence2", "score"))
    return recipe.model_copy(update={"loss": COSINE, "data": data})


def prompted(made: Made) -> Recipe:
    return tiny_recipe(made.base, made.pairs, prompts={"anchor": "what is: "}, lr_scheduler_type="linear")


def several(made: Made) -> Recipe:
    """Two datasets with a loss each, and a prompt for a column of the first."""
    recipe = tiny_recipe(made.base, made.pairs, prompts={"anchor": "what is: "}, batch_sampler="batch_sampler")
    more = TrainingSet(
        name="scored",
        source=Source(location=str(made.scored)),
        columns=("sentence1", "sentence2", "score"),
        loss=COSINE,
    )
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": "pairs", "more": (more,)})})


RECIPES: tuple[Callable[[Made], Recipe], ...] = (ranking, matryoshka, lora, scored, prompted, several)


# --- the script that a person would write --------------------------------------------------------------------------


def _plain_model(recipe: Recipe) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers import set_seed

    set_seed(42)
    model = SentenceTransformer(recipe.base.model, device="cpu")
    if recipe.base.lora is not None:
        from peft import LoraConfig, TaskType

        config = LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION, r=4, lora_alpha=8, lora_dropout=0.1,
            target_modules=["query", "value"], use_dora=True,
        )  # fmt: skip
        model.add_adapter(config)
    return model


def _plain_loss(spec: LossSpec, model: Any) -> Any:
    from sentence_transformers.sentence_transformer import losses

    if spec.name == "MatryoshkaLoss":
        return losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [24, 12, 6])
    if spec.name == "CosineSimilarityLoss":
        return losses.CosineSimilarityLoss(model)
    return losses.MultipleNegativesRankingLoss(model)


def plain(recipe: Recipe, folder: Path) -> dict[int, dict[str, float]]:
    """Rows of the log of the library's trainer, by step, with the recipe's arguments and rows.

    It evaluates too: the library's evaluation draws a random number, so training goes on otherwise without it.
    """
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    pairs, validation, _ = split_pairs(load_pairs(recipe.data.train, recipe.data.columns), Split())
    assert validation is not None
    model, training = _plain_model(recipe), recipe.training
    rows: Any = pairs.rows
    held_out: Any = validation.rows
    loss: Any = _plain_loss(recipe.loss, model)
    prompts: Any = training.prompts
    if recipe.data.more:
        more = recipe.data.more[0]
        rows = {"pairs": rows, "scored": load_pairs(more.source, more.columns).rows}
        held_out, loss = {"pairs": held_out}, {"pairs": loss, "scored": _plain_loss(COSINE, model)}
        prompts = {"pairs": training.prompts}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=3,
            per_device_train_batch_size=training.per_device_train_batch_size,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.lr_scheduler_type,
            warmup_steps=0.1,
            optim="adamw_torch",
            batch_sampler=training.batch_sampler,
            multi_dataset_batch_sampler="proportional",
            prompts=prompts,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            eval_strategy="epoch",
        ),
        train_dataset=rows,
        eval_dataset=held_out,
        loss=loss,
    )
    trainer.train()
    return {row["step"]: row for row in trainer.state.log_history if "loss" in row}


@pytest.mark.parametrize("make", RECIPES)
def test_every_step_equals_that_of_the_library(make: Callable[[Made], Recipe], made: Made, tmp_path: Path) -> None:
    """Loss, learning rate and gradient norm, to the last bit."""
    recipe = make(made)
    run = train(recipe, runs=tmp_path / "runs")
    theirs = plain(recipe, tmp_path / "plain")
    keys = ("loss", "learning_rate", "grad_norm", "epoch")
    ours = {row["step"]: {key: row[key] for key in keys} for row in run.log()}
    assert len(theirs) >= 12
    assert ours == {step: {key: row[key] for key in keys} for step, row in theirs.items()}


# --- resuming ------------------------------------------------------------------------------------------------------


def weights(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.path / "model").rglob("*.safetensors")}


def steps_of(run: Run) -> dict[int, tuple[float, ...]]:
    keys = ("loss", "learning_rate", "grad_norm", "eval_loss")
    return {row["step"]: tuple(row[key] for key in keys if key in row) for row in run.log()}


@pytest.mark.parametrize("make", [ranking, matryoshka, lora, scored, several])
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    make: Callable[[Made], Recipe], made: Made, tmp_path: Path
) -> None:
    """From what a kill in the middle of an epoch leaves on the disk, and from a stop."""
    recipe = with_overrides(make(made), {"training.num_train_epochs": 3 if make is ranking else 2})
    whole, left = tmp_path / "whole", tmp_path / "left"

    def kill(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 7 and not left.exists():
            shutil.copytree(list_runs(whole)[0].path, left / list_runs(whole)[0].name)

    def stop(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 10:
            list_runs(tmp_path / "stopped")[0].stop()

    uninterrupted = train(recipe, runs=whole, on_progress=kill)
    killed = list_runs(left)[0]
    assert max(steps_of(killed)) < 8
    stopped = train(recipe, runs=tmp_path / "stopped", on_progress=stop, timing={"stop_seconds": 0.0})
    assert (stopped.status, max(steps_of(stopped))) == ("stopped", 10)
    for run in (killed, stopped):
        again = train(None, resume=run.path)
        assert again.status == "finished"
        assert steps_of(again) == steps_of(uninterrupted)
        assert weights(again) == weights(uninterrupted)
        assert _numbers(again) == _numbers(uninterrupted)


def _numbers(run: Run) -> dict[tuple[str, str], Mapping[str, float]]:
    return {(name, at): run.metrics(name, at) for name, moments in run.evaluations().items() for at in moments}


def test_a_lora_model_loads_like_any_other(made: Made, tmp_path: Path) -> None:
    from workbench.models.base import load_folder
    from workbench.pipeline import evaluate

    run = train(lora(made), runs=tmp_path)
    model = load_folder(run.path / "model", "kept", "cpu")
    assert {path.name for path in (run.path / "model").glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert model.encode(["how many litre"]).shape == (1, 32)
    assert evaluate(run).metrics["cosine_ndcg@10"] == run.metrics("test", "after")["cosine_ndcg@10"]


# --- the log -------------------------------------------------------------------------------------------------------


class TwoParts(torch.nn.Module):
    """A loss that gives its parts by name, as some losses of the library do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Any, labels: Any) -> dict[str, torch.Tensor]:
        first, second = (self.model(each)["sentence_embedding"] for each in features)
        return {"distance": (first - second).square().mean(), "size": 0.25 * first.square().mean()}


def test_parts_of_a_loss_are_logged_and_add_up(made: Made, tmp_path: Path) -> None:
    register_loss("__main__.TwoParts", TwoParts)
    recipe = ranking(made).model_copy(update={"loss": LossSpec(name="__main__.TwoParts")})
    run = train(recipe, runs=tmp_path, max_steps=3)
    rows = run.log()
    assert [set(row["components"]) for row in rows] == [{"distance", "size"}] * 3
    assert [sum(row["components"].values()) for row in rows] == pytest.approx([row["loss"] for row in rows])


def test_the_log_is_buffered_and_complete_before_a_checkpoint(made: Made, tmp_path: Path) -> None:
    """With an hour between two writings: the first step at once, then whenever something is saved or measured."""
    seen: dict[int, int] = {}

    def look(phase: str, done: int, total: int) -> None:
        if phase.startswith("train"):
            seen[done] = len(list_runs(tmp_path)[0].log())

    train(tiny_recipe(made.base, made.pairs), runs=tmp_path, on_progress=look, timing={"log_seconds": 3600.0})
    assert [seen[step] for step in range(1, 10)] == [0, 1, 1, 1, 4, 4, 6, 6, 8]  # saved at 4 and 8, measured at 6


def test_checkpoints_take_a_small_share_of_the_time(made: Made, tmp_path: Path) -> None:
    """Where every second of training allows a millionth of a second of saving, only what must be is saved."""
    recipe = tiny_recipe(made.base, made.pairs, eval_strategy="no")
    run = train(recipe, runs=tmp_path, keep_checkpoints=True, timing={"saving_share": 1e-6})
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {"checkpoint-4", "checkpoint-18"}


def test_scheduler_arguments_reach_the_scheduler(made: Made, tmp_path: Path) -> None:
    """cosine_with_min_lr ends at min_lr and not at zero."""
    recipe = tiny_recipe(
        made.base, made.pairs, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 4e-4},
        warmup_ratio=0.0, eval_strategy="no",
    )  # fmt: skip
    run = train(recipe, runs=tmp_path)
    rates = [row["learning_rate"] for row in run.log()]
    assert rates[0] == 1e-3
    # 17 of the 18 steps of the schedule are behind the last one: min + (max - min) (1 + cos(17/18 pi)) / 2
    assert rates[-1] == pytest.approx(4e-4 + 6e-4 * (1 + math.cos(17 / 18 * math.pi)) / 2)


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "drop_last", "processes", "steps"),
    [
        (15_427, 4, 1, False, 1, 3_857),  # korean-law-lora
        (1_437, 8, 1, False, 1, 180),  # porsche-mxbai
        (260, 4, 1, False, 1, 65),  # sinhala-xlmr-cosine
        (3_012_496, 256, 1, False, 1, 11_768),  # gooaq-static-matryoshka
        # hotpotqa-distilbert-energy: 4,781 batches a process; its trainer made 1,195 steps of them and left one batch
        (153_000, 16, 4, True, 2, 1_196),
    ],
)
def test_steps_per_epoch_are_those_of_the_cards(
    rows: int, batch: int, accumulation: int, drop_last: bool, processes: int, steps: int
) -> None:
    training = Training(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        dataloader_drop_last=drop_last,
    )
    assert steps_per_epoch(training, [rows], processes) == steps


@pytest.mark.parametrize("sampler", ["proportional", "round_robin"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_steps_of_several_datasets_are_those_of_the_trainer(
    sampler: str, drop_last: bool, made: Made, tmp_path: Path
) -> None:
    recipe = several(made)
    training = {"multi_dataset_batch_sampler": sampler, "dataloader_drop_last": drop_last, "num_train_epochs": 1}
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
    run = train(recipe, runs=tmp_path)
    assert max(steps_of(run)) == steps_per_epoch(recipe.training, [48, 60])


def test_too_few_rows_for_a_batch_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        steps_per_epoch(Training(per_device_train_batch_size=32, dataloader_drop_last=True), [20])
    assert str(caught.value) == (
        "expected at least one batch of 32 rows, found 20 rows; use a smaller per_device_train_batch_size or "
        "dataloader_drop_last=false."
    )


def test_another_number_of_processes_is_noted(made: Made) -> None:
    recipe = tiny_recipe(made.base, made.pairs, processes=2, gradient_accumulation_steps=4, dataloader_drop_last=True)
    assert plan(recipe, [48], measured=True).notes == (
        "The card's numbers imply 2 processes; here one process trains, so a step sees 32 rows and not 64; "
        "--processes 2 trains as many.",
    )
    assert plan(recipe, [48], measured=True, processes=2).notes == ()


def test_an_unknown_or_missing_tracker_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(job.TRACKERS, "trackio", ("no_such_package_here",))
    with pytest.raises(RecipeError) as caught:
        plan(tiny_recipe(made.base, made.pairs, report_to=("trackio",)), [48], measured=True)
    assert str(caught.value) == (
        "expected the package 'no_such_package_here' for training.report_to, found none; "
        "`pip install no_such_package_here`, or leave report_to empty."
    )
    with pytest.raises(RecipeError, match="expected trackers among tensorboard, wandb, trackio"):
        plan(tiny_recipe(made.base, made.pairs, report_to=("mlflow",)), [48], measured=True)


def test_nothing_is_reported_to_trackers_by_default(made: Made, tmp_path: Path) -> None:
    trainers: list[Any] = []
    arguments = trainer.training_arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "training_arguments", lambda job: trainers.append(arguments(job)) or trainers[-1])
        train(tiny_recipe(made.base, made.pairs), runs=tmp_path, max_steps=1)
    assert (trainers[0].report_to, trainers[0].push_to_hub, trainers[0].prompts) == ([], False, None)


def test_a_prompt_for_a_missing_column_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        train(tiny_recipe(made.base, made.pairs, prompts={"question": "q: "}), runs=tmp_path)
    assert str(caught.value) == (
        "expected columns of the rows (anchor, positive) in training.prompts, found 'question'; rename it there."
    )
    assert not tmp_path.joinpath("runs").exists()


def test_missing_rows_of_a_further_dataset_leave_no_run(made: Made, tmp_path: Path) -> None:
    recipe = several(made)
    lost = recipe.data.more[0].model_copy(update={"source": Source(location="nowhere.json")})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"more": (lost,)})})
    with pytest.raises(DataError):
        train(recipe, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# --- what it costs -------------------------------------------------------------------------------------------------


def zone(folder: Path, name: str, label: str, microjoules: str, most: str = "1000000") -> None:
    (folder / name).mkdir(parents=True)
    for file, text in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (folder / name / file).write_text(text + "\n")


def test_processor_energy_is_the_sum_of_its_packages(tmp_path: Path) -> None:
    """Zones below a package are part of it; a counter that starts again has gone past its largest value."""
    zone(tmp_path, "intel-rapl:0", "package-0", "900000")
    zone(tmp_path, "intel-rapl:0:0", "core", "5")
    zone(tmp_path, "intel-rapl:1", "package-1", "100")
    zone(tmp_path, "intel-rapl:2", "psys", "100")
    energy = Energy(energy_counters(powercap=tmp_path))
    assert energy.sources() == "processor package-0, processor package-1"
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("400000\n")  # 0.1 J to the end and 0.4 J from zero
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("700100\n")  # 0.7 J
    assert energy.joules() == 1.2


def test_a_machine_without_counters_reports_no_energy(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "not a number")
    energy = Energy(energy_counters(gpus=(), powercap=tmp_path))
    assert (energy.joules(), energy.sources()) == (None, "")
