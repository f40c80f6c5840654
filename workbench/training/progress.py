"""Progress on a terminal, for scripts: a bar of tqdm for each phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workbench.run import Progress


@contextmanager
def shown_progress(on_progress: Progress | None, *, shown: bool) -> Iterator[Progress | None]:
    """`on_progress`; without one, and where `shown`, bars on standard error if that is a terminal."""
    if on_progress is not None or not shown:
        yield on_progress
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: dict[str, tqdm[None]] = {}

    def draw(phase: str, done: int, total: int) -> None:
        what, _, part = phase.partition(": ")
        if what not in bars:
            bars[what] = tqdm(desc=what, total=total or None, disable=None)  # None: only a terminal
        bars[what].set_postfix_str(part, refresh=False)
        bars[what].update(done - bars[what].n)

    try:
        yield draw
    finally:
        for bar in bars.values():
            bar.close()
