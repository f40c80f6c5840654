"""`workbench audit` of many cards: filters, baseline, configuration, formats of other programs, `explain`."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from in_process import workbench
from sarif_pydantic import Sarif

from workbench.audit.rules import RULES, audit

CARD = "data/cards/porsche-mxbai/README.md"  # 7 warnings, 4 notes
ERRORS = "data/cards/korean-law-lora/README.md"  # 2 errors


@pytest.fixture
def cards(tmp_path: Path, root: Path) -> Path:
    """A folder with two cards, a README.md that is none, and a hidden folder."""
    shutil.copytree((root / CARD).parent, tmp_path / "models/one")
    for place in ("models/deep/two", "models/.cache"):
        shutil.copytree((root / ERRORS).parent, tmp_path / place)
    (tmp_path / "models/notes").mkdir()
    (tmp_path / "models/notes/README.md").write_text("# Notes\n\nNothing to see.\n")
    return tmp_path


def listed(folder: Path, *words: str) -> dict[str, list[str]]:
    """Codes of each card that `workbench audit models WORDS --json` lists."""
    done = workbench("audit", "models", *words, "--json", folder=folder)
    return {each["card"]: [found["code"] for found in each["findings"]] for each in json.loads(done.stdout)}


def test_a_folder_means_all_cards_in_it_without_what_is_none(cards: Path) -> None:
    assert list(listed(cards)) == ["models/deep/two/README.md", "models/one/README.md"]
    done = workbench("audit", "models/notes", folder=cards)
    assert (done.returncode, "found a text without any of its marks" in done.stderr) == (2, True)
    assert workbench("audit", "models/notes", "--cards-only", folder=cards).returncode == 0
    (cards / "empty").mkdir()
    done = workbench("audit", "empty", folder=cards)
    assert done.returncode == 2
    assert done.stderr == "workbench: expected cards in the folder 'empty', found no README.md in it.\n"


def test_codes_and_severities_choose_the_findings(cards: Path) -> None:
    whole = listed(cards)["models/one/README.md"]
    assert len(whole) == 11
    assert listed(cards, "--severity", "warning")["models/one/README.md"] == whole[:7]
    assert listed(cards, "--select", f"{whole[0]},{whole[9]}")["models/one/README.md"] == [whole[0], whole[9]]
    assert listed(cards, "--ignore", whole[0], "--ignore", whole[1])["models/one/README.md"] == whole[2:]
    done = workbench("audit", CARD, "--ignore", "learning-rates")
    assert done.returncode == 2
    assert "found 'learning-rates'; did you mean learning-rate" in done.stderr


def test_a_comment_in_the_card_ignores_codes(cards: Path) -> None:
    path = cards / "models/one/README.md"
    whole = listed(cards)["models/one/README.md"]
    comment = f"\n<!-- workbench: ignore {whole[0]}, {whole[2]} -->\n<!-- workbench: ignore nonsense -->\n"
    path.write_text(path.read_text(encoding="utf-8") + comment, encoding="utf-8")
    assert listed(cards)["models/one/README.md"] == [whole[1], *whole[3:]]
    said = " ".join(workbench("audit", "models/one", folder=cards).stderr.replace("-\n", "-").split())
    assert said == f"models/one/README.md itself says to ignore {', '.join(sorted((whole[0], whole[2])))}"


def test_exit_codes(cards: Path) -> None:
    one, two = "models/one/README.md", "models/deep/two/README.md"
    for words, code in {
        (one,): 0, (one, "--strict"): 0, (one, "--strict", "--severity", "warning"): 1, (two, "--strict"): 1,
        (two, "--severity", "error"): 0, (one, "missing/README.md"): 2, (one, "--strict", "--format", "sarif"): 0,
        (two, "--strict", "--format", "github"): 1,
    }.items():  # fmt: skip
        assert workbench("audit", *words, folder=cards).returncode == code, words


def test_a_baseline_passes_known_findings_and_fails_new_ones(cards: Path) -> None:
    path = cards / "models/one/README.md"
    done = workbench("audit", "models", "--write-baseline", "known.json", folder=cards)
    assert (done.returncode, done.stderr) == (0, "wrote known.json: 18 findings of 2 cards\n")
    known = ("--baseline", "known.json")
    assert workbench("audit", "models", *known, folder=cards).returncode == 0
    assert listed(cards, *known) == {"models/deep/two/README.md": [], "models/one/README.md": []}
    moved = path.read_text(encoding="utf-8").replace("\n# ", "\n\n\n# ", 1)  # lines do not matter
    path.write_text(moved.replace("`learning_rate`: 2e-05", "`learning_rate`: 0.5"), encoding="utf-8")
    assert listed(cards, *known)["models/one/README.md"] == ["learning-rate"]
    assert workbench("audit", "models", *known, folder=cards).returncode == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected a baseline in 'known.json', found another file"),
        ("{", "found another file"),
        ('{"version": 9, "findings": {}}', "expected a baseline of version 1, found version 9"),
        (None, "found no file 'known.json'; --write-baseline makes one."),
    ],
)
def test_another_file_is_no_baseline(text: str | None, said: str, cards: Path) -> None:
    if text is not None:
        (cards / "known.json").write_text(text)
    done = workbench("audit", "models", "--baseline", "known.json", folder=cards)
    assert done.returncode == 2
    assert said in done.stderr


def test_pyproject_holds_the_defaults(cards: Path) -> None:
    whole = listed(cards)["models/one/README.md"]
    workbench("audit", "models", "--write-baseline", "known.json", folder=cards)
    settings = cards / "pyproject.toml"
    settings.write_text(f'[tool.card-workbench]\nignore = ["{whole[0]}"]\nseverity = "warning"\n')
    assert listed(cards)["models/one/README.md"] == whole[1:7]
    assert listed(cards, "--severity", "note", "--ignore", whole[1])["models/one/README.md"] == [whole[0], *whole[2:]]
    settings.write_text('[tool.card-workbench]\nbaseline = "known.json"\n')
    assert workbench("audit", "one", folder=cards / "models").returncode == 1  # other paths than in the baseline
    assert workbench("audit", "models", folder=cards).returncode == 0
    for text, said in {
        "[tool.card-workbench]\nsilent = true\n": "silent of [tool.card-workbench] in",
        "[tool.card-workbench]\nselect = 'all'\n": "select of [tool.card-workbench] in",
        "[tool.card-workbench]\nselect = [1]\n": "select.0 of [tool.card-workbench] in",
        "[tool]\ncard-workbench = 3\n": "the table of [tool.card-workbench] in",
        "[tool.card-workbench": "found a file that is not",
    }.items():
        settings.write_text(text)
        done = workbench("audit", "models", folder=cards)
        assert done.returncode == 2
        assert said in done.stderr, done.stderr


def test_sarif_is_valid_and_points_at_lines(cards: Path, root: Path) -> None:
    log = json.loads(workbench("audit", "models", "--format", "sarif", folder=cards).stdout)
    parsed = Sarif.model_validate(log)
    assert parsed.version == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    found = audit(root / ERRORS).findings + audit(root / CARD).findings
    assert [each["ruleId"] for each in run["results"]] == [each.code for each in found]
    assert all(rules[each["ruleIndex"]] == each["ruleId"] for each in run["results"])
    assert all("Silent when" in rule["help"]["markdown"] for rule in run["tool"]["driver"]["rules"])
    for result, each in zip(run["results"], found, strict=True):
        assert result["level"] == each.severity
        regions = [place["physicalLocation"]["region"] for place in result["locations"]]
        lines = [line for at in regions for line in range(at["startLine"], at["endLine"] + 1)]
        assert lines == list(each.lines or [1])
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"] == {
        "uri": "models/deep/two/README.md"
    }


def test_github_annotations_are_escaped(cards: Path) -> None:
    shutil.copytree(cards / "models/deep/two", cards / "models/odd, 100%: name")
    done = workbench("audit", "models/odd, 100%: name", "--format", "github", folder=cards)
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    where = (
        r"::(error|warning|notice) file=models/odd%2C 100%25%3A name/README\.md,line=\d+,endLine=\d+,title=[\w-]+::.+"
    )
    assert all(re.fullmatch(where, line) for line in lines), lines
    assert any("%0AFix: " in line for line in lines)


def test_junit_counts_failures_and_markdown_stays_in_its_cells(cards: Path) -> None:
    suites = ElementTree.fromstring(workbench("audit", "models", "--format", "junit", folder=cards).stdout)
    assert [(suite.get("tests"), suite.get("failures")) for suite in suites] == [("7", "4"), ("11", "7")]
    path = cards / "models/one/README.md"
    text = path.read_text(encoding="utf-8").replace("eval_finetune_embed", "a|b](http://x.y)<img src=z>")
    path.write_text(text, encoding="utf-8")
    table = workbench("audit", "models/one", "--format", "markdown", folder=cards).stdout
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == len(audit(path)) + 1
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "<img" not in table.replace("\\<img", "")
    assert "](http" not in table.replace("\\](http", "")


def test_explain_documents_every_code() -> None:
    done = workbench("explain")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == sorted(rule.code for rule in RULES)
    for rule in RULES:
        assert rule.documentation().short.endswith("."), rule.code
    done = workbench("explain", "evaluation-unused")
    assert done.stdout.splitlines()[0] == "## evaluation-unused"
    assert "- Fix: evaluate after every epoch." in done.stdout
    done = workbench("explain", "evaluation-unusd")
    assert (done.returncode, "did you mean evaluation-unused" in done.stderr) == (2, True)


def test_every_fix_is_documented(root: Path, shared: Path) -> None:
    fixed: set[str] = set()
    for path in [*root.glob("data/cards/*/README.md"), *(shared / "cards/real").rglob("*.md")]:
        fixed |= {found.code for found in audit(path) if found.fix}
    assert {rule.code for rule in RULES if rule.documentation().fix} >= fixed


@pytest.mark.long
def test_ten_thousand_cards_are_audited_in_bounded_memory(cards: Path) -> None:
    from usage import Usage

    text = (cards / "models/one/README.md").read_text(encoding="utf-8")
    for number in range(10_000):
        (cards / f"many/{number}").mkdir(parents=True)
        (cards / f"many/{number}/README.md").write_text(text, encoding="utf-8")
    start = time.monotonic()
    with Usage() as usage:
        done: Any = workbench("audit", "many", folder=cards)
    print(f"{time.monotonic() - start:.0f} s, {usage.megabytes:.0f} MB")
    warnings = audit(cards / "many/0").counts()["warning"] * 10_000
    assert done.stdout.splitlines()[-1].startswith(f"10000 cards audited: 0 errors, {warnings} warnings")
    assert done.stderr == ""
    assert usage.megabytes < 500
