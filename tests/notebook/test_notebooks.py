"""Notebooks have no outputs, define nothing, and run from top to bottom."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from hub_cache import cached_dataset, cached_model
from nbclient import NotebookClient
from synthetic_run import made_run
from tiny import tiny_base

import workbench as wb
from workbench.evaluation.tasks import NANO
from workbench.models.base import load_base
from workbench.report.notebook_page import render_notebook
from workbench.resources import shipped_path
from workbench.run import RunWriter

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
SHORT = ("00-start-here", "1-hotpotqa-energy", "6-compare")  # run by default; the others are `long`
LONGEST_CELL = 15  # lines
ROWS = 80


def to_execute(numbers: str) -> list[Any]:
    """Notebooks as parameters of a test that executes them."""
    return [
        pytest.param(path, id=path.stem, marks=() if path.stem in SHORT else pytest.mark.long)
        for path in NOTEBOOKS
        if path.stem[0] in numbers
    ]


def few_rows(code: str, file: Path) -> None:
    """Write the first rows of the sample in `code`, under the columns of the card in it, to `file`."""
    (card,), (sample,) = (re.findall(pattern, code) for pattern in (r'wb.read_card\("(.+)"\)', '"sample:(.+)"'))
    columns = wb.recipe(wb.read_card(card)).data.columns
    table = pd.read_parquet(shipped_path(f"data/samples/{sample}/train.parquet"))
    table.iloc[:ROWS, : len(columns)].set_axis(columns, axis=1).to_parquet(file)


def prepare(path: Path, runs: Path, steps: int = 6) -> nbformat.NotebookNode:
    """The notebook with few steps and rows, a base that is created in a second, and its runs in `runs`."""
    notebook, rows = nbformat.read(path, as_version=4), runs.with_name("rows.parquet")
    base = repr(str(tiny_base(runs.with_name("small"), dimension=512)))  # truncated to 512 in one of them
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    if "sample:" in code:
        few_rows(code, rows)
    for cell in notebook.cells:
        cell.source = re.sub('"sample:.+"', repr(str(rows)), cell.source)
        cell.source = cell.source.replace("} if full else {}", "}")  # the few rows are not divided yet
        cell.source = re.sub(r"^steps = .*$", f"steps = {steps}", cell.source, flags=re.MULTILINE)
        cell.source = cell.source.replace('runs = "../runs"', f"runs = {str(runs)!r}")
        cell.source = re.sub('"bundled:(minilm|multilingual)"', base, cell.source)
        few = f'"porsche-minilm", base={base}, data={str(rows)!r}, max_steps=2'  # the real one: tests/verdicts
        cell.source = cell.source.replace('"porsche-minilm"', few)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_defines_nothing_and_has_no_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            defined = [
                node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            assert defined == []
            assert len(cell.source.splitlines()) <= LONGEST_CELL


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_has_one_switch_at_the_top(path: Path) -> None:
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert re.search(r"^full = False\b.*\nsteps = None if full else \d+$", code[0], re.MULTILINE)
    assert 'runs = "../runs"' in code[0]
    assert not any(re.search(r"^(full|steps|runs|base|data) = ", source, re.MULTILINE) for source in code[1:])


@pytest.mark.slow
@pytest.mark.parametrize("path", to_execute("01234567"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = prepare(path, tmp_path / "runs")
    NotebookClient(
        notebook, timeout=300, store_widget_state=False, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [set(output.get("data", {})) for output in outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    widgets = sum("application/vnd.jupyter.widget-view+json" in kinds for kinds in shown)
    assert widgets >= 2  # the live training, the queries
    still = [
        output.data["text/html"] for output in outputs if "wb-fallback-" in output.get("data", {}).get("text/html", "")
    ]
    assert len(still) == widgets  # shown in their place in a saved notebook
    assert all('<table class="rows">' in page for page in still)
    assert [page for page in still if 'class="word running"' in page] == []  # shows the end of the training
    exported = render_notebook(notebook, path.stem)
    assert exported.count('class="rows"') == sum(page.count('class="rows"') for page in still)


def hub(folder: Path, card: str) -> str:
    """Fill Hub caches in `folder` with a small base under the name of the card's base, and with the card's rows.

    Rows that are not public are written to a file, whose path is returned.
    """
    base, data = (recipe := wb.recipe(wb.read_card(card))).base, recipe.data
    assert base.revision is not None
    if base.static_dimensions is None:
        saved = tiny_base(folder / "base", dimension=512 if card == "porsche-mxbai" else 32)  # truncated to 512
    else:
        saved = folder / "table"
        load_base("bundled:static").model.save_pretrained(str(saved), create_model_card=False)
    cached_model(folder / "hub", saved, base.model, base.revision)
    texts = [(f"how far does car {number} go", f"car {number} goes {7 * number} miles") for number in range(200)]
    beir = {
        "corpus": [{"_id": f"d{place}", "title": "", "text": text} for place, (_, text) in enumerate(texts)],
        "queries": [{"_id": f"q{place}", "text": text} for place, (text, _) in enumerate(texts)],
        "qrels": [{"query-id": f"q{place}", "corpus-id": f"d{place}", "score": 1} for place in range(len(texts))],
    }
    if card == "hotpotqa-distilbert-energy":
        cached_dataset(
            folder / "datasets", "BeIR/hotpotqa", {part: {part: beir[part]} for part in ("corpus", "queries")}
        )
        cached_dataset(folder / "datasets", "BeIR/hotpotqa-qrels", {"default": {"train": beir["qrels"]}})
    elif card == "gooaq-static-matryoshka":
        rows = [{"question": question, "answer": answer} for question, answer in texts]
        cached_dataset(folder / "datasets", "sentence-transformers/gooaq", {"default": {"train": rows}})
        nano = {part: dict.fromkeys([f"Nano{name}" for name in NANO], rows) for part, rows in beir.items()}
        cached_dataset(folder / "datasets", "sentence-transformers/NanoBEIR-en", nano)
    else:
        made = [dict(zip(data.columns, (*pair, place % 10 / 10), strict=False)) for place, pair in enumerate(texts)]
        (folder / "own.json").write_text(json.dumps(made), encoding="utf-8")
        return str(folder / "own.json")
    return ""


@pytest.mark.long
@pytest.mark.parametrize("path", to_execute("12345"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_full_uses_the_cards_own_base_and_rows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = prepare(path, tmp_path / "runs", steps=2)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    found = re.search(r'wb.read_card\("(.+)"\)', code)
    assert found is not None
    rows = hub(tmp_path, found[1])
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source = first.source.replace("full = False", "full = True")
    first.source = first.source.replace("(None, None)", f"(None, {rows or None!r})")
    for cell in notebook.cells:  # UMAP compiles in every process; `workbench map` is tested with it
        cell.source = cell.source.replace('"umap" if full else "pca"', '"pca"')
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=300, store_widget_state=False, resources=place).execute()
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "runs").glob("*/run.json")]
    assert len(records) >= 2
    assert [record["base"]["stand_in"] for record in records] == [False] * len(records)
    assert [record["data"]["stand_in"] for record in records] == [False] * len(records)


STOPPED = """
import asyncio, contextlib, threading
import workbench as wb
from workbench.run import RunWriter
run = wb.open_run({path!r})
with contextlib.suppress(TimeoutError):
    await asyncio.wait_for(wb.finished(run), 1)
"""
GOES_ON = """
threading.Timer(1.5, lambda: RunWriter(run.path).update(status="finished")).start()
(await wb.finished(run)).status
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_waiting_for_a_stopped_run_says_what_to_do(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    RunWriter(run.path).update(status="stopped", progress={"step": 40, "steps": 150})
    cells = [nbformat.v4.new_code_cell(source) for source in (STOPPED.format(path=str(run.path)), GOES_ON)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    first, second = (cell.outputs for cell in notebook.cells)
    assert [output.data["text/plain"] for output in first] == [
        f"{run.name} is stopped at step 40 of 150. Press Resume above, and the notebook continues when the training "
        "has ended; or interrupt this cell (the square in the toolbar) to leave it stopped."
    ]
    assert [output.data["text/plain"] for output in second] == ["", "'finished'"]  # the sentence is removed
