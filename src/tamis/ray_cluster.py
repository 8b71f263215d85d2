"""A Ray cluster: the one at RAY_ADDRESS, or one of this machine alone, which ends with what needed it.

A cluster of our own listens on 127.0.0.1, has no dashboard, reports nothing, and its processes die with this one,
however that ends. Its logs lie in a folder of its own while it lives.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tamis.errors import RecipeError, TamisError
from tamis.values import Machine

log = logging.getLogger(__name__)
ADDRESS = "RAY_ADDRESS"
STARTS = 3  # tries to start a cluster of our own: Ray gives its helpers 15 s, which a busy machine may not keep
REACH_SECONDS = 10.0
FOLDER = "tamis-ray-"  # and the id of the process: logs and sockets of a cluster of our own
OBJECTS = 100 << 20  # bytes of Ray's object store: paths and digests travel, never data
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU keep CUDA_VISIBLE_DEVICES as it is
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray listens on 127.0.0.1 alone, on Linux too
MISSING = "engine: ray needs Ray, which is not installed: pip install 'tamis[ray]', or use engine: local"
_OPEN: dict[str, Any] = {"blocks": 0, "end": None}  # of this process, as Ray's own connection is


def installed() -> bool:
    """Whether Ray can be imported; it is not imported here."""
    return importlib.util.find_spec("ray") is not None


def check() -> None:
    """RecipeError where Ray is not installed."""
    if not installed():
        raise RecipeError(MISSING)


def address() -> str:
    """Where the cluster is that RAY_ADDRESS names; empty where this machine is to make one."""
    named = os.environ.get(ADDRESS, "")
    return "" if named == "local" else named


def reach() -> None:
    """RecipeError where nobody listens at RAY_ADDRESS: Ray itself tries for minutes, in the middle of a run."""
    host, _, port = address().removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # `auto`, or none
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _nobody(error) from error


def _nobody(error: object) -> RecipeError:
    return RecipeError(
        f"no Ray cluster answers at {ADDRESS}={address()} ({error}); start one with `ray start --head`, or unset "
        f"{ADDRESS} to use this machine alone; where the cluster wants a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN "
        "are needed here too"
    )


@contextmanager
def kept() -> Iterator[None]:
    """Inside, a connection to a cluster that something made stays for the next: starting one takes seconds.

    Blocks may nest; the last to end ends the connection, and the cluster if it is ours.
    """
    _OPEN["blocks"] += 1
    try:
        yield
    finally:
        _OPEN["blocks"] -= 1
        if not _OPEN["blocks"] and _OPEN["end"] is not None:
            end, _OPEN["end"] = _OPEN["end"], None
            end()


@contextmanager
def connected(on: Machine) -> Iterator[None]:
    """Inside, this process is connected to a cluster, and longer where `kept`.

    Raises RecipeError where Ray is not installed or nobody answers at RAY_ADDRESS, TamisError where no cluster comes
    up on this machine.
    """
    with kept():
        if _OPEN["end"] is None:
            _OPEN["end"] = _begin(on)
        yield


def _begin(on: Machine) -> Callable[[], None]:
    """Connect; returns what ends it. A connection that somebody else made is used and left alone."""
    check()
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    named = address()
    if not named:
        os.environ.setdefault(_LOOPBACK, "0")  # read when Ray is imported
    import ray

    if ray.is_initialized():
        return _nothing
    if not named:
        return _start(ray, on)
    reach()
    try:
        with _handlers_kept():
            ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _nobody(error) from error
    log.info("attached to the Ray cluster at %s", named)
    return lambda: ray.shutdown()


def _nothing() -> None:
    """Leave the connection as it is."""


def _start(ray: Any, on: Machine) -> Callable[[], None]:
    """A cluster of this machine, with as many CPUs as the run wants workers; Ray starts a process for each."""
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one into the user's home
    workers = on.workers or len(os.sched_getaffinity(0))
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    _sweep(parent)
    for left in reversed(range(STARTS)):
        folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=parent)
        with _Try() as attempt, _handlers_kept():
            ray.init(
                address="local",
                num_cpus=max(workers, on.processes) * on.threads,
                num_gpus=0 if on.device == "cpu" else None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=OBJECTS,
                _temp_dir=folder,  # short: Ray keeps sockets in it
            )
        if attempt.error is None:
            break
        shutil.rmtree(folder, ignore_errors=True)
        if not left:
            raise TamisError(
                f"Ray did not come up on this machine in {STARTS} tries: {attempt.error} On a machine this busy use "
                f"engine: local, or start a cluster with `ray start --head` and name it by {ADDRESS}"
            ) from attempt.error
        log.warning("Ray did not come up (%s); trying again", attempt.error)

    def end() -> None:
        ray.shutdown(wait_for_processes=True)
        shutil.rmtree(folder, ignore_errors=True)

    return end


def _sweep(parent: Path) -> None:
    """Remove the logs of clusters whose process was killed."""
    for folder in parent.glob(f"{FOLDER}*-*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


class _Try:
    """Holds what Ray raises where a helper comes up late: Exception itself, and its kin. All else passes."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> _Try:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        late = kind is Exception or (kind is not None and issubclass(kind, (RuntimeError, OSError)))
        self.error = error if late else None
        return late


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM; ours says that the run can be resumed, and Prefect's ends the flow."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(TypeError):  # a handler that was not set from Python
            signal.signal(signal.SIGTERM, before)


def room(cpus: float, gpus: float) -> int:
    """How many workers of this shape the living nodes of the cluster hold at once."""
    import ray

    found = 0
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            has = node["Resources"]
            found += int(min(has.get("CPU", 0) // cpus, has.get("GPU", 0) // gpus if gpus else float("inf")))
    return found


def device(on: Machine) -> str:
    """`cuda` where the cluster at RAY_ADDRESS has a GPU, `cpu` where it has none."""
    with connected(on):
        return "cuda" if room(1, 1) else "cpu"
