"""The energy that a training uses, where the machine counts it.

NVIDIA's driver counts the millijoules of each GPU; Linux counts the microjoules of each Intel or AMD processor package
under /sys/class/powercap, which on most systems only root may read. Both count everything that runs on the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"

Counter = Callable[[], float | None]
"""Joules since some point in time, or None where they cannot be read."""


class Energy:
    """Joules since it was made. Call `sample` now and then: the processor's counter wraps around to zero."""

    def __init__(self, counters: Mapping[str, tuple[Counter, float]]) -> None:
        """`counters`: name -> (counter, joules at which it wraps around; 0 for never)."""
        self._counters = counters
        self._last = {name: count() for name, (count, _) in counters.items()}
        self._used = dict.fromkeys(counters, 0.0)

    def sample(self) -> None:
        """Add what was used since the last sample."""
        for name, (count, largest) in self._counters.items():
            before, now = self._last[name], count()
            if before is not None and now is not None:
                self._used[name] += now - before + (largest if now < before else 0.0)
                self._last[name] = now

    def joules(self) -> float | None:
        """Joules of all devices together; None where no device counts them."""
        self.sample()
        counted = [used for name, used in self._used.items() if self._last[name] is not None]
        return round(sum(counted), 1) if counted else None

    def sources(self) -> str:
        """The devices that were counted; empty for none."""
        return ", ".join(name for name, last in self._last.items() if last is not None)


def energy_counters(gpus: Sequence[str] = (), powercap: Path = POWERCAP) -> dict[str, tuple[Counter, float]]:
    """The counters of this machine: of the NVIDIA GPUs with these UUIDs, and of its processors."""
    counters = _gpu_counters(gpus)
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name")  # zones below a package (`intel-rapl:0:0`) are part of it
        if zone.name.count(":") == 1 and name.startswith("package") and _joules(zone / "energy_uj") is not None:
            largest = _joules(zone / "max_energy_range_uj")
            counters[f"processor {name}"] = (partial(_joules, zone / "energy_uj"), largest or 0.0)
    return counters


def _joules(path: Path) -> float | None:
    """From a file that holds microjoules."""
    value = _text(path)
    return float(value) / 1e6 if value.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _gpu_counters(gpus: Sequence[str]) -> dict[str, tuple[Counter, float]]:
    """By NVIDIA's C library, which saves a dependency."""
    counters: dict[str, tuple[Counter, float]] = {}
    if not gpus:
        return counters
    with suppress(OSError, AttributeError):  # no library, or a driver too old to count
        nvml = ctypes.CDLL(NVML)

        def count(handle: ctypes.c_void_p) -> float | None:
            value = ctypes.c_ulonglong()
            failed = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value))
            return None if failed else value.value / 1e3

        if nvml.nvmlInit_v2() == 0:
            for number, uuid in enumerate(gpus):
                handle = ctypes.c_void_p()
                if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) == 0:
                    counters[f"GPU {number}"] = (partial(count, handle), 0.0)
    return counters
