"""k-center: rows that leave no row of the pool far from a chosen one (Sener and Savarese, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.embeddings import needs_of
from tamis.errors import RecipeError
from tamis.nearness import Duplicates
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

_DIGITS = 6  # of a squared distance of unit vectors: beyond, float32 sums hang on the order of rows


@dataclass(frozen=True, kw_only=True)
class KCenter:
    """k-center: the row farthest from all rows chosen so far, again and again (Sener and Savarese, 2018).

    Distances are Euclidean between unit embeddings (pooled hidden states of `tokens`), in [0, 2]. Rows chosen before
    (`existing`) are centres already; without any, the row nearest to the mean comes first. The greedy rule (Gonzalez,
    1985) with `trim: 0` leaves the farthest row at most twice as far as the best choice of as many rows would. It runs
    after outliers, so `trim`, a share of the rows in [0, 1), lets a step pass over the rows that are then the farthest;
    the bound is lost, and they are taken only when nothing else is left.

    `duplicates`: `once` lets only the first of rows with equal text take part. A gain is the distance to the nearest
    row chosen before; values of rows not chosen are their distances at the end. Under a token budget a step passes over
    what no longer fits. Time O(k n d) and k partial sorts of n; memory: the embeddings (n, d), never n by n.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    trim: float = 0.01
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 1:
            raise RecipeError(f"k-center: trim is a share of the rows in [0, 1), got {self.trim}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is a distance."""
        import numpy as np

        from tamis.budgets import fill, pick
        from tamis.embeddings import of_existing, of_pool

        rows = of_pool(view, "k-center", self.duplicates)
        fill(rows.places, budget, view.cost)  # an error where the budget buys not even the smallest row
        limit, tokens = budget.limits(int(view.usable.sum()))
        costs = np.ones(len(rows), np.int64) if tokens is None else view.cost[rows.places]
        order, gains, distances = farthest_first(
            rows.vectors, of_existing(view), costs, limit if tokens is None else tokens, self.trim
        )
        values = np.full(len(view), np.nan)
        values[rows.places] = distances
        values[rows.places[order]] = gains
        return pick(view, rows.places[order], budget, values, unit="distance", reasons=rows.reasons)


def farthest_first(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    costs: NDArray[np.int64],
    limit: int | None,
    trim: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Greedy k-center of (m, d) vectors from `centres` (e, d), while `costs` (m,) add up to `limit` (None: all).

    Returns the rows picked, in order, (k,) int64; the distance of each to the nearest centre when it was picked; and
    the distances (m,) of all rows at the end. Without centres the row nearest to the mean comes first, with the
    distance of the row farthest from it. `trim`: share of the rows, farthest first, that a step passes over. Ties go to
    the lower place.
    """
    import numpy as np

    squares = np.einsum("nd,nd->n", vectors, vectors)
    nearest = np.full(len(vectors), np.inf)  # squared distances
    for centre in centres:
        nearest = np.minimum(nearest, _squared(vectors, squares, centre))
    open_rows = np.ones(len(vectors), np.bool_)
    left = int(costs.sum()) if limit is None else limit
    passed = int(trim * len(vectors))
    order: list[int] = []
    gains: list[float] = []
    while len(fits := np.flatnonzero(open_rows & (costs <= left))):
        first = not len(centres) and not order
        row = _most_central(vectors, squares, fits) if first else _farthest(nearest, fits, passed)
        gains.append(float(nearest[row]))
        order.append(row)
        open_rows[row] = False
        left -= int(costs[row])
        nearest = np.minimum(nearest, _squared(vectors, squares, vectors[row]))
        if first:
            gains[0] = float(nearest.max())
    distances = np.sqrt(nearest)
    return np.asarray(order, np.int64), np.sqrt(np.asarray(gains, np.float64)), distances


def _squared(
    vectors: NDArray[np.float32], squares: NDArray[np.float32], centre: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(m,) squared distances to a centre. Not a matrix product: there the last bits of a row hang on its place."""
    import numpy as np

    products = np.einsum("nd,d->n", vectors, centre)
    return np.maximum(0, np.round(squares - 2 * products + centre @ centre, _DIGITS)).astype(np.float64)


def _most_central(vectors: NDArray[np.float32], squares: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
    import numpy as np

    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return int(rows[np.argmin(_squared(vectors, squares, mean)[rows])])


def _farthest(nearest: NDArray[np.float64], rows: NDArray[np.int64], passed: int) -> int:
    """The farthest of `rows` that lies no farther than the `passed` + 1 farthest of all of them."""
    import numpy as np

    away = nearest[rows]
    if passed:
        rank = min(passed, len(rows) - 1)
        limit = np.partition(away, len(rows) - 1 - rank)[len(rows) - 1 - rank]
        away = np.where(away <= limit, away, -1)
    return int(rows[np.argmax(away)])
