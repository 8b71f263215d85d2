"""RDS+: targeted selection by pooled hidden states (Ivison et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class RdsPlus:
    """RDS+: rows whose pooled hidden states are nearest to the target's (Ivison et al., 2025).

    Reads `pooled` (n, d) of the signal `tokens` of pool and target: position-weighted means of last hidden states.
    Scores are cosines in [-1, 1]. `turns`: `query` lets every target row take turns to pick its nearest row not taken
    yet (the paper's single-task rule); `task` first takes the maximum over the queries of a group of the target (`by`:
    source, kind, file, meta.NAME or clusters:K) and lets the groups take turns (its multi-task rule).

    `search`: `exact` compares every row with every query; `ivf` and `hnsw` ask an approximate FAISS index, for pools of
    millions of rows and many queries (turns `query` only).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    turns: Literal["query", "task"] = "query"
    by: str = "source"
    search: Literal["exact", "ivf", "hnsw"] = "exact"

    def __post_init__(self) -> None:
        from tamis import grouping

        grouping.needs_of(self.by, "target")  # refuses a grouping that is none; its clusters read what `needs` names
        if self.search != "exact" and self.turns != "query":
            raise RecipeError(f"rds-plus: search {self.search!r} serves turns 'query', not {self.turns!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of pool and target, and the lengths of rows."""
        pooled = (("loss", "none"), ("pooled", True))
        return frozenset(
            {
                Need(kind="signal", name="tokens", settings=pooled),
                Need(kind="signal", name="tokens", side="target", settings=pooled),
                Need(kind="signal", name="lengths"),
            }
        )

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the cosine the row was picked on."""
        import numpy as np

        from tamis.budgets import order_for, pick
        from tamis.vectors.index import similarities

        queries, groups = self._queries(view)
        pooled = view.signal("tokens", "pooled")
        if self.search == "exact":
            scores = similarities(pooled, queries, groups)
            nearest = scores.max(axis=1)
        else:
            scores = None
            nearest = similarities(pooled, queries, np.zeros(len(queries), np.int64))[:, 0]
        turns = self._turns(pooled, queries, view.usable, scores)
        order, picked_on = order_for(view, budget, turns)
        gains = nearest.copy()
        gains[order] = picked_on
        return pick(view, order, budget, nearest, gains=gains, unit="cosine")

    def _turns(
        self,
        pooled: NDArray[Any],
        queries: NDArray[np.float32],
        usable: NDArray[np.bool_],
        scores: NDArray[np.float32] | None,
    ) -> Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]]:
        from tamis.budgets import round_robin
        from tamis.vectors.index import nearest_in_turn

        if self.search == "exact":
            assert scores is not None
            return lambda rows: round_robin(scores, usable, rows)
        kind = self.search
        return lambda rows: nearest_in_turn(pooled, queries, usable, rows, kind)

    def _queries(self, view: PoolView) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors of the target rows that have one, and the number of the task each belongs to."""
        import numpy as np

        if view.target is None:
            raise DataError("rds-plus has no target: name target files in the recipe, or give --target")
        vectors = view.target.signal("tokens", "pooled").astype(np.float32)
        good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        if not good.any():
            raise DataError("no row of the target has hidden states; every target row was refused by the model's pass")
        if self.turns == "query":
            return vectors[good], np.arange(int(good.sum()), dtype=np.int64)
        _, tasks = np.unique(view.target.groups(self.by)[good], return_inverse=True)
        return vectors[good], tasks.astype(np.int64)
