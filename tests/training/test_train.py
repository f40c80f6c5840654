"""A recipe becomes a run that equals the plain trainer, survives a kill, and says what it did."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import tiny_recipe
from tiny import train_often as train

from workbench.cards.read import read_card
from workbench.errors import (
    BaseError,
    DataError,
    OutOfMemoryError,
    RecipeError,
    RunError,
    TrainingError,
    WorkbenchError,
    enough_memory,
)  # fmt: skip
from workbench.evaluation.projection import STAGES, load_vectors
from workbench.models.losses import register_loss
from workbench.pipeline import evaluate
from workbench.recipe.schema import Base, EvaluationPlan, LossSpec, Origin
from workbench.run import Run, RunWriter, list_runs
from workbench.training.prepare import run_tasks

STEPS = 18  # 48 rows in batches of 8, 3 epochs


@pytest.fixture(scope="module")
def finished(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe trained without interruption."""
    return train(tiny_recipe(base, rows), runs=tmp_path_factory.mktemp("runs"), keep_checkpoints=True)


def losses(run: Run) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in run.log() if "loss" in row}


def weights(run: Run) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


def copied(run: Run, folder: Path) -> Run:
    """A copy that does as if it had been killed: it says that it runs."""
    shutil.copytree(run.path, folder / run.name)
    RunWriter(folder / run.name).update(status="running", process={"pid": 0}, finished=None)
    return Run(folder / run.name)


def assert_same(found: Run, expected: Run) -> None:
    assert found.status == "finished"
    assert losses(found) == losses(expected)
    assert weights(found) == weights(expected)
    assert found.evaluations() == expected.evaluations()
    for name, moments in expected.evaluations().items():
        for moment in moments:
            assert found.metrics(name, moment) == expected.metrics(name, moment), (name, moment)


# --- what a run is -------------------------------------------------------------------------------------------------


def test_denormal_numbers_are_zero_while_training(base: Path, rows: Path, tmp_path: Path) -> None:
    seen = []

    def look(_: Run) -> None:
        seen.append(float(torch.tensor(1e-40) * 0.5))

    train(tiny_recipe(base, rows), runs=tmp_path, max_steps=1, on_run=look)
    assert seen == [0.0]
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_the_record_describes_the_run(finished: Run, base: Path, rows: Path) -> None:
    record = finished.record
    assert record["status"] == "finished"
    assert (record["card"], record["variant"]) == ("tiny", "as written")
    assert record["base"] | {"sha256": "", "unknown_share": 0.0} == {
        "asked": "auto", "model": str(base), "sha256": "", "stand_in": False, "note": "", "unknown_share": 0.0
    }  # fmt: skip
    assert record["data"]["rows"] == {"train": 48, "validation": 6, "test": 6}
    assert record["data"]["source"] == str(rows)
    assert record["progress"] | {"rows_per_second": 0.0} == {
        "step": STEPS, "steps": STEPS, "epoch": 3.0, "rows_per_second": 0.0, "seconds_left": None,
        "phase": "measure after",
    }  # fmt: skip
    assert set(record["versions"]) == {"python", "torch", "sentence-transformers", "transformers", "card-workbench"}
    assert record["best"]["metric"] == "validation_cosine_ndcg@10"
    assert record["best"]["value"] == finished.metrics("validation", f"step-{record['best']['step']}")["cosine_ndcg@10"]
    cost = record["cost"]
    assert set(cost) == {"peak_memory", "rows_per_second", "device", "processes", "precision", "joules", "counted"}
    assert cost["rows_per_second"] == record["rows_per_second"] > 0
    assert cost["peak_memory"] == record["peak_memory"] > 1 << 20
    assert (cost["device"], cost["precision"], cost["processes"]) == (record["device"], "fp32", 1)
    assert (cost["joules"] is None) == (cost["counted"] == "")
    assert record["seconds"] > 0
    assert finished.recipe().loss.name == "MultipleNegativesRankingLoss"
    assert finished.stand_ins == ()


