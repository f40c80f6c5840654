"""Many runs -> the rows of an overview. A damaged or half-written run gives a row with the reason, never an error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.evaluation.card_evaluation import evaluation_name
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.run import Run
from workbench.views.loss_curves import LogColumns
from workbench.views.smoothing import thin
from workbench.views.summary import Parts, main_row, metric_rows, stored_comparison
from workbench.views.theme import shorten

SPARK_POINTS = 40  # points of the small loss curve
UNMEASURED = MetricRow("")


@dataclass(frozen=True)
class RunRow:
    """One run of the overview. None: the run does not record it, or has not come so far."""

    name: str
    card: str | None = None
    variant: str | None = None
    verdict: str | None = None
    main: MetricRow = UNMEASURED
    step: int | None = None
    steps: int | None = None
    created: str | None = None  # ISO time, UTC
    losses: tuple[float, ...] = ()  # thinned training loss
    stand_ins: tuple[str, ...] = ()
    reason: str = ""  # why it failed, or what could not be read


def overview_files(run: Run) -> tuple[Path, ...]:
    """The files that `run_row` reads."""
    means = sorted(run.file("evaluations").glob("*/*.json"))
    return (*(run.file(name) for name in ("record", "recipe", "comparison", "log")), *means)


def run_row(run: Run, read_log: Callable[[], LogColumns] | None = None) -> RunRow:
    """The row of a run; `read_log` reads its log, if it may be in memory already."""
    parts = Parts()
    record = parts.read("record", lambda: run.record)
    if record is None:
        return RunRow(run.name, reason=parts.gaps["record"])
    progress = record.get("progress") or {}
    comparison = parts.read("comparison", lambda: stored_comparison(run))
    main = parts.read("metrics", lambda: _main_row(run, comparison))
    log = parts.read("log", read_log or (lambda: LogColumns.of(run.log())))
    return RunRow(
        name=run.name,
        card=_text(record.get("card")),
        variant=_text(record.get("variant")),
        verdict=None if comparison is None else _text(comparison.verdict),
        main=main or UNMEASURED,
        step=progress.get("step"),
        steps=progress.get("steps"),
        created=_text(record.get("created")),
        losses=() if log is None else _spark(log),
        stand_ins=parts.read("stand-ins", lambda: run.stand_ins) or (),
        reason=shorten(" ".join([str(record.get("error") or ""), *parts.gaps.values()]), 600),
    )


def _main_row(run: Run, comparison: Comparison | None) -> MetricRow | None:
    recipe = run.recipe()
    rows = metric_rows(run, comparison, evaluation_name(run, recipe, None))
    return main_row(rows, recipe.evaluation.main_metric)


def _text(value: object) -> str | None:
    return None if value is None else shorten(value, 120)


def _spark(log: LogColumns) -> tuple[float, ...]:
    losses = [math.nan if value is None else value for value in log.column("loss")]
    return tuple(thin(log.steps, losses, SPARK_POINTS)[1])


def status_reason(status: str, row: RunRow, *, command: bool = True) -> str:
    """One sentence about a status that needs one, with the command to resume; empty for a finished run."""
    done = "" if row.step is None or row.steps is None else f" after {row.step:,} of {row.steps:,} steps"
    resume = f" Resume it with `workbench train --resume {row.name}`." if command else ""
    known = {
        "interrupted": f"Its process ended unexpectedly{done}.{resume}",
        "stopped": f"It was stopped{done}.{resume}",
        "failed": row.reason or "No reason was recorded.",
        "broken": row.reason or "run.json has no known status.",
    }
    return known.get(status, row.reason)


def find_run(runs: Iterable[Run], name: str | None) -> Run | None:
    """The run with this name; a path or a name that is not in the list finds nothing."""
    return next((run for run in runs if run.name == name), None)


def short_names(rows: Sequence[RunRow]) -> dict[str, str]:
    """Run name -> card and variant, and the time if two runs have these in common: short enough for a legend."""
    names = {row.name: f"{row.card or row.name}, {row.variant or 'unknown'}" for row in rows}
    times = {row.name: f", {(row.created or row.name)[5:16].replace('T', ' ')}" for row in rows}
    taken = Counter(names.values())
    return {name: short + (times[name] if taken[short] > 1 else "") for name, short in names.items()}
