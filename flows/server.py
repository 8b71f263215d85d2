"""A Prefect server of our own on loopback: it keeps the whole history, fires schedules, and ends when its parent does.

Prefect's embedded server does neither: it loses records of task runs, and is left behind by a parent that is killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.errors import TamisError

HEALTHY_SECONDS = 300  # a busy machine is slow to import; a server that died is seen at once
STOP_SECONDS = 20


@contextmanager
def server(workspace: Path, *, pages: bool = False) -> Iterator[str]:
    """URL of the API: the one at `PREFECT_API_URL`, or of a server of our own, stopped on exit. `pages`: with its UI.

    The server reads a pipe that only this process holds open, so that it ends even where this one is killed.
    Raises TamisError where it does not come up.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given
        return
    port = _free_port()
    home = workspace / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}/api"
    environment = {"PREFECT_HOME": str(home), "PREFECT_SERVER_UI_ENABLED": str(pages).lower(), **os.environ}
    with (home / "server.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tamis.flows.server", str(port)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: the runner still has to sign off
        )
        try:
            _wait_until_healthy(url, child, home / "server.log")
            yield url
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdin is not None:
        child.stdin.close()


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
            time.sleep(0.2)
    raise TamisError(f"the Prefect server was not ready after {HEALTHY_SECONDS} s; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """Stop this server once nobody holds the other end of standard input."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def main() -> None:
    """Serve the API at the port given, until stopped."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
