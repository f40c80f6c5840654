"""Pieces of HTML that notebooks show: escaped text, one style, and what stays where a widget is gone.

Everything that comes from a card or from data goes through `text`.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterable, Sequence

from workbench.views.theme import remove_controls, widget_style

STYLE = f"<style>{widget_style()}</style>"


def text(value: object) -> str:
    """`value` as text inside HTML.

    >>> text("<b>5 & 6</b>\\u202e")
    '&lt;b&gt;5 &amp; 6&lt;/b&gt;'
    """
    return html.escape(remove_controls(str(value)))


def code(value: object) -> str:
    """`value` as text inside HTML; what stands between backticks is a command.

    >>> code("`a < b` is so")
    '<code>a &lt; b</code> is so'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def word(value: str) -> str:
    """A severity or a status: its word in its colour."""
    return f'<span class="word {text(value)}">{text(value)}</span>'


class Page:
    """HTML that a notebook shows as it is and keeps as it is; elsewhere its plain text."""

    def __init__(self, inner: str, plain: str) -> None:
        self.inner, self.plain = inner, plain

    def __repr__(self) -> str:
        return self.plain

    def _repr_html_(self) -> str:
        return f'{STYLE}<div class="wb">{self.inner}</div>'


class Still:
    """What a saved notebook, GitHub or an export shows in place of a widget; hidden where the widget itself is.

    The widget holds `hiding`, a style that hides the copy; without the widget there is no such style.
    """

    def __init__(self) -> None:
        self.name = f"wb-still-{secrets.token_hex(6)}"
        self.hiding = f"<style>.{self.name} {{ display: none; }}</style>"
        self._shown = False

    def show(self, inner: str, plain: str) -> None:
        """Put the copy under the widget, or in place of the copy that is there."""
        from IPython.display import publish_display_data

        bundle = {"text/html": f'{STYLE}<div class="wb {self.name}">{inner}</div>', "text/plain": plain}
        publish_display_data(bundle, transient={"display_id": self.name}, update=self._shown)  # type: ignore[no-untyped-call]
        self._shown = True


def rows(columns: Sequence[str], values: Iterable[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """A table; columns named in `numbers` stand to the right."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(
            f'<{tag} class="number">{text(value)}</{tag}>' if name in numbers else f"<{tag}>{text(value)}</{tag}>"
            for name, value in zip(columns, row, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in values)
    return f'<table class="rows"><thead><tr>{cells("th", columns)}</tr></thead><tbody>{body}</tbody></table>'
