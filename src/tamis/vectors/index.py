"""Nearest neighbours by inner product: a FAISS index for search, and exact cosines where order must not waver.

Vectors are rows (n, d) float32; give them unit length to search by cosine. Search is deterministic: the clustering of
`ivf` and the levels of `hnsw` are seeded, the build runs on one thread, and equal scores among those found are put in
the order of places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError, StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["auto", "flat", "ivf", "hnsw"]
FLAT_LIMIT = 100_000  # below this an exact search costs less than training a coarse quantiser
_BLOCK = 4096


@dataclass(frozen=True)
class Index:
    """A FAISS inner-product index and how it was made. `kind` is never `auto`; `dimension` is d."""

    faiss: Any
    kind: Literal["flat", "ivf", "hnsw"]

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.faiss.d)

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Append vectors; they get the next places. The clusters of `ivf` stay those of the first build."""
        self.faiss.add(_checked(vectors, self.dimension))

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inner products (q, k) and places (q, k) of the k nearest of each query, best first.

        Where the search found fewer than k, places are -1 and products -inf.
        """
        import numpy as np

        if k < 1:
            raise DataError(f"asked for {k} neighbours; ask for at least 1")
        scores, places = self.faiss.search(_checked(queries, self.dimension), int(min(k, max(1, len(self)))))
        scores = np.where(places < 0, np.float32(-np.inf), scores)
        order = np.lexsort((places, -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(places, order, axis=1).astype(np.int64)

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        import faiss

        faiss.write_index(self.faiss, str(path))


def _checked(vectors: NDArray[Any], dimension: int | None = None) -> NDArray[np.float32]:
    import numpy as np

    if vectors.ndim != 2 or (dimension is not None and vectors.shape[1] != dimension):
        raise DataError(f"vectors of shape {vectors.shape} given; expected (n, {dimension or 'd'})")
    if not np.isfinite(vectors).all():
        raise DataError("vectors hold NaN or infinity; leave such rows out of the index")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def build(vectors: NDArray[np.float32], kind: Kind = "auto", seed: int = 0) -> Index:
    """Build an index over (n, d) vectors.

    `flat` is exact; `ivf` clusters into about 4·sqrt(n) cells and looks into an eighth of them; `hnsw` is a graph with
    32 links a node. `auto` is flat up to 100,000 vectors, then ivf.
    """
    import faiss

    vectors = _checked(vectors)
    count, dimension = vectors.shape
    chosen = ("flat" if count <= FLAT_LIMIT else "ivf") if kind == "auto" else kind
    if chosen == "flat":
        index = faiss.IndexFlatIP(dimension)
    elif chosen == "hnsw":
        index = _hnsw(dimension, seed)
    else:
        index = _ivf(vectors, seed)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # links of hnsw depend on the order of insertion
    try:
        index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    return Index(index, chosen)


def _hnsw(dimension: int, seed: int) -> Any:
    import faiss

    index: Any = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 128
    index.hnsw.efSearch = 128
    random: Any = faiss
    index.hnsw.rng = random.RandomGenerator(seed)
    return index


def _ivf(vectors: NDArray[np.float32], seed: int) -> Any:
    import faiss

    count, dimension = vectors.shape
    cells = max(1, min(round(4 * count**0.5), count // 39))  # FAISS wants at least 39 points a cell
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.cp.spherical = True
    index.train(vectors)
    index.nprobe = max(1, -(-cells // 8))
    return index


def load(path: Path) -> Index:
    """Read an index that `Index.save` wrote."""
    import faiss

    if not path.is_file():
        raise StoreError(f"there is no index at {path}; build it again")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise StoreError(f"{path} is not an index that FAISS can read; delete it and build it again") from error
    if isinstance(index, faiss.IndexIVFFlat):
        return Index(index, "ivf")
    return Index(index, "hnsw" if isinstance(index, faiss.IndexHNSWFlat) else "flat")


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to length 1; a row that is not finite, or zero, becomes NaN."""
    import numpy as np

    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    scaled[~np.isfinite(scaled).all(axis=1)] = np.nan
    return scaled


def similarities(vectors: NDArray[Any], queries: NDArray[np.float32], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, G) highest cosine of every row to the queries of each group; NaN for rows without a vector.

    `groups` (q,) numbers the group of every query from 0. Exact, in fixed blocks of rows; products are rounded to
    1e-6, so that equal rows tie whatever block they stand in.
    """
    import numpy as np

    wanted = unit(queries)
    answer = np.full((len(vectors), int(groups.max()) + 1), -np.inf, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        products = np.round(unit(vectors[start : start + _BLOCK]) @ wanted.T, 6)
        for group in range(answer.shape[1]):
            answer[start : start + _BLOCK, group] = products[:, groups == group].max(axis=1)
    return answer


class CutShort(Exception):
    """A list of neighbours ended before the turns did."""


def nearest_in_turn(
    vectors: NDArray[Any], queries: NDArray[np.float32], usable: NDArray[np.bool_], rows: int, kind: Kind
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let queries take turns to pick their nearest usable row not taken yet, without an (n, q) array.

    As `round_robin` over `similarities`, but from lists of neighbours that an index gives and that grow where they end
    too soon. With `flat` the answer is that of `round_robin`; with `ivf` and `hnsw` a near neighbour may be missed.
    """
    import numpy as np

    from tamis.budgets import take_turns

    scaled = unit(vectors)
    places = np.flatnonzero(usable & np.isfinite(scaled[:, 0]))
    wanted = unit(queries)
    index = build(scaled[places], kind)
    rows = min(rows, len(places))
    depth = max(64, -(-8 * rows // len(queries)))
    while True:
        queues = [_neighbours(index, scaled, places, query, depth) for query in wanted]
        try:
            return take_turns(queues, rows)
        except CutShort:
            depth *= 4


def _neighbours(
    index: Index, scaled: NDArray[np.float32], places: NDArray[np.int64], query: NDArray[np.float32], depth: int
) -> Iterator[tuple[int, float]]:
    """Yield (place, cosine) of a query, best first; those at the end of a list that might tie with others are kept."""
    import numpy as np

    found = index.nearest(query[None], depth)[1][0]
    near = places[found[found >= 0]]
    cosines = np.round(scaled[near] @ query, 6)
    complete = depth >= len(index)
    if not complete:
        safe = cosines > cosines.min(initial=np.inf) + 2e-6
        near, cosines = near[safe], cosines[safe]
    order = np.lexsort((near, -cosines))
    yield from zip(near[order].tolist(), cosines[order].tolist(), strict=True)
    if not complete:
        raise CutShort
