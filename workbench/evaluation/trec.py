"""A run's rankings and numbers for other tools: TREC run and qrels files, JSON, CSV, Parquet.

TREC's two formats are what trec_eval, ir-measures and ranx read: `query Q0 document rank score tag` and
`query 0 document relevance`, apart by blanks; ids that hold blanks are refused rather than changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.errors import DataError
from workbench.run import Run, atomic_write

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["trec", "json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("trec", "json", "csv", "parquet")


def export(run: Run, name: str, moment: str = "after", *, to: str | Path, format: Format = "trec") -> tuple[Path, ...]:
    """Write one evaluation of a run into the folder `to`; gives the files.

    "trec" writes NAME-MOMENT.run and NAME.qrels; the others write NAME-MOMENT.FORMAT, one row for each query with its
    text, relevant documents, ranks and metrics, and NAME-MOMENT-hits.FORMAT, one row for each retrieved document.

    Raises DataError for an unknown format, or ids that the format cannot hold.
    """
    folder = Path(to)
    if format not in FORMATS:
        raise DataError(f"expected a format of {', '.join(FORMATS)}, found {format!r}; choose one.")
    if format == "trec":
        run_file, qrels = folder / f"{name}-{moment}.run", folder / f"{name}.qrels"
        _write(run_file, trec_run(run, name, moment))
        _write(qrels, trec_qrels(run, name, moment))
        return run_file, qrels
    files = (folder / f"{name}-{moment}.{format}", folder / f"{name}-{moment}-hits.{format}")
    for path, table in zip(files, (run.per_query(name, moment), run.hits(name, moment)), strict=True):
        _write_table(path, table, format)
    return files


def trec_run(run: Run, name: str, moment: str) -> Iterator[str]:
    """Lines of a TREC run file, best document first."""
    tag = re.sub(r"\s+", "-", f"{run.name}-{moment}")
    hits = run.hits(name, moment)
    for query, document, position, score in zip(
        hits["query_id"], hits["document_id"], hits["position"], hits["score"], strict=True
    ):
        yield f"{_id(query)} Q0 {_id(document)} {position} {score:.9g} {tag}\n"


def trec_qrels(run: Run, name: str, moment: str = "after") -> Iterator[str]:
    """Lines of a TREC qrels file; relevance is 1, as it was counted."""
    table = run.per_query(name, moment)
    for query, relevant in zip(table["query_id"], table["relevant"], strict=True):
        for document in relevant:
            yield f"{_id(query)} 0 {_id(document)} 1\n"


def _id(value: object) -> str:
    text = str(value)
    if not text or re.search(r"\s", text):
        raise DataError(f"expected ids without blanks for TREC's formats, found {text!r}; export as JSON or Parquet.")
    return text


def _write(path: Path, lines: Iterator[str]) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _write_table(path: Path, table: pd.DataFrame, format: str) -> None:
    with atomic_write(path) as temporary:
        if format == "parquet":
            table.to_parquet(temporary, index=False)
        elif format == "json":
            table.to_json(temporary, orient="records", force_ascii=False, indent=1)
        else:
            table.to_csv(temporary, index=False)
