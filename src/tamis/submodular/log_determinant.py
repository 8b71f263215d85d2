"""Log-determinants: rows that span much, as D-optimal design and determinantal point processes choose them.

D-optimal design with a ridge and the DPP on L = I + K / ridge are one function of S, f(S) = log det(I + K_S / ridge), K
the products of rows (Chen et al., 2018, for the second front end): the order of greedy is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError, RecipeError
from tamis.submodular.kernels import Kernel, checked
from tamis.submodular.sums import WeightedSum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GRID = 2.0**24
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class DOptimal:
    """f(S) = log det(I + Xᵀ_S X_S / ridge) of `vectors` (n, d) of any length. Monotone and submodular; ridge above 0.

    A pick updates the leverage of every row by one inverse of size d (Sherman & Morrison, 1950): O(n d + d²), in fixed
    order, whatever number of rows is picked.
    """

    vectors: NDArray[Any]
    ridge: float = 1.0
    submodular = True
    monotone = True

    def __post_init__(self) -> None:
        checked(self.vectors, 2, "embeddings")
        _check_ridge(self.ridge)

    def __len__(self) -> int:
        return len(self.vectors)

    def begin(self) -> _Leverage:
        """Evaluation at the empty set."""
        return _Leverage(self.vectors, self.ridge)


class _Leverage:
    """`_leverage` (n,): xᵀ A⁻¹ x with A = ridge I + the outer products of S."""

    def __init__(self, vectors: NDArray[Any], ridge: float) -> None:
        import numpy as np

        self._vectors = vectors
        self._inverse = np.eye(vectors.shape[1]) / ridge
        parts = [vectors[start : start + _BLOCK].astype(np.float64) for start in range(0, len(vectors), _BLOCK)]
        self._leverage = np.concatenate([np.zeros(0), *[(part * part).sum(axis=1) / ridge for part in parts]])
        self._gains: NDArray[np.float64] = np.log1p(self._leverage)
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        return self._gains[rows]

    def add(self, row: int, /) -> None:
        import numpy as np

        self.value += float(self._gains[row])
        pushed = np.einsum("ij,j->i", self._inverse, self._vectors[row].astype(np.float64))
        scale = 1 + self._leverage[row]
        for start in range(0, len(self._vectors), _BLOCK):  # einsum's own loops: BLAS may change its order with threads
            part = slice(start, start + _BLOCK)
            along = np.einsum("ij,j->i", self._vectors[part].astype(np.float64), pushed)
            self._leverage[part] -= along * along / scale
        np.maximum(self._leverage, 0, out=self._leverage)
        self._inverse -= np.outer(pushed, pushed) / scale
        self._gains = np.log1p(self._leverage)


@dataclass(frozen=True, eq=False)
class LogDeterminant:
    """f(S) = log det(I + K_S / ridge) of a symmetric kernel, scaled by `quality` (n,): K_ij = q_i s_ij q_j.

    Greedy is fast MAP inference of a DPP (Chen et al., 2018): each pick adds a row to the Cholesky factor of every
    candidate, O(n k) time and 8 n k bytes for k picks. Monotone and submodular for a positive semidefinite kernel;
    a kernel that is seen not to be so is a DataError.
    """

    kernel: Kernel
    ridge: float = 1.0
    quality: NDArray[np.float64] | None = None
    submodular = True
    monotone = True

    def __post_init__(self) -> None:
        _check_ridge(self.ridge)
        if not self.kernel.symmetric:
            raise RecipeError("a log-determinant needs a symmetric kernel of candidates with themselves")
        if self.quality is not None:
            checked(self.quality, 1, "qualities")
            if self.quality.shape != (len(self.kernel),):
                raise RecipeError(f"one quality a candidate is needed, got {self.quality.shape}")

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Factor:
        """Evaluation at the empty set."""
        return _Factor(self)


class _Factor:
    """`_left` (n,): the squared pivot of every candidate; `_factor` (k, n): rows of the Cholesky factor.

    A candidate of S stands there as a second row of the same similarities, whose pivot is never asked for.
    """

    def __init__(self, objective: LogDeterminant) -> None:
        import numpy as np

        kernel = objective.kernel
        self._kernel = kernel
        self._quality = np.ones(len(kernel)) if objective.quality is None else objective.quality.astype(np.float64)
        self._quality = self._quality / np.sqrt(objective.ridge)
        self._left = 1 + self._quality**2 * kernel.diagonal()
        self._factor = np.empty((8, len(kernel)))
        self._size = 0
        self._gains = self._logs()
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        return self._gains[rows]

    def add(self, row: int, /) -> None:
        import numpy as np

        self.value += float(self._gains[row])
        at, similarities = self._kernel.column(row)
        along = np.zeros(len(self._left))
        along[at] = self._quality[row] * similarities * self._quality[at]
        for known in self._factor[: self._size]:  # one after the other: a fixed order, and no second (k, n)
            along -= known[row] * known
        along /= np.sqrt(self._left[row])
        if self._size == len(self._factor):
            self._factor = np.concatenate([self._factor, np.empty_like(self._factor)])
        self._factor[self._size] = along
        self._size += 1
        self._left -= along * along
        self._gains = self._logs()

    def _logs(self) -> NDArray[np.float64]:
        import numpy as np

        if len(self._left) and float(self._left.min()) < 1 - 1e-3:
            raise DataError("the kernel is not positive semidefinite; a log-determinant needs one that is")
        logs: NDArray[np.float64] = np.log(np.maximum(self._left, 1))
        return logs


def conditional(vectors: NDArray[Any], held: NDArray[Any], ridge: float = 1.0, nu: float = 1.0) -> DOptimal:
    """Conditional gain given rows held: log det(S_A - nu² S_AP S_P⁻¹ S_PA), S = I + K / ridge (Iyer et al., 2021).

    `vectors` (n, d), `held` (p, d). Held rows take away from all vectors what they span: a pick costs what it costs
    without them. nu in [0, 1].
    """
    import numpy as np

    checked(held, 2, "embeddings of rows held")
    _check_ridge(ridge)
    if not 0 <= nu <= 1:
        raise RecipeError(f"log-determinant: nu and eta lie in [0, 1], got {nu}")
    wide = held.astype(np.float64)
    spread, axes = np.linalg.eigh(wide.T @ wide)
    spread = np.maximum(spread, 0)
    root = (axes * np.sqrt(1 - nu**2 * spread / (ridge + spread))) @ axes.T
    kept = np.empty(vectors.shape, np.float64)
    for start in range(0, len(vectors), _BLOCK):
        kept[start : start + _BLOCK] = (
            np.rint(vectors[start : start + _BLOCK].astype(np.float64) @ root * _GRID) / _GRID
        )
    return DOptimal(kept, ridge)


def mutual(vectors: NDArray[Any], queries: NDArray[Any], ridge: float = 1.0, eta: float = 1.0) -> WeightedSum:
    """Mutual information with queries: log det(S_A) - log det(S_A - eta² S_AQ S_Q⁻¹ S_QA) (Iyer et al., 2021).

    `vectors` (n, d), `queries` (q, d), eta in [0, 1]. Gains are never negative, but rows may tell more together than
    apart: it is not submodular, and greedy looks at all gains at every step.
    """
    return WeightedSum(((1.0, DOptimal(vectors, ridge)), (-1.0, conditional(vectors, queries, ridge, eta))))


def _check_ridge(ridge: float) -> None:
    if not ridge > 0:
        raise RecipeError(f"log-determinant: ridge must be above 0, got {ridge}")
