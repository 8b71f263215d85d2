"""A maximiser's walk over a set function: what was taken, what is left to spend, and what every gain is at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit
    from tamis.submodular.objective import Objective

BLOCK = 1024


class Path:
    """One evaluation of an objective, led forward within a limit.

    `order`, `picked_on`: candidates and gains so far. `left`: what remains of the limit. `evaluations`: gains computed.
    """

    def __init__(self, objective: Objective, most: int) -> None:
        self.state = objective.begin()
        self.left = most
        self.order: list[int] = []
        self.picked_on: list[float] = []
        self.evaluations = 0

    def __len__(self) -> int:
        return len(self.order)

    @property
    def value(self) -> float:
        """f(S)."""
        return self.state.value

    def gains(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Gains of `rows` (m,) at S. Raises DataError where one is not a finite number."""
        import numpy as np

        parts = [self.state.gains(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        gains = np.concatenate(parts) if parts else np.zeros(0)
        if not np.isfinite(gains).all():
            row = int(rows[~np.isfinite(gains)][0])
            raise DataError(f"the gain of candidate {row} is not a finite number; the objective's input has NaN or inf")
        self.evaluations += len(rows)
        return gains

    def put(self, row: int, gain: float, cost: int) -> None:
        """Put a candidate into S, whose gain at S is `gain`."""
        self.order.append(row)
        self.picked_on.append(gain)
        self.left -= cost
        self.state.add(row)


class Walk:
    """A path and what it knows of every candidate.

    `cost`: (n,) int64. `taken`: (n,) bool. `upper`: (n,) float64, the last gain measured of every candidate (inf where
    none was), which bounds its gain from above as long as the objective is submodular; `stamp`: (n,) int64, size of S
    when it was measured (-1: unknown).
    """

    def __init__(self, objective: Objective, limit: Limit, path: Path | None = None) -> None:
        import numpy as np

        size = len(objective)
        self.path = path or Path(objective, limit.most)
        self.cost = limit.costs(size)
        self.taken = np.zeros(size, bool)
        self.taken[self.path.order] = True
        self.upper = np.full(size, np.inf)
        self.stamp = np.full(size, -1, np.int64)

    def __len__(self) -> int:
        return len(self.path)

    def measure(self, rows: NDArray[np.int64]) -> None:
        """Measure the gains of `rows` (m,) at S."""
        self.upper[rows] = self.path.gains(rows)
        self.stamp[rows] = len(self)

    def measure_all(self, rows: NDArray[np.int64]) -> None:
        """Measure those of `rows` whose gains at S are not known."""
        self.measure(rows[self.stamp[rows] != len(self)])

    def take(self, row: int) -> None:
        """Put into S a candidate whose gain at S is known."""
        self.path.put(row, float(self.upper[row]), int(self.cost[row]))
        self.taken[row] = True

    def fitting(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that are not taken and fit what is left."""
        return rows[~self.taken[rows] & (self.cost[rows] <= self.path.left)]
