"""Every command that README.md shows is run: in a scratch folder, with few steps. One that no rule covers fails.

What is put in place of the reader's own things: RUN is a run that the fixture made, CARD a shipped card, `rows.json`,
`path/to/README.md` and `path/to/beir` are files of the kind that the sentence before the command asks for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

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
    return sorted({span for span in found if re.match(r"(workbench|make|conda|torchrun|python|pip) ", span)})


COMMANDS = commands()


def test_every_block_is_of_a_known_kind_and_every_command_has_a_rule() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", ""}
    assert [text for kind, text in BLOCKS if kind == "" and not text.startswith("workbench/  ")] == []  # the file map
    assert [line for line in COMMANDS if line.split()[0] not in ("workbench", "make", "torchrun", "srun")] == []
    assert DEMO in COMMANDS
    assert len(COMMANDS) > 15


# --- make ----------------------------------------------------------------------------------------------------------


def dry(target: str) -> list[str]:
    """The commands that `make target` would run, without those that install."""
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.replace(".venv/bin/", "") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_does_what_tests_run(line: str) -> None:
    wanted = {
        "make demo": {DEMO},  # run below, as every command of the workbench
        "make test": {"ruff format --check .", "ruff check .", "mypy", "python -m pytest"},  # this run of the tests
    }
    assert line in wanted, f"no rule for {line!r}; say here what its recipe is and which test runs it"
    run = dry(line.removeprefix("make "))
    assert [part for part in wanted[line] if not any(each.startswith(part) for each in run)] == []


@pytest.mark.parametrize("span", spans())
def test_a_command_in_a_sentence_exists(span: str) -> None:
    words = span.split()
    if words[0] == "make":
        assert dry(words[1])
    elif words[0] == "workbench":
        (usage,) = {run_workbench([words[1], "--help"], ROOT)}
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if not re.search(rf"{option}\b", usage)] == []
    else:
        assert span == "conda env create -f environment.yml", f"no rule for {span!r}"
        assert (ROOT / "environment.yml").is_file()


# --- workbench -----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def run_words(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr[-1500:]}"
    return done.stdout


def run_workbench(words: list[str], folder: Path) -> str:
    return run_words([sys.executable, "-m", "workbench.cli", *words], folder)


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
    run_workbench([*fewer(shlex.split(DEMO)[1:])], folder)
    return folder


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
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("workbench ")])
def test_a_command_does_its_work(line: str, scratch: Path) -> None:
    words = [the_run(scratch) if word == "RUN" else word for word in line.split()[1:]]
    if any(word.startswith("../shared") for word in words) and not (scratch.parent / "shared").exists():
        pytest.skip("the given data are not beside this repository")
    if words == ["dashboard"]:
        serves(words, scratch)
        return
    before = {path.name for path in (scratch / "runs").iterdir()}
    printed = run_workbench(fewer(words), scratch)
    new = {path.name for path in (scratch / "runs").iterdir()} - before
    if words[0] in ("train", "reproduce"):
        assert len(new) == 1
        assert json.loads((scratch / "runs" / new.pop() / "run.json").read_text())["status"] == "finished"
    else:
        assert printed.strip()


def serves(words: list[str], folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = ["--no-browser", "--port", str(port)]
    with (folder / "dashboard.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "workbench.cli", *words, *more],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 60
        answer = b""
        while server.poll() is None and time.monotonic() < until and not answer:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as page:
                    answer = page.read()
            except OSError:
                time.sleep(0.2)
        assert answer == b"ok", (folder / "dashboard.log").read_text()
    finally:
        server.terminate()
        server.wait(timeout=30)


# --- several processes, and Python -----------------------------------------------------------------------------------


def launched(line: str) -> tuple[dict[str, object], list[str]]:
    """What torch reads out of a torchrun command: its options, and the words of the script."""
    from torch.distributed.run import parse_args

    words = line.split()
    asked = parse_args(words[words.index("torchrun") + 1 :])
    return vars(asked), [asked.training_script, *asked.training_script_args]


@pytest.mark.slow
def test_torchrun_on_one_machine_makes_one_run(scratch: Path) -> None:
    """The command for many machines, with one machine and two processes in their place."""
    (line,) = (line for line in COMMANDS if line.startswith("torchrun "))
    changes = {"--nnodes 2": "--nnodes 1", "--nproc_per_node 4": "--nproc_per_node 2", "HOST:29500": "localhost:0"}
    for theirs, ours in changes.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    words = [sys.executable, "-m", "torch.distributed.run", *line.split()[1:]]
    assert words.pop() == "CARD"
    folder = scratch / "several"
    folder.mkdir()
    run_words([*words, "porsche-mxbai", "--base", "scratch:small", "--max-steps", FEW], folder)
    (record,) = (folder / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("srun ")])
def test_srun_starts_the_same_command(line: str) -> None:
    (other,) = (line for line in COMMANDS if line.startswith("torchrun "))
    assert line.startswith("srun --ntasks-per-node 1 torchrun ")  # torchrun starts the processes of a machine itself
    filled = line.replace("$SLURM_NNODES", "2").replace("$HOST", "HOST")
    assert "$" not in filled
    assert launched(filled) == launched(other)


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_the_python_of_the_tour_runs(text: str, scratch: Path) -> None:
    small = 'base="scratch:small", max_steps=2'
    assert text.count('base="bundled:minilm"') == 1, "say here how this block trains few steps"
    (scratch / "tour").mkdir()
    run_words([sys.executable, "-c", text.replace('base="bundled:minilm"', small)], scratch / "tour")
    (record,) = (scratch / "tour" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["status"] == "finished"
    assert record.with_name("report.html").is_file()
