"""What of a response a demonstration holds word for word: the part of in-context utility that needs no model to see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.ragged import Ragged

SINGLE = 0.1  # what a token alone weighs beside a token with the one before it: a model copies what it can continue


@dataclass(frozen=True)
class Copies:
    """Which demonstrations hold which tokens and pairs of tokens.

    `codes` (f,) int64 ascending: a token's id, or below 0 for a pair of tokens; `offsets` (f + 1,) into `holders`, the
    numbers of the demonstrations that hold it; `weights` (f,) float64, ln(m / holders), a pair's, or a tenth of it, a
    token's: what all of the m demonstrations hold weighs nothing.
    """

    codes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    holders: NDArray[np.int64]
    weights: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, shown: Ragged, numbers: NDArray[np.int64]) -> Copies:
        """Read the demonstrations `shown[numbers]`. Time O(t log t) over their t tokens, memory O(t)."""
        import numpy as np

        nothing = np.zeros(0, np.int64)
        held = [np.unique(np.concatenate([ids, _pairs(ids[:-1], ids[1:])])) for ids in _wide(shown, numbers)]
        found = np.concatenate([nothing, *held])
        holders = np.repeat(np.arange(len(held)), [len(one) for one in held])
        order = np.argsort(found, kind="stable")
        codes, starts = np.unique(found[order], return_index=True)
        offsets = np.append(starts, len(found)).astype(np.int64)
        weights = np.log(max(len(numbers), 1) / np.diff(offsets)) * np.where(codes < 0, 1.0, SINGLE)
        return cls(codes, offsets, holders[order], weights, len(numbers))

    def shares(self, queries: Ragged, scored: Ragged, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
        """For every query (m,) the share of its scored tokens, by weight, that each demonstration holds: 0 to 1.

        A token counts alone and with the token before it. Time O(number of holders of all of them).
        """
        import numpy as np

        for ids, number in zip(_wide(queries, numbers), numbers, strict=True):
            at = np.flatnonzero(scored[int(number)])
            wanted = np.concatenate([ids[at], _pairs(ids[at - 1], ids[at])])
            places = np.minimum(np.searchsorted(self.codes, wanted), max(len(self.codes) - 1, 0))
            places = places[self.codes[places] == wanted] if len(self.codes) else places[:0]
            places, times = np.unique(places[self.weights[places] > 0], return_counts=True)
            starts, lengths = self.offsets[places], np.diff(self.offsets)[places]
            shift = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
            held = self.holders[np.arange(len(shift)) + shift]
            worth = np.repeat(self.weights[places] * times, lengths)
            total = float(self.weights[places] @ times)
            yield np.bincount(held, worth, self.count) / max(total, 1e-12)


def _wide(lists: Ragged, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    import numpy as np

    return (np.asarray(lists[int(number)]).astype(np.int64) for number in numbers)


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes of pairs of tokens, all below 0; ids are below 2³¹."""
    return -1 - ((first << 31) | second)
