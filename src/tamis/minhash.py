"""MinHash: short signatures whose agreement estimates the Jaccard similarity of two sets of word n-grams.

A shingle is the 64-bit hash of a run of words; the j-th of the "permutations" is h_j(s) = (a_j s + b_j mod 2^64) >> 32
with odd a_j (multiply-shift), and the signature holds the least h_j over all shingles. In `bands` of r values, two sets
of similarity s share a band with probability 1 - (1 - s^r)^bands (Broder 1997; Leskovec et al.).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.words import STEP, Flat, mixed, ngrams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMPTY = 0xFFFFFFFF  # the signature of a text without words, in every place


def signatures(
    flat: Flat, shingle: int, permutations: int, seed: int, short: NDArray[np.uint64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(texts, permutations) signatures, and (texts,) how many shingles stand behind each.

    `short` (texts,): hashes that stand in as the only shingle for texts with fewer words than a shingle has, so that
    these are alike only where they are equal. Texts without any word have EMPTY throughout and 0 shingles.
    """
    import numpy as np

    hashes, starts = ngrams(flat, shingle)
    counts = np.bincount(flat.text[starts], minlength=len(flat.offsets) - 1)
    ends = np.cumsum(counts)
    multiply, add = parameters(permutations, seed)
    answer = np.full((len(counts), permutations), EMPTY, np.uint32)
    worded = np.diff(flat.offsets) > 0
    for text in np.flatnonzero(worded).tolist():
        own = hashes[ends[text] - counts[text] : ends[text]] if counts[text] else short[text : text + 1]
        answer[text] = ((own[:, None] * multiply + add) >> np.uint64(32)).min(axis=0)
    return answer, np.where(worded, np.maximum(counts, 1), 0)


def parameters(permutations: int, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Factor a (odd) and summand b of every permutation; a longer signature begins with the shorter ones."""
    import numpy as np

    start = mixed(np.array([seed % 2**64], np.uint64))
    steps = start + np.arange(1, 2 * permutations + 1, dtype=np.uint64) * np.uint64(STEP)
    drawn = mixed(steps).reshape(permutations, 2)
    return drawn[:, 0] | np.uint64(1), drawn[:, 1]


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
