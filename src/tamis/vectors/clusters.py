"""Clusters of unit vectors by spherical k-means (FAISS), the same on every machine size and number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ITERATIONS = 20
BLOCK = 4096
SAMPLE = 256  # rows a cluster that the centres are fitted on at most; more of them move a mean very little


@dataclass(frozen=True)
class Clusters:
    """Rows by cluster. No cluster is empty, so there may be fewer than asked for.

    `labels`: (m,) int32, the centre of greatest cosine. `centres`: (k, d) float32 of unit length. Plain k-means: the
    nearest centre, and means of any length.
    """

    labels: NDArray[np.int32]
    centres: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.centres)


def k_means(vectors: NDArray[np.float32], count: int, seed: int = 0, *, spherical: bool = True) -> Clusters:
    """Spherical k-means of (m, d) unit vectors: at most `count` clusters, numbered from 0, none of them empty.

    `spherical=False` takes vectors of any length, and Euclidean distances. With at least as many clusters as rows, rows
    of equal vectors make a cluster each, by first appearance. Otherwise 20 rounds of Lloyd's algorithm from k-means++,
    on 256 rows a cluster at most; where a cluster runs empty, FAISS splits a large one. One thread, seeded: the outcome
    depends on vectors, count and seed only. Time O(min(m, 256 count) · count · d) a round and O(m · count · d) for the
    labels. DataError where `count` is below 1, there is no row, or a vector is not finite.
    """
    import numpy as np

    if count < 1 or not len(vectors):
        raise DataError(f"asked for {count} clusters of {len(vectors)} rows; both must be at least 1")
    if not np.isfinite(vectors).all():
        raise DataError("vectors hold NaN or infinity; leave such rows out of the clustering")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if count >= len(vectors):
        _, first, labels = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
        return _without_gaps(first[labels.ravel()], vectors)
    return _lloyd(vectors, count, seed, spherical)


def nearest(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int32]:
    """(m,) int32 centre of greatest cosine of each unit vector, the first of equal ones; in blocks of rows."""
    import numpy as np

    blocks = [vectors[start : start + BLOCK] @ centres.T for start in range(0, len(vectors), BLOCK)]
    return np.concatenate([block.argmax(axis=1) for block in blocks] or [np.zeros(0)]).astype(np.int32)


def _lloyd(vectors: NDArray[np.float32], count: int, seed: int, spherical: bool) -> Clusters:
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums of float32 depend on how they are split
    try:
        means = faiss.Kmeans(
            vectors.shape[1],
            count,
            niter=ITERATIONS,
            seed=seed,
            spherical=spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLE,
        )
        means.cp.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
        means.train(vectors)
        assert means.centroids is not None
        _, nearest = means.index.search(vectors, 1)
    finally:
        faiss.omp_set_num_threads(threads)
    return _without_gaps(nearest[:, 0], means.centroids)


def _without_gaps(labels: NDArray[np.int64], centres: NDArray[np.float32]) -> Clusters:
    """Only the centres that some row has, renumbered in their order."""
    import numpy as np

    used, labels = np.unique(labels, return_inverse=True)
    return Clusters(labels.astype(np.int32), np.ascontiguousarray(centres[used], dtype=np.float32))
