"""Fixtures that several tests need: where the test inputs lie, and a Hub that is never asked."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real cards and data beside the repository; without them the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"test inputs are not at {SHARED}")
    return SHARED
