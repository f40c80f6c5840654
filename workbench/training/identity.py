"""Identity: whether base, rows and examples of a run are known to be the card's own, and what says so.

Each check is a sentence for run.json; one that fails says which option would remove it. Nothing here is about results.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cards.inference import infer
from workbench.cards.lookup import argument, validation_losses
from workbench.data.columns import LABEL_COLUMNS
from workbench.data.training_rows import printed_places
from workbench.errors import BaseError, DataError
from workbench.evaluation.comparability import GIVE_EXAMPLES, GIVE_ROWS, STATE_BASE
from workbench.models.stand_ins import BUNDLED_SHA256, is_bundled
from workbench.training.known_examples import examples_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from workbench.cards.card import Card, ColumnStatistics, Dataset
    from workbench.data.pairs import Pairs
    from workbench.models.base import LoadedBase
    from workbench.training.prepare import Prepared

Check = tuple[str, bool, str]
"""What was checked, whether it fits, and a sentence about it."""

AT_ONCE = 8
"""Rows at a time of which the library computes its statistics; the last ones are counted whole: 104 of "100"."""


def identity(prepared: Prepared, card: Card | None) -> list[dict[str, Any]]:
    """All checks of a run against its card, as run.json keeps them.

    Raises DataError or BaseError where the user states what the card contradicts.
    """
    if prepared.given.base_is_the_cards:
        _require_card_s_base(prepared.base, card, prepared.recipe.base.max_seq_length)
    found = [*_check_base(prepared, card), *_check_rows(prepared, card)]
    if card is not None:
        found += _check_machine(prepared, card)
    return [{"check": name, "ok": ok, "sentence": f"{text[0].upper()}{text[1:]}."} for name, ok, text in found]


# --- base ------------------------------------------------------------------------------------------------------------


def _require_card_s_base(loaded: LoadedBase, card: Card | None, length: int | None) -> None:
    """BaseError where a base that the user states to be the card's cannot be it: other dimensions, another
    architecture, too short for the card's texts, or of another revision."""
    if card is None:
        return
    model = loaded.model
    width, dimensions = (infer(card).width or (None, None))[0], model.get_embedding_dimension()
    sizes = [value for module in card.modules for value in module.parameters.values()]
    transformer = getattr(model[0], "auto_model", None)
    shown = [module.architecture for module in card.modules if module.architecture]
    there, revision = _cached_revision(loaded.name), card.base_revision.value if card.base_revision else None
    facts = [
        ("dimensions", None if dimensions in sizes else width, dimensions),
        ("architecture", shown[0] if shown and "peft" not in shown[0].lower() else None, type(transformer).__name__),
        ("tokens at most", length, None if model.max_seq_length == float("inf") else model.max_seq_length),
        ("revision", revision, there if there and card.base_model and _repository(loaded.name, card) else None),
    ]
    for what, theirs, ours in facts:
        same = ours == theirs or (what == "revision" and str(ours).startswith(str(theirs)))
        if theirs is not None and ours is not None and not same and (what != "architecture" or transformer is not None):
            raise BaseError(
                f"expected the card's base with --base-is-the-cards ({what}: {theirs}), found another in "
                f"{loaded.name!r} ({what}: {ours}); name the card's base, or omit --base-is-the-cards."
            )


def _check_base(prepared: Prepared, card: Card | None) -> Iterator[Check]:
    loaded = prepared.base
    own = card.base_model.value if card is not None and card.base_model is not None else None
    if loaded.stand_in:
        advice = "name the card's own with --base FOLDER --base-is-the-cards"
        yield "base", False, f"{loaded.note.rstrip('.')}; {advice}"
    elif prepared.given.base_is_the_cards:
        yield "base", True, f"the user states that {loaded.name} is the card's base, and its configuration fits"
    elif card is None:
        return
    elif own is None:
        yield "base", False, f"the card does not name its base, so it may not be {loaded.name}; {STATE_BASE}"
    elif is_bundled(own) and loaded.sha256 == BUNDLED_SHA256:
        yield "base", True, f"the base {loaded.name} is {own}: its weights are those (SHA-256 {BUNDLED_SHA256[:12]})"
    elif Path(loaded.name).is_dir():
        if _repository(loaded.name, card):
            yield "base", True, f"the folder {loaded.name} is the Hub's copy of {own}"
        else:
            yield "base", False, f"nothing shows that {loaded.name} is the card's base, {own}; {STATE_BASE}"
    else:
        same = loaded.name.lower() == own.rstrip("/").lower()
        other = f"the run started from {loaded.name}, the card from {own}; {STATE_BASE}"
        yield "base", same, f"the base is {own}, as on the card" if same else other


