"""One run -> everything that its report says, and several runs side by side.

A part that is missing or damaged becomes a sentence in `Summary.gaps`: a failed run has a report, too. `report.page`
lays out a Summary and computes nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.cards.metric_names import metric_name, name_metrics, replace_names
from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.compare import compare, read_comparison
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.projection import STAGES
from workbench.evaluation.rankings import RankAgreement
from workbench.evaluation.retrieval import folder_name
from workbench.recipe.schema import Recipe, difference, leaves
from workbench.recipe.yaml_io import recipe_yaml
from workbench.run import Run
from workbench.views.card_facts import card_findings, field_text, recipe_fields
from workbench.views.figures_loss import Curve, axis_of
from workbench.views.loss_curves import best_kept, curves, loss_numbers
from workbench.views.map_view import report_map
from workbench.views.queries import compared_evaluations, preference, queries_view
from workbench.views.records import QueriesView, Sourced, Verdict, duration, format_p_value, signed
from workbench.views.theme import Role

if TYPE_CHECKING:
    from workbench.cards.card import Card
    from workbench.evaluation.replay import Number, Replay
    from workbench.views.map_view import MapView
    from workbench.views.records import FindingLines

T = TypeVar("T")

PACKAGES = ("python", "sentence-transformers", "transformers", "torch")  # named first among the versions


@dataclass(frozen=True)
class Summary:
    """All that a report of one run shows."""

    run: str  # name of the run folder
    card: str  # name of the card
    variant: str  # "as written", "corrected" or "published weights"
    status: str
    verdict: Verdict
    stand_ins: tuple[str, ...] = ()
    main_metric: str = ""
    metrics: tuple[MetricRow, ...] = ()
    metric_notes: tuple[str, ...] = ()  # how they were measured and compared
    seeds: tuple[int, ...] = ()  # of the trainings that `metrics` are of
    replay: Replay | None = None
    findings: tuple[FindingLines, ...] | None = None  # None: there is no card to audit
    curves: tuple[Curve, ...] = ()
    curve_notes: tuple[str, ...] = ()  # corrections of the card's curve, and what its points are
    losses: tuple[Number, ...] = ()  # of the card's log, beside this run's
    queries: QueriesView = field(default_factory=QueriesView)
    map: MapView | None = None
    recipe: tuple[Sourced, ...] = ()
    recipe_notes: tuple[str, ...] = ()
    recipe_text: str = ""  # the recipe as YAML
    checks: tuple[tuple[str, str], ...] = ()  # (severity, sentence) of the data checks
    machine: tuple[Sourced, ...] = ()
    command: str = ""
    versions: tuple[Sourced, ...] = ()
    hashes: tuple[Sourced, ...] = ()
    gaps: Mapping[str, str] = field(default_factory=dict)  # part -> why it is missing

    @property
    def main(self) -> MetricRow | None:
        return main_row(self.metrics, self.main_metric)


def main_row(rows: Sequence[MetricRow], metric: str) -> MetricRow | None:
    """The row of the main metric; without it the first; None if nothing was measured."""
    return next((row for row in rows if row.metric == metric), rows[0] if rows else None)


@dataclass(frozen=True)
class Pair:
    """Another run compared with the first."""

    letter: str
    verdict: str  # of the main metric: see `verdict.judge_change`
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[MetricRow, ...]  # `before` is the first run, `after` the other
    rankings: tuple[RankAgreement, ...] = ()  # one, or none where nothing was ranked


@dataclass(frozen=True)
class Several:
    """All that a report of several runs shows. `runs`, `letters`, and the values of a difference are parallel."""

    runs: tuple[Summary, ...]
    letters: tuple[str, ...]  # "A", "B", ...: names of the runs in tables and figures
    verdict: Verdict
    metrics: tuple[str, ...]  # those of any run, the main one first
    main: str
    pairs: tuple[Pair, ...]  # each other run with the first
    card: Mapping[str, float]  # metric -> the card's number, if all runs come from one card
    differences: tuple[tuple[str, tuple[str, ...]], ...]  # (field of the recipes, its value in each run)
    gaps: Mapping[str, str] = field(default_factory=dict)

    @property
    def rankings(self) -> dict[str, RankAgreement]:
        """Letter of each other run -> how far its rankings agree with the first's."""
        return {pair.letter: each for pair in self.pairs for each in pair.rankings}


