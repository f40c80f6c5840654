"""A notebook -> one HTML file with its figures, for a browser without a kernel, a server or a network.

nbconvert lays out the cells, and what it writes is reduced to an allowlist of tags and attributes. Plotly figures are
drawn by the plotly.js of the page, whose policy runs no other script.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.report.drawings import Drawing, drawing
from workbench.report.page import page
from workbench.report.site import write
from workbench.views import theme

SECONDS = 3600  # limit of one cell
PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = ("text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain")  # the best first
HEIGHT = 450  # px, Plotly's own where a figure names none
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

TAGS = frozenset({
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "details", "div", "dl",
    "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "mark", "ol", "p", "pre", "q", "s",
    "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul",
})  # fmt: skip
ATTRIBUTES = frozenset({
    "align", "alt", "class", "colspan", "dir", "height", "lang", "open", "role", "rowspan", "scope", "start", "style",
    "title", "width",
})  # fmt: skip
WITHOUT_CONTENT = re.compile(r"(?is)<(script|style|iframe|object|noscript|template)\b.*?(</\1\s*>|\Z)")


def export_notebook(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    execute: bool = True,
    seconds: int = SECONDS,
    written: str | None = None,
) -> Path:
    """Execute a notebook in its folder and write it as HTML to `out`, or beside it as .html; return the file.

    The notebook itself does not change. `execute=False` writes the outputs that it has. `seconds` limits each cell.

    Raises WorkbenchError if there is no such notebook, or if a cell fails.
    """
    source = Path(path)
    notebook = _read(source)
    if execute:
        _execute(notebook, source, seconds)
    target = source.with_suffix(".html") if out is None else Path(out)
    return write(target, render_notebook(notebook, source.stem, written=written))


def render_notebook(notebook: Mapping[str, Any], name: str, *, written: str | None = None) -> str:
    """A notebook with its outputs as one HTML document."""
    import nbformat
    from markupsafe import Markup
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from traitlets.config import Config

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        config=Config({"NbConvertBase": {"display_data_priority": list(SHOWN)}}),
    )
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)  # type: ignore[no-untyped-call]
    mark = secrets.token_hex(16)
    drawn: dict[str, Drawing] = {}
    node = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]  # a copy
    for cell in (cell for cell in node.cells if "outputs" in cell):
        cell.outputs = list(filter(_is_shown, cell.outputs))
        for output in (output for output in cell.outputs if PLOTLY in output.get("data", {})):
            figure = f"cell-{len(drawn) + 1}"
            drawn[figure] = _drawing(output.data[PLOTLY])
            output.data = nbformat.from_dict({"text/html": f"{mark}{figure}{mark}"})  # type: ignore[no-untyped-call]
    body, _ = exporter.from_notebook_node(node)
    parts = sanitize(body).split(mark)  # HTML, the name of a figure, HTML, ...
    pieces = [(Markup(part), "") if place % 2 == 0 else (Markup(""), part) for place, part in enumerate(parts)]
    title = re.search(r"<h1[^>]*>(.*?)</h1>", parts[0], re.DOTALL)
    shown = theme.shorten(Markup(title[1]).striptags(), 120) if title else name
    return page("notebook.html.j2", drawn, written, foreign=True, title=shown, pieces=pieces)


def _read(path: Path) -> Any:
    import nbformat

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        cells = content.get("cells") if isinstance(content, dict) else None
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise ValueError("it has no cells")
        return nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.ValidationError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise WorkbenchError(f"expected a notebook at {str(path)!r}, found none that can be read: {reason}.") from error


def _execute(notebook: Any, path: Path, seconds: int) -> None:
    """Run every cell in the notebook's folder; figures come as plain values, not with a plotly.js each."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    place = {"metadata": {"path": str(path.resolve().parent)}}
    quiet = ["--log-level=ERROR"]  # the kernel warns of sockets that only this machine can reach
    client = NotebookClient(notebook, timeout=seconds, resources=place, extra_arguments=quiet)
    try:
        client.execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"})
    except CellExecutionError as error:
        raise WorkbenchError(f"a cell of {str(path)!r} failed: {error.ename}: {ANSI.sub('', error.evalue)}.") from error
    except CellTimeoutError as error:
        raise WorkbenchError(f"a cell of {str(path)!r} took more than {seconds:,} seconds.") from error
    except (DeadKernelError, NoSuchKernel, RuntimeError) as error:
        raise WorkbenchError(f"cannot execute {str(path)!r}: {error}.") from error


def _is_shown(output: Mapping[str, Any]) -> bool:
    """Whether a page can show it: live widgets, which need a kernel, and scripts are left out."""
    data = output.get("data")
    return data is None or (WIDGET not in data and not {PLOTLY, *SHOWN}.isdisjoint(data))


def _drawing(values: Mapping[str, Any]) -> Drawing:
    """A figure of a notebook, without WebGL, which the page forbids."""
    from markupsafe import Markup

    layout = {"height": HEIGHT, **(values.get("layout") or {})}
    layout.pop("width", None)
    data = [{**trace, "type": str(trace.get("type", "scatter")).removesuffix("gl")} for trace in values.get("data", ())]
    title = layout.get("title")
    title = str((title.get("text") if isinstance(title, Mapping) else title) or "")
    label = theme.shorten(Markup(title).striptags(), 200) or "A figure of this notebook."
    return drawing(label, {"data": data, "layout": layout})


def sanitize(text: str) -> str:
    """HTML without anything that acts or loads: no script, handler, form, frame, or id; only data: images.

    >>> sanitize('<b onclick="x()">5</b><script>x()</script><a href="http://y">z</a>')
    '<b>5</b><a>z</a>'
    """
    from bleach.css_sanitizer import CSSSanitizer
    from bleach.sanitizer import Cleaner

    cleaner = Cleaner(tags=TAGS, attributes=_is_harmless, protocols=["data"], strip=True, css_sanitizer=CSSSanitizer())
    return theme.remove_controls(cleaner.clean(WITHOUT_CONTENT.sub("", text)))


def _is_harmless(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return value.startswith("#")
    if name == "src":
        return value.startswith("data:image/")
    return name in ATTRIBUTES or name.startswith("aria-")
