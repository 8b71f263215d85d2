"""Balanced k-means: clusters of the embeddings share the budget, large topics do not crowd out small ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.clusters import Clusters
    from tamis.vectors.embeddings import Embeddings
    from tamis.views import PoolView

_DIGITS = 6  # of a cosine


@dataclass(frozen=True, kw_only=True)
class KMeansBalanced:
    """Balanced k-means: every cluster of the embeddings its part of the budget (as Cherry LLM and S2L).

    Spherical k-means over unit embeddings (pooled hidden states of `tokens`) into `clusters` (Cherry LLM, Li et al.,
    2024, and S2L, Yang et al., 2024, use 100). `shares`: `equal` parts, or parts by the square root of a cluster's size
    (`sqrt`, between equal and proportional); what small clusters cannot use goes to the others. Inside a cluster rows
    come `nearest` to its centre first (its typical rows), or at `random` by `seed` and key.

    `duplicates`: `once` lets only the first of rows with equal text take part. Values are cosines to the centre. Time:
    20 rounds of O(min(n, 256 k) k d) and O(n k d) for k clusters; memory (n, d).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    clusters: int = 100
    shares: Literal["equal", "sqrt"] = "equal"
    inside: Literal["nearest", "random"] = "nearest"
    duplicates: Duplicates = "once"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise RecipeError(f"k-means-balanced: clusters must be at least 1, got {self.clusters}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, clusters in turn; a gain is the cosine to the centre of the cluster."""
        import dataclasses

        import numpy as np

        from tamis.budgets import by_shares, pick
        from tamis.draws import of_keys
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "k-means-balanced", self.duplicates)
        found = self._clusters(view, rows)
        cosines = np.round(np.einsum("nd,nd->n", rows.vectors, found.centres[found.labels]), _DIGITS)
        first = -cosines if self.inside == "nearest" else of_keys(view, self.seed)[rows.places]
        weights = np.sqrt(np.bincount(found.labels)) if self.shares == "sqrt" else None
        order = by_shares(found.labels.astype(np.int64), np.argsort(first, kind="stable"), weights)
        values = np.full(len(view), np.nan)
        values[rows.places] = cosines
        subset = pick(view, rows.places[order], budget, values, unit="cosine to centre", reasons=rows.reasons)
        reached = len(np.unique(found.labels[np.searchsorted(rows.places, subset.positions)]))
        return dataclasses.replace(subset, notes=(f"rows from {reached:,} of {len(found):,} clusters",))

    def _clusters(self, view: PoolView, rows: Embeddings) -> Clusters:
        """Clusters found in the order of keys, so that the order of the pool does not matter."""
        import dataclasses

        import numpy as np

        from tamis.vectors.clusters import k_means

        keys = np.array(view.pool.table(["key"]).column("key").to_pylist(), dtype=np.str_)[rows.places]
        order = np.argsort(keys, kind="stable")
        found = k_means(rows.vectors[order], self.clusters, self.seed)
        labels: NDArray[np.int32] = np.empty_like(found.labels)
        labels[order] = found.labels
        return dataclasses.replace(found, labels=labels)
