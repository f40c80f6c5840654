"""The end of a training, awaited in a cell: the buttons and tables of other cells stay usable meanwhile.

`background.wait` holds the kernel's thread, and what a button sends arrives when the cell is done. A cell that awaits
lets such messages through.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TYPE_CHECKING

from workbench.notebook.html import STYLE, text
from workbench.notebook.live_training import following
from workbench.training.background import has_finished

if TYPE_CHECKING:
    from workbench.run import Run

EVERY = 0.4  # seconds between two looks at the run folder


async def finished(run: Run) -> Run:
    """The run, once it has finished: `await wb.finished(run)`. While it is stopped, the cell says what to do.

    Raises RunError where the training failed or its process is gone.
    """
    line = Line()
    while not has_finished(run):
        line.say(_what_to_do(run) if run.status == "stopped" else "")
        await asyncio.sleep(EVERY)
    line.say("")
    while any(thread.name == following(run) for thread in threading.enumerate()):  # the views above show the end too
        await asyncio.sleep(0.05)
    return run


def _what_to_do(run: Run) -> str:
    progress = run.record.get("progress") or {}
    at = f" at step {progress['step']:,} of {progress['steps']:,}" if progress.get("steps") else ""
    return (
        f"{run.name} is stopped{at}. Press Resume above, and the notebook goes on when the training has ended; "
        "or interrupt this cell (the square in the toolbar) to leave it there."
    )


class Line:
    """A line under the cell that can be written anew; nothing is shown before it says something."""

    def __init__(self) -> None:
        self.name = f"wb-line-{secrets.token_hex(6)}"
        self._said: str | None = None

    def say(self, sentence: str) -> None:
        from IPython.display import publish_display_data

        if sentence == (self._said or ""):
            return
        page = f'{STYLE}<div class="wb"><p><span class="word stopped">stopped</span> {text(sentence)}</p></div>'
        bundle = {"text/html": page, "text/plain": sentence} if sentence else {"text/plain": ""}
        publish_display_data(bundle, transient={"display_id": self.name}, update=self._said is not None)  # type: ignore[no-untyped-call]
        self._said = sentence
