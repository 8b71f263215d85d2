"""Concept-aware batch sampling (Ghosh et al., 2025), on a whole pool: CABS-DM balances concepts, CABS-FM heaps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.concepts import CLUSTERS, check, needs_of, of_view
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.concepts import Conceived
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class CabsDm:
    """CABS-DM: rows whose concepts are still rare among those chosen (Ghosh et al., 2025).

    Of a budget of b rows, every concept has a target t, b divided by the number of concepts (at least 1, at most the
    cap; scaled down where targets add up to more than b), and a hard cap. With n rows of a concept chosen, and F in the
    pool, a row is worth the mean over its concepts of (t - n) / t + 1 / F below the target, and of `over` from the
    target on (-0.5 in the released code, 0 in the paper); a row with a concept at its cap is out. The best is taken,
    ties to the lower place; when every row left is out, or has no concept, the rest is drawn at random by `seed` and
    key. `cap`: the released 10 starves budgets above ten rows a concept; without one it is twice the even share of a
    concept, at least 10. A budget in tokens counts as the rows of mean length that it buys.

    `concepts`: `meta.NAME` (a list, or words with commas between), source, kind or file; else `clusters`: k-means of
    the embeddings at three `sizes` (a quarter of, once and four times √n), no tags of a model. Then each size has
    targets of its own, for a row has one cluster in each. The paper draws training batches of images so; here the pool
    is the one super-batch.

    Worth never grows, and rows of equal concepts are one entry of a lazy heap: O(n L + e (L + log g)) for g different
    sets of L concepts and e entries looked at, one a pick and at most g L (t + 1) that had fallen; memory O(n L).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = False  # targets are shares of the budget

    concepts: str = CLUSTERS
    sizes: tuple[int, ...] = ()
    cap: int | None = None
    over: float = -0.5
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        check("cabs-dm", self.concepts, self.sizes)
        if self.over > 0 or (self.cap is not None and self.cap < 1):
            raise RecipeError(f"cabs-dm: over is at most 0 and cap at least 1; got {self.over} and {self.cap}")

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, and pooled hidden states for clusters."""
        return needs_of(self.concepts)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row was worth when picked."""
        import dataclasses

        import numpy as np

        from tamis.budgets import fill, order_for, pick
        from tamis.draws import of_keys
        from tamis.vectors.balance import Balance, goals_of, said_of

        found = of_view(view, "cabs-dm", self.concepts, sizes=self.sizes, seed=self.seed, duplicates=self.duplicates)
        fill(found.places, budget, view.cost)  # an error where the budget buys not even the smallest row
        goals = goals_of(found.concepts, self._rows(view, found, budget), self.cap)
        worth = Balance(found.concepts, goals, self.over).worth
        at_random = np.argsort(of_keys(view, self.seed)[found.places], kind="stable")
        by_worth: list[int] = []
        values = np.full(len(view), np.nan)
        values[found.places] = [worth(tuple(found.concepts.of(row).tolist())) for row in range(len(found.places))]

        def first(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            order, gains, best = Balance(found.concepts, goals, self.over).first(at_random, limit)
            by_worth.append(best)
            return found.places[order], gains.astype(np.float32)

        order, gains = order_for(view, budget, first)
        values[order] = gains
        subset = pick(view, order, budget, values, unit="mean need of concepts", reasons=found.reasons)
        rows = np.searchsorted(found.places, subset.positions)
        return dataclasses.replace(subset, notes=said_of(found.concepts, goals, rows, by_worth[-1]))

    def _rows(self, view: PoolView, found: Conceived, budget: Budget) -> int:
        """Rows that the budget buys, of tokens at mean length."""
        rows, tokens = budget.limits(int(view.usable.sum()))
        if rows is None:
            rows = round((tokens or 0) / float(view.cost[found.places].mean()))
        return max(1, min(rows, len(found.places)))


@dataclass(frozen=True, kw_only=True)
class CabsFm:
    """CABS-FM: rows with most concepts (frequency maximisation, Ghosh et al., 2025).

    `concepts` is the column that names them: `meta.NAME`, a list or words with commas between. Clusters will not do,
    for every row has as many. Ties go to the lower place. Time O(n log n) for the sort; memory O(n).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    concepts: str
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if not self.concepts.startswith("meta."):
            raise RecipeError(
                f"cabs-fm: concepts {self.concepts!r} gives every row as many as the next; name a column of "
                "lists, as in meta.tags"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows."""
        return needs_of(self.concepts)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, most concepts first; a gain is their number."""
        import numpy as np

        from tamis.budgets import order_of, pick

        found = of_view(view, "cabs-fm", self.concepts, duplicates=self.duplicates)
        counts = np.full(len(view), np.nan)
        counts[found.places] = np.diff(found.concepts.indptr)
        order = order_of(counts, view.usable, high=True)
        return pick(view, order, budget, counts, unit="concepts", reasons=found.reasons)
