"""Threshold greedy (Badanidiyuru & Vondrak, 2014): what gains a threshold is taken, and the threshold falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tamis.submodular.front import FIRST, LAST
from tamis.submodular.greedy import fill, finished
from tamis.submodular.knapsack import guarded
from tamis.submodular.walk import Path, Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective, Picks


def sweep(
    path: Path,
    rows: NDArray[np.int64],
    upper: NDArray[np.float64],
    cost: NDArray[np.int64],
    bar: Callable[[Path], float],
) -> None:
    """Go through `rows` (m,) once, in order, and take each that fits and gains at least `bar` a token.

    `upper` (m,), bounds on gains, is brought up to date in place (-inf where taken). The bar does not rise as S grows,
    unless to inf: then no more is taken.
    """
    import numpy as np

    start, size = 0, FIRST
    while start < len(rows) and path.left:
        if math.isinf(bound := bar(path)):
            return
        some = np.arange(start, min(start + size, len(rows)))
        some = some[(upper[some] / cost[some] >= bound) & (cost[some] <= path.left)]
        upper[some] = path.gains(rows[some])
        hits = some[upper[some] / cost[some] >= bound]
        if not len(hits):
            start, size = start + size, min(2 * size, LAST)
            continue
        hit = int(hits[0])
        path.put(int(rows[hit]), float(upper[hit]), int(cost[hit]))
        upper[hit] = -np.inf
        start, size = hit + 1, FIRST


def threshold(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """Falling thresholds; see `Maximiser`. What the last threshold leaves of the limit is filled by lazy greedy."""
    import numpy as np

    walk = Walk(objective, limit)
    rows = np.arange(len(objective))
    walk.measure(rows)
    alone = walk.upper.copy()
    able = walk.fitting(rows)
    highest = float((alone[able] / walk.cost[able]).max()) if len(able) else 0.0
    bar = highest
    while walk.path.left and bar > how.epsilon * highest / limit.most and bar > 0:
        able = walk.fitting(rows)
        able = able[walk.upper[able] / walk.cost[able] >= bar]
        upper = walk.upper[able]
        sweep(walk.path, able, upper, walk.cost[able], lambda _, bar=bar: bar)  # type: ignore[misc]
        walk.upper[able] = upper
        walk.taken[walk.path.order] = True
        bar *= 1 - how.epsilon
    fill(walk, rows, objective, how)
    walk, notes = guarded(walk, alone, objective, limit, how)
    return finished(walk, alone, objective, limit, notes=notes)
