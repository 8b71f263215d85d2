"""Norms of per-example gradients, without the gradients where that is cheaper.

A linear layer's gradient of one row is δᵀ x, summed over its t tokens; its squared norm is Σ_ts (δ_t·δ_s)(x_t·x_s), of
two t by t products, which need not be larger than the gradient. Every layer takes the cheaper way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tamis.gradient.objective import SFT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.objective import Example, Objective, Opened
    from tamis.values import Machine


def squared_norms(delta: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(b,) ‖δᵀ x‖² of each row in float64; `delta` (b, t, out) and `seen` (b, t, in) as a layer hands them over."""
    import torch

    dtype = torch.float64 if delta.dtype == torch.float64 else torch.float32
    delta, seen = delta.to(dtype), seen.to(dtype)
    tokens, wide, narrow = delta.shape[1], delta.shape[2], seen.shape[2]
    if tokens * (wide + narrow) < wide * narrow:
        products = (delta @ delta.transpose(1, 2)).mul_(seen @ seen.transpose(1, 2))
        return products.flatten(1).sum(1, dtype=torch.float64).clamp_(min=0)
    gradients = delta.transpose(1, 2) @ seen
    norms: torch.Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return norms.double().square_()


def gradient_norms(
    opened: Opened, rows: Sequence[Example], on: Machine, objective: Objective = SFT
) -> NDArray[np.float64]:
    """(n,) norm of each row's gradient over all layers of `opened`; NaN where loss or gradient is not finite.

    Rows must have a label. The loss is that of `objective`: for `sft` the mean over a row's labels.
    """
    import torch

    from tamis.gradient.influence import sweep, token_lengths

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        squares = torch.zeros(len(batch), dtype=torch.float64, device=opened.device)

        def hand(_: str, delta: torch.Tensor, seen: torch.Tensor) -> None:
            squares.add_(squared_norms(delta, seen))

        losses = objective.factors(opened, [rows[place] for place in batch], hand)
        return torch.where(losses.isfinite() & squares.isfinite(), squares.sqrt(), torch.nan), losses

    return sweep(token_lengths(rows, objective), on, one)[0]
