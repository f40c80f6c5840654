"""The map of a run's queries and documents in a notebook, before and after training, with a list of what is selected.

Distances on a map can mislead (see `projection`); its neighborhood preservation is above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
from IPython.display import display
from plotly import graph_objects as go

from workbench.errors import RunError
from workbench.evaluation.projection import STAGES, Method, Stage, preservation_text, project
from workbench.notebook.figure import Figure
from workbench.notebook.html import Fallback, block, muted_text, rows, text
from workbench.notebook.table import Table, plain_rows
from workbench.views.figures_map import embedding_map
from workbench.views.map_view import MapView, has_vectors, map_view
from workbench.views.queries import compared_evaluations
from workbench.views.theme import CONFIG, HALF_MAP_HEIGHT

if TYPE_CHECKING:
    from workbench.run import Run

MOST_SVG = 4000  # points drawn as SVG, which every browser can; above, by WebGL
TITLES = {"before": "Before", "after": "After training"}
COLUMNS = [("Text", "text"), ("kind", "text"), ("rank before", "rank"), ("rank after", "rank")]


def map(run: Run, evaluation: str | None = None, method: Method = "umap") -> Map:
    """The map of an evaluation before and after training, side by side; the first call computes it, which takes time.

    Points inside a lasso or box are listed with their texts and highlighted on both maps. `method`: "umap", or "pca",
    which takes no time.

    Raises RunError if the run keeps no vectors, as after an evaluation of scored pairs.
    """
    found = [name for name in compared_evaluations(run) if has_vectors(run, name)]
    if not found or evaluation not in (None, *found):
        raise RunError(
            f"expected vectors of an evaluation in run {run.name!r}, found "
            f"{'those of ' + ', '.join(found) if found else 'none'}; only searches keep them, once training has ended."
        )
    name = evaluation or found[0]
    project(run, name, method)
    made = map_view(run, name, method)
    if made is None:
        raise RunError(f"expected the map of {name!r} in run {run.name!r}, found none; the run has changed meanwhile.")
    return Map(run, name, made)


class Map:
    """The view of `map`."""

    def __init__(self, run: Run, evaluation: str, made: MapView) -> None:
        self.run, self.evaluation, self.map = run, evaluation, made
        self.labels = made.labels()
        self.selected: list[int] = []
        self._fallback = Fallback()
        options = made.colorings
        first = "outcome" if "outcome" in options else options[0]
        wide: Any = {"layout": {"width": "auto"}, "style": {"description_width": "initial"}}
        self.by = ipywidgets.Dropdown(options=options, value=first, description="Color by", **wide)
        self.clear = ipywidgets.Button(description="Clear selection", icon="times", disabled=True)
        self.description = ipywidgets.HTML()
        self.figures: dict[Stage, go.Figure] = {}
        config = {**CONFIG, "modeBarButtonsToRemove": ["autoScale2d"]}
        self.plots = {stage: Figure(fallback=self._fallback.name, config=config) for stage in made.stages}
        for stage, plot in self.plots.items():
            plot.observe(lambda change, stage=stage: self._select_inside(stage, change["new"]), "area")
        self._draw()
        self.table = Table(label="Selected queries and documents")
        self.table.columns = COLUMNS
        self.table.layout.display = "none"
        self.by.observe(lambda _: self._draw(), "value")
        self.clear.on_click(lambda _: self.select([]))
        sides = [
            ipywidgets.VBox([ipywidgets.HTML(block(f"<b>{TITLES[stage]}</b>")), plot])
            for stage, plot in self.plots.items()
        ]
        side = ipywidgets.HBox(sides)
        side.add_class("wb-side").add_class("wb-figures")
        head = ipywidgets.HBox([self.by, self.clear])
        self.box = ipywidgets.VBox([head, self.description, side, self.table])
        self._describe()

    def __repr__(self) -> str:
        shares = preservation_text(self.map.preservation)
        return f"<Map of {self.evaluation!r} of {self.run!r}, neighborhood preservation: {shares}>"

    def _ipython_display_(self) -> None:
        display(self.box)  # type: ignore[no-untyped-call]
        points = self.map.points(self.map.stages[-1], self.by.value)
        counts = Counter(zip(points.queries, points.groups, strict=True))
        values = [["query" if query else "document", group or "–", f"{n:,}"] for (query, group), n in counts.items()]
        table = rows(["Kind", self.by.value, "Points"], values, ["Points"])
        self._fallback.show(muted_text(self._caption()) + table, repr(self))

    def _figure(self, stage: Stage) -> Any:
        """The figure of one stage, with the selection."""
        figure = embedding_map(
            self.map.points(stage, self.by.value, self.labels),
            name=self.map.method,
            ranges=self.map.ranges(),
            height=HALF_MAP_HEIGHT,
            picked=self.selected or None,
        )
        if len(self.map.table) <= MOST_SVG:
            figure = go.Figure([{**trace.to_plotly_json(), "type": "scatter"} for trace in figure.data], figure.layout)
        return figure.update_layout(selections=[])

    def _draw(self) -> None:
        for stage, plot in self.plots.items():
            self.figures[stage] = self._figure(stage)
            plot.put(self.figures[stage])

    def _select_inside(self, stage: Stage, area: Sequence[tuple[float, float]]) -> None:
        self.select(self.map.inside(stage, tuple(area)) if area else [])

    def select(self, selected: Sequence[int]) -> None:
        """List these rows of the map's table, and highlight them on both maps."""
        if list(selected) == self.selected:
            return
        self.selected = list(selected)
        self._draw()
        table = self.map.table.iloc[self.map.queries_first(self.selected)].merge(self._ranks(), how="left")
        self.table.put(plain_rows(table, ["text", "kind", "rank_before", "rank_after"]))
        self.table.layout.display = "block" if self.selected else "none"
        self.clear.disabled = not self.selected
        self._describe()

    def _ranks(self) -> Any:
        """kind, id, rank_before, and rank_after of every query."""
        before, after = (self.run.per_query(self.evaluation, stage)[["query_id", "rank"]] for stage in STAGES)
        both = before.merge(after, on="query_id", suffixes=("_before", "_after"))
        ranks = both.astype({"query_id": str, "rank_before": "Int64", "rank_after": "Int64"})
        return ranks.rename(columns={"query_id": "id"}).assign(kind="query")

    def _describe(self) -> None:
        hint = "<p>Draw around points to list them.</p>"
        if self.selected:
            queries = int((self.map.table["kind"].iloc[self.selected] == "query").sum())
            hint = f"<p>Selected: {queries:,} queries, {len(self.selected) - queries:,} documents.</p>"
        self.description.value = block(muted_text(self._caption()) + hint)

    def _caption(self) -> str:
        shares = preservation_text(self.map.preservation)
        return (
            f"{self.map.method} of {text(self.evaluation)}: queries are diamonds, documents dots. Neighborhood "
            f"preservation: {shares}."
        )
