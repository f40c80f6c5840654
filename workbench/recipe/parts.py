"""The groups of fields of which a recipe consists: base, data, loss, training, evaluation.

Plain frozen pydantic models; a field that they do not know is an error. What a field means and its unit stands on its
line. `workbench.recipe` puts them together and says where each value came from.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = r"^[\w@+-][\w.@+-]*$"
"""A name that can be a folder's."""


class Part(BaseModel):
    """A group of recipe fields: frozen, and a field that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(Part):
    """Where the value of one field came from."""

    source: Literal["card", "file", "library", "inferred", "default", "user", "finding"]
    lines: tuple[int, ...] = ()  # of the card, or of the file
    note: str = ""  # the file's name, the library's version, the reason, the finding's code

    def __str__(self) -> str:
        """In words, for a table.

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
    prompts: dict[str, str] = Field(default_factory=dict)  # while evaluating: {"query": "...", "document": "..."}


class Source(Part):
    """Where rows come from: a Hub id, a local file, `sample:porsche`, or `unknown`."""

    location: str = "unknown"
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)  # theirs -> ours; empty keeps names
    rows: int | None = None  # expected number of rows before any split, as the card says; None is unknown


class Split(Part):
    """How rows without a split of their own are divided. The shares may leave rows unused, never use one twice."""

    train: float = Field(default=0.8, gt=0, le=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 42

    @model_validator(mode="after")
    def _within_one(self) -> Split:
        if self.train + self.validation + self.test > 1 + 1e-6:
            raise ValueError("shares of train, validation and test that add up to 1 at most")
        return self


class LossSpec(Part):
    """One node of the loss tree."""

    name: str  # class in sentence_transformers.losses
    parameters: dict[str, Any] = Field(default_factory=dict)
    inner: LossSpec | None = None


class TrainingSet(Part):
    """A further dataset of a card that trains on several."""

    name: str
    source: Source = Source()
    columns: tuple[str, ...] = ()  # columns its loss reads, in its order
    loss: LossSpec | None = None  # None: the recipe's


class Data(Part):
    name: str = "train"  # of the first dataset, where there are several
    train: Source = Source()
    evaluation: Source | None = None  # a collection or rows of its own; None takes the split's
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
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)  # arguments of that schedule
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
    prompts: dict[str, str] = Field(default_factory=dict)  # column -> what stands before its texts while training
    report_to: tuple[str, ...] = ()  # trackers that follow the run: "tensorboard", "wandb", "trackio"
    processes: int = 1  # data-parallel processes that the card's numbers imply
    engine: Literal["trainer", "fast"] = "trainer"  # the library's trainer, or the same numbers sooner (see `fast`)


class EvaluationPlan(Part):
    """What is measured before and after training."""

    evaluator: str = "InformationRetrievalEvaluator"
    name: str = Field(default="evaluation", pattern=NAME)  # also a folder's name in the run
    truncate_dim: int | None = None
    main_metric: str = "cosine_ndcg@10"
    higher_is_better: bool = True
    repeated_queries: Literal["separate", "merged"] = "separate"  # merged: equal questions are one, with all answers
