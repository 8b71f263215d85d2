"""Retention: which run folders and which entries of the store may go, and their removal.

An entry goes if runs that go have used it and nothing else has: no run that stays, no verb (`tamis score`, Python), no
pin, no pool that is registered. What nobody is known to have used stays, unless it is older than `unused_days`.
Runs move into `trash/` first, whole, then the entries that only they had used, then the trash is emptied: a removal
that is killed leaves whole entries or none, and the next one goes on with what lies in the trash.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from tamis.errors import DataError
from tamis.operations import locks, uses
from tamis.operations.run_state import State, states
from tamis.pins import FOLDER as PINS
from tamis.pool import MANIFEST as POOL
from tamis.store import MANIFEST, Store

TRASH = "trash"
REGISTERED = "pools"  # folder of the columns that are registered, and the kind under which they are noted
ROWS = ("shard", "rejects")  # a pool folder anywhere may be made of them, and opening it is no use that is noted
RESUMABLE_DAYS = 7  # a training that was stopped waits so long for somebody to go on with it
Key = tuple[str, str]  # kind and identity of an entry


@dataclass(frozen=True)
class Rules:
    """What stays: the last `keep` finished runs of every recipe, those whose names hold one of `protect`.

    `unused_days`: entries that no run that stays has used for so long go too, whoever made them, but for the rows of
    pools; None keeps them.
    """

    keep: int = 10
    protect: tuple[str, ...] = ()
    unused_days: int | None = None


@dataclass
class Removal:
    """What goes, with its size in bytes, and what is to be known of it."""

    runs: dict[Path, int] = field(default_factory=dict)
    entries: dict[Path, int] = field(default_factory=dict)
    others: dict[Path, int] = field(default_factory=dict)  # trainings that nobody went on with, trash
    kept_runs: list[str] = field(default_factory=list)
    kept_entries: int = 0
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """As plain JSON, sizes in MB."""
        sizes = {"runs": self.runs, "entries": self.entries, "others": self.others}
        found: dict[str, Any] = {f"{name}_mb": _mb(sum(one.values())) for name, one in sizes.items()}
        kinds: dict[str, list[int]] = {}
        for path, size in self.entries.items():
            kinds.setdefault(_key(path)[0], []).append(size)
        return {
            "runs": [path.name for path in self.runs],
            "entries": {kind: {"count": len(some), "mb": _mb(sum(some))} for kind, some in sorted(kinds.items())},
            "others": len(self.others),
            **found,
            "mb": _mb(sum(sum(one.values()) for one in sizes.values())),
            "kept_runs": self.kept_runs,
            "kept_entries": self.kept_entries,
            "notes": self.notes,
        }


def collect(workspace: Path, rules: Rules, *, dry_run: bool = False) -> Removal:
    """Remove what may go, or only say it (`dry_run`). StoreError while anybody uses the workspace."""
    if not workspace.is_dir():
        raise DataError(f"there is no workspace {workspace}; say --workspace")
    with locks.alone(workspace):
        found = _judged(workspace, rules)
        if not dry_run:
            _remove(workspace, found)
            Store(workspace / "store").sweep()
            uses.forget()
    return found


def _judged(workspace: Path, rules: Rules) -> Removal:
    kept, gone = _parted(states(workspace / "runs"), rules)
    found = Removal(kept_runs=[state.folder.name for state in kept])
    found.runs = {state.folder: size_of(state.folder) for state in gone}
    half = [path for path in sorted((workspace / TRASH).glob("*")) if path.is_dir()]
    found.others |= {path: size_of(path) for path in half}
    before = [state.folder.name for state in kept if not (state.folder / uses.ENTRIES).is_file() and _wrote(state)]
    _judge_entries(workspace, rules, found, kept, [*found.runs, *half], before)
    found.others |= {path: size_of(path) for path in _stale(workspace)}
    return found


def _wrote(state: State) -> bool:
    """Whether a run may have used something of the store: one from before uses were noted, or one that has finished."""
    return state.outcome == "finished" or not (state.folder / "state.json").is_file()


def _parted(runs: Sequence[State], rules: Rules) -> tuple[list[State], list[State]]:
    """Runs that stay and runs that go, oldest first. One that did not finish stays as long as a later one stays."""
    kept: list[State] = []
    gone: list[State] = []
    counts: dict[tuple[str, bool], int] = {}
    for state in reversed(runs):
        own = (state.recipe, state.outcome == "finished")
        full = counts.get((state.recipe, True), 0) >= rules.keep or counts.get(own, 0) >= rules.keep
        named = any(name in state.folder.name for name in rules.protect)
        if full and not named and state.outcome != "running":
            gone.append(state)
            continue
        kept.append(state)
        counts[own] = counts.get(own, 0) + 1
    return kept[::-1], gone[::-1]


def _judge_entries(
    workspace: Path, rules: Rules, found: Removal, kept: Sequence[State], gone: Sequence[Path], before: Sequence[str]
) -> None:
    if before:
        found.notes.append(
            f"nothing is removed from the store as long as {before[-1]} stays: it is from before runs noted what "
            "they used"
        )
        return
    oldest = _day(rules.unused_days)
    verbs = uses.read(workspace / uses.ENTRIES)
    wanted = set(_wanted(workspace, kept, oldest))
    of_gone = {key for folder in gone for key in uses.read(folder / uses.ENTRIES)}
    for path in (*_entries(workspace / "store"), *_registered(workspace / REGISTERED)):
        key = _key(path)
        last = verbs.get(key, "")
        unused = oldest is not None and key[0] not in ROWS and max(last, _written(path)) < oldest
        if key not in wanted and (unused or (key in of_gone and key not in verbs)):
            found.entries[path] = size_of(path)
        else:
            found.kept_entries += 1


def _day(days: int | None) -> str | None:
    return None if days is None else (date.today() - timedelta(days=days)).isoformat()


def _written(path: Path) -> str:
    file = path / ("columns.json" if path.parent.name == REGISTERED else MANIFEST)
    return date.fromtimestamp(file.stat().st_mtime).isoformat()


def _key(path: Path) -> Key:
    return (REGISTERED if path.parent.name == REGISTERED else path.parent.parent.name), path.name


def _wanted(workspace: Path, kept: Iterable[State], oldest: str | None) -> Iterator[Key]:
    """Entries that runs that stay have used, that a pin holds, or that a pool is made of which stays."""
    for state in kept:
        yield from uses.read(state.folder / uses.ENTRIES)
        yield from _shards_of(state.folder / POOL)
    for file in (workspace / REGISTERED).glob(f"*/{POOL}"):
        yield from _shards_of(file)
    for file in (workspace / PINS).glob("*/*.json"):  # the time of a pin is that of its last use
        if oldest is not None and date.fromtimestamp(file.stat().st_mtime).isoformat() < oldest:
            continue
        pin = _json(file)
        yield str(pin.get("kind")), str(pin.get("entry"))
        yield from (("shard", Path(str(shard[2])).name) for shard in pin.get("shards", ()))


def _shards_of(file: Path) -> Iterator[Key]:
    """Entries that a `pool.json` names: its shards, and the rejects of its files."""
    pool = _json(file)
    for one in pool.get("shards", ()):
        yield "shard", Path(str(one["path"])).name
    for one in pool.get("rejects", ()):
        folder = Path(str(one)).parent
        yield folder.parent.parent.name, folder.name


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _entries(store: Path) -> Iterator[Path]:
    for manifest in sorted(store.glob(f"*/*/*/{MANIFEST}")):
        if len(manifest.parent.name) == 32:  # not one that is being made
            yield manifest.parent


def _registered(pools: Path) -> Iterator[Path]:
    """Columns that are registered for a pool, but for those of pools that a subset file names."""
    for file in sorted(pools.glob("*/columns.json")):
        if not (file.parent / POOL).is_file():
            yield file.parent


def _stale(workspace: Path) -> Iterator[Path]:
    """Trainings that were stopped and that nobody went on with."""
    limit = time.time() - 86400 * RESUMABLE_DAYS
    for folder in (workspace / "store").glob("*/*/resumable-*"):
        if max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < limit:
            yield folder


def _remove(workspace: Path, found: Removal) -> None:
    trash = workspace / TRASH
    trash.mkdir(exist_ok=True)
    for run in found.runs:
        run.rename(_free(trash / run.name))
    for path in found.entries:
        path.rename(_free(trash / "-".join(_key(path))))
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    for path in found.others:
        if path.exists() and path.parent != trash:
            path.rename(_free(trash / f"{path.parent.name}-{path.name}"))
    _forget(workspace, {_key(path) for path in found.entries})
    shutil.rmtree(trash)
    for folder in (*(workspace / "store").glob("*/*"), *(workspace / "store").glob("*")):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _free(path: Path) -> Path:
    number = 0
    while (other := path if not number else path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return other


def _forget(workspace: Path, gone: set[Key]) -> None:
    """Take what has gone out of the notes of verbs, which say every use of every day."""
    file = workspace / uses.ENTRIES
    used: Mapping[Key, str] = uses.read(file)
    if used:
        uses.write(file, {key: day for key, day in used.items() if key not in gone})


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as links."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(one.lstat().st_size for one in _below(path))


def _below(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        yield from (Path(place) / name for name in files)


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
