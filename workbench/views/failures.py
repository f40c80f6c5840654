"""Why a query's first relevant document is not at the top: possible causes, from the stored rankings and texts.

No model is loaded; of the trained model only the tokenizer is read, where the run has one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.run import Run
from workbench.views.records import TOP, Cause
from workbench.views.words import jaccard, words

if TYPE_CHECKING:
    import pandas as pd

DEEP = 100
NEAR = 0.8  # Jaccard index of two documents' words from which they are near duplicates
LONGEST = 1 << 20  # tokens; a tokenizer without a limit states a huge one
CAUSES = {
    "not found": f"no relevant document in the top {DEEP}",
    "near duplicate": "a document above the relevant one has nearly the same words",
    "answer of another query": "the document at rank 1 is relevant to another query",
    "truncated": "the query or a relevant document has more tokens than the model reads",
    "unknown tokens": "the query or a relevant document has tokens that the tokenizer does not know",
    "none of these": "another document is ranked higher for another reason",
}


def failure_causes(run: Run, name: str, k: int = TOP) -> tuple[Cause, ...]:
    """Possible causes of failure of the queries without a relevant document in the top `k` after training."""
    found = query_causes(run, name, k).values()
    counts = Counter(cause for causes in found for cause in causes)
    return tuple(
        Cause(cause, meaning, counts[cause], counts[cause] / len(found))
        for cause, meaning in CAUSES.items()
        if counts[cause]
    )


def query_causes(run: Run, name: str, k: int = TOP) -> dict[str, tuple[str, ...]]:
    """Query without a relevant document in the top `k` after training -> names of `CAUSES`, one or more."""
    table = run.per_query(name, "after")
    ranks = table["rank"].astype(float).fillna(float("inf"))
    failed = table[ranks > k]
    if failed.empty:
        return {}
    answers = {str(key) for relevant in table["relevant"] for key in relevant}
    hits = run.table("hits", name, "after")
    best = hits[hits["position"] == 1]
    first = dict(zip(best["query_id"].astype(str), best["document_id"].astype(str), strict=True))
    if answers.issuperset(hits["document_id"].astype(str)):
        answers = set()  # every document answers a query: that one does explains nothing
    found: list[list[bool]] = [
        (ranks[ranks > k] > DEEP).tolist(),
        [each is not None for each in near_duplicates(run, name, failed)],
        [first.get(str(key)) in answers for key in failed["query_id"]],
        *_by_tokens(run, name, failed),
    ]
    names = list(CAUSES)
    return {
        str(key): tuple(cause for cause, here in zip(names, row, strict=False) if here) or (names[-1],)
        for key, *row in zip(failed["query_id"], *found, strict=True)
    }


def near_duplicates(run: Run, name: str, failed: pd.DataFrame) -> list[str | None]:
    """For each query the first document ranked above its relevant ones that has nearly the words of one of them."""
    texts = _texts(run, name)
    hits = run.table("hits", name, "after").sort_values("position", kind="stable")
    rankings = hits[hits["query_id"].isin(failed["query_id"])].groupby("query_id")["document_id"].agg(list)
    known: dict[str, dict[str, None]] = {}

    def words_of(document: str) -> dict[str, None]:
        if document not in known:
            known[document] = words(texts.get(document, ""))
        return known[document]

    found = []
    for query, relevant in zip(failed["query_id"], failed["relevant"], strict=True):
        gold = {str(document) for document in relevant}
        ranking = list(map(str, rankings.get(query, ())))
        above = ranking[: next((place for place, key in enumerate(ranking) if key in gold), len(ranking))]
        found.append(
            next((key for key in above if any(jaccard(words_of(key), words_of(each)) >= NEAR for each in gold)), None)
        )
    return found


def _texts(run: Run, name: str) -> dict[str, str]:
    documents = run.documents(name)
    return dict(zip(documents["document_id"].astype(str), documents["document"].astype(str), strict=True))


def tokenizer_files(run: Run) -> list[Path]:
    """The tokenizer of the trained model and its settings; empty if the run has none."""
    found = sorted(run.model_folder().rglob("tokenizer.json"), key=lambda path: len(path.parts))[:1]
    return [each for path in found for each in (path, path.with_name("tokenizer_config.json"))]


def _by_tokens(run: Run, name: str, failed: pd.DataFrame) -> Iterable[list[bool]]:
    """For each query whether it or a relevant document is truncated, and whether one has unknown tokens.

    Prompts are not counted. Nothing is found if the run has no tokenizer.
    """
    from tokenizers import Tokenizer

    from workbench.models.stand_ins import unknown_id

    files = [path for path in tokenizer_files(run) if path.is_file()]
    if not files:
        return [False] * len(failed), [False] * len(failed)
    tokenizer = Tokenizer.from_file(str(files[0]))
    limit = (json.loads(files[1].read_text(encoding="utf-8")) if files[1:] else {}).get("model_max_length") or LONGEST
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown, documents = unknown_id(tokenizer), _texts(run, name)

    def judge(texts: Sequence[str]) -> list[tuple[bool, bool]]:
        rows: list[Any] = [each.ids for each in tokenizer.encode_batch_fast(list(texts))]
        return [(len(ids) > limit, unknown in ids) for ids in rows]

    relevant = [[str(key) for key in ids] for ids in failed["relevant"]]
    keys = list(dict.fromkeys(key for ids in relevant for key in ids))
    of_document = dict(zip(keys, judge([documents.get(key, "") for key in keys]), strict=True))
    of_query = judge([str(text) for text in failed["query"]])
    both = [[own, *(of_document[key] for key in ids)] for own, ids in zip(of_query, relevant, strict=True)]
    return tuple([any(each[place] for each in row) for row in both] for place in (0, 1))
