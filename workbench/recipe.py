"""Recipe: the executable reading of a card, every field with its provenance.

A Card is what the file says; a Recipe is what would have to be run. Fields are grouped as a person would look for
them (base, data, loss, training, evaluation) and every leaf has an entry in `provenance` under its dotted path.
Saved as YAML, read back equal; `Recipe.model_json_schema()` is its JSON Schema.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Part(BaseModel):
    """A group of recipe fields: frozen, and a field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(Part):
    """Where the value of one field came from."""

    source: Literal["card", "file", "library", "inferred", "default", "user", "finding"]
    lines: tuple[int, ...] = ()  # of the card, or of the file
    note: str = ""  # the file's name, the library's version, the reason, the finding's code


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
    similarity: str = "cosine"  # as sentence-transformers names it: cosine, dot, euclidean, manhattan; or "energy"
    lora: Lora | None = None
    prompts: dict[str, str] = Field(default_factory=dict)  # {"query": "...", "document": "..."}


class Source(Part):
    """Where rows come from: a Hub id, a local file, `sample:porsche`, or `unknown`."""

    location: str = "unknown"
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)  # theirs -> ours; empty keeps names
    rows: int | None = None  # expected number of rows, as the card says; None is unknown


class Split(Part):
    """How rows without a split of their own are divided."""

    train: float = 0.8
    validation: float = 0.1
    test: float = 0.1
    seed: int = 42


class Data(Part):
    train: Source = Source()
    evaluation: Source | None = None  # a collection or rows of its own; None takes the split's
    split: Split | None = None
    columns: tuple[str, ...] = ()  # columns the loss reads, in its order: ("anchor", "positive")


class LossSpec(Part):
    """One node of the loss tree."""

    name: str  # class in sentence_transformers.losses
    parameters: dict[str, Any] = Field(default_factory=dict)
    inner: LossSpec | None = None


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
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    seed: int = 42
    data_seed: int | None = None
    fp16: bool = False
    bf16: bool = False
    dataloader_drop_last: bool = False
    gradient_checkpointing: bool = False
    batch_sampler: str = "batch_sampler"
    multi_dataset_batch_sampler: str = "proportional"
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    logging_steps: int = 500
    save_strategy: Literal["no", "steps", "epoch"] = "steps"
    save_steps: int = 500
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    processes: int = 1  # data-parallel processes that the card's numbers imply


class EvaluationPlan(Part):
    """What is measured before and after training."""

    evaluator: str = "InformationRetrievalEvaluator"
    name: str = "evaluation"
    truncate_dim: int | None = None
    main_metric: str = "cosine_ndcg@10"
    higher_is_better: bool = True


class Recipe(Part):
    """All that training needs. See the module's text."""

    schema_version: int = SCHEMA_VERSION
    name: str
    variant: Literal["as written", "corrected"] = "as written"
    kind: str = "sentence-transformer"
    base: Base
    data: Data = Data()
    loss: LossSpec
    training: Training = Training()
    evaluation: EvaluationPlan = EvaluationPlan()
    provenance: dict[str, Origin] = Field(default_factory=dict)  # dotted path -> origin
    notes: tuple[str, ...] = ()  # arguments translated or dropped, one sentence each
