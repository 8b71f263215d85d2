"""Statistics of a text, by name: what rules of quality are written over. Counts, unless the name says share.

A *piece* is what white space separates; a *word* is a run of letters, digits and underscores (a Chinese or Japanese
character alone); a *line* or *paragraph* is one that is not blank. `NAMES` is the order in which the signal `text`
keeps them: new ones are added at the end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tamis.text import refusals, repetition
from tamis.text.words import Flat, WordHashes, plain, raw_bytes, words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts = dict[str, float]

TOP = (2, 3, 4)  # n of `top_N_share`
DUPLICATES = (5, 6, 7, 8, 9, 10)  # n of `duplicate_N_share`
NAMES = (
    *("characters", "bytes", "compressed_bytes", "words", "word_characters", "longest_word"),
    *("pieces", "alphabetic_pieces", "stop_words", "gopher_stop_words"),  # the last: how many different of Gopher's 8
    *("symbols", "digits", "hash_signs", "ellipses", "braces", "newlines", "broken_characters"),
    *("lines", "bullet_lines", "ellipsis_lines", "terminal_lines", "short_lines"),  # short: at most 30 characters
    *("duplicate_lines", "duplicate_line_characters"),  # lines that stood there before
    *("paragraphs", "duplicate_paragraphs", "duplicate_paragraph_characters"),
    *("c4_lines", "c4_sentences", "lorem_ipsum"),  # lines that C4 keeps, sentences in them
    "ends",  # 1 where the text ends as texts end, 0 where it breaks off
    *("refusal", "disclaimers", "boilerplate"),  # refusal: 1 where it begins with one
    *(f"top_{n}_share" for n in TOP),  # of word characters, in the most frequent n-gram
    *(f"duplicate_{n}_share" for n in DUPLICATES),  # of word characters, in n-grams that stood there before
)
GOPHER_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
STOP_WORDS = GOPHER_STOP_WORDS | frozenset(
    "a an in on at by for from as is are was were been being it its this these those or but not no if then than so do "
    "does did has had can could will would should may might must i you he she we they me him her us them my your his "
    "our their what which who when where why how there here about into over after before more most some any all".split()
)
_WIDE = "\uff0e\uff1f\uff01\u3002"  # full stop, question and exclamation mark of East Asian texts
_QUOTES = "\"'\u2019\u201d\u300d\u300f"
_TERMINAL = tuple(f".?!{_QUOTES}{_WIDE}")
_CLOSING = (*_TERMINAL, *")]}`*;:>|%$/=\u2026\uff09\u3011\u300b")
_BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*", "+")
_POLICY = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
    "javascript",
)
_SYMBOL = re.compile(r"[^\w\s]")
_DIGIT = re.compile(r"\d")
_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE = re.compile(rf"[.?!{_WIDE}]+(?=[\s){_QUOTES}]|$)")
_BROKEN = re.compile(r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]|[ÃÂ][\x80-\xbf]|â€|Ã¢")
_ASCII = {
    name: "".join(letter for letter in map(chr, range(128)) if pattern.match(letter)).encode()
    for name, pattern in (("symbols", _SYMBOL), ("digits", _DIGIT), ("broken_characters", _BROKEN))
}
_SHORT = 30
_LONG_WORD = 1000
_FEW_WORDS = 3


def measured(texts: Sequence[str], known: WordHashes | None = None) -> NDArray[np.float32]:
    """(texts, len(NAMES)) float32 statistics; an empty text has zeros."""
    import numpy as np

    words = [words_of(text) for text in texts]
    rows = [_counts(text, own) for text, own in zip(texts, words, strict=True)]
    flat = Flat.of([_plain(text, own) for text, own in zip(texts, words, strict=True)], known)
    top, duplicate = repetition.shares(flat, TOP, DUPLICATES)
    shares: dict[str, Any] = {f"top_{n}_share": share for n, share in top.items()}
    shares |= {f"duplicate_{n}_share": share for n, share in duplicate.items()}
    table = np.zeros((len(texts), len(NAMES)), np.float32)
    for place, name in enumerate(NAMES):
        table[:, place] = shares[name] if name in shares else [row[name] for row in rows]
    return table


def statistic(table: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    """(n,) one statistic of a table (n, len(NAMES)), by name."""
    import numpy as np

    return np.asarray(table[:, NAMES.index(name)]).astype(np.float64)


def _plain(text: str, words: Sequence[str]) -> Sequence[str]:
    return [word.lower() for word in words] if text.isascii() else words_of(plain(text))


def _marks(text: str, raw: bytes) -> Counts:
    """Characters that are no letters; for ASCII by deleting them, which is many times faster than to look for them."""
    if not text.isascii():
        patterns = {"symbols": _SYMBOL, "digits": _DIGIT, "broken_characters": _BROKEN}
        return {name: len(pattern.findall(text)) for name, pattern in patterns.items()}
    return {name: len(raw) - len(raw.translate(None, marks)) for name, marks in _ASCII.items()}


def _counts(text: str, words: Sequence[str]) -> Counts:
    pieces = text.split()
    raw = raw_bytes(text)
    low = [word.lower() for word in words]
    counts: Counts = {
        "characters": len(text),
        "bytes": len(raw),
        "compressed_bytes": len(zlib.compress(raw, 6)) if raw else 0,
        "words": len(words),
        "word_characters": sum(map(len, words)),
        "longest_word": max(map(len, pieces), default=0),
        "pieces": len(pieces),
        "alphabetic_pieces": sum(piece.isalpha() or any(map(str.isalpha, piece)) for piece in pieces),
        "stop_words": sum(word in STOP_WORDS for word in low),
        "gopher_stop_words": len(GOPHER_STOP_WORDS.intersection(low)),
        "hash_signs": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "braces": text.count("{"),
        "newlines": text.count("\n"),
        "lorem_ipsum": text.lower().count("lorem ipsum"),
        "ends": float(text.rstrip().endswith(_CLOSING) or _last_is_whole(pieces)),
        "refusal": float(refusals.refuses(text)),
        "disclaimers": refusals.disclaimers(text),
        "boilerplate": refusals.boilerplate(text),
    }
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    paragraphs = [part for part in _PARAGRAPHS.split(text.strip()) if part]
    counts |= _marks(text, raw)
    counts |= _of_lines(lines) | _as_c4(lines)
    counts["duplicate_lines"], counts["duplicate_line_characters"] = _repeated(lines)
    counts["paragraphs"] = len(paragraphs)
    counts["duplicate_paragraphs"], counts["duplicate_paragraph_characters"] = _repeated(paragraphs)
    return counts


def _last_is_whole(pieces: Sequence[str]) -> bool:
    """Whether a text without a full stop is whole: one that ends in a number, or a few words that are no sentence."""
    return bool(pieces) and (len(pieces) <= _FEW_WORDS or pieces[-1][-1].isdigit() or not pieces[-1][-1].isalpha())


def _of_lines(lines: Sequence[str]) -> Counts:
    return {
        "lines": len(lines),
        "bullet_lines": sum(line.startswith(_BULLETS) for line in lines),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines),
        "terminal_lines": sum(line.endswith(_TERMINAL) for line in lines),
        "short_lines": sum(len(line) <= _SHORT for line in lines),
    }


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts stood there before, and their characters."""
    if len(parts) < 2:
        return 0, 0
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again), sum(map(len, again))


def _as_c4(lines: Sequence[str]) -> Counts:
    """Lines that C4 keeps: terminal punctuation, three words at least, none beyond 1,000 characters, no policy."""
    kept = [line for line in lines if _kept_by_c4(line)]
    return {"c4_lines": len(kept), "c4_sentences": sum(max(1, len(_SENTENCE.findall(line))) for line in kept)}


def _kept_by_c4(line: str) -> bool:
    if not line.endswith(_TERMINAL) or line.endswith("..."):
        return False
    words = line.split()
    if len(words) < _FEW_WORDS or max(map(len, words)) > _LONG_WORD:
        return False
    low = line.lower()
    return not any(phrase in low for phrase in _POLICY)
