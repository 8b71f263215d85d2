"""Cosines of embeddings as a kernel: computed when asked for, without rounding, no matrix held."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError
from tamis.submodular.kernels import Dense, by_blocks, checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import At, Worth

_GRID = 2.0**24  # of components
_FINEST = 2.0**20  # of cosines
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Cosine:
    """Cosines of unit vectors, computed when asked for; no matrix is held.

    `vectors` (n, d) float of the candidates, `represented_vectors` (m, d) of the represented rows (default: the
    candidates). They are put on a grid of 2⁻²⁴, the resolution of float32 at 1, on which products in float64 have no
    rounding, and cosines on one of 2⁻²⁰, on which their sums have none: the same bits whatever is computed with them,
    in whatever order of rows, on any number of threads. `rounded: False` leaves cosines on the grid of products, 2⁻⁴⁸:
    the kernel is then positive semidefinite to the last bits, for functions that solve with it. O(d) a similarity.
    `device`: where products are made; they have the same bits everywhere.
    """

    vectors: NDArray[Any]
    represented_vectors: NDArray[Any] | None = None
    rounded: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        import numpy as np

        for vectors in (self.vectors, self.represented_vectors):
            if vectors is None:
                continue
            checked(vectors, 2, "embeddings")
            for start in range(0, len(vectors), _BLOCK):
                norms = np.linalg.norm(vectors[start : start + _BLOCK].astype(np.float64), axis=1)
                if (np.abs(norms - 1) > 2e-3).any():
                    raise DataError("cosines need vectors of length 1; scale them, and leave out rows that are 0")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def represented(self) -> int:
        """Number of represented rows m."""
        return len(self._rows)

    @property
    def symmetric(self) -> bool:
        """Whether candidates represent themselves."""
        return self.represented_vectors is None

    @functools.cached_property
    def _columns(self) -> NDArray[np.float32]:
        return on_grid(self.vectors)

    @functools.cached_property
    def _rows(self) -> NDArray[np.float32]:
        return self._columns if self.represented_vectors is None else on_grid(self.represented_vectors)

    @functools.cached_property
    def lower(self) -> float:
        """The least cosine, up to 4,096 rows; beyond, a bound in O(n d).

        The bound is the cosine of the sum of the two widest angles to the mean vector: no vectors lie farther apart.
        """
        import numpy as np

        if max(len(self), self.represented) <= _BLOCK:
            return min(0.0, float(self._cosines(self._columns, self._rows).min(initial=0)))
        mean = self._columns.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        if length < 1e-6:
            return -1.0
        sides = [self._columns] if self.symmetric else [self._columns, self._rows]
        widest = [np.sort(np.arccos(np.clip(_dots(side, mean / length), -1, 1)))[-2:] for side in sides]
        angle = float(widest[0].sum() if self.symmetric else widest[0].max() + widest[1].max())
        return float(np.cos(min(np.pi, angle))) - 1e-6

    def _cosines(
        self, one: NDArray[np.float32], others: NDArray[np.float32], rounded: bool = True
    ) -> NDArray[np.float64]:
        return _cosines(one, others, rounded) if self.device == "cpu" else on_device(one, others, rounded, self.device)

    def column(self, row: int, /) -> tuple[At, NDArray[np.float64]]:
        """Cosines (m,) of a candidate."""
        return slice(None), self._cosines(self._columns[row : row + 1], self._rows, self.rounded)[0]

    def across(self, place: int, /) -> tuple[At, NDArray[np.float64]]:
        """Cosines (n,) to a represented row."""
        return slice(None), self._cosines(self._rows[place : place + 1], self._columns, self.rounded)[0]

    def summed(self, rows: NDArray[np.int64], worth: Worth, /) -> NDArray[np.float64]:
        """Sums over columns; see `Kernel`. O(b m d)."""
        return by_blocks(
            lambda part: self._cosines(self._columns[part], self._rows, self.rounded), rows, self.represented, worth
        )

    def totals(self) -> NDArray[np.float64]:
        """(n,) sum of every column: the product with the sum of the represented vectors, O((n + m) d)."""
        return _dots(self._columns, self._rows.sum(axis=0, dtype="float64"))

    def diagonal(self) -> NDArray[np.float64]:
        """(n,) squared lengths on the grid, 1 but for rounding."""
        import numpy as np

        parts = [self._columns[start : start + _BLOCK].astype(np.float64) for start in range(0, len(self), _BLOCK)]
        return np.concatenate([np.zeros(0), *[(part * part).sum(axis=1) for part in parts]])

    def dense(self) -> Dense:
        """The same kernel in memory, 4 m n bytes float32."""
        import numpy as np

        by_candidate = np.empty((len(self), self.represented), np.float32)
        for start in range(0, len(self), _BLOCK):
            stop = start + _BLOCK
            first = start if self.symmetric else 0  # below the diagonal, what is above it is copied
            by_candidate[start:stop, first:] = self._cosines(self._columns[start:stop], self._rows[first:])
            if self.symmetric:
                by_candidate[stop:, start:stop] = by_candidate[start:stop, stop:].T
        return Dense(by_candidate.T)


def nearest(vectors: NDArray[Any], queries: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) highest cosine of every unit vector (n, d) to one of the `queries` (q, d)."""
    import numpy as np

    kernel = Cosine(vectors, queries)
    highest = np.empty(len(kernel))
    for start in range(0, len(kernel), _BLOCK):
        highest[start : start + _BLOCK] = _cosines(kernel._columns[start : start + _BLOCK], kernel._rows).max(axis=1)
    return highest


def on_grid(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors (n, d) of length 1 as multiples of 2⁻²⁴, float32.

    24 bits a factor, and |x| |y| about 1, leave every partial sum of a product within the 53 bits of float64.
    """
    import numpy as np

    grid = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        grid[start : start + _BLOCK] = np.rint(vectors[start : start + _BLOCK].astype(np.float64) * _GRID) / _GRID
    return grid


def _cosines(one: NDArray[np.float32], others: NDArray[np.float32], rounded: bool = True) -> NDArray[np.float64]:
    """(b, m) exact products of vectors on the grid, rounded to multiples of 2⁻²⁰ or left."""
    import numpy as np

    answer = np.empty((len(one), len(others)))
    left = one.astype(np.float64)
    for start in range(0, len(others), _BLOCK):
        np.matmul(left, others[start : start + _BLOCK].astype(np.float64).T, out=answer[:, start : start + _BLOCK])
    if not rounded:
        return answer
    np.multiply(answer, _FINEST, out=answer)
    np.rint(answer, out=answer)
    return np.multiply(answer, 1 / _FINEST, out=answer)


def on_device(one: NDArray[np.float32], others: NDArray[np.float32], rounded: bool, device: str) -> NDArray[np.float64]:
    """The same products made by torch on a device: sums without rounding have the same bits in every order."""
    import numpy as np
    import torch

    answer = np.empty((len(one), len(others)))
    left = torch.from_numpy(one).to(device).double()
    for start in range(0, len(others), _BLOCK):
        block = left @ torch.from_numpy(others[start : start + _BLOCK]).to(device).double().T
        if rounded:
            block = ((block * _FINEST).round() / _FINEST).float()  # the grid fits, and half as much is moved
        answer[:, start : start + _BLOCK] = block.cpu().numpy()
    return answer


def _dots(rows: NDArray[np.float32], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) products with one vector, summed in the pairwise order of numpy: BLAS may change its order with threads."""
    import numpy as np

    answer = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        answer[start : start + _BLOCK] = (rows[start : start + _BLOCK].astype(np.float64) * vector).sum(axis=1)
    return answer
