"""Anchors: the few rows that every row of a pool is tried on, drawn by key or spread over the pool by k-means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.demonstrations.utility import Measured

Stop = Literal["never", "certain", "hoeffding"]
_ROUNDS = 20
_BLOCK = 4096


def spread(vectors: NDArray[np.float32], draws: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Places (at most `count`, ascending) of the rows nearest to each centre of k-means over (n, d) vectors.

    Euclidean, 20 rounds of Lloyd's algorithm from k-means++; a cluster that runs empty keeps its centre. The order of
    rows changes the outcome by rounding alone. With at most `count` rows, all of them. Time O(n d count) a round,
    memory O(n d).
    """
    import numpy as np

    if len(vectors) <= count:
        return np.arange(len(vectors))
    order = np.argsort(draws, kind="stable")
    ordered = vectors[order].astype(np.float64)
    centres = _begin(ordered, draws[order], count)
    for _ in range(_ROUNDS):
        labels, _ = _nearest(ordered, centres)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, ordered)
        held = np.bincount(labels, minlength=count)
        moved = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    labels, far = _nearest(ordered, centres)
    best = np.lexsort((np.arange(len(far)), far, labels))
    first = np.unique(labels[best], return_index=True)[1]
    return np.sort(order[best[first]])


def _begin(rows: NDArray[np.float64], draws: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """k-means++: the first row, then rows in proportion to their squared distance from the nearest before them.

    Of exponential waiting times at that rate the first comes; they hang on the rows' own draws, not on their order.
    """
    import numpy as np

    from tamis.draws import at, uniform

    centres = [rows[0]]
    far = np.full(len(rows), np.inf)
    for number in range(1, count):
        far = np.minimum(far, ((rows - centres[-1]) ** 2).sum(axis=1))
        waits = -np.log1p(-uniform(at(draws, number)))
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(far > 0, waits / far, np.inf)
        centres.append(rows[int(times.argmin())])
    return np.stack(centres)


def _nearest(rows: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centre of every row, and the squared distance to it less the row's own square."""
    import numpy as np

    labels, far = np.empty(len(rows), np.int64), np.empty(len(rows))
    lengths = (centres**2).sum(axis=1)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        distances = np.round(lengths - 2 * rows[part] @ centres.T, 9)  # equal rows tie, whatever their block
        labels[part] = distances.argmin(axis=1)
        far[part] = distances[np.arange(len(distances)), labels[part]] + (rows[part] ** 2).sum(axis=1)
    return labels, np.round(far, 9)


@dataclass(frozen=True)
class Race:
    """Rows tried on anchors, a `block` of them a round, until their share of wins can be told from `threshold`.

    `row` (p,) of every pair, ascending; `bare` (p,) loss of its anchor without a demonstration. A row leaves the race
    where its share of wins over all anchors that it can be tried on must fall (`certain`), or falls with a probability
    of at least 1 - `delta` (`hoeffding`, over all rounds together), below `threshold`. Rows that stay are tried on
    every anchor.
    """

    row: NDArray[np.int64]
    bare: NDArray[np.float32]
    stop: Stop
    threshold: float
    delta: float
    block: int

    def rounds(self, mine: NDArray[np.int64], found: Measured) -> Iterator[NDArray[np.int64]]:
        """Pairs of a round, among `mine`, of the rows that are still in; `found` holds the losses measured so far."""
        import numpy as np

        if self.stop == "never":
            yield mine
            return
        mine = np.sort(mine)
        rows, place = np.unique(self.row[mine], return_inverse=True)
        possible = np.bincount(place)
        turn = np.arange(len(mine)) - (np.cumsum(possible) - possible)[place]
        inside = np.ones(len(rows), np.bool_)
        looks = -(-int(possible.max(initial=0)) // self.block)
        for number in range(looks):
            yield mine[inside[place] & (turn // self.block == number)]
            nll = found.nll[mine]
            asked = np.bincount(place, np.isfinite(nll), len(rows))
            won = np.bincount(place, nll < self.bare[mine], len(rows))
            inside &= self._bound(won, asked, possible, looks) >= self.threshold

    def _bound(
        self, won: NDArray[Any], asked: NDArray[Any], possible: NDArray[np.int64], looks: int
    ) -> NDArray[np.float64]:
        """(rows,) what the share of wins can still come to."""
        import numpy as np

        most: NDArray[np.float64] = (won + possible - asked) / possible
        if self.stop == "certain":
            return most
        slack = np.sqrt(np.log(looks / self.delta) / (2 * np.maximum(asked, 1)))
        likely: NDArray[np.float64] = np.minimum(most, won / np.maximum(asked, 1) + slack)
        return likely
