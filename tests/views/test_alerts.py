"""Alerts on a training, and how the command tells them."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from in_process import workbench
from synthetic_run import made_run

from workbench.run import Run, RunWriter, write_json
from workbench.views.alerts import alerts


def run_with(root: Path, losses: list[float], status: str = "finished", **last: Any) -> Run:
    run = made_run(root)
    run.file("log").unlink(missing_ok=True)
    rows: list[dict[str, Any]] = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    rows[-1] |= last
    RunWriter(run.path).log(*rows)
    write_json(run.file("record"), {**run.record, "status": status})
    return run


def kinds(run: Run) -> list[str]:
    return [each.kind for each in alerts(run)]


FALLING = [2 * math.exp(-step / 150) + 0.05 * (step % 2) for step in range(300)]


def test_a_training_that_goes_well_only_says_that_it_ended(tmp_path: Path) -> None:
    assert kinds(run_with(tmp_path, FALLING)) == ["finished"]


def test_a_loss_that_is_not_a_number_is_told_with_its_step(tmp_path: Path) -> None:
    found = alerts(run_with(tmp_path, [1.0, 0.9, math.nan, math.nan]))
    assert (found[0].kind, found[0].sentence) == ("nan", "The loss is not a number since step 3.")


def test_a_flat_loss_is_a_plateau_and_a_short_one_is_not(tmp_path: Path) -> None:
    flat = [0.7 + 0.01 * (step % 3) for step in range(300)]
    assert kinds(run_with(tmp_path / "long", FALLING[:100] + flat)) == ["plateau", "finished"]
    assert kinds(run_with(tmp_path / "short", flat[:80])) == ["finished"]


def test_a_validation_below_the_base_is_told(tmp_path: Path) -> None:
    run = made_run(tmp_path / "any")
    (name, *_) = (each for each, stages in run.evaluations().items() if "before" in stages)
    metric = run.main_metric(name, "before")
    worse = run.metrics(name, "before")[metric] - 0.1
    found = alerts(run_with(tmp_path, FALLING, **{f"{name}_{metric}": worse}))
    assert [each.kind for each in found] == ["worse", "finished"]
    assert f"{worse:.4f} at step 300" in found[0].sentence
    better = run_with(tmp_path / "better", FALLING, **{f"{name}_{metric}": worse + 0.2})
    assert kinds(better) == ["finished"]


def test_an_unreadable_run_has_no_alerts(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.file("record").write_text("{")
    assert alerts(run) == []


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, str]]]]:
    found: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", found
    server.shutdown()
    server.server_close()


def test_watching_prints_alerts_and_ends_when_nothing_runs(
    tmp_path: Path, posted: tuple[str, list[dict[str, str]]]
) -> None:
    run = run_with(tmp_path / "runs", [1.0, math.nan])
    address, sent = posted
    done = workbench("runs", "--watch", "--runs", tmp_path / "runs", "--webhook", address, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{run.name}: The loss is not a number since step 2." in done.stdout
    assert [each["kind"] for each in sent] == ["nan", "finished"]
    assert sent[0]["run"] == run.name
    assert sent[0]["text"] == f"{run.name}: The loss is not a number since step 2."


def test_a_webhook_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    run_with(tmp_path / "runs", [1.0, math.nan])
    words = ("runs", "--watch", "--runs", tmp_path / "runs", "--webhook")
    done = workbench(*words, "http://127.0.0.1:9/none", folder=tmp_path)
    assert done.returncode == 2
    assert "expected an answer from the webhook" in done.stderr
    done = workbench(*words, "file:///etc/passwd", folder=tmp_path)
    assert "expected an http address" in done.stderr
