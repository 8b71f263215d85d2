"""MIG: information spread over a graph of labels, greedily maximised (Chen et al., ACL Findings 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors.concepts import CLUSTERS, check, mean_vectors, needs_of, of_view
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.information import Gifts
    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.concepts import Conceived
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Mig:
    """MIG: rows that add most information to a graph of concepts (Chen et al., 2025, arXiv:2504.13835).

    A row of quality s gives s to each of its concepts; concepts whose vectors have a cosine of at least `threshold`
    pass on a share, `spread` times the cosine against 1 kept (columns of the graph are scaled to sum to 1); and a
    concept that has got x in all is worth φ(x) = (x + 1e-6)^`power`. Rows are picked one after another by the slope
    ⟨φ'(x), what they give⟩, as in the released code, or by what they truly add, `exact: true`. Slopes at 0 are so steep
    (12.7) that first picks go by the number of new concepts; `norm: true` divides a row's gift by the number of its
    concepts (the default of the code's class, where its command line has false). `by`: the column of qualities, not
    below 0, such as DEITA's quality times complexity; without, 1. Rows without a value are never picked.

    `concepts`: `meta.NAME` (a list, or words with commas between), source, kind or file; else `clusters`: k-means of
    the embeddings at three `sizes` (a quarter of, once and four times √n), which are not the InsTag labels of the
    paper. A concept's vector is the mean embedding of its rows, where the paper embeds the label's name.

    Gains never grow either way, so the greedy rule is lazy; with `exact` it reaches 1 - 1/e of the best. O(n L) at
    first and O(L) for every gain looked at again, L the concepts that a row reaches; memory O(n L), and cosines of all
    pairs of concepts in blocks.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    by: str | None = None
    concepts: str = CLUSTERS
    sizes: tuple[int, ...] = ()
    threshold: float = 0.9
    spread: float = 1.0
    power: float = 0.8
    norm: bool = False
    exact: bool = False
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        check("mig", self.concepts, self.sizes)
        if not 0 < self.power <= 1 or self.spread < 0 or not 0 < self.threshold <= 1:
            raise RecipeError(
                f"mig: power and threshold lie in (0, 1] and spread is at least 0; got {self.power}, {self.threshold} "
                f"and {self.spread}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The lengths of rows, pooled hidden states for the vectors of concepts, and the column of qualities."""
        column = {Need(kind="column", name=self.by)} if self.by is not None else set()
        return needs_of(self.concepts, vectors=self.spread > 0) | column

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row was picked on."""
        import dataclasses

        import numpy as np

        from tamis.submodular.information import judged
        from tamis.submodular.selecting import limit_of, quality, subset_of

        found = of_view(
            view,
            "mig",
            self.concepts,
            sizes=self.sizes,
            seed=self.seed,
            vectors=self.spread > 0,
            duplicates=self.duplicates,
        )
        qualities = self._qualities(view, found)
        able = np.flatnonzero(np.isfinite(qualities))
        reasons = found.reasons.copy()
        reasons[found.places[~np.isfinite(qualities)]] = Reason.NOT_MEASURED
        gifts = self._gifts(found, qualities, able)
        unit = "information" if self.exact else "slope"
        subset = subset_of(view, budget, gifts, found.places[able], unit=unit, reasons=reasons)
        if self.exact:
            return subset
        # slopes bound what may still be gained too, but true gains bound it closer
        limit = limit_of(view, budget, found.places[able])
        order = np.searchsorted(found.places[able], subset.positions)
        return dataclasses.replace(subset, notes=(quality(judged(gifts, order, limit)), *subset.notes[1:]))

    def _qualities(self, view: PoolView, found: Conceived) -> NDArray[np.float64]:
        """(m,) qualities of the candidates, NaN where a row has none."""
        import numpy as np

        if self.by is None:
            return np.ones(len(found.places))
        values = view.column(self.by).values[found.places].astype(np.float64)
        if (values < 0).any():
            raise DataError(f"mig: {self.by} has values below 0; a quality is at least 0")
        return values

    def _gifts(self, found: Conceived, qualities: NDArray[np.float64], able: NDArray[np.int64]) -> Gifts:
        """What the candidates `able` give, themselves and over the graph of concepts."""
        import numpy as np

        from tamis.submodular.information import gifts_of, graph_of

        graph = None
        if found.vectors is not None:
            means = mean_vectors(found.concepts, found.vectors, found.keys)
            graph = graph_of(means, self.threshold, self.spread)
        sizes = np.diff(found.concepts.indptr)
        each = qualities / np.maximum(sizes, 1) if self.norm else qualities
        return gifts_of(found.concepts, each, able, graph, self.power, exact=self.exact)
