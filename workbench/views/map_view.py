"""The map of a run's queries and documents: points with what is known of them, selections, neighbors.

A stored map joined with the run's texts, ranks, and outcomes, for report, dashboard, and notebook alike. Neighbors come
from the full vectors, never from the map. Text is cut as in `queries`; it is still foreign text.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from workbench.cards.metric_names import metric_name
from workbench.evaluation.examples import has_examples
from workbench.evaluation.projection import STAGES, Method, Stage, Vectors, load_map, project
from workbench.run import Run
from workbench.views.clusters import clusters, density
from workbench.views.figures_map import NEUTRAL, MapPoints, picture
from workbench.views.queries import RESERVED, TEXT_LIMIT, compared_evaluations
from workbench.views.records import TOP, Hit, QueryOutcome
from workbench.views.theme import palette, plain, shorten

if TYPE_CHECKING:
    import pandas as pd

LABEL = 70  # characters of a text on hover
MANY = 15_000  # points from which there are half as many
CLUSTERS = ("cluster", "density")  # colorings that need the vectors, see `clusters`
BEYOND = 200  # what a rank below the depth kept counts as
IN_REPORT = 1500  # points of each stage in a report, which is drawn without WebGL
METHODS: tuple[Method, ...] = ("umap", "pca")

Polygon = tuple[tuple[float, float], ...]
Span = tuple[float, float]


@dataclass(frozen=True)
class MapView:
    """A stored map with what is known of its points; one row per text, queries after documents."""

    table: pd.DataFrame
    """kind, id, text (empty if the run keeps none), ranks (", rank 3 → 1" of a query), x_before, y_before, x_after,
    y_after (NaN if not drawn), and the columns named in `colorings`: words of a group (None for none) or numbers
    (NaN)."""
    colorings: tuple[str, ...]
    rows: dict[tuple[str, str], int]  # (kind, id) -> row
    relevant: dict[int, tuple[int, ...]]  # row of a query -> rows of its relevant documents
    stages: tuple[Stage, ...]
    parameters: dict[str, Any]
    preservation: dict[str, float]  # stage -> neighborhood preservation, 0 to 1
    total: int  # texts on the stored map

    @property
    def method(self) -> str:
        return str(self.parameters.get("method", "")).upper()

    def names(self) -> list[str]:
        """What each point is, a line each: kind, id and ranks, then the beginning of its text. Still foreign text."""
        limit = LABEL if len(self.table) <= MANY else LABEL // 2
        return [
            f"{kind} {shorten(key, 40)}{ranks}" + (f"\n{shorten(text, limit)}" if text else "")
            for kind, key, text, ranks in self.table[["kind", "id", "text", "ranks"]].itertuples(index=False)
        ]

    def labels(self) -> list[str]:
        """`names` made harmless for a Plotly label."""
        return ["<br>".join(plain(line, LABEL) for line in name.split("\n")) for name in self.names()]

    def points(self, stage: Stage, by: str, labels: Sequence[str] = ()) -> MapPoints:
        """The points of one stage, colored by one of `colorings`."""
        import pandas as pd

        table = self.table
        numbers = pd.api.types.is_numeric_dtype(table[by])
        return MapPoints(
            queries=(table["kind"] == "query").tolist(),
            x=cast(Any, table[f"x_{stage}"].to_numpy()),
            y=cast(Any, table[f"y_{stage}"].to_numpy()),
            groups=[NEUTRAL] * len(table) if numbers else table[by].fillna(NEUTRAL).tolist(),
            values=cast(Any, table[by].to_numpy(dtype=float)) if numbers else None,
            labels=labels,
        )

    def with_clusters(self, vectors: Vectors) -> MapView:
        """The map with the colorings of `CLUSTERS`, by the full vectors of one stage."""
        documents = self.table[self.table["kind"] == "document"]
        of = clusters(vectors, dict(zip(documents["id"], documents["text"], strict=True)))
        near = density(vectors)
        keys = list(zip(self.table["kind"], self.table["id"], strict=True))
        columns: dict[str, Any] = {
            CLUSTERS[0]: [of.get(key) if kind == "document" else None for kind, key in keys],
            CLUSTERS[1]: [near.get(key, float("nan")) for key in keys],
        }
        return replace(self, table=self.table.assign(**columns), colorings=(*self.colorings, *CLUSTERS))

    def ranges(self) -> tuple[Span, Span] | None:
        """Ranges of x and y with the points of both stages; None if each stage has a map of its own."""
        return self._spans(self.stages) if self.parameters.get("together", True) else None

    def _spans(self, stages: Sequence[Stage]) -> tuple[Span, Span]:
        def span(axis: str) -> Span:
            values = self.table[[f"{axis}_{stage}" for stage in stages]]
            low, high = float(values.min().min()), float(values.max().max())
            padding = (high - low or 1.0) * 0.04
            return low - padding, high + padding

        return span("x"), span("y")

    def canvas(
        self,
        by: str,
        *,
        titles: Mapping[Stage, str],
        rows: Sequence[int] | None = None,
        area: tuple[Stage, Polygon] | None = None,
        lines: Sequence[tuple[int, int]] = (),
        opened: int | None = None,
        dark: bool = False,
    ) -> dict[str, Any]:
        """All that the canvas of the dashboard draws, as plain values: `figures_map.picture`, for both stages.

        `rows` are highlighted, with the drawn `area`; `lines` join queries and answers; `opened` has a ring.
        Coordinates are base64 of float32, groups of bytes (255: not drawn), marks of bits.
        """
        import numpy as np

        size = len(self.table)
        shared = self.ranges()
        drawn = np.zeros(size, dtype=bool)
        panels = []
        for stage in self.stages:
            x, y = (self.table[f"{axis}_{stage}"].to_numpy(dtype=np.float32) for axis in "xy")
            drawn |= np.isfinite(x) & np.isfinite(y)
            share = self.preservation.get(stage)
            note = "" if share is None else f"neighborhood preservation {share * 100:.0f}%"
            places = {"x": _base64(x), "y": _base64(y), "ranges": shared or self._spans((stage,))}
            panels.append({"name": stage, "title": titles[stage], "note": note, **places})
        points = self.points(self.stages[-1], by)
        painted = picture(points, np.flatnonzero(drawn), name=self.method, lines=len(lines), dark=dark)
        group = np.full(size, 255, dtype=np.uint8)
        for number, layer in enumerate(painted.layers):
            group[layer.places] = number
        marked = None if rows is None else np.packbits(np.isin(np.arange(size), np.asarray(rows, dtype=int)))
        colors = palette(dark=dark)
        return {
            "stages": panels,
            "together": shared is not None,
            "layers": [{"name": layer.name, **layer.look} for layer in painted.layers],
            "group": _base64(group),
            "scale": None if painted.scale is None else {"name": by, **asdict(painted.scale)},
            **{name: getattr(painted, name) for name in ("axes", "line", "ring", "faded", "grown")},
            "marked": None if marked is None else _base64(marked),
            "area": None if area is None else {"stage": area[0], "corners": area[1]},
            "lines": [place for pair in lines for place in pair],
            "opened": opened,
            "look": {
                "ink": colors.ink, "muted": colors.muted, "line": colors.grid, "accent": colors.after,
                "ground": "#14171a" if dark else "#ffffff",
            },
        }  # fmt: skip

    def inside(self, stage: Stage, area: Polygon) -> list[int]:
        """Rows whose point of `stage` is in the area, by the even-odd rule."""
        import numpy as np

        x, y = (self.table[f"{axis}_{stage}"].to_numpy(dtype=float) for axis in "xy")
        odd = np.zeros(len(x), dtype=bool)
        for (x1, y1), (x2, y2) in zip(area, (*area[1:], area[0]), strict=True):
            if y1 != y2:
                odd ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        return [int(row) for row in np.flatnonzero(odd)]

    def containing(self, search: str) -> list[int]:
        """Rows whose text or id has every word of `search`."""
        import numpy as np

        texts, ids = self.table["text"].str.casefold(), self.table["id"].str.casefold()
        hit = np.ones(len(texts), dtype=bool)
        for word in search.casefold().split():
            hit &= texts.str.contains(word, regex=False).to_numpy() | (ids == word).to_numpy()
        return [int(row) for row in np.flatnonzero(hit)]

    def point_name(self, row: int) -> str:
        """A point for an address: "query:q12"."""
        kind, key = self.table.loc[row, ["kind", "id"]]
        return f"{kind!s}:{key!s}"

    def row_of(self, name: str) -> int | None:
        """The row of a point by `point_name`; None if there is no such point."""
        kind, _, key = name.partition(":")
        return self.rows.get((kind, key))

    def ids(self, rows: Sequence[int], kind: str) -> tuple[str, ...]:
        """Ids of those rows that are of one kind."""
        part = self.table.iloc[list(rows)]
        return tuple(part[part["kind"] == kind]["id"])

    def queries_first(self, rows: Sequence[int]) -> list[int]:
        """The rows, queries before documents, otherwise in their order."""
        queries = (self.table["kind"] == "query").to_numpy()
        return sorted(rows, key=lambda row: (not queries[row], row))

    def answer_lines(self, rows: Sequence[int] | None, opened: int | None, most: int) -> list[tuple[int, int]]:
        """(query, document) of the lines to draw: all of the opened point, and up to `most` of `rows`, or of all."""
        wanted = self.relevant if rows is None else set(rows)
        pairs = [(query, answer) for query, found in self.relevant.items() for answer in found]
        own = [pair for pair in pairs if opened in pair]
        return list(dict.fromkeys([*own, *islice((pair for pair in pairs if pair[0] in wanted), most)]))

    def document_text(self, document: str) -> str:
        row = self.row_of(f"document:{document}")
        return "" if row is None else str(self.table.at[row, "text"])

    def nearest_texts(
        self, rows: Sequence[int], found: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]
    ) -> list[str]:
        """The nearest document of each row, as a line; `found` is kind -> the result of `neighbors`."""
        lines = []
        for kind, key in self.table.iloc[list(rows)][["kind", "id"]].itertuples(index=False):
            near = found[kind].get(key)
            lines.append(f"{near[0][1]:.3f}  {self.document_text(near[0][0]) or near[0][0]}" if near else "")
        return lines

    def neighbor_hits(self, row: int, found: Sequence[tuple[str, float]]) -> tuple[Hit, ...]:
        """The `neighbors` of one point as a ranking."""
        answers = {self.table.at[place, "id"] for place in self.relevant.get(row, ())}
        return tuple(
            Hit(place, key in answers, cosine, key, self.document_text(key))
            for place, (key, cosine) in enumerate(found, start=1)
        )

    def thin(self, most: int) -> MapView:
        """At most `most` points, evenly spread: queries up to half of them, documents for the rest."""
        import numpy as np

        queries = (self.table["kind"] == "query").to_numpy()

        def spread(places: Any, count: int) -> Any:
            return places[np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)]

        some = spread(np.flatnonzero(queries), max(most // 2, most - int((~queries).sum())))
        rows = np.sort(np.concatenate([spread(np.flatnonzero(~queries), most - len(some)), some]))
        return replace(self, table=self.table.iloc[rows].reset_index(drop=True), rows={}, relevant={})


def _base64(array: Any) -> str:
    return b64encode(array.tobytes()).decode("ascii")


def has_vectors(run: Run, evaluation: str) -> bool:
    """Whether the run keeps vectors of this evaluation, from which a map can be made."""
    return any(run.file("vectors", evaluation, stage).is_file() for stage in STAGES)


def stored_maps(run: Run, evaluation: str) -> tuple[tuple[Method, bool], ...]:
    """(method, together) of each stored map, UMAP first; one map of both stages before one for each."""
    return tuple(
        (method, together)
        for method in METHODS
        for together in (True, False)
        if run.file("map", evaluation, method, "together" if together else "apart").is_file()
    )


def map_evaluations(run: Run) -> tuple[str, ...]:
    """Evaluations of which the run keeps vectors or a map; the first is the one to show."""
    order = compared_evaluations(run)
    found = [name for name in run.evaluations() if has_vectors(run, name) or stored_maps(run, name)]
    return tuple(sorted(found, key=lambda name: order.index(name) if name in order else len(order)))


def map_view(run: Run, evaluation: str, method: Method, *, together: bool = True) -> MapView | None:
    """The stored map of an evaluation; None if there is none, or it is older than the vectors."""
    import pandas as pd

    found = load_map(run, evaluation, method, together=together)
    if found is None:
        return None
    stages = tuple(stage for stage in STAGES if (found.points["moment"] == stage).any())
    parts = [
        found.points[found.points["moment"] == stage]
        .drop(columns="moment")
        .rename(columns={"x": f"x_{stage}", "y": f"y_{stage}"})
        .astype({"id": str})
        .set_index(["kind", "id"])
        for stage in stages
    ]
    table = pd.concat(parts, axis=1).reset_index().sort_values("kind", kind="stable").reset_index(drop=True)
    for name in (f"{axis}_{stage}" for stage in STAGES if stage not in stages for axis in "xy"):
        table[name] = float("nan")
    queries, documents = _queries(run, evaluation), run.documents(evaluation)
    both = {"document": documents.set_index("document_id")["document"], "query": queries["query"]}
    texts = {(kind, str(key)): text for kind, part in both.items() for key, text in part.items()}
    keys = list(zip(table["kind"], table["id"], strict=True))
    table["text"] = [shorten(texts.get(key, ""), TEXT_LIMIT) for key in keys]
    rows = {key: row for row, key in enumerate(keys)}
    relevant = {
        rows["query", key]: tuple(rows[each] for id in ids if (each := ("document", str(id))) in rows)
        for key, ids in queries["relevant"].items()
        if ("query", key) in rows
    }
    colorings = _add_colorings(table, queries)
    return MapView(table, colorings, rows, relevant, stages, found.parameters, found.preservation, len(table))


def report_map(run: Run, evaluation: str) -> MapView | None:
    """The map of a report: the stored one by UMAP or PCA, or a new one by PCA; UMAP takes minutes and is never started.

    None for an evaluation without rankings, and if the run keeps no vectors.
    """
    if not evaluation or has_examples(run, evaluation):
        return None
    found = next((view for method in METHODS if (view := map_view(run, evaluation, method)) is not None), None)
    if found is None and has_vectors(run, evaluation):
        project(run, evaluation, "pca")
        found = map_view(run, evaluation, "pca")
    return None if found is None else found.thin(IN_REPORT)


def _queries(run: Run, evaluation: str) -> pd.DataFrame:
    """What is known of each query, by id: query, relevant, rank_before, rank_after, and the other columns after."""
    stages = run.evaluations().get(evaluation, ())
    last = "after" if "after" in stages else stages[-1]
    table = run.per_query(evaluation, last).rename(columns={"rank": "rank_after"})
    table = table.set_index(table["query_id"].astype(str))
    if "before" in stages and last != "before":
        first = run.per_query(evaluation, "before")
        table["rank_before"] = first.set_index(first["query_id"].astype(str))["rank"].reindex(table.index)
    return table


def _add_colorings(table: pd.DataFrame, queries: pd.DataFrame) -> tuple[str, ...]:
    """Add the columns that points can be colored by; returns their names."""
    import pandas as pd

    def put(name: str, values: Any) -> None:
        table[name] = table["id"].where(table["kind"] == "query").map(pd.Series(values, index=queries.index))

    table["type"], table["ranks"] = table["kind"], ""
    names = ["type"]
    if "rank_before" in queries:
        ranks = queries[["rank_before", "rank_after"]].astype(object)
        pairs = ranks.where(ranks.notna(), None).to_numpy()
        put("ranks", [f", rank {first or 'not found'} → {last or 'not found'}" for first, last in pairs])
        table["ranks"] = table["ranks"].fillna("")
        put("outcome", [QueryOutcome("", first, last).outcome for first, last in pairs])
        doublings = ranks.where(ranks.notna(), BEYOND).astype(float).map(math.log2)
        put("rank change (halvings)", doublings["rank_before"] - doublings["rank_after"])
        names += ["outcome", "rank change (halvings)"]
    put("relevant documents", queries["relevant"].map(lambda ids: "4 or more" if len(ids) > 3 else str(len(ids))))
    table["length (words)"] = [float(len(text.split())) if text else float("nan") for text in table["text"]]
    names += ["length (words)", "relevant documents"]
    for column in queries.columns.difference([*RESERVED, "rank_before", "rank_after"], sort=False):
        values = queries[column]
        name = f"{metric_name(str(column))} after" if "@" in str(column) else shorten(column, 40)
        numbers = pd.api.types.is_numeric_dtype(values)
        put(name, values.astype(float) if numbers else values.map(lambda text: shorten(text, 40), na_action="ignore"))
        names.append(name)
    return tuple(names)


def area_text(stage: Stage, area: Polygon) -> str:
    """A drawn area for an address.

    >>> area_text("after", ((0.0, 0.5), (1.0, 0.0), (1.0, 1.0)))
    'after:0,0.5;1,0;1,1'
    """
    return f"{stage}:" + ";".join(f"{x:g},{y:g}" for x, y in area)


def parse_area(text: str) -> tuple[Stage, Polygon] | None:
    """What `area_text` wrote; None for anything else."""
    name, _, rest = text[:20_000].partition(":")
    stage = next((each for each in STAGES if each == name), None)
    try:
        area = tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in rest.split(";")))
    except ValueError:
        return None
    return (stage, area) if stage is not None and len(area) > 2 else None


def neighbors(vectors: Vectors, kind: str, ids: Sequence[str], k: int = TOP) -> dict[str, list[tuple[str, float]]]:
    """(document id, cosine) of the k documents nearest to each text, nearest first; a document is not its own.

    Texts without a vector are left out.
    """
    import numpy as np

    def norms(array: Any) -> Any:
        return np.maximum(np.linalg.norm(array, axis=-1), 1e-12)

    documents = vectors.document_ids, vectors.documents
    known, array = (vectors.query_ids, vectors.queries) if kind == "query" else documents
    wanted = set(ids)
    lengths = norms(vectors.documents)
    found: dict[str, list[tuple[str, float]]] = {}
    for row in (row for row, key in enumerate(known) if key in wanted):
        cosines = vectors.documents @ array[row] / (lengths * norms(array[row]))  # (documents,)
        if kind == "document":
            cosines[row] = -np.inf
        near = np.argpartition(-cosines, min(k, len(cosines) - 1))[: k + 1].tolist()
        best = sorted(near, key=lambda place: (-cosines[place], place))[:k]
        found[known[row]] = [
            (vectors.document_ids[place], float(cosines[place])) for place in best if np.isfinite(cosines[place])
        ]
    return found
