"""A Prefect of the test's own: a real `prefect server start`, over SQLite or a real Postgres, and a real worker."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamis.flows.server import _free_port

PREFECT = Path(sys.executable).with_name("prefect")
PASSWORD = "only-for-this-test"
READY_SECONDS = 600  # on a busy machine


def postgres_programs() -> Path | None:
    """Folder of initdb and postgres of the newest Postgres at hand, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found and (there := shutil.which("initdb")):
        found = [Path(there).resolve()]
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """SQLAlchemy URL of a Postgres on loopback, with a cluster in a temporary folder; stopped by its id."""
    programs = postgres_programs()
    assert programs is not None
    user = None
    if os.geteuid() == 0:  # which initdb refuses
        user = pwd.getpwnam("postgres")
    place = Path(tempfile.mkdtemp(prefix="tamis-postgres-"))
    port = _free_port()
    secret = place / "password"
    secret.write_text(PASSWORD)
    who: dict[str, Any] = {}
    if user is not None:
        for path in (place, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data = place / "data"
    options = ["-D", data, "-U", "tamis", "--auth=scram-sha-256", f"--pwfile={secret}", "-N"]
    subprocess.run([str(programs / "initdb"), *map(str, options)], check=True, capture_output=True, cwd=place, **who)
    options = ["-D", data, "-k", place, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(programs / "postgres"), *map(str, options)], stdout=log, stderr=log, cwd=place, **who
        )
        try:
            wait_for(lambda: b"ready to accept connections" in (place / "log").read_bytes(), server)
            yield f"postgresql+asyncpg://tamis:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
            shutil.rmtree(place)


@contextmanager
def prefect_server(place: Path, database: str) -> Iterator[dict[str, str]]:
    """Environment in which `PREFECT_API_URL` is a server of our own; its home lies in `place`."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(place / "home"),
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_URL": url,
    }
    place.mkdir(parents=True, exist_ok=True)
    with (place / "server.log").open("wb") as log:
        command = [str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            wait_for(lambda: healthy(url), server)
            yield {name: text for name, text in environment.items() if "DATABASE" not in name}
        finally:
            end(server)


@contextmanager
def worker(place: Path, pool: str, environment: dict[str, str]) -> Iterator[None]:
    """A real worker of a pool."""
    with (place / "worker.log").open("wb") as log:
        command = [str(PREFECT), "worker", "start", "--pool", pool, "--type", "process", "--name", "w1", "--limit", "3"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=place)
        try:
            yield
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(120)
    finally:
        process.kill()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(json.loads(answer.read()))
    except OSError:
        return False


def ask(environment: dict[str, str], path: str, body: dict[str, Any]) -> Any:
    """What the server answers to a POST."""
    url = f"{environment['PREFECT_API_URL']}/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(happened: Any, process: subprocess.Popen[bytes], seconds: float = READY_SECONDS) -> None:
    """Wait until something has happened; fail where the process ends before, or the time is up."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args!r}: nothing within {seconds} s"
        time.sleep(0.3)
