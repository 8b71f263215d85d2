"""Named indexes: what was seen before, so that appended data and other pools are held against it without its texts.

An index is a folder with `index.json` (settings, and the segments in order) and a store of segments, each made by one
run and never changed: keys of rows, the file each came from, the key of the row that stayed in its place, and what the
cleaner compares by (digests, shingles with sorted band hashes, or vectors). A segment is written whole or not at all,
and `index.json` after it; each is known by the digest of its content, which is looked at when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis import digests
from tamis.errors import RecipeError, StoreError
from tamis.store import Store, load_arrays, save_arrays, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView

MANIFEST = "index.json"
SEGMENT = "segment"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """RecipeError where a name could not be that of a folder."""
    if name and not _NAME.fullmatch(name):
        raise RecipeError(f"index: {name!r} is no name: write letters, digits, dots, hyphens (at most 64)")


@dataclass(frozen=True)
class Segment:
    """What one run added to an index: arrays by name, mapped."""

    folder: Path
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def __len__(self) -> int:
        return len(self.arrays["key"])


@dataclass(frozen=True)
class Memory:
    """The index in `folder`. `kind` is the cleaner that keeps it, `settings` what its entries depend on."""

    folder: Path
    kind: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, view: PoolView, name: str, kind: str, settings: Mapping[str, Any]) -> Memory:
        """The index of a name. RecipeError where there is no workspace to keep it in."""
        if view.indexes is None:
            raise RecipeError(f"{kind}: the index {name!r} lies in a workspace, and there is none here")
        return cls(view.indexes / name, kind, settings)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other process reads and extends the index meanwhile."""
        from filelock import FileLock

        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self.folder / "lock")):
            yield

    @property
    def _segments(self) -> list[str]:
        """Identities of the segments, in order; RecipeError where the index was made with other settings."""
        file = self.folder / MANIFEST
        if not file.is_file():
            return []
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            kind, settings, segments = found["kind"], found["settings"], [str(one) for one in found["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file} is no index of tamis ({error!r}); delete {self.folder} and run again") from error
        wanted = digests.canonical(self.settings)
        if kind != self.kind or settings != wanted:
            other = [f"{name}: {settings.get(name)!r}, now {wanted[name]!r}" for name in wanted]
            differs = [one for one, name in zip(other, wanted, strict=True) if settings.get(name) != wanted[name]]
            raise RecipeError(
                f"the index {self.folder.name!r} was made by {kind} with other settings"
                f"{' (' + '; '.join(differs) + ')' if differs else ''}: take those, or another name"
            )
        return segments

    def read(self) -> list[Segment]:
        """The segments, in order. StoreError where one is damaged or gone: it cannot be made anew."""
        store, found = Store(self.folder), []
        for identity in self._segments:
            entry = store.get(SEGMENT, identity)
            if entry is None:
                raise StoreError(
                    f"the index {self.folder.name!r} is damaged: a segment is gone or not what was written; delete "
                    f"{self.folder} and run again over the pools that it had seen"
                )
            found.append(Segment(entry.path, load_arrays(entry.path)))
        return found

    def extend(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add a segment."""
        segments = self._segments
        parts = {name: digests.of_bytes(array.tobytes()) for name, array in arrays.items() if name in ("key", "winner")}
        identity = digests.of_json({"before": segments, "kind": self.kind, "settings": self.settings, "parts": parts})

        def make(folder: Path) -> dict[str, Any]:
            save_arrays(folder, arrays)
            return {"rows": len(arrays["key"])}

        Store(self.folder).get_or_make(SEGMENT, identity, make)
        about = {"kind": self.kind, "settings": digests.canonical(self.settings), "segments": [*segments, identity]}
        write_json(self.folder / MANIFEST, about)


def state_of(indexes: Path, name: str) -> str:
    """Digest of what an index has seen; "" where there is none yet. It enters the identity of a cleaning step."""
    file = indexes / name / MANIFEST
    return digests.of_file(file) if name and file.is_file() else ""


@dataclass(frozen=True)
class Seen:
    """What the segments of an index say of rows, one after another, and which rows of the pool at hand are among them.

    `keys`, `winners` (m,) bytes; `winners` is empty for rows that stayed. `values` (m,) float32: how alike a row was to
    its winner. `known` (n,) int64: the last entry of each row of the pool, -1 for none. `fresh` (n,) bool: rows to be
    decided on; the verdict on the others stands. `elder` (m,) bool: entries that fresh rows are held against.
    """

    keys: NDArray[np.bytes_]
    winners: NDArray[np.bytes_]
    values: NDArray[np.float32]
    known: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    elder: NDArray[np.bool_]

    @classmethod
    def of(cls, view: PoolView, segments: Sequence[Segment]) -> Seen:
        """Look the rows of a pool up.

        A row never is its own duplicate: it is known by its key. What an index has of a file that belongs to the pool
        and no longer holds that row, is passed over, and with it verdicts in favour of such rows.
        """
        import numpy as np

        def joined(name: str, kind: Any) -> NDArray[Any]:
            return np.concatenate([np.zeros(0, kind), *[segment[name] for segment in segments]])

        keys, winners = joined("key", "S1"), joined("winner", "S1")
        own, origins = keys_of(view), origins_of(view)
        known = last_of(keys, own)
        here = np.isin(joined("origin", np.uint64), origins)  # entries of files that the pool has too
        gone = here & ~np.isin(keys, own)
        lost = np.isin(winners[known], keys[gone]) if len(keys) else np.zeros(len(own), np.bool_)
        fresh = (known < 0) | lost
        passive = gone | np.isin(keys, own[fresh])
        elder = ~passive & ~np.isin(winners, keys[passive])
        return cls(keys, winners, joined("value", np.float32), known, fresh, elder)

    def standing(self, entries: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Keys of the rows that stayed for these entries: their own, or their winners'."""
        import numpy as np

        return np.where(self.winners[entries] == b"", self.keys[entries], self.winners[entries])


def last_of(keys: NDArray[np.bytes_], own: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """(n,) the last place of each of `own` among `keys`, -1 where it is not there."""
    import numpy as np

    if not len(keys):
        return np.full(len(own), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], own, side="right") - 1
    found = order[np.maximum(place, 0)]
    return np.where(keys[found] == own, found, -1).astype(np.int64)


def keys_of(view: PoolView) -> NDArray[np.bytes_]:
    """(n,) keys of the rows of a pool."""
    import numpy as np

    parts = [np.zeros(0, "S1")]
    for shard in view.pool.shards:
        parts.append(np.array(shard.table(["key"]).column("key").to_pylist(), "S"))
    return np.concatenate(parts)


def origins_of(view: PoolView) -> NDArray[np.uint64]:
    """(n,) a number for the file of every row: of where it lies on this machine, or of its name."""
    import numpy as np

    files = view.pool.files
    if sum(int(file["kept"]) for file in files) == len(view):
        names = [str(file.get("path") or file["name"]) for file in files]
        numbers = np.array([_number(name) for name in names], np.uint64)
        return np.repeat(numbers, [int(file["kept"]) for file in files])
    return np.array([_number(str(name)) for name in view.pool.table(["file"]).column("file").to_pylist()], np.uint64)


def _number(text: str) -> int:
    return int(digests.of_bytes(text.encode("utf-8", "surrogatepass"))[:16], 16)
