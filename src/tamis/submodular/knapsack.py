"""The guard of greedy by gain a token: a large candidate can be worth more than all that greedy bought instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.submodular.walk import Path, Walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective


def guarded(
    walk: Walk, alone: NDArray[np.float64], objective: Objective, limit: Limit, how: Maximiser
) -> tuple[Walk, tuple[str, ...]]:
    """The walk, or under a limit of tokens the one that begins with the best single candidate, if it ends higher.

    `alone`: (n,) value of every candidate alone. Greedy by gain a token has no share of the best by itself; the better
    of it and the best single candidate has (1 - 1/e) / 2 (Khuller et al., 1999). What the single one leaves is filled
    by greedy as well.
    """
    import numpy as np

    from tamis.submodular.greedy import fill

    if limit.tokens is None:
        return walk, ()
    able = np.flatnonzero(walk.cost <= limit.most)
    if not len(able):
        return walk, ()
    best = int(able[np.argmax(alone[able])])
    if alone[best] <= walk.path.value:
        return walk, ()
    other = Walk(objective, limit, Path(objective, limit.most))
    other.upper[:] = alone
    other.stamp[best] = 0
    other.take(best)
    fill(other, able, objective, how)
    other.path.evaluations += walk.path.evaluations
    return other, (f"the guard of token budgets began with the best single row, of {walk.cost[best]} tokens",)
