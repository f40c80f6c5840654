"""A folder of runs -> a folder of pages for any web server: an overview, and the report of each run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from workbench.errors import RunError
from workbench.report.page import page, render
from workbench.run import Progress, atomic_write, list_runs
from workbench.views.records import Summary
from workbench.views.summary import summarize

INDEX = "index.html"
FOLDER = "runs"  # of the reports, below the overview


@dataclass(frozen=True)
class Entry:
    """One row of the overview."""

    summary: Summary
    link: str  # address of the report, relative to the overview


def report_index(
    runs_folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    written: str | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write the overview of all runs in `runs_folder` and the report of each below `out`; gives the overview's path.

    A run that cannot be read has a page too, which says so. Pages of runs that are gone stay until someone removes
    them. Raises RunError where there is no such folder, or where a page cannot be written.
    """
    if not Path(runs_folder).is_dir():
        raise RunError(f"expected a folder of runs, found none at {str(runs_folder)!r}.")
    runs, entries = list_runs(runs_folder), []
    for done, run in enumerate(runs):
        if on_progress is not None:
            on_progress(f"report: {run.name}", done, len(runs))
        summary = summarize(run)
        write(Path(out) / FOLDER / f"{run.name}.html", render(summary, written=written))
        entries.append(Entry(summary, f"{FOLDER}/{quote(run.name)}.html"))
    if on_progress is not None:
        on_progress("report", len(runs), len(runs))
    return write(Path(out) / INDEX, overview(entries, written=written))


def overview(entries: list[Entry], *, written: str | None = None) -> str:
    """The overview as one HTML document, runs of a card together."""
    cards: dict[str, list[Entry]] = {}
    for entry in entries:
        cards.setdefault(entry.summary.card, []).append(entry)
    return page("index.html.j2", {}, written, rows=entries, cards=sorted(cards.items()))


def write(path: Path, text: str) -> Path:
    """Write a page, whole or not at all.

    Raises RunError where it cannot be written.
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
