"""What reports are made of, as plain values: nothing here reads a file or knows how a page looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from workbench.evaluation.compare import MetricRow
    from workbench.views.figures_loss import Curve


@dataclass(frozen=True)
class Verdict:
    """The answer on top of the page."""

    word: str  # "reproduced", "differs", "not comparable", or why there is none: "no verdict", "failed", ...
    tone: str  # "good", "bad" or "open": how the word is coloured and which sign stands beside it
    meaning: str  # one sentence: what the word says about the card
    reasons: tuple[str, ...] = ()


Outcome = Literal["found", "better", "unchanged", "worse", "lost"]
TOP = 10
OUTCOMES: dict[Outcome, str] = {
    "found": f"a relevant document in the top {TOP} after training, none before",
    "better": f"a better rank of the first relevant document, on the same side of the top {TOP}",
    "unchanged": "the same rank of the first relevant document",
    "worse": f"a worse rank of the first relevant document, on the same side of the top {TOP}",
    "lost": f"a relevant document in the top {TOP} before training, none after",
}
"""What training can do to a query -> what that means, the best first. Every query has one outcome."""


@dataclass(frozen=True)
class QueryOutcome:
    """One query before and after training, or one example (a pair, a triplet, a text) of an evaluation without ranks.

    A rank is that of the first relevant document, 1 is best; None: below the depth that is kept, worse than any other.
    `before` and `after` are the query's metric; for an example how right its score is, 0 to 1.
    """

    query: str
    rank_before: int | None
    rank_after: int | None
    before: float = 0.0
    after: float = 0.0
    ranked: bool = True  # False for an example

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def outcome(self) -> Outcome:
        """By ranks, see `OUTCOMES`; of an example by the difference: better, unchanged or worse.

        >>> QueryOutcome("q", 12, 3).outcome, QueryOutcome("q", 2, 1).outcome, QueryOutcome("q", 2, None).outcome
        ('found', 'better', 'lost')
        """
        if not self.ranked:
            return "better" if self.difference > 0 else "worse" if self.difference < 0 else "unchanged"
        before, after = (math.inf if rank is None else rank for rank in (self.rank_before, self.rank_after))
        if (before <= TOP) != (after <= TOP):
            return "found" if after <= TOP else "lost"
        return "better" if after < before else "worse" if after > before else "unchanged"


@dataclass(frozen=True)
class FindingLine:
    """One line of the card that a finding rests on."""

    number: int
    text: str


@dataclass(frozen=True)
class FindingRow:
    code: str
    severity: str  # "error", "warning", "note"
    message: str
    lines: tuple[FindingLine, ...] = ()
    fix: str = ""


@dataclass(frozen=True)
class Hit:
    """A document of a ranking."""

    text: str
    relevant: bool
    score: float


@dataclass(frozen=True)
class Mover:
    """A query whose metric changed much."""

    query: str
    relevant: str  # its first relevant document
    rank_before: int | None  # None: not among the documents kept
    rank_after: int | None
    before: float
    after: float
    ranking_before: tuple[Hit, ...] = ()  # the best documents, best first; empty where none were stored
    ranking_after: tuple[Hit, ...] = ()

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def top_before(self) -> Hit | None:
        return next(iter(self.ranking_before), None)

    @property
    def top_after(self) -> Hit | None:
        return next(iter(self.ranking_after), None)


@dataclass(frozen=True)
class Group:
    """The queries (or items) of one kind, and how they did. Failures are queries without a relevant document among the
    ten best; None where nothing is ranked."""

    name: str
    queries: int
    before: float
    after: float
    low: float | None  # 95 % interval of the change; None of a group that is too small for one
    high: float | None
    failed_before: int | None = None
    failed_after: int | None = None

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Grouping:
    """All queries, divided by one property of theirs."""

    by: str  # "query length"
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Cut:
    """An evaluation with smaller vectors."""

    name: str  # "128 dimensions", "int8"
    bytes: float  # of one vector
    before: float | None
    after: float | None
    kept: float | None  # `after` as a share of that of whole vectors


@dataclass(frozen=True)
class Cutting:
    """An evaluation at each size of its vectors, the largest first."""

    by: str  # "dimensions" or "precision"
    cuts: tuple[Cut, ...]
    rows: tuple[Mapping[str, Any], ...]  # the records of `slices`, for the figure


@dataclass(frozen=True)
class Cause:
    """Failed queries that have one thing in common which may be the reason; a query can have several."""

    name: str  # one of movements.GROUPS
    meaning: str
    queries: int | None  # None: nobody counted, because it takes the model's tokenizer
    share: float | None  # of all failed queries


@dataclass(frozen=True)
class Found:
    """How many queries had a relevant document among the ten best, before and after."""

    both: int
    won: int  # only after
    lost: int  # only before
    neither: int

    @property
    def before(self) -> int:
        return self.both + self.lost

    @property
    def after(self) -> int:
        return self.both + self.won


@dataclass(frozen=True)
class MapPlaces:
    """One moment of a map. Sequences are parallel."""

    moment: str  # "before" or "after"
    queries: tuple[bool, ...]  # a query, else a document
    x: tuple[float, ...]
    y: tuple[float, ...]
    groups: tuple[str, ...]  # "better", "worse", "same rank", "not in the top 10"; "document" for documents
    texts: tuple[str, ...]
    kept: float | None = None  # share of true nearest neighbours that are neighbours on the map too


@dataclass(frozen=True)
class MapView:
    """A map of the evaluation's texts, as it is drawn: perhaps not all of its points."""

    method: str  # "umap" or "pca"
    moments: tuple[MapPlaces, ...]
    points: int  # of each moment, on the stored map
    shown: int  # of each moment, here


