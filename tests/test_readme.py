"""Every command that README.md shows is run: in a scratch folder, with few steps. One that no rule covers fails.

What is put in place of the reader's own things: RUN is a run that the fixture made, CARD a shipped card, `rows.json`,
`path/to/README.md` and `path/to/beir` are files of the kind that the sentence before the command asks for. Of `make
test` and `make check` all is run but the tests, which pytest only collects: this file is one of them. `srun` is a
script that does what srun does: it runs its command on each node, here twice on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from workbench.run import open_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FEW = "2"  # steps
DEMO = "workbench reproduce porsche-mxbai --base bundled:minilm --data sample:porsche"


def commands() -> list[str]:
    """The commands of the bash blocks, continued lines joined, without comments."""
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if shlex.split(line, comments=True)]


def spans() -> list[str]:
    """Commands that stand in a sentence, between backticks."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
    return sorted({span for span in found if re.match(r"(workbench|make|conda|torchrun|python|pip|srun) ", span)})


COMMANDS = commands()


def test_every_block_is_of_a_known_kind_and_every_command_has_a_rule() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", ""}
    assert [text for kind, text in BLOCKS if kind == "" and not text.startswith("workbench/  ")] == []  # the file map
    assert [line for line in COMMANDS if line.split()[0] not in ("workbench", "make", "torchrun", "srun")] == []
    assert DEMO in COMMANDS
    assert len(COMMANDS) > 15


# --- running -------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    first = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PATH": first, **more}


