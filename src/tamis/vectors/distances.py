"""Rows picked one after another by their squared Euclidean distance to the nearest row picked before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    First = Callable[[NDArray[np.float32], NDArray[np.int64]], int]
    Next = Callable[[NDArray[np.float64], NDArray[np.int64], int], int]

_SAME = 1e-6  # of the squared lengths: what float32 leaves of the distance of a row to itself


def squared(
    vectors: NDArray[np.float32], lengths: NDArray[np.float32], centre: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(m,) squared distances of (m, d) rows to a centre (d,), 0 for rows equal to it.

    `lengths` (m,): squared lengths of the rows, from `squared_lengths`. The distance of a row depends on that row and
    the centre alone, to the last bit: a matrix product would let it hang on the row's place and on threads. O(m d).
    """
    import numpy as np

    both = lengths + np.float32(centre @ centre)
    found: NDArray[np.float64] = (both - 2 * np.einsum("nd,d->n", vectors, centre)).astype(np.float64)
    found[found < _SAME * both] = 0
    return found


def squared_lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m,) squared lengths of (m, d) rows."""
    import numpy as np

    found: NDArray[np.float32] = np.einsum("nd,nd->n", vectors, vectors)
    return found


@dataclass(frozen=True)
class Spread:
    """Rows picked by distance: `order` (k,) int64, their `gains` (k,) and the `distances` (m,) of all rows at the end.

    A gain is the distance to the nearest row picked before; the first row's, where there is none before it, is that of
    the row farthest from it. Distances are not squared.
    """

    order: NDArray[np.int64]
    gains: NDArray[np.float64]
    distances: NDArray[np.float64]


def spread(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    costs: NDArray[np.int64],
    limit: int | None,
    first: First,
    pick: Next,
) -> Spread:
    """Pick rows of (m, d) `vectors` while their `costs` (m,) fit `limit` (None: all), away from `centres` (e, d).

    Only rows that still fit are offered. `pick(nearest, rows, step)` chooses one of `rows` by the squared distances
    (m,) to what is picked; without centres the first row is `first(lengths, rows)`, by squared lengths.
    O((k + e) m d).
    """
    import numpy as np

    lengths = squared_lengths(vectors)
    nearest = np.full(len(vectors), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, squared(vectors, lengths, centre))
    open_rows = np.ones(len(vectors), np.bool_)
    left = int(costs.sum()) if limit is None else limit
    order: list[int] = []
    gains: list[float] = []
    while len(fits := np.flatnonzero(open_rows & (costs <= left))):
        alone = not len(centres) and not order
        row = first(lengths, fits) if alone else pick(nearest, fits, len(order))
        gain = float(nearest[row])
        nearest = np.minimum(nearest, squared(vectors, lengths, vectors[row]))
        order.append(row)
        gains.append(float(nearest.max()) if alone else gain)
        open_rows[row] = False
        left -= int(costs[row])
    return Spread(np.asarray(order, np.int64), np.sqrt(np.asarray(gains, np.float64)), np.sqrt(nearest))
