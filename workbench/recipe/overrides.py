"""Fields of a recipe set by dotted path: by the user, by the fixes of findings, by what was read off a card."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from workbench.cards.literals import plain
from workbench.errors import RecipeError
from workbench.recipe.schema import OPEN, Origin, Recipe, TrainingSet, leaves, recipe_error, schema_paths, with_origins
from workbench.recipe.yaml_io import read_yaml

MORE = "data.more."


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """`recipe` with some fields set by the user; each then has the origin `user`.

    A key is a dotted path (`training.seed`) or the end of one, where that is unique (`learning_rate`, `lora.r`). An
    entry of a mapping is named after it (`training.prompts.anchor`, `loss.parameters.scale`), a further dataset by its
    number (`data.more.0.source.location`); the number after the last adds one.
    Raises RecipeError for a key that no field has, naming the nearest ones, and for a value of the wrong type.
    """
    changes = {_resolve(recipe, key): (value, Origin(source="user")) for key, value in overrides.items()}
    made = with_changes(recipe, changes)
    columns = [*made.data.columns, *(column for further in made.data.more for column in further.columns)]
    for path in changes:
        name = path.removeprefix("training.prompts.")
        if name != path and columns and name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
            raise RecipeError(
                f"expected a column of the rows ({', '.join(columns)}) for a prompt, found {name!r}; write "
                f"training.prompts.{near[0]}, or set data.columns."
            )
    return made


def parse_setting(setting: str) -> tuple[str, Any]:
    """`field=value` of a command line as key and value.

    Numbers, true, false, null, `[...]` and `{...}` are read as YAML 1.2 reads them; everything else is text.

    >>> parse_setting("learning_rate=2e-5"), parse_setting("eval_strategy=no"), parse_setting("columns=[a, b]")
    (('learning_rate', 2e-05), ('eval_strategy', 'no'), ('columns', ['a', 'b']))
    """
    key, equals, value = plain(setting).partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise RecipeError(f"expected a setting as field=value, found {setting!r}; for example learning_rate=2e-5.")
    try:
        parsed = read_yaml(value) if value else ""
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if value[:1] not in "[{":
            return key, value
        raise RecipeError(
            f"expected a list or a mapping after {key}=, found {value!r}; is a bracket missing?"
        ) from error
    return key, value if isinstance(parsed, dict | list) and value[0] not in "[{" else parsed


def with_changes(recipe: Recipe, changes: Mapping[str, tuple[Any, Origin]], *, only_new: bool = False) -> Recipe:
    """`recipe` with `changes`, path -> (value, origin). `only_new` keeps the origin of a field whose value is equal."""
    tree = recipe.model_dump(mode="json")
    origins = dict(recipe.provenance)
    for path, (value, origin) in changes.items():
        put(tree, path, value)
        origins = {known: kept for known, kept in origins.items() if not known.startswith(f"{path}.")}
        origins[path] = origin
    try:
        made = Recipe.model_validate_json(json.dumps(as_lists(tree)), strict=True)
    except ValidationError as error:
        raise recipe_error(error) from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"expected plain values (text, numbers, lists) for {sorted(changes)}: {error}.") from error
    made = with_origins(made, origins)
    if not only_new:
        return made
    before, after = leaves(recipe), leaves(made)
    kept = {path: recipe.provenance[path] for path, value in after.items() if path in before and before[path] == value}
    return made.model_copy(update={"provenance": {**made.provenance, **kept}})


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at `path` and make the mappings above it; the datasets of `data.more` are keyed by number."""
    head, entry = _open_entry(path)
    parts = [*head.split("."), *([entry] if entry else [])]
    for part in parts[:-1]:
        inner = tree.get(part)
        if isinstance(inner, list):
            inner = {str(number): each for number, each in enumerate(inner)}
        tree[part] = inner if isinstance(inner, dict) else {}
        tree = tree[part]
    tree[parts[-1]] = value


def as_lists(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the datasets of `data.more` as a list."""
    more = tree.get("data", {}).get("more")
    return {**tree, "data": {**tree["data"], "more": list(more.values())}} if isinstance(more, dict) else tree


def _open_entry(path: str) -> tuple[str, str]:
    """`path` up to the first field with free entries, and the entry, whose name may hold dots.

    >>> _open_entry("loss.parameters.scale"), _open_entry("training.seed")
    (('loss.parameters', 'scale'), ('training.seed', ''))
    """
    parts = path.split(".")
    at = next((index for index, part in enumerate(parts) if part in OPEN), len(parts))
    return ".".join(parts[: at + 1]), ".".join(parts[at + 1 :])


def _resolve(recipe: Recipe, key: str) -> str:
    """The full path of the field that `key` names."""
    known = dict.fromkeys([*schema_paths(Recipe), *leaves(recipe)])
    if key in known:
        return key
    head, entry = _open_entry(key)
    if key.startswith(MORE):
        number, last = key.removeprefix(MORE).partition(".")[0], len(recipe.data.more)
        if number not in map(str, range(last + 1)):
            raise RecipeError(
                f"expected a dataset of data.more by its number, 0 to {last} (the last adds one), found {number!r}."
            )
        known = dict.fromkeys([f"{MORE}{number}", *schema_paths(TrainingSet, f"{MORE}{number}.")])
    ends = [path for path in known if path.endswith(f".{head}") and not path.startswith(MORE)]
    found = [head] if head in known else [path for path in ends if path == "training.seed"] or ends
    if len(found) == 1:
        return f"{found[0]}.{entry}" if entry else found[0]
    if found:
        raise RecipeError(
            f"expected one field, found {len(found)} named {head!r}: {', '.join(found)}; write the whole path."
        )
    raise RecipeError(f"expected a field of the recipe, found {key!r}; {_nearest(key, [*known])}.")


def _nearest(key: str, known: list[str]) -> str:
    names = {path.rpartition(".")[2] if "." not in key else path: path for path in known}
    if key == "batch_size":
        return "the nearest is training.per_device_train_batch_size"
    initials = [name for name in names if "".join(word[0] for word in name.split("_")) == key]  # lr: learning_rate
    near = [names[name] for name in initials or difflib.get_close_matches(key, names, n=3, cutoff=0.6)]
    return f"the nearest are {', '.join(near)}" if near else "`workbench recipe CARD` shows all of them"
