"""Rules on the loss: which values it can take, what the logged ones mean, and the shape of the curve."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, error, finding, note, short, some, warning
from workbench.cards import lookup, loss_bounds
from workbench.cards.card import Card, LogRow
from workbench.cards.inference import Softmax, infer

CLASSIFYING = ("SoftmaxLoss", "CrossEntropyLoss", "BinaryCrossEntropyLoss")
GROWING = ("SpladeLoss", "CachedSpladeLoss", "CSRLoss")
BATCH_TRIPLETS = ("BatchAllTripletLoss", "BatchHardTripletLoss", "BatchSemiHardTripletLoss")
BATCH_MARGIN = 5.0
"""Default margin of the batch triplet losses, which the card does not print."""


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


@Rule
def scale_as_temperature(card: Card) -> Iterator[Finding]:
    """A temperature was given where the loss takes a scale, its inverse.

    The softmax losses multiply the similarity by `scale` (20 by default). Below 1, the softmax is nearly uniform, every
    negative has the same weight, and the loss stays near ln n: the curve looks flat although the model may learn. For
    GISTEmbedLoss, which takes a temperature (0.01 by default), a value above 1 is the same mistake.
    Silent when: the scale is above 1 (exactly 1 with cosine: a warning); the similarity is unbounded, as a dot product.
    Example: scale 0.05, batch 4: the loss is between 1.3122 and 1.4622; logged 1.3812 to 1.3681 is a gap between
    positive and negative similarity of 0.14 growing to 0.49.
    Fix: take the inverse of a temperature that was given as a scale; scale cosine similarities by 20.
    """
    for dataset, node in lookup.loss_nodes(card):
        name, path = lookup.class_name(node.name), lookup.loss_path(card, dataset, node)
        lines = [lookup.loss_line(dataset, node)]
        temperature = _number(node.parameters.get("temperature"))
        if name in ("GISTEmbedLoss", "CachedGISTEmbedLoss") and temperature > 1:
            yield error(
                f"A temperature of {short(temperature)} divides the similarities, so the softmax of {name} is nearly "
                f"uniform; {short(temperature)} is a scale, the temperature is 1/{short(temperature)}.",
                lines,
                Fix({f"{path}.parameters.temperature": round(1 / temperature, 6)}, "Take the inverse."),
                temperature=temperature,
            )
        scale = _number(node.parameters.get("scale"))
        spec = infer(card).softmax
        bounded = name not in lookup.SOFTMAX or spec is None or spec.bounded
        if name in lookup.SOFTMAX | {"CoSENTLoss", "AnglELoss"} and 0 < scale <= 1 and bounded:
            yield _small_scale(card, scale, path, lines)


def _small_scale(card: Card, scale: float, path: str, lines: list[int | None]) -> Finding:
    spec = infer(card).softmax
    inverse = round(1 / scale, 4)
    better = float(inverse) if scale < 1 and 5 <= inverse <= 200 else 20.0
    evidence: dict[str, object] = {"scale": scale, "inverse": inverse}
    text = f"Scale {short(scale)} is a temperature: its inverse is {short(inverse)}, and 20 is usual"
    if scale == 1:
        text = "Scale 1 leaves cosine similarities as they are, but 20 is usual"
    if spec is not None and spec.path == path:
        band = loss_bounds.softmax_band(spec.candidates, scale).times(spec.factor)
        evidence |= {"low": round(band.low, 4), "chance": round(band.chance, 4), "high": round(band.high, 4)}
        text += (
            f"; with {spec.candidates} candidates the loss can only be between {short(band.low)} and "
            f"{short(band.high)} (chance {short(band.chance)})"
        )
        logged = lookup.finite_losses(lookup.last_run(card))
        gaps = [loss_bounds.implied_gap(value / spec.factor, spec.candidates, scale) for _, value in logged]
        if logged and gaps[0] is not None and gaps[-1] is not None and all(band.holds(v) for _, v in logged):
            lines = [*lines, logged[0][0].line, logged[-1][0].line]
            evidence |= {"first_gap": round(gaps[0], 3), "last_gap": round(gaps[-1], 3)}
            text += (
                f"; the logged {short(logged[0][1])} to {short(logged[-1][1])} is a mean gap between positive and "
                f"negative similarity of {short(gaps[0], 2)} to {short(gaps[-1], 2)}, so it may have learned"
            )
    return finding(
        "warning" if scale == 1 else "error",
        f"{text}. The softmax is nearly uniform: every negative has the same weight, hard or easy. What "
        f"{short(better)} would have given, only a corrected run can show.",
        lines,
        Fix({f"{path}.parameters.scale": better}, f"Scale the similarities by {short(better)}."),
        **evidence,
    )


@Rule
def loss_out_of_band(card: Card) -> Iterator[Finding]:
    """Logged losses that the loss on the card cannot give.

    A softmax loss over n candidates with similarities in [-1, 1] is between ln(1+(n-1)e^(-2s)) and ln(1+(n-1)e^(2s)),
    times the number of Matryoshka dimensions. Outside, another similarity, scale, batch or loss ran. Where the card
    does not bound the similarity (a lambda, a dot product), values far above only show that: a warning.
    Silent when: all values fit, with rounding, short last batches and summed micro-batches; losses or datasets mix.
    Example: loss 7,287 at batch 16, scale 20 and a lambda similarity; cosine could not exceed 42.7.
    """
    spec, band = infer(card).softmax, infer(card).loss_band
    logged = lookup.finite_losses(lookup.last_run(card))
    if spec is None or band is None:
        return
    outside = [(row, value) for row, value in logged if not band.holds(value, relative=0.01)]
    if not outside:
        return
    evidence: dict[str, Any] = {
        "low": round(band.low, 4),
        "chance": round(spec.chance, 4),
        "high": round(band.high, 4),
        "candidates": spec.candidates,
        "scale": spec.scale,
        "outside": len(outside),
        "logged": len(logged),
    }
    lines = [lookup.loss_line(spec.dataset, spec.loss), *(row.line for row, _ in outside[:5])]
    row, value = outside[0]
    chance = f"chance is ln {spec.candidates} = {short(evidence['chance'], 2)}"
    if spec.bounded:
        yield error(
            f"{len(outside)} of {len(logged)} logged losses, first {short(value)} at step {row.step}, are outside "
            f"{short(band.low)} to {short(band.high)}, the range of {spec.loss.name} with {spec.candidates} candidates "
            f"and scale {short(spec.scale)} ({chance}): something else ran.",
            lines,
            **evidence,
        )
    elif value > band.high:
        per = infer(card).summed
        summed = f", even if it is a sum over {per} accumulation steps" if per > 1 else ""
        yield warning(
            f"The loss starts at {short(value)}, but {chance} and no similarity in [-1, 1] could exceed "
            f"{short(band.high, 1)} at scale {short(spec.scale)}{summed}: the similarity ({spec.similarity}) is "
            "unbounded and dominates the scale.",
            lines,
            **evidence,
        )


@Rule
def summed_loss(card: Card) -> Iterator[Finding]:
    """The logged training loss is the sum over the accumulation steps, not their mean.

    transformers 4.48.1 to 4.52 divides the loss only for models whose `forward` takes no keyword arguments, which
    SentenceTransformer does; 4.46.0 and 4.46.1 undo their division. Validation losses are not affected.
    Silent when: accumulation is 1; the versions are others or not stated.
    Example: accumulation 4 with transformers 4.51.3: divide the logged losses by 4.
    """
    per, logged = infer(card).summed, lookup.finite_losses(lookup.last_run(card))
    if per == 1:
        return
    stated, first, last = lookup.version(card, "Transformers"), logged[0][1], logged[-1][1]
    arguments = lookup.argument_lines(card, "gradient_accumulation_steps")
    yield warning(
        f"Transformers {stated} very likely logged the sum over {per} accumulation steps: the first loss, "
        f"{short(first)}, is {short(first / per)} per batch, and the last, {short(last)}, is {short(last / per)}.",
        [*arguments, *lookup.version_lines(card, "Transformers"), logged[0][0].line],
        accumulation=per,
        transformers=str(stated),
        reference="https://github.com/huggingface/transformers/issues/37766",
    )


@Rule
def loss_at_chance(card: Card) -> Iterator[Finding]:
    """The loss ends where a model ends that scores every candidate alike.

    That is ln n for a softmax loss over n candidates, and the entropy of the labels for a classification loss. The
    embeddings collapsed, usually because the learning rate is far too high, or never moved.
    Silent when: the last losses are more than 1% from chance; fewer than two losses (eight for classification) were
    logged; the scale is 1 or less (see scale-as-temperature); losses mix; labels are weighted or their shares unknown.
    Example: batch 32, loss 3.6111 then 3.4661, and a validation loss at the value of equal scores; ln 32 is 3.4657.
    """
    spec, logged = infer(card).softmax, lookup.finite_losses(lookup.last_run(card))
    if spec is None:
        yield from _label_chance(card, logged)
        return
    if spec.scale <= 1 or len(logged) < 2 or spec.candidates < 2:
        return
    per, chance = infer(card).summed, spec.chance
    tail = [value / per for _, value in logged[-max(1, len(logged) // 4) :]]
    seen = _validation_at_chance(card, spec)
    if any(loss_bounds.nearest_chance(value, chance) > 0.01 for value in tail) or (len(logged) < 4 and not seen):
        return
    (first, first_value), (last, last_value) = logged[0], logged[-1]
    also = f", and the validation loss {short(seen[1])} is exactly what equal scores average" if seen else ""
    factor = "" if spec.factor == 1 else f"{short(spec.factor)} x "
    yield error(
        f"The loss ends at {short(last_value)} (from {short(first_value)}), and chance is "
        f"{factor}ln {spec.candidates} = {short(chance * per)}{also}: the model scores every candidate alike.",
        [lookup.loss_line(spec.dataset, spec.loss), first.line, last.line, seen[0].line if seen else None],
        chance=round(chance * per, 4),
        last=last_value,
        candidates=spec.candidates,
    )


def _label_chance(card: Card, logged: list[tuple[LogRow, float]]) -> Iterator[Finding]:
    """A classification loss that ends at the entropy of its labels."""
    trees = lookup.loss_trees(card)
    if len(card.training_datasets()) != 1 or len(trees) != 1 or len(logged) < 8 or infer(card).summed > 1:
        return
    dataset, root = trees[0]
    statistics = lookup.label_statistics(dataset)
    if lookup.class_name(root.name) not in CLASSIFYING or statistics is None or root.parameters.get("pos_weight"):
        return
    shares = list((lookup.label_values(statistics) or {}).values())
    mean = statistics.details.get("mean")
    if not shares and isinstance(mean, int | float) and 0 < mean < 1 and "Binary" in root.name:
        shares = [float(mean), 1 - float(mean)]
    chance = loss_bounds.entropy(shares)
    tail = [value for _, value in logged[-max(2, len(logged) // 4) :]]
    if chance < 0.2 or any(loss_bounds.nearest_chance(value, chance) > 0.01 for value in tail):
        return
    (first, first_value), (last, last_value) = logged[0], logged[-1]
    yield error(
        f"The loss ends at {short(last_value)} (from {short(first_value)}), and always answering the shares of the "
        f"labels ({some(f'{100 * share:.0f}%' for share in shares)}) gives {short(chance)}: the model does not "
        "distinguish them.",
        [lookup.loss_line(dataset, root), first.line, last.line],
        chance=round(chance, 4),
        last=last_value,
    )


def _validation_at_chance(card: Card, spec: Softmax) -> tuple[LogRow, float] | None:
    """The last validation loss, where it is what equal scores average over the evaluation rows."""
    datasets, batch = card.evaluation_datasets(), lookup.number(card, "per_device_eval_batch_size")
    series = lookup.validation_losses(card.training_log)
    if len(datasets) != 1 or not datasets[0].size or not batch or len(series) != 1:
        return None
    row, value = next(iter(series.values()))[-1]
    expected = spec.factor * loss_bounds.mean_of_batches(datasets[0].size, int(batch), spec.candidates // spec.batch)
    return (row, value) if abs(value - expected) < 2e-3 * expected else None


@Rule
def loss_spikes(card: Card) -> Iterator[Finding]:
    """Single log rows are far above their neighbors.

    A row is the mean of many steps, so one spike hides a few steps with a very large loss: a damaged row in the data,
    an overflow in half precision, a long text.
    Silent when: the row is less than 20%, or 4.5 times the typical scatter, above the median of its four neighbors;
    fewer than 16 losses were logged; values are zero or negative.
    Example: 2.33 at step 3,875, 5.36 at 3,900, 2.29 at 3,925.
    """
    for part in lookup.runs(card):
        logged = lookup.finite_losses(part)
        if len(logged) < 16 or any(value <= 0 for _, value in logged):
            continue
        spikes = _spikes([value for _, value in logged])
        if not spikes:
            continue
        ratios, steps = [ratio for _, ratio in spikes], [logged[at][0].step for at, _ in spikes]
        span = f"{short(min(ratios), 1)} to {short(max(ratios), 1)}" if len(spikes) > 1 else short(ratios[0], 1)
        many = len(spikes) > 1
        yield note(
            f"The loss of {len(spikes)} log row{'s' * many} (step{'s' * many} {some(steps)}) is {span} times that of "
            "the neighbors.",
            [logged[at][0].line for at, _ in spikes],
            steps=steps,
            ratios=[round(ratio, 2) for ratio in ratios],
        )


def _spikes(values: Sequence[float]) -> list[tuple[int, float]]:
    """(position, ratio to its neighbors) of every outlier above a smooth positive curve.

    >>> smooth = [10 * 0.97**k for k in range(40)]
    >>> smooth[20] *= 1.5
    >>> [(at, round(ratio, 1)) for at, ratio in _spikes(smooth)]
    [(20, 1.5)]
    """
    around = {at: median([*values[at - 2 : at], *values[at + 1 : at + 3]]) for at in range(2, len(values) - 2)}
    above = {at: math.log(values[at] / level) for at, level in around.items()}
    scatter = 1.4826 * median(abs(value) for value in above.values())
    least = max(math.log(1.2), 4.5 * scatter)
    return [
        (at, math.exp(value))
        for at, value in above.items()
        if value >= least and values[at] > 1.15 * max(values[at - 1], values[at + 1])
    ]


@Rule
def flat_run(card: Card) -> Iterator[Finding]:
    """Neither the loss nor any metric changed: the training had no effect.

    The first and last third of the losses differ by 2% at most, and every metric by 0.002 between evaluations. Without
    a logged loss, at least four evaluations agree to 0.0005.
    Silent when: metrics are at their ceiling (0.995); no metric was measured twice; the scale is 1 or less (see
    scale-as-temperature).
    Example: 70 losses between 0.373 and 0.391 over 35,000 steps, 13 metrics equal at epochs 1, 2 and 3.
    """
    rows = card.training_log
    series = {name: found for name, found in lookup.metrics(rows).items() if len(found) > 1}
    logged, spec = lookup.finite_losses(rows), infer(card).softmax
    at_ceiling = all(found[0][1] >= 0.995 for found in series.values())  # also without any metric
    if at_ceiling or (spec is not None and spec.scale <= 1):
        return
    most = max(max(v for _, v in found) - min(v for _, v in found) for found in series.values())
    times = max(len(found) for found in series.values())
    lines: list[int | None] = []
    if len(logged) >= 6:
        third = len(logged) // 3
        first, last = (fmean(value for _, value in part) for part in (logged[:third], logged[-third:]))
        if abs(last - first) > 0.02 * abs(first) or most > 0.002:
            return
        what = f"the loss went from {short(logged[0][1])} to {short(logged[-1][1])} over {logged[-1][0].step:,} steps"
        lines = [logged[0][0].line, logged[-1][0].line]
    elif not logged and times >= 4 and most <= 5e-4:
        what = "no loss was logged"
    else:
        return
    name = next(iter(series))
    count = f"all {len(series)} metrics" if len(series) > 1 else name
    change = f"changed by at most {short(most)}" if most else "did not change"
    yield error(
        f"The training had no effect: {what}, and {count} {change} between {times} evaluations.",
        [*lines, *(row.line for row, _ in series[name])],
        metrics=len(series),
        evaluations=times,
        largest_move=round(most, 6),
        measured="every metric" if len(series) > 1 else name,
    )


@Rule
def diverged(card: Card) -> Iterator[Finding]:
    """The training loss is not a number, or it rose.

    NaN or infinity ends all learning. A last quarter more than 20% above the first shows a diverging run.
    Silent when: for rising, fewer than eight losses were logged; losses are negative; several datasets take turns; the
    loss has a term that grows by design (SpladeLoss).
    Example: 2.1, 1.8, nan, nan.
    """
    broken = [(row, value) for row, value in lookup.training_losses(card.training_log) if not math.isfinite(value)]
    if broken:
        yield error(
            f"The training loss is {broken[0][1]} in {len(broken)} log rows, from step {broken[0][0].step} on.",
            [row.line for row, _ in broken[:5]],
            rows=len(broken),
        )
        return
    grows = any(lookup.class_name(root.name) in GROWING for _, root in lookup.loss_trees(card))
    for part in lookup.runs(card) if not grows and len(card.training_datasets()) <= 1 else ():
        logged = lookup.finite_losses(part)
        if len(logged) < 8 or any(value <= 0 for _, value in logged):
            continue
        quarter = len(logged) // 4
        first, last = (median(value for _, value in part) for part in (logged[:quarter], logged[-quarter:]))
        if last > 1.2 * first:
            yield error(
                f"The training loss rose: {short(first)} in the first quarter of the log, {short(last)} in the last.",
                [logged[0][0].line, logged[-1][0].line],
                first=round(first, 4),
                last=round(last, 4),
            )


@Rule
def overfit(card: Card) -> Iterator[Finding]:
    """The validation loss turned and rose while the training loss kept falling.

    Several validation losses are summed. With load_best_model_at_end, which keeps an earlier model, it is a note.
    Silent when: the last validation loss is less than 10% above the lowest; the lowest is among the last two of four
    or more; the training loss did not fall by 5% after it; a metric improved to the end.
    Example: validation 0.40 at epoch 2 and 0.64 at epoch 10, training 0.157 and 0.047.
    """
    for part in lookup.runs(card):
        logged = lookup.finite_losses(part)
        best = lookup.main_metric(card, part)
        if best is not None and len(best[1]) > 2 and best[1][-1][1] >= max(value for _, value in best[1]):
            continue
        for name, series in _validation_total(part):
            if len(series) < 4 or any(value <= 0 for _, value in series):
                continue
            at = min(range(len(series)), key=lambda index: series[index][1])
            (low_row, low), (last_row, last) = series[at], series[-1]
            before = [value for row, value in logged if (row.step or 0) <= (low_row.step or 0)]
            after = [value for row, value in logged if (row.step or 0) > (low_row.step or 0)]
            if at >= len(series) - 2 or last < 1.1 * low or not before or not after or after[-1] > 0.95 * before[-1]:
                continue
            yield finding(
                "note" if lookup.argument(card, "load_best_model_at_end") is True else "warning",
                f"{name} was lowest, {short(low)}, at step {low_row.step:,} and ended at {short(last)}, while the "
                f"training loss fell from {short(before[-1])} to {short(after[-1])}.",
                [low_row.line, last_row.line],
                column=name,
                lowest=low,
                last=last,
                lowest_step=low_row.step,
            )


def _validation_total(rows: Sequence[LogRow]) -> list[tuple[str, list[tuple[LogRow, float]]]]:
    """The validation loss of a run; of several datasets, their sum where all were measured."""
    series = lookup.validation_losses(rows)
    if len(series) < 2:
        return list(series.items())
    by_step: defaultdict[int, list[tuple[LogRow, float]]] = defaultdict(list)
    for found in series.values():
        for row, value in found:
            by_step[row.step or 0].append((row, value))
    whole = [group for group in by_step.values() if len(group) == len(series)]
    return [(f"The sum of {len(series)} validation losses", [(g[0][0], sum(v for _, v in g)) for g in whole])]


@Rule
def margin_unreachable(card: Card) -> Iterator[Finding]:
    """The margin of a triplet loss is larger than any distance between embeddings.

    Normalized embeddings are at most 2 apart (Euclidean): with a margin above 2 the loss cannot fall below margin - 2,
    and every triplet keeps its gradient. The batch losses have a default margin of 5, which the card does not print.
    Silent when: the model does not normalize; the margin is 2 or less; the distance is cosine, or unknown.
    Example: BatchAllTripletLoss on a normalized model, losses from 4.99 down to 3.32: the floor is 5 - 2 = 3.
    """
    if lookup.module(card, "Normalize") is None:
        return
    for dataset, root in lookup.loss_trees(card):
        name = lookup.class_name(root.name)
        metric = str(root.parameters.get("distance_metric", "")).lower()
        stated = root.parameters.get("triplet_margin", root.parameters.get("margin"))
        assumed = name in BATCH_TRIPLETS and stated is None and not metric
        known = name in ("TripletLoss", *BATCH_TRIPLETS) and "euclidean" in metric and _number(stated) > 2
        if not assumed and not known:
            continue
        margin = BATCH_MARGIN if assumed else _number(stated)
        floor = loss_bounds.hinge_floor(margin)
        logged = [value for _, value in lookup.finite_losses(lookup.last_run(card))]
        if assumed and (not logged or min(logged) < floor - 0.01 or max(logged) > margin + 2.01):
            continue
        seen = f"; the lowest logged is {short(min(logged))}" if logged else ""
        yield warning(
            f"Normalized embeddings are at most 2 apart, so {'the default' if assumed else 'a'} margin of "
            f"{short(margin)} is never met and {name} cannot fall below {short(floor)}{seen}.",
            [lookup.loss_line(dataset, root)],
            margin=margin,
            floor=floor,
            assumed=assumed,
        )
