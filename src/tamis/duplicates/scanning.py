"""Texts to hashes of their words or characters, a shard at a time: what `tamis.text.words` does, compiled."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from tamis.text.words import WORD, Flat, Numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["words", "characters"]
_BREAK = "\U0010ffff"  # closes a text; no character (and no text of a pool holds it, or it is taken out)
_DIGIT = re.compile(r"\d")


def scanned(texts: Sequence[str], unit: Unit = "words", numbers: Numbers = "keep") -> Flat:
    """Hashes of the words (or characters) of every text in plain form (`tamis.text.words.plain`).

    Words are those of `tamis.text.words.words_of`; two have equal hashes where they are equal, others but for chance
    (2^-64 a pair). Characters: those of the plain text, white space in runs as one of them, none at its ends. Hashes
    are the same on every machine. `numbers: zero` takes all numbers for equal.
    """
    import numpy as np

    from tamis.duplicates import loops

    codes, classes = _characters(texts)
    hashes = np.empty(len(codes), np.uint64)
    lengths = np.ones(len(codes), np.int64)
    ends = np.zeros(len(texts), np.int64)
    if unit == "words":
        count = loops.words(codes, classes, numbers == "zero", hashes, lengths, ends)
    else:
        count = loops.characters(codes, classes, numbers == "zero", hashes, ends)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return Flat(hashes[:count].copy(), lengths[:count].copy(), offsets)


def _characters(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """All texts in plain form, each closed by a break, as code points; and the class of every code point in them."""
    foreign = [place for place, text in enumerate(texts) if not text.isascii()]
    made = [text.lower() for text in texts]
    for place, text in zip(foreign, _folded([texts[place] for place in foreign]), strict=True):
        made[place] = text
    codes = _codes("".join(f"{text}{_BREAK}" for text in made))
    return codes, _table(codes, _class)


def _folded(texts: Sequence[str]) -> list[str]:
    """Texts in lower case without diacritics, all at once."""
    if not texts:
        return []
    joined = _BREAK.join(text.replace(_BREAK, "") for text in texts)
    codes = _codes(unicodedata.normalize("NFKD", joined))
    marks = _table(codes, lambda letter: unicodedata.combining(letter) > 0)
    kept = codes[marks[codes] == 0]
    text: str = kept.tobytes().decode("utf-32-le", "surrogatepass")
    return text.casefold().split(_BREAK)


def _table(codes: NDArray[np.uint32], of: Callable[[str], int]) -> NDArray[np.uint8]:
    """A value for every code point that occurs, 0 for the others."""
    import numpy as np

    table = np.zeros(sys.maxunicode + 1, np.uint8)
    table[codes] = 1
    used = np.flatnonzero(table)
    table[used] = [of(chr(code)) for code in used.tolist()]
    return table


def _codes(text: str) -> NDArray[np.uint32]:
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)


def _class(letter: str) -> int:
    from tamis.duplicates import loops

    if letter == _BREAK:
        return loops.BREAK
    if letter in "'\u2019":
        return loops.JOINT
    if letter.isspace():
        return loops.SPACE
    if _DIGIT.match(letter):
        return loops.DIGIT
    if not WORD.match(letter):
        return loops.NOTHING
    return loops.LETTER if WORD.fullmatch(letter * 2) else loops.ALONE
