"""Weights that methods take from the model in training, taken from models that stay as they are: approximations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tamis.views import ShardSignals

_TOKENS = Need(kind="signal", name="tokens", settings=(("loss", "response"),))


@dataclass(frozen=True, kw_only=True)
class Dft:
    """Weighs response tokens by their probability under the base model: DFT, approximated.

    Dynamic fine-tuning weighs every token by its probability under the model *in training*: that is the hook `dft`.
    Here the probability is that of the model before training, so a token that training makes likely keeps its small
    weight. Wu et al. 2025 (arXiv:2508.05629). No published value. Range [0, 1].
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Losses of the response tokens."""
        return frozenset({_TOKENS})

    def about(self) -> str:
        """The approximation in words."""
        return "an approximation: probabilities of the model before training; the hook dft takes the one in training"

    def weigh(self, have: ShardSignals, /) -> Weights:
        """exp(-nll) in [0, 1]; 0 where the loss is not finite."""
        import numpy as np

        from tamis.training.weighting import responses

        offsets, (nll,) = responses(have["tokens"], "nll")
        weights = np.exp(-np.where(np.isfinite(nll), nll, np.inf).astype(np.float64))
        return Weights(tokens=weights.astype(np.float32), offsets=offsets)


@dataclass(frozen=True, kw_only=True)
class IwSft:
    """Weighs rows by how much likelier they are than under a reference model: iw-SFT, approximated.

    exp(`temperature` · mean over response tokens of (log p - log p of the reference)), at most `clip`. In iw-SFT p is
    of the model *in training* and the reference the model before it: that is the hook `iw-sft`. Here both stay as they
    are: give a model that knows the task as `model` and the one before as `reference`. Rows without a value have weight
    0. Qin and Springenberg 2025 (arXiv:2507.12856). No published value of a row. Range [0, `clip`].
    """

    revision: ClassVar[int] = 1

    temperature: float = 1.0
    clip: float = 16.0

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise RecipeError(f"clip is {self.clip}: expected a largest weight above 0")

    @property
    def needs(self) -> frozenset[Need]:
        """Losses of the response tokens under both models."""
        reference = Need(kind="signal", name="tokens", settings=_TOKENS.settings, by="reference")
        return frozenset({_TOKENS, reference})

    def about(self) -> str:
        """The approximation in words."""
        return "an approximation: the model stays as it is; the hook iw-sft takes the one in training"

    def weigh(self, have: ShardSignals, /) -> Weights:
        """(n,) weights in [0, clip]. DataError where the reference model has other response tokens."""
        import numpy as np

        ours, theirs = have["tokens"], have["tokens@reference"]
        count = np.asarray(ours["response_count"])
        if not np.array_equal(count, theirs["response_count"]):
            raise DataError("iw-sft compares the same tokens: the reference model has another tokenizer or template")
        means = [np.asarray(one["response_nll_sum"]) / np.maximum(count, 1) for one in (ours, theirs)]
        with np.errstate(over="ignore", invalid="ignore"):
            weights = np.minimum(np.exp(self.temperature * (means[1] - means[0])), self.clip)
        return Weights(rows=_or_zero(weights, ours, theirs))


@dataclass(frozen=True, kw_only=True)
class EntropyWeights:
    """Weighs rows by half of exp(-mean entropy) of their response tokens under the base model (SRFT).

    SRFT (Fu et al. 2025, arXiv:2506.19767: one stage of imitation and reinforcement) gives its demonstrations the
    weight ½·exp(-H) with the entropy of the model in training; here H is that of the model before, in nats. The ½, from
    memory, balances two losses there and cancels here, where the loss is divided by the sum of the weights. Rows
    without a value have weight 0. No published value. Range [0, 1/2].
    """

    revision: ClassVar[int] = 1

    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise RecipeError(f"scale is {self.scale}: expected a factor above 0")

    @property
    def needs(self) -> frozenset[Need]:
        """Entropies of the response tokens."""
        return frozenset({_TOKENS})

    def about(self) -> str:
        """The approximation in words."""
        return "an approximation: entropies of the model before training"

    def weigh(self, have: ShardSignals, /) -> Weights:
        """(n,) weights in [0, scale]."""
        import numpy as np

        signal = have["tokens"]
        mean = np.asarray(signal["entropy_sum"]) / np.maximum(np.asarray(signal["response_count"]), 1)
        return Weights(rows=_or_zero(self.scale * np.exp(-mean), signal))


def _or_zero(weights: NDArray[Any], *signals: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """(n,) float32 weights, 0 where a row has no value in one of the signals."""
    import numpy as np

    good = np.isfinite(weights)
    for signal in signals:
        good &= (np.asarray(signal["reason"]) == 0) & (np.asarray(signal["response_count"]) > 0)
    return np.where(good, weights, 0).astype(np.float32)
