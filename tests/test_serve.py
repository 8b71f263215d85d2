"""`tamis serve` fires on its schedule, does nothing twice, and leaves nothing behind (issue 3, soak tier)."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import small

pytestmark = [pytest.mark.soak, pytest.mark.flow]


def wait_for_reports(serving: subprocess.Popen[str], workspace: Path, wanted: int, seconds: float = 900) -> list[Path]:
    """Manifests of the finished runs, oldest first, once there are as many as wanted."""
    deadline = time.monotonic() + seconds
    while len(found := sorted(workspace.glob("runs/*/report.html"))) < wanted:
        if serving.poll() is not None or time.monotonic() > deadline:
            serving.kill()
            raise AssertionError(f"{len(found)} of {wanted} runs; {serving.communicate()[1][-3000:]}")
        time.sleep(0.2)
    return [path.with_name("manifest.json") for path in found]


@pytest.mark.parametrize(("stop", "codes"), [(signal.SIGINT, {0, 130}), (signal.SIGTERM, {0, 143})])
def test_serve_fires_twice_and_the_second_run_measures_nothing(stop: int, codes: set[int], tmp_path: Path) -> None:
    world = small.make_world(tmp_path / "world")
    place = tmp_path / "work"
    serving = small.tamis("serve", world.recipe, "--every", "20s", "--workspace", place, "--workers", 1)
    first, second = (json.loads(path.read_text()) for path in wait_for_reports(serving, place, 2)[:2])
    assert all(one["made"] == one["shards"] for one in first["passes"])
    assert all(one["made"] == 0 for one in second["passes"])
    assert first["subset"]["digest"] == second["subset"]["digest"]
    children = psutil.Process(serving.pid).children(recursive=True)
    assert any("tamis.flows.server" in child.cmdline() for child in children)
    serving.send_signal(stop)
    try:
        _, err = serving.communicate(timeout=180)
    finally:
        serving.kill()
    assert serving.returncode in codes, err[-3000:]
    assert not psutil.wait_procs(children, timeout=120)[1]
