"""What a report says, as plain values: read from the run folder, its comparison, and the audit of its card.

A part that is missing or damaged becomes a sentence in `Summary.gaps`: a report of a run that failed is still a report.
`report.render` lays a Summary out and computes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import WorkbenchError
from workbench.evaluation.compare import MetricRow, compare
from workbench.evaluation.retrieval import folder_name
from workbench.run import Run
from workbench.views.figures import metric_name, name_metrics
from workbench.views.figures_loss import Curve, axis_of
from workbench.views.loss_curves import Curves
from workbench.views.loss_curves import curves as side_by_side
from workbench.views.queries import queries as all_queries
from workbench.views.records import Fact, FindingLine, FindingRow, RecipeRow, Summary, Verdict
from workbench.views.report_map import map_view
from workbench.views.theme import Role, shorten

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.recipe.schema import Origin, Recipe

T = TypeVar("T")

PACKAGES = ("python", "sentence-transformers", "transformers", "torch")  # named first among the versions


def summarize(run: Run) -> Summary:
    """Read everything that the report of `run` says. Never raises for a damaged run: see `Summary.gaps`."""
    gaps: dict[str, str] = {}

    def part(name: str, read: Callable[[], T]) -> T | None:
        """What `read` gives, or None and a sentence in `gaps`."""
        try:
            return read()
        except WorkbenchError as error:
            gaps[name] = str(error)
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # a file of another version, or edited by hand
            gaps[name] = (
                f"The {name} of this run is not in the form that was expected ({type(error).__name__}: {error})."
            )
        return None

    record = part("record", lambda: run.record) or {}
    card: Card | None = part("card", run.card)
    recipe: Recipe | None = part("recipe", run.recipe)
    comparison = part("comparison", lambda: _comparison(run)) or {}
    planned = recipe.evaluation.main_metric if recipe else "cosine_ndcg@10"
    main = str(comparison.get("main_metric") or planned)
    wanted = str(comparison.get("evaluation") or (folder_name(recipe.evaluation.name) if recipe else ""))
    queries = part("queries", lambda: all_queries(run, wanted, main))
    log = part("log", run.log) or []
    rows = part("metrics", lambda: _metrics(run, comparison, wanted)) or ()
    stand_ins = part("stand-ins", lambda: run.stand_ins if record else ()) or ()
    findings = part("findings", lambda: _findings(card)) if card else None
    recipe_rows = part("recipe", lambda: _recipe_rows(recipe)) if recipe else None
    return Summary(
        run=run.name,
        card=card.name if card else str(record.get("card") or (recipe.name if recipe else run.name)),
        variant=str(record.get("variant") or (recipe.variant if recipe else "unknown")),
        status=run.status,
        verdict=part("verdict", lambda: _verdict(run.status, record, comparison, gaps, stand_ins)) or UNREADABLE,
        stand_ins=tuple(stand_ins),
        evaluation=queries.evaluation if queries else "",
        per_query_metric=metric_name(queries.metric) if queries else "",
        unit=queries.unit if queries else str(comparison.get("unit") or "queries"),
        measured=queries.measured if queries else int(comparison.get("queries") or 0),
        by_item=queries is not None and queries.by_item,
        depth=queries.depth if queries else 100,
        main_metric=main,
        metrics=tuple(rows),
        metric_notes=part("notes", lambda: tuple(_worded(comparison, "notes"))) or (),
        findings=findings,
        **(part("curves", lambda: _curves(run, record, card, log)) or {}),
        changes=queries.changes if queries else (),
        gained=queries.gained if queries else (),
        lost=queries.lost if queries else (),
        items_gained=queries.items_gained if queries else (),
        items_lost=queries.items_lost if queries else (),
        found=queries.found if queries else None,
        causes=queries.causes if queries else (),
        groupings=queries.groupings if queries else (),
        cuttings=queries.cuttings if queries else (),
        map=part("map", lambda: map_view(run, queries.evaluation, main)) if queries else None,
        recipe=recipe_rows or (),
        recipe_notes=recipe.notes if recipe else (),
        recipe_text=part("recipe text", lambda: _recipe_text(recipe)) or "" if recipe else "",
        checks=part("checks", lambda: _checks(record)) or (),
        machine=part("machine", lambda: _machine(record)) or (),
        command=part("command", lambda: shlex.join(map(str, record.get("command") or ()))) or "",
        versions=part("versions", lambda: _versions(record)) or (),
        hashes=part("hashes", lambda: _hashes(record, card)) or (),
        gaps=gaps,
    )


def _comparison(run: Run) -> dict[str, Any] | None:
    """The stored comparison, or a fresh one where the run has come far enough."""
    stored = run.comparison()
    if stored is not None or not any({"before", "after"} <= set(moments) for moments in run.evaluations().values()):
        return stored
    return dict(compare(run).to_dict())


MEANINGS = {
    "reproduced": ("good", "Trained again, the recipe gives the numbers that the card reports."),
    "differs": ("bad", "Trained again, the recipe does not give the numbers that the card reports."),
    "not comparable": ("open", "This run can neither confirm nor deny what the card reports."),
    "no significant difference": ("open", "No difference was shown."),
}


GOING = ("running", "interrupted")
MEANINGS_OF_STATUS = {
    "running": "Training goes on; this report shows the run as it stood when it was written.",
    "interrupted": "The process is gone without having said so. The run can be resumed.",
    "stopped": "Training was stopped before its end. The run can be resumed.",
}
UNREADABLE = Verdict("broken", "bad", "The run folder cannot be read.")


def _verdict(
    status: str,
    record: Mapping[str, Any],
    comparison: Mapping[str, Any],
    gaps: Mapping[str, str],
    stand_ins: Sequence[str],
) -> Verdict:
    """The word and its reasons; what the band of stand-ins says already is not said twice."""
    if status in ("failed", "broken"):
        why = str(record.get("error") or gaps.get("record") or "No reason was recorded.")
        meaning = "Training did not get to its end." if status == "failed" else "The run folder cannot be read."
        return Verdict(status, "bad", meaning, (why,))
    word = str(comparison.get("verdict") or "")
    if word in MEANINGS and status not in GOING:
        reasons = dict.fromkeys(reason for reason in _worded(comparison, "reasons") if reason not in stand_ins)
        return Verdict(word, *MEANINGS[word], reasons=tuple(reasons))
    if status in MEANINGS_OF_STATUS:
        progress = record.get("progress") or {}
        done = f"{progress.get('step')} of {progress.get('steps', 'unknown')} steps are done."
        return Verdict(
            status, "open", MEANINGS_OF_STATUS[status], (done if "step" in progress else "No step is done.",)
        )
    why = (
        gaps.get("comparison") or "The run has no evaluation before and after training, so there is nothing to compare."
    )
    return Verdict("no verdict", "open", "Nothing was compared with the card's numbers.", (why,))


def _worded(comparison: Mapping[str, Any], what: str) -> list[str]:
    """The sentences of a comparison, its metrics called as tables and figures call them."""
    found = comparison.get(what) or ()
    metrics = [str(row["metric"]) for row in comparison.get("rows") or ()]
    return [name_metrics(str(each), metrics) for each in ([found] if isinstance(found, str) else found)]


def _metrics(run: Run, comparison: Mapping[str, Any], wanted: str) -> tuple[MetricRow, ...]:
    """Rows of the comparison; without one, our own means before and after."""
    if comparison.get("rows"):
        return tuple(map(metric_row, comparison["rows"]))
    measured = run.evaluations()
    name = wanted if wanted in measured else next(iter(measured), "")
    means = {at: run.metrics(name, at) for at in ("before", "after") if at in measured.get(name, ())}
    before, after = means.get("before", {}), means.get("after", {})
    return tuple(
        MetricRow(
            metric,
            before=before.get(metric),
            after=after.get(metric),
            difference=after[metric] - before[metric] if metric in before and metric in after else None,
        )
        for metric in {**before, **after}
    )


def metric_row(stored: Mapping[str, Any]) -> MetricRow:
    """A row of a stored comparison."""
    return MetricRow(**{key: value for key, value in stored.items() if key in MetricRow.__dataclass_fields__})


def _findings(card: Card) -> tuple[FindingRow, ...]:
    from workbench.audit.rules import audit

    return tuple(
        FindingRow(
            code=finding.code,
            severity=finding.severity,
            message=finding.message,
            lines=tuple(
                FindingLine(number, shorten(card.lines[number - 1], 200))
                for number in finding.lines
                if 0 < number <= len(card.lines)
            ),
            fix=finding.fix.sentence if finding.fix else "",
        )
        for finding in audit(card)
    )


def _curves(run: Run, record: Mapping[str, Any], card: Card | None, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a Summary about curves: the card's, corrected for what the audit knows, and the run's."""
    ours = []
    if log:
        best = (record.get("best") or {}).get("step")
        role: Role = "corrected" if record.get("variant") == "corrected" else "after"
        ours.append(Curve.of_log("This run", log, role=role, kept=best))
    if card is None or not card.training_log:
        return {"curves": tuple(ours)}
    as_printed = Curve.of_card(card)
    try:
        found = {axis: side_by_side(run, card, axis=axis) for axis in ("steps", "epochs")}
    except WorkbenchError:  # a run without a recipe, or a log without steps
        return {"curves": (as_printed, *ours)}
    theirs = _corrected(as_printed, found["steps"], found["epochs"])
    shown = found[f"{axis_of((theirs, *ours))}s"]
    means = tuple(zip(shown.run.x, shown.run.values, strict=True))
    said = [each for each in shown.sentences if not any(note in each for note in run.stand_ins)]
    return {"curves": (theirs, *(replace(each, means=means) for each in ours)), "curve_notes": tuple(said)}


