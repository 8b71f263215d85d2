"""The engine over a Ray cluster: a function mapped over jobs by actors that hold their model between jobs.

One actor a GPU, or one for as many CPUs as a worker has threads; one job at a time each, so that no more jobs are on
their way than there are actors, and a job that ends its worker is known. A worker that is lost (killed, out of memory,
its node gone) is replaced and its job done again, three times at most; an error of a job is raised as it is. Results
come in the order of the jobs, with the bits of the local engine, because a job never sees its neighbours.

What jobs read and write travels as paths: all nodes must see the same workspace, which every worker proves with a file
before it is given work.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tamis import __version__
from tamis.engine import WorkerLost, set_threads
from tamis.errors import RecipeError, StoreError, TamisError
from tamis.models import ModelRef, content_digest, folder_of
from tamis.operations import deadline
from tamis.ray_cluster import connected, room
from tamis.values import Machine

log = logging.getLogger(__name__)
TRIES = 3  # of a job whose worker was lost
LOOK_SECONDS = 5.0
SEEN_SECONDS = (
    20.0  # until a file that a node wrote is seen by another: network file systems remember what is not there
)
START_SECONDS = 600.0  # until the first worker came up
ALIKE = ("torch", "transformers", "numpy")  # packages whose version can change bits
Job = TypeVar("Job")
Result = TypeVar("Result")
_INSIDE = {"worker": False}


class Worker:
    """What an actor is on its node: it runs jobs, one thread of arithmetic each unless the machine says more."""

    def __init__(self, threads: int, folder: str) -> None:
        _INSIDE["worker"] = True
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if Path(folder).is_dir():
            os.chdir(folder)  # names of models and files may be relative to where the run was started
        set_threads(threads)
        self.checked: set[tuple[str, str]] = set()

    def ready(self, probes: Sequence[str]) -> dict[str, str]:
        """Versions of this node, and an answer beside each probe that it sees."""
        answer = secrets.token_hex(4)
        for probe in probes:
            if _appears(Path(probe)):
                Path(f"{probe}-{answer}").touch()
        return {"node": os.uname().nodename, "answer": answer, **_versions()}

    def run(
        self, function: Callable[[Any], Any], job: Any, models: Mapping[str, str], until: str
    ) -> tuple[Any, list[Any]]:
        """The result of a job, and what it logged that somebody should read. `until`: the run's deadline, if any."""
        os.environ[deadline.UNTIL] = until or "inf"
        for name, digest in models.items() - self.checked:
            if content_digest(folder_of(name)) != digest:
                raise StoreError(
                    f"model {name!r} on node {os.uname().nodename} is another than on the machine that started the "
                    "run: give it as a folder that all nodes see, or update the copy"
                )
            self.checked.add((name, digest))
        with _listened() as said:
            result = function(job)
        return result, said


def map_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], on: Machine, kept: dict[Any, Any] | None, processes: int
) -> Iterator[Result]:
    """`function(job)` for every job, in order; see `tamis.engine.map_jobs`. Inside a worker jobs run where they are.

    `kept`: crews that stay for the next call. `processes`: GPUs (CPUs) that one job takes, all on one node.

    Raises WorkerLost for a job whose worker was lost three times, StoreError where a node sees another workspace or
    model, RecipeError where versions differ, Ray is missing, or the cluster has no room for a worker.
    """
    if _INSIDE["worker"]:
        yield from map(function, jobs)
        return
    crew = _crew(on, kept if kept is not None else {}, processes)
    with ExitStack() as unless_kept:
        unless_kept.callback(crew.close)
        yield from crew.map(function, jobs)
        if kept is not None:
            unless_kept.pop_all()
            kept[crew.shape] = crew


def _crew(on: Machine, kept: dict[Any, Any], processes: int) -> _Crew:
    """The crew that was kept, or a new one; those of other shapes go, for they hold what this one needs."""
    gpus = 0 if on.device == "cpu" else processes
    shape = ("ray", gpus, processes * on.threads)
    found: _Crew | None = kept.pop(shape, None)
    for other in [key for key in kept if key[0] == "ray"]:
        kept.pop(other).close()
    return found or _Crew(on, shape)


