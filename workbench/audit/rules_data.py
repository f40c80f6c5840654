"""Rules on the data: datasets, columns, texts, and which of them a loss can use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from workbench.audit.finding import Finding, Fix, Rule, error, finding, note, short, some, warning
from workbench.cards import lookup
from workbench.cards.card import Card, Dataset
from workbench.cards.inference import infer

LOADERS = ("json", "csv", "parquet", "text", "arrow", "pandas", "generator", "webdataset", "train")
"""Names that `datasets` gives to rows from a file: the kind of file, not its content."""
LABEL_RANGES = {
    "CosineSimilarityLoss": (-1.0, 1.0),
    "BinaryCrossEntropyLoss": (0.0, 1.0),
    "ContrastiveLoss": (0.0, 1.0),
    "OnlineContrastiveLoss": (0.0, 1.0),
}
PARAMETERS = {("XLMRobertaModel", 768): "about 278 million", ("XLMRobertaModel", 1024): "about 560 million"}
"""(architecture, dimensions) -> number of parameters."""


@Rule
def dataset_unnamed(card: Card) -> Iterator[Finding]:
    """The card does not say which rows it trained on.

    "Unnamed Dataset", or a name that is only the kind of file (json, csv, ...): nobody can find the rows again.
    Silent when: every training dataset has its own name or links a Hub dataset; the front matter names datasets.
    Example: "Unnamed Dataset", 153,000 rows.
    """
    unnamed = [
        dataset
        for dataset in card.training_datasets()
        if not dataset.id and (dataset.name is None or dataset.name.lower() in LOADERS)
    ]
    listed = card.front_matter.get("datasets")
    if not unnamed or (isinstance(listed, list) and any(str(name).lower() not in LOADERS for name in listed)):
        return
    names = dict.fromkeys(dataset.name for dataset in unnamed if dataset.name)
    rows = sum(dataset.size or 0 for dataset in unnamed)
    what = f"{some(names)} is the kind of file, not a dataset" if names else "The training dataset has no name"
    yield note(
        f"{what}: the {short(rows) + ' ' if rows else ''}rows cannot be found again from the card.",
        [lookup.first_line(dataset) for dataset in unnamed],
        rows=rows,
    )


@Rule
def duplicate_anchors(card: Card) -> Iterator[Finding]:
    """The same anchor occurs in several rows, and the default sampler may put them into one batch.

    With in-batch negatives, two rows of one anchor make each other's right answer a wrong one. Shown by samples that
    repeat an anchor. A note where two or more printed questions compare two things and the document beside each covers
    one, or where a name suggests public data whose queries have several documents.
    Silent when: the sampler is no_duplicates; the loss uses no in-batch negatives; nothing shows repeats.
    Example: 153,000 rows of HotpotQA, two for each question, batch 16: 1 row in 10,200 shares a batch with its double.
    Fix: keep rows that share a text out of one batch.
    """
    found = infer(card).repeated_anchors
    if found is None:
        return
    fix = Fix({"training.batch_sampler": "no_duplicates"}, "Keep rows that share a text out of one batch.")
    harm = "the default sampler may put such rows into one batch, where each makes the other's positive a negative"
    if found.evidence == "samples":
        yield warning(
            f"Of {found.printed} samples, {found.count} share one {lookup.text_columns(found.dataset)[0]}, and {harm}.",
            found.lines,
            fix,
            repeated=found.anchors,
        )
    elif found.evidence == "comparisons":
        yield note(
            f"{found.count} of {found.printed} printed questions compare two things, and the document beside each "
            f"covers one: such a question very likely occurs in two rows, and {harm}.",
            found.lines,
            fix,
            comparing=found.count,
            printed=found.printed,
        )
    else:
        batch, rows = lookup.batch_size(card) or 1, found.dataset.size or 0
        chance = min(1.0, (batch - 1) * (found.documents - 1) / max(rows - 1, 1))
        yield note(
            f"If the rows are those of {found.known}, as the name suggests, a query has {short(found.documents)} "
            f"relevant documents and occurs in as many rows; in batches of {batch} drawn by the default sampler from "
            f"{rows:,} rows, about 1 row in {round(1 / chance):,} has a false negative of its own query.",
            found.lines,
            fix,
            documents_per_query=found.documents,
            chance=round(chance, 6),
            reference="https://arxiv.org/abs/2104.08663",
        )


@Rule
def batch_too_small(card: Card) -> Iterator[Finding]:
    """In-batch negatives with a batch of a few rows: hardly any negatives.

    With 4 rows an anchor has 3 negatives, and picking one text of 4 is easy. Accumulating gradients adds none.
    Silent when: a batch holds more than 8 rows; the rows have hard negatives; the loss does not use the batch.
    Example: MultipleNegativesRankingLoss, batch 4: three negatives.
    """
    batch, per = lookup.batch_size(card), lookup.accumulation(card)
    pairs = [(each, node) for each, node in lookup.in_batch_losses(card) if len(lookup.text_columns(each)) == 2]
    if batch is None or batch > 8 or not pairs:
        return
    dataset, node = pairs[0]
    also = f"; accumulating {per} steps adds none" if per > 1 else ""
    yield finding(
        "warning" if batch <= 4 else "note",
        f"With batches of {batch}, {lookup.class_name(node.name)} has {batch - 1} negative{'s' * (batch != 2)} for "
        f"each anchor{also}; a larger batch (or the cached loss) gives more.",
        [*lookup.argument_lines(card, "per_device_train_batch_size"), lookup.loss_line(dataset, node)],
        batch=batch,
        negatives=batch - 1,
    )


@Rule
def label_ignored(card: Card) -> Iterator[Finding]:
    """The rows have labels, and the loss does not read them: pairs labeled as no match are trained as matches.

    MultipleNegativesRankingLoss and its variants take every pair as a positive one and pull it together.
    Silent when: all labels are equal, or above 0 (they may grade positives); the loss reads labels.
    Example: columns claim, evidence, label, of which 73% are -1, under MultipleNegativesRankingLoss.
    """
    for dataset, node in lookup.in_batch_losses(card):
        name, statistics = lookup.class_name(node.name), lookup.label_statistics(dataset)
        if statistics is None or name not in lookup.SOFTMAX or len(lookup.text_columns(dataset)) < 2:
            continue
        span, shares = lookup.label_range(statistics), lookup.label_values(statistics)
        if span is None or span[0] == span[1] or span[0] > 0:
            continue
        bad = sum(share for label, share in (shares or {}).items() if label <= 0)
        mean = statistics.details.get("mean")
        how = f"{short(bad * 100, 1)}% of them 0 or less" if bad else f"from {short(span[0])} to {short(span[1])}"
        if not bad and isinstance(mean, int | float):
            how += f", mean {short(mean)}"
        yield error(
            f"{name} does not read the column {statistics.column} ({how}): pairs labeled as no match were trained as "
            "matches.",
            [lookup.fact_line(dataset, "statistics"), lookup.loss_line(dataset, node)],
            column=statistics.column,
            lowest=span[0],
            highest=span[1],
            share_not_positive=round(bad, 4),
        )


@Rule
def label_range(card: Card) -> Iterator[Finding]:
    """Labels are outside the range of the loss.

    CosineSimilarityLoss compares a cosine, -1 to 1, with the label; binary losses take 0 to 1. Scores of 0 to 5 can
    never be met, and the loss pushes every pair together. SoftmaxLoss takes whole numbers from 0, one for each class.
    Silent when: labels are within the range or have no statistics; the loss has another range.
    Example: CosineSimilarityLoss with labels from 0 to 5.
    """
    for dataset, node in lookup.loss_nodes(card):
        name, statistics = lookup.class_name(node.name), lookup.label_statistics(dataset)
        allowed, span = LABEL_RANGES.get(name), lookup.label_range(statistics) if statistics else None
        if name == "SoftmaxLoss":
            classes = node.parameters.get("num_labels")
            allowed = (0.0, classes - 1.0 if isinstance(classes, int) else math.inf)
        if allowed is None or statistics is None or span is None:
            continue
        if name == "SoftmaxLoss" and statistics.type == "float":
            yield error(
                f"{name} takes whole numbers as labels, but the column {statistics.column} holds others.",
                [lookup.fact_line(dataset, "statistics"), lookup.loss_line(dataset, node)],
            )
        if span[0] < allowed[0] - 1e-6 or span[1] > allowed[1] + 1e-6:
            yield error(
                f"{name} takes labels from {short(allowed[0])} to {short(allowed[1])}, but the column "
                f"{statistics.column} holds {short(span[0])} to {short(span[1])}.",
                [lookup.fact_line(dataset, "statistics"), lookup.loss_line(dataset, node)],
                lowest=span[0],
                highest=span[1],
            )


def _statistics(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {found.column: dict(found.details) for found in dataset.statistics}


@Rule
def identical_columns(card: Card) -> Iterator[Finding]:
    """Anchor and positive are the same text in every sample.

    The model then only learns that a text is similar to itself (with dropout: SimCSE, which may be intended).
    Silent when: any sample differs; the columns' statistics differ; fewer than two samples; the loss is a denoising
    one.
    Example: both columns 34 to 256 tokens, mean 92.38, and every sample row the same on both sides.
    """
    for dataset, node in lookup.in_batch_losses(card):
        columns, details = lookup.text_columns(dataset), _statistics(dataset)
        if len(columns) != 2 or len(dataset.samples) < 2 or details.get(columns[0]) != details.get(columns[1]):
            continue
        if all(sample.get(columns[0]) == sample.get(columns[1]) for sample in dataset.samples):
            yield warning(
                f"{columns[0]} and {columns[1]} hold the same text in all {len(dataset.samples)} samples and have the "
                f"same statistics: {lookup.class_name(node.name)} only learned that a text is similar to itself.",
                [lookup.fact_line(dataset, "statistics"), lookup.fact_line(dataset, "samples")],
                samples=len(dataset.samples),
            )


@Rule
def tiny_data(card: Card) -> Iterator[Finding]:
    """A whole transformer was trained on a few hundred rows.

    Silent when: there are 1,000 rows or more (a note below that, a warning below 300); the size is unknown; only an
    adapter or static embeddings were trained.
    Example: 260 rows for XLM-R base with its 278 million parameters.
    """
    rows, transformer = sum(lookup.sizes(card) or ()), lookup.module(card, "Transformer")
    if not rows or rows >= 1000 or transformer is None or lookup.adapter(card) or lookup.lora_config(card):
        return
    pooling, planned = lookup.module(card, "Pooling"), infer(card).planned_steps
    keys = ("word_embedding_dimension", "embedding_dimension")
    widths = (width for key in keys if pooling and isinstance(width := pooling.parameters.get(key), int))
    base = transformer.architecture or str(transformer.parameters.get("architecture") or "transformer")
    size = PARAMETERS.get((base, next(widths, 0)))
    base += f" with {size} parameters" if size else ""
    run = f" in {planned:,} steps" if planned else ""
    yield finding(
        "warning" if rows < 300 else "note",
        f"{rows:,} rows{run} trained a whole {base}: expect the result to depend on the seed.",
        lookup.fact_lines(card.training_datasets(), "size"),
        rows=rows,
        steps=planned,
    )


@Rule
def train_is_eval(card: Card) -> Iterator[Finding]:
    """The evaluation rows are training rows.

    Shown by a sample that both datasets print, or by equal sizes with equal statistics in every column.
    Silent when: samples and statistics differ. Equal sizes alone prove nothing (see size-before-split).
    Example: 500 rows for training and 500 for evaluation, all statistics equal.
    """
    pairs = [(train, held) for train in card.training_datasets() for held in card.evaluation_datasets()]
    for train, held in pairs:
        shared = [sample for sample in held.samples if sample in train.samples]
        same = bool(train.statistics and train.size and train.size == held.size)
        same = same and _statistics(train) == _statistics(held)
        if train.columns != held.columns or not (shared or same):
            continue
        why = f"both have {train.size or 0:,} rows with the same statistics in every column"
        if shared:
            why = f"{len(shared)} of {len(held.samples)} evaluation samples are training samples"
        yield error(
            f"The evaluation rows are training rows: {why}.",
            lookup.fact_lines((train, held), "samples" if shared else "statistics"),
            shared_samples=len(shared),
        )


@Rule
def truncated_texts(card: Card) -> Iterator[Finding]:
    """Texts were truncated at the maximum sequence length.

    The card counts tokens after truncation: a maximum equal to the limit shows that a text reached it, a mean near the
    limit that many did.
    Silent when: the longest text is shorter than the limit; lengths are in characters.
    Example: 128 tokens at most, limit 128; or a mean of 127.97 of 128.
    """
    limit = card.max_seq_length
    if limit is None or not isinstance(limit.value, int):
        return
    hit: list[tuple[float, str]] = []
    lines = [limit.line]
    for dataset in card.training_datasets():
        for found in dataset.statistics:
            longest, mean = found.details.get("max"), found.details.get("mean")
            if found.unit == "tokens" and isinstance(longest, int | float) and longest >= limit.value:
                hit.append((float(mean) if isinstance(mean, int | float) else 0.0, found.column))
                lines.append(lookup.fact_line(dataset, "statistics"))
    if not hit:
        return
    most, column = max(hit)
    heavy = most >= 0.9 * limit.value
    sure = 1 - (limit.value - most)  # a text under the limit is at least one token shorter
    share = f"at least {100 * sure:.0f}% of its texts reach it" if sure > 0.5 else "many reach it"
    yield finding(
        "warning" if heavy else "note",
        f"Texts of {some(dict.fromkeys(name for _, name in hit))} reach the limit of {limit.value} tokens and are "
        "truncated there" + (f"; {column} has {short(most, 2)} on average, so {share}." if heavy else "."),
        lines,
        columns=[name for _, name in hit],
        limit=limit.value,
        mean=most,
    )


@Rule
def prompts_in_texts(card: Card) -> Iterator[Finding]:
    """Prompts are part of the texts instead of the model's `prompts`.

    Every sample of a column begins with the same instruction, which users of the model do not know: without it the
    model works worse. From `prompts`, encode adds it automatically.
    Silent when: samples have no common beginning with a word like query, passage or represent and a colon; prompts are
    configured; fewer than two different samples; the model is a cross-encoder, whose texts are often templates.
    Example: every query begins with an instruction for searching, every document with one for retrieving.
    Fix: keep the prompts by name and strip them from the texts.
    """
    prefixes = infer(card).prompts
    if prefixes is None:
        return
    found = dict(prefixes.texts)
    named = dict(zip(("query", "document"), found.values(), strict=False))
    quoted = some(f"{column} with {text[:80]!r}" for column, text in found.items())
    yield warning(
        f"Prompts are part of the texts instead of `prompts`: every sample of {quoted} begins so, which users of "
        "the model do not know.",
        [*prefixes.lines, *lookup.argument_lines(card, "prompts")],
        Fix(
            {"base.prompts": named, "training.prompts": found},
            "Keep the prompts by name and strip them from the texts.",
        ),
        prompts=found,
    )


@Rule
def text_damaged(card: Card) -> Iterator[Finding]:
    """The card's text was decoded wrongly; what could be restored was, and what could not is counted.

    Silent when: nothing was repaired and nothing is lost.
    Example: 2,310 characters restored, 412 lost.
    """
    text = card.text
    if text.lost or text.repaired >= 3:
        lost = f", {text.lost:,} are lost" if text.lost else ""
        yield finding(
            "warning" if text.lost else "note",
            f"The text was decoded wrongly: {text.repaired:,} characters were restored{lost}.",
            (text.lost_lines or text.repaired_lines)[:20],
            repaired=text.repaired,
            lost=text.lost,
        )
