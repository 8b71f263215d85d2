"""Selective token masking: train on the tokens that the model already finds likely ("Clear Minds Think Alike")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Need, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Stm:
    """Masks response tokens of high perplexity under the model before tuning (STM).

    A token is trained where its perplexity, exp of its nll, is at most `threshold` (2.5: a probability of 0.4), else
    masked: it stays in the input and is no label ("Clear Minds Think Alike", NeurIPS 2025). `mode: lowest` masks what
    lies below the threshold instead, `random` as many tokens of every row as `highest` would, drawn by `seed` and the
    row's key; the released code draws among the prompt's tokens too and with replacement, and so masks fewer.
    Masked are just the tokens that are new to the model: look at the loss of the target task. The threshold belongs to
    a model: on 200 rows of LIMA one of 4 million parameters keeps 16 % of the tokens, and 34 % at a threshold of 10.
    """

    revision: ClassVar[int] = 1

    threshold: float = 2.5
    mode: Literal["highest", "lowest", "random"] = "highest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold < 1:
            raise RecipeError(f"threshold is {self.threshold}: a perplexity is at least 1; leave `weigh` out for none")

    @property
    def needs(self) -> frozenset[Need]:
        """Losses of the response tokens."""
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", "response"),))})

    def about(self) -> str:
        """What a weight of 1 means."""
        if self.mode == "random":
            return f"as many tokens of every row as have a perplexity above {self.threshold:g} are masked at random"
        side = "most" if self.mode == "highest" else "least"
        return f"tokens with a perplexity of at {side} {self.threshold:g} are trained, the others masked"

    def weigh(self, have: ShardSignals, /) -> Weights:
        """1 where a response token is trained, 0 where it is masked or has no finite loss."""
        import numpy as np

        from tamis.training.weighting import responses

        offsets, (nll,) = responses(have["tokens"], "nll")
        bound = np.float32(math.log(self.threshold))
        known = np.isfinite(nll)
        kept = known & (nll >= bound if self.mode == "lowest" else nll <= bound)
        if self.mode == "random":
            keys = have.shard.table(["key"]).column("key").to_pylist()
            kept = self._random(kept, known, offsets, keys)
        return Weights(tokens=kept.astype(np.float32), offsets=offsets)

    def _random(
        self, kept: NDArray[np.bool_], known: NDArray[np.bool_], offsets: NDArray[np.int64], keys: list[str]
    ) -> NDArray[np.bool_]:
        """As many tokens of every row as `kept` has, others."""
        import numpy as np

        from tamis.demonstrations.pairing import short_keys

        drawn = np.zeros_like(kept)
        for row, draw in enumerate(short_keys(keys, self.seed).tolist()):
            among = offsets[row] + np.flatnonzero(known[offsets[row] : offsets[row + 1]])
            generator = np.random.Generator(np.random.Philox(draw))
            count = int(kept[offsets[row] : offsets[row + 1]].sum())
            drawn[among[generator.permutation(len(among))[:count]]] = True
        return drawn
