"""The command line: options in, tables or JSON out, one sentence and exit code 2 on errors."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from in_process import workbench
from synthetic_run import made_run
from tiny import WORDS, tiny_base

from workbench import __version__, open_run

WORDPAIRS = list(zip(WORDS[:12], WORDS[5:17], strict=True))
STEPS = ("--base", "bundled:static", "--max-steps", "2")


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that failed; fails if it printed anything else."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("workbench: ")]
    assert len(said) == 1, done.stderr
    return said[0].removeprefix("workbench: ")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty pairs in a JSON Lines file."""
    path = tmp_path / "rows.jsonl"
    pairs = [
        {"anchor": f"which color has box {n}?", "positive": f"box {n} is painted in shade {n * 7}"} for n in range(40)
    ]
    path.write_text("\n".join(json.dumps(pair) for pair in pairs), encoding="utf-8")
    return path


class TestShowAndAudit:
    def test_show_names_what_the_card_says(self) -> None:
        done = workbench("show", "porsche-mxbai")
        assert done.returncode == 0, done.stderr
        for fact in ("mixedbread-ai/mxbai-embed-large-v1", "MultipleNegativesRankingLoss", "1,797", "512"):
            assert fact in done.stdout

    def test_show_json_is_the_documented_schema(self) -> None:
        found = json.loads(workbench("show", "porsche-mxbai", "--json").stdout)
        assert found["base_model"] == "mixedbread-ai/mxbai-embed-large-v1"
        assert found["datasets"][0]["size"] == 1797
        assert found["hyperparameters"]["learning_rate"] == 2e-05
        assert [row["step"] for row in found["training_log"]] == [0, 100, 180, 200, 300, 360, 400, 500, 540]

    def test_audit_json_has_findings_with_codes_and_lines(self) -> None:
        found = json.loads(workbench("audit", "porsche-mxbai", "--json").stdout)
        codes = {finding["code"] for finding in found["findings"]}
        assert {"best-not-kept", "same-name-evaluations", "size-before-split"} <= codes
        assert set(found["findings"][0]) >= {"code", "severity", "message", "evidence", "lines", "fix"}
        assert "reproducibility" in found

    def test_audit_strict_fails_only_on_errors(self) -> None:
        with_error = workbench("audit", "korean-law-lora", "--strict")
        assert with_error.returncode == 1, with_error.stdout
        assert workbench("audit", "korean-law-lora").returncode == 0

    def test_audit_of_many_cards_prints_a_line_each_and_a_summary(self) -> None:
        done = workbench("audit", "porsche-mxbai", "sinhala-xlmr-cosine")
        assert done.returncode == 0, done.stderr
        assert "2 cards audited" in done.stdout
        assert len([line for line in done.stdout.splitlines() if "warnings" in line and "notes" in line]) >= 2


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class TestStart:
    """CPU time of the command, relative to that of importing the libraries that the light core needs."""

    LIBRARIES = "import ftfy, markdown_it, pydantic, rich.console, typer.main, yaml"

    def test_help_and_audit_start_at_once(self, tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
        commands = {
            "python": ["-c", "pass"],
            "libraries": ["-c", self.LIBRARIES],
            "import": ["-c", "import workbench"],
            "help": ["-m", "workbench.cli", "--help"],
            "audit": ["-m", "workbench.cli", "audit", "porsche-mxbai"],
        }
        seconds: dict[str, float] = dict.fromkeys(commands, float("inf"))
        for _ in range(6):  # the first round compiles
            for name, words in commands.items():
                start = cpu_seconds_of_children()
                subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True)
                seconds[name] = min(seconds[name], cpu_seconds_of_children() - start)
        unit = seconds["libraries"]  # 0.15 s on a quiet core
        assert seconds["import"] - seconds["python"] < unit / 2, seconds
        assert seconds["help"] < unit, seconds
        assert seconds["audit"] < 2.3 * unit, seconds

    def test_show_and_audit_load_no_heavy_library(self) -> None:
        script = "import sys\nfrom workbench.cli import app\nsys.argv = ['workbench', {!r}, 'porsche-mxbai']\n"
        script += "try: app()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
        for command in ("show", "audit"):
            done = subprocess.run([sys.executable, "-c", script.format(command)], capture_output=True, text=True)
            assert done.stderr
            assert {"torch", "numpy", "pandas", "plotly"} & set(done.stderr.split()) == set()


