"""Rows far from each other: by the sum of their distances, or by the least of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Need, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class DisparitySum:
    """Disparity sum: rows with the greatest sum of distances from each other (Dasgupta et al., ACL 2013).

    Maximises Σ_{i < j in S} (1 - cosine) over pooled hidden states by greedy. It runs to the rim of the pool: outliers
    and near-copies of them are far from all others; `disparity-min` does not take such copies. Not submodular, so there
    is no bound. The first row is the one farthest from the mean. No kernel is held: O(n d) a pick, O(n d) memory.
    `duplicates`: `once` lets only the first of rows with equal text take part.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    duplicates: Duplicates = "once"

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the distance to all before."""
        from tamis.submodular import disparity
        from tamis.submodular.cosines import Cosine
        from tamis.submodular.selecting import subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "disparity-sum", self.duplicates)
        objective = disparity.DisparitySum(Cosine(rows.vectors))
        return subset_of(view, budget, objective, rows.places, unit="mean distance", reasons=rows.reasons)


@dataclass(frozen=True, kw_only=True)
class DisparityMin:
    """Disparity min: rows whose least distance from each other is greatest (Dasgupta et al., ACL 2013).

    Maximises min_{i ≠ j in S} (1 - cosine) over pooled hidden states by greedy: from the row farthest from the mean on,
    always the row farthest from all chosen ones, at least half of the best for the distances √(1 - cosine) (Ravi et
    al., 1994). Outliers come first. Gains are what the least distance loses, at most 0 from the third pick on. Not
    submodular, so there is no bound. A budget of tokens passes over what no longer fits: a loss divided by tokens would
    ask for long rows. No kernel is held: O(n d) a pick, O(n d) memory. `duplicates`: `once` lets only the first of rows
    with equal text take part.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    duplicates: Duplicates = "once"

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the least distance changed by."""
        import numpy as np

        from tamis.budgets import order_for, pick
        from tamis.submodular import disparity
        from tamis.submodular.cosines import Cosine
        from tamis.submodular.maximise import Limit, maximise
        from tamis.submodular.selecting import limit_of, subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "disparity-min", self.duplicates)
        objective = disparity.DisparityMin(Cosine(rows.vectors))
        unit = "mean distance"
        if limit_of(view, budget, rows.places).tokens is None:
            return subset_of(view, budget, objective, rows.places, unit=unit, reasons=rows.reasons)

        def first(count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            picks = maximise(objective, Limit(rows=count))
            return rows.places[picks.order], picks.gains.astype(np.float32)

        values = np.full(len(view), np.nan)
        values[rows.places] = objective.begin().gains(np.arange(len(rows)))
        gains = values.copy()
        order, picked_on = order_for(view, budget, first)
        gains[order] = picked_on
        return pick(view, order, budget, values, unit=unit, gains=gains, reasons=rows.reasons)