class _Crew:
    """Actors of one shape, those that come up and those that wait for work."""

    def __init__(self, on: Machine, shape: tuple[str, int, int]) -> None:
        _, gpus, cpus = self.shape = shape
        self.on = on
        self.stack = ExitStack()
        self.stack.enter_context(connected(on))
        self.options = {"num_gpus": gpus, "num_cpus": cpus, "max_restarts": 0, "max_task_retries": 0}
        self.size = on.workers or room(cpus, gpus)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, int]] = {}
        self.failed = 0
        self.probes: list[Path] = []
        if not self.size:
            self.stack.close()
            what = f"{gpus} GPU and {cpus} CPU" if gpus else f"{cpus} CPU"
            raise RecipeError(
                f"no node of the Ray cluster has {what} for one worker; add nodes, say --device cpu, or --workers N "
                "to wait for N workers"
            )

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Results in the order of the jobs."""
        models, until = models_in(jobs[0]), os.environ.get(deadline.UNTIL, "")
        waiting = deque(range(len(jobs)))
        tries: Counter[int] = Counter()
        done: dict[int, Result] = {}
        following = 0
        with _probed(jobs, self.probes):
            while following < len(jobs):
                self._grow(len(waiting))
                while waiting and self.idle:
                    actor, place = self.idle.pop(), waiting.popleft()
                    self.busy[actor.run.remote(function, jobs[place], models, until)] = (actor, place)
                for place, outcome in self._look():
                    if isinstance(outcome, _Lost):
                        waiting.appendleft(place)
                        tries[place] += 1
                        _count(tries[place], place, len(jobs), outcome)
                    else:
                        done[place] = outcome
                while following in done:
                    yield done.pop(following)
                    following += 1

    def _grow(self, waiting: int) -> None:
        """Ask for as many actors as there is work for, and the cluster has room."""
        import ray

        there = len(self.idle) + len(self.starting)
        for _ in range(min(waiting - there, self.size - there - len(self.busy))):
            actor: Any = ray.remote(Worker).options(**self.options).remote(self.on.threads, str(Path.cwd()))
            self.starting[actor.ready.remote([str(probe) for probe in self.probes])] = actor
            self.since = time.monotonic()

    def _look(self) -> Iterator[tuple[int, Any]]:
        """(place, result or loss) of the jobs that ended; actors that came up wait for work from now on."""
        import ray

        ended, _ = ray.wait([*self.busy, *self.starting], timeout=LOOK_SECONDS)
        if not (ended or self.busy) and time.monotonic() - self.since > START_SECONDS:
            has, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
            raise TamisError(
                f"no worker came up on the Ray cluster in {START_SECONDS:g} s; it has {has}, of which {free} are free"
            )
        for reference in ended:
            outcome = _outcome(reference)
            if reference in self.starting:
                self._came_up(self.starting.pop(reference), outcome)
                continue
            actor, place = self.busy.pop(reference)
            if not isinstance(outcome, _Lost):
                self.idle.append(actor)
                outcome, said = outcome
                _repeat(said)
            yield place, outcome

    def _came_up(self, actor: Any, found: Any) -> None:
        if isinstance(found, _Lost):
            self.failed += 1
            if self.failed >= TRIES:
                raise WorkerLost(f"no worker came up on the Ray cluster in {TRIES} tries: {found.error}")
            log.warning("a worker did not come up (%s); trying again", found.error)
            return
        _check_node(found, self.probes)
        self.failed = 0
        self.idle.append(actor)

    def close(self) -> None:
        """End the actors where they stand, and the connection with them if nothing else needs it."""
        import ray

        for actor in [*self.idle, *self.starting.values(), *[actor for actor, _ in self.busy.values()]]:
            ray.kill(actor)
        self.idle, self.starting, self.busy = [], {}, {}
        self.stack.close()


@dataclasses.dataclass(frozen=True)
class _Lost:
    """What is known of a worker that is gone."""

    error: Exception


def _outcome(reference: Any) -> Any:
    """What a call gave, or _Lost; an error of the call itself is raised as it was."""
    import ray
    from ray import exceptions

    try:
        return ray.get(reference)
    except exceptions.RayTaskError as error:
        cause: BaseException = error.cause
        raise cause from None
    except (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    ) as error:
        return _Lost(error)
    except exceptions.RayError as error:
        raise WorkerLost(f"the Ray cluster is gone ({error}); what is finished is kept: run again") from error


def _count(lost: int, place: int, jobs: int, outcome: _Lost) -> None:
    reason = " ".join(str(outcome.error).split())[:300]
    if lost >= TRIES:
        raise WorkerLost(
            f"job {place + 1} of {jobs} lost its worker {TRIES} times (killed, or out of memory); finished shards are "
            f"kept: run the same command again, with fewer tokens per batch if memory was short. Ray says: {reason}"
        )
    log.warning("the worker of job %d of %d was lost; it is done again by another (%s)", place + 1, jobs, reason)


@contextmanager
def _probed(jobs: Sequence[Any], probes: list[Path]) -> Iterator[None]:
    """A file in every store that jobs name, while they run, for the workers to find and to answer beside it."""
    roots = {Path(job.store.root) for job in jobs if hasattr(job, "store")}
    token = secrets.token_hex(8)
    for root in sorted(roots):
        root.mkdir(parents=True, exist_ok=True)
        probes.append(root / f".seen-{token}")
        probes[-1].touch()
    try:
        yield
    finally:
        for probe in probes:
            for file in probe.parent.glob(f"{probe.name}*"):
                file.unlink(missing_ok=True)
        probes.clear()


def _check_node(found: Mapping[str, str], probes: Sequence[Path]) -> None:
    """Refuse a node that does not see the workspace or runs another tamis; say where other packages differ."""
    node = found["node"]
    for probe in probes:
        if not _appears(probe.with_name(f"{probe.name}-{found['answer']}")):
            raise StoreError(
                f"node {node} of the Ray cluster does not see the workspace {probe.parent.parent}: --workspace must "
                "lie on storage that all nodes mount at the same path, and may write to"
            )
    if found["tamis"] != __version__:
        raise RecipeError(f"node {node} runs tamis {found['tamis']}, this machine {__version__}: install the same")
    differ = [f"{name} {found[name]} and {ours}" for name, ours in _versions().items() if found[name] != ours]
    if differ:
        log.warning("node %s and this machine differ, so that bits may: %s", node, ", ".join(differ))


def _appears(file: Path) -> bool:
    """Whether a file that another node has written is there, or comes into sight soon."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        os.listdir(file.parent) if file.parent.is_dir() else None  # noqa: PTH208  a reason to look again
        time.sleep(0.2)
    return True


def _versions() -> dict[str, str]:
    return {"tamis": __version__, **{name: importlib.metadata.version(name) for name in ALIKE}}


def models_in(value: Any) -> dict[str, str]:
    """Names of the models that a job holds in its fields, and of theirs, with the digests of their content."""
    if isinstance(value, ModelRef):
        return {value.name: content_digest(folder_of(value.name))}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    found: dict[str, str] = {}
    for field in dataclasses.fields(value):
        found |= models_in(getattr(value, field.name))
    return found


@contextmanager
def _listened() -> Iterator[list[tuple[str, int, str]]]:
    """Collect warnings of tamis while a job runs: a worker has no terminal."""
    said: list[tuple[str, int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.name, record.levelno, record.getMessage()))

    handler, logger = Keep(logging.WARNING), logging.getLogger("tamis")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _repeat(said: Sequence[tuple[str, int, str]]) -> None:
    for name, level, text in said:
        logging.getLogger(name).log(level, "%s", text)
