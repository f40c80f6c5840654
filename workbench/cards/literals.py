"""Values as cards print them -> typed Python values. Nothing is evaluated but literals, and those within bounds."""

from __future__ import annotations

import ast
import itertools
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
_LARGEST, _SMALLEST = 1e100, 1e-100
"""Magnitudes between which a number is one: products and quotients of a few of them are finite. Others stay text."""
_LONGEST_LITERAL = 100_000
_DEEPEST_LITERAL = 40


def number(text: str) -> int | float | None:
    """The number that `text` is, NaN and infinity included, else None.

    >>> number("1,797"), number("2e-05"), number("nan") is math.nan, number("-"), number("1e999")
    (1797, 2e-05, True, None, None)
    """
    text = text.strip()
    if "," in text and re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    if not _NUMBER.match(text):
        return _NOT_NUMBERS.get(text.lower())
    found = int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    return found if _in_bounds(found) else None


def _in_bounds(found: float) -> bool:
    return not found or _SMALLEST <= abs(found) <= _LARGEST


def real(text: str) -> float | None:
    """See `number`, as a float."""
    found = number(text)
    return None if found is None else float(found)


def value(text: str) -> Any:
    """A training argument as the library prints it: typed where it is a Python literal, else the text.

    >>> value("2e-05"), value("no"), value("{'lr': 0.1}"), value("None"), value("")
    (2e-05, 'no', {'lr': 0.1}, None, '')
    """
    stripped = text.strip()
    if stripped in _WORDS:
        return _WORDS[stripped]
    found = None
    if _NUMBER.match(stripped):
        found = number(stripped)
    elif stripped[:1] in ("[", "{", "(") and stripped[-1:] in ("]", "}", ")"):
        found = literal(stripped)
    return found if found is not None else text if stripped else ""


def literal(text: str) -> Any:
    """A Python literal as plain data (tuples and sets as lists, keys as text), or None."""
    node = _parse(text)
    if node is None or any(isinstance(part, ast.Constant) and part.value is ... for part in ast.walk(node)):
        return None
    try:
        return plain(ast.literal_eval(node))
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


def parameters(text: str) -> Mapping[str, Any] | None:
    """The block under `with these parameters:`: JSON, or the Python text that the library prints where JSON fails."""
    if _too_deep(text):
        return None
    try:
        found = read_json(text)
    except (ValueError, RecursionError):
        found = literal(text.strip())
    return found if isinstance(found, dict) else None


def read_json(text: str) -> Any:
    """The JSON in `text` as plain data. Raises ValueError or RecursionError where it is none."""
    return plain(json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= 100 else digits[:100]))


def loss(name: str, settings: Mapping[str, Any], line: int | None, key_lines: Mapping[str, int]) -> Loss:
    """A loss tree; the wrapped loss is under "loss", as a name or as a call with its arguments."""
    rest = {key: item for key, item in settings.items() if key != "loss"}
    wrapped = settings.get("loss")
    inner = None
    if isinstance(wrapped, str) and wrapped:
        inner = loss(*call(wrapped), key_lines.get("loss", line), {})
    elif isinstance(wrapped, dict) and isinstance(wrapped.get("name"), str):
        inner = loss(wrapped["name"], {k: v for k, v in wrapped.items() if k != "name"}, key_lines.get("loss"), {})
    elif wrapped is not None:
        rest["loss"] = wrapped
    return Loss(name, rest, inner, line)


def call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of a printed call; positional ones are under "arguments".

    >>> call("CoSENTLoss(scale=20.0, similarity_fct='cos_sim')")
    ('CoSENTLoss', {'scale': 20.0, 'similarity_fct': 'cos_sim'})
    >>> call("CoSENTLoss")
    ('CoSENTLoss', {})
    """
    found = _CALL.match(text.strip())
    if found is None or len(text) > _LONGEST_LITERAL or _too_deep(text):
        return text.strip(), {}
    tree = _parse(text.strip())
    if not isinstance(tree, ast.Call):
        return found.group(1), {"arguments": found.group(2)}
    out = {keyword.arg or "**": _node(keyword.value) for keyword in tree.keywords}
    if tree.args:
        out["arguments"] = [_node(argument) for argument in tree.args]
    return found.group(1), out


def _parse(text: str) -> ast.expr | None:
    """The expression in `text`, where `<function f at 0x7f>` and the like count as text; None where there is none."""
    if len(text) > _LONGEST_LITERAL or _too_deep(text):
        return None
    for candidate in (text, _REPR.sub(lambda found: repr(found.group()), text)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(candidate.lstrip(" \t"), mode="eval").body
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def _node(node: ast.expr) -> Any:
    try:
        return plain(ast.literal_eval(node))
    except (ValueError, TypeError, MemoryError, RecursionError):
        try:
            return plain(ast.unparse(node))
        except (ValueError, RecursionError):  # an integer of more digits than Python prints
            return f"<{type(node).__name__}>"


def plain(item: Any) -> Any:
    """Only what JSON knows, besides NaN and infinity: dict with text keys, list, str, int, float, bool, None.

    A number out of bounds (see `number`) and a character that UTF-8 cannot hold are replaced.
    """
    if isinstance(item, dict):
        return {plain(str(plain(key) if isinstance(key, int) else key)): plain(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [plain(part) for part in item]
    if isinstance(item, set | frozenset):
        return sorted((plain(part) for part in item), key=repr)
    if isinstance(item, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", item)
    if isinstance(item, float):
        return math.nan if math.isnan(item) else item if math.isinf(item) or _in_bounds(item) else repr(item)
    if isinstance(item, int) and not isinstance(item, bool):
        return item if abs(item) < 2**63 else float(item) if _in_bounds(item) else hex(item)[:100]
    return item if item is None or isinstance(item, bool) else str(item)


def _too_deep(text: str) -> bool:
    """Whether brackets nest too deep for a recursive parser."""
    steps = (1 if character in "[({" else -1 for character in re.findall(r"[\[\](){}]", text))
    return max(itertools.accumulate(steps), default=0) > _DEEPEST_LITERAL
