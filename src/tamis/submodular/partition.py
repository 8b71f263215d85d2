"""Partition and merge (GreeDi: Mirzasoleiman et al., 2013): greedy on parts, then greedy on what the parts chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tamis.submodular.greedy import fill, finished
from tamis.submodular.knapsack import guarded
from tamis.submodular.walk import Walk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tamis.submodular.maximise import Limit, Maximiser
    from tamis.submodular.objective import Objective, Picks


def partition(objective: Objective, limit: Limit, how: Maximiser) -> Picks:
    """GreeDi over random parts; see `Maximiser`.

    A part is greedy's whole world while it is walked, and f is that of all candidates throughout. Random parts give
    (1 - 1/e) / 2 of the best in expectation (Barbosa et al., 2015).
    """
    import numpy as np

    alone = np.empty(len(objective))
    walks = [_walk_part(part, alone, objective, limit, how) for part in _parts(len(objective), how)]
    chosen = np.unique(np.concatenate([np.array(walk.path.order, np.int64) for walk in walks]))
    merged = Walk(objective, limit)
    merged.upper[:] = alone
    fill(merged, chosen, objective, how)
    everyone = [merged, *walks]
    best = max(everyone, key=lambda walk: walk.path.value)
    best.path.evaluations = sum(walk.path.evaluations for walk in everyone)
    unknown = best.stamp < 0
    best.upper[unknown] = alone[unknown]
    fill(best, np.arange(len(objective)), objective, how)
    which = "what they chose" if best is merged else "one of them, worth more than what all chose"
    notes = (f"{len(walks)} random parts (seed {how.seed}), each by greedy, then {which}",)
    best, said = guarded(best, alone, objective, limit, how)
    return finished(best, alone, objective, limit, notes=(*notes, *said))


def _parts(size: int, how: Maximiser) -> list[NDArray[np.int64]]:
    """Candidates of every part, ascending; parts differ in size by at most one."""
    import numpy as np

    bits = np.random.Philox(key=how.seed % 2**64).random_raw(size)
    shuffled = np.argsort(bits, kind="stable")
    parts = min(how.parts, max(size, 1))
    return [np.sort(shuffled[part::parts]) for part in range(parts)]


def _walk_part(
    rows: NDArray[np.int64], alone: NDArray[np.float64], objective: Objective, limit: Limit, how: Maximiser
) -> Walk:
    walk = Walk(objective, limit)
    walk.measure(rows)
    alone[rows] = walk.upper[rows]
    fill(walk, rows, objective, how)
    return walk
