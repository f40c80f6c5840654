"""Write api.md: the public names of `workbench`, from their signatures and docstrings.

python data/guide/make_api.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workbench as wb

PAGE = Path(__file__).with_name("api.md")
WIDEST = 100  # characters of a signature on one line


def page() -> str:
    """The text of api.md."""
    names = {name: getattr(wb, name) for name in wb.__all__}
    classes = {name: each for name, each in names.items() if inspect.isclass(each)}
    errors = {name: each for name, each in classes.items() if issubclass(each, Exception)}
    groups = {
        "Functions": {name: each for name, each in names.items() if name not in classes},
        "Classes": {name: each for name, each in classes.items() if name not in errors},
        "Errors": errors,
    }
    lines = ["# Python", "", "`import workbench as wb`. Written by `python data/guide/make_api.py`."]
    for title, group in groups.items():
        lines += ["", f"## {title}"]
        for name, each in group.items():
            lines += entry(name, each, "###")
            for member, value in members(each) if title == "Classes" else ():
                lines += entry(f"{name}.{member}", value, "####")
    return "\n".join(lines) + "\n"


def members(one: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties of a class of ours that have a docstring, in the order of its code."""
    for name, value in vars(one).items():
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if name[0] != "_" and (inspect.isfunction(plain) or isinstance(value, property)) and value.__doc__:
            yield name, plain


def entry(name: str, value: Any, level: str) -> list[str]:
    """Heading, signature and docstring."""
    lines = ["", f"{level} {name}"]
    if inspect.isfunction(value):
        shown = f"{name}{inspect.signature(value)}"
        shown = re.sub(r"<function .* at 0x\w+>", "…", shown)
        shown = re.sub(r"(: |-> )(?:'([^']*)'|\"([^\"]*)\")", r"\1\2\3", shown)  # annotations without quotes
        if len(shown) > WIDEST:
            shown = re.sub(r", (?=\*{0,2}[a-z_]+:|\*[,)])|(?<=\*), ", ",\n    ", shown).replace("(", "(\n    ", 1)
        lines += ["", "```python", shown, "```"]
    return [*lines, "", *documentation(inspect.getdoc(value) or "")]


def documentation(text: str) -> list[str]:
    """The lines of a docstring, its examples as code."""
    lines, code = [], False
    for line in text.splitlines():
        example = line.lstrip().startswith(">>>")
        if (example and not code) or (code and not line):
            lines.append("```pycon" if example else "```")
            code = example
        lines.append(line)
    return [*lines, *(["```"] if code else [])]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
