"""EL2N: length of the error vector of the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.prediction.reductions import RESPONSE, ResponseTokens, Turns, column, response_reasons

if TYPE_CHECKING:
    from tamis.values import Column, Need
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class El2n:
    """EL2N: mean length of the error vector softmax(z_t) - onehot(y_t) over the response.

    "Deep Learning on a Data Diet" (Paul et al., NeurIPS 2021, arXiv:2107.07075), for every token: the length is
    sqrt(1 - 2 p(y_t) + Σ_v p_v²), so that the token signal holds all it takes. The paper averages over several
    initialisations early in training; a language model is scored as it is, or at a checkpoint. The paper keeps high
    rows; where much is pruned or labels are noisy keep the middle (`band`, `ccs`). Range [0, sqrt 2). `turns`: as in
    `entropy`.
    """

    turns: Turns = "tokens"
    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """The token signal over response tokens."""
        return frozenset({RESPONSE})

    def score(self, have: ShardSignals, /) -> Mapping[str, Column]:
        """One column `response`, a length."""
        import numpy as np

        signal = have["tokens"]
        tokens = ResponseTokens.of(signal)
        gold = np.exp(-tokens.values(signal["nll"]))
        # float32 rounding can leave a certain prediction below 0
        squares = np.maximum(1 - 2 * gold + tokens.values(signal["square"]), 0)
        mean = tokens.reduced(np.sqrt(squares), "mean", self.turns)
        return {"response": column(mean, response_reasons(signal), "length")}
