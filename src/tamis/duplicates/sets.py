"""Sets of shingles that lie in many files, and the similarity of pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.ragged import Ragged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VALUES = 16_000_000  # shingles in memory at once (64 MB)


@dataclass(frozen=True)
class Stored:
    """Sets in a folder of arrays, opened when they are read and closed again: mapped files count as memory."""

    folder: Path

    def __call__(self) -> Ragged:
        """The sets, mapped."""
        import numpy as np

        names = ("shingles", "shingles_offsets")
        return Ragged(*(np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names))


@dataclass(frozen=True)
class Sets:
    """Sets numbered through all `parts`, each of which gives its sets when called.

    `lengths`: (n,) int64 numbers of shingles. `sizes`: the same, or 0 for a set that takes no part. `starts`: (p + 1,)
    int64 number of the first set of every part.
    """

    parts: Sequence[Callable[[], Ragged]]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Callable[[], Ragged]]) -> Sets:
        """The sets of all parts, one part after another."""
        import numpy as np

        each = [part().lengths for part in parts]
        lengths = np.concatenate([np.zeros(0, np.int64), *each])
        return cls(parts, lengths, lengths.copy(), np.cumsum([0, *map(len, each)]))

    def __len__(self) -> int:
        return len(self.sizes)

    def jaccards(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact Jaccard similarity of pairs of sets (p,), by number; 0 for two empty ones."""
        import numpy as np

        found = np.zeros(len(left), np.float32)
        order = np.argsort(left, kind="stable")  # neighbours in the files are read together
        sizes = np.cumsum(self.sizes[left[order]] + self.sizes[right[order]])
        cuts = np.searchsorted(sizes, np.arange(_VALUES, int(sizes[-1]) if len(sizes) else 0, _VALUES))
        for part in np.split(order, cuts):
            if len(part):
                found[part] = self._jaccards(left[part], right[part])
        return found

    def _jaccards(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
        import numpy as np

        from tamis.duplicates import loops

        rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
        values, offsets = self._read(rows)
        found = np.zeros(len(left), np.float32)
        loops.jaccards(values, offsets[:-1], offsets[1:], places[: len(left)], places[len(left) :], found)
        return found

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The sets of ascending `rows`, flat, and their offsets."""
        import numpy as np

        cuts = np.searchsorted(rows, self.starts)
        found = [np.zeros(0, np.uint32)]
        for number, part in enumerate(self.parts):
            if cuts[number + 1] > cuts[number]:
                found.append(part().some(rows[cuts[number] : cuts[number + 1]] - self.starts[number])[1])
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        return np.concatenate(found), offsets
