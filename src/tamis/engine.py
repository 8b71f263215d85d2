"""The local engine: maps a function over jobs, in this process or in worker processes, results in order.

Workers are spawned, hold their model between jobs, run one thread each by default, and end when the parent dies, also
by SIGKILL. Starting them is tried again; a worker that is lost later, and a job that fails, are not. The same bits come out whatever their number, because a job never sees its neighbours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tamis.errors import TamisError
from tamis.values import Machine

log = logging.getLogger(__name__)
STARTS = 3  # tries to start workers
RESTART_SECONDS = 1.0
LOST = (
    "a worker process died (killed, or out of memory); finished shards are kept: run the same command again, "
    "with fewer workers or fewer tokens per batch if memory was short"
)
Job = TypeVar("Job")
Result = TypeVar("Result")


class WorkerLost(TamisError):
    """A worker process died (killed, or out of memory); what is finished is kept."""


def map_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], on: Machine) -> Iterator[Result]:
    """`function(job)` for every job, in order. `function` and jobs must be picklable by name when workers > 1."""
    if on.workers <= 1 or len(jobs) <= 1:
        set_threads(on.threads)
        for job in jobs:
            yield function(job)
        return
    yield from _map_in_workers(function, jobs, on)


def _map_in_workers(function: Callable[[Job], Result], jobs: Sequence[Job], on: Machine) -> Iterator[Result]:
    """Start workers, again where none came up (a process limit, memory that was short for a moment), and map."""
    import time
    from concurrent.futures.process import BrokenProcessPool

    for left in reversed(range(STARTS)):
        pool = _Workers(min(on.workers, len(jobs)), on.threads)
        try:
            with pool:
                yield from pool.map(function, jobs)
            return
        except (BrokenProcessPool, OSError) as error:
            if isinstance(error, OSError) and pool.ready.is_set():
                raise  # of a job, which is not tried again
            if pool.ready.is_set():
                raise WorkerLost(LOST) from error
            if not left:
                raise WorkerLost(f"no worker process could be started in {STARTS} tries: {error}") from error
            log.warning("no worker process came up (%s); trying again", error)
            time.sleep(RESTART_SECONDS)


class _Workers:
    """A pool of workers. Left by an error it ends what runs; left by a signal it ends the workers where they stand."""

    def __init__(self, workers: int, threads: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        self.ready = context.Event()  # set by the first worker that came up
        self.inside, self.stop = context.Pipe(duplex=False)  # workers end when the only writer is closed
        initial = (threads, self.ready, self.inside)
        self.executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=initial)

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Results in the order of the jobs."""
        for future in [self.executor.submit(function, job) for job in jobs]:
            yield future.result()

    def __enter__(self) -> None:
        """Nothing: workers start with the first job."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.stop.close()
        self.executor.shutdown(wait=True, cancel_futures=True)
        self.stop.close()
        self.inside.close()


def set_threads(threads: int) -> None:
    """Fix the threads of torch, so that sums come out in the same order everywhere."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _start_worker(threads: int, ready: Any, stop: Any) -> None:
    import multiprocessing
    import signal
    import threading
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    set_threads(threads)
    ready.set()


def machine(
    *, device: str | None = None, workers: int | None = None, threads: int = 1, tokens_per_batch: int | None = None
) -> Machine:
    """This machine: the first GPU if there is one, else one worker a core (measured best on CPU, baselines.md)."""
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if workers is None:
        workers = 1 if device != "cpu" else len(os.sched_getaffinity(0))
    return Machine(
        device=device,
        threads=threads,
        workers=workers,
        tokens_per_batch=tokens_per_batch or (2048 if device == "cpu" else 16384),
    )
