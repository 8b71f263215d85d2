"""A weighted sum of set functions: coverage, difference and quality in one greedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.submodular.maximise import Method, maximiser_of
from tamis.submodular.similar import Held
from tamis.values import Need, Reason
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Kernel
    from tamis.submodular.objective import Objective
    from tamis.values import Budget, Machine, Subset
    from tamis.views import PoolView

PARTS = ("facility_location", "graph_cut", "saturated_coverage", "d_optimal", "disparity_sum", "target", "quality")


@dataclass(frozen=True, kw_only=True)
class SubmodularMixture:
    """Mixture of submodular functions: coverage, difference, quality (Lin and Bilmes, UAI 2012).

    Maximises Σ_p weight_p f_p(S) / max_j f_p({j}), so that a weight of 1 makes the best single row of a part worth 1.
    The parts, over cosines of pooled hidden states, with the settings that the selectors of their names have by
    default: `facility_location`, `graph_cut` (lam 0.4), `saturated_coverage` (alpha 0.1), `d_optimal` (ridge 0.1),
    `disparity_sum`; `target`, the mean cosine to the rows of the target; and `quality`, the column `by` brought to
    [0, 1] by its least and greatest value (`high: false` turns it round; rows without a value are never picked).
    Weights are at least 0, and one is above. With `disparity_sum` the sum is not submodular, greedy looks at all gains
    at every step, and there is no bound.

    `kernel`, `neighbours`, `maximiser`, `epsilon`, `seed` and `duplicates` are those of `facility-location`; a gain
    costs the sum of what it costs in the parts.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    facility_location: float = 1.0
    graph_cut: float = 0.0
    saturated_coverage: float = 0.0
    d_optimal: float = 0.0
    disparity_sum: float = 0.0
    target: float = 0.0
    quality: float = 0.0
    by: str | None = None
    high: bool = True
    kernel: Held = "auto"
    neighbours: int = 64
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in PARTS}
        if not all(weight >= 0 for weight in weights.values()) or not any(weights.values()):
            raise RecipeError(f"submodular-mixture: weights are at least 0 and one is above, got {weights}")
        if (self.quality > 0) != (self.by is not None):
            raise RecipeError("submodular-mixture: quality and by go together: a weight, and the column it is of")
        if self.neighbours < 2:
            raise RecipeError(f"submodular-mixture: neighbours is at least 2, got {self.neighbours}")
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, of the target and a column where they have a weight; lengths of rows."""
        column = {Need(kind="column", name=self.by)} if self.by is not None else set()
        return needs_of("target" if self.target else None) | column

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row added to the sum."""
        import numpy as np

        from tamis.submodular.selecting import subset_of
        from tamis.submodular.sums import WeightedSum
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "submodular-mixture", self.duplicates)
        qualities = np.zeros(len(rows)) if self.by is None else self._qualities(view, rows.places)
        able = np.isfinite(qualities)
        reasons = rows.reasons.copy()
        reasons[rows.places[~able]] = Reason.NOT_MEASURED
        notes: list[str] = []
        made = self._parts(view, rows.vectors[able], qualities[able], on, notes)
        weighed = [(getattr(self, name), made[name]()) for name in PARTS if getattr(self, name)]
        objective = WeightedSum(tuple((weight / _best_alone(part), part) for weight, part in weighed))
        how = maximiser_of(self)
        unit = "weighted sum of the row alone"
        return subset_of(
            view,
            budget,
            objective,
            rows.places[able],
            how,
            unit=unit,
            reasons=reasons,
            notes=tuple(notes),
        )

    def _parts(
        self,
        view: PoolView,
        vectors: NDArray[np.float32],
        qualities: NDArray[np.float64],
        on: Machine,
        notes: list[str],
    ) -> dict[str, Callable[[], Objective]]:
        """What makes each part; kernels are built where a part with a weight asks for one, once."""
        import functools

        from tamis.submodular import coverage, disparity, facility_location, graph_cut, log_determinant
        from tamis.submodular.cosines import Cosine
        from tamis.submodular.similar import kernel_of
        from tamis.submodular.sums import Modular
        from tamis.vectors.embeddings import of_side

        free = Cosine(vectors)

        @functools.cache
        def kernel() -> Kernel:
            made, said = kernel_of(vectors, self.kernel, self.neighbours, on)
            notes.extend(said)
            return made

        def to_target() -> Objective:
            return graph_cut.gcmi(Cosine(vectors, of_side(view, "target", "submodular-mixture")))

        return {
            "facility_location": lambda: facility_location.FacilityLocation(kernel()),
            "graph_cut": lambda: graph_cut.GraphCut(free, 0.4),
            "saturated_coverage": lambda: coverage.SaturatedCoverage(kernel(), 0.1),
            "d_optimal": lambda: log_determinant.DOptimal(vectors, 0.1),
            "disparity_sum": lambda: disparity.DisparitySum(free),
            "target": to_target,
            "quality": lambda: Modular(qualities),
        }

    def _qualities(self, view: PoolView, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """(m,) the column in [0, 1], 1 the best; NaN where a row has no value."""
        import numpy as np

        assert self.by is not None
        values = view.column(self.by).values[places].astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        if np.isnan(values).all():
            raise DataError(f"submodular-mixture: no row that may be chosen has a value of {self.by}")
        least, most = np.nanmin(values), np.nanmax(values)
        share = (values - least) / (most - least or 1)
        return np.asarray(share if self.high else 1 - share)


def _best_alone(part: Objective) -> float:
    """The greatest value of one row, 1 where none is above 0."""
    import numpy as np

    best = float(part.begin().gains(np.arange(len(part))).max(initial=0))
    return best if best > 0 else 1.0
