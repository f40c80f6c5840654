"""Redraws the figures of a notebook when their cell changes width; shows nothing itself."""

from __future__ import annotations

from pathlib import Path

import anywidget


class Fit(anywidget.AnyWidget):
    _esm = Path(__file__).with_name("fit.js")
