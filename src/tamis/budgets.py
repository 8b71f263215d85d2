"""Filling a budget from an order of preference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.errors import RecipeError
from tamis.values import Budget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fill(order: NDArray[np.int64], budget: Budget, cost: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `order` (places, best first, all usable) that fit `budget`; `cost` (n,) is tokens by place.

    Rows and shares give a prefix. A token budget is never exceeded: a row that does not fit is passed over, so that
    what is left at the end is smaller than the smallest row not taken.
    """
    import numpy as np

    rows, tokens = budget.limits(len(order))
    if rows is not None:
        return order[:rows]
    assert tokens is not None
    costs = cost[order]
    if len(order) and tokens < costs.min():
        raise RecipeError(f"a budget of {tokens} tokens is smaller than the smallest usable row ({costs.min()} tokens)")
    running = np.cumsum(costs)
    head = int(np.searchsorted(running, tokens, side="right"))
    taken = list(range(head))
    left = tokens - (int(running[head - 1]) if head else 0)
    rest = np.arange(head, len(order))
    while len(rest := rest[costs[rest] <= left]):
        taken.append(int(rest[0]))
        left -= int(costs[rest[0]])
        rest = rest[1:]
    return order[np.asarray(taken, dtype=np.int64)]


def order_of(values: NDArray[np.float32], usable: NDArray[np.bool_], *, high: bool) -> NDArray[np.int64]:
    """Usable, finite places by value, best first; ties go to the lower place (DESIGN §7). NaN is never ranked."""
    import numpy as np

    places = np.flatnonzero(usable & np.isfinite(values))
    keys = values[places].astype(np.float64)
    return places[np.argsort(-keys if high else keys, kind="stable")]
