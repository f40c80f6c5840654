"""Card: what a model card says, each fact with its line.

Plain frozen data. Nothing here is inferred: a fact that the card does not state is None or empty, never a default.

Lines are 1-based lines of README.md as an editor counts them, where CR LF, CR and repeated CR before LF are one line
end each. A fact that comes from a file beside the card has that file's name in `source`, and no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, Generic, Literal, TypeVar

from workbench.cards.metric_names import metric_name

T = TypeVar("T")

SCHEMA_VERSION = 1
"""Version of the JSON of `card_to_dict`; raised when a field changes its meaning or goes away."""

Kind = Literal["sentence-transformer", "cross-encoder", "sparse-encoder", "multi-vector", "setfit", "unknown"]
Number = int | float


@dataclass(frozen=True)
class Stated(Generic[T]):
    """One fact and its place."""

    value: T
    line: int | None = None  # 1-based line; None where the source has no useful lines
    source: str = "README.md"  # the file: README.md, or one beside it (adapter_config.json, ...)

    def __str__(self) -> str:
        """
        >>> print(Stated(2e-05, 251))
        2e-05
        """
        return str(self.value)


@dataclass(frozen=True)
class Module:
    """One line of the architecture block, e.g. `(1): Pooling({...})`."""

    index: int  # position in the pipeline, from 0
    type: str  # class name without its package: "Transformer", "Pooling", "StaticEmbedding"
    parameters: Mapping[str, Any]  # as printed, typed by `ast.literal_eval` where possible, else text
    architecture: str | None = None  # class of the wrapped model, "BertModel"; None where none is printed
    line: int | None = None


@dataclass(frozen=True)
class Loss:
    """One node of a loss tree; a wrapping loss such as MatryoshkaLoss holds the wrapped one in `inner`."""

    name: str  # as printed, with its package where the card prints one: "__main__.RLFeedbackLoss"
    parameters: Mapping[str, Any]  # without the inner loss; empty where the card prints none
    inner: Loss | None = None
    line: int | None = None

    def chain(self) -> Iterator[Loss]:
        """This loss, then the one it wraps, and so on."""
        node: Loss | None = self
        while node is not None:
            yield node
            node = node.inner


@dataclass(frozen=True)
class ColumnStatistics:
    """What the card says about one column, over its first rows (usually 1,000)."""

    column: str
    type: str | None  # "string", "float", "int", "list", "dict", ...
    details: Mapping[str, Any]  # {"min": 9, "mean": 16.76, "max": 29} or {value: share} for labels
    unit: str | None = None  # "tokens", "characters", "elements"; None for plain numbers
    modality: str | None = None  # "text", "image", ...; None where the card has no such row (before 6.0)


@dataclass(frozen=True)
class Dataset:
    """One training or evaluation dataset of the card."""

    role: Literal["train", "evaluation"]
    name: str | None  # as in its heading; None for "Unnamed Dataset"
    id: str | None = None  # Hub id where the card links one
    revision: str | None = None
    size: int | None = None  # rows; None where the card does not say (streaming)
    columns: tuple[str, ...] = ()
    statistics: tuple[ColumnStatistics, ...] = ()
    statistics_rows: int | None = None  # how many first rows the statistics were taken from
    samples: tuple[Mapping[str, Any], ...] = ()  # one mapping column -> text or number per printed row
    loss: Loss | None = None
    lines: tuple[int, int] | None = None  # first and last line of the dataset's part
    facts: Mapping[str, int] = field(default_factory=dict)  # line of "size", "columns", "statistics", "loss", ...


@dataclass(frozen=True)
class LogRow:
    """One row of the training log. None where the card prints `-` or has no such column."""

    epoch: float | None
    step: int | None  # -1 is an evaluation outside training
    training_loss: float | None
    validation_loss: float | None
    metrics: Mapping[str, float | None]  # every other column by its heading
    saved: bool = False  # printed in bold: the checkpoint that was kept
    line: int | None = None
    source: str = "README.md"  # or trainer_state.json, where the card itself has no log
    gains: Mapping[str, float] = field(default_factory=dict)  # a reranker's "0.53 (+0.11)": heading -> 0.11


@dataclass(frozen=True)
class Evaluation:
    """One column of one metrics table: an evaluator on one dataset.

    A table of several datasets becomes one Evaluation each, with the same `lines`.
    """

    evaluator: str | None  # class name as printed, "InformationRetrievalEvaluator"
    name: str  # its heading, "Information Retrieval"
    datasets: tuple[str, ...]  # names of what it was measured on; empty where the card names none
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]  # as printed in the table: "cosine_ndcg@10" -> 0.7357; NaN stays NaN
    main_metric: str | None = None  # the one in bold
    lines: tuple[int, int] | None = None
    metric_lines: Mapping[str, int] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)  # a reranker's "0.53 (+0.11)": metric -> 0.11


@dataclass(frozen=True)
class IndexedResult:
    """One entry of `model-index` in the front matter: the same numbers, not rounded."""

    task: str | None
    dataset: str | None
    metric: str  # its type: "cosine_ndcg@10"
    value: float
    line: int | None = None


@dataclass(frozen=True)
class Text:
    """What happened to the card's text before it was read."""

    repaired: int = 0  # characters that a wrong decoding had damaged and that were restored
    lost: int = 0  # characters that are gone for ever
    repaired_lines: tuple[int, ...] = ()
    lost_lines: tuple[int, ...] = ()
    original: Mapping[int, str] = field(default_factory=dict)  # line -> as it was before the repair


