"""Rules on the evaluation: what was measured, on which checkpoint, and whether the numbers are possible."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, error, note, short, some, warning
from workbench.cards import lookup
from workbench.cards.card import Card, Evaluation, LogRow
from workbench.cards.inference import infer
from workbench.cards.literals import real
from workbench.cards.metric_arithmetic import CHANGED, close, same_rounded

HIGHER_IS_BETTER = re.compile(r"(ndcg|mrr|map|accuracy|precision|recall|spearman|pearson|_ap|f1|mcc)", re.IGNORECASE)
FEW_QUERIES = 300


def _metric_line(evaluation: Evaluation, metric: str | None) -> int | None:
    return evaluation.metric_lines.get(metric or "") or lookup.first_line(evaluation)


@Rule
def evaluation_unused(card: Card) -> Iterator[Finding]:
    """There is an evaluation dataset, but the trainer was told not to evaluate.

    The rows were held out and never used: no validation loss, no choice of a checkpoint.
    Silent when: a validation loss was logged; eval_strategy is set; there is no evaluation dataset.
    Example: 17,000 evaluation rows and eval_strategy no.
    Fix: evaluate after every epoch.
    """
    datasets = card.evaluation_datasets()
    strategy = lookup.argument(card, "eval_strategy") or lookup.argument(card, "evaluation_strategy")
    never = str(strategy) in ("no", "IntervalStrategy.NO", "False")
    if not datasets or not never or lookup.validation_losses(card.training_log):
        return
    rows = sum(dataset.size or 0 for dataset in datasets)
    arguments = lookup.argument_lines(card, "eval_strategy", "evaluation_strategy")
    yield warning(
        f"{short(rows) + ' evaluation rows' if rows else 'An evaluation dataset'} were held out, but eval_strategy is "
        "no: they were never used.",
        [*lookup.fact_lines(datasets, "size"), *arguments],
        Fix({"training.eval_strategy": "epoch"}, "Evaluate after every epoch."),
        rows=rows,
    )


@Rule
def not_evaluated(card: Card) -> Iterator[Finding]:
    """The card shows no evaluation: no table, no metric in the log, no validation loss.

    A training loss shows how well the rows were learned, not whether the model became better at its task.
    Silent when: anything was measured, also without its numbers (see evaluation-not-shown); the card is older than
    library 3.0, whose cards hold no numbers; there is an unused evaluation dataset (see evaluation-unused).
    Example: a table with steps and training loss only, and no section Evaluation.
    Fix: hold out a part of the rows and evaluate on it before and during training.
    """
    if not card.training_datasets() or not lookup.has_trainer(card):
        return
    if _has_numbers(card) or card.evaluation_datasets() or lookup.unshown_evaluations(card):
        return
    changes: dict[str, Any] = {"data.split": {"train": 0.8, "validation": 0.1, "test": 0.1}}
    if lookup.argument(card, "eval_strategy") not in ("steps", "epoch"):
        changes["training.eval_strategy"] = "epoch"
    yield warning(
        "The card shows no evaluation, before or after training: nothing on it shows whether training helped.",
        lookup.argument_lines(card, "eval_strategy"),
        Fix(changes, "Hold out a part of the rows and evaluate on it before and during training."),
    )


def _has_numbers(card: Card) -> bool:
    measured = card.evaluations or card.model_index or lookup.metrics(card.training_log)
    return bool(measured or lookup.validation_losses(card.training_log))


@Rule
def evaluation_not_shown(card: Card) -> Iterator[Finding]:
    """The model was evaluated, and the numbers are not on the card.

    A row of the log without any number is an evaluation, because a training step is only logged with its loss: so the
    card looks where an evaluator gives no metric that the trainer knows. Evaluators also write files with results.
    Silent when: the card has any number of an evaluation; neither the log nor a file beside the card shows one.
    Example: rows of Epoch and Step only, and eval/validation_eval_results.csv beside the card.
    """
    steps, files = lookup.unshown_evaluations(card) or ((), ())
    if not (steps or files) or _has_numbers(card):
        return
    where = f"after step{'s' * (len(steps) > 1)} {some((f'{row.step:,}' for row in steps), 6)}" if steps else "once"
    beside = f"; {some(files)} beside it {'hold' if len(files) > 1 else 'holds'} results" if files else ""
    yield note(
        f"The model was evaluated {where}, but the numbers are not on the card{beside}.",
        [row.line for row in steps[:10]],
        steps=[row.step for row in steps],
        files=files,
    )


def _kept_row(card: Card, rows: Sequence[LogRow]) -> LogRow | None:
    """The row whose checkpoint was kept: the bold one, else the last of the log unless the best was loaded."""
    bold = [row for row in rows if row.saved]
    if bold:
        return bold[-1]
    return None if lookup.argument(card, "load_best_model_at_end") is True else (rows[-1] if rows else None)


@Rule
def best_not_kept(card: Card) -> Iterator[Finding]:
    """A checkpoint before the last one was better, and the last one was kept.

    Without load_best_model_at_end the trainer keeps the last weights. Compared is the metric in the log, or the
    validation loss where there is none. Significance is not tested: with few queries the difference may be noise.
    Silent when: the best row is the last or the bold one; load_best_model_at_end is set; fit() wrote the card (it keeps
    the best); several metrics without a mean disagree; runs are joined; the difference is below 0.0005 (2% of a loss).
    Example: nDCG@10 0.7135, 0.7242, 0.7172 after epochs 1 to 3 and load_best_model_at_end False.
    Fix: keep the checkpoint with the best evaluation.
    """
    parts = lookup.runs(card)
    if len(parts) != 1 or infer(card).fit or not (card.hyperparameters or card.non_default):
        return
    metric = lookup.main_metric(card, parts[0])
    losses = lookup.validation_losses(parts[0])
    if lookup.argument(card, "load_best_model_at_end") is True or (metric is None and len(losses) != 1):
        return
    column, series = metric or next(iter(losses.items()))
    if metric is not None and not HIGHER_IS_BETTER.search(column):
        return
    best_row, best = (max if metric else min)(series, key=lambda pair: pair[1])
    last_row, last = series[-1]
    least = 0.0005 if metric else 0.02 * abs(best)
    if len(series) < 2 or best_row is last_row or abs(best - last) < least or best_row.saved:
        return
    if metric and all(close(last, value) for _, value in series[1:]):
        return
    strategy = lookup.argument(card, "eval_strategy")
    strategy = strategy if strategy in ("steps", "epoch") else "epoch"
    name = lookup.metric_of(card, column).removeprefix("mean ") if metric else "eval_loss"
    changes = {
        "training.load_best_model_at_end": True,
        "training.eval_strategy": strategy,
        "training.save_strategy": strategy,
        "training.metric_for_best_model": name,
    }
    when = f"at step {best_row.step:,}" + (f" (epoch {short(best_row.epoch)})" if best_row.epoch is not None else "")
    yield warning(
        f"{column} was best {when} with {short(best)}, but the last checkpoint was kept, with {short(last)}, "
        f"{short(abs(best - last))} {'lower' if metric else 'higher'}.",
        [best_row.line, last_row.line, *lookup.argument_lines(card, "load_best_model_at_end")],
        Fix(changes, "Keep the checkpoint with the best evaluation."),
        metric=column,
        best=best,
        best_step=best_row.step,
        last=last,
        last_step=last_row.step,
    )


def _column(columns: Collection[str], evaluation: Evaluation) -> tuple[str, float] | None:
    """The log column that an evaluation's main metric belongs to, and the evaluation's value of it."""
    there = (found for found in _columns(evaluation) if found[0] in columns)
    return next(
        ((column, evaluation.metrics[metric]) for column, metric in there if metric in evaluation.metrics), None
    )


def _columns(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """How the log names the metrics of an evaluation, and their own names; the main one first."""
    for name in evaluation.datasets or ("",):
        for metric in filter(None, (evaluation.main_metric, *evaluation.metrics)):
            yield f"{name}_{metric}" if name else metric, metric


def _matches(card: Card) -> Iterator[tuple[Evaluation, str, float, list[tuple[LogRow, float]], list[LogRow]]]:
    """Every evaluation with a column in the log: (evaluation, column, value, that column, rows of the same value)."""
    columns = lookup.metrics(card.training_log)
    for evaluation in card.evaluations:
        found = _column(columns, evaluation)
        if found is not None and math.isfinite(found[1]):
            series = columns[found[0]]
            yield evaluation, *found, series, [row for row, value in series if close(value, found[1])]


@Rule
def reported_not_saved(card: Card) -> Iterator[Finding]:
    """The evaluation section belongs to another checkpoint than the one kept, or contradicts the front matter.

    If a value is in the log, but not in the kept row (the bold row, or the last), the card advertises a model that is
    not in the repository. The unrounded values of `model-index` must round to those of the table.
    Silent when: the kept row has the value or was not evaluated; no row has it (see evaluation-unmatched); runs are
    joined; evaluations share a name.
    Example: table 0.7242, which is the row of epoch 2; the kept row of epoch 3 has 0.7172.
    """
    shared = {id(one) for group in _same_names(card) for one in group}
    joined = len(lookup.runs(card)) != 1 or any(row.step == -1 for row in card.training_log)
    for evaluation, column, value, series, rows in () if joined else _matches(card):
        kept = _kept_row(card, [row for row in card.training_log if (row.step or 0) >= 0])
        here = next((v for row, v in series if row is kept), None)
        if kept is None or here is None or not rows or kept in rows or id(evaluation) in shared:
            continue
        yield error(
            f"The evaluation reports {column} {short(value)}, the value of step {rows[-1].step:,}, but the "
            f"checkpoint kept, step {kept.step:,}, has {short(here)}.",
            [lookup.first_line(evaluation), rows[-1].line, kept.line],
            reported=value,
            kept=here,
            reported_step=rows[-1].step,
            kept_step=kept.step,
        )
    wrong = []
    for entry in card.model_index:
        printed = [one.metrics[entry.metric] for one in card.evaluations if entry.metric in one.metrics]
        if printed and math.isfinite(entry.value) and not any(same_rounded(entry.value, one) for one in printed):
            wrong.append((entry, printed))
    if wrong:
        first, printed = wrong[0]
        where = f" for {first.dataset}" if first.dataset else ""
        yield error(
            f"The front matter gives {first.metric} {short(first.value)}{where}, but the table says "
            f"{some(map(short, printed))}" + (f"; {len(wrong)} values differ like this." if len(wrong) > 1 else "."),
            [entry.line for entry, _ in wrong[:5]],
            differing=len(wrong),
        )


def _same_names(card: Card) -> list[list[Evaluation]]:
    """Groups of evaluations that share evaluator, dataset names and parameters but not their values."""
    groups: defaultdict[tuple[str | None, tuple[str, ...], str], list[Evaluation]] = defaultdict(list)
    for each in card.evaluations:
        groups[each.evaluator, each.datasets, repr(sorted(each.parameters.items()))].append(each)
    return [group for group in groups.values() if any(dict(one.metrics) != dict(group[0].metrics) for one in group)]


@Rule
def same_name_evaluations(card: Card) -> Iterator[Finding]:
    """Two evaluations have the same name and different values.

    Tools that read a card by names keep one of them, and the card does not say which one belongs to which data.
    Silent when: evaluators, names or parameters differ; the values are equal.
    Example: twice eval_finetune_embed, nDCG@10 0.7357 and 0.7172.
    """
    for group in _same_names(card):
        main = group[0].main_metric or next(iter(group[0].metrics), "")
        values = [one.metrics[main] for one in group if main in one.metrics]
        name = some(group[0].datasets) or group[0].name
        yield warning(
            f"{len(group)} evaluations are named {name} and give {main} {some(map(short, values))}: most tools keep "
            "only one, and the card does not say which data each used.",
            [_metric_line(one, main) for one in group],
            name=name,
            metric=main,
            values=values,
        )


@Rule
def evaluation_unmatched(card: Card) -> Iterator[Finding]:
    """A value in the evaluation section is in no row of the log, although the log has its column.

    It was measured on other data, or on other weights, than those rows.
    Silent when: the value is in a row; the column has fewer than two values, or one outside training (step -1), which
    overwrote it.
    Example: table 0.7357; the log of the same name has 0.6229, 0.7135, 0.7242, 0.7172.
    """
    for evaluation, column, value, series, rows in _matches(card):
        if rows or len(series) < 2 or any(row.step == -1 for row, _ in series):
            continue
        yield warning(
            f"The evaluation's {column} of {short(value)} equals no row of the log "
            f"({some(short(v) for _, v in series)}): it was measured on another query set or on other weights.",
            [_metric_line(evaluation, evaluation.main_metric), series[-1][0].line],
            column=column,
            value=value,
        )


@Rule
def metric_identities(card: Card) -> Iterator[Finding]:
    """Ranking metrics that cannot have been measured together, or that come from few queries.

    accuracy@k, recall@k and precision@k times k grow with k; recall@k and mrr@k never exceed accuracy@k; precision@k is
    between accuracy@k / k and accuracy@k. Every accuracy@k is a fraction of the queries, so unrounded values give their
    number, or a divisor of it: with few queries, small differences mean nothing.
    Silent when: all identities hold, and there are 300 queries or more or an unknown number; the evaluation is
    NanoBEIR.
    Example: accuracy@10 0.8944444444444445 is 161 of 180: one query moves it by 0.0056.
    """
    small: defaultdict[int, list[tuple[Evaluation, str]]] = defaultdict(list)
    for evaluation, facts in zip(card.evaluations, infer(card).metrics, strict=True):
        if facts.broken:
            yield error(
                f"The metrics of {some(evaluation.datasets) or evaluation.name} cannot have been measured together: "
                f"{some(facts.broken, 3)}.",
                list(evaluation.metric_lines.values())[:10] or evaluation.lines or (),
                broken=list(facts.broken),
            )
        if facts.queries is not None and 2 <= facts.queries < FEW_QUERIES:
            at = {name: real(name.rpartition("@")[2]) or 0.0 for name in evaluation.metrics if "accuracy@" in name}
            metric = max(at, key=lambda name: at[name])
            small[facts.queries].append((evaluation, metric))
    for queries, group in small.items():
        evaluation, metric = group[0]
        value = evaluation.metrics[metric]
        hits = round(value * queries)
        yield note(
            f"The evaluation has {queries} queries (or a multiple): {metric} {short(value)} is {hits}/{queries}, and "
            f"one query moves it by {short(1 / queries)}.",
            [_metric_line(one, name) for one, name in group],
            queries=queries,
            hits=hits,
        )


@Rule
def gain_unresolved(card: Card) -> Iterator[Finding]:
    """A gain in accuracy of so few queries that the card's evaluation cannot show it.

    An accuracy is a share of the queries. Where the best row is less than six queries better than the first, a sign
    test at 5% cannot tell the two apart, whichever queries changed.
    Silent when: the gain is six queries or more; nothing was gained; the number of queries is unknown; the metric is no
    accuracy, because small changes of many queries may be significant.
    Example: accuracy@1 0.5889 before training and 0.6111 after, on 180 queries: four queries.
    """
    inferred = zip(card.evaluations, infer(card).metrics, strict=True)
    counts = {column: facts.queries for one, facts in inferred for column, _ in _columns(one) if "accuracy@" in column}
    for column, series in lookup.metrics(card.training_log).items():
        queries = counts.get(column)
        if queries is None or len(series) < 2:
            continue
        (first_row, first), (best_row, best) = series[0], max(series, key=lambda pair: pair[1])
        gained = round((best - first) * queries)
        if 0 < gained < CHANGED:
            yield note(
                f"Only {gained} of {queries:,} queries were gained: {column} rose from {short(first)} to "
                f"{short(best)}, and a difference needs {CHANGED} queries.",
                [first_row.line, best_row.line],
                queries=queries,
                gained=gained,
            )


@Rule
def metric_nan(card: Card) -> Iterator[Finding]:
    """An evaluator returned a value that is not a number.

    Correlations are NaN when all scores or all labels are equal: collapsed embeddings, or a column of one label.
    Silent when: every value is a number.
    Example: spearman_cosine nan.
    """
    values = [(each, name, value) for each in card.evaluations for name, value in each.metrics.items()]
    wrong = [(name, _metric_line(each, name)) for each, name, value in values if math.isnan(value)]
    cells = [(row, name, value) for row in card.training_log for name, value in row.metrics.items()]
    wrong += [(name, row.line) for row, name, value in cells if value is not None and math.isnan(value)]
    if wrong:
        yield error(
            f"{some(dict.fromkeys(name for name, _ in wrong), 4)} is not a number: all scores, or all labels, were "
            "equal.",
            [line for _, line in wrong[:10]],
            values=len(wrong),
        )


@Rule
def evaluation_saturated(card: Card) -> Iterator[Finding]:
    """The evaluation is at its ceiling and cannot distinguish checkpoints.

    Silent when: the metric is below 0.9995 at two evaluations in a row, or rises to it only at the end.
    Example: triplet accuracy 1.0 after epochs 1, 2 and 3.
    """
    for name, series in lookup.metrics(card.training_log).items():
        at = [row for row, value in series if value >= 0.9995]
        if len(at) >= 2 and HIGHER_IS_BETTER.search(name) and series[-1][1] >= 0.9995:
            yield note(
                f"{name} is {short(series[-1][1])} at {len(at)} evaluations: too easy to distinguish checkpoints.",
                [row.line for row in at[:5]],
                evaluations=len(at),
            )