def test_every_evaluation_stores_its_rankings(finished: Run) -> None:
    assert finished.evaluations() == {
        "test": ("before", "after"),
        "validation": ("before", "step-6", "step-12", "step-18", "after"),
    }
    for name, moments in finished.evaluations().items():
        for moment in moments:
            assert len(finished.per_query(name, moment)) == 6
            assert set(finished.hits(name, moment)["position"]) == set(range(1, 61))  # the corpus is all 60 answers


def test_the_log_holds_loss_rate_and_metrics(finished: Run) -> None:
    log = finished.log()
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    assert all({"loss", "learning_rate", "grad_norm", "epoch", "time", "rows_per_second"} <= set(row) for row in log)
    assert [row["time"] for row in log] == sorted(row["time"] for row in log)
    at_end = log[-1]
    assert at_end["validation_cosine_ndcg@10"] == finished.metrics("validation", "step-18")["cosine_ndcg@10"]
    assert at_end["eval_loss"] > 0


def test_the_kept_model_has_no_pickle_and_is_the_evaluated_one(finished: Run) -> None:
    names = {path.name for path in (finished.path / "model").rglob("*") if path.is_file()}
    assert "model.safetensors" in names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth"))}
    assert finished.metrics("validation", "after") == finished.metrics("validation", "step-18")


def test_training_changes_the_weights(finished: Run, base: Path) -> None:
    assert weights(finished) != (base / "model.safetensors").read_bytes()


