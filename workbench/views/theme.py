"""How everything looks: colors, fonts, heights, and how foreign text is escaped on a label.

One palette (Okabe-Ito, in a light and a dark variant), and never color alone:

    the card     ink, dashed              better      bluish green
    before       gray, open mark          worse       vermilion
    after        blue, filled mark        query       diamond
    corrected    green, dash and dot      document    dot, relevant with a ring

Every text from a card or from data goes through `plain` or `plain_lines` before it is on a figure: Plotly reads some
HTML tags, entities, and `$...$` in labels, and a card must not be able to use them.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Role = Literal["card", "before", "after", "corrected", "other"]

FONT_FAMILY = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, '
    '"Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic", '
    '"Noto Sans Sinhala", "Iskoola Pota", "Nirmala UI", sans-serif'
)
FONT_SIZE = 14  # px, labels and legends
TICK_SIZE = 13  # px

HEIGHT = 400  # px, a figure over steps, queries, or ranks
DIFFERENCE_HEIGHT = 220  # px, the differences below the loss curves
ROW_HEIGHT = 30  # px, one row of a dot plot
SQUARE_HEIGHT = 460  # px, a figure that compares two values of each query
MAP_HEIGHT = 520  # px
HALF_MAP_HEIGHT = 440  # px, two maps side by side
LIVE_HEIGHT = 320  # px, the loss of a training that is followed

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "typesetMath": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}
"""Plotly's settings for every figure. By default plotly.js 4 has a button that uploads the figure and its data to a
server of Plotly; here it is off."""


@dataclass(frozen=True)
class Palette:
    """The colors of one variant, as #rrggbb; `series` is for runs without a role of their own."""

    ink: str  # text, and the card's own numbers
    muted: str  # axis labels
    grid: str  # hairlines
    surface: str  # background of hover labels
    before: str
    after: str
    corrected: str
    better: str
    worse: str
    series: tuple[str, ...]

    def role(self, role: Role, index: int = 0) -> str:
        """The color of a role; `index` picks one of `series` for the role `other`."""
        if role == "other":
            return self.series[index % len(self.series)]
        return {"card": self.ink, "before": self.before, "after": self.after, "corrected": self.corrected}[role]


LIGHT = Palette(
    ink="#1c2024",
    muted="#5b636b",
    grid="#e3e6e9",
    surface="#ffffff",
    before="#7d848b",
    after="#0072b2",
    corrected="#009e73",
    better="#009e73",
    worse="#d55e00",
    series=("#e69f00", "#cc79a7", "#56b4e9", "#a08a00", "#8c510a"),
)
DARK = Palette(
    ink="#e9ecef",
    muted="#a4acb4",
    grid="#30363c",
    surface="#1b1f23",
    before="#9ba3ab",
    after="#5ab8ec",
    corrected="#2fbf94",
    better="#2fbf94",
    worse="#f28444",
    series=("#f0b030", "#dd96bb", "#8fd0f5", "#f0e442", "#d9a066"),
)


def palette(*, dark: bool = False) -> Palette:
    """The palette of the light or the dark variant."""
    return DARK if dark else LIGHT


def to_dark() -> dict[str, str]:
    """Light color -> dark color, for a page that follows the reader's color scheme."""
    pairs: dict[str, str] = {}
    for name in Palette.__dataclass_fields__:
        light, dark = getattr(LIGHT, name), getattr(DARK, name)
        pairs.update(zip(light, dark, strict=True) if name == "series" else [(light, dark)])
    return pairs


def css_variables(selector: str, palette: Palette = LIGHT) -> str:
    """The font and a palette as CSS custom properties of `selector`: `--ink`, `--after`, ... , `--series0`, ..."""
    colors = {name: value for name, value in vars(palette).items() if name != "series"}
    colors |= {f"series{place}": color for place, color in enumerate(palette.series)}
    return f"{selector}{{--font:{FONT_FAMILY};{''.join(f'--{name}:{color};' for name, color in colors.items())}}}\n"


def widget_style() -> str:
    """The style sheet of widgets; a notebook needs `css_variables` before it, an exported page has them."""
    return Path(__file__).with_name("widgets.css").read_text(encoding="utf-8")


_UNSAFE = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"})
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F]
_REMOVED = dict.fromkeys(_CONTROLS) | str.maketrans(dict.fromkeys("\r\x0b\x0c\x85\u2028\u2029", "\n"))
del _REMOVED[ord("\n")], _REMOVED[ord("\t")]


def remove_controls(text: str) -> str:
    """`text` without control and text-direction characters; line breaks and tabs stay.

    >>> remove_controls("a\\u202eb\\x00\\tc")
    'ab\\tc'
    """
    return text.translate(_REMOVED)


def shorten(text: object, limit: int = 300) -> str:
    """`text` on one line, without control and text-direction characters, at most `limit` characters long.

    Joiners (U+200C, U+200D) stay: Sinhala needs them.

    >>> shorten("one\\ntwo  three", limit=10)
    'one two t…'
    """
    line = " ".join(remove_controls(str(text)[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&#]|:(?=//)|^[-+](?=\s)|(?<=^\d)[.)](?=\s))")
_REFERENCE = re.compile(r"(?<!\w)([@#])(?=\w)")  # GitHub and the Hub read these in finished text, escaped or not


def escape(text: object, limit: int = 600) -> str:
    """`text` for one line of Markdown, where no tag, link, mention, formula, table cell, or code in it takes effect.

    >>> print(escape("a <b>user</b> | [x](http://y)"))
    a \\<b\\>user\\</b\\> \\| \\[x\\](http\\://y)
    """
    line = _REFERENCE.sub("\\1\u200b", shorten(text, limit))
    return re.sub(r"(?i)\b(www)\.", "\\1\u200b.", _SPECIAL.sub(r"\\\1", line))


def plain(text: object, limit: int = 300) -> str:
    """`text` for a Plotly label, where no tag, entity, formula, `%{...}`, or text direction in it takes effect.

    >>> plain("<b>5 & 6</b> $x$")
    '&lt;b&gt;5 &amp; 6&lt;/b&gt; &#36;x&#36;'
    """
    return shorten(text, limit).translate(_UNSAFE)


def plain_lines(text: object, width: int = 56, limit: int = 300) -> str:
    """Like `plain`, broken into lines of about `width` characters for a hover label."""
    return "<br>".join(line.translate(_UNSAFE) for line in textwrap.wrap(shorten(text, limit), width) or [""])
