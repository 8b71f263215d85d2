"""The front of lazy greedy: the candidates that can be next, so that a pick looks at thousands and not at millions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.walk import Walk

FRONT, FIRST, LAST = 2048, 8, 256
SLACK = 1e-9


class Front:
    """The candidates with the highest rates (last gain known, a token), and the best of those kept outside.

    Gains of a submodular f never grow but by rounding; a rate known from an earlier step within `SLACK` of the best one
    is therefore measured anew before the best is taken, unless it is the very same number at a higher position.
    """

    def __init__(self, walk: Walk, rows: NDArray[np.int64]) -> None:
        self.walk, self.rows, self.size = walk, rows, FRONT
        self.front = rows
        self.outside: tuple[float, int] | None = None
        self._fill()

    def leader(self) -> int | None:
        """The candidate that naive greedy would take next, measured at S; None where nothing fits any more."""
        import numpy as np

        walk, batch = self.walk, FIRST
        filled_at = -1
        while len(self.rows):
            rates = self._rates()
            best = int(np.argmax(rates)) if len(rates) else -1
            if best < 0 or self._beaten(float(rates[best]), int(self.front[best])):
                self.size *= 2 if filled_at == walk.path.evaluations else 1
                filled_at = walk.path.evaluations
                self._fill()
                continue
            stale = walk.stamp[self.front] != len(walk)
            if not stale[best]:
                near = rates >= rates[best] - SLACK * abs(rates[best])
                stale &= near & (rates != rates[best])
            if not (waiting := np.flatnonzero(stale)).size:
                return int(self.front[best])
            if len(waiting) > batch:
                waiting = waiting[np.argpartition(-rates[waiting], batch)[:batch]]
            walk.measure(np.sort(self.front[waiting]))
            batch = min(2 * batch, LAST)
        return None

    def drop(self) -> None:
        """Leave out what was taken or no longer fits."""
        self.front = self.walk.fitting(self.front)

    def _rates(self) -> NDArray[np.float64]:
        return self.walk.upper[self.front] / self.walk.cost[self.front]

    def _beaten(self, rate: float, row: int) -> bool:
        """Whether the best candidate outside could come before `row` of rate `rate`."""
        if self.outside is None:
            return False
        its_rate, its_row = self.outside
        if its_rate == rate:
            return its_row < row
        return its_rate >= rate - SLACK * abs(rate)

    def _fill(self) -> None:
        """Choose the front anew: the highest rates, of equal ones the lower positions."""
        import numpy as np

        self.rows = self.front = self.walk.fitting(self.rows)
        self.outside = None
        if len(self.rows) <= self.size:
            return
        rates = self._rates()
        cut = np.partition(rates, len(rates) - self.size)[len(rates) - self.size]
        inside = rates > cut
        inside[np.flatnonzero(rates == cut)[: self.size - int(inside.sum())]] = True
        self.front = self.rows[inside]
        rates[inside] = -np.inf
        first = int(np.argmax(rates))
        self.outside = float(rates[first]), int(self.rows[first])
