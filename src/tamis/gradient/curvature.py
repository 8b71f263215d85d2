"""DataInf (Kwon et al. 2024, arXiv 2310.00902): the inverse of a damped Fisher matrix, in closed form, layer by layer.

    H_l⁻¹ ≈ 1/n Σ_i (g_il g_ilᵀ + λ_l)⁻¹        exact inverses (Sherman-Morrison) of rank-one terms, then their mean
    H_l⁻¹ V = 1/λ_l (V - 1/n Σ_i (g_il·V) / (λ_l + ‖g_il‖²) g_il),   λ_l = 0.1 · mean of ‖g_il‖² / p_l

over the raw gradients g of n rows of the data that were trained on. A layer is a weight matrix, of p_l entries.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tamis.errors import DataError
from tamis.gradient.objective import SFT

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tamis.gradient.objective import Example, Objective, Opened
    from tamis.pool import Pool
    from tamis.values import Machine, Row

DAMPING = 0.1


def sample_rows(pool: Pool, count: int) -> list[Row]:
    """At most `count` rows of a pool, those whose keys have the lowest digests: the same however the pool is cut."""
    from tamis import digests

    lowest: list[tuple[str, int]] = []
    for start, shard in zip(pool.starts, pool.shards, strict=False):
        keys = shard.table(["key"]).column("key").to_pylist()
        drawn = ((digests.of_json(["curvature", key]), start + place) for place, key in enumerate(keys))
        lowest = heapq.nsmallest(count, [*lowest, *drawn])
    return pool.read([place for _, place in lowest])


def inverse_products(
    opened: Opened,
    rows: Sequence[Example],
    vectors: Mapping[str, torch.Tensor],
    on: Machine,
    objective: Objective = SFT,
) -> dict[str, torch.Tensor]:
    """H⁻¹ V by layer, (K, p), from V by layer, (K, p), over `rows`; those that are not finite are left out.

    Raises DataError where no row is left.
    """
    import numpy as np
    import torch

    from tamis.gradient.influence import sweep, token_lengths, wide

    squares, damping, good = _squares(opened, rows, on, objective)
    kept = np.flatnonzero(good)
    number = {name: place for place, name in enumerate(opened.layers)}
    sums = {name: torch.zeros_like(vector) for name, vector in vectors.items()}

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        parts: dict[str, torch.Tensor] = {}

        def consume(name: str, gradient: torch.Tensor) -> None:
            flat = wide(gradient)
            below = torch.from_numpy(damping[number[name]] + squares[batch, number[name]]).to(flat)
            shares = (flat @ vectors[name].T.to(flat.dtype)) / below[:, None]
            parts[name] = shares.T @ flat

        losses = objective.gradients(opened, [rows[place] for place in batch], consume)
        for name, part in parts.items():  # only now, as in `task_vectors`
            sums[name] += part
        return losses, losses

    sweep(token_lengths([rows[place] for place in kept.tolist()], objective), on, lambda batch: one(kept[batch]))
    return {name: (vector - sums[name] / len(kept)) / float(damping[number[name]]) for name, vector in vectors.items()}


def _squares(
    opened: Opened, rows: Sequence[Example], on: Machine, objective: Objective
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """‖g_il‖² as (n, layers), λ as (layers,), and which rows are finite (n,)."""
    import numpy as np
    import torch

    from tamis.gradient.influence import sweep, token_lengths, wide

    if not len(rows):
        raise DataError("curvature: no row of the sample of the pool has an answer to differentiate")
    number = {name: place for place, name in enumerate(opened.layers)}

    def one(batch: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        squares = torch.zeros(len(batch), len(number), dtype=torch.float64, device=opened.device)

        def consume(name: str, gradient: torch.Tensor) -> None:
            squares[:, number[name]] = torch.linalg.vector_norm(wide(gradient), dim=1).double().square_()

        return squares, objective.gradients(opened, [rows[place] for place in batch], consume)

    squares, losses = sweep(token_lengths(rows, objective), on, one)
    good = np.isfinite(losses) & np.isfinite(squares).all(1)
    if not good.any():
        raise DataError("curvature: no row of the sample of the pool gives values that are finite")
    sizes = np.array([layer.weight.numel() for layer in opened.layers.values()])
    damping = DAMPING * squares[good].mean(0) / sizes
    return squares, np.where(damping > 0, damping, 1.0), good  # a layer that no row moves is left as it is
