"""From preference to subset: orders with fixed ties, tasks that take turns, and budgets that are filled exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tamis.errors import RecipeError
from tamis.values import Budget, Subset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.views import PoolView

    Turns = Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]]


class BudgetTooSmall(RecipeError):
    """A token budget that buys not even the smallest row."""


def fill(
    order: NDArray[np.int64], budget: Budget, cost: NDArray[np.int64], *, of: int | None = None
) -> NDArray[np.int64]:
    """Take the rows of `order` (places, best first, all usable) that fit `budget`; `cost` (n,) is tokens by place.

    Rows and shares give a prefix; a share is one of `of` rows (default: those of `order`). A token budget is never
    exceeded: a row that does not fit is passed over, so that what is left at the end is smaller than the smallest row
    not taken. A token budget below the smallest row is a BudgetTooSmall.
    """
    import numpy as np

    rows, tokens = budget.limits(len(order) if of is None else of)
    if rows is not None:
        return order[:rows]
    assert tokens is not None
    costs = cost[order]
    if len(order) and tokens < costs.min():
        raise BudgetTooSmall(
            f"a budget of {tokens} tokens is smaller than the smallest usable row ({costs.min()} tokens); raise it"
        )
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


def order_of(values: NDArray[Any], usable: NDArray[np.bool_], *, high: bool) -> NDArray[np.int64]:
    """Usable, finite places by value, best first; ties go to the lower place (DESIGN §7). NaN is never ranked."""
    import numpy as np

    places = np.flatnonzero(usable & np.isfinite(values))
    keys = values[places].astype(np.float64)
    return places[np.argsort(-keys if high else keys, kind="stable")]


def round_robin(
    scores: NDArray[np.float32], usable: NDArray[np.bool_], rows: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let tasks take turns; each picks its best row not taken yet, until `rows` are picked or none is left.

    `scores` (n, K) by row and task, high is good. Returns places in the order picked and the score each was picked on.
    A row without a finite score for a task is invisible to that task; ties go to the lower place.
    """
    limit = len(scores) if rows is None else min(rows, len(scores))
    queues = [_best_first(scores[:, task], usable, limit) for task in range(scores.shape[1])]
    return take_turns(queues, limit)


def _best_first(values: NDArray[np.float32], usable: NDArray[np.bool_], limit: int) -> Iterator[tuple[int, float]]:
    """Yield (place, value), best first, as far as `limit`: beyond it a task need never look for a row not taken."""
    import numpy as np

    known = np.flatnonzero(usable & np.isfinite(values))
    if len(known) > 4 * limit > 0:  # sort only what can be among the best
        least = np.partition(values[known], len(known) - limit)[len(known) - limit]
        usable = usable & (values >= least)
    places = order_of(values, usable, high=True)[:limit]
    places = places.astype(np.int32 if len(values) < 2**31 else np.int64)  # one order a task is held at once
    for start in range(0, len(places), 4096):
        part = places[start : start + 4096]
        yield from zip(part.tolist(), values[part].tolist(), strict=True)


def take_turns(
    queues: Sequence[Iterator[tuple[int, float]]], rows: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Let queues of (place, score), best first, take turns; see `round_robin`."""
    import numpy as np

    picked: dict[int, float] = {}
    waiting = list(queues)
    while waiting and len(picked) < rows:
        for queue in list(waiting):
            if len(picked) == rows:
                break
            best = next((pair for pair in queue if pair[0] not in picked), None)
            if best is None:
                waiting.remove(queue)
            else:
                picked[best[0]] = best[1]
    return np.fromiter(picked, np.int64, len(picked)), np.fromiter(picked.values(), np.float32, len(picked))


def by_shares(
    groups: NDArray[np.int64], order: NDArray[np.int64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Put rows into an order of which every beginning holds the share of every group, as near as whole rows allow.

    `groups` (m,) numbers from 0; `order` (m,) places among them, best first, which each group keeps; `weights` by group
    (default: equal) are above 0. The t-th row of a group, from 0, comes at (t + 1/2) / weight, by the divisors of
    Sainte-Lague: shares never shrink as a budget grows, and a group that is used up leaves its part to the others. At
    equal places the larger group comes first, then the one with the higher number.
    """
    import numpy as np

    sizes = np.bincount(groups)
    labels = groups[order]
    sorted_by_group = np.argsort(labels, kind="stable")
    turns = np.empty(len(order), np.int64)
    turns[sorted_by_group] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    due = (turns + 0.5) / (np.ones(len(sizes)) if weights is None else weights)[labels]
    return order[np.lexsort((np.arange(len(order)), -labels, -sizes[labels], due))]


def order_for(view: PoolView, budget: Budget, turns: Turns) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As much of an order as `budget` needs. `turns(rows)` gives its first rows and what each was picked on.

    For a token budget the order grows until no row behind it could still fit, so the subset is that of the full order.
    """
    rows, tokens = budget.limits(int(view.usable.sum()))
    if rows is not None:
        return turns(rows)
    assert tokens is not None
    rows = 64 + int(2 * tokens / max(1.0, float(view.cost[view.usable].mean() if view.usable.any() else 1)))
    while True:
        order, picked_on = turns(rows)
        if len(order) < rows or _closed(view, order, budget):
            return order, picked_on
        rows *= 4


def _closed(view: PoolView, order: NDArray[np.int64], budget: Budget) -> bool:
    """Whether no usable row outside `order` fits into what a token budget leaves."""
    behind = view.usable.copy()
    behind[order] = False
    if not behind.any():
        return True
    try:
        spent = int(view.cost[fill(order, budget, view.cost)].sum())
    except BudgetTooSmall:
        return False
    return (budget.tokens or 0) - spent < int(view.cost[behind].min())


def pick(
    view: PoolView,
    order: NDArray[np.int64],
    budget: Budget,
    values: NDArray[Any],
    *,
    unit: str,
    gains: NDArray[Any] | None = None,
    reasons: NDArray[np.uint8] | None = None,
) -> Subset:
    """Make the subset that fills `budget` from `order`.

    `values` (n,) is the statistic every row was judged on, in `unit`; `gains` is (n,) by place (default: `values`);
    `reasons` (n,) says why a value is NaN (default: the reason why the row cannot be trained on).
    """
    import numpy as np

    positions = fill(order, budget, view.cost, of=int(view.usable.sum()))
    if reasons is None:
        reasons = np.where(np.isfinite(values), 0, view.signal("lengths", "reason"))
    return Subset(
        positions=positions,
        gains=(values if gains is None else gains)[positions].astype(np.float32),
        values=values.astype(np.float32),
        reasons=reasons.astype(np.uint8),
        unit=unit,
    )
