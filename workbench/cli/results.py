"""Commands on results: list runs, evaluate, compare, slice, map, report, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option

from workbench.cards.metric_names import metric_name, metric_names
from workbench.cli.options import (
    AsJson,
    Columns,
    EvaluationName,
    Quiet,
    Require,
    RunName,
    Runs,
    Strict,
    check_required,
    exit_code,
    find_evaluation,
    parse_columns,
    refuse,
)
from workbench.cli.terminal import note, print_json, progress_bars, say, table
from workbench.errors import RunError, WorkbenchError

if TYPE_CHECKING:
    from workbench.run import Run


def runs(
    context: Context,
    runs: Runs = Path("runs"),
    watch: Annotated[bool, Option("--watch", help="Print alerts until no run is training.")] = False,
    webhook: Annotated[str | None, Option("--webhook", metavar="URL", help="With --watch: post alerts there.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first, or watch those that are training."""
    from workbench.run import list_runs

    if watch:
        from workbench.cli.watch import watch as follow

        refuse(context, "--watch", "alerts are printed as they come", "as_json")
        follow(runs, webhook)
        return
    if webhook is not None:
        raise RunError(f"expected --watch with --webhook {webhook}, found none; add it.")
    rows = [_summary(run) for run in list_runs(runs)]
    problems = {row["run"]: " ".join(row["problems"]) for row in rows if row["problems"]}
    if as_json:
        print_json(rows)
    elif not rows:
        say(f"no runs in {str(runs)!r}; make one: workbench reproduce porsche-minilm")
    else:
        columns = [name for name in rows[0] if name not in ("card", "problems")]  # a run's name begins with its card
        table(columns, [[row[name] for name in columns] for row in rows])
        for name, sentences in problems.items():
            note(f"{name}: {sentences}")


def _summary(run: Run) -> dict[str, Any]:
    """One row of the list; a damaged run has only its name and status."""
    from workbench.evaluation.compare import read_comparison

    columns = ("run", "card", "created", "status", "variant", "step", "metric", "after", "change", "verdict")
    row: dict[str, Any] = dict.fromkeys(columns) | {"run": run.name, "status": run.status}
    row["problems"] = list(run.damages())
    try:
        record, comparison = run.record, read_comparison(run) or {}
        progress, created = record.get("progress") or {}, str(record.get("created") or "")
        row |= {"created": created[:16].replace("T", " "), "variant": record.get("variant"), "card": record.get("card")}
        row["step"] = f"{progress.get('step', 0)}/{progress.get('steps', '?')}"
        main = comparison.get("main_metric")
        measured: dict[str, Any] = next((each for each in comparison.get("rows") or () if each["metric"] == main), {})
        row["metric"] = main and metric_name(main)
        row |= {"after": measured.get("after"), "change": measured.get("difference")}
        row["verdict"] = comparison.get("verdict")
    except WorkbenchError as error:
        row["problems"].append(str(error))
    return row


