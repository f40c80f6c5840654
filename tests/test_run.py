"""The run folder opens whatever happened to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RunError
from workbench.run import Run, RunWriter, atomic_write, create, is_alive, list_runs, open_run, this_process, write_json


def made(root: Path, **record: Any) -> RunWriter:
    return create(root, card_name="a", recipe_sha256="0123456789", record={"card": "a", **record}, write=lambda _: None)


def test_a_new_run_is_listed_as_running(tmp_path: Path) -> None:
    writer = made(tmp_path)
    assert [run.path for run in list_runs(tmp_path)] == [writer.path]
    assert writer.run.status == "running"
    assert writer.path.name.startswith("a-")
    assert writer.path.name.endswith("-012345")


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    assert made(tmp_path).path != made(tmp_path).path


def test_what_is_written_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, place, synced = made(tmp_path), tmp_path / "it.json", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, place.exists())))
    writer.log({"step": 1})
    write_json(place, {})
    assert synced == [(writer.run.file("log").stat().st_ino, False), (place.stat().st_ino, False)]


def test_a_folder_that_cannot_be_finished_is_removed(tmp_path: Path) -> None:
    def write(run: Run) -> None:
        run.file("recipe").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left on device") as caught:
        create(tmp_path, card_name="a", recipe_sha256="0" * 6, record={}, write=write)
    assert str(caught.value) == (
        f"cannot make a run folder in {str(tmp_path)!r}: No space left on device; choose another with --runs."
    )
    assert list(tmp_path.iterdir()) == []
    assert list_runs(tmp_path) == []


def test_a_runs_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(RunError, match=r"cannot make a run folder in .*runs': .*; choose another with --runs"):
        made(tmp_path / "runs")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_while_logging_is_an_error(tmp_path: Path) -> None:
    writer = made(tmp_path)
    (writer.path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device; free some space and resume"):
        writer.log({"step": 1})


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "run.json"
    write_json(target, {"status": "running"})
    with suppress(ValueError), atomic_write(target) as temporary:
        temporary.write_text("{")
        raise ValueError
    assert json.loads(target.read_text()) == {"status": "running"}
    assert list(tmp_path.iterdir()) == [target]


def test_the_later_line_of_a_step_wins_and_a_half_line_is_left_out(tmp_path: Path) -> None:
    writer = made(tmp_path)
    for row in ({"step": 2, "loss": 9.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "x": 1}):
        writer.log(row)
    with (writer.path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert writer.run.log() == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "x": 1}]


def test_a_line_after_a_half_line_is_kept(tmp_path: Path) -> None:
    """A run that was killed while writing a line goes on in the same file."""
    writer = made(tmp_path)
    writer.log({"step": 1, "loss": 1.0})
    with (writer.path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    writer.log({"step": 2, "loss": 0.5})
    assert [row["step"] for row in writer.run.log()] == [1, 2]


def ended_process() -> Mapping[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {**this_process(), "pid": process.pid, "started": None}


def test_a_running_run_without_its_process_is_interrupted(tmp_path: Path) -> None:
    writer = made(tmp_path)
    writer.update(process=ended_process())
    assert writer.run.status == "interrupted"


def test_a_process_is_identified_by_pid_and_start_time() -> None:
    assert is_alive(this_process())
    assert not is_alive(ended_process())
    assert is_alive({**this_process(), "host": "elsewhere", "pid": 1 << 22})
    assert not is_alive({})
    if this_process()["started"] is not None:
        assert not is_alive({**this_process(), "started": 1})


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if Path(f"/proc/{process.pid}/stat").exists():
        assert not is_alive({**this_process(), "pid": process.pid, "started": None})
    process.wait()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"status": "dancing"}', "\x00\xff", '{"status": "finished", "data": 7}',
     '{"status": "finished", "checks": [1]}'],
)  # fmt: skip
def test_a_damaged_record_is_listed_as_broken(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "run.json").write_text(content)
    assert [run.status for run in list_runs(tmp_path)] == ["broken"]
    assert "bad" in repr(list_runs(tmp_path)[0])
    assert "broken" in list_runs(tmp_path)[0]._repr_html_()


def test_opening_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "none", tmp_path)
    assert str(caught.value) == (
        f"expected a run (a folder that holds run.json), found none at {str(tmp_path / 'none')!r} or in the folder "
        f"{str(tmp_path)!r}; `workbench runs` lists those there are, --runs names another folder."
    )


def test_a_run_is_found_by_its_name(tmp_path: Path) -> None:
    writer = made(tmp_path)
    assert open_run(writer.path.name, tmp_path).path == writer.path


def test_a_run_is_found_by_the_beginning_of_its_name_or_as_the_latest(tmp_path: Path) -> None:
    first, second = (
        create(tmp_path, card_name=name, recipe_sha256="0123456789", record={}, write=lambda _: None).path
        for name in ("porsche-a", "porsche-b")
    )
    RunWriter(first).update(created="2026-01-01T00:00:00Z")
    RunWriter(second).update(created="2026-02-01T00:00:00Z")
    assert open_run("latest", tmp_path).path == second
    assert open_run("porsche-a", tmp_path).path == first
    with pytest.raises(RunError, match="expected one run, found 2 that begin with 'porsche-'"):
        open_run("porsche-", tmp_path)


def test_stages_are_in_order_and_the_main_metric_is_shown(tmp_path: Path) -> None:
    writer = made(tmp_path)
    folder = writer.path / "evaluations" / "<b>"
    for moment, value in (("after", 0.73), ("step-20", 0.7), ("before", 0.63), ("step-3", 0.65)):
        write_json(folder / f"{moment}.json", {"metrics": {"cosine_ndcg@10": value}})
    assert writer.run.evaluations() == {"<b>": ("before", "step-3", "step-20", "after")}
    assert repr(writer.run) == f"<Run {writer.path.name!r}: running, <b> nDCG@10 0.6300 → 0.7300>"
    assert "<b>" not in writer.run._repr_html_()


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected the queries of 'test' in run"):
        Run(made(tmp_path).path).per_query("test", "before")


def test_stand_ins_are_sentences(tmp_path: Path) -> None:
    writer = made(tmp_path, base={"stand_in": True, "note": "B for A."}, data={"stand_in": False, "note": "own"})
    assert writer.run.stand_ins == ("B for A.",)
