"""Pieces of HTML that notebooks show: escaped text, one style, and what stays where a widget is gone.

Everything that comes from a card or from data goes through `text`. Colours that belong to the page are Jupyter's own
variables, so that a dark theme is dark; colours that mean something are those of `look`. Figures are drawn for a light
ground; under a dark theme of JupyterLab they are inverted as a whole, and their hues turned back.
"""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterable, Sequence

from workbench.views.theme import FONT_FAMILY, LIGHT, harmless

INK, MUTED = "var(--jp-content-font-color1, #1c2024)", "var(--jp-content-font-color2, #5b636b)"
LINE, GROUND = "var(--jp-border-color2, #e3e6e9)", "var(--jp-layout-color2, #f3f5f7)"

STYLE = f"""<style>
.wb {{ color: {INK}; font-family: {FONT_FAMILY}; font-size: 14px; line-height: 1.45; max-width: 1100px; }}
.wb p {{ margin: 0 0 6px; }}
.wb .muted {{ color: {MUTED}; }}
.wb .word {{ border: 1px solid currentColor; border-radius: 9px; font-size: 12px; font-weight: 600;
  padding: 0 8px; white-space: nowrap; }}
.wb .error, .wb .failed, .wb .interrupted {{ color: color-mix(in srgb, {LIGHT.worse} 80%, {INK}); }}
.wb .warning, .wb .stopped {{ color: color-mix(in srgb, #b27a00 75%, {INK}); }}
.wb .note, .wb .running {{ color: color-mix(in srgb, {LIGHT.after} 75%, {INK}); }}
.wb .finished {{ color: color-mix(in srgb, #009068 70%, {INK}); }}
.wb details {{ border-top: 1px solid {LINE}; padding: 7px 0; }}
.wb details:last-of-type {{ border-bottom: 1px solid {LINE}; }}
.wb summary {{ cursor: pointer; display: flex; gap: 10px; align-items: baseline; }}
.wb summary .word {{ flex: 0 0 66px; text-align: center; }}
.wb details > div {{ margin: 6px 0 4px 88px; }}
.wb code {{ background: {GROUND}; border-radius: 3px; font-size: 12.5px; padding: 1px 4px; }}
.wb pre {{ background: {GROUND}; border-radius: 4px; font-size: 12.5px; margin: 4px 0; overflow-x: auto;
  padding: 6px 10px; white-space: pre-wrap; }}
.wb .bar {{ background: {GROUND}; border-radius: 4px; height: 8px; margin: 8px 0 6px; overflow: hidden; }}
.wb .bar i {{ background: {LIGHT.after}; display: block; height: 100%; }}
.wb .facts {{ display: flex; flex-wrap: wrap; gap: 2px 22px; font-variant-numeric: tabular-nums; }}
.wb .facts b {{ font-weight: 600; }}
.wb .sides {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0 24px; }}
.wb .sides h4 {{ font-size: 14px; font-weight: 600; margin: 10px 0 4px; }}
.wb ol.hits {{ list-style: none; margin: 0; padding: 0; }}
.wb ol.hits li {{ border-top: 1px solid {LINE}; display: grid; gap: 8px; grid-template-columns: 22px 1fr 48px;
  padding: 5px 6px 5px 4px; }}
.wb ol.hits li.answer {{ border-left: 3px solid #009e73; background: {GROUND}; }}
.wb ol.hits .place, .wb ol.hits .score {{ color: {MUTED}; font-size: 12.5px; font-variant-numeric: tabular-nums;
  text-align: right; }}
.wb mark {{ background: none; color: inherit; font-weight: 600; }}
.wb table.rows {{ border-collapse: collapse; font-size: 13px; width: 100%; }}
.wb table.rows th, .wb table.rows td {{ border-top: 1px solid {LINE}; padding: 4px 8px; text-align: left;
  vertical-align: top; }}
.wb table.rows th {{ border-top: 0; color: {MUTED}; font-weight: 600; }}
.wb table.rows .number {{ font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }}
.wb-side > * {{ flex: 1 1 0; min-width: 0; overflow: hidden; }}
.wb-buttons button {{ border-radius: 4px; }}
body[data-jp-theme-light="false"] .wb-figures .js-plotly-plot {{ filter: invert(0.9) hue-rotate(180deg); }}
</style>"""


def text(value: object) -> str:
    """`value` as text inside HTML.

    >>> text("<b>5 & 6</b>\\u202e")
    '&lt;b&gt;5 &amp; 6&lt;/b&gt;'
    """
    return html.escape(harmless(str(value)))


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
