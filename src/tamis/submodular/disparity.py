"""Disparity: rows far from each other, by the sum of their distances or by the least of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import RecipeError
from tamis.submodular.kernels import Kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DisparitySum:
    """f(S) = Σ_{i < j in S} (1 - s_ij), the pairs of S each once (Dasgupta et al., 2013). Supermodular.

    One row has no pair; f of it is its mean distance from all candidates, so that greedy, which must begin somewhere,
    begins with the row farthest out wherever it stands. Greedy reaches half of the best for distances that are a metric
    (Borodin et al., 2012). The kernel is symmetric; over `Cosine` none is held, O(n d) a pick.
    """

    kernel: Kernel
    submodular = False
    monotone = False

    def __post_init__(self) -> None:
        _square(self.kernel)

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Summed:
        """Evaluation at the empty set."""
        return _Summed(self.kernel)


class _Summed:
    """`_far` (n,): the sum of distances of every candidate from S."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._far = _mean_distance(kernel)
        self._size = 0
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        return self._far[rows] - (self.value if self._size == 1 else 0.0)

    def add(self, row: int, /) -> None:
        import numpy as np

        self.value += float(self.gains(np.array([row]))[0])
        if not self._size:
            self._far = np.zeros(len(self._far))
        self._far += _distances(self._kernel, row)
        self._size += 1


@dataclass(frozen=True, eq=False)
class DisparityMin:
    """f(S) = min_{i ≠ j in S} (1 - s_ij), the least distance between two rows of S (Dasgupta et al., 2013).

    Neither monotone nor submodular; greedy is farthest-first, half of the best or more for distances that are a metric
    (Ravi et al., 1994). f of one row is its mean distance from all candidates: greedy begins with the row farthest out.
    The kernel is symmetric; over `Cosine` none is held, O(n d) a pick.
    """

    kernel: Kernel
    submodular = False
    monotone = False

    def __post_init__(self) -> None:
        _square(self.kernel)

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Least:
        """Evaluation at the empty set."""
        return _Least(self.kernel)


class _Least:
    """`_far` (n,): the distance of every candidate from the nearest row of S."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._far = _mean_distance(kernel)
        self._size = 0
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        import numpy as np

        reached = self._far[rows]
        if self._size > 1:
            reached = np.minimum(reached, self.value)
        return np.asarray(reached - self.value)

    def add(self, row: int, /) -> None:
        import numpy as np

        reached = float(self._far[row])
        self.value = min(reached, self.value) if self._size > 1 else reached
        distances = _distances(self._kernel, row)
        self._far = np.minimum(self._far, distances) if self._size else distances
        self._size += 1


def _square(kernel: Kernel) -> None:
    if kernel.represented != len(kernel):
        raise RecipeError(
            f"distances among candidates need a square kernel, got {kernel.represented} represented rows and "
            f"{len(kernel)} candidates"
        )


def _mean_distance(kernel: Kernel) -> NDArray[np.float64]:
    return 1 - kernel.totals() / max(1, len(kernel))


def _distances(kernel: Kernel, row: int) -> NDArray[np.float64]:
    """(n,) distances of all candidates from one."""
    import numpy as np

    distances = np.ones(len(kernel))
    at, similarities = kernel.column(row)
    distances[at] -= similarities
    return distances
