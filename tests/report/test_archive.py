"""Everything about a run, and a site of some, in a zip."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from in_process import workbench
from synthetic_run import made_run

from workbench.report import pdf
from workbench.report.archive import run_archive, site_archive


def names(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture(autouse=True)
def _no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "browser", lambda: None)


def test_the_archive_of_a_run_holds_all_of_it_and_says_what_it_lacks(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    found = names(run_archive(run))
    (evaluation,) = (name for name in run.evaluations() if f"{name}/queries.csv" in found)
    assert {"report.html", "report.md", "recipe.yaml", "log.jsonl", "run.json", "card.json"} <= set(found)
    assert {f"{evaluation}/{name}" for name in ("before.run", "after.run", "qrels.txt")} <= set(found)
    assert found["log.jsonl"] == run.file("log").read_bytes()
    assert "report.pdf: expected Chromium" in found["MISSING.txt"].decode()
    assert run.name in found["report.html"].decode()
    table = pd.read_csv(io.BytesIO(found[f"{evaluation}/queries.csv"]))
    change = table["ndcg@10_after"] - table["ndcg@10_before"]
    assert table["ndcg@10_change"].tolist() == pytest.approx(change.tolist())
    assert change.abs().sum() > 0
    assert {"rank_before", "rank_after"} <= set(table)


def test_what_a_damaged_run_still_has_is_there(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for path in run.file("evaluations").rglob("*.parquet"):
        path.write_bytes(b"cut off")
    found = names(run_archive(run))
    assert "before.run: expected a Parquet table" in found["MISSING.txt"].decode()
    assert {"recipe.yaml", "report.html"} <= set(found)


def test_a_selection_is_a_site(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in ("one", "two")]
    assert set(names(site_archive(runs[:1]))) == {"index.html", f"runs/{runs[0].name}.html"}


def test_the_command_writes_the_zip(tmp_path: Path) -> None:
    run = made_run(tmp_path / "runs")
    done = workbench("export", run.path, "--format", "zip", "--out", tmp_path / "all.zip", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report.html" in names((tmp_path / "all.zip").read_bytes())
