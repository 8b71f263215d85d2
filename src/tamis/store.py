"""The content-addressed store: `get_or_make(kind, identity, make)`.

An entry is a folder `kind/ab/abcdef…/` with the files that `make` wrote and a `manifest.json` that is written last:
its presence means complete. Files are written in a folder of their own, fsynced and renamed, so that a `kill -9`, a
full disk or a power cut leave either a whole entry or none. A file lock per key keeps two runs from making one entry
twice; the operating system drops the lock of a dead process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
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
        """The complete entry of `identity`, or None. A file that is missing or of another size makes it incomplete."""
        path = self.path(kind, identity)
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{path / MANIFEST} is not JSON ({error}); delete {path} and run again") from error
        for name, about in manifest["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != about["bytes"]:
                shutil.rmtree(path)  # damaged from outside: made anew, never used
                return None
        return Entry(path, manifest["facts"], manifest["digest"], manifest["seconds"])

    def get_or_make(self, kind: str, identity: str, make: Make, *, about: Any = None, resumable: bool = False) -> Entry:
        """The entry of `identity`, made by `make(folder)` if it is not there yet.

        `make` writes files into the folder and returns facts (plain JSON) for the manifest. With `resumable` the folder
        keeps what a killed run left in it, so that a training run can go on. `about` is stored beside the files for
        people who look.
        """
        if (found := self.get(kind, identity)) is not None:
            return found
        path = self.path(kind, identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(path):
            if (found := self.get(kind, identity)) is not None:
                return found
            partial = path.with_name(f"partial-{identity}")
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            try:
                facts = dict(make(partial) or {})
                seconds = round(time.perf_counter() - started, 3)
                digest = _seal(partial, facts, about, seconds)
                if path.exists():
                    shutil.rmtree(path)  # a folder without a manifest: never complete
                partial.rename(path)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise StoreError(
                        f"no space left while writing {kind} {identity[:8]} under {self.root}: free some, or point "
                        "--workspace at another disk; the same command goes on where this one stopped"
                    ) from error
                raise
            _fsync(path.parent)
        return Entry(path, facts, digest, seconds, made=True)

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every complete entry of a kind."""
        for manifest in sorted((self.root / kind).glob(f"*/*/{MANIFEST}")):
            if not manifest.parent.name.startswith("partial-") and (entry := self.get(kind, manifest.parent.name)):
                yield entry

    def _lock(self, path: Path) -> Any:
        from filelock import FileLock

        return FileLock(str(path.with_name(f"{path.name}.lock")))


def _seal(folder: Path, facts: Mapping[str, Any], about: Any, seconds: float) -> str:
    """Digest every file of `folder`, fsync it, and write the manifest last; returns the digest of the entry."""
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        _fsync(file)
        files[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "digest": digests.of_file(file)}
    digest = digests.of_json({name: item["digest"] for name, item in files.items()})
    manifest = {
        "digest": digest,
        "facts": facts,
        "files": files,
        "about": digests.canonical(about) if about is not None else None,
        "seconds": seconds,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return digest


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, keys in the order given."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """One `.npy` per array, never pickled."""
    import numpy as np

    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Every array of a folder, memory-mapped and read-only."""
    import numpy as np

    return {
        path.stem: np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None, allow_pickle=False)
        for path in sorted(folder.glob("*.npy"))
    }


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