def _cached_revision(folder: str) -> str | None:
    """The revision that a folder of the Hub's cache holds: .../models--owner--name/snapshots/REVISION."""
    path = Path(folder).resolve()
    return path.name if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--") else None


def _repository(folder: str, card: Card) -> bool:
    """Whether a folder is the Hub's copy of the card's base."""
    named = str(card.base_model.value if card.base_model else "").lower().replace("/", "--")
    return _cached_revision(folder) is not None and Path(folder).resolve().parents[1].name.lower() == f"models--{named}"


# --- rows ------------------------------------------------------------------------------------------------------------


def _check_rows(prepared: Prepared, card: Card | None) -> Iterator[Check]:
    """Of each training dataset and of the evaluation rows."""
    splits, recipe = prepared.splits, prepared.recipe
    if prepared.data_note:
        yield "rows", False, f"{prepared.data_note.rstrip('.')}; {GIVE_ROWS}"
        return
    if card is None:
        return
    trained = [(recipe.data.name, splits.train), *splits.more.items()]
    for (name, part), dataset in zip(trained, card.training_datasets(), strict=False):
        give = f"{GIVE_ROWS} {name}=PATH" if splits.more else GIVE_ROWS
        total = sum(map(len, splits.parts().values())) if part is splits.train else len(part)
        if dataset.size is not None:
            same = dataset.size == len(part) or dataset.size == total == recipe.data.train.rows
            text = f"the card counts {dataset.size:,} training rows; the run had {len(part):,} of {total:,}"
            yield "size", same, text if same else f"{text} from {part.origin}; {give}"
        yield from _check_printed(prepared, card, part, dataset, give)
        yield from _check_statistics(prepared, card, part, dataset)
    held_out = next(iter(card.evaluation_datasets()), None)
    used = splits.validation is not None and recipe.training.validation_loss and validation_losses(card.training_log)
    if used and held_out is not None and splits.validation is not None:
        printed = printed_places(splits.validation, held_out.samples, recipe.training.prompts)
        if printed and not card.text.lost:
            first = all(number in places for number, places in enumerate(printed))
            text = "the evaluation rows that the card prints are the first of the run's"
            yield "evaluation rows", first, text if first else f"{text.replace(' are ', ' are not ')}; {GIVE_EXAMPLES}"
        yield from _check_statistics(prepared, card, splits.validation, held_out)


def _check_printed(prepared: Prepared, card: Card, part: Pairs, dataset: Dataset, give: str) -> Iterator[Check]:
    """The rows that the card prints are the first ones of a dataset: cards print the first three."""
    stated, prompts = prepared.given.rows_in_order, prepared.recipe.training.prompts
    first = prepared.splits.train
    parts = [*prepared.splits.parts().values()] if part is first else [part]
    places = [printed_places(each, dataset.samples, prompts) for each in parts]
    count = 0 if card.text.lost else len(places[0])
    found = sum(map(any, zip(*places, strict=True)))
    if count == 0 or found < count:
        text = "the card prints no rows to compare with" if count == 0 else f"of the {count} rows that the card prints"
        yield "rows", count == 0, text if count == 0 else f"{text}, {part.origin} has {found}; {give}"
    else:
        yield "rows", True, f"the rows of {part.origin} include the {count} that the card prints"
        ours = [", ".join(str(number + 1) for number in each[:3]) or "none" for each in places[0]]
        in_order = all(number in each for number, each in enumerate(places[0]))
        if stated and not in_order:
            raise DataError(
                f"expected the rows in the card's order with --rows-in-order, found the {count} that it prints in rows "
                f"{' and '.join(ours)} of {part.origin!r}; sort them, or omit the option."
            )
        text = f"the rows that the card prints are the first {count} here"
        other = (
            f"the first rows that the card prints are in rows {' and '.join(ours)} here: another row order, so no "
            "exact replay; give them in the card's order with --data, or their --split-seed"
        )
        yield "order", in_order, text if in_order else other
    if stated and (count == 0 or found < count):
        yield "order", True, "the user states that the rows are in the card's order"


# --- statistics ------------------------------------------------------------------------------------------------------


