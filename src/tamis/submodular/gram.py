"""All cosines of rows with each other in memory, in float32 and on several threads: the dense kernel at its fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 1024


def cosines(vectors: NDArray[Any], threads: int = 1) -> NDArray[np.float32]:
    """(n, n) cosines of rows (n, d), symmetric, in multiples of 2^-20, on which sums in float64 are exact.

    The products of a block with those that follow it run on one thread each, so nothing depends on how many there are;
    equal rows may differ in the last bit. Memory 4 n² bytes, time O(n² d / 2). DataError for NaN, infinity or rows of
    zeros.
    """
    import numpy as np

    from tamis.submodular.knn_lists import blocks, unit_block, workers
    from tamis.submodular.loops import to_grid

    rows = unit_block(vectors, slice(None))
    answer = np.empty((len(rows), len(rows)), np.float32)

    def fill(at: slice) -> None:
        for other in blocks(len(rows), _BLOCK)[at.start // _BLOCK :]:
            made = to_grid(rows[at] @ rows[other].T)
            answer[at, other] = made
            if other != at:
                answer[other, at] = made.T

    with workers(threads) as pool:
        list(pool.map(fill, blocks(len(rows), _BLOCK)))
    return answer
