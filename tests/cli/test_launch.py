"""`workbench dashboard`: which server it starts."""

from __future__ import annotations

import os
import sys

import pytest
from in_process import workbench


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have replaced this process."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: found.append(words))
    monkeypatch.setattr(sys, "executable", sys.executable)
    return found


def test_the_dashboard_is_for_this_machine(started: list[list[str]]) -> None:
    done = workbench("dashboard", "--no-browser")
    assert done.returncode == 0, done.stderr
    (words,) = started
    assert words[words.index("--server.address") + 1] == "127.0.0.1"
    assert "--read-only" not in words
    assert "password" not in done.stderr


def test_on_a_network_it_only_shows_and_asks_for_a_password(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_PASSWORD", "")
    seen: list[str] = []
    monkeypatch.setattr(
        os, "execv", lambda _, words: (started.append(words), seen.append(os.environ["WORKBENCH_PASSWORD"]))
    )
    done = workbench("dashboard", "--no-browser", "--host", "0.0.0.0")
    (words,) = started
    assert words[words.index("--server.address") + 1] == "0.0.0.0"
    assert words[-1] == "--read-only"
    assert len(seen[0]) >= 12
    assert f"password: {seen[0]}" in done.stderr
    monkeypatch.setenv("WORKBENCH_PASSWORD", "mine")
    done = workbench("dashboard", "--no-browser", "--host", "0.0.0.0")
    assert seen[1] == "mine"
    assert "mine" not in done.stderr
