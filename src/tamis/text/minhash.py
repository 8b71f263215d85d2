"""MinHash: short signatures whose agreement estimates the Jaccard similarity of two sets.

The j-th of the "permutations" of the 32-bit hashes of a set is h_j(s) = (a_j s + b_j) mod 2^32 with odd a_j, and the
signature holds the least h_j over the set. In `bands` of r values, two sets of similarity s share a band with
probability 1 - (1 - s^r)^bands (Broder 1997; Leskovec et al.).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.ragged import Ragged
from tamis.text.words import STEP, mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMPTY = 0xFFFFFFFF  # the signature of an empty set, in every place


def signatures(sets: Ragged, permutations: int, seed: int) -> NDArray[np.uint32]:
    """(n, permutations) uint32 signatures of n sets of 32-bit hashes; EMPTY throughout where a set is empty."""
    import numpy as np

    from tamis.duplicates import loops

    found = np.full((len(sets), permutations), EMPTY, np.uint32)
    loops.signatures(sets.values, sets.offsets, *parameters(permutations, seed), found)
    return found


def parameters(permutations: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Factor a (odd) and summand b of every permutation; a longer signature begins with the shorter ones."""
    import numpy as np

    start = mixed(np.array([seed % 2**64], np.uint64))
    steps = start + np.arange(1, 2 * permutations + 1, dtype=np.uint64) * np.uint64(STEP)
    drawn = (mixed(steps).reshape(permutations, 2) >> np.uint64(32)).astype(np.uint32)
    return np.ascontiguousarray(drawn[:, 0] | np.uint32(1)), np.ascontiguousarray(drawn[:, 1])


def collision_probability(similarity: float, bands: int, rows: int) -> float:
    """Probability that two sets of this Jaccard similarity share at least one of `bands` bands of `rows` values.

    >>> round(collision_probability(0.8, 14, 8), 3)
    0.924
    """
    return 1 - float((1 - similarity**rows) ** bands)


def threshold(bands: int, rows: int) -> float:
    """Similarity around which the probability of a collision rises most steeply: (1 / bands)^(1 / rows).

    >>> round(threshold(14, 8), 2)
    0.72
    """
    return float((1 / bands) ** (1 / rows))


def layout(similarity: float, permutations: int, recall: float) -> tuple[int, int]:
    """(bands, rows) for a threshold: the longest bands in which a pair at the threshold still meets with `recall`.

    All permutations that make whole bands are used; longer bands bring fewer pairs to verify. Bands of one value where
    even those reach the recall nowhere.

    >>> layout(0.7, 128, 0.95), layout(0.9, 128, 0.95), layout(0.4, 128, 0.95)
    ((25, 5), (10, 12), (64, 2))
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if collision_probability(similarity, bands, rows) >= recall:
            return bands, rows
    return permutations, 1
