"""Health of a workspace, as a monitor asks for it: can it be used, is it whole, how did the last runs end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tamis.operations import locks
from tamis.operations.run_state import GOOD, State, states
from tamis.store import Store

FREE_GB = 2.0
DAMAGE_DAYS = 7
WHAT = {"died": "was killed, or the machine went down"}


def check_workspace(
    workspace: Path, *, verify: bool = False, free_gb: float = FREE_GB, max_age_hours: float | None = None
) -> list[dict[str, Any]]:
    """Checks, each with `what`, `ok`, `found` and whether it is `optional`.

    `verify`: read every file of the store and hold it against its digest. `free_gb`: disk that must be free.
    `max_age_hours`: of the last finished run of every recipe; None asks for no age.
    """
    if not workspace.is_dir():
        return [_check("workspace", False, f"{workspace} does not exist")]
    return [
        _usable(workspace),
        _disk(workspace, free_gb),
        _store(Store(workspace / "store"), verify),
        _left_behind(workspace),
        _turn(workspace),
        *_runs(workspace, max_age_hours),
    ]


def _check(what: str, ok: bool, found: str, *, optional: bool = False) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "optional": optional}


def _usable(workspace: Path) -> dict[str, Any]:
    readable = os.access(workspace, os.R_OK | os.X_OK)
    probe = workspace / f".health.{os.getpid()}"
    try:
        probe.write_bytes(b"ok")
        probe.unlink()
    except OSError as error:
        return _check("workspace", False, f"{workspace} cannot be written to: {error.strerror}")
    return _check("workspace", readable, f"{workspace} can be {'read and ' if readable else ''}written")


def _disk(workspace: Path, free_gb: float) -> dict[str, Any]:
    free = shutil.disk_usage(workspace).free / 1e9
    return _check("disk", free >= free_gb, f"{free:.1f} GB free, {free_gb:g} GB wanted")


def _store(store: Store, verify: bool) -> dict[str, Any]:
    if verify:
        damages = store.verify()
        said = "; ".join(str(one) for one in damages[:3])
        more = f" and {len(damages) - 3} more" if len(damages) > 3 else ""
        return _check("store", not damages, f"{said}{more}" if damages else "every file has its digest")
    since = time.strftime("%Y-%m-%d", time.localtime(time.time() - 86400 * DAMAGE_DAYS))
    recent = [one for one in store.damages() if one["at"] >= since]
    if not recent:
        return _check("store", True, f"no damage met in {DAMAGE_DAYS} days; --verify reads everything")
    return _check(
        "store", False, f"{len(recent)} damaged entries in {DAMAGE_DAYS} days, the last: {recent[-1]['what']}"
    )


def _left_behind(workspace: Path) -> dict[str, Any]:
    """Half-made things of dead processes: no fault, the next run takes them away or goes on with them."""
    half = len(list((workspace / "store").glob("*/*/partial-*")))
    trainings = len(list((workspace / "store").glob("*/*/resumable-*")))
    trash = len(list((workspace / "trash").glob("*")))
    busy = locks.is_held(workspace / locks.IN_USE)
    who = ", ".join(map(str, locks.holders(workspace / locks.IN_USE)))
    parts = [f"in use by {who or 'a process'}" if busy else "nobody works in it"]
    parts += [f"{half} unfinished entries"] if half else []
    parts += [f"{trainings} trainings to go on with"] if trainings else []
    parts += [f"{trash} things in the trash (tamis gc was stopped)"] if trash else []
    return _check("work", True, ", ".join(parts))


def _turn(workspace: Path) -> dict[str, Any]:
    path = workspace / locks.TURN
    if not locks.is_held(path):
        return _check("turn", True, "no scheduled run has it")
    return _check("turn", True, path.read_text(encoding="utf-8", errors="replace") or "a scheduled run has it")


def _runs(workspace: Path, max_age_hours: float | None) -> Iterator[dict[str, Any]]:
    last: dict[str, State] = {}
    finished: dict[str, State] = {}
    for state in states(workspace / "runs"):
        last[state.recipe] = state
        if state.outcome == "finished":
            finished[state.recipe] = state
    for name, state in sorted(last.items()):
        age = (time.time() - (state.ended or state.began)) / 3600
        said = f"{state.outcome} {_hours(age)} ago"
        said += f": {WHAT.get(state.outcome) or state.message}" if state.outcome not in GOOD else ""
        good = finished.get(name)
        old = (time.time() - (good.ended or good.began)) / 3600 if good is not None else None
        late = max_age_hours is not None and (old is None or old > max_age_hours)
        said += f"; the last finished {'never' if old is None else f'{_hours(old)} ago'}" if late else ""
        yield _check(f"run {name}", state.outcome in GOOD and not late, said)
    if not last:
        yield _check("runs", max_age_hours is None, "none yet")


def _hours(hours: float) -> str:
    """A time for people.

    >>> _hours(0.5), _hours(30), _hours(300)
    ('30 min', '30 h', '12 days')
    """
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
