"""The engine: maps a function over jobs, in this process, in worker processes, or over Ray; results in order.

Local workers are spawned, hold their model between jobs, run one thread each by default, and end when the parent dies,
also by SIGKILL. Starting them is tried again; a worker that is lost later, and a job that fails, are not. The same bits
come out whatever their number, because a job never sees its neighbours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from tamis.errors import RecipeError, TamisError
from tamis.values import Machine

log = logging.getLogger(__name__)
ENGINES = ("local", "ray")
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


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], on: Machine, processes: int = 1
) -> Iterator[Result]:
    """`function(job)` for every job, in order. `function` and jobs must be picklable by name when workers > 1.

    Under Ray that is always so, and `processes` is the number of GPUs (on a CPU: of processes) that one job takes.
    """
    if on.engine == "ray" and jobs:
        from tamis import ray_engine

        yield from ray_engine.map_jobs(function, jobs, on, _KEPT.get(), processes)
        return
    if on.workers <= 1 or len(jobs) <= 1:
        set_threads(on.threads)
        for job in jobs:
            yield function(job)
        return
    yield from _map_in_workers(function, jobs, on)


@contextmanager
def workers_kept() -> Iterator[None]:
    """Workers that `map_jobs` starts inside stay for its next calls inside: starting them takes seconds.

    They end with the block, or where a call fails. Actors of Ray do too.
    """
    if _KEPT.get() is not None:
        yield
        return
    kept: dict[Any, Any] = {}
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)
        for pool in kept.values():
            pool.close()


def _workers(on: Machine, jobs: int) -> _Workers:
    """Take the workers that were kept, or new ones."""
    kept = _KEPT.get()
    if kept is None:
        return _Workers(min(on.workers, jobs), on.threads)
    return kept.pop((on.workers, on.threads), None) or _Workers(on.workers, on.threads)


def _map_in_workers(function: Callable[[Job], Result], jobs: Sequence[Job], on: Machine) -> Iterator[Result]:
    """Start workers, again where none came up (a process limit, memory that was short for a moment), and map."""
    import time
    from concurrent.futures.process import BrokenProcessPool

    for left in reversed(range(STARTS)):
        pool = _workers(on, len(jobs))
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
        self.size = (workers, threads)
        self.ready = context.Event()  # set by the first worker that came up
        self.inside, self.stop = context.Pipe(duplex=False)  # workers end when the only writer is closed
        initial = (threads, self.ready, self.inside)
        self.executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=initial)

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Results in the order of the jobs."""
        with _unseen_main(), _ctrl_c_held():  # workers are started by submitting
            futures = [self.executor.submit(function, job) for job in jobs]
        for future in futures:
            yield future.result()

    def __enter__(self) -> None:
        """Nothing: workers start with the first jobs, no more than there are jobs."""

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None and (kept := _KEPT.get()) is not None:
            kept[self.size] = self
            return
        if kind is not None and not issubclass(kind, Exception):
            self.stop.close()
        self.close()

    def close(self) -> None:
        """End the workers when what runs is done."""
        self.executor.shutdown(wait=True, cancel_futures=True)
        self.stop.close()
        self.inside.close()


_KEPT: ContextVar[dict[Any, Any] | None] = ContextVar("kept", default=None)  # workers by shape, crews of Ray too


@contextmanager
def _unseen_main() -> Iterator[None]:
    """Keep spawned workers from running the user's script again: jobs are named by modules, never by `__main__`."""
    import sys

    main: Any = sys.modules["__main__"]
    held = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        for name in held:
            setattr(main, name, None)
        if "__file__" in held:
            del main.__file__
        yield
    finally:
        for name, value in held.items():
            setattr(main, name, value)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back: processes started inside never see it, not while they import either; this one does after."""
    import signal

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    *,
    device: str | None = None,
    workers: int | None = None,
    processes: int | None = None,
    threads: int = 1,
    tokens_per_batch: int | None = None,
    engine: str = "local",
) -> Machine:
    """The machine at hand: the first GPU if there is one, else one worker a core (best on a CPU).

    `engine: ray`: GPUs if the cluster at RAY_ADDRESS has any, as many workers as it has room for, and trainings of one
    process each, side by side. Raises RecipeError for an engine that there is not, or that is not installed.
    """
    checked_engine(engine)
    if engine == "ray":
        from tamis import ray_cluster

        ray_cluster.reach()
    if device is None:
        device = _device(engine)
    if workers is None and engine == "local":
        workers = 1 if device != "cpu" else len(os.sched_getaffinity(0))
    if processes is None:
        processes = _gpus() if device == "cuda" and engine == "local" else 1
    return Machine(
        engine=cast(Any, engine),
        device=device,
        threads=threads,
        workers=workers or 0,
        processes=processes,
        tokens_per_batch=tokens_per_batch or (2048 if device == "cpu" else 16384),
    )


def checked_engine(name: object) -> None:
    """RecipeError for an engine that there is not, or that is not installed."""
    if name not in ENGINES:
        raise RecipeError(f"there is no engine {name!r}; engines: {', '.join(ENGINES)}")
    if name == "ray":
        from tamis import ray_cluster

        ray_cluster.check()


def _device(engine: str) -> str:
    import torch

    from tamis import ray_cluster

    if engine == "ray" and ray_cluster.address():
        return ray_cluster.device(Machine(engine="ray"))
    return "cuda" if torch.cuda.is_available() else "cpu"


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())
