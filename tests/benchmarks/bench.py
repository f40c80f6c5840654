"""Everything that is timed, beside the plain way to the same numbers, in one run of some minutes.

    make bench                                   # all of it, into the section "Fast" of RESULTS.md
    python tests/benchmarks/bench.py --only training encoding --rounds 5

Training: the library's own SentenceTransformerTrainer and the fast engine take turns on each card's recipe, from the
same weights and rows; bases are small ones of the real architectures, texts are made-up words with real-shaped lengths
(see engines.py). A round is one turn of each candidate, a ratio is that of a round, and the tables show median, least
and most. Threads are torch's (OMP_NUM_THREADS sets them).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import engines
import numpy as np
import search
import torch
from datasets import Dataset
from sentence_transformers import __version__

import workbench as wb
from workbench.data.collection import Collection
from workbench.evaluation import projection
from workbench.evaluation.retrieval import ranking_table
from workbench.evaluation.topk import top_k
from workbench.models import encoding, energy_distance, tokens
from workbench.models.base import load_base
from workbench.models.multilingual import MULTILINGUAL
from workbench.run import Run, RunWriter
from workbench.training.prepare import Prepared
from workbench.training.trainer import denormals_as_zero

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## Fast"
Row = tuple[str, ...]
Table = tuple[Row, list[Row]]


def turns(
    first: Callable[[], float], second: Callable[[], float], rounds: int, *, warm: bool = False
) -> tuple[list[float], list[float]]:
    """Seconds of two candidates that take turns, after one turn of each that is not counted, unless they are `warm`."""
    if not warm:
        first(), second()
    pairs = [(first(), second()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def seconds_of(action: Callable[[], Any]) -> Callable[[], float]:
    """The action as a candidate."""

    def timed() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return timed


def compared(name: str, plain: list[float], ours: list[float], per: float = 1.0, unit: str = "s") -> Row:
    """A line: what, both medians, the ratio's median, least and most. `per`: rows in a turn, for a rate."""
    ratios = [a / b for a, b in zip(plain, ours, strict=True)]
    shown = [
        f"{per / statistics.median(s) if unit != 's' else statistics.median(s):,.3g} {unit}" for s in (plain, ours)
    ]
    return (name, *shown, f"**{statistics.median(ratios):.2f}**", f"{min(ratios):.2f}", f"{max(ratios):.2f}")


COMPARED: Row = ("what", "plain", "ours", "times as fast", "least", "most")


# --- training ------------------------------------------------------------------------------------------------------


def training(rounds: int) -> Iterator[tuple[str, Table]]:
    yield from raced(
        "", rounds, ((shape.steps, partial(engines.prepared, shape, shape.small)) for shape in engines.SHAPES)
    )


def multilingual(rounds: int) -> Iterator[tuple[str, Table]]:
    """The two cards that are not English on their samples, from the base that stands in."""
    cards = {"sinhala-xlmr-cosine": "sinhala", "korean-law-lora": "korean-law"}
    made = ((6, partial(engines.on_sample, card, sample)) for card, sample in cards.items())
    yield from raced(f", {MULTILINGUAL}", rounds, made)


def raced(
    what: str, rounds: int, made: Iterable[tuple[int, Callable[[int, Path], Prepared]]]
) -> Iterator[tuple[str, Table]]:
    """Both engines on what is made for a number of steps in a folder."""
    lines, equal = [], []
    for steps, make in made:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ready = make(steps, folder)

            def seconds(fast: bool, ready: Any = ready, folder: Path = folder) -> float:
                return engines.turn(ready, folder, fast=fast).seconds

            apart, losses = engines.without_dropout(ready, folder)
            plain, ours = turns(partial(seconds, False), partial(seconds, True), rounds, warm=True)
        size, card = engines.rows_per_step(ready.recipe), ready.recipe.name
        lines.append(compared(card, plain, ours, per=size * (steps - 1), unit="rows/s"))
        equal.append((card, str(steps), f"{losses[0]:.4f} → {losses[-1]:.4f}", f"{apart:.1e}"))
        print(*lines[-1], f"losses apart {apart:.1e}", sep=" | ", flush=True)
    yield f"Training, rows/s{what}", (COMPARED, lines)
    yield (
        f"Losses without dropout{what}: greatest relative difference",
        (("card", "steps", "loss", "difference"), equal),
    )


# --- encoding, energy, search --------------------------------------------------------------------------------------


TEXTS = {"bundled:minilm": 200, "bundled:static": 2000}
"""How many texts each base encodes."""


