"""Greedy maximisation: the naive rule, and the lazy one that makes the same picks from far fewer gains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.submodular.bounds import bound_at, most_of
from tamis.submodular.objective import Picks
from tamis.submodular.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective

FRONT, FIRST, LAST = 2048, 8, 256
SLACK = 1e-9


def greedy(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """Naive or lazy greedy in general loops, over any objective; see `Maximiser`."""
    import numpy as np

    walk = Walk(objective, limit)
    rows = np.arange(len(objective))
    notes = []
    walk.measure(rows)
    alone = walk.upper.copy()
    if how.method == "naive" or not objective.submodular:
        if how.method != "naive":
            notes.append("the objective is not submodular: every gain was computed at every step")
        plainly(walk, rows, how.stop_at_negative)
    else:
        lazily(walk, rows, how.stop_at_negative)
    return finished(objective, limit, walk, alone, nested=limit.rows is not None, notes=notes)


def plainly(walk: Walk, rows: NDArray[np.int64], stop_at_negative: bool) -> None:
    """Walk on through `rows` (ascending): at every step measure all that fit and take the best, until none fits."""
    import numpy as np

    while len(rows := walk.fitting(rows)):
        walk.measure_all(rows)
        best = int(rows[np.argmax(walk.upper[rows] / walk.cost[rows])])
        if stop_at_negative and walk.upper[best] < 0:
            return
        walk.take(best)


def lazily(walk: Walk, rows: NDArray[np.int64], stop_at_negative: bool) -> None:
    """Make the picks of `plainly` for a submodular objective, measuring only what could still be the best."""
    front = _Front(walk, rows)
    while (best := front.leader()) is not None:
        if stop_at_negative and walk.upper[best] < 0:
            return
        walk.take(best)
        front.drop()


class _Front:
    """The candidates with the highest rates (last gain known, a token), and the best of those kept outside.

    Gains of a submodular f never grow but by rounding; a rate known from an earlier step within `SLACK` of the best one
    is therefore measured anew before the best is taken, unless it is the very same number at a higher position.
    """

    def __init__(self, walk: Walk, rows: NDArray[np.int64]) -> None:
        self.walk, self.rows, self.size = walk, rows, FRONT
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
                self.size *= 2 if filled_at == walk.evaluations else 1
                filled_at = walk.evaluations
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
        self.outside: tuple[float, int] | None = None
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


def finished(
    objective: Objective,
    limit: Limit,
    walk: Walk,
    alone: NDArray[np.float64] | None,
    *,
    nested: bool,
    notes: Iterable[str] = (),
) -> Picks:
    """Picks of a walk that is over. `alone`: (n,) value of every candidate alone, for a second bound; None: unknown."""
    import numpy as np

    bound = None
    gains = np.array(walk.picked_on, np.float64)
    if objective.submodular and objective.monotone:
        bound = bound_at(walk, limit.most)
        if alone is not None:
            bound = max(min(bound, most_of(alone, walk.cost, limit.most)[0]), walk.state.value)
    lost = int((gains < 0).sum())
    said = [f"{lost} of the {len(gains)} picks made f smaller: the budget was filled all the same"] if lost else []
    return Picks(
        order=np.array(walk.order, np.int64),
        gains=gains,
        value=walk.state.value,
        bound=bound,
        evaluations=walk.evaluations,
        nested=nested,
        notes=(*notes, *said),
    )
