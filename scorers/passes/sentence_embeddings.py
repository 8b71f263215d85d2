"""Embeddings of rows by a sentence encoder, in the place of pooled hidden states of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.values import Need, Reason
from tamis.vectors.encoders import EncoderRef, What

if TYPE_CHECKING:
    from tamis.pool import Shard
    from tamis.values import Arrays, Machine
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class SentenceEmbeddings:
    """Embeddings by any sentence-transformers model, read where hidden states are (extra `embed`).

    Makes the signal `tokens` with nothing in it but `pooled`: a stage that names it by `from` takes these vectors, be
    it a selector that covers or filters by likeness, or the scorer ds2. `encoder`: `{name: …}`, a folder or a name on
    the hub. `text`: what is embedded, the instruction (all before the last answer), the last response or the whole row.
    Texts are cut at the encoder's longest length. Only embeddings of one encoder can be compared: selectors that read
    the target's hidden states refuse these.
    """

    encoder: EncoderRef
    text: What = "instruction"
    revision: ClassVar[int] = 1
    makes: ClassVar[str] = "tokens"

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the rows."""
        return frozenset()

    def measure(self, shard: Shard, have: ShardSignals, on: Machine, /) -> Arrays:
        """`pooled` (n, d) float32 of unit length, 0 where the row has a reason; `reason` (n,) uint8 (`Reason`)."""
        import numpy as np

        from tamis.engine import set_threads
        from tamis.vectors.encoders import encode, text_for

        set_threads(on.threads)
        texts = [text_for(row, self.text) for row in shard.read()]
        reason = np.array([text if isinstance(text, Reason) else 0 for text in texts], np.uint8)
        found = encode(self.encoder, [text if isinstance(text, str) else "-" for text in texts], on)
        reason[(reason == 0) & ~np.isfinite(found).all(axis=1)] = Reason.NOT_FINITE
        found[reason > 0] = 0
        return {"pooled": found, "reason": reason}