@dataclass
class Parts:
    """Reads the parts of a run; what cannot be read becomes a sentence."""

    gaps: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, function: Callable[[], T]) -> T | None:
        try:
            return function()
        except WorkbenchError as error:
            self.gaps[name] = str(error)
        except (LookupError, TypeError, ValueError) as error:  # of another version, or edited by hand
            kind = type(error).__name__
            self.gaps[name] = f"The {name} of this run is not in the expected form ({kind}: {error})."
        return None


def summarize(run: Run) -> Summary:
    """Read everything that the report of `run` says. Never raises for a damaged run: see `Summary.gaps`."""
    parts = Parts()
    read = parts.read
    record = read("record", lambda: run.record) or {}
    card: Card | None = read("card", run.card)
    recipe: Recipe | None = read("recipe", run.recipe)
    comparison = read("comparison", lambda: stored_comparison(run) or _compare_now(run))
    main = comparison.main_metric if comparison else recipe.evaluation.main_metric if recipe else "cosine_ndcg@10"
    wanted = (comparison.evaluation if comparison else None) or (folder_name(recipe.evaluation.name) if recipe else "")
    queries = read("queries", lambda: queries_view(run, wanted, main))
    log = read("log", run.log) or []
    stand_ins = read("stand-ins", lambda: _with_advice(run.stand_ins, comparison) if record else ()) or ()
    drawn, curve_notes = read("curves", lambda: _curves(run, record, card, log)) or ((), ())
    measured = QueriesView(unit=comparison.unit, measured=comparison.queries or 0) if comparison else QueriesView()
    return Summary(
        run=run.name,
        card=card.name if card else str(record.get("card") or (recipe.name if recipe else run.name)),
        variant=str(record.get("variant") or (recipe.variant if recipe else "unknown")),
        status=run.status,
        verdict=read("verdict", lambda: _verdict(run.status, record, comparison, parts.gaps, stand_ins)) or UNREADABLE,
        stand_ins=stand_ins,
        main_metric=main,
        metrics=read("metrics", lambda: metric_rows(run, comparison, wanted)) or (),
        metric_notes=read("notes", lambda: _named(comparison, comparison.notes) if comparison else ()) or (),
        seeds=comparison.seeds if comparison else (),
        replay=comparison.replay if comparison else None,
        findings=read("findings", lambda: card_findings(card)) if card else None,
        curves=drawn,
        curve_notes=curve_notes,
        losses=read("losses", lambda: loss_numbers(card, log)) or () if card else (),
        queries=queries or measured,
        map=read("map", lambda: report_map(run, queries.evaluation)) if queries else None,
        recipe=read("recipe", lambda: recipe_fields(recipe, run.trained_recipe())) or () if recipe else (),
        recipe_notes=recipe.notes if recipe else (),
        recipe_text=read("recipe text", lambda: recipe_yaml(recipe)) or "" if recipe else "",
        checks=read("checks", lambda: _checks(record)) or (),
        machine=read("machine", lambda: _machine(record)) or (),
        command=read("command", lambda: shlex.join(map(str, record.get("command") or ()))) or "",
        versions=read("versions", lambda: _versions(record)) or (),
        hashes=read("hashes", lambda: _hashes(record, card)) or (),
        gaps=parts.gaps,
    )


MEANINGS = {
    "reproduced exactly": ("good", "Trained again, the recipe gives every number of the card to the printed digit."),
    "reproduced": ("good", "Trained again, the recipe gives the card's numbers within the margin."),
    "differs": ("bad", "Trained again, the recipe does not give the numbers that the card reports."),
    "cannot tell": ("open", "The trainings so far neither confirm the card's numbers nor exclude them."),
    "not comparable": ("open", "This run can neither confirm nor deny what the card reports."),
}
MEANINGS_OF_WEIGHTS = {
    "reproduced exactly": "The published weights give the numbers of the card.",
    "differs": "The published weights do not give the numbers that the card reports.",
    "cannot tell": "The numbers that were measured neither confirm the card's nor exclude them.",
    "not comparable": "What was measured can neither confirm nor deny what the card reports.",
}
MEANINGS_OF_STATUS = {
    "running": "Training is in progress; this report shows the run at the time of writing.",
    "interrupted": "The process ended unexpectedly. The run can be resumed.",
    "stopped": "Training was stopped before its end. The run can be resumed.",
}
UNREADABLE = Verdict("broken", "bad", "The run folder cannot be read.")


