"""Prefect settings for an embedded run: home in the workspace, no telemetry, quiet."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def set_quiet() -> None:
    """Set what the user has not set, before Prefect is imported, and leave its home and profile as they are."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def set_defaults(workspace: Path) -> None:
    """Set what the user has not set, before Prefect is imported; its home lies in the workspace."""
    set_quiet()
    home = Path(os.environ.setdefault("PREFECT_HOME", str(workspace / "prefect")))
    home.mkdir(parents=True, exist_ok=True)  # the embedded server waits for ever where its parent is missing
