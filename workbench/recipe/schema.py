"""Recipe: the executable reading of a card, every field with its provenance.

A Card is what the file says; a Recipe is what would have to be run. Fields are grouped as a person would look for
them (base, data, loss, training, evaluation; see parts.py) and every leaf has an entry in `provenance` under its dotted
path.
Saved as YAML, read back equal; `Recipe.model_json_schema()` is its JSON Schema.

`recipe(card)` makes one *as written*; `recipe(card, corrected=True)` applies the fixes that the findings propose;
overrides come last and win. What `derive` does not find on the card takes the default stated in the models here.
"""

from __future__ import annotations

import difflib
import hashlib
import html
import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from workbench.cards.card import Card
from workbench.errors import RecipeError
from workbench.recipe.draft import Draft
from workbench.recipe.from_card import derive, file_name
from workbench.recipe.parts import (
    NAME,
    Base,
    Data,
    EvaluationPlan,
    Lora,
    LossSpec,
    Origin,
    Part,
    Source,
    Split,
    Training,
    TrainingSet,
)
from workbench.recipe.yaml_io import Line, read_yaml, write_yaml

__all__ = [
    "Base",
    "Data",
    "EvaluationPlan",
    "Lora",
    "LossSpec",
    "Origin",
    "Recipe",
    "Source",
    "Split",
    "Training",
    "TrainingSet",
    "difference",
    "leaves",
    "load_recipe",
    "own_values",
    "parse_setting",
    "recipe",
    "recipe_sha256",
    "recipe_yaml",
    "save_recipe",
    "with_overrides",
]

SCHEMA_VERSION: Literal[1] = 1
LARGEST_FILE = 1_000_000  # bytes; a recipe has a few thousand


class Recipe(Part):
    """All that training needs. See the module's text."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=NAME)  # also the beginning of a run folder's name
    variant: Literal["as written", "corrected"] = "as written"
    kind: str = "sentence-transformer"
    card_sha256: str | None = None  # of the card's README.md; see `cards.known`
    base: Base
    data: Data = Data()
    loss: LossSpec
    training: Training = Training()
    evaluation: EvaluationPlan = EvaluationPlan()
    provenance: dict[str, Origin] = Field(default_factory=dict)  # dotted path -> origin
    notes: tuple[str, ...] = ()  # arguments translated or dropped, one sentence each

    def __repr__(self) -> str:
        return _in_words(self)

    def _repr_html_(self) -> str:
        return _as_table(self)


SECTIONS = ("base", "data", "loss", "training", "evaluation")
OPEN = ("parameters", "prompts", "lr_scheduler_kwargs")
"""Fields whose entries are leaves of their own: `loss.parameters.scale`."""
OURS = ("engine", "processes", "prompts", "report_to")
"""Fields of `training` whose default is the recipe's own, not a library's."""
OF_SENTENCE_TRANSFORMERS = ("batch_sampler", "multi_dataset_batch_sampler")


def recipe(card: Card, *, corrected: bool = False, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """What would have to be run to do what `card` says was done.

    `corrected` applies the fixes that `audit(card)` proposes, in the order of the findings; `overrides` (see
    `with_overrides`) come after. Raises RecipeError where the card states no loss, because then there is nothing to
    train, and where an override is not possible.
    """
    draft = derive(card, tuple(Training.model_fields))
    if "loss.name" not in draft.fields:
        raise RecipeError(
            f"expected a training loss on the card {card.name!r}, found none; there is nothing to train again. "
            "Is it the card of a model that was never trained, or was the training part cut off?"
        )
    made = _from_draft(card, draft)
    if corrected:
        made = _corrected(made, card)
    if overrides:
        made = with_overrides(made, overrides)
    return made


def _from_draft(card: Card, draft: Draft) -> Recipe:
    """The draft as a Recipe; a value on the card that cannot be the field's is noted and takes the default."""
    while True:
        tree: dict[str, Any] = {"name": file_name(card.name, "card"), "kind": card.kind, "loss": {}}
        tree["card_sha256"] = card.sha256 or None
        for path, derived in draft.fields.items():
            _put(tree, path, derived.value)
        tree.setdefault("base", {}).setdefault("model", "unknown")
        try:
            made = Recipe.model_validate_json(json.dumps({**tree, "notes": draft.notes}), strict=True)
            break
        except ValidationError as error:
            path = _located(error)
            wrong = next((known for known in draft.fields if path == known or path.startswith(known + ".")), None)
            if wrong is None:
                raise _explained(error) from error
            value = draft.fields.pop(wrong).value
            draft.notes.append(f"`{wrong}` cannot be {value!r}, as the card says; the default is taken.")
    origins = {
        path: Origin(source=derived.source, lines=derived.lines, note=derived.note)
        for path, derived in draft.fields.items()
    }
    return _with_origins(made, origins, card)