def stored_comparison(run: Run) -> Comparison | None:
    """What `compare` has stored, by the present rule; None where the run was not compared."""
    stored = read_comparison(run)
    return None if stored is None else Comparison.from_dict(stored)


def _compare_now(run: Run) -> Comparison | None:
    """A new comparison, if the run has come far enough."""
    return compare(run) if compared_evaluations(run) else None


def _verdict(
    status: str,
    record: Mapping[str, Any],
    comparison: Comparison | None,
    gaps: Mapping[str, str],
    stand_ins: Sequence[str],
) -> Verdict:
    """The word and its reasons, without those that the note on stand-ins gives."""
    if status in ("failed", "broken"):
        why = str(record.get("error") or gaps.get("record") or "No reason was recorded.")
        meaning = "Training did not finish." if status == "failed" else UNREADABLE.meaning
        return Verdict(status, "bad", meaning, (why,))
    if comparison is not None and comparison.verdict in MEANINGS and status not in ("running", "interrupted"):
        found = card_verdict(comparison)
        return replace(found, reasons=tuple(each for each in found.reasons if each not in stand_ins))
    if status in MEANINGS_OF_STATUS:
        progress = record.get("progress") or {}
        done = f"{progress.get('step')} of {progress.get('steps', 'unknown')} steps are done."
        reason = done if "step" in progress else "No step is done."
        return Verdict(status, "open", MEANINGS_OF_STATUS[status], (reason,))
    why = gaps.get("comparison") or "The run has no evaluation before and after training, so there is no comparison."
    return Verdict("no verdict", "open", "Nothing was compared with the card's numbers.", (why,))


def _with_advice(notes: Sequence[str], comparison: Comparison | None) -> tuple[str, ...]:
    """The notes on stand-ins as the comparison gives them as reasons, with the option that removes them."""
    reasons = comparison.reasons if comparison else ()
    return tuple(next((each for each in reasons if each.startswith(note.removesuffix("."))), note) for note in notes)


def card_verdict(found: Comparison) -> Verdict:
    """The verdict of a comparison with a card, with all that is shown beside it."""
    tone, meaning = MEANINGS[found.verdict]
    if found.replay is not None and found.replay.of == "weights":
        meaning = MEANINGS_OF_WEIGHTS[found.verdict]
    main = main_row(found.rows, found.main_metric)
    if (
        found.verdict == "differs" and main is not None and (main.card_difference or 0) < 0
    ):  # no warning: ours is better
        tone, meaning = "info", f"{meaning[:-1]}: {metric_name(main.metric)} is higher here."
    return Verdict(
        found.verdict,
        tone,
        meaning,
        reasons=_named(found, dict.fromkeys(found.reasons)),
        sentence="".join(_named(found, [found.sentence])),
        facts=tuple(found.facts("−").items()),
        statements=found.statements,
    )


def _named(found: Comparison, sentences: Iterable[str]) -> tuple[str, ...]:
    """Sentences of a comparison, with metric names as in tables and figures."""
    metrics = [row.metric for row in found.rows]
    return tuple(name_metrics(each, metrics) for each in sentences)


def metric_rows(run: Run, comparison: Comparison | None, wanted: str | None) -> tuple[MetricRow, ...]:
    """The rows of the comparison; without one the means of the evaluation `wanted`, or else of the first."""
    if comparison is not None and comparison.rows:
        return comparison.rows
    stages = run.evaluations()
    name = next(iter(sorted(stages, key=lambda name: (name != wanted, preference(name)))), "")
    before, after = (run.metrics(name, stage) if stage in stages.get(name, ()) else {} for stage in STAGES)
    return tuple(
        MetricRow(
            metric,
            before=before.get(metric),
            after=after.get(metric),
            difference=after[metric] - before[metric] if metric in before and metric in after else None,
        )
        for metric in {**before, **after}
    )


