"""The minhash signal: sets of shingles and their signatures, from which near-duplicates are found and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.text.words import Numbers
from tamis.values import Need, Reason

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """MinHash signature and set of shingles of every row's text, for near-duplicates; touches no model.

    Of the whole text, the prompt or the response, in lower case without diacritics and punctuation. A shingle is a run
    of `shingle` words, or characters with `unit: characters`. `numbers: zero` takes all numbers for equal; by default
    they differ, for templated problems differ in nothing else.
    """

    of: Literal["whole", "prompt", "response"] = "whole"
    shingle: int = 5
    unit: Literal["words", "characters"] = "words"
    numbers: Numbers = "keep"
    permutations: int = 128
    seed: int = 1
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.permutations < 1 or self.shingle < 1:
            raise RecipeError("minhash: permutations and shingle must be at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard.

        `shingles` uint32 ragged with `shingles_offsets` (n + 1,) int64: the sorted hashes of a row's shingles, each
        once. `signature` (n, permutations) uint32 (`tamis.text.minhash`). `characters` (n,) int32: length of the text.
        `reason` (n,) uint8: `needs an answer` where there is none and the response is what is measured.
        """
        import numpy as np

        from tamis.duplicates.shingling import salts_of, shingled, texts_of
        from tamis.text.minhash import signatures
        from tamis.text.passages import of_row

        rows = shard.read()
        texts = texts_of(rows, self.of)
        missing = [self.of == "response" and not of_row(row).answered for row in rows]
        sets = shingled(texts, self.shingle, self.unit, self.numbers, salts_of(rows, self.of))
        return {
            "shingles": sets.values,
            "shingles_offsets": sets.offsets,
            "signature": signatures(sets, self.permutations, self.seed),
            "characters": np.array([len(text) for text in texts], np.int32),
            "reason": np.where(missing, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8),
        }