def _corrected(card: Curve, steps: Curves, epochs: Curves) -> Curve:
    """The card's curve with the values that can be compared."""
    losses, validation = (
        dict(zip(line.steps, line.values, strict=True)) for line in (steps.card, steps.card_validation)
    )
    lines = (epochs.card, epochs.card_validation)
    places = {step: x for line in lines for step, x in zip(line.steps, line.x, strict=True)}
    every = sorted({*losses, *validation})
    return replace(
        card,
        name=f"{card.name}, loss divided by {steps.divided}" if steps.divided > 1 else card.name,
        steps=every,
        values=[losses.get(step) for step in every],
        evaluated=[validation.get(step) for step in every],
        epochs=[places.get(step) for step in every],
    )


def _recipe_rows(recipe: Recipe) -> tuple[RecipeRow, ...]:
    from workbench.recipe.schema import leaves

    rows = []
    for path, field_value in leaves(recipe).items():
        value = field_text(field_value)
        origin = _nearest(recipe.provenance, path)
        if origin is None and value == "–":
            continue  # an empty part that nothing is known about
        source, lines, note = (origin.source, origin.lines, origin.note) if origin else ("unknown", (), "")
        rows.append(RecipeRow(path, value, source, lines, note))
    return tuple(rows)


def _nearest(provenance: Mapping[str, Origin], path: str) -> Origin | None:
    """The origin of a field, or of the part that it is in: a mapping such as the columns has one for all its keys."""
    while path and path not in provenance:
        path = path.rpartition(".")[0]
    return provenance.get(path)


