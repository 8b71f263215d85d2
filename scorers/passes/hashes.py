"""The hashes signal: exact digests and n-gram hashes of what was asked and answered, for duplicates and leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.text.words import Numbers
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.text.words import Flat
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Exact digest and n-gram hashes of prompt, response and both; touches no model.

    Of texts in lower case without diacritics and punctuation (`tamis.text.words`), or, for the digests and with
    `normalise: none`, of texts as they are. `ngrams` are the lengths kept as hashes. `numbers: zero` takes all numbers
    for equal, as datatrove does; by default they differ.
    """

    ngrams: tuple[int, ...] = (8, 13)
    numbers: Numbers = "keep"
    normalise: Literal["words", "none"] = "words"
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.ngrams):
            raise RecipeError("hashes: ngrams must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard, for each F of `prompt`, `response` and `whole` (`tamis.text.passages`).

        `F_exact` (n, 2) uint64: 128-bit BLAKE2b of the normalised words (of a text without words, of the text less its
        white space); 0, 0 where empty. `F_characters` (n,) int32, the length of the text. For `prompt` and `response`
        and every n of `ngrams`, `F_nN` uint64 ragged with `F_nN_offsets` (n + 1,) int64: the hash of the run of n words
        that begins at each word, in the order of the text. `reason` (n,) uint8: `needs an answer` where there is none.
        """
        import numpy as np

        from tamis.text.passages import of_row

        texts = [of_row(row) for row in shard.read()]
        arrays: dict[str, NDArray[Any]] = {}
        for field in ("prompt", "response", "whole"):
            arrays |= self._of_field(field, [getattr(one, field) for one in texts])
        missing = [not one.answered for one in texts]
        arrays["reason"] = np.where(missing, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8)
        return arrays

    def _of_field(self, field: str, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        import numpy as np

        from tamis.duplicates.scanning import scanned
        from tamis.text.words import ngrams

        flat = scanned(texts, "words", self.numbers)
        made: dict[str, NDArray[Any]] = {
            f"{field}_exact": np.array(self._digests(texts, flat), np.uint64).reshape(-1, 2),
            f"{field}_characters": np.array([len(text) for text in texts], np.int32),
        }
        for n in () if field == "whole" else self.ngrams:
            hashes, starts = ngrams(flat, n)
            counts = np.bincount(flat.text[starts], minlength=len(texts))
            made[f"{field}_n{n}"] = hashes
            made[f"{field}_n{n}_offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return made

    def _digests(self, texts: Sequence[str], flat: Flat) -> list[tuple[int, int]]:
        from tamis.text.words import raw_bytes

        if self.normalise == "none":
            return [_digest(b"t", raw_bytes(text)) for text in texts]
        ends = flat.offsets.tolist()
        return [
            _digest(b"w", flat.hashes[start:stop].tobytes())
            if stop > start
            else _digest(b"s", raw_bytes("".join(text.split())))
            for text, start, stop in zip(texts, ends, ends[1:], strict=False)
        ]


def _digest(kind: bytes, said: bytes) -> tuple[int, int]:
    """128 bits; `kind` keeps words, texts without words and texts as they are apart. 0, 0 where nothing is said."""
    if not said:
        return 0, 0
    digest = hashlib.blake2b(said, digest_size=16, person=kind).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