def encodings(rounds: int, names: Sequence[str] = tuple(TEXTS), when: str = "") -> Iterator[tuple[str, Table]]:
    drawn, lines, equal = np.random.default_rng(1), [], []
    for name in names:
        count = TEXTS[name]
        model = load_base(name, device="cpu").model
        words = [word for word in dict(model.tokenizer.get_vocab()) if word.isalpha()]
        texts = [" ".join(drawn.choice(words, max(2, int(drawn.lognormal(np.log(40), 0.5))))) for _ in range(count)]
        plain, ours = turns(
            seconds_of(lambda model=model, texts=texts: model.encode(texts, show_progress_bar=False)),
            seconds_of(lambda model=model, texts=texts: encoding.encode(model, texts)),
            rounds,
        )
        lines.append(compared(f"encode, {name}", plain, ours, per=count, unit="texts/s"))
        apart = np.abs(model.encode(texts, show_progress_bar=False) - encoding.encode(model, texts)).max()
        equal.append((name, f"{apart:.1e}"))
    yield f"Encoding{when}", (COMPARED, lines)
    yield f"Vectors{when}: greatest difference", (("model", "difference"), equal)


def energies(rounds: int) -> Iterator[tuple[str, Table]]:
    torch.manual_seed(0)
    x, y = torch.randn(64, 32, 768, requires_grad=True), torch.randn(64, 768, requires_grad=True)
    mask, lines, memory = torch.ones(64, 32, dtype=torch.bool), [], []

    def step(distance: str, plain: bool) -> None:
        x.grad = y.grad = None
        if plain:
            difference = x[:, :, None] - y  # (queries, tokens, documents, dim)
            apart = difference.abs().sum(-1) if distance == "manhattan" else difference.square().sum(-1).sqrt()
            found = -2 * apart.mean(1)
        else:
            found = energy_distance.scores(x, mask, y, distance)
        torch.nn.functional.cross_entropy(found, torch.arange(64)).backward()

    for (
        distance
    ) in energy_distance.DISTANCES:  # a certain softmax gives gradients that are nearly 0, see `fit.denormals_as_zero`
        both = [lambda distance=distance, plain=plain: step(distance, plain) for plain in (True, False)]
        with denormals_as_zero():
            plain, ours = turns(seconds_of(both[0]), seconds_of(both[1]), rounds)
        lines.append(compared(f"energy distance, {distance}, batch 64 × 32 tokens × 768", plain, ours))
        peaks = [search.peak(each) / 2**20 for each in both]
        memory.append((distance, f"{peaks[0]:,.0f} MiB", f"{peaks[1]:,.1f} MiB", f"{peaks[0] / peaks[1]:.0f}"))
    yield "Energy distance, forward and backward", (COMPARED, lines)
    yield "Its memory", (("distance", "plain", "ours", "times less"), memory)


def searches(
    rounds: int, queries: int = 300, documents: int = 30_000, dimensions: int = 384
) -> Iterator[tuple[str, Table]]:
    drawn = np.random.default_rng(1)
    asked_for = drawn.standard_normal((queries, dimensions), dtype=np.float32)
    known = drawn.standard_normal((documents, dimensions), dtype=np.float32)
    ids = [f"d{number}" for number in range(documents)]
    relevant = {f"q{row}": {ids[int(drawn.integers(documents))]: 1.0} for row in range(queries)}
    collection = Collection("vectors", {f"q{row}": "?" for row in range(queries)}, dict.fromkeys(ids, "!"), relevant)
    evaluator, right = search.library(collection, asked_for), torch.from_numpy(known)
    whole = seconds_of(lambda: ranking_table(collection, ids, top_k(asked_for, known, 100, ids=ids)))
    theirs = seconds_of(lambda: evaluator.compute_all_metrics(None, corpus_embeddings=right))
    ranking = seconds_of(lambda: top_k(asked_for, known, 100, ids=ids))
    product = seconds_of(lambda: torch.from_numpy(asked_for) @ right.T)
    what = f"{queries} queries × {documents:,} documents × {dimensions}"
    lines = [
        compared(f"ranking and metrics, {what}, beside the library's evaluator", *turns(theirs, whole, rounds)),
        compared("ranking alone, beside the bare product", *turns(product, ranking, rounds)),
    ]
    yield "Search", (COMPARED, lines)


# --- start, reading, growth ----------------------------------------------------------------------------------------


def starts(rounds: int) -> Iterator[tuple[str, Table]]:
    """Whole processes, and reading in one."""
    five = [name for name in wb.shipped_cards() if name != "porsche-minilm"]
    text = [wb.read_card(name) for name in five]
    commands = {
        "`import workbench`": ["-c", "import workbench"],
        "`workbench --help`": ["-m", "workbench.cli", "--help"],
        "`workbench audit porsche-mxbai`": ["-m", "workbench.cli", "audit", "porsche-mxbai"],
        "Python alone": ["-c", ""],
    }
    candidates = {
        name: seconds_of(lambda words=words: subprocess.run([sys.executable, *words], check=False, capture_output=True))
        for name, words in commands.items()
    }
    candidates["read the five cards"] = seconds_of(lambda: [wb.read_card(name) for name in five])
    candidates["audit the five cards"] = seconds_of(lambda: [wb.audit(each) for each in text])
    lines = []
    for name, candidate in candidates.items():
        candidate()
        found = [candidate() for _ in range(max(rounds, 5))]
        lines.append(
            (name, *(f"{value * 1000:,.0f} ms" for value in (statistics.median(found), min(found), max(found))))
        )
    yield "Starting and reading", (("what", "median", "least", "most"), lines)


