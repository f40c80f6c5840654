"""What a terminal shows: text made harmless, tables, JSON, progress bars. `out` is for answers, `err` for remarks.

Text from cards and data is hostile: control characters are shown as a mark, and no markup in it is obeyed. What goes to
a file or another program is not wrapped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from workbench.run import Progress

LEAST = 0.1  # seconds between two drawings of one bar; a fast training has a thousand steps in one
PIPE_WIDTH = 140  # columns of a table that goes to a file or another program
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def plain(text: object) -> str:
    """Text with every control character (terminal escapes too) and direction override made visible.

    >>> plain("a\\x1b[31mred")
    'a␛[31mred'
    """
    shown = []
    for character in str(text):
        code = ord(character)
        if code < 32 and character not in "\n\t":
            shown.append(chr(0x2400 + code))
        elif code == 127 or 0x80 <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
            shown.append("\N{REPLACEMENT CHARACTER}")
        else:
            shown.append(character)
    return "".join(shown)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Standard JSON (a number that is none is null) on standard output, on one line unless `indent` says otherwise."""
    print(json.dumps(finite(value), ensure_ascii=False, indent=indent, default=str))


def finite(value: Any) -> Any:
    """`value` with NaN and infinities as None, which JSON can say."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def say(text: str | Text) -> None:
    """Print text as it is: wrapped on a terminal, in whole lines for a file or another program."""
    out.print(plain(text) if isinstance(text, str) else text, soft_wrap=not out.is_terminal)


def say_below(text: str, style: str = "") -> None:
    """Print text indented under a heading, so that a wrapped line stays under it too."""
    shown = Text(plain(text), style=style)
    if out.is_terminal:
        out.print(Padding(shown, (0, 0, 0, 8)))
    else:
        say(Text.assemble(" " * 8, shown))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; a column of numbers is aligned to the right."""
    kept = [list(row) for row in rows]
    if title is not None:  # not the table's own, which is broken where the table ends
        out.print(Text(title, style="bold"))
    drawn = Table(header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        numbers = bool(kept) and all(isinstance(row[index], int | float | None) for row in kept)
        drawn.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in kept:
        drawn.add_row(*(cell(value) for value in row))
    out.print(drawn)


def cell(value: object) -> Text:
    """One value of a table."""
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, Text):
        return value
    return Text(f"{value:.4f}" if isinstance(value, float) else plain(value))


@contextmanager
def progress_bars(quiet: bool = False, first: str = "read rows, load the base") -> Iterator[Progress | None]:
    """Draw one bar for each phase on standard error; nothing where that is no terminal but a line per phase.

    A phase named "what: part" shares the bar of `what` with its other parts; the part stands behind the time that is
    left ("train: 61 rows/s"). `first` moves until the first phase begins, because loading the libraries alone takes
    seconds.
    """
    if quiet:
        yield None
        return
    if not err.is_terminal:
        seen: set[str] = set()

        def line(phase: str, done: int, total: int) -> None:
            what = phase.partition(": ")[0]
            if what not in seen:
                seen.add(what)
                err.print(plain(f"{what} …"))

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(
        *columns, TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[part]}"), console=err
    ) as bars:
        waiting = bars.add_task(first, total=None, part="")
        tasks: dict[str, Any] = {}
        drawn: dict[str, float] = {}

        def draw(phase: str, done: int, total: int) -> None:
            what, _, part = phase.partition(": ")
            now = time.monotonic()
            if what not in tasks:
                bars.update(waiting, total=1, completed=1)
                tasks[what] = bars.add_task(plain(what), total=total or None, part="")
            elif now - drawn[what] < LEAST and done < total:
                return
            drawn[what] = now
            bars.update(tasks[what], completed=done, total=total or None, part=plain(part) if done < total else "")

        yield draw
        bars.update(waiting, total=1, completed=1)
