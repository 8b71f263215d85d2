"""The text signal: statistics of what was asked and of what was answered, without any model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Need, Reason

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Text:
    """Statistics of every row's text: lengths, repetition, symbols, lines, refusals; touches no model."""

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """Arrays of one shard: `prompt`, `response` (n, len(NAMES)) float32, `reason` (n,) uint8.

        The columns of both tables are `tamis.text.text_statistics.NAMES`; `tamis.text.passages` says which text is
        which. Of plain text the response is the text itself and the prompt is empty. A text that is not there has
        zeros. `reason` is `needs an answer` where there is none; the prompt's statistics hold nevertheless.
        """
        import numpy as np

        from tamis.text.passages import of_row
        from tamis.text.text_statistics import measured
        from tamis.text.words import WordHashes

        texts = [of_row(row) for row in shard.read()]
        known = WordHashes()
        missing = [not one.answered for one in texts]
        return {
            "prompt": measured([one.prompt for one in texts], known),
            "response": measured([one.response for one in texts], known),
            "reason": np.where(missing, int(Reason.NEEDS_ANSWER), 0).astype(np.uint8),
        }
