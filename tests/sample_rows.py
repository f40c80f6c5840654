"""The shipped samples as the tests of each of them read them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples"
SPLITS = ("train", "validation", "test")

Rows = dict[str, list[dict[str, Any]]]


def read(name: str, *more: str) -> Rows:
    """The committed rows of a sample by split, and of `more` files."""
    import pyarrow.parquet as pq

    return {part: pq.read_table(SAMPLES / name / f"{part}.parquet").to_pylist() for part in (*SPLITS, *more)}


def everything(rows: Rows) -> list[dict[str, Any]]:
    """The rows of all splits."""
    return [row for name in SPLITS for row in rows[name]]


def words(text: str) -> list[str]:
    """Lower-case words, without marks."""
    return re.findall(r"\w+", text.lower())


def ndcg_of_bm25(corpus: Mapping[str, str], relevant: Mapping[str, Collection[str]]) -> float:
    """nDCG@10 of BM25 (k1 1.2, b 0.75; Robertson and Zaragoza 2009), mean over queries: what word overlap alone finds.

    `corpus` is text by id, `relevant` the ids that answer each query's text.
    """
    counts = {number: Counter(words(text)) for number, text in corpus.items()}
    inside = Counter(word for count in counts.values() for word in count)
    mean = sum(count.total() for count in counts.values()) / len(counts)

    def score(asked: set[str], count: Counter[str]) -> float:
        length = 0.25 + 0.75 * count.total() / mean
        return sum(
            math.log(1 + (len(counts) - inside[word] + 0.5) / (inside[word] + 0.5))
            * (count[word] * 2.2 / (count[word] + 1.2 * length))
            for word in asked & count.keys()
        )

    gains = []
    for query, answers in relevant.items():
        asked = set(words(query))
        best = sorted(counts, key=lambda number: -score(asked, counts[number]))[:10]
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(answers), 10)))
        gains.append(sum(1 / math.log2(rank + 2) for rank, number in enumerate(best) if number in answers) / ideal)
    return sum(gains) / len(gains)
