"""YAML header of a card -> plain data and the unrounded results, each with its line.

A header may be hostile: the safe loader runs no code; depth is bounded before libyaml sees the text (it recurses in C);
aliases are bounded, because ten lines of them can expand to a billion values. What is text: see `plain_yaml`. A header
that is no valid YAML as a whole is read key by key, and the broken keys are listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.cards.card import IndexedResult
from workbench.cards.literals import plain, real

_DEEPEST = 60
_MOST_NODES = 400_000
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\u00a0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TOP_KEY = re.compile(r"[A-Za-z_][\w-]*\s*:(?:\s|$)")


@dataclass
class Header:
    """What the header says."""

    data: dict[str, Any] = field(default_factory=dict)
    key_lines: dict[str, int] = field(default_factory=dict)  # top-level key -> its line
    results: list[IndexedResult] = field(default_factory=list)
    broken: list[tuple[int, int, str]] = field(default_factory=list)  # first line, last line, reason


def read_header(lines: list[str], first: int, last: int) -> Header:
    """The header in lines `first` to `last` (1-based)."""
    header = Header()
    reason = _read_block(header, lines, first, last)
    if reason is None:
        return header
    starts = [at for at in range(first, last + 1) if _TOP_KEY.match(lines[at - 1])]
    if not starts or starts[0] > first:
        starts.insert(0, first)
    for start, following in zip(starts, [*starts[1:], last + 1], strict=True):
        reason = _read_block(header, lines, start, following - 1)
        if reason is not None:
            header.broken.append((start, following - 1, reason))
    return header


def _read_block(header: Header, lines: list[str], first: int, last: int) -> str | None:
    """Read some lines of YAML into `header`; the reason where that cannot be done."""
    import yaml

    from workbench.cards.plain_yaml import plain_loader

    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", "\n".join(lines[first - 1 : last]))
    if _too_deep(text):
        return f"YAML nested deeper than {_DEEPEST} levels"
    loader = plain_loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            return "YAML that is no mapping of keys to values"
        if _size(node, {}) > _MOST_NODES:
            return f"YAML that expands to more than {_MOST_NODES:,} values"
        data = plain(loader.construct_document(node))
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        return f"no valid YAML: {getattr(error, 'problem', None) or type(error).__name__}"
    finally:
        loader.dispose()
    header.data.update(data)
    for key, item in node.value:
        header.key_lines[str(key.value)] = key.start_mark.line + first
        if key.value == "model-index":
            header.results.extend(_results(item, first))
    return None


def _too_deep(text: str) -> bool:
    """Whether YAML may nest too deep for a recursive parser: counted from brackets and indentation, never too low."""
    if re.search(r"^ {300}|(?:[-?:] ){40}", text, re.MULTILINE):
        return True
    depth = deepest = 0
    for found in re.finditer(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if found.group() in "[{" else -1))
        deepest = max(deepest, depth)
    return deepest > _DEEPEST * 4


def _size(node: Any, known: dict[int, float]) -> float:
    """How many values `node` holds with every alias expanded; infinite for a cycle."""
    if isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted: only a cycle sees that
        parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _results(node: Any, first: int) -> list[IndexedResult]:
    """Entries of `model-index`, from the YAML nodes because they know their lines."""
    out = []
    for result in (result for model in _items(node) for result in _items(_entry(model, "results"))):
        task, dataset = _entry(result, "task"), _entry(result, "dataset")
        task_name = _text(task, "name") or _text(task, "type")
        dataset_name = _text(dataset, "type") or _text(dataset, "name")
        for metric in _items(_entry(result, "metrics")):
            found = _entry(metric, "value")
            amount = _amount(found)
            if amount is not None:
                known = None if dataset_name is None or dataset_name.lower() == "unknown" else dataset_name
                name = _text(metric, "type") or _text(metric, "name") or ""
                out.append(IndexedResult(task_name, known, name, amount, found.start_mark.line + first))
    return out


def _amount(node: Any) -> float | None:
    if node is None or not isinstance(node.value, str):
        return None
    text = node.value.strip()
    return real({".nan": "nan", ".inf": "inf", "-.inf": "-inf"}.get(text.lower(), text.split(" ")[0]))


def _items(node: Any) -> list[Any]:
    return list(node.value) if node is not None and getattr(node, "id", "") == "sequence" else []


def _entry(node: Any, key: str) -> Any:
    if node is None or getattr(node, "id", "") != "mapping":
        return None
    return next((item for name, item in node.value if name.value == key), None)


def _text(node: Any, key: str) -> str | None:
    item = _entry(node, key)
    return plain(item.value) if item is not None and isinstance(item.value, str) and item.value else None


def texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts under `key`: a list, or one text.

    >>> texts({"language": "en", "tags": ["a", 1]}, "tags")
    ('a', '1')
    """
    found = data.get(key)
    if isinstance(found, list):
        return tuple(str(item) for item in found if isinstance(item, str | int | float))
    return (str(found),) if isinstance(found, str | int | float) and found != "" else ()
