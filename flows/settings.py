"""Prefect settings for an embedded run: home in the workspace, no telemetry, quiet, no heartbeat wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


def set_defaults(workspace: Path) -> None:
    """Set what the user has not set, before Prefect is imported; its home lies in the workspace."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(workspace / "prefect"))


@contextmanager
def prefect_environment(workspace: Path) -> Iterator[None]:
    """Prefect set up for one run in this process."""
    set_defaults(workspace)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # The heartbeat thread sleeps a second that every flow call would wait for.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
