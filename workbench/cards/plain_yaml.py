"""The one way in which YAML is read: headers of cards, recipes, settings.

PyYAML follows YAML 1.1, where `no` is false, `2e-5` is text, `010` is eight and `12:30` is 750; here plain words are
read as YAML 1.2 reads them. Only plain data is built: text, numbers, true, false, null, lists, mappings. A number is
one that `literals.number` takes; every tag that stands for something else is an error.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml

from workbench.cards.literals import number, plain

_CORE = "tag:yaml.org,2002:"
_INT = r"[-+]?(?:0|[1-9]\d{0,17})"
_FLOAT = (
    r"(?:[-+]?(?:\d{1,18}\.\d{0,25}|\.\d{1,25}|\d{1,18}(?=[eE]))(?:[eE][-+]?\d{1,3})?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN))"
)
_WORDS: dict[str, tuple[re.Pattern[str], list[str]]] = {
    "null": (re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(f"{_INT}$"), list("-+0123456789")),
    "float": (
        re.compile(f"(?:{_FLOAT}|{_INT})$"),
        list("-+0123456789."),
    ),  # `!!float 1` too; without it an integer is int
}


def add_resolvers(kind: Any) -> None:
    """Make a loader or dumper take plain words as YAML 1.2 does."""
    for name, (pattern, first) in _WORDS.items():
        kind.add_implicit_resolver(_CORE + name, pattern, first)


@cache
def plain_loader(parent: Any = yaml.SafeLoader) -> Any:
    """A safe loader of plain data; see the module's text."""
    constructors: dict[str | None, Any] = {_CORE + name: _word for name in _WORDS}
    constructors |= {_CORE + name: parent.yaml_constructors[_CORE + name] for name in ("str", "seq", "map")}
    constructors[None] = parent.construct_undefined
    loader = type("PlainLoader", (parent,), {"yaml_implicit_resolvers": {}, "yaml_constructors": constructors})
    add_resolvers(loader)
    return loader


def _word(loader: Any, node: Any) -> Any:
    text, name = loader.construct_scalar(node), node.tag.removeprefix(_CORE)
    if not _WORDS[name][0].match(text):
        raise yaml.constructor.ConstructorError(None, None, f"{text[:40]!r} is no {name}", node.start_mark)
    if name in ("null", "bool"):
        return None if name == "null" else text.lower() == "true"
    found = number(text) if text[-1] in "0123456789." else float(text.replace(".", ""))
    return plain(float(text)) if found is None else found if name == "int" else float(found)
