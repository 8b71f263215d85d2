"""How far a set can be from the best: bounds that hold for the data of this run (Leskovec et al., 2007, §3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.walk import Walk

ROUNDS = 4


def head_of(keys: NDArray[np.float64], cost: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Indices of the highest keys (m,), ties to the lower, as few as have costs (m,) that add up to `most` or more."""
    import numpy as np

    order = np.argsort(-keys, kind="stable")
    return order[: int(np.searchsorted(np.cumsum(cost[order]), most)) + 1]


def most_of(gains: NDArray[np.float64], cost: NDArray[np.int64], most: int) -> tuple[float, NDArray[np.int64]]:
    """The largest sum of gains that fits `most`, the last candidate in part, and the indices that make it up.

    `gains`, `cost`: (m,). For a monotone submodular f and any set O within the limit, f(O) <= f(S) + the sum over O
    of gains at S, hence at most f(S) + this.
    """
    import numpy as np

    able = np.flatnonzero((gains > 0) & (cost <= most))
    if len(able) > 4 * most and cost.max() == 1:
        able = able[np.argpartition(-gains[able], most)[:most]]
    head = able[head_of(gains[able] / cost[able], cost[able], most)]
    spent = int(cost[head].sum())
    whole = float(gains[head].sum())
    if spent > most:
        whole -= float(gains[head[-1]]) * (spent - most) / int(cost[head[-1]])
    return whole, head


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
            return walk.path.value + total
        walk.measure(rest[stale])
    walk.measure_all(rest[walk.upper[rest] > 0])
    return walk.path.value + most_of(walk.upper[rest], walk.cost[rest], most)[0]
