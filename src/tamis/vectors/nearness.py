"""How near rows of a pool are to those of a target, by gradients or by hidden states, and which rows repeat others.

Shared by the selectors that decide on a matrix of similarities, rows by queries: every column is a row of the target,
or a task where influence was measured by task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tamis.errors import DataError
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Subset
    from tamis.views import PoolView

By = Literal["influence", "rds"]
Duplicates = Literal["once", "keep"]
POOLED = (("loss", "none"), ("pooled", True))
_ROUND = 12  # digits of a share of mass, relative to the largest: sums do not depend on the order of rows beyond


@dataclass(frozen=True)
class Nearness:
    """`scores` (n, q) float32, cosines in [-1, 1]; NaN in all of a row that is no candidate, for the `reasons` (n,)."""

    scores: NDArray[np.float32]
    reasons: NDArray[np.uint8]

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Places of the rows that may be chosen, in order."""
        import numpy as np

        return np.flatnonzero(self.reasons == 0)


def needs_of(by: By) -> frozenset[Need]:
    """The signal that similarities are read from, and the lengths of rows."""
    lengths = Need(kind="signal", name="lengths")
    if by == "influence":
        return frozenset({Need(kind="signal", name="influence"), lengths})
    sides: tuple[Literal["pool", "target"], ...] = ("pool", "target")
    return frozenset({*[Need(kind="signal", name="tokens", side=side, settings=POOLED) for side in sides], lengths})


def nearness(view: PoolView, by: By, duplicates: Duplicates, who: str) -> Nearness:
    """Similarity of every usable row to every query; with duplicates `once`, only the first row of equal text has one.

    Raises DataError where the influence was measured in products of gradients, which know no distance, or the target
    has no vectors. `who` names the selector in errors.
    """
    import numpy as np

    scores = _influence(view, who) if by == "influence" else _hidden_states(view, who)
    scores = scores.copy()
    known = np.isfinite(scores).all(axis=1)
    measured = view.signal("influence", "reason") if by == "influence" else view.signal("lengths", "reason")
    reasons = np.where(view.usable, measured, view.signal("lengths", "reason")).astype(np.uint8)
    reasons[(reasons == 0) & ~(known & view.usable)] = Reason.NOT_MEASURED
    if duplicates == "once":
        reasons[repeats(view, reasons == 0)] = Reason.DUPLICATE
    scores[reasons > 0] = np.nan
    if (reasons > 0).all():
        raise DataError(f"{who}: no usable row of the pool has a similarity to the target")
    return Nearness(scores, reasons)


def _influence(view: PoolView, who: str) -> NDArray[np.float32]:
    import numpy as np

    for shard in view.shards():
        if "unit" in shard["influence"]:
            raise DataError(
                f"{who} turns cosines into distances, and this influence is a product of gradients: measure it with a "
                "profile whose similarity is the cosine (recommended, less-official)"
            )
    return view.signal("influence", "scores").astype(np.float32)


def _hidden_states(view: PoolView, who: str) -> NDArray[np.float32]:
    import numpy as np

    from tamis.vectors.index import similarities

    if view.target is None:
        raise DataError(f"{who} has no target: name target files in the recipe, or give --target")
    vectors = view.target.signal("tokens", "pooled").astype(np.float32)
    good = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not good.any():
        raise DataError("no row of the target has hidden states; every target row was refused by the model's pass")
    if vectors.shape[1] != view.signal("tokens", "pooled").shape[1]:
        raise DataError(f"{who} compares embeddings of the pool with those of the target: both must be of one model")
    return similarities(view.signal("tokens", "pooled"), vectors[good], np.arange(int(good.sum()), dtype=np.int64))


def repeats(view: PoolView, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) rows of `among` whose text (digest `content`) stands in a row of `among` before, or was chosen already."""
    import numpy as np

    table = view.pool.table(["content"])
    texts = table.column("content").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    places = np.flatnonzero(among)
    again = among.copy()
    again[places[np.unique(texts[places], return_index=True)[1]]] = False
    if len(view.existing):
        again |= among & np.isin(texts, texts[np.asarray(view.existing, np.int64)])
    return again


def nearest_first(scores: NDArray[np.float32], limit: int) -> Iterator[NDArray[np.int64]]:
    """For every query, the places of its `limit` nearest rows, nearest first; ties go to the lower place."""
    import numpy as np

    from tamis.budgets import order_of

    for query in range(scores.shape[1]):
        values = scores[:, query]
        known = np.isfinite(values)
        if int(known.sum()) > 4 * limit:  # sort only what can be among the nearest
            least = np.partition(values[known], int(known.sum()) - limit)[int(known.sum()) - limit]
            known &= values >= least
        yield order_of(values, known, high=True)[:limit]


def subset_by_mass(view: PoolView, budget: Budget, near: Nearness, mass: NDArray[np.float64], unit: str) -> Subset:
    """Rows by the mass (n,) that they were given, most first; on equal mass the nearest to a query, then the lower."""
    import numpy as np

    from tamis.budgets import pick

    places = near.candidates
    share = np.round(mass[places] / max(float(mass[places].max()), np.finfo(np.float64).tiny), _ROUND)
    order = places[np.lexsort((places, -near.scores[places].max(axis=1), -share))]
    values = np.full(len(view), np.nan)
    values[places] = mass[places]
    return pick(view, order, budget, values, unit=unit, reasons=near.reasons)
