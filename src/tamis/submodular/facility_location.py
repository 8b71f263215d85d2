"""Facility location, and the forms of it that know of a target (FLMI, FLQMI) or of rows held already (FLCG).

All are f(S) = Σ_i max(min(max_{j in S} s_ij, ceiling_i), floor_i) - floor_i, the floor at least 0, plus at most a
number a candidate. Similarities below 0 therefore act as 0, and a represented row that S does not reach counts 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import RecipeError
from tamis.submodular.kernels import Dense, Kernel, Sparse
from tamis.submodular.objective import Picks
from tamis.submodular.sums import Modular, WeightedSum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.objective import Objective

Definition = Literal["paper", "saturating"]


@dataclass(frozen=True, eq=False)
class FacilityLocation:
    """f(S) = Σ_i max(0, max_{j in S} s_ij): every represented row has a near one in S (Cornuéjols et al., 1977).

    `floor` and `ceiling` (m,), where given, say from where on nearness counts for row i, and up to where. Monotone and
    submodular for any kernel. A gain costs O(m), with a sparse kernel O(similarities of the candidate).
    """

    kernel: Kernel
    floor: NDArray[np.float64] | None = None
    ceiling: NDArray[np.float64] | None = None
    submodular = True
    monotone = True

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Nearest:
        """Evaluation at the empty set."""
        return _Nearest(self)

    def lazy(self, rows: int, /) -> Picks:
        """The first `rows` picks of lazy greedy, in compiled loops where the kernel is in memory."""
        import numpy as np

        from tamis.submodular import loops
        from tamis.submodular.greedy import greedy
        from tamis.submodular.maximise import Limit, Maximiser

        kernel = self.kernel
        if isinstance(kernel, Sparse):
            found = loops.lazy_facility_by_column(
                *kernel.by_candidate, kernel.represented, rows, self.floor, self.ceiling
            )
        elif isinstance(kernel, Dense):
            found = loops.lazy_facility_dense(kernel.by_candidate, rows, self.floor, self.ceiling)
        else:
            return greedy(self, Limit(rows=rows), Maximiser())
        order, gains, evaluations = found
        state = self.begin()
        for row in order.tolist():
            state.reach(row)
        rest = np.setdiff1d(np.arange(len(self)), order)
        ahead = np.sort(state.gains(rest))[::-1][: len(order)]
        value = float(gains.sum())
        return Picks(order, gains, value, value + float(ahead.sum()), evaluations + len(rest), nested=True)


class _Nearest:
    """`best` (m,): what S counts for every represented row, its floor where S is farther."""

    def __init__(self, objective: FacilityLocation) -> None:
        import numpy as np

        self._kernel = objective.kernel
        self._ceiling = objective.ceiling
        self._best = np.zeros(objective.kernel.represented)
        if objective.floor is not None:
            self._best = np.maximum(self._best, objective.floor)
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        from tamis.submodular import loops

        if self._ceiling is not None or not isinstance(self._kernel, Dense | Sparse):
            return self._kernel.summed(rows, self._worth)
        if isinstance(self._kernel, Dense):
            return loops.dense_gains(self._kernel.by_candidate, self._best, rows)
        return loops.sparse_gains(*self._kernel.by_candidate, self._best, rows)

    def _worth(self, similarities: NDArray[np.float64], at: Any) -> NDArray[np.float64]:
        import numpy as np

        if self._ceiling is not None:
            similarities = np.minimum(similarities, self._ceiling[at])
        above: NDArray[np.float64] = np.maximum(similarities - self._best[at], 0)
        return above

    def add(self, row: int, /) -> None:
        import numpy as np

        self.value += float(self.gains(np.array([row]))[0])
        self.reach(row)

    def reach(self, row: int) -> None:
        """Count what a row reaches; the value stays as it was."""
        import numpy as np

        at, similarities = self._kernel.column(row)
        if self._ceiling is not None:
            similarities = np.minimum(similarities, self._ceiling[at])
        self._best[at] = np.maximum(self._best[at], similarities)


def flmi(kernel: Kernel, to_queries: NDArray[Any], definition: Definition = "paper", eta: float = 1.0) -> Objective:
    """Facility-location mutual information with a set of queries Q, in one of its two published definitions.

    `saturating`: Σ_i min(max_{j in S} s_ij, eta · max_{q in Q} s_iq) (Iyer et al., 2021; DELIFT's code): once every
    row is as near to S as to Q no row gains any more. `paper`: Σ_i max_{j in S} s_ij + eta Σ_{j in S} max_q s_jq
    (DELIFT, Agarwal et al., 2025). `to_queries`: the highest similarity to a query, of every represented row (m,) for
    `saturating`, of every candidate (n,) for `paper`; below 0 it acts as 0.
    """
    import numpy as np

    near = np.maximum(to_queries.astype(np.float64), 0)
    _expect(near, kernel.represented if definition == "saturating" else len(kernel), "similarities to the queries", eta)
    if definition == "saturating":
        return FacilityLocation(kernel, ceiling=eta * near)
    return _with_modular(kernel, eta * near)


def flcg(kernel: Kernel, to_private: NDArray[Any], nu: float = 1.0) -> FacilityLocation:
    """Facility-location conditional gain: Σ_i max(max_{j in S} s_ij - nu · max_{p in P} s_ip, 0) (Iyer et al., 2021).

    `to_private` (m,): the highest similarity of every represented row to one of P, the rows held already; below 0 it
    acts as 0.
    """
    import numpy as np

    near = np.maximum(to_private.astype(np.float64), 0)
    _expect(near, kernel.represented, "similarities to the rows held", nu)
    return FacilityLocation(kernel, floor=nu * near)


def flqmi(queries: Kernel, to_queries: NDArray[Any], eta: float = 1.0) -> Objective:
    """Facility-location mutual information over queries: Σ_q max_{j in S} s_qj + eta Σ_{j in S} max_q s_qj.

    `queries` is a kernel whose represented rows are the queries; `to_queries` (n,) its highest similarity by candidate
    (Iyer et al., 2021, as `FLQMI`).
    """
    import numpy as np

    near = np.maximum(to_queries.astype(np.float64), 0)
    _expect(near, len(queries), "similarities to the queries", eta)
    return _with_modular(queries, eta * near)


def _with_modular(kernel: Kernel, worth: NDArray[np.float64]) -> Objective:
    """Facility location plus a number (n,) a candidate.

    In a sparse kernel the number is a represented row of its own, near to that candidate alone: the sum is a facility
    location again, which has compiled loops.
    """
    import numpy as np

    if not isinstance(kernel, Sparse):
        return WeightedSum(((1.0, FacilityLocation(kernel)), (1.0, Modular(worth))))
    count = len(kernel)
    starts = kernel.indptr[-1] + np.arange(1, count + 1, dtype=np.int64)
    return FacilityLocation(
        Sparse(
            np.concatenate([kernel.indptr, starts]),
            np.concatenate([kernel.indices, np.arange(count, dtype=kernel.indices.dtype)]),
            np.concatenate([kernel.values.astype(np.float64), worth]),
            count,
        )
    )


def _expect(near: NDArray[np.float64], length: int, what: str, weight: float) -> None:
    from tamis.submodular.kernels import checked

    checked(near, 1, what)
    if near.shape != (length,):
        raise RecipeError(f"{what}: {near.shape} given, expected ({length},)")
    if not weight >= 0:
        raise RecipeError(f"{what}: their weight must not be negative, got {weight}")
