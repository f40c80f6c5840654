"""The base of the widgets that draw themselves with JavaScript."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


def script(name: str) -> str:
    """The module of a widget: what both share, and its own file."""
    return "".join(Path(__file__).with_name(each).read_text(encoding="utf-8") for each in ("view.js", name))


class View(anywidget.AnyWidget):
    fallback = traitlets.Unicode("").tag(sync=True)  # class of the element that it hides once it is drawn, if any
