"""Rules on the evaluation: what was measured, on which checkpoint, and whether the numbers can be.

Each rule is a pure function Card -> findings; its docstring is its page in `findings.md`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, finding, short, some
from workbench.cards import lookup
from workbench.cards.card import Card, Evaluation, LogRow
from workbench.cards.inference import infer
from workbench.cards.metric_arithmetic import close, same_rounded

HIGHER_IS_BETTER = re.compile(r"(ndcg|mrr|map|accuracy|precision|recall|spearman|pearson|_ap|f1|mcc)", re.IGNORECASE)


def evaluation_unused(card: Card) -> Iterator[Finding]:
    """An evaluation dataset is there, but the trainer was told not to evaluate.

    The rows were held back from training and then never looked at: no validation loss, no choice of a checkpoint.

    Silent when: a validation loss was logged; eval_strategy is set; there is no evaluation dataset.

    Example: 17,000 evaluation rows and eval_strategy no.
    """
    datasets = card.evaluation_datasets()
    strategy = lookup.argument(card, "eval_strategy") or lookup.argument(card, "evaluation_strategy")
    if (
        not datasets
        or str(strategy) not in ("no", "IntervalStrategy.NO", "False")
        or lookup.validation_losses(card.training_log)
    ):
        return
    rows = sum(dataset.size or 0 for dataset in datasets)
    yield finding(
        "evaluation-unused",
        "warning",
        f"{short(rows) + ' evaluation rows' if rows else 'An evaluation dataset'} were held back, but eval_strategy is "
        "no: they were never used.",
        lines=[
            *(lookup.fact_line(dataset, "size") for dataset in datasets),
            *lookup.argument_lines(card, "eval_strategy", "evaluation_strategy"),
        ],
        fix=Fix({"training.eval_strategy": "epoch"}, "Evaluate after every epoch."),
        rows=rows,
    )


def not_evaluated(card: Card) -> Iterator[Finding]:
    """Nothing was measured: no evaluation, no metric in the log, no validation loss.

    A training loss says how well the rows were learned, not whether the model became better at its task.

    Silent when: the card has an evaluation section, a model-index, a metric or a validation loss; it tells of no
    training, or is older than library 3.0, whose cards hold no numbers; an unused evaluation dataset already says it
    (see evaluation-unused).

    Example: a table with steps and training loss only, and no section Evaluation.
    """
    if not card.training_datasets() or not lookup.has_trainer(card):
        return
    measured = card.evaluations or card.model_index or lookup.metrics(card.training_log)
    if measured or lookup.validation_losses(card.training_log) or card.evaluation_datasets():
        return
    strategy = lookup.argument(card, "eval_strategy")
    changes: dict[str, Any] = {"data.split": {"train": 0.8, "validation": 0.1, "test": 0.1}}
    if strategy not in ("steps", "epoch"):
        changes["training.eval_strategy"] = "epoch"
    yield finding(
        "not-evaluated",
        "warning",
        "Nothing was evaluated, before or after: nothing on the card says whether training helped.",
        lines=lookup.argument_lines(card, "eval_strategy"),
        fix=Fix(changes, "Hold a part of the rows back and evaluate on it before and during training."),
    )


def _kept(card: Card, rows: Sequence[LogRow]) -> LogRow | None:
    """The row whose checkpoint was kept: the bold one, else the last of the log when nothing else was asked for."""
    bold = [row for row in rows if row.saved]
    if bold:
        return bold[-1]
    return None if lookup.argument(card, "load_best_model_at_end") is True else (rows[-1] if rows else None)


def best_not_kept(card: Card) -> Iterator[Finding]:
    """A checkpoint before the last one was better, and the last one was kept.

    Without load_best_model_at_end the trainer keeps the last weights. The finding compares the metric that the log
    itself shows (higher is better), or the validation loss where there is no metric. It is no statement about
    significance: the difference is given, and on few queries it may be noise.

    Silent when: the best row is the last or the bold one; load_best_model_at_end is set; the card was written by fit(),
    which keeps the best itself; fewer than two evaluations; several metrics without a mean disagree; runs are joined;
    the difference is below 0.0005 (or 2 % of a validation loss).

    Example: nDCG@10 0.7135, 0.7242, 0.7172 after epochs 1 to 3 and load_best_model_at_end False.
    """
    parts = lookup.runs(card)
    if len(parts) != 1 or infer(card).fit or lookup.argument(card, "load_best_model_at_end") is True:
        return
    if not card.hyperparameters and not card.non_default:
        return
    kept = _kept(card, parts[0])
    found = lookup.main_metric(card, parts[0])
    if kept is None:
        return
    if found is not None:
        column, series = found
        if not HIGHER_IS_BETTER.search(column):
            return
        best_row, best = max(series, key=lambda pair: pair[1])
        name, worse = lookup.metric_of(card, column), "lower"
    else:
        losses = lookup.validation_losses(parts[0])
        if len(losses) != 1:
            return
        column, series = next(iter(losses.items()))
        best_row, best = min(series, key=lambda pair: pair[1])
        name, worse = "eval_loss", "higher"
    last_row, last = series[-1]
    least = 0.0005 if found is not None else 0.02 * abs(best)
    if len(series) < 2 or best_row is last_row or abs(best - last) < least or best_row.saved:
        return
    if found is not None and all(close(last, value) for _, value in series[1:]):
        return
    strategy = lookup.argument(card, "eval_strategy")
    strategy = strategy if strategy in ("steps", "epoch") else "epoch"
    changes: dict[str, Any] = {
        "training.load_best_model_at_end": True,
        "training.eval_strategy": strategy,
        "training.save_strategy": strategy,
        "training.metric_for_best_model": name.removeprefix("mean "),
    }
    when = f"at step {best_row.step:,}" + (f" (epoch {short(best_row.epoch)})" if best_row.epoch is not None else "")
    yield finding(
        "best-not-kept",
        "warning",
        f"{column} was best {when} with {short(best)}, but the last checkpoint, {short(abs(best - last))} {worse} at "
        f"{short(last)}, was kept.",
        lines=[best_row.line, last_row.line, *lookup.argument_lines(card, "load_best_model_at_end")],
        fix=Fix(changes, "Keep the checkpoint with the best evaluation."),
        metric=column,
        best=best,
        best_step=best_row.step,
        last=last,
        last_step=last_row.step,
    )


def _column(columns: Collection[str], evaluation: Evaluation) -> tuple[str, float] | None:
    """The log column that an evaluation's main metric belongs to, and the evaluation's value of it."""
    main = evaluation.main_metric or ""
    for name in evaluation.datasets or ("",):
        for metric in filter(None, (main, *evaluation.metrics)):
            column = f"{name}_{metric}" if name else metric
            if column in columns and metric in evaluation.metrics:
                return column, evaluation.metrics[metric]
    return None


def _matches(card: Card) -> Iterator[tuple[Evaluation, str, float, list[tuple[LogRow, float]], list[LogRow]]]:
    """Every evaluation with a column in the log: (evaluation, column, value, that column, rows of the same value)."""
    columns = lookup.metrics(card.training_log)
    for evaluation in card.evaluations:
        found = _column(columns, evaluation)
        if found is None or not math.isfinite(found[1]):
            continue
        series = columns[found[0]]
        yield evaluation, *found, series, [row for row, value in series if close(value, found[1])]


def reported_not_saved(card: Card) -> Iterator[Finding]:
    """The numbers in the evaluation section belong to another checkpoint than the one that was kept, or the front
    matter tells other numbers than the section.

    The value of an evaluation is looked up in the log. When it stands in a row that is not the kept one (the bold row,
    or the last), and the kept row has another value, the card advertises a model that is not in the repository. The
    unrounded values of `model-index` must round to those of the table.

    Silent when: the kept row has the same value; the value is in no row (see evaluation-unmatched); the kept row was
    not evaluated; runs are joined; evaluations share a name.

    Example: table 0.7242, which is the row of epoch 2; the kept row of epoch 3 has 0.7172.
    """
    shared = {id(one) for group in _same_names(card).values() for one in group}
    if len(lookup.runs(card)) == 1 and not any(row.step == -1 for row in card.training_log):
        for evaluation, column, value, series, rows in _matches(card):
            kept = _kept(card, [row for row in card.training_log if (row.step or 0) >= 0])
            here = next((v for row, v in series if row is kept), None)
            if kept is None or here is None or not rows or kept in rows or id(evaluation) in shared:
                continue
            yield finding(
                "reported-not-saved",
                "error",
                f"The evaluation reports {column} {short(value)}, the value of step {rows[-1].step:,}, but the "
                f"checkpoint kept, step {kept.step:,}, has {short(here)}.",
                lines=[*(evaluation.lines or ())[:1], rows[-1].line, kept.line],
                reported=value,
                kept=here,
                reported_step=rows[-1].step,
                kept_step=kept.step,
            )
    yield from _index_differs(card)


def _index_differs(card: Card) -> Iterator[Finding]:
    """Values of model-index that do not round to any value of that metric in the tables."""
    printed: defaultdict[str, list[float]] = defaultdict(list)
    for evaluation in card.evaluations:
        for metric, value in evaluation.metrics.items():
            printed[metric].append(value)
    wrong = [
        entry
        for entry in card.model_index
        if printed.get(entry.metric)
        and math.isfinite(entry.value)
        and not any(same_rounded(entry.value, value) for value in printed[entry.metric])
    ]
    if wrong:
        first = wrong[0]
        yield finding(
            "reported-not-saved",
            "error",
            f"The front matter gives {first.metric} {short(first.value)}"
            + (f" for {first.dataset}" if first.dataset else "")
            + f", but the table says {some(short(value) for value in printed[first.metric])}"
            + (f"; {len(wrong)} values differ so." if len(wrong) > 1 else "."),
            lines=[entry.line for entry in wrong[:5]],
            differing=len(wrong),
        )


def _same_names(card: Card) -> dict[tuple[str | None, tuple[str, ...], str], list[Evaluation]]:
    """Evaluations that share evaluator, dataset names and parameters but not their values."""
    groups: defaultdict[tuple[str | None, tuple[str, ...], str], list[Evaluation]] = defaultdict(list)
    for evaluation in card.evaluations:
        groups[evaluation.evaluator, evaluation.datasets, repr(sorted(evaluation.parameters.items()))].append(
            evaluation
        )
    return {
        key: group
        for key, group in groups.items()
        if len(group) > 1 and any(dict(one.metrics) != dict(group[0].metrics) for one in group[1:])
    }


def same_name_evaluations(card: Card) -> Iterator[Finding]:
    """Two evaluations carry the same name and give different values.

    Tools that read a card by names keep one of them, and in the training log the later overwrites the earlier. Which
    one belongs to which data cannot be told from the card.

    Silent when: evaluators, names or parameters differ; the values are equal.

    Example: twice eval_finetune_embed, nDCG@10 0.7357 and 0.7172.
    """
    for group in _same_names(card).values():
        main = group[0].main_metric or next(iter(group[0].metrics), "")
        values = [one.metrics[main] for one in group if main in one.metrics]
        name = some(group[0].datasets) or group[0].name
        yield finding(
            "same-name-evaluations",
            "warning",
            f"{len(group)} evaluations are named {name} and give {main} {some(map(short, values))}: most tools keep "
            "only one, and the card does not say which data each used.",
            lines=[one.metric_lines.get(main) or (one.lines or (None,))[0] for one in group],
            name=name,
            metric=main,
            values=values,
        )


def evaluation_unmatched(card: Card) -> Iterator[Finding]:
    """A value in the evaluation section stands in no row of the log although the log has its column.

    The evaluator of that name ran while training. A value that none of its rows has was measured on other data, or on
    other weights, than those rows.

    Silent when: the value is in a row; the log has no such column, or fewer than two values in it; the log has an
    evaluation outside training (step -1) in that column, which overwrote it.

    Example: table 0.7357; the log of the same name has 0.6229, 0.7135, 0.7242, 0.7172.
    """
    for evaluation, column, value, series, rows in _matches(card):
        if rows or len(series) < 2 or any(row.step == -1 for row, _ in series):
            continue
        yield finding(
            "evaluation-unmatched",
            "warning",
            f"The evaluation's {column} of {short(value)} equals no row of the log "
            f"({some(short(v) for _, v in series)}): it was measured on another query set or on other weights.",
            lines=[
                evaluation.metric_lines.get(evaluation.main_metric or "") or (evaluation.lines or (None,))[0],
                series[-1][0].line,
            ],
            column=column,
            value=value,
        )


def metric_identities(card: Card) -> Iterator[Finding]:
    """Ranking metrics obey identities; values that break them were not measured together. Their fractions also tell how
    many queries there were.

    accuracy@k and recall@k grow with k; precision@k times k grows with k; recall@k and mrr@k never exceed accuracy@k;
    precision@k lies between accuracy@k / k and accuracy@k; all lie in 0 to 1. Every accuracy@k is a whole number of
    queries over their number, so the unrounded values of model-index give that number, or a divisor of it: with few
    queries one of them moves the score visibly, and small differences mean nothing.

    Silent when: all identities hold and there are 300 queries or more, or their number cannot be told; the evaluation
    is a NanoBEIR one (50 queries, known); an evaluation gives other metrics.

    Example: accuracy@10 0.8944444444444445 is 161 of 180: one query more or less moves it by 0.0056.
    """
    small: defaultdict[int, list[tuple[Evaluation, str]]] = defaultdict(list)
    for evaluation, facts in zip(card.evaluations, infer(card).metrics, strict=True):
        if facts.broken:
            yield finding(
                "metric-identities",
                "error",
                f"The metrics of {some(evaluation.datasets) or evaluation.name} cannot have been measured together: "
                f"{some(facts.broken, 3)}.",
                lines=list(evaluation.metric_lines.values())[:10] or list(evaluation.lines or ()),
                broken=list(facts.broken),
            )
        if facts.queries is not None and 2 <= facts.queries < 300:
            metric = max((m for m in evaluation.metrics if "accuracy@" in m), key=lambda m: int(m.rsplit("@", 1)[1]))
            small[facts.queries].append((evaluation, metric))
    for queries, group in small.items():
        evaluation, metric = group[0]
        value = evaluation.metrics[metric]
        yield finding(
            "metric-identities",
            "note",
            f"The evaluation has {queries} queries (or a multiple): {metric} {short(value)} is "
            f"{round(value * queries)}/{queries}, and one query moves it by {short(1 / queries)}.",
            lines=[one.metric_lines.get(name) or (one.lines or (None,))[0] for one, name in group],
            queries=queries,
            hits=round(value * queries),
        )


def metric_nan(card: Card) -> Iterator[Finding]:
    """An evaluator returned a value that is not a number.

    Correlations are NaN when all scores or all labels are equal: collapsed embeddings, or a column of one label.

    Silent when: every value is a number.

    Example: spearman_cosine nan.
    """
    wrong = [
        (name, evaluation.metric_lines.get(name) or (evaluation.lines or (None,))[0])
        for evaluation in card.evaluations
        for name, value in evaluation.metrics.items()
        if math.isnan(value)
    ]
    wrong += [
        (name, row.line)
        for row in card.training_log
        for name, value in row.metrics.items()
        if value is not None and math.isnan(value)
    ]
    if wrong:
        yield finding(
            "metric-nan",
            "error",
            f"{some(dict.fromkeys(name for name, _ in wrong), 4)} is not a number: "
            "all scores, or all labels, were equal.",
            lines=[line for _, line in wrong[:10]],
            values=len(wrong),
        )


def saturated(card: Card) -> Iterator[Finding]:
    """The evaluation is at its ceiling and can tell no more.

    Silent when: the metric is below 0.9995 at two evaluations in a row, or rises to it only at the end.

    Example: triplet accuracy 1.0 after epochs 1, 2 and 3.
    """
    for name, series in lookup.metrics(card.training_log).items():
        at = [row for row, value in series if value >= 0.9995]
        if len(at) >= 2 and HIGHER_IS_BETTER.search(name) and series[-1][1] >= 0.9995:
            yield finding(
                "evaluation-saturated",
                "note",
                f"{name} is {short(series[-1][1])} at {len(at)} evaluations: it is too easy to tell checkpoints apart.",
                lines=[row.line for row in at[:5]],
                evaluations=len(at),
            )


RULES = (
    Rule("evaluation-unused", evaluation_unused),
    Rule("not-evaluated", not_evaluated),
    Rule("best-not-kept", best_not_kept),
    Rule("reported-not-saved", reported_not_saved),
    Rule("same-name-evaluations", same_name_evaluations),
    Rule("evaluation-unmatched", evaluation_unmatched),
    Rule("metric-identities", metric_identities),
    Rule("metric-nan", metric_nan),
    Rule("evaluation-saturated", saturated),
)
