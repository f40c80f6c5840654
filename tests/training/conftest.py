"""The tiny base and rows that the tests of training share; a file may have its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_base, tiny_rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_rows(tmp_path_factory.mktemp("rows") / "rows.json")
