"""What rows are about, as sets of concepts: tags in their meta, or the clusters that their embeddings lie in.

Clusters are not InsTag. InsTag (Lu et al., 2024), on whose tags MIG was published, asks a language model for the open
intentions behind every instruction: tags have names, overlap, and differ in number from row to row. Clusters of
embeddings have no names, and every row lies in exactly one of each size. Where rows carry tags, name the column.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tamis.errors import DataError, RecipeError
from tamis.values import Need, Reason
from tamis.vectors import embeddings
from tamis.vectors.nearness import Duplicates, repeats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView

CLUSTERS = "clusters"


@dataclass(frozen=True)
class Concepts:
    """Concepts of m rows, in sparse rows.

    Row i has the concepts `ids[indptr[i]:indptr[i + 1]]`, each once, ascending; `indptr` (m + 1,) and `ids` are int64.
    `names`: K names. `family` (K,) int64: 0 for all tags of a column; clusters of one size are a family, so that a row
    has one concept in each.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    names: tuple[str, ...]
    family: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows m."""
        return len(self.indptr) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of every entry of `ids`."""
        import numpy as np

        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    @property
    def frequency(self) -> NDArray[np.int64]:
        """(K,) rows that have the concept."""
        import numpy as np

        return np.bincount(self.ids, minlength=len(self.names)).astype(np.int64)

    def of(self, row: int) -> NDArray[np.int64]:
        """Concepts of one row."""
        return self.ids[self.indptr[row] : self.indptr[row + 1]]


@dataclass(frozen=True)
class Conceived:
    """Rows that may be chosen, with their concepts.

    `places`: (m,) int64 places in the pool, ascending. `reasons`: (n,) uint8 by place, non-zero where a row may not be
    chosen. `vectors`: (m, d) float32 unit embeddings where they were asked for. `keys`: the rows' keys, by which what
    is random or depends on an order is ordered.
    """

    places: NDArray[np.int64]
    reasons: NDArray[np.uint8]
    concepts: Concepts
    keys: tuple[str, ...]
    vectors: NDArray[np.float32] | None = None


def check(who: str, concepts: str, sizes: Sequence[int]) -> None:
    """RecipeError where `concepts` is neither `clusters` nor a column, or a size of clusters is below 1."""
    if concepts != CLUSTERS and concepts not in ("source", "kind", "file") and not concepts.startswith("meta."):
        raise RecipeError(
            f"{who}: concepts {concepts!r} is neither clusters nor a column (source, kind, file, meta.NAME)"
        )
    if any(size < 1 for size in sizes):
        raise RecipeError(f"{who}: sizes {list(sizes)} holds a number of clusters below 1")


def needs_of(concepts: str, *, vectors: bool = False) -> frozenset[Need]:
    """The lengths of rows, and pooled hidden states where concepts are clusters or `vectors` are wanted beside them."""
    lengths = frozenset({Need(kind="signal", name="lengths")})
    return embeddings.needs_of() if vectors or concepts == CLUSTERS else lengths


def of_view(
    view: PoolView,
    who: str,
    concepts: str,
    *,
    sizes: Sequence[int] = (),
    seed: int = 0,
    vectors: bool = False,
    duplicates: Duplicates = "once",
) -> Conceived:
    """The rows of a view that may be chosen, and their concepts.

    `concepts`: `clusters`, or the column that names them: source, kind, file or meta.NAME (a list, or words with commas
    between). `sizes`: numbers of clusters; without any a quarter of, once and four times the root of the number of
    rows. Clusters do not depend on the order of rows. `vectors`: hand over embeddings too. `duplicates`: `once` leaves
    rows out whose text stands in a row before. Time: that of k-means, O(m d) for each cluster and round. DataError
    where no row may be chosen, or none has a concept.
    """
    if vectors or concepts == CLUSTERS:
        found = embeddings.of_pool(view, who, duplicates)
        places, reasons, rows = found.places, found.reasons, found.vectors
    else:
        places, reasons, rows = *_usable(view, who, duplicates), None
    keys = tuple(view.pool.table(["key"]).column("key").take(places).to_pylist())
    if concepts == CLUSTERS:
        assert rows is not None
        made = of_clusters(rows, keys, sizes, seed)
    else:
        made = of_tags(_tags(view, concepts, places, who))
    return Conceived(places, reasons, made, keys, rows if vectors else None)


