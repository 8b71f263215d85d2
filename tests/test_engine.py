"""Laws of the local engine: order, retried starts, lost workers, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tamis import engine
from tamis.engine import WorkerLost, map_jobs
from tamis.values import Machine

TESTS = Path(__file__).parent
TWO = Machine(workers=2)


def square(job: int) -> int:
    return job * job


def slow_first(job: int) -> tuple[int, int]:
    time.sleep(0.4 if job == 0 else 0)
    return job, os.getpid()


def die_at_two(job: int) -> int:
    if job == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def refuse(job: int) -> int:
    raise OSError(5, "the disk said no")


def start_light(threads: int, ready: Any, stop: Any) -> None:
    """Start a worker without torch: what is tested here does not compute."""
    ready.set()


def start_late(threads: int, ready: Any, stop: Any) -> None:
    """Die while starting, in as many tries as the test wants."""
    if int(os.environ["TAMIS_TEST_TRY"]) <= int(os.environ["TAMIS_TEST_DEATHS"]):
        os._exit(9)
    ready.set()


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_start_worker", start_light)


def test_results_come_in_the_order_of_the_jobs_from_several_processes() -> None:
    assert list(map_jobs(square, range(5), Machine(workers=1))) == [0, 1, 4, 9, 16]
    found = list(map_jobs(slow_first, range(6), TWO))
    assert [job for job, _ in found] == list(range(6))
    assert len({pid for _, pid in found}) == 2 and os.getpid() not in {pid for _, pid in found}


def test_a_worker_that_dies_at_work_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(WorkerLost, match="run the same command again"):
        list(map_jobs(die_at_two, range(4), TWO))


def test_an_error_of_a_job_is_raised_as_it_is_and_not_tried_again() -> None:
    with pytest.raises(OSError, match="the disk said no"):
        list(map_jobs(refuse, range(2), TWO))


@pytest.mark.parametrize(("deaths", "works"), [(2, True), (3, False)])
def test_starting_workers_is_tried_three_times(deaths: int, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    class Counted(engine._Workers):
        def __init__(self, workers: int, threads: int) -> None:
            tries.append(workers)
            monkeypatch.setenv("TAMIS_TEST_TRY", str(len(tries)))
            super().__init__(workers, threads)

    monkeypatch.setattr(engine, "_start_worker", start_late)
    monkeypatch.setattr(engine, "_Workers", Counted)
    monkeypatch.setattr(engine, "RESTART_SECONDS", 0.0)
    monkeypatch.setenv("TAMIS_TEST_DEATHS", str(deaths))
    if works:
        assert list(map_jobs(square, range(2), TWO)) == [0, 1]
    else:
        with pytest.raises(WorkerLost, match="no worker process could be started in 3 tries"):
            list(map_jobs(square, range(2), TWO))
    assert tries == [2, 2, 2]


ASLEEP = """
import sys, time
sys.path.insert(0, {tests!r})
from tamis.cli import _stop_on_sigterm
from tamis.engine import map_jobs
from tamis.values import Machine
from test_engine import sleep_long
if __name__ == "__main__":
    _stop_on_sigterm()
    list(map_jobs(sleep_long, [{folder!r}] * 2, Machine(workers=2)))
"""


def sleep_long(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


def test_workers_end_with_their_parent_in_the_middle_of_a_job(tmp_path: Path) -> None:
    stops: dict[int, int] = {signal.SIGKILL: -9, signal.SIGTERM: 143}
    parents: dict[int, subprocess.Popen[bytes]] = {}
    for kill in stops:
        script, folder = tmp_path / f"asleep_{kill}.py", tmp_path / str(kill)
        folder.mkdir()
        script.write_text(ASLEEP.format(tests=str(TESTS), folder=str(folder)), encoding="utf-8")
        parents[kill] = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    for kill, parent in parents.items():
        with parent:
            workers = [psutil.Process(pid) for pid in wait_for_pids(tmp_path / str(kill), 2)]
            parent.send_signal(kill)
            assert parent.wait(20) == stops[signal.Signals(kill)]
        assert not psutil.wait_procs(workers, timeout=10)[1]


def wait_for_pids(folder: Path, wanted: int, seconds: float = 60) -> list[int]:
    """Processes that left their id in a folder, once there are as many as wanted."""
    deadline = time.monotonic() + seconds
    while len(found := [int(path.name) for path in folder.iterdir()]) < wanted:
        assert time.monotonic() < deadline, f"{len(found)} of {wanted} workers came up in {seconds} s"
        time.sleep(0.05)
    return found


def test_workers_that_are_kept_serve_the_next_call_and_end_with_the_block() -> None:
    with engine.workers_kept():
        first = {pid for _, pid in map_jobs(slow_first, range(6), TWO)}
        with engine.workers_kept():
            second = {pid for _, pid in map_jobs(slow_first, range(6), TWO)}
        assert first == second and len(first) == 2
        with pytest.raises(OSError, match="the disk said no"):
            list(map_jobs(refuse, range(2), TWO))
        assert not first & {pid for _, pid in map_jobs(slow_first, range(6), TWO)}
    assert not multiprocessing.active_children()
