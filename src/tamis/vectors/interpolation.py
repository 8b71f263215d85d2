"""Kernel ridge regression: values known on some points, carried over to other points by their closeness.

For points x_l with values y_l:  f(x) = ȳ + Σ_l k(x, x_l) c_l,  c = (K + λI)⁻¹ (y - ȳ),  K_lm = k(x_l, x_m)

    rbf       k(x, x') = exp(-‖x - x'‖² / (2 w² s²)), s the median distance between points
    linear    k(x, x') = <x - x̄, x' - x̄> / s², so that f is a ridge regression with a constant

Width w and ridge λ are those with the least error when every point is left out once, which one eigendecomposition gives
for all λ. What is reported is the error on points that took no part in any of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kernel = Literal["rbf", "linear"]
RIDGES = (1e-9, 1e-7, 1e-5, *(10.0 ** (half / 2) for half in range(-6, 5)))
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # in median distances; a wide kernel is nearly linear
TUNED_ON = 1000  # points at most that width and ridge are chosen on: an eigendecomposition is cubic in them


@dataclass(frozen=True)
class Interpolation:
    """A fitted f. `points` (L, d) float32, `factors` c (L, K) float64, `mean` ȳ (K,), `centre` x̄ (d,)."""

    kernel: Kernel
    scale: float  # w s of rbf, s of linear
    ridge: float
    points: NDArray[np.float32]
    factors: NDArray[np.float64]
    mean: NDArray[np.float64]
    centre: NDArray[np.float64]

    def __call__(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Values (n, K) at points (n, d)."""
        return (
            self.mean + _kernel(self.kernel, points - self.centre, self.points - self.centre, self.scale) @ self.factors
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, for the store."""
        import numpy as np

        numbers = np.array([self.scale, self.ridge, float(self.kernel == "linear")])
        named = {name: getattr(self, name) for name in ("points", "factors", "mean", "centre")}
        return {"numbers": numbers, **named}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Interpolation:
        """Read what `arrays` gave."""
        scale, ridge, linear = (float(number) for number in arrays["numbers"])
        named = {name: arrays[name] for name in ("points", "factors", "mean", "centre")}
        return cls("linear" if linear else "rbf", scale, ridge, **named)


def fit(
    points: NDArray[np.float32], values: NDArray[Any], kernel: Kernel, held_out: int
) -> tuple[Interpolation, NDArray[np.float64]]:
    """Fit f over all points (L, d) with values (L, K), and R² (K,) of one without the last `held_out` on those.

    The order of points should be random, and must not depend on their values. R² is NaN for fewer than two held out,
    or where their values are all equal.
    """
    import numpy as np

    values = np.asarray(values, np.float64)
    known = len(points) - held_out
    scale, ridge = _tuned(points[: min(known, TUNED_ON)], values[: min(known, TUNED_ON)], kernel)
    trial = _solved(points[:known], values[:known], kernel, scale, ridge)
    held = values[known:]
    spread = np.square(held - held.mean(0)).sum(0) if held_out > 1 else np.zeros(values.shape[1])
    error = np.square(held - trial(points[known:])).sum(0)
    share = np.where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), np.nan)
    return (_solved(points, values, kernel, scale, ridge) if held_out else trial), share


def _tuned(points: NDArray[np.float32], values: NDArray[np.float64], kernel: Kernel) -> tuple[float, float]:
    """Scale and ridge of the least error of leaving one out, in units of each column's spread."""
    import numpy as np

    centred = points - points.mean(0, dtype=np.float64)
    targets = values - values.mean(0)
    targets /= np.where(targets.std(0) > 0, targets.std(0), 1)
    best = (np.inf, 1.0, RIDGES[0])
    for scale in _scales(centred, kernel):
        eigen, vectors = np.linalg.eigh(_kernel(kernel, centred, centred, scale))
        turned, squares = vectors.T @ targets, np.square(vectors)
        for ridge in RIDGES:
            inverse = 1 / (eigen.clip(0) + ridge)
            left_out = (vectors @ (inverse[:, None] * turned)) / (squares @ inverse)[:, None]
            best = min(best, (float(np.square(left_out).mean()), scale, ridge))
    return best[1], best[2]


def _scales(centred: NDArray[Any], kernel: Kernel) -> list[float]:
    import numpy as np

    if kernel == "linear":
        return [float(np.sqrt(np.square(centred).sum(1).mean())) or 1.0]
    some = centred[:: max(1, len(centred) // 500)]
    squares = _squares(some, some)[np.triu_indices(len(some), 1)]
    median = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    return [width * (median or 1.0) for width in WIDTHS]


def _solved(
    points: NDArray[np.float32], values: NDArray[np.float64], kernel: Kernel, scale: float, ridge: float
) -> Interpolation:
    import numpy as np

    mean, centre = values.mean(0), points.mean(0, dtype=np.float64)
    matrix = _kernel(kernel, points - centre, points - centre, scale)
    matrix[np.diag_indices(len(matrix))] += ridge
    return Interpolation(kernel, scale, ridge, points, np.linalg.solve(matrix, values - mean), mean, centre)


def _kernel(kernel: Kernel, left: NDArray[Any], right: NDArray[Any], scale: float) -> NDArray[np.float64]:
    """Kernel of every pair of centred points (n, d) and (L, d), float64."""
    import numpy as np

    left, right = left.astype(np.float64), right.astype(np.float64)
    if kernel == "linear":
        products: NDArray[np.float64] = left @ right.T / scale**2
        return products
    exponents = _squares(left, right)
    exponents /= -2 * scale**2
    return np.exp(exponents, out=exponents)


def _squares(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Squared distances of every pair."""
    import numpy as np

    left, right = left.astype(np.float64), right.astype(np.float64)
    found: NDArray[np.float64] = left @ right.T
    found *= -2
    found += np.square(left).sum(1)[:, None]
    found += np.square(right).sum(1)
    return found.clip(0, out=found)
