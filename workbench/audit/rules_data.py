"""Rules on what went in: datasets, columns, texts, and which of them a loss can use.

Each rule is a pure function Card -> findings; its docstring is its page in `findings.md`.
"""

from __future__ import annotations

from collections.abc import Iterator

from workbench.audit.finding import Finding, Fix, Rule, finding, short, some
from workbench.cards import lookup
from workbench.cards.card import Card
from workbench.cards.inference import infer
from workbench.cards.samples import RepeatedAnchors

LOADERS = ("json", "csv", "parquet", "text", "arrow", "pandas", "generator", "webdataset", "train")
"""Names that `datasets` gives to rows from a file: the kind of file, not what is in it."""


def dataset_unnamed(card: Card) -> Iterator[Finding]:
    """The card does not say which rows it trained on.

    "Unnamed Dataset", or a name that is only the kind of file (json, csv, ...): nobody can find the rows again.

    Silent when: every training dataset has a name of its own or links a Hub dataset; the front matter names datasets.

    Example: "Unnamed Dataset", 153,000 rows.
    """
    nameless = [
        dataset
        for dataset in card.training_datasets()
        if not dataset.id and (dataset.name is None or dataset.name.lower() in LOADERS)
    ]
    listed = card.front_matter.get("datasets")
    real = [name for name in listed if str(name).lower() not in LOADERS] if isinstance(listed, list) else []
    if not nameless or real:
        return
    names = dict.fromkeys(dataset.name for dataset in nameless if dataset.name)
    rows = sum(dataset.size or 0 for dataset in nameless)
    what = f"{some(names)} is the kind of file, not a dataset" if names else "The training dataset has no name"
    yield finding(
        "dataset-unnamed",
        "note",
        f"{what}: the {short(rows) + ' ' if rows else ''}rows cannot be found again from the card.",
        lines=[(dataset.lines or (None,))[0] for dataset in nameless],
        rows=rows,
    )


def duplicate_anchors(card: Card) -> Iterator[Finding]:
    """The same anchor occurs in several rows, and the default sampler may put them into one batch.

    With in-batch negatives every other row's positive counts as a negative. Two rows of one anchor in a batch then make
    each other's right answer a wrong one. The no_duplicates sampler keeps them apart. Proven by samples that repeat an
    anchor. It is a note where two or more printed questions compare two things while the document beside each tells of
    one, or where the name of the data tells that its queries have several documents (HotpotQA: two); then with the
    size of the effect, which is small when many rows share few repeats.

    Silent when: the sampler is a no_duplicates one; the loss uses no in-batch negatives; neither the samples nor a
    known name shows repeats.

    Example: 153,000 rows of HotpotQA, two for each question, batch 16: a row meets its sibling in 1 of 10,200 batches.
    """
    found = infer(card).repeated_anchors
    if found is None:
        return
    fix = Fix({"training.batch_sampler": "no_duplicates"}, "Keep rows that share a text out of one batch.")
    anchor = lookup.text_columns(found.dataset)[0]
    if found.evidence == "samples":
        yield finding(
            "duplicate-anchors",
            "warning",
            f"Of {found.printed} samples {found.count} share one {anchor}, and the default sampler may put them into "
            "one batch, where each makes the other's positive a negative.",
            lines=found.lines,
            fix=fix,
            repeated=found.anchors,
        )
    elif found.evidence == "comparisons":
        yield finding(
            "duplicate-anchors",
            "note",
            f"{found.count} of {found.printed} printed questions compare two things, and the document beside each "
            "tells of one: such a question very likely comes in two rows, and the default sampler may put both into "
            "one batch, where each makes the other's positive a negative.",
            lines=found.lines,
            fix=fix,
            comparing=found.count,
            printed=found.printed,
        )
    else:
        yield _known_repeats(card, found, fix)


def _known_repeats(card: Card, found: RepeatedAnchors, fix: Fix) -> Finding:
    """The note for public data whose queries are known to have several documents."""
    batch, rows = lookup.batch_size(card) or 1, found.dataset.size or 0
    chance = min(1.0, (batch - 1) * (found.documents - 1) / max(rows - 1, 1))
    return finding(
        "duplicate-anchors",
        "note",
        f"If the rows are those of {found.known}, as the name suggests, a query has {short(found.documents)} relevant "
        f"documents and, with one row for each, comes in several rows; in batches of {batch} drawn by the default "
        f"sampler from {rows:,} rows, about 1 row in {round(1 / chance):,} meets one of its own as a false negative.",
        lines=found.lines,
        fix=fix,
        documents_per_query=found.documents,
        chance=round(chance, 6),
        reference="https://arxiv.org/abs/2104.08663",
    )