def evaluate(
    context: Context,
    target: Annotated[str, Argument(metavar="RUN|MODEL", help="A run, bundled:minilm, a folder, or a Hub id.")],
    on: Annotated[str | None, Option("--on", help="A collection, sample:NAME, a Hub id, or a file of rows.")] = None,
    columns: Columns = None,
    split: Annotated[str | None, Option("--split", help="test, dev, …; default: test.")] = None,
    truncate_dim: Annotated[int | None, Option("--truncate-dim", min=1, help="Keep this many dimensions.")] = None,
    without_own: Annotated[bool, Option("--without-own", help="Exclude the document with the query's id.")] = False,
    prompt: Annotated[list[str] | None, Option("--prompt", help="KIND=TEXT; KIND: query, document, text.")] = None,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run or a model on a collection or on scored pairs."""
    if on is None:
        refuse(
            context,
            "a run's own held-out rows",
            "name a collection or file with --on",
            "columns",
            "split",
            "without_own",
        )
    from workbench.evaluation.retrieval import Evaluation
    from workbench.pipeline import evaluate as measure

    named = columns is not None and any("=" in each for each in columns)
    with progress_bars(quiet=quiet or as_json) as on_progress:
        found = measure(
            target,
            on,
            columns=parse_columns(columns) if named or not columns else ",".join(columns).split(","),
            split=split,
            own_documents=not without_own,
            truncate_dim=truncate_dim,
            prompts=dict(each.partition("=")[::2] for each in prompt or ()),
            runs=runs,
            progress=False,
            on_progress=on_progress,
        )
    checks = found.settings.get("checks") or ()
    if isinstance(found, Evaluation):
        name = found.collection.name
        size = f"{len(found.collection.evaluated):,} queries, {len(found.collection.corpus):,} documents"
    else:
        name = found.name
        size = f"{found.settings['items']:,} {found.settings['unit']}"
    if as_json:
        print_json({"model": target, "on": name, "metrics": found.metrics, "checks": checks})
        return
    values = zip(metric_names(found.metrics).values(), found.metrics.values(), strict=True)
    table(("metric", "value"), values, title=f"{target} on {name} ({size})")
    for check in checks:
        say(f"{check['severity']}: {check['message']}")


def compare(
    names: Annotated[list[str], Argument(metavar="RUN…", help="One run, or several.")],
    against: Annotated[Path | None, Option("--against", metavar="FILE", help="Rankings: a TREC run file.")] = None,
    margin: Annotated[float | None, Option("--margin", help="Largest difference that counts as equal.")] = None,
    evaluation: Annotated[str | None, Option("--evaluation", help="test, validation, …; default: test.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    strict: Strict = False,
    require: Require = None,
) -> None:
    """Compare a run with its card or a file, or runs with the first."""
    check_required(require)
    from workbench.evaluation.compare import compare as compare_runs
    from workbench.run import open_run

    if len(set(names)) < len(names):
        raise RunError(f"expected different runs to compare, found one twice: {', '.join(names)}.")
    opened = [open_run(name, runs) for name in names]
    found = compare_runs(opened, against=against, evaluation=evaluation, margin=margin)
    if as_json:
        print_json(found.to_dict())
    else:
        say(repr(found))
    raise Exit(exit_code(found.verdict, require, strict))


def report(
    context: Context,
    names: Annotated[list[str] | None, Argument(metavar="RUN…", help="One run, or several to compare.")] = None,
    to: Annotated[Path | None, Option("--out", help="The file; default: in the folder of the first run.")] = None,
    format: Annotated[str, Option("--format", help="html, md (for a pull request) or pdf.")] = "html",
    pdf: Annotated[bool, Option("--pdf", help="The same as --format pdf.")] = False,
    card: Annotated[bool, Option("--card", help="Write the README.md of the new model instead.")] = False,
    index: Annotated[Path | None, Option("--index", metavar="FOLDER", help="Write a site of a folder of runs.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a report, a summary, a model card, or a site."""
    from workbench.report.export import report as write
    from workbench.report.model_card import model_card
    from workbench.report.site import report_index
    from workbench.run import open_run

    if index is not None:
        refuse(context, "--index FOLDER", "a site has a page for each run", but=("index", "to"))
        say(report_index(index, to or index.with_name(f"{index.name}-site")))
        return
    named = [open_run(name, runs) for name in names or ()]
    if not named:
        raise RunError("expected a run to report on, found none; name one or several, or --index RUNS_FOLDER.")
    if pdf:
        refuse(context, "--pdf", "it is a format", "format")
    if card:
        refuse(context, "--card", "a model card is Markdown", "format", "pdf")
    if card and len(named) > 1:
        raise RunError(f"expected one run for a model card, found {len(named)}; write one for each.")
    if card:
        say(model_card(named[0], to))
    else:
        say(write(named[0] if len(named) == 1 else named, to, format="pdf" if pdf else format))  # type: ignore[arg-type]


def print_metrics(run: Run) -> None:
    """The run's metrics before and after, for each of its evaluations."""
    for name, stages in run.evaluations().items():
        before = run.metrics(name, "before") if "before" in stages else {}
        after = run.metrics(name, "after") if "after" in stages else {}
        names = metric_names(before or after)
        rows = [(names[metric], before.get(metric), after.get(metric)) for metric in names]
        table(("metric", "before", "after"), rows, title=f"\n{name}")


def map(
    name: RunName,
    evaluation: EvaluationName = None,
    method: Annotated[str, Option("--method", help="umap or pca.")] = "umap",
    apart: Annotated[bool, Option("--apart", help="Fit one map per stage instead of one for both.")] = False,
    points: Annotated[int, Option("--points", min=5, help="Maximum number of points per stage.")] = 10_000,
    seed: Annotated[int, Option("--seed", help="Seed of UMAP and of the choice of points.")] = 42,
    runs: Runs = Path("runs"),
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compute the map of an evaluation's texts."""
    from workbench.evaluation.projection import METHODS, project
    from workbench.run import open_run

    if method not in METHODS:
        raise RunError(f"expected a method of {', '.join(METHODS)}, found {method!r}.")
    run = open_run(name, runs)
    chosen = find_evaluation(run, evaluation)
    with progress_bars(quiet=quiet or as_json, first="read the vectors") as on_progress:
        project(run, chosen, "pca", together=not apart, most=points, seed=seed)  # the view that is shown first
        made = project(run, chosen, method, together=not apart, most=points, seed=seed, on_progress=on_progress)
    if as_json:
        print_json({"run": run.name, "kept": made.preservation, **made.parameters})
    else:
        say(f"{made!r}; to see it: workbench dashboard {runs}")


def slices(
    name: RunName,
    by: Annotated[str, Option("--by", help="query length, relevant documents, dimensions, precision.")] = "",
    evaluation: EvaluationName = None,
    metric: Annotated[str, Option("--metric", help="A metric of each query: nDCG@10, Recall@5, …")] = "nDCG@10",
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Break down by query group, dimensions and quantization."""
    from workbench.evaluation.slices import BY, at_dimensions, at_precisions, query_metric, slice_queries
    from workbench.run import open_run

    run = open_run(name, runs)
    chosen = find_evaluation(run, evaluation)
    metric = query_metric(run.per_query(chosen, "after"), chosen, metric)
    tables = {}
    for each in [by] if by else [*BY, "dimensions", "precision"]:
        if each in ("dimensions", "precision"):
            found = (at_dimensions if each == "dimensions" else at_precisions)(run, chosen)
            tables[each] = found[["moment", each, "bytes", metric]]
        elif each in BY or each in run.per_query(chosen, "after"):
            tables[each] = slice_queries(run, chosen, each, metric=metric)
        else:
            raise RunError(f"expected {', '.join(BY)}, dimensions, precision or a column with --by, found {each!r}.")
    if as_json:
        print_json({each: found.to_dict("records") for each, found in tables.items()})
        return
    for each, found in tables.items():
        columns = [metric_name(name) if name == metric else name for name in found.columns]
        table(columns, found.to_numpy().tolist(), title=f"\n{metric_name(metric)} by {each}")


def export(
    context: Context,
    name: Annotated[str, Argument(metavar="RUN|NOTEBOOK", help="A run, or a notebook (.ipynb) to execute.")],
    to: Annotated[Path | None, Option("--out", help="Output folder; for a notebook, the HTML file.")] = None,
    format: Annotated[str, Option("--format", help="trec, json, csv, parquet, model, or zip.")] = "trec",
    evaluation: EvaluationName = None,
    stage: Annotated[str, Option("--moment", help="before, step-N or after.")] = "after",
    runs: Runs = Path("runs"),
) -> None:
    """Export rankings, the model, everything, or an executed notebook.

    An adapter is merged into the model, which gets its card; zip is all of a run but its weights; a notebook becomes
    one HTML file.
    """
    from workbench.evaluation.trec import export as write
    from workbench.models.base import export_merged
    from workbench.report.archive import run_archive
    from workbench.report.model_card import model_card
    from workbench.report.notebook_page import export_notebook
    from workbench.run import open_run, write_bytes

    if Path(name).suffix == ".ipynb":
        refuse(context, "a notebook", "it becomes one HTML file", "format", "evaluation", "stage", "runs")
        say(export_notebook(name, to))
        return
    run = open_run(name, runs)
    if to is None:
        raise RunError("expected a folder to write into, or a file for zip, found none; name one with --out.")
    if format == "zip":
        refuse(context, "--format zip", "it holds all evaluations", "evaluation", "stage")
        say(write_bytes(to, run_archive(run)))
        return
    if format == "model":
        refuse(context, "--format model", "the model is the one that was kept", "evaluation", "stage")
        export_merged(run.model_folder(), to)
        model_card(run, to / "README.md")
        say(to)
        return
    for path in write(run, find_evaluation(run, evaluation), stage, to=to, format=format):  # type: ignore[arg-type]
        say(path)
