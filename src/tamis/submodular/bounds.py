"""How far a set can be from the best: bounds that hold for the data of this run (Leskovec et al., 2007, §3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.walk import Walk

ROUNDS = 4


def most_of(gains: NDArray[np.float64], cost: NDArray[np.int64], most: int) -> tuple[float, NDArray[np.int64]]:
    """The largest sum of gains that fits `most`, the last candidate in part, and the indices that make it up.

    `gains`, `cost`: (m,). For a monotone submodular f and any set O within the limit, f(O) <= f(S) + the sum over O
    of gains at S, hence at most f(S) + this.
    """
    import numpy as np

    if cost.size and cost.max() == 1 and len(gains) > 4 * most:
        able = np.argpartition(-gains, most)[:most]
    else:
        able = np.flatnonzero((gains > 0) & (cost <= most))
    order = able[np.argsort(-gains[able] / cost[able], kind="stable")]
    spent = np.cumsum(cost[order])
    head = order[: int(np.searchsorted(spent, most)) + 1]
    shares = np.ones(len(head))
    if len(head) and spent[len(head) - 1] > most:
        shares[-1] = (most - (spent[len(head) - 2] if len(head) > 1 else 0)) / cost[head[-1]]
    return float((np.maximum(gains[head], 0) * shares).sum()), head


def bound_at(walk: Walk, most: int) -> float:
    """f(S) + the largest sum of gains at S that fits `most`: no set within the limit has a larger value.

    Gains that may take part are measured anew until all that do are known at S; gains never grow, so the others cannot.
    """
    import numpy as np

    rest = np.flatnonzero(~walk.taken)
    rest = rest[walk.cost[rest] <= most]
    walk.measure(rest[np.isinf(walk.upper[rest])])
    for _ in range(ROUNDS):
        total, head = most_of(walk.upper[rest], walk.cost[rest], most)
        stale = head[walk.stamp[rest[head]] != len(walk)]
        if not len(stale):
            return walk.state.value + total
        walk.measure(rest[stale])
    walk.measure_all(rest[walk.upper[rest] > 0])
    return walk.state.value + most_of(walk.upper[rest], walk.cost[rest], most)[0]
