"""Sieve-streaming (Badanidiyuru et al., 2014): a maximiser for data that arrives once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tamis.submodular.bounds import head_of, most_of
from tamis.submodular.greedy import fill, picks_of
from tamis.submodular.threshold import sweep
from tamis.submodular.walk import BLOCK, Path, Walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective, Picks


def sieve(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """Sieve-streaming; see `Maximiser`. Candidates are asked for block by block, in order, and only kept ones again.

    For every guess v of the best value a sieve takes what gains at least (v / 2 - f(S)) / (what is left), until it has
    v / 2. The sieve of the highest value is then filled by lazy greedy from the picks of the others and from the best
    single and the smallest candidates, of which as many as the limit holds are kept along the way. The bound is the
    least over all sieves: gains of what a sieve passed over were measured then, and never grow. Memory: a state a
    sieve, about ln(2 k) / epsilon of them.
    """
    import numpy as np

    cost = limit.costs(len(objective))
    stream = _Stream(objective, limit.most, how.epsilon)
    for start in range(0, len(objective), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(objective)))
        stream.read(rows, cost[rows])
    best = stream.best()
    notes = (f"one pass over the rows by {len(stream.sieves)} sieves; {len(best)} picks are of the best one",)
    best.evaluations = stream.evaluations()
    walk = Walk(objective, limit, best)
    fill(walk, stream.kept(), objective, how)
    return picks_of(best, stream.bound() if objective.monotone else None, notes=notes)


class _Kept:
    """Of rows that come by, those with the highest keys, ties to the earlier, until their costs reach a limit."""

    def __init__(self, most: int) -> None:
        import numpy as np

        self.most = most
        self.rows, self.cost = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.keys, self.gains = np.zeros(0), np.zeros(0)

    def offer(
        self,
        rows: NDArray[np.int64],
        cost: NDArray[np.int64],
        keys: NDArray[np.float64],
        gains: NDArray[np.float64],
    ) -> None:
        import numpy as np

        keys = np.concatenate([self.keys, keys])
        costs = np.concatenate([self.cost, cost])
        head = head_of(keys, costs, self.most)
        self.rows = np.concatenate([self.rows, rows])[head]
        self.gains = np.concatenate([self.gains, gains])[head]
        self.keys, self.cost = keys[head], costs[head]

    def copy(self) -> _Kept:
        other = _Kept(self.most)
        other.rows, other.cost, other.keys, other.gains = self.rows, self.cost, self.keys, self.gains
        return other


class _Sieve:
    """One guess of the best value: its path, and the largest gains among what it passed over."""

    def __init__(self, path: Path, guess: float, passed: _Kept) -> None:
        self.path, self.guess, self.passed = path, guess, passed

    def read(self, rows: NDArray[np.int64], cost: NDArray[np.int64], alone: NDArray[np.float64]) -> None:
        import numpy as np

        upper = alone.copy()
        sweep(self.path, rows, upper, cost, self._bar)
        passed = np.isfinite(upper)
        self.passed.offer(rows[passed], cost[passed], (upper / cost)[passed], upper[passed])

    def _bar(self, path: Path) -> float:
        missing = self.guess / 2 - path.value
        return missing / path.left if missing > 0 else math.inf

    def bound(self) -> float:
        """f(S) + the largest sum of gains passed over that fits the limit."""
        return self.path.value + most_of(self.passed.gains, self.passed.cost, self.passed.most)[0]


class _Stream:
    """All sieves of a pass, and what is kept of the rows that went by."""

    def __init__(self, objective: Objective, most: int, epsilon: float) -> None:
        self.objective, self.most, self.step = objective, most, math.log1p(epsilon)
        self.empty = Path(objective, most)
        self.sieves: dict[int, _Sieve] = {}
        self.alone, self.small = _Kept(most), _Kept(most)
        self.highest, self.steepest = 0.0, 0.0
        self.single: tuple[int, float, int] | None = None
        self.spent = 0

    def read(self, rows: NDArray[np.int64], cost: NDArray[np.int64]) -> None:
        """Show a block to every sieve. A sieve made now missed nothing: what came before was below its first bar."""
        import numpy as np

        rows, cost = rows[cost <= self.most], cost[cost <= self.most]
        if not len(rows):
            return
        gains = self.empty.gains(rows)
        best = int(np.argmax(gains))
        if self.single is None or gains[best] > self.single[1]:
            self.single = int(rows[best]), float(gains[best]), int(cost[best])
        self.highest = max(self.highest, float(gains[best]))
        self.steepest = max(self.steepest, float((gains / cost).max()))
        self._renew()
        for one in self.sieves.values():
            one.read(rows, cost, gains)
        self.alone.offer(rows, cost, gains / cost, gains)
        self.small.offer(rows, cost, -cost.astype(np.float64), gains)

    def _renew(self) -> None:
        """Guesses (1 + epsilon)^i from the best single value to twice what the steepest candidate could make."""
        if self.highest <= 0:
            return
        least = math.ceil(math.log(self.highest) / self.step)
        most = max(least, math.floor(math.log(2 * self.most * self.steepest) / self.step))
        for index in [index for index in self.sieves if index < least]:
            self.spent += self.sieves.pop(index).path.evaluations
        for index in range(least, most + 1):
            if index not in self.sieves:
                path = Path(self.objective, self.most)
                self.sieves[index] = _Sieve(path, math.exp(index * self.step), self.alone.copy())

    def best(self) -> Path:
        """The path of the highest value, ties to the lower guess, or one of the best single row if that is higher."""
        paths = [self.sieves[index].path for index in sorted(self.sieves)]
        best = max(paths, key=lambda path: path.value, default=self.empty)
        if self.single is not None and self.single[1] > best.value:
            best = Path(self.objective, self.most)
            best.put(*self.single)
        return best

    def evaluations(self) -> int:
        """Gains computed in the whole pass."""
        return self.spent + self.empty.evaluations + sum(one.path.evaluations for one in self.sieves.values())

    def kept(self) -> NDArray[np.int64]:
        """Rows still at hand, ascending: picks of all sieves, the best single rows and the smallest ones."""
        import numpy as np

        picked = [np.array(one.path.order, np.int64) for one in self.sieves.values()]
        return np.unique(np.concatenate([self.alone.rows, self.small.rows, *picked]))

    def bound(self) -> float:
        """The least of the bounds of all sieves and of the empty set."""
        empty = most_of(self.alone.gains, self.alone.cost, self.most)[0]
        return min([empty, *[one.bound() for one in self.sieves.values()]])