def _check_statistics(prepared: Prepared, card: Card, part: Pairs, dataset: Dataset) -> Iterator[Check]:
    """The card's statistics of its first rows, computed again; those of tokens only by the card's own base."""
    if card.text.lost:
        return
    known = next((ok for name, ok, _ in _check_base(prepared, card) if name == "base"), False)
    stated = argument(card, "prompts")
    prompts = {} if stated else prepared.recipe.training.prompts  # the card's rows carried them, if not the argument
    compared = []
    for column in dataset.statistics:
        if column.column not in part.columns or not column.details:
            continue
        values = part.rows[: AT_ONCE * math.ceil((dataset.statistics_rows or len(part)) / AT_ONCE)][column.column]
        if column.column in LABEL_COLUMNS:
            ours = _statistics_of_numbers(values, column)
        elif known and column.unit in ("tokens", "characters"):
            texts = [prompts.get(column.column, "") + text for text in values]
            ours = _statistics_of_lengths(prepared.base.model, texts, column.unit)
        else:
            continue
        compared.append(column.column)
        keys = sorted(column.details, key=lambda key: key != "mean")
        wrong = next((key for key in keys if not _same(ours.get(key), column.details[key])), None)
        if wrong is not None:
            theirs = f"{wrong} {column.details[wrong]:g}{f' {column.unit}' if column.unit else ''}"
            yield (
                "statistics",
                False,
                f"the card's first {dataset.role} rows have {theirs} in `{column.column}`, these "
                f"{_number(ours.get(wrong))}: other rows, another order, or another tokenizer; "
                f"{GIVE_ROWS if dataset.role == 'train' else GIVE_EXAMPLES}",
            )
            return
    if compared:
        yield "statistics", True, f"the card's statistics of {', '.join(compared)} are those of the {dataset.role} rows"


def _statistics_of_lengths(model: SentenceTransformer, texts: Sequence[str], unit: str) -> dict[str, float]:
    """Lengths as the library's card counts them: tokens after truncation, special ones included."""
    lengths = [len(text) for text in texts]
    if unit == "tokens":
        inputs = model.preprocess(list(texts))
        if "attention_mask" not in inputs:
            return {}
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
    return {"min": min(lengths), "mean": sum(lengths) / len(lengths), "max": max(lengths)}


def _statistics_of_numbers(values: Sequence[Any], column: ColumnStatistics) -> dict[str, float]:
    """Minimum, mean and maximum, or the share of each label, as the card has them."""
    if "mean" in column.details:
        return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}
    shares = {float(value): count / len(values) for value, count in Counter(values).items()}
    words = {"True": 1.0, "False": 0.0}
    keys = {key: words[key] if key in words else float(key) for key in column.details if key in words or _is_float(key)}
    return {key: shares.get(number, 0.0) for key, number in keys.items()}


def _is_float(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


def _same(ours: float | None, theirs: Any) -> bool:
    """Whether a card prints our statistic so: two places, shares in percent with two. Unknown is no contradiction."""
    if ours is None or not isinstance(theirs, int | float):
        return True
    return abs(ours - theirs) <= (0.0050001 if not isinstance(theirs, int) else 0.5)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}".rstrip("0").rstrip(".")


# --- machine ---------------------------------------------------------------------------------------------------------


def _check_machine(prepared: Prepared, card: Card) -> Iterator[Check]:
    """Precision and number of processes, as far as the card shows them."""
    theirs = next((name for name in ("bf16", "fp16") if argument(card, name) is True), "fp32")
    ours = prepared.plan.precision
    text = f"the card trained in {theirs}, the run in {ours}"
    yield "precision", theirs == ours, text if theirs == ours else f"{text}; train on a machine that has {theirs}"
    wanted, processes = prepared.recipe.training.processes, prepared.plan.processes
    text = f"the card's numbers show {wanted} process{'es' * (wanted > 1)}, the run had {processes}"
    yield "processes", wanted == processes, text if wanted == processes else f"{text}; train with --processes {wanted}"


# --- examples --------------------------------------------------------------------------------------------------------


def known_examples(prepared: Prepared, card: Card | None) -> dict[str, dict[str, Any]]:
    """Task -> whether its examples are known to be those that the card measured, and why."""
    return examples_of(prepared.recipe, prepared.tasks, prepared.sets, prepared.splits, prepared.data_note, card)
