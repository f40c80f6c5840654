"""Notebooks are committed without outputs, define nothing, and run from top to bottom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from synthetic_run import made_run

from workbench.report.notebook import render_notebook
from workbench.run import RunWriter

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
LONGEST_CELL = 15  # lines


def prepared(path: Path, runs: Path, steps: int = 6) -> nbformat.NotebookNode:
    """The notebook with few steps, a base that trains in seconds, and its runs in another folder."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"^steps = .*$", f"steps = {steps}", cell.source, flags=re.MULTILINE)
        cell.source = cell.source.replace('runs = "../runs"', f"runs = {str(runs)!r}")
        cell.source = cell.source.replace('"bundled:minilm"', '"scratch:small"')
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_lays_out_and_keeps_no_output(path: Path) -> None:
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
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    notebook = prepared(path, tmp_path / "runs")
    NotebookClient(
        notebook, timeout=300, store_widget_state=False, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [set(output.get("data", {})) for output in outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    widgets = sum("application/vnd.jupyter.widget-view+json" in kinds for kinds in shown)
    assert widgets >= 2  # a living training, the queries
    still = [
        output.data["text/html"] for output in outputs if "wb-still-" in output.get("data", {}).get("text/html", "")
    ]
    assert len(still) == widgets  # what a saved notebook shows in their place
    assert sum("<img alt" in page for page in still) >= 1
    assert [page for page in still if 'class="word running"' in page] == []  # it shows how the training ended
    exported = render_notebook(notebook, path.stem)
    assert exported.count("<img alt") == sum(page.count("<img alt") for page in still)


STOPPED = """
import asyncio, contextlib, threading
import workbench as wb
from workbench.report.notebook import render_notebook
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
def test_a_cell_that_waits_for_a_stopped_run_says_what_to_do(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    RunWriter(run.path).update(status="stopped", progress={"step": 40, "steps": 150})
    cells = [nbformat.v4.new_code_cell(source) for source in (STOPPED.format(path=str(run.path)), GOES_ON)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    first, second = (cell.outputs for cell in notebook.cells)
    assert [output.data["text/plain"] for output in first] == [
        f"{run.name} is stopped at step 40 of 150. Press Resume above, and the notebook goes on when the training has "
        "ended; or interrupt this cell (the square in the toolbar) to leave it there."
    ]
    assert [output.data["text/plain"] for output in second] == ["", "'finished'"]  # the sentence is taken back
