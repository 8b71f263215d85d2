"""Sets of shingles that lie in many files, and the similarity of pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.ragged import Ragged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VALUES = 64_000_000  # shingles in memory at once (a quarter of a gigabyte)


@dataclass(frozen=True)
class Sets:
    """Sets numbered through all `parts`, read from mapped files when they are asked for.

    `sizes`: (n,) int64 numbers of shingles, or 0 for a set that takes no part.
    """

    parts: Sequence[Ragged]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Ragged]) -> Sets:
        """The sets of all parts, one part after another."""
        import numpy as np

        return cls(parts, np.concatenate([np.zeros(0, np.int64), *[part.lengths for part in parts]]))

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

        starts = np.cumsum([0, *[len(part) for part in self.parts]])
        cuts = np.searchsorted(rows, starts)
        found, lengths = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        for number, part in enumerate(self.parts):
            if cuts[number + 1] > cuts[number]:
                places = rows[cuts[number] : cuts[number + 1]] - starts[number]
                found.append(part.some(places)[1])
                lengths.append(part.offsets[places + 1] - part.offsets[places])
        return np.concatenate(found), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
