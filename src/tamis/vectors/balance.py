"""Rows that keep concepts in balance: targets and caps of concepts, and the rows that need says come next (CABS-DM)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.vectors.concepts import Concepts

LEAST_CAP = 10


@dataclass(frozen=True)
class Goals:
    """Of every concept (K,): the rows wanted, the rows at most, and the rows of the pool that have it."""

    targets: NDArray[np.int64]
    caps: NDArray[np.int64]
    frequency: NDArray[np.int64]


def goals_of(concepts: Concepts, rows: int, cap: int | None = None) -> Goals:
    """Targets and caps of concepts for a budget of `rows`, one family of concepts after another."""
    import numpy as np

    frequency = concepts.frequency
    targets, caps = np.zeros_like(frequency), np.zeros_like(frequency)
    for family in np.unique(concepts.family).tolist():
        own = np.flatnonzero(concepts.family == family)
        each = max(1.0, float(frequency[own].sum()) / max(1, len(concepts)))  # concepts of this family in a row
        most = cap if cap is not None else max(LEAST_CAP, -int(-2 * rows * each // len(own)))
        wanted = np.maximum(1, np.minimum(rows // len(own) + (np.arange(len(own)) < rows % len(own)), most))
        if wanted.sum() > rows:
            wanted = np.maximum(1, np.minimum((wanted * (rows / wanted.sum())).astype(np.int64), most))
        targets[own], caps[own] = wanted, most
    return Goals(targets, caps, frequency)


class Balance:
    """Concepts of m rows, goals for them, and how often each was chosen so far.

    A row is worth the mean over its concepts of (t - n) / t + 1 / F where n rows of the target t are chosen and the
    pool has F, and of `over` (at most 0) where the target is reached. Worth never grows; without a concept it is 0.
    """

    def __init__(self, concepts: Concepts, goals: Goals, over: float) -> None:
        self.concepts, self.over = concepts, over
        self._targets: list[int] = goals.targets.tolist()
        self._caps: list[int] = goals.caps.tolist()
        self._rare: list[float] = [1 / max(1, count) for count in goals.frequency.tolist()]
        self._chosen = [0] * len(self._targets)

    def worth(self, ids: tuple[int, ...]) -> float:
        """Worth of a row with these concepts."""
        total = 0.0
        for one in ids:
            target, chosen = self._targets[one], self._chosen[one]
            total += (target - chosen) / target + self._rare[one] if chosen < target else self.over
        return total / max(1, len(ids))

    def open(self, ids: tuple[int, ...]) -> bool:
        """Whether none of these concepts is at its cap."""
        return all(self._chosen[one] < self._caps[one] for one in ids)

    def take(self, ids: tuple[int, ...]) -> None:
        """Count a row as chosen."""
        for one in ids:
            self._chosen[one] += 1

    def first(self, at_random: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
        """The first `limit` rows, what each was worth when it was taken, and how many of them came by worth.

        The best come first, ties by place; when no row is left whose concepts are all below their caps, the others
        follow in the order of `at_random`, all m rows as they would be drawn.
        """
        import itertools

        import numpy as np

        taken = dict(itertools.islice(self._best(self._sets()), limit))
        best = len(taken)
        for row in at_random.tolist():
            if len(taken) == limit:
                break
            if row not in taken:
                ids = tuple(self.concepts.of(row).tolist())
                taken[row] = self.worth(ids)
                self.take(ids)
        return np.fromiter(taken, np.int64, len(taken)), np.fromiter(taken.values(), np.float64, len(taken)), best

    def _sets(self) -> dict[tuple[int, ...], list[int]]:
        """Rows, ascending, of every set of concepts but the empty one: they are worth the same throughout."""
        ids, starts = self.concepts.ids.tolist(), self.concepts.indptr.tolist()
        sets: dict[tuple[int, ...], list[int]] = {}
        for row in range(len(self.concepts)):
            if starts[row] < starts[row + 1]:
                sets.setdefault(tuple(ids[starts[row] : starts[row + 1]]), []).append(row)
        return sets

    def _best(self, sets: dict[tuple[int, ...], list[int]]) -> Iterator[tuple[int, float]]:
        """Yield (row, worth), best first: of every set the next row stands in a heap, at the worth last known."""
        heap = [(-self.worth(ids), rows[0], 0, ids) for ids, rows in sets.items()]
        heapq.heapify(heap)
        while heap:
            known, row, turn, ids = heapq.heappop(heap)
            if not self.open(ids):
                continue  # and never will be again
            worth = self.worth(ids)
            if -worth > known:  # it has fallen since
                heapq.heappush(heap, (-worth, row, turn, ids))
                continue
            self.take(ids)
            yield row, worth
            if turn + 1 < len(sets[ids]):
                heapq.heappush(heap, (-self.worth(ids), sets[ids][turn + 1], turn + 1, ids))


def said_of(concepts: Concepts, goals: Goals, rows: NDArray[np.int64], best: int) -> tuple[str, ...]:
    """How many concepts reached their targets by `rows`, and how many of these were drawn at random after `best`."""
    import numpy as np

    counts = np.bincount(np.concatenate([concepts.of(row) for row in rows]), minlength=len(goals.targets))
    within = np.minimum(goals.targets, goals.frequency)  # more than there is cannot be had
    said = (f"{int((counts >= within).sum())} of {len(counts)} concepts have as many rows as they should",)
    if len(rows) <= best:
        return said
    why = "every row left had a concept at its cap, or no concept"
    return (*said, f"{len(rows) - best} of {len(rows)} rows were drawn at random: {why}")
