"""LESS: targeted selection by gradient influence (Xia et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.values import Need

if TYPE_CHECKING:
    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Less:
    """LESS: rows whose gradients would lower the loss on the target tasks (Xia et al., 2024).

    Reads the signal `influence`: `scores` (n, K), one score a task, summed over checkpoints. `tasks` says how tasks
    share the budget: `round-robin` (recommended: tasks take turns, each picks its best row not taken yet; "A Critical
    Look at Targeted Instruction Selection", 2026), `max` (the paper and its code: a row counts by its best task, then
    top-k) or `mean` over tasks. `values` are the statistic: the maximum over tasks, or their mean.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    tasks: Literal["round-robin", "max", "mean"] = "round-robin"

    @property
    def needs(self) -> frozenset[Need]:
        """Influence on the target, and the lengths of rows."""
        return frozenset({Need(kind="signal", name="influence"), Need(kind="signal", name="lengths")})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the score the row was picked on."""
        import numpy as np

        from tamis.budgets import order_for, order_of, pick, round_robin

        scores = view.signal("influence", "scores").astype(np.float32)
        reasons = view.signal("influence", "reason")
        statistic = scores.mean(axis=1, dtype=np.float64) if self.tasks == "mean" else scores.max(axis=1)
        if self.tasks != "round-robin":
            order = order_of(statistic, view.usable, high=True)
            return pick(view, order, budget, statistic, unit="influence", reasons=reasons)
        order, picked_on = order_for(view, budget, lambda rows: round_robin(scores, view.usable, rows))
        gains = np.full(len(scores), np.nan, np.float32)
        gains[order] = picked_on
        return pick(view, order, budget, statistic, gains=gains, unit="influence", reasons=reasons)