class TestRecipe:
    def test_set_changes_a_field(self) -> None:
        done = workbench("recipe", "porsche-mxbai", "--set", "learning_rate=0.2", "--json")
        assert json.loads(done.stdout)["training"]["learning_rate"] == 0.2

    def test_an_unknown_field_names_the_nearest(self) -> None:
        assert "learning_rate" in error_of(workbench("recipe", "porsche-mxbai", "--set", "lerning_rate=1"))
        assert "training.learning_rate" in error_of(workbench("recipe", "porsche-mxbai", "--set", "lr=1"))

    def test_a_written_recipe_is_a_recipe_again(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        assert workbench("recipe", "porsche-mxbai", "--out", path).returncode == 0
        again = workbench("recipe", path, "--json")
        assert json.loads(again.stdout) == json.loads(workbench("recipe", "porsche-mxbai", "--json").stdout)

    def test_corrected_shows_the_difference(self) -> None:
        done = workbench("recipe", "porsche-mxbai", "--corrected")
        assert "load_best_model_at_end" in done.stdout.split("What the corrections change")[1]


class TestBadCards:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "empty"),
            (b"# Shopping\n\n- milk\n- bread\n", "card"),
            (bytes(range(256)) * 40, "text"),
        ],
        ids=["empty", "not a card", "binary"],
    )
    def test_is_refused_with_a_sentence(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "README.md"
        path.write_bytes(content)
        assert said in error_of(workbench("show", path))

    def test_fifty_megabytes_are_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "README.md"
        with path.open("wb") as file:
            file.write(b"# SentenceTransformer\n")
            file.truncate(50 * 2**20)
        start = time.perf_counter()
        assert "found 52,428,800" in error_of(workbench("show", path))
        assert time.perf_counter() - start < 3

    def test_a_missing_file_and_an_unknown_name_are_refused_quickly(self, tmp_path: Path) -> None:
        start = time.perf_counter()
        error_of(workbench("show", tmp_path / "nothing.md"))
        assert "porsche-mxbai" in error_of(workbench("show", "nosuchname"))
        error_of(workbench("show", "no-such/hub-id"))
        assert time.perf_counter() - start < 15

    def test_a_card_cut_in_a_table_is_read_as_far_as_it_goes(self, tmp_path: Path, root: Path) -> None:
        whole = (root / "data/cards/porsche-mxbai/README.md").read_text(encoding="utf-8")
        cut = whole.index("| 1.6667 |") + 12
        path = tmp_path / "README.md"
        path.write_text(whole[:cut], encoding="utf-8")
        done = workbench("show", path, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [row["step"] for row in found["training_log"]][:4] == [0, 100, 180, 200]
        assert found["unread"]


class TestBadData:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("rows.jsonl", "", "row"),
            ("rows.json", "[]", "row"),
            (
                "rows.jsonl",
                '{"anchor": "a", "positive": "b"}\n{"anchor": "c", \n{"anchor": "d", "positive": "e"}\n',
                "line 2",
            ),
            ("rows.jsonl", '{"question": "a", "positive": "b"}\n', "anchor"),
            ("rows.jsonl", '{"anchor": "a", "positive": "b"}\n{"anchor": "", "positive": "c"}\n', "empty"),
            ("rows.jsonl", '{"anchor": "a", "positive": "b"}\n{"anchor": "c", "positive": 7}\n', "7"),
            ("rows.csv", "anchor,positive\n", "row"),
            ("rows.txt", "anchor positive", "txt"),
        ],
        ids=[
            "no bytes",
            "no rows",
            "broken line",
            "missing column",
            "empty text",
            "wrong type",
            "header only",
            "suffix",
        ],
    )
    def test_is_refused_and_leaves_no_run(self, tmp_path: Path, name: str, content: str, said: str) -> None:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        runs = tmp_path / "runs"
        sentence = error_of(workbench("train", "porsche-mxbai", *STEPS, "--data", path, "--runs", runs))
        assert said in sentence
        listed = workbench("runs", "--runs", runs, "--json")
        assert listed.returncode == 0
        assert json.loads(listed.stdout) == []

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        error_of(
            workbench("train", "porsche-mxbai", *STEPS, "--data", tmp_path / "none.json", "--runs", tmp_path / "runs")
        )

    def test_columns_that_are_no_pairs_are_refused(self, rows: Path, tmp_path: Path) -> None:
        words = ("--data", rows, "--columns", "anchor", "--runs", tmp_path)
        assert "FILE_COLUMN=NAME" in error_of(workbench("train", "porsche-mxbai", *STEPS, *words))


