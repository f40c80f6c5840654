"""The queries of an evaluation before and after training: outcomes, rankings, groups, two runs.

An evaluation without rankings has examples (pairs, triplets, texts) in place of queries. Text is cut to what a screen
can hold, without control or direction characters; it is still foreign text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.cards.metric_names import metric_name
from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.examples import example_changes, has_examples, input_columns, read_examples, unit
from workbench.evaluation.projection import STAGES
from workbench.evaluation.retrieval import DEEPEST_CUT
from workbench.evaluation.slices import BY, at_dimensions, at_precisions, slice_queries
from workbench.run import Run
from workbench.views.failures import failure_causes
from workbench.views.records import TOP, Grouping, Hit, OpenedQuery, QueriesView, QueryOutcome, TopTen, signed
from workbench.views.theme import shorten

if TYPE_CHECKING:
    import pandas as pd

TEXT_LIMIT = 600  # characters of a query or document
RESERVED = {"query_id", "query", "relevant", "rank", "ranks"}  # columns of `run.per_query` that are no metrics
FILTERS = ("all", "lost", "worse", "unchanged", "better", "found")


def compared_evaluations(run: Run) -> tuple[str, ...]:
    """Evaluations made before and after training; the first is the one to show."""
    found = [name for name, stages in run.evaluations().items() if {"before", "after"} <= set(stages)]
    return tuple(sorted(found, key=preference))


def preference(evaluation: str) -> tuple[bool, bool, str]:
    """Sort key, as `compare` chooses: a named collection, the test rows, the validation rows; each before the same at
    fewer dimensions.

    >>> sorted(["validation", "test_256", "test", "finetune"], key=preference)
    ['finetune', 'test', 'test_256', 'validation']
    """
    whole = re.sub(r"_\d+$", "", evaluation)
    return (whole == "validation", whole == "test", evaluation)


def query_metrics(run: Run, evaluation: str) -> tuple[str, ...]:
    """Metrics stored for every query, nDCG@10 first; of examples those that are computed from their scores."""
    if has_examples(run, evaluation):
        settings = run.settings(evaluation, "after")
        names, first = list(settings["statistics"]), settings.get("main_metric")
    else:
        columns = run.per_query(evaluation, "before").columns
        names, first = [str(name) for name in columns if name not in RESERVED], "ndcg@10"
    return tuple(sorted(names, key=lambda name: (name != first, names.index(name))))


def query_table(run: Run, evaluation: str, metric: str = "ndcg@10") -> pd.DataFrame:
    """One row per query or example, the largest loss first.

    Columns: query_id, query, outcome, rank_before, rank_after (Int64; null below the depth kept), before, after,
    difference. A query also has words (of its text) and answers (relevant documents); an example has no ranks, but
    gold, score_before, and score_after (see `example_changes`).
    """
    import pandas as pd

    if has_examples(run, evaluation):
        _, found = example_changes(run, evaluation, metric)
        texts = zip(*(found[name] for name in input_columns(found)), strict=True)
        table = found[["before", "after", "gold", "score_before", "score_after"]].assign(
            query_id=found["item_id"].astype(str), query=[" | ".join(row) for row in texts]
        )
        table["rank_before"] = table["rank_after"] = pd.array([None] * len(found), dtype="Int64")
    else:
        before, after = (run.per_query(evaluation, stage) for stage in STAGES)
        table = before[["query_id", "query", "relevant", "rank", metric]].merge(
            after[["query_id", "rank", metric]], on="query_id", suffixes=("_before", "_after")
        )
        table = table.rename(columns={f"{metric}_{stage}": stage for stage in STAGES})
        table["words"] = [len(str(text).split()) for text in table["query"]]
        table["answers"] = table.pop("relevant").map(len)
        table = table.astype({"query_id": str, "rank_before": "Int64", "rank_after": "Int64"})
    table = table.astype({"before": float, "after": float})
    table["query"] = [shorten(text, TEXT_LIMIT) for text in table["query"]]
    table["difference"] = table["after"] - table["before"]
    table["outcome"] = [each.outcome for each in query_outcomes(table)]
    return table.sort_values(["difference", "query_id"], kind="stable").reset_index(drop=True)


def query_outcomes(table: pd.DataFrame) -> tuple[QueryOutcome, ...]:
    """The rows of `query_table`."""
    names = ["query", "rank_before", "rank_after", "before", "after", "query_id"]
    examples = "gold" in table
    names += ["gold", "score_before", "score_after"] if examples else []
    rows = (
        table[names].astype(object).where(table[names].notna() | [name in ("before", "after") for name in names], None)
    )
    return tuple(QueryOutcome(**dict(zip(names, row, strict=True)), ranked=not examples) for row in rows.to_numpy())


def filters(table: pd.DataFrame) -> tuple[str, ...]:
    """What `filter_queries` can do with this table: examples are never found or lost."""
    return FILTERS if "gold" not in table else tuple(name for name in FILTERS if name not in ("found", "lost"))


def annotate(table: pd.DataFrame, causes: Mapping[str, Sequence[str]], notes: Mapping[str, Any]) -> pd.DataFrame:
    """`query_table` with causes, tags (lists of text) and note, of `query_causes` and `read_query_notes`."""
    keys = table["query_id"]
    columns: dict[str, Any] = {
        "causes": [list(causes.get(key, ())) for key in keys],
        "tags": [list(notes.get(key, {}).get("tags", ())) for key in keys],
        "note": [shorten(notes.get(key, {}).get("note", ""), TEXT_LIMIT) for key in keys],
    }
    return table.assign(**columns)


def filter_queries(
    table: pd.DataFrame, outcome: str = "all", search: str = "", *, cause: str = "any", tag: str = "any"
) -> pd.DataFrame:
    """Rows of `query_table` with this outcome and all words of `search`, in the same order; of `annotate` also with
    this cause and tag."""
    kept = table if outcome == "all" else table[table["outcome"] == outcome]
    for column, wanted in (("causes", cause), ("tags", tag)):
        if wanted != "any":
            kept = kept[[wanted in found for found in kept[column]]]
    for word in search.split():
        kept = kept[kept["query"].str.contains(word, case=False, regex=False)]
    return kept.reset_index(drop=True)


def queries_csv(table: pd.DataFrame) -> str:
    """Rows of `annotate` as CSV."""
    joined = {name: table[name].map("; ".join) for name in ("causes", "tags")}
    return str(table.assign(**joined).to_csv(index=False))


def open_queries(run: Run, evaluation: str, query_ids: Sequence[str], top: int = TOP) -> dict[str, OpenedQuery]:
    """Texts and rankings of these queries, the `top` best documents of each. Reads only their rows of the files."""
    if not query_ids:
        return {}
    if has_examples(run, evaluation):
        table = read_examples(run, evaluation, "after")
        table = table[table["item_id"].astype(str).isin(query_ids)]
        names = input_columns(table)
        return {
            str(row["item_id"]): OpenedQuery(texts=tuple((name, shorten(row[name], TEXT_LIMIT)) for name in names))
            for row in table.to_dict("records")
        }
    every = [_hit_rows(run, evaluation, stage, query_ids) for stage in STAGES]
    hits = [{key: [row for row in rows if row["position"] <= top] for key, rows in each.items()} for each in every]
    queries = run.table("queries", evaluation, filters=[("query_id", "in", list(query_ids))])
    relevant = {
        str(key): list(map(str, ids)) for key, ids in zip(queries["query_id"], queries["relevant"], strict=True)
    }
    shown = [row["document_id"] for rankings in hits for rows in rankings.values() for row in rows]
    texts = document_texts(run, evaluation, [*(key for ids in relevant.values() for key in ids), *shown])

    def ranking(key: str, stage: int) -> tuple[Hit, ...]:
        other = every[1 - stage].get(key, [])
        notes = [_elsewhere(row, other, word=("now", "was")[stage]) for row in hits[stage].get(key, ())]
        return tuple(
            Hit(**row, document=texts.get(row["document_id"], ""), note=note)
            for row, note in zip(hits[stage].get(key, ()), notes, strict=True)
        )

    return {
        key: OpenedQuery(
            before=ranking(key, 0),
            after=ranking(key, 1),
            texts=tuple((each, texts.get(each, "")) for each in ids),
        )
        for key, ids in relevant.items()
    }


def _elsewhere(row: Mapping[str, Any], other: Sequence[Mapping[str, Any]], word: str) -> str:
    """Where the other ranking of the query has the document of `row`, and the change of its score by training."""
    if not other:
        return ""
    found = next((each for each in other if each["document_id"] == row["document_id"]), None)
    if found is None:
        return f"{word} > {len(other)}"
    change = (row["score"] - found["score"]) * (1 if word == "was" else -1)
    return f"{word} {found['position']}, score {signed(change)}"


def _hit_rows(run: Run, evaluation: str, stage: str, query_ids: Sequence[str]) -> dict[str, list[Any]]:
    """Query id -> rows of its ranking, best first; empty if the run keeps no ranking."""
    if not run.file("hits", evaluation, stage).is_file():
        return {}
    filters = [("query_id", "in", list(query_ids))]
    table = run.table("hits", evaluation, stage, filters=filters).sort_values("position", kind="stable")
    types = {"position": int, "relevant": bool, "score": float, "document_id": str}
    columns = table[[*types]].astype(types)
    return {str(key): rows.to_dict("records") for key, rows in columns.groupby(table["query_id"])}


def document_texts(run: Run, evaluation: str, ids: Sequence[str]) -> dict[str, str]:
    """Texts of documents by id, of those that the run keeps."""
    if not ids or not run.file("documents", evaluation).is_file():
        return {}
    found = run.table("documents", evaluation, filters=[("document_id", "in", list(dict.fromkeys(ids)))])
    pairs = zip(found["document_id"], found["document"], strict=True)
    return {str(key): shorten(text, TEXT_LIMIT) for key, text in pairs}


def group_names(run: Run, evaluation: str) -> tuple[str, ...]:
    """What the queries can be grouped by: `slices.BY` and columns of words; nothing for examples."""
    from pandas.api.types import is_numeric_dtype

    if not run.file("queries", evaluation).is_file():
        return ()
    table = run.per_query(evaluation, "after")
    own = [str(name) for name in table.columns if name not in RESERVED and not is_numeric_dtype(table[name])]
    return (*BY, *own)


def pair_queries(run: Run, other: Run, evaluation: str, metric: str = "ndcg@10") -> pd.DataFrame:
    """A metric of every query that both runs measured, after training: query_id, query, first, second, difference.

    The largest difference first. Queries are the same if id and text are. Raises RunError without the metric.
    """
    tables = []
    for name, each in (("first", run), ("second", other)):
        table = each.per_query(evaluation, "after")
        if metric not in table:
            raise RunError(f"expected {metric!r} for each query of {evaluation!r} in run {each.name!r}, found none.")
        tables.append(table[["query_id", "query", metric]].rename(columns={metric: name}))
    both = tables[0].merge(tables[1], on=["query_id", "query"])
    both["query"] = [shorten(text, TEXT_LIMIT) for text in both["query"]]
    both["difference"] = both["second"] - both["first"]
    return both.sort_values("difference", key=lambda column: -column.abs(), kind="stable").reset_index(drop=True)


DOWNLOADS = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "trec": "text/plain",
    "qrels": "text/plain",
}
"""Format -> media type."""


def download(run: Run, evaluation: str, stage: str, form: str) -> bytes:
    """The numbers of each query, the rankings, or the qrels as a file. Raises DataError as `trec` does."""
    from workbench.evaluation.trec import trec_qrels, trec_run

    if form in ("trec", "qrels"):
        return "".join((trec_run if form == "trec" else trec_qrels)(run, evaluation, stage)).encode()
    table = run.per_query(evaluation, stage)
    if stage == "after" and "before" in run.evaluations()[evaluation]:
        table = _with_changes(run.per_query(evaluation, "before"), table)
    return bytes(table.to_csv(index=False).encode() if form == "csv" else table.to_parquet(index=False))


def _with_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """One row per query: ranks before and after training, and of each metric before, after and the change."""
    whole = after.merge(before.drop(columns=["query", "relevant"]), on="query_id", suffixes=("_after", "_before"))
    ranks = [f"{name}_{stage}" for name in ("rank", "ranks") for stage in STAGES]
    table = whole[["query_id", "query", "relevant", *(name for name in ranks if name in whole)]].copy()
    for metric in (name for name in after if f"{name}_after" in whole and name not in ("rank", "ranks")):
        table[f"{metric}_before"], table[f"{metric}_after"] = whole[f"{metric}_before"], whole[f"{metric}_after"]
        table[f"{metric}_change"] = table[f"{metric}_after"] - table[f"{metric}_before"]
    return table


MOVERS = 6  # queries that gained most, and as many that lost most
SHOWN = 5  # documents of a ranking
LEAST = 8  # queries; fewer get no interval, and are not divided into groups
BANDS = 4  # groups of gold scores
MOST_SCORES = 50_000_000  # queries x documents that a report ranks again; `workbench slices` ranks any number


def queries_view(run: Run, wanted: str, main: str) -> QueriesView | None:
    """The queries of the evaluation `wanted`, or else of the first; None if there is none before and after training."""
    names = compared_evaluations(run)
    if not names:
        return None
    name = wanted if wanted in names else names[0]
    examples = has_examples(run, name)
    metric = example_changes(run, name, main)[0] if examples else metric_column(run.per_query(name, "before"), main)
    table = query_table(run, name, metric)
    gains = table[table["difference"] > 0].sort_values("difference", ascending=False, kind="stable")
    best, worst = (query_outcomes(part.head(MOVERS)) for part in (gains, table[table["difference"] < 0]))
    opened = open_queries(run, name, [each.query_id for each in (*best, *worst)], SHOWN)
    view = QueriesView(
        evaluation=name,
        metric=metric_name(metric),
        unit=unit(run, name),
        measured=len(table),
        ranked=not examples,
        gained=tuple((each, opened[each.query_id]) for each in best),
        lost=tuple((each, opened[each.query_id]) for each in worst),
        groupings=tuple(_by_gold(table) if examples else _by_kind(run, name, metric)),
    )
    if examples:
        return view
    outcomes = query_outcomes(table)
    depths = [int(hits["position"].max()) for hits in (run.table("hits", name, stage) for stage in STAGES) if len(hits)]
    return replace(
        view,
        depth=max(DEEPEST_CUT, *depths),
        outcomes=outcomes,
        top_ten=_top_ten(outcomes),
        causes=failure_causes(run, name),
        vector_sizes=tuple(_vector_sizes(run, name, metric)),
    )


def metric_column(table: pd.DataFrame, main: str) -> str:
    """The column of a table of queries that holds the main metric, or the one in place of it."""
    names = (main, main.split("_", 1)[-1], "ndcg@10", *table.columns)
    return next(str(column) for column in names if column in table.columns)


def _top_ten(outcomes: Sequence[QueryOutcome]) -> TopTen:
    counts = Counter(
        tuple(rank is not None and rank <= TOP for rank in (each.rank_before, each.rank_after)) for each in outcomes
    )
    return TopTen(counts[True, True], counts[False, True], counts[True, False], counts[False, False])


def _by_gold(table: pd.DataFrame) -> Iterator[Grouping]:
    """Examples by gold score, in four groups of about equal size; nothing if they have none."""
    import pandas as pd

    from workbench.evaluation.statistics import mean_intervals

    gold = table["gold"]
    if gold.isna().any() or gold.nunique() < 2 or len(table) < LEAST:
        return
    bands = gold if gold.nunique() <= BANDS else pd.qcut(gold, BANDS, duplicates="drop")
    rows = []
    for _, part in table.groupby(bands, observed=True):
        changes = part["difference"].to_numpy(dtype=float)[:, None]
        low, high = (float(end[0]) for end in mean_intervals(changes, signed=True))
        ends = dict.fromkeys(f"{end:g}" for end in (part["gold"].min(), part["gold"].max()))
        means = {name: float(part[name].mean()) for name in ("before", "after", "difference")}
        rows.append({"group": " to ".join(ends), "queries": len(part), **means, "low": low, "high": high})
    if len(rows) > 1:
        yield _grouping("gold score", rows)


def _by_kind(run: Run, name: str, metric: str) -> Iterator[Grouping]:
    """Queries by length and by number of relevant documents, if that divides them."""
    if "@" not in metric:
        return
    accuracy = f"accuracy@{TOP}"
    for by in BY:
        rows = slice_queries(run, name, by, metric=metric).to_dict("records")
        if accuracy in run.per_query(name, "after"):
            reached = slice_queries(run, name, by, metric=accuracy).to_dict("records")
            for row, share in zip(rows, reached, strict=True):
                row |= {f"failed_{stage}": round((1 - share[stage]) * share["queries"]) for stage in STAGES}
        if len(rows) > 1:
            yield _grouping(by, rows)


def _grouping(by: str, rows: Sequence[dict[Any, Any]]) -> Grouping:
    """Without the intervals of groups that are too small for one."""
    found = tuple(row if row["queries"] >= LEAST else {**row, "low": None, "high": None} for row in rows)
    return Grouping(by, found, found)


def _vector_sizes(run: Run, name: str, metric: str) -> Iterator[Grouping]:
    """The evaluation at fewer dimensions and with quantized embeddings, if the run keeps the vectors."""
    settings = run.settings(name, "after")
    if "@" not in metric or not 0 < (settings.get("queries") or 0) * (settings.get("documents") or 0) <= MOST_SCORES:
        return
    for by, measure in (("dimensions", at_dimensions), ("precision", at_precisions)):
        try:
            table = measure(run, name)
        except WorkbenchError:  # no vectors, not of all documents, or a similarity of tokens
            continue
        drawn: list[Mapping[Any, Any]] = list(table.rename(columns={metric: "ndcg@10"}).to_dict("records"))
        rows: dict[Any, dict[str, Any]] = {}
        for row in drawn:
            group = f"{row[by]:,} dimensions" if by == "dimensions" else str(row[by])
            empty = {"group": group, "bytes": row["bytes"], "before": None, "after": None, "share": None}
            rows.setdefault(row[by], empty)[row["moment"]] = row["ndcg@10"]
        full = next(iter(rows.values()))["after"]
        for row in rows.values() if full else ():
            row["share"] = row["after"] / full
        yield Grouping(by, tuple(rows.values()), tuple(drawn))
