"""A Plotly figure in a notebook.

In place of Plotly's FigureWidget, which sends Plotly's five megabytes with every figure and whose state is not what it
shows: a page that missed a message stays wrong.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any, ClassVar

import ipywidgets
import traitlets
from plotly import graph_objects as go

from workbench.notebook.view import View, script
from workbench.views.figures import library
from workbench.views.theme import CONFIG


class Figure(View):
    """`area`: the corners (x, y) of the lasso or box that was drawn last; empty for none."""

    _esm = script("figure.js")
    _library: ClassVar[ipywidgets.Widget | None] = None

    figure = traitlets.Unicode("{}").tag(sync=True)  # JSON
    config: Any = traitlets.Dict(CONFIG).tag(sync=True)
    library = traitlets.Unicode().tag(sync=True)  # the model that holds Plotly's code, packed, one a kernel
    area: Any = traitlets.List().tag(sync=True)

    @traitlets.default("library")
    def _default_library(self) -> str:
        if Figure._library is None or Figure._library.comm is None:
            Figure._library = ipywidgets.Label(base64.b64encode(gzip.compress(library().encode())).decode())
        return str(Figure._library.model_id)

    def put(self, figure: go.Figure) -> None:
        """Show this figure."""
        self.figure = str(figure.to_json())
