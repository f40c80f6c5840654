"""Wrong commands, one of each kind: what each says, and that it leaves no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from in_process import workbench
from synthetic_run import made_run
from typer.main import get_command

from workbench.cli import app

SHORT = ("--base", "scratch:small", "--max-steps", "1")
TRAIN = ("train", "porsche-mxbai", *SHORT, "--data", "rows.json")
MINILM = ("evaluate", "bundled:minilm", "--on", "scored.jsonl")

MESSAGES = (
    (("shw", "porsche-mxbai"), "No such command 'shw'. Did you mean 'show'?"),
    (("show",), "Missing argument 'CARD'."),
    (("show", "porsche-mxbay"), "Did you mean porsche-mxbai?"),
    (("show", "empty"), "Expected a README.md in the folder 'empty', found none"),
    (("show", "rows.json"), "pass the model's README.md"),
    (("recipe", "porsche-mxbai", "--set", "lr"), "expected a setting as field=value, found 'lr'"),
    (("recipe", "porsche-mxbai", "--set", "batch_size=8"), "the nearest is training.per_device_train_batch_size."),
    (("recipe", "porsche-mxbai", "--set", "seed=x"), "expected a whole number for 'training.seed', found 'x'."),
    (("recipe", "porsche-mxbai", "--json", "--out", "x.yaml"), "expected --out FILE without --json, found both"),
    (("recipe", "broken.yaml"), "expected ',' or ']'"),
    (("recipe", "alias.yaml"), "(aliases are not allowed, line 2, column 7)."),
    (("recipe", "fast.yaml"), "expected a number for 'training.learning_rate' in 'fast.yaml', found 'fast'."),
    (("recipe", "good.yaml", "--corrected"), "name the card, or train the recipe as it is."),
    (("train",), "expected a card, a recipe file or --resume RUN, found none of them."),
    (("train", "porsche-mxbai", "--max-steps", "0"), "Invalid value for '--max-steps'"),
    (("train", "--resume", "latest", "--base", "x", "--max-steps", "5"), "without --base, --max-steps, found both"),
    (("train", "porsche-mxbai", *SHORT, "--data", "sample:porshe"), "there are: sample:gooaq,"),
    (TRAIN, "say which column it is with --columns user_query=anchor."),
    (
        (*TRAIN, "--columns", "anchor=user_query,positive=positive_answer"),
        "the names are the wrong way round, write FILE_COLUMN=anchor: "
        "--columns user_query=anchor,positive_answer=positive.",
    ),
    ((*TRAIN, "--columns", "user_query=question"), "say which column it is with --columns user_query=anchor."),
    (
        (*TRAIN, "--columns", "user_query=anchor", "--columns", "answer=positive"),
        "say which column it is with --columns user_query=anchor,positive_answer=positive.",
    ),
    ((*TRAIN, "--set", "per_device_train_batch_size=0"), "expected per_device_train_batch_size of at least 1, found 0"),
    ((*TRAIN, "--set", "optim=adamm"), "adamm is not a valid OptimizerNames"),
    (("evaluate", "bundled:minilm"), "name one with --on."),
    (("evaluate", "latest", "--columns", "a=b"), "expected a run's own held-out rows without --columns, found both"),
    ((*MINILM[:-1], "nothing"), "give a local file."),
    ((*MINILM, "--columns", "q=anchor"), "('score', 'sentence1', 'sentence2'), found 'q'."),
    ((*MINILM, "--split", "dev"), "expected a folder or dataset of several parts with --split, found the file"),
    ((*MINILM, "--truncate-dim", "5000"), "expected at most the 384 dimensions of 'bundled:minilm', found"),
    (("compare", "latest", "latest"), "expected different runs to compare, found one twice"),
    (("compare", "latest", "--evaluation", "tset"), "found 'finetune'; choose one of them."),
    (("report", "latest", "--format", "docx"), "expected a format of html, md, pdf, found 'docx'."),
    (("report", "latest", "--card", "--format", "md"), "expected --card without --format, found both"),
    (("report", "latest", "--pdf", "--format", "md"), "expected --pdf without --format, found both"),
    (("report", "latest", "--index", "runs"), "expected --index FOLDER without RUN…, found both"),
    (("slices", "latest", "--by", "color"), "dimensions, precision or a column with --by, found 'color'."),
    (("slices", "latest", "--metric", "ndcg@7"), "there are nDCG@10, MRR@10."),
    (("export", "latest", "--out", "o", "--format", "xml"), "trec, json, csv, parquet, model or zip, found 'xml'"),
    (("export", "latest", "--out", "o", "--moment", "step-7"), "(before, step-360, after), found 'step-7'"),
    (("export", "a.ipynb", "--format", "csv"), "expected a notebook without --format, found both"),
    (("propose", "good.yaml"), "pass the model's README.md"),
    (
        ("propose", "porsche-mxbai", "--model", "a b"),
        "expected the id of a model on the Hub (owner/name), found 'a b'.",
    ),
    (("propose", "porsche-mxbai", "--discussion"), "found no id; name it with --model OWNER/NAME."),
    (("propose", "porsche-mxbai", "--yes"), "expected a proposal without --yes, found both; without --discussion"),
    (("propose", "latest", "--task", "x"), "found both; they belong to --eval-results FILE."),
    (("--vers",), "(Possible options: --version)"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and files that are not what the commands expect."""
    made = tmp_path_factory.mktemp("wrong")
    made_run(made / "runs", queries=20, steps=5)
    (made / "empty").mkdir()
    rows = [{"user_query": f"question {n} about the sea", "positive_answer": f"answer {n} on salt"} for n in range(30)]
    scored = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n / 9} for n in range(10)]
    start = "name: x\nbase:\n  model: org/base\nloss:\n  name: CoSENTLoss\n"
    texts = {
        "rows.json": json.dumps(rows),
        "scored.jsonl": "\n".join(map(json.dumps, scored)),
        "broken.yaml": "name: x\nbase:\n  model: [unclosed\nloss: y\n",
        "alias.yaml": "name: &name x\nbase: *name\n",
        "good.yaml": start,
        "fast.yaml": f"{start}training:\n  learning_rate: fast\n",
    }
    for name, text in texts.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


