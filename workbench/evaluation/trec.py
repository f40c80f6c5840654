"""Export of a run's rankings and metrics: TREC run and qrels files, JSON, CSV, Parquet; and TREC run files, read.

TREC's formats are what trec_eval, ir-measures and ranx read: `query Q0 document rank score tag` and
`query 0 document relevance`, separated by spaces; ids that contain whitespace are refused, not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from workbench.data.columns import as_number
from workbench.data.readers import text_lines, unreadable
from workbench.errors import DataError, short
from workbench.run import Run, atomic_write

Format = Literal["trec", "json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("trec", "json", "csv", "parquet")
LARGEST = float(np.finfo(np.float32).max)


def export(run: Run, name: str, stage: str = "after", *, to: str | Path, format: Format = "trec") -> tuple[Path, ...]:
    """Write one evaluation of a run into the folder `to`; returns the files.

    "trec" writes NAME-STAGE.run and NAME.qrels; the others write NAME-STAGE.FORMAT, one row per query with its text,
    relevant documents, ranks and metrics, and NAME-STAGE-hits.FORMAT, one row per retrieved document.

    Raises DataError for an unknown format or stage, or ids that the format cannot hold.
    """
    if format not in FORMATS:
        raise DataError(f"expected a format of {', '.join(FORMATS)}, model or zip, found {format!r}; choose one.")
    if stage not in (stages := run.evaluations()[name]):
        raise DataError(f"expected a stage of {name!r} ({', '.join(stages)}), found {stage!r}; choose one.")
    start, folder = f"{name}-{stage}", Path(to)
    if format == "trec":
        texts = {f"{start}.run": trec_run(run, name, stage), f"{name}.qrels": trec_qrels(run, name, stage)}
        for file_name, lines in texts.items():
            with atomic_write(folder / file_name) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
        return tuple(folder / file_name for file_name in texts)
    tables = {f"{start}.{format}": run.per_query(name, stage), f"{start}-hits.{format}": run.hits(name, stage)}
    for file_name, table in tables.items():
        with atomic_write(folder / file_name) as temporary:
            if format == "parquet":
                table.to_parquet(temporary, index=False)
            elif format == "json":
                table.to_json(temporary, orient="records", force_ascii=False, indent=1, double_precision=15)
            else:
                table.to_csv(temporary, index=False)
    return tuple(folder / file_name for file_name in tables)


def trec_run(run: Run, name: str, stage: str) -> Iterator[str]:
    """Lines of a TREC run file, best document first.

    trec_eval ranks by score alone, as float32, and breaks ties by document id, so the scores of a query fall strictly:
    one that does not is lowered to the next float32, or by 1e-9 near 0.
    """
    tag = re.sub(r"\s+", "-", f"{run.name}-{stage}")
    hits = run.hits(name, stage).sort_values("position", kind="stable")
    for query, ranking in hits.groupby("query_id", sort=False):
        last = np.float32(np.inf)
        for document, position, given in ranking[["document_id", "position", "score"]].itertuples(index=False):
            lower = min(np.nextafter(last, np.float32(-np.inf)), last - np.float32(1e-9))
            last = min(np.float32(given), lower)
            yield f"{_id(query)} Q0 {_id(document)} {position} {last:.9g} {tag}\n"


def trec_qrels(run: Run, name: str, stage: str = "after") -> Iterator[str]:
    """Lines of a TREC qrels file; relevance is binary, as measured."""
    for query, relevant in run.per_query(name, stage)[["query_id", "relevant"]].itertuples(index=False):
        for document in relevant:
            yield f"{_id(query)} 0 {_id(document)} 1\n"


def read_trec_run(path: Path) -> dict[str, list[str]]:
    """Query id -> document ids, best first, as trec_eval ranks them: by score, as float32, then by id, both descending.

    Raises DataError for a line that has not six fields, a score that is no number, or a document that comes twice.
    """
    try:
        lines = list(text_lines(path))
    except OSError as error:
        raise unreadable(path, error) from error
    scores: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        if not (fields := line.split()):
            continue
        where = f"line {number:,} of {path.name!r}"
        score = as_number(fields[4]) if len(fields) == 6 else None
        if score is None or abs(score) > LARGEST:
            raise DataError(f"expected `query Q0 document rank score tag` in {where}, found {short(line)}; fix it.")
        query, _, document = fields[:3]
        if document in scores.setdefault(query, {}):
            raise DataError(
                f"expected each document once for a query, found {short(document)} again for query {short(query)} in "
                f"{where}; remove one."
            )
        scores[query][document] = score
    if not scores:
        raise DataError(f"expected lines of `query Q0 document rank score tag` in {path.name!r}, found none.")
    return {
        query: [document for _, document in sorted(zip(_float32(found), found, strict=True), reverse=True)]
        for query, found in scores.items()
    }


def _float32(found: dict[str, float]) -> list[float]:
    values: list[float] = np.array(list(found.values()), dtype=np.float32).tolist()
    return values


def _id(value: object) -> str:
    text = str(value)
    if not text or re.search(r"\s", text):
        raise DataError(f"expected ids without blanks for TREC's formats, found {text!r}; export as JSON or Parquet.")
    return text
