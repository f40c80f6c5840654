"""What is shown of runs and cards, as plain values. Nothing here reads a file or knows how a screen looks.

A metric's row is `evaluation.comparison.MetricRow`, from the comparison to the screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench.audit.finding import line_ranges

if TYPE_CHECKING:
    from workbench.audit.finding import Finding

FindingLines = tuple["Finding", tuple[tuple[int, str], ...]]  # a finding, and (number, text) of the lines that prove it

TOP = 10  # a query without a relevant document in the top 10 has failed

Outcome = Literal["found", "better", "unchanged", "worse", "lost"]
OUTCOMES: dict[str, str] = {
    "found": f"a relevant document in the top {TOP} after training, none before",
    "better": f"a better rank of the first relevant document, on the same side of the top {TOP}",
    "unchanged": "the same rank of the first relevant document",
    "worse": f"a worse rank of the first relevant document, on the same side of the top {TOP}",
    "lost": f"a relevant document in the top {TOP} before training, none after",
}
"""What training does to a query -> what that means, the best first. Every query has one outcome."""


@dataclass(frozen=True)
class QueryOutcome:
    """One query before and after training, or one example (pair, triplet, text) of an evaluation without ranks.

    A rank is that of the first relevant document, 1 is best; None: below the depth that is kept, worse than any other.
    `before` and `after` are the query's metric; of an example its agreement with the gold labels, 0 to 1.
    """

    query: str  # its text; of an example its texts, joined by " | "
    rank_before: int | None
    rank_after: int | None
    before: float = 0.0
    after: float = 0.0
    query_id: str = ""
    ranked: bool = True  # False for an example
    gold: float | None = None  # of an example, and its scores by the two models
    score_before: float | None = None
    score_after: float | None = None

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def outcome(self) -> Outcome:
        """By ranks, see `OUTCOMES`. An example has no ranks: better, unchanged or worse by the sign of its difference.

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
class Hit:
    """A document of a ranking."""

    position: int  # 1 is best
    relevant: bool
    score: float
    document_id: str
    document: str  # its text; empty if the run does not keep it
    note: str = ""  # where the other ranking has it, and how its score changed


@dataclass(frozen=True)
class OpenedQuery:
    """One query in detail."""

    before: tuple[Hit, ...] = ()  # the best documents, best first; empty if no ranking is stored
    after: tuple[Hit, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()  # (id, text) of relevant documents; of an example (column, text)


@dataclass(frozen=True)
class Sourced:
    """A value and where it comes from: a field of a recipe, a fact of a card, a measurement of a run."""

    name: str  # "training.learning_rate", "Base model"
    value: str
    source: str = ""  # one of `Origin.source`, a status of `reproducibility`, "unknown"; empty: measured here
    lines: tuple[int, ...] = ()  # of the card
    note: str = ""
    other: str | None = None  # the value beside it: of the corrected recipe, or that was trained

    @property
    def changed(self) -> bool:
        return self.other is not None and self.other != self.value

    @property
    def line_ranges(self) -> str:
        """The lines, at most six ranges of them.

        >>> Sourced("seed", "42", lines=(29, 24, 25)).line_ranges
        '24-25, 29'
        """
        return line_ranges(self.lines, most=6)


@dataclass(frozen=True)
class Verdict:
    word: str  # see `evaluation.verdict.Verdict`; or why there is none: "no verdict", "failed", ...
    tone: str  # "good", "bad", "info" or "open": its color and sign
    meaning: str  # one sentence: what the word says about the card
    reasons: tuple[str, ...] = ()
    sentence: str = ""  # what it rests on
    facts: tuple[tuple[str, str], ...] = ()  # (name, value): difference, margin, seeds, examples, ...
    statements: tuple[str, ...] = ()  # what the user states about the card


@dataclass(frozen=True)
class Grouping:
    """Queries or vectors in groups, each before and after."""

    by: str  # "query length", "gold score", "dimensions", "precision"
    rows: tuple[Mapping[str, Any], ...]
    """Of queries: group, queries, before, after, difference, low and high (95% CI of the difference; None for a small
    group), and for ranked queries failed_before and failed_after. Of vectors: group, bytes, before, after, and share
    (`after` divided by that of full vectors)."""
    drawn: tuple[Mapping[str, Any], ...]  # for `slice_figure`


@dataclass(frozen=True)
class Cause:
    """Failed queries with a property that may explain the failure; a query can have several."""

    name: str  # one of `failures.CAUSES`
    meaning: str
    queries: int
    share: float  # of all failed queries


@dataclass(frozen=True)
class TopTen:
    """Queries with a relevant document in the top 10."""

    both: int
    found: int  # only after
    lost: int  # only before
    neither: int

    @property
    def failed(self) -> int:
        """Queries that fail after training."""
        return self.lost + self.neither


@dataclass(frozen=True)
class QueriesView:
    """The queries, or examples, of one evaluation before and after training."""

    evaluation: str = ""
    metric: str = ""  # of each query, as it is shown
    unit: str = "queries"  # what was measured one by one: "queries", "pairs", "triplets"
    measured: int = 0  # how many
    ranked: bool = True  # False: examples, without rankings
    depth: int = 100  # documents kept per ranking
    outcomes: tuple[QueryOutcome, ...] = ()  # of ranked queries
    gained: tuple[tuple[QueryOutcome, OpenedQuery], ...] = ()  # those whose metric rose most
    lost: tuple[tuple[QueryOutcome, OpenedQuery], ...] = ()
    top_ten: TopTen | None = None
    causes: tuple[Cause, ...] = ()  # of the queries that fail after training
    groupings: tuple[Grouping, ...] = ()
    vector_sizes: tuple[Grouping, ...] = ()  # metrics at fewer dimensions and with quantized embeddings


def number(value: float | None, decimals: int = 4) -> str:
    """A number with a true minus; an en dash for None.

    >>> number(-0.5), number(None)
    ('−0.5000', '–')
    """
    return "–" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """
    >>> signed(0.5, 2), signed(-0.5, 2), signed(-0.001, 2)
    ('+0.50', '−0.50', '+0.00')
    """
    return "–" if value is None else f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def format_p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def rank_text(rank: int | None, depth: int) -> str:
    """A rank; None is below `depth`."""
    return f"> {depth}" if rank is None else f"{rank:,}"


def duration(seconds: float) -> str:
    """
    >>> duration(405.2), duration(42), duration(9015)
    ('6 min 45 s', '42 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
