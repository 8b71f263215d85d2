"""Environment of every test: no network, no telemetry, one thread, a Prefect home of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

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
)


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
