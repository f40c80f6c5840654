"""A table in a notebook of which one row can be chosen, by a click or the arrow keys.

Cells are put into the page as text, never as HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from workbench.views.theme import css_variables, remove_controls

MOST_ROWS = 500


class Table(anywidget.AnyWidget):
    """`columns`: (heading, kind) with a kind of "text", "rank", "number" or "change"; None in a cell is shown as –."""

    _esm = Path(__file__).with_name("table.js")
    _css = css_variables(".wb-table") + Path(__file__).with_name("table.css").read_text(encoding="utf-8")

    label = traitlets.Unicode("").tag(sync=True)  # what the table shows, for those who do not see it
    columns: Any = traitlets.List().tag(sync=True)
    rows: Any = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)  # row, -1 for none

    def put(self, rows: list[list[Any]]) -> None:
        """Other rows, of which none is chosen; the first `MOST_ROWS` of them."""
        with self.hold_sync():
            self.chosen = -1
            self.rows = [
                [remove_controls(value) if isinstance(value, str) else value for value in row]
                for row in rows[:MOST_ROWS]
            ]
