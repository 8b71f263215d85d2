"""Coverage: what rows give to each represented row, feature or concept, in a worth that flattens out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError, RecipeError
from tamis.submodular.kernels import Kernel, checked

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Worth = Callable[[NDArray[np.float64], Any], NDArray[np.float64]]

Concave = Literal["sqrt", "log", "saturating"]


@dataclass(frozen=True, eq=False)
class SaturatedCoverage:
    """f(S) = Σ_i min(Σ_{j in S} s_ij, alpha Σ_{j in V} s_ij): covered is what S gives enough (Lin & Bilmes, 2011).

    Negative similarities act as 0. Monotone and submodular. A gain costs O(m), with a sparse kernel O(similarities of
    the candidate).
    """

    kernel: Kernel
    alpha: float = 0.1
    submodular = True
    monotone = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise RecipeError(f"saturated coverage: alpha lies in (0, 1], got {self.alpha}")

    def __len__(self) -> int:
        return len(self.kernel)

    def begin(self) -> _Given:
        """Evaluation at the empty set."""
        import numpy as np

        kernel = self.kernel
        full = np.array([np.maximum(kernel.across(place)[1], 0).sum() for place in range(kernel.represented)])
        caps = self.alpha * full
        return _Given(kernel, lambda given, at: np.minimum(given, caps[at]))


@dataclass(frozen=True, eq=False)
class FeatureBased:
    """f(S) = Σ_u weight_u · φ(Σ_{j in S} m_uj), φ concave: features at falling worth (Kirchhoff & Bilmes, 2014).

    `features` is a kernel whose represented rows are the features, m_uj ≥ 0 (else a DataError) how much of u candidate
    j has. `concave`: `sqrt` φ(x) = √x, `log` φ(x) = ln(1 + x), `saturating` φ(x) = 1 - 1 / (1 + x). `weights` (m,), at
    least 0, default 1. Monotone and submodular; a gain costs O(features of the candidate) with a sparse kernel.
    """

    features: Kernel
    concave: Concave = "sqrt"
    weights: NDArray[np.float64] | None = None
    submodular = True
    monotone = True

    def __post_init__(self) -> None:
        if self.features.lower < 0:
            raise DataError("feature-based functions need features that are not negative")
        _check_weights(self.weights, self.features.represented)

    def __len__(self) -> int:
        return len(self.features)

    def begin(self) -> _Given:
        """Evaluation at the empty set."""
        import numpy as np

        shapes: dict[Concave, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
            "sqrt": np.sqrt,
            "log": np.log1p,
            "saturating": lambda given: 1 - 1 / (1 + given),
        }
        shape = shapes[self.concave]
        return _Given(self.features, lambda given, at: _weighted(shape(given), self.weights, at))


@dataclass(frozen=True, eq=False)
class SetCover:
    """f(S) = Σ_u weight_u · [some j of S has concept u]: weighted coverage of concepts (Khuller et al., 1999).

    `concepts` is a kernel whose represented rows are the concepts; a candidate has those where its number is above 0.
    `weights` (m,), at least 0, default 1. Monotone and submodular; a gain costs O(concepts of the candidate) with a
    sparse kernel.
    """

    concepts: Kernel
    weights: NDArray[np.float64] | None = None
    submodular = True
    monotone = True

    def __post_init__(self) -> None:
        _check_weights(self.weights, self.concepts.represented)

    def __len__(self) -> int:
        return len(self.concepts)

    def begin(self) -> _Given:
        """Evaluation at the empty set."""
        import numpy as np

        return _Given(self.concepts, lambda given, at: _weighted((given > 0).astype(np.float64), self.weights, at))


class _Given:
    """`given` (m,): what S gives to every represented row; `worth` of it is 0 at 0."""

    def __init__(self, kernel: Kernel, worth: Worth) -> None:
        import numpy as np

        self._kernel, self._worth = kernel, worth
        self._given = np.zeros(kernel.represented)
        self.value = 0.0

    def gains(self, rows: NDArray[np.int64], /) -> NDArray[np.float64]:
        import numpy as np

        reached = self._worth(self._given, slice(None))
        return self._kernel.summed(
            rows, lambda more, at: self._worth(self._given[at] + np.maximum(more, 0), at) - reached[at]
        )

    def add(self, row: int, /) -> None:
        import numpy as np

        self.value += float(self.gains(np.array([row]))[0])
        at, more = self._kernel.column(row)
        self._given[at] += np.maximum(more, 0)


def _weighted(worth: NDArray[np.float64], weights: NDArray[np.float64] | None, at: Any) -> NDArray[np.float64]:
    return worth if weights is None else worth * weights[at]


def _check_weights(weights: NDArray[np.float64] | None, represented: int) -> None:
    if weights is None:
        return
    checked(weights, 1, "weights")
    if weights.shape != (represented,) or (weights < 0).any():
        raise RecipeError(f"weights are ({represented},) numbers of at least 0, got {weights.shape}")
