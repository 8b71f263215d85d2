"""The local engine: maps a function over jobs, in this process or in worker processes, results in order.

Workers are spawned, hold their model between jobs, run one thread each by default, and end when the parent dies, also
by SIGKILL. The same bits come out whatever their number, because a job never sees its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from tamis.errors import TamisError
from tamis.values import Machine

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
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    workers = min(on.workers, len(jobs))
    executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(on.threads,)
    )
    try:
        futures = [executor.submit(function, job) for job in jobs]
        for future in futures:
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerLost(
            "a worker process died (killed, or out of memory); finished shards are kept: run the same command again, "
            "with fewer workers or fewer tokens per batch if memory was short"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def set_threads(threads: int) -> None:
    """Fix the threads of torch, so that sums come out in the same order everywhere."""
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _start_worker(threads: int) -> None:
    import multiprocessing
    import signal
    import threading
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    set_threads(threads)


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
