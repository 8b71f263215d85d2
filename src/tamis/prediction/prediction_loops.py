"""Compiled loops over a block of logits: every statistic of a prediction from two readings of a row that lies in cache.

numba compiles them at their first call and keeps the machine code beside the sources (or in NUMBA_CACHE_DIR); import
this module inside functions. All run on one thread and release the interpreter's lock. Where numba is missing, or on a
GPU, `tamis.prediction.predictions` computes the same with torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
from numba import float32, int32
from numba.extending import intrinsic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Single = NDArray[np.float32]
    Double = NDArray[np.float64]
    Short = NDArray[np.int32]

_vectorised = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})
STEP = 64  # columns whose maximum is compared at once with what is known


def _bits(typing: Any, bits: Any) -> Any:
    """Read the bits of an int32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(float32))

    return float32(int32), generate


_as_float: Any = intrinsic(_bits)


@numba.njit(inline="always")
def _exp(x: Any) -> Any:
    """Exponential of a float32 in [-87, 0], within 2 units of the last place; NaN stays NaN.

    2^n exp(r), n = x / ln 2 rounded; ln 2 in two parts, exp(r) by the polynomial that Cephes has for float32.
    """
    n = int32(x * float32(1.44269504) - float32(0.5))
    whole = float32(n)
    r = x - whole * float32(0.693359375) + whole * float32(2.12194440e-4)
    p = float32(1.9875691500e-4) * r + float32(1.3981999507e-3)
    p = (p * r + float32(8.3334519073e-3)) * r + float32(4.1665795894e-2)
    p = (p * r + float32(1.6666665459e-1)) * r + float32(5.0000001201e-1)
    return (p * r * r + r + float32(1.0)) * _as_float(int32((n + int32(127)) << int32(23)))


@_vectorised
def add_total(logits: Single, peak: Double, total: Double) -> None:
    """Take in logits (m, c): `peak` (m,) is the largest so far, `total` (m,) the sum of exp(logit - peak)."""
    for i in range(len(logits)):
        row = logits[i]
        high = float32(-math.inf)
        for j in range(len(row)):
            high = max(high, row[j])
        if high < peak[i]:
            high = float32(peak[i])
        if high == -math.inf:
            continue
        part = float32(0.0)
        for j in range(len(row)):
            part += _exp(max(row[j] - high, float32(-87.0)))
        total[i] = total[i] * math.exp(peak[i] - high) + part
        peak[i] = high


@_vectorised
def add_all(
    logits: Single,
    start: int,
    gold: Single,
    target: Short,
    peak: Double,
    sums: Double,
    rank: Short,
    top: Single,
    top_id: Short,
) -> None:
    """Take in logits (m, c) of the tokens `start`, `start` + 1, …

    `gold` (m,): logit of the token `target` (m,). `peak` (m,): largest so far. `sums` (m, 3): of w = exp(logit - peak),
    of w (logit - peak) and of w². `rank` (m,): logits above `gold` are counted onto it. `top`, `top_id` (m, k): the
    largest so far, falling; of equal ones the lower token is first.
    """
    for i in range(len(logits)):
        row = logits[i]
        _largest(row, start, top[i], top_id[i])
        high = float32(max(peak[i], top[i, 0]))
        if high == -math.inf:
            continue
        known = gold[i]
        total, weighted, squared = float32(0.0), float32(0.0), float32(0.0)
        above = int32(0)
        for j in range(len(row)):
            z = max(row[j] - high, float32(-87.0))
            w = _exp(z)
            total += w
            weighted += w * z
            squared += w * w
            above += int32(row[j] > known)
        own = target[i] - start
        if 0 <= own < len(row) and row[own] > known:  # another rounding of the same logit
            above -= int32(1)
        rank[i] += above
        fall = peak[i] - high if peak[i] > -math.inf else 0.0
        shrink = math.exp(fall)
        sums[i, 1] = (sums[i, 1] + sums[i, 0] * fall) * shrink + weighted
        sums[i, 0] = sums[i, 0] * shrink + total
        sums[i, 2] = sums[i, 2] * shrink * shrink + squared
        peak[i] = high


@numba.njit(cache=True, nogil=True)
def _largest(row: Single, start: int, top: Single, top_id: Short) -> None:
    last = len(top) - 1
    for begin in range(0, len(row), STEP):
        high = float32(-math.inf)
        stop = min(begin + STEP, len(row))
        for j in range(begin, stop):
            high = max(high, row[j])
        if not high > top[last]:
            continue
        for j in range(begin, stop):
            if row[j] > top[last]:
                place = last
                while place > 0 and top[place - 1] < row[j]:
                    top[place], top_id[place] = top[place - 1], top_id[place - 1]
                    place -= 1
                top[place], top_id[place] = row[j], start + j
