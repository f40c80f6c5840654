"""Rules on how the training ran: processes, rows, arguments, adapters, the shape of the log.

Each rule is a pure function Card -> findings; its docstring is its page in `findings.md`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, finding, short, some
from workbench.audit.rules_loss import flat_run
from workbench.cards import inference, lookup, steps_per_epoch
from workbench.cards.card import Card
from workbench.cards.inference import infer


def size_lines(card: Card) -> list[int | None]:
    log = [row.line for part in lookup.runs(card) for row in (part[0], part[-1])]
    return [
        *(lookup.fact_line(dataset, "size") for dataset in card.training_datasets()),
        *lookup.argument_lines(
            card, "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"
        ),
        *log,
    ]


def split_lines(card: Card) -> list[int | None]:
    """Lines of what shows that the sizes are those before a split."""
    sizes = [lookup.fact_line(dataset, "size") for dataset in card.datasets]
    return [*sizes, *size_lines(card), *lookup.version_lines(card, "Sentence Transformers")]


def world_size(card: Card) -> Iterator[Finding]:
    """Several processes (or devices) shared the rows, and the card does not say so.

    The epoch column of the log gives the batches per epoch; size / batch size gives the batches that one process
    would need. When the log shows a half, a third, ... of them, to the batch, that many processes each took their
    share. The batch that the optimizer saw is then larger than the card's per-device batch, and so is the number of
    rows per step.

    Silent when: one process fits; more than one number of processes fits; the size is unknown; fewer than 20 batches
    make an epoch; the share can as well be a split (then see size-before-split); the log joins several runs; rows were
    streamed for max_steps; auto_find_batch_size may have changed the batch.

    Example: 153,000 rows, batch 16, accumulation 4, dataloader_drop_last: one process has 9,562 batches an epoch; the
    log shows 4,781, which is 9,562 // 2. Two processes, 128 rows a step.
    """
    division = infer(card).division
    if division is None or division.shared is None:
        return
    epoch, processes, batches = division.epoch, division.shared.processes, division.shared.batches
    batch, steps = lookup.batch_size(card) or 1, epoch.steps(batches)[0]
    rows = sum(lookup.sizes(card) or ())
    whole = max(steps_per_epoch.expected_batches(lookup.sizes(card) or (), batch, 1, **inference.loading(card)))
    per_step = batch * epoch.accumulation * processes
    yield finding(
        "world-size",
        "warning",
        f"{_count(processes)} processes (or devices) shared the rows: the log shows {batches:,} batches an epoch, "
        f"1/{processes} of the {whole:,} that {rows:,} rows make in batches of {batch}; "
        f"a step ({steps:,} an epoch) saw {per_step} rows, not {batch * epoch.accumulation}.",
        lines=size_lines(card),
        processes=processes,
        batches_per_epoch=batches,
        steps_per_epoch=steps,
        rows=rows,
        rows_per_step=per_step,
    )


def _count(number: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")
    return words[number] if number < len(words) else str(number)


def size_before_split(card: Card) -> Iterator[Finding]:
    """The size on the card is the file's, before a part of it was split off for evaluation.

    sentence-transformers 3.1 to below 4.0.1 writes the size that the loaded file's metadata states, and
    `train_test_split` leaves that metadata as it was: both parts then claim all rows. The signs: such a version, a
    dataset with a name (one made in memory has no metadata), and batches per epoch that fit a share such as 80 % of the
    size. Where several processes would fit as well, training and evaluation must also claim the same size.

    Silent when: all rows fit the log; no share fits; the version states sizes rightly; the dataset is unnamed; several
    processes fit and the sizes of training and evaluation differ (see world-size).

    Example: 1,797 training rows and 1,797 evaluation rows of `json`; 180 batches of 8 an epoch hold at most 1,440 rows,
    which is 80 % of 1,797.
    """
    division = infer(card).division
    if division is None or division.split is None:
        return
    batch, rows = lookup.batch_size(card) or 1, sum(lookup.sizes(card) or ())
    batches, share = division.split.batches, division.split.share
    others = some(f"{reading.processes} processes" for reading in division.readings if reading.processes > 1)
    also = f" ({others} would fit too, but not the equal sizes)" if others else ""
    both = "training and evaluation both claim" if inference.same_size(card) else "the file holds and the card states"
    yield finding(
        "size-before-split",
        "warning",
        f"The sizes are those before the split: {batches:,} batches of {batch} an epoch are at most "
        f"{batches * batch:,} rows, {short(share * 100)} % of the {rows:,} that {both}{also}.",
        lines=split_lines(card),
        stated_rows=rows,
        batches_per_epoch=batches,
        rows_at_most=batches * batch,
        share=share,
        reference="https://github.com/huggingface/sentence-transformers/blob/v3.3.1/sentence_transformers/model_card.py",
    )


def size_mismatch(card: Card) -> Iterator[Finding]:
    """The rows per epoch that the log shows are not those that the card states, and no simple reading explains it.

    Either the rows were filtered after they were counted, or size, batch size and log belong to different runs.

    Silent when: one process, several processes or a usual split fit; the difference is under 2 % (samplers may leave
    rows out); the size is unknown; an epoch has fewer than 20 batches; the log joins several runs; the sampler groups
    rows by label.

    Example: 10,000 rows in batches of 10 make 1,000 batches an epoch; the log shows 137.
    """
    division = infer(card).division
    if division is None or lookup.argument(card, "batch_sampler") == "group_by_label":
        return
    epoch, candidates = division.epoch, division.readings
    batch, rows = lookup.batch_size(card) or 1, sum(lookup.sizes(card) or ())
    shown = epoch.exact
    if shown is None or len(lookup.sizes(card) or ()) > 1 or abs(shown * batch / rows - 1) < 0.02:
        return
    shared = [reading for reading in candidates if reading.share == 1]
    if len(shared) == 1 or division.split is not None:
        return
    guess = some(f"{short(reading.share * 100)} % of the rows" for reading in candidates if reading.share < 1)
    if inference.sizes_of_files(card) and shown * batch < rows and not shared and not guess:
        library = lookup.version(card, "Sentence Transformers")
        guess = (
            f"a selection of rows after loading (sentence-transformers {library} states the size of the loaded file)"
        )
    if shared:
        guess = some([f"{reading.processes} processes" for reading in shared] + ([guess] if guess else []))
    yield finding(
        "size-mismatch",
        "note",
        f"The log shows {shown:,} batches of {batch} an epoch, about {shown * batch:,} rows, where the card states "
        f"{rows:,}" + (f"; {guess} would fit." if guess else "; no number of processes and no usual split fits."),
        lines=size_lines(card),
        stated_rows=rows,
        batches_per_epoch=shown,
    )


def fit_defaults(card: Card) -> Iterator[Finding]:
    """Written by the old `model.fit()`: learning rate, weight decay, scheduler, warmup and optimizer on the card did
    not run.

    `fit()` builds its own optimizer and scheduler from its own arguments and hands them to the trainer, but the card
    prints the trainer's arguments, whose values for these are defaults. Its marks: it renames the columns to
    sentence_0, sentence_1, ..., takes several datasets in turn (round_robin), and prints max_grad_norm as an integer.
    Where the script passes nothing, fit() runs AdamW at 2e-05 with weight decay 0.01 and a linear schedule after 10,000
    warmup steps (for a cross-encoder too).

    Silent when: columns have other names; the card lists one of these arguments as non-default (then the trainer was
    used, and they ran).

    Example: columns sentence_0 and sentence_1, round_robin, max_grad_norm 1, learning_rate 5e-05 shown: the rate that
    ran is unknown.
    """
    marks = infer(card).fit
    if marks is None:
        return
    names = ("learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps", "optim")
    shown = {name: lookup.argument(card, name) for name in names if card.argument(name) is not None}
    values = f" ({', '.join(f'{name} {value}' for name, value in shown.items())})" if shown else ""
    yield finding(
        "fit-defaults",
        "error" if marks.sure else "warning",
        f"{'Written' if marks.sure else 'Very likely written'} by the old model.fit(), so the learning rate, weight "
        f"decay, scheduler, warmup and optimizer shown{values} are defaults that did not run; fit()'s own, unless its "
        "script says otherwise, are 2e-05, 0.01 and linear decay after 10,000 warmup steps.",
        lines=[*marks.lines, *lookup.argument_lines(card, *names)],
        marks=list(marks.marks),
        shown={name: value for name, value in shown.items() if isinstance(value, str | int | float)},
    )


def stopped_early(card: Card) -> Iterator[Finding]:
    """The log ends well before the epochs that were declared.

    The steps of the whole run follow from epochs and steps per epoch. A log that ends earlier by more than one
    interval of logging shows a run that was stopped, or a card that was written at a checkpoint. `fit()` writes the
    card whenever its evaluation improves, so there the model that was kept is the one of the last row. With
    load_best_model_at_end it is a note: early stopping ends so.

    Silent when: the last row is within one logging or evaluation interval, or 5 %, of the end; epochs or the log are
    missing; the log joins several runs.

    Example: 15 epochs declared, 11,768 steps each, and the log ends at step 35,304: epoch 3.
    """
    parts, planned = lookup.runs(card), infer(card).planned_steps
    if len(parts) != 1 or planned is None or infer(card).epoch is None:
        return
    last = parts[0][-1]
    step = last.step or 0
    measured = [row.step or 0 for row in parts[0] if row.metrics and any(v is not None for v in row.metrics.values())]
    gaps = [b - a for a, b in itertools.pairwise(measured)]
    interval = max([infer(card).logging_steps, *gaps])
    if planned - step <= interval or step > 0.95 * planned or step <= 0:
        return
    fit = infer(card).fit is not None and bool(measured)
    declared = lookup.number(card, "num_train_epochs") or 3
    epoch = last.epoch or 0.0
    why = (
        "fit() writes the card when its evaluation improves, so the model kept is of that step and training may have "
        "gone on"
        if fit
        else "either the run was stopped or the card was written at a checkpoint"
    )
    best = lookup.argument(card, "load_best_model_at_end") is True
    if best and not fit:
        why = "as early stopping does, with the best checkpoint loaded"
    yield finding(
        "stopped-early",
        "note" if best and not fit else "warning",
        f"The log ends at step {step:,}, epoch {short(epoch)} of {short(declared)} (about {planned:,} steps): {why}.",
        lines=[last.line, *lookup.argument_lines(card, "num_train_epochs", "max_steps")],
        last_step=step,
        planned_steps=planned,
        last_epoch=epoch,
        declared_epochs=declared,
    )


def nothing_logged(card: Card) -> Iterator[Finding]:
    """No training loss was logged, usually because the run is shorter than the logging interval.

    The trainer logs every `logging_steps` steps, 500 unless told otherwise. A run of fewer steps leaves no curve: there
    is nothing that shows whether it learned.

    Silent when: at least one training loss is in the log; the card describes no training, or is older than library 3.0,
    whose cards hold no log.

    Example: 260 rows in batches of 4, one epoch: 65 steps, fewer than 500.
    """
    if not card.training_datasets() or not lookup.has_trainer(card) or lookup.training_losses(card.training_log):
        return
    planned = infer(card).planned_steps
    if planned is None:
        yield finding("nothing-logged", "warning", "No training loss was logged: nothing shows whether it learned.")
        return
    interval = int(lookup.number(card, "logging_steps") or 500)
    every = max(1, planned // 20)
    measured = bool(lookup.metrics(card.training_log))
    what = "only its evaluations show how the training went" if measured else "nothing shows how the training went"
    default = "" if lookup.number(card, "logging_steps") else " (the default)"
    fewer = f": its {planned:,} steps are fewer than the {interval:,} between two log rows{default}"
    why = fewer if planned < interval else ""
    yield finding(
        "nothing-logged",
        "note" if measured else "warning",
        f"No training loss was logged{why}; {what}.",
        lines=[
            *(lookup.fact_line(dataset, "size") for dataset in card.training_datasets()),
            *lookup.argument_lines(card, "per_device_train_batch_size", "num_train_epochs", "logging_steps"),
        ],
        fix=Fix({"training.logging_steps": every}, f"Log every {every} steps."),
        planned_steps=planned,
        logging_steps=interval,
    )


def joined_logs(card: Card) -> Iterator[Finding]:
    """The log holds more than one run: its steps start again.

    The library appends to the log of the model object, so training twice in one session writes both runs into one
    table. Curves, best rows and epochs of the whole table then mean nothing.

    Silent when: steps never go down. Evaluations outside training (step -1) do not count.

    Example: steps 13, 26, ..., 65, and then 13, 26, 39 again.
    """
    parts = lookup.runs(card)
    if len(parts) < 2:
        return
    ends = [part[-1].step or 0 for part in parts]
    yield finding(
        "joined-logs",
        "warning",
        f"The log joins {len(parts)} runs: its steps start again after {some(f'{end:,}' for end in ends[:-1])}.",
        lines=[part[0].line for part in parts[1:]],
        runs=len(parts),
        last_steps=ends,
    )


TENTH = Fix({"training.warmup_ratio": 0.1, "training.warmup_steps": 0}, "Warm up for 10 % of the steps.")
"""A share and not a number of steps, so that it also fits a run on fewer rows."""


def warmup_units(card: Card) -> Iterator[Finding]:
    """Warmup was counted in other units than the trainer's steps.

    A common recipe is rows / batch size * 10 %. It counts batches of one process; the trainer counts optimizer steps,
    of which there are fewer by accumulation and processes. A warmup that equals such a share of the batches, but not
    of the steps, was meant to be that share and lasted several times longer. A warmup that is longer than the whole
    run never reaches the learning rate at all.

    Silent when: warmup is given as a ratio below 1; neither accumulation nor processes make the units differ; the
    number is no round share of the batches; the card was written by fit() (its warmup is not on the card), except for
    a short note where fit()'s default of 10,000 exceeds the run.

    Example: warmup_steps 956 = 10 % of 153,000 / 16, but an epoch has 1,195 steps: 0.8 epoch of warmup.
    """
    if infer(card).fit is not None:
        yield from _fit_warmup(card)
        return
    warmup, planned = lookup.number(card, "warmup_steps"), infer(card).planned_steps
    if not warmup or warmup < 2 or not planned:
        return
    lines = lookup.argument_lines(card, "warmup_steps")
    if warmup > planned:
        yield finding(
            "warmup-units",
            "error",
            f"Warmup lasts {short(warmup)} steps, but the whole run has about {planned:,}: the learning rate on the "
            "card was never reached.",
            lines=lines,
            fix=TENTH,
            warmup_steps=warmup,
            planned_steps=planned,
        )
        return
    found, rows, batch = infer(card).epoch, lookup.sizes(card), lookup.batch_size(card)
    if not found or not rows or not batch:
        return
    steps, per_epoch = found.steps(found.batches[0])[0], sum(rows) / batch
    if steps > 0.9 * per_epoch:
        return
    for share in (0.1, 0.05, 0.2):
        if int(warmup) in {math.floor(per_epoch * share), math.ceil(per_epoch * share)}:
            meant, part = max(1, round(steps * share)), round(steps * share / planned, 4)
            yield finding(
                "warmup-units",
                "warning",
                f"Warmup of {short(warmup)} steps is {short(share * 100)} % of the {per_epoch:,.0f} batches that "
                f"{sum(rows):,} rows make, but an epoch has {steps:,} optimizer steps: it lasted "
                f"{short(warmup / steps, 2)} epochs.",
                lines=[*lines, *size_lines(card)],
                fix=Fix(
                    {"training.warmup_ratio": part, "training.warmup_steps": 0},
                    f"Warm up for {short(share * 100)} % of an epoch's optimizer steps, {meant:,}: a share of "
                    f"{short(part)} of the run.",
                ),
                warmup_steps=warmup,
                share_of_batches=share,
                steps_per_epoch=steps,
                epochs_of_warmup=round(warmup / steps, 4),
            )
            return


def _fit_warmup(card: Card) -> Iterator[Finding]:
    """fit()'s default warmup of 10,000 steps against a shorter run."""
    planned = infer(card).planned_steps
    if planned is None or planned >= 10_000:
        return
    yield finding(
        "warmup-units",
        "note",
        f"fit() warms up for 10,000 steps unless told otherwise, and this run has {planned:,}: if nothing was passed, "
        f"the learning rate never exceeded {short(planned / 100, 2)} % of its value.",
        lines=[lookup.fact_line(dataset, "size") for dataset in card.training_datasets()],
        fix=TENTH,
        planned_steps=planned,
    )