def of_tags(tags: Sequence[Sequence[str]]) -> Concepts:
    """Concepts of rows by the tags of each, numbered by name.

    >>> of_tags([["b", "a"], [], ["b"]]).ids.tolist()
    [0, 1, 1]
    """
    import numpy as np

    names = sorted({tag for row in tags for tag in row})
    number = {name: place for place, name in enumerate(names)}
    rows = [sorted({number[tag] for tag in row}) for row in tags]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.array([one for row in rows for one in row], np.int64)
    return Concepts(indptr, ids, tuple(names), np.zeros(len(names), np.int64))


def of_clusters(
    vectors: NDArray[np.float32], keys: Sequence[str], sizes: Sequence[int] = (), seed: int = 0
) -> Concepts:
    """Concepts of rows by the clusters that their unit vectors (m, d) lie in, one of each size; see `of_view`."""
    import numpy as np

    from tamis.vectors.clusters import k_means

    root = len(vectors) ** 0.5
    wanted = sorted(set(sizes or (max(1, round(root / 4)), max(1, round(root)), max(1, round(4 * root)))))
    order = np.argsort(np.array(keys))  # k-means starts from rows by their place: no order of the pool may enter
    labels = np.empty((len(vectors), len(wanted)), np.int64)
    names: list[str] = []
    family: list[int] = []
    for level, size in enumerate(wanted):
        found = k_means(vectors[order], size, seed)
        labels[order, level] = found.labels + len(names)
        names += [f"cluster {one} of {len(found)}" for one in range(len(found))]
        family += [level] * len(found)
    indptr = np.arange(len(vectors) + 1, dtype=np.int64) * len(wanted)
    return Concepts(indptr, labels.ravel(), tuple(names), np.array(family, np.int64))


def mean_vectors(concepts: Concepts, vectors: NDArray[np.float32], keys: Sequence[str]) -> NDArray[np.float64]:
    """(K, d) mean of the unit embeddings (m, d) of every concept's rows, summed in the order of `keys`."""
    import numpy as np

    rank = np.argsort(np.argsort(np.array(keys)))  # sums of numbers depend on their order, in the last bits
    rows = concepts.rows
    entries = np.lexsort((rank[rows], concepts.ids))
    starts = np.concatenate([[0], np.cumsum(concepts.frequency)])
    sums = [
        vectors[rows[entries[start:stop]]].sum(axis=0, dtype=np.float64)
        for start, stop in itertools.pairwise(starts.tolist())
    ]
    return np.stack(sums) / concepts.frequency[:, None]


def _usable(view: PoolView, who: str, duplicates: Duplicates) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Places that may be chosen, and by place why not."""
    import numpy as np

    reasons = view.signal("lengths", "reason").astype(np.uint8)
    reasons[(reasons == 0) & ~view.usable] = Reason.NOT_MEASURED
    if duplicates == "once":
        reasons[repeats(view, reasons == 0)] = Reason.DUPLICATE
    places = np.flatnonzero(reasons == 0)
    if not len(places):
        raise DataError(f"{who}: the pool has no usable row")
    return places, reasons


def _tags(view: PoolView, column: str, places: NDArray[np.int64], who: str) -> list[list[str]]:
    if not column.startswith("meta."):
        return [[name] for name in view.groups(column)[places].tolist()]
    name = column.removeprefix("meta.")
    metas = [json.loads(text) for text in view.pool.table(["meta"]).column("meta").take(places).to_pylist()]
    tags = [_listed(meta.get(name)) for meta in metas]
    if not any(tags):
        known = ", ".join(sorted({key for meta in metas for key in meta})) or "no fields"
        raise DataError(f"{who}: no usable row has a {column}; their meta has {known}")
    return tags


def _listed(value: Any) -> list[str]:
    """Tags of one row: a list, text with commas, or one value; empty ones left out.

    >>> _listed("sums, words,"), _listed(["a", 3]), _listed(None)
    (['sums', 'words'], ['a', '3'], [])
    """
    if value is None:
        return []
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [tag for part in parts if (tag := str(part).strip())]
