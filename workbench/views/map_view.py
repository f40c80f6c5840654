"""The map of a run's texts as a screen shows it: points with what is known of them, areas, neighbours.

A stored map joined with the run's queries, documents and ranks. Neighbours come from the full vectors, never from the
map. Text is cut as in `browse` and still has to be shown as text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from workbench.evaluation.projection import STAGES, Method, Stage, Vectors, load_map
from workbench.views.figures import metric_name
from workbench.views.figures_map import NEUTRAL, MapPoints, picture
from workbench.views.overview import TEXT_LIMIT, TOP, whole_evaluations
from workbench.views.theme import palette, plain, shorten

if TYPE_CHECKING:
    import pandas as pd

    from workbench.run import Run

LABEL = 70  # characters of a text that hovering shows
MANY = 15_000  # points from which it shows half as many


@dataclass(frozen=True)
class Scene:
    """A stored map with what is known of its points; one row a text, queries after documents."""

    table: pd.DataFrame
    """kind, id, text (empty where the run keeps none), x_before, y_before, x_after, y_after (NaN where it is not
    drawn), and the columns named in `colourings`: words of a group (None for none) or numbers (NaN)."""
    colourings: tuple[str, ...]
    rows: dict[tuple[str, str], int]  # (kind, id) -> row
    relevant: dict[int, tuple[int, ...]]  # row of a query -> rows of the documents that answer it
    moments: tuple[Stage, ...]
    parameters: dict[str, Any]
    kept: dict[str, float]  # moment -> share of true neighbours kept


def map_files(run: Run, evaluation: str, method: Method, *, together: bool) -> tuple[Path, ...]:
    """The files that `scene` reads, for `identity`."""
    name = (evaluation, method, "together" if together else "apart")
    return (
        *(run.file(kind, *name) for kind in ("map", "map_settings")),
        *(run.file("vectors", evaluation, moment) for moment in STAGES),
        *(run.file(kind, evaluation) for kind in ("queries", "documents")),
        *(run.file("values", evaluation, moment) for moment in STAGES),
    )


def has_vectors(run: Run, evaluation: str) -> bool:
    """Whether the run keeps vectors of this evaluation, of which a map can be made."""
    return any(run.file("vectors", evaluation, moment).is_file() for moment in STAGES)


def mapped(run: Run) -> tuple[str, ...]:
    """Evaluations of which the run keeps vectors or a map, the one to look at first in front."""
    whole = whole_evaluations(run)
    found = [name for name in run.evaluations() if has_vectors(run, name) or maps(run, name)]
    return tuple(sorted(found, key=lambda name: whole.index(name) if name in whole else len(whole)))


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

    found = load_map(run, evaluation, method, together=together)
    if found is None:
        return None
    moments = tuple(moment for moment in STAGES if (found.points["moment"] == moment).any())
    parts = [
        found.points[found.points["moment"] == moment]
        .drop(columns="moment")
        .rename(columns={"x": f"x_{moment}", "y": f"y_{moment}"})
        .astype({"id": str})
        .set_index(["kind", "id"])
        for moment in moments
    ]
    table = pd.concat(parts, axis=1).reset_index().sort_values("kind", kind="stable").reset_index(drop=True)
    for moment in STAGES:
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
    rows = {(kind, key): row for row, (kind, key) in enumerate(zip(table["kind"], table["id"], strict=True))}
    return Scene(table, colourings, rows, _relevant(rows, queries), moments, found.parameters, found.preservation)


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
    for column in [column for column in queries.columns if column not in reserved]:
        values = queries[column]
        name = f"{metric_name(str(column))} after" if "@" in str(column) else shorten(column, 40)
        if pd.api.types.is_numeric_dtype(values):
            put(name, values.astype(float))
        else:
            put(name, values.map(lambda value: None if value is None or value != value else shorten(value, 40)))
        names.append(name)
    return tuple(names)


def _rank_change(before: pd.Series, after: pd.Series) -> pd.Series:
    """better rank, worse rank, same rank, or never found; a rank that is not known is beyond every other."""
    import pandas as pd

    first, last = before.astype(float).fillna(float("inf")), after.astype(float).fillna(float("inf"))
    words = pd.Series("same rank", index=after.index, dtype=object)
    words[last < first] = "better rank"
    words[last > first] = "worse rank"
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


def _relevant(rows: Mapping[tuple[str, str], int], queries: pd.DataFrame) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for key, relevant in queries["relevant"].items():
        answers = [rows["document", str(document)] for document in relevant if ("document", str(document)) in rows]
        if ("query", str(key)) in rows and answers:
            found[rows["query", str(key)]] = tuple(answers)
    return found


def names(scene: Scene) -> list[str]:
    """What each point is, in two lines: kind and id, then the beginning of its text. Still foreign text."""
    limit = LABEL if len(scene.table) <= MANY else LABEL // 2
    return [
        f"{kind} {shorten(key, 40)}" + (f"\n{shorten(text, limit)}" if text else "")
        for kind, key, text in scene.table[["kind", "id", "text"]].itertuples(index=False)
    ]


def labels(scene: Scene) -> list[str]:
    """`names` for a Plotly label, where nothing in them takes effect."""
    return ["<br>".join(plain(line, LABEL) for line in name.split("\n")) for name in names(scene)]


def map_points(scene: Scene, moment: Stage, by: str, names: Sequence[str] = ()) -> MapPoints:
    """The points of one moment for `figures_points.embedding_map`, coloured by one of the scene's colourings."""
    import pandas as pd

    table = scene.table
    numbers = pd.api.types.is_numeric_dtype(table[by])
    return MapPoints(
        queries=(table["kind"] == "query").tolist(),
        x=cast(Any, table[f"x_{moment}"].to_numpy()),
        y=cast(Any, table[f"y_{moment}"].to_numpy()),
        groups=[NEUTRAL] * len(table) if numbers else table[by].fillna(NEUTRAL).tolist(),
        values=cast(Any, table[by].to_numpy(dtype=float)) if numbers else None,
        labels=names,
    )


