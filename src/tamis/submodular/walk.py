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


class Walk:
    """One evaluation of an objective, walked forward within a limit.

    `order`, `picked_on`: candidates and gains so far. `left`: what remains of the limit. `taken`: (n,) bool. `upper`:
    (n,) float64, the last gain measured of every candidate (inf where none was), which bounds its gain from above as
    long as the objective is submodular; `stamp`: (n,) int64, size of S when it was measured (-1: never).
    """

    def __init__(self, objective: Objective, limit: Limit) -> None:
        import numpy as np

        size = len(objective)
        self.state = objective.begin()
        self.left = limit.most
        self.cost = np.ones(size, np.int64) if limit.cost is None else limit.cost
        self.order: list[int] = []
        self.picked_on: list[float] = []
        self.taken = np.zeros(size, bool)
        self.upper = np.full(size, np.inf)
        self.stamp = np.full(size, -1, np.int64)
        self.evaluations = 0

    def __len__(self) -> int:
        return len(self.order)

    def measure(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Gains of `rows` (m,) at S, kept in `upper`. Raises DataError where one is not a finite number."""
        import numpy as np

        parts = [self.state.gains(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        gains = np.concatenate(parts) if parts else np.zeros(0)
        if not np.isfinite(gains).all():
            row = int(rows[~np.isfinite(gains)][0])
            raise DataError(f"the gain of candidate {row} is not a finite number; the objective's input has NaN or inf")
        self.upper[rows] = gains
        self.stamp[rows] = len(self.order)
        self.evaluations += len(rows)
        return gains

    def measure_all(self, rows: NDArray[np.int64]) -> None:
        """Measure those of `rows` whose gains at S are not known."""
        stale = rows[self.stamp[rows] != len(self.order)]
        self.measure(stale)

    def take(self, row: int) -> None:
        """Put into S a candidate that was just measured."""
        self.order.append(row)
        self.picked_on.append(float(self.upper[row]))
        self.taken[row] = True
        self.left -= int(self.cost[row])
        self.state.add(row)

    def fitting(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that are not taken and fit what is left."""
        return rows[~self.taken[rows] & (self.cost[rows] <= self.left)]
