"""Everything about a run in one zip file, and a selection of runs as a site in one."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from workbench.audit.formats import markdown as findings_markdown
from workbench.errors import WorkbenchError
from workbench.evaluation.projection import STAGES
from workbench.report.export import report
from workbench.report.model_card import card_text
from workbench.report.site import report_index
from workbench.run import Run
from workbench.views.queries import download

FILES = ("record", "recipe", "card", "log", "comparison")  # of the run folder, as they are


def run_archive(run: Run) -> bytes:
    """A zip of the report (HTML, Markdown, PDF), the new model's card, findings, rankings before and after, queries,
    recipe, log and comparison; what cannot be made is said in MISSING.txt."""
    made, missing = io.BytesIO(), []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
        for name, make in _parts(run, Path(folder)):
            try:
                archive.writestr(f"{run.name}/{name}", make())
            except WorkbenchError as error:
                missing.append(f"{name}: {error}\n")
        if missing:
            archive.writestr(f"{run.name}/MISSING.txt", "".join(missing))
    return made.getvalue()


def _parts(run: Run, folder: Path) -> Iterator[tuple[str, Callable[[], bytes | str]]]:
    """(name in the archive, how to make it)"""
    for form in ("html", "md", "pdf"):
        yield f"report.{form}", lambda form=form: report(run, folder / f"report.{form}", format=form).read_bytes()  # type: ignore[misc]
    if run.file("model").is_dir():
        yield "model-card/README.md", lambda: card_text(run)
    if (card := run.card()) is not None:
        from workbench.audit.rules import audit

        yield "findings.md", lambda: "\n".join(findings_markdown({"README.md": audit(card)}))
    for name in FILES:
        if (path := run.file(name)).is_file():
            yield path.name, path.read_bytes
    for evaluation, stages in run.evaluations().items():
        wanted = {f"{stage}.run": (stage, "trec") for stage in STAGES} | {
            "qrels.txt": ("after", "qrels"),
            "queries.csv": ("after", "csv"),
        }
        for name, (stage, form) in wanted.items():
            if stage in stages and run.file("queries", evaluation).is_file():
                yield f"{evaluation}/{name}", partial(download, run, evaluation, stage, form)


def site_archive(runs: Sequence[Run]) -> bytes:
    """A zip of the site of these runs; see `report_index`."""
    made = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        report_index(runs, folder)
        for path in sorted(Path(folder).rglob("*.html")):
            archive.write(path, f"site/{path.relative_to(folder).as_posix()}")
    return made.getvalue()
