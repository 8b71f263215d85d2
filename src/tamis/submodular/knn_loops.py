"""Compiled loops that keep the k nearest of blocks of similarities; import this module inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRID = 2.0**20
_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def keep_nearest(
    products: NDArray[np.float32],
    numbers: NDArray[np.int32],
    own: NDArray[np.int32],
    slots: NDArray[np.int64],
    values: NDArray[np.float32],
    places: NDArray[np.int32],
) -> None:
    """Merge similarities (q, w) of queries to rows `numbers` (w,) into the nearest that were found before.

    Query i is row `own[i]` and has its nearest in `values[slots[i]]` and `places[slots[i]]` (k,), highest first, on
    equal similarity the lower row first; unused are 0 and -1. The first of them, the query itself, is never touched.
    Similarities are rounded to multiples of 2^-20 and at most 1; those not above 0 are left out.
    """
    last = values.shape[1] - 1
    for query in range(products.shape[0]):
        slot = slots[query]
        least = values[slot, last]
        for column in range(products.shape[1]):
            if products[query, column] < least - 1e-6:
                continue
            value = min(round(products[query, column] * GRID) / GRID, 1.0)
            number = numbers[column]
            if value <= 0 or value < least or number == own[query]:
                continue
            if value == least and number > places[slot, last]:
                continue
            place = last
            while place > 1 and (
                values[slot, place - 1] < value
                or (values[slot, place - 1] == value and places[slot, place - 1] > number)
            ):
                values[slot, place] = values[slot, place - 1]
                places[slot, place] = places[slot, place - 1]
                place -= 1
            values[slot, place] = value
            places[slot, place] = number
            least = values[slot, last]


@_compiled
def compact(values: NDArray[np.float32], places: NDArray[np.int32], indptr: NDArray[np.int64]) -> None:
    """Move the used entries of (n, k) lists to the front of both arrays, row after row; fills `indptr` (n + 1,)."""
    flat_values, flat_places = values.reshape(-1), places.reshape(-1)
    end = 0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            if places[row, column] >= 0:
                flat_values[end] = values[row, column]
                flat_places[end] = places[row, column]
                end += 1
        indptr[row + 1] = end
