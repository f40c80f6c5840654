"""Pieces of HTML for notebooks: escaped text, one style, and what a saved notebook keeps of a widget.

Everything from a card or from data goes through `text`.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterable, Sequence

from IPython.display import publish_display_data

from workbench.views.theme import css_variables, remove_controls, widget_style

STYLE = f"<style>{css_variables('.wb')}{widget_style()}</style>"


def text(value: object) -> str:
    """`value` as text inside HTML.

    >>> text("<b>5 & 6</b>\\u202e")
    '&lt;b&gt;5 &amp; 6&lt;/b&gt;'
    """
    return html.escape(remove_controls(str(value)))


def code(value: object) -> str:
    """`value` as text inside HTML, with commands between backticks.

    >>> code("`a < b` runs")
    '<code>a &lt; b</code> runs'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def word(value: str) -> str:
    """A severity or a status in its color."""
    return f'<span class="word {text(value)}">{text(value)}</span>'


def muted_text(inner: str) -> str:
    return f'<p class="muted">{inner}</p>'


def block(inner: str, name: str = "") -> str:
    """HTML with the style that it needs; `name` is one more class."""
    return f'{STYLE}<div class="wb {name}">{inner}</div>'


def rows(columns: Sequence[str], values: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """A table; columns named in `numbers` are aligned right."""

    def cells(tag: str, row: Sequence[object]) -> str:
        classes = (' class="number"' if name in numbers else "" for name in columns)
        return "".join(f"<{tag}{kind}>{text(value)}</{tag}>" for kind, value in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in values)
    return f'<table class="rows"><thead><tr>{cells("th", columns)}</tr></thead><tbody>{body}</tbody></table>'


class Page:
    """HTML that a notebook shows and saves as it is; elsewhere its plain text."""

    def __init__(self, inner: str, plain: str) -> None:
        self.inner, self.plain = inner, plain

    def __repr__(self) -> str:
        return self.plain

    def _repr_html_(self) -> str:
        return block(self.inner)


class Fallback:
    """What a saved notebook, GitHub, or an export shows in place of a widget.

    The widget hides it once it is drawn (see `view.js`). It hides JupyterLab's note that the widget's kernel is gone.
    """

    def __init__(self) -> None:
        self.name = f"wb-fallback-{secrets.token_hex(6)}"
        note, output = ".jp-OutputArea-output.jupyter-widgets", ".jp-OutputArea-child"
        self._missing = f"<style>{output}:has(> {note}):has(+ {output} .{self.name}) {{ display: none; }}</style>"
        self._shown = False

    def show(self, inner: str, plain: str) -> None:
        """Show it below the widget, or in place of what it showed before."""
        bundle = {"text/html": block(inner, self.name) + self._missing, "text/plain": plain}
        publish_display_data(bundle, transient={"display_id": self.name}, update=self._shown)  # type: ignore[no-untyped-call]
        self._shown = True
