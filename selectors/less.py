"""LESS: targeted selection by gradient influence (Xia et al., ICML 2024)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Less:
    """LESS: rows whose gradients would lower the loss on the target tasks (Xia et al., 2024).

    Reads the signal `influence`: `scores` (n, K), one score a task, summed over checkpoints; where the pass was run
    with `by: row`, every target row is a task of its own. `tasks` says how tasks share the budget: `round-robin`
    (recommended: tasks take turns, each picks its best row not taken yet; "A Critical Look at Targeted Instruction
    Selection", 2026), `max` (the paper and its code: a row counts by its best task, then top-k) or `mean` over tasks.
    `values` are the statistic: the maximum over tasks, or their mean.

    `by` (source, kind, file, meta.NAME or clusters:K, for influence measured `by: row`) puts queries together again: a
    row's score for a group of the target is its maximum over the group's queries, and groups share the budget (the
    multi-task rule of RDS+). `duplicates`: `once` ranks only the first of the rows with equal text, whose scores are
    the same, so that copies do not buy a row its place twice; `keep` ranks them all, as the released code does.
    """

    revision: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    tasks: Literal["round-robin", "max", "mean"] = "round-robin"
    by: str | None = None
    duplicates: Literal["once", "keep"] = "once"

    def __post_init__(self) -> None:
        from tamis import grouping

        if self.by:
            grouping.needs_of(self.by, "target")  # refuses a grouping that is none

    @property
    def needs(self) -> frozenset[Need]:
        """Influence on the target, and the lengths of rows; with `by` the target's rows."""
        from tamis import grouping

        own = {Need(kind="signal", name="influence"), Need(kind="signal", name="lengths")}
        if self.by:
            own |= {Need(kind="signal", name="lengths", side="target"), *grouping.needs_of(self.by, "target")}
        return frozenset(own)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the score the row was picked on."""
        import numpy as np

        from tamis.budgets import order_for, order_of, pick, round_robin

        scores, reasons = self._scores(view)
        statistic = scores.mean(axis=1, dtype=np.float64) if self.tasks == "mean" else scores.max(axis=1)
        if self.tasks != "round-robin":
            order = order_of(statistic, view.usable, high=True)
            return pick(view, order, budget, statistic, unit="influence", reasons=reasons)
        order, picked_on = order_for(view, budget, lambda rows: round_robin(scores, view.usable, rows))
        gains = np.full(len(scores), np.nan, np.float32)
        gains[order] = picked_on
        return pick(view, order, budget, statistic, gains=gains, unit="influence", reasons=reasons)

    def _scores(self, view: PoolView) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Scores by row and task, NaN where a row cannot be ranked, and why."""
        import numpy as np

        from tamis.vectors.nearness import repeats

        scores = view.signal("influence", "scores").astype(np.float32)
        reasons = view.signal("influence", "reason").astype(np.uint8)
        if self.by is not None:
            scores = _by_group(scores, self._groups(view, self.by))
        if self.duplicates == "once":
            again = repeats(view, view.usable & (reasons == 0))
            scores[again], reasons[again] = np.nan, Reason.DUPLICATE
        return scores, reasons

    def _groups(self, view: PoolView, by: str) -> NDArray[np.int64]:
        """Number of the group of every query, in the order of the signal."""
        import numpy as np

        if view.target is None:
            raise DataError("less groups the rows of a target, and has none: name target files in the recipe")
        names, groups = np.unique(view.target.groups(by), return_inverse=True)
        keys = view.target.pool.table(["key"]).column("key").to_pylist()
        number = dict(zip(keys, groups.tolist(), strict=True))
        queries = json.loads(bytes(np.asarray(next(iter(view.shards()))["influence"]["tasks"], np.uint8)))
        if not set(queries) <= set(number):
            raise DataError(
                f"less groups target rows by {by} into {len(names)}, but this influence was measured by task, or on "
                "another target: set `by: row` for the influence pass"
            )
        return np.array([number[key] for key in queries], np.int64)


def _by_group(scores: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """Maximum over the queries of every group that has one; groups in the order of their names."""
    import numpy as np

    return np.stack([scores[:, groups == group].max(axis=1) for group in np.unique(groups)], axis=1)