def test_the_log_has_every_step_whatever_logging_steps_says(
    finished: Run, base: Path, rows: Path, tmp_path: Path
) -> None:
    seldom = tiny_recipe(base, rows, logging_steps=500, num_train_epochs=1, lr_scheduler_type="constant")
    run = train(seldom, runs=tmp_path)
    assert sorted(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert losses(run)[1] == losses(finished)[1]
    assert run.record["notes"] == []


def test_max_steps_and_an_unavailable_precision_are_recorded(base: Path, rows: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(base, rows, fp16=True), runs=tmp_path, max_steps=3)
    assert sorted(losses(run)) == [1, 2, 3]
    assert run.record["notes"] == (
        ["The recipe trains in fp16, for which this needs a CUDA GPU; here it is fp32."]
        if run.record["precision"] == "fp32"
        else []
    )
    assert run.recipe().training.max_steps == 3
    assert run.recipe().provenance["training.max_steps"].source == "user"


def test_load_best_model_at_end_keeps_the_best_checkpoint(base: Path, rows: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(base, rows, load_best_model_at_end=True), runs=tmp_path, keep_checkpoints=True)
    values = {
        int(moment.removeprefix("step-")): run.metrics("validation", moment)["cosine_ndcg@10"]
        for moment in run.evaluations()["validation"]
        if moment.startswith("step-")
    }
    best = max(values, key=lambda step: (values[step], -step))
    assert run.record["best"] == {"step": best, "metric": "validation_cosine_ndcg@10", "value": values[best]}
    assert run.metrics("validation", "after") == run.metrics("validation", f"step-{best}")
    assert weights(run) == (run.path / "checkpoints" / f"checkpoint-{best}" / "model.safetensors").read_bytes()


def test_progress_is_reported_for_every_step_and_evaluation(base: Path, rows: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    train(tiny_recipe(base, rows), runs=tmp_path, max_steps=2, on_progress=lambda *row: told.append(row))
    assert [row[1:] for row in told if row[0].startswith("train")] == [(1, 2), (2, 2)]
    assert any(phase.startswith("validation, before") for phase, _, _ in told)


def test_nothing_is_printed(base: Path, rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tiny_recipe(base, rows), runs=tmp_path, max_steps=2)
    assert capfd.readouterr() == ("", "")


def test_the_shipped_sample_stands_in_for_unknown_rows(base: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(base, Path("unknown"), eval_strategy="no")
    card = read_card("porsche-mxbai")
    run = train(recipe.model_copy(update={"card_sha256": card.sha256}), runs=tmp_path, max_steps=1)
    assert run.record["data"]["stand_in"]
    assert run.stand_ins == (
        "The shipped sample 'porsche' stands in for the card's rows (the card does not say where they are).",
    )
    assert sum(run.record["data"]["rows"].values()) >= 600


def test_the_energy_distance_is_trained_evaluated_and_saved(base: Path, rows: Path, tmp_path: Path) -> None:
    parameters = {"scale": 20.0, "similarity_fct": "energy", "distance": "euclidean", "special_tokens": False}
    recipe = tiny_recipe(base, rows).model_copy(
        update={
            "base": Base(model=str(base), similarity="energy"),
            "loss": LossSpec(name="MultipleNegativesRankingLoss", parameters=parameters),
            "evaluation": EvaluationPlan(main_metric="energy_ndcg@10"),
        }
    )
    run = train(recipe, runs=tmp_path)
    assert json.loads((run.path / "model" / "energy_similarity.json").read_text()) == {
        "similarity": "energy",
        "distance": "euclidean",
        "special_tokens": False,
    }
    assert run.record["best"]["metric"] == "validation_energy_ndcg@10"
    assert run.settings("test", "after")["energy_special_tokens"] is False
    copy = shutil.copytree(run.path / "model", tmp_path / "copy")  # a model folder that no run knows
    alone = evaluate(copy, run_tasks(run)["test"].collection)  # type: ignore[attr-defined]
    assert dict(alone.metrics) == pytest.approx(run.metrics("test", "after"))
    assert len(losses(run)) == STEPS


# --- resuming ------------------------------------------------------------------------------------------------------


OTHER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny import tiny_recipe, train_often
train_often(tiny_recipe(Path(sys.argv[2]), Path(sys.argv[3])), runs=sys.argv[4], timing={"log_seconds": 0.0})
"""


@pytest.fixture(autouse=True, scope="module")
def _threads() -> None:
    """Torch's kernels and MKL's with one number of threads, as in a process of their own; UMAP changes one of them."""
    torch.set_num_threads(torch.get_num_threads())


def killed(base: Path, rows: Path, runs: Path, step: int) -> Run:
    """A run in its own process, killed by SIGKILL when its log has reached `step`."""
    here = str(Path(tiny.__file__).parent)
    command = [sys.executable, "-c", OTHER, here, str(base), str(rows), str(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            run = next(iter(list_runs(runs)), None)
            if run is not None and run.log() and run.log()[-1]["step"] >= step:
                break
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    return list_runs(runs)[0]


def test_a_killed_run_resumes_to_the_same_numbers(finished: Run, base: Path, rows: Path, tmp_path: Path) -> None:
    """Between two checkpoints."""
    run = killed(base, rows, tmp_path, 9)
    assert run.status == "interrupted"
    logged = losses(run)
    assert max(logged) >= 9
    assert_same(train(None, resume=run.path), finished)
    assert losses(run).items() >= logged.items()


def test_a_run_without_a_checkpoint_resumes_from_the_first_step(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    for folder in ("model", "checkpoints"):
        shutil.rmtree(run.path / folder)
    log = run.path / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    assert_same(train(None, resume=run.path), finished)


def test_a_half_written_checkpoint_is_not_resumed_from(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    shutil.rmtree(run.path / "model")
    last = run.path / "checkpoints" / f"checkpoint-{STEPS}"
    (last / "trainer_state.json").unlink()
    (last / "model.safetensors").write_bytes(b"half")
    assert_same(train(None, resume=run.path), finished)


def test_a_half_written_evaluation_is_made_again(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    shutil.rmtree(run.path / "model")
    shutil.rmtree(run.path / "checkpoints" / f"checkpoint-{STEPS}")
    folder = run.path / "evaluations" / "validation"
    for name in ("step-18.json", "after.json", "step-18-hits.parquet"):
        (folder / name).unlink()
    (folder / ".step-18-hits.parquet.1.tmp").write_bytes(b"half")
    assert_same(train(None, resume=run.path), finished)


def test_an_evaluation_is_listed_once_it_is_whole(base: Path, rows: Path, tmp_path: Path) -> None:
    """Its means are the last of its files, so that a kill before them has it made again."""
    run = train(tiny_recipe(base, rows), runs=tmp_path, max_steps=1)
    for name in ("validation", "test"):
        for stage in ("before", "after"):
            listed = run.file("metrics", name, stage).stat().st_mtime_ns
            parts = [run.file("vectors", name, stage), run.file("hits", name, stage), run.file("values", name, stage)]
            assert max(part.stat().st_mtime_ns for part in parts) <= listed


def test_vectors_that_an_older_version_left_out_are_made(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    for stage in ("before", "after"):
        run.file("vectors", "validation", stage).unlink()
    assert_same(train(None, resume=run.path), finished)
    for stage in STAGES:
        made, first = (load_vectors(each, "validation", stage) for each in (run, finished))
        assert (made.query_ids, made.document_ids) == (first.query_ids, first.document_ids)
        assert made.documents == pytest.approx(first.documents, abs=1e-6)


def test_checkpoints_are_removed_before_the_run_has_finished(finished: Run, tmp_path: Path) -> None:
    """A kill between the two would leave them for good, since a finished run is not resumed."""
    run = copied(finished, tmp_path)
    shutil.rmtree(run.path / "checkpoints" / "checkpoint-18")  # a kill in the middle of the removal
    (run.path / "evaluations" / ".after.json.7.tmp").write_text("half")
    seen = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(arguments[1]) == run.path / "run.json":
            record = json.loads(Path(arguments[0]).read_text())
            seen.append((record["status"], (run.path / "checkpoints").exists()))

    sys.addaudithook(watch)
    assert_same(train(None, resume=run.path), finished)
    assert seen[0] == ("running", True)
    assert seen[-1] == ("finished", False)
    assert list(run.path.rglob("*.tmp")) == []


@pytest.mark.parametrize("model", ["kept", "half", "none"])
def test_a_trained_run_only_evaluates_when_resumed(model: str, finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    if model == "half":
        (run.path / "model").rename(run.path / ".model.tmp")
        (run.path / ".model.tmp" / "model.safetensors").unlink()
    elif model == "none":
        shutil.rmtree(run.path / "model")
    for name in ("validation", "test"):
        (run.path / "evaluations" / name / "after.json").unlink()
    before = (run.path / "log.jsonl").read_bytes()
    assert_same(train(None, resume=run.path), finished)
    assert (run.path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("step", [6, 7])
def test_ctrl_c_stops_at_a_step_with_a_checkpoint(
    step: int, finished: Run, base: Path, rows: Path, tmp_path: Path
) -> None:
    """At the end of an epoch, and in the middle of one."""

    def press(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == step:
            os.kill(os.getpid(), signal.SIGINT)

    was = signal.getsignal(signal.SIGINT)
    run = train(tiny_recipe(base, rows), runs=tmp_path, on_progress=press)
    assert signal.getsignal(signal.SIGINT) is was
    assert run.status == "stopped"
    assert run.record["progress"]["step"] == step
    assert (run.path / "checkpoints" / f"checkpoint-{step}").is_dir()
    assert not (run.path / "model").exists()
    assert_same(train(None, resume=run.path), finished)


def test_sigterm_stops_like_ctrl_c(finished: Run, base: Path, rows: Path, tmp_path: Path) -> None:
    def terminate(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    run = train(tiny_recipe(base, rows), runs=tmp_path, on_progress=terminate)
    assert (run.status, run.record["progress"]["phase"]) == ("stopped", "stopped")
    assert_same(train(None, resume=run.path), finished)


def test_stop_ends_at_a_step_with_a_checkpoint(finished: Run, base: Path, rows: Path, tmp_path: Path) -> None:
    def ask(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done == 5:
            list_runs(tmp_path)[0].stop()

    run = train(tiny_recipe(base, rows), runs=tmp_path, on_progress=ask, timing={"stop_seconds": 0.0})
    assert run.status == "stopped"
    assert run.record["progress"]["step"] == 5
    assert (run.path / "checkpoints" / "checkpoint-5").is_dir()
    assert not run.has_stop_request()
    (run.path / "stop").touch()  # asked for while nobody trains
    assert_same(train(None, resume=run.path), finished)
    assert not run.has_stop_request()


def test_the_record_shows_speed_and_time_left(base: Path, rows: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def look(phase: str, done: int, total: int) -> None:
        if phase.startswith("train") and done > 1:  # what the step before this one wrote
            seen.append(list_runs(tmp_path)[0].record["progress"])

    often = {"progress_seconds": 0.0, "log_seconds": 0.0}
    train(tiny_recipe(base, rows, eval_strategy="no"), runs=tmp_path, max_steps=4, on_progress=look, timing=often)
    assert [row["step"] for row in seen] == [1, 2, 3]
    assert {row["phase"] for row in seen} == {"train"}
    assert {row["steps"] for row in seen} == {4}
    assert seen[-1]["rows_per_second"] > 0
    assert 0 <= seen[-1]["seconds_left"] < 60


def test_resuming_a_finished_run_changes_nothing(finished: Run) -> None:
    before = (finished.path / "run.json").read_bytes()
    assert train(finished.recipe(), resume=finished.path) == finished
    assert (finished.path / "run.json").read_bytes() == before


def test_a_run_of_a_live_process_is_not_resumed(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    RunWriter(run.path).update(process={"pid": 1, "host": "another", "started": 5})
    with pytest.raises(RunError) as caught:
        train(None, resume=run.path)
    assert str(caught.value) == (
        f"expected a run that has ended or was interrupted, found {run.name!r} being trained by process 1 on "
        "'another'; stop that one first."
    )
    assert run.record["process"]["pid"] == 1


def test_other_rows_than_the_run_began_with_are_refused(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    RunWriter(run.path).update(data={**run.record["data"], "sha256": "0" * 64})
    with pytest.raises(RunError, match=r"expected the rows that run .* began with \(SHA-256 000000000000\)"):
        train(None, resume=run.path)


# --- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "arguments", "kind"),
    [
        ({}, {"data": "nowhere.json"}, DataError),
        ({}, {"data": "nowhere/at-all"}, DataError),
        ({}, {"base": "somebody/nothing"}, BaseError),
        ({}, {"max_steps": 0}, RecipeError),
        ({"loss": LossSpec(name="__main__.X")}, {}, RecipeError),
        ({"kind": "cross-encoder"}, {}, RecipeError),
        ({"base": Base(model="x", similarity="jaccard")}, {}, RecipeError),
        ({"loss": LossSpec(name="CoSENTLoss", parameters={"speed": 1})}, {}, RecipeError),
    ],
)
def test_errors_before_training_leave_no_run(
    change: dict[str, Any],
    arguments: dict[str, Any],
    kind: type[WorkbenchError],
    base: Path,
    rows: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(kind):
        train(tiny_recipe(base, rows).model_copy(update=change), runs=tmp_path / "runs", **arguments)
    assert not (tmp_path / "runs").exists()


def test_train_requires_a_recipe_or_a_run() -> None:
    with pytest.raises(RecipeError, match="expected a card, a recipe or a run to resume, found none"):
        train(None)


def test_evaluating_on_the_training_rows_is_refused(base: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.json"
    same.write_text(json.dumps([{"anchor": "a", "positive": "b"}] * 40))
    with pytest.raises(DataError, match="all 4 rows of validation are training rows"):
        train(tiny_recipe(base, same), runs=tmp_path / "runs")


def test_a_loss_that_is_not_finite_fails_the_run(base: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"expected a finite loss, found nan at step \d+; use a lower learning_rate"
    ):
        train(tiny_recipe(base, rows, learning_rate=1e30, max_grad_norm=0.0, warmup_ratio=0.0), runs=tmp_path)
    (run,) = list_runs(tmp_path)
    assert run.status == "failed"
    assert run.record["error"].startswith("expected a finite loss, found nan")


def test_a_refused_argument_leaves_no_run(base: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"found some that it refuses \(sgd_of_yesterday"):
        train(tiny_recipe(base, rows, optim="sgd_of_yesterday"), runs=tmp_path)
    assert list_runs(tmp_path) == []


def test_a_run_that_failed_on_a_full_disk_can_be_resumed(finished: Run, base: Path, rows: Path, tmp_path: Path) -> None:
    """The folder of checkpoints is a file, so nothing can be saved; then the way is free."""

    def block(phase: str, done: int, total: int) -> None:
        run = list_runs(tmp_path)[0]
        if phase.startswith("test, before") and not (run.path / "checkpoints").exists():
            (run.path / "checkpoints").write_text("in the way")

    with pytest.raises(TrainingError, match=r"expected the training to go on, found .*; once that is fixed, resume"):
        train(tiny_recipe(base, rows), runs=tmp_path, on_progress=block)
    run = list_runs(tmp_path)[0]
    assert run.status == "failed"
    (run.path / "checkpoints").unlink()
    assert_same(train(None, resume=run.path), finished)


HUGE = 10**14  # numbers; no machine has room for them


class Greedy(torch.nn.Module):
    """A loss that asks for 373 TiB, of torch or of numpy."""

    def __init__(self, model: Any, library: str = "torch") -> None:
        super().__init__()
        self.library = library

    def forward(self, features: Any, labels: Any) -> torch.Tensor:
        return torch.empty(HUGE) if self.library == "torch" else torch.from_numpy(np.empty(HUGE, dtype=np.float32))


@pytest.mark.parametrize(("library", "asked"), [("torch", "372,529.0 GiB"), ("numpy", "364. TiB")])
def test_memory_that_runs_out_while_training_is_a_sentence(
    library: str, asked: str, base: Path, rows: Path, tmp_path: Path
) -> None:
    register_loss("__main__.Greedy", Greedy)
    loss = LossSpec(name="__main__.Greedy", parameters={"library": library})
    with pytest.raises(OutOfMemoryError) as caught:
        train(tiny_recipe(base, rows).model_copy(update={"loss": loss}), runs=tmp_path)
    message = (
        f"expected enough memory for the training, found that it ran out when {asked} more were asked for; use smaller "
        "batches, fewer or shorter rows, or a smaller model."
    )
    assert str(caught.value) == message
    (run,) = list_runs(tmp_path)
    assert (run.status, run.record["error"]) == ("failed", message)


def test_memory_that_runs_out_while_loading_is_a_sentence(base: Path, rows: Path, tmp_path: Path) -> None:
    """A layer of 10 million by 10 million numbers."""
    large = Path(shutil.copytree(base, tmp_path / "large"))
    modules = json.loads((large / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    (large / "modules.json").write_text(
        json.dumps([*modules, {"idx": 2, "name": "2", "path": "2_Dense", "type": kind}])
    )
    (large / "2_Dense").mkdir()
    (large / "2_Dense" / "config.json").write_text(
        json.dumps(
            {"in_features": 10**7, "out_features": 10**7, "activation_function": "torch.nn.modules.linear.Identity"}
        )
    )
    with pytest.raises(
        OutOfMemoryError, match=r"expected enough memory for the model .*large'.* ran out when .*GiB more"
    ):
        train(tiny_recipe(large, rows), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "found that it ran out; use"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1 GiB"),
            "when 2.50 GiB more",
        ),
        (MemoryError("malloc of size 4294967296 failed"), "when 4.0 GiB more"),
        (OSError(12, "Cannot allocate memory"), "found that it ran out; use"),
    ],
)
def test_whatever_says_that_memory_ran_out_is_understood(error: Exception, said: str) -> None:
    """Also where a reader has made an error of its own of it."""
    with pytest.raises(OutOfMemoryError, match=said), enough_memory("it"):
        raise error
    with pytest.raises(OutOfMemoryError, match=said), enough_memory("it"):
        raise DataError("cannot be loaded") from error
    with pytest.raises(DataError, match="cannot be loaded"), enough_memory("it"):
        raise DataError("cannot be loaded") from ValueError("memory")


def test_provenance_names_the_arguments_of_the_user(base: Path, rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(rows.read_text().replace('"anchor"', '"question"'))
    run = train(
        tiny_recipe(base, rows),
        runs=tmp_path / "runs",
        data=str(other),
        columns={"question": "anchor"},
        max_steps=1,
        command=["workbench", "train"],
    )
    assert run.recipe().data.train.location == str(other)
    assert run.recipe().provenance["data.train.location"] == Origin(source="user", note="data")
    assert run.record["command"] == ["workbench", "train"]
    assert run.record["data"]["stand_in"] is False


def test_checkpoints_are_removed_once_the_run_has_finished(base: Path, rows: Path, tmp_path: Path) -> None:
    run = train(tiny_recipe(base, rows), runs=tmp_path, max_steps=2)
    assert run.status == "finished"
    assert not (run.path / "checkpoints").exists()
    assert (run.path / "model" / "model.safetensors").exists()
