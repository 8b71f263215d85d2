"""Influence of training rows on target tasks: the formulas of LESS (Xia et al. 2024, arXiv 2402.04333), exact.

    Γ(z)      direction in which Adam would move the parameters after seeing row z alone (`Formula`)
    V_k       target vector of task k, from the raw gradients of its rows
    score     <Γ(z), V_k> / ‖Γ(z)‖

Nothing is projected and nothing is stored: inner products and norms add up layer by layer while the backward pass runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.checkpoints import Checkpoint
    from tamis.values import Machine

Moments = Literal["less", "adam", "raw", "sign"]
EpsMode = Literal["inside", "outside"]
Momentum = Literal["keep", "drop"]
SubtaskAgg = Literal["mean_cos", "cos_mean"]
Profile = Literal["recommended", "less-official"]
Loss = Literal["sft", "dpo"]
Tokens = tuple["NDArray[np.int32]", "NDArray[np.bool_]"]
Example = Tokens | tuple[Tokens, Tokens]  # a row, or the chosen and the rejected side of a pair


@dataclass(frozen=True, kw_only=True)
class Formula:
    """How a row's gradient g becomes Γ, and how the gradients of a task become V.

    `moments`: `less` updates the checkpoint's moments with g first, m' = β₁m + (1-β₁)g and v' = β₂v + (1-β₂)g²;
    `adam` keeps v as it stands (a fixed diagonal scaling); `raw`: Γ = g; `sign`: Γ = sign(g). `momentum: drop` leaves
    β₁m out of m', which is the same for every row. `bias_correction` divides m' by 1-β₁^t and v' by 1-β₂^t. `eps_mode`:
    m' / (√v' + ε) (`outside`, as Adam) or m' / √(v' + ε) (`inside`, as the released LESS). `subtask_agg`: V is the unit
    vector along the mean gradient (`cos_mean`, the paper) or the mean of the unit gradients (`mean_cos`, the code).
    """

    moments: Moments = "less"
    eps_mode: EpsMode = "outside"
    bias_correction: bool = True
    momentum: Momentum = "drop"
    subtask_agg: SubtaskAgg = "cos_mean"

    def but(self, **settings: Any) -> Formula:
        """Return the same with every setting replaced that is not None."""
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if value is not None})


PROFILES: dict[Profile, Formula] = {
    "recommended": Formula(),
    "less-official": Formula(eps_mode="inside", bias_correction=False, momentum="keep", subtask_agg="mean_cos"),
}


@dataclass(frozen=True)
class Objective:
    """The loss whose gradient counts: of answers (mean per token), or of preferences (DPO, at the reference).

    Examples are (ids, labels) for `sft`, and the two sides ((ids, labels), (ids, labels)) of a pair for `dpo`.
    """

    loss: Loss = "sft"
    beta: float = 0.1

    def length(self, example: Any) -> int:
        """Tokens that an example takes up in a batch."""
        return len(example[0]) if self.loss == "sft" else 2 * max(len(side[0]) for side in example)

    def gradients(
        self, opened: Opened, examples: Sequence[Any], consume: Callable[[str, torch.Tensor], None]
    ) -> torch.Tensor:
        """(b,) losses; `consume(name, gradient)` gets (b, out, in) of every layer."""
        from tamis.gradients import pad, per_example, per_pair

        if self.loss == "sft":
            return per_example(opened.model, opened.layers, *pad(list(examples), opened.device), consume)
        sides = [pair[side] for side in (0, 1) for pair in examples]
        return per_pair(opened.model, opened.layers, *pad(sides, opened.device), self.beta, consume)


SFT = Objective()


class Direction:
    """Γ of the rows of a batch, layer by layer, from a checkpoint's moments; what no row changes is ready."""

    def __init__(self, formula: Formula, checkpoint: Checkpoint, device: str) -> None:
        self.formula = formula
        self.constants: dict[str, tuple[torch.Tensor | None, torch.Tensor]] = {}
        beta1, beta2 = checkpoint.facts["betas"] if formula.moments in ("less", "adam") else (0.0, 0.0)
        self.eps = float(checkpoint.facts["eps"]) if formula.moments in ("less", "adam") else 0.0
        fixed = formula.moments == "adam"
        step = checkpoint.step + 1
        correct1 = 1 - beta1**step if formula.bias_correction else 1.0
        correct2 = 1 - beta2 ** (step - fixed) if formula.bias_correction else 1.0
        self.of_gradient = (1 - beta1) / correct1
        self.of_square = 0.0 if fixed else (1 - beta2) / correct2
        if formula.moments in ("raw", "sign"):
            return
        for name, (first, second) in checkpoint.moments().items():
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


@dataclass(frozen=True)
class Opened:
    """A checkpoint's model, frozen, with the layers whose gradients count, by the name of their weight."""

    model: Any
    layers: Mapping[str, torch.nn.Linear]
    device: str


