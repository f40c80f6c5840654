"""Recipe: the executable reading of a card, with the origin of every value.

A Card is what the file says; a Recipe is what has to be run. Fields are grouped into base, data, loss, training and
evaluation; every leaf has an entry in `provenance` under its dotted path. All models are frozen; unknown fields are
errors. `Recipe.model_json_schema()` is the JSON Schema.
"""

from __future__ import annotations

import difflib
import hashlib
import html
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from workbench.errors import RecipeError

NAME = r"^[\w@+-][\w.@+-]*$"
"""A name that can be the name of a folder."""

WORD = r"^[A-Za-z][A-Za-z0-9_.]*$"
"""The name of a choice that a library offers."""

OriginKind = Literal["card", "file", "library", "inferred", "default", "user", "finding"]


def _finite(value: Any) -> Any:
    """`value`, where JSON and YAML can hold it."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _finite(part)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    return value


Settings = dict[str, Annotated[Any, AfterValidator(_finite)]]
"""Arguments of a class of a library, whose types are not known here."""


class Part(BaseModel):
    """A group of recipe fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(Part):
    """Where the value of one field came from."""

    source: OriginKind
    lines: tuple[int, ...] = ()  # of the card, or of the file
    note: str = ""  # the file's name, the library's version, the reason, the finding's code

    def __str__(self) -> str:
        """One line of text.

        >>> str(Origin(source="card", lines=(12, 40), note="called evaluation_strategy on the card"))
        'card, lines 12, 40: called evaluation_strategy on the card'
        """
        where = ", ".join(map(str, self.lines))
        first = f"{self.source}, line{'s' * (len(self.lines) > 1)} {where}" if where else self.source
        return f"{first}: {self.note}" if self.note else first


class Lora(Part):
    """Shape of a LoRA adapter; see peft.LoraConfig."""

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("query", "value")
    use_dora: bool = False


class Base(Part):
    """The model that training starts from."""

    model: str  # Hub id, folder, "bundled:minilm", or "unknown"
    revision: str | None = None
    pooling: Literal["cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"] | None = None
    max_seq_length: int | None = None  # tokens; None keeps the base's own
    static_dimensions: int | None = None  # columns of the embedding table of a StaticEmbedding; None: a transformer
    similarity: str = "cosine"  # as sentence-transformers names it: cosine, dot, euclidean, manhattan; or "energy"
    lora: Lora | None = None
    prompts: dict[str, str] = Field(default_factory=dict)  # for evaluation: {"query": "...", "document": "..."}


class Source(Part):
    """Where rows come from: a Hub id, a local file, `sample:porsche`, or `unknown`."""

    location: str = "unknown"
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)  # theirs -> ours; empty keeps names
    rows: int | None = None  # expected number of rows before any split, as the card says; None: unknown


