"""The queries of a run in a notebook: a table to search, and both rankings of the one that is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.errors import RunError
from workbench.evaluation.examples import has_examples, unit
from workbench.notebook.html import STYLE, Still, rows, text
from workbench.views.figures import metric_name
from workbench.views.queries import (
    compared_evaluations,
    filter_queries,
    filters,
    open_queries,
    query_metrics,
    query_table,
)
from workbench.views.theme import shorten
from workbench.views.words import shared_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from workbench.run import Run
    from workbench.views.records import Hit

HIT = 280  # characters of a document in a ranking


def explore(run: Run, evaluation: str | None = None) -> Queries:
    """Every query of a run with its rank before and after, the one that lost most first; choosing one shows both
    rankings. Of scored pairs: the pairs, with what the two models say of them.

    Raises RunError where the run has not been measured before and after training.
    """
    return Queries(run, evaluation)


class Queries:
    """What `explore` shows."""

    def __init__(self, run: Run, evaluation: str | None = None) -> None:
        found = compared_evaluations(run)
        if not found or evaluation not in (None, *found):
            raise RunError(
                f"expected an evaluation before and after training in run {run.name!r}, found "
                f"{', '.join(found) or 'none'}; train it to its end first."
            )
        self.run = run
        self.found: pd.DataFrame | None = None
        self.shown: pd.DataFrame | None = None
        self._still = Still()
        self._make(evaluation or found[0], found)
        self._read()

    def _make(self, evaluation: str, names: tuple[str, ...]) -> None:
        import ipywidgets

        from workbench.notebook.table import Table

        narrow: Any = {
            "layout": {"width": "auto", "margin": "2px 14px 2px 2px"},
            "style": {"description_width": "initial"},
        }
        self.evaluation = ipywidgets.Dropdown(options=names, value=evaluation, description="Measured on", **narrow)
        self.metric = ipywidgets.Dropdown(description="Metric", **narrow)
        self.only = ipywidgets.Dropdown(description="Show", **narrow)
        self.words = ipywidgets.Text(placeholder="words in the text", description="Find", **narrow)
        self.count = ipywidgets.HTML()
        self.table = Table(label="Queries, the largest loss first")
        self.detail = ipywidgets.HTML()
        controls = ipywidgets.HBox([self.evaluation, self.metric, self.only, self.words])
        controls.layout.flex_flow = "row wrap"
        hiding = ipywidgets.HTML(self._still.hiding)
        self.box = ipywidgets.VBox([controls, self.count, self.table, self.detail, hiding])
        self.evaluation.observe(lambda _: self._read(), "value")
        self.metric.observe(lambda _: self._read_metric(), "value")
        self.only.observe(lambda _: self._fill(), "value")
        self.words.observe(lambda _: self._fill(), "value")
        self.table.observe(lambda _: self._open(), "chosen")

    def __repr__(self) -> str:
        return f"<Queries of {self.run!r}>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]
        self._show_still()

    def _read(self) -> None:
        """Another evaluation: its metrics and its queries."""
        names = query_metrics(self.run, self.evaluation.value)
        self.items = has_examples(self.run, self.evaluation.value)
        self.metric.options = [(metric_name(name), name) for name in names]
        self.metric.value = names[0]
        self._read_metric()

    def _read_metric(self) -> None:
        if self.metric.value is None:
            return
        self.found = query_table(self.run, self.evaluation.value, self.metric.value)
        self.only.options = filters(self.found)
        self.only.value = "all"
        self._fill()

    def _fill(self) -> None:
        """The rows that pass filter and search."""
        if self.found is None or self.only.value is None:
            return
        self.shown = filter_queries(self.found, self.only.value, self.words.value)
        if self.items:
            columns = [("gold", "number"), ("score before", "number"), ("score after", "number"),
                       ("nearer to gold by", "change")]  # fmt: skip
            names = ["query", "gold", "score_before", "score_after", "difference"]
        else:
            metric = metric_name(self.metric.value)
            columns = [("rank before", "rank"), ("rank after", "rank"), (f"{metric} before", "number"),
                       ("after", "number"), ("change", "change")]  # fmt: skip
            names = ["query", "rank_before", "rank_after", "before", "after", "difference"]
        self.table.columns = [("Pair" if self.items else "Question", "text"), *columns]
        self.table.put(plain_rows(self.shown, names))
        every = f"{len(self.shown):,} of {len(self.found):,} {text(unit(self.run, self.evaluation.value))}"
        hint = "a click, or the arrow keys, opens one; a dash is a rank beyond those kept"
        self.count.value = f'{STYLE}<div class="wb"><p class="muted">{every}; {hint}</p></div>'
        self.detail.value = ""

    def _open(self) -> None:
        """Both rankings of the chosen query."""
        place = self.table.chosen
        if self.shown is None or not 0 <= place < len(self.shown):
            self.detail.value = ""
            return
        row = self.shown.iloc[place]
        self.detail.value = f'{STYLE}<div class="wb">{self._opened(str(row["query_id"]), str(row["query"]))}</div>'

    def _opened(self, query_id: str, query: str) -> str:
        name = self.evaluation.value
        found = open_queries(self.run, name, [query_id])[query_id]
        answers = "".join(
            f'<p><span class="muted">{text(label) if self.items else "Answer"}</span> {text(value)}</p>'
            for label, value in found.texts
        )
        if self.items:
            return answers
        sides = "".join(
            f"<div><h4>{label}</h4>{_hits(hits, query)}</div>"
            for hits, label in ((found.before, "Before"), (found.after, "After training"))
        )
        return f'<p><b>{text(query)}</b></p>{answers}<div class="sides">{sides}</div>'

    def _show_still(self) -> None:
        if self.found is None:
            return
        columns = [name for name, _ in self.table.columns]
        picked = [*self.table.rows[:5], *self.table.rows[5:][-5:]]
        kinds = [kind for _, kind in self.table.columns[1:]]
        cells = [[shorten(row[0], 160), *map(_number, row[1:], kinds)] for row in picked]
        what = text(unit(self.run, self.evaluation.value))
        head = f"<p>{len(self.found):,} {what}: those that lost most and those that won most.</p>"
        self._still.show(head + rows(columns, cells, columns[1:]), repr(self))


def plain_rows(table: pd.DataFrame, names: list[str]) -> list[list[Any]]:
    """Rows of the named columns as values that JSON has."""
    found = table[names].astype(object)
    return [[None if value is None or value != value else value for value in row] for row in _without_na(found)]


def _without_na(table: pd.DataFrame) -> list[list[Any]]:
    return table.where(table.notna(), None).to_numpy().tolist()


def _hits(hits: Sequence[Hit], query: str) -> str:
    """A ranking; documents that answer the query stand out, words that it shares with the query too."""
    if not hits:
        return '<p class="muted">The run keeps no ranking here.</p>'
    lines = []
    for row in hits:
        words = "".join(
            f"<mark>{text(part)}</mark>" if shared else text(part)
            for part, shared in shared_words(query, shorten(row.document, HIT))
        )
        kind, said = ("answer", '<span class="muted">answer · </span>') if row.relevant else ("", "")
        lines.append(
            f'<li class="{kind}"><span class="place">{row.position}</span><span>{said}{words}</span>'
            f'<span class="score">{row.score:.3f}</span></li>'
        )
    return f'<ol class="hits">{"".join(lines)}</ol>'


def _number(value: object, kind: str) -> str:
    """As table.js writes it.

    >>> _number(0.25, "change"), _number(-0.25, "change"), _number(0.25, "number"), _number(3, "rank")
    ('+0.250', '−0.250', '0.250', '3')
    """
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return (f"{value:+.3f}" if kind == "change" and value else f"{value:.3f}").replace("-", "−")
