"""Graph cut: rows near to all rows, and not near to each other; and its mutual information with a set of queries."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import RecipeError
from tamis.submodular.kernels import Kernel
from tamis.submodular.sums import Modular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GraphCut:
    """f(S) = Σ_{i, j in S} s_ij - lam · Σ_{i in S, j in S} s_ij, i of the first sum over all rows.

    The kernel is square: candidates represent themselves. Over `Cosine` no kernel is ever held: the gain is
    e_j · (Σ_i e_i - 2 lam Σ_{k in S} e_k) - lam |e_j|², O(n d) a pick. A pick costs O(n) with a kernel in memory, with
    a sparse one O(its neighbours). Submodular where no similarity is negative (over `Cosine`, above 4,096 rows: where
    all vectors are seen to lie within a right angle, see `Cosine.lower`), then monotone for lam ≤ 1/2. Similarities
    keep their sign.
    """

    kernel: Kernel
    lam: float = 0.4

    def __post_init__(self) -> None:
        if self.kernel.represented != len(self.kernel):
            raise RecipeError(
                f"graph cut needs a square kernel, got {self.kernel.represented} represented rows and "
                f"{len(self.kernel)} candidates"
            )
        if not self.lam >= 0:
            raise RecipeError(f"graph cut: lam must not be negative, got {self.lam}")

    @functools.cached_property
    def submodular(self) -> bool:
        """Whether no similarity is negative."""
        return self.lam == 0 or self.kernel.lower >= 0

    @functools.cached_property
    def monotone(self) -> bool:
        """Whether no similarity is negative, lam is at most 1/2, and the kernel is symmetric."""
        return self.kernel.lower >= 0 and (self.lam == 0 or (self.lam <= 0.5 and self.kernel.symmetric))

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Cut:
        """Evaluation at the empty set."""
        return _Cut(self)


class _Cut:
    """`_gains` (n,) of all candidates, kept up to date."""

    def __init__(self, objective: GraphCut) -> None:
        self._kernel = objective.kernel
        self._lam = objective.lam
        self._gains = objective.kernel.totals() - objective.lam * objective.kernel.diagonal()
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        return self._gains[rows]

    def add(self, row: int, /) -> None:
        self.value += float(self._gains[row])
        at, similarities = self._kernel.column(row)
        if self._kernel.symmetric:
            self._gains[at] -= 2 * self._lam * similarities
            return
        self._gains[at] -= self._lam * similarities
        at, similarities = self._kernel.across(row)
        self._gains[at] -= self._lam * similarities


def gcmi(queries: Kernel, lam: float = 0.5) -> Modular:
    """Graph-cut mutual information with queries: 2 lam Σ_{j in S} Σ_q s_qj (Iyer et al., 2021). Modular.

    `queries` is a kernel whose represented rows are the queries.
    """
    return Modular(2 * lam * queries.totals())
