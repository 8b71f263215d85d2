"""k-NN graphs of embeddings: the sparse kernel of objectives over many rows.

Row i holds the k rows of greatest cosine to row i, itself among them with cosine 1, those not above 0 left out. The
graph is not made symmetric: facility location reads row i as the candidates that can stand for i, and these are its own
nearest; the other direction would add entries, most of them at rows that are near to many, and no row k better ones.

Cosines are rounded to multiples of 2^-20, on which sums in float64 are exact. Nothing depends on threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError
from tamis.submodular.knn_lists import SIZE, Lists, blocks, make_lists, unit_block, workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

How = Literal["auto", "flat", "hnsw", "ivf", "grouped"]
FLAT_LIMIT = 6_000  # rows up to which all products cost less than lists
GOAL = 0.97  # recall that the number of lists looked into is chosen for
_MOST = 128  # lists looked into at most
_CELLS = 8  # cells looked into at least
_TRIAL = 256  # rows on which that number is chosen
_QUERIES = 512
_COLUMNS = 8192

Found = tuple["NDArray[np.float32]", "NDArray[np.int32]"]


@dataclass(frozen=True, eq=False)
class Graph:
    """The nearest rows of every row: those of i are `indices[indptr[i]:indptr[i + 1]]`, nearest first, i at the head.

    `indptr` (n + 1,) int64, `indices` (e,) int32, `values` (e,) float32 in (0, 1]. `how` is never `auto`. `recall`:
    share of the true nearest found, itself not counted, equal cosines counting as equal, over `sample` rows; None where
    nothing was sampled. `detail` says what the search looked at.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    how: Literal["flat", "hnsw", "ivf", "grouped"]
    recall: float | None
    sample: int
    detail: str = ""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def note(self) -> str:
        """A sentence for reports: rows, entries, method and recall."""
        recall = "not measured" if self.recall is None else f"{self.recall:.4f} on {self.sample} rows"
        detail = f" ({self.detail})" if self.detail else ""
        mean = len(self.indices) / max(1, len(self))
        return f"k-NN graph of {len(self)} rows, {mean:.1f} neighbours a row, {self.how}{detail}; recall {recall}"


def build(
    vectors: NDArray[Any], k: int, how: How = "auto", seed: int = 0, threads: int = 1, recall_sample: int = 1000
) -> Graph:
    """Graph of (n, d) embeddings, float16 or float32, in memory or mapped from disk; they need no unit length.

    `k` counts the row itself; with k >= n the graph holds every positive cosine. `flat` compares all pairs, O(n² d).
    `grouped` compares every row to lists of about 64 rows, O(n d) a list: as many of the nearest, at most 128, as a
    recall of 0.97 takes on 256 rows. `ivf` and `hnsw` search a FAISS index. `auto` is flat up to 6,000 rows, then
    grouped. Recall is measured by exact search for `recall_sample` rows, O(n d) a row. DataError for NaN, infinity,
    rows of zeros, or k below 1.
    """
    import numpy as np

    if vectors.ndim != 2 or not len(vectors) or k < 1:
        raise DataError(f"a k-NN graph needs rows (n, d) and k of at least 1; got {vectors.shape} and k = {k}")
    count, chosen = len(vectors), how
    if chosen == "auto":
        chosen = "flat" if count <= FLAT_LIMIT else "grouped"
    k = min(k, count)
    draw = np.random.default_rng(seed).permutation(count)
    with workers(threads) as pool:
        search = {"flat": _flat, "grouped": _grouped, "ivf": _indexed("ivf"), "hnsw": _indexed("hnsw")}[chosen]
        (values, places), detail = search(vectors, k, seed, pool, np.sort(draw[::-1][:_TRIAL]))
    graph = _compressed(values, places, chosen, detail)
    if k == 1 or recall_sample < 1:
        return graph
    recall = recall_of(vectors, graph, recall_sample, seed, threads)
    return dataclasses.replace(graph, recall=recall, sample=min(count, recall_sample))


def recall_of(vectors: NDArray[Any], graph: Graph, sample: int, seed: int = 0, threads: int = 1) -> float:
    """Share of the exact nearest that a graph holds, over `sample` rows drawn; the row itself is not counted.

    A row as near as the last of the exact ones is as good as that. O(sample n d).
    """
    import numpy as np

    drawn = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:sample])
    most = int(np.diff(graph.indptr).max())
    with workers(threads) as pool:
        exact, _ = _all_pairs(vectors, drawn, most, pool)
    hits = total = 0
    for row, nearest in zip(drawn.tolist(), exact[:, 1:], strict=True):
        wanted = int((nearest > 0).sum())
        found = graph.values[graph.indptr[row] + 1 : graph.indptr[row + 1]]
        hits += min(wanted, int((found >= nearest[wanted - 1] - 2e-6).sum())) if wanted else 0
        total += wanted
    return hits / max(1, total)


def _compressed(values: Any, places: Any, how: Any, detail: str) -> Graph:
    import numpy as np

    from tamis.submodular.knn_loops import compact

    indptr = np.zeros(len(values) + 1, np.int64)
    compact(values, places, indptr)
    used = int(indptr[-1])
    return Graph(indptr, places.reshape(-1)[:used], values.reshape(-1)[:used], how, None, 0, detail)


def _empty(own: NDArray[np.int32], k: int) -> Found:
    """(q, k) similarities and places with every query at its own head."""
    import numpy as np

    values, places = np.zeros((len(own), k), np.float32), np.full((len(own), k), -1, np.int32)
    values[:, 0], places[:, 0] = 1, own
    return values, places


