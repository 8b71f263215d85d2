"""Coverage-centric selection: all levels of a score in turn, but not the hardest rows (Zheng et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

Edges = Literal["width", "quantile"]


@dataclass(frozen=True, kw_only=True)
class Ccs:
    """CCS: equal parts from every stratum of a score, without the hardest rows (Zheng et al., 2023).

    `by` is any column of difficulty, and `hard` its hard end (`high` for perplexity or IFD, `low` for a margin). The
    `drop` hardest share of the rows that have a value is left out; the paper takes 0 at large budgets, up to 0.3 at
    10 % of the rows. What is left is cut into `strata` between its least and greatest value: of equal `width` (the
    paper; a heavy tail leaves most of them empty) or at `quantile`s, where equal values stay together.

    Strata share the budget equally, what small ones cannot use goes to the others (the paper's rule, smallest stratum
    first), and inside a stratum rows are drawn at random by `seed` and key. Two faults of the released code are mended:
    it loses the row of the greatest value unless that is positive, and it returns places in the list without the
    hardest rows as if they were places in the pool. Time O(n log n).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str
    hard: Literal["high", "low"] = "high"
    drop: float = 0.1
    strata: int = 50
    edges: Edges = "width"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise RecipeError(f"ccs: drop is a share of the rows in [0, 1), got {self.drop}")
        if self.strata < 1:
            raise RecipeError(f"ccs: strata must be at least 1, got {self.strata}")

    @property
    def needs(self) -> frozenset[Need]:
        """The column, and the lengths of rows."""
        return frozenset({Need(kind="signal", name="lengths"), Need(kind="column", name=self.by)})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, strata in turn; a gain is the value of the column."""
        import dataclasses

        import numpy as np

        from tamis.budgets import by_shares, order_of, pick
        from tamis.draws import of_keys

        column = view.column(self.by)
        hardest_first = order_of(column.values, view.usable, high=self.hard == "high")
        places = np.sort(hardest_first[int(self.drop * len(hardest_first)) :])
        drawn = np.argsort(of_keys(view, self.seed)[places], kind="stable")
        groups = strata_of(column.values[places], self.strata, self.edges)
        order = places[by_shares(groups, drawn)]
        subset = pick(view, order, budget, column.values, unit=column.unit, reasons=column.reasons)
        return dataclasses.replace(subset, notes=(_filled(groups, self.strata),))


def _filled(groups: NDArray[np.int64], count: int) -> str:
    import numpy as np

    sizes = np.bincount(groups, minlength=1)
    share = sizes.max() / max(1, sizes.sum())
    return f"{np.count_nonzero(sizes):,} of {count:,} strata hold rows, the largest {share:.0%} of them"


def strata_of(values: NDArray[Any], count: int, edges: Edges) -> NDArray[np.int64]:
    """(m,) stratum of finite values, from 0, at most `count`; a stratum holds its lower edge, the last both."""
    import numpy as np

    if not len(values):
        return np.zeros(0, np.int64)
    wide = values.astype(np.float64)
    steps = np.linspace(0, 1, count + 1)
    at = np.quantile(wide, steps) if edges == "quantile" else np.linspace(wide.min(), wide.max(), count + 1)
    at = np.unique(at)
    return np.clip(np.searchsorted(at, wide, side="right") - 1, 0, max(0, len(at) - 2)).astype(np.int64)
