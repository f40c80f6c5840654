"""What a notebook shows while something runs, made of ipywidgets.

Only this module knows of Jupyter. A plain script gets the same numbers through `on_progress`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LEAST = 0.2  # seconds between two updates of one bar; a browser needs no more


def progress() -> Callable[[str, int, int], None]:
    """An `on_progress` that draws one bar for each phase under the cell."""
    import ipywidgets
    from IPython.display import display

    bars: dict[str, Any] = {}
    drawn: dict[str, float] = {}

    def draw(phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase not in bars:
            style = {"description_width": "12em"}
            bars[phase] = ipywidgets.IntProgress(min=0, max=max(total, 1), description=phase, style=style)
            text = ipywidgets.Label()
            display(ipywidgets.HBox([bars[phase], text]))  # type: ignore[no-untyped-call]
            bars[phase].text = text
        elif now - drawn[phase] < LEAST and done < total:
            return
        drawn[phase] = now
        bars[phase].max, bars[phase].value = max(total, 1), done
        bars[phase].text.value = f"{done:,} of {total:,}" if total else f"{done:,}"

    return draw
