"""How much of a text repeats itself, as Gopher measures it, for all texts of a shard at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.text.words import STEP, Flat, mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Repeated:
    """N-grams that stand in their text more than once, by group of equal ones.

    `starts` (k,) int64 place of the first word of each, ascending inside a group; `group` (k,) int64, ascending;
    `times` (groups,) int64.
    """

    n: int
    starts: NDArray[np.int64]
    group: NDArray[np.int64]
    times: NDArray[np.int64]


def shares(
    flat: Flat, top: Collection[int], duplicate: Collection[int]
) -> tuple[dict[int, NDArray[np.float64]], dict[int, NDArray[np.float64]]]:
    """By n, `top_share` and `duplicate_share` of every text.

    A longer n-gram can only repeat where its beginning does: each n looks at what the n before left, so that ten
    lengths cost little more than one.
    """
    import numpy as np

    text, ends = flat.text, np.concatenate([[0], np.cumsum(flat.lengths)])
    stop = flat.offsets[1:][text] if len(text) else text
    starts = np.arange(len(flat.hashes))
    keys = mixed(flat.hashes ^ mixed(text.astype(np.uint64) + np.uint64(1)))  # equal only inside one text
    tops, duplicates = {}, {}
    for n in range(2, max([*top, *duplicate]) + 1):
        fits = starts + n <= stop[starts]
        starts, keys = starts[fits], keys[fits]
        keys = keys * np.uint64(STEP) + flat.hashes[starts + n - 1]
        found, starts, keys = _repeated(n, mixed(keys), starts, keys)
        if n in top:
            tops[n] = top_share(flat, found, ends)
        if n in duplicate:
            duplicates[n] = duplicate_share(flat, found, ends)
    return tops, duplicates


def top_share(flat: Flat, found: Repeated, ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """(texts,) share of a text's word characters that its most frequent n-gram makes up; 0 where none repeats.

    Of n-grams equally frequent the longest counts. At most 1, though occurrences may overlap. Gopher (Rae et al. 2021,
    table A1). A single occurrence does not count: else every text of `n` words would be one repetition.
    """
    import numpy as np

    answer = np.zeros(len(flat.offsets) - 1)
    first = found.starts[np.r_[True, np.diff(found.group) > 0]] if len(found.starts) else found.starts
    size, text = ends[first + found.n] - ends[first], flat.text[first]
    best = np.lexsort((size, found.times, text))
    answer[text[best]] = (found.times * size)[best]  # the last of a text stays
    return np.minimum(1.0, answer / np.maximum(_characters(flat, ends), 1))


def duplicate_share(flat: Flat, found: Repeated, ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """(texts,) share of a text's word characters inside n-grams that stood in it before, each character once.

    Gopher's rule counts "characters contained within all duplicate n-grams", without counting overlaps twice. The
    first occurrence is not counted; datatrove in addition skips the n words after a repetition, which counts less.
    """
    import numpy as np

    later = found.starts[1:][np.diff(found.group) == 0]
    change = np.zeros(len(flat.hashes) + 1, np.int64)
    change[later] += 1
    change[later + found.n] -= 1
    covered = np.cumsum(change)[:-1] > 0
    inside = np.bincount(flat.text[covered], weights=flat.lengths[covered], minlength=len(flat.offsets) - 1)
    return np.asarray(inside / np.maximum(_characters(flat, ends), 1))


def _repeated(
    n: int, hashes: NDArray[np.uint64], starts: NDArray[np.int64], keys: NDArray[np.uint64]
) -> tuple[Repeated, NDArray[np.int64], NDArray[np.uint64]]:
    """N-grams that occur twice at least; and of these, ascending by place, what the next n needs."""
    import numpy as np

    order = np.argsort(hashes)
    same = hashes[order][1:] == hashes[order][:-1]
    again = order[np.r_[same, False] | np.r_[False, same]] if len(order) else order
    again = again[np.lexsort((starts[again], hashes[again]))]
    new = np.r_[True, hashes[again][1:] != hashes[again][:-1]][: len(again)]
    group = np.cumsum(new) - 1
    there = np.sort(again)
    return Repeated(n, starts[again], group, np.bincount(group)), starts[there], keys[there]


def _characters(flat: Flat, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    return np.asarray(np.diff(ends[flat.offsets]))