Span = tuple[float, float]


def ranges(scene: Scene) -> tuple[Span, Span] | None:
    """Ranges of x and y that hold the points of both moments; None for maps that have nothing to do with each other."""
    return _spans(scene, scene.moments) if scene.parameters.get("together", True) else None


def _spans(scene: Scene, moments: Sequence[Stage]) -> tuple[Span, Span]:
    """Ranges of x and y that hold the points of these moments, with some air around them."""

    def span(axis: str) -> Span:
        values = scene.table[[f"{axis}_{moment}" for moment in moments]].to_numpy()
        finite = values[values == values]
        low, high = float(finite.min()), float(finite.max())
        air = (high - low or 1.0) * 0.04
        return low - air, high + air

    return span("x"), span("y")


def canvas(
    scene: Scene,
    by: str,
    *,
    titles: Mapping[Stage, str],
    rows: Sequence[int] | None = None,
    area: tuple[Stage, tuple[Polygon, ...]] | None = None,
    lines: Sequence[tuple[int, int]] = (),
    opened: int | None = None,
    dark: bool = False,
) -> dict[str, Any]:
    """All that the canvas of the dashboard draws, as plain values; the names of the points come on top.

    It is `figures_points.picture`, which `embedding_map` paints for notebooks and reports, with both moments' places.
    `rows` stand out; `area` is the one that was drawn; `lines` join queries and answers; `opened` has a ring. Places,
    groups and marks are base64 of float32, of bytes (255: not drawn) and of bits.
    """
    import numpy as np

    size = len(scene.table)
    both = ranges(scene)
    drawn = np.zeros(size, dtype=bool)
    moments = []
    for moment in scene.moments:
        x, y = (scene.table[f"{axis}_{moment}"].to_numpy(dtype=np.float32) for axis in "xy")
        drawn |= np.isfinite(x) & np.isfinite(y)
        kept = scene.kept.get(moment)
        note = "" if kept is None else f"{kept * 100:.0f} % of true neighbours kept"
        places = {"x": _base64(x), "y": _base64(y), "ranges": both or _spans(scene, (moment,))}
        moments.append({"name": moment, "title": titles[moment], "note": note, **places})
    points = map_points(scene, scene.moments[-1], by)
    name = str(scene.parameters.get("method", "")).upper()
    painted = picture(points, np.flatnonzero(drawn), name=name, lines=len(lines), dark=dark)
    group = np.full(size, 255, dtype=np.uint8)
    for number, layer in enumerate(painted.layers):
        group[layer.places] = number
    colours = palette(dark=dark)
    return {
        "moments": moments,
        "together": both is not None,
        "layers": [{"name": layer.name, **layer.look} for layer in painted.layers],
        "group": _base64(group),
        "scale": None if painted.scale is None else {"name": by, **asdict(painted.scale)},
        "axes": painted.axes,
        "line": painted.line,
        "ring": painted.ring,
        "faded": painted.faded,
        "grown": painted.grown,
        "marked": None if rows is None else _base64(np.packbits(np.isin(np.arange(size), np.asarray(rows, dtype=int)))),
        "area": None if area is None else {"moment": area[0], "areas": area[1]},
        "lines": [place for pair in lines for place in pair],
        "opened": opened,
        "look": {
            "ink": colours.ink, "muted": colours.muted, "line": colours.grid, "accent": colours.after,
            "ground": "#14171a" if dark else "#ffffff",
        },
    }  # fmt: skip


def _base64(array: Any) -> str:
    return b64encode(array.tobytes()).decode("ascii")


Polygon = tuple[tuple[float, float], ...]


def inside(scene: Scene, moment: Stage, areas: Iterable[Polygon]) -> list[int]:
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


def area_text(moment: Stage, areas: Iterable[Polygon]) -> str:
    """A drawn selection as a word for an address: "after:0,0;1,0;1,1".

    >>> area_of(area_text("after", [((0.0, 0.5), (1.0, 0.0), (1.0, 1.0))]))
    ('after', (((0.0, 0.5), (1.0, 0.0), (1.0, 1.0)),))
    """
    return f"{moment}:" + "|".join(";".join(f"{x:g},{y:g}" for x, y in area) for area in areas)


