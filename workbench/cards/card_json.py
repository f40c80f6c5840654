"""Card <-> JSON: what `workbench show CARD --json` prints.

The schema, version 1. Line numbers are kept apart from the values, under `lines`.

    schema_version      1
    name, sha256        short name of the card; SHA-256 of the file's bytes
    kind                "sentence-transformer", "cross-encoder", "sparse-encoder", "multi-vector", "setfit" or "unknown"
    title, library_version, base_model, base_revision, license, similarity      text or null
    languages, tags, citations      lists of text
    max_seq_length      tokens, or null
    output_dimension    or null
    description         {bullet of Model Description: its text}
    modules             [{index, type, parameters{}, architecture}]
    datasets            [{role "train" or "evaluation", name, id, revision, size, columns[], statistics_rows,
                          statistics [{column, type, modality, unit, details{}}], samples [{column: value}],
                          loss {name, parameters{}, inner: loss or null} or null}]
    hyperparameters, non_default    {name: value}
    training_log        [{epoch, step, training_loss, validation_loss, metrics{}, saved, source}]
    evaluations         [{evaluator, name, datasets[], parameters{}, metrics{}, main_metric, gains{}}]
    model_index         [{task, dataset, metric, value}]
    training_time, versions         {name: value}
    front_matter        the YAML header
    beside              {file name: its content}
    unread              [{section, lines [first, last], reason}]
    text                {repaired, lost, repaired_lines[], lost_lines[], original {line: text before the repair}}
    lines               1-based line of each value, in the same shape as above
    sources             {path: file} of values that come from a file beside the card
    not_numbers         {path: "nan", "inf" or "-inf"}

JSON has no NaN and no infinity: such a number is null, and `not_numbers` names it by JSON pointer
("/training_log/3/training_loss"). `card_from_dict` gives back an equal Card.
`source`, a list of lines, is the text of the card; `with_text=False` leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

from workbench.cards.card import SCHEMA_VERSION, Card, ColumnStatistics, Loss, Stated, Text, Unread
from workbench.errors import CardError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_PLAIN = ("name", "kind", "title", "library_version", "license", "sha256")
_STATED = ("base_model", "base_revision", "similarity", "max_seq_length", "output_dimension")
_LISTS = ("languages", "tags", "citations")
_STATED_MAPS = ("description", "hyperparameters", "non_default", "training_time", "versions")
_WITH_LINE = ("modules", "training_log", "model_index")
_NOT_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def card_to_dict(card: Card, *, with_text: bool = True) -> dict[str, Any]:
    """The card as plain data in the schema above; `json.dumps(..., allow_nan=False)` takes it."""
    out: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **{key: getattr(card, key) for key in _PLAIN}}
    lines: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(values: dict[str, Any], places: dict[str, Any], key: str, stated: Stated[Any] | None, path: str) -> None:
        values[key] = None if stated is None else stated.value
        if stated is not None:
            places[key] = stated.line
            if stated.source != "README.md":
                sources[path] = stated.source

    for key in _STATED:
        put(out, lines, key, getattr(card, key), f"/{key}")
    out |= {key: getattr(card, key) for key in _LISTS}
    for key in _STATED_MAPS:
        out[key], lines[key] = {}, {}
        for name, stated in getattr(card, key).items():
            put(out[key], lines[key], name, stated, f"/{key}/{_escape(name)}")
    for key in ("modules", "datasets", "training_log", "evaluations", "model_index"):
        out[key] = [_values(part, "line", "lines", "facts", "metric_lines") for part in getattr(card, key)]
        lines[key] = [part.line for part in getattr(card, key)] if key in _WITH_LINE else []
    for dataset in card.datasets:
        losses = [loss.line for loss in dataset.loss.chain()] if dataset.loss else []
        lines["datasets"].append({"lines": dataset.lines, "facts": dataset.facts, "losses": losses})
    for part in card.evaluations:
        lines["evaluations"].append({"lines": part.lines, "metrics": part.metric_lines})
    out |= {key: getattr(card, key) for key in ("front_matter", "beside", "unread", "text")}
    out |= {"lines": lines, "sources": sources} | ({"source": card.lines} if with_text else {})
    not_numbers: dict[str, str] = {}
    plain: dict[str, Any] = _plain(out, "", not_numbers)
    return {**plain, "not_numbers": not_numbers}


def card_from_dict(data: Mapping[str, Any]) -> Card:
    """The Card that `card_to_dict` wrote. Raises CardError for anything else."""
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CardError(
            f"Expected a card in schema version {SCHEMA_VERSION}, found {version!r}; write it again with "
            "`workbench show CARD --json`."
        )
    from pydantic import ValidationError

    try:
        return _adapter().validate_python(_with_lines(_with_not_numbers(data)))
    except ValidationError as error:
        first = error.errors()[0]
        raise _refusal(f"a valid {'.'.join(map(str, first['loc']))} ({first['msg']})") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _refusal(str(error)) from error


@cache
def _adapter() -> TypeAdapter[Card]:
    from pydantic import TypeAdapter

    return TypeAdapter(Card)


def _refusal(missing: str) -> CardError:
    return CardError(
        f"Expected a card as `workbench show CARD --json` prints it, found data without {missing}; write it again."
    )


def _with_lines(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with each line back beside its value, as the fields of a Card."""
    lines, sources = data["lines"], dict(data["sources"])

    def stated(values: Mapping[str, Any], places: Mapping[str, Any], key: str, path: str) -> dict[str, Any] | None:
        if key not in places:
            return None
        return {"value": values[key], "line": places[key], "source": sources.get(path, "README.md")}

    out = {key: data[key] for key in (*_PLAIN, *_LISTS, "front_matter", "beside", "unread", "text")}
    out |= {key: stated(data, lines, key, f"/{key}") for key in _STATED}
    for key in _STATED_MAPS:
        values = dict(data[key])
        out[key] = {name: stated(values, lines[key], name, f"/{key}/{_escape(name)}") for name in values}
    for key in _WITH_LINE:
        out[key] = [{**part, "line": line} for part, line in zip(data[key], lines[key], strict=True)]
    out["datasets"] = [
        {**part, "lines": at["lines"], "facts": at["facts"], "loss": _loss(part["loss"], at["losses"])}
        for part, at in zip(data["datasets"], lines["datasets"], strict=True)
    ]
    out["evaluations"] = [
        {**part, "lines": at["lines"], "metric_lines": at["metrics"]}
        for part, at in zip(data["evaluations"], lines["evaluations"], strict=True)
    ]
    return {**out, "lines": data.get("source", ())}


