"""Train the five recipes at their real shapes on this machine's GPU: both engines, speed, memory, loss.

    make bench-gpu                                              # 200 steps of each, into RESULTS.md
    python tests/benchmarks/gpu.py --cards porsche-mxbai --steps 60 --rounds 3
    python tests/benchmarks/gpu.py --device cpu --small         # every line of this script, in minutes; writes nothing

What is trained, and how it is timed, stands in engines.py. The engines take turns from the same weights; the first
fifth of the steps warms up and is not counted. A card that does not train says why, and the others go on. Nothing is
fetched.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADING = "## On a GPU: five recipes at their real shapes"
HEADS = (
    "card", "parameters", "precision", "rows a step", "trainer", "fast", "times as fast", "least", "most",
    "first step after", "peak memory", "loss", "finite", "losses apart",
)  # fmt: skip


def measured(shape: Any, chosen: argparse.Namespace, folder: Path) -> tuple[tuple[str, ...], bool]:
    """The line of a card, and whether all its losses are numbers."""
    import engines

    config = shape.small if chosen.small else shape.real
    steps = min(shape.steps, chosen.steps) if chosen.small else chosen.steps
    ready = engines.prepared(shape, config, steps, folder)
    rows = engines.rows_per_step(ready.recipe)
    apart, losses = engines.without_dropout(ready, folder)
    turns = [
        [engines.turn(ready, folder, fast=fast, warm=max(steps // 5, 1)) for fast in (False, True)]
        for _ in range(chosen.rounds)
    ]
    rates = [[each.steps * rows / each.seconds for each in both] for both in turns]
    ratios = [ours / theirs for theirs, ours in rates]
    finite = all(math.isfinite(loss) for both in turns for each in both for loss in (*each.losses, *losses))
    medians = [statistics.median(rate) for rate in zip(*rates, strict=True)]
    first = [statistics.median(each.first for each in side) for side in zip(*turns, strict=True)]
    memory = [max(each.memory for each in side) for side in zip(*turns, strict=True)]
    last = turns[-1][1].losses
    line = (
        shape.card,
        f"{sum(weight.numel() for weight in ready.base.model.parameters()) / 1e6:.0f} M",
        ready.plan.precision,
        f"{rows}",
        *(f"{rate:,.0f} rows/s" for rate in medians),
        f"**{statistics.median(ratios):.2f}**",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
        " → ".join(f"{seconds:.1f} s" for seconds in first),
        " → ".join(f"{held / 1e9:.2f} GB" for held in memory),
        f"{last[0]:.4f} → {last[-1]:.4f}",
        "yes" if finite else "NO",
        f"{apart:.1e}",
    )
    return line, finite


def section(lines: list[tuple[str, ...]], failures: list[str], chosen: argparse.Namespace, device: str) -> str:
    """The figures as a section of RESULTS.md."""
    import sentence_transformers
    import torch
    import transformers

    cells = [HEADS, ("---",) * len(HEADS), *lines]
    text = [
        HEADING,
        "",
        f"{date.today()}, {device}; Python {platform.python_version()}, torch {torch.__version__}, transformers",
        f"{transformers.__version__}, sentence-transformers {sentence_transformers.__version__}. `make bench-gpu`:",
        f"{'few' if chosen.small else chosen.steps} optimizer steps of each recipe as written, rounds {chosen.rounds},",
        "random weights, made-up words. The first fifth of the steps is not counted. Seconds until the first step had",
        'ended and the most memory that torch held are trainer → fast; "losses apart" is the greatest relative',
        "difference in float32 without dropout, over all steps.",
        "",
        *(f"| {' | '.join(row)} |" for row in cells),
        *(f"\n{failure}" for failure in failures),
    ]
    return "\n".join(text) + "\n"


def keep(text: str) -> None:
    """Put the section into RESULTS.md, in place of an earlier one."""
    whole = RESULTS.read_text(encoding="utf-8")
    earlier = re.search(rf"^{re.escape(HEADING)}\n.*?(?=\n## |\Z)", whole, re.DOTALL | re.MULTILINE)
    whole = whole.replace(earlier[0], text) if earlier else f"{whole.rstrip()}\n\n{text}"
    RESULTS.write_text(whole, encoding="utf-8")


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Both engines on the five recipes at their real shapes.")
    parser.add_argument("--steps", type=int, default=200, help="of a turn; at least 2")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each engine, one after the other")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu writes nothing")
    parser.add_argument("--small", action="store_true", help="small bases and few steps; writes nothing")
    parser.add_argument("--cards", nargs="*", help="only these; writes nothing")
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    from engines import SHAPES

    from workbench.errors import WorkbenchError

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("expected a CUDA GPU, found none; --device cpu --small shows that the script works.", file=sys.stderr)
        return 2
    lines, failures, good = [], [], True
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # tokens and all else that would stay
        for shape in SHAPES:
            if chosen.cards and shape.card not in chosen.cards:
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                try:
                    line, finite = measured(shape, chosen, Path(folder))
                except (RuntimeError, ValueError, OSError, WorkbenchError) as error:  # too little memory is the first
                    failures.append(f"{shape.card}: {type(error).__name__}: {str(error).splitlines()[0]}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
            lines.append(line)
            good = good and finite
            print(" | ".join(line), f"{time.monotonic() - began:.0f} s in all", sep=" | ", flush=True)
    device = torch.cuda.get_device_name() if chosen.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    text = section(lines, failures, chosen, device)
    print(text)
    if chosen.device == "cuda" and not chosen.cards and not chosen.small:
        keep(text)
    return 0 if good and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
