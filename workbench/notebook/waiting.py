"""The end of a training, awaited in a cell: the buttons and tables of other cells stay usable meanwhile.

`background.wait` blocks the kernel's thread, and a button's message arrives only after the cell. A cell that awaits
lets such messages through.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TYPE_CHECKING

from IPython.display import publish_display_data

from workbench.notebook.html import block, text
from workbench.notebook.live_training import following
from workbench.training.background import has_finished

if TYPE_CHECKING:
    from workbench.run import Run

EVERY = 0.4  # seconds between two looks at the run folder


async def finished(run: Run) -> Run:
    """The run, once it has finished: `await wb.finished(run)`. While it is stopped, the cell says what to do.

    Raises RunError if the training failed or its process is gone.
    """
    line = Line()
    while not has_finished(run):
        line.show(_instruction(run) if run.status == "stopped" else "")
        await asyncio.sleep(EVERY)
    line.show("")
    while any(thread.name == following(run) for thread in threading.enumerate()):  # the views above show the end too
        await asyncio.sleep(0.05)
    return run


def _instruction(run: Run) -> str:
    progress = run.record.get("progress") or {}
    at = f" at step {progress['step']:,} of {progress['steps']:,}" if progress.get("steps") else ""
    return (
        f"{run.name} is stopped{at}. Press Resume above, and the notebook continues when the training has ended; or "
        "interrupt this cell (the square in the toolbar) to leave it stopped."
    )


class Line:
    """A line below the cell that can be replaced; nothing is displayed before the first sentence."""

    def __init__(self) -> None:
        self.name = f"wb-line-{secrets.token_hex(6)}"
        self._shown: str | None = None

    def show(self, sentence: str) -> None:
        if sentence == (self._shown or ""):
            return
        page = block(f'<p><span class="word stopped">stopped</span> {text(sentence)}</p>')
        bundle = {"text/html": page, "text/plain": sentence} if sentence else {"text/plain": ""}
        publish_display_data(bundle, transient={"display_id": self.name}, update=self._shown is not None)  # type: ignore[no-untyped-call]
        self._shown = sentence
