"""Values as cards print them -> typed Python values. Nothing is evaluated but literals, and those within bounds."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from workbench.cards.card import Loss

_NUMBER = re.compile(r"[-+]?(?:\d{1,18}|\d{0,18}\.\d{1,25}|\d{1,18}\.)(?:[eE][-+]?\d{1,4})?$")
_WORDS = {"True": True, "False": False, "None": None}
_NOT_NUMBERS = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf, "infinity": math.inf}
_REPR = re.compile(r"<[^<>\n]{1,300}>")  # <function f at 0x7f>, <class 'torch.nn.MSELoss'>
_CALL = re.compile(r"([A-Za-z_][\w.]*)\((.*)\)$", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")  # UTF-8 cannot hold them
_LONGEST_LITERAL = 100_000
_DEEPEST_LITERAL = 40


def number(text: str) -> int | float | None:
    """The number that `text` is, NaN and infinity included, else None.

    >>> number("1,797"), number("2e-05"), number("nan") is math.nan, number("-")
    (1797, 2e-05, True, None)
    """
    text = text.strip()
    if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    if _NUMBER.match(text):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    return _NOT_NUMBERS.get(text.lower())


def value(text: str) -> Any:
    """A training argument as the library prints it: typed where it is a Python literal, else the text.

    >>> value("2e-05"), value("no"), value("{'lr': 0.1}"), value("None"), value("")
    (2e-05, 'no', {'lr': 0.1}, None, '')
    """
    stripped = text.strip()
    if stripped in _WORDS:
        return _WORDS[stripped]
    if _NUMBER.match(stripped):
        return number(stripped)
    if stripped[:1] in ("[", "{", "(") and stripped[-1:] in ("]", "}", ")"):
        found = literal(stripped)
        return text if found is None else found
    return text if stripped else ""


def literal(text: str) -> Any:
    """A Python literal as plain data (tuples and sets as lists, keys as text), or None where it is none."""
    if len(text) > _LONGEST_LITERAL or _depth(text) > _DEEPEST_LITERAL:
        return None
    for candidate in (text, _REPR.sub(lambda found: repr(found.group()), text)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = ast.literal_eval(candidate)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return None if _has_ellipsis(found) else plain(found)
    return None


def parameters(text: str) -> Mapping[str, Any] | None:
    """The block under `with these parameters:`: JSON, or the Python text that the library prints where JSON fails."""
    if _depth(text) <= _DEEPEST_LITERAL:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = literal(text.strip())
        if isinstance(found, dict):
            return dict(plain(found))
    return None


def loss(name: str, settings: Mapping[str, Any], line: int | None, key_lines: Mapping[str, int]) -> Loss:
    """A loss tree; the wrapped loss stands under "loss", as a name or as a call with its arguments."""
    rest = {key: item for key, item in settings.items() if key != "loss"}
    wrapped = settings.get("loss")
    inner = None
    if isinstance(wrapped, str) and wrapped:
        inner_name, inner_settings = call(wrapped)
        inner = loss(inner_name, inner_settings, key_lines.get("loss", line), {})
    elif isinstance(wrapped, dict) and isinstance(wrapped.get("name"), str):
        inner = loss(wrapped["name"], {k: v for k, v in wrapped.items() if k != "name"}, key_lines.get("loss"), {})
    elif wrapped is not None:
        rest["loss"] = wrapped
    return Loss(name, rest, inner, line)


def call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of a printed call; positional ones are kept under "arguments".

    >>> call("CoSENTLoss(scale=20.0, similarity_fct='cos_sim')")
    ('CoSENTLoss', {'scale': 20.0, 'similarity_fct': 'cos_sim'})
    >>> call("CoSENTLoss")
    ('CoSENTLoss', {})
    """
    found = _CALL.match(text.strip())
    if found is None or len(text) > _LONGEST_LITERAL or _depth(text) > _DEEPEST_LITERAL:
        return text.strip(), {}
    name = found.group(1)
    tree = _parse(text.strip()) or _parse(_REPR.sub(lambda part: repr(part.group()), text.strip()))
    if not isinstance(tree, ast.Call):
        return name, {"arguments": found.group(2)}
    out: dict[str, Any] = {}
    for keyword in tree.keywords:
        out[keyword.arg or "**"] = _node(keyword.value)
    if tree.args:
        out["arguments"] = [_node(argument) for argument in tree.args]
    return name, out


def _parse(text: str) -> ast.expr | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _node(node: ast.expr) -> Any:
    try:
        found = ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return ast.unparse(node)
    return plain(found)


def plain(item: Any) -> Any:
    """Only what JSON knows, besides NaN and infinity: dict with text keys, list, str, int, float, bool, None."""
    if isinstance(item, dict):
        return {plain(str(key)): plain(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [plain(part) for part in item]
    if isinstance(item, set | frozenset):
        return sorted((plain(part) for part in item), key=repr)
    if isinstance(item, float):
        return math.nan if math.isnan(item) else item
    if isinstance(item, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", item)
    if item is None or isinstance(item, bool):
        return item
    if isinstance(item, int):
        return item if abs(item) < 2**63 else float(item) if abs(item) < 2**1000 else str(item)[:100]
    return str(item)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in re.findall(r"[\[\](){}]", text):
        depth += 1 if character in "[({" else -1
        deepest = max(deepest, depth)
    return deepest


def _has_ellipsis(item: Any) -> bool:
    if isinstance(item, dict):
        return any(_has_ellipsis(part) for part in item.values())
    if isinstance(item, list | tuple | set):
        return any(_has_ellipsis(part) for part in item)
    return item is Ellipsis
