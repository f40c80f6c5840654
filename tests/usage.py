"""Processor time and memory of a piece of work."""

from __future__ import annotations

import re
import time
from pathlib import Path

SECONDS, MEGABYTES = 2, 500  # what reading one file may take


class Usage:
    """Measures what happens inside `with`: seconds of the processor, and the peak of memory beyond what was held."""

    seconds = 0.0
    megabytes = 0.0  # 0 where the system does not tell (it is Linux that does)

    def __enter__(self) -> Usage:
        if _RESET.is_file():
            _RESET.write_text("5", encoding="ascii")  # the peak begins anew
        self._held, self._start = _peak(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.megabytes = time.process_time() - self._start, (_peak() - self._held) / 1000

    @property
    def too_much(self) -> str:
        """What exceeds the limits; empty if nothing does."""
        if self.seconds <= SECONDS and self.megabytes <= MEGABYTES:
            return ""
        return f"{self.seconds:.1f} s, {self.megabytes:,.0f} MB"


_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _peak() -> int:
    """KB of memory at the peak."""
    found = re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text(encoding="utf-8")) if _STATUS.is_file() else None
    return int(found[1]) if found else 0