def batch_too_small(card: Card) -> Iterator[Finding]:
    """In-batch negatives with a batch of a few rows: hardly any negatives.

    The loss compares each anchor with the other rows of its batch. With 4 rows, 3 of them are negatives, and picking
    one text of 4 is easy. Accumulating gradients does not help: negatives come from one forward pass.

    Silent when: a batch holds more than 8 rows; the rows bring hard negatives of their own; the loss does not use the
    batch.

    Example: MultipleNegativesRankingLoss, batch 4: three negatives.
    """
    batch = lookup.batch_size(card)
    for dataset, _, node in lookup.in_batch_losses(card):
        if batch is None or batch > 8 or len(lookup.text_columns(dataset)) != 2:
            continue
        per = lookup.accumulation(card)
        also = f"; accumulating {per} steps adds none" if per > 1 else ""
        yield finding(
            "batch-too-small",
            "warning" if batch <= 4 else "note",
            f"With batches of {batch}, {lookup.class_name(node.name)} has {batch - 1} negative"
            f"{'s' if batch != 2 else ''} for each anchor{also}; a larger batch (or the cached loss) gives more.",
            lines=[
                *lookup.argument_lines(card, "per_device_train_batch_size"),
                node.line or lookup.fact_line(dataset, "loss"),
            ],
            batch=batch,
            negatives=batch - 1,
        )
        return


def label_ignored(card: Card) -> Iterator[Finding]:
    """The rows have labels, and the loss does not read them: pairs labelled as no match are trained as matches.

    MultipleNegativesRankingLoss and its kin take every row's pair as a positive one. A label column is ignored, so rows
    with label 0 (or -1) pull together what they were meant to keep apart.

    Silent when: there is no label column; all labels are equal; labels only grade the positives (all above 0.5 of
    their range cannot be told, so only values of 0 or less count); the loss reads labels.

    Example: columns claim, evidence, label, of which 73 % are -1, under MultipleNegativesRankingLoss.
    """
    for dataset, _, node in lookup.in_batch_losses(card):
        statistics = lookup.label_statistics(dataset)
        if (
            statistics is None
            or lookup.class_name(node.name) not in lookup.SOFTMAX
            or len(lookup.text_columns(dataset)) < 2
        ):
            continue
        span, shares = lookup.label_range(statistics), lookup.label_values(statistics)
        if span is None or span[0] == span[1] or span[0] > 0:
            continue
        bad = sum(share for label, share in (shares or {}).items() if label <= 0)
        mean = statistics.details.get("mean")
        how = f"{short(bad * 100, 1)} % of them 0 or less" if bad else f"from {short(span[0])} to {short(span[1])}"
        if not bad and isinstance(mean, int | float):
            how += f", mean {short(mean)}"
        yield finding(
            "label-ignored",
            "error",
            f"{lookup.class_name(node.name)} does not read the column {statistics.column} ({how}): pairs labelled as "
            "no match were trained as matches.",
            lines=[lookup.fact_line(dataset, "statistics"), node.line or lookup.fact_line(dataset, "loss")],
            column=statistics.column,
            lowest=span[0],
            highest=span[1],
            share_not_positive=round(bad, 4),
        )


LABEL_RANGES = {
    "CosineSimilarityLoss": (-1.0, 1.0),
    "BinaryCrossEntropyLoss": (0.0, 1.0),
    "ContrastiveLoss": (0.0, 1.0),
    "OnlineContrastiveLoss": (0.0, 1.0),
}


