"""Many runs -> the rows of an overview. A damaged or half-written run gives a row with the reason, never an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.cards.metric_names import metric_name
from workbench.evaluation.card_evaluation import evaluation_name
from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.evaluation.verdict import RULE
from workbench.recipe.schema import Recipe
from workbench.run import Run
from workbench.run_notes import Notes, notes_path, read_notes
from workbench.views.figures import after_value
from workbench.views.records import duration, number, signed
from workbench.views.summary import Parts, card_verdict, main_row, metric_rows
from workbench.views.theme import shorten

UNMEASURED = MetricRow("")
NOT_YET = "not compared yet"
OLD_RULE = "It was compared by the rule of an older version; the Compare page compares it by the present one."
COLUMNS = {
    "verdict": ("Reproduces the card?", "The verdict on the card; point at it for the reason"),
    "metric": ("Before → after", "The recipe's main metric, a mean over queries; of several seeds the mean"),
    "change": ("Change, 95% CI", "After minus before, with the confidence interval of that change"),
    "card_difference": ("Card − ours", "The card's number minus ours, where they were compared"),
    "base": ("Base", "The model that training started from"),
    "data": ("Data", "Where the training rows came from"),
    "learning_rate": ("Learning rate", "Of the recipe"),
    "batch": ("Batch", "Training rows per optimizer step"),
    "epochs": ("Epochs", "Passes over the training rows"),
    "minutes": ("Minutes", "Training time"),
    "seeds": ("Seeds", "Trainings that the verdict rests on"),
    "tags": ("Tags", "Those that you gave it"),
}
"""Column of the overview beside the run's name -> its title and what it holds."""


@dataclass(frozen=True)
class RunRow:
    """One run of the overview. None: the run does not record it, or has not come so far."""

    name: str
    card: str | None = None
    variant: str | None = None
    status: str = "broken"  # one of `run.STATUSES`, at the time of reading
    verdict: str | None = None
    tone: str = "open"  # of the verdict, see `records.Verdict`
    why: tuple[str, ...] = ()  # what the verdict rests on, a sentence each
    main: MetricRow = UNMEASURED
    step: int | None = None
    steps: int | None = None
    created: str | None = None  # ISO time, UTC
    base: str | None = None
    data: str | None = None
    learning_rate: float | None = None
    batch: int | None = None  # rows per optimizer step
    epochs: float | None = None
    seconds: float | None = None
    stand_ins: tuple[str, ...] = ()
    reason: str = ""  # why it failed, or what could not be read
    notes: Notes = field(default_factory=Notes)

    @property
    def started(self) -> str:
        """Date and time to the minute: "2026-11-20 10:00"; empty where unknown."""
        return (self.created or "")[:16].replace("T", " ")

    @property
    def label(self) -> str:
        """Its name for a reader: alias, card, variant and start; the folder's where nothing is known."""
        return " · ".join(filter(None, [self.notes.alias, self.card, self.variant, self.started])) or self.name

    @property
    def searched(self) -> str:
        """What a search looks in, in lower case."""
        words = (self.name, self.card, self.variant, self.word, self.notes.alias, *self.notes.tags, self.notes.note)
        return " ".join(filter(None, words)).lower()

    @property
    def word(self) -> str:
        """The verdict; `NOT_YET` for a run that could be compared; empty for one that could not, or is running."""
        if self.status in ("running", "broken"):
            return ""
        return self.verdict or (NOT_YET if self.main.after is not None else "")


def overview_files(run: Run) -> tuple[Path, ...]:
    """The files that `run_row` reads."""
    means = sorted(run.file("evaluations").glob("*/*.json"))
    return (*(run.file(name) for name in ("record", "recipe", "comparison", "log")), notes_path(run), *means)


def run_row(run: Run) -> RunRow:
    """The row of a run. Nothing is computed for it: a comparison by an older rule is not judged anew here."""
    parts = Parts()
    notes = parts.read("notes", lambda: read_notes(run)) or Notes()
    record = parts.read("record", lambda: run.record)
    if record is None:
        return RunRow(run.name, reason=parts.gaps["record"], notes=notes)
    progress = record.get("progress") or {}
    recipe = parts.read("recipe", lambda: run.recipe(provenance=False))
    stored = parts.read("comparison", run.comparison)
    old = stored is not None and stored.get("rule") != RULE
    found = None if stored is None or old else parts.read("comparison", lambda: Comparison.from_dict(stored))
    verdict = None if found is None else parts.read("verdict", lambda: card_verdict(found))
    main = None if recipe is None else parts.read("metrics", lambda: _main_row(run, recipe, found))
    return RunRow(
        name=run.name,
        card=_text(record.get("card")),
        variant=_text(record.get("variant")),
        status=run.status,
        verdict=None if verdict is None else _text(verdict.word),
        tone="open" if verdict is None else verdict.tone,
        why=(OLD_RULE,) if old else () if verdict is None else (verdict.meaning, verdict.sentence, *verdict.reasons),
        main=main or UNMEASURED,
        step=progress.get("step"),
        steps=progress.get("steps"),
        created=_text(record.get("created")),
        seconds=record.get("seconds"),
        stand_ins=parts.read("stand-ins", lambda: run.stand_ins) or (),
        reason=shorten(" ".join([str(record.get("error") or ""), *parts.gaps.values(), *run.damages()]).strip(), 600),
        notes=notes,
        **(parts.read("settings", lambda: _settings(record, recipe)) or {}),
    )


