"""Submodular selection over similarities of rows: facility location, graph cut, saturated coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.submodular.maximise import Method, maximiser_of
from tamis.submodular.similar import Held
from tamis.vectors.embeddings import Side, needs_of
from tamis.vectors.nearness import Duplicates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Objective
    from tamis.values import Budget, Machine, Need, Subset
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class FacilityLocation:
    """Facility location: rows to which every row of the pool has a near one (Cornuéjols et al., 1977).

    `form`: `cover` maximises Σ_i max_{j in S} s_ij over cosines of pooled hidden states, those below 0 counting 0; rows
    chosen before count. Submodular information measures (Iyer et al., ALT 2021): `flmi`, mutual information with the
    target, `definition: paper` (DELIFT's) Σ_i max_j s_ij + eta Σ_j max_q s_jq, or `saturating` (the original)
    Σ_i min(max_j s_ij, eta max_q s_iq); `flqmi`, Σ_q max_j s_qj + eta Σ_j max_q s_qj over the target alone; `flcg`,
    conditional gain beyond existing data, Σ_i max(max_j s_ij - nu max_p s_ip, 0).

    `kernel`: `dense` holds all cosines up to 10,000 rows (4 n² bytes) and beyond computes them as they are asked for,
    O(n d) a gain; `knn` keeps those to the `neighbours` nearest, itself counted, O(n k) memory; `auto` is dense up to
    10,000 rows, then knn. `maximiser`: lazy and naive greedy reach 1 - 1/e of the best; `stochastic`, `threshold`,
    `sieve` and `partition` look at fewer gains (`epsilon`, `seed`), and a smaller budget is no prefix of a larger one
    with them. `duplicates`: `once` lets only the first of rows with equal text be chosen or stand for others.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    form: Literal["cover", "flmi", "flqmi", "flcg"] = "cover"
    definition: Literal["paper", "saturating"] = "paper"
    eta: float = 1.0
    nu: float = 1.0
    kernel: Held = "auto"
    neighbours: int = 64
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("facility-location", self.neighbours, self.eta, self.nu)
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def _side(self) -> Side | None:
        return {"flmi": "target", "flqmi": "target", "flcg": "existing"}.get(self.form)  # type: ignore[return-value]

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, of target or existing data where the form asks, and the lengths of rows."""
        return needs_of(self._side)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row added to the objective."""
        from tamis.submodular.selecting import subset_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "facility-location", self.duplicates)
        objective, notes = self._objective(view, rows.vectors, on)
        how = maximiser_of(self)
        unit = f"facility location of the row alone ({self.form})"
        return subset_of(view, budget, objective, rows.places, how, unit=unit, reasons=rows.reasons, notes=notes)

    def _objective(
        self, view: PoolView, vectors: NDArray[np.float32], on: Machine
    ) -> tuple[Objective, tuple[str, ...]]:
        from tamis.submodular import facility_location as fl
        from tamis.submodular.cosines import nearest
        from tamis.submodular.similar import kernel_of, to_others
        from tamis.vectors.embeddings import of_existing, of_side

        others = None if self._side is None else of_side(view, self._side, f"facility-location ({self.form})")
        if self.form == "flqmi":
            assert others is not None
            return fl.flqmi(to_others(vectors, others), nearest(vectors, others), self.eta), ()
        kernel, notes = kernel_of(vectors, self.kernel, self.neighbours, on)
        if others is None:
            chosen = of_existing(view)
            return (fl.flcg(kernel, nearest(vectors, chosen)) if len(chosen) else fl.FacilityLocation(kernel)), notes
        if self.form == "flcg":
            return fl.flcg(kernel, nearest(vectors, others), self.nu), notes
        return fl.flmi(kernel, nearest(vectors, others), self.definition, self.eta), notes


