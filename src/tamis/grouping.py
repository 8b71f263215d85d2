"""Groups of rows, what mixers and selectors call `by`: a field of the row, a column, or clusters of embeddings.

Forms: `source`, `kind`, `file`; `meta.NAME`, a field of meta; `clusters:K`, K clusters of the embeddings; anything else
is a column, by full or unambiguous short name. Groups are named by text; "" holds the rows that have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tamis.errors import RecipeError
from tamis.values import Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Arrays
    from tamis.vectors.clusters import Clusters
    from tamis.views import PoolView

FIELDS = ("source", "kind", "file")
FEW = 20  # a column of at most so many different values is taken as it is
BANDS = 10
CLUSTERS = "clusters:"
HOW = "use source, kind, file, meta.NAME, clusters:K or a column"


def needs_of(by: str, side: Literal["pool", "target"] = "pool") -> frozenset[Need]:
    """What `by` reads of that side beyond the rows: a column, or pooled hidden states for clusters.

    Raises RecipeError for `clusters:` without a whole number of at least 2, and for a column of the target, which has
    none.
    """
    from tamis.vectors import embeddings

    if by in FIELDS or by.startswith("meta."):
        return frozenset()
    if by.startswith(CLUSTERS):
        clusters_of(by)
        return frozenset(
            Need(kind="signal", name="tokens", side=side, settings=need.settings)
            for need in embeddings.needs_of()
            if need.name == "tokens"
        )
    if side == "target":
        raise RecipeError(f"cannot group a target by {by!r}, for it has no columns: {HOW.replace(' or a column', '')}")
    return frozenset({Need(kind="column", name=by)})


def clusters_of(by: str) -> int:
    """K of `clusters:K`; RecipeError where it is not a whole number of at least 2."""
    text = by.removeprefix(CLUSTERS)
    if not text.isdecimal() or int(text) < 2:
        raise RecipeError(f"cannot group by {by!r}: write clusters:K with a whole number K of at least 2")
    return int(text)


def groups_of(view: PoolView, by: str) -> NDArray[np.str_]:
    """(n,) group of every row, usable or not. RecipeError where `by` names nothing, or its signal was not measured."""
    import numpy as np

    if by in FIELDS:
        return np.array(view.pool.table([by]).column(by).to_pylist(), dtype=np.str_)
    if by.startswith("meta."):
        return _by_meta(view, by.removeprefix("meta."))
    if by.startswith(CLUSTERS):
        return _by_cluster(view, clusters_of(by))
    try:
        column = view.column(by)
    except RecipeError as error:
        raise RecipeError(f"cannot group by {by!r}: {HOW}; {error}") from error
    return named_bands(column.values)


def _by_meta(view: PoolView, name: str) -> NDArray[np.str_]:
    import json

    import numpy as np

    texts = view.pool.table(["meta"]).column("meta").to_pylist()
    return np.array([str(json.loads(text).get(name) or "") for text in texts], dtype=np.str_)


def named_bands(values: NDArray[np.float32]) -> NDArray[np.str_]:
    """(n,) names for values: each value itself where there are at most 20, else ten bands of about equal counts.

    A band is named `07: 1.5 to 2.25`, its least and greatest value; equal values are always in one band, so there may
    be fewer than ten. "" where a value is NaN. All rows count, whatever may be chosen of them.
    """
    import numpy as np

    known = np.isfinite(values)
    different, numbers = np.unique(values[known], return_inverse=True)
    if len(different) > FEW:
        edges = np.quantile(values[known].astype(np.float64), np.arange(1, BANDS) / BANDS)
        bands = np.searchsorted(np.unique(edges), different.astype(np.float64), side="left")
        names = {band: f"{band + 1:02d}: {_said(different[bands == band])}" for band in np.unique(bands).tolist()}
        labels = [names[band] for band in bands.tolist()]
    else:
        labels = [_plain(value) for value in different]
    answer = np.full(len(values), "", dtype=f"<U{max([1, *map(len, labels)])}")
    answer[known] = np.array([*labels, ""], dtype=answer.dtype)[numbers]
    return answer


def _said(inside: NDArray[np.float32]) -> str:
    return f"{inside[0]:.4g} to {inside[-1]:.4g}"


def _plain(value: np.float32) -> str:
    """The shortest text that reads as this float32, whole numbers without a point."""
    return str(value).removesuffix(".0")


def _by_cluster(view: PoolView, count: int) -> NDArray[np.str_]:
    """Clusters of all rows with an embedding, usable or not: those of `view.centres`, else found here."""
    import numpy as np

    from tamis.vectors.clusters import nearest

    vectors, ordered = _embedded(view, count)
    answer = np.full(len(view), "", dtype=f"<U{len('cluster-') + len(str(count))}")
    held = view.centres.get(f"{CLUSTERS}{count}")
    labels = nearest(vectors[ordered], held) if held is not None else _clustered(vectors[ordered], count).labels
    answer[ordered] = [f"cluster-{label:0{len(str(count - 1))}d}" for label in labels.tolist()]
    return answer


def _embedded(view: PoolView, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit embeddings (n, d), and the places of rows that have one, in the order of their keys, not of places."""
    import numpy as np

    from tamis.vectors.index import unit

    vectors = unit(view.signal("tokens", "pooled"))
    known = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    if not len(known):
        raise RecipeError(f"cannot group by {CLUSTERS}{count}: no row has an embedding")
    keys = np.array(view.pool.table(["key"]).column("key").to_pylist(), dtype=np.str_)[known]
    return vectors, known[np.argsort(keys, kind="stable")]


def _clustered(vectors: NDArray[np.float32], count: int) -> Clusters:
    from tamis.vectors.clusters import k_means

    return k_means(vectors, count)


@dataclass(frozen=True, kw_only=True)
class Centres:
    """The centres of `clusters:K` as something that is fitted on a pool, and stays while little of it is new."""

    revision: ClassVar[int] = 1
    count: int

    def fit(self, view: PoolView, /) -> tuple[Arrays, Mapping[str, Any]]:
        """`centres` (k, d) float32 of unit length."""
        vectors, ordered = _embedded(view, self.count)
        centres = _clustered(vectors[ordered], self.count).centres
        return {"centres": centres}, {"clusters": len(centres)}
