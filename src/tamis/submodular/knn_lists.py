"""Rows in lists of about 64 near ones, by k-means in two levels, and the lists that are nearest to a row.

Clustering in two levels, about sqrt(n / 64) cells and within each about as many lists, keeps lists small at any n, at
a cost that grows little faster than n; so does looking for the nearest lists in the nearest cells alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZE = 64  # rows a list that are aimed at; none has more than twice as many
BLOCK = 4096
_ROUNDS = 10
_SAMPLE = 64  # rows a centre that centres are fitted on


@dataclass(frozen=True)
class Lists:
    """Rows sorted by list.

    `rows` (n, d) float32 of unit length, `order` (n,) int32 the number of each in the source, `starts` (l + 1,) where
    lists begin, `centres` (l, d) float32 their mean directions. Lists `cells[c]` to `cells[c + 1]` make cell c, whose
    mean direction is `cell_centres[c]`.
    """

    rows: NDArray[np.float32]
    order: NDArray[np.int32]
    starts: NDArray[np.int64]
    centres: NDArray[np.float32]
    cells: NDArray[np.int64]
    cell_centres: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.centres)

    def own(self) -> NDArray[np.int32]:
        """(n,) list of every row, in the order of `rows`."""
        import numpy as np

        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))

    def nearest(self, rows: NDArray[np.float32], own: NDArray[np.int32], looked: int, depth: int) -> NDArray[np.int32]:
        """(q, depth) lists whose centres have the greatest cosine to rows (q, d), after the list `own` of each.

        Those of the `looked` nearest cells; where they have fewer, the rest is -1.
        """
        import numpy as np

        from tamis.submodular.knn_loops import keep_nearest

        values, places = np.zeros((len(own), depth), np.float32), np.full((len(own), depth), -1, np.int32)
        places[:, 0] = own
        cosines = rows @ self.cell_centres.T
        cells = cosines.shape[1]
        looked = min(cells, looked)
        least = np.partition(cosines, cells - looked, axis=1)[:, cells - looked]
        for cell in range(cells if depth > 1 else 0):
            here = np.flatnonzero(cosines[:, cell] >= least)
            part = slice(int(self.cells[cell]), int(self.cells[cell + 1]))
            if len(here):
                numbers = np.arange(part.start, part.stop, dtype=np.int32)
                products = rows[here] @ self.centres[part].T  # in (0, 1], so that none is left out as not above 0
                keep_nearest(0.5 + 0.49 * products, numbers, own[here], here, values, places)
        return places


def unit_block(vectors: NDArray[Any], at: slice | NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows `at` in float32 of unit length; DataError where one is 0 or not finite."""
    import numpy as np

    block = np.asarray(vectors[at], dtype=np.float32)
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise DataError("embeddings hold NaN, infinity or a row of zeros; leave such rows out of the graph")
    scaled: NDArray[np.float32] = block / norms.astype(np.float32)[:, None]
    return scaled


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose matrix products run on one thread each: what they find does not depend on how many there are."""
    import faiss
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1, "blas"),
        ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool


def blocks(count: int, size: int = BLOCK) -> list[slice]:
    """0 … count in slices."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def make_lists(vectors: NDArray[Any], seed: int, pool: ThreadPoolExecutor) -> Lists:
    """Cluster rows (n, d), read in blocks, into about n / 64 lists."""
    import numpy as np

    count, cells = len(vectors), max(1, round((len(vectors) / SIZE) ** 0.5))
    sample = np.sort(np.random.default_rng(seed).permutation(count)[: 4 * _SAMPLE * cells])
    centres = pool.submit(_centres, unit_block(vectors, sample), cells, seed).result()
    labels = np.concatenate(list(pool.map(lambda at: _labels(unit_block(vectors, at), centres), blocks(count))))
    order = np.argsort(labels, kind="stable").astype(np.int32)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    rows = np.empty(vectors.shape, np.float32)

    def put(at: slice) -> None:
        rows[place[at]] = unit_block(vectors, at)

    list(pool.map(put, blocks(count)))
    edges = np.searchsorted(labels[order], np.arange(len(centres) + 1)).tolist()
    parts = [slice(low, high) for low, high in itertools.pairwise(edges) if high > low]
    sizes = list(pool.map(lambda number: _split(rows, order, parts[number], seed + 1 + number), range(len(parts))))
    starts = _edges(np.concatenate(sizes))
    cells = _edges(np.array([len(one) for one in sizes]))
    return Lists(rows, order, starts, _means(rows, starts), cells, _means(rows, starts[cells]))


def _edges(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _means(rows: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean directions of runs of rows."""
    import numpy as np

    means = np.add.reduceat(rows, starts[:-1], axis=0)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = means / np.maximum(norms, np.float32(1e-12))
    return scaled


def _centres(rows: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    import faiss
    import numpy as np

    means = faiss.Kmeans(
        rows.shape[1],
        min(count, len(rows)),
        niter=_ROUNDS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=4 * _SAMPLE,
    )
    means.train(rows)
    return np.asarray(means.centroids, np.float32)


def _labels(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = (rows @ centres.T).argmax(axis=1)
    return labels


def _split(rows: NDArray[np.float32], order: NDArray[np.int32], part: slice, seed: int) -> NDArray[np.int64]:
    """Sort the rows of a cell by list, in place; the sizes of its lists."""
    import numpy as np

    own, numbers = rows[part], order[part]
    count = round(len(own) / SIZE)
    if count > 1:
        chosen = np.random.default_rng(seed).permutation(len(own))[: _SAMPLE * count]
        centres = _centres(own[np.sort(chosen)], count, seed)
        labels = np.concatenate([_labels(own[at], centres) for at in blocks(len(own))])
        by_list = np.argsort(labels, kind="stable")
        rows[part], order[part] = own[by_list], numbers[by_list]
        sizes = np.bincount(labels)
    else:
        sizes = np.array([len(own)])
    return np.concatenate([_at_most(int(size), 2 * SIZE) for size in sizes if size])


def _at_most(size: int, limit: int) -> NDArray[np.int64]:
    """A size in nearly equal parts below a limit: k-means cannot split rows that are equal."""
    import numpy as np

    parts = -(-size // limit)
    return np.diff(np.arange(parts + 1) * size // parts)
