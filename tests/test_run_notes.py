"""Notes of runs and the trash: nothing is lost, and a run folder stays as it is."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest
from synthetic_run import made_run

from workbench.errors import RunError
from workbench.run import Run, RunWriter, list_runs
from workbench.run_notes import (
    Notes,
    delete,
    notes_path,
    read_notes,
    read_query_notes,
    write_notes,
    write_query_notes,
)


def content(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_notes_are_beside_the_run_and_one_change_keeps_the_others(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    before = content(run.path)
    assert read_notes(run) == Notes()
    write_notes(run, alias="first try", tags=["demo", "demo", "loss"])
    assert write_notes(run, note="two\nlines", archived=True) == Notes(
        "first try", ("demo", "loss"), "two\nlines", archived=True
    )
    assert content(run.path) == before
    assert [found.name for found in list_runs(tmp_path)] == [run.name]


def test_queries_have_tags_and_a_note_beside_those_of_their_run(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    before = content(run.path)
    write_notes(run, alias="first try")
    write_query_notes(run, "finetune", "q1", tags=["look", "look"], note="<b>")
    write_query_notes(run, "finetune", "q2", tags=[], note="x")
    write_query_notes(run, "finetune", "q2", tags=[], note="")
    assert read_query_notes(run, "finetune") == {"q1": {"tags": ["look"], "note": "<b>"}}
    assert (read_query_notes(run, "other"), read_notes(run).alias) == ({}, "first try")
    assert content(run.path) == before
    kept = notes_path(run).read_bytes()
    with pytest.raises(RunError, match=r"^expected another value of 'queries\.finetune\.q1\.note'"):
        write_query_notes(run, "finetune", "q1", tags=[], note="x" * 5000)
    assert notes_path(run).read_bytes() == kept


def test_writers_at_one_time_lose_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    wanted = {"alias": "a", "tags": ["b"], "note": "c", "archived": True}

    def write(name: str) -> None:
        for _ in range(20):
            write_notes(run, **{name: wanted[name]})

    writers = [threading.Thread(target=write, args=(name,)) for name in wanted]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read_notes(run) == Notes("a", ("b",), "c", archived=True)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"alias": 5}', '{"tags": "x"}', '{"archived": 1}', '{"queries": []}', "\0"]
)
def test_a_damaged_file_is_one_sentence_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    run = made_run(tmp_path)
    path = notes_path(run)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(RunError, match=r"^expected ") as told:
        read_notes(run)
    assert "\n" not in str(told.value)
    with pytest.raises(RunError, match=r"^expected "):
        write_notes(run, alias="x")
    assert path.read_text() == text


def test_what_this_version_does_not_know_stays(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    notes_path(run).parent.mkdir()
    notes_path(run).write_text('{"later": 1}')
    assert write_notes(run, alias="x") == Notes("x")
    assert json.loads(notes_path(run).read_text()) == {"later": 1, "alias": "x"}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for changes in ({"alias": "x" * 81}, {"tags": [""]}, {"status": "finished"}):
        with pytest.raises(RunError, match=r"^expected "):
            write_notes(run, **changes)
    assert not notes_path(run).exists()


def test_a_deleted_run_is_in_the_trash_and_can_be_moved_back(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    before = {Path(path).name: digest for path, digest in content(run.path).items()}
    (tmp_path / ".workbench" / "trash" / run.name).mkdir(parents=True)
    moved = delete(run)
    assert moved == tmp_path / ".workbench" / "trash" / f"{run.name}-1"
    assert list_runs(tmp_path) == []
    moved.rename(run.path)
    assert {Path(path).name: digest for path, digest in content(run.path).items()} == before


def test_a_running_or_missing_run_is_not_deleted(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    RunWriter(run.path).update(status="running")
    with pytest.raises(RunError, match="which is running; stop it first"):
        delete(run)
    assert run.path.exists()
    with pytest.raises(RunError, match="cannot move"):
        delete(Run(tmp_path / "gone"))
