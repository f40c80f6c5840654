"""A folder of runs -> a folder of pages for any web server: an overview, and the report of each run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from workbench.errors import RunError
from workbench.report.page import page, render
from workbench.run import Progress, Run, atomic_write, list_runs
from workbench.views.summary import Summary, summarize

FOLDER = "runs"  # of the reports, below the overview


def report_index(
    runs_folder: str | os.PathLike[str] | Sequence[Run],
    out: str | os.PathLike[str],
    *,
    written: str | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write the overview of all runs in `runs_folder`, or of these runs, and the report of each below `out`; return the
    overview's path.

    A run that cannot be read has a page too, which says so. Pages of deleted runs stay.

    Raises RunError if there is no such folder, or if a page cannot be written.
    """
    if isinstance(runs_folder, str | os.PathLike):
        if not Path(runs_folder).is_dir():
            raise RunError(f"expected a folder of runs, found none at {str(runs_folder)!r}.")
        runs = list_runs(runs_folder)
    else:
        runs = list(runs_folder)
    cards: dict[str, list[tuple[Summary, str]]] = {}  # card -> (run, address of its report relative to the overview)
    for done, run in enumerate(runs):
        if on_progress is not None:
            on_progress(f"report: {run.name}", done, len(runs))
        summary = summarize(run)
        write(Path(out) / FOLDER / f"{run.name}.html", render(summary, written=written))
        cards.setdefault(summary.card, []).append((summary, f"{FOLDER}/{quote(run.name)}.html"))
    if on_progress is not None:
        on_progress("report", len(runs), len(runs))
    text = page("index.html.j2", {}, written, runs=len(runs), cards=sorted(cards.items(), key=lambda card: card[0]))
    return write(Path(out) / "index.html", text)


def write(path: Path, text: str) -> Path:
    """Write a page, whole or not at all.

    Raises RunError if it cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except RunError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise RunError(
            f"cannot write the report to {str(path)!r}: {reason}; choose another place with --out."
        ) from error
    return path
