"""YAML as a person means it: 1.2 for plain words, nothing said twice, no aliases; lists and lines that read well.

PyYAML follows YAML 1.1, where `no` is false, `2e-5` is text and `010` is eight; a recipe typed by hand would change
its meaning. Only plain data is ever built from a file: text, numbers, true, false, null, lists, mappings.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """The data in `text`. Raises yaml.YAMLError, ValueError or RecursionError where it is not such YAML.

    >>> read_yaml("eval_strategy: no\\nlearning_rate: 2e-5\\ndate: 2026-01-01")
    {'eval_strategy': 'no', 'learning_rate': 2e-05, 'date': '2026-01-01'}
    """
    return yaml.load(text, Loader)


def write_yaml(data: Any) -> str:
    """`data` as YAML in its own order; short lists and every `Line` stand on one line."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)


class Loader(yaml.SafeLoader):
    """YAML 1.2 for plain words: `no` is a word, `2e-5` is a number, a date is text; a key said twice is an error."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1's; those of 1.2 are added below

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few of them can stand for gigabytes
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_FLOAT = r"[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9]\d*)$", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


class Line(dict[str, Any]):
    """A mapping that is written on one line."""


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=len(str(values)) < 80)


def _represent_line(dumper: yaml.SafeDumper, values: Line) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", values, flow_style=True)


Dumper.add_representer(list, _represent_list)
Dumper.add_representer(Line, _represent_line)
