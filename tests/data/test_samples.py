"""What holds for every shipped sample: its script makes its files, cells are tidy, all together are small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sample_rows import SAMPLES, read

NAMES = sorted(path.parent.name for path in SAMPLES.glob("*/make.py"))


def test_every_card_has_a_sample() -> None:
    assert NAMES == ["gooaq", "hotpotqa", "korean-law", "porsche", "sinhala"]
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 5_000_000


@pytest.mark.parametrize("name", NAMES)
def test_script_makes_the_committed_files(name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    script = [sys.executable, str(SAMPLES / name / "make.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True, text=True)
    committed = sorted((SAMPLES / name).glob("*.parquet"))
    assert [path.name for path in sorted(tmp_path.glob("*.parquet"))] == [path.name for path in committed]
    for kept in committed:
        made = tmp_path / kept.name
        assert pq.read_table(made).equals(pq.read_table(kept)), kept.name
        if pq.read_metadata(kept).created_by.endswith(pa.__version__):  # another pyarrow may pack the rows otherwise
            assert made.read_bytes() == kept.read_bytes(), kept.name


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_tidy(name: str) -> None:
    may_be_empty = {"thing", "model"}  # a pair that is written singly belongs to none
    for row in (row for part in read(name).values() for row in part):
        for key, value in row.items():
            assert isinstance(value, float) if key == "score" else value.strip() == value, (key, row)
            assert value != "" or key in may_be_empty, (key, row)