def spent(action: Callable[[], Any]) -> tuple[str, str]:
    """Seconds of one call, and the most memory that it took beyond what was held before (Linux counts it)."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    if reset.is_file():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # what is free goes back, else it is taken again unseen
        reset.write_text("5", encoding="ascii")  # the peak begins anew
    before, seconds = held(status), seconds_of(action)()
    after = held(status)
    return (
        f"{seconds:.3g} s",
        "unknown" if before is None or after is None else f"{max(after - before, 0) / 1024:,.0f} MiB",
    )


def held(status: Path) -> int | None:
    """KiB of memory at the peak since it was reset."""
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8")) if status.is_file() else None
    return int(found[1]) if found else None


def growth(rounds: int) -> Iterator[tuple[str, Table]]:
    """One measurement of each size."""
    sizes = [10**power for power in range(2, 7)]
    heads: Row = ("how many", "seconds", "memory at most", "again", "memory at most")
    yield "Growth: rows, tokens made (and found on the disk again)", (heads, [made(size) for size in sizes[1:]])
    yield "Growth: documents, 100 queries × 64 numbers, k = 100", (heads[:3], [searched(size) for size in sizes[1:]])
    yield "Growth: rows of the log written (and read again)", (heads, [logged(size) for size in sizes[:4]])
    mapped(100)  # UMAP is compiled at its first use; last, as it changes how many threads torch has
    yield "Growth: points of a map, UMAP (and PCA)", (heads, [mapped(size) for size in sizes[1:4]])


def made(size: int) -> Row:
    model = load_base("bundled:static", device="cpu").model
    texts = Dataset.from_dict({"a": [f"how many questions does row {number} have" for number in range(size)]})
    with tempfile.TemporaryDirectory() as cache:
        both = [spent(lambda: tokens.stored(model, texts, "a", cache=Path(cache))) for _ in range(2)]
    return (f"{size:,}", *both[0], *both[1])


def searched(size: int) -> Row:
    drawn = np.random.default_rng(1)
    few, many = (drawn.standard_normal((count, 64), dtype=np.float32) for count in (100, size))
    ids = [str(number) for number in range(size)]
    return (f"{size:,}", *spent(lambda: top_k(few, many, 100, ids=ids)))


def logged(size: int) -> Row:
    steps = [{"step": step, "loss": 1.0, "learning_rate": 1e-5, "grad_norm": 1.0} for step in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        wrote = spent(lambda: RunWriter(Path(folder)).log(*steps))
        return (f"{size:,}", *wrote, *spent(lambda: Run(Path(folder)).log()))


def mapped(size: int) -> Row:
    vectors = np.random.default_rng(1).standard_normal((size, 64), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba and UMAP about threads
        found = spent(lambda: projection._umap(vectors, 42))
    return (f"{size:,}", *found, *spent(lambda: projection._pca(vectors)))


# --- the report ----------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[int], Iterator[tuple[str, Table]]]] = {
    "encoding": encodings,
    "training": training,
    "multilingual": multilingual,
    "encoding-later": partial(encodings, names=["bundled:minilm"], when=", after the trainings"),
    "energy": energies,
    "search": searches,
    "starts": starts,
    "growth": growth,
}


def machine() -> str:
    """Processor, cores and how busy it was."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, load {os.getloadavg()[0]:.1f}"


def section(tables: list[tuple[str, Table]], command: str, busy: str, minutes: float) -> str:
    lines = [
        HEADING,
        "",
        f"{date.today()}, {busy} at the start; Python {platform.python_version()}, torch {torch.__version__},",
        f"sentence-transformers {__version__}. `{command}`, {minutes:.1f} minutes. Candidates took turns",
        "in one process; a ratio is that of one round.",
    ]
    return "\n".join([*lines, *(line for title, table in tables for line in shown(title, table))]) + "\n"


def shown(title: str, table: Table) -> list[str]:
    """A table as Markdown, under its title."""
    heads, cells = table
    return ["", f"### {title}", "", *(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *cells))]


def keep(text: str) -> None:
    """Put the section into RESULTS.md, in place of an earlier one."""
    whole = RESULTS.read_text(encoding="utf-8")
    earlier = re.search(rf"^{re.escape(HEADING)}\n.*?(?=\n## |\Z)", whole, re.DOTALL | re.MULTILINE)
    whole = whole.replace(earlier[0], text) if earlier else f"{whole.rstrip()}\n\n{text}"
    RESULTS.write_text(whole, encoding="utf-8")


def main() -> int:
    """Measure, print, and write where everything was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="these parts; they are printed, not written")
    parser.add_argument("--command", default="make bench", help="what the section calls itself")
    chosen = parser.parse_args()
    started, busy = time.monotonic(), machine()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tables = []
        for name in chosen.only or PARTS:
            for title, table in PARTS[name](chosen.rounds):
                tables.append((title, table))
                print("\n".join(shown(title, table)), flush=True)
    text = section(tables, chosen.command, busy, (time.monotonic() - started) / 60)
    print("\n".join(text.splitlines()[:6]))
    if not chosen.only:
        keep(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
