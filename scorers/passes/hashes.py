"""The hashes signal: exact, MinHash and n-gram hashes of what was asked and answered, for duplicates and leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need, Reason
from tamis.words import Numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals
    from tamis.words import WordHashes


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Exact hash, MinHash signature and n-gram hashes of prompt, response and both; touches no model.

    Of texts in lower case without diacritics and punctuation (`tamis.words`): `shingle` words make a shingle,
    `permutations` values a signature (112 = 14 bands of 8, as datatrove has it), `ngrams` are the lengths kept as
    hashes. `numbers: zero` takes all numbers for equal, as datatrove does; by default they differ.
    """

    permutations: int = 112
    shingle: int = 5
    ngrams: tuple[int, ...] = (8, 13)
    numbers: Numbers = "keep"
    seed: int = 1
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.permutations < 1 or self.shingle < 1 or any(n < 1 for n in self.ngrams):
            raise RecipeError("hashes: permutations, shingle and ngrams must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard, for each F of `prompt`, `response` and `whole` (`tamis.passages`).

        `F_exact` (n, 2) uint64: 128-bit BLAKE2b of the normalised words (of a text without words, of the text less its
        white space); 0, 0 where empty. `F_minhash` (n, permutations) uint32 and `F_shingles` (n,) int32, how many
        shingles stand behind it: texts shorter than a shingle have their exact hash for one, and texts without a word
        none, and 2^32 - 1 in every place (`tamis.minhash`). For `prompt` and `response` and every n of `ngrams`,
        `F_nN` uint64 ragged with `F_nN_offsets` (n + 1,) int64: the hash of the run of n words that begins at each
        word, in the order of the text. `reason` (n,) uint8: `needs an answer` where there is none.
        """
        import numpy as np

        from tamis.passages import of_row
        from tamis.words import WordHashes

        texts = [of_row(row) for row in shard.read()]
        known = WordHashes()
        arrays: dict[str, NDArray[Any]] = {}
        for field in ("prompt", "response", "whole"):
            arrays |= self._of_field(field, [getattr(one, field) for one in texts], known)
        missing = [not one.answered for one in texts]
        arrays["reason"] = np.where(missing, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8)
        return arrays

    def _of_field(self, field: str, texts: Sequence[str], known: WordHashes) -> dict[str, NDArray[Any]]:
        import numpy as np

        from tamis.minhash import signatures
        from tamis.words import Flat, ngrams, plain, words_of

        words = [words_of(plain(text, self.numbers)) for text in texts]
        flat = Flat.of(words, known)
        exact = np.array([_exact(text, own) for text, own in zip(texts, words, strict=True)], np.uint64).reshape(-1, 2)
        minhash, shingles = signatures(flat, self.shingle, self.permutations, self.seed, exact[:, 0])
        made: dict[str, NDArray[Any]] = {
            f"{field}_exact": exact,
            f"{field}_minhash": minhash,
            f"{field}_shingles": shingles.astype(np.int32),
        }
        for n in () if field == "whole" else self.ngrams:
            hashes, starts = ngrams(flat, n)
            counts = np.bincount(flat.text[starts], minlength=len(texts))
            made[f"{field}_n{n}"] = hashes
            made[f"{field}_n{n}_offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return made


def _exact(text: str, words: Sequence[str]) -> tuple[int, int]:
    from tamis.words import raw_bytes

    said = " ".join(words) or "\n" + "".join(text.split())  # no word holds a line break: the two cannot be confused
    if not said.strip():
        return 0, 0
    digest = hashlib.blake2b(raw_bytes(said), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
