"""Read and check as many rows as GooAQ has: time and memory.

python tests/benchmarks/rows.py               # 3,012,496 made-up pairs, in a temporary folder
python tests/benchmarks/rows.py --rows 10000
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GOOAQ = 3_012_496
AT_ONCE = 100_000


def write(path: Path, rows: int) -> None:
    """Questions and answers of about GooAQ's lengths, all different."""
    answer = (
        "Thing number {} takes about {} minutes in this town, though some people say that it takes more when it rains, "
        "and less in summer, when the shops are open until late in the evening."
    )
    schema = pa.schema([("question", pa.string()), ("answer", pa.string())])
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, rows, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, rows))
            questions = [f"how long does thing number {number} take here" for number in numbers]
            answers = [answer.format(number, number % 61) for number in numbers]
            file.write_table(pa.table({"question": questions, "answer": answers}, schema=schema))


def main() -> None:
    """Write, read, check, and say what it took."""
    parser = argparse.ArgumentParser(description="Read and check many rows.")
    parser.add_argument("--rows", type=int, default=GOOAQ)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        from workbench.data.checks import check_pairs
        from workbench.data.training_rows import load_pairs
        from workbench.recipe.schema import Source

        path = Path(folder) / "rows.parquet"
        write(path, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        source = Source(location=str(path), columns={"question": "sentence_0", "answer": "sentence_1"})
        pairs = load_pairs(source, ("sentence_0", "sentence_1"))
        read = time.monotonic()
        check_pairs(pairs)
        checked = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("| rows | read | check | memory before | at most |\n| --- | --- | --- | --- | --- |")
    times = f"{read - started:.1f} s | {checked - read:.1f} s"
    print(f"| {len(pairs):,} | {times} | {before / 1e6:.2f} GB | {peak / 1e6:.2f} GB |")


if __name__ == "__main__":
    main()
