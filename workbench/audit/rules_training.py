"""Rules on how the training ran: processes, rows, arguments, the shape of the log."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, Severity, error, finding, note, short, some, warning
from workbench.audit.rules_loss import flat_run
from workbench.cards import inference, lookup, steps_per_epoch
from workbench.cards.card import Card
from workbench.cards.inference import infer

TENTH = Fix({"training.warmup_ratio": 0.1, "training.warmup_steps": 0}, "Warm up for 10% of the steps.")
"""A share and not a number of steps, so that it also fits a run on fewer rows."""
FIT_WARMUP = 10_000
"""Default of fit(), in steps."""
STATIC = {
    "training.learning_rate": 0.2,
    "training.warmup_ratio": 0.1,
    "training.warmup_steps": 0,
    "training.bf16": True,
    "training.fp16": False,
}
"""Changes that train static embeddings."""


def size_lines(card: Card) -> list[int | None]:
    """Lines of what rows and batches per epoch are computed from."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last")
    log = [row.line for part in lookup.runs(card) for row in (part[0], part[-1])]
    return [*lookup.fact_lines(card.training_datasets(), "size"), *lookup.argument_lines(card, *names), *log]


def split_lines(card: Card) -> list[int | None]:
    """Lines of what shows that the sizes are those before a split."""
    library = lookup.version_lines(card, "Sentence Transformers")
    return [*lookup.fact_lines(card.datasets, "size"), *size_lines(card), *library]


@Rule
def world_size(card: Card) -> Iterator[Finding]:
    """Several processes (or devices) shared the rows, and the card does not say so.

    The log's epoch column gives the batches per epoch, size / batch size those that one process needs. Exactly a half,
    a third, ... of them means that many processes: the optimizer saw that many times the card's batch in each step.
    Silent when: one process or several numbers of processes fit; a split fits (see size-before-split); an epoch has
    fewer than 20 batches; the log joins runs; rows were streamed for max_steps; auto_find_batch_size is set.
    Example: 153,000 rows, batch 16, dataloader_drop_last: one process has 9,562 batches an epoch, the log shows 4,781.
    """
    division = infer(card).division
    if division is None or division.shared is None:
        return
    epoch, processes, batches = division.epoch, division.shared.processes, division.shared.batches
    sizes, batch, steps = lookup.sizes(card) or (), lookup.batch_size(card) or 1, epoch.steps(batches)[0]
    whole = max(steps_per_epoch.expected_batches(sizes, batch, 1, **inference.loading(card)))
    per_step = batch * epoch.accumulation * processes
    yield warning(
        f"{processes} processes (or devices) shared the rows: the log shows {batches:,} batches an epoch, "
        f"1/{processes} of the {whole:,} that {sum(sizes):,} rows make in batches of {batch}; a step ({steps:,} an "
        f"epoch) saw {per_step} rows, not {batch * epoch.accumulation}.",
        size_lines(card),
        processes=processes,
        batches_per_epoch=batches,
        steps_per_epoch=steps,
        rows=sum(sizes),
        rows_per_step=per_step,
    )


@Rule
def size_before_split(card: Card) -> Iterator[Finding]:
    """The size on the card is that of the file, before a part of it was split off for evaluation.

    sentence-transformers 3.1 to below 4.0.1 prints the size from the metadata of the loaded file, which
    `train_test_split` does not change. Shown by such a version, a named dataset (one made in memory has no metadata)
    and batches per epoch that fit a share such as 80%.
    Silent when: all rows fit the log; no share fits; several processes fit and training and evaluation claim different
    sizes (see world-size).
    Example: 1,797 training and 1,797 evaluation rows; 180 batches of 8 an epoch are at most 1,440 rows, 80% of 1,797.
    """
    division = infer(card).division
    if division is None or division.split is None:
        return
    batch, rows = lookup.batch_size(card) or 1, sum(lookup.sizes(card) or ())
    batches, share = division.split.batches, division.split.share
    others = some(f"{reading.processes} processes" for reading in division.readings if reading.processes > 1)
    also = f" ({others} would fit too, but not the equal sizes)" if others else ""
    both = "training and evaluation both claim" if inference.same_size(card) else "the file holds and the card states"
    yield warning(
        f"The sizes are those before the split: {batches:,} batches of {batch} an epoch are at most "
        f"{batches * batch:,} rows, {short(share * 100)}% of the {rows:,} that {both}{also}.",
        split_lines(card),
        stated_rows=rows,
        batches_per_epoch=batches,
        rows_at_most=batches * batch,
        share=share,
        reference="https://github.com/huggingface/sentence-transformers/blob/v3.3.1/sentence_transformers/model_card.py",
    )


