"""What a caller may train, on which base and rows: names and paths, or the objects themselves.

A base or rows in memory are written below the folder of runs, named by their content, because a run must find them
again when it is resumed or repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.cards.card import Card
from workbench.cards.read import read_card, shipped_cards
from workbench.errors import DataError, RecipeError, short
from workbench.recipe.from_card import recipe
from workbench.recipe.overrides import with_overrides
from workbench.recipe.schema import Recipe
from workbench.recipe.yaml_io import load_recipe
from workbench.run import Run, atomic_write

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from sentence_transformers import SentenceTransformer

    Data: TypeAlias = (
        str | os.PathLike[str] | Sequence[str] | Sequence[Mapping[str, Any]] | datasets.Dataset | pd.DataFrame
    )
    BaseModel: TypeAlias = str | os.PathLike[str] | SentenceTransformer

Source = Recipe | Card | Run | str | os.PathLike[str]


def open_recipe(
    source: Source,
    *,
    card: Card | None = None,
    corrected: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Recipe, Card | None]:
    """The recipe in `source`, and the card that it came from, if that is known.

    `source` is a Recipe or its file (.yaml), with its `card` if any; a Run or its folder, whose recipe and card are
    taken; or a Card or what `read_card` takes. `corrected` and `overrides` are those of `recipe`.

    Raises RecipeError where a recipe is to be corrected, or a card is given twice; and what `load_recipe`, `read_card`
    and `recipe` raise.
    """
    if isinstance(source, str | os.PathLike) and not isinstance(source, Run):
        path = Path(source)
        if path.suffix in {".yaml", ".yml"}:
            source = load_recipe(path)
        else:
            source = Run(path) if Run(path).file("record").is_file() else read_card(source)
    if isinstance(source, Card):
        if card is not None:
            raise RecipeError(f"expected a card once, found {source.name!r} and card={card.name!r}; omit the second.")
        return recipe(source, corrected=corrected, overrides=overrides), source
    made: Recipe = source if isinstance(source, Recipe) else source.recipe()
    card = card or (source.card() if isinstance(source, Run) else None)
    if corrected:
        raise RecipeError(
            f"expected a card to correct, found the recipe {made.name!r}, whose values are already decided; name the "
            "card, or train the recipe as it is."
        )
    return with_overrides(made, overrides or {}), card


def base_name(base: BaseModel | None, runs: str | os.PathLike[str]) -> str | None:
    """What `load_base` takes for a base: a path for a Path, the model of a Run, or a SentenceTransformer stored."""
    if base is None or isinstance(base, str):
        return base
    if isinstance(base, os.PathLike):
        return str(base.model_folder()) if isinstance(base, Run) else os.fspath(base)
    from workbench.models.base import weights_sha256

    Path(runs).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs) as folder:
        model = Path(folder) / "model"
        base.save_pretrained(str(model), create_model_card=False)
        stored = Path(runs) / f"base-{weights_sha256(model)[:12]}"
        if not stored.exists():
            model.rename(stored)
    return str(stored)


def rows_places(data: Data | None, runs: str | os.PathLike[str]) -> str | list[str] | None:
    """What `data` of a recipe takes: places of rows; those in memory are stored as JSON lines.

    Raises DataError for rows that hold anything but texts and numbers.
    """
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    given: Any = data
    rows = given.to_dict("records") if hasattr(given, "iloc") else list(given)
    if rows and all(isinstance(row, str) for row in rows):
        return list(rows)
    other = next((row for row in rows if not isinstance(row, Mapping)), None)
    if other is not None:
        raise DataError(f"expected rows that map columns to values, found {short(other)}; give a dict for each.")
    try:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"expected rows of texts and numbers by column, found others ({error}); convert them."
        ) from error
    stored = Path(runs) / f"rows-{hashlib.sha256(lines.encode()).hexdigest()[:12]}.jsonl"
    if not stored.exists():
        with atomic_write(stored) as temporary:
            temporary.write_text(lines, encoding="utf-8")
    return str(stored)


def command_of(
    source: Source,
    options: Mapping[str, Any],
    corrected: bool,
    overrides: Mapping[str, Any],
    runs: str | os.PathLike[str],
    stand_ins: bool = True,
) -> list[str]:
    """The command that does the same in a terminal; empty for a recipe or a card that is only in memory.

    `options` are those of `train` by their names.
    """
    name = "" if isinstance(source, Recipe) else source.name if isinstance(source, Card) else os.fspath(source)
    if isinstance(source, Card) and (name not in shipped_cards() or read_card(name) != source):
        name = ""
    if not name:
        return []
    words = ["workbench", "train", name, *(["--corrected"] if corrected else [])]
    for option, value in options.items():
        if isinstance(value, Mapping):
            value = ",".join(f"{theirs}={ours}" for theirs, ours in value.items())
        flag = f"--{option.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            each = [] if value is None else value if isinstance(value, list | tuple) else [value]
            words += [word for one in each for word in (flag, str(one))]
    for field, value in overrides.items():
        words += ["--set", f"{field}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"]
    return [*words, *(["--no-stand-ins"] if not stand_ins else []), "--runs", str(runs)]
