"""Texts as streams of letters: what is left of them without case, diacritics, punctuation and white space.

Two texts that differ in those alone have one stream, however the edit went: "Wendi's $1,200" is `wendis1200`, and so
are "wendi s 1 200" and "WENDIS 1200". Numbers stay. Tokens are marked in the stream, not cut from it, so that a lost
space or apostrophe hides no more than the token that it stood in. A token is a run of letters, a digit, or a character
of a script without spaces.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.text.words import mixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BETWEEN, LETTER, DIGIT, ALONE, DROPPED, APOSTROPHE, STOP, LINE = range(8)  # what a character is
_BASE = 0x9E3779B97F4A7C15  # of the polynomial by which runs of letters are hashed; odd
_BACK = pow(_BASE, -1, 2**64)
_ALONE: tuple[tuple[int, int], ...] = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)),
    (0x20000, 0x3FFFF),
)  # Thai and Lao, Burmese, Khmer, kana, Han


def folded(text: str) -> str:
    """Compatible characters in their plain form, in lower case; diacritics stand apart as characters of their own.

    >>> folded("ÉLAN Ⅳ ½")
    'e\u0301lan iv 1\u20442'
    """
    return text.lower() if text.isascii() else unicodedata.normalize("NFKD", text).casefold()


@functools.cache
def classes() -> NDArray[np.uint8]:
    """What every code point is."""
    import numpy as np

    found = np.fromiter(map(_class_of, map(chr, range(0x110000))), np.uint8, 0x110000)
    for first, last in _ALONE:
        part = found[first : last + 1]
        part[part == LETTER] = ALONE
    found[[ord("'"), 0x2019, 0x02BC]] = APOSTROPHE
    found[[ord("\n"), ord("\r"), 0x2028, 0x2029]] = LINE
    found[[ord(mark) for mark in ".!?:;。\uff01\uff1f\uff1a\u061f"]] = STOP
    return found


def _class_of(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M":  # vowel signs of Indic scripts are letters, accents are not
        return DROPPED if unicodedata.combining(character) else LETTER
    if category == "Cf":  # soft hyphens, joiners, marks of byte order
        return DROPPED
    return {"L": LETTER, "N": DIGIT}.get(category[0], BETWEEN)


@dataclass(frozen=True, eq=False)
class Stream:
    """The letters of some texts, one behind the other.

    `letters` (m,) uint32 code points. `texts` (t + 1,) int64: text i has the letters `[texts[i], texts[i + 1])`.
    `tokens` (k,) int64: the letter that every token begins with, in order. `lines` (l,) int64: letters before which a
    text or a line begins or ends (0 to m, in order); `borders` (b,): those, and ends of sentences, and colons.
    """

    letters: NDArray[np.uint32]
    texts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    lines: NDArray[np.int64]
    borders: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Stream:
        """The stream of these texts."""
        import numpy as np

        plain = [folded(text) for text in texts]
        whole = "\n".join([*plain, ""])
        codes = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), "<u4")
        ends = np.cumsum([len(text) + 1 for text in plain]) if plain else np.zeros(0, np.int64)
        kinds = classes()[codes]
        if not whole.isascii():
            kept = kinds != DROPPED
            ends = np.cumsum(kept)[ends - 1]
            codes, kinds = codes[kept], kinds[kept]
        spoken = (kinds >= LETTER) & (kinds <= ALONE)
        places = np.flatnonzero(spoken)
        before = np.concatenate([[0], np.cumsum(spoken)])  # letters in front of every character
        bounds = np.concatenate([[0], before[ends]]).astype(np.int64)
        lines, borders = (
            np.unique(np.concatenate([bounds, before[np.flatnonzero(kinds >= one)]])) for one in (LINE, STOP)
        )
        return cls(codes[places], bounds, _tokens(kinds, places), lines, borders)

    @functools.cached_property
    def sums(self) -> NDArray[np.uint64]:
        """(m + 1,) sums of the letters' values times powers of the base, modulo 2^64."""
        import numpy as np

        values = mixed(self.letters.astype(np.uint64) + np.uint64(_BASE))
        powers, _ = _powers(self._longest)
        running = np.cumsum(values * powers[self.inside[:-1]])
        sums: NDArray[np.uint64] = np.concatenate([np.zeros(1, np.uint64), running])
        return sums

    @functools.cached_property
    def inside(self) -> NDArray[np.int64]:
        """(m + 1,) place of every letter in its text; behind the last one 0."""
        import numpy as np

        starts = np.append(np.repeat(self.texts[:-1], np.diff(self.texts)), len(self.letters))
        places: NDArray[np.int64] = np.arange(len(self.letters) + 1) - starts
        return places

    @property
    def _longest(self) -> int:
        """Letters of the longest text and one more, rounded up so that few tables of powers are made."""
        import numpy as np

        longest = max(np.diff(self.texts).tolist(), default=0) + 1
        return 1 << max(12, longest.bit_length())

    def hashes(self, starts: NDArray[np.int64], lengths: NDArray[np.int64] | int) -> NDArray[np.uint64]:
        """64-bit hashes of the runs of so many letters that begin at `starts`: equal for equal runs, wherever."""
        import numpy as np

        _, back = _powers(self._longest)
        run = (self.sums[starts + lengths] - self.sums[starts]) * back[self.inside[starts]]
        return mixed(run + np.asarray(lengths).astype(np.uint64) * np.uint64(_BACK))

    def text_of(self, letters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the text that holds each of these letters."""
        import numpy as np

        return np.asarray(np.searchsorted(self.texts, letters, side="right") - 1, np.int64)


def _tokens(kinds: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Letters with which tokens begin: behind a gap, every digit, and in scripts without spaces every character.

    An apostrophe between two letters is no gap.
    """
    import numpy as np

    if not len(places):
        return np.zeros(0, np.int64)
    own, gap = kinds[places], np.diff(places)
    joined = (gap == 2) & (kinds[places[1:] - 1] == APOSTROPHE) & (own[1:] == LETTER) & (own[:-1] == LETTER)
    begins = ((gap > 1) & ~joined) | (own[1:] != own[:-1]) | (own[1:] != LETTER)
    return np.flatnonzero(np.concatenate([[True], begins])).astype(np.int64)


@functools.lru_cache(maxsize=2)
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(size,) powers of the base and of its inverse modulo 2^64."""
    import numpy as np

    made = []
    for base in (_BASE, _BACK):
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        made.append(np.cumprod(factors))
    return made[0], made[1]


def offsets_of(text: str) -> tuple[str, list[int]]:
    """The letters of one text, and for each the character of the text that it came from; slow, for what was found."""
    letters: list[str] = []
    places: list[int] = []
    kinds = classes()
    for place, character in enumerate(text):
        for one in folded(character):
            if LETTER <= kinds[ord(one)] <= ALONE:
                letters.append(one)
                places.append(place)
    return "".join(letters), places