@Rule
def size_mismatch(card: Card) -> Iterator[Finding]:
    """The rows per epoch in the log are not those that the card states, and no simple explanation fits.

    Either rows were filtered after they were counted, or size, batch size and log belong to different runs.
    Silent when: one process, several processes or a usual split fits; the difference is under 2%; an epoch has fewer
    than 20 batches; the log joins runs; the sampler groups rows by label.
    Example: 10,000 rows in batches of 10 make 1,000 batches an epoch; the log shows 137.
    """
    division, sizes = infer(card).division, lookup.sizes(card) or ()
    if division is None or len(sizes) > 1 or lookup.argument(card, "batch_sampler") == "group_by_label":
        return
    batch, rows, shown = lookup.batch_size(card) or 1, sum(sizes), division.epoch.exact
    shared = [f"{reading.processes} processes" for reading in division.readings if reading.share == 1]
    if shown is None or abs(shown * batch / rows - 1) < 0.02 or len(shared) == 1 or division.split is not None:
        return
    guess = some(f"{short(reading.share * 100)}% of the rows" for reading in division.readings if reading.share < 1)
    if inference.sizes_of_files(card) and shown * batch < rows and not shared and not guess:
        library = lookup.version(card, "Sentence Transformers")
        guess = (
            f"a selection of rows after loading (sentence-transformers {library} prints the size of the loaded file)"
        )
    if shared:
        guess = some([*shared, *([guess] if guess else [])])
    fits = f"{guess} would fit" if guess else "no number of processes and no usual split fits"
    yield note(
        f"The log shows {shown:,} batches of {batch} an epoch, about {shown * batch:,} rows, but the card states "
        f"{rows:,}; {fits}.",
        size_lines(card),
        stated_rows=rows,
        batches_per_epoch=shown,
    )


