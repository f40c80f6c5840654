"""A table in a notebook with one selected row, by click or arrow keys. Cells are inserted as text, never as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from workbench.notebook.view import View, script
from workbench.views.theme import css_variables, remove_controls

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 500


class Table(View):
    """`columns`: (heading, kind) with a kind of "text", "rank", "number", or "change"; None in a cell is shown as –."""

    _esm = script("table.js")
    _css = css_variables(".wb-table") + Path(__file__).with_name("table.css").read_text(encoding="utf-8")

    label = traitlets.Unicode("").tag(sync=True)  # for screen readers
    columns: Any = traitlets.List().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)  # row, -1 for none

    def put(self, rows: list[list[Any]]) -> None:
        """Replace the rows by the first `MOST_ROWS` of these, none of them selected."""
        with self.hold_sync():
            self.chosen = -1
            self.rows = [
                [remove_controls(value) if isinstance(value, str) else value for value in row]
                for row in rows[:MOST_ROWS]
            ]


def plain_rows(table: pd.DataFrame, names: list[str]) -> list[list[Any]]:
    """Rows of the named columns as JSON values: None for NaN and NA."""
    found = table[names].astype(object)
    values: list[list[Any]] = found.where(found.notna(), None).to_numpy().tolist()
    return values
