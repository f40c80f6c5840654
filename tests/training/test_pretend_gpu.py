"""The ways that only a GPU takes, tried without one: nothing mixes devices, and results are the CPU's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "pretend_gpu.py"
CARDS = (
    "hotpotqa-distilbert-energy", "gooaq-static-matryoshka", "korean-law-lora", "porsche-mxbai", "sinhala-xlmr-cosine"
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script printed; it fails where tensors of two devices meet."""
    words = [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("gpu"))]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums in one order
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=one)
    assert done.returncode == 0, done.stderr[-3000:]
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("card", CARDS)
def test_both_engines_train_there_with_the_losses_of_the_cpu(card: str, found: dict[str, Any]) -> None:
    said = found["train"][card]
    assert len(said["cpu"]) == 2
    assert said["trainer"]["losses"] == pytest.approx(said["cpu"], rel=1e-4)
    assert said["fast"]["losses"] == pytest.approx(said["cpu"], rel=1e-4)


@pytest.mark.parametrize("card", CARDS)
def test_the_fast_engine_launches_less(card: str, found: dict[str, Any]) -> None:
    """Six tenths of the trainer's operations for a transformer; for a table most of them are the loss's."""
    said = found["train"][card]
    most = 1.1 if card == "gooaq-static-matryoshka" else 0.65
    assert said["fast"]["launched"] <= most * said["trainer"]["launched"]


def test_the_search_finds_the_same(found: dict[str, Any]) -> None:
    assert found["search"] == dict.fromkeys(("cosine", "dot", "euclidean", "manhattan", "energy"), True)


def test_vectors_are_the_same(found: dict[str, Any]) -> None:
    assert found["encode"] < 1e-5


def test_mixing_two_devices_is_seen() -> None:
    """The device itself: without this it would prove nothing."""
    code = (
        "from pretend_gpu import *\n"
        "with pretending():\n"
        "    far, near = torch.ones(3, device='gpu'), torch.ones(3)\n"
        "    try: far + near\n"
        "    except RuntimeError as error: print(error)\n"
        "    try: far.numpy()\n"
        "    except TypeError as error: print(error)\n"
        "    print(far.device, (far + near.to('gpu')).sum().item(), far[torch.tensor([0])].shape)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "expected tensors of one device in aten.add.Tensor, found [(3,)] on the GPU, [(3,)] not.",
        "expected a tensor of the CPU, found one of a GPU; use Tensor.cpu() first.",
        "gpu:0 6.0 torch.Size([1])",
    ]