@Rule
def fit_defaults(card: Card) -> Iterator[Finding]:
    """Written by the old `model.fit()`: the optimizer and schedule on the card did not run.

    `fit()` builds its own optimizer and scheduler, but the card prints the defaults of the trainer's arguments. Its
    marks: columns named sentence_0, sentence_1, ..., datasets taken in turn (round_robin), max_grad_norm printed as an
    integer. By default fit() runs AdamW at 2e-05, weight decay 0.01 and a linear schedule after 10,000 warmup steps.
    Silent when: columns have other names; one of these arguments is listed as non-default (the trainer was used).
    Example: columns sentence_0 and sentence_1, round_robin, learning_rate 5e-05: the rate that ran is unknown.
    """
    marks = infer(card).fit
    if marks is None:
        return
    names = ("learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "optim")
    shown = {name: lookup.argument(card, name) for name in names if card.argument(name) is not None}
    values = f" ({', '.join(f'{name} {value}' for name, value in shown.items())})" if shown else ""
    yield finding(
        "error" if marks.sure else "warning",
        f"{'Written' if marks.sure else 'Very likely written'} by the old model.fit(): the learning rate, weight "
        f"decay, scheduler, warmup and optimizer shown{values} are defaults that did not run. The defaults of fit() "
        "are 2e-05, 0.01 and linear decay after 10,000 warmup steps.",
        [*marks.lines, *lookup.argument_lines(card, *names)],
        marks=list(marks.marks),
        shown={name: value for name, value in shown.items() if isinstance(value, str | int | float)},
    )


@Rule
def stopped_early(card: Card) -> Iterator[Finding]:
    """The log ends well before the declared epochs.

    The run was stopped, or the card was written at a checkpoint. `fit()` writes the card whenever its evaluation
    improves, so the model is that of the last row. With load_best_model_at_end it is a note: early stopping looks like
    this.
    Silent when: the last row is within one logging or evaluation interval, or 5%, of the end; the log joins runs.
    Example: 15 epochs of 11,768 steps declared; the log ends at step 35,304, epoch 3.
    """
    parts, planned = lookup.runs(card), infer(card).planned_steps
    if len(parts) != 1 or planned is None or infer(card).epoch is None:
        return
    last = parts[0][-1]
    step, epoch = last.step or 0, last.epoch or 0.0
    schedule = infer(card).schedule
    measured = [row.step or 0 for row in (schedule.at if schedule else ())]
    interval = max([infer(card).logging_steps, *(b - a for a, b in itertools.pairwise(measured))])
    if planned - step <= interval or step > 0.95 * planned or step <= 0:
        return
    declared = lookup.epochs(card) or 3
    severity: Severity = "warning"
    why = "either the run was stopped or the card was written at a checkpoint"
    if infer(card).fit is not None and measured:
        why = (
            "fit() writes the card when its evaluation improves, so the model is of that step and training may have "
            "continued"
        )
    elif lookup.argument(card, "load_best_model_at_end") is True:
        severity, why = "note", "as early stopping does, with the best checkpoint loaded"
    yield finding(
        severity,
        f"The log ends at step {step:,}, epoch {short(epoch)} of {short(declared)} (about {planned:,} steps): {why}.",
        [last.line, *lookup.argument_lines(card, "num_train_epochs", "max_steps")],
        last_step=step,
        planned_steps=planned,
        last_epoch=epoch,
        declared_epochs=declared,
    )


@Rule
def nothing_logged(card: Card) -> Iterator[Finding]:
    """No training loss was logged, usually because the run is shorter than the logging interval.

    The trainer logs every `logging_steps` steps, 500 by default.
    Silent when: a training loss is in the log; the card is older than library 3.0, whose cards hold no log.
    Example: 260 rows in batches of 4, one epoch: 65 steps, fewer than 500.
    Fix: log the loss some twenty times in the run.
    """
    if not card.training_datasets() or not lookup.has_trainer(card) or lookup.training_losses(card.training_log):
        return
    planned, stated = infer(card).planned_steps, lookup.number(card, "logging_steps")
    if planned is None:
        yield warning("No training loss was logged: nothing shows whether the model learned.")
        return
    interval, every = int(stated or 500), max(1, planned // 20)
    measured = bool(lookup.metrics(card.training_log))
    what = "only its evaluations show how the training went" if measured else "nothing shows how the training went"
    fewer = f": its {planned:,} steps are fewer than logging_steps, {interval:,}{'' if stated else ' by default'}"
    names = ("per_device_train_batch_size", "num_train_epochs", "logging_steps")
    yield finding(
        "note" if measured else "warning",
        f"No training loss was logged{fewer if planned < interval else ''}; {what}.",
        [*lookup.fact_lines(card.training_datasets(), "size"), *lookup.argument_lines(card, *names)],
        Fix({"training.logging_steps": every}, f"Log every {every} steps."),
        planned_steps=planned,
        logging_steps=interval,
    )


@Rule
def joined_logs(card: Card) -> Iterator[Finding]:
    """The log holds more than one run: its steps start again.

    Training twice in one session writes both runs into one table, whose curves, best rows and epochs then mean nothing.
    Silent when: steps never decrease. Evaluations outside training (step -1) do not count.
    Example: steps 13, 26, ..., 65, and then 13, 26, 39 again.
    """
    parts = lookup.runs(card)
    if len(parts) < 2:
        return
    ends = [part[-1].step or 0 for part in parts]
    yield warning(
        f"The log joins {len(parts)} runs: its steps start again after {some(f'{end:,}' for end in ends[:-1])}.",
        [part[0].line for part in parts[1:]],
        runs=len(parts),
        last_steps=ends,
    )


@Rule
def warmup_units(card: Card) -> Iterator[Finding]:
    """Warmup was counted in batches, not in the trainer's steps, or is longer than the run.

    A common recipe is 10% of rows / batch size. That counts the batches of one process; accumulation and several
    processes make the optimizer steps fewer, so the warmup lasted several times longer than intended.
    Silent when: warmup is a ratio below 1; batches and steps are the same; the number is no round share of the batches;
    the card was written by fit(), except for a note where its default of 10,000 steps exceeds the run.
    Example: warmup_steps 956 = 10% of 153,000 / 16, but an epoch has 1,195 steps: 0.8 epochs of warmup.
    Fix: warm up for a share of the steps.
    """
    planned = infer(card).planned_steps
    if infer(card).fit is not None:
        if planned is not None and planned < FIT_WARMUP:
            yield note(
                f"fit() warms up for {FIT_WARMUP:,} steps by default, and this run has {planned:,}: unless the script "
                f"changed that, the learning rate never exceeded {short(planned / 100, 2)}% of its value.",
                lookup.fact_lines(card.training_datasets(), "size"),
                TENTH,
                planned_steps=planned,
            )
        return
    warmup, lines = lookup.number(card, "warmup_steps"), lookup.argument_lines(card, "warmup_steps")
    if not warmup or warmup < 2 or not planned:
        return
    if warmup > planned:
        yield error(
            f"Warmup lasts {short(warmup)} steps, but the whole run has about {planned:,}: the learning rate on the "
            "card was never reached.",
            lines,
            TENTH,
            warmup_steps=warmup,
            planned_steps=planned,
        )
    else:
        yield from _share_of_batches(card, warmup, planned, lines)


def _share_of_batches(card: Card, warmup: float, planned: int, lines: list[int | None]) -> Iterator[Finding]:
    epoch, rows, batch = infer(card).epoch, lookup.sizes(card), lookup.batch_size(card)
    if not epoch or not rows or not batch:
        return
    steps, batches = epoch.steps(epoch.batches[0])[0], sum(rows) / batch
    shares = (s for s in (0.1, 0.05, 0.2) if int(warmup) in {math.floor(batches * s), math.ceil(batches * s)})
    share = next(shares, None)
    if steps > 0.9 * batches or share is None:
        return
    meant, part, percent = max(1, round(steps * share)), round(steps * share / planned, 4), f"{short(share * 100)}%"
    yield warning(
        f"Warmup of {short(warmup)} steps is {percent} of the {batches:,.0f} batches that {sum(rows):,} rows make, but "
        f"an epoch has {steps:,} optimizer steps: it lasted {short(warmup / steps, 2)} epochs.",
        [*lines, *size_lines(card)],
        Fix(
            {"training.warmup_ratio": part, "training.warmup_steps": 0},
            f"Warm up for {percent} of an epoch's optimizer steps, {meant:,}: a share of {short(part)} of the run.",
        ),
        warmup_steps=warmup,
        share_of_batches=share,
        steps_per_epoch=steps,
        epochs_of_warmup=round(warmup / steps, 4),
    )


@Rule
def learning_rate(card: Card) -> Iterator[Finding]:
    """The learning rate does not suit the kind of module that was trained.

    Static embeddings need rates around 0.2, because a row changes only when its token occurs. Full fine-tuning of a
    transformer breaks above about 1e-3. A LoRA adapter trains at 1e-5 to 1e-2.
    Silent when: the rate is in those ranges; the optimizer is not Adam; fit() wrote the card, whose rate is unknown,
    unless the model is static and its log is flat.
    Example: StaticEmbedding(30522, 1024), 5e-05 shown, fit() default 2e-05, and a flat log.
    Fix: take a rate that suits the model: 0.2 for static embeddings, 2e-05 for a transformer.
    """
    rate, lines = lookup.number(card, "learning_rate"), lookup.argument_lines(card, "learning_rate")
    if infer(card).fit is not None:
        if lookup.is_static(card) and next(flat_run(card), None) is not None:
            yield error(
                "Static embeddings need a learning rate around 0.2; the default of fit(), 2e-05 (and the 5e-05 shown), "
                "is far too small for them and explains the flat log.",
                [*lines, *(found.line for found in card.modules)],
                Fix(STATIC, "Train at 0.2 with 10% warmup, in bfloat16."),
                shown=rate,
            )
        return
    optimizer = str(lookup.argument(card, "optim") or "adamw").lower()
    adam = optimizer.startswith(("adam", "paged_adam", "optimizernames.adam"))
    if rate is None or rate <= 0 or not adam or not lookup.has_training(card) or not card.modules:
        return
    if lookup.is_static(card):
        low, high, kind, better = 1e-3, 2.0, "static embeddings", 0.2
    elif lookup.adapter(card) or lookup.lora_config(card):
        low, high, kind, better = 2e-6, 2e-2, "a LoRA adapter", 2e-4
    elif lookup.module(card, "Transformer"):
        low, high, kind, better = 1e-7, 1e-3, "a whole transformer", 2e-5
    else:
        return
    if low <= rate <= high:
        return
    changes: dict[str, Any] = STATIC if better == 0.2 else {"training.learning_rate": better}
    yield warning(
        f"A learning rate of {short(rate)} is far {'below' if rate < low else 'above'} the range for {kind} "
        f"({short(low)} to {short(high)}).",
        lines,
        Fix(changes, f"Train at {short(better)}."),
        learning_rate=rate,
        low=low,
        high=high,
    )
