"""Columns on a common scale: ranks, z-scores, min-max; the same for any order of the rows, to the last bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scale = Literal["rank", "z", "min-max", "none"]


def average_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) ranks from 1 of finite values, the least first; equal values share the mean of theirs."""
    import numpy as np

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[place]


def normalised(values: NDArray[Any], scale: Scale) -> NDArray[np.float64]:
    """Finite values (n,) on a scale.

    `rank`: (average rank - 1/2) / n, in (0, 1). `z`: less the mean, by the standard deviation (of the population).
    `min-max`: in [0, 1]. `none`: as they are. Values that are all equal become 0 by `z` and by `min-max`.
    """
    import numpy as np

    found = np.asarray(values, np.float64)
    if scale == "none" or not len(found):
        return found
    if scale == "rank":
        return (average_ranks(found) - 0.5) / len(found)
    if scale == "min-max":
        low, high = found.min(), found.max()
        return (found - low) / (high - low) if high > low else np.zeros_like(found)
    centred = found - math.fsum(found.tolist()) / len(found)
    deviation = math.sqrt(math.fsum((centred**2).tolist()) / len(found))
    return centred / deviation if deviation > 0 else np.zeros_like(found)
