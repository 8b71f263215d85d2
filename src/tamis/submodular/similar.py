"""Kernels of embeddings as selectors ask for them: all cosines where they fit, else those of nearest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Kernel
    from tamis.values import Machine

Held = Literal["auto", "dense", "knn"]
DENSE_ROWS = 10_000  # rows of which all cosines are held: 400 MB


def kernel_of(
    vectors: NDArray[np.float32], held: Held, neighbours: int, on: Machine, dense_rows: int = DENSE_ROWS
) -> tuple[Kernel, tuple[str, ...]]:
    """Cosines of unit vectors (n, d) with each other, and what is to be said of them.

    `dense`: every cosine, held in memory up to `dense_rows` rows (4 n² bytes), beyond computed each time one is asked
    for, O(n d) a gain. `knn`: those of every row to its `neighbours` nearest, itself counted, the rest 0. `auto`: dense
    up to that many rows, then knn. There are never n by n numbers in memory above that limit. Products of the dense
    kernel are made on the machine's device, with the same bits; the graph and the greedy loops run on the processor.
    """
    from tamis.submodular.cosines import Cosine
    from tamis.submodular.kernels import Sparse

    few = len(vectors) <= dense_rows
    if held == "knn" or (held == "auto" and not few):
        from tamis.submodular.knn_graph import build

        graph = build(vectors, neighbours, threads=on.threads)
        kernel = Sparse(graph.indptr, graph.indices, graph.values, len(vectors))
        return kernel, (f"approximation: similarities to the nearest rows alone: {graph.note}",)
    kernel_of_all = Cosine(vectors, device=on.device)
    return kernel_of_all.dense() if few else kernel_of_all, ()


def to_others(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> Kernel:
    """Cosines of candidates (n, d) to other rows (q, d), which they represent; held where they are 400 MB or less."""
    from tamis.submodular.cosines import Cosine

    kernel = Cosine(vectors, others)
    return kernel.dense() if len(vectors) * len(others) <= DENSE_ROWS**2 else kernel
