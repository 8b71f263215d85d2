"""Metering: how much memory a stage takes at its peak, workers included, and how fast it goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.store import MANIFEST

if TYPE_CHECKING:
    from tamis.pool import Shard

EVERY_SECONDS = 0.25
NOT_OURS = b"tamis.flows.server"  # Prefect's server is a child of a run, and no part of its work


class Meter:
    """Peak of the resident memory of this process and its descendants while it runs, in bytes (Linux; 0 elsewhere).

    Pages that processes share count in each of them: an upper bound.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tamis-meter", daemon=True)

    def __enter__(self) -> Meter:
        self.peak = resident()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def look(self) -> None:
        """Look now, whenever the next time would be."""
        self.peak = max(self.peak, resident())

    def _watch(self) -> None:
        while not self._done.wait(EVERY_SECONDS):
            self.look()


def resident() -> int:
    """Resident memory of this process and its descendants, in bytes, but for Prefect's server; 0 where unknown."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(_pages(pid) for pid in _family(os.getpid())) * page


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in _children(pid):
        if NOT_OURS not in _read(Path(f"/proc/{child}/cmdline")):
            yield from _family(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in _names(Path(f"/proc/{pid}/task")):
        found += map(int, _read(Path(f"/proc/{pid}/task/{task}/children")).split())
    return found


def _names(folder: Path) -> list[str]:
    try:
        return [task.name for task in folder.iterdir()]
    except OSError:  # it has ended
        return []


def _pages(pid: int) -> int:
    parts = _read(Path(f"/proc/{pid}/statm")).split()
    return int(parts[1]) if len(parts) > 1 else 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def rows_since(shards: Iterable[Shard], began: float) -> int:
    """Rows of the shards that were written since a time (seconds since 1970), by this process or another."""
    return sum(one.rows for one in shards if (one.path / MANIFEST).stat().st_mtime >= began)


def rates(rows: float, tokens: float, seconds: float) -> dict[str, Any]:
    """Rows and tokens done, and how many a second; what is not known (0) is left out.

    >>> rates(50, 0, 2.0)
    {'rows': 50, 'rows_per_second': 25.0}
    """
    found: dict[str, Any] = {}
    for name, value in (("rows", rows), ("tokens", tokens)):
        if value and seconds > 0:
            found |= {name: int(value), f"{name}_per_second": round(value / seconds, 1)}
    return found
