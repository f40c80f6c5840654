"""A notebook -> one HTML file that shows it, figures included, without a kernel, a server or a network.

The notebook is executed from top to bottom in its own folder and stays as it is. Plotly figures are drawn by the one
plotly.js of the page, with static drawings for paper and readers without scripts. HTML that a cell printed is kept
without its scripts, and the page's policy lets none but its own run.
"""

from __future__ import annotations

import base64
import html
import os
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.report.drawings import Drawing, drawing
from workbench.report.page import page
from workbench.report.site import write
from workbench.views import theme

SECONDS = 3600  # one cell may take
PLOTLY = "application/vnd.plotly.v1+json"
IMAGES = ("image/png", "image/jpeg", "image/svg+xml", "image/webp", "image/gif")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HEIGHT = 450  # px, Plotly's own where a figure names none
REMOVED = frozenset(
    ("script", "iframe", "object", "embed", "link", "meta", "base", "form", "frame", "frameset", "noscript")
)
VOID = frozenset(
    (
        "br",
        "hr",
        "img",
        "input",
        "col",
        "area",
        "wbr",
        "source",
        "track",
        "param",
        "embed",
        "link",
        "meta",
        "base",
        "frame",
    )
)


@dataclass(frozen=True)
class Piece:
    """One part of the page: `kind` is prose, code, text, error, html, image or figure."""

    kind: str
    value: Any  # text, Markup, or the identity of a figure


def export_notebook(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    execute: bool = True,
    seconds: int = SECONDS,
    written: str | None = None,
) -> Path:
    """Execute a notebook and write it as HTML to `out`, or beside it with the ending .html; gives the file.

    `execute=False` writes the outputs that the file has. `seconds` is what one cell may take.

    Raises WorkbenchError where there is no such notebook, or where a cell fails.
    """
    source = Path(path)
    notebook = _read(source)
    if execute:
        _execute(notebook, source, seconds)
    target = source.with_suffix(".html") if out is None else Path(out)
    return write(target, render_notebook(notebook, source.stem, written=written))


def render_notebook(notebook: Mapping[str, Any], name: str, *, written: str | None = None) -> str:
    """A notebook with its outputs as one HTML document."""
    drawn: dict[str, Drawing] = {}
    pieces = [piece for cell in notebook["cells"] for piece in _pieces(cell, drawn)]
    return page("notebook.html.j2", drawn, written, inline_style=True, title=_title(notebook, name), pieces=pieces)


