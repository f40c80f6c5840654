"""Buttons that act, each after a second click: only on this machine, and not with `--read-only`.

A training or a verification is started as the command that is shown, in a process of its own, which a closed page does
not end.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cached
import parts
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.run import Run, list_runs
from workbench.run_notes import FOLDER

SECONDS = 20.0  # to wait for the run of a command; loading a base takes a while


def confirmed(label: str, question: str, act: Callable[[], object], *, key: str, icon: str) -> None:
    """A button that asks once more; what goes wrong is a sentence."""
    if not cached.can_write():
        return
    with st.popover(label, icon=icon):
        st.text(question)
        if st.button(f"Yes, {label[0].lower()}{label[1:]}", key=key, type="primary"):
            try:
                with st.spinner(f"{label} …"):
                    act()
            except WorkbenchError as error:
                parts.problem(f"{label} did not work.", str(error))
            else:
                st.rerun(scope="app")


def of_a_run(run: Run) -> None:
    """Stop a training, or resume one."""
    if run.status == "running":
        question = "It stops at its next step, with a checkpoint."
        confirmed("Stop", question, run.stop, key=f"stop {run.name}", icon=":material/stop:")
    elif run.status in ("stopped", "interrupted", "failed") and run.record.get("verification") is None:
        confirmed(
            "Resume",
            "It goes on from its last checkpoint, in a process of its own.",
            lambda: resumed(run),
            key=f"resume {run.name}",
            icon=":material/play_arrow:",
        )


def resumed(run: Run) -> None:
    from workbench.training.background import resume

    resume(run)


def make_map(run: Run, evaluation: str) -> None:
    """A button that makes the maps of an evaluation."""

    def make() -> None:
        from workbench.evaluation.projection import project

        for method in ("pca", "umap"):
            project(run, evaluation, method)

    confirmed("Make the map", "It takes seconds to a minute.", make, key="make map", icon=":material/bubble_chart:")


def keep_comparison(run: Run) -> None:
    """A button that stores the comparison with the card, which Overview and `workbench runs` then show."""

    def keep() -> None:
        from workbench.evaluation.compare import compare, save_comparison

        save_comparison(run, compare(run))

    if run.status == "finished" and not run.file("comparison").is_file():
        question = "The verdict is stored in the run folder, and shown in Overview."
        confirmed("Keep this comparison", question, keep, key="keep", icon=":material/save:")


def start(words: Sequence[str], folder: Path) -> str:
    """Start a command of the workbench; returns the name of its run, or "" where there is none yet.

    Raises WorkbenchError with the command's own sentence where it ends without a run.
    """
    known = {run.name for run in list_runs(folder)}
    output = folder / FOLDER / "commands" / f"{time.time_ns()}.txt"
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench", *words], stdout=file, stderr=file, start_new_session=True
        )
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if new := [run.name for run in list_runs(folder) if run.name not in known]:
            return new[0]
        if process.poll():
            lines = output.read_text(errors="replace").strip().splitlines()
            said = lines[-1] if lines else f"it ended with {process.returncode}."
            raise WorkbenchError(said.removeprefix("workbench: "))
        time.sleep(0.2)
    return ""


def run_form(name: str) -> None:
    """Fields for training a card's recipe, or for verifying its weights, with the command that they make."""
    if not cached.can_write():
        return
    runs = cached.runs_folder()
    train, verify = st.columns(2)
    with train, st.popover("Train this recipe", icon=":material/model_training:", width="stretch"):
        base = st.text_input("Base", placeholder="auto, bundled:minilm, a folder, a Hub id", key="train base")
        data = st.text_input("Rows", placeholder="sample:porsche, a file, a Hub id", key="train data")
        columns = st.text_input("Columns", placeholder="question=anchor,answer=positive", key="train columns")
        left, right = st.columns(2)
        seeds = left.number_input("Seeds", 1, 30, 1, key="train seeds")
        steps = right.number_input("Steps at most", 1, value=None, key="train steps")
        corrected = st.toggle("With the audit's corrections", key="train corrected")
        given = {"--base": base, "--data": data, "--columns": columns, "--max-steps": steps}
        words = ["reproduce", name, *(["--corrected"] if corrected else [])]
        _start_button("train", [*words, *_options(given), *(["--seeds", str(seeds)] if seeds > 1 else [])], runs)
    with verify, st.popover("Verify published weights", icon=":material/verified:", width="stretch"):
        model = st.text_input("Model", placeholder="a folder or a Hub id", key="verify model")
        on = st.text_input("Evaluation set", placeholder="public sets are found; else NAME=PATH", key="verify on")
        if model:
            _start_button("verify", ["verify", model, "--card", name, *_options({"--on": on})], runs)


def _options(given: Mapping[str, object]) -> list[str]:
    return [str(word) for option, value in given.items() if value for word in (option, value)]


def _start_button(key: str, words: list[str], runs: Path) -> None:
    """The command, and the button that starts it."""
    words = [*words, "--runs", str(runs), "--quiet"]
    parts.shell(["workbench", *words])
    if st.button("Start", key=f"start {key}", type="primary"):
        try:
            with st.spinner("Starting …"):
                run = start(words, runs)
        except (WorkbenchError, OSError) as error:
            parts.problem("It did not start.", str(error))
            return
        st.text(f"Started: {run}" if run else "Started; the run appears in Overview once base and rows are loaded.")
        if run:
            place = {"runs": run} if key == "train" else {"run": run}
            st.page_link("loss.py" if key == "train" else "compare.py", label="Open it", query_params=place)
