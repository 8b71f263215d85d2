"""Uncertainty: how open the model holds the next token of the response."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.values import Column, Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Mean entropy of the model's next-token distribution over the response, in nats.

    `turns` says how several assistant turns become one number: `tokens`, the mean over all their tokens (default), or
    the `mean`, `last`, `max` or `sum` of the turns' means. Range [0, ln of the vocabulary], except for `sum`.
    """

    turns: Literal["tokens", "mean", "last", "max", "sum"] = "tokens"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", "response"),))})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """Column `response`, nats per token."""
        import numpy as np

        signal = have["tokens"]
        reasons = np.asarray(signal["reason"]).copy()
        if self.turns == "tokens":
            means = signal["entropy_sum"] / np.maximum(signal["response_count"], 1)
        else:
            means = self._over_turns(signal)
        values = means.astype(np.float32)
        reasons[(reasons == Reason.NONE) & ~np.isfinite(values)] = Reason.NOT_FINITE
        values[reasons != Reason.NONE] = np.nan
        return {"response": Column(values=values, unit="nats per token", reasons=reasons)}

    def _over_turns(self, signal: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Means of the turns first (their float16 entropies summed in float64), then one number per row."""
        import numpy as np

        values = []
        for start, stop in itertools.pairwise(signal["nll_offsets"].tolist()):
            turn = signal["turn"][start:stop]
            entropy = signal["entropy"][start:stop].astype(np.float64)
            means = [float(entropy[turn == number].mean()) for number in np.unique(turn[turn >= 0])]
            values.append(_reduce(means, self.turns) if means else np.nan)
        return np.array(values, np.float64)


def _reduce(means: list[float], turns: str) -> float:
    if turns == "last":
        return means[-1]
    if turns == "max":
        return max(means)
    return sum(means) / (len(means) if turns == "mean" else 1)
