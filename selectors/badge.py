"""BADGE: rows of large and different gradients, by k-means++ (Ash et al., ICLR 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tamis.errors import DataError
from tamis.values import Need, Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.values import Budget, Machine, Subset
    from tamis.vectors.distances import Spread
    from tamis.views import PoolView


@dataclass(frozen=True, kw_only=True)
class Badge:
    """BADGE: rows of large and different gradients, drawn as k-means++ seeds are (Ash et al., 2020).

    The row of the longest gradient comes first; each next row is drawn with a probability in proportion to its squared
    distance to the nearest row picked so far (rows chosen before, `existing`, count as picked). Draws are functions of
    `seed`, row key and step: the order of the pool does not matter.

    Reads a gradient store (pass `gradients`; raw gradients as by `profile: tracin`, `dim` of 1,024 to 8,192 a
    checkpoint). Two departures from the paper, which speaks of classifiers and unlabelled rows: gradients are those of
    the adapter's weights, projected, not of the last layer, and they are taken at the answers of the pool, not at the
    model's own guesses. `length`: `whole` (the paper), or `unit` for gradients of length 1, where short answers, whose
    mean losses have the longest gradients, have no advantage.

    A gain is the distance that a row was drawn on, the first row's that of the row farthest from it. Under a token
    budget a step passes over what no longer fits. Time O(k n d); memory: the decoded store, 4 n d bytes, d the numbers
    of all checkpoints together.
    """

    revision: ClassVar[int] = 1
    nested: ClassVar[bool] = True

    length: Literal["whole", "unit"] = "whole"
    seed: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        """A gradient store of the pool, and the lengths of rows."""
        return frozenset({Need(kind="signal", name="gradients"), Need(kind="signal", name="lengths")})

    def select(self, view: PoolView, budget: Budget, on: Machine, /) -> Subset:
        """At most `budget` of the usable rows, in the order drawn; a gain is a distance."""
        import numpy as np

        from tamis.budgets import fill, pick
        from tamis.draws import of_keys

        measured = view.signal("gradients", "reason").astype(np.uint8)
        reasons = np.where(view.usable, measured, view.signal("lengths", "reason")).astype(np.uint8)
        reasons[(reasons == 0) & ~view.usable] = Reason.NOT_MEASURED
        places = np.flatnonzero(reasons == 0)
        if not len(places):
            raise DataError("badge: no usable row of the pool has a gradient")
        fill(places, budget, view.cost)  # an error where the budget buys not even the smallest row
        before = np.array([place for place in view.existing if measured[place] == 0], np.int64)
        limit, tokens = budget.limits(int(view.usable.sum()))
        found = drawn_by_distance(
            self._gradients(view, places),
            self._gradients(view, before),
            of_keys(view, self.seed)[places],
            np.ones(len(places), np.int64) if tokens is None else view.cost[places],
            limit if tokens is None else tokens,
        )
        values = np.full(len(view), np.nan)
        values[places] = found.distances
        values[places[found.order]] = found.gains
        return pick(view, places[found.order], budget, values, unit="distance", reasons=reasons)

    def _gradients(self, view: PoolView, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, d) gradients of rows, given by ascending places, the checkpoints side by side."""
        import numpy as np

        from tamis.gradient.store import read_rows

        parts = []
        for start, shard in zip(view.pool.starts[:-1], view.shards(), strict=True):
            inside = places[(places >= start) & (places < start + len(shard))] - start
            parts.append(read_rows(shard["gradients"], inside, lengths=self.length == "whole"))
        return np.concatenate(parts)


def drawn_by_distance(
    vectors: NDArray[np.float32],
    centres: NDArray[np.float32],
    bits: NDArray[np.uint64],
    costs: NDArray[np.int64],
    limit: int | None,
) -> Spread:
    """Seeding of k-means++ over (m, d) vectors, from `centres` (e, d), while `costs` (m,) add up to `limit`.

    `bits` (m,) are the rows' own random bits. Without centres the longest vector comes first. Rows equal to one drawn
    come last, the lower place first.
    """
    from tamis.vectors.distances import spread

    return spread(
        vectors,
        centres,
        costs,
        limit,
        lambda lengths, rows: int(rows[lengths[rows].argmax()]),
        lambda nearest, rows, step: _draw(nearest, rows, bits, step),
    )


def _draw(weights: NDArray[np.float64], rows: NDArray[np.int64], bits: NDArray[np.uint64], step: int) -> int:
    """One of `rows` with a probability in proportion to its weight: the first to ring of clocks with these rates."""
    import numpy as np

    from tamis.draws import at, uniform

    rates = weights[rows]
    if not rates.any():
        return int(rows[0])
    waits = -np.log1p(-uniform(at(bits[rows], step)))
    return int(rows[np.argmin(np.divide(waits, rates, out=np.full(len(rows), np.inf), where=rates > 0))])
