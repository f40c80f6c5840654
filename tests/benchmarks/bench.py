"""Everything that is timed, beside the plain way to the same numbers, in one run of some minutes.

    make bench                                   # all of it, into the section "Fast" of RESULTS.md
    python tests/benchmarks/bench.py --only training encoding --rounds 5

Training: the library's own SentenceTransformerTrainer and the fast engine take turns on each card's recipe, from the
same weights and rows; bases are small ones of the real architectures, texts are made-up words with real-shaped lengths
(see gpu.py). A round is one turn of each candidate, a ratio is that of a round, and the tables show median, least and
most. Threads are torch's (OMP_NUM_THREADS sets them).
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import search
import torch
from datasets import Dataset
from gpu import SHAPES, Shape, base, rows
from sentence_transformers import SentenceTransformerTrainer, __version__
from transformers import BertConfig, DistilBertConfig, RobertaConfig, TrainerCallback, XLMRobertaConfig
from transformers.trainer_callback import PrinterCallback

import workbench as wb
from workbench import energy, fit
from workbench.collection import Collection
from workbench.encoder import load_base
from workbench.evaluate import ranking_table
from workbench.fast import encoding, engine, tokens
from workbench.journal import Journal
from workbench.prepare import prepare
from workbench.recipe import Recipe, with_overrides
from workbench.run import Run, RunWriter
from workbench.search import top_k

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## Fast"
WIDE: dict[str, Any] = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "num_hidden_layers": 3,
}
SMALL: dict[str, tuple[Any, int]] = {
    "hotpotqa-distilbert-energy": (DistilBertConfig(dim=384, n_heads=12, hidden_dim=1536, n_layers=3), 3),
    "gooaq-static-matryoshka": (None, 12),
    "korean-law-lora": (RobertaConfig(vocab_size=32_000, max_position_embeddings=514, type_vocab_size=1, **WIDE), 12),
    "porsche-mxbai": (BertConfig(**WIDE), 8),
    "sinhala-xlmr-cosine": (
        XLMRobertaConfig(vocab_size=100_000, max_position_embeddings=514, type_vocab_size=1, **WIDE),
        12,
    ),
}
"""Card -> the small base's architecture (None: a table of 1,024 columns) and the steps of one turn."""

Row = tuple[str, ...]
Table = tuple[Row, list[Row]]


def turns(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of two candidates that take turns, after one turn of each that is not counted."""
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


class Clock(TrainerCallback):
    """When each step ended, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def training(rounds: int) -> Iterator[tuple[str, Table]]:
    lines, equal = [], []
    for shape in SHAPES:
        config, steps = SMALL[shape.card]
        with tempfile.TemporaryDirectory() as folder:
            line, apart = card(replace(shape, config=config), steps, rounds, Path(folder))
        lines.append(line)
        equal.append((shape.card, str(steps), f"{apart:.1e}"))
        print(*line, f"losses apart {apart:.1e}", sep=" | ", flush=True)
    yield "Training, rows/s", (COMPARED, lines)
    yield "Losses without dropout: greatest relative difference", (("card", "steps", "difference"), equal)


def card(shape: Shape, steps: int, rounds: int, folder: Path) -> tuple[Row, float]:
    """The line of a card's recipe, and how far its losses are apart where there is no dropout."""
    recipe = asked(shape, steps, folder)
    path = str(base(shape, folder, recipe.base.max_seq_length or 512))
    prepared = prepare(recipe, path)
    reason = engine.accepts(recipe, prepared.base.model)
    if reason is not None:
        raise SystemExit(f"{shape.card}: {reason}")
    size = recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps

    def turn(fast: bool, dropout: bool = True) -> tuple[float, list[float]]:
        model, loss = copy.deepcopy((prepared.base.model, prepared.loss))
        if not dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        return train(replace(prepared, base=replace(prepared.base, model=model), loss=loss), folder, fast)

    plain, ours = turns(lambda: turn(False)[0], lambda: turn(True)[0], rounds)
    pairs = zip(turn(False, dropout=False)[1], turn(True, dropout=False)[1], strict=True)
    apart = max(abs(a - b) / abs(a) for a, b in pairs)
    return compared(shape.card, plain, ours, per=size * (steps - 1), unit="rows/s"), apart


def asked(shape: Shape, steps: int, folder: Path) -> Recipe:
    """The card's recipe, for `steps` steps on made-up rows."""
    recipe = wb.recipe(wb.read_card(shape.card))
    size = recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps
    file = folder / "rows.jsonl"
    made = rows(shape, (steps + 1) * size, recipe.data.columns)
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    settings: dict[str, Any] = {
        "data.train.location": str(file), "training.eval_strategy": "no", "training.max_steps": steps,
        "training.logging_steps": 1,
    }  # fmt: skip
    recipe = with_overrides(recipe, settings)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"split": None, "evaluation": None})})