class TestBadPlaces:
    def test_an_unknown_base_is_refused_quickly(self, rows: Path, tmp_path: Path) -> None:
        start = time.perf_counter()
        words = ("--base", "no-such/base", "--data", rows, "--runs", tmp_path / "runs")
        assert "no-such/base" in error_of(workbench("train", "porsche-mxbai", *words))
        assert time.perf_counter() - start < 25

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--margin", "0"), "expected a margin above 0"),
            (("--margin", "nan"), "expected a margin above 0"),
            (("--base-is-the-cards",), "expected --base FOLDER with --base-is-the-cards, found none"),
            (
                ("--evaluation-set", "other=scored.jsonl"),
                "expected an evaluation set that the card 'porsche-mxbai' names",
            ),
            (("--evaluation-set", "scored.jsonl"), "expected examples for the card's InformationRetrievalEvaluator"),
            (("--base", "bundled:minilm", "--base-is-the-cards"), "expected the card's base with --base-is-the-cards"),
        ],
    )
    def test_statements_that_contradict_the_card_are_refused(
        self, words: tuple[str, ...], said: str, rows: Path, tmp_path: Path
    ) -> None:
        scored = [{"sentence1": f"one {n}", "sentence2": f"two {n}", "score": n / 9} for n in range(10)]
        (tmp_path / "scored.jsonl").write_text("\n".join(map(json.dumps, scored)))
        base = () if "--base" in words or "--base-is-the-cards" in words else ("--base", "bundled:static")
        done = workbench("reproduce", "porsche-mxbai", "--json", "--data", rows, *base, *words, folder=tmp_path)
        assert said in error_of(done)
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--set", "num_train_epochs=-1"), "expected epochs or steps to train for, found num_train_epochs -1"),
            (("--set", "optim=adamm"), "adamm is not a valid OptimizerNames"),
            (("--set", "lr_scheduler_type=cosin"), "cosin is not a valid SchedulerType"),
            (("--no-stand-ins",), "expected the card's own base, found a stand-in"),
            (("--resume", "latest"), "expected --resume RUN without CARD|RECIPE, --data, --max-steps, found both"),
        ],
    )
    def test_what_cannot_be_trained_is_refused_before_anything_is_evaluated(
        self, words: tuple[str, ...], said: str, rows: Path, tmp_path: Path
    ) -> None:
        if "--resume" in words:
            made_run(tmp_path / "runs", queries=20, steps=5)
        done = workbench("train", "porsche-mxbai", *STEPS[-2:], "--data", rows, *words, folder=tmp_path)
        assert said in error_of(done)
        assert len(list((tmp_path / "runs").glob("*"))) == ("--resume" in words)

    def test_a_runs_folder_that_is_a_file_is_refused(self, rows: Path, tmp_path: Path) -> None:
        place = tmp_path / "runs"
        place.write_text("a file")
        words = (*STEPS, "--data", rows, "--runs", place)
        assert str(place) in error_of(workbench("train", "porsche-mxbai", *words))

    def test_a_full_disk_is_one_sentence_and_runs_are_still_listed(self, rows: Path, tmp_path: Path) -> None:
        base = tiny_base(tmp_path / "made", dimension=512)  # the card truncates to 512
        runs, (soft, hard) = tmp_path / "runs", resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            done = workbench("train", "porsche-mxbai", "--base", base, *STEPS[2:], "--data", rows, "--runs", runs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (done.returncode, "File too large" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
        listed = workbench("runs", "--runs", runs, "--json")
        assert listed.returncode == 0
        assert [row["status"] for row in json.loads(listed.stdout)] == ["failed"]

    def test_a_missing_run_is_refused(self, tmp_path: Path) -> None:
        assert "run" in error_of(workbench("compare", "none", "--runs", tmp_path))
        assert "run" in error_of(workbench("report", "none", "--runs", tmp_path))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One short run of the whole job on the sample."""
    runs = tmp_path_factory.mktemp("job") / "runs"
    done = workbench("reproduce", "porsche-mxbai", *STEPS, "--data", "sample:porsche", "--runs", runs, "--json")
    assert done.returncode == 0, done.stderr
    return runs, json.loads(done.stdout)


class TestMainJob:
    def test_a_stand_in_is_never_a_reproduction(self, made: tuple[Path, dict[str, Any]]) -> None:
        _, found = made
        assert found["verdict"] == "not comparable"
        assert found["status"] == "finished"
        assert Path(str(found["report"])).stat().st_size > 100_000

    def test_the_run_is_listed_compared_and_reported(self, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        runs, found = made
        listed = json.loads(workbench("runs", "--runs", runs, "--json").stdout)
        assert [row["status"] for row in listed] == ["finished"]
        compared = workbench("compare", found["run"], "--strict")
        assert compared.returncode == 0, compared.stderr
        assert "not comparable" in compared.stdout
        page = tmp_path / "page.html"
        assert workbench("report", found["run"], "--out", page).returncode == 0
        assert page.exists()

    def test_evaluating_a_run_gives_its_stored_metric(self, made: tuple[Path, dict[str, Any]]) -> None:
        _, found = made
        done = workbench("evaluate", found["run"], "--json")
        assert done.returncode == 0, done.stderr
        again = json.loads(done.stdout)["metrics"]["cosine_ndcg@10"]
        stored = open_run(found["run"]).metrics("test", "after")["cosine_ndcg@10"]
        assert again == pytest.approx(stored, abs=1e-6)

    def test_train_ends_with_run_and_status(self, rows: Path, tmp_path: Path) -> None:
        words = (*STEPS, "--data", rows, "--runs", tmp_path / "runs", "--json")
        done = workbench("train", "porsche-mxbai", *words)
        assert done.returncode == 0, done.stderr
        ended = json.loads(done.stdout.splitlines()[-1])
        assert set(ended) == {"run", "status"}
        assert Path(ended["run"]).is_dir()


def test_evaluate_takes_a_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    documents = {"d1": "The sea is salty.", "d2": "Bread is baked from flour.", "d3": "Snow falls in winter."}
    queries = {"q1": "Why does the ocean taste of salt?", "q2": "What is a loaf made of?"}
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n", encoding="utf-8")
    done = workbench("evaluate", "bundled:minilm", "--on", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["cosine_ndcg@10"] == 1.0


def test_evaluate_puts_prompts_before_the_texts_of_scored_pairs(tmp_path: Path) -> None:
    """Equal to pairs whose texts begin with the prompt; of other kinds they are refused."""
    base, metrics = tiny_base(tmp_path / "tiny", words=[*WORDS, "query", "passage"]), {}
    pairs = [(f"how many {one} does it have", f"the {other} of the car", n) for n, (one, other) in enumerate(WORDPAIRS)]
    for name, start, words in (
        ("plain", "", ()),
        ("prompted", "", ("--prompt", "text=query the ", "--prompt", "query=passage ")),
        ("written", "query the ", ()),
    ):
        rows = [{"sentence1": start + one, "sentence2": start + two, "score": score} for one, two, score in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        done = workbench("evaluate", base, "--on", tmp_path / f"{name}.jsonl", "--json", *words)
        metrics[name] = json.loads(done.stdout)["metrics"]
    assert metrics["prompted"] == metrics["written"] != metrics["plain"]
    said = error_of(workbench("evaluate", base, "--on", tmp_path / "plain.jsonl", "--prompt", "passage=a "))
    assert said == "expected a prompt for query, document or text, found one for 'passage'; name one of these."


def test_doctor_checks_everything() -> None:
    done = workbench("doctor", "--json")
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert {"Python", "torch", "device", "model hub", "bundled:minilm", "disk"} <= set(rows)
    assert rows["bundled:minilm"]["state"] == "ok"
    assert done.returncode == 0


def test_a_verdict_can_be_required(tmp_path: Path) -> None:
    run = made_run(tmp_path, queries=20, steps=5)
    words = ("compare", "latest", "--runs", tmp_path, "--require")
    assert workbench(*words, "not comparable").returncode == 0
    assert workbench(*words, "reproduced").returncode == 1
    assert "expected a verdict with --require" in error_of(workbench(*words, "fine"))
    assert run.name in workbench("runs", "--runs", tmp_path).stdout


def test_a_name_near_a_shipped_card_is_suggested() -> None:
    assert "Did you mean porsche-mxbai?" in error_of(workbench("show", "porsche-mxbay"))


def test_the_version_is_that_of_the_package() -> None:
    assert workbench("--version").stdout == f"workbench {__version__}\n" == f"workbench {version('card-workbench')}\n"


def test_every_command_has_help() -> None:
    listed = workbench("-h").stdout
    for command in (
        "show", "audit", "recipe", "reproduce", "train", "stop", "runs", "evaluate", "compare", "slices", "map",
        "report", "export", "dashboard", "lab", "doctor",
    ):  # fmt: skip
        assert command in listed
        assert workbench(command, "--help").returncode == 0
