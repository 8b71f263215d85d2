"""The flow on a schedule: a Prefect server on loopback if there is none, and a runner that starts the runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError
from tamis.flows.server import server
from tamis.flows.settings import set_defaults

WAIT_HOURS = 24.0  # for another scheduled run on the same workspace
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def interval(text: str) -> timedelta:
    """`20s`, `15m`, `1h`, `1d` as a duration.

    >>> interval("15m").seconds
    900
    """
    match = re.fullmatch(r"\s*([1-9][0-9]*)\s*([smhd])\s*", text)
    if match is None:
        raise RecipeError(f"--every {text}: expected a number and s, m, h or d, for example 1h")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def serve(
    recipe: str,
    overrides: Sequence[str],
    workspace: Path,
    *,
    cron: str | None,
    every: str | None,
    options: Mapping[str, Any],
) -> None:
    """Serve the flow until stopped; one run at a time, each in a process of its own."""
    pause = interval(every) if every is not None else None
    workspace.mkdir(parents=True, exist_ok=True)
    set_defaults(workspace)
    os.environ["PREFECT_LOGGING_LEVEL"] = "INFO"
    with server(workspace, pages=True) as url:
        os.environ["PREFECT_API_URL"] = url
        from prefect.types.entrypoint import EntrypointType

        from tamis.flows.curate import curate

        path = Path(recipe)
        deployment: Any = curate.to_deployment(
            name=f"tamis-{path.stem}",
            interval=pause,
            cron=cron,
            parameters={
                "recipe": str(path.resolve()) if path.is_file() else recipe,
                "workspace": str(workspace),
                "overrides": list(overrides),
                "options": dict(options),
                "wait_hours": WAIT_HOURS,
            },
            concurrency_limit=1,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        from prefect import serve as serve_deployments

        serve_deployments(deployment, limit=1)
