"""Unbalanced optimal transport from the target onto the pool, by the library POT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.vectors.nearness import By, Duplicates, nearness, needs_of, subset_by_mass

if TYPE_CHECKING:
    from tamis.values import Budget, Machine, Need, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Uot:
    """UOT: rows that get most mass when the target is transported onto the pool (2602.14696).

    Every query sends 1 / M; the cost of a row is (1 - cosine) / 2, `by` influence (a query is a target row where the
    pass was run with `by: row`, else a task) or by hidden states (`rds`); the plan is smoothed by `reg` times its
    Kullback-Leibler divergence from the product of the marginals, and what rows get may differ from 1 / n at `reg_pool`
    times that divergence (Chizat et al., 2018; solved by POT's sinkhorn_unbalanced). Defaults are those of "A Critical
    Look at Targeted Instruction Selection" (2026): so small a `reg_pool` frees the rows almost wholly, and the plan is
    near a softmax of -cost / reg over the rows, query by query. `duplicates`: `once` lets only the first of rows with
    equal text take part. Memory: three times n M float64; time: O(n M) an iteration.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: By = "influence"
    reg: float = 0.01
    reg_pool: float = 1e-4
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if self.reg < 0.002 or self.reg_pool <= 0:
            raise RecipeError(
                f"uot: reg is at least 0.002 (below, plans have no float64) and reg_pool above 0; got {self.reg} and "
                f"{self.reg_pool}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Influence, or pooled hidden states of pool and target; the lengths of rows."""
        return needs_of(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is the mass that a row was given."""
        import numpy as np
        from ot.unbalanced import sinkhorn_unbalanced

        near = nearness(view, self.by, self.duplicates, "uot")
        mass = np.zeros(len(view))
        cost = (1 - near.scores[near.candidates].T.astype(np.float64)) / 2
        queries, rows = cost.shape
        plan = sinkhorn_unbalanced(
            np.full(queries, 1 / queries),
            np.full(rows, 1 / rows),
            cost,
            reg=self.reg,
            reg_m=(float("inf"), self.reg_pool),
            reg_type="kl",
        )
        mass[near.candidates] = plan.sum(axis=0)
        return subset_by_mass(view, budget, near, mass, "transported mass")
