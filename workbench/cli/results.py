"""Commands about what came out: evaluate, compare, look at it in parts, draw it, write it for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from workbench.cli.options import AsJson, ColumnsWord, Runs, Strict, app, parse_columns
from workbench.cli.terminal import plain, print_json, progress_bars, say, table
from workbench.errors import RunError, WorkbenchError

if TYPE_CHECKING:
    from workbench.evaluation.compare import Comparison
    from workbench.run import Run


@app.command(name="runs")
def list_all(runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """The runs there are, newest first."""
    from workbench.run import list_runs

    rows = [summary(run) for run in list_runs(runs)]
    if as_json:
        print_json(rows)
    elif not rows:
        say(plain(f"no runs in {str(runs)!r}; `workbench reproduce porsche-mxbai --base bundled:minilm` makes one."))
    else:
        table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def summary(run: Run) -> dict[str, Any]:
    """One row of the list of runs; a broken run says so and nothing else."""
    blank = {"run": run.name, "status": run.status, "card": None, "variant": None, "step": None, "verdict": None}
    try:
        record = run.record
        found = run.comparison()
    except WorkbenchError:
        return blank
    progress = record.get("progress") or {}
    return {
        **blank,
        "card": record.get("card"),
        "variant": record.get("variant"),
        "step": f"{progress.get('step', 0)}/{progress.get('steps', '?')}",
        "verdict": (found or {}).get("verdict"),
    }


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, bundled:minilm, a folder, a Hub id.")],
    on: Annotated[
        str | None, typer.Option("--on", help="A BEIR folder, sample:NAME, a Hub id, a file of pairs, triplets, lists.")
    ] = None,
    columns: ColumnsWord = None,
    split: Annotated[str | None, typer.Option("--split", help="test, dev, …; test without it.")] = None,
    truncate_dim: Annotated[int | None, typer.Option("--truncate-dim", min=1)] = None,
    without_own: Annotated[
        bool, typer.Option("--without-own", help="Leave out a document whose id is the query's, as MTEB does.")
    ] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or a model, query by query on a collection or pair by pair on scored pairs."""
    from workbench.evaluation.retrieval import Evaluation
    from workbench.pipeline import evaluate as measure

    with progress_bars(quiet=as_json) as on_progress:
        found = measure(
            target,
            on,
            columns=parse_columns(columns) if columns is None or "=" in columns else columns.split(","),
            split=split,
            own_documents=not without_own,
            truncate_dim=truncate_dim,
            runs=runs,
            on_progress=on_progress,
        )
    name = found.collection.name if isinstance(found, Evaluation) else found.name
    if as_json:
        checks = found.settings.get("checks") or ()
        print_json({"model": target, "on": name, "metrics": found.metrics, "checks": checks})
        return
    size = (
        f"{found.settings['items']:,} {found.settings['unit']}"
        if not isinstance(found, Evaluation)
        else (f"{len(found.collection.evaluated):,} queries, {len(found.collection.corpus):,} documents")
    )
    table(("metric", "value"), found.metrics.items(), title=plain(f"{target} on {name} ({size})"))
    for check in found.settings.get("checks") or ():
        say(plain(f"{check['severity']}: {check['message']}"))


@app.command()
def compare(
    runs_named: Annotated[list[str], typer.Argument(metavar="RUN…")],
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="test, validation, …; test without it.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    strict: Strict = False,
) -> None:
    """A run with its card, or a run with another run: numbers, intervals, verdict."""
    from workbench.evaluation.compare import compare as weigh
    from workbench.run import open_run

    found = weigh(*(open_run(name, runs) for name in runs_named), evaluation=evaluation)
    if as_json:
        print_json(found.to_dict())
    else:
        print_comparison(found)
    if strict and found.verdict == "differs":
        raise typer.Exit(1)