@pytest.mark.parametrize(("words", "said"), MESSAGES, ids=[" ".join(words) for words, _ in MESSAGES])
def test_a_wrong_command_says_what_to_write(words: tuple[str, ...], said: str, folder: Path) -> None:
    done = workbench(*words, folder=folder)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((folder / "runs").iterdir())) == 1


def test_any_spelling_of_a_metric_is_understood_and_one_is_shown(folder: Path) -> None:
    tables = {
        workbench("slices", "latest", "--by", "query length", "--metric", metric, folder=folder).stdout
        for metric in ("nDCG@10", "ndcg@10", "cosine_ndcg@10")
    }
    assert len(tables) == 1
    assert "nDCG@10 by query length" in tables.pop()
    for command in (("runs",), ("compare", "latest"), ("show", "porsche-mxbai")):
        shown = workbench(*command, folder=folder).stdout
        assert "nDCG@10" in shown
        assert "cosine_ndcg@10" not in shown
    assert "cosine_ndcg@10" in workbench("compare", "latest", "--json", folder=folder).stdout


def test_every_option_has_help_that_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)
        monkeypatch.setattr("in_process.COLUMNS", "80")
        shown = workbench(name, "--help").stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert "..." not in shown.replace("]...", "").replace("}...", "")


def test_quiet_shows_no_progress(folder: Path) -> None:
    assert "encode" in workbench(*MINILM, folder=folder).stderr
    assert workbench(*MINILM, "--quiet", folder=folder).stderr == ""
