"""The error-uncertainty plane of Q-Tuning: which rows of a batch or a pool are kept, and which of their tokens.

Corners are cut at quantiles of perplexity and of mean entropy: *misconceptions* (high perplexity, low entropy) and
*calibration* (low perplexity, high entropy) are kept, harmful noise (both high) and redundant knowledge (both low) are
not. One scalar moves all four cuts, found by bisection. Perplexity and entropy go together, so that corners hold less
than is asked for (12 % at a correlation of 0.9); the rest is topped up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST = 0.49  # of the scalar: beyond a half the corners would overlap
STEPS = 10


@dataclass(frozen=True, eq=False)
class Plane:
    """Rows in the order in which they are kept, and what is known of them.

    `order` (m,) int64 places of the rows that have both values: those of the corners first, then the rest, each by
    `apart`, largest first, ties to the lower place. `apart` (n,) float64: distance of the two values after each is
    scaled to [0, 1]; NaN where a value is missing. `misconception` (n,) bool: rows whose tokens are pruned, those of
    the corner and, of the others but calibration, those with the higher scaled perplexity. `corners`: rows in the two
    corners; `cut`: the scalar in [0, LARGEST].
    """

    order: NDArray[np.int64]
    apart: NDArray[np.float64]
    misconception: NDArray[np.bool_]
    corners: int
    cut: float


def plane(perplexity: NDArray[np.floating], entropy: NDArray[np.floating], share: float, steps: int = STEPS) -> Plane:
    """Divide rows (n,) by both values, the corners as large as fits into `share` of the rows, in (0, 1].

    Bisection over [0, LARGEST], `steps` times (the paper: at most 10): corners smaller than the share raise the lower
    bound, others lower the upper one. The paper does not say whose tokens are pruned among rows that are topped up, nor
    how corners that hold too much are cut down; both are decided here, as `Plane` says.
    """
    import numpy as np

    known = np.flatnonzero(np.isfinite(perplexity) & np.isfinite(entropy))
    error, doubt = (np.asarray(values, np.float64)[known] for values in (perplexity, entropy))
    low, high = 0.0, LARGEST
    for _ in range(steps):
        middle = (low + high) / 2
        first, second = _corners(error, doubt, middle)
        if (first | second).sum() < share * len(known):
            low = middle
        else:
            high = middle
    first, second = _corners(error, doubt, low)
    scaled = _scaled(error), _scaled(doubt)
    apart = np.abs(scaled[0] - scaled[1])
    inside = first | second
    order = known[np.lexsort((-apart, ~inside))]
    whole = np.full(len(perplexity), np.nan)
    whole[known] = apart
    pruned = np.zeros(len(perplexity), np.bool_)
    pruned[known] = ~second & (first | (scaled[0] > scaled[1]))
    return Plane(order, whole, pruned, int(inside.sum()), low)


def _corners(
    error: NDArray[np.float64], doubt: NDArray[np.float64], cut: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows are misconceptions and which calibration, at the quantiles `cut` and 1 - `cut`."""
    import numpy as np

    if not len(error):
        return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    error_low, error_high = np.quantile(error, (cut, 1 - cut))
    doubt_low, doubt_high = np.quantile(doubt, (cut, 1 - cut))
    misconception = (error >= error_high) & (doubt <= doubt_low)
    calibration = (error <= error_low) & (doubt >= doubt_high) & ~misconception
    return misconception, calibration


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values moved to [0, 1] by their range; 0 where they are all the same."""
    if not len(values) or values.max() == values.min():
        return values * 0
    scaled: NDArray[np.float64] = (values - values.min()) / (values.max() - values.min())
    return scaled


def kept_tokens(nll: NDArray[np.floating], share: float, smoothing: float) -> NDArray[np.bool_]:
    """(t,) bool: the `share` of a row's tokens that stay, at least one: those with the lowest score, ties to the first.

    The score is (1 - `smoothing`) times the token's perplexity plus `smoothing` times the mean of its neighbours' (of
    the one neighbour at the ends). Eq. 7 of the paper prints the sum of the neighbours and Algorithm 1 keeps the
    *highest* scores; its text and Figure 2 remove high perplexities, and so does this.
    """
    import numpy as np

    own = np.exp(np.asarray(nll, np.float64))
    around = np.concatenate([own[1:2] if len(own) > 1 else own, own, own[-2:-1] if len(own) > 1 else own])
    scores = (1 - smoothing) * own + smoothing * (around[:-2] + around[2:]) / 2
    kept = np.zeros(len(own), np.bool_)
    kept[np.argsort(scores, kind="stable")[: max(1, round(share * len(own)))]] = True
    return kept