def train(prepared: Any, folder: Path, fast: bool) -> tuple[float, list[float]]:
    """Seconds from the end of the first step to that of the last, and the losses."""
    clock, losses = Clock(), []
    job = fit.Job(
        model=prepared.base.model, loss=prepared.loss, rows=prepared.rows, held_out=None, recipe=prepared.recipe,
        plan=prepared.plan, folder=folder / "checkpoints", evaluate=lambda step: {}, main_metric="",
        log=lambda *rows: losses.extend(row["loss"] for row in rows), told=lambda where: None,
    )  # fmt: skip
    arguments = fit._arguments(job)
    arguments.save_strategy = "no"
    given = {"model": job.model, "args": arguments, "train_dataset": job.rows, "loss": job.loss}
    with fit.quiet(), redirect_stderr(io.StringIO()):
        if fast:
            journal = Journal(log=job.log, told=job.told, stop_asked=lambda: False, rows_per_step=1)
            trainer: SentenceTransformerTrainer = engine.Fast(journal=journal, **given)
        else:
            trainer = SentenceTransformerTrainer(**given)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return clock.ends[-1] - clock.ends[0], losses if fast else logged


# --- encoding, energy, search --------------------------------------------------------------------------------------


def encodings(rounds: int) -> Iterator[tuple[str, Table]]:
    drawn, lines, equal = np.random.default_rng(1), [], []
    for name, count in (("bundled:minilm", 200), ("bundled:static", 2000)):
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
    yield "Encoding", (COMPARED, lines)
    yield "Vectors: greatest difference", (("model", "difference"), equal)


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
            found = energy.scores(x, mask, y, distance)
        torch.nn.functional.cross_entropy(found, torch.arange(64)).backward()

    for distance in energy.DISTANCES:
        both = [lambda distance=distance, plain=plain: step(distance, plain) for plain in (True, False)]
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
    text = [wb.read_card(name) for name in wb.shipped_cards()]
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
    candidates["read the five cards"] = seconds_of(lambda: [wb.read_card(name) for name in wb.shipped_cards()])
    candidates["audit the five cards"] = seconds_of(lambda: [wb.audit(each) for each in text])
    lines = []
    for name, candidate in candidates.items():
        candidate()
        found = [candidate() for _ in range(max(rounds, 5))]
        lines.append(
            (name, *(f"{value * 1000:,.0f} ms" for value in (statistics.median(found), min(found), max(found))))
        )
    yield "Starting and reading", (("what", "median", "least", "most"), lines)


def growth(rounds: int) -> Iterator[tuple[str, Table]]:
    """One measurement of each size."""
    model, lines = load_base("bundled:static", device="cpu").model, []
    for size in (10**3, 10**4, 10**5, 10**6):
        texts = Dataset.from_dict({"a": [f"how many questions does row {number} have" for number in range(size)]})
        with tempfile.TemporaryDirectory() as cache:
            made, again = (
                seconds_of(lambda texts=texts, cache=cache: tokens.stored(model, texts, "a", cache=Path(cache)))()
                for _ in range(2)
            )
        lines.append(("rows: tokens made, and found again", f"{size:,}", f"{made:.3g} s", f"{again:.3g} s"))
    drawn = np.random.default_rng(1)
    few = drawn.standard_normal((100, 64), dtype=np.float32)
    for size in (10**3, 10**4, 10**5, 10**6):
        many = drawn.standard_normal((size, 64), dtype=np.float32)
        ids = [str(number) for number in range(size)]
        spent = seconds_of(lambda many=many, ids=ids: top_k(few, many, 100, ids=ids))()
        lines.append(("documents: 100 queries × 64 numbers", f"{size:,}", f"{spent:.3g} s", ""))
    for size in (10**2, 10**3, 10**4, 10**5):
        with tempfile.TemporaryDirectory() as folder:
            logged = [{"step": step, "loss": 1.0, "learning_rate": 1e-5, "grad_norm": 1.0} for step in range(size)]
            wrote = seconds_of(lambda folder=folder, logged=logged: RunWriter(Path(folder)).log(*logged))()
            read = seconds_of(lambda folder=folder: Run(Path(folder)).log())()
        lines.append(("log rows: written, read", f"{size:,}", f"{wrote:.3g} s", f"{read:.3g} s"))
    yield "Growth", (("what", "how many", "first", "second"), lines)


# --- the report ----------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[int], Iterator[tuple[str, Table]]]] = {
    "training": training, "encoding": encodings, "energy": energies, "search": searches, "starts": starts,
    "growth": growth,
}  # fmt: skip


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
        f"sentence-transformers {__version__}. `{command}`, {minutes:.1f} minutes. Candidates took turns in one",
        "process; a ratio is that of one round.",
    ]
    for name, (heads, cells) in tables:
        lines += ["", f"### {name}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *cells)]
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="these parts; writes nothing")
    parser.add_argument("--command", default="make bench", help="what the section calls itself")
    chosen = parser.parse_args()
    started, busy = time.monotonic(), machine()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tables = [table for name in chosen.only or PARTS for table in PARTS[name](chosen.rounds)]
    text = section(tables, chosen.command, busy, (time.monotonic() - started) / 60)
    print(text)
    if not chosen.only:
        keep(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
