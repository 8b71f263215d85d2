"""Room: is there disk for what a run is going to write? Asked when the rows are known, before the first stage."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tamis.errors import GateError
from tamis.stages.conduct import Conductor

log = logging.getLogger(__name__)
CHECK = "TAMIS_DISK_CHECK"  # "off": never refuse
RESERVE = 64_000_000  # bytes that are left free: run folder, report, Prefect's records
MADE = ("signal", "training", "columns", "subset", "fit", "items")  # kinds of the store that stages after ingest write


def check_room(conductor: Conductor) -> None:
    """GateError where the disk has less room than the run is going to write, by its plan; says what is missing.

    What lies in the store already counts as written, so that a run which goes on is not refused for its own files.
    """
    if os.environ.get(CHECK) == "off":
        return
    from tamis.stages.plan import disk_of

    needed = disk_of(conductor)
    root = conductor.work.root
    free = shutil.disk_usage(root).free
    log.info("disk: about %s to write, %s free under %s", said(needed), said(free), root)
    if needed + RESERVE <= free:
        return
    left = max(0, needed - stored(root / "store"))
    if left + RESERVE > free:
        raise GateError(
            f"this run is going to write about {said(left)} and keeps {said(RESERVE)} free, but {said(free)} are free "
            f"under {root}: {said(left + RESERVE - free)} are missing. Free some, point --workspace at another disk, "
            "or pass --no-disk-check to try all the same"
        )


@contextmanager
def check_kept(on: bool) -> Iterator[None]:
    """Inside, runs are refused where the disk is too small for them, or not; processes started inside do likewise."""
    before = os.environ.get(CHECK)
    if not on:
        os.environ[CHECK] = "off"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CHECK, None)
        else:
            os.environ[CHECK] = before


def stored(store: Path) -> int:
    """Bytes of the entries that stages after ingest wrote."""
    return sum(
        file.stat().st_size
        for kind in MADE
        for file in (store / kind).rglob("*")
        if file.is_file() and not file.is_symlink()
    )


def said(count: float) -> str:
    """Bytes in words.

    >>> said(2_500_000), said(7e10)
    ('2.5 MB', '70 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"
