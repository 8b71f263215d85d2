"""Near-duplicates in one pool and in what was seen before: bands, verified pairs, components."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tamis.duplicates.bands import WINDOW, band_hashes, crowded, encounters
from tamis.duplicates.joining import Joining
from tamis.duplicates.sets import Sets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Signatures = Callable[[], Iterable[NDArray[np.uint32]]]

_AT_ONCE = 8_000_000  # band hashes in memory at once (64 MB)
_PAIRS = 1_000_000  # pairs that are held before they are verified


@dataclass(frozen=True)
class Elders:
    """Rows seen before: for every band their sorted hashes and the set that each belongs to, by number."""

    sorted_: NDArray[np.uint64]  # (bands, m)
    members: NDArray[np.int64]  # (bands, m)


@dataclass(frozen=True)
class Layout:
    """How signatures are read: `bands` of `rows` values, and the least similarity of duplicates."""

    bands: int
    rows: int
    threshold: float


@dataclass(frozen=True)
class Found:
    """Components: `labels` (n,) int64, the lowest row of each row's component, over all sets (elders behind the pool).

    `counts`: pairs verified and joined, and rows in bands too crowded to be compared in full.
    """

    labels: NDArray[np.int64]
    counts: dict[str, int] = field(default_factory=dict)


def components(signatures: Signatures, sets: Sets, layout: Layout, elders: Sequence[Elders] = ()) -> Found:
    """Components of rows of which some pair shares a band and is verified to be as alike as the threshold asks.

    `signatures` gives one array a shard, in order, as often as it is called. `sets`: of the pool's rows, then of all
    `elders`. The outcome depends neither on shards nor on the order in which bands are read.
    """
    import numpy as np

    whole = np.concatenate([np.zeros(0, np.uint64), *[band_hashes(one, 1, one.shape[1])[:, 0] for one in signatures()]])
    count = len(whole)
    joining, crowd = Joining(sets, layout.threshold), 0
    _join(joining, whole, np.arange(count), least=1.0)
    twins = joining.roots(np.arange(count)) != np.arange(count)
    own = np.flatnonzero(~twins & (sets.sizes[:count] > 0))  # equal sets are stood in for by the first
    for bands in _blocks(signatures, layout, count):
        for number, hashes in bands:
            _join(joining, hashes[own], own)
            crowd = max(crowd, crowded(hashes[own]))
            for elder in elders:
                rows, places = encounters(elder.sorted_[number], hashes[own])
                joining.take(own[rows], elder.members[number][places])
    counts = {"pairs verified": joining.verified, "pairs joined": joining.joined, "rows in crowded bands": crowd}
    return Found(joining.roots(np.arange(len(sets))), counts)


def _blocks(signatures: Signatures, layout: Layout, count: int) -> Iterator[list[tuple[int, NDArray[np.uint64]]]]:
    """Bands by number, some at a time, so that their hashes fit in memory whatever the number of rows."""
    import numpy as np

    at_once = max(1, _AT_ONCE // max(1, count))
    for start in range(0, layout.bands, at_once):
        stop = min(layout.bands, start + at_once)
        values = slice(start * layout.rows, stop * layout.rows)
        parts = [band_hashes(part[:, values], stop - start, layout.rows) for part in signatures()]
        hashes = np.concatenate([np.zeros((0, stop - start), np.uint64), *parts])
        yield [(band, np.ascontiguousarray(hashes[:, band - start])) for band in range(start, stop)]


def _join(joining: Joining, hashes: NDArray[np.uint64], rows: NDArray[np.int64], least: float | None = None) -> None:
    """Verify the pairs of one band: neighbours first, so that most of the others need not be."""
    import numpy as np

    from tamis.duplicates import loops

    order = np.argsort(hashes, kind="stable")
    sorted_, rows = hashes[order], rows[order]
    left, right = np.empty(_PAIRS, np.int64), np.empty(_PAIRS, np.int64)
    lower = (joining.threshold if least is None else least) - 1e-6
    for near, far in ((1, 1), (2, WINDOW)):
        begin = 0
        while begin < len(rows):
            count, begin = loops.candidates(
                sorted_, rows, joining.sets.sizes, joining.parents, lower, near, far, begin, left, right
            )
            joining.take(left[:count].copy(), right[:count].copy(), least)
