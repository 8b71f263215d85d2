"""Numbers of an item and of the row that holds its words: the same, or others?"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.contamination.letters import Stream, folded, offsets_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.contamination.finding import Hits, Pairs, Said
    from tamis.contamination.items import Item
    from tamis.contamination.looked import Looked

DIGITS = 4  # of a number that is another one
OPERATORS = frozenset("+-*/=<>^\u00d7\u00f7\u2212\u2264\u2265")
_NUMBER = re.compile(r"\d+")
offsets = functools.lru_cache(maxsize=64)(offsets_of)


@dataclass(frozen=True, eq=False)
class Where:
    """Hits, the text that holds each, and the first letter of every text."""

    hits: Hits
    texts: NDArray[np.int64]
    begun: NDArray[np.int64]


def other_numbers(pairs: Pairs, number: int, where: Where, said: Said, looked: Looked) -> bool:
    """Whether the row of a pair has other numbers than the item: one is another, or they are cut otherwise."""
    item, own = looked.items[int(pairs.items[number])], pairs.hits[number].tolist()
    return (
        _is_another(pairs, number, where.hits, said, looked)
        or any(_is_cut_otherwise(item, where, hit, said) for hit in own)
        or _is_part_of_another(item, where, own, said)
    )


def _is_another(pairs: Pairs, number: int, hits: Hits, said: Said, looked: Looked) -> bool:
    """Whether a number of the item is another one in the row.

    That is a number that counts, was not found, and stands in no text of the row; between two runs that were found, or
    so near the item's beginning or end that one changed word explains that no run was found there. Where more is
    missing, as the choices behind a question, it is missing and not changed.
    """
    import numpy as np

    own, item = pairs.hits[number], int(pairs.items[number])
    start, end = int(looked.starts[item]), int(looked.starts[item + 1])
    found = np.zeros(end - start, bool)
    for first, tokens in zip(hits.first[own].tolist(), hits.tokens[own].tolist(), strict=True):
        found[first : first + tokens] = True
    counts = looked.stems if pairs.stem[number] else looked.counts
    lost = np.flatnonzero(~found & looked.numbers[start:end] & counts[start:end])
    if pairs.whole[number] or not len(lost):
        return False
    inside, size = np.flatnonzero(found), looked.rules.n + DIGITS
    first, last = int(inside[0]), int(inside[-1])
    lost = lost[((lost > first) | (first < size)) & ((lost < last) | (end - start - 1 - last < size))]
    layout = _layout(looked.items[item])
    wanted = {layout.number(place) for place in lost.tolist()}
    if not wanted:
        return False
    row = int(pairs.rows[number])
    return not wanted <= _numbers(
        tuple(text for text, owner in zip(said.texts, said.rows, strict=True) if owner == row)
    )


class _Layout:
    """An item letter by letter: where they stand, the letter that each token begins with, digits behind a digit."""

    def __init__(self, item: Item) -> None:
        stream = Stream.of([item.text])
        letters, self.places = offsets_of(item.text)
        self.begins = [*stream.tokens.tolist(), len(letters)]
        self.letters, self.text = letters, item.text
        pairs = range(1, len(letters))
        self.digits = [place for place in pairs if letters[place].isdecimal() and letters[place - 1].isdecimal()]

    def is_open(self, letter: int) -> bool:
        """Whether white space stands in front of a letter, which no edit of punctuation takes away."""
        return any(one.isspace() for one in self.text[self.places[letter - 1] + 1 : self.places[letter]])

    def number(self, token: int) -> str:
        """The number that a digit is part of."""
        start = end = self.begins[token]
        while start in self.digits and _gap(self.text, self.places, start) is None:
            start -= 1
        while end + 1 in self.digits and _gap(self.text, self.places, end + 1) is None:
            end += 1
        return self.letters[start : end + 1]

    def pieces(self, start: int, end: int, begun: int, text: str) -> tuple[int, int]:
        """Digits at the start and at the end of a run that begin or end a number here, and are amid one in a text.

        The run is the letters `start` to `end` of the item, and begins at the letter `begun` of the text.
        """
        letters, places = offsets(text)
        stop, head, tail = begun + end - start, 0, 0
        if start == 0 or not self.letters[start - 1].isdecimal():
            if begun and letters[begun - 1].isdecimal() and _gap(text, places, begun) is None:
                head = _digits(self.letters[start:end])
        if end == len(self.letters) or not self.letters[end].isdecimal():
            if stop < len(letters) and letters[stop].isdecimal() and _gap(text, places, stop) is None:
                tail = _digits(self.letters[start:end][::-1])
        return head, tail


def _digits(letters: str) -> int:
    """How many digits some letters begin with."""
    return next((place for place, letter in enumerate(letters) if not letter.isdecimal()), len(letters))


_layout = functools.lru_cache(maxsize=4096)(_Layout)


def _is_cut_otherwise(item: Item, where: Where, hit: int, said: Said) -> bool:
    """Whether "1 23" stands for "12 3", or "2 + 3" for "2 - 3", in one run that was found in a text.

    That the text has fewer gaps than the item or more is no other number: "1,200" is "1200", but "1 2" is not "12".
    """
    layout, hits, number = _layout(item), where.hits, int(where.texts[hit])
    start, end = (layout.begins[int(hits.first[hit] + more)] for more in (0, hits.tokens[hit]))
    digits = layout.digits[bisect.bisect_right(layout.digits, start) : bisect.bisect_left(layout.digits, end)]
    if not digits:
        return False
    text, begun = said.texts[number], int(hits.starts[hit] - where.begun[number])
    _, places = offsets(text)
    more, fewer = False, False
    for place in digits:
        own = _gap(layout.text, layout.places, place)
        there = _gap(text, places, place - start + begun)
        more, fewer = more or (there is not None and own is None), fewer or (there is None and own is not None)
        if own and there and own != there:
            return True
        if there is None and own is not None and layout.is_open(place):
            return True
    return more and fewer


def _is_part_of_another(item: Item, where: Where, own: Sequence[int], said: Said) -> bool:
    """Whether a number of the item is found as a piece of a longer one only: "8 pies" in "4225558 pies"."""
    layout, hits = _layout(item), where.hits
    whole: set[int] = set()  # letters of the item that are found, and not as such a piece
    pieces: set[int] = set()
    for hit in own:
        start, end = (layout.begins[int(hits.first[hit] + more)] for more in (0, hits.tokens[hit]))
        number = int(where.texts[hit])
        begun = int(hits.starts[hit] - where.begun[number])
        head, tail = layout.pieces(start, end, begun, said.texts[number])
        pieces |= {*range(start, start + head), *range(end - tail, end)}
        whole |= set(range(start + head, end - tail))
    return not pieces <= whole


def _gap(text: str, places: Sequence[int], letter: int) -> frozenset[str] | None:
    """The operators between a letter and the one before it; None where nothing stands between them."""
    first, last = places[letter - 1] + 1, places[letter]
    return frozenset(text[first:last]) & OPERATORS if last > first else None


@functools.lru_cache(maxsize=16)
def _numbers(texts: tuple[str, ...]) -> frozenset[str]:
    """Every number in some texts."""
    return frozenset(number for text in texts for number in _NUMBER.findall(folded(text)))
