"""One recipe trained several times, and what its numbers are worth once the luck of the seed is counted.

`repeat` trains; `compare_seeds` reads any runs that differ in their seed alone. Runs are one level, queries
the other: every training is measured on the same queries, so both are drawn again (see
`intervals.spread_over_seeds`). A card's number comes from one training, and is held against the interval of one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.cards.card import Card
from workbench.errors import RecipeError, RunError
from workbench.evaluation.comparability import comparability_problems, query_count_problems
from workbench.evaluation.compare import Verdict, card_evaluation, card_verdict, evaluation_name, pairing_problems
from workbench.evaluation.examples import MetricValues, metric_values, unit
from workbench.recipe.from_card import recipe
from workbench.recipe.schema import Origin, Recipe, difference
from workbench.run import Run, RunWriter
from workbench.training.processes import is_first, wait
from workbench.training.train import train

if TYPE_CHECKING:
    from workbench.cards.card import Evaluation

SEED_PATH = "training.seed"


@dataclass(frozen=True)
class SeedRow:
    """One metric over all seeds."""

    metric: str
    values: tuple[float, ...]  # after training, in the order of the runs
    mean: float
    deviation: float  # standard deviation between seeds
    lowest: float
    highest: float
    low: float | None = None  # 95 % interval of the mean, over queries and seeds
    high: float | None = None
    one_low: float | None = None  # 95 % interval of one training
    one_high: float | None = None
    before: float | None = None  # mean over seeds
    difference: float | None = None  # after - before, mean over seeds
    difference_low: float | None = None  # 95 % interval, over queries and seeds
    difference_high: float | None = None
    card: float | None = None
    card_line: int | None = None
    verdict: Verdict = "not comparable"
    reason: str = ""  # why there is no verdict; empty where there is one


@dataclass(frozen=True, repr=False)
class SeedComparison:
    """A recipe's numbers over several seeds, and the card's beside them."""

    names: tuple[str, ...]  # of the runs
    seeds: tuple[int, ...]  # of the runs, in their order
    verdict: Verdict  # of the main metric
    reasons: tuple[str, ...]  # why it is not comparable with the card, a sentence each
    rows: tuple[SeedRow, ...]
    main_metric: str
    evaluation: str
    queries: int | None  # how many were measured one by one, by each run
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> SeedRow | None:
        """The row of the main metric."""
        return next((row for row in self.rows if row.metric == self.main_metric), None)

    @property
    def sentence(self) -> str:
        """The main metric in words."""
        row = self.main
        if row is None:
            return f"None of the {len(self.seeds)} runs measured {self.main_metric}."
        said = (
            f"Over {len(self.seeds)} seeds {row.metric} is {row.mean:.4f} on average, standard deviation "
            f"{row.deviation:.4f}, from {row.lowest:.4f} to {row.highest:.4f}"
        )
        if row.low is not None and row.one_low is not None:
            said += (
                f"; 95 % interval over {self.unit} and seeds {row.low:.4f} to {row.high:.4f}, of one training "
                f"{row.one_low:.4f} to {row.one_high:.4f}"
            )
        if row.card is not None and row.verdict in ("reproduced", "differs"):
            where = "inside" if row.verdict == "reproduced" else "outside"
            said += f"; the card's {row.card:.4f} lies {where} the latter"
        return f"{said}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        plain = asdict(self)
        plain["rows"] = [{key: _plain(value) for key, value in row.items()} for row in plain["rows"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def __repr__(self) -> str:
        table = [_HEADINGS, *(_cells(row, self.main_metric) for row in self.rows)]
        widths = [max(len(cells[column]) for cells in table) for column in range(len(_HEADINGS))]
        lines = [f"{len(self.seeds)} seeds ({', '.join(map(str, self.seeds))}): {self.verdict}"]
        lines += ["  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() for cells in table]
        return "\n".join([*lines, self.sentence, *(f"- {reason}" for reason in self.reasons), *self.notes])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


_HEADINGS = ("metric", "card", "before", "mean", "deviation", "range", "95 % interval", "one training", "verdict")


def _cells(row: SeedRow, main: str) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    def between(low: float | None, high: float | None) -> str:
        return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"

    name = f"{row.metric} *" if row.metric == main else row.metric
    numbers = (number(row.card), number(row.before), number(row.mean), number(row.deviation))
    ranges = (between(row.lowest, row.highest), between(row.low, row.high), between(row.one_low, row.one_high))
    return (name, *numbers, *ranges, row.verdict)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- training --------------------------------------------------------------------------------------------------------


def repeat(
    source: Card | Recipe,
    seeds: int = 5,
    *,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
    fit: Callable[..., Run] = train,
    **options: Any,
) -> list[Run]:
    """Train the recipe of a card (or a recipe) `seeds` times, with training.seed, training.seed + 1, ...

    Rows, their division and everything else stay the same; the seed is in each run's recipe, and `repeat` in its
    record says which repetition it is. The first is the run that `train` alone would give. `options` are those of
    `train`; `fit` trains. A run that was stopped ends the repetition, and is the last that comes back.

    Raises RecipeError for fewer than 2 seeds, or an option that goes on with one run; else as `train` does.
    """
    if seeds < 2:
        raise RecipeError(f"expected at least 2 seeds, found {seeds!r}; one training has no spread.")
    if options.get("resume") is not None:
        raise RecipeError("expected a new training for each seed, found a run to resume; resume it with `train`.")
    if isinstance(source, Card):
        options = {"card": source, **options}
        source = recipe(source, corrected=corrected, overrides=overrides)
    runs: list[Run] = []
    for number in range(seeds):
        run = fit(_with_seed(source, number, seeds), **options)
        told = {"number": number + 1, "of": seeds, "seed": source.training.seed + number}
        wait()  # until the first process has written how the run ended
        RunWriter(run.path, writes=is_first()).update(repeat=told)
        runs.append(run)
        if run.status != "finished":
            break
    return runs


def _with_seed(made: Recipe, number: int, seeds: int) -> Recipe:
    if number == 0:
        return made
    training = made.training.model_copy(update={"seed": made.training.seed + number})
    origin = Origin(source="user", note=f"repetition {number + 1} of {seeds}")
    return made.model_copy(update={"training": training, "provenance": {**made.provenance, SEED_PATH: origin}})


# --- comparing -------------------------------------------------------------------------------------------------------


def compare_seeds(runs: Sequence[Run], *, card: Card | None = None, evaluation: str | None = None) -> SeedComparison:
    """The numbers of runs that differ in their seed alone, with the spread between seeds.

    `card` takes the place of the one in the first run's folder; `evaluation` is chosen as `compare` does.

    Raises RunError where there are fewer than two runs, two of one seed, or runs that differ in anything else: recipe,
    base, rows, or what they were measured on.
    """
    if len(runs) < 2:
        raise RunError(f"expected at least 2 runs that differ in their seed, found {len(runs)}; train with --seeds 5.")
    recipes: list[Recipe] = [run.recipe() for run in runs]
    seeds = tuple(each.training.seed for each in recipes)
    name = evaluation_name(runs[0], recipes[0], evaluation)
    if name is None:
        raise RunError(f"expected an evaluation after training in run {runs[0].name!r}, found none.")
    _are_repeats(runs, recipes, name)
    card = card or runs[0].card()
    theirs, reasons, notes = card_evaluation(card, recipes[0], runs[0], name)
    stands = [
        comparability_problems(run, made, card, ignore=(SEED_PATH,)) for run, made in zip(runs, recipes, strict=True)
    ]
    measured = [metric_values(run, name) for run in runs]
    items, queries = unit(runs[0], name), _counted(measured[0])
    reasons = list(dict.fromkeys([*(reason for each in stands for reason in each), *reasons]))
    if theirs is not None and queries is not None:
        reasons += query_count_problems(theirs, queries, items)
    orders = [_order(runs[0], run, name) for run in runs]
    rows = tuple(
        _judged(_row(metric, [each[metric] for each in measured], orders), theirs, reasons)
        for metric in measured[0]
        if all(metric in each for each in measured)
    )
    main = recipes[0].evaluation.main_metric
    verdict: Verdict = next((row.verdict for row in rows if row.metric == main), "not comparable")
    names = tuple(run.name for run in runs)
    return SeedComparison(names, seeds, verdict, tuple(reasons), rows, main, name, queries, items, tuple(notes))


def _are_repeats(runs: Sequence[Run], recipes: Sequence[Recipe], name: str) -> None:
    """RunError where the runs are not the same but for their seed."""
    first, seen = runs[0], {recipes[0].training.seed: runs[0].name}
    for run, made in zip(runs[1:], recipes[1:], strict=True):
        other = next(((path, a, b) for path, a, b in difference(recipes[0], made) if path != SEED_PATH), None)
        if other is not None:
            path, left, right = other
            raise RunError(
                f"expected runs that differ in their seed alone, found {path} {left!r} in {first.name!r} and "
                f"{right!r} in {run.name!r}; compare them as two runs."
            )
        for part in ("base", "data"):
            hashes = [(each.record.get(part) or {}).get("sha256") for each in (first, run)]
            if hashes[0] != hashes[1] and not _made_anew(first, part):
                raise RunError(
                    f"expected runs of one {part}, found another in {run.name!r} than in {first.name!r}; compare them "
                    "as two runs."
                )
        if made.training.seed in seen:
            raise RunError(
                f"expected another seed in each run, found {made.training.seed} in {seen[made.training.seed]!r} and "
                f"{run.name!r}; the same seed shows no spread."
            )
        seen[made.training.seed] = run.name
        why = pairing_problems(first, run, name)
        if why:
            raise RunError(f"expected runs that were measured on the same {unit(first, name)}: {why[0]}")


def _made_anew(run: Run, part: str) -> bool:
    """Whether the base is one that is drawn from the seed."""
    return part == "base" and str((run.record.get("base") or {}).get("model")).startswith(
        ("scratch:", "bundled:static")
    )


def _counted(measured: Mapping[str, MetricValues]) -> int | None:
    return next((len(each.values) for each in measured.values() if each.values is not None), None)


def _order(first: Run, run: Run, name: str) -> Any:
    """Places of the first run's queries among the run's; None for items, which are in equal order."""
    from workbench.evaluation.examples import has_examples

    if has_examples(first, name):
        return None
    place = {query: row for row, query in enumerate(run.per_query(name, "after")["query_id"])}
    return [place[query] for query in first.per_query(name, "after")["query_id"]]


def _row(metric: str, each: Sequence[MetricValues], orders: Sequence[Any]) -> SeedRow:
    import numpy as np

    from workbench.evaluation.statistics import spread_over_seeds

    after = np.array([one.after for one in each])
    before = [one.before for one in each if one.before is not None]
    row = SeedRow(
        metric,
        tuple(after.tolist()),
        float(after.mean()),
        float(after.std(ddof=1)),
        float(after.min()),
        float(after.max()),
        before=sum(before) / len(before) if len(before) == len(each) else None,
    )
    values = [_ordered(one.values, order) for one, order in zip(each, orders, strict=True)]
    earlier = [_ordered(one.earlier, order) for one, order in zip(each, orders, strict=True)]
    if any(one is None or not np.isfinite(one).all() for one in values):
        return row
    first = each[0]
    gold = np.zeros(len(values[0])) if first.gold is None else first.gold
    found = spread_over_seeds(first.statistic, gold, np.stack(values))
    if math.isnan(found.low):
        return row  # not defined on these items
    row = replace(row, low=found.low, high=found.high, one_low=found.one_low, one_high=found.one_high)
    if any(one is None or not np.isfinite(one).all() for one in earlier):
        return row
    moved = spread_over_seeds(first.statistic, gold, np.stack(values), np.stack(earlier))
    return replace(row, difference=moved.mean, difference_low=moved.low, difference_high=moved.high)


def _ordered(values: Any, order: Any) -> Any:
    return values if values is None or order is None else values[order]


def _judged(row: SeedRow, theirs: Evaluation | None, reasons: Sequence[str]) -> SeedRow:
    """The row with the card's number, and whether that lies where one training of ours may lie."""
    if theirs is not None and row.metric in theirs.metrics:
        row = replace(row, card=theirs.metrics[row.metric], card_line=theirs.metric_lines.get(row.metric))
    return replace(row, **card_verdict(row.card, (row.one_low, row.one_high), reasons, "queries and seeds"))
