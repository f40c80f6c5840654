"""Train all five recipes on the shipped samples, as written and corrected, and compare the two: the table of the guide.

    make reproduce                                     # runs in runs/five, table on the terminal
    python tests/benchmarks/five.py --write            # also puts the table into data/guide/samples.md
    python tests/benchmarks/five.py --cards sinhala-xlmr-cosine

Offline stand-ins only, so that everybody gets the same table: the bundled bases (a table for the static card) and the
samples in data/. A run that is there already and finished is taken as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import workbench as wb
from workbench.cards.known import known_card
from workbench.cards.read import shipped_cards
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.run import Run

KNOWN = {name: known for name in shipped_cards() if (known := known_card(wb.read_card(name).sha256))}
SAMPLES = {name: known.sample for name, known in KNOWN.items() if not known.own}  # stand-ins
NOT_ENGLISH = {"korean-law-lora", "sinhala-xlmr-cosine"}
GUIDE = Path(__file__).parents[2] / "data/guide/samples.md"
BEGIN, END = "<!-- five: begin -->", "<!-- five: end -->"
HEADS = ("card", "base", "metric", "before", "as written", "corrected", "corrected minus as written", "p", "minutes")


def trained(card: str, *, corrected: bool, runs: Path, steps: int | None) -> tuple[Run, float]:
    """The run of a card's recipe on its sample, and the seconds it took just now."""
    variant = "corrected" if corrected else "as written"
    for run in wb.list_runs(runs):
        record = run.record
        if (record["card"], record["variant"], run.status) == (card, variant, "finished"):
            return run, float(record["seconds"]) if record.get("seconds") else 0.0
    print(f"{card}, {variant} …", flush=True)
    started = time.monotonic()
    base = "bundled:multilingual" if card in NOT_ENGLISH else "bundled:minilm"
    run = wb.reproduce(card, corrected=corrected, base=base, data=f"sample:{SAMPLES[card]}", runs=runs, max_steps=steps)
    if run.status != "finished":
        raise SystemExit(f"{card}, {variant}: expected a finished run, found it {run.status}; start again to go on.")
    return run, time.monotonic() - started


def interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """A number with its interval."""
    if value is None:
        return "-"
    return f"{value:{sign}.3f}" + (f" [{low:{sign}.3f}, {high:{sign}.3f}]" if low is not None else "")


def line(card: str, found: Comparison, written: Run, seconds: float) -> tuple[str, ...]:
    """One row of the table, from the comparison of the two runs and of each with its base."""
    both: MetricRow | None = found.main
    alone = wb.compare(written, evaluation=found.evaluation).main
    if both is None or alone is None:
        raise SystemExit(f"{card}: expected the main metric {found.main_metric!r} in both runs, found none.")
    return (
        card,
        str(written.record["base"]["model"]).removeprefix("bundled:"),
        found.main_metric,
        interval(alone.before, None, None),
        interval(alone.after, alone.low, alone.high),
        interval(both.after, both.low, both.high),
        interval(both.difference, both.difference_low, both.difference_high, "+"),
        "<0.001" if (both.p or 0) < 0.001 else f"{both.p:.3f}",
        f"{seconds / 60:.1f}",
    )


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The table as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADS, ("---",) * len(HEADS), *rows))


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description="The five recipes on the shipped samples.")
    parser.add_argument("--runs", type=Path, default=Path("runs/five"))
    parser.add_argument("--cards", nargs="*", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--max-steps", type=int, help="of each training, to try this script; the table means nothing")
    parser.add_argument("--write", action="store_true", help="put the table into data/guide/samples.md")
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = []
    for card in chosen.cards:
        (written, first), (corrected, second) = (
            trained(card, corrected=which, runs=chosen.runs, steps=chosen.max_steps) for which in (False, True)
        )
        rows.append(line(card, wb.compare(written, corrected), written, first + second))
        print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    table = markdown(rows)
    print(f"\n{table}\n\nruns in {chosen.runs}: workbench dashboard {chosen.runs}")
    if chosen.write:
        text = GUIDE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        GUIDE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
