"""Every command that README.md and data/guide/ show is executed, with few steps. One that no rule covers fails.

RUN is a run that the fixture made, CARD a shipped card, and the files that commands name are made as the text describes
them. Commands run in this process, except servers, launchers and what is killed; of
`make`, only the commands that it would run are read, so nothing is installed. `srun` is a script that runs its command
twice, as on two nodes.
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
from contextlib import suppress
from pathlib import Path

import in_process
import pandas as pd
import pytest

from workbench.run import open_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = README + "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "data/guide").glob("*.md")))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
STEPS = "2"
DEMO = "workbench reproduce porsche-mxbai --base bundled:minilm --data sample:porsche"
LONGEST = 150  # lines of README.md


def commands() -> list[str]:
    """The commands of the bash blocks, continued lines joined, without comments."""
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if shlex.split(line, comments=True)]


def spans() -> set[str]:
    """Commands between backticks in a sentence."""
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
    return {span for span in found if re.match(r"(workbench|make|conda|torchrun|python|pip|srun) ", span)}


COMMANDS = commands()
MAKES = {
    "make help": "",
    "make demo": f"BIN/{DEMO}",
    "make reproduce": "BIN/python tests/benchmarks/five.py",
    "make test": "BIN/ruff format --check .|BIN/ruff check .|BIN/mypy|BIN/python -m pytest",
    "make lab": "BIN/workbench lab",
    "make dashboard": "BIN/workbench dashboard",
    "make bench-gpu": "BIN/python tests/benchmarks/gpu.py",
}
"""What each target runs; its commands are executed below or by other tests."""


def test_readme_is_short_and_every_command_has_a_rule() -> None:
    assert len(README.splitlines()) < LONGEST
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", ""}
    assert [text for kind, text in BLOCKS if kind == "" and not text.startswith("cards/  ")] == []  # the map
    assert [line for line in COMMANDS if line.split()[0] not in ("workbench", "make", "torchrun", "srun")] == []
    assert {line for line in {*COMMANDS, *spans()} if line.startswith("make ")} == set(MAKES)
    assert {span for span in spans() if not span.startswith("make ")} == {
        "workbench doctor", "workbench train --resume RUN"
    }  # fmt: skip
    assert len(COMMANDS) > 15


def test_links_and_pictures_exist() -> None:
    names = re.findall(r"\]\(([\w/.-]+)\)", README)
    assert len(names) > 5
    assert [name for name in names if not (ROOT / name).is_file()] == []


# --- running -------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PATH": path, **more}


def run_process(words: list[str], folder: Path, **more: str) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def run_workbench(words: list[str], folder: Path) -> str:
    done = in_process.workbench(*words, folder=folder)
    assert done.returncode == 0, f"{shlex.join(done.args)}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def serve(words: list[str], folder: Path, path: str) -> str:
    """What the server that `words` start answers at `path`; all its processes are stopped."""
    port, log = free_port(), folder / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "workbench.cli", *words, "--no-browser", "--port", port], cwd=folder,
            env=environment(JUPYTER_TOKEN="reader"), stdout=file, stderr=file, start_new_session=True,
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
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def finished_run(runs: Path) -> Path:
    """The folder of the only run; it has finished."""
    (record,) = runs.glob("*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"
    return record.parent


# --- make ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", MAKES)
def test_make_runs_these_commands(line: str) -> None:
    words = ["make", "--dry-run", "-o", f"{sys.prefix}/.ready", f"VENV={sys.prefix}", line.split()[1]]
    printed = run_process(words, ROOT).replace(f"{sys.prefix}/bin/", "BIN/")
    assert [
        found for found in MAKES[line].split("|") if not re.search(rf"^{re.escape(found)}( |$)", printed, re.M)
    ] == []


def test_make_alone_lists_the_targets() -> None:
    listed = re.findall(r"^  make ([a-z-]+) ", run_process(["make"], ROOT), re.MULTILINE)
    assert {f"make {name}" for name in listed} >= {*MAKES, "make check", "make clean"}


def test_make_clean_keeps_runs_and_environment(tmp_path: Path) -> None:
    stays = {".venv/bin", "runs/mine", "workbench/cli", "dashboard", "tests", "data/cards", "notebooks/settings"}
    goes = {"build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "workbench/cli/__pycache__"}
    for name in stays | goes:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    run_process(["make", "clean"], tmp_path)
    assert {name for name in stays | goes if (tmp_path / name).is_dir()} == stays


@pytest.mark.slow
def test_make_reproduce_trains_as_written_and_corrected(tmp_path: Path) -> None:
    words = ["--cards", "sinhala-xlmr-cosine", "--max-steps", STEPS, "--runs", tmp_path]
    done = in_process.python(ROOT / "tests/benchmarks/five.py", *words)
    assert "| sinhala-xlmr-cosine | " in done.stdout, done.stderr
    variants = [json.loads(path.read_text())["variant"] for path in tmp_path.glob("*/run.json")]
    assert sorted(variants) == ["as written", "corrected"]


@pytest.mark.slow
def test_make_bench_gpu_times_a_card() -> None:
    words = ["--device", "cpu", "--small", "--cards", "gooaq-static-matryoshka", "--rounds", "1"]
    printed = run_process([sys.executable, "tests/benchmarks/gpu.py", *words], ROOT)
    assert "| gooaq-static-matryoshka | " in printed


@pytest.mark.slow
def test_lab_serves_the_notebooks(tmp_path: Path) -> None:
    names = {each["name"] for each in json.loads(serve(["lab"], tmp_path, "/api/contents?token=reader"))["content"]}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= names


# --- workbench -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name and one run, beside the folder with the given data."""
    top = tmp_path_factory.mktemp("reader")
    if (ROOT.parent / "shared").is_dir():
        (top / "shared").symlink_to(ROOT.parent / "shared")
    folder = top / "work"
    beir = folder / "path/to/beir"
    (beir / "qrels").mkdir(parents=True)
    shutil.copy(ROOT / "data/cards/porsche-mxbai/README.md", folder / "path/to/README.md")
    rows = pd.read_parquet(ROOT / "data/samples/porsche/train.parquet").head(200)
    mine = rows.rename(columns={"anchor": "user_query", "positive": "positive_answer"})
    mine[["user_query", "positive_answer"]].to_json(folder / "rows.json", orient="records")
    scored = pd.DataFrame({"sentence_A": rows["anchor"], "sentence_B": rows["positive"]}).head(20)
    scored.assign(relatedness_score=[place % 6 / 5 for place in range(20)]).to_csv(folder / "pairs.csv", index=False)
    texts = rows.head(20).reset_index(drop=True)
    for name, column in (("queries", "anchor"), ("corpus", "positive")):
        lines = [json.dumps({"_id": str(place), "text": text}) for place, text in enumerate(texts[column])]
        (beir / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    judged = "".join(f"{place}\t{place}\t1\n" for place in range(len(texts)))
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    demo = [*DEMO.split()[1:], "--max-steps", STEPS]
    demo[demo.index("bundled:minilm")] = "scratch:small"
    run_workbench(demo, folder)
    return folder


def the_run(folder: Path) -> str:
    return min(path.parent.name for path in (folder / "runs").glob("*/run.json"))


@pytest.mark.slow
def test_make_demo_makes_a_run_with_its_report(scratch: Path) -> None:
    record = scratch / "runs" / the_run(scratch) / "run.json"
    assert json.loads(record.read_text())["status"] == "finished"
    assert record.with_name("report.html").is_file()


def with_few_steps(words: list[str]) -> list[str]:
    """A training of two steps from a base that is made in a second, unless the command names one."""
    if words[0] not in ("train", "reproduce"):
        return words
    if "--max-steps" in words:
        words[words.index("--max-steps") + 1] = STEPS
    else:
        words += ["--max-steps", STEPS]
    return words if "--base" in words else [*words, "--base", "scratch:small"]


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("workbench ")])
def test_a_command_does_its_work(line: str, scratch: Path) -> None:
    words = [the_run(scratch) if word == "RUN" else word for word in line.split()[1:]]
    if any(word.startswith("../shared") for word in words) and not (scratch.parent / "shared").exists():
        pytest.skip("the given data are not beside this repository")
    if words == ["dashboard"]:
        assert serve(words, scratch, "/_stcore/health") == "ok"
        return
    before = {path.name for path in (scratch / "runs").iterdir()}
    if "--processes" in words:
        run_process([sys.executable, "-m", "workbench.cli", *with_few_steps(words)], scratch)
    else:
        assert run_workbench(with_few_steps(words), scratch).strip()
    new = {path.name for path in (scratch / "runs").iterdir()} - before
    assert len(new) == (words[0] in ("train", "reproduce"))
    for name in new:
        assert json.loads((scratch / "runs" / name / "run.json").read_text())["status"] == "finished"


