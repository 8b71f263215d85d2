"""Bands of signatures: rows that agree in all values of one are candidates for duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.text.words import STEP, mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 256  # rows of one band that a row is compared with on each side, in the order of places


def band_hashes(signature: NDArray[np.uint32], bands: int, rows: int) -> NDArray[np.uint64]:
    """(n, bands) hashes of the first `bands` times `rows` values of (n, permutations) signatures.

    Equal values of a band have equal hashes; hashes of different bands are not compared.
    """
    import numpy as np

    found = np.empty((len(signature), bands), np.uint64)
    for band in range(bands):
        state = np.ones(len(signature), np.uint64)
        for value in range(band * rows, (band + 1) * rows):
            state = mixed(state * np.uint64(STEP) + signature[:, value])
        found[:, band] = state
    return found


def crowded(hashes: NDArray[np.uint64]) -> int:
    """How many rows share their hash (n,) with more others than they are compared with."""
    import numpy as np

    counts = np.unique(hashes, return_counts=True)[1]
    return int(counts[counts > WINDOW + 1].sum())


def encounters(sorted_: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, places): row i of `hashes` (n,) meets every place of equal hash in `sorted_` (m,), at most WINDOW each."""
    import numpy as np

    lowest = np.searchsorted(sorted_, hashes, side="left")
    counts = np.minimum(np.searchsorted(sorted_, hashes, side="right") - lowest, WINDOW)
    rows = np.repeat(np.arange(len(hashes)), counts)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, lowest[rows] + steps
