"""Kernels of embeddings as selectors ask for them: all cosines where they fit, else those of nearest rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tamis.errors import DataError
from tamis.nearness import POOLED
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Kernel
    from tamis.values import Machine
    from tamis.views import PoolView

Held = Literal["auto", "dense", "knn"]
Side = Literal["target", "existing"]
DENSE_ROWS = 10_000  # rows of which all cosines are held: 400 MB


def kernel_of(vectors: NDArray[np.float32], held: Held, neighbours: int, on: Machine) -> tuple[Kernel, tuple[str, ...]]:
    """Cosines of unit vectors (n, d) with each other, and what is to be said of them.

    `dense`: every cosine, held in memory up to 10,000 rows (4 n² bytes), beyond computed each time one is asked for,
    O(n d) a gain. `knn`: those of every row to its `neighbours` nearest, itself counted, the rest 0. `auto`: dense up
    to 10,000 rows, then knn. There are never n by n numbers in memory above that limit.
    """
    from tamis.submodular.cosines import Cosine
    from tamis.submodular.kernels import Sparse

    few = len(vectors) <= DENSE_ROWS
    if held == "knn" or (held == "auto" and not few):
        from tamis.submodular.knn_graph import build

        graph = build(vectors, neighbours, threads=on.threads)
        kernel = Sparse(graph.indptr, graph.indices, graph.values, len(vectors))
        return kernel, (f"approximation: similarities to the nearest rows alone: {graph.note}",)
    return Cosine(vectors).dense() if few else Cosine(vectors), ()


def to_others(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> Kernel:
    """Cosines of candidates (n, d) to other rows (q, d), which they represent; held where they are 400 MB or less."""
    from tamis.submodular.cosines import Cosine

    kernel = Cosine(vectors, others)
    return kernel.dense() if len(vectors) * len(others) <= DENSE_ROWS**2 else kernel


def needs_of(side: Side | None) -> frozenset[Need]:
    """Pooled hidden states of the pool, and of the other side where there is one; the lengths of rows."""
    signals = {Need(kind="signal", name="tokens", settings=POOLED), Need(kind="signal", name="lengths")}
    return frozenset(signals | ({Need(kind="signal", name="tokens", side=side, settings=POOLED)} if side else set()))


def embeddings_of(view: PoolView, side: Side, who: str) -> NDArray[np.float32]:
    """(q, d) unit embeddings of the target, or of existing data; DataError where there are none."""
    import numpy as np

    from tamis.embeddings import of_target
    from tamis.index import unit

    if side == "target":
        return of_target(view, who)
    if view.existing_pool is None:
        raise DataError(f"{who} has no existing data: name files in the recipe, or give --existing")
    vectors = unit(view.existing_pool.signal("tokens", "pooled"))
    good = np.isfinite(vectors).all(axis=1)
    if not good.any():
        raise DataError("no row of the existing data has hidden states; all were refused by the model's pass")
    return vectors[good]
