"""Figures of a notebook as wide as their cell; shows nothing itself."""

from __future__ import annotations

from pathlib import Path

import anywidget


class Fit(anywidget.AnyWidget):
    """Stands in a box with figures, and has them drawn anew when the box has another width."""

    _esm = Path(__file__).with_name("fit.js")
