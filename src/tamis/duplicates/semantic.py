"""Duplicates in meaning: rows of which another one, earlier in an order, has nearly the same embedding (SemDeDup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHOLE = 20_000  # rows up to which all are compared with all
_CLUSTER = 4096  # rows a cluster, about, beyond
_ROWS, _COLUMNS = 512, 8192  # of a block of products
_DIGITS = 6  # of a cosine


@dataclass(frozen=True)
class Parts:
    """Clusters of vectors: `labels` (n,) int64, -1 for rows without a vector; `nearness` (n,) cosine to the centre."""

    labels: NDArray[np.int64]
    nearness: NDArray[np.float64]
    centres: NDArray[np.float32]

    def of(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster of other vectors (m, d), -1 for those that are NaN."""
        import numpy as np

        found = np.full(len(vectors), -1, np.int64)
        if not len(self.centres) or not len(vectors):
            return found
        for start in range(0, len(vectors), _COLUMNS):
            block = vectors[start : start + _COLUMNS]
            found[start : start + _COLUMNS] = np.argmax(np.nan_to_num(block) @ self.centres.T, axis=1)
        return np.where(np.isnan(vectors[:, 0]), -1, found)


def parts_of(vectors: NDArray[np.float32], clusters: int, seed: int) -> Parts:
    """Spherical k-means of unit vectors (n, d), NaN where there is none; with `clusters` 0, one up to 20,000 rows.

    Beyond, about 4,096 rows a cluster. The centre of a single cluster is the mean, scaled to unit length.
    """
    import numpy as np

    from tamis.vectors.clusters import k_means
    from tamis.vectors.index import unit

    places = np.flatnonzero(~np.isnan(vectors[:, 0])) if len(vectors) else np.zeros(0, np.int64)
    count = clusters or (1 if len(places) <= WHOLE else -(-len(places) // _CLUSTER))
    labels = np.full(len(vectors), -1, np.int64)
    nearness = np.zeros(len(vectors))
    if not len(places):
        return Parts(labels, nearness, np.zeros((0, vectors.shape[1] if vectors.ndim == 2 else 0), np.float32))
    if count == 1:
        centres = np.nan_to_num(unit(vectors[places].mean(axis=0, dtype=np.float64)[None]))
        labels[places] = 0
    else:
        found = k_means(vectors[places], count, seed)
        centres, labels[places] = found.centres, found.labels
    for start in range(0, len(places), _COLUMNS):
        part = places[start : start + _COLUMNS]
        products = np.einsum("nd,nd->n", vectors[part].astype(np.float64), centres[labels[part]])
        nearness[part] = np.round(products, _DIGITS)
    return Parts(labels, nearness, centres)


def nearest_before(
    vectors: NDArray[np.float32], order: NDArray[np.int64], prior: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For every row of `order`, by place in it, the highest cosine to a prior vector or a row before it, and which.

    `vectors` (n, d) of unit length, `prior` (m, d) too. The answer counts the prior ones first: j < m is prior j, m + i
    the row at `order[i]`. Cosines are rounded to 1e-6; of equal ones the first is taken; -inf where none is before.
    Time O(k (k / 2 + m) d) for k rows, memory in blocks.
    """
    import numpy as np

    highest = np.full(len(order), -np.inf, np.float32)
    which = np.full(len(order), -1, np.int64)
    for start in range(0, len(order), _ROWS):
        block = vectors[order[start : start + _ROWS]]
        stop = start + len(block)
        columns = len(prior) + stop
        for left in range(0, columns, _COLUMNS):
            right = min(columns, left + _COLUMNS)
            products = np.round(block @ _some(vectors, order, prior, left, right).T, _DIGITS)
            ahead = np.arange(left, right)[None] >= len(prior) + np.arange(start, stop)[:, None]
            products[ahead] = -np.inf
            best = products.argmax(axis=1)
            value = products[np.arange(len(block)), best]
            better = value > highest[start:stop]
            highest[start:stop][better] = value[better]
            which[start:stop][better] = best[better] + left
    return highest, which


def _some(
    vectors: NDArray[np.float32], order: NDArray[np.int64], prior: NDArray[np.float32], left: int, right: int
) -> NDArray[np.float32]:
    """Vectors `left` to `right` of the prior ones and then those of `order`."""
    import numpy as np

    count = len(prior)
    rows = order[max(0, left - count) : max(0, right - count)]
    return np.concatenate([prior[min(left, count) : min(right, count)], vectors[rows]])


def standing(
    vectors: NDArray[np.float32],
    worth: NDArray[np.float64],
    parts: Parts,
    threshold: float,
    prior: NDArray[np.float32],
) -> NDArray[np.int64]:
    """(n,) the row that stays for each: itself, another row, or n + a prior one.

    SemDeDup's rule inside every cluster: in the order of worth, greatest first and then by place, a row leaves where
    its cosine to a prior one or any row before it, staying or not, reaches the threshold. In its place stays who stays
    for the nearest of those.
    """
    import numpy as np

    found = np.arange(len(vectors))
    homes = parts.of(prior)
    ranked = np.lexsort((np.arange(len(worth)), -worth))
    for label in range(len(parts.centres)):
        order = ranked[parts.labels[ranked] == label]
        elders = np.flatnonzero(homes == label)
        cosines, which = nearest_before(vectors, order, prior[elders])
        for place in np.flatnonzero(cosines >= np.float32(threshold)).tolist():
            other = int(which[place])
            own = other >= len(elders)
            found[order[place]] = found[order[other - len(elders)]] if own else len(vectors) + elders[other]
    return found


def cosines(
    vectors: NDArray[np.float32], prior: NDArray[np.float32], rows: NDArray[np.int64], nodes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(k,) cosine of each of `rows` to the vector or (n + j) prior vector beside it in `nodes`, rounded to 1e-6."""
    import numpy as np

    found = np.zeros(len(rows), np.float32)
    own = nodes < len(vectors)
    for side, other in ((own, vectors), (~own, prior)):
        there = nodes[side] - (0 if other is vectors else len(vectors))
        products = np.einsum("nd,nd->n", vectors[rows[side]].astype(np.float64), other[there].astype(np.float64))
        found[side] = np.round(products, _DIGITS)
    return found
