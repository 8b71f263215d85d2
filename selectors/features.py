"""Rows by what they hold: concave sums over features, and cover of concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.submodular.coverage import Concave
from tamis.submodular.maximise import Method, maximiser_of
from tamis.vectors import concepts
from tamis.vectors.concepts import CLUSTERS
from tamis.vectors.embeddings import needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Sparse
    from tamis.values import Budget, Machine, Need, Subset
    from tamis.views import PoolView

_GRID = 2.0**20


@dataclass(frozen=True, kw_only=True)
class FeatureBased:
    """Feature-based: every feature of the pool, each at falling worth (Kirchhoff and Bilmes, EMNLP 2014).

    Maximises Σ_u φ(Σ_{j in S} m_uj). The features are the components of the pooled hidden states (unit length, less
    their mean over the pool), each twice, by its positive and by its negative part, so that no m is below 0. `concave`:
    φ is `sqrt`, `log` ln(1 + x) or `saturating` 1 - 1 / (1 + x); the faster it flattens, the more rare directions
    count. Rows far from the mean have most to give and come first.

    `maximiser`, `epsilon` and `seed` are those of `facility-location`. No kernel: O(d) a gain, O(n d) memory.
    `duplicates`: `once` lets only the first of rows with equal text take part.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    concave: Concave = "sqrt"
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row added to the objective."""
        from tamis.submodular import coverage
        from tamis.submodular.kernels import Dense
        from tamis.submodular.selecting import subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "feature-based", self.duplicates)
        objective = coverage.FeatureBased(Dense(_parts(rows.vectors).T), self.concave)
        how = maximiser_of(self)
        unit = "feature-based worth of the row alone"
        return subset_of(view, budget, objective, rows.places, how, unit=unit, reasons=rows.reasons)


@dataclass(frozen=True, kw_only=True)
class SetCover:
    """Set cover: rows that hold as many concepts as possible, each counted once (Khuller et al., 1999).

    Maximises Σ_u weight_u · [some row of S has concept u]. `concepts`: `meta.NAME` (a list, or words with commas
    between), source, kind or file; else `clusters`, k-means of the embeddings at three `sizes` (a quarter of, once and
    four times √n), which are not InsTag labels. `weigh`: `rows`, a concept is worth the number of rows that have it, or
    `equal`. Of rows that add the same the most typical one comes first, by cosine to the mean of the pool: it adds less
    than 1/1000 of a row to the worth.

    When all concepts are covered no row adds anything more, and the rest of the picks are the most typical rows; a note
    says what was covered. `maximiser`, `epsilon` are those of `facility-location`, `seed` also seeds the clusters.
    O(concepts of the row) a gain. `duplicates`: `once` lets only the first of rows with equal text take part.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    concepts: str = CLUSTERS
    sizes: tuple[int, ...] = ()
    weigh: Literal["rows", "equal"] = "rows"
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        concepts.check("set-cover", self.concepts, self.sizes)
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is the worth of concepts newly covered."""
        import dataclasses

        import numpy as np

        from tamis.submodular import coverage
        from tamis.submodular.selecting import subset_of
        from tamis.submodular.sums import Modular, WeightedSum

        found = concepts.of_view(
            view,
            "set-cover",
            self.concepts,
            sizes=self.sizes,
            seed=self.seed,
            vectors=True,
            duplicates=self.duplicates,
        )
        assert found.vectors is not None
        held = found.concepts
        weights = held.frequency.astype(np.float64) if self.weigh == "rows" else np.ones(len(held.names))
        cover = coverage.SetCover(_by_concept(held), weights)
        objective = WeightedSum(((1.0, cover), (1e-3, Modular(_typical(found.vectors)))))
        how = maximiser_of(self)
        unit = "worth of the row's concepts"
        subset = subset_of(view, budget, objective, found.places, how, unit=unit, reasons=found.reasons)
        chosen = np.isin(held.rows, np.searchsorted(found.places, subset.positions))
        covered = len(np.unique(held.ids[chosen]))
        note = f"{covered:,} of {len(held.names):,} concepts are covered"
        return dataclasses.replace(subset, notes=(*subset.notes, note))


def _parts(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2 d) positive and negative parts of unit vectors (n, d) less their mean, on a grid of 2⁻²⁰."""
    import numpy as np

    count, dimension = vectors.shape
    mean = (np.rint(vectors * _GRID).sum(axis=0, dtype=np.float64) / count).astype(np.float64)  # exact, in any order
    parts = np.empty((count, 2 * dimension), np.float32)
    for start in range(0, count, 4096):
        stop = start + 4096
        centred = np.rint(vectors[start:stop].astype(np.float64) * _GRID - mean) / _GRID
        np.maximum(centred, 0, out=parts[start:stop, :dimension], casting="same_kind")
        np.maximum(-centred, 0, out=parts[start:stop, dimension:], casting="same_kind")
    return parts


def _by_concept(held: concepts.Concepts) -> Sparse:
    """A sparse kernel with a represented row for each concept."""
    import numpy as np

    from tamis.submodular.kernels import Sparse

    indptr = np.concatenate([[0], np.cumsum(held.frequency)]).astype(np.int64)
    rows = held.rows[np.argsort(held.ids, kind="stable")].astype(np.int32)
    return Sparse(indptr, rows, np.ones(len(rows), np.float32), len(held))


def _typical(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(m,) cosine of unit vectors (m, d) to their mean, moved to [0, 1)."""
    import numpy as np

    from tamis.submodular.cosines import Cosine

    totals = Cosine(vectors).totals()
    return np.asarray((totals / max(float(np.abs(totals).max()), 1e-12) + 1) / 2.001)