def run_words(words: list[str], folder: Path, **more: str) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def run_workbench(words: list[str], folder: Path) -> str:
    return run_words([sys.executable, "-m", "workbench.cli", *words], folder)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def serves(words: Callable[[list[str]], list[str]], folder: Path, path: str, log: Path) -> str:
    """What the server answers that `words` with a free port begin; all its processes are ended."""
    port = free_port()
    with log.open("w") as file:
        server = subprocess.Popen(
            words(["--no-browser", "--port", port]), cwd=folder, env=environment(JUPYTER_TOKEN="reader"),
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 90
        while server.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
                    return str(page.read().decode())
            except OSError:
                time.sleep(0.2)
        return pytest.fail(log.read_text())
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def finished(runs: Path) -> Path:
    """The folder of the only run there is; it has finished."""
    (record,) = runs.glob("*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"
    return record.parent


# --- make ----------------------------------------------------------------------------------------------------------


def make(target: str, *args: str) -> list[str]:
    """The words of `make TARGET ARGS=…` in the environment of this Python, which is not installed anew."""
    words = ["make", "-o", f"{sys.prefix}/.ready", f"VENV={sys.prefix}", target]
    return [*words, f"ARGS={shlex.join(args)}"] if args else words


def lists_all(folder: Path) -> None:
    listed = re.findall(r"^  make ([a-z-]+) ", run_words(["make"], ROOT), re.MULTILINE)
    assert {f"make {name}" for name in listed} >= set(MAKES)


def collects(target: str) -> str:
    """What is printed. Lint and types are run, and pytest, which only says which tests of this file it would run."""
    printed = run_words(make(target), ROOT, PYTEST_ADDOPTS=f"--collect-only {Path(__file__)}")
    assert [line for line in ("ruff format", "ruff check", "mypy", "pytest") if line not in printed] == []
    assert "Success: no issues found" in printed  # of mypy
    assert "test_every_block_is_of_a_known_kind_and_every_command_has_a_rule" in printed
    return printed


def collects_everything(_: Path) -> None:
    assert "test_make_does_its_work[make test]" in collects("test")


def collects_the_fast(_: Path) -> None:
    printed = collects("check")
    assert "test_make_does_its_work" not in printed  # a slow one
    assert "deselected" in printed


def trains_twice(folder: Path) -> None:
    words = ["--cards", "sinhala-xlmr-cosine", "--max-steps", FEW, "--runs", str(folder)]
    assert "| sinhala-xlmr-cosine | " in run_words(make("reproduce", *words), ROOT)
    variants = [json.loads(path.read_text())["variant"] for path in folder.glob("*/run.json")]
    assert sorted(variants) == ["as written", "corrected"]


def times_a_card(_: Path) -> None:
    words = ["--device", "cpu", "--small", "--cards", "gooaq-static-matryoshka", "--rounds", "1"]
    assert "| gooaq-static-matryoshka | " in run_words(make("bench-gpu", *words), ROOT)


def cleans(folder: Path) -> None:
    """In a folder that looks like a clone: the caches of this one are in use."""
    stays = {".venv/bin", "runs/mine", "workbench/cli", "dashboard", "tests", "data/cards", "notebooks/settings"}
    goes = {"build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "workbench/cli/__pycache__"}
    for name in stays | goes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "Makefile", folder)
    run_words(["make", "clean"], folder)
    assert {name for name in stays | goes if (folder / name).is_dir()} == stays


def opens_notebooks(folder: Path) -> None:
    listed = serves(lambda more: make("lab", *more), ROOT, "/api/contents?token=reader", folder / "log")
    names = {each["name"] for each in json.loads(listed)["content"]}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= names


def opens_the_dashboard(folder: Path) -> None:
    answer = serves(lambda more: make("dashboard", str(folder), *more), ROOT, "/_stcore/health", folder / "log")
    assert answer == "ok"


MAKES: dict[str, Callable[[Path], None]] = {
    "make help": lists_all,
    "make test": collects_everything,
    "make check": collects_the_fast,
    "make reproduce": trains_twice,
    "make bench-gpu": times_a_card,
    "make lab": opens_notebooks,
    "make dashboard": opens_the_dashboard,
    "make clean": cleans,
}


@pytest.mark.slow
@pytest.mark.parametrize("line", sorted({*COMMANDS, *spans()} & set(MAKES)))
def test_make_does_its_work(line: str, tmp_path: Path) -> None:
    MAKES[line](tmp_path)


# --- workbench -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands name, beside the folder with the given data."""
    top = tmp_path_factory.mktemp("reader")
    if (ROOT.parent / "shared").is_dir():
        (top / "shared").symlink_to(ROOT.parent / "shared")
    folder = top / "work"
    (folder / "path" / "to").mkdir(parents=True)
    shutil.copy(ROOT / "data/cards/porsche-mxbai/README.md", folder / "path/to/README.md")
    rows = pd.read_parquet(ROOT / "data/samples/porsche/train.parquet").head(200)
    mine = rows.rename(columns={"anchor": "user_query", "positive": "positive_answer"})
    mine[["user_query", "positive_answer"]].to_json(folder / "rows.json", orient="records")
    beir = folder / "path" / "to" / "beir"
    (beir / "qrels").mkdir(parents=True)
    texts = rows.head(20).reset_index(drop=True)
    for name, column in (("queries", "anchor"), ("corpus", "positive")):
        lines = [json.dumps({"_id": str(place), "text": text}) for place, text in enumerate(texts[column])]
        (beir / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    judged = "".join(f"{place}\t{place}\t1\n" for place in range(len(texts)))
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    words = ("--max-steps", FEW, "--base", "scratch:small", "--runs", str(folder / "runs"))
    (folder / "made.txt").write_text(run_words(make("demo", *words), ROOT), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_make_demo_is_the_command_of_the_tour_and_makes_a_run_with_its_report(scratch: Path) -> None:
    assert f"{sys.prefix}/bin/{DEMO} --max-steps" in (scratch / "made.txt").read_text(encoding="utf-8")
    record = scratch / "runs" / the_run(scratch) / "run.json"
    assert json.loads(record.read_text())["status"] == "finished"
    assert record.with_name("report.html").is_file()


def the_run(folder: Path) -> str:
    return min(path.parent.name for path in (folder / "runs").glob("*/run.json"))


def fewer(words: list[str]) -> list[str]:
    """A training of two steps; from a base that is made in a second where the command names none."""
    if words[0] not in ("train", "reproduce"):
        return words
    if "--max-steps" in words:
        words[words.index("--max-steps") + 1] = FEW
    else:
        words += ["--max-steps", FEW]
    return words if "--base" in words else [*words, "--base", "scratch:small"]


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("workbench ") and line != DEMO])
def test_a_command_does_its_work(line: str, scratch: Path) -> None:
    words = [the_run(scratch) if word == "RUN" else word for word in line.split()[1:]]
    if any(word.startswith("../shared") for word in words) and not (scratch.parent / "shared").exists():
        pytest.skip("the given data are not beside this repository")
    if words == ["dashboard"]:
        answer = serves(
            lambda more: [sys.executable, "-m", "workbench.cli", *words, *more], scratch, "/_stcore/health",
            scratch / "dashboard.log",
        )  # fmt: skip
        assert answer == "ok"
        return
    before = {path.name for path in (scratch / "runs").iterdir()}
    printed = run_workbench(fewer(words), scratch)
    new = {path.name for path in (scratch / "runs").iterdir()} - before
    if words[0] in ("train", "reproduce"):
        assert len(new) == 1
        assert json.loads((scratch / "runs" / new.pop() / "run.json").read_text())["status"] == "finished"
    else:
        assert printed.strip()


def test_the_environment_puts_the_command_on_the_path() -> None:
    assert "`. .venv/bin/activate`" in README
    found = run_words(["bash", "-c", f". {sys.prefix}/bin/activate && command -v workbench"], ROOT, PATH=os.defpath)
    assert Path(found.strip()) == Path(sys.prefix) / "bin" / "workbench"


IN_SENTENCES = {
    "workbench doctor",
    "workbench train --resume RUN",
    "workbench runs",
}


def test_every_command_in_a_sentence_has_a_rule() -> None:
    """Two of the workbench are run below, the third stands in a block; those of make are above."""
    assert {span for span in spans() if not span.startswith("make ")} == IN_SENTENCES
    assert {line for line in (*COMMANDS, *spans()) if line.startswith("make ")} == {*MAKES, "make demo"}


@pytest.mark.slow
def test_the_doctor_looks_at_this_machine(scratch: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", "doctor"], cwd=scratch, env=environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == ("missing" in done.stdout), done.stderr


@pytest.mark.slow
def test_a_killed_run_with_values_of_ones_own_goes_on(scratch: Path) -> None:
    values = " ".join(re.findall(r"`(--set [^`]+)`", README))  # those of two sentences, the second engine among them
    assert "engine=fast" in values
    runs = scratch / "killed"
    (mine,) = (line for line in COMMANDS if "rows.json" in line)
    words = ["train", *mine.split()[2:], "--base", "scratch:small", *values.split(), "--runs", str(runs)]
    words = [sys.executable, "-m", "workbench.cli", *words]
    training = subprocess.Popen(words, cwd=scratch, env=environment(), stdout=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while (
        not any(log.stat().st_size for log in runs.glob("*/log.jsonl"))
        and training.poll() is None
        and time.monotonic() < until
    ):
        time.sleep(0.05)
    training.kill()
    training.wait()
    (record,) = runs.glob("*/run.json")
    assert json.loads(record.read_text())["progress"]["phase"] == "train"
    run_workbench(["train", "--resume", record.parent.name, "--runs", str(runs)], scratch)
    recipe = open_run(finished(runs)).recipe()
    assert (recipe.training.learning_rate, recipe.training.num_train_epochs) == (1e-5, 1)


# --- several processes, and Python -----------------------------------------------------------------------------------


def several(name: str, changes: dict[str, str], scratch: Path) -> str:
    """The command that begins with `name`, with what a reader puts in and what is small enough for a test."""
    (line,) = (line for line in COMMANDS if line.startswith(f"{name} "))
    for theirs, ours in changes.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    assert line.endswith(" CARD")
    (scratch / name).mkdir()
    return f"{line.removesuffix('CARD')} porsche-mxbai --base scratch:small --max-steps {FEW}"


@pytest.mark.slow
def test_torchrun_on_one_machine_makes_one_run(scratch: Path) -> None:
    """The command for many machines, with one machine and two processes in their place."""
    changes = {"--nnodes 2": "--nnodes 1", "--nproc_per_node 4": "--nproc_per_node 2", "HOST:29500": "localhost:0"}
    run_words(["bash", "-c", several("torchrun", changes, scratch)], scratch / "torchrun")
    finished(scratch / "torchrun" / "runs")


SRUN = """#!/bin/sh
[ "$1 $2" = "--ntasks-per-node 1" ] || exit 64
shift 2
"$@" &
"$@" || exit
wait $!
"""


@pytest.mark.slow
def test_srun_on_two_nodes_makes_one_run(scratch: Path) -> None:
    """Two nodes on this machine with one process each, which find each other by HOST."""
    changes = {"--nproc_per_node 4": "--nproc_per_node 1", "$HOST:29500": f"$HOST:{free_port()}"}
    line = several("srun", changes, scratch)
    (scratch / "srun" / "bin").mkdir()
    (scratch / "srun" / "bin" / "srun").write_text(SRUN)
    (scratch / "srun" / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join((str(scratch / "srun" / "bin"), environment()["PATH"]))
    run_words(["bash", "-c", line], scratch / "srun", PATH=path, SLURM_NNODES="2", HOST="localhost")
    finished(scratch / "srun" / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_the_python_of_the_tour_runs(text: str, scratch: Path) -> None:
    small = 'base="scratch:small", max_steps=2'
    assert text.count('base="bundled:minilm"') == 1, "say here how this block trains few steps"
    (scratch / "tour").mkdir()
    run_words([sys.executable, "-c", text.replace('base="bundled:minilm"', small)], scratch / "tour")
    assert (finished(scratch / "tour" / "runs") / "report.html").is_file()
