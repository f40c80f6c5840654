"""Terminal output: text made harmless, tables, JSON, progress bars. `out` prints answers, `err` progress and messages.

Text from cards and data is hostile: control characters become visible marks, and no markup in it takes effect. Output
to a file or another program is not wrapped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from workbench.cards.literals import plain
from workbench.run import Progress

PIPE_WIDTH = 140  # columns of a table in a file or pipe
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C1 controls, line separators, controls of the writing direction, and what UTF-8 cannot hold."""
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}


def printable(text: object) -> str:
    """`text` with every control character, terminal escape and direction override made visible.

    >>> printable("a\\x1b[31mred")
    'a␛[31mred'
    """
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(text).translate(_VISIBLE))


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print standard JSON on one line, or indented, its control characters escaped. NaN and infinities become null."""
    finite = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    text = json.dumps(finite, ensure_ascii=False, indent=indent)
    print(_UNSAFE.sub(lambda found: f"\\u{ord(plain(found[0])):04x}", text))


def say(text: object, style: str = "", indent: int = 0) -> None:
    """Print an answer: wrapped on a terminal, in whole lines to a file or pipe."""
    shown = text if isinstance(text, Text) else Text(printable(text), style=style)
    if out.is_terminal and indent:
        from rich.padding import Padding

        out.print(Padding(shown, (0, 0, 0, indent)))
    else:
        out.print(Text.assemble(" " * indent, shown), soft_wrap=not out.is_terminal)


def note(text: object) -> None:
    """Print a message to standard error."""
    err.print(printable(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    from rich.table import Table

    rows = [list(row) for row in rows]
    if title is not None:  # a title of the table itself would be wrapped at the width of the table
        out.print(Text(printable(title), style="bold"))
    drawn = Table(header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = ("–" if value is None else f"{value:.4f}" if isinstance(value, float) else value for value in row)
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells))
    out.print(drawn)


@contextmanager
def progress_bars(quiet: bool = False, first: str = "read rows, load the base") -> Iterator[Progress | None]:
    """Draw one bar per phase on standard error; one line per phase if that is not a terminal.

    Phases named "what: part" share the bar of `what`; the part is shown at its end ("train: 61 rows/s"). The bar
    `first` runs until the first phase begins, because loading the libraries alone takes seconds.
    """
    if quiet:
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[part]}"),
    )  # fmt: skip
    with progress.Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        waiting = bars.add_task(first, total=None, part="")
        tasks: dict[str, Any] = {}

        def draw(phase: str, done: int, total: int) -> None:
            what, _, part = phase.partition(": ")
            if what not in tasks:
                bars.update(waiting, total=1, completed=1)
                tasks[what] = bars.add_task(printable(what), total=total or None, part="")
                if bars.disable:
                    note(f"{what} …")
            shown = printable(part) if done < total else ""
            bars.update(tasks[what], completed=done, total=total or None, part=shown)

        yield draw
        bars.update(waiting, total=1, completed=1)