@dataclass(frozen=True, kw_only=True)
class GraphCut:
    """Graph cut: rows near to the whole pool, and not near to each other (Iyer and Bilmes, 2013).

    `form`: `cover` maximises Σ_{i in V, j in S} s_ij - lam Σ_{i, j in S} s_ij over cosines of pooled hidden states, of
    either sign; up to `lam` 0.5 rows go on gaining, above it S prefers rows that differ. `gcmi` is its mutual
    information with the target, 2 lam Σ_{j in S} Σ_q s_jq (Iyer et al., 2021): rows by mean cosine to the target.

    `kernel`: `none` holds no cosines at all: with unit embeddings e the gain is e_j · (Σ_i e_i - 2 lam Σ_{k in S} e_k)
    - lam, O(n d) a pick; `knn` counts those to the `neighbours` nearest rows alone, O(neighbours) a pick behind the
    graph. `duplicates`: `once` lets only the first of rows with equal text take part.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    form: Literal["cover", "gcmi"] = "cover"
    lam: float = 0.4
    kernel: Literal["none", "knn"] = "none"
    neighbours: int = 64
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("graph-cut", self.neighbours, self.lam, self.lam)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, of the target where the form asks, and the lengths of rows."""
        return needs_of("target" if self.form == "gcmi" else None)

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row added to the objective."""
        from tamis.submodular import graph_cut
        from tamis.submodular.cosines import Cosine
        from tamis.submodular.selecting import subset_of
        from tamis.submodular.similar import kernel_of
        from tamis.vectors.embeddings import of_pool, of_side

        rows = of_pool(view, "graph-cut", self.duplicates)
        notes: tuple[str, ...] = ()
        objective: Objective
        if self.form == "gcmi":
            objective = graph_cut.gcmi(Cosine(rows.vectors, of_side(view, "target", "graph-cut")), self.lam)
        elif self.kernel == "knn":
            kernel, notes = kernel_of(rows.vectors, "knn", self.neighbours, on)
            objective = graph_cut.GraphCut(kernel, self.lam)
        else:
            objective = graph_cut.GraphCut(Cosine(rows.vectors), self.lam)
        unit = f"graph cut of the row alone ({self.form})"
        return subset_of(view, budget, objective, rows.places, unit=unit, reasons=rows.reasons, notes=notes)


@dataclass(frozen=True, kw_only=True)
class SaturatedCoverage:
    """Saturated coverage: every row gets enough similarity from the chosen ones (Lin and Bilmes, 2011).

    Maximises Σ_i min(Σ_{j in S} s_ij, alpha Σ_{j in V} s_ij) over cosines of pooled hidden states, those below 0
    counting 0: a row is covered once S gives it the share `alpha`, in (0, 1], of what the whole pool would. Set it near
    the share of the budget: far above it no row is ever covered, and the most central rows are taken; far below, all
    are covered soon, and the rest of the picks gain nothing.

    `kernel`, `neighbours`, `maximiser`, `epsilon`, `seed` and `duplicates` are those of `facility-location`; a gain
    costs O(n), or O(neighbours) over a k-NN graph.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    alpha: float = 0.1
    kernel: Held = "auto"
    neighbours: int = 64
    maximiser: Method = "lazy"
    epsilon: float = 0.1
    seed: int = 0
    duplicates: Duplicates = "once"

    def __post_init__(self) -> None:
        _check("saturated-coverage", self.neighbours, 0, 0)
        if not 0 < self.alpha <= 1:
            raise RecipeError(f"saturated-coverage: alpha lies in (0, 1], got {self.alpha}")
        object.__setattr__(self, "nested", maximiser_of(self).nested)

    @property
    def needs(self) -> frozenset[Need]:
        """Pooled hidden states of the pool, and the lengths of rows."""
        return needs_of()

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order picked; a gain is what the row added to the objective."""
        from tamis.submodular import coverage
        from tamis.submodular.selecting import subset_of
        from tamis.submodular.similar import kernel_of
        from tamis.vectors.embeddings import of_pool

        rows = of_pool(view, "saturated-coverage", self.duplicates)
        kernel, notes = kernel_of(rows.vectors, self.kernel, self.neighbours, on)
        objective = coverage.SaturatedCoverage(kernel, self.alpha)
        how = maximiser_of(self)
        unit = "saturated coverage of the row alone"
        return subset_of(view, budget, objective, rows.places, how, unit=unit, reasons=rows.reasons, notes=notes)


def _check(name: str, neighbours: int, one: float, other: float) -> None:
    if neighbours < 2:
        raise RecipeError(f"{name}: neighbours is at least 2, the row itself and one more; got {neighbours}")
    if not (one >= 0 and other >= 0):
        raise RecipeError(f"{name}: eta, nu and lam must not be negative, got {one} and {other}")