@app.command()
def report(
    runs_named: Annotated[
        list[str] | None, typer.Argument(metavar="RUN…", help="One run, or several compared.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="The file; in the (first) run's folder without it.")] = None,
    format: Annotated[str, typer.Option("--format", help="html, md (for a pull request) or pdf.")] = "html",
    pdf: Annotated[bool, typer.Option("--pdf", help="The same as --format pdf.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Write the README.md of the new model instead.")] = False,
    index: Annotated[
        Path | None, typer.Option("--index", metavar="RUNS_FOLDER", help="A small site of all runs in a folder.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write what came out: one self-contained HTML file, a summary, a PDF, a model card, or a site of all runs."""
    from workbench.report.export import model_card, report_index
    from workbench.report.export import report as write
    from workbench.run import open_run

    if index is not None:
        say(plain(report_index(index, to or index.with_name(f"{index.name}-site"))))
        return
    named = [open_run(name, runs) for name in runs_named or ()]
    if not named:
        raise RunError("expected a run to report on, found none; name one or several, or --index RUNS_FOLDER.")
    if card:
        if len(named) != 1:
            raise RunError(f"expected one run for a model card, found {len(named)}; write one for each.")
        say(plain(model_card(named[0], to)))
        return
    say(plain(write(named[0] if len(named) == 1 else named, to, format="pdf" if pdf else format)))  # type: ignore[arg-type]


def print_metrics(run: Run) -> None:
    """The run's metrics before and after, for each of its evaluations."""
    for name, moments in run.evaluations().items():
        before = run.metrics(name, "before") if "before" in moments else {}
        after = run.metrics(name, "after") if "after" in moments else {}
        metrics = list(before) or list(after)
        table(("metric", "before", "after"), [(m, before.get(m), after.get(m)) for m in metrics], title=f"\n{name}")


def print_comparison(found: Comparison) -> None:
    """The verdict table."""
    say(Text(plain(repr(found))))


EvaluationName = Annotated[
    str, typer.Option("--evaluation", help="Which of the run's evaluations: test, validation, …")
]
Stage = Annotated[str, typer.Option("--moment", help="before, step-N or after.")]


@app.command(name="map")
def map_of(
    name: Annotated[str, typer.Argument(metavar="RUN")],
    evaluation: EvaluationName = "test",
    method: Annotated[str, typer.Option("--method", help="umap or pca.")] = "umap",
    apart: Annotated[bool, typer.Option("--apart", help="A map for each moment, not one for both.")] = False,
    points: Annotated[int, typer.Option("--points", min=5, help="Most points of each moment.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 42,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Draw up the map of an evaluation's texts, before and after training, for dashboard, notebook and report."""
    from workbench.evaluation.projection import METHODS, project
    from workbench.run import open_run

    if method not in METHODS:
        raise RunError(f"expected a method of {', '.join(METHODS)}, found {method!r}.")
    run = open_run(name, runs)
    with progress_bars(quiet=as_json, first="read the vectors") as on_progress:
        project(run, evaluation, "pca", together=not apart, most=points, seed=seed)  # the view to begin with
        made = project(run, evaluation, method, together=not apart, most=points, seed=seed, on_progress=on_progress)
    if as_json:
        print_json({"run": run.name, "kept": made.preservation, **made.parameters})
    else:
        say(plain(f"{made!r}; look at it: workbench dashboard {runs}"))


@app.command()
def slices(
    name: Annotated[str, typer.Argument(metavar="RUN")],
    by: Annotated[str, typer.Option("--by", help="query length, relevant documents, dimensions, precision.")] = "",
    evaluation: EvaluationName = "test",
    metric: Annotated[str, typer.Option("--metric")] = "ndcg@10",
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """An evaluation by groups of queries, at fewer dimensions, and with coarser numbers."""
    from workbench.evaluation.slices import BY, at_dimensions, at_precisions, slice_queries
    from workbench.run import open_run

    run = open_run(name, runs)
    tables = {}
    for each in [by] if by else [*BY, "dimensions", "precision"]:
        if each in ("dimensions", "precision"):
            found = (at_dimensions if each == "dimensions" else at_precisions)(run, evaluation)
            tables[each] = found[["moment", each, "bytes", metric]]
        else:
            tables[each] = slice_queries(run, evaluation, each, metric=metric)
    if as_json:
        print_json({each: found.to_dict("records") for each, found in tables.items()})
        return
    for each, found in tables.items():
        table(tuple(found.columns), found.to_numpy().tolist(), title=f"\n{metric} by {each}")


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="RUN|NOTEBOOK", help="A run, or a notebook (.ipynb) to execute.")],
    to: Annotated[Path | None, typer.Option("--out", help="Folder to write into; for a notebook the file.")] = None,
    format: Annotated[str, typer.Option("--format", help="trec, json, csv, parquet; or model.")] = "trec",
    evaluation: EvaluationName = "test",
    moment: Stage = "after",
    runs: Runs = Path("runs"),
) -> None:
    """Write rankings for other tools, (model) the trained model with its adapter merged, or a notebook as one page."""
    from workbench.evaluation.trec import export as write
    from workbench.models.base import export_merged
    from workbench.report.export import export_notebook
    from workbench.run import open_run

    if Path(name).suffix == ".ipynb":
        say(plain(export_notebook(name, to)))
        return
    run = open_run(name, runs)
    if to is None:
        raise RunError("expected a folder to write into, found none; name one with --out.")
    if format == "model":
        export_merged(run.file("model"), to)
        say(plain(to))
        return
    for path in write(run, evaluation, moment, to=to, format=format):  # type: ignore[arg-type]
        say(plain(path))
