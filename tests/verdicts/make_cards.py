"""Cards whose truth is known: written by the library's own trainer from real trainings of a tiny base.

    python tests/verdicts/make_cards.py FOLDER          # write them all, with their rows, base and evaluation sets
    python tests/verdicts/make_cards.py FOLDER --table  # judge them, too, and print truth beside verdict

A `Shape` is one training. A `Case` is one card: of an honest shape, or falsified in one thing, by training otherwise
than the card says or by changing what the library is about to print. No code of the workbench takes part in making one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainings import (
    QUERIES,
    SHAPES,
    Search,
    Shape,
    Table,
    adapter,
    base_folder,
    pairs,
    quiet,
    sample,
    train,
    write_rows,
)

Metrics = dict[str, float]


@dataclass
class Printed:
    """What the library is about to print; a case may change it."""

    results: dict[str, Metrics]  # evaluator -> metric -> value
    log: list[dict[str, Any]]  # Epoch, Step, Training Loss, Validation Loss, the evaluators' main metrics
    arguments: dict[str, Any]
    saved: int | None  # step of the bold row


def card_of(model: Any, edit: Callable[[Printed], None] | None = None) -> str:
    """The model card that the library writes of what `edit` leaves."""
    from sentence_transformers.base.model_card import generate_model_card

    data = model.model_card_data
    names = (
        "eval_results_dict",
        "training_logs",
        "best_model_step",
        "all_hyperparameters",
        "non_default_hyperparameters",
    )
    kept = {name: getattr(data, name) for name in names}
    results = {evaluator: found for evaluator, found in kept["eval_results_dict"].items() if evaluator.name}
    printed = Printed(
        {evaluator.name: dict(found) for evaluator, found in results.items()},
        deepcopy(data.training_logs),
        dict(data.all_hyperparameters),
        data.best_model_step,
    )
    if edit is not None:
        edit(printed)
    data.eval_results_dict = {evaluator: printed.results[evaluator.name] for evaluator in results}
    data.training_logs, data.best_model_step = printed.log, printed.saved
    data.all_hyperparameters = printed.arguments
    data.non_default_hyperparameters = {name: printed.arguments[name] for name in data.non_default_hyperparameters}
    try:
        text = str(generate_model_card(model))
    finally:
        vars(data).update(kept)
    return re.sub(r"### Training Time\n.*?(?=### )", "", text, flags=re.DOTALL)  # so that it is always the same


# --- falsifications --------------------------------------------------------------------------------------------------

SHARES = re.compile(r"(accuracy|recall|precision)@(\d+)$|accuracy$")


def raised(by: float, only: str = "", examples: int = QUERIES) -> Callable[[Printed], None]:
    """Every metric, or those that end with `only`, higher by `by` in table, model-index and log.

    Shares are moved to a multiple of 1/`examples`, so that they remain possible. Nothing exceeds 1.
    """

    def higher(metric: str, value: float) -> float:
        found = SHARES.search(metric)
        parts = int(found[2]) if found and found[1] == "precision" else 1
        moved = min(value * parts + by, 1.0)
        return (round(moved * examples) / examples if found else moved) / parts

    def edit(printed: Printed) -> None:
        for name, metrics in printed.results.items():
            for metric in [metric for metric in metrics if metric.endswith(only)]:
                metrics[metric] = higher(metric, metrics[metric])
                for row in printed.log:
                    for key in {metric, f"{name}_{metric}"} & row.keys():
                        row[key] = higher(metric, row[key])

    return edit


def in_table_only(printed: Printed) -> None:
    """Every metric 0.03 higher in table and model-index, and as it was in the log."""
    log = deepcopy(printed.log)
    raised(0.03)(printed)
    printed.log = log


def swapped(printed: Printed) -> None:
    """nDCG@10 and MRR@10 exchanged."""
    for name, metrics in printed.results.items():
        one, two = (next(metric for metric in metrics if metric.endswith(end)) for end in ("ndcg@10", "mrr@10"))
        for row in printed.log:
            for key in {one, f"{name}_{one}"} & row.keys():
                row[key] = row[key] * metrics[two] / metrics[one]
        metrics[one], metrics[two] = metrics[two], metrics[one]


def losses_times(factor: float, step: int | None = None, column: str = "Training Loss") -> Callable[[Printed], None]:
    """Losses of the log times a factor: all, or that of one step."""

    def edit(printed: Printed) -> None:
        for row in printed.log:
            if column in row and step in (None, row["Step"]):
                row[column] *= factor

    return edit


def argument(name: str, value: Any) -> Callable[[Printed], None]:
    """An argument that the card states and that was not the one."""

    def edit(printed: Printed) -> None:
        printed.arguments[name] = value

    return edit


def best_moved(printed: Printed) -> None:
    """The bold row is another one."""
    steps = [row["Step"] for row in printed.log if row["Step"] > 0 and row["Step"] != printed.saved]
    printed.saved = steps[0]


# --- cases -----------------------------------------------------------------------------------------------------------

EXACTLY = frozenset({"reproduced exactly"})
DIFFERS = frozenset({"differs"})
NOT_REPRODUCED = frozenset({"differs", "cannot tell", "not comparable"})
REFUSED = frozenset({"refused"})
NOT_COMPARABLE = frozenset({"not comparable"})


@dataclass(frozen=True)
class Case:
    """One card, with its truth and the verdicts that are right for it."""

    truth: str  # what is false on it; of an honest one, "" or what the user does not give
    verdicts: frozenset[str]
    shape: str  # what the card claims, and so what the user gives
    was: Shape | None = None  # what was trained, where it is something else
    edit: Callable[[Printed], None] | None = None
    kept_back: frozenset[str] = frozenset()  # what the user does not give
    falsified: bool = True


def honest(shape: str, verdicts: frozenset[str] = EXACTLY, missing: str = "") -> Case:
    truth = f"not given: {missing}" if missing else ""
    return Case(truth, verdicts, shape, falsified=False, kept_back=frozenset({missing} - {""}))


def trained_otherwise(truth: str, shape: str, verdicts: frozenset[str] = NOT_REPRODUCED, **changes: Any) -> Case:
    edit = changes.pop("edit", None)
    return Case(truth, verdicts, shape, was=replace(SHAPES[shape], **changes), edit=edit)


def printed_otherwise(truth: str, shape: str, edit: Callable[[Printed], None]) -> Case:
    return Case(truth, DIFFERS, shape, edit=edit)


CASES: dict[str, Case] = {
    **{name: honest(name) for name in SHAPES},
    "pairs-without-base": honest("pairs", NOT_COMPARABLE, "that the base is the card's"),
    "pairs-without-evaluation": honest("pairs", NOT_COMPARABLE, "evaluation"),
    "split-found": honest("split", EXACTLY, "split seed"),  # it is searched
    "f-raised-01": printed_otherwise("every metric 0.01 higher", "pairs", raised(0.01)),
    "f-raised-03": printed_otherwise("every metric 0.03 higher", "pairs", raised(0.03)),
    "f-raised-10": printed_otherwise("every metric 0.10 higher", "pairs", raised(0.10)),
    "f-one-metric": printed_otherwise("MAP@100 0.02 higher", "pairs", raised(0.02, "map@100")),
    "f-one-metric-01": Case("MAP@100 0.01 higher", NOT_REPRODUCED, "pairs", edit=raised(0.01, "map@100")),
    "f-swapped": printed_otherwise("nDCG@10 and MRR@10 exchanged", "pairs", swapped),
    "f-table": printed_otherwise("every metric 0.03 higher in the table, not in the log", "pairs", in_table_only),
    "f-losses": printed_otherwise("every training loss 20% lower", "pairs", losses_times(0.8)),
    "f-one-loss": printed_otherwise("one training loss 5% lower", "pairs", losses_times(0.95, 10)),
    "f-spearman": printed_otherwise("every metric 0.03 higher", "cosent", raised(0.03)),
    "f-best": printed_otherwise("another row is the bold one", "cosent", best_moved),
    "f-validation": printed_otherwise(
        "every validation loss 10% lower", "cosine", losses_times(0.9, column="Validation Loss")
    ),
    "f-accuracy": printed_otherwise("accuracy 0.03 higher", "triplets", raised(0.03, examples=100)),
    "f-dimension": printed_otherwise(
        "every metric at 12 dimensions 0.03 higher",
        "matryoshka",
        lambda printed: raised(0.03)(replace(printed, results={"dim_12": printed.results["dim_12"]})),
    ),
    "f-two": printed_otherwise(
        "one of two evaluators: Spearman 0.03 higher", "proportional", raised(0.03, "spearman_cosine")
    ),
    "f-learning-rate": trained_otherwise(
        "trained at 0.0002, the card says 0.002",
        "pairs",
        arguments={"learning_rate": 2e-4},
        edit=argument("learning_rate", 2e-3),
    ),
    "f-seed": trained_otherwise(
        "trained with seed 7, the card says 42", "pairs", arguments={"seed": 7}, edit=argument("seed", 42)
    ),
    "f-rows": trained_otherwise(
        "28 of the 128 rows were others", "pairs", rows=lambda: [*pairs(0, 100), *pairs(300, 328)]
    ),
    "f-other-rows": trained_otherwise("all rows were others", "pairs", rows=lambda: pairs(300, 428)),
    "f-split": trained_otherwise("split by seed 13, the user says 12", "split", REFUSED, split=13),
    "f-base": trained_otherwise("another base under the same name", "pairs", base_seed=8),
    "f-base-before": trained_otherwise("another base under the same name", "before", base_seed=8),
    "f-training-rows": trained_otherwise(
        "evaluated on training rows",
        "pairs",
        DIFFERS,
        evaluators=lambda: {"held-out": (Search(pairs(0, QUERIES), sample()[1]), {})},
    ),
}


class Workshop:
    """Makes cards in a folder and judges them; each shape is trained once, and each recipe reproduced once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: dict[str, Any] = {}
        self.runs: dict[tuple[str, str], Any] = {}

    def card(self, name: str) -> Path:
        """The folder of the card `name`: README.md, and for LoRA adapter_config.json."""
        case = CASES[name]
        shape = case.was or SHAPES[case.shape]
        key = case.shape if case.was is None else name
        if key not in self.trained:
            self.trained[key] = train(shape, base_folder(self.folder, shape.base_seed))
        place = self.folder / "cards" / name
        place.mkdir(parents=True, exist_ok=True)
        with quiet():
            (place / "README.md").write_text(card_of(self.trained[key], case.edit), encoding="utf-8")
        if shape.lora:
            text = json.dumps(adapter().to_dict(), default=sorted)
            (place / "adapter_config.json").write_text(text, encoding="utf-8")
        return place

    def given(self, name: str) -> dict[str, Any]:
        """What the user of the card gives: arguments of `reproduce`."""
        case = CASES[name]
        shape, place = SHAPES[case.shape], self.folder / "given" / case.shape
        rows = shape.rows()
        parts = dict(rows) if isinstance(rows, Mapping) else {"rows": rows}
        files = [write_rows(place / f"{part}.jsonl", found) for part, found in parts.items()]
        overrides = {f"data.more.{number}.source.location": str(file) for number, file in enumerate(files[1:])}
        found: dict[str, Any] = {
            "data": str(files[0]),
            "overrides": overrides,
            "evaluation_set": self.sets(shape, place),
        }
        if "evaluation" in case.kept_back:
            found.pop("evaluation_set")
        found["base"] = str(base_folder(self.folder, SHAPES[case.shape].base_seed))
        found["base_is_the_cards"] = "that the base is the card's" not in case.kept_back
        if shape.split is not None and "split seed" not in case.kept_back:
            found["split_seed"] = shape.split
        return found

    def sets(self, shape: Shape, place: Path) -> list[str]:
        """The evaluation sets: one for each of the evaluators, and the rows of the validation loss."""
        made: dict[int, str] = {}
        evaluators = shape.evaluators()
        at_dimensions = all(options for _, options in evaluators.values())  # one set, measured at each
        for name, (task, _) in evaluators.items():
            file = task.write(place / name)
            made.setdefault(0 if at_dimensions else len(made), str(file) if at_dimensions else f"{name}={file}")
        rows = [task.rows for task, _ in evaluators.values() if isinstance(task, Table)]
        if shape.held_out is not None and shape.held_out() not in rows:
            made[-1] = str(write_rows(place / "validation.jsonl", shape.held_out()))
        return list(made.values())

    def judge(self, name: str) -> tuple[str, Sequence[str]]:
        """The verdict on the card by a run of its recipe, and why; "refused" where it denies what the user states.

        Cards that differ in printed numbers alone have one recipe, and so one run.
        """
        from workbench.cards.read import read_card
        from workbench.errors import DataError
        from workbench.evaluation.compare import compare
        from workbench.pipeline import reproduce
        from workbench.recipe.from_card import recipe
        from workbench.recipe.schema import recipe_sha256

        case, card = CASES[name], read_card(self.card(name))
        key = recipe_sha256(recipe(card)), "".join(sorted(case.kept_back)) if case.was is None else name
        if key not in self.runs:
            with quiet():
                try:
                    self.runs[key] = reproduce(card, runs=self.folder / "runs", **self.given(name))
                except DataError as error:
                    return "refused", [str(error)]
        found = compare(self.runs[key], card=card)
        return found.verdict, [*found.reasons, *([found.replay.sentence] if found.replay else []), *found.notes]


def table(shop: Workshop, names: Sequence[str]) -> Iterator[str]:
    """Truth beside verdict, in Markdown."""
    yield "| card | what is false on it | right | verdict | |"
    yield "| --- | --- | --- | --- | --- |"
    for name in names:
        case, (verdict, reasons) = CASES[name], shop.judge(name)
        right = verdict in case.verdicts
        truth = case.truth if case.falsified or not case.truth else f"nothing; {case.truth}"
        cells = (name, truth or "nothing", ", ".join(sorted(case.verdicts)), verdict, "" if right else "wrong")
        yield f"| {' | '.join(cells)} |"
        for reason in () if right else reasons:
            print(f"  {name}: {reason}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the cards into FOLDER; with --table, judge them, too.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="CARD", help="by default all")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    shop, names = Workshop(given.folder), given.names or list(CASES)
    for line in table(shop, names) if given.table else map(str, map(shop.card, names)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
