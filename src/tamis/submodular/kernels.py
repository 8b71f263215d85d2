"""Similarities of candidates to the rows that they stand for: in memory, whole or sparse.

A kernel has m represented rows and n candidates; column j holds the similarities s_ij of candidate j. Objectives ask
for sums over a column, which every kernel gives in a fixed order and in float64, whatever else is asked for with it.
A third kernel, of cosines that are computed when asked for, is in `tamis.submodular.cosines`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    At = slice | NDArray[np.int64]
    Worth = Callable[[NDArray[np.float64], At], NDArray[np.float64]]

_CELLS = 1 << 22  # similarities held at once in float64: 32 MB
_BLOCK = 4096


class Kernel(Protocol):
    """What objectives read of similarities."""

    def __len__(self) -> int:
        """Number of candidates n."""
        ...

    @property
    def represented(self) -> int:
        """Number of represented rows m."""
        ...

    @property
    def lower(self) -> float:
        """A number that no similarity is below."""
        ...

    @property
    def symmetric(self) -> bool:
        """Whether candidates and represented rows are the same and s_ij = s_ji."""
        ...

    def column(self, row: int, /) -> tuple[At, NDArray[np.float64]]:
        """Represented rows to which a candidate has a similarity, and those similarities; it is 0 to others."""
        ...

    def across(self, place: int, /) -> tuple[At, NDArray[np.float64]]:
        """Candidates that have a similarity to a represented row, and those similarities."""
        ...

    def summed(self, rows: NDArray[np.int64], worth: Worth, /) -> NDArray[np.float64]:
        """(b,) sums over the columns of `rows` (b,) of `worth(similarities, represented rows)`.

        `worth` gives one number a similarity, in their shape, 0 for a similarity of 0 (a sparse kernel skips those).
        """
        ...

    def totals(self) -> NDArray[np.float64]:
        """(n,) sum of every column."""
        ...

    def diagonal(self) -> NDArray[np.float64]:
        """(n,) similarity s_jj of every candidate to itself, where m = n."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """A kernel in memory: `matrix` (m, n), represented rows by candidates, any float type; NaN is a DataError.

    Columns are read whole: an array that is not in Fortran order (the transpose of one by candidate) is copied into it.
    """

    matrix: NDArray[Any]

    def __post_init__(self) -> None:
        checked(self.matrix, 2, "kernel")

    def __len__(self) -> int:
        return int(self.matrix.shape[1])

    @property
    def represented(self) -> int:
        """Number of represented rows m."""
        return int(self.matrix.shape[0])

    @functools.cached_property
    def lower(self) -> float:
        """The least similarity."""
        return float(self.matrix.min(initial=0))

    @functools.cached_property
    def by_candidate(self) -> NDArray[Any]:
        """(n, m), a candidate's similarities side by side; a copy where the matrix is not in Fortran order."""
        import numpy as np

        return np.ascontiguousarray(self.matrix.T)

    @functools.cached_property
    def symmetric(self) -> bool:
        """Whether the matrix equals its transpose."""
        import numpy as np

        return self.matrix.shape[0] == self.matrix.shape[1] and bool(np.array_equal(self.matrix, self.matrix.T))

    def column(self, row: int, /) -> tuple[At, NDArray[np.float64]]:
        """Similarities (m,) of a candidate."""
        return slice(None), self.matrix[:, row].astype("float64")

    def across(self, place: int, /) -> tuple[At, NDArray[np.float64]]:
        """Similarities (n,) to a represented row."""
        return slice(None), self.matrix[place].astype("float64")

    def summed(self, rows: NDArray[np.int64], worth: Worth, /) -> NDArray[np.float64]:
        """Sums over columns; see `Kernel`. O(b m)."""
        import numpy as np

        return by_blocks(lambda part: self.by_candidate[part].astype(np.float64), rows, self.represented, worth)

    def totals(self) -> NDArray[np.float64]:
        """(n,) sum of every column."""
        return self.summed(_all(self), lambda values, at: values)

    def diagonal(self) -> NDArray[np.float64]:
        """(n,) similarities of candidates to themselves."""
        return self.matrix.diagonal().astype("float64")