def label_range(card: Card) -> Iterator[Finding]:
    """Labels lie outside what the loss can reach.

    CosineSimilarityLoss compares a cosine, -1 to 1, with the label; binary losses take 0 to 1. Scores of 0 to 5 can
    never be met, and the loss pushes every pair together.

    Silent when: labels are within the range; the card gives no statistics of them; the loss has another range.

    Example: CosineSimilarityLoss with labels from 0 to 5.
    """
    for dataset, root in lookup.loss_trees(card):
        for node in root.chain():
            allowed, statistics = LABEL_RANGES.get(lookup.class_name(node.name)), lookup.label_statistics(dataset)
            span = lookup.label_range(statistics) if statistics else None
            if allowed is None or statistics is None or span is None:
                continue
            if allowed[0] - 1e-6 <= span[0] and span[1] <= allowed[1] + 1e-6:
                continue
            yield finding(
                "label-range",
                "error",
                f"{lookup.class_name(node.name)} takes labels from {short(allowed[0])} to {short(allowed[1])}, and the "
                f"column {statistics.column} holds {short(span[0])} to {short(span[1])}.",
                lines=[lookup.fact_line(dataset, "statistics"), node.line or lookup.fact_line(dataset, "loss")],
                lowest=span[0],
                highest=span[1],
            )


def identical_columns(card: Card) -> Iterator[Finding]:
    """Anchor and positive are the same text in every sample.

    Trained so, a model only learns that a text is like itself: the positive's similarity is 1 but for dropout (that is
    the SimCSE recipe, which is a choice), and a small loss says nothing about related texts.

    Silent when: any sample differs; the columns' statistics differ; fewer than two samples; the loss is a denoising
    one.

    Example: both columns 34 to 256 tokens, mean 92.38, and every sample row the same on both sides.
    """
    for dataset, _, node in lookup.in_batch_losses(card):
        columns = lookup.text_columns(dataset)
        if len(columns) != 2 or len(dataset.samples) < 2:
            continue
        details = {found.column: dict(found.details) for found in dataset.statistics}
        same = all(sample.get(columns[0]) == sample.get(columns[1]) for sample in dataset.samples)
        if same and details.get(columns[0]) == details.get(columns[1]):
            yield finding(
                "identical-columns",
                "warning",
                f"{columns[0]} and {columns[1]} hold the same text in all {len(dataset.samples)} samples and have the "
                f"same statistics: {lookup.class_name(node.name)} only learned that a text is like itself.",
                lines=[lookup.fact_line(dataset, "statistics"), lookup.fact_line(dataset, "samples")],
                samples=len(dataset.samples),
            )


def tiny_data(card: Card) -> Iterator[Finding]:
    """A whole transformer was trained on a few hundred rows.

    Silent when: there are 1,000 rows or more (a note below that, a warning below 300); the size is unknown; only an
    adapter or static embeddings were trained.

    Example: 260 rows for XLM-R base with its 278 million parameters.
    """
    rows = lookup.sizes(card)
    transformer = lookup.module(card, "Transformer")
    if not rows or sum(rows) >= 1000 or transformer is None or lookup.adapter(card) or lookup.lora_config(card):
        return
    total, planned = sum(rows), infer(card).planned_steps
    pooling = lookup.module(card, "Pooling")
    width = next(
        (
            pooling.parameters[key]
            for key in ("word_embedding_dimension", "embedding_dimension")
            if pooling and key in pooling.parameters
        ),
        None,
    )
    base = transformer.architecture or str(transformer.parameters.get("architecture") or "transformer")
    known = {("XLMRobertaModel", 768): "about 278 million", ("XLMRobertaModel", 1024): "about 560 million"}
    if isinstance(width, int) and (base, width) in known:
        base += f" with {known[base, width]} parameters"
    run = f" in {planned:,} steps" if planned else ""
    yield finding(
        "tiny-data",
        "warning" if total < 300 else "note",
        f"{total:,} rows{run} trained a whole {base}: expect the result to depend on the seed.",
        lines=[lookup.fact_line(dataset, "size") for dataset in card.training_datasets()],
        rows=total,
        steps=planned,
    )


