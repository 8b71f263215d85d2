"""Weights by token shift: how far down the base model's list the token of the answer stands (URIAL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tamis.errors import RecipeError
from tamis.values import Need, Weights

if TYPE_CHECKING:
    from tamis.views import ShardSignals


@dataclass(frozen=True, kw_only=True)
class TokenShift:
    """Weighs response tokens by their rank under the base model: first, to the third, below.

    The classes are those of "The Unlocking Spell on Base LLMs" (URIAL, Lin et al. 2024, arXiv:2312.01552), stated from
    memory: rank 1 unshifted, 2 and 3 marginal, above `last` shifted. The paper measures; it trains nothing, so the
    weights have no published value. By default the tokens that the model would have written anyway are masked.
    """

    revision: ClassVar[int] = 1

    unshifted: float = 0.0
    marginal: float = 1.0
    shifted: float = 1.0
    last: int = 3

    def __post_init__(self) -> None:
        weights = (self.unshifted, self.marginal, self.shifted)
        if min(weights) < 0 or max(weights) <= 0:
            raise RecipeError(f"weights {weights}: expected none below 0, and one above")
        if self.last < 1:
            raise RecipeError(f"last is {self.last}: the last marginal rank is at least 1")

    @property
    def needs(self) -> frozenset[Need]:
        """Ranks of the response tokens."""
        return frozenset({Need(kind="signal", name="tokens", settings=(("loss", "response"),))})

    def about(self) -> str:
        """What the weights stand for."""
        return (
            f"tokens have the weight {self.unshifted:g} where the model ranks them first, {self.marginal:g} up to rank "
            f"{self.last}, {self.shifted:g} below"
        )

    def weigh(self, have: ShardSignals, /) -> Weights:
        """The weight of the class of every response token; 0 where its loss is not finite."""
        import numpy as np

        from tamis.training.weighting import responses

        offsets, (rank, nll) = responses(have["tokens"], "rank", "nll")
        weights = np.select([rank <= 1, rank <= self.last], [self.unshifted, self.marginal], self.shifted)
        return Weights(tokens=np.where(np.isfinite(nll), weights, 0).astype(np.float32), offsets=offsets)