def _all_pairs(vectors: NDArray[Any], wanted: NDArray[np.int64], k: int, pool: ThreadPoolExecutor) -> Found:
    """The exact nearest of rows `wanted` (q,); all rows are read once for every 1,280 of them."""
    import numpy as np

    from tamis.submodular.knn_loops import keep_nearest

    own = wanted.astype(np.int32)
    found, numbers = _empty(own, k), np.arange(len(vectors), dtype=np.int32)
    if k == 1:
        return found

    def search(part: tuple[slice, NDArray[np.float32]], at: slice, rows: NDArray[np.float32]) -> None:
        queries, here = part[1], np.arange(part[0].start, part[0].stop)
        keep_nearest(queries @ rows.T, numbers[at], own[part[0]], here, *found)

    for group in blocks(len(own), 5 * 256):
        parts = [
            (slice(group.start + part.start, group.start + part.stop), unit_block(vectors, wanted[group][part]))
            for part in blocks(group.stop - group.start, 256)
        ]
        for at in blocks(len(vectors), _COLUMNS):
            rows = unit_block(vectors, at)
            list(pool.map(lambda part, at=at, rows=rows: search(part, at, rows), parts))
    return found


def _flat(
    vectors: NDArray[Any], k: int, seed: int, pool: ThreadPoolExecutor, trial: NDArray[np.int64]
) -> tuple[Found, str]:
    import numpy as np

    return _all_pairs(vectors, np.arange(len(vectors)), k, pool), ""


def _grouped(
    vectors: NDArray[Any], k: int, seed: int, pool: ThreadPoolExecutor, trial: NDArray[np.int64]
) -> tuple[Found, str]:
    """Every row against its nearest lists, the rows of a block that look into the same list in one product.

    It is an inverted-file search turned inside out: neighbouring rows stand side by side and look into the same lists.
    """
    import numpy as np

    from tamis.submodular.knn_loops import keep_nearest

    lists = make_lists(vectors, seed, pool)
    list_of = lists.own()
    looked, depth = _reach(lists, list_of, trial, _all_pairs(vectors, trial, k, pool)[1])
    if 2 * depth > len(lists):
        return _flat(vectors, k, seed, pool, trial)[0], f"{depth} of {len(lists)} lists needed, so all pairs"
    found = _empty(np.arange(len(vectors), dtype=np.int32), k)

    def search(block: slice) -> None:
        near = lists.nearest(lists.rows[block], list_of[block], looked, depth)
        asked = np.argsort(near, axis=None, kind="stable")
        edges = np.searchsorted(near.ravel()[asked], np.arange(len(lists) + 1))
        for one in np.flatnonzero(np.diff(edges)).tolist():
            queries = block.start + asked[edges[one] : edges[one + 1]] // depth
            part = slice(int(lists.starts[one]), int(lists.starts[one + 1]))
            own = lists.order[queries]
            products = lists.rows[queries] @ lists.rows[part].T
            keep_nearest(products, lists.order[part], own, own.astype(np.int64), *found)

    list(pool.map(search, blocks(len(vectors))))
    return found, f"{len(lists)} lists, {depth} a row looked into, from {looked} of {len(lists.cells) - 1} cells"


def _reach(
    lists: Lists, list_of: NDArray[np.int32], trial: NDArray[np.int64], exact: NDArray[np.int32]
) -> tuple[int, int]:
    """Cells and lists to look into for a share `GOAL` of the true nearest `exact` (q, k) of the rows `trial`.

    Of 8, 16, 32 … cells and at most 128 lists the pair that costs least; all that is allowed where none is enough.
    """
    import numpy as np

    place = np.empty(len(lists.order), np.int64)
    place[lists.order] = np.arange(len(place))
    rows, own = lists.rows[place[trial]], list_of[place[trial]]
    wanted = np.where(exact >= 0, list_of[place[exact]], -2)[:, 1:]
    most, cells = min(_MOST, len(lists)), len(lists.cells) - 1
    choices = []
    for looked in sorted({min(cells, _CELLS << step) for step in range(cells.bit_length())}):
        met = lists.nearest(rows, own, looked, most)[:, None, :] == wanted[:, :, None]
        ranks = np.sort(np.where(met.any(axis=2), met.argmax(axis=2), most)[wanted >= 0])
        rank = int(ranks[min(len(ranks) - 1, int(GOAL * len(ranks)))]) if len(ranks) else 0
        if rank < most:
            choices.append((looked * len(lists) // cells + (rank + 1) * SIZE, looked, rank + 1))
    return min(choices)[1:] if choices else (cells, most)


def _indexed(kind: Literal["ivf", "hnsw"]) -> Callable[..., tuple[Found, str]]:
    """Search of a FAISS index, whose rows are all in memory."""

    def search(
        vectors: NDArray[Any], k: int, seed: int, pool: ThreadPoolExecutor, trial: NDArray[np.int64]
    ) -> tuple[Found, str]:
        import numpy as np

        from tamis.submodular.knn_loops import keep_nearest
        from tamis.vectors.index import build as build_index

        rows = np.concatenate([unit_block(vectors, at) for at in blocks(len(vectors))])
        index = build_index(rows, kind, seed)
        found = _empty(np.arange(len(rows), dtype=np.int32), k)

        def one(at: slice) -> None:
            cosines, near = index.nearest(rows[at], k + 1)
            for number in range(at.start, at.stop):
                here = near[number - at.start] >= 0
                places = near[number - at.start][here].astype(np.int32)
                own = np.array([number])
                keep_nearest(cosines[number - at.start][here][None], places, own.astype(np.int32), own, *found)

        list(pool.map(one, blocks(len(rows), 256)))
        return found, ""

    return search
