"""The map of a run's queries and documents in a notebook, before and after training; what is selected is listed.

Neighbours on a map may deceive (see `projection`); the share of true neighbours that it keeps stands above it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.evaluation.projection import Method, preservation_text, project
from workbench.notebook.html import STYLE, Still, rows, text
from workbench.notebook.query_table import plain_rows
from workbench.views.figures_map import embedding_map
from workbench.views.map_view import MapView, Polygon, has_vectors, map_view
from workbench.views.queries import compared_evaluations
from workbench.views.theme import CONFIG

if TYPE_CHECKING:
    from workbench.run import Run

HEIGHT = 430  # px
MOST_SVG = 4000  # points that are drawn as SVG, which every browser can; above, by WebGL
TITLES = {"before": "Before", "after": "After training"}


def map(run: Run, evaluation: str | None = None, method: Method = "umap") -> Places:
    """The map of an evaluation before and after training, side by side; made at the first call, which takes a while.

    Points drawn around with the lasso or the box are listed with their texts, and stand out on the other map too.
    `method`: "umap", or "pca", which is there at once.

    Raises RunError where the run keeps no vectors, as after an evaluation of scored pairs.
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
        raise RunError(f"expected the map of {name!r} in run {run.name!r}, found none; the run was written meanwhile.")
    return Places(run, name, method, made)


