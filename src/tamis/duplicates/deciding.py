"""From groups of duplicates to verdicts: who stays, in whose place the others leave, and what an index remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.duplicates.keeping import best
from tamis.duplicates.memory import Seen, keys_of, last_of, origins_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView


@dataclass(frozen=True)
class Verdicts:
    """What becomes of the rows of a pool.

    `winners` (n,) bytes: the key of the row that stays in a row's place, empty for rows that stay. `nodes` (n,) int64:
    that row by number (place in the pool, or n + entry of the index), -1 where the verdict was known before.
    """

    winners: NDArray[np.bytes_]
    nodes: NDArray[np.int64]
    seen: Seen | None = None

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """(n,) rows that leave."""
        found: NDArray[np.bool_] = self.winners != b""
        return found

    @property
    def compared(self) -> NDArray[np.int64]:
        """Places of the rows that leave by a verdict of this run; `nodes` has the others' winners not."""
        import numpy as np

        return np.flatnonzero(self.dropped & (self.nodes >= 0))

    def values(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n,) how alike each row that leaves is to its winner, from `found` for those that are `compared`."""
        import numpy as np

        values = np.full(len(self.winners), np.nan, np.float32)
        if self.seen is not None:
            settled = ~self.seen.fresh
            values[settled] = self.seen.values[self.seen.known[settled]]
        values[self.compared] = found
        return values

    def names(self) -> tuple[str, ...]:
        """Keys of the winners of the rows that leave, in order of rows."""
        return tuple(winner.decode() for winner in self.winners[self.dropped].tolist())

    def counts(self) -> dict[str, int]:
        """Groups that lost a row; rows whose verdict the index has, and rows that leave for older ones in it."""
        import numpy as np

        counts = {"groups": len(np.unique(self.winners[self.dropped]))}
        if self.seen is not None:
            counts["rows known to the index"] = int((~self.seen.fresh).sum())
            counts["dropped for rows of the index"] = int((self.nodes >= len(self.winners)).sum())
        return counts


def decide(view: PoolView, labels: NDArray[np.int64], worth: NDArray[np.float64], seen: Seen | None = None) -> Verdicts:
    """The worthiest row of every group stays; where the index has a row of the group, that one, whatever its worth.

    `labels` (n + m,): groups of the rows of the pool, then of the entries of the index.
    """
    import numpy as np

    count = len(view)
    nodes = best(labels[:count], worth).winner
    if seen is None:
        return told(view, nodes)
    entries = np.flatnonzero(seen.elder)
    groups, first = np.unique(labels[count + entries], return_index=True)
    if len(groups):
        place = np.minimum(np.searchsorted(groups, labels[:count]), len(groups) - 1)
        old = seen.fresh & (groups[place] == labels[:count])
        nodes[old] = count + entries[first[place[old]]]
    return told(view, nodes, seen)


def told(view: PoolView, nodes: NDArray[np.int64], seen: Seen | None = None) -> Verdicts:
    """Verdicts by who stays in whose place: `nodes` (n,), a row itself, another one, or n + an entry of the index.

    Of an entry that was dropped in its time, the row that stayed then; rows that the index knows keep their verdict.
    """
    import numpy as np

    keys = keys_of(view)
    count = len(keys)
    here = nodes < count
    wide = max(keys.dtype.itemsize, seen.keys.dtype.itemsize, seen.winners.dtype.itemsize) if seen else keys.itemsize
    winners = np.zeros(count, f"S{wide}")  # a shorter type would cut keys
    winners[here] = np.where(nodes[here] == np.flatnonzero(here), b"", keys[nodes[here]])
    if seen is None:
        return Verdicts(winners, nodes)
    entries = nodes[~here] - count
    winners[~here] = seen.standing(entries)
    named = last_of(seen.keys, winners[~here])
    nodes = nodes.copy()
    nodes[~here] = count + np.where(named >= 0, named, entries)
    settled = ~seen.fresh
    winners[settled] = seen.winners[seen.known[settled]]
    nodes[settled] = -1
    return Verdicts(winners, nodes, seen)


def remembered(view: PoolView, verdicts: Verdicts, values: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
    """What an index keeps of the rows decided on now, but for what they are compared by; in the order of rows."""
    import numpy as np

    assert verdicts.seen is not None
    fresh = verdicts.seen.fresh
    return {
        "key": keys_of(view)[fresh],
        "origin": origins_of(view)[fresh],
        "winner": verdicts.winners[fresh],
        "value": np.nan_to_num(values[fresh], nan=0.0).astype(np.float32),
    }
