"""Items found in the rows of one shard: runs of tokens by a table of their first letters, short texts whole."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.contamination.items import LEAST, SHORT
from tamis.contamination.letters import Stream
from tamis.contamination.looked import SEED, Looked, Runs
from tamis.values import text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.pool import Shard

FIELDS = ("messages", "chosen", "rejected")


@dataclass(frozen=True)
class Said:
    """Every text of the rows of a shard: `texts[i]` is message `places[i]` of field `fields[i]` of row `rows[i]`."""

    texts: list[str]
    rows: list[int]
    fields: list[str]
    places: list[int]

    @classmethod
    def of(cls, shard: Shard) -> Said:
        """The texts of a shard, rejected answers included."""
        said = cls([], [], [], [])
        table = shard.table(list(FIELDS))
        for field in FIELDS:
            for row, record in enumerate(table.column(field).to_pylist()):
                if record == "[]":
                    continue
                for place, message in enumerate(json.loads(record)):
                    if text := text_of(message):
                        said.texts.append(text)
                        said.rows.append(row)
                        said.fields.append(field)
                        said.places.append(place)
        return said


@dataclass(frozen=True, eq=False)
class Hits:
    """Places where tokens of an item stand: letters `[starts, ends)` are `tokens` tokens of `items` from `first` on.

    All (h,) int64; `whole` (h,) bool: the text was compared whole.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    items: NDArray[np.int64]
    first: NDArray[np.int64]
    tokens: NDArray[np.int64]
    whole: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Finder:
    """What is looked for, made ready: built once, used for every shard."""

    looked: Looked

    @functools.cached_property
    def _tables(self) -> tuple[tuple[int, Runs, NDArray[np.bool_], int], ...]:
        """(letters of the seed, runs, which high bits any of their seeds has, how many bits those are not)."""
        import dataclasses

        import numpy as np

        made = []
        runs = self.looked.runs
        for size, own in ((SEED, runs.lengths >= SEED), (SHORT, runs.lengths < SEED)):
            part = Runs(*(getattr(runs, field.name)[own] for field in dataclasses.fields(Runs)))
            bits = max(16, min(26, len(part.seeds).bit_length() + 5))
            known = np.zeros(1 << bits, bool)
            known[part.seeds >> np.uint64(64 - bits)] = True
            if len(part.seeds):
                made.append((size, part, known, 64 - bits))
        return tuple(made)

    def hits(self, stream: Stream) -> Hits:
        """Every place in the stream where a run or a short text of an item stands; none goes beyond one text."""
        import numpy as np

        ends = np.zeros(len(stream.letters) + 1, bool)  # letters before which a token ends
        ends[stream.tokens] = ends[stream.texts] = True
        found = [self._by_seed(stream, ends, *table) for table in self._tables]
        found.append(self._whole(stream))
        return Hits(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _by_seed(
        self, stream: Stream, ends: NDArray[np.bool_], size: int, runs: Runs, known: NDArray[np.bool_], shift: int
    ) -> tuple[NDArray[Any], ...]:
        import numpy as np

        owner = np.repeat(np.arange(len(stream.texts) - 1), np.diff(np.searchsorted(stream.tokens, stream.texts)))
        last = stream.texts[1:][owner]  # end of the text of every token
        fits = stream.tokens + size <= last
        starts, last = stream.tokens[fits], last[fits]
        seeds = stream.hashes(starts, size)
        near = known[seeds >> np.uint64(shift)]
        starts, entries, last = _expanded(runs.seeds, seeds[near], starts[near], last[near])
        stop = starts + runs.lengths[entries]
        inside = stop <= last
        starts, entries, stop = starts[inside], entries[inside], stop[inside]
        same = ends[stop]
        same[same] = stream.hashes(starts[same], runs.lengths[entries[same]]) == runs.hashes[entries[same]]
        starts, entries, stop = starts[same], entries[same], stop[same]
        own = (runs.items[entries], runs.first[entries], runs.tokens[entries])
        return (starts, stop, *own, np.zeros(len(starts), bool))

    def _whole(self, stream: Stream) -> tuple[NDArray[Any], ...]:
        """Short texts from border to border of a text; of fewer than LEAST tokens lines, and of one or two messages."""
        import numpy as np

        wholes = self.looked.wholes
        borders = stream.borders[stream.borders < len(stream.letters)]
        text = stream.text_of(borders)
        last, alone = stream.texts[text + 1], borders == stream.texts[text]
        border, line = (np.zeros(len(stream.letters) + 1, bool) for _ in range(2))
        border[stream.borders] = line[stream.lines] = True
        found: list[tuple[NDArray[Any], ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for length in np.unique(wholes.lengths).tolist():
            fits = np.flatnonzero(borders + length <= last)
            fits = fits[border[borders[fits] + length]]
            starts, entries, own = _expanded(wholes.hashes, stream.hashes(borders[fits], length), borders[fits], fits)
            tokens, filled = wholes.tokens[entries], alone[own] & (starts + length == last[own])
            good = filled | (tokens >= LEAST) | (line[starts] & line[starts + length] & (tokens > 2))
            found.append((starts[good], entries[good]))
        starts, entries = (np.concatenate(parts) for parts in zip(*found, strict=True))
        of = (wholes.items[entries], wholes.first[entries], wholes.tokens[entries])
        return (starts, starts + wholes.lengths[entries], *of, np.ones(len(starts), bool))


def _expanded(
    table: NDArray[np.uint64], wanted: NDArray[np.uint64], *beside: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For every entry of the sorted table that is one of `wanted`: the arrays beside that, the entry second."""
    import numpy as np

    left, right = (np.searchsorted(table, wanted, side=side) for side in ("left", "right"))
    times = right - left
    begun = np.cumsum(times) - times
    entries = np.repeat(left - begun, times) + np.arange(int(times.sum()))
    starts, other = (np.repeat(one, times) for one in beside)
    return starts, entries, other


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of a shard with an item that enough of was found: (p,) row, item, coverage in (0, 1]; `whole` as in Hits.

    `stem` (p,) bool: it is the part in front of the choices that enough of was found. `hits[i]` are the places of pair
    i in the Hits, by token of the item.
    """

    rows: NDArray[np.int64]
    items: NDArray[np.int64]
    coverage: NDArray[np.float64]
    whole: NDArray[np.bool_]
    stem: NDArray[np.bool_]
    hits: Sequence[NDArray[np.int64]]


def pairs_of(hits: Hits, rows: NDArray[np.int64], looked: Looked, needed: float) -> Pairs:
    """Rows and items of which at least the share `needed` of the tokens that count was found; all of a strict one.

    Of an item with choices that share of the tokens in front of them is enough. `rows` (h,): the row of every hit.
    Tokens found in several messages of a row add up.
    """
    import numpy as np

    order = np.lexsort((hits.first, hits.items, rows))
    row, item = rows[order], hits.items[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    begun = np.flatnonzero(fresh)
    pair = np.cumsum(fresh) - 1
    start = looked.starts[item] + hits.first[order]
    runs = ~hits.whole[order]
    whole = np.logical_or.reduceat(hits.whole[order], begun) if len(begun) else np.zeros(0, bool)
    first_of = item[begun]
    shares = [np.where(whole, 1.0, 0.0)]
    for counted in (looked.counted, looked.counted_stems):
        covered = _covered(start[runs], hits.tokens[order][runs], pair[runs], counted, len(begun))
        sizes = counted[looked.starts[first_of + 1]] - counted[looked.starts[first_of]]
        shares.append(covered / np.maximum(1, sizes))
    strict = looked.strict[first_of]
    most = np.maximum(shares[0], shares[1])
    stem = (shares[2] > most) & ~strict  # the question alone is enough, whatever is there of its choices
    share = np.where(stem, shares[2], most)
    places = np.split(order, begun[1:]) if len(begun) else []
    kept = np.flatnonzero(share >= np.where(strict, 1.0, needed))
    return Pairs(
        row[begun][kept],
        first_of[kept],
        share[kept],
        whole[kept],
        stem[kept],
        [places[place] for place in kept.tolist()],
    )


def _covered(
    start: NDArray[np.int64],
    tokens: NDArray[np.int64],
    pair: NDArray[np.int64],
    counted: NDArray[np.int64],
    pairs: int,
) -> NDArray[np.int64]:
    """(pairs,) tokens that count in the union of runs of each pair; runs of a pair are of one length, in order."""
    import numpy as np

    end = start + tokens
    follows = np.zeros(len(start), bool)
    follows[:-1] = pair[1:] == pair[:-1]
    reach = end.copy()
    reach[follows] = np.minimum(end[follows], start[1:][follows[:-1]])
    return np.bincount(pair, counted[reach] - counted[start], minlength=pairs).astype(np.int64)
