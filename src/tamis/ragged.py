"""Lists of different lengths in two flat arrays, as signals keep them: values, and offsets of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """List i is `values[offsets[i]:offsets[i + 1]]`; `offsets` (n + 1,) int64. Read lazily from mapped files."""

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[NDArray[Any]], dtype: Any) -> Ragged:
        """Pack lists."""
        import numpy as np

        offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        return cls(np.concatenate([np.zeros(0, dtype), *lists]).astype(dtype), offsets)

    @classmethod
    def by_row(cls, rows: NDArray[np.int64], values: NDArray[Any], count: int) -> Ragged:
        """Group `values` (p,) by their row, which is ascending, into `count` lists."""
        import numpy as np

        counts = np.bincount(rows, minlength=count)
        return cls(values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Ragged], dtype: Any) -> Ragged:
        """The lists of several, one after another."""
        import numpy as np

        counts = [part.lengths for part in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))]).astype(np.int64)
        return cls(np.concatenate([np.zeros(0, dtype), *[part.values for part in parts]]).astype(dtype), offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) lengths of the lists."""
        import numpy as np

        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, place: int) -> NDArray[Any]:
        return self.values[self.offsets[place] : self.offsets[place + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[place] for place in range(len(self)))

    def some(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Values of some lists, and which of `places` (by number) each belongs to."""
        import numpy as np

        starts, stops = self.offsets[places], self.offsets[places + 1]
        counts = stops - starts
        rows = np.repeat(np.arange(len(places)), counts)
        at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[rows]
        return rows, np.asarray(self.values[at])
