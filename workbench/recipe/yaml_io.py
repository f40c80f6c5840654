"""Recipes as YAML files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from workbench.cards.literals import plain
from workbench.cards.plain_yaml import add_resolvers, plain_loader
from workbench.errors import RecipeError, first_line
from workbench.recipe.schema import Recipe, recipe_error, with_origins

PROVENANCE = re.compile(r"^provenance:\n(?: .*\n)*", re.MULTILINE)
LARGEST_FILE = 1_000_000  # bytes; a recipe has a few thousand


def recipe_yaml(recipe: Recipe) -> str:
    """`recipe` as YAML: the fields as blocks, then one line of provenance for each."""
    tree = recipe.model_dump(mode="json")
    origins = tree.pop("provenance")
    tree["provenance"] = {
        path: Line({name: value for name, value in origin.items() if value}) for path, origin in origins.items()
    }
    comment = f"# Recipe of {recipe.name}, {recipe.variant}. `workbench train` takes this file.\n"
    return comment + yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def save_recipe(recipe: Recipe, path: str | os.PathLike[str]) -> None:
    """Write `recipe` to `path`, whole or not at all. Raises RecipeError where that cannot be done."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(recipe_yaml(recipe), encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecipeError(f"cannot write the recipe to {str(target)!r}: {error.strerror or error}.") from error


def load_recipe(path: str | os.PathLike[str], *, provenance: bool = True) -> Recipe:
    """Read a recipe from YAML. Raises RecipeError where that cannot be done, or a field is unknown or impossible.

    Without `provenance`, where each field is from, the file is read in a quarter of the time.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise RecipeError(f"expected a recipe of at most {LARGEST_FILE:,} bytes, found more in {str(file)!r}.")
        source = data.decode("utf-8")
        tree = read_yaml(source if provenance else PROVENANCE.sub("", source))
        text = json.dumps(tree)
    except OSError as error:
        raise RecipeError(f"expected a recipe at {str(file)!r}, cannot read it: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or first_line(error)
        reason += "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise RecipeError(f"expected a recipe in YAML in {str(file)!r}, found something else ({reason}).") from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"expected a recipe in {str(file)!r}, found {type(tree).__name__}; see `workbench recipe CARD`."
        )
    try:
        recipe = Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise recipe_error(error, f" in {str(file)!r}") from error
    return with_origins(recipe, recipe.provenance) if provenance else recipe


def read_yaml(text: str) -> Any:
    """The data in `text`. Raises yaml.YAMLError, ValueError or RecursionError where it is not such YAML.

    >>> read_yaml("eval_strategy: no\\nlearning_rate: 2e-5\\ndate: 2026-01-01")
    {'eval_strategy': 'no', 'learning_rate': 2e-05, 'date': '2026-01-01'}
    """
    return plain(yaml.load(text, Loader))


def _scanner() -> Any:
    """PyYAML's rules over libyaml's scanner, which is five times as fast; its own scanner where that is missing."""
    if not yaml.__with_libyaml__:
        return yaml.SafeLoader
    parts = (yaml._yaml.CParser, yaml.composer.Composer, yaml.constructor.SafeConstructor, yaml.resolver.Resolver)

    def start(self: Any, stream: Any) -> None:
        parts[0].__init__(self, stream)
        for part in parts[1:]:
            part.__init__(self)

    order = (parts[1], parts[0], *parts[2:])  # nodes are composed by Python, where an alias is refused
    return type("Scanner", order, {"__init__": start})


class Loader(plain_loader(_scanner())):  # type: ignore[misc]
    """Plain data; a repeated key and an alias are errors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few of them can stand for gigabytes
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is repeated", key.start_mark)
            seen.add(str(key.value))
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class Line(dict[str, Any]):
    """A mapping that is written on one line."""


class Dumper(yaml.SafeDumper):
    """Short lists and every `Line` on one line; a text that the loader would take for something else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=len(str(data)) < 80)

    def represent_text(self, data: str) -> yaml.Node:
        odd = re.search("[\x7f-\x9f\u2028\u2029\ufeff]", data)  # PyYAML would write some of them as line ends
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if odd else None)

    def represent_line(self, data: Any) -> yaml.Node:
        return self.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)


add_resolvers(Dumper)
Dumper.add_representer(str, Dumper.represent_text)
Dumper.add_representer(list, Dumper.represent_list)
Dumper.add_representer(Line, Dumper.represent_line)
