"""Influence of training rows on target tasks, exact: inner products of directions Γ with the vectors V of tasks.

Nothing is projected and nothing is stored: inner products and norms add up layer by layer while the backward pass runs.
The formulas are those of `tamis.gradient.formula`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tamis.gradient.objective import SFT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.directions import Direction
    from tamis.gradient.formula import SubtaskAgg
    from tamis.gradient.objective import Example, Objective, Opened
    from tamis.values import Machine


def sweep(
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


def token_lengths(rows: Sequence[Example], objective: Objective) -> NDArray[np.int64]:
    """(n,) tokens that every row takes up in a batch."""
    import numpy as np

    return np.array([objective.length(row) for row in rows], np.int64)


def wide(gradient: torch.Tensor) -> torch.Tensor:
    """Gradients (b, …) as (b, p) in float32, or float64 where they are."""
    import torch

    flat = gradient.flatten(1)
    return flat if flat.dtype == torch.float64 else flat.float()


def inner_products(
    opened: Opened,
    rows: Sequence[Example],
    direction: Direction | None,
    vectors: Mapping[str, torch.Tensor],
    on: Machine,
    objective: Objective = SFT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """<Γ, V_k> as (n, K), and ‖Γ‖ as (n,). Rows must have a label.

    `vectors`: V by layer, (K, p) float32; none at all gives K = 0. Without `direction` Γ is the raw gradient. A row
    whose loss or gradient is not finite has a norm of NaN.
    """
    import torch

    tasks = len(next(iter(vectors.values()))) if vectors else 0

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        dots = torch.zeros(len(batch), tasks, dtype=torch.float64, device=opened.device)
        squares = torch.zeros(len(batch), dtype=torch.float64, device=opened.device)

        def consume(name: str, gradient: torch.Tensor) -> None:
            flat = wide(gradient)
            gamma = direction(name, flat) if direction is not None else flat
            squares.add_(torch.linalg.vector_norm(gamma, dim=1).double().square_())
            if vectors:
                dots.add_((gamma @ vectors[name].T.to(gamma.dtype)).double())

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        return dots, torch.where(losses.isfinite() & squares.isfinite(), squares.sqrt(), torch.nan)

    return sweep(token_lengths(rows, objective), on, one)


def cosines(products: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, K) inner products divided by the (n,) norms of Γ; a zero Γ has cosine 0."""
    import numpy as np

    return products / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]


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

    _, norms = inner_products(opened, rows, None, {}, on, objective)
    good = np.isfinite(norms)
    counts = np.bincount(task[good], minlength=int(task.max()) + 1)
    factor = np.zeros(len(rows))
    factor[good] = 1 / counts[task[good]]
    if agg == "mean_cos":
        factor[good] /= np.maximum(norms[good], np.finfo(np.float64).tiny)
    vectors = zeros_like_layers(opened, len(counts))

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        present, line = np.unique(task[batch], return_inverse=True)
        mix = torch.zeros(len(present), len(batch), dtype=torch.float64)
        mix[torch.from_numpy(line), torch.arange(len(batch))] = torch.from_numpy(factor[batch])
        parts: dict[str, torch.Tensor] = {}

        def consume(name: str, gradient: torch.Tensor) -> None:
            flat = wide(gradient)
            parts[name] = mix.to(flat) @ flat

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        for name, part in parts.items():  # only now: a batch that ran out of memory halfway is run again in halves
            vectors[name].index_add_(0, torch.from_numpy(present).to(opened.device), part)
        return losses, losses

    kept = np.flatnonzero(good)
    if len(kept):
        sweep(token_lengths([rows[place] for place in kept.tolist()], objective), on, lambda batch: one(kept[batch]))
    if agg == "cos_mean":
        normalise(vectors)
    return vectors, np.flatnonzero(~good)


def zeros_like_layers(opened: Opened, rows: int) -> dict[str, torch.Tensor]:
    """(rows, p) zeros by layer, float64 where the model is, else float32."""
    import torch

    double = next(opened.model.parameters()).dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    return {
        name: torch.zeros(rows, layer.weight.numel(), dtype=dtype, device=opened.device)
        for name, layer in opened.layers.items()
    }


def normalise(vectors: Mapping[str, torch.Tensor]) -> None:
    """Scale every task's vector, whose parts lie by layer as (K, p), to length 1, in place; zeros stay zeros."""
    import torch

    squares = torch.stack([vector.double().square().sum(1) for vector in vectors.values()]).sum(0)
    lengths = squares.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    for vector in vectors.values():
        vector /= lengths[:, None].to(vector.dtype)
