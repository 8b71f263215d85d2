"""The verdicts signal: which of the sampled answers are right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need, Reason
from tamis.verifiers import Verify

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Checks every sampled answer against the row's own, or against what its meta names; runs no model."""

    verify: Verify = field(default_factory=Verify)
    revision: ClassVar[int] = 1
    serves_less: ClassVar[bool] = False

    @property
    def in_process(self) -> bool:
        """Comparing texts is too cheap for workers; running code is not."""
        return self.verify.by in ("numeric", "exact", "regex")

    @property
    def needs(self) -> frozenset[Need]:
        """The generations, however they were drawn."""
        return frozenset({Need(kind="signal", name="generations")})

    def merge(self, other: Verdicts) -> Verdicts:
        """Return the one that says how; settings left as they are say nothing. RecipeError where both say otherwise."""
        if self == other or other == Verdicts():
            return self
        if self == Verdicts():
            return other
        raise RecipeError(
            f"answers verified by {self.verify.by!r} and by {other.verify.by!r} in other ways cannot be one pass: give "
            "all scorers the same `verify`"
        )

    def notes(self) -> list[str]:
        """What a verifier says of itself: how code that is run is held."""
        own = getattr(self.verify.verifier, "notes", None)
        return list(own()) if own is not None else []

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard of n rows.

        `count` (n,) int32 samples, `right_count` (n,) int32 of them right, `right` uint8 ragged by row, 1 where the
        sample is; `greedy_right` (n,) uint8 where there are greedy answers. `reason` uint8: that of the generations, or
        that the row has no answer to compare with.
        """
        import numpy as np

        from tamis.answers.sampling import Samples
        from tamis.ragged import Ragged

        samples = Samples(have["generations"])
        reason = np.array(samples.signal["reason"], np.uint8)
        verifier = self.verify.verifier
        verdicts, best = [], np.zeros(shard.rows, np.uint8)
        for place, row in enumerate(shard.read()):
            gold = self.verify.gold_of(row) if not reason[place] else None
            if gold is None and not reason[place]:
                reason[place] = int(Reason.NEEDS_ANSWER)
            texts = samples.texts(place) if gold is not None else []
            verdicts.append(np.array([bool(verifier.right(text, gold or "")) for text in texts], np.uint8))
            if gold is not None and (greedy := samples.greedy(place)) is not None:
                best[place] = bool(verifier.right(greedy, gold))
        right = Ragged.of(verdicts, np.uint8)
        return {
            "count": right.lengths.astype(np.int32),
            "right_count": np.array([int(one.sum()) for one in verdicts], np.int32),
            "right": right.values,
            "right_offsets": right.offsets,
            "reason": reason,
            **({"greedy_right": best} if "greedy_text" in samples.signal else {}),
        }
