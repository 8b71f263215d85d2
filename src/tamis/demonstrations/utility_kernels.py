"""From measured utilities to kernels: the pairs of the signal `utility`, scaled, as facility location reads them.

Rows are represented (queries) and candidates (demonstrations) alike: row i of the kernel is what candidates are worth
to row `places[i]` of the pool, column j what candidate `places[j]` is worth to others. Pairs not measured count 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tamis.errors import DataError
from tamis.values import Reason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.kernels import Sparse
    from tamis.views import PoolView

Distance = Literal["norm", "pmi"]
Shape = Literal["clip", "min-max", "exponential"]
Other = Literal["target", "shown"]


@dataclass(frozen=True)
class Found:
    """Utilities (p,) float64 of pairs by number: `rows` (p,) of queries, `columns` (p,) of demonstrations."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    def highest(self, by: Literal["rows", "columns"], count: int) -> NDArray[np.float64]:
        """(count,) highest utility of every query or demonstration; 0 without a pair, and where all are below."""
        import numpy as np

        best = np.zeros(count)
        np.maximum.at(best, self.rows if by == "rows" else self.columns, self.values)
        return best

    def kernel(self, count: int) -> Sparse:
        """The kernel (count, count) of what is above 0."""
        import numpy as np

        from tamis.submodular.kernels import Sparse

        above = self.values > 0
        rows, columns, values = self.rows[above], self.columns[above], self.values[above]
        order = np.lexsort((columns, rows))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
        return Sparse(starts, columns[order], values[order], count)


@dataclass(frozen=True)
class Utilities:
    """`places` (m,) of the rows that take part, ascending; `reasons` (n,) why others do not; pairs within the pool."""

    places: NDArray[np.int64]
    reasons: NDArray[np.uint8]
    inside: Found
    other: Found | None


def utilities(view: PoolView, distance: Distance, other: Other | None, who: str) -> Utilities:
    """Utilities as measured: how much a demonstration brings a query nearer to its response.

    `norm`: d(i) - d(i | j), distances of probabilities from 1; `pmi`: log p(y_i | j) - log p(y_i), in nats, with the
    Kullback-Leibler divergence for d (DELIFT, Theorem 1). `other`: pairs with the target's queries, or with
    demonstrations of the other side. DataError where those were not measured, or no usable row has a utility.
    """
    import numpy as np

    keys, reasons = _whole(view, "key", who), _whole(view, "reason", who).astype(np.uint8)
    lengths = view.signal("lengths", "reason")
    reasons = np.where(view.usable, reasons, np.where(lengths > 0, lengths, Reason.NOT_MEASURED)).astype(np.uint8)
    places = np.flatnonzero(reasons == 0)
    if not len(places):
        raise DataError(f"{who}: no usable row of the pool has a utility")
    name = "distance" if distance == "norm" else "nll"
    bare = _whole(view, f"bare_{name}", who).astype(np.float64)
    rows, pair, worth = _pairs(view, "", name, who)
    inside = _within(places, len(view), _Side(keys, np.arange(len(view)), bare), rows, pair, worth)
    found = None
    if other == "target":
        rows, pair, worth = _pairs(view, "target_", name, who)
        there = next(view.shards())["utility"]
        theirs = _Side(there["target_key"], np.arange(len(there["target_key"])), there[f"target_bare_{name}"])
        found = _queried(places, len(view), theirs, rows, pair, worth)
    elif other == "shown":
        rows, pair, worth = _pairs(view, "shown_", name, who)
        number = _numbers(places, len(view))[rows]
        kept = number >= 0
        gained = bare[rows] - worth
        found = Found(number[kept], np.zeros(int(kept.sum()), np.int64), gained[kept])
    return Utilities(places, reasons, inside, found)


def shaped(parts: Sequence[Found], shape: Shape, together: bool) -> list[Found]:
    """Utilities made non-negative: `clip` takes max(U, 0), the paper's kernel; `min-max` takes (U - min) / (max - min).

    `exponential` is min-max of exp(U). `together`: one minimum and maximum for all parts; otherwise each has its own,
    as in DELIFT's released code.
    """
    import numpy as np

    raw = [np.exp(part.values) if shape == "exponential" else part.values for part in parts]
    if shape == "clip":
        scaled = [np.maximum(values, 0) for values in raw]
    else:
        whole = [np.concatenate(raw)] * len(raw) if together else raw
        bounds = [(float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))) for values in whole]
        scaled = [(values - low) / max(high - low, 1e-12) for values, (low, high) in zip(raw, bounds, strict=True)]
    return [Found(part.rows, part.columns, values) for part, values in zip(parts, scaled, strict=True)]


@dataclass(frozen=True)
class _Side:
    """Queries that pairs name by key: `number` (q,) of each, `bare` (q,) distance without an example."""

    keys: NDArray[np.uint64]
    number: NDArray[np.int64]
    bare: NDArray[Any]


def _whole(view: PoolView, array: str, who: str) -> NDArray[Any]:
    for shard in view.shards():
        if array not in shard["utility"]:
            raise DataError(
                f"{who} reads {array!r} of the signal utility, which its pass did not measure: give pass and selector "
                "the same stage"
            )
    return view.signal("utility", array)


def _pairs(
    view: PoolView, prefix: str, name: str, who: str
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
    """Place in the pool, key of the other row, and the measure with the example, of every pair."""
    import numpy as np

    keys = _whole(view, f"{prefix}pair", who)
    counts = np.concatenate([np.diff(shard["utility"][f"{prefix}pair_offsets"]) for shard in view.shards()])
    return np.repeat(np.arange(len(view)), counts), keys, view.signal("utility", f"{prefix}{name}").astype(np.float64)


def _numbers(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    import numpy as np

    numbers = np.full(count, -1, np.int64)
    numbers[places] = np.arange(len(places))
    return numbers


def _queried(
    places: NDArray[np.int64],
    count: int,
    side: _Side,
    rows: NDArray[np.int64],
    pair: NDArray[np.uint64],
    worth: NDArray[np.float64],
) -> Found:
    """Pairs of demonstrations of the pool (by place) with the queries of a side (by key)."""
    import numpy as np

    order = np.argsort(side.keys, kind="stable")
    at = order[np.minimum(np.searchsorted(side.keys[order], pair), max(0, len(order) - 1))] if len(pair) else rows
    known = side.keys[at] == pair
    columns = _numbers(places, count)[rows]
    gained = np.asarray(side.bare, np.float64)[at] - worth
    kept = known & (columns >= 0) & np.isfinite(gained)
    return Found(side.number[at][kept], columns[kept], gained[kept])


def _within(
    places: NDArray[np.int64],
    count: int,
    side: _Side,
    rows: NDArray[np.int64],
    pair: NDArray[np.uint64],
    worth: NDArray[np.float64],
) -> Found:
    """Pairs within the pool whose both rows take part."""
    found = _queried(places, count, side, rows, pair, worth)
    numbers = _numbers(places, count)[found.rows]
    kept = numbers >= 0
    return Found(numbers[kept], found.columns[kept], found.values[kept])