class Places:
    """What `map` shows."""

    def __init__(self, run: Run, evaluation: str, method: Method, made: MapView) -> None:
        self.run, self.evaluation, self.method, self.map = run, evaluation, method, made
        self.names = made.labels()
        self.picked: list[int] = []
        self._still = Still()
        self._make()

    def _make(self) -> None:
        import ipywidgets

        from workbench.notebook.fit import Fit
        from workbench.notebook.table import Table

        options = self.map.colorings
        first = "outcome" if "outcome" in options else options[0]
        style = {"description_width": "initial"}
        self.by = ipywidgets.Dropdown(
            options=options, value=first, description="Color by", layout={"width": "auto"}, style=style
        )
        self.clear = ipywidgets.Button(description="Clear selection", icon="times", disabled=True)
        self.said = ipywidgets.HTML()
        self.figures = {moment: self._figure(moment) for moment in self.map.stages}
        self.table = Table(label="Selected queries and documents")
        self.table.columns = [
            ("Text", "text"), ("what", "text"), ("rank before", "rank"), ("rank after", "rank"),
        ]  # fmt: skip
        self.table.layout.display = "none"
        self.by.observe(lambda _: self._redraw(), "value")
        self.clear.on_click(lambda _: self.select([]))
        sides = [
            ipywidgets.VBox([ipywidgets.HTML(f'{STYLE}<div class="wb"><b>{TITLES[moment]}</b></div>'), figure])
            for moment, figure in self.figures.items()
        ]
        side = ipywidgets.HBox(sides)
        side.add_class("wb-side").add_class("wb-figures")
        head = ipywidgets.HBox([self.by, self.clear])
        self.box = ipywidgets.VBox([head, self.said, side, Fit(), self.table, ipywidgets.HTML(self._still.hiding)])
        self._say()

    def __repr__(self) -> str:
        kept = preservation_text(self.map.preservation)
        return f"<Map of {self.evaluation!r} of {self.run!r}, true neighbours kept: {kept}>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]
        points = self.map.points(self.map.stages[-1], self.by.value, self.names)
        counts = Counter(zip(points.queries, points.groups, strict=True)) if points.values is None else {}
        table = [
            ["query" if query else "document", group or "–", f"{count:,}"] for (query, group), count in counts.items()
        ]
        self._still.show(
            f'<p class="muted">{self._how()}</p>' + rows(["Kind", self.by.value, "Points"], table, ["Points"]),
            repr(self),
        )

    # --- drawing ---

    def _drawn(self, moment: Any) -> Any:
        """The figure of one moment, with what is selected."""
        from plotly import graph_objects as go

        points = self.map.points(moment, self.by.value, self.names)
        figure = embedding_map(
            points, name=self.method.upper(), ranges=self.map.ranges(), height=HEIGHT,
            picked=self.picked or None,
        )  # fmt: skip
        if len(self.map.table) <= MOST_SVG:
            plain = [{**trace.to_plotly_json(), "type": "scatter"} for trace in figure.data]
            figure = go.Figure(plain, figure.layout)
        figure.update_layout(selections=[])
        return figure

    def _figure(self, moment: Any) -> Any:
        from plotly import graph_objects as go

        widget = go.FigureWidget(self._drawn(moment))
        widget._config = {**widget._config, **CONFIG, "modeBarButtonsToRemove": ["autoScale2d"]}
        widget.layout.autosize = True
        self._listen(widget, moment)
        return widget

    def _listen(self, widget: Any, moment: Any) -> None:
        for trace in widget.data:
            trace.on_selection(lambda _trace, _points, selector: self._around(moment, selector))
            trace.on_deselect(lambda _trace, _points: self.select([]))

    def _redraw(self) -> None:
        """Other colours: the traces of the other grouping."""
        for moment, widget in self.figures.items():
            drawn = self._drawn(moment)
            with widget.batch_update():
                widget.data = ()
                widget.add_traces(list(drawn.data))
            self._listen(widget, moment)

    # --- selection ---

    def _around(self, moment: Any, selector: Any) -> None:
        area = _area(selector)
        if area:
            self.select(self.map.inside(moment, [area]))

    def select(self, picked: Sequence[int]) -> None:
        """List these rows of the scene's table, and let them stand out on both maps."""
        if list(picked) == self.picked:
            return
        self.picked = list(picked)
        for moment, widget in self.figures.items():
            with widget.batch_update():
                for trace, like in zip(widget.data, self._drawn(moment).data, strict=True):
                    trace.selectedpoints = like.selectedpoints
        table = self.map.table.iloc[self.picked].copy()
        table = table.sort_values("kind", ascending=False, kind="stable")  # queries first
        ranks = self._ranks()
        table["rank_before"] = [ranks.get((kind, key), (None, None))[0] for kind, key in _keys(table)]
        table["rank_after"] = [ranks.get((kind, key), (None, None))[1] for kind, key in _keys(table)]
        self.table.put(plain_rows(table, ["text", "kind", "rank_before", "rank_after"]))
        self.table.layout.display = "block" if self.picked else "none"
        self.clear.disabled = not self.picked
        self._say()

    def _ranks(self) -> dict[tuple[str, str], tuple[int | None, int | None]]:
        """Rank before and after of every query."""
        found: list[dict[str, int | None]] = []
        for moment in ("before", "after"):
            table = self.run.per_query(self.evaluation, moment)
            ranks = table["rank"].astype(float)  # NaN beyond the depth kept
            both = zip(table["query_id"].astype(str), ranks, strict=True)
            found.append({key: None if rank != rank else int(rank) for key, rank in both})
        return {("query", key): (found[0].get(key), rank) for key, rank in found[1].items()}

    # --- words ---

    def _say(self) -> None:
        chosen = "<p>Draw around points to list them.</p>"
        if self.picked:
            queries = int((self.map.table["kind"].iloc[self.picked] == "query").sum())
            chosen = f"<p>Selected: {queries:,} queries, {len(self.picked) - queries:,} documents.</p>"
        self.said.value = f'{STYLE}<div class="wb"><p class="muted">{self._how()}</p>{chosen}</div>'

    def _how(self) -> str:
        return (
            f"{self.method.upper()} of {text(self.evaluation)}: diamonds are queries, dots documents. Of each point's "
            f"nearest neighbours the map keeps {preservation_text(self.map.preservation)}."
        )


def _keys(table: Any) -> list[tuple[str, str]]:
    return list(zip(table["kind"], table["id"], strict=True))


def _area(selector: Any) -> Polygon:
    """The corners of a lasso or a box; nothing for what is neither."""
    if getattr(selector, "type", "") == "box":
        (left, right), (low, high) = selector.xrange, selector.yrange
        return ((left, low), (right, low), (right, high), (left, high))
    if getattr(selector, "type", "") == "lasso":
        return tuple(zip(_floats(selector.xs), _floats(selector.ys), strict=True))
    return ()


def _floats(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values]
