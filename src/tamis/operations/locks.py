"""Locks that the operating system drops when their holder dies: who works in a workspace, and which run is alive.

A workspace is *shared* by every process that takes something out of its store, until that process ends; what removes
things (`tamis gc`) wants it *alone*. A scheduled run waits for its turn. `flock` of POSIX on small files that stay.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.errors import GateError, StoreError

log = logging.getLogger(__name__)
IN_USE = "in-use.lock"  # in a workspace: shared by those who read its store
TURN = "turn.lock"  # in a workspace: held by the scheduled run that has its turn
POLL_SECONDS = 0.5
_HELD: dict[Path, int] = {}  # descriptors of this process


def share(workspace: Path) -> None:
    """Be one of those who use this workspace, until this process ends or `leave` is called; waits out a `tamis gc`."""
    _hold(workspace / IN_USE, fcntl.LOCK_SH)


def leave(path: Path) -> None:
    """Give up a lock of this process, if it has it."""
    descriptor = _HELD.pop(path, None)
    if descriptor is not None:
        os.close(descriptor)


def hold(path: Path) -> None:
    """Hold a file alone until this process ends or `leave` is called. The file is made if it is not there."""
    _hold(path, fcntl.LOCK_EX)


def _hold(path: Path, how: int) -> None:
    if path in _HELD:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(descriptor, how)
    _HELD[path] = descriptor


def is_held(path: Path) -> bool:
    """Whether a living process, this one included, holds a file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holders(path: Path) -> list[int]:
    """Ids of the processes that hold a file, as far as the system tells (Linux does)."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines if "->" not in line]
    return sorted({int(one[4]) for one in fields if one[1] == "FLOCK" and one[5].rpartition(":")[2] == str(inode)})


@contextmanager
def alone(workspace: Path) -> Iterator[None]:
    """Have a workspace alone. StoreError with the processes that use it where there are any.

    What this process itself held of it is given up: it asks for it.
    """
    path = workspace / IN_USE
    leave(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = ", ".join(map(str, holders(path))) or "one that the system does not name"
            raise StoreError(
                f"{workspace} is in use (process {who}); nothing was removed. Wait until the run or the notebook has "
                "ended, and try again"
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def turn(workspace: Path, who: str, wait: float) -> Iterator[None]:
    """Have the turn in a workspace: one scheduled run at a time, whatever its recipe. GateError after `wait` seconds.

    `who` is written into the file for those who wait. The turn of a process that was killed is free at once.
    """
    path = workspace / TURN
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait_for(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{who} (process {os.getpid()})".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path, wait: float) -> None:
    deadline, said = time.monotonic() + wait, ""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            other = path.read_text(encoding="utf-8", errors="replace") or "another run"
            if time.monotonic() > deadline:
                raise GateError(
                    f"{other} has had the workspace {path.parent} for longer than the {wait / 3600:.3g} h that this "
                    "run waits; nothing was started. See `tamis health`, give another --workspace, or wait longer"
                ) from None
            if other != said:
                log.info("waiting for %s, which works in %s", other, path.parent)
                said = other
            time.sleep(POLL_SECONDS)