@dataclass(frozen=True, eq=False)
class Sparse:
    """A sparse kernel by represented row (CSR): those of row i are `indices[indptr[i]:indptr[i + 1]]`, `values` beside.

    `indptr` (m + 1,) int64, `indices` (z,) candidates, each once a row, `values` (z,) float, `candidates` n. A
    similarity that is not there is 0. The transpose is made once, where it is asked for.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[Any]
    values: NDArray[Any]
    candidates: int

    def __post_init__(self) -> None:
        checked(self.values, 1, "kernel")
        if len(self.indices) != len(self.values) or int(self.indptr[-1]) != len(self.values):
            raise DataError("a sparse kernel has as many indices as values, as many as the last of indptr says")
        if len(self.indices) and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < self.candidates:
            raise DataError(f"a sparse kernel names candidates outside 0 … {self.candidates - 1}")

    def __len__(self) -> int:
        return self.candidates

    @property
    def represented(self) -> int:
        """Number of represented rows m."""
        return len(self.indptr) - 1

    @functools.cached_property
    def lower(self) -> float:
        """The least similarity."""
        return float(self.values.min(initial=0))

    @functools.cached_property
    def symmetric(self) -> bool:
        """Whether the kernel equals its transpose."""
        import numpy as np

        if self.represented != self.candidates:
            return False
        (starts, rows, values), order = self.by_candidate, self._sorted
        return bool(
            np.array_equal(starts, self.indptr)
            and np.array_equal(rows, self.indices[order])
            and np.array_equal(values, self.values[order])
        )

    @property
    def _sorted(self) -> NDArray[np.int64]:
        import numpy as np

        return np.lexsort((self.indices, np.repeat(np.arange(self.represented), np.diff(self.indptr))))

    @functools.cached_property
    def by_candidate(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        """By candidate: starts (n + 1,), represented rows ascending, values."""
        from tamis.submodular.loops import transpose

        return transpose(self.indptr, self.indices, self.values, self.candidates)

    def column(self, row: int, /) -> tuple[At, NDArray[np.float64]]:
        """Represented rows of a candidate, and its similarities to them."""
        starts, rows, values = self.by_candidate
        part = slice(int(starts[row]), int(starts[row + 1]))
        return rows[part].astype("int64"), values[part].astype("float64")

    def across(self, place: int, /) -> tuple[At, NDArray[np.float64]]:
        """Candidates of a represented row, and their similarities to it."""
        part = slice(int(self.indptr[place]), int(self.indptr[place + 1]))
        return self.indices[part].astype("int64"), self.values[part].astype("float64")

    def summed(self, rows: NDArray[np.int64], worth: Worth, /) -> NDArray[np.float64]:
        """Sums over columns; see `Kernel`. O(similarities of the columns)."""
        import numpy as np

        starts, represented, values = self.by_candidate
        counts = starts[rows + 1] - starts[rows]
        sums = np.zeros(len(rows))
        for part in _pieces(counts):
            number = np.repeat(np.arange(len(counts[part])), counts[part])
            first = np.concatenate([[0], np.cumsum(counts[part])[:-1]])
            place = np.arange(len(number)) + (starts[rows[part]] - first)[number]
            gained = worth(values[place].astype(np.float64), represented[place].astype(np.int64))
            sums[part] = np.bincount(number, gained, minlength=len(counts[part]))  # adds one after the other
        return sums

    def totals(self) -> NDArray[np.float64]:
        """(n,) sum of every column."""
        return self.summed(_all(self), lambda values, at: values)

    def diagonal(self) -> NDArray[np.float64]:
        """(n,) similarities of candidates to themselves."""
        import numpy as np

        rows = np.repeat(np.arange(self.represented), np.diff(self.indptr))
        own = np.zeros(self.candidates)
        own[rows[rows == self.indices]] = self.values[rows == self.indices]
        return own


def _all(kernel: Kernel) -> NDArray[np.int64]:
    import numpy as np

    return np.arange(len(kernel), dtype=np.int64)


def checked(values: NDArray[Any], axes: int, what: str) -> None:
    """Raise DataError where `values` has another number of axes, NaN or infinity."""
    import numpy as np

    if values.ndim != axes:
        raise DataError(f"{what} of shape {values.shape} given, expected {axes} axes")
    for start in range(0, len(values), _BLOCK * (1 if axes == 2 else 256)):
        if not np.isfinite(values[start : start + _BLOCK * (1 if axes == 2 else 256)]).all():
            raise DataError(f"the {what} holds NaN or infinity; leave such rows out")


def by_blocks(
    columns: Callable[[NDArray[np.int64]], NDArray[np.float64]], rows: NDArray[np.int64], represented: int, worth: Worth
) -> NDArray[np.float64]:
    """Sums along contiguous columns, in the pairwise order of numpy, which depends on their length alone."""
    import numpy as np

    sums = np.empty(len(rows))
    step = max(1, _CELLS // max(1, represented))
    for start in range(0, len(rows), step):
        gained = worth(columns(rows[start : start + step]), slice(None))
        sums[start : start + step] = np.ascontiguousarray(gained).sum(axis=1)
    return sums


def _pieces(counts: NDArray[np.int64]) -> list[slice]:
    """Runs of columns with about `_CELLS` similarities in all."""
    import numpy as np

    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // _CELLS)) + 1
    edges = [0, *cuts.tolist(), len(counts)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]