def learning_rate(card: Card) -> Iterator[Finding]:
    """The learning rate does not suit the kind of module that was trained.

    Static embeddings need rates around 0.2, because a row moves only when its token occurs: at the 2e-05 to 5e-05 of
    transformers they do not move at all. A transformer trained whole breaks above about 1e-3. A LoRA adapter trains at
    1e-5 to 1e-2.

    Silent when: the rate lies in those wide ranges; the optimizer is not Adam; the card was written by fit(), whose
    rate is not on the card, unless the model is static and its log stood still.

    Example: StaticEmbedding(30522, 1024), 5e-05 shown, fit() default 2e-05, and a flat log.
    """
    rate, optimizer = lookup.number(card, "learning_rate"), str(lookup.argument(card, "optim") or "adamw")
    lines = lookup.argument_lines(card, "learning_rate")
    static = {"training.learning_rate": 0.2, "training.warmup_ratio": 0.1, "training.warmup_steps": 0}
    precise = {"training.bf16": True, "training.fp16": False}
    if infer(card).fit is not None:
        if lookup.is_static(card) and stood_still(card):
            yield finding(
                "learning-rate",
                "error",
                "Static embeddings need a learning rate around 0.2; the default of fit(), 2e-05 (and the 5e-05 shown), "
                "is far too small for them and explains the flat log.",
                lines=[*lines, *(found.line for found in card.modules)],
                fix=Fix({**static, **precise}, "Train at 0.2 with 10 % warmup, in bfloat16."),
                shown=rate,
            )
        return
    if rate is None or rate <= 0 or not trained_by_adam(optimizer) or not lookup.has_training(card) or not card.modules:
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
    changes: dict[str, Any] = {**static, **precise} if better == 0.2 else {"training.learning_rate": better}
    yield finding(
        "learning-rate",
        "warning",
        f"A learning rate of {short(rate)} is far {'below' if rate < low else 'above'} what {kind} can be trained with "
        f"({short(low)} to {short(high)}).",
        lines=lines,
        fix=Fix(changes, f"Train at {short(better)}."),
        learning_rate=rate,
        low=low,
        high=high,
    )


def trained_by_adam(optimizer: str) -> bool:
    return optimizer.lower().startswith(("adam", "paged_adam", "optimizernames.adam"))


def stood_still(card: Card) -> bool:
    """Whether neither the loss nor any metric moved; see flat-run."""
    return any(True for _ in flat_run(card))


RULES = (
    Rule("world-size", world_size),
    Rule("size-before-split", size_before_split),
    Rule("size-mismatch", size_mismatch),
    Rule("fit-defaults", fit_defaults),
    Rule("stopped-early", stopped_early),
    Rule("nothing-logged", nothing_logged),
    Rule("joined-logs", joined_logs),
    Rule("warmup-units", warmup_units),
    Rule("learning-rate", learning_rate),
)
