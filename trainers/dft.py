"""Dynamic fine-tuning: every token weighed by its probability under the model in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from tamis.training import StepTokens
    from tamis.values import Need


@dataclass(frozen=True, kw_only=True)
class Dft:
    """Weighs every token by its probability under the model in training (DFT, dynamic fine-tuning).

    The loss of a token is multiplied by that probability, which has no gradient and carries the dropout of the step;
    the sum is divided by the number of labels, as without the hook, so that gradients are smaller: unlikely tokens
    count little. Wu et al. 2025 (arXiv:2508.05629); not to be mistaken for discriminative fine-tuning, another DFT. No
    published value.
    """

    revision: ClassVar[int] = 1

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing but the step."""
        return frozenset()

    def after_step(self, step: int, log: Mapping[str, Any], /) -> None:
        """Nothing: the weights are given within the step."""

    def reweigh(self, tokens: StepTokens, /) -> torch.Tensor:
        """(m,) probabilities of the labels."""
        return (-tokens.nll).exp()