def test_the_environment_puts_the_command_on_the_path() -> None:
    assert "`. .venv/bin/activate`" in README
    found = run_process(["bash", "-c", f". {sys.prefix}/bin/activate && command -v workbench"], ROOT, PATH=os.defpath)
    assert Path(found.strip()) == Path(sys.prefix) / "bin" / "workbench"


def test_the_doctor_checks_this_machine(tmp_path: Path) -> None:
    done = in_process.workbench("doctor", folder=tmp_path)
    assert done.returncode == ("missing" in done.stdout), done.stderr


@pytest.mark.slow
def test_a_killed_run_with_settings_resumes(scratch: Path) -> None:
    values = " ".join(re.findall(r"`(--set\s[^`]+)`", README)).split()  # of two sentences, the second engine among them
    assert "engine=fast" in values
    runs = scratch / "killed"
    (mine,) = (line for line in COMMANDS if "reproduce" in line and "rows.json" in line)
    words = ["train", *mine.split()[2:], "--base", "scratch:small", *values, "--runs", str(runs)]
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
    recipe = open_run(finished_run(runs)).recipe()
    assert (recipe.training.learning_rate, recipe.training.num_train_epochs) == (1e-5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_a_python_block_runs(text: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = 'base="scratch:small", max_steps=2'
    assert text.count('base="bundled:minilm"') == 1, "say here how this block trains few steps"
    (scratch / "block").mkdir()
    monkeypatch.chdir(scratch / "block")
    exec(text.replace('base="bundled:minilm"', small), {})
    assert (finished_run(scratch / "block" / "runs") / "report.html").is_file()


# --- several processes -----------------------------------------------------------------------------------------------


def launcher(name: str, changes: dict[str, str], scratch: Path) -> str:
    """The command that begins with `name`, made small enough for a test."""
    (line,) = (line for line in COMMANDS if line.startswith(f"{name} "))
    for theirs, ours in changes.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    assert line.endswith(" CARD")
    (scratch / name).mkdir()
    return f"{line.removesuffix('CARD')} porsche-mxbai --base scratch:small --max-steps {STEPS}"


@pytest.mark.slow
def test_torchrun_on_one_machine_makes_one_run(scratch: Path) -> None:
    changes = {"--nnodes 2": "--nnodes 1", "--nproc_per_node 4": "--nproc_per_node 2", "HOST:29500": "localhost:0"}
    run_process(["bash", "-c", launcher("torchrun", changes, scratch)], scratch / "torchrun")
    finished_run(scratch / "torchrun" / "runs")


SRUN = """#!/bin/sh
[ "$1 $2" = "--ntasks-per-node 1" ] || exit 64
shift 2
"$@" &
"$@" || exit
wait $!
"""


@pytest.mark.slow
def test_srun_on_two_nodes_makes_one_run(scratch: Path) -> None:
    """Two nodes with one process each, both on this machine; they find each other by HOST."""
    changes = {"--nproc_per_node 4": "--nproc_per_node 1", "$HOST:29500": f"$HOST:{free_port()}"}
    line = launcher("srun", changes, scratch)
    (scratch / "srun" / "bin").mkdir()
    (scratch / "srun" / "bin" / "srun").write_text(SRUN)
    (scratch / "srun" / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join((str(scratch / "srun" / "bin"), environment()["PATH"]))
    run_process(["bash", "-c", line], scratch / "srun", PATH=path, SLURM_NNODES="2", HOST="localhost")
    finished_run(scratch / "srun" / "runs")