def _corrected(made: Recipe, card: Card) -> Recipe:
    from workbench.audit.rules import audit

    changes: dict[str, tuple[Any, Origin]] = {}
    for finding in audit(card):
        if finding.fix is not None:
            origin = Origin(source="finding", lines=finding.lines, note=finding.code)
            changes.update({path: (value, origin) for path, value in finding.fix.changes.items()})
    made = _changed(made, changes, only_new=True)
    training = made.training
    if training.load_best_model_at_end and training.save_strategy != training.eval_strategy:
        # The trainer can load the best checkpoint only where each evaluation has one.
        note = "as often as is evaluated, so that the best checkpoint can be kept"
        made = _changed(
            made, {"training.save_strategy": (training.eval_strategy, Origin(source="inferred", note=note))}
        )
    return made.model_copy(update={"variant": "corrected"})


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """`recipe` with some fields set by the user; each then has the origin `user`.

    A key is a dotted path (`training.seed`) or the end of one, where that is unique (`learning_rate`, `lora.r`). An
    entry of a mapping is named after it (`training.prompts.anchor`, `loss.parameters.scale`), a further dataset by its
    number (`data.more.0.source.location`); the number after the last adds one.
    Raises RecipeError for a key that no field has, naming the nearest ones, and for a value of the wrong type.
    """
    changes = {_resolved(recipe, key): (value, Origin(source="user")) for key, value in overrides.items()}
    made = _changed(recipe, changes)
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
    """`field=value` of a command line as key and value. Numbers, true, false, null, `[...]` and `{...}` are read as
    YAML 1.2 reads them; everything else is text.

    >>> parse_setting("learning_rate=2e-5"), parse_setting("eval_strategy=no"), parse_setting("columns=[a, b]")
    (('learning_rate', 2e-05), ('eval_strategy', 'no'), ('columns', ['a', 'b']))
    """
    key, equals, value = setting.partition("=")
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


