"""The pre-commit hook and the GitHub action, as far as a machine without GitHub can run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CARD, ERRORS = "data/cards/porsche-mxbai", "data/cards/korean-law-lora"


@pytest.fixture
def repository(tmp_path: Path, root: Path) -> Path:
    """A git repository with a card, and a second commit that adds one with errors and changes a file that is none."""
    shutil.copytree(root / CARD, tmp_path / "one")
    (tmp_path / "README.md").write_text("# Notes\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        git(tmp_path, *words)
    shutil.copytree(root / ERRORS, tmp_path / "with space")
    (tmp_path / "README.md").write_text("# More notes\n")
    for words in (("add", "."), ("commit", "-qm", "two")):
        git(tmp_path, *words)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_action(repository: Path, root: Path, **inputs: str) -> tuple[int, str, str]:
    """Exit code, output and summary of the action's own step."""
    action = read(root / "action.yml")
    step = action["runs"]["steps"][-1]
    values = {name: str(about["default"]) for name, about in action["inputs"].items()} | inputs
    environment = {"BASE": git(repository, "rev-parse", "HEAD~1").strip()}
    for name, expression in step["env"].items():
        if found := re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", expression):
            environment[name] = values[found[1]]
    summary = repository / ".git" / "summary.md"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],  # as GitHub starts `shell: bash`
        cwd=repository,
        env={**os.environ, **environment, "GITHUB_STEP_SUMMARY": str(summary), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, summary.read_text(encoding="utf-8") if summary.exists() else ""


def test_the_action_annotates_the_cards_that_changed(repository: Path, root: Path) -> None:
    code, printed, summary = run_action(repository, root)
    assert code == 1
    assert set(re.findall(r"file=([^,]+),", printed)) == {"with space/README.md"}
    assert printed.count("::error ") == 2
    assert summary.startswith("### with space/README.md: 2 errors, 2 warnings, 3 notes")


def test_the_action_takes_cards_and_options(repository: Path, root: Path) -> None:
    code, printed, summary = run_action(repository, root, cards="one", options="--severity warning")
    assert (code, printed.count("::warning "), printed.count("::notice ")) == (0, 7, 0)
    assert summary.startswith("### one/README.md: 7 warnings")
    (repository / "README.md").write_text("# Only notes\n")
    git(repository, "commit", "-qam", "three")
    assert run_action(repository, root)[:2] == (0, "")


def test_the_hook_audits_cards_and_passes_other_files(repository: Path, root: Path) -> None:
    (hook,) = read(root / ".pre-commit-hooks.yaml")
    tracked = [name for name in git(repository, "ls-files").splitlines() if re.search(hook["files"], name)]
    assert tracked == ["README.md", "one/README.md", "with space/README.md"]
    command = [*hook["entry"].split(), *tracked]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "2 cards audited: 2 errors" in done.stdout


def test_the_guide_names_the_action_and_the_hook(root: Path) -> None:
    workflow = read(root / "data/guide/card-audit.yml")
    used = workflow["jobs"]["audit"]["steps"][-1]
    assert used["uses"].startswith("OWNER/card-workbench@v")
    assert set(used["with"]) <= set(read(root / "action.yml")["inputs"])
    assert read(root / ".pre-commit-hooks.yaml")[0]["id"] in (root / "data/guide/lint.md").read_text(encoding="utf-8")
