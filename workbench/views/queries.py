"""The queries of a run for its report: how each moved, those that moved most with their rankings, failures by group.

Runs that were measured item by item have pairs or triplets in place of queries, and no rankings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.evaluation.examples import example_changes, has_examples, input_columns, unit
from workbench.evaluation.retrieval import DEEPEST_CUT
from workbench.evaluation.slices import at_dimensions, at_precisions, slice_queries
from workbench.run import Run
from workbench.views.rank_changes import failure_groups, failures
from workbench.views.records import Cause, Cut, Cutting, Found, Group, Grouping, Hit, ItemMover, Mover, QueryOutcome
from workbench.views.theme import shorten

if TYPE_CHECKING:
    import pandas as pd

TEXT_LIMIT = 420  # characters of a question or an answer in the report
RANKING_LIMIT = 200  # characters of a document in a ranking
MOVERS = 6  # queries shown that gained most, and as many that lost most
TOP = 10  # a query whose relevant documents all stand below has failed
SHOWN = 5  # documents of a ranking that are shown
LEAST = 8  # queries or items; fewer get no interval, and are not divided into groups
BANDS = 4  # groups of gold scores
MOST_SCORES = (
    50_000_000  # queries x documents that a report ranks again at fewer dimensions; `workbench slices` does any
)


@dataclass(frozen=True)
class Queries:
    """What the report says about the queries, or items, of one evaluation."""

    evaluation: str
    metric: str
    measured: int
    unit: str = "queries"
    depth: int = 100
    changes: tuple[QueryOutcome, ...] = ()
    gained: tuple[Mover, ...] = ()
    lost: tuple[Mover, ...] = ()
    by_item: bool = False
    items_gained: tuple[ItemMover, ...] = ()
    items_lost: tuple[ItemMover, ...] = ()
    found: Found | None = None
    causes: tuple[Cause, ...] = ()
    groupings: tuple[Grouping, ...] = ()
    cuttings: tuple[Cutting, ...] = ()


def queries(run: Run, wanted: str, main: str) -> Queries | None:
    """Every query or item before and after, and those that moved most; None where an evaluation is missing."""
    whole = [name for name, moments in run.evaluations().items() if {"before", "after"} <= set(moments)]
    if not whole:
        return None
    name = wanted if wanted in whole else whole[0]
    return _items(run, name, main) if has_examples(run, name) else _searched(run, name, main)


# --- items -----------------------------------------------------------------------------------------------------------


def _items(run: Run, name: str, main: str) -> Queries:
    """The items that moved most, and how items of low and of high gold scores did."""
    metric, table = example_changes(run, name, main)
    best = table[table["difference"] > 0].sort_values("difference", ascending=False, kind="stable").head(MOVERS)
    worst = table[table["difference"] < 0].sort_values("difference", kind="stable").head(MOVERS)
    names = input_columns(table)

    def movers(part: pd.DataFrame) -> tuple[ItemMover, ...]:
        return tuple(
            ItemMover(
                texts=tuple((column, shorten(row[column], TEXT_LIMIT)) for column in names),
                gold=None if row["gold"] != row["gold"] else float(row["gold"]),
                **{each: float(row[each]) for each in ("score_before", "score_after", "before", "after")},
            )
            for row in part.to_dict("records")
        )

    grouped = _by_gold(table)
    return Queries(
        name,
        metric,
        len(table),
        unit(run, name),
        by_item=True,
        items_gained=movers(best),
        items_lost=movers(worst),
        groupings=() if grouped is None else (grouped,),
    )


def _by_gold(table: pd.DataFrame) -> Grouping | None:
    """Items by their gold score, in four groups of about equal size; None where they have none."""
    import pandas as pd

    from workbench.evaluation.statistics import bootstrap_interval

    gold = table["gold"]
    if gold.isna().any() or gold.nunique() < 2 or len(table) < LEAST:
        return None
    bands = gold if gold.nunique() <= BANDS else pd.qcut(gold, BANDS, duplicates="drop")
    groups = []
    for _, part in table.groupby(bands, observed=True):
        ends_of_change = bootstrap_interval(part["difference"].to_numpy(dtype=float)[:, None])
        ends = f"{part['gold'].min():g}", f"{part['gold'].max():g}"
        label = ends[0] if ends[0] == ends[1] else " to ".join(ends)
        before, after = (float(part[moment].mean()) for moment in ("before", "after"))
        low, high = _ends([float(end[0]) for end in ends_of_change], len(part))
        groups.append(Group(label, len(part), before, after, low, high))
    return Grouping("gold score", tuple(groups)) if len(groups) > 1 else None


def _ends(interval: Sequence[float], size: int) -> tuple[float, float] | tuple[None, None]:
    """An interval, or none where it would come from too few."""
    return (interval[0], interval[1]) if size >= LEAST else (None, None)


# --- searches --------------------------------------------------------------------------------------------------------


def _searched(run: Run, name: str, main: str) -> Queries:
    """Every query of a search, and those that moved most with their best documents."""
    before, after = run.per_query(name, "before"), run.per_query(name, "after")
    metric = metric_of(before, main)
    table = before.merge(after, on="query_id", suffixes=("_before", "_after")).sort_values("query_id", kind="stable")
    table["change"] = table[f"{metric}_after"] - table[f"{metric}_before"]
    changes = tuple(
        QueryOutcome(
            shorten(row["query_before"]),
            _rank(row["rank_before"]),
            _rank(row["rank_after"]),
            float(row[f"{metric}_before"]),
            float(row[f"{metric}_after"]),
        )
        for row in table.to_dict("records")
    )
    hits = {moment: run.hits(name, moment) for moment in ("before", "after")}
    best = table[table["change"] > 0].sort_values("change", ascending=False, kind="stable").head(MOVERS)
    worst = table[table["change"] < 0].sort_values("change", kind="stable").head(MOVERS)
    deepest = max(int(each["position"].max()) for each in hits.values() if len(each))
    texts = _answers(run, name, [*best["query_id"], *worst["query_id"]], table)
    gained, lost = (_movers(part, metric, hits, texts) for part in (best, worst))
    return Queries(
        name,
        metric,
        len(table),
        depth=max(DEEPEST_CUT, deepest),  # ranks are known so far
        changes=changes,
        gained=gained,
        lost=lost,
        found=_found(changes),
        causes=_causes(run, name),
        groupings=_groupings(run, name, metric, after),
        cuttings=_cuttings(run, name, metric),
    )


def metric_of(table: pd.DataFrame, main: str) -> str:
    """The column of a table of queries that holds the main metric, or the one that stands for it."""
    names = (main, main.split("_", 1)[-1], "ndcg@10", *table.columns)
    return next((column for column in names if column in table.columns), "")


def _rank(value: Any) -> int | None:
    import pandas as pd

    return None if pd.isna(value) else int(value)


def _answers(run: Run, name: str, query_ids: Sequence[str], table: pd.DataFrame) -> dict[str, str]:
    """Query id -> text of its first relevant document."""
    chosen = table[table["query_id"].isin(query_ids)]
    first = {row["query_id"]: next(iter(row["relevant_before"]), None) for row in chosen.to_dict("records")}
    documents = run.documents(name)
    texts = dict(zip(documents["document_id"], documents["document"], strict=True))
    return {query: str(texts.get(document, "")) for query, document in first.items()}


def _movers(
    part: pd.DataFrame, metric: str, hits: Mapping[str, pd.DataFrame], texts: Mapping[str, str]
) -> tuple[Mover, ...]:
    return tuple(
        Mover(
            query=shorten(row["query_before"], TEXT_LIMIT),
            relevant=shorten(texts[row["query_id"]], TEXT_LIMIT),
            rank_before=_rank(row["rank_before"]),
            rank_after=_rank(row["rank_after"]),
            before=float(row[f"{metric}_before"]),
            after=float(row[f"{metric}_after"]),
            ranking_before=_ranking(hits["before"], row["query_id"]),
            ranking_after=_ranking(hits["after"], row["query_id"]),
        )
        for row in part.to_dict("records")
    )


def _ranking(hits: pd.DataFrame, query_id: str) -> tuple[Hit, ...]:
    mine = hits[(hits["query_id"] == query_id) & (hits["position"] <= SHOWN)].sort_values("position", kind="stable")
    return tuple(
        Hit(shorten(row["document"], RANKING_LIMIT), bool(row["relevant"]), float(row["score"]))
        for row in mine.to_dict("records")
    )


def _found(changes: Sequence[QueryOutcome]) -> Found:
    def there(rank: int | None) -> bool:
        return rank is not None and rank <= TOP

    pairs = [(there(each.rank_before), there(each.rank_after)) for each in changes]
    return Found(
        both=pairs.count((True, True)),
        won=pairs.count((False, True)),
        lost=pairs.count((True, False)),
        neither=pairs.count((False, False)),
    )


def _causes(run: Run, name: str) -> tuple[Cause, ...]:
    """Why queries failed after training, as far as the stored rankings tell; the model itself is not loaded."""
    import pandas as pd

    failed = failures(run, name, k=TOP)
    if failed.empty:
        return ()
    groups = failure_groups(failed)
    if groups["queries"].isna().any():  # then nobody knows what the model sees
        groups.loc[groups["group"] == "none of these", "meaning"] = "none of the groups that were counted"
    return tuple(
        Cause(
            row["group"],
            row["meaning"],
            None if pd.isna(row["queries"]) else int(row["queries"]),
            None if pd.isna(row["share"]) else float(row["share"]),
        )
        for row in groups.to_dict("records")
    )


def _groupings(run: Run, name: str, metric: str, table: pd.DataFrame) -> tuple[Grouping, ...]:
    """The queries by their length and by how many documents are relevant, where that divides them."""
    if "@" not in metric:
        return ()
    found = []
    for by in ("query length", "relevant documents"):
        rows = slice_queries(run, name, by, metric=metric).to_dict("records")
        if len(rows) < 2:
            continue
        reached = None
        if f"accuracy@{TOP}" in table.columns:
            reached = slice_queries(run, name, by, metric=f"accuracy@{TOP}").to_dict("records")
        groups = []
        for place, row in enumerate(rows):
            before, after, *ends = (float(row[each]) for each in ("before", "after", "low", "high"))
            low, high = _ends(ends, int(row["queries"]))
            failed = (None, None) if reached is None else _failures(reached[place])
            groups.append(Group(str(row["group"]), int(row["queries"]), before, after, low, high, *failed))
        found.append(Grouping(by, tuple(groups)))
    return tuple(found)


def _failures(row: Mapping[Any, Any]) -> tuple[int, int]:
    """Shares of queries that found something, before and after, as counts of those that did not."""
    before, after = (round((1 - row[moment]) * row["queries"]) for moment in ("before", "after"))
    return before, after


def _cuttings(run: Run, name: str, metric: str) -> tuple[Cutting, ...]:
    """The evaluation at fewer dimensions and with coarser numbers, where the run keeps the vectors that it takes."""
    settings = run.settings(name, "after")
    size = int(settings.get("queries") or 0) * int(settings.get("documents") or 0)
    if "@" not in metric or not 0 < size <= MOST_SCORES:
        return ()
    found = []
    for by, measure in (("dimensions", at_dimensions), ("precision", at_precisions)):
        try:
            table = measure(run, name)
        except WorkbenchError:  # no vectors, not of all documents, or a similarity of tokens
            continue
        part = table[["moment", by, "bytes", metric]].rename(columns={metric: "ndcg@10"})
        rows: list[Mapping[Any, Any]] = list(part.to_dict("records"))
        found.append(Cutting(by, _cuts(rows, by), tuple(rows)))
    return tuple(found)


def _cuts(rows: Sequence[Mapping[Any, Any]], by: str) -> tuple[Cut, ...]:
    """One for each size, with both moments."""
    values: dict[Any, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row[by], {"bytes": row["bytes"]})[row["moment"]] = row["ndcg@10"]
    whole = next(iter(values.values())).get("after")
    return tuple(
        Cut(
            f"{size:,} dimensions" if by == "dimensions" else str(size),
            each["bytes"],
            each.get("before"),
            each.get("after"),
            each["after"] / whole if whole and "after" in each else None,
        )
        for size, each in values.items()
    )
