"""Words of a text, and 64-bit hashes of them that are the same on every machine and in every process."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WITHOUT_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han characters
WORD = re.compile(rf"[^\W{_WITHOUT_SPACES}]+(?:['\u2019][^\W{_WITHOUT_SPACES}]+)*|[{_WITHOUT_SPACES}]")
_NUMBER = re.compile(r"\d+")
Numbers = Literal["keep", "zero"]
STEP = 0x9E3779B97F4A7C15  # by which a hash is multiplied before the next word is added


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in order; a Chinese or Japanese character is a word of its own.

    >>> words_of("Don't stop: 3.5 km, 你好!")
    ["Don't", 'stop', '3', '5', 'km', '你', '好']
    """
    return WORD.findall(text)


def plain(text: str, numbers: Numbers = "keep") -> str:
    """Lower case without diacritics; with `zero` every number is 0, as datatrove has it.

    The default keeps numbers, for two sums that differ in them alone are two rows of training data.

    >>> plain("Élan 42"), plain("Élan 42", "zero")
    ('elan 42', 'elan 0')
    """
    if text.isascii():
        made = text.lower()
    else:
        apart = unicodedata.normalize("NFKD", text)
        made = "".join(letter for letter in apart if not unicodedata.combining(letter)).casefold()
    return _NUMBER.sub("0", made) if numbers == "zero" else made


def raw_bytes(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which JSON can bring, is passed through."""
    return text.encode("utf-8", "surrogatepass")


class WordHashes(dict[str, int]):
    """Word -> 64-bit BLAKE2b, remembered."""

    def __missing__(self, word: str) -> int:
        found = int.from_bytes(hashlib.blake2b(raw_bytes(word), digest_size=8).digest(), "little")
        self[word] = found
        return found


@dataclass(frozen=True)
class Flat:
    """Words of n texts in one array. Text i is `hashes[offsets[i]:offsets[i + 1]]`; `lengths` in characters."""

    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], known: WordHashes | None = None) -> Flat:
        """Hash the words of every text."""
        import numpy as np

        known = WordHashes() if known is None else known
        total = sum(map(len, texts))
        offsets = np.concatenate([[0], np.cumsum([len(words) for words in texts])]).astype(np.int64)
        every = [word for words in texts for word in words]
        return cls(
            np.fromiter((known[word] for word in every), np.uint64, total),
            np.fromiter(map(len, every), np.int64, total),
            offsets,
        )

    @property
    def text(self) -> NDArray[np.int64]:
        """(m,) number of the text of every word."""
        import numpy as np

        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit of the answer depends on every bit of the value."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def ngrams(flat: Flat, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all runs of `n` words inside a text, in order, and the place of the first word of each.

    Two runs of equal words have equal hashes wherever they stand; others differ but for chance (2^-64 a pair).
    """
    import numpy as np

    count = len(flat.hashes) - n + 1
    if count <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    made = flat.hashes[:count].copy()
    for step in range(1, n):
        made = made * np.uint64(STEP) + flat.hashes[step : step + count]
    text = flat.text
    starts = np.flatnonzero(text[:count] == text[n - 1 :])
    return mixed(made[starts]), starts