class Split(Part):
    """How rows without a split of their own are divided. The shares may leave rows unused."""

    train: float = Field(default=0.8, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 42
    shuffle: bool = True  # False: the first rows train, the next are held out
    file: str | None = None  # JSON that names the rows of each part, in place of all others

    @model_validator(mode="after")
    def _at_most_one(self) -> Split:
        if self.train + self.validation + self.test > 1 + 1e-6:
            raise ValueError("shares of train, validation and test that add up to 1 at most")
        return self


class LossSpec(Part):
    """One node of the loss tree."""

    name: str  # class in sentence_transformers.losses
    parameters: Settings = Field(default_factory=dict)
    inner: LossSpec | None = None

    def chain(self) -> Iterator[LossSpec]:
        """This loss, then the one it wraps, and so on."""
        yield self
        if self.inner is not None:
            yield from self.inner.chain()

    def __str__(self) -> str:
        """Each loss with its parameters, outermost first.

        >>> str(LossSpec(name="AdaptiveLayerLoss", inner=LossSpec(name="CoSENTLoss", parameters={"scale": 20.0})))
        'AdaptiveLayerLoss() over CoSENTLoss(scale=20.0)'
        """
        words = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{self.name}({words})" + (f" over {self.inner}" if self.inner else "")


class TrainingSet(Part):
    """A further dataset of a card that trains on several."""

    name: str
    source: Source = Source()
    columns: tuple[str, ...] = ()  # columns its loss reads, in its order
    loss: LossSpec | None = None  # None: the recipe's
    evaluation: Source | None = None  # rows of its own that an evaluation has a loss of; None: there are none


class Data(Part):
    name: str = "train"  # of the first dataset, where there are several
    train: Source = Source()
    evaluation: Source | None = None  # a separate collection or file; None takes the split's
    split: Split | None = None
    columns: tuple[str, ...] = ()  # columns the loss reads, in its order: ("anchor", "positive")
    more: tuple[TrainingSet, ...] = ()  # the datasets after the first


class Training(Part):
    """Arguments of the trainer, named as SentenceTransformerTrainingArguments names them."""

    num_train_epochs: float = 3
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    optim: str = Field(default="adamw_torch", pattern=WORD)
    lr_scheduler_type: str = Field(default="linear", pattern=WORD)
    lr_scheduler_kwargs: Settings = Field(default_factory=dict)
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    seed: int = 42
    data_seed: int | None = None
    fp16: bool = False
    bf16: bool = False
    dataloader_drop_last: bool = False
    gradient_checkpointing: bool = False
    batch_sampler: str = Field(default="batch_sampler", pattern=WORD)
    multi_dataset_batch_sampler: str = Field(default="proportional", pattern=WORD)
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    eval_on_start: bool = False  # also before the first step
    eval_on_end: bool = True  # with "steps", also at the last step; Transformers 5.3 began to do so
    validation_loss: bool = True  # whether an evaluation has a loss, where rows are held out
    logging_steps: int = 500
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int = 500
    stop_step: int | None = None  # the training ended early after this step; the learning rate was planned for all
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None  # eval_loss, eval_sts-dev_spearman_cosine; None: the main metric
    greater_is_better: bool | None = None  # None: a loss is better when lower, anything else when higher
    prompts: dict[str, str] = Field(default_factory=dict)  # column -> text put before its texts in training
    report_to: tuple[str, ...] = ()  # trackers: "tensorboard", "wandb", "trackio"
    processes: int = 1  # data-parallel processes that the card's numbers imply
    engine: Literal["trainer", "fast"] = "trainer"  # the library's trainer, or the same numbers sooner (training.fast)

    @property
    def precision(self) -> Literal["fp32", "fp16", "bf16"]:
        """Of the computation; the weights are float32."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "fp32"


class EvaluationPlan(Part):
    """What is measured before and after training."""

    evaluator: str = "InformationRetrievalEvaluator"
    name: str = Field(default="evaluation", pattern=NAME)  # also the name of a folder in the run
    truncate_dim: int | None = None
    main_metric: str = "cosine_ndcg@10"
    higher_is_better: bool = True
    repeated_queries: Literal["separate", "merged"] = "separate"  # merged: equal questions are one, with all answers


class Recipe(Part):
    """Everything that training needs. See the module's docstring."""

    schema_version: Literal[1] = 1
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
        base, data, training, plan = self.base, self.data, self.training, self.evaluation
        adapter = f", LoRA r={base.lora.r}{' (DoRA)' if base.lora.use_dora else ''}" if base.lora else ""
        pooling = f", {base.pooling} pooling" if base.pooling else ""
        split = data.split
        parts = (split.train, split.validation, split.test) if split else ()
        shares = ", split " * bool(parts) + " / ".join(f"{100 * part:.0f}%" for part in parts)
        batch = f"batch {training.per_device_train_batch_size} × {training.gradient_accumulation_steps}"
        cut = f" at {plan.truncate_dim} dimensions" if plan.truncate_dim else ""
        lines = [
            f"Recipe({self.name!r}, {self.variant})",
            f"  base        {base.model}{pooling}, {base.similarity}{adapter}",
            f"  data        {_rows(data.train, data.columns)}{shares}",
            *(
                f"  and         {further.name}, {_rows(further.source, further.columns)}"
                + (f", {further.loss}" if further.loss else "")
                for further in data.more
            ),
            f"  loss        {self.loss}",
            f"  training    {training.num_train_epochs:g} epochs, {batch} × {training.processes}, "
            f"learning rate {training.learning_rate:g} {training.lr_scheduler_type}, seed {training.seed}",
            f"  evaluation  {plan.evaluator}{cut}, {plan.main_metric}",
        ]
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])

    __str__ = __repr__  # pydantic's has every field

    def _repr_html_(self) -> str:
        """A table of the fields that something or somebody set; the fields at their defaults are folded."""
        left = "style='text-align:left'"  # JupyterLab aligns the text of tables to the right
        stated, defaults = "", ""
        for path, value in leaves(self).items():
            origin = self.provenance.get(path)
            cells = (path, "unknown" if value is None else str(value), str(origin or "not stated"))
            row = "<tr>" + "".join(f"<td {left}>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            if origin and origin.source in ("default", "library"):
                defaults += row
            else:
                stated += row
        head = "".join(f"<th {left}>{name}</th>" for name in ("field", "value", "where it came from"))
        head = f"<thead><tr>{head}</tr></thead>"
        caption = html.escape(f"Recipe of {self.name}, {self.variant}")
        table = f"<table><caption>{caption}</caption>{head}<tbody>{stated}</tbody></table>"
        if defaults:
            summary = f"<summary>{defaults.count('<tr>')} more fields at their defaults</summary>"
            table += f"<details>{summary}<table>{head}<tbody>{defaults}</tbody></table></details>"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return table + (f"<ul>{notes}</ul>" if notes else "")


def _rows(source: Source, columns: tuple[str, ...]) -> str:
    rows = f"{source.rows:,} rows" if source.rows is not None else "rows unknown"
    return f"{source.location}: {rows} ({', '.join(columns)})"


SECTIONS = ("base", "data", "loss", "training", "evaluation")
OPEN = ("parameters", "prompts", "lr_scheduler_kwargs")
"""Fields whose entries are leaves: `loss.parameters.scale`."""


def leaves(recipe: Recipe) -> dict[str, Any]:
    """Every executable field by its dotted path, in reading order."""
    dumped = recipe.model_dump(include=set(SECTIONS))
    return {path: value for name in SECTIONS for path, value in _leaves(dumped[name], name)}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path == "data.more" and value:
        value = dict(enumerate(value))
    closed = path.endswith(".columns") or any(f".{name}." in path for name in OPEN)
    if isinstance(value, dict) and value and not closed:
        for name, inner in value.items():
            if not (name == "inner" and inner is None):
                yield from _leaves(inner, f"{path}.{name}")
    else:
        yield path, value


def schema_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields that may be set, those of absent optional parts included."""
    for name in model.model_fields if prefix else SECTIONS:
        path, field = f"{prefix}{name}", model.model_fields[name]
        yield path
        options = typing.get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else ()
        for part in options or (field.annotation,):
            if isinstance(part, type) and issubclass(part, Part) and path.count("inner") <= 2:
                yield from schema_paths(part, f"{path}.")


def own_values(recipe: Recipe) -> dict[str, Any]:
    """The fields that the user has set, by their dotted paths.

    Rows, their columns and a largest number of steps that came from arguments of `train` are left out.
    """
    origins = {path: origin for path, origin in recipe.provenance.items() if origin.source == "user"}
    arguments = {path for path, origin in origins.items() if origin.note in ("data", "columns", "max_steps")}
    return {path: value for path, value in leaves(recipe).items() if path in origins.keys() - arguments}


def difference(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """(dotted path, value in `a`, value in `b`) of every field that differs; None where one has no such field."""
    ours, theirs = leaves(a), leaves(b)
    empty: tuple[Any, ...] = (None, {}, ())  # an empty mapping or list means the same as None
    found = [(path, ours.get(path), theirs.get(path)) for path in {**ours, **theirs}]
    return [(path, one, other) for path, one, other in found if one != other and not (one in empty and other in empty)]


def recipe_sha256(recipe: Recipe) -> str:
    """SHA-256 of what is executed: equal for two recipes that run the same, wherever their values come from."""
    text = json.dumps(recipe.model_dump(mode="json", include=set(SECTIONS)), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


OURS = ("engine", "eval_on_end", "processes", "prompts", "report_to", "stop_step", "validation_loss")
"""Fields of `training` whose default is the recipe's own, not a library's."""
OF_SENTENCE_TRANSFORMERS = ("batch_sampler", "multi_dataset_batch_sampler")
DEFAULTS = {
    "data.split": "nothing on the card shows that the rows were divided",
    "data.evaluation": "the card names no separate evaluation rows",
    "base.lora": "nothing on the card shows an adapter",
    "base.prompts": "neither the card nor a file beside it names a prompt",
    "base.static_dimensions": "the card shows no embedding table without a transformer",
    "data.more": "the card trains on one dataset",
    "training.prompts": "the card names no prompt for a column",
    "training.report_to": "no tracker follows a run unless asked",
    "evaluation.repeated_queries": "each row is a separate query unless something shows otherwise",
    "training.processes": "nothing on the card shows more than one",
    "training.eval_on_end": "nothing in the log shows that the last step was not evaluated",
    "training.stop_step": "nothing in the log shows that the training ended early",
    "training.validation_loss": "rows that are held out have a loss",
    "training.engine": "the library's trainer, unless another is asked for",
}
"""Path -> the reason for its default; every other field is "not on the card"."""


def with_origins(recipe: Recipe, origins: Mapping[str, Origin], versions: Mapping[str, str] | None = None) -> Recipe:
    """`recipe` with an origin for every leaf: its own, else that of a part above it, else the default's.

    `versions`: package -> version on the card, for the defaults of libraries.
    """
    complete: dict[str, Origin] = {}
    for path in leaves(recipe):
        parts = path.split(".")
        above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        found = next((origins[name] for name in above if name in origins), None)
        complete[path] = found or _default_origin(path, versions or {})
    return recipe.model_copy(update={"provenance": complete})


def _default_origin(path: str, versions: Mapping[str, str]) -> Origin:
    name = path.rpartition(".")[2]
    if path.startswith("training.") and name not in OURS:
        package = "Sentence Transformers" if name in OF_SENTENCE_TRANSFORMERS else "Transformers"
        return Origin(source="library", note=f"default of {package} {versions.get(package, '(version not stated)')}")
    if path.endswith(".parameters"):
        return Origin(source="library", note="defaults of the loss: the card prints no parameters")
    return Origin(source="default", note=DEFAULTS.get(path, "not on the card"))


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
"""Type of a pydantic error -> what was expected."""


def error_path(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"])


def recipe_error(error: ValidationError, where: str = "") -> RecipeError:
    """The first error of a validation as a RecipeError; `where` names the file."""
    first = error.errors()[0]
    path = error_path(error)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, [*Recipe.model_fields, *schema_paths(Recipe)], n=3, cutoff=0.6)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return RecipeError(f"expected a field of the recipe{where}, found {path!r}{hint}.")
    context = {key: str(value) for key, value in first.get("ctx", {}).items()}
    key = {"value_error": "error", "literal_error": "expected"}.get(first["type"], "")
    expected = context.get(key) or EXPECTED.get(first["type"], first["msg"].removeprefix("Input should be "))
    expected = "a word of the library" if context.get("pattern") == WORD else expected
    found = "nothing" if first["type"] == "missing" else repr(first["input"])
    return RecipeError(f"expected {expected} for {path!r}{where}, found {found[:200]}.")
