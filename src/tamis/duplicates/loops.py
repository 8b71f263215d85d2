"""Compiled loops over characters, shingles and pairs of sets; each has a plain oracle in the tests.

numba compiles them at their first call and keeps the machine code beside the sources (or in NUMBA_CACHE_DIR); import
this module inside functions. All run on one thread and release the interpreter's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
from numba import uint32, uint64

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Wide = NDArray[np.uint64]
    Short = NDArray[np.uint32]
    Places = NDArray[np.int64]

_compiled = numba.njit(cache=True, nogil=True)
NOTHING, LETTER, ALONE, JOINT, DIGIT, BREAK, SPACE = range(7)  # classes of characters
_STEP = 0x9E3779B97F4A7C15  # those beyond 2^63 are unsigned to numba
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_ZERO = ord("0")


@numba.njit(inline="always")
def _mixed(value: Any) -> Any:
    """SplitMix64's finaliser, as `tamis.text.words.mixed`."""
    value = (value ^ (value >> uint64(30))) * _FIRST
    value = (value ^ (value >> uint64(27))) * _SECOND
    return value ^ (value >> uint64(31))


@numba.njit(inline="always")
def _with(state: Any, code: Any) -> Any:
    """The state of a word's hash after one more character."""
    state = (state + uint64(code) + uint64(1)) * _STEP
    return state ^ (state >> uint64(32))


@_compiled
def words(codes: Short, classes: NDArray[np.uint8], zero: bool, hashes: Wide, lengths: Places, ends: Places) -> int:
    """Hash the words of texts that stand one after another, each closed by a BREAK; returns how many words there are.

    `codes` (m,): characters. `ends` (texts,): filled with how many words stand before the end of each text. `hashes`,
    `lengths` (at least m): filled. With `zero`, a run of digits counts as the one digit 0.
    """
    count, text, state, length = 0, 0, uint64(0), 0
    for place in range(len(codes)):
        kind = classes[codes[place]]
        if kind == JOINT and length and place + 1 < len(codes) and classes[codes[place + 1]] in (LETTER, DIGIT):
            kind = LETTER
        if kind == LETTER or kind == DIGIT:
            length += 1
            if kind == DIGIT and zero:
                if place and classes[codes[place - 1]] == DIGIT:
                    length -= 1
                else:
                    state = _with(state, _ZERO)
            else:
                state = _with(state, codes[place])
            continue
        if length:
            hashes[count], lengths[count] = _mixed(state), length
            count, state, length = count + 1, uint64(0), 0
        if kind == ALONE:
            hashes[count], lengths[count] = _mixed(_with(uint64(0), codes[place])), 1
            count += 1
        elif kind == BREAK:
            ends[text] = count
            text += 1
    return count


@_compiled
def characters(codes: Short, classes: NDArray[np.uint8], zero: bool, hashes: Wide, ends: Places) -> int:
    """As `words`, of single characters: white space in runs counts as one character, and none at the ends of a text."""
    count, text, begun, gap = 0, 0, False, False
    for place in range(len(codes)):
        kind = classes[codes[place]]
        if kind == BREAK:
            ends[text] = count
            text, begun, gap = text + 1, False, False
        elif kind == SPACE:
            gap = begun
        elif not (zero and kind == DIGIT and place and classes[codes[place - 1]] == DIGIT):
            if gap:
                hashes[count] = _mixed(_with(uint64(0), uint64(32)))
                count += 1
            code = uint64(_ZERO) if zero and kind == DIGIT else uint64(codes[place])
            hashes[count] = _mixed(_with(uint64(0), code))
            count, begun, gap = count + 1, True, False
    return count


@_compiled
def shingle_sets(hashes: Wide, offsets: Places, n: int, salts: Wide, values: Short, ends: Places) -> int:
    """The sets of shingles of texts: every run of `n` words, as 32 bits, sorted, each once; returns their number.

    A text of fewer words has one shingle, of all of them. `salts` (texts,) are mixed into every shingle. `values` (at
    least as long as `hashes`) and `ends` (texts,) are filled.
    """
    count = 0
    for text in range(len(offsets) - 1):
        start, stop = offsets[text], offsets[text + 1]
        first = count
        run = min(n, stop - start)
        last = stop - run + 1 if run else start
        for place in range(start, last):
            state = hashes[place]
            for step in range(1, run):
                state = state * _STEP + hashes[place + step]
            if run < n:
                state = state * _STEP + uint64(run)
            values[count] = uint32(_mixed(state + salts[text]) >> uint64(32))
            count += 1
        own = values[first:count].copy()
        own.sort()
        count = first
        for place in range(len(own)):
            if place == 0 or own[place] != own[place - 1]:
                values[count] = own[place]
                count += 1
        ends[text] = count
    return count


@_compiled
def signatures(values: Short, offsets: Places, factors: Short, summands: Short, found: Short) -> None:
    """The least a_j x + b_j mod 2^32 over each set, for every j: `found` (texts, permutations), filled with EMPTY."""
    for text in range(len(offsets) - 1):
        row = found[text]
        for place in range(offsets[text], offsets[text + 1]):
            value = values[place]
            for j in range(len(factors)):
                hashed = uint32(value * factors[j] + summands[j])
                row[j] = hashed if hashed < row[j] else row[j]


@_compiled
def jaccards(values: Short, starts: Places, stops: Places, left: Places, right: Places, found: Any) -> None:
    """Jaccard similarity of pairs of sorted sets: set i is `values[starts[i]:stops[i]]`; two empty ones have 0."""
    for pair in range(len(left)):
        i, end_i = starts[left[pair]], stops[left[pair]]
        j, end_j = starts[right[pair]], stops[right[pair]]
        total, shared = (end_i - i) + (end_j - j), 0
        while i < end_i and j < end_j:
            a, b = values[i], values[j]
            shared += a == b
            i += a <= b
            j += b <= a
        union = total - shared
        found[pair] = shared / union if union else 0.0


@_compiled
def root(parents: Places, node: int) -> int:
    """The root of a node; the path to it is halved on the way."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@_compiled
def link(parents: Places, left: Places, right: Places) -> None:
    """Union of the components of every pair; the lower root stays root."""
    for pair in range(len(left)):
        one, other = root(parents, left[pair]), root(parents, right[pair])
        if one < other:
            parents[other] = one
        elif other < one:
            parents[one] = other


@_compiled
def roots(parents: Places, nodes: Places, found: Places) -> None:
    """The root of every node."""
    for place in range(len(nodes)):
        found[place] = root(parents, nodes[place])


@_compiled
def candidates(
    hashes: Wide, rows: Places, sizes: Places, parents: Places, least: float, near: int, far: int, begin: int,
    left: Places, right: Places,
) -> tuple[int, int]:  # fmt: skip
    """Pairs of `rows` that have equal `hashes` (m,), sorted, and stand from `near` to `far` places apart in them.

    Left out: pairs that are joined already, and those too unlike in size to have a similarity of `least`. Starts at
    place `begin` and fills `left` and `right` as far as all pairs of a place fit; returns their number, and where to go
    on.
    """
    count = 0
    for place in range(begin, len(hashes)):
        if count + far > len(left):
            return count, place
        for other in range(place + near, min(place + far + 1, len(hashes))):
            if hashes[other] != hashes[place]:
                break
            i, j = rows[place], rows[other]
            small, large = min(sizes[i], sizes[j]), max(sizes[i], sizes[j])
            if small and small >= least * large and root(parents, i) != root(parents, j):
                left[count], right[count] = i, j
                count += 1
    return count, len(hashes)