def _curves(
    run: Run, record: Mapping[str, Any], card: Card | None, log: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """The card's curve, corrected, and the run's; and sentences on both."""
    ours = []
    if log:
        role: Role = "corrected" if record.get("variant") == "corrected" else "after"
        ours.append(Curve.of_log("This run", log, role=role, kept=best_kept(run)))
    if card is None or not card.training_log:
        return tuple(ours), ()
    as_printed = Curve.of_card(card)
    try:
        by_step, by_epoch = (curves(run, card, axis=axis) for axis in ("steps", "epochs"))
    except WorkbenchError:  # a run without a recipe, or a log without steps
        return (as_printed, *ours), ()
    places = {
        step: x
        for line in (by_epoch.card, by_epoch.card_validation)
        for step, x in zip(line.steps, line.x, strict=True)
    }
    theirs = Curve.of_curves(by_step, card)
    theirs = replace(theirs, epochs=[places.get(int(step)) for step in theirs.steps])
    shown = by_step if axis_of((theirs, *ours)) == "step" else by_epoch
    means = tuple(zip(shown.run.x, shown.run.values, strict=True))
    notes = tuple(each for each in shown.sentences if not any(note in each for note in run.stand_ins))
    return (theirs, *(replace(each, means=means) for each in ours)), notes


def _checks(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(check["severity"]), str(check["message"])) for check in record.get("checks") or ())


def _machine(record: Mapping[str, Any]) -> tuple[Sourced, ...]:
    """Base, data, and hardware. Not the name of the host: a report is passed around."""
    base, data, progress = (record.get(name) or {} for name in ("base", "data", "progress"))
    asked, model = base.get("asked"), base.get("model")
    rows = {name: count for name, count in dict(data.get("rows") or {}).items() if count is not None}
    facts = {
        "Base model": f"{model} (asked for: {asked})" if asked and model and asked != model else model or asked,
        "Data": data.get("source"),
        "Rows": ", ".join(f"{count:,} {name}" for name, count in rows.items()),
        "Device": " in ".join(str(record[key]) for key in ("device", "precision") if record.get(key)),
        "Steps": f"{progress['step']:,} of {progress['steps']:,}" if {"step", "steps"} <= progress.keys() else "",
        "Training time": duration(record["seconds"]) if record.get("seconds") is not None else "",
        "Rows per second": f"{record['rows_per_second']:,.1f}" if record.get("rows_per_second") else "",
        "Peak memory": f"{record['peak_memory'] / 1e9:,.2f} GB" if record.get("peak_memory") else "",
        "Started": str(record.get("created") or "").replace("T", " ").replace("Z", " UTC"),
    }
    return tuple(Sourced(name, str(value or "unknown")) for name, value in facts.items())


def _versions(record: Mapping[str, Any]) -> tuple[Sourced, ...]:
    versions = record.get("versions") or {}
    order = sorted(versions, key=lambda name: (PACKAGES.index(name) if name in PACKAGES else len(PACKAGES), name))
    return tuple(Sourced(name, str(versions[name])) for name in order)


def _hashes(record: Mapping[str, Any], card: Card | None) -> tuple[Sourced, ...]:
    base, data = record.get("base") or {}, record.get("data") or {}
    hashes = {
        "Recipe": record.get("recipe_sha256"),
        "Card": card.sha256 if card else None,
        "Base weights": base.get("sha256"),
        "Training rows": data.get("sha256"),
    }
    return tuple(Sourced(name, str(value or "unknown")) for name, value in hashes.items())


MOST = 26  # runs, a letter each
TONES = {
    "better": "good",
    "worse": "bad",
    "no significant difference": "open",
    "equivalent": "info",
    "not comparable": "open",
}  # the strongest first


def tone(word: str) -> str:
    """The tone of a verdict on a card or on runs.

    >>> tone("reproduced"), tone("worse"), tone("cannot tell")
    ('good', 'bad', 'open')
    """
    return MEANINGS[word][0] if word in MEANINGS else TONES.get(word, "open")


