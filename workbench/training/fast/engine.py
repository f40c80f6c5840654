"""The second engine of training: the library's trainer, whose batches are tokens and whose forward has no padding.

Loop, samplers, losses, schedule, checkpoints, resume, log and evaluation are those of `InstrumentedTrainer`, so the
batches and their order are too. What differs is how a batch becomes vectors: tokens come from the disk, all columns go
through the transformer in one packed pass (on a GPU with all micro-batches of a step), large tables get their gradient
on touched rows, linear layers take the faster product and AdamW its fused form. Losses agree with the reference's to
rounding where there is no dropout; with dropout other random numbers are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformerTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from workbench.models.dropout import fast_dropout
from workbench.models.linear import fast_linear
from workbench.models.packing import Pass, pack, packed_forward, packing_obstacle
from workbench.models.tokens import Tokens, load_tokens
from workbench.training.callbacks import InstrumentedTrainer
from workbench.training.fast.tables import Table, TablePass, bags, clip
from workbench.training.processes import world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from workbench.recipe.schema import Recipe

LOSSES = (
    "AnglELoss", "BatchAllTripletLoss", "BatchHardSoftMarginTripletLoss", "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss", "CoSENTLoss", "ContrastiveLoss", "CosineSimilarityLoss", "MSELoss", "MarginMSELoss",
    "MatryoshkaLoss", "MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss", "OnlineContrastiveLoss",
    "SoftmaxLoss", "TripletLoss",
)  # fmt: skip
"""Losses that ask the model once for each column of a batch."""

STEP_TOKENS = {"cpu": 0, "cuda": 65_536}
"""Tokens up to which the micro-batches of a step share one pass; on a CPU that gains nothing and costs memory."""

BYTES_PER_TOKEN = 68
"""What a layer keeps of a token for the backward pass, for each number of its width, in float32: twice the 34 bytes of
Korthikanti et al., 2022, "Reducing Activation Recomputation in Large Transformer Models", table 2, whose attention
weights no kernel keeps here."""


def refusal(recipe: Recipe, model: SentenceTransformer) -> str | None:
    """None where this engine trains `recipe`, else a sentence that says why the library's trainer does."""
    reason = _reason(recipe, model)
    return None if reason is None else f"The fast engine does not take this recipe ({reason}); the trainer trains it."


def _reason(recipe: Recipe, model: SentenceTransformer) -> str | None:
    losses = [recipe.loss, *(each.loss for each in recipe.data.more if each.loss is not None)]
    for spec in (spec for loss in losses for spec in loss.chain()):
        if spec.name not in LOSSES:
            return f"{spec.name} does not call the model once for each column"
    if world_size() > 1:
        return "several processes train"
    if recipe.training.gradient_checkpointing:
        return "gradient checkpointing is on"
    if not hasattr(SentenceTransformerTrainer, "_build_dataloader"):
        return "the installed sentence-transformers builds its batches in another way"
    table = _static_table(model)
    if table is None:
        return packing_obstacle(model)
    return None if table.mode == "mean" else f"its static embedding pools by {table.mode}, not by mean"


def _static_table(model: SentenceTransformer) -> Any:
    """The nn.EmbeddingBag of a static model."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return model[0].embedding if isinstance(model[0], StaticEmbedding) else None


@dataclass
class Batch:
    """The texts of a batch as token numbers."""

    columns: list[list[np.ndarray[Any, Any]]]  # for each column, for each row
    prompts: list[int | None]  # tokens of each column's prompt, where it has one
    together: list[Batch] = field(default_factory=list)  # batches that share a pass, this one among them
    features: list[dict[str, Any]] | None = None  # of each column, once the pass is laid out
    loss: Tensor | None = None  # once computed with the others

    @property
    def tokens(self) -> int:
        return sum(len(text) for column in self.columns for text in column)


@dataclass(frozen=True)
class Part:
    """A dataset as token numbers."""

    name: str | None
    columns: list[Tokens]
    prompts: list[int | None]
    labels: Tensor | None
    size: int


class Rows(TorchDataset[Any]):
    """The training rows, of one dataset or several in a row, as a data loader asks for them: a batch at a time."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.ends = np.cumsum([part.size for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitems__(self, places: list[int]) -> dict[str, Any]:
        number = int(np.searchsorted(self.ends, places[0], side="right"))
        part = self.parts[number]
        own = [place - (int(self.ends[number]) - part.size) for place in places]
        batch: dict[str, Any] = {
            "texts": Batch([[tokens[row] for row in own] for tokens in part.columns], part.prompts)
        }
        if part.labels is not None:
            batch["label"] = part.labels[own]
        if part.name is not None:
            batch["dataset_name"] = part.name
        return batch


