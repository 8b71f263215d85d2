"""Environment of every test: no network, no telemetry, one thread, a Prefect home of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

_HOME = tempfile.mkdtemp(prefix="tamis-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    PREFECT_HOME=f"{_HOME}/prefect",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    HF_HOME=f"{_HOME}/hf",
    RAY_USAGE_STATS_ENABLED="0",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    TAMIS_TEST_SESSION=_HOME,  # every process that a test starts inherits it
)
LINGER_SECONDS = 20


def real(variable: str, default: str) -> Path:
    """Folder of real data or models; the test is skipped with a reason where it is absent."""
    folder = Path(os.environ.get(variable, Path(__file__).parents[1] / ".." / "shared" / default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"{variable} is not set and {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    return real("TAMIS_REAL_DATA", "data")


@pytest.fixture(scope="session")
def real_models() -> Path:
    return real("TAMIS_REAL_MODELS", "models")


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Every process that the tests started has ended with them, orphans included."""
    yield
    deadline = time.monotonic() + LINGER_SECONDS
    while (left := processes_of_this_session()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, f"processes left behind: {left}"


def processes_of_this_session() -> dict[int, str]:
    """Living processes that carry the mark of this session, but for itself and the standard library's own tracker."""
    found = {}
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("TAMIS_TEST_SESSION") == _HOME
            command = " ".join(process.cmdline())
            if marked and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = command[-200:]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return {pid: command for pid, command in found.items() if "resource_tracker" not in command}


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one Prefect server for all tests of the session; stopped by its id."""
    from tamis.flows.server import server

    with server(tmp_path_factory.mktemp("prefect")) as url:
        yield url