def area_of(text: str) -> tuple[Stage, tuple[Polygon, ...]] | None:
    """What `area_text` wrote; None for anything else."""
    said, _, rest = text[:20_000].partition(":")
    moment: Stage | None = next((each for each in STAGES if each == said), None)
    try:
        areas = tuple(
            tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in area.split(";")))
            for area in rest.split("|")
        )
    except ValueError:
        return None
    return (moment, areas) if moment is not None and all(len(area) > 2 for area in areas) else None


def point_name(scene: Scene, row: int) -> str:
    """A point as a word for an address: "query:q12"."""
    kind, key = scene.table.loc[row, ["kind", "id"]]
    return f"{kind!s}:{key!s}"


def row_of(scene: Scene, name: str) -> int | None:
    """The row of a point by `point_name`; None where there is no such point."""
    kind, _, key = name.partition(":")
    return scene.rows.get((kind, key))


def ids_of(scene: Scene, rows: Sequence[int], kind: str) -> tuple[str, ...]:
    """Ids of those of the rows that are of one kind."""
    part = scene.table.iloc[list(rows)]
    return tuple(part[part["kind"] == kind]["id"])


def queries_first(scene: Scene, rows: Sequence[int]) -> list[int]:
    """The rows, queries before documents, else in their order."""
    queries = (scene.table["kind"] == "query").to_numpy()
    return sorted(rows, key=lambda row: (not queries[row], row))


def answer_lines(scene: Scene, rows: Sequence[int] | None, picked: int | None, most: int) -> list[tuple[int, int]]:
    """(query, document) of the lines to draw: those of the picked point, and up to `most` of the rows' or of all."""
    wanted = scene.relevant if rows is None else set(rows)
    own = [(query, answer) for query, found in scene.relevant.items() for answer in found if picked in (query, answer)]
    others = ((query, answer) for query, found in scene.relevant.items() if query in wanted for answer in found)
    return list(dict.fromkeys([*own, *islice(others, most)]))


def nearest_texts(
    scene: Scene, rows: Sequence[int], found: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]
) -> list[str]:
    """The nearest document of each row, as a line; `found` is kind -> what `neighbours` gives."""
    lines = []
    for kind, key in scene.table.iloc[list(rows)][["kind", "id"]].itertuples(index=False):
        near = found[kind].get(key)
        lines.append(f"{near[0][1]:.3f}  {_text_of(scene, near[0][0]) or near[0][0]}" if near else "")
    return lines


def neighbour_table(scene: Scene, row: int, found: Sequence[tuple[str, float]]) -> pd.DataFrame:
    """What `neighbours` found of one point, in the columns of `ranking`; the answers of a query are relevant."""
    import pandas as pd

    answers = {scene.table.at[place, "id"] for place in scene.relevant.get(row, ())}
    rows = [
        (place, key in answers, cosine, key, _text_of(scene, key)) for place, (key, cosine) in enumerate(found, start=1)
    ]
    return pd.DataFrame(rows, columns=["position", "relevant", "score", "document_id", "document"])


def _text_of(scene: Scene, document: str) -> str:
    row = scene.rows.get(("document", document))
    return "" if row is None else str(scene.table.at[row, "text"])


def holding(scene: Scene, words: str) -> list[int]:
    """Rows whose text or id holds every one of the words."""
    import numpy as np

    texts = scene.table["text"].str.casefold()
    hit = np.ones(len(texts), dtype=bool)
    for word in words.casefold().split():
        hit &= texts.str.contains(word, regex=False).to_numpy() | (scene.table["id"].str.casefold() == word).to_numpy()
    return [int(row) for row in np.flatnonzero(hit)]


# --- neighbours -------------------------------------------------------------------------------------------------


def neighbours(vectors: Vectors, kind: str, ids: Sequence[str], k: int = TOP) -> dict[str, list[tuple[str, float]]]:
    """(document id, cosine) of the k documents nearest to each text, nearest first; a document is not its own.

    Texts without a vector are left out.
    """
    import numpy as np

    def lengths(array: Any) -> Any:
        return np.maximum(np.linalg.norm(array, axis=-1), 1e-12)

    known = vectors.query_ids if kind == "query" else vectors.document_ids
    array = vectors.queries if kind == "query" else vectors.documents
    wanted = set(ids)
    rows = [row for row, key in enumerate(known) if key in wanted]
    long = lengths(vectors.documents)
    found: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        cosines = vectors.documents @ array[row] / (long * lengths(array[row]))  # (documents,)
        if kind == "document":
            cosines[row] = -np.inf
        near = np.argpartition(-cosines, min(k, len(cosines) - 1))[: k + 1].tolist()
        best = sorted(near, key=lambda place: (-cosines[place], place))[:k]
        found[known[row]] = [
            (vectors.document_ids[place], float(cosines[place])) for place in best if np.isfinite(cosines[place])
        ]
    return found