def _read(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(str(path), as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise WorkbenchError(f"expected a notebook at {str(path)!r}, found none that can be read: {reason}.") from error


def _execute(notebook: Any, path: Path, seconds: int) -> None:
    """Run every cell in the notebook's folder; figures come as plain values, not with a plotly.js each."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(path.resolve().parent)}})
    try:
        client.execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"})
    except CellExecutionError as error:
        raise WorkbenchError(f"a cell of {str(path)!r} failed: {error.ename}: {ANSI.sub('', error.evalue)}.") from error
    except CellTimeoutError as error:
        raise WorkbenchError(f"a cell of {str(path)!r} took more than {seconds:,} seconds.") from error
    except (DeadKernelError, NoSuchKernel, RuntimeError) as error:
        raise WorkbenchError(f"cannot execute {str(path)!r}: {error}.") from error


def _title(notebook: Mapping[str, Any], name: str) -> str:
    """The first heading of the notebook, or its file's name."""
    for cell in notebook["cells"]:
        found = (
            re.search(r"^#\s+(.+)$", _text(cell["source"]), re.MULTILINE) if cell["cell_type"] == "markdown" else None
        )
        if found:
            return theme.shorten(found[1].strip("# `*_"), 120)
    return name


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


# --- cells -----------------------------------------------------------------------------------------------------------


def _pieces(cell: Mapping[str, Any], drawn: dict[str, Drawing]) -> Iterator[Piece]:
    """What a cell shows, in its order."""
    source = _text(cell["source"]).strip("\n")
    if cell["cell_type"] == "markdown":
        yield Piece("prose", _prose(source))
    elif cell["cell_type"] == "code":
        if source.strip():
            yield Piece("code", _coloured(source))
        for output in cell.get("outputs") or ():
            yield from _output(output, drawn)


def _output(output: Mapping[str, Any], drawn: dict[str, Drawing]) -> Iterator[Piece]:
    kind = output.get("output_type")
    if kind == "stream":
        text = _terminal(_text(output["text"]))
        if text.strip():
            yield Piece("text", text)
    elif kind == "error":
        yield Piece("error", _terminal("\n".join(output.get("traceback") or [output.get("evalue", "")])))
    else:
        yield from _shown(output.get("data") or {}, drawn)


def _shown(data: Mapping[str, Any], drawn: dict[str, Drawing]) -> Iterator[Piece]:
    """The richest form of a result that a page can show alone; live widgets leave their text."""
    if PLOTLY in data:
        identity = f"cell-{len(drawn) + 1}"
        drawn[identity] = _drawing(data[PLOTLY])
        yield Piece("figure", identity)
        return
    image = next((kind for kind in IMAGES if kind in data), None)
    if image is not None:
        yield Piece("image", _address(image, _text(data[image])))
    elif "text/html" in data:
        yield Piece("html", without_scripts(_text(data["text/html"])))
    elif "text/markdown" in data:
        yield Piece("prose", _prose(_text(data["text/markdown"])))
    elif "text/plain" in data and "application/vnd.jupyter.widget-view+json" not in data:
        yield Piece("text", _terminal(_text(data["text/plain"])))


def _terminal(text: str) -> str:
    """A text without colours, and of lines that were written over one another the last."""
    lines = ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines).strip("\n")


def _address(kind: str, data: str) -> str:
    """An image as an address that holds it."""
    if kind == "image/svg+xml":
        data = base64.b64encode(data.encode()).decode()
    return f"data:{kind};base64,{''.join(data.split())}"


def _prose(text: str) -> Any:
    """Markdown as HTML; HTML in it is shown as text."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    rendered = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).render(theme.harmless(text))
    return Markup(re.sub(r'<img src="(?!data:)[^"]*" alt="([^"]*)"[^>]*>', r"\1", rendered))


# --- code ------------------------------------------------------------------------------------------------------------


def _coloured(source: str) -> Any:
    """Python with marks on keywords, strings and comments; a source that is no plain Python is left as it is."""
    import keyword

    from markupsafe import Markup

    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    marks: list[tuple[int, int, str]] = []
    try:
        for token in tokenize.generate_tokens(StringIO(source + "\n").readline):
            first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
            if token.type == tokenize.COMMENT:
                marks.append((first, last, "c"))
            elif tokenize.tok_name[token.type].startswith(("STRING", "FSTRING")):
                marks.append((first, last, "s"))
            elif token.type == tokenize.NAME and keyword.iskeyword(token.string):
                marks.append((first, last, "k"))
    except (tokenize.TokenError, SyntaxError, IndexError):
        marks = []  # a magic, or a shell line
    parts, at = [], 0
    for first, last, name in marks:
        parts += [html.escape(source[at:first]), f'<span class="{name}">', html.escape(source[first:last]), "</span>"]
        at = last
    return Markup(theme.harmless("".join([*parts, html.escape(source[at:])])))


# --- figures ---------------------------------------------------------------------------------------------------------


def _drawing(values: Mapping[str, Any]) -> Drawing:
    """A figure of a notebook, without WebGL, which the page forbids."""
    layout = {"height": HEIGHT, **(values.get("layout") or {})}
    layout.pop("width", None)
    data = [{**trace, "type": str(trace.get("type", "scatter")).removesuffix("gl")} for trace in values["data"]]
    title = layout.get("title")
    title = str((title.get("text") if isinstance(title, Mapping) else title) or "")
    label = theme.shorten(html.unescape(re.sub("<[^>]*>", " ", title)) or "A figure of this notebook.", 200)
    return drawing(label, {"data": data, "layout": layout})


# --- HTML that cells print ------------------------------------------------------------------------------------------


def without_scripts(text: str) -> Any:
    """HTML without what could act or reach out: scripts, frames, forms, handlers, addresses other than data: and #.

    >>> str(without_scripts('<b onclick="x()">5</b><script>x()</script><a href="http://y">z</a>'))
    '<b>5</b><a>z</a>'
    """
    from markupsafe import Markup

    return Markup(theme.harmless(_Cleaner(text).result))


class _Cleaner(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self._parts: list[str] = []
        self._open: list[str] = []
        self._inside: list[str] = []  # removed elements that are still open
        self.feed(text)
        self.close()
        self.result = "".join([*self._parts, *(f"</{tag}>" for tag in reversed(self._open))])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in REMOVED:
            if tag not in VOID:
                self._inside.append(tag)
            return
        if self._inside:
            return
        kept = "".join(f' {name}="{html.escape(value or "")}"' for name, value in attrs if _harmless(name, value or ""))
        self._parts.append(f"<{tag}{kept}>")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            if tag == self._inside[-1]:
                self._inside.pop()
        elif tag in self._open:
            while (closed := self._open.pop()) != tag:
                self._parts.append(f"</{closed}>")
            self._parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._parts.append(data if self._open[-1:] == ["style"] else data.replace("<", "&lt;"))

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")


def _harmless(name: str, value: str) -> bool:
    """Whether an attribute may stay: no handler, no address that leads out of the file, no id that is the page's."""
    if name.startswith("on") or name in ("srcdoc", "id", "action", "formaction", "ping", "background"):
        return False
    if name in ("href", "src", "srcset", "xlink:href", "data", "poster"):
        return value.startswith(("#", "data:image/"))
    return bool(re.fullmatch(r"[a-zA-Z][\w:.-]*", name))
