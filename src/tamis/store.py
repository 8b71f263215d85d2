"""The content-addressed store: `get_or_make(kind, identity, make)`.

An entry is a folder `kind/ab/abcdef…/` with the files that `make` wrote and a `manifest.json` that is written last:
its presence means complete. Files are written in a folder of their own, fsynced and renamed, so that a `kill -9`, a
full disk or a power cut leave either a whole entry or none. A file lock per key keeps two runs from making one entry
twice; the operating system drops the lock of a dead process. An entry that was damaged from outside is found
(`tamis.intact`), said and made anew.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import intact
from tamis.intact import DAMAGE_LOG, MANIFEST, Damage
from tamis.writing import (
    SCRATCH,
    append_line,
    fsync,
    left_behind,
    save_arrays,
    saying_no_space,
    scratch,
    write_json,
    write_table,
    write_tensors,
    write_text,
    writing,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MANIFEST",
    "Damage",
    "Entry",
    "Store",
    "load_arrays",
    "save_arrays",
    "scratch",
    "write_json",
    "write_table",
    "write_tensors",
    "write_text",
    "writing",
]

log = logging.getLogger(__name__)
PARTIAL, RESUMABLE = "partial-", "resumable-"
Make = Callable[[Path], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Entry:
    """A complete entry: its folder and what `make` said of it."""

    path: Path
    facts: Mapping[str, Any]
    digest: str
    seconds: float = 0.0  # that making it took, whenever that was
    made: bool = False  # True where this call made it, False where it was found

    def file(self, name: str) -> Path:
        """Path of a file of the entry."""
        return self.path / name


@dataclass(frozen=True)
class Store:
    """A folder of entries. Cheap to construct; safe to open from many processes."""

    root: Path

    def path(self, kind: str, identity: str) -> Path:
        """Where the entry of `identity` lies or would lie."""
        return self.root / kind / identity[:2] / identity

    def get(self, kind: str, identity: str) -> Entry | None:
        """The complete entry of `identity`, or None.

        One that was damaged from outside (a file missing, cut short or changed) is said, removed and None.
        """
        path = self.path(kind, identity)
        found = _look(path)
        if isinstance(found, Damage):
            with self._lock(path):
                found = self._cleared(path)
        return found

    def get_or_make(self, kind: str, identity: str, make: Make, *, about: Any = None, resumable: bool = False) -> Entry:
        """The entry of `identity`, made by `make(folder)` if it is not there yet.

        `make` writes files into the folder and returns facts (plain JSON) for the manifest. With `resumable` the folder
        keeps what a killed run left in it, so that a training run can go on. `about` is stored beside the files for
        people who look. Raises StoreError where the disk is full.
        """
        if (found := self.get(kind, identity)) is not None:
            return found
        path = self.path(kind, identity)
        with saying_no_space(f"{kind} {identity[:8]} under {self.root}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock(path):
                if (found := self._cleared(path)) is not None:
                    return found
                return self._made(path, make, about, resumable)

    def _made(self, path: Path, make: Make, about: Any, resumable: bool) -> Entry:
        """Make an entry, with its lock held."""
        partial = path.with_name(f"{RESUMABLE if resumable else PARTIAL}{path.name}")
        if partial.exists() and not resumable:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        try:
            facts = dict(make(partial) or {})
            seconds = round(time.perf_counter() - started, 3)
            digest = intact.seal(partial, facts, about, seconds)
            if path.exists():
                shutil.rmtree(path)  # a folder without a manifest: never complete
            partial.rename(path)
        finally:
            if not resumable and partial.exists():
                shutil.rmtree(partial, ignore_errors=True)  # what failed takes no room
        fsync(path.parent)
        return Entry(path, facts, digest, seconds, made=True)

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every complete entry of a kind."""
        for path in self._folders(kind):
            if entry := self.get(kind, path.name):
                yield entry

    def discard(self, entry: Entry, why: str) -> None:
        """Remove an entry of which something is wrong that its files do not show; it is said and made anew."""
        with self._lock(entry.path):
            self._remove(Damage(entry.path, why))

    def verify(self, *, mend: bool = False) -> list[Damage]:
        """Read every entry and hold it against its digests, whatever the times of its files say: a full scrub.

        With `mend` damaged entries are removed, so that the next run makes them anew.
        """
        kinds = sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []
        found = []
        for path in (path for kind in kinds for path in self._folders(kind)):
            damage = _look(path, always=True)
            if isinstance(damage, Damage):
                found.append(damage)
                if mend:
                    with self._lock(path):
                        self._cleared(path, always=True)
        return found

    def damages(self, since: int = 0) -> list[dict[str, Any]]:
        """What was ever found damaged and removed in this store, oldest first: `at`, `kind`, `identity`, `what`.

        `since`: leave out so many, to see what is new.
        """
        file = self.root / DAMAGE_LOG
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [json.loads(line) for line in lines[since:] if line.endswith("}")]

    def sweep(self) -> int:
        """Remove what dead processes left half-made, and return how much it was; call it before anything is written.

        What a training can go on from stays.
        """
        removed = 0
        for partial in self.root.glob(f"*/*/{PARTIAL}*"):
            lock = self._lock(partial.with_name(partial.name.removeprefix(PARTIAL)), wait=False)
            if lock is None:
                continue  # somebody is making it
            with lock:
                shutil.rmtree(partial, ignore_errors=True)
            removed += 1
        for path in (*self.root.glob(f"{SCRATCH}*"), *self.root.glob(".*.tmp")):
            if left_behind(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _folders(self, kind: str) -> Iterator[Path]:
        for manifest in sorted((self.root / kind).glob(f"*/*/{MANIFEST}")):
            if not manifest.parent.name.startswith((PARTIAL, RESUMABLE)):
                yield manifest.parent

    def _cleared(self, path: Path, *, always: bool = False) -> Entry | None:
        """The entry at `path`, or None, with its lock held; a damaged one is removed."""
        found = _look(path, always=always)
        if isinstance(found, Damage):
            self._remove(found)
            return None
        return found

    def _remove(self, damage: Damage) -> None:
        log.warning("%s: removed, and made anew where it is needed", damage)
        kind, identity = damage.path.parent.parent.name, damage.path.name
        facts = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "kind": kind, "identity": identity, "what": str(damage)}
        append_line(self.root / DAMAGE_LOG, json.dumps(facts, ensure_ascii=False))
        shutil.rmtree(damage.path, ignore_errors=True)

    def _lock(self, path: Path, *, wait: bool = True) -> Any:
        """The lock of a key, to be entered; where it is held and nobody waits, None."""
        from filelock import FileLock, Timeout

        lock = FileLock(str(path.with_name(f"{path.name}.lock")))
        if wait:
            return lock
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            return None


def _look(path: Path, *, always: bool = False) -> Entry | Damage | None:
    found = intact.look(path, always=always)
    if found is None or isinstance(found, Damage):
        return found
    return Entry(path, found["facts"], found["digest"], found["seconds"])


def load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Every array of a folder, memory-mapped and read-only."""
    import numpy as np

    return {
        path.stem: np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None, allow_pickle=False)
        for path in sorted(folder.glob("*.npy"))
    }
