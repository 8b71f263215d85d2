"""Rows that span much: D-optimal design and determinantal point processes, one objective with two front ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Kernel
    from tamis.submodular.objective import Objective
    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

FACTOR_BYTES = 1 << 33  # of a Cholesky factor: 8 GB


@dataclass(frozen=True, kw_only=True)
class DOptimal:
    """D-optimal design: rows whose embeddings span most volume (Federov, 1972), by rank-one updates.

    `form`: `cover` maximises log det(I + Xᵀ_S X_S / ridge) over pooled hidden states of unit length; the gain of a row
    is log(1 + xᵀ A⁻¹ x), A = ridge I + Σ_{S} x xᵀ. Submodular information measures (Iyer et al., ALT 2021): `mutual`,
    what S tells of the target, log det S_A - log det(S_A - eta² S_AQ S_Q⁻¹ S_QA), which is not submodular;
    `conditional`, what S adds to existing data, log det(S_A - nu² S_AP S_P⁻¹ S_PA). eta and nu lie in [0, 1].

    The order is that of greedy MAP inference of a DPP with L = I + X Xᵀ / ridge, which the selector `dpp` computes from
    a kernel; here a pick costs O(n d + d²) however many were picked, and memory is O(n d). A small `ridge` asks for
    directions that no chosen row has, a large one for many rows along the strong ones. Rows of unit length span the
    same as long as they are alone: the first pick is the one whose length was rounded up most.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    form: Literal["cover", "mutual", "conditional"] = "cover"
    ridge: float = 0.1
    eta: float = 1.0
    nu: float = 1.0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check_ridge("d-optimal", self.ridge)
        if not (0 <= self.eta <= 1 and 0 <= self.nu <= 1):
            raise RecipeError(f"d-optimal: eta and nu lie in [0, 1], got {self.eta} and {self.nu}")

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, of target or existing data where the form asks, and the lengths of rows."""
        return needs_of({"cover": None, "mutual": "target", "conditional": "existing"}[self.form])

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is in nats of the log-determinant."""
        from tamis.submodular.cosines import on_grid
        from tamis.submodular.selecting import subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "d-optimal", self.duplicates)
        objective = self._objective(view, on_grid(rows.vectors))  # the numbers that `dpp` sees
        unit = f"log-determinant of the row alone ({self.form})"
        return subset_of(view, budget, objective, rows.places, unit=unit, reasons=rows.reasons)

    def _objective(self, view: PoolView, vectors: NDArray[np.float32]) -> Objective:
        from tamis.submodular import log_determinant
        from tamis.vectors.embeddings import of_side

        if self.form == "mutual":
            return log_determinant.mutual(vectors, of_side(view, "target", "d-optimal"), self.ridge, self.eta)
        if self.form == "conditional":
            held = of_side(view, "existing", "d-optimal")
            return log_determinant.conditional(vectors, held, self.ridge, self.nu)
        return log_determinant.DOptimal(vectors, self.ridge)


@dataclass(frozen=True, kw_only=True)
class Dpp:
    """DPP: good rows that differ, by a determinantal point process (Chen et al., NeurIPS 2018).

    Greedy MAP inference by Cholesky increments over L_ij = q_i s_ij q_j + ridge [i = j]: the gain of a row is
    log(1 + pivot / ridge). `similarity`: `cosine` of pooled hidden states, or `rbf`, exp((cosine - 1) / width²), whose
    rank has no limit. Quality q = exp(alpha z), z the column `by` in standard deviations from its mean over the rows
    that have it (others are never picked); `high: false` turns it round; without `by` all q are 1. A plain DPP over d
    dimensions ends at d rows; the `ridge` lets it go on, and a small one hardly changes the order before.

    O(n k) a pick for the k-th and 8 n k bytes in all, at most 8 GB; `rbf` holds 4 n² bytes, up to 10,000 rows. With
    cosines, and for more rows, `d-optimal` gives the same order in O(n d) a pick.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str | None = None
    high: bool = True
    alpha: float = 1.0
    similarity: Literal["cosine", "rbf"] = "cosine"
    width: float = 0.5
    ridge: float = 0.01
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check_ridge("dpp", self.ridge)
        if self.width <= 0 or self.alpha < 0:
            raise RecipeError(
                f"dpp: width lies above 0 and alpha is at least 0, got {self.width} and {self.alpha}; "
                "set high to false where low values are good"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, the lengths of rows, and the column of qualities."""
        column = {Need(kind="column", name=self.by)} if self.by is not None else set()
        return needs_of() | column

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is in nats of the log-determinant."""
        import numpy as np

        from tamis.submodular.log_determinant import LogDeterminant
        from tamis.submodular.selecting import limit_of, subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "dpp", self.duplicates)
        quality, able = np.ones(len(rows)), np.ones(len(rows), np.bool_)
        if self.by is not None:
            quality, able = self._quality(view.column(self.by).values[rows.places])
        reasons = rows.reasons.copy()
        reasons[rows.places[~able]] = Reason.NOT_MEASURED
        places = rows.places[able]
        limit = limit_of(view, budget, places)
        most = min(len(places), limit.most if limit.cost is None else limit.most // int(limit.cost.min()))
        if 8 * most * len(places) > FACTOR_BYTES:
            raise DataError(
                f"dpp: {most:,} picks among {len(places):,} rows take {8 * most * len(places) / 2**30:.0f} GB; "
                "lower the budget, or use d-optimal, which needs none of it"
            )
        objective = LogDeterminant(self._kernel(rows.vectors[able]), self.ridge, quality[able])
        unit = "log-determinant of the row alone"
        return subset_of(view, budget, objective, places, unit=unit, reasons=reasons)

    def _kernel(self, vectors: NDArray[np.float32]) -> Kernel:
        import numpy as np

        from tamis.submodular.cosines import Cosine
        from tamis.submodular.kernels import Dense
        from tamis.submodular.similar import DENSE_ROWS

        if self.similarity == "cosine":
            return Cosine(vectors, rounded=False)
        if len(vectors) > DENSE_ROWS:
            raise DataError(
                f"dpp: similarity rbf holds all pairs, for at most {DENSE_ROWS:,} rows, not {len(vectors):,}"
            )
        cosines = Cosine(vectors).dense().by_candidate
        return Dense(np.exp((cosines.astype(np.float64) - 1) / self.width**2).T)

    def _quality(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """exp(alpha z) of candidates (m,), and which of them have a value."""
        import math

        import numpy as np

        able = np.isfinite(values)
        if not able.any():
            raise DataError(f"dpp: no row that may be chosen has a value of {self.by}")
        known = values[able].astype(np.float64)
        mean = math.fsum(known.tolist()) / len(known)  # whatever the order of rows
        deviation = math.sqrt(math.fsum(((known - mean) ** 2).tolist()) / len(known))
        scores = np.where(able, (values - mean) / (deviation or 1), 0)
        return np.exp((1 if self.high else -1) * self.alpha * scores), able


def _check_ridge(name: str, ridge: float) -> None:
    if not ridge > 0:
        raise RecipeError(f"{name}: ridge must be above 0, got {ridge}")