def _loss(data: Mapping[str, Any] | None, lines: Sequence[int | None]) -> dict[str, Any] | None:
    return None if data is None else {**data, "line": lines[0], "inner": _loss(data["inner"], lines[1:])}


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _values(part: Any, *without: str) -> dict[str, Any]:
    return {each.name: getattr(part, each.name) for each in fields(part) if each.name not in without}


def _plain(item: Any, path: str, not_numbers: dict[str, str]) -> Any:
    """A copy in lists and dicts; NaN and infinity become None and are noted under their path."""
    if isinstance(item, float) and not math.isfinite(item):
        not_numbers[path] = str(item)
        return None
    if isinstance(item, ColumnStatistics | Loss | Unread | Text):
        item = _values(item, "line")
    if isinstance(item, Mapping):
        return {str(key): _plain(part, f"{path}/{_escape(str(key))}", not_numbers) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(part, f"{path}/{at}", not_numbers) for at, part in enumerate(item)]
    return item


def _with_not_numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with NaN and infinity back in their places; only what contains them is copied."""
    root = dict(data)
    for path, word in dict(root.get("not_numbers") or {}).items():
        place: Any = root
        *parents, last = (key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:])
        for key in parents:
            at = int(key) if isinstance(place, list) else key
            place[at] = place = copy(place[at])
        place[int(last) if isinstance(place, list) else last] = _NOT_NUMBERS[word]
    return root