def _main_row(run: Run, recipe: Recipe, comparison: Comparison | None) -> MetricRow | None:
    rows = metric_rows(run, comparison, evaluation_name(run, recipe, None))
    return main_row(rows, recipe.evaluation.main_metric)


def _settings(record: Mapping[str, Any], recipe: Recipe | None) -> dict[str, Any]:
    """What was trained, which may differ from the recipe."""
    base, data, trained = (record.get(name) or {} for name in ("base", "data", "trained"))
    found = {"base": _text(base.get("model")), "data": _text(data.get("source"))}
    if recipe is None:
        return found
    names = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs")
    rate, rows, accumulated, epochs = (
        trained.get(f"training.{each}", getattr(recipe.training, each)) for each in names
    )
    epochs = (record.get("progress") or {}).get("epoch", epochs)
    batch = rows * accumulated * int(record.get("processes") or 1)
    return {**found, "learning_rate": rate, "batch": batch, "epochs": epochs}


def _text(value: object) -> str | None:
    return None if value is None else shorten(value, 120)


def table_row(row: RunRow) -> dict[str, Any]:
    """The row as the overview's table draws it: texts, and under `sort` what a column is sorted by."""
    main, card, after = row.main, row.card or row.name, after_value(row.main)
    ends = [main.difference_low, main.difference, main.difference_high]
    interval = None not in ends
    rate, epochs = row.learning_rate, row.epochs
    texts = {
        "verdict": row.word,
        "metric": "" if after is None else f"{number(main.before)} → {number(after)}",
        "change": "" if main.difference is None else signed(main.difference),
        "card_difference": "" if main.card_difference is None else signed(main.card_difference),
        "base": row.base or "",
        "data": row.data or "",
        "learning_rate": "" if rate is None else f"{rate:.3g}",
        "batch": "" if row.batch is None else f"{row.batch:,}",
        "epochs": "" if epochs is None else f"{epochs:.3g}",
        "minutes": "" if row.seconds is None else f"{row.seconds / 60:.3g}",
        "seeds": "" if after is None else f"{len(main.values) or 1}",
        "tags": ", ".join(row.notes.tags),
    }
    values: dict[str, object] = {**texts, "run": row.created or "", "metric": after, "change": main.difference}
    values |= {"card_difference": main.card_difference, "learning_rate": rate, "batch": row.batch, "epochs": epochs}
    values |= {"minutes": row.seconds, "seeds": len(main.values)}
    return {
        "name": row.name,
        "title": row.notes.alias or card,
        "about": " · ".join(filter(None, [card if row.notes.alias else "", row.variant or "", row.started])),
        "card": card,
        "status": row.status,
        "texts": texts,
        "sort": values,
        "metric": metric_name(main.metric),
        "tone": row.tone,
        "why": ("\n".join(filter(None, row.why)) or "The Compare page compares it now.") if row.word else "",
        "interval": [round(end, 6) for end in ends if end is not None] if interval else None,
        "ends": f"{signed(ends[0])} to {signed(ends[2])}" if interval else "",
        "notes": {"alias": row.notes.alias, "tags": ", ".join(row.notes.tags), "note": row.notes.note},
        "archived": row.notes.archived,
        "details": _details(row),
    }


def _details(row: RunRow) -> list[tuple[str, str]]:
    """Names and values of what the table has no room for."""
    facts = {
        "Folder": row.name,
        "Status": " ".join(filter(None, [row.status, status_reason(row.status, row)])),
        "Stand-ins": " ".join(row.stand_ins),
        "Base": row.base or "",
        "Data": row.data or "",
        "Training time": "" if row.seconds is None else duration(row.seconds),
        "Note": row.notes.note,
    }
    return [(name, value) for name, value in facts.items() if value]


def attention(rows: Iterable[RunRow]) -> list[tuple[RunRow, str]]:
    """The runs that failed, were interrupted, or have a file that cannot be read, each with why."""
    return [
        (row, why)
        for row in rows
        if (row.status in ("failed", "interrupted", "broken") or row.reason)
        and (why := status_reason(row.status, row, command=False))
    ]


def tally(rows: Sequence[RunRow]) -> dict[str, int]:
    """What to count of these rows -> how many; each run is at most once in what is not "runs" or "need attention"."""
    words = Counter(row.word for row in rows if row.word)
    states = Counter(row.status for row in rows)
    found = {"runs": len(rows), **{word: words[word] for word in sorted(words, key=lambda word: word == NOT_YET)}}
    return {**found, "running": states["running"], "need attention": len(attention(rows))}


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
    """Run name -> alias, or card and variant, and the time if two runs have these in common: for a legend."""
    names = {row.name: row.notes.alias or f"{row.card or row.name}, {row.variant or 'unknown'}" for row in rows}
    times = {row.name: f", {(row.created or row.name)[5:16].replace('T', ' ')}" for row in rows}
    taken = Counter(names.values())
    return {name: short + (times[name] if taken[short] > 1 else "") for name, short in names.items()}
