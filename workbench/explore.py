"""A run looked at closely: its growing log, its map, a text's neighbours, a query's rankings, two runs query by query.

Plain values and tables for the screens that `browse` does not serve, and read so that one click touches what it shows:
a ranking reads its own rows of a file, a log only what was appended. Neighbours come from the full vectors, never from
the map. Text is cut as in `browse` and still has to be shown as text.
"""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.browse import TEXT_LIMIT, TOP, Identity, identity
from workbench.errors import RunError
from workbench.figures import metric_name
from workbench.figures_points import NEUTRAL, MapPoints
from workbench.look import plain, shorten
from workbench.projection import MOMENTS, Method, Moment, Vectors, load_vectors, stored_map

if TYPE_CHECKING:
    import pandas as pd

    from workbench.run import Run

LABEL = 70  # characters of a text that hovering shows


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
        self._rows: dict[int, dict[str, Any]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """The rows as `Run.log` gives them; empty where there is no log yet."""
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
                return []
            except OSError as error:
                raise RunError(
                    f"cannot read {str(self.path)!r}: {error.strerror or error}; is the disk still there?"
                ) from error
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                self._take(line)
            return [self._rows[step] for step in sorted(self._rows)]

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            return  # half a line that a kill left
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            self._rows[row["step"]] = {**self._rows.get(row["step"], {}), **row}


def logged(rows: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """What a log holds beside step, epoch and time: "loss", "components/NAME" for the parts of a loss, metrics."""
    found: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if name == "components" and isinstance(value, dict):
                found.update((f"components/{part}", None) for part in value)
            elif isinstance(value, int | float) and name not in ("step", "epoch", "time", "eval_loss"):
                found[str(name)] = None
    return tuple(found)


def checkpoints(run: Run) -> tuple[int, ...]:
    """Steps of the checkpoints that lie in the run's folder, in order."""
    folder = run.path / "checkpoints"
    names = [path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*")] if folder.is_dir() else []
    return tuple(sorted(int(name) for name in names if name.isdigit()))


# --- map --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """A stored map with what is known of its points; one row a text, queries after documents."""

    table: pd.DataFrame
    """kind, id, text (empty where the run keeps none), x_before, y_before, x_after, y_after (NaN where it is not
    drawn), and the columns named in `colourings`: words of a group (None for none) or numbers (NaN)."""
    colourings: tuple[str, ...]
    relevant: dict[int, tuple[int, ...]]  # row of a query -> rows of the documents that answer it
    moments: tuple[Moment, ...]
    parameters: dict[str, Any]
    kept: dict[str, float]  # moment -> share of true neighbours kept


def map_files(run: Run, evaluation: str, method: Method, *, together: bool) -> tuple[Path, ...]:
    """The files that `scene` reads, for `identity`."""
    folder = run.path / "evaluations" / evaluation
    stem = run.path / "maps" / f"{evaluation}-{method}-{'together' if together else 'apart'}"
    vectors = [run.path / "vectors" / f"{evaluation}-{moment}.safetensors" for moment in MOMENTS]
    names = ("queries", "documents", "before", "after")
    return (
        stem.with_name(stem.name + ".parquet"),
        stem.with_name(stem.name + ".json"),
        *vectors,
        *(folder / f"{name}.parquet" for name in names),
    )


def has_vectors(run: Run, evaluation: str) -> bool:
    """Whether the run keeps vectors of this evaluation, of which a map can be made."""
    return any((run.path / "vectors" / f"{evaluation}-{moment}.safetensors").is_file() for moment in MOMENTS)


def maps(run: Run, evaluation: str) -> tuple[tuple[Method, bool], ...]:
    """(method, together) of each map that is stored, UMAP first: both moments in one map before each in its own."""
    methods: tuple[Method, ...] = ("umap", "pca")
    return tuple(
        (method, together)
        for method in methods
        for together in (True, False)
        if map_files(run, evaluation, method, together=together)[0].is_file()
    )


def scene(run: Run, evaluation: str, method: Method, *, together: bool = True) -> Scene | None:
    """The stored map of an evaluation; None where there is none, or it is older than the vectors."""
    import pandas as pd

    found = stored_map(run, evaluation, method, together=together)
    if found is None:
        return None
    moments = tuple(moment for moment in MOMENTS if (found.points["moment"] == moment).any())
    parts = [
        found.points[found.points["moment"] == moment]
        .drop(columns="moment")
        .rename(columns={"x": f"x_{moment}", "y": f"y_{moment}"})
        .astype({"id": str})
        .set_index(["kind", "id"])
        for moment in moments
    ]
    table = pd.concat(parts, axis=1).reset_index().sort_values("kind", kind="stable").reset_index(drop=True)
    for moment in MOMENTS:
        for axis in "xy":
            if f"{axis}_{moment}" not in table:
                table[f"{axis}_{moment}"] = float("nan")
    queries = _queries(run, evaluation)
    documents = run.documents(evaluation)
    texts = {
        ("document", str(key)): text for key, text in documents[["document_id", "document"]].itertuples(index=False)
    }
    texts.update((("query", str(key)), text) for key, text in zip(queries.index, queries["query"], strict=True))
    table["text"] = [shorten(texts.get(key, ""), TEXT_LIMIT) for key in zip(table["kind"], table["id"], strict=True)]
    colourings = _add_colourings(table, queries)
    return Scene(table, colourings, _relevant(table, queries), moments, found.parameters, found.kept)


def _queries(run: Run, evaluation: str) -> pd.DataFrame:
    """What is known of each query, by id: query, relevant, rank_before, rank_after, and the other columns after."""
    moments = run.evaluations().get(evaluation, ())
    last = "after" if "after" in moments else moments[-1]
    table = run.per_query(evaluation, last).rename(columns={"rank": "rank_after"})
    table = table.set_index(table["query_id"].astype(str))
    if "before" in moments and last != "before":
        first = run.per_query(evaluation, "before")
        table["rank_before"] = first.set_index(first["query_id"].astype(str))["rank"].reindex(table.index)
    return table


def _add_colourings(table: pd.DataFrame, queries: pd.DataFrame) -> tuple[str, ...]:
    """Add to the scene's table what its points can be coloured by; gives the names."""
    import pandas as pd

    mine = table["kind"] == "query"

    def put(name: str, values: pd.Series) -> None:
        table[name] = table["id"].where(mine).map(values)

    table["type"] = table["kind"]
    names = ["type"]
    after = queries["rank_after"]
    if "rank_before" in queries:
        put("rank change", _rank_change(queries["rank_before"], after))
        put("failure", _failure(queries["rank_before"], after))
        names += ["rank change", "failure"]
    counts = queries["relevant"].map(len)
    put("relevant documents", counts.map(lambda count: "4 or more" if count > 3 else str(count)))
    table["length (words)"] = [float(len(text.split())) if text else float("nan") for text in table["text"]]
    names += ["length (words)", "relevant documents"]
    reserved = {"query_id", "query", "relevant", "rank_before", "rank_after", "ranks"}
    for column in queries.columns.difference(reserved, sort=False):
        values = queries[column]
        name = f"{metric_name(str(column))} after" if "@" in str(column) else shorten(column, 40)
        if pd.api.types.is_numeric_dtype(values):
            put(name, values.astype(float))
        else:
            put(name, values.map(lambda value: None if value is None or value != value else shorten(value, 40)))
        names.append(name)
    return tuple(names)


def _rank_change(before: pd.Series, after: pd.Series) -> pd.Series:
    """better, worse, same rank, or never found; a rank that is not known is beyond every other."""
    import pandas as pd

    first, last = before.astype(float).fillna(float("inf")), after.astype(float).fillna(float("inf"))
    words = pd.Series("same rank", index=after.index, dtype=object)
    words[last < first] = "better"
    words[last > first] = "worse"
    words[before.isna() & after.isna()] = "never found"
    return words


def _failure(before: pd.Series, after: pd.Series) -> pd.Series:
    """in the top 10 after training, lost from it, or in it neither before nor after."""
    import pandas as pd

    held, there = (before.astype(float) <= TOP), (after.astype(float) <= TOP)
    words = pd.Series("not in the top 10", index=after.index, dtype=object)
    words[held & ~there] = "lost from top 10"
    words[there] = "in the top 10"
    return words


def _relevant(table: pd.DataFrame, queries: pd.DataFrame) -> dict[int, tuple[int, ...]]:
    rows = {(kind, key): row for row, (kind, key) in enumerate(zip(table["kind"], table["id"], strict=True))}
    found: dict[int, tuple[int, ...]] = {}
    for key, relevant in queries["relevant"].items():
        answers = [rows["document", str(document)] for document in relevant if ("document", str(document)) in rows]
        if ("query", str(key)) in rows and answers:
            found[rows["query", str(key)]] = tuple(answers)
    return found


def labels(scene: Scene) -> list[str]:
    """What hovering over each point says."""
    return [
        f"{kind} {plain(key, 40)}" + (f"<br>{plain(text, LABEL)}" if text else "")
        for kind, key, text in scene.table[["kind", "id", "text"]].itertuples(index=False)
    ]


def map_points(scene: Scene, moment: Moment, by: str, names: Sequence[str] = ()) -> MapPoints:
    """The points of one moment for `figures_points.embedding_map`, coloured by one of the scene's colourings."""
    import pandas as pd

    table = scene.table
    numbers = pd.api.types.is_numeric_dtype(table[by])
    return MapPoints(
        queries=(table["kind"] == "query").to_numpy(),
        x=table[f"x_{moment}"].to_numpy(),
        y=table[f"y_{moment}"].to_numpy(),
        groups=[NEUTRAL] * len(table) if numbers else table[by].fillna(NEUTRAL).tolist(),
        values=table[by].to_numpy(dtype=float) if numbers else None,
        labels=names,
    )


def ranges(scene: Scene) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Ranges of x and y that hold the points of both moments; None for maps that have nothing to do with each other."""
    if not scene.parameters.get("together", True):
        return None

    def span(axis: str) -> tuple[float, float]:
        values = scene.table[[f"{axis}_{moment}" for moment in scene.moments]].to_numpy()
        finite = values[values == values]
        low, high = float(finite.min()), float(finite.max())
        air = (high - low or 1.0) * 0.04
        return low - air, high + air

    return span("x"), span("y")


Polygon = tuple[tuple[float, float], ...]


def corners(selection: Any, most: int = 60) -> tuple[Polygon, ...]:
    """The areas of a Plotly selection (its `box` and `lasso`), each as at most `most` corners."""
    found = []
    for box in selection.get("box") or ():
        (left, right), (low, high) = box["x"], box["y"]
        found.append(((left, low), (right, low), (right, high), (left, high)))
    for lasso in selection.get("lasso") or ():
        places = list(zip(lasso["x"], lasso["y"], strict=False))
        step = max(len(places) / most, 1)
        found.append(tuple(places[int(at * step)] for at in range(int(len(places) / step))))
    return tuple(tuple((round(float(x), 4), round(float(y), 4)) for x, y in area) for area in found if len(area) > 2)


def inside(scene: Scene, moment: Moment, areas: Iterable[Polygon]) -> list[int]:
    """Rows of the scene's table whose place at `moment` is in one of the areas, by the even-odd rule."""
    import numpy as np

    x, y = (scene.table[f"{axis}_{moment}"].to_numpy(dtype=float) for axis in "xy")
    hit = np.zeros(len(x), dtype=bool)
    for area in areas:
        odd = np.zeros(len(x), dtype=bool)
        for (x1, y1), (x2, y2) in zip(area, (*area[1:], area[0]), strict=True):
            if y1 != y2:
                odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        hit |= odd
    return [int(row) for row in np.flatnonzero(hit)]


def nearest_point(scene: Scene, moment: Moment, x: float, y: float) -> int:
    """Row of the point at a place of the map, for a click on it."""
    import numpy as np

    table = scene.table
    away = (table[f"x_{moment}"].to_numpy() - x) ** 2 + (table[f"y_{moment}"].to_numpy() - y) ** 2
    return int(np.nanargmin(away))


def holding(scene: Scene, words: str) -> list[int]:
    """Rows whose text or id holds every one of the words."""
    import numpy as np

    texts = scene.table["text"].str.casefold()
    hit = np.ones(len(texts), dtype=bool)
    for word in words.casefold().split():
        hit &= texts.str.contains(word, regex=False).to_numpy() | (scene.table["id"].str.casefold() == word).to_numpy()
    return [int(row) for row in np.flatnonzero(hit)]


# --- neighbours -------------------------------------------------------------------------------------------------


def unit_vectors(run: Run, evaluation: str, moment: Moment) -> Vectors:
    """The vectors of an evaluation, each of length 1, so that a product is the cosine."""
    import numpy as np

    found = load_vectors(run, evaluation, moment)
    for array in (found.queries, found.documents):
        array /= np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    return found


def neighbours(vectors: Vectors, kind: str, ids: Sequence[str], k: int = TOP) -> dict[str, list[tuple[str, float]]]:
    """(document id, cosine) of the k documents nearest to each text, nearest first; a document is not its own.

    `vectors` are those of `unit_vectors`. Texts without a vector are left out.
    """
    import numpy as np

    known = vectors.query_ids if kind == "query" else vectors.document_ids
    array = vectors.queries if kind == "query" else vectors.documents
    wanted = set(ids)
    rows = [row for row, key in enumerate(known) if key in wanted]
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        cosines = vectors.documents @ array[row]  # (documents,)
        if kind == "document":
            cosines[row] = -np.inf
        best = np.argpartition(-cosines, min(k, len(cosines) - 1))[: k + 1]
        best = [int(place) for place in sorted(best, key=lambda place: (-cosines[place], place))][:k]
        found[known[row]] = [
            (vectors.document_ids[place], float(cosines[place])) for place in best if np.isfinite(cosines[place])
        ]
    return found


# --- one query --------------------------------------------------------------------------------------------------


def ranking(run: Run, evaluation: str, moment: str, query_id: str, top: int = TOP) -> pd.DataFrame:
    """The first `top` documents of one query, read alone: position, relevant, score, document_id, document.

    No rows where the run keeps no rankings of this evaluation.
    """
    import pandas as pd

    columns = ["position", "relevant", "score", "document_id", "document"]
    folder = run.path / "evaluations" / evaluation
    path = folder / f"{moment}-hits.parquet"
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    hits = _rows(path, [("query_id", "==", query_id), ("position", "<=", top)]).sort_values("position")
    texts = document_texts(run, evaluation, hits["document_id"].tolist())
    hits["document"] = [texts.get(str(key), "") for key in hits["document_id"]]
    return hits[columns].reset_index(drop=True)


def document_texts(run: Run, evaluation: str, ids: Sequence[str]) -> dict[str, str]:
    """Texts of documents by id, those that the run keeps."""
    path = run.path / "evaluations" / evaluation / "documents.parquet"
    if not ids or not path.is_file():
        return {}
    found = _rows(path, [("document_id", "in", list(ids))])
    return {
        str(key): shorten(text, TEXT_LIMIT) for key, text in zip(found["document_id"], found["document"], strict=True)
    }


def _rows(path: Path, filters: list[tuple[str, str, Any]]) -> pd.DataFrame:
    import pandas as pd
    from pyarrow import ArrowException

    try:
        return pd.read_parquet(path, filters=filters)
    except (OSError, ArrowException) as error:
        raise RunError(f"expected a Parquet table in {str(path)!r}, found something else ({error}).") from error


def shared_words(query: str, document: str) -> list[tuple[str, bool]]:
    """The document's text in stretches: (text, whether it is a word of the query too).

    Words are compared without case and the marks around them. Latin ones of one to three letters are left out, for
    they are nearly all articles and prepositions; Korean ones match without the particle that follows.

    >>> shared_words("Which boot is wide?", "A wide, flat boot")
    [('A ', False), ('wide', True), (', flat ', False), ('boot', True)]
    """
    wanted = {word.casefold() for _, _, word in _words(query)}
    parts: list[tuple[str, bool]] = []
    last = 0
    for start, end, word in _words(document):
        if any(_same(word.casefold(), other) for other in wanted):
            if start > last:
                parts.append((document[last:start], False))
            parts.append((word, True))
            last = end
    if last < len(document):
        parts.append((document[last:], False))
    return parts


def _words(text: str) -> Iterable[tuple[int, int, str]]:
    """(start, end, word): runs of letters, marks, digits and joiners, without the short Latin ones."""
    start = None
    for place, character in enumerate(text + " "):
        inner = unicodedata.category(character)[0] in "LMN" or character in "\u200c\u200d"
        if inner and start is None:
            start = place
        elif not inner and start is not None:
            word = text[start:place]
            if len(word) > 3 or not word.isascii() or any(letter.isdigit() for letter in word):
                yield start, place, word
            start = None


def _same(word: str, other: str) -> bool:
    short, long = sorted((word, other), key=len)
    korean = len(short) > 1 and all("\uac00" <= letter <= "\ud7a3" for letter in short)
    return word == other or (korean and long.startswith(short) and len(long) - len(short) < 3)


# --- playground -------------------------------------------------------------------------------------------------


def model_files(run: Run) -> Identity:
    """What a run's models are known by: a model that is trained again is another."""
    return identity(*sorted((run.path / "model").glob("*.json")), run.path / "recipe.yaml")


def encoder_of(run: Run, moment: Moment) -> Any:
    """The function that encodes as the run's model did at `moment`: `encode(texts, kind)`, see `encoder.encoder`.

    Raises BaseError or RunError where that model cannot be had: a base that was made from the training rows is not
    kept, and one whose weights are others than those that were trained must not answer in its place.
    """
    from workbench.encoder import load_base
    from workbench.prepare import encode_with

    recipe = run.recipe()
    if moment == "after":
        return encode_with(load_base(str(run.path / "model")).model, recipe)
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


def answer(run: Run, evaluation: str, moment: Moment, encode: Any, vectors: Vectors, query: str) -> pd.DataFrame:
    """The ranking of a query that nobody asked before: position, relevant (always False), score, document_id, document.

    `vectors` are those of `load_vectors`; documents that the run keeps no vector of cannot be found.
    """
    import pandas as pd

    from workbench.search import top_k

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

    The greatest difference first. Raises RunError where the metric is not there.
    """
    tables = [each.per_query(evaluation, "after") for each in (run, other)]
    for each, table in zip((run, other), tables, strict=True):
        if metric not in table:
            raise RunError(f"expected {metric!r} for each query of {evaluation!r} in run {each.name!r}, found none.")
    both = tables[0][["query_id", "query", metric]].merge(
        tables[1][["query_id", metric]], on="query_id", suffixes=("_first", "_second")
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

    from workbench.exports import trec_qrels, trec_run

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


def report_page(run: Run) -> bytes:
    """The run's HTML report, without writing it into the run folder."""
    from workbench.report import render
    from workbench.report.summary import summarize

    return render(summarize(run)).encode()
