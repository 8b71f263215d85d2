"""GOT-D: rows by the gradient of optimal transport from the pool to the target (Kang et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.vectors import embeddings
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Need, Subset
    from tamis.views import PoolView

_ROWS = 4096  # costs computed at once
_HELD = 1 << 25  # costs kept in memory (256 MB); beyond, they are computed again in every iteration
_LEAST = 1e-300  # share of its mass that a target is taken to get where none is seen yet
_GRID = 40_000  # costs are told apart for their median
_DIGITS = 6  # of a gradient, relative to their spread: equal rows tie, and sums do not depend on the order of rows


@dataclass(frozen=True, kw_only=True)
class GotD:
    """GOT-D: rows where more mass brings the pool nearest to the target (Kang et al., 2405.02774).

    Entropic optimal transport moves the pool's embeddings (pooled hidden states of unit length, equal mass) onto the
    target's at a cost of squared distance, smoothed by `eps` times the median cost; log-domain Sinkhorn gives the
    potential f of every row. Its calibrated gradient is f_i (1 + 1 / (N - 1)) - Σ f / (N - 1), by how much the
    transport grows with the mass of row i at the price of all others (LAVA, Just et al., 2023); the most negative
    rows are picked. So the *gap* between pool and target is closed, where nearest rows are picked that the pool may
    hold in plenty. `contrast` picks the most positive rows instead, those that lead away from the target.

    The gradient is that of an infinitely small step, and near-duplicates share it: `duplicates` `once` leaves exact
    copies out, and `resolve` above 0 solves again after every so many picks, with the mass of picked rows doubled.
    The method asks for a pool like the data that the model was trained on before. Sinkhorn stops when potentials
    move by less than `tolerance` · eps · median cost, or after `iterations`.

    Time: O(n q d) for the costs and O(n q) an iteration; above 2^25 pairs, costs are computed anew in blocks of rows
    in every iteration and memory stays O(n d + q d).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    eps: float = 0.05
    contrast: bool = False
    resolve: int = 0
    iterations: int = 1000
    tolerance: float = 1e-4
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if self.eps <= 0 or self.tolerance <= 0 or self.iterations < 1 or self.resolve < 0:
            raise RecipeError(
                f"got-d: eps and tolerance are above 0, iterations at least 1, resolve not negative; got {self.eps}, "
                f"{self.tolerance}, {self.iterations} and {self.resolve}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of pool and target; the lengths of rows."""
        return embeddings.needs_of("target")

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is how fast the transport falls with the mass of the row."""
        import numpy as np

        from tamis.budgets import order_for, pick

        rows = embeddings.of_pool(view, "got-d", self.duplicates)
        plan = Transport(rows.vectors, embeddings.of_side(view, "target", "got-d"), self.eps)
        first, last = self._gradient(plan, np.ones(len(rows)))
        values = np.full(len(view), np.nan)
        values[rows.places] = first
        gains = np.zeros(len(view))

        def turns(most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            order, gradients = self._order(plan, first, last, most)
            gains[rows.places[order]] = gradients if self.contrast else -gradients
            return rows.places[order], gains[rows.places[order]].astype(np.float32)

        order, _ = order_for(view, budget, turns)
        subset = pick(view, order, budget, values, unit="gradient of the transport", gains=gains, reasons=rows.reasons)
        short = f"Sinkhorn was stopped after {self.iterations} iterations, unsettled; raise eps or iterations"
        return dataclasses.replace(subset, notes=() if plan.settled else (short,))

    def _order(
        self, plan: Transport, gradient: NDArray[np.float64], last: NDArray[np.float64], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """At least `most` candidates, best first, and the gradient that each was picked on."""
        import numpy as np

        mass = np.ones(len(gradient))
        order: list[NDArray[np.int64]] = []
        picked_on: list[NDArray[np.float64]] = []
        while True:
            left = np.flatnonzero(mass == 1)
            best = left[np.argsort(gradient[left] * (-1 if self.contrast else 1), kind="stable")]
            best = best[: self.resolve or most]
            order.append(best)
            picked_on.append(gradient[best])
            mass[best] = 2
            taken = sum(map(len, order))
            if taken >= min(most, len(gradient)):
                return np.concatenate(order), np.concatenate(picked_on)
            gradient, last = self._gradient(plan, mass, last)

    def _gradient(
        self, plan: Transport, mass: NDArray[np.float64], start: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N,) calibrated gradient, rounded, and the target's potentials (q,), to start the next solution from."""
        import numpy as np

        f, g = plan.solve(mass, self.iterations, self.tolerance, start)
        gradient = f + (f - f.sum()) / max(1, len(f) - 1)
        unit = 10.0**-_DIGITS * max(float(np.ptp(gradient)), plan.smoothing)
        return np.round(gradient / unit) * unit, g


class Transport:
    """Entropic transport from `sources` (N, d) to equal masses at `targets` (q, d) by squared distance.

    `smoothing` is `eps` times the median cost, counted on a grid of 1 / 40,000 of the largest possible (1e-4 for
    vectors of unit length). `settled`: no solution was cut off by its limit of iterations.
    """

    def __init__(self, sources: NDArray[np.float32], targets: NDArray[np.float32], eps: float) -> None:
        import numpy as np

        self._sources, self._targets = sources, targets
        self.settled = True
        self._held: list[NDArray[np.float64]] = []
        counts = np.zeros(_GRID + 2, np.int64)
        step = float(sum(np.linalg.norm(side, axis=1).max() for side in (sources, targets)) ** 2) / _GRID
        for costs in self._blocks():
            counts += np.bincount(
                np.minimum(np.round(costs / step), _GRID + 1).astype(np.int64).ravel(), minlength=_GRID + 2
            )
            if len(sources) * len(targets) <= _HELD:
                self._held.append(costs)
        median = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) // 2))
        self.smoothing = eps * max(median, 1) * step

    def _blocks(self) -> Iterator[NDArray[np.float64]]:
        """Squared distances (some rows, q), block by block; products are rounded so that equal rows cost the same."""
        import numpy as np

        ends = (self._targets.astype(np.float64) ** 2).sum(axis=1)
        for start in range(0, len(self._sources), _ROWS):
            part = self._sources[start : start + _ROWS]
            products = np.round((part @ self._targets.T).astype(np.float64), 6)
            lengths = np.round((part.astype(np.float64) ** 2).sum(axis=1), 6)[:, None]
            yield np.maximum(lengths + ends - 2 * products, 0)

    def solve(
        self, mass: NDArray[np.float64], iterations: int, tolerance: float, start: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Potentials f (N,) of the sources, whose masses are relative, and g (q,) of the targets."""
        import numpy as np

        g = np.zeros(len(self._targets)) if start is None else start
        f = np.zeros(len(self._sources))
        for _ in range(iterations):
            before, g = g, self._half_steps(f, g, mass / mass.sum())
            if np.abs(g - before).max() <= tolerance * self.smoothing:
                return f, g
        self.settled = False
        return f, g

    def _half_steps(
        self, f: NDArray[np.float64], g: NDArray[np.float64], mass: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Write the f that belongs to `g`, and return the g that belongs to it: one walk over the blocks.

        Given f, every source sends its mass by a softmax over the targets; a target that gets s times its share loses
        smoothing · log s of its potential.
        """
        import numpy as np

        got = np.zeros(len(g))
        first = 0
        for costs in self._held or self._blocks():
            part = slice(first, first := first + len(costs))
            sent = (g - costs) / self.smoothing
            highest = sent.max(axis=1)
            sent -= highest[:, None]
            np.exp(sent, out=sent)
            sums = sent.sum(axis=1)
            f[part] = -self.smoothing * (highest + np.log(sums) - np.log(len(g)))
            got += (mass[part] / sums) @ sent
        return np.asarray(g - self.smoothing * np.log(np.maximum(got * len(g), _LEAST)))