@dataclass(frozen=True)
class ItemMover:
    """A pair, triplet or text that came nearer to its right place, or went away from it."""

    texts: tuple[tuple[str, str], ...]  # (name of the column, text)
    gold: float | None  # the score or label that people gave; None where items have none
    score_before: float
    score_after: float
    before: float  # how right that is, 0 to 1; see intervals.agreement
    after: float

    @property
    def difference(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class RecipeRow:
    path: str  # "training.learning_rate"
    value: str
    source: str  # one of Origin.source, or "unknown" where no origin is recorded
    lines: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Fact:
    name: str
    value: str
    code: bool = False  # a hash, a path, a command


@dataclass(frozen=True)
class Summary:
    """All that the report shows, as plain values."""

    run: str  # name of the run folder
    card: str  # name of the card
    variant: str  # "as written" or "corrected"
    status: str
    verdict: Verdict
    stand_ins: tuple[str, ...] = ()
    evaluation: str = ""  # name of the evaluation that `changes` and the movers come from
    unit: str = "queries"  # what was measured one by one: "queries", "pairs", "triplets"
    measured: int = 0  # how many of them
    by_item: bool = False  # whether the evaluation is one of items, which has no rankings
    per_query_metric: str = ""
    depth: int = 100  # documents kept per ranking
    main_metric: str = ""
    metrics: tuple[MetricRow, ...] = ()
    metric_notes: tuple[str, ...] = ()  # how they were measured and compared
    findings: tuple[FindingRow, ...] | None = None  # None: there is no card to audit
    curves: tuple[Curve, ...] = ()
    curve_notes: tuple[str, ...] = ()  # what was corrected on the card's curve, and what the points are
    changes: tuple[QueryOutcome, ...] = ()
    gained: tuple[Mover, ...] = ()
    lost: tuple[Mover, ...] = ()
    items_gained: tuple[ItemMover, ...] = ()  # where the evaluation is of items, not a search
    items_lost: tuple[ItemMover, ...] = ()
    found: Found | None = None
    causes: tuple[Cause, ...] = ()  # of the queries that failed after training
    groupings: tuple[Grouping, ...] = ()
    cuttings: tuple[Cutting, ...] = ()
    map: MapView | None = None
    recipe: tuple[RecipeRow, ...] = ()
    recipe_notes: tuple[str, ...] = ()
    recipe_text: str = ""  # the recipe as YAML
    checks: tuple[tuple[str, str], ...] = ()  # (severity, sentence) of the data checks
    machine: tuple[Fact, ...] = ()
    command: str = ""
    versions: tuple[Fact, ...] = ()
    hashes: tuple[Fact, ...] = ()
    gaps: Mapping[str, str] = field(default_factory=dict)  # part -> why it is missing

    @property
    def main(self) -> MetricRow | None:
        """The metric that the recipe calls its main one, or the first."""
        return next((row for row in self.metrics if row.metric == self.main_metric), None) or next(
            iter(self.metrics), None
        )


@dataclass(frozen=True)
class Pair:
    """Another run beside the first."""

    letter: str
    verdict: str  # of the main metric: "differs", "no significant difference", "not comparable"
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[MetricRow, ...]


@dataclass(frozen=True)
class Several:
    """All that a report of several runs shows. `runs`, and the values of a difference, stand in one order."""

    runs: tuple[Summary, ...]
    letters: tuple[str, ...]  # "A", "B", ...: what the runs are called in tables and figures
    verdict: Verdict
    metrics: tuple[str, ...]  # all that any of the runs has, the main one first
    main: str
    pairs: tuple[Pair, ...]  # each other run beside the first
    card: Mapping[str, float]  # metric -> the card's number, where all runs come from one card
    differences: tuple[tuple[str, tuple[str, ...]], ...]  # (field of the recipes, its value in each run)
    gaps: Mapping[str, str] = field(default_factory=dict)


# --- numbers as reports print them -----------------------------------------------------------------------------------


def number(value: float | None, decimals: int = 4) -> str:
    """A number with a fixed count of decimals and a true minus; an en dash where there is none.

    >>> number(-0.5), number(None)
    ('−0.5000', '–')
    """
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """
    >>> signed(0.5, 2), signed(-0.5, 2)
    ('+0.50', '−0.50')
    """
    return "–" if value is None else f"{value:+.{decimals}f}".replace("-", "−")


def chance(p: float | None) -> str:
    """A p value."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def rank_text(rank: int | None, depth: int) -> str:
    """A rank; beyond `depth` nobody looked."""
    return f"> {depth}" if rank is None else f"{rank:,}"
