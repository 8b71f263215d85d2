"""Directions: what a row's gradient becomes through the optimiser's moments, layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from tamis.errors import TrainError

if TYPE_CHECKING:
    import torch

    from tamis.gradient.formula import Formula
    from tamis.training.checkpoints import Checkpoint


class Direction:
    """Γ of the rows of a batch, layer by layer, from a checkpoint's moments; what no row changes is ready.

    `names`: the layers that are going to be asked for (default: all that the checkpoint has moments of); TrainError
    where the checkpoint has none of one.
    """

    def __init__(
        self, formula: Formula, checkpoint: Checkpoint, device: str, names: Collection[str] | None = None
    ) -> None:
        self.formula = formula
        self.constants: dict[str, tuple[torch.Tensor | None, torch.Tensor]] = {}
        if not formula.reads_moments:
            return
        beta1, beta2 = checkpoint.facts["betas"]
        self.eps = float(checkpoint.facts["eps"])
        fixed = formula.moments == "adam"
        step = checkpoint.step + 1
        correct1 = 1 - beta1**step if formula.bias_correction else 1.0
        correct2 = 1 - beta2 ** (step - fixed) if formula.bias_correction else 1.0
        self.of_gradient = (1 - beta1) / correct1
        self.of_square = 0.0 if fixed else (1 - beta2) / correct2
        moments = checkpoint.moments()
        if missing := sorted(set(names or ()) - set(moments)):
            raise TrainError(
                f"{checkpoint.path} holds no moments of {missing[0]} and {len(missing) - 1} more weights: choose "
                "`layers` that were trained, or `moments: raw`"
            )
        for name in moments if names is None else names:
            first, second = moments[name]
            scale = second.flatten().to(device) * ((1.0 if fixed else beta2) / correct2)
            if formula.eps_mode == "inside":
                scale += self.eps
            momentum = first.flatten().to(device) * (beta1 / correct1) if formula.momentum == "keep" else None
            self.constants[name] = (momentum, scale)

    def __call__(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Γ of one layer, (b, p) float32 or wider, from the rows' gradients (b, p), which are overwritten."""
        import torch

        if self.formula.moments == "raw":
            return gradient
        if self.formula.moments == "sign":
            return gradient.sign_()
        momentum, scale = self.constants[name]
        if self.of_square:
            root = torch.addcmul(scale, gradient, gradient, value=self.of_square).sqrt_()
        else:
            root = scale.sqrt()
        if self.formula.eps_mode == "outside":
            root += self.eps
        gradient *= self.of_gradient
        if momentum is not None:
            gradient += momentum
        return gradient.div_(root)

    def balance(self, name: str) -> torch.Tensor | None:
        """(p,) c of one layer, for products <cΓ, V / c> = <Γ, V> whose two sides are spread alike; None: 1.

        The square root of the optimiser's denominator: Γ holds gradients divided by √v, V gradients as they are, so
        cΓ and V / c both hold them divided by the fourth root of v. That is about the c with the least ‖cΓ‖ ‖V / c‖
        (E V² / E Γ² = c⁴, Cauchy-Schwarz), and so the least noise where both are projected.
        """
        if name not in self.constants:
            return None
        root = self.constants[name][1].sqrt()
        if self.formula.eps_mode == "outside":
            root += self.eps
        return root.sqrt_()
