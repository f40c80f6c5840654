"""The verdict on cards whose truth is known; see `make_cards`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from make_cards import CASES, Workshop

from workbench.cards.read import read_card
from workbench.evaluation.compare import compare
from workbench.pipeline import reproduce
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import recipe_sha256
from workbench.run import Run

ALWAYS = {
    "pairs", "cosent", "triplets", "before", "pairs-without-base", "pairs-without-evaluation", "f-raised-01",
    "f-raised-03", "f-one-metric", "f-swapped", "f-table", "f-losses", "f-one-loss", "f-spearman", "f-learning-rate",
    "f-training-rows", "f-raised-10", "f-one-metric-01", "f-best", "f-accuracy",
}  # fmt: skip
"""Judged in every run, one training of each kind; the others need `-m long`."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for both sides
    yield Workshop(tmp_path_factory.mktemp("verdicts"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.long) for name in CASES]
)
def test_the_verdict_is_true(name: str, shop: Workshop) -> None:
    verdict, reasons = shop.judge(name)
    assert verdict in CASES[name].verdicts, (CASES[name].truth, verdict, reasons)


@pytest.mark.long
def test_the_shipped_card_is_reproduced_exactly_without_any_option(tmp_path: Path) -> None:
    run = reproduce("porsche-minilm", runs=tmp_path)
    found = compare(run)
    assert (found.verdict, found.reasons) == ("reproduced exactly", ())
    assert [run.record[part]["stand_in"] for part in ("base", "data")] == [False, False]


# --- cards that others made ------------------------------------------------------------------------------------------

ELSEWHERE = {
    "h01-porsche-mnrl": {"reproduced exactly"},
    "h02-stsb-cosent-best": {"reproduced exactly"},
    "h03-stsb-cossim-lastlog": {"reproduced exactly"},
    "f-edited-log": {"differs"},
    "f-lr": {"differs", "cannot tell"},
    "f-metrics+03": {"differs"},
    "f-swap-ndcg-mrr": {"differs"},
}
"""Cards of ../shared/found/verdict and the verdicts that their truth allows."""


@pytest.fixture(scope="module")
def elsewhere(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder of those cards with their base, which its script cuts from the bundled model."""
    found = shared / "found" / "verdict"
    if not found.is_dir():
        pytest.skip(f"the cards are not at {found}")
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(found, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    (folder / "bases").mkdir()
    subprocess.run([sys.executable, "make_base.py"], cwd=folder, check=True, capture_output=True)
    return folder


RUNS: dict[str, Run] = {}  # of those cards, by recipe


@pytest.mark.long
@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_verdict_on_a_card_made_elsewhere_is_true(name: str, elsewhere: Path, shop: Workshop) -> None:
    place = elsewhere / "cards" / name
    card, truth = read_card(place), json.loads((place / "truth.json").read_text(encoding="utf-8"))
    key = recipe_sha256(recipe(card))
    if key not in RUNS:
        RUNS[key] = reproduce(
            card,
            base=str(elsewhere / truth["base"]),
            base_is_the_cards=True,
            data=str(elsewhere / truth["rows"]),
            evaluation_set=str(elsewhere / truth["evaluation"].split(" ")[0]),
            runs=elsewhere / "runs",
        )
    found = compare(RUNS[key], card=card)
    assert found.verdict in ELSEWHERE[name], (truth["falsified"], found.verdict, found.reasons, found.notes)
