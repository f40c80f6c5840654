"""What a notebook shows: findings, a training as it goes on, the queries, the map; made of ipywidgets.

Only this package knows of Jupyter. A plain script gets the same numbers through `on_progress` and the run folder.
What is shown by a widget has a still copy below it, which a saved notebook, an export or GitHub shows in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workbench.notebook.findings import findings
from workbench.notebook.live_training import live
from workbench.notebook.map import map
from workbench.notebook.query_table import explore
from workbench.notebook.waiting import finished

__all__ = ["explore", "findings", "finished", "live", "map", "progress"]

LEAST = 0.2  # seconds between two updates of one bar; a browser needs no more


def progress() -> Callable[[str, int, int], None]:
    """An `on_progress` that draws one bar for each stage under the cell.

    A phase named "what: part" shares the bar of `what` with its other parts.
    """
    import ipywidgets
    from IPython.display import display

    bars: dict[str, tuple[Any, Any]] = {}
    drawn: dict[str, float] = {}

    def draw(phase: str, done: int, total: int) -> None:
        what, _, part = phase.partition(": ")
        now = time.monotonic()
        if what not in bars:
            style = {"description_width": "11em"}
            bars[what] = (ipywidgets.IntProgress(description=what, style=style), ipywidgets.Label())
            display(ipywidgets.HBox(bars[what]))  # type: ignore[no-untyped-call]
        elif now - drawn[what] < LEAST and done < total:
            return
        drawn[what] = now
        bar, label = bars[what]
        bar.max, bar.value = max(total, 1), done
        label.value = f"{done:,} of {total:,} {part}".rstrip()

    return draw
