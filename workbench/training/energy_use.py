"""The energy that a training uses, where the machine counts it.

NVIDIA's driver counts the millijoules of each GPU since it was loaded; Linux counts the microjoules of each Intel or
AMD processor package under /sys/class/powercap, which only root may read on most systems. Both count all that runs on
the device, so on a shared machine they count the neighbours too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"

Counter = Callable[[], float | None]
"""Gives joules since some moment, or None where they cannot be read any more."""


class Energy:
    """Joules since it was made. `sample` it now and then: the processor's counter starts again from zero."""

    def __init__(self, counters: Mapping[str, tuple[Counter, float]]) -> None:
        """`counters`: name -> (counter, joules after which it starts again from zero; 0 for never)."""
        self._counters = counters
        self._last = {name: count() for name, (count, _) in counters.items()}
        self._used = dict.fromkeys(counters, 0.0)

    def sample(self) -> None:
        """Take up what was used since the last sample."""
        for name, (count, most) in self._counters.items():
            before, now = self._last[name], count()
            if before is None or now is None:
                continue
            again = most if now < before else 0.0
            self._used[name] += now - before + again
            self._last[name] = now

    def joules(self) -> float | None:
        """Joules of all devices together; None where no device counts them."""
        self.sample()
        counted = [used for name, used in self._used.items() if self._last[name] is not None]
        return round(sum(counted), 1) if counted else None

    def sources(self) -> str:
        """What was counted, in words; empty for nothing."""
        return ", ".join(name for name, last in self._last.items() if last is not None)


def energy_counters(gpus: Sequence[str] = (), powercap: Path = POWERCAP) -> dict[str, tuple[Counter, float]]:
    """Every counter that this machine has: of the NVIDIA GPUs with these UUIDs, and of its processors."""
    return {**_gpu_counters(gpus), **_processor_counters(powercap)}


def _processor_counters(powercap: Path) -> dict[str, tuple[Counter, float]]:
    """One for each package (`intel-rapl:0`); the zones below it (`intel-rapl:0:0`) are part of it."""
    found: dict[str, tuple[Counter, float]] = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name")
        if zone.name.count(":") != 1 or not name.startswith("package") or not _text(zone / "energy_uj").isdigit():
            continue
        most = _text(zone / "max_energy_range_uj")
        found[f"processor {name}"] = (_microjoules(zone / "energy_uj"), float(most) / 1e6 if most.isdigit() else 0.0)
    return found


def _microjoules(path: Path) -> Counter:
    def count() -> float | None:
        value = _text(path)
        return float(value) / 1e6 if value.isdigit() else None

    return count


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _gpu_counters(gpus: Sequence[str]) -> dict[str, tuple[Counter, float]]:
    """NVIDIA's library by its C interface: the Python package for it is one more dependency."""
    if not gpus:
        return {}
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return {}
    found: dict[str, tuple[Counter, float]] = {}
    with suppress(AttributeError):  # a driver that is too old to count
        if nvml.nvmlInit_v2() == 0:
            for number, uuid in enumerate(gpus):
                handle = ctypes.c_void_p()
                if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) == 0:
                    found[f"GPU {number}"] = (_millijoules(nvml, handle), 0.0)
    return found


def _millijoules(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> Counter:
    def count() -> float | None:
        value = ctypes.c_ulonglong()
        failed = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value))
        return None if failed else value.value / 1e3

    return count