def leaves(recipe: Recipe) -> dict[str, Any]:
    """Every executable field by its dotted path, in reading order."""
    dumped = recipe.model_dump(include=set(SECTIONS))
    return {path: value for name in SECTIONS for path, value in _leaves(dumped[name], name)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    closed = path.endswith(".columns") or any(f".{name}." in path for name in OPEN)
    if isinstance(value, dict) and value and not closed:
        for name, inner in value.items():
            if not (name == "inner" and inner is None):
                yield from _leaves(inner, f"{path}.{name}")
    elif path == "data.more" and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{index}")
    else:
        yield path, value


def own_values(recipe: Recipe) -> dict[str, Any]:
    """The fields that the user has set, by their dotted paths. Rows, their columns and a largest number of steps are
    not among them: `train` is told these, and they stand elsewhere.
    """
    told = {"data.train.location": "data", "data.train.columns": "columns", "training.max_steps": "max_steps"}
    origins = recipe.provenance
    return {
        path: value
        for path, value in leaves(recipe).items()
        if path in origins and origins[path].source == "user" and origins[path].note != told.get(path, " ")
    }


def difference(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """(dotted path, value in `a`, value in `b`) of every field that differs; None where one has no such field."""
    ours, theirs = leaves(a), leaves(b)
    paths = [*ours, *(path for path in theirs if path not in ours)]
    empty: tuple[Any, ...] = (None, {}, ())  # a mapping or list without entries and none say the same
    found = [(path, ours.get(path), theirs.get(path)) for path in paths]
    return [(path, one, other) for path, one, other in found if one != other and not (one in empty and other in empty)]


def recipe_sha256(recipe: Recipe) -> str:
    """SHA-256 of what is executed: equal for two recipes that run the same, wherever their values come from."""
    text = json.dumps(recipe.model_dump(mode="json", include=set(SECTIONS)), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_yaml(recipe: Recipe) -> str:
    """`recipe` as YAML: the fields as blocks, then one line of provenance for each."""
    tree = recipe.model_dump(mode="json")
    provenance = {path: Line(_told(origin)) for path, origin in recipe.provenance.items()}
    body = {name: tree[name] for name in Recipe.model_fields if name != "provenance"}
    comment = f"# Recipe of {recipe.name}, {recipe.variant}. `workbench train` takes this file.\n"
    return comment + write_yaml({**body, "provenance": provenance})


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


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from YAML. Raises RecipeError where that cannot be done, or a field is unknown or impossible."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise RecipeError(f"expected a recipe of at most {LARGEST_FILE:,} bytes, found more in {str(file)!r}.")
        tree = read_yaml(data.decode("utf-8"))
        text = json.dumps(tree)
    except OSError as error:
        raise RecipeError(f"expected a recipe at {str(file)!r}, cannot read it: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise RecipeError(f"expected a recipe in YAML in {str(file)!r}, found something else ({reason}).") from error
    if not isinstance(tree, dict):
        raise RecipeError(
            f"expected a recipe in {str(file)!r}, found {type(tree).__name__}; see `workbench recipe CARD`."
        )
    try:
        return _with_origins(made := Recipe.model_validate_json(text, strict=True), made.provenance)
    except ValidationError as error:
        raise _explained(error, f" in {str(file)!r}") from error


def _with_origins(made: Recipe, origins: Mapping[str, Origin], card: Card | None = None) -> Recipe:
    """`made` with an origin for every leaf: its own, that of the part it lies in, or the default's."""
    complete: dict[str, Origin] = {}
    for path in leaves(made):
        parts = path.split(".")
        above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        found = next((origins[name] for name in above if name in origins), None)
        complete[path] = found or _default_origin(path, card)
    return made.model_copy(update={"provenance": complete})


def _default_origin(path: str, card: Card | None) -> Origin:
    name = path.rpartition(".")[2]
    if path.startswith("training.") and name not in OURS:
        package = "Sentence Transformers" if name in OF_SENTENCE_TRANSFORMERS else "Transformers"
        version = card.versions.get(package) if card else None
        return Origin(
            source="library", note=f"default of {package} {version.value if version else '(version not stated)'}"
        )
    if path.endswith(".parameters"):
        return Origin(source="library", note="defaults of the loss: the card prints no parameters")
    reasons = {
        "data.split": "nothing on the card shows that the rows were divided",
        "data.evaluation": "the card names no evaluation rows of their own",
        "base.lora": "nothing on the card shows an adapter",
        "base.prompts": "neither the card nor a file beside it names a prompt",
        "base.static_dimensions": "the card shows no embedding table without a transformer",
        "data.more": "the card trains on one dataset",
        "training.prompts": "the card names no prompt for a column",
        "training.report_to": "no tracker follows a run unless asked",
        "evaluation.repeated_queries": "each row is a query of its own unless something shows the contrary",
        "training.processes": "no number of the card shows more than one",
        "training.engine": "the library's trainer, unless another is asked for",
    }
    return Origin(source="default", note=reasons.get(path, "not on the card"))


def _changed(recipe: Recipe, changes: Mapping[str, tuple[Any, Origin]], *, only_new: bool = False) -> Recipe:
    """`recipe` with `changes`, path -> (value, origin). `only_new` keeps the origin of a field that stays as it was."""
    tree = recipe.model_dump(mode="json")
    origins = dict(recipe.provenance)
    for path, (value, origin) in changes.items():
        _put(tree, path, value)
        origins = {known: kept for known, kept in origins.items() if not known.startswith(f"{path}.")}
        origins[path] = origin
    try:
        made = Recipe.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise _explained(error) from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"expected plain values (text, numbers, lists) for {sorted(changes)}: {error}.") from error
    complete = _with_origins(made, origins)
    if not only_new:
        return complete
    before, after = leaves(recipe), leaves(made)
    kept = {path: recipe.provenance[path] for path, value in after.items() if path in before and before[path] == value}
    return complete.model_copy(update={"provenance": {**complete.provenance, **kept}})


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at `path`, making what lies above it; a number in `data.more` is a place in its list."""
    *parts, last = _split_path(path)
    inside: Any = tree
    for part in parts:
        inner = _entry(inside, part)
        if not isinstance(inner, dict | list):
            inner = [] if part == "more" else {}
            _set(inside, part, inner)
        inside = inner
    _set(inside, last, value)


def _entry(inside: Any, part: str) -> Any:
    if isinstance(inside, list):
        return inside[int(part)] if part.isdigit() and int(part) < len(inside) else None
    return inside.get(part)


def _set(inside: Any, part: str, value: Any) -> None:
    if not isinstance(inside, list):
        inside[part] = value
    elif part.isdigit() and int(part) < len(inside):
        inside[int(part)] = value
    elif part == str(len(inside)):
        inside.append(value)
    else:
        raise RecipeError(
            f"expected a dataset of data.more by its number, 0 to {len(inside)} (the last adds one), found {part!r}."
        )


def _split_path(path: str) -> list[str]:
    """Names in a dotted path; a parameter's or prompt's own name may hold dots."""
    parts = path.split(".")
    for index, part in enumerate(parts[:-1]):
        if part in OPEN:
            return [*parts[: index + 1], ".".join(parts[index + 1 :])]
    return parts


def _resolved(recipe: Recipe, key: str) -> str:
    """The full path of the field that `key` names."""
    known = [*dict.fromkeys([*_schema_paths(Recipe), *leaves(recipe)])]
    if key in known or (key.startswith("data.more.") and _below_more(recipe, key)):
        return key
    opened = next((name for name in OPEN if f".{name}." in f".{key}"), None)
    if opened is not None:
        above, _, entry = f".{key}".partition(f".{opened}.")
        return f"{_resolved(recipe, f'{above[1:]}.{opened}'.lstrip('.'))}.{entry}"
    ends = [path for path in known if path.endswith(f".{key}") and not path.startswith("data.more.")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise RecipeError(
            f"expected one field, found {len(ends)} named {key!r}: {', '.join(ends)}; write the whole path."
        )
    raise RecipeError(f"expected a field of the recipe, found {key!r}; {_nearest(key, known)}.")


def _nearest(key: str, known: list[str]) -> str:
    names = {path.rpartition(".")[2] if "." not in key else path: path for path in known}
    initials = [name for name in names if "".join(word[0] for word in name.split("_")) == key]  # lr: learning_rate
    near = [names[name] for name in initials or difflib.get_close_matches(key, names, n=3, cutoff=0.6)]
    return f"the nearest are {', '.join(near)}" if near else "`workbench recipe CARD` shows all of them"


def _below_more(recipe: Recipe, key: str) -> bool:
    """Whether `key`, `data.more.0.source.location`, is a field of a further dataset or of one to be added."""
    number, _, rest = key.removeprefix("data.more.").partition(".")
    known = [*_schema_paths(TrainingSet, "data.more.")]
    last = len(recipe.data.more)
    if not number.isdigit() or int(number) > last:
        raise RecipeError(
            f"expected a dataset of data.more by its number, 0 to {last} (the last adds one), found {number!r}."
        )
    opened = any(f".{name}." in f".{rest}" for name in OPEN)
    if not rest or opened or f"data.more.{rest}" in known:
        return True
    hint = _nearest(f"data.more.{rest}", known).replace("data.more.", f"data.more.{number}.")
    raise RecipeError(f"expected a field of the recipe, found {key!r}; {hint}.")


def _schema_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields that may be set, those of absent optional parts included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if not prefix and name not in SECTIONS:
            continue
        yield path
        inner = _part_of(field.annotation)
        if inner is not None and path.count("inner") <= 2:
            yield from _schema_paths(inner, f"{path}.")


def _part_of(annotation: Any) -> type[BaseModel] | None:
    """The Part that a field holds: itself, or the one beside None."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((part for part in options if isinstance(part, type) and issubclass(part, Part)), None)


EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "missing": "a value",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "a name of letters, digits and ._@+-",
}


def _located(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"])


def _explained(error: ValidationError, where: str = "") -> RecipeError:
    first = error.errors()[0]
    path, found = _located(error), first["input"]
    if first["type"] == "extra_forbidden":
        names = [*Recipe.model_fields, *_schema_paths(Recipe)]
        near = difflib.get_close_matches(path, names, n=3, cutoff=0.6)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return RecipeError(f"expected a field of the recipe{where}, found {path!r}{hint}.")
    if first["type"] == "value_error":
        expected = str(first["ctx"]["error"])
    elif first["type"] == "literal_error":
        expected = str(first["ctx"]["expected"])
    else:
        expected = EXPECTED.get(first["type"], first["msg"].removeprefix("Input should be "))
    shown = "nothing" if first["type"] == "missing" else repr(found)
    return RecipeError(f"expected {expected} for {path!r}{where}, found {shown[:200]}.")


def _told(origin: Origin) -> dict[str, Any]:
    return {name: value for name, value in origin.model_dump(mode="json").items() if value}


def _in_words(recipe: Recipe) -> str:
    base, data, training, plan = recipe.base, recipe.data, recipe.training, recipe.evaluation
    adapter = f", LoRA r={base.lora.r}{' (DoRA)' if base.lora.use_dora else ''}" if base.lora else ""
    pooling = f", {base.pooling} pooling" if base.pooling else ""
    rows = f"{data.train.rows:,} rows" if data.train.rows is not None else "rows unknown"
    split = data.split
    parts = (split.train, split.validation, split.test) if split else ()
    shares = ", split " * bool(parts) + " / ".join(f"{100 * part:.0f} %" for part in parts)
    batch = f"batch {training.per_device_train_batch_size} × {training.gradient_accumulation_steps}"
    cut = f" at {plan.truncate_dim} dimensions" if plan.truncate_dim else ""
    lines = [
        f"Recipe({recipe.name!r}, {recipe.variant})",
        f"  base        {base.model}{pooling}, {base.similarity}{adapter}",
        f"  data        {data.train.location}: {rows} ({', '.join(data.columns)}){shares}",
        *(f"  and         {_set_in_words(further)}" for further in data.more),
        f"  loss        {_loss_in_words(recipe.loss)}",
        f"  training    {training.num_train_epochs:g} epochs, {batch} × {training.processes}, "
        f"learning rate {training.learning_rate:g} {training.lr_scheduler_type}, seed {training.seed}",
        f"  evaluation  {plan.evaluator}{cut}, {plan.main_metric}",
    ]
    return "\n".join([*lines, *(f"  note        {note}" for note in recipe.notes)])


def _set_in_words(further: TrainingSet) -> str:
    rows = f"{further.source.rows:,} rows" if further.source.rows is not None else "rows unknown"
    own = f", {_loss_in_words(further.loss)}" if further.loss else ""
    return f"{further.name}, {further.source.location}: {rows} ({', '.join(further.columns)}){own}"


def _loss_in_words(loss: LossSpec) -> str:
    """`MatryoshkaLoss([512, 256]) over …`: each loss with its parameters, the outermost first."""
    words = ", ".join(f"{name}={value!r}" for name, value in loss.parameters.items())
    return f"{loss.name}({words})" + (f" over {_loss_in_words(loss.inner)}" if loss.inner else "")


LEFT = "style='text-align:left'"  # JupyterLab puts the text of tables to the right


def _as_table(recipe: Recipe) -> str:
    """What somebody or something has said, then, folded, the fields at their defaults."""
    said: list[str] = []
    defaults: list[str] = []
    for path, value in leaves(recipe).items():
        origin = recipe.provenance.get(path)
        cells = (path, "unknown" if value is None else str(value), str(origin or "") or "not stated")
        row = "<tr>" + "".join(f"<td {LEFT}>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        (defaults if origin and origin.source in ("default", "library") else said).append(row)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in recipe.notes)
    caption = html.escape(f"Recipe of {recipe.name}, {recipe.variant}")
    head = "".join(f"<th {LEFT}>{name}</th>" for name in ("field", "value", "where it came from"))
    head = f"<thead><tr>{head}</tr></thead>"
    table = f"<table><caption>{caption}</caption>{head}<tbody>{''.join(said)}</tbody></table>"
    folded = f"<table>{head}<tbody>{''.join(defaults)}</tbody></table>"
    more = f"<details><summary>{len(defaults)} more fields at their defaults</summary>{folded}</details>"
    return table + (more if defaults else "") + (f"<ul>{notes}</ul>" if notes else "")
