"""Nearest neighbours of every target row, weighed: KNN-uniform and TSDS (Liu et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need
from tamis.vectors.nearness import POOLED, By, Duplicates, nearest_first, nearness, needs_of, subset_by_mass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.nearness import Nearness
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class KnnUniform:
    """KNN-uniform: rows among the K nearest of many target rows (TSDS's uniform form, Liu et al., 2024).

    Distances are 1 - cosine, `by` influence (a query is a target row where the pass was run with `by: row`, else a
    task) or by hidden states (`rds`). K, one for all M queries, is the least number with
    alpha / scale · Σ_i Σ_k≤K (d_i,K+1 - d_ik) ≥ (1 - alpha) M: a larger `alpha` asks for nearness, a smaller one for
    breadth; it is at most `max_neighbours` and a tenth of the rows. Every query gives 1 / (K M) to each of its K
    nearest rows; rows are ranked by what they got, as in "A Critical Look at Targeted Instruction Selection" (2026),
    whose alpha and scale are the defaults. Rows that got the same come nearest first, where the released code takes
    them in the order of the pool. `duplicates`: `once` lets only the first of rows with equal text take part. Memory:
    the n M similarities; time: O(n M), and a sort of the neighbourhoods.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: By = "influence"
    alpha: float = 0.01
    scale: float = 5.0
    max_neighbours: int = 5000
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("knn-uniform", self.alpha, self.scale, self.max_neighbours)

    @property
    def needs(self) -> frozenset[Need]:
        """Influence, or pooled hidden states of pool and target; the lengths of rows."""
        return needs_of(self.by)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is the probability that a row was given."""
        import numpy as np

        near = nearness(view, self.by, self.duplicates, "knn-uniform")
        places, distances = _neighbourhoods(near, self.max_neighbours)
        mass = np.zeros(len(view))
        np.add.at(mass, places, transport(distances, np.ones(places.shape), self.alpha / self.scale, 1 - self.alpha))
        return subset_by_mass(view, budget, near, mass, "probability")


@dataclass(frozen=True, kw_only=True)
class Tsds:
    """TSDS: the target moved onto its nearest rows, where near-duplicates share (Liu et al., 2024).

    The rows get the mass of the optimum of alpha / scale · mean transport distance + (1 - alpha) · τ, where no query
    may give a row more than τ / density of its mass (KNN-KDE): a small τ spreads the mass over many neighbours.
    Solved exactly over the L = `max_neighbours` nearest rows of every query (at most a tenth of the rows) in
    O(M L log(M L)). The density of near-duplicates around a row is Σ max(0, 1 - d² / sigma²) over its
    `density_neighbours` nearest rows by hidden states, itself included, d the Euclidean distance of unit vectors;
    `sigma: 0` turns it off.

    Distances of transport, `by`, alpha, scale and ranks as in `knn-uniform`. Two departures from the code of TSDS: it
    draws rows at random with replacement from the mass, here they are ranked by it (as in 2602.14696), so that a
    budget buys distinct rows; and a query whose nearest row may take all gives it all, where that code stops with a
    failed assertion. `duplicates`: `once` leaves exact copies out before.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: By = "influence"
    alpha: float = 0.01
    scale: float = 5.0
    sigma: float = 0.75
    max_neighbours: int = 5000
    density_neighbours: int = 1000
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("tsds", self.alpha, self.scale, self.max_neighbours)
        if self.sigma < 0 or self.density_neighbours < 1:
            raise RecipeError(
                f"tsds: sigma must not be negative and density_neighbours at least 1, got {self.sigma} and "
                f"{self.density_neighbours}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Influence, or hidden states of pool and target; hidden states for the density; the lengths of rows."""
        density = {Need(kind="signal", name="tokens", settings=POOLED)} if self.sigma else set()
        return needs_of(self.by) | density

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows; a gain is the mass that a row was given."""
        import numpy as np

        near = nearness(view, self.by, self.duplicates, "tsds")
        places, distances = _neighbourhoods(near, self.max_neighbours)
        mass = np.zeros(len(view))
        shares = 1 / self._density(view, np.unique(places))[places]
        np.add.at(mass, places, transport(distances, shares, self.alpha / self.scale, 1 - self.alpha))
        return subset_by_mass(view, budget, near, mass, "transported mass")

    def _density(self, view: PoolView, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) density around the `rows`; 1 for others, and for rows without hidden states."""
        import numpy as np

        from tamis.vectors.index import build, unit

        density = np.ones(len(view))
        if not self.sigma:
            return density
        vectors = unit(view.signal("tokens", "pooled")[rows])
        known = np.isfinite(vectors).all(axis=1)
        index = build(vectors[known])
        cosines, _ = index.nearest(vectors[known], min(self.density_neighbours, len(index)))
        kernel = np.maximum(0, 1 - 2 * (1 - np.round(cosines.astype(np.float64), 6)) / self.sigma**2)
        density[rows[known]] = np.maximum(1, np.round(kernel.sum(axis=1), 5))  # itself counts 1
        return density


def transport(
    distances: NDArray[np.float64], shares: NDArray[np.float64], near: float, even: float
) -> NDArray[np.float64]:
    """(M, L) mass, 1 / M a query, that minimises near · Σ mass · distance + even · τ, M · mass ≤ τ · `shares`.

    `distances` (M, L) by query, nearest first; `shares` (M, L) = 1 / density. With t = 1 / τ a query fills its nearest
    rows, `shares` / t each, until its mass is spent. The objective falls as t grows while
    near / M · Σ_i (d_i,k+1 · n_ik - Σ_k'≤k shares · d) < even, n_ik the sum of shares of the k rows that are full; t is
    the first n_ik at which it does not, but no more than all rows of a query can take.
    """
    import numpy as np

    queries, most = distances.shape
    filled = np.cumsum(shares, axis=1)
    spent = filled[:, -1].min()
    slope = distances[:, 1:] * filled[:, :-1] - np.cumsum(shares * distances, axis=1)[:, :-1]
    steps = np.diff(slope, axis=1, prepend=0)
    events = filled[:, :-1]
    ranks = np.broadcast_to(np.arange(most - 1), events.shape)
    order = np.lexsort((ranks.ravel(), events.ravel()))
    reached = np.flatnonzero(near * np.cumsum(steps.ravel()[order]) >= even * queries)
    if len(reached):
        spent = min(spent, events.ravel()[order[reached[0]]])
    given = np.minimum(shares, np.maximum(0, spent - (filled - shares)))
    return np.asarray(given / given.sum(axis=1, keepdims=True) / queries)


def _neighbourhoods(near: Nearness, most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(M, L) places and distances of the nearest rows of every query, nearest first; L at most a tenth of the rows."""
    import numpy as np

    rows = len(near.candidates)
    places = np.stack(list(nearest_first(near.scores, min(rows, most, max(2, rows // 10)))))
    columns = np.arange(len(places))[:, None]
    return places, 1 - near.scores[places, columns].astype(np.float64)


def _check(name: str, alpha: float, scale: float, most: int) -> None:
    if not 0 < alpha < 1 or scale <= 0 or most < 1:
        raise RecipeError(
            f"{name}: alpha lies between 0 and 1, scale above 0, max_neighbours is at least 1; got {alpha}, {scale} "
            f"and {most}"
        )
