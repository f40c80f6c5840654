"""A training log followed while it grows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RunError
from workbench.run_forms import parse_log
from workbench.views.loss_curves import LogColumns

if TYPE_CHECKING:
    from workbench.run import Run

CHUNK = 500  # lines parsed together: half the time, and few rows in memory at once


class LogTail:
    """Reads only what was appended since the last call, so that 100,000 rows stay cheap to follow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._log = LogColumns()
        self._seen = LogColumns()  # what the readers have

    def columns(self) -> LogColumns:
        """The log by columns, not to be changed; empty if there is no log yet."""
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    stat = self.path.stat()
                    if self._file != (stat.st_dev, stat.st_ino) or stat.st_size < self._offset:
                        self._forget()
                        self._file = (stat.st_dev, stat.st_ino)
                    file.seek(self._offset)
                    new = file.read()
            except FileNotFoundError:
                self._forget()
                return self._seen
            except OSError as error:
                reason = error.strerror or error
                raise RunError(f"cannot read {str(self.path)!r}: {reason}; is the disk still there?") from error
            complete = new[: new.rfind(b"\n") + 1]
            self._offset += len(complete)
            lines = complete.splitlines()
            for start in range(0, len(lines), CHUNK):
                self._log.extend(parse_log(lines[start : start + CHUNK]))
            if lines:
                self._seen = self._log.copy()
            return self._seen


def logged_names(log: LogColumns) -> tuple[str, ...]:
    """Logged quantities beside step, epoch, and time: "loss", "components/NAME" for the parts of a loss, metrics."""
    return tuple(name for name in log.columns if name not in ("epoch", "time", "eval_loss"))


def checkpoint_steps(run: Run) -> tuple[int, ...]:
    """Steps of the checkpoints in the run folder, in order."""
    names = [path.name.rpartition("-")[2] for path in run.file("checkpoints").glob("checkpoint-*")]
    return tuple(sorted(int(name) for name in names if name.isdigit()))


def training_row_count(run: Run) -> int | None:
    """Training rows of one epoch, of all datasets; None if the run does not record them."""
    data = run.record.get("data") or {}
    counts = [data.get("rows"), *(more.get("rows") for more in (data.get("more") or {}).values())]
    numbers = [count.get("train") if isinstance(count, dict) else count for count in counts]
    return sum(count for count in numbers if isinstance(count, int)) or None
