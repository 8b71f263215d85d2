"""AITP's coverage gap: rows where a reference is dense and the data to train on is thin (2501.09368)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.values import Need
from tamis.vectors import embeddings
from tamis.vectors.nearness import POOLED, Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

_CLOSEST = 1e-6  # distance below which neighbours count as equal
_ROWS = 512  # compared at once
_DIGITS = 6  # of a score: equal rows tie, and sums do not depend on the order of rows


@dataclass(frozen=True, kw_only=True)
class CoverageGap:
    """Coverage gap: rows where the reference is dense and the data is thin (AITP, 2501.09368).

    The score of a row x is log p_reference(x) - log p_data(x), high where the reference covers what the data lacks.
    The target is the reference, in the paper a sample of the pre-training data. `lacking` says whose gaps are meant:
    `pool`, so that a pool is thinned out to the reference's shape, or `existing`, so that the pool fills what the data
    trained on before lacks (the paper's own use, where the pool is pre-training text that is then rewritten as
    instructions by a model; tamis chooses and rewrites nothing).

    Embeddings are pooled hidden states of unit length, standardised with the statistics of reference and data together
    (the released code takes those of each set, which shifts one against the other) and projected on their first
    principal `components`. `density` `knn` compares the distances to the k-th neighbour,
    log(d_data,k / d_reference,k), a row being no neighbour of its own; `kde` is the paper's: two components of the
    reference alone, Gaussian kernels of bandwidth `bandwidth`. A sign worth checking: the released script writes the
    rows of *low* score to disk, into a folder named `remove_datasets`.

    `sample`: at most so many rows of each set are compared with, drawn by row key and `seed`; `duplicates` `once`
    leaves exact copies out before. A k above the size of a set becomes that size. Time: O(n · sample · components)
    and O(d³) for the components; memory: O(n d).
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    lacking: Literal["pool", "existing"] = "pool"
    density: Literal["knn", "kde"] = "knn"
    k: int = 5
    components: int = 16
    bandwidth: float = 1.0
    sample: int = 20_000
    duplicates: Duplicates = "once"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1 or self.components < 1 or self.sample < 2 or self.bandwidth <= 0:
            raise RecipeError(
                "coverage-gap: k and components are at least 1, sample at least 2, bandwidth above 0; got "
                f"{self.k}, {self.components}, {self.sample} and {self.bandwidth}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of pool and target, and of existing data where its gaps are meant; lengths of rows."""
        existing = {Need(kind="signal", name="tokens", side="existing", settings=POOLED)}
        return embeddings.needs_of("target") | (existing if self.lacking == "existing" else set())

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, largest gap first; a gain is the score."""
        import numpy as np

        from tamis.budgets import order_of, pick

        rows = embeddings.of_pool(view, "coverage-gap", self.duplicates)
        reference = self._drawn(view.target, "target")
        if self.lacking == "existing":
            data, own = self._drawn(view.existing_pool, "existing"), None
        else:
            drawn = self._keep(view, rows.places)
            own = np.full(len(rows), -1)
            own[drawn] = np.arange(len(drawn))
            data = rows.vectors[drawn]
        points, near, held = self._projected(rows.vectors, reference, data)
        score = self._log_density(points, near, None) - self._log_density(points, held, own)
        values = np.full(len(view), np.nan)
        values[rows.places] = np.round(score, _DIGITS)
        order = order_of(values, rows.reasons == 0, high=True)
        subset = pick(view, order, budget, values, unit="log ratio of densities", reasons=rows.reasons)
        said = (
            f"approximation: densities are those of {len(reference)} rows of the reference and {len(data)} of the data"
        )
        return dataclasses.replace(subset, notes=(said,) if self.sample in (len(reference), len(data)) else ())

    def _drawn(self, side: PoolView | None, name: str) -> NDArray[np.float32]:
        """Unit embeddings of at most `sample` rows of the target or of existing data."""
        import numpy as np

        from tamis.vectors.index import unit

        if side is None:
            raise DataError(f"coverage-gap has no {name}: name its files in the recipe, or give --{name}")
        vectors = unit(side.signal("tokens", "pooled"))
        places = np.flatnonzero(np.isfinite(vectors).all(axis=1))
        if not len(places):
            raise DataError(f"coverage-gap: no row of {name} has hidden states; all were refused by the model's pass")
        return vectors[places[self._keep(side, places)]]

    def _keep(self, view: PoolView, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the `places` are drawn, in order."""
        import numpy as np

        from tamis import draws

        drawn = draws.of_keys(view, self.seed)[places]
        return np.sort(np.argsort(drawn, kind="stable")[: self.sample])

    def _projected(
        self, points: NDArray[np.float32], reference: NDArray[np.float32], data: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The three sets, standardised together, on the first principal components."""
        import numpy as np

        both = np.concatenate([reference, data]).astype(np.float64)
        spread = both.std(axis=0)
        sets = [(one - both.mean(axis=0)) / np.where(spread > 0, spread, 1) for one in (points, reference, data)]
        fitted = sets[1] if self.density == "kde" else np.concatenate(sets[1:])
        _, axes = np.linalg.eigh(np.atleast_2d(np.cov(fitted, rowvar=False, bias=True)))
        axes = axes[:, ::-1][:, : 2 if self.density == "kde" else self.components]
        return sets[0] @ axes, sets[1] @ axes, sets[2] @ axes

    def _log_density(
        self, points: NDArray[np.float64], others: NDArray[np.float64], own: NDArray[np.int64] | None
    ) -> NDArray[np.float64]:
        """(n,) log density of the `others` at every point, up to a constant; `own`: a point's place there, or -1."""
        import numpy as np

        found = np.empty(len(points))
        for start in range(0, len(points), _ROWS):
            block = points[start : start + _ROWS]
            squares = (block**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * block @ others.T
            if own is not None and len(others) > 1:
                mine = own[start : start + _ROWS]
                squares[np.flatnonzero(mine >= 0), mine[mine >= 0]] = np.inf
            found[start : start + _ROWS] = self._of_distances(np.maximum(squares, 0))
        return found

    def _of_distances(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log densities from squared distances (b, m), infinite where a row meets itself."""
        import numpy as np
        from scipy.special import logsumexp

        others = np.isfinite(squares).sum(axis=1)
        if self.density == "kde":
            return np.asarray(logsumexp(-squares / (2 * self.bandwidth**2), axis=1) - np.log(others))
        last = np.minimum(self.k, others) - 1
        nearest = np.sort(np.partition(squares, int(last.max()), axis=1)[:, : int(last.max()) + 1], axis=1)
        chosen = np.take_along_axis(nearest, last[:, None], axis=1)[:, 0]
        return np.asarray(-np.log(np.maximum(np.sqrt(chosen), _CLOSEST)))