def field_text(value: Any) -> str:
    """A field of a recipe as a person writes it; nothing is a dash.

    >>> field_text((512, 256)), field_text({"query": "ask: "}), field_text(True), field_text(None), field_text(3.0)
    ('512, 256', 'query ask: ', 'yes', '–', '3')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {field_text(inner)}" for key, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(field_text, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value).removesuffix(".0")


def _recipe_text(recipe: Recipe) -> str:
    from workbench.recipe.yaml_io import recipe_yaml

    return recipe_yaml(recipe)


def _checks(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(check["severity"]), str(check["message"])) for check in record.get("checks") or ())


def _machine(record: Mapping[str, Any]) -> tuple[Fact, ...]:
    """What it ran on. The host's name stays in the run folder: a report is passed around."""
    base, data, progress = (record.get(name) or {} for name in ("base", "data", "progress"))
    rows = {name: count for name, count in (data.get("rows") or {}).items() if count is not None}
    facts = [
        ("Base model", _base_text(base)),
        ("Data", str(data.get("source") or "")),
        ("Rows", ", ".join(f"{count:,} {name}" for name, count in rows.items())),
        ("Device", " in ".join(str(record[key]) for key in ("device", "precision") if record.get(key))),
        ("Steps", f"{progress['step']:,} of {progress['steps']:,}" if {"step", "steps"} <= progress.keys() else ""),
        ("Training took", duration(record["seconds"]) if record.get("seconds") is not None else ""),
        ("Rows per second", f"{record['rows_per_second']:,.1f}" if record.get("rows_per_second") else ""),
        ("Most memory used", f"{record['peak_memory'] / 1e9:,.2f} GB" if record.get("peak_memory") else ""),
        ("Started", str(record.get("created") or "").replace("T", " ").replace("Z", " UTC")),
    ]
    return tuple(Fact(name, value or "unknown") for name, value in facts)


def _base_text(base: Mapping[str, Any]) -> str:
    asked, model = base.get("asked"), base.get("model")
    return f"{model} (asked for: {asked})" if asked and model and asked != model else str(model or asked or "")


def duration(seconds: float) -> str:
    """
    >>> duration(405.2), duration(42), duration(9015)
    ('6 min 45 s', '42 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _versions(record: Mapping[str, Any]) -> tuple[Fact, ...]:
    versions = record.get("versions") or {}
    order = sorted(versions, key=lambda name: (PACKAGES.index(name) if name in PACKAGES else len(PACKAGES), name))
    return tuple(Fact(name, str(versions[name])) for name in order)


def _hashes(record: Mapping[str, Any], card: Card | None) -> tuple[Fact, ...]:
    base, data = record.get("base") or {}, record.get("data") or {}
    facts = (
        ("Recipe", record.get("recipe_sha256")),
        ("Card", card.sha256 if card else None),
        ("Base weights", base.get("sha256")),
        ("Training rows", data.get("sha256")),
    )
    return tuple(Fact(name, str(value or "unknown"), code=bool(value)) for name, value in facts)
