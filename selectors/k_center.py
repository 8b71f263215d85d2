"""k-center: rows that leave no row of the pool far from a chosen one (Sener and Savarese, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.distances import Spread
    from tamis.views import PoolView


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
        import dataclasses

        import numpy as np

        from tamis.budgets import fill, pick
        from tamis.vectors.embeddings import of_existing, of_pool

        rows = of_pool(view, "k-center", self.duplicates)
        fill(rows.places, budget, view.cost)  # an error where the budget buys not even the smallest row
        limit, tokens = budget.limits(int(view.usable.sum()))
        costs = np.ones(len(rows), np.int64) if tokens is None else view.cost[rows.places]
        found = farthest_first(rows.vectors, of_existing(view), costs, limit if tokens is None else tokens, self.trim)
        values = np.full(len(view), np.nan)
        values[rows.places] = found.distances
        values[rows.places[found.order]] = found.gains
        subset = pick(view, rows.places[found.order], budget, values, unit="distance", reasons=rows.reasons)
        return dataclasses.replace(subset, notes=(_reach(found.distances),))


def _reach(distances: NDArray[np.float64]) -> str:
    import numpy as np

    most = float(np.quantile(distances, 0.99))
    return f"every row lies within {distances.max():.4f} of a chosen one, 99 % of them within {most:.4f} (at most 2)"


def farthest_first(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    costs: NDArray[np.int64],
    limit: int | None,
    trim: float = 0.0,
) -> Spread:
    """Greedy k-center of (m, d) vectors from `centres` (e, d), while `costs` (m,) add up to `limit` (None: all).

    Without centres the row nearest to the mean comes first. `trim`: share of the rows, farthest first, that a step
    passes over. Ties go to the lower place.
    """
    from tamis.vectors.distances import spread, squared

    passed = int(trim * len(vectors))

    def most_central(lengths: NDArray[np.float32], rows: NDArray[np.int64]) -> int:
        mean = vectors.mean(axis=0, dtype="float64").astype("float32")
        return int(rows[squared(vectors, lengths, mean)[rows].argmin()])

    return spread(
        vectors, centres, costs, limit, most_central, lambda nearest, rows, _: _farthest(nearest, rows, passed)
    )


def _farthest(nearest: NDArray[np.float64], rows: NDArray[np.int64], passed: int) -> int:
    """The farthest of `rows` that lies no farther than the `passed` + 1 farthest of all of them."""
    import numpy as np

    away = nearest[rows]
    if passed:
        rank = min(passed, len(rows) - 1)
        limit = np.partition(away, len(rows) - 1 - rank)[len(rows) - 1 - rank]
        away = np.where(away <= limit, away, -1)
    return int(rows[np.argmax(away)])
