"""What became of each query between two moments of a run: ranks, nearest documents, words, and why a query fails.

The rank of a query is that of its first relevant document; it is null beyond the depth that the run keeps (100 or
more). All of it is read from the stored rankings, so it is there as soon as an evaluation is; only tokens have to be
counted by the caller's tokenizer. For evaluations of pairs, triplets or lists see `tasks.moved`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from workbench.data.checks import UNKNOWN
from workbench.errors import RunError
from workbench.evaluation.examples import has_examples
from workbench.run import Run

if TYPE_CHECKING:
    import pandas as pd

TokenCounts = Callable[[Sequence[str]], tuple[list[int], list[int]]]
"""Texts -> tokens of each, unknown tokens of each; `encoder.token_counts(model)` gives one."""

Kind = Literal["gained", "moved up", "unchanged", "moved down", "lost", "never found"]
KINDS: dict[Kind, str] = {
    "gained": "in the first k after, not before",
    "moved up": "a better rank, on the same side of k",
    "unchanged": "the same rank",
    "moved down": "a worse rank, on the same side of k",
    "lost": "in the first k before, not after",
    "never found": "no relevant document in either ranking, as deep as it is kept",
}
"""What can become of a query -> what that means. Every query is of one kind."""

Group = Literal["not found", "near duplicate", "truncated", "unknown tokens", "none of these"]
GROUPS: dict[Group, str] = {
    "not found": "no relevant document among the first 100",
    "near duplicate": "a document above the relevant one has nearly its words",
    "truncated": "the query or a relevant document is longer than the model reads",
    "unknown tokens": "more than 1 % of the tokens of the query and its relevant documents are unknown to the model",
    "none of these": "the model sees all there is and ranks another document higher",
}
"""Why a query may fail -> what that means. A query can belong to several groups."""

NEAR = 0.8  # Jaccard index of two documents' words from which they are near duplicates
DEEP = 100
TOP = 10

ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x3FFFF))
"""Code points of scripts that put no blanks between words (Thai, Lao, Burmese, Khmer, kana, Han): each is a word."""


# --- ranks -----------------------------------------------------------------------------------------------------------


def movements(run: Run, name: str, *, k: int = TOP, moments: tuple[str, str] = ("before", "after")) -> pd.DataFrame:
    """One row per query, in the order asked: query_id, query, rank_before, rank_after, places, moved.

    Ranks are Int64 and null below the depth kept. `places` is how far the query went up (down: negative), null where
    a rank is. `moved` is one of `KINDS`; a null rank counts as worse than any other.

    Raises RunError where the evaluation is no search, was not made at both moments, or asked other queries.
    """
    import numpy as np
    import pandas as pd

    first, last = _tables(run, name, moments)
    before = last["query_id"].map(first.set_index("query_id")["rank"]).astype("Int64")
    after = last["rank"].astype("Int64")
    left, right = (ranks.astype("Float64").fillna(np.inf).to_numpy(dtype=float) for ranks in (before, after))
    cases: list[tuple[Kind, Any]] = [
        ("never found", np.isinf(left) & np.isinf(right)),
        ("gained", (left > k) & (right <= k)),
        ("lost", (left <= k) & (right > k)),
        ("moved up", right < left),
        ("moved down", right > left),
    ]
    moved = np.select([case for _, case in cases], [kind for kind, _ in cases], default="unchanged")
    return pd.DataFrame(
        {
            "query_id": last["query_id"].astype(str),
            "query": last["query"],
            "rank_before": before,
            "rank_after": after,
            "places": before - after,
            "moved": moved.astype(object),
        }
    )


def counts(table: pd.DataFrame) -> dict[Kind, int]:
    """How many queries of `movements` are of each kind, in the order of `KINDS`."""
    return {kind: int((table["moved"] == kind).sum()) for kind in KINDS}


def _tables(run: Run, name: str, moments: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    _is_search(run, name, *moments)
    first, last = (run.per_query(name, moment) for moment in moments)
    if set(first["query_id"]) != set(last["query_id"]) or len(first) != len(last):
        shared = len(set(first["query_id"]) & set(last["query_id"]))
        raise RunError(
            f"expected the same queries {moments[0]} and {moments[1]} in {name!r} of run {run.name!r}, found "
            f"{len(first):,} and {len(last):,}, {shared:,} of them shared; evaluate again."
        )
    return first, last


def _is_search(run: Run, name: str, *moments: str) -> None:
    there = run.evaluations()
    missing = [moment for moment in moments if moment not in there.get(name, ())]
    if missing:
        found = ", ".join(f"{each} ({', '.join(at)})" for each, at in there.items()) or "none"
        raise RunError(f"expected an evaluation {name!r} at {missing[0]!r} in run {run.name!r}, found {found}.")
    if has_examples(run, name):
        unit = run.settings(name, moments[0]).get("unit", "items")
        raise RunError(
            f"expected a search in {name!r} of run {run.name!r}, found {unit} that were measured one by one; they have "
            "scores and no ranks."
        )


# --- nearest documents -----------------------------------------------------------------------------------------------


def nearest(
    run: Run,
    name: str,
    *,
    query_ids: Sequence[str] | None = None,
    top: int = 3,
    moments: Sequence[str] = ("before", "after"),
) -> pd.DataFrame:
    """The first `top` documents of each query at each moment: query_id, moment, position, document_id, document,
    score, relevant.

    A document whose text the run does not keep has an empty one.
    """
    import pandas as pd

    _is_search(run, name, *moments)
    wanted = None if query_ids is None else set(query_ids)
    parts = []
    for moment in moments:
        hits = run.hits(name, moment)
        kept = hits["position"] <= top
        if wanted is not None:
            kept &= hits["query_id"].isin(wanted)
        parts.append(hits[kept].assign(moment=moment).sort_values(["query_id", "position"], kind="stable"))
    found = pd.concat(parts, ignore_index=True)
    found["document"] = found["document"].fillna("")
    return found[["query_id", "moment", "position", "document_id", "document", "score", "relevant"]]


# --- words -----------------------------------------------------------------------------------------------------------


def words(text: str, *, short: bool = True) -> dict[str, None]:
    """The words of a text without case, in their order, each once: runs of letters, marks and digits.

    `short=False` leaves out Latin words of one to three letters, nearly all of them articles and prepositions.

    >>> list(words("The boot of the 911, the boot!")), list(words("The boot of the 911", short=False))
    (['the', 'boot', 'of', '911'], ['boot', '911'])
    """
    return dict.fromkeys(text[start:end].casefold() for start, end in word_places(text, short=short))


def word_places(text: str, *, short: bool = True) -> Iterator[tuple[int, int]]:
    """Start and end of every word in a text; see `words`."""
    start = None
    for place, character in enumerate(text + " "):
        inner = character in "\u200c\u200d" or unicodedata.category(character)[0] in "LMN"
        alone = inner and any(low <= ord(character) <= high for low, high in ALONE)
        if start is not None and (alone or not inner):
            if short or not _is_short(text[start:place]):
                yield start, place
            start = None
        if alone:
            yield place, place + 1
        elif inner and start is None:
            start = place


def _is_short(word: str) -> bool:
    return len(word) < 4 and word.isascii() and word.isalpha()


def word_differences(
    run: Run,
    name: str,
    *,
    query_ids: Sequence[str] | None = None,
    moments: tuple[str, str] = ("before", "after"),
) -> pd.DataFrame:
    """The words by which the first document of each query differs between two moments.

    One row per query: query_id, query, before and after (ids of the first documents), same (whether they are one),
    shared_before and shared_after (words of the query that the document has), only_before and only_after (words of the
    one document that are not in the other); words are tuples, without short Latin ones.
    """
    import pandas as pd

    _, asked = _tables(run, name, moments)
    best = nearest(run, name, query_ids=query_ids, top=1, moments=moments)
    keys = zip(best["query_id"], best["moment"], strict=True)
    tops = dict(zip(keys, zip(best["document_id"], best["document"], strict=True), strict=True))
    rows = []
    for query_id, query in zip(asked["query_id"], asked["query"], strict=True):
        if any((query_id, moment) not in tops for moment in moments):
            continue
        (before, left), (after, right) = (tops[query_id, moment] for moment in moments)
        own, first, last = (words(str(text), short=False) for text in (query, left, right))
        rows.append(
            {
                "query_id": str(query_id),
                "query": query,
                "before": before,
                "after": after,
                "same": before == after,
                "shared_before": tuple(word for word in own if word in first),
                "shared_after": tuple(word for word in own if word in last),
                "only_before": tuple(word for word in first if word not in last),
                "only_after": tuple(word for word in last if word not in first),
            }
        )
    return pd.DataFrame(rows, columns=WORD_COLUMNS)


WORD_COLUMNS = [
    "query_id", "query", "before", "after", "same", "shared_before", "shared_after", "only_before", "only_after"
]  # fmt: skip


# --- failures --------------------------------------------------------------------------------------------------------


def failures(
    run: Run,
    name: str,
    *,
    moment: str = "after",
    k: int = 1,
    token_counts: TokenCounts | None = None,
    max_seq_length: int | None = None,
) -> pd.DataFrame:
    """The queries without a relevant document among their first `k`, and what may be the reason.

    Columns: query_id, query, rank, duplicate (id of the first document above the relevant one that has nearly its
    words, None where there is none), tokens (of the longest of query and relevant documents), unknown_share, and a
    boolean for each of `GROUPS`. Where the gold was not found, all documents kept are looked at for duplicates.

    `token_counts` is that of the model; without it tokens, unknown_share, truncated and unknown tokens are null.
    `max_seq_length` is what the model reads; without it, what the evaluation stored or else the recipe says.
    """
    import pandas as pd

    _is_search(run, name, moment)
    table = run.per_query(name, moment)
    ranks = table["rank"].astype("Int64")
    failed = table[(ranks.isna() | (ranks > k)).to_numpy(dtype=bool)].reset_index(drop=True)
    texts = _texts(run, name)
    found = pd.DataFrame({"query_id": failed["query_id"].astype(str), "query": failed["query"]})
    found["rank"] = failed["rank"].astype("Int64")
    found["duplicate"] = pd.Series(_duplicates(run, name, moment, failed, texts), dtype=object)
    limit = max_seq_length or run.settings(name, moment).get("max_seq_length") or run.recipe().base.max_seq_length
    longest, unknown = _tokens(failed, texts, token_counts)
    found["tokens"], found["unknown_share"] = longest, unknown
    found["not found"] = (found["rank"].isna() | (found["rank"] > DEEP)).astype("boolean")
    found["near duplicate"] = found["duplicate"].notna().astype("boolean")
    cut = longest > limit if limit is not None else longest < 0  # a model without a limit reads everything
    found["truncated"] = cut.astype("boolean")
    found["unknown tokens"] = (unknown > UNKNOWN).astype("boolean")
    known = list(GROUPS)[:-1]
    found["none of these"] = (~found[known].fillna(False).any(axis=1)).astype("boolean")
    return found


def failure_groups(table: pd.DataFrame) -> pd.DataFrame:
    """`failures` in groups: group, meaning, queries, share (of all failures); a group that nobody counted has null."""
    import pandas as pd

    rows = []
    for group, meaning in GROUPS.items():
        counted = len(table) == 0 or table[group].notna().any()
        queries = int(table[group].fillna(False).sum()) if counted else None
        share = None if queries is None else queries / max(len(table), 1)
        rows.append({"group": group, "meaning": meaning, "queries": queries, "share": share})
    return pd.DataFrame(rows).astype({"queries": "Int64", "share": "Float64"})


def _texts(run: Run, name: str) -> dict[str, str]:
    documents = run.documents(name)
    return dict(zip(documents["document_id"].astype(str), documents["document"].astype(str), strict=True))


def _duplicates(run: Run, name: str, moment: str, failed: pd.DataFrame, texts: Mapping[str, str]) -> list[str | None]:
    """For each query the first document above its first relevant one whose words are nearly those of a relevant one."""
    hits = run.hits(name, moment)
    hits = hits[hits["query_id"].isin(set(failed["query_id"])) & ~hits["relevant"].astype(bool)]
    above: dict[str, list[tuple[int, str]]] = {}
    for query, position, document in zip(hits["query_id"], hits["position"], hits["document_id"], strict=True):
        above.setdefault(query, []).append((int(position), str(document)))
    known: dict[str, dict[str, None]] = {}

    def of(document: str) -> dict[str, None]:
        if document not in known:
            known[document] = words(texts.get(document, ""))
        return known[document]

    found: list[str | None] = []
    for query, rank, relevant in zip(
        failed["query_id"], failed["rank"].astype("Int64"), failed["relevant"], strict=True
    ):
        end = rank if isinstance(rank, int) else None
        gold = [of(str(document)) for document in relevant]
        candidates = (key for at, key in sorted(above.get(query, [])) if end is None or at < end)
        found.append(next((key for key in candidates if any(_jaccard(of(key), each) >= NEAR for each in gold)), None))
    return found


def _jaccard(left: Mapping[str, None], right: Mapping[str, None]) -> float:
    """Shared words over all words; 0 where one side has none.

    >>> _jaccard(words("a b c d e"), words("a b c d"))
    0.8
    """
    if not left or not right or min(len(left), len(right)) < NEAR * max(len(left), len(right)):
        return 0.0  # too different in size to be near, without counting
    shared = len(left.keys() & right.keys())
    return shared / (len(left) + len(right) - shared)


def _tokens(
    failed: pd.DataFrame, texts: Mapping[str, str], token_counts: TokenCounts | None
) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Tokens of the longest text of each query, and the share of unknown ones over its query and relevant documents."""
    import pandas as pd

    rows = [
        [str(query), *(texts[str(document)] for document in relevant if str(document) in texts)]
        for query, relevant in zip(failed["query"], failed["relevant"], strict=True)
    ]
    if token_counts is None:
        none = [None] * len(rows)
        return pd.Series(none, dtype="Int64"), pd.Series(none, dtype="Float64")
    distinct = list(dict.fromkeys(text for row in rows for text in row))
    lengths, unknown = token_counts(distinct)
    counted = dict(zip(distinct, zip(lengths, unknown, strict=True), strict=True))
    longest = [max(counted[text][0] for text in row) for row in rows]
    shares = [sum(counted[text][1] for text in row) / max(sum(counted[text][0] for text in row), 1) for row in rows]
    return pd.Series(longest, dtype="Int64"), pd.Series(shares, dtype="Float64")