class Fast(InstrumentedTrainer):
    """The instrumented trainer with the forward pass of this package."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.tables = _tables(self.model)
        self.most = _step_tokens(self.model)
        self.step: list[dict[str, Any]] = []  # batches that share a pass
        self.passes = self.tokens_passed = 0  # of the transformer or table, and tokens in them, while training
        journal, plain_clip = self.journal, self.accelerator.clip_grad_norm_

        def clip_tables(parameters: Any, most: float, *more: Any, **named: Any) -> Any:
            if not self.tables:
                return plain_clip(parameters, most, *more, **named)
            self.accelerator.unscale_gradients()
            journal.grad_norm = clip(parameters, most, self.tables)
            return journal.grad_norm

        self.accelerator.clip_grad_norm_ = clip_tables

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(packed_forward(self.model))
            stack.enter_context(fast_linear(self.model))
            stack.enter_context(fast_dropout(self.model))
            return super().train(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)

        def write(*_: Any) -> None:
            for table in self.tables:
                table.write()

        optimizer.register_step_pre_hook(write)
        return optimizer

    def get_optimizer_cls_and_kwargs(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:  # type: ignore[override]
        kind, given = super().get_optimizer_cls_and_kwargs(*args, **kwargs)
        return kind, {**given, "fused": True} if kind is torch.optim.AdamW else given

    def _build_dataloader(self, dataset: Any, batch_size: int, dataset_kind: str) -> DataLoader[Any]:
        loader: DataLoader[Any] = super()._build_dataloader(dataset, batch_size, dataset_kind)
        if dataset_kind != "train":
            return loader
        several = isinstance(dataset, dict)
        parts = [self._part(name, rows) for name, rows in (dataset if several else {None: dataset}).items()]
        return DataLoader(Rows(parts), batch_sampler=loader.batch_sampler, collate_fn=lambda batch: batch)

    def _part(self, name: str | None, rows: Dataset) -> Part:
        label = next((each for each in self.data_collator.valid_label_columns if each in rows.column_names), None)
        texts = [column for column in rows.column_names if column not in (label, "dataset_name")]
        resolved: Any = self.data_collator._resolve_prompts({} if name is None else {"dataset_name": name})
        prompts = [self.data_collator._get_prompt_for_column(resolved, column) for column in texts]
        length = getattr(self.model[0], "_get_prompt_length", None)
        return Part(
            name=name,
            columns=[
                load_tokens(self.model, rows, *each) for each in zip(texts, (p or "" for p in prompts), strict=True)
            ],
            prompts=[length(prompt) if prompt and length is not None else None for prompt in prompts],
            labels=None if label is None else torch.tensor(rows[:][label]),
            size=len(rows),
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step; those that share a pass refer to each other."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        batches = [sample["texts"] for sample in samples]
        if len(batches) > 1 and sum(batch.tokens for batch in batches) <= self.most:
            for batch in batches:
                batch.together = batches
            self.step = samples
        return samples, items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As the library's, but the first of several batches that share a pass does the work of all of them."""
        batch: Batch = inputs["texts"]
        for table in self.tables:
            table.clear()
        if batch.loss is None:
            whole: Tensor = super(InstrumentedTrainer, self).training_step(model, inputs, *args, **kwargs)
            batch.loss = whole if not batch.together else batch.loss
        assert batch.loss is not None
        self.journal.add_loss(batch.loss)
        return batch.loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batch: Batch | None = inputs.get("texts")
        if batch is None or not batch.together:
            return super().compute_loss(model, inputs, *args, **kwargs)
        losses: list[Tensor] = []
        for each in self.step:
            loss: Any = super().compute_loss(model, self._prepare_inputs(dict(each)), *args, **kwargs)
            losses.append(loss)
            each["texts"].loss = losses[-1].detach() / self.current_gradient_accumulation_steps
        return torch.stack(losses).sum()

    def collect_features(self, inputs: dict[str, Any]) -> tuple[list[dict[str, Any]], Tensor | None]:
        batch = inputs.get("texts")
        if batch is None:  # of the loss on held-out rows
            return super().collect_features(inputs)
        if batch.features is None:
            self._lay_out(batch.together or [batch])
        return batch.features, inputs.get("label")

    def _lay_out(self, batches: Sequence[Batch]) -> None:
        """Make one pass of all columns of all batches."""
        device = self.model.device
        columns = [column for batch in batches for column in batch.columns]
        sizes = [len(column) for column in columns]
        texts = [text for column in columns for text in column]
        table = self.tables[0] if self.tables else None
        laid: Pass | TablePass
        if _static_table(self.model) is not None and table is not None:
            laid = TablePass(bags(texts, device), sizes, table)
        else:
            laid = Pass(pack(texts, distinct=table is not None).to(device), sizes, table.rows if table else None)
        self.passes += 1
        self.tokens_passed += laid.tokens
        number = 0
        for batch in batches:
            batch.features = []
            for prompt in batch.prompts:
                features = laid.features(number)
                batch.features.append(features if prompt is None else {**features, "prompt_length": prompt})
                number += 1


def _step_tokens(model: SentenceTransformer) -> int:
    """Tokens up to which a pass is shared. On a GPU they take at most half of the memory that gradients and AdamW will
    leave: a batch may have been split because it does not fit."""
    most = STEP_TOKENS.get(model.device.type, 0)
    sizes = getattr(model[0], "config", None)
    if model.device.type != "cuda" or sizes is None:
        return most
    free = torch.cuda.mem_get_info(model.device)[0]
    trained = sum(weight.numel() * 12 for weight in model.parameters() if weight.requires_grad)
    return min(most, max(free - trained, 0) // (2 * BYTES_PER_TOKEN * int(sizes.hidden_size * sizes.num_hidden_layers)))


def _tables(model: SentenceTransformer) -> list[Table]:
    """The large table that is trained: a static model's, or the word embeddings of a transformer."""
    bag = _static_table(model)
    if bag is not None:
        return [Table(bag.weight, bag.padding_idx)] if bag.weight.requires_grad else []
    first: Any = model[0]
    words = first.model.get_input_embeddings()
    plain = type(words) is nn.Embedding and not words.scale_grad_by_freq and words.max_norm is None
    return [Table(words.weight, words.padding_idx)] if plain and words.weight.requires_grad else []
