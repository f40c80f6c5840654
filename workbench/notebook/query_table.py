"""The queries of a run in a notebook: a table to search, and both rankings of the selected one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets
from IPython.display import display

from workbench.cards.metric_names import metric_name
from workbench.errors import RunError
from workbench.evaluation.examples import has_examples, unit
from workbench.notebook.html import Fallback, block, muted_text, rows, text
from workbench.notebook.table import Table, plain_rows
from workbench.views.queries import (
    compared_evaluations,
    filter_queries,
    filters,
    open_queries,
    query_metrics,
    query_table,
)
from workbench.views.records import number, signed
from workbench.views.theme import shorten
from workbench.views.words import shared_words

if TYPE_CHECKING:
    import pandas as pd

    from workbench.run import Run
    from workbench.views.records import Hit

HIT = 280  # characters of a document in a ranking
HINT = "click one, or use the arrow keys, to open it; a dash is a rank below the depth that is kept"


def explore(run: Run, evaluation: str | None = None) -> Queries:
    """Every query of a run with its rank before and after, the largest loss first; selecting one shows both rankings.

    Of scored pairs: the pairs, with the scores of both models.

    Raises RunError if the run has no evaluation from before and after training.
    """
    return Queries(run, evaluation)


class Queries:
    """The view of `explore`."""

    def __init__(self, run: Run, evaluation: str | None = None) -> None:
        names = compared_evaluations(run)
        if not names or evaluation not in (None, *names):
            raise RunError(
                f"expected an evaluation before and after training in run {run.name!r}, found "
                f"{', '.join(names) or 'none'}; train it to its end first."
            )
        self.run = run
        self.found: pd.DataFrame | None = None
        self.shown: pd.DataFrame | None = None
        self._fallback = Fallback()
        narrow: Any = {
            "layout": {"width": "auto", "margin": "2px 14px 2px 2px"},
            "style": {"description_width": "initial"},
        }
        first = evaluation or names[0]
        self.evaluation = ipywidgets.Dropdown(options=names, value=first, description="Measured on", **narrow)
        self.metric = ipywidgets.Dropdown(description="Metric", **narrow)
        self.only = ipywidgets.Dropdown(description="Show", **narrow)
        self.words = ipywidgets.Text(placeholder="words in the text", description="Find", **narrow)
        self.count, self.detail = ipywidgets.HTML(), ipywidgets.HTML()
        self.table = Table(label="Queries, the largest loss first", fallback=self._fallback.name)
        controls = ipywidgets.HBox([self.evaluation, self.metric, self.only, self.words])
        controls.layout.flex_flow = "row wrap"
        self.box = ipywidgets.VBox([controls, self.count, self.table, self.detail])
        self.evaluation.observe(lambda _: self._read(), "value")
        self.metric.observe(lambda _: self._read_metric(), "value")
        self.only.observe(lambda _: self._fill(), "value")
        self.words.observe(lambda _: self._fill(), "value")
        self.table.observe(lambda _: self._open(), "chosen")
        self._read()

    def __repr__(self) -> str:
        return f"<Queries of {self.run!r}>"

    def _ipython_display_(self) -> None:
        display(self.box)  # type: ignore[no-untyped-call]
        self._show_fallback()

    def _read(self) -> None:
        """Another evaluation: its metrics and its queries."""
        names = query_metrics(self.run, self.evaluation.value)
        self.examples = has_examples(self.run, self.evaluation.value)
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
        if self.examples:
            names = ["query", "gold", "score_before", "score_after", "difference"]
            heads = ["Pair", "gold", "score before", "score after", "agreement change"]
            kinds = ["text", "number", "number", "number", "change"]
        else:
            names = ["query", "rank_before", "rank_after", "before", "after", "difference"]
            metric = metric_name(self.metric.value)
            heads = ["Query", "rank before", "rank after", f"{metric} before", "after", "change"]
            kinds = ["text", "rank", "rank", "number", "number", "change"]
        self.table.columns = list(zip(heads, kinds, strict=True))
        self.table.put(plain_rows(self.shown, names))
        what = text(unit(self.run, self.evaluation.value))
        self.count.value = block(muted_text(f"{len(self.shown):,} of {len(self.found):,} {what}; {HINT}"))
        self.detail.value = ""

    def _open(self) -> None:
        """Both rankings of the selected query."""
        place = self.table.chosen
        if self.shown is None or not 0 <= place < len(self.shown):
            self.detail.value = ""
            return
        key, query = (str(self.shown.iloc[place][name]) for name in ("query_id", "query"))
        opened = open_queries(self.run, self.evaluation.value, [key])[key]
        inner = "".join(
            f'<p><span class="muted">{text(label) if self.examples else "Relevant"}</span> {text(value)}</p>'
            for label, value in opened.texts
        )
        if not self.examples:
            sides = "".join(
                f"<div><h4>{label}</h4>{_hits(hits, query)}</div>"
                for hits, label in ((opened.before, "Before"), (opened.after, "After training"))
            )
            inner = f'<p><b>{text(query)}</b></p>{inner}<div class="sides">{sides}</div>'
        self.detail.value = block(inner)

    def _show_fallback(self) -> None:
        columns = [name for name, _ in self.table.columns]
        kinds = [kind for _, kind in self.table.columns[1:]]
        picked = [*self.table.rows[:5], *self.table.rows[5:][-5:]]
        cells = [[shorten(row[0], 160), *map(_format, row[1:], kinds)] for row in picked]
        what = text(unit(self.run, self.evaluation.value))
        head = f"<p>The largest losses and gains of {0 if self.found is None else len(self.found):,} {what}:</p>"
        self._fallback.show(head + rows(columns, cells, columns[1:]), repr(self))


def _hits(hits: Sequence[Hit], query: str) -> str:
    """A ranking; relevant documents and the words of the query are highlighted."""
    if not hits:
        return muted_text("The run keeps no ranking here.")
    lines = []
    for hit in hits:
        words = "".join(
            f"<mark>{text(part)}</mark>" if shared else text(part)
            for part, shared in shared_words(query, shorten(hit.document, HIT))
        )
        kind, tag = ("relevant", '<span class="muted">relevant · </span>') if hit.relevant else ("", "")
        lines.append(
            f'<li class="{kind}"><span class="place">{hit.position}</span><span>{tag}{words}</span>'
            f'<span class="score">{hit.score:.3f}</span></li>'
        )
    return f'<ol class="hits">{"".join(lines)}</ol>'


def _format(value: Any, kind: str) -> str:
    """A cell as table.js writes it.

    >>> _format(0.25, "change"), _format(-0.25, "change"), _format(0.25, "number"), _format(3, "rank")
    ('+0.250', '−0.250', '0.250', '3')
    """
    if value is None or kind == "rank":
        return "–" if value is None else f"{value}"
    return signed(value, 3) if kind == "change" and value else number(value, 3)
