"""The flow on a schedule: a Prefect server on loopback if there is none, and a runner that starts the runs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError, TamisError
from tamis.flows.settings import set_defaults

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
HEALTHY_SECONDS = 120


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
    with server(workspace) as url:
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
            },
            concurrency_limit=1,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        from prefect import serve as serve_deployments

        serve_deployments(deployment, limit=1)


@contextmanager
def server(workspace: Path) -> Iterator[str]:
    """URL of the API: the one at `PREFECT_API_URL`, or of a server of our own on loopback, stopped on exit."""
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given
        return
    port = _free_port()
    home = workspace / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PREFECT_HOME": str(home)})
        try:
            _wait_until_healthy(url, child, home / "server.log")
            yield url
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait_until_healthy(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise TamisError(f"the Prefect server ended with code {child.returncode} before it was ready; see {log}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    raise TamisError(f"the Prefect server was not ready after {HEALTHY_SECONDS} s; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
