"""Card <-> JSON: what `workbench show CARD --json` prints.

The schema, version 1. Values stand where a program looks for them; line numbers stand apart, under `lines`.

    schema_version      1
    name, sha256        short name of the card; SHA-256 of the file's bytes
    kind                "sentence-transformer", "cross-encoder", "sparse-encoder", "multi-vector" or "unknown"
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
    lines               where each value stands, in the same shape as above; 1-based
    sources             {path: file} of values that come from a file beside the card
    not_numbers         {path: "nan", "inf" or "-inf"}

JSON has no NaN and no infinity: such a number is null in its place, and `not_numbers` tells which one, by JSON
pointer ("/training_log/3/training_loss"). `card_from_dict` gives back a Card equal to the one that was written.
The text of the card itself is left out unless `with_text` is asked for (then: `source`, a list of lines).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from workbench.cards.card import (
    SCHEMA_VERSION,
    Card,
    ColumnStatistics,
    Dataset,
    Evaluation,
    IndexedResult,
    LogRow,
    Loss,
    Module,
    Stated,
    Text,
    Unread,
)
from workbench.errors import CardError

_STATED = ("base_model", "base_revision", "similarity", "max_seq_length", "output_dimension")
_STATED_MAPS = ("description", "hyperparameters", "non_default", "training_time", "versions")
_PLAIN = ("name", "kind", "title", "library_version", "license", "sha256")
_LISTS = ("languages", "tags", "citations")


def card_to_dict(card: Card, *, with_text: bool = True) -> dict[str, Any]:
    """The card as plain data in the schema above; `json.dumps(..., allow_nan=False)` takes it."""
    out: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    lines: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key in _PLAIN:
        out[key] = getattr(card, key)
    for key in _STATED:
        _put_stated(out, lines, sources, key, getattr(card, key), f"/{key}")
    for key in _LISTS:
        out[key] = list(getattr(card, key))
    for key in _STATED_MAPS:
        out[key], lines[key] = {}, {}
        for name, stated in getattr(card, key).items():
            _put_stated(out[key], lines[key], sources, name, stated, f"/{key}/{_escape(name)}")
    out["modules"] = [_without(module, "line") for module in card.modules]
    lines["modules"] = [module.line for module in card.modules]
    out["datasets"] = [_dataset(dataset) for dataset in card.datasets]
    lines["datasets"] = [_dataset_lines(dataset) for dataset in card.datasets]
    out["training_log"] = [_without(row, "line") for row in card.training_log]
    lines["training_log"] = [row.line for row in card.training_log]
    out["evaluations"] = [_without(part, "lines", "metric_lines") for part in card.evaluations]
    lines["evaluations"] = [
        {"lines": part.lines and list(part.lines), "metrics": dict(part.metric_lines)} for part in card.evaluations
    ]
    out["model_index"] = [_without(part, "line") for part in card.model_index]
    lines["model_index"] = [part.line for part in card.model_index]
    out["front_matter"] = dict(card.front_matter)
    out["beside"] = dict(card.beside)
    out["unread"] = [_without(part) for part in card.unread]
    out["text"] = {**_without(card.text), "original": {str(key): line for key, line in card.text.original.items()}}
    out["lines"] = lines
    out["sources"] = sources
    if with_text:
        out["source"] = list(card.lines)
    not_numbers: dict[str, str] = {}
    plain: dict[str, Any] = _finite(out, "", not_numbers)
    plain["not_numbers"] = not_numbers
    return plain


def card_from_dict(data: Mapping[str, Any]) -> Card:
    """The Card that `card_to_dict` wrote. Raises CardError for anything else."""
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise CardError(
            f"Expected a card in schema version {SCHEMA_VERSION}, found {version!r}; write it again with "
            "`workbench show CARD --json`."
        )
    try:
        return _read(_restore(dict(data), data.get("not_numbers", {})))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CardError(
            f"Expected a card as `workbench show CARD --json` prints it, found data without {error}; write it again."
        ) from error


def _read(data: Mapping[str, Any]) -> Card:
    lines, sources = data["lines"], data["sources"]
    text = data["text"]
    same: dict[str, Any] = {key: data[key] for key in _PLAIN}
    same |= {key: tuple(data[key]) for key in _LISTS}
    same |= {key: _get_stated(data, lines, sources, key, f"/{key}") for key in _STATED}
    for key in _STATED_MAPS:
        same[key] = {
            name: _get_stated(data[key], lines[key], sources, name, f"/{key}/{_escape(name)}") for name in data[key]
        }
    return Card(
        **same,
        modules=tuple(Module(**part, line=line) for part, line in zip(data["modules"], lines["modules"], strict=True)),
        datasets=tuple(map(_read_dataset, data["datasets"], lines["datasets"])),
        training_log=tuple(
            LogRow(**part, line=line) for part, line in zip(data["training_log"], lines["training_log"], strict=True)
        ),
        evaluations=tuple(map(_read_evaluation, data["evaluations"], lines["evaluations"])),
        model_index=tuple(
            IndexedResult(**part, line=line)
            for part, line in zip(data["model_index"], lines["model_index"], strict=True)
        ),
        front_matter=data["front_matter"],
        beside=data["beside"],
        unread=tuple(Unread(part["section"], _pair(part["lines"]), part["reason"]) for part in data["unread"]),
        text=Text(
            text["repaired"],
            text["lost"],
            tuple(text["repaired_lines"]),
            tuple(text["lost_lines"]),
            {int(key): line for key, line in text["original"].items()},
        ),
        lines=tuple(data.get("source", ())),
    )


def _put_stated(
    out: dict[str, Any], lines: dict[str, Any], sources: dict[str, str], key: str, stated: Stated[Any] | None, path: str
) -> None:
    out[key] = None if stated is None else stated.value
    if stated is not None:
        lines[key] = stated.line
        if stated.source != "README.md":
            sources[path] = stated.source


def _get_stated(
    data: Mapping[str, Any], lines: Mapping[str, Any], sources: Mapping[str, str], key: str, path: str
) -> Any:
    return Stated(data[key], lines[key], sources.get(path, "README.md")) if key in lines else None


def _without(part: Any, *names: str) -> dict[str, Any]:
    return {each.name: getattr(part, each.name) for each in fields(part) if each.name not in names}


def _dataset(dataset: Dataset) -> dict[str, Any]:
    out = _without(dataset, "lines", "facts")
    out["statistics"] = [_without(part) for part in dataset.statistics]
    out["loss"] = _loss(dataset.loss)
    return out


def _loss(loss: Loss | None) -> dict[str, Any] | None:
    return None if loss is None else {"name": loss.name, "parameters": loss.parameters, "inner": _loss(loss.inner)}


def _dataset_lines(dataset: Dataset) -> dict[str, Any]:
    chain = [] if dataset.loss is None else [loss.line for loss in dataset.loss.chain()]
    return {"lines": dataset.lines and list(dataset.lines), "facts": dict(dataset.facts), "losses": chain}


def _read_dataset(data: Mapping[str, Any], lines: Mapping[str, Any]) -> Dataset:
    rest = {key: item for key, item in data.items() if key not in ("loss", "statistics", "samples", "columns")}
    return Dataset(
        **rest,
        columns=tuple(data["columns"]),
        statistics=tuple(ColumnStatistics(**part) for part in data["statistics"]),
        samples=tuple(data["samples"]),
        loss=_read_loss(data["loss"], list(lines["losses"])),
        lines=lines["lines"] and _pair(lines["lines"]),
        facts=dict(lines["facts"]),
    )


def _read_loss(data: Mapping[str, Any] | None, lines: list[int | None]) -> Loss | None:
    if data is None:
        return None
    return Loss(data["name"], data["parameters"], _read_loss(data["inner"], lines[1:]), lines[0])


def _read_evaluation(data: Mapping[str, Any], lines: Mapping[str, Any]) -> Evaluation:
    rest = {key: item for key, item in data.items() if key != "datasets"}
    return Evaluation(
        **rest,
        datasets=tuple(data["datasets"]),
        lines=lines["lines"] and _pair(lines["lines"]),
        metric_lines=dict(lines["metrics"]),
    )


def _pair(items: Any) -> tuple[int, int]:
    first, last = items
    return first, last


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _finite(item: Any, path: str, not_numbers: dict[str, str]) -> Any:
    """A copy in plain lists and dicts; NaN and infinity become None and are noted under their path."""
    if isinstance(item, float) and not math.isfinite(item):
        not_numbers[path] = "nan" if math.isnan(item) else "inf" if item > 0 else "-inf"
        return None
    if isinstance(item, Mapping):
        return {str(key): _finite(part, f"{path}/{_escape(str(key))}", not_numbers) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_finite(part, f"{path}/{at}", not_numbers) for at, part in enumerate(item)]
    return item


_RESTORED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _restore(data: dict[str, Any], not_numbers: Mapping[str, str]) -> dict[str, Any]:
    """A copy of `data` with NaN and infinity back in their places."""
    root: dict[str, Any] = _copy(data)
    for path, word in not_numbers.items():
        keys = [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]
        place: Any = root
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place[key]
        last: Any = int(keys[-1]) if isinstance(place, list) else keys[-1]
        place[last] = _RESTORED[word]
    return root


def _copy(item: Any) -> Any:
    if isinstance(item, dict):
        return {key: _copy(part) for key, part in item.items()}
    return [_copy(part) for part in item] if isinstance(item, list) else item
