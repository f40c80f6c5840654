"""Run folders and cards -> the rows that a screen shows: overview, queries, rankings, facts, recipe fields.

Plain values and tables, no layout and no caching: the dashboard owns those. A damaged or half-written run gives a row
with the reason in it, never an error: the other runs stay usable. Nothing here measures; a number is one that a run or
a card holds. Text from cards and data is cut to a length that a screen can hold, without control or direction
characters, and still has to be shown as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import WorkbenchError
from workbench.evaluation.compare import MetricRow, evaluation_name
from workbench.evaluation.examples import example_changes, has_examples, input_columns
from workbench.evaluation.examples import unit as unit
from workbench.views.loss_curves import LogColumns
from workbench.views.records import QueryOutcome
from workbench.views.smoothing import thin
from workbench.views.summary import field_text, metric_row
from workbench.views.theme import shorten

if TYPE_CHECKING:
    import pandas as pd

    from workbench.audit.rules import Audit
    from workbench.cards.card import Card, Loss
    from workbench.recipe.schema import Recipe
    from workbench.run import Run

T = TypeVar("T")

TEXT_LIMIT = 600  # characters of a question or document in a table
SPARK_POINTS = 40  # points of the small loss curve of an overview row
TOP = 10  # rank that "lost from top 10" means

Identity = tuple[tuple[str, int, int], ...]


def identity(*paths: Path) -> Identity:
    """(path, modified in ns, size in bytes) of those files that are there: two equal identities hold equal content.

    >>> identity(Path("/nowhere/at/all"))
    ()
    """
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def find_run(runs: Iterable[Run], name: str | None) -> Run | None:
    """The run with this name; a name that is not in the list, a path for one, finds nothing."""
    return next((run for run in runs if run.name == name), None)


# --- overview ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRow:
    """One run as the overview shows it. None where the run does not say, or has not come so far."""

    name: str
    card: str | None = None
    variant: str | None = None
    verdict: str | None = None
    metric: str | None = None  # its main metric, "cosine_ndcg@10"
    before: float | None = None
    after: float | None = None
    low: float | None = None  # 95 % interval of `after`
    high: float | None = None
    printed: float | None = None  # the card's number
    step: int | None = None
    steps: int | None = None
    created: str | None = None  # ISO time, UTC
    seconds: float | None = None
    losses: tuple[float, ...] = ()  # thinned training loss
    stand_ins: tuple[str, ...] = ()
    reason: str = ""  # why it failed, or what could not be read


def overview_files(run: Run) -> tuple[Path, ...]:
    """The files that `run_row` reads, for `identity`."""
    means = sorted(run.file("evaluations").glob("*/*.json"))
    return (*(run.file(name) for name in ("record", "recipe", "comparison", "log")), *means)


def run_row(run: Run, log: Callable[[], LogColumns] | None = None) -> RunRow:
    """What the overview says of `run`; `log` reads its log, where it may be read already. See the module's text."""
    reasons: list[str] = []

    def part(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except WorkbenchError as error:
            reasons.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # of another version, or edited by hand
            reasons.append(
                f"A file of this run is not in the form that was expected ({type(error).__name__}: {error})."
            )
        return None

    record = part(lambda: run.record)
    if record is None:
        return RunRow(run.name, reason=reasons[0])
    progress = record.get("progress") or {}
    mark = part(lambda: main_mark(run)) or MetricRow("")
    comparison = part(run.comparison) or {}
    read = part(log or (lambda: LogColumns.of(run.log())))
    return RunRow(
        name=run.name,
        card=_text(record.get("card")),
        variant=_text(record.get("variant")),
        verdict=_text(comparison.get("verdict")),
        metric=mark.metric or None,
        before=mark.before,
        after=mark.after,
        low=mark.low,
        high=mark.high,
        printed=mark.card,
        step=progress.get("step"),
        steps=progress.get("steps"),
        created=_text(record.get("created")),
        seconds=record.get("seconds"),
        losses=() if read is None else _spark(read),
        stand_ins=part(lambda: run.stand_ins) or (),
        reason=shorten(" ".join([str(record.get("error") or ""), *reasons]), TEXT_LIMIT),
    )


def status_reason(status: str, row: RunRow, *, command: bool = True) -> str:
    """One sentence on a status that needs one, with the command that goes on; empty for a run that ended well."""
    done = "" if row.step is None or row.steps is None else f" after {row.step:,} of {row.steps:,} steps"
    resume = f" `workbench train --resume {row.name}` goes on with it." if command else ""
    known = {
        "interrupted": f"Its process is gone{done}.{resume}",
        "stopped": f"It was stopped{done}.{resume}",
        "failed": row.reason or "No reason was recorded.",
        "broken": row.reason or "run.json says no status that is known.",
    }
    return known.get(status, row.reason)


def short_names(rows: Sequence[RunRow]) -> dict[str, str]:
    """Run name -> card, variant and, where that names two runs, the time: short enough for a legend."""
    plain = {row.name: f"{row.card or row.name}, {row.variant or 'unknown'}" for row in rows}
    taken = list(plain.values())
    return {
        row.name: plain[row.name]
        if taken.count(plain[row.name]) == 1
        else f"{plain[row.name]}, {(row.created or row.name)[5:16].replace('T', ' ')}"
        for row in rows
    }


def _text(value: object) -> str | None:
    return None if value is None else shorten(value, 120)


def _spark(log: LogColumns) -> tuple[float, ...]:
    losses = [math.nan if value is None else value for value in log.column("loss")]
    _, values = thin(log.steps, losses, SPARK_POINTS)
    return tuple(values)


# --- metrics ----------------------------------------------------------------------------------------------------


def main_metric(run: Run) -> str:
    """The metric that the recipe calls its main one."""
    found: str = run.recipe().evaluation.main_metric
    return found


def main_mark(run: Run) -> MetricRow | None:
    """The main metric's numbers; without that metric, the first there is; None where nothing was measured yet."""
    marks = metric_marks(run)
    if not marks:
        return None
    wanted = main_metric(run)
    return next((mark for mark in marks if mark.metric == wanted), marks[0])


def metric_marks(run: Run) -> list[MetricRow]:
    """Every metric of the comparison; without one, our own means before and after."""
    stored = run.comparison()
    if stored and stored.get("rows"):
        return [metric_row(row) for row in stored["rows"]]
    marks: list[MetricRow] = []
    evaluations = run.evaluations()
    compared = evaluation_name(run, run.recipe(), None)
    for name in sorted(evaluations, key=lambda name: (name != compared, _preference(name))):
        moments = evaluations[name]
        before = run.metrics(name, "before") if "before" in moments else {}
        after = run.metrics(name, "after") if "after" in moments else {}
        both = list(dict.fromkeys([*before, *after]))
        marks += [MetricRow(metric, before=before.get(metric), after=after.get(metric)) for metric in both]
    return marks


# --- queries ----------------------------------------------------------------------------------------------------

FILTERS = ("all", "got worse", "got better", "lost from top 10", "never found")
"""What `chosen` knows. `lost from top 10`: among the ten best before, not after. `never found`: in neither ranking."""


def whole_evaluations(run: Run) -> tuple[str, ...]:
    """Names of the evaluations that were made before and after training, the one to look at first in front."""
    found = [name for name, moments in run.evaluations().items() if {"before", "after"} <= set(moments)]
    return tuple(sorted(found, key=_preference))


def _preference(evaluation: str) -> tuple[bool, bool, str]:
    """Sort key, as `compare` chooses: a named collection, then the test rows, then the validation rows; each before
    what was measured of it at fewer dimensions.

    >>> sorted(["validation", "test_256", "test", "finetune"], key=_preference)
    ['finetune', 'test', 'test_256', 'validation']
    """
    whole = re.sub(r"_\d+$", "", evaluation)
    return (whole == "validation", whole == "test", evaluation)


def query_files(run: Run, evaluation: str) -> tuple[Path, ...]:
    """The files that `query_table` and `ranking` read, for `identity`."""
    return (
        *(run.file(name, evaluation) for name in ("queries", "documents", "items")),
        *(run.file(name, evaluation, stage) for name in ("values", "hits") for stage in ("before", "after")),
        run.file("metrics", evaluation, "after"),
    )


def query_metrics(run: Run, evaluation: str) -> tuple[str, ...]:
    """Metrics stored for every query, nDCG@10 first where it is there; of items, those computed from their values."""
    if has_examples(run, evaluation):
        settings = run.settings(evaluation, "after")
        names = list(settings["statistics"])
        return tuple(sorted(names, key=lambda name: (name != settings.get("main_metric"), names.index(name))))
    reserved = {"query_id", "query", "relevant", "rank", "ranks"}
    names = [str(name) for name in run.per_query(evaluation, "before").columns if name not in reserved]
    return tuple(sorted(names, key=lambda name: (name != "ndcg@10", names.index(name))))


def query_table(run: Run, evaluation: str, metric: str = "ndcg@10") -> pd.DataFrame:
    """One row per query or item, the greatest loss first.

    Columns: query_id, query, rank_before, rank_after (Int64; null beyond the depth kept), before, after, difference.
    An item's query is its texts, its ranks are null, before and after say how right it is (`example_changes`), and
    it has gold, score_before and score_after besides.
    """
    import pandas as pd

    if has_examples(run, evaluation):
        return _item_table(run, evaluation, metric)
    before, after = run.per_query(evaluation, "before"), run.per_query(evaluation, "after")
    both = before.merge(after[["query_id", "rank", metric]], on="query_id", suffixes=("_before", "_after"))
    table = pd.DataFrame(
        {
            "query_id": both["query_id"].astype(str),
            "query": [shorten(text, TEXT_LIMIT) for text in both["query"]],
            "rank_before": both["rank_before"].astype("Int64"),
            "rank_after": both["rank_after"].astype("Int64"),
            "before": both[f"{metric}_before"].astype(float),
            "after": both[f"{metric}_after"].astype(float),
        }
    )
    table["difference"] = table["after"] - table["before"]
    return table.sort_values(["difference", "query_id"], kind="stable").reset_index(drop=True)


def _item_table(run: Run, evaluation: str, metric: str) -> pd.DataFrame:
    import pandas as pd

    _, found = example_changes(run, evaluation, metric)
    texts = zip(*(found[name] for name in input_columns(found)), strict=True)
    none = pd.array([None] * len(found), dtype="Int64")
    table = pd.DataFrame(
        {
            "query_id": found["item_id"].astype(str),
            "query": [shorten(" | ".join(row), TEXT_LIMIT) for row in texts],
            "rank_before": none,
            "rank_after": none,
            **{name: found[name] for name in ("before", "after", "difference", "gold", "score_before", "score_after")},
        }
    )
    return table.sort_values(["difference", "query_id"], kind="stable").reset_index(drop=True)


def chosen(table: pd.DataFrame, name: str = "all", search: str = "") -> pd.DataFrame:
    """Rows of `query_table` that pass one of `FILTERS` and hold the words of `search`, in the same order."""
    before, after = table["rank_before"], table["rank_after"]
    masks = {
        "got worse": table["difference"] < 0,
        "got better": table["difference"] > 0,
        "lost from top 10": (before <= TOP).fillna(False) & ~(after <= TOP).fillna(False),
        "never found": before.isna() & after.isna() & ("gold" not in table),  # items have no ranks
    }
    kept = table[masks[name].astype(bool)] if name in masks else table
    for word in search.split():
        kept = kept[kept["query"].str.contains(word, case=False, regex=False)]
    return kept.reset_index(drop=True)


def changes_of(table: pd.DataFrame) -> list[QueryOutcome]:
    """Rows of `query_table`, for the figures."""
    import pandas as pd

    def rank(value: Any) -> int | None:
        return None if pd.isna(value) else int(value)

    columns = ("query", "rank_before", "rank_after", "before", "after")
    return [
        QueryOutcome(query, rank(first), rank(last), before, after)
        for query, first, last, before, after in table[list(columns)].itertuples(index=False)
    ]


# --- cards and recipes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """One thing that a card says, as text, and where."""

    name: str
    value: str
    lines: str = ""  # "29" or "24-28"; empty where the fact has no line


def card_facts(card: Card) -> list[Fact]:
    """What the card says about its model and its training; what it does not say is left out."""
    facts = [Fact("Kind of model", card.kind)]
    for name, stated in (
        ("Base model", card.base_model),
        ("Similarity", card.similarity),
        ("Longest input (tokens)", card.max_seq_length),
        ("Output dimension", card.output_dimension),
    ):
        if stated is not None:
            facts.append(Fact(name, _cut(stated.value), "" if stated.line is None else str(stated.line)))
    if card.modules:
        chain = " → ".join(module.type for module in card.modules)
        facts.append(Fact("Modules", _cut(chain), _span([module.line for module in card.modules])))
    for dataset in card.datasets:
        role = "Training rows" if dataset.role == "train" else "Evaluation rows"
        size = "size not said" if dataset.size is None else f"{dataset.size:,}"
        columns = ", ".join(dataset.columns)
        value = f"{dataset.name or 'unnamed dataset'}: {size}" + (f" ({columns})" if columns else "")
        facts.append(Fact(role, _cut(value), _stretch(dataset.lines)))
        if dataset.loss is not None and dataset.role == "train":
            facts.append(Fact("Loss", _cut(_loss(dataset.loss)), _span([dataset.loss.line])))
    facts += [
        Fact(f"Set: {name}", _cut(stated.value), _span([stated.line])) for name, stated in card.non_default.items()
    ]
    facts += [
        Fact(f"Version: {name}", _cut(stated.value), _span([stated.line])) for name, stated in card.versions.items()
    ]
    return facts


def card_metrics(card: Card) -> list[tuple[str, str, float, str]]:
    """(measured on, metric, value, line) of every metric that the card prints."""
    return [
        (_cut(", ".join(part.datasets) or part.name), _cut(metric), value, _span([part.metric_lines.get(metric)]))
        for part in card.evaluations
        for metric, value in part.metrics.items()
    ]


def needed_facts(audit: Audit) -> list[tuple[str, str, str, str, str]]:
    """(what, status, value, lines, note) of every fact that running the card's recipe again needs."""
    return [
        (fact.name, fact.status, "" if fact.value is None else _cut(fact.value), _span(fact.lines), _cut(fact.note))
        for fact in audit.reproducibility.facts
    ]


SOURCE_LINES = 3000  # of a card, at most, on a screen


def excerpt(card: Card, notes: Mapping[int, str], around: int | None = None) -> list[tuple[int, str, str]]:
    """(line, its text, note) of the card's lines in `notes` and of `around` lines beside each; None: of every line.

    A line without a note has an empty one; a marked one without words has " ".
    """
    last = min(len(card.lines), SOURCE_LINES)
    if around is None:
        kept: Iterable[int] = range(1, last + 1)
    else:
        kept = sorted({near for line in notes for near in range(line - around, line + around + 1)})
    return [
        (line, source_line(card.lines[line - 1]), notes.get(line, "")) for line in kept if 0 < line <= len(card.lines)
    ]


def card_lines(card: Card, lines: Iterable[int]) -> str:
    """The card's text at `lines`, each with its number; a gap is marked with an ellipsis."""
    shown: list[str] = []
    last = None
    for line, text, _ in excerpt(card, dict.fromkeys(lines, ""), around=0):
        if last is not None and line > last + 1:
            shown.append("   …")
        shown.append(f"{line:>4}  {text}")
        last = line
    return "\n".join(shown)


def source_line(text: str) -> str:
    """A line of a file for a screen: its indent stays, the rest is cut."""
    indent = len(text) - len(text.lstrip(" "))
    return " " * min(indent, 40) + shorten(text, 400)


def noted_lines(audit: Audit) -> dict[int, str]:
    """Line of a card -> codes of the findings that rest on it."""
    found: dict[int, list[str]] = {}
    for finding in audit:
        for line in finding.lines:
            found.setdefault(line, []).append(finding.code)
    return {line: ", ".join(codes) for line, codes in found.items()}


def _loss(loss: Loss) -> str:
    return " around ".join(
        node.name
        + ("(" + ", ".join(f"{key}={value}" for key, value in node.parameters.items()) + ")" if node.parameters else "")
        for node in loss.chain()
    )


def _stretch(lines: tuple[int, int] | None) -> str:
    return "" if lines is None else f"{lines[0]}-{lines[1]}"


def _cut(value: object) -> str:
    """A value as text: lists and mappings as a person lists them."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(_cut(inner) for inner in value)
    return shorten(value, 300)


def _span(lines: Sequence[int | None]) -> str:
    """Lines as a person writes them, at most six stretches of them.

    >>> _span((29, 24, 25, None))
    '24-25, 29'
    """
    spans: list[list[int]] = []
    for line in sorted({line for line in lines if line is not None}):
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join([*words[:6], *(["…"] if len(words) > 6 else [])])


@dataclass(frozen=True)
class Field:
    """One leaf of a recipe, as written and corrected."""

    path: str  # "training.learning_rate"
    written: str
    corrected: str
    source: str  # one of Origin.source, or "unknown" where no origin is recorded
    lines: str
    note: str

    @property
    def changed(self) -> bool:
        return self.written != self.corrected


def recipe_fields(written: Recipe, corrected: Recipe) -> list[Field]:
    """Every leaf of both recipes; provenance is that of `written`, with the correction's reason where they differ."""
    from workbench.recipe.schema import leaves

    left, right = (
        {path: shorten(field_text(value), 300) for path, value in leaves(recipe).items()}
        for recipe in (written, corrected)
    )
    fields = []
    for path in dict.fromkeys([*left, *right]):
        origin = written.provenance.get(path)
        reason = corrected.provenance.get(path)
        note = origin.note if origin else ""
        if left.get(path) != right.get(path) and reason is not None and reason.note != note:
            note = " · ".join(part for part in (note, f"corrected: {reason.note}") if part)
        fields.append(
            Field(
                path,
                left.get(path, "–"),
                right.get(path, "–"),
                origin.source if origin else "unknown",
                _span(origin.lines) if origin else "",
                _cut(note),
            )
        )
    return fields
