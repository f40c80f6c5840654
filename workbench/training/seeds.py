"""One recipe trained several times, and what its numbers are worth once the effect of the seed is counted.

`repeat` trains; `compare_seeds` compares any runs that differ in their seed only. Seeds and queries are two levels of
one bootstrap (see `statistics.spread_over_seeds`). A card's number comes from one training, so it is compared with the
interval of a single training.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.cards.card import Card
from workbench.errors import RecipeError, RunError
from workbench.evaluation.comparability import comparability_problems, query_count_problems
from workbench.evaluation.compare import Verdict, card_evaluation, card_verdict, evaluation_name, pairing_problems
from workbench.evaluation.examples import MetricValues, has_examples, metric_values, unit
from workbench.evaluation.statistics import spread_over_seeds
from workbench.recipe.from_card import recipe
from workbench.recipe.overrides import with_changes
from workbench.recipe.schema import Origin, Recipe, difference
from workbench.run import Run, RunWriter
from workbench.training.processes import is_first, wait
from workbench.training.train import train

if TYPE_CHECKING:
    from workbench.cards.card import Evaluation

SEED_PATH = "training.seed"


@dataclass(frozen=True)
class SeedRow:
    """One metric over all seeds. Intervals are 95%, over queries and seeds."""

    metric: str
    values: tuple[float, ...]  # after training, in the order of the runs
    mean: float
    deviation: float  # standard deviation between seeds
    lowest: float
    highest: float
    low: float | None = None  # of the mean
    high: float | None = None
    one_low: float | None = None  # of a single training
    one_high: float | None = None
    before: float | None = None  # mean over seeds
    difference: float | None = None  # after - before, mean over seeds
    difference_low: float | None = None
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
    queries: int | None  # how many each run measured one by one
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
        text = (
            f"Over {len(self.seeds)} seeds {row.metric} is {row.mean:.4f} on average, standard deviation "
            f"{row.deviation:.4f}, from {_interval(row.lowest, row.highest)}"
        )
        if row.low is not None:
            text += (
                f"; 95% CI over {self.unit} and seeds {_interval(row.low, row.high)}, of a single training "
                f"{_interval(row.one_low, row.one_high)}"
            )
        if row.card is not None and row.verdict in ("reproduced", "differs"):
            text += f"; the card's {row.card:.4f} is {'in' if row.verdict == 'reproduced' else 'out'}side the latter"
        return f"{text}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        plain = asdict(self)
        plain["rows"] = [{key: _plain(value) for key, value in row.items()} for row in plain["rows"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def __repr__(self) -> str:
        cells = [
            {
                "metric": f"{row.metric} *" if row.metric == self.main_metric else row.metric,
                "card": _number(row.card),
                "before": _number(row.before),
                "mean": _number(row.mean),
                "deviation": _number(row.deviation),
                "range": _interval(row.lowest, row.highest),
                "95% CI": _interval(row.low, row.high),
                "single training": _interval(row.one_low, row.one_high),
                "verdict": row.verdict,
            }
            for row in self.rows
        ]
        lines = [f"{len(self.seeds)} seeds ({', '.join(map(str, self.seeds))}): {self.verdict}"]
        lines += [pd.DataFrame(cells).to_string(index=False)] if cells else []
        return "\n".join([*lines, self.sentence, *(f"- {reason}" for reason in self.reasons), *self.notes])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- train -----------------------------------------------------------------------------------------------------------


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
    `train`; `fit` trains. A run that was stopped ends the repetition, and is the last in the list.

    Raises RecipeError for fewer than 2 seeds, or a run to resume among the options; else as `train` does.
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
        seed, made = source.training.seed + number, source
        if number > 0:
            origin = Origin(source="user", note=f"repetition {number + 1} of {seeds}")
            made = with_changes(source, {SEED_PATH: (seed, origin)})
        run = fit(made, **options)
        wait()  # until the first process has written how the run ended
        RunWriter(run.path, writes=is_first()).update(repeat={"number": number + 1, "of": seeds, "seed": seed})
        runs.append(run)
        if run.status != "finished":
            break
    return runs


# --- compare ---------------------------------------------------------------------------------------------------------


def compare_seeds(runs: Sequence[Run], *, card: Card | None = None, evaluation: str | None = None) -> SeedComparison:
    """The numbers of runs that differ in their seed only, with the spread between seeds.

    `card` replaces the one in the first run's folder; `evaluation` is chosen as `compare` does.

    Raises RunError where there are fewer than two runs, two of one seed, or runs that differ in anything else: recipe,
    base, rows, or what they were measured on.
    """
    if len(runs) < 2:
        raise RunError(f"expected at least 2 runs that differ in their seed, found {len(runs)}; train with --seeds 5.")
    first, recipes = runs[0], [run.recipe() for run in runs]
    name = evaluation_name(first, recipes[0], evaluation)
    if name is None:
        raise RunError(f"expected an evaluation after training in run {first.name!r}, found none.")
    _require_repeats(runs, recipes, name)
    card = card or first.card()
    theirs, reasons, notes = card_evaluation(card, recipes[0], first, name)
    measured = [metric_values(run, name) for run in runs]
    queries = next((len(each.values) for each in measured[0].values() if each.values is not None), None)
    problems = [
        problem
        for run, made in zip(runs, recipes, strict=True)
        for problem in comparability_problems(run, made, card, ignore=(SEED_PATH,))
    ]
    reasons = list(dict.fromkeys([*problems, *reasons]))
    if theirs is not None and queries is not None:
        reasons += query_count_problems(theirs, queries, unit(first, name))
    orders = [_order(first, run, name) for run in runs]
    rows = tuple(
        _with_verdict(_row(metric, [each[metric] for each in measured], orders), theirs, reasons)
        for metric in measured[0]
        if all(metric in each for each in measured)
    )
    main = recipes[0].evaluation.main_metric
    return SeedComparison(
        names=tuple(run.name for run in runs),
        seeds=tuple(made.training.seed for made in recipes),
        verdict=next((row.verdict for row in rows if row.metric == main), "not comparable"),
        reasons=tuple(reasons),
        rows=rows,
        main_metric=main,
        evaluation=name,
        queries=queries,
        unit=unit(first, name),
        notes=tuple(notes),
    )


def _require_repeats(runs: Sequence[Run], recipes: Sequence[Recipe], name: str) -> None:
    """RunError where the runs differ in anything but their seed."""
    first, seen = runs[0], {recipes[0].training.seed: runs[0].name}
    drawn = str((first.record.get("base") or {}).get("model")).startswith(("scratch:", "bundled:static"))
    for run, made in zip(runs[1:], recipes[1:], strict=True):
        other = next(((path, a, b) for path, a, b in difference(recipes[0], made) if path != SEED_PATH), None)
        if other is not None:
            path, left, right = other
            raise RunError(
                f"expected runs that differ in their seed only, found {path} {left!r} in {first.name!r} and "
                f"{right!r} in {run.name!r}; compare them as two runs."
            )
        for part in ("data",) if drawn else ("base", "data"):  # some bases are drawn from the seed
            if len({(each.record.get(part) or {}).get("sha256") for each in (first, run)}) > 1:
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
        problems = pairing_problems(first, run, name)
        if problems:
            raise RunError(f"expected runs that were measured on the same {unit(first, name)}: {problems[0]}")


def _order(first: Run, run: Run, name: str) -> Any:
    """An index that puts the run's queries in the order of the first run's; examples have one order."""
    if has_examples(first, name):
        return slice(None)
    own, wanted = (each.per_query(name, "after")["query_id"] for each in (run, first))
    return pd.Index(own).get_indexer(wanted)


def _row(metric: str, each: Sequence[MetricValues], orders: Sequence[Any]) -> SeedRow:
    after = np.array([one.after for one in each])
    before = [one.before for one in each if one.before is not None]
    row = SeedRow(
        metric=metric,
        values=tuple(after.tolist()),
        mean=float(after.mean()),
        deviation=float(after.std(ddof=1)),
        lowest=float(after.min()),
        highest=float(after.max()),
        before=sum(before) / len(before) if len(before) == len(each) else None,
    )
    values = _stack([one.values for one in each], orders)
    if values is None:
        return row
    gold = np.zeros(values.shape[1]) if each[0].gold is None else each[0].gold
    spread = spread_over_seeds(each[0].statistic, gold, values)
    if math.isnan(spread.low):
        return row  # not defined on these examples
    row = replace(row, low=spread.low, high=spread.high, one_low=spread.one_low, one_high=spread.one_high)
    earlier = _stack([one.earlier for one in each], orders)
    if earlier is None:
        return row
    change = spread_over_seeds(each[0].statistic, gold, values, earlier)
    return replace(row, difference=change.mean, difference_low=change.low, difference_high=change.high)


def _stack(sides: Sequence[Any], orders: Sequence[Any]) -> Any:
    """(seeds, examples) values; None where a run has none, or some that are not finite."""
    if any(side is None or not np.isfinite(side).all() for side in sides):
        return None
    return np.stack([side[order] for side, order in zip(sides, orders, strict=True)])


def _with_verdict(row: SeedRow, theirs: Evaluation | None, reasons: Sequence[str]) -> SeedRow:
    """The row with the card's number, compared with the interval of a single training."""
    if theirs is not None and row.metric in theirs.metrics:
        row = replace(row, card=theirs.metrics[row.metric], card_line=theirs.metric_lines.get(row.metric))
    return replace(row, **card_verdict(row.card, (row.one_low, row.one_high), reasons, "queries and seeds"))
