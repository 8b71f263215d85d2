"""Compiled loops of facility location, f(S) = sum over i of max(0, max over j in S of s_ij), and of k-NN graphs.

numba compiles them at their first call and keeps the machine code beside the sources (or in NUMBA_CACHE_DIR); import
this module inside functions. All run on one thread and release the interpreter's lock.

Similarities on the grid of multiples of 2^-20 (`to_grid`) have sums without any rounding in float64, so that gains are
the same to the last bit in whatever order, on whatever machine, they are added. Off that grid they are still the same
from run to run, as one compiled loop computes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]
    Short = NDArray[np.int32]
    Single = NDArray[np.float32]
    Double = NDArray[np.float64]
    Similarities = Single | Double

GRID = 2.0**20
_compiled = numba.njit(cache=True, nogil=True)
_vectorised = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})


def to_grid(values: Single) -> Single:
    """Round to multiples of 2^-20, in place; returns its argument. Absolute values must be below 8."""
    import numpy as np

    np.multiply(values, np.float32(GRID), out=values)
    np.rint(values, out=values)
    return np.multiply(values, np.float32(1 / GRID), out=values)


def transpose(
    indptr: Whole, indices: Short, values: Similarities, candidates: int
) -> tuple[Whole, Short, Similarities]:
    """Compressed rows (m + 1,), (e,), (e,) turned into compressed columns (candidates + 1,), (e,), (e,).

    Represented rows ascend within a column.
    """
    import numpy as np

    starts = np.zeros(candidates + 1, np.int64)
    np.cumsum(np.bincount(indices, minlength=candidates), out=starts[1:])
    rows, turned = np.empty_like(indices, np.int32), np.empty_like(values)
    _transpose(indptr, indices, values, starts[:-1].copy(), rows, turned)
    return starts, rows, turned


def lazy_facility(
    indptr: Whole,
    indices: Short,
    values: Similarities,
    represented: int,
    candidates: int,
    rows: int,
    floor: Double | None = None,
    ceiling: Double | None = None,
) -> tuple[Whole, Double, int]:
    """Lazy greedy over a sparse kernel: order (k,), gains (k,), gains computed; k = min(rows, candidates).

    `indptr` (m + 1,), `indices` (e,), `values` (e,): row = represented, columns = candidates; pairs left out, negative
    and NaN similarities count as 0. `floor` (m,), at least 0: what is covered before the first pick; `ceiling` (m,):
    similarities above it count as it. The picks are those of naive greedy; ties go to the lower candidate.
    Source: Minoux (1978), Accelerated greedy algorithms. Memory: the transposed kernel; time: that of the columns read.
    """
    by_column = transpose(indptr, indices, values, candidates)
    return lazy_facility_by_column(*by_column, represented, rows, floor, ceiling)


def lazy_facility_by_column(
    starts: Whole,
    owners: Short,
    turned: Similarities,
    represented: int,
    rows: int,
    floor: Double | None = None,
    ceiling: Double | None = None,
) -> tuple[Whole, Double, int]:
    """`lazy_facility` over compressed columns, as `transpose` gives them."""
    import numpy as np

    candidates = len(starts) - 1
    if ceiling is not None:
        turned = np.minimum(turned, ceiling[owners])
    best = np.zeros(represented) if floor is None else floor.astype(np.float64)
    bounds = sparse_gains(starts, owners, turned, best, np.arange(candidates))
    order, gains = np.empty(min(rows, candidates), np.int64), np.empty(min(rows, candidates), np.float64)
    count = _lazy_sparse(starts, owners, turned, best, bounds, *_heap(bounds), order, gains)
    return order, gains, int(count) + candidates


def lazy_facility_dense(
    columns: Similarities, rows: int, floor: Double | None = None, ceiling: Double | None = None
) -> tuple[Whole, Double, int]:
    """`lazy_facility` over a dense kernel (n candidates, m represented), a candidate's similarities side by side."""
    import numpy as np

    candidates, represented = columns.shape
    if ceiling is not None:
        columns = np.minimum(columns, ceiling)
    best = np.zeros(represented) if floor is None else floor.astype(np.float64)
    bounds = dense_gains(columns, best, np.arange(candidates))
    order, gains = np.empty(min(rows, candidates), np.int64), np.empty(min(rows, candidates), np.float64)
    count = _lazy_dense(columns, best, bounds, *_heap(bounds), order, gains)
    return order, gains, int(count) + candidates


