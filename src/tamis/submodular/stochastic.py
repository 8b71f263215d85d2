"""Stochastic greedy, "lazier than lazy" (Mirzasoleiman et al., 2015): each pick is the best of a random sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tamis.submodular.greedy import finished
from tamis.submodular.knapsack import guarded
from tamis.submodular.walk import Walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective, Picks


def stochastic(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """Stochastic greedy; see `Maximiser`. The draw of a step is a function of seed and step alone (Philox)."""
    import numpy as np

    rows = np.arange(len(objective))
    walk = Walk(objective, limit)
    alone = None
    picks = float(limit.most)
    if limit.tokens is not None:
        walk.measure(rows)
        alone = walk.upper.copy()
        picks = limit.most / float(walk.cost.mean())
    size = max(1, math.ceil(len(rows) / max(picks, 1.0) * math.log(1 / how.epsilon)))
    _walk(walk, rows, size, how)
    notes: tuple[str, ...] = (f"each pick is the best of {size} rows drawn from those left (seed {how.seed})",)
    if alone is not None:
        walk, said = guarded(walk, alone, objective, limit, how)
        notes += said
    return finished(walk, alone, objective, limit, notes=notes)


def _walk(walk: Walk, rows: NDArray[np.int64], size: int, how: Maximiser) -> None:
    import numpy as np

    while True:
        rows, drawn = _draw(walk, rows, size, how.seed)
        if not len(drawn):
            return
        walk.measure_all(drawn)
        best = int(drawn[np.argmax(walk.upper[drawn] / walk.cost[drawn])])
        if how.stop_at_negative and walk.upper[best] < 0:
            return
        walk.take(best)


def _draw(walk: Walk, rows: NDArray[np.int64], size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(`rows`, perhaps without those that no longer fit; `size` of those that fit, ascending, without replacement)."""
    import numpy as np

    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, len(walk)])
    if 2 * size < len(rows):
        places = ((bits.random_raw(2 * size) >> np.uint64(11)) * (2.0**-53 * len(rows))).astype(np.int64)
        _, first = np.unique(places, return_index=True)
        drawn = walk.fitting(rows[places[np.sort(first)]])[:size]
        if len(drawn) == size:
            return rows, np.sort(drawn)
    rows = walk.fitting(rows)
    if len(rows) <= size:
        return rows, rows
    return rows, np.sort(rows[np.argsort(bits.random_raw(len(rows)), kind="stable")[:size]])
