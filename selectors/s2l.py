"""S2L, SmallToLarge: equal draws from clusters of loss trajectories of a small model (Yang et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis import grouping
from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors.nearness import Duplicates, repeats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

_DIGITS = 5  # of a distance in nats: beyond, float32 hangs on the order of rows


@dataclass(frozen=True, kw_only=True)
class S2l:
    """S2L: rows learnt alike share a cluster, and clusters share the budget (Yang et al., 2403.07384).

    A row's trajectory is its mean loss at the checkpoints of a warm-up (pass `trajectories`), best that of a small
    model of the same family. Trajectories of each group `by` (source, kind, file, meta.NAME, clusters:K or a column;
    null: the whole pool) fall into `clusters` by k-means (Euclidean; 100 in the paper). Groups share the budget
    equally, and their clusters what they get; what small ones cannot use goes to the others, and odd rows to the
    larger. Inside a cluster rows are drawn at random by `seed` and key. The released code puts clusters of one or two
    rows last and lets a loss of NaN be 0; here they share like others, and a row without a trajectory is not drawn.

    A value is the distance in nats of a row's trajectory to the centre of its cluster. `duplicates`: `once` lets only
    the first of rows with equal text take part. Time: 20 rounds of O(min(n, 256 k) k C) for k clusters in all and C
    checkpoints, O(n k C) and a sort; memory O(n C).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str | None = "source"
    clusters: int = 100
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise RecipeError(f"s2l: clusters must be at least 1, got {self.clusters}")
        if self.by is not None:
            grouping.needs_of(self.by)

    @property
    def needs(self) -> frozenset[Need]:
        """Losses over a warm-up, the lengths of rows, and what groups are read from."""
        signals = {Need(kind="signal", name="trajectories"), Need(kind="signal", name="lengths")}
        return frozenset(signals) | (grouping.needs_of(self.by) if self.by is not None else frozenset())

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, groups and clusters in turn; a gain is the distance to the centre."""
        import dataclasses

        import numpy as np

        from tamis.budgets import by_shares, pick
        from tamis.draws import of_keys

        reasons = self._reasons(view)
        places = np.flatnonzero(reasons == 0)
        if not len(places):
            raise DataError("s2l: no usable row of the pool has a loss at every checkpoint")
        names = view.groups(self.by)[places] if self.by is not None else np.zeros(len(places), np.int64)
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
        labels, distances = self._clusters(view, places, groups)
        drawn = np.argsort(of_keys(view, self.seed)[places], kind="stable")
        inside = []
        for group in range(int(groups.max()) + 1):
            own = drawn[groups[drawn] == group]
            inside.append(own[by_shares(labels[own] - labels[own].min(), np.arange(len(own)))])
        order = places[by_shares(groups, np.concatenate(inside))]
        values = np.full(len(view), np.nan)
        values[places] = distances
        subset = pick(view, order, budget, values, unit="nats to centre", reasons=reasons)
        note = f"{int(labels.max()) + 1} clusters of trajectories in {len(inside)} groups share the budget"
        return dataclasses.replace(subset, notes=(note,))

    def _reasons(self, view: PoolView) -> NDArray[np.uint8]:
        """(n,) why a row is not drawn, 0 where it may be."""
        import numpy as np

        reasons = np.where(view.usable, view.signal("trajectories", "reason"), view.signal("lengths", "reason"))
        reasons = reasons.astype(np.uint8)
        known = np.isfinite(view.signal("trajectories", "losses")).all(axis=1)
        reasons[(reasons == 0) & ~(view.usable & known)] = Reason.NOT_MEASURED
        if self.duplicates == "once":
            reasons[repeats(view, reasons == 0)] = Reason.DUPLICATE
        return reasons

    def _clusters(
        self, view: PoolView, places: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The cluster of every candidate, numbered over all groups, and the distance to its centre."""
        import numpy as np

        from tamis.vectors.clusters import k_means

        losses = view.signal("trajectories", "losses")[places].astype(np.float32)
        keys = np.array(view.pool.table(["key"]).column("key").take(places).to_pylist(), dtype=np.str_)
        order = np.argsort(keys, kind="stable")  # k-means starts from rows by their place
        labels, distances = np.empty(len(places), np.int64), np.empty(len(places))
        clusters = 0
        for group in range(int(groups.max()) + 1):
            own = order[groups[order] == group]
            found = k_means(losses[own], self.clusters, self.seed, spherical=False)
            labels[own] = found.labels + clusters
            apart = losses[own].astype(np.float64) - found.centres[found.labels]
            distances[own] = np.round(np.sqrt((apart**2).sum(axis=1)), _DIGITS)
            clusters += len(found)
        return labels, distances
