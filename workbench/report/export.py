"""Runs -> report files. `views` reads a run into plain values; this room lays them out and computes nothing."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from workbench.errors import RunError
from workbench.report.markdown import markdown, markdown_of_several
from workbench.report.page import render, render_several
from workbench.report.pdf import print_page
from workbench.report.site import write
from workbench.run import Run, open_run
from workbench.views.summary import summarize, summarize_several

Format = Literal["html", "md", "pdf"]


class ReportPath(type(Path())):  # type: ignore[misc]  # Path itself cannot be subclassed before Python 3.12
    """A path that a notebook shows as a link."""

    def _repr_html_(self) -> str:
        return f'<a href="{quote(os.path.relpath(self))}" target="_blank">{html.escape(str(self))}</a>'


def report(
    run: Run | str | os.PathLike[str] | Sequence[Run],
    out: str | os.PathLike[str] | None = None,
    *,
    format: Format = "html",
) -> ReportPath:
    """Write the report of a run, or of several side by side, to `out`, whole or not at all, and return its path.

    A run may be given by its folder or name, as to `open_run`. Without `out` it is report.html (.md, .pdf) in the
    folder of the run, or comparison.html in that of the first. `md` is a summary for a pull request; `pdf` is the page
    printed by Chromium. A notebook shows the path as a link.

    Raises RunError if it cannot be written, and for `pdf` without Chromium.
    """
    if format not in get_args(Format):
        raise RunError(f"expected a format of {', '.join(get_args(Format))}, found {format!r}.")
    given = [run] if isinstance(run, Run | str | os.PathLike) else run
    runs = [open_run(each) for each in given]
    if not runs:
        raise RunError("expected a run to report on, found none; name one, or several.")
    name = "report" if len(runs) == 1 else "comparison"
    path = runs[0].path / f"{name}.{format}" if out is None else Path(out)
    if len(runs) == 1:
        summary = summarize(runs[0])
        text = markdown(summary) if format == "md" else render(summary)
    else:
        several = summarize_several(runs)
        text = markdown_of_several(several) if format == "md" else render_several(several)
    return ReportPath(print_page(text, path) if format == "pdf" else write(path, text))


def report_page(run: Run) -> bytes:
    """The run's HTML report, without writing it into the run folder."""
    return render(summarize(run)).encode()
