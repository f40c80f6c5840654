"""`workbench runs --watch`: alerts on runs as they come, on the terminal and to a webhook."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

from workbench.cli.terminal import say
from workbench.errors import RunError
from workbench.run import list_runs
from workbench.views.alerts import Alert, alerts

SECONDS = 2.0  # between two looks
WEBHOOK_SECONDS = 10.0


def watch(folder: Path, webhook: str | None) -> None:
    """Print each alert once, on runs that are training now or later, until none is; else on the newest run.

    Raises RunError where the webhook does not answer.
    """
    told: set[tuple[str, Alert]] = set()
    watched: set[str] = set()
    while True:
        found = list_runs(folder)
        running = {run.name for run in found if run.status == "running"}
        watched |= running or ({run.name for run in found[:1]} if not watched else set())
        for run in found:
            for alert in alerts(run) if run.name in watched else ():
                if (run.name, alert) not in told:
                    told.add((run.name, alert))
                    say(f"{run.name}: {alert.sentence}")
                    if webhook is not None:
                        _post(webhook, run.name, alert)
        if not running:
            return
        time.sleep(SECONDS)


def _post(webhook: str, run: str, alert: Alert) -> None:
    """Post an alert as JSON: run, kind and, as chat programs read it, text."""
    if not webhook.startswith(("http://", "https://")):
        raise RunError(f"expected an http address with --webhook, found {webhook!r}.")
    body = json.dumps({"run": run, "kind": alert.kind, "text": f"{run}: {alert.sentence}"}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise RunError(f"expected an answer from the webhook {webhook!r}, found none ({error}).") from error