def open_checkpoint(checkpoint: Checkpoint, device: str) -> Opened:
    """Open the model of a checkpoint: the layers are its LoRA matrices, or all linear layers of a full model."""
    import warnings

    from tamis.gradients import linear_layers, lora_layers
    from tamis.models import open_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model: Any = open_model(checkpoint.model(), device)
    model.requires_grad_(False)
    return Opened(model, lora_layers(model) if checkpoint.kind == "lora" else linear_layers(model), device)


def _sweep(
    lengths: NDArray[np.int64], on: Machine, one: Callable[[NDArray[np.int64]], tuple[Any, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run `one(places)` over length-bucketed batches; its two (b, …) results, put back into the order of the rows."""
    import numpy as np

    from tamis.batching import batches, with_halving

    places: list[NDArray[np.int64]] = []
    results: list[tuple[Any, Any]] = []

    def run(batch: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[Any, Any]]:
        return batch, one(batch)

    for whole in batches(lengths, on.tokens_per_batch):
        for batch, result in with_halving(run, whole):
            places.append(batch)
            results.append(result)
    back = np.argsort(np.concatenate(places))
    first, second = (np.concatenate([result[k].double().cpu().numpy() for result in results])[back] for k in (0, 1))
    return first, second


def cosines(
    opened: Opened,
    rows: Sequence[Example],
    direction: Direction | None,
    vectors: Mapping[str, torch.Tensor],
    on: Machine,
    objective: Objective = SFT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """<Γ, V_k> / ‖Γ‖ as (n, K), and ‖Γ‖ as (n,). Rows must have a label. A zero Γ has cosine 0.

    `vectors`: V by layer, (K, p) float32; none at all gives K = 0. Without `direction` Γ is the raw gradient. A row
    whose loss or gradient is not finite has a norm of NaN.
    """
    import numpy as np
    import torch

    tasks = len(next(iter(vectors.values()))) if vectors else 0

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        dots = torch.zeros(len(batch), tasks, dtype=torch.float64, device=opened.device)
        squares = torch.zeros(len(batch), dtype=torch.float64, device=opened.device)

        def consume(name: str, gradient: torch.Tensor) -> None:
            flat = gradient.flatten(1)
            flat = flat if flat.dtype == torch.float64 else flat.float()
            gamma = direction(name, flat) if direction is not None else flat
            squares.add_(torch.linalg.vector_norm(gamma, dim=1).double().square_())
            if vectors:
                dots.add_((gamma @ vectors[name].T.to(gamma.dtype)).double())

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        norms = torch.where(losses.isfinite() & squares.isfinite(), squares.sqrt(), torch.nan)
        return dots / norms.clamp(min=torch.finfo(torch.float64).tiny)[:, None], norms

    return _sweep(np.array([objective.length(row) for row in rows], np.int64), on, one)


def task_vectors(
    opened: Opened,
    rows: Sequence[Example],
    task: NDArray[np.int64],
    agg: SubtaskAgg,
    on: Machine,
    objective: Objective = SFT,
) -> tuple[dict[str, torch.Tensor], NDArray[np.int64]]:
    """V by layer, (K, p) float32, for tasks 0 … K-1, and the places of rows left out for values that are not finite.

    `task` (n,): the task of every row. A first sweep measures the norms, so that one layer's gradients are all that a
    batch ever holds. A task without a row left has a V of zeros; the caller looks.
    """
    import numpy as np
    import torch

    _, norms = cosines(opened, rows, None, {}, on, objective)
    good = np.isfinite(norms)
    counts = np.bincount(task[good], minlength=int(task.max()) + 1)
    factor = np.zeros(len(rows))
    factor[good] = 1 / counts[task[good]]
    if agg == "mean_cos":
        factor[good] /= np.maximum(norms[good], np.finfo(np.float64).tiny)
    wide = next(opened.model.parameters()).dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    vectors = {
        name: torch.zeros(len(counts), layer.weight.numel(), dtype=dtype, device=opened.device)
        for name, layer in opened.layers.items()
    }

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        mix = torch.zeros(len(counts), len(batch), dtype=dtype, device=opened.device)
        mix[torch.from_numpy(task[batch]), torch.arange(len(batch))] = torch.from_numpy(factor[batch]).to(mix)

        parts: dict[str, torch.Tensor] = {}

        def consume(name: str, gradient: torch.Tensor) -> None:
            parts[name] = mix @ gradient.flatten(1).to(dtype)

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        for name, part in parts.items():  # only now: a batch that ran out of memory halfway is run again in halves
            vectors[name] += part
        return losses, losses

    kept = np.flatnonzero(good)
    if len(kept):
        tokens = np.array([objective.length(rows[place]) for place in kept.tolist()], np.int64)
        _sweep(tokens, on, lambda batch: one(kept[batch]))
    if agg == "cos_mean":
        squares = sum(vector.double().square().sum(1) for vector in vectors.values())
        lengths = torch.as_tensor(squares).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        for vector in vectors.values():
            vector /= lengths[:, None].to(dtype)
    return vectors, np.flatnonzero(~good)