@dataclass(frozen=True)
class Unread:
    """Lines that were not understood."""

    section: str  # heading path, "Training Details > Training Logs"
    lines: tuple[int, int]
    reason: str


@dataclass(frozen=True, repr=False)
class Card:
    """What one model card says. See the module's text for lines and missing values."""

    name: str  # short name of the card: folder or file name without ending
    kind: Kind
    title: str | None = None
    library_version: str | None = None  # of sentence-transformers (or pylate), as on the card
    base_model: Stated[str] | None = None
    base_revision: Stated[str] | None = None
    languages: tuple[str, ...] = ()
    license: str | None = None
    tags: tuple[str, ...] = ()
    modules: tuple[Module, ...] = ()
    similarity: Stated[str] | None = None  # as printed: "Cosine Similarity", "Energy Distance"
    max_seq_length: Stated[Number] | None = None  # tokens; math.inf where the card says inf
    output_dimension: Stated[int] | None = None
    description: Mapping[str, Stated[str]] = field(default_factory=dict)  # every bullet of Model Description as text
    datasets: tuple[Dataset, ...] = ()
    non_default: Mapping[str, Stated[Any]] = field(default_factory=dict)
    hyperparameters: Mapping[str, Stated[Any]] = field(default_factory=dict)  # "All Hyperparameters", typed
    training_log: tuple[LogRow, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    model_index: tuple[IndexedResult, ...] = ()
    training_time: Mapping[str, Stated[Any]] = field(default_factory=dict)  # hours, hardware, emissions, ...
    versions: Mapping[str, Stated[str]] = field(default_factory=dict)  # "Sentence Transformers" -> "3.3.1"
    citations: tuple[str, ...] = ()  # headings under Citation: names of losses
    front_matter: Mapping[str, Any] = field(default_factory=dict)  # the YAML header as it is
    beside: Mapping[str, Any] = field(default_factory=dict)  # file name -> its parsed content
    unread: tuple[Unread, ...] = ()
    text: Text = Text()
    lines: tuple[str, ...] = ()  # the file's lines after repair, lines[0] is line 1
    sha256: str = ""  # of the file's bytes

    def training_datasets(self) -> tuple[Dataset, ...]:
        return tuple(part for part in self.datasets if part.role == "train")

    def evaluation_datasets(self) -> tuple[Dataset, ...]:
        return tuple(part for part in self.datasets if part.role == "evaluation")

    def argument(self, name: str) -> Stated[Any] | None:
        """The training argument `name`, from the non-default ones first; None where the card has none."""
        return self.non_default.get(name) or self.hyperparameters.get(name)

    def summary(self) -> tuple[tuple[str, str, str], ...]:
        """What the card says, in a few rows: (what, value, lines)."""
        rows: list[tuple[str, str, str]] = [("kind", self.kind, "")]
        rows += _repr_row("base model", self.base_model) + _repr_row("revision", self.base_revision)
        if self.modules:
            names = " → ".join(module.type for module in self.modules)
            rows.append(("modules", names, str(self.modules[0].line or "")))
        rows += _repr_row("similarity", self.similarity) + _repr_row("longest text", self.max_seq_length, " tokens")
        rows += _repr_row("dimensions", self.output_dimension)
        for part in self.datasets:
            size = "size not stated" if part.size is None else f"{part.size:,} rows"
            losses = "" if part.loss is None else "; " + " over ".join(node.name for node in part.loss.chain())
            text = f"{part.name or 'unnamed'}: {size}, columns {', '.join(part.columns) or 'not stated'}{losses}"
            rows.append(("training data" if part.role == "train" else "evaluation data", text, _span(part.lines)))
        if self.training_log:
            last = max((row.step for row in self.training_log if row.step is not None), default=0)
            text = f"{len(self.training_log):,} rows, to step {last:,}"
            rows.append(("training log", text, str(self.training_log[0].line or self.training_log[0].source)))
        for evaluation in self.evaluations:
            main = evaluation.main_metric or next(iter(evaluation.metrics), None)
            shown = "" if main is None else f": {metric_name(main)} {evaluation.metrics[main]:g}"
            name = ", ".join(evaluation.datasets) or evaluation.name
            rows.append(("evaluation", name + shown, _span(evaluation.lines)))
        for name, version in self.versions.items():
            if name in ("Sentence Transformers", "PyLate", "Transformers"):
                rows += _repr_row(name, version)
        if damaged := self.text.repaired_lines + self.text.lost_lines:
            text = f"{self.text.repaired:,} characters repaired, {self.text.lost:,} lost"
            rows.append(("damaged text", text, _span((min(damaged), max(damaged)))))
        for unread in self.unread[:_MOST_UNREAD]:
            rows.append(("not understood", f"{unread.section or 'text'}: {unread.reason}", _span(unread.lines)))
        if len(self.unread) > _MOST_UNREAD:
            rows.append(("not understood", f"and {len(self.unread) - _MOST_UNREAD} more places", ""))
        return tuple(rows)

    def __repr__(self) -> str:
        lines = [f"  {what:<16} {value}{f'  [{place}]' if place else ''}" for what, value, place in self.summary()]
        return "\n".join([f"Card {self.name!r}", *lines])

    def _repr_html_(self) -> str:
        def row(tag: str, texts: tuple[str, ...]) -> str:
            first, *rest = (f"style='text-align:left'>{escape(text)}" for text in texts)
            return f"<tr><th {first}</th>" + "".join(f"<{tag} {text}</{tag}>" for text in rest) + "</tr>"

        body = "".join(row("td", texts) for texts in self.summary())
        head = row("th", ("", "the card says", "line"))
        return f"<table><caption>{escape(self.title or self.name)}</caption>{head}{body}</table>"


_MOST_UNREAD = 8  # rows of the summary; all of them are in `unread`


def _repr_row(what: str, stated: Stated[Any] | None, unit: str = "") -> list[tuple[str, str, str]]:
    if stated is None:
        return []
    return [(what, f"{stated.value}{unit}", stated.source if stated.line is None else str(stated.line))]


def _span(lines: tuple[int, int] | None) -> str:
    return "" if lines is None else str(lines[0]) if lines[0] == lines[1] else f"{lines[0]}–{lines[1]}"
