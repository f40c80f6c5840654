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
import runpy
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
from tiny import WORDS, tiny_base

from workbench.run import open_run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = [path for path in sorted((ROOT / "data/guide").glob("*.md")) if path.name != "api.md"]  # it has signatures
TEXT = README + "".join(path.read_text(encoding="utf-8") for path in GUIDES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
STEPS = "2"
BASE = "../base"  # beside the reader's folder, made in a second
OWN = "workbench reproduce porsche-minilm"
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
    "make demo": f"BIN/{OWN}|BIN/{DEMO}",
    "make reproduce": "BIN/python tests/benchmarks/five.py",
    "make test": "BIN/ruff format --check .|BIN/ruff check .|BIN/mypy|BIN/python -m pytest",
    "make lab": "BIN/workbench lab",
    "make dashboard": "BIN/workbench dashboard",
    "make bench-gpu": "BIN/python tests/benchmarks/gpu.py",
}
"""What each target runs; its commands are executed below or by other tests."""


def test_readme_is_short_and_every_command_has_a_rule() -> None:
    assert len(README.splitlines()) < LONGEST
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "toml", "yaml", ""}
    assert [text for kind, text in BLOCKS if kind == "" and not text.startswith("cards/  ")] == []  # the map
    assert [line for line in COMMANDS if line.split()[0] not in ("workbench", "make", "torchrun", "srun")] == []
    assert {line for line in {*COMMANDS, *spans()} if line.startswith("make ")} == set(MAKES)
    assert {span for span in spans() if not span.startswith("make ")} == {
        "workbench train --resume RUN", "pip install card-workbench", "pip wheel --no-deps ."  # test_wheel.py builds it
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
    words = ["--cards", "gooaq-static-matryoshka", "--max-steps", STEPS, "--runs", tmp_path]
    done = in_process.python(ROOT / "tests/benchmarks/five.py", *words)
    assert "| gooaq-static-matryoshka | " in done.stdout, done.stderr
    variants = [json.loads(path.read_text())["variant"] for path in tmp_path.glob("*/run.json")]
    assert sorted(variants) == ["as written", "corrected"]


@pytest.mark.slow
def test_make_bench_gpu_times_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests/benchmarks")
    words = ["--device", "cpu", "--small", "--cards", "gooaq-static-matryoshka", "--steps", "2"]
    done = in_process.python(ROOT / "tests/benchmarks/gpu.py", *words)
    assert "| gooaq-static-matryoshka | " in done.stdout, done.stderr
    assert done.returncode == 0


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
    shutil.copytree(ROOT / "data/cards/porsche-mxbai", folder / "models/mine")
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
    (folder / "path/to/card").mkdir()
    (folder / "path/to/card/README.md").write_text(card_of(rows), encoding="utf-8")
    words = (*WORDS, *(word for word in " ".join(rows["anchor"]).lower().split() if word.isalpha()))
    tiny_base(folder / "made", words=tuple(dict.fromkeys(words))).rename(folder / "path/to/base")
    tiny_base(top, dimension=512)  # the card truncates to 512
    demo = [*DEMO.split()[1:], "--max-steps", STEPS]
    demo[demo.index("bundled:minilm")] = BASE
    run_workbench(demo, folder)
    run_workbench(["export", the_run(folder), "--format", "trec", "--out", "path/to"], folder)
    return folder


def card_of(rows: pd.DataFrame) -> str:
    """A card that was trained on `rows` from a tiny base, and measured on 20 queries."""
    first = "".join(
        f"  | <code>{each.anchor}</code> | <code>{each.positive}</code> |\n" for each in rows[:3].itertuples()
    )
    return f"""---
base_model: acme/tiny
tags: [sentence-transformers, "dataset_size:{len(rows)}", "loss:MultipleNegativesRankingLoss"]
---
# SentenceTransformer based on acme/tiny

## Evaluation

### Metrics

#### Information Retrieval

* Dataset: `my-eval`
* Evaluated with [<code>InformationRetrievalEvaluator</code>](https://sbert.net)

| Metric             | Value    |
|:-------------------|:---------|
| cosine_accuracy@1  | 0.95     |
| **cosine_ndcg@10** | **0.97** |

## Training Details

### Training Dataset

#### Unnamed Dataset

* Size: {len(rows)} training samples
* Columns: <code>user_query</code> and <code>positive_answer</code>
* Samples:
  | user_query | positive_answer |
  |:-----------|:----------------|
{first}* Loss: [<code>MultipleNegativesRankingLoss</code>](https://sbert.net) with these parameters:
  ```json
  {{"scale": 20.0, "similarity_fct": "cos_sim"}}
  ```

### Training Hyperparameters
#### All Hyperparameters

- `per_device_train_batch_size`: 16
- `num_train_epochs`: 1
- `learning_rate`: 0.0001
"""


def the_run(folder: Path) -> str:
    """The first run, that of the fixture."""
    first = min((folder / "runs").glob("*/run.json"), key=lambda path: json.loads(path.read_text())["created"])
    return first.parent.name


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
    return words if "--base" in words else [*words, "--base", BASE]


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
        assert run_workbench(with_few_steps(words), scratch).strip() or "--write-baseline" in words
    new = {path.name for path in (scratch / "runs").iterdir()} - before
    assert len(new) == (words[0] in ("train", "reproduce", "verify"))
    for name in new:
        assert json.loads((scratch / "runs" / name / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_the_documented_command_reaches_a_verdict(scratch: Path) -> None:
    """The card claims more than thirteen steps of a random base give."""
    (line,) = (line for line in COMMANDS if "--base-is-the-cards" in line)
    done = in_process.workbench(*line.split()[1:], "--json", "--runs", "verdict", folder=scratch)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reasons"] == []
    assert found["verdict"] in ("differs", "cannot tell")
    record = open_run(finished_run(scratch / "verdict")).record
    assert [each["option"] for each in record["statements"]] == ["--evaluation-set", "--base-is-the-cards"]


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
    (mine,) = (line for line in COMMANDS if "reproduce" in line and "--columns" in line)
    words = ["train", *mine.split()[2:], "--base", BASE, *values, "--runs", str(runs)]
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
    long, small = 'base="bundled:minilm", data="sample:porsche"', f'base="../{BASE}", data="few.parquet", max_steps=2'
    assert text.count(long) == 1, "say here how this block trains few steps"
    (scratch / "block").mkdir()
    monkeypatch.chdir(scratch / "block")
    pd.read_parquet(ROOT / "data/samples/porsche/train.parquet").head(100).to_parquet("few.parquet")
    exec(text.replace(long, small), {})
    assert (finished_run(scratch / "block" / "runs") / "report.html").is_file()


# --- several processes -----------------------------------------------------------------------------------------------


def launcher(name: str, changes: dict[str, str], scratch: Path) -> str:
    """The command that begins with `name`, with these changes."""
    (line,) = (line for line in COMMANDS if line.startswith(f"{name} "))
    for theirs, ours in changes.items():
        assert theirs in line
        line = line.replace(theirs, ours)
    (scratch / name).mkdir()
    return line


@pytest.mark.long  # `--processes 2` starts such processes, and srun starts them by this command
def test_torchrun_on_one_machine_makes_one_run(scratch: Path) -> None:
    changes = {
        "--nnodes 2": "--nnodes 1", "--nproc_per_node 4": "--nproc_per_node 2", "HOST:29500": "localhost:0",
        "CARD": f"porsche-mxbai --base ../{BASE} --max-steps {STEPS}",
    }  # fmt: skip
    run_process(["bash", "-c", launcher("torchrun", changes, scratch)], scratch / "torchrun")
    finished_run(scratch / "torchrun" / "runs")


SRUN = """#!/bin/sh
[ "$1 $2" = "--ntasks-per-node 1" ] || exit 64
shift 2
"$@" &
"$@" || exit
wait $!
"""


MEETING = """
import os, sys, torch.distributed
from pathlib import Path
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
Path(os.environ["RANK"]).write_text(" ".join(sys.argv[1:]))
"""


@pytest.mark.slow
def test_srun_on_two_nodes_starts_one_training(scratch: Path) -> None:
    """Two nodes with one process each, both on this machine; they find each other by HOST, and then train no more."""
    port, module = free_port(), "-m workbench.cli"
    changes = {"--nproc_per_node 4": "--nproc_per_node 1", "$HOST:29500": f"$HOST:{port}", module: "meeting.py"}
    line = launcher("srun", changes, scratch)
    (scratch / "srun" / "meeting.py").write_text(MEETING)
    (scratch / "srun" / "bin").mkdir()
    (scratch / "srun" / "bin" / "srun").write_text(SRUN)
    (scratch / "srun" / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join((str(scratch / "srun" / "bin"), environment()["PATH"]))
    run_process(["bash", "-c", line], scratch / "srun", PATH=path, SLURM_NNODES="2", HOST="localhost")
    assert [(scratch / "srun" / rank).read_text() for rank in "01"] == ["train CARD"] * 2


def test_the_page_of_the_python_names_is_current(root: Path) -> None:
    made = runpy.run_path(str(root / "data/guide/make_api.py"))
    assert (root / "data/guide/api.md").read_text(encoding="utf-8") == made["page"](), "run data/guide/make_api.py"
    for name in ("train", "Run.load_model", "Comparison.to_frame", "DataError"):
        assert f"# {name}\n" in made["page"]()