def runs_verdict(word: str, metric: str, first: str, others: int = 1, reasons: Sequence[str] = ()) -> Verdict:
    """The strongest verdict on `others` runs that are each compared with the run `first`."""
    name = metric_name(metric) if metric else "the main metric"
    one, every, none = (
        ("The other run", "The other run is", "")
        if others == 1
        else ("At least one of the others", "All others are", ", and none is better")
    )
    meaning = {
        "better": f"{one} is better than {first} in {name}.",
        "worse": f"{one} is worse than {first} in {name}{none}.",
        "no significant difference": f"{one} shows no difference from {first} in {name}; that does not mean equal.",
        "equivalent": f"{every} within the margin of {first} in {name}.",
        "not comparable": f"The runs did not measure the same thing, so nothing is said about {name}.",
    }[word]
    return Verdict(word, TONES[word], meaning, tuple(reasons))


def summarize_several(runs: Sequence[Run]) -> Several:
    """Read everything that a report of `runs` says; what cannot be read becomes a sentence.

    Raises RunError for fewer than two runs, and for more than there are letters.
    """
    if not 1 < len(runs) <= MOST:
        raise RunError(f"expected 2 to {MOST} runs to put side by side, found {len(runs)}.")
    summaries = tuple(summarize(run) for run in runs)
    letters = tuple(chr(ord("A") + place) for place in range(len(runs)))
    names = dict(zip([run.name for run in runs], letters, strict=True))
    gaps: dict[str, str] = {}
    main = next((row.metric for each in summaries for row in each.metrics if row.metric == each.main_metric), "")
    pairs, differ = [], []
    for letter, other in zip(letters[1:], runs[1:], strict=True):
        try:
            found = compare(runs[0], other)
        except WorkbenchError as error:
            gaps[letter] = str(error)
            pairs.append(Pair(letter, "not comparable", (str(error),), (), ()))
            continue
        main = main or found.main_metric
        differ.append(replace_names(found.sentence, names))
        reasons, notes = (
            tuple(replace_names(each, names) for each in _named(found, sentences))
            for sentences in (found.reasons, found.notes)
        )
        pairs.append(Pair(letter, found.verdict, reasons, notes, found.rows, found.rankings))
    listed = dict.fromkeys(row.metric for each in summaries for row in each.metrics)
    one_card = len({run.card for run in summaries}) == 1
    return Several(
        runs=summaries,
        letters=letters,
        verdict=replace(_verdict_of_pairs(pairs, main, letters[0]), sentence=" ".join(differ)),
        metrics=tuple(sorted(listed, key=lambda metric: metric != main)),
        main=main,
        pairs=tuple(pairs),
        card={row.metric: row.card for run in summaries for row in run.metrics if one_card and row.card is not None},
        differences=_differences(runs, gaps),
        gaps=gaps,
    )


def _verdict_of_pairs(pairs: Sequence[Pair], main: str, first: str) -> Verdict:
    """The strongest verdict of all pairs, with a sentence for each."""
    words = {pair.verdict for pair in pairs}
    word = next((each for each in TONES if each in words), "not comparable")
    return runs_verdict(word, main, f"run {first}", len(pairs), [_sentence(pair, main, first) for pair in pairs])


def _sentence(pair: Pair, main: str, first: str) -> str:
    row = next((row for row in pair.rows if row.metric == main), None)
    if row is None or row.difference is None or pair.verdict == "not comparable":
        why = " ".join(pair.reasons) or "It has no such metric, or no values per query."
        return f"{pair.letter} vs. {first}: not comparable. {why}"
    low, high = row.difference_low, row.difference_high
    between = "" if low is None or high is None else f" (95% CI {signed(low)} to {signed(high)})"
    p = "" if row.p_adjusted is None else f", p {format_p_value(row.p_adjusted)}"
    return f"{pair.letter} vs. {first}: {row.verdict}; {metric_name(main)} {signed(row.difference)}{between}{p}."


def _differences(runs: Sequence[Run], gaps: dict[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields in which any of the trainings differs from the first."""
    try:
        recipes = [run.trained_recipe() for run in runs]
    except WorkbenchError as error:
        gaps["recipes"] = str(error)
        return ()
    paths = dict.fromkeys(path for other in recipes[1:] for path, _, _ in difference(recipes[0], other))
    values = [leaves(recipe) for recipe in recipes]
    return tuple((path, tuple(field_text(each.get(path)) for each in values)) for path in paths)
