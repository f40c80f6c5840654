"""Which rows a card trained on: datasets, split, prompts in their texts, and public facts about them.

What the shipped cards do not state is taken from `cards.known`, with that origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.cards import literals
from workbench.cards.card import Card, Dataset, Stated
from workbench.cards.inference import infer
from workbench.cards.known import SOURCES, known_card
from workbench.cards.lookup import argument_lines, batch_size, fact_line, first_line, sizes, text_columns
from workbench.recipe.draft import Draft


def put_data(draft: Draft, card: Card) -> None:
    datasets = card.training_datasets()
    train = next(iter(datasets), None)
    if train is None:
        tagged = next((literals.number(tag[13:]) for tag in card.tags if tag.startswith("dataset_size:")), None)
        if isinstance(tagged, int):
            draft.put("data.train.rows", tagged, "card", note="from the card's tags")
        return
    known = known_card(card.sha256)
    if known is not None and known.own:
        draft.put("data.train.location", f"sample:{known.sample}", "inferred", note=f"{SOURCES}: this card's own rows")
    elif train.id is None:
        named = f"says only {train.name!r}" if train.name else "does not name its dataset"
        hint = "name yours with --data"
        if len(datasets) > 1:
            hint = f"give the rows of each of the {len(datasets)} datasets: --data NAME=FILE for each"
        if known and known.train and train.size and known.train.rows >= train.size:
            hint = f"{known.train.location} is a public source that matches; name it, or yours, with --data"
        note = f"the card {named}; {hint}"
        draft.put("data.train.location", "unknown", "default", first_line(train), note=note)
    put_source(draft, "data.train", train)
    if train.columns:
        draft.put("data.columns", list(train.columns), "card", train.facts.get("columns"))
    put_several(draft, card, datasets)
    if train.size is not None and not (known is not None and known.own):  # a sample is divided into files
        put_split(draft, card, train)


def sorted_lines(*lines: int | None) -> list[int]:
    return sorted({line for line in lines if line is not None})


def put_source(draft: Draft, path: str, dataset: Dataset) -> None:
    """What the card says about where the rows of one dataset are."""
    if dataset.id:
        draft.put(f"{path}.location", dataset.id, "card", fact_line(dataset, "id"))
    if dataset.revision:
        draft.put(f"{path}.revision", dataset.revision, "card", fact_line(dataset, "id"))
    if dataset.size is not None:
        draft.put(f"{path}.rows", dataset.size, "card", dataset.facts.get("size"))


def put_several(draft: Draft, card: Card, datasets: Sequence[Dataset]) -> None:
    """The datasets after the first, each with its source and columns."""
    if len(datasets) < 2:
        return
    names = names_of(datasets)
    draft.put("data.name", names[0], "card" if datasets[0].name else "default", first_line(datasets[0]))
    for number, (name, dataset) in enumerate(zip(names[1:], datasets[1:], strict=True)):
        path = f"data.more.{number}"
        draft.put(f"{path}.name", name, "card" if dataset.name else "default", first_line(dataset))
        put_source(draft, f"{path}.source", dataset)
        if dataset.columns:
            draft.put(f"{path}.columns", list(dataset.columns), "card", dataset.facts.get("columns"))
        held_out = next(
            (each for each in card.evaluation_datasets() if dataset.name and each.name == dataset.name), None
        )
        if held_out is not None:
            place, line = f"{path}.evaluation", first_line(held_out)
            put_source(draft, place, held_out)
            if held_out.id is None:
                note = f"the card does not say where these rows are; --set {place}.location=FILE"
                draft.put(f"{place}.location", "unknown", "default", line, note=note)


def names_of(datasets: Sequence[Dataset]) -> list[str]:
    """A name for each dataset, no two alike.

    >>> names_of([Dataset("train", "nli"), Dataset("train", None), Dataset("train", "nli")])
    ['nli', 'dataset_2', 'nli_3']
    """
    names: list[str] = []
    for number, dataset in enumerate(datasets, start=1):
        name = dataset.name or f"dataset_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def put_split(draft: Draft, card: Card, train: Dataset) -> None:
    """Which share of the rows trained, and in how many processes: from the sizes, or from the steps of an epoch."""
    several = len(card.training_datasets()) > 1
    held_out = next((one for one in card.evaluation_datasets() if not several or one.name == train.name), None)
    lines = (train.facts.get("size"), held_out.facts.get("size") if held_out else None)
    rows = train.size or 0
    if held_out and held_out.id and held_out.id != train.id:
        draft.put("data.evaluation.location", held_out.id, "card", fact_line(held_out, "id"))
        draft.put("data.evaluation.rows", held_out.size, "card", lines[1])
    whole = held_out is None or held_out.size in (None, rows)
    if not whole and held_out and held_out.size and not held_out.id:
        every = rows + held_out.size
        note = f"{rows:,} rows train and {held_out.size:,} are held out: a split of {every:,}"
        draft.put("data.train.rows", every, "inferred", *lines, note=note)
        put_shares(draft, (rows / every, held_out.size / every, 0.0), lines, note)
    division, rows = infer(card).division, sum(sizes(card) or ())
    found = division.part or division.shared if division is not None else None
    if found is None:
        return
    batch = batch_size(card) or 1
    seen = f"the log's {found.batches:,} batches an epoch × {batch} rows = {found.batches * batch:,} of {rows:,} rows"
    if found.processes > 1:
        note = f"{seen}: the part of one of {found.processes} processes"
        draft.put("training.processes", found.processes, "inferred", lines[0], note=note)
    elif whole and not several:
        rest, queries = round(1 - found.share, 4), infer(card).queries
        note, measured = f"{seen}, which is {100 * found.share:.0f}%", rest
        if queries and (part := round(queries / rows, 2)) < rest:
            measured = part
            note += f"; accuracies are multiples of 1/{queries}, {100 * part:.0f}% of the rows"
        put_shares(draft, (found.share, measured, round(rest - measured, 4)), lines, note)


def put_shares(draft: Draft, shares: tuple[float, float, float], lines: tuple[int | None, ...], note: str) -> None:
    for name, share in zip(("train", "validation", "test"), shares, strict=True):
        draft.put(f"data.split.{name}", share, "inferred", *lines, note=note)
    draft.put("data.split.seed", 42, "default", note="the card does not say how the rows were drawn")


def put_prompts(draft: Draft, card: Card) -> None:
    """Prompts of the training, from the trainer's argument or from what the texts begin with.

    Prompts in texts are put by column for training and by kind (query, document) for evaluation, so that texts without
    them give the same inputs as the card's.
    """
    stated = card.argument("prompts")
    if stated is not None and stated.value:
        put_stated_prompts(draft, card, stated)
        return
    proof = infer(card).prompts
    known = known_card(card.sha256)
    if proof is not None:
        found, lines = dict(proof.texts), sorted_lines(*proof.lines, *argument_lines(card, "prompts"))
        note = "every sample of the column on the card begins so; it is put before the texts, not kept in them"
    elif known and known.prompts:
        found, lines, note = dict(known.prompts), [], f"{SOURCES}: the rows of this card begin so"
    else:
        return
    for column, text in found.items():
        draft.put(f"training.prompts.{column}", text, "inferred", *lines, note=note)
    if not any(path.startswith("base.prompts.") for path in draft.fields):
        columns = [column for dataset in card.training_datasets()[:1] for column in text_columns(dataset)]
        for kind, column in zip(("query", "document"), columns, strict=False):
            if column in found:
                draft.put(f"base.prompts.{kind}", found[column], "inferred", *lines, note=f"that of {column}; {note}")


def put_stated_prompts(draft: Draft, card: Card, stated: Stated[Any]) -> None:
    """The argument `prompts`: one for all columns, one for each column, or either for each dataset."""
    datasets = card.training_datasets()
    columns = [column for dataset in datasets[:1] for column in text_columns(dataset)]
    value, names = stated.value, names_of(datasets)
    if isinstance(value, Mapping) and value and set(value) <= set(names) and not set(value) <= set(columns):
        others = [name for name in value if name != names[0] and value[name] != value.get(names[0])]
        if others:
            draft.notes.append(f"`prompts` of the dataset{'s' * (len(others) > 1)} {', '.join(others)} are not used.")
        value = value.get(names[0])
    found = dict.fromkeys(columns, value) if isinstance(value, str) else value
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for text in found.values()):
        if value is not None:
            draft.notes.append(f"`prompts` = {stated.value!r} is not used: it is not one text for each column.")
        return
    for column, text in found.items():
        if text:
            draft.put_stated(f"training.prompts.{column}", stated, text)


def put_repeated_queries(draft: Draft, card: Card) -> None:
    """Whether rows with the same question are one query: counted as the card's own evaluation did, else as known."""
    if card.evaluations or card.model_index:
        line = first_line(card.evaluations[0]) if card.evaluations else None
        note = "the card's evaluation does not merge them, as far as it shows"
        draft.put("evaluation.repeated_queries", "separate", "default", line, note=note)
        return
    proof = infer(card).repeated_anchors
    known = known_card(card.sha256)
    if proof is not None and proof.evidence != "name":  # a name alone proves nothing
        note = "the same question comes in several rows, each with another right answer; see duplicate-anchors"
        draft.put("evaluation.repeated_queries", "merged", "inferred", *sorted_lines(*proof.lines), note=note)
    elif known and known.repeated_queries:
        value = known.repeated_queries
        draft.put("evaluation.repeated_queries", value, "inferred", note=f"{SOURCES}: known of the rows of this card")