def train_is_eval(card: Card) -> Iterator[Finding]:
    """The evaluation rows are training rows.

    Proven by a sample that both datasets show, or by equal sizes with equal statistics in every column.

    Silent when: samples and statistics differ. Equal sizes alone prove nothing (see size-before-split).

    Example: 500 rows for training and 500 for evaluation, every statistic the same.
    """
    for train in card.training_datasets():
        for held in card.evaluation_datasets():
            if train.columns != held.columns:
                continue
            shared = [sample for sample in held.samples if sample in train.samples]
            statistics = {found.column: dict(found.details) for found in train.statistics}
            same = (
                bool(statistics)
                and statistics == {found.column: dict(found.details) for found in held.statistics}
                and train.size == held.size
                and bool(train.size)
            )
            if not shared and not same:
                continue
            why = (
                f"{len(shared)} of {len(held.samples)} evaluation samples are training samples"
                if shared
                else f"both have {train.size or 0:,} rows with the same statistics in every column"
            )
            yield finding(
                "train-is-eval",
                "error",
                f"The evaluation rows are training rows: {why}.",
                lines=[
                    lookup.fact_line(train, "samples" if shared else "statistics"),
                    lookup.fact_line(held, "samples" if shared else "statistics"),
                ],
                shared_samples=len(shared),
            )


def truncated_texts(card: Card) -> Iterator[Finding]:
    """Texts were cut at the maximum sequence length.

    The card counts tokens after cutting, so a maximum equal to the limit shows that at least one text of the first rows
    reached it, and a mean near the limit that many did.

    Silent when: the longest text is shorter than the limit; lengths are in characters; there is no limit.

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
    share = f"at least {100 * sure:.0f} % of its texts reach it" if sure > 0.5 else "many reach it"
    yield finding(
        "truncated-texts",
        "warning" if heavy else "note",
        f"Texts of {some(dict.fromkeys(name for _, name in hit))} reach the limit of {limit.value} tokens, where they "
        "are cut" + (f"; {column} has {short(most, 2)} on average, so {share}." if heavy else "."),
        lines=lines,
        columns=[name for _, name in hit],
        limit=limit.value,
        mean=most,
    )


def prompts_in_texts(card: Card) -> Iterator[Finding]:
    """Prompts are part of the texts instead of the model's `prompts`.

    Every sample of a column begins with the same instruction. The model was trained with it, but whoever loads it does
    not know: without the same words before every query it works worse. In `prompts`, encode adds them by itself.

    Silent when: samples share no beginning; it is no instruction (query, passage, represent, ... before a colon);
    prompts are configured; fewer than two different samples; the model is a cross-encoder, whose texts are often filled
    into templates.

    Example: every query begins with an instruction for searching, every document with one for retrieving.
    """
    prefixes = infer(card).prompts
    if prefixes is None:
        return
    found = dict(prefixes.texts)
    columns = list(found)
    prompts: dict[str, str] = {"query": found[columns[0]]}
    if len(columns) > 1:
        prompts["document"] = found[columns[1]]
    quoted = some(f"{column} with {text[:80]!r}" for column, text in found.items())
    yield finding(
        "prompts-in-texts",
        "warning",
        f"Prompts are baked into the texts instead of `prompts`: every sample of {quoted} begins so, and who loads the "
        "model is not told.",
        lines=[*prefixes.lines, *lookup.argument_lines(card, "prompts")],
        fix=Fix(
            {"base.prompts": prompts, "training.prompts": found},
            "Keep the prompts by name and strip them from the texts.",
        ),
        prompts=found,
    )


def text_damaged(card: Card) -> Iterator[Finding]:
    """The card's text was decoded wrongly; what could be restored was, and what could not is counted.

    Silent when: nothing was repaired and nothing is lost.

    Example: 2,310 characters restored, 412 gone for ever.
    """
    text = card.text
    if not text.lost and text.repaired < 3:
        return
    lost = f", {text.lost:,} are lost for ever" if text.lost else ""
    yield finding(
        "text-damaged",
        "warning" if text.lost else "note",
        f"The text was decoded wrongly: {text.repaired:,} characters were restored{lost}.",
        lines=[*(text.lost_lines or text.repaired_lines)[:20]],
        repaired=text.repaired,
        lost=text.lost,
    )


RULES: tuple[Rule, ...] = (
    Rule("dataset-unnamed", dataset_unnamed),
    Rule("duplicate-anchors", duplicate_anchors),
    Rule("batch-too-small", batch_too_small),
    Rule("label-ignored", label_ignored),
    Rule("label-range", label_range),
    Rule("identical-columns", identical_columns),
    Rule("tiny-data", tiny_data),
    Rule("train-is-eval", train_is_eval),
    Rule("truncated-texts", truncated_texts),
    Rule("prompts-in-texts", prompts_in_texts),
    Rule("text-damaged", text_damaged),
)
