"""A run looked at closely: its growing log, a query's rankings, a new query's, two runs query by query, downloads.

Plain values and tables for the screens that `browse` does not serve, and read so that one click touches what it shows:
a ranking reads its own rows of a file, a log only what was appended. Text is cut as in `browse` and still has to be
shown as text.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.evaluation.examples import has_examples, input_columns, read_examples
from workbench.evaluation.projection import Stage, Vectors
from workbench.views.loss_curves import LogColumns
from workbench.views.overview import TEXT_LIMIT, TOP, Identity, identity
from workbench.views.rank_changes import word_places, words
from workbench.views.theme import shorten

if TYPE_CHECKING:
    import pandas as pd

    from workbench.run import Run

# --- log --------------------------------------------------------------------------------------------------------


class LogTail:
    """A log that is read again only where it grew: 100,000 rows stay cheap to follow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._log = LogColumns()
        self._seen = LogColumns()  # what the readers have

    def rows(self) -> list[dict[str, Any]]:
        """The numbers of the rows, as `Run.log` gives them; empty where there is no log yet."""
        return self.columns().rows()

    def columns(self) -> LogColumns:
        """The log by columns, not to be changed; empty where there is no log yet."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    stat = self.path.stat()
                    if self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._offset:
                        self._forget()
                        self._file = (stat.st_dev, stat.st_ino)
                    file.seek(self._offset)
                    new = file.read()
            except FileNotFoundError:
                self._forget()
                return self._seen
            except OSError as error:
                raise RunError(
                    f"cannot read {str(self.path)!r}: {error.strerror or error}; is the disk still there?"
                ) from error
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            lines = whole.splitlines()
            for start in range(0, len(lines), CHUNK):
                self._log.extend(_parsed(lines[start : start + CHUNK]))
            if lines:
                self._seen = self._log.copy()
            return self._seen


CHUNK = 500  # lines: parsed together they cost half, and no more of them are there as rows at once


def _parsed(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The rows of these lines; half a line that a kill left is passed over."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        found = [row for line in lines for row in _parsed_alone(line)]
    return [row for row in found if isinstance(row, dict)]


def _parsed_alone(line: bytes) -> list[Any]:
    try:
        return [json.loads(line)]
    except ValueError:
        return []


def logged(log: LogColumns) -> tuple[str, ...]:
    """What a log holds beside step, epoch and time: "loss", "components/NAME" for the parts of a loss, metrics."""
    return tuple(name for name in log.names() if name not in ("epoch", "time", "eval_loss"))


def checkpoints(run: Run) -> tuple[int, ...]:
    """Steps of the checkpoints that lie in the run's folder, in order."""
    folder = run.file("checkpoints")
    names = [path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*")] if folder.is_dir() else []
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def train_rows(run: Run) -> int | None:
    """Training rows of one epoch, those of every dataset; None where the run does not say."""
    data = run.record.get("data") or {}
    counts = [data.get("rows"), *(more.get("rows") for more in (data.get("more") or {}).values())]
    numbers = [count.get("train") if isinstance(count, dict) else count for count in counts]
    return sum(count for count in numbers if isinstance(count, int)) or None


# --- one query --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """One query looked at, or one pair."""

    before: pd.DataFrame  # the best documents: position, relevant, score, document_id, document
    after: pd.DataFrame
    gold: list[tuple[str, str]]  # (document id, text) of what answers it; of a pair (column, text), and its gold value


def opened(run: Run, evaluation: str, query_id: str, top: int = TOP) -> Opened:
    """The first `top` documents of a query before and after, and those that answer it, each file read for them alone.

    Rankings without a row where the run keeps none of this evaluation.
    """
    before, after = (_hits(run, evaluation, moment, query_id, top) for moment in ("before", "after"))
    if has_examples(run, evaluation):
        return Opened(before, after, _item_texts(run, evaluation, query_id))
    found = run.table("queries", evaluation, filters=[("query_id", "==", query_id)])
    gold = [str(document) for documents in found["relevant"] for document in documents]
    ids = dict.fromkeys([*gold, *map(str, before["document_id"]), *map(str, after["document_id"])])
    texts = document_texts(run, evaluation, list(ids))
    for hits in (before, after):
        hits["document"] = [texts.get(str(document), "") for document in hits["document_id"]]
    return Opened(before, after, [(document, texts.get(document, "")) for document in gold])


def _hits(run: Run, evaluation: str, moment: str, query_id: str, top: int) -> pd.DataFrame:
    import pandas as pd

    columns = ["position", "relevant", "score", "document_id"]
    if not run.file("hits", evaluation, moment).is_file():
        return pd.DataFrame(columns=[*columns, "document"])
    hits = run.table("hits", evaluation, moment, filters=[("query_id", "==", query_id), ("position", "<=", top)])
    return hits.sort_values("position")[columns].reset_index(drop=True)


def _item_texts(run: Run, evaluation: str, item_id: str) -> list[tuple[str, str]]:
    table = read_examples(run, evaluation, "after")
    found = table[table["item_id"].astype(str) == item_id]
    texts = [(name, shorten(text, TEXT_LIMIT)) for name in input_columns(table) for text in found[name]]
    return texts + [("gold", f"{gold:g}") for gold in found["gold"] if gold == gold]


def document_texts(run: Run, evaluation: str, ids: Sequence[str]) -> dict[str, str]:
    """Texts of documents by id, those that the run keeps."""
    if not ids or not run.file("documents", evaluation).is_file():
        return {}
    found = run.table("documents", evaluation, filters=[("document_id", "in", list(ids))])
    return {
        str(key): shorten(text, TEXT_LIMIT) for key, text in zip(found["document_id"], found["document"], strict=True)
    }


def shared_words(query: str, document: str) -> list[tuple[str, bool]]:
    """The document's text in stretches: (text, whether it is a word of the query too).

    Words are compared without case and the marks around them. Latin ones of one to three letters are left out, for
    they are nearly all articles and prepositions; Korean ones match without the particle that follows.

    >>> shared_words("Which boot is wide?", "A wide, flat boot")
    [('A ', False), ('wide', True), (', flat ', False), ('boot', True)]
    """
    wanted = words(query, short=False)
    parts: list[tuple[str, bool]] = []
    last = 0
    for start, end in word_places(document, short=False):
        word = document[start:end]
        if any(_same(word.casefold(), other) for other in wanted):
            if start > last:
                parts.append((document[last:start], False))
            parts.append((word, True))
            last = end
    if last < len(document):
        parts.append((document[last:], False))
    return parts


def _same(word: str, other: str) -> bool:
    short, long = sorted((word, other), key=len)
    korean = len(short) > 1 and all("\uac00" <= letter <= "\ud7a3" for letter in short)
    return word == other or (korean and long.startswith(short) and len(long) - len(short) < 3)


def groupings(run: Run, evaluation: str) -> tuple[str, ...]:
    """What the queries of an evaluation can be grouped by: `slices.BY` and columns of words; nothing for items."""
    from pandas.api.types import is_numeric_dtype

    from workbench.evaluation.slices import BY

    if not run.file("queries", evaluation).is_file():
        return ()
    table = run.per_query(evaluation, "after")
    reserved = {"query_id", "query", "relevant", "rank", "ranks"}
    own = [str(name) for name in table.columns if name not in reserved and not is_numeric_dtype(table[name])]
    return (*BY, *own)


def sizes(run: Run, evaluation: str) -> pd.DataFrame:
    """query_id, words (of the query) and answers (documents that are relevant) of every query."""
    import pandas as pd

    table = run.per_query(evaluation, "after")
    return pd.DataFrame(
        {
            "query_id": table["query_id"].astype(str),
            "words": [len(str(text).split()) for text in table["query"]],
            "answers": [len(relevant) for relevant in table["relevant"]],
        }
    )


# --- playground -------------------------------------------------------------------------------------------------


def model_files(run: Run) -> Identity:
    """What a run's models are known by: a model that is trained again is another."""
    return identity(*sorted(run.file("model").glob("*.json")), run.file("recipe"))


def encoder_of(run: Run, moment: Stage) -> Any:
    """The function that encodes as the run's model did at `moment`: `encode(texts, kind)`, see `fast.encoding.encoder`.

    Raises BaseError or RunError where that model cannot be had: a base that was made from the training rows is not
    kept, and one whose weights are others than those that were trained must not answer in its place.
    """
    from workbench.models.base import load_base
    from workbench.training.prepare import encode_with

    recipe = run.recipe()
    if moment == "after":
        return encode_with(load_base(str(run.file("model"))).model, recipe)
    said = run.record.get("base") or {}
    name = str(said.get("model") or recipe.base.model)
    if name.startswith("scratch:"):
        raise RunError(f"the base {name!r} of run {run.name!r} was made from its training rows and is not kept.")
    loaded = load_base(recipe.base, name, seed=recipe.training.seed)
    if said.get("sha256") and loaded.sha256 != said["sha256"]:
        raise RunError(
            f"expected for run {run.name!r} the base that it started from, found other weights under the name "
            f"{name!r}; the model before training cannot answer."
        )
    return encode_with(loaded.model, recipe)


def answer(run: Run, evaluation: str, moment: Stage, encode: Any, vectors: Vectors, query: str) -> pd.DataFrame:
    """The ranking of a query that nobody asked before: position, relevant (always False), score, document_id, document.

    `vectors` are those of `load_vectors`; documents that the run keeps no vector of cannot be found.
    """
    import pandas as pd

    from workbench.evaluation.topk import top_k

    settings = run.settings(evaluation, moment)
    similarity = str(settings.get("similarity", "cosine"))
    dimensions = vectors.documents.shape[1]
    asked = [part[..., :dimensions] for part in encode([query], "query")]  # [(dim,)], or [(tokens, dim)] under energy
    distance = str(settings.get("energy_distance", "manhattan"))
    found = top_k(asked, vectors.documents, TOP, similarity=similarity, distance=distance, ids=vectors.document_ids)
    ids = [vectors.document_ids[place] for place in found.positions[0]]
    texts = document_texts(run, evaluation, ids)
    return pd.DataFrame(
        {
            "position": range(1, len(ids) + 1),
            "relevant": False,
            "score": found.scores[0].astype(float),
            "document_id": ids,
            "document": [texts.get(key, "") for key in ids],
        }
    )


# --- two runs ---------------------------------------------------------------------------------------------------


def paired(run: Run, other: Run, evaluation: str, metric: str = "ndcg@10") -> pd.DataFrame:
    """A metric of every query that both runs measured, after training: query_id, query, first, second, difference.

    The greatest difference first. Queries are the same by id and text: two collections may both have a "q1". Raises
    RunError where the metric is not there.
    """
    tables = [each.per_query(evaluation, "after") for each in (run, other)]
    for each, table in zip((run, other), tables, strict=True):
        if metric not in table:
            raise RunError(f"expected {metric!r} for each query of {evaluation!r} in run {each.name!r}, found none.")
    both = tables[0][["query_id", "query", metric]].merge(
        tables[1][["query_id", "query", metric]], on=["query_id", "query"], suffixes=("_first", "_second")
    )
    both["query"] = [shorten(text, TEXT_LIMIT) for text in both["query"]]
    both = both.rename(columns={f"{metric}_first": "first", f"{metric}_second": "second"})
    both["difference"] = both["second"] - both["first"]
    order = (-both["difference"].abs()).argsort(kind="stable")
    return both.iloc[order].reset_index(drop=True)


# --- downloads --------------------------------------------------------------------------------------------------

DOWNLOADS = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "trec": "text/plain",
    "qrels": "text/plain",
}


def download(run: Run, evaluation: str, moment: str, form: str) -> bytes:
    """A run's numbers for each query, or its ranking, as the bytes of a file. Raises DataError as `exports` does."""
    from io import BytesIO

    from workbench.evaluation.trec import trec_qrels, trec_run

    if form == "trec":
        return "".join(trec_run(run, evaluation, moment)).encode()
    if form == "qrels":
        return "".join(trec_qrels(run, evaluation, moment)).encode()
    table = run.per_query(evaluation, moment)
    if form == "parquet":
        buffer = BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    return bytes(table.to_csv(index=False).encode())