def sparse_gains(starts: Whole, owners: Short, turned: Similarities, best: Double, rows: Whole) -> Double:
    """(k,) gains of candidates `rows` (k,) where `best` (m,) is what S gives the represented, 0 at the empty set."""
    import numpy as np

    answer = np.empty(len(rows), np.float64)
    _gains_sparse(starts, owners, turned, best, rows, answer)
    return answer


def dense_gains(columns: Similarities, best: Double, rows: Whole) -> Double:
    """`sparse_gains` over a dense kernel (n, m)."""
    import numpy as np

    answer = np.empty(len(rows), np.float64)
    _gains_dense(columns, best, rows, answer)
    return answer


def _heap(bounds: Double) -> tuple[Whole, Whole]:
    """Candidates as a heap (sorted: the highest bound first, on equal bounds the lower), and their stamps."""
    import numpy as np

    candidates = len(bounds)
    return np.lexsort((np.arange(candidates), -bounds)), np.zeros(candidates, np.int64)


@_compiled
def _transpose(
    indptr: Whole, indices: Short, values: Similarities, places: Whole, rows: Short, turned: Similarities
) -> None:
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            place = places[indices[entry]]
            places[indices[entry]] = place + 1
            rows[place] = row
            turned[place] = values[entry]


@_compiled
def _sink(heap: Whole, size: int, bounds: Double) -> None:
    """Let the head of the heap sink to where its bound belongs."""
    item = heap[0]
    bound = bounds[item]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        one = heap[child]
        if child + 1 < size:
            other = heap[child + 1]
            if bounds[other] > bounds[one] or (bounds[other] == bounds[one] and other < one):
                child += 1
                one = other
        if bounds[one] < bound or (bounds[one] == bound and one > item):
            break
        heap[place] = one
        place = child
    heap[place] = item


@_compiled
def _sparse_gain(starts: Whole, owners: Short, turned: Similarities, best: Double, column: int) -> float:
    total = 0.0
    for entry in range(starts[column], starts[column + 1]):
        more = turned[entry] - best[owners[entry]]
        if more > 0:
            total += more
    return total


@_vectorised
def _dense_gain(column: Similarities, best: Double) -> float:
    total = 0.0
    for row in range(len(best)):
        more = column[row] - best[row]
        total += more if more > 0 else 0.0  # not a branch: so it becomes vector instructions
    return total


@_compiled
def _gains_sparse(
    starts: Whole, owners: Short, turned: Similarities, best: Double, rows: Whole, answer: Double
) -> None:
    for place in range(len(rows)):
        answer[place] = _sparse_gain(starts, owners, turned, best, rows[place])


@_compiled
def _gains_dense(columns: Similarities, best: Double, rows: Whole, answer: Double) -> None:
    for place in range(len(rows)):
        answer[place] = _dense_gain(columns[rows[place]], best)


@_compiled
def _lazy_sparse(
    starts: Whole,
    owners: Short,
    turned: Similarities,
    best: Double,
    bounds: Double,
    heap: Whole,
    stamps: Whole,
    order: Whole,
    gains: Double,
) -> int:
    size, picked, count = len(heap), 0, 0
    while picked < len(order):
        head = heap[0]
        if stamps[head] != picked:
            bounds[head] = _sparse_gain(starts, owners, turned, best, head)
            stamps[head] = picked
            count += 1
            _sink(heap, size, bounds)
            continue
        order[picked], gains[picked] = head, bounds[head]
        for entry in range(starts[head], starts[head + 1]):
            if turned[entry] > best[owners[entry]]:
                best[owners[entry]] = turned[entry]
        picked += 1
        size -= 1
        heap[0] = heap[size]
        if size:
            _sink(heap, size, bounds)
    return count


@_compiled
def _lazy_dense(
    columns: Similarities, best: Double, bounds: Double, heap: Whole, stamps: Whole, order: Whole, gains: Double
) -> int:
    size, picked, count = len(heap), 0, 0
    while picked < len(order):
        head = heap[0]
        if stamps[head] != picked:
            bounds[head] = _dense_gain(columns[head], best)
            stamps[head] = picked
            count += 1
            _sink(heap, size, bounds)
            continue
        order[picked], gains[picked] = head, bounds[head]
        for row in range(len(best)):
            if columns[head, row] > best[row]:
                best[row] = columns[head, row]
        picked += 1
        size -= 1
        heap[0] = heap[size]
        if size:
            _sink(heap, size, bounds)
    return count
